//! The guest's disk on the host where the guest runs: each write is done here, and sent to the keeper, in one order.
//!
//! A write is answered when it is done here and in the queue to the keeper; it never waits for the network, but for room in the queue,
//! and for that at most [`Limits::patience`]: then the keeper counts as gone. Whatever happens to the keeper, the disk goes on; which
//! blocks it would still need is remembered, and sent when it is back.
#![forbid(unsafe_code)]

use super::Mark;
use super::blocks::{BLOCK, Blocks, touched};
use super::error::{Error, Result};
use super::folder::Folder;
use super::image::Image;
use super::wire::{Frame, Hello, MAX_DATA, Point};
use crate::transport::{Address, Cancel};
use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of the disk that are brought into sync at a time, while the guest's writes wait.
const CHUNK: u64 = 4 * BLOCK;
/// Bytes sent until the keeper is asked to make them safe, while no checkpoint does that.
const BARRIER: u64 = 32 << 20;
/// Zeroes that are written under one lock.
const ZEROES: u64 = 32 << 20;

/// Bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Most bytes that wait for the keeper; one more write may be in it.
    pub buffer: usize,
    /// How long the keeper may take to answer, or to take bytes.
    pub patience: Duration,
}

/// The disk.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) image: Arc<Image>,
    _folder: Folder,
    pub(super) name: String,
    pub(super) limits: Limits,
    state: Mutex<State>,
    /// Told of any change of the state.
    changed: Condvar,
}

/// How far the keeper's copy is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Synced {
    No,
    /// With this barrier.
    Told(u64),
    Yes,
}

#[derive(Debug)]
struct State {
    /// Of the last keeper that was sent all.
    run: u64,
    peer: Option<Address>,
    /// What calls the connection off, from its first attempt on.
    cancel: Option<Cancel>,
    /// The keeper has greeted.
    up: bool,
    queue: VecDeque<Frame>,
    queued: usize,
    /// What the keeper needs.
    dirty: Blocks,
    cursor: u64,
    /// The keeper has zeroes where nothing was sent.
    full: bool,
    /// What was sent since the last barrier, and before each that was not answered.
    sent: BTreeSet<u64>,
    barriers: VecDeque<(u64, BTreeSet<u64>)>,
    since_barrier: u64,
    seq: u64,
    held: u64,
    synced: Synced,
    /// Checkpoints are kept apart there.
    marked: bool,
    session: Option<u64>,
    checkpoint: Option<Mark>,
    /// A new protection has begun since the last connection.
    anew: bool,
    trouble: Option<String>,
    /// Questions that were sent and not answered, and since when the keeper has said nothing.
    asked: u32,
    silent: Option<Instant>,
    /// Since when the connection takes no bytes.
    sending: Option<Instant>,
}

/// What is to be sent next.
#[derive(Debug)]
pub(super) enum Next {
    Frame(Frame),
    /// Nothing for now.
    Wait,
    /// The connection is not wanted any more.
    End,
}

/// The disk in figures.
#[derive(Debug, Clone)]
pub(super) struct Figures {
    pub peer: Option<String>,
    pub up: bool,
    pub percent: u64,
    pub marked: bool,
    pub queued: u64,
    pub checkpoint: Option<Mark>,
    pub trouble: Option<String>,
}

