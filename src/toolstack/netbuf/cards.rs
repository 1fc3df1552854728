//! The network cards of a domain, of which each has its device in this host.
#![forbid(unsafe_code)]

use super::super::failed;
use super::super::store::Store;
use super::network::Network;
use crate::hypervisor::{Error, Result};

/// A card's device in this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    /// The card's number in the domain.
    pub devid: u32,
    /// Its device here.
    pub device: String,
    /// Whether it is the emulator's half of a card.
    pub emulated: bool,
}

/// All of them, each half of one that an emulator has too.
///
/// # Errors
/// xenstore's, the kernel's; one has its backend elsewhere.
pub(super) fn cards(store: &Store, network: &mut dyn Network, domid: u32) -> Result<Vec<Card>> {
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
