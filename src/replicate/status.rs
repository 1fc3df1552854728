//! What a side tells of itself.

use super::stats;
use crate::remus::{Level, primary, secondary};
use serde::{Deserialize, Serialize};

/// Most notices in a [`Status`].
pub const MAX_NOTICES: usize = 16;

/// Where a side is, and what it has cost so far. Fields that are missing when it is read take their defaults, so that an
/// older program can be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The domain's name; empty as long as a secondary has not learnt it.
    pub domain: String,
    /// Whether the guest is a simulated one and no domain.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub simulated: bool,
    /// Which side this is. A secondary that has gone active is the primary from then on.
    pub role: Role,
    /// A word of [`primary_phase`] or [`secondary_phase`].
    pub phase: String,
    /// What the guest does on this host.
    pub guest: Guest,
    /// Whether another host could go on with the guest (primary), or this one could (secondary).
    pub protected: bool,
    /// The other side, as the operator named it; none without one.
    pub peer: Option<String>,
    /// How the two talk; none as long as they do not.
    pub framing: Option<Framing>,
    /// Who may be active alone: `witness`, `manual` or `primary-wins`.
    pub rule: String,
    /// The newest generation that this side holds or knows of.
    pub generation: u64,
    /// The session, the last one if there is none now: 16 hexadecimal digits, empty before the first.
    pub session: String,
    /// Milliseconds from one checkpoint to the next, as in use now.
    pub interval_ms: u64,
    /// What becomes of the packets that the guest sends.
    pub output: Output,
    /// The newest checkpoint begun (primary), or received in whole or in part (secondary); 0 for none.
    pub checkpoint: u64,
    /// The newest checkpoint acknowledged (primary), or kept and acknowledged (secondary); 0 for none.
    pub acknowledged: u64,
    /// Milliseconds since that acknowledgement; none before the first.
    pub since_last_ms: Option<u64>,
    /// Milliseconds since this process began. Rates are differences over it.
    pub elapsed_ms: u64,
    /// The witness in words, `none` without one.
    pub witness: String,
    /// What is wrong with the witness now, so that a failover would fail; none where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
    /// Whether a fencing command is run before this side goes active.
    pub fence: bool,
    /// The target of the adaptive interval in words; none when the interval is fixed.
    pub adaptive: Option<String>,
    /// The last [`MAX_NOTICES`] words to the operator, oldest first.
    pub notices: Vec<Notice>,
    /// Counters and times since this process began.
    pub statistics: Figures,
    /// The replica that this side keeps since it was denied the next generation; none where it keeps none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
    /// A COLO primary's own figures; none in Remus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock_step: Option<LockStep>,
}

/// A replica whose side was denied the next generation: paused until the operator or the peer decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// Milliseconds since it was denied.
    pub since_ms: u64,
    /// Bytes of memory that it takes.
    pub memory: u64,
    /// The checkpoint that it is at.
    pub checkpoint: u64,
    /// The newest generation that the witness has given, as far as is known.
    pub newest: u64,
    /// The command that frees it, where another host runs the domain.
    pub drop: String,
    /// The command that starts the guest from it, only if no other host runs the domain and none will.
    pub fail_over: String,
}

/// Which side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The guest is this host's.
    #[default]
    Primary,
    /// This host keeps a copy.
    Secondary,
}

/// What a guest does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guest {
    /// It runs.
    Running,
    /// It stands still for a moment, for a checkpoint.
    Suspended,
    /// It stands still until somebody decides, or for good.
    Stopped,
    /// There is none here, or only a copy that has never run.
    #[default]
    Absent,
}

/// How the two sides talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// As in `docs/remus.md`.
    Framed,
    /// With one of Xen's own tools, which know no acknowledgement.
    Bare,
}

/// What becomes of output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// It leaves as it is sent.
    #[default]
    Free,
    /// It leaves when the state behind it is acknowledged.
    Held,
}

/// A word to the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Milliseconds since it was said.
    pub age_ms: u64,
    /// How loud.
    pub level: Loudness,
    /// What, in one line.
    pub text: String,
}

/// [`Level`], as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loudness {
    /// Worth a line.
    Info,
    /// Protection is worse than asked for.
    Warning,
    /// The domain is not protected, not running, or in need of the operator.
    Critical,
}

impl From<Level> for Loudness {
    fn from(level: Level) -> Self {
        match level {
            Level::Info => Loudness::Info,
            Level::Warning => Loudness::Warning,
            Level::Critical => Loudness::Critical,
        }
    }
}

