//! How the buffer of one card is made, found and taken away: its IFB with a plug, the redirection to it, and its keys in xenstore.
//!
//! Two ways to set one up. Ours makes an IFB of its own, and redirects all protocols but ARP: a host that is not answered within
//! three seconds counts as gone, and what ARP says holds for the copy too. With `-N` the stock script's contract holds:
//! `SCRIPT setup` with `vifname` and `XENBUS_PATH` in its environment writes the name of an IFB that has a plug qdisc to
//! `$XENBUS_PATH/ifb`; `SCRIPT teardown` with `REMUS_IFB` too takes all away.
#![forbid(unsafe_code)]

use super::super::netlink::Plug;
use super::super::store::Store;
use super::cards::Card;
use super::network::{Network, gone};
use super::plugs::{Held, LIMIT};
use super::script;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

/// The key beside the IFB's name that says that all of it is there.
const COMPLETE: &str = "complete";

/// What makes the buffers of a domain's cards.
pub(super) struct Maker {
    pub domid: u32,
    pub script: Option<PathBuf>,
    pub store: Store,
}

impl Maker {
    /// What an earlier process has left for a card, where that is complete. Holding from here on, if it was not: a plug that is put in
    /// lets nothing go.
    pub fn adopt(&self, network: &mut dyn Network, card: &Card) -> io::Result<Option<Held>> {
        let Some(left) = self.left(network, card)? else { return Ok(None) };
        network.plug(left.index, left.handle, Plug::Buffer)?;
        Ok(Some(left))
    }

    /// The same as it is.
    pub fn left(&self, network: &mut dyn Network, card: &Card) -> io::Result<Option<Held>> {
        let path = self.path(card);
        let Some(ifb) = self.store.get(&format!("{path}/ifb"))? else { return Ok(None) };
        // The script's is complete when it has its name.
        if self.script.is_none() && self.store.get(&format!("{path}/{COMPLETE}"))?.is_none() {
            return Ok(None);
        }
        let (Some(_), Some(index)) = (network.index(&card.device)?, network.index(&ifb)?) else {
            return Ok(None);
        };
        let root = network.root(index)?;
        if root.kind != "plug" {
            return Ok(None);
        }
        Ok(Some(Held { card: card.clone(), ifb, index, handle: root.handle, before: 0, ahead: false }))
    }

    /// Makes the buffer of a card, through which output leaves as it is sent.
    pub fn make(&self, network: &mut dyn Network, card: &Card) -> io::Result<Held> {
        let path = self.path(card);
        let ifb = match &self.script {
            Some(program) => {
                script::run(program, "setup", card, &path, None, script::PATIENCE)?;
                if let Some(error) = self.store.get(&format!("{path}/hotplug-error"))? {
                    return Err(io::Error::other(format!("{}: {error}", program.display())));
                }
                self.store
                    .get(&format!("{path}/ifb"))?
                    .ok_or_else(|| io::Error::other(format!("{} has written no {path}/ifb", program.display())))?
            }
            None => {
                let ifb = self.usual(card);
                let source = there(network, &card.device)?;
                self.store.set(&format!("{path}/ifb"), &ifb)?;
                network.add_ifb(&ifb).map_err(|error| told("making an IFB (kernel module ifb)", error))?;
                let index = there(network, &ifb)?;
                network.add_plug(index, LIMIT).map_err(|error| told("a plug qdisc (kernel module sch_plug)", error))?;
                network.redirect(source, index).map_err(|error| {
                    told("redirecting to it (kernel modules sch_ingress, cls_u32, act_mirred)", error)
                })?;
                ifb
            }
        };
        let index = there(network, &ifb)?;
        let root = network.root(index)?;
        if root.kind != "plug" {
            return Err(io::Error::other(format!("{ifb} has a {:?} qdisc and no plug", root.kind)));
        }
        // It begins with a plug in place. What is queued behind that one would be counted for none of the epochs, and be in the
        // way of all of them.
        network.plug(index, root.handle, Plug::ReleaseIndefinite)?;
        if self.script.is_none() {
            self.store.set(&format!("{path}/{COMPLETE}"), "1")?;
        }
        Ok(Held { card: card.clone(), ifb, index, handle: root.handle, before: 0, ahead: false })
    }

    /// Where the stock script and libxl keep the name of the IFB.
    fn path(&self, card: &Card) -> String {
        format!("/libxl/{}/remus/netbuf/{}{}", self.domid, card.devid, if card.emulated { "-emu" } else { "" })
    }

    /// Takes away buffers, each as far as it is there.
    pub fn take_all_away(&self, network: &mut dyn Network, held: Vec<Held>) {
        for held in held {
            // Not what xenstore says: a domain that is gone has taken its keys along.
            self.take_away(network, &held.card, &held.ifb);
        }
    }

    /// Takes away what there is of one card's buffer, also an earlier process's.
    pub fn clear(&self, network: &mut dyn Network, card: &Card) {
        let path = self.path(card);
        let known = self.store.get(&format!("{path}/ifb"));
        let Ok(known) = known.or_else(|_| self.store.get(&format!("{path}/ifb"))) else { return };
        let usual = self.usual(card);
        let is_there = network.index(&usual).is_ok_and(|index| index.is_some());
        if let Some(ifb) = known.or_else(|| is_there.then_some(usual)) {
            self.take_away(network, card, &ifb);
        }
    }

    /// The IFB that is made for a card where no script does.
    fn usual(&self, card: &Card) -> String {
        format!("xr{}.{}{}", self.domid, card.devid, if card.emulated { "e" } else { "" })
    }

    fn take_away(&self, network: &mut dyn Network, card: &Card, ifb: &str) {
        // What has failed once may succeed now, and nobody comes back for it.
        let taken = self.try_away(network, card, ifb).or_else(|_| self.try_away(network, card, ifb));
        if let Err(error) = taken {
            log::warn!("taking away the buffer of {} at {ifb}: {error}; `ip link del {ifb}` does", card.device);
        }
    }

    fn try_away(&self, network: &mut dyn Network, card: &Card, ifb: &str) -> io::Result<()> {
        let path = self.path(card);
        let ours = ifb.starts_with("xr");
        match &self.script {
            Some(program) if !ours => script::run(program, "teardown", card, &path, Some(ifb), script::PATIENCE)?,
            _ => self.clear_ours(network, card, ifb, ours)?,
        }
        self.forget(&path)
    }

    /// Removes a card's keys, and what was made for them.
    fn forget(&self, path: &str) -> io::Result<()> {
        self.store.remove(path)?;
        for parent in [format!("/libxl/{}/remus/netbuf", self.domid), format!("/libxl/{}/remus", self.domid)] {
            if !self.store.list(&parent)?.is_empty() {
                break;
            }
            self.store.remove(&parent)?;
        }
        Ok(())
    }

    fn clear_ours(&self, network: &mut dyn Network, card: &Card, ifb: &str, ours: bool) -> io::Result<()> {
        // A domain that is gone has taken its device along.
        if let Some(index) = network.index(&card.device)? {
            gone(network.remove_redirect(index))?;
        }
        match network.index(ifb)? {
            Some(index) if ours => gone(network.remove_link(index)),
            _ => Ok(()),
        }
    }
}

/// The number of a device that must be there.
fn there(network: &mut dyn Network, device: &str) -> io::Result<u32> {
    let gone = || io::Error::new(ErrorKind::NotFound, format!("there is no device {device}"));
    network.index(device)?.ok_or_else(gone)
}

fn told(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
