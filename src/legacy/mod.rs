//! Images of Xen before 4.6, as libxl's xl and as xend wrote them, made into migration v2.
//!
//! What comes out is what Xen's own `convert-legacy-stream` makes of the same image, byte for byte, but for batches of which nothing is
//! left: that program writes PAGE_DATA without any page for them, which every receiver refuses, and here there is none.
//!
//! Source: `tools/python/xen/migration/legacy.py` in Xen, which describes the form, `tools/libxc/xc_domain_save.c` and
//! `tools/libxl/libxl_dom.c` of Xen 4.5, `tools/python/xen/xend/XendCheckpoint.py` of Xen 4.4.
//!
//! Read and written in order, in memory bounded by a batch of pages and by the guest's p2m.
#![forbid(unsafe_code)]

mod chunks;
mod source;

use self::source::{Source, Width};
use crate::stream::libxc::{DomainHeader, DomainType, ImageHeader, types};
use crate::stream::libxl::{self, EmulatorId};
use crate::stream::writer::RecordWriter;
use crate::stream::xl::{BYTEORDER, MAGIC, MANDATORY_KNOWN, MANDATORY_STREAM_V2};
use serde_json::Value;
use std::io::{self, Read, Write};
use thiserror::Error;

/// The start of what xend wrote.
const XEND_MAGIC: &[u8; 16] = b"LinuxGuestRecord";
/// The converter's version, where a Xen has its minor one.
const CONVERTER: u32 = 1;
/// The longest configuration.
const MOST_CONFIG: u32 = 16 << 20;
/// The longest body of a record.
const MOST_BODY: u32 = 128 << 20;

/// Why an image was not converted.
#[derive(Debug, Error)]
pub enum LegacyError {
    /// The system's.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The image's.
    #[error("legacy image, at offset {offset} ({offset:#x}): {problem}")]
    Image {
        /// Where reading had come to.
        offset: u64,
        /// What is wrong.
        problem: Problem,
    },
}

/// What is wrong with an image.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Problem {
    /// It starts as none does.
    #[error("neither an image of xl nor one of xend of Xen before 4.6")]
    Start,
    /// It is of migration v2.
    #[error("an image of migration v2: there is nothing to convert")]
    NotLegacy,
    /// It ends.
    #[error("{needed} bytes needed, {there} are there: the image is cut")]
    Truncated {
        /// How many should be there.
        needed: u64,
        /// How many are.
        there: u64,
    },
    /// The byte order of another machine.
    #[error("byte order {0:#x}: of a machine of another byte order")]
    ByteOrder(u32),
    /// Flags of xl's preamble that a reader must know, and this one does not.
    #[error("mandatory flags {0:#x} in the preamble of xl: not known")]
    Flags(u32),
    /// A length that none has.
    #[error("{what} of {length} bytes, at most {most} exist")]
    TooLong {
        /// What.
        what: &'static str,
        /// Its bytes.
        length: u64,
        /// The most.
        most: u64,
    },
    /// Neither PV nor HVM.
    #[error("the configuration does not say whether the guest is PV or HVM")]
    Type,
    /// A PV guest without extended info.
    #[error("{0:#x} in place of the mark of extended info: an image of Xen before 3.1, or none")]
    Marker(u64),
    /// A block of extended info that is not known.
    #[error("extended info: block {0:?}: not known")]
    Block(String),
    /// A vCPU of a size that none has.
    #[error("a vCPU of {0} bytes: neither of 64 bits (5168) nor of 32 (2800)")]
    VcpuSize(u32),
    /// Extended info that is longer or shorter than it says.
    #[error("extended info of {said} bytes has {found}")]
    ExtendedInfo {
        /// What it says.
        said: u32,
        /// What it has.
        found: u64,
    },
    /// No vCPU's size before the p2m.
    #[error("extended info without the size of a vCPU")]
    NoVcpuSize,
    /// A p2m of no size, or of more than there can be.
    #[error("a p2m of {0:#x} page frames")]
    P2mSize(u64),
    /// More pages at once than there can be.
    #[error("a batch of {0} pages, at most 1024 are sent")]
    Batch(i32),
    /// A page twice in a batch.
    #[error("page frame {0:#x} twice in a batch")]
    Twice(u64),
    /// vCPUs that do not exist.
    #[error("highest vCPU {0}, at most 4095")]
    MaxVcpu(i32),
    /// A chunk that is not known.
    #[error("chunk {0}: not known")]
    Chunk(i32),
    /// A chunk that nobody converts.
    #[error("chunk {number} ({name}): not converted")]
    Unsupported {
        /// Its number.
        number: i32,
        /// Its name.
        name: &'static str,
    },
    /// An XSAVE area of another size than announced.
    #[error("XSAVE state of {found} bytes, {said} were announced")]
    Xsave {
        /// The size that extended info says.
        said: u64,
        /// The size that is there.
        found: u64,
    },
    /// A device model's state that is not understood.
    #[error("the device model's record starts with {0:?}")]
    Emulator(String),
    /// libxl's part that is not understood.
    #[error("toolstack data: {0}")]
    Toolstack(&'static str),
}

