//! The HVM save blob of a simulated guest: its entries kept as they are.

use byteorder::{LittleEndian, WriteBytesExt};

use crate::decode::DecodeError;
use crate::decode::hvm_context::{DESCRIPTOR, Entries};
use crate::decode::hvm_entry::EntryBody;
use crate::hypervisor::error::Result;

pub(super) use crate::decode::hvm_entry::{END, HEADER, HVM_FILE_MAGIC as MAGIC, HVM_FILE_VERSION as VERSION};

/// Type code of a vCPU's registers.
pub(super) const CPU: u16 = 2;
/// Bytes of `struct hvm_hw_cpu`, the body of a CPU entry since Xen 4.7.
pub(super) const CPU_SIZE: usize = 1032;

/// One entry of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// What it is.
    pub typecode: u16,
    /// Which of several, for most types the vCPU.
    pub instance: u16,
    /// Its body.
    pub data: Vec<u8>,
}

/// Takes a blob apart. The header must come first, the end entry last and nothing after it; the end entry is not part of the
/// result.
pub(super) fn parse(blob: &[u8]) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in Entries::new(blob) {
        let entry = entry?;
        match entry.typecode {
            HEADER => {
                let shifted = |error: DecodeError| error.shifted(entry.offset + DESCRIPTOR);
                if let Some((EntryBody::Header(header), _)) = EntryBody::decode(HEADER, entry.data).map_err(shifted)? {
                    header.check().map_err(shifted)?;
                }
            }
            END => continue,
            _ => {}
        }
        entries.push(Entry { typecode: entry.typecode, instance: entry.instance, data: entry.data.to_vec() });
    }
    Ok(entries)
}

/// Puts a blob together from its entries and closes it with the end entry. Replaces what `blob` had.
pub(super) fn emit(entries: &[Entry], blob: &mut Vec<u8>) -> std::io::Result<()> {
    blob.clear();
    for entry in entries {
        write_descriptor(blob, entry.typecode, entry.instance, entry.data.len())?;
        blob.extend_from_slice(&entry.data);
    }
    write_descriptor(blob, END, 0, 0)
}

fn write_descriptor(blob: &mut Vec<u8>, typecode: u16, instance: u16, length: usize) -> std::io::Result<()> {
    blob.write_u16::<LittleEndian>(typecode)?;
    blob.write_u16::<LittleEndian>(instance)?;
    blob.write_u32::<LittleEndian>(u32::try_from(length).map_err(std::io::Error::other)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::Error;

    fn header() -> Entry {
        let mut data = vec![0; 24];
        data[..4].copy_from_slice(&MAGIC.to_le_bytes());
        data[4] = 1;
        Entry { typecode: HEADER, instance: 0, data }
    }

    fn blob(entries: &[Entry]) -> Vec<u8> {
        let mut blob = Vec::new();
        emit(entries, &mut blob).unwrap();
        blob
    }

    fn problem(blob: &[u8]) -> DecodeError {
        match parse(blob) {
            Err(Error::HvmContextChain(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn chains_round_trip() {
        let entries = [header(), Entry { typecode: 13, instance: 7, data: vec![1, 2, 3, 4, 5] }];
        let blob = blob(&entries);
        assert_eq!(blob.len(), 8 + 24 + 8 + 5 + 8);
        assert_eq!(parse(&blob).unwrap(), entries);
    }

    #[test]
    fn every_truncation_is_refused() {
        let blob = blob(&[header(), Entry { typecode: 13, instance: 0, data: vec![9; 8] }]);
        for length in 0..blob.len() {
            let problem = problem(&blob[..length]);
            let expected = match length {
                0 | 32 | 48 => matches!(problem, DecodeError::MissingEnd { offset } if offset == length),
                8..32 | 40..48 => matches!(problem, DecodeError::EntryPastEnd { .. }),
                _ => matches!(problem, DecodeError::ChainTorn { .. }),
            };
            assert!(expected, "{length}: {problem}");
        }
    }

    #[test]
    fn missing_header_wrong_magic_and_trailing_bytes_are_refused() {
        assert_eq!(problem(&blob(&[])), DecodeError::HeaderNotFirst { offset: 0, typecode: END });
        let mut other = header();
        other.data[0] = 0;
        let magic = problem(&blob(&[other]));
        assert!(matches!(magic, DecodeError::BadValue { offset: 8, value: 0x5438_1200, .. }), "{magic}");
        let mut trailing = blob(&[header()]);
        trailing.push(0);
        assert_eq!(problem(&trailing), DecodeError::AfterEnd { offset: 40, count: 1 });
    }
}
