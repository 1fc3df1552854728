//! The stream's units, byte by byte.
#![forbid(unsafe_code)]

use super::error::WalkError;
use super::ram::{Blocks, Header, PageKind, Ram};
use crate::decode::qevm::{MAGIC, VERSION};
use arrayvec::ArrayVec;

/// Most bytes of device state that are held: the first image's devices with their description.
pub const MOST_DEVICE_STATE: usize = 16 << 20;

/// Room for the longest unit header: a RAM page's with a block's name, or a section's with a device's.
const HELD: usize = 320;
/// The longest machine type, and subsection name, that is read.
const MOST_TEXT: u32 = 255;

const EOF: u8 = 0;
const START: u8 = 1;
const PART: u8 = 2;
const END: u8 = 3;
const FULL: u8 = 4;
const SUBSECTION: u8 = 5;
const CONFIGURATION: u8 = 7;
const COMMAND: u8 = 8;
const FOOTER: u8 = 0x7e;

/// Commands: the receiver may answer; a question that it answers; it becomes a COLO secondary; the sender's guest is paused.
const OPEN_RETURN_PATH: u16 = 1;
const PING: u16 = 2;
const ENABLE_COLO: u16 = 8;
const SWITCHOVER_START: u16 = 11;

/// Most capabilities whose names are held.
const MOST_CAPABILITIES: usize = 32;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Magic and version.
    Start,
    /// A configuration section, or a unit.
    Header,
    /// The machine type.
    Machine,
    /// A subsection of the configuration, or a unit.
    AfterMachine,
    /// Its name and version.
    Subsection,
    /// A u32: bits of a page.
    PageBits,
    /// The 16 bytes of the guest's UUID.
    Uuid,
    /// A u32: how many capabilities.
    Capabilities,
    /// So many names.
    Capability(u32),
    /// A unit.
    Unit,
    /// A page's header, or another mark in a RAM section.
    Page,
    /// A block of the list; bytes of the sum that are left.
    Block(u64),
    /// A footer, or the next unit.
    Footer,
    /// Devices, up to an end that somebody else knows.
    Devices,
    /// Nothing: the mark of the end was read.
    Done,
}

/// How far a walk has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Inside of what carries its own length.
    Walking,
    /// In the device state, whose end does not show.
    Devices,
    /// Behind the end.
    Done,
}

/// What a stream says of itself: its configuration section and its commands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// The machine type.
    pub machine: String,
    /// Capabilities that the receiver must have too, up to 32 of them.
    pub capabilities: Vec<String>,
    /// The guest's UUID, with capability `validate-uuid`.
    pub uuid: Option<[u8; 16]>,
    /// Whether the receiver was told to become a COLO secondary (up to QEMU 11.0).
    pub colo: bool,
    /// Whether the receiver is asked to answer.
    pub return_path: bool,
    /// What the receiver was asked last, to be answered with the same number.
    pub ping: Option<u32>,
    /// How often it was asked.
    pub pings: u64,
    /// Announcements that the sender's guest is paused.
    pub switchovers: u64,
}

/// Walks a primary's bytes: an image, or the RAM of a checkpoint.
///
/// A walker is used for all of a direction: what the first image says (numbers, footers, RAM blocks) holds in its
/// checkpoints.
#[derive(Debug, Clone)]
pub struct Walker {
    place: Place,
    held: ArrayVec<u8, HELD>,
    skip: u64,
    offset: u64,
    /// Where the unit in `held` begins.
    unit: u64,
    /// Whether a device's section is expected, or the end in front of any.
    image: bool,
    footers: Option<bool>,
    ram_id: Option<u32>,
    blocks: Blocks,
    ram: Ram,
    head: Head,
    devices: Vec<u8>,
    devices_at: u64,
}

impl Walker {
    /// In front of an image's magic, which stands at `offset`.
    pub fn new(offset: u64) -> Self {
        Walker {
            place: Place::Start,
            held: ArrayVec::new(),
            skip: 0,
            offset,
            unit: offset,
            image: true,
            footers: None,
            ram_id: None,
            blocks: Blocks::default(),
            ram: Ram::default(),
            head: Head::default(),
            devices: Vec::new(),
            devices_at: offset,
        }
    }

