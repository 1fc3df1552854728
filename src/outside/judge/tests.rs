//! Made-up histories, each with the verdict that it deserves.

use super::*;
use crate::hypervisor::sim::PacketKind;
use proptest::prelude::*;

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 7))
}

/// The packet that a guest sends under this number in the history of this name. All begin alike.
fn bytes(sequence: u64, history: u64) -> Vec<u8> {
    let (step, sum) = (sequence * 10, sequence << 8 | history);
    WorkloadPacket { kind: PacketKind::Beacon, connection: 0, sequence, step, sum, payload: Vec::new() }.emit(64)
}

struct Court {
    judge: Judge,
    now: Duration,
}

impl Court {
    fn new() -> Self {
        Court { judge: Judge::default(), now: Duration::ZERO }
    }

    fn hear_bytes(&mut self, host: u8, bytes: &[u8]) {
        self.now += Duration::from_millis(1);
        self.judge.packet(self.now, address(host), bytes);
    }

    fn hear(mut self, host: u8, sequences: impl IntoIterator<Item = u64>) -> Self {
        for sequence in sequences {
            self.hear_bytes(host, &bytes(sequence, 0));
        }
        self
    }

    fn hear_other(mut self, host: u8, sequences: impl IntoIterator<Item = u64>) -> Self {
        for sequence in sequences {
            self.hear_bytes(host, &bytes(sequence, 1));
        }
        self
    }

    fn wait(mut self, ms: u64) -> Self {
        self.now += Duration::from_millis(ms);
        self
    }

    /// Lost, contradicted, interleaved, late, duplicates.
    fn verdict(&self) -> [u64; 5] {
        let Counts { lost, contradicted, interleaved, late, duplicates, .. } = self.judge.counts;
        [lost, contradicted, interleaved, late, duplicates]
    }
}

#[test]
fn a_clean_failover_is_sound_and_timed() {
    let court = Court::new().hear(1, 0..100).wait(250).hear(2, 100..200);
    assert_eq!(court.verdict(), [0; 5]);
    let counts = court.judge.counts;
    assert_eq!((counts.packets, counts.changes), (200, 1));
    assert_eq!(counts.fail_over, Some(Duration::from_millis(251)));
    assert_eq!(counts.longest_gap, Duration::from_millis(251));
    assert_eq!(court.judge.active(), Some(address(2)));
    assert_eq!(court.judge.hosts()[0], HostSeen { address: address(1), packets: 100, first: 0, last: 99 });
    assert_eq!((court.judge.missing(), court.judge.faults()), (0, [].as_slice()));
}

#[test]
fn outputs_lost_on_the_way_are_missing_and_no_fault() {
    let court = Court::new().hear(1, [0, 1, 4, 5]).hear(2, [9, 10]);
    assert_eq!((court.verdict(), court.judge.missing()), ([0; 5], 5));
}

#[test]
fn a_survivor_that_goes_on_from_an_older_state_has_lost_what_was_seen() {
    let court = Court::new().hear(1, 0..100).hear(2, 97..120);
    assert_eq!(court.verdict(), [3, 0, 0, 0, 0]);
    let fault = court.judge.faults()[0];
    assert_eq!((fault.verdict, fault.sequence, fault.host), (Verdict::Lost, 97, address(2)));
    let court = Court::new().hear(1, 0..100).hear_other(2, 98..120);
    assert_eq!(court.verdict(), [2, 2, 0, 0, 0]);
}

#[test]
fn a_number_with_other_contents_contradicts_from_whichever_host() {
    assert_eq!(Court::new().hear(1, 0..10).hear_other(1, [4]).verdict(), [0, 1, 0, 0, 0]);
    assert_eq!(Court::new().hear(1, 0..10).hear(2, 10..12).hear_other(1, [5]).verdict(), [0, 1, 0, 1, 0]);
    let mut court = Court::new().hear(1, [3]);
    let echo = WorkloadPacket { payload: b"?".to_vec(), ..WorkloadPacket::parse(&bytes(3, 0)).unwrap() };
    court.hear_bytes(1, &echo.emit(0));
    assert_eq!(court.verdict(), [0, 1, 0, 0, 0]);
}

#[test]
fn later_numbers_must_not_have_done_less_or_something_else() {
    let packet = |sequence, step, sum| {
        WorkloadPacket { kind: PacketKind::Beacon, connection: 0, sequence, step, sum, payload: Vec::new() }.emit(0)
    };
    let contradicted = |packets: &[(u64, u64, u64)]| {
        let mut court = Court::new();
        packets.iter().for_each(|&(sequence, step, sum)| court.hear_bytes(1, &packet(sequence, step, sum)));
        court.judge.counts.contradicted
    };
    assert_eq!(contradicted(&[(1, 10, 5), (2, 10, 5), (3, 20, 6)]), 0);
    assert_eq!(contradicted(&[(1, 10, 5), (2, 9, 4)]), 1);
    assert_eq!(contradicted(&[(1, 10, 5), (2, 10, 6)]), 1);
    assert_eq!(contradicted(&[(5, 50, 5), (7, 70, 7), (6, 80, 6)]), 1);
    assert_eq!(contradicted(&[(5, 50, 5), (7, 70, 7), (6, 60, 6)]), 0);
}

