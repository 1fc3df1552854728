//! The plugs of a domain's cards, told what to hold and what to let go.
//!
//! A plug qdisc tells two parts of its queue apart, what is before the newest plug and what is behind it; a plug that is put in while the
//! one before was not released would mix them up. So a new epoch begins with a plug only when the epoch before the last is gone; else it
//! is joined to the one that is open, and leaves with it later.
#![forbid(unsafe_code)]

use super::super::failed;
use super::super::netlink::Plug;
use super::cards::Card;
use super::epochs::Epochs;
use super::network::{Network, gone};
use crate::hypervisor::Result;
use std::io;

/// Bytes that a plug holds before it drops packets: as the stock script has it.
pub(super) const LIMIT: u32 = 10_000_000;

/// A card whose output goes through a plug.
#[derive(Debug)]
pub(super) struct Held {
    pub card: Card,
    pub ifb: String,
    pub index: u32,
    pub handle: u32,
    /// Packets before the newest plug when it was put in.
    pub before: u64,
    /// It has its plug of an epoch that could not be begun everywhere: a second one would mix up two parts of its queue.
    pub ahead: bool,
}

/// All plugs of a domain.
pub(super) struct Plugs {
    pub network: Box<dyn Network>,
    /// Once they are set up.
    pub held: Vec<Held>,
    pub epochs: Epochs,
}

impl Plugs {
    /// None yet.
    pub fn new(network: Box<dyn Network>) -> Self {
        Plugs { network, held: Vec::new(), epochs: Epochs::default() }
    }

    /// Holds from now on.
    pub fn hold(&mut self) -> Result<()> {
        self.tell(Plug::Buffer).inspect_err(|_| {
            // Those that were told would hold for ever.
            let _ = self.tell(Plug::ReleaseIndefinite);
        })?;
        self.epochs = Epochs { holding: true, before: None, open: self.epochs.open, fresh: true };
        Ok(())
    }

    /// Orders all of them, whichever fail. A card that is gone sends nothing, and is no failure; a buffer that is gone while its card
    /// is there is one.
    fn tell(&mut self, order: Plug) -> Result<()> {
        let mut first = None;
        let network = &mut self.network;
        self.held.retain_mut(|held| {
            if order == Plug::Buffer && std::mem::take(&mut held.ahead) {
                held.ahead = true;
                return true;
            }
            let Err(error) = network.plug(held.index, held.handle, order) else {
                held.ahead = order == Plug::Buffer;
                return true;
            };
            if matches!(network.index(&held.card.device), Ok(None)) {
                log::warn!("{} is gone: nothing of it is held any more", held.card.device);
                return false;
            }
            first.get_or_insert_with(|| failed(format_args!("{order:?} at {}", held.ifb), error));
            true
        });
        match first {
            Some(error) => Err(error),
            None => {
                self.held.iter_mut().for_each(|held| held.ahead = false);
                Ok(())
            }
        }
    }

    /// Lets everything out. Where somebody has taken an IFB away, its card sends past it again.
    pub fn free(&mut self) -> Result<()> {
        self.let_out()?;
        self.epochs = Epochs { open: self.epochs.open, ..Epochs::default() };
        Ok(())
    }

    fn let_out(&mut self) -> Result<()> {
        let Err(error) = self.tell(Plug::ReleaseIndefinite) else { return Ok(()) };
        let mut lost = Vec::new();
        for held in &self.held {
            if matches!(self.network.index(&held.ifb), Ok(None)) {
                lost.push(held.card.clone());
            }
        }
        for card in &lost {
            let Ok(Some(index)) = self.network.index(&card.device) else { continue };
            if gone(self.network.remove_redirect(index)).is_ok() {
                log::warn!("{}: its buffer is gone, and what was held there", card.device);
                self.held.retain(|held| held.card != *card);
            }
        }
        if lost.is_empty() { Err(error) } else { self.tell(Plug::ReleaseIndefinite) }
    }

    /// Begins an epoch.
    pub fn begin(&mut self, epoch: u64) -> Result<()> {
        let before = self.epochs.clone();
        if !self.epochs.begin(epoch)? {
            return Ok(());
        }
        for held in &mut self.held {
            if !held.ahead {
                held.before = self.network.root(held.index).map_or(0, |root| root.queued.into());
            }
        }
        // It may be tried again.
        self.tell(Plug::Buffer).inspect_err(|_| self.epochs = before)
    }

    /// Lets out what is before the newest plug, where all of that may leave.
    pub fn release(&mut self, up_to: u64) -> Result<u64> {
        if !self.epochs.may_leave(up_to) {
            return Ok(0);
        }
        self.tell(Plug::ReleaseOne)?;
        self.epochs.before = None;
        Ok(self.held.iter().map(|held| held.before).sum())
    }

    /// Drops what is held, and holds.
    pub fn discard(&mut self) -> Result<u64> {
        let (mut dropped, mut first) = (0, None);
        let network = &mut self.network;
        for held in &mut self.held {
            match discard(&mut **network, held) {
                Ok(packets) => dropped += packets,
                Err(_) if matches!(network.index(&held.card.device), Ok(None)) => {}
                Err(error) => {
                    first.get_or_insert_with(|| failed(format_args!("dropping what is held at {}", held.ifb), error));
                }
            }
        }
        if let Some(error) = first {
            return Err(error);
        }
        self.epochs = Epochs { holding: true, open: self.epochs.open, ..Epochs::default() };
        Ok(dropped)
    }
}

/// Drops what one card's plug has. Where that fails in between, the device is down and lets nothing pass.
fn discard(network: &mut dyn Network, held: &mut Held) -> io::Result<u64> {
    let dropped = network.root(held.index).map_or(0, |root| u64::from(root.queued));
    // Down, it drops what it has and what comes; a new plug knows nothing of what the old one had counted.
    network.set_link(held.index, false)?;
    gone(network.remove_root(held.index))?;
    network.add_plug(held.index, LIMIT)?;
    held.handle = network.root(held.index)?.handle;
    network.plug(held.index, held.handle, Plug::Buffer)?;
    network.set_link(held.index, true)?;
    (held.before, held.ahead) = (0, false);
    Ok(dropped)
}
