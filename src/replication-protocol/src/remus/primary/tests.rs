use super::*;
use crate::protocol::{OutputCall, Rule, RunState, Verdict};
use crate::remus::RefuseReason;
use crate::remus::wire::Capabilities;

const MS: u64 = 1_000_000;
const SESSION: Session = Session(7);

/// A machine that has had its first checkpoint acknowledged at 50 ms, the next being due at 250 ms or later.
fn protected() -> Primary {
    protected_under(Rule::Manual)
}

fn protected_under(rule: Rule) -> Primary {
    let mut machine = Primary::new(Config { rule, ..Config::default() }, Generation(0));
    let hello = Hello {
        capabilities: Capabilities::OFFERED,
        rule,
        generation: Generation(0),
        heartbeat_ms: 100,
        timeout_ms: 1000,
        domain: 0,
    };
    let frame = |frame| Event::Frame { session: SESSION, frame };
    machine.command(Time(0), Command::Protect { session: SESSION }, &mut Vec::new()).unwrap();
    for (at, event) in [
        (0, Event::Connected),
        (50, frame(Control::Hello(hello))),
        (55, Event::Common(common::Event::Witness(Answer { generation: Generation(1), verdict: Verdict::Granted }))),
        (60, Event::ImageReady { checkpoint: 1 }),
        (60, Event::Common(common::Event::GuestSuspended)),
        (61, Event::StateCopied { checkpoint: 1 }),
        (62, Event::Common(common::Event::GuestResumed)),
        (63, Event::CheckpointSent { checkpoint: 1 }),
        (64, frame(Control::Ack { checkpoint: 1 })),
    ] {
        machine.handle(Time(at * MS), event, &mut Vec::new());
    }
    assert!(machine.is_protected() && !machine.stands_still());
    machine
}

fn timers(machine: &mut Primary, at: u64, event: Event) -> Vec<(Timer, u64)> {
    let mut actions = Vec::new();
    machine.handle(Time(at * MS), event, &mut actions);
    set_in(&actions)
}

fn interval(machine: &mut Primary, at: u64, ms: u64) -> Vec<(Timer, u64)> {
    let mut actions = Vec::new();
    machine.command(Time(at * MS), Command::SetInterval(Duration::from_millis(ms)), &mut actions).unwrap();
    set_in(&actions)
}

fn set_in(actions: &[Action]) -> Vec<(Timer, u64)> {
    let set = |action: &Action| match action {
        Action::Common(common::Action::SetTimer { timer, at }) => Some((*timer, at.0 / MS)),
        _ => None,
    };
    actions.iter().filter_map(set).collect()
}

#[test]
fn a_new_interval_counts_from_the_start_of_the_round() {
    let mut machine = protected();
    for at in [70, 90, 110] {
        assert_eq!(interval(&mut machine, at, 80), [(Timer::Round, 130)]);
    }
    // One that is over already is due at once.
    assert_eq!(interval(&mut machine, 120, 20), [(Timer::Round, 70)]);
    let refused = machine.command(Time(0), Command::SetInterval(Duration::ZERO), &mut Vec::new());
    assert_eq!(refused, Err(Refused::Interval));
}

#[test]
fn what_is_transmitted_without_end_is_given_up() {
    let mut machine = protected();
    machine.handle(Time(250 * MS), Event::Common(common::Event::Timer(Timer::Round)), &mut Vec::new());
    machine.handle(Time(250 * MS), Event::Common(common::Event::GuestSuspended), &mut Vec::new());
    let set = timers(&mut machine, 251, Event::StateCopied { checkpoint: 2 });
    assert!(set.contains(&(Timer::Answer, 10_251)), "{set:?}");
    machine.handle(Time(10_251 * MS), Event::Common(common::Event::Timer(Timer::Answer)), &mut Vec::new());
    assert_eq!(machine.phase(), Phase::Alone);
}

