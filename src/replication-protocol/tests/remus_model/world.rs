//! The world of the model: the real machines, a guest that counts, a link each, a witness, and who looks on from outside.

use replication_protocol::protocol::{primary as shared, secondary as common};
use replication_protocol::remus::primary::{self, Answer};
use replication_protocol::remus::wire::Control;
use replication_protocol::remus::{
    Config, Generation, Image, Liveness, OutputCall, Primary, Secondary, Session, Time, Timer, Verdict, secondary,
};
use std::collections::VecDeque;

/// A way to be wrong, put around the machines. The shipped code has none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    None,
    /// `xl remus`: output leaves when the checkpoint is written.
    ReleaseWhenSent,
    /// `xl remus`: a bad checkpoint is the primary's death.
    GarbageIsDeath,
    /// The secondary goes active without asking.
    SecondaryAsksNobody,
    /// The primary goes on alone without asking.
    PrimaryAsksNobody,
    /// Any acknowledgement is taken for the checkpoint in flight, of whatever session and number.
    AnyAck,
    /// Damage is not looked for.
    DamageUnseen,
    /// A delta is sent where a whole image was asked for.
    NeverWhole,
    /// The guest stays at work after its primary was fenced.
    PauseForgotten,
    /// The witness grants without comparing.
    WitnessGrantsAll,
    /// A start acquires a generation before anybody has greeted.
    AcquiresBeforeGreeting,
    /// Bytes that nobody reads postpone the primary's loss without bound.
    SilencePostponed,
}

/// What may happen, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bounds {
    pub checkpoints: u64,
    pub steps: u8,
    pub sessions: u8,
    /// Faults of all kinds together.
    pub faults: u8,
    pub crashes: u8,
    pub losses: u8,
    pub damages: u8,
    pub unreachable: u8,
    pub fence_failures: u8,
    /// What a host cannot do: connect, suspend or copy its guest, apply a checkpoint.
    pub failures: u8,
    pub switch_overs: u8,
    pub unprotects: u8,
    pub fail_overs: u8,
    pub stops: u8,
    /// Starts of a primary of the same domain on a third host.
    pub strays: u8,
    /// Whether time-outs may fire.
    pub timeouts: bool,
}

impl Bounds {
    pub const NONE: Bounds = Bounds {
        checkpoints: 2,
        steps: 2,
        sessions: 1,
        faults: 0,
        crashes: 0,
        losses: 0,
        damages: 0,
        unreachable: 0,
        fence_failures: 0,
        failures: 0,
        switch_overs: 0,
        unprotects: 0,
        fail_overs: 0,
        stops: 0,
        strays: 0,
        timeouts: true,
    };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    Primary,
    Site(u8),
    Stray,
}

