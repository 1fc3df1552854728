//! A directory that both sides share, with one file for each generation.
//!
//! To take a number is to link a file of that name, which succeeds for one side only, on a local file system as over NFS
//! (`hard` mounts; with `soft` ones an error does not tell whether the request took effect). There is no lock: a side that
//! is stopped at any moment is in nobody's way.
//!
//! The files are never removed. A number whose file is gone could be taken again, by a side that has slept through what
//! happened since.

use super::{Holder, Witness, is_alive};
use crate::claim::{Generation, Named, Newest, Record, Verdict};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

/// Between two tries to learn what became of a request.
const AGAIN: Duration = Duration::from_millis(250);

/// Why a witness is of no use.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// A name that cannot be a part of a file's.
    #[error("domain name {0:?} cannot name files: it must not be empty, begin with a dot, or hold a slash or NUL")]
    Name(String),
    /// The directory.
    #[error("witness {path}: {error}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// The system's word.
        error: io::Error,
    },
}

/// The directory.
#[derive(Debug)]
pub struct DirectoryWitness {
    directory: PathBuf,
    domain: String,
    holder: Holder,
    /// The newest number that this object has seen. A directory that knows less is another one: not mounted, replaced.
    seen: Generation,
}

/// What has become of a request.
enum Fate {
    Ours,
    Others,
    /// Nobody has the number.
    Free,
}

impl DirectoryWitness {
    /// The numbers of one domain in a directory, which need not be there yet.
    ///
    /// # Errors
    /// [`WitnessError::Name`].
    pub fn open(directory: &Path, domain: &str, holder: Holder) -> Result<Self, WitnessError> {
        if domain.is_empty() || domain.starts_with('.') || domain.contains(['/', '\0']) {
            return Err(WitnessError::Name(domain.into()));
        }
        Ok(DirectoryWitness { directory: directory.to_owned(), domain: domain.to_owned(), holder, seen: Generation(0) })
    }

    fn path(&self, generation: Generation) -> PathBuf {
        self.directory.join(format!("{}.{:020}", self.domain, generation.0))
    }

    fn number(&self, name: &str) -> Option<u64> {
        let digits = name.strip_prefix(self.domain.as_str())?.strip_prefix('.')?;
        (digits.len() == 20 && digits.bytes().all(|d| d.is_ascii_digit())).then(|| digits.parse().ok())?
    }

    /// The newest number.
    fn look_up(&mut self) -> io::Result<Generation> {
        let newest = self.list()?;
        if newest < self.seen {
            let text = format!("it knows of {newest}, and knew of {}: not mounted?", self.seen);
            return Err(io::Error::new(ErrorKind::StaleNetworkFileHandle, text));
        }
        self.seen = newest;
        Ok(newest)
    }

    fn list(&self) -> io::Result<Generation> {
        let mut newest = 0;
        for entry in fs::read_dir(&self.directory)? {
            if let Some(number) = entry?.file_name().to_str().and_then(|name| self.number(name)) {
                newest = newest.max(number);
            }
        }
        Ok(Generation(newest))
    }

    /// A number's record; the inner none is no record of it.
    fn record(&self, generation: Generation) -> io::Result<Option<Record>> {
        let text = fs::read(self.path(generation))?;
        let record = serde_json::from_slice::<Record>(&text).ok();
        Ok(record.filter(|record| record.generation == generation.0 && record.domain == self.domain))
    }

    /// Whose a number is.
    fn look(&self, generation: Generation) -> io::Result<Fate> {
        match self.record(generation) {
            Ok(Some(record)) if record.holder == self.holder.token => Ok(Fate::Ours),
            Ok(Some(_)) => Ok(Fate::Others),
            Ok(None) => {
                let path = self.path(generation);
                log::error!(
                    "{}: not what a witness holds; {generation} counts as given to somebody else",
                    path.display()
                );
                Ok(Fate::Others)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Fate::Free),
            Err(error) => Err(error),
        }
    }

    /// The domain's UUID, as the newest generation before this one has it: a secondary's replica is that domain.
    fn uuid_before(&self, generation: Generation) -> Option<String> {
        let before = self.list().ok()?.min(Generation(generation.0.checked_sub(1)?));
        self.record(before).ok()??.uuid
    }

