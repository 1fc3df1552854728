//! The secondary's copy of a real domain: libxl's, built and kept at each checkpoint by a stock receiver.
//!
//! What is handed to it was held against the specification before, and behind the first image it gets whole checkpoints only.
#![forbid(unsafe_code)]

use super::receiver::{Receiver, Way};
use crate::disk::engine::Keepers;
use crate::disk::{Device, Mark};
use crate::hypervisor::types::DomainInfo;
use crate::hypervisor::xen::Host;
use crate::hypervisor::{Domain, Error, RunState};
use crate::libxc::RestoreError;
use crate::libxc::restore::whole_checkpoint;
use crate::libxl::restore::Options;
use crate::remus::Session;
use crate::replicate::secondary::{Arrived, Copies, Replica, Unsound};
use crate::save_helper::supervised::Applied;
use crate::stream::check::{Checker, Parsed};
use crate::stream::error::Severity;
use crate::stream::framer::What;
use crate::stream::reader::{PullReader, ReadError};
use crate::stream::{Mode, Start, framer, libxc, libxl, xl};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

/// What becomes of the disks of a domain that is taken, those that daemons replicate ([`crate::disk`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disks {
    /// Each must have a keeper here, which follows the checkpoints.
    Kept,
    /// They are not looked at, as the primary was told not to.
    Any,
    /// There must be none: nobody says which checkpoint of them belongs to which of the domain.
    None,
}

/// Hands streams to stock receivers, one for each.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The only domain that is taken.
    pub domain: String,
    /// How to run the receiver.
    pub way: Way,
    /// What becomes of its disks.
    pub disks: Disks,
    /// Of the copies that there are, those of other sessions too.
    numbers: Numbers,
    /// The first of them.
    first: u32,
}

/// The numbers in use of a domain's copies on this host. The first has the domain's name; one that comes while that is kept has another.
#[derive(Debug, Clone, Default)]
struct Numbers(Arc<Mutex<BTreeSet<u32>>>);

/// A copy's number, free again when this is dropped.
#[derive(Debug)]
struct Number {
    number: u32,
    of: Numbers,
}

