use super::*;
use crate::remus::wire::Capabilities;

const MS: u64 = 1_000_000;
const SESSION: Session = Session(7);

/// A machine that has had its first checkpoint acknowledged at 50 ms, the next being due at 250 ms or later.
fn protected() -> Primary {
    let mut machine = Primary::new(Config { rule: Rule::Manual, ..Config::default() }, Generation(0));
    let hello = Hello {
        capabilities: Capabilities::OFFERED,
        rule: Rule::Manual,
        generation: Generation(1),
        heartbeat_ms: 100,
        timeout_ms: 1000,
    };
    let frame = |frame| Event::Frame { session: SESSION, frame };
    for (at, event) in [
        (0, Event::Command(Command::Protect { session: SESSION })),
        (0, Event::Connected),
        (50, frame(Control::Hello(hello))),
        (60, Event::ImageReady { checkpoint: 1 }),
        (60, Event::GuestSuspended),
        (61, Event::StateCopied { checkpoint: 1 }),
        (62, Event::GuestResumed),
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
    let set = |action: &Action| match action {
        Action::SetTimer { timer, at } => Some((*timer, at.0 / MS)),
        _ => None,
    };
    actions.iter().filter_map(set).collect()
}

#[test]
fn a_new_interval_counts_from_the_start_of_the_round() {
    let mut machine = protected();
    for at in [70, 90, 110] {
        let interval = Command::SetInterval(Duration::from_millis(80));
        assert_eq!(timers(&mut machine, at, Event::Command(interval)), [(Timer::Round, 130)]);
    }
    // One that is over already is due at once.
    let interval = Command::SetInterval(Duration::from_millis(20));
    assert_eq!(timers(&mut machine, 120, Event::Command(interval)), [(Timer::Round, 70)]);
}

#[test]
fn what_is_transmitted_without_end_is_given_up() {
    let mut machine = protected();
    machine.handle(Time(250 * MS), Event::Timer(Timer::Round), &mut Vec::new());
    machine.handle(Time(250 * MS), Event::GuestSuspended, &mut Vec::new());
    let set = timers(&mut machine, 251, Event::StateCopied { checkpoint: 2 });
    assert!(set.contains(&(Timer::Answer, 10_251)), "{set:?}");
    machine.handle(Time(10_251 * MS), Event::Timer(Timer::Answer), &mut Vec::new());
    assert_eq!(machine.phase(), Phase::Alone);
}

#[test]
fn a_switch_over_that_loses_its_secondary_leaves_no_guest_standing() {
    let mut machine = protected();
    machine.config.rule = Rule::Witness;
    for event in [
        Event::Command(Command::SwitchOver),
        Event::GuestSuspended,
        Event::StateCopied { checkpoint: 2 },
        Event::CheckpointSent { checkpoint: 2 },
    ] {
        machine.handle(Time(100 * MS), event, &mut Vec::new());
    }
    assert!(machine.stands_still());
    let mut actions = Vec::new();
    machine.handle(Time(100 * MS), Event::LinkLost { session: SESSION }, &mut actions);
    assert!(matches!(machine.phase(), Phase::Leaving { .. }) && machine.is_held());
    assert!(actions.iter().any(|action| matches!(action, Action::Resume { .. })), "{actions:?}");
}
