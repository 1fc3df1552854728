//! Bytes to frames, in whatever pieces they arrive.

use super::encode::check;
use super::frame::{Body, Control, DATA, Direction, Farewell, Frame, Hello, OPTIONAL, may_run, name};
use super::{Capabilities, HEADER_LEN, MAGIC, MAX_CONTROL, MAX_DATA, MAX_DETAIL, Seal, VERSION};
use crate::protocol::{Generation, Rule, Session};
use crate::remus::types::RefuseReason;
use alloc::vec::Vec;
use nom::number::complete::{le_u8, le_u16, le_u32, le_u64, le_u128};
use nom::{IResult, Parser};
use thiserror::Error;

/// What is wrong with a row of frames, and where: `offset` counts from the first byte of the direction, magic included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// It does not begin as ours do.
    #[error("the connection begins with {0:02x?}, not with our magic")]
    Magic([u8; 8]),
    /// A payload longer than its frame may have.
    #[error("frame at offset {offset}: {} with {length} bytes, of at most {limit}", name(*.type_id))]
    Length {
        /// Of the frame.
        offset: u64,
        /// Its type.
        type_id: u8,
        /// What its header says.
        length: u32,
        /// What it may be.
        limit: u32,
    },
    /// Header or payload was damaged.
    #[error("frame at offset {offset}: its check is {got:#010x}, its bytes give {computed:#010x}")]
    Check {
        /// Of the frame.
        offset: u64,
        /// The check in the header.
        got: u32,
        /// What it should be.
        computed: u32,
    },
    /// A frame was lost, repeated or injected.
    #[error("frame at offset {offset}: number {got}, expected {expected}")]
    Sequence {
        /// Of the frame.
        offset: u64,
        /// The number in the header.
        got: u32,
        /// The number that follows.
        expected: u32,
    },
    /// A type that is not known and must not be skipped, or that does not run in this direction.
    #[error("frame at offset {offset}: type {type_id:#04x} ({}) may not stand here", name(*.type_id))]
    Type {
        /// Of the frame.
        offset: u64,
        /// The type.
        type_id: u8,
    },
    /// HELLO must be the first frame, and the first only.
    #[error("frame at offset {offset}: {} where HELLO {}", name(*.type_id), if *.first { "must stand" } else { "has been" })]
    Greeting {
        /// Of the frame.
        offset: u64,
        /// The type.
        type_id: u8,
        /// Whether it is the first of its direction.
        first: bool,
    },
    /// Another version of this protocol.
    #[error("frame at offset {offset}: the peer speaks version {version}, this is version {VERSION}")]
    Version {
        /// Of the frame.
        offset: u64,
        /// The peer's.
        version: u16,
    },
    /// A payload with the wrong number of bytes.
    #[error("frame at offset {offset}: {} with {got} bytes of payload", name(*.type_id))]
    Payload {
        /// Of the frame.
        offset: u64,
        /// The type.
        type_id: u8,
        /// How many there are.
        got: usize,
    },
    /// A field with a value that does not exist.
    #[error("frame at offset {offset}: {field} {value} does not exist")]
    Value {
        /// Of the frame.
        offset: u64,
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// The row ends inside of something.
    #[error("the connection ends at offset {offset} + {got}, inside of a frame")]
    Truncated {
        /// Of the torn frame.
        offset: u64,
        /// Bytes of it that arrived.
        got: usize,
    },
}

/// What a [`Decoder`] wants or has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// Call again with at least this many bytes from the same place; at most [`HEADER_LEN`] + [`MAX_DATA`].
    Need(usize),
    /// A frame; the next begins that many bytes further on.
    Frame(Frame<'a>, usize),
}

/// Cuts one direction into frames, without I/O and without a buffer. DATA is lent, not copied.
#[derive(Debug, Clone)]
pub struct Decoder {
    direction: Direction,
    magic: bool,
    sequence: u32,
    started: bool,
    offset: u64,
    broken: Option<WireError>,
}

impl Decoder {
    /// At the first byte of a direction, where [`MAGIC`] stands.
    pub const fn new(direction: Direction) -> Self {
        Decoder { direction, magic: false, sequence: 0, started: false, offset: 0, broken: None }
    }

