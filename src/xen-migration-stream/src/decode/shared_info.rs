//! SHARED_INFO: the page that Xen and a PV guest share.
//!
//! Source: `struct shared_info`, `struct vcpu_info`, `struct vcpu_time_info` in
//! `xen/include/public/xen.h`; `struct arch_shared_info` in `xen/include/public/arch-x86/xen.h`;
//! `struct arch_vcpu_info` in `xen-x86_64.h` and `xen-x86_32.h` beside it.

use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};

use super::bits::{Bits, register_bits};
use super::error::DecodeError;
use super::hex::{Hex32, Hex64, Reserved};
use super::wire::{Blob, Table, Wire, layout};

/// vCPUs that have a slot in the page (`XEN_LEGACY_MAX_VCPUS`).
pub const LEGACY_MAX_VCPUS: usize = 32;

register_bits! {
    /// `vcpu_time_info.flags`.
    PvClockFlags { 0 "tsc_stable", 1 "guest_stopped" }
}

layout! {
    /// `struct vcpu_time_info`: a vCPU's clock.
    pub struct VcpuTime = "vcpu_time_info" {
        /// Odd while Xen updates the rest.
        version: u32,
        pad0: Reserved<4>,
        /// TSC at the last update.
        tsc_timestamp: Hex64,
        /// Nanoseconds since boot at the last update.
        system_time: u64,
        tsc_to_system_mul: Hex32,
        tsc_shift: i8,
        flags: Bits<u8, PvClockFlags>,
        pad1: Reserved<2>,
    }
}

layout! {
    /// `struct vcpu_info` of a 64-bit guest.
    pub struct VcpuInfo64 = "vcpu_info" {
        evtchn_upcall_pending: u8,
        evtchn_upcall_mask: u8,
        pad0: Reserved<6>,
        /// Which words of the pending bitmap to look at.
        evtchn_pending_sel: Hex64,
        cr2: Hex64,
        pad1: Reserved<8>,
        time: VcpuTime,
    }
}

layout! {
    /// `struct vcpu_info` of a 32-bit guest.
    pub struct VcpuInfo32 = "vcpu_info" {
        evtchn_upcall_pending: u8,
        evtchn_upcall_mask: u8,
        pad0: Reserved<2>,
        /// Which words of the pending bitmap to look at.
        evtchn_pending_sel: Hex32,
        cr2: Hex32,
        pad1: Reserved<20>,
        time: VcpuTime,
    }
}

/// The vCPU slots of the page; JSON lists those in use, with their number as `vcpu`.
#[derive(Debug, Clone, PartialEq)]
pub struct VcpuSlots<T>(pub Table<T, LEGACY_MAX_VCPUS>);

impl<T: Wire> VcpuSlots<T> {
    /// The slots in use: vCPU 0, and those with anything set beside `evtchn_upcall_mask`, which Xen
    /// sets in every slot when it makes the page.
    pub fn used(&self) -> impl Iterator<Item = (usize, &T)> {
        self.0.iter().enumerate().filter(|(vcpu, slot)| {
            let mut bytes = Vec::with_capacity(T::SIZE);
            slot.emit(&mut bytes);
            *vcpu == 0 || bytes.iter().enumerate().any(|(at, byte)| at != UPCALL_MASK && *byte != 0)
        })
    }
}

/// Offset of `evtchn_upcall_mask` in `vcpu_info`, the same in both widths.
const UPCALL_MASK: usize = 1;

impl<T: Wire + Serialize> Serialize for VcpuSlots<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Slot<'a, T> {
            vcpu: usize,
            #[serde(flatten)]
            info: &'a T,
        }
        let mut seq = s.serialize_seq(None)?;
        for (vcpu, info) in self.used() {
            seq.serialize_element(&Slot { vcpu, info })?;
        }
        seq.end()
    }
}

impl<T: Wire> Wire for VcpuSlots<T> {
    const SIZE: usize = Table::<T, LEGACY_MAX_VCPUS>::SIZE;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, slots) = Table::parse(input)?;
        Some((rest, VcpuSlots(slots)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        self.0.emit(out);
    }
}

/// A bitmap of event channel ports, `N` bytes; JSON gives the number of ports set and their
/// inclusive ranges, so that a fully masked bitmap stays one line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ports<const N: usize>(pub [u8; N]);

impl<const N: usize> Ports<N> {
    /// Whether a port's bit is set; false beyond the bitmap.
    pub fn contains(&self, port: usize) -> bool {
        self.0.get(port / 8).is_some_and(|byte| byte >> (port % 8) & 1 == 1)
    }

    /// The ports that are set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..N * 8).filter(|port| self.contains(*port))
    }

    /// The ports that are set, as inclusive ranges.
    pub fn ranges(&self) -> Vec<(usize, usize)> {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for port in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == port => *last = port,
                _ => ranges.push((port, port)),
            }
        }
        ranges
    }
}

