//! What a saver reads of a domain.
#![forbid(unsafe_code)]

use super::domain::XenDomain;
use super::hypercall::abi::pfinfo;
use super::mapping::XenPages;
use super::policy::{emit_leaves, emit_msrs};
use crate::hypervisor::SaveDomain;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::{CpuPolicy, PageType, Pfn, TscInfo};

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
        let (leaves, msrs) = self.interface.cpu_policy(self.domid)?;
        Ok(CpuPolicy { cpuid: emit_leaves(&leaves), msrs: emit_msrs(&msrs) })
    }

    fn tsc_info(&self) -> Result<TscInfo> {
        let tsc = self.interface.tsc_info(self.domid)?;
        Ok(TscInfo {
            mode: tsc.tsc_mode,
            khz: tsc.gtsc_khz,
            nsec: tsc.elapsed_nsec,
            incarnation: tsc.incarnation,
            ..Default::default()
        })
    }

    fn hvm_context(&self, blob: &mut Vec<u8>) -> Result<()> {
        self.must_be_translated("a HVM context")?;
        // The size depends on vCPUs and features alone, so the one of the last time nearly always does.
        let known = self.context_size.get();
        if known > 0 && self.interface.hvm_context(self.domid, known, blob).is_ok() {
            return Ok(());
        }
        let size = self.interface.hvm_context_size(self.domid)?;
        self.interface.hvm_context(self.domid, size, blob)?;
        self.context_size.set(size);
        Ok(())
    }

    fn hvm_param(&self, index: u64) -> Result<u64> {
        let refused = Error::HvmParam { index, value: 0 };
        let Ok(index) = u32::try_from(index) else { return Err(refused) };
        self.interface.hvm_param(self.domid, index)
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
            self.interface.frame_types(self.domid, words)?;
            for ((&gfn, &word), page_type) in gfns.iter().zip(&*words).zip(types) {
                *page_type = match decode_type(word) {
                    Ok(found) => found,
                    Err(value) => return Err(Error::PageType { gfn, value }),
                };
            }
        }
        Ok(())
    }
}

/// The type in what Xen writes over a frame's number (`XEN_DOMCTL_PFINFO_*`, bits 28 to 31); or a number that is none.
fn decode_type(word: u64) -> std::result::Result<PageType, u8> {
    let value = (word >> pfinfo::SHIFT & 0xf) as u8;
    PageType::from_wire(value).ok_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_in_bits_28_to_31_whatever_the_rest_says() {
        let decode = |word: u32| decode_type(word.into());
        assert_eq!(decode(pfinfo::NOTAB).unwrap(), PageType::NOTAB);
        assert_eq!(decode(pfinfo::XTAB).unwrap(), PageType::XTAB);
        assert_eq!(decode(pfinfo::BROKEN).unwrap(), PageType::BROKEN);
        assert_eq!(decode(pfinfo::L4TAB | 0x0fff_ffff).unwrap(), PageType::L4TAB);
        let pinned = decode(pfinfo::L2TAB | pfinfo::LPINTAB).unwrap();
        assert!(pinned.is_pinned() && pinned.table_level() == Some(2));
        assert_eq!(decode_type(0x0123_4567_0000_0000).unwrap(), PageType::NOTAB);
        assert_eq!(decode(pfinfo::LPINTAB), Err(8));
    }
}
