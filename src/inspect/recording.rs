//! Recordings of the tap among the streams: recognised, printed, verified.
#![forbid(unsafe_code)]

use super::input::Input;
use super::session_stats::{Collector, Follow, Visit};
use super::verify::{Finding, MAX_FINDINGS, Report};
use crate::tap::event::Channel;
use crate::tap::recording::{MAGIC, ReadError, Reader};
use crate::tap::{Direction, Form, Session, What};
use std::io::{self, Cursor, Read, Write};
use std::time::Duration;

/// What a file is.
pub enum Source {
    /// A stream.
    Stream(Input),
    /// A recording, from its first byte on.
    Recording(Box<dyn Read + Send>),
    /// What a QEMU primary has sent on its main connection, or on a multifd channel, without what its secondary answered.
    Primary(Box<dyn Read + Send>),
}

/// What QEMU's migration stream begins with.
const QEVM: [u8; 8] = *b"QEVM\0\0\0\x03";
/// What a multifd channel begins with.
const MULTIFD: [u8; 8] = *b"\x11\x22\x33\x44\0\0\0\x01";

/// Looks at the first bytes, unpacked.
///
/// # Errors
/// The input's.
pub fn recognise(input: Input) -> io::Result<Source> {
    let begins = |head: &[u8]| {
        [MAGIC, QEVM, MULTIFD]
            .iter()
            .any(|magic| !head.is_empty() && (magic.starts_with(head) || head.starts_with(magic)))
    };
    let mut reader = match input {
        Input::Mapped(map) if !begins(&map) => return Ok(Source::Stream(Input::Mapped(map))),
        Input::Pipe(pipe) if !begins(pipe.head()) => return Ok(Source::Stream(Input::Pipe(pipe))),
        other => other.into_reader(),
    };
    let mut head = Vec::new();
    reader.by_ref().take(MAGIC.len() as u64).read_to_end(&mut head)?;
    let is = |magic: [u8; 8]| head == magic;
    let (recording, primary) = (is(MAGIC), is(QEVM) || is(MULTIFD));
    let whole: Box<dyn Read + Send> = Box::new(Cursor::new(head).chain(reader));
    Ok(match (recording, primary) {
        (true, _) => Source::Recording(whole),
        (_, true) => Source::Primary(whole),
        _ => Source::Stream(Input::Compressed(whole)),
    })
}

/// Follows what a primary has sent on one connection to its end.
///
/// # Errors
/// The input cannot be read.
pub fn primary_events(reader: &mut impl Read, visit: Visit<'_>) -> io::Result<(Session, Option<ReadError>)> {
    let mut session = Session::one_way(Form::Qemu);
    let mut chunk = vec![0; 1 << 16];
    let at = Duration::ZERO;
    // The main one is number 0; which it is, shows in the first byte.
    let mut connection = None;
    loop {
        let got = match reader.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let bytes = chunk.get(..got).unwrap_or_default();
        let connection = *connection.get_or_insert(u16::from(bytes.first() == MULTIFD.first()));
        for event in session.feed_on(connection, Direction::Forward, bytes, at) {
            visit(&event)?;
        }
        if got == 0 {
            for event in session.end_on(connection, Direction::Forward, at) {
                visit(&event)?;
            }
            return Ok((session, None));
        }
    }
}

/// Follows a recording to its end, or to where it was cut or damaged.
///
/// # Errors
/// The input cannot be read, or is of another version.
pub fn events<R: Read>(reader: &mut Reader<R>, visit: Visit<'_>) -> io::Result<(Session, Option<ReadError>)> {
    let mut session = Session::new(reader.form());
    loop {
        match reader.next_entry() {
            Ok(Some((entry, bytes))) => {
                for event in session.feed_on(entry.connection, entry.direction, bytes, entry.at) {
                    visit(&event)?;
                }
                let ends = entry.end.then(|| session.end_on(entry.connection, entry.direction, entry.at));
                for event in ends.unwrap_or_default() {
                    visit(&event)?;
                }
            }
            Ok(None) => return Ok((session, None)),
            Err(ReadError::Io(error)) => return Err(error),
            Err(error) => return Ok((session, Some(error))),
        }
    }
}

/// Prints a recording, one line an event. False when it breaks the protocol, or is damaged.
///
/// # Errors
/// The input cannot be read, or the output not written.
pub fn dump<R: Read>(reader: &mut Reader<R>, json: bool, verbose: bool, out: &mut dyn Write) -> io::Result<bool> {
    dump_events(&mut |visit| events(reader, visit), json, verbose, out)
}

/// As [`dump`], of what a primary has sent.
///
/// # Errors
/// As [`dump`].
pub fn dump_primary(reader: &mut impl Read, json: bool, verbose: bool, out: &mut dyn Write) -> io::Result<bool> {
    dump_events(&mut |visit| primary_events(reader, visit), json, verbose, out)
}

