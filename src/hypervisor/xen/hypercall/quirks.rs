//! What differs from one Xen to another as far as this program can see it, each with its source in xen.git.
//!
//! | since | what | source |
//! |---|---|---|
//! | each release | the version of the domctl interface | `XEN_DOMCTL_INTERFACE_VERSION` of `xen/include/public/domctl.h` |
//! | 4.16 | [`DomainInfo`](super::abi::DomainInfo) has 112 bytes instead of 104; what is read of it lies at the same offsets | the same header |
//! | [`LAPIC_ESR`] | a LAPIC entry of the HVM context has 32 bytes (`pending_esr`) instead of 24; a longer one than its own is refused by every Xen | `struct hvm_hw_lapic` of `hvm/save.h` |
//! | 4.19.5, 4.20.3, 4.21.1, 4.22 | pages that are added to a translated guest's p2m are in its dirty log | commit 98fccdf0ac, `docs/features/migration.pandoc` |
//! | 4.21 | a restored console page begins with `connection = XENCONSOLE_DISCONNECTED` instead of zeros | `tools/libs/guest/xg_sr_restore_x86_hvm.c` |
//! | 4.21 | a domctl of version 0 is taken of operations that are declared stable; this program uses none of them | `xen/common/domctl.c` |
//!
//! `XENVER_version` tells the release, `XENVER_extraversion` its update ([`update_of`]). Where that is not told in a form that is known, a
//! release counts as its first.
#![forbid(unsafe_code)]

use crate::hypervisor::types::XenVersion;
use crate::stream::fit::release::{LAPIC_ESR, LAPIC_LENGTHS, Release};

/// The version of Xen 4.14's domctls, the oldest that is known.
pub const OLDEST_DOMCTL: u32 = 0x12;

/// Each release, with the version of its domctls.
const RELEASES: [(XenVersion, u32); 9] = [
    (xen(14), 0x12),
    (xen(15), 0x13),
    (xen(16), 0x14),
    (xen(17), 0x15),
    (xen(18), 0x16),
    (xen(19), 0x17),
    (xen(20), 0x17),
    (xen(21), 0x17),
    (xen(22), 0x18),
];

/// Updates from which on pages that are added to a p2m are in the dirty log.
const LOGS_ADDITIONS: [(XenVersion, u32); 3] = [(xen(19), 5), (xen(20), 3), (xen(21), 1)];

const fn xen(minor: u32) -> XenVersion {
    XenVersion { major: 4, minor }
}

/// The newest release that this program knows.
pub const NEWEST: XenVersion = xen(22);

/// The version of a release's domctls, where it is known.
pub fn domctl_of(version: XenVersion) -> Option<u32> {
    RELEASES.iter().find(|(release, _)| *release == version).map(|&(_, domctl)| domctl)
}

/// The version of a release's sysctls, where it is known.
///
/// Source: `XEN_SYSCTL_INTERFACE_VERSION` of `xen/include/public/sysctl.h`.
pub const fn sysctl_of(version: XenVersion) -> Option<u32> {
    match (version.major, version.minor) {
        (4, 14 | 15) => Some(0x13),
        (4, 16) => Some(0x14),
        (4, 17..=20) => Some(0x15),
        (4, 21 | 22) => Some(0x16),
        _ => None,
    }
}

/// The update of a release by its `XENVER_extraversion`: `.4`, or what a builder has made of that. One that is under way (`.5-pre`, `.5-rc1`)
/// counts as the one before. 0 where it says nothing of that kind.
pub fn update_of(extra: &str) -> u32 {
    let Some(extra) = extra.strip_prefix('.') else { return 0 };
    let digits = extra.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(extra.len());
    let (number, rest) = extra.split_at(digits);
    let number: u32 = number.parse().unwrap_or(0);
    if rest.starts_with("-pre") || rest.starts_with("-rc") { number.saturating_sub(1) } else { number }
}

