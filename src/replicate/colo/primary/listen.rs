//! What the secondary says, read on a thread of its own.
#![forbid(unsafe_code)]

use super::connect::Source;
use crate::colo::Message as Say;
use crate::colo::wire::WireError;
use crate::replicate::colo::frame::{self, FrameError, Lane};
use crate::replicate::colo::lists::Back;
use crate::transport::is_cancelled;
use std::io;

/// What was heard of the secondary.
#[derive(Debug)]
pub(super) enum Heard {
    Message(Say),
    /// Its guest has sent it.
    Packet(u64, Vec<u8>),
    Refused(String),
    Garbled(WireError, Option<String>),
    /// The last word.
    Ended(Option<io::Error>),
}

/// Reads the back channel to its end, or until it is called off.
pub(super) fn listen(mut source: Source, mut back: Back, mut hear: impl FnMut(Heard)) {
    let mut sound = true;
    loop {
        let garbled = match source.read_frame() {
            Ok(Some(_)) if !sound => continue,
            Ok(Some((Lane::Stream, bytes))) => match back.take(bytes, |message| hear(Heard::Message(message))) {
                Ok(()) => continue,
                Err(error) => (error, None),
            },
            Ok(Some((Lane::Packet, payload))) => match frame::packet(payload) {
                Some((epoch, bytes)) => {
                    hear(Heard::Packet(epoch, bytes.to_vec()));
                    continue;
                }
                None => (WireError::Framing { offset: back.offset() }, Some("a packet too short to be one".into())),
            },
            Ok(Some((Lane::Refuse, text))) => {
                hear(Heard::Refused(String::from_utf8_lossy(text).into_owned()));
                continue;
            }
            Ok(Some((Lane::Beat | Lane::Hello | Lane::Goodbye, _))) => continue,
            Ok(None) => return hear(Heard::Ended(None)),
            Err(FrameError::Io(error)) => {
                let quiet = is_cancelled(&error) || error.kind() == io::ErrorKind::UnexpectedEof;
                return hear(Heard::Ended((!quiet).then_some(error)));
            }
            // What is behind it cannot be told apart; its end can.
            Err(error) if sound => {
                source.give_up();
                (WireError::Framing { offset: back.offset() }, Some(format!("the back channel: {error}")))
            }
            Err(_) => continue,
        };
        sound = false;
        hear(Heard::Garbled(garbled.0, garbled.1));
    }
}
