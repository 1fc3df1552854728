//! Streams by releases.

use crate::common::{fixture, golden};
use crate::{guest_of, on};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use xen_replicate::inspect::fit::releases;

const RELEASES: [&str; 15] = [
    "4.14.0", "4.14.6", "4.15.0", "4.15.7", "4.16.0", "4.16.7", "4.17", "4.18.4", "4.18.5", "4.19.1", "4.19.2",
    "4.20.0", "4.20.1", "4.21", "4.22",
];

/// Each fixture that has a guest, by its path.
fn fixtures() -> Vec<String> {
    let mut all = crate::common::compressed_fixtures();
    for entry in std::fs::read_dir(fixture("inputs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        all.extend(name.strip_suffix(".bin").map(|stem| format!("inputs/{stem}")));
    }
    all.sort();
    all
}

fn path_of(name: &str) -> PathBuf {
    let ending = if name.starts_with("inputs/") { "bin" } else { "xz" };
    fixture(&format!("{name}.{ending}"))
}

#[test]
fn every_fixture_on_every_release_is_golden() {
    let mut all = String::new();
    let mut predictions = 0;
    for name in fixtures() {
        let guest = guest_of(&path_of(&name));
        if !guest.is_whole() {
            continue;
        }
        writeln!(all, "== {name}").unwrap();
        // The same answer for releases next to each other is one paragraph.
        let answers: Vec<_> = RELEASES.iter().map(|release| (release, on(&guest, release))).collect();
        for run in answers.chunk_by(|(_, a), (_, b)| (a.verdict, &a.findings) == (b.verdict, &b.findings)) {
            let names: Vec<_> = run.iter().map(|(release, _)| **release).collect();
            let fit = &run[0].1;
            predictions += run.len();
            writeln!(all, "{}: {}", names.join(" "), fit.verdict).unwrap();
            for found in &fit.findings {
                writeln!(all, "    {}: {}: {}", found.severity, found.part, found.message).unwrap();
            }
        }
    }
    assert!(predictions >= 250, "{predictions}");
    golden(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/fit.txt"), &all);
}

/// What Xen's sources say of the streams that real Xens wrote, all on a processor of AMD's: its leaves 0x8000001d and 0x8000001e are in the way
/// of old updates of 4.14 and 4.15, and the length of the LAPIC entry of 4.20 in the way of all that is older.
#[test]
fn real_streams_fit_as_the_sources_say() {
    let mut paths: Vec<PathBuf> = crate::common::compressed_fixtures()
        .iter()
        .filter(|name| name.starts_with("xen/"))
        .map(|name| path_of(name))
        .collect();
    if let Some(folder) = std::env::var_os("XEN_REPLICATE_STREAMS") {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.extend(entries.filter(|path| path.to_string_lossy().ends_with(".stream.zst")));
    }
    assert!(paths.len() >= 4);
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let guest = guest_of(&path);
        assert!(guest.is_whole(), "{name}");
        let long = name.trim_start_matches("xen").starts_with("4.20") && guest.domain.unwrap().name() == "HVM";
        let found = releases(&guest);
        let expected = if long {
            "Xen 4.21 to 4.22; some updates of 4.18 to 4.20; not 4.14 to 4.17"
        } else {
            "Xen 4.16 to 4.22; some updates of 4.14 to 4.15"
        };
        assert_eq!(found.to_string(), expected, "{name}");
        for release in RELEASES {
            let fit = on(&guest, release);
            let short = ["4.14.6", "4.15.7", "4.16.0", "4.16.7", "4.17", "4.18.4", "4.19.1", "4.20.0"];
            let refused = ["4.14.0", "4.15.0"].contains(&release) || (long && short.contains(&release));
            assert_eq!(fit.fits(), !refused, "{name} on {release}: {fit:?}");
        }
    }
}
