//! A CPU policy of a host: leaves and MSRs in JSON as `dump` shows those of a stream, and read from that again.

use crate::decode::cpuid::{CpuidLeaf, CpuidPolicy, NO_SUBLEAF, Subleaf};
use crate::decode::hex::Hex;
use crate::decode::msr::{MsrEntry, decode_msrs};
use crate::hypervisor::CpuPolicy;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// A policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    /// CPUID.
    pub cpuid: CpuidPolicy,
    /// MSRs.
    pub msrs: Vec<MsrEntry>,
}

impl Policy {
    /// Decodes the bodies of the two records that carry one.
    ///
    /// # Errors
    /// A body that ends within an entry.
    pub fn decode(policy: &CpuPolicy) -> Result<Self, crate::decode::DecodeError> {
        Ok(Policy { cpuid: CpuidPolicy::decode(&policy.cpuid)?, msrs: decode_msrs(&policy.msrs)? })
    }
}

/// The part of the JSON form that is read: the rest follows from it.
#[derive(Deserialize)]
struct Written {
    cpuid: Leaves,
    msrs: Vec<WrittenMsr>,
}

#[derive(Deserialize)]
struct Leaves {
    leaves: Vec<WrittenLeaf>,
}

#[derive(Deserialize)]
struct WrittenLeaf {
    leaf: String,
    subleaf: Option<u32>,
    eax: String,
    ebx: String,
    ecx: String,
    edx: String,
}

#[derive(Deserialize)]
struct WrittenMsr {
    index: String,
    value: String,
    #[serde(default)]
    flags: Option<String>,
}

/// A number as it is written: in hexadecimal.
fn number<E: serde::de::Error>(text: &str) -> Result<u64, E> {
    let digits = text.strip_prefix("0x").unwrap_or_default();
    u64::from_str_radix(digits, 16).map_err(|_| E::custom(format!("{text:?} is no number in hexadecimal")))
}

fn word<E: serde::de::Error>(text: &str) -> Result<Hex<u32>, E> {
    u32::try_from(number::<E>(text)?).map(Hex).map_err(|_| E::custom(format!("{text} has more than 32 bits")))
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        let leaf = |leaf: WrittenLeaf| {
            Ok(CpuidLeaf {
                leaf: word(&leaf.leaf)?,
                subleaf: Subleaf(leaf.subleaf.unwrap_or(NO_SUBLEAF)),
                eax: word(&leaf.eax)?,
                ebx: word(&leaf.ebx)?,
                ecx: word(&leaf.ecx)?,
                edx: word(&leaf.edx)?,
            })
        };
        let leaves = written.cpuid.leaves.into_iter().map(leaf).collect::<Result<_, D::Error>>()?;
        let msr = |msr: WrittenMsr| {
            let flags = msr.flags.map_or(Ok(Hex(0)), |flags| word(&flags))?;
            Ok(MsrEntry { index: word(&msr.index)?, flags, value: Hex(number::<D::Error>(&msr.value)?) })
        };
        let msrs: Vec<MsrEntry> = written.msrs.into_iter().map(msr).collect::<Result<_, D::Error>>()?;
        if msrs.len() > 4096 {
            return Err(D::Error::custom("more MSRs than any policy has"));
        }
        Ok(Policy { cpuid: CpuidPolicy::of(leaves), msrs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::SaveDomain;
    use crate::hypervisor::sim::{SimConfig, SimDomain};

    #[test]
    fn what_is_written_is_read_again() {
        let guest = SimDomain::create(&SimConfig::small(1)).unwrap();
        let policy = Policy::decode(&guest.cpu_policy().unwrap()).unwrap();
        assert!(policy.cpuid.leaves.len() > 20 && policy.msrs.len() == 2);
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
        assert!(text.contains(r#""1.edx":["fpu""#), "{text}");
        for (good, bad) in [("\"0xce\"", "\"206\""), ("\"0xce\"", "\"0x1000000ce\"")] {
            let error = serde_json::from_str::<Policy>(&text.replace(good, bad)).unwrap_err().to_string();
            assert!(error.contains(bad.trim_matches('"')), "{error}");
        }
    }
}
