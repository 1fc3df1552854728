//! A simulated guest's whole state at one moment, to compare with and to tell what differs.

use std::fmt;

use super::domain::{NR_PARAMS, SimDomain};
use super::workload::hash::{mix, page_sum};
use crate::hypervisor::error::Result;
use crate::hypervisor::hvm_param;
use crate::hypervisor::types::{CpuPolicy, Page, Pfn, TscInfo, ZERO_PAGE};

/// Everything that makes the guest go on as it would have: memory, HVM context, parameters, TSC, policies, device model. What
/// belongs to the host is not in it: domain number, name, run state, dirty log, packets under way, grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The populated pages, ascending; those of zeros without contents.
    pages: Vec<(Pfn, Option<Box<Page>>)>,
    state: State,
}

/// Everything but memory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    context: Vec<u8>,
    params: [u64; NR_PARAMS],
    tsc: TscInfo,
    policy: CpuPolicy,
    device_model: Vec<u8>,
    xenstore: Vec<(String, String)>,
}

/// A checksum over each part of a state: what one process can tell another about it. Not cryptographic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Digest {
    /// Of which pfns have a page, and of the pages' contents.
    pub memory: u64,
    /// Of the HVM context, parameters, TSC and policies.
    pub vcpus: u64,
    /// Of the device model and its xenstore keys.
    pub devices: u64,
}

/// A difference between an expected and a found state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// A page that only one of the two has.
    Hole {
        /// The page.
        pfn: Pfn,
        /// Whether it is the found state that lacks it.
        missing: bool,
    },
    /// A page with other contents.
    Memory {
        /// The page.
        pfn: Pfn,
        /// The first byte that differs.
        offset: usize,
        /// What it should be.
        expected: u8,
        /// What it is.
        found: u8,
    },
    /// A blob with other contents or of another length.
    Blob {
        /// Which.
        part: &'static str,
        /// The first byte that differs, or the end of the shorter one.
        offset: usize,
        /// How long it should be.
        expected: usize,
        /// How long it is.
        found: usize,
    },
    /// A HVM parameter of another value.
    Param {
        /// Its index.
        index: usize,
        /// What it should be.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// Another TSC mode, frequency or count.
    Tsc {
        /// What it should be.
        expected: TscInfo,
        /// What it is.
        found: TscInfo,
    },
    /// Other xenstore keys of the device model.
    Xenstore {
        /// The first pair that differs.
        index: usize,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Hole { pfn, missing: true } => write!(f, "pfn {pfn:#x}: a page is missing"),
            Difference::Hole { pfn, missing: false } => write!(f, "pfn {pfn:#x}: a page where a hole should be"),
            Difference::Memory { pfn, offset, expected, found } => {
                write!(f, "pfn {pfn:#x}, offset {offset:#x}: {found:#04x} instead of {expected:#04x}")
            }
            Difference::Blob { part, offset, expected, found } => {
                write!(f, "{part}, offset {offset:#x}: differs ({found} bytes, {expected} expected)")
            }
            Difference::Param { index, expected, found } => {
                write!(f, "HVM parameter {index}: {found:#x} instead of {expected:#x}")
            }
            Difference::Tsc { expected, found } => {
                write!(f, "TSC: {found:?} instead of {expected:?}")
            }
            Difference::Xenstore { index } => {
                write!(f, "device model's xenstore pair {index} differs")
            }
        }
    }
}

