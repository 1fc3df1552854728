//! Clients and guests that talk over real sockets.

use super::*;
use crate::hypervisor::sim::{Pace, Runner, SimConfig, SimDomain, SimWire};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const PATIENCE: Duration = Duration::from_secs(60);
const BRISK: Pace = Pace::StepsPerSecond(NonZeroU32::new(2000).unwrap());

fn asking(to: Vec<SocketAddr>) -> ClientThread {
    let retry = Duration::from_millis(200);
    ClientThread::start(ClientConfig { bind: LOCAL, to, rate: 1000, outstanding: 16, retry }).unwrap()
}

fn listening() -> ClientThread {
    let retry = Duration::from_secs(1);
    ClientThread::start(ClientConfig { bind: LOCAL, to: vec![], rate: 0, outstanding: 1, retry }).unwrap()
}

#[test]
fn a_running_guest_answers_and_goes_on_behind_another_address() {
    let domain = SimDomain::create(&SimConfig::small(1)).unwrap();
    let other = SimDomain::create(&SimConfig::small(1)).unwrap();
    let (_, here) = SimWire::start(domain.nic().clone(), Some(LOCAL), None).unwrap();
    // Nobody listens there yet.
    let (_, there) = SimWire::start(other.nic().clone(), Some(LOCAL), None).unwrap();
    let there = (there.address().unwrap(), drop(there)).0;
    here.set_inbound(true);
    let client = asking(vec![here.address().unwrap(), there]);
    let runner = Runner::start(domain, BRISK).unwrap();
    assert!(client.wait_until(PATIENCE, |p| p.acknowledged >= 100));
    let domain = runner.stop().unwrap();
    drop(here);
    let (_, wire) = SimWire::start(domain.nic().clone(), Some(there), None).unwrap();
    wire.set_inbound(true);
    let runner = Runner::start(domain, BRISK).unwrap();
    let mut before = None;
    assert!(client.wait_until(PATIENCE, |p| p.changes == 1 && {
        let before = *before.get_or_insert(p.acknowledged);
        p.host == Some(there) && p.acknowledged >= before + 50
    }));
    drop(runner);
    let seen = client.stop().unwrap();
    assert!(seen.is_sound(), "{seen:?}");
    assert!(seen.requests >= seen.acknowledged && seen.acknowledged >= 150, "{seen:?}");
    assert_eq!((seen.changes, seen.hosts.len(), seen.hosts[1].address), (1, 2, there));
    assert!(seen.fail_over_ns <= Some(seen.longest_gap_ns) && seen.round_trip_ns.is_some());
    let json = serde_json::to_value(&seen).unwrap();
    assert_eq!(json["hosts"][1]["address"], there.to_string());
}

#[test]
fn a_guest_set_back_behind_another_address_is_found() {
    let client = listening();
    let mut wires = Vec::new();
    // Two guests of one configuration have one history.
    for (steps, packets) in [(1000, 100), (500, 150)] {
        let mut domain = SimDomain::create(&SimConfig::small(1)).unwrap();
        wires.push(SimWire::start(domain.nic().clone(), Some(LOCAL), Some(client.address())).unwrap());
        domain.run(steps).unwrap();
        assert!(client.wait_until(PATIENCE, |p| p.packets == packets));
    }
    let seen = client.stop().unwrap();
    assert_eq!((seen.lost, seen.contradicted, seen.interleaved), (100, 0, 0));
    assert_eq!(seen.faults[0].host, wires[1].1.address().unwrap());
}

#[test]
fn a_client_nobody_answers_sends_again_and_stops_at_its_limit() {
    let silent = std::net::UdpSocket::bind(LOCAL).unwrap();
    let to = vec![silent.local_addr().unwrap()];
    let retry = Duration::from_millis(1);
    let mut client = Client::open(ClientConfig { bind: LOCAL, to, rate: 100_000, outstanding: 3, retry }).unwrap();
    let limit = Some(Duration::from_millis(50));
    client.run(None, limit, Duration::from_millis(5), |_| {}).unwrap();
    let seen = client.seen();
    assert_eq!((seen.requests, seen.acknowledged, seen.round_trip_ns), (3, 0, None));
    assert!(seen.retries >= 3, "{seen:?}");
    let mut buffer = [0; 64];
    let (length, from) = silent.recv_from(&mut buffer).unwrap();
    let asked = Request::parse(&buffer[..length]).unwrap();
    assert_eq!((asked.number, from), (0, client.address().unwrap()));
}

#[test]
fn an_answer_to_what_was_not_asked_contradicts() {
    use crate::hypervisor::sim::{PacketKind, WorkloadPacket};
    let guest = std::net::UdpSocket::bind(LOCAL).unwrap();
    let client = asking(vec![guest.local_addr().unwrap()]);
    let mut buffer = [0; 64];
    let (length, from) = guest.recv_from(&mut buffer).unwrap();
    let asked = Request::parse(&buffer[..length]).unwrap();
    for (sequence, number) in [(0, asked.number), (1, u64::MAX)] {
        let payload = Request { number, ..asked }.emit().to_vec();
        let echo = WorkloadPacket { kind: PacketKind::Echo, connection: 0, sequence, step: sequence, sum: 0, payload };
        guest.send_to(&echo.emit(0), from).unwrap();
    }
    assert!(client.wait_until(PATIENCE, |p| p.packets == 2));
    let seen = client.stop().unwrap();
    assert_eq!((seen.acknowledged, seen.contradicted, seen.lost), (1, 1, 0));
}
