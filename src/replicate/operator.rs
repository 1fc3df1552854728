//! The operator's way to a driver, and the driver's words to the operator.

use crate::control::status::{Figures, Notice as Told, Summary};
use crate::control::{Reply, Request};
use crate::remus::Level;
use crate::replicate::stats::Statistics;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

/// What an operator wants of a driver.
#[derive(Debug)]
pub enum Ask {
    /// Something over the control socket; the answer goes to the sender.
    Request(Request, Sender<Reply>),
    /// SIGTERM or SIGINT: end in a defined state. Asked twice: end at once.
    Terminate,
    /// Somebody else waits to be served: a secondary whose primary has not said who it is ends.
    Unmet,
}

/// A way to a running driver. Clones lead to the same one; when it has ended, requests are answered with an error.
#[derive(Clone)]
pub struct Handle(Arc<dyn Fn(Ask) -> bool + Send + Sync>);

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

impl Handle {
    /// `tell` gives false when nobody hears any more.
    pub(crate) fn new(tell: impl Fn(Ask) -> bool + Send + Sync + 'static) -> Self {
        Handle(Arc::new(tell))
    }

    /// Asks, and waits for the answer.
    pub fn request(&self, request: Request) -> Reply {
        self.ask(request).unwrap_or_else(|| Reply::error("this side has ended"))
    }

    /// The same; `None` from a driver that has ended.
    pub fn ask(&self, request: Request) -> Option<Reply> {
        let (answer, answered) = channel();
        if (self.0)(Ask::Request(request, answer)) { answered.recv().ok() } else { None }
    }

    /// Somebody else waits to be served.
    pub(crate) fn unmet(&self) {
        (self.0)(Ask::Unmet);
    }

    /// What a signal asks for.
    pub fn terminate(&self) {
        (self.0)(Ask::Terminate);
    }
}

/// Notices kept for the status.
const KEPT: usize = 16;

/// The newest notices. Each is a line in the log too.
#[derive(Debug, Default)]
pub(super) struct Notices(VecDeque<(Instant, Level, String)>);

impl Notices {
    pub(super) fn add(&mut self, domain: &str, level: Level, text: String) {
        let line = match level {
            Level::Info => log::Level::Info,
            Level::Warning => log::Level::Warn,
            Level::Critical => log::Level::Error,
        };
        log::log!(line, "{domain}: {text}");
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((Instant::now(), level, text));
    }

    pub(super) fn list(&self) -> Vec<Told> {
        self.0
            .iter()
            .map(|(at, level, text)| Told { age_ms: millis_since(*at), level: (*level).into(), text: text.clone() })
            .collect()
    }
}

/// Counters and histograms as they are told.
pub(super) fn figures(statistics: &Statistics) -> Figures {
    Figures {
        checkpoints: statistics.checkpoints,
        refused: statistics.refused,
        pages: statistics.dirty_pages,
        bytes: statistics.bytes,
        interval_stretched: statistics.stretched,
        pause: Summary::from_nanos(statistics.pause.summary()),
        transmission: Summary::from_nanos(statistics.transmission.summary()),
        acknowledgement: Summary::from_nanos(statistics.acknowledgement.summary()),
        output_delay: Summary::from_nanos(statistics.output_delay.summary()),
        pages_per_checkpoint: statistics.pages.summary().into(),
        bytes_per_checkpoint: statistics.bytes_each.summary().into(),
        ..Figures::default()
    }
}

/// Milliseconds since then.
pub(super) fn millis_since(at: Instant) -> u64 {
    u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)
}