impl SimDomain {
    /// Copies the guest's state. Allowed while running: the domain stands still between steps.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let copy = |page: &Page| (*page != ZERO_PAGE).then(|| Box::new(*page));
        let pages = self.pages().map(|(pfn, page)| (pfn, copy(page))).collect();
        Ok(Snapshot { pages, state: self.state_but_memory()? })
    }

    /// What of this guest's state is not as in `expected`, at most `limit` differences. Compares memory in place.
    pub fn diff(&self, expected: &Snapshot, limit: usize) -> Result<Vec<Difference>> {
        let state = self.state_but_memory()?;
        let memory = diff_memory(expected.pages(), self.pages());
        Ok(memory.chain(expected.state.diff(&state)).take(limit).collect())
    }

    /// Checksums of the guest's state, without copying its memory. Equal to those of a snapshot of it.
    pub fn digest(&self) -> Result<Digest> {
        Ok(self.state_but_memory()?.digest(self.pages()))
    }

    /// The same without the pages that a restore clears ([`hvm_param::names_cleared_page`]): what a guest and its copy have in
    /// common.
    pub fn digest_but_cleared(&self) -> Result<Digest> {
        let params = (0u64..).zip(&self.params);
        let cleared: Vec<Pfn> =
            params.filter(|&(index, _)| hvm_param::names_cleared_page(index)).map(|(_, &pfn)| pfn).collect();
        Ok(self.state_but_memory()?.digest(self.pages().filter(|(pfn, _)| !cleared.contains(pfn))))
    }

    fn pages(&self) -> impl Iterator<Item = (Pfn, &Page)> {
        self.memory.populated_pfns().filter_map(|pfn| Some((pfn, self.memory.page(pfn)?)))
    }

    fn state_but_memory(&self) -> Result<State> {
        let (mut context, mut device_model) = (Vec::new(), Vec::new());
        self.hvm.emit(&mut context)?;
        self.devices.emit(&mut device_model)?;
        Ok(State {
            context,
            params: self.params,
            tsc: self.tsc,
            policy: self.policy.clone(),
            device_model,
            xenstore: self.xenstore.clone(),
        })
    }
}

impl Snapshot {
    /// What of the state `found` is not as in this one, at most `limit` differences.
    pub fn diff(&self, found: &Snapshot, limit: usize) -> Vec<Difference> {
        let memory = diff_memory(self.pages(), found.pages());
        memory.chain(self.state.diff(&found.state)).take(limit).collect()
    }

    /// Checksums of the state.
    pub fn digest(&self) -> Digest {
        self.state.digest(self.pages())
    }

    /// The pfns at which the memory of the two states differs, ascending.
    pub fn differing_pfns(&self, found: &Snapshot) -> Vec<Pfn> {
        let pfn = |difference| match difference {
            Difference::Memory { pfn, .. } | Difference::Hole { pfn, .. } => Some(pfn),
            _ => None,
        };
        diff_memory(self.pages(), found.pages()).filter_map(pfn).collect()
    }

    fn pages(&self) -> impl Iterator<Item = (Pfn, &Page)> {
        self.pages.iter().map(|(pfn, page)| (*pfn, page.as_deref().unwrap_or(&ZERO_PAGE)))
    }
}

impl State {
    fn diff(&self, found: &State) -> impl Iterator<Item = Difference> {
        let blobs = [
            ("HVM context", &self.context, &found.context),
            ("CPUID policy", &self.policy.cpuid, &found.policy.cpuid),
            ("MSR policy", &self.policy.msrs, &found.policy.msrs),
            ("device model", &self.device_model, &found.device_model),
        ];
        let blobs = blobs.into_iter().filter_map(|(part, expected, found)| {
            let offset = first_difference(expected, found)?;
            Some(Difference::Blob { part, offset, expected: expected.len(), found: found.len() })
        });
        let params = self.params.iter().zip(&found.params).enumerate();
        let params = params
            .filter(|(_, (expected, found))| expected != found)
            .map(|(index, (&expected, &found))| Difference::Param { index, expected, found });
        let tsc = (self.tsc != found.tsc).then_some(Difference::Tsc { expected: self.tsc, found: found.tsc });
        let shorter = self.xenstore.len().min(found.xenstore.len());
        let pair = (0..shorter).find(|&i| self.xenstore.get(i) != found.xenstore.get(i));
        let pair = pair.or((self.xenstore.len() != found.xenstore.len()).then_some(shorter));
        let xenstore = pair.map(|index| Difference::Xenstore { index });
        blobs.chain(params).chain(tsc).chain(xenstore)
    }

    fn digest<'a>(&self, pages: impl Iterator<Item = (Pfn, &'a Page)>) -> Digest {
        let memory = pages.fold(0u64, |sum, (pfn, page)| sum.wrapping_add(mix(pfn)).wrapping_add(page_sum(pfn, page)));
        let blobs = [&self.context, &self.policy.cpuid, &self.policy.msrs];
        let vcpus = blobs.into_iter().fold(0, |sum, blob| bytes_digest(sum, blob));
        let TscInfo { mode, khz, nsec, incarnation, .. } = self.tsc;
        let words = [mode.into(), khz.into(), nsec, incarnation.into()];
        let vcpus = self.params.iter().chain(&words).fold(vcpus, |sum, &word| mix(sum ^ word));
        let strings = self.xenstore.iter().flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]);
        let devices = strings.fold(bytes_digest(0, &self.device_model), bytes_digest);
        Digest { memory, vcpus, devices }
    }
}

