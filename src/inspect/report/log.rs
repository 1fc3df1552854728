//! The page of a log of statuses: what `ctl DOMAIN status --watch --json` prints, one JSON object a line.

use crate::replicate::status::{Loudness, Role, Status, Summary};
use serde::Serialize;
use std::collections::VecDeque;
use std::io::{self, BufRead, Read};

/// Most samples. A power of two; where there are more statuses, of neighbours the later one is kept.
pub const MAX_SAMPLES: usize = 2048;
/// Events that are kept from the start, and as many from the end.
pub const KEPT: usize = 500;
/// The longest line that is read.
const MAX_LINE: u64 = 1 << 20;
/// Milliseconds that the moment of a notice may differ by in two statuses.
const SAME_MOMENT: u64 = 100;
/// Characters of an event.
const MAX_TEXT: usize = 300;

/// What the page of a log is made of.
#[derive(Debug, Default, Serialize)]
pub struct LogReport {
    /// The domain.
    pub domain: String,
    /// Statuses read.
    pub statuses: u64,
    /// Lines that are no status.
    pub bad_lines: u64,
    /// The first of them, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_bad: Option<String>,
    /// Statuses that a sample stands for.
    pub statuses_per_sample: u64,
    /// Times and counters.
    pub samples: Vec<Sample>,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// Events between the first and the last [`KEPT`].
    pub events_left_out: u64,
    /// The last status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Box<Status>>,
    #[serde(skip)]
    later: VecDeque<Event>,
    #[serde(skip)]
    offset: u64,
}

/// A moment. Times in microseconds, counters and summaries since the process began.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// Milliseconds since the log's first process began.
    pub at: u64,
    /// Which process: they are numbered as they come.
    pub process: u64,
    /// Whether another host could go on.
    pub protected: bool,
    /// Milliseconds between two checkpoints.
    pub interval_ms: u64,
    /// Checkpoints acknowledged.
    pub checkpoints: u64,
    /// Dirty pages.
    pub pages: u64,
    /// Bytes of stream.
    pub bytes: u64,
    /// The guest's pauses.
    pub pause: Summary,
    /// Times to send a checkpoint.
    pub transmission: Summary,
    /// Times to the acknowledgement.
    pub acknowledgement: Summary,
    /// Delays of packets.
    pub output_delay: Summary,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Milliseconds since the log's first process began.
    pub at: u64,
    /// How loud.
    pub level: Loudness,
    /// What.
    pub text: String,
}

/// Reads a log.
pub(super) fn read(mut from: impl BufRead) -> io::Result<LogReport> {
    let mut report = LogReport { statuses_per_sample: 1, ..LogReport::default() };
    let mut process = 0;
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        line.clear();
        let got = from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if got == 0 {
            break;
        }
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice::<Status>(&line) {
            Ok(status) => report.status(status, &mut process),
            Err(error) => {
                report.bad_lines += 1;
                report.first_bad.get_or_insert_with(|| format!("line {number}: {error}"));
            }
        }
    }
    report.events.extend(std::mem::take(&mut report.later));
    Ok(report)
}

impl LogReport {
    fn status(&mut self, status: Status, process: &mut u64) {
        let before = self.last.take();
        let restarted = before.as_ref().is_some_and(|before| status.elapsed_ms < before.elapsed_ms);
        if restarted {
            // How long it was gone is not known: its clock goes on where the other's stopped.
            let gone = before.as_ref().map_or(0, |before| before.elapsed_ms);
            self.offset = self.offset.saturating_add(gone);
            *process += 1;
        }
        let at = self.offset.saturating_add(status.elapsed_ms);
        if restarted {
            self.event(self.offset, Loudness::Warning, "another process from here on".into());
        }
        let before = before.filter(|_| !restarted);
        if before.as_ref().is_none_or(|before| (before.role, &before.phase) != (status.role, &status.phase)) {
            let role = if status.role == Role::Primary { "primary" } else { "secondary" };
            self.event(at, Loudness::Info, format!("{role}: {}", status.phase));
        }
        if before.as_ref().is_some_and(|before| before.protected != status.protected) {
            let (level, text) =
                if status.protected { (Loudness::Info, "protected") } else { (Loudness::Critical, "NOT protected") };
            self.event(at, level, text.into());
        }
        if before.as_ref().map(|before| &before.alarm) != Some(&status.alarm)
            && let Some(alarm) = &status.alarm
        {
            self.event(at, Loudness::Critical, alarm.clone());
        }
        for notice in &status.notices {
            self.notice(at.saturating_sub(notice.age_ms), notice.level, &notice.text);
        }
        let figures = &status.statistics;
        let sample = Sample {
            at,
            process: *process,
            protected: status.protected,
            interval_ms: status.interval_ms,
            checkpoints: figures.checkpoints,
            pages: figures.pages,
            bytes: figures.bytes,
            pause: figures.pause,
            transmission: figures.transmission,
            acknowledgement: figures.acknowledgement,
            output_delay: figures.output_delay,
        };
        self.sample(sample);
        if !status.domain.is_empty() {
            self.domain.clone_from(&status.domain);
        }
        self.last = Some(Box::new(status));
    }

