//! The program's balloon: pages behind the working set that it gives back and takes again.
//!
//! Event `n`, of which there is one every so many steps, gives page `n % pages` back, and takes the page of event `n - pages / 2`,
//! and fills it. As Linux' balloon does, the guest clears a page before it gives it back. So half of the pages are away, the number of
//! pages stays the same from then on, and what each page must be is a function of the number of events.

use super::control::Control;
use super::hash::{Rng, fill, mix};
use crate::hypervisor::error::GuestDamage;
use crate::hypervisor::sim::memory::GuestMemory;
use crate::hypervisor::types::{PAGE_SIZE, Page, Pfn};

/// Event `event`.
pub(super) fn run(memory: &mut GuestMemory, control: &Control, event: u64) -> Result<(), GuestDamage> {
    let pages = control.balloon_pages;
    let given = pfn_of(control, event % pages)?;
    let damage = |_| GuestDamage::Layout { pfn: given };
    memory.guest_page(given).ok_or(GuestDamage::Layout { pfn: given })?.fill(0);
    memory.give_back(given).map_err(damage)?;
    if event < pages / 2 {
        return Ok(());
    }
    let taken = pfn_of(control, (event + pages - pages / 2) % pages)?;
    memory.populate(taken).map_err(|_| GuestDamage::Layout { pfn: taken })?;
    let page = memory.guest_page(taken).ok_or(GuestDamage::Layout { pfn: taken })?;
    fill(page, contents(control, event));
    Ok(())
}

/// Whether the pages are as so many events must have left them. Those that have never been away may have anything in them.
pub(super) fn check(memory: &GuestMemory, control: &Control, events: u64) -> Result<(), GuestDamage> {
    let pages = control.balloon_pages;
    for index in 0..pages {
        let pfn = pfn_of(control, index)?;
        let Some(given) = last(events, pages, index) else { continue };
        let taken = given + pages / 2;
        if taken >= events {
            // A copy may have kept the page that the guest has given back.
            continue;
        }
        let mut expected: Page = [0; PAGE_SIZE];
        fill(&mut expected, contents(control, taken));
        let found = memory.page(pfn).ok_or(GuestDamage::Layout { pfn })?;
        if *found != expected {
            return Err(GuestDamage::Balloon { pfn, event: taken });
        }
    }
    Ok(())
}

/// The last of so many events that is `index` modulo `pages`.
const fn last(events: u64, pages: u64, index: u64) -> Option<u64> {
    if events <= index { None } else { Some(index + (events - 1 - index) / pages * pages) }
}

fn contents(control: &Control, event: u64) -> u64 {
    Rng::new(mix(control.seed) ^ event).next_u64()
}

fn pfn_of(control: &Control, index: u64) -> Result<Pfn, GuestDamage> {
    let usable: u64 = control.ranges.iter().map(|&(_, pages)| pages).sum();
    let place = usable.checked_sub(control.balloon_pages).map(|first| first + index);
    place.and_then(|place| control.working_pfn(place)).ok_or(GuestDamage::Layout { pfn: Pfn::MAX })
}
