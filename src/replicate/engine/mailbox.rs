//! Where a loop's messages come in.

use crate::replicate::operator::{Ask, Handle};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Where a loop's messages come in, from its threads and from the operator.
pub(in crate::replicate) struct Mailbox<M> {
    pub inbox: Receiver<M>,
    pub post: Sender<M>,
}

impl<M> Default for Mailbox<M> {
    fn default() -> Self {
        let (post, inbox) = channel();
        Mailbox { inbox, post }
    }
}

impl<M: Send + 'static> Mailbox<M> {
    /// A way for the operator to talk to the loop.
    pub fn handle(&self) -> Handle
    where
        M: From<Ask>,
    {
        let post = self.post.clone();
        Handle::new(move |ask| post.send(M::from(ask)).is_ok())
    }

    /// Something that can be sent to the loop. Where that has ended, nothing matters any more.
    pub fn post<T>(&self, message: impl Fn(T) -> M + Send + 'static) -> impl Fn(T) + Send + 'static {
        let post = self.post.clone();
        move |value| {
            let _ = post.send(message(value));
        }
    }
}
