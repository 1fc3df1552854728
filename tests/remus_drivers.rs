//! Two drivers in one process, over a real socket, with a guest that runs: what each of the operator's words comes to.

mod drivers_support;

use drivers_support::{Pair, Wanted};
use std::time::Duration;
use xen_replicate::control::Request;
use xen_replicate::hypervisor::Domain;
use xen_replicate::remus::Rule;
use xen_replicate::remus::pacing::{Pacing, Target};
use xen_replicate::replicate::primary::{Ending, Trouble};
use xen_replicate::replicate::secondary::{End, Outcome};

#[test]
fn a_switch_over_loses_nothing() {
    let pair = Pair::start(&Wanted::default());
    pair.wait_for_checkpoint(5);
    assert!(pair.primary.request(Request::SwitchOver).ok);
    let (ended, outcome) = pair.join();
    assert_eq!(ended.how, Ending::SwitchedOver);
    let Outcome::Survivor(mut survivor) = outcome.unwrap() else { panic!("no survivor") };
    let primary = ended.domain.stop().unwrap();
    drivers_support::assert_same(&primary, &survivor.domain);
    survivor.domain.unpause().unwrap();
    survivor.domain.run(500).unwrap();
    survivor.domain.self_check().unwrap();
    assert!(ended.statistics.checkpoints >= 5);
}

#[test]
fn unprotecting_dismisses_the_secondary_and_the_guest_runs_on() {
    for rule in [Rule::Witness, Rule::Manual] {
        let pair = Pair::start(&Wanted { rule, ..Wanted::default() });
        pair.wait_for_checkpoint(3);
        assert!(pair.primary.request(Request::Unprotect { force: false }).ok);
        let outcome = pair.join_secondary();
        assert!(matches!(outcome, Ok(Outcome::Ended(End::Dismissed))), "{rule}: {outcome:?}");
        let status = pair.wait_for("alone");
        assert_eq!(status.output, xen_replicate::control::status::Output::Free);
        let guest = pair.end_primary();
        assert_eq!(guest.how, Ending::Stopped);
        guest.domain.stop().unwrap().self_check().unwrap();
    }
}

#[test]
fn a_secondary_told_to_end_leaves_the_guest_unprotected_and_running() {
    let pair = Pair::start(&Wanted::default());
    pair.wait_for_checkpoint(3);
    pair.secondary.terminate();
    assert!(matches!(pair.join_secondary(), Ok(Outcome::Ended(End::Stopped))));
    pair.wait_for("alone");
    // And it takes another.
    let again = pair.again();
    again.wait_for_checkpoint(again.status().checkpoint + 3);
    assert!(again.primary.request(Request::SwitchOver).ok);
    let (ended, outcome) = again.join();
    assert_eq!(ended.how, Ending::SwitchedOver);
    assert!(matches!(outcome, Ok(Outcome::Survivor(_))));
}

#[test]
fn the_interval_changes_while_running() {
    let pair = Pair::start(&Wanted { interval: Duration::from_secs(60), ..Wanted::default() });
    pair.wait_for_checkpoint(1);
    let refused = pair.primary.request(Request::SetInterval { ms: 0 });
    assert!(!refused.ok && refused.error.is_some());
    assert!(pair.primary.request(Request::SetInterval { ms: 5 }).ok);
    pair.wait_for_checkpoint(20);
    assert_eq!(pair.status().interval_ms, 5);
    pair.secondary.terminate();
    assert!(pair.join_secondary().is_ok());
    assert_eq!(pair.end_primary().how, Ending::Stopped);
}

#[test]
fn the_interval_finds_its_target_by_itself() {
    let target = Target::OutputDelay(Duration::from_millis(30));
    let pacing = Pacing { target, shortest: Duration::from_millis(5), longest: Duration::from_secs(2) };
    let interval = Duration::from_millis(400);
    let pair = Pair::start(&Wanted { interval, pacing: Some(pacing), ..Wanted::default() });
    pair.wait_for_checkpoint(12);
    let status = pair.status();
    assert!((5..=60).contains(&status.interval_ms), "{status:#?}");
    assert_eq!(status.adaptive.as_deref(), Some("output delayed at most 30 ms"));
    assert_eq!(pair.end_primary().how, Ending::Stopped);
    assert!(pair.join_secondary().is_ok());
}

