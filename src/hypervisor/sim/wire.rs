//! The simulated card's cable: a UDP socket, one datagram a packet.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use serde::Serialize;

use super::nic::{MTU, Nic};
use super::workload::WorkloadPacket;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::{ComparedCard, OnInbound, OnSent, OutputBuffer};

/// How long a packet waits for room in the socket before the network counts as having dropped it.
const SEND_PATIENCE: Duration = Duration::from_millis(10);

/// Bytes that the socket should keep of what comes in while the thread is busy. The kernel may give less.
const RECEIVE_BUFFER: usize = 1 << 20;

/// The output buffer of a simulated card. It outlives the wire: what it lets out then waits for the next one.
#[derive(Debug)]
pub struct SimOutput(Nic);

impl SimOutput {
    /// The output buffer of a card. All that are made of one card are the same buffer.
    pub fn new(nic: Nic) -> Self {
        SimOutput(nic)
    }
}

impl OutputBuffer for SimOutput {
    fn hold(&mut self) -> Result<()> {
        self.0.hold();
        Ok(())
    }

    fn begin_epoch(&mut self, epoch: u64) -> Result<()> {
        self.0.begin_epoch(epoch)
    }

    fn release(&mut self, up_to: u64) -> Result<u64> {
        Ok(self.0.release(up_to))
    }

    fn free(&mut self) -> Result<()> {
        self.0.free();
        Ok(())
    }

    fn discard(&mut self) -> Result<u64> {
        Ok(self.0.discard())
    }
}

impl ComparedCard for SimOutput {
    fn capture(&mut self, told: OnSent) {
        self.0.tell_sent(told, false);
    }

    fn divert(&mut self, told: OnSent) {
        self.0.hold();
        self.0.tell_sent(told, true);
    }

    fn release_one(&mut self, number: u64) -> Result<bool> {
        Ok(self.0.release_one(number))
    }

    fn mirror(&mut self, told: OnInbound) {
        self.0.tell_inbound(told);
    }

    fn begin_inbound(&mut self, epoch: u64) {
        self.0.begin_inbound(epoch);
    }

    fn deliver_in(&mut self, epoch: u64, bytes: &[u8]) -> bool {
        self.0.deliver_in(epoch, bytes)
    }

    fn detach(&mut self) {
        self.0.detach();
    }

    fn connection(&self, bytes: &[u8]) -> u64 {
        WorkloadPacket::parse(bytes).map_or(0, |packet| packet.connection.into())
    }
}

/// What a wire has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct WireStats {
    /// Packets that have left.
    pub sent: u64,
    /// Packets dropped because there is no socket, or nobody known to send them to.
    pub no_peer: u64,
    /// Packets dropped because the socket had no room for them in time, or the system refused them.
    pub dropped: u64,
    /// Packets handed to the guest.
    pub delivered: u64,
    /// Packets from outside that the guest did not get: the card did not listen, its queue was full, or they were too long.
    pub refused: u64,
}

/// A wire between a simulated card and a UDP socket, with a thread for each direction. Dropping it lets what may leave try to leave
/// once more, without waiting, and ends both threads.
#[derive(Debug)]
pub struct SimWire {
    line: Arc<Line>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Line {
    nic: Nic,
    socket: Option<UdpSocket>,
    peer: Mutex<Option<SocketAddr>>,
    /// The peer is whoever sent last.
    learns: bool,
    /// Readable when the inbound thread is to end.
    end: OwnedFd,
    sent: AtomicU64,
    no_peer: AtomicU64,
    dropped: AtomicU64,
    delivered: AtomicU64,
    refused: AtomicU64,
}

impl SimWire {
    /// Connects a card with the address `bind`, or one that the system chooses where there is just a peer.
    ///
    /// Outbound packets that may leave go to `peer`; without one, to whoever sent last, also while the card did not listen. Without
    /// either address there is no socket, and packets that leave are dropped and counted. Output is held or free as the card had
    /// it: a new card's is free. Inbound packets are dropped until [`SimWire::set_inbound`].
    ///
    /// Errors: [`Error::Unsupported`] where the card has a wire, [`Error::Os`] where socket or threads cannot be had.
    pub fn start(nic: Nic, bind: Option<SocketAddr>, peer: Option<SocketAddr>) -> Result<(SimOutput, SimWire)> {
        let os = |operation| move |source: io::Error| Error::Os { operation, source };
        let socket = open(bind, peer).map_err(os("opening the simulated wire's socket"))?;
        let end = eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| os("starting the simulated wire")(e.into()))?;
        if !nic.plug() {
            return Err(Error::Unsupported { backend: "sim", what: "a second wire on one card" });
        }
        nic.set_listening(false);
        let line = Arc::new(Line {
            nic: nic.clone(),
            socket,
            peer: Mutex::new(peer),
            learns: peer.is_none(),
            end,
            sent: AtomicU64::new(0),
            no_peer: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        // From here on dropping the wire gives the card's end back, also where a thread is missing.
        let mut wire = SimWire { line, threads: Vec::new() };
        wire.spawn("sim-wire-out", Line::run_outbound)?;
        if wire.line.socket.is_some() {
            wire.spawn("sim-wire-in", Line::run_inbound)?;
        }
        Ok((SimOutput::new(nic), wire))
    }

    /// Whether the guest gets packets from outside. A copy that is passive, or stopped for good, must not: it would answer later
    /// what it was asked earlier. Switching it off also drops those that the guest has not fetched.
    pub fn set_inbound(&self, inbound: bool) {
        self.line.nic.set_listening(inbound);
    }

    /// The socket's own address; `None` without a socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.line.socket.as_ref().and_then(|socket| socket.local_addr().ok())
    }

