//! The driver of [`crate::colo::Secondary`]: from a connection to a guest that runs, or to nothing.
//!
//! In lock-step mode the copy runs from the first checkpoint on. What its guest sends goes to the primary and nowhere else; what comes for it
//! comes from there. When the primary is lost and this side may go active, the guest runs on from where it is, its card plugged in by the
//! caller.
#![forbid(unsafe_code)]

mod copy;
mod listen;
mod run;
mod words;

use super::Times;
use super::frame::{self, Frames, Lane};
use super::hello::{Hello, VERSION};
use super::inlet::Inlet;
use super::lists::{Lists, MOST};
use super::millis;
use super::pipe::Pipe;
use crate::colo::Config;
use crate::colo::secondary::End;
use crate::hypervisor::{ComparedCard, DeviceModel, OnSent};
use crate::libxl::restore::Options;
use crate::remus::{Generation, Session, Timers};
use crate::replicate::clock::Clock;
use crate::replicate::failpoint::Failpoints;
use crate::replicate::fence::Fence;
use crate::replicate::held::{Facts, Finished, Held};
use crate::replicate::operator::{Ask, Handle, Notices};
pub use crate::replicate::primary::Observer;
pub use crate::replicate::secondary::{Target, Trouble};
use crate::replicate::stats::Statistics;
use crate::replicate::witness::{Alarm, Said as WitnessSaid, WitnessThread};
use crate::stream::handshake::Message as Handshake;
use crate::stream::{Mode, Start};
use crate::transport::{Cancel, Link};
use crate::witness::Witness;
use copy::{Housed, Order, Said, Work};
use listen::Heard;
use run::Run;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Instant, SystemTime};

/// Makes domains that can run beside a primary's.
pub trait LockstepTarget: Target {
    /// The card of a domain of this target.
    fn card(&self, domain: &Self::Domain) -> Box<dyn ComparedCard>;
}

/// The card, once there is a domain.
type SharedCard = Arc<Mutex<Option<Box<dyn ComparedCard>>>>;

fn lock(card: &SharedCard) -> MutexGuard<'_, Option<Box<dyn ComparedCard>>> {
    card.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How to be a secondary.
pub struct Settings {
    /// The domain's name, for people and for the fencing command.
    pub domain: String,
    /// The machine's settings; the dialect is libxl's. Mode and period are what the primary says, unless it is libxl.
    pub config: Config,
    /// How the two hear of each other.
    pub times: Times,
    /// The session's generation where the primary is libxl, which knows of none.
    pub generation: Generation,
    /// The primary is libxl: no frames.
    pub bare: bool,
    /// How to restore, and how much a buffered checkpoint may take.
    pub restore: Options,
    /// The command that makes sure of the primary's death. [`Config::fence`] says whether there is one.
    pub fence: Option<Fence>,
    /// Who may be active alone, with [`crate::remus::Rule::Witness`].
    pub witness: Option<Box<dyn Witness>>,
    /// Where to keep the stream as it arrives.
    pub record: Option<File>,
    /// Pages in one list at most: [`MOST`], less for tests.
    pub list: u64,
    /// Told of each checkpoint that is loaded, with its number.
    pub on_checkpoint: Option<Box<dyn FnMut(u64) + Send>>,
    /// Where tests let this process die.
    pub failpoints: Failpoints,
}

impl Settings {
    /// The usual ones.
    pub fn new(domain: String, config: Config) -> Self {
        Settings {
            domain,
            config,
            times: Times::default(),
            generation: Generation::default(),
            bare: false,
            restore: Options::default(),
            fence: None,
            witness: None,
            record: None,
            list: MOST,
            on_checkpoint: None,
            failpoints: Failpoints::default(),
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("domain", &self.domain).field("config", &self.config).finish_non_exhaustive()
    }
}

/// A guest that runs here: nobody else is active.
#[derive(Debug)]
pub struct Survivor<D> {
    /// The domain, which runs already.
    pub domain: D,
    /// The checkpoint that it went on from, now or a while ago.
    pub checkpoint: u64,
    /// The generation it is active in.
    pub generation: Generation,
    /// When the primary counted as lost.
    pub lost: Instant,
}

/// How it ended.
#[derive(Debug)]
pub enum Outcome<D> {
    /// This side goes on with the guest.
    Survivor(Survivor<D>),
    /// This side has no part any more.
    Ended(End),
    /// There was no session.
    Unsuited(String),
    /// This side was denied the next generation. Its replica is kept, suspended.
    Denied(Held<D>),
}

/// The way to the copy's thread, which ends with it.
struct Keeping(Inlet<Order>);

impl Drop for Keeping {
    fn drop(&mut self) {
        self.0.order([Order::Quit]);
    }
}

impl Keeping {
    /// Has the thread give its guest away.
    fn activate<D>(&self, inbox: &Receiver<Message<D>>) -> Result<D, String> {
        self.0.order([Order::Activate]);
        loop {
            match inbox.recv().map_err(|_| "the copy's thread has ended".to_owned())? {
                Message::Said(Said::Survivor(housed)) => return Ok(housed.domain),
                Message::Said(Said::Unfit(text)) => return Err(text),
                _ => {}
            }
        }
    }
}

enum Message<D> {
    Said(Said<Housed<D>>),
    Heard(Heard),
    WriteFailed(io::Error),
    Witness(WitnessSaid),
    Fenced(bool),
    Ask(Ask),
}

/// A secondary that has not begun.
pub struct Driver<T: LockstepTarget> {
    inbox: Receiver<Message<T::Domain>>,
    post: Sender<Message<T::Domain>>,
}

impl<T: LockstepTarget> std::fmt::Debug for Driver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("colo::secondary::Driver")
    }
}

