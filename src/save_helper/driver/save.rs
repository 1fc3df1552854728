//! A domain onto a stream whose libxc records a helper writes.

use super::{DriverError, Libxc, Story, reply, run};
use crate::hypervisor::{DeviceModel, Domain};
use crate::libxl::emulator::EmulatorState;
use crate::save_helper::arguments::{Callbacks, Command, Fds, Flags, Save, StreamType};
use crate::save_helper::message::Level;
use crate::save_helper::parent::Answers;
use crate::stream::Mode;
use crate::stream::handover::{AwayWriter, LibxlWriter};
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsFd;

/// How to save.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The domain's configuration as JSON text, for the preamble of xl; without it the stream starts with libxl's header.
    pub config: Option<String>,
    /// For the helper: whether the guest runs while most of its memory is sent, and VERIFY.
    pub flags: Flags,
}

/// Saves a plain image, as `xl save` does, and gives the sink back. The domain is suspended on the way and stays so.
///
/// # Errors
/// [`DriverError`]; the domain may be suspended then.
pub fn plain<D: Domain + DeviceModel>(
    libxc: Libxc,
    domain: &mut D,
    sink: File,
    options: &Options,
) -> Result<File, DriverError> {
    let mut libxl = Saving::start(domain, sink, Mode::Plain, options, |_, _| false)?;
    libxl.run(libxc, options.flags, StreamType::Plain)?;
    let mut out = libxl.out.take().ok_or(DriverError::OutOfTurn("END"))?.end()?;
    libxl.emulator.write(&mut out)?;
    Ok(out.end()?)
}

/// Saves checkpoint after checkpoint, as `xl remus` does. `go_on` hears of each that is written, with its number from 1, and
/// comes back when the next is due: true; or false when there shall be none. Gives the number of checkpoints and the sink.
///
/// The guest runs meanwhile from when libxc says `postcopy`; behind the last checkpoint too.
///
/// # Errors
/// [`DriverError`]; the domain may be suspended then.
pub fn remus<D: Domain + DeviceModel>(
    libxc: Libxc,
    domain: &mut D,
    sink: File,
    options: &Options,
    go_on: impl FnMut(&mut D, u64) -> bool,
) -> Result<(u64, File), DriverError> {
    let mut libxl = Saving::start(domain, sink, Mode::Remus, options, go_on)?;
    libxl.run(libxc, options.flags, StreamType::Remus)?;
    let out = libxl.out.take().ok_or(DriverError::OutOfTurn("the end"))?;
    Ok((libxl.checkpoints, out.into_inner()))
}

/// libxl of the side that saves.
struct Saving<'a, D, F> {
    domain: &'a mut D,
    /// The stream, whenever it is the helper's. Gone when libxl's part of it failed.
    out: Option<AwayWriter<File>>,
    /// The device model's state as of the last suspend.
    emulator: EmulatorState,
    checkpoints: u64,
    go_on: F,
    story: Story,
}

impl<'a, D: Domain + DeviceModel, F: FnMut(&mut D, u64) -> bool> Saving<'a, D, F> {
    fn start(domain: &'a mut D, sink: File, mode: Mode, options: &Options, go_on: F) -> Result<Self, DriverError> {
        let out = LibxlWriter::start(sink, mode, options.config.as_deref())?.libxc_elsewhere()?;
        let emulator = EmulatorState::default();
        Ok(Saving { domain, out: Some(out), emulator, checkpoints: 0, go_on, story: Story::default() })
    }

    fn run(&mut self, libxc: Libxc, flags: Flags, stream: StreamType) -> Result<(), DriverError> {
        let mut callbacks = Callbacks::SUSPEND | Callbacks::SWITCH_QEMU_LOGDIRTY;
        callbacks.set(Callbacks::POSTCOPY | Callbacks::CHECKPOINT, stream != StreamType::Plain);
        // The descriptor's number is the one that it is inherited by.
        let fds = Fds { stream: 0, back: None };
        let command = Command::Save(Save { fds, domid: libxc.domid, flags, callbacks, stream });
        let sink = self.out.as_ref().ok_or(DriverError::OutOfTurn("the start"))?.get_ref();
        let sink = sink.try_clone().map_err(|error| crate::stream::handover::WriteError::Io { offset: 0, error })?;
        let completion = run(libxc, &command, sink.as_fd(), self)?;
        std::mem::take(&mut self.story).end(completion)
    }

    fn try_suspend(&mut self) -> Result<(), DriverError> {
        self.domain.suspend().map_err(|error| DriverError::Domain { callback: "suspend", error })?;
        // The device model stands still as long as the guest does: in Remus not even until `checkpoint`.
        Ok(self.emulator.take(self.domain)?)
    }

    fn write_part(&mut self) -> Result<(), DriverError> {
        let mut out = self.out.take().ok_or(DriverError::OutOfTurn("checkpoint"))?.checkpoint()?;
        self.emulator.write(&mut out)?;
        self.out = Some(out.checkpoint_end()?.next_round_elsewhere());
        self.checkpoints += 1;
        Ok(())
    }
}

impl<D: Domain + DeviceModel, F: FnMut(&mut D, u64) -> bool> Answers for Saving<'_, D, F> {
    fn log(&mut self, level: Level, errno: u32, _: &CStr, text: &CStr) {
        self.story.log(level, errno, text);
    }

    fn suspend(&mut self) -> i32 {
        let done = self.try_suspend();
        reply(self.story.keep(done))
    }

    fn postcopy(&mut self) -> i32 {
        let done = self.domain.resume().map_err(|error| DriverError::Domain { callback: "postcopy", error });
        reply(self.story.keep(done))
    }

    fn checkpoint(&mut self) -> i32 {
        let done = self.write_part();
        reply(self.story.keep(done) && (self.go_on)(self.domain, self.checkpoints))
    }

    fn switch_qemu_logdirty(&mut self, _: u32, enable: bool) -> i32 {
        let done = self.domain.set_device_model_log_dirty(enable);
        let done = done.map_err(|error| DriverError::Domain { callback: "switch_qemu_logdirty", error });
        if self.story.keep(done) { 0 } else { -1 }
    }
}
