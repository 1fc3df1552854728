//! Which releases take a guest, in one line.

use super::{Findings, Guest, Target, cpu};
use crate::stream::fit::release::{NEWEST, OLDEST, Release};
use serde::Serialize;
use std::fmt;

/// Releases by what becomes of a guest there. Hosts are not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Releases {
    /// Those that take it.
    pub yes: Vec<String>,
    /// Those of which some updates refuse it.
    pub some_updates: Vec<String>,
    /// Those that refuse it.
    pub no: Vec<String>,
}

/// Holds a guest against every release that is known.
pub fn releases(guest: &Guest) -> Releases {
    let mut all = Releases::default();
    for release in (OLDEST..=NEWEST).map(Release::new) {
        let mut found = Findings::default();
        cpu::judge(guest, &Target::Release(release), Some(release), &mut found);
        let list = if found.0.iter().any(|found| found.severity == "refused") {
            &mut all.no
        } else if found.0.iter().any(|found| found.on_update) {
            &mut all.some_updates
        } else {
            &mut all.yes
        };
        list.push(release.to_string());
    }
    all
}

/// Runs of releases, as `4.14 to 4.17, 4.21`.
fn runs(releases: &[String]) -> String {
    let minors: Vec<u32> = releases.iter().filter_map(|text| Some(text.parse::<Release>().ok()?.minor)).collect();
    let runs = minors.chunk_by(|a, b| a + 1 == *b).filter_map(|run| Some((run.first()?, run.last()?)));
    let text =
        runs.map(|(first, last)| if first == last { format!("4.{first}") } else { format!("4.{first} to 4.{last}") });
    text.collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Releases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("Xen ", &self.yes), ("some updates of ", &self.some_updates), ("not ", &self.no)];
        let parts: Vec<_> = parts
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(what, list)| format!("{what}{}", runs(list)))
            .collect();
        f.write_str(&parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_in_runs() {
        let list = |minors: &[u32]| minors.iter().map(|minor| format!("4.{minor}")).collect::<Vec<_>>();
        let all = Releases { yes: list(&[14, 15, 16, 21]), some_updates: list(&[18]), no: vec![] };
        assert_eq!(all.to_string(), "Xen 4.14 to 4.16, 4.21; some updates of 4.18");
    }
}
