//! A domain's memory onto the stream, as libxl asks for it.
//!
//! | stream | first image | every later round |
//! |---|---|---|
//! | plain | suspend, pages, state, END | |
//! | plain, live | log, rounds of pages, suspend, the last pages, (VERIFY, all pages), state, END | |
//! | Remus | as live, with CHECKPOINT; *postcopy*, *checkpoint* | copy ahead; *suspend*, copy the rest; *postcopy*; write, CHECKPOINT; *checkpoint* |
//! | COLO | as live, with CHECKPOINT; *checkpoint*, *postcopy*, *wait_checkpoint* | *suspend*, merge the secondary's dirty pages, the rest likewise |
//!
//! In italics what libxl does. In Remus, its `postcopy` resumes the guest and does not touch the stream
//! (`libxl__remus_domain_resume_callback`); only `checkpoint` writes to it. So the guest need not stand still while a
//! round is written: pages and state are copied, the guest runs on, and then the copy is written. The network's output
//! is still held until `checkpoint` has returned. COLO asks for the stream before it resumes, so there the round is
//! written first, straight from the guest's memory; so is a Remus round that is too large to be copied
//! ([`COPY_AHEAD`]).
//!
//! libxl lets the guest run for the interval before it answers `checkpoint`, so by then most of the next round's pages are written
//! (`libxl__remus_domain_save_checkpoint_callback`). They are copied before `suspend` is asked for, where that is not too much, and
//! only those that the guest writes meanwhile are left for the time that it stands still.
//!
//! A checkpointed stream ends when libxl answers 0: without END, and without an error.
#![forbid(unsafe_code)]

use super::arguments::{Flags, Save, StreamType};
use super::back_channel::{BackChannel, BackReader};
use super::callback_error::CallbackError;
use super::callbacks::Libxl;
use super::failure::Failure;
use crate::hypervisor::{DomainKind, SaveDomain};
use crate::libxc::precopy::{Limits, RoundSent, Watch};
use crate::libxc::save::{self, STREAM_VERSION};
use crate::libxc::{Ahead, CopyAhead, Round, SaveError, Saver};
use crate::stream::Mode;
use crate::stream::handover::{Alone, LibxcWriter};
use crate::stream::libxc::Record;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// Which Remus rounds are copied, and when. The copy's memory is kept from round to round.
pub const COPY_AHEAD: CopyAhead = CopyAhead::of_helper();

/// How a save ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With END: the image is complete, and the guest stands still.
    Complete,
    /// libxl wants no more checkpoints.
    Stopped,
}

/// Saves `domain` onto `stream`, up to END or until libxl wants no more; `xen` is the hypervisor's version, `live` for a plain
/// stream. Whatever happens, the tracking of pages is off afterwards.
///
/// # Errors
/// [`Failure`].
pub fn save<D: SaveDomain, R: Read, W: Write, S: Write, B: BackChannel>(
    domain: &mut D,
    libxl: &mut Libxl<R, W>,
    stream: S,
    back: Option<B>,
    command: &Save,
    xen: (u32, u32),
    live: Limits,
) -> Result<Ended, Failure> {
    let verify = command.flags.contains(Flags::DEBUG) && command.stream == StreamType::Plain;
    // A checkpointed stream's first image is no migration: libxl begins to hold the guest's output behind it.
    let live = if command.stream == StreamType::Plain { live } else { Limits::default() };
    let options = save::Options { xen, live, verify };
    let saver = Saver::new(domain, options)?;
    log::info!("Saving domain {}, type x86 {}", command.domid, domain.info().map_err(SaveError::from)?.kind);
    let back = back.map(BackReader::new);
    let mut work = Work { domain, libxl, saver, back, command, tracking: false, device_tracking: false };
    let result = work.run(stream);
    work.clean_up();
    match result {
        // Whatever it was that failed then, this is why.
        Err(_) if work.libxl.is_called_off() => Err(Failure::CalledOff),
        result => result,
    }
}

struct Work<'a, D, R, W, B> {
    domain: &'a mut D,
    libxl: &'a mut Libxl<R, W>,
    saver: Saver,
    back: Option<BackReader<B>>,
    command: &'a Save,
    /// The hypervisor tracks the guest's writes.
    tracking: bool,
    /// The device model tracks its own.
    device_tracking: bool,
}

