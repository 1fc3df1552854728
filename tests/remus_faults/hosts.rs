//! Where the sides and the client are: on this machine's loopback, or each in a network namespace of its own.

use crate::proxy::Cut;
use crate::world::{PRIMARY, SECONDARY, THIRD};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use xen_replicate::outside::{ClientConfig, ClientThread};

static CASES: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
pub enum Hosts {
    /// All of 127/8 is this machine's: a net for each case, and a port for this process, so that none can be taken for another's.
    Loopback {
        net: [u8; 3],
        port: u16,
    },
    Spaces(Spaces),
}

impl Hosts {
    pub fn loopback() -> Hosts {
        let [_, _, high, low] = CASES.fetch_add(1, Ordering::SeqCst).to_be_bytes();
        let port = 10_000 + (std::process::id() % 20_000) as u16;
        Hosts::Loopback { net: [1, low, high], port }
    }

    fn address(&self, place: u8) -> SocketAddr {
        match self {
            Hosts::Loopback { net: [a, b, c], port } => {
                // 127.0.0.0 and .1 are left alone; `c` has room for 40 sets of six hosts.
                SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, *a, *b, (c % 40) * 6 + place)), *port)
            }
            Hosts::Spaces(_) => SocketAddr::from(([10, 77, 0, place], 7000)),
        }
    }

    /// Where the receiver of a place listens.
    pub fn socket(&self, place: u8) -> SocketAddr {
        self.address(place)
    }

    /// The guest's network card at a place.
    pub fn nic(&self, place: u8) -> SocketAddr {
        match self {
            Hosts::Loopback { .. } => self.address(place),
            Hosts::Spaces(_) => SocketAddr::from(([10, 77, place, 2], 7000)),
        }
    }

    /// The client, as a place reaches it.
    pub fn peer(&self, place: u8, client: SocketAddr) -> SocketAddr {
        match self {
            Hosts::Loopback { .. } => client,
            Hosts::Spaces(_) => SocketAddr::from(([10, 77, place, 1], client.port())),
        }
    }

    /// What a command at this place begins with.
    pub fn prefix(&self, place: u8) -> Vec<String> {
        match self {
            Hosts::Loopback { .. } => Vec::new(),
            Hosts::Spaces(spaces) => ["ip", "netns", "exec", spaces.name(place)].map(str::to_owned).to_vec(),
        }
    }

    /// Whether the two sides' addresses are private ones.
    pub const fn are_private(&self) -> bool {
        matches!(self, Hosts::Spaces(_))
    }

    /// Starts a client that asks at all places.
    pub fn start_client(&self, mut config: ClientConfig) -> ClientThread {
        match self {
            Hosts::Loopback { .. } => {
                config.bind = SocketAddr::new(self.address(1).ip(), 0);
                config.to = [PRIMARY, SECONDARY, THIRD].map(|place| self.nic(place)).to_vec();
                ClientThread::start(config).unwrap()
            }
            Hosts::Spaces(spaces) => {
                config.bind = SocketAddr::from(([0, 0, 0, 0], 7000));
                config.to = [PRIMARY, SECONDARY].map(|place| self.nic(place)).to_vec();
                let space = File::open(format!("/run/netns/{}", spaces.client)).unwrap();
                // A thread lives where the thread that started it lives.
                let starter = thread::spawn(move || {
                    move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                    ClientThread::start(config).unwrap()
                });
                starter.join().unwrap()
            }
        }
    }
}

/// Three network namespaces: the client's, and one for each side. The sides have a cable between them and one to the client each.
#[derive(Debug)]
pub struct Spaces {
    client: String,
    sides: [String; 2],
}

const CARDS: [&str; 2] = ["02:00:00:00:00:02", "02:00:00:00:00:03"];

