//! What two sides say to each other: frames out, frames in.
//!
//! | | primary | secondary |
//! |---|---|---|
//! | out | [`Outbox`] for control frames, [`Lane`] for the stream's bytes | [`Outbox`] |
//! | in | [`backward`] | [`ReadAhead`], then [`Forward`], which is the stream's source too |

mod ahead;
mod backward;
mod forward;
mod framing;
mod lane;
mod record;

pub use ahead::ReadAhead;
pub use backward::{Heard, backward, silence};
pub use forward::{Forward, Heading};
pub use framing::{Framing, Outbox};
pub use lane::{Lane, StopFlag};
pub use record::{Record, Records};

use crate::transport::LinkReader;
use std::io::{self, Read};

/// Reads bytes one step at a time until `recognise` knows them. `Ok(None)`: the connection ended before that.
pub(super) fn first_bytes<T>(
    reader: &mut LinkReader,
    bytes: &mut Vec<u8>,
    recognise: impl Fn(&[u8]) -> Result<T, usize>,
) -> io::Result<Option<T>> {
    loop {
        match recognise(bytes) {
            Ok(known) => return Ok(Some(known)),
            Err(needed) => {
                let start = bytes.len();
                bytes.resize(needed.max(start + 1), 0);
                let got = reader.read(bytes.get_mut(start..).unwrap_or_default())?;
                bytes.truncate(start + got);
                if got == 0 {
                    return Ok(None);
                }
            }
        }
    }
}
