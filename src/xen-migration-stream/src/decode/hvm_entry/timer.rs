//! Clocks and timers: PIT (10), RTC (11), HPET (12), PMTIMER (13), TSC_ADJUST (19).
//!
//! Source: `xen/include/public/arch-x86/hvm/save.h`.

use serde::{Serialize, Serializer};

use crate::decode::bits::{Bits, register_bits};
use crate::decode::hex::{Hex8, Hex16, Hex64, HexBytes, Reserved};
use crate::decode::wire::{Table, Wire, layout};

layout! {
    /// `struct hvm_hw_pit_channel`: one counter of the 8254.
    pub struct PitChannel = "PIT.channel" {
        /// Reload value; 65536 for a programmed 0.
        count: u32,
        latched_count: u16,
        count_latched: u8,
        status_latched: u8,
        status: Hex8,
        read_state: u8,
        write_state: u8,
        write_latch: u8,
        rw_mode: u8,
        mode: u8,
        /// BCD counting, which Xen does not emulate.
        bcd: u8,
        /// Gate input.
        gate: u8,
    }
}

layout! {
    /// `struct hvm_hw_pit`: the 8254 with its three channels.
    pub struct Pit = "PIT" {
        channels: Table<PitChannel, 3>,
        speaker_data_on: u32,
        pad0: Reserved<4>,
    }
}

/// The 14 CMOS bytes of the RTC's clock, alarm and control registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cmos(pub [u8; 14]);

/// The date and time in a [`Cmos`], as the guest reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CmosTime {
    /// Two digits.
    pub year: u8,
    /// 1 to 12.
    pub month: u8,
    /// Day of the month.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

impl Cmos {
    /// Status register A: update in progress, divider, rate.
    pub fn reg_a(&self) -> u8 {
        self.0[10]
    }

    /// Status register B: bit 1 24-hour mode, bit 2 binary (else BCD).
    pub fn reg_b(&self) -> u8 {
        self.0[11]
    }

    /// Date and time; `None` where a byte is no date or time in the mode that register B sets.
    pub fn time(&self) -> Option<CmosTime> {
        let binary = self.reg_b() & 4 != 0;
        let number = |byte: u8| match (binary, byte >> 4, byte & 0xf) {
            (true, ..) => Some(byte),
            (false, tens @ 0..=9, ones @ 0..=9) => Some(tens * 10 + ones),
            _ => None,
        };
        let hour = if self.reg_b() & 2 != 0 {
            number(self.0[4])?
        } else {
            let hour = number(self.0[4] & 0x7f)?;
            match (hour, self.0[4] & 0x80 != 0) {
                (12, false) => 0,
                (12, true) => 12,
                (1..=11, pm) => hour + if pm { 12 } else { 0 },
                _ => return None,
            }
        };
        let time = CmosTime {
            year: number(self.0[9])?,
            month: number(self.0[8])?,
            day: number(self.0[7])?,
            hour,
            minute: number(self.0[2])?,
            second: number(self.0[0])?,
        };
        let valid = time.year < 100
            && (1..=12).contains(&time.month)
            && (1..=31).contains(&time.day)
            && time.hour < 24
            && time.minute < 60
            && time.second < 60;
        valid.then_some(time)
    }
}

impl std::fmt::Display for CmosTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let CmosTime { year, month, day, hour, minute, second } = self;
        write!(f, "{year:02}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }
}

impl Serialize for Cmos {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View {
            /// `yy-mm-dd hh:mm:ss`
            time: Option<String>,
            reg_a: Hex8,
            reg_b: Hex8,
            reg_c: Hex8,
            reg_d: Hex8,
            raw: HexBytes<14>,
        }
        View {
            time: self.time().map(|t| t.to_string()),
            reg_a: crate::decode::hex::Hex(self.0[10]),
            reg_b: crate::decode::hex::Hex(self.0[11]),
            reg_c: crate::decode::hex::Hex(self.0[12]),
            reg_d: crate::decode::hex::Hex(self.0[13]),
            raw: HexBytes(self.0),
        }
        .serialize(s)
    }
}

