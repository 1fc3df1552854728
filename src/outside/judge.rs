//! Judges packets: is what comes from outside one history of one guest?
//!
//! A guest gives each number to one packet, and its steps only go up. Whoever survives must know everything that was let out before:
//! the first number that it gives is higher than all that were seen. From then on the other host must say nothing new that lies
//! behind this point. Lower numbers that it let out in time may still come in late.
//!
//! The time of a host between its takeover and the next one's is its tenure. It begins with the lowest number heard in it, so
//! the judge is as strict as the network is complete: where the first packets of a survivor do not reach the client, a packet of the
//! other host that lies in between passes for a late one. Hosts are told apart by address: two that share one cannot be.
//!
//! Memory is bounded: the highest [`WINDOW`] numbers are remembered, [`HOSTS`] hosts, [`TENURES`] tenures, [`FAULTS`] faults.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::seen::{Fault, HostSeen, Verdict};
use crate::hypervisor::sim::WorkloadPacket;

/// Sequence numbers that are remembered, each in about 50 bytes.
pub const WINDOW: usize = 1 << 20;
/// Hosts that are told apart.
pub const HOSTS: usize = 64;
/// Tenures that are remembered.
pub const TENURES: usize = 64;
/// Faults that are kept with their particulars; all are counted.
pub const FAULTS: usize = 16;

/// The judge. It has no clock: times are passed in, and must not go down.
#[derive(Debug)]
pub struct Judge {
    window: BTreeMap<u64, Mark>,
    /// How many numbers are remembered.
    limit: usize,
    /// Numbers below have left the window.
    floor: u64,
    /// Lowest and highest number, and how many different ones.
    extent: Option<(u64, u64)>,
    distinct: u64,
    hosts: Vec<HostSeen>,
    tenures: VecDeque<Tenure>,
    last_at: Option<Duration>,
    /// What was counted. Read it at any time.
    pub counts: Counts,
    faults: Vec<Fault>,
}

/// What a judge has counted; the fields are those of [`super::Seen`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "they are those of Seen")]
pub struct Counts {
    pub packets: u64,
    pub foreign: u64,
    pub lost: u64,
    pub contradicted: u64,
    pub interleaved: u64,
    pub late: u64,
    pub duplicates: u64,
    pub unjudged: u64,
    pub changes: u64,
    pub longest_gap: Duration,
    pub fail_over: Option<Duration>,
}

/// A packet, remembered.
#[derive(Debug, Clone, Copy)]
struct Mark {
    hash: u64,
    step: u64,
    sum: u64,
    host: usize,
}

#[derive(Debug, Clone, Copy)]
struct Tenure {
    host: usize,
    /// The lowest number heard in it.
    start: u64,
}

/// Where a packet belongs.
enum Place {
    /// A host takes over with it.
    Takeover,
    /// To the present tenure.
    Present,
    /// To a tenure that is over, before its end.
    Past,
    /// To a tenure that is over, after its end.
    PastItsEnd,
}

impl Default for Judge {
    fn default() -> Self {
        Judge::new(WINDOW)
    }
}

impl Judge {
    /// A judge that remembers so many numbers.
    pub fn new(window: usize) -> Self {
        Judge {
            window: BTreeMap::new(),
            limit: window,
            floor: 0,
            extent: None,
            distinct: 0,
            hosts: Vec::new(),
            tenures: VecDeque::new(),
            last_at: None,
            counts: Counts::default(),
            faults: Vec::new(),
        }
    }

    /// Judges a datagram. Returns the guest's packet; `None` for one that is foreign.
    pub fn packet(&mut self, at: Duration, from: SocketAddr, bytes: &[u8]) -> Option<WorkloadPacket> {
        let (Some(packet), Some(host)) = (WorkloadPacket::parse(bytes), self.host(from)) else {
            self.counts.foreign += 1;
            return None;
        };
        let sequence = packet.sequence;
        self.counts.packets += 1;
        let gap = self.last_at.replace(at).map(|last| at.saturating_sub(last));
        self.counts.longest_gap = self.counts.longest_gap.max(gap.unwrap_or_default());
        if let Some(seen) = self.hosts.get_mut(host) {
            seen.packets += 1;
            (seen.first, seen.last) = (seen.first.min(sequence), seen.last.max(sequence));
        }
        let mark = Mark { hash: xxh3_64(bytes), step: packet.step, sum: packet.sum, host };
        let before = self.window.get(&sequence).copied();
        if before.is_some_and(|before| (before.hash, before.host) == (mark.hash, host)) {
            self.counts.duplicates += 1;
            return Some(packet);
        }
        let fault = |verdict| Fault { verdict, sequence, host: from, at_ns: nanoseconds(at) };
        let lost = match self.place(host, sequence) {
            Place::Takeover => self.take_over(host, sequence, gap),
            Place::Present => self.lower_start(sequence),
            Place::Past => {
                self.counts.late += 1;
                0
            }
            Place::PastItsEnd => {
                self.counts.interleaved += 1;
                self.note(fault(Verdict::Interleaved));
                0
            }
        };
        if lost > 0 {
            self.counts.lost += lost;
            self.note(fault(Verdict::Lost));
        }
        if sequence < self.floor {
            self.counts.unjudged += 1;
        } else if before.map_or_else(|| self.out_of_order(sequence, mark), |before| before.hash != mark.hash) {
            self.counts.contradicted += 1;
            self.note(fault(Verdict::Contradicted));
        }
        if before.is_none() && sequence >= self.floor {
            self.remember(sequence, mark);
        }
        Some(packet)
    }

