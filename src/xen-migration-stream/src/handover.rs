//! Who owns the stream, as types: the change of owner is a move of a value.
//!
//! libxl and libxc take turns on one fd. Here each side's reader and writer is a value that the other side's is made
//! from, so a record of libxl cannot be written while libxc owns the stream: there is no value to write it with.
//!
//! ```text
//!   LibxlWriter --libxc_context--> LibxcWriter --end--> LibxlWriter --end--> sink
//!                                     ^   |
//!             next_round, out_of_sync |   | checkpoint
//!                                     |   v
//!                 BetweenCheckpoints <--- LibxlWriter
//!                            checkpoint_end
//! ```
//!
//! Writers also hold what they write to the grammar; an order that the specification does not allow is an error before
//! a byte is written. Readers give the records of their own side and then `None`; the hand-over makes the other
//! side's reader, with the source exactly behind the last record.
//!
//! ```compile_fail,E0599
//! use xen_migration_stream::{Mode, handover::LibxlWriter, libxc::{DomainHeader, DomainType}, libxl};
//! let libxl = LibxlWriter::start(Vec::new(), Mode::Plain, None)?;
//! let libxc = libxl.libxc_context(3, DomainHeader::new(DomainType::Hvm, 4, 17))?;
//! libxc.checkpoint_end()?; // a record of libxl, while libxc owns the stream
//! # Ok::<(), xen_migration_stream::handover::WriteError>(())
//! ```
//!
//! ```compile_fail,E0382
//! use xen_migration_stream::{Mode, handover::LibxlWriter, libxc::{DomainHeader, DomainType}, libxl};
//! let mut libxl = LibxlWriter::start(Vec::new(), Mode::Plain, None)?;
//! let libxc = libxl.libxc_context(3, DomainHeader::new(DomainType::Hvm, 4, 17))?;
//! libxl.flush()?; // libxl's writer is gone
//! # Ok::<(), xen_migration_stream::handover::WriteError>(())
//! ```
//!
//! [`Alone`] is the libxc side without libxl in the same program: a save helper, which is told of hand-overs by other
//! means and keeps its place in the stream meanwhile. [`AwayWriter`] and [`AwayReader`] are the libxl side without libxc in the
//! same program: what drives such a helper.

mod elsewhere;

pub use elsewhere::{AwayReader, AwayWriter};

use super::check::{Checker, Parsed};
use super::error::{Severity, StreamError};
use super::framer::{Item, Options, What};
use super::grammar::{Event, Grammar, OrderError};
use super::libxc::{self, DomainHeader, ImageHeader, PageEntry, types as xc};
use super::libxl::{self, ControlId, Header, types as xl};
use super::reader::{Contents, PullReader, ReadError};
use super::writer::RecordWriter;
use super::{Layer, Mode, Problem, Start};
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use thiserror::Error;

/// The stream goes back to libxl at CHECKPOINT and END.
#[derive(Debug, Clone, Copy)]
pub struct ToLibxl;

/// There is no libxl in this program.
#[derive(Debug, Clone, Copy)]
pub struct Alone;

/// Why a record was not written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The sink refused it. How much of it went out is not known.
    #[error("writing the stream at offset {offset}: {error}")]
    Io {
        /// Offset of the record.
        offset: u64,
        /// The system's error.
        error: io::Error,
    },
    /// It may not stand here. Nothing was written.
    #[error("not written at offset {offset}: {error}")]
    Order {
        /// Offset where it would have stood.
        offset: u64,
        /// The rule.
        error: OrderError,
    },
    /// A record that hands the stream over must be written by the method that moves the writer.
    #[error("{0} hands the stream over and is no ordinary record")]
    HandsOver(&'static str),
}

#[derive(Debug)]
struct Pen<W> {
    out: RecordWriter<W>,
    grammar: Grammar,
}

impl<W: Write> Pen<W> {
    fn write(
        &mut self,
        events: &[Event],
        write: impl FnOnce(&mut RecordWriter<W>) -> io::Result<()>,
    ) -> Result<(), WriteError> {
        let offset = self.out.written();
        let mut refused = None;
        for &event in events {
            self.grammar.check(event, &mut |problem| {
                if let Problem::Order(error) = problem {
                    refused.get_or_insert(error);
                }
            });
        }
        match refused {
            Some(error) => Err(WriteError::Order { offset, error }),
            None => write(&mut self.out).map_err(|error| WriteError::Io { offset, error }),
        }
    }

