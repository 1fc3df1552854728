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
use super::hello::Hello;
use super::inlet::Inlet;
use super::lists::{Lists, MOST};
use super::pipe::Pipe;
use crate::colo::Config;
pub use crate::colo::secondary::End;
use crate::hypervisor::{ComparedCard, DeviceModel, OnSent};
use crate::libxl::restore::Options;
use crate::protocol::Generation;
pub use crate::replicate::engine::guest::Observer;
use crate::replicate::engine::secondary::{Mailbox, Message, Run, Setup};
pub use crate::replicate::engine::secondary::{Survivor, Trouble};
use crate::replicate::failpoint::Failpoints;
use crate::replicate::fence::Fence;
use crate::replicate::operator::Handle;
pub use crate::replicate::secondary::Target;
use crate::stream::handshake::Message as Handshake;
use crate::stream::{Mode, Start};
use crate::transport::{Cancel, Link};
use crate::witness::Witness;
use copy::Work;
use run::{Colo, Report};
use std::fs::File;
use std::io::{IoSlice, Write};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

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

/// How it ended.
pub type Outcome<D> = crate::replicate::engine::secondary::Outcome<D, End>;

/// A secondary that has not begun.
pub struct Driver<T: LockstepTarget>(Mailbox<Colo<T::Domain>>);

impl<T: LockstepTarget> std::fmt::Debug for Driver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("colo::secondary::Driver")
    }
}

impl<T: LockstepTarget> Default for Driver<T> {
    fn default() -> Self {
        Driver(Mailbox::default())
    }
}

impl<T: LockstepTarget> Driver<T>
where
    T::Domain: DeviceModel,
{
    /// A way for the operator to talk to it.
    pub fn handle(&self) -> Handle {
        self.0.handle()
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
        let ours = Hello::new(config.rule, times, domain.clone());
        if bare {
            writer.write_all_vectored(&mut [IoSlice::new(Handshake::Banner.bytes())])?;
        } else {
            let hello = ours.emit();
            let header = frame::header(Lane::Hello, &hello);
            writer.write_all_vectored(&mut [IoSlice::new(&header), IoSlice::new(&hello)])?;
        }
        let pipe = Pipe::start(writer, !bare, cancel.clone(), self.0.post(Message::WriteFailed))?;
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
        let (say, last) = (self.0.post(|said| Message::Report(Report::Said(said))), self.0.post(Message::Last));
        let orders = inlet.clone();
        let thread = thread::Builder::new().name("colo-guest".into()).spawn(move || {
            copy::run(work, &orders, say, last);
        })?;
        let (bytes, counted) = (inlet.clone(), Arc::clone(&arrived));
        let mut hear = self.0.post(|heard| Message::Report(Report::Heard(heard)));
        let mut record = settings.record;
        thread::Builder::new().name("colo-in".into()).spawn(move || {
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
        let protocol = Colo {
            machine: None,
            config,
            ours,
            inlet,
            orders: Vec::new(),
            pipe,
            times,
            framed: !bare,
            arrived,
            stopped: false,
            domain: PhantomData,
        };
        let (retry, answer, timeout) = (config.retry, config.answer, times.timeout);
        let setup = Setup {
            domain,
            peer: name,
            witness: settings.witness,
            fence: settings.fence.filter(|_| config.fence),
            retry,
            answer,
            timeout,
            reading,
            probe,
            failpoints,
            on_checkpoint: settings.on_checkpoint,
        };
        let mut run = Run::new(setup, &self.0, protocol)?;
        if bare {
            run.begin(settings.generation);
        }
        run.run(self.0, thread)
    }
}