    /// Puts our name to a number. Without effect where this fails.
    fn prepare(&self, generation: Generation, session: u64) -> io::Result<PathBuf> {
        let random = self.holder.token.rsplit('/').next().unwrap_or_default();
        let path = self.directory.join(format!(".{}.{random}", self.domain));
        let record = Record {
            domain: self.domain.clone(),
            generation: generation.0,
            holder: self.holder.token.clone(),
            taken: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
            host: Some(self.holder.host.clone()),
            process: self.holder.process.clone(),
            uuid: self.holder.uuid.clone().or_else(|| self.uuid_before(generation)),
            session: (session != 0).then(|| format!("{session:016x}")),
        };
        let mut line = serde_json::to_string(&record)?;
        line.push('\n');
        let mut file = File::create(&path)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        Ok(path)
    }

    /// Asks on until it is known whose the number is, and that this is on disk.
    fn settle(&self, generation: Generation, mut first: Option<io::Error>) -> Fate {
        loop {
            let known = self.look(generation).and_then(|fate| {
                // The name itself must outlive a crash.
                File::open(&self.directory)?.sync_all()?;
                Ok(fate)
            });
            match known {
                Ok(fate) => return fate,
                Err(error) => {
                    if let Some(before) = first.take() {
                        log::error!("witness {}: {before}, {error}; asking on", self.directory.display());
                    }
                    thread::sleep(AGAIN);
                }
            }
        }
    }

    fn newest_for_sure(&self) -> Generation {
        loop {
            match self.list() {
                Ok(newest) => return newest,
                Err(error) => log::error!("witness {}: {error}; asking on", self.directory.display()),
            }
            thread::sleep(AGAIN);
        }
    }

    fn held(&self, generation: Generation) -> Verdict {
        // Out of reach by now: at least this one is given.
        Verdict::Held { newest: self.list().unwrap_or(generation).max(generation) }
    }

    fn taken(&mut self, generation: Generation, session: u64) -> Verdict {
        let directory = self.directory.clone();
        let unreachable = |error: &io::Error| {
            log::warn!("witness {}: {error}", directory.display());
            Verdict::Unreachable
        };
        match self.look_up() {
            Ok(newest) if newest > generation => return Verdict::Held { newest },
            Ok(_) => {}
            Err(error) => return unreachable(&error),
        }
        let prepared = match self.prepare(generation, session) {
            Ok(path) => path,
            Err(error) => {
                // Ours from before, on a directory that cannot be written to any more?
                return match self.look(generation) {
                    Ok(Fate::Ours) => Verdict::Granted,
                    Ok(Fate::Others) => self.held(generation),
                    _ => unreachable(&error),
                };
            }
        };
        let linked = fs::hard_link(&prepared, self.path(generation));
        let fate = match linked {
            Ok(()) => self.settle(generation, None),
            Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                // Said before anything was done.
                Some(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::NOSPC) => {
                    match self.look(generation) {
                        Ok(fate) => fate,
                        Err(_) => Fate::Free,
                    }
                }
                // Given already, perhaps to us by a request whose answer was lost; or nobody knows.
                _ => self.settle(generation, Some(error)),
            },
        };
        let _ = fs::remove_file(&prepared);
        match fate {
            // A number that was passed by while this process slept is of no use.
            Fate::Ours => match self.newest_for_sure() {
                newest if newest > generation => Verdict::Held { newest },
                _ => Verdict::Granted,
            },
            Fate::Others => self.held(generation),
            Fate::Free => Verdict::Unreachable,
        }
    }
}

impl Witness for DirectoryWitness {
    fn newest(&mut self) -> Result<Generation, WitnessError> {
        self.look_up().map_err(|error| WitnessError::Io { path: self.directory.clone(), error })
    }

    fn holder(&mut self) -> Result<Option<Newest>, WitnessError> {
        let generation = self.newest()?;
        if generation == Generation(0) {
            return Ok(None);
        }
        let read = self.record(generation);
        let record = read.map_err(|error| WitnessError::Io { path: self.path(generation), error })?;
        let named = record.map_or(Named::Malformed, |record| {
            let alive = record.process.as_ref().is_some_and(is_alive);
            Named::Holder { record: Box::new(record), alive }
        });
        Ok(Some(Newest { generation, named }))
    }