    /// Goes to the front of the RAM of a checkpoint, which begins at `offset`: sections without a header, up to an
    /// end-of-file mark.
    pub fn live(&mut self, offset: u64) {
        self.place = Place::Unit;
        self.image = false;
        self.restart(offset);
    }

    /// Goes to the front of a checkpoint in one blob with a header of its own, at `offset`.
    pub fn whole(&mut self, offset: u64) {
        self.place = Place::Start;
        self.image = true;
        self.restart(offset);
    }

    fn restart(&mut self, offset: u64) {
        self.held.clear();
        self.skip = 0;
        self.offset = offset;
        self.unit = offset;
        self.ram = Ram::default();
        self.devices = Vec::new();
        self.devices_at = offset;
    }

    /// Where the next byte is in the direction.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// How far it has come.
    pub const fn progress(&self) -> Progress {
        match self.place {
            Place::Devices => Progress::Devices,
            Place::Done => Progress::Done,
            _ => Progress::Walking,
        }
    }

    /// The pages since the image or checkpoint began.
    pub const fn ram(&self) -> Ram {
        self.ram
    }

    /// What the stream has said of itself.
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes of a page.
    pub const fn page_size(&self) -> u64 {
        self.blocks.page()
    }

    /// Bytes of a RAM block; `Some(0)` where the list of blocks has come without it, `None` where no list has come.
    pub fn block(&self, name: &[u8]) -> Option<u64> {
        self.blocks.length(name).or_else(|| self.blocks.is_known().then_some(0))
    }

    /// Cuts the device state that is held; what was cut off is no part of it.
    pub fn cut_devices(&mut self, bytes: usize) {
        let more = self.devices.len().saturating_sub(bytes);
        self.devices.truncate(bytes);
        self.offset = self.offset.saturating_sub(more as u64);
    }

    /// Whether sections end with footers; `None` before the first section has ended.
    pub const fn footers(&self) -> Option<bool> {
        self.footers
    }

    /// The device state held so far, from the first device's section, or the mark of the end, on; and where it begins.
    pub fn devices(&self) -> (&[u8], u64) {
        (&self.devices, self.devices_at)
    }

    /// Takes bytes from the front of `input`, all of them unless the end comes first ([`Progress::Done`]). Gives how many.
    ///
    /// # Errors
    /// The first thing wrong. The walker must be brought to a known place then ([`Walker::live`], [`Walker::whole`]).
    pub fn push(&mut self, input: &[u8]) -> Result<usize, WalkError> {
        let mut rest = input;
        while !rest.is_empty() && self.place != Place::Done {
            if self.place == Place::Devices {
                self.keep(rest)?;
                rest = &[];
                break;
            }
            if self.skip > 0 {
                let bytes = usize::try_from(self.skip).unwrap_or(usize::MAX).min(rest.len());
                rest = self.advance(rest, bytes);
                self.skip -= bytes as u64;
                continue;
            }
            if self.held.is_empty() {
                self.unit = self.offset;
            }
            let needed = self.needed()?.min(HELD);
            let bytes = needed.saturating_sub(self.held.len()).min(rest.len());
            self.held.extend(rest.iter().copied().take(bytes));
            rest = self.advance(rest, bytes);
            // What is held may tell of more.
            if self.held.len() >= self.needed()?.min(HELD) {
                let held = std::mem::take(&mut self.held);
                self.step(&held)?;
            }
        }
        Ok(input.len() - rest.len())
    }

