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

use super::clock::Clock;
use super::failpoint::Failpoints;
use super::fence::Fence;
use super::held::{Facts, Finished, Held};
use super::link::{Forward, ReadAhead, Record, first_bytes};
use super::operator::{Ask, Handle, Notices};
use super::stats::Statistics;
use super::witness::{Alarm, Said as WitnessSaid, WitnessThread};
use crate::hypervisor::{self, DeviceModel, RestoreDomain};
use crate::libxl::restore::Options;
use crate::remus::wire::{MAGIC, Peer, name_sum, recognise_primary};
use crate::remus::{Config, Generation, Secondary, Timers};
use crate::transport::{Cancel, Link, LinkReader};
use crate::witness::Witness;
use copy::{Keeper, Order, Said};
use run::Run;
use std::io::{self, IoSlice};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Instant, SystemTime};

pub use crate::remus::secondary::End;
pub use replica::{Arrived, Copies, Replica, Restored, Unsound};
pub(super) use words::{NOTHING_DENIED, OTHER_VERSION};

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

/// A domain that may run: nobody else is active.
#[derive(Debug)]
pub struct Survivor<D> {
    /// Complete and paused.
    pub domain: D,
    /// The checkpoint it is at.
    pub checkpoint: u64,
    /// The generation it is active in.
    pub generation: Generation,
    /// When the primary counted as lost, or the switch-over was asked for.
    pub lost: Instant,
}

/// How it ended.
#[derive(Debug)]
pub enum Outcome<D> {
    /// This side goes on with the guest.
    Survivor(Survivor<D>),
    /// This side has no part any more.
    Ended(End),
    /// This side was denied the next generation. Its replica is kept.
    Denied(Held<D>),
}

/// Why a secondary could not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A thread, a file descriptor.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Somebody else is at the other end.
    #[error("the other side is {0}")]
    Peer(&'static str),
    /// The copy could not be made fit to run. The generation is taken: nobody else goes active by itself.
    #[error("the copy cannot run: {0}; this side holds {1}, start the guest elsewhere by force")]
    Unfit(String, Generation),
}

enum Message<D> {
    Said(Said<D>),
    Peer(io::Result<Option<Peer>>),
    Witness(WitnessSaid),
    Fenced(bool),
    WriteFailed(io::Error),
    Ask(Ask),
}

/// A secondary that has not begun.
pub struct Driver<T: Copies> {
    inbox: Receiver<Message<T::Domain>>,
    post: Sender<Message<T::Domain>>,
}

impl<T: Copies> std::fmt::Debug for Driver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("secondary::Driver")
    }
}

impl<T: Copies> Default for Driver<T> {
    fn default() -> Self {
        let (post, inbox) = channel();
        Driver { inbox, post }
    }
}

impl<T: Copies> Driver<T> {
    /// A way for the operator to talk to it.
    pub fn handle(&self) -> Handle {
        let post = self.post.clone();
        Handle::new(move |ask| post.send(Message::Ask(ask)).is_ok())
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
        let post = self.post.clone();
        let points = failpoints.clone();
        let keeper = thread::Builder::new().name("copy".into()).spawn(move || {
            keep(reader, target, restore, record, points, ordered, &post);
        })?;
        let answer = self.post.clone();
        let has_fence = fence.is_some();
        let (witness, described) = WitnessThread::start_any(witness, config.retry, move |said| {
            let _ = answer.send(Message::Witness(said));
        })?;
        let mut run = Run {
            clock: Clock::start(),
            machine: Secondary::new(Config { domain: name_sum(&domain), ..config }),
            timers: Timers::default(),
            orders,
            post: self.post,
            writer: Some(writer),
            outbox: None,
            link: cancel,
            reading,
            probe,
            witness,
            fence,
            failpoints,
            words: words::Words {
                domain,
                peer,
                witness: described,
                fence: has_fence,
                notices: Notices::default(),
                alarm: Alarm::default(),
                statistics: Statistics::default(),
                last: None,
                begun: Instant::now(),
            },
            refusal: None,
            on_checkpoint,
            on_replica,
            held: None,
            lost: Instant::now(),
            terminated: None,
            quit: false,
            activated: None,
            greeting: Instant::now() + config.answer,
        };
        let finished = run.serve(&self.inbox);
        let (ended, keep) = match &finished {
            Ok(Finished::Over(outcome)) => (matches!(outcome, Outcome::Ended(_)), false),
            Ok(Finished::Denied(_)) => (true, true),
            Err(_) => (false, false),
        };
        run.shut(ended, keep);
        if let Ok(Finished::Denied(memory)) = finished {
            let facts = Facts {
                checkpoint: run.machine.newest().unwrap_or_default(),
                session: run.machine.session(),
                newest: run.machine.generation(),
                memory,
                peer: run.words.peer.clone(),
                since: Instant::now(),
                date: SystemTime::now(),
            };
            let orders = run.orders.clone();
            let activate = Box::new(move || activate(&orders, &self.inbox));
            return Ok(Outcome::Denied(Held::new(facts, activate, keeper)));
        }
        drop(run);
        if keeper.join().is_err() {
            log::error!("the copy's thread has panicked");
        }
        match finished? {
            Finished::Over(outcome) => Ok(outcome),
            // Seen to above.
            Finished::Denied(_) => Ok(Outcome::Ended(End::CopyLost)),
        }
    }
}

/// Has the copy's thread, which keeps it, give it away.
fn activate<D>(orders: &Sender<Order>, inbox: &Receiver<Message<D>>) -> Result<D, String> {
    let gone = || "the copy's thread has ended".to_owned();
    orders.send(Order::Activate).map_err(|_| gone())?;
    loop {
        match inbox.recv().map_err(|_| gone())? {
            Message::Said(Said::Survivor(domain)) => return Ok(*domain),
            Message::Said(Said::Unfit(text)) => return Err(text),
            _ => {}
        }
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
    post: &Sender<Message<T::Domain>>,
) {
    let mut first = Vec::new();
    let peer = first_bytes(&mut reader, &mut first, recognise_primary);
    let framed = matches!(peer, Ok(Some(Peer::Framed)));
    // Whoever drives has gone: then nothing matters here.
    let _ = post.send(Message::Peer(peer));
    if framed {
        let reader = match ReadAhead::start(reader) {
            Ok(reader) => reader,
            Err(error) => {
                let _ = post.send(Message::Peer(Err(error)));
                return;
            }
        };
        let frames = post.clone();
        let control = move |session, frame| {
            let _ = frames.send(Message::Said(Said::Frame(session, frame)));
        };
        let forward = Forward::new(reader, &first, record, failpoints.clone(), control);
        let say = |said| {
            let _ = post.send(Message::Said(said));
        };
        Keeper::new(forward, target, restore, failpoints, orders, say).run();
    }
}
