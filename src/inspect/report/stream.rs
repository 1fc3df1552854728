//! A migration stream's page.

use super::page_map::{Grid, PageMap};
use super::records::Records;
use super::state::State;
use super::timeline::Timeline;
use crate::inspect::info::{Info, info_with};
use crate::inspect::input::Input;
use crate::inspect::meter::{Figures, Meter, SAMPLE};
use crate::inspect::progress::Progress;
use crate::inspect::verify::{Finding, Options};
use serde::Serialize;
use std::io;

/// Findings that are on the page.
pub const MAX_FINDINGS: usize = 1000;

/// What a stream's page is made of. Memory: that of [`Meter`], and 16 MiB at most for the rest of real streams.
#[derive(Debug, Serialize)]
pub struct StreamReport {
    /// What `info` says.
    pub info: Info,
    /// The same in words, where a list would be long.
    pub said: Said,
    /// What `verify --all` finds, the errors first: the first [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub findings_left_out: u64,
    /// Sums over the stream.
    pub total: Figures,
    /// Different pfns with contents.
    pub distinct_pages: u64,
    /// Pfns whose contents were sent more than once.
    pub sent_more_than_once: u64,
    /// Pages of which nobody knows whether they were sent before.
    pub untracked: u64,
    /// One page in so many is compressed on trial.
    pub sample: u64,
    /// Passes over memory, one after the other.
    pub timeline: Timeline,
    /// Which pages were sent in which.
    pub map: Grid,
    /// The table of records.
    pub records: Records,
    /// The decoded state.
    pub state: State,
}

/// As `info` prints them.
#[derive(Debug, Default, Serialize)]
pub struct Said {
    /// What the stream is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// What stands where the stream could not be followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<String>,
    /// The releases that take the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fits: Option<String>,
}

/// Reads a stream.
pub(super) fn read(input: Input, options: &Options, progress: &mut Progress) -> io::Result<StreamReport> {
    let mut meter = Meter::default();
    let (mut timeline, mut total) = (Timeline::default(), Figures::default());
    let (mut map, mut records, mut state) = (PageMap::default(), Records::default(), State::default());
    // What a step sent, until it is known which step that is: a step ends before the first page of the next one is shown.
    let (info, mut findings, left_out) = info_with(input, options, true, progress, &mut |item, parsed| {
        let mut ended = 0;
        let mut sent = Vec::new();
        meter.item(
            item,
            parsed,
            &mut |step| {
                total.add(&step.figures);
                timeline.add(step);
                ended += 1;
            },
            &mut |page| sent.extend(page.before.is_some().then_some(page.pfn)),
        );
        (0..ended).for_each(|_| map.next_step());
        sent.into_iter().for_each(|pfn| map.sent(pfn));
        records.add(item, parsed);
        state.item(item, parsed);
    })?;
    let last = meter.finish();
    total.add(&last.figures);
    timeline.add(last);
    records.finish();
    state.finish();
    findings.sort_by_key(|finding| !finding.is_error());
    let more = findings.len().saturating_sub(MAX_FINDINGS);
    findings.truncate(MAX_FINDINGS);
    let said = Said {
        container: info.container.as_ref().map(ToString::to_string),
        foreign: info.foreign.as_ref().map(ToString::to_string),
        fits: info.fits.as_ref().map(ToString::to_string),
    };
    Ok(StreamReport {
        info,
        said,
        findings,
        findings_left_out: left_out + more as u64,
        total,
        distinct_pages: meter.distinct(),
        sent_more_than_once: meter.often(),
        untracked: meter.untracked(),
        sample: SAMPLE,
        map: map.grid(timeline.steps),
        timeline,
        records,
        state,
    })
}
