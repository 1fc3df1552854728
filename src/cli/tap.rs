//! `xen-replicate tap`.

use crate::inspect::Input;
use crate::tap::recording::Reader;
use crate::tap::{Cut, Event, Form, Watch, answer, pass, replay};
use crate::transport::{Address, Cancel, Listener, connect};
use clap::{Args as ClapArgs, ValueEnum};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Options of the command.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Where the primary connects to: tcp:ADDR:PORT or unix:PATH
    #[arg(long, value_name = "ADDR", required_unless_present = "replay", conflicts_with = "replay")]
    listen: Option<String>,
    /// Where its secondary listens; without it, the tap is the secondary
    #[arg(long, value_name = "ADDR", requires = "listen")]
    forward: Option<String>,
    /// Record both directions in a new file
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Be the primary of a recorded session
    #[arg(long, value_name = "FILE", requires = "to")]
    replay: Option<PathBuf>,
    /// Where the secondary listens that the recording is played to
    #[arg(long, value_name = "ADDR", requires = "replay")]
    to: Option<String>,
    /// The wire form
    #[arg(long, value_enum, default_value_t = FormArg::Qemu, conflicts_with = "replay")]
    dialect: FormArg,
    /// Seconds that a primary may be silent in the middle of an image or a checkpoint, where the tap is the secondary; between the two, after
    /// which something that is missing is reported
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600),
        conflicts_with = "replay")]
    patience: u64,
    /// One JSON object a line, with everything
    #[arg(long)]
    json: bool,
    /// For tests: one direction carries nothing behind MESSAGE@N[+BYTES]
    #[arg(long, value_name = "PLACE", hide = true)]
    cut: Option<Cut>,
    /// Addresses of private networks too, not only of this machine
    #[arg(long)]
    allow_private: bool,
}

/// The wire forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormArg {
    /// QEMU's messages of 32 bits
    Qemu,
    /// The earlier ones of 64 bits
    FrameV8,
    /// libxl's records
    Libxl,
}

/// Runs the command; false when the session broke the protocol.
pub fn run(args: &Args) -> io::Result<bool> {
    match (&args.replay, &args.to, &args.listen) {
        (Some(file), Some(to), _) => play(args, file, to),
        (_, _, Some(listen)) => tap(args, listen),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn address(args: &Args, text: &str) -> io::Result<Address> {
    Address::parse(text, args.allow_private).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

fn watch(args: &Args, form: Form) -> io::Result<Watch> {
    let named = |error: io::Error, path: &Path| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let create = |path: &PathBuf| -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| named(error, path))
    };
    let mut watch = Watch::new(form, args.record.as_ref().map(create).transpose()?, printer(args.json))?;
    watch.set_cut(args.cut.clone());
    Ok(watch)
}

/// Prints events until nobody reads them any more.
fn printer(json: bool) -> Box<dyn FnMut(&Event) + Send> {
    let mut out = Some(io::stdout());
    Box::new(move |event| {
        let Some(stdout) = &mut out else { return };
        let line = if json { serde_json::to_string(event).unwrap_or_default() } else { event.to_string() };
        if writeln!(stdout, "{line}").and_then(|()| stdout.flush()).is_err() {
            out = None;
        }
    })
}

fn tap(args: &Args, listen: &str) -> io::Result<bool> {
    let form = match args.dialect {
        FormArg::Qemu => Form::Qemu,
        FormArg::FrameV8 => Form::FrameV8,
        FormArg::Libxl => Form::Libxl,
    };
    if args.forward.is_none() && form == Form::Libxl {
        let text = "libxl's secondary is xen-replicate receive --colo: the tap needs --forward";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let forward = args.forward.as_ref().map(|text| address(args, text)).transpose()?;
    let watch = watch(args, form)?;
    let listener = Listener::bind(&address(args, listen)?)?;
    eprintln!("listening on {}", listener.address()?);
    let patience = Duration::from_secs(args.patience);
    let (watch, result) = match forward {
        Some(forward) => pass::pass(listener, &forward, patience, watch),
        None => answer::answer(listener, form, patience, watch),
    };
    summary(&watch);
    result.map(|()| watch.errors() == 0)
}

fn summary(watch: &Watch) {
    use crate::tap::Direction::{Back, Forward};
    let session = &watch.session;
    eprintln!(
        "{} checkpoints, {} bytes forward, {} back, {} channels, {} errors",
        session.checkpoints(),
        session.bytes(Forward),
        session.bytes(Back),
        session.channels(),
        watch.errors()
    );
}

fn play(args: &Args, file: &Path, to: &str) -> io::Result<bool> {
    let named = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", file.display()));
    let open = || -> io::Result<_> {
        let input = Input::open(file).map_err(|error| named(&error))?;
        Reader::new(input.into_reader()).map_err(|error| named(&error))
    };
    let to = address(args, to)?;
    let mut reader = open()?;
    let mut watch = watch(args, reader.form())?;
    let plan = replay::plan(&mut reader).map_err(|error| named(&error))?;
    let cancel = Cancel::new()?;
    let link = || connect(&to, &cancel).map_err(|error| io::Error::new(error.kind(), format!("{to}: {error}")));
    let again = || open().map_err(replay::ReplayError::from);
    let result = replay::replay(&again, &plan, &link, &mut watch, &mut |session| {
        eprintln!("played: the secondary stands behind checkpoint {}", session.checkpoints());
    });
    summary(&watch);
    match result {
        Ok(()) => Ok(watch.errors() == 0),
        Err(error) => Err(named(&error)),
    }
}
