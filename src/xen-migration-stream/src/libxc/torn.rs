//! What the part of a record tells that has come before the stream's end.
//!
//! A checkpointed stream that stops has lost its primary, wherever it stops, and the secondary takes over. That must not be said of a
//! record that no primary could have gone on with: it was wrong before the stream ended.
//! What is refused here, [`super::Record::parse`] and the decoder of its body refuse too, whatever follows.

use super::{CpuidPolicy, MsrPolicy, PAGE_SIZE, PvInfo, TscInfo, VcpuRecord, page_data, types};
use crate::error::{BodyError, Problem};
use crate::record::RecordHeader;

/// Judges a record by its header and by the bytes behind it that are there: of its body, and of the padding where the body is whole.
///
/// # Errors
/// What is wrong with it whatever follows.
pub(crate) fn judge(header: RecordHeader, arrived: &[u8]) -> Result<(), Problem> {
    let arrived = &arrived[..arrived.len().min(header.length as usize)];
    #[cfg(feature = "decode")]
    if header.type_id == types::HVM_CONTEXT && header.length > 0 {
        return context(header.length as usize, arrived)
            .map_err(|error| Problem::Content { record: "HVM_CONTEXT", error });
    }
    Ok(body(header, arrived)?)
}

fn body(header: RecordHeader, arrived: &[u8]) -> Result<(), BodyError> {
    let got = u64::from(header.length);
    let exactly = |record, expected| match got == expected {
        true => Ok(()),
        false => Err(BodyError::Size { record, expected, got }),
    };
    let at_least = |record, least| if got < least { Err(BodyError::TooShort { record, least, got }) } else { Ok(()) };
    let multiple = |record, unit, got| match u64::is_multiple_of(got, unit) {
        true => Ok(()),
        false => Err(BodyError::NotMultiple { record, unit, got }),
    };
    let entries = |record, unit| match got {
        0 => Err(BodyError::Empty { record }),
        _ => multiple(record, unit as u64, got),
    };
    match header.type_id {
        types::END => exactly("END", 0),
        types::VERIFY => exactly("VERIFY", 0),
        types::CHECKPOINT => exactly("CHECKPOINT", 0),
        types::STATIC_DATA_END => exactly("STATIC_DATA_END", 0),
        types::PAGE_DATA => page_data::judge(header.length, arrived),
        types::X86_PV_INFO => exactly("X86_PV_INFO", PvInfo::LEN as u64),
        types::X86_PV_P2M_FRAMES => {
            at_least("X86_PV_P2M_FRAMES", 8).and_then(|()| multiple("X86_PV_P2M_FRAMES", 8, got))
        }
        types::X86_PV_VCPU_BASIC => vcpu(VcpuRecord::Basic, got),
        types::X86_PV_VCPU_EXTENDED => vcpu(VcpuRecord::Extended, got),
        types::X86_PV_VCPU_XSAVE => vcpu(VcpuRecord::Xsave, got),
        types::X86_PV_VCPU_MSRS => vcpu(VcpuRecord::Msrs, got),
        types::SHARED_INFO => exactly("SHARED_INFO", PAGE_SIZE as u64),
        types::X86_TSC_INFO => exactly("X86_TSC_INFO", TscInfo::LEN as u64),
        types::HVM_CONTEXT if got == 0 => Err(BodyError::Empty { record: "HVM_CONTEXT" }),
        types::HVM_CONTEXT | types::TOOLSTACK => Ok(()),
        types::HVM_PARAMS => params(got, arrived),
        types::CHECKPOINT_DIRTY_PFN_LIST => multiple("CHECKPOINT_DIRTY_PFN_LIST", 8, got),
        types::X86_CPUID_POLICY => entries("X86_CPUID_POLICY", CpuidPolicy::LEAF),
        types::X86_MSR_POLICY => entries("X86_MSR_POLICY", MsrPolicy::ENTRY),
        _ if header.is_optional() => Ok(()),
        type_id => Err(BodyError::UnknownMandatory { type_id, length: header.length }),
    }
}

fn vcpu(part: VcpuRecord, got: u64) -> Result<(), BodyError> {
    let record = part.name();
    let Some(context) = got.checked_sub(8) else { return Err(BodyError::TooShort { record, least: 8, got }) };
    match part {
        VcpuRecord::Basic if context == 0 => Err(BodyError::Empty { record }),
        VcpuRecord::Xsave if (1..16).contains(&context) => Err(BodyError::TooShort { record, least: 24, got }),
        VcpuRecord::Msrs if context % 16 != 0 => Err(BodyError::NotMultiple { record, unit: 16, got: context }),
        _ => Ok(()),
    }
}

fn params(got: u64, arrived: &[u8]) -> Result<(), BodyError> {
    const RECORD: &str = "HVM_PARAMS";
    if got < 8 {
        return Err(BodyError::TooShort { record: RECORD, least: 8, got });
    }
    let count = arrived.first_chunk().map(|&count| u32::from_le_bytes(count));
    let expected = 8 + u64::from(count.unwrap_or_default()) * 16;
    match count {
        Some(count) if expected > got => {
            Err(BodyError::Count { record: RECORD, count, length: got, room: (got - 8) / 16 })
        }
        Some(_) if expected != got => Err(BodyError::Size { record: RECORD, expected, got }),
        None if got % 16 != 8 => Err(BodyError::NotMultiple { record: RECORD, unit: 16, got: got - 8 }),
        _ => Ok(()),
    }
}

