//! What is predicted of a stream on another Xen, held against what Xen's sources say: streams by releases, and each kind of misfit by
//! itself. `XEN_REPLICATE_STREAMS` may name a folder with real streams of 4.14, 4.17 and 4.20 (docs/xen.md).

#[path = "fit/commands.rs"]
mod commands;
mod common;
#[path = "receiver_knowledge/edit.rs"]
#[allow(dead_code)]
mod edit;
#[path = "fit/hosts.rs"]
mod hosts;
#[path = "fit/kinds.rs"]
mod kinds;
#[path = "fit/table.rs"]
mod table;

use std::io::Cursor;
use std::path::Path;
use xen_replicate::inspect::Input;
use xen_replicate::inspect::fit::{Fit, Guest, Target, judge};
use xen_replicate::inspect::progress::Progress;
use xen_replicate::inspect::verify::Options;

/// The guest of a stream.
pub fn guest(stream: &[u8]) -> Guest {
    let input = Input::Compressed(Box::new(Cursor::new(stream.to_vec())));
    Guest::read(input, &Options::default(), &mut Progress::none()).unwrap()
}

/// The guest of a file.
pub fn guest_of(path: &Path) -> Guest {
    Guest::read(Input::open(path).unwrap(), &Options::default(), &mut Progress::none()).unwrap()
}

/// A guest against a release.
pub fn on(guest: &Guest, release: &str) -> Fit {
    judge(guest, &Target::Release(release.parse().unwrap()))
}

/// What is said with a severity.
pub fn said<'a>(fit: &'a Fit, severity: &str) -> Vec<&'a str> {
    fit.findings.iter().filter(|found| found.severity == severity).map(|found| found.message.as_str()).collect()
}
