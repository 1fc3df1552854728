//! The secondary's copy, on a thread of its own: reads the stream, keeps what is whole, applies what it is told to.

use super::replica::{Arrived, Copies, Replica, Unsound};
use crate::libxl::restore::Options;
use crate::remus::wire::{Control, WireError};
use crate::remus::{RefuseReason, Session};
use crate::replicate::failpoint::{Failpoints, Step};
use crate::replicate::link::{Forward, Heading};
use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// What the thread has to say.
#[derive(Debug)]
pub(super) enum Said<D> {
    /// A frame, as it came.
    Frame(Session, Control),
    /// A whole checkpoint, or one that is not. The thread waits for an [`Order`].
    Checkpoint { session: Session, number: u64, verdict: Result<(), RefuseReason>, text: String, figures: Arrived },
    /// The stream is unsound before its checkpoint is whole.
    Damaged { reason: RefuseReason, text: String },
    /// The framing is damaged.
    Garbled(WireError),
    /// The connection has ended. The thread waits for an [`Order`].
    Ended,
    /// The checkpoint is applied.
    Applied { number: u64, took: Duration },
    /// It could not be.
    ApplyFailed { number: u64, text: String },
    /// The domain, fit to run: the last word.
    Survivor(Box<D>),
    /// It could not be made fit: the last word.
    Unfit(String),
    /// It is kept, with so many bytes of memory; nothing when there is none. The thread waits for [`Order::Activate`] or [`Order::Quit`].
    Held(Option<u64>),
}

/// What the thread is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Load the checkpoint just received.
    Apply,
    /// Forget it.
    Drop,
    /// Make the domain fit to run and give it away.
    Activate,
    /// Read nothing more, and keep the copy as it is.
    Hold,
    /// Free everything and end.
    Quit,
}

/// The stream's bytes, for readers that come and go.
#[derive(Debug, Clone)]
struct Bytes(Rc<RefCell<Forward>>);

impl Read for Bytes {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(bytes)
    }
}

/// Where a stream's handling goes on.
enum Next {
    /// With whatever comes.
    Heading,
    /// With this order.
    Order(Order),
}

/// The thread.
pub(super) struct Keeper<C: Copies, S> {
    forward: Bytes,
    copies: C,
    options: Options,
    failpoints: Failpoints,
    orders: Receiver<Order>,
    say: S,
    copy: Option<C::Copy<Bytes>>,
}

impl<C: Copies, S: FnMut(Said<C::Domain>)> Keeper<C, S> {
    pub(super) fn new(
        forward: Forward,
        copies: C,
        options: Options,
        failpoints: Failpoints,
        orders: Receiver<Order>,
        say: S,
    ) -> Self {
        let forward = Bytes(Rc::new(RefCell::new(forward)));
        Keeper { forward, copies, options, failpoints, orders, say, copy: None }
    }

    /// Runs until an order ends it.
    pub(super) fn run(mut self) {
        loop {
            let heading = self.forward.0.borrow_mut().next_heading();
            let next = match heading {
                Heading::Stream { .. } => self.stream(),
                // The end of a checkpoint whose beginning was unsound.
                Heading::Checkpoint(..) => Next::Heading,
                Heading::Garbled(error) => {
                    (self.say)(Said::Garbled(error));
                    self.forward.0.borrow_mut().drain();
                    Next::Heading
                }
                Heading::Ended => {
                    (self.say)(Said::Ended);
                    // Orders for checkpoints are of no meaning any more.
                    Next::Order(self.final_order())
                }
            };
            match next {
                Next::Heading => {}
                Next::Order(Order::Activate) => return self.activate(),
                Next::Order(Order::Hold) => return self.hold(),
                Next::Order(_) => return,
            }
        }
    }

    fn final_order(&self) -> Order {
        loop {
            match self.orders.recv() {
                Ok(order @ (Order::Activate | Order::Hold | Order::Quit)) => return order,
                Err(_) => return Order::Quit,
                Ok(Order::Apply | Order::Drop) => {}
            }
        }
    }

