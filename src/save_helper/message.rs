//! The messages that the save helper writes to libxl, and their wire form: a native `u16` length, and so many bytes
//! that begin with a native `u16` number. Arguments follow each other without padding.
//!
//! A STRING is a native `u32` that counts the bytes with their NUL, and the bytes with their NUL. The helper and its
//! libxl run on one machine, so an `unsigned long` is as wide as in this program.
//!
//! Source: `tools/libs/light/libxl_save_msgs_gen.pl` and the comment at the top of `libxl_save_helper.c`.
#![forbid(unsafe_code)]

use nom::bytes::complete::take;
use nom::number::Endianness::Native;
use nom::number::complete as native;
use nom::{IResult, Parser};
use std::ffi::{CStr, c_ulong};
use std::io::{self, ErrorKind, Read};
use thiserror::Error;

/// Bytes of the length that every message begins with.
pub const LENGTH_LEN: usize = 2;

/// Numbers of the messages.
pub mod number {
    /// A line for the log.
    pub const LOG: u16 = 1;
    /// How far the work is.
    pub const PROGRESS: u16 = 2;
    /// Suspend the guest.
    pub const SUSPEND: u16 = 3;
    /// Let the guest run again.
    pub const POSTCOPY: u16 = 4;
    /// The stream is libxl's for one checkpoint.
    pub const CHECKPOINT: u16 = 5;
    /// Wait until the next checkpoint is due.
    pub const WAIT_CHECKPOINT: u16 = 6;
    /// Have the device model track its writes.
    pub const SWITCH_QEMU_LOGDIRTY: u16 = 7;
    /// The static data is complete.
    pub const STATIC_DATA_DONE: u16 = 8;
    /// Where the rings are.
    pub const RESTORE_RESULTS: u16 = 9;
    /// All is done.
    pub const COMPLETE: u16 = 10;
}

/// Importance of a line (`xentoollog_level` of `xentoollog.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// `XTL_DEBUG`.
    Debug,
    /// `XTL_VERBOSE`.
    Verbose,
    /// `XTL_DETAIL`.
    Detail,
    /// `XTL_PROGRESS`.
    Progress,
    /// `XTL_INFO`.
    Info,
    /// `XTL_NOTICE`.
    Notice,
    /// `XTL_WARN`.
    Warn,
    /// `XTL_ERROR`.
    Error,
    /// `XTL_CRITICAL`.
    Critical,
}

impl Level {
    const ALL: [Level; 9] = [
        Level::Debug,
        Level::Verbose,
        Level::Detail,
        Level::Progress,
        Level::Info,
        Level::Notice,
        Level::Warn,
        Level::Error,
        Level::Critical,
    ];

    /// The number on the wire, from 1.
    pub const fn wire(self) -> u32 {
        self as u32 + 1
    }

    fn from_wire(value: u32) -> Option<Self> {
        let index = usize::try_from(value).ok()?.checked_sub(1)?;
        Level::ALL.get(index).copied()
    }
}

/// A message. Strings are borrowed from where it was parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A line for the log.
    Log {
        /// How important it is.
        level: Level,
        /// The system's error that it is about; [`NO_ERRNO`] where there is none.
        errno: u32,
        /// Who says it.
        context: &'a CStr,
        /// What.
        text: &'a CStr,
    },
    /// How far the work is; 0 of 0 is an event.
    Progress {
        /// Who says it.
        context: &'a CStr,
        /// The work's name.
        doing: &'a CStr,
        /// How much is done.
        done: u64,
        /// Of how much.
        total: u64,
    },
    /// Suspend the guest. Reply 1 for success.
    Suspend,
    /// Let the guest run again. Reply 1 for success.
    Postcopy,
    /// The stream is libxl's for one checkpoint. Reply 1 to go on; on the receiving side 2 to fail over.
    Checkpoint,
    /// Wait until the next checkpoint is due. Reply 1 for success.
    WaitCheckpoint,
    /// Have the device model track its writes, or not. Reply 0 for success.
    SwitchQemuLogdirty {
        /// The domain.
        domid: u32,
        /// 1 to track, 0 not to.
        enable: u32,
    },
    /// The static data is complete. Reply 0 for success.
    StaticDataDone {
        /// [`MISSING_CPUID`], [`MISSING_MSR`].
        missing: u32,
    },
    /// Where the rings are; no reply.
    RestoreResults {
        /// gfn of the xenstore ring.
        store_gfn: u64,
        /// gfn of the console ring.
        console_gfn: u64,
    },
    /// All is done; the reply says only that libxl knows.
    Complete {
        /// 0 for success, else -1.
        retval: i32,
        /// The system's error behind it, 0 for success.
        errno: i32,
    },
}

