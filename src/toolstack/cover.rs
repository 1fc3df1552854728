//! What of a domain is covered from the start of a protection on: its output, and the list of its devices.
#![forbid(unsafe_code)]

use super::devices::Watch;
use super::netbuf::NetBuffer;
use super::store::Server;
use crate::hypervisor::{OutputBuffer, Result};

/// Sets up what holds a domain's output, if anything does, lets go what an earlier process has held there, and watches which devices
/// come and go. Who calls has decided where the domain may run, and nobody else can be granted that any more.
///
/// A survivor (`lazy`) lives here already: a buffer that cannot be set up is told of, and set up when a protection begins.
///
/// # Errors
/// The buffer's, xenstore's. Output leaves as it is sent then, through nothing that this call has made; where an earlier process has
/// held some and it cannot be let go, all stays held.
pub fn cover(domid: u32, server: Server, buffer: Option<&NetBuffer>, lazy: bool) -> Result<Watch> {
    let Some(buffer) = buffer else { return Watch::new(domid, server, None) };
    match buffer.set_up() {
        Ok(()) => log::info!("domain {domid}: its output is held at {}", buffer.devices().join(", ")),
        // What its output needs is tried again when somebody is there to protect it.
        Err(error) if lazy => log::warn!("domain {domid}: {error}"),
        Err(error) => return Err(error),
    }
    if buffer.is_holding() {
        buffer.clone().free()?;
    }
    // Last, so that what comes in between is noticed.
    Watch::new(domid, server, Some(buffer.clone())).inspect_err(|_| buffer.remove())
}
