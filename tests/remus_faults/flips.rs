//! One bit flipped in each kind of frame and record. That is no reason to fail over: the primary goes on, protected again or loudly
//! not.

use crate::cases::{self, Outcome};
use crate::flipper::{Bit, Flipper, frame};
use crate::proxy::{Proxy, Weather};
use crate::side::{PATIENCE, Side, until};
use crate::world::{PRIMARY, SECONDARY, Wanted, World};
use std::sync::atomic::Ordering;
use xen_replicate::control::Request;
use xen_replicate::remus::wire::HEADER_LEN;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

use Direction::{Backward, Forward};

#[derive(Debug, Clone, Copy)]
struct Case {
    direction: Direction,
    bit: Bit,
    /// How many of the kind pass before.
    spare: u64,
    /// What must be said first for such a frame to be sent.
    command: Option<Command>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    SwitchOver,
    Unprotect,
    /// To the secondary.
    FailOver,
}

const LENGTH: usize = 5;
const PAYLOAD: usize = HEADER_LEN + 3;

fn frames() -> Vec<Case> {
    let once = [
        (Forward, frame::HELLO, None),
        (Forward, frame::STREAM, None),
        (Forward, frame::SWITCH_OVER, Some(Command::SwitchOver)),
        (Forward, frame::GOODBYE, Some(Command::Unprotect)),
        (Backward, frame::HELLO, None),
        (Backward, frame::ACTIVE, Some(Command::SwitchOver)),
        (Backward, frame::ACTIVE, Some(Command::FailOver)),
    ];
    let often = [
        (Forward, frame::DATA),
        (Forward, frame::CHECKPOINT),
        (Forward, frame::HEARTBEAT),
        (Backward, frame::ACK),
        (Backward, frame::HEARTBEAT),
    ];
    let mut cases = Vec::new();
    // In the type, the length, and the payload.
    for at in [0, LENGTH, PAYLOAD] {
        for (direction, kind, command) in once {
            cases.push(Case { direction, bit: Bit::Frame(kind, at), spare: 0, command });
        }
        for (direction, kind) in often {
            for spare in [0, 5] {
                cases.push(Case { direction, bit: Bit::Frame(kind, at), spare, command: None });
            }
        }
    }
    cases
}

/// In a first image, and in a later checkpoint if it is there too.
fn records() -> Vec<Case> {
    let case = |name, spare| Case { direction: Forward, bit: Bit::Record(name), spare, command: None };
    let first = [
        "xl's preamble",
        "libxl's header",
        "LIBXC_CONTEXT",
        "image header",
        "domain header",
        "X86_CPUID_POLICY",
        "X86_MSR_POLICY",
        "STATIC_DATA_END",
    ];
    let every = [
        "PAGE_DATA",
        "X86_TSC_INFO",
        "HVM_CONTEXT",
        "HVM_PARAMS",
        "CHECKPOINT",
        "EMULATOR_XENSTORE_DATA",
        "EMULATOR_CONTEXT",
        "CHECKPOINT_END",
    ];
    let first = first.into_iter().map(|name| case(name, 0));
    first.chain(every.into_iter().flat_map(|name| [case(name, 0), case(name, 12)])).collect()
}

/// A pair with a proxy between that flips the bit.
fn through(case: &Case, wanted: Wanted) -> (World, Proxy, Side, Side) {
    let world = World::new(Wanted { tcp: true, ..wanted });
    let mut secondary = world.receive("secondary", SECONDARY, &world.wanted.receive);
    secondary.wait_until_idle();
    let (flipper, flipped) = Flipper::new(case.bit, case.spare);
    let flippers = match case.direction {
        Forward => [Some(flipper), None],
        Backward => [None, Some(flipper)],
    };
    let proxy = Proxy::start(world.proxy(), world.socket(SECONDARY), Weather::default(), flippers);
    let mut primary = world.remus(&proxy.link());
    if let Some(command) = case.command {
        primary.wait("protected", |status| status.acknowledged >= 5);
        match command {
            Command::SwitchOver => primary.order(&Request::SwitchOver),
            Command::Unprotect => primary.order(&Request::Unprotect { force: false }),
            Command::FailOver => secondary.order(&Request::FailOver { force: true, generation: None }),
        }
    }
    let done = until(PATIENCE, || flipped.load(Ordering::SeqCst).then_some(()));
    assert!(done.is_some(), "nothing of the kind was sent");
    (world, proxy, primary, secondary)
}

fn flipped(case: &Case) -> Outcome {
    let (world, proxy, mut primary, mut secondary) = through(case, Wanted::default());
    if let Bit::Frame(frame::ACTIVE, _) = case.bit {
        // The operator has asked for it, and the witness has agreed: the damage changes nothing.
        world.survives(&primary, &mut secondary, SECONDARY, 5);
        until(PATIENCE, || (primary.is_gone() || primary.status()?.phase == "fenced").then_some(())).unwrap();
        world.one_active_at_most(&mut [&mut primary, &mut secondary]);
        return world.over("went over, as asked", Some(&mut secondary));
    }
    let behind = primary.status().map_or(0, |status| status.acknowledged) + 5;
    let settled = primary.wait("protected again, or alone", |status| {
        status.phase == "alone" || (status.phase == "protected" && status.acknowledged >= behind)
    });
    world.goes_on(PRIMARY);
    let what = if settled.phase == "alone" {
        let loud = ["UNPROTECTED", "no connection to a secondary", "nobody answered"]
            .map(|text| primary.says_critically(text));
        assert!(loud.contains(&true), "it should say so");
        "unprotected, loudly"
    } else {
        assert!(settled.statistics.refused >= 1, "{settled:#?}");
        "protected again"
    };
    if settled.phase == "alone" {
        secondary.wait_until_idle();
    }
    assert!(secondary.survivor().is_none(), "a failover because of damage");
    world.one_active_at_most(&mut [&mut primary, &mut secondary]);
    let outcome = world.over(what, Some(&mut primary));
    drop(proxy);
    outcome
}

#[test]
fn a_bit_in_each_kind_of_frame() {
    let cases = frames();
    let counts = cases::run("a bit flipped in frames", &cases, flipped);
    assert_eq!(counts.what.get("went over, as asked"), Some(&6));
}

#[test]
fn a_bit_in_each_kind_of_record() {
    let cases = records();
    let counts = cases::run("a bit flipped in records", &cases, flipped);
    assert_eq!(counts.what.get("protected again"), Some(&(cases.len() as u64)));
}

/// The image that follows a refusal is torn, too: what was acknowledged before it still stands.
#[test]
fn the_copy_outlives_the_image_that_was_to_replace_it() {
    let case = Case { direction: Forward, bit: Bit::Record("PAGE_DATA"), spare: 30, command: None };
    let steps = ["image-begun@2", "image-middle@2"];
    let counts = cases::run("primary killed in the image behind a refusal", &steps, |step| {
        let wanted = Wanted::default().remus(&[&format!("--failpoint={step}")]);
        let (world, _proxy, mut primary, mut secondary) = through(&case, wanted);
        let acknowledged = world.last_words(&mut primary);
        assert!(secondary.log().contains("is refused"));
        world.survives(&primary, &mut secondary, SECONDARY, acknowledged);
        world.over("failovers", Some(&mut secondary))
    });
    assert_eq!(counts.what.get("failovers"), Some(&2));
}
