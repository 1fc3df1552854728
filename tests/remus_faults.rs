//! Real processes that are killed, stopped, cut off, and lied to: `remus` and `receive` with a simulated guest, and a client that
//! talks to the guest from outside and judges what it hears.
//!
//! `cargo test --test remus_faults` runs a quick share. All of it, with its counts:
//!
//! ```text
//! cargo test --release --test remus_faults -- --include-ignored --nocapture
//! ```

#[path = "remus_faults/again.rs"]
mod again;
#[path = "remus_faults/cases.rs"]
mod cases;
#[path = "remus_faults/flipper.rs"]
mod flipper;
#[path = "remus_faults/flips.rs"]
mod flips;
#[path = "remus_faults/hosts.rs"]
mod hosts;
#[path = "remus_faults/limits.rs"]
mod limits;
#[path = "remus_faults/links.rs"]
mod links;
#[path = "remus_faults/namespaces.rs"]
mod namespaces;
#[path = "remus_faults/panics.rs"]
mod panics;
#[path = "remus_faults/primary_dies.rs"]
mod primary_dies;
#[path = "remus_faults/proxy.rs"]
mod proxy;
#[path = "remus_faults/secondary_dies.rs"]
mod secondary_dies;
#[path = "remus_faults/side.rs"]
mod side;
#[path = "remus_faults/soak.rs"]
mod soak;
#[path = "remus_faults/stops.rs"]
mod stops;
#[path = "remus_faults/world.rs"]
mod world;
