//! The driver of [`crate::colo::Primary`]: a guest that runs here and, as a copy, elsewhere, and whose output leaves when both have sent
//! it.
//!
//! The guest stands still from before its state is collected until the secondary has loaded it, so the state is written from where it is:
//! nothing is copied.
#![forbid(unsafe_code)]

mod connect;
mod guest;
mod listen;
mod round;
mod run;
mod words;

use super::Times;
use super::hello::Hello;
use super::lists::{Lists, MOST};
use crate::colo::{Config, Primary};
use crate::hypervisor::{ComparedCard, DeviceModel, SaveDomain};
use crate::libxl;
use crate::protocol::Generation;
use crate::replicate::engine;
use crate::replicate::engine::primary::{Mailbox, Message, Run, Setup, Shared};
use crate::replicate::failpoint::Failpoints;
use crate::replicate::operator::Handle;
use crate::transport::Address;
use crate::witness::Witness;
use guest::Worker;
use round::Rounds;
use run::{Colo, Report};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

pub use crate::replicate::engine::guest::Observer;
pub use crate::replicate::engine::primary::{Ended, Ending, OnRound, Trouble};

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

/// A primary that has not begun.
#[derive(Default)]
pub struct Driver(Mailbox<Colo>);

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("colo::primary::Driver")
    }
}

impl Driver {
    /// A way for the operator to talk to it.
    pub fn handle(&self) -> Handle {
        self.0.handle()
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
        let output: Shared<dyn ComparedCard> = Arc::new(Mutex::new(settings.card));
        let saver = libxl::Saver::new(&mut domain, settings.save)?;
        let nr_pfns = saver.nr_pfns();
        let (name, times, failpoints) = (settings.domain, settings.times, settings.failpoints);
        let guest = engine::guest::Guest::new(domain, saver, observer, failpoints.clone(), name.clone());
        let worker = Worker { guest, card: Arc::clone(&output), stream: None };
        let (jobs, todo) = channel();
        let (done, paused) = (self.0.post(|done| Message::Report(Report::Done(done))), self.0.post(Message::Done));
        let guest = thread::Builder::new()
            .name("colo-guest".into())
            .spawn(move || engine::guest::serve(worker, &todo, done, paused))?;
        let config = Config { timeout: times.timeout, ..settings.config };
        let protocol = Colo {
            machine: Primary::new(config, settings.generation),
            compare: crate::colo::Compare::new(times.patience),
            compares: false,
            named: super::lists::Named::new(nr_pfns),
            lists: Lists { most: settings.list, several: false },
            link: None,
            ours: Hello::new(config.rule, times, name.clone()),
            times,
            bare: settings.bare,
            framed: true,
            figures: Rounds::new(settings.on_round),
            unreached: None,
        };
        let setup = Setup {
            domain: name,
            witness: settings.witness,
            retry: config.retry,
            timeout: times.timeout,
            output,
            jobs,
            once: settings.once,
            failpoints,
        };
        let mut run = Run::new(setup, &self.0, protocol)?;
        run.connect(to);
        run.run(self.0, guest)
    }
}
