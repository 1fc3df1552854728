//! The client outside as a process: what it prints and how it exits.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};
use xen_replicate::hypervisor::sim::{PacketKind, WorkloadPacket};
use xen_replicate::outside::Request;

struct Client {
    child: Child,
    out: BufReader<ChildStdout>,
    address: SocketAddr,
}

/// A client that asks these hosts, and where it is.
fn start(hosts: &[UdpSocket; 2]) -> Client {
    let to = hosts.each_ref().map(|host| host.local_addr().unwrap().to_string()).join(",");
    let mut child = Command::new(env!("CARGO_BIN_EXE_xen-replicate"))
        .args(["sim-client", "--bind", "127.0.0.1:0", "--to", &to, "--rate", "10", "--json", "--progress"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let mut buffer = [0; 100];
    let [first, second] = hosts.each_ref().map(|host| {
        let (length, from) = host.recv_from(&mut buffer).unwrap();
        (Request::parse(&buffer[..length]).unwrap().number, from)
    });
    assert_eq!(first, second);
    Client { child, out, address: first.1 }
}

impl Client {
    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn hear(&mut self, host: &UdpSocket, sequences: std::ops::Range<u64>) {
        for sequence in sequences {
            let packet = WorkloadPacket {
                kind: PacketKind::Beacon,
                connection: 0,
                sequence,
                step: sequence,
                sum: 0,
                payload: Vec::new(),
            };
            host.send_to(&packet.emit(64), self.address).unwrap();
        }
    }

    /// Closes its input once it has so many packets. Returns the result and the exit code.
    fn end(mut self, packets: u64) -> (Value, Option<i32>) {
        while self.line()["packets"] != packets {}
        drop(self.child.stdin.take());
        let seen = loop {
            let line = self.line();
            if line.get("faults").is_some() {
                break line;
            }
        };
        (seen, self.child.wait().unwrap().code())
    }
}

fn hosts() -> [UdpSocket; 2] {
    [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap())
}

#[test]
fn a_sound_history_exits_with_0() {
    let hosts = hosts();
    let mut client = start(&hosts);
    client.hear(&hosts[0], 0..10);
    client.hear(&hosts[1], 10..20);
    let (seen, code) = client.end(20);
    assert_eq!((code, &seen["changes"], &seen["lost"]), (Some(0), &1.into(), &0.into()), "{seen}");
    assert_eq!(seen["hosts"][1]["address"], hosts[1].local_addr().unwrap().to_string());
}

#[test]
fn a_lost_output_exits_with_1() {
    let hosts = hosts();
    let mut client = start(&hosts);
    client.hear(&hosts[0], 0..10);
    client.hear(&hosts[1], 8..20);
    let (seen, code) = client.end(22);
    assert_eq!((code, &seen["lost"], &seen["contradicted"]), (Some(1), &2.into(), &0.into()), "{seen}");
    assert_eq!((&seen["faults"][0]["verdict"], &seen["faults"][0]["sequence"]), (&"lost".into(), &8.into()));
}
