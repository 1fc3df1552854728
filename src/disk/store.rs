//! A copy of another host's disk: an image, and the epochs that are not yet a part of it.
//!
//! | stage | a write goes | it is the disk at |
//! |---|---|---|
//! | `Empty` | into the image | nothing |
//! | `Following` | into the image | no checkpoint |
//! | `Keeping` | into the epoch's own file | [`State::at`], once the epochs up to that are applied |
//! | `Serving` | nowhere | the guest's own, from [`State::at`] on |
//!
//! What is to be done is put down first: a commit is in the state before its epochs are applied, and they are removed when they are in
//! the image for good. So a daemon that dies does it again when it starts, and that changes nothing.
#![forbid(unsafe_code)]

use super::error::{Error, Result};
use super::folder::{Folder, Stage, State};
use super::image::Image;
use super::journal::{self, Closed, Found, Op, Writer};
use super::wire::Point;
use super::{Mark, wire};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// The copy.
#[derive(Debug)]
pub(super) struct Store {
    image: Arc<Image>,
    folder: Folder,
    state: State,
    /// What was written behind the last mark.
    open: Option<Writer>,
    /// Epochs behind [`State::at`], each following the one before.
    closed: VecDeque<Closed>,
    /// Epochs up to [`State::at`] that are not known to be in the image for good.
    redo: VecDeque<Closed>,
    /// Most bytes of epochs.
    limit: u64,
}

/// Epochs to be applied, by whoever has the time.
#[derive(Debug)]
pub(super) struct Redo {
    image: Arc<Image>,
    run: u64,
    epochs: Vec<Closed>,
    /// How many disks the checkpoint is of.
    pub disks: u32,
}

impl Redo {
    /// Applies them, and returns when they are in the image for good.
    pub(super) fn run(&self) -> Result<()> {
        for epoch in &self.epochs {
            journal::apply(epoch, self.run, &self.image)?;
        }
        if self.epochs.is_empty() { Ok(()) } else { self.image.sync() }
    }
}

impl Store {
    /// Opens the copy in `image`, or begins one. With `anew` whatever the image was is forgotten.
    pub(super) fn open(image: Image, folder: Folder, name: &str, limit: u64, anew: bool) -> Result<Self> {
        let fresh = || State::new(name, image.path(), image.size(), Stage::Empty);
        let state = match folder.load()? {
            Some(state) if !anew => checked(state, &image, name)?,
            _ => fresh(),
        };
        let image = Arc::new(image);
        let mut store =
            Store { image, folder, state, open: None, closed: VecDeque::new(), redo: VecDeque::new(), limit };
        store.folder.store(&store.state)?;
        store.recover()?;
        Ok(store)
    }

    pub(super) const fn stage(&self) -> Stage {
        self.state.stage
    }

    pub(super) const fn state(&self) -> &State {
        &self.state
    }

    /// Bytes of epochs that are kept apart.
    pub(super) fn kept(&self) -> u64 {
        let whole: u64 = self.closed.iter().chain(&self.redo).map(|epoch| epoch.bytes).sum();
        whole + self.open.as_ref().map_or(0, Writer::bytes)
    }

    /// The newest checkpoint that is here whole.
    pub(super) fn newest(&self) -> Option<Point> {
        self.closed.back().map(|epoch| epoch.point).or(self.state.at)
    }

    /// The newest one that was acknowledged to the primary.
    pub(super) const fn committed(&self) -> Option<Point> {
        if self.state.committed { self.state.at } else { None }
    }

    /// A primary comes. Gives whether what it has written since the last HELD is enough to bring this copy up to date.
    pub(super) fn hello(&mut self, hello: &wire::Hello) -> Result<bool> {
        let of = |name: &str, size| format!("{name} of {size} bytes");
        if hello.name != self.state.name || hello.size != self.state.size {
            let (theirs, ours) = (of(&hello.name, hello.size), of(&self.state.name, self.state.size));
            return Err(Error::Unsuited { theirs, ours });
        }
        match (self.state.stage, self.newest()) {
            (Stage::Serving, _) => return Err(Error::InService),
            (Stage::Keeping, Some(point)) if !hello.flag => return Err(Error::Holds(point.mark)),
            (Stage::Keeping, _) => {
                // Only now: whoever is refused has no say in what another one writes.
                self.forget_open()?;
                self.follow()?;
            }
            (Stage::Empty | Stage::Following, _) => {}
        }
        Ok(self.state.run == hello.run)
    }

    /// All of the disk comes, or all that is not zero: what there is is void.
    pub(super) fn reset(&mut self, run: u64) -> Result<()> {
        self.must_not_serve()?;
        self.forget_open()?;
        self.change(|state| (state.stage, state.run, state.at, state.committed) = (Stage::Empty, 0, None, false))?;
        self.forget_epochs()?;
        self.image.zero(0, self.image.size(), true)?;
        self.image.sync()?;
        // Only now: of what is zero there nothing will come.
        self.change(|state| state.run = run)
    }

