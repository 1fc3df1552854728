//! The tap next to `socat`: `cargo bench --bench tap`.
//!
//! The same bytes through both, over TCP on this machine, read and thrown away at the other end: the image of a COLO session on one
//! connection; and the pages of one with two multifd channels, through one tap and through two `socat`s. The tap decodes all of it on the
//! way. Asked for is 0.9 of socat's throughput; socat runs with its own buffer (8 KiB), and with one as large as the tap's, for
//! comparison. The runs alternate; the medians are compared. CPU time is what the kernel counts for the processes between.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const RUNS: usize = 5;
const PAGE: u64 = 4096;
/// Pages of a multifd packet.
const PACKET: u64 = 128;
/// socat's buffer where it is as large as the tap's.
const LARGE: usize = 256 << 10;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Killed when dropped.
struct Running(Child);

impl Running {
    /// Seconds of CPU so far, in ticks of 10 ms. A process that has ended by itself keeps its figure until it is waited for.
    fn cpu(&self) -> Outcome<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let after = stat.rsplit(')').next().ok_or("no name in a process's figures")?;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let field = |at: usize| -> Outcome<f64> { Ok(fields.get(at).ok_or("a figure is missing")?.parse()?) };
        // User and system time, fields 14 and 15 of the whole line.
        Ok((field(11)? + field(12)?) / 100.0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a run gave.
#[derive(Clone, Copy)]
struct Figure {
    /// Bytes a second.
    rate: f64,
    /// Seconds of CPU for a GiB, of all processes between.
    cpu: f64,
}

/// The stream up to its first page: a header, and a RAM section with one block.
fn head(pages: u64) -> Vec<u8> {
    let mut out = b"QEVM\0\0\0\x03\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04".to_vec();
    out.extend((pages * PAGE + 4).to_be_bytes());
    out.extend(b"\x06pc.ram");
    out.extend((pages * PAGE).to_be_bytes());
    out
}

/// The image on one connection, 64 KiB at a time.
fn image(mut to: TcpStream, pages: u64) -> std::io::Result<()> {
    to.write_all(&head(pages))?;
    to.write_all(&8_u64.to_be_bytes())?;
    to.write_all(b"\x06pc.ram")?;
    to.write_all(&[7; PAGE as usize])?;
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
    closed(to)
}

/// One of two channels, with every second packet.
fn channel(mut to: TcpStream, pages: u64, id: u8) -> std::io::Result<()> {
    let mut hello = [0; 64];
    hello[..8].copy_from_slice(b"\x11\x22\x33\x44\0\0\0\x01");
    hello[24] = id;
    to.write_all(&hello)?;
    let contents = vec![id + 1; (PACKET * PAGE) as usize];
    for number in (u64::from(id)..pages / PACKET).step_by(2) {
        let mut header = hello[..8].to_vec();
        for word in [0, PACKET as u32, PACKET as u32, (PACKET * PAGE) as u32] {
            header.extend(word.to_be_bytes());
        }
        header.extend(number.to_be_bytes());
        header.resize(64, 0);
        header.extend(b"pc.ram");
        header.resize(320, 0);
        for page in number * PACKET..(number + 1) * PACKET {
            header.extend((page * PAGE).to_be_bytes());
        }
        to.write_all(&header)?;
        to.write_all(&contents)?;
    }
    closed(to)
}

fn closed(mut to: TcpStream) -> std::io::Result<()> {
    to.shutdown(Shutdown::Write)?;
    // Its answers: none, and the end.
    to.read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Bytes up to the end of a connection.
fn drain(mut from: TcpStream) -> std::io::Result<u64> {
    let (mut chunk, mut bytes) = (vec![0; 1 << 18], 0);
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok(bytes),
            got => bytes += got as u64,
        }
    }
}

fn joined<T>(thread: thread::JoinHandle<std::io::Result<T>>) -> Outcome<T> {
    Ok(thread.join().map_err(|_| "a thread has panicked")??)
}

fn figure(bytes: u64, began: Instant, cpu: f64) -> Figure {
    let took = began.elapsed();
    Figure { rate: bytes as f64 / took.as_secs_f64(), cpu: cpu / (bytes as f64 / f64::from(1 << 30)) }
}

/// The image through a program that connects to the port given, and listens where `start` says.
fn one(pages: u64, start: impl FnOnce(u16) -> Outcome<(Running, u16)>) -> Outcome<Figure> {
    let sink = TcpListener::bind("127.0.0.1:0")?;
    let (running, port) = start(sink.local_addr()?.port())?;
    let from = connect(port)?;
    let before = running.cpu()?;
    let began = Instant::now();
    let sender = thread::spawn(move || image(from, pages));
    let bytes = drain(sink.accept()?.0)?;
    let figure = figure(bytes, began, running.cpu()? - before);
    joined(sender)?;
    assert!(bytes > pages * PAGE, "{bytes} bytes arrived");
    Ok(figure)
}

/// Two channels through programs that connect to the ports given, and listen where they say.
fn two(pages: u64, running: &[Running], sinks: Vec<TcpStream>, channels: Vec<TcpStream>) -> Outcome<Figure> {
    let cpu = || running.iter().map(Running::cpu).sum::<Outcome<f64>>();
    let before = cpu()?;
    let began = Instant::now();
    let senders: Vec<_> = (0..).zip(channels).map(|(id, to)| thread::spawn(move || channel(to, pages, id))).collect();
    let drains: Vec<_> = sinks.into_iter().map(|from| thread::spawn(move || drain(from))).collect();
    let bytes = drains.into_iter().map(joined).sum::<Outcome<u64>>()?;
    let figure = figure(bytes, began, cpu()? - before);
    senders.into_iter().try_for_each(joined)?;
    assert!(bytes > pages * PAGE, "{bytes} bytes arrived");
    Ok(figure)
}

/// The channels of a session, its main connection being there.
fn two_by_tap(pages: u64) -> Outcome<Figure> {
    let sink = TcpListener::bind("127.0.0.1:0")?;
    let (running, port) = tap(sink.local_addr()?.port())?;
    let mut main = connect(port)?;
    main.write_all(&head(pages))?;
    let accepted = |wait: &TcpListener| -> Outcome<TcpStream> { Ok(wait.accept()?.0) };
    let mut far = accepted(&sink)?;
    // It is the main one to the tap by now.
    far.read_exact(&mut vec![0; head(pages).len()])?;
    let (mut channels, mut sinks) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        channels.push(connect(port)?);
        sinks.push(accepted(&sink)?);
    }
    let figure = two(pages, &[running], sinks, channels);
    drop((main, far));
    figure
}

