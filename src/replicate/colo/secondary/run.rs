//! COLO's part of a secondary: what its machine's actions mean here, and what its threads report.
#![forbid(unsafe_code)]

use super::copy::{Order, Said};
use super::listen::Heard;
use super::words;
use super::{End, Trouble};
use crate::claim::Stage;
use crate::colo::secondary::{Action, Command, Event, Phase};
use crate::colo::{Config, Guest, Secondary};
use crate::protocol::secondary as common;
use crate::protocol::{Generation, Refused, Session, Time, Timer};
use crate::remus::wire::Capabilities;
use crate::replicate::colo::Times;
use crate::replicate::colo::frame::Lane;
use crate::replicate::colo::hello::{Hello, Unsuited};
use crate::replicate::colo::inlet::Inlet;
use crate::replicate::colo::pipe::Pipe;
use crate::replicate::engine::secondary::{self as engine, Outcome, Standing};
use crate::replicate::failpoint::Step;
use crate::replicate::status::{self, Framing, Status};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the threads report.
pub(super) enum Report {
    Said(Said),
    Heard(Heard),
}

pub(super) struct Colo<D> {
    /// Once the session is known.
    pub machine: Option<Secondary>,
    pub config: Config,
    pub ours: Hello,
    pub inlet: Inlet<Order>,
    /// Those of one event.
    pub orders: Vec<Order>,
    pub pipe: Pipe,
    pub times: Times,
    pub framed: bool,
    /// Bytes of the stream that have arrived.
    pub arrived: Arc<AtomicU64>,
    /// Told to end before the session was known.
    pub stopped: bool,
    pub domain: PhantomData<fn() -> D>,
}

type Run<D> = engine::Run<Colo<D>>;

impl engine::Orders for Inlet<Order> {
    fn order(&self, order: engine::Order) {
        Inlet::order(self, [Order::End(order)]);
    }
}

impl<D: Send + 'static> engine::Protocol for Colo<D> {
    type Domain = D;
    type Report = Report;
    type Event = Event;
    type Action = Action;
    type End = End;
    type Orders = Inlet<Order>;

    const LOST: End = End::CopyLost;
    const STOPPED: End = End::Stopped;

    fn orders(&self) -> Inlet<Order> {
        self.inlet.clone()
    }

    fn order(&mut self, order: engine::Order) {
        self.orders.push(Order::End(order));
    }

    fn standing(&self) -> Standing<End> {
        match self.machine.as_ref().map(Secondary::phase) {
            None if self.stopped => Standing::Ended(End::Stopped),
            None => Standing::Greeting,
            Some(Phase::Ended(End::Denied)) => Standing::In(Stage::Denied),
            Some(Phase::Ended(end)) => Standing::Ended(end),
            Some(_) => Standing::In(self.machine.as_ref().map_or(Stage::Following, Secondary::stage)),
        }
    }

    fn phase(&self) -> &'static str {
        words::phase(self.machine.as_ref())
    }

    fn session(&self) -> Session {
        Session::default()
    }

    fn generation(&self) -> Generation {
        self.machine.as_ref().map_or(Generation::default(), Secondary::generation)
    }

    fn newest(&self) -> Option<u64> {
        self.machine.as_ref().map(|machine| machine.checkpoints().1).filter(|loaded| *loaded > 0)
    }

    fn capabilities(&self) -> (Capabilities, Capabilities) {
        (Capabilities::empty(), Capabilities::empty())
    }

    fn status(&self, common: Status) -> Status {
        let machine = self.machine.as_ref();
        let (checkpoint, loaded) = machine.map_or((0, 0), Secondary::checkpoints);
        let session = machine.is_some_and(|machine| matches!(machine.phase(), Phase::Session(_)));
        Status {
            phase: words::phase(machine).into(),
            guest: match machine.map(Secondary::guest) {
                Some(Guest::Running | Guest::Suspending) => status::Guest::Running,
                None | Some(Guest::Absent) => status::Guest::Absent,
                Some(_) => status::Guest::Suspended,
            },
            protected: session && loaded > 0,
            framing: machine.map(|_| if self.framed { Framing::Framed } else { Framing::Bare }),
            rule: self.config.rule.name().into(),
            generation: self.generation().0,
            interval_ms: u64::try_from(self.config.period.as_millis()).unwrap_or(u64::MAX),
            checkpoint,
            acknowledged: loaded,
            ..common
        }
    }

    fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        if let Some(machine) = &mut self.machine {
            machine.handle(now, event, actions);
        }
    }

    fn fail_over(&mut self, now: Time, force: bool, actions: &mut Vec<Action>) -> Result<(), Refused> {
        let machine = self.machine.as_mut().ok_or(Refused::Phase)?;
        machine.command(now, Command::FailOver { force }, actions)
    }

    fn stop(&mut self, now: Time, actions: &mut Vec<Action>) -> Result<(), Refused> {
        match &mut self.machine {
            Some(machine) => machine.command(now, Command::Stop, actions)?,
            None => self.stopped = true,
        }
        Ok(())
    }

    fn take(run: &mut Run<D>, report: Report) -> Result<(), Trouble> {
        match report {
            Report::Said(said) => run.said(said),
            Report::Heard(heard) => run.heard(heard),
        }
        Ok(())
    }

    fn carry_out(run: &mut Run<D>, action: Action) {
        let order = match action {
            Action::Send(message) => Order::Send(message),
            Action::SendDirtyList => Order::List,
            // Of QEMU's dialects.
            Action::ReceiveMemory { .. } => return,
            Action::ReceiveState { checkpoint, .. } => Order::Receive { checkpoint },
            Action::DropState { .. } => Order::Drop,
            Action::Load { checkpoint } => Order::Load { checkpoint },
            Action::Suspend => Order::Suspend,
            Action::Resume { epoch } => Order::Resume { epoch },
            Action::Notice(notice) => return run.told.notice(notice.level, words::text(notice.code)),
            Action::Common(action) => return run.carry_out(action),
        };
        run.protocol.orders.push(order);
    }

    fn carried_out(&mut self) {
        Inlet::order(&self.inlet, self.orders.drain(..));
    }

    fn activating(run: &mut Run<D>) {
        run.failpoints.pass(Step::Activating);
    }

    fn due(run: &mut Run<D>, timer: Timer) -> bool {
        match timer {
            Timer::Heartbeat => {
                run.beat();
                return true;
            }
            Timer::Answer => {
                let bytes = run.protocol.arrived.load(Ordering::Relaxed);
                run.feed(Event::Progress { bytes });
            }
            _ => {}
        }
        false
    }

    fn unmet(run: &mut Run<D>, another: bool) {
        let text = "the primary has not said what the session is";
        run.unsuited(if another { format!("{text}, and another one waits") } else { text.into() });
    }

    fn witness_behind(run: &mut Run<D>) {
        run.told.trouble(
            "the witness here does not know of this session's generation, so it is not the primary's: compare --witness \
             on both, and whether the folder is mounted",
        );
        run.refuse("another witness".into());
    }

    fn close(run: &mut Run<D>) {
        run.protocol.pipe.close();
        run.reading.cancel();
        run.timers.cancel(Timer::Heartbeat);
    }
}