impl Wire for Cmos {
    const SIZE: usize = 14;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, bytes) = crate::decode::hex::take_array(input)?;
        Some((rest, Cmos(bytes)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

layout! {
    /// `struct hvm_hw_rtc`: 16 bytes before Xen 4.14, 24 since.
    pub struct Rtc = "RTC" {
        cmos: Cmos,
        /// Selected CMOS register.
        cmos_index: u8,
        pad0: Reserved<1>,
    } later {
        /// Seconds that the guest's clock is ahead of the host's.
        rtc_offset: i64,
    }
}

layout! {
    /// One timer of the HPET.
    pub struct HpetTimer = "HPET.timer" {
        /// Configuration and capabilities.
        config: Hex64,
        /// Comparator.
        cmp: Hex64,
        /// FSB route, which Xen does not emulate.
        fsb: Hex64,
        res4: Reserved<8>,
    }
}

register_bits! {
    /// HPET general configuration.
    HpetConfig { 0 "enable", 1 "legacy_route" }
}

layout! {
    /// `struct hvm_hw_hpet`: the register block with three timers, and Xen's hidden state.
    pub struct Hpet = "HPET" {
        capability: Hex64,
        res0: Reserved<8>,
        config: Bits<u64, HpetConfig>,
        res1: Reserved<8>,
        /// Interrupt status.
        isr: Hex64,
        res2: Reserved<200>,
        /// Main counter.
        mc64: Hex64,
        res3: Reserved<8>,
        timers: Table<HpetTimer, 3>,
        res5: Reserved<672>,
        /// Last value written to each comparator.
        period: Table<Hex64, 3>,
    }
}

layout! {
    /// `struct hvm_hw_pmtimer`: the ACPI PM timer and PM1a event block.
    pub struct PmTimer = "PMTIMER" {
        /// 32-bit free-running counter.
        tmr_val: u32,
        pm1a_sts: Hex16,
        pm1a_en: Hex16,
    }
}

layout! {
    /// `struct hvm_tsc_adjust`: the TSC_ADJUST MSR.
    pub struct TscAdjust = "TSC_ADJUST" {
        tsc_adjust: Hex64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::wire::Blob;

    #[test]
    fn sizes_are_those_of_the_c_structures() {
        assert_eq!(PitChannel::SIZE, 16);
        assert_eq!(Pit::SIZE, 56);
        assert_eq!((Rtc::SHORT, Rtc::LONG), (16, 24));
        assert_eq!(Hpet::SIZE, 1024 + 24);
        assert_eq!(PmTimer::SIZE, 8);
    }

    #[test]
    fn cmos_time_in_every_mode() {
        let cmos = |hour, reg_b, digits: [u8; 5]| {
            let [second, minute, day, month, year] = digits;
            Cmos([second, 0, minute, 0, hour, 0, 3, day, month, year, 0x26, reg_b, 0, 0x80])
        };
        let bcd = [0x59, 0x07, 0x21, 0x11, 0x26];
        assert_eq!(cmos(0x23, 2, bcd).time().unwrap().to_string(), "26-11-21 23:07:59");
        assert_eq!(cmos(0x91, 0, bcd).time().unwrap().hour, 23);
        assert_eq!(cmos(0x12, 0, bcd).time().unwrap().hour, 0);
        assert_eq!(cmos(0x92, 0, bcd).time().unwrap().hour, 12);
        assert_eq!(cmos(0x00, 0, bcd).time(), None);
        assert_eq!(cmos(23, 6, [59, 7, 21, 11, 26]).time().unwrap().to_string(), "26-11-21 23:07:59");
        assert_eq!(cmos(0x23, 2, [0x5a, 7, 1, 1, 0]).time(), None);
        assert_eq!(cmos(0x23, 2, [0, 7, 1, 0x13, 0]).time(), None);
    }

    #[test]
    fn rtc_layouts_round_trip() {
        let mut blob: Vec<u8> = (0..24).collect();
        blob[15] = 0;
        let (rtc, extra) = Rtc::decode(&blob).unwrap();
        assert_eq!((rtc.cmos_index, extra), (14, 0));
        assert_eq!(rtc.rtc_offset, Some(0x1716_1514_1312_1110));
        assert_eq!(rtc.encode(), blob);
        let (old, extra) = Rtc::decode(&blob[..16]).unwrap();
        assert_eq!((old.rtc_offset, extra), (None, 0));
        assert_eq!(old.encode(), &blob[..16]);
        assert!(Rtc::decode(&blob[..20]).is_err());
    }

    #[test]
    fn hpet_counter_lies_at_0xf0_and_timers_at_0x100() {
        let mut blob = vec![0u8; Hpet::SIZE];
        blob[0x10] = 1;
        blob[0xf0] = 5;
        blob[0x108] = 6;
        blob[0x400] = 7;
        let (hpet, _) = Hpet::decode(&blob).unwrap();
        assert_eq!(hpet.config.names(), ["enable"]);
        assert_eq!((hpet.mc64.0, hpet.timers[0].cmp.0, hpet.period[0].0), (5, 6, 7));
        assert_eq!(hpet.encode(), blob);
    }
}
