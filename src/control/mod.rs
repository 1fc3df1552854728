//! The operator's socket: one JSON object a line, both ways, over a Unix socket that only its owner and root may open.
//!
//! A client sends a [`Request`] and is answered with one [`Reply`]; only to [`Request::Watch`] there are many.
//!
//! ```text
//! > {"command":"set-interval","ms":50}
//! < {"ok":true}
//! > {"command":"status"}
//! < {"ok":true,"status":{"domain":"web","role":"primary","phase":"protected",...}}
//! > {"command":"reboot"}
//! < {"ok":false,"error":"unknown variant `reboot`, expected one of ..."}
//! ```
//!
//! * [`protocol`] - requests and replies;
//! * [`capability`] - what a side can do, by name;
//! * [`status`] - what a side tells of itself;
//! * [`server`] and [`client`] - the two ends.

pub mod capability;
pub mod client;
pub mod lock_step;
mod place;
pub mod protocol;
pub mod server;
pub mod status;

#[cfg(test)]
mod tests;

pub use capability::Capability;
pub use client::Client;
pub use protocol::{Reply, Request};
pub use server::Server;
pub use status::Status;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// Most bytes in the line of a request, without its end.
pub const MAX_REQUEST: usize = 64 << 10;
/// Most bytes in the line of a reply, without its end.
pub const MAX_REPLY: usize = 1 << 20;

/// Where the socket of the process that protects or receives `domain` is: `DOMAIN.sock` in `$XEN_REPLICATE_RUN`; without
/// that in `/run/xen-replicate` for root, in `$XDG_RUNTIME_DIR/xen-replicate`, or in `/tmp/xen-replicate-UID`.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for a name that cannot be a file's: empty, with `/` or NUL, or with a leading dot.
pub fn default_path(domain: &str) -> io::Result<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    path_in(domain, std::env::var_os("XEN_REPLICATE_RUN"), std::env::var_os("XDG_RUNTIME_DIR"), uid)
}

fn path_in(domain: &str, run: Option<OsString>, runtime: Option<OsString>, uid: u32) -> io::Result<PathBuf> {
    if domain.is_empty() || domain.starts_with('.') || domain.contains(['/', '\0']) {
        let text = format!("a domain named {domain:?} has no control socket of its own: name one with --control");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let set = |value: Option<OsString>| value.filter(|v| !v.is_empty()).map(PathBuf::from);
    let folder = match (set(run), set(runtime).filter(|path| path.is_absolute())) {
        (Some(run), _) => run,
        (None, _) if uid == 0 => PathBuf::from("/run/xen-replicate"),
        (None, Some(runtime)) => runtime.join("xen-replicate"),
        (None, None) => Path::new("/tmp").join(format!("xen-replicate-{uid}")),
    };
    Ok(folder.join(format!("{domain}.sock")))
}