/// What it has cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Checkpoints acknowledged.
    pub checkpoints: u64,
    /// Checkpoints refused.
    pub refused: u64,
    /// Dirty pages sent or received.
    pub pages: u64,
    /// Bytes of migration-v2 stream, whole images and what was refused included.
    pub bytes: u64,
    /// How often this side has gone active in the other's place.
    pub failovers: u64,
    /// How often a checkpoint came later than the interval asks for, because the one before was still under way.
    pub interval_stretched: u64,
    /// From the request to suspend to the resume, in microseconds.
    pub pause: Summary,
    /// From the first byte of a checkpoint to its last, in microseconds.
    pub transmission: Summary,
    /// From a checkpoint's last byte to its acknowledgement, in microseconds.
    pub acknowledgement: Summary,
    /// From a packet's leaving the guest to its release, in microseconds.
    pub output_delay: Summary,
    /// Dirty pages in a checkpoint; whole images count too.
    pub pages_per_checkpoint: Summary,
    /// Bytes of stream in a checkpoint; whole images count too.
    pub bytes_per_checkpoint: Summary,
}

/// A histogram in three numbers, in the unit of its values; all 0 without any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Half of the values are at most this.
    pub p50: u64,
    /// 99 of 100 values are at most this.
    pub p99: u64,
    /// The largest value.
    pub max: u64,
}

impl From<stats::Summary> for Summary {
    /// In the same unit.
    fn from(from: stats::Summary) -> Self {
        Summary { p50: from.p50, p99: from.p99, max: from.max }
    }
}

impl Summary {
    /// Microseconds, cut, from a histogram of nanoseconds.
    pub const fn from_nanos(nanos: stats::Summary) -> Summary {
        Summary { p50: nanos.p50 / 1000, p99: nanos.p99 / 1000, max: nanos.max / 1000 }
    }
}

/// Counters and times of a primary since its session began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockStep {
    /// The secondary's guest is paused between checkpoints; nothing is compared then.
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

/// The phase of a primary as a word.
pub const fn primary_phase(phase: primary::Phase) -> &'static str {
    use primary::{End, Phase};
    match phase {
        Phase::Alone => "alone",
        Phase::Claiming => "claiming",
        Phase::Connecting => "connecting",
        Phase::Greeting => "greeting",
        Phase::Protected => "protected",
        Phase::Delegated => "delegated",
        Phase::Leaving { .. } => "leaving",
        Phase::Ended(End::Fenced) => "fenced",
        Phase::Ended(End::Suspended) => "suspended",
        Phase::Ended(End::SwitchedOver) => "switched-over",
    }
}

/// The phase of a secondary as a word.
pub const fn secondary_phase(phase: secondary::Phase) -> &'static str {
    use secondary::Phase;
    match phase {
        Phase::Greeting => "greeting",
        Phase::Passive => "passive",
        Phase::Lost => "lost",
        Phase::Claiming => "claiming",
        Phase::Fencing => "fencing",
        Phase::Activating => "activating",
        Phase::Active => "active",
        Phase::Ended(_) => "ended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remus::{Config, Generation, Primary, Secondary};

    #[test]
    fn a_status_travels_and_may_lack_fields() {
        let status = Status {
            domain: "web".into(),
            role: Role::Secondary,
            guest: Guest::Stopped,
            framing: Some(Framing::Bare),
            output: Output::Held,
            since_last_ms: Some(7),
            notices: vec![Notice { age_ms: 1, level: Level::Critical.into(), text: "x".into() }],
            statistics: Figures { pause: Summary { p50: 1, p99: 2, max: 3 }, ..Figures::default() },
            ..Status::default()
        };
        let json = serde_json::to_value(&status).unwrap();
        for (pointer, value) in [
            ("/role", "secondary"),
            ("/guest", "stopped"),
            ("/framing", "bare"),
            ("/output", "held"),
            ("/notices/0/level", "critical"),
        ] {
            assert_eq!(json.pointer(pointer).unwrap(), value, "{pointer}");
        }
        assert_eq!(json.pointer("/statistics/pause/p99").unwrap(), 2);
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status);
        let old: Status = serde_json::from_str(r#"{"phase":"alone","statistics":{"pages":9},"new":1}"#).unwrap();
        assert_eq!((old.phase.as_str(), old.statistics.pages, old.guest), ("alone", 9, Guest::Absent));
    }

    #[test]
    fn times_are_told_in_microseconds() {
        let nanos = stats::Summary { p50: 999, p99: 1_500_000, max: u64::MAX };
        assert_eq!(Summary::from_nanos(nanos), Summary { p50: 0, p99: 1500, max: u64::MAX / 1000 });
        assert_eq!(Summary::from(nanos), Summary { p50: 999, p99: 1_500_000, max: u64::MAX });
    }

    #[test]
    fn the_machines_begin_where_their_words_say() {
        let primary = Primary::new(Config::default(), Generation(1));
        assert_eq!(primary_phase(primary.phase()), "alone");
        assert_eq!(primary_phase(primary::Phase::Ended(primary::End::SwitchedOver)), "switched-over");
        assert_eq!(primary_phase(primary::Phase::Ended(primary::End::Fenced)), "fenced");
        let secondary = Secondary::new(Config::default());
        assert_eq!(secondary_phase(secondary.phase()), "greeting");
        assert_eq!(secondary_phase(secondary::Phase::Ended(secondary::End::Empty)), "ended");
    }
}
