//! What a daemon knows of its image, in a folder of its own: the state, and the epochs that are kept apart.
#![forbid(unsafe_code)]

use super::error::{Error, Result, io};
use super::wire::Point;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
/// How the file of an epoch ends. Before that stands the number of the mark that it follows.
const EPOCH: &str = ".epoch";

/// What an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stage {
    /// A copy that is not complete.
    Empty,
    /// A complete copy, which follows each write. No checkpoint is kept.
    Following,
    /// A copy at a checkpoint; what was written later is kept apart.
    Keeping,
    /// The guest's own disk.
    Serving,
}

/// What outlives the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    pub name: String,
    pub image: PathBuf,
    pub size: u64,
    pub stage: Stage,
    /// Whose disk it is a copy of; 0 for nobody's.
    pub run: u64,
    /// The checkpoint that the image is at, once the epochs up to it are applied.
    pub at: Option<Point>,
    /// Whether that checkpoint was acknowledged to the primary.
    pub committed: bool,
}

impl State {
    pub(super) fn new(name: &str, image: &Path, size: u64, stage: Stage) -> Self {
        let (name, image) = (name.to_owned(), image.to_owned());
        State { version: VERSION, name, image, size, stage, run: 0, at: None, committed: false }
    }
}

/// The folder. One daemon has it.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Opens it, and makes it where it is missing.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let named = |error| io(path.display())(error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(named)?;
        let lock = File::open(path).map_err(named)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Folder { path: path.to_owned(), lock }),
            Err(Errno::WOULDBLOCK) => Err(Error::InUse { path: path.display().to_string() }),
            Err(error) => Err(named(error.into())),
        }
    }

    /// The state, if there is one.
    pub(super) fn load(&self) -> Result<Option<State>> {
        let path = self.path.join("state");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(io(path.display()))?,
        };
        let wrong = |text: String| Error::State { path: path.display().to_string(), text };
        let state: State = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if state.version != VERSION {
            return Err(wrong(format!("version {}, this is version {VERSION}", state.version)));
        }
        Ok(Some(state))
    }

    /// Returns when the state would outlive the host. Until then there is the one before.
    pub(super) fn store(&self, state: &State) -> Result<()> {
        let (new, path) = (self.path.join("state.new"), self.path.join("state"));
        let stored = (|| {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(state)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            self.lock.sync_all()
        })();
        stored.map_err(io(path.display()))
    }

    /// Returns when files that were made would outlive the host.
    pub(super) fn sync(&self) -> Result<()> {
        self.lock.sync_all().map_err(io(self.path.display()))
    }

    /// The file of the epoch behind a mark.
    pub(super) fn epoch(&self, previous: u64) -> PathBuf {
        self.path.join(format!("{previous:016x}{EPOCH}"))
    }

    /// The numbers of the marks that epochs follow here.
    pub(super) fn epochs(&self) -> Result<Vec<u64>> {
        let named = |error| io(self.path.display())(error);
        let mut epochs = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(named)? {
            let name = entry.map_err(named)?.file_name();
            if let Some(previous) =
                name.to_str().and_then(|name| u64::from_str_radix(name.strip_suffix(EPOCH)?, 16).ok())
            {
                epochs.push(previous);
            }
        }
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// Removes the epoch behind a mark, if it is there.
    pub(super) fn remove(&self, previous: u64) -> Result<()> {
        let path = self.epoch(previous);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(path.display())(error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_what_was_stored_last_and_garbage_is_told() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b");
        let folder = Folder::open(&path).unwrap();
        assert!(matches!(Folder::open(&path), Err(Error::InUse { .. })));
        assert_eq!(folder.load().unwrap(), None);
        let mut state = State::new("/dev/nbd0", Path::new("/x"), 512, Stage::Empty);
        folder.store(&state).unwrap();
        state.stage = Stage::Keeping;
        folder.store(&state).unwrap();
        assert_eq!(folder.load().unwrap(), Some(state));
        for text in ["", "{}", "garbage"] {
            fs::write(path.join("state"), text).unwrap();
            assert!(matches!(folder.load(), Err(Error::State { .. })), "{text:?}");
        }
    }

    #[test]
    fn epochs_are_listed_by_the_mark_they_follow() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        for name in [folder.epoch(9), folder.epoch(2), folder.epoch(u64::MAX), place.path().join("x.epoch")] {
            fs::write(name, "").unwrap();
        }
        assert_eq!(folder.epochs().unwrap(), [2, 9, u64::MAX]);
        folder.remove(9).unwrap();
        folder.remove(9).unwrap();
        assert_eq!(folder.epochs().unwrap(), [2, u64::MAX]);
    }
}
