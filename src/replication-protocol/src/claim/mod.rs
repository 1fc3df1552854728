//! Who may run a domain: the generation, the record of its holder in the witness, and what a start decides from them. No I/O.
//!
//! | file | what |
//! |---|---|
//! | `record.rs` | the holder in the witness's record, in a way that survives a restart of its process |
//! | `start.rs` | the machine of a start: may the domain run here, and what must be acquired before any of its output leaves |
//! | `alone.rs` | the machine of a primary from the meeting with a secondary to the run of its guest without one; Remus's and COLO's own it |
//! | `domain.rs` | a primary's guest and what it sends, which these decisions stop and let go |
//! | `takeover.rs` | the machine of a secondary from the loss of its primary to the guest's run here; Remus's and COLO's own it |
//! | `denied.rs` | the machine of a replica whose side was denied: kept until the operator or the peer decides |
//!
//! A start asks nobody but the witness. It ends in one of three ways:
//!
//! * the domain may run here: nobody has ever protected it, or its newest generation is held by this very domain on this host, and the
//!   next one was acquired, so that no replica can be granted it any more. Output that is held may leave from here on;
//! * it is superseded: another host, or another process of this one, holds the newest. Nothing is released;
//! * it cannot be known. Nothing is released.
//!
//! An operator overrides the last two by the number of the generation that is overridden ([`Facts::force`]). The witness gives the next
//! one all the same, once, so that not even a mistaken operator makes two sides active that both ask it.

mod alone;
pub mod denied;
mod domain;
mod record;
mod start;
mod takeover;

pub use crate::protocol::{Generation, Verdict};
pub use alone::{GoAlone, Next as AloneNext, Other, Stage as AloneStage};
pub use denied::Denied;
pub use domain::Domain;
pub use record::{Host, Named, Newest, Process, Record};
pub use start::{Action, Decision, Event, Facts, InCharge, Start, Unknown};
pub use takeover::{Next, Stage, TakeOver, Terms};
