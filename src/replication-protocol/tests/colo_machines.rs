//! COLO's machines step by step: the order of messages, times, what is said of what is wrong. That they are right in every other
//! order is `colo_model`'s to show.

use replication_protocol::colo::wire::WireError;
use replication_protocol::colo::{
    Config, Dialect, Fault, Guest, Layout, Message, Misfit, Mode, Point, Primary, Secondary, Step, Wrong, primary,
    secondary,
};
use replication_protocol::protocol::{primary as shared, secondary as common};
use replication_protocol::remus::{Generation, Rule, Time, Timer};
use std::time::Duration;

const MS: u64 = 1_000_000;
const QEMU: Dialect = Dialect::Qemu(Layout::Live);

/// A machine on either side, fed by hand.
struct Hand<M> {
    machine: M,
    at: u64,
}

impl Hand<Primary> {
    fn new(dialect: Dialect, mode: Mode, rule: Rule) -> Self {
        let config = Config { rule, ..Config::new(dialect, mode) };
        Hand { machine: Primary::new(config, Generation(1)), at: 0 }
    }

    fn feed(&mut self, event: primary::Event) -> Vec<primary::Action> {
        let mut actions = Vec::new();
        self.machine.handle(Time(self.at * MS), event, &mut actions);
        actions
    }

    fn hears(&mut self, message: Message) -> Vec<primary::Action> {
        self.feed(primary::Event::Message(message))
    }

    /// From the suspension of the guest to the state's last byte.
    fn sends(&mut self, checkpoint: u64) -> Vec<Message> {
        use primary::{Action, Event};
        self.feed(Event::Common(shared::Event::GuestSuspended));
        let actions = self.feed(Event::Collected { checkpoint, bytes: 77 });
        self.feed(Event::StateSent { checkpoint });
        let said = |action| match action {
            Action::Send(message) => Some(message),
            _ => None,
        };
        actions.into_iter().filter_map(said).collect()
    }

    /// Up to the first epoch, with both guests running.
    fn protected(dialect: Dialect, mode: Mode, rule: Rule) -> Self {
        let mut hand = Self::new(dialect, mode, rule);
        hand.feed(primary::Event::Connected);
        hand.feed(primary::Event::ImageReady);
        assert_eq!(hand.sends(1), []);
        hand.hears(Message::Ready);
        hand.runs();
        hand
    }

    fn runs(&mut self) {
        self.feed(primary::Event::Common(shared::Event::GuestResumed));
        let config = self.machine.config();
        if config.dialect.confirms_resume() && config.mode == Mode::LockStep {
            self.hears(Message::Resumed);
        }
        assert_eq!(self.machine.phase(), primary::Phase::Session(Step::Run));
    }

    fn timer(actions: &[primary::Action], timer: Timer) -> Option<u64> {
        actions.iter().rev().find_map(|action| match action {
            primary::Action::Common(shared::Action::SetTimer { timer: set, at }) if *set == timer => Some(at.0 / MS),
            _ => None,
        })
    }
}

impl Hand<Secondary> {
    fn new(dialect: Dialect, mode: Mode, rule: Rule) -> Self {
        let config = Config { rule, ..Config::new(dialect, mode) };
        Hand { machine: Secondary::new(config, Generation(1)), at: 0 }
    }

    fn feed(&mut self, event: secondary::Event) -> Vec<secondary::Action> {
        let mut actions = Vec::new();
        self.machine.handle(Time(self.at * MS), event, &mut actions);
        actions
    }

    fn hears(&mut self, message: Message) -> Vec<secondary::Action> {
        self.feed(secondary::Event::Message(message))
    }

    fn protected(dialect: Dialect, mode: Mode, rule: Rule) -> Self {
        let mut hand = Self::new(dialect, mode, rule);
        hand.feed(secondary::Event::StateReceived { checkpoint: 1 });
        let actions = hand.feed(secondary::Event::Loaded { checkpoint: 1 });
        assert!(actions.contains(&secondary::Action::Send(Message::Ready)));
        if mode == Mode::LockStep {
            hand.feed(secondary::Event::GuestResumed);
        }
        assert_eq!(hand.machine.phase(), secondary::Phase::Session(Step::Run));
        hand
    }
}

