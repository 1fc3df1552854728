//! Fields of Xen's structures that hold frames, in the layouts of 64-bit and 32-bit guests.
//!
//! Source: `struct vcpu_guest_context` and `struct arch_shared_info` in `xen/include/public/arch-x86/xen.h`, `struct start_info` and
//! `struct shared_info` in `xen/include/public/xen.h`. The decoders of [`crate::decode`] have every field; here are the offsets of
//! those that saving, restoring and a simulated guest change in place.

use super::shared_info::Width;
use byteorder::{ByteOrder, LittleEndian};

/// Most entries that a guest's GDT may have (`FIRST_RESERVED_GDT_ENTRY`).
pub const GDT_ENTRIES: u64 = 14 * 512;
/// Bytes of [`Field`]s' structures: the vCPU context of a 64-bit and of a 32-bit guest.
pub const CONTEXT_64: usize = 5168;
/// As above.
pub const CONTEXT_32: usize = 2800;

/// A field of one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    at64: usize,
    at32: usize,
}

const fn field(at64: usize, at32: usize) -> Field {
    Field { at64, at32 }
}

/// `vcpu_guest_context.flags`.
pub const FLAGS: Field = field(512, 512);
/// `vcpu_guest_context.user_regs.rdx` or `edx`: of vCPU 0 of a suspended guest, the frame of its start info.
pub const EDX: Field = field(616, 524);
/// `vcpu_guest_context.gdt_frames[0]`.
pub const GDT_FRAMES: Field = field(4832, 2640);
/// `vcpu_guest_context.gdt_ents`.
pub const GDT_ENTS: Field = field(4960, 2704);
/// `vcpu_guest_context.ctrlreg[1]`: of a 64-bit guest, the page tables of its user mode.
pub const CR1: Field = field(4992, 2720);
/// `vcpu_guest_context.ctrlreg[3]`.
pub const CR3: Field = field(5008, 2728);

/// `shared_info.arch.max_pfn`.
pub const MAX_PFN: Field = field(3088, 2316);
/// `shared_info.arch.pfn_to_mfn_frame_list_list`.
pub const FRAME_LIST_LIST: Field = field(3096, 2320);
/// `shared_info.arch.p2m_cr3`.
pub const P2M_CR3: Field = field(3112, 2328);
/// `shared_info.arch.p2m_vaddr`.
pub const P2M_VADDR: Field = field(3120, 2332);
/// `shared_info.arch.p2m_generation`.
pub const P2M_GENERATION: Field = field(3128, 2336);
/// `shared_info.evtchn_pending` and `.evtchn_mask`, one behind the other, and the clock behind them.
pub const PENDING: Field = field(2048, 2048);
/// As above.
pub const MASK: Field = field(2560, 2176);
/// As above: the wall clock, which is the host's.
pub const CLOCK: Field = field(3072, 2304);
/// The end of `shared_info.arch`.
pub const ARCH_END: Field = field(3136, 2344);
/// `vcpu_info.evtchn_pending_sel`, in each of the slots.
pub const PENDING_SEL: Field = field(8, 4);
/// Bytes of a slot of `shared_info.vcpu_info`.
pub const VCPU_SLOT: usize = 64;

/// `start_info.nr_pages`, behind the magic.
pub const NR_PAGES: Field = field(32, 32);
/// `start_info.shared_info`: an address.
pub const SHARED_INFO: Field = field(40, 36);
/// `start_info.flags`, of 32 bits in either width.
pub const START_FLAGS: Field = field(48, 40);
/// `start_info.store_mfn`.
pub const STORE_MFN: Field = field(56, 44);
/// `start_info.store_evtchn`, of 32 bits in either width.
pub const STORE_EVTCHN: Field = field(64, 48);
/// `start_info.console.domU.mfn`.
pub const CONSOLE_MFN: Field = field(72, 52);
/// `start_info.console.domU.evtchn`, of 32 bits in either width.
pub const CONSOLE_EVTCHN: Field = field(80, 56);

/// The first word of an array.
pub const fn word() -> Field {
    field(0, 0)
}

impl Field {
    /// Where it is, in bytes.
    pub const fn offset(self, width: Width) -> usize {
        match width {
            Width::Bits64 => self.at64,
            Width::Bits32 => self.at32,
        }
    }

    /// The word `index` words behind it.
    pub const fn nth(self, index: usize) -> Field {
        Field { at64: self.at64 + 8 * index, at32: self.at32 + 4 * index }
    }

    /// Its value; 0 beyond the structure's end.
    pub fn get(self, structure: &[u8], width: Width) -> u64 {
        let bytes = structure.get(self.offset(width)..).unwrap_or_default();
        match width {
            Width::Bits64 => bytes.get(..8).map_or(0, LittleEndian::read_u64),
            Width::Bits32 => bytes.get(..4).map_or(0, LittleEndian::read_u32).into(),
        }
    }

