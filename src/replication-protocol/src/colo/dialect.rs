//! The three dialects: which sync points each has, with which numbers, and who sends them.
//!
//! | point | sent by | libxl CHECKPOINT_STATE | QEMU COLOMessage | QEMU COLO-Frame v8 |
//! |---|---|---|---|---|
//! | [`Point::Ready`] | secondary | SVM_READY 2 | checkpoint-ready 0 | checkpoint-ready 0x46 |
//! | [`Point::New`] | primary | NEW 0 | checkpoint-request 1 | checkpoint-new 0x47 |
//! | [`Point::Suspended`] | secondary | SVM_SUSPENDED 1 | checkpoint-reply 2 | checkpoint-suspended 0x48 |
//! | [`Point::DirtyList`] | secondary | libxc's record 0x0F | - | - |
//! | [`Point::Send`] | primary | - | vmstate-send 3 | checkpoint-send 0x49 |
//! | [`Point::Size`] | primary | - | vmstate-size 4 and a u64 | - |
//! | [`Point::Received`] | secondary | - | vmstate-received 5 | checkpoint-received 0x4a |
//! | [`Point::Loaded`] | secondary | SVM_READY 2 | vmstate-loaded 6 | checkpoint-loaded 0x4b |
//! | [`Point::Resumed`] | secondary | SVM_RESUMED 3 | - | - |
//!
//! libxl says SVM_READY both when it is up and when a checkpoint is loaded: [`Point::Ready`] is its name here in either case.
//!
//! Sources: Xen's `docs/specs/libxl-migration-stream.pandoc`, CHECKPOINT_STATE; QEMU's `qapi/migration.json`, COLOMessage; the
//! COLO-Frame patches, version 8, sent to QEMU's list in 2015.

use crate::stream::libxl::ControlId;
use core::fmt;

/// One of the two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The one whose guest's state counts.
    Primary,
    /// The one that follows.
    Secondary,
}

/// A sync point: a single message in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// The secondary is up: it has loaded the first image. In libxl's dialect also: a checkpoint is loaded.
    Ready,
    /// Start a checkpoint.
    New,
    /// The secondary's guest stands still.
    Suspended,
    /// The pages that the secondary has written follow: libxc's CHECKPOINT_DIRTY_PFN_LIST.
    DirtyList,
    /// The state follows.
    Send,
    /// The size of what follows.
    Size,
    /// The state is there, whole.
    Received,
    /// The state is loaded.
    Loaded,
    /// The secondary's guest runs again.
    Resumed,
}

impl Point {
    /// All, in the order of a round.
    pub const ALL: [Point; 9] = [
        Point::Ready,
        Point::New,
        Point::Suspended,
        Point::DirtyList,
        Point::Send,
        Point::Size,
        Point::Received,
        Point::Loaded,
        Point::Resumed,
    ];

    /// Who sends it, the same in all dialects.
    pub const fn sender(self) -> Side {
        match self {
            Point::New | Point::Send | Point::Size => Side::Primary,
            _ => Side::Secondary,
        }
    }
}

/// A sync point as it was received or is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Message {
    /// [`Point::Ready`].
    Ready,
    /// [`Point::New`].
    New,
    /// [`Point::Suspended`].
    Suspended,
    /// [`Point::DirtyList`]: the header of libxc's record. The pfns, u64 each, follow it.
    DirtyList {
        /// Bytes of pfns: a multiple of 8. The sender's word, not checked against anything.
        bytes: u32,
    },
    /// [`Point::Send`].
    Send,
    /// [`Point::Size`].
    Size {
        /// Bytes that follow. The sender's word, not checked against anything.
        bytes: u64,
    },
    /// [`Point::Received`].
    Received,
    /// [`Point::Loaded`].
    Loaded,
    /// [`Point::Resumed`].
    Resumed,
}

impl Message {
    /// Which it is.
    pub const fn point(self) -> Point {
        match self {
            Message::Ready => Point::Ready,
            Message::New => Point::New,
            Message::Suspended => Point::Suspended,
            Message::DirtyList { .. } => Point::DirtyList,
            Message::Send => Point::Send,
            Message::Size { .. } => Point::Size,
            Message::Received => Point::Received,
            Message::Loaded => Point::Loaded,
            Message::Resumed => Point::Resumed,
        }
    }
}

/// What QEMU's vmstate-size counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Older releases: one `QEVM` blob with RAM and device state.
    Whole,
    /// Newer releases: the RAM pages travel between vmstate-send and vmstate-size, the sized blob is the device state alone.
    Live,
}

impl Layout {
    /// Tells the layouts apart by the byte that follows vmstate-send: vmstate-size begins with a zero byte, a RAM section
    /// with its type, SECTION_START (1) to SECTION_FULL (4). `None` for any other.
    pub const fn of_first_byte(byte: u8) -> Option<Layout> {
        match byte {
            0 => Some(Layout::Whole),
            1..=4 | 8 => Some(Layout::Live),
            _ => None,
        }
    }
}

/// A wire form of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// libxl's CHECKPOINT_STATE records (once COLO_CONTEXT) in the streams of both directions, little-endian.
    Libxl,
    /// QEMU's COLOMessage, u32 big-endian, in the migration connection and its return path.
    Qemu(Layout),
    /// The earlier form of QEMU's COLO-Frame, version 8: u64 big-endian.
    FrameV8,
}

impl Dialect {
    /// All, QEMU's in both layouts.
    pub const ALL: [Dialect; 4] =
        [Dialect::Libxl, Dialect::Qemu(Layout::Whole), Dialect::Qemu(Layout::Live), Dialect::FrameV8];

