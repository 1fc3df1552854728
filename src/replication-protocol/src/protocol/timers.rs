//! The driver's half of the timers: one deadline for each.

use super::{Time, Timer};

/// A table of deadlines. Machines say [`Timers::set`] and [`Timers::cancel`] by actions; the driver sleeps until
/// [`Timers::next`] and feeds what [`Timers::expired`] gives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Timers {
    deadlines: [Option<Time>; Timer::ALL.len()],
}

impl Timers {
    /// Sets a timer, in place of the deadline it had.
    pub fn set(&mut self, timer: Timer, at: Time) {
        *self.slot(timer) = Some(at);
    }

    /// Unsets a timer.
    pub fn cancel(&mut self, timer: Timer) {
        *self.slot(timer) = None;
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Time> {
        self.deadlines.iter().flatten().min().copied()
    }

    /// Takes the earliest timer whose deadline has come. Call until it gives `None`, with the events that have arrived
    /// handled first: after a pause of this process the peer's frames are there, and only the clock says that it was silent.
    pub fn expired(&mut self, now: Time) -> Option<Timer> {
        let (at, timer) = Timer::ALL
            .iter()
            .filter_map(|&t| self.deadlines[t as usize].map(|at| (at, t)))
            .min()
            .filter(|d| d.0 <= now)?;
        debug_assert!(at <= now);
        self.cancel(timer);
        Some(timer)
    }

    fn slot(&mut self, timer: Timer) -> &mut Option<Time> {
        &mut self.deadlines[timer as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_expires_first_and_once() {
        let mut timers = Timers::default();
        assert_eq!((timers.next(), timers.expired(Time(u64::MAX))), (None, None));
        timers.set(Timer::Peer, Time(30));
        timers.set(Timer::Round, Time(20));
        timers.set(Timer::Heartbeat, Time(50));
        timers.set(Timer::Peer, Time(10));
        assert_eq!(timers.next(), Some(Time(10)));
        assert_eq!(timers.expired(Time(9)), None);
        assert_eq!(timers.expired(Time(40)), Some(Timer::Peer));
        assert_eq!(timers.expired(Time(40)), Some(Timer::Round));
        assert_eq!(timers.expired(Time(40)), None);
        timers.cancel(Timer::Heartbeat);
        assert_eq!(timers.next(), None);
    }
}
