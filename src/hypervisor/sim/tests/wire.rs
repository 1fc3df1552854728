//! The card's output over real UDP sockets: held, released, freed, discarded.

use super::*;
use crate::hypervisor::{NoBuffer, OutputBuffer};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::time::Duration;

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const MARK: &[u8] = b"mark";

/// The other end. It sends marks to itself: a packet that comes before a mark had left before it was sent.
struct Outside {
    socket: UdpSocket,
    marker: UdpSocket,
}

impl Outside {
    fn new() -> Self {
        let socket = UdpSocket::bind(LOCAL).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Outside { socket, marker: UdpSocket::bind(LOCAL).unwrap() }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    fn mark(&self, number: usize) {
        self.marker.send_to(&[MARK, &number.to_le_bytes()].concat(), self.address()).unwrap();
    }

    fn receive(&self) -> Vec<u8> {
        let mut buffer = [0; 9100];
        let length = self.socket.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    fn sequence(&self) -> u64 {
        WorkloadPacket::parse(&self.receive()).unwrap().sequence
    }

    fn expect(&self, sequences: std::ops::Range<u64>) {
        for sequence in sequences {
            assert_eq!(self.sequence(), sequence);
        }
    }

    /// Asserts that nothing has left that was not received.
    fn expect_nothing(&self) {
        self.mark(0);
        assert_eq!(&self.receive()[..4], MARK);
    }
}

fn wait_for(mut reached: impl FnMut() -> bool) {
    while !reached() {
        std::thread::yield_now();
    }
}

fn sent(runner: &Runner) -> u64 {
    runner.turn().unwrap().devices().nic.tx_packets
}

#[test]
fn output_of_a_running_guest_follows_its_epochs() {
    let outside = Outside::new();
    let domain = SimDomain::create(&SimConfig { packets_every: 1, ..SimConfig::small(7) }).unwrap();
    let nic = domain.nic().clone();
    let (mut output, wire) = SimWire::start(nic.clone(), Some(LOCAL), Some(outside.address())).unwrap();
    let mut runner = Runner::start(domain, Pace::StepsPerSecond(NonZeroU32::new(5000).unwrap())).unwrap();
    outside.expect(0..5);
    runner.suspend().unwrap();
    output.hold().unwrap();
    let held = sent(&runner);
    outside.expect(5..held);
    let mut ends = Vec::new();
    for epoch in [1, 2] {
        output.begin_epoch(epoch).unwrap();
        runner.resume().unwrap();
        let waiting = nic.waiting();
        wait_for(|| nic.waiting() >= waiting + 5);
        runner.suspend().unwrap();
        ends.push(sent(&runner));
    }
    outside.expect_nothing();
    assert_eq!(output.release(1).unwrap(), ends[0] - held);
    outside.expect(held..ends[0]);
    outside.expect_nothing();
    assert_eq!(output.discard().unwrap(), ends[1] - ends[0]);
    output.begin_epoch(3).unwrap();
    runner.resume().unwrap();
    wait_for(|| nic.waiting() >= 3);
    assert_eq!(output.release(2).unwrap(), 0);
    outside.expect_nothing();
    output.free().unwrap();
    outside.expect(ends[1]..ends[1] + 10);
    assert_eq!(wire.stats().dropped + wire.stats().no_peer, 0);
}

#[test]
fn without_a_buffer_packets_leave_as_they_are_sent() {
    let outside = Outside::new();
    let mut domain = created(&SimConfig::small(1), 0);
    let _wire = SimWire::start(domain.nic().clone(), Some(LOCAL), Some(outside.address())).unwrap();
    let mut output: Box<dyn OutputBuffer> = Box::new(NoBuffer);
    output.hold().unwrap();
    output.begin_epoch(1).unwrap();
    domain.run(20).unwrap();
    outside.expect(0..2);
    assert_eq!((output.release(1).unwrap(), output.discard().unwrap()), (0, 0));
}

#[test]
fn a_card_that_does_not_listen_gets_nothing_and_the_last_sender_is_answered() {
    let outside = Outside::new();
    let domain = SimDomain::create(&SimConfig { packets_every: 0, ..SimConfig::small(1) }).unwrap();
    let (_, wire) = SimWire::start(domain.nic().clone(), Some(LOCAL), None).unwrap();
    let card = wire.address().unwrap();
    let runner = Runner::start(domain, Pace::Free).unwrap();
    outside.socket.send_to(b"passive", card).unwrap();
    wait_for(|| wire.stats().refused == 1);
    wire.set_inbound(true);
    outside.socket.send_to(&[0; 4000], card).unwrap();
    outside.socket.send_to(b"active", card).unwrap();
    let echo = WorkloadPacket::parse(&outside.receive()).unwrap();
    assert_eq!((echo.kind, echo.sequence, echo.payload.as_slice()), (PacketKind::Echo, 0, b"active".as_slice()));
    let stats = wire.stats();
    assert_eq!((stats.refused, stats.delivered, stats.no_peer), (2, 1, 0));
    drop(runner);
}

#[test]
fn packets_without_a_way_are_dropped_and_counted() {
    let mut domain = created(&SimConfig::small(1), 0);
    let (_, wire) = SimWire::start(domain.nic().clone(), None, None).unwrap();
    domain.run(50).unwrap();
    wait_for(|| wire.stats().no_peer == 5);
    assert_eq!((domain.nic().waiting(), wire.address()), (0, None));
}

#[test]
fn a_card_has_one_wire_at_a_time_and_the_next_one_goes_on_with_what_is_held() {
    let outside = Outside::new();
    let mut domain = created(&SimConfig::small(1), 0);
    let start = |bind| SimWire::start(domain.nic().clone(), Some(bind), Some(outside.address()));
    let (mut output, wire) = start(LOCAL).unwrap();
    let address = wire.address().unwrap();
    assert!(matches!(start(LOCAL), Err(Error::Unsupported { .. })));
    output.hold().unwrap();
    output.begin_epoch(4).unwrap();
    drop(wire);
    let (_, wire) = start(address).unwrap();
    domain.run(30).unwrap();
    outside.expect_nothing();
    // What may leave has left when a wire is gone.
    output.release(4).unwrap();
    drop(wire);
    outside.mark(0);
    outside.expect(0..3);
    outside.receive();
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Send(u64),
    Hold,
    Begin(u64),
    /// So many epochs before the present one.
    Release(u64),
    Free,
    Discard,
    /// Wait until everything has left that may.
    Settle,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (1u64..5).prop_map(Op::Send),
        2 => Just(Op::Hold),
        4 => (0u64..3).prop_map(Op::Begin),
        3 => (0u64..3).prop_map(Op::Release),
        1 => Just(Op::Free),
        1 => Just(Op::Discard),
        1 => Just(Op::Settle),
    ]
}

/// What has to become of each packet.
#[derive(Debug, Default)]
struct Model {
    held: bool,
    /// `None` while no epoch has begun since the hold.
    epoch: Option<u64>,
    next: u64,
    /// Number and epoch of what is held.
    waiting: Vec<(u64, Option<u64>)>,
    /// Which operation let a packet out, and which one dropped it where it had not left.
    out: BTreeMap<u64, (usize, Option<usize>)>,
}

impl Model {
    fn let_out(&mut self, at: usize, may: impl Fn(Option<u64>) -> bool) -> u64 {
        let count = self.waiting.iter().take_while(|(_, epoch)| may(*epoch)).count();
        self.out.extend(self.waiting.drain(..count).map(|(number, _)| (number, (at, None))));
        count as u64
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever is asked of a buffer, packets leave in order, none twice, none before it is let out, none after it was discarded,
    /// and all that were let out leave.
    #[test]
    fn packets_leave_as_they_are_let_out(ops in prop::collection::vec(op(), 1..40)) {
        let outside = Outside::new();
        let nic = Nic::default();
        let (mut output, _wire) = SimWire::start(nic.clone(), Some(LOCAL), Some(outside.address())).unwrap();
        let mut model = Model::default();
        // What came, in order: packets, and marks with the number of the operation done before.
        let mut heard: Vec<Result<u64, usize>> = Vec::new();
        let hear = |heard: &mut Vec<Result<u64, usize>>| {
            let bytes = outside.receive();
            let number = u64::from_le_bytes(bytes[bytes.len() - 8..].try_into().unwrap());
            heard.push(if bytes.starts_with(MARK) { Err(number as usize) } else { Ok(number) });
        };
        let end = [Op::Free, Op::Send(1), Op::Settle];
        for (at, op) in ops.into_iter().chain(end).enumerate() {
            match op {
                Op::Send(count) => for _ in 0..count {
                    nic.send(model.next.to_le_bytes().to_vec());
                    model.waiting.push((model.next, model.epoch));
                    model.next += 1;
                    if !model.held {
                        model.let_out(at, |_| true);
                    }
                },
                Op::Hold => {
                    output.hold().unwrap();
                    if !model.held {
                        (model.held, model.epoch) = (true, None);
                    }
                }
                Op::Begin(more) if model.held => {
                    let epoch = model.epoch.unwrap_or(0) + more;
                    output.begin_epoch(epoch).unwrap();
                    model.epoch = Some(epoch);
                    model.waiting.iter_mut().for_each(|(_, of)| *of = of.or(Some(epoch)));
                }
                Op::Begin(more) => output.begin_epoch(more).unwrap(),
                Op::Release(before) => {
                    let up_to = model.epoch.unwrap_or(0).saturating_sub(before);
                    let count = model.let_out(at, |epoch| epoch.is_some_and(|epoch| epoch <= up_to));
                    prop_assert_eq!(output.release(up_to).unwrap(), count);
                }
                Op::Free => {
                    output.free().unwrap();
                    (model.held, model.epoch) = (false, None);
                    model.let_out(at, |_| true);
                }
                Op::Discard => {
                    let held = model.waiting.len() as u64;
                    prop_assert!(output.discard().unwrap() >= held);
                    model.waiting.clear();
                    model.out.values_mut().for_each(|(_, dropped)| *dropped = dropped.or(Some(at)));
                    if !model.held {
                        (model.held, model.epoch) = (true, None);
                    }
                }
                Op::Settle => while let Some((last, _)) = model.out.iter().next_back()
                    .filter(|(last, (_, dropped))| dropped.is_none() && !heard.contains(&Ok(**last)))
                {
                    prop_assert!(heard.len() < 1000, "{} has not come: {:?}", last, heard);
                    hear(&mut heard);
                },
            }
            outside.mark(at);
        }
        while !heard.contains(&Err(model.out.values().map(|(at, _)| *at).max().unwrap() + 1)) {
            hear(&mut heard);
        }
        let numbers: Vec<u64> = heard.iter().filter_map(|heard| heard.ok()).collect();
        prop_assert!(numbers.is_sorted_by(|a, b| a < b), "{:?}", heard);
        for (number, &(at, dropped)) in &model.out {
            let mark = |of: usize| heard.iter().position(|heard| *heard == Err(of));
            match heard.iter().position(|heard| *heard == Ok(*number)) {
                None => prop_assert!(dropped.is_some(), "{} has not come: {:?}", number, heard),
                Some(place) => {
                    prop_assert!(at == 0 || mark(at - 1) < Some(place), "{} came too early: {:?}", number, heard);
                    let after = dropped.and_then(mark).is_some_and(|mark| mark < place);
                    prop_assert!(!after, "{} came after it was discarded: {:?}", number, heard);
                }
            }
        }
        prop_assert!(numbers.iter().all(|number| model.out.contains_key(number)), "{:?}", heard);
    }
}
