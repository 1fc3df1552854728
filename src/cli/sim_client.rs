//! `xen-replicate sim-client`: talks to simulated guests from outside, and says whether what it heard is one history.

use crate::outside::{Client, ClientConfig, Progress, Seen};
use serde::Serialize;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

/// From one line of progress to the next.
const PROGRESS: Duration = Duration::from_millis(100);

/// Options of the command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Own address
    #[arg(long, value_name = "ADDR")]
    bind: SocketAddr,
    /// Addresses of the guest's network card, on every host that may have it
    #[arg(long, value_name = "ADDR", value_delimiter = ',', required = true)]
    to: Vec<SocketAddr>,
    /// How long to run; without it, until the end of standard input
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seconds: Option<u64>,
    /// New requests in a second; 0 to listen only
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(..=100_000))]
    rate: u32,
    /// Requests without an answer at most
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    outstanding: u32,
    /// Milliseconds until a request without an answer is sent again
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    retry: u64,
    /// The result as one JSON object
    #[arg(long)]
    json: bool,
    /// A JSON object with the progress every 100 ms
    #[arg(long)]
    progress: bool,
}

/// Runs the command; true when nothing was lost, contradicted or interleaved.
pub fn run(args: &Args) -> io::Result<bool> {
    let mut client = Client::open(ClientConfig {
        bind: args.bind,
        to: args.to.clone(),
        rate: args.rate,
        outstanding: args.outstanding as usize,
        retry: Duration::from_millis(args.retry),
    })?;
    let mut out = io::stdout().lock();
    let mut written = Ok(());
    let mut due = 0;
    let tell = |progress: Progress| {
        if args.progress && progress.ms >= due && written.is_ok() {
            due = progress.ms + PROGRESS.as_millis() as u64;
            written = line(&mut out, &progress);
        }
    };
    let stdin = io::stdin();
    let stop = args.seconds.is_none().then(|| stdin.as_fd());
    client.run(stop, args.seconds.map(Duration::from_secs), PROGRESS / 4, tell)?;
    written?;
    let seen = client.seen();
    if args.json {
        line(&mut out, &seen)?
    } else {
        print(&mut out, &seen)?
    }
    Ok(seen.is_sound())
}

fn line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value)?;
    writeln!(out, "{text}")?;
    out.flush()
}

fn print(out: &mut impl Write, seen: &Seen) -> io::Result<()> {
    let Seen { packets, requests, acknowledged, retries, lost, contradicted, interleaved, .. } = seen;
    writeln!(out, "{acknowledged} of {requests} requests answered, {retries} sent again; {packets} packets")?;
    writeln!(out, "lost {lost}, contradicted {contradicted}, interleaved {interleaved}")?;
    let Seen { late, duplicates, missing, unjudged, foreign, .. } = seen;
    writeln!(
        out,
        "late {late}, twice {duplicates}, missing {missing}, too old to judge {unjudged}, foreign {foreign}"
    )?;
    let ms = |ns: u64| ns as f64 / 1e6;
    if let Some(round_trip) = &seen.round_trip_ns {
        let [p50, p99, max] = [round_trip.p50, round_trip.p99, round_trip.max].map(ms);
        writeln!(out, "round trip p50 {p50:.3} ms, p99 {p99:.3} ms, max {max:.3} ms")?;
    }
    write!(out, "longest gap {:.1} ms", ms(seen.longest_gap_ns))?;
    match seen.fail_over_ns {
        Some(ns) => writeln!(out, ", {} change(s) of host, the longest {:.1} ms", seen.changes, ms(ns))?,
        None => writeln!(out, ", no change of host")?,
    }
    for host in &seen.hosts {
        writeln!(out, "{}: {} packets, {} to {}", host.address, host.packets, host.first, host.last)?;
    }
    for fault in &seen.faults {
        let (verdict, at) = (fault.verdict, ms(fault.at_ns));
        writeln!(out, "{verdict:?}: packet {} of {} after {at:.1} ms", fault.sequence, fault.host)?;
    }
    out.flush()
}