    /// Something becomes of the disk.
    pub(super) fn write(&mut self, op: Op<'_>) -> Result<()> {
        let (offset, length) = match op {
            Op::Write { offset, bytes } => (offset, bytes.len() as u64),
            Op::Zero { offset, length } => (offset, length),
        };
        self.image.check(offset, length)?;
        match (self.state.stage, self.newest()) {
            (Stage::Serving, _) => Err(Error::InService),
            (Stage::Keeping, Some(tip)) => {
                if self.kept().saturating_add(op.bytes()) > self.limit {
                    return Err(Error::JournalFull { limit: self.limit });
                }
                match &mut self.open {
                    Some(open) => open.add(op),
                    None => self.open.insert(self.writer(tip)?).add(op),
                }
            }
            _ => op.apply(&self.image),
        }
    }

    fn writer(&self, tip: Point) -> Result<Writer> {
        Writer::create(&self.folder.epoch(tip.seq), self.state.run, tip.seq)
    }

    /// Returns when what was written would outlive the host.
    pub(super) fn barrier(&mut self) -> Result<()> {
        if self.state.stage == Stage::Keeping { Ok(()) } else { self.image.sync() }
    }

    /// With what came before, the copy is complete.
    pub(super) fn synced(&mut self) -> Result<()> {
        match self.state.stage {
            Stage::Serving => Err(Error::InService),
            Stage::Keeping => Err(Error::Protocol("a copy that keeps checkpoints is complete already".into())),
            Stage::Empty | Stage::Following => {
                self.image.sync()?;
                self.change(|state| state.stage = Stage::Following)
            }
        }
    }

    /// A checkpoint. Returns when it would outlive the host.
    pub(super) fn mark(&mut self, point: Point) -> Result<()> {
        if let Some(tip) = self.newest().filter(|tip| tip.seq >= point.seq) {
            return Err(Error::Protocol(format!("mark {} behind mark {}", point.seq, tip.seq)));
        }
        match (self.state.stage, self.newest()) {
            (Stage::Serving, _) => Err(Error::InService),
            (Stage::Keeping, Some(tip)) => {
                let open = match self.open.take() {
                    Some(open) => open,
                    None => self.writer(tip)?,
                };
                let closed = open.close(point)?;
                self.folder.sync()?;
                self.closed.push_back(closed);
                Ok(())
            }
            (Stage::Empty | Stage::Keeping, _) => {
                Err(Error::Protocol("a checkpoint before the copy is complete".into()))
            }
            (Stage::Following, _) => {
                self.image.sync()?;
                self.change(|state| (state.stage, state.at, state.committed) = (Stage::Keeping, Some(point), false))
            }
        }
    }

    /// Void is what is kept of an earlier protection: the copy follows.
    pub(super) fn follow(&mut self) -> Result<()> {
        if self.state.stage != Stage::Keeping {
            return self.must_not_serve();
        }
        // What was written behind the last mark is a part of the row, too, where the row goes on.
        if let Some(rest) = self.open.take() {
            self.closed.push_back(rest.close(Point { seq: u64::MAX, mark: Mark::default(), disks: 0 })?);
        }
        self.change(|state| state.stage = Stage::Following)?;
        self.merge()
    }

    /// Puts the commit of a checkpoint down. It has happened once [`Redo::run`] and [`Store::done`] have.
    pub(super) fn commit(&mut self, mark: Mark) -> Result<Redo> {
        let known = matches!(self.state.stage, Stage::Keeping | Stage::Serving);
        let point = match self.state.at {
            Some(at) if known && at.mark == mark => at,
            _ => match self.closed.iter().find(|epoch| known && epoch.point.mark == mark) {
                Some(epoch) => epoch.point,
                None => return Err(Error::NotThere { wanted: mark, has: self.has() }),
            },
        };
        if self.state.at != Some(point) || !self.state.committed {
            self.change(|state| (state.at, state.committed) = (Some(point), true))?;
        }
        while self.closed.front().is_some_and(|epoch| epoch.point.seq <= point.seq) {
            self.redo.extend(self.closed.pop_front());
        }
        Ok(self.redo(point.disks))
    }

    fn redo(&self, disks: u32) -> Redo {
        Redo { image: Arc::clone(&self.image), run: self.state.run, epochs: self.redo.iter().cloned().collect(), disks }
    }

    /// The epochs of a commit are in the image for good.
    pub(super) fn done(&mut self, redo: &Redo) -> Result<()> {
        for epoch in &redo.epochs {
            self.folder.remove(epoch.previous)?;
            self.redo.retain(|other| other != epoch);
        }
        Ok(())
    }

    /// Puts the image into service at the checkpoint that it was brought to; what came later is dropped.
    pub(super) fn promote(&mut self, mark: Mark) -> Result<()> {
        match self.committed() {
            Some(at) if at.mark == mark && self.redo.is_empty() => {}
            _ => return Err(Error::NotThere { wanted: mark, has: self.has() }),
        }
        self.change(|state| state.stage = Stage::Serving)?;
        self.forget_open()?;
        self.forget_epochs()
    }

