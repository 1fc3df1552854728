//! What can happen next, and doing it.

use super::world::{Flaw, Forward, Mutant, Setting, Who, World};
use replication_protocol::protocol::{primary as shared, secondary as common};
use replication_protocol::remus::primary::{self, Answer};
use replication_protocol::remus::secondary;
use replication_protocol::remus::{OutputCall, RefuseReason, Rule, RunState, Session, Time, Timer, Verdict};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    PrimaryActs,
    PrimaryEvent,
    PrimaryReads,
    PrimarySeesEnd,
    PrimaryTimer(Timer),
    GuestSends,
    Protect,
    SwitchOver,
    Unprotect,
    SiteActs(u8),
    SiteEvent(u8),
    SiteReads(u8),
    SiteSeesEnd(u8),
    SiteTimer(u8, Timer),
    SiteFailOver(u8),
    SiteStops(u8),
    FenceSucceeds(u8),
    FenceFails(u8),
    WitnessServes(Who),
    WitnessOut(Who),
    Crash(Who),
    /// The first on its way is lost, and the rest goes on.
    LoseForward(u8),
    LoseBackward(u8),
    /// One direction breaks with all that is in it; the other does not notice.
    CutForward(u8),
    CutBackward(u8),
    /// A checkpoint arrives damaged, or its damage is seen before its end.
    Damage(u8),
    DamageEarly(u8),
    /// Not even the framing can be read from here on.
    Garble(u8),
    /// The frames from this secondary to the primary are damaged from here on.
    GarbleBack(u8),
    /// What was just tried has not succeeded after all; a suspend after the guest has acknowledged it.
    PrimaryFails {
        after: bool,
    },
    /// The output buffer has failed at what it was just asked for.
    OutputFails(OutputCall),
    /// A third host starts a primary of the same domain, which reaches nobody.
    Stray,
    SiteFails(u8),
}

use Step::*;

impl World {
    /// All steps that are possible now. `faults`: those that an unkind world adds.
    pub fn steps(&self, rule: Rule, faults: bool, out: &mut Vec<Step>) {
        let p = &self.primary;
        if p.alive {
            if !p.todo.is_empty() {
                out.push(PrimaryActs);
            } else {
                if !p.events.is_empty() {
                    out.push(PrimaryEvent);
                }
                if let Some(site) = self.sites.last() {
                    if !site.link.backward.is_empty() {
                        out.push(PrimaryReads);
                    } else if site.link.backward_ended && !site.link.backward_seen {
                        out.push(PrimarySeesEnd);
                    }
                }
                self.primary_timers(faults, out);
                self.commands(faults, out);
            }
            if p.asking.is_some() {
                self.witness(Who::Primary, faults, out);
            }
            if faults && p.running && p.counter < self.left.steps {
                out.push(GuestSends);
            }
        }
        for at in 0..self.sites.len() {
            self.site_steps(at as u8, rule, faults, out);
        }
        if faults && self.left.faults > 0 {
            self.faults(out);
        }
    }

    fn primary_timers(&self, faults: bool, out: &mut Vec<Step>) {
        let p = &self.primary;
        for timer in World::armed(p.timers) {
            let may = match timer {
                Timer::Round => faults && p.machine.checkpoints().0 < self.left.checkpoints,
                // Elsewhere it would do nothing but set a timer again.
                Timer::Heartbeat => self.sites.last().is_some_and(|site| {
                    site.link.forward.is_empty()
                        && !site.link.forward_ended
                        && site.alive
                        && matches!(site.machine.phase(), secondary::Phase::Lost | secondary::Phase::Claiming)
                }),
                Timer::Peer => faults && self.left.timeouts,
                // Also without faults: what was lost before is not sent again.
                Timer::Answer => self.left.timeouts || !faults,
                Timer::Retry | Timer::Output => true,
            };
            if may {
                out.push(PrimaryTimer(timer));
            }
        }
    }

    fn commands(&self, faults: bool, out: &mut Vec<Step>) {
        let (phase, left) = (self.primary.machine.phase(), &self.left);
        if !faults {
            return;
        }
        if phase == primary::Phase::Alone && left.sessions > 0 {
            out.push(Protect);
        }
        if phase == primary::Phase::Protected && left.switch_overs > 0 {
            out.push(SwitchOver);
        }
        if phase == primary::Phase::Protected && left.unprotects > 0 {
            out.push(Unprotect);
        }
    }

