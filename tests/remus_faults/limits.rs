//! A receiver that has too little memory, or nowhere to write: the primary's guest runs on.

use crate::cases::{self, Outcome};
use crate::world::{PRIMARY, SECONDARY, Wanted, World};
use xen_replicate::control::status::Output;

/// Dirties 4 MiB in 20 ms.
const BUSY: &str = r#"{"memory":2048,"layout":"compact","vcpus":1,"image_pages":64,"working_set":1024,"hot_pages":16,
    "hot_permille":0,"writes_per_step":100}"#;

#[derive(Debug, Clone, Copy)]
enum Limit {
    /// The image is taken, what follows is not: each refusal is answered with an image.
    Budget,
    /// Not even the image is.
    DomainMemory,
    /// The recording cannot be written.
    Disk,
}

fn limited(limit: &Limit) -> Outcome {
    let (args, sim): (&[&str], _) = match limit {
        Limit::Budget => (&["--memory-budget=1"], Some(BUSY)),
        Limit::DomainMemory => (&["--domain-memory=1"], Some(BUSY)),
        Limit::Disk => (&["--record=/dev/full"], None),
    };
    let mut wanted = Wanted { interval: 20, ..Wanted::default() }.receive(args);
    wanted.sim = sim.map_or(wanted.sim, Into::into);
    let (world, mut primary, mut secondary) = World::pair(wanted);
    let outcome = match limit {
        Limit::Budget => {
            // Each image is taken and the checkpoint behind it refused: that is not borne for ever.
            let status = primary.wait_for_active();
            assert_eq!((status.output, status.statistics.refused), (Output::Free, 11));
            assert!(primary.says_critically("--memory-budget, or its host's memory, is too small"));
            assert!(secondary.log().contains("refused (budget)"));
            world.goes_on(PRIMARY);
            "unprotected, the budget named"
        }
        Limit::DomainMemory => {
            let status = primary.wait_for_active();
            assert_eq!((status.output, status.acknowledged, status.statistics.refused), (Output::Free, 0, 4));
            assert!(primary.says_critically("UNPROTECTED") && secondary.log().contains("refused (budget)"));
            secondary.wait_until_idle();
            world.goes_on(PRIMARY);
            "unprotected, loudly"
        }
        Limit::Disk => {
            primary.wait("protected", |status| status.acknowledged >= 20);
            assert!(secondary.log().contains("/dev/full"), "it should say that there is no recording");
            world.goes_on(PRIMARY);
            let acknowledged = primary.status().unwrap().acknowledged;
            primary.kill();
            world.survives(&primary, &mut secondary, SECONDARY, acknowledged);
            return world.over("failovers without the recording", Some(&mut secondary));
        }
    };
    assert!(secondary.survivor().is_none());
    let outcome = world.over(outcome, Some(&mut primary));
    assert!(!secondary.is_gone());
    outcome
}

#[test]
fn out_of_memory_budget_and_of_disk() {
    let limits = [Limit::Budget, Limit::DomainMemory, Limit::Disk];
    let counts = cases::run("receiver out of memory, of disk", &limits, limited);
    assert_eq!(counts.what.len(), 3);
}

/// Refused after it was protected by an image: that still stands when the primary dies.
#[test]
fn a_survivor_of_a_session_in_which_most_was_refused() {
    let wanted = Wanted { interval: 20, sim: BUSY.into(), ..Wanted::default() }
        .receive(&["--memory-budget=1"])
        .remus(&["--refusals-of-100=100"]);
    let counts = cases::run("primary killed, its receiver out of budget", &[3, 4, 5, 6], |refusals| {
        let (world, mut primary, mut secondary) = World::pair(wanted.clone());
        let status = primary
            .wait("refused and protected again", |status| status.protected && status.statistics.refused >= *refusals);
        world.wait_for_packets(3 * refusals);
        primary.kill();
        world.survives(&primary, &mut secondary, SECONDARY, status.acknowledged);
        world.over("failovers", Some(&mut secondary))
    });
    assert_eq!(counts.what.get("failovers"), Some(&4));
}
