//! The command line that libxl starts its save helper with: parsed, and made.
//!
//! ```text
//! --save-domain    FD BACK_FD DOMID FLAGS CBFLAGS STREAM_TYPE
//! --restore-domain FD BACK_FD DOMID STORE_EVTCHN STORE_DOMID CONSOLE_EVTCHN CONSOLE_DOMID CBFLAGS STREAM_TYPE
//! ```
//!
//! All arguments are decimal. BACK_FD is -1 where there is no back channel.
//!
//! Source: `tools/libs/light/libxl_save_callout.c`, `XCFLAGS_*` and `xc_stream_type_t` of `xenguest.h`; the numbers of
//! callbacks are those of the messages in `libxl_save_msgs_gen.pl`.
#![forbid(unsafe_code)]

use crate::libxc::restore::Rings;
use bitflags::bitflags;
use std::fmt;
use thiserror::Error;

/// The mode in which memory goes out.
pub const SAVE: &str = "--save-domain";
/// The mode in which memory comes in.
pub const RESTORE: &str = "--restore-domain";

bitflags! {
    /// How to save (`XCFLAGS_*`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Flags: u32 {
        /// The guest runs while most of its memory is sent.
        const LIVE = 1 << 0;
        /// All pages are sent once more for the receiver to compare. Counts only together with [`Flags::LIVE`].
        const DEBUG = 1 << 1;
    }
}

bitflags! {
    /// The optional callbacks that libxl answers: CBFLAGS, where bit n stands for message n.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Callbacks: u32 {
        /// Suspend the guest.
        const SUSPEND = 1 << 3;
        /// Let the guest run again.
        const POSTCOPY = 1 << 4;
        /// The stream is libxl's for one checkpoint.
        const CHECKPOINT = 1 << 5;
        /// Wait until the next checkpoint is due (COLO).
        const WAIT_CHECKPOINT = 1 << 6;
        /// Have the device model track what it writes to guest memory.
        const SWITCH_QEMU_LOGDIRTY = 1 << 7;
        /// The static data is complete.
        const STATIC_DATA_DONE = 1 << 8;
        /// Where the rings are.
        const RESTORE_RESULTS = 1 << 9;
    }
}

/// What kind of stream it is (`xc_stream_type_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamType {
    /// One image.
    Plain,
    /// Periodic checkpoints.
    Remus,
    /// Lock-step.
    Colo,
}

impl StreamType {
    const fn number(self) -> u32 {
        match self {
            StreamType::Plain => 0,
            StreamType::Remus => 1,
            StreamType::Colo => 2,
        }
    }
}

/// What the helper is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Memory of a domain onto a stream.
    Save(Save),
    /// A stream into an empty domain.
    Restore(Restore),
}

/// `--save-domain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Save {
    /// The stream's and the back channel's descriptors.
    pub fds: Fds,
    /// The domain.
    pub domid: u32,
    /// How.
    pub flags: Flags,
    /// What libxl answers.
    pub callbacks: Callbacks,
    /// What stream.
    pub stream: StreamType,
}

/// `--restore-domain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restore {
    /// The stream's and the back channel's descriptors.
    pub fds: Fds,
    /// The domain.
    pub domid: u32,
    /// The domain's rings on this host.
    pub rings: Rings,
    /// What libxl answers.
    pub callbacks: Callbacks,
    /// What stream.
    pub stream: StreamType,
}

/// Descriptors that the helper inherits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fds {
    /// The stream.
    pub stream: i32,
    /// The back channel, if there is one.
    pub back: Option<i32>,
}

/// Why a command line is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ArgumentsError {
    /// Neither of the two modes.
    #[error("mode '{0}': neither {SAVE} nor {RESTORE}")]
    Mode(String),
    /// No arguments at all.
    #[error("no mode: {SAVE} or {RESTORE}")]
    NoMode,
    /// Too few or too many.
    #[error("{mode} takes {expected} arguments, {found} given")]
    Count {
        /// The mode.
        mode: &'static str,
        /// How many it takes.
        expected: usize,
        /// How many there are behind it.
        found: usize,
    },
    /// Not a decimal number in its bounds.
    #[error("{name} '{found}': not a decimal number from {least} to {most}")]
    Number {
        /// The argument's name.
        name: &'static str,
        /// What is there.
        found: String,
        /// The least value.
        least: i64,
        /// The greatest.
        most: i64,
    },
    /// A callback without which such a stream cannot be.
    #[error("CBFLAGS {found}: {needed} is needed", found = .found.bits())]
    Callbacks {
        /// What libxl answers.
        found: Callbacks,
        /// What is missing of it.
        needed: Needed,
    },
    /// COLO without the way back.
    #[error("BACK_FD -1: COLO needs a back channel")]
    NoBackChannel,
}

