//! The failure detector of all machines: how long a peer may be silent, and what counts as a sign of its life.
//!
//! A driver keeps no clock of its own and postpones no timer. Before it delivers [`super::Timer::Peer`] it reports what the link
//! shows ([`Liveness::observe`]); the machine decides.

use super::Time;
use core::time::Duration;

/// When the peer gave its last sign of life, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Liveness {
    last: Time,
    /// Bytes of the peer's waited to be read when the driver looked last.
    unread: bool,
}

/// What the time-out's end means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Silence {
    /// The peer counts as lost.
    Lost,
    /// Look again then.
    NotYet(Time),
}

impl Liveness {
    /// How much longer than the time-out a peer may be silent while something of it waits to be read. Bytes that nobody reads
    /// say that their sender lived when it sent them, and no more. So from the last byte of a dead peer to its loss it takes the
    /// time-out and this at the most, whatever hangs on this side.
    pub const SLACK: Duration = Duration::from_secs(1);

    /// Between two looks at what waits.
    const LOOK: Duration = Duration::from_millis(20);

    /// A frame of the peer has come, or the session has begun.
    pub fn heard(&mut self, now: Time) {
        self.last = self.last.max(now);
        self.unread = false;
    }

    /// The driver has looked: the last byte of the peer was read then, and whether more waits.
    pub fn observe(&mut self, read: Time, unread: bool) {
        self.last = self.last.max(read);
        self.unread = unread;
    }

    /// The last sign of life.
    pub const fn last(&self) -> Time {
        self.last
    }

    /// Whether a peer that may be silent for `timeout` is lost.
    pub fn silence(&self, now: Time, timeout: Duration) -> Silence {
        let due = self.last.after(timeout);
        let late = due.after(Self::SLACK);
        if now < due {
            Silence::NotYet(due)
        } else if self.unread && now < late {
            Silence::NotYet(late.min(now.after(Self::LOOK)))
        } else {
            Silence::Lost
        }
    }
}

/// How far a transfer has come, for [`super::Timer::Answer`]: what still moves is not overdue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Progress {
    /// Bytes, when the answer was last waited for.
    before: u64,
    now: u64,
}

impl Progress {
    /// The driver has looked: so many bytes of the session's streams were taken by the link, or came from it.
    pub const fn observe(&mut self, bytes: u64) {
        self.now = bytes;
    }

    /// Whether it has moved since the last time this was asked.
    pub fn moves(&mut self) -> bool {
        core::mem::replace(&mut self.before, self.now) != self.now
    }

    /// A new connection counts from nothing.
    pub const fn restart(&mut self) {
        (self.before, self.now) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    const fn ms(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    #[test]
    fn bytes_that_were_read_count_from_when_they_were() {
        let mut peer = Liveness::default();
        peer.heard(ms(100));
        peer.observe(ms(700), false);
        assert_eq!(peer.silence(ms(1100), TIMEOUT), Silence::NotYet(ms(1700)));
        assert_eq!(peer.silence(ms(1700), TIMEOUT), Silence::Lost);
        // What is observed late takes nothing back.
        peer.observe(ms(200), false);
        assert_eq!(peer.silence(ms(1699), TIMEOUT), Silence::NotYet(ms(1700)));
    }

    #[test]
    fn what_nobody_reads_postpones_the_loss_by_the_slack_and_no_more() {
        let mut peer = Liveness::default();
        peer.heard(ms(0));
        let mut now = ms(1000);
        let mut looks = 0;
        let lost = loop {
            peer.observe(ms(0), true);
            match peer.silence(now, TIMEOUT) {
                Silence::NotYet(at) => {
                    assert!(at > now);
                    now = at;
                    looks += 1;
                }
                Silence::Lost => break now,
            }
        };
        assert_eq!((lost, looks), (ms(2000), 50));
        // Once it is read, the time-out counts again.
        peer.observe(ms(1990), false);
        assert_eq!(peer.silence(ms(2000), TIMEOUT), Silence::NotYet(ms(2990)));
    }

    #[test]
    fn what_stands_still_is_overdue() {
        let mut sent = Progress::default();
        assert!(!sent.moves());
        sent.observe(7);
        assert!(sent.moves());
        assert!(!sent.moves());
        sent.observe(8);
        sent.restart();
        assert!(!sent.moves());
    }
}
