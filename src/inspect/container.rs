//! What other toolstacks put around a stream: libvirt's libxl driver, and XAPI's xenopsd.
//!
//! | container | before the stream | behind it |
//! |---|---|---|
//! | libvirt | 64 bytes of header, the domain's XML | nothing |
//! | XAPI | 15 bytes of signature; parts, each behind its type and length; the stream's own header, whose length is 0 | parts, the last of them a footer |
//!
//! Source: `libxlSavefileHeader` in libvirt's `src/libxl/libxl_conf.h`, `libxlDoDomainSave` and `libxlDomainSaveImageOpen`;
//! `ocaml/xenopsd/lib/suspend_image.ml` and `suspend` in `ocaml/xenopsd/xc/domain.ml` of xen-api. XAPI's integers are
//! little-endian and of 64 bits; the part of libxc is a bare stream, which tells by itself where it ends.

use crate::stream::error::{FrameError, StreamError};
use crate::stream::reader::ReadError;
use crate::stream::{Layer, Start};
use serde::Serialize;
use std::fmt;
use std::io::{self, Read};

/// Bytes that tell a container.
pub(super) const HEAD: usize = 16;
/// Most bytes of XML or of a part that is kept.
pub(crate) const MAX_TEXT: u64 = 16 << 20;
/// Most parts of an image that are listed; real ones have six at most.
const MAX_PARTS: usize = 64;

pub(crate) const LIBVIRT_MAGIC: &[u8; 16] = b"libvirt-xml\n \0 \r";
pub(crate) const LIBVIRT_HEADER: usize = 64;
/// `LIBXL_SAVE_VERSION` of a libvirt that writes migration v2; 1 came before.
pub(crate) const LIBVIRT_VERSION: u32 = 2;
pub(crate) const XAPI_MAGIC: &[u8; 15] = b"XenSavedDomv2-\n";

/// Which container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// libvirt's `virsh save` and `managedsave` of a Xen guest.
    Libvirt,
    /// XAPI's suspend image, structured.
    Xapi,
}

impl Kind {
    /// The container that begins with these bytes.
    pub(super) fn of(head: &[u8]) -> Option<Kind> {
        if head.starts_with(LIBVIRT_MAGIC) {
            Some(Kind::Libvirt)
        } else if head.starts_with(XAPI_MAGIC) {
            Some(Kind::Xapi)
        } else {
            None
        }
    }

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Libvirt => "libvirt save image",
            Kind::Xapi => "XAPI suspend image",
        }
    }

    const fn layer(self) -> Layer {
        match self {
            Kind::Libvirt => Layer::Libxl,
            Kind::Xapi => Layer::Libxc,
        }
    }
}

/// A part of a XAPI image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it is, by xenopsd's name.
    pub name: &'static str,
    /// Where its contents start in the file, unpacked.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// A container and what is in it besides the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Container {
    /// Which.
    pub kind: Kind,
    /// Where the stream starts in the file, unpacked.
    pub offset: u64,
    /// Its version; XAPI's has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// The stream's outermost layer, where the container says so.
    #[serde(skip)]
    pub(super) start: Option<Start>,
    /// Whether the container has something behind the stream.
    #[serde(skip)]
    pub(super) goes_on: bool,
    /// The domain's XML, or xenopsd's own description of it.
    #[serde(skip)]
    pub text: String,
    /// Parts besides the stream.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, the stream at offset {}", self.kind.name(), self.offset)?;
        for part in &self.parts {
            write!(f, ", {} at {} ({} bytes)", part.name, part.offset, part.bytes)?;
        }
        Ok(())
    }
}

/// Bytes taken from a source, counted.
struct Taken<'a, R> {
    kind: Kind,
    source: &'a mut R,
    offset: u64,
}

