//! Cuts a stream into items, without I/O: every way in is a driver around this one walker.
//!
//! The driver shows the bytes it has from the start of the next item, and is told how many the item needs at the
//! least ([`Step::Need`], never past the item's end), or gets the item. Which layer owns the stream follows from the
//! records themselves: LIBXC_CONTEXT, CHECKPOINT, CHECKPOINT_END and END hand it over.
//!
//! Bodies are not looked into, except that the pfn array of a PAGE_DATA record tells where page contents begin when
//! the driver wants them left out. What a body must be is [`super::libxl::Record::parse`]'s and
//! [`super::libxc::Record::parse`]'s matter, and the order of records is [`super::grammar`]'s.

use super::check::Parsed;
use super::error::{FrameError, Problem, StreamError};
use super::handshake::Message;
use super::libxc::{self, DomainHeader, ImageHeader};
use super::record::{self, Frame, RecordHeader};
use super::{Layer, Mode, Start, libxl, xl};

/// Bytes behind the end that an error shows. The walker waits for as many, so that the error does not depend on how the
/// bytes came in.
const SHOWN: usize = 8;

/// Bounds on what a stream may make its reader hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest body of a libxc record, in bytes. Xen's own receiver has the default.
    pub libxc_body: u32,
    /// Longest body of a libxl record, in bytes. libxl has no limit; a device model's state has a few MiB at most.
    pub libxl_body: u32,
    /// Most bytes between xl's header and the stream.
    pub xl_optional_data: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { libxc_body: libxc::MAX_BODY, libxl_body: 128 << 20, xl_optional_data: 16 << 20 }
    }
}

/// How to read a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The outermost layer; recognised from the first 8 bytes when not given.
    pub start: Option<Start>,
    /// What the stream is for; recognised on the way when not given.
    pub mode: Option<Mode>,
    /// Bounds.
    pub limits: Limits,
    /// Leave page contents out: frames of PAGE_DATA end behind the pfn array.
    pub skip_contents: bool,
}

/// One item of a stream and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    /// Number in the stream, headers included, from 0.
    pub index: u64,
    /// Offset of its first byte from the start of the stream.
    pub offset: u64,
    /// Bytes it takes in the stream.
    pub size: u64,
    /// Who wrote it.
    pub layer: Layer,
    /// Number of whole checkpoints before it; 0 throughout a plain stream.
    pub round: u64,
    /// The item itself.
    pub what: What<'a>,
}

impl Item<'_> {
    /// A problem with this item, with its place.
    pub fn error(&self, problem: impl Into<Problem>) -> StreamError {
        StreamError { layer: self.layer, index: Some(self.index), offset: self.offset, problem: problem.into() }
    }
}

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum What<'a> {
    /// The preamble of xl.
    XlPreamble(xl::Preamble<'a>),
    /// libxl's header.
    LibxlHeader(libxl::Header),
    /// libxc's image header.
    ImageHeader(ImageHeader),
    /// libxc's domain header.
    DomainHeader(DomainHeader),
    /// A record of the item's layer. In a back channel the type tells libxl's from libxc's.
    Record(Frame<'a>),
    /// A fixed message of `xl migrate`, with the byte of status behind [`Message::Report`].
    Handshake(Message, Option<u8>),
}

/// What a walker wants or has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// Call again with at least this many bytes from the start of the item. More than were shown.
    Need(usize),
    /// Drop `skip` bytes that stand behind the first `keep`, as they arrive, then call again with the rest.
    Skip {
        /// Bytes to show again.
        keep: usize,
        /// Bytes of page contents to drop.
        skip: u64,
    },
    /// An item. It took that many of the bytes shown, and the next call starts behind them.
    Item(Item<'a>, usize),
}

/// [`Step`] without the item, for drivers that own the buffer: see [`Framer::advance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    /// As [`Step::Need`].
    Need(usize),
    /// As [`Step::Skip`].
    Skip {
        /// Bytes to show again.
        keep: usize,
        /// Bytes of page contents to drop.
        skip: u64,
    },
    /// The item is whole: [`Framer::take`] gives it.
    Ready,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    XlPreamble,
    LibxlHeader,
    ImageHeader,
    DomainHeader,
    /// libxl owns the stream; true between CHECKPOINT and CHECKPOINT_END.
    Libxl(bool),
    Libxc,
    /// libxc owns the stream, unless a COLO primary's CHECKPOINT_STATE comes first.
    AfterCheckpointEnd,
    Back,
    /// Behind the last END.
    Tail,
    Done,
}

