//! The simulated network card: the host's end with its queues, and the counters that the guest sees.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::hypervisor::error::{Error, Result};

/// Packets that wait on the host's side at most; further ones are lost, as on any network.
pub const OUTBOUND_LIMIT: usize = 1 << 16;

/// Inbound packets that wait for the guest at most.
pub const INBOUND_LIMIT: usize = 256;

/// Octets of an inbound packet at most; longer ones are lost.
pub const MTU: usize = 2048;

/// What the card has counted: part of the device model's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NicCounters {
    /// Packets sent by the guest.
    pub tx_packets: u64,
    /// Octets sent by the guest.
    pub tx_octets: u64,
    /// Packets fetched by the guest.
    pub rx_packets: u64,
    /// Octets fetched by the guest.
    pub rx_octets: u64,
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
}

#[derive(Debug)]
struct Packet {
    epoch: Option<u64>,
    octets: Vec<u8>,
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
    pub(super) fn send(&self, octets: Vec<u8>) {
        let mut queues = self.queues();
        if queues.outbound.len() >= OUTBOUND_LIMIT {
            queues.lost = queues.lost.saturating_add(1);
            return;
        }
        let epoch = queues.epoch;
        queues.outbound.push_back(Packet { epoch, octets });
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
    pub fn deliver(&self, octets: &[u8]) -> bool {
        let mut queues = self.queues();
        let room = !queues.deaf && queues.inbound.len() < INBOUND_LIMIT && octets.len() <= MTU;
        if room {
            queues.inbound.push_back(octets.to_vec());
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
        queues.outbound.drain(..ready).map(|packet| packet.octets).collect()
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
                return Some((packet.octets, pulled));
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
