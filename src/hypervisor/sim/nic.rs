//! The simulated network card: the host's end with its queues, and the counters that the guest sees.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::hypervisor::compared::{OnInbound, OnSent, Sent};
use crate::hypervisor::error::{Error, Result};

/// Packets that wait on the host's side at most; further ones are lost, as on any network.
pub const OUTBOUND_LIMIT: usize = 1 << 16;

/// Inbound packets that wait for the guest at most.
pub const INBOUND_LIMIT: usize = 256;

/// Bytes of an inbound packet at most; longer ones are lost.
pub const MTU: usize = 2048;

/// What the card has counted: part of the device model's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NicCounters {
    /// Packets sent by the guest.
    pub tx_packets: u64,
    /// Bytes sent by the guest.
    pub tx_bytes: u64,
    /// Packets fetched by the guest.
    pub rx_packets: u64,
    /// Bytes fetched by the guest.
    pub rx_bytes: u64,
}

/// The host's end of the card, which any number of threads may hold besides the guest. Its queues are no part of the guest's state:
/// packets that have not left, or that the guest has not fetched, are lost with the host.
///
/// Outbound packets wait in one queue. Its beginning may leave, by a [`SimWire`](super::SimWire) or by [`Nic::take_ready`]; the rest
/// is held. How far the beginning goes is the business of [`SimOutput`](super::SimOutput).
#[derive(Debug, Clone, Default)]
pub struct Nic(Arc<Card>);

#[derive(Debug, Default)]
struct Card {
    queues: Mutex<Queues>,
    /// Told when packets may leave, when one has left, and when the cable is pulled.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queues {
    outbound: VecDeque<Packet>,
    /// How many packets at the beginning of `outbound` may leave. All of them unless `held`.
    ready: usize,
    held: bool,
    /// `None` after a hold until an epoch begins.
    epoch: Option<u64>,
    lost: u64,
    cable: Cable,
    /// The cable's thread has a packet in its hands.
    sending: bool,
    inbound: VecDeque<Vec<u8>>,
    deaf: bool,
    /// The number of the next packet.
    next: u64,
    compared: Compared,
}

/// What a comparison has to do with the card.
#[derive(Default)]
struct Compared {
    sent: Option<OnSent>,
    /// What is told of goes nowhere else.
    diverts: bool,
    mirror: Option<OnInbound>,
    /// What comes for the guest belongs to it.
    inbound: Option<u64>,
}

impl fmt::Debug for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compared")
            .field("sent", &self.sent.is_some())
            .field("diverts", &self.diverts)
            .field("mirror", &self.mirror.is_some())
            .field("inbound", &self.inbound)
            .finish()
    }
}

#[derive(Debug)]
struct Packet {
    number: u64,
    epoch: Option<u64>,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Cable {
    #[default]
    None,
    Plugged,
    /// To be pulled when so many packets more have left.
    Pulled(usize),
}

impl Nic {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queues: MutexGuard<'a, Queues>) -> MutexGuard<'a, Queues> {
        self.0.changed.wait(queues).unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a packet from the guest.
    pub(super) fn send(&self, bytes: Vec<u8>) {
        let mut queues = self.queues();
        let queues = &mut *queues;
        if queues.outbound.len() >= OUTBOUND_LIMIT {
            queues.lost = queues.lost.saturating_add(1);
            return;
        }
        let (number, epoch) = (queues.next, queues.epoch);
        queues.next = number.wrapping_add(1);
        if let (Some(told), Some(epoch), true) = (&mut queues.compared.sent, epoch, queues.held) {
            if queues.compared.diverts {
                return told(Sent { number, epoch, bytes });
            }
            told(Sent { number, epoch, bytes: bytes.clone() });
        }
        queues.outbound.push_back(Packet { number, epoch, bytes });
        if !queues.held {
            queues.ready += 1;
            self.0.changed.notify_all();
        }
    }

    /// The next inbound packet.
    pub(super) fn fetch(&self) -> Option<Vec<u8>> {
        self.queues().inbound.pop_front()
    }

