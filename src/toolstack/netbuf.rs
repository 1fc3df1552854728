//! The output of a domain's network cards, held back: a plug qdisc for each, on an intermediate functional block (IFB) to which what
//! the card sends is redirected.
//!
//! Two ways to set one up. Ours makes an IFB of its own, and redirects all protocols but ARP: a host that is not answered within
//! three seconds counts as gone, and what ARP says holds for the copy too. With `-N` the stock script's contract holds:
//! `SCRIPT setup` with `vifname` and `XENBUS_PATH` in its environment writes the name of an IFB that has a plug qdisc to
//! `$XENBUS_PATH/ifb`; `SCRIPT teardown` with `REMUS_IFB` too takes all away.
//!
//! A plug qdisc tells two parts of its queue apart, what is before the newest plug and what is behind it; a plug that is put in while the
//! one before was not released would mix them up. So a new epoch begins with a plug only when the epoch before the last is gone; else it
//! is joined to the one that is open, and leaves with it later.
//!
//! A buffer that an earlier process has left is taken over as it is: whatever it holds stays held until [`OutputBuffer::free`] or
//! [`OutputBuffer::discard`] says otherwise, which is for who has decided where the domain may run. A buffer that was not complete
//! never held anything, and is made again.
#![forbid(unsafe_code)]

use super::command;
use super::failed;
use super::netlink::{Netlink, Plug, Root};
use super::store::Store;
use crate::hypervisor::{Error, OutputBuffer, Result};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes that a plug holds before it drops packets: as the stock script has it.
const LIMIT: u32 = 10_000_000;
/// The key beside the IFB's name that says that all of it is there.
const COMPLETE: &str = "complete";
/// How long the script may take.
const SCRIPT: Duration = Duration::from_secs(10);

/// What of a buffer is the kernel's.
pub trait Network: Send {
    /// The number of a device; `None` where there is no such device.
    ///
    /// # Errors
    /// The system's.
    fn index(&mut self, device: &str) -> io::Result<Option<u32>>;

    /// Makes an IFB of this name, up.
    ///
    /// # Errors
    /// The kernel's.
    fn add_ifb(&mut self, name: &str) -> io::Result<()>;

    /// Removes a device.
    ///
    /// # Errors
    /// The kernel's.
    fn remove_link(&mut self, index: u32) -> io::Result<()>;

    /// Sets a device up or down.
    ///
    /// # Errors
    /// The kernel's.
    fn set_link(&mut self, index: u32, up: bool) -> io::Result<()>;

    /// Puts a plug qdisc at a device's root.
    ///
    /// # Errors
    /// The kernel's.
    fn add_plug(&mut self, index: u32, limit: u32) -> io::Result<()>;

    /// Orders the plug qdisc of this handle.
    ///
    /// # Errors
    /// The kernel's.
    fn plug(&mut self, index: u32, handle: u32, order: Plug) -> io::Result<()>;

    /// The qdisc at a device's root.
    ///
    /// # Errors
    /// The kernel's.
    fn root(&mut self, index: u32) -> io::Result<Root>;

    /// Removes the qdisc at a device's root.
    ///
    /// # Errors
    /// The kernel's.
    fn remove_root(&mut self, index: u32) -> io::Result<()>;

    /// Has what comes in at a device go out at another one.
    ///
    /// # Errors
    /// The kernel's. Nothing is left of it then.
    fn redirect(&mut self, index: u32, to: u32) -> io::Result<()>;

    /// Ends that.
    ///
    /// # Errors
    /// The kernel's.
    fn remove_redirect(&mut self, index: u32) -> io::Result<()>;
}