fn dump_events(follow: Follow<'_>, json: bool, verbose: bool, out: &mut dyn Write) -> io::Result<bool> {
    let mut good = true;
    if !json {
        writeln!(out, "{:>10} {:>10}    {:>12} {:>10}  event", "time", "since", "offset", "bytes")?;
    }
    let (_, cut) = follow(&mut |event| {
        good &= !event.what.is_error();
        if json {
            serde_json::to_writer(&mut *out, event)?;
            return writeln!(out);
        }
        writeln!(out, "{event}")?;
        let (What::Image { devices, .. } | What::State { devices, .. }) = &event.what else { return Ok(()) };
        for section in devices.sections.iter().filter(|_| verbose) {
            let name: String = section.name.iter().flat_map(|name| name.chars()).filter(|c| !c.is_control()).collect();
            writeln!(out, "{:>52}  {name} {}", section.size, section.instance.unwrap_or_default())?;
        }
        Ok(())
    })?;
    if let Some(error) = cut {
        eprintln!("xen-replicate: {error}");
        good &= matches!(error, ReadError::Cut { .. });
    }
    Ok(good)
}

/// Holds a recording against the protocol. A recording that was cut, and one whose primary died, is valid up to there.
///
/// # Errors
/// The input cannot be read.
pub fn verify<R: Read>(reader: &mut Reader<R>) -> io::Result<Report> {
    let start = match reader.form() {
        Form::Qemu => "qemu",
        Form::FrameV8 => "frame-v8",
        Form::Libxl => "libxl",
    };
    verify_events(&mut |visit| events(reader, visit), start)
}

/// As [`verify`], of what a primary has sent: its checkpoints are those that it has sent whole.
///
/// # Errors
/// As [`verify`].
pub fn verify_primary(reader: &mut impl Read) -> io::Result<Report> {
    let report = verify_events(&mut |visit| primary_events(reader, visit), "qemu primary")?;
    let alone = report.connections.iter().any(|line| !line.is_main);
    Ok(if alone { Report { start: Some("qemu multifd channel"), ..report } } else { report })
}

fn verify_events(follow: Follow<'_>, start: &'static str) -> io::Result<Report> {
    let (mut findings, mut left_out, mut records, mut valid) = (Vec::new(), 0, 0, true);
    let mut add = |severity, layer, offset, message| {
        if findings.len() < MAX_FINDINGS {
            findings.push(Finding { severity, layer, record: None, offset, message });
        } else {
            left_out += 1;
        }
    };
    let mut collector = Collector::default();
    let (session, cut) = follow(&mut |event| {
        collector.see(event);
        let layer = match (event.channel, event.direction) {
            (Some(_), _) => "multifd",
            (None, Direction::Forward) => "forward",
            (None, Direction::Back) => "back",
        };
        let place = match event.channel {
            Some(Channel { id: Some(id), .. }) => format!("channel {id}: "),
            Some(Channel { connection, .. }) => format!("connection {connection}: "),
            None => String::new(),
        };
        match &event.what {
            What::Trouble { message, due, inside } => {
                valid = false;
                add("error", layer, event.offset, format!("{place}{message} (due: {due}; inside of: {inside})"));
            }
            What::Broken { inside } => add("remark", layer, event.offset, format!("{place}ends inside of {inside}")),
            What::Message { .. } | What::Sync { .. } => records += 1,
            _ => {}
        }
        Ok(())
    })?;
    let mut connections = collector.finish(&session, cut.as_ref()).connections;
    if connections.iter().all(|line| line.is_main) {
        connections.clear();
    }
    if let Some(error) = cut {
        let severity = if matches!(error, ReadError::Cut { .. }) { "remark" } else { "error" };
        valid &= severity == "remark";
        add(severity, "recording", session.bytes(Direction::Forward), error.to_string());
    }
    Ok(Report {
        valid,
        mode: "colo",
        start: Some(start),
        records,
        checkpoints: session.checkpoints(),
        bytes: session.all_bytes(),
        container: None,
        findings,
        left_out,
        connections,
        foreign: None,
        deep: None,
    })
}

/// One direction of a recording, as the stream that it was.
pub struct OneWay<R> {
    reader: Reader<R>,
    direction: Direction,
    bytes: Vec<u8>,
    given: usize,
}

impl<R: Read> OneWay<R> {
    /// Of a recording that has just been opened.
    pub const fn new(reader: Reader<R>, direction: Direction) -> Self {
        OneWay { reader, direction, bytes: Vec::new(), given: 0 }
    }
}

impl<R: Read> Read for OneWay<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.given >= self.bytes.len() {
            match self.reader.next_entry() {
                Ok(Some((entry, bytes))) if entry.direction == self.direction => {
                    self.bytes.clear();
                    self.bytes.extend_from_slice(bytes);
                    self.given = 0;
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(ReadError::Cut { .. }) => return Ok(0),
                Err(ReadError::Io(error)) => return Err(error),
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
            }
        }
        let rest = self.bytes.get(self.given..).unwrap_or_default();
        let bytes = rest.len().min(out.len());
        out.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        self.given += bytes;
        Ok(bytes)
    }
}
