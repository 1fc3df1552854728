//! Reads streams for people: what is in them, and what is wrong with them.
//!
//! * [`input`] opens a file or a pipe, mapped where that can be, decompressed where it must be.
//! * [`walk()`] drives the stream's walker over an input, in whatever [`container`] the stream is; where it cannot go on,
//!   [`foreign`] says what stands there.
//! * [`recording`] does both for sessions that the tap has recorded.
//! * [`verify()`] holds a stream against every rule; [`dump()`] prints it record by record; [`stats()`] counts pages;
//!   [`info()`] says on one screen what a file is; [`report`] makes a page of it for a browser. [`fit`] holds a guest against another release of Xen, or another host.

pub mod body;
pub mod container;
pub mod deep;
pub mod diff;
pub mod dump;
pub mod filter;
pub mod fit;
pub mod foreign;
pub mod info;
pub mod input;
mod mapped;
pub mod meter;
mod packing;
pub mod progress;
pub mod recording;
pub mod report;
pub mod seekable;
pub mod session_stats;
pub mod stats;
mod summary;
mod text;
pub mod verify;
pub mod versions;
mod walk;

pub use dump::{Dumper, dump};
pub use info::{Info, info};
pub use input::Input;
pub use stats::{Stats, stats};
pub use verify::{Finding, Report, verify};
pub use walk::{Flow, Walked, walk};
