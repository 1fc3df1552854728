//! A conversation with QEMU over its machine protocol: one JSON object a line.
//!
//! Source: QEMU's `docs/interop/qmp-spec`. Of the crate `qapi`, which has a type for each of QEMU's commands, the three used here
//! would be worth a few hundred generated ones.
#![forbid(unsafe_code)]

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Most bytes of one line.
const MOST_LINE: u64 = 1 << 20;

/// A connection to one emulator.
#[derive(Debug)]
pub struct Qmp {
    input: BufReader<UnixStream>,
    output: UnixStream,
    patience: Duration,
}

impl Qmp {
    /// Connects and leaves the negotiation behind. `patience` is how long each answer may take.
    ///
    /// # Errors
    /// Nobody listens there, or it is no QEMU.
    pub fn connect(socket: &Path, patience: Duration) -> io::Result<Self> {
        Qmp::over(UnixStream::connect(socket)?, patience)
    }

    fn over(stream: UnixStream, patience: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut qmp = Qmp { output: stream.try_clone()?, input: BufReader::new(stream), patience };
        if qmp.read()?.get("QMP").is_none() {
            return Err(io::Error::new(ErrorKind::InvalidData, "not QEMU's greeting"));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Has a command carried out, and gives what it returns.
    ///
    /// # Errors
    /// QEMU's refusal; the connection's.
    pub fn execute(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push_str("\r\n");
        self.output.write_all(line.as_bytes())?;
        let deadline = Instant::now() + self.patience;
        loop {
            let mut answer = self.read()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                let said = error.get("desc").and_then(Value::as_str).unwrap_or("no description");
                return Err(io::Error::other(format!("QEMU refuses {command}: {said}")));
            }
            if answer.get("event").is_none() {
                return Err(io::Error::new(ErrorKind::InvalidData, "neither an answer nor an event"));
            }
            // Events alone are no answer, however many come.
            if Instant::now() >= deadline {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }

    fn read(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        (&mut self.input).take(MOST_LINE).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_slice(&line).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": []}}"#;

    /// A QEMU that says these lines, one for each that it hears, the first at once; gives what it heard.
    fn qemu(lines: &'static [&'static str]) -> (UnixStream, thread::JoinHandle<Vec<Value>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || {
            let mut output = theirs.try_clone().unwrap();
            let mut input = BufReader::new(theirs);
            let mut heard = Vec::new();
            for lines in lines {
                writeln!(output, "{lines}").unwrap();
                let mut line = String::new();
                if input.read_line(&mut line).unwrap() == 0 {
                    break;
                }
                heard.push(serde_json::from_str(&line).unwrap());
            }
            heard
        });
        (ours, server)
    }

    #[test]
    fn events_are_passed_over_and_refusals_told() {
        let (stream, server) = qemu(&[
            GREETING,
            r#"{"return": {}}"#,
            "{\"event\": \"STOP\", \"timestamp\": {}}\n{\"return\": {\"a\": 1}}",
            r#"{"error": {"class": "GenericError", "desc": "no such thing"}}"#,
        ]);
        let mut qmp = Qmp::over(stream, Duration::from_secs(60)).unwrap();
        assert_eq!(qmp.execute("stop", json!({})).unwrap(), json!({"a": 1}));
        let error = qmp.execute("bad", json!({"enable": true})).unwrap_err();
        assert_eq!(error.to_string(), "QEMU refuses bad: no such thing");
        drop(qmp);
        let heard = server.join().unwrap();
        let expected = [
            json!({"execute": "qmp_capabilities", "arguments": {}}),
            json!({"execute": "stop", "arguments": {}}),
            json!({"execute": "bad", "arguments": {"enable": true}}),
        ];
        assert_eq!(heard, expected);
    }

    #[test]
    fn who_is_no_qemu_is_refused() {
        for line in ["{}", "hello", r#"{"return": {}}"#] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            writeln!(theirs, "{line}").unwrap();
            assert!(Qmp::over(ours, Duration::from_secs(60)).is_err(), "{line}");
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(Qmp::over(ours, Duration::from_secs(60)).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