/// What was converted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Converted {
    /// `xl` or `xend`.
    pub from: &'static str,
    /// Bytes of a device model's state that what comes out has no place for.
    pub left_out: Option<u64>,
}

/// The guest, as far as it is known.
struct Guest {
    kind: DomainType,
    /// Whether libxl's records are written around libxc's.
    libxl: bool,
    p2m_size: u64,
    /// Bytes of a vCPU's basic context: 0 before it is known.
    basic: u32,
    /// Whether each vCPU has extended state.
    extended: bool,
    /// Bytes of each vCPU's XSAVE state with its head, where it has one.
    xsave: u32,
    online: Vec<u32>,
    /// Keys and values for the device model.
    xenstore: Vec<u8>,
}

/// Whether a file's start is an image of this sort.
pub fn is_one(head: &[u8]) -> bool {
    head.starts_with(XEND_MAGIC) || head.starts_with(MAGIC)
}

/// Converts an image: of xl's into what xl writes today, of xend's into libxc's stream alone.
///
/// # Errors
/// The system's; what is wrong with the image. What was written until then is no image.
pub fn convert(from: impl Read, out: impl Write) -> Result<Converted, LegacyError> {
    let mut source = Source::new(from);
    let mut out = RecordWriter::new(out);
    let head = source.peek(MAGIC.len())?;
    let (from, kind) = if head.starts_with(MAGIC) {
        ("xl", xl_preamble(&mut source, &mut out)?)
    } else if head.starts_with(XEND_MAGIC) {
        ("xend", xend_config(&mut source)?)
    } else {
        return Err(source.wrong(Problem::Start));
    };
    source.width = width(&mut source, kind)?;
    let p2m_size = source.ulong()?;
    if p2m_size == 0 || p2m_size > 1 << 32 {
        return Err(source.wrong(Problem::P2mSize(p2m_size)));
    }
    let libxl = from == "xl";
    let mut guest =
        Guest { kind, libxl, p2m_size, basic: 0, extended: false, xsave: 0, online: Vec::new(), xenstore: Vec::new() };
    if libxl {
        out.raw(&libxl::Header { options: libxl::OPTION_LEGACY }.emit())?;
        out.record(libxl::types::LIBXC_CONTEXT, &[])?;
    }
    out.raw(&ImageHeader::new(3).emit())?;
    out.raw(&DomainHeader::new(kind, 0, CONVERTER).emit())?;
    if kind == DomainType::Pv {
        extended_info(&mut source, &mut guest, &mut out)?;
    }
    out.record(types::STATIC_DATA_END, &[])?;
    if kind == DomainType::Pv {
        p2m(&mut source, &guest, &mut out)?;
    }
    chunks::read(&mut source, &mut guest, &mut out)?;
    match kind {
        DomainType::Pv => pv_tail(&mut source, &guest, &mut out)?,
        _ => hvm_tail(&mut source, &mut out)?,
    }
    if libxl && !guest.xenstore.is_empty() {
        let id = EmulatorId::Unknown.wire().to_le_bytes();
        out.record(libxl::types::EMULATOR_XENSTORE_DATA, &[&id, &[0; 4], &guest.xenstore])?;
    }
    let left_out = if kind == DomainType::Pv { None } else { emulator(&mut source, libxl, &mut out)? };
    if libxl {
        out.record(libxl::types::END, &[])?;
    }
    out.flush()?;
    Ok(Converted { from, left_out })
}

/// Copies xl's preamble, and marks what follows as v2; gives the type that the configuration says.
fn xl_preamble<R: Read, W: Write>(
    source: &mut Source<R>,
    out: &mut RecordWriter<W>,
) -> Result<DomainType, LegacyError> {
    let magic: [u8; 32] = source.array()?;
    let order = source.u32()?;
    if order != BYTEORDER {
        return Err(source.wrong(Problem::ByteOrder(order)));
    }
    let (mandatory, optional, length) = (source.u32()?, source.u32()?, source.u32()?);
    if mandatory & MANDATORY_STREAM_V2 != 0 {
        return Err(source.wrong(Problem::NotLegacy));
    }
    if mandatory & !MANDATORY_KNOWN != 0 {
        return Err(source.wrong(Problem::Flags(mandatory)));
    }
    bounded(source, "configuration", length, MOST_CONFIG)?;
    let mut data = Vec::new();
    source.bytes(length.into(), &mut data)?;
    let kind = kind_of(data.get(4..).unwrap_or_default()).ok_or_else(|| source.wrong(Problem::Type))?;
    out.raw(&magic)?;
    for word in [order, mandatory | MANDATORY_STREAM_V2, optional, length] {
        out.raw(&word.to_le_bytes())?;
    }
    out.raw(&data)?;
    Ok(kind)
}

