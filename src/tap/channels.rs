//! Which connection of a session is what, and whether its channels fit together and fit the main connection.
#![forbid(unsafe_code)]

use super::channel::{self, Channel, ChannelError, MOST_CHANNELS, Numbers, Seen};
use crate::decode::qemu_stream::Walker;

/// What a connection is.
#[derive(Debug, Clone)]
pub(super) enum Role {
    /// Its first bytes are too few to tell.
    Unknown(Vec<u8>),
    Main,
    Channel(Box<Channel>),
    /// Nothing that is followed.
    Lost,
}

/// The connections of a session in order of arrival.
#[derive(Debug, Clone, Default)]
pub(super) struct Channels {
    /// By number; what has not been seen has no entry or is `Unknown`.
    connections: Vec<Connection>,
    /// Whether the secondary has taken the first image: all channels are there.
    closed: bool,
}

#[derive(Debug, Clone)]
struct Connection {
    role: Role,
    bytes: u64,
    back: u64,
    /// Whether an answer on a channel was told.
    told: bool,
}

impl Channels {
    fn connection(&mut self, number: u16) -> Option<&mut Connection> {
        let number = usize::from(number);
        if number > MOST_CHANNELS {
            return None;
        }
        while self.connections.len() <= number {
            let role = Role::Unknown(Vec::new());
            self.connections.push(Connection { role, bytes: 0, back: 0, told: false });
        }
        self.connections.get_mut(number)
    }

    /// The main connection, once it is known.
    pub(super) fn main(&self) -> Option<u16> {
        let at = self.connections.iter().position(|connection| matches!(connection.role, Role::Main))?;
        u16::try_from(at).ok()
    }

    /// Whether a connection's bytes are the main one's. Before its first bytes tell, the only connection is taken for it.
    pub(super) fn is_main(&self, number: u16) -> bool {
        self.main().map_or(number == 0 && self.channel(0).is_none(), |main| main == number)
    }

    pub(super) fn channel(&self, number: u16) -> Option<&Channel> {
        match &self.connections.get(usize::from(number))?.role {
            Role::Channel(channel) => Some(channel),
            _ => None,
        }
    }

    /// How many channels there are.
    pub(super) fn count(&self) -> usize {
        self.all().count()
    }