    fn witness(&self, who: Who, faults: bool, out: &mut Vec<Step>) {
        out.push(WitnessServes(who));
        if faults && self.left.faults > 0 && self.left.unreachable > 0 {
            out.push(WitnessOut(who));
        }
    }

    fn site_steps(&self, at: u8, rule: Rule, faults: bool, out: &mut Vec<Step>) {
        let site = &self.sites[usize::from(at)];
        if !site.alive {
            return;
        }
        if site.asking.is_some() {
            self.witness(Who::Site(at), faults, out);
        }
        if site.fencing {
            out.push(FenceSucceeds(at));
            if faults && self.left.faults > 0 && self.left.fence_failures > 0 {
                out.push(FenceFails(at));
            }
        }
        if !site.todo.is_empty() {
            return out.push(SiteActs(at));
        }
        if !site.events.is_empty() {
            out.push(SiteEvent(at));
        }
        if !site.link.forward.is_empty() {
            out.push(SiteReads(at));
        } else if site.link.forward_ended && !matches!(site.machine.phase(), secondary::Phase::Ended(_)) {
            out.push(SiteSeesEnd(at));
        }
        let passive = matches!(site.machine.phase(), secondary::Phase::Passive | secondary::Phase::Lost);
        for timer in World::armed(site.timers) {
            let may = match timer {
                Timer::Heartbeat => {
                    site.link.backward.is_empty()
                        && !site.link.backward_ended
                        && usize::from(at) + 1 == self.sites.len()
                        && matches!(self.primary.machine.phase(), primary::Phase::Leaving { .. })
                }
                Timer::Peer => faults && self.left.timeouts,
                _ => true,
            };
            if may {
                out.push(SiteTimer(at, timer));
            }
        }
        // The operator says so of a primary that is dead and did not go on alone before; without a witness that is the
        // operator's part of the bargain.
        let dead = !self.primary.alive && !self.primary.went_alone;
        let may = if rule == Rule::Witness { faults && self.left.fail_overs > 0 } else { dead };
        let waits = site.machine.phase() == secondary::Phase::Lost || rule == Rule::Witness;
        if passive && may && waits && site.machine.newest().is_some() {
            out.push(SiteFailOver(at));
        }
        if faults && passive && self.left.stops > 0 {
            out.push(SiteStops(at));
        }
    }

    fn faults(&self, out: &mut Vec<Step>) {
        use primary::Event;
        let left = &self.left;
        if left.crashes > 0 && self.primary.alive {
            out.push(Crash(Who::Primary));
        }
        let tried = self.primary.events.front();
        if left.failures > 0
            && self.primary.todo.is_empty()
            && matches!(
                tried,
                Some(Event::Connected | Event::Common(shared::Event::GuestSuspended) | Event::StateCopied { .. })
            )
        {
            out.push(PrimaryFails { after: false });
            if matches!(tried, Some(Event::Common(shared::Event::GuestSuspended))) {
                out.push(PrimaryFails { after: true });
            }
        }
        if left.failures > 0 {
            let call = match self.primary.todo.front() {
                Some(primary::Action::Common(shared::Action::HoldOutput)) => Some(OutputCall::Hold),
                Some(primary::Action::ReleaseOutput { .. }) => Some(OutputCall::Release),
                Some(primary::Action::Common(shared::Action::FreeOutput)) => Some(OutputCall::Free),
                _ => None,
            };
            out.extend(call.map(OutputFails));
        }
        if left.strays > 0 {
            out.push(Stray);
        }
        for (at, site) in (0u8..).zip(&self.sites) {
            if left.crashes > 0 && site.alive {
                out.push(Crash(Who::Site(at)));
            }
            if left.losses > 0 {
                if !site.link.forward.is_empty() {
                    out.push(LoseForward(at));
                }
                if !site.link.backward.is_empty() {
                    out.push(LoseBackward(at));
                }
                if !site.link.forward_ended {
                    out.push(CutForward(at));
                }
                if !site.link.backward_ended {
                    out.push(CutBackward(at));
                }
            }
            if left.damages > 0 && site.alive && site.todo.is_empty() {
                if let Some(Forward::Checkpoint(_, snapshot)) = site.link.forward.front()
                    && !snapshot.damaged
                {
                    out.push(Damage(at));
                    out.push(DamageEarly(at));
                }
                if !site.link.forward_garbled && !site.link.forward_ended {
                    out.push(Garble(at));
                }
            }
            let applied = matches!(site.events.front(), Some(secondary::Event::Applied { .. }));
            if left.failures > 0 && site.todo.is_empty() && applied {
                out.push(SiteFails(at));
            }
            let current = usize::from(at) + 1 == self.sites.len();
            let open = !site.link.backward_garbled && !site.link.backward_ended;
            if left.damages > 0 && current && open && self.primary.alive && self.primary.todo.is_empty() {
                out.push(GarbleBack(at));
            }
        }
    }

