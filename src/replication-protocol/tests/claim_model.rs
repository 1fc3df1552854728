//! Explores the machine of a start (`claim::Start`) on three hosts, before, during and after a failover between two of them, in every
//! order of steps: processes that are killed between any two of theirs, a witness out of reach, an operator's number. What a primary and
//! a secondary do in their session is cut down to what they ask of the witness; `tests/remus_model.rs` explores that in full.

#[path = "common/explorer.rs"]
mod explorer;

use explorer::{Flaw, Model, explore};
use replication_protocol::claim::denied::{self, Command, Phase};
use replication_protocol::claim::{
    Action, Decision, Denied, Event, Facts, Generation, Host, Named, Newest, Process, Record, Start, Verdict,
};

/// The hosts: of the primary, of the secondary, and a third that has the domain too.
const HOSTS: [usize; 3] = [0, 1, 2];
const MOST: usize = 6_000_000;

/// A request to the witness by one side of the session, for the generation after the session's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Ask {
    Not,
    /// On its way.
    Sent,
    /// The answer is on its way.
    Answered(bool),
    Granted,
    Denied,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Starting {
    machine: Start,
    action: Action,
    /// The witness has decided, and it has not been heard.
    answer: Option<Verdict>,
}

/// The secondary's replica.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Replica {
    /// A session's.
    InSession,
    /// Its side was denied: kept.
    Kept {
        machine: Denied,
        /// This is to be acquired.
        asking: Option<u64>,
        /// The witness has decided, and it has not been heard.
        answer: Option<(u64, Verdict)>,
    },
    /// The guest goes on from it.
    Active,
    /// Freed by the operator's word, or for a newer image.
    FreedByWord,
    /// Freed by nobody's.
    Freed,
}

/// A session in which the host that holds the newest generation comes back to be protected by the secondary's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Back {
    host: usize,
    /// It has acquired this generation; its image is on its way.
    acquired: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    replica: Replica,
    back: Option<Back>,
    returns: u8,
    drops: u8,
    /// The host that holds each generation, from 1.
    given: Vec<usize>,
    asks: [Ask; 2],
    /// The processes of the session live.
    alive: [bool; 2],
    starts: [Option<Starting>; 3],
    /// A start has come to its end and its process goes on.
    running: [bool; 3],
    /// What the domain of a host sends leaves as it is sent, by the generation that was acquired for that.
    free: [Option<u64>; 3],
    begun: u8,
    kills: u8,
    outages: u8,
    forces: u8,
    /// An operator has typed a number, and what that stands for may not be so.
    forced: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Ask(usize),
    Serve(usize),
    Hear(usize),
    Kill(usize),
    Begin(usize, Option<u64>),
    Look(usize),
    LookInVain(usize),
    Take(usize),
    TakeInVain(usize),
    HearStart(usize),
    Decide(usize),
    KillStart(usize),
    /// The side that was denied looks at the witness.
    See,
    Force(u64),
    Drop,
    ServeForced,
    ServeForcedInVain,
    HearForced,
    Return(usize),
    ReturnAcquires,
    ReturnEnds,
    ImageWhole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    None,
    /// Lets out what is held, and looks afterwards.
    AdoptsUnasked,
    /// Takes its own record for leave enough, and acquires nothing.
    RunsUnacquired,
    /// Acquires newest and next, whoever has the newest.
    LooksAtTheNumberOnly,
    /// Frees a replica that is denied.
    FreesDenied,
    /// Goes on from one on the operator's word, and acquires nothing.
    ForcesUnacquired,
}

struct Setting {
    starts: u8,
    kills: u8,
    outages: u8,
    forces: u8,
    /// How often a holder comes back to a replica that was denied.
    returns: u8,
    /// How often the operator drops one.
    drops: u8,
    mutant: Mutant,
}

fn host(id: usize) -> Host {
    Host { id: id.to_string(), name: id.to_string() }
}

impl World {
    /// A session of the first two hosts, in generation 1.
    fn new(setting: &Setting) -> Self {
        World {
            replica: Replica::InSession,
            back: None,
            returns: setting.returns,
            drops: setting.drops,
            given: vec![0],
            asks: [Ask::Not; 2],
            alive: [true; 2],
            starts: [None, None, None],
            running: [false; 3],
            free: [None; 3],
            begun: setting.starts,
            kills: setting.kills,
            outages: setting.outages,
            forces: setting.forces,
            forced: false,
        }
    }

