//! An output buffer of which a call never returns: the primary is heard all the while, so nobody takes over from it, and what it says of its
//! guest and of the output is what they are.

mod drivers_support;

use drivers_support::{Pair, Wanted};
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use xen_replicate::control::Request;
use xen_replicate::control::status::{Guest, Output};
use xen_replicate::hypervisor::{Bounded, OutputBuffer, Result};
use xen_replicate::replicate::primary::Ending;
use xen_replicate::replicate::secondary::Outcome;

/// Which call hangs, how often it is passed before, and whether it hangs still.
struct Gate {
    call: &'static str,
    passed: u64,
    hangs: bool,
}

struct Hanging {
    buffer: Box<dyn OutputBuffer>,
    gate: &'static (Mutex<Gate>, Condvar),
}

impl Hanging {
    fn pass(&self, call: &'static str) {
        let (gate, opened) = self.gate;
        let mut gate = gate.lock().unwrap();
        if gate.call == call {
            gate.passed = gate.passed.saturating_sub(1);
            while gate.passed == 0 && gate.hangs {
                gate = opened.wait(gate).unwrap();
            }
        }
    }
}

impl OutputBuffer for Hanging {
    fn hold(&mut self) -> Result<()> {
        self.pass("hold");
        self.buffer.hold()
    }

    fn begin_epoch(&mut self, epoch: u64) -> Result<()> {
        self.pass("epoch");
        self.buffer.begin_epoch(epoch)
    }

    fn release(&mut self, up_to: u64) -> Result<u64> {
        self.pass("release");
        self.buffer.release(up_to)
    }

    fn free(&mut self) -> Result<()> {
        self.pass("free");
        self.buffer.free()
    }

    fn discard(&mut self) -> Result<u64> {
        self.pass("discard");
        self.buffer.discard()
    }
}

macro_rules! gate {
    ($name:ident, $call:literal, $passed:literal) => {{
        static $name: (Mutex<Gate>, Condvar) =
            (Mutex::new(Gate { call: $call, passed: $passed, hangs: true }), Condvar::new());
        fn wrap(buffer: Box<dyn OutputBuffer>) -> Box<dyn OutputBuffer> {
            // The sides' time-out is 5 s.
            Box::new(Bounded::start(Box::new(Hanging { buffer, gate: &$name }), Duration::from_secs(1)).unwrap())
        }
        (&$name, Wanted { output: Some(wrap), ..Wanted::default() })
    }};
}

fn open(gate: &'static (Mutex<Gate>, Condvar)) {
    gate.0.lock().unwrap().hangs = false;
    gate.1.notify_all();
}

/// From a protection in which a call hangs to one that has ended by that.
fn protection_ends((gate, wanted): (&'static (Mutex<Gate>, Condvar), Wanted), doing: &str) {
    let pair = Pair::start(&wanted);
    let stuck = pair.wait("the end of protection", |status| {
        status.phase == "alone" && status.notices.iter().any(|notice| notice.text.contains("freeing output"))
    });
    let told = |text: &str| stuck.notices.iter().any(|notice| notice.text.contains(text));
    assert!(told(&format!("{doing}: the output buffer has not answered")), "{stuck:#?}");
    assert_eq!((stuck.guest, stuck.output, stuck.protected), (Guest::Running, Output::Held, false), "{stuck:#?}");
    // It was heard until it said that it ends: who is dismissed has not taken over.
    let outcome = pair.join_secondary();
    assert!(matches!(outcome, Ok(Outcome::Ended(_))), "{outcome:?}");
    open(gate);
    let free = pair.wait("free output", |status| status.output == Output::Free);
    assert_eq!(free.guest, Guest::Running);
    let ended = pair.end_primary();
    assert_eq!(ended.how, Ending::Stopped);
    ended.domain.stop().unwrap().self_check().unwrap();
}

#[test]
fn holding() {
    protection_ends(gate!(HOLD, "hold", 1), "holding output");
}

#[test]
fn marking_an_epoch() {
    protection_ends(gate!(EPOCH, "epoch", 5), "marking an epoch of output");
}

#[test]
fn releasing() {
    protection_ends(gate!(RELEASE, "release", 5), "releasing output");
}

#[test]
fn freeing_when_protection_is_ended() {
    let (gate, wanted) = gate!(FREE, "free", 1);
    let pair = Pair::start(&wanted);
    pair.wait_for_checkpoint(3);
    assert!(pair.primary.request(Request::Unprotect { force: false }).ok);
    let stuck =
        pair.wait("output that is not freed", |status| status.phase == "alone" && status.output == Output::Held);
    assert_eq!((stuck.guest, stuck.protected), (Guest::Running, false));
    assert!(matches!(pair.join_secondary(), Ok(Outcome::Ended(_))));
    open(gate);
    pair.wait("free output", |status| status.output == Output::Free);
    assert_eq!(pair.end_primary().how, Ending::Stopped);
}
