//! Checkpoints a second between two processes over loopback TCP, and what a client outside waits.

use crate::figures::line;
use std::error::Error;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use xen_replicate::control::{Client, Request, Status};
use xen_replicate::outside::{ClientConfig, ClientThread, Seen};

/// A process that does not outlive this value.
pub struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn start(arguments: &[&str]) -> std::io::Result<Guarded> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xen-replicate"));
    command.args(arguments).env("RUST_LOG", "off").stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().map(Guarded)
}

pub fn status(socket: &Path) -> Result<Status, Box<dyn Error>> {
    let reply = Client::connect(socket)?.request(&Request::Status)?;
    Ok(*reply.status.ok_or("no status")?)
}

/// Waits for something that comes when it comes.
pub fn until<T>(mut look: impl FnMut() -> Option<T>) -> Result<T, Box<dyn Error>> {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        if let Some(found) = look() {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err("it did not come".into())
}

/// A guest of 256 MiB whose steps write to so many pages, out of so many.
pub fn guest(working_set: u64, writes: u64) -> String {
    format!(
        r#"{{"memory":65536,"working_set":{working_set},"hot_permille":0,"writes_per_step":{writes},"whole_page_permille":0}}"#
    )
}

/// What one run has shown.
struct Run {
    rate: f64,
    pages: u64,
    seen: Seen,
    status: Status,
}

pub fn all(measuring: bool) -> Result<(), Box<dyn Error>> {
    let ms = |nanos: u64| nanos as f64 / 1e6;
    // Each epoch of 8 steps and more writes to nearly all of its 1,024 pages, and never to more.
    let Run { rate, pages, seen, status } = run(measuring, &guest(1024, 600))?;
    let figures = format!("{rate:.0} checkpoints/s of {pages} pages");
    line("rate over loopback TCP", &figures, "200 of 1,000 pages", rate >= 200.0 && pages >= 1000);
    let trip = seen.round_trip_ns.ok_or("the client heard nothing")?;
    let figures = format!("p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", ms(trip.p50), ms(trip.p99), ms(trip.max));
    line("a client's round trip meanwhile", &figures, "p99 under 15 ms", ms(trip.p99) < 15.0);
    tell(&seen, &status);
    // New pages all the time, about 1,000 in 4 ms: a checkpoint that is late is a larger one, and makes the next one late.
    let Run { rate, pages, seen, status } = run(measuring, &guest(60_000, 140))?;
    let trip = seen.round_trip_ns.ok_or("the client heard nothing")?;
    println!(
        "{:34} {rate:.0} checkpoints/s of {pages} pages; a client's round trip p50 {:.1} ms, p99 {:.1} ms",
        "the same, pages without bound",
        ms(trip.p50),
        ms(trip.p99),
    );
    tell(&seen, &status);
    Ok(())
}

/// What else is known of a run.
fn tell(seen: &Seen, status: &Status) {
    let (delay, pause) = (status.statistics.output_delay, status.statistics.pause);
    println!(
        "{:34} pause p50 {:.2} ms, p99 {:.2} ms; output delay p50 {:.1} ms, p99 {:.1} ms",
        "    the engine, from its start",
        pause.p50 as f64 / 1e3,
        pause.p99 as f64 / 1e3,
        delay.p50 as f64 / 1e3,
        delay.p99 as f64 / 1e3,
    );
    println!(
        "{:34} {} answered, lost {}, contradicted {}",
        "    the client", seen.acknowledged, seen.lost, seen.contradicted
    );
}

fn run(measuring: bool, sim: &str) -> Result<Run, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let text = |name: &str| path(name).display().to_string();
    let free_tcp = || TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let free_udp = || UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let (link, nic, asker) = (format!("tcp:{}", free_tcp()?), free_udp()?, free_udp()?);
    let (secondary, primary) = (path("secondary"), path("primary"));
    let witness = text("witness");
    std::fs::create_dir(&witness)?;
    let common = ["--domain=bench", "--witness", &witness, "--timeout=5000"];
    let socket = text("secondary");
    let _secondary = start(&[&["receive", "--listen", &link, "--control", &socket], &common[..]].concat())?;
    until(|| status(&secondary).ok())?;
    let (card, peer) = (nic.to_string(), asker.to_string());
    let _primary = start(&[
        "remus",
        "-i",
        "4",
        "--sim",
        sim,
        "--control",
        &text("primary"),
        "--nic",
        &card,
        "--nic-peer",
        &peer,
        "--witness",
        &witness,
        "--timeout=5000",
        "bench",
        &link,
    ])?;
    let begun = until(|| status(&primary).ok().filter(|status| status.statistics.checkpoints > 100))?;
    // Only now: while the first image is sent, output waits for all of it.
    let client = ClientThread::start(ClientConfig {
        bind: asker,
        to: vec![nic],
        rate: 500,
        outstanding: 256,
        retry: Duration::from_secs(1),
    })?;
    let (seconds, since) = (if measuring { 15 } else { 1 }, Instant::now());
    std::thread::sleep(Duration::from_secs(seconds));
    let ended = status(&primary)?;
    let elapsed = since.elapsed().as_secs_f64();
    let seen = client.stop()?;
    let checkpoints = ended.statistics.checkpoints - begun.statistics.checkpoints;
    let pages = (ended.statistics.pages - begun.statistics.pages) / checkpoints.max(1);
    let rate = checkpoints as f64 / elapsed;
    Ok(Run { rate, pages, seen, status: ended })
}
