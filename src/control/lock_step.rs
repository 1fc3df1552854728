//! What a COLO session tells of itself besides what Remus does.

use super::status::Summary;
use serde::{Deserialize, Serialize};

/// Counters and times of a primary since its session began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockStep {
    /// The secondary's guest stands still between checkpoints; nothing is compared then.
    pub periodic: bool,
    /// Packets that both guests have sent, and that left at once.
    pub agreed: u64,
    /// Packets that left with a checkpoint.
    pub waited: u64,
    /// Checkpoints taken because the guests had sent different packets.
    pub by_difference: u64,
    /// Checkpoints taken for other reasons: the period, the operator.
    pub by_period: u64,
    /// From the request to the secondary until the guest runs again, in microseconds.
    pub latency: Summary,
}
