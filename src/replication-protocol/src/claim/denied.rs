//! A replica whose side was denied the next generation: kept, paused, until the operator or the peer decides.
//!
//! ```text
//!  Kept --fail-over by the newest number--> Acquiring --granted--> Over(Activated)
//!   |  ^                                        |
//!   |  +----------denied, unreachable-----------+
//!   +--drop, replaced, told to end--> Over(...)
//! ```
//!
//! Nothing is asked of the witness without the operator's word, and that word is the number of the newest generation: who types it has
//! seen which one is overridden. The peer decides by connecting again, and by an image that is whole; that it may is for the witness to
//! say, which gives the newest holder alone the next session's generation.

use super::{Generation, Verdict};

/// Where a replica that was denied is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It waits for a decision.
    Kept,
    /// The operator has forced it: the witness has been asked and has not answered.
    Acquiring,
    /// It is no replica any more.
    Over(Fate),
}

/// What has become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// The guest goes on here, by this generation.
    Activated(Generation),
    /// The operator has dropped it.
    Dropped,
    /// The newest holder is protected by this host again.
    Replaced,
    /// The process that keeps it was told to end.
    Stopped,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The newest generation that the witness has given.
    Seen(Generation),
    /// [`Action::Acquire`]: what the witness says.
    Answer {
        /// The number that was asked for.
        generation: Generation,
        /// What it says.
        verdict: Verdict,
    },
    /// The connection that was admitted has ended.
    Disconnected,
    /// A newer image is whole on this host.
    Replaced,
    /// This process was told to end.
    Stop,
}

/// What is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Free it.
    Drop,
    /// Acquire the next generation and start the guest.
    FailOver {
        /// The newest generation, typed by the operator: whoever holds it, the guest shall run here.
        force: Option<Generation>,
    },
    /// Let a primary connect.
    Admit,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Take this generation: [`Event::Answer`].
    Acquire {
        /// The one after the newest.
        generation: Generation,
    },
    /// Start the guest.
    Activate {
        /// By this generation.
        generation: Generation,
    },
    /// Free the replica.
    Free,
}

/// Why a command is not obeyed. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NotNow {
    /// No number was typed.
    #[error(
        "this side was denied the next generation: {newest} is somebody else's, who may run the domain. Only if no other host \
         runs it and none will: fail-over --force-generation {}", newest.0
    )]
    Number {
        /// The newest generation.
        newest: Generation,
    },
    /// Another number was typed.
    #[error("--force-generation {} is not the newest's number, {}", typed.0, newest.0)]
    Wrong {
        /// What was typed.
        typed: Generation,
        /// The newest generation.
        newest: Generation,
    },
    /// A primary is connected.
    #[error(
        "a primary is connected and about to be protected by this host again: the replica is kept until its image is whole"
    )]
    Connected,
    /// The witness has not answered yet.
    #[error("the witness is being asked for the next generation")]
    Acquiring,
    /// It is no replica any more.
    #[error("the replica is gone")]
    Over,
}

/// The machine. Equal machines behave the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Denied {
    newest: Generation,
    phase: Phase,
    connected: bool,
    /// Told to end while the witness was asked.
    stop: bool,
}

impl Denied {
    /// A replica whose side was denied the next generation, `newest` being the newest given.
    pub const fn new(newest: Generation) -> Self {
        Denied { newest, phase: Phase::Kept, connected: false, stop: false }
    }

    /// Where it is.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The newest generation that is known to be given: the number that an operator forces by.
    pub const fn newest(&self) -> Generation {
        self.newest
    }

    /// Takes an event, and gives what is to be done, if anything is.
    pub fn handle(&mut self, event: Event) -> Option<Action> {
        match (event, self.phase) {
            (_, Phase::Over(_)) => None,
            (Event::Seen(newest), _) => {
                self.newest = self.newest.max(newest);
                None
            }
            (Event::Answer { generation, verdict }, Phase::Acquiring) => self.answered(generation, verdict),
            // Of nothing that was asked for.
            (Event::Answer { .. }, Phase::Kept) => None,
            (Event::Disconnected, _) => {
                self.connected = false;
                None
            }
            (Event::Replaced, _) => Some(self.free(Fate::Replaced)),
            (Event::Stop, Phase::Kept) => Some(self.free(Fate::Stopped)),
            (Event::Stop, Phase::Acquiring) => {
                self.stop = true;
                None
            }
        }
    }

