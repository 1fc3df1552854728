//! libxc's turn in another process, a save helper: libxl hands the fd over, keeps its place, and takes the fd back.
//!
//! ```text
//!   LibxlWriter --libxc_elsewhere--> AwayWriter --end, checkpoint--> LibxlWriter
//!   BetweenCheckpoints --next_round_elsewhere--> AwayWriter
//!   LibxlReader --into_libxc_elsewhere--> AwayReader --end, checkpoint--> LibxlReader
//! ```
//!
//! An `AwayWriter` cannot write and an `AwayReader` cannot read: all they give is the sink or the source, for its descriptor.
//! What the other process does to the stream is not seen here, so from then on offsets count libxl's own bytes alone, and
//! libxc's records are held to the grammar by whoever reads them.

use super::{BetweenCheckpoints, Eye, LibxlReader, LibxlWriter, Pen, WriteError};
use crate::Layer;
use crate::libxl;
use crate::libxl::types as xl;
use crate::reader::ReadError;
use std::io::{Read, Write};

/// The sink is another process's, which writes as libxc.
#[derive(Debug)]
pub struct AwayWriter<W> {
    pen: Pen<W>,
}

impl<W: Write> AwayWriter<W> {
    /// The sink, for the descriptor that the other process inherits. Writing to it breaks the stream.
    pub const fn get_ref(&self) -> &W {
        self.pen.out.get_ref()
    }

    /// libxc has written CHECKPOINT and says so.
    ///
    /// # Errors
    /// The grammar's: a plain stream has none.
    pub fn checkpoint(self) -> Result<LibxlWriter<W>, WriteError> {
        self.back(true)
    }

    /// libxc has written END and says so.
    ///
    /// # Errors
    /// None today; the same shape as [`AwayWriter::checkpoint`].
    pub fn end(self) -> Result<LibxlWriter<W>, WriteError> {
        self.back(false)
    }

    /// The sink, after a stream that ends without libxl's END.
    pub fn into_inner(self) -> W {
        self.pen.out.into_inner()
    }

    fn back(mut self, checkpoint: bool) -> Result<LibxlWriter<W>, WriteError> {
        let offset = self.pen.out.written();
        match self.pen.grammar.libxc_elsewhere(checkpoint) {
            Ok(()) => Ok(LibxlWriter { pen: self.pen }),
            Err(error) => Err(WriteError::Order { offset, error }),
        }
    }
}

impl<W: Write> LibxlWriter<W> {
    /// Writes LIBXC_CONTEXT and gives the stream to a libxc in another process, which begins with libxc's headers.
    ///
    /// # Errors
    /// The sink's, or the grammar's.
    pub fn libxc_elsewhere(mut self) -> Result<AwayWriter<W>, WriteError> {
        self.pen.libxl(&libxl::Record::LibxcContext, xl::LIBXC_CONTEXT)?;
        self.flush()?;
        Ok(AwayWriter { pen: self.pen })
    }
}

impl<W: Write> BetweenCheckpoints<W> {
    /// Remus: the next round begins with the libxc of the other process at once.
    pub fn next_round_elsewhere(self) -> AwayWriter<W> {
        AwayWriter { pen: self.pen }
    }
}

/// The source is another process's, which reads as libxc.
#[derive(Debug)]
pub struct AwayReader<R> {
    eye: Eye<R>,
}

impl<R: Read> AwayReader<R> {
    /// The source, for the descriptor that the other process inherits. Reading from it loses the stream.
    pub const fn get_ref(&self) -> &R {
        self.eye.source.get_ref()
    }

    /// libxc has read CHECKPOINT and says so.
    ///
    /// # Errors
    /// The grammar's: a plain stream has none.
    pub fn checkpoint(self) -> Result<LibxlReader<R>, ReadError> {
        self.back(true)
    }

    /// libxc has read END and says so.
    ///
    /// # Errors
    /// None today; the same shape as [`AwayReader::checkpoint`].
    pub fn end(self) -> Result<LibxlReader<R>, ReadError> {
        self.back(false)
    }

    /// Bytes of libxl's that were read.
    pub const fn offset(&self) -> u64 {
        self.eye.source.framer().offset()
    }

    /// The source, where the other process has left it.
    pub fn into_inner(self) -> R {
        self.eye.source.into_inner()
    }

    fn back(mut self, checkpoint: bool) -> Result<LibxlReader<R>, ReadError> {
        if let Err(error) = self.eye.checker.libxc_elsewhere(checkpoint) {
            return Err(self.eye.source.framer().refuse(error).into());
        }
        self.eye.source.framer_mut().libxc_elsewhere(checkpoint);
        Ok(LibxlReader { eye: self.eye })
    }
}