    /// Hands a packet from outside to the guest. Returns false when it is lost: the card's queue is full, the packet is too long,
    /// or the card does not listen.
    pub fn deliver(&self, bytes: &[u8]) -> bool {
        let mut queues = self.queues();
        let room = !queues.deaf && queues.inbound.len() < INBOUND_LIMIT && bytes.len() <= MTU;
        if room {
            queues.inbound.push_back(bytes.to_vec());
            let Compared { mirror, inbound, .. } = &mut queues.compared;
            if let (Some(mirror), Some(epoch)) = (mirror, *inbound) {
                mirror(epoch, bytes);
            }
        }
        room
    }

    /// Whether the card takes inbound packets. One that stops loses those that the guest has not fetched.
    pub(super) fn set_listening(&self, listens: bool) {
        let mut queues = self.queues();
        queues.deaf = !listens;
        if !listens {
            queues.inbound.clear();
        }
    }

    /// Outbound packets that wait, held or not.
    pub fn waiting(&self) -> usize {
        self.queues().outbound.len()
    }

    /// Outbound packets that were lost because too many waited before them.
    pub fn lost(&self) -> u64 {
        self.queues().lost
    }

    /// Takes the packets that may leave, in order, where no wire is plugged in to do so.
    pub fn take_ready(&self) -> Vec<Vec<u8>> {
        let mut queues = self.queues();
        let ready = std::mem::take(&mut queues.ready);
        queues.outbound.drain(..ready).map(|packet| packet.bytes).collect()
    }

    /// Lets go what is there, and holds.
    pub(super) fn hold(&self) {
        let mut queues = self.queues();
        if !queues.held {
            queues.held = true;
            queues.epoch = None;
        }
    }

    /// What is held and belongs to no epoch yet, and what comes, belongs to this one.
    pub(super) fn begin_epoch(&self, epoch: u64) -> Result<()> {
        let mut queues = self.queues();
        if !queues.held {
            return Ok(());
        }
        match queues.epoch {
            Some(current) if epoch < current => return Err(Error::EpochOrder { current, asked: epoch }),
            Some(_) => {}
            None => {
                let ready = queues.ready;
                queues.outbound.iter_mut().skip(ready).for_each(|packet| packet.epoch = Some(epoch));
            }
        }
        queues.epoch = Some(epoch);
        Ok(())
    }

    /// Lets go what belongs to epochs up to this one.
    pub(super) fn release(&self, up_to: u64) -> u64 {
        let mut queues = self.queues();
        let held = queues.outbound.iter().skip(queues.ready);
        let more = held.take_while(|packet| packet.epoch.is_some_and(|epoch| epoch <= up_to)).count();
        queues.ready += more;
        self.0.changed.notify_all();
        more as u64
    }

    /// Lets go one packet that is held, ahead of those before it. False when it is not there.
    pub(super) fn release_one(&self, number: u64) -> bool {
        let mut queues = self.queues();
        let ready = queues.ready;
        // Those that are held keep their order.
        let Ok(place) = queues
            .outbound
            .make_contiguous()
            .get(ready..)
            .unwrap_or_default()
            .binary_search_by_key(&number, |packet| packet.number)
        else {
            return false;
        };
        let Some(packet) = queues.outbound.remove(ready + place) else { return false };
        queues.outbound.insert(ready, packet);
        queues.ready += 1;
        self.0.changed.notify_all();
        true
    }

    /// Tells of what is sent while output is held; what is told of is not kept if it `diverts`.
    pub(super) fn tell_sent(&self, told: OnSent, diverts: bool) {
        let mut queues = self.queues();
        (queues.compared.sent, queues.compared.diverts) = (Some(told), diverts);
    }

    /// Tells of what comes for the guest, once an epoch has begun.
    pub(super) fn tell_inbound(&self, told: OnInbound) {
        self.queues().compared.mirror = Some(told);
    }