/// PV or HVM, by xl's configuration: JSON, or before Xen 4.4 as `xl create` takes it.
fn kind_of(config: &[u8]) -> Option<DomainType> {
    let text = String::from_utf8_lossy(config.strip_suffix(b"\0").unwrap_or(config)).into_owned();
    if let Ok(config) = serde_json::from_str::<Value>(&text) {
        let kind = config.get("c_info").and_then(|info| info.get("type")).and_then(Value::as_str);
        return match kind? {
            "hvm" => Some(DomainType::Hvm),
            "pv" => Some(DomainType::Pv),
            _ => None,
        };
    }
    let builder = text.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| key.trim() == "builder");
    match builder.map(|(_, value)| value.trim().trim_matches(['"', '\''])) {
        Some("hvm") => Some(DomainType::Hvm),
        Some("generic" | "linux") | None if text.contains('=') => Some(DomainType::Pv),
        _ => None,
    }
}

/// Reads xend's header: the configuration as an S-expression, whose image says what the guest is.
fn xend_config<R: Read>(source: &mut Source<R>) -> Result<DomainType, LegacyError> {
    let _: [u8; 16] = source.array()?;
    let length = source.array().map(u32::from_be_bytes)?;
    bounded(source, "configuration", length, MOST_CONFIG)?;
    let mut config = Vec::new();
    source.bytes(length.into(), &mut config)?;
    let text: String = String::from_utf8_lossy(&config).split_whitespace().collect::<Vec<_>>().join(" ");
    if text.contains("(image (hvm") {
        Ok(DomainType::Hvm)
    } else if text.contains("(image (linux") {
        Ok(DomainType::Pv)
    } else {
        Err(source.wrong(Problem::Type))
    }
}

/// The width of the toolstack's words, by what follows the size of the p2m, which has never more than 32 bits: the mark of extended info of
/// a PV guest, the first chunk of a HVM guest.
fn width<R: Read>(source: &mut Source<R>, kind: DomainType) -> Result<Width, LegacyError> {
    let second =
        source.peek(8)?.get(4..8).map_or(0, |word| word.iter().fold(0, |all, byte| all << 8 | u32::from(*byte)));
    Ok(match (kind, second) {
        (_, 0) => Width::Bits64,
        (DomainType::Pv, u32::MAX) => Width::Bits32,
        // A p2m of more than 32 bits, or none at all: said where it is read.
        (DomainType::Pv, _) => Width::Bits64,
        _ => Width::Bits32,
    })
}

fn bounded<R: Read>(source: &Source<R>, what: &'static str, length: u32, most: u32) -> Result<(), LegacyError> {
    if length > most {
        return Err(source.wrong(Problem::TooLong { what, length: length.into(), most: most.into() }));
    }
    Ok(())
}

fn extended_info<R: Read, W: Write>(
    source: &mut Source<R>,
    guest: &mut Guest,
    out: &mut RecordWriter<W>,
) -> Result<(), LegacyError> {
    let marker = source.ulong()?;
    let expected = if source.width == Width::Bits32 { u32::MAX.into() } else { u64::MAX };
    if marker != expected {
        return Err(source.wrong(Problem::Marker(marker)));
    }
    let said = source.u32()?;
    let mut found = 0;
    let mut data = Vec::new();
    while found < u64::from(said) {
        let (block, length): ([u8; 4], u32) = (source.array()?, source.u32()?);
        bounded(source, "extended info", length, MOST_CONFIG)?;
        source.bytes(length.into(), &mut data)?;
        found += 8 + u64::from(length);
        match &block {
            b"vcpu" => {
                let (width, levels) = match length {
                    5168 => (8, 4),
                    2800 => (4, 3),
                    _ => return Err(source.wrong(Problem::VcpuSize(length))),
                };
                guest.basic = length;
                out.record(types::X86_PV_INFO, &[&[width, levels, 0, 0, 0, 0, 0, 0]])?;
            }
            b"extv" => guest.extended = true,
            b"xcnt" => {
                let word = data.get(..4).and_then(|word| word.try_into().ok());
                guest.xsave =
                    word.map(u32::from_le_bytes).ok_or_else(|| source.wrong(Problem::Block("xcnt".into())))?;
            }
            other => return Err(source.wrong(Problem::Block(String::from_utf8_lossy(other).into_owned()))),
        }
    }
    if found != u64::from(said) {
        return Err(source.wrong(Problem::ExtendedInfo { said, found }));
    }
    Ok(())
}

