//! A backend's part in `receive`, and what a session with one primary takes and leaves.

use super::Protection;
use super::operator::Desk;
use super::primary;
use crate::libxl::restore::Options;
use crate::remus::Generation;
use crate::remus::pacing::Pacing;
use crate::replicate::failpoint::Failpoints;
use crate::replicate::held::Facts;
use crate::replicate::primary::{Ending, Resolve};
use crate::replicate::secondary::{Copies, Outcome, Survivor, Trouble};
use crate::transport::{Cancel, Link};
use std::io;
use std::path::PathBuf;
use std::time::Instant;

/// A backend's part: where copies are kept, and where a survivor lives.
pub trait Home: Sized + 'static {
    /// What makes the copies.
    type Copies: Copies;

    /// A maker of copies, for one session.
    fn copies(&self) -> Self::Copies;

    /// A survivor's life on this host: lets it run, calls `tell` then, and has it be a primary, by `job` with what of that is the
    /// backend's filled in.
    ///
    /// # Errors
    /// The domain cannot be had, or what the primary failed with.
    fn live(
        &self,
        domain: <Self::Copies as Copies>::Domain,
        checkpoint: u64,
        job: primary::Job,
        desk: &Desk,
        tell: &dyn Fn(),
    ) -> io::Result<Ending>;

    /// Another process of this host keeps a copy of the domain: what this one makes must not be taken for it.
    fn beside(&mut self) {}

    /// Whether primaries are served in lock-step (COLO) instead of by checkpoints.
    fn is_lockstep(&self) -> bool {
        false
    }

    /// Serves one primary in lock-step, and goes on with the guest when it may.
    ///
    /// # Errors
    /// What the session, or the survivor, failed with; the backend has no lock-step.
    fn one_in_lockstep(&self, _session: Session, _job: &Job<Self>, _desk: &Desk) -> io::Result<Served<Self>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// How to receive.
pub struct Job<H> {
    /// Who may be active alone.
    pub protection: Protection,
    /// Whose guest it is.
    pub home: H,
    /// How to restore.
    pub restore: Options,
    /// Where to keep the streams.
    pub record: Option<PathBuf>,
    /// Whether one primary is enough.
    pub once: bool,
    /// The part of this side's operator's command line in front of the command: `xen-replicate ctl web`.
    pub ctl: String,
    /// The control socket of another process of this host that keeps a denied replica of the domain until this one has its own.
    pub beside: Option<PathBuf>,
    /// For the survivor: what `ctl protect HOST` means.
    pub resolve: Box<dyn Fn() -> Resolve>,
    /// For the survivor: how the interval moves by itself.
    pub pacing: Option<Pacing>,
    /// For the survivor: most bytes copied before the guest runs on.
    pub staging_limit: u64,
    /// Where tests let this process die.
    pub failpoints: Failpoints,
}

impl<H> Job<H> {
    /// What a survivor's primary is to do, but for what is the backend's.
    pub(super) fn next(&self, generation: Generation) -> primary::Job {
        primary::Job {
            protection: self.protection.clone(),
            generation,
            to: None,
            resolve: (self.resolve)(),
            pacing: self.pacing,
            staging_limit: self.staging_limit,
            config: String::new(),
            libxc: crate::libxc::save::Options::default(),
            disks: Vec::new(),
            once: false,
            failpoints: Failpoints::default(),
        }
    }

    pub(super) fn tell(&self, checkpoint: u64, generation: Generation, lost: Instant) {
        log::warn!(
            "{}: the guest runs here, from checkpoint {checkpoint}, {:.1} ms after the primary counted as lost; \
             {generation}. It is UNPROTECTED: ctl protect HOST",
            self.protection.domain,
            lost.elapsed().as_secs_f64() * 1e3,
        );
    }
}

/// What came of one primary.
pub enum Served<H> {
    /// It ended as it should.
    Well,
    /// It did not.
    Badly,
    /// The guest came to live here; whether it left as it should.
    Survived(bool),
    /// It was denied, and its replica is kept.
    Denied(Kept<H>),
}

