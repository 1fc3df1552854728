//! The way between the two sides, over this process: it can be cut in either direction with the sockets left open, be slow, late
//! and lossy, and damage what it carries.

use crate::cases::Dice;
use crate::flipper::Flipper;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes that a segment of TCP carries on an Ethernet.
const SEGMENT: usize = 1448;

/// What a direction is like. The default is this machine's own loopback.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// From one end to the other.
    pub delay: Duration,
    /// Bytes a second, if there is a limit.
    pub rate: Option<u32>,
    /// Of 1,000 segments how many are lost: each comes again after [`Weather::again`], and holds up all behind it, as with TCP.
    pub loss_permille: u64,
    /// How long it takes TCP to send a lost segment again.
    pub again: Duration,
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    cut: bool,
    over: bool,
}

impl Way {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Waits until something may pass; false when nothing will any more.
    fn wait(&self) -> bool {
        let state = self.changed.wait_while(self.state(), |state| state.cut && !state.over);
        !state.unwrap_or_else(PoisonError::into_inner).over
    }

    /// Waits for a moment to come.
    fn wait_until(&self, due: Instant) {
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            drop(self.changed.wait_timeout_while(self.state(), wait, |state| !state.over));
        }
    }
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// From the primary to the secondary.
    Forward,
    /// From the secondary to the primary.
    Backward,
    Both,
}

/// A proxy for TCP. Its connections end with it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    ways: [Arc<Way>; 2],
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens at `address` for what is meant for `target`. The flippers take the forward and the backward direction of the first
    /// connection.
    pub fn start(
        address: SocketAddr,
        target: SocketAddr,
        weather: Weather,
        mut flippers: [Option<Flipper>; 2],
    ) -> Proxy {
        let listener = TcpListener::bind(address).unwrap();
        // What a slow way has not carried yet is to wait with its sender.
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 64 << 10).unwrap();
        let ways: [Arc<Way>; 2] = Default::default();
        let threads: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
        let accepting = thread::spawn({
            let (ways, threads) = (ways.clone(), Arc::clone(&threads));
            move || {
                while let Ok((near, _)) = listener.accept() {
                    if ways[0].state().over {
                        return;
                    }
                    // Nobody there: the caller hears it as the end of its connection.
                    let Ok(far) = TcpStream::connect(target) else { continue };
                    let ends = [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)];
                    for (index, (from, to)) in ends.into_iter().enumerate() {
                        let (way, flipper) = (Arc::clone(&ways[index]), flippers[index].take());
                        let (in_, out) = sync_channel(64);
                        let reading = Arc::clone(&way);
                        let mut threads = threads.lock().unwrap_or_else(PoisonError::into_inner);
                        threads.push(thread::spawn(move || take_in(from, &reading, flipper, weather, &in_)));
                        threads.push(thread::spawn(move || give_out(to, &way, &out)));
                    }
                }
            }
        });
        Proxy { address, ways, threads, accepting: Some(accepting) }
    }

    /// Where it listens.
    pub fn link(&self) -> String {
        format!("tcp:{}", self.address)
    }

    /// From now on nothing passes, and nobody is told.
    pub fn cut(&self, cut: Cut) {
        self.set(cut, true);
    }

    /// What has waited, and everything else, passes again.
    pub fn heal(&self) {
        self.set(Cut::Both, false);
    }

    fn set(&self, cut: Cut, value: bool) {
        let [forward, backward] = &self.ways;
        if cut != Cut::Backward {
            forward.set(|state| state.cut = value);
        }
        if cut != Cut::Forward {
            backward.set(|state| state.cut = value);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for way in &self.ways {
            way.set(|state| state.over = true);
        }
        // Wakes who accepts.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// Bytes and the time at which they arrive at the other end; none for the end of the connection.
type Parcel = (Instant, Option<Vec<u8>>);

fn take_in(mut from: TcpStream, way: &Way, mut flipper: Option<Flipper>, weather: Weather, out: &SyncSender<Parcel>) {
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut dice = Dice::new(11);
    let mut buffer = vec![0; 64 << 10];
    let mut free = Instant::now();
    loop {
        if way.state().over {
            return;
        }
        let got = match from.read(&mut buffer) {
            Ok(got) => got,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            Err(_) => 0,
        };
        let bytes = match &mut flipper {
            Some(flipper) => flipper.pass(&buffer[..got]),
            None => buffer[..got].to_vec(),
        };
        for segment in bytes.chunks(if weather.rate.is_some() || weather.loss_permille > 0 { SEGMENT } else { 1 << 16 })
        {
            free = free.max(Instant::now());
            if let Some(rate) = weather.rate {
                free += Duration::from_secs(1).mul_f64(segment.len() as f64 / f64::from(rate));
            }
            if dice.below(1000) < weather.loss_permille {
                free += weather.again;
            }
            if out.send((free + weather.delay, Some(segment.to_vec()))).is_err() {
                return;
            }
        }
        if got == 0 {
            let _ = out.send((free.max(Instant::now()) + weather.delay, None));
            return;
        }
    }
}

fn give_out(mut to: TcpStream, way: &Way, parcels: &Receiver<Parcel>) {
    to.set_nodelay(true).unwrap();
    // One that does not read must not keep this from ending.
    to.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
    for (due, bytes) in parcels {
        way.wait_until(due);
        if !way.wait() {
            break;
        }
        let Some(bytes) = bytes else { break };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match to.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    if way.state().over {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
    }
    // The direction has ended; the other one may go on.
    let _ = to.shutdown(Shutdown::Write);
}