/// `errno` of a line that is about none: `(uint32_t)-1`.
pub const NO_ERRNO: u32 = u32::MAX;
/// The stream has no CPUID policy (`XGR_SDD_MISSING_CPUID`).
pub const MISSING_CPUID: u32 = 1 << 0;
/// The stream has no MSR policy (`XGR_SDD_MISSING_MSR`).
pub const MISSING_MSR: u32 = 1 << 1;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MessageError {
    /// A number that stands for no message.
    #[error("message {0}: there is none of this number")]
    Number(u16),
    /// Its arguments do not fit in, or a STRING has no NUL at its end or one before.
    #[error("message {number}: {bytes} bytes do not hold its arguments")]
    Arguments {
        /// Its number.
        number: u16,
        /// Bytes behind the number.
        bytes: usize,
    },
    /// Bytes behind the last argument.
    #[error("message {number}: {bytes} bytes too many")]
    Trailing {
        /// Its number.
        number: u16,
        /// How many.
        bytes: usize,
    },
    /// A level that does not exist.
    #[error("log message of level {0}")]
    Level(u32),
    /// Too short for a number.
    #[error("a message of {0} bytes")]
    Short(usize),
}

/// A message that does not fit its length field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a message of {bytes} bytes, {max} at most", max = u16::MAX)]
pub struct TooLong {
    /// Its length.
    pub bytes: usize,
}

impl<'a> Message<'a> {
    /// Its number.
    pub const fn number(&self) -> u16 {
        match self {
            Message::Log { .. } => number::LOG,
            Message::Progress { .. } => number::PROGRESS,
            Message::Suspend => number::SUSPEND,
            Message::Postcopy => number::POSTCOPY,
            Message::Checkpoint => number::CHECKPOINT,
            Message::WaitCheckpoint => number::WAIT_CHECKPOINT,
            Message::SwitchQemuLogdirty { .. } => number::SWITCH_QEMU_LOGDIRTY,
            Message::StaticDataDone { .. } => number::STATIC_DATA_DONE,
            Message::RestoreResults { .. } => number::RESTORE_RESULTS,
            Message::Complete { .. } => number::COMPLETE,
        }
    }

