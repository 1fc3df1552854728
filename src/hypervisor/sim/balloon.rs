//! What a simulated guest does to its own memory map, at somebody's command: gives pages back, takes others, moves them.

use super::domain::SimDomain;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::Pfn;

impl SimDomain {
    /// The guest gives pages back, with their contents (`XENMEM_decrease_reservation`). It does not write to them before.
    ///
    /// # Errors
    /// [`Error::WrongState`] of a guest that does not run; [`Error::NotPopulated`] of the first that it does not have, those before it have
    /// gone.
    pub fn give_back(&mut self, pfns: &[Pfn]) -> Result<()> {
        self.must_run("give pages back")?;
        pfns.iter().try_for_each(|&pfn| self.memory.give_back(pfn))
    }

    /// The guest takes pages, which are zero (`XENMEM_populate_physmap`). A pfn that has one keeps it.
    ///
    /// # Errors
    /// [`Error::WrongState`] of a guest that does not run; [`Error::OutOfMemory`], [`Error::PfnOutOfRange`] of the first that it cannot
    /// have, those before it have come.
    pub fn take(&mut self, pfns: &[Pfn]) -> Result<()> {
        self.must_run("take pages")?;
        pfns.iter().try_for_each(|&pfn| self.memory.populate(pfn))
    }

    /// The page at `from` goes to `to`, in the place of what is there, as a device's memory does when its address is set
    /// (`XENMEM_add_to_physmap`).
    ///
    /// # Errors
    /// [`Error::WrongState`] of a guest that does not run; [`Error::NotPopulated`] of `from`, [`Error::PfnOutOfRange`] of `to`.
    pub fn move_page(&mut self, from: Pfn, to: Pfn) -> Result<()> {
        self.must_run("move a page")?;
        self.memory.move_page(from, to)
    }

    /// The guest fills a page.
    ///
    /// # Errors
    /// [`Error::WrongState`] of a guest that does not run; [`Error::NotPopulated`].
    pub fn fill(&mut self, pfn: Pfn, byte: u8) -> Result<()> {
        self.must_run("write")?;
        self.memory.guest_page(pfn).ok_or(Error::NotPopulated { pfn })?.fill(byte);
        Ok(())
    }

    fn must_run(&self, operation: &'static str) -> Result<()> {
        if self.is_running() { Ok(()) } else { Err(self.wrong_state(operation)) }
    }
}