#[test]
fn a_round_says_what_the_tables_say() {
    use primary::{Action, Event};
    for (dialect, said) in [
        (Dialect::Libxl, vec![]),
        (QEMU, vec![Message::Send, Message::Size { bytes: 77 }]),
        (Dialect::FrameV8, vec![Message::Send]),
    ] {
        for mode in [Mode::LockStep, Mode::Periodic] {
            let mut p = Hand::<Primary>::protected(dialect, mode, Rule::Manual);
            p.feed(Event::Common(shared::Event::Timer(Timer::Round)));
            let actions = p.feed(Event::Common(shared::Event::Timer(Timer::Round)));
            assert!(actions.contains(&Action::Send(Message::New)), "{dialect}: {actions:?}");
            p.hears(Message::Suspended);
            if dialect.lists_dirty() {
                p.hears(Message::DirtyList { bytes: 8 });
            }
            assert_eq!(p.sends(2), said, "{dialect}");
            if dialect.announces_state() {
                p.hears(Message::Received);
            }
            let actions = p.hears(dialect.loaded(false));
            assert_eq!(
                actions[..2],
                [Action::ReleaseHeld { up_to_epoch: 1 }, Action::Common(shared::Action::Resume { epoch: 2 })]
            );
            p.runs();
            assert_eq!(p.machine.checkpoints(), (2, 2));
        }
    }
}

#[test]
fn constant_difference_leaves_the_guest_its_gap() {
    use primary::{Action, Event};
    let mut p = Hand::<Primary>::protected(QEMU, Mode::LockStep, Rule::Manual);
    // Differs at once, and again and again: nothing before the gap is over.
    for _ in 0..3 {
        assert_eq!(p.feed(Event::Differ { epoch: 1 }), []);
    }
    p.at = 10;
    let actions = p.feed(Event::Common(shared::Event::Timer(Timer::Round)));
    assert!(actions.contains(&Action::Send(Message::New)));
    p.hears(Message::Suspended);
    p.sends(2);
    p.hears(Message::Received);
    p.at = 500;
    p.hears(Message::Loaded);
    // The gap is the guest's: it counts from when the guest runs, however long the checkpoint took.
    p.at = 700;
    let actions = p.feed(Event::Common(shared::Event::GuestResumed));
    assert_eq!(Hand::timer(&actions, Timer::Round), Some(710));
    // What differed before is settled; without a difference the period is the next.
    p.at = 710;
    let actions = p.feed(Event::Common(shared::Event::Timer(Timer::Round)));
    assert_eq!(Hand::timer(&actions, Timer::Round), Some(700 + 5000));
    // Behind the gap a difference counts at once.
    p.at = 800;
    assert!(p.feed(Event::Differ { epoch: 1 }).is_empty(), "of an epoch that is over");
    assert!(p.feed(Event::Differ { epoch: 2 }).contains(&Action::Send(Message::New)));
}

#[test]
fn what_both_have_sent_leaves_at_once_and_only_in_lock_step() {
    use primary::{Action, Event};
    let mut p = Hand::<Primary>::protected(QEMU, Mode::LockStep, Rule::Manual);
    assert_eq!(p.feed(Event::Agreed { epoch: 1, packet: 5 }), [Action::Release { epoch: 1, packet: 5 }]);
    assert_eq!(p.feed(Event::Agreed { epoch: 2, packet: 6 }), []);
    let mut p = Hand::<Primary>::protected(QEMU, Mode::Periodic, Rule::Manual);
    assert_eq!(p.feed(Event::Agreed { epoch: 1, packet: 5 }), []);
}

