//! One page about a file, for a browser: everything in it, nothing fetched.
//!
//! * [`stream`] is a migration stream's page, [`log`] that of a log of statuses (`ctl status --watch --json`).
//! * [`timeline`], [`page_map`], [`records`] and [`state`] are the parts of a stream's page; each has a bound, whatever the stream's length,
//!   and says what it left out.
//! * `html` puts the data into the page.
#![forbid(unsafe_code)]

mod html;
pub mod log;
pub mod page_map;
pub mod records;
pub mod state;
pub mod stream;
pub mod timeline;

use super::input::Input;
use super::progress::Progress;
use super::recording::{self, Source};
use super::verify;
use serde::Serialize;
use std::io::{self, BufReader, Cursor, Read, Write};

pub use log::LogReport;
pub use stream::StreamReport;

/// What the page is made of.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The program that made it.
    pub program: &'static str,
    /// The file's name, without its folders.
    pub file: String,
    /// What was in it.
    #[serde(flatten)]
    pub of: Of,
}

/// What a file was.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Of {
    /// A migration stream.
    Stream(Box<StreamReport>),
    /// A log of statuses.
    Log(Box<LogReport>),
}

/// Reads a file for its page.
///
/// # Errors
/// The input cannot be read; it is a recorded session of COLO ([`io::ErrorKind::Unsupported`]).
pub fn report(input: Input, file: String, options: &verify::Options, progress: &mut Progress) -> io::Result<Report> {
    let program = concat!("xen-replicate ", env!("CARGO_PKG_VERSION"));
    let input = match recording::recognise(input)? {
        Source::Stream(input) => input,
        Source::Recording(_) | Source::Primary(_) => {
            let text = "a session of COLO: stats and verify tell of it";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
    };
    let of = match text_or_stream(input)? {
        Ok(text) => Of::Log(Box::new(log::read(BufReader::new(text))?)),
        Err(input) => Of::Stream(Box::new(stream::read(input, options, progress)?)),
    };
    Ok(Report { program, file, of })
}

/// JSON begins with a brace, which no stream does.
fn text_or_stream(input: Input) -> io::Result<Result<Box<dyn Read + Send>, Input>> {
    match input {
        Input::Mapped(map) if map.first() == Some(&b'{') => Ok(Ok(Box::new(Cursor::new(map)))),
        Input::Pipe(pipe) if pipe.head().first() == Some(&b'{') => Ok(Ok(Box::new(pipe))),
        Input::Compressed(mut source) => {
            let mut first = Vec::new();
            source.by_ref().take(1).read_to_end(&mut first)?;
            let is_text = first.first() == Some(&b'{');
            let whole: Box<dyn Read + Send> = Box::new(Cursor::new(first).chain(source));
            Ok(if is_text { Ok(whole) } else { Err(Input::Compressed(whole)) })
        }
        other => Ok(Err(other)),
    }
}

impl Report {
    /// Writes the page.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_page(&self, out: &mut dyn Write) -> io::Result<()> {
        html::write(self, out)
    }

    /// Whether all is well with the file: a stream that a receiver can take, a log without a line that is none.
    pub fn is_good(&self) -> bool {
        match &self.of {
            Of::Stream(stream) => stream.info.valid,
            Of::Log(log) => log.bad_lines == 0,
        }
    }
}
