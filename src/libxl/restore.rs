//! A whole domain from a stream, as libxl restores it.
//!
//! ```text
//!   Restorer::start -> first_image -> Turn::Ended ------------------------> complete
//!                                  -> Turn::Checkpoint -> receive -> apply
//!                                            ^----------------------|
//!                                     the stream stops ------------------> complete
//! ```
//! A checkpoint counts once [`Restorer::apply`] (for the first: [`Restorer::first_image`]) has returned. Whatever happens
//! to the stream later, the domain is at that checkpoint, and [`Restorer::complete`] makes it fit to run.

use super::emulator::{EmulatorState, check_emulator};
use crate::hypervisor::{DeviceModel, RestoreDomain};
use crate::libxc::restore::{Ending, Options as LibxcOptions, Verified};
use crate::libxc::{self, RestoreError, Round};
use crate::stream::framer;
use crate::stream::handover::{LibxcReader, LibxlReader, ToLibxl};
use crate::stream::libxl::Record;
use std::io::Read;

/// How to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The stream's outermost layer, what it is for, and bounds. By default it starts with xl's preamble.
    pub stream: framer::Options,
    /// libxc's options. The limit of a buffered checkpoint covers libxl's part too.
    pub libxc: LibxcOptions,
}

/// Whose turn it is once an image or a round has been read.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is moved once a checkpoint")]
pub enum Turn<R> {
    /// Nobody's: the stream is complete, the source stands behind it.
    Ended(R),
    /// libxc's: a checkpoint is whole, the next round follows.
    Checkpoint(LibxcReader<R, ToLibxl>),
}

/// A stream whose start has been read.
#[derive(Debug)]
pub struct Started<R> {
    /// What restores it.
    pub restorer: Restorer,
    /// libxl's turn, for [`Restorer::first_image`].
    pub reader: LibxlReader<R>,
    /// The domain's configuration from the preamble of xl, without its NUL; `None` without a preamble.
    pub config: Option<Vec<u8>>,
}

/// Restores one domain.
#[derive(Debug)]
pub struct Restorer {
    libxc: libxc::Restorer,
    /// The round being read.
    round: Round,
    emulator: EmulatorState,
}

impl Restorer {
    /// Starts reading: the preamble of xl, if there is to be one, and libxl's header.
    ///
    /// # Errors
    /// The stream's, or the hypervisor's.
    pub fn start<R: Read, D: RestoreDomain>(
        source: R,
        domain: &D,
        options: Options,
    ) -> Result<Started<R>, RestoreError> {
        let (reader, config) = Restorer::open(source, options)?;
        Ok(Started { restorer: Restorer::new(domain, options)?, reader, config })
    }

    /// The first half of [`Restorer::start`], for who creates the domain by the configuration found: libxl's turn, and the
    /// configuration without its NUL.
    ///
    /// # Errors
    /// The stream's.
    pub fn open<R: Read>(source: R, options: Options) -> Result<(LibxlReader<R>, Option<Vec<u8>>), RestoreError> {
        let (reader, config) = LibxlReader::start(source, options.stream)?;
        let config = config.map(|mut config| {
            config.pop_if(|last| *last == 0);
            config
        });
        Ok((reader, config))
    }

    /// The second half of [`Restorer::start`].
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn new<D: RestoreDomain>(domain: &D, options: Options) -> Result<Self, RestoreError> {
        let libxc = libxc::Restorer::new(domain, options.libxc)?;
        Ok(Restorer { libxc, round: Round::default(), emulator: EmulatorState::default() })
    }

    /// What a VERIFY pass found; `None` when the stream has none.
    pub const fn verified(&self) -> Option<Verified> {
        self.libxc.verified()
    }

    /// Reads the first image, or the only one, and applies it as it arrives. Behind a checkpoint the domain is fit for
    /// [`Restorer::complete`].
    ///
    /// # Errors
    /// The stream's, the hypervisor's, the device model's. The domain is of no use then.
    pub fn first_image<R: Read, D: RestoreDomain + DeviceModel>(
        &mut self,
        mut reader: LibxlReader<R>,
        domain: &mut D,
    ) -> Result<Turn<R>, RestoreError> {
        to_libxc(&mut reader)?;
        let mut reader = reader.into_libxc().map_err(|reader| out_of_turn("LIBXC_CONTEXT", reader.offset()))?;
        self.libxc.headers(&mut reader)?;
        let ending = self.libxc.first_image(&mut reader, domain)?;
        let turn = self.libxl_part(reader, ending, domain)?;
        self.libxc.set_context(domain)?;
        self.load_emulator(domain)?;
        Ok(turn)
    }