    fn newest(&self) -> u64 {
        self.given.len() as u64
    }

    /// There is a domain: the secondary's host has one once that has taken over.
    fn has_domain(&self, host: usize) -> bool {
        host != 1 || self.asks[1] == Ask::Granted || self.replica == Replica::Active
    }

    fn take(&mut self, generation: u64, host: usize) -> Verdict {
        if generation == self.newest() + 1 {
            self.given.push(host);
            Verdict::Granted
        } else {
            Verdict::Held { newest: Generation(self.newest()) }
        }
    }

    /// A process of that host is in charge of its domain.
    fn in_charge(&self, host: usize) -> bool {
        self.running[host] || (host < 2 && self.alive[host])
    }

    fn record(&self) -> Newest {
        let holder = self.given[self.given.len() - 1];
        let record = Record {
            domain: "web".into(),
            generation: self.newest(),
            holder: format!("{holder}/1/0"),
            taken: 0,
            host: Some(host(holder)),
            process: Some(Process { boot: String::new(), pid: 1, started: 1 }),
            uuid: Some("u".into()),
            session: None,
        };
        let alive = self.in_charge(holder);
        Newest { generation: Generation(self.newest()), named: Named::Holder { record: Box::new(record), alive } }
    }

    fn set_free(&mut self, host: usize, generation: u64) -> Result<(), Flaw> {
        self.free[host] = Some(generation);
        let free: Vec<u64> = self.free.iter().copied().flatten().collect();
        if free.len() > 1 && !self.forced {
            return Err(format!("P3: two active: {:?}", self.free));
        }
        // Whatever the operator says, each is active by a generation of its own.
        if free.iter().any(|one| free.iter().filter(|other| *other == one).count() > 1) {
            return Err(format!("P3: two active in one generation: {:?}", self.free));
        }
        Ok(())
    }
}

impl Model for World {
    type Step = Step;
    type Setting = Setting;

    fn steps(&self, _: &Setting, faults: bool, out: &mut Vec<Step>) {
        for side in 0..2 {
            match self.asks[side] {
                // A time-out may come at any moment, or never.
                Ask::Not if self.alive[side] && faults => out.push(Step::Ask(side)),
                Ask::Sent => out.push(Step::Serve(side)),
                Ask::Answered(_) if self.alive[side] => out.push(Step::Hear(side)),
                _ => {}
            }
            if self.alive[side] && self.kills > 0 && faults {
                // What it keeps goes with it.
                out.push(Step::Kill(side));
            }
        }
        self.denied_steps(faults, out);
        for host in HOSTS {
            match &self.starts[host] {
                None => {
                    if faults && self.begun > 0 && self.has_domain(host) && !self.running[host] {
                        out.push(Step::Begin(host, None));
                        if self.forces > 0 {
                            // The newest number, and one that was the newest.
                            out.push(Step::Begin(host, Some(self.newest())));
                            out.push(Step::Begin(host, Some(1)));
                        }
                    }
                }
                Some(start) => {
                    let outage = faults && self.outages > 0;
                    match (&start.action, start.answer) {
                        (_, Some(_)) => out.push(Step::HearStart(host)),
                        (Action::Look, None) => {
                            out.push(Step::Look(host));
                            if outage {
                                out.push(Step::LookInVain(host));
                            }
                        }
                        (Action::Acquire { .. }, None) => {
                            out.push(Step::Take(host));
                            if outage {
                                out.push(Step::TakeInVain(host));
                            }
                        }
                        (Action::Decided(_), None) => out.push(Step::Decide(host)),
                    }
                    if self.kills > 0 && faults {
                        out.push(Step::KillStart(host));
                    }
                }
            }
        }
    }

