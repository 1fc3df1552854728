//! An NBD server for one disk, after the protocol's specification (`doc/proto.md` of the NBD project): fixed newstyle handshake with
//! EXPORT_NAME, INFO, GO, LIST and ABORT, no TLS; simple replies to READ, WRITE, FLUSH, TRIM, WRITE_ZEROES and DISC, one after the other.
//!
//! A client is the kernel (`nbd-client`), QEMU, or anything else of this user's: it is trusted with the disk, but not with this process.
#![forbid(unsafe_code)]

use super::error::{Error, Result, io};
use super::source::Source;
use crate::transport::{Cancel, LinkReader, LinkWriter, Listener};
use std::io::{BufReader, ErrorKind, IoSlice, Read};
use std::sync::Arc;
use std::thread;

/// `NBDMAGIC` and `IHAVEOPT`.
const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;

/// Handshake flags, and the client's.
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

/// Transmission flags: flags are sent; FLUSH, FUA, TRIM, WRITE_ZEROES; a flush is one for all connections.
const FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8;

mod opt {
    pub(super) const EXPORT_NAME: u32 = 1;
    pub(super) const ABORT: u32 = 2;
    pub(super) const LIST: u32 = 3;
    pub(super) const INFO: u32 = 6;
    pub(super) const GO: u32 = 7;
}

mod rep {
    pub(super) const ACK: u32 = 1;
    pub(super) const SERVER: u32 = 2;
    pub(super) const INFO: u32 = 3;
    pub(super) const ERR_UNSUP: u32 = 1 << 31 | 1;
    pub(super) const ERR_INVALID: u32 = 1 << 31 | 3;
    pub(super) const ERR_UNKNOWN: u32 = 1 << 31 | 6;
}

mod command {
    pub(super) const READ: u16 = 0;
    pub(super) const WRITE: u16 = 1;
    pub(super) const DISC: u16 = 2;
    pub(super) const FLUSH: u16 = 3;
    pub(super) const TRIM: u16 = 4;
    pub(super) const WRITE_ZEROES: u16 = 6;
    /// Flags.
    pub(super) const FUA: u16 = 1;
    pub(super) const NO_HOLE: u16 = 2;
}

/// Error numbers of a reply.
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;

/// Most bytes of an option's data.
const MAX_OPTION: u32 = 8 << 10;
/// Most options of one handshake.
const MAX_OPTIONS: u32 = 64;
/// Most bytes of one request, which is said in the handshake.
const MAX_REQUEST: u32 = 32 << 20;

/// Serves the disk there, on threads that end with the process.
pub(super) fn start(source: Arc<Source>, listener: Listener) -> std::io::Result<()> {
    thread::Builder::new().name("disk-nbd".into()).spawn(move || {
        let never = match Cancel::new() {
            Ok(never) => never,
            Err(error) => return log::error!("{}: {error}", source.name),
        };
        loop {
            let link = match listener.accept(&never) {
                Ok((link, _)) => link,
                Err(error) => return log::error!("{}: listening: {error}", source.name),
            };
            let source = Arc::clone(&source);
            let served = thread::Builder::new().name("disk-client".into()).spawn(move || {
                let (reader, writer) = link.split();
                let mut client = Client { source, reader: BufReader::with_capacity(128 << 10, reader), writer };
                match client.serve() {
                    Ok(()) => log::info!("{}: a client has left", client.source.name),
                    Err(error) => log::warn!("{}: a client: {error}", client.source.name),
                }
            });
            if let Err(error) = served {
                log::warn!("no thread for a client: {error}");
            }
        }
    })?;
    Ok(())
}

/// One client.
struct Client {
    source: Arc<Source>,
    reader: BufReader<LinkReader>,
    writer: LinkWriter,
}

struct Request {
    flags: u16,
    command: u16,
    cookie: u64,
    offset: u64,
    length: u32,
}

impl Client {
    fn serve(&mut self) -> Result<()> {
        if self.handshake()? {
            log::info!("{}: a client is there", self.source.name);
            while let Some(request) = self.request()? {
                if request.command == command::DISC {
                    return Ok(());
                }
                self.answer(&request)?;
            }
        }
        Ok(())
    }