impl Spaces {
    /// Makes them, or says why that cannot be done here.
    ///
    /// # Errors
    /// No privileges, no iproute2, no veth.
    pub fn make() -> Result<Spaces, String> {
        let case = CASES.fetch_add(1, Ordering::SeqCst);
        let name = |what: &str| format!("xrf{}-{case}-{what}", std::process::id());
        let spaces = Spaces { client: name("c"), sides: [name("p"), name("s")] };
        for space in [&spaces.client, &spaces.sides[0], &spaces.sides[1]] {
            run("ip", &format!("netns add {space}"))?;
            run("ip", &format!("-n {space} link set lo up"))?;
        }
        let [p, s] = &spaces.sides;
        let c = &spaces.client;
        let cables = [
            (p, "cable", "10.77.0.2/24", s, "cable", "10.77.0.3/24"),
            (c, "top", "10.77.2.1/24", p, "front", "10.77.2.2/24"),
            (c, "tos", "10.77.3.1/24", s, "front", "10.77.3.2/24"),
        ];
        for (near, card, address, far, other, other_address) in cables {
            run("ip", &format!("-n {near} link add {card} type veth peer name {other} netns {far}"))?;
            for (space, card, address) in [(near, card, address), (far, other, other_address)] {
                run("ip", &format!("-n {space} addr add {address} dev {card}"))?;
            }
        }
        for (space, mac) in spaces.sides.iter().zip(CARDS) {
            run("ip", &format!("-n {space} link set cable address {mac}"))?;
            run("ip", &format!("-n {space} link set cable up"))?;
            run("ip", &format!("-n {space} link set front up"))?;
        }
        for card in ["top", "tos"] {
            run("ip", &format!("-n {c} link set {card} up"))?;
        }
        Ok(spaces)
    }

    fn name(&self, place: u8) -> &str {
        &self.sides[usize::from(place == SECONDARY)]
    }

    /// What one side sends goes to a card that is not there. Sockets stay open, nobody is told.
    pub fn cut(&self, cut: Cut) {
        self.neighbours(cut, ["02:00:00:00:00:ff"; 2]);
    }

    pub fn heal(&self) {
        self.neighbours(Cut::Both, [CARDS[1], CARDS[0]]);
    }

    fn neighbours(&self, cut: Cut, macs: [&str; 2]) {
        let [p, s] = &self.sides;
        if cut != Cut::Backward {
            run("ip", &format!("-n {p} neigh replace 10.77.0.3 lladdr {} dev cable nud permanent", macs[0])).unwrap();
        }
        if cut != Cut::Forward {
            run("ip", &format!("-n {s} neigh replace 10.77.0.2 lladdr {} dev cable nud permanent", macs[1])).unwrap();
        }
    }

    /// A queueing discipline at both ends of the cable between the sides.
    ///
    /// # Errors
    /// The kernel has none of this kind.
    pub fn shape(&self, discipline: &str) -> Result<(), String> {
        self.sides
            .iter()
            .try_for_each(|side| run("tc", &format!("-n {side} qdisc replace dev cable root {discipline}")))
    }

    /// Of ten packets that arrive at either end of that cable, one is dropped.
    ///
    /// # Errors
    /// There is no nft, or the kernel cannot do it.
    pub fn lose_one_in_ten(&self) -> Result<(), String> {
        let rules = "add table inet loss; add chain inet loss in { type filter hook input priority 0; }; \
                     add rule inet loss in iifname cable numgen random mod 10 == 0 drop";
        self.sides.iter().try_for_each(|side| {
            let done = Command::new("ip").args(["netns", "exec", side, "nft", rules]).output();
            done_well("nft", done)
        })
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        for space in self.sides.iter().chain([&self.client]) {
            let _ = run("ip", &format!("netns del {space}"));
        }
    }
}

fn run(program: &str, args: &str) -> Result<(), String> {
    done_well(&format!("{program} {args}"), Command::new(program).args(args.split_whitespace()).output())
}

fn done_well(what: &str, done: std::io::Result<std::process::Output>) -> Result<(), String> {
    let done = done.map_err(|error| format!("{what}: {error}"))?;
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    if done.status.success() { Ok(()) } else { Err(format!("{what}: {said}")) }
}