    /// What serves the guest from now on.
    pub(super) fn into_parts(self) -> (Arc<Image>, Folder) {
        (self.image, self.folder)
    }

    /// Drops what was written behind the last mark: whoever sent it will send it again, or it is not wanted.
    pub(super) fn forget_open(&mut self) -> Result<()> {
        match (self.open.take(), self.newest()) {
            (Some(_), Some(tip)) => self.folder.remove(tip.seq),
            _ => Ok(()),
        }
    }

    fn forget_epochs(&mut self) -> Result<()> {
        self.closed.clear();
        self.redo.clear();
        self.folder.epochs()?.into_iter().try_for_each(|previous| self.folder.remove(previous))
    }

    const fn must_not_serve(&self) -> Result<()> {
        if matches!(self.state.stage, Stage::Serving) { Err(Error::InService) } else { Ok(()) }
    }

    /// Changes the state there and here, or not at all.
    fn change(&mut self, change: impl FnOnce(&mut State)) -> Result<()> {
        let mut state = self.state.clone();
        change(&mut state);
        self.folder.store(&state)?;
        self.state = state;
        Ok(())
    }

    fn has(&self) -> String {
        match (self.state.stage, self.state.at, self.newest()) {
            (Stage::Empty, ..) => "the copy is not complete".into(),
            (Stage::Keeping | Stage::Serving, Some(at), Some(newest)) if at == newest => format!("it has {}", at.mark),
            (Stage::Keeping | Stage::Serving, Some(at), Some(newest)) => {
                format!("it has {} to {}", at.mark, newest.mark)
            }
            _ => "no checkpoint is kept".into(),
        }
    }

    /// Goes on where a daemon before has stopped.
    fn recover(&mut self) -> Result<()> {
        let Some(at) = self.state.at else { return self.forget_epochs() };
        let mut whole = HashMap::new();
        for previous in self.folder.epochs()? {
            let path = self.folder.epoch(previous);
            let found = journal::replay(&path, self.state.run, previous, |_| Ok(()))?;
            match found {
                Found::Closed(epoch) => {
                    whole.insert(previous, epoch);
                }
                // What follows a mark up to the commit was whole when it was committed.
                Found::Torn(offset) if previous < at.seq => {
                    return Err(Error::Damaged { path: path.display().to_string(), offset });
                }
                Found::Torn(_) => {}
            }
        }
        // Backwards from the commit: older ones whose successor is gone are in the image already.
        let mut seq = at.seq;
        while let Some(epoch) = whole.values().find(|epoch| epoch.point.seq == seq).cloned() {
            whole.remove(&epoch.previous);
            seq = epoch.previous;
            self.redo.push_front(epoch);
        }
        let mut tip = at.seq;
        while let Some(epoch) = whole.remove(&tip) {
            // Numbers grow, or a file could name itself.
            if epoch.point.seq <= tip {
                break;
            }
            tip = epoch.point.seq;
            self.closed.push_back(epoch);
        }
        let kept: Vec<u64> = self.redo.iter().chain(&self.closed).map(|epoch| epoch.previous).collect();
        for previous in self.folder.epochs()? {
            if !kept.contains(&previous) {
                self.folder.remove(previous)?;
            }
        }
        if self.state.stage == Stage::Following {
            return self.merge();
        }
        let redo = self.redo(at.disks);
        redo.run()?;
        self.done(&redo)?;
        if self.state.stage == Stage::Serving { self.forget_epochs() } else { Ok(()) }
    }

    /// Applies every epoch, of a copy that follows.
    fn merge(&mut self) -> Result<()> {
        let mut redo = self.redo(0);
        redo.epochs.extend(self.closed.iter().cloned());
        redo.run()?;
        // Before that they would be applied once more, behind what is written to the image from here on.
        self.change(|state| (state.at, state.committed) = (None, false))?;
        self.forget_epochs()
    }
}

fn checked(state: State, image: &Image, name: &str) -> Result<State> {
    let wrong = |text| Err(Error::State { path: image.path().display().to_string(), text });
    if state.name != name || state.image != image.path() {
        return wrong(format!("the state is that of {} in {}", state.name, state.image.display()));
    }
    if state.size != image.size() {
        return wrong(format!("{} bytes, it had {}", image.size(), state.size));
    }
    Ok(state)
}

/// The state of an image that is the guest's own, for who serves it. Gives an error where it is a copy.
pub(super) fn serve(image: &Image, folder: &Folder, name: &str, anew: bool) -> Result<()> {
    match folder.load()? {
        Some(state) if !anew => match checked(state, image, name)?.stage {
            Stage::Serving => Ok(()),
            Stage::Empty | Stage::Following | Stage::Keeping => Err(Error::IsCopy),
        },
        _ => folder.store(&State::new(name, image.path(), image.size(), Stage::Serving)),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