    /// Offset of the next frame.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next frame from the front of `input`, which may hold less or more. The first step also takes the magic.
    ///
    /// # Errors
    /// [`WireError`]; the same again for ever after, since nothing behind damage can be told apart.
    pub fn take<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, WireError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        self.step(input).inspect_err(|&error| self.broken = Some(error))
    }

    /// Says what it means that the direction ends with `rest` behind the last frame.
    ///
    /// # Errors
    /// [`WireError::Truncated`] unless `rest` is empty.
    pub const fn finish(&self, rest: &[u8]) -> Result<(), WireError> {
        if rest.is_empty() { Ok(()) } else { Err(WireError::Truncated { offset: self.offset, got: rest.len() }) }
    }

    fn step<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, WireError> {
        let lead = if self.magic { 0 } else { MAGIC.len() };
        if !self.magic {
            let Some(first) = input.first_chunk::<8>() else {
                // Say no as soon as it is clear.
                return if MAGIC.starts_with(input) { Ok(Step::Need(MAGIC.len())) } else { Err(self.not_ours(input)) };
            };
            if *first != MAGIC {
                return Err(WireError::Magic(*first));
            }
        }
        let offset = self.offset + lead as u64;
        let rest = input.get(lead..).unwrap_or_default();
        let Some(header) = rest.first_chunk::<HEADER_LEN>() else {
            return Ok(Step::Need(lead + HEADER_LEN));
        };
        let Header { type_id, length, session, sequence, check: got } = Header::parse(header, offset)?;
        let limit = if type_id == DATA { MAX_DATA } else { MAX_CONTROL } as u32;
        if length > limit {
            return Err(WireError::Length { offset, type_id, length, limit });
        }
        let total = HEADER_LEN + length as usize;
        let covered = if type_id == DATA { HEADER_LEN } else { total };
        let Some(payload) = rest.get(HEADER_LEN..covered) else {
            return Ok(Step::Need(lead + total));
        };
        let computed = check(header, payload);
        if got != computed {
            return Err(WireError::Check { offset, got, computed });
        }
        let Some(payload) = rest.get(HEADER_LEN..total) else {
            return Ok(Step::Need(lead + total));
        };
        if sequence != self.sequence {
            return Err(WireError::Sequence { offset, got: sequence, expected: self.sequence });
        }
        let body = self.body(offset, type_id, payload)?;
        self.magic = true;
        self.started = true;
        self.sequence = self.sequence.wrapping_add(1);
        self.offset = offset + total as u64;
        Ok(Step::Frame(Frame { session, body }, lead + total))
    }

    fn not_ours(&self, input: &[u8]) -> WireError {
        let mut first = [0; 8];
        first.iter_mut().zip(input).for_each(|(to, from)| *to = *from);
        WireError::Magic(first)
    }

    fn body<'a>(&self, offset: u64, type_id: u8, payload: &'a [u8]) -> Result<Body<'a>, WireError> {
        if type_id & OPTIONAL != 0 && self.started {
            return Ok(Body::Unknown { type_id });
        }
        if (type_id == 1) == self.started {
            return Err(WireError::Greeting { offset, type_id, first: !self.started });
        }
        if !may_run(type_id, self.direction) {
            return Err(WireError::Type { offset, type_id });
        }
        if type_id == DATA {
            return Ok(Body::Data(payload));
        }
        let wrong = WireError::Payload { offset, type_id, got: payload.len() };
        let (detail, control) = fields(type_id, payload).map_err(|_| wrong)?;
        let control = control.checked(offset)?;
        match control {
            Control::Refuse { .. } if detail.len() > MAX_DETAIL => Err(wrong),
            Control::Refuse { checkpoint, reason } => Ok(Body::Refuse { checkpoint, reason, detail }),
            _ if !detail.is_empty() => Err(wrong),
            _ => Ok(Body::Control(control)),
        }
    }
}

struct Header {
    type_id: u8,
    length: u32,
    session: Session,
    sequence: u32,
    check: u32,
}

impl Header {
    fn parse(header: &[u8; HEADER_LEN], offset: u64) -> Result<Self, WireError> {
        let parsed: IResult<&[u8], _> = (le_u8, le_u8, le_u16, le_u32, le_u64, le_u32, le_u32).parse(header.as_slice());
        // The array has exactly the bytes that the fields take.
        let Ok((_, (type_id, _, _, length, session, sequence, check))) = parsed else {
            return Err(WireError::Truncated { offset, got: header.len() });
        };
        Ok(Header { type_id, length, session: Session(session), sequence, check })
    }
}

/// A control frame whose numbers have not been looked up yet.
enum Fields {
    Hello(u16, u8, u32, u64, u32, u32, u64),
    Goodbye(u32),
    Refuse(u64, u32),
    Done(Control),
}