    /// Does one step and looks whether all properties still hold.
    pub fn apply(&mut self, step: Step, setting: &Setting) -> Result<(), Flaw> {
        self.perform(step, setting)?;
        self.check(setting)
    }

    fn perform(&mut self, step: Step, setting: &Setting) -> Result<(), Flaw> {
        use primary::{Command, Event};
        use secondary::Event as At;
        match step {
            PrimaryActs => self.primary_step(setting)?,
            PrimaryEvent => {
                if let Some(event) = self.primary.events.pop_front() {
                    self.feed_primary(event, setting)?;
                }
            }
            PrimaryReads => {
                let message = self.sites.last_mut().and_then(|site| site.link.backward.pop_front());
                if let Some((session, frame)) = message {
                    self.feed_primary(Event::Frame { session, frame }, setting)?;
                }
            }
            PrimarySeesEnd => {
                if let Some(site) = self.sites.last_mut() {
                    site.link.backward_seen = true;
                }
                let session = self.primary.machine.session();
                self.feed_primary(Event::LinkLost { session }, setting)?;
            }
            PrimaryTimer(timer) => {
                self.primary.timers &= !(1 << timer as u8);
                let now = if timer == Timer::Peer { World::LATE } else { Time(0) };
                self.feed_primary_at(now, Event::Common(shared::Event::Timer(timer)), setting)?;
            }
            GuestSends => {
                let p = &mut self.primary;
                p.counter += 1;
                if p.free { self.seen = self.seen.max(p.counter) } else { p.nic.push((p.epoch, p.counter)) }
            }
            Protect => {
                let session = Session(1 + self.sites.len() as u64);
                self.left.sessions -= 1;
                self.command_primary(Command::Protect { session }, setting)?;
            }
            SwitchOver => {
                self.left.switch_overs -= 1;
                self.command_primary(Command::SwitchOver, setting)?;
            }
            Unprotect => {
                self.left.unprotects -= 1;
                self.command_primary(Command::Unprotect { force: false }, setting)?;
            }
            SiteActs(at) => self.site_step(at.into(), setting)?,
            SiteEvent(at) => {
                if let Some(event) = self.sites[usize::from(at)].events.pop_front() {
                    self.feed_site(at.into(), event, setting)?;
                }
            }
            SiteReads(at) => self.site_reads(at.into(), setting)?,
            SiteSeesEnd(at) => {
                // Once is enough: the flag stays up for the writer only.
                let link = &mut self.sites[usize::from(at)].link;
                link.forward_ended = false;
                link.forward_garbled = true;
                self.feed_site(at.into(), At::Common(common::Event::LinkLost), setting)?;
            }
            SiteTimer(at, timer) => {
                self.sites[usize::from(at)].timers &= !(1 << timer as u8);
                if timer == Timer::Peer {
                    self.silence(usize::from(at), setting)?;
                } else {
                    self.feed_site(at.into(), At::Common(common::Event::Timer(timer)), setting)?;
                }
            }
            SiteFailOver(at) => {
                self.left.fail_overs = self.left.fail_overs.saturating_sub(1);
                // Over a primary that is heard it takes the operator's force, and the witness' answer still.
                let force = self.sites[usize::from(at)].machine.phase() == secondary::Phase::Passive;
                self.command_site(at.into(), secondary::Command::FailOver { force }, setting)?;
            }
            SiteStops(at) => {
                self.left.stops -= 1;
                self.command_site(at.into(), secondary::Command::Stop, setting)?;
            }
            FenceSucceeds(at) => {
                self.crash(Who::Primary);
                self.sites[usize::from(at)].fencing = false;
                self.sites[usize::from(at)].events.push_back(At::Common(common::Event::Fenced { success: true }));
            }
            FenceFails(at) => {
                self.spend(|left| &mut left.fence_failures);
                self.sites[usize::from(at)].fencing = false;
                self.sites[usize::from(at)].events.push_back(At::Common(common::Event::Fenced { success: false }));
            }
            WitnessServes(who) => self.answer(who, None, setting.mutant),
            WitnessOut(who) => {
                self.spend(|left| &mut left.unreachable);
                self.answer(who, Some(Verdict::Unreachable), setting.mutant);
            }
            Crash(who) => {
                self.spend(|left| &mut left.crashes);
                self.crash(who);
            }
            LoseForward(at) => {
                self.spend(|left| &mut left.losses);
                self.sites[usize::from(at)].link.forward.pop_front();
            }
            LoseBackward(at) => {
                self.spend(|left| &mut left.losses);
                self.sites[usize::from(at)].link.backward.pop_front();
            }
            CutForward(at) => {
                self.spend(|left| &mut left.losses);
                let link = &mut self.sites[usize::from(at)].link;
                link.forward.clear();
                link.forward_ended = true;
            }
            CutBackward(at) => {
                self.spend(|left| &mut left.losses);
                let link = &mut self.sites[usize::from(at)].link;
                link.backward.clear();
                link.backward_ended = true;
            }
            Damage(at) => {
                self.spend(|left| &mut left.damages);
                self.spoil(at);
                self.site_reads(at.into(), setting)?;
            }
            DamageEarly(at) => {
                self.spend(|left| &mut left.damages);
                self.spoil(at);
                self.feed_site(at.into(), At::Damaged { reason: RefuseReason::Malformed }, setting)?;
            }
            Garble(at) => {
                self.spend(|left| &mut left.damages);
                let link = &mut self.sites[usize::from(at)].link;
                link.forward.clear();
                link.forward_garbled = true;
                self.feed_site(at.into(), At::Garbled, setting)?;
            }
            GarbleBack(at) => {
                self.spend(|left| &mut left.damages);
                let link = &mut self.sites[usize::from(at)].link;
                link.backward.clear();
                link.backward_garbled = true;
                self.feed_primary(Event::Garbled, setting)?;
            }
            PrimaryFails { after } => {
                self.spend(|left| &mut left.failures);
                self.fail_primary(after, setting)?;
            }
            OutputFails(call) => {
                self.spend(|left| &mut left.failures);
                self.primary.todo.pop_front();
                self.primary.events.push_back(Event::Common(shared::Event::OutputFailed(call)));
            }
            Stray => {
                self.spend(|left| &mut left.strays);
                self.stray(setting);
            }
            SiteFails(at) => {
                self.spend(|left| &mut left.failures);
                let site = &mut self.sites[usize::from(at)];
                if let Some(At::Applied { checkpoint }) = site.events.pop_front() {
                    site.applied = None;
                    self.feed_site(at.into(), At::ApplyFailed { checkpoint }, setting)?;
                }
            }
        }
        Ok(())
    }

