//! The client: asks the guest over UDP, takes what it says, and has it judged.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, PipeWriter};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::judge::nanoseconds;
use super::judges::Judges;
use super::request::Request;
use super::seen::{Progress, Seen};
use crate::hypervisor::sim::{PacketKind, WorkloadPacket};
use crate::replicate::stats::Histogram;

/// Bytes that the socket should keep while the client is busy. The kernel may give less.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Datagrams taken before it is the turn of requests again.
const BURST: usize = 256;
/// Bytes of a datagram at most.
const DATAGRAM: usize = 1 << 16;

/// How a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Its own address.
    pub bind: SocketAddr,
    /// Where each request goes: the wires of all hosts that may have the guest.
    pub to: Vec<SocketAddr>,
    /// New requests in a second at most; 0 to listen only. What is missed while `outstanding` are under way is not caught up with.
    pub rate: u32,
    /// Requests without an answer at most.
    pub outstanding: usize,
    /// How long an answer may take until the request is sent again.
    pub retry: Duration,
}

/// A client.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    socket: UdpSocket,
    begin: Instant,
    judge: Judges,
    nonce: u64,
    /// The next request's number, which is how many there were.
    next: u64,
    /// When it may be sent.
    due: Duration,
    /// Requests without an answer, and when they are sent again.
    open: BTreeMap<u64, Duration>,
    /// The same by time.
    again: BTreeSet<(Duration, u64)>,
    retries: u64,
    acknowledged: u64,
    round_trip: Histogram,
}

impl Client {
    /// A client with its socket open, before its first request.
    pub fn open(config: ClientConfig) -> io::Result<Self> {
        let socket = UdpSocket::bind(config.bind)?;
        socket.set_nonblocking(true)?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
        Ok(Client {
            config,
            socket,
            begin: Instant::now(),
            judge: Judges::default(),
            // Randomly keyed; nobody is to be kept from guessing it, two runs are to differ.
            nonce: RandomState::new().hash_one(std::process::id()),
            next: 0,
            due: Duration::ZERO,
            open: BTreeMap::new(),
            again: BTreeSet::new(),
            retries: 0,
            acknowledged: 0,
            round_trip: Histogram::default(),
        })
    }

