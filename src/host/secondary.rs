//! `receive`: a copy of another host's domain, and its life after a failover.

use super::beside;
use super::custody::{Custody, Decided};
pub use super::home::{Home, Job, Served, Session};
use super::lookout::look_out;
use super::operator::Desk;
use crate::replicate::link::Records;
use crate::replicate::primary::Ending;
use crate::replicate::secondary::{Copies, Driver, End, Settings, Survivor};
use crate::transport::{Cancel, Link, Listener, is_cancelled};
use std::io;
use std::path::PathBuf;
use std::thread;

/// Where primaries come from.
pub enum Source {
    /// One connection, which is there.
    Link(Link, Cancel),
    /// One after another.
    Listener(Listener),
}

/// Serves one primary after another, and goes on with the guest when it may.
///
/// Gives true when it ended as it should: dismissed or stopped, or, for a survivor, handed on or stopped.
///
/// # Errors
/// What the last session, or the survivor, failed with.
pub fn receive<H: Home>(source: Source, job: &Job<H>, desk: &Desk) -> io::Result<bool> {
    log::info!("{}: {}", job.protection.domain, job.protection.rule_in_words());
    let mut record = job.record.clone().map(Records::new);
    let listener = match source {
        Source::Link(link, cancel) => {
            let session = Session { link, cancel, replica: job.beside.clone().map(|socket| replaces(socket, desk)) };
            return match one(session, job, &mut record, desk)? {
                Served::Denied(kept) => match Custody::begin(kept, job, desk)?.end(job, desk)? {
                    Decided::Lived(well) => Ok(well),
                    Decided::Freed => Ok(true),
                },
                served => Ok(matches!(served, Served::Well)),
            };
        }
        Source::Listener(listener) => listener,
    };
    let mut custody: Option<Custody<H>> = None;
    loop {
        let waiting = desk.waiting();
        if let Some(over) = custody.take_if(|custody| custody.is_over()) {
            match over.end(job, desk)? {
                Decided::Lived(well) => return Ok(well),
                // Replaced by the one that was just denied or lost, or dropped.
                Decided::Freed if job.once => return Ok(true),
                Decided::Freed => {}
            }
        }
        let (link, cancel) = match listener.accept(&waiting) {
            Ok(accepted) => accepted,
            Err(_) if desk.is_terminated() => {
                // It is told by itself, and may have begun to go active.
                return match custody.map(|custody| custody.end(job, desk)).transpose()? {
                    Some(Decided::Lived(well)) => Ok(well),
                    _ => Ok(true),
                };
            }
            Err(error) if is_cancelled(&error) => continue,
            Err(error) => return Err(error),
        };
        if custody.as_ref().is_some_and(|custody| !custody.admit()) {
            continue;
        }
        let session = Session { link, cancel, replica: custody.as_ref().map(Custody::replaced) };
        let (over, grace) = (Cancel::new()?, job.protection.config.timeout);
        let served = thread::scope(|scope| {
            let looking = scope.spawn(|| look_out(&listener, desk, grace, &over));
            let served = one(session, job, &mut record, desk);
            over.cancel();
            (served, looking.join().unwrap_or(false))
        });
        let (served, unmet) = served;
        if let Some(custody) = &custody {
            custody.disconnected();
        }
        let served = match served {
            Ok(Served::Denied(kept)) => {
                if let Some(replaced) = custody.take() {
                    replaced.end(job, desk)?;
                }
                custody = Some(Custody::begin(kept, job, desk)?);
                continue;
            }
            // It was no primary's session.
            Ok(Served::Badly) if unmet => continue,
            served => served,
        };
        match next(served, job.once, desk.is_terminated()) {
            Next::End(verdict) => return verdict,
            Next::Wait(trouble) => {
                if let Some(error) = trouble {
                    log::error!("{}: {error}", job.protection.domain);
                }
                log::info!("{}: waiting for a primary", job.protection.domain);
            }
        }
    }
}

/// What follows a primary's session.
#[derive(Debug)]
enum Next {
    /// The command ends with this.
    End(io::Result<bool>),
    /// The next primary is waited for; what the last one's session failed with.
    Wait(Option<io::Error>),
}

