//! From an address to a peer that is known, on a thread of its own: starting a command and waiting for its first bytes
//! may take any time.

use crate::remus::Session;
use crate::remus::wire::{MAGIC, Peer, recognise_secondary};
use crate::replicate::link::first_bytes;
use crate::stream::handshake::Message as Handshake;
use crate::transport::{Address, Cancel, LinkReader, LinkWriter, connect, is_cancelled};
use std::io::{self, IoSlice, Read};
use std::thread;
use std::time::{Duration, Instant};

/// A connection whose other end is known.
#[derive(Debug)]
pub(super) struct Connected {
    pub peer: Peer,
    /// For people.
    pub name: String,
    pub reader: LinkReader,
    /// Bytes of the peer that have been read already.
    pub first: Vec<u8>,
    pub writer: LinkWriter,
    pub cancel: Cancel,
}

/// Starts to connect. `tell` gets the connection, or why there is none; after `cancel` it may get either, soon.
pub(super) fn start(
    address: Address,
    session: Session,
    cancel: Cancel,
    tell: impl FnOnce(Session, io::Result<Connected>) + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new()
        .name("connect".into())
        .spawn(move || {
            let connected = reach(&address, cancel);
            tell(session, connected);
        })
        .map(drop)
}

/// Most bytes of a stranger's first line that are quoted.
const LINE: u64 = 400;
/// How long the rest of that line may take.
const REST: Duration = Duration::from_millis(500);

/// What is at the other end, by the whole first line of it: often the text that a login shell prints.
fn stranger(name: &str, reader: &mut LinkReader, mut line: Vec<u8>) -> String {
    let probe = reader.probe();
    let end = Instant::now() + REST;
    let mut byte = [0];
    while !line.contains(&b'\n') && (line.len() as u64) < LINE {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || !probe.wait(left).unwrap_or(false) || !matches!(reader.read(&mut byte), Ok(1)) {
            break;
        }
        line.extend(byte);
    }
    let whole = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
    format!(
        "{name} is neither xen-replicate nor xl: it says {:?}. Where that is the text of a login (a message of the day, an echo in \
         a shell's start-up file), have the shell print nothing unless it is interactive",
        String::from_utf8_lossy(whole)
    )
}

fn reach(address: &Address, cancel: Cancel) -> io::Result<Connected> {
    let link = connect(address, &cancel)?;
    let name = link.peer().to_owned();
    let (mut reader, mut writer) = link.split();
    if let Address::Null = address {
        // Nobody is there to say anything.
        return Ok(Connected { peer: Peer::Bare, name, reader, first: Vec::new(), writer, cancel });
    }
    let mut first = Vec::new();
    let peer = first_bytes(&mut reader, &mut first, recognise_secondary)
        .map_err(|error| if is_cancelled(&error) { io::ErrorKind::TimedOut.into() } else { error })?;
    match peer {
        None => {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{name} ended before it said anything this program knows"),
            ));
        }
        Some(Peer::Unknown) => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, stranger(&name, &mut reader, first)));
        }
        Some(Peer::Framed) => writer.write_all_vectored(&mut [IoSlice::new(&MAGIC)])?,
        Some(Peer::Bare) => {
            // The banner is read whole, and is no part of anything.
            let banner = Handshake::Banner.bytes().len();
            first.drain(..banner.min(first.len()));
        }
    }
    Ok(Connected { peer: peer.unwrap_or(Peer::Unknown), name, reader, first, writer, cancel })
}