    fn apply(&mut self, step: Step, setting: &Setting) -> Result<(), Flaw> {
        match step {
            Step::Ask(side) => self.asks[side] = Ask::Sent,
            Step::Serve(side) => {
                let granted = self.take(2, side) == Verdict::Granted;
                self.asks[side] = Ask::Answered(granted);
            }
            Step::Hear(side) => match self.asks[side] {
                Ask::Answered(true) => {
                    self.asks[side] = Ask::Granted;
                    return self.set_free(side, 2);
                }
                _ => {
                    self.asks[side] = Ask::Denied;
                    if side == 1 {
                        let machine = Denied::new(Generation(self.newest()));
                        self.replica = match setting.mutant {
                            Mutant::FreesDenied => Replica::Freed,
                            _ => Replica::Kept { machine, asking: None, answer: None },
                        };
                    }
                }
            },
            Step::Kill(side) => {
                self.kills -= 1;
                self.alive[side] = false;
                if side == 1 && !matches!(self.replica, Replica::Active) {
                    (self.replica, self.back) = (Replica::FreedByWord, None);
                }
                if self.back.is_some_and(|back| back.host == side) {
                    self.back_ends();
                }
            }
            Step::Begin(host_, force) => {
                self.begun -= 1;
                if force.is_some() {
                    self.forces -= 1;
                    self.forced = true;
                }
                let facts = Facts {
                    host: host(host_),
                    uuid: "u".into(),
                    output_left: host_ == 0 && self.free[0].is_none(),
                    witness: true,
                    force: force.map(Generation),
                };
                if setting.mutant == Mutant::AdoptsUnasked && facts.output_left {
                    self.set_free(host_, self.newest() + 1)?;
                }
                let (machine, action) = Start::new(facts);
                self.starts[host_] = Some(Starting { machine, action, answer: None });
            }
            Step::Look(host) => {
                let mut newest = self.record();
                if setting.mutant == Mutant::LooksAtTheNumberOnly
                    && let Named::Holder { record, alive } = &mut newest.named
                {
                    (record.host, *alive) = (Some(self::host(host)), false);
                }
                self.tell(host, Event::Newest(Some(newest)));
            }
            Step::LookInVain(host) => {
                self.outages -= 1;
                self.tell(host, Event::Unreachable);
            }
            Step::Take(host) => {
                let Some(Starting { action: Action::Acquire { generation }, .. }) = self.starts[host] else {
                    return Err("nothing is to be acquired".into());
                };
                let verdict = match setting.mutant {
                    Mutant::RunsUnacquired => Verdict::Granted,
                    _ => self.take(generation.0, host),
                };
                if let Some(start) = &mut self.starts[host] {
                    start.answer = Some(verdict);
                }
            }
            Step::TakeInVain(host) => {
                self.outages -= 1;
                self.tell(host, Event::Answer(Verdict::Unreachable));
            }
            Step::HearStart(host) => {
                let answer = self.starts[host].as_mut().and_then(|start| start.answer.take());
                if let Some(verdict) = answer {
                    self.tell(host, Event::Answer(verdict));
                }
            }
            Step::Decide(host) => {
                let Some(Starting { action: Action::Decided(decision), .. }) = self.starts[host].take() else {
                    return Err("nothing is decided".into());
                };
                if let Decision::Runs { generation, .. } = decision {
                    self.running[host] = true;
                    return self.set_free(host, generation.0);
                }
            }
            Step::KillStart(host) => {
                self.kills -= 1;
                self.starts[host] = None;
            }
            step => return self.decide(step, setting),
        }
        Ok(())
    }

    fn rank(_: Step) -> u8 {
        0
    }

    fn at_rest(&self, setting: &Setting) -> Result<(), Flaw> {
        if self.starts.iter().any(Option::is_some) {
            return Err("liveness: a start has not ended".into());
        }
        let anybody = HOSTS.iter().any(|&host| self.free[host].is_some() && self.in_charge(host));
        match &self.replica {
            Replica::Freed if !anybody => {
                Err("lost: nobody is active, and the replica was freed by nobody's word".into())
            }
            // Whoever holds the newest, the operator can still have the guest go on here.
            Replica::Kept { .. } => self.can_be_forced(setting),
            _ => Ok(()),
        }
    }
}

