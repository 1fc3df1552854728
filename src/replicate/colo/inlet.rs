//! What the copy's thread waits for: bytes of the stream, and orders. A single place, for either may come while it waits for the other.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that wait at most, and one chunk.
const MOST: usize = 1 << 20;

/// The place. Clones are the same one.
#[derive(Debug)]
pub struct Inlet<O>(Arc<Shared<O>>);

impl<O> Clone for Inlet<O> {
    fn clone(&self) -> Self {
        Inlet(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Shared<O> {
    state: Mutex<State<O>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<O> {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that have been read.
    taken: usize,
    waiting: usize,
    orders: VecDeque<O>,
    /// No more bytes come.
    ended: bool,
    /// Nobody reads any more.
    deaf: bool,
}

/// What there is.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<O> {
    /// An order. Orders come first.
    Order(O),
    /// Bytes can be read.
    Bytes,
    /// The stream has ended. Told once.
    Ended,
}

impl<O> Default for Inlet<O> {
    fn default() -> Self {
        let state =
            State { chunks: VecDeque::new(), taken: 0, waiting: 0, orders: VecDeque::new(), ended: false, deaf: false };
        Inlet(Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }))
    }
}

impl<O> Inlet<O> {
    fn state(&self) -> MutexGuard<'_, State<O>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<O>>) -> MutexGuard<'a, State<O>> {
        self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives orders, all at once: nobody does the first and looks for bytes before the last is there. Does not wait.
    pub fn order(&self, orders: impl IntoIterator<Item = O>) {
        self.state().orders.extend(orders);
        self.0.changed.notify_all();
    }

    /// Puts bytes in, waiting for room. False when nobody reads them.
    pub fn put(&self, bytes: &[u8]) -> bool {
        let mut state = self.state();
        while state.waiting >= MOST && !state.deaf {
            state = self.wait(state);
        }
        if !state.deaf && !bytes.is_empty() {
            state.waiting += bytes.len();
            state.chunks.push_back(bytes.to_vec());
            self.0.changed.notify_all();
        }
        !state.deaf
    }

    /// No more bytes come.
    pub fn end(&self) {
        self.state().ended = true;
        self.0.changed.notify_all();
    }

    /// Nobody reads from here on.
    pub fn close(&self) {
        let mut state = self.state();
        state.deaf = true;
        state.chunks.clear();
        self.0.changed.notify_all();
    }

    /// Waits for what there is.
    pub fn next(&self) -> Next<O> {
        let mut state = self.state();
        loop {
            if let Some(order) = state.orders.pop_front() {
                return Next::Order(order);
            }
            if !state.chunks.is_empty() {
                return Next::Bytes;
            }
            if std::mem::take(&mut state.ended) {
                // Whoever reads on finds nothing.
                state.deaf = true;
                return Next::Ended;
            }
            state = self.wait(state);
        }
    }
}

impl<O> Read for Inlet<O> {
    /// Gives bytes, waiting for them; nothing at the stream's end.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionAborted`] when there is an order: whatever is being read is not wanted any more.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        loop {
            if !state.orders.is_empty() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let State { chunks, taken, waiting, .. } = &mut *state;
            if let Some(chunk) = chunks.front() {
                let here = chunk.get(*taken..).unwrap_or_default();
                let got = here.len().min(out.len());
                crate::copying::copy(here, out);
                *taken += got;
                *waiting -= got;
                if *taken >= chunk.len() {
                    chunks.pop_front();
                    *taken = 0;
                }
                self.0.changed.notify_all();
                return Ok(got);
            }
            if state.ended || state.deaf {
                return Ok(0);
            }
            state = self.wait(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_in_order_and_orders_come_first() {
        let mut inlet = Inlet::default();
        assert!(inlet.put(b"abc") && inlet.put(b"de"));
        let mut two = [0; 2];
        assert_eq!((inlet.read(&mut two).unwrap(), &two), (2, b"ab"));
        inlet.order([7]);
        assert_eq!(inlet.read(&mut two).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!((inlet.next(), inlet.next()), (Next::Order(7), Next::Bytes));
        inlet.end();
        let mut rest = Vec::new();
        inlet.read_to_end(&mut rest).unwrap();
        assert_eq!((&rest[..], inlet.next()), (&b"cde"[..], Next::Ended));
    }

    #[test]
    fn what_waits_is_bounded_and_nobody_waits_for_the_deaf() {
        let inlet = Inlet::<()>::default();
        assert!(inlet.put(&vec![0; MOST]));
        let other = inlet.clone();
        let putting = std::thread::spawn(move || other.put(b"more"));
        inlet.close();
        assert!(!putting.join().unwrap());
    }
}
