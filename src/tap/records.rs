//! A session of libxl's records, both ways in the order in which they were seen, to events.
//!
//! Each direction is cut and checked by the same walker as a file ([`crate::stream`]); page contents are not held. On top of
//! that the sync points of the two are held against each other: which message is due, and that a round's records come neither
//! before the secondary stands still nor twice.
#![forbid(unsafe_code)]

use super::event::{Out, Trouble, What};
use super::recording::Direction;
use crate::colo::dialect::{Dialect, Point, Side};
use crate::stream::check::{Checker, Parsed};
use crate::stream::error::{Problem, Severity};
use crate::stream::framer::{Item, Options, record_name};
use crate::stream::reader::PushReader;
use crate::stream::{Layer, Mode, libxc, libxl};

/// Follows a session.
#[derive(Debug, Clone)]
pub(super) struct Records {
    forward: Way,
    back: Way,
    round: Round,
}

/// One direction.
#[derive(Debug, Clone)]
struct Way {
    reader: PushReader,
    checker: Checker,
    /// Bytes seen.
    bytes: u64,
    /// Whether they are no items any more.
    lost: bool,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// The records of an image or a checkpoint, up to CHECKPOINT_END.
    State,
    /// A sync point.
    Point(Point),
}

/// Where the two directions stand together.
#[derive(Debug, Clone)]
struct Round {
    due: Due,
    /// Whether the first image was whole, and whether it is loaded.
    imaged: bool,
    loaded: bool,
    checkpoints: u64,
    records: u64,
    pages: u64,
    emulator: u64,
    began: u64,
}

impl Way {
    fn new(mode: Mode) -> Self {
        let options = Options { mode: Some(mode), skip_contents: true, ..Options::default() };
        Way { reader: PushReader::new(options), checker: Checker::new(Some(mode)), bytes: 0, lost: false }
    }
}

impl Records {
    pub(super) fn new() -> Self {
        let round = Round {
            due: Due::State,
            imaged: false,
            loaded: false,
            checkpoints: 0,
            records: 0,
            pages: 0,
            emulator: 0,
            began: 0,
        };
        Records { forward: Way::new(Mode::Colo), back: Way::new(Mode::Back), round }
    }

    pub(super) const fn checkpoints(&self) -> u64 {
        self.round.checkpoints
    }

    pub(super) fn due(&self) -> &'static str {
        self.round.due.name()
    }

    /// Takes bytes of a direction.
    pub(super) fn feed(&mut self, direction: Direction, bytes: &[u8], out: &mut Out) {
        let round = &mut self.round;
        let way = match direction {
            Direction::Forward => &mut self.forward,
            Direction::Back => &mut self.back,
        };
        way.bytes = way.bytes.saturating_add(bytes.len() as u64);
        if way.lost {
            return;
        }
        way.reader.push(bytes);
        loop {
            out.at_step(round.due.name(), "records");
            match way.reader.next_item() {
                Ok(None) => return,
                Ok(Some(item)) => {
                    // The order of sync points is held against both directions, below.
                    let sync = is_sync(direction, &item);
                    let parsed = way.checker.item(&item, &mut |error| {
                        let told = sync && matches!(error.problem, Problem::Order(_));
                        if error.problem.severity() == Severity::Error && !told {
                            out.trouble(direction, item.offset, &Trouble::Record(error));
                        }
                    });
                    if let Err(trouble) = round.item(direction, &item, parsed.as_ref(), out) {
                        out.trouble(direction, item.offset, &trouble);
                    }
                }
                Err(error) => {
                    out.trouble(direction, error.offset, &Trouble::Record(error));
                    way.lost = true;
                    return;
                }
            }
        }
    }

    /// Inside of what a direction would end now.
    pub(super) const fn inside(&self, direction: Direction) -> Option<&'static str> {
        let (way, forward) = match direction {
            Direction::Forward => (&self.forward, true),
            Direction::Back => (&self.back, false),
        };
        match self.round.due {
            Due::State if forward && !self.round.imaged => Some("the first image"),
            Due::State | Due::Point(Point::Suspended | Point::DirtyList) if forward => Some("a checkpoint"),
            Due::Point(Point::Ready) if forward && self.round.loaded => Some("a checkpoint"),
            _ if way.reader.framer().offset() < way.bytes => Some("a record"),
            _ => None,
        }
    }
}