impl<D: SaveDomain, R: Read, W: Write, B: BackChannel> Work<'_, D, R, W, B> {
    fn run<S: Write>(&mut self, stream: S) -> Result<Ended, Failure> {
        // Only HVM domains have a device model that writes to their memory; libxl answers for PVH too, and fails for PV.
        if self.domain.info().map_err(SaveError::from)?.kind == DomainKind::Hvm {
            match self.libxl.switch_qemu_logdirty(self.command.domid, true)? {
                0 => self.device_tracking = true,
                reply => return Err(Failure::Reply { callback: "switch_qemu_logdirty", reply }),
            }
        }
        self.libxl.event("Start of stream");
        // A bare stream of libxc looks the same in COLO.
        let mode = if self.command.stream == StreamType::Plain { Mode::Plain } else { Mode::Remus };
        let mut out = LibxcWriter::<S, Alone>::start(stream, mode, STREAM_VERSION, self.saver.header())
            .map_err(SaveError::from)?;
        self.saver.static_data(self.domain, &mut out)?;
        let doing = self.first_pages(&mut out)?;
        if self.command.stream != StreamType::Plain {
            return self.checkpoints(&mut out, doing);
        }
        self.send_pages(&mut out, &doing)?;
        if self.command.flags.contains(Flags::LIVE | Flags::DEBUG) {
            out.record(&Record::Verify).map_err(SaveError::from)?;
            self.saver.everything();
            self.send_pages(&mut out, "Frames verify")?;
        }
        self.saver.send_state(self.domain, &mut out)?;
        self.libxl.event("End of stream");
        out.end().map_err(SaveError::from)?;
        self.libxl.event("Complete");
        Ok(Ended::Complete)
    }

    /// Suspends the guest, most of whose memory may be sent by then; the saver knows what is left. Gives its name.
    fn first_pages<S: Write>(&mut self, out: &mut LibxcWriter<S, Alone>) -> Result<String, Failure> {
        if self.command.flags.contains(Flags::LIVE) {
            self.start_tracking()?;
            let mut watch = Rounds { libxl: &*self.libxl, steps: Steps::default(), begun: Instant::now() };
            let sent = self.saver.precopy_watched(self.domain, out, &mut watch)?;
            self.suspend()?;
            self.saver.collect(self.domain)?;
            return Ok(live_frames(sent.rounds));
        }
        self.suspend()?;
        if self.command.stream == StreamType::Plain {
            // Refuses a guest that does not stand still.
            self.must_be_suspended()?;
        } else {
            self.start_tracking()?;
            self.saver.collect(self.domain)?;
        }
        self.saver.everything();
        Ok("Frames".into())
    }

    fn must_be_suspended(&self) -> Result<(), SaveError> {
        if self.domain.info()?.is_suspended() {
            Ok(())
        } else {
            Err(SaveError::NotSuspended { domid: self.command.domid })
        }
    }

    /// Checkpoints until libxl wants no more. The guest is suspended, and the saver knows the first one's pages.
    fn checkpoints<S: Write>(&mut self, out: &mut LibxcWriter<S, Alone>, first: String) -> Result<Ended, Failure> {
        let mut round = Round::default();
        let mut doing = first;
        loop {
            let go_on = match self.command.stream {
                StreamType::Colo => self.colo_checkpoint(out, &doing)?,
                _ => self.remus_checkpoint(out, &doing, &mut round)?,
            };
            if !go_on {
                log::info!("libxl ends the checkpoints");
                return Ok(Ended::Stopped);
            }
            if self.command.stream == StreamType::Remus {
                self.go_ahead(&mut round)?;
            }
            self.suspend()?;
            self.saver.collect(self.domain)?;
            if self.command.stream == StreamType::Colo {
                self.merge_secondary()?;
            }
            doing = "Checkpointed save".into();
        }
    }

    /// Takes what there is of the next round into `round` while the guest runs, where it is not too much for that.
    fn go_ahead(&mut self, round: &mut Round) -> Result<(), Failure> {
        round.clear();
        if COPY_AHEAD.before_suspend(self.saver.written(self.domain)?) == Ahead::Stage {
            self.saver.stage_ahead(self.domain, round)?;
        }
        Ok(())
    }

    fn remus_checkpoint<S: Write>(
        &mut self,
        out: &mut LibxcWriter<S, Alone>,
        doing: &str,
        round: &mut Round,
    ) -> Result<bool, Failure> {
        let pages = self.saver.named().saturating_add(round.entries().len() as u64);
        if COPY_AHEAD.fits(pages) {
            self.saver.stage_rest(self.domain, round)?;
            if !go_on("postcopy", self.libxl.postcopy()?)? {
                return Ok(false);
            }
            self.libxl.progress(doing, 0, pages);
            round.write(out)?;
            out.checkpoint().map_err(SaveError::from)?;
            self.libxl.progress(doing, pages, pages);
        } else {
            self.saver.unstage(round);
            self.send_pages(out, doing)?;
            self.saver.send_state(self.domain, out)?;
            out.checkpoint().map_err(SaveError::from)?;
            if !go_on("postcopy", self.libxl.postcopy()?)? {
                return Ok(false);
            }
        }
        go_on("checkpoint", self.libxl.checkpoint()?)
    }

    fn colo_checkpoint<S: Write>(&mut self, out: &mut LibxcWriter<S, Alone>, doing: &str) -> Result<bool, Failure> {
        self.send_pages(out, doing)?;
        self.saver.send_state(self.domain, out)?;
        out.checkpoint().map_err(SaveError::from)?;
        match self.libxl.checkpoint()? {
            // Xen's saver takes this 0 for a failure, and the two below for an end.
            reply if reply <= 0 => return Err(Failure::Reply { callback: "checkpoint", reply }),
            _ => {}
        }
        Ok(go_on("postcopy", self.libxl.postcopy()?)? && go_on("wait_checkpoint", self.libxl.wait_checkpoint()?)?)
    }

    /// What the secondary wrote since the last checkpoint is not what the guest has there.
    fn merge_secondary(&mut self) -> Result<(), Failure> {
        let saver = &mut self.saver;
        let back = self.back.as_mut().ok_or(Failure::BackEnd)?;
        let pages = back.dirty_pfns(saver.nr_pfns(), |pfn| saver.also(pfn))?;
        log::debug!("{pages} pages of the secondary, {} with our own", saver.named());
        Ok(())
    }

    fn send_pages<S: Write>(&mut self, out: &mut LibxcWriter<S, Alone>, doing: &str) -> Result<(), Failure> {
        let libxl = &*self.libxl;
        let mut steps = Steps::default();
        self.saver.send_pages_told(self.domain, out, &mut |done, total| {
            if steps.is_new(done, total) {
                libxl.progress(doing, done, total);
            }
        })?;
        Ok(())
    }

    fn suspend(&mut self) -> Result<(), Failure> {
        match self.libxl.suspend()? {
            0 => Err(Failure::Reply { callback: "suspend", reply: 0 }),
            _ => {
                self.libxl.event("Domain now suspended");
                Ok(())
            }
        }
    }

    fn start_tracking(&mut self) -> Result<(), Failure> {
        self.tracking = true;
        Ok(self.saver.start_log(self.domain)?)
    }

    /// Ends the tracking of pages. What fails here does not change how the save ended.
    fn clean_up(&mut self) {
        if self.tracking
            && let Err(error) = self.saver.stop_log(self.domain)
        {
            log::error!("log-dirty mode of domain {} stays on: {error}", self.command.domid);
        }
        // A libxl that owes us a reply would have its answers taken for one another.
        if !self.device_tracking || self.libxl.is_waiting() {
            return;
        }
        self.libxl.settle();
        match self.libxl.switch_qemu_logdirty(self.command.domid, false) {
            Ok(0) | Err(CallbackError::Gone(_)) => {}
            Ok(reply) => log::error!("the device model still tracks its writes: libxl's callback gave {reply}"),
            Err(error) => log::error!("the device model still tracks its writes: {error}"),
        }
    }
}

