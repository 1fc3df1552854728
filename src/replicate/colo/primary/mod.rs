//! The driver of [`crate::colo::Primary`]: a guest that runs here and, as a copy, elsewhere, and whose output leaves when both have sent
//! it.
//!
//! The guest stands still from before its state is collected until the secondary has loaded it, so the state is written from where it is:
//! nothing is copied.
#![forbid(unsafe_code)]

mod connect;
mod guest;
mod listen;
mod run;
mod words;

use super::Times;
use super::lists::{Lists, MOST};
use crate::colo::{Config, Primary};
use crate::hypervisor::{ComparedCard, DeviceModel, SaveDomain, Sent};
use crate::libxl;
use crate::remus::{Generation, Timers};
use crate::replicate::clock::Clock;
use crate::replicate::failpoint::Failpoints;
use crate::replicate::operator::{Ask, Handle, Notices};
pub use crate::replicate::primary::{Ending, Observer, OnRound, Trouble};
use crate::replicate::stats::Statistics;
use crate::replicate::status::Status;
use crate::replicate::witness::{Alarm, Said, WitnessThread};
use crate::transport::Address;
use crate::witness::Witness;
use connect::Connected;
use guest::{Done, Guest};
use listen::Heard;
use run::Run;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

/// The card, which the machine's thread and the guest's share.
type SharedCard = Arc<Mutex<Box<dyn ComparedCard>>>;

/// How to be a primary.
pub struct Settings {
    /// The domain's name, for people.
    pub domain: String,
    /// The machine's settings; the dialect is libxl's.
    pub config: Config,
    /// How the two hear of each other.
    pub times: Times,
    /// The newest generation that this side holds, or that the witness has given.
    pub generation: Generation,
    /// How to save.
    pub save: libxl::save::Options,
    /// Who may be active alone, with [`crate::remus::Rule::Witness`].
    pub witness: Option<Box<dyn Witness>>,
    /// Where the guest's packets wait.
    pub card: Box<dyn ComparedCard>,
    /// Whether libxl may be at the other end.
    pub bare: bool,
    /// Whether to end when the other side has turned out to be active, instead of waiting for the operator.
    pub once: bool,
    /// Pages in one list of the secondary's at most: [`MOST`], less for tests.
    pub list: u64,
    /// Told of each checkpoint that is loaded, with its figures.
    pub on_round: Option<OnRound>,
    /// Where tests let this process die.
    pub failpoints: Failpoints,
}

impl Settings {
    /// The usual ones.
    pub fn new(domain: String, config: Config, generation: Generation, card: Box<dyn ComparedCard>) -> Self {
        Settings {
            domain,
            config,
            times: Times::default(),
            generation,
            save: libxl::save::Options::default(),
            witness: None,
            card,
            bare: false,
            once: false,
            list: MOST,
            on_round: None,
            failpoints: Failpoints::default(),
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("domain", &self.domain).field("config", &self.config).finish_non_exhaustive()
    }
}

/// A primary that has ended.
#[derive(Debug)]
pub struct Ended<D> {
    /// How. After [`Ending::Unprotected`] and [`Ending::Stopped`] the guest runs, its output is free.
    pub how: Ending,
    /// The domain.
    pub domain: D,
    /// What was counted.
    pub statistics: Statistics,
    /// The newest generation that it holds or knows of.
    pub generation: Generation,
    /// How it was at the end, for the operator.
    pub status: Status,
}

enum Message {
    Done(Done),
    Heard(Heard),
    Sent(Sent),
    Connected(io::Result<Connected>),
    WriteFailed(io::Error),
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

    /// Takes a secondary, and runs until there is none any more, or this side is told to end. `observer` hears of the guest at each
    /// checkpoint.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn run<D, O>(self, mut domain: D, to: Address, observer: O, settings: Settings) -> Result<Ended<D>, Trouble>
    where
        D: SaveDomain + DeviceModel + Send + 'static,
        O: Observer<D> + 'static,
    {
        let card: SharedCard = Arc::new(Mutex::new(settings.card));
        let saver = libxl::Saver::new(&mut domain, settings.save)?;
        let nr_pfns = saver.nr_pfns();
        let guest = Guest {
            saver,
            domain,
            card: Arc::clone(&card),
            observer,
            failpoints: settings.failpoints.clone(),
            name: settings.domain.clone(),
        };
        let (jobs, todo) = channel();
        let post = self.post.clone();
        let guest = thread::Builder::new().name("colo-guest".into()).spawn(move || {
            guest.run(&todo, |done| {
                let _ = post.send(Message::Done(done));
            })
        })?;
        let answer = self.post.clone();
        let (witness, described) = WitnessThread::start_any(settings.witness, settings.config.retry, move |said| {
            let _ = answer.send(Message::Witness(said));
        })?;
        let mut run = Run {
            clock: Clock::start(),
            machine: Primary::new(Config { timeout: settings.times.timeout, ..settings.config }, settings.generation),
            timers: Timers::default(),
            compare: crate::colo::Compare::new(settings.times.patience),
            compares: false,
            named: super::lists::Named::new(nr_pfns),
            lists: Lists { most: settings.list, several: false },
            jobs,
            post: self.post,
            card,
            link: None,
            ours: None,
            times: settings.times,
            bare: settings.bare,
            witness,
            failpoints: settings.failpoints,
            figures: words::Rounds::new(settings.on_round),
            words: words::Words {
                domain: settings.domain,
                witness: described,
                notices: Notices::default(),
                alarm: Alarm::default(),
                peer: None,
                framed: true,
                begun: Instant::now(),
            },
            once: settings.once,
            unreached: None,
            terminated: 0,
            insist_at: Instant::now(),
            failed: Vec::new(),
            stuck: None,
        };
        run.connect(to);
        let how = run.serve(&self.inbox);
        run.shut();
        let (statistics, status, generation) =
            (run.figures.statistics().clone(), run.status(), run.machine.generation());
        drop(run);
        let domain = guest.join().map_err(|_| Trouble::Panicked)?;
        Ok(Ended { how: how?, domain, statistics, generation, status })
    }
}