    /// Sets it, as much of the value as it holds.
    pub fn set(self, structure: &mut [u8], width: Width, value: u64) {
        self.set_bytes(structure, width, &value.to_le_bytes()[..width.bytes()]);
    }

    /// Sets a field that has 32 bits in either width.
    pub fn set_u32(self, structure: &mut [u8], width: Width, value: u32) {
        self.set_bytes(structure, width, &value.to_le_bytes());
    }

    fn set_bytes(self, structure: &mut [u8], width: Width, bytes: &[u8]) {
        let start = self.offset(width);
        if let Some(place) = structure.get_mut(start..start + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}

/// The frame in a CR3. A 32-bit guest's has the frame's upper bits where the lower twelve are.
pub const fn cr3_frame(cr3: u64, width: Width) -> u64 {
    match width {
        Width::Bits64 => cr3 >> 12,
        Width::Bits32 => ((cr3 >> 12) | (cr3 << 20)) & 0xffff_ffff,
    }
}

/// A CR3 with a frame. `None` where a 32-bit guest's cannot hold it.
pub const fn frame_cr3(frame: u64, width: Width) -> Option<u64> {
    match width {
        Width::Bits64 => Some(frame << 12),
        Width::Bits32 if frame > 0xffff_ffff => None,
        Width::Bits32 => Some(((frame << 12) | (frame >> 20)) & 0xffff_ffff),
    }
}

/// An entry of a guest's p2m; `None` where it names no frame.
pub const fn p2m_entry(entry: u64, width: Width) -> Option<u64> {
    let invalid = match width {
        Width::Bits64 => u64::MAX,
        Width::Bits32 => 0xffff_ffff,
    };
    if entry == invalid { None } else { Some(entry) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::pv_vcpu::Basic;
    use crate::decode::shared_info::SharedInfo;
    use serde_json::Value;

    const WIDTHS: [Width; 2] = [Width::Bits64, Width::Bits32];

    fn changed(before: &Value, after: &Value) -> Vec<String> {
        let fields = after.as_object().unwrap().iter();
        fields.filter(|(key, value)| before.get(key.as_str()) != Some(value)).map(|(key, _)| key.clone()).collect()
    }

    #[test]
    fn the_fields_are_where_the_decoders_have_them() {
        for width in WIDTHS {
            let size = if width == Width::Bits64 { CONTEXT_64 } else { CONTEXT_32 };
            let context = |blob: &[u8]| serde_json::to_value(Basic::decode(blob, width).unwrap()).unwrap();
            let zero = context(&vec![0; size]);
            for (field, name) in [
                (FLAGS, "flags"),
                (EDX, "user_regs"),
                (GDT_FRAMES.nth(15), "gdt_frames"),
                (GDT_ENTS, "gdt_ents"),
                (CR1, "ctrlreg"),
                (CR3, "ctrlreg"),
            ] {
                let mut blob = vec![0; size];
                field.set(&mut blob, width, 0x1000);
                assert_eq!(field.get(&blob, width), 0x1000);
                assert_eq!(changed(&zero, &context(&blob)), [name], "{width:?}");
            }
            let mut blob = vec![0; size];
            EDX.set(&mut blob, width, 0x77);
            let register = if width == Width::Bits64 { "rdx" } else { "edx" };
            assert!(context(&blob)["user_regs"][register] != zero["user_regs"][register]);
            let page = |page: &[u8]| serde_json::to_value(SharedInfo::decode(page, width).unwrap()).unwrap();
            let zero = page(&[0; 4096]);
            for (field, name) in [
                (MAX_PFN, "max_pfn"),
                (FRAME_LIST_LIST, "pfn_to_mfn_frame_list_list"),
                (P2M_CR3, "p2m_cr3"),
                (P2M_VADDR, "p2m_vaddr"),
                (P2M_GENERATION, "p2m_generation"),
                (PENDING, "evtchn_pending"),
                (MASK, "evtchn_mask"),
                (CLOCK, "wc_version"),
                (PENDING_SEL, "vcpu_info"),
            ] {
                let mut bytes = [0; 4096];
                field.set_u32(&mut bytes, width, 1);
                assert_eq!(changed(&zero, &page(&bytes)), [name], "{width:?}");
            }
            let mut end = [0; 4096];
            end[ARCH_END.offset(width) - 1] = 1;
            let last = if width == Width::Bits64 { "p2m_generation" } else { "wc_sec_hi" };
            assert_eq!(changed(&zero, &page(&end)), [last]);
        }
    }

    #[test]
    fn frames_in_cr3_come_out_as_they_went_in() {
        for (frame, width, cr3) in [
            (0x12_3456, Width::Bits64, Some(0x1_2345_6000)),
            (0x12_3456, Width::Bits32, Some(0x2345_6001)),
            (1 << 32, Width::Bits32, None),
        ] {
            assert_eq!(frame_cr3(frame, width), cr3);
            assert!(cr3.is_none_or(|cr3| cr3_frame(cr3, width) == frame));
        }
    }
}
