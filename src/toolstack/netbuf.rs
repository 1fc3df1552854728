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
#![forbid(unsafe_code)]

use super::failed;
use super::netlink::{Netlink, Plug};
use super::store::Store;
use crate::hypervisor::{Error, OutputBuffer, Result};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Octets that a plug holds before it drops packets: as the stock script has it.
const LIMIT: u32 = 10_000_000;

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
fn cards(store: &Store, domid: u32) -> Result<Vec<Card>> {
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
        let both = exists(&emulator);
        cards.push(Card { devid, device, emulated: false });
        if both {
            cards.push(Card { devid, device: emulator, emulated: true });
        }
    }
    Ok(cards)
}

fn device_path(device: &str) -> PathBuf {
    Path::new("/sys/class/net").join(device)
}

fn exists(device: &str) -> bool {
    device_path(device).exists()
}

fn index_of(device: &str) -> io::Result<u32> {
    let text = fs::read_to_string(device_path(device).join("ifindex"))?;
    text.trim().parse().map_err(|_| ErrorKind::InvalidData.into())
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
}

/// The buffer of a whole domain. Its clones are one: what drives it, and who takes it away at the end.
#[derive(Debug, Clone)]
pub struct NetBuffer(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    domid: u32,
    script: Option<PathBuf>,
    store: Store,
    netlink: Netlink,
    cards: Vec<Card>,
    /// Once it is set up.
    held: Vec<Held>,
    epochs: Epochs,
}

/// Which epochs are on which side of the newest plug.
#[derive(Debug, Default, PartialEq, Eq)]
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
        let cards = cards(&store, domid)?;
        let inner = Inner { domid, script, store, netlink, cards, held: Vec::new(), epochs: Epochs::default() };
        Ok(NetBuffer(Arc::new(Mutex::new(inner))))
    }

    /// Devices whose output it is for.
    pub fn devices(&self) -> Vec<String> {
        self.inner().cards.iter().map(|card| card.device.clone()).collect()
    }

    /// Sets it up, and clears away what an earlier process has left. Output still leaves as it is sent.
    ///
    /// # Errors
    /// The kernel's, the script's, xenstore's. Nothing is left of it then.
    pub fn set_up(&self) -> Result<()> {
        self.inner().set_up()
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
        if !self.held.is_empty() {
            return Ok(());
        }
        for card in self.cards.clone() {
            self.clear(&card);
            match self.set_up_card(&card) {
                Ok(held) => self.held.push(held),
                Err(error) => {
                    self.clear(&card);
                    self.remove();
                    let text = format!("holding back the output of {}", card.device);
                    let help = "-F -n goes without a buffer";
                    return Err(failed(text, format_args!("{error}; {help}")));
                }
            }
        }
        Ok(())
    }

    fn set_up_card(&mut self, card: &Card) -> io::Result<Held> {
        let path = self.path(card);
        let ifb = match &self.script {
            Some(script) => {
                run_script(script, "setup", card, &path, None)?;
                if let Some(error) = self.store.get(&format!("{path}/hotplug-error"))? {
                    return Err(io::Error::other(format!("{}: {error}", script.display())));
                }
                self.store
                    .get(&format!("{path}/ifb"))?
                    .ok_or_else(|| io::Error::other(format!("{} has written no {path}/ifb", script.display())))?
            }
            None => {
                let ifb = self.usual(card);
                let source = index_of(&card.device)?;
                self.store.set(&format!("{path}/ifb"), &ifb)?;
                self.netlink.add_ifb(&ifb).map_err(|error| told("making an IFB (kernel module ifb)", error))?;
                let index = index_of(&ifb)?;
                self.netlink
                    .add_plug(index, LIMIT)
                    .map_err(|error| told("a plug qdisc (kernel module sch_plug)", error))?;
                self.netlink.redirect(source, index).map_err(|error| {
                    told("redirecting to it (kernel modules sch_ingress, cls_u32, act_mirred)", error)
                })?;
                ifb
            }
        };
        let index = index_of(&ifb)?;
        let root = self.netlink.root(index)?;
        if root.kind != "plug" {
            return Err(io::Error::other(format!("{ifb} has a {:?} qdisc and no plug", root.kind)));
        }
        // It begins with a plug in place. What is queued behind that one would be counted for none of the epochs, and be in the
        // way of all of them.
        self.netlink.plug(index, root.handle, Plug::ReleaseIndefinite)?;
        Ok(Held { card: card.clone(), ifb, index, handle: root.handle, before: 0 })
    }

    /// Where the stock script and libxl keep the name of the IFB.
    fn path(&self, card: &Card) -> String {
        format!("/libxl/{}/remus/netbuf/{}{}", self.domid, card.devid, if card.emulated { "-emu" } else { "" })
    }

    fn remove(&mut self) {
        for held in std::mem::take(&mut self.held) {
            // Not what xenstore says: a domain that is gone has taken its keys along.
            self.take_away(&held.card, &held.ifb);
        }
        self.epochs = Epochs::default();
    }

    /// Takes away what there is of one card's buffer, also an earlier process's.
    fn clear(&mut self, card: &Card) {
        let path = self.path(card);
        let Ok(known) = self.store.get(&format!("{path}/ifb")) else { return };
        let usual = self.usual(card);
        if let Some(ifb) = known.or_else(|| exists(&usual).then_some(usual)) {
            self.take_away(card, &ifb);
        }
    }

    /// The IFB that is made for a card where no script does.
    fn usual(&self, card: &Card) -> String {
        format!("xr{}.{}{}", self.domid, card.devid, if card.emulated { "e" } else { "" })
    }

    fn take_away(&mut self, card: &Card, ifb: &str) {
        let path = self.path(card);
        let ours = ifb.starts_with("xr");
        let cleared = match &self.script {
            Some(script) if !ours => run_script(script, "teardown", card, &path, Some(ifb)),
            _ => self.clear_ours(card, ifb, ours),
        };
        if let Err(error) = cleared.and_then(|()| self.forget(&path)) {
            log::warn!("taking away the buffer of {} at {ifb}: {error}", card.device);
        }
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
        if let Ok(index) = index_of(&card.device) {
            gone(self.netlink.remove_redirect(index))?;
        }
        match index_of(ifb) {
            Ok(index) if ours => gone(self.netlink.remove_link(index)),
            _ => Ok(()),
        }
    }

    fn tell(&mut self, order: Plug) -> Result<()> {
        for held in &self.held {
            let told = self.netlink.plug(held.index, held.handle, order);
            told.map_err(|error| failed(format_args!("{order:?} at {}", held.ifb), error))?;
        }
        Ok(())
    }

    fn begin(&mut self, epoch: u64) -> Result<()> {
        if !self.epochs.begin(epoch)? {
            return Ok(());
        }
        for held in &mut self.held {
            held.before = self.netlink.root(held.index).map_or(0, |root| root.queued.into());
        }
        self.tell(Plug::Buffer)
    }

    fn discard(&mut self) -> Result<u64> {
        let mut dropped = 0;
        for held in &mut self.held {
            let again = |error| failed(format_args!("dropping what is held at {}", held.ifb), error);
            dropped += self.netlink.root(held.index).map_or(0, |root| u64::from(root.queued));
            // Down, it drops what it has and what comes; a new plug knows nothing of what the old one had counted.
            self.netlink.set_up(held.index, false).map_err(again)?;
            self.netlink.remove_root(held.index).map_err(again)?;
            self.netlink.add_plug(held.index, LIMIT).map_err(again)?;
            held.handle = self.netlink.root(held.index).map_err(again)?.handle;
            self.netlink.plug(held.index, held.handle, Plug::Buffer).map_err(again)?;
            self.netlink.set_up(held.index, true).map_err(again)?;
        }
        self.epochs = Epochs { holding: true, open: self.epochs.open, ..Epochs::default() };
        Ok(dropped)
    }
}

