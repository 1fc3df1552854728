//! How a simulated guest is to be: one serialisable value.

use serde::{Deserialize, Serialize};

use super::layout::{Layout, MemoryLayout};
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::{DomainKind, Uuid};

/// Pages at the beginning of memory that are no part of the working set.
pub const RESERVED_PFNS: u64 = 16;

/// vCPUs that there can be at most (Xen's `HVM_MAX_VCPUS`).
pub const MAX_VCPUS: u32 = 128;

/// A simulated guest. Fields that are missing from serialised text take their defaults.
///
/// To choose how many pages it dirties: k writes that are spread evenly (`hot_permille` 0) over a working set of W pages dirty
/// W (1 - e^(-k/W)) of them, and the control page. So 10 steps with 100 `writes_per_step` and a `working_set` of 65,536 dirty about
/// 1,000 pages, with 1,000 about 9,300. `whole_page_permille` says how much of a page that is, and most of what a step costs.
///
/// To make it big: memory that is neither among the `image_pages` nor written to is zero and not backed by the host, so a guest of
/// 4 GiB (`memory` 1 << 20) may take a few MiB. A copy that is restored from a stream is backed for all pages that the stream has.
///
/// To make it brisk: each step answers one inbound packet, so as many requests a second are answered as there are steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimConfig {
    /// Its number on this host.
    pub domid: u32,
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// PV or HVM; only HVM can be created.
    pub kind: DomainKind,
    /// What all pseudo-random numbers of the guest start from.
    pub seed: u64,
    /// Ordinary memory in pages; special pages come on top.
    pub memory: u64,
    /// How the memory is laid out.
    pub layout: MemoryLayout,
    /// Pages that the domain may have in all; without a value as many as the layout populates. A restore that needs more fails.
    pub memory_budget: Option<u64>,
    /// vCPUs, 1 to 128.
    pub vcpus: u32,
    /// Frequency of the time stamp counter in kHz.
    pub tsc_khz: u32,
    /// Pages from the beginning of ordinary memory that are filled with pseudo-random bytes at creation; the rest is zero.
    pub image_pages: u64,
    /// Pages that the workload writes to, at most the memory.
    pub working_set: u64,
    /// Pages at the beginning of the working set that are written more often.
    pub hot_pages: u64,
    /// Of 1,000 writes how many go to the hot pages; the others go anywhere in the working set.
    pub hot_permille: u32,
    /// Writes in each step.
    pub writes_per_step: u32,
    /// Of 1,000 writes how many fill a whole page; the others fill one cache line.
    pub whole_page_permille: u32,
    /// Every how many steps the guest sends a packet; 0 for never.
    pub packets_every: u32,
    /// Bytes in such a packet, at least 32. Streams of earlier versions have it by another name.
    #[serde(alias = "packet_octets")]
    pub packet_bytes: u32,
    /// Every how many steps the guest writes to its disk; 0 for never.
    pub disk_every: u32,
    /// Every how many steps the guest asks its host for a random number and writes it to memory; 0 for never. From then on two
    /// guests that ran alike do not.
    pub noise_every: u32,
    /// Pages at the end of ordinary memory that the guest gives back and takes again, as a balloon does; 0 for none.
    pub balloon_pages: u32,
    /// Every how many steps it gives one back and takes another one.
    pub balloon_every: u32,
    /// Whether answers are a connection of their own, in which nothing tells when the guest answered: they count themselves, and
    /// carry a sum over what was asked. So two guests that are asked the same answer the same, at whatever step.
    pub steady_answers: bool,
    /// Whether the guest answers when it is asked to suspend.
    pub acknowledge_suspend: bool,
    /// Whether the hypervisor lets the suspended guest go on when it is asked to.
    pub resumes: bool,
    /// Whether the device model has xenstore keys to hand over.
    pub emulator_xenstore: bool,
    /// Whether the hypervisor's dirty log has the pages that come to the guest while it lives.
    pub logs_additions: bool,
}

impl Default for SimConfig {
    /// A guest of 16 MiB with two vCPUs that dirties about a hundred pages in ten steps.
    fn default() -> Self {
        SimConfig {
            domid: 1,
            name: "sim".into(),
            uuid: Uuid(*b"xen-replicate\0\0\x01"),
            kind: DomainKind::Hvm,
            seed: 1,
            memory: 4096,
            layout: MemoryLayout::Pc,
            memory_budget: None,
            vcpus: 2,
            tsc_khz: 2_400_000,
            image_pages: 256,
            working_set: 1024,
            hot_pages: 64,
            hot_permille: 700,
            writes_per_step: 16,
            whole_page_permille: 100,
            packets_every: 10,
            packet_bytes: 64,
            disk_every: 25,
            noise_every: 0,
            balloon_pages: 0,
            balloon_every: 1,
            steady_answers: false,
            acknowledge_suspend: true,
            resumes: true,
            emulator_xenstore: true,
            logs_additions: true,
        }
    }
}