fn two_by_socats(pages: u64, buffer: Option<usize>) -> Outcome<Figure> {
    let (mut running, mut channels, mut sinks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..2 {
        let sink = TcpListener::bind("127.0.0.1:0")?;
        let (socat, port) = socat(sink.local_addr()?.port(), buffer)?;
        running.push(socat);
        channels.push(connect(port)?);
        sinks.push(sink.accept()?.0);
    }
    two(pages, &running, sinks, channels)
}

/// socat does not say when it listens.
fn connect(port: u16) -> Outcome<TcpStream> {
    let began = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Err(error) if began.elapsed() > Duration::from_secs(10) => return Err(error.into()),
            Err(_) => thread::yield_now(),
            Ok(socket) => return Ok(socket),
        }
    }
}

fn tap(to: u16) -> Outcome<(Running, u16)> {
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

fn socat(to: u16, buffer: Option<usize>) -> Outcome<(Running, u16)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut command = Command::new("socat");
    if let Some(buffer) = buffer {
        command.arg("-b").arg(buffer.to_string());
    }
    let listen = format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr");
    let child = command.args([listen, format!("TCP:127.0.0.1:{to}")]).spawn()?;
    Ok((Running(child), port))
}

fn median(figures: &[Figure], of: impl Fn(&Figure) -> f64) -> f64 {
    let mut figures: Vec<f64> = figures.iter().map(of).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

/// One line for each, and the ratios of the first to the others.
fn report(what: &str, rows: &[(&str, Vec<Figure>)]) {
    println!("{what}:");
    let rate = |figures: &[Figure]| median(figures, |figure| figure.rate);
    let first = rows.first().map_or(0.0, |(_, figures)| rate(figures));
    for (name, figures) in rows {
        let (mib, cpu) = (rate(figures) / f64::from(1 << 20), median(figures, |figure| figure.cpu));
        println!(
            "  {name:<24} {mib:>6.0} MiB/s  {cpu:.2} s of CPU for a GiB  tap is {:.2} of it",
            first / rate(figures)
        );
    }
}

fn main() -> Outcome<()> {
    // `cargo test --benches` runs everything once: a figure of no meaning.
    let measuring = std::env::args().any(|argument| argument == "--bench");
    if Command::new("socat").arg("-V").stdout(Stdio::null()).status().is_err() {
        return Err("socat is not there: apt-get install socat".into());
    }
    let (runs, pages) = if measuring { (RUNS, 256 << 10) } else { (1, 256) };
    let mut single = [("tap", Vec::new()), ("socat", Vec::new()), ("socat -b 262144", Vec::new())];
    let mut double = [("tap", Vec::new()), ("two socats", Vec::new()), ("two socats -b 262144", Vec::new())];
    for _ in 0..runs {
        single[0].1.push(one(pages, tap)?);
        single[1].1.push(one(pages, |to| socat(to, None))?);
        single[2].1.push(one(pages, |to| socat(to, Some(LARGE)))?);
        double[0].1.push(two_by_tap(pages)?);
        double[1].1.push(two_by_socats(pages, None)?);
        double[2].1.push(two_by_socats(pages, Some(LARGE))?);
    }
    report("one connection", &single);
    report("two channels", &double);
    println!("asked for: 0.9 of socat");
    Ok(())
}