    /// libxl's name of it.
    pub const fn name(&self) -> &'static str {
        match self {
            Message::Log { .. } => "log",
            Message::Progress { .. } => "progress",
            Message::Suspend => "suspend",
            Message::Postcopy => "postcopy",
            Message::Checkpoint => "checkpoint",
            Message::WaitCheckpoint => "wait_checkpoint",
            Message::SwitchQemuLogdirty { .. } => "switch_qemu_logdirty",
            Message::StaticDataDone { .. } => "static_data_done",
            Message::RestoreResults { .. } => "restore_results",
            Message::Complete { .. } => "complete",
        }
    }

    /// Whether the helper waits for an int.
    pub const fn needs_reply(&self) -> bool {
        !matches!(self, Message::Log { .. } | Message::Progress { .. } | Message::RestoreResults { .. })
    }

    /// Parses what stands behind the length: the number and its arguments, nothing more.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &'a [u8]) -> Result<Self, MessageError> {
        let head: IResult<&[u8], u16> = native::u16(Native).parse(body);
        let Ok((arguments, number)) = head else { return Err(MessageError::Short(body.len())) };
        let parsed = Self::parse_arguments(number, arguments)?;
        let Ok((rest, message)) = parsed else {
            return Err(MessageError::Arguments { number, bytes: arguments.len() });
        };
        if !rest.is_empty() {
            return Err(MessageError::Trailing { number, bytes: rest.len() });
        }
        match message {
            Unchecked::Message(message) => Ok(message),
            Unchecked::Log { level, errno, context, text } => {
                let level = Level::from_wire(level).ok_or(MessageError::Level(level))?;
                Ok(Message::Log { level, errno, context, text })
            }
        }
    }

    fn parse_arguments(number: u16, input: &'a [u8]) -> Result<IResult<&'a [u8], Unchecked<'a>>, MessageError> {
        let nothing = |message| Ok((input, Unchecked::Message(message)));
        Ok(match number {
            number::LOG => (native::u32(Native), native::u32(Native), string, string)
                .map(|(level, errno, context, text)| Unchecked::Log { level, errno, context, text })
                .parse(input),
            number::PROGRESS => (string, string, ulong, ulong)
                .map(|(context, doing, done, total)| {
                    Unchecked::Message(Message::Progress { context, doing, done, total })
                })
                .parse(input),
            number::SUSPEND => nothing(Message::Suspend),
            number::POSTCOPY => nothing(Message::Postcopy),
            number::CHECKPOINT => nothing(Message::Checkpoint),
            number::WAIT_CHECKPOINT => nothing(Message::WaitCheckpoint),
            number::SWITCH_QEMU_LOGDIRTY => (native::u32(Native), native::u32(Native))
                .map(|(domid, enable)| Unchecked::Message(Message::SwitchQemuLogdirty { domid, enable }))
                .parse(input),
            number::STATIC_DATA_DONE => {
                native::u32(Native).map(|missing| Unchecked::Message(Message::StaticDataDone { missing })).parse(input)
            }
            number::RESTORE_RESULTS => (ulong, ulong)
                .map(|(store_gfn, console_gfn)| Unchecked::Message(Message::RestoreResults { store_gfn, console_gfn }))
                .parse(input),
            number::COMPLETE => (native::i32(Native), native::i32(Native))
                .map(|(retval, errno)| Unchecked::Message(Message::Complete { retval, errno }))
                .parse(input),
            _ => return Err(MessageError::Number(number)),
        })
    }

    /// Puts the message with its length into `out`, replacing what it had.
    ///
    /// # Errors
    /// [`TooLong`]: its strings are. `out` is of no use then.
    pub fn emit(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        out.clear();
        out.extend_from_slice(&[0; LENGTH_LEN]);
        out.extend_from_slice(&self.number().to_ne_bytes());
        match *self {
            Message::Log { level, errno, context, text } => {
                out.extend_from_slice(&level.wire().to_ne_bytes());
                out.extend_from_slice(&errno.to_ne_bytes());
                emit_string(context, out);
                emit_string(text, out);
            }
            Message::Progress { context, doing, done, total } => {
                emit_string(context, out);
                emit_string(doing, out);
                emit_ulong(done, out);
                emit_ulong(total, out);
            }
            Message::Suspend | Message::Postcopy | Message::Checkpoint | Message::WaitCheckpoint => {}
            Message::SwitchQemuLogdirty { domid, enable } => {
                out.extend_from_slice(&domid.to_ne_bytes());
                out.extend_from_slice(&enable.to_ne_bytes());
            }
            Message::StaticDataDone { missing } => out.extend_from_slice(&missing.to_ne_bytes()),
            Message::RestoreResults { store_gfn, console_gfn } => {
                emit_ulong(store_gfn, out);
                emit_ulong(console_gfn, out);
            }
            Message::Complete { retval, errno } => {
                out.extend_from_slice(&retval.to_ne_bytes());
                out.extend_from_slice(&errno.to_ne_bytes());
            }
        }
        let bytes = out.len() - LENGTH_LEN;
        let length = u16::try_from(bytes).map_err(|_| TooLong { bytes })?;
        if let Some(field) = out.first_chunk_mut() {
            *field = length.to_ne_bytes();
        }
        Ok(())
    }
}

