//! The secondary's copy of a real domain: libxl's, built and kept at each checkpoint by a stock receiver.
//!
//! What is handed to it was held against the specification before, and behind the first image it gets whole checkpoints only.
#![forbid(unsafe_code)]

use super::receiver::{Receiver, Way};
use crate::hypervisor::Error;
use crate::libxc::RestoreError;
use crate::libxl::restore::Options;
use crate::replicate::secondary::{Arrived, Copies, Replica, Unsound};
use crate::save_helper::supervised::Applied;
use crate::stream::check::{Checker, Parsed};
use crate::stream::error::Severity;
use crate::stream::framer::What;
use crate::stream::reader::PullReader;
use crate::stream::{Mode, Start, framer, libxc, libxl, xl};
use crate::toolstack::identity::Identity;
use crate::toolstack::store::Store;
use serde_json::Value;
use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;

/// Hands streams to stock receivers, one for each.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The only domain that is taken.
    pub domain: String,
    /// How to run the receiver.
    pub way: Way,
    /// Streams so far. While a second image arrives there is the copy of the first, which has the name.
    streams: u32,
}

impl Incoming {
    /// For images of one domain.
    pub const fn new(domain: String, way: Way) -> Self {
        Incoming { domain, way, streams: 0 }
    }

    /// The preamble with the name that this copy may have.
    fn preamble(&self, preamble: &xl::Preamble<'_>) -> Result<Vec<u8>, String> {
        let octets = preamble.config().map_err(|error| error.to_string())?;
        let text = octets.strip_suffix(&[0]).unwrap_or(octets);
        let mut config: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let name = config.pointer_mut("/c_info/name").ok_or("a configuration without a name")?;
        if name.as_str() != Some(&self.domain) {
            return Err(format!("the stream is of domain {name}, this side takes {:?}", self.domain));
        }
        if self.streams > 1 {
            *name = format!("{}--copy{}", self.domain, self.streams).into();
        }
        let mut out = Vec::new();
        xl::emit(&config.to_string(), &mut out).map_err(|error| error.to_string())?;
        Ok(out)
    }
}

/// A source whose octets are kept until somebody takes them.
#[derive(Debug)]
struct Kept<R> {
    source: R,
    octets: Rc<RefCell<Vec<u8>>>,
}

impl<R: Read> Read for Kept<R> {
    fn read(&mut self, place: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(place)?;
        self.octets.borrow_mut().extend_from_slice(place.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// A copy that libxl has.
#[derive(Debug)]
pub struct Copy<R> {
    name: String,
    reader: PullReader<Kept<R>>,
    checker: Checker,
    octets: Rc<RefCell<Vec<u8>>>,
    limit: u64,
    receiver: Receiver,
    at: Applied,
}

impl Copies for Incoming {
    type Domain = Identity;
    type Copy<R: Read> = Copy<R>;

    fn image<R: Read>(&mut self, stream: R, options: Options) -> Result<Copy<R>, Unsound> {
        self.streams = self.streams.saturating_add(1);
        let octets = Rc::new(RefCell::new(Vec::new()));
        let framing = framer::Options { start: Some(Start::Xl), mode: Some(Mode::Remus), ..framer::Options::default() };
        let reader = PullReader::new(Kept { source: stream, octets: Rc::clone(&octets) }, framing);
        let receiver = Receiver::start(&self.way).map_err(no_domain)?;
        let mut copy = Copy {
            name: self.domain.clone(),
            reader,
            checker: Checker::new(Some(Mode::Remus)),
            octets,
            limit: options.libxc.round_limit,
            receiver,
            at: Applied { domid: 0, checkpoint: 0 },
        };
        while !copy.image_item(self)? {}
        copy.at = copy.receiver.applied().map_err(no_domain)?;
        Ok(copy)
    }
}

fn no_domain(error: io::Error) -> Unsound {
    Unsound::Domain(Error::Toolstack(error.to_string()))
}

impl<R: Read> Copy<R> {
    /// Passes on the next item of the first image; true behind its checkpoint.
    fn image_item(&mut self, incoming: &Incoming) -> Result<bool, Unsound> {
        let mut replaced = None;
        let mut pages = 0;
        let ended = item(&mut self.reader, &mut self.checker, &mut pages, |preamble| {
            replaced = Some(incoming.preamble(preamble));
        })?;
        let mut octets = self.octets.borrow_mut();
        if let Some(preamble) = replaced {
            *octets = preamble.map_err(|text| Unsound::Domain(Error::Toolstack(text)))?;
        }
        self.receiver.feed(&octets).map_err(no_domain)?;
        octets.clear();
        Ok(ended)
    }
}

/// Reads and checks the next item; true where it is a checkpoint's last.
fn item<R: Read>(
    reader: &mut PullReader<R>,
    checker: &mut Checker,
    pages: &mut u64,
    mut preamble: impl FnMut(&xl::Preamble<'_>),
) -> Result<bool, Unsound> {
    let Some(item) = reader.next_item().map_err(RestoreError::from)? else { return Err(Unsound::Ended) };
    let mut wrong = None;
    let parsed = checker.item(&item, &mut |error| {
        if error.problem.severity() == Severity::Error && wrong.is_none() {
            wrong = Some(error);
        }
    });
    if let Some(error) = wrong {
        return Err(RestoreError::from(crate::stream::reader::ReadError::from(error)).into());
    }
    if let What::XlPreamble(found) = &item.what {
        preamble(found);
    }
    match parsed {
        Some(Parsed::Libxc(libxc::Record::PageData(data))) => {
            *pages += data.count() as u64;
            Ok(false)
        }
        Some(Parsed::Libxl(libxl::Record::CheckpointEnd)) => Ok(true),
        Some(Parsed::Libxl(libxl::Record::End)) => Err(Unsound::Ended),
        _ => Ok(false),
    }
}

impl<R: Read> Replica for Copy<R> {
    type Domain = Identity;

    fn receive(&mut self) -> Result<Arrived, Unsound> {
        self.octets.borrow_mut().clear();
        let mut pages = 0;
        while !item(&mut self.reader, &mut self.checker, &mut pages, |_| {})? {
            let needed = self.octets.borrow().len() as u64;
            if needed > self.limit {
                let offset = self.reader.framer().offset();
                return Err(RestoreError::RoundLimit { offset, needed, limit: self.limit }.into());
            }
        }
        Ok(Arrived { pages, octets: self.octets.borrow().len() as u64 })
    }

    fn apply(&mut self) -> Result<(), String> {
        let expected = Applied { checkpoint: self.at.checkpoint + 1, ..self.at };
        self.receiver.feed(&self.octets.borrow()).map_err(|error| error.to_string())?;
        let found = self.receiver.applied().map_err(|error| error.to_string())?;
        if found != expected {
            return Err(format!("the receiver is at {found:?} where {expected:?} is due"));
        }
        self.at = found;
        Ok(())
    }

    fn activate(self) -> Result<Identity, String> {
        self.receiver.fail_over().map_err(|error| error.to_string())?;
        let store = Store::open().map_err(|error| format!("xenstore: {error}"))?;
        let mut identity = Identity::of(&store, self.at.domid).map_err(|error| error.to_string())?;
        if identity.name != self.name {
            match crate::toolstack::xl::rename(self.at.domid, &self.name) {
                Ok(()) => identity.name = self.name,
                // It runs. On one and the same host the primary may still have the name.
                Err(error) => log::warn!("{}: its copy stays {}: {error}", self.name, identity.name),
            }
        }
        Ok(identity)
    }
}
