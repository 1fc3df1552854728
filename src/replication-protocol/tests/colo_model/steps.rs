//! What can happen next, and doing it.

use super::explorer::{Flaw, Model};
use super::world::{Bounds, Forward, Mutant, Setting, Who, World, as_message};
use replication_protocol::colo::wire::WireError;
use replication_protocol::colo::{Guest, Point, Side, Step as At, primary, secondary};
use replication_protocol::protocol::{primary as shared, secondary as common};
use replication_protocol::remus::primary::Answer;
use replication_protocol::remus::{Rule, RunState, Timer, Verdict};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    PrimaryActs,
    PrimaryEvent,
    PrimaryReads,
    PrimarySeesEnd,
    PrimaryTimer(Timer),
    PrimarySends,
    SecondaryActs,
    SecondaryEvent,
    SecondaryReads,
    SecondarySeesEnd,
    SecondaryTimer(Timer),
    SecondarySends(u8),
    PacketArrives,
    WitnessServes(Who),
    WitnessOut(Who),
    FenceSucceeds,
    FenceFails,
    Crash(Who),
    /// A direction breaks with all that is in it.
    Cut(Side),
    /// A message out of step, ahead of what else is on its way.
    Hears(Side, Point),
    /// Bytes that are no message.
    Garbled(Side),
    /// The state next to be read is unsound.
    Damage,
    /// What was to be done next on the host could not be.
    Fails(Who),
    PrimaryIsTold(primary::Command),
    SecondaryIsTold(secondary::Command),
}

use Step::*;

const NOISE: WireError = WireError::Number { number: 99, offset: 0, first: 0, last: 6 };

impl World {
    fn primary_steps(&self, faults: bool, out: &mut Vec<Step>) {
        let p = &self.p;
        if p.asking.is_some() {
            self.asked(Who::Primary, faults, out);
        }
        if faults && p.running && p.sent.len() < self.left.packets {
            out.push(PrimarySends);
        }
        if !p.todo.is_empty() {
            return out.push(PrimaryActs);
        }
        if !p.events.is_empty() {
            out.push(PrimaryEvent);
        }
        let back = &self.backward;
        if !back.queue.is_empty() {
            out.push(PrimaryReads);
        } else if !back.end_seen && (back.ended && !back.cut || back.cut && faults) {
            out.push(PrimarySeesEnd);
        }
        for timer in World::armed(p.timers) {
            let may = match timer {
                Timer::Round if faults => p.machine.checkpoints().0 < self.left.checkpoints,
                Timer::Answer if faults => self.left.timeouts,
                Timer::Round | Timer::Answer => !self.whole(),
                _ => true,
            };
            if may {
                out.push(PrimaryTimer(timer));
            }
        }
    }

    fn secondary_steps(&self, setting: &Setting, faults: bool, out: &mut Vec<Step>) {
        let s = &self.s;
        if s.asking.is_some() {
            self.asked(Who::Secondary, faults, out);
        }
        if s.fencing {
            out.push(FenceSucceeds);
            if faults && self.left.faults > 0 && self.left.fence_failures > 0 {
                out.push(FenceFails);
            }
        }
        if faults && s.running && s.sent.len() < self.left.packets {
            out.push(SecondarySends(0));
            if self.left.differences > 0 && !s.active {
                out.push(SecondarySends(1));
            }
        }
        if !s.todo.is_empty() {
            return out.push(SecondaryActs);
        }
        if !s.events.is_empty() {
            out.push(SecondaryEvent);
        }
        let ahead = &self.forward;
        match ahead.queue.front() {
            Some(Forward::State(_)) if !s.receiving => {}
            Some(Forward::Memory(_)) if s.machine.phase() != secondary::Phase::Session(At::Memory) => {}
            Some(_) => out.push(SecondaryReads),
            None if !ahead.end_seen && (ahead.ended && !ahead.cut || ahead.cut && faults) => out.push(SecondarySeesEnd),
            None => {}
        }
        for timer in World::armed(s.timers) {
            let may = match timer {
                Timer::Answer if faults => self.left.timeouts,
                Timer::Answer => !self.whole(),
                _ => true,
            };
            if may {
                out.push(SecondaryTimer(timer));
            }
        }
        // Without a witness the operator says so, of a primary that is dead and did not go on alone before.
        let dead = !self.p.alive && !self.p.alone;
        if setting.config.rule != Rule::Witness && dead && s.machine.phase() == secondary::Phase::Lost {
            out.push(SecondaryIsTold(secondary::Command::FailOver { force: false }));
        }
    }

