//! QEMU's savevm container (`QEVM`), the blob of EMULATOR_CONTEXT: machine type and sections.
//!
//! Source: QEMU's `migration/savevm.c`, all numbers big-endian: magic, version 3, then units by
//! their first byte: CONFIGURATION (7), SECTION_START (1), PART (2), END (3), FULL (4), FOOTER
//! (0x7e), COMMAND (8), EOF (0), and behind EOF VMDESCRIPTION (6). What QEMU writes for Xen
//! (`xen-save-devices-state`) is FULL sections and EOF alone: the Xen accelerator turns configuration
//! and footers off. How the sections' extents are found although none carries a length is told in
//! `boundaries.rs`; where the blob does not give a single answer, the value says where it stopped.

mod boundaries;

use nom::Parser;
use nom::bytes::complete::take;
use nom::multi::length_data;
use nom::number::complete::{be_u8, be_u16, be_u32};
use serde::Serialize;

use self::boundaries::{Header, Stop, chain};
use super::error::DecodeError;
use super::hex::{HexDigits, Opaque};

/// `QEMU_VM_FILE_MAGIC`: "QEVM".
pub const MAGIC: u32 = 0x5145_564d;
/// `QEMU_VM_FILE_VERSION`.
pub const VERSION: u32 = 3;

/// [`Stopped::reason`] of a blob that can be read in more than one way.
pub const AMBIGUOUS: &str = "more than one way to read on";
/// [`Stopped::reason`] of a blob that ends without the mark that it must end with.
pub const CUT_MARK: &str = "no end-of-file mark";
/// [`Stopped::reason`] of a blob that ends inside its last section.
pub const CUT_SECTION: &str = "no end of the section";

const EOF: u8 = 0;
const SUBSECTION: u8 = 5;
const VMDESCRIPTION: u8 = 6;
const CONFIGURATION: u8 = 7;
const COMMAND: u8 = 8;

/// A savevm container.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QemuState {
    /// Format version, 3.
    pub version: u32,
    /// Machine type; absent where the stream has no configuration section (always so under Xen).
    pub machine: Option<String>,
    /// Subsections of the configuration section.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub configuration: Vec<ConfigurationItem>,
    /// Commands ahead of the sections.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<Command>,
    /// Whether sections end with footers.
    pub footers: bool,
    /// The sections in order, as far as they are certain.
    pub sections: Vec<Section>,
    /// Length of the description behind EOF, and the devices it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<VmDescription>,
    /// Whether `sections` covers the blob to its end.
    pub complete: bool,
    /// Where the sections stop being certain, and why; absent when `complete`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
}

/// A device's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Section {
    /// `full`, or `start`, `part` and `end` of a section that is sent bit by bit.
    pub kind: &'static str,
    /// Section id.
    pub id: u32,
    /// Name of the device's state; a part's is that of its start.
    pub name: Option<String>,
    /// Instance of the device; only with `full` and `start`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<u32>,
    /// Version of the device's state; only with `full` and `start`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Where the section header starts in the blob.
    pub offset: usize,
    /// Bytes of device state, without header and footer.
    pub size: usize,
    /// Names of subsections, found by their form in the device state.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subsections: Vec<String>,
}

/// A subsection of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigurationItem {
    /// Name, as `configuration/capabilities`.
    pub name: String,
    /// Version.
    pub version: u32,
    /// What it says: capability names, the uuid, or the number of target page bits.
    pub value: ConfigurationValue,
}

/// The content of a configuration subsection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ConfigurationValue {
    /// Of `configuration/capabilities`.
    Capabilities(Vec<String>),
    /// Of `configuration/target-page-bits`.
    TargetPageBits(u32),
    /// Of `configuration/uuid`, as hexadecimal digits.
    Uuid(String),
}

/// A command to the receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Command {
    /// Number.
    pub command: u16,
    /// Its data.
    pub data: Opaque,
}

/// The JSON description behind EOF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmDescription {
    /// Bytes of JSON.
    pub length: usize,
    /// Names of the devices described, in order; absent where the text is not the JSON it should
    /// be.
    pub devices: Option<Vec<String>>,
}