impl<D: Send + 'static> Run<D> {
    /// The session is known: from now on the image is waited for, and not for ever.
    pub(super) fn begin(&mut self, generation: Generation) {
        let protocol = &mut self.protocol;
        let config = Config { timeout: protocol.times.timeout, ..protocol.config };
        protocol.machine = Some(Secondary::new(config, generation));
        self.timers.set(Timer::Answer, self.clock.now().after(config.answer));
        if self.protocol.framed {
            self.feed(Event::Beats);
            self.beat();
        }
    }

    fn beat(&mut self) {
        self.protocol.pipe.post(Lane::Beat, Vec::new());
        self.timers.set(Timer::Heartbeat, self.clock.now().after(self.protocol.times.heartbeat));
    }

    fn unsuited(&mut self, text: String) {
        self.over = Some(Outcome::Unsuited(text));
    }

    fn refuse(&mut self, text: String) {
        self.protocol.pipe.post(Lane::Refuse, text.clone().into_bytes());
        self.unsuited(format!("the two sides do not suit: {text}"));
    }

    fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Hello(bytes) => self.hello(&bytes),
            Heard::Refused(text) => {
                if self.is_greeting() {
                    self.unsuited(format!("the primary refuses: {}", text.escape_debug()));
                }
            }
            Heard::Garbled(error, text) => {
                self.told.trouble(text);
                if self.is_greeting() {
                    self.unsuited(error.to_string());
                }
                self.feed(Event::Garbled(error));
            }
            Heard::Goodbye => self.feed(Event::Dismissed),
        }
    }

    fn hello(&mut self, bytes: &[u8]) {
        if !self.is_greeting() {
            return;
        }
        let (ours, config) = (&self.protocol.ours, &mut self.protocol.config);
        let agreed = ours.suits(bytes, config.rule).and_then(|theirs| theirs.session.ok_or(Unsuited::Session));
        match agreed {
            Ok(session) => {
                config.mode = session.mode();
                config.period = Duration::from_millis(session.period_ms);
                if let Err(error) = config.validate() {
                    return self.refuse(error.to_string());
                }
                let generation = Generation(session.generation);
                if let Some(witness) = &self.witness {
                    witness.compare(generation);
                }
                self.failpoints.pass(Step::Welcomed);
                self.begin(generation);
            }
            Err(unsuited) => self.refuse(unsuited.to_string()),
        }
    }

    fn said(&mut self, said: Said) {
        match said {
            Said::Message(message) => self.feed(Event::Message(message)),
            Said::Garbled(error) => self.feed(Event::Garbled(error)),
            Said::Ended if self.is_greeting() => self.over = Some(Outcome::Ended(End::Empty)),
            Said::Ended => self.feed(common::Event::LinkLost),
            Said::Received { checkpoint, pages, bytes } => {
                self.statistics.arrived(pages, bytes);
                self.feed(Event::StateReceived { checkpoint });
            }
            Said::Damaged(text) => {
                self.told.trouble(format!("the stream: {text}"));
                self.feed(Event::StateDamaged);
            }
            Said::Loaded { checkpoint, took } => {
                self.statistics.applied(took);
                self.whole(checkpoint);
                self.feed(Event::Loaded { checkpoint });
            }
            Said::Suspended => self.feed(Event::GuestSuspended),
            Said::Resumed => self.feed(Event::GuestResumed),
            Said::Failed(text) => {
                self.told.trouble(text);
                self.feed(Event::CopyFailed);
                let phase = self.protocol.machine.as_ref().map(Secondary::phase);
                if matches!(phase, Some(Phase::Session(_) | Phase::Lost)) {
                    // The machine knows of no such failure between two steps.
                    self.over = Some(Outcome::Ended(End::CopyLost));
                }
            }
            Said::WriteFailed(error) => self.write_failed(&error),
        }
    }
}