    /// Reads a later round, whole, into memory of our own. The domain stays at the checkpoint before.
    ///
    /// # Errors
    /// The stream's, or a round that must be refused. When [`RestoreError::is_sender_gone`], the domain may go on from
    /// the checkpoint before.
    pub fn receive<R: Read, D: RestoreDomain + DeviceModel>(
        &mut self,
        mut reader: LibxcReader<R, ToLibxl>,
        domain: &D,
    ) -> Result<Turn<R>, RestoreError> {
        let ending = self.libxc.receive(&mut reader, &mut self.round)?;
        self.libxl_part(reader, ending, domain)
    }

    /// As [`Restorer::first_image`] in a stream that is known to be COLO's ([`crate::stream::Mode::Colo`]): behind the checkpoint it is
    /// still libxl's turn, for the primary says when the next one begins.
    ///
    /// # Errors
    /// As [`Restorer::first_image`]; a plain stream.
    pub fn first_image_colo<R: Read, D: RestoreDomain + DeviceModel>(
        &mut self,
        mut reader: LibxlReader<R>,
        domain: &mut D,
    ) -> Result<LibxlReader<R>, RestoreError> {
        to_libxc(&mut reader)?;
        let mut reader = reader.into_libxc().map_err(|reader| out_of_turn("LIBXC_CONTEXT", reader.offset()))?;
        self.libxc.headers(&mut reader)?;
        let ending = self.libxc.first_image(&mut reader, domain)?;
        let reader = self.colo_part(reader, ending, domain)?;
        self.libxc.set_context(domain)?;
        self.load_emulator(domain)?;
        Ok(reader)
    }

    /// As [`Restorer::receive`] behind [`Restorer::first_image_colo`] or itself: reads CHECKPOINT_STATE NEW and the round behind it.
    ///
    /// # Errors
    /// As [`Restorer::receive`].
    pub fn receive_colo<R: Read, D: RestoreDomain + DeviceModel>(
        &mut self,
        mut reader: LibxlReader<R>,
        domain: &D,
    ) -> Result<LibxlReader<R>, RestoreError> {
        match reader.next_record()? {
            Some((_, Record::CheckpointState(_))) => {}
            Some((item, _)) => return Err(out_of_turn("a record before CHECKPOINT_STATE", item.offset)),
            None => return Err(out_of_turn("the end of libxl's turn", reader.offset())),
        }
        let mut reader = reader.into_libxc().map_err(|reader| out_of_turn("CHECKPOINT_STATE", reader.offset()))?;
        let ending = self.libxc.receive(&mut reader, &mut self.round)?;
        self.colo_part(reader, ending, domain)
    }

    /// Bytes of the round last received.
    pub fn round_bytes(&self) -> u64 {
        self.round.bytes() + self.emulator.bytes()
    }

    /// Pfns that the round last received lists.
    pub fn round_pages(&self) -> usize {
        self.round.entries().len()
    }

    /// Applies the round last received.
    ///
    /// # Errors
    /// The hypervisor's, or the device model's; [`ApplyError`] tells whether the domain is at the checkpoint before, or
    /// at none.
    pub fn apply<D: RestoreDomain + DeviceModel>(&mut self, domain: &mut D) -> Result<(), ApplyError> {
        self.libxc.prepare(&self.round, domain).map_err(ApplyError::Refused)?;
        if let Err(refused) = self.load_emulator(domain) {
            self.libxc.take_back(domain).map_err(ApplyError::Torn)?;
            return Err(ApplyError::Refused(refused));
        }
        self.libxc.commit(&mut self.round, domain).map_err(ApplyError::Torn)
    }