/// Callbacks that are missing, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed(pub Callbacks);

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, _)) in self.0.iter_names().enumerate() {
            write!(f, "{}{}", if n > 0 { ", " } else { "" }, name.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

impl Command {
    /// Reads the arguments behind the program's name.
    ///
    /// # Errors
    /// What is wrong with them; also callbacks that such a stream needs and libxl does not answer.
    pub fn parse<I>(arguments: I) -> Result<Self, ArgumentsError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut arguments = arguments.into_iter();
        let mode = arguments.next().ok_or(ArgumentsError::NoMode)?;
        let rest: Vec<_> = arguments.collect();
        let rest: Vec<&str> = rest.iter().map(AsRef::as_ref).collect();
        let count = |mode, expected| ArgumentsError::Count { mode, expected, found: rest.len() };
        let command = match mode.as_ref() {
            SAVE => {
                let &[fd, back, domid, flags, callbacks, stream] = &rest[..] else { return Err(count(SAVE, 6)) };
                Command::Save(Save {
                    fds: fds(fd, back)?,
                    domid: number("DOMID", domid)?,
                    flags: Flags::from_bits_retain(number("FLAGS", flags)?),
                    callbacks: Callbacks::from_bits_retain(number("CBFLAGS", callbacks)?),
                    stream: stream_type(stream)?,
                })
            }
            RESTORE => {
                let &[fd, back, domid, store_evtchn, store_domid, console_evtchn, console_domid, callbacks, stream] =
                    &rest[..]
                else {
                    return Err(count(RESTORE, 9));
                };
                Command::Restore(Restore {
                    fds: fds(fd, back)?,
                    domid: number("DOMID", domid)?,
                    rings: Rings {
                        store_evtchn: number("STORE_EVTCHN", store_evtchn)?,
                        store_domid: number("STORE_DOMID", store_domid)?,
                        console_evtchn: number("CONSOLE_EVTCHN", console_evtchn)?,
                        console_domid: number("CONSOLE_DOMID", console_domid)?,
                    },
                    callbacks: Callbacks::from_bits_retain(number("CBFLAGS", callbacks)?),
                    stream: stream_type(stream)?,
                })
            }
            other => return Err(ArgumentsError::Mode(shortened(other))),
        };
        command.check()?;
        Ok(command)
    }

    /// The arguments behind the program's name, as libxl writes them.
    pub fn emit(&self) -> Vec<String> {
        let fds = self.fds();
        let mode = match self {
            Command::Save(_) => SAVE,
            Command::Restore(_) => RESTORE,
        };
        let mut arguments = vec![mode.into(), fds.stream.to_string(), fds.back.unwrap_or(-1).to_string()];
        let numbers: &[u32] = match self {
            Command::Save(save) => &[save.domid, save.flags.bits(), save.callbacks.bits(), save.stream.number()],
            Command::Restore(Restore { domid, rings, callbacks, stream, .. }) => &[
                *domid,
                rings.store_evtchn,
                rings.store_domid,
                rings.console_evtchn,
                rings.console_domid,
                callbacks.bits(),
                stream.number(),
            ],
        };
        arguments.extend(numbers.iter().map(u32::to_string));
        arguments
    }

    /// The descriptors to inherit.
    pub const fn fds(&self) -> Fds {
        match self {
            Command::Save(save) => save.fds,
            Command::Restore(restore) => restore.fds,
        }
    }

    /// The same command with other descriptors.
    #[must_use]
    pub const fn with_fds(mut self, fds: Fds) -> Self {
        match &mut self {
            Command::Save(save) => save.fds = fds,
            Command::Restore(restore) => restore.fds = fds,
        }
        self
    }

    /// The domain.
    pub const fn domid(&self) -> u32 {
        match self {
            Command::Save(save) => save.domid,
            Command::Restore(restore) => restore.domid,
        }
    }

    /// What libxl answers.
    pub const fn callbacks(&self) -> Callbacks {
        match self {
            Command::Save(save) => save.callbacks,
            Command::Restore(restore) => restore.callbacks,
        }
    }

    /// What stream.
    pub const fn stream(&self) -> StreamType {
        match self {
            Command::Save(save) => save.stream,
            Command::Restore(restore) => restore.stream,
        }
    }

    fn check(&self) -> Result<(), ArgumentsError> {
        let checkpoints = self.stream() != StreamType::Plain;
        let mut needed = Callbacks::empty();
        match self {
            Command::Save(save) => {
                needed |= Callbacks::SUSPEND;
                needed.set(Callbacks::POSTCOPY | Callbacks::CHECKPOINT, checkpoints);
                // An image taken of a guest that stands still misses nothing without it.
                needed.set(Callbacks::SWITCH_QEMU_LOGDIRTY, checkpoints || save.flags.contains(Flags::LIVE));
                needed.set(Callbacks::WAIT_CHECKPOINT, save.stream == StreamType::Colo);
            }
            Command::Restore(restore) => {
                let colo =
                    Callbacks::SUSPEND | Callbacks::POSTCOPY | Callbacks::WAIT_CHECKPOINT | Callbacks::RESTORE_RESULTS;
                needed.set(Callbacks::CHECKPOINT, checkpoints);
                needed.set(colo, restore.stream == StreamType::Colo);
            }
        }
        let missing = needed.difference(self.callbacks());
        if !missing.is_empty() {
            return Err(ArgumentsError::Callbacks { found: self.callbacks(), needed: Needed(missing) });
        }
        if self.stream() == StreamType::Colo && self.fds().back.is_none() {
            return Err(ArgumentsError::NoBackChannel);
        }
        Ok(())
    }
}

fn fds(stream: &str, back: &str) -> Result<Fds, ArgumentsError> {
    // 0 to 2 are the pipe to libxl and stderr; libxl gives the stream another number for that reason.
    let stream = in_bounds("FD", stream, 3, i32::MAX.into())?;
    let back = if back == "-1" { None } else { Some(in_bounds("BACK_FD", back, 3, i32::MAX.into())?) };
    Ok(Fds { stream: stream as i32, back: back.map(|back| back as i32) })
}

fn number(name: &'static str, text: &str) -> Result<u32, ArgumentsError> {
    in_bounds(name, text, 0, u32::MAX.into()).map(|value| value as u32)
}

fn stream_type(text: &str) -> Result<StreamType, ArgumentsError> {
    Ok(match in_bounds("STREAM_TYPE", text, 0, 2)? {
        0 => StreamType::Plain,
        1 => StreamType::Remus,
        _ => StreamType::Colo,
    })
}

/// A number without sign or blank, `least..=most`.
fn in_bounds(name: &'static str, text: &str, least: i64, most: i64) -> Result<i64, ArgumentsError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(value) if digits && (least..=most).contains(&value) => Ok(value),
        _ => Err(ArgumentsError::Number { name, found: shortened(text), least, most }),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(line: &str) -> Result<Command, ArgumentsError> {
        Command::parse(line.split_whitespace())
    }

    #[test]
    fn the_lines_of_the_real_libxl() {
        let Command::Save(save) = parse("--save-domain 8 -1 3 0 136 0").unwrap() else { panic!() };
        assert_eq!(save.fds, Fds { stream: 8, back: None });
        assert_eq!((save.domid, save.flags, save.stream), (3, Flags::empty(), StreamType::Plain));
        assert_eq!(save.callbacks, Callbacks::SUSPEND | Callbacks::SWITCH_QEMU_LOGDIRTY);

        let Command::Save(save) = parse("--save-domain 8 9 3 3 248 2").unwrap() else { panic!() };
        assert_eq!(save.fds.back, Some(9));
        assert_eq!((save.flags, save.stream), (Flags::LIVE | Flags::DEBUG, StreamType::Colo));

        let Command::Restore(restore) = parse("--restore-domain 8 -1 3 1 0 2 7 800 1").unwrap() else { panic!() };
        let rings = Rings { store_evtchn: 1, store_domid: 0, console_evtchn: 2, console_domid: 7 };
        assert_eq!((restore.rings, restore.stream), (rings, StreamType::Remus));
        assert!(restore.callbacks.contains(Callbacks::CHECKPOINT | Callbacks::RESTORE_RESULTS));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            ("", "no mode: --save-domain or --restore-domain"),
            ("--restore", "mode '--restore': neither --save-domain nor --restore-domain"),
            ("--save-domain 8 -1 3 0 136", "--save-domain takes 6 arguments, 5 given"),
            ("--save-domain 8 -1 3 0 136 0 0", "--save-domain takes 6 arguments, 7 given"),
            ("--restore-domain 8 -1 3 0 136 0", "--restore-domain takes 9 arguments, 6 given"),
            ("--save-domain 1 -1 3 0 136 0", "FD '1': not a decimal number from 3 to 2147483647"),
            ("--save-domain 8 -2 3 0 136 0", "BACK_FD '-2': not a decimal number from 3 to 2147483647"),
            ("--save-domain 8 -1 +3 0 136 0", "DOMID '+3': not a decimal number from 0 to 4294967295"),
            ("--save-domain 8 -1 4294967296 0 136 0", "DOMID '4294967296': not a decimal number from 0 to 4294967295"),
            ("--save-domain 8 -1 3 0x1 136 0", "FLAGS '0x1': not a decimal number from 0 to 4294967295"),
            ("--save-domain 8 -1 3 0 136 3", "STREAM_TYPE '3': not a decimal number from 0 to 2"),
            ("--save-domain 8 -1 3 0 128 0", "CBFLAGS 128: suspend is needed"),
            ("--save-domain 8 -1 3 1 8 0", "CBFLAGS 8: switch_qemu_logdirty is needed"),
            ("--save-domain 8 -1 3 1 136 1", "CBFLAGS 136: postcopy, checkpoint is needed"),
            ("--save-domain 8 -1 3 1 184 2", "CBFLAGS 184: wait_checkpoint is needed"),
            ("--save-domain 8 -1 3 1 248 2", "BACK_FD -1: COLO needs a back channel"),
            ("--restore-domain 8 -1 3 1 0 2 0 768 1", "CBFLAGS 768: checkpoint is needed"),
            (
                "--restore-domain 8 9 3 1 0 2 0 288 2",
                "CBFLAGS 288: suspend, postcopy, wait_checkpoint, restore_results is needed",
            ),
        ];
        for (line, text) in cases {
            assert_eq!(parse(line).unwrap_err().to_string(), text, "{line}");
        }
        let long = parse(&format!("--save-domain 8 -1 {} 0 136 0", "9".repeat(100_000))).unwrap_err();
        assert!(long.to_string().len() < 200);
    }

    #[test]
    fn an_image_of_a_guest_that_stands_still_needs_no_tracking() {
        assert!(parse("--save-domain 8 -1 3 0 8 0").is_ok());
        assert!(parse("--restore-domain 8 -1 3 1 0 2 0 0 0").is_ok());
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_parsed(
            fd in 3..i32::MAX, back in proptest::option::of(3..i32::MAX), numbers: [u32; 6], extra: u32, kind in 0..3u32,
        ) {
            let stream = [StreamType::Plain, StreamType::Remus, StreamType::Colo][kind as usize];
            let fds = Fds { stream: fd, back: if kind == 2 { back.or(Some(3)) } else { back } };
            let callbacks = Callbacks::from_bits_retain(extra) | Callbacks::all();
            let [domid, flags, store_evtchn, store_domid, console_evtchn, console_domid] = numbers;
            let rings = Rings { store_evtchn, store_domid, console_evtchn, console_domid };
            let flags = Flags::from_bits_retain(flags);
            for command in [
                Command::Save(Save { fds, domid, flags, callbacks, stream }),
                Command::Restore(Restore { fds, domid, rings, callbacks, stream }),
            ] {
                prop_assert_eq!(Command::parse(command.emit()), Ok(command));
            }
        }

        #[test]
        fn nothing_panics(arguments: Vec<String>, save: bool) {
            let mode = if save { SAVE } else { RESTORE };
            let _ = Command::parse([mode.to_string()].iter().chain(&arguments));
        }
    }
}