    fn check(&mut self) -> Result<Generation, WitnessError> {
        let newest = self.newest()?;
        let random = self.holder.token.rsplit('/').next().unwrap_or_default();
        let path = self.directory.join(format!(".{}.{random}.check", self.domain));
        let written = File::create(&path).and_then(|mut file| {
            // As long as a record.
            file.write_all(&[b' '; 512])?;
            file.sync_all()
        });
        let removed = fs::remove_file(&path);
        written.and(removed).map_err(|error| WitnessError::Io { path: self.directory.clone(), error })?;
        Ok(newest)
    }

    fn knows(&mut self, given: Generation) -> Result<bool, WitnessError> {
        self.seen = self.seen.max(given);
        // By name first: a listing may come out of a network file system's cache.
        let by_name = given.0 > 0 && fs::symlink_metadata(self.path(given)).is_ok();
        if by_name {
            return Ok(true);
        }
        let newest = self.list().map_err(|error| WitnessError::Io { path: self.directory.clone(), error })?;
        Ok(newest >= given)
    }

    fn take(&mut self, generation: Generation, session: u64) -> Verdict {
        let verdict = self.taken(generation, session);
        match verdict {
            Verdict::Granted => self.seen = self.seen.max(generation),
            Verdict::Held { newest } => self.seen = self.seen.max(newest),
            Verdict::Unreachable => {}
        }
        verdict
    }