fn cause(p: &Hand<Primary>) -> Fault {
    match p.machine.phase() {
        primary::Phase::Leaving { cause: primary::Cause::Fault(fault), .. } => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_out_of_step_is_named_and_the_guest_runs_on() {
    for (message, misfit) in [
        (Message::Ready, Misfit::Duplicate),
        (Message::Loaded, Misfit::Early),
        (Message::New, Misfit::Direction),
        (Message::Resumed, Misfit::Foreign),
    ] {
        let mut p = Hand::<Primary>::protected(QEMU, Mode::LockStep, Rule::Witness);
        let actions = p.hears(message);
        assert!(
            !actions.contains(&primary::Action::Common(shared::Action::Suspend))
                && !actions.contains(&primary::Action::CloseLink)
        );
        assert_eq!(p.machine.guest(), Guest::Running);
        let wrong = Wrong::OutOfStep { dialect: QEMU, message, misfit, expected: None };
        assert_eq!(cause(&p), Fault { wrong, step: Step::Run, guest: Guest::Running });
    }
    // One that is late: the request of this round is answered, and the first answer comes again behind the second.
    let mut p = Hand::<Primary>::protected(Dialect::Libxl, Mode::LockStep, Rule::Witness);
    p.feed(primary::Event::Common(shared::Event::Timer(Timer::Round)));
    p.feed(primary::Event::Common(shared::Event::Timer(Timer::Round)));
    p.hears(Message::Suspended);
    p.hears(Message::DirtyList { bytes: 0 });
    p.hears(Message::Suspended);
    let fault = cause(&p);
    assert!(matches!(fault.wrong, Wrong::OutOfStep { misfit: Misfit::Late, .. }), "{fault:?}");
    let text = fault.to_string();
    for word in ["SVM_SUSPENDED", "late", "collecting the state", "suspending"] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn a_secondary_that_hears_garbage_gives_up_and_does_not_ask() {
    use secondary::{Action, End, Event, Phase};
    let garbled = WireError::Number { number: 7, offset: 12, first: 0, last: 6 };
    for event in [Event::Message(Message::Send), Event::Message(Message::Loaded), Event::Garbled(garbled)] {
        let mut s = Hand::<Secondary>::protected(QEMU, Mode::LockStep, Rule::Witness);
        let actions = s.feed(event);
        assert!(matches!(s.machine.phase(), Phase::Ended(End::Fault(Fault { step: Step::Run, .. }))));
        assert!(
            actions.contains(&Action::Common(common::Action::DropReplica))
                && actions.contains(&Action::Common(common::Action::CloseLink))
        );
        assert!(!actions.iter().any(|action| matches!(action, Action::Common(common::Action::AskWitness { .. }))));
    }
}

#[test]
fn a_size_over_the_budget_is_refused_before_anything_is_received() {
    use secondary::{Action, End, Phase};
    for (layout, bytes, fits) in [
        (Layout::Live, 1 << 63, false),
        (Layout::Whole, 1 << 63, false),
        (Layout::Live, u64::MAX, false),
        (Layout::Whole, (128 << 20) + 1, false),
        (Layout::Whole, 128 << 20, true),
        (Layout::Live, 0, true),
    ] {
        let mut s = Hand::<Secondary>::protected(Dialect::Qemu(layout), Mode::LockStep, Rule::Witness);
        s.hears(Message::New);
        s.feed(secondary::Event::GuestSuspended);
        s.hears(Message::Send);
        s.feed(secondary::Event::MemoryReceived { checkpoint: 2 });
        let actions = s.hears(Message::Size { bytes });
        if fits {
            assert_eq!(actions[0], Action::ReceiveState { checkpoint: 2, bytes: Some(bytes) });
        } else {
            assert!(!actions.iter().any(|action| matches!(action, Action::ReceiveState { .. })));
            let wrong = Wrong::Size { bytes, budget: 128 << 20 };
            let fault = Fault { wrong, step: Step::Size, guest: Guest::Suspended };
            assert_eq!(s.machine.phase(), Phase::Ended(End::Fault(fault)));
        }
    }
}

#[test]
fn a_request_may_overtake_the_resume_where_nothing_confirms_it() {
    use secondary::{Action, Event, Phase};
    let mut s = Hand::<Secondary>::new(QEMU, Mode::LockStep, Rule::Witness);
    s.feed(Event::StateReceived { checkpoint: 1 });
    s.feed(Event::Loaded { checkpoint: 1 });
    assert_eq!((s.machine.guest(), s.machine.expected()), (Guest::Resuming, Some(Point::New)));
    assert_eq!(s.hears(Message::New), []);
    assert!(s.feed(Event::GuestResumed).contains(&Action::Suspend));
    // libxl's primary knows better.
    let mut s = Hand::<Secondary>::new(Dialect::Libxl, Mode::LockStep, Rule::Witness);
    s.feed(Event::StateReceived { checkpoint: 1 });
    s.feed(Event::Loaded { checkpoint: 1 });
    s.hears(Message::New);
    assert!(matches!(s.machine.phase(), Phase::Ended(_)));
}

#[test]
fn what_is_overdue_is_the_peers_loss() {
    let mut p = Hand::<Primary>::protected(QEMU, Mode::LockStep, Rule::Witness);
    p.feed(primary::Event::Common(shared::Event::Timer(Timer::Round)));
    let actions = p.feed(primary::Event::Common(shared::Event::Timer(Timer::Round)));
    assert_eq!(Hand::timer(&actions, Timer::Answer), Some(10_000));
    p.feed(primary::Event::Common(shared::Event::Timer(Timer::Answer)));
    let wrong = Wrong::Overdue { dialect: QEMU, expected: Point::Suspended };
    assert_eq!(cause(&p), Fault { wrong, step: Step::Suspend, guest: Guest::Running });

    let mut s = Hand::<Secondary>::protected(QEMU, Mode::LockStep, Rule::Witness);
    let actions = s.feed(secondary::Event::Common(common::Event::Timer(Timer::Answer)));
    assert!(actions.contains(&secondary::Action::Common(common::Action::AskWitness { generation: Generation(2) })));
}

#[test]
fn the_period_of_the_settings_is_the_wait_for_a_request() {
    let mut s = Hand::<Secondary>::new(QEMU, Mode::Periodic, Rule::Witness);
    s.feed(secondary::Event::StateReceived { checkpoint: 1 });
    let actions = s.feed(secondary::Event::Loaded { checkpoint: 1 });
    let config = s.machine.config();
    let at = Time(0).after(config.period + config.answer);
    assert_eq!(at, Time(0).after(Duration::from_secs(15)));
    assert!(actions.contains(&secondary::Action::Common(common::Action::SetTimer { timer: Timer::Answer, at })));
}