    fn advance<'a>(&mut self, rest: &'a [u8], bytes: usize) -> &'a [u8] {
        self.offset = self.offset.saturating_add(bytes as u64);
        rest.get(bytes..).unwrap_or_default()
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), WalkError> {
        if self.devices.len().saturating_add(bytes.len()) > MOST_DEVICE_STATE {
            return Err(WalkError::TooMuch { offset: self.devices_at, most: MOST_DEVICE_STATE });
        }
        self.devices.extend_from_slice(bytes);
        self.offset = self.offset.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Bytes of the unit in `held`, as far as those tell.
    fn needed(&self) -> Result<usize, WalkError> {
        let byte = |at: usize| self.held.get(at).copied();
        Ok(match self.place {
            Place::Start => 8,
            Place::PageBits | Place::Capabilities => 4,
            Place::Header | Place::AfterMachine => 1,
            Place::Machine => match self.held.first_chunk() {
                None => 4,
                Some(length) => match u32::from_be_bytes(*length) {
                    length @ 0..=MOST_TEXT => 4 + length as usize,
                    length => return Err(self.configuration("machine type of length", length)),
                },
            },
            Place::Uuid => 16,
            // The mark itself is gone already.
            Place::Subsection => byte(0).map_or(1, |length| 1 + usize::from(length) + 4),
            Place::Capability(_) => byte(0).map_or(1, |length| 1 + usize::from(length)),
            Place::Unit => match byte(0) {
                None => 1,
                Some(START | FULL) => byte(5).map_or(6, |length| 6 + usize::from(length) + 8),
                // Its number is looked at too.
                Some(COMMAND) if self.held.get(1..5) == Some([0, 2, 0, 4].as_slice()) => 9,
                Some(PART | END | COMMAND) => 5,
                Some(_) => 1,
            },
            Place::Page => Header::needed(&self.held),
            Place::Block(_) => byte(0).map_or(1, |length| 1 + usize::from(length) + self.blocks.tail()),
            Place::Footer => match byte(0) {
                Some(FOOTER) => 5,
                _ => 1,
            },
            Place::Devices | Place::Done => 0,
        })
    }

    fn configuration(&self, what: &'static str, value: u32) -> WalkError {
        WalkError::Configuration { offset: self.unit, what, value: value.into() }
    }

    /// Goes on from a unit that is whole.
    fn step(&mut self, held: &[u8]) -> Result<(), WalkError> {
        match self.place {
            Place::Start => self.start(held)?,
            Place::Header if held.first() == Some(&CONFIGURATION) => self.place = Place::Machine,
            Place::AfterMachine if held.first() == Some(&SUBSECTION) => self.place = Place::Subsection,
            // The first byte of a unit.
            Place::Header | Place::AfterMachine => self.back_to(Place::Unit, held)?,
            Place::Machine => {
                self.head.machine = text(held.get(4..).unwrap_or_default());
                self.place = Place::AfterMachine;
            }
            Place::Uuid => {
                self.head.uuid = held.first_chunk().copied();
                self.place = Place::AfterMachine;
            }
            Place::Subsection => self.subsection(held)?,
            Place::PageBits => {
                let bits = word(held, 0);
                if !(10..=16).contains(&bits) {
                    return Err(self.configuration("page bits", bits));
                }
                self.blocks.page_bits(bits);
                self.place = Place::AfterMachine;
            }
            Place::Capabilities => self.place = capability(word(held, 0)),
            Place::Capability(left) => {
                if held.get(1..) == Some(b"x-ignore-shared") {
                    self.blocks.with_addresses();
                }
                if self.head.capabilities.len() < MOST_CAPABILITIES {
                    self.head.capabilities.push(text(held.get(1..).unwrap_or_default()));
                }
                self.place = capability(left - 1);
            }
            Place::Unit => self.unit(held)?,
            Place::Page => self.page(held)?,
            Place::Block(left) => {
                let left = self.blocks.list(held, left, self.unit)?;
                self.place = block(left);
            }
            Place::Footer => self.footer(held)?,
            Place::Devices | Place::Done => {}
        }
        Ok(())
    }

    /// Reads `held` once more, as the beginning of something else.
    fn back_to(&mut self, place: Place, held: &[u8]) -> Result<(), WalkError> {
        self.place = place;
        self.held.extend(held.iter().copied().take(HELD));
        if self.held.len() >= self.needed()? {
            let held = std::mem::take(&mut self.held);
            self.step(&held)?;
        }
        Ok(())
    }

    fn start(&mut self, held: &[u8]) -> Result<(), WalkError> {
        match (word(held, 0), word(held, 4)) {
            (MAGIC, VERSION) => self.place = Place::Header,
            (MAGIC, value) => return Err(WalkError::Version { offset: self.unit.saturating_add(4), value }),
            (value, _) => return Err(WalkError::Magic { offset: self.unit, value }),
        }
        Ok(())
    }

    fn subsection(&mut self, held: &[u8]) -> Result<(), WalkError> {
        let name = held.get(1..held.len().saturating_sub(4)).unwrap_or_default();
        self.place = match name {
            b"configuration/target-page-bits" => Place::PageBits,
            b"configuration/capabilities" => Place::Capabilities,
            b"configuration/uuid" => Place::Uuid,
            _ => return Err(self.configuration("unknown subsection, its name of length", name.len() as u32)),
        };
        Ok(())
    }

    fn unit(&mut self, held: &[u8]) -> Result<(), WalkError> {
        let offset = self.unit;
        let kind = held.first().copied().unwrap_or_default();
        let id = word(held, 1);
        match kind {
            // Device state, from here to an end that only its description tells.
            FULL | EOF if self.image => {
                self.place = Place::Devices;
                self.devices_at = offset;
                self.devices = held.to_vec();
            }
            EOF => self.place = Place::Done,
            FULL => return Err(WalkError::Device { offset, id }),
            START => {
                let name = held.get(6..held.len().saturating_sub(8)).unwrap_or_default();
                if name != b"ram" {
                    let name = String::from_utf8_lossy(name).into_owned();
                    return Err(WalkError::Parts { offset, name });
                }
                let version = word(held, held.len().saturating_sub(4));
                if version != 4 {
                    return Err(WalkError::RamVersion { offset, value: version });
                }
                self.ram_id = Some(id);
                self.place = Place::Page;
            }
            PART | END if self.ram_id == Some(id) => self.place = Place::Page,
            PART | END => return Err(WalkError::SectionId { offset, id }),
            COMMAND => {
                let command = u16::from_be_bytes([id.to_be_bytes()[0], id.to_be_bytes()[1]]);
                self.skip = u64::from(id & 0xffff);
                match command {
                    OPEN_RETURN_PATH => self.head.return_path = true,
                    PING if held.len() == 9 => {
                        self.head.ping = Some(word(held, 5));
                        self.head.pings += 1;
                        self.skip = 0;
                    }
                    ENABLE_COLO => self.head.colo = true,
                    SWITCHOVER_START => self.head.switchovers += 1,
                    _ => {}
                }
            }
            value => return Err(WalkError::Unit { offset, value }),
        }
        Ok(())
    }

    fn page(&mut self, held: &[u8]) -> Result<(), WalkError> {
        let header = Header::parse(held, &mut self.blocks, self.unit)?;
        match header.kind {
            PageKind::Sizes => self.place = block(header.address),
            PageKind::End => {
                self.ram.sections += 1;
                self.place = Place::Footer;
            }
            PageKind::Hook => {}
            // A page, or a mark that is counted.
            kind => self.ram.count(kind),
        }
        self.skip = header.follows;
        Ok(())
    }

    fn footer(&mut self, held: &[u8]) -> Result<(), WalkError> {
        let id = self.ram_id.unwrap_or_default();
        let offset = self.unit;
        match (held.first().copied().unwrap_or_default(), self.footers) {
            (FOOTER, Some(true) | None) if word(held, 1) == id => {
                self.footers = Some(true);
                self.place = Place::Unit;
                Ok(())
            }
            (FOOTER, Some(true) | None) => Err(WalkError::Footer { offset, id, value: word(held, 1) }),
            (mark, Some(true)) => Err(WalkError::Footer { offset, id, value: mark.into() }),
            (_, _) => {
                self.footers = Some(false);
                self.back_to(Place::Unit, held)
            }
        }
    }
}

/// Text of the stream, with what could disturb a terminal replaced.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

const fn capability(left: u32) -> Place {
    if left == 0 { Place::AfterMachine } else { Place::Capability(left) }
}

const fn block(left: u64) -> Place {
    if left == 0 { Place::Page } else { Place::Block(left) }
}

/// The big-endian word at `at`; 0 where there is none.
fn word(held: &[u8], at: usize) -> u32 {
    held.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
