//! The simulated network card: the host's end with its queues, and the counters that the guest sees.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::hypervisor::VirtualNic;
use crate::hypervisor::error::Result;
use crate::hypervisor::types::Packet;

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

/// The host's end of the card, which any number of threads may hold besides the guest. Its queues are no part of the guest's state.
#[derive(Debug, Clone, Default)]
pub struct Nic(Arc<Mutex<Queues>>);

#[derive(Debug, Default)]
struct Queues {
    outbound: VecDeque<Packet>,
    inbound: VecDeque<Vec<u8>>,
    epoch: u64,
    lost: u64,
}

impl Nic {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a packet from the guest.
    pub(super) fn send(&self, octets: Vec<u8>) {
        let mut queues = self.queues();
        if queues.outbound.len() < OUTBOUND_LIMIT {
            let epoch = queues.epoch;
            queues.outbound.push_back(Packet { epoch, octets });
        } else {
            queues.lost = queues.lost.saturating_add(1);
        }
    }

    /// The next inbound packet.
    pub(super) fn fetch(&self) -> Option<Vec<u8>> {
        self.queues().inbound.pop_front()
    }

    /// Outbound packets that wait.
    pub fn waiting(&self) -> usize {
        self.queues().outbound.len()
    }

    /// Outbound packets that were lost because nobody took those before them.
    pub fn lost(&self) -> u64 {
        self.queues().lost
    }
}

impl VirtualNic for Nic {
    fn set_epoch(&mut self, epoch: u64) -> Result<()> {
        self.queues().epoch = epoch;
        Ok(())
    }

    fn take_packets(&mut self, epoch: u64, packets: &mut Vec<Packet>) -> Result<()> {
        let mut queues = self.queues();
        let ready = queues.outbound.iter().take_while(|packet| packet.epoch <= epoch).count();
        packets.extend(queues.outbound.drain(..ready));
        Ok(())
    }

    fn discard_packets(&mut self) -> Result<usize> {
        let mut queues = self.queues();
        let dropped = queues.outbound.len();
        queues.outbound.clear();
        Ok(dropped)
    }

    fn deliver(&mut self, octets: &[u8]) -> Result<bool> {
        let mut queues = self.queues();
        let room = queues.inbound.len() < INBOUND_LIMIT && octets.len() <= MTU;
        if room {
            queues.inbound.push_back(octets.to_vec());
        }
        Ok(room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_leave_in_order_and_only_up_to_the_epoch() {
        let mut nic = Nic::default();
        for epoch in [0, 0, 1, 2] {
            nic.set_epoch(epoch).unwrap();
            nic.send(vec![epoch as u8]);
        }
        let mut out = Vec::new();
        nic.take_packets(1, &mut out).unwrap();
        assert_eq!(out.iter().map(|p| p.epoch).collect::<Vec<_>>(), [0, 0, 1]);
        nic.take_packets(1, &mut out).unwrap();
        assert_eq!((out.len(), nic.waiting()), (3, 1));
        assert_eq!(nic.discard_packets().unwrap(), 1);
        nic.take_packets(9, &mut out).unwrap();
        assert_eq!(out.len(), 3);
    }

    #[test]
    fn queues_are_bounded() {
        let mut nic = Nic::default();
        for _ in 0..OUTBOUND_LIMIT + 3 {
            nic.send(Vec::new());
        }
        assert_eq!((nic.waiting(), nic.lost()), (OUTBOUND_LIMIT, 3));
        assert_eq!((0..INBOUND_LIMIT + 5).filter(|_| nic.deliver(b"ping").unwrap()).count(), INBOUND_LIMIT);
        assert!(!Nic::default().deliver(&[0; MTU + 1]).unwrap());
        assert_eq!(nic.fetch().as_deref(), Some(b"ping".as_slice()));
    }
}
