//! The two hosts of the demonstration, each a process of its own.

use super::setup::{
    Event, Keeper, LINK, PrimarySetup, Round, SecondarySetup, backend, follow_parent, inherited, run_on, tell, trouble,
};
use super::{colo, state};
use crate::host::sim::{Guest, SimTarget, xl_config};
use crate::hypervisor::Domain;
use crate::hypervisor::sim::SimDomain;
use crate::libxl;
use crate::remus::{Config, Generation, Rule};
use crate::replicate::RoundFigures;
use crate::replicate::failpoint::Failpoints;
use crate::replicate::fence::Fence;
use crate::replicate::link::{Record, Records};
use crate::replicate::primary;
use crate::replicate::secondary::{self, Outcome, Survivor};
use crate::transport::{Cancel, connect};
use clap::Args as ClapArgs;
use serde::de::DeserializeOwned;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The setup of a child, from its parent.
#[derive(Debug, ClapArgs)]
pub struct ChildArgs {
    setup: String,
}

fn setup<T: DeserializeOwned>(args: &ChildArgs) -> io::Result<T> {
    Ok(serde_json::from_str(&args.setup)?)
}

/// Both sides' settings. The demonstration has no third party: the primary goes on alone when it has lost the secondary, the
/// secondary when it has made sure of the primary's death.
fn config(interval: Duration) -> Config {
    Config {
        interval,
        rule: Rule::PrimaryWins,
        fence: true,
        // The dead process is there until its parent has seen it.
        retry: Duration::from_millis(10),
        ..Config::default()
    }
}

/// The primary. Does not return before something fails.
pub fn primary(args: &ChildArgs) -> io::Result<bool> {
    let setup: PrimarySetup = setup(args)?;
    follow_parent(setup.parent)?;
    if let Some(period) = setup.colo {
        return colo::primary(&setup, Duration::from_millis(period));
    }
    let states = setup.states.iter().map(|&fd| inherited(fd)).collect::<io::Result<_>>()?;
    let domain = SimDomain::create(&setup.config).map_err(io::Error::other)?;
    let Guest { runner, output, wire } = backend(setup.cable).house(domain).map_err(io::Error::other)?;
    let settings = primary::Settings {
        domain: setup.config.name.clone(),
        config: config(Duration::from_millis(setup.interval_ms)),
        generation: Generation::default(),
        pacing: None,
        staging_limit: 1 << 30,
        save: libxl::save::Options { config: Some(xl_config(&setup.config)), ..libxl::save::Options::default() },
        witness: None,
        output,
        disks: Vec::new(),
        resolve: Box::new(|_, _, _| Err("a demonstration has two hosts".into())),
        once: true,
        on_round: Some(Box::new(|round: &RoundFigures| {
            // Should the parent be gone, so will we be.
            let _ = tell(&Event::Round(Round::from(round)));
        })),
        failpoints: Failpoints::default(),
    };
    let ended = primary::Driver::default().run(runner, Some(LINK), Keeper(states), settings);
    drop(wire);
    match ended {
        Ok(ended) => trouble(&format!("the primary has ended by itself: {:?}", ended.how)),
        Err(error) => trouble(&format!("the primary: {error}")),
    }
}

/// The secondary.
pub fn secondary(args: &ChildArgs) -> io::Result<bool> {
    let setup: SecondarySetup = setup(args)?;
    follow_parent(setup.parent)?;
    if setup.colo {
        return colo::secondary(&setup);
    }
    let state = inherited(setup.state)?;
    let mut records = setup.record.map(|fd| Records::new(PathBuf::from(format!("/proc/self/fd/{fd}"))));
    let record = records.as_mut().map(Records::next_session);
    let unrecorded = record.as_ref().map(Record::failed);
    let fence = Fence { command: format!("! kill -0 {} 2>&-", setup.primary), timeout: Duration::from_secs(10) };
    let settings = secondary::Settings {
        domain: setup.config.name.clone(),
        config: config(Config::default().interval),
        restore: libxl::restore::Options::default(),
        fence: Some(fence),
        witness: None,
        record,
        on_checkpoint: Some(Box::new(|number| {
            let _ = tell(&Event::Whole { number });
        })),
        on_replica: None,
        failpoints: Failpoints::default(),
    };
    let cancel = Cancel::new()?;
    let link = connect(&LINK, &cancel)?;
    let target = SimTarget { domain: setup.config.name.clone(), memory_budget: None };
    let outcome = secondary::Driver::default().run(link, cancel, target, settings);
    let Survivor { mut domain, checkpoint, lost, .. } = match outcome {
        Ok(Outcome::Survivor(survivor)) => survivor,
        // The demonstration has no witness.
        Ok(Outcome::Denied(held)) => {
            tell(&Event::Refused { text: format!("the secondary was denied: {held:?}") })?;
            return Ok(false);
        }
        Ok(Outcome::Ended(end)) => {
            tell(&Event::Refused { text: format!("the secondary has ended: {end:?}") })?;
            return Ok(false);
        }
        Ok(Outcome::Unsuited(text)) => {
            tell(&Event::Refused { text })?;
            return Ok(false);
        }
        Err(error) => {
            tell(&Event::Refused { text: error.to_string() })?;
            return Ok(false);
        }
    };
    let decided = lost.elapsed();
    if let Some(records) = &mut records {
        records.finish();
    }
    if let Some(text) = unrecorded.as_ref().and_then(|failed| failed.get()) {
        tell(&Event::Unrecorded { text: text.clone() })?;
    }
    // Not a part of a failover.
    state::keep(&domain, checkpoint, &state)?;
    let resuming = std::time::Instant::now();
    let before = domain.steps().map_err(io::Error::other)?;
    domain.unpause().map_err(io::Error::other)?;
    let guest = backend(setup.cable).house(domain).map_err(io::Error::other)?;
    tell(&Event::Resumed { checkpoint, took: decided + resuming.elapsed() })?;
    run_on(guest, before)
}
