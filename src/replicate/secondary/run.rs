//! Remus's part of a secondary: what its machine's actions mean here, and what its threads report.

use super::copy::{Order, Said};
use super::words::{self, refusal_text};
use super::{End, Trouble};
use crate::claim::Stage;
use crate::protocol::secondary as common;
use crate::protocol::{Level, Refused, Session, Time};
use crate::remus::secondary::{Action, Command, Event, Phase};
use crate::remus::wire::{Capabilities, Control, Direction, Encoder, Peer, WireError};
use crate::remus::{Generation, Secondary};
use crate::replicate::engine::secondary::{self as engine, Message, Outcome, Standing};
use crate::replicate::failpoint::Step;
use crate::replicate::link::Outbox;
use crate::replicate::status::{Framing, Guest, Status, secondary_phase};
use crate::transport::{Cancel, LinkWriter};
use std::io;
use std::marker::PhantomData;
use std::sync::mpsc::Sender;
use std::time::Instant;

/// What the threads report.
pub(super) enum Report {
    Said(Said),
    Peer(io::Result<Option<Peer>>),
}

pub(super) struct Remus<D> {
    pub machine: Secondary,
    pub orders: Sender<Order>,
    /// Until the session is known.
    pub writer: Option<LinkWriter>,
    pub outbox: Option<Outbox>,
    pub link: Cancel,
    /// Why the checkpoint is refused that is about to be, for the other side's people.
    pub refusal: Option<String>,
    /// Told once, when the first checkpoint is applied.
    pub on_replica: Option<Box<dyn FnOnce() + Send>>,
    pub domain: PhantomData<fn() -> D>,
}

type Run<D> = engine::Run<Remus<D>>;

impl engine::Orders for Sender<Order> {
    fn order(&self, order: engine::Order) {
        let _ = self.send(Order::End(order));
    }
}

impl<D: Send + 'static> engine::Protocol for Remus<D> {
    type Domain = D;
    type Report = Report;
    type Event = Event;
    type Action = Action;
    type End = End;
    type Orders = Sender<Order>;

    const LOST: End = End::CopyLost;
    const STOPPED: End = End::Stopped;

    fn orders(&self) -> Sender<Order> {
        self.orders.clone()
    }

    fn standing(&self) -> Standing<End> {
        match self.machine.phase() {
            Phase::Greeting => Standing::Greeting,
            Phase::Ended(End::Denied) => Standing::In(Stage::Denied),
            Phase::Ended(end) => Standing::Ended(end),
            _ => Standing::In(self.machine.stage()),
        }
    }

    fn phase(&self) -> &'static str {
        secondary_phase(self.machine.phase())
    }

    fn session(&self) -> Session {
        self.machine.session()
    }

    fn generation(&self) -> Generation {
        self.machine.generation()
    }

    fn newest(&self) -> Option<u64> {
        self.machine.newest()
    }

    fn capabilities(&self) -> (Capabilities, Capabilities) {
        (Capabilities::OFFERED, self.machine.capabilities())
    }

    fn status(&self, common: Status) -> Status {
        let (machine, newest) = (&self.machine, self.machine.newest());
        let session = machine.session().0;
        Status {
            phase: secondary_phase(machine.phase()).into(),
            guest: if machine.phase() == Phase::Active { Guest::Running } else { Guest::Absent },
            protected: newest.is_some() && machine.phase() == Phase::Passive,
            framing: (machine.phase() != Phase::Greeting).then_some(Framing::Framed),
            rule: machine.config().rule.name().into(),
            generation: machine.generation().0,
            session: if session == 0 { String::new() } else { format!("{session:016x}") },
            checkpoint: newest.unwrap_or_default(),
            acknowledged: newest.unwrap_or_default(),
            ..common
        }
    }

    fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        self.machine.handle(now, event, actions);
    }

    fn fail_over(&mut self, now: Time, force: bool, actions: &mut Vec<Action>) -> Result<(), Refused> {
        self.machine.command(now, Command::FailOver { force }, actions)
    }

    fn stop(&mut self, now: Time, actions: &mut Vec<Action>) -> Result<(), Refused> {
        self.machine.command(now, Command::Stop, actions)
    }

    fn take(run: &mut Run<D>, report: Report) -> Result<(), Trouble> {
        match report {
            Report::Said(said) => run.said(said)?,
            Report::Peer(Ok(Some(Peer::Framed))) => {}
            Report::Peer(Ok(Some(Peer::Bare))) => {
                return Err(Trouble::Peer("Xen's own tool: receive --bare takes its stream"));
            }
            Report::Peer(Ok(Some(Peer::Unknown))) => return Err(Trouble::Peer("no xen-replicate")),
            Report::Peer(Ok(None)) => run.over = Some(Outcome::Ended(End::Empty)),
            Report::Peer(Err(error)) if crate::transport::is_cancelled(&error) => {
                run.over = Some(Outcome::Ended(End::Empty));
            }
            Report::Peer(Err(error)) => return Err(error.into()),
        }
        Ok(())
    }

    fn carry_out(run: &mut Run<D>, action: Action) {
        match action {
            // The copy's thread waits for the order that follows the event.
            Action::ApplyCheckpoint { .. } => {}
            Action::DropCheckpoint { checkpoint, reason } => {
                if let Some(reason) = reason {
                    run.statistics.refused += 1;
                    let why = refusal_text(reason, run.protocol.refusal.as_deref());
                    run.told.notice(Level::Warning, format!("checkpoint {checkpoint} is refused: {why}"));
                }
            }
            Action::SendFrame(frame) => run.send(frame),
            Action::Notice(notice) => run.told.notice(notice.level, words::text(notice.code)),
            Action::Common(action) => run.carry_out(action),
        }
    }

    fn activating(run: &mut Run<D>) {
        run.reading.cancel();
    }

    fn unmet(run: &mut Run<D>, _another: bool) {
        run.feed(common::Event::LinkLost);
    }

    fn witness_behind(run: &mut Run<D>) {
        run.feed(Event::WitnessBehind);
    }

    fn close(run: &mut Run<D>) {
        run.reading.cancel();
        match &run.protocol.outbox {
            Some(outbox) => outbox.close(),
            None => run.protocol.link.cancel(),
        }
    }

    fn closed(run: &mut Run<D>, wait: bool) {
        if let (true, Some(outbox)) = (wait, run.protocol.outbox.take()) {
            outbox.closed();
        }
    }
}