#[test]
fn a_switch_over_that_loses_its_secondary_leaves_no_guest_standing() {
    let mut machine = protected_under(Rule::Witness);
    machine.command(Time(100 * MS), Command::SwitchOver, &mut Vec::new()).unwrap();
    for event in [
        Event::Common(common::Event::GuestSuspended),
        Event::StateCopied { checkpoint: 2 },
        Event::CheckpointSent { checkpoint: 2 },
    ] {
        machine.handle(Time(100 * MS), event, &mut Vec::new());
    }
    assert!(machine.stands_still());
    let mut actions = Vec::new();
    machine.handle(Time(100 * MS), Event::LinkLost { session: SESSION }, &mut actions);
    assert!(matches!(machine.phase(), Phase::Leaving { .. }) && machine.is_held());
    assert!(
        actions.iter().any(|action| matches!(action, Action::Common(common::Action::Resume { .. }))),
        "{actions:?}"
    );
}

fn feed(machine: &mut Primary, at: u64, event: Event) -> Vec<Action> {
    let mut actions = Vec::new();
    machine.handle(Time(at * MS), event, &mut actions);
    actions
}

fn notices(actions: &[Action]) -> Vec<common::Code> {
    let code = |action: &Action| match action {
        Action::Common(common::Action::Notice(notice)) => Some(notice.code),
        _ => None,
    };
    actions.iter().filter_map(code).collect()
}

#[test]
fn no_generation_is_acquired_before_a_peer_has_greeted() {
    let config = Config { rule: Rule::Witness, ..Config::default() };
    let mut machine = Primary::new(config, Generation(4));
    let mut actions = Vec::new();
    machine.command(Time(0), Command::Protect { session: SESSION }, &mut actions).unwrap();
    actions.extend(feed(&mut machine, 1, Event::Connected));
    let hello = Hello { generation: Generation(4), ..machine.hello() };
    assert!(actions.contains(&Action::SendFrame(Control::Hello(hello))), "{actions:?}");
    let asks = |actions: &[Action]| {
        actions.iter().any(|action| matches!(action, Action::Common(common::Action::AskWitness { .. })))
    };
    assert!(!asks(&actions), "{actions:?}");
    let actions = feed(&mut machine, 2, Event::Frame { session: SESSION, frame: Control::Hello(hello) });
    assert!(actions.contains(&Action::Common(common::Action::AskWitness { generation: Generation(5) })), "{actions:?}");
    let answer = Answer { generation: Generation(5), verdict: Verdict::Granted };
    let actions = feed(&mut machine, 3, Event::Common(common::Event::Witness(answer)));
    let begin = actions.iter().position(|a| *a == Action::SendFrame(Control::Begin { generation: Generation(5) }));
    let stream = actions.iter().position(|a| matches!(a, Action::BeginStream { .. }));
    assert!(begin.is_some() && begin < stream, "{actions:?}");
    // One that reaches nobody asks for nothing.
    let mut stray = Primary::new(config, Generation(4));
    let mut actions = Vec::new();
    stray.command(Time(0), Command::Protect { session: SESSION }, &mut actions).unwrap();
    actions.extend(feed(&mut stray, 1, Event::LinkLost { session: SESSION }));
    assert!(!asks(&actions) && stray.phase() == Phase::Alone && stray.generation() == Generation(4));
}

#[test]
fn a_guest_that_was_suspended_all_the_same_is_resumed() {
    for (guest, resumed) in [(RunState::Running, false), (RunState::Paused, false), (RunState::Suspended, true)] {
        let mut machine = protected();
        feed(&mut machine, 250, Event::Common(common::Event::Timer(Timer::Round)));
        let actions = feed(&mut machine, 260, Event::Common(common::Event::SuspendFailed { guest }));
        assert_eq!(
            actions.iter().any(|a| matches!(a, Action::Common(common::Action::Resume { .. }))),
            resumed,
            "{guest}: {actions:?}"
        );
        assert_eq!(machine.phase(), Phase::Alone);
        let actions = feed(&mut machine, 270, Event::Common(common::Event::ResumeFailed));
        if resumed {
            assert_eq!(notices(&actions), [common::Code::ResumeFailed]);
            assert_eq!((machine.phase(), machine.stands_still()), (Phase::Ended(End::Suspended), true));
        } else {
            assert!(actions.is_empty() && !machine.stands_still());
        }
    }
}

