//! What a saver reads of a domain.
#![allow(unsafe_code)]

use super::domain::XenDomain;
use super::ffi;
use super::handles::hypercall;
use super::mapping::XenPages;
use super::policy::{emit_leaves, emit_msrs};
use crate::hypervisor::SaveDomain;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::{CpuPolicy, PageType, Pfn, TscInfo};
use std::io;
use std::ptr::{NonNull, null_mut};
use xenctrl_sys as sys;

/// The most frames whose types Xen tells in one hypercall.
const MOST_TYPES: usize = 1024;

impl SaveDomain for XenDomain {
    type Pages<'a> = XenPages<'a>;

    fn page_types(&self, pfns: &[Pfn], types: &mut [PageType]) -> Result<()> {
        self.gfn_types(pfns, types)
    }

    /// At most [`MAX_BATCH`](super::MAX_BATCH) pages, else [`Error::BatchTooLong`].
    fn map_pages<'a>(&'a self, pfns: &'a [Pfn]) -> Result<XenPages<'a>> {
        XenPages::new(self, pfns)
    }

    fn cpu_policy(&self) -> Result<CpuPolicy> {
        let (xch, domid) = (self.handles.xch(), self.domid);
        let (mut nr_leaves, mut nr_msrs) = (0, 0);
        // SAFETY: the interface is open, and both are places for the number that is written to each.
        let rc = unsafe { ffi::xc_cpu_policy_get_size(xch, &raw mut nr_leaves, &raw mut nr_msrs) };
        hypercall("xc_cpu_policy_get_size", domid, rc)?;
        let policy = Policy::new()?;
        // SAFETY: the interface and the policy are open.
        let rc = unsafe { ffi::xc_cpu_policy_get_domain(xch, domid, policy.0.as_ptr()) };
        hypercall("xc_cpu_policy_get_domain", domid, rc)?;
        let mut leaves = vec![sys::xen_cpuid_leaf_t::default(); nr_leaves as usize];
        let mut msrs = vec![sys::xen_msr_entry_t::default(); nr_msrs as usize];
        // SAFETY: the interface and the policy are open, and the two vectors have the lengths that the numbers say.
        let rc = unsafe {
            ffi::xc_cpu_policy_serialise(
                xch,
                policy.0.as_ptr(),
                leaves.as_mut_ptr(),
                &raw mut nr_leaves,
                msrs.as_mut_ptr(),
                &raw mut nr_msrs,
            )
        };
        hypercall("xc_cpu_policy_serialise", domid, rc)?;
        leaves.truncate(nr_leaves as usize);
        msrs.truncate(nr_msrs as usize);
        Ok(CpuPolicy { cpuid: emit_leaves(&leaves), msrs: emit_msrs(&msrs) })
    }

    fn tsc_info(&self) -> Result<TscInfo> {
        let mut tsc = TscInfo::default();
        // SAFETY: the interface is open, and each of the four is a place for a value of its type.
        let rc = unsafe {
            sys::xc_domain_get_tsc_info(
                self.handles.xch(),
                self.domid,
                &raw mut tsc.mode,
                &raw mut tsc.nsec,
                &raw mut tsc.khz,
                &raw mut tsc.incarnation,
            )
        };
        hypercall("xc_domain_get_tsc_info", self.domid, rc)?;
        Ok(tsc)
    }

    fn hvm_context(&self, blob: &mut Vec<u8>) -> Result<()> {
        self.must_be_translated("a HVM context")?;
        // The size depends on vCPUs and features alone, so the one of the last time nearly always does.
        let known = self.context_size.get();
        if known > 0 && self.read_context(blob, known).is_ok() {
            return Ok(());
        }
        // SAFETY: the interface is open, and without a buffer only the size is told.
        let size = unsafe { sys::xc_domain_hvm_getcontext(self.handles.xch(), self.domid, null_mut(), 0) };
        let size = hypercall("xc_domain_hvm_getcontext", self.domid, size)? as usize;
        self.read_context(blob, size)?;
        self.context_size.set(size);
        Ok(())
    }