    /// How their pages are packed, where that has shown.
    pub(super) fn method(&self) -> Option<&'static str> {
        self.all().find_map(|(_, channel)| channel.method())
    }

    fn all(&self) -> impl Iterator<Item = (u16, &Channel)> {
        (0..).zip(&self.connections).filter_map(|(number, connection)| match &connection.role {
            Role::Channel(channel) => Some((number, &**channel)),
            _ => None,
        })
    }

    /// Bytes of a channel seen: forward and back.
    pub(super) fn bytes(&self, number: u16) -> [u64; 2] {
        self.connections.get(usize::from(number)).map_or([0, 0], |connection| [connection.bytes, connection.back])
    }

    /// Bytes of all connections but the main one, both ways.
    pub(super) fn all_bytes(&self) -> u64 {
        self.connections
            .iter()
            .fold(0, |sum: u64, connection| sum.saturating_add(connection.bytes).saturating_add(connection.back))
    }

    /// Says what a connection is that has sent these bytes, after those that are held of it: `Some` with all of them once that shows.
    ///
    /// # Errors
    /// It can be nothing.
    pub(super) fn sort(&mut self, number: u16, bytes: &[u8]) -> Result<Option<Vec<u8>>, ChannelError> {
        let main = self.main().is_some();
        let connection = self.connection(number).ok_or(ChannelError::Many { connection: number })?;
        let Role::Unknown(held) = &mut connection.role else { return Ok(Some(bytes.to_vec())) };
        held.extend_from_slice(bytes);
        let begins = channel::MAGIC.iter().zip(held.iter()).all(|(a, b)| a == b);
        if begins && held.len() < channel::MAGIC.len() {
            return Ok(None);
        }
        let held = std::mem::take(held);
        if begins {
            connection.role = Role::Channel(Box::new(Channel::new()));
        } else if main {
            connection.role = Role::Lost;
            connection.bytes = held.len() as u64;
            let head = held.get(..8.min(held.len())).unwrap_or_default().to_vec();
            return Err(ChannelError::Strange { connection: number, head });
        } else {
            connection.role = Role::Main;
        }
        Ok(Some(held))
    }

    /// Whether a connection's first bytes have not told yet what it is, and how many of them are held.
    pub(super) fn unsorted(&self, number: u16) -> Option<usize> {
        match self.connections.get(usize::from(number)).map(|connection| &connection.role) {
            None => Some(0),
            Some(Role::Unknown(held)) => Some(held.len()),
            Some(_) => None,
        }
    }

    /// Takes a channel's bytes; gives how many were used, and what was seen.
    ///
    /// # Errors
    /// What is wrong; the channel is not followed any more.
    pub(super) fn push(
        &mut self,
        number: u16,
        bytes: &[u8],
        main: &Walker,
    ) -> Result<(usize, Option<Seen>), ChannelError> {
        let Some(connection) = self.connections.get_mut(usize::from(number)) else { return Ok((bytes.len(), None)) };
        let Role::Channel(channel) = &mut connection.role else {
            connection.bytes = connection.bytes.saturating_add(bytes.len() as u64);
            return Ok((bytes.len(), None));
        };
        let pushed = channel.push(bytes, main);
        let used = pushed.as_ref().map_or(bytes.len(), |(used, _)| *used);
        connection.bytes = connection.bytes.saturating_add(used as u64);
        if pushed.is_err() {
            connection.role = Role::Lost;
        }
        if let Ok((_, Some(Seen::Hello))) = pushed {
            self.hello(number, main)?;
        }
        pushed
    }

    /// Holds a channel's beginning against the others and the session.
    fn hello(&self, number: u16, main: &Walker) -> Result<(), ChannelError> {
        let Some((id, uuid)) = self.channel(number).and_then(|channel| Some((channel.id()?, channel.uuid()?))) else {
            return Ok(());
        };
        let others = || self.all().filter(|(other, _)| *other != number);
        if let Some((first, _)) = others().find(|(_, other)| other.id() == Some(id)) {
            return Err(ChannelError::Twice { id, first, second: number });
        }
        let expected = main.head().uuid.or_else(|| others().find_map(|(_, other)| other.uuid()));
        match expected {
            Some(expected) if expected != uuid => {
                Err(ChannelError::Foreign { id, got: hyphened(uuid), expected: hyphened(expected) })
            }
            _ if self.closed => Err(ChannelError::Late { id }),
            _ => Ok(()),
        }
    }

    /// Bytes of the secondary's on a connection that is not the main one.
    ///
    /// # Errors
    /// The first time.
    pub(super) fn answer(&mut self, number: u16, bytes: u64) -> Result<(), ChannelError> {
        let Some(connection) = self.connection(number) else { return Ok(()) };
        connection.back = connection.back.saturating_add(bytes);
        match std::mem::replace(&mut connection.told, true) {
            false => Err(ChannelError::Answer { bytes }),
            true => Ok(()),
        }
    }

    /// Whether all that belongs in front of so many flush marks of the main connection has come, and whether that is what came.
    ///
    /// # Errors
    /// What is missing, or too much.
    pub(super) fn complete(&self, flushes: u64) -> Result<(), ChannelError> {
        let there = self.count();
        let missing = |id: usize| ChannelError::Missing { id: u8::try_from(id).unwrap_or(u8::MAX), there };
        let is_there = |id: &usize| self.all().any(|(_, channel)| channel.id().map(usize::from) == Some(*id));
        if flushes > 0 && there == 0 {
            return Err(missing(0));
        }
        if let Some(id) = (0..there).find(|id| !is_there(id)) {
            return Err(missing(id));
        }
        let mut numbers = Numbers::default();
        for (_, channel) in self.all() {
            numbers.add(channel.numbers());
            if channel.syncs() != flushes {
                let id = channel.id().unwrap_or_default();
                return Err(ChannelError::Sync { id, syncs: channel.syncs(), flushes });
            }
        }
        if numbers.complete() {
            Ok(())
        } else {
            Err(ChannelError::Numbers { packets: numbers.packets, last: numbers.last })
        }
    }

    /// Takes it that the secondary has the first image.
    pub(super) const fn close(&mut self) {
        self.closed = true;
    }
}

fn hyphened(uuid: [u8; 16]) -> String {
    let hex = |range: std::ops::Range<usize>| {
        uuid.get(range).unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    [hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16)].join("-")
}

impl Channel {
    /// Its UUID as people write it.
    pub(super) fn uuid_text(&self) -> String {
        hyphened(self.uuid().unwrap_or_default())
    }
}