impl SimConfig {
    /// A guest small enough that a test can look at every byte of it: 256 pages close together, one vCPU.
    pub fn small(seed: u64) -> Self {
        SimConfig {
            seed,
            memory: 256,
            layout: MemoryLayout::Compact,
            vcpus: 1,
            image_pages: 32,
            working_set: 128,
            hot_pages: 16,
            ..SimConfig::default()
        }
    }

    /// Whether the values make sense together.
    pub fn check(&self) -> Result<()> {
        if self.kind == DomainKind::Pv {
            return Err(Error::Unsupported { backend: "sim", what: "a PV guest" });
        }
        let (balloon, every) = (u64::from(self.balloon_pages), u64::from(self.balloon_every));
        let beside = self.working_set.max(self.image_pages).saturating_add(balloon);
        let rules: [(&'static str, u64, bool, &'static str); 11] = [
            ("vcpus", self.vcpus.into(), (1..=MAX_VCPUS).contains(&self.vcpus), "must be 1 to 128"),
            ("memory", self.memory, self.memory > 2 * RESERVED_PFNS, "too little for a guest"),
            ("memory", self.memory, self.memory <= MAX_MEMORY, "more than 8 TiB"),
            ("working_set", self.working_set, self.working_set > 0, "must not be empty"),
            ("working_set", self.working_set, self.working_set <= self.usable(), "more than the usable memory"),
            (
                "hot_pages",
                self.hot_pages,
                (1..=self.working_set).contains(&self.hot_pages),
                "must be 1 to the working set",
            ),
            ("image_pages", self.image_pages, self.image_pages <= self.usable(), "more than the usable memory"),
            ("packet_bytes", self.packet_bytes.into(), (32..=9000).contains(&self.packet_bytes), "must be 32 to 9000"),
            ("balloon_pages", balloon, balloon != 1, "must be 0, or 2 at least"),
            ("balloon_pages", balloon, beside <= self.usable(), "more than the working set and the image leave"),
            ("balloon_every", every, every > 0, "must not be 0"),
        ];
        for (field, value, holds, reason) in rules {
            if !holds {
                return Err(Error::Config { field, value, reason });
            }
        }
        let budget = self.budget();
        let needed = Layout::new(self.layout, self.memory).nr_populated();
        if budget == 0 {
            return Err(Error::Config { field: "memory_budget", value: budget, reason: "must not be 0" });
        }
        if budget > needed.max(MAX_MEMORY) {
            return Err(Error::Config { field: "memory_budget", value: budget, reason: "more than 8 TiB" });
        }
        Ok(())
    }

    /// Pages that the domain may have.
    pub fn budget(&self) -> u64 {
        self.memory_budget.unwrap_or_else(|| Layout::new(self.layout, self.memory).nr_populated())
    }

    /// Ordinary memory without the pages that the workload keeps for itself.
    fn usable(&self) -> u64 {
        self.memory.saturating_sub(RESERVED_PFNS)
    }
}

/// 8 TiB in pages: what the page map's slot numbers can count.
const MAX_MEMORY: u64 = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_small_guests_make_sense() {
        SimConfig::default().check().unwrap();
        SimConfig::small(1).check().unwrap();
    }

    #[test]
    fn configurations_travel_as_json_and_unknown_fields_are_refused() {
        let config = SimConfig { memory_budget: Some(99), layout: MemoryLayout::Compact, ..SimConfig::default() };
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<SimConfig>(&json).unwrap(), config);
        assert_eq!(serde_json::from_str::<SimConfig>("{}").unwrap(), SimConfig::default());
        assert!(serde_json::from_str::<SimConfig>(r#"{"memroy": 5}"#).is_err());
    }

    #[test]
    fn senseless_values_are_refused_by_name() {
        let refused = |change: fn(&mut SimConfig)| {
            let mut config = SimConfig::default();
            change(&mut config);
            match config.check() {
                Err(Error::Config { field, .. }) => field,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused(|c| c.vcpus = 0), "vcpus");
        assert_eq!(refused(|c| c.vcpus = 129), "vcpus");
        assert_eq!(refused(|c| c.memory = 3), "memory");
        assert_eq!(refused(|c| c.memory = u64::MAX), "memory");
        assert_eq!(refused(|c| c.working_set = 5000), "working_set");
        assert_eq!(refused(|c| c.hot_pages = 0), "hot_pages");
        assert_eq!(refused(|c| c.image_pages = 1 << 40), "image_pages");
        assert_eq!(refused(|c| c.packet_bytes = 31), "packet_bytes");
        assert_eq!(refused(|c| c.memory_budget = Some(0)), "memory_budget");
        assert_eq!(refused(|c| c.balloon_pages = 1), "balloon_pages");
        assert_eq!(refused(|c| c.balloon_pages = 4000), "balloon_pages");
        assert_eq!(refused(|c| c.balloon_every = 0), "balloon_every");
        let pv = SimConfig { kind: DomainKind::Pv, ..SimConfig::default() };
        assert!(matches!(pv.check(), Err(Error::Unsupported { backend: "sim", .. })));
    }
}