    fn hvm_param(&self, index: u64) -> Result<u64> {
        let refused = Error::HvmParam { index, value: 0 };
        let Ok(index) = u32::try_from(index) else { return Err(refused) };
        let mut value = 0;
        // SAFETY: the interface is open, and `value` is a place for the one value that is written.
        let rc = unsafe { sys::xc_hvm_param_get(self.handles.xch(), self.domid, index, &raw mut value) };
        hypercall("xc_hvm_param_get", self.domid, rc)?;
        Ok(value)
    }
}

impl XenDomain {
    /// The types of frames, 1,024 in a hypercall.
    pub(super) fn gfn_types(&self, gfns: &[u64], types: &mut [PageType]) -> Result<()> {
        if gfns.len() != types.len() {
            return Err(Error::BatchLength { pfns: gfns.len(), types: types.len() });
        }
        let mut words = [0; MOST_TYPES];
        for (gfns, types) in gfns.chunks(MOST_TYPES).zip(types.chunks_mut(MOST_TYPES)) {
            let Some(words) = words.get_mut(..gfns.len()) else { continue };
            words.copy_from_slice(gfns);
            // SAFETY: the interface is open, and there are as many words as is said.
            let rc = unsafe {
                ffi::xc_get_pfn_type_batch(self.handles.xch(), self.domid, words.len() as u32, words.as_mut_ptr())
            };
            hypercall("xc_get_pfn_type_batch", self.domid, rc)?;
            for ((&gfn, &word), page_type) in gfns.iter().zip(&*words).zip(types) {
                *page_type = match decode_type(word) {
                    Ok(found) => found,
                    Err(value) => return Err(Error::PageType { gfn, value }),
                };
            }
        }
        Ok(())
    }

    fn read_context(&self, blob: &mut Vec<u8>, size: usize) -> Result<()> {
        blob.resize(size, 0);
        let most = u32::try_from(size).unwrap_or(u32::MAX);
        // SAFETY: the interface is open, and `blob` has at least the room that is said.
        let got = unsafe { sys::xc_domain_hvm_getcontext(self.handles.xch(), self.domid, blob.as_mut_ptr(), most) };
        let got = hypercall("xc_domain_hvm_getcontext", self.domid, got)?;
        blob.truncate(got as usize);
        Ok(())
    }
}

/// The type in what Xen writes over a frame's number (`XEN_DOMCTL_PFINFO_*`, bits 28 to 31); or a number that is none.
fn decode_type(word: u64) -> std::result::Result<PageType, u8> {
    let value = (word >> sys::XEN_DOMCTL_PFINFO_LTAB_SHIFT & 0xf) as u8;
    PageType::from_wire(value).ok_or(value)
}

/// libxenguest's CPU policy.
struct Policy(NonNull<ffi::CpuPolicyHandle>);

impl Policy {
    fn new() -> Result<Self> {
        // SAFETY: it has no argument.
        let policy = unsafe { ffi::xc_cpu_policy_init() };
        let failed = || Error::Os { operation: "allocating a CPU policy", source: io::Error::last_os_error() };
        NonNull::new(policy).map(Policy).ok_or_else(failed)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        // SAFETY: `new` made it, and nothing else destroys it.
        unsafe { ffi::xc_cpu_policy_destroy(self.0.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_in_bits_28_to_31_whatever_the_rest_says() {
        let decode = |word: u32| decode_type(word.into());
        assert_eq!(decode(sys::XEN_DOMCTL_PFINFO_NOTAB).unwrap(), PageType::NOTAB);
        assert_eq!(decode(sys::XEN_DOMCTL_PFINFO_XTAB).unwrap(), PageType::XTAB);
        assert_eq!(decode(sys::XEN_DOMCTL_PFINFO_BROKEN).unwrap(), PageType::BROKEN);
        assert_eq!(decode(sys::XEN_DOMCTL_PFINFO_L4TAB | 0x0fff_ffff).unwrap(), PageType::L4TAB);
        let pinned = decode(sys::XEN_DOMCTL_PFINFO_L2TAB | sys::XEN_DOMCTL_PFINFO_LPINTAB).unwrap();
        assert!(pinned.is_pinned() && pinned.table_level() == Some(2));
        assert_eq!(decode_type(0x0123_4567_0000_0000).unwrap(), PageType::NOTAB);
        assert_eq!(decode(sys::XEN_DOMCTL_PFINFO_LPINTAB), Err(8));
    }
}
