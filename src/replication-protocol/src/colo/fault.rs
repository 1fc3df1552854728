//! What ends a session because of what the peer said, or did not say.

use super::dialect::{Dialect, Message, Point, Side};
use super::wire::WireError;
use core::fmt;
use thiserror::Error;

/// Where a side is in the protocol. `docs/colo.md` has the order for each dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The first image is on its way while the primary's guest runs.
    Image,
    /// The guest stands still or is about to, its state is being collected (primary).
    Collect,
    /// The state is announced next (secondary).
    Announce,
    /// RAM is on its way, [`super::Layout::Live`] (secondary).
    Memory,
    /// The size of the state comes next (secondary).
    Size,
    /// The state is on its way (secondary).
    State,
    /// The state is on its way, or there: that is confirmed next (primary).
    Receipt,
    /// The state is being loaded: that is confirmed next.
    Load,
    /// The secondary's guest is about to run.
    Resume,
    /// Between two checkpoints.
    Run,
    /// The secondary's guest is about to stand still.
    Suspend,
    /// The list of pages that the secondary has written comes next (primary).
    Dirty,
}

impl Step {
    /// For logs.
    pub const fn name(self) -> &'static str {
        match self {
            Step::Image => "first image",
            Step::Collect => "collecting the state",
            Step::Announce => "announcing the state",
            Step::Memory => "receiving memory",
            Step::Size => "size of the state",
            Step::State => "receiving the state",
            Step::Receipt => "receipt of the state",
            Step::Load => "loading the state",
            Step::Resume => "resuming the secondary",
            Step::Run => "between checkpoints",
            Step::Suspend => "suspending the secondary",
            Step::Dirty => "list of dirty pages",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

pub use crate::protocol::Guest;

/// Why a message that the dialect may have does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Misfit {
    /// The dialect does not have it.
    Foreign,
    /// It goes in the other direction.
    Direction,
    /// It is the last one again.
    Duplicate,
    /// It belongs to an earlier step of the round, or of the one before.
    Late,
    /// It belongs to a later step.
    Early,
}

impl Misfit {
    /// `received` came to `side`, after `last`, and is not what its step wants.
    pub(super) fn of(dialect: Dialect, side: Side, received: Point, last: Option<Point>) -> Misfit {
        // libxl has one name for both.
        let place = |point| match (dialect, point) {
            (Dialect::Libxl, Point::Ready) => Point::Loaded,
            _ => point,
        };
        match last {
            _ if !dialect.has(received) => Misfit::Foreign,
            _ if received.sender() == side => Misfit::Direction,
            Some(last) if last == received => Misfit::Duplicate,
            Some(last) if place(received) < place(last) => Misfit::Late,
            _ => Misfit::Early,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Misfit::Foreign => "not of this dialect",
            Misfit::Direction => "of the other direction",
            Misfit::Duplicate => "a duplicate",
            Misfit::Late => "late",
            Misfit::Early => "early",
        }
    }
}

/// What was wrong with what the peer said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum Wrong {
    /// A sync point of another step.
    #[error(
        "{} is {}; expected {}", .dialect.name(.message.point()), .misfit.name(),
        .expected.map_or("nothing", |point| .dialect.name(point))
    )]
    OutOfStep {
        /// In use.
        dialect: Dialect,
        /// What came.
        message: Message,
        /// Why it does not fit.
        misfit: Misfit,
        /// What would have.
        expected: Option<Point>,
    },
    /// Bytes that are no message, or an unknown number.
    #[error(transparent)]
    Wire(WireError),
    /// vmstate-size with more than [`super::Config::budget`].
    #[error("vmstate-size {bytes} is over the budget of {budget}")]
    Size {
        /// What it says.
        bytes: u64,
        /// What is allowed.
        budget: u64,
    },
    /// The state is unsound, or longer or shorter than its size says.
    #[error("the state received is unsound")]
    State,
    /// What was expected has not come in time.
    #[error("{} has not come in time", .dialect.name(*.expected))]
    Overdue {
        /// In use.
        dialect: Dialect,
        /// What was expected.
        expected: Point,
    },
    /// State that was expected has not come in time.
    #[error("the state has not come in time")]
    StateOverdue,
}

/// Why a session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[error("{wrong} (step: {step}; guest: {guest})")]
pub struct Fault {
    /// What was wrong, with the message.
    pub wrong: Wrong,
    /// The step it was found in.
    pub step: Step,
    /// What our own guest did at that moment.
    pub guest: Guest,
}