fn is_sync(direction: Direction, item: &Item<'_>) -> bool {
    let crate::stream::What::Record(frame) = &item.what else { return false };
    direction == Direction::Back || (item.layer, frame.header.type_id) == (Layer::Libxl, libxl::types::CHECKPOINT_STATE)
}

impl Due {
    fn name(self) -> &'static str {
        match self {
            Due::State => "CHECKPOINT_END",
            Due::Point(point) => Dialect::Libxl.name(point),
        }
    }
}

impl Round {
    fn item(
        &mut self,
        direction: Direction,
        item: &Item<'_>,
        parsed: Option<&Parsed<'_>>,
        out: &mut Out,
    ) -> Result<(), Trouble> {
        if let Some(Parsed::Libxl(libxl::Record::CheckpointState(state))) = parsed {
            let Some(point) = Dialect::Libxl.point(state.control_id.wire().into()) else { return Ok(()) };
            return self.message(direction, item, point, None, out);
        }
        let crate::stream::What::Record(frame) = &item.what else { return Ok(()) };
        if direction == Direction::Back {
            let length = u64::from(frame.header.length);
            return match parsed {
                Some(_) => self.message(direction, item, Point::DirtyList, Some(length / 8), out),
                None => Ok(()),
            };
        }
        if self.records == 0 {
            self.began = item.offset;
        }
        self.records += 1;
        match parsed {
            Some(Parsed::Libxc(libxc::Record::PageData(pages))) => self.pages += pages.entries().len() as u64,
            Some(Parsed::Libxl(libxl::Record::EmulatorContext(_))) => self.emulator += u64::from(frame.header.length),
            _ => {}
        }
        let ends = item.layer == Layer::Libxl && frame.header.type_id == libxl::types::CHECKPOINT_END;
        let name = record_name(item.layer, frame.header.type_id);
        // Said once a round, at its first record.
        let early = self.due != Due::State && self.records == 1;
        let expected = self.due.name();
        if ends {
            self.whole(item, out);
        }
        if early { Err(Trouble::Step { got: name, offset: item.offset, expected }) } else { Ok(()) }
    }

    /// CHECKPOINT_END.
    fn whole(&mut self, item: &Item<'_>, out: &mut Out) {
        let from = if self.imaged { self.began } else { 0 };
        let bytes = item.offset.saturating_add(item.size).saturating_sub(from);
        let (records, pages, emulator, first) = (self.records, self.pages, self.emulator, !self.imaged);
        out.push(Direction::Forward, from, bytes, What::Records { first, records, pages, emulator });
        self.imaged = true;
        (self.records, self.pages, self.emulator) = (0, 0, 0);
        self.due = Due::Point(Point::Ready);
    }

    fn message(
        &mut self,
        direction: Direction,
        item: &Item<'_>,
        point: Point,
        size: Option<u64>,
        out: &mut Out,
    ) -> Result<(), Trouble> {
        let (name, offset) = (Dialect::Libxl.name(point), item.offset);
        out.push(direction, offset, item.size, What::Message { name, size, value: None });
        let next = match point {
            Point::Ready => Due::Point(Point::Resumed),
            Point::Resumed => Due::Point(Point::New),
            Point::New => Due::Point(Point::Suspended),
            Point::Suspended => Due::Point(Point::DirtyList),
            _ => Due::State,
        };
        let due = std::mem::replace(&mut self.due, next);
        // A secondary that stands still between checkpoints does not say that it runs.
        let periodic = due == Due::Point(Point::Resumed) && point == Point::New;
        let side = if direction == Direction::Forward { Side::Primary } else { Side::Secondary };
        if point == Point::Ready && due == Due::Point(point) && std::mem::replace(&mut self.loaded, true) {
            self.checkpoints += 1;
        }
        if (due == Due::Point(point) || periodic) && point.sender() == side {
            return Ok(());
        }
        Err(Trouble::Step { got: name, offset, expected: due.name() })
    }
}