impl Network for Netlink {
    fn index(&mut self, device: &str) -> io::Result<Option<u32>> {
        match fs::read_to_string(Path::new("/sys/class/net").join(device).join("ifindex")) {
            Ok(text) => text.trim().parse().map(Some).map_err(|_| ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn add_ifb(&mut self, name: &str) -> io::Result<()> {
        Netlink::add_ifb(self, name)
    }

    fn remove_link(&mut self, index: u32) -> io::Result<()> {
        Netlink::remove_link(self, index)
    }

    fn set_link(&mut self, index: u32, up: bool) -> io::Result<()> {
        Netlink::set_up(self, index, up)
    }

    fn add_plug(&mut self, index: u32, limit: u32) -> io::Result<()> {
        Netlink::add_plug(self, index, limit)
    }

    fn plug(&mut self, index: u32, handle: u32, order: Plug) -> io::Result<()> {
        Netlink::plug(self, index, handle, order)
    }

    fn root(&mut self, index: u32) -> io::Result<Root> {
        Netlink::root(self, index)
    }

    fn remove_root(&mut self, index: u32) -> io::Result<()> {
        Netlink::remove_root(self, index)
    }

    fn redirect(&mut self, index: u32, to: u32) -> io::Result<()> {
        Netlink::redirect(self, index, to)
    }

    fn remove_redirect(&mut self, index: u32) -> io::Result<()> {
        Netlink::remove_redirect(self, index)
    }
}

/// A card's device in this host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Card {
    /// The card's number in the domain.
    devid: u32,
    /// Its device here.
    device: String,
    /// Whether it is the emulator's half of a card.
    emulated: bool,
}

/// The cards of a domain, of which each has its device in this host.
fn cards(store: &Store, network: &mut dyn Network, domid: u32) -> Result<Vec<Card>> {
    let asked = |error| failed("xenstore", error);
    let root = format!("/libxl/{domid}/device/vif");
    let mut cards = Vec::new();
    for entry in store.list(&root).map_err(asked)? {
        let Ok(devid) = entry.parse() else { continue };
        let backend = store.get(&format!("{root}/{devid}/backend")).map_err(asked)?.unwrap_or_default();
        if !backend.starts_with("/local/domain/0/") {
            let text = format!("domain {domid}: network card {devid} has its backend elsewhere ({backend:?})");
            return Err(Error::Toolstack(format!("{text}: its output cannot be held here; -F -n goes without")));
        }
        let named = store.get(&format!("{backend}/vifname")).map_err(asked)?;
        let device = named.unwrap_or_else(|| format!("vif{domid}.{devid}"));
        let emulator = format!("{device}-emu");
        let both = network.index(&emulator).map_err(|error| failed(&emulator, error))?.is_some();
        cards.push(Card { devid, device, emulated: false });
        if both {
            cards.push(Card { devid, device: emulator, emulated: true });
        }
    }
    Ok(cards)
}

/// A card whose output goes through a plug.
#[derive(Debug)]
struct Held {
    card: Card,
    ifb: String,
    index: u32,
    handle: u32,
    /// Packets before the newest plug when it was put in.
    before: u64,
    /// It has its plug of an epoch that could not be begun everywhere: a second one would mix up two parts of its queue.
    ahead: bool,
}

/// The buffer of a whole domain. Its clones are one: what drives it, and who takes it away at the end.
#[derive(Debug, Clone)]
pub struct NetBuffer(Arc<Mutex<Inner>>);

struct Inner {
    domid: u32,
    script: Option<PathBuf>,
    store: Store,
    netlink: Box<dyn Network>,
    cards: Vec<Card>,
    /// Once it is set up.
    held: Vec<Held>,
    epochs: Epochs,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("domid", &self.domid).field("held", &self.held).finish_non_exhaustive()
    }
}

/// Which epochs are on which side of the newest plug.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Epochs {
    holding: bool,
    /// The newest of those before it, until they are released.
    before: Option<u64>,
    /// The newest behind it.
    open: u64,
    /// Nothing was sent since the plug of [`OutputBuffer::hold`].
    fresh: bool,
}

impl Epochs {
    /// Begins one; true where a plug has to go before it.
    fn begin(&mut self, epoch: u64) -> Result<bool> {
        if epoch < self.open {
            return Err(Error::EpochOrder { current: self.open, asked: epoch });
        }
        let fresh = std::mem::take(&mut self.fresh);
        let plug = epoch > self.open && self.before.is_none() && !fresh;
        if plug {
            self.before = Some(self.open);
        }
        self.open = epoch;
        Ok(plug)
    }

