//! HVM_PARAMS and X86_TSC_INFO.
//!
//! Source: `hvm_set_param` in `xen/arch/x86/hvm/hvm.c`, `tsc_set_info` in `xen/arch/x86/time.c`, `handle_hvm_params` in
//! `tools/libs/guest`.

use super::ContentProblem;
use crate::decode::hvm_params::hvm_param_name;
use crate::libxc::{HvmParams, TscInfo};

/// One more than the highest number that Xen up to 4.22 has.
const NR_PARAMS: u64 = 39;
/// A frame that no guest has: the highest of 52 bits of physical address.
const MAX_FRAME: u64 = (1 << 40) - 1;

const STORE_PFN: u64 = 1;
const IOREQ_PFN: u64 = 5;
const BUFIOREQ_PFN: u64 = 6;
const VIRIDIAN: u64 = 9;
const TIMER_MODE: u64 = 10;
const IDENT_PT: u64 = 12;
const ACPI_S_STATE: u64 = 14;
const CONSOLE_PFN: u64 = 17;
const NR_IOREQ_SERVER_PAGES: u64 = 33;
const X87_FIP_WIDTH: u64 = 36;
const VM86_TSS_SIZED: u64 = 37;
/// Bytes of a TSS of 32 bits, which the guest's must have room for.
const TSS32: u64 = 104;

/// The parameters that a restored guest needs to be reached by.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rings {
    store: bool,
    console: bool,
}

impl Rings {
    /// Takes a record of parameters.
    pub(super) fn take(&mut self, params: &HvmParams<'_>, report: &mut dyn FnMut(ContentProblem)) {
        for param in params.params() {
            let (index, value) = (param.index, param.value);
            match index {
                STORE_PFN => self.store = true,
                CONSOLE_PFN => self.console = true,
                _ => {}
            }
            let Some(name) = hvm_param_name(index).filter(|_| index < NR_PARAMS) else {
                if index >= NR_PARAMS {
                    report(ContentProblem::ParamUnknown { index, value });
                }
                continue;
            };
            if let Some(why) = refused(index, value) {
                report(ContentProblem::ParamValue { name, value, why });
            } else if let Some(why) = odd(index, value) {
                report(ContentProblem::ParamOdd { name, value, why });
            }
        }
    }

    /// What is missing at the end of an image.
    pub(super) fn end(self, report: &mut dyn FnMut(ContentProblem)) {
        for (there, missing, service) in
            [(self.store, "STORE_PFN", "xenstore"), (self.console, "CONSOLE_PFN", "its console")]
        {
            if !there {
                report(ContentProblem::ParamMissing { missing, service });
            }
        }
    }
}

const fn refused(index: u64, value: u64) -> Option<&'static str> {
    match index {
        TIMER_MODE if value > 3 => Some("there are modes 0 to 3"),
        VIRIDIAN if value & 1 == 0 => Some("bit 0 (base_freq) is not set"),
        ACPI_S_STATE if value != 0 && value != 3 => Some("there are S0 and S3"),
        NR_IOREQ_SERVER_PAGES if value == 0 || value > 64 => Some("there are 1 to 64"),
        X87_FIP_WIDTH if value != 0 && value != 4 && value != 8 => Some("there are 0, 4 and 8"),
        VM86_TSS_SIZED if value >> 32 < TSS32 => Some("its size is less than 104 bytes"),
        _ => None,
    }
}

const fn odd(index: u64, value: u64) -> Option<&'static str> {
    match index {
        STORE_PFN | CONSOLE_PFN | IOREQ_PFN | BUFIOREQ_PFN if value > MAX_FRAME => {
            Some("no guest has such a frame: it is cut off from whoever serves it")
        }
        STORE_PFN | CONSOLE_PFN if value == 0 => Some("the guest is cut off from whoever serves it"),
        IDENT_PT if value & 0xfff != 0 => {
            Some("not on a page: a guest without paging fails on a CPU without unrestricted guest mode")
        }
        _ => None,
    }
}

/// The mode of the time stamp counter.
pub(super) fn tsc(tsc: &TscInfo, report: &mut dyn FnMut(ContentProblem)) {
    match tsc.mode {
        0..=2 => {}
        3 => report(ContentProblem::TscModePvrdtscp),
        mode => report(ContentProblem::TscMode(mode)),
    }
}
