//! What is worth copying before a running guest is suspended, and how much of it fits into memory of our own.
//!
//! | pages written since the round before | [`CopyAhead::before_suspend`] |
//! |---|---|
//! | fewer than `least` | [`Ahead::Wait`]: they are copied while the guest is suspended |
//! | `least` to `most` | [`Ahead::Stage`]: they are copied while it runs, what it writes meanwhile once more |
//! | more than `most` | [`Ahead::Wait`]: they do not fit the copy, and what was written to the stream now could be in it once more |
//!
//! Once the guest is suspended, [`CopyAhead::fits`] says whether the round is copied, so that the guest runs on while it is
//! written, or written from the guest's memory while the guest waits.
#![forbid(unsafe_code)]

use crate::hypervisor::PAGE_SIZE;

/// When to copy a round ahead. Where each driver's figures come from is said at its constructor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyAhead {
    least: u64,
    most: u64,
}

/// What to do with the pages that a running guest has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// Leave them until the guest is suspended.
    Wait,
    /// Copy them now.
    Stage,
}

impl CopyAhead {
    /// For a driver that decides when to suspend: `bytes` is the limit that its operator gives the copy. Fewer than 4096 dirty
    /// pages are copied while the guest is suspended, which takes some milliseconds: to copy them twice would cost short intervals
    /// more than it is worth.
    pub const fn of_interval(bytes: u64) -> Self {
        CopyAhead { least: 4096, most: bytes / PAGE_SIZE as u64 }
    }

    /// For a save helper, which libxl lets wait for the interval before it asks for the next checkpoint: most pages are written by
    /// then, and to copy them ahead delays nothing. Fewer than 256 are not worth a look at the log of their own. At most 256 MiB,
    /// for libxl has no option for it.
    pub const fn of_helper() -> Self {
        CopyAhead { least: 256, most: 1 << 16 }
    }

    /// A policy of the caller's own: `least` to `most` pages are copied ahead.
    pub const fn new(least: u64, most: u64) -> Self {
        CopyAhead { least, most }
    }

    /// The most pages that a copy may have.
    pub const fn most(self) -> u64 {
        self.most
    }

    /// What to do with `written` pages before the guest is suspended.
    pub const fn before_suspend(self, written: u64) -> Ahead {
        if written >= self.least && self.fits(written) { Ahead::Stage } else { Ahead::Wait }
    }

    /// Whether a round of so many pages is copied.
    pub const fn fits(self, pages: u64) -> bool {
        pages <= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_belongs_to_the_copy() {
        let policy = CopyAhead::of_interval(5000 * PAGE_SIZE as u64 + 1);
        let cases = [
            (0, Ahead::Wait),
            (4095, Ahead::Wait),
            (4096, Ahead::Stage),
            (5000, Ahead::Stage),
            (5001, Ahead::Wait),
            (u64::MAX, Ahead::Wait),
        ];
        for (pages, expected) in cases {
            assert_eq!(policy.before_suspend(pages), expected, "{pages} pages");
        }
        assert!(policy.fits(5000) && !policy.fits(5001));
    }

    /// Few pages are left for the pause whatever the limit, and a limit below that many is kept for the pause itself.
    #[test]
    fn a_small_limit_copies_nothing_ahead() {
        let policy = CopyAhead::of_interval(100 * PAGE_SIZE as u64);
        assert_eq!(policy.before_suspend(4095), Ahead::Wait);
        assert_eq!(policy.before_suspend(4096), Ahead::Wait);
        assert!(policy.fits(100) && !policy.fits(101));
    }
}
