//! What a client has seen.

use serde::Serialize;
use std::net::SocketAddr;

use crate::replicate::stats::Summary;

/// The result of a client's run. Times are in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Packets of the guest's, all told.
    pub packets: u64,
    /// Packets that were none of the guest's, or came from more hosts than are told apart. Not judged.
    pub foreign: u64,
    /// Requests sent, each counted once.
    pub requests: u64,
    /// Requests sent again.
    pub retries: u64,
    /// Requests answered, each counted once.
    pub acknowledged: u64,
    /// Outputs seen that a later host did not know of: see [`Verdict::Lost`].
    pub lost: u64,
    /// See [`Verdict::Contradicted`].
    pub contradicted: u64,
    /// See [`Verdict::Interleaved`].
    pub interleaved: u64,
    /// New packets of an earlier host that its successor knew of: delayed on the way, and no fault.
    pub late: u64,
    /// Packets that came twice, from the same host and with the same contents. On a network that makes no copies, they are a guest
    /// that was set back behind the same address.
    pub duplicates: u64,
    /// Sequence numbers between the first and the last that never came: lost on the way, and no fault.
    pub missing: u64,
    /// Packets older than what is remembered, of which only the host was judged.
    pub unjudged: u64,
    /// How often another host took over.
    pub changes: u64,
    /// The longest time between two packets; 0 with fewer than two.
    pub longest_gap_ns: u64,
    /// The longest time between the last packet of one host and the first of its successor: what outside is seen of a failover.
    pub fail_over_ns: Option<u64>,
    /// From the sending of a request, or of its repetition, to its echo.
    pub round_trip_ns: Option<Summary>,
    /// The hosts, in the order in which they were heard first.
    pub hosts: Vec<HostSeen>,
    /// The first faults, each as it was found.
    pub faults: Vec<Fault>,
}

impl Seen {
    /// Whether nothing was lost, contradicted or interleaved.
    pub fn is_sound(&self) -> bool {
        self.lost == 0 && self.contradicted == 0 && self.interleaved == 0
    }
}

/// One host, by the address that its packets came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HostSeen {
    /// The address.
    pub address: SocketAddr,
    /// Its packets.
    pub packets: u64,
    /// The lowest sequence number.
    pub first: u64,
    /// The highest.
    pub last: u64,
}

/// What is wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Outputs were seen with this sequence number or higher ones, and then another host begins here: it goes on from a state older
    /// than what the guest had told. Each such output counts.
    Lost,
    /// Other contents under the same number; or less, or something else, done by a later number than by an earlier one; or the
    /// answer to a question that was not asked.
    Contradicted,
    /// A host whose successor began with this number or a lower one still says something new: two copies are active.
    Interleaved,
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What is wrong.
    pub verdict: Verdict,
    /// The packet's sequence number.
    pub sequence: u64,
    /// Who sent it.
    pub host: SocketAddr,
    /// When it came, in nanoseconds since the client began.
    pub at_ns: u64,
}

/// How far a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
pub struct Progress {
    /// Milliseconds since it began.
    pub ms: u64,
    /// Packets of the guest's.
    pub packets: u64,
    /// Requests answered.
    pub acknowledged: u64,
    /// The host that is taken for the active one.
    pub host: Option<SocketAddr>,
    /// As in [`Seen`].
    pub changes: u64,
    /// As in [`Seen`].
    pub lost: u64,
    /// As in [`Seen`].
    pub contradicted: u64,
    /// As in [`Seen`].
    pub interleaved: u64,
}
