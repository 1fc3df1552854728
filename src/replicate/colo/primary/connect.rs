//! From an address to a secondary that suits, on a thread of its own: starting a command and waiting for its first bytes may take any
//! time.
#![forbid(unsafe_code)]

use crate::remus::Rule;
use crate::replicate::colo::frame::{self, FrameError, Frames, Lane};
use crate::replicate::colo::hello::Hello;
use crate::replicate::link::first_bytes;
use crate::stream::handshake::Message as Handshake;
use crate::transport::{Address, Cancel, LinkReader, LinkWriter, Probe, connect, is_cancelled};
use std::io::{self, Chain, Cursor, IoSlice};
use std::thread;

/// What is read, behind bytes that have been read already.
pub(super) type Source = Frames<Chain<Cursor<Vec<u8>>, LinkReader>>;

/// A connection whose other end is known.
#[derive(Debug)]
pub(super) struct Connected {
    /// For people.
    pub name: String,
    pub source: Source,
    pub probe: Probe,
    pub writer: LinkWriter,
    /// What the other side can do; none of libxl.
    pub theirs: Option<Hello>,
}

/// Starts to connect. `tell` gets the connection, or why there is none; after `cancel` it may get either, soon. Reading is called off by
/// `reading`.
pub(super) fn start(
    address: Address,
    ours: Hello,
    rule: Rule,
    bare: bool,
    (cancel, reading): (Cancel, Cancel),
    tell: impl FnOnce(io::Result<Connected>) + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new()
        .name("colo-connect".into())
        .spawn(move || tell(reach(&address, &ours, rule, bare, &cancel, reading)))
        .map(drop)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Framed,
    Bare,
    Unknown,
}

fn recognise(bytes: &[u8]) -> Result<Peer, usize> {
    let banner = Handshake::Banner.bytes();
    for (known, peer) in [(&frame::MAGIC[..], Peer::Framed), (banner, Peer::Bare)] {
        if bytes.starts_with(known) {
            return Ok(peer);
        }
        if known.starts_with(bytes) {
            return Err(known.len());
        }
    }
    Ok(Peer::Unknown)
}

fn reach(
    address: &Address,
    ours: &Hello,
    rule: Rule,
    bare: bool,
    cancel: &Cancel,
    reading: Cancel,
) -> io::Result<Connected> {
    let link = connect(address, cancel)?;
    let name = link.peer().to_owned();
    let (mut reader, mut writer) = link.split();
    let refused = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut first = Vec::new();
    let late = |error: io::Error| if is_cancelled(&error) { io::ErrorKind::TimedOut.into() } else { error };
    let broken = |error| match error {
        FrameError::Io(error) => late(error),
        error => io::Error::other(error),
    };
    let peer = first_bytes(&mut reader, &mut first, recognise).map_err(late)?;
    let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, format!("{name} ended before it said hello"));
    let framed = match peer {
        None => return Err(ended()),
        Some(Peer::Framed) => true,
        Some(Peer::Bare) if bare => false,
        Some(Peer::Bare) => return Err(refused(format!("{name} is Xen's own receiver: --allow-bare takes it"))),
        Some(Peer::Unknown) => {
            let text = String::from_utf8_lossy(&first).into_owned();
            return Err(refused(format!("{name} is no receiver of COLO: it says {text:?}")));
        }
    };
    if !framed {
        // The banner is no part of anything.
        first.drain(..Handshake::Banner.bytes().len().min(first.len()));
    }
    // Until the hello is there, connecting may be called off.
    let mut source = Frames::new(io::Read::chain(Cursor::new(first), reader), framed);
    let mut theirs = None;
    if framed {
        let said = match source.read_frame().map_err(broken)? {
            Some((Lane::Hello, said)) => said.to_vec(),
            Some((Lane::Refuse, text)) => return Err(refused(String::from_utf8_lossy(text).into_owned())),
            Some((lane, _)) => return Err(refused(format!("{name} begins with {lane:?}"))),
            None => return Err(ended()),
        };
        let mut send = |lane, payload: &[u8]| {
            writer.write_all_vectored(&mut [IoSlice::new(&frame::header(lane, payload)), IoSlice::new(payload)])
        };
        match ours.suits(&said, rule) {
            Ok(hello) => theirs = Some(hello),
            Err(unsuited) => {
                // It reads why, or is gone.
                let _ = send(Lane::Refuse, unsuited.to_string().as_bytes());
                return Err(refused(format!("{name} does not suit: {unsuited}")));
            }
        }
    }
    let source = source.map_source(|source| {
        let (first, reader) = source.into_inner();
        io::Read::chain(first, reader.with_cancel(reading))
    });
    let probe = source.source().get_ref().1.probe();
    Ok(Connected { name, source, probe, writer, theirs })
}
