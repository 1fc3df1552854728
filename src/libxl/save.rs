//! A whole domain onto a stream, as libxl saves it.
//!
//! A plain image is one call, [`Saver::plain`]. A checkpointed stream starts with [`Saver::begin`] and goes on round by
//! round: the domain is suspended, then either
//! * [`Saver::stage`] copies what has to go, the domain is resumed, and [`Saver::send`] writes the copy, most of which
//!   [`Saver::stage_ahead`] may have made before the domain was suspended; or
//! * [`Saver::collect`] and [`Saver::send_direct`] write from the domain's own memory, and it is resumed after that.
//!
//! Suspending and resuming are the caller's, who decides when, and what to do when something fails. [`Saver::stop`] ends
//! the tracking of writes, whatever happened.

use super::emulator::EmulatorState;
use crate::hypervisor::{DeviceModel, Pfn, SaveDomain};
use crate::libxc::{self, Ahead, CopyAhead, Round, SaveError, save::STREAM_VERSION};
use crate::stream::Mode;
use crate::stream::handover::{BetweenCheckpoints, LibxcWriter, LibxlWriter, ToLibxl};
use std::io::Write;

/// How to save.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The domain's configuration as JSON text, for the preamble of xl; without it the stream starts with libxl's header.
    pub config: Option<String>,
    /// libxc's options.
    pub libxc: libxc::save::Options,
}

/// Saves one domain.
#[derive(Debug)]
pub struct Saver {
    options: Options,
    libxc: libxc::Saver,
    round: Round,
    /// The round has been begun while the domain ran.
    ahead: bool,
    emulator: EmulatorState,
}

impl Saver {
    /// A saver for a domain.
    ///
    /// # Errors
    /// The hypervisor's; [`SaveError::P2m`].
    pub fn new<D: SaveDomain>(domain: &mut D, options: Options) -> Result<Self, SaveError> {
        let libxc = libxc::Saver::new(domain, options.libxc)?;
        Ok(Saver { options, libxc, round: Round::default(), ahead: false, emulator: EmulatorState::default() })
    }

    /// Saves a plain image of a running domain and gives the sink back. The domain is suspended on the way and stays so;
    /// with `live` it runs while most of its memory is sent.
    ///
    /// # Errors
    /// The hypervisor's, the device model's, or the stream's. Call [`Saver::stop`] then; the domain may be suspended.
    pub fn plain<D: SaveDomain + DeviceModel, W: Write>(
        &mut self,
        domain: &mut D,
        sink: W,
        live: bool,
    ) -> Result<W, SaveError> {
        let mut out = self.hand_to_libxc(sink, Mode::Plain)?;
        if live {
            domain.set_device_model_log_dirty(true)?;
        }
        self.libxc.image(domain, &mut out, live)?;
        if live {
            domain.set_device_model_log_dirty(false)?;
        }
        let mut out = out.end()?;
        self.emulator.take(domain)?;
        self.emulator.write(&mut out)?;
        Ok(out.end()?)
    }

    /// Starts a Remus stream: headers, static data, and all memory while the domain runs. From here on the domain's
    /// writes are tracked, its device model's too.
    ///
    /// # Errors
    /// As [`Saver::plain`].
    pub fn begin<D: SaveDomain + DeviceModel, W: Write>(
        &mut self,
        domain: &mut D,
        sink: W,
    ) -> Result<LibxcWriter<W, ToLibxl>, SaveError> {
        self.begin_checkpoints(domain, sink, Mode::Remus)
    }

    /// The same for COLO: between two checkpoints libxl has a word to say, [`BetweenCheckpoints::out_of_sync`].
    ///
    /// # Errors
    /// As [`Saver::plain`].
    pub fn begin_colo<D: SaveDomain + DeviceModel, W: Write>(
        &mut self,
        domain: &mut D,
        sink: W,
    ) -> Result<LibxcWriter<W, ToLibxl>, SaveError> {
        self.begin_checkpoints(domain, sink, Mode::Colo)
    }

    fn begin_checkpoints<D: SaveDomain + DeviceModel, W: Write>(
        &mut self,
        domain: &mut D,
        sink: W,
        mode: Mode,
    ) -> Result<LibxcWriter<W, ToLibxl>, SaveError> {
        // All of it goes anew.
        self.ahead = false;
        let mut out = self.hand_to_libxc(sink, mode)?;
        self.libxc.static_data(domain, &mut out)?;
        domain.set_device_model_log_dirty(true)?;
        self.libxc.start_log(domain)?;
        self.libxc.precopy(domain, &mut out)?;
        out.flush()?;
        Ok(out)
    }

