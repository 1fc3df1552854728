//! `xen-replicate convert`.

use super::image_options::ImageArgs;
use super::output::OutputArgs;
use crate::inspect::Input;
use crate::inspect::fit::{Guest, Target, judge};
use crate::inspect::progress::Progress;
use crate::inspect::verify::Options;
use crate::legacy::{self, LegacyError};
use crate::stream::fit::release::Release;
use clap::{Args as ClapArgs, ValueEnum};
use std::collections::HashMap;
use std::io::{self, BufWriter, IsTerminal, Write};
use xen_domain_image::fit::{self, Changed};
use xen_domain_image::plain::{self, Container};
use xen_domain_image::{Image, RecordKey};

/// Options of the command.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// What FILE is, when it is no stream: an image of xl or xend of Xen before 4.6. xl's becomes what xl writes today, xend's a stream of libxc
    #[arg(long, value_enum, value_name = "FORM", conflicts_with_all = ["checkpoint", "force", "release", "container"])]
    from: Option<From>,
    /// Write it even where a receiver refuses FILE, and so what is made of it
    #[arg(long)]
    force: bool,
    #[arg(
        long = "for",
        value_name = "RELEASE",
        help = "Make it fit a release of Xen, as xen-4.17: what can be changed without lying to the guest is changed and told, what cannot is told and nothing is written"
    )]
    release: Option<Release>,
    /// What stands around the records; as in FILE otherwise
    #[arg(long, value_enum, value_name = "CONTAINER")]
    container: Option<ContainerArg>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ContainerArg {
    /// As `xl save` writes it
    Xl,
    /// A libxl stream
    Libxl,
    /// libxc's stream alone, without device models
    Libxc,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum From {
    /// Of Xen before 4.6
    Legacy,
}

/// Runs the command.
pub fn run(args: &Args) -> io::Result<bool> {
    if args.from.is_some() {
        return legacy(args);
    }
    let image = args.image.open(!args.force)?;
    let container = match args.container {
        None => Container::of(&image),
        Some(ContainerArg::Xl) => Container::Xl,
        Some(ContainerArg::Libxl) => Container::Libxl,
        Some(ContainerArg::Libxc) => Container::Libxc,
    };
    let changes = match args.release {
        Some(release) => {
            let changes = fit::changes(&image, release).map_err(|error| args.image.trouble(error))?;
            if !fits(&image, &changes, container, release, args)? {
                return Ok(false);
            }
            changes
        }
        None => Default::default(),
    };
    let write = |out: &mut dyn Write| plain::write_with(&image, container, &changes, out);
    let written = match &args.output.output {
        Some(path) => args.output.to_file(path, |mut file| write(&mut file)),
        None if io::stdout().is_terminal() => return Err(not_for_a_terminal()),
        None => write(&mut BufWriter::new(io::stdout().lock())),
    };
    written.map_err(|error| args.image.trouble(error))?;
    Ok(true)
}

fn legacy(args: &Args) -> io::Result<bool> {
    let path = &args.image.file;
    let named = |error: LegacyError| match error {
        LegacyError::Io(error) => io::Error::new(error.kind(), format!("{}: {error}", path.display())),
        error => io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())),
    };
    let source = Input::open(path).map_err(|error| named(error.into()))?.into_reader();
    let mut converted = legacy::Converted::default();
    let written = match &args.output.output {
        Some(path) => args.output.to_file(path, |file| {
            let mut out = BufWriter::new(file);
            converted = legacy::convert(source, &mut out)?;
            Ok::<_, LegacyError>(out.flush()?)
        }),
        None if io::stdout().is_terminal() => return Err(not_for_a_terminal()),
        None => legacy::convert(source, BufWriter::new(io::stdout().lock())).map(|done| converted = done),
    };
    written.map_err(named)?;
    if let Some(bytes) = converted.left_out {
        eprintln!("left out: {bytes} bytes of the device model's state, which a stream of libxc has no place for");
    }
    Ok(true)
}

fn not_for_a_terminal() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "an image is not for a terminal: -o FILE, or a pipe")
}

/// Tells what will be changed, and what would be refused all the same; false for the latter. What is judged is the image as it will be written,
/// without its pages.
fn fits(
    image: &Image,
    changes: &HashMap<RecordKey, Changed>,
    container: Container,
    release: Release,
    args: &Args,
) -> io::Result<bool> {
    let mut told: Vec<_> = changes.values().flat_map(|changed| &changed.what).collect();
    told.sort_unstable();
    let mut state = Vec::new();
    plain::write_state(image, container, changes, &mut state).map_err(|error| args.image.trouble(error))?;
    let mut progress = Progress::new(None);
    let input = Input::Compressed(Box::new(io::Cursor::new(state)));
    let mut guest = Guest::read(input, &Options { all: true, ..Options::default() }, &mut progress)?;
    // Without its pages it is out of order; what is wrong with the image was found when it was opened.
    guest.findings.clear();
    let fit = judge(&guest, &Target::Release(release));
    let refused: Vec<_> = fit.findings.iter().filter(|found| found.severity == "refused").collect();
    for what in told {
        eprintln!("changed: {what}");
    }
    for found in &fit.findings {
        eprintln!("{}: {}: {}", found.severity, found.part, found.message);
    }
    if !refused.is_empty() {
        eprintln!("not written: {} reasons why {} does not take it", refused.len(), fit.target);
    }
    Ok(refused.is_empty())
}
