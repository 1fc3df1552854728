//! The HVM save blob's chain of entries (Xen's `public/hvm/save.h`): parse and emit, entries kept as they are.

use byteorder::{LittleEndian, WriteBytesExt};
use nom::IResult;
use nom::bytes::complete::take;
use nom::number::complete::{le_u16, le_u32};

use crate::hypervisor::error::{Error, HvmContextProblem, Result};

/// Type code of the last entry.
pub(super) const END: u16 = 0;
/// Type code of the first entry.
pub(super) const HEADER: u16 = 1;
/// Type code of a vCPU's registers.
pub(super) const CPU: u16 = 2;
/// Octets of `struct hvm_hw_cpu`, the body of a CPU entry since Xen 4.7.
pub(super) const CPU_SIZE: usize = 1032;
/// `HVM_FILE_MAGIC`.
pub(super) const MAGIC: u32 = 0x5438_1286;
/// `HVM_FILE_VERSION`.
pub(super) const VERSION: u32 = 1;

/// Octets of an entry's descriptor.
const DESCRIPTOR_SIZE: usize = 8;

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

fn descriptor(input: &[u8]) -> IResult<&[u8], (u16, u16, u32)> {
    let (input, typecode) = le_u16(input)?;
    let (input, instance) = le_u16(input)?;
    let (input, length) = le_u32(input)?;
    Ok((input, (typecode, instance, length)))
}

fn body(input: &[u8], length: u32) -> IResult<&[u8], &[u8]> {
    take(length)(input)
}

fn magic_and_version(input: &[u8]) -> IResult<&[u8], (u32, u32)> {
    let (input, magic) = le_u32(input)?;
    let (input, version) = le_u32(input)?;
    Ok((input, (magic, version)))
}

/// Takes a blob apart. The header must come first, the end entry last and nothing after it; the end entry is not part of the
/// result.
pub(super) fn parse(blob: &[u8]) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut rest = blob;
    loop {
        let offset = blob.len() - rest.len();
        let fail = |problem| Error::HvmContext { offset, problem };
        let truncated = |needed, left| fail(HvmContextProblem::Truncated { needed, left });
        let (after, (typecode, instance, length)) =
            descriptor(rest).map_err(|_| truncated(DESCRIPTOR_SIZE, rest.len()))?;
        let (after, data) = body(after, length).map_err(|_| truncated(length as usize, after.len()))?;
        if entries.is_empty() {
            let found =
                if typecode == HEADER { magic_and_version(data).map_or((0, 0), |(_, found)| found) } else { (0, 0) };
            if found != (MAGIC, VERSION) {
                return Err(fail(HvmContextProblem::NoHeader { expected: MAGIC, found: found.0 }));
            }
        }
        if typecode == END {
            if !after.is_empty() {
                return Err(fail(HvmContextProblem::Trailing(after.len())));
            }
            return Ok(entries);
        }
        entries.push(Entry { typecode, instance, data: data.to_vec() });
        rest = after;
    }
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

    fn problem(blob: &[u8]) -> (usize, HvmContextProblem) {
        match parse(blob) {
            Err(Error::HvmContext { offset, problem }) => (offset, problem),
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
    fn every_truncation_is_refused_with_its_offset() {
        let blob = blob(&[header(), Entry { typecode: 13, instance: 0, data: vec![9; 8] }]);
        for length in 0..blob.len() {
            let (offset, problem) = problem(&blob[..length]);
            assert!(matches!(problem, HvmContextProblem::Truncated { .. }), "{length}: {problem:?}");
            assert_eq!(offset, [0, 32, 48].into_iter().filter(|&o| o <= length).max().unwrap());
        }
    }

    #[test]
    fn a_length_near_the_end_of_the_number_space_is_refused() {
        let mut blob = blob(&[header()]);
        blob[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(problem(&blob), (0, HvmContextProblem::Truncated { needed: u32::MAX as usize, left: 32 }));
    }

    #[test]
    fn missing_header_and_trailing_octets_are_refused() {
        assert!(matches!(problem(&blob(&[])), (0, HvmContextProblem::NoHeader { found: 0, .. })));
        let mut other = header();
        other.data[0] = 0;
        assert!(matches!(problem(&blob(&[other])), (0, HvmContextProblem::NoHeader { found: 0x5438_1200, .. })));
        let mut trailing = blob(&[header()]);
        trailing.push(0);
        assert_eq!(problem(&trailing), (32, HvmContextProblem::Trailing(1)));
    }
}