impl World {
    /// What can become of a replica whose side was denied.
    fn denied_steps(&self, faults: bool, out: &mut Vec<Step>) {
        let Replica::Kept { machine, asking, answer } = &self.replica else { return };
        if !self.alive[1] {
            return;
        }
        if answer.is_some() {
            out.push(Step::HearForced);
        } else if asking.is_some() {
            out.push(Step::ServeForced);
            if faults && self.outages > 0 {
                out.push(Step::ServeForcedInVain);
            }
        }
        if let Some(back) = self.back {
            match back.acquired {
                None => out.push(Step::ReturnAcquires),
                Some(_) => out.push(Step::ImageWhole),
            }
            out.push(Step::ReturnEnds);
        }
        if !faults {
            return;
        }
        if machine.newest().0 < self.newest() {
            out.push(Step::See);
        }
        if machine.phase() == Phase::Kept {
            if self.forces > 0 {
                // The newest number, as far as this side knows, and one that was the newest.
                out.push(Step::Force(machine.newest().0));
                if machine.newest().0 > 1 {
                    out.push(Step::Force(1));
                }
            }
            if self.drops > 0 {
                out.push(Step::Drop);
            }
            if self.returns > 0 && self.back.is_none() {
                // One that is active, in the session's process or in one that was started since; it asks for the number after its own.
                let may = |&host: &usize| host != 1 && self.free[host].is_some() && self.in_charge(host);
                out.extend(HOSTS.into_iter().filter(may).map(Step::Return));
            }
        }
    }

    fn decide(&mut self, step: Step, setting: &Setting) -> Result<(), Flaw> {
        let newest = self.newest();
        let Replica::Kept { machine, asking, answer } = &mut self.replica else {
            return Err("there is no replica to decide on".into());
        };
        match step {
            Step::See => {
                machine.handle(denied::Event::Seen(Generation(newest)));
            }
            Step::Force(number) => {
                self.forces -= 1;
                let typed = Generation(number);
                match machine.command(Command::FailOver { force: Some(typed) }) {
                    Ok(Some(denied::Action::Acquire { generation })) if typed.next() == generation => {
                        *asking = Some(generation.0);
                        self.forced = true;
                    }
                    Ok(action) => return Err(format!("forced by {number}: {action:?}")),
                    Err(_) => {}
                }
            }
            Step::Drop => {
                self.drops -= 1;
                if machine.command(Command::Drop) == Ok(Some(denied::Action::Free)) {
                    self.replica = Replica::FreedByWord;
                    self.back = None;
                }
            }
            Step::ServeForced | Step::ServeForcedInVain => {
                let Some(generation) = asking.take() else { return Err("nothing is asked for".into()) };
                let verdict = match (step, setting.mutant) {
                    (Step::ServeForcedInVain, _) => {
                        self.outages -= 1;
                        Verdict::Unreachable
                    }
                    (_, Mutant::ForcesUnacquired) => Verdict::Granted,
                    _ => self.take(generation, 1),
                };
                if let Replica::Kept { answer, .. } = &mut self.replica {
                    *answer = Some((generation, verdict));
                }
            }
            Step::HearForced => {
                let Some((generation, verdict)) = answer.take() else { return Err("nothing was answered".into()) };
                let event = denied::Event::Answer { generation: Generation(generation), verdict };
                if let Some(denied::Action::Activate { generation }) = machine.handle(event) {
                    self.replica = Replica::Active;
                    return self.set_free(1, generation.0);
                }
            }
            Step::Return(host) => {
                self.returns -= 1;
                if machine.command(Command::Admit).is_ok() {
                    self.back = Some(Back { host, acquired: None });
                }
            }
            Step::ReturnAcquires => {
                let Some(back) = self.back else { return Err("nobody has come back".into()) };
                let generation = self.free[back.host].unwrap_or_default() + 1;
                match self.take(generation, back.host) {
                    Verdict::Granted => {
                        self.back = Some(Back { acquired: Some(generation), ..back });
                        return self.set_free(back.host, generation);
                    }
                    // It ends, and its guest stands still.
                    _ => {
                        self.free[back.host] = None;
                        self.back_ends();
                    }
                }
            }
            Step::ReturnEnds => self.back_ends(),
            Step::ImageWhole => {
                let holder = self.given[self.given.len() - 1];
                if self.back.is_none_or(|back| back.host != holder && !self.forced) {
                    return Err(format!("P2: replaced by {:?}, the newest is host {holder}'s", self.back));
                }
                if machine.handle(denied::Event::Replaced) == Some(denied::Action::Free) {
                    self.replica = Replica::FreedByWord;
                }
                self.back = None;
            }
            step => return Err(format!("{step:?}")),
        }
        Ok(())
    }