    /// Makes the domain fit to run on this host, at the last checkpoint applied. It stays paused.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn complete<D: RestoreDomain>(&mut self, domain: &mut D) -> Result<(), RestoreError> {
        self.libxc.complete(domain)
    }

    fn load_emulator(&self, domain: &mut impl DeviceModel) -> Result<(), RestoreError> {
        let offset = self.emulator.offset;
        self.emulator.load(domain).map_err(|error| RestoreError::Hypervisor { offset, error })
    }

    /// Reads libxl's part behind libxc's.
    fn libxl_part<R: Read, D: DeviceModel>(
        &mut self,
        reader: LibxcReader<R, ToLibxl>,
        ending: Ending,
        domain: &D,
    ) -> Result<Turn<R>, RestoreError> {
        let reader = self.part(reader, ending, domain)?;
        match ending {
            Ending::End => Ok(Turn::Ended(reader.into_inner())),
            Ending::Checkpoint => {
                let reader = reader.into_libxc().map_err(|reader| out_of_turn("CHECKPOINT_END", reader.offset()))?;
                Ok(Turn::Checkpoint(reader))
            }
        }
    }

    /// The same in COLO, where it is libxl's turn yet.
    fn colo_part<R: Read, D: DeviceModel>(
        &mut self,
        reader: LibxcReader<R, ToLibxl>,
        ending: Ending,
        domain: &D,
    ) -> Result<LibxlReader<R>, RestoreError> {
        if ending == Ending::End {
            return Err(out_of_turn("END", reader.offset()));
        }
        self.part(reader, ending, domain)
    }

    fn part<R: Read, D: DeviceModel>(
        &mut self,
        reader: LibxcReader<R, ToLibxl>,
        ending: Ending,
        domain: &D,
    ) -> Result<LibxlReader<R>, RestoreError> {
        let mut reader = reader.into_libxl().map_err(|reader| out_of_turn("libxc's hand-over", reader.offset()))?;
        let (round, limit) = (self.round.bytes(), self.libxc.round_limit());
        take_part(&mut reader, ending, &mut self.emulator, domain, |offset, bytes| {
            let needed = round + bytes;
            if needed > limit { Err(RestoreError::RoundLimit { offset, needed, limit }) } else { Ok(()) }
        })?;
        Ok(reader)
    }
}

/// Reads up to LIBXC_CONTEXT.
///
/// # Errors
/// The stream's.
pub(crate) fn to_libxc<R: Read>(reader: &mut LibxlReader<R>) -> Result<(), RestoreError> {
    loop {
        match reader.next_record()? {
            Some((_, Record::LibxcContext)) => return Ok(()),
            Some((_, Record::Optional { .. })) => {}
            Some((item, _)) => return Err(out_of_turn("a record before LIBXC_CONTEXT", item.offset)),
            None => return Err(out_of_turn("the end of libxl's turn", reader.offset())),
        }
    }
}

/// Reads libxl's part behind libxc's, up to END or CHECKPOINT_END, into `emulator`, replacing what it had. `limit` hears with
/// each record's offset how many bytes it holds then.
///
/// # Errors
/// The stream's, or that of `limit`.
pub(crate) fn take_part<R: Read, D: DeviceModel>(
    reader: &mut LibxlReader<R>,
    ending: Ending,
    emulator: &mut EmulatorState,
    domain: &D,
    limit: impl Fn(u64, u64) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    emulator.clear();
    loop {
        let Some((item, record)) = reader.next_record()? else {
            return Err(out_of_turn("the end of libxl's turn", reader.offset()));
        };
        let offset = item.offset;
        emulator.offset = offset;
        match record {
            Record::EmulatorXenstoreData(data) => {
                check_emulator("EMULATOR_XENSTORE_DATA", offset, data.header, domain)?;
                if !emulator.set_xenstore(&data) {
                    return Err(out_of_turn("a second EMULATOR_XENSTORE_DATA", offset));
                }
                limit(offset, emulator.bytes())?;
            }
            Record::EmulatorContext(context) => {
                check_emulator("EMULATOR_CONTEXT", offset, context.header, domain)?;
                if !emulator.set_context(&context) {
                    return Err(out_of_turn("a second EMULATOR_CONTEXT", offset));
                }
                limit(offset, emulator.bytes())?;
            }
            Record::Optional { .. } => {}
            Record::End if ending == Ending::End => return Ok(()),
            Record::CheckpointEnd if ending == Ending::Checkpoint => return Ok(()),
            Record::End => return Err(out_of_turn("END", offset)),
            Record::CheckpointEnd => return Err(out_of_turn("CHECKPOINT_END", offset)),
            Record::LibxcContext => return Err(out_of_turn("LIBXC_CONTEXT", offset)),
            Record::CheckpointState(_) => return Err(out_of_turn("CHECKPOINT_STATE", offset)),
            // Of a newer library: a receiver that does not know a mandatory record must not pass over it.
            _ => return Err(out_of_turn("a record that this receiver does not know", offset)),
        }
    }
}

/// Why a round was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It was refused as a whole: the domain is at the checkpoint before.
    #[error(transparent)]
    Refused(RestoreError),
    /// It was applied in part: the domain must not run any more.
    #[error("the domain is damaged, a checkpoint was applied in part: {0}")]
    Torn(RestoreError),
}

fn out_of_turn(record: &'static str, offset: u64) -> RestoreError {
    RestoreError::Unexpected { record, offset }
}