/// A chain of entries of `length` bytes, of which these have arrived.
#[cfg(feature = "decode")]
fn context(length: usize, arrived: &[u8]) -> Result<(), crate::decode::DecodeError> {
    use crate::decode::DecodeError;
    use crate::decode::hvm_context::{DESCRIPTOR, Entries};
    use crate::decode::hvm_entry::{END, EntryBody};
    let mut ended = None;
    for entry in Entries::new(arrived) {
        match entry {
            Ok(entry) => {
                let body = entry.offset + DESCRIPTOR;
                if entry.offset == 0
                    && let Ok(Some((EntryBody::Header(header), _))) = EntryBody::decode(entry.typecode, entry.data)
                {
                    header.check().map_err(|error| error.shifted(body))?;
                }
                ended = (entry.typecode == END).then_some(body + entry.data.len());
            }
            Err(DecodeError::EntryPastEnd { offset, typecode, instance, length: entry, .. }) => {
                let remaining = length.saturating_sub(offset + DESCRIPTOR);
                return match usize::try_from(entry) {
                    Ok(entry) if entry <= remaining => Ok(()),
                    _ => Err(DecodeError::EntryPastEnd { offset, typecode, instance, length: entry, remaining }),
                };
            }
            // What is missing may have been on its way.
            Err(DecodeError::ChainTorn { .. } | DecodeError::MissingEnd { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    match ended {
        Some(offset) if offset < length => Err(DecodeError::AfterEnd { offset, count: length - offset }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libxc::Record;
    use crate::record::Frame;
    use proptest::prelude::*;

    /// Bodies that are nearly right, by their type.
    fn nearly() -> impl Strategy<Value = (u32, Vec<u8>)> {
        let entry = prop_oneof![0..9u64, (0..16u64, 0..9u64).prop_map(|(kind, pfn)| kind << 60 | pfn), any::<u64>()];
        let pages = (0..6u32, prop::collection::vec(entry, 0..5), 0..4usize, 0..9usize).prop_map(
            |(count, entries, pages, more)| {
                let mut body = u64::from(count).to_le_bytes().to_vec();
                body.extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
                body.resize(body.len() + pages * PAGE_SIZE + more / 8, 0);
                (types::PAGE_DATA, body)
            },
        );
        let params = (0..4u32, 0..70usize).prop_map(|(count, length)| {
            let mut body = u64::from(count).to_le_bytes().to_vec();
            body.resize(length, 0);
            (types::HVM_PARAMS, body)
        });
        let lengths = prop_oneof![Just(0usize), Just(8), Just(24), Just(4096), 0..100usize];
        let others = (0..0x15u32, lengths).prop_map(|(type_id, length)| (type_id, vec![0; length]));
        prop_oneof![pages, params, others]
    }

    proptest! {
        /// What is refused by its first bytes is refused as a whole.
        #[test]
        fn nothing_is_refused_that_could_have_come_right((type_id, body) in nearly(), cut in any::<prop::sample::Index>()) {
            let header = RecordHeader::new(type_id, body.len() as u32);
            let arrived = &body[..cut.index(body.len() + 1)];
            let whole = Record::parse(&Frame { header, body: &body, padding: &[] });
            if let Err(problem) = judge(header, arrived) && type_id != types::HVM_CONTEXT {
                prop_assert!(whole.is_err(), "{problem} of {type_id:#x}, {} bytes", arrived.len());
            }
            // And with all of it there, nothing escapes but what only the last bytes show.
            if arrived.len() == body.len() && matches!(type_id, types::PAGE_DATA | types::HVM_PARAMS | types::END) {
                prop_assert_eq!(judge(header, arrived).is_err(), whole.is_err());
            }
        }
    }

    #[cfg(feature = "decode")]
    #[test]
    fn a_context_is_judged_by_its_entries() {
        let entry = |typecode: u16, data: &[u8]| -> Vec<u8> {
            let length = data.len() as u32;
            [&typecode.to_le_bytes()[..], &[0, 0], &length.to_le_bytes(), data].concat()
        };
        let mut header = [0x5438_1286u32.to_le_bytes(), 1u32.to_le_bytes()].concat();
        header.resize(24, 0);
        let good = [entry(1, &header), entry(2, &[0; 40]), entry(0, &[])].concat();
        let judge =
            |length: usize, arrived: &[u8]| judge(RecordHeader::new(types::HVM_CONTEXT, length as u32), arrived);
        // Of any length behind the 8 bytes of alignment, and cut within its padding too.
        for odd in 0..8 {
            let good = [&good[..good.len() - 8], &entry(900, &vec![0; odd]), &entry(0, &[])].concat();
            let padded = [&good[..], &vec![0; good.len().next_multiple_of(8) - good.len()]].concat();
            for cut in 0..=padded.len() {
                assert_eq!(judge(good.len(), &padded[..cut]), Ok(()), "cut at {cut} of {}", padded.len());
            }
        }
        let mut magic = good.clone();
        magic[8] ^= 1;
        let first = [entry(2, &[0; 40]), good.clone()].concat();
        let long = [&good[..32], &[2, 0, 0, 0, 0, 0, 1, 0][..]].concat();
        for (what, length, bytes) in [
            ("another magic", good.len(), &magic[..40]),
            ("another entry first", first.len(), &first[..48]),
            ("an entry beyond the record", good.len(), &long[..]),
            ("bytes behind END", good.len() + 8, &good[..]),
        ] {
            assert!(judge(length, bytes).is_err(), "{what}");
        }
    }
}
