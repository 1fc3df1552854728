//! The output of a domain's network cards, held back: a plug qdisc for each, on an intermediate functional block (IFB) to which what
//! the card sends is redirected.
//!
//! | file | what |
//! |---|---|
//! | `cards` | the cards that there are |
//! | `ifb`, `script` | how the buffer of one card is made, found and taken away, by ourselves or by the stock script |
//! | `plugs`, `epochs` | what the plugs hold and let go |
//! | `network` | what of it is the kernel's |
//!
//! A buffer that an earlier process has left is taken over as it is: whatever it holds stays held until [`OutputBuffer::free`] or
//! [`OutputBuffer::discard`] says otherwise, which is for who has decided where the domain may run. A buffer that was not complete
//! never held anything, and is made again.
#![forbid(unsafe_code)]

mod cards;
mod epochs;
mod ifb;
mod network;
mod plugs;
mod script;

use super::failed;
use super::netlink::{Netlink, Plug};
use super::store::Store;
use crate::hypervisor::{Error, OutputBuffer, Result};
use cards::{Card, cards};
use epochs::Epochs;
use ifb::Maker;
use plugs::{Held, Plugs};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use network::Network;

/// The buffer of a whole domain. Its clones are one: what drives it, and who takes it away at the end.
#[derive(Debug, Clone)]
pub struct NetBuffer(Arc<Mutex<Inner>>);

struct Inner {
    maker: Maker,
    cards: Vec<Card>,
    plugs: Plugs,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("domid", &self.maker.domid)
            .field("held", &self.plugs.held)
            .finish_non_exhaustive()
    }
}

impl NetBuffer {
    /// A buffer for a domain, which is not set up yet: output leaves as it is sent.
    ///
    /// # Errors
    /// A card's backend is elsewhere; xenstore's; the system's.
    pub fn new(domid: u32, script: Option<PathBuf>) -> Result<Self> {
        let store = Store::open().map_err(|error| failed("xenstore", error))?;
        let netlink = Netlink::open().map_err(|error| failed("netlink", error))?;
        NetBuffer::over(domid, script, store, Box::new(netlink))
    }

    /// The same, over a xenstore and a network that are there.
    ///
    /// # Errors
    /// As [`NetBuffer::new`].
    pub fn over(domid: u32, script: Option<PathBuf>, store: Store, mut network: Box<dyn Network>) -> Result<Self> {
        let cards = cards(&store, &mut *network, domid)?;
        let inner = Inner { maker: Maker { domid, script, store }, cards, plugs: Plugs::new(network) };
        Ok(NetBuffer(Arc::new(Mutex::new(inner))))
    }

    /// Devices whose output it is for.
    pub fn devices(&self) -> Vec<String> {
        self.inner().cards.iter().map(|card| card.device.clone()).collect()
    }

    /// Sets it up for the cards that there are now. Output still leaves as it is sent, unless an earlier process has left a buffer:
    /// that one is taken over and holds ([`NetBuffer::is_holding`]). Cards that have come since the last time are added.
    ///
    /// It may take some seconds, and is not for a thread that sends heartbeats, nor for the time in which the guest is suspended.
    ///
    /// # Errors
    /// The kernel's, the script's, xenstore's. What this call has made is taken away then, what was taken over holds.
    pub fn set_up(&self) -> Result<()> {
        self.inner().set_up()
    }

    /// Takes over what an earlier process has left, and makes nothing. False where there is nothing of that; what there is holds.
    ///
    /// # Errors
    /// xenstore's, the kernel's.
    pub fn adopt(&self) -> Result<bool> {
        let mut inner = self.inner();
        for card in inner.cards.clone() {
            let found = inner.adopt(&card).map_err(|error| failed(&card.device, error))?;
            inner.plugs.held.extend(found);
        }
        inner.plugs.epochs.holding = !inner.plugs.held.is_empty();
        Ok(inner.plugs.epochs.holding)
    }

