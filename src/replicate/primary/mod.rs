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

use super::engine;
use super::engine::primary::{Mailbox, Message, Run, Setup, Shared};
use super::failpoint::Failpoints;
use super::link::StopFlag;
use super::operator::Handle;
use crate::hypervisor::{DeviceModel, OutputBuffer, Replicated, SaveDomain};
use crate::libxl;
use crate::protocol::Generation;
use crate::remus::pacing::Pacing;
use crate::remus::wire::name_sum;
use crate::remus::{Config, Primary};
use crate::transport::Address;
use crate::witness::Witness;
use guest::Worker;
use round::Rounds;
use run::{Remus, Report};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

pub use super::engine::guest::Observer;
pub use super::engine::primary::{Ended, Ending, OnRound, Trouble};

/// The output buffer, which the loop's thread and the guest's share.
type SharedOutput = Shared<dyn OutputBuffer>;

/// Makes an address of what an operator calls a host: the host, the remote shell, the remote command.
pub type Resolve = Box<dyn Fn(&str, Option<&str>, Option<&str>) -> Result<Address, String> + Send>;

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

/// A primary that has not begun.
#[derive(Default)]
pub struct Driver(Mailbox<Remus>);

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("primary::Driver")
    }
}

impl Driver {
    /// A way for the operator to talk to it.
    pub fn handle(&self) -> Handle {
        self.0.handle()
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
        let saver = libxl::Saver::new(&mut domain, save)?;
        let guest = engine::guest::Guest::new(domain, saver, observer, settings.failpoints.clone(), name.clone());
        let worker = Worker::new(guest, Arc::clone(&output), settings.disks, staging_limit, stop.clone());
        let (jobs, todo) = channel();
        let (done, paused) = (self.0.post(|done| Message::Report(Report::Done(done))), self.0.post(Message::Done));
        let guest = thread::Builder::new()
            .name("guest".into())
            .spawn(move || engine::guest::serve(worker, &todo, done, paused))?;
        let protocol = Remus {
            machine: Primary::new(Config { domain: name_sum(&name), ..config }, generation),
            stop,
            link: None,
            closing: None,
            address: None,
            resolve: settings.resolve,
            rounds: Rounds::new(pacing, settings.on_round),
            bare: false,
            protecting: false,
            guest_gone: false,
        };
        let setup = Setup {
            domain: name,
            witness: settings.witness,
            retry: config.retry,
            timeout: config.timeout,
            output,
            jobs,
            once: settings.once,
            failpoints: settings.failpoints,
        };
        let mut run = Run::new(setup, &self.0, protocol)?;
        if let Some(address) = to {
            // A machine that is new takes a secondary.
            let _ = run.protect(address);
        }
        run.run(self.0, guest)
    }
}