impl Source {
    pub(super) fn new(image: Arc<Image>, folder: Folder, name: &str, limits: Limits, peer: Option<Address>) -> Self {
        let dirty = Blocks::none(image.size());
        let state = State {
            run: fresh_run(),
            peer,
            cancel: None,
            up: false,
            queue: VecDeque::new(),
            queued: 0,
            dirty,
            cursor: 0,
            full: false,
            sent: BTreeSet::new(),
            barriers: VecDeque::new(),
            since_barrier: 0,
            seq: 0,
            held: 0,
            synced: Synced::No,
            marked: false,
            session: None,
            checkpoint: None,
            anew: false,
            trouble: None,
            asked: 0,
            silent: None,
            sending: None,
        };
        Source {
            image,
            _folder: folder,
            name: name.to_owned(),
            limits,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.image.read(offset, bytes)
    }

    pub(super) fn write(&self, offset: u64, bytes: Vec<u8>) -> Result<()> {
        let length = bytes.len();
        self.image.check(offset, length as u64)?;
        let mut state = self.room(length);
        let written = self.image.write(offset, &bytes);
        if written.is_ok() && state.up {
            if length <= MAX_DATA {
                state.push(Frame::Write { offset, bytes });
            } else {
                for (index, part) in bytes.chunks(MAX_DATA).enumerate() {
                    let offset = offset + (index * MAX_DATA) as u64;
                    state.push(Frame::Write { offset, bytes: part.to_vec() });
                }
            }
            self.changed.notify_all();
        }
        // Behind the frames: a barrier between two of them does not vouch for the second.
        self.note(&mut state, offset, length as u64, &written);
        written
    }

    pub(super) fn zero(&self, offset: u64, length: u64, hole: bool) -> Result<()> {
        self.image.check(offset, length)?;
        let mut at = offset;
        let end = offset + length;
        while at < end {
            let now = (end - at).min(ZEROES);
            let mut state = self.room(0);
            let written = self.image.zero(at, now, hole);
            if written.is_ok() && state.up {
                state.push(Frame::Zero { offset: at, length: now });
                self.changed.notify_all();
            }
            self.note(&mut state, at, now, &written);
            written?;
            at += now;
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.image.sync()
    }

    /// Waits until the queue has room, for as long as the keeper may take.
    fn room(&self, bytes: usize) -> MutexGuard<'_, State> {
        let full =
            |state: &mut State| state.up && state.queued > 0 && state.queued.saturating_add(bytes) > self.limits.buffer;
        let waited = self.changed.wait_timeout_while(self.lock(), self.limits.patience, full);
        let (mut state, time) = waited.unwrap_or_else(PoisonError::into_inner);
        if time.timed_out() && full(&mut state) {
            self.lose(&mut state, format!("the keeper takes no bytes for {:?}", self.limits.patience));
        }
        state
    }

    /// Remembers what is written for as long as the keeper may not have it.
    fn note(&self, state: &mut State, offset: u64, length: u64, written: &Result<()>) {
        if let Err(error) = written {
            // What is there now nobody knows.
            self.lose(state, format!("the guest's own disk: {error}"));
        }
        for block in touched(offset, length) {
            if state.up {
                state.sent.insert(block);
            } else {
                state.dirty.add(block);
            }
        }
    }

    /// The connection is of no use any more. The disk goes on.
    fn lose(&self, state: &mut State, why: String) {
        if let Some(cancel) = state.cancel.take() {
            cancel.cancel();
        }
        if std::mem::take(&mut state.up) {
            log::warn!("{}: the disk is NOT replicated: {why}", self.name);
        }
        let sent = std::mem::take(&mut state.sent);
        let before = std::mem::take(&mut state.barriers);
        for block in before.into_iter().flat_map(|(_, blocks)| blocks).chain(sent) {
            state.dirty.add(block);
        }
        state.queue.clear();
        (state.queued, state.since_barrier, state.asked) = (0, 0, 0);
        (state.silent, state.sending) = (None, None);
        (state.synced, state.marked) = (Synced::No, false);
        state.trouble = Some(why);
        self.changed.notify_all();
    }

    // What the engine asks for.

    /// A protection begins. What the keeper has of an earlier one is void.
    pub(super) fn begin(&self, session: u64) -> Result<()> {
        let mut state = self.lock();
        if state.peer.is_none() {
            return Err(Error::Gone("none is set: `disk to` sets one".into()));
        }
        let again = state.session.replace(session) == Some(session);
        match (state.up, state.marked && !again) {
            (true, true) => {
                state.push(Frame::Begin);
                state.marked = false;
            }
            (true, false) => {}
            (false, _) => state.anew = true,
        }
        self.changed.notify_all();
        Ok(())
    }

    /// The guest stands still: what it was answered until now belongs to the checkpoint. Gives the number to wait for.
    pub(super) fn close(&self, mark: Mark, disks: u32) -> Result<u64> {
        let mut state = self.lock();
        if !state.up {
            return Err(Error::Gone(state.trouble.clone().unwrap_or_else(|| "no connection".into())));
        }
        if state.session != Some(mark.session) {
            return Err(Error::Protocol(format!("{mark} is of no protection that has begun")));
        }
        if state.synced != Synced::Yes {
            return Err(Error::NotInSync { percent: state.percent() });
        }
        state.marked = true;
        state.checkpoint = Some(mark);
        let seq = state.barrier(|seq| Frame::Mark(Point { seq, mark, disks }));
        self.changed.notify_all();
        Ok(seq)
    }

    /// Waits until the keeper has what was written up to this number.
    pub(super) fn wait(&self, seq: u64, patience: Duration) -> Result<()> {
        let waited = self.changed.wait_timeout_while(self.lock(), patience, |state| state.up && state.held < seq);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match (state.up, state.held >= seq) {
            (true, true) => Ok(()),
            (true, false) => Err(Error::Slow { what: "the keeper to have a checkpoint", seconds: patience.as_secs() }),
            (false, _) => Err(Error::Gone(state.trouble.clone().unwrap_or_else(|| "no connection".into()))),
        }
    }

    /// Waits until the copy is complete, at most so long; gives how much of it is.
    pub(super) fn synced(&self, patience: Duration) -> Result<u64> {
        let unsynced = |state: &mut State| state.peer.is_some() && state.synced != Synced::Yes;
        let waited = self.changed.wait_timeout_while(self.lock(), patience, unsynced);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &state.trouble {
            Some(trouble) if !state.up => Err(Error::Gone(trouble.clone())),
            _ => Ok(state.percent()),
        }
    }

    /// The protection has ended. What the keeper has of it stays there until the next one begins.
    pub(super) fn leave(&self) {
        let mut state = self.lock();
        state.session = None;
        if state.up && state.marked {
            self.lose(&mut state, "the domain's protection has ended".into());
        }
    }

    /// Another keeper.
    pub(super) fn set_peer(&self, peer: Address) {
        let mut state = self.lock();
        self.lose(&mut state, "another keeper was set".into());
        state.peer = Some(peer);
        self.changed.notify_all();
    }

    pub(super) fn figures(&self) -> Figures {
        let state = self.lock();
        Figures {
            peer: state.peer.as_ref().map(Address::to_string),
            up: state.up,
            percent: if state.up { state.percent() } else { 0 },
            marked: state.marked,
            queued: state.queued as u64,
            checkpoint: state.checkpoint,
            trouble: state.trouble.clone().filter(|_| !state.up),
        }
    }

    // What the connection asks for.

    /// Waits until there is a keeper to connect to. Gives what to greet it with.
    pub(super) fn wanted(&self, cancel: Cancel) -> (Address, Hello) {
        let mut state = self.lock();
        loop {
            if let Some(peer) = state.peer.clone() {
                state.cancel = Some(cancel);
                let (size, name) = (self.image.size(), self.name.clone());
                return (peer, Hello { flag: state.anew, size, run: state.run, name });
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The keeper has greeted. `partial`: it needs but what it was not known to have.
    pub(super) fn connected(&self, partial: bool) -> bool {
        let mut state = self.lock();
        // Called off meanwhile.
        if state.cancel.is_none() {
            return false;
        }
        (state.up, state.anew, state.trouble) = (true, false, None);
        (state.cursor, state.full) = (0, !partial);
        if !partial {
            state.dirty.fill();
            state.run = fresh_run();
            let run = state.run;
            state.push(Frame::Reset { run });
        }
        log::info!(
            "{}: the keeper is there, {} of {} blocks are to be brought into sync",
            self.name,
            state.dirty.count(),
            state.dirty.of()
        );
        self.changed.notify_all();
        true
    }

    /// The connection is of no use any more.
    pub(super) fn end(&self, why: String) {
        let mut state = self.lock();
        if state.up {
            self.lose(&mut state, why);
        }
    }

    /// The connection has ended, or there was none. Waits for a while, or until it is wanted for a new protection.
    pub(super) fn disconnected(&self, why: String, pause: Duration) {
        let mut state = self.lock();
        if state.trouble.as_ref() != Some(&why) && state.cancel.is_some() && !state.up {
            log::warn!("{}: {why}", self.name);
        }
        // Called off for a reason that is known already.
        if state.up || state.cancel.is_some() {
            self.lose(&mut state, why);
        }
        let anew = state.anew;
        let waited = self.changed.wait_timeout_while(state, pause, |state| state.anew == anew);
        drop(waited);
    }

    /// What is to be sent next; waits for it at most `pause`.
    pub(super) fn next(&self, pause: Duration) -> Next {
        let mut state = self.lock();
        state.sending = None;
        loop {
            if !state.up {
                return Next::End;
            }
            if state.queue.is_empty() && state.synced == Synced::No {
                self.chunk(&mut state);
                if state.queue.is_empty() {
                    // Others have their turn between two looks for what is not zero.
                    drop(state);
                    state = self.lock();
                    continue;
                }
            }
            if let Some(frame) = state.queue.pop_front() {
                state.queued = state.queued.saturating_sub(frame.weight());
                state.sending = Some(Instant::now());
                if matches!(frame, Frame::Ping | Frame::Barrier { .. } | Frame::Mark(_)) {
                    state.asked += 1;
                    state.silent.get_or_insert_with(Instant::now);
                }
                self.changed.notify_all();
                return Next::Frame(frame);
            }
            let idle = |state: &mut State| state.up && state.queue.is_empty();
            let waited = self.changed.wait_timeout_while(state, pause, idle);
            let (now, time) = waited.unwrap_or_else(PoisonError::into_inner);
            state = now;
            if time.timed_out() && idle(&mut state) {
                if state.asked > 0 {
                    return Next::Wait;
                }
                if state.marked || state.sent.is_empty() {
                    state.push(Frame::Ping);
                } else {
                    state.barrier(|seq| Frame::Barrier { seq });
                }
            }
        }
    }

    /// The keeper has answered.
    pub(super) fn answered(&self, held: Option<u64>) {
        let mut state = self.lock();
        state.asked = state.asked.saturating_sub(1);
        state.silent = (state.asked > 0).then(Instant::now);
        if let Some(seq) = held {
            state.held = state.held.max(seq);
            while state.barriers.front().is_some_and(|(before, _)| *before <= seq) {
                state.barriers.pop_front();
            }
            if let Synced::Told(told) = state.synced
                && told <= seq
            {
                state.synced = Synced::Yes;
                log::info!("{}: the keeper's copy is in sync", self.name);
            }
        }
        self.changed.notify_all();
    }

    /// Whether the keeper has said nothing, or taken nothing, for too long.
    pub(super) fn is_silent(&self) -> bool {
        let state = self.lock();
        [state.silent, state.sending].into_iter().flatten().any(|since| since.elapsed() >= self.limits.patience)
    }

    /// Puts into the queue what the keeper needs next: a chunk, or, where there is none, that it has all.
    fn chunk(&self, state: &mut State) {
        let Some(first) = state.dirty.next(state.cursor).or_else(|| state.dirty.next(0)) else {
            state.push(Frame::Synced);
            let seq = state.barrier(|seq| Frame::Barrier { seq });
            state.synced = Synced::Told(seq);
            return;
        };
        if state.full {
            // Holes are zeroes, which it has.
            let data = self.image.data(first * BLOCK).map_or(state.dirty.of(), |at| at / BLOCK);
            if data > first {
                (first..data).for_each(|block| state.dirty.remove(block));
                state.cursor = data;
                return;
            }
        }
        let mut last = first;
        while (last + 1 - first) * BLOCK < CHUNK && state.dirty.next(last + 1) == Some(last + 1) {
            last += 1;
        }
        let offset = first * BLOCK;
        let length = ((last + 1) * BLOCK).min(self.image.size()) - offset;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        if let Err(error) = self.image.read(offset, &mut bytes) {
            return self.lose(state, format!("the guest's own disk: {error}"));
        }
        for block in first..=last {
            state.dirty.remove(block);
            state.sent.insert(block);
        }
        state.cursor = last + 1;
        match bytes.iter().all(|byte| *byte == 0) {
            true if state.full => {}
            true => state.push(Frame::Zero { offset, length }),
            false => state.push(Frame::Write { offset, bytes }),
        }
    }
}

/// A number that no keeper knows. 0 stands for nobody.
fn fresh_run() -> u64 {
    RandomState::new().build_hasher().finish() | 1
}

impl State {
    fn push(&mut self, frame: Frame) {
        let weight = frame.weight();
        self.queued += weight;
        self.since_barrier += weight as u64;
        self.queue.push_back(frame);
        // Checkpoints are barriers of their own, and what is kept apart until then cannot be made safe before.
        if self.since_barrier >= BARRIER && !self.marked {
            self.barrier(|seq| Frame::Barrier { seq });
        }
    }

    fn barrier(&mut self, frame: impl FnOnce(u64) -> Frame) -> u64 {
        self.seq += 1;
        self.since_barrier = 0;
        self.barriers.push_back((self.seq, std::mem::take(&mut self.sent)));
        let frame = frame(self.seq);
        self.queued += frame.weight();
        self.queue.push_back(frame);
        self.seq
    }

    fn percent(&self) -> u64 {
        match self.synced {
            Synced::Yes => 100,
            _ => ((self.dirty.of() - self.dirty.count()) * 100 / self.dirty.of().max(1)).min(99),
        }
    }
}