/// The walker. Make one a stream.
#[derive(Debug, Clone)]
pub struct Framer {
    options: Options,
    state: State,
    start: Option<Start>,
    seen: Option<Mode>,
    offset: u64,
    index: u64,
    round: u64,
    /// Offset behind the last whole checkpoint.
    checkpoint_end: u64,
    /// Bytes that the driver was told to drop from the current item.
    skipped: u64,
    /// What the last [`Step::Need`] was for.
    wanted: (&'static str, u64),
}

impl Framer {
    /// A walker at the first byte of a stream.
    pub fn new(options: Options) -> Self {
        let start = match options.mode {
            Some(Mode::Back) => Some(Start::Back),
            _ => options.start,
        };
        let state = match start {
            None => State::Start,
            Some(start) => first_state(start),
        };
        Framer {
            options,
            state,
            start,
            seen: None,
            offset: 0,
            index: 0,
            round: 0,
            checkpoint_end: 0,
            skipped: 0,
            wanted: ("its first bytes", 1),
        }
    }

    /// Leaves page contents out from the next item on, or no longer; gives what was done before.
    pub(super) const fn set_skip_contents(&mut self, skip: bool) -> bool {
        std::mem::replace(&mut self.options.skip_contents, skip)
    }

    /// Offset of the next item.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Whole checkpoints so far.
    pub const fn checkpoints(&self) -> u64 {
        self.round
    }

    /// Offset behind the last whole checkpoint; 0 before the first.
    pub const fn checkpoint_end(&self) -> u64 {
        self.checkpoint_end
    }

    /// The outermost layer, once it is known.
    pub const fn start(&self) -> Option<Start> {
        self.start
    }

    /// What the stream is for: as given, or as far as it can be told so far.
    pub fn mode(&self) -> Mode {
        match (self.options.mode, self.seen, self.start) {
            (Some(mode), ..) => mode,
            (_, _, Some(Start::Back)) => Mode::Back,
            (_, Some(mode), _) => mode,
            _ => Mode::Plain,
        }
    }

    /// The name of [`Framer::mode`]; `unknown` where nothing was said of it and not even the start was recognised.
    pub fn mode_name(&self) -> &'static str {
        match (self.options.mode, self.start) {
            (None, None) => "unknown",
            _ => self.mode().name(),
        }
    }

    /// Items so far, which is the number of the next.
    pub const fn items(&self) -> u64 {
        self.index
    }

    /// Who reads the next bytes; behind CHECKPOINT_END that is libxl only when the mode was given as COLO. `None` before the first and behind the last record.
    pub const fn owner(&self) -> Option<Layer> {
        match self.state {
            State::Start | State::Tail | State::Done => None,
            State::XlPreamble => Some(Layer::Xl),
            State::LibxlHeader | State::Libxl(_) => Some(Layer::Libxl),
            State::AfterCheckpointEnd if matches!(self.options.mode, Some(Mode::Colo)) => Some(Layer::Libxl),
            State::ImageHeader | State::DomainHeader | State::Libxc | State::AfterCheckpointEnd => Some(Layer::Libxc),
            State::Back => Some(Layer::Back),
        }
    }