    fn back_ends(&mut self) {
        self.back = None;
        if let Replica::Kept { machine, .. } = &mut self.replica {
            machine.handle(denied::Event::Disconnected);
        }
    }

    /// The operator looks, types the number, and nobody is in the way.
    fn can_be_forced(&self, setting: &Setting) -> Result<(), Flaw> {
        let mut then = self.clone();
        (then.forces, then.forced) = (1, true);
        then.decide(Step::See, setting)?;
        for step in [Step::Force(then.newest()), Step::ServeForced, Step::HearForced] {
            then.decide(step, setting)?;
        }
        if then.replica == Replica::Active { Ok(()) } else { Err(format!("lost: it cannot be forced: {then:?}")) }
    }

    fn tell(&mut self, host: usize, event: Event) {
        if let Some(start) = &mut self.starts[host] {
            start.action = start.machine.handle(event);
        }
    }
}

const SETTING: Setting =
    Setting { starts: 3, kills: 2, outages: 1, forces: 0, returns: 0, drops: 0, mutant: Mutant::None };

/// A replica that is denied, and whatever may come of it.
const DENIED: Setting =
    Setting { starts: 2, kills: 2, outages: 1, forces: 2, returns: 1, drops: 1, mutant: Mutant::None };

fn holds(name: &str, setting: &Setting, least: usize) {
    let (mut restarted, mut taken_over, mut kept, mut forced) = (0usize, 0usize, 0usize, 0usize);
    let visit = |world: &World| {
        restarted += usize::from(world.running[0] && world.free[0].is_some());
        taken_over += usize::from(world.free[1].is_some());
        kept += usize::from(matches!(world.replica, Replica::Kept { .. }));
        forced += usize::from(world.replica == Replica::Active);
    };
    match explore(World::new(setting), setting, MOST, visit, |_| Ok(())) {
        Ok(extent) => {
            let (states, transitions) = (extent.states, extent.transitions);
            println!(
                "{name}: {states} states, {transitions} transitions; {restarted} with the primary's host started again, \
                 {taken_over} with the secondary's active, {forced} of them forced after a denial; {kept} with a denied replica kept"
            );
            assert!(
                states >= least && restarted > 0 && taken_over > 0,
                "{name}: {states} states; the model has shrunk"
            );
        }
        Err(found) => panic!("{name}: {}\n{:#?}\n{:#?}", found.flaw, found.world, found.trace),
    }
}

#[test]
fn no_start_makes_a_second_active_copy_whatever_came_before_it() {
    holds("starts", &SETTING, 1000);
}

#[test]
fn an_operators_number_makes_no_two_active_in_one_generation() {
    holds("starts, forced", &Setting { forces: 2, outages: 0, kills: 1, ..SETTING }, 1000);
}

#[test]
fn a_denied_replica_is_kept_and_goes_on_by_the_newest_number_alone() {
    holds("denied, forced, dropped, replaced", &DENIED, 1000);
}

#[test]
fn broken_denials_are_caught() {
    for (mutant, flaw) in [(Mutant::FreesDenied, "lost"), (Mutant::ForcesUnacquired, "P3")] {
        let setting = Setting { mutant, ..DENIED };
        match explore(World::new(&setting), &setting, MOST, |_| (), |_| Ok(())) {
            Ok(extent) => panic!("{mutant:?} is not caught in {} states", extent.states),
            Err(found) => {
                println!("{mutant:?}: {} after {} steps", found.flaw, found.trace.len());
                assert!(found.flaw.starts_with(flaw), "{mutant:?}: {}", found.flaw);
            }
        }
    }
}

#[test]
fn broken_starts_are_caught() {
    for mutant in [Mutant::AdoptsUnasked, Mutant::RunsUnacquired, Mutant::LooksAtTheNumberOnly] {
        let setting = Setting { mutant, ..SETTING };
        match explore(World::new(&setting), &setting, MOST, |_| (), |_| Ok(())) {
            Ok(extent) => panic!("{mutant:?} is not caught in {} states", extent.states),
            Err(found) => {
                println!("{mutant:?}: {} after {} steps", found.flaw, found.trace.len());
                assert!(found.flaw.starts_with("P3"), "{mutant:?}: {}", found.flaw);
            }
        }
    }
}
