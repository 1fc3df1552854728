//! One judge for each connection: packets have an order within theirs only.
#![forbid(unsafe_code)]

use super::judge::{Counts, Judge};
use super::seen::{Fault, HostSeen};
use crate::hypervisor::sim::WorkloadPacket;
use std::net::SocketAddr;
use std::time::Duration;

/// The judges, by connection. There is always one.
#[derive(Debug, Default)]
pub struct Judges {
    first: Judge,
    others: Vec<(u8, Judge)>,
}

impl Judges {
    /// Judges a datagram in its connection, see [`Judge::packet`].
    pub fn packet(&mut self, at: Duration, from: SocketAddr, bytes: &[u8]) -> Option<WorkloadPacket> {
        let connection = WorkloadPacket::parse(bytes).map_or(0, |packet| packet.connection);
        self.of(connection).packet(at, from, bytes)
    }

    /// See [`Judge::contradict`].
    pub fn contradict(&mut self, at: Duration, from: SocketAddr, packet: &WorkloadPacket) {
        self.of(packet.connection).contradict(at, from, packet.sequence);
    }

    fn of(&mut self, connection: u8) -> &mut Judge {
        if connection == 0 {
            return &mut self.first;
        }
        let known = self.others.iter().position(|(other, _)| *other == connection);
        let index = known.unwrap_or_else(|| {
            self.others.push((connection, Judge::default()));
            self.others.len() - 1
        });
        // It is there.
        self.others.get_mut(index).map_or(&mut self.first, |(_, judge)| judge)
    }

    fn all(&self) -> impl Iterator<Item = &Judge> {
        std::iter::once(&self.first).chain(self.others.iter().map(|(_, judge)| judge))
    }

    /// The sums; of changes, and of times, the largest.
    pub fn counts(&self) -> Counts {
        self.all().fold(Counts::default(), |sum, judge| {
            let one = judge.counts;
            Counts {
                packets: sum.packets + one.packets,
                foreign: sum.foreign + one.foreign,
                lost: sum.lost + one.lost,
                contradicted: sum.contradicted + one.contradicted,
                interleaved: sum.interleaved + one.interleaved,
                late: sum.late + one.late,
                duplicates: sum.duplicates + one.duplicates,
                unjudged: sum.unjudged + one.unjudged,
                changes: sum.changes.max(one.changes),
                longest_gap: sum.longest_gap.max(one.longest_gap),
                fail_over: sum.fail_over.max(one.fail_over),
            }
        })
    }

    /// Numbers that were not seen, in all connections.
    pub fn missing(&self) -> u64 {
        self.all().map(Judge::missing).sum()
    }

    /// The host that took over last.
    pub fn active(&self) -> Option<SocketAddr> {
        self.all().find_map(Judge::active)
    }

    /// The hosts, in the order in which they were heard first in the first connection that heard any; the numbers are that
    /// connection's, the packets all.
    pub fn hosts(&self) -> Vec<HostSeen> {
        let mut hosts: Vec<HostSeen> = Vec::new();
        for seen in self.all().flat_map(Judge::hosts) {
            match hosts.iter_mut().find(|host| host.address == seen.address) {
                Some(host) => host.packets += seen.packets,
                None => hosts.push(*seen),
            }
        }
        hosts
    }

    /// The first faults of each.
    pub fn faults(&self) -> Vec<Fault> {
        self.all().flat_map(Judge::faults).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::sim::PacketKind;

    #[test]
    fn each_connection_is_judged_for_itself() {
        let mut judges = Judges::default();
        let bytes = |connection, sequence| {
            let step = sequence;
            WorkloadPacket { kind: PacketKind::Echo, connection, sequence, step, sum: 0, payload: vec![] }.emit(0)
        };
        let hosts: Vec<SocketAddr> = ["127.0.0.1:1", "127.0.0.1:2"].map(|host| host.parse().unwrap()).to_vec();
        let at = Duration::from_millis;
        for sequence in 0..9 {
            judges.packet(at(sequence), hosts[0], &bytes(0, sequence)).unwrap();
            judges.packet(at(sequence), hosts[0], &bytes(1, 9 + sequence)).unwrap();
        }
        // The survivor goes on with both, but has lost one answer.
        judges.packet(at(20), hosts[1], &bytes(0, 9)).unwrap();
        judges.packet(at(21), hosts[1], &bytes(1, 17)).unwrap();
        let counts = judges.counts();
        assert_eq!((counts.packets, counts.lost, counts.contradicted, counts.changes), (20, 1, 0, 1));
        let packets: Vec<_> = judges.hosts().iter().map(|host| host.packets).collect();
        assert_eq!((packets, judges.active(), judges.missing()), (vec![18, 2], Some(hosts[1]), 0));
        assert_eq!(judges.faults().len(), 1);
    }
}
