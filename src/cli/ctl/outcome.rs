//! What has become of a command that takes time, as far as statuses tell.

use crate::control::status::{Role, Status};

/// A command whose outcome is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    SwitchOver,
    Protect,
    Unprotect,
    FailOver,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Not decided.
    Open,
    /// As asked.
    Done,
    /// Not as asked, and that will not change by itself.
    Failed,
}

/// Judges the statuses that follow a command. The first ones may be older than its effect.
#[derive(Debug)]
pub(super) struct Judge {
    command: Command,
    /// The session before the command.
    session: String,
    /// The command has been seen at work.
    begun: bool,
}

impl Judge {
    /// `before` is the status before the command was given.
    pub fn new(command: Command, before: &Status) -> Self {
        Judge { command, session: before.session.clone(), begun: false }
    }

    pub fn judge(&mut self, status: &Status) -> Outcome {
        let phase = status.phase.as_str();
        match self.command {
            Command::SwitchOver => {
                let back = matches!(phase, "protected") && self.begun;
                self.begun |= matches!(phase, "delegated" | "leaving");
                outcome(phase == "switched-over", back || matches!(phase, "alone" | "fenced"))
            }
            Command::Protect => {
                // Each try has a session of its own, and tells so even if it is over before the next status.
                self.begun |= phase != "alone" || status.session != self.session;
                outcome(status.protected, self.begun && matches!(phase, "alone" | "fenced" | "switched-over"))
            }
            Command::Unprotect => {
                let back = matches!(phase, "protected") && self.begun;
                self.begun |= phase == "leaving";
                outcome(phase == "alone", back || matches!(phase, "fenced" | "switched-over"))
            }
            // A witness out of reach, or a fencing command that fails, is tried again.
            Command::FailOver => outcome(status.role == Role::Primary || phase == "active", phase == "ended"),
        }
    }
}

fn outcome(done: bool, failed: bool) -> Outcome {
    match (done, failed) {
        (true, _) => Outcome::Done,
        (false, true) => Outcome::Failed,
        (false, false) => Outcome::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: &str) -> Status {
        let secondary = ["passive", "lost", "fencing", "activating", "active", "ended"].contains(&phase);
        let role = if secondary { Role::Secondary } else { Role::Primary };
        Status { phase: phase.into(), protected: phase == "protected", role, ..Status::default() }
    }

    /// What the phases after the first one come to, and at which of them.
    fn judged(command: Command, phases: &[&str]) -> (Outcome, usize) {
        let mut judge = Judge::new(command, &status(phases[0]));
        for (index, phase) in phases.iter().enumerate().skip(1) {
            let outcome = judge.judge(&status(phase));
            if outcome != Outcome::Open {
                return (outcome, index);
            }
        }
        (Outcome::Open, phases.len())
    }

    #[test]
    fn switch_over() {
        let judged = |phases: &[&str]| judged(Command::SwitchOver, phases);
        assert_eq!(judged(&["protected", "protected", "delegated", "switched-over"]), (Outcome::Done, 3));
        assert_eq!(judged(&["protected", "switched-over"]), (Outcome::Done, 1));
        assert_eq!(judged(&["protected", "delegated", "leaving", "delegated"]), (Outcome::Open, 4));
        for end in ["alone", "fenced"] {
            assert_eq!(judged(&["protected", "protected", "delegated", end]), (Outcome::Failed, 3));
        }
        assert_eq!(judged(&["protected", "leaving", "protected"]), (Outcome::Failed, 2));
        assert_eq!(judged(&["protected", "protected", "protected"]), (Outcome::Open, 3));
    }

    #[test]
    fn protect() {
        let judged = |phases: &[&str]| judged(Command::Protect, phases);
        let way = ["alone", "alone", "claiming", "connecting", "greeting", "protected"];
        assert_eq!(judged(&way), (Outcome::Done, 5));
        assert_eq!(judged(&["alone", "alone", "connecting", "alone"]), (Outcome::Failed, 3));
        assert_eq!(judged(&["alone", "alone", "alone"]), (Outcome::Open, 3));
        // In the phase, but without a first checkpoint.
        let mut greeted = status("protected");
        greeted.protected = false;
        assert_eq!(Judge::new(Command::Protect, &status("alone")).judge(&greeted), Outcome::Open);
        // Over between two statuses.
        let tried = Status { session: "01".into(), ..status("alone") };
        assert_eq!(Judge::new(Command::Protect, &status("alone")).judge(&tried), Outcome::Failed);
    }

    #[test]
    fn unprotect() {
        let judged = |phases: &[&str]| judged(Command::Unprotect, phases);
        assert_eq!(judged(&["protected", "protected", "leaving", "alone"]), (Outcome::Done, 3));
        assert_eq!(judged(&["fenced", "alone"]), (Outcome::Done, 1));
        assert_eq!(judged(&["protected", "leaving", "fenced"]), (Outcome::Failed, 2));
        assert_eq!(judged(&["protected", "protected", "leaving", "protected"]), (Outcome::Failed, 3));
    }

    #[test]
    fn fail_over() {
        let judged = |phases: &[&str]| judged(Command::FailOver, phases);
        assert_eq!(judged(&["passive", "alone"]), (Outcome::Done, 1), "the role is another");
        assert_eq!(judged(&["lost", "lost", "fencing", "lost", "fencing", "activating", "active"]), (Outcome::Done, 6));
        assert_eq!(judged(&["passive", "fencing", "ended"]), (Outcome::Failed, 2));
    }
}