    fn libxl(&mut self, record: &libxl::Record<'_>, type_id: u32) -> Result<(), WriteError> {
        let control = match record {
            libxl::Record::CheckpointState(state) => Some(state.control_id),
            _ => None,
        };
        self.write(&[Event::Record(Layer::Libxl, type_id, control)], |out| out.libxl(record))
    }

    fn libxc(&mut self, record: &libxc::Record<'_>, type_id: u32) -> Result<(), WriteError> {
        self.write(&[Event::Record(Layer::Libxc, type_id, None)], |out| out.libxc(record))
    }
}

/// libxl's turn at the sink.
#[derive(Debug)]
pub struct LibxlWriter<W> {
    pen: Pen<W>,
}

impl<W: Write> LibxlWriter<W> {
    /// Starts a stream with libxl's header, behind the preamble of xl when `config` is given.
    ///
    /// # Errors
    /// The sink's.
    pub fn start(sink: W, mode: Mode, config: Option<&str>) -> Result<Self, WriteError> {
        let mut pen = Pen { out: RecordWriter::new(sink), grammar: Grammar::new(Some(mode)) };
        pen.write(&[], |out| {
            if let Some(config) = config {
                let mut preamble = Vec::new();
                super::xl::emit(config, &mut preamble)?;
                out.raw(&preamble)?;
            }
            out.raw(&Header { options: 0 }.emit())
        })?;
        Ok(LibxlWriter { pen })
    }

    /// Bytes written since the start of the stream.
    pub const fn written(&self) -> u64 {
        self.pen.out.written()
    }

    /// Hands the stream to libxc for the first image: LIBXC_CONTEXT and libxc's headers.
    ///
    /// # Errors
    /// The sink's, or the grammar's.
    pub fn libxc_context(mut self, version: u32, domain: DomainHeader) -> Result<LibxcWriter<W, ToLibxl>, WriteError> {
        self.pen.libxl(&libxl::Record::LibxcContext, xl::LIBXC_CONTEXT)?;
        LibxcWriter::headers(self.pen, version, domain)
    }

    /// Writes the device model's xenstore entries or its state.
    ///
    /// # Errors
    /// The sink's, the grammar's, or [`WriteError::HandsOver`].
    pub fn record(&mut self, record: &libxl::Record<'_>) -> Result<(), WriteError> {
        let type_id = match record {
            libxl::Record::End => return Err(WriteError::HandsOver("END")),
            libxl::Record::LibxcContext => return Err(WriteError::HandsOver("LIBXC_CONTEXT")),
            libxl::Record::CheckpointEnd => return Err(WriteError::HandsOver("CHECKPOINT_END")),
            libxl::Record::EmulatorXenstoreData(_) => xl::EMULATOR_XENSTORE_DATA,
            libxl::Record::EmulatorContext(_) => xl::EMULATOR_CONTEXT,
            libxl::Record::CheckpointState(_) => xl::CHECKPOINT_STATE,
            libxl::Record::Optional { type_id, .. } => *type_id,
        };
        self.pen.libxl(record, type_id)
    }

    /// Ends a checkpoint.
    ///
    /// # Errors
    /// The sink's, or the grammar's.
    pub fn checkpoint_end(mut self) -> Result<BetweenCheckpoints<W>, WriteError> {
        self.pen.libxl(&libxl::Record::CheckpointEnd, xl::CHECKPOINT_END)?;
        self.flush()?;
        Ok(BetweenCheckpoints { pen: self.pen })
    }

    /// Ends the stream and gives the sink back.
    ///
    /// # Errors
    /// The sink's, or the grammar's.
    pub fn end(mut self) -> Result<W, WriteError> {
        self.pen.libxl(&libxl::Record::End, xl::END)?;
        self.flush()?;
        Ok(self.pen.out.into_inner())
    }

    /// Flushes the sink.
    ///
    /// # Errors
    /// The sink's.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.pen.write(&[], RecordWriter::flush)
    }
}