    fn describe(&self) -> String {
        format!("directory {}", self.directory.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Barrier};

    fn witness(directory: &Path) -> DirectoryWitness {
        DirectoryWitness::open(directory, "guest", Holder::new()).unwrap()
    }

    #[test]
    fn of_many_who_ask_at_once_one_is_given_each_number() {
        let folder = tempfile::tempdir().unwrap();
        let start = Arc::new(Barrier::new(6));
        let threads: Vec<_> = (0..6)
            .map(|_| {
                let (mut witness, start) = (witness(folder.path()), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    (1..=60)
                        .filter(|&number| match witness.take(Generation(number), 0) {
                            Verdict::Granted => true,
                            Verdict::Held { newest } => {
                                assert!(newest.0 >= number);
                                false
                            }
                            Verdict::Unreachable => panic!("it is there"),
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let mut given: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        given.sort_unstable();
        // A number may be passed by when all have seen a newer one; none is given twice.
        assert!(given.windows(2).all(|pair| pair[0] < pair[1]), "{given:?}");
        assert_eq!(given.last(), Some(&60));
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        let prepared = names.iter().filter(|name| name.to_string_lossy().starts_with('.')).count();
        assert_eq!(prepared, 0, "nothing is left behind: {names:?}");
    }

    #[test]
    fn the_holder_may_ask_again_and_others_hear_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (witness(folder.path()), witness(folder.path()));
        assert_eq!(a.newest().unwrap(), Generation(0));
        assert_eq!(a.take(Generation(3), 0), Verdict::Granted);
        assert_eq!(a.take(Generation(3), 0), Verdict::Granted);
        assert_eq!(b.take(Generation(3), 0), Verdict::Held { newest: Generation(3) });
        assert_eq!(b.take(Generation(900), 0), Verdict::Granted);
        assert_eq!(a.take(Generation(4), 0), Verdict::Held { newest: Generation(900) });
        assert_eq!(a.take(Generation(3), 0), Verdict::Held { newest: Generation(900) });
        assert_eq!(a.newest().unwrap(), Generation(900));
    }

    #[test]
    fn domains_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let mut a = witness(folder.path());
        let mut other = DirectoryWitness::open(folder.path(), "guest.2", Holder::new()).unwrap();
        assert_eq!(a.take(Generation(1), 0), Verdict::Granted);
        assert_eq!(other.take(Generation(1), 0), Verdict::Granted);
        for bad in ["", ".hidden", "a/b", "a\0b"] {
            assert!(matches!(DirectoryWitness::open(folder.path(), bad, Holder::new()), Err(WitnessError::Name(_))));
        }
    }

    #[test]
    fn out_of_reach_is_without_effect() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("shared");
        let mut a = witness(&directory);
        assert_eq!(a.take(Generation(1), 0), Verdict::Unreachable);
        assert!(matches!(a.newest(), Err(WitnessError::Io { .. })));
        fs::create_dir(&directory).unwrap();
        assert_eq!(a.newest().unwrap(), Generation(0));
        assert_eq!(witness(&directory).take(Generation(1), 0), Verdict::Granted);
        assert_eq!(a.take(Generation(1), 0), Verdict::Held { newest: Generation(1) });
    }

    #[test]
    fn a_directory_that_has_forgotten_grants_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut a = witness(folder.path());
        assert_eq!(a.take(Generation(4), 0), Verdict::Granted);
        assert_eq!(a.newest().unwrap(), Generation(4));
        fs::remove_file(a.path(Generation(4))).unwrap();
        assert_eq!(a.take(Generation(5), 0), Verdict::Unreachable);
        assert!(a.newest().unwrap_err().to_string().contains("not mounted"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_witness_has_said_of_a_number_it_must_not_forget() {
        let folder = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (witness(folder.path()), witness(folder.path()));
        assert_eq!(a.take(Generation(1), 0), Verdict::Granted);
        assert_eq!(b.take(Generation(1), 0), Verdict::Held { newest: Generation(1) });
        // Neither has looked since.
        fs::remove_file(a.path(Generation(1))).unwrap();
        for mut side in [a, b] {
            assert!(
                side.check().unwrap_err().to_string().contains("it knows of generation 0, and knew of generation 1")
            );
        }
    }

    #[test]
    fn a_witness_that_does_not_know_what_was_given_gives_nothing() {
        let (ours, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(witness(ours.path()).take(Generation(6), 0), Verdict::Granted);
        let mut same = witness(ours.path());
        assert!(same.knows(Generation(6)).unwrap() && same.knows(Generation(5)).unwrap());
        assert_eq!(same.take(Generation(7), 0), Verdict::Granted);
        let mut another = witness(other.path());
        assert!(!another.knows(Generation(6)).unwrap());
        assert_eq!(another.take(Generation(7), 0), Verdict::Unreachable);
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
        assert!(witness(&other.path().join("none")).knows(Generation(1)).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_somebody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let mut a = witness(folder.path());
        fs::write(a.path(Generation(7)), "torn").unwrap();
        assert_eq!(a.take(Generation(7), 0), Verdict::Held { newest: Generation(7) });
        assert_eq!(a.take(Generation(8), 0), Verdict::Granted);
    }

    #[test]
    fn a_witness_that_can_be_read_and_not_written_is_no_witness() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(witness(folder.path()).check().unwrap(), Generation(0));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left of the check");
        // Nobody makes a file here, whoever it is.
        let mut unwritable = witness(Path::new("/proc/self/task"));
        assert_eq!(unwritable.newest().unwrap(), Generation(0));
        assert!(unwritable.check().is_err());
    }

    #[test]
    fn a_record_names_its_holder_for_a_later_process_of_its_host() {
        let folder = tempfile::tempdir().unwrap();
        let mut primary = witness(folder.path());
        assert_eq!(primary.holder().unwrap(), None);
        primary.holder.uuid = Some("1-2".into());
        assert_eq!(primary.take(Generation(1), 0xab), Verdict::Granted);
        let mut secondary = witness(folder.path());
        let (ours, process) = (super::super::this_host(), super::super::this_process());
        let named = |witness: &mut DirectoryWitness| match witness.holder().unwrap().unwrap() {
            Newest { named: Named::Holder { record, alive }, .. } => (*record, alive),
            other => panic!("{other:?}"),
        };
        let (record, alive) = named(&mut secondary);
        assert_eq!((record.host, record.process, alive), (Some(ours), process, true));
        assert_eq!((record.uuid.as_deref(), record.session.as_deref()), (Some("1-2"), Some("00000000000000ab")));
        // A secondary has not been told the UUID: its replica is that domain.
        assert_eq!(secondary.take(Generation(2), 0), Verdict::Granted);
        let (record, _) = named(&mut primary);
        assert_eq!((record.generation, record.uuid.as_deref(), record.session), (2, Some("1-2"), None));
        fs::write(primary.path(Generation(3)), "torn").unwrap();
        let torn = Newest { generation: Generation(3), named: Named::Malformed };
        assert_eq!(primary.holder().unwrap(), Some(torn));
        let old = "{\"domain\":\"guest\",\"generation\":4,\"holder\":\"hosta/1/ff\",\"taken\":1}\n";
        fs::write(primary.path(Generation(4)), old).unwrap();
        let (record, alive) = named(&mut primary);
        assert_eq!((record.host_name(), record.host.is_some(), alive), ("hosta", false, false));
        assert_eq!(secondary.take(Generation(4), 0), Verdict::Held { newest: Generation(4) });
    }
}
