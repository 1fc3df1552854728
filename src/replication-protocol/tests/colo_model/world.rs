//! The world of the model: the real machines, two guests that send packets, a link, a comparer, a witness, and who looks on from
//! outside. What a guest is, is what it has sent: a list of values, in which the two can differ.

use super::explorer::Flaw;
use replication_protocol::colo::{Config, Dialect, Message, Point, Primary, Secondary, Step as At, primary, secondary};
use replication_protocol::protocol::{primary as shared, secondary as common};
use replication_protocol::remus::primary::Answer;
use replication_protocol::remus::{Generation, Rule, Time, Timer, Verdict};
use std::collections::{BTreeMap, VecDeque};

/// A way to be wrong, put around the machines. The shipped code has none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    None,
    /// What the two guests send is not compared.
    ComparesNothing,
    /// Held output leaves when the state is written.
    ReleaseWhenSent,
    /// Written counts as loaded: the primary's guest runs too early.
    SentIsLoaded,
    /// The secondary's dirty pages are left out.
    NeverMerges,
    /// The secondary's guest runs on through a checkpoint.
    SecondaryNeverStops,
    /// Whatever is heard is taken for what is expected.
    AnyMessageFits,
    /// The secondary takes a wrong message for the primary's death.
    GarbageIsDeath,
    /// The primary closes the connection before it is decided who goes on.
    HangsUpAtOnce,
    /// The primary's guest runs on from a checkpoint that is not loaded, before it is decided who goes on.
    RunsWhileLeaving,
    /// The primary goes on alone without asking.
    PrimaryAsksNobody,
    /// The secondary goes active without asking.
    SecondaryAsksNobody,
    /// The witness grants without comparing.
    WitnessGrantsAll,
    /// Damage to a state is not looked for.
    DamageUnseen,
    /// The secondary does not say that a state is loaded.
    LoadedUnsaid,
}

/// What may happen, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bounds {
    pub checkpoints: u64,
    /// Packets that each guest sends.
    pub packets: usize,
    /// Packets of the secondary's that differ.
    pub differences: u8,
    /// Faults of all kinds together.
    pub faults: u8,
    pub crashes: u8,
    /// Directions cut, with all that is in them.
    pub cuts: u8,
    /// Messages out of step, bytes that are none, unsound states.
    pub garbage: u8,
    pub unreachable: u8,
    pub fence_failures: u8,
    /// What a host cannot do: suspend, collect, load, resume.
    pub failures: u8,
    /// What an operator or a heartbeat says: the peer is lost, unprotect.
    pub commands: u8,
    /// Whether time-outs may fire.
    pub timeouts: bool,
}

pub struct Setting {
    pub config: Config,
    pub bounds: Bounds,
    pub mutant: Mutant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    Primary,
    Secondary,
}

/// A state of the primary's guest on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Snapshot {
    pub number: u64,
    pub sent: Vec<u8>,
    /// The secondary's dirty pages are in it.
    pub merged: bool,
    pub damaged: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Forward {
    Message(Message),
    Memory(u64),
    State(Snapshot),
    /// It goes on alone: of our own dialect.
    Goodbye,
}

/// One direction of the connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Direction<T> {
    pub queue: VecDeque<T>,
    /// The writer is gone: the reader sees the end behind the rest.
    pub ended: bool,
    /// Nothing gets through any more. The reader may notice, or not.
    pub cut: bool,
    pub end_seen: bool,
}

impl<T> Direction<T> {
    const fn new() -> Self {
        Direction { queue: VecDeque::new(), ended: false, cut: false, end_seen: false }
    }

    fn send(&mut self, item: T) {
        if !self.ended && !self.cut {
            self.queue.push_back(item);
        }
    }
}

