//! What the secondary says, read on a thread of its own.

use crate::remus::Session;
use crate::remus::wire::{Control, Direction, FrameBuffer, WireError};
use crate::transport::{LinkReader, is_cancelled};
use std::io::{self, Read};

/// What was heard on the back channel.
#[derive(Debug)]
pub enum Heard {
    /// A frame, with the text of a REFUSE.
    Frame(Session, Control, Vec<u8>),
    /// It cannot be read any further.
    Garbled(WireError),
    /// It has ended, well or with an error. The last word.
    Ended(Option<io::Error>),
}

/// Reads frames until the connection ends or is cancelled. `first` has been read already.
pub fn backward(mut reader: LinkReader, first: &[u8], mut hear: impl FnMut(Heard)) {
    let mut frames = FrameBuffer::new(Direction::Backward);
    let mut bytes = vec![0; 4096];
    let mut sound = true;
    let mut take = |pushed: &[u8], hear: &mut dyn FnMut(Heard)| {
        if sound {
            frames.push(pushed);
        }
        while sound {
            match frames.next() {
                Ok(Some(frame)) => {
                    let detail = match frame.body {
                        crate::remus::wire::Body::Refuse { detail, .. } => detail.to_vec(),
                        _ => Vec::new(),
                    };
                    if let Some(control) = frame.body.control() {
                        hear(Heard::Frame(frame.session, control, detail));
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    // Read on: the end of the connection is still news.
                    sound = false;
                    hear(Heard::Garbled(error));
                }
            }
        }
    };
    take(first, &mut hear);
    loop {
        match reader.read(&mut bytes) {
            Ok(0) => return hear(Heard::Ended(None)),
            Ok(got) => take(bytes.get(..got).unwrap_or_default(), &mut hear),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return hear(Heard::Ended((!is_cancelled(&error)).then_some(error))),
        }
    }
}

/// The back channel of a bare peer: it has nothing to say but its end.
pub fn silence(mut reader: LinkReader, mut hear: impl FnMut(Heard)) {
    let mut bytes = [0; 4096];
    loop {
        match reader.read(&mut bytes) {
            Ok(0) => return hear(Heard::Ended(None)),
            Ok(got) => log::warn!("{got} bytes from the other side that mean nothing here"),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return hear(Heard::Ended((!is_cancelled(&error)).then_some(error))),
        }
    }
}
