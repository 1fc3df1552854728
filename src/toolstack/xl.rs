//! What is libxl's to do and has no other interface than its tool: ending a domain, and giving it another name.
#![forbid(unsafe_code)]

use std::io;
use std::process::{Command, Stdio};

/// Destroys a domain with all that libxl has beside it.
///
/// # Errors
/// xl cannot be run, or did not succeed.
pub fn destroy(domid: u32) -> io::Result<()> {
    run(&["destroy", &domid.to_string()])
}

/// Gives a domain another name.
///
/// # Errors
/// xl cannot be run, or did not succeed: the name is another domain's.
pub fn rename(domid: u32, name: &str) -> io::Result<()> {
    run(&["rename", &domid.to_string(), name])
}

fn run(arguments: &[&str]) -> io::Result<()> {
    let status = Command::new("xl").args(arguments).stdin(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("xl {}: {status}", arguments.join(" ")))) }
}