#[test]
fn a_guest_that_cannot_be_resumed_is_said_to_be_suspended_and_the_secondary_takes_over() {
    let mut machine = protected();
    feed(&mut machine, 250, Event::Common(common::Event::Timer(Timer::Round)));
    feed(&mut machine, 251, Event::Common(common::Event::GuestSuspended));
    feed(&mut machine, 252, Event::StateCopied { checkpoint: 2 });
    let actions = feed(&mut machine, 253, Event::Common(common::Event::ResumeFailed));
    assert!(actions.contains(&Action::CloseLink { session: SESSION }), "{actions:?}");
    let freed = |a: &Action| {
        matches!(a, Action::Common(common::Action::FreeOutput) | Action::ReleaseOutput { .. } | Action::SendFrame(_))
    };
    assert!(!actions.iter().any(freed), "neither a farewell nor output: {actions:?}");
    assert!(machine.stands_still() && machine.is_held());
    let refused = machine.command(Time(0), Command::Unprotect { force: false }, &mut Vec::new());
    assert_eq!(refused, Err(Refused::Suspended));
}

#[test]
fn freeing_output_is_tried_until_it_succeeds_and_protection_can_come_back() {
    let mut machine = protected();
    machine.command(Time(100 * MS), Command::Unprotect { force: false }, &mut Vec::new()).unwrap();
    assert_eq!((machine.phase(), machine.is_held()), (Phase::Alone, false));
    for at in [100, 600, 1100] {
        let actions = feed(&mut machine, at, Event::Common(common::Event::OutputFailed(OutputCall::Free)));
        assert_eq!(set_in(&actions), [(Timer::Output, at + 500)]);
        assert_eq!(notices(&actions), [common::Code::OutputFailed(OutputCall::Free)]);
        assert!(machine.is_held());
        let protect = machine.command(Time(at * MS), Command::Protect { session: Session(8) }, &mut Vec::new());
        assert_eq!(protect, Err(Refused::Output));
        assert_eq!(
            feed(&mut machine, at + 500, Event::Common(common::Event::Timer(Timer::Output))),
            [Action::Common(common::Action::FreeOutput)]
        );
    }
    assert!(!machine.is_held());
    machine.command(Time(1600 * MS), Command::Protect { session: Session(8) }, &mut Vec::new()).unwrap();
    assert_eq!(machine.phase(), Phase::Connecting);
}

#[test]
fn a_release_that_failed_does_not_keep_protection_away_when_output_is_free() {
    let mut machine = protected();
    feed(&mut machine, 100, Event::Common(common::Event::OutputFailed(OutputCall::Release)));
    machine.command(Time(200 * MS), Command::Unprotect { force: false }, &mut Vec::new()).unwrap();
    assert_eq!((machine.phase(), machine.is_held()), (Phase::Alone, false));
    machine.command(Time(300 * MS), Command::Protect { session: Session(8) }, &mut Vec::new()).unwrap();
    assert_eq!(machine.phase(), Phase::Connecting);
}

#[test]
fn output_that_cannot_be_held_is_not_released_and_ends_protection() {
    for call in [OutputCall::Hold, OutputCall::Epoch] {
        let mut machine = protected_under(Rule::Witness);
        feed(&mut machine, 250, Event::Common(common::Event::Timer(Timer::Round)));
        feed(&mut machine, 251, Event::Common(common::Event::GuestSuspended));
        feed(&mut machine, 252, Event::StateCopied { checkpoint: 2 });
        let actions = feed(&mut machine, 253, Event::Common(common::Event::OutputFailed(call)));
        assert!(matches!(machine.phase(), Phase::Leaving { cause: Cause::Output, .. }), "{actions:?}");
        feed(&mut machine, 254, Event::CheckpointSent { checkpoint: 2 });
        let actions = feed(&mut machine, 255, Event::Frame { session: SESSION, frame: Control::Ack { checkpoint: 2 } });
        assert!(!actions.iter().any(|a| matches!(a, Action::ReleaseOutput { .. })), "{actions:?}");
        let answer = Answer { generation: machine.generation().next(), verdict: Verdict::Granted };
        let actions = feed(&mut machine, 256, Event::Common(common::Event::Witness(answer)));
        assert!(actions.contains(&Action::Common(common::Action::FreeOutput)) && machine.phase() == Phase::Alone);
    }
}

