//! HVM_PARAMS: parameters by name, with the values that mean something spelled out.
//!
//! Source: `xen/include/public/hvm/params.h`, older releases of it for the numbers that are no
//! longer in use.

use serde::Serialize;

use super::bits::{Bits, register_bits};
use super::error::DecodeError;
use super::hex::{Hex, Hex8, Hex16, Hex64};
use super::wire::{Wire, parse_array, parse_at};

/// What a parameter's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Callback,
    Pfn,
    Evtchn,
    Bool,
    Viridian,
    TimerMode,
    AcpiState,
    Shutdown,
    Altp2m,
    TssSized,
    Number,
    Address,
    McaCap,
}

/// Name and kind per index.
const PARAMS: &[(&str, Kind)] = &[
    ("CALLBACK_IRQ", Kind::Callback),
    ("STORE_PFN", Kind::Pfn),
    ("STORE_EVTCHN", Kind::Evtchn),
    ("", Kind::Number),
    ("PAE_ENABLED", Kind::Bool),
    ("IOREQ_PFN", Kind::Pfn),
    ("BUFIOREQ_PFN", Kind::Pfn),
    ("NVRAM_FD", Kind::Number),
    ("VHPT_SIZE", Kind::Number),
    ("VIRIDIAN", Kind::Viridian),
    ("TIMER_MODE", Kind::TimerMode),
    ("HPET_ENABLED", Kind::Bool),
    ("IDENT_PT", Kind::Address),
    ("DM_DOMAIN", Kind::Number),
    ("ACPI_S_STATE", Kind::AcpiState),
    ("VM86_TSS", Kind::Address),
    ("VPT_ALIGN", Kind::Bool),
    ("CONSOLE_PFN", Kind::Pfn),
    ("CONSOLE_EVTCHN", Kind::Evtchn),
    ("ACPI_IOPORTS_LOCATION", Kind::Number),
    ("MEMORY_EVENT_CR0", Kind::Number),
    ("MEMORY_EVENT_CR3", Kind::Number),
    ("MEMORY_EVENT_CR4", Kind::Number),
    ("MEMORY_EVENT_INT3", Kind::Number),
    ("NESTEDHVM", Kind::Bool),
    ("MEMORY_EVENT_SINGLE_STEP", Kind::Number),
    ("BUFIOREQ_EVTCHN", Kind::Evtchn),
    ("PAGING_RING_PFN", Kind::Pfn),
    ("MONITOR_RING_PFN", Kind::Pfn),
    ("SHARING_RING_PFN", Kind::Pfn),
    ("MEMORY_EVENT_MSR", Kind::Number),
    ("TRIPLE_FAULT_REASON", Kind::Shutdown),
    ("IOREQ_SERVER_PFN", Kind::Pfn),
    ("NR_IOREQ_SERVER_PAGES", Kind::Number),
    ("VM_GENERATION_ID_ADDR", Kind::Address),
    ("ALTP2M", Kind::Altp2m),
    ("X87_FIP_WIDTH", Kind::Number),
    ("VM86_TSS_SIZED", Kind::TssSized),
    ("MCA_CAP", Kind::McaCap),
];

/// Name of a parameter, without `HVM_PARAM_`.
pub fn hvm_param_name(index: u64) -> Option<&'static str> {
    let (name, _) = PARAMS.get(usize::try_from(index).ok()?)?;
    (!name.is_empty()).then_some(*name)
}

register_bits! {
    /// HVM_PARAM_VIRIDIAN, names as the `HVMPV_` constants.
    Viridian {
        0 "base_freq", 1 "no_freq", 2 "time_ref_count", 3 "reference_tsc",
        4 "hcall_remote_tlb_flush", 5 "apic_assist", 6 "crash_ctl", 7 "synic", 8 "stimer",
        9 "hcall_ipi", 10 "ex_processor_masks", 11 "no_vp_limit", 12 "cpu_hotplug",
    }
    /// HVM_PARAM_MCA_CAP.
    McaCap { 0 "lmce" }
}

/// What a parameter's value says.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Meaning {
    /// How vCPU 0 hears of event channels.
    Callback(Callback),
    /// A guest frame number.
    Pfn {
        /// Frame.
        pfn: Hex64,
    },
    /// An event channel port.
    Evtchn {
        /// Port.
        evtchn: u64,
    },
    /// A switch.
    Bool(bool),
    /// A named choice.
    Choice(&'static str),
    /// Hyper-V enlightenments.
    Viridian(Bits<u64, Viridian>),
    /// Machine-check capabilities.
    McaCap(Bits<u64, McaCap>),
    /// A TSS with its size.
    Tss {
        /// Guest physical address.
        address: Hex64,
        /// Bytes.
        size: u64,
    },
    /// A guest physical address.
    Address {
        /// Address.
        address: Hex64,
    },
    /// A plain number.
    Number(u64),
}

