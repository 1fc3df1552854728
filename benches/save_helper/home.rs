//! The simulated domains, in memory of this machine, where the stand-in takes them up.

use crate::Result;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use xen_replicate::hypervisor::sim::{SimConfig, SimDomain, SimImage};
use xen_replicate::hypervisor::{PAGE_SIZE, ZERO_PAGE};

/// Pages that the guest dirties in a step, of the 1 GiB that it has.
const DIRTIED: u64 = 10_000;

/// How the stand-in maps a domain's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mappings {
    /// When it is asked to.
    AsAsked,
    /// Once and for all, where frames lie next to each other: what it costs to map and unmap is not in the figure then.
    Kept,
}

/// Where a domain is.
pub struct Home {
    folder: PathBuf,
}

impl Home {
    /// An empty folder.
    fn new(parent: &Path, name: &str) -> Result<Self> {
        let folder = parent.join(name);
        fs::create_dir(&folder)?;
        Ok(Home { folder })
    }

    fn put(&self, image: &SimImage) -> Result<()> {
        fs::write(self.path("before.json"), serde_json::to_vec(image)?)?;
        for mappings in [Mappings::AsAsked, Mappings::Kept] {
            let config = serde_json::json!({
                "folder": self.folder,
                "control": self.path("control"),
                "steps_per_second": 4,
                "kept_mappings": mappings == Mappings::Kept,
            });
            fs::write(self.configuration(mappings), config.to_string())?;
        }
        Ok(())
    }

    /// The stand-in's configuration. A control socket that an earlier process has left is gone.
    pub fn configuration(&self, mappings: Mappings) -> PathBuf {
        // Mostly there is none.
        let _ = fs::remove_file(self.path("control"));
        self.path(match mappings {
            Mappings::AsAsked => "standin.json",
            Mappings::Kept => "standin-kept.json",
        })
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// All of them, and streams.
pub struct Homes {
    folder: TempDir,
    /// A guest that is suspended.
    pub still: Home,
    /// An empty domain.
    pub empty: Home,
    /// As `still`, but running. Its memory is a copy for each process.
    running: Home,
    slots: Vec<Option<usize>>,
}

impl Homes {
    /// A domain of so many MiB with random contents, and an empty one. Their memory and the streams' files are allocated.
    pub fn new(mib: u64) -> Result<Self> {
        let memory = mib << 8;
        let working_set = memory - 2_000;
        // So many writes to a working set hit so many pages of it.
        let hit = (DIRTIED as f64 / working_set as f64).min(0.5);
        let config = SimConfig {
            memory,
            working_set,
            hot_permille: 0,
            writes_per_step: (-(1.0 - hit).ln() * working_set as f64).round() as u32,
            whole_page_permille: 0,
            image_pages: working_set,
            packets_every: 0,
            disk_every: 0,
            ..SimConfig::default()
        };
        let folder = tempfile::Builder::new().prefix("save-helper-bench").tempdir_in("/dev/shm")?;
        let domain = SimDomain::create(&config)?;
        let mut image = domain.image()?;
        let running = Home::new(folder.path(), "running")?;
        running.put(&image)?;
        let still = Home::new(folder.path(), "still")?;
        image.suspended = true;
        still.put(&image)?;

        let slots: Vec<_> = (0..domain.memory().nr_pfns()).map(|pfn| domain.memory().slot(pfn)).collect();
        let mut pages: Vec<_> = (0..).zip(&slots).filter_map(|(pfn, slot)| slot.map(|slot| (slot, pfn))).collect();
        pages.sort_unstable();
        let mut file = File::create(still.path("memory"))?;
        for (_, pfn) in pages {
            file.write_all(domain.memory().page(pfn).unwrap_or(&ZERO_PAGE))?;
        }
        drop(domain);

        let empty = Home::new(folder.path(), "empty")?;
        empty.put(&SimDomain::empty(&config)?.image()?)?;
        fill(&empty.path("memory"), config.budget() * PAGE_SIZE as u64)?;
        let homes = Homes { folder, still, empty, running, slots };
        for name in ["theirs", "ours"] {
            // A little more than memory: pfns, headers, state.
            fill(&homes.stream(name), config.budget() * (PAGE_SIZE as u64 + 8) + (1 << 20))?;
        }
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, homes.fifo(), rustix::fs::FileType::Fifo, mode, 0)?;
        Ok(homes)
    }

    /// Where all of it is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file for a stream.
    pub fn stream(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A pipe.
    pub fn fifo(&self) -> PathBuf {
        self.folder.path().join("fifo")
    }

    /// The running guest with its memory as at first.
    pub fn fresh(&self) -> Result<&Home> {
        fs::copy(self.still.path("memory"), self.running.path("memory"))?;
        Ok(&self.running)
    }

    /// Where a page is in the file of its domain's memory, in pages.
    pub fn slot(&self, pfn: u64) -> Option<usize> {
        self.slots.get(usize::try_from(pfn).ok()?).copied().flatten()
    }
}

fn fill(path: &Path, bytes: u64) -> Result<()> {
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), bytes), &mut File::create(path)?)?;
    Ok(())
}
