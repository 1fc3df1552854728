//! The first frame of a domain's grant table, where a toolstack grants the console and xenstore rings.
#![forbid(unsafe_code)]

use crate::abi::GrantEntry;
use crate::errno::Errno;
use crate::guest::each;
use crate::host::host;
use std::cell::UnsafeCell;
use xen_replicate::hypervisor::{GrantSeed, PAGE_SIZE, RestoreDomain};

/// The table of entries (`XENMEM_resource_grant_table_id_shared`).
pub const SHARED: u32 = 0;

/// `GNTTAB_RESERVED_CONSOLE` and `GNTTAB_RESERVED_XENSTORE`
const CONSOLE: usize = 0;
const XENSTORE: usize = 1;
/// `GTF_permit_access`
const PERMIT_ACCESS: u16 = 1;

const ENTRIES: usize = PAGE_SIZE / size_of::<GrantEntry>();

/// A mapping of the frame. What is written there counts when it is unmapped.
pub struct GrantTable {
    domid: u32,
    /// On the heap, so that its address stays when the table moves.
    entries: Box<UnsafeCell<[GrantEntry; ENTRIES]>>,
}

impl GrantTable {
    /// Maps the frame of a domain, empty.
    pub fn map(domid: u32) -> Result<Self, Errno> {
        host()?.domain(domid)?;
        let none = GrantEntry { flags: 0, domid: 0, frame: 0 };
        Ok(GrantTable { domid, entries: Box::new(UnsafeCell::new([none; ENTRIES])) })
    }

    /// Where the entries are.
    pub fn entries(&self) -> *mut GrantEntry {
        self.entries.get().cast()
    }

    /// Ends the mapping and takes over what was granted.
    pub fn unmap(self) -> Result<(), Errno> {
        let entries = self.entries.into_inner();
        let granted = |index: usize| {
            let entry = entries.get(index).filter(|entry| entry.flags & PERMIT_ACCESS != 0);
            entry.map_or((0, 0), |entry| (u64::from(entry.frame), u32::from(entry.domid)))
        };
        let (console_gfn, console_domid) = granted(CONSOLE);
        let (xenstore_gfn, xenstore_domid) = granted(XENSTORE);
        let seed = GrantSeed { console_gfn, console_domid, xenstore_gfn, xenstore_domid };
        each!(host()?.domain(self.domid)?, domain => Ok(domain.seed_grant_table(seed)?))
    }
}
