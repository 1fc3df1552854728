//! The other host's side: takes a primary's writes, keeps epochs apart, and has them become a part of the copy when it is told to.
//!
//! One primary at a time: a new one that suits takes the place of the one before, whose connection may be one to a dead host.
#![forbid(unsafe_code)]

use super::Mark;
use super::error::{Error, Result};
use super::folder::{Folder, Stage, State};
use super::image::Image;
use super::journal::Op;
use super::source_link::{readable, send, wrong};
use super::store::Store;
use super::wire::{self, Frame, Hello, MAGIC};
use crate::transport::{Cancel, Link, Listener};
use std::io::{BufReader, IoSlice};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a primary may take to say who it is.
const GREETING: Duration = Duration::from_secs(10);
/// Most connections that have not said who they are.
const STRANGERS: usize = 8;

/// The copy, and who sends.
#[derive(Debug)]
pub(super) struct Keeper {
    inner: Mutex<Inner>,
    /// Told when epochs are applied.
    idle: Condvar,
    name: String,
}

#[derive(Debug)]
struct Inner {
    /// Until it is put into service.
    store: Option<Store>,
    /// The current primary's connection.
    primary: Option<(u64, Cancel)>,
    connections: u64,
    strangers: usize,
    /// Somebody applies epochs to the image, without the lock.
    applying: bool,
    trouble: Option<String>,
}

/// The copy in figures.
#[derive(Debug, Clone)]
pub(super) struct Figures {
    pub state: State,
    pub connected: bool,
    pub kept: u64,
    pub newest: Option<Mark>,
    pub committed: Option<Mark>,
    pub trouble: Option<String>,
}

impl Keeper {
    pub(super) fn new(store: Store, name: &str) -> Self {
        let store = Some(store);
        let inner = Inner { store, primary: None, connections: 0, strangers: 0, applying: false, trouble: None };
        Keeper { inner: Mutex::new(inner), idle: Condvar::new(), name: name.to_owned() }
    }

    /// Takes primaries there, on threads that end with the process.
    pub(super) fn listen(self: &Arc<Self>, listener: Listener) -> std::io::Result<()> {
        let keeper = Arc::clone(self);
        thread::Builder::new().name("disk-keeper".into()).spawn(move || {
            let never = match Cancel::new() {
                Ok(never) => never,
                Err(error) => return log::error!("{}: {error}", keeper.name),
            };
            loop {
                match listener.accept(&never) {
                    Ok((link, cancel)) => keeper.admit(link, cancel),
                    Err(error) => return log::error!("{}: listening: {error}", keeper.name),
                }
            }
        })?;
        Ok(())
    }

    fn admit(self: &Arc<Self>, link: Link, cancel: Cancel) {
        let mut inner = self.lock();
        if inner.strangers >= STRANGERS {
            return log::warn!("{}: too many connections that say nothing", self.name);
        }
        inner.strangers += 1;
        inner.connections += 1;
        let number = inner.connections;
        drop(inner);
        let keeper = Arc::clone(self);
        let served = thread::Builder::new().name("disk-primary".into()).spawn(move || {
            let peer = link.peer().to_owned();
            let served = keeper.serve(link, &cancel, number);
            keeper.left(number, &peer, served);
        });
        if let Err(error) = served {
            log::warn!("{}: no thread for a connection: {error}", self.name);
            self.lock().strangers -= 1;
        }
    }

    fn left(&self, number: u64, peer: &str, served: Result<()>) {
        let mut inner = self.lock();
        let current = inner.primary.as_ref().is_some_and(|(current, _)| *current == number);
        if current {
            inner.primary = None;
            // What came behind the last mark will come again, or is not wanted.
            if let Some(Err(error)) = inner.store.as_mut().map(Store::forget_open) {
                log::warn!("{}: {error}", self.name);
            }
        }
        match served {
            Ok(()) => log::info!("{}: {peer} has left", self.name),
            Err(error) => {
                log::warn!("{}: {peer}: {error}", self.name);
                if current {
                    inner.trouble = Some(error.to_string());
                }
            }
        }
    }