    fn asked(&self, who: Who, faults: bool, out: &mut Vec<Step>) {
        out.push(WitnessServes(who));
        if faults && self.left.faults > 0 && self.left.unreachable > 0 {
            out.push(WitnessOut(who));
        }
    }

    fn faults(&self, out: &mut Vec<Step>) {
        let Bounds { crashes, cuts, garbage, failures, commands, .. } = self.left;
        let (p, s) = (&self.p, &self.s);
        for (who, alive) in [(Who::Primary, p.alive), (Who::Secondary, s.alive)] {
            if crashes > 0 && alive {
                out.push(Crash(who));
            }
        }
        if cuts > 0 {
            if !self.forward.cut && !self.forward.ended {
                out.push(Cut(Side::Primary));
            }
            if !self.backward.cut && !self.backward.ended {
                out.push(Cut(Side::Secondary));
            }
        }
        let p_listens = p.alive && p.todo.is_empty() && matches!(p.machine.phase(), primary::Phase::Session(_));
        let s_listens = s.alive && s.todo.is_empty() && matches!(s.machine.phase(), secondary::Phase::Session(_));
        if garbage > 0 && self.whole() {
            for point in Point::ALL {
                if p_listens && p.machine.expected() != Some(point) {
                    out.push(Hears(Side::Primary, point));
                }
                if s_listens && s.machine.expected() != Some(point) {
                    out.push(Hears(Side::Secondary, point));
                }
            }
            if p_listens {
                out.push(Garbled(Side::Primary));
            }
            if s_listens {
                out.push(Garbled(Side::Secondary));
            }
            if matches!(self.forward.queue.front(), Some(Forward::State(state)) if !state.damaged) {
                out.push(Damage);
            }
        }
        if failures > 0 && p.todo.is_empty() {
            use primary::Event;
            if let Some(Event::Common(shared::Event::GuestSuspended) | Event::Collected { .. } | Event::ImageReady) =
                p.events.front()
            {
                out.push(Fails(Who::Primary));
            }
        }
        if failures > 0 && s.todo.is_empty() {
            use secondary::Event;
            if let Some(Event::Loaded { .. } | Event::GuestSuspended | Event::GuestResumed) = s.events.front() {
                out.push(Fails(Who::Secondary));
            }
        }
        if commands > 0 {
            if p_listens {
                out.push(PrimaryIsTold(primary::Command::PeerLost));
                out.push(PrimaryIsTold(primary::Command::Unprotect { force: false }));
                out.push(PrimaryIsTold(primary::Command::Checkpoint));
            }
            if s_listens {
                out.push(SecondaryIsTold(secondary::Command::PeerLost));
                out.push(SecondaryIsTold(secondary::Command::Stop));
                // Over a primary that lives: the witness is asked all the same.
                if matches!(self.s.machine.phase(), secondary::Phase::Session(_)) {
                    out.push(SecondaryIsTold(secondary::Command::FailOver { force: true }));
                }
            }
        }
    }