/// Tells libxl of the live rounds.
struct Rounds<'a, R, W> {
    libxl: &'a Libxl<R, W>,
    steps: Steps,
    begun: Instant,
}

impl<R: Read, W: Write> Watch for Rounds<'_, R, W> {
    fn pages(&mut self, round: u32, done: u64, total: u64) {
        if self.steps.is_new(done, total) {
            self.libxl.progress(&live_frames(round), done, total);
        }
    }

    fn round(&mut self, sent: &RoundSent) {
        log::info!("{sent}");
    }

    fn now(&mut self) -> Duration {
        self.begun.elapsed()
    }

    fn wait(&mut self, time: Duration) {
        self.libxl.wait(time);
    }
}

/// Which of all that is told of progress is passed on: the start, each whole percent, the end. xl shows no more than that.
#[derive(Debug, Default)]
struct Steps(Option<u64>);

impl Steps {
    fn is_new(&mut self, done: u64, total: u64) -> bool {
        let percent = done.saturating_mul(100).checked_div(total);
        let new = done == 0 || done == total || percent != self.0;
        self.0 = percent;
        new
    }
}

fn live_frames(round: u32) -> String {
    format!("Frames iteration {round}")
}

/// What a reply of a checkpoint's callbacks means for the next one: 1 go on, 0 no more, less than that a failure.
fn go_on(callback: &'static str, reply: i32) -> Result<bool, Failure> {
    match reply {
        1.. => Ok(true),
        0 => Ok(false),
        _ => Err(Failure::Reply { callback, reply }),
    }
}
