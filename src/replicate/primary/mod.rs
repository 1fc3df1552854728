//! The driver of [`crate::remus::Primary`]: a guest that is checkpointed while it runs, and runs whatever happens.
//!
//! | thread | does | waits for |
//! |---|---|---|
//! | the caller's | owns the machine, the timers and the output buffer | the next message or deadline |
//! | `guest` (`guest.rs`) | suspends, copies, resumes; writes the stream | the hypervisor, the link |
//! | `frames-out` ([`super::link::Outbox`]) | heartbeats and other control frames | the link |
//! | `frames-in` ([`super::link::backward`]) | reads acknowledgements | the link |
//! | `witness`, `connect` | ask, connect | whatever that takes |
//!
//! The pause is: suspend, collect the dirty pages, copy them and the state, resume. Everything else happens while the
//! guest runs. One checkpoint is under way at a time and is copied once, so memory in use is bounded by
//! [`Settings::staging_limit`]; what is over it is sent while the guest waits. When the link is slower than the guest
//! dirties, checkpoints come later than asked, and the operator is told.

mod connect;
mod guest;
mod round;
mod run;
mod words;

pub use guest::Observer;

use super::clock::Clock;
use super::failpoint::Failpoints;
use super::link::{Heard, StopFlag};
use super::operator::{Ask, Handle, Notices};
use super::stats::{RoundFigures, Statistics};
use super::witness::{Alarm, Said, WitnessThread};
use crate::control::Status;
use crate::hypervisor::{DeviceModel, OutputBuffer, Replicated, SaveDomain};
use crate::libxc::SaveError;
use crate::libxl;
use crate::remus::pacing::Pacing;
use crate::remus::wire::name_sum;
use crate::remus::{Config, Generation, Primary, Session, Timers};
use crate::transport::Address;
use crate::witness::Witness;
use connect::Connected;
use guest::{Done, Guest};
use round::Rounds;
use run::Run;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

/// The output buffer, which the machine's thread and the guest's share.
type SharedOutput = Arc<Mutex<Box<dyn OutputBuffer>>>;

/// Makes an address of what an operator calls a host: the host, the remote shell, the remote command.
pub type Resolve = Box<dyn Fn(&str, Option<&str>, Option<&str>) -> Result<Address, String> + Send>;

/// Told of rounds.
pub type OnRound = Box<dyn FnMut(&RoundFigures) + Send>;

/// How to be a primary.
pub struct Settings {
    /// The domain's name, for people.
    pub domain: String,
    /// The machine's settings.
    pub config: Config,
    /// The newest generation that this side holds, or that the witness has given.
    pub generation: Generation,
    /// How the interval moves by itself, if it does.
    pub pacing: Option<Pacing>,
    /// Most bytes of dirty pages that are copied before the guest runs on.
    pub staging_limit: u64,
    /// How to save.
    pub save: libxl::save::Options,
    /// Who may be active alone, with [`crate::remus::Rule::Witness`].
    pub witness: Option<Box<dyn Witness>>,
    /// Where the guest's packets wait.
    pub output: Box<dyn OutputBuffer>,
    /// Its disks that are replicated: a checkpoint is one of theirs, too.
    pub disks: Vec<Box<dyn Replicated>>,
    /// What `ctl protect HOST` means.
    pub resolve: Resolve,
    /// Whether to end when protection does, as `xl remus` does, instead of waiting for the operator.
    pub once: bool,
    /// Told of each checkpoint that is acknowledged, with its figures.
    pub on_round: Option<OnRound>,
    /// Where tests let this process die.
    pub failpoints: Failpoints,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("domain", &self.domain).field("config", &self.config).finish_non_exhaustive()
    }
}

/// How it ended. The domain is given back in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The guest runs on the other side, as asked.
    SwitchedOver,
    /// The guest stands still: the other side is, or may be, active.
    Fenced,
    /// Protection has ended; the guest runs, its output is free.
    Unprotected,
    /// Told to end; the guest runs, its output is free.
    Stopped,
    /// Told to end a second time, before it was decided who may be active: output is held.
    Abandoned,
}