impl<const N: usize> std::fmt::Debug for Ports<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.ranges().fmt(f)
    }
}

impl<const N: usize> Serialize for Ports<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View {
            count: usize,
            ranges: Vec<(usize, usize)>,
        }
        View { count: self.iter().count(), ranges: self.ranges() }.serialize(s)
    }
}

impl<const N: usize> Wire for Ports<N> {
    const SIZE: usize = N;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, bytes) = super::hex::take_array(input)?;
        Some((rest, Ports(bytes)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

layout! {
    /// `struct shared_info` of a 64-bit guest, followed by the rest of its page.
    pub struct SharedInfo64 = "SHARED_INFO" {
        vcpu_info: VcpuSlots<VcpuInfo64>,
        evtchn_pending: Ports<512>,
        evtchn_mask: Ports<512>,
        /// Odd while Xen updates the wall clock.
        wc_version: u32,
        /// Wall clock at boot: seconds since 1970, low half.
        wc_sec: u32,
        /// Wall clock at boot: nanoseconds.
        wc_nsec: u32,
        /// Wall clock at boot: seconds, high half.
        wc_sec_hi: u32,
        /// Entries in the p2m.
        max_pfn: Hex64,
        /// Root of the three-level p2m tree.
        pfn_to_mfn_frame_list_list: Hex64,
        nmi_reason: Hex64,
        /// Address space that `p2m_vaddr` is in; 0 for none.
        p2m_cr3: Hex64,
        /// Linear p2m.
        p2m_vaddr: Hex64,
        /// Counts changes of the p2m's mappings, odd during one.
        p2m_generation: u64,
        /// The rest of the page, where Xen has nothing.
        rest: Reserved<960>,
    }
}

layout! {
    /// `struct shared_info` of a 32-bit guest, followed by the rest of its page.
    pub struct SharedInfo32 = "SHARED_INFO" {
        vcpu_info: VcpuSlots<VcpuInfo32>,
        evtchn_pending: Ports<128>,
        evtchn_mask: Ports<128>,
        /// Odd while Xen updates the wall clock.
        wc_version: u32,
        /// Wall clock at boot: seconds since 1970, low half.
        wc_sec: u32,
        /// Wall clock at boot: nanoseconds.
        wc_nsec: u32,
        /// Entries in the p2m.
        max_pfn: Hex32,
        /// Root of the three-level p2m tree.
        pfn_to_mfn_frame_list_list: Hex32,
        nmi_reason: Hex32,
        /// Address space that `p2m_vaddr` is in; 0 for none.
        p2m_cr3: Hex32,
        /// Linear p2m.
        p2m_vaddr: Hex32,
        /// Counts changes of the p2m's mappings, odd during one.
        p2m_generation: u32,
        /// Wall clock at boot: seconds, high half.
        wc_sec_hi: u32,
        /// The rest of the page, where Xen has nothing.
        rest: Reserved<1752>,
    }
}

/// Width of a PV guest, as X86_PV_INFO says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Width {
    /// 32-bit PAE guest, `guest_width` 4.
    Bits32,
    /// 64-bit guest, `guest_width` 8.
    Bits64,
}

impl Width {
    /// From X86_PV_INFO's `guest_width`.
    pub fn from_bytes(bytes: u8) -> Option<Width> {
        match bytes {
            4 => Some(Width::Bits32),
            8 => Some(Width::Bits64),
            _ => None,
        }
    }

    /// Bytes of a guest word, as X86_PV_INFO has it.
    pub const fn bytes(self) -> usize {
        match self {
            Width::Bits32 => 4,
            Width::Bits64 => 8,
        }
    }

    /// Levels of the guest's page tables.
    pub const fn levels(self) -> u8 {
        match self {
            Width::Bits32 => 3,
            Width::Bits64 => 4,
        }
    }
}

/// A decoded page.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum SharedInfo {
    /// Of a 64-bit guest.
    Bits64(Box<SharedInfo64>),
    /// Of a 32-bit guest.
    Bits32(Box<SharedInfo32>),
}