/// Why the sections end early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stopped {
    /// Byte up to which the sections are certain.
    pub offset: usize,
    /// What is in the way.
    pub reason: &'static str,
}

impl QemuState {
    /// Decodes a container.
    ///
    /// # Errors
    /// A wrong magic or version, and a configuration section or command that runs past its end or is
    /// not understood. Everything behind them is inference and never an error.
    pub fn decode(blob: &[u8]) -> Result<QemuState, DecodeError> {
        let mut cursor = Cursor { blob, offset: 0 };
        let magic = cursor.u32("QEVM magic")?;
        if magic != MAGIC {
            return Err(DecodeError::BadValue {
                what: "QEVM magic",
                offset: 0,
                value: magic.into(),
                expected: "0x5145564d",
            });
        }
        let version = cursor.u32("QEVM version")?;
        if version != VERSION {
            return Err(DecodeError::BadValue {
                what: "QEVM version",
                offset: 4,
                value: version.into(),
                expected: "3",
            });
        }
        let mut machine = None;
        let mut configuration = Vec::new();
        if cursor.peek() == Some(CONFIGURATION) {
            cursor.offset += 1;
            machine = Some(cursor.long_text("QEVM machine type")?);
            while cursor.peek() == Some(SUBSECTION) {
                cursor.offset += 1;
                configuration.push(cursor.configuration_item()?);
            }
        }
        let mut commands = Vec::new();
        while cursor.peek() == Some(COMMAND) {
            cursor.offset += 1;
            let command = cursor.u16("QEVM command")?;
            let length = cursor.u16("QEVM command length")?;
            let data = cursor.take("QEVM command data", length.into())?;
            commands.push(Command { command, data: Opaque(data.to_vec()) });
        }
        let (eof, description) = end_of_file(blob, cursor.offset);
        let chain = chain(blob, cursor.offset, eof);
        let mut started = std::collections::HashMap::new();
        let sections = chain.sections.iter().map(|(header, end)| section(blob, header, *end, &mut started)).collect();
        let stopped = chain.stop.map(|(offset, stop)| Stopped {
            offset,
            reason: match (stop, eof) {
                (Stop::Ambiguous, _) => AMBIGUOUS,
                (Stop::NoHeader, _) => "no section header",
                (Stop::NoEnd, None) => CUT_MARK,
                (Stop::NoEnd, Some(_)) => CUT_SECTION,
            },
        });
        Ok(QemuState {
            version,
            machine,
            configuration,
            commands,
            footers: chain.footers,
            sections,
            description,
            complete: stopped.is_none(),
            stopped,
        })
    }
}

fn section<'a>(
    blob: &[u8],
    header: &Header<'a>,
    end: usize,
    started: &mut std::collections::HashMap<u32, &'a str>,
) -> Section {
    let data = blob.get(header.offset + header.length..end).unwrap_or_default();
    if let Some((name, ..)) = header.name {
        started.insert(header.id, name);
    }
    Section {
        kind: match header.kind {
            1 => "start",
            2 => "part",
            3 => "end",
            _ => "full",
        },
        id: header.id,
        name: started.get(&header.id).map(|name| (*name).to_owned()),
        instance: header.name.map(|(_, instance, _)| instance),
        version: header.name.map(|(.., version)| version),
        offset: header.offset,
        size: data.len(),
        // Only whole device states have them; RAM would give false finds.
        subsections: if header.kind == 4 { subsections(data) } else { Vec::new() },
    }
}

/// Names of the subsections in a device's state: the mark, a length, and a printable name with a
/// slash in it, of that length.
fn subsections(data: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = data;
    while let Some((mark, after)) = rest.split_first() {
        rest = after;
        if *mark != SUBSECTION {
            continue;
        }
        let Ok((behind, name)) = length_data(be_u8::<&[u8], nom::error::Error<&[u8]>>).parse(after) else {
            continue;
        };
        let named = name.len() > 2 && name.contains(&b'/') && name.iter().all(u8::is_ascii_graphic);
        if let Some(name) = std::str::from_utf8(name).ok().filter(|_| named) {
            found.push(name.to_owned());
            rest = behind;
        }
    }
    found
}