    /// Takes the next item from the front of `input`, which holds what is there of it and may hold more.
    ///
    /// # Errors
    /// [`super::Problem::Frame`] problems; after one the walker has lost its way and must not be asked again.
    pub fn take<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, StreamError> {
        match self.state {
            State::Start => self.take_start(input),
            State::XlPreamble => self.take_preamble(input),
            State::LibxlHeader => {
                let header = libxl::Header::parse(input).map_err(|e| self.error(e))?;
                Ok(match header {
                    None => self.need("the libxl header", libxl::HEADER_LEN),
                    Some(header) => {
                        self.state = State::Libxl(false);
                        self.item(Layer::Libxl, What::LibxlHeader(header), libxl::HEADER_LEN)
                    }
                })
            }
            State::ImageHeader => {
                let header = ImageHeader::parse(input).map_err(|e| self.error(e))?;
                Ok(match header {
                    None => self.need("the libxc image header", ImageHeader::LEN),
                    Some(header) => {
                        self.state = State::DomainHeader;
                        self.item(Layer::Libxc, What::ImageHeader(header), ImageHeader::LEN)
                    }
                })
            }
            State::DomainHeader => Ok(match DomainHeader::parse(input) {
                None => self.need("the libxc domain header", DomainHeader::LEN),
                Some(header) => {
                    self.state = State::Libxc;
                    self.item(Layer::Libxc, What::DomainHeader(header), DomainHeader::LEN)
                }
            }),
            State::Libxl(_) => self.take_record(input, Layer::Libxl),
            State::Libxc => self.take_record(input, Layer::Libxc),
            State::AfterCheckpointEnd => match RecordHeader::parse(input) {
                Some(header) if self.is_sync_point(header) => self.take_record(input, Layer::Libxl),
                Some(_) => self.take_record(input, Layer::Libxc),
                None => Ok(self.need("a record header", record::HEADER_LEN)),
            },
            State::Back => self.take_back(input),
            State::Tail => self.take_tail(input),
            State::Done if input.len() < SHOWN => Ok(self.need("nothing", SHOWN)),
            State::Done => Err(self.after_end(input)),
        }
    }

    /// Like [`Framer::take`], but leaves an item where it is. A driver that lends out its buffer loops on this and takes
    /// once.
    ///
    /// # Errors
    /// As [`Framer::take`].
    pub fn advance(&mut self, input: &[u8]) -> Result<Advance, StreamError> {
        let mut ahead = self.clone();
        let advance = match ahead.take(input)? {
            Step::Need(bytes) => Advance::Need(bytes),
            Step::Skip { keep, skip } => Advance::Skip { keep, skip },
            Step::Item(..) => return Ok(Advance::Ready),
        };
        *self = ahead;
        Ok(advance)
    }

    /// Says what it means that the stream ends here: `rest` is what is there behind the last item taken, less the
    /// `dropped` bytes that [`Step::Skip`] asked to drop. To be called when [`Framer::take`] wants more than there is.
    ///
    /// `Ok` behind the last record, and between any two records of a back channel.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] everywhere else, [`FrameError::BytesAfterEnd`] behind the last record. Of a record of libxc that was
    /// wrong already, as far as it is there, what is wrong with it.
    pub fn finish(&self, rest: &[u8], dropped: u64) -> Result<(), StreamError> {
        let got = rest.len() as u64 + dropped;
        match self.state {
            State::Tail | State::Done | State::Back if got == 0 => Ok(()),
            State::Tail | State::Done => Err(self.after_end(rest)),
            _ => {
                if let Some(header) = self.torn_record(rest) {
                    let arrived = rest.get(record::HEADER_LEN..).unwrap_or_default();
                    libxc::judge_torn(header, arrived).map_err(|problem| self.refuse(problem))?;
                }
                let (what, needed) = self.wanted;
                Err(self.error(FrameError::Truncated { what, needed, got }))
            }
        }
    }

    /// The header of the record of libxc that the stream has ended in, where it is there; `rest` as in [`Framer::finish`].
    pub(super) fn torn_record(&self, rest: &[u8]) -> Option<RecordHeader> {
        let header = RecordHeader::parse(rest)?;
        match self.state {
            State::Libxc => Some(header),
            State::AfterCheckpointEnd => Some(header).filter(|&header| !self.is_sync_point(header)),
            _ => None,
        }
    }

