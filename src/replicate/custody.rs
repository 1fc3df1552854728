//! The driver of [`crate::claim::Denied`]: keeps a replica whose side was denied until the operator or the peer decides.

use super::held::Facts;
use super::operator::{self, Answer, Ask, Handle, Notices, Refused, millis_since};
use super::witness::{Alarm, Said, WitnessThread};
use crate::claim::Denied;
use crate::claim::denied::{Action, Command, Event, Fate, NotNow, Phase};
use crate::remus::{Generation, Level, Verdict};
use crate::replicate::status::Status;
use crate::replicate::status::{Guest, Kept, Output, Role};
use crate::witness::Witness;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What a custody needs to know.
pub struct Settings {
    /// The domain's name.
    pub domain: String,
    /// The rule in use, as a word.
    pub rule: &'static str,
    /// Who denied it, and may be asked again.
    pub witness: Option<Box<dyn Witness>>,
    /// Between two looks at the witness, a tenth of it.
    pub retry: Duration,
    /// The replica.
    pub facts: Facts,
    /// What of `xen-replicate ctl` comes before the command: `xen-replicate ctl web`.
    pub ctl: String,
}

enum Message {
    Ask(Ask),
    Witness(Said),
    Admit(Sender<Result<(), NotNow>>),
    Disconnected,
    Replaced,
}

/// A replica in custody: a thread that answers for it.
#[derive(Debug)]
pub struct Custody {
    post: Sender<Message>,
    thread: JoinHandle<Fate>,
}

impl Custody {
    /// Begins. `free` is called when the replica is to be freed, before whoever has decided that is told; `over` last of all, when it is
    /// decided what becomes of it.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(
        settings: Settings,
        free: impl FnOnce() + Send + 'static,
        over: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let (post, inbox) = channel();
        let said = post.clone();
        let (witness, described) = WitnessThread::start_any(settings.witness, settings.retry, move |answer| {
            // It may be over.
            let _ = said.send(Message::Witness(answer));
        })?;
        let Settings { domain, rule, facts, ctl, .. } = settings;
        let mut run = Run {
            machine: Denied::new(facts.newest),
            domain,
            rule,
            ctl,
            facts,
            witness,
            described,
            alarm: Alarm::default(),
            notices: Notices::default(),
            free: Some(Box::new(free)),
            asked: None,
            terminated: false,
        };
        run.tell();
        let thread = thread::Builder::new().name("custody".into()).spawn(move || {
            let fate = run.serve(&inbox);
            over();
            fate
        })?;
        Ok(Custody { post, thread })
    }

    /// The operator's way to it.
    pub fn handle(&self) -> Handle {
        let post = self.post.clone();
        Handle::new(move |ask| post.send(Message::Ask(ask)).is_ok())
    }

    /// Asks whether a primary may connect; one that is admitted is to be followed by [`Custody::disconnected`].
    ///
    /// # Errors
    /// It may not now: the operator has begun to decide.
    pub fn admit(&self) -> Result<(), NotNow> {
        let (answer, answered) = channel();
        if self.post.send(Message::Admit(answer)).is_err() {
            return Err(NotNow::Over);
        }
        answered.recv().unwrap_or(Err(NotNow::Over))
    }

    /// The connection that was admitted has ended.
    pub fn disconnected(&self) {
        // Where it is over nobody needs to know.
        let _ = self.post.send(Message::Disconnected);
    }

    /// What to call when a newer image is whole.
    pub fn replaced(&self) -> impl FnOnce() + Send + 'static {
        let post = self.post.clone();
        move || {
            // As above.
            let _ = post.send(Message::Replaced);
        }
    }

    /// Waits until it is decided what becomes of the replica.
    pub fn join(self) -> Fate {
        drop(self.post);
        self.thread.join().unwrap_or(Fate::Stopped)
    }
}

struct Run {
    machine: Denied,
    domain: String,
    rule: &'static str,
    ctl: String,
    facts: Facts,
    witness: Option<WitnessThread>,
    described: String,
    alarm: Alarm,
    notices: Notices,
    free: Option<Box<dyn FnOnce() + Send>>,
    /// Who has forced it waits for what the witness says.
    asked: Option<Sender<Result<Answer, Refused>>>,
    terminated: bool,
}

impl Run {
    fn serve(&mut self, inbox: &Receiver<Message>) -> Fate {
        loop {
            if let Phase::Over(fate) = self.machine.phase() {
                return fate;
            }
            // The handles that are about keep it open.
            let Ok(message) = inbox.recv() else { return Fate::Stopped };
            match message {
                Message::Ask(Ask::Command(command, answer)) => self.command(&command, answer),
                Message::Ask(Ask::Unmet) => {}
                Message::Ask(Ask::Terminate) => {
                    if std::mem::replace(&mut self.terminated, true) {
                        // What the witness may have given by now is nobody's.
                        self.carry_out(Some(Action::Free));
                        return Fate::Stopped;
                    }
                    let action = self.machine.handle(Event::Stop);
                    self.carry_out(action);
                }
                Message::Admit(answer) => {
                    // Who asks waits.
                    let _ = answer.send(self.machine.command(Command::Admit).map(drop));
                }
                Message::Disconnected => {
                    self.machine.handle(Event::Disconnected);
                }
                Message::Replaced => {
                    let action = self.machine.handle(Event::Replaced);
                    self.carry_out(action);
                }
                Message::Witness(said) => self.said(said),
            }
        }
    }