#[test]
fn what_is_too_much_to_copy_is_sent_while_the_guest_waits() {
    let pair = Pair::start(&Wanted { staging_limit: 0, ..Wanted::default() });
    pair.wait_for_checkpoint(5);
    assert!(pair.primary.request(Request::SwitchOver).ok);
    let (ended, outcome) = pair.join();
    let Outcome::Survivor(survivor) = outcome.unwrap() else { panic!("no survivor") };
    drivers_support::assert_same(&ended.domain.stop().unwrap(), &survivor.domain);
}

#[test]
fn fail_over_by_hand_asks_the_witness_and_stops_the_primary() {
    let pair = Pair::start(&Wanted::default());
    pair.wait_for_checkpoint(3);
    let refused = pair.secondary.request(Request::FailOver { force: false, generation: None });
    assert!(refused.error.is_some_and(|text| text.contains("the primary is alive")));
    assert!(pair.secondary.request(Request::FailOver { force: true, generation: None }).ok);
    let outcome = pair.join_secondary();
    let Ok(Outcome::Survivor(survivor)) = outcome else { panic!("{outcome:?}") };
    let status = pair.wait_for("fenced");
    assert!(survivor.checkpoint >= status.acknowledged);
    assert_eq!(survivor.generation.0, status.generation);
    assert_eq!(pair.end_primary().how, Ending::Fenced);
    survivor.domain.self_check().unwrap();
}

#[test]
fn two_rules_do_not_suit() {
    let pair = Pair::start(&Wanted { other_rule: Some(Rule::PrimaryWins), rule: Rule::Manual, ..Wanted::default() });
    assert!(matches!(pair.join_secondary(), Ok(Outcome::Ended(End::Unsuited))));
    pair.wait_for("alone");
    assert_eq!(pair.end_primary().how, Ending::Stopped);
}

#[test]
fn a_time_out_shorter_than_the_others_heartbeats_does_not_suit() {
    // The primary beats every 100 ms.
    let short = Some(Duration::from_millis(300));
    let pair = Pair::start(&Wanted { other_timeout: short, ..Wanted::default() });
    assert!(matches!(pair.join_secondary(), Ok(Outcome::Ended(End::Unsuited))));
    pair.wait_for("alone");
    assert_eq!(pair.end_primary().how, Ending::Stopped);
}

#[test]
fn another_witness_than_the_primarys_does_not_suit() {
    let pair = Pair::start(&Wanted { other_witness: true, ..Wanted::default() });
    assert!(matches!(pair.join_secondary(), Ok(Outcome::Ended(End::Unsuited))));
    pair.wait_for("alone");
    assert_eq!(pair.end_primary().how, Ending::Stopped);
}

#[test]
fn a_guest_that_does_not_suspend_runs_on_unprotected() {
    let pair = Pair::start(&Wanted { suspends: false, ..Wanted::default() });
    assert!(pair.join_secondary().is_ok());
    let status = pair.wait_for("alone");
    assert!(status.notices.iter().any(|notice| notice.text.contains("did not acknowledge")), "{status:#?}");
    let ended = pair.end_primary();
    assert_eq!(ended.how, Ending::Stopped);
    let domain = ended.domain.stop().unwrap();
    assert!(domain.is_running());
    domain.self_check().unwrap();
}

#[test]
fn a_guest_that_cannot_be_resumed_goes_on_at_the_secondary_if_anywhere() {
    // Behind a copy, and behind a checkpoint that was sent while the guest waited.
    for staging_limit in [1 << 30, 0] {
        let pair = Pair::start(&Wanted { resumes: false, staging_limit, ..Wanted::default() });
        assert!(matches!(pair.try_primary(), Err(Trouble::Resume(_))));
        match pair.join_secondary() {
            Ok(Outcome::Survivor(mut survivor)) => {
                survivor.domain.unpause().unwrap();
                survivor.domain.run(50).unwrap();
                survivor.domain.self_check().unwrap();
            }
            // The primary ended before the first checkpoint was whole.
            other => assert!(matches!(other, Ok(Outcome::Ended(End::Empty))), "{other:?}"),
        }
    }
}

#[test]
fn a_domain_that_is_destroyed_does_not_come_to_life_at_the_secondary() {
    let pair = Pair::start(&Wanted { lives: Some(4), ..Wanted::default() });
    // Nobody told it to end.
    let ended = pair.try_primary().unwrap();
    assert_eq!(ended.how, Ending::Unprotected);
    let said = |text| ended.status.notices.iter().any(|notice| notice.text.contains(text));
    assert!(said("the guest is gone") && !said("the guest runs on"), "{:#?}", ended.status.notices);
    let outcome = pair.join_secondary();
    assert!(matches!(outcome, Ok(Outcome::Ended(End::Dismissed))), "{outcome:?}");
}