    fn serve(&self, link: Link, cancel: &Cancel, number: u64) -> Result<()> {
        let (reader, mut writer) = link.split();
        let probe = reader.probe();
        let greeting = (|| {
            if !readable(&probe, GREETING)? {
                return Err(Error::Slow { what: "the primary to greet", seconds: GREETING.as_secs() });
            }
            let mut reader = BufReader::with_capacity(256 << 10, reader);
            wire::read_magic(&mut reader).map_err(wrong)?;
            match wire::read(&mut reader, 0).map_err(wrong)? {
                Some(Frame::Hello(hello)) => Ok((reader, hello)),
                other => Err(Error::Protocol(format!("{other:?} for a greeting"))),
            }
        })();
        self.lock().strangers -= 1;
        let sending = |error: std::io::Error| super::error::io("the connection")(error);
        writer.write_all_vectored(&mut [IoSlice::new(&MAGIC)]).map_err(sending)?;
        let greeted = greeting.and_then(|(reader, hello)| Ok((reader, self.greet(&hello, cancel, number)?)));
        let (mut reader, ours) = match greeted {
            Ok(greeted) => greeted,
            Err(error) => {
                let _ = send(&mut writer, &Frame::Refused { text: error.to_string() }, 0);
                return Err(error);
            }
        };
        send(&mut writer, &Frame::Hello(ours), 0)?;
        let (mut got, mut sent) = (1, 1);
        loop {
            let answer = match wire::read(&mut reader, got).map_err(wrong) {
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => self.take(frame, number),
                Err(error) => Err(error),
            };
            got += 1;
            match answer {
                Ok(None) => {}
                Ok(Some(frame)) => {
                    send(&mut writer, &frame, sent)?;
                    sent += 1;
                }
                Err(error) => {
                    // It may be gone.
                    let _ = send(&mut writer, &Frame::Refused { text: error.to_string() }, sent);
                    return Err(error);
                }
            }
        }
    }

    fn greet(&self, hello: &Hello, cancel: &Cancel, number: u64) -> Result<Hello> {
        let mut inner = self.when_idle();
        let store = inner.store.as_mut().ok_or(Error::InService)?;
        let flag = store.hello(hello)?;
        let run = store.state().run;
        if let Some((_, before)) = inner.primary.replace((number, cancel.clone())) {
            before.cancel();
        }
        inner.trouble = None;
        Ok(Hello { flag, run, ..hello.clone() })
    }

    /// A frame of the current primary's. Gives the answer.
    fn take(&self, frame: Frame, number: u64) -> Result<Option<Frame>> {
        let mut inner = match frame {
            // While epochs are applied to the image, others can be written.
            Frame::Write { .. } | Frame::Zero { .. } | Frame::Mark(_) | Frame::Ping | Frame::Barrier { .. } => {
                self.lock()
            }
            _ => self.when_idle(),
        };
        if inner.primary.as_ref().is_none_or(|(current, _)| *current != number) {
            return Err(Error::Gone("another primary has come".into()));
        }
        let store = inner.store.as_mut().ok_or(Error::InService)?;
        match frame {
            Frame::Write { offset, bytes } => store.write(Op::Write { offset, bytes: &bytes }).map(|()| None),
            Frame::Zero { offset, length } => store.write(Op::Zero { offset, length }).map(|()| None),
            Frame::Reset { run } => store.reset(run).map(|()| None),
            Frame::Synced => store.synced().map(|()| None),
            Frame::Begin => store.follow().map(|()| None),
            Frame::Barrier { seq } => store.barrier().map(|()| Some(Frame::Held { seq })),
            Frame::Mark(point) => store.mark(point).map(|()| Some(Frame::Held { seq: point.seq })),
            Frame::Ping => Ok(Some(Frame::Pong)),
            Frame::Refused { text } => Err(Error::Gone(text)),
            other => Err(Error::Protocol(format!("a frame that is not a primary's: {other:?}"))),
        }
    }

    /// The checkpoint was acknowledged to the primary: the epochs up to it become a part of the copy. Gives how many disks it is of.
    pub(super) fn commit(&self, mark: Mark) -> Result<u32> {
        let mut inner = self.when_idle();
        let redo = inner.store.as_mut().ok_or(Error::InService)?.commit(mark)?;
        inner.applying = true;
        drop(inner);
        let applied = redo.run();
        let mut inner = self.lock();
        inner.applying = false;
        self.idle.notify_all();
        applied?;
        inner.store.as_mut().ok_or(Error::InService)?.done(&redo)?;
        Ok(redo.disks)
    }

    /// Brings the image to the checkpoint and drops what came later. Gives what serves the guest from now on.
    pub(super) fn promote(&self, mark: Mark) -> Result<(Arc<Image>, Folder)> {
        self.commit(mark)?;
        let mut inner = self.when_idle();
        let store = inner.store.as_mut().ok_or(Error::InService)?;
        store.promote(mark)?;
        if let Some((_, primary)) = inner.primary.take() {
            primary.cancel();
        }
        inner.store.take().map(Store::into_parts).ok_or(Error::InService)
    }

    pub(super) fn figures(&self) -> Option<Figures> {
        let inner = self.lock();
        let store = inner.store.as_ref()?;
        Some(Figures {
            state: store.state().clone(),
            connected: inner.primary.is_some(),
            kept: store.kept(),
            newest: store.newest().filter(|_| store.stage() == Stage::Keeping).map(|point| point.mark),
            committed: store.committed().map(|point| point.mark),
            trouble: inner.trouble.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn when_idle(&self) -> MutexGuard<'_, Inner> {
        self.idle.wait_while(self.lock(), |inner| inner.applying).unwrap_or_else(PoisonError::into_inner)
    }
}