    fn perform(&mut self, step: Step, setting: &Setting) -> Result<(), Flaw> {
        use primary::Event as ToPrimary;
        use secondary::Event as ToSecondary;
        self.spend(step);
        match step {
            PrimaryActs => self.primary_step(setting),
            PrimaryEvent => match self.p.events.pop_front() {
                Some(event) => self.feed_primary(event, setting),
                None => Ok(()),
            },
            PrimaryReads => match self.backward.queue.pop_front() {
                Some(message) => {
                    self.p.listed |= message.point() == Point::DirtyList;
                    self.feed_primary(ToPrimary::Message(message), setting)
                }
                None => Ok(()),
            },
            PrimarySeesEnd => {
                self.backward.end_seen = true;
                self.feed_primary(ToPrimary::LinkLost, setting)
            }
            PrimaryTimer(timer) => {
                self.p.timers &= !(1 << timer as u8);
                self.feed_primary(ToPrimary::Common(shared::Event::Timer(timer)), setting)
            }
            PrimarySends => {
                let (place, epoch) = (self.p.sent.len(), self.p.epoch);
                self.p.sent.push(0);
                if self.p.free {
                    return self.emit(place, 0);
                }
                self.p.held.push((epoch, place, 0));
                self.compare(setting);
                Ok(())
            }
            SecondaryActs => self.secondary_step(setting),
            SecondaryEvent => match self.s.events.pop_front() {
                Some(event) => self.feed_secondary(event, setting),
                None => Ok(()),
            },
            SecondaryReads => self.secondary_reads(setting),
            SecondarySeesEnd => {
                self.forward.end_seen = true;
                self.feed_secondary(ToSecondary::Common(common::Event::LinkLost), setting)
            }
            SecondaryTimer(timer) => {
                self.s.timers &= !(1 << timer as u8);
                self.feed_secondary(ToSecondary::Common(common::Event::Timer(timer)), setting)
            }
            SecondarySends(value) => {
                let place = self.s.sent.len();
                self.s.sent.push(value);
                if self.s.active {
                    return self.emit(place, value);
                }
                if self.p.alive && !self.backward.cut && !self.backward.ended {
                    self.packets.push_back((self.s.epoch, place, value));
                }
                Ok(())
            }
            PacketArrives => {
                self.p.arrived.extend(self.packets.pop_front());
                self.compare(setting);
                Ok(())
            }
            WitnessServes(who) => {
                let asking = match who {
                    Who::Primary => self.p.asking.take(),
                    Who::Secondary => self.s.asking.take(),
                };
                let Some(generation) = asking else { return Ok(()) };
                let verdict = self.take(generation, who, setting.mutant);
                self.answer(who, Answer { generation, verdict });
                Ok(())
            }
            WitnessOut(who) => {
                let asking = match who {
                    Who::Primary => self.p.asking.take(),
                    Who::Secondary => self.s.asking.take(),
                };
                let Some(generation) = asking else { return Ok(()) };
                self.answer(who, Answer { generation, verdict: Verdict::Unreachable });
                Ok(())
            }
            FenceSucceeds => {
                self.s.fencing = false;
                if self.p.alive {
                    self.crash(Who::Primary);
                }
                self.s.events.push_back(ToSecondary::Common(common::Event::Fenced { success: true }));
                Ok(())
            }
            FenceFails => {
                self.s.fencing = false;
                self.s.events.push_back(ToSecondary::Common(common::Event::Fenced { success: false }));
                Ok(())
            }
            Crash(who) => {
                self.crash(who);
                Ok(())
            }
            Cut(Side::Primary) => {
                (self.forward.cut, self.forward.queue) = (true, Default::default());
                Ok(())
            }
            Cut(Side::Secondary) => {
                (self.backward.cut, self.backward.queue) = (true, Default::default());
                Ok(())
            }
            Hears(Side::Primary, point) => self.feed_primary(ToPrimary::Message(as_message(point)), setting),
            Hears(Side::Secondary, point) => self.feed_secondary(ToSecondary::Message(as_message(point)), setting),
            Garbled(Side::Primary) => self.feed_primary(ToPrimary::Garbled(NOISE), setting),
            Garbled(Side::Secondary) => self.feed_secondary(ToSecondary::Garbled(NOISE), setting),
            Damage => {
                if let Some(Forward::State(state)) = self.forward.queue.front_mut() {
                    state.damaged = true;
                }
                Ok(())
            }
            Fails(Who::Primary) => match self.p.events.pop_front() {
                Some(ToPrimary::Common(shared::Event::GuestSuspended)) => {
                    self.p.running = true;
                    self.feed_primary(
                        ToPrimary::Common(shared::Event::SuspendFailed { guest: RunState::Running }),
                        setting,
                    )
                }
                _ => {
                    self.p.collected = None;
                    self.feed_primary(ToPrimary::CollectFailed, setting)
                }
            },
            Fails(Who::Secondary) => {
                self.s.events.pop_front();
                self.s.running = false;
                self.feed_secondary(ToSecondary::CopyFailed, setting)
            }
            PrimaryIsTold(command) => self.command_primary(command, setting),
            SecondaryIsTold(command) => self.command_secondary(command, setting),
        }
    }

