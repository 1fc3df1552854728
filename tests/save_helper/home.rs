//! A simulated domain in a folder, where a process with the stand-in takes it up and puts it down again.

use memmap2::MmapMut;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use xen_replicate::hypervisor::sim::{Difference, SimConfig, SimDomain, SimImage};
use xen_replicate::hypervisor::{HvmParam, PAGE_SIZE, PageBatchMut, RestoreDomain, SaveDomain, ZERO_PAGE, hvm_param};

/// The rings' event channels, the same before and after.
pub const STORE_EVTCHN: u64 = 21;
pub const CONSOLE_EVTCHN: u64 = 22;

/// Parameters that name a page which a restore clears.
const RINGS: [u64; 4] = [hvm_param::STORE_PFN, hvm_param::CONSOLE_PFN, hvm_param::IOREQ_PFN, hvm_param::BUFIOREQ_PFN];

/// Whose helper works on a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Debian's `libxl-save-helper`.
    Debians,
    /// This project's.
    Ours,
}

pub struct Home {
    folder: TempDir,
    /// Whether the domain is a PV one.
    pv: bool,
    pub program: Program,
    /// The release of Xen that the stand-in is.
    pub xen: &'static str,
    /// The call that is to fail.
    fail: Option<serde_json::Value>,
}

/// A guest that has run, whose rings have something in them.
pub fn guest(config: &SimConfig, steps: u64) -> SimDomain {
    let mut domain = SimDomain::create(config).unwrap();
    for (index, value) in [(hvm_param::STORE_EVTCHN, STORE_EVTCHN), (hvm_param::CONSOLE_EVTCHN, CONSOLE_EVTCHN)] {
        domain.set_hvm_param(HvmParam { index, value }).unwrap();
    }
    for ring in RINGS {
        let pfns = [domain.hvm_param(ring).unwrap()];
        domain.map_pages_mut(&pfns).unwrap().page_mut(0).unwrap().fill(ring as u8);
    }
    domain.run(steps).unwrap();
    domain
}

impl Home {
    /// A folder with a domain in it.
    pub fn of(domain: &SimDomain) -> Home {
        let home = Home { pv: false, ..Home::for_pv() };
        let image = serde_json::to_vec(&domain.image().unwrap()).unwrap();
        fs::write(home.path("before.json"), image).unwrap();
        let memory = domain.memory();
        let file = File::create(home.path("memory")).unwrap();
        for pfn in memory.populated_pfns() {
            let page = memory.page(pfn).unwrap();
            if *page != ZERO_PAGE {
                file.write_all_at(page, (memory.slot(pfn).unwrap() * PAGE_SIZE) as u64).unwrap();
            }
        }
        home
    }

    /// A folder with a domain to restore into.
    pub fn empty(config: &SimConfig) -> Home {
        Home::of(&SimDomain::empty(config).unwrap())
    }

    /// A folder for a PV domain, with nothing in it.
    pub fn for_pv() -> Home {
        Home { folder: tempfile::tempdir().unwrap(), pv: true, program: Program::Debians, xen: "4.17", fail: None }
    }

    /// The same, for another helper.
    pub fn with(self, program: Program) -> Home {
        Home { program, ..self }
    }

    /// The same, on another release of Xen: 4.14, 4.17, 4.20.
    pub fn on(self, xen: &'static str) -> Home {
        Home { xen, ..self }
    }

    /// The same, with a call that fails, as the stand-in's configuration has it.
    pub fn failing(self, fail: serde_json::Value) -> Home {
        Home { fail: Some(fail), ..self }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The configuration of the stand-in.
    pub fn configuration(&self) -> PathBuf {
        let config = serde_json::json!({
            "folder": self.folder.path(),
            "pv": self.pv,
            "control": self.path("control"),
            "log": self.path("log"),
            "xen": self.xen,
            "fail": self.fail,
        });
        let path = self.path("standin.json");
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// The domain as the process has left it.
    pub fn after(&self) -> SimDomain {
        let image: SimImage = serde_json::from_slice(&fs::read(self.path("after.json")).unwrap()).unwrap();
        let contents = fs::read(self.path("memory")).unwrap();
        let mut pages = MmapMut::map_anon(contents.len()).unwrap();
        pages.copy_from_slice(&contents);
        image.wake(pages).unwrap()
    }

    /// Hypercalls that the stand-in does not know, or that failed.
    pub fn failed_calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap();
        assert!(log.lines().count() > 10, "{log}");
        // Ours asks for a HVM context with the room that the last one took, and again when that is too little.
        let too_little =
            |line: &&str| self.program != Program::Debians && line.contains("domctl 33 of domain 1: Err(Errno(28))");
        let failed = log.lines().filter(|line| line.contains("not known") || line.contains("Err("));
        failed.filter(|line| !too_little(line)).map(str::to_owned).collect()
    }
}

/// Makes a FIFO in a folder.
pub fn fifo(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    path
}

/// Holds a restored domain against the one that was saved: all that libxc carries equal byte by byte, the rings' pages clear.
pub fn assert_restored(original: &SimDomain, copy: &SimDomain) {
    for pfn in RINGS.map(|ring| original.hvm_param(ring).unwrap()) {
        assert_ne!(original.memory().page(pfn), Some(&ZERO_PAGE), "ring page {pfn:#x}");
        assert_eq!(copy.memory().page(pfn), Some(&ZERO_PAGE), "ring page {pfn:#x}");
    }
    assert_carried(original, copy);
}

/// The same but for the rings' pages: of two domains that were restored both.
pub fn assert_carried(original: &SimDomain, copy: &SimDomain) {
    let rings = RINGS.map(|ring| original.hvm_param(ring).unwrap());
    let differences = copy.diff(&original.snapshot().unwrap(), usize::MAX).unwrap();
    let carried = |difference: &&Difference| match difference {
        Difference::Memory { pfn, .. } => !rings.contains(pfn),
        // The device model is libxl's.
        Difference::Blob { part, .. } => *part != "device model",
        Difference::Xenstore { .. } => false,
        _ => true,
    };
    let differences: Vec<_> = differences.iter().filter(carried).take(8).collect();
    assert!(differences.is_empty(), "{differences:?}");
    assert!(original.memory().populated() > 100 && original.memory().populated() == copy.memory().populated());
    copy.self_check().unwrap();
}

/// Lets both go on for as long, and holds them against each other again.
pub fn assert_go_on(mut original: SimDomain, mut copy: SimDomain) {
    use xen_replicate::hypervisor::Domain;
    original.resume().unwrap();
    copy.unpause().unwrap();
    original.run(40).unwrap();
    copy.run(40).unwrap();
    assert_restored(&original, &copy);
}
