//! The pause of a checkpoint against a bare copy of the same scattered pages.

use crate::figures::{line, median, ms, timed};
use std::error::Error;
use std::hint::black_box;
use std::io::Sink;
use std::time::Duration;
use xen_replicate::hypervisor::sim::{SimConfig, SimDomain};
use xen_replicate::hypervisor::{DirtyBitmap, Domain, LogDirty, PAGE_SIZE, PageBatch, SaveDomain};
use xen_replicate::libxl::Saver;
use xen_replicate::libxl::save::Options;
use xen_replicate::stream::handover::{LibxcWriter, ToLibxl};

/// A guest that dirties about so many pages in a step, and its saver behind the first image.
pub struct Load {
    domain: SimDomain,
    saver: Saver,
    out: Option<LibxcWriter<Sink, ToLibxl>>,
    pfns: Vec<u64>,
    copy: Vec<u8>,
}

/// One checkpoint.
pub struct Round {
    pub pages: u64,
    pub pause: Duration,
    pub memcpy: Duration,
}

impl Load {
    /// Memory in GiB, pages dirtied in a round.
    pub fn new(gib: u64, pages: u64) -> Result<Self, Box<dyn Error>> {
        let memory = gib << 18;
        let working_set = 250_000.min(memory - 2_000);
        // So many writes to a working set hit so many pages of it.
        let hit = pages as f64 / working_set as f64;
        let writes = (-(1.0 - hit).ln() * working_set as f64).round() as u32;
        let config = SimConfig {
            memory,
            working_set,
            hot_permille: 0,
            writes_per_step: writes,
            whole_page_permille: 0,
            image_pages: working_set,
            packets_every: 0,
            disk_every: 0,
            ..SimConfig::default()
        };
        let mut domain = SimDomain::create(&config)?;
        let mut saver = Saver::new(&mut domain, Options::default())?;
        let out = Some(saver.begin(&mut domain, std::io::sink())?);
        Ok(Load { domain, saver, out, pfns: Vec::new(), copy: Vec::new() })
    }

    /// A step of the guest, then its checkpoint; the bare copy before or behind it.
    pub fn round(&mut self, copy_first: bool) -> Result<Round, Box<dyn Error>> {
        self.domain.run(1)?;
        let mut bitmap = DirtyBitmap::new(self.domain.info()?.nr_pfns);
        self.domain.peek_log_dirty(&mut bitmap)?;
        self.pfns.clear();
        self.pfns.extend(bitmap.iter());
        self.copy.resize(self.pfns.len() * PAGE_SIZE, 0);
        let before = if copy_first { Some(self.memcpy()?) } else { None };
        let (pause, pages) = timed(|| -> Result<u64, Box<dyn Error>> {
            self.domain.suspend()?;
            let pages = self.saver.collect(&mut self.domain)?;
            self.saver.stage(&self.domain)?;
            self.domain.resume()?;
            Ok(pages)
        });
        let memcpy = before.map_or_else(|| self.memcpy(), Ok)?;
        let between = self.saver.send(self.out.take().ok_or("the stream has ended")?)?;
        self.out = Some(between.next_round());
        Ok(Round { pages: pages?, pause, memcpy })
    }

    fn memcpy(&mut self) -> Result<Duration, Box<dyn Error>> {
        let pages = self.domain.map_pages(&self.pfns)?;
        let copy = &mut self.copy;
        let (time, ()) = timed(|| {
            for (index, place) in copy.chunks_exact_mut(PAGE_SIZE).enumerate() {
                if let Some(page) = pages.page(index) {
                    place.copy_from_slice(page.as_slice());
                }
            }
        });
        black_box(&self.copy);
        Ok(time)
    }
}

/// Medians of so many rounds, the first few left out.
pub fn medians(load: &mut Load, rounds: usize) -> Result<Round, Box<dyn Error>> {
    for _ in 0..3 {
        load.round(true)?;
    }
    let (mut pauses, mut copies, mut pages) = (Vec::new(), Vec::new(), 0);
    for round in 0..rounds {
        let round = load.round(round % 2 == 0)?;
        pauses.push(round.pause);
        copies.push(round.memcpy);
        pages += round.pages;
    }
    Ok(Round { pages: pages / rounds as u64, pause: median(&mut pauses), memcpy: median(&mut copies) })
}

pub fn all(measuring: bool) -> Result<(), Box<dyn Error>> {
    let sizes: &[u64] = if measuring { &[1_000, 10_000, 100_000] } else { &[100] };
    for &pages in sizes {
        let mut load = Load::new(1, pages)?;
        let Round { pages, pause, memcpy } = medians(&mut load, if measuring { 31 } else { 1 })?;
        let bound = memcpy.mul_f64(1.3) + Duration::from_millis(1);
        let figures = format!("{:.2} ms, memcpy {:.2} ms, ratio {:.2}", ms(pause), ms(memcpy), ms(pause) / ms(memcpy));
        line(&format!("pause at {pages} pages"), &figures, "1.3 x memcpy + 1 ms", pause <= bound);
    }
    Ok(())
}
