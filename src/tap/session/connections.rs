//! A session over several connections: the main one, and those of the multifd channels.
#![forbid(unsafe_code)]

use super::super::channel::Seen;
use super::super::event::{Channel, Event, Out, Recognised, Trouble, What};
use super::super::recording::Direction;
use super::Session;
use crate::colo::dialect::{Dialect, Point};
use std::time::Duration;

impl Session {
    /// Takes bytes of a direction of a connection, and gives what they complete. Connections are numbered in order of arrival; which is
    /// the main one, and which a channel, shows in the first bytes from the primary.
    pub fn feed_on(&mut self, connection: u16, direction: Direction, bytes: &[u8], at: Duration) -> Vec<Event> {
        let mut out = Out::new(at, self.last);
        self.idle &= bytes.is_empty();
        match self.dialect {
            None => self.feed_records(direction, bytes, &mut out),
            Some(_) if bytes.is_empty() => {}
            Some(dialect) if direction == Direction::Forward => self.sort(dialect, connection, bytes, &mut out),
            Some(dialect) if self.channels.is_main(connection) => self.feed_main(dialect, direction, bytes, &mut out),
            Some(_) => {
                let offset = self.channels.bytes(connection)[1];
                if let Err(error) = self.channels.answer(connection, bytes.len() as u64) {
                    self.trouble_on(connection, direction, offset, &error.into(), &mut out);
                }
            }
        }
        self.last = out.last;
        out.events
    }

    /// Bytes of the primary's, of a connection that has shown what it is, or not yet.
    fn sort(&mut self, dialect: Dialect, connection: u16, bytes: &[u8], out: &mut Out) {
        if self.channels.is_main(connection) && self.channels.unsorted(connection).is_none() {
            return self.feed_main(dialect, Direction::Forward, bytes, out);
        }
        match self.channels.sort(connection, bytes) {
            Ok(None) => {}
            Ok(Some(all)) if self.channels.is_main(connection) => {
                self.feed_main(dialect, Direction::Forward, &all, out);
            }
            Ok(Some(all)) => self.feed_channel(connection, &all, out),
            Err(error) => self.trouble_on(connection, Direction::Forward, 0, &error.into(), out),
        }
    }

    fn feed_channel(&mut self, connection: u16, bytes: &[u8], out: &mut Out) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = self.channels.bytes(connection)[0];
            let (used, seen) = match self.channels.push(connection, rest, &self.walker) {
                Ok(pushed) => pushed,
                Err(error) => {
                    let trouble = error.into();
                    self.trouble_on(connection, Direction::Forward, offset, &trouble, out);
                    // What is wrong with the session leaves the channel as it is; what is wrong with its bytes does not.
                    let used = self.channels.bytes(connection)[0] - offset;
                    (usize::try_from(used).unwrap_or(rest.len()), None)
                }
            };
            rest = rest.get(used.max(1)..).unwrap_or_default();
            let Some(channel) = self.channels.channel(connection) else { continue };
            let what = match seen {
                None => continue,
                Some(Seen::Hello) => (0, 64, What::Channel { uuid: channel.uuid_text() }),
                Some(Seen::Sync(batch)) => {
                    let what = What::Sync {
                        sync: batch.sync,
                        packets: batch.packets,
                        ram: batch.ram,
                        packed: batch.method.filter(|_| batch.ram.full > 0),
                    };
                    (batch.offset, batch.bytes, what)
                }
            };
            let id = channel.id();
            out.push_on(Channel { connection, id }, Direction::Forward, what.0, what.1, what.2);
        }
    }

    fn trouble_on(&self, connection: u16, direction: Direction, offset: u64, trouble: &Trouble, out: &mut Out) {
        let id = self.channels.channel(connection).and_then(super::super::channel::Channel::id);
        out.at_step(self.due(), "a multifd channel");
        let what = out.trouble_of(trouble);
        out.push_on(Channel { connection, id }, direction, offset, 0, what);
    }

    /// Takes the end of a direction of a connection.
    pub fn end_on(&mut self, connection: u16, direction: Direction, at: Duration) -> Vec<Event> {
        if self.dialect.is_none() || self.channels.is_main(connection) {
            let mut events = if direction == Direction::Forward { self.conclude(at) } else { Vec::new() };
            events.extend(self.end(direction, at));
            return events;
        }
        let mut out = Out::new(at, self.last);
        let channel = self.channels.channel(connection);
        let inside = match direction {
            Direction::Forward => channel.map_or(Some("the beginning of a connection"), |channel| channel.inside()),
            Direction::Back => None,
        };
        let id = channel.and_then(super::super::channel::Channel::id);
        let offset = self.bytes_on(connection, direction);
        let what = inside.map_or(What::End, |inside| What::Broken { inside });
        out.push_on(Channel { connection, id }, direction, offset, 0, what);
        self.last = out.last;
        out.events
    }

    /// Bytes of a direction of a connection.
    pub fn bytes_on(&self, connection: u16, direction: Direction) -> u64 {
        if self.dialect.is_none() || (self.channels.is_main(connection) && self.channels.unsorted(connection).is_none())
        {
            return self.bytes(direction);
        }
        if let (Some(held), Direction::Forward) = (self.channels.unsorted(connection), direction) {
            return held as u64;
        }
        let [forward, back] = self.channels.bytes(connection);
        if direction == Direction::Forward { forward } else { back }
    }

    /// Bytes of all connections, both ways.
    pub fn all_bytes(&self) -> u64 {
        let main = self.offsets[0].saturating_add(self.offsets[1]);
        self.channels.all_bytes().saturating_add(main)
    }

    /// Whether a connection is the main one, as far as is known.
    pub fn is_main(&self, connection: u16) -> bool {
        self.dialect.is_none() || self.channels.is_main(connection)
    }

    /// The main connection, once it has shown.
    pub fn main(&self) -> Option<u16> {
        self.channels.main()
    }

    /// How many multifd channels there are.
    pub fn channels(&self) -> usize {
        self.channels.count()
    }

    /// What is due on the return path before the first COLO message: what a secondary has to send now.
    pub fn return_due(&self) -> Option<Vec<u8>> {
        use super::super::return_path::{SHUT, pong};
        let head = self.walker.head();
        if !self.return_path() {
            return None;
        }
        if head.pings > self.pongs {
            return head.ping.map(|value| pong(value).to_vec());
        }
        // No SWITCHOVER_ACK: QEMU 11.1 counts them, waits for those of its devices that need one, and fails over one too many. No device of
        // a guest in COLO needs one.
        (self.answer_due() == Some(Point::Ready)).then(|| SHUT.to_vec())
    }

    pub(super) fn recognised(&self) -> Recognised {
        let head = self.walker.head();
        let release = match (head.colo, head.switchovers > 0, head.return_path) {
            (true, false, _) => "QEMU before 10.0",
            (true, true, _) => "QEMU 10.0 or newer, before 11.1",
            (false, _, true) => "QEMU 11.1 or newer",
            (false, ..) => "not known",
        };
        Recognised {
            release,
            machine: head.machine.clone(),
            return_path: head.return_path,
            capabilities: head.capabilities.clone(),
            channels: self.channels.count(),
            packed: self.channels.method(),
        }
    }
}
