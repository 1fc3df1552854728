//! What both guests send, held against each other: packet by packet, each connection for itself.
//!
//! A connection is a sequence of packets of one guest. The n-th of the one is compared with the n-th of the other, byte for byte.
//! Equal ones are agreed on. The first that are not end the comparison of that connection until the next checkpoint; so does one
//! that has waited too long for its counterpart. There is no clock here: the time is passed in.
//!
//! # Bounds
//! [`MOST_PACKETS`] and [`MOST_BYTES`] wait on either side; what is beyond counts as a difference.

use crate::remus::Time;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

/// Packets that wait for a counterpart at most, of each side.
pub const MOST_PACKETS: usize = 1 << 16;
/// Bytes of them at most, of each side.
pub const MOST_BYTES: usize = 64 << 20;

/// What a comparison has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Both have sent it.
    Agreed {
        /// The checkpoint that both went on from.
        epoch: u64,
        /// Our number of it.
        packet: u64,
    },
    /// They have sent different packets, or one has not sent what the other has. Found once in an epoch.
    Differ {
        /// The checkpoint that both went on from.
        epoch: u64,
    },
}

/// Which of the two guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// The primary's: its packets are those that leave.
    Ours,
    /// The secondary's.
    Theirs,
}

/// The packets of one epoch.
#[derive(Debug)]
pub struct Compare {
    epoch: u64,
    patience: Duration,
    connections: BTreeMap<u64, Connection>,
    ours: Load,
    theirs: Load,
    /// A difference has been found in this epoch.
    differs: bool,
    /// A packet was not taken: nothing behind it can be counted.
    over: bool,
}

#[derive(Debug, Default)]
struct Connection {
    ours: VecDeque<Waiting>,
    theirs: VecDeque<Waiting>,
    differs: bool,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    bytes: Vec<u8>,
    since: Time,
}

/// What waits of one side.
#[derive(Debug, Default, Clone, Copy)]
struct Load {
    packets: usize,
    bytes: usize,
}

impl Load {
    const fn has_room(self, bytes: usize) -> bool {
        self.packets < MOST_PACKETS && self.bytes.saturating_add(bytes) <= MOST_BYTES
    }
}

impl Compare {
    /// Before the first epoch. A packet waits for its counterpart for `patience` at most.
    pub const fn new(patience: Duration) -> Self {
        Compare {
            epoch: 0,
            patience,
            connections: BTreeMap::new(),
            ours: Load { packets: 0, bytes: 0 },
            theirs: Load { packets: 0, bytes: 0 },
            differs: false,
            over: false,
        }
    }

    /// Both guests go on from this checkpoint: what they sent before is of no matter any more. Earlier epochs do not come back.
    pub fn begin(&mut self, epoch: u64) {
        if epoch > self.epoch {
            *self = Compare { epoch, ..Compare::new(self.patience) };
        }
    }

    /// Takes the next packet of a guest's connection; what is found goes behind `found`. A packet of an earlier epoch is passed over,
    /// and one of the next epoch begins that: the other guest may have gone on already.
    pub fn take(&mut self, now: Time, from: Guest, epoch: u64, packet: Packet, found: &mut Vec<Found>) {
        if self.epoch.checked_add(1) == Some(epoch) {
            self.begin(epoch);
        }
        if epoch != self.epoch || self.over {
            return;
        }
        let Packet { connection, number, bytes } = packet;
        let load = match from {
            Guest::Ours => &mut self.ours,
            Guest::Theirs => &mut self.theirs,
        };
        if !load.has_room(bytes.len()) {
            self.over = true;
            return self.differ(found);
        }
        let entry = self.connections.entry(connection).or_default();
        if entry.differs {
            return;
        }
        load.packets += 1;
        load.bytes += bytes.len();
        let queue = match from {
            Guest::Ours => &mut entry.ours,
            Guest::Theirs => &mut entry.theirs,
        };
        queue.push_back(Waiting { number, bytes, since: now });
        let (Some(ours), Some(theirs)) = (entry.ours.front(), entry.theirs.front()) else { return };
        if ours.bytes != theirs.bytes {
            entry.differs = true;
            return self.differ(found);
        }
        found.push(Found::Agreed { epoch, packet: ours.number });
        for (queue, load) in [(&mut entry.ours, &mut self.ours), (&mut entry.theirs, &mut self.theirs)] {
            if let Some(gone) = queue.pop_front() {
                load.packets -= 1;
                load.bytes -= gone.bytes.len();
            }
        }
        if entry.ours.is_empty() && entry.theirs.is_empty() {
            self.connections.remove(&connection);
        }
    }

    /// When the packet that has waited longest will have waited too long; `None` when that is of no matter.
    pub fn overdue_at(&self) -> Option<Time> {
        if self.differs {
            return None;
        }
        let waiting = self.connections.values().flat_map(|both| [both.ours.front(), both.theirs.front()]).flatten();
        waiting.map(|packet| packet.since.after(self.patience)).min()
    }

