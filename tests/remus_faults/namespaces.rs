//! The two sides and the client as three hosts, each in a network namespace of its own: real TCP, whose segments are lost.
//!
//! Needs root, iproute2 and veth; for loss, sch_netem or nft. What cannot be had is said; with `XEN_REPLICATE_NETNS=required` in
//! the environment it is an error.

use crate::cases::{self, Outcome, Permit};
use crate::hosts::{Hosts, Spaces};
use crate::proxy::Cut;
use crate::side::{PATIENCE, Side, until};
use crate::world::{PRIMARY, SECONDARY, TINY, Wanted, World};

/// Whether a fault can be had here. Says so if it cannot.
fn can(what: &str, tried: Result<(), String>) -> bool {
    if let Err(why) = &tried {
        assert!(std::env::var("XEN_REPLICATE_NETNS").as_deref() != Ok("required"), "{what}: {why}");
        println!("namespaces: NOT RUN: {what}: {why}");
    }
    tried.is_ok()
}

fn spaces(what: &str) -> Option<Spaces> {
    match Spaces::make() {
        Ok(spaces) => Some(spaces),
        Err(why) => {
            can(what, Err(why));
            None
        }
    }
}

fn pair(wanted: Wanted, spaces: Spaces, checkpoints: u64) -> (World, Side, Side) {
    let wanted = Wanted { tcp: true, ..wanted };
    let world = World::on(Hosts::Spaces(spaces), Permit::wait(), wanted);
    let mut secondary = world.receive("secondary", SECONDARY, &world.wanted.receive);
    secondary.wait_until_idle();
    let mut primary = world.remus(&world.link(SECONDARY));
    primary.wait("protected", |status| status.protected && status.acknowledged >= checkpoints);
    assert!(world.client().wait_until(PATIENCE, |now| now.acknowledged >= 10), "{:?}", world.progress());
    (world, primary, secondary)
}

fn shaped(world: &World) -> &Spaces {
    match &world.hosts {
        Hosts::Spaces(spaces) => spaces,
        Hosts::Loopback { .. } => unreachable!("made on spaces"),
    }
}

fn cut(&(cut, heals): &(Cut, bool)) -> Outcome {
    let spaces = Spaces::make().unwrap();
    let (world, mut primary, mut secondary) = pair(Wanted::default(), spaces, 5);
    shaped(&world).cut(cut);
    let alone = |side: &Side| side.status().is_some_and(|status| status.phase == "alone");
    let went_over = until(PATIENCE, || if alone(&secondary) { Some(true) } else { alone(&primary).then_some(false) });
    let went_over = went_over.expect("one of them goes on alone");
    if heals {
        shaped(&world).heal();
    }
    if went_over {
        world.goes_on(SECONDARY);
        primary.wait_for_phase("fenced");
        let acknowledged = primary.status().map_or(0, |status| status.acknowledged);
        world.survives(&primary, &mut secondary, SECONDARY, acknowledged);
        world.one_active_at_most(&mut [&mut primary, &mut secondary]);
        return world.over("failovers, the primary fenced", Some(&mut secondary));
    }
    world.goes_on(PRIMARY);
    secondary.wait_until_idle();
    world.one_active_at_most(&mut [&mut primary, &mut secondary]);
    world.over("ran on, the secondary dismissed", Some(&mut primary))
}

#[test]
#[ignore = "long"]
fn cut_and_healed() {
    if spaces("link cut").is_none() {
        return;
    }
    let cuts = [Cut::Forward, Cut::Backward, Cut::Both];
    let cases: Vec<(Cut, bool)> = cuts.into_iter().flat_map(|cut| [(cut, false), (cut, true)]).collect();
    let counts = cases::run("namespaces: link cut", &cases, cut);
    assert_eq!(counts.cases, 6);
}

/// Stays protected, and fails over without loss.
fn holds(spaces: Spaces) -> Outcome {
    let wanted = Wanted { sim: TINY.into(), interval: 20, timeout: 2000, answer: 30_000, ..Wanted::default() };
    let (world, mut primary, mut secondary) = pair(wanted, spaces, 1);
    let status = primary.wait("at its tenth checkpoint", |status| status.acknowledged >= 10);
    assert!(status.protected && status.statistics.refused == 0, "{status:#?}");
    world.goes_on(PRIMARY);
    assert!(secondary.survivor().is_none());
    let acknowledged = primary.status().unwrap().acknowledged;
    primary.kill();
    world.survives(&primary, &mut secondary, SECONDARY, acknowledged);
    world.over("failovers", Some(&mut secondary))
}

/// Sets the link's state up, or says why not.
type Shape = fn(&Spaces) -> Result<(), String>;

#[test]
#[ignore = "long"]
fn late_lossy_and_slow() {
    let kinds: [(&str, Shape); 4] = [
        ("clear", |_| Ok(())),
        ("100 ms each way", |spaces| spaces.shape("netem delay 100ms")),
        ("10 % of packets lost each way", |spaces| {
            spaces.shape("netem loss 10%").or_else(|_| spaces.lose_one_in_ten())
        }),
        ("1 Mbit/s", |spaces| spaces.shape("tbf rate 1mbit burst 16kb latency 400ms")),
    ];
    for (name, shape) in kinds {
        let Some(spaces) = spaces(name) else { return };
        if can(name, shape(&spaces)) {
            let spaces = std::sync::Mutex::new(Some(spaces));
            let counts = cases::run(&format!("namespaces: {name}"), &[()], |()| {
                holds(spaces.lock().unwrap().take().expect("one case"))
            });
            assert_eq!(counts.what.get("failovers"), Some(&1));
        }
    }
}