    fn sample(&mut self, sample: Sample) {
        let of_group = self.statuses % self.statuses_per_sample;
        self.statuses += 1;
        match self.samples.last_mut() {
            Some(last) if of_group > 0 => *last = sample,
            _ => {
                if self.samples.len() >= MAX_SAMPLES {
                    let mut at = 0;
                    self.samples.retain(|_| {
                        at += 1;
                        at % 2 == 0
                    });
                    self.statuses_per_sample *= 2;
                }
                self.samples.push(sample);
            }
        }
    }

    /// A notice is in as many statuses as it stays among the last ones.
    fn notice(&mut self, at: u64, level: Loudness, text: &str) {
        let text = cut(text);
        let recent =
            self.later.iter().rev().chain(self.events.iter().rev()).take(4 * crate::replicate::status::MAX_NOTICES);
        let mut same = recent.filter(|event| event.text == text && event.level == level);
        if !same.any(|event| event.at.abs_diff(at) <= SAME_MOMENT) {
            self.event(at, level, text);
        }
    }

    fn event(&mut self, at: u64, level: Loudness, text: String) {
        let event = Event { at, level, text: cut(&text) };
        if self.events.len() < KEPT {
            self.events.push(event);
            return;
        }
        self.later.push_back(event);
        if self.later.len() > KEPT {
            self.later.pop_front();
            self.events_left_out += 1;
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replicate::status::Notice;

    fn line(status: &Status) -> String {
        serde_json::to_string(status).unwrap() + "\n"
    }

    #[test]
    fn times_that_no_clock_has_stay_at_the_end_of_time() {
        let log: String = [u64::MAX, 1, 0]
            .map(|elapsed_ms| line(&Status { domain: "web".into(), elapsed_ms, ..Status::default() }))
            .concat();
        let report = read(log.as_bytes()).unwrap();
        assert_eq!(report.statuses, 3);
        assert!(report.events.iter().any(|event| event.at == u64::MAX));
    }

    #[test]
    fn notices_are_told_once_and_changes_are_events() {
        let notice = |age_ms| Notice { age_ms, level: Loudness::Critical, text: "lost".into() };
        let status = |elapsed_ms, protected, notices| Status {
            domain: "web".into(),
            phase: if protected { "protected" } else { "alone" }.into(),
            elapsed_ms,
            protected,
            notices,
            ..Status::default()
        };
        let log = [
            line(&status(1000, true, vec![])),
            line(&status(2000, false, vec![notice(300)])),
            line(&status(3000, false, vec![notice(1301), notice(200)])),
            "no status\n".into(),
            line(&status(500, false, vec![])),
        ];
        let report = read(log.concat().as_bytes()).unwrap();
        assert_eq!((report.statuses, report.bad_lines, &*report.domain), (4, 1, "web"));
        assert!(report.first_bad.unwrap().starts_with("line 4: "));
        let events: Vec<_> = report.events.iter().map(|event| (event.at, &*event.text)).collect();
        assert_eq!(
            events,
            [
                (1000, "primary: protected"),
                (2000, "primary: alone"),
                (2000, "NOT protected"),
                (1700, "lost"),
                (2800, "lost"),
                (3000, "another process from here on"),
                (3500, "primary: alone"),
            ]
        );
        assert_eq!(report.samples.iter().map(|sample| sample.at).collect::<Vec<_>>(), [1000, 2000, 3000, 3500]);
    }

    #[test]
    fn a_long_log_is_kept_within_bounds_with_its_last_status() {
        let mut log = String::new();
        for second in 1..=10_000_u64 {
            let notice = Notice { age_ms: 0, level: Loudness::Info, text: format!("word {second}") };
            log += &line(&Status { elapsed_ms: second * 1000, notices: vec![notice], ..Status::default() });
        }
        let report = read(log.as_bytes()).unwrap();
        assert_eq!((report.statuses, report.statuses_per_sample), (10_000, 8));
        assert_eq!(report.samples.len(), 1250);
        assert_eq!(report.samples.last().unwrap().at, 10_000_000);
        assert!(report.samples.windows(2).all(|pair| pair[1].at - pair[0].at == 8000));
        assert_eq!(report.events.len(), 2 * KEPT);
        assert_eq!(report.events_left_out, 10_001 - 2 * KEPT as u64);
        assert_eq!(report.events.last().unwrap().text, "word 10000");
    }
}
