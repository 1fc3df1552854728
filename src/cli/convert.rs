//! `xen-replicate convert`.

use super::image_options::{ImageArgs, named};
use super::output::OutputArgs;
use crate::enclose::{self, XapiParts};
use crate::inspect::Input;
use crate::inspect::container::{Kind, MAX_TEXT};
use crate::inspect::fit::{Guest, Target, judge};
use crate::inspect::progress::Progress;
use crate::inspect::seekable::Seekable;
use crate::inspect::verify::Options;
use crate::legacy::{self, LegacyError};
use crate::stream::fit::release::Release;
use clap::{Args as ClapArgs, ValueEnum};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use xen_domain_image::fit::{self, Changed};
use xen_domain_image::plain::{self, Container};
use xen_domain_image::{Image, ImageError, RecordKey};

/// Options of the command.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// What FILE is, when it is no stream: an image of xl or xend of Xen before 4.6. xl's becomes what xl writes today, xend's a stream of libxc
    #[arg(long, value_enum, value_name = "FORM", conflicts_with_all = ["checkpoint", "force", "release", "container", "xml", "xenops"])]
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
    /// What stands around the records; as in FILE's stream otherwise
    #[arg(long, value_enum, value_name = "CONTAINER")]
    container: Option<ContainerArg>,
    /// The domain's XML for --container libvirt, as `virsh dumpxml` prints it; that of FILE otherwise
    #[arg(long, value_name = "XML", requires = "container")]
    xml: Option<PathBuf>,
    /// xenopsd's record for --container xapi; that of FILE otherwise, or one with the least that xenopsd asks for
    #[arg(long, value_name = "RECORD", requires = "container", conflicts_with = "xml")]
    xenops: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ContainerArg {
    /// As `xl save` writes it
    Xl,
    /// A libxl stream
    Libxl,
    /// libxc's stream alone, without device models
    Libxc,
    /// As libvirt's `virsh save` and `managedsave` write it of a Xen guest
    Libvirt,
    /// As XAPI's xenopsd writes it at a suspend
    Xapi,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum From {
    /// Of Xen before 4.6
    Legacy,
}

/// What stands around the plain image.
enum Around {
    Nothing,
    Libvirt { xml: Vec<u8> },
    Xapi { record: Vec<u8>, parts: XapiParts },
}

/// Runs the command.
pub fn run(args: &Args) -> io::Result<bool> {
    if args.from.is_some() {
        return legacy(args);
    }
    let stream = args.image.stream()?;
    let image = args.image.image(&stream, !args.force)?;
    let container = match args.container {
        None => Container::of(&image),
        Some(ContainerArg::Xl) => Container::Xl,
        Some(ContainerArg::Libxl | ContainerArg::Libvirt) => Container::Libxl,
        Some(ContainerArg::Libxc | ContainerArg::Xapi) => Container::Libxc,
    };
    let around = around(args, &stream, &image)?;
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
    let write = |out: &mut dyn Write| {
        match &around {
            Around::Nothing => {}
            Around::Libvirt { xml } => enclose::libvirt(xml, out)?,
            Around::Xapi { record, .. } => enclose::xapi(record, out)?,
        }
        plain::write_with(&image, container, &changes, &mut *out)?;
        if let Around::Xapi { parts, .. } = &around {
            parts.write(out)?;
        }
        Ok::<_, ImageError>(out.flush()?)
    };
    let written = match &args.output.output {
        Some(path) => args.output.to_file(path, |mut file| write(&mut file)),
        None if io::stdout().is_terminal() => return Err(not_for_a_terminal()),
        None => write(&mut BufWriter::new(io::stdout().lock())),
    };
    written.map_err(|error| args.image.trouble(error))?;
    Ok(true)
}

/// What will stand around the image; tells what of the file's container is left out.
fn around(args: &Args, stream: &Seekable, image: &Image) -> io::Result<Around> {
    let option_for = |option: &Option<PathBuf>, name: &str, container: &str| match option {
        Some(_) => invalid(format!("{name} is for --container {container}")),
        None => Ok(()),
    };
    let file = &args.image.file;
    let from_xapi = stream.container.as_ref().is_some_and(|container| container.kind == Kind::Xapi);
    let source = match stream.whole_container() {
        Ok(source) => source,
        Err(error) if from_xapi && matches!(args.container, Some(ContainerArg::Xapi)) => {
            return Err(named(file, error));
        }
        // What stands behind the stream has no place in what is written.
        Err(error) => {
            eprintln!("left out: what stands behind the stream, which cannot be read: {error}");
            stream.container.clone()
        }
    };
    let of_kind = |kind: Kind| source.as_ref().filter(|source| source.kind == kind);
    let around = match args.container {
        Some(ContainerArg::Libvirt) => {
            option_for(&args.xenops, "--xenops", "xapi")?;
            let text = match (&args.xml, of_kind(Kind::Libvirt)) {
                (Some(path), _) => read_small(path)?,
                (None, Some(source)) => source.text.clone().into_bytes(),
                (None, None) => {
                    let text = "libvirt keeps the domain's XML with it, and FILE has none: --xml XML, as virsh dumpxml prints it";
                    return invalid(text.to_owned());
                }
            };
            let path = args.xml.as_ref().unwrap_or(file);
            let xml = enclose::domain_xml(&text).map_err(|error| named(path, error.into()))?.to_vec();
            Around::Libvirt { xml }
        }
        Some(ContainerArg::Xapi) => {
            option_for(&args.xml, "--xml", "libvirt")?;
            let record = match (&args.xenops, of_kind(Kind::Xapi)) {
                (Some(path), _) => read_small(path)?,
                (None, Some(source)) if !source.text.is_empty() => source.text.clone().into_bytes(),
                (None, _) => enclose::least_xenops_record(),
            };
            let path = args.xenops.as_ref().unwrap_or(file);
            let record = enclose::xenops_record(&record).map_err(|error| named(path, error.into()))?.to_vec();
            let mut parts = match of_kind(Kind::Xapi) {
                Some(source) => XapiParts::of_container(source, &stream.file).map_err(|error| named(file, error))?,
                None => XapiParts::default(),
            };
            // In a stream of libxl's, wherever it comes from, the device model is a record.
            parts.add_emulator(image).map_err(|error| args.image.trouble(error))?;
            if !image.is_pv() && parts.is_empty() {
                eprintln!(
                    "without a device model's state, which FILE does not have: xenopsd resumes a PVH guest of it, and none \
                     that has a device model"
                );
            }
            return Ok(Around::Xapi { record, parts });
        }
        _ => {
            option_for(&args.xml, "--xml", "libvirt")?;
            option_for(&args.xenops, "--xenops", "xapi")?;
            Around::Nothing
        }
    };
    let kept = match around {
        Around::Libvirt { .. } => Some(Kind::Libvirt),
        _ => None,
    };
    if let Some(source) = source.as_ref().filter(|source| !source.text.is_empty() && Some(source.kind) != kept) {
        let (what, whose) = match source.kind {
            Kind::Libvirt => ("the domain's XML", "libvirt's"),
            Kind::Xapi => ("xenopsd's record", "XAPI's"),
        };
        eprintln!("left out: {what} ({} bytes), which only {whose} image has a place for", source.text.len());
    }
    for part in source.iter().flat_map(|source| &source.parts).filter(|part| part.name != "xenops") {
        eprintln!("left out: {} ({} bytes), which only XAPI's image has a place for", part.name, part.bytes);
    }
    Ok(around)
}

/// A small file as a whole.
fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One more than what is taken: what is longer is seen to be, and not cut.
    File::open(path)
        .and_then(|file| file.take(MAX_TEXT + 1).read_to_end(&mut bytes))
        .map_err(|error| named(path, error))?;
    if bytes.len() as u64 > MAX_TEXT {
        return invalid(format!("{}: more than {MAX_TEXT} bytes", path.display()));
    }
    Ok(bytes)
}

fn invalid<T>(text: String) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
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
