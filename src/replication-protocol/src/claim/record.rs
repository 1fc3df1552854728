//! What the witness keeps of a generation: who holds it.

use super::Generation;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// A host. The identity survives a restart of the host, the name is for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Host {
    /// 32 hexadecimal digits; empty where the host has none.
    pub id: String,
    /// Its node name.
    pub name: String,
}

/// A process, as its own host can find it again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Which boot of the host.
    pub boot: String,
    /// Its number.
    pub pid: i32,
    /// When it began, in clock ticks since that boot. Numbers are used again, pairs of the two are not.
    pub started: u64,
}

/// One generation's record: one line of JSON. What an earlier version wrote lacks the fields from [`Record::host`] on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// The domain's name.
    pub domain: String,
    /// The number.
    pub generation: u64,
    /// The process that acquired it, and no other, past or future: HOST/PID/RANDOM.
    pub holder: String,
    /// When, in seconds since 1970 on the holder's clock; for people.
    pub taken: u64,
    /// The holder's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    /// The holder's process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The domain's UUID; none where its holder has not learnt it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The session that it was acquired in or after, 16 hexadecimal digits; none outside of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

impl Record {
    /// The holder's host by name; an earlier version's record has it in front of [`Record::holder`].
    pub fn host_name(&self) -> &str {
        match &self.host {
            Some(host) => &host.name,
            None => self.holder.split('/').next().unwrap_or_default(),
        }
    }

    /// When it was acquired, by the holder's clock: `2026-11-28 01:40:03 UTC`.
    pub fn taken_text(&self) -> String {
        let (days, second) = (self.taken / 86_400, self.taken % 86_400);
        let (year, month, day) = civil(days);
        format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", second / 3600, second / 60 % 60, second % 60)
    }
}

/// The date of a day since 1970-01-01, by the calendar's rules.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // A clock that is that far off tells nothing anyway.
    days = days.min(2_932_896);
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

/// The newest generation that the witness has given, and to whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Newest {
    /// The number, from 1.
    pub generation: Generation,
    /// Who holds it.
    pub named: Named,
}

/// What a record says of its holder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Named {
    /// It has a holder.
    Holder {
        /// The record.
        record: Box<Record>,
        /// Its process lives on this host, now.
        alive: bool,
    },
    /// It cannot be read as a record of this domain and number.
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_version_wrote_is_read_and_it_reads_ours() {
        let old = r#"{"domain":"web","generation":3,"holder":"hosta/12/00ff","taken":86399}"#;
        let record: Record = serde_json::from_str(old).unwrap();
        assert_eq!((record.host_name(), record.host.is_none(), record.generation), ("hosta", true, 3));
        assert_eq!(serde_json::to_string(&record).unwrap(), old);
        assert_eq!(record.taken_text(), "1970-01-01 23:59:59 UTC");
        let host = Host { id: "ab".into(), name: "hostb".into() };
        let process = Process { boot: "b".into(), pid: 7, started: 9 };
        let ours = Record { host: Some(host), process: Some(process), uuid: Some("u".into()), ..record };
        assert_eq!(ours.host_name(), "hostb");
        let text = serde_json::to_string(&ours).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), ours);
        // Its own four fields are where it looks for them.
        assert!(text.starts_with(&old[..old.len() - 1]), "{text}");
    }

    #[test]
    fn dates_are_the_calendars() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (789, (1972, 2, 29)),
            (11_016, (2000, 2, 29)),
            (20_785, (2026, 11, 28)),
            (u64::MAX, (9999, 12, 31)),
        ] {
            assert_eq!(civil(days), date);
        }
    }
}
