//! Indices of the HVM parameters that travel in a stream (Xen's `public/hvm/params.h`).
#![forbid(unsafe_code)]

/// gfn of the xenstore ring. Cleared on restore.
pub const STORE_PFN: u64 = 1;
/// Event channel of the xenstore ring. Set anew on restore, never sent.
pub const STORE_EVTCHN: u64 = 2;
/// Historic switch for PAE. Found in old streams only, and then ignored.
pub const PAE_ENABLED: u64 = 4;
/// gfn of the synchronous request page of the default device model. Cleared on restore.
pub const IOREQ_PFN: u64 = 5;
/// gfn of the buffered request page of the default device model. Cleared on restore.
pub const BUFIOREQ_PFN: u64 = 6;
/// Viridian (Hyper-V) feature mask.
pub const VIRIDIAN: u64 = 9;
/// Guest-physical address of the identity page table for real mode.
pub const IDENT_PT: u64 = 12;
/// gfn of the console ring. Cleared on restore.
pub const CONSOLE_PFN: u64 = 17;
/// Event channel of the console ring. Set anew on restore, never sent.
pub const CONSOLE_EVTCHN: u64 = 18;
/// Which of the two locations the ACPI I/O ports have.
pub const ACPI_IOPORTS_LOCATION: u64 = 19;
/// gfn of the memory-paging ring.
pub const PAGING_RING_PFN: u64 = 27;
/// gfn of the monitor ring.
pub const MONITOR_RING_PFN: u64 = 28;
/// gfn of the memory-sharing ring.
pub const SHARING_RING_PFN: u64 = 29;
/// First gfn of the pages for further ioreq servers.
pub const IOREQ_SERVER_PFN: u64 = 32;
/// Bit map of the ioreq-server pages that are free; set to their number at creation.
pub const NR_IOREQ_SERVER_PAGES: u64 = 33;
/// Guest-physical address of the VM generation id.
pub const VM_GENERATION_ID_ADDR: u64 = 34;
/// Width of the x87 instruction pointer that is saved.
pub const X87_FIP_WIDTH: u64 = 36;
/// Address (low half) and size (high half) of the TSS for virtual 8086 mode.
pub const VM86_TSS_SIZED: u64 = 37;
/// Machine-check capabilities.
pub const MCA_CAP: u64 = 38;
/// One more than the highest index that Xen 4.17 to 4.22 know.
pub const COUNT: u64 = 39;

/// The parameters that a saver asks for, in the order in which real streams carry them. Those of value 0 are not sent.
pub const SAVED: [u64; 16] = [
    STORE_PFN,
    IOREQ_PFN,
    BUFIOREQ_PFN,
    PAGING_RING_PFN,
    MONITOR_RING_PFN,
    SHARING_RING_PFN,
    VM86_TSS_SIZED,
    CONSOLE_PFN,
    ACPI_IOPORTS_LOCATION,
    VIRIDIAN,
    IDENT_PT,
    VM_GENERATION_ID_ADDR,
    IOREQ_SERVER_PFN,
    NR_IOREQ_SERVER_PAGES,
    X87_FIP_WIDTH,
    MCA_CAP,
];

/// Whether a restorer clears the page that this parameter names: both ends of a ring start anew on the new host.
pub fn names_cleared_page(index: u64) -> bool {
    matches!(index, STORE_PFN | CONSOLE_PFN | IOREQ_PFN | BUFIOREQ_PFN)
}
