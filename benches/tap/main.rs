//! The tap next to `socat`: `cargo bench --bench tap`.
//!
//! The same octets through both, over TCP on this machine: the image of a COLO session, 64 KiB of RAM at a time, read and thrown
//! away at the other end. The tap decodes all of it on the way. Asked for is 0.9 of socat's throughput; socat runs with its own
//! buffer (8 KiB), and with one as large as the tap's, for comparison. The runs alternate; the medians are compared.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const RUNS: usize = 5;
const PAGE: u64 = 4096;

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The stream up to its first page: a header, and a RAM section with one block.
fn head(pages: u64) -> Vec<u8> {
    let mut out = b"QEVM\0\0\0\x03\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04".to_vec();
    out.extend((pages * PAGE + 4).to_be_bytes());
    out.extend(b"\x06pc.ram");
    out.extend((pages * PAGE).to_be_bytes());
    out.extend(8_u64.to_be_bytes());
    out.extend(b"\x06pc.ram");
    out.extend([7; PAGE as usize]);
    out
}

fn send(mut to: TcpStream, pages: u64) -> std::io::Result<()> {
    to.write_all(&head(pages))?;
    let mut chunk = Vec::new();
    for page in 1..pages {
        chunk.extend((page * PAGE + 0x28).to_be_bytes());
        chunk.extend([page as u8; PAGE as usize]);
        if chunk.len() >= 64 << 10 {
            to.write_all(&chunk)?;
            chunk.clear();
        }
    }
    to.write_all(&chunk)?;
    to.shutdown(Shutdown::Write)?;
    // Its answers: none, and the end.
    to.read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Octets a second through a program that connects to the port given, and listens where `start` says.
fn run(pages: u64, start: impl FnOnce(u16) -> Result<(Running, u16), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let sink = TcpListener::bind("127.0.0.1:0")?;
    let (_running, port) = start(sink.local_addr()?.port())?;
    let from = connect(port)?;
    let began = Instant::now();
    let sender = thread::spawn(move || send(from, pages));
    let (mut to, _) = sink.accept()?;
    let (mut chunk, mut octets) = (vec![0; 1 << 18], 0);
    loop {
        match to.read(&mut chunk)? {
            0 => break,
            got => octets += got,
        }
    }
    let took = began.elapsed();
    drop(to);
    sender.join().map_err(|_| "the sender has panicked")??;
    assert!(octets as u64 > pages * PAGE, "{octets} octets arrived");
    Ok(octets as f64 / took.as_secs_f64())
}

/// socat does not say when it listens.
fn connect(port: u16) -> Result<TcpStream, Box<dyn Error>> {
    let began = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Err(error) if began.elapsed() > Duration::from_secs(10) => return Err(error.into()),
            Err(_) => thread::yield_now(),
            Ok(socket) => return Ok(socket),
        }
    }
}

fn tap(to: u16) -> Result<(Running, u16), Box<dyn Error>> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_xen-replicate"))
        .args(["tap", "--listen", "tcp:127.0.0.1:0", "--forward", &format!("tcp:127.0.0.1:{to}")])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let stderr = child.stderr.take().ok_or("no standard error")?;
    BufReader::new(stderr).read_line(&mut line)?;
    let port = line.trim().rsplit(':').next().ok_or("no port")?.parse()?;
    Ok((Running(child), port))
}

fn socat(to: u16, buffer: Option<usize>) -> Result<(Running, u16), Box<dyn Error>> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut command = Command::new("socat");
    if let Some(buffer) = buffer {
        command.arg("-b").arg(buffer.to_string());
    }
    let listen = format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr");
    let child = command.args([listen, format!("TCP:127.0.0.1:{to}")]).spawn()?;
    Ok((Running(child), port))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo test --benches` runs everything once: a figure of no meaning.
    let measuring = std::env::args().any(|argument| argument == "--bench");
    if Command::new("socat").arg("-V").stdout(Stdio::null()).status().is_err() {
        return Err("socat is not there: apt-get install socat".into());
    }
    let (runs, pages) = if measuring { (RUNS, 256 << 10) } else { (1, 256) };
    let (mut taps, mut socats, mut large) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        taps.push(run(pages, tap)?);
        socats.push(run(pages, |to| socat(to, None))?);
        large.push(run(pages, |to| socat(to, Some(256 << 10)))?);
    }
    let (tap, socat, large) = (median(taps), median(socats), median(large));
    let mib = |rate: f64| rate / f64::from(1 << 20);
    println!("tap {:.0} MiB/s, socat {:.0} MiB/s, socat -b 262144 {:.0} MiB/s", mib(tap), mib(socat), mib(large));
    println!("tap/socat {:.2} (asked for: 0.9), tap/socat -b 262144 {:.2}", tap / socat, tap / large);
    Ok(())
}
