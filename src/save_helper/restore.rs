//! A stream into an empty domain, as libxl asks for it.
//!
//! A checkpointed stream's first image is applied as it arrives. Every later round is taken whole; then libxl reads its
//! own part (`checkpoint`), and what it answers decides: 1, the round is whole on both sides and applied; 2, the primary
//! is dead, the round is dropped and the domain left at the checkpoint before. The end of the stream in libxc's part
//! means the same. Nothing else does: a stream that cannot be believed is an error, the domain is libxl's to destroy,
//! and the primary may well be alive.
//!
//! In COLO the domain runs between checkpoints: it is made fit at each, libxl is told where its rings are and resumes
//! it (`postcopy`), waits (`wait_checkpoint`) and suspends it (`suspend`), and then the pages that it has written go to
//! the primary.
#![forbid(unsafe_code)]

use super::arguments::{Restore, StreamType};
use super::back_channel::BackWriter;
use super::callbacks::Libxl;
use super::failure::Failure;
use super::supervised::{Applied, Supervisor};
use crate::hypervisor::types::CleanMode;
use crate::hypervisor::{DirtyBitmap, RestoreDomain};
use crate::libxc::restore::{Ending, Options, Verified};
use crate::libxc::{RestoreError, Restorer, Round};
use crate::stream::Mode;
use crate::stream::framer::Options as Framing;
use crate::stream::handover::{Alone, LibxcReader};
use crate::stream::libxc::DomainType;
use std::io::{Read, Write};

/// How a restore ended. The domain is fit to run in either case, and paused; in COLO, after a failover, suspended or
/// running as libxl has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The image is complete.
    Complete,
    /// The primary is dead: the domain is at this checkpoint, counted from 1.
    FailOver {
        /// The checkpoint.
        checkpoint: u64,
    },
}

/// What a restore has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// How it ended.
    pub ended: Ended,
    /// gfns of the xenstore and console rings.
    pub rings: (u64, u64),
    /// What a VERIFY pass found.
    pub verified: Option<Verified>,
}

/// Restores `stream` into `domain`. `options.rings` must be those of the command.
///
/// # Errors
/// [`Failure`]: the domain is not to run.
pub fn restore<D: RestoreDomain, R: Read, W: Write, S: Read, B: Write>(
    domain: &mut D,
    libxl: &mut Libxl<R, W>,
    stream: S,
    back: Option<B>,
    command: &Restore,
    options: Options,
) -> Result<Restored, Failure> {
    restore_supervised(domain, libxl, stream, back, command, options, None)
}

/// The same under a supervisor, if there is one.
///
/// # Errors
/// [`Failure`]: the domain is not to run.
pub fn restore_supervised<D: RestoreDomain, R: Read, W: Write, S: Read, B: Write>(
    domain: &mut D,
    libxl: &mut Libxl<R, W>,
    stream: S,
    back: Option<B>,
    command: &Restore,
    options: Options,
    supervisor: Option<Supervisor>,
) -> Result<Restored, Failure> {
    log::info!("Restoring domain");
    // A bare stream of libxc looks the same in COLO.
    let mode = if command.stream == StreamType::Plain { Mode::Plain } else { Mode::Remus };
    let mut work = Work {
        restorer: Restorer::new(domain, options)?,
        reader: LibxcReader::start(stream, Framing { mode: Some(mode), ..Framing::default() }),
        domain,
        libxl,
        back: back.map(BackWriter::new),
        domid: command.domid,
        supervisor: supervisor.filter(|_| command.stream == StreamType::Remus),
        colo: command.stream == StreamType::Colo,
        dirty: DirtyBitmap::default(),
    };
    let ended = work.run()?;
    let (store, console) = work.restorer.ring_gfns();
    let rings = command.rings;
    log::info!("Restore successful");
    log::info!("XenStore: gfn {store:#x}, dom {}, evt {}", rings.store_domid, rings.store_evtchn);
    log::info!("Console: gfn {console:#x}, dom {}, evt {}", rings.console_domid, rings.console_evtchn);
    Ok(Restored { ended, rings: (store, console), verified: work.restorer.verified() })
}

struct Work<'a, D, R, W, S, B> {
    restorer: Restorer,
    reader: LibxcReader<S, Alone>,
    domain: &'a mut D,
    libxl: &'a mut Libxl<R, W>,
    back: Option<BackWriter<B>>,
    domid: u32,
    supervisor: Option<Supervisor>,
    colo: bool,
    dirty: DirtyBitmap,
}

/// What libxl answers where the primary's death may show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    GoOn,
    FailOver,
}