impl Fields {
    fn checked(self, offset: u64) -> Result<Control, WireError> {
        let no = |field, value| WireError::Value { offset, field, value };
        Ok(match self {
            Fields::Hello(version, ..) if version != VERSION => return Err(WireError::Version { offset, version }),
            Fields::Hello(_, rule, capabilities, generation, heartbeat_ms, timeout_ms, domain) => {
                Control::Hello(Hello {
                    // Later versions may have more.
                    capabilities: Capabilities::from_bits_truncate(capabilities),
                    rule: Rule::from_wire(rule).ok_or(no("rule", rule.into()))?,
                    generation: Generation(generation),
                    heartbeat_ms,
                    timeout_ms,
                    domain,
                })
            }
            Fields::Goodbye(reason) => {
                Control::Goodbye { reason: Farewell::from_wire(reason).ok_or(no("farewell", reason.into()))? }
            }
            Fields::Refuse(checkpoint, reason) => Control::Refuse {
                checkpoint,
                reason: RefuseReason::from_wire(reason).ok_or(no("refusal", reason.into()))?,
            },
            Fields::Done(control) => control,
        })
    }
}

fn fields(type_id: u8, payload: &[u8]) -> IResult<&[u8], Fields> {
    match type_id {
        1 => {
            let (rest, (version, rule, _, caps, generation, heartbeat, timeout)) =
                (le_u16, le_u8, le_u8, le_u32, le_u64, le_u32, le_u32).parse(payload)?;
            // It has grown, and may again: what a peer does not say is 0, what it says besides is passed over.
            let domain = le_u64::<_, nom::error::Error<&[u8]>>.parse(rest).map_or(0, |(_, domain)| domain);
            Ok((&[], Fields::Hello(version, rule, caps, generation, heartbeat, timeout, domain)))
        }
        3 => (le_u32, le_u32, le_u64)
            .map(|(number, _, checkpoint)| Fields::Done(Control::Stream { number, checkpoint }))
            .parse(payload),
        4 => (le_u64, le_u64, le_u128)
            .map(|(number, bytes, checksum)| Fields::Done(Control::Checkpoint(Seal { number, bytes, checksum })))
            .parse(payload),
        5 | 11 => le_u64
            .map(|generation| {
                let generation = Generation(generation);
                Fields::Done(match type_id {
                    5 => Control::Heartbeat { generation },
                    _ => Control::Begin { generation },
                })
            })
            .parse(payload),
        7 => (le_u32, le_u32).map(|(reason, _)| Fields::Goodbye(reason)).parse(payload),
        8 => le_u64.map(|checkpoint| Fields::Done(Control::Ack { checkpoint })).parse(payload),
        9 => (le_u64, le_u32, le_u32).map(|(checkpoint, reason, _)| Fields::Refuse(checkpoint, reason)).parse(payload),
        // SWITCH_OVER and ACTIVE; no other type comes here.
        _ => (le_u64, le_u64)
            .map(|(checkpoint, generation)| {
                let generation = Generation(generation);
                Fields::Done(match type_id {
                    6 => Control::SwitchOver { checkpoint, generation },
                    _ => Control::Active { checkpoint, generation },
                })
            })
            .parse(payload),
    }
}

/// A [`Decoder`] with a buffer: bytes pushed in any split, frames lent.
#[derive(Debug, Clone)]
pub struct FrameBuffer {
    decoder: Decoder,
    bytes: Vec<u8>,
    taken: usize,
}

impl FrameBuffer {
    /// At the first byte of a direction.
    pub const fn new(direction: Direction) -> Self {
        FrameBuffer { decoder: Decoder::new(direction), bytes: Vec::new(), taken: 0 }
    }

    /// Takes the bytes that have arrived. Call [`FrameBuffer::next`] until it gives `None` before pushing more: what is
    /// held is then less than one frame, and memory in use is bounded by that and the longest push.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// As [`Decoder::take`].
    #[expect(clippy::should_implement_trait, reason = "the frames borrow the buffer")]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, WireError> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        match self.decoder.take(rest)? {
            Step::Need(_) => Ok(None),
            Step::Frame(frame, bytes) => {
                self.taken += bytes;
                Ok(Some(frame))
            }
        }
    }

    /// Says what it means that nothing more comes.
    ///
    /// # Errors
    /// As [`Decoder::finish`].
    pub fn finish(&self) -> Result<(), WireError> {
        self.decoder.finish(self.bytes.get(self.taken..).unwrap_or_default())
    }
}