impl<T: LockstepTarget> Default for Driver<T> {
    fn default() -> Self {
        let (post, inbox) = channel();
        Driver { inbox, post }
    }
}

impl<T: LockstepTarget> Driver<T>
where
    T::Domain: DeviceModel,
{
    /// A way for the operator to talk to it.
    pub fn handle(&self) -> Handle {
        let post = self.post.clone();
        Handle::new(move |ask| post.send(Message::Ask(ask)).is_ok())
    }

    /// Serves one connection, whose `cancel` it is. `observer` hears of the copy at each checkpoint that it has loaded.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn run<O: Observer<T::Domain> + 'static>(
        self,
        link: Link,
        cancel: Cancel,
        target: T,
        observer: O,
        settings: Settings,
    ) -> Result<Outcome<T::Domain>, Trouble> {
        let Settings { domain, config, times, restore, failpoints, bare, list, .. } = settings;
        let name = link.peer().to_owned();
        let (reader, mut writer) = link.split();
        let reading = Cancel::new()?;
        let reader = reader.with_cancel(reading.clone());
        let probe = reader.probe();
        let ours = Hello {
            version: VERSION,
            rule: config.rule.name().into(),
            timeout_ms: millis(times.timeout),
            heartbeat_ms: millis(times.heartbeat),
            lists: true,
            domain: Some(domain.clone()),
            session: None,
        };
        if bare {
            writer.write_all_vectored(&mut [IoSlice::new(Handshake::Banner.bytes())])?;
        } else {
            let hello = ours.emit();
            let header = frame::header(Lane::Hello, &hello);
            writer.write_all_vectored(&mut [IoSlice::new(&header), IoSlice::new(&hello)])?;
        }
        let post = self.post.clone();
        let pipe = Pipe::start(writer, !bare, cancel.clone(), move |error| {
            let _ = post.send(Message::WriteFailed(error));
        })?;
        let inlet = Inlet::default();
        let card: SharedCard = Arc::default();
        let arrived = Arc::new(AtomicU64::new(0));
        let mut options = restore;
        options.stream.start = Some(Start::Xl);
        options.stream.mode = Some(Mode::Colo);
        let packets = pipe.clone();
        let on_sent: OnSent =
            Box::new(move |sent| packets.post(Lane::Packet, frame::packet_payload(sent.epoch, &sent.bytes)));
        let work = Work {
            target,
            options,
            pipe: pipe.clone(),
            lists: Lists { most: list, several: !bare },
            on_sent: Some(on_sent),
            observer,
            failpoints: failpoints.clone(),
            card: Arc::clone(&card),
        };
        let (post, orders) = (self.post.clone(), inlet.clone());
        let copy = thread::Builder::new().name("colo-guest".into()).spawn(move || {
            copy::run(work, &orders, |said| {
                // Whoever drives has gone: then nothing matters here.
                let _ = post.send(Message::Said(said));
            });
        })?;
        let (post, bytes, counted) = (self.post.clone(), inlet.clone(), Arc::clone(&arrived));
        let mut record = settings.record;
        thread::Builder::new().name("colo-in".into()).spawn(move || {
            let mut hear = |heard| {
                let _ = post.send(Message::Heard(heard));
            };
            listen::listen(Frames::new(reader, !bare), &bytes, &card, &mut hear, |stream| {
                counted.fetch_add(stream.len() as u64, Ordering::Relaxed);
                if let Some(file) = &mut record
                    && let Err(error) = file.write_all(stream)
                {
                    log::error!("recording the stream: {error}; the record ends here");
                    record = None;
                }
            });
        })?;
        let answer = self.post.clone();
        let (witness, described) = WitnessThread::start_any(settings.witness, config.retry, move |said| {
            let _ = answer.send(Message::Witness(said));
        })?;
        let mut run = Run {
            clock: Clock::start(),
            machine: None,
            config,
            ours,
            timers: Timers::default(),
            inlet,
            orders: Vec::new(),
            post: self.post,
            pipe,
            reading,
            probe,
            times,
            arrived,
            witness,
            fence: settings.fence,
            failpoints,
            words: words::Words {
                domain,
                peer: name,
                witness: described,
                fence: config.fence,
                framed: !bare,
                notices: Notices::default(),
                alarm: Alarm::default(),
                statistics: Statistics::default(),
                last: None,
                begun: Instant::now(),
            },
            on_checkpoint: settings.on_checkpoint,
            lost: Instant::now(),
            activated: None,
            unsuited: None,
            held: None,
            terminated: None,
            quit: false,
            greeting: Instant::now() + config.answer,
        };
        if bare {
            run.begin(settings.generation);
        }
        let finished = run.serve(&self.inbox);
        run.shut(matches!(finished, Ok(Finished::Denied(_))));
        if let (Ok(Finished::Denied(memory)), Some(machine)) = (&finished, &run.machine) {
            let facts = Facts {
                checkpoint: machine.checkpoints().1,
                session: Session::default(),
                newest: machine.generation(),
                memory: *memory,
                peer: run.words.peer.clone(),
                since: Instant::now(),
                date: SystemTime::now(),
            };
            let keeping = Keeping(run.inlet.clone());
            let activate = Box::new(move || keeping.activate(&self.inbox));
            return Ok(Outcome::Denied(Held::new(facts, activate, copy)));
        }
        drop(run);
        if copy.join().is_err() {
            log::error!("the copy's thread has panicked");
        }
        match finished? {
            Finished::Over(outcome) => Ok(outcome),
            // Seen to above.
            Finished::Denied(_) => Ok(Outcome::Ended(End::CopyLost)),
        }
    }
}
