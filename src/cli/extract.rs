//! `xen-replicate extract`.

use super::image_options::ImageArgs;
use super::output::OutputArgs;
use clap::Args as ClapArgs;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use xen_domain_image::{Image, ImageError, PAGE_SIZE, elf, memory, translate};

/// Most bytes that `--virtual` reads.
const LONGEST: u64 = 1 << 30;

/// What is asked for otherwise than by a virtual address.
const NOT_BY_ADDRESS: [&str; 6] = ["elf_core", "raw", "lime", "config", "qemu", "page"];

/// Options of the command.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    output: OutputArgs,
    /// By the page tables of this vCPU, for --virtual
    #[arg(long, value_name = "N", conflicts_with_all = NOT_BY_ADDRESS)]
    vcpu: Option<u32>,
    /// How many bytes, for --virtual
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 256,
        value_parser = clap::value_parser!(u64).range(1..=LONGEST),
        conflicts_with_all = NOT_BY_ADDRESS
    )]
    length: u64,
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
struct What {
    /// An ELF core: Xen's dump-core sections, and program headers for debuggers
    #[arg(long)]
    elf_core: bool,
    /// The memory, each page at its guest-physical address, with holes; needs -o
    #[arg(long, requires = "output")]
    raw: bool,
    /// The memory in LiME's format
    #[arg(long)]
    lime: bool,
    /// The domain's configuration: libxl's JSON, which `xl create` takes
    #[arg(long)]
    config: bool,
    /// The state of the device model
    #[arg(long)]
    qemu: bool,
    /// One page, by its page frame number
    #[arg(long, value_name = "PFN", value_parser = number)]
    page: Option<u64>,
    /// Memory at a virtual address, by the page tables of a vCPU
    #[arg(long = "virtual", value_name = "ADDRESS", value_parser = number, id = "address")]
    address: Option<u64>,
}

fn number(text: &str) -> Result<u64, String> {
    let digits = text.replace('_', "");
    let parsed = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    parsed.map_err(|error| format!("{error}: a number, or 0x and hexadecimal digits"))
}

/// Runs the command.
pub fn run(args: &Args) -> io::Result<bool> {
    let image = args.image.open(false)?;
    let written = match &args.output.output {
        Some(path) => args.output.to_file(path, |file| write(args, &image, file)),
        None => show(args, &image),
    };
    written.map_err(|error| args.image.trouble(error))?;
    Ok(true)
}

/// To a file.
fn write(args: &Args, image: &Image, mut file: &File) -> Result<(), ImageError> {
    if args.what.raw {
        return memory::write_raw(image, file);
    }
    match found(args, image)? {
        Some(found) => Ok(file.write_all(&found)?),
        None => memory_of(args, image, &mut file),
    }
}

/// To standard output; to people bytes are shown, not sent.
fn show(args: &Args, image: &Image) -> Result<(), ImageError> {
    let stdout = io::stdout();
    let for_people = stdout.is_terminal();
    let mut out = BufWriter::new(stdout.lock());
    let what = &args.what;
    match found(args, image)? {
        Some(found) if for_people && !what.config => {
            let from = what.address.or(what.page.map(|pfn| pfn << 12)).unwrap_or(0);
            Ok(hex_dump(&found, from, &mut out)?)
        }
        Some(found) => {
            out.write_all(&found)?;
            Ok(out.flush()?)
        }
        None if for_people => {
            let text = "memory is not for a terminal: -o FILE, or a pipe";
            Err(io::Error::new(io::ErrorKind::InvalidInput, text).into())
        }
        None => memory_of(args, image, &mut out),
    }
}

fn memory_of(args: &Args, image: &Image, out: &mut dyn Write) -> Result<(), ImageError> {
    if args.what.lime { memory::write_lime(image, out) } else { elf::write(image, out) }
}

/// What is small; none where all of the memory is asked for.
fn found(args: &Args, image: &Image) -> Result<Option<Vec<u8>>, ImageError> {
    let what = &args.what;
    Ok(if what.config {
        Some(image.config()?.ok_or(ImageError::Missing("preamble of xl, with the configuration"))?)
    } else if what.qemu {
        Some(device_model(image)?)
    } else if let Some(pfn) = what.page {
        let mut page = [0; PAGE_SIZE];
        if !image.read_page(pfn, &mut page)? {
            return Err(ImageError::NoPage(pfn));
        }
        Some(page.to_vec())
    } else if let Some(address) = what.address {
        Some(at_address(args, image, address)?)
    } else {
        None
    })
}

fn device_model(image: &Image) -> Result<Vec<u8>, ImageError> {
    let mut all = image.emulators()?;
    match all.len() {
        0 => Err(ImageError::Missing("state of a device model")),
        1 => Ok(all.remove(0).1),
        _ => Err(ImageError::Missing("single device model: there are several")),
    }
}

fn at_address(args: &Args, image: &Image, address: u64) -> Result<Vec<u8>, ImageError> {
    let all = image.registers()?;
    let vcpu = match args.vcpu {
        Some(number) => all.iter().find(|registers| registers.vcpu == number).ok_or(ImageError::NoVcpu(number))?,
        None => all.first().ok_or(ImageError::Missing("state of any vCPU"))?,
    };
    let mut bytes = vec![0; args.length as usize];
    translate::read(image, vcpu, address, &mut bytes)?;
    Ok(bytes)
}

/// Lines of 16 bytes with their address, as `hexdump -C` has them.
fn hex_dump(bytes: &[u8], from: u64, out: &mut dyn Write) -> io::Result<()> {
    for (number, line) in bytes.chunks(16).enumerate() {
        write!(out, "{:016x} ", from.wrapping_add(16 * number as u64))?;
        for (at, byte) in line.iter().enumerate() {
            write!(out, "{}{byte:02x}", if at == 8 { "  " } else { " " })?;
        }
        let missing = 16 - line.len();
        write!(out, "{:width$}  |", "", width = missing * 3 + usize::from(line.len() <= 8))?;
        for &byte in line {
            let shown = if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' };
            write!(out, "{shown}")?;
        }
        writeln!(out, "|")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn one_thing_is_asked_for_at_a_time() {
        for (words, fits) in [
            (&["x", "f", "--elf-core"][..], true),
            (&["x", "f", "--raw", "-o", "out"], true),
            (&["x", "f", "--raw"], false),
            (&["x", "f"], false),
            (&["x", "f", "--lime", "--config"], false),
            (&["x", "f", "--page", "0x1f"], true),
            (&["x", "f", "--page", "1g"], false),
            (&["x", "f", "--virtual", "0xffffffff_81000000", "--vcpu", "1", "--length", "64"], true),
            (&["x", "f", "--page", "1", "--vcpu", "1"], false),
        ] {
            assert_eq!(Alone::try_parse_from(words).is_ok(), fits, "{words:?}");
        }
        let parsed = Alone::try_parse_from(["x", "f", "--virtual", "0xffffffff_81000000"]).unwrap();
        assert_eq!(parsed.args.what.address, Some(0xffff_ffff_8100_0000));
    }

    #[test]
    fn bytes_are_shown_as_hexdump_does() {
        let mut out = Vec::new();
        hex_dump(&(b'0'..b'0' + 20).collect::<Vec<_>>(), 0x1000, &mut out).unwrap();
        let expected = "0000000000001000  30 31 32 33 34 35 36 37  38 39 3a 3b 3c 3d 3e 3f  |0123456789:;<=>?|\n\
                        0000000000001010  40 41 42 43                                       |@ABC|\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
