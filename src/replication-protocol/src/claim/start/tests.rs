use super::*;
use crate::claim::Process;

fn host(id: &str, name: &str) -> Host {
    Host { id: id.into(), name: name.into() }
}

fn facts() -> Facts {
    Facts { host: host("a", "hosta"), uuid: "u".into(), output_left: false, witness: true, force: None }
}

fn record(host: Option<Host>) -> Record {
    let process = Process { boot: "1".into(), pid: 2, started: 3 };
    let (holder, uuid) = ("hosta/2/00".into(), Some("u".into()));
    Record { domain: "web".into(), generation: 4, holder, taken: 0, host, process: Some(process), uuid, session: None }
}

fn newest(record: Record, alive: bool) -> Newest {
    Newest { generation: Generation(4), named: Named::Holder { record: Box::new(record), alive } }
}

fn looked(facts: Facts, newest: Option<Newest>) -> (Start, Action) {
    let (mut start, first) = Start::new(facts);
    assert_eq!(first, Action::Look);
    let action = start.handle(Event::Newest(newest));
    (start, action)
}

fn why(action: Action) -> Unknown {
    match action {
        Action::Decided(Decision::Unknown { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

fn who(action: Action) -> InCharge {
    match action {
        Action::Decided(Decision::Superseded { who, generation: Generation(4), .. }) => who,
        other => panic!("{other:?}"),
    }
}

#[test]
fn where_nobody_has_protected_it_nothing_is_acquired() {
    let runs = Action::Decided(Decision::Runs { generation: Generation(0), before: None });
    assert_eq!(looked(facts(), None).1, runs);
    assert_eq!(Start::new(Facts { witness: false, ..facts() }).1, runs);
}

#[test]
fn this_very_domain_here_goes_on_when_the_next_generation_is_its_own_and_not_before() {
    let left = Facts { output_left: true, ..facts() };
    let ours = newest(record(Some(host("a", "hosta"))), false);
    let (mut start, action) = looked(left, Some(ours.clone()));
    assert_eq!(action, Action::Acquire { generation: Generation(5) });
    let action = start.handle(Event::Answer(Verdict::Granted));
    assert_eq!(action, Action::Decided(Decision::Runs { generation: Generation(5), before: Some(ours) }));
    assert_eq!(start.handle(Event::Unreachable), action, "it is decided");
}

#[test]
fn whoever_else_holds_the_newest_is_named() {
    assert_eq!(who(looked(facts(), Some(newest(record(Some(host("b", "hostb"))), false))).1), InCharge::OtherHost);
    // Hosts may have one name.
    assert_eq!(who(looked(facts(), Some(newest(record(Some(host("b", "hosta"))), false))).1), InCharge::OtherHost);
    assert_eq!(who(looked(facts(), Some(newest(record(Some(host("a", "hosta"))), true))).1), InCharge::OtherProcess);
    let old = Record { holder: "hostb/1/00".into(), uuid: None, process: None, ..record(None) };
    assert_eq!(who(looked(facts(), Some(newest(old, false))).1), InCharge::OtherHost);
}

#[test]
fn what_cannot_be_known_is_not_guessed() {
    let ours = record(Some(host("a", "hosta")));
    let malformed = Newest { generation: Generation(4), named: Named::Malformed };
    let (mut unread, _) = Start::new(facts());
    assert_eq!(why(unread.handle(Event::Unreachable)), Unknown::Unreachable);
    for (record, expected) in [
        (record(None), Unknown::OnlyNamed),
        (record(Some(host("a", "renamed"))), Unknown::SameIdentity),
        (record(Some(host("", "hosta"))), Unknown::NoIdentity),
        (Record { uuid: Some("other".into()), ..ours.clone() }, Unknown::OtherDomain),
        (Record { uuid: None, ..ours.clone() }, Unknown::OtherDomain),
    ] {
        assert_eq!(why(looked(facts(), Some(newest(record, false))).1), expected);
    }
    assert_eq!(why(looked(facts(), Some(malformed)).1), Unknown::Malformed);
    let nameless = Facts { host: host("", "hosta"), ..facts() };
    assert_eq!(why(looked(nameless, Some(newest(ours, false))).1), Unknown::NoIdentity);
    // Held by whom, nobody knows.
    for witness in [true, false] {
        let (mut start, action) = Start::new(Facts { output_left: true, witness, ..facts() });
        let action = if witness { start.handle(Event::Newest(None)) } else { action };
        assert_eq!(why(action), Unknown::Held);
    }
}

#[test]
fn somebody_who_is_faster_is_seen_at_the_second_look() {
    let ours = newest(record(Some(host("a", "hosta"))), false);
    let denied = || {
        let (mut start, _) = looked(facts(), Some(ours.clone()));
        let again = start.handle(Event::Answer(Verdict::Held { newest: Generation(5) }));
        assert_eq!(again, Action::Look);
        start
    };
    let theirs = newest(record(Some(host("b", "hostb"))), false);
    assert_eq!(who(denied().handle(Event::Newest(Some(theirs)))), InCharge::OtherHost);
    // A witness that says one thing and another is not asked for ever.
    assert_eq!(why(denied().handle(Event::Newest(Some(ours.clone())))), Unknown::Denied);
    let (mut start, _) = looked(facts(), Some(ours.clone()));
    assert_eq!(why(start.handle(Event::Answer(Verdict::Unreachable))), Unknown::Unreachable);
}

#[test]
fn the_operator_overrides_by_the_number_and_by_that_number_only() {
    let force = |number| Facts { force: Some(Generation(number)), ..facts() };
    let theirs = newest(record(Some(host("b", "hostb"))), false);
    let malformed = Newest { generation: Generation(4), named: Named::Malformed };
    for newest in [theirs.clone(), malformed] {
        let (mut start, action) = looked(force(4), Some(newest));
        assert_eq!(action, Action::Acquire { generation: Generation(5) });
        let action = start.handle(Event::Answer(Verdict::Granted));
        assert!(matches!(action, Action::Decided(Decision::Runs { generation: Generation(5), .. })));
    }
    assert_eq!(who(looked(force(3), Some(theirs.clone())).1), InCharge::OtherHost);
    assert_eq!(who(looked(force(5), Some(theirs.clone())).1), InCharge::OtherHost);
    assert_eq!(why(looked(force(4), None).1), Unknown::NothingToForce);
    // Of two at one domain, one is ended first.
    let alive = newest(record(Some(host("a", "hosta"))), true);
    assert_eq!(who(looked(force(4), Some(alive)).1), InCharge::OtherProcess);
    // The number is used once.
    let (mut start, _) = looked(force(4), Some(theirs.clone()));
    assert_eq!(start.handle(Event::Answer(Verdict::Held { newest: Generation(5) })), Action::Look);
    assert_eq!(who(start.handle(Event::Newest(Some(theirs)))), InCharge::OtherHost);
}
