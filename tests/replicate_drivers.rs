//! Primary and secondary as threads over a socket, with a guest that runs in real time.

mod replicate_support;

use replicate_support::options;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;
use xen_replicate::hypervisor::sim::{Pace, Runner, SimConfig, SimDomain, Snapshot};
use xen_replicate::hypervisor::{CleanMode, DirtyBitmap, Domain, Error, LogDirty};
use xen_replicate::libxl::restore::Options as RestoreOptions;
use xen_replicate::replicate::RoundFigures;
use xen_replicate::replicate::bare::primary::{Observer, Options};
use xen_replicate::replicate::bare::{Outcome, Recorder, Stop, protect, receive};

/// Keeps the state of each checkpoint and ends protection after so many.
struct Watch {
    states: Vec<Snapshot>,
    rounds: Vec<RoundFigures>,
    last: usize,
    stop: Stop,
}

impl Watch {
    fn until(last: usize) -> Self {
        Watch { states: Vec::new(), rounds: Vec::new(), last, stop: Stop::default() }
    }
}

impl Observer<Runner> for Watch {
    fn suspended(&mut self, _number: u64, domain: &Runner) {
        self.states.push(domain.turn().unwrap().snapshot().unwrap());
    }

    fn sent(&mut self, round: &RoundFigures) {
        self.rounds.push(*round);
        if self.rounds.len() == self.last {
            self.stop.stop();
        }
    }
}

fn fast(staging_limit: u64) -> Options {
    Options { interval: Duration::from_millis(2), staging_limit, save: options() }
}

fn runner() -> Runner {
    Runner::start(SimDomain::create(&SimConfig::small(9)).unwrap(), Pace::Free).unwrap()
}

#[test]
fn checkpoints_over_a_socket_keep_a_copy_that_survives() {
    // From a copy, and from the guest's own memory where there is no room for a copy.
    for staging_limit in [1 << 30, 0] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let secondary = thread::spawn(move || {
            let mut domain = SimDomain::empty(&SimConfig::small(9)).unwrap();
            let mut recorder = Recorder::new(theirs, Some(Vec::new()));
            let outcome = receive(&mut recorder, &mut domain, RestoreOptions::default(), &mut ()).unwrap();
            (outcome, domain, recorder.finish().unwrap().unwrap())
        });
        let mut guest = runner();
        let mut watch = Watch::until(25);
        let stop = watch.stop.clone();
        let statistics = protect(&mut guest, &mut ours, &fast(staging_limit), &stop, &mut watch).unwrap();
        drop(ours);
        let (outcome, mut survivor, record) = secondary.join().unwrap();
        assert!(matches!(outcome, Outcome::FailOver { checkpoint: 25, .. }), "{outcome:?}");
        assert_eq!(survivor.diff(&watch.states[24], 3).unwrap(), []);
        survivor.unpause().unwrap();
        survivor.run(20).unwrap();
        survivor.self_check().unwrap();
        assert_eq!((statistics.checkpoints, statistics.octets), (25, record.len() as u64));
        assert!(watch.rounds.iter().map(|round| round.number).eq(1..=25));
        assert_eq!(statistics.octets, watch.rounds.iter().map(|round| round.octets).sum::<u64>());
        assert!(watch.rounds.iter().all(|round| round.pause > Duration::ZERO));
        assert!(watch.rounds.iter().any(|round| round.dirty_pages > 0));
        let report = replicate_support::verified(&record);
        assert!(report.valid && report.checkpoints == 25, "{report:?}");
        let original = guest.stop().unwrap();
        assert!(original.is_running());
        original.self_check().unwrap();
    }
}

/// Takes so many octets, then fails.
struct Short(u64);

impl Write for Short {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = self.0.min(octets.len() as u64);
        self.0 -= taken;
        Ok(taken as usize)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The guest runs, is sound, and nobody tracks its writes any more.
fn runs_unprotected(guest: Runner) {
    let mut original = guest.stop().unwrap();
    assert!(original.is_running());
    let before = original.steps().unwrap();
    original.run(10).unwrap();
    assert_eq!(original.steps().unwrap(), before + 10);
    original.self_check().unwrap();
    let mut bitmap = DirtyBitmap::new(original.info().unwrap().nr_pfns);
    let log = original.clean_log_dirty(&mut bitmap, CleanMode::Ongoing);
    assert!(matches!(log, Err(Error::LogDirtyOff { .. })), "{log:?}");
}

#[test]
fn the_secondarys_death_leaves_the_guest_running_unprotected() {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    let secondary = thread::spawn(move || {
        let mut octets = vec![0; 3 << 20];
        theirs.read_exact(&mut octets).unwrap();
    });
    let mut guest = runner();
    let mut watch = Watch::until(usize::MAX);
    let error = protect(&mut guest, &mut ours, &fast(1 << 30), &Stop::default(), &mut watch).unwrap_err();
    secondary.join().unwrap();
    assert_eq!(error.checkpoint, watch.rounds.len() as u64);
    assert!(error.to_string().starts_with(&format!("unprotected after checkpoint {}: ", error.checkpoint)), "{error}");
    runs_unprotected(guest);
}

#[test]
fn a_stream_that_fails_anywhere_leaves_the_guest_running() {
    for staging_limit in [1 << 30, 0] {
        for room in [0, 100, 300, 500_000, 1_300_000, 1_900_000] {
            let mut guest = runner();
            let error = protect(&mut guest, Short(room), &fast(staging_limit), &Stop::default(), &mut ()).unwrap_err();
            assert!(error.to_string().contains("broken pipe"), "{error}");
            runs_unprotected(guest);
        }
    }
}

#[test]
fn a_guest_that_does_not_suspend_is_left_running() {
    let mut domain = SimDomain::create(&SimConfig::small(9)).unwrap();
    domain.set_acknowledge_suspend(false);
    let mut guest = Runner::start(domain, Pace::Free).unwrap();
    let error = protect(&mut guest, io::sink(), &fast(1 << 30), &Stop::default(), &mut ()).unwrap_err();
    assert!(error.to_string().contains("did not acknowledge"), "{error}");
    runs_unprotected(guest);
}

/// Fails behind the first flush, which ends the image that is sent while the guest runs.
#[derive(Default)]
struct UntilFlushed(bool);

impl Write for UntilFlushed {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if self.0 { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(octets.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0 = true;
        Ok(())
    }
}

#[test]
fn a_guest_that_cannot_be_resumed_is_not_said_to_run() {
    // Behind a copy, and behind a stream that has failed while the guest stood still.
    for staging_limit in [1 << 30, 0] {
        let mut domain = SimDomain::create(&SimConfig::small(9)).unwrap();
        domain.set_resumes(false);
        let mut guest = Runner::start(domain, Pace::Free).unwrap();
        let sink = UntilFlushed::default();
        let error = protect(&mut guest, sink, &fast(staging_limit), &Stop::default(), &mut ()).unwrap_err();
        assert!(!error.guest_runs() && error.to_string().ends_with("; it is still suspended"), "{error}");
        assert!(!guest.stop().unwrap().is_running());
    }
}