    fn said(&mut self, said: Said) {
        match said {
            Said::Looked(looked) => {
                let before = self.machine.newest();
                if let Ok(newest) = looked {
                    self.machine.handle(Event::Seen(newest));
                }
                if let Some((level, text)) = self.alarm.looked(looked.map(|_| Generation(0)), None) {
                    self.notices.add(&self.domain, level, text);
                }
                if before != self.machine.newest() {
                    self.tell();
                }
            }
            Said::Answer(answer) => {
                let (generation, verdict) = (answer.generation, answer.verdict);
                let action = self.machine.handle(Event::Answer { generation, verdict });
                let reply = match verdict {
                    Verdict::Granted => Ok(self.status().into()),
                    Verdict::Held { newest } => Err(Refused::Held { asked: generation, newest }),
                    Verdict::Unreachable => Err(Refused::Unreachable(generation)),
                };
                if let Err(refused) = &reply {
                    self.notices.add(&self.domain, Level::Critical, refused.to_string());
                }
                self.carry_out(action);
                if let Some(asked) = self.asked.take() {
                    // Who asked may be gone.
                    let _ = asked.send(reply);
                }
            }
            Said::Behind => {}
        }
    }

    fn command(&mut self, command: &operator::Command, answer: Sender<Result<Answer, Refused>>) {
        let command = match *command {
            operator::Command::Status => {
                // Who asked may be gone.
                let _ = answer.send(Ok(self.status().into()));
                return;
            }
            operator::Command::Drop => Command::Drop,
            operator::Command::FailOver { generation, .. } => Command::FailOver { force: generation },
            _ => {
                let _ = answer.send(Err(Refused::Denied));
                return;
            }
        };
        match self.machine.command(command) {
            Err(refused) => {
                let _ = answer.send(Err(Refused::Kept(refused)));
            }
            Ok(action @ Some(Action::Acquire { .. })) => {
                self.asked = Some(answer);
                self.carry_out(action);
            }
            Ok(action) => {
                self.carry_out(action);
                let _ = answer.send(Ok(Answer::Done));
            }
        }
    }

    fn carry_out(&mut self, action: Option<Action>) {
        match action {
            None => {}
            Some(Action::Acquire { generation }) => match &self.witness {
                Some(witness) => {
                    let text =
                        format!("going active on the operator's word that no other host runs the domain: {generation}");
                    self.notices.add(&self.domain, Level::Critical, text);
                    witness.ask(generation, self.facts.session);
                }
                None => log::error!("{}: there is no witness to ask", self.domain),
            },
            // By whoever has the replica.
            Some(Action::Activate { .. }) => {}
            Some(Action::Free) => {
                if let Some(free) = self.free.take() {
                    free();
                }
                let why = match self.machine.phase() {
                    Phase::Over(Fate::Replaced) => "a newer image is whole here: the replica kept before is freed",
                    Phase::Over(Fate::Dropped) => "dropped by the operator: the replica is freed",
                    _ => "told to end: the replica is freed",
                };
                self.notices.add(&self.domain, Level::Critical, why.to_owned());
            }
        }
    }

    /// In the log and in the status: what is kept, and what can be done.
    fn tell(&mut self) {
        let Kept { memory, checkpoint, drop, fail_over, .. } = self.kept();
        let text = format!(
            "DENIED: {} was acquired by somebody else. The replica at checkpoint {checkpoint} is kept, paused, in {} MiB, until it is \
             decided:\n  where another host runs the domain: {drop}\n  only if no other host runs it and none will: {fail_over}",
            self.machine.newest(),
            memory >> 20,
        );
        self.notices.add(&self.domain, Level::Critical, text);
    }

    fn kept(&self) -> Kept {
        let newest = self.machine.newest().0;
        Kept {
            since_ms: millis_since(self.facts.since),
            memory: self.facts.memory,
            checkpoint: self.facts.checkpoint,
            newest,
            drop: format!("{} drop", self.ctl),
            fail_over: format!("{} fail-over --force-generation {newest}", self.ctl),
        }
    }

    fn status(&self) -> Status {
        let phase = match self.machine.phase() {
            Phase::Kept => "denied",
            Phase::Acquiring => "claiming",
            Phase::Over(Fate::Activated(_)) => "activating",
            Phase::Over(_) => "ended",
        };
        let session = self.facts.session.0;
        Status {
            domain: self.domain.clone(),
            role: Role::Secondary,
            phase: phase.into(),
            guest: Guest::Stopped,
            peer: Some(self.facts.peer.clone()),
            rule: self.rule.into(),
            generation: self.machine.newest().0,
            session: if session == 0 { String::new() } else { format!("{session:016x}") },
            output: Output::Held,
            checkpoint: self.facts.checkpoint,
            acknowledged: self.facts.checkpoint,
            elapsed_ms: millis_since(self.facts.since),
            witness: self.described.clone(),
            alarm: self.alarm.text(),
            notices: self.notices.list(),
            kept: Some(self.kept()),
            ..Status::default()
        }
    }
}