#[test]
fn an_old_primary_that_still_speaks_is_interleaved() {
    let court = Court::new().hear(1, 0..100).hear(2, 100..110).hear(1, [100, 105]);
    assert_eq!(court.verdict(), [0, 0, 2, 0, 0]);
    let court = Court::new().hear(1, 0..100).hear(2, 100..110).hear_other(1, [105]).hear(2, [110]);
    assert_eq!(court.verdict(), [0, 1, 1, 0, 0]);
    // It runs ahead of the survivor, which then says what it has said.
    let court = Court::new().hear(1, 0..100).hear(2, [100]).hear(1, [101, 102]).hear(2, [101, 102]);
    assert_eq!(court.judge.faults()[0].verdict, Verdict::Interleaved);
    assert_eq!(court.judge.counts.interleaved, 2);
}

#[test]
fn what_comes_late_or_twice_is_counted_and_no_fault() {
    let court = Court::new().hear(1, (0..100).filter(|s| *s != 98)).hear(2, 100..110).hear(1, [98, 99]).hear(2, [109]);
    assert_eq!(court.verdict(), [0, 0, 0, 1, 2]);
    assert_eq!(court.judge.active(), Some(address(2)));
}

#[test]
fn the_first_packets_of_a_survivor_may_come_in_another_order() {
    assert_eq!(Court::new().hear(1, 0..100).hear(2, [102, 100, 101]).verdict(), [0; 5]);
    assert_eq!(Court::new().hear(1, 0..100).hear(2, [102, 98, 99]).verdict(), [2, 0, 0, 0, 0]);
}

#[test]
fn a_host_may_take_over_again() {
    let court = Court::new().hear(1, 0..10).hear(2, 12..20).hear(1, 20..30).hear(2, [11]).hear(1, [10, 25]);
    // The second host's 11 lies before the third tenure; so does the first host's 10 before the second one.
    assert_eq!((court.verdict(), court.judge.counts.changes), ([0, 0, 0, 2, 1], 2));
    let court = court.hear(2, [30]);
    assert_eq!((court.verdict()[0], court.judge.counts.changes), (0, 3));
}

#[test]
fn what_is_not_the_guests_is_foreign_and_hosts_are_bounded() {
    let mut court = Court::new();
    court.hear_bytes(1, b"hello");
    (0..=HOSTS as u8).for_each(|host| court.hear_bytes(host, &bytes(host.into(), 0)));
    assert_eq!((court.judge.counts.foreign, court.judge.counts.packets), (2, HOSTS as u64));
}

#[test]
fn what_has_left_the_window_is_not_judged_by_its_contents() {
    let mut court = Court { judge: Judge::new(10), now: Duration::ZERO };
    court = court.hear(1, 0..25).hear_other(1, [14, 15]);
    assert_eq!((court.judge.counts.unjudged, court.verdict()), (1, [0, 1, 0, 0, 0]));
    assert_eq!((court.judge.window.len(), court.judge.missing()), (10, 0));
}

proptest! {
    /// Whatever a network does to a sound history, it stays sound: it delays, loses, copies and reorders packets.
    #[test]
    fn no_network_makes_a_sound_failover_unsound(
        change in 1u64..40,
        fates in prop::collection::vec((0u64..30, 0usize..3), 80),
    ) {
        let mut arrivals = Vec::new();
        for (sequence, (delay, copies)) in (0..).zip(fates) {
            let host = if sequence < change { 1 } else { 2 };
            // The first packet is there first: before it nobody has been heard.
            let (delay, copies) = if sequence == 0 { (0, 1) } else { (delay + 1, copies) };
            arrivals.extend((0..copies as u64).map(|copy| (sequence + delay * (copy + 1), sequence, host)));
        }
        arrivals.sort();
        let mut court = Court::new();
        for (_, sequence, host) in arrivals {
            court = court.hear(host, [sequence]);
        }
        prop_assert_eq!(&court.verdict()[..3], [0; 3], "{:?}", court.judge.faults());
    }

    /// Two copies that both speak from some number on are found, however their packets mix.
    #[test]
    fn two_active_copies_are_always_found(
        change in 1u64..20,
        turns in prop::collection::vec(any::<bool>(), 1..60),
        same in any::<bool>(),
    ) {
        let mut court = Court::new().hear(1, 0..change);
        let mut next = [change; 2];
        for host in turns.into_iter().map(usize::from).chain([0, 1]) {
            court.hear_bytes(host as u8 + 1, &bytes(next[host], if same { 0 } else { host as u64 }));
            next[host] += 1;
        }
        prop_assert!(court.verdict()[..3] != [0; 3]);
    }
}