/// The frames of the p2m, one of the toolstack's words each.
fn p2m<R: Read, W: Write>(source: &mut Source<R>, guest: &Guest, out: &mut RecordWriter<W>) -> Result<(), LegacyError> {
    let per_frame = match guest.basic {
        0 => return Err(source.wrong(Problem::NoVcpuSize)),
        2800 => 1024,
        _ => 512,
    };
    let mut frames = Vec::new();
    source.ulongs((guest.p2m_size - 1) / per_frame + 1, &mut frames)?;
    let frames: Vec<u8> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
    let last = u32::try_from(guest.p2m_size - 1).map_err(|_| source.wrong(Problem::P2mSize(guest.p2m_size)))?;
    out.record(types::X86_PV_P2M_FRAMES, &[&[0; 4], &last.to_le_bytes(), &frames])?;
    Ok(())
}

fn pv_tail<R: Read, W: Write>(
    source: &mut Source<R>,
    guest: &Guest,
    out: &mut RecordWriter<W>,
) -> Result<(), LegacyError> {
    let unmapped = source.u32()?;
    let mut frames = Vec::new();
    for first in (0..unmapped).step_by(1 << 16) {
        // Nobody needs them.
        source.ulongs(u64::from((unmapped - first).min(1 << 16)), &mut frames)?;
    }
    let mut state = Vec::new();
    for vcpu in &guest.online {
        let head = [vcpu.to_le_bytes(), [0; 4]].concat();
        source.bytes(guest.basic.into(), &mut state)?;
        out.record(types::X86_PV_VCPU_BASIC, &[&head, &state])?;
        if guest.extended {
            source.bytes(128, &mut state)?;
            out.record(types::X86_PV_VCPU_EXTENDED, &[&head, &state])?;
        }
        if guest.xsave != 0 {
            let (_mask, size) = (source.u64()?, source.u64()?);
            let said = u64::from(guest.xsave).saturating_sub(16);
            if size != said || guest.xsave > MOST_BODY {
                return Err(source.wrong(Problem::Xsave { said, found: size }));
            }
            source.bytes(size, &mut state)?;
            out.record(types::X86_PV_VCPU_XSAVE, &[&head, &state])?;
        }
    }
    source.bytes(4096, &mut state)?;
    out.record(types::SHARED_INFO, &[&state])?;
    out.record(types::END, &[])?;
    Ok(())
}

fn hvm_tail<R: Read, W: Write>(source: &mut Source<R>, out: &mut RecordWriter<W>) -> Result<(), LegacyError> {
    let (io, buffered, store) = (source.u64()?, source.u64()?, source.u64()?);
    chunks::write_params(&[(5, io), (6, buffered), (1, store)], out)?;
    let length = source.u32()?;
    bounded(source, "HVM context", length, MOST_BODY)?;
    let mut context = Vec::new();
    source.bytes(length.into(), &mut context)?;
    out.record(types::HVM_CONTEXT, &[&context])?;
    out.record(types::END, &[])?;
    Ok(())
}

/// The device model's state. libxc's stream has no place for it: how much is left out then.
fn emulator<R: Read, W: Write>(
    source: &mut Source<R>,
    libxl: bool,
    out: &mut RecordWriter<W>,
) -> Result<Option<u64>, LegacyError> {
    let signature: [u8; 21] = source.array()?;
    match &signature {
        b"DeviceModelRecord0002" => {
            let length = source.u32()?;
            bounded(source, "device model's state", length, MOST_BODY)?;
            let mut state = Vec::new();
            source.bytes(length.into(), &mut state)?;
            if !libxl {
                return Ok(Some(length.into()));
            }
            let id = EmulatorId::Unknown.wire().to_le_bytes();
            out.record(libxl::types::EMULATOR_CONTEXT, &[&id, &[0; 4], &state])?;
            Ok(None)
        }
        b"QemuDeviceModelRecord" if !libxl => Ok(Some(source.rest(u64::from(MOST_BODY))?)),
        _ => Err(source.wrong(Problem::Emulator(String::from_utf8_lossy(&signature).into_owned()))),
    }
}