impl SharedInfo {
    /// Decodes a page in the layout of the guest's width.
    ///
    /// # Errors
    /// [`DecodeError::TooShort`] under 4096 bytes; [`DecodeError::BadLength`] above.
    pub fn decode(page: &[u8], width: Width) -> Result<SharedInfo, DecodeError> {
        let (info, extra) = match width {
            Width::Bits64 => {
                SharedInfo64::decode(page).map(|(info, extra)| (SharedInfo::Bits64(Box::new(info)), extra))?
            }
            Width::Bits32 => {
                SharedInfo32::decode(page).map(|(info, extra)| (SharedInfo::Bits32(Box::new(info)), extra))?
            }
        };
        if extra != 0 {
            return Err(DecodeError::BadLength {
                what: "SHARED_INFO",
                offset: 0,
                length: page.len(),
                accepted: "4096",
            });
        }
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page() -> Vec<u8> {
        (0..4096usize).map(|i| (i * 31 + i / 256) as u8).collect()
    }

    #[test]
    fn both_layouts_fill_the_page() {
        assert_eq!((SharedInfo64::SIZE, SharedInfo32::SIZE), (4096, 4096));
        assert_eq!((VcpuInfo64::SIZE, VcpuInfo32::SIZE, VcpuTime::SIZE), (64, 64, 32));
        let (wide, _) = SharedInfo64::decode(&page()).unwrap();
        assert_eq!(wide.encode(), page());
        let (narrow, _) = SharedInfo32::decode(&page()).unwrap();
        assert_eq!(narrow.encode(), page());
    }

    fn shown<T: Blob + Serialize>(blob: &[u8]) -> serde_json::Value {
        serde_json::to_value(T::decode(blob).unwrap().0).unwrap()
    }

    #[test]
    fn fields_lie_where_a_c_compiler_puts_them() {
        use crate::decode::c_offsets as c;
        c::check(4096, c::SHARED_INFO, shown::<SharedInfo64>);
        c::check(4096, c::SHARED_INFO_32, shown::<SharedInfo32>);
        c::check(64, c::VCPU_INFO, shown::<VcpuInfo64>);
        c::check(64, c::VCPU_INFO_32, shown::<VcpuInfo32>);
        c::check(32, c::VCPU_TIME, shown::<VcpuTime>);
    }

    #[test]
    fn fields_lie_at_their_c_offsets() {
        let mut page = vec![0u8; 4096];
        (0..32).for_each(|vcpu| page[vcpu * 64 + 1] = 1);
        page[64] = 1;
        page[64 + 8] = 2;
        page[64 + 32 + 16] = 9;
        page[64 + 32 + 28] = 0xff;
        page[2048] = 0b110;
        page[2560..3072].fill(0xff);
        page[3072 + 4] = 77;
        page[3088] = 5;
        page[3112] = 0xab;
        let SharedInfo::Bits64(info) = SharedInfo::decode(&page, Width::Bits64).unwrap() else { panic!() };
        let json = serde_json::to_value(&info).unwrap();
        assert_eq!(json["vcpu_info"].as_array().unwrap().len(), 2);
        let slot = &json["vcpu_info"][1];
        assert_eq!((&slot["vcpu"], &slot["evtchn_upcall_pending"]), (&1.into(), &1.into()));
        assert_eq!(slot["evtchn_pending_sel"], "0x2");
        assert_eq!((&slot["time"]["system_time"], &slot["time"]["tsc_shift"]), (&9.into(), &(-1).into()));
        assert_eq!(json["evtchn_pending"], serde_json::json!({"count": 2, "ranges": [[1, 2]]}));
        assert_eq!(json["evtchn_mask"], serde_json::json!({"count": 4096, "ranges": [[0, 4095]]}));
        assert_eq!((info.wc_sec, info.max_pfn.0, info.p2m_cr3.0), (77, 5, 0xab));
        assert!(json.get("rest").is_none());
    }

    #[test]
    fn the_32_bit_layout_differs() {
        let mut page = vec![0u8; 4096];
        page[4] = 3;
        page[2048 + 127] = 0x80;
        page[2304 + 12] = 8;
        page[2304 + 36] = 1;
        let SharedInfo::Bits32(info) = SharedInfo::decode(&page, Width::Bits32).unwrap() else { panic!() };
        assert_eq!(info.vcpu_info.0[0].evtchn_pending_sel.0, 3);
        assert_eq!(info.evtchn_pending.ranges(), [(1023, 1023)]);
        assert_eq!((info.max_pfn.0, info.wc_sec_hi), (8, 1));
    }

    #[test]
    fn only_a_page_is_a_page() {
        for width in [Width::Bits32, Width::Bits64] {
            (0..4096).for_each(|len| assert!(SharedInfo::decode(&page()[..len], width).is_err()));
            assert_eq!(
                SharedInfo::decode(&[0; 4097], width).unwrap_err().to_string(),
                "SHARED_INFO at offset 0: length 4097 is no known layout (4096)"
            );
        }
        assert_eq!(Width::from_bytes(8), Some(Width::Bits64));
        assert_eq!(Width::from_bytes(5), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn any_page_serialises(page in proptest::collection::vec(any::<u8>(), 4096)) {
            for width in [Width::Bits32, Width::Bits64] {
                prop_assert!(serde_json::to_string(&SharedInfo::decode(&page, width).unwrap()).is_ok());
            }
        }
    }
}