impl<R: Read> LibxlReader<R> {
    /// Hands the source to a libxc in another process. It stands at libxc's first byte: nothing behind the record that hands
    /// over has been read.
    ///
    /// # Errors
    /// Gives the reader back when it is not libxc's turn.
    #[expect(clippy::result_large_err, reason = "the reader is what the caller goes on with")]
    pub fn into_libxc_elsewhere(self) -> Result<AwayReader<R>, Self> {
        match self.eye.source.framer().owner() {
            Some(Layer::Libxc) => Ok(AwayReader { eye: self.eye }),
            _ => Err(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LibxcWriter;
    use super::*;
    use crate::framer::Options;
    use crate::libxc::{DomainHeader, DomainType};
    use crate::{Mode, Start};
    use std::io::Cursor;

    /// What a libxc alone writes up to the record that hands over.
    fn libxc(mode: Mode, checkpoint: bool) -> Vec<u8> {
        let header = DomainHeader::new(DomainType::Hvm, 4, 17);
        let mut out = LibxcWriter::start(Vec::new(), mode, 3, header).unwrap();
        out.record(&crate::libxc::Record::StaticDataEnd).unwrap();
        if checkpoint {
            out.checkpoint().unwrap();
            return out.pen.out.into_inner();
        }
        out.end().unwrap()
    }

    fn start(mode: Mode) -> AwayWriter<Vec<u8>> {
        LibxlWriter::start(Vec::new(), mode, Some("{}")).unwrap().libxc_elsewhere().unwrap()
    }

    fn reader(stream: &[u8], mode: Mode) -> AwayReader<Cursor<Vec<u8>>> {
        let options = Options { start: Some(Start::Xl), mode: Some(mode), ..Options::default() };
        let (mut reader, config) = LibxlReader::start(Cursor::new(stream.to_vec()), options).unwrap();
        assert_eq!(config.as_deref(), Some(&b"{}\0"[..]));
        let (_, record) = reader.next_record().unwrap().unwrap();
        assert_eq!(record, libxl::Record::LibxcContext);
        assert!(reader.next_record().unwrap().is_none());
        reader.into_libxc_elsewhere().unwrap()
    }

    /// What the other process does to a source.
    fn take(reader: &mut AwayReader<Cursor<Vec<u8>>>, bytes: &[u8]) {
        let at = reader.get_ref().position() as usize;
        assert_eq!(&reader.get_ref().get_ref()[at..at + bytes.len()], bytes, "the source stands elsewhere");
        let mut passed = vec![0; bytes.len()];
        reader.eye.source.get_mut().read_exact(&mut passed).unwrap();
    }

    #[test]
    fn a_plain_stream_goes_on_behind_libxcs_end() {
        let image = libxc(Mode::Plain, false);
        let mut away = start(Mode::Plain);
        away.pen.out.get_mut().extend(&image);
        let stream = away.end().unwrap().end().unwrap();
        let mut away = reader(&stream, Mode::Plain);
        take(&mut away, &image);
        let mut libxl = away.end().unwrap();
        assert_eq!(libxl.next_record().unwrap().unwrap().1, libxl::Record::End);
        assert_eq!(libxl.into_inner().position() as usize, stream.len());
        assert!(matches!(start(Mode::Plain).checkpoint(), Err(WriteError::Order { .. })));
        assert!(matches!(reader(&stream, Mode::Plain).checkpoint(), Err(ReadError::Stream(_))));
    }

    #[test]
    fn checkpoints_take_turns() {
        let image = libxc(Mode::Remus, true);
        let mut away = start(Mode::Remus);
        for _ in 0..3 {
            away.pen.out.get_mut().extend(&image);
            away = away.checkpoint().unwrap().checkpoint_end().unwrap().next_round_elsewhere();
        }
        let stream = away.into_inner();
        let mut away = reader(&stream, Mode::Remus);
        for _ in 0..3 {
            take(&mut away, &image);
            let mut libxl = away.checkpoint().unwrap();
            assert_eq!(libxl.next_record().unwrap().unwrap().1, libxl::Record::CheckpointEnd);
            assert!(libxl.next_record().unwrap().is_none());
            away = libxl.into_libxc_elsewhere().unwrap();
        }
        assert_eq!(away.into_inner().position() as usize, stream.len());
    }

    #[test]
    fn a_turn_that_is_not_libxcs_is_not_given() {
        let stream = start(Mode::Plain).into_inner();
        let options = Options { start: Some(Start::Xl), ..Options::default() };
        let (reader, _) = LibxlReader::start(&stream[..], options).unwrap();
        assert!(reader.into_libxc_elsewhere().is_err());
    }
}
