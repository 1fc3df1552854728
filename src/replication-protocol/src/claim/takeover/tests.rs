use super::*;

const SESSION: Generation = Generation(4);
const NEXT: Generation = Generation(5);
const RETRY: Duration = Duration::from_millis(500);
const NOW: Time = Time(7);

fn machine(rule: Rule, fence: bool) -> TakeOver {
    TakeOver::new(Terms { rule, fence, retry: RETRY }, SESSION)
}

fn lost(rule: Rule, fence: bool) -> (TakeOver, Vec<Action>, Next) {
    let (mut machine, mut out) = (machine(rule, fence), Vec::new());
    let next = machine.lost(true, &mut out);
    (machine, out, next)
}

fn say(code: Code) -> Action {
    Action::Notice(Notice { level: Level::Critical, code })
}

fn answer(verdict: Verdict) -> Answer {
    Answer { generation: NEXT, verdict }
}

#[test]
fn the_witness_comes_before_the_fence_and_the_fence_before_the_guest() {
    let (mut machine, mut out, next) = lost(Rule::Witness, true);
    assert_eq!((next, machine.stage()), (Next::Wait, Stage::Claiming));
    assert_eq!(machine.answered(NOW, answer(Verdict::Granted), &mut out), Next::Wait);
    assert_eq!((machine.stage(), machine.generation(), machine.is_granted()), (Stage::Fencing, NEXT, true));
    assert_eq!(machine.fenced(NOW, true, &mut out), Next::Activate);
    machine.activated(&mut out);
    assert_eq!((machine.stage(), machine.generation()), (Stage::Active, NEXT));
    let asked = Action::AskWitness { generation: NEXT };
    let fence = Action::RunFence { generation: NEXT };
    assert_eq!(out, [asked, fence, say(Code::Activating), say(Code::Active)]);
}

#[test]
fn who_is_denied_is_denied_and_knows_by_which_number() {
    let (mut machine, mut out, _) = lost(Rule::Witness, true);
    let held = answer(Verdict::Held { newest: Generation(9) });
    assert_eq!(machine.answered(NOW, held, &mut out), Next::Denied);
    assert_eq!((machine.stage(), machine.generation(), machine.is_granted()), (Stage::Denied, Generation(9), false));
    assert_eq!(machine.retry(&mut out), Next::Wait);
    assert_eq!(machine.fail_over(true, NOW, &mut out), Err(Refused::Phase));
}

#[test]
fn an_answer_to_another_question_decides_nothing() {
    let (mut machine, mut out, _) = lost(Rule::Witness, false);
    let other = Answer { generation: Generation(6), verdict: Verdict::Granted };
    assert_eq!(machine.answered(NOW, other, &mut out), Next::Wait);
    assert_eq!(machine.fenced(NOW, true, &mut out), Next::Wait);
    assert_eq!((machine.stage(), machine.is_granted()), (Stage::Claiming, false));
}

#[test]
fn what_failed_is_tried_again_and_a_grant_is_not_asked_for_twice() {
    let (mut machine, mut out, _) = lost(Rule::Witness, true);
    out.clear();
    assert_eq!(machine.answered(NOW, answer(Verdict::Unreachable), &mut out), Next::Wait);
    let later = Action::SetTimer { timer: Timer::Retry, at: NOW.after(RETRY) };
    assert_eq!((machine.stage(), &out[..]), (Stage::Waiting, &[say(Code::WitnessUnreachable), later][..]));
    assert_eq!(machine.retry(&mut out), Next::Wait);
    assert_eq!(machine.answered(NOW, answer(Verdict::Granted), &mut out), Next::Wait);
    assert_eq!(machine.fenced(NOW, false, &mut out), Next::Wait);
    assert_eq!(machine.stage(), Stage::Waiting);
    out.clear();
    assert_eq!(machine.retry(&mut out), Next::Wait);
    assert_eq!(out, [Action::RunFence { generation: NEXT }]);
}

#[test]
fn a_primary_that_is_heard_again_is_followed_but_not_after_the_question() {
    let (mut machine, mut out, _) = lost(Rule::Manual, false);
    assert_eq!((machine.stage(), &out[..]), (Stage::Waiting, &[say(Code::OperatorNeeded)][..]));
    assert!(machine.heard(&mut out));
    assert_eq!(machine.stage(), Stage::Following);
    assert!(!machine.heard(&mut out));
    let (mut machine, mut out, _) = lost(Rule::Witness, false);
    assert!(!machine.heard(&mut out));
    assert_eq!(machine.stage(), Stage::Claiming);
}

#[test]
fn the_primary_wins_unless_it_can_be_fenced() {
    assert_eq!(lost(Rule::PrimaryWins, false).0.stage(), Stage::Waiting);
    assert_eq!(lost(Rule::PrimaryWins, true).1, [Action::RunFence { generation: NEXT }]);
    let (mut machine, mut out) = (machine(Rule::PrimaryWins, true), Vec::<Action>::new());
    assert_eq!(machine.lost(false, &mut out), Next::Wait);
    assert_eq!((machine.stage(), &out[..]), (Stage::Waiting, &[say(Code::OperatorNeeded)][..]));
}

#[test]
fn a_primary_that_hands_over_is_not_fenced() {
    let (mut machine, mut out) = (machine(Rule::Manual, true), Vec::<Action>::new());
    assert_eq!(machine.delegate(&mut out), Next::Activate);
    assert_eq!(out, [say(Code::Activating)]);
    assert_eq!((machine.generation(), machine.is_granted()), (NEXT, true));
}

#[test]
fn a_goodbye_under_the_fence_counts_when_the_fence_has_failed() {
    let (mut machine, mut out, _) = lost(Rule::PrimaryWins, true);
    assert_eq!(machine.goodbye(), Next::Wait);
    assert_eq!(machine.clone().fenced(NOW, true, &mut out), Next::Activate);
    assert_eq!(machine.fenced(NOW, false, &mut out), Next::Dismissed);
    assert_eq!(self::machine(Rule::Manual, false).goodbye(), Next::Dismissed);
}

#[test]
fn the_operators_force_spares_nobody_while_the_primary_is_heard() {
    let (mut following, mut out) = (machine(Rule::Witness, true), Vec::<Action>::new());
    let heard = Time(3);
    assert_eq!(following.fail_over(false, heard, &mut out), Err(Refused::PrimaryAlive { heard }));
    assert_eq!((following.stage(), out.len()), (Stage::Following, 0));
    assert_eq!(following.fail_over(true, heard, &mut out), Ok(Next::Wait));
    assert_eq!(out, [say(Code::Forced), Action::AskWitness { generation: NEXT }]);
    out.clear();
    assert_eq!(following.fail_over(false, heard, &mut out), Err(Refused::Phase));
    assert_eq!(following.fail_over(true, heard, &mut out), Ok(Next::Activate));
    assert_eq!((out, following.generation()), (vec![say(Code::Forced), say(Code::Activating)], NEXT));
}