/// Behind CHECKPOINT_END: the next round has not begun.
#[derive(Debug)]
pub struct BetweenCheckpoints<W> {
    pen: Pen<W>,
}

impl<W: Write> BetweenCheckpoints<W> {
    /// Remus: the next round begins with libxc at once.
    pub fn next_round(self) -> LibxcWriter<W, ToLibxl> {
        LibxcWriter { pen: self.pen, home: PhantomData }
    }

    /// COLO: libxl says that the two sides differ, then the next round begins with libxc.
    ///
    /// # Errors
    /// The sink's, or the grammar's.
    pub fn out_of_sync(mut self) -> Result<LibxcWriter<W, ToLibxl>, WriteError> {
        let state = libxl::CheckpointState { control_id: ControlId::New, padding: 0 };
        self.pen.libxl(&libxl::Record::CheckpointState(state), xl::CHECKPOINT_STATE)?;
        self.pen.write(&[], RecordWriter::flush)?;
        Ok(self.next_round())
    }

    /// Bytes written since the start of the stream.
    pub const fn written(&self) -> u64 {
        self.pen.out.written()
    }
}

/// libxc's turn at the sink.
#[derive(Debug)]
pub struct LibxcWriter<W, Home> {
    pen: Pen<W>,
    home: PhantomData<Home>,
}

impl<W: Write, Home> LibxcWriter<W, Home> {
    fn headers(mut pen: Pen<W>, version: u32, domain: DomainHeader) -> Result<Self, WriteError> {
        let image = ImageHeader::new(version);
        let events = [Event::ImageHeader(version), Event::DomainHeader(domain.domain_type())];
        pen.write(&events, |out| {
            out.raw(&image.emit())?;
            out.raw(&domain.emit())
        })?;
        Ok(LibxcWriter { pen, home: PhantomData })
    }

    /// Bytes written since the start of the stream.
    pub const fn written(&self) -> u64 {
        self.pen.out.written()
    }

    /// Writes a record.
    ///
    /// # Errors
    /// The sink's, the grammar's, or [`WriteError::HandsOver`] for CHECKPOINT and END.
    pub fn record(&mut self, record: &libxc::Record<'_>) -> Result<(), WriteError> {
        match record {
            libxc::Record::End => Err(WriteError::HandsOver("END")),
            libxc::Record::Checkpoint => Err(WriteError::HandsOver("CHECKPOINT")),
            _ => self.pen.libxc(record, record.type_id()),
        }
    }

    /// Writes a PAGE_DATA record from the pages themselves, see [`RecordWriter::page_data`].
    ///
    /// # Errors
    /// The sink's, or the grammar's.
    pub fn page_data<'a, E, C>(&mut self, entries: E, contents: C) -> Result<(), WriteError>
    where
        E: ExactSizeIterator<Item = PageEntry> + Clone,
        C: IntoIterator<Item = &'a [u8]>,
        C::IntoIter: Clone,
    {
        self.pen.write(&[Event::Record(Layer::Libxc, xc::PAGE_DATA, None)], |out| out.page_data(entries, contents))
    }

    /// Flushes the sink.
    ///
    /// # Errors
    /// The sink's.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.pen.write(&[], RecordWriter::flush)
    }
}

impl<W: Write> LibxcWriter<W, ToLibxl> {
    /// Says that the state is whole and gives the stream back to libxl.
    ///
    /// # Errors
    /// The sink's, or the grammar's.
    pub fn checkpoint(mut self) -> Result<LibxlWriter<W>, WriteError> {
        self.pen.libxc(&libxc::Record::Checkpoint, xc::CHECKPOINT)?;
        Ok(LibxlWriter { pen: self.pen })
    }

    /// Ends libxc's part and gives the stream back to libxl.
    ///
    /// # Errors
    /// The sink's, or the grammar's.
    pub fn end(mut self) -> Result<LibxlWriter<W>, WriteError> {
        self.pen.libxc(&libxc::Record::End, xc::END)?;
        Ok(LibxlWriter { pen: self.pen })
    }
}

