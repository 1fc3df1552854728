//! X86_CPUID_POLICY: what CPU the guest saw.
//!
//! Source: `struct xen_cpuid_leaf` in `xen/include/public/arch-x86/xen.h` (24 bytes: leaf, subleaf,
//! EAX, EBX, ECX, EDX); meaning of the leaves as in the Intel SDM volume 2 and AMD APM volume 3;
//! hypervisor leaves as in `xen/include/public/arch-x86/cpuid.h`.

pub mod features;

use serde::{Serialize, Serializer};

use self::features::{FeatureWord, Register, WORDS};
use super::bits::bit_names;
use super::error::DecodeError;
use super::hex::Hex32;
use super::wire::{layout, parse_array};

/// `XEN_CPUID_NO_SUBLEAF`: the leaf has no subleaves.
pub const NO_SUBLEAF: u32 = 0xffff_ffff;

layout! {
    /// `struct xen_cpuid_leaf`: one leaf of the policy.
    pub struct CpuidLeaf = "CPUID leaf" {
        leaf: Hex32,
        /// [`NO_SUBLEAF`] where there are none; `null` in JSON.
        subleaf: Subleaf,
        eax: Hex32,
        ebx: Hex32,
        ecx: Hex32,
        edx: Hex32,
    }
}

/// A subleaf number or [`NO_SUBLEAF`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subleaf(pub u32);

impl Serialize for Subleaf {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.0 == NO_SUBLEAF { s.serialize_none() } else { s.serialize_u32(self.0) }
    }
}

impl super::wire::Wire for Subleaf {
    const SIZE: usize = 4;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, subleaf) = u32::parse(input)?;
        Some((rest, Subleaf(subleaf)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        self.0.emit(out);
    }
}

impl CpuidLeaf {
    /// One register of the leaf.
    pub fn register(&self, register: Register) -> u32 {
        match register {
            Register::Eax => self.eax.0,
            Register::Ebx => self.ebx.0,
            Register::Ecx => self.ecx.0,
            Register::Edx => self.edx.0,
        }
    }
}

/// The names of the features set in one register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureSet {
    /// Leaf, subleaf where there is one, and register, as in `7:0.ebx`.
    pub key: &'static str,
    /// Names, by bit; `bitN` for a bit without one.
    pub names: Vec<String>,
}

/// A decoded policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CpuidPolicy {
    /// Vendor string of leaf 0, as `GenuineIntel`.
    pub vendor: Option<String>,
    /// Family with the extended family added, from leaf 1.
    pub family: Option<u32>,
    /// Model with the extended model, from leaf 1.
    pub model: Option<u32>,
    /// Stepping, from leaf 1.
    pub stepping: Option<u32>,
    /// Processor name of leaves 0x80000002 to 0x80000004.
    pub brand: Option<String>,
    /// Highest basic leaf, as leaf 0 says.
    pub max_leaf: Option<Hex32>,
    /// Highest extended leaf, as leaf 0x80000000 says.
    pub max_extended_leaf: Option<Hex32>,
    /// Signature of leaf 0x40000000, as `XenVMMXenVMM`, where the policy has that leaf filled in.
    pub hypervisor: Option<String>,
    /// Features by register, registers without a bit set left out.
    #[serde(serialize_with = "as_map")]
    pub features: Vec<FeatureSet>,
    /// All leaves, in the order of the record.
    pub leaves: Vec<CpuidLeaf>,
}

fn as_map<S: Serializer>(features: &[FeatureSet], s: S) -> Result<S::Ok, S::Error> {
    s.collect_map(features.iter().map(|set| (set.key, &set.names)))
}

/// Family, model and stepping of a CPUID signature (leaf 1 EAX), by the rules for the extended
/// fields: the extended family counts only for family 15, the extended model only for families 6
/// (Intel) and 15.
pub fn family_model_stepping(signature: u32) -> (u32, u32, u32) {
    let base = signature >> 8 & 0xf;
    let family = if base == 0xf { base + (signature >> 20 & 0xff) } else { base };
    let low = signature >> 4 & 0xf;
    let model = if base == 0xf || base == 6 { (signature >> 16 & 0xf) << 4 | low } else { low };
    (family, model, signature & 0xf)
}

