//! Named places at which a test lets a process die or stop, or one of its threads panic or hang.
//!
//! The fault tests run the real program and take it away at every step of a round. A failpoint is armed on the command
//! line (`--failpoint STEP[@N][=kill|stop|panic|hang]`, hidden from the help); without it, passing one costs a branch.

use rustix::process::{Signal, getpid, kill_process};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident = $name:literal on $side:ident;)*) => {
        /// A step of a round.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Step { $($(#[$doc])* $step,)* }

        impl Step {
            /// All steps, in the order of a round.
            pub const ALL: &'static [(Step, &'static str, Side)] = &[$((Step::$step, $name, Side::$side),)*];
        }
    };
}

/// Which side passes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one whose guest is protected.
    Primary,
    /// The one that keeps the copy.
    Secondary,
}

steps! {
    /// The session is agreed.
    Greeted = "greeted" on Primary;
    /// STREAM has been sent, nothing of the image yet.
    ImageBegun = "image-begun" on Primary;
    /// A part of the image has been sent while the guest runs.
    ImageMiddle = "image-middle" on Primary;
    /// The guest is suspended.
    Suspended = "suspended" on Primary;
    /// Output is held from now on.
    Held = "held" on Primary;
    /// The checkpoint is in memory of its own.
    Copied = "copied" on Primary;
    /// The guest runs again.
    Resumed = "resumed" on Primary;
    /// Nothing of the checkpoint has been sent.
    TransmitBegun = "transmit-begun" on Primary;
    /// A part of the checkpoint has been sent.
    TransmitMiddle = "transmit-middle" on Primary;
    /// All of it but its CHECKPOINT frame has been sent.
    Transmitted = "transmitted" on Primary;
    /// Its CHECKPOINT frame has been sent.
    Sealed = "sealed" on Primary;
    /// Its acknowledgement has come, no output has been released.
    Acknowledged = "acknowledged" on Primary;
    /// The output has been released.
    Released = "released" on Primary;
    /// SWITCH_OVER has been decided on.
    Delegated = "delegated" on Primary;
    /// The witness is about to be asked.
    Claiming = "claiming" on Primary;
    /// The session is agreed.
    Welcomed = "welcomed" on Secondary;
    /// A part of the image has arrived.
    ImageArriving = "image-arriving" on Secondary;
    /// A part of a later checkpoint has arrived.
    Arriving = "arriving" on Secondary;
    /// The checkpoint is whole and checked.
    Received = "received" on Secondary;
    /// It is about to be applied; its acknowledgement is on its way, or not.
    Applying = "applying" on Secondary;
    /// It is applied.
    Applied = "applied" on Secondary;
    /// The primary counts as lost, and the witness is about to be asked.
    Asking = "asking" on Secondary;
    /// The fencing command is about to be run.
    Fencing = "fencing" on Secondary;
    /// ACTIVE is about to be sent.
    Activating = "activating" on Secondary;
    /// The domain is complete and has not run.
    Activated = "activated" on Secondary;
}

impl Step {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        Step::ALL.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }
}

/// What happens to the process, or to the thread that passes the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// SIGKILL.
    Kill,
    /// SIGSTOP; somebody else continues it.
    Stop,
    /// The thread that passes the step panics.
    Panic,
    /// The thread that passes the step never goes on; the others do.
    Hang,
}

impl Fate {
    fn befall(self, step: Step) {
        let signal = match self {
            Fate::Kill => Signal::KILL,
            Fate::Stop => Signal::STOP,
            Fate::Panic => panic!("failpoint {step}"),
            Fate::Hang => {
                log::warn!("failpoint {step}: this thread goes no further");
                loop {
                    thread::park();
                }
            }
        };
        if let Err(error) = kill_process(getpid(), signal) {
            log::error!("failpoint {step}: {error}");
        }
    }
}

/// One armed step.
#[derive(Debug)]
struct Armed {
    step: Step,
    fate: Fate,
    /// How many more times it is passed unharmed, and 1.
    left: AtomicU64,
}

/// A failpoint's text that says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no failpoint: STEP[@N][=kill|stop|panic|hang]")]
pub struct UnknownFailpoint(String);

impl FromStr for Armed {
    type Err = UnknownFailpoint;

    fn from_str(text: &str) -> Result<Self, UnknownFailpoint> {
        let unknown = || UnknownFailpoint(text.to_owned());
        let (rest, fate) = match text.split_once('=') {
            None => (text, Fate::Kill),
            Some((rest, "kill")) => (rest, Fate::Kill),
            Some((rest, "stop")) => (rest, Fate::Stop),
            Some((rest, "panic")) => (rest, Fate::Panic),
            Some((rest, "hang")) => (rest, Fate::Hang),
            Some(_) => return Err(unknown()),
        };
        let (name, count) = match rest.split_once('@') {
            None => (rest, 1),
            Some((name, count)) => (name, count.parse().ok().filter(|&n| n > 0).ok_or_else(unknown)?),
        };
        let step = Step::ALL.iter().find(|row| row.1 == name).ok_or_else(unknown)?.0;
        Ok(Armed { step, fate, left: AtomicU64::new(count) })
    }
}

/// The failpoints of a process. Clones are the same ones.
#[derive(Debug, Clone, Default)]
pub struct Failpoints(Arc<[Armed]>);

impl Failpoints {
    /// From the texts of the command line.
    ///
    /// # Errors
    /// The first text that names no step, no count over 0, or no fate.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, UnknownFailpoint> {
        texts
            .iter()
            .map(|text| text.as_ref().parse())
            .collect::<Result<Vec<Armed>, _>>()
            .map(|all| Failpoints(all.into()))
    }

    /// Passes a step. Does not return where its time has come to be killed, or to hang.
    ///
    /// # Panics
    /// Where its time has come to.
    pub fn pass(&self, step: Step) {
        for armed in self.0.iter().filter(|armed| armed.step == step) {
            let before = armed.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if before == Ok(1) {
                armed.fate.befall(step);
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_a_name_of_its_own_and_parses() {
        for (index, &(step, name, _)) in Step::ALL.iter().enumerate() {
            assert!(Step::ALL.iter().skip(index + 1).all(|other| other.1 != name), "{name}");
            for (word, fate) in
                [("kill", Fate::Kill), ("stop", Fate::Stop), ("panic", Fate::Panic), ("hang", Fate::Hang)]
            {
                let armed: Armed = format!("{name}@7={word}").parse().unwrap();
                assert_eq!((armed.step, armed.fate, armed.left.into_inner()), (step, fate, 7));
            }
        }
        for bad in ["", "nowhere", "copied@0", "copied@x", "copied=maim", "copied@", "@1"] {
            assert_eq!(bad.parse::<Armed>().unwrap_err(), UnknownFailpoint(bad.into()));
        }
    }

    #[test]
    #[should_panic(expected = "failpoint sealed")]
    fn a_thread_panics_where_it_is_told_to() {
        let points = Failpoints::parse(&["sealed@2=panic"]).unwrap();
        points.pass(Step::Sealed);
        points.pass(Step::Sealed);
    }

    #[test]
    fn an_unarmed_step_is_passed() {
        Failpoints::default().pass(Step::Copied);
        Failpoints::parse(&["copied@2"]).unwrap().pass(Step::Copied);
        Failpoints::parse(&["copied"]).unwrap().pass(Step::Sealed);
    }
}