impl<W: Write> LibxcWriter<W, Alone> {
    /// Starts a bare libxc stream.
    ///
    /// # Errors
    /// The sink's.
    pub fn start(sink: W, mode: Mode, version: u32, domain: DomainHeader) -> Result<Self, WriteError> {
        let pen = Pen { out: RecordWriter::new(sink), grammar: Grammar::new(Some(mode)) };
        Self::headers(pen, version, domain)
    }

    /// Says that the state is whole. The caller hands the sink to libxl's process and must not write before it is back.
    ///
    /// # Errors
    /// The sink's, or the grammar's.
    pub fn checkpoint(&mut self) -> Result<(), WriteError> {
        self.pen.libxc(&libxc::Record::Checkpoint, xc::CHECKPOINT)?;
        self.flush()
    }

    /// Ends the stream and gives the sink back.
    ///
    /// # Errors
    /// The sink's, or the grammar's.
    pub fn end(mut self) -> Result<W, WriteError> {
        self.pen.libxc(&libxc::Record::End, xc::END)?;
        self.flush()?;
        Ok(self.pen.out.into_inner())
    }
}

type Held<'a, R> = (Item<'a>, Option<Parsed<'a>>, Contents<'a, R>);

/// A record of libxc and its place, and if it is PAGE_DATA its contents.
pub type HeldRecord<'a, R> = (Item<'a>, libxc::Record<'a>, Contents<'a, R>);

#[derive(Debug)]
struct Eye<R> {
    source: PullReader<R>,
    checker: Checker,
}

impl<R: Read> Eye<R> {
    fn next(&mut self, owner: Layer) -> Result<Option<(Item<'_>, Option<Parsed<'_>>)>, ReadError> {
        if self.source.framer().owner() != Some(owner) {
            return Ok(None);
        }
        if !self.source.fetch().map_err(|error| self.judge_end(error))? {
            return Ok(None);
        }
        let Some(item) = self.source.take_whole()? else {
            return Ok(None);
        };
        let parsed = self.checker.receive(&item)?;
        Ok(Some((item, parsed)))
    }

    fn next_held(&mut self, owner: Layer) -> Result<Option<Held<'_, R>>, ReadError> {
        if self.source.framer().owner() != Some(owner) {
            return Ok(None);
        }
        let Some((item, contents)) = self.source.next_held()? else {
            return Ok(None);
        };
        let parsed = self.checker.receive(&item)?;
        Ok(Some((item, parsed, contents)))
    }

    /// What an error means that has ended the stream within a record.
    fn judge_end(&self, error: ReadError) -> ReadError {
        match error {
            ReadError::Stream(error) => self.checker.judge_end(error, self.source.torn_record()).into(),
            error => error,
        }
    }

    fn header(&mut self, owner: Layer) -> Result<Option<What<'_>>, ReadError> {
        Ok(self.next(owner)?.map(|(item, _)| item.what))
    }
}

/// libxl's turn at the source.
#[derive(Debug)]
pub struct LibxlReader<R> {
    eye: Eye<R>,
}

impl<R: Read> LibxlReader<R> {
    /// Starts reading a stream of libxl, behind the preamble of xl when `options.start` says so. Gives the
    /// configuration from the preamble, its NUL included.
    ///
    /// # Errors
    /// The source's, or a stream that must be refused.
    pub fn start(source: R, options: Options) -> Result<(Self, Option<Vec<u8>>), ReadError> {
        let options = Options { start: Some(options.start.unwrap_or(Start::Xl)), ..options };
        let mut eye = Eye { source: PullReader::new(source, options), checker: Checker::new(options.mode) };
        let mut config = None;
        if let Some(What::XlPreamble(preamble)) = eye.header(Layer::Xl)? {
            // The checker has refused a configuration that cannot be read.
            config = preamble.config().ok().map(<[u8]>::to_vec);
        }
        eye.header(Layer::Libxl)?;
        Ok((LibxlReader { eye }, config))
    }

    /// The next record of libxl; `None` when it is libxc's turn, and behind END.
    ///
    /// # Errors
    /// The source's, or a stream that must be refused.
    pub fn next_record(&mut self) -> Result<Option<(Item<'_>, libxl::Record<'_>)>, ReadError> {
        match self.eye.next(Layer::Libxl)? {
            Some((item, Some(Parsed::Libxl(record)))) => Ok(Some((item, record))),
            _ => Ok(None),
        }
    }

