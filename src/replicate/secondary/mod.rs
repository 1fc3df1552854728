//! The driver of [`crate::remus::Secondary`]: from a connection to a survivor, or to nothing.
//!
//! Three threads besides the caller's, which owns the machine: the copy's (`copy.rs`), which applies, the one that reads ahead for it
//! ([`super::link::ReadAhead`]), so that the primary is heard whatever the copy's is busy with, and the [`super::link::Outbox`]'s. A checkpoint is acknowledged when it is whole, checked and in memory of our own; it is applied while the
//! acknowledgement travels. A new stream is restored into a domain of its own, so that the copy before it stands until the
//! new one is whole.

mod copy;
mod replica;
mod run;
mod words;

use super::engine::secondary::{Mailbox, Message, Run, Setup};
use super::failpoint::Failpoints;
use super::fence::Fence;
use super::link::{Forward, ReadAhead, Record, first_bytes};
use super::operator::Handle;
use crate::hypervisor::{self, DeviceModel, RestoreDomain};
use crate::libxl::restore::Options;
use crate::remus::wire::{MAGIC, Peer, name_sum, recognise_primary};
use crate::remus::{Config, Secondary};
use crate::transport::{Cancel, Link, LinkReader};
use crate::witness::Witness;
use copy::{Keeper, Order, Said};
use run::{Remus, Report};
use std::io::IoSlice;
use std::marker::PhantomData;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

pub use super::engine::secondary::{Survivor, Trouble};
pub use crate::remus::secondary::End;
pub use replica::{Arrived, Copies, Replica, Restored, Unsound};
pub(super) use words::OTHER_VERSION;

/// Makes the empty domains that images are restored into.
pub trait Target: Send + 'static {
    /// A domain of the backend.
    type Domain: RestoreDomain + DeviceModel + Send + 'static;

    /// An empty, paused domain by the configuration that the stream's preamble carries, if it has one.
    ///
    /// # Errors
    /// The hypervisor's: no memory, a configuration that does not suit. The image is refused then.
    fn create(&mut self, config: Option<&[u8]>) -> hypervisor::Result<Self::Domain>;
}

/// How to be a secondary.
pub struct Settings {
    /// The domain's name, for people and for the fencing command.
    pub domain: String,
    /// The machine's settings.
    pub config: Config,
    /// How to restore, and how much a buffered checkpoint may take.
    pub restore: Options,
    /// The command that makes sure of the primary's death. [`Config::fence`] says whether there is one.
    pub fence: Option<Fence>,
    /// Who may be active alone, with [`crate::remus::Rule::Witness`].
    pub witness: Option<Box<dyn Witness>>,
    /// Where to keep the streams as they arrive.
    pub record: Option<Record>,
    /// Told of each checkpoint that is whole and acknowledged, with its number.
    pub on_checkpoint: Option<Box<dyn FnMut(u64) + Send>>,
    /// Told once, when the first image is whole and applied: an older replica on this host is of no use any more.
    pub on_replica: Option<Box<dyn FnOnce() + Send>>,
    /// Where tests let this process die.
    pub failpoints: Failpoints,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("domain", &self.domain).field("config", &self.config).finish_non_exhaustive()
    }
}

/// How it ended.
pub type Outcome<D, E = End> = super::engine::secondary::Outcome<D, E>;

/// A secondary that has not begun.
pub struct Driver<T: Copies>(Mailbox<Remus<T::Domain>>);

impl<T: Copies> std::fmt::Debug for Driver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("secondary::Driver")
    }
}

impl<T: Copies> Default for Driver<T> {
    fn default() -> Self {
        Driver(Mailbox::default())
    }
}

impl<T: Copies> Driver<T> {
    /// A way for the operator to talk to it.
    pub fn handle(&self) -> Handle {
        self.0.handle()
    }

    /// Serves one connection. `cancel` is the link's.
    ///
    /// # Errors
    /// [`Trouble`]: no session came about, or the survivor is unfit.
    pub fn run(self, link: Link, cancel: Cancel, target: T, settings: Settings) -> Result<Outcome<T::Domain>, Trouble> {
        let Settings { domain, config, restore, fence, witness, record, on_checkpoint, on_replica, failpoints } =
            settings;
        let peer = link.peer().to_owned();
        let (reader, mut writer) = link.split();
        // Reading ends before the last frame has been written.
        let reading = Cancel::new()?;
        let reader = reader.with_cancel(reading.clone());
        let probe = reader.probe();
        writer.write_all_vectored(&mut [IoSlice::new(&MAGIC)])?;
        let (orders, ordered) = channel();
        let (post, points) = (self.0.post.clone(), failpoints.clone());
        let thread = thread::Builder::new().name("copy".into()).spawn(move || {
            keep(reader, target, restore, record, points, ordered, &post);
        })?;
        let protocol = Remus {
            machine: Secondary::new(Config { domain: name_sum(&domain), ..config }),
            orders,
            writer: Some(writer),
            outbox: None,
            link: cancel,
            refusal: None,
            on_replica,
            domain: PhantomData,
        };
        let (retry, answer, timeout) = (config.retry, config.answer, config.timeout);
        let setup =
            Setup { domain, peer, witness, fence, retry, answer, timeout, reading, probe, failpoints, on_checkpoint };
        Run::new(setup, &self.0, protocol)?.run(self.0, thread)
    }
}

/// The copy's thread: knows who is there, then keeps the copy.
fn keep<T: Copies>(
    mut reader: LinkReader,
    target: T,
    restore: Options,
    record: Option<Record>,
    failpoints: Failpoints,
    orders: Receiver<Order>,
    post: &Sender<Message<Remus<T::Domain>>>,
) {
    let mut first = Vec::new();
    let peer = first_bytes(&mut reader, &mut first, recognise_primary);
    let framed = matches!(peer, Ok(Some(Peer::Framed)));
    // Whoever drives has gone: then nothing matters here.
    let _ = post.send(Message::Report(Report::Peer(peer)));
    if framed {
        let reader = match ReadAhead::start(reader) {
            Ok(reader) => reader,
            Err(error) => {
                let _ = post.send(Message::Report(Report::Peer(Err(error))));
                return;
            }
        };
        let frames = post.clone();
        let control = move |session, frame| {
            let _ = frames.send(Message::Report(Report::Said(Said::Frame(session, frame))));
        };
        let forward = Forward::new(reader, &first, record, failpoints.clone(), control);
        let say = |said| {
            let _ = post.send(Message::Report(Report::Said(said)));
        };
        let last = |last| {
            let _ = post.send(Message::Last(last));
        };
        Keeper::new(forward, target, restore, failpoints, orders, say, last).run();
    }
}