/// A session's verdict is the command's only where one primary is all there is, or the guest came to live here. A command that
/// waits for primaries is ended by the operator, whatever came of the last session a moment before: that is no failure.
fn next<H>(served: io::Result<Served<H>>, once: bool, terminated: bool) -> Next {
    match served {
        Ok(Served::Survived(well)) => Next::End(Ok(well)),
        served if once => Next::End(served.map(|served| matches!(served, Served::Well))),
        Ok(_) if terminated => Next::End(Ok(true)),
        Err(error) if terminated => {
            log::warn!("the last session: {error}");
            Next::End(Ok(true))
        }
        served => Next::Wait(served.err()),
    }
}

/// What to call when an image is whole here, where another process of this host keeps an older replica.
fn replaces(socket: PathBuf, desk: &Desk) -> Box<dyn FnOnce() + Send> {
    let desk = desk.clone();
    Box::new(move || {
        // The primary is not to wait for that.
        let told = thread::Builder::new().name("beside".into()).spawn(move || match beside::replace(&socket, &desk) {
            Ok(()) => {
                log::info!("{}: the older replica is freed, this process answers here from now on", socket.display())
            }
            Err(error) => log::error!("{}: replacing the older replica: {error}", socket.display()),
        });
        if let Err(error) = told {
            log::error!("replacing the older replica: {error}");
        }
    })
}

fn one<H: Home>(session: Session, job: &Job<H>, record: &mut Option<Records>, desk: &Desk) -> io::Result<Served<H>> {
    if job.home.is_lockstep() {
        return job.home.one_in_lockstep(session, job, desk);
    }
    let Session { link, cancel, replica } = session;
    let driver = Driver::<H::Copies>::default();
    desk.assign(driver.handle());
    let settings = Settings {
        domain: job.protection.domain.clone(),
        config: job.protection.config,
        restore: job.restore,
        fence: job.protection.fence.clone(),
        witness: job.protection.witness().map_err(io::Error::other)?,
        record: record.as_mut().map(Records::next_session),
        on_checkpoint: None,
        on_replica: replica,
        failpoints: job.failpoints.clone(),
    };
    let outcome = driver.run(link, cancel, job.home.copies(), settings);
    desk.retire(None);
    let outcome = outcome.map_err(io::Error::other)?;
    Ok(Served::of(outcome, |end| matches!(end, End::Dismissed | End::Stopped), live, job, desk))
}

/// The guest's life on this host.
pub(super) fn live<H: Home>(
    survivor: Survivor<<H::Copies as Copies>::Domain>,
    job: &Job<H>,
    desk: &Desk,
) -> io::Result<bool> {
    let Survivor { domain, checkpoint, generation, lost } = survivor;
    let tell = || job.tell(checkpoint, generation, lost);
    let how = job.home.live(domain, checkpoint, job.next(generation), desk, &tell)?;
    Ok(matches!(how, Ending::SwitchedOver | Ending::Stopped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_that_listens_and_is_told_to_end_has_not_failed_whatever_its_last_session_did() {
        let failed = || Err::<Served<()>, _>(io::Error::other("the connection ended"));
        for served in [Ok(Served::<()>::Well), Ok(Served::Badly), failed()] {
            assert!(matches!(next(served, false, true), Next::End(Ok(true))));
        }
        assert!(matches!(next(Ok(Served::<()>::Badly), false, false), Next::Wait(None)));
        assert!(matches!(next(failed(), false, false), Next::Wait(Some(_))));
        for terminated in [false, true] {
            // With --once the session is all there is.
            assert!(matches!(next(Ok(Served::<()>::Well), true, terminated), Next::End(Ok(true))));
            assert!(matches!(next(Ok(Served::<()>::Badly), true, terminated), Next::End(Ok(false))));
            assert!(matches!(next(failed(), true, terminated), Next::End(Err(_))));
            for well in [false, true] {
                let survived = next(Ok(Served::<()>::Survived(well)), false, terminated);
                assert!(matches!(survived, Next::End(Ok(ended)) if ended == well));
            }
        }
    }
}
