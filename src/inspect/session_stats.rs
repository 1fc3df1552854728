//! What came on which connection of a recorded COLO session.
#![forbid(unsafe_code)]

use super::recording::Follow;
use crate::decode::qemu_stream::Ram;
use crate::tap::{Direction, What};
use serde::Serialize;
use std::fmt;
use std::io;
use std::time::Duration;

/// A connection's share.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ConnectionStats {
    /// In order of arrival where there are channels, else 0.
    pub connection: u16,
    /// The channel's number; `None` for the main connection.
    pub channel: Option<u8>,
    /// Bytes from the primary.
    pub bytes: u64,
    /// Bytes from the secondary.
    pub answers: u64,
    /// Pages: with contents, and zero.
    pub full: u64,
    /// Pages of zeros.
    pub zero: u64,
    /// Packets of a channel.
    pub packets: u64,
    /// SYNCs of a channel, flush marks of the main connection.
    pub syncs: u64,
}

/// A session in figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SessionStats {
    /// Which QEMU was recognised.
    pub release: Option<&'static str>,
    /// Checkpoints that the secondary has loaded, or of a primary alone, that it has sent whole.
    pub checkpoints: u64,
    /// Events that break the protocol.
    pub errors: u64,
    /// Seconds of the session.
    pub seconds: f64,
    /// The longest time from a checkpoint-request to its vmstate-loaded, in seconds.
    pub longest_checkpoint: f64,
    /// What came on each connection.
    pub connections: Vec<ConnectionStats>,
}

impl SessionStats {
    /// Follows a session to its end.
    ///
    /// # Errors
    /// The input cannot be read.
    pub fn of(follow: Follow<'_>) -> io::Result<Self> {
        let mut stats = SessionStats::default();
        let mut main = ConnectionStats::default();
        let mut began = Duration::ZERO;
        let (session, cut) = follow(&mut |event| {
            stats.errors += u64::from(event.what.is_error());
            stats.seconds = event.at.as_secs_f64();
            let line = match event.channel {
                None => &mut main,
                Some(channel) => {
                    let known = stats.connections.iter().position(|line| line.connection == channel.connection);
                    let at = known.unwrap_or(stats.connections.len());
                    if known.is_none() {
                        let connection = channel.connection;
                        stats.connections.push(ConnectionStats { connection, ..ConnectionStats::default() });
                    }
                    let Some(line) = stats.connections.get_mut(at) else { return Ok(()) };
                    line.channel = channel.id.or(line.channel);
                    line
                }
            };
            let ram = match &event.what {
                What::Image { ram, .. } | What::Ram { ram } | What::State { ram, .. } => *ram,
                What::Sync { ram, packets, .. } => {
                    line.packets += packets;
                    line.syncs += 1;
                    *ram
                }
                What::Recognised(recognised) => {
                    stats.release = Some(recognised.release);
                    Ram::default()
                }
                What::Message { name: "checkpoint-request" | "checkpoint-new", .. } => {
                    began = event.at;
                    Ram::default()
                }
                What::Message { name: "vmstate-loaded" | "checkpoint-loaded", .. } => {
                    let took = event.at.saturating_sub(began).as_secs_f64();
                    stats.longest_checkpoint = stats.longest_checkpoint.max(took);
                    Ram::default()
                }
                _ => Ram::default(),
            };
            line.full += ram.full + ram.xbzrle + ram.compressed;
            line.zero += ram.zero;
            line.syncs += ram.flushes;
            Ok(())
        })?;
        stats.checkpoints = session.checkpoints();
        stats.errors += u64::from(cut.is_some_and(|cut| !matches!(cut, crate::tap::recording::ReadError::Cut { .. })));
        main.connection = session.main().unwrap_or_default();
        for line in stats.connections.iter_mut().chain([&mut main]) {
            line.bytes = session.bytes_on(line.connection, Direction::Forward);
            line.answers = session.bytes_on(line.connection, Direction::Back);
        }
        stats.connections.insert(0, main);
        stats.connections.sort_by_key(|line| line.channel);
        Ok(stats)
    }
}

impl fmt::Display for SessionStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.release.unwrap_or("release not recognised"))?;
        writeln!(
            f,
            "checkpoints: {} in {:.3} s, the longest {:.3} s; errors: {}\n",
            self.checkpoints, self.seconds, self.longest_checkpoint, self.errors
        )?;
        writeln!(
            f,
            "{:>10} {:>12} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "connection", "bytes", "answers", "full", "zero", "packets", "SYNCs"
        )?;
        for line in &self.connections {
            let name = line.channel.map_or("main".into(), |id| format!("channel {id}"));
            writeln!(
                f,
                "{name:>10} {:>12} {:>10} {:>10} {:>10} {:>10} {:>10}",
                line.bytes, line.answers, line.full, line.zero, line.packets, line.syncs
            )?;
        }
        Ok(())
    }
}