    /// Whether what is before the plug may leave.
    fn may_leave(&self, up_to: u64) -> bool {
        self.holding && self.before.is_some_and(|before| before <= up_to)
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
    pub fn over(domid: u32, script: Option<PathBuf>, store: Store, mut netlink: Box<dyn Network>) -> Result<Self> {
        let cards = cards(&store, &mut *netlink, domid)?;
        let inner = Inner { domid, script, store, netlink, cards, held: Vec::new(), epochs: Epochs::default() };
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
            inner.held.extend(found);
        }
        inner.epochs.holding = !inner.held.is_empty();
        Ok(inner.epochs.holding)
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
        self.inner().epochs.holding
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
        self.cards = cards(&self.store, &mut *self.netlink, self.domid)?;
        let mut made = Vec::new();
        let mut adopted = false;
        for card in self.cards.clone() {
            if self.held.iter().any(|held| held.card == card) {
                continue;
            }
            let held = match self.adopt(&card) {
                Ok(Some(held)) => {
                    adopted = true;
                    Ok(held)
                }
                Ok(None) => {
                    self.clear(&card);
                    self.set_up_card(&card).inspect(|held| made.push(held.ifb.clone()))
                }
                Err(error) => Err(error),
            };
            match held {
                Ok(held) => self.held.push(held),
                Err(error) => {
                    if !adopted {
                        self.clear(&card);
                    }
                    let (ours, rest) =
                        std::mem::take(&mut self.held).into_iter().partition(|held| made.contains(&held.ifb));
                    self.held = rest;
                    self.take_all_away(ours);
                    self.epochs.holding |= adopted;
                    let text = format!("holding back the output of {}", card.device);
                    let help = "-F -n goes without a buffer";
                    return Err(failed(text, format_args!("{error}; {help}")));
                }
            }
        }
        self.epochs.holding |= adopted;
        if self.epochs.holding {
            // Cards that had no buffer hold with those that have one.
            for held in self.held.iter().filter(|held| made.contains(&held.ifb)) {
                let plugged = self.netlink.plug(held.index, held.handle, Plug::Buffer);
                plugged.map_err(|error| failed(format_args!("{:?} at {}", Plug::Buffer, held.ifb), error))?;
            }
        }
        Ok(())
    }

    /// What an earlier process has left for a card, where that is complete. Holding from here on, if it was not: a plug that is put in
    /// lets nothing go.
    fn adopt(&mut self, card: &Card) -> io::Result<Option<Held>> {
        let Some(left) = self.left(card)? else { return Ok(None) };
        self.netlink.plug(left.index, left.handle, Plug::Buffer)?;
        Ok(Some(left))
    }

    /// The same as it is.
    fn left(&mut self, card: &Card) -> io::Result<Option<Held>> {
        let path = self.path(card);
        let Some(ifb) = self.store.get(&format!("{path}/ifb"))? else { return Ok(None) };
        // The script's is complete when it has its name.
        if self.script.is_none() && self.store.get(&format!("{path}/{COMPLETE}"))?.is_none() {
            return Ok(None);
        }
        let (Some(_), Some(index)) = (self.netlink.index(&card.device)?, self.netlink.index(&ifb)?) else {
            return Ok(None);
        };
        let root = self.netlink.root(index)?;
        if root.kind != "plug" {
            return Ok(None);
        }
        Ok(Some(Held { card: card.clone(), ifb, index, handle: root.handle, before: 0, ahead: false }))
    }