    /// The socket's address.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Asks and listens until `stop` has come to its end, or for `limit` from now. Tells its progress after each turn, which takes
    /// at most `turn`.
    ///
    /// What a network may do is no error: datagrams that do not leave are lost and sent again.
    pub fn run(
        &mut self,
        stop: Option<BorrowedFd<'_>>,
        limit: Option<Duration>,
        turn: Duration,
        mut progress: impl FnMut(Progress),
    ) -> io::Result<()> {
        let end = limit.and_then(|limit| self.begin.elapsed().checked_add(limit));
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let now = self.begin.elapsed();
            if end.is_some_and(|end| now >= end) {
                return Ok(());
            }
            self.ask(now);
            self.ask_again(now);
            let wake = [self.wake(), end].into_iter().flatten().min().unwrap_or(Duration::MAX);
            let stopped = self.wait(stop, wake.saturating_sub(now).min(turn))?;
            self.listen(&mut buffer);
            progress(self.progress());
            if stopped {
                return Ok(());
            }
        }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let counts = self.judge.counts();
        Progress {
            ms: u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX),
            packets: counts.packets,
            acknowledged: self.acknowledged,
            host: self.judge.active(),
            changes: counts.changes,
            lost: counts.lost,
            contradicted: counts.contradicted,
            interleaved: counts.interleaved,
        }
    }

    /// What it has seen.
    pub fn seen(&self) -> Seen {
        let counts = self.judge.counts();
        Seen {
            packets: counts.packets,
            foreign: counts.foreign,
            requests: self.next,
            retries: self.retries,
            acknowledged: self.acknowledged,
            lost: counts.lost,
            contradicted: counts.contradicted,
            interleaved: counts.interleaved,
            late: counts.late,
            duplicates: counts.duplicates,
            missing: self.judge.missing(),
            unjudged: counts.unjudged,
            changes: counts.changes,
            longest_gap_ns: nanoseconds(counts.longest_gap),
            fail_over_ns: counts.fail_over.map(nanoseconds),
            round_trip_ns: (self.round_trip.count() > 0).then(|| self.round_trip.summary()),
            hosts: self.judge.hosts(),
            faults: self.judge.faults(),
        }
    }

    /// Sends the new requests that are due.
    fn ask(&mut self, now: Duration) {
        let Some(interval) = self.interval() else {
            return;
        };
        // A moment that was missed is no reason to ask all the faster afterwards, but for what one turn may be late.
        self.due = self.due.max(now.saturating_sub(interval.max(Duration::from_millis(5))));
        while self.due <= now && self.open.len() < self.config.outstanding {
            let number = self.next;
            self.next += 1;
            self.due += interval;
            self.send(number);
        }
    }

    /// Sends again what was not answered in time.
    fn ask_again(&mut self, now: Duration) {
        while let Some(&(at, number)) = self.again.first().filter(|&&(at, _)| at <= now) {
            self.again.remove(&(at, number));
            self.retries += 1;
            self.send(number);
        }
    }

    fn send(&mut self, number: u64) {
        let now = self.begin.elapsed();
        let request = Request { number, nonce: self.nonce, sent_at: nanoseconds(now) }.emit();
        for &to in &self.config.to {
            // A datagram that does not leave is one that the network has lost.
            let _ = self.socket.send_to(&request, to);
        }
        // Never the time that it is: a turn ends.
        let again = now.saturating_add(self.config.retry.max(Duration::from_millis(1)));
        self.open.insert(number, again);
        self.again.insert((again, number));
    }

    /// Time from request to request; `None` to make none.
    fn interval(&self) -> Option<Duration> {
        Duration::from_secs(1).checked_div(self.config.rate)
    }

    /// When there is something to send.
    fn wake(&self) -> Option<Duration> {
        let room = self.open.len() < self.config.outstanding;
        let ask = self.interval().filter(|_| room).map(|_| self.due);
        let again = self.again.first().map(|&(at, _)| at);
        [ask, again].into_iter().flatten().min()
    }

    /// Waits for datagrams, or for the end of `stop`: then true.
    fn wait(&self, stop: Option<BorrowedFd<'_>>, time: Duration) -> io::Result<bool> {
        let time = Timespec::try_from(time).ok();
        let mut fds = vec![PollFd::new(&self.socket, PollFlags::IN)];
        fds.extend(stop.map(|stop| PollFd::from_borrowed_fd(stop, PollFlags::IN)));
        match poll(&mut fds, time.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let told = fds.get(1).is_some_and(|stop| !stop.revents().is_empty());
        match stop.filter(|_| told).map(|stop| rustix::io::read(stop, &mut [0; 4096])) {
            Some(Ok(0)) => Ok(true),
            Some(Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN)) | Some(Ok(_)) | None => Ok(false),
            Some(Err(error)) => Err(error.into()),
        }
    }

    fn listen(&mut self, buffer: &mut [u8]) {
        for _ in 0..BURST {
            let (length, from) = match self.socket.recv_from(buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // What an earlier datagram met on its way; reading it has cleared it.
                Err(_) => continue,
            };
            let now = self.begin.elapsed();
            let bytes = buffer.get(..length).unwrap_or_default();
            if let Some(packet) = self.judge.packet(now, from, bytes) {
                self.take_answer(now, from, &packet);
            }
        }
    }

    /// Takes an echo for an answer, if it is one to a request of ours.
    fn take_answer(&mut self, now: Duration, from: SocketAddr, packet: &WorkloadPacket) {
        if packet.kind != PacketKind::Echo {
            return;
        }
        let Some(request) = Request::parse(&packet.payload).filter(|request| request.nonce == self.nonce) else {
            return;
        };
        let round_trip = nanoseconds(now).checked_sub(request.sent_at);
        let (Some(round_trip), true) = (round_trip, request.number < self.next) else {
            return self.judge.contradict(now, from, packet);
        };
        if let Some(again) = self.open.remove(&request.number) {
            self.again.remove(&(again, request.number));
            self.acknowledged += 1;
            self.round_trip.add(round_trip);
        }
    }
}

/// A client on a thread of its own.
#[derive(Debug)]
pub struct ClientThread {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Its end is the sign to stop.
    stop: Option<PipeWriter>,
    handle: Option<JoinHandle<io::Result<Seen>>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// `None` once the client has stopped.
    progress: Mutex<Option<Progress>>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Progress>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, progress: Option<Progress>) {
        *self.lock() = progress;
        self.changed.notify_all();
    }
}

impl ClientThread {
    /// How long a turn may take: progress is at most this old.
    const TURN: Duration = Duration::from_millis(100);

    /// Opens a client and lets it run.
    pub fn start(config: ClientConfig) -> io::Result<Self> {
        let mut client = Client::open(config)?;
        let address = client.address()?;
        let (reader, writer) = io::pipe()?;
        let shared = Arc::new(Shared { progress: Mutex::new(Some(Progress::default())), ..Shared::default() });
        let handle = std::thread::Builder::new().name("sim-client".into()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                let result = client.run(Some(reader.as_fd()), None, Self::TURN, |progress| shared.set(Some(progress)));
                shared.set(None);
                result.map(|()| client.seen())
            }
        })?;
        Ok(ClientThread { address, shared, stop: Some(writer), handle: Some(handle) })
    }

    /// The client's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the client's progress is as wished. False when that takes longer than `patience`, or the client has stopped.
    pub fn wait_until(&self, patience: Duration, mut wished: impl FnMut(&Progress) -> bool) -> bool {
        let waiting = |progress: &mut Option<Progress>| progress.as_ref().is_some_and(|progress| !wished(progress));
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), patience, waiting);
        let (progress, time) = waited.unwrap_or_else(PoisonError::into_inner);
        progress.is_some() && !time.timed_out()
    }

    /// Stops the client. Errors are those of [`Client::run`].
    pub fn stop(mut self) -> io::Result<Seen> {
        self.stop = None;
        match self.handle.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            _ => Err(io::Error::other("the client's thread has panicked")),
        }
    }
}

impl Drop for ClientThread {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(handle) = self.handle.take() {
            // Nobody wants the result.
            let _ = handle.join();
        }
    }
}
