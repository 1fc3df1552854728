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

pub use directory::{DirectoryWitness, WitnessError};

use crate::remus::{Generation, Verdict};
use rustix::process::getpid;
use rustix::system::uname;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A witness, as one side sees it.
pub trait Witness: Send + fmt::Debug {
    /// The newest number that was given to anybody; 0 when none was.
    ///
    /// # Errors
    /// It is out of reach.
    fn newest(&mut self) -> Result<Generation, WitnessError>;

    /// Tells whether it knows of a number that was given for certain. One that does not is another witness than the one that
    /// gave it, and from then on [`Witness::take`] gives nothing as long as that is so.
    ///
    /// # Errors
    /// It is out of reach.
    fn knows(&mut self, given: Generation) -> Result<bool, WitnessError>;

    /// Takes a number. May take any time.
    fn take(&mut self, generation: Generation) -> Verdict;

    /// What it is, for people.
    fn describe(&self) -> String;
}

/// A side, as the witness knows it: this process and no other, past or future.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder(String);

impl Holder {
    /// A new one. Host name and process are for people; what makes it the only one is a random number of 128 bits.
    #[must_use]
    pub fn new() -> Self {
        let random = || RandomState::new().build_hasher().finish();
        let name = uname();
        let host = name.nodename().to_string_lossy().into_owned();
        Holder(format!("{host}/{}/{:016x}{:016x}", getpid().as_raw_nonzero(), random(), random()))
    }
}

impl Default for Holder {
    fn default() -> Self {
        Holder::new()
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
