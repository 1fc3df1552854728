//! What a secondary's loop orders its replica's thread at the end, and what that says last.

/// What the replica's thread says last.
#[derive(Debug)]
pub(in crate::replicate) enum Last<D> {
    /// The domain, fit to run.
    Survivor(Box<D>),
    /// It could not be made fit.
    Unfit(String),
    /// It is kept, with so many bytes of memory; nothing when there is none. The thread waits for [`Order::Activate`] or [`Order::Quit`].
    Held(Option<u64>),
}

/// What the replica's thread is to do at the end, whatever it is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::replicate) enum Order {
    /// Make the domain fit to run and give it away.
    Activate,
    /// Receive nothing more, and keep the replica, paused.
    Hold,
    /// Free everything and end.
    Quit,
}

/// The way to the replica's thread.
pub(in crate::replicate) trait Orders: Send + 'static {
    /// Gives an order; the thread may have ended.
    fn order(&self, order: Order);
}

/// A way to a replica's thread that frees the replica when it is dropped.
pub(super) struct Keeping<O: Orders>(pub O);

impl<O: Orders> Drop for Keeping<O> {
    fn drop(&mut self) {
        self.0.order(Order::Quit);
    }
}