    /// Whether an earlier process has left a buffer that is complete, so that it may hold output. Changes nothing.
    ///
    /// # Errors
    /// xenstore's, the kernel's.
    pub fn is_left(&self) -> Result<bool> {
        let mut inner = self.inner();
        for card in inner.cards.clone() {
            if inner.left(&card).map_err(|error| failed(&card.device, error))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether output is held now.
    pub fn is_holding(&self) -> bool {
        self.inner().plugs.epochs.holding
    }

    /// Takes it away. What is held is lost.
    pub fn remove(&self) {
        self.inner().remove();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn set_up(&mut self) -> Result<()> {
        self.cards = cards(&self.maker.store, &mut *self.plugs.network, self.maker.domid)?;
        let mut made = Vec::new();
        let mut adopted = false;
        for card in self.cards.clone() {
            if self.plugs.held.iter().any(|held| held.card == card) {
                continue;
            }
            let held = match self.adopt(&card) {
                Ok(Some(held)) => {
                    adopted = true;
                    Ok(held)
                }
                Ok(None) => {
                    self.maker.clear(&mut *self.plugs.network, &card);
                    self.maker.make(&mut *self.plugs.network, &card).inspect(|held| made.push(held.ifb.clone()))
                }
                Err(error) => Err(error),
            };
            match held {
                Ok(held) => self.plugs.held.push(held),
                Err(error) => {
                    if !adopted {
                        self.maker.clear(&mut *self.plugs.network, &card);
                    }
                    let (ours, rest) =
                        std::mem::take(&mut self.plugs.held).into_iter().partition(|held| made.contains(&held.ifb));
                    self.plugs.held = rest;
                    self.maker.take_all_away(&mut *self.plugs.network, ours);
                    self.plugs.epochs.holding |= adopted;
                    let text = format!("holding back the output of {}", card.device);
                    let help = "-F -n goes without a buffer";
                    return Err(failed(text, format_args!("{error}; {help}")));
                }
            }
        }
        self.plugs.epochs.holding |= adopted;
        if self.plugs.epochs.holding {
            // Cards that had no buffer hold with those that have one.
            for held in self.plugs.held.iter().filter(|held| made.contains(&held.ifb)) {
                let plugged = self.plugs.network.plug(held.index, held.handle, Plug::Buffer);
                plugged.map_err(|error| failed(format_args!("{:?} at {}", Plug::Buffer, held.ifb), error))?;
            }
        }
        Ok(())
    }

    fn adopt(&mut self, card: &Card) -> io::Result<Option<Held>> {
        self.maker.adopt(&mut *self.plugs.network, card)
    }

    fn left(&mut self, card: &Card) -> io::Result<Option<Held>> {
        self.maker.left(&mut *self.plugs.network, card)
    }

    fn remove(&mut self) {
        let held = std::mem::take(&mut self.plugs.held);
        self.maker.take_all_away(&mut *self.plugs.network, held);
        self.plugs.epochs = Epochs::default();
    }
}

impl OutputBuffer for NetBuffer {
    fn hold(&mut self) -> Result<()> {
        let mut inner = self.inner();
        if inner.plugs.epochs.holding {
            return Ok(());
        }
        // Setting up takes scripts and modules, and the guest is suspended: that was for before.
        if inner.plugs.held.is_empty() && !inner.cards.is_empty() {
            return Err(Error::Toolstack(format!(
                "domain {}: the buffer of its output is not set up",
                inner.maker.domid
            )));
        }
        inner.plugs.hold()
    }

    fn begin_epoch(&mut self, epoch: u64) -> Result<()> {
        let mut inner = self.inner();
        if inner.plugs.epochs.holding { inner.plugs.begin(epoch) } else { Ok(()) }
    }

    /// May keep what it could release until the next epoch begins, see `plugs.rs`.
    fn release(&mut self, up_to: u64) -> Result<u64> {
        self.inner().plugs.release(up_to)
    }

    fn free(&mut self) -> Result<()> {
        self.inner().plugs.free()
    }

    fn discard(&mut self) -> Result<u64> {
        self.inner().plugs.discard()
    }
}

#[cfg(test)]
mod tests;