#[test]
fn a_release_that_failed_is_made_up_for() {
    let mut machine = protected();
    let actions = feed(&mut machine, 100, Event::Common(common::Event::OutputFailed(OutputCall::Release)));
    assert_eq!(set_in(&actions), [(Timer::Output, 600)]);
    assert!(machine.is_protected());
    let actions = feed(&mut machine, 600, Event::Common(common::Event::Timer(Timer::Output)));
    assert_eq!(actions, [Action::ReleaseOutput { up_to_epoch: 0 }]);
}

#[test]
fn what_is_read_or_still_being_sent_is_no_silence() {
    let mut machine = protected();
    feed(&mut machine, 1064, Event::Common(common::Event::Heard { read: Time(900 * MS), unread: false }));
    assert_eq!(timers(&mut machine, 1064, Event::Common(common::Event::Timer(Timer::Peer))), [(Timer::Peer, 1900)]);
    feed(&mut machine, 1900, Event::Common(common::Event::Heard { read: Time(900 * MS), unread: false }));
    feed(&mut machine, 1900, Event::Common(common::Event::Timer(Timer::Peer)));
    assert_eq!(machine.phase(), Phase::Alone);

    let mut machine = protected();
    feed(&mut machine, 250, Event::Common(common::Event::Timer(Timer::Round)));
    feed(&mut machine, 250, Event::Common(common::Event::GuestSuspended));
    feed(&mut machine, 251, Event::StateCopied { checkpoint: 2 });
    feed(&mut machine, 10_251, Event::Common(common::Event::Progress { bytes: 5 }));
    assert_eq!(
        timers(&mut machine, 10_251, Event::Common(common::Event::Timer(Timer::Answer))),
        [(Timer::Answer, 20_251)]
    );
    feed(&mut machine, 20_251, Event::Common(common::Event::Progress { bytes: 5 }));
    feed(&mut machine, 20_251, Event::Common(common::Event::Timer(Timer::Answer)));
    assert_eq!(machine.phase(), Phase::Alone);
}

/// Each checkpoint after the first is acknowledged or refused as said; gives how many were before protection ended.
fn answered(machine: &mut Primary, answers: impl Iterator<Item = Option<RefuseReason>>) -> usize {
    let mut at = 1000;
    for (count, refused) in answers.enumerate() {
        if machine.phase() != Phase::Protected {
            return count;
        }
        at += 1000;
        let now = Time(at * MS);
        let mut actions = Vec::new();
        machine.handle(now, Event::Common(common::Event::Timer(Timer::Round)), &mut actions);
        let mut checkpoint = machine.checkpoint;
        let mut events = vec![Event::Common(common::Event::GuestSuspended)];
        if machine.round == Round::Image {
            events.insert(0, Event::ImageReady { checkpoint });
        }
        for event in events {
            machine.handle(now, event, &mut Vec::new());
            checkpoint = machine.checkpoint;
        }
        let frame = match refused {
            None => Control::Ack { checkpoint },
            Some(reason) => Control::Refuse { checkpoint, reason },
        };
        for event in [
            Event::StateCopied { checkpoint },
            Event::Common(common::Event::GuestResumed),
            Event::CheckpointSent { checkpoint },
            Event::Frame { session: SESSION, frame },
        ] {
            machine.handle(now, event, &mut Vec::new());
        }
    }
    usize::MAX
}

#[test]
fn refusals_count_in_a_row_and_over_time() {
    let budget = Some(RefuseReason::Budget);
    // An image that is taken between two refusals does not make them forgotten: the eleventh is one too many.
    let alternating = |index: usize| if index.is_multiple_of(2) { budget } else { None };
    assert_eq!(answered(&mut protected(), (0..1000).map(alternating)), 21);
    assert_eq!(answered(&mut protected(), std::iter::repeat_n(budget, 10)), 4, "three in a row are borne");
    // Ten in each hundred are borne for ever.
    let rare = |index: usize| if index.is_multiple_of(10) { budget } else { None };
    assert_eq!(answered(&mut protected(), (0..2000).map(rare)), usize::MAX);
}