    /// The time has come to look for packets that have waited too long.
    pub fn overdue(&mut self, now: Time, found: &mut Vec<Found>) {
        if self.overdue_at().is_some_and(|at| at <= now) {
            self.differ(found);
        }
    }

    fn differ(&mut self, found: &mut Vec<Found>) {
        if !core::mem::replace(&mut self.differs, true) {
            found.push(Found::Differ { epoch: self.epoch });
        }
    }
}

/// A packet of either guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Which sequence it belongs to.
    pub connection: u64,
    /// The sender's number of it.
    pub number: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_nanos(100);

    fn packet(connection: u64, number: u64, byte: u8) -> Packet {
        Packet { connection, number, bytes: vec![byte] }
    }

    fn feed(compare: &mut Compare, steps: &[(Guest, u64, Packet)]) -> Vec<Found> {
        let mut found = Vec::new();
        for (now, (from, epoch, packet)) in (0..).zip(steps) {
            compare.take(Time(now), *from, *epoch, packet.clone(), &mut found);
        }
        found
    }

    use Guest::{Ours, Theirs};

    #[test]
    fn each_connection_has_its_order_and_only_that() {
        let mut compare = Compare::new(PATIENCE);
        let found = feed(
            &mut compare,
            &[
                (Ours, 1, packet(0, 0, 7)),
                (Ours, 1, packet(1, 1, 8)),
                (Theirs, 1, packet(1, 50, 8)),
                (Theirs, 1, packet(0, 51, 7)),
                (Theirs, 1, packet(0, 52, 9)),
                (Ours, 1, packet(0, 2, 9)),
            ],
        );
        let agreed = [1, 0, 2].map(|packet| Found::Agreed { epoch: 1, packet });
        assert_eq!((found, compare.overdue_at()), (agreed.to_vec(), None));
    }

    #[test]
    fn nothing_behind_a_difference_is_agreed_on_but_other_connections_are() {
        let mut compare = Compare::new(PATIENCE);
        let found = feed(
            &mut compare,
            &[
                (Ours, 1, packet(0, 0, 7)),
                (Theirs, 1, packet(0, 0, 6)),
                (Ours, 1, packet(0, 1, 5)),
                (Theirs, 1, packet(0, 1, 5)),
                (Theirs, 1, packet(1, 2, 4)),
                (Ours, 1, packet(1, 2, 4)),
                (Ours, 1, packet(2, 3, 1)),
                (Theirs, 1, packet(2, 3, 2)),
            ],
        );
        assert_eq!(found, [Found::Differ { epoch: 1 }, Found::Agreed { epoch: 1, packet: 2 }]);
        // From the next checkpoint on all is new.
        let found =
            feed(&mut compare, &[(Theirs, 2, packet(0, 9, 1)), (Ours, 1, packet(1, 8, 1)), (Ours, 2, packet(0, 9, 1))]);
        assert_eq!(found, [Found::Agreed { epoch: 2, packet: 9 }]);
    }

    #[test]
    fn an_epoch_far_ahead_is_nobodys() {
        let mut compare = Compare::new(PATIENCE);
        compare.begin(3);
        assert_eq!(feed(&mut compare, &[(Theirs, 5, packet(0, 0, 1)), (Theirs, u64::MAX, packet(0, 0, 1))]), []);
        assert_eq!(
            feed(&mut compare, &[(Theirs, 3, packet(0, 0, 1)), (Ours, 3, packet(0, 4, 1))]),
            [Found::Agreed { epoch: 3, packet: 4 }]
        );
    }

    #[test]
    fn what_waits_too_long_is_a_difference_once() {
        let mut compare = Compare::new(PATIENCE);
        assert_eq!(feed(&mut compare, &[(Ours, 1, packet(0, 0, 1))]), []);
        assert_eq!(compare.overdue_at(), Some(Time(100)));
        let mut found = Vec::new();
        compare.overdue(Time(99), &mut found);
        assert_eq!(found, []);
        compare.overdue(Time(100), &mut found);
        compare.overdue(Time(200), &mut found);
        assert_eq!((found, compare.overdue_at()), (vec![Found::Differ { epoch: 1 }], None));
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut compare = Compare::new(PATIENCE);
        let mut found = Vec::new();
        for number in 0..=MOST_PACKETS as u64 {
            compare.take(Time(0), Theirs, 1, packet(number, number, 1), &mut found);
        }
        assert_eq!(found, [Found::Differ { epoch: 1 }]);
        assert_eq!(compare.theirs.packets, MOST_PACKETS);
        // What is behind a packet that was not taken has no place.
        compare.take(Time(0), Ours, 1, packet(0, 0, 1), &mut found);
        assert_eq!(found.len(), 1);
    }
}
