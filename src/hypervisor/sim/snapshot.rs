//! A simulated guest's whole state at one moment, to compare with and to tell what differs.

use std::fmt;

use super::domain::{NR_PARAMS, SimDomain};
use super::workload::hash::{mix, page_sum};
use crate::hypervisor::error::Result;
use crate::hypervisor::types::{CpuPolicy, Page, Pfn, TscInfo, ZERO_PAGE};

/// Everything that makes the guest go on as it would have: memory, HVM context, parameters, TSC, policies, device model. What
/// belongs to the host is not in it: domain number, name, run state, dirty log, packets under way, grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The populated pages, ascending; those of zeros without contents.
    pages: Vec<(Pfn, Option<Box<Page>>)>,
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
        /// The first octet that differs.
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
        /// The first octet that differs, or the end of the shorter one.
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
            Difference::Hole {
                pfn,
                missing: false,
            } => write!(f, "pfn {pfn:#x}: a page where a hole should be"),
            Difference::Memory {
                pfn,
                offset,
                expected,
                found,
            } => {
                write!(
                    f,
                    "pfn {pfn:#x}, offset {offset:#x}: {found:#04x} instead of {expected:#04x}"
                )
            }
            Difference::Blob {
                part,
                offset,
                expected,
                found,
            } => {
                write!(
                    f,
                    "{part}, offset {offset:#x}: differs ({found} octets, {expected} expected)"
                )
            }
            Difference::Param {
                index,
                expected,
                found,
            } => {
                write!(
                    f,
                    "HVM parameter {index}: {found:#x} instead of {expected:#x}"
                )
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
        let pages = self.memory.populated_pfns().filter_map(|pfn| {
            let page = self.memory.page(pfn)?;
            Some((pfn, (*page != ZERO_PAGE).then(|| Box::new(*page))))
        });
        let pages = pages.collect();
        let (mut context, mut device_model) = (Vec::new(), Vec::new());
        self.hvm.emit(&mut context)?;
        self.devices.emit(&mut device_model)?;
        Ok(Snapshot {
            pages,
            context,
            params: self.params,
            tsc: self.tsc,
            policy: self.policy.clone(),
            device_model,
            xenstore: self.xenstore.clone(),
        })
    }

    /// What of this guest's state is not as in `expected`, at most `limit` differences.
    pub fn diff(&self, expected: &Snapshot, limit: usize) -> Result<Vec<Difference>> {
        Ok(expected.diff(&self.snapshot()?, limit))
    }

    /// Checksums of the guest's state, without copying it. Equal to those of a snapshot of it.
    pub fn digest(&self) -> Result<Digest> {
        let pages = self
            .memory
            .populated_pfns()
            .filter_map(|pfn| Some((pfn, self.memory.page(pfn)?)));
        let memory = memory_digest(pages);
        let (mut context, mut device_model) = (Vec::new(), Vec::new());
        self.hvm.emit(&mut context)?;
        self.devices.emit(&mut device_model)?;
        Ok(Digest {
            memory,
            vcpus: vcpus_digest(&context, &self.params, self.tsc, &self.policy),
            devices: devices_digest(&device_model, &self.xenstore),
        })
    }
}

impl Snapshot {
    /// What of the state `found` is not as in this one, at most `limit` differences.
    pub fn diff(&self, found: &Snapshot, limit: usize) -> Vec<Difference> {
        let blobs = [
            ("HVM context", &self.context, &found.context),
            ("CPUID policy", &self.policy.cpuid, &found.policy.cpuid),
            ("MSR policy", &self.policy.msrs, &found.policy.msrs),
            ("device model", &self.device_model, &found.device_model),
        ];
        let blobs = blobs.into_iter().filter_map(|(part, expected, found)| {
            let offset = first_difference(expected, found)?;
            Some(Difference::Blob {
                part,
                offset,
                expected: expected.len(),
                found: found.len(),
            })
        });
        let params = self
            .params
            .iter()
            .zip(&found.params)
            .enumerate()
            .filter(|(_, (expected, found))| expected != found);
        let params = params.map(|(index, (&expected, &found))| Difference::Param {
            index,
            expected,
            found,
        });
        let tsc = (self.tsc != found.tsc).then_some(Difference::Tsc {
            expected: self.tsc,
            found: found.tsc,
        });
        let shorter = self.xenstore.len().min(found.xenstore.len());
        let pair = (0..shorter).find(|&i| self.xenstore.get(i) != found.xenstore.get(i));
        let pair = pair.or((self.xenstore.len() != found.xenstore.len()).then_some(shorter));
        let xenstore = pair.map(|index| Difference::Xenstore { index });
        self.diff_memory(found)
            .chain(blobs)
            .chain(params)
            .chain(tsc)
            .chain(xenstore)
            .take(limit)
            .collect()
    }

