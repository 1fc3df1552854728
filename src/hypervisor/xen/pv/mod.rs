//! What only PV domains have: width, m2p, p2m, frames, pinned tables.
//!
//! | file | purpose | in Xen |
//! |---|---|---|
//! | `region` | frames mapped for as long as the domain's handle lives | `xenforeignmemory_map` |
//! | `m2p` | the host's m2p, mapped for reading | `XENMEM_machphys_mfn_list`, `DOMID_XEN` |
//! | `maps` | both, as a domain's handle has them | |
//! | `vcpu` | vCPU contexts, part by part | `XEN_DOMCTL_getvcpucontext` and so on |
//!
//! A PV guest's pages are mapped by mfn, and the types of its pages are asked for by mfn: `mapping` and `save` take them as they
//! come. Xen updates the m2p itself when it gives the guest frames, so that nothing here does.

mod m2p;
pub(super) mod maps;
mod region;
mod vcpu;

use super::domain::XenDomain;
use super::mapping::MAX_BATCH;
use crate::decode::pv_words;
use crate::hypervisor::PvDomain;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::pv::{INVALID_MFN, Mfn, VcpuRecord, Width};
use crate::hypervisor::types::Pfn;
use m2p::M2p;
use region::Region;

impl PvDomain for XenDomain {
    fn guest_width(&self) -> Result<Width> {
        self.must_be_pv("a guest width")?;
        let bits = self.interface.address_size(self.domid)?;
        let width = u8::try_from(bits / 8).ok().and_then(Width::from_bytes);
        width.ok_or(Error::Config { field: "guest width", value: bits.into(), reason: "neither 32 nor 64 bits" })
    }

    fn set_guest_width(&mut self, width: Width) -> Result<()> {
        self.must_be_pv("a guest width")?;
        self.interface.set_address_size(self.domid, 8 * width.bytes() as u32)
    }

    fn shared_info_frame(&self) -> Result<Mfn> {
        self.must_be_pv("a shared info frame")?;
        Ok(self.getdomaininfo()?.shared_info_frame)
    }

    fn m2p(&self, mfn: Mfn) -> Option<Pfn> {
        self.pv.m2p.as_ref()?.pfn(mfn)
    }

    fn nr_mfns(&self) -> Result<u64> {
        self.interface.max_page()
    }

    fn compat_m2p_frame(&self) -> Result<Mfn> {
        self.interface.compat_m2p_extent(self.domid)
    }

    /// Maps these frames, and the m2p that their entries are held against.
    fn follow_p2m(&mut self, frames: &[Mfn], width: Width) -> Result<()> {
        self.must_be_pv("a p2m")?;
        if self.pv.m2p.is_none() {
            let nr_mfns = self.nr_mfns()?;
            self.pv.m2p = Some(M2p::map(&self.interface, nr_mfns)?);
        }
        self.pv.p2m = Some((Region::map(&self.interface, self.domid, frames)?, width));
        Ok(())
    }

    fn p2m_entry(&self, pfn: Pfn) -> Option<Mfn> {
        let (region, width) = self.pv.p2m.as_ref()?;
        pv_words::p2m_entry(region.word(usize::try_from(pfn).ok()?, *width)?, *width)
    }

    fn vcpu_is_online(&self, vcpu: u32) -> Result<bool> {
        self.online(vcpu)
    }

    fn vcpu_part(&self, vcpu: u32, part: VcpuRecord, blob: &mut Vec<u8>) -> Result<()> {
        self.must_be_pv("a PV vCPU's context")?;
        self.read_part(vcpu, part, blob)
    }

    fn set_vcpu_part(&mut self, vcpu: u32, part: VcpuRecord, blob: &[u8]) -> Result<()> {
        self.must_be_pv("a PV vCPU's context")?;
        self.write_part(vcpu, part, blob)
    }

    fn populate_frames(&mut self, pfns: &[Pfn], mfns: &mut [Mfn]) -> Result<()> {
        self.must_be_pv("frames by pfn")?;
        if pfns.len() != mfns.len() {
            return Err(Error::BatchLength { pfns: pfns.len(), types: mfns.len() });
        }
        for (pfns, mfns) in pfns.chunks(MAX_BATCH).zip(mfns.chunks_mut(MAX_BATCH)) {
            mfns.copy_from_slice(pfns);
            let done = self.populate_physmap(mfns, 0).inspect_err(|_| mfns.fill(INVALID_MFN))?;
            // Xen has written frames over those that it could give.
            let rest = mfns.get_mut(done..).unwrap_or_default();
            rest.fill(INVALID_MFN);
            if let Some(&pfn) = pfns.get(done) {
                let info = self.getdomaininfo()?;
                return Err(Error::OutOfMemory { pfn, populated: info.tot_pages, budget: info.max_pages });
            }
        }
        Ok(())
    }

    fn pin_tables(&mut self, tables: &[(u8, Mfn)]) -> Result<()> {
        self.must_be_pv("a page table")?;
        for tables in tables.chunks(MAX_BATCH) {
            if let Some(&(level, mfn)) = tables.iter().find(|(level, _)| !(1..=4).contains(level)) {
                return Err(Error::PageTable { mfn, level });
            }
            self.interface.pin_tables(self.domid, tables)?;
        }
        Ok(())
    }
}