impl<H: 'static> Served<H> {
    /// By how the session ended, whatever the protocol; a survivor goes on by `live`, which says whether it left as it should. `well`: whether
    /// a session that ended so went as it should.
    pub(super) fn of<D: Send + 'static, E: Copy>(
        outcome: Outcome<D, E>,
        well: impl Fn(E) -> bool,
        live: fn(Survivor<D>, &Job<H>, &Desk) -> io::Result<bool>,
        job: &Job<H>,
        desk: &Desk,
    ) -> Self {
        match outcome {
            Outcome::Ended(end) if well(end) => Served::Well,
            Outcome::Ended(_) => Served::Badly,
            Outcome::Unsuited(text) => {
                log::error!("{}: {text}", job.protection.domain);
                Served::Badly
            }
            Outcome::Denied(held) => Served::Denied(Kept {
                facts: held.facts.clone(),
                go_on: Box::new(move |generation, job, desk| {
                    let (checkpoint, lost) = (held.facts.checkpoint, Instant::now());
                    let unfit = |text| Trouble::Unfit(text, generation);
                    let domain = held.activate().map_err(unfit).map_err(io::Error::other)?;
                    live(Survivor { domain, checkpoint, generation, lost }, job, desk)
                }),
            }),
            // The guest lives here, whatever becomes of its protection: this side takes no primary's image any more.
            Outcome::Survivor(survivor) => Served::Survived(live(survivor, job, desk).unwrap_or_else(|error| {
                log::error!("{}: {error}", job.protection.domain);
                false
            })),
        }
    }
}

/// A connection of a primary's.
pub struct Session {
    /// The connection.
    pub link: Link,
    /// Calls it off.
    pub cancel: Cancel,
    /// Where an older replica is kept: what to call when the first image of this session is whole and applied.
    pub replica: Option<Box<dyn FnOnce() + Send>>,
}

/// How a replica goes on on this host, by the generation that was acquired for it; whether it ended as it should.
pub type GoOn<H> = Box<dyn FnOnce(Generation, &Job<H>, &Desk) -> io::Result<bool> + Send>;

/// A replica that was denied.
pub struct Kept<H> {
    /// What is told of it.
    pub facts: Facts,
    /// How it goes on. Dropping it frees the replica.
    pub go_on: GoOn<H>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remus::config::Config;
    use crate::witness::Holder;

    fn job() -> Job<()> {
        Job {
            protection: Protection {
                domain: "web".into(),
                config: Config::default(),
                witness: None,
                fence: None,
                holder: Holder::new(),
            },
            home: (),
            restore: Options::default(),
            record: None,
            once: false,
            ctl: String::new(),
            beside: None,
            resolve: Box::new(|| Box::new(|_, _, _| Err("nowhere".into()))),
            pacing: None,
            staging_limit: 0,
            failpoints: Failpoints::default(),
        }
    }

    /// An error there would have the receiver take the next primary's image of a domain that lives here.
    #[test]
    fn a_survivor_whose_life_fails_has_survived() {
        let desk = Desk::new("web", true).unwrap();
        let survivor = || {
            Outcome::<_, ()>::Survivor(Survivor {
                domain: 7,
                checkpoint: 3,
                generation: Generation(2),
                lost: Instant::now(),
            })
        };
        let served = |live| Served::of(survivor(), |()| true, live, &job(), &desk);
        assert!(matches!(served(|of, _, _| Ok(of.domain == 7 && of.checkpoint == 3)), Served::Survived(true)));
        assert!(matches!(served(|_, _, _| Ok(false)), Served::Survived(false)));
        assert!(matches!(served(|_, _, _| Err(io::Error::other("no card"))), Served::Survived(false)));
    }

    #[test]
    fn how_a_session_ended_is_the_protocols_to_say() {
        let desk = Desk::new("web", true).unwrap();
        let served = |outcome: Outcome<(), bool>| Served::of(outcome, |well| well, |_, _, _| Ok(true), &job(), &desk);
        assert!(matches!(served(Outcome::Ended(true)), Served::Well));
        assert!(matches!(served(Outcome::Ended(false)), Served::Badly));
        assert!(matches!(served(Outcome::Unsuited("other rules".into())), Served::Badly));
    }
}
