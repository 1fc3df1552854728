//! The guest's network card when two copies of the guest run: what each sends is told, and one packet at a time let out.
#![forbid(unsafe_code)]

use super::error::Result;
use super::output::OutputBuffer;

/// A packet that a guest has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The card's number of it.
    pub number: u64,
    /// The checkpoint that the guest went on from.
    pub epoch: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Hears of packets that the guest sends, in their order. Called with the card locked: it must not wait, nor call the card.
pub type OnSent = Box<dyn FnMut(Sent) + Send>;

/// Hears of packets that come for the guest, with the epoch they come in. As [`OnSent`].
pub type OnInbound = Box<dyn FnMut(u64, &[u8]) + Send>;

/// A card whose outbound packets can be compared with those of another copy, and whose inbound packets can be given to that copy too.
///
/// | side | calls |
/// |---|---|
/// | primary | [`capture`](ComparedCard::capture), [`mirror`](ComparedCard::mirror); [`begin_inbound`](ComparedCard::begin_inbound) before each resume; [`release_one`](ComparedCard::release_one) |
/// | secondary | [`divert`](ComparedCard::divert); [`begin_inbound`](ComparedCard::begin_inbound) at each checkpoint loaded; [`deliver_in`](ComparedCard::deliver_in) |
/// | both, at the end | [`detach`](ComparedCard::detach) |
pub trait ComparedCard: OutputBuffer {
    /// Tells of each packet that is held from now on.
    fn capture(&mut self, told: OnSent);

    /// Takes each packet that the guest sends from now on: it is told of, and goes nowhere else.
    fn divert(&mut self, told: OnSent);

    /// Lets out one held packet, whatever waits before it. False when it is not there any more.
    ///
    /// # Errors
    /// The host's network refuses; the packet stays held.
    fn release_one(&mut self, number: u64) -> Result<bool>;

    /// Tells of each packet that comes for the guest from now on.
    fn mirror(&mut self, told: OnInbound);

    /// What comes for the guest belongs to this epoch. On the side that mirrors, what has come and the guest has not fetched is told
    /// again, in this epoch; on the other it is forgotten.
    fn begin_inbound(&mut self, epoch: u64);

    /// Hands a mirrored packet to the guest, if it is of the epoch that was begun last. False when it is lost.
    fn deliver_in(&mut self, epoch: u64, bytes: &[u8]) -> bool;

    /// Ends telling, taking and mirroring.
    fn detach(&mut self);

    /// The connection that a packet belongs to: packets of one connection have an order.
    fn connection(&self, bytes: &[u8]) -> u64;
}