/// A primary that has ended.
#[derive(Debug)]
pub struct Ended<D> {
    /// How.
    pub how: Ending,
    /// The domain.
    pub domain: D,
    /// What was counted.
    pub statistics: Statistics,
    /// How it was at the end, for the operator.
    pub status: Status,
}

/// Why a primary could not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A thread, a file descriptor.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The domain cannot be saved.
    #[error("{0}")]
    Save(#[from] SaveError),
    /// The guest cannot be resumed. Its output is held; the secondary goes active when the connection ends.
    #[error("the guest cannot be resumed: {0}; ending, so that the secondary takes over")]
    Resume(crate::hypervisor::Error),
    /// A thread has panicked, and the domain with it.
    #[error("the guest's thread has panicked")]
    Panicked,
}

enum Message {
    Done(Done),
    Heard(Session, Heard),
    Connected(Session, io::Result<Connected>),
    WriteFailed(Session, io::Error),
    Witness(Said),
    Ask(Ask),
}

/// A primary that has not begun.
#[derive(Debug)]
pub struct Driver {
    inbox: Receiver<Message>,
    post: Sender<Message>,
}

impl Default for Driver {
    fn default() -> Self {
        let (post, inbox) = channel();
        Driver { inbox, post }
    }
}

impl Driver {
    /// A way for the operator to talk to it.
    pub fn handle(&self) -> Handle {
        let post = self.post.clone();
        Handle::new(move |ask| post.send(Message::Ask(ask)).is_ok())
    }

    /// Runs until the guest is gone from here, or this side is told to end. With an address it takes a secondary at once.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn run<D, O>(
        self,
        mut domain: D,
        to: Option<Address>,
        observer: O,
        settings: Settings,
    ) -> Result<Ended<D>, Trouble>
    where
        D: SaveDomain + DeviceModel + Send + 'static,
        O: Observer<D> + 'static,
    {
        let Settings { domain: name, config, generation, pacing, staging_limit, save, .. } = settings;
        let output: SharedOutput = Arc::new(Mutex::new(settings.output));
        let stop = StopFlag::default();
        let guest = Guest {
            saver: libxl::Saver::new(&mut domain, save)?,
            domain,
            output: Arc::clone(&output),
            disks: settings.disks,
            observer,
            staging_limit,
            failpoints: settings.failpoints.clone(),
            stop: stop.clone(),
            domain_name: name.clone(),
        };
        let (jobs, todo) = channel();
        let post = self.post.clone();
        let guest = thread::Builder::new().name("guest".into()).spawn(move || {
            guest.run(&todo, |done| {
                let _ = post.send(Message::Done(done));
            })
        })?;
        let answer = self.post.clone();
        let (witness, described) = WitnessThread::start_any(settings.witness, config.retry, move |said| {
            let _ = answer.send(Message::Witness(said));
        })?;
        let mut run = Run {
            clock: Clock::start(),
            machine: Primary::new(Config { domain: name_sum(&name), ..config }, generation),
            timers: Timers::default(),
            jobs,
            post: self.post,
            output,
            stop,
            link: None,
            closing: None,
            witness,
            address: None,
            resolve: settings.resolve,
            failpoints: settings.failpoints,
            rounds: Rounds::new(pacing, settings.on_round),
            words: words::Words {
                domain: name,
                witness: described,
                notices: Notices::default(),
                alarm: Alarm::default(),
                peer: None,
                bare: false,
                begun: Instant::now(),
                guest_gone: false,
            },
            once: settings.once,
            failed: Vec::new(),
            stuck: None,
            protecting: false,
            terminated: 0,
            insist_at: Instant::now(),
        };
        if let Some(address) = to {
            // A machine that is new takes a secondary.
            let _ = run.protect(address);
        }
        let how = run.serve(&self.inbox);
        run.shut(matches!(how, Ok(Ending::Stopped | Ending::Unprotected)));
        let (statistics, status) = (run.rounds.statistics().clone(), run.status());
        drop(run);
        let domain = guest.join().map_err(|_| Trouble::Panicked)?;
        Ok(Ended { how: how?, domain, statistics, status })
    }
}