impl<D: Send + 'static> Run<D> {
    fn said(&mut self, said: Said) -> Result<(), Trouble> {
        match said {
            Said::Frame(session, frame) => self.frame(session, frame)?,
            Said::Checkpoint { session, number, verdict, text, figures } => {
                self.protocol.refusal = (!text.is_empty()).then_some(text);
                let before = self.protocol.machine.newest();
                self.feed(Event::Checkpoint { session, number, verdict });
                let taken = self.protocol.machine.newest() == Some(number) && before != Some(number);
                if taken {
                    self.whole(number);
                    self.statistics.arrived(figures.pages, figures.bytes);
                }
                let _ = self.protocol.orders.send(if taken { Order::Apply } else { Order::Drop });
            }
            Said::Damaged { reason, text } => {
                self.protocol.refusal = Some(text);
                self.feed(Event::Damaged { reason });
            }
            Said::Garbled(error @ WireError::Version { .. }) if self.is_greeting() => {
                self.told.trouble(format!("{error}: {}", words::OTHER_VERSION));
                self.speak(Session::default())?;
                self.feed(Event::OtherVersion);
            }
            Said::Garbled(error) => {
                self.protocol.refusal = Some(error.to_string());
                self.feed(Event::Garbled);
            }
            Said::Ended => self.feed(common::Event::LinkLost),
            Said::Applied { number, took } => {
                self.statistics.applied(took);
                if let Some(tell) = self.protocol.on_replica.take() {
                    tell();
                }
                self.feed(Event::Applied { checkpoint: number });
            }
            Said::ApplyFailed { number, text } => {
                log::error!("{}: checkpoint {number} could not be applied: {text}", self.told.domain);
                self.protocol.refusal = Some(text);
                self.feed(Event::ApplyFailed { checkpoint: number });
            }
        }
        Ok(())
    }

    fn frame(&mut self, session: Session, frame: Control) -> Result<(), Trouble> {
        if let Control::Hello(_) = frame {
            self.speak(session)?;
        }
        if let Control::SwitchOver { .. } = frame {
            self.lost = Instant::now();
        }
        self.feed(Event::Frame { session, frame });
        if matches!(frame, Control::Hello(_)) {
            self.failpoints.pass(Step::Welcomed);
        }
        if let Control::Begin { .. } = frame
            && let (Some(witness), Phase::Passive) = (&self.witness, self.protocol.machine.phase())
        {
            witness.compare(self.protocol.machine.generation());
        }
        Ok(())
    }

    /// Opens the back channel, once.
    fn speak(&mut self, session: Session) -> Result<(), Trouble> {
        let protocol = &mut self.protocol;
        if let Some(writer) = protocol.writer.take_if(|_| protocol.outbox.is_none()) {
            let post = self.post.clone();
            let encoder = Encoder::new(session, Direction::Backward);
            let farewell = protocol.machine.config().timeout;
            protocol.outbox =
                Some(Outbox::start(writer, Some(encoder), protocol.link.clone(), farewell, move |error| {
                    let _ = post.send(Message::WriteFailed(error));
                })?);
        }
        Ok(())
    }

    fn send(&mut self, frame: Control) {
        if let Control::Active { .. } = frame {
            self.failpoints.pass(Step::Activating);
        }
        if let Some(outbox) = &self.protocol.outbox {
            let detail = match frame {
                Control::Refuse { .. } => self.protocol.refusal.take().unwrap_or_default(),
                _ => String::new(),
            };
            outbox.send_with(frame, detail.into_bytes());
        }
    }
}