/// Printable ASCII of registers in order; NUL ends the text, other bytes become `.`.
fn text(registers: &[u32]) -> String {
    registers
        .iter()
        .flat_map(|r| r.to_le_bytes())
        .take_while(|b| *b != 0)
        .map(|b| if b == b' ' || b.is_ascii_graphic() { char::from(b) } else { '.' })
        .collect()
}

impl CpuidPolicy {
    /// Decodes the body of X86_CPUID_POLICY. An empty one is legal.
    ///
    /// # Errors
    /// [`DecodeError::NotMultiple`] where the length is not a multiple of 24.
    pub fn decode(blob: &[u8]) -> Result<CpuidPolicy, DecodeError> {
        let leaves: Vec<CpuidLeaf> = parse_array("CPUID leaves", blob, 0)?;
        let find = |leaf: u32, subleaf: u32| find(&leaves, leaf, subleaf);
        let basic = find(0, 0);
        let signature = find(1, 0).map(|l| family_model_stepping(l.eax.0));
        let extended = find(0x8000_0000, 0);
        let brand = [2u32, 3, 4]
            .iter()
            .map(|n| find(0x8000_0000 | n, 0).map(|l| [l.eax.0, l.ebx.0, l.ecx.0, l.edx.0]))
            .collect::<Option<Vec<_>>>()
            .map(|words| text(words.as_flattened()).trim().to_owned());
        let hypervisor = find(0x4000_0000, 0).map(|l| text(&[l.ebx.0, l.ecx.0, l.edx.0]));
        let features = WORDS.iter().filter_map(|word| feature_set(word, &leaves)).collect();
        Ok(CpuidPolicy {
            vendor: basic.map(|l| text(&[l.ebx.0, l.edx.0, l.ecx.0])),
            family: signature.map(|(family, ..)| family),
            model: signature.map(|(_, model, _)| model),
            stepping: signature.map(|(.., stepping)| stepping),
            brand: brand.filter(|name| !name.is_empty()),
            max_leaf: basic.map(|l| l.eax),
            max_extended_leaf: extended.map(|l| l.eax),
            hypervisor: hypervisor.filter(|name| !name.is_empty()),
            features,
            leaves,
        })
    }

    /// The leaf with this number; subleaf 0 also finds a leaf without subleaves.
    pub fn leaf(&self, leaf: u32, subleaf: u32) -> Option<&CpuidLeaf> {
        find(&self.leaves, leaf, subleaf)
    }

    /// Whether a feature is set, by its name.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|set| set.names.iter().any(|name| name == feature))
    }
}

fn find(leaves: &[CpuidLeaf], leaf: u32, subleaf: u32) -> Option<&CpuidLeaf> {
    leaves.iter().find(|l| l.leaf.0 == leaf && (l.subleaf.0 == subleaf || (subleaf == 0 && l.subleaf.0 == NO_SUBLEAF)))
}

