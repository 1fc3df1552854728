//! The kernel's part of a network buffer, for tests: a network that counts packets as `sch_plug` does, with each call that can be made
//! to fail.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, missing_docs)]

use super::fake::{Fault, Shared};
use super::netbuf::Network;
use super::netlink::{Plug, Root};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Default)]
pub struct Queue {
    /// The epochs of the packets in it.
    pub packets: VecDeque<u64>,
    pub free: bool,
    pub current: usize,
    pub last: usize,
    pub due: usize,
}

/// Devices, and what has gone out at them.
#[derive(Default)]
pub struct Wire {
    pub devices: BTreeMap<String, u32>,
    pub plugs: BTreeMap<u32, Queue>,
    pub redirects: BTreeMap<u32, u32>,
    pub down: BTreeSet<u32>,
    /// What has left: card, and the epoch of the packet.
    pub out: Vec<(String, u64)>,
}

impl Wire {
    pub fn send(&mut self, card: &str, epoch: u64) {
        let Some(index) = self.devices.get(card) else { return };
        match self.redirects.get(index) {
            None => self.out.push((card.into(), epoch)),
            Some(ifb) if self.down.contains(ifb) => {}
            Some(ifb) => {
                if let Some(queue) = self.plugs.get_mut(ifb) {
                    queue.packets.push_back(epoch);
                    queue.current += 1;
                }
            }
        }
        self.flow();
    }

    pub fn flow(&mut self) {
        for (source, ifb) in &self.redirects {
            let card = self.devices.iter().find(|(_, index)| *index == source).map(|(name, _)| name.clone());
            let (Some(queue), Some(card)) = (self.plugs.get_mut(ifb), card) else { continue };
            while queue.free || queue.due > 0 {
                let Some(epoch) = queue.packets.pop_front() else { break };
                queue.due = queue.due.saturating_sub(1);
                self.out.push((card.clone(), epoch));
            }
        }
    }
}

/// The kernel's part of a buffer, of which each call can be made to fail.
pub struct FakeNetwork {
    pub wire: Arc<Mutex<Wire>>,
    pub plan: Shared,
}

impl FakeNetwork {
    fn call(&self, name: &str) -> io::Result<MutexGuard<'_, Wire>> {
        match self.plan.lock().unwrap().call(format!("netlink {name}")) {
            None => Ok(self.wire.lock().unwrap()),
            Some(Fault::Refused) => Err(io::Error::from_raw_os_error(libc::EPERM)),
            Some(Fault::Stall) => Err(ErrorKind::TimedOut.into()),
            Some(Fault::Nonsense) => Err(ErrorKind::InvalidData.into()),
            Some(Fault::Cut) => Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
        }
    }
}

fn missing() -> io::Error {
    io::Error::from_raw_os_error(libc::ENODEV)
}

impl Network for FakeNetwork {
    fn index(&mut self, device: &str) -> io::Result<Option<u32>> {
        Ok(self.call("index")?.devices.get(device).copied())
    }

    fn add_ifb(&mut self, name: &str) -> io::Result<()> {
        let mut wire = self.call("add_ifb")?;
        let index = 100 + wire.devices.values().max().copied().unwrap_or_default();
        assert!(wire.devices.insert(name.into(), index).is_none(), "{name} is there already");
        Ok(())
    }

    fn remove_link(&mut self, index: u32) -> io::Result<()> {
        let mut wire = self.call("remove_link")?;
        wire.devices.retain(|_, other| *other != index);
        wire.plugs.remove(&index);
        Ok(())
    }

    fn set_link(&mut self, index: u32, up: bool) -> io::Result<()> {
        let mut wire = self.call("set_link")?;
        if up {
            wire.down.remove(&index)
        } else {
            wire.down.insert(index)
        };
        Ok(())
    }

    fn add_plug(&mut self, index: u32, _limit: u32) -> io::Result<()> {
        self.call("add_plug")?.plugs.insert(index, Queue::default());
        Ok(())
    }

    fn plug(&mut self, index: u32, _handle: u32, order: Plug) -> io::Result<()> {
        let mut wire = self.call("plug")?;
        let queue = wire.plugs.get_mut(&index).ok_or_else(missing)?;
        match order {
            Plug::Buffer => (queue.last, queue.current, queue.free) = (queue.current, 0, false),
            Plug::ReleaseOne => {
                queue.due += queue.last;
                queue.last = 0;
            }
            Plug::ReleaseIndefinite => {
                *queue = Queue { packets: std::mem::take(&mut queue.packets), free: true, ..Queue::default() }
            }
            Plug::Limit(_) => {}
        }
        wire.flow();
        Ok(())
    }

    fn root(&mut self, index: u32) -> io::Result<Root> {
        let wire = self.call("root")?;
        let queue = wire.plugs.get(&index).ok_or_else(missing)?;
        Ok(Root { kind: "plug".into(), handle: 1, queued: queue.packets.len() as u32 })
    }

    fn remove_root(&mut self, index: u32) -> io::Result<()> {
        self.call("remove_root")?.plugs.remove(&index).map(drop).ok_or_else(missing)
    }

    fn redirect(&mut self, index: u32, to: u32) -> io::Result<()> {
        self.call("redirect")?.redirects.insert(index, to);
        Ok(())
    }

    fn remove_redirect(&mut self, index: u32) -> io::Result<()> {
        self.call("remove_redirect")?.redirects.remove(&index).map(drop).ok_or_else(missing)
    }
}