impl<R: Read> Taken<'_, R> {
    fn bad(&self, offset: u64, why: String) -> ReadError {
        let problem = FrameError::Container { container: self.kind.name(), why }.into();
        StreamError { layer: self.kind.layer(), index: None, offset, problem }.into()
    }

    /// Reads what must be there.
    fn bytes(&mut self, what: &str, count: u64) -> Result<Vec<u8>, ReadError> {
        let at = self.offset;
        if count > MAX_TEXT {
            return Err(self.bad(at, format!("{what} has {count} bytes, over the limit of {MAX_TEXT}")));
        }
        let mut bytes = Vec::new();
        let got =
            self.source.take(count).read_to_end(&mut bytes).map_err(|error| ReadError::Io { offset: at, error })?;
        self.offset += got as u64;
        if (got as u64) < count {
            return Err(self.bad(at, format!("it ends inside {what}: {count} bytes expected, {got} there")));
        }
        Ok(bytes)
    }

    fn pass(&mut self, what: &str, count: u64) -> Result<(), ReadError> {
        let at = self.offset;
        let passed = io::copy(&mut self.source.take(count), &mut io::sink());
        let got = passed.map_err(|error| ReadError::Io { offset: at, error })?;
        self.offset += got;
        if got < count {
            return Err(self.bad(at, format!("it ends inside {what}: {count} bytes expected, {got} there")));
        }
        Ok(())
    }

    /// Type and length of a part of XAPI's.
    fn part(&mut self) -> Result<(XapiPart, u64), ReadError> {
        let at = self.offset;
        let header = self.bytes("a part's header", 16)?;
        let (type_id, bytes) = header.split_at_checked(8).unwrap_or_default();
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        let (type_id, bytes) = (word(type_id), word(bytes));
        match XapiPart::from_wire(type_id) {
            Some(part) => Ok((part, bytes)),
            None => Err(self.bad(at, format!("part type {type_id:#x} does not exist"))),
        }
    }
}

/// Types of the parts of a XAPI image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum XapiPart {
    Xenops,
    Libxc,
    Libxl,
    LibxcLegacy,
    Demu,
    /// A part that is passed over by its length.
    Sized(&'static str),
    End,
}

/// Each part by its type on the wire.
const XAPI_PARTS: [(u64, XapiPart); 11] = [
    (0x000f, XapiPart::Xenops),
    (0x00f0, XapiPart::Libxc),
    (0x00f1, XapiPart::Libxl),
    (0x00f2, XapiPart::LibxcLegacy),
    (0x0f00, XapiPart::QEMU),
    (0x0f01, XapiPart::Sized("qemu (xen)")),
    (0x0f10, XapiPart::Demu),
    (0x0f11, XapiPart::Sized("varstored")),
    (0x0f12, XapiPart::Sized("swtpm0")),
    (0x0f13, XapiPart::Sized("swtpm")),
    (0xffff, XapiPart::End),
];

impl XapiPart {
    /// The state of any QEMU, which xenopsd writes under this type, too.
    pub(crate) const QEMU: XapiPart = XapiPart::Sized("qemu (traditional)");

    fn from_wire(type_id: u64) -> Option<XapiPart> {
        XAPI_PARTS.iter().find(|(wire, _)| *wire == type_id).map(|(_, part)| *part)
    }

    /// Its type on the wire.
    pub(crate) fn wire(self) -> u64 {
        XAPI_PARTS.iter().find(|(_, part)| *part == self).map_or(0, |(wire, _)| *wire)
    }

    /// The part that is passed over by its length and has this name.
    pub(crate) fn named(name: &str) -> Option<XapiPart> {
        XAPI_PARTS.iter().map(|(_, part)| *part).find(|part| matches!(part, XapiPart::Sized(known) if *known == name))
    }
}

impl Container {
    /// Reads a container from its first byte up to the stream's.
    ///
    /// # Errors
    /// The source's; a container that cannot be read.
    pub(super) fn enter<R: Read>(kind: Kind, source: &mut R) -> Result<Container, ReadError> {
        let mut taken = Taken { kind, source, offset: 0 };
        match kind {
            Kind::Libvirt => enter_libvirt(&mut taken),
            Kind::Xapi => enter_xapi(&mut taken),
        }
    }