impl<D: RestoreDomain, R: Read, W: Write, S: Read, B: Write> Work<'_, D, R, W, S, B> {
    fn run(&mut self) -> Result<Ended, Failure> {
        let header = self.restorer.headers(&mut self.reader)?;
        let kind = header.domain_type().map_or("unknown", DomainType::name);
        let (major, minor) = (header.xen_major, header.xen_minor);
        log::info!("Found x86 {kind} domain from Xen {major}.{minor}");
        let libxl = &mut *self.libxl;
        let mut told = |missing| match libxl.static_data_done(missing)? {
            0 => Ok::<_, Failure>(()),
            reply => Err(Failure::Reply { callback: "static_data_done", reply }),
        };
        match self.restorer.first_image_told(&mut self.reader, self.domain, &mut told)? {
            Ending::End => {
                self.restorer.complete(self.domain)?;
                Ok(Ended::Complete)
            }
            Ending::Checkpoint => {
                // Not a whole state yet: the device model's is libxl's to read.
                if self.checkpoint()? == Answer::FailOver {
                    return Err(Failure::Reply { callback: "checkpoint", reply: 2 });
                }
                self.tell_applied(1);
                let checkpoint = self.rounds()?;
                if self.supervisor.as_ref().is_some_and(|supervisor| !supervisor.permits()) {
                    return Err(Failure::NotPermitted { checkpoint });
                }
                log::info!("failing over to checkpoint {checkpoint}");
                if !self.colo {
                    self.restorer.complete(self.domain)?;
                }
                Ok(Ended::FailOver { checkpoint })
            }
        }
    }

    /// Takes rounds until the primary is dead; gives the number of the last checkpoint applied.
    fn rounds(&mut self) -> Result<u64, Failure> {
        let mut round = Round::default();
        let mut checkpoint = 1;
        loop {
            if self.colo && self.run_secondary()? == Answer::FailOver {
                return Ok(checkpoint);
            }
            match self.restorer.receive(&mut self.reader, &mut round) {
                Ok(Ending::Checkpoint) => {}
                Ok(Ending::End) => {
                    // No primary ends such a stream in good order; with what came before it this is no checkpoint.
                    let record = "END";
                    return Err(RestoreError::Unexpected { record, offset: self.reader.offset() }.into());
                }
                Err(stopped) if stopped.is_sender_gone() => {
                    log::info!("{stopped}");
                    return Ok(checkpoint);
                }
                Err(error) => return Err(error.into()),
            }
            log::debug!("checkpoint {}: {} pages buffered", checkpoint + 1, round.entries().len());
            if self.checkpoint()? == Answer::FailOver {
                return Ok(checkpoint);
            }
            self.restorer.prepare(&round, self.domain)?;
            self.restorer.commit(&mut round, self.domain)?;
            checkpoint += 1;
            self.tell_applied(checkpoint);
        }
    }

    /// A supervisor that does not read any more is no reason to end: the stream's end will tell.
    fn tell_applied(&mut self, checkpoint: u64) {
        if let (Some(_), Some(back)) = (&self.supervisor, &mut self.back)
            && let Err(error) = back.applied(Applied { domid: self.domid, checkpoint })
        {
            log::warn!("telling of checkpoint {checkpoint}: {error}");
        }
    }

    fn checkpoint(&mut self) -> Result<Answer, Failure> {
        let reply = self.libxl.checkpoint()?;
        answer("checkpoint", reply)
    }

    /// Lets the secondary run until the next checkpoint is due, and tells the primary what it wrote.
    fn run_secondary(&mut self) -> Result<Answer, Failure> {
        self.restorer.complete(self.domain)?;
        let (store, console) = self.restorer.ring_gfns();
        self.libxl.restore_results(store, console)?;
        if answer("postcopy", self.libxl.postcopy()?)? == Answer::FailOver
            || answer("wait_checkpoint", self.libxl.wait_checkpoint()?)? == Answer::FailOver
            || answer("suspend", self.libxl.suspend()?)? == Answer::FailOver
        {
            return Ok(Answer::FailOver);
        }
        let nr_pfns = self.domain.info()?.nr_pfns;
        if self.dirty.nr_pfns() != nr_pfns {
            self.dirty.resize(nr_pfns);
        }
        self.domain.clean_log_dirty(&mut self.dirty, CleanMode::Ongoing)?;
        let back = self.back.as_mut().ok_or(Failure::BackEnd)?;
        match back.dirty_pfns(&self.dirty) {
            // The primary no longer reads: the stream tells whether it is dead.
            Err(Failure::BackWrite(error)) => {
                log::warn!("back channel: {error}");
                Ok(Answer::GoOn)
            }
            result => result.map(|()| Answer::GoOn),
        }
    }
}

fn answer(callback: &'static str, reply: i32) -> Result<Answer, Failure> {
    match reply {
        1 => Ok(Answer::GoOn),
        2 => Ok(Answer::FailOver),
        _ => Err(Failure::Reply { callback, reply }),
    }
}