/// HVM_PARAM_CALLBACK_IRQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "via", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Callback {
    /// No delivery.
    None,
    /// A global system interrupt.
    Gsi {
        /// GSI number.
        gsi: u64,
    },
    /// A PCI INTx line.
    PciIntx {
        /// PCI segment.
        domain: Hex16,
        /// PCI bus.
        bus: Hex16,
        /// Device (bits 7-3) and function.
        devfn: Hex8,
        /// 0 for INTA.
        intx: u8,
    },
    /// A vector injected into the vCPU.
    Vector {
        /// Vector.
        vector: Hex8,
    },
    /// A type that x86 does not have.
    Unknown {
        /// Bits 63-56.
        kind: u8,
    },
}

impl Callback {
    fn new(value: u64) -> Self {
        match (value, (value >> 56) as u8) {
            (0, _) => Callback::None,
            (_, 0) => Callback::Gsi { gsi: value },
            (_, 1) => Callback::PciIntx {
                domain: Hex((value >> 32) as u16),
                bus: Hex((value >> 16) as u16),
                devfn: Hex((value >> 8) as u8),
                intx: (value & 3) as u8,
            },
            (_, 2) => Callback::Vector { vector: Hex(value as u8) },
            (_, kind) => Callback::Unknown { kind },
        }
    }
}

/// One parameter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HvmParam {
    /// Parameter number.
    pub index: u64,
    /// Name, for a number that is or was in use.
    pub name: Option<&'static str>,
    /// Value as it is in the stream.
    pub value: Hex64,
    /// What the value says; absent for an unknown parameter or a value outside its range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning: Option<Meaning>,
}

impl HvmParam {
    /// Names and explains a parameter.
    pub fn new(index: u64, value: u64) -> Self {
        let name = hvm_param_name(index);
        let kind = usize::try_from(index).ok().and_then(|i| PARAMS.get(i)).map(|(_, kind)| *kind);
        let meaning = match (name, kind) {
            (Some(_), Some(kind)) => meaning(kind, value),
            _ => None,
        };
        HvmParam { index, name, value: Hex(value), meaning }
    }
}

fn meaning(kind: Kind, value: u64) -> Option<Meaning> {
    let choice = |names: &[&'static str]| {
        usize::try_from(value).ok().and_then(|i| names.get(i)).map(|name| Meaning::Choice(name))
    };
    match kind {
        Kind::Callback => Some(Meaning::Callback(Callback::new(value))),
        Kind::Pfn => Some(Meaning::Pfn { pfn: Hex(value) }),
        Kind::Evtchn => Some(Meaning::Evtchn { evtchn: value }),
        Kind::Bool => (value < 2).then_some(Meaning::Bool(value == 1)),
        Kind::Viridian => Some(Meaning::Viridian(Bits::new(value))),
        Kind::McaCap => Some(Meaning::McaCap(Bits::new(value))),
        Kind::TimerMode => choice(&[
            "delay_for_missed_ticks",
            "no_delay_for_missed_ticks",
            "no_missed_ticks_pending",
            "one_missed_tick_pending",
        ]),
        Kind::AcpiState => choice(&["S0", "S1", "S2", "S3", "S4", "S5"]),
        Kind::Shutdown => choice(&["poweroff", "reboot", "suspend", "crash", "watchdog", "soft_reset"]),
        Kind::Altp2m => choice(&["disabled", "mixed", "external", "limited"]),
        Kind::TssSized => Some(Meaning::Tss { address: Hex(value & 0xffff_ffff), size: value >> 32 }),
        Kind::Address => Some(Meaning::Address { address: Hex(value) }),
        Kind::Number => Some(Meaning::Number(value)),
    }
}

/// Decodes an array of `{u64 index, u64 value}`, the part of HVM_PARAMS behind its two leading
/// words. An empty array is legal.
///
/// # Errors
/// [`DecodeError::NotMultiple`] where the length is not a multiple of 16.
pub fn decode_hvm_param_pairs(blob: &[u8]) -> Result<Vec<HvmParam>, DecodeError> {
    pairs(blob, 0)
}

fn pairs(blob: &[u8], offset: usize) -> Result<Vec<HvmParam>, DecodeError> {
    Ok(parse_array::<Pair>("HVM_PARAMS", blob, offset)?.iter().map(|p| HvmParam::new(p.0, p.1)).collect())
}

/// Decodes the body of HVM_PARAMS: `u32 count, u32 reserved`, and `count` pairs.
///
/// # Errors
/// A body under 8 bytes, a count that promises more than there is, or a length that is not that
/// of whole pairs. More pairs than `count` says are not given out, as a receiver does not read
/// them.
pub fn decode_hvm_params(body: &[u8]) -> Result<Vec<HvmParam>, DecodeError> {
    if body.len() < 8 {
        return Err(DecodeError::TooShort { what: "HVM_PARAMS", offset: 0, needed: 8, got: body.len() });
    }
    let (_, count) = parse_at::<u32>("HVM_PARAMS.count", body, 0)?;
    let mut params = pairs(body, 8)?;
    let wanted = count as usize;
    if params.len() < wanted {
        return Err(DecodeError::CountTooLarge {
            what: "HVM_PARAMS",
            offset: 8,
            count: count.into(),
            needed: u64::from(count) * Pair::SIZE as u64,
            got: body.len() - 8,
        });
    }
    params.truncate(wanted);
    Ok(params)
}

