//! Recordings of the tap among the streams: recognised, printed, verified.
#![forbid(unsafe_code)]

use super::input::Input;
use super::verify::{Finding, MAX_FINDINGS, Report};
use crate::tap::recording::{MAGIC, ReadError, Reader};
use crate::tap::{Direction, Event, Form, Session, What};
use std::io::{self, Cursor, Read, Write};

/// What a file is.
pub enum Source {
    /// A stream.
    Stream(Input),
    /// A recording, from its first octet on.
    Recording(Box<dyn Read + Send>),
}

/// Looks at the first octets, unpacked.
///
/// # Errors
/// The input's.
pub fn recognise(input: Input) -> io::Result<Source> {
    match input {
        Input::Mapped(map) if !map.starts_with(&MAGIC) => Ok(Source::Stream(Input::Mapped(map))),
        Input::Pipe(pipe) if !MAGIC.starts_with(pipe.head()) || pipe.head().is_empty() => {
            Ok(Source::Stream(Input::Pipe(pipe)))
        }
        Input::Compressed(mut reader) => {
            let mut head = Vec::new();
            reader.by_ref().take(MAGIC.len() as u64).read_to_end(&mut head)?;
            let recording = head == MAGIC;
            let whole: Box<dyn Read + Send> = Box::new(Cursor::new(head).chain(reader));
            Ok(if recording { Source::Recording(whole) } else { Source::Stream(Input::Compressed(whole)) })
        }
        other => Ok(Source::Recording(other.into_reader())),
    }
}

/// Follows a recording to its end, or to where it was cut or damaged.
///
/// # Errors
/// The input cannot be read, or is of another version.
pub fn events<R: Read>(
    reader: &mut Reader<R>,
    visit: &mut dyn FnMut(&Event) -> io::Result<()>,
) -> io::Result<(Session, Option<ReadError>)> {
    let mut session = Session::new(reader.form());
    loop {
        match reader.next_entry() {
            Ok(Some((entry, octets))) => {
                for event in session.feed(entry.direction, octets, entry.at) {
                    visit(&event)?;
                }
                if entry.end
                    && let Some(event) = session.end(entry.direction, entry.at)
                {
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
    let mut good = true;
    if !json {
        writeln!(out, "{:>10} {:>10}    {:>12} {:>10}  event", "time", "since", "offset", "octets")?;
    }
    let (_, cut) = events(reader, &mut |event| {
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
    let (mut findings, mut left_out, mut records, mut valid) = (Vec::new(), 0, 0, true);
    let mut add = |severity, layer, offset, message| {
        if findings.len() < MAX_FINDINGS {
            findings.push(Finding { severity, layer, record: None, offset, message });
        } else {
            left_out += 1;
        }
    };
    let (session, cut) = events(reader, &mut |event| {
        let layer = match event.direction {
            Direction::Forward => "forward",
            Direction::Back => "back",
        };
        match &event.what {
            What::Trouble { message, due, inside } => {
                valid = false;
                add("error", layer, event.offset, format!("{message} (due: {due}; inside of: {inside})"));
            }
            What::Broken { inside } => add("remark", layer, event.offset, format!("ends inside of {inside}")),
            What::Message { .. } => records += 1,
            _ => {}
        }
        Ok(())
    })?;
    if let Some(error) = cut {
        let severity = if matches!(error, ReadError::Cut { .. }) { "remark" } else { "error" };
        valid &= severity == "remark";
        add(severity, "recording", session.octets(Direction::Forward), error.to_string());
    }
    Ok(Report {
        valid,
        mode: "colo",
        start: Some(start),
        records,
        checkpoints: session.checkpoints(),
        octets: session.octets(Direction::Forward).saturating_add(session.octets(Direction::Back)),
        findings,
        left_out,
    })
}

/// One direction of a recording, as the stream that it was.
pub struct OneWay<R> {
    reader: Reader<R>,
    direction: Direction,
    octets: Vec<u8>,
    given: usize,
}

impl<R: Read> OneWay<R> {
    /// Of a recording that has just been opened.
    pub const fn new(reader: Reader<R>, direction: Direction) -> Self {
        OneWay { reader, direction, octets: Vec::new(), given: 0 }
    }
}

impl<R: Read> Read for OneWay<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.given >= self.octets.len() {
            match self.reader.next_entry() {
                Ok(Some((entry, octets))) if entry.direction == self.direction => {
                    self.octets.clear();
                    self.octets.extend_from_slice(octets);
                    self.given = 0;
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(ReadError::Cut { .. }) => return Ok(0),
                Err(ReadError::Io(error)) => return Err(error),
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
            }
        }
        let rest = self.octets.get(self.given..).unwrap_or_default();
        let octets = rest.len().min(out.len());
        out.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        self.given += octets;
        Ok(octets)
    }
}