fn feature_set(word: &FeatureWord, leaves: &[CpuidLeaf]) -> Option<FeatureSet> {
    let value = find(leaves, word.leaf, word.subleaf)?.register(word.register);
    (value != 0).then(|| FeatureSet { key: word.key, names: bit_names(value.into(), word.names) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::hex::Hex;
    use crate::decode::wire::Wire;
    use proptest::prelude::*;

    fn leaf(leaf: u32, subleaf: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> CpuidLeaf {
        CpuidLeaf {
            leaf: Hex(leaf),
            subleaf: Subleaf(subleaf),
            eax: Hex(eax),
            ebx: Hex(ebx),
            ecx: Hex(ecx),
            edx: Hex(edx),
        }
    }

    fn word(text: &[u8; 4]) -> u32 {
        u32::from_le_bytes(*text)
    }

    fn blob(leaves: &[CpuidLeaf]) -> Vec<u8> {
        let mut out = Vec::new();
        leaves.iter().for_each(|l| l.emit(&mut out));
        out
    }

    fn amd() -> Vec<CpuidLeaf> {
        let brand: [&[u8; 16]; 3] = [b"AMD EPYC 7543 32", b"-Core Processor\0", &[0; 16]];
        let mut leaves = vec![
            leaf(0, NO_SUBLEAF, [0xd, word(b"Auth"), word(b"cAMD"), word(b"enti")]),
            leaf(1, NO_SUBLEAF, [0x00a0_0f11, 0, 1 << 31 | 1, 1]),
            leaf(7, 0, [0, 1 << 5 | 1 << 22, 0, 0]),
            leaf(7, 1, [1 << 4, 0, 0, 0]),
            leaf(0x4000_0000, NO_SUBLEAF, [0x4000_0005, word(b"XenV"), word(b"MMXe"), word(b"nVMM")]),
            leaf(0x8000_0000, NO_SUBLEAF, [0x8000_0021, 0, 0, 0]),
        ];
        for (n, part) in brand.iter().enumerate() {
            let words: Vec<u32> = part.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
            leaves.push(leaf(0x8000_0002 + n as u32, NO_SUBLEAF, words.try_into().unwrap()));
        }
        leaves
    }

    #[test]
    fn identity_and_features() {
        let policy = CpuidPolicy::decode(&blob(&amd())).unwrap();
        assert_eq!(policy.vendor.as_deref(), Some("AuthenticAMD"));
        assert_eq!((policy.family, policy.model, policy.stepping), (Some(25), Some(1), Some(1)));
        assert_eq!(policy.brand.as_deref(), Some("AMD EPYC 7543 32-Core Processor"));
        assert_eq!(policy.hypervisor.as_deref(), Some("XenVMMXenVMM"));
        assert_eq!((policy.max_leaf, policy.max_extended_leaf), (Some(Hex(13)), Some(Hex(0x8000_0021))));
        assert!(policy.has("avx_vnni") && policy.has("fpu") && !policy.has("svm"));
        let json = serde_json::to_value(&policy).unwrap();
        assert_eq!(json["features"]["1.ecx"], serde_json::json!(["sse3", "hypervisor"]));
        assert_eq!(json["features"]["7:0.ebx"], serde_json::json!(["avx2", "bit22"]));
        assert!(json["features"].get("7:0.ecx").is_none());
        assert_eq!(json["leaves"][0]["subleaf"], serde_json::Value::Null);
        assert_eq!(json["leaves"][3]["subleaf"], 1);
        assert_eq!(policy.leaf(7, 1).unwrap().eax.0, 16);
        assert_eq!(blob(&policy.leaves), blob(&amd()));
    }

    #[test]
    fn extended_family_and_model_rules() {
        assert_eq!(family_model_stepping(0x0008_06f8), (6, 0x8f, 8));
        assert_eq!(family_model_stepping(0x0080_0f12), (23, 1, 2));
        assert_eq!(family_model_stepping(0x00ff_0551), (5, 5, 1));
        assert_eq!(family_model_stepping(u32::MAX), (270, 255, 15));
    }

    #[test]
    fn lengths() {
        let empty = CpuidPolicy::decode(&[]).unwrap();
        assert_eq!((empty.vendor, empty.leaves.len()), (None, 0));
        let whole = blob(&amd());
        for len in 0..whole.len() {
            let got = CpuidPolicy::decode(&whole[..len]);
            if len % 24 == 0 {
                assert_eq!(got.unwrap().leaves.len(), len / 24);
            } else {
                assert_eq!(
                    got,
                    Err(DecodeError::NotMultiple { what: "CPUID leaves", offset: 0, length: len, unit: 24 })
                );
            }
        }
    }

    proptest! {
        #[test]
        fn any_leaves_decode(leaves in proptest::collection::vec((prop_oneof![0u32..32, 0x4000_0000u32..0x4000_0002, 0x8000_0000u32..0x8000_0022], prop_oneof![Just(NO_SUBLEAF), 0u32..3], any::<[u32; 4]>()), 0..40)) {
            let leaves: Vec<_> = leaves.into_iter().map(|(l, s, regs)| leaf(l, s, regs)).collect();
            let policy = CpuidPolicy::decode(&blob(&leaves)).unwrap();
            prop_assert!(serde_json::to_string(&policy).is_ok());
            prop_assert_eq!(policy.leaves, leaves);
        }
    }
}
