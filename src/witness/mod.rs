//! The witness: a third party that gives each generation number to one side at most.
//!
//! Whoever wants to be active alone takes the number after the session's ([`crate::remus`]). What an implementation must
//! keep, be it a directory, a key in etcd, or a machine of its own:
//!
//! * a number is given once, for ever: not again after a restart, a restored backup, or a time-out;
//! * [`Verdict::Granted`] only when nothing can take it back: it is on stable storage;
//! * [`Verdict::Unreachable`] only when the request had no effect and never will have one. Where that is not known, the
//!   implementation asks on until it is;
//! * the same holder may ask again for what it has, and hears [`Verdict::Granted`] again.
//!
//! Nothing expires. A holder that is stopped for an hour and continued still holds its number, and the other side was
//! denied it all the while; a lease that ends by the clock would need clocks that agree.

mod directory;
mod host;

pub use directory::{DirectoryWitness, WitnessError};
pub use host::{is_alive, this_host, this_process};

use crate::claim::{Generation, Host, Newest, Process, Verdict};
use rustix::process::getpid;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A witness, as one side sees it.
pub trait Witness: Send + fmt::Debug {
    /// The newest number that was given to anybody; 0 when none was.
    ///
    /// # Errors
    /// It is out of reach.
    fn newest(&mut self) -> Result<Generation, WitnessError>;

    /// The newest generation and its holder; none when none was given. Whether the holder's process lives is told where it is this
    /// host's.
    ///
    /// # Errors
    /// It is out of reach.
    fn holder(&mut self) -> Result<Option<Newest>, WitnessError>;

    /// The newest number, after making sure that another could be given: one that is read-only or full is of no use when it is needed.
    ///
    /// # Errors
    /// It is out of reach, read-only, full, or not the one that it was.
    fn check(&mut self) -> Result<Generation, WitnessError>;

    /// Tells whether it knows of a number that was given for certain. One that does not is another witness than the one that
    /// gave it, and from then on [`Witness::take`] gives nothing as long as that is so.
    ///
    /// # Errors
    /// It is out of reach.
    fn knows(&mut self, given: Generation) -> Result<bool, WitnessError>;

    /// Takes a number, in or after a session (0: outside of one), which is put down beside it. May take any time.
    fn take(&mut self, generation: Generation, session: u64) -> Verdict;

    /// What it is, for people.
    fn describe(&self) -> String;
}

/// A side, as the witness knows it: this process and no other, past or future; and what a later process on this host knows it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// HOST/PID/RANDOM.
    token: String,
    host: Host,
    process: Option<Process>,
    /// The domain's UUID, where it is known. Else the witness puts down that of the generation before.
    pub uuid: Option<String>,
}

impl Holder {
    /// A new one. Host name and process are for people; what makes it the only one is a random number of 128 bits.
    #[must_use]
    pub fn new() -> Self {
        Self::at(this_host(), this_process())
    }

    fn at(host: Host, process: Option<Process>) -> Self {
        let random = || RandomState::new().build_hasher().finish();
        let token = format!("{}/{}/{:016x}{:016x}", host.name, getpid().as_raw_nonzero(), random(), random());
        Holder { token, host, process, uuid: None }
    }

    /// Its host.
    pub const fn host(&self) -> &Host {
        &self.host
    }
}

impl Default for Holder {
    fn default() -> Self {
        Holder::new()
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.token)
    }
}
