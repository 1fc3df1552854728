//! What only PV domains have: width, m2p, p2m, frames, pinned tables.
//!
//! | file | purpose | in Xen's libraries |
//! |---|---|---|
//! | `region` | frames mapped for as long as the domain's handle lives | `xenforeignmemory_map` |
//! | `m2p` | the host's m2p, mapped for reading | `xc_machphys_mfn_list`, `DOMID_XEN` |
//! | `vcpu` | vCPU contexts, part by part | `xc_vcpu_getcontext`, `xc_domctl` |
//!
//! A PV guest's pages are mapped by mfn, and the types of its pages are asked for by mfn: `mapping` and `save` take them as they
//! come. Xen updates the m2p itself when it gives the guest frames, so that nothing here does.
#![allow(unsafe_code)]

mod m2p;
mod region;
mod vcpu;

use super::domain::XenDomain;
use super::handles::{Handles, hypercall};
use super::log_dirty::Buffer;
use super::mapping::MAX_BATCH;
use crate::decode::pv_words;
use crate::hypervisor::PvDomain;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::pv::{INVALID_MFN, Mfn, VcpuRecord, Width};
use crate::hypervisor::types::Pfn;
use m2p::M2p;
use region::Region;
use std::io;
use xenctrl_sys as sys;

/// What of a PV domain stays mapped.
#[derive(Debug, Default)]
pub(super) struct PvMaps {
    m2p: Option<M2p>,
    p2m: Option<(Region, Width)>,
}

impl PvMaps {
    /// Unmaps everything. The interface must be the one that it was mapped with.
    pub(super) fn release(&mut self, handles: &Handles) {
        if let Some(m2p) = self.m2p.take() {
            m2p.release(handles);
        }
        if let Some((p2m, _)) = self.p2m.take() {
            p2m.release(handles);
        }
    }
}

impl PvDomain for XenDomain {
    fn guest_width(&self) -> Result<Width> {
        self.must_be_pv("a guest width")?;
        let mut octets = 0;
        // SAFETY: the interface is open, and `octets` is a place for the one value that is written.
        let rc = unsafe { sys::xc_domain_get_guest_width(self.handles.xch(), self.domid, &raw mut octets) };
        // It fails with 1.
        hypercall("xc_domain_get_guest_width", self.domid, -rc.saturating_abs())?;
        let width = u8::try_from(octets).ok().and_then(Width::from_octets);
        width.ok_or(Error::Config { field: "guest width", value: octets.into(), reason: "neither 4 nor 8 octets" })
    }

    fn set_guest_width(&mut self, width: Width) -> Result<()> {
        self.must_be_pv("a guest width")?;
        let mut domctl = self.domctl(sys::XEN_DOMCTL_set_address_size);
        domctl.u.address_size.size = 8 * width.octets() as u32;
        self.call_domctl("XEN_DOMCTL_set_address_size", &mut domctl)
    }

    fn shared_info_frame(&self) -> Result<Mfn> {
        self.must_be_pv("a shared info frame")?;
        Ok(self.getdomaininfo()?.shared_info_frame)
    }

    fn m2p(&self, mfn: Mfn) -> Option<Pfn> {
        self.pv.m2p.as_ref()?.pfn(mfn)
    }

    fn nr_mfns(&self) -> Result<u64> {
        let mut frames = 0;
        // SAFETY: the interface is open, and `frames` is a place for the one value that is written.
        let rc = unsafe { sys::xc_maximum_ram_page(self.handles.xch(), &raw mut frames) };
        hypercall("xc_maximum_ram_page", self.domid, rc)?;
        // Not the highest, as its name has it: Xen answers with its `max_page`, which is one more.
        Ok(frames)
    }

    fn compat_m2p_frame(&self) -> Result<Mfn> {
        let mut frame = Buffer::new(&self.handles, size_of::<Mfn>())?;
        let mut list = sys::xen_machphys_mfn_list { max_extents: 1, ..Default::default() };
        list.extent_start.p = frame.pointer();
        let pointer = (&raw mut list).cast();
        // SAFETY: the interface is open, `list` is the structure of this operation with its size, and leads to room for the one
        // frame that is asked for, which is hypercall memory.
        let rc = unsafe {
            sys::xc_memory_op(
                self.handles.xch(),
                sys::XENMEM_machphys_compat_mfn_list,
                pointer,
                size_of::<sys::xen_machphys_mfn_list>(),
            )
        };
        hypercall("XENMEM_machphys_compat_mfn_list", self.domid, i32::try_from(rc).unwrap_or(-1))?;
        match frame.words().first() {
            Some(&mfn) if list.nr_extents == 1 => Ok(mfn),
            _ => Err(Error::Hypercall {
                call: "XENMEM_machphys_compat_mfn_list",
                domid: self.domid,
                source: io::ErrorKind::NotFound.into(),
            }),
        }
    }

    /// Maps these frames, and the m2p that their entries are held against.
    fn follow_p2m(&mut self, frames: &[Mfn], width: Width) -> Result<()> {
        self.must_be_pv("a p2m")?;
        if self.pv.m2p.is_none() {
            let nr_mfns = self.nr_mfns()?;
            self.pv.m2p = Some(M2p::map(&self.handles, nr_mfns)?);
        }
        let region = Region::map(&self.handles, self.domid, frames)?;
        if let Some((before, _)) = self.pv.p2m.replace((region, width)) {
            before.release(&self.handles);
        }
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
            let mut ops = Vec::with_capacity(tables.len());
            for &(level, mfn) in tables {
                if !(1..=4).contains(&level) {
                    return Err(Error::PageTable { mfn, level });
                }
                // The four levels' commands follow each other.
                let cmd = sys::MMUEXT_PIN_L1_TABLE + u32::from(level) - 1;
                let arg1 = sys::mmuext_op__bindgen_ty_1 { mfn };
                ops.push(sys::mmuext_op { cmd, arg1, ..Default::default() });
            }
            // SAFETY: the interface is open, and there are as many operations as is said: at most `MAX_BATCH`.
            let rc = unsafe { sys::xc_mmuext_op(self.handles.xch(), ops.as_mut_ptr(), ops.len() as u32, self.domid) };
            hypercall("xc_mmuext_op", self.domid, rc)?;
        }
        Ok(())
    }
}

impl XenDomain {
    /// A domctl for this domain, all zeros otherwise.
    fn domctl(&self, cmd: u32) -> sys::xen_domctl {
        sys::xen_domctl { cmd, domain: self.domid as sys::domid_t, ..Default::default() }
    }

    /// Has Xen answer a domctl. What it leads to must be memory for hypercalls of the size that it says.
    fn call_domctl(&self, call: &'static str, domctl: &mut sys::xen_domctl) -> Result<()> {
        // SAFETY: the interface is open, and `domctl` is a whole structure of ours; the callers, all in this folder, put only
        // pointers to `Buffer`s of the said size into it.
        let rc = unsafe { sys::xc_domctl(self.handles.xch(), domctl) };
        hypercall(call, self.domid, rc)?;
        Ok(())
    }
}