/// Reads what stands behind the next length into `body`, replacing what it had; false at the end of the source, where
/// a message would begin.
///
/// # Errors
/// The source's; [`ErrorKind::UnexpectedEof`] when it ends within a message.
pub fn read_body(source: &mut impl Read, body: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = [0; LENGTH_LEN];
    let (first, second) = length.split_at_mut(1);
    loop {
        match source.read(first) {
            Ok(0) => return Ok(false),
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    source.read_exact(second)?;
    // At most 64 KiB: the length field's own bound.
    body.resize(u16::from_ne_bytes(length).into(), 0);
    source.read_exact(body)?;
    Ok(true)
}

/// Parsed, the level not yet looked at.
enum Unchecked<'a> {
    Message(Message<'a>),
    Log { level: u32, errno: u32, context: &'a CStr, text: &'a CStr },
}

fn string(input: &[u8]) -> IResult<&[u8], &CStr> {
    let (input, size) = native::u32(Native).parse(input)?;
    let (rest, bytes) = take(size).parse(input)?;
    match CStr::from_bytes_with_nul(bytes) {
        Ok(text) => Ok((rest, text)),
        Err(_) => Err(nom::Err::Error(nom::error::Error::new(input, nom::error::ErrorKind::Verify))),
    }
}

fn emit_string(text: &CStr, out: &mut Vec<u8>) {
    let bytes = text.to_bytes_with_nul();
    // Where this does not fit, the whole is too long as well.
    out.extend_from_slice(&(bytes.len() as u32).to_ne_bytes());
    out.extend_from_slice(bytes);
}

fn ulong(input: &[u8]) -> IResult<&[u8], u64> {
    if size_of::<c_ulong>() == size_of::<u64>() {
        native::u64(Native).parse(input)
    } else {
        native::u32(Native).map(u64::from).parse(input)
    }
}

fn emit_ulong(value: u64, out: &mut Vec<u8>) {
    // Counts and frame numbers of this machine's guests fit its unsigned long.
    out.extend_from_slice(&(value as c_ulong).to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ffi::CString;

    fn emitted(message: &Message<'_>) -> Vec<u8> {
        let mut out = vec![9; 9];
        message.emit(&mut out).unwrap();
        out
    }

    #[test]
    #[cfg(all(target_endian = "little", target_pointer_width = "64"))]
    fn the_bytes_of_each_kind() {
        let log = Message::Log { level: Level::Detail, errno: NO_ERRNO, context: c"xc", text: c"on" };
        let cases: [(Message<'_>, &[u8]); 5] = [
            (log, b"\x18\0\x01\0\x03\0\0\0\xff\xff\xff\xff\x03\0\0\0xc\0\x03\0\0\0on\0"),
            (
                Message::Progress { context: c"", doing: c"F", done: 1, total: 0x1_0000_0002 },
                b"\x1d\0\x02\0\x01\0\0\0\0\x02\0\0\0F\0\x01\0\0\0\0\0\0\0\x02\0\0\0\x01\0\0\0",
            ),
            (Message::WaitCheckpoint, b"\x02\0\x06\0"),
            (Message::SwitchQemuLogdirty { domid: 5, enable: 1 }, b"\x0a\0\x07\0\x05\0\0\0\x01\0\0\0"),
            (Message::Complete { retval: -1, errno: 4 }, b"\x0a\0\x0a\0\xff\xff\xff\xff\x04\0\0\0"),
        ];
        for (message, bytes) in cases {
            assert_eq!(emitted(&message), bytes, "{message:?}");
            assert_eq!(Message::parse(&bytes[2..]), Ok(message));
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let parse = |number: u16, arguments: &[u8]| {
            Message::parse(&[&number.to_ne_bytes()[..], arguments].concat()).map(|m| m.name())
        };
        assert_eq!(Message::parse(b""), Err(MessageError::Short(0)));
        assert_eq!(Message::parse(b"\x03"), Err(MessageError::Short(1)));
        for none in [0, 11, u16::MAX] {
            assert_eq!(parse(none, b""), Err(MessageError::Number(none)));
        }
        assert_eq!(parse(number::SUSPEND, b""), Ok("suspend"));
        assert_eq!(parse(number::SUSPEND, b"x"), Err(MessageError::Trailing { number: 3, bytes: 1 }));
        assert_eq!(parse(number::COMPLETE, &[0; 7]), Err(MessageError::Arguments { number: 10, bytes: 7 }));
        let log = |level: u32, context: &[u8], text: &[u8]| {
            let one = 1u32.to_ne_bytes();
            let length = |s: &[u8]| (s.len() as u32).to_ne_bytes();
            parse(
                number::LOG,
                &[&level.to_ne_bytes()[..], &one, &length(context), context, &length(text), text].concat(),
            )
        };
        assert_eq!(log(1, b"a\0", b"b\0"), Ok("log"));
        assert_eq!(log(0, b"a\0", b"b\0"), Err(MessageError::Level(0)));
        assert_eq!(log(10, b"a\0", b"b\0"), Err(MessageError::Level(10)));
        for (context, text) in [(&b"a"[..], &b"b\0"[..]), (b"", b"b\0"), (b"a\0", b"b\0\0"), (b"a\0", b"\0b\0")] {
            assert!(matches!(log(1, context, text), Err(MessageError::Arguments { number: 1, .. })));
        }
        // A length of a string that claims more than there is.
        let claims = [&1u32.to_ne_bytes()[..], &[0; 4], &u32::MAX.to_ne_bytes(), b"a\0"].concat();
        assert_eq!(parse(number::LOG, &claims), Err(MessageError::Arguments { number: 1, bytes: claims.len() }));
    }

    #[test]
    fn a_message_that_does_not_fit_is_not_written() {
        let longest = CString::new(vec![b'x'; usize::from(u16::MAX) - 20]).unwrap();
        let message = |text| Message::Log { level: Level::Info, errno: 0, context: c"", text };
        // Number, level, errno, two lengths, two NULs: 20 bytes.
        let bytes = emitted(&message(&longest));
        assert_eq!(bytes.len(), LENGTH_LEN + usize::from(u16::MAX));
        assert_eq!(Message::parse(&bytes[LENGTH_LEN..]), Ok(message(&longest)));
        let longer = CString::new([longest.as_bytes(), b"x"].concat()).unwrap();
        let bytes = usize::from(u16::MAX) + 1;
        assert_eq!(message(&longer).emit(&mut Vec::new()), Err(TooLong { bytes }));
    }

    #[test]
    fn messages_follow_each_other_in_a_source_and_may_be_cut() {
        let bytes = [emitted(&Message::Suspend), emitted(&Message::Complete { retval: 0, errno: 0 })].concat();
        let (mut source, mut body) = (&bytes[..], Vec::new());
        let mut names = Vec::new();
        while read_body(&mut source, &mut body).unwrap() {
            names.push(Message::parse(&body).unwrap().name());
        }
        assert_eq!(names, ["suspend", "complete"]);
        for cut in [1, 2, 3, 5, 9] {
            let mut source = &bytes[bytes.len() - 12..bytes.len() - 12 + cut];
            assert_eq!(read_body(&mut source, &mut body).unwrap_err().kind(), ErrorKind::UnexpectedEof, "{cut}");
        }
    }

    fn text() -> impl Strategy<Value = CString> {
        proptest::collection::vec(1u8.., 0..300).prop_map(|bytes| CString::new(bytes).unwrap())
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_parsed(
            a in text(), b in text(), level in 1..10u32, words: [u32; 2], signed: [i32; 2],
            longs: [u32; 2],
        ) {
            let [one, two] = words;
            let [done, total] = longs.map(|long| u64::from(long) << (8 * (size_of::<c_ulong>() - size_of::<u32>())));
            let messages = [
                Message::Log { level: Level::from_wire(level).unwrap(), errno: one, context: &a, text: &b },
                Message::Progress { context: &a, doing: &b, done, total },
                Message::Suspend,
                Message::Postcopy,
                Message::Checkpoint,
                Message::WaitCheckpoint,
                Message::SwitchQemuLogdirty { domid: one, enable: two },
                Message::StaticDataDone { missing: one },
                Message::RestoreResults { store_gfn: done, console_gfn: total },
                Message::Complete { retval: signed[0], errno: signed[1] },
            ];
            for (message, number) in messages.iter().zip(1..) {
                let bytes = emitted(message);
                prop_assert_eq!(message.number(), number);
                prop_assert_eq!(Message::parse(&bytes[LENGTH_LEN..]), Ok(*message));
                let mut body = Vec::new();
                prop_assert!(read_body(&mut &bytes[..], &mut body).unwrap());
                prop_assert_eq!(&body[..], &bytes[LENGTH_LEN..]);
            }
        }

        #[test]
        fn nothing_panics_and_what_is_taken_is_emitted_alike(number in 0..12u16, arguments: Vec<u8>) {
            let body = [&number.to_ne_bytes()[..], &arguments].concat();
            if let Ok(message) = Message::parse(&body) {
                prop_assert_eq!(&emitted(&message)[LENGTH_LEN..], &body[..]);
            }
        }
    }
}