    /// One stream, from its first byte to wherever it goes no further.
    fn stream(&mut self) -> Next {
        self.arm(Step::ImageArriving);
        let copy = match self.copies.image(self.forward.clone(), self.options) {
            Ok(copy) => copy,
            Err(unsound) => return self.unsound(&unsound),
        };
        self.failpoints.pass(Step::Received);
        let (session, number) = match self.report(Arrived::default()) {
            Ok((at, Order::Apply)) => at,
            Ok((_, Order::Drop)) => return Next::Heading,
            Ok((_, order)) => return Next::Order(order),
            Err(next) => return next,
        };
        self.failpoints.pass(Step::Applying);
        // The image is in the new domain already. Only now is the one before of no use any more.
        let started = Instant::now();
        if let Err(text) = self.copy.insert(copy).commit(session, number) {
            return self.apply_failed(number, text);
        }
        self.failpoints.pass(Step::Applied);
        (self.say)(Said::Applied { number, took: started.elapsed() });
        self.rounds()
    }

    /// The checkpoints behind the first.
    fn rounds(&mut self) -> Next {
        loop {
            self.arm(Step::Arriving);
            let Some(copy) = &mut self.copy else { return Next::Heading };
            let figures = match copy.receive() {
                Ok(figures) => figures,
                Err(unsound) => return self.unsound(&unsound),
            };
            self.failpoints.pass(Step::Received);
            let (session, number) = match self.report(figures) {
                Ok((at, Order::Apply)) => at,
                Ok((_, Order::Drop)) => return Next::Heading,
                Ok((_, order)) => return Next::Order(order),
                Err(next) => return next,
            };
            let Some(copy) = &mut self.copy else { return Next::Heading };
            self.failpoints.pass(Step::Applying);
            let started = Instant::now();
            match copy.commit(session, number).and_then(|()| copy.apply()) {
                Ok(()) => {
                    self.failpoints.pass(Step::Applied);
                    (self.say)(Said::Applied { number, took: started.elapsed() });
                }
                Err(text) => return self.apply_failed(number, text),
            }
        }
    }

    fn apply_failed(&mut self, number: u64, text: String) -> Next {
        (self.say)(Said::ApplyFailed { number, text });
        self.copy = None;
        Next::Order(self.final_order())
    }

    /// Holds the checkpoint just parsed against its frame, says what came of it, and waits for the order.
    fn report(&mut self, figures: Arrived) -> Result<((Session, u64), Order), Next> {
        let sealed = self.forward.0.borrow_mut().checkpoint();
        match sealed {
            Ok((session, seal, verdict)) => {
                let text = String::new();
                Ok(((session, seal.number), self.ask(session, seal.number, verdict, text, figures)))
            }
            Err(None) => Err(Next::Heading),
            Err(Some(reason)) => {
                let text = "bytes behind the checkpoint's last record".to_owned();
                (self.say)(Said::Damaged { reason, text });
                Err(Next::Heading)
            }
        }
    }

    fn ask(
        &mut self,
        session: Session,
        number: u64,
        verdict: Result<(), RefuseReason>,
        text: String,
        figures: Arrived,
    ) -> Order {
        (self.say)(Said::Checkpoint { session, number, verdict, text, figures });
        self.orders.recv().unwrap_or(Order::Quit)
    }

    /// The stream cannot be parsed any further.
    fn unsound(&mut self, unsound: &Unsound) -> Next {
        let (reason, text) = (unsound.reason(), unsound.to_string());
        let seen = self.forward.0.borrow().seen();
        match seen {
            // It was the checkpoint's end, or the connection's, that came too early.
            Some(Heading::Checkpoint(..)) => {
                let sealed = self.forward.0.borrow_mut().checkpoint();
                let Ok((session, seal, verdict)) = sealed else { return Next::Heading };
                let verdict = verdict.and(Err(reason));
                match self.ask(session, seal.number, verdict, text, Arrived::default()) {
                    Order::Apply | Order::Drop => Next::Heading,
                    order => Next::Order(order),
                }
            }
            Some(_) => Next::Heading,
            None => {
                (self.say)(Said::Damaged { reason, text });
                Next::Heading
            }
        }
    }

    fn activate(mut self) {
        let said = match self.copy.take() {
            None => Said::Unfit("there is no copy".into()),
            Some(copy) => match copy.activate() {
                Ok(domain) => Said::Survivor(Box::new(domain)),
                Err(text) => Said::Unfit(text),
            },
        };
        (self.say)(said);
    }

    /// Keeps the copy until it is decided what becomes of it.
    fn hold(mut self) {
        (self.say)(Said::Held(self.copy.as_ref().map(Replica::memory)));
        loop {
            match self.final_order() {
                Order::Hold => {}
                Order::Activate => return self.activate(),
                _ => return,
            }
        }
    }

    fn arm(&self, step: Step) {
        self.forward.0.borrow_mut().arm(step);
    }
}
