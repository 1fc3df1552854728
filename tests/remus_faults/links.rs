//! A link that is cut in one direction or both with its sockets left open, and healed; slow, late and lossy links; a witness out
//! of reach.

use crate::cases::{self, Outcome};
use crate::proxy::{Cut, Proxy, Weather};
use crate::side::{PATIENCE, Side, is_active, until};
use crate::world::{PRIMARY, SECONDARY, TINY, Wanted, World};
use std::fs;
use std::time::{Duration, Instant};
use xen_replicate::control::Request;
use xen_replicate::control::status::Output;

/// A protected pair with a proxy between.
fn pair(wanted: Wanted, weather: Weather, checkpoints: u64) -> (World, Proxy, Side, Side) {
    let world = World::new(Wanted { tcp: true, ..wanted });
    let mut secondary = world.receive("secondary", SECONDARY, &world.wanted.receive);
    secondary.wait_until_idle();
    let proxy = Proxy::start(world.proxy(), world.socket(SECONDARY), weather, [None, None]);
    let mut primary = world.remus(&proxy.link());
    primary.wait("protected", |status| status.protected && status.acknowledged >= checkpoints);
    assert!(world.client().wait_until(PATIENCE, |now| now.acknowledged >= 10), "{:?}", world.progress());
    (world, proxy, primary, secondary)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heal {
    Never,
    /// Before either side takes the other for lost.
    AtOnce,
    /// When one of them goes on alone.
    Afterwards,
}

fn cut(case: &(Cut, Heal, u64)) -> Outcome {
    let &(cut, heal, packets) = case;
    let wanted = match heal {
        Heal::AtOnce => Wanted { timeout: 20_000, answer: 20_000, ..Wanted::default() },
        _ => Wanted::default(),
    };
    let (world, proxy, mut primary, mut secondary) = pair(wanted, Weather::default(), 3);
    world.wait_for_packets(packets);
    proxy.cut(cut);
    if heal == Heal::AtOnce {
        // The output of this moment waits for the acknowledgement that does not come.
        let stuck = primary.wait("held up", |status| status.since_last_ms >= Some(200));
        assert!(stuck.protected && stuck.output == Output::Held, "{stuck:#?}");
        proxy.heal();
        primary.wait("going on", |status| status.protected && status.acknowledged >= stuck.acknowledged + 5);
        world.goes_on(PRIMARY);
        assert!(secondary.survivor().is_none());
        return world.over("went on as before", Some(&mut primary));
    }
    let alone = |side: &Side| side.status().is_some_and(|status| status.phase == "alone");
    let went_over = until(PATIENCE, || if alone(&secondary) { Some(true) } else { alone(&primary).then_some(false) });
    let went_over = went_over.expect("one of them goes on alone");
    // A one-way link leaves one of them able to tell the other.
    assert!(cut == Cut::Both || went_over == (cut == Cut::Forward));
    world.goes_on(if went_over { SECONDARY } else { PRIMARY });
    if heal == Heal::Afterwards {
        proxy.heal();
    }
    let outcome = if went_over {
        primary.wait_for_phase("fenced");
        let acknowledged = primary.status().map_or(0, |status| status.acknowledged);
        world.survives(&primary, &mut secondary, SECONDARY, acknowledged);
        world.one_active_at_most(&mut [&mut primary, &mut secondary]);
        world.over("failovers, the primary fenced", Some(&mut secondary))
    } else {
        secondary.wait_until_idle();
        assert!(secondary.survivor().is_none());
        world.goes_on(PRIMARY);
        world.one_active_at_most(&mut [&mut primary, &mut secondary]);
        world.over("ran on, the secondary dismissed", Some(&mut primary))
    };
    drop(proxy);
    outcome
}

fn cuts(times: u64) -> Vec<(Cut, Heal, u64)> {
    let mut cases = Vec::new();
    for cut in [Cut::Forward, Cut::Backward, Cut::Both] {
        for heal in [Heal::Never, Heal::AtOnce, Heal::Afterwards] {
            cases.extend((0..times).map(|time| (cut, heal, time * 7)));
        }
    }
    cases
}

#[test]
fn cut_one_way_or_both_and_healed() {
    let counts = cases::run("link cut", &cuts(1), cut);
    assert_eq!(counts.what.get("went on as before"), Some(&3));
}

#[test]
#[ignore = "long"]
fn cut_and_healed_90_times() {
    let counts = cases::run("link cut", &cuts(10), cut);
    assert_eq!((counts.cases, counts.what.get("went on as before")), (90, Some(&30)));
}

/// Both sides have lost each other and the witness: nobody goes on, and nothing leaves, until one can ask.
fn witness_away(cut: &Cut) -> Outcome {
    let (world, proxy, mut primary, mut secondary) = pair(Wanted::default(), Weather::default(), 3);
    let [here, away] = ["witness", "away"].map(|name| world.folder.path().join(name));
    fs::rename(&here, &away).unwrap();
    proxy.cut(*cut);
    let leaving = primary.wait_for_phase("leaving");
    assert_eq!(leaving.output, Output::Held);
    primary.wait_for_log("the witness cannot be reached");
    if *cut != Cut::Backward {
        secondary.wait_for_log("the witness cannot be reached");
    }
    for side in [&primary, &secondary] {
        assert!(!is_active(&side.status().unwrap()));
    }
    fs::rename(&away, &here).unwrap();
    let went_over = until(PATIENCE, || {
        let alone = |side: &Side| side.status().is_some_and(|status| status.phase == "alone");
        if alone(&secondary) { Some(true) } else { alone(&primary).then_some(false) }
    });
    let outcome = if went_over.expect("one of them goes on alone") {
        primary.wait_for_phase("fenced");
        world.survives(&primary, &mut secondary, SECONDARY, leaving.acknowledged);
        world.over("failovers, the primary fenced", Some(&mut secondary))
    } else {
        secondary.wait_until_idle();
        world.goes_on(PRIMARY);
        world.over("ran on, the secondary dismissed", Some(&mut primary))
    };
    drop(proxy);
    outcome
}

#[test]
fn the_witness_is_out_of_reach_too() {
    let counts =
        cases::run("link cut, and the witness out of reach", &[Cut::Forward, Cut::Backward, Cut::Both], witness_away);
    assert_eq!(counts.cases, 3);
}

/// A switch-over whose word, or whose answer, does not get through.
fn cut_in_a_switch_over(cut: &Cut) -> Outcome {
    let (world, proxy, mut primary, mut secondary) = pair(Wanted::default(), Weather::default(), 3);
    // Its last checkpoint cannot be acknowledged, or it cannot be sent.
    proxy.cut(*cut);
    let acknowledged = primary.status().map_or(0, |status| status.acknowledged);
    let _ = primary.request(&Request::SwitchOver);
    let decided = until(PATIENCE, || {
        let phase = |side: &Side| side.status().map(|status| status.phase);
        let gone = primary.is_gone();
        if phase(&secondary).as_deref() == Some("alone") {
            Some(true)
        } else {
            (!gone && phase(&primary).as_deref() == Some("alone")).then_some(false)
        }
    });
    let outcome = if decided.expect("one of them goes on alone") {
        world.survives(&primary, &mut secondary, SECONDARY, acknowledged);
        until(PATIENCE, || (primary.is_gone() || primary.status()?.phase == "fenced").then_some(())).unwrap();
        world.over("went over", Some(&mut secondary))
    } else {
        secondary.wait_until_idle();
        world.goes_on(PRIMARY);
        world.over("ran on, the secondary dismissed", Some(&mut primary))
    };
    drop(proxy);
    outcome
}

#[test]
fn cut_while_switching_over() {
    let cases = [Cut::Forward, Cut::Backward, Cut::Both];
    let counts = cases::run("link cut in a switch-over", &cases, cut_in_a_switch_over);
    assert_eq!(counts.cases, 3);
}

/// A host loses its power: its process dies behind a link that carries nothing any more, not even the end of the connection.
fn power_fails(&(primary_dies, packets): &(bool, u64)) -> Outcome {
    let (world, proxy, mut primary, mut secondary) = pair(Wanted::default(), Weather::default(), 3);
    world.wait_for_packets(packets);
    proxy.cut(Cut::Both);
    let since = Instant::now();
    let outcome = if primary_dies {
        let acknowledged = primary.status().map_or(0, |status| status.acknowledged);
        primary.kill();
        world.survives(&primary, &mut secondary, SECONDARY, acknowledged);
        world.over("failovers", Some(&mut secondary))
    } else {
        secondary.kill();
        world.runs_on(&mut primary, since);
        world.over("ran on unprotected", Some(&mut primary))
    };
    drop(proxy);
    outcome
}

#[test]
fn a_host_loses_its_power() {
    let cases: Vec<(bool, u64)> = (0..8).map(|n| (n % 2 == 0, 5 * n)).collect();
    let counts = cases::run("a host without power", &cases, power_fails);
    assert_eq!((counts.what.get("failovers"), counts.what.get("ran on unprotected")), (Some(&4), Some(&4)));
}

#[derive(Debug, Clone, Copy)]
enum Sky {
    /// 100 ms each way.
    Late,
    /// One segment of ten is lost.
    Lossy,
    /// 1 Mbit/s.
    Slow,
    All,
}

impl Sky {
    const fn weather(self) -> Weather {
        const CLEAR: Weather =
            Weather { delay: Duration::ZERO, rate: None, loss_permille: 0, again: Duration::from_millis(200) };
        const DELAY: Duration = Duration::from_millis(100);
        match self {
            Sky::Late => Weather { delay: DELAY, ..CLEAR },
            Sky::Lossy => Weather { loss_permille: 100, again: Duration::from_millis(10), ..CLEAR },
            Sky::Slow => Weather { rate: Some(125_000), ..CLEAR },
            Sky::All => Weather { delay: DELAY, rate: Some(125_000), loss_permille: 20, ..CLEAR },
        }
    }
}

/// The pair stays protected, the client is served, and a failover loses nothing.
fn bad_weather(sky: &Sky) -> Outcome {
    let begun = Instant::now();
    let wanted = Wanted { sim: TINY.into(), timeout: 1000, answer: 30_000, interval: 20, ..Wanted::default() };
    let (world, proxy, mut primary, mut secondary) = pair(wanted, sky.weather(), 1);
    let ready = begun.elapsed();
    let status = primary.wait("at its tenth checkpoint", |status| status.acknowledged >= 10);
    assert!(status.protected && status.statistics.refused == 0, "{status:#?}");
    world.goes_on(PRIMARY);
    let acknowledged = primary.status().unwrap().acknowledged;
    assert!(secondary.survivor().is_none());
    let delay = status.statistics.output_delay;
    println!(
        "{sky:?}: protected after {:.1} s; output delayed p50 {} ms, p99 {} ms",
        ready.as_secs_f64(),
        delay.p50 / 1000,
        delay.p99 / 1000
    );
    primary.kill();
    world.survives(&primary, &mut secondary, SECONDARY, acknowledged);
    let outcome = world.over("failovers", Some(&mut secondary));
    drop(proxy);
    outcome
}

#[test]
fn late_lossy_and_slow() {
    let counts = cases::run("100 ms, 10 % loss, 1 Mbit/s (proxy)", &[Sky::Slow, Sky::Late, Sky::Lossy], bad_weather);
    assert_eq!(counts.what.get("failovers"), Some(&3));
}

#[test]
#[ignore = "long"]
fn late_lossy_and_slow_at_once() {
    let counts = cases::run("100 ms, 2 % loss and 1 Mbit/s at once (proxy)", &[Sky::All], bad_weather);
    assert_eq!(counts.what.get("failovers"), Some(&1));
}