    fn set_up_card(&mut self, card: &Card) -> io::Result<Held> {
        let path = self.path(card);
        let ifb = match &self.script {
            Some(script) => {
                run_script(script, "setup", card, &path, None, SCRIPT)?;
                if let Some(error) = self.store.get(&format!("{path}/hotplug-error"))? {
                    return Err(io::Error::other(format!("{}: {error}", script.display())));
                }
                self.store
                    .get(&format!("{path}/ifb"))?
                    .ok_or_else(|| io::Error::other(format!("{} has written no {path}/ifb", script.display())))?
            }
            None => {
                let ifb = self.usual(card);
                let source = self.there(&card.device)?;
                self.store.set(&format!("{path}/ifb"), &ifb)?;
                self.netlink.add_ifb(&ifb).map_err(|error| told("making an IFB (kernel module ifb)", error))?;
                let index = self.there(&ifb)?;
                self.netlink
                    .add_plug(index, LIMIT)
                    .map_err(|error| told("a plug qdisc (kernel module sch_plug)", error))?;
                self.netlink.redirect(source, index).map_err(|error| {
                    told("redirecting to it (kernel modules sch_ingress, cls_u32, act_mirred)", error)
                })?;
                ifb
            }
        };
        let index = self.there(&ifb)?;
        let root = self.netlink.root(index)?;
        if root.kind != "plug" {
            return Err(io::Error::other(format!("{ifb} has a {:?} qdisc and no plug", root.kind)));
        }
        // It begins with a plug in place. What is queued behind that one would be counted for none of the epochs, and be in the
        // way of all of them.
        self.netlink.plug(index, root.handle, Plug::ReleaseIndefinite)?;
        if self.script.is_none() {
            self.store.set(&format!("{path}/{COMPLETE}"), "1")?;
        }
        Ok(Held { card: card.clone(), ifb, index, handle: root.handle, before: 0, ahead: false })
    }

    /// Where the stock script and libxl keep the name of the IFB.
    fn path(&self, card: &Card) -> String {
        format!("/libxl/{}/remus/netbuf/{}{}", self.domid, card.devid, if card.emulated { "-emu" } else { "" })
    }

    fn remove(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.take_all_away(held);
        self.epochs = Epochs::default();
    }

    /// The number of a device that must be there.
    fn there(&mut self, device: &str) -> io::Result<u32> {
        let gone = || io::Error::new(ErrorKind::NotFound, format!("there is no device {device}"));
        self.netlink.index(device)?.ok_or_else(gone)
    }

    fn take_all_away(&mut self, held: Vec<Held>) {
        for held in held {
            // Not what xenstore says: a domain that is gone has taken its keys along.
            self.take_away(&held.card, &held.ifb);
        }
    }

    /// Takes away what there is of one card's buffer, also an earlier process's.
    fn clear(&mut self, card: &Card) {
        let path = self.path(card);
        let known = self.store.get(&format!("{path}/ifb"));
        let Ok(known) = known.or_else(|_| self.store.get(&format!("{path}/ifb"))) else { return };
        let usual = self.usual(card);
        let is_there = self.netlink.index(&usual).is_ok_and(|index| index.is_some());
        if let Some(ifb) = known.or_else(|| is_there.then_some(usual)) {
            self.take_away(card, &ifb);
        }
    }

    /// The IFB that is made for a card where no script does.
    fn usual(&self, card: &Card) -> String {
        format!("xr{}.{}{}", self.domid, card.devid, if card.emulated { "e" } else { "" })
    }

    fn take_away(&mut self, card: &Card, ifb: &str) {
        // What has failed once may succeed now, and nobody comes back for it.
        let taken = self.try_away(card, ifb).or_else(|_| self.try_away(card, ifb));
        if let Err(error) = taken {
            log::warn!("taking away the buffer of {} at {ifb}: {error}; `ip link del {ifb}` does", card.device);
        }
    }

