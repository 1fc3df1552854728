//! Remus and COLO as state machines: events in, actions out, the time passed in.
//!
//! | module | what |
//! |---|---|
//! | [`protocol`] | what the machines of every protocol share: time, timers, sessions, the failure detector |
//! | [`claim`] | who may run a domain: the record of its holder, a start, a take-over, a replica that was denied |
//! | [`remus`] | checkpoints that are acknowledged, and the framing that carries them |
//! | [`colo`] | two guests whose output is compared, in three dialects |
//!
//! No I/O, no clock, no thread: the crate is built without the standard library, so that the compiler says so. What is explored by
//! the models is therefore all there is to what it decides.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

pub mod claim;
pub mod colo;
pub mod protocol;
pub mod remus;

use xen_migration_stream as stream;