    // The handshake.

    /// Whether there is something to serve at its end.
    fn handshake(&mut self) -> Result<bool> {
        let flags = FIXED_NEWSTYLE | NO_ZEROES;
        self.say(&[&MAGIC.to_be_bytes(), &OPTION.to_be_bytes(), &flags.to_be_bytes()])?;
        let flags = u32::from_be_bytes(self.take()?);
        if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
            return Err(Error::Protocol(format!("client flags {flags:#x}")));
        }
        for _ in 0..MAX_OPTIONS {
            let magic = u64::from_be_bytes(self.take()?);
            let (option, length) = (u32::from_be_bytes(self.take()?), u32::from_be_bytes(self.take()?));
            if magic != OPTION || length > MAX_OPTION {
                return Err(Error::Protocol(format!("option {option} of {length} bytes, magic {magic:#x}")));
            }
            let data = self.bytes(length)?;
            match option {
                opt::EXPORT_NAME => {
                    if !self.is_ours(&data) {
                        return Err(Error::Protocol(format!("no export {:?}", String::from_utf8_lossy(&data))));
                    }
                    let zeroes: &[u8] = if flags & u32::from(NO_ZEROES) != 0 { &[] } else { &[0; 124] };
                    let size = self.source.image.size();
                    self.say(&[&size.to_be_bytes(), &FLAGS.to_be_bytes(), zeroes])?;
                    return Ok(true);
                }
                opt::ABORT => {
                    // It need not wait for that.
                    let _ = self.reply(option, rep::ACK, &[]);
                    return Ok(false);
                }
                opt::LIST if data.is_empty() => {
                    let name = self.source.name.clone();
                    let length = u32::try_from(name.len()).unwrap_or_default().to_be_bytes();
                    self.reply(option, rep::SERVER, &[&length, name.as_bytes()])?;
                    self.reply(option, rep::ACK, &[])?;
                }
                opt::LIST => self.reply(option, rep::ERR_INVALID, &[])?,
                opt::INFO | opt::GO => match asked(&data) {
                    None => self.reply(option, rep::ERR_INVALID, &[])?,
                    Some(name) if !self.is_ours(name) => self.reply(option, rep::ERR_UNKNOWN, &[])?,
                    Some(_) => {
                        self.inform(option)?;
                        if option == opt::GO {
                            return Ok(true);
                        }
                    }
                },
                _ => self.reply(option, rep::ERR_UNSUP, &[])?,
            }
        }
        Err(Error::Protocol(format!("more than {MAX_OPTIONS} options")))
    }

    /// The default export is the only one.
    fn is_ours(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.source.name.as_bytes()
    }

    fn inform(&mut self, option: u32) -> Result<()> {
        const EXPORT: u16 = 0;
        const BLOCK_SIZE: u16 = 3;
        let size = self.source.image.size();
        self.reply(option, rep::INFO, &[&EXPORT.to_be_bytes(), &size.to_be_bytes(), &FLAGS.to_be_bytes()])?;
        let [least, best, most] = [1u32, 4096, MAX_REQUEST].map(u32::to_be_bytes);
        self.reply(option, rep::INFO, &[&BLOCK_SIZE.to_be_bytes(), &least, &best, &most])?;
        self.reply(option, rep::ACK, &[])
    }

    fn reply(&mut self, option: u32, reply: u32, data: &[&[u8]]) -> Result<()> {
        let length: usize = data.iter().map(|part| part.len()).sum();
        let length = u32::try_from(length).unwrap_or_default().to_be_bytes();
        let head = [&OPTION_REPLY.to_be_bytes()[..], &option.to_be_bytes(), &reply.to_be_bytes(), &length].concat();
        self.say(&[&head, &data.concat()])
    }

    // The transmission.

    /// The next request; `None` where the client has ended.
    fn request(&mut self) -> Result<Option<Request>> {
        let mut first = [0];
        match self.reader.read(&mut first) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(io("reading")(error)),
        }
        let rest: [u8; 3] = self.take()?;
        let [a, b, c] = rest;
        let magic = u32::from_be_bytes([first[0], a, b, c]);
        if magic != REQUEST {
            return Err(Error::Protocol(format!("a request with the magic {magic:#x}")));
        }
        Ok(Some(Request {
            flags: u16::from_be_bytes(self.take()?),
            command: u16::from_be_bytes(self.take()?),
            cookie: u64::from_be_bytes(self.take()?),
            offset: u64::from_be_bytes(self.take()?),
            length: u32::from_be_bytes(self.take()?),
        }))
    }

    fn answer(&mut self, request: &Request) -> Result<()> {
        if request.command == command::WRITE && request.length > MAX_REQUEST {
            return Err(Error::Protocol(format!("a write of {} bytes", request.length)));
        }
        let payload = if request.command == command::WRITE { self.bytes(request.length)? } else { Vec::new() };
        let (error, bytes) = match self.carry_out(request, payload) {
            Ok(bytes) => (0, bytes),
            Err(number) => (number, Vec::new()),
        };
        let head = [&REPLY.to_be_bytes()[..], &error.to_be_bytes(), &request.cookie.to_be_bytes()].concat();
        self.say(&[&head, &bytes])
    }

    /// Gives what was read, or the number of what is wrong.
    fn carry_out(&self, request: &Request, payload: Vec<u8>) -> std::result::Result<Vec<u8>, u32> {
        let Request { offset, length, .. } = *request;
        let known = match request.command {
            command::READ | command::WRITE | command::FLUSH | command::TRIM => command::FUA,
            command::WRITE_ZEROES => command::FUA | command::NO_HOLE,
            _ => return Err(EINVAL),
        };
        if request.flags & !known != 0 || (request.command == command::READ && length > MAX_REQUEST) {
            return Err(EINVAL);
        }
        let outside = if request.command == command::WRITE { ENOSPC } else { EINVAL };
        let source = &self.source;
        source.image.check(offset, length.into()).map_err(|_| outside)?;
        let mut read = Vec::new();
        let done = match request.command {
            command::READ => {
                read = vec![0; usize::try_from(length).unwrap_or_default()];
                source.read(offset, &mut read)
            }
            command::WRITE if payload.is_empty() => Ok(()),
            command::WRITE => source.write(offset, payload),
            command::FLUSH => source.sync(),
            _ => source.zero(offset, length.into(), request.flags & command::NO_HOLE == 0),
        };
        let writes = !matches!(request.command, command::READ | command::FLUSH);
        let safe = done.and_then(|()| if writes && request.flags & command::FUA != 0 { source.sync() } else { Ok(()) });
        safe.map(|()| read).map_err(|error| {
            log::error!("{}: {error}", source.name);
            match error {
                Error::Io { source, .. } if source.kind() == ErrorKind::StorageFull => ENOSPC,
                _ => EIO,
            }
        })
    }

    // Bytes.

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(io("reading"))?;
        Ok(bytes)
    }

    /// So many bytes. Memory is taken as they come.
    fn bytes(&mut self, length: u32) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader.by_ref().take(length.into()).read_to_end(&mut bytes).map_err(io("reading"))?;
        if bytes.len() as u64 == u64::from(length) {
            Ok(bytes)
        } else {
            Err(io("reading")(ErrorKind::UnexpectedEof.into()))
        }
    }

    fn say(&mut self, parts: &[&[u8]]) -> Result<()> {
        let mut parts: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        self.writer.write_all_vectored(&mut parts).map_err(io("writing"))
    }
}

/// The name in the data of INFO and GO: its length, itself, and a list of what is wanted, with its length.
fn asked(data: &[u8]) -> Option<&[u8]> {
    let (length, rest) = data.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let (count, rest) = rest.split_first_chunk()?;
    (rest.len() == 2 * usize::from(u16::from_be_bytes(*count))).then_some(name)
}

#[cfg(test)]
#[path = "nbd_tests.rs"]
mod tests;