    /// Copies what a running domain has written since the round before, so that less is left to do while it stands still; what it
    /// writes from then on is copied by [`Saver::stage`]. Nothing is done where `policy` has it wait or be sent, for a PV domain, and
    /// where it has been done for this round.
    ///
    /// # Errors
    /// The hypervisor's. What was written is lost to the log then: the stream cannot go on.
    pub fn stage_ahead<D: SaveDomain>(&mut self, domain: &mut D, policy: CopyAhead) -> Result<(), SaveError> {
        if !self.ahead && policy.before_suspend(self.libxc.written(domain)?) == Ahead::Stage {
            self.ahead = true;
            self.libxc.stage_ahead(domain, &mut self.round)?;
        }
        Ok(())
    }

    /// How many pages the copy of the round under way has.
    pub fn staged(&self) -> u64 {
        self.round.entries().len() as u64
    }

    /// How many pages have been copied ahead.
    pub fn staged_ahead(&self) -> u64 {
        if self.ahead { self.staged() } else { 0 }
    }

    /// Reads which pages the suspended domain has written since the round before, or since [`Saver::stage_ahead`]; gives their
    /// number.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn collect(&mut self, domain: &mut impl SaveDomain) -> Result<u64, SaveError> {
        self.libxc.collect(domain)
    }

    /// Names a page as one to be sent besides those that [`Saver::collect`] has named: COLO's secondary has written to its own.
    /// False when the domain can have no such page.
    pub fn also(&mut self, pfn: Pfn) -> bool {
        self.libxc.also(pfn)
    }

    /// How many pages are named.
    pub fn named(&self) -> u64 {
        self.libxc.named()
    }

    /// One more than the highest pfn that can be named.
    pub fn nr_pfns(&self) -> u64 {
        self.libxc.nr_pfns()
    }

    /// Copies the pages that [`Saver::collect`] has named, and all state of the suspended domain. It may be resumed then.
    ///
    /// # Errors
    /// The hypervisor's, or the device model's.
    pub fn stage<D: SaveDomain + DeviceModel>(&mut self, domain: &D) -> Result<(), SaveError> {
        match std::mem::take(&mut self.ahead) {
            true => self.libxc.stage_rest(domain, &mut self.round)?,
            false => self.libxc.stage(domain, &mut self.round)?,
        }
        self.emulator.take(domain)
    }

    /// Writes what [`Saver::stage`] has copied, as one checkpoint.
    ///
    /// # Errors
    /// The stream's.
    pub fn send<W: Write>(&mut self, mut out: LibxcWriter<W, ToLibxl>) -> Result<BetweenCheckpoints<W>, SaveError> {
        self.round.write(&mut out)?;
        self.end_checkpoint(out)
    }

    /// Writes a checkpoint from the suspended domain's own memory, which must stay as it is meanwhile.
    ///
    /// # Errors
    /// The hypervisor's, the device model's, or the stream's.
    pub fn send_direct<D: SaveDomain + DeviceModel, W: Write>(
        &mut self,
        domain: &D,
        mut out: LibxcWriter<W, ToLibxl>,
    ) -> Result<BetweenCheckpoints<W>, SaveError> {
        self.emulator.take(domain)?;
        if std::mem::take(&mut self.ahead) {
            self.libxc.unstage(&mut self.round);
        }
        self.libxc.send_pages(domain, &mut out)?;
        self.libxc.send_state(domain, &mut out)?;
        self.end_checkpoint(out)
    }

    /// Ends the tracking of the domain's writes.
    ///
    /// # Errors
    /// The hypervisor's, or the device model's; both are tried.
    pub fn stop<D: SaveDomain + DeviceModel>(&mut self, domain: &mut D) -> Result<(), SaveError> {
        let device_model = domain.set_device_model_log_dirty(false);
        if let Err(error) = self.libxc.stop_log(domain) {
            if let Err(second) = device_model {
                log::warn!("ending the device model's part of the tracking: {second}");
            }
            return Err(error);
        }
        Ok(device_model?)
    }

    fn end_checkpoint<W: Write>(&self, out: LibxcWriter<W, ToLibxl>) -> Result<BetweenCheckpoints<W>, SaveError> {
        let mut out = out.checkpoint()?;
        self.emulator.write(&mut out)?;
        Ok(out.checkpoint_end()?)
    }

    fn hand_to_libxc<W: Write>(&self, sink: W, mode: Mode) -> Result<LibxcWriter<W, ToLibxl>, SaveError> {
        let out = LibxlWriter::start(sink, mode, self.options.config.as_deref())?;
        Ok(out.libxc_context(STREAM_VERSION, self.libxc.header())?)
    }
}