struct Pair(u64, u64);

impl Wire for Pair {
    const SIZE: usize = 16;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (input, index) = u64::parse(input)?;
        let (input, value) = u64::parse(input)?;
        Some((input, Pair(index, value)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        self.0.emit(out);
        self.1.emit(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn shown(index: u64, value: u64) -> serde_json::Value {
        serde_json::to_value(HvmParam::new(index, value)).unwrap()
    }

    #[test]
    fn names_lie_at_their_numbers() {
        let known = [
            (0, "CALLBACK_IRQ"),
            (1, "STORE_PFN"),
            (9, "VIRIDIAN"),
            (13, "DM_DOMAIN"),
            (19, "ACPI_IOPORTS_LOCATION"),
            (26, "BUFIOREQ_EVTCHN"),
            (31, "TRIPLE_FAULT_REASON"),
            (34, "VM_GENERATION_ID_ADDR"),
            (38, "MCA_CAP"),
        ];
        known.iter().for_each(|(index, name)| assert_eq!(hvm_param_name(*index), Some(*name)));
        assert_eq!(PARAMS.len(), 39);
        assert_eq!(hvm_param_name(3), None);
        assert_eq!(hvm_param_name(39), None);
        assert_eq!(hvm_param_name(u64::MAX), None);
    }

    #[test]
    fn values_tell_what_they_mean() {
        assert_eq!(shown(0, 0)["meaning"], json!({"via": "none"}));
        assert_eq!(shown(0, 28)["meaning"], json!({"via": "gsi", "gsi": 28}));
        assert_eq!(shown(0, 0x0200_0000_0000_00f3)["meaning"], json!({"via": "vector", "vector": "0xf3"}));
        assert_eq!(
            shown(0, 0x0100_0001_0002_1801)["meaning"],
            json!({"via": "pci_intx", "domain": "0x1", "bus": "0x2", "devfn": "0x18", "intx": 1})
        );
        assert_eq!(shown(0, 9 << 56)["meaning"], json!({"via": "unknown", "kind": 9}));
        assert_eq!(shown(1, 0xfeffc)["meaning"], json!({"pfn": "0xfeffc"}));
        assert_eq!(
            shown(9, 0x2d)["meaning"]["set"],
            json!(["base_freq", "time_ref_count", "reference_tsc", "apic_assist"])
        );
        assert_eq!(shown(10, 1)["meaning"], "no_delay_for_missed_ticks");
        assert_eq!(shown(11, 1)["meaning"], true);
        assert_eq!(shown(14, 3)["meaning"], "S3");
        assert_eq!(shown(31, 1)["meaning"], "reboot");
        assert_eq!(shown(37, 0x80_fc00_2000)["meaning"], json!({"address": "0xfc002000", "size": 128}));
    }

    #[test]
    fn what_is_not_known_has_no_meaning() {
        assert_eq!(shown(99, 5), json!({"index": 99, "name": null, "value": "0x5"}));
        assert!(shown(10, 4).get("meaning").is_none());
        assert!(shown(11, 2).get("meaning").is_none());
    }

    #[test]
    fn bodies_count_their_pairs() {
        let mut body = vec![1, 0, 0, 0, 0, 0, 0, 0];
        for value in [1u64, 0xfeffc, 2, 3] {
            body.extend_from_slice(&value.to_le_bytes());
        }
        assert_eq!(decode_hvm_params(&body).unwrap(), [HvmParam::new(1, 0xfeffc)]);
        assert_eq!(decode_hvm_param_pairs(&body[8..]).unwrap().len(), 2);
        body[0] = 3;
        assert_eq!(
            decode_hvm_params(&body),
            Err(DecodeError::CountTooLarge { what: "HVM_PARAMS", offset: 8, count: 3, needed: 48, got: 32 })
        );
        assert_eq!(
            decode_hvm_params(&body[..30]),
            Err(DecodeError::NotMultiple { what: "HVM_PARAMS", offset: 8, length: 22, unit: 16 })
        );
        assert!(decode_hvm_params(&body[..7]).is_err());
    }

    proptest! {
        #[test]
        fn any_parameter_serialises(index in prop_oneof![0u64..45, any::<u64>()], value: u64) {
            prop_assert!(serde_json::to_string(&HvmParam::new(index, value)).is_ok());
        }

        #[test]
        fn any_body_is_safe(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(params) = decode_hvm_params(&body) {
                prop_assert!(params.len() * 16 + 8 <= body.len());
            }
        }
    }
}