    fn answer(&mut self, who: Who, answer: Answer) {
        match who {
            Who::Primary => self.p.events.push_back(primary::Event::Common(shared::Event::Witness(answer))),
            Who::Secondary => self.s.events.push_back(secondary::Event::Common(common::Event::Witness(answer))),
        }
    }

    fn secondary_reads(&mut self, setting: &Setting) -> Result<(), Flaw> {
        use secondary::Event;
        let event = match self.forward.queue.pop_front() {
            None => return Ok(()),
            Some(Forward::Message(message)) => Event::Message(message),
            Some(Forward::Memory(checkpoint)) => Event::MemoryReceived { checkpoint },
            Some(Forward::Goodbye) => Event::Dismissed,
            Some(Forward::State(state)) => {
                self.s.receiving = false;
                if state.damaged && setting.mutant != Mutant::DamageUnseen {
                    Event::StateDamaged
                } else {
                    let checkpoint = state.number;
                    self.s.received = Some(state);
                    Event::StateReceived { checkpoint }
                }
            }
        };
        self.feed_secondary(event, setting)
    }

    fn spend(&mut self, step: Step) {
        let left = &mut self.left;
        let kind = match step {
            WitnessOut(_) => &mut left.unreachable,
            FenceFails => &mut left.fence_failures,
            Crash(_) => &mut left.crashes,
            Cut(_) => &mut left.cuts,
            Hears(..) | Garbled(_) | Damage => &mut left.garbage,
            Fails(_) => &mut left.failures,
            PrimaryIsTold(_)
            | SecondaryIsTold(
                secondary::Command::PeerLost | secondary::Command::Stop | secondary::Command::FailOver { force: true },
            ) => &mut left.commands,
            SecondarySends(1) => {
                left.differences -= 1;
                return;
            }
            _ => return,
        };
        *kind -= 1;
        left.faults -= 1;
    }
}

impl Model for World {
    type Step = Step;
    type Setting = Setting;

    fn steps(&self, setting: &Setting, faults: bool, out: &mut Vec<Step>) {
        if self.p.alive {
            self.primary_steps(faults, out);
            if !self.packets.is_empty() {
                out.push(PacketArrives);
            }
        }
        if self.s.alive {
            self.secondary_steps(setting, faults, out);
        }
        if faults && self.left.faults > 0 {
            self.faults(out);
        }
    }

    fn apply(&mut self, step: Step, setting: &Setting) -> Result<(), Flaw> {
        self.perform(step, setting)?;
        self.check()
    }

    fn rank(step: Step) -> u8 {
        match step {
            PrimaryTimer(Timer::Answer) | SecondaryTimer(Timer::Answer) => 3,
            PrimaryTimer(_) | SecondaryTimer(_) => 2,
            SecondaryIsTold(_) => 4,
            _ => 1,
        }
    }

    fn at_rest(&self, setting: &Setting) -> Result<(), Flaw> {
        let (p, s) = (&self.p, &self.s);
        let (ours, theirs) = (p.machine.phase(), s.machine.phase());
        if let (primary::Phase::Session(a), secondary::Phase::Session(b)) = (ours, theirs)
            && self.whole()
            && (a, b) != (At::Run, At::Run)
        {
            return Err(format!("liveness: the primary waits in {a:?}, the secondary in {b:?}"));
        }
        let runs = p.alive && p.running && matches!(ours, primary::Phase::Alone | primary::Phase::Session(_));
        let active = usize::from(runs) + usize::from(s.active);
        let usable = s.alive && s.copy && s.machine.guest() != Guest::Absent;
        let entitled_is_dead = match self.witness.1 {
            Who::Primary => !p.alive,
            Who::Secondary => !usable,
        };
        // Without a witness, what a dead primary did alone is the operator's to judge.
        let allowed = !p.alive && (!usable || (setting.config.rule != Rule::Witness && p.alone))
            || setting.config.rule == Rule::Witness && entitled_is_dead;
        match active {
            1 => Ok(()),
            0 if allowed => Ok(()),
            n => Err(format!("liveness: {n} active at rest, in {ours:?} and {theirs:?}")),
        }
    }
}
