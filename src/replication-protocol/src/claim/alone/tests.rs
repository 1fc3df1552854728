use super::*;
use crate::protocol::Notice;

const HELD: Generation = Generation(4);
const NEXT: Generation = Generation(5);
const RETRY: Duration = Duration::from_millis(500);

fn machine(rule: Rule) -> GoAlone<char> {
    GoAlone::new(rule, RETRY, HELD, Stage::Session)
}

/// One that leaves a secondary that may have a checkpoint.
fn leaving() -> (GoAlone<char>, Vec<Action>) {
    let (mut machine, mut out) = (machine(Rule::Witness), Vec::new());
    assert_eq!(machine.leave('a', Other::Replica, &mut out), Next::Wait);
    (machine, out)
}

fn answer(verdict: Verdict) -> Answer {
    Answer { generation: NEXT, verdict }
}

#[test]
fn a_session_begins_with_a_generation_of_its_own_which_is_asked_for_where_there_is_a_witness() {
    let mut out = Vec::<Action>::new();
    let mut machine = GoAlone::<char>::new(Rule::Witness, RETRY, HELD, Stage::Alone);
    machine.meet();
    assert_eq!((machine.claim(&mut out), machine.stage()), (Next::Wait, Stage::Claiming));
    assert_eq!(out, [Action::AskWitness { generation: NEXT }]);
    assert_eq!(machine.answered(answer(Verdict::Granted), &mut out), Next::Begin);
    assert_eq!((machine.stage(), machine.generation()), (Stage::Session, NEXT));
    let mut machine = GoAlone::<char>::new(Rule::Manual, RETRY, HELD, Stage::Meeting);
    assert_eq!((machine.claim(&mut out), machine.generation()), (Next::Begin, NEXT));
    // A peer that knows of no generation has the one there is.
    let mut machine = GoAlone::<char>::new(Rule::Witness, RETRY, HELD, Stage::Meeting);
    assert_eq!((machine.begin(), machine.generation()), (Next::Begin, HELD));
}

#[test]
fn a_session_that_cannot_be_claimed_does_not_come_about() {
    let mut out = Vec::<Action>::new();
    let mut machine = GoAlone::<char>::new(Rule::Witness, RETRY, HELD, Stage::Meeting);
    let _ = machine.claim(&mut out);
    assert_eq!(machine.answered(answer(Verdict::Unreachable), &mut out), Next::NoSession);
    machine.stay();
    // The answer was on its way.
    assert_eq!(machine.answered(answer(Verdict::Granted), &mut out), Next::Wait);
    assert_eq!((machine.stage(), machine.generation()), (Stage::Alone, NEXT));
}

#[test]
fn who_leaves_a_replica_asks_and_who_leaves_nothing_does_not() {
    let (mut machine, mut out) = leaving();
    assert_eq!(machine.stage(), Stage::Leaving { cause: 'a', asked: true, heard: false });
    assert_eq!(machine.answered(answer(Verdict::Granted), &mut out), Next::Alone('a'));
    assert_eq!((machine.stage(), machine.generation()), (Stage::Alone, NEXT));
    assert_eq!(out, [Action::AskWitness { generation: NEXT }]);
    for rule in [Rule::Witness, Rule::Manual] {
        let (mut machine, mut out) = (self::machine(rule), Vec::<Action>::new());
        assert_eq!(machine.leave('b', Other::Nothing, &mut out), Next::Alone('b'));
        assert_eq!((machine.generation(), out.len()), (HELD, 0));
    }
    let mut machine = self::machine(Rule::PrimaryWins);
    assert_eq!(machine.leave('c', Other::Replica, &mut out), Next::Alone('c'));
    assert_eq!(machine.generation(), NEXT);
}

#[test]
fn a_guest_that_was_handed_over_without_a_witness_is_the_operators_to_decide() {
    let (mut machine, mut out) = (machine(Rule::Manual), Vec::<Action>::new());
    assert_eq!(machine.leave('d', Other::Guest, &mut out), Next::Operator);
    machine.retry(&mut out);
    assert!(out.is_empty(), "{out:?}");
    assert_eq!(machine.heard(), Next::Back);
    machine.force();
    assert_eq!((machine.stage(), machine.generation()), (Stage::Alone, NEXT));
}

#[test]
fn somebody_elses_generation_ends_it_for_good() {
    let (mut machine, mut out) = leaving();
    let held = answer(Verdict::Held { newest: Generation(9) });
    assert_eq!(machine.answered(held, &mut out), Next::Ended);
    assert_eq!((machine.stage(), machine.generation()), (Stage::Ended, Generation(9)));
    let late = Answer { generation: Generation(10), verdict: Verdict::Granted };
    assert_eq!(machine.answered(late, &mut out), Next::Wait);
    // It need not be resumed.
    assert!(!machine.stuck());
    assert_eq!(machine.stage(), Stage::Ended);
}

#[test]
fn what_is_undecided_is_asked_again_or_goes_on_as_before() {
    let (mut machine, mut out) = leaving();
    out.clear();
    // What has been asked may be granted yet.
    assert_eq!(machine.heard(), Next::Wait);
    assert_eq!(machine.answered(answer(Verdict::Unreachable), &mut out), Next::Undecided('a'));
    machine.later(Time(7), &mut out);
    let told = Notice { level: Level::Critical, code: Code::WitnessUnreachable };
    let at = Time(7).after(RETRY);
    assert_eq!(out, [Action::Notice(told), Action::SetTimer { timer: Timer::Retry, at }]);
    assert_eq!(machine.heard(), Next::Back);
    machine.instead('e');
    machine.unhear();
    out.clear();
    machine.retry(&mut out);
    machine.retry(&mut out);
    assert_eq!(out, [Action::AskWitness { generation: NEXT }], "once");
    assert_eq!(machine.stage(), Stage::Leaving { cause: 'e', asked: true, heard: false });
    // An answer to another question decides nothing.
    let other = Answer { generation: HELD, verdict: Verdict::Granted };
    assert_eq!(machine.answered(other, &mut out), Next::Wait);
    machine.back();
    assert_eq!((machine.stage(), machine.generation()), (Stage::Session, HELD));
}