    /// What an error means that ended the walk: a checkpointed stream that stops behind a whole checkpoint has just lost
    /// its primary, [`Problem::Stops`]. Other errors stay what they are.
    pub fn judge_end(&self, error: StreamError) -> StreamError {
        match error.problem {
            Problem::Frame(FrameError::Truncated { got, .. }) if self.round > 0 => {
                let torn = error.offset + got - self.checkpoint_end;
                StreamError { problem: Problem::Stops { checkpoint: self.round, torn }, ..error }
            }
            _ => error,
        }
    }

    /// Whether the stream can go on with `input` in the place of what stands here: a header with its magic, or whole records of
    /// types that are known, three of them or as many as there are up to a proper end.
    pub fn goes_on_with(&self, input: &[u8]) -> bool {
        let mut ahead = self.clone();
        ahead.skipped = 0;
        ahead.options.skip_contents = true;
        let (mut rest, mut records) = (input, 0);
        while records < 3 {
            match ahead.take(rest) {
                Ok(Step::Item(item, bytes)) => {
                    match &item.what {
                        What::Record(frame) if is_known(item.layer, frame) => records += 1,
                        What::Record(_) => return false,
                        What::DomainHeader(header) if header.check().is_err() => return false,
                        _ => return true,
                    }
                    rest = rest.get(bytes..).unwrap_or_default();
                }
                Ok(Step::Skip { keep, .. }) => {
                    let frame = RecordHeader::parse(rest).zip(rest.get(record::HEADER_LEN..keep));
                    let frame = frame.map(|(header, body)| Frame { header, body, padding: &[] });
                    return frame.is_some_and(|frame| is_known(Layer::Libxc, &frame));
                }
                Ok(Step::Need(_)) => return records > 0 && ahead.finish(rest, 0).is_ok(),
                Err(_) => return false,
            }
        }
        true
    }

    fn take_start<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, StreamError> {
        let Some(first) = input.first_chunk::<8>() else {
            return Ok(self.need("its first 8 bytes", 8));
        };
        let word = |at: usize| u32::from_le_bytes([first[at], first[at + 1], first[at + 2], first[at + 3]]);
        let start = if xl::MAGIC.starts_with(first) {
            Start::Xl
        } else if u64::from_be_bytes(*first) == libxl::IDENT {
            Start::Libxl
        } else if *first == [0xff; 8] {
            Start::Libxc
        } else if Message::Banner.bytes().starts_with(first)
            || (word(0) == libxl::types::CHECKPOINT_STATE && word(4) <= 8)
            || (word(0) == libxc::types::CHECKPOINT_DIRTY_PFN_LIST && word(4) <= self.options.limits.libxc_body)
        {
            Start::Back
        } else {
            return Err(self.error(FrameError::UnknownStart(*first)));
        };
        self.start = Some(start);
        self.state = first_state(start);
        self.take(input)
    }

    fn take_preamble<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, StreamError> {
        const WHAT: &str = "the xl preamble";
        let Some(header) = xl::Header::parse(input).map_err(|e| self.error(e))? else {
            return Ok(self.need(WHAT, xl::HEADER_LEN));
        };
        let (length, limit) = (header.optional_data_len, self.options.limits.xl_optional_data);
        if length > limit {
            return Err(self.error(FrameError::XlOptionalLength { length, limit }));
        }
        let total = xl::HEADER_LEN + length as usize;
        let Some(optional_data) = input.get(xl::HEADER_LEN..total) else {
            return Ok(self.need(WHAT, total));
        };
        self.state = State::LibxlHeader;
        Ok(self.item(Layer::Xl, What::XlPreamble(xl::Preamble { header, optional_data }), total))
    }