    /// Hands the source to libxc.
    ///
    /// # Errors
    /// Gives the reader back when it is not libxc's turn.
    #[expect(clippy::result_large_err, reason = "the reader is what the caller goes on with")]
    pub fn into_libxc(self) -> Result<LibxcReader<R, ToLibxl>, Self> {
        match self.eye.source.framer().owner() {
            Some(Layer::Libxc) => Ok(LibxcReader { eye: self.eye, home: PhantomData }),
            _ => Err(self),
        }
    }

    /// The source, behind the last record read.
    pub fn into_inner(self) -> R {
        self.eye.source.into_inner()
    }

    /// Bytes read since the start of the stream.
    pub const fn offset(&self) -> u64 {
        self.eye.source.framer().offset()
    }
}

/// libxc's turn at the source.
#[derive(Debug)]
pub struct LibxcReader<R, Home> {
    eye: Eye<R>,
    home: PhantomData<Home>,
}

impl<R: Read, Home> LibxcReader<R, Home> {
    /// Reads the two headers, at the start of libxc's first turn.
    ///
    /// # Errors
    /// The source's, or a stream that must be refused.
    pub fn headers(&mut self) -> Result<(ImageHeader, DomainHeader), ReadError> {
        let image = match self.eye.header(Layer::Libxc)? {
            Some(What::ImageHeader(header)) => header,
            _ => return Err(self.not_at_headers()),
        };
        match self.eye.header(Layer::Libxc)? {
            Some(What::DomainHeader(header)) => Ok((image, header)),
            _ => Err(self.not_at_headers()),
        }
    }

    /// The next record of libxc; `None` when it is libxl's turn, and behind the last END.
    ///
    /// # Errors
    /// The source's, or a stream that must be refused.
    pub fn next_record(&mut self) -> Result<Option<(Item<'_>, libxc::Record<'_>)>, ReadError> {
        match self.eye.next(Layer::Libxc)? {
            Some((item, Some(Parsed::Libxc(record)))) => Ok(Some((item, record))),
            _ => Ok(None),
        }
    }

    /// The same, except that the contents of PAGE_DATA stay in the source, from where they can be read to where they belong.
    ///
    /// # Errors
    /// The source's, or a stream that must be refused.
    pub fn next_held(&mut self) -> Result<Option<HeldRecord<'_, R>>, ReadError> {
        match self.eye.next_held(Layer::Libxc)? {
            Some((item, Some(Parsed::Libxc(record)), contents)) => Ok(Some((item, record, contents))),
            _ => Ok(None),
        }
    }

    /// Bytes read since the start of the stream.
    pub const fn offset(&self) -> u64 {
        self.eye.source.framer().offset()
    }

    /// The source, behind the last record read.
    pub fn into_inner(self) -> R {
        self.eye.source.into_inner()
    }

    fn not_at_headers(&self) -> ReadError {
        let offset = self.offset();
        ReadError::Io { offset, error: io::Error::new(io::ErrorKind::InvalidInput, "libxc's headers are read already") }
    }
}

impl<R: Read> LibxcReader<R, ToLibxl> {
    /// Hands the source back to libxl.
    ///
    /// # Errors
    /// Gives the reader back when it is not libxl's turn.
    #[expect(clippy::result_large_err, reason = "the reader is what the caller goes on with")]
    pub fn into_libxl(self) -> Result<LibxlReader<R>, Self> {
        match self.eye.source.framer().owner() {
            Some(Layer::Libxl) => Ok(LibxlReader { eye: self.eye }),
            _ => Err(self),
        }
    }
}

impl<R: Read> LibxcReader<R, Alone> {
    /// Starts reading a bare libxc stream.
    pub fn start(source: R, options: Options) -> Self {
        let options = Options { start: Some(Start::Libxc), ..options };
        let eye = Eye { source: PullReader::new(source, options), checker: Checker::new(options.mode) };
        LibxcReader { eye, home: PhantomData }
    }
}

impl StreamError {
    /// Whether a receiver must refuse the stream because of it.
    pub const fn is_refused(&self) -> bool {
        matches!(self.problem.severity(), Severity::Error)
    }
}