    /// Reads what follows the stream, which has ended at `offset` from its own start.
    ///
    /// # Errors
    /// The source's; parts that cannot be read.
    pub(super) fn leave<R: Read>(&mut self, source: &mut R, offset: u64) -> Result<(), ReadError> {
        if !self.goes_on {
            return Ok(());
        }
        let mut taken = Taken { kind: self.kind, source, offset: self.offset + offset };
        loop {
            let at = taken.offset;
            match taken.part()? {
                (XapiPart::End, _) => return Ok(()),
                (part, bytes) => self.pass(&mut taken, part, at, bytes)?,
            }
        }
    }

    fn pass<R: Read>(
        &mut self,
        taken: &mut Taken<'_, R>,
        part: XapiPart,
        at: u64,
        bytes: u64,
    ) -> Result<(), ReadError> {
        let name = match part {
            XapiPart::Sized(name) => name,
            XapiPart::Xenops => "xenops",
            XapiPart::Demu => {
                return Err(taken.bad(at, "state of a vGPU, whose length only its device model knows".to_owned()));
            }
            XapiPart::LibxcLegacy => {
                let why = "its memory is a legacy stream, of Xen 4.5 or earlier: convert-legacy-stream converts it";
                return Err(taken.bad(at, why.to_owned()));
            }
            XapiPart::Libxc | XapiPart::Libxl | XapiPart::End => {
                return Err(taken.bad(at, "a second stream, or an end before any".to_owned()));
            }
        };
        let offset = taken.offset;
        if part == XapiPart::Xenops {
            self.text = String::from_utf8_lossy(&taken.bytes(name, bytes)?).into_owned();
        } else {
            taken.pass(name, bytes)?;
        }
        if self.parts.len() < MAX_PARTS {
            self.parts.push(Part { name, offset, bytes });
        }
        Ok(())
    }
}

fn enter_libvirt<R: Read>(taken: &mut Taken<'_, R>) -> Result<Container, ReadError> {
    let header = taken.bytes("the header", LIBVIRT_HEADER as u64)?;
    let word = |at: usize| header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
    let (version, length) = (word(16), word(20));
    match version {
        LIBVIRT_VERSION => {}
        1 => {
            let why =
                "version is 1: a legacy stream follows, of Xen 4.5 or earlier, which convert-legacy-stream converts";
            return Err(taken.bad(16, why.to_owned()));
        }
        _ => return Err(taken.bad(16, format!("version is {version}, at most {LIBVIRT_VERSION} exists"))),
    }
    if length == 0 {
        return Err(taken.bad(20, "xmlLen is 0: libvirt refuses it".to_owned()));
    }
    let xml = taken.bytes("the domain's XML", length.into())?;
    let text = String::from_utf8_lossy(xml.strip_suffix(b"\0").unwrap_or(&xml)).into_owned();
    Ok(Container {
        kind: taken.kind,
        offset: taken.offset,
        version: Some(version),
        start: None,
        goes_on: false,
        text,
        parts: Vec::new(),
    })
}

fn enter_xapi<R: Read>(taken: &mut Taken<'_, R>) -> Result<Container, ReadError> {
    taken.bytes("the signature", XAPI_MAGIC.len() as u64)?;
    let mut container = Container {
        kind: taken.kind,
        offset: 0,
        version: None,
        start: None,
        goes_on: true,
        text: String::new(),
        parts: Vec::new(),
    };
    loop {
        let at = taken.offset;
        let (part, bytes) = taken.part()?;
        let start = match part {
            XapiPart::Libxc => Start::Libxc,
            XapiPart::Libxl => Start::Libxl,
            part => {
                container.pass(taken, part, at, bytes)?;
                continue;
            }
        };
        container.start = Some(start);
        container.offset = taken.offset;
        return Ok(container);
    }
}