    /// Begins an epoch of what comes for the guest, see [`ComparedCard::begin_inbound`](crate::hypervisor::ComparedCard).
    pub(super) fn begin_inbound(&self, epoch: u64) {
        let mut queues = self.queues();
        let Queues { inbound, compared, .. } = &mut *queues;
        compared.inbound = Some(epoch);
        match &mut compared.mirror {
            Some(told) => inbound.iter().for_each(|bytes| told(epoch, bytes)),
            None => inbound.clear(),
        }
    }

    /// Hands a packet of an epoch to the guest. False when it is of another epoch, or lost as in [`Nic::deliver`].
    pub(super) fn deliver_in(&self, epoch: u64, bytes: &[u8]) -> bool {
        self.queues().compared.inbound == Some(epoch) && self.deliver(bytes)
    }

    /// Nobody compares any more.
    pub(super) fn detach(&self) {
        self.queues().compared = Compared::default();
    }

    /// Lets everything go from now on.
    pub(super) fn free(&self) {
        let mut queues = self.queues();
        queues.held = false;
        queues.ready = queues.outbound.len();
        self.0.changed.notify_all();
    }

    /// Drops what is there, and holds.
    pub(super) fn discard(&self) -> u64 {
        let mut queues = self.queues();
        let dropped = queues.outbound.len() as u64;
        queues.outbound.clear();
        queues.ready = 0;
        if !queues.held {
            queues.held = true;
            queues.epoch = None;
        }
        while queues.sending {
            queues = self.wait(queues);
        }
        dropped
    }

    /// Claims the card's outbound end for a cable. False when there is one.
    pub(super) fn plug(&self) -> bool {
        let mut queues = self.queues();
        let free = queues.cable == Cable::None;
        if free {
            queues.cable = Cable::Plugged;
        }
        free
    }

    /// Has [`Nic::next_ready`] end once it has given out what may leave now.
    pub(super) fn pull(&self) {
        let mut queues = self.queues();
        queues.cable = Cable::Pulled(queues.ready);
        self.0.changed.notify_all();
    }

    /// Gives the outbound end back.
    pub(super) fn unplug(&self) {
        let mut queues = self.queues();
        (queues.cable, queues.sending) = (Cable::None, false);
        self.0.changed.notify_all();
    }

