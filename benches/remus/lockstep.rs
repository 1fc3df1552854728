//! What a lock-step checkpoint takes, next to one of Remus' of the same guest, between two processes over loopback TCP.

use crate::rate::{Guarded, guest, start, status, until};
use std::error::Error;
use std::net::TcpListener;
use xen_replicate::control::Status;

/// Checkpoints that are measured.
const ROUNDS: u64 = 300;

pub fn all(measuring: bool) -> Result<(), Box<dyn Error>> {
    for (pages, writes) in [(256, 100), (1024, 600)] {
        // No packet, so nothing differs: a checkpoint comes with each period.
        let guest = guest(pages, writes).replace('{', r#"{"packets_every":0,"#);
        let remus = run(measuring, &["-i", "10"], &[], &guest)?;
        let colo = run(measuring, &["-c", "--period", "10"], &["--colo"], &guest)?;
        let told = colo.lock_step.ok_or("no figures of lock-step")?;
        let (one, other) = (remus.statistics, colo.statistics);
        // What the guest is without a newer copy; in COLO also without running.
        let whole = one.pause.p50 + one.transmission.p50 + one.acknowledgement.p50;
        let ms = |micros: u64| micros as f64 / 1e3;
        println!(
            "{:34} {} pages: {:.2} ms from the request to running again, guest paused {:.2} ms",
            "a lock-step checkpoint",
            other.pages_per_checkpoint.p50,
            ms(told.latency.p50),
            ms(other.pause.p50),
        );
        println!(
            "{:34} {} pages: {:.2} ms from the suspension to the acknowledgement, guest paused {:.2} ms",
            "    Remus",
            one.pages_per_checkpoint.p50,
            ms(whole),
            ms(one.pause.p50),
        );
        println!(
            "{:34} whole {:.2}, pause {:.2}",
            "    ratio",
            told.latency.p50 as f64 / whole.max(1) as f64,
            other.pause.p50 as f64 / one.pause.p50.max(1) as f64,
        );
    }
    Ok(())
}

fn run(measuring: bool, mine: &[&str], theirs: &[&str], sim: &str) -> Result<Status, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let text = |name: &str| path(name).display().to_string();
    let link = format!("tcp:{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?);
    let (primary, secondary) = (text("primary"), text("secondary"));
    let receive = ["receive", "--domain=bench", "--timeout=5000", "--listen", &link, "--control", &secondary];
    let _secondary: Guarded = start(&[&receive[..], theirs].concat())?;
    until(|| status(&path("secondary")).ok())?;
    let remus = ["remus", "--timeout=5000", "--control", &primary, "--sim", sim, "bench", &link];
    let _primary = start(&[&remus[..], mine].concat())?;
    let rounds = if measuring { ROUNDS } else { 3 };
    until(|| status(&path("primary")).ok().filter(|status| status.acknowledged >= rounds))
}
