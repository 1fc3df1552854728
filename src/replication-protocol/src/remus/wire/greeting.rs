//! Who is there: the first bytes of a peer, and what it can do.

use super::MAGIC;
use crate::protocol::Level;
use crate::stream::handshake::Message;
use crate::stream::{libxl, xl};

bitflags::bitflags! {
    /// What a side can and will do. The session has what both have. Names follow QEMU's micro-checkpointing where it has
    /// the thing; see [`Capabilities::names`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Capabilities: u32 {
        /// `mc`: checkpoints without end, at an interval that can change while running.
        const MC = 1 << 0;
        /// `mc-net-disable`: output is not held. Breaks consistency on fail-over; for measurements.
        const NET_DISABLE = 1 << 1;
        /// `local-copy` (`mc-rdma-copy`): dirty pages are copied first, the guest resumes, then they are transmitted.
        const LOCAL_COPY = 1 << 2;
        /// `heartbeat` (`rdma-keepalive`): HEARTBEAT frames both ways.
        const HEARTBEAT = 1 << 3;
        /// `checkpoint-ack`: ACK and REFUSE.
        const CHECKPOINT_ACK = 1 << 4;
        /// `checksum`: CHECKPOINT frames carry one.
        const CHECKSUM = 1 << 5;
        /// `generation`: the fencing number.
        const GENERATION = 1 << 6;
    }
}

impl Capabilities {
    /// Without these there is no session.
    pub const REQUIRED: Capabilities = Capabilities::MC
        .union(Capabilities::HEARTBEAT)
        .union(Capabilities::CHECKPOINT_ACK)
        .union(Capabilities::CHECKSUM)
        .union(Capabilities::GENERATION);

    /// What this version offers.
    pub const OFFERED: Capabilities = Capabilities::REQUIRED.union(Capabilities::LOCAL_COPY);

    /// What a bare peer (`xl migrate-receive -r`, `xl remus`) has.
    pub const BARE: Capabilities = Capabilities::MC;

    /// The names of the capabilities set, in the order of their bits.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        const NAMES: [(Capabilities, &str); 7] = [
            (Capabilities::MC, "mc"),
            (Capabilities::NET_DISABLE, "mc-net-disable"),
            (Capabilities::LOCAL_COPY, "local-copy"),
            (Capabilities::HEARTBEAT, "heartbeat"),
            (Capabilities::CHECKPOINT_ACK, "checkpoint-ack"),
            (Capabilities::CHECKSUM, "checksum"),
            (Capabilities::GENERATION, "generation"),
        ];
        NAMES.into_iter().filter(move |(bit, _)| self.contains(*bit)).map(|(_, name)| name)
    }

    /// What it costs that these are missing, as warnings for the operator.
    pub fn cost(self) -> impl Iterator<Item = (Level, &'static str)> {
        const COST: [(Capabilities, Level, &str); 4] = [
            (
                Capabilities::CHECKPOINT_ACK,
                Level::Critical,
                "output is released when a checkpoint is written, not when the other side has it: a fail-over can \
                 contradict what clients have seen",
            ),
            (
                Capabilities::CHECKSUM,
                Level::Critical,
                "damage on the link goes unnoticed, or is taken for this host's death: two copies can run",
            ),
            (Capabilities::HEARTBEAT, Level::Warning, "a half-open connection is not noticed by either side"),
            (
                Capabilities::GENERATION,
                Level::Critical,
                "the other side goes active whenever the connection ends, without asking anybody",
            ),
        ];
        COST.into_iter().filter(move |(bit, ..)| !self.contains(*bit)).map(|(_, level, text)| (level, text))
    }
}

/// Who the first bytes belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Our framing; frames follow behind [`MAGIC`].
    Framed,
    /// Xen's own tools: the banner of `xl migrate-receive`, or a stream that begins with xl's preamble or libxl's header.
    /// Its bytes belong to the stream (or are the banner), none is consumed.
    Bare,
    /// Something else. Nothing should be sent to it.
    Unknown,
}

/// Recognises a secondary by the first bytes of the back channel. It speaks first: `xl migrate-receive` with its banner,
/// ours with [`MAGIC`]; the primary writes nothing before. `Err(n)`: show at least `n` bytes.
pub fn recognise_secondary(first: &[u8]) -> Result<Peer, usize> {
    recognise(first, &[Message::Banner.bytes()])
}

/// Recognises a primary by the first bytes of the forward channel. `xl` sends its preamble, ours answers [`MAGIC`] with the
/// same. `Err(n)`: show at least `n` bytes.
pub fn recognise_primary(first: &[u8]) -> Result<Peer, usize> {
    recognise(first, &[xl::MAGIC, &libxl::IDENT.to_be_bytes()])
}

fn recognise(first: &[u8], bare: &[&[u8]]) -> Result<Peer, usize> {
    let mut more = None;
    for (start, peer) in bare.iter().map(|&b| (b, Peer::Bare)).chain([(MAGIC.as_slice(), Peer::Framed)]) {
        let common = start.len().min(first.len());
        if start[..common] == first[..common] {
            if common == start.len() {
                return Ok(peer);
            }
            more = Some(start.len());
        }
    }
    // An empty input fits all beginnings: one byte tells them apart.
    if first.is_empty() { Err(1) } else { more.map_or(Ok(Peer::Unknown), Err) }
}