    /// Checksums of the state.
    pub fn digest(&self) -> Digest {
        let pages = self
            .pages
            .iter()
            .map(|(pfn, page)| (*pfn, page.as_deref().unwrap_or(&ZERO_PAGE)));
        Digest {
            memory: memory_digest(pages),
            vcpus: vcpus_digest(&self.context, &self.params, self.tsc, &self.policy),
            devices: devices_digest(&self.device_model, &self.xenstore),
        }
    }

    /// The pfns at which the two states differ, ascending.
    pub fn differing_pfns(&self, found: &Snapshot) -> Vec<Pfn> {
        let pfn = |difference| match difference {
            Difference::Memory { pfn, .. } | Difference::Hole { pfn, .. } => Some(pfn),
            _ => None,
        };
        self.diff_memory(found).filter_map(pfn).collect()
    }

    /// Both lists of pages ascend; walks them side by side.
    fn diff_memory<'a>(&'a self, found: &'a Snapshot) -> impl Iterator<Item = Difference> {
        let (mut mine, mut theirs) = (self.pages.iter().peekable(), found.pages.iter().peekable());
        std::iter::from_fn(move || {
            loop {
                let (pfn, page) = match (mine.peek(), theirs.peek()) {
                    (None, None) => return None,
                    (Some(&(pfn, _)), other) if other.is_none_or(|(theirs, _)| pfn < theirs) => {
                        mine.next();
                        return Some(Difference::Hole {
                            pfn: *pfn,
                            missing: true,
                        });
                    }
                    (Some(&(pfn, page)), Some((theirs, _))) if pfn == theirs => {
                        mine.next();
                        (*pfn, page)
                    }
                    (_, Some(&(pfn, _))) => {
                        theirs.next();
                        return Some(Difference::Hole {
                            pfn: *pfn,
                            missing: false,
                        });
                    }
                    (Some(_), None) => return None,
                };
                let (_, other) = theirs.next()?;
                let (expected, found) = (
                    page.as_deref().unwrap_or(&ZERO_PAGE),
                    other.as_deref().unwrap_or(&ZERO_PAGE),
                );
                if let Some(offset) = first_difference(expected, found) {
                    let octet = |page: &Page| page.get(offset).copied().unwrap_or(0);
                    return Some(Difference::Memory {
                        pfn,
                        offset,
                        expected: octet(expected),
                        found: octet(found),
                    });
                }
            }
        })
    }
}

/// The first octet that differs; the end of the shorter one when that is all.
fn first_difference(expected: &[u8], found: &[u8]) -> Option<usize> {
    if expected == found {
        return None;
    }
    let shorter = expected.len().min(found.len());
    Some(
        expected
            .iter()
            .zip(found)
            .position(|(a, b)| a != b)
            .unwrap_or(shorter),
    )
}

fn memory_digest<'a>(pages: impl Iterator<Item = (Pfn, &'a Page)>) -> u64 {
    pages.fold(0u64, |sum, (pfn, page)| {
        sum.wrapping_add(mix(pfn)).wrapping_add(page_sum(pfn, page))
    })
}

fn octets_digest(start: u64, octets: &[u8]) -> u64 {
    octets
        .iter()
        .fold(mix(start ^ octets.len() as u64), |sum, &octet| {
            mix(sum ^ u64::from(octet))
        })
}

fn vcpus_digest(context: &[u8], params: &[u64], tsc: TscInfo, policy: &CpuPolicy) -> u64 {
    let blobs = [context, &policy.cpuid, &policy.msrs]
        .into_iter()
        .fold(0, octets_digest);
    let tsc = [
        tsc.mode.into(),
        tsc.khz.into(),
        tsc.nsec,
        tsc.incarnation.into(),
    ];
    params
        .iter()
        .chain(&tsc)
        .fold(blobs, |sum, &word| mix(sum ^ word))
}

fn devices_digest(device_model: &[u8], xenstore: &[(String, String)]) -> u64 {
    let strings = xenstore
        .iter()
        .flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]);
    strings.fold(octets_digest(0, device_model), octets_digest)
}