    fn take_record<'a>(&mut self, input: &'a [u8], layer: Layer) -> Result<Step<'a>, StreamError> {
        let Some(header) = RecordHeader::parse(input) else {
            return Ok(self.need("a record header", record::HEADER_LEN));
        };
        let RecordHeader { type_id, length } = header;
        let limits = &self.options.limits;
        let limit = if layer == Layer::Libxl { limits.libxl_body } else { limits.libxc_body };
        if length > limit {
            return Err(self.error(FrameError::BodyLength { type_id, length, limit }));
        }
        // The limit keeps this far from wrapping.
        let body_end = record::HEADER_LEN + length as usize;
        let total = header.total() as usize;
        let mut kept = body_end;
        if self.options.skip_contents && layer == Layer::Libxc && type_id == libxc::types::PAGE_DATA && length >= 8 {
            let Some(first) = input.get(record::HEADER_LEN..).and_then(|body| body.first_chunk::<8>()) else {
                return Ok(self.need_of("PAGE_DATA", record::HEADER_LEN + 8, header.total()));
            };
            kept = record::HEADER_LEN + libxc::page_data_head_len(length, first) as usize;
        }
        let contents = body_end - kept;
        // Where the padding stands in `input`: the contents may have been dropped from it.
        let dropped = self.skipped as usize;
        let (padding_at, end) = (body_end - dropped, total - dropped);
        if input.len() < end {
            let what = record_name(layer, type_id);
            if contents > 0 && dropped == 0 && input.len() >= kept {
                self.wanted = (what, header.total());
                self.skipped = contents as u64;
                return Ok(Step::Skip { keep: kept, skip: contents as u64 });
            }
            // The pfn array first, so that the contents behind it can be dropped as they come.
            let need = if contents > 0 && dropped == 0 { kept } else { end };
            return Ok(self.need_of(what, need, header.total()));
        }
        self.skipped = 0;
        let frame = Frame { header, body: &input[record::HEADER_LEN..kept], padding: &input[padding_at..end] };
        let step = self.item_of(layer, What::Record(frame), end, total as u64);
        self.hand_over(layer, type_id);
        Ok(step)
    }

    fn hand_over(&mut self, layer: Layer, type_id: u32) {
        let embedded = self.start != Some(Start::Libxc);
        self.state = match (layer, type_id) {
            (Layer::Libxl, libxl::types::END) => State::Tail,
            (Layer::Libxl, libxl::types::LIBXC_CONTEXT) => State::ImageHeader,
            (Layer::Libxl, libxl::types::CHECKPOINT_END) if self.state == State::Libxl(true) => {
                self.whole_checkpoint();
                State::AfterCheckpointEnd
            }
            (Layer::Libxl, libxl::types::CHECKPOINT_STATE) if self.state == State::AfterCheckpointEnd => {
                self.seen = Some(Mode::Colo);
                State::Libxc
            }
            (Layer::Libxc, libxc::types::END) if embedded => State::Libxl(false),
            (Layer::Libxc, libxc::types::END) => State::Tail,
            (Layer::Libxc, libxc::types::CHECKPOINT) if self.options.mode != Some(Mode::Plain) => {
                self.seen.get_or_insert(Mode::Remus);
                if embedded {
                    State::Libxl(true)
                } else {
                    self.whole_checkpoint();
                    State::Libxc
                }
            }
            (Layer::Libxc, _) => State::Libxc,
            _ => self.state,
        };
    }

    /// libxc has had its turn in another process, up to CHECKPOINT or END: it is libxl's turn. Offsets and numbers of items do
    /// not count what was passed.
    pub(super) fn libxc_elsewhere(&mut self, checkpoint: bool) {
        if checkpoint {
            self.seen.get_or_insert(Mode::Remus);
        }
        self.state = State::Libxl(checkpoint);
    }

    /// A problem at the place of the next item.
    pub(super) fn refuse(&self, problem: impl Into<Problem>) -> StreamError {
        let layer = self.owner().unwrap_or(Layer::Xl);
        StreamError { layer, index: Some(self.index), offset: self.offset, problem: problem.into() }
    }

    fn whole_checkpoint(&mut self) {
        self.round += 1;
        self.checkpoint_end = self.offset;
    }

    /// Whether the record behind a CHECKPOINT_END is libxl's CHECKPOINT_STATE. libxc has another type 5,
    /// X86_PV_VCPU_EXTENDED; it never comes first in a round and is longer.
    fn is_sync_point(&self, header: RecordHeader) -> bool {
        header.type_id == libxl::types::CHECKPOINT_STATE
            && match self.options.mode {
                None => header.length <= 8 || self.seen == Some(Mode::Colo),
                Some(mode) => mode == Mode::Colo,
            }
    }

    fn take_back<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, StreamError> {
        if input.len() < record::HEADER_LEN {
            return Ok(self.need("a record header", record::HEADER_LEN));
        }
        match Message::recognise(input, &Message::ALL) {
            Ok(None) => self.take_record(input, Layer::Back),
            found => Ok(self.handshake(found, Layer::Back, input)),
        }
    }

    fn take_tail<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, StreamError> {
        let among: &[Message] = match self.start {
            Some(Start::Libxc) => &[],
            _ => &[Message::PermissionToGo],
        };
        match Message::recognise(input, among) {
            Ok(None) if input.len() < SHOWN => Ok(self.need("nothing", SHOWN)),
            Ok(None) => Err(self.after_end(input)),
            found => {
                let step = self.handshake(found, Layer::Xl, input);
                if matches!(step, Step::Item(..)) {
                    self.state = State::Done;
                }
                Ok(step)
            }
        }
    }

    fn handshake<'a>(&mut self, found: Result<Option<Message>, usize>, layer: Layer, input: &[u8]) -> Step<'a> {
        match found {
            Ok(Some(message)) => {
                let status = input.get(message.bytes().len()).copied().filter(|_| message == Message::Report);
                self.item(layer, What::Handshake(message, status), message.wire_len())
            }
            Ok(None) => self.need("a message of the migration handshake", input.len() + 1),
            Err(need) => self.need("a message of the migration handshake", need),
        }
    }

    fn need<'a>(&mut self, what: &'static str, bytes: usize) -> Step<'a> {
        self.need_of(what, bytes, bytes as u64)
    }

    fn need_of<'a>(&mut self, what: &'static str, bytes: usize, total: u64) -> Step<'a> {
        self.wanted = (what, total);
        Step::Need(bytes)
    }

    fn item<'a>(&mut self, layer: Layer, what: What<'a>, bytes: usize) -> Step<'a> {
        self.item_of(layer, what, bytes, bytes as u64)
    }

    fn item_of<'a>(&mut self, layer: Layer, what: What<'a>, bytes: usize, size: u64) -> Step<'a> {
        let item = Item { index: self.index, offset: self.offset, size, layer, round: self.round, what };
        self.index += 1;
        self.offset += size;
        self.wanted = ("a record header", record::HEADER_LEN as u64);
        Step::Item(item, bytes)
    }

    fn after_end(&self, rest: &[u8]) -> StreamError {
        self.error(FrameError::BytesAfterEnd { first: rest[..rest.len().min(SHOWN)].to_vec() })
    }

    fn error(&self, problem: FrameError) -> StreamError {
        let layer = self.owner().unwrap_or(self.start.map_or(Layer::Xl, Start::layer));
        StreamError { layer, index: Some(self.index), offset: self.offset, problem: problem.into() }
    }
}

/// Whether a record is of a type that exists and has a body of that type.
fn is_known(layer: Layer, frame: &Frame<'_>) -> bool {
    match Parsed::new(layer, frame) {
        Ok(Parsed::Libxl(libxl::Record::Optional { .. }) | Parsed::Libxc(libxc::Record::Optional { .. })) | Err(_) => {
            false
        }
        Ok(_) => true,
    }
}

const fn first_state(start: Start) -> State {
    match start {
        Start::Xl => State::XlPreamble,
        Start::Libxl => State::LibxlHeader,
        Start::Libxc => State::ImageHeader,
        Start::Back => State::Back,
    }
}

/// The specification's name of a record, for messages.
pub const fn record_name(layer: Layer, type_id: u32) -> &'static str {
    let name = match (layer, type_id) {
        (Layer::Xl, _) => None,
        (Layer::Libxl, _) | (Layer::Back, libxl::types::CHECKPOINT_STATE) => libxl::type_name(type_id),
        (Layer::Libxc | Layer::Back, _) => libxc::type_name(type_id),
    };
    match name {
        Some(name) => name,
        None => "a record of unknown type",
    }
}
