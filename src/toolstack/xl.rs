//! What is libxl's to do and has no other interface than its tool: ending a domain.

use std::io;
use std::process::{Command, Stdio};

/// Destroys a domain with all that libxl has beside it.
///
/// # Errors
/// xl cannot be run, or did not succeed.
pub fn destroy(domid: u32) -> io::Result<()> {
    run(&["destroy", &domid.to_string()])
}

fn run(arguments: &[&str]) -> io::Result<()> {
    let status = Command::new("xl").args(arguments).stdin(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("xl {}: {status}", arguments.join(" ")))) }
}
