//! The primary's connection to the keeper: made again and again, as long as there is a keeper to connect to.
#![forbid(unsafe_code)]

use super::error::{Error, Result, io};
use super::source::{Next, Source};
use super::wire::{self, Frame, Hello, MAGIC};
use crate::transport::{Cancel, LinkReader, LinkWriter, Probe, connect};
use std::io::{BufReader, IoSlice};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Between two attempts to connect, and two signs of life.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts the thread, which ends with the process.
pub(super) fn start(source: Arc<Source>) -> std::io::Result<()> {
    thread::Builder::new().name("disk-link".into()).spawn(move || {
        loop {
            let why = match attempt(&source) {
                Ok(()) => "the keeper has ended the connection".to_owned(),
                Err(error) => error.to_string(),
            };
            source.disconnected(why, PAUSE);
        }
    })?;
    Ok(())
}

/// One connection, from its beginning to its end.
fn attempt(source: &Arc<Source>) -> Result<()> {
    let cancel = Cancel::new().map_err(io("a connection"))?;
    let (address, hello) = source.wanted(cancel.clone());
    let link = connect(&address, &cancel).map_err(io(&address))?;
    let (reader, mut writer) = link.split();
    writer.write_all_vectored(&mut [IoSlice::new(&MAGIC)]).map_err(io(&address))?;
    send(&mut writer, &Frame::Hello(hello.clone()), 0)?;
    let probe = reader.probe();
    if !readable(&probe, source.limits.patience)? {
        return Err(Error::Slow { what: "the keeper to greet", seconds: source.limits.patience.as_secs() });
    }
    let mut reader = BufReader::new(reader);
    wire::read_magic(&mut reader).map_err(wrong)?;
    let partial = match wire::read(&mut reader, 0).map_err(wrong)? {
        Some(Frame::Hello(theirs)) => suits(&hello, &theirs)?,
        Some(Frame::Refused { text }) => return Err(Error::Gone(text)),
        other => return Err(Error::Protocol(format!("{other:?} for a greeting"))),
    };
    if !source.connected(partial) {
        return Err(Error::Gone("called off".into()));
    }
    let listening = Arc::clone(source);
    let calling_off = cancel.clone();
    let listener = thread::Builder::new().name("disk-answers".into()).spawn(move || {
        let heard = listen(&listening, reader, &probe);
        if let Err(error) = &heard {
            listening.end(error.to_string());
        }
        // Wakes whoever writes.
        calling_off.cancel();
        heard
    });
    let listener = listener.map_err(io("a thread"))?;
    let written = speak(source, &mut writer);
    writer.shutdown();
    cancel.cancel();
    // The other side's own words say most.
    match listener.join() {
        Ok(Err(error)) => Err(error),
        _ => written,
    }
}

fn suits(ours: &Hello, theirs: &Hello) -> Result<bool> {
    if theirs.name != ours.name || theirs.size != ours.size {
        let of = |hello: &Hello| format!("{} of {} bytes", hello.name, hello.size);
        return Err(Error::Unsuited { theirs: of(theirs), ours: of(ours) });
    }
    Ok(theirs.flag && theirs.run == ours.run)
}

fn speak(source: &Source, writer: &mut LinkWriter) -> Result<()> {
    let mut number = 1;
    loop {
        match source.next(PAUSE) {
            Next::Frame(frame) => {
                send(writer, &frame, number)?;
                number += 1;
            }
            Next::Wait => {}
            Next::End => return Ok(()),
        }
    }
}

fn listen(source: &Source, mut reader: BufReader<LinkReader>, probe: &Probe) -> Result<()> {
    let mut number = 1;
    loop {
        if reader.buffer().is_empty() && !readable(probe, PAUSE)? {
            if source.is_silent() {
                return Err(Error::Slow { what: "the keeper to answer", seconds: source.limits.patience.as_secs() });
            }
            continue;
        }
        match wire::read(&mut reader, number).map_err(wrong)? {
            None => return Err(Error::Gone("it has ended the connection".into())),
            Some(Frame::Held { seq }) => source.answered(Some(seq)),
            Some(Frame::Pong) => source.answered(None),
            Some(Frame::Refused { text }) => return Err(Error::Gone(text)),
            Some(other) => return Err(Error::Protocol(format!("a frame that is not a keeper's: {other:?}"))),
        }
        number += 1;
    }
}

pub(super) fn send(writer: &mut LinkWriter, frame: &Frame, number: u64) -> Result<()> {
    let (head, rest) = frame.emit(number);
    writer.write_all_vectored(&mut [IoSlice::new(&head), IoSlice::new(rest)]).map_err(io("the connection"))
}

pub(super) fn readable(probe: &Probe, span: Duration) -> Result<bool> {
    probe.wait(span).map_err(io("the connection"))
}

pub(super) fn wrong(error: wire::WireError) -> Error {
    match error {
        wire::WireError::Io(source) => Error::Io { what: "the connection".into(), source },
        error => Error::Protocol(error.to_string()),
    }
}