impl Numbers {
    fn take(&self, first: u32) -> Number {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = (first..).find(|number| !used.contains(number)).unwrap_or(u32::MAX);
        used.insert(number);
        Number { number, of: self.clone() }
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        self.of.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

impl Incoming {
    /// For images of one domain.
    pub fn new(domain: String, way: Way, disks: Disks) -> Self {
        Incoming { domain, way, disks, numbers: Numbers::default(), first: 1 }
    }

    /// Another process of this host keeps a copy, which may have the domain's name: copies of this one are numbered from its process on.
    pub fn beside(&mut self) {
        self.first = std::process::id();
    }

    /// The preamble with the name that this copy may have, and the keepers of the domain's disks.
    fn preamble(&self, preamble: &xl::Preamble<'_>, number: u32) -> Result<(Described, Keepers), String> {
        let bytes = preamble.config().map_err(|error| error.to_string())?;
        let text = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        let mut config: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let name = config.pointer_mut("/c_info/name").ok_or("a configuration without a name")?;
        if name.as_str() != Some(&self.domain) {
            return Err(format!("the stream is of domain {name}, this side takes {:?}", self.domain));
        }
        let renamed = (number > 1).then(|| format!("{}--copy{number}", self.domain));
        if let Some(renamed) = renamed {
            *name = renamed.into();
        }
        let keepers = self.keepers(&config)?;
        let mut out = Vec::new();
        xl::emit(&config.to_string(), &mut out).map_err(|error| error.to_string())?;
        let kib = config.pointer("/b_info/max_memkb").and_then(Value::as_u64).unwrap_or_default();
        Ok((Described { preamble: out, memory: kib.saturating_mul(1024) }, keepers))
    }

    fn keepers(&self, config: &Value) -> Result<Keepers, String> {
        let replicated = replicated(config);
        match (self.disks, replicated.first()) {
            (Disks::Any, _) => Ok(Keepers::default()),
            (Disks::None, Some(device)) => Err(format!(
                "its disk {device} has no checkpoints without acknowledgements: --any-disks takes it as it is"
            )),
            _ => Keepers::find(replicated).map_err(|error| error.to_string()),
        }
    }
}

/// The disks in a configuration of libxl's that the guest can write to and daemons replicate.
fn replicated(config: &Value) -> Vec<Device> {
    let disks = config.get("disks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let writable = disks.iter().filter(|disk| disk.get("readwrite").and_then(Value::as_u64) != Some(0));
    writable.filter_map(|disk| Device::of(disk.get("pdev_path")?.as_str()?)).collect()
}

/// A domain that a receiver has taken over with: it runs. Who it is can be looked up later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    /// Its number.
    pub domid: u32,
    /// The name that it is to have.
    pub name: String,
}

/// What a stream's preamble says, as the receiver gets it.
#[derive(Debug, PartialEq, Eq)]
struct Described {
    preamble: Vec<u8>,
    /// Bytes of memory that the domain may have.
    memory: u64,
}

/// A source whose bytes are kept until somebody takes them.
#[derive(Debug)]
struct Kept<R> {
    source: R,
    bytes: Rc<RefCell<Vec<u8>>>,
}

impl<R: Read> Read for Kept<R> {
    fn read(&mut self, place: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(place)?;
        self.bytes.borrow_mut().extend_from_slice(place.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// A copy that libxl has.
#[derive(Debug)]
pub struct Copy<R> {
    name: String,
    reader: PullReader<Kept<R>>,
    checker: Checker,
    bytes: Rc<RefCell<Vec<u8>>>,
    /// Most bytes of a checkpoint; none: what its memory may take.
    limit: Option<u64>,
    receiver: Receiver,
    at: Applied,
    keepers: Keepers,
    /// The checkpoint that the disks are at.
    disks_at: Option<Mark>,
    /// Bytes of memory that it may take, by its configuration.
    memory: u64,
    /// Last, so that it is free when the domain is gone.
    number: Number,
}

impl Copies for Incoming {
    type Domain = Active;
    type Copy<R: Read> = Copy<R>;

    fn image<R: Read>(&mut self, stream: R, options: Options) -> Result<Copy<R>, Unsound> {
        let bytes = Rc::new(RefCell::new(Vec::new()));
        let framing = framer::Options { start: Some(Start::Xl), mode: Some(Mode::Remus), ..framer::Options::default() };
        let reader = PullReader::new(Kept { source: stream, bytes: Rc::clone(&bytes) }, framing);
        let receiver = Receiver::start(&self.way).map_err(no_domain)?;
        let mut copy = Copy {
            name: self.domain.clone(),
            reader,
            checker: Checker::new(Some(Mode::Remus)),
            bytes,
            limit: options.libxc.round_limit,
            receiver,
            at: Applied { domid: 0, checkpoint: 0 },
            keepers: Keepers::default(),
            disks_at: None,
            memory: 0,
            number: self.numbers.take(self.first),
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
            replaced = Some(incoming.preamble(preamble, self.number.number));
        })?;
        let mut bytes = self.bytes.borrow_mut();
        if let Some(preamble) = replaced {
            let (described, keepers) = preamble.map_err(|text| Unsound::Domain(Error::Toolstack(text)))?;
            self.keepers = keepers;
            (*bytes, self.memory) = (described.preamble, described.memory);
        }
        self.receiver.feed(&bytes).map_err(no_domain)?;
        bytes.clear();
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
    let there = reader.fetch().map_err(|error| match error {
        ReadError::Stream(error) => ReadError::from(checker.judge_end(error, reader.torn_record())),
        error => error,
    });
    let item = if there.map_err(RestoreError::from)? { reader.take_whole().map_err(RestoreError::from)? } else { None };
    let Some(item) = item else { return Err(Unsound::Ended) };
    let mut wrong = None;
    let parsed = checker.item(&item, &mut |error| {
        if error.problem.severity() == Severity::Error && wrong.is_none() {
            wrong = Some(error);
        }
    });
    if let Some(error) = wrong {
        return Err(RestoreError::from(ReadError::from(error)).into());
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
    type Domain = Active;

    fn receive(&mut self) -> Result<Arrived, Unsound> {
        self.bytes.borrow_mut().clear();
        let mut pages = 0;
        let limit = self.limit.unwrap_or_else(|| whole_checkpoint(self.memory));
        while !item(&mut self.reader, &mut self.checker, &mut pages, |_| {})? {
            let needed = self.bytes.borrow().len() as u64;
            if needed > limit {
                let offset = self.reader.framer().offset();
                return Err(RestoreError::RoundLimit { offset, needed, limit }.into());
            }
        }
        Ok(Arrived { pages, bytes: self.bytes.borrow().len() as u64 })
    }

    fn commit(&mut self, session: Session, checkpoint: u64) -> Result<(), String> {
        let mark = Mark { session: session.0, checkpoint };
        self.keepers.commit(mark).map_err(|error| error.to_string())?;
        self.disks_at = Some(mark);
        Ok(())
    }

    fn apply(&mut self) -> Result<(), String> {
        let expected = Applied { checkpoint: self.at.checkpoint + 1, ..self.at };
        self.receiver.feed(&self.bytes.borrow()).map_err(|error| error.to_string())?;
        let found = self.receiver.applied().map_err(|error| error.to_string())?;
        if found != expected {
            return Err(format!("the receiver is at {found:?} where {expected:?} is due"));
        }
        self.at = found;
        Ok(())
    }

    /// Once the receiver has taken over the domain runs here, and nothing that fails later says otherwise.
    fn activate(self) -> Result<Active, String> {
        if !self.keepers.is_empty() {
            // Before anything of the domain runs.
            let mark = self.disks_at.ok_or("no checkpoint of its disks was committed")?;
            self.keepers.promote(mark).map_err(|error| format!("its disks: {error}"))?;
        }
        let domid = self.at.domid;
        match self.receiver.fail_over() {
            Ok(()) => Ok(Active { domid, name: self.name }),
            Err(error) if runs(domid) => {
                log::error!("{}: {error}; domain {domid} runs nevertheless", self.name);
                Ok(Active { domid, name: self.name })
            }
            Err(error) => Err(format!(
                "{error}; domain {domid}, if `xl list` still shows it, is not running: `xl destroy {domid}` removes it"
            )),
        }
    }

    fn memory(&self) -> u64 {
        info(self.at.domid).map_or(self.memory, |info| info.memory())
    }
}

/// What Xen says of a domain, if it does.
fn info(domid: u32) -> crate::hypervisor::Result<DomainInfo> {
    Host::open()?.domain(domid)?.info()
}

/// Whether a domain runs: as far as Xen says so.
fn runs(domid: u32) -> bool {
    info(domid).is_ok_and(|info| info.run_state() == RunState::Running)
}

#[cfg(test)]
mod tests {
    use super::super::receiver::Waits;
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::path::Path;

    /// What a stock `xl remus` sent of a PVH guest called `guest`, until it was killed.
    fn stream() -> Vec<u8> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/xen/4.17.7stock-pvh40-remus.xz");
        let mut bytes = Vec::new();
        let file = fs::File::open(path).unwrap();
        lzma_rust2::XzReader::new(file, true).read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn name_in(stream: &[u8]) -> String {
        let header = xl::Header::parse(stream).unwrap().unwrap();
        let config = &stream[xl::HEADER_LEN + 4..xl::HEADER_LEN + header.optional_data_len as usize - 1];
        let config: Value = serde_json::from_slice(config).unwrap();
        config["c_info"]["name"].as_str().unwrap().to_owned()
    }

    /// A receiver that is at one checkpoint after the other, and keeps what it is fed in `out`.
    fn receiver(folder: &Path) -> Way {
        let mut records = Vec::new();
        for checkpoint in 1..100u64 {
            for word in [0x8000_5852u32, 16, 7, 0] {
                records.write_all(&word.to_le_bytes()).unwrap();
            }
            records.write_all(&checkpoint.to_le_bytes()).unwrap();
        }
        let bytes = [b"xl migration receiver ready, send binary domain data.\n", &records[..]].concat();
        fs::write(folder.join("says"), bytes).unwrap();
        let script = "cat $0/says; cat >$0/out; test -e $XEN_REPLICATE_FAILOVER; echo $? >$0/end";
        Way {
            command: format!("sh -c '{script}' {}", folder.display()),
            helper: "/bin/sh".into(),
            waits: Waits::default(),
        }
    }

    #[test]
    fn whole_checkpoints_are_passed_on_and_the_torn_one_is_not() {
        let stream = stream();
        let folder = tempfile::tempdir().unwrap();
        let mut incoming = Incoming::new(name_in(&stream), receiver(folder.path()), Disks::Kept);
        let mut options = Options::default();
        options.libxc.round_limit = Some(1 << 30);
        let mut copy = incoming.image(&stream[..stream.len() - 3], options).unwrap();
        let mut checkpoints = 1;
        let end = loop {
            match copy.receive() {
                Ok(arrived) => assert!(arrived.bytes > 0),
                Err(unsound) => break unsound,
            }
            copy.apply().unwrap();
            checkpoints += 1;
        };
        assert!(end.is_sender_gone(), "{end}");
        assert!(checkpoints > 1, "the stream has {checkpoints} checkpoints");
        let offset = copy.reader.framer().checkpoints();
        assert_eq!(offset, checkpoints);
        // There is no xenstore here to tell of the domain: it runs all the same.
        assert_eq!(copy.activate().unwrap(), Active { domid: 7, name: name_in(&stream) });
        let out = fs::read(folder.path().join("out")).unwrap();
        let header = xl::Header::parse(&stream).unwrap().unwrap();
        let preamble = xl::HEADER_LEN + header.optional_data_len as usize;
        let fed = xl::HEADER_LEN + xl::Header::parse(&out).unwrap().unwrap().optional_data_len as usize;
        assert!(stream[preamble..].starts_with(&out[fed..]), "what was fed is not what came");
        assert_eq!(out[out.len() - 8..], [4, 0, 0, 0, 0, 0, 0, 0], "it does not end with CHECKPOINT_END");
        assert_eq!(fs::read_to_string(folder.path().join("end")).unwrap(), "0\n");
    }

    #[test]
    fn another_domain_and_garbage_are_refused_and_nothing_takes_over() {
        let stream = stream();
        let folder = tempfile::tempdir().unwrap();
        let mut incoming = Incoming::new("other".into(), receiver(folder.path()), Disks::Kept);
        let error = incoming.image(&stream[..], Options::default()).unwrap_err();
        assert!(!error.is_sender_gone() && error.to_string().contains("\"other\""), "{error}");
        assert_eq!(fs::read_to_string(folder.path().join("end")).unwrap(), "1\n");
        let mut damaged = stream.clone();
        let at = xl::HEADER_LEN + xl::Header::parse(&stream).unwrap().unwrap().optional_data_len as usize;
        damaged[at] ^= 1;
        let mut incoming = Incoming::new(name_in(&stream), receiver(folder.path()), Disks::Kept);
        let error = incoming.image(&damaged[..], Options::default()).unwrap_err();
        assert!(!error.is_sender_gone(), "{error}");
        assert_eq!(fs::read_to_string(folder.path().join("end")).unwrap(), "1\n");
    }

    #[test]
    fn a_disk_that_daemons_replicate_must_have_a_keeper_here() {
        let config = |disks: &str| {
            let mut bytes = Vec::new();
            xl::emit(&format!("{{\"c_info\":{{\"name\":\"web\"}},\"disks\":[{disks}]}}"), &mut bytes).unwrap();
            bytes
        };
        let nbd = r#"{"pdev_path":"/dev/nbd4093","vdev":"xvda","readwrite":1}"#;
        let others =
            r#"{"pdev_path":"/dev/nbd4094","readwrite":0},{"pdev_path":"/dev/vg/web","readwrite":1},{"vdev":"hdc"}"#;
        let asked = |bytes: &[u8], disks| {
            let header = xl::Header::parse(bytes).unwrap().unwrap();
            let preamble = xl::Preamble { header, optional_data: &bytes[xl::HEADER_LEN..] };
            let way = Way { command: String::new(), helper: "/none".into(), waits: Waits::default() };
            Incoming::new("web".into(), way, disks).preamble(&preamble, 1).map(|(_, keepers)| keepers)
        };
        let error = asked(&config(&format!("{others},{nbd}")), Disks::Kept).unwrap_err();
        assert!(error.contains("nobody on this host keeps") && error.contains("/dev/nbd4093"), "{error}");
        let error = asked(&config(nbd), Disks::None).unwrap_err();
        assert!(error.contains("/dev/nbd4093") && error.contains("--any-disks"), "{error}");
        for (disks, how) in [(nbd, Disks::Any), (others, Disks::Kept), (others, Disks::None), ("", Disks::Kept)] {
            assert!(asked(&config(disks), how).unwrap().is_empty());
        }
    }

    #[test]
    fn a_second_image_has_another_name_until_it_takes_over() {
        let mut bytes = Vec::new();
        xl::emit("{\"b_info\":{\"max_memkb\":64},\"c_info\":{\"name\":\"web\"}}", &mut bytes).unwrap();
        let header = xl::Header::parse(&bytes).unwrap().unwrap();
        let preamble = xl::Preamble { header, optional_data: &bytes[xl::HEADER_LEN..] };
        let way = Way { command: String::new(), helper: "/none".into(), waits: Waits::default() };
        let mut incoming = Incoming::new("web".into(), way, Disks::Kept);
        // A later session's is another clone of it.
        let (first, second) = (incoming.numbers.take(1), incoming.clone().numbers.take(1));
        let described = |number: &Number| incoming.preamble(&preamble, number.number).unwrap().0;
        assert_eq!(described(&first), Described { preamble: bytes.clone(), memory: 64 << 10 });
        assert_eq!(name_in(&described(&second).preamble), "web--copy2");
        drop(first);
        assert_eq!((incoming.numbers.take(1).number, second.number), (1, 2));
        incoming.beside();
        assert!(incoming.numbers.take(incoming.first).number > 2);
        incoming.domain = "db".into();
        assert!(incoming.preamble(&preamble, 1).unwrap_err().contains("\"db\""));
    }
}