    /// The number of a point on the wire; `None` when the dialect does not have it. A DirtyList has none: it is a record of
    /// its own.
    pub const fn number(self, point: Point) -> Option<u64> {
        match self {
            Dialect::Libxl => match point {
                Point::New => Some(ControlId::New.wire() as u64),
                Point::Suspended => Some(ControlId::SvmSuspended.wire() as u64),
                Point::Ready => Some(ControlId::SvmReady.wire() as u64),
                Point::Resumed => Some(ControlId::SvmResumed.wire() as u64),
                _ => None,
            },
            Dialect::Qemu(_) => match point {
                Point::Ready => Some(0),
                Point::New => Some(1),
                Point::Suspended => Some(2),
                Point::Send => Some(3),
                Point::Size => Some(4),
                Point::Received => Some(5),
                Point::Loaded => Some(6),
                Point::DirtyList | Point::Resumed => None,
            },
            Dialect::FrameV8 => match point {
                Point::Ready => Some(0x46),
                Point::New => Some(0x47),
                Point::Suspended => Some(0x48),
                Point::Send => Some(0x49),
                Point::Received => Some(0x4a),
                Point::Loaded => Some(0x4b),
                Point::DirtyList | Point::Size | Point::Resumed => None,
            },
        }
    }

    /// The numbers that the dialect defines: first and last.
    pub const fn numbers(self) -> (u64, u64) {
        match self {
            Dialect::Libxl => (0, 3),
            Dialect::Qemu(_) => (0, 6),
            Dialect::FrameV8 => (0x46, 0x4b),
        }
    }

    /// The point with this number; `None` when the dialect does not define it.
    pub fn point(self, number: u64) -> Option<Point> {
        Point::ALL.into_iter().find(|&point| self.number(point) == Some(number))
    }

    /// Whether the dialect has this point.
    pub const fn has(self, point: Point) -> bool {
        match point {
            Point::DirtyList => self.lists_dirty(),
            _ => self.number(point).is_some(),
        }
    }

    /// The name that the dialect's specification gives a point; that of QEMU for one that the dialect does not have.
    pub const fn name(self, point: Point) -> &'static str {
        match (self, point) {
            (_, Point::DirtyList) => "CHECKPOINT_DIRTY_PFN_LIST",
            (_, Point::Resumed) => "SVM_RESUMED",
            (Dialect::Libxl, Point::New) => "NEW",
            (Dialect::Libxl, Point::Suspended) => "SVM_SUSPENDED",
            (Dialect::Libxl, Point::Ready) => "SVM_READY",
            (_, Point::Ready) => "checkpoint-ready",
            (Dialect::FrameV8, Point::New) => "checkpoint-new",
            (Dialect::FrameV8, Point::Suspended) => "checkpoint-suspended",
            (Dialect::FrameV8, Point::Send) => "checkpoint-send",
            (Dialect::FrameV8, Point::Received) => "checkpoint-received",
            (Dialect::FrameV8, Point::Loaded) => "checkpoint-loaded",
            (_, Point::New) => "checkpoint-request",
            (_, Point::Suspended) => "checkpoint-reply",
            (_, Point::Send) => "vmstate-send",
            (_, Point::Size) => "vmstate-size",
            (_, Point::Received) => "vmstate-received",
            (_, Point::Loaded) => "vmstate-loaded",
        }
    }

    /// Whether the secondary lists the pages that it has written, for the primary to send them too. QEMU's keeps a copy of
    /// the primary's memory instead.
    pub const fn lists_dirty(self) -> bool {
        matches!(self, Dialect::Libxl)
    }

    /// Whether the secondary says that its guest runs again. Without it, [`Point::New`] may come before it does.
    pub const fn confirms_resume(self) -> bool {
        matches!(self, Dialect::Libxl)
    }

    /// Whether the state is announced by a message, and its arrival confirmed. The first image is not, in any dialect.
    pub const fn announces_state(self) -> bool {
        !matches!(self, Dialect::Libxl)
    }

    /// What vmstate-size counts; `None` in a dialect without it.
    pub const fn layout(self) -> Option<Layout> {
        match self {
            Dialect::Qemu(layout) => Some(layout),
            _ => None,
        }
    }

    /// What says that a checkpoint is loaded: the session's first, or a later one.
    pub const fn loaded(self, first: bool) -> Message {
        if first || matches!(self, Dialect::Libxl) { Message::Ready } else { Message::Loaded }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dialect::Libxl => "libxl",
            Dialect::Qemu(Layout::Whole) => "QEMU (sized RAM)",
            Dialect::Qemu(Layout::Live) => "QEMU",
            Dialect::FrameV8 => "COLO-Frame v8",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_points() {
        for dialect in Dialect::ALL {
            let (first, last) = dialect.numbers();
            for number in first..=last {
                let point = dialect.point(number).unwrap();
                assert_eq!(dialect.number(point), Some(number), "{dialect}");
            }
            for number in [first.wrapping_sub(1), last + 1, u64::from(u32::MAX), u64::MAX] {
                assert_eq!(dialect.point(number), None, "{dialect} {number:#x}");
            }
        }
    }

    #[test]
    fn libxls_numbers_are_those_of_its_records() {
        for number in 0..4 {
            let id = ControlId::from_wire(number).unwrap();
            let point = Dialect::Libxl.point(number.into()).unwrap();
            assert_eq!(Dialect::Libxl.name(point), id.name());
        }
    }

    #[test]
    fn the_layout_shows_in_the_first_byte() {
        assert_eq!(Layout::of_first_byte(0), Some(Layout::Whole));
        assert_eq!(Layout::of_first_byte(3), Some(Layout::Live));
        assert_eq!(Layout::of_first_byte(b'Q'), None);
    }
}
