//! A domain's memory: how much, of which types, more of it; the dirty log; the machine's m2p; pinned tables.
#![allow(unsafe_code)]

use super::abi::{self, domctl, hypercall, mmuext, xenmem};
use super::buffer::Buffer;
use super::interface::Interface;
use crate::hypervisor::bitmap::BoundMismatch;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::DirtyStats;
use std::io;

impl Interface {
    /// `XENMEM_maximum_gpfn`: the highest gfn of a translated domain, the highest pfn of a PV one.
    pub(in crate::hypervisor::xen) fn maximum_gpfn(&self, domid: u32) -> Result<u64> {
        let op = xenmem::MAXIMUM_GPFN;
        let mut argument = self.buffer_with(&[u32::from(self.domain(op, domid)?)])?;
        // SAFETY: what is asked for is a domain's number, two bytes.
        unsafe { self.call2(hypercall::MEMORY_OP, op, domid, &mut argument) }
    }

    /// `XENMEM_maximum_ram_page`. Not the highest, as its name has it: Xen answers with its `max_page`, which is one more.
    pub(in crate::hypervisor::xen) fn max_page(&self) -> Result<u64> {
        let mut none = self.buffer(0)?;
        // SAFETY: this question has no argument.
        unsafe { self.call2(hypercall::MEMORY_OP, xenmem::MAXIMUM_RAM_PAGE, abi::DOMID_XEN, &mut none) }
    }

    /// `XENMEM_populate_physmap`: gives the number of extents that could be had. For a PV domain their frames replace the pfns.
    pub(in crate::hypervisor::xen) fn populate_physmap(
        &self,
        domid: u32,
        pfns: &mut [u64],
        order: u32,
    ) -> Result<usize> {
        let op = xenmem::POPULATE_PHYSMAP;
        let mut extents = self.buffer_with(pfns)?;
        let reservation = abi::MemoryReservation {
            extent_start: extents.address(),
            nr_extents: pfns.len() as u64,
            extent_order: order,
            domid: self.domain(op, domid)?,
            ..Default::default()
        };
        let mut argument = self.buffer_with(&[reservation])?;
        // SAFETY: the structure of this operation; it leads to as many extents as is said, in a buffer that nobody has a reference to.
        let done = unsafe { self.call2(hypercall::MEMORY_OP, op, domid, &mut argument) }?;
        extents.get(pfns);
        Ok(usize::try_from(done).unwrap_or(usize::MAX).min(pfns.len()))
    }

    /// `XENMEM_machphys_mfn_list`: the first frame of each of so many extents of the m2p.
    pub(in crate::hypervisor::xen) fn m2p_extents(&self, count: u32) -> Result<Vec<u64>> {
        self.machphys(xenmem::MACHPHYS_MFN_LIST, abi::DOMID_XEN, count)
    }

    /// `XENMEM_machphys_compat_mfn_list`: the first frame of the m2p that 32-bit guests have.
    pub(in crate::hypervisor::xen) fn compat_m2p_extent(&self, domid: u32) -> Result<u64> {
        let op = xenmem::MACHPHYS_COMPAT_MFN_LIST;
        let found = self.machphys(op, domid, 1)?;
        found.first().copied().ok_or_else(|| self.failure(op, domid, io::ErrorKind::NotFound.into()))
    }

    fn machphys(&self, op: abi::Op, domid: u32, count: u32) -> Result<Vec<u64>> {
        let mut extents = vec![0; count as usize];
        let mut buffer = self.buffer_with(&extents)?;
        let mut list =
            abi::MachphysMfnList { max_extents: count, extent_start: buffer.address(), ..Default::default() };
        let mut argument = self.buffer_with(&[list])?;
        // SAFETY: the structure of either operation; it leads to room for as many frames as is said, which nobody has a reference to.
        unsafe { self.call2(hypercall::MEMORY_OP, op, domid, &mut argument) }?;
        argument.get(std::slice::from_mut(&mut list));
        if list.nr_extents != count {
            return Err(self.failure(op, domid, io::ErrorKind::NotFound.into()));
        }
        buffer.get(&mut extents);
        Ok(extents)
    }

    /// `XEN_DOMCTL_getpageframeinfo3`: the types of frames, at most 1,024, over their numbers.
    pub(in crate::hypervisor::xen) fn frame_types(&self, domid: u32, frames: &mut [u64]) -> Result<()> {
        let mut array = self.buffer_with(frames)?;
        let mut info = abi::PageFrameInfo3 { num: frames.len() as u64, array: array.address() };
        // SAFETY: the array has as many frames as is said.
        unsafe { self.domctl_with_addresses(domctl::GET_PAGE_FRAME_INFO, domid, &mut info, &mut [&mut array]) }?;
        array.get(frames);
        Ok(())
    }

    /// `MMUEXT_PIN_L1_TABLE` to `MMUEXT_PIN_L4_TABLE`; the levels must be of these.
    pub(in crate::hypervisor::xen) fn pin_tables(&self, domid: u32, tables: &[(u8, u64)]) -> Result<()> {
        // The four levels' commands follow each other.
        let command = |level: u8| mmuext::PIN_L1_TABLE.number + u32::from(level).saturating_sub(1);
        let op = |&(level, mfn): &(u8, u64)| abi::MmuextOp { cmd: command(level), arg1: mfn, ..Default::default() };
        let ops: Vec<_> = tables.iter().map(op).collect();
        let mut list = self.buffer_with(&ops)?;
        // SAFETY: the list has as many operations as is said, and pinning has no address.
        unsafe { self.mmuext(mmuext::PIN_L1_TABLE, domid, &mut list, ops.len() as u64) }
    }

    /// `XEN_DOMCTL_shadow_op` of those that switch the dirty log.
    pub(in crate::hypervisor::xen) fn switch_log(&self, domid: u32, op: u32) -> Result<()> {
        self.domctl(domctl::SHADOW_OP, domid, &mut abi::ShadowOp { op, ..Default::default() })
    }

    /// `XEN_DOMCTL_shadow_op` of those that read the log: that of so many pfns, which `bitmap` must have bits for.
    pub(in crate::hypervisor::xen) fn read_log(
        &self,
        domid: u32,
        op: u32,
        mode: u32,
        pages: u64,
        bitmap: &mut Buffer,
    ) -> Result<DirtyStats> {
        let bits = bitmap.len() as u64 * u64::from(u8::BITS);
        if pages > bits {
            return Err(BoundMismatch { expected: pages, found: bits }.into());
        }
        let mut log = abi::ShadowOp { op, mode, pages, dirty_bitmap: bitmap.address(), ..Default::default() };
        // SAFETY: the bitmap has as many bits as is said, checked above.
        unsafe { self.domctl_with_addresses(domctl::SHADOW_OP, domid, &mut log, &mut [bitmap]) }?;
        if log.pages < pages {
            return Err(Error::DirtyLogLength { domid, expected: pages, found: log.pages });
        }
        Ok(DirtyStats { fault_count: log.fault_count.into(), dirty_count: log.dirty_count.into() })
    }
}