    /// Counts a packet that [`Judge::packet`] has returned as contradicted, for what only the asker knows: it answers what was not
    /// asked.
    pub fn contradict(&mut self, at: Duration, from: SocketAddr, sequence: u64) {
        self.counts.contradicted += 1;
        self.note(Fault { verdict: Verdict::Contradicted, sequence, host: from, at_ns: nanoseconds(at) });
    }

    /// The hosts, in the order in which they were heard first.
    pub fn hosts(&self) -> &[HostSeen] {
        &self.hosts
    }

    /// The host that took over last.
    pub fn active(&self) -> Option<SocketAddr> {
        Some(self.hosts.get(self.tenures.back()?.host)?.address)
    }

    /// The first faults.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Numbers between the lowest and the highest seen that were not seen.
    pub fn missing(&self) -> u64 {
        self.extent.map_or(0, |(low, high)| (high - low).saturating_add(1).saturating_sub(self.distinct))
    }

    fn host(&mut self, address: SocketAddr) -> Option<usize> {
        let known = self.hosts.iter().position(|host| host.address == address);
        if known.is_none() && self.hosts.len() < HOSTS {
            self.hosts.push(HostSeen { address, packets: 0, first: u64::MAX, last: 0 });
            return Some(self.hosts.len() - 1);
        }
        known
    }

    fn place(&self, host: usize, sequence: u64) -> Place {
        let highest = self.extent.map_or(0, |(_, high)| high);
        // Back to front: the successor of a tenure comes before it.
        let mut successor: Option<Tenure> = None;
        let mut over = false;
        for &tenure in self.tenures.iter().rev() {
            if tenure.host == host {
                match successor {
                    None if sequence >= tenure.start => return Place::Present,
                    // The present tenure, unless it belongs to an earlier one.
                    None => {}
                    Some(next) if sequence < next.start => return Place::Past,
                    Some(_) => over = true,
                }
                if over {
                    break;
                }
            }
            successor = Some(tenure);
        }
        let present = self.tenures.back().is_some_and(|tenure| tenure.host == host);
        match (present, over) {
            (true, _) => Place::Present,
            (false, true) if sequence <= highest => Place::PastItsEnd,
            (false, _) => Place::Takeover,
        }
    }

    /// Begins a tenure. Returns how many outputs the host does not know of.
    fn take_over(&mut self, host: usize, start: u64, gap: Option<Duration>) -> u64 {
        if !self.tenures.is_empty() {
            self.counts.changes += 1;
            self.counts.fail_over = self.counts.fail_over.max(gap);
        }
        if self.tenures.len() >= TENURES {
            self.tenures.pop_front();
        }
        self.tenures.push_back(Tenure { host, start });
        self.window.range(start..).count() as u64
    }

    /// Moves the start of the present tenure down where the packets of a takeover came in another order. Returns how many more
    /// outputs the host does not know of.
    fn lower_start(&mut self, sequence: u64) -> u64 {
        let Some(tenure) = self.tenures.back_mut() else {
            return 0;
        };
        if sequence >= tenure.start {
            return 0;
        }
        let range = sequence..std::mem::replace(&mut tenure.start, sequence);
        let host = tenure.host;
        self.window.range(range).filter(|(_, mark)| mark.host != host).count() as u64
    }

    /// Whether a new packet does not fit between those before and after it.
    fn out_of_order(&self, sequence: u64, mark: Mark) -> bool {
        let fits = |early: Mark, late: Mark| early.step < late.step || (early.step, early.sum) == (late.step, late.sum);
        let before = self.window.range(..sequence).next_back();
        let after = self.window.range(sequence..).next();
        before.is_some_and(|(_, &before)| !fits(before, mark)) || after.is_some_and(|(_, &after)| !fits(mark, after))
    }

    fn remember(&mut self, sequence: u64, mark: Mark) {
        self.window.insert(sequence, mark);
        self.distinct += 1;
        let (low, high) = self.extent.unwrap_or((sequence, sequence));
        self.extent = Some((low.min(sequence), high.max(sequence)));
        if self.window.len() > self.limit
            && let Some((oldest, _)) = self.window.pop_first()
        {
            self.floor = oldest.saturating_add(1);
        }
    }

    fn note(&mut self, fault: Fault) {
        if self.faults.len() < FAULTS {
            self.faults.push(fault);
        }
    }
}

#[cfg(test)]
mod tests;

/// A time in nanoseconds, as far as 64 bits go.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
