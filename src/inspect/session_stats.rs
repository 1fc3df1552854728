//! What came on which connection of a recorded COLO session.
#![forbid(unsafe_code)]

use crate::tap::recording::ReadError;
use crate::tap::{Direction, Event, Session, What};
use serde::Serialize;
use std::fmt;
use std::io;
use std::time::Duration;

/// What is given every event.
pub type Visit<'a> = &'a mut dyn FnMut(&Event) -> io::Result<()>;

/// What calls it with every event of a session, up to its end or where it was cut.
pub type Follow<'a> = &'a mut dyn FnMut(Visit<'_>) -> io::Result<(Session, Option<ReadError>)>;

/// A connection's share.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ConnectionStats {
    /// In order of arrival where there are channels, else 0.
    pub connection: u16,
    /// The channel's number; `None` for the main connection, and for one that has not said what it is.
    pub channel: Option<u8>,
    /// Whether it is the main connection.
    pub is_main: bool,
    /// Bytes from the primary.
    pub bytes: u64,
    /// Bytes from the secondary.
    pub answers: u64,
    /// Pages with their contents.
    pub full: u64,
    /// Pages as a difference to what was sent before.
    pub xbzrle: u64,
    /// Pages of zeros.
    pub zero: u64,
    /// Packets of a channel.
    pub packets: u64,
    /// SYNCs of a channel, flush marks of the main connection.
    pub syncs: u64,
}

impl ConnectionStats {
    /// What people call it.
    pub fn name(&self) -> String {
        match (self.channel, self.is_main) {
            (Some(id), _) => format!("channel {id}"),
            (None, true) => "main".into(),
            (None, false) => format!("connection {}", self.connection),
        }
    }
}

/// A session in figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SessionStats {
    /// Which QEMU was recognised.
    pub release: Option<String>,
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

/// Counts a session's events.
#[derive(Debug, Default)]
pub struct Collector {
    stats: SessionStats,
    main: ConnectionStats,
    began: Duration,
}

impl Collector {
    /// Takes an event.
    pub fn see(&mut self, event: &Event) {
        let stats = &mut self.stats;
        stats.errors += u64::from(event.what.is_error());
        stats.seconds = event.at.as_secs_f64();
        let line = match event.channel {
            None => &mut self.main,
            Some(channel) => {
                let known = stats.connections.iter().position(|line| line.connection == channel.connection);
                let at = known.unwrap_or(stats.connections.len());
                if known.is_none() {
                    let connection = channel.connection;
                    stats.connections.push(ConnectionStats { connection, ..ConnectionStats::default() });
                }
                let Some(line) = stats.connections.get_mut(at) else { return };
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
                stats.release = Some(recognised.release.clone());
                return;
            }
            What::Message { name: "checkpoint-request" | "checkpoint-new", .. } => {
                self.began = event.at;
                return;
            }
            What::Message { name: "vmstate-loaded" | "checkpoint-loaded", .. } => {
                let took = event.at.saturating_sub(self.began).as_secs_f64();
                stats.longest_checkpoint = stats.longest_checkpoint.max(took);
                return;
            }
            _ => return,
        };
        line.full += ram.full + ram.compressed;
        line.xbzrle += ram.xbzrle;
        line.zero += ram.zero;
        line.syncs += ram.flushes;
    }

    /// What was counted of a session that has come to its end, or to where it was cut.
    pub fn finish(self, session: &Session, cut: Option<&ReadError>) -> SessionStats {
        let Collector { mut stats, mut main, .. } = self;
        stats.checkpoints = session.checkpoints();
        stats.errors += u64::from(cut.is_some_and(|cut| !matches!(cut, ReadError::Cut { .. })));
        main.is_main = true;
        main.connection = session.main().unwrap_or_default();
        for line in stats.connections.iter_mut().chain([&mut main]) {
            line.bytes = session.bytes_on(line.connection, Direction::Forward);
            line.answers = session.bytes_on(line.connection, Direction::Back);
        }
        // A channel by itself has no main connection.
        if session.main().is_some() || stats.connections.is_empty() {
            stats.connections.insert(0, main);
        }
        stats.connections.sort_by_key(|line| (!line.is_main, line.channel, line.connection));
        stats
    }
}

impl SessionStats {
    /// Follows a session to its end.
    ///
    /// # Errors
    /// The input cannot be read.
    pub fn of(follow: Follow<'_>) -> io::Result<Self> {
        let mut collector = Collector::default();
        let (session, cut) = follow(&mut |event| {
            collector.see(event);
            Ok(())
        })?;
        Ok(collector.finish(&session, cut.as_ref()))
    }
}

impl fmt::Display for SessionStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.release.as_deref().unwrap_or("release not recognised"))?;
        writeln!(
            f,
            "checkpoints: {} in {:.3} s, the longest {:.3} s; errors: {}\n",
            self.checkpoints, self.seconds, self.longest_checkpoint, self.errors
        )?;
        writeln!(
            f,
            "{:>12} {:>12} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "connection", "bytes", "answers", "full", "xbzrle", "zero", "packets", "SYNCs"
        )?;
        for line in &self.connections {
            let ConnectionStats { bytes, answers, full, xbzrle, zero, packets, syncs, .. } = line;
            let name = line.name();
            writeln!(f, "{name:>12} {bytes:>12} {answers:>8} {full:>8} {xbzrle:>8} {zero:>8} {packets:>8} {syncs:>8}")?;
        }
        Ok(())
    }
}