/// A packet: its epoch, its place among all that the guest has sent, its value.
pub type Packet = (u64, usize, u8);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PrimarySide {
    pub machine: Primary,
    pub alive: bool,
    pub todo: VecDeque<primary::Action>,
    pub events: VecDeque<primary::Event>,
    pub timers: u8,
    pub asking: Option<Generation>,
    /// What its guest has sent.
    pub sent: Vec<u8>,
    pub running: bool,
    pub paused: bool,
    pub free: bool,
    pub alone: bool,
    pub epoch: u64,
    pub held: Vec<Packet>,
    /// What of the secondary's guest waits to be compared.
    pub arrived: Vec<Packet>,
    /// The newest epoch in which the two have differed.
    pub differed: u64,
    pub collected: Option<Snapshot>,
    /// The secondary's list has come since the last state.
    pub listed: bool,
    /// [`Mutant::SentIsLoaded`] at work.
    pub assumes: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecondarySide {
    pub machine: Secondary,
    pub alive: bool,
    pub todo: VecDeque<secondary::Action>,
    pub events: VecDeque<secondary::Event>,
    pub timers: u8,
    pub asking: Option<Generation>,
    pub fencing: bool,
    pub sent: Vec<u8>,
    pub running: bool,
    pub epoch: u64,
    /// It has run since it was loaded.
    pub dirty: bool,
    pub loaded: u64,
    /// It has been told to receive a state.
    pub receiving: bool,
    pub received: Option<Snapshot>,
    /// Not given up.
    pub copy: bool,
    pub active: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub p: PrimarySide,
    pub s: SecondarySide,
    pub forward: Direction<Forward>,
    pub backward: Direction<Message>,
    /// What the secondary's guest has sent, on its way to be compared.
    pub packets: VecDeque<Packet>,
    pub witness: (Generation, Who),
    /// What has been seen outside, by place.
    pub seen: BTreeMap<usize, u8>,
    pub left: Bounds,
}

impl World {
    pub fn new(setting: &Setting) -> World {
        // Of our own dialect the session's generation is acquired when the two have greeted.
        let greets = setting.config.dialect == Dialect::Libxl && setting.config.rule == Rule::Witness;
        let session = Generation(1);
        let newest = if greets { Generation(0) } else { session };
        let first = if greets { primary::Event::Greeted } else { primary::Event::Connected };
        World {
            p: PrimarySide {
                machine: Primary::new(setting.config, newest),
                alive: true,
                todo: VecDeque::new(),
                events: VecDeque::from([first]),
                timers: 0,
                asking: None,
                sent: Vec::new(),
                running: true,
                paused: false,
                free: true,
                alone: false,
                epoch: 0,
                held: Vec::new(),
                arrived: Vec::new(),
                differed: 0,
                collected: None,
                listed: false,
                assumes: false,
            },
            s: SecondarySide {
                machine: Secondary::new(setting.config, session),
                alive: true,
                todo: VecDeque::new(),
                events: VecDeque::new(),
                timers: 0,
                asking: None,
                fencing: false,
                sent: Vec::new(),
                running: false,
                epoch: 0,
                dirty: false,
                loaded: 0,
                receiving: true,
                received: None,
                copy: true,
                active: false,
            },
            forward: Direction::new(),
            backward: Direction::new(),
            packets: VecDeque::new(),
            witness: (newest, Who::Primary),
            seen: BTreeMap::new(),
            left: setting.bounds,
        }
    }

    pub const fn whole(&self) -> bool {
        self.p.alive
            && self.s.alive
            && !(self.forward.cut || self.forward.ended || self.backward.cut || self.backward.ended)
    }

    pub fn feed_primary(&mut self, event: primary::Event, setting: &Setting) -> Result<(), Flaw> {
        use primary::Event;
        let event = match event {
            Event::Message(message) if setting.mutant == Mutant::AnyMessageFits => {
                Event::Message(self.p.machine.expected().map_or(message, as_message))
            }
            // What was assumed is said once more, and passed over.
            Event::Message(Message::Ready | Message::Received | Message::Loaded | Message::Resumed)
                if setting.mutant == Mutant::SentIsLoaded && !self.p.assumes =>
            {
                return Ok(());
            }
            other => other,
        };
        let mut actions = Vec::new();
        self.p.machine.handle(Time(0), event, &mut actions);
        self.p.todo.extend(actions);
        self.settle_primary(setting)
    }

    pub fn command_primary(&mut self, command: primary::Command, setting: &Setting) -> Result<(), Flaw> {
        let mut actions = Vec::new();
        if self.p.machine.command(Time(0), command, &mut actions).is_err() && !actions.is_empty() {
            return Err(format!("{command:?} is refused, and gives {actions:?}"));
        }
        self.p.todo.extend(actions);
        self.settle_primary(setting)
    }

    pub fn command_secondary(&mut self, command: secondary::Command, setting: &Setting) -> Result<(), Flaw> {
        let mut actions = Vec::new();
        if self.s.machine.command(Time(0), command, &mut actions).is_err() && !actions.is_empty() {
            return Err(format!("{command:?} is refused, and gives {actions:?}"));
        }
        self.s.todo.extend(actions);
        self.settle_secondary(setting)
    }

    /// Carries out what nobody else can notice.
    fn settle_primary(&mut self, setting: &Setting) -> Result<(), Flaw> {
        use primary::Action::*;
        use shared::Action as Shared;
        while let Some(
            Notice(_)
            | Collect { .. }
            | SendImage
            | Common(Shared::SetTimer { .. } | Shared::CancelTimer(_) | Shared::Notice(_) | Shared::Suspend),
        ) = self.p.todo.front()
        {
            self.primary_acts(setting)?;
        }
        Ok(())
    }

    pub fn primary_step(&mut self, setting: &Setting) -> Result<(), Flaw> {
        self.primary_acts(setting)?;
        self.settle_primary(setting)
    }

    fn primary_acts(&mut self, setting: &Setting) -> Result<(), Flaw> {
        use primary::{Action, Event};
        let Some(action) = self.p.todo.pop_front() else { return Ok(()) };
        let p = &mut self.p;
        match action {
            Action::SendImage => p.events.push_back(Event::ImageReady),
            Action::Common(shared::Action::Suspend) => {
                p.running = false;
                p.events.push_back(Event::Common(shared::Event::GuestSuspended));
            }
            Action::Common(shared::Action::HoldOutput) => p.free = false,
            Action::Collect { checkpoint, merge } => {
                if p.running || p.free {
                    return Err(format!("P2: collecting checkpoint {checkpoint} of a guest that runs or emits"));
                }
                let merged = merge && std::mem::take(&mut p.listed) && setting.mutant != Mutant::NeverMerges;
                p.collected = Some(Snapshot { number: checkpoint, sent: p.sent.clone(), merged, damaged: false });
                p.events.push_back(Event::Collected { checkpoint, bytes: 1 });
            }
            Action::Send(message) => self.forward.send(Forward::Message(message)),
            Action::SendMemory { checkpoint } => self.forward.send(Forward::Memory(checkpoint)),
            Action::SendState { checkpoint } => {
                let Some(state) = p.collected.take().filter(|state| state.number == checkpoint) else {
                    return Err(format!("sending state {checkpoint}, which is not collected"));
                };
                p.events.push_back(Event::StateSent { checkpoint });
                self.forward.send(Forward::State(state));
                if setting.mutant == Mutant::ReleaseWhenSent {
                    self.release_up_to(checkpoint - 1)?;
                }
                if setting.mutant == Mutant::SentIsLoaded {
                    self.p.assumes = true;
                    while let Some(point) = self.p.machine.expected()
                        && matches!(self.p.machine.phase(), primary::Phase::Session(At::Receipt | At::Load))
                    {
                        self.feed_primary(Event::Message(as_message(point)), setting)?;
                    }
                    self.p.assumes = false;
                }
            }
            Action::Abandon => {
                p.collected = None;
                if setting.mutant == Mutant::RunsWhileLeaving && !p.running {
                    p.running = true;
                    p.epoch = p.machine.checkpoints().0;
                }
                if setting.mutant == Mutant::HangsUpAtOnce {
                    self.forward.ended = true;
                }
            }
            // The secondary of this world knows it before anything comes.
            Action::Begin { .. } => {}
            Action::Dismiss => {
                if p.machine.config().dialect == Dialect::Libxl {
                    self.forward.send(Forward::Goodbye);
                }
            }
            Action::Common(shared::Action::Resume { epoch }) => {
                if p.paused {
                    return Err("P3: a fenced guest is resumed".into());
                }
                p.epoch = epoch;
                p.running = true;
                p.events.push_back(Event::Common(shared::Event::GuestResumed));
            }
            Action::Release { epoch, packet } => {
                let place = usize::try_from(packet).unwrap_or(usize::MAX);
                if let Some(at) = p.held.iter().position(|&(e, i, _)| (e, i) == (epoch, place)) {
                    let packet = p.held.remove(at);
                    self.release(packet)?;
                }
            }
            Action::ReleaseHeld { up_to_epoch } => self.release_up_to(up_to_epoch)?,
            Action::Common(shared::Action::FreeOutput) => {
                p.free = true;
                p.alone = true;
                p.arrived.clear();
                for packet in std::mem::take(&mut p.held) {
                    self.release(packet)?;
                }
            }
            Action::Common(shared::Action::DiscardOutput) => p.held.clear(),
            Action::Common(shared::Action::PauseGuest) => (p.running, p.free, p.paused) = (false, false, true),
            Action::CloseLink => self.forward.ended = true,
            Action::Common(shared::Action::AskWitness { generation }) => {
                // At the start it asks: else nobody could be granted anything.
                if setting.mutant == Mutant::PrimaryAsksNobody && generation > Generation(1) {
                    p.events.push_back(Event::Common(shared::Event::Witness(granted(generation))));
                } else {
                    p.asking = Some(generation);
                }
            }
            Action::Common(shared::Action::SetTimer { timer, .. }) => p.timers |= 1 << timer as u8,
            Action::Common(shared::Action::CancelTimer(timer)) => p.timers &= !(1 << timer as u8),
            Action::Notice(_) | Action::Common(shared::Action::Notice(_)) => {}
        }
        Ok(())
    }

    fn release_up_to(&mut self, epoch: u64) -> Result<(), Flaw> {
        self.p.arrived.retain(|&(e, ..)| e > epoch);
        let leave: Vec<Packet> = self.p.held.extract_if(.., |&mut (e, ..)| e <= epoch).collect();
        leave.into_iter().try_for_each(|packet| self.release(packet))
    }

    /// Property 2, at the moment it counts: whoever could go on must have sent it.
    fn release(&mut self, (epoch, place, value): Packet) -> Result<(), Flaw> {
        let could_survive = self.s.alive && self.s.copy && !self.p.alone;
        if could_survive && self.s.sent.get(place) != Some(&value) {
            return Err(format!(
                "P2: packet {place} of epoch {epoch} left as {value}, the secondary has {:?}",
                self.s.sent
            ));
        }
        self.emit(place, value)
    }

    pub fn emit(&mut self, place: usize, value: u8) -> Result<(), Flaw> {
        match self.seen.insert(place, value) {
            Some(other) if other != value => Err(format!("P2: packet {place} was seen as {other} and as {value}")),
            _ => Ok(()),
        }
    }

    /// Compares what can be, in order. Packets carry their epoch, so that what is late of one is not held against another.
    pub fn compare(&mut self, setting: &Setting) {
        use primary::Event;
        let p = &mut self.p;
        p.arrived.retain(|&(epoch, ..)| epoch > p.differed);
        while let Some(&(epoch, place, value)) = p.arrived.first() {
            let Some(&ours) = p.sent.get(place) else { return };
            p.arrived.remove(0);
            if ours == value || setting.mutant == Mutant::ComparesNothing {
                p.events.push_back(Event::Agreed { epoch, packet: place as u64 });
            } else {
                p.differed = epoch;
                p.arrived.retain(|&(e, ..)| e > epoch);
                p.events.push_back(Event::Differ { epoch });
            }
        }
    }

    pub fn feed_secondary(&mut self, event: secondary::Event, setting: &Setting) -> Result<(), Flaw> {
        use secondary::Event;
        let event = match event {
            Event::Message(message)
                if setting.mutant == Mutant::GarbageIsDeath && self.s.machine.expected() != Some(message.point()) =>
            {
                Event::Common(common::Event::LinkLost)
            }
            Event::Garbled(_) | Event::StateDamaged if setting.mutant == Mutant::GarbageIsDeath => {
                Event::Common(common::Event::LinkLost)
            }
            other => other,
        };
        let mut actions = Vec::new();
        self.s.machine.handle(Time(0), event, &mut actions);
        self.s.todo.extend(actions);
        self.settle_secondary(setting)
    }

    fn settle_secondary(&mut self, setting: &Setting) -> Result<(), Flaw> {
        use common::Action as Shared;
        use secondary::Action::*;
        while let Some(
            Common(Shared::SetTimer { .. } | Shared::CancelTimer(_) | Shared::Notice(_))
            | Notice(_)
            | Load { .. }
            | Suspend
            | ReceiveMemory { .. }
            | ReceiveState { .. }
            | DropState { .. },
        ) = self.s.todo.front()
        {
            self.secondary_acts(setting)?;
        }
        Ok(())
    }

    pub fn secondary_step(&mut self, setting: &Setting) -> Result<(), Flaw> {
        self.secondary_acts(setting)?;
        self.settle_secondary(setting)
    }

    fn secondary_acts(&mut self, setting: &Setting) -> Result<(), Flaw> {
        use secondary::{Action, Event};
        let Some(action) = self.s.todo.pop_front() else { return Ok(()) };
        let s = &mut self.s;
        match action {
            Action::Send(message) => {
                if setting.mutant != Mutant::LoadedUnsaid || !matches!(message, Message::Ready | Message::Loaded) {
                    self.backward.send(message);
                }
            }
            Action::SendDirtyList => self.backward.send(Message::DirtyList { bytes: 0 }),
            Action::ReceiveMemory { .. } => {}
            Action::ReceiveState { .. } => s.receiving = true,
            Action::DropState { .. } => (s.receiving, s.received) = (false, None),
            Action::Load { checkpoint } => {
                let Some(state) = s.received.take().filter(|state| state.number == checkpoint) else {
                    return Err(format!("P1: loading {checkpoint}, which is not there"));
                };
                if s.running {
                    return Err(format!("P1: loading {checkpoint} into a guest that runs"));
                }
                let mixed = setting.config.dialect == Dialect::Libxl && s.dirty && !state.merged;
                if state.damaged || state.number != s.loaded + 1 || mixed {
                    return Err(format!("P1: {state:?} is loaded over {}, which has run: {}", s.loaded, s.dirty));
                }
                (s.sent, s.loaded, s.dirty) = (state.sent, checkpoint, false);
                s.events.push_back(Event::Loaded { checkpoint });
            }
            Action::Suspend => {
                s.running = setting.mutant == Mutant::SecondaryNeverStops;
                s.events.push_back(Event::GuestSuspended);
            }
            Action::Resume { epoch } => {
                if epoch != s.loaded {
                    return Err(format!("P1: resuming from {epoch}, loaded is {}", s.loaded));
                }
                (s.running, s.epoch, s.dirty) = (true, epoch, true);
                s.events.push_back(Event::GuestResumed);
            }
            Action::Common(common::Action::DropReplica) => (s.copy, s.running, s.received) = (false, false, None),
            Action::Common(common::Action::KeepReplica) => (s.running, s.received) = (false, None),
            Action::Common(common::Action::RunFence { .. }) => s.fencing = true,
            Action::Common(common::Action::ActivateGuest { checkpoint, .. }) => {
                if checkpoint != s.loaded || checkpoint == 0 {
                    return Err(format!("P1: going active from {checkpoint}, loaded is {}", s.loaded));
                }
                if let Some((place, value)) = self.seen.iter().find(|&(&at, value)| s.sent.get(at) != Some(value)) {
                    return Err(format!("P2: going active with {:?}, seen was {value} as packet {place}", s.sent));
                }
                (s.running, s.epoch, s.active) = (true, checkpoint, true);
                s.events.push_back(Event::Common(common::Event::Activated));
            }
            Action::Common(common::Action::CloseLink) => self.backward.ended = true,
            Action::Common(common::Action::AskWitness { generation }) => {
                if setting.mutant == Mutant::SecondaryAsksNobody {
                    s.events.push_back(Event::Common(common::Event::Witness(granted(generation))));
                } else {
                    s.asking = Some(generation);
                }
            }
            Action::Common(common::Action::SetTimer { timer, .. }) => s.timers |= 1 << timer as u8,
            Action::Common(common::Action::CancelTimer(timer)) => s.timers &= !(1 << timer as u8),
            Action::Notice(_) | Action::Common(common::Action::Notice(_)) => {}
        }
        Ok(())
    }

    /// Compare and swap.
    pub fn take(&mut self, generation: Generation, who: Who, mutant: Mutant) -> Verdict {
        let (newest, holder) = self.witness;
        if generation == newest.next() || mutant == Mutant::WitnessGrantsAll {
            self.witness = (generation, who);
            Verdict::Granted
        } else if generation == newest && holder == who {
            Verdict::Granted
        } else {
            Verdict::Held { newest }
        }
    }

    /// A process is gone, and its guest with it. What it wrote is still on its way.
    pub fn crash(&mut self, who: Who) {
        match who {
            Who::Primary => {
                let p = &mut self.p;
                (p.alive, p.running, p.free, p.asking, p.timers) = (false, false, false, None, 0);
                (p.collected, p.listed) = (None, false);
                p.held.clear();
                p.arrived.clear();
                p.todo.clear();
                p.events.clear();
                self.packets.clear();
                self.backward.queue.clear();
                self.forward.ended = true;
            }
            Who::Secondary => {
                let s = &mut self.s;
                (s.alive, s.copy, s.running, s.active) = (false, false, false, false);
                (s.asking, s.fencing, s.timers, s.received) = (None, false, 0, None);
                s.todo.clear();
                s.events.clear();
                self.forward.queue.clear();
                self.backward.ended = true;
            }
        }
    }

    /// Properties 1 and 3, in every state.
    pub fn check(&self) -> Result<(), Flaw> {
        let (p, s) = (&self.p, &self.s);
        if p.running && s.running && p.epoch != s.epoch {
            return Err(format!("P1: the primary runs on from {}, the secondary from {}", p.epoch, s.epoch));
        }
        if p.running && p.free && s.active {
            return Err("P3: both are active".into());
        }
        Ok(())
    }

    pub fn armed(timers: u8) -> impl Iterator<Item = Timer> {
        Timer::ALL.into_iter().filter(move |&timer| timers & 1 << timer as u8 != 0)
    }
}

fn granted(generation: Generation) -> Answer {
    Answer { generation, verdict: Verdict::Granted }
}

/// A message that says so and nothing that could be refused.
pub const fn as_message(point: Point) -> Message {
    match point {
        Point::Ready => Message::Ready,
        Point::New => Message::New,
        Point::Suspended => Message::Suspended,
        Point::DirtyList => Message::DirtyList { bytes: 0 },
        Point::Send => Message::Send,
        Point::Size => Message::Size { bytes: 1 },
        Point::Received => Message::Received,
        Point::Loaded => Message::Loaded,
        Point::Resumed => Message::Resumed,
    }
}