/// Where the EOF mark is: the last byte, or right before a description that reaches to the end.
fn end_of_file(blob: &[u8], from: usize) -> (Option<usize>, Option<VmDescription>) {
    let found = (from..blob.len()).find_map(|offset| {
        let text = blob.get(offset..)?.strip_prefix(&[EOF, VMDESCRIPTION])?;
        let (length, json) = text.split_first_chunk::<4>()?;
        let fits = usize::try_from(u32::from_be_bytes(*length)) == Ok(json.len());
        (fits && json.first() == Some(&b'{')).then_some((offset, json))
    });
    if let Some((offset, json)) = found {
        let description = VmDescription { length: json.len(), devices: device_names(json) };
        return (Some(offset), Some(description));
    }
    let last = blob.len().checked_sub(1).filter(|last| *last >= from && blob.get(*last) == Some(&EOF));
    (last, None)
}

fn device_names(json: &[u8]) -> Option<Vec<String>> {
    let value: serde_json::Value = serde_json::from_slice(json).ok()?;
    let devices = value.get("devices")?.as_array()?;
    devices.iter().map(|d| d.get("name")?.as_str().map(str::to_owned)).collect()
}

/// Exact reading of the units that carry their length.
struct Cursor<'a> {
    blob: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a [u8] {
        self.blob.get(self.offset..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    fn read<T>(
        &mut self,
        what: &'static str,
        needed: usize,
        parser: impl Fn(&'a [u8]) -> nom::IResult<&'a [u8], T>,
    ) -> Result<T, DecodeError> {
        let rest = self.rest();
        let (after, value) =
            parser(rest).map_err(|_| DecodeError::TooShort { what, offset: self.offset, needed, got: rest.len() })?;
        self.offset += rest.len() - after.len();
        Ok(value)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.read(what, 1, be_u8)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.read(what, 2, be_u16)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.read(what, 4, be_u32)
    }

    fn take(&mut self, what: &'static str, length: usize) -> Result<&'a [u8], DecodeError> {
        self.read(what, length, |input| take(length)(input))
    }

    fn text(&mut self, what: &'static str, length: usize) -> Result<String, DecodeError> {
        let offset = self.offset;
        let bytes = self.take(what, length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(DecodeError::NotText { what, offset: offset + error.valid_up_to() }),
        }
    }

    /// Text behind a 32-bit length.
    fn long_text(&mut self, what: &'static str) -> Result<String, DecodeError> {
        let length = self.u32(what)?;
        self.text(what, usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// Text behind an 8-bit length.
    fn short_text(&mut self, what: &'static str) -> Result<String, DecodeError> {
        let length = self.u8(what)?;
        self.text(what, length.into())
    }

    fn configuration_item(&mut self) -> Result<ConfigurationItem, DecodeError> {
        let offset = self.offset;
        let name = self.short_text("QEVM configuration subsection")?;
        let version = self.u32("QEVM configuration subsection version")?;
        let value = match name.as_str() {
            "configuration/target-page-bits" => ConfigurationValue::TargetPageBits(self.u32("QEVM target page bits")?),
            "configuration/capabilities" => {
                let count = self.u32("QEVM capability count")?;
                let mut names = Vec::new();
                for _ in 0..count {
                    names.push(self.short_text("QEVM capability")?);
                }
                ConfigurationValue::Capabilities(names)
            }
            "configuration/uuid" => ConfigurationValue::Uuid(HexDigits(self.take("QEVM uuid", 16)?).to_string()),
            _ => {
                return Err(DecodeError::BadValue {
                    what: "QEVM configuration subsection",
                    offset,
                    value: name.len() as u64,
                    expected: "target-page-bits, capabilities or uuid",
                });
            }
        };
        Ok(ConfigurationItem { name, version, value })
    }
}

#[cfg(test)]
mod tests;
