//! What only PV domains have: a machine address space that the guest sees, page tables and a p2m of its own, vCPU contexts.
//!
//! A PV guest's gfns are machine frames (mfns). Wherever [`super::SaveDomain`] and [`super::RestoreDomain`] take frames to map, or
//! to tell the types of, these are mfns for such a domain; the translation from pfns is the caller's ([`crate::libxc`]), as it is
//! in Xen's own libxc. Dirty logs go by pfns for every kind of domain.
//!
//! A backend without PV domains leaves all of it as it is here: [`Error::Unsupported`].
#![forbid(unsafe_code)]

use super::error::{Error, Result};
use super::types::Pfn;
pub use crate::decode::shared_info::Width;
pub use crate::stream::libxc::VcpuRecord;

/// A machine frame number: the number of a page in the host's memory.
pub type Mfn = u64;

/// No frame, in a p2m (`INVALID_MFN`): every bit is set, in a 32-bit guest's p2m its 32.
pub const INVALID_MFN: Mfn = u64::MAX;

fn no_pv<T>() -> Result<T> {
    Err(Error::Unsupported { backend: "this backend", what: "a PV domain" })
}

/// A PV domain.
pub trait PvDomain {
    /// The guest's width (`XEN_DOMCTL_get_address_size`).
    fn guest_width(&self) -> Result<Width> {
        no_pv()
    }

    /// Sets the width of a domain that has no memory yet (`XEN_DOMCTL_set_address_size`).
    fn set_guest_width(&mut self, width: Width) -> Result<()> {
        let _ = width;
        no_pv()
    }

    /// The machine frame of the shared info page, which Xen gives the domain; it is no part of the guest's memory.
    fn shared_info_frame(&self) -> Result<Mfn> {
        no_pv()
    }

    /// The pfn of a machine frame by the host's m2p; `None` for a frame that the m2p does not cover. The answer is what the
    /// m2p has, whoever owns the frame: only the p2m's agreement makes it the guest's.
    fn m2p(&self, mfn: Mfn) -> Option<Pfn> {
        let _ = mfn;
        None
    }

    /// One more than the highest machine frame (`XENMEM_maximum_ram_page`).
    fn nr_mfns(&self) -> Result<u64> {
        no_pv()
    }

    /// The first frame of the m2p that Xen maps into the page tables of 32-bit guests (`XENMEM_machphys_compat_mfn_list`).
    fn compat_m2p_frame(&self) -> Result<Mfn> {
        no_pv()
    }

    /// Has [`PvDomain::p2m_entry`] read the guest's p2m in these frames, in their order, from now on. They stay mapped, and what
    /// the guest writes there shows.
    fn follow_p2m(&mut self, frames: &[Mfn], width: Width) -> Result<()> {
        let _ = (frames, width);
        no_pv()
    }

    /// The guest's p2m entry of a pfn; `None` where it says that there is no frame, and beyond the p2m.
    fn p2m_entry(&self, pfn: Pfn) -> Option<Mfn> {
        let _ = pfn;
        None
    }

    /// Whether a vCPU is online (`XEN_DOMCTL_getvcpuinfo`).
    fn vcpu_is_online(&self, vcpu: u32) -> Result<bool> {
        let _ = vcpu;
        no_pv()
    }

    /// Puts a part of a vCPU's state into `blob`, replacing what it had, as the stream's records carry it, frames as mfns. Empty
    /// where there is none.
    fn vcpu_part(&self, vcpu: u32, part: VcpuRecord, blob: &mut Vec<u8>) -> Result<()> {
        let _ = (vcpu, part, blob);
        no_pv()
    }

    /// Sets a part of a vCPU's state, frames as mfns.
    fn set_vcpu_part(&mut self, vcpu: u32, part: VcpuRecord, blob: &[u8]) -> Result<()> {
        let _ = (vcpu, part, blob);
        no_pv()
    }

    /// Gives the domain a frame for each of these pfns, which must have none, and sets the m2p (`XENMEM_populate_physmap`). The
    /// slices must have the same length.
    fn populate_frames(&mut self, pfns: &[Pfn], mfns: &mut [Mfn]) -> Result<()> {
        let _ = (pfns, mfns);
        no_pv()
    }

    /// Pins page tables, each with its level from 1 to 4 (`MMUEXT_PIN_L1_TABLE` to `MMUEXT_PIN_L4_TABLE`). Xen checks every
    /// entry.
    fn pin_tables(&mut self, tables: &[(u8, Mfn)]) -> Result<()> {
        let _ = tables;
        no_pv()
    }
}
