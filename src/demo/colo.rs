//! `demo --colo`: the two hosts where the guest runs on both.

use super::setup::{Event, Keeper, PrimarySetup, Round, SecondarySetup, backend, inherited, run_on, tell, trouble};
use super::state;
use crate::colo::{Config, Dialect, Mode};
use crate::control::Request;
use crate::control::status::LockStep;
use crate::host::colo::SimLockstep;
use crate::host::sim::{Guest, SimTarget, xl_config};
use crate::hypervisor::sim::{Runner, SimDomain, SimOutput};
use crate::libxl;
use crate::remus::{Generation, Rule};
use crate::replicate::RoundFigures;
use crate::replicate::colo::primary::{self, Observer};
use crate::replicate::colo::secondary::{self, Outcome, Survivor};
use crate::replicate::fence::Fence;
use crate::transport::{Cancel, connect};
use std::fs::File;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// From one look at the primary's figures to the next.
const LOOK: Duration = Duration::from_millis(20);

/// Both sides' settings, as in Remus' demonstration.
fn config(period: Duration) -> Config {
    Config {
        period,
        rule: Rule::PrimaryWins,
        fence: true,
        // The dead process is there until its parent has seen it.
        retry: Duration::from_millis(10),
        ..Config::new(Dialect::Libxl, Mode::LockStep)
    }
}

/// The primary. Does not return before something fails.
pub(super) fn primary(setup: &PrimarySetup, period: Duration) -> io::Result<bool> {
    let states = setup.states.iter().map(|&fd| inherited(fd)).collect::<io::Result<_>>()?;
    let domain = SimDomain::create(&setup.config).map_err(io::Error::other)?;
    let Guest { runner, wire, .. } = backend(setup.cable).house(domain).map_err(io::Error::other)?;
    let card = Box::new(SimOutput::new(runner.nic()));
    let mut settings = primary::Settings::new(setup.config.name.clone(), config(period), Generation::default(), card);
    settings.save = libxl::save::Options { config: Some(xl_config(&setup.config)), ..libxl::save::Options::default() };
    settings.once = true;
    settings.on_round = Some(Box::new(|round: &RoundFigures| {
        // Should the parent be gone, so will we be.
        let _ = tell(&Event::Round(Round::from(round)));
    }));
    let driver = primary::Driver::default();
    let handle = driver.handle();
    let (_ends, ended) = channel::<()>();
    thread::Builder::new().name("figures".into()).spawn(move || {
        let mut last = LockStep::default();
        while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            let status = handle.request(Request::Status).status;
            if let Some(now) = status.and_then(|status| status.lock_step).filter(|now| *now != last) {
                last = now;
                let _ = tell(&Event::Compared(now));
            }
        }
    })?;
    let ended = driver.run(runner, super::setup::LINK, Keeper(states), settings);
    drop(wire);
    match ended {
        Ok(ended) => trouble(&format!("the primary has ended by itself: {:?}", ended.how)),
        Err(error) => trouble(&format!("the primary: {error}")),
    }
}

/// Keeps the copy's state at the checkpoint that it loaded last.
struct Loaded(File);

impl Observer<Runner> for Loaded {
    fn suspended(&mut self, number: u64, domain: &Runner) {
        if let Err(error) = state::keep(domain, number, &self.0) {
            let _ = tell(&Event::Trouble { text: error.to_string() });
        }
    }
}

/// The secondary.
pub(super) fn secondary(setup: &SecondarySetup) -> io::Result<bool> {
    let fence = Fence { command: format!("! kill -0 {} 2>&-", setup.primary), timeout: Duration::from_secs(10) };
    let name = setup.config.name.clone();
    let mut settings = secondary::Settings::new(name.clone(), config(Duration::from_secs(5)));
    settings.fence = Some(fence);
    settings.record = setup.record.map(inherited).transpose()?;
    settings.on_checkpoint = Some(Box::new(|number| {
        let _ = tell(&Event::Whole { number });
    }));
    let cancel = Cancel::new()?;
    let link = connect(&super::setup::LINK, &cancel)?;
    let backend = backend(setup.cable);
    let target = SimTarget { domain: name, memory_budget: None };
    let target = SimLockstep { target, pace: backend.pace() };
    let observer = Loaded(inherited(setup.state)?);
    let outcome = secondary::Driver::default().run(link, cancel, target, observer, settings);
    let Survivor { domain, checkpoint, lost, .. } = match outcome {
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
    let guest = backend.plug(domain).map_err(io::Error::other)?;
    tell(&Event::Resumed { checkpoint, took: lost.elapsed() })?;
    let before = guest.runner.turn().and_then(|turn| turn.steps()).map_err(io::Error::other)?;
    run_on(guest, before)
}