    /// Waits for the next packet that may leave. It counts as on its way until the next call. `None` when the cable is pulled; the
    /// second value tells whether it is about to be.
    pub(super) fn next_ready(&self) -> Option<(Vec<u8>, bool)> {
        let mut queues = self.queues();
        if std::mem::take(&mut queues.sending) {
            self.0.changed.notify_all();
        }
        loop {
            let pulled = match queues.cable {
                Cable::Pulled(0) => return None,
                Cable::Pulled(_) if queues.ready == 0 => return None,
                Cable::Pulled(left) => {
                    queues.cable = Cable::Pulled(left - 1);
                    true
                }
                Cable::Plugged => false,
                Cable::None => return None,
            };
            if queues.ready > 0
                && let Some(packet) = queues.outbound.pop_front()
            {
                queues.ready -= 1;
                queues.sending = true;
                return Some((packet.bytes, pulled));
            }
            queues = self.wait(queues);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(nic: &Nic) -> Vec<u8> {
        nic.take_ready().into_iter().flatten().collect()
    }

    #[test]
    fn packets_leave_in_order_and_only_up_to_the_epoch() {
        let nic = Nic::default();
        nic.send(vec![0]);
        nic.hold();
        nic.send(vec![1]);
        for epoch in [7, 7, 8, 9] {
            nic.begin_epoch(epoch).unwrap();
            nic.send(vec![epoch as u8]);
        }
        assert_eq!(taken(&nic), [0]);
        assert_eq!((nic.release(6), nic.release(8), nic.release(8)), (0, 4, 0));
        assert_eq!(taken(&nic), [1, 7, 7, 8]);
        assert_eq!((nic.discard(), nic.release(9), nic.waiting()), (1, 0, 0));
        nic.send(vec![10]);
        assert_eq!((taken(&nic), nic.release(9)), (vec![], 1));
        nic.free();
        nic.send(vec![11]);
        assert_eq!((taken(&nic), nic.release(99)), (vec![10, 11], 0));
    }

    #[test]
    fn epochs_go_up_while_output_is_held() {
        let nic = Nic::default();
        nic.begin_epoch(9).unwrap();
        nic.hold();
        nic.begin_epoch(3).unwrap();
        assert!(matches!(nic.begin_epoch(2), Err(Error::EpochOrder { current: 3, asked: 2 })));
        nic.send(vec![3]);
        nic.hold();
        assert_eq!((taken(&nic), nic.release(2), nic.release(3)), (vec![], 0, 1));
    }

    #[test]
    fn one_packet_leaves_ahead_of_others_and_those_keep_their_order() {
        let nic = Nic::default();
        nic.hold();
        nic.begin_epoch(1).unwrap();
        (0..5).for_each(|byte| nic.send(vec![byte]));
        assert!(nic.release_one(3) && nic.release_one(1));
        assert!(!nic.release_one(3) && !nic.release_one(5));
        assert_eq!(taken(&nic), [3, 1]);
        assert!(nic.release_one(4));
        assert_eq!((nic.release(1), taken(&nic)), (2, vec![4, 0, 2]));
    }

    #[test]
    fn what_is_sent_and_what_comes_is_told_with_its_epoch() {
        let (tell, told) = std::sync::mpsc::channel();
        let (also, came) = std::sync::mpsc::channel();
        let primary = Nic::default();
        primary.tell_sent(Box::new(move |sent| tell.send((sent.epoch, sent.bytes)).unwrap()), false);
        primary.tell_inbound(Box::new(move |epoch, bytes| also.send((epoch, bytes.to_vec())).unwrap()));
        primary.send(vec![0]);
        assert!(primary.deliver(b"a"));
        primary.hold();
        primary.begin_epoch(1).unwrap();
        primary.begin_inbound(1);
        primary.send(vec![1]);
        assert!(primary.deliver(b"b"));
        primary.begin_inbound(2);
        let told: Vec<_> = told.try_iter().collect();
        assert_eq!((told, primary.waiting()), (vec![(1, vec![1])], 2));
        let came: Vec<_> = came.try_iter().collect();
        assert_eq!(came, [(1, b"a".to_vec()), (1, b"b".to_vec()), (2, b"a".to_vec()), (2, b"b".to_vec())]);
        let secondary = Nic::default();
        secondary.tell_sent(Box::new(|_| {}), true);
        secondary.hold();
        secondary.begin_epoch(1).unwrap();
        secondary.begin_inbound(1);
        secondary.send(vec![1]);
        assert!(
            secondary.deliver_in(1, b"a") && !secondary.deliver_in(0, b"late") && !secondary.deliver_in(2, b"early")
        );
        secondary.begin_inbound(2);
        assert!(secondary.fetch().is_none() && secondary.waiting() == 0);
    }

    #[test]
    fn queues_are_bounded() {
        let nic = Nic::default();
        for _ in 0..OUTBOUND_LIMIT + 3 {
            nic.send(Vec::new());
        }
        assert_eq!((nic.waiting(), nic.lost()), (OUTBOUND_LIMIT, 3));
        assert_eq!((0..INBOUND_LIMIT + 5).filter(|_| nic.deliver(b"ping")).count(), INBOUND_LIMIT);
        assert!(!Nic::default().deliver(&[0; MTU + 1]));
        assert_eq!(nic.fetch().as_deref(), Some(b"ping".as_slice()));
        nic.set_listening(false);
        assert!(!nic.deliver(b"ping") && nic.fetch().is_none());
    }

    #[test]
    fn a_card_has_one_cable_and_a_pulled_one_takes_only_what_may_leave() {
        let nic = Nic::default();
        assert!(nic.plug() && !nic.plug());
        nic.send(vec![1]);
        nic.send(vec![2]);
        assert_eq!(nic.next_ready(), Some((vec![1], false)));
        nic.pull();
        nic.send(vec![3]);
        assert_eq!((nic.next_ready(), nic.next_ready()), (Some((vec![2], true)), None));
        nic.unplug();
        assert!(nic.plug());
        assert_eq!(nic.next_ready(), Some((vec![3], false)));
    }
}
