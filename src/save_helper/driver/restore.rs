//! A domain from a stream whose libxc records a helper reads.

use super::{DriverError, Libxc, Story, reply, run};
use crate::hypervisor::DeviceModel;
use crate::libxc::restore::{Ending, Rings};
use crate::libxl::emulator::EmulatorState;
use crate::libxl::restore::{take_part, to_libxc};
use crate::save_helper::arguments::{Callbacks, Command, Fds, Restore, StreamType};
use crate::save_helper::message::Level;
use crate::save_helper::parent::Answers;
use crate::save_helper::restore::Ended;
use crate::stream::handover::{AwayReader, LibxlReader};
use crate::stream::reader::ReadError;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsFd;

/// What a restore has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// How it ended. The domain is paused.
    pub ended: Ended,
    /// gfn of the xenstore ring.
    pub store_gfn: u64,
    /// gfn of the console ring.
    pub console_gfn: u64,
    /// Static data that the stream did not have, as `static_data_done` tells it: bit 0 CPUID, bit 1 MSRs.
    pub missing: u32,
}

/// What the helper's answers to its rings and its static data were.
#[derive(Debug, Clone, Copy, Default)]
struct Results {
    store_gfn: u64,
    console_gfn: u64,
    missing: u32,
}

/// Restores a plain image, and gives the source back, behind libxl's END. `reader` comes from
/// [`crate::libxl::Restorer::open`]; the domain has been created by the configuration found, empty and paused.
///
/// # Errors
/// [`DriverError`]: the domain is of no use.
pub fn plain<D: DeviceModel>(
    libxc: Libxc,
    domain: &mut D,
    reader: LibxlReader<File>,
    rings: Rings,
) -> Result<(Restored, File), DriverError> {
    let mut libxl = Restoring::start(domain, reader)?;
    libxl.run(libxc, rings, StreamType::Plain)?;
    let mut reader = libxl.reader.take().ok_or(DriverError::OutOfTurn("END"))?.end()?;
    take_part(&mut reader, Ending::End, &mut libxl.next, libxl.domain, |_, _| Ok(()))?;
    std::mem::swap(&mut libxl.next, &mut libxl.emulator);
    libxl.load()?;
    Ok((libxl.results(Ended::Complete), reader.into_inner()))
}

/// Takes checkpoints until the stream stops, which is the primary's death, and goes over to the last. Anything else that the
/// stream may do is an error, and the primary may well be alive.
///
/// # Errors
/// [`DriverError`]: the domain is of no use.
pub fn remus<D: DeviceModel>(
    libxc: Libxc,
    domain: &mut D,
    reader: LibxlReader<File>,
    rings: Rings,
) -> Result<Restored, DriverError> {
    let mut libxl = Restoring::start(domain, reader)?;
    libxl.run(libxc, rings, StreamType::Remus)?;
    if libxl.checkpoints == 0 {
        return Err(DriverError::OutOfTurn("the end, before a checkpoint,"));
    }
    libxl.load()?;
    Ok(libxl.results(Ended::FailOver { checkpoint: libxl.checkpoints }))
}

/// libxl of the side that restores.
struct Restoring<'a, D> {
    domain: &'a mut D,
    /// The stream, whenever it is the helper's. Gone when libxl's part of it stopped or failed.
    reader: Option<AwayReader<File>>,
    /// The device model's state of the last whole checkpoint.
    emulator: EmulatorState,
    /// That of the checkpoint being read.
    next: EmulatorState,
    checkpoints: u64,
    found: Results,
    story: Story,
}

impl<'a, D: DeviceModel> Restoring<'a, D> {
    fn start(domain: &'a mut D, mut reader: LibxlReader<File>) -> Result<Self, DriverError> {
        to_libxc(&mut reader)?;
        let reader = reader.into_libxc_elsewhere().map_err(|_| DriverError::OutOfTurn("LIBXC_CONTEXT"))?;
        Ok(Restoring {
            domain,
            reader: Some(reader),
            emulator: EmulatorState::default(),
            next: EmulatorState::default(),
            checkpoints: 0,
            found: Results::default(),
            story: Story::default(),
        })
    }

    fn run(&mut self, libxc: Libxc, rings: Rings, stream: StreamType) -> Result<(), DriverError> {
        let mut callbacks = Callbacks::STATIC_DATA_DONE | Callbacks::RESTORE_RESULTS;
        callbacks.set(Callbacks::CHECKPOINT, stream != StreamType::Plain);
        // The descriptor's number is the one that it is inherited by.
        let fds = Fds { stream: 0, back: None };
        let command = Command::Restore(Restore { fds, domid: libxc.domid, rings, callbacks, stream });
        let reader = self.reader.as_ref().ok_or(DriverError::OutOfTurn("the start"))?;
        let offset = reader.offset();
        let source = reader.get_ref().try_clone().map_err(|error| ReadError::Io { offset, error })?;
        let completion = run(libxc, &command, source.as_fd(), self)?;
        std::mem::take(&mut self.story).end(completion)
    }

    /// Reads libxl's part of a checkpoint. The state of the one before stays until this one is whole.
    fn read_part(&mut self) -> Result<(), DriverError> {
        let mut reader = self.reader.take().ok_or(DriverError::OutOfTurn("checkpoint"))?.checkpoint()?;
        take_part(&mut reader, Ending::Checkpoint, &mut self.next, self.domain, |_, _| Ok(()))?;
        let reader = reader.into_libxc_elsewhere().map_err(|_| DriverError::OutOfTurn("CHECKPOINT_END"))?;
        self.reader = Some(reader);
        std::mem::swap(&mut self.emulator, &mut self.next);
        self.checkpoints += 1;
        Ok(())
    }

    fn load(&mut self) -> Result<(), DriverError> {
        self.emulator.load(self.domain).map_err(|error| DriverError::Domain { callback: "complete", error })
    }

    fn results(&self, ended: Ended) -> Restored {
        let Results { store_gfn, console_gfn, missing } = self.found;
        Restored { ended, store_gfn, console_gfn, missing }
    }
}

/// The replies to `checkpoint`.
const FAILED: i32 = 0;
const FAIL_OVER: i32 = 2;

impl<D: DeviceModel> Answers for Restoring<'_, D> {
    fn log(&mut self, level: Level, errno: u32, _: &CStr, text: &CStr) {
        self.story.log(level, errno, text);
    }

    fn checkpoint(&mut self) -> i32 {
        match self.read_part() {
            Ok(()) => reply(true),
            Err(DriverError::Restore(error)) if self.checkpoints > 0 && error.is_sender_gone() => {
                log::info!("{error}");
                FAIL_OVER
            }
            Err(error) => {
                self.story.keep(Err(error));
                FAILED
            }
        }
    }

    fn static_data_done(&mut self, missing: u32) -> i32 {
        self.found.missing = missing;
        0
    }

    fn restore_results(&mut self, store_gfn: u64, console_gfn: u64) {
        (self.found.store_gfn, self.found.console_gfn) = (store_gfn, console_gfn);
    }
}