    /// What the primary waits for fails, and leaves the guest and the stream as the driver would.
    fn fail_primary(&mut self, after: bool, setting: &Setting) -> Result<(), Flaw> {
        use primary::Event;
        let p = &mut self.primary;
        let failed = match p.events.pop_front() {
            Some(Event::Connected) => {
                if let Some(at) = self.sites.len().checked_sub(1) {
                    self.crash(Who::Site(at as u8));
                }
                Event::LinkLost { session: self.primary.machine.session() }
            }
            Some(Event::Common(shared::Event::GuestSuspended)) => {
                // Before the guest has acknowledged it, or after.
                let guest = if after { RunState::Suspended } else { RunState::Running };
                p.running = !after;
                Event::Common(shared::Event::SuspendFailed { guest })
            }
            Some(Event::StateCopied { checkpoint }) => {
                (p.copy, p.last_copied) = (None, None);
                Event::CopyFailed { checkpoint }
            }
            _ => return Ok(()),
        };
        self.feed_primary(failed, setting)
    }

    fn spend(&mut self, kind: impl Fn(&mut super::world::Bounds) -> &mut u8) {
        self.left.faults -= 1;
        *kind(&mut self.left) -= 1;
    }

    fn spoil(&mut self, at: u8) {
        if let Some(Forward::Checkpoint(_, snapshot)) = self.sites[usize::from(at)].link.forward.front_mut() {
            snapshot.damaged = true;
        }
    }