    /// What has been counted so far.
    pub fn stats(&self) -> WireStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let line = &self.line;
        WireStats {
            sent: count(&line.sent),
            no_peer: count(&line.no_peer),
            dropped: count(&line.dropped),
            delivered: count(&line.delivered),
            refused: count(&line.refused),
        }
    }

    fn spawn(&mut self, name: &str, run: fn(&Line)) -> Result<()> {
        let line = Arc::clone(&self.line);
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || run(&line));
        self.threads.push(thread.map_err(|source| Error::Os { operation: "starting the simulated wire", source })?);
        Ok(())
    }
}

impl Drop for SimWire {
    fn drop(&mut self) {
        self.line.nic.pull();
        // It cannot fail: the counter is far from full.
        let _ = rustix::io::write(&self.line.end, &1u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
        self.line.nic.unplug();
    }
}

fn open(bind: Option<SocketAddr>, peer: Option<SocketAddr>) -> io::Result<Option<UdpSocket>> {
    let any = |peer: SocketAddr| match peer {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let Some(address) = bind.or(peer.map(any)) else {
        return Ok(None);
    };
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
    Ok(Some(socket))
}

impl Line {
    fn run_outbound(&self) {
        while let Some((bytes, pulled)) = self.nic.next_ready() {
            let peer = *self.lock_peer();
            let counter = match (&self.socket, peer) {
                (Some(socket), Some(peer)) if send(socket, peer, &bytes, !pulled) => &self.sent,
                (Some(_), Some(_)) => &self.dropped,
                _ => &self.no_peer,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn run_inbound(&self) {
        let Some(socket) = &self.socket else {
            return;
        };
        // One byte more than a packet may have, so that a longer one shows.
        let mut buffer = [0; MTU + 1];
        loop {
            let mut fds = [PollFd::new(socket, PollFlags::IN), PollFd::new(&self.end, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return log::error!("simulated wire: waiting for packets: {error}"),
            }
            let [_, end] = fds;
            if !end.revents().is_empty() {
                return;
            }
            // One at a time, so that a flood does not keep the thread from ending.
            let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                // Nothing there, or an error that reading it has cleared.
                continue;
            };
            if self.learns {
                *self.lock_peer() = Some(from);
            }
            let delivered = buffer.get(..length).is_some_and(|bytes| self.nic.deliver(bytes));
            let counter = if delivered { &self.delivered } else { &self.refused };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn lock_peer(&self) -> MutexGuard<'_, Option<SocketAddr>> {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends one packet; false when the network has dropped it.
fn send(socket: &UdpSocket, peer: SocketAddr, bytes: &[u8], patient: bool) -> bool {
    let mut patient = patient;
    loop {
        match socket.send_to(bytes, peer) {
            Ok(_) => return true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && patient => {
                patient = false;
                let patience = Timespec::try_from(SEND_PATIENCE).ok();
                // Whatever comes of it, the packet is tried once more.
                let _ = poll(&mut [PollFd::new(socket, PollFlags::OUT)], patience.as_ref());
            }
            Err(_) => return false,
        }
    }
}
