//! Any bytes against every decoder.

use serde::Serialize;
use xen_replicate::decode::cpuid::CpuidPolicy;
use xen_replicate::decode::hvm_context::{Entries, HvmContext};
use xen_replicate::decode::hvm_entry::EntryBody;
use xen_replicate::decode::hvm_params::decode_hvm_params;
use xen_replicate::decode::msr::decode_msrs;
use xen_replicate::decode::pv_vcpu::{Basic, Extended, Xsave, decode_vcpu_msrs};
use xen_replicate::decode::qevm::QemuState;
use xen_replicate::decode::shared_info::{SharedInfo, Width};
use xen_replicate::decode::tsc::TscInfo;
use xen_replicate::decode::wire::Blob;
use xen_replicate::decode::xl_config::XlConfig;

/// HVM context entries have type codes up to 20; one more for an unknown one.
const TYPECODES: u8 = 21;
/// Decoders, single HVM context entries not counted.
const DECODERS: u8 = 13;

/// Decodes `bytes` behind the first, which picks the decoder. What decodes also prints, and what can be encoded gives
/// the bytes that it was decoded from.
pub fn decode(bytes: &[u8]) {
    let Some((&pick, blob)) = bytes.split_first() else { return };
    let width = if pick & 0x80 == 0 { Width::Bits64 } else { Width::Bits32 };
    match pick % (DECODERS + TYPECODES) {
        0 => print(&XlConfig::decode(blob).ok()),
        1 => print(&CpuidPolicy::decode(blob).ok()),
        2 => print(&decode_msrs(blob).ok()),
        3 => encoded::<TscInfo>(blob),
        4 => context(blob),
        5 => print(&decode_hvm_params(blob).ok()),
        6 => print(&SharedInfo::decode(blob, width).ok()),
        7 => {
            if let Ok(basic) = Basic::decode(blob, width) {
                print(&basic);
                assert_eq!(basic.encode(), blob);
            }
        }
        8 => encoded::<Extended>(blob),
        9 => {
            if let Ok(xsave) = Xsave::decode(blob) {
                print(&xsave);
                assert_eq!(xsave.encode(), blob);
            }
        }
        10 => print(&decode_vcpu_msrs(blob).ok()),
        11 => print(&QemuState::decode(blob).ok()),
        12 => print(&SharedInfo::decode(blob, Width::Bits64).ok()),
        typecode => {
            if let Ok(Some((body, extra))) = EntryBody::decode(u16::from(typecode - DECODERS), blob) {
                print(&body);
                assert_eq!(body.encode(), blob[..blob.len() - extra]);
            }
        }
    }
}

fn context(blob: &[u8]) {
    let mut end = 0;
    for entry in Entries::new(blob).flatten() {
        assert_eq!(entry.offset, end);
        end += 8 + entry.data.len();
        assert!(end <= blob.len());
    }
    let context = HvmContext::inspect(blob);
    print(&context);
    let parsed = HvmContext::parse(blob);
    assert_eq!(parsed.is_ok(), context.problems.is_empty());
}

fn encoded<T: Blob + Serialize>(blob: &[u8]) {
    if let Ok((value, extra)) = T::decode(blob) {
        print(&value);
        assert_eq!(value.encode(), blob[..blob.len() - extra]);
    }
}

fn print<T: Serialize>(value: &T) {
    serde_json::to_string(value).unwrap();
}
