//! What a side can do, under the names of QEMU's micro-checkpointing where that has it, and how each is set.
//!
//! | name | micro-checkpointing's | what it is here | while running |
//! |---|---|---|---|
//! | `mc` | `mc` | `protect`; its delay is the interval | off: `unprotect`; on: `protect`, which names the host |
//! | `mc-net-disable` | `mc-net-disable` | `remus -n -F` | fixed: output is buffered, or not, from the guest's start |
//! | `local-copy` | `mc-rdma-copy` | checkpoints are copied before the guest resumes | fixed: always |
//! | `heartbeat` | `rdma-keepalive` | `--heartbeat`, `--timeout` | fixed: always |
//!
//! The others have no counterpart there, and none of them can be off: without them it is `remus --allow-bare`.
//!
//! Source: the micro-checkpointing patches sent to QEMU's list in 2014, `docs/mc.txt`.
#![forbid(unsafe_code)]

use crate::remus::wire::Capabilities;
use serde::{Deserialize, Serialize};

/// Something that a side can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// Its name.
    pub name: String,
    /// Its name in micro-checkpointing, where that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mc_name: Option<String>,
    /// Whether this side offers it to its peers.
    pub offered: bool,
    /// Whether the session in use has it. False without a session.
    pub in_use: bool,
    /// What sets it.
    pub option: String,
    /// What it is, for a person to read.
    pub meaning: String,
}

/// What is to be done to set a capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// Nothing: it is so.
    Already,
    /// Protection is to be given up.
    Unprotect,
    /// It cannot be done while running; why, and what can.
    Fixed(String),
    /// No capability has that name.
    Unknown(String),
}

struct Row {
    bit: Capabilities,
    mc_name: Option<&'static str>,
    option: &'static str,
    meaning: &'static str,
    /// Why it cannot be set while running, and what can be done instead.
    fixed: &'static str,
}

const ALWAYS: &str = "always there between two of ours; without it: remus --allow-bare, with Xen's own receiver";

/// In the order of their bits in HELLO.
const ROWS: [Row; 7] = [
    Row {
        bit: Capabilities::MC,
        mc_name: Some("mc"),
        option: "protect, unprotect, set-interval",
        meaning: "checkpoints without end, at an interval that can be changed while running",
        fixed: "protect HOST begins it: it needs a host to go to",
    },
    Row {
        bit: Capabilities::NET_DISABLE,
        mc_name: Some("mc-net-disable"),
        option: "remus -n -F",
        meaning: "output is not held: inconsistent after a fail-over, for measurements only",
        fixed: "the guest's output is given its buffer, or none, when protection starts: remus -n -F",
    },
    Row {
        bit: Capabilities::LOCAL_COPY,
        mc_name: Some("mc-rdma-copy"),
        option: "remus --staging-limit",
        meaning: "dirty pages are copied first, and sent while the guest runs again",
        fixed: "every checkpoint is copied before the guest resumes; --staging-limit bounds the memory",
    },
    Row {
        bit: Capabilities::HEARTBEAT,
        mc_name: Some("rdma-keepalive"),
        option: "--heartbeat, --timeout",
        meaning: "signs of life both ways, also in the middle of a checkpoint",
        fixed: "without it a dead peer would not be noticed; for debugging start both sides with a long --timeout",
    },
    Row {
        bit: Capabilities::CHECKPOINT_ACK,
        mc_name: None,
        option: "remus --allow-bare",
        meaning: "output leaves when the other side has said that it has the state behind it",
        fixed: ALWAYS,
    },
    Row {
        bit: Capabilities::CHECKSUM,
        mc_name: None,
        option: "remus --allow-bare",
        meaning: "damage to a checkpoint is found, and is no reason to fail over",
        fixed: ALWAYS,
    },
    Row {
        bit: Capabilities::GENERATION,
        mc_name: None,
        option: "remus --allow-bare",
        meaning: "a fencing number: of two copies one at most may go on",
        fixed: ALWAYS,
    },
];

impl Row {
    fn name(&self) -> String {
        self.bit.names().collect()
    }
}

impl Capability {
    /// All there are.
    pub fn list(offered: Capabilities, in_use: Capabilities) -> Vec<Capability> {
        let entry = |row: &Row| Capability {
            name: row.name(),
            mc_name: row.mc_name.map(Into::into),
            offered: offered.contains(row.bit),
            in_use: in_use.contains(row.bit),
            option: row.option.into(),
            meaning: row.meaning.into(),
        };
        ROWS.iter().map(entry).collect()
    }

    /// What it takes to set one, by either of its names. `mc` is on while there is a session, the others if they are offered.
    pub fn set(name: &str, on: bool, offered: Capabilities, in_use: Capabilities) -> Setting {
        let Some(row) = ROWS.iter().find(|row| row.mc_name == Some(name) || row.name() == name) else {
            let names: Vec<_> = ROWS.iter().flat_map(|row| [Some(row.name()), row.mc_name.map(Into::into)]).collect();
            let mut names: Vec<String> = names.into_iter().flatten().collect();
            names.dedup();
            return Setting::Unknown(format!("no capability {name:?}: there are {}", names.join(", ")));
        };
        let mc = row.bit == Capabilities::MC;
        let is_on = if mc { in_use.contains(row.bit) } else { offered.contains(row.bit) };
        if is_on == on {
            return Setting::Already;
        }
        if mc && !on {
            return Setting::Unprotect;
        }
        let word = if on { "on" } else { "off" };
        Setting::Fixed(format!("{name} cannot be switched {word} while running: {}", row.fixed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_a_line() {
        let list = Capability::list(Capabilities::OFFERED, Capabilities::BARE);
        let names: Vec<&str> = list.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, Capabilities::all().names().collect::<Vec<_>>());
        let some = |pick: fn(&Capability) -> bool| {
            list.iter().filter(|c| pick(c)).map(|c| c.name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(some(|c| !c.offered), ["mc-net-disable"]);
        assert_eq!(some(|c| c.in_use), ["mc"]);
        let mc: Vec<_> = list.iter().filter_map(|c| c.mc_name.as_deref()).collect();
        assert_eq!(mc, ["mc", "mc-net-disable", "mc-rdma-copy", "rdma-keepalive"]);
    }

    #[test]
    fn each_is_set_by_either_name_or_says_why_not() {
        let (offered, none) = (Capabilities::OFFERED, Capabilities::empty());
        let set = |name, on| Capability::set(name, on, offered, offered);
        assert_eq!(set("mc", true), Setting::Already);
        assert_eq!(set("mc", false), Setting::Unprotect);
        assert_eq!(Capability::set("mc", false, offered, none), Setting::Already);
        for (name, on, part) in [
            ("mc-net-disable", true, "remus -n -F"),
            ("mc-rdma-copy", false, "--staging-limit"),
            ("local-copy", false, "local-copy cannot be switched off while running"),
            ("rdma-keepalive", false, "--timeout"),
            ("heartbeat", false, "dead peer"),
            ("checksum", false, "--allow-bare"),
        ] {
            assert_eq!(set(name, !on), Setting::Already, "{name}");
            let Setting::Fixed(text) = set(name, on) else { panic!("{name}") };
            assert!(text.contains(part), "{text}");
        }
        let Setting::Fixed(text) = Capability::set("mc", true, offered, none) else { panic!("no host is known") };
        assert!(text.contains("protect HOST"), "{text}");
        let Setting::Unknown(text) = set("mc-zero", true) else { panic!("it is not known") };
        assert!(text.contains("mc-zero") && text.contains("mc, mc-net-disable, local-copy, mc-rdma-copy"), "{text}");
    }
}