/// What a Xen is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirks {
    /// Bytes of a LAPIC entry in its HVM contexts.
    pub lapic: usize,
    /// Whether its dirty log has the pages that are added to a translated guest's p2m.
    pub logs_p2m_additions: bool,
    /// Whether its own restorer begins a console page with the word for "disconnected".
    pub disconnected_console: bool,
    /// Whether it is newer than all that is known here, or has domctls that its release is not known to have.
    pub unknown: bool,
}

impl Quirks {
    /// Those of an update of a release with this version of domctls.
    pub fn of(version: XenVersion, update: u32, domctl: u32) -> Self {
        let longer =
            version.major > 4 || LAPIC_ESR.is_in(Release { minor: version.minor, update: Some(update) }) == Some(true);
        Quirks {
            lapic: if longer { LAPIC_LENGTHS.1 } else { LAPIC_LENGTHS.0 },
            logs_p2m_additions: version >= xen(22)
                || LOGS_ADDITIONS.iter().any(|&(release, first)| version == release && update >= first),
            disconnected_console: version >= xen(21),
            unknown: domctl_of(version) != Some(domctl),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_releases_are_in_order_and_end_with_the_newest() {
        assert!(RELEASES.is_sorted());
        assert_eq!(RELEASES[0].1, OLDEST_DOMCTL);
        assert_eq!(RELEASES[RELEASES.len() - 1].0, NEWEST);
    }

    #[test]
    fn every_release_has_a_version_of_sysctls() {
        assert!(RELEASES.iter().all(|(release, _)| sysctl_of(*release).is_some()));
        assert_eq!(sysctl_of(xen(23)), None);
    }

    #[test]
    fn what_is_newer_or_otherwise_than_known_is_unknown() {
        assert!(!Quirks::of(xen(17), 0, 0x15).unknown && !Quirks::of(xen(21), 0, 0x17).unknown);
        for (version, domctl) in
            [(xen(23), 0x18), (xen(17), 0x16), (xen(13), 0x12), (XenVersion { major: 5, minor: 0 }, 0x18)]
        {
            assert!(Quirks::of(version, 0, domctl).unknown, "{version}");
        }
    }

    #[test]
    fn quirks_begin_with_the_releases_of_the_table() {
        assert_eq!([17, 18, 20, 21].map(|minor| Quirks::of(xen(minor), 0, 0).lapic), [24, 24, 24, 32]);
        assert_eq!(
            [(17, 9), (18, 4), (18, 5), (20, 1)].map(|(minor, update)| Quirks::of(xen(minor), update, 0).lapic),
            [24, 24, 32, 32]
        );
        assert_eq!([20, 21, 22].map(|minor| Quirks::of(xen(minor), 0, 0).disconnected_console), [false, true, true]);
        assert_eq!([17, 21, 22].map(|minor| Quirks::of(xen(minor), 0, 0).logs_p2m_additions), [false, false, true]);
    }

    #[test]
    fn a_fix_that_came_with_an_update_is_in_it_and_in_later_ones() {
        let logs = |minor, extra| Quirks::of(xen(minor), update_of(extra), 0).logs_p2m_additions;
        for (minor, extra) in
            [(19, ".5"), (19, ".6"), (20, ".3"), (20, ".4"), (20, ".5-pre"), (20, ".4-pre"), (20, ".10"), (21, ".1")]
        {
            assert!(logs(minor, extra), "4.{minor}{extra}");
        }
        for (minor, extra) in [
            (17, ".7"),
            (18, ".6"),
            (19, ".4"),
            (19, ".5-pre"),
            (20, ".2"),
            (20, ".3-rc1"),
            (20, ".3-pre"),
            (21, ".0"),
            (20, "-rc"),
            (20, ""),
            (20, "4"),
            (20, ".x4"),
            (20, ".99999999999"),
        ] {
            assert!(!logs(minor, extra), "4.{minor}{extra}");
        }
    }
}
