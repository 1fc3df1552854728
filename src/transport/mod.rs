//! Two rows of bytes to another host: a command's stdin and stdout, a socket, inherited descriptors.
//!
//! Every descriptor is non-blocking, and every wait is a wait for a [`Cancel`] too: whoever reads or writes can be called
//! off at any time, by anybody.

mod address;
mod cancel;
mod link;
mod listen;

pub use address::{Address, AddressError};
pub use cancel::Cancel;
pub use link::{Link, LinkReader, LinkWriter, Probe, connect, end_commands, is_cancelled};
pub use listen::Listener;
