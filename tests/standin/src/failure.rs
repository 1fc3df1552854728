//! A hypercall that fails once, as the driver of a test wants it.
#![forbid(unsafe_code)]

use crate::errno::Errno;
use serde::Deserialize;

/// Which call fails: the first of its kind behind so many.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The call as the log names it: `domctl`, `memory_op`, `hvm_op`, `mmuext_op`, `map`.
    pub call: String,
    /// The operation's number; none of `map`.
    #[serde(default)]
    pub op: u64,
    /// How many of them go well before.
    #[serde(default)]
    pub after: u64,
    /// What it fails with.
    pub errno: i32,
}

/// The failure that is still to come, if there is one.
#[derive(Debug, Default)]
pub struct Pending(Option<Failure>);

impl Pending {
    /// What the configuration asks for.
    pub fn new(failure: Option<Failure>) -> Self {
        Pending(failure)
    }

    /// To be asked before each call.
    pub fn check(&mut self, call: &str, op: u64) -> Result<(), Errno> {
        let Some(failure) = self.0.as_mut().filter(|failure| (failure.call.as_str(), failure.op) == (call, op)) else {
            return Ok(());
        };
        if failure.after > 0 {
            failure.after -= 1;
            return Ok(());
        }
        let errno = Errno(failure.errno);
        self.0 = None;
        Err(errno)
    }
}