    fn answered(&mut self, generation: Generation, verdict: Verdict) -> Option<Action> {
        match verdict {
            Verdict::Granted => {
                self.newest = generation;
                self.phase = Phase::Over(Fate::Activated(generation));
                return Some(Action::Activate { generation });
            }
            Verdict::Held { newest } => self.newest = self.newest.max(newest),
            Verdict::Unreachable => {}
        }
        self.phase = Phase::Kept;
        self.stop.then(|| self.free(Fate::Stopped))
    }

    /// Obeys, or says why not.
    ///
    /// # Errors
    /// [`NotNow`]: nothing has changed.
    pub fn command(&mut self, command: Command) -> Result<Option<Action>, NotNow> {
        match (self.phase, command) {
            (Phase::Over(_), _) => Err(NotNow::Over),
            (Phase::Acquiring, _) => Err(NotNow::Acquiring),
            (Phase::Kept, Command::Drop) => Ok(Some(self.free(Fate::Dropped))),
            (Phase::Kept, Command::Admit) => {
                self.connected = true;
                Ok(None)
            }
            (Phase::Kept, Command::FailOver { .. }) if self.connected => Err(NotNow::Connected),
            (Phase::Kept, Command::FailOver { force: None }) => Err(NotNow::Number { newest: self.newest }),
            (Phase::Kept, Command::FailOver { force: Some(typed) }) if typed != self.newest => {
                Err(NotNow::Wrong { typed, newest: self.newest })
            }
            (Phase::Kept, Command::FailOver { force: Some(newest) }) => {
                self.phase = Phase::Acquiring;
                Ok(Some(Action::Acquire { generation: newest.next() }))
            }
        }
    }

    const fn free(&mut self, fate: Fate) -> Action {
        self.phase = Phase::Over(fate);
        Action::Free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWEST: Generation = Generation(7);

    fn forced() -> Denied {
        let mut denied = Denied::new(NEWEST);
        let action = denied.command(Command::FailOver { force: Some(NEWEST) });
        assert_eq!(action, Ok(Some(Action::Acquire { generation: Generation(8) })));
        denied
    }

    #[test]
    fn only_the_newest_number_forces_and_the_witness_has_the_last_word() {
        let mut denied = Denied::new(NEWEST);
        for (force, refused) in [
            (None, NotNow::Number { newest: NEWEST }),
            (Some(Generation(6)), NotNow::Wrong { typed: Generation(6), newest: NEWEST }),
            (Some(Generation(8)), NotNow::Wrong { typed: Generation(8), newest: NEWEST }),
        ] {
            assert_eq!(denied.command(Command::FailOver { force }), Err(refused));
        }
        let answer = |verdict| Event::Answer { generation: Generation(8), verdict };
        let mut denied = forced();
        assert_eq!(denied.command(Command::Drop), Err(NotNow::Acquiring));
        assert_eq!(denied.handle(answer(Verdict::Held { newest: Generation(9) })), None);
        assert_eq!((denied.phase(), denied.newest()), (Phase::Kept, Generation(9)));
        let mut denied = forced();
        assert_eq!(denied.handle(answer(Verdict::Unreachable)), None);
        assert_eq!((denied.phase(), denied.newest()), (Phase::Kept, NEWEST));
        let mut denied = forced();
        let active = Action::Activate { generation: Generation(8) };
        assert_eq!(denied.handle(answer(Verdict::Granted)), Some(active));
        assert_eq!(denied.phase(), Phase::Over(Fate::Activated(Generation(8))));
        assert_eq!(denied.handle(Event::Replaced), None);
    }

    #[test]
    fn a_connected_primary_is_no_reason_to_free_it_and_a_whole_image_is() {
        let mut denied = Denied::new(NEWEST);
        assert_eq!(denied.command(Command::Admit), Ok(None));
        assert_eq!(denied.command(Command::FailOver { force: Some(NEWEST) }), Err(NotNow::Connected));
        assert_eq!(denied.handle(Event::Disconnected), None);
        assert_eq!(denied.phase(), Phase::Kept);
        assert_eq!(denied.handle(Event::Replaced), Some(Action::Free));
        assert_eq!(denied.command(Command::Drop), Err(NotNow::Over));
        let mut denied = forced();
        assert_eq!(denied.command(Command::Admit), Err(NotNow::Acquiring));
    }

    #[test]
    fn told_to_end_it_frees_the_replica_but_not_under_a_question() {
        assert_eq!(Denied::new(NEWEST).handle(Event::Stop), Some(Action::Free));
        for (verdict, then) in
            [(Verdict::Unreachable, Action::Free), (Verdict::Granted, Action::Activate { generation: Generation(8) })]
        {
            let mut denied = forced();
            assert_eq!(denied.handle(Event::Stop), None);
            assert_eq!(denied.handle(Event::Answer { generation: Generation(8), verdict }), Some(then));
        }
    }
}