/// A checkpoint as the link carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Snapshot {
    pub number: u64,
    /// The guest's whole state.
    pub counter: u8,
    /// `None` in a whole image; otherwise the checkpoint that it says the difference to.
    pub base: Option<u64>,
    pub damaged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forward {
    Frame(Session, Control),
    Checkpoint(Session, Snapshot),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Link {
    pub forward: VecDeque<Forward>,
    pub backward: VecDeque<(Session, Control)>,
    /// What is written now does not arrive; the reader sees the end once the rest is read.
    pub forward_ended: bool,
    pub backward_ended: bool,
    /// Late of the session before; turns up behind the first frame of this one.
    pub late: VecDeque<(Session, Control)>,
    /// The primary has seen the end.
    pub backward_seen: bool,
    /// Damaged framing: nothing can be read from here on.
    pub forward_garbled: bool,
    pub backward_garbled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PrimarySide {
    pub machine: Primary,
    pub alive: bool,
    pub todo: VecDeque<primary::Action>,
    pub events: VecDeque<primary::Event>,
    pub timers: u8,
    pub asking: Option<Generation>,
    pub counter: u8,
    pub running: bool,
    pub paused: bool,
    pub free: bool,
    /// Packets that wait: epoch and counter.
    pub nic: Vec<(u64, u8)>,
    pub epoch: u64,
    pub copy: Option<Snapshot>,
    pub last_copied: Option<u64>,
    /// It has been free after its secondary had a checkpoint: without a witness, what it let out then may be lost.
    pub went_alone: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Site {
    pub machine: Secondary,
    pub alive: bool,
    pub todo: VecDeque<secondary::Action>,
    pub events: VecDeque<secondary::Event>,
    pub timers: u8,
    pub asking: Option<Generation>,
    pub fencing: bool,
    pub link: Link,
    /// Received whole, not applied yet.
    pub staged: Vec<Snapshot>,
    pub applied: Option<Snapshot>,
    /// The last acknowledged, when the ACK was written.
    pub acknowledged: Option<Snapshot>,
    /// The state it went active with.
    pub active: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub primary: PrimarySide,
    pub sites: Vec<Site>,
    pub witness: (Generation, Who),
    /// The last packet of the primary's guest that the outside has seen.
    pub seen: u8,
    pub left: Bounds,
}

/// A broken property.
pub type Flaw = String;

pub struct Setting {
    pub config: Config,
    pub bounds: Bounds,
    pub mutant: Mutant,
}

impl World {
    pub fn new(setting: &Setting) -> World {
        World {
            primary: PrimarySide {
                machine: Primary::new(setting.config, Generation(0)),
                alive: true,
                todo: VecDeque::new(),
                events: VecDeque::new(),
                timers: 0,
                asking: None,
                counter: 0,
                running: true,
                paused: false,
                free: true,
                nic: Vec::new(),
                epoch: 0,
                copy: None,
                last_copied: None,
                went_alone: false,
            },
            sites: Vec::new(),
            witness: (Generation(0), Who::Primary),
            seen: 0,
            left: setting.bounds,
        }
    }

    /// Past every time-out, whatever was heard when the model's clock stood at its start.
    pub const LATE: Time = Time(u64::MAX / 2);

    pub fn feed_primary(&mut self, event: primary::Event, setting: &Setting) -> Result<(), Flaw> {
        self.feed_primary_at(Time(0), event, setting)
    }

    pub fn command_primary(&mut self, command: primary::Command, setting: &Setting) -> Result<(), Flaw> {
        let mut actions = Vec::new();
        if self.primary.machine.command(Time(0), command, &mut actions).is_err() && !actions.is_empty() {
            return Err(format!("{command:?} is refused, and gives {actions:?}"));
        }
        self.primary.todo.extend(actions);
        self.settle_primary(setting)
    }

    pub fn command_site(&mut self, at: usize, command: secondary::Command, setting: &Setting) -> Result<(), Flaw> {
        let mut actions = Vec::new();
        if self.sites[at].machine.command(Time(0), command, &mut actions).is_err() && !actions.is_empty() {
            return Err(format!("{command:?} is refused, and gives {actions:?}"));
        }
        self.sites[at].todo.extend(actions);
        self.settle_site(at, setting)
    }

    /// The primary has been silent for the time-out, with bytes of it that nobody reads, as where the secondary hangs: looked at
    /// again and again, it is lost once the slack is over.
    pub fn silence(&mut self, at: usize, setting: &Setting) -> Result<(), Flaw> {
        use secondary::{Action, Event, Phase};
        let config = &setting.config;
        let bound = Time(0).after(config.timeout).after(Liveness::SLACK);
        let mut now = Time(0).after(config.timeout);
        while self.sites[at].machine.phase() == Phase::Passive {
            let (read, unread) = match setting.mutant {
                Mutant::SilencePostponed => (now, true),
                _ => (Time(0), true),
            };
            let mut actions = Vec::new();
            self.sites[at].machine.handle(now, Event::Common(common::Event::Heard { read, unread }), &mut actions);
            self.sites[at].machine.handle(now, Event::Common(common::Event::Timer(Timer::Peer)), &mut actions);
            let again = actions.iter().find_map(|action| match action {
                Action::Common(common::Action::SetTimer { timer: Timer::Peer, at }) => Some(*at),
                _ => None,
            });
            match again {
                Some(later) if later <= bound => now = later,
                Some(later) => return Err(format!("liveness: silence is put off to {later:?}, past {bound:?}")),
                None => self.sites[at].todo.extend(actions),
            }
        }
        self.settle_site(at, setting)
    }

    /// A start on a third host, from its first action to its end: nobody answers there.
    pub fn stray(&mut self, setting: &Setting) {
        use primary::{Action, Command, Event};
        let mut machine = Primary::new(setting.config, self.witness.0);
        let session = Session(u64::MAX);
        let mut actions = Vec::new();
        let _ = machine.command(Time(0), Command::Protect { session }, &mut actions);
        machine.handle(Time(0), Event::LinkLost { session }, &mut actions);
        if setting.mutant == Mutant::AcquiresBeforeGreeting {
            actions.insert(0, Action::Common(shared::Action::AskWitness { generation: self.witness.0.next() }));
        }
        for action in actions {
            if let Action::Common(shared::Action::AskWitness { generation }) = action {
                self.take(generation, Who::Stray, setting.mutant);
            }
        }
    }

    pub fn feed_primary_at(&mut self, now: Time, event: primary::Event, setting: &Setting) -> Result<(), Flaw> {
        use primary::Event;
        let event = match event {
            Event::Frame { frame: Control::Ack { .. }, .. } if setting.mutant == Mutant::AnyAck => Event::Frame {
                session: self.primary.machine.session(),
                frame: Control::Ack { checkpoint: self.primary.machine.checkpoints().0 },
            },
            other => other,
        };
        let mut actions = Vec::new();
        self.primary.machine.handle(now, event, &mut actions);
        self.primary.todo.extend(actions);
        self.settle_primary(setting)
    }

    /// Carries out what nobody else can notice.
    fn settle_primary(&mut self, setting: &Setting) -> Result<(), Flaw> {
        use primary::Action::*;
        use shared::Action as Shared;
        while let Some(
            Notice(_)
            | CopyState { .. }
            | StopTransmit { .. }
            | Common(
                Shared::SetTimer { .. }
                | Shared::CancelTimer(_)
                | Shared::Notice(_)
                | Shared::Suspend
                | Shared::Resume { .. },
            ),
        ) = self.primary.todo.front()
        {
            self.act_primary(setting)?;
        }
        Ok(())
    }

    pub fn primary_step(&mut self, setting: &Setting) -> Result<(), Flaw> {
        self.act_primary(setting)?;
        self.settle_primary(setting)
    }

    fn act_primary(&mut self, setting: &Setting) -> Result<(), Flaw> {
        use primary::{Action, Event};
        let Some(action) = self.primary.todo.pop_front() else { return Ok(()) };
        let p = &mut self.primary;
        match action {
            Action::Common(shared::Action::Suspend) => {
                p.running = false;
                p.events.push_back(Event::Common(shared::Event::GuestSuspended));
            }
            Action::BeginStream { stream, checkpoint } => {
                p.last_copied = None;
                let frame = Control::Stream { number: stream, checkpoint };
                p.events.push_back(Event::ImageReady { checkpoint });
                if setting.mutant != Mutant::NeverWhole || stream == 1 {
                    self.send(Forward::Frame(self.primary.machine.session(), frame));
                } else {
                    // The secondary is made to believe that it goes on.
                    self.primary.last_copied = Some(checkpoint - 1);
                    self.send(Forward::Frame(self.primary.machine.session(), frame));
                }
            }
            Action::CopyState { checkpoint } => {
                // What could not be held is copied, and the copy is of no use.
                let unheld = p.events.contains(&Event::Common(shared::Event::OutputFailed(OutputCall::Hold)));
                if p.running || (p.free && !unheld) {
                    return Err(format!("P1: copying checkpoint {checkpoint} of a guest that runs or emits"));
                }
                p.copy = Some(Snapshot { number: checkpoint, counter: p.counter, base: p.last_copied, damaged: false });
                p.last_copied = Some(checkpoint);
                p.events.push_back(Event::StateCopied { checkpoint });
            }
            Action::Common(shared::Action::Resume { epoch }) => {
                if p.paused && setting.mutant != Mutant::PauseForgotten {
                    return Err("P3: a fenced guest resumed".into());
                }
                p.epoch = epoch;
                p.running = true;
                p.events.push_back(Event::Common(shared::Event::GuestResumed));
            }
            Action::Transmit { checkpoint, image } => {
                let Some(copy) = p.copy.take().filter(|c| c.number == checkpoint) else {
                    return Err(format!("transmitting {checkpoint}, which is not copied"));
                };
                if setting.mutant != Mutant::NeverWhole && (image == Image::Whole) != copy.base.is_none() {
                    return Err(format!("checkpoint {checkpoint} is sent as {image:?} and is none"));
                }
                p.events.push_back(Event::CheckpointSent { checkpoint });
                self.send(Forward::Checkpoint(self.primary.machine.session(), copy));
                if setting.mutant == Mutant::ReleaseWhenSent {
                    self.release(checkpoint - 1)?;
                }
            }
            Action::StopTransmit { .. } | Action::Notice(_) | Action::Common(shared::Action::Notice(_)) => {}
            Action::Common(shared::Action::HoldOutput) => {
                let last = p.nic.drain(..).map(|(_, counter)| counter).max().unwrap_or(0);
                p.free = false;
                self.seen = self.seen.max(last);
            }
            Action::ReleaseOutput { up_to_epoch } => self.release(up_to_epoch)?,
            Action::Common(shared::Action::FreeOutput) => {
                p.free = true;
                p.went_alone = true;
                let last = p.nic.drain(..).map(|(_, counter)| counter).max().unwrap_or(0);
                self.seen = self.seen.max(last);
            }
            Action::Common(shared::Action::DiscardOutput) => p.nic.clear(),
            Action::Common(shared::Action::PauseGuest) => {
                if setting.mutant != Mutant::PauseForgotten {
                    p.running = false;
                    p.free = false;
                }
                p.paused = true;
            }
            Action::Connect { session, .. } => {
                // What is late of the session before turns up in the new one.
                let stale = self.sites.last().map(|site| site.link.backward.clone()).unwrap_or_default();
                let link = Link { late: stale, ..Link::default() };
                self.sites.push(Site {
                    machine: Secondary::new(setting.config),
                    alive: true,
                    todo: VecDeque::new(),
                    events: VecDeque::new(),
                    timers: 0,
                    asking: None,
                    fencing: false,
                    link,
                    staged: Vec::new(),
                    applied: None,
                    acknowledged: None,
                    active: None,
                });
                if session != self.primary.machine.session() {
                    return Err("connecting an old session".into());
                }
                self.primary.events.push_back(Event::Connected);
            }
            Action::CloseLink { .. } => {
                if let Some(site) = self.sites.last_mut() {
                    site.link.forward_ended = true;
                }
            }
            Action::SendFrame(frame) => self.send(Forward::Frame(self.primary.machine.session(), frame)),
            Action::Common(shared::Action::AskWitness { generation }) => {
                if setting.mutant == Mutant::PrimaryAsksNobody
                    && matches!(p.machine.phase(), primary::Phase::Leaving { .. })
                {
                    p.events.push_back(Event::Common(shared::Event::Witness(Answer {
                        generation,
                        verdict: Verdict::Granted,
                    })));
                } else {
                    p.asking = Some(generation);
                }
            }
            Action::Common(shared::Action::SetTimer { timer, .. }) => p.timers |= 1 << timer as u8,
            Action::Common(shared::Action::CancelTimer(timer)) => p.timers &= !(1 << timer as u8),
        }
        Ok(())
    }

    fn send(&mut self, message: Forward) {
        if let Some(site) = self.sites.last_mut()
            && !site.link.forward_ended
            && !site.link.forward_garbled
        {
            site.link.forward.push_back(message);
        }
    }

    /// Property 1, at the moment it counts.
    fn release(&mut self, up_to: u64) -> Result<(), Flaw> {
        let acknowledged = self.sites.last().and_then(|site| site.acknowledged);
        for (epoch, counter) in self.primary.nic.extract_if(.., |(epoch, _)| *epoch <= up_to) {
            match acknowledged {
                Some(a) if a.number > epoch && a.counter >= counter => self.seen = self.seen.max(counter),
                _ => {
                    return Err(format!(
                        "P1: packet {counter} of epoch {epoch} left, acknowledged is {acknowledged:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    pub fn feed_site(&mut self, at: usize, event: secondary::Event, setting: &Setting) -> Result<(), Flaw> {
        use secondary::Event;
        let event = match event {
            Event::Checkpoint { verdict: Err(_), .. } | Event::Damaged { .. }
                if setting.mutant == Mutant::GarbageIsDeath =>
            {
                Event::Common(common::Event::LinkLost)
            }
            other => other,
        };
        let mut actions = Vec::new();
        self.sites[at].machine.handle(Time(0), event, &mut actions);
        self.sites[at].todo.extend(actions);
        self.settle_site(at, setting)
    }

    fn settle_site(&mut self, at: usize, setting: &Setting) -> Result<(), Flaw> {
        use common::Action as Shared;
        use secondary::Action::*;
        while let Some(
            Common(
                Shared::SetTimer { .. }
                | Shared::CancelTimer(_)
                | Shared::Notice(_)
                | Shared::DropReplica
                | Shared::KeepReplica,
            )
            | Notice(_)
            | ApplyCheckpoint { .. }
            | DropCheckpoint { .. },
        ) = self.sites[at].todo.front()
        {
            self.act_site(at, setting)?;
        }
        Ok(())
    }

    pub fn site_step(&mut self, at: usize, setting: &Setting) -> Result<(), Flaw> {
        self.act_site(at, setting)?;
        self.settle_site(at, setting)
    }

    fn act_site(&mut self, at: usize, setting: &Setting) -> Result<(), Flaw> {
        use secondary::{Action, Event};
        let site = &mut self.sites[at];
        let Some(action) = site.todo.pop_front() else { return Ok(()) };
        match action {
            Action::ApplyCheckpoint { checkpoint } => {
                let Some(place) = site.staged.iter().position(|s| s.number == checkpoint) else {
                    return Err(format!("P2: applying {checkpoint}, which is not there"));
                };
                let snapshot = site.staged.remove(place);
                if snapshot.damaged {
                    return Err(format!("P2: applying damaged {snapshot:?}"));
                }
                if snapshot.base.is_some() && snapshot.base != site.applied.map(|s| s.number) {
                    return Err(format!("P2: applying {snapshot:?} over {:?}", site.applied));
                }
                site.applied = Some(snapshot);
                site.events.push_back(Event::Applied { checkpoint });
            }
            Action::DropCheckpoint { checkpoint, .. } => site.staged.retain(|s| s.number != checkpoint),
            Action::Common(common::Action::DropReplica) => (site.applied, site.staged) = (None, Vec::new()),
            // What becomes of it is explored by tests/claim_model.rs.
            Action::Common(common::Action::KeepReplica) => {
                if site.applied.is_none() {
                    return Err("P2: a copy is kept that is not there".into());
                }
            }
            Action::Common(common::Action::RunFence { .. }) => site.fencing = true,
            Action::Common(common::Action::ActivateGuest { checkpoint, .. }) => {
                let Some(state) = site.applied.filter(|s| s.number == checkpoint) else {
                    return Err(format!("P2: going active with {checkpoint}, there is {:?}", site.applied));
                };
                if site.acknowledged.is_some_and(|a| a.number > checkpoint) {
                    return Err(format!("P2: going active with {state:?} after acknowledging {:?}", site.acknowledged));
                }
                site.active = Some(state.counter);
                site.events.push_back(Event::Common(common::Event::Activated));
            }
            Action::Common(common::Action::CloseLink) => site.link.backward_ended = true,
            Action::SendFrame(frame) => {
                if let Control::Ack { checkpoint } = frame {
                    let applied = site.applied.filter(|s| s.number == checkpoint);
                    if applied.is_none() || site.active.is_some() {
                        return Err(format!("P2: acknowledging {checkpoint} with {:?} in hand", site.applied));
                    }
                    site.acknowledged = applied;
                }
                if !site.link.backward_ended && !site.link.backward_garbled {
                    let session = site.machine.session();
                    site.link.backward.push_back((session, frame));
                    let late = std::mem::take(&mut site.link.late);
                    site.link.backward.extend(late);
                }
            }
            Action::Common(common::Action::AskWitness { generation }) => {
                if setting.mutant == Mutant::SecondaryAsksNobody {
                    site.events.push_back(Event::Common(common::Event::Witness(Answer {
                        generation,
                        verdict: Verdict::Granted,
                    })));
                } else {
                    site.asking = Some(generation);
                }
            }
            Action::Common(common::Action::SetTimer { timer, .. }) => site.timers |= 1 << timer as u8,
            Action::Common(common::Action::CancelTimer(timer)) => site.timers &= !(1 << timer as u8),
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
            // Its process has ended already.
            Who::Stray => {}
            Who::Primary => {
                let p = &mut self.primary;
                p.alive = false;
                (p.running, p.free, p.asking, p.timers) = (false, false, None, 0);
                p.nic.clear();
                p.todo.clear();
                p.events.clear();
                if let Some(site) = self.sites.last_mut() {
                    site.link.forward_ended = true;
                }
            }
            Who::Site(at) => {
                let site = &mut self.sites[usize::from(at)];
                site.alive = false;
                (site.asking, site.fencing, site.active, site.timers) = (None, false, None, 0);
                (site.applied, site.staged) = (None, Vec::new());
                site.todo.clear();
                site.events.clear();
                site.link.forward.clear();
                site.link.backward_ended = true;
            }
        }
    }

    pub fn armed(timers: u8) -> impl Iterator<Item = Timer> {
        Timer::ALL.into_iter().filter(move |&timer| timers & 1 << timer as u8 != 0)
    }
}