impl OutputBuffer for NetBuffer {
    fn hold(&mut self) -> Result<()> {
        let mut inner = self.inner();
        if inner.epochs.holding {
            return Ok(());
        }
        inner.set_up()?;
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
        inner.tell(Plug::ReleaseIndefinite)?;
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

fn run_script(script: &Path, order: &str, card: &Card, path: &str, ifb: Option<&str>) -> io::Result<()> {
    let mut command = Command::new(script);
    command.arg(order).env("vifname", &card.device).env("XENBUS_PATH", path).stdin(Stdio::null());
    if let Some(ifb) = ifb {
        command.env("REMUS_IFB", ifb);
    }
    let status = command.status().map_err(|error| told(&script.display().to_string(), error))?;
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
        run_script(&script, "setup", &card, "/libxl/7/remus/netbuf/0", None).unwrap();
        run_script(&script, "teardown", &card, "/libxl/7/remus/netbuf/0", Some("ifb3")).unwrap();
        assert!(run_script(&script, "bad", &card, "/p", None).unwrap_err().to_string().contains("exit status: 1"));
        let said = fs::read_to_string(&out).unwrap();
        let expected = "setup vif7.0 /libxl/7/remus/netbuf/0\nteardown vif7.0 /libxl/7/remus/netbuf/0 ifb3\n";
        assert!(said.starts_with(expected), "{said}");
        assert!(run_script(Path::new("/none/script"), "setup", &card, "/p", None).is_err());
    }
}
