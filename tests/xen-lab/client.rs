//! client ADDRESS:PORT: a conversation with the lab's guest over one TCP connection, which must outlive the guest's host.
//!
//! It says a number, and the next one when that was answered. An answer has a sum over all that the guest has heard
//! (`guest/net.rs`), and the guest's own count, which never goes back in what a client is told. A line for each answer:
//!
//! ```text
//! answer 17 count=203 at=81.250 silence=1.204
//! ```
//!
//! with seconds since the first one, and since the one before. Ends with `CONTRADICTED ...` when the guest does not know what it has
//! answered, with `LOST ...` when the connection ends.

#[path = "guest/work.rs"]
#[allow(dead_code)]
mod work;

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The time from one try to connect to the next.
const AGAIN: Duration = Duration::from_secs(5);
/// How long one takes at most: what the guest answers may be held back until a checkpoint is acknowledged.
const TRY: Duration = Duration::from_secs(120);
/// From an answer to the next number: an emulated host has other things to do too.
const PAUSE: Duration = Duration::from_millis(200);

fn connect(to: SocketAddr) -> TcpStream {
    loop {
        match TcpStream::connect_timeout(&to, TRY) {
            Ok(stream) => return stream,
            // The guest is not there yet.
            Err(_) => std::thread::sleep(AGAIN),
        }
    }
}

/// What is wrong with the answer to `asked`, else the guest's count.
fn judge(answer: &str, asked: &str, sum: u64, before: u64) -> Result<u64, String> {
    let fields: Vec<_> = answer.split_whitespace().collect();
    let [said, known, count] = fields[..] else { return Err(format!("{answer:?} is no answer")) };
    let count = count.parse().map_err(|_| format!("{answer:?} has no count"))?;
    if said != asked || known != format!("{sum:016x}") {
        return Err(format!("{answer:?} to {asked:?}, where the sum is {sum:016x}"));
    }
    if count < before {
        return Err(format!("{answer:?} behind count {before}"));
    }
    Ok(count)
}

fn converse(stream: TcpStream) -> io::Result<String> {
    stream.set_nodelay(true)?;
    let mut output = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    let (mut sum, mut count) = (0, 0);
    let mut first = None;
    let mut last = Instant::now();
    for number in 1u64.. {
        let asked = number.to_string();
        sum = asked.bytes().fold(sum, |sum, byte| work::add(sum, byte.into()));
        output.write_all(format!("{asked}\n").as_bytes())?;
        let mut answer = String::new();
        if input.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        count = match judge(&answer, &asked, sum, count) {
            Ok(count) => count,
            Err(text) => return Ok(text),
        };
        let now = Instant::now();
        let begun = *first.get_or_insert(now);
        let [at, silence] = [now - begun, now - last].map(|time| time.as_secs_f64());
        println!("answer {number} count={count} at={at:.3} silence={silence:.3}");
        last = now;
        std::thread::sleep(PAUSE);
    }
    Ok("no numbers are left".into())
}

fn main() -> ExitCode {
    let Some(Ok(to)) = std::env::args().nth(1).map(|to| to.parse()) else {
        eprintln!("usage: client ADDRESS:PORT");
        return ExitCode::from(2);
    };
    match converse(connect(to)) {
        Ok(text) => println!("CONTRADICTED {text}"),
        Err(error) => println!("LOST {error}"),
    }
    ExitCode::FAILURE
}