    fn try_away(&mut self, card: &Card, ifb: &str) -> io::Result<()> {
        let path = self.path(card);
        let ours = ifb.starts_with("xr");
        match &self.script {
            Some(script) if !ours => run_script(script, "teardown", card, &path, Some(ifb), SCRIPT)?,
            _ => self.clear_ours(card, ifb, ours)?,
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

    fn clear_ours(&mut self, card: &Card, ifb: &str, ours: bool) -> io::Result<()> {
        // A domain that is gone has taken its device along.
        if let Some(index) = self.netlink.index(&card.device)? {
            gone(self.netlink.remove_redirect(index))?;
        }
        match self.netlink.index(ifb)? {
            Some(index) if ours => gone(self.netlink.remove_link(index)),
            _ => Ok(()),
        }
    }

    /// Orders all of them, whichever fail. A card that is gone sends nothing, and is no failure; a buffer that is gone while its card
    /// is there is one.
    fn tell(&mut self, order: Plug) -> Result<()> {
        let mut first = None;
        let netlink = &mut self.netlink;
        self.held.retain_mut(|held| {
            if order == Plug::Buffer && std::mem::take(&mut held.ahead) {
                held.ahead = true;
                return true;
            }
            let Err(error) = netlink.plug(held.index, held.handle, order) else {
                held.ahead = order == Plug::Buffer;
                return true;
            };
            if matches!(netlink.index(&held.card.device), Ok(None)) {
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
    fn free(&mut self) -> Result<()> {
        let Err(error) = self.tell(Plug::ReleaseIndefinite) else { return Ok(()) };
        let mut lost = Vec::new();
        for held in &self.held {
            if matches!(self.netlink.index(&held.ifb), Ok(None)) {
                lost.push(held.card.clone());
            }
        }
        for card in &lost {
            let Ok(Some(index)) = self.netlink.index(&card.device) else { continue };
            if gone(self.netlink.remove_redirect(index)).is_ok() {
                log::warn!("{}: its buffer is gone, and what was held there", card.device);
                self.held.retain(|held| held.card != *card);
            }
        }
        if lost.is_empty() { Err(error) } else { self.tell(Plug::ReleaseIndefinite) }
    }

    fn begin(&mut self, epoch: u64) -> Result<()> {
        let before = self.epochs.clone();
        if !self.epochs.begin(epoch)? {
            return Ok(());
        }
        for held in &mut self.held {
            if !held.ahead {
                held.before = self.netlink.root(held.index).map_or(0, |root| root.queued.into());
            }
        }
        // It may be tried again.
        self.tell(Plug::Buffer).inspect_err(|_| self.epochs = before)
    }

    fn discard(&mut self) -> Result<u64> {
        let (mut dropped, mut first) = (0, None);
        let netlink = &mut self.netlink;
        for held in &mut self.held {
            match discard(&mut **netlink, held) {
                Ok(packets) => dropped += packets,
                Err(_) if matches!(netlink.index(&held.card.device), Ok(None)) => {}
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
fn discard(netlink: &mut dyn Network, held: &mut Held) -> io::Result<u64> {
    let dropped = netlink.root(held.index).map_or(0, |root| u64::from(root.queued));
    // Down, it drops what it has and what comes; a new plug knows nothing of what the old one had counted.
    netlink.set_link(held.index, false)?;
    gone(netlink.remove_root(held.index))?;
    netlink.add_plug(held.index, LIMIT)?;
    held.handle = netlink.root(held.index)?.handle;
    netlink.plug(held.index, held.handle, Plug::Buffer)?;
    netlink.set_link(held.index, true)?;
    (held.before, held.ahead) = (0, false);
    Ok(dropped)
}

impl OutputBuffer for NetBuffer {
    fn hold(&mut self) -> Result<()> {
        let mut inner = self.inner();
        if inner.epochs.holding {
            return Ok(());
        }
        // Setting up takes scripts and modules, and the guest is suspended: that was for before.
        if inner.held.is_empty() && !inner.cards.is_empty() {
            return Err(Error::Toolstack(format!("domain {}: the buffer of its output is not set up", inner.domid)));
        }
        inner.tell(Plug::Buffer).inspect_err(|_| {
            // Those that were told would hold for ever.
            let _ = inner.tell(Plug::ReleaseIndefinite);
        })?;
        inner.epochs = Epochs { holding: true, before: None, open: inner.epochs.open, fresh: true };
        Ok(())
    }

    fn begin_epoch(&mut self, epoch: u64) -> Result<()> {
        let mut inner = self.inner();
        if inner.epochs.holding { inner.begin(epoch) } else { Ok(()) }
    }

    /// May keep what it could release until the next epoch begins, see the top of the file.
    fn release(&mut self, up_to: u64) -> Result<u64> {
        let mut inner = self.inner();
        if !inner.epochs.may_leave(up_to) {
            return Ok(0);
        }
        inner.tell(Plug::ReleaseOne)?;
        inner.epochs.before = None;
        Ok(inner.held.iter().map(|held| held.before).sum())
    }

    fn free(&mut self) -> Result<()> {
        let mut inner = self.inner();
        inner.free()?;
        inner.epochs = Epochs { open: inner.epochs.open, ..Epochs::default() };
        Ok(())
    }

    fn discard(&mut self) -> Result<u64> {
        self.inner().discard()
    }
}

fn told(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// What is not there need not be removed.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed.as_ref().err().and_then(io::Error::raw_os_error) {
        Some(libc::ENODEV | libc::ENOENT | libc::EINVAL) => Ok(()),
        _ => removed,
    }
}

fn run_script(
    script: &Path,
    order: &str,
    card: &Card,
    path: &str,
    ifb: Option<&str>,
    patience: Duration,
) -> io::Result<()> {
    let mut command = Command::new(script);
    command.arg(order).env("vifname", &card.device).env("XENBUS_PATH", path);
    if let Some(ifb) = ifb {
        command.env("REMUS_IFB", ifb);
    }
    let status = command::run(&mut command, patience).map_err(|error| told(&script.display().to_string(), error))?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{} {order}: {status}", script.display()))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_leaves_when_its_checkpoint_is_acknowledged() {
        let mut epochs = Epochs { holding: true, fresh: true, ..Epochs::default() };
        assert!(!epochs.begin(1).unwrap(), "there is a plug, and nothing behind it");
        assert!(!epochs.may_leave(1));
        assert!(epochs.begin(2).unwrap());
        assert!(!epochs.may_leave(0) && epochs.may_leave(1));
        assert!(!epochs.begin(2).unwrap(), "the same goes on");
        assert!(matches!(epochs.begin(1), Err(Error::EpochOrder { current: 2, asked: 1 })));
    }

    #[test]
    fn a_plug_is_not_put_in_before_the_last_is_released() {
        let mut epochs = Epochs { holding: true, open: 1, ..Epochs::default() };
        assert!(epochs.begin(2).unwrap());
        // 1 is refused: 3 joins 2, and neither leaves with 1.
        assert!(!epochs.begin(3).unwrap());
        assert!(epochs.may_leave(1));
        epochs.before = None;
        assert!(!epochs.may_leave(9), "nothing is before a plug");
        assert!(epochs.begin(4).unwrap());
        assert!(!epochs.may_leave(2), "it would take 3 along");
        assert!(epochs.may_leave(3));
    }

    #[test]
    fn the_scripts_contract_is_the_stock_ones() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        let out = folder.path().join("out");
        let text = format!("#!/bin/sh\necho $1 $vifname $XENBUS_PATH $REMUS_IFB >>{}\ntest $1 != bad\n", out.display());
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let card = Card { devid: 0, device: "vif7.0".into(), emulated: false };
        let long = Duration::from_secs(60);
        run_script(&script, "setup", &card, "/libxl/7/remus/netbuf/0", None, long).unwrap();
        run_script(&script, "teardown", &card, "/libxl/7/remus/netbuf/0", Some("ifb3"), long).unwrap();
        assert!(
            run_script(&script, "bad", &card, "/p", None, long).unwrap_err().to_string().contains("exit status: 1")
        );
        let said = fs::read_to_string(&out).unwrap();
        let expected = "setup vif7.0 /libxl/7/remus/netbuf/0\nteardown vif7.0 /libxl/7/remus/netbuf/0 ifb3\n";
        assert!(said.starts_with(expected), "{said}");
        assert!(run_script(Path::new("/none/script"), "setup", &card, "/p", None, long).is_err());
    }
}

#[cfg(test)]
#[path = "netbuf_tests.rs"]
mod fault_tests;
