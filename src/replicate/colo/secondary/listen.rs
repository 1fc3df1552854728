//! What the primary says, read on a thread of its own: the stream's bytes to the copy, packets to its card.
#![forbid(unsafe_code)]

use super::SharedCard;
use super::copy::Order;
use crate::colo::wire::WireError;
use crate::replicate::colo::frame::{self, FrameError, Frames, Lane};
use crate::replicate::colo::inlet::Inlet;
use crate::transport::{LinkReader, is_cancelled};
use std::io;

/// What was heard of the primary besides its stream.
#[derive(Debug)]
pub(super) enum Heard {
    Hello(Vec<u8>),
    Refused(String),
    Garbled(WireError, String),
    Goodbye,
}

/// Reads the forward channel to its end, or until it is called off.
pub(super) fn listen(
    mut source: Frames<LinkReader>,
    inlet: &Inlet<Order>,
    card: &SharedCard,
    hear: &mut impl FnMut(Heard),
    mut arrived: impl FnMut(&[u8]),
) {
    let mut sound = true;
    let mut offset: u64 = 0;
    loop {
        match source.read_frame() {
            Ok(Some(_)) if !sound => {}
            Ok(Some((Lane::Stream, bytes))) => {
                offset = offset.saturating_add(bytes.len() as u64);
                arrived(bytes);
                // Nobody reads: its end is still news.
                inlet.put(bytes);
            }
            Ok(Some((Lane::Packet, payload))) => {
                if let (Some((epoch, bytes)), Some(card)) = (frame::packet(payload), &mut *super::lock(card)) {
                    card.deliver_in(epoch, bytes);
                }
            }
            Ok(Some((Lane::Hello, bytes))) => hear(Heard::Hello(bytes.to_vec())),
            Ok(Some((Lane::Refuse, text))) => hear(Heard::Refused(String::from_utf8_lossy(text).into_owned())),
            Ok(Some((Lane::Beat, _))) => {}
            Ok(Some((Lane::Goodbye, _))) => hear(Heard::Goodbye),
            Ok(None) => return inlet.end(),
            Err(FrameError::Io(error)) => {
                if !is_cancelled(&error) && error.kind() != io::ErrorKind::UnexpectedEof {
                    log::warn!("reading from the primary: {error}");
                }
                return inlet.end();
            }
            Err(error) if sound => {
                sound = false;
                source.give_up();
                hear(Heard::Garbled(WireError::Framing { offset }, format!("the forward channel: {error}")));
            }
            Err(_) => {}
        }
    }
}