/// Walks two ascending sequences of pages side by side.
fn diff_memory<'a>(
    expected: impl Iterator<Item = (Pfn, &'a Page)>,
    found: impl Iterator<Item = (Pfn, &'a Page)>,
) -> impl Iterator<Item = Difference> {
    let (mut expected, mut found) = (expected.peekable(), found.peekable());
    std::iter::from_fn(move || {
        loop {
            let ahead = |other: Option<&(Pfn, &Page)>, pfn| other.is_none_or(|&(other, _)| pfn < other);
            if let Some((pfn, _)) = expected.next_if(|&(pfn, _)| ahead(found.peek(), pfn)) {
                return Some(Difference::Hole { pfn, missing: true });
            }
            if let Some((pfn, _)) = found.next_if(|&(pfn, _)| ahead(expected.peek(), pfn)) {
                return Some(Difference::Hole { pfn, missing: false });
            }
            let ((pfn, expected), (_, found)) = (expected.next()?, found.next()?);
            if let Some(offset) = first_difference(expected, found) {
                let byte = |page: &Page| page.get(offset).copied().unwrap_or(0);
                return Some(Difference::Memory { pfn, offset, expected: byte(expected), found: byte(found) });
            }
        }
    })
}

/// The first byte that differs; the end of the shorter one when that is all.
fn first_difference(expected: &[u8], found: &[u8]) -> Option<usize> {
    if expected == found {
        return None;
    }
    let shorter = expected.len().min(found.len());
    Some(expected.iter().zip(found).position(|(a, b)| a != b).unwrap_or(shorter))
}

fn bytes_digest(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(mix(start ^ bytes.len() as u64), |sum, &byte| mix(sum ^ u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::sim::SimConfig;
    use crate::hypervisor::{HvmParam, RestoreDomain};

    #[test]
    fn holes_are_told_on_either_side() {
        let page = &ZERO_PAGE;
        let pages = |pfns: &'static [Pfn]| pfns.iter().map(move |&pfn| (pfn, page));
        let differences: Vec<_> = diff_memory(pages(&[1, 2, 5, 9]), pages(&[2, 3, 9, 10])).collect();
        let hole = |pfn, missing| Difference::Hole { pfn, missing };
        assert_eq!(differences, [hole(1, true), hole(3, false), hole(5, true), hole(10, false)]);
    }

    #[test]
    fn every_part_of_the_state_is_compared_and_digested() {
        let fresh = || SimDomain::create(&SimConfig::small(1)).unwrap();
        let expected = fresh().snapshot().unwrap();
        let digest = expected.digest();
        assert_eq!(fresh().digest().unwrap(), digest);
        type Change = (&'static str, fn(&mut SimDomain));
        let changes: [Change; 8] = [
            ("pfn 0x0, offset 0x0: 0x01", |d| d.memory.toolstack_page(0).unwrap()[0] = 1),
            ("HVM context, offset", |d| d.hvm.advance_pmtimer(1)),
            ("HVM parameter 9: 0x1 instead of 0x0", |d| d.set_hvm_param(HvmParam { index: 9, value: 1 }).unwrap()),
            ("TSC: ", |d| d.tsc.nsec += 1),
            ("CPUID policy, offset 0x0", |d| d.policy.cpuid[0] ^= 1),
            ("MSR policy, offset 0x1f", |d| d.policy.msrs.truncate(31)),
            ("device model, offset", |d| d.devices.registers[3] = 9),
            ("device model's xenstore pair 2", |d| d.xenstore.truncate(2)),
        ];
        for (text, change) in changes {
            let mut domain = fresh();
            change(&mut domain);
            let differences = domain.diff(&expected, 9).unwrap();
            assert_eq!(differences, expected.diff(&domain.snapshot().unwrap(), 9));
            assert_eq!(differences.len(), 1, "{text}");
            assert!(differences[0].to_string().starts_with(text), "{text}: {}", differences[0]);
            assert_ne!(domain.digest().unwrap(), digest, "{text}");
            assert_eq!(domain.diff(&expected, 0).unwrap(), []);
        }
    }
}