    fn site_reads(&mut self, at: usize, setting: &Setting) -> Result<(), Flaw> {
        use secondary::Event;
        let site = &mut self.sites[at];
        match site.link.forward.pop_front() {
            Some(Forward::Frame(session, frame)) => self.feed_site(at, Event::Frame { session, frame }, setting),
            Some(Forward::Checkpoint(session, snapshot)) => {
                let bad = snapshot.damaged && setting.mutant != Mutant::DamageUnseen;
                site.staged.push(snapshot);
                let verdict = if bad { Err(RefuseReason::Checksum) } else { Ok(()) };
                self.feed_site(at, Event::Checkpoint { session, number: snapshot.number, verdict }, setting)?;
                // Only what the machine still has a use for is kept.
                let site = &mut self.sites[at];
                if matches!(site.machine.phase(), secondary::Phase::Ended(_)) {
                    site.staged.clear();
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn answer(&mut self, who: Who, verdict: Option<Verdict>, mutant: Mutant) {
        let asking = match who {
            Who::Primary => self.primary.asking.take(),
            Who::Site(at) => self.sites[usize::from(at)].asking.take(),
            Who::Stray => None,
        };
        let Some(generation) = asking else { return };
        let verdict = verdict.unwrap_or_else(|| self.take(generation, who, mutant));
        let answer = Answer { generation, verdict };
        match who {
            Who::Primary => self.primary.events.push_back(primary::Event::Common(shared::Event::Witness(answer))),
            Who::Site(at) => {
                self.sites[usize::from(at)].events.push_back(secondary::Event::Common(common::Event::Witness(answer)))
            }
            Who::Stray => {}
        }
    }

    /// Properties 1 to 3 as they must hold in every state.
    fn check(&self, setting: &Setting) -> Result<(), Flaw> {
        let p = &self.primary;
        let rule = setting.config.rule;
        // What the primary takes for acknowledged is acknowledged, by the secondary of this session.
        if let (Some(site), taken @ 1..) = (self.sites.last(), p.machine.checkpoints().1)
            && p.machine.phase() == primary::Phase::Protected
            && site.acknowledged.is_none_or(|a| a.number < taken)
        {
            return Err(format!("P1: {taken} is taken for acknowledged, it is {:?}", site.acknowledged));
        }
        let mut active = 0;
        for (at, site) in (0u8..).zip(&self.sites) {
            if let Some(counter) = site.active {
                active += 1;
                let excused = rule == Rule::PrimaryWins && p.went_alone;
                if counter < self.seen && !excused {
                    return Err(format!("P1: site {at} goes on from {counter}, the outside has seen {}", self.seen));
                }
                continue;
            }
            // Whoever may be given the next generation must already explain all that is seen.
            let (newest, holder) = self.witness;
            let could = site.alive
                && rule == Rule::Witness
                && !matches!(site.machine.phase(), secondary::Phase::Ended(_))
                && (newest == site.machine.generation() || holder == Who::Site(at))
                && site.machine.newest().is_some();
            if could && site.applied.is_none_or(|applied| applied.counter < self.seen) {
                return Err(format!("P1: site {at} could go on from {:?}, seen is {}", site.applied, self.seen));
            }
        }
        if active + usize::from(p.alive && p.free) > 1 {
            return Err(format!("P3: {active} sites active, primary free: {}", p.free));
        }
        Ok(())
    }
}
