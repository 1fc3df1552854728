//! A guest's whole state in a file, and two such files compared byte by byte.
//!
//! The file is written by way of the hypervisor's traits and not of the stream. All numbers are little-endian u64: the
//! checkpoint's number (0 while the file is being written), then the blobs of [`BLOBS`], each its length and its bytes,
//! then the number of pages and each page's pfn and contents.

use crate::hypervisor::{DeviceModel, PAGE_SIZE, PageBatch, PageType, Pfn, SaveDomain, hvm_param};
use byteorder::{ByteOrder, LittleEndian, ReadBytesExt, WriteBytesExt};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

/// What the file has besides memory, in this order.
pub(super) const BLOBS: [&str; 7] = [
    "HVM parameters",
    "HVM context",
    "TSC",
    "CPUID policy",
    "MSR policy",
    "device model",
    "device model's xenstore keys",
];
/// The longest blob that is read back.
const MAX_BLOB: u64 = 1 << 26;
const BUFFER: usize = 1 << 20;
const BATCH: usize = 1024;

/// How two states compare.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Pages that were compared.
    pub pages: u64,
    /// The pages of the rings that a restore clears: not compared.
    pub left_out: Vec<Pfn>,
    /// The first difference.
    pub difference: Option<String>,
}

/// Writes the state of a domain that stands still; its number goes in last.
pub(super) fn keep<D: SaveDomain + DeviceModel>(domain: &D, number: u64, file: &File) -> io::Result<()> {
    file.write_all_at(&[0; 8], 0)?;
    let mut out = BufWriter::with_capacity(BUFFER, file);
    out.seek(SeekFrom::Start(8))?;
    for blob in blobs(domain)? {
        out.write_u64::<LittleEndian>(blob.len() as u64)?;
        out.write_all(&blob)?;
    }
    let info = domain.info().map_err(io::Error::other)?;
    out.write_u64::<LittleEndian>(info.populated)?;
    let (mut pfns, mut types) = (Vec::with_capacity(BATCH), [PageType::XTAB; BATCH]);
    let mut next = 0;
    while next < info.nr_pfns {
        pfns.clear();
        pfns.extend((next..info.nr_pfns).take(BATCH));
        next += pfns.len() as u64;
        let types = types.get_mut(..pfns.len()).unwrap_or_default();
        domain.page_types(&pfns, types).map_err(io::Error::other)?;
        let mut types = types.iter();
        pfns.retain(|_| types.next().is_some_and(|page_type| page_type.has_contents()));
        if pfns.is_empty() {
            continue;
        }
        let pages = domain.map_pages(&pfns).map_err(io::Error::other)?;
        for (index, &pfn) in pfns.iter().enumerate() {
            let page = pages.page(index).ok_or_else(|| io::Error::other(format!("pfn {pfn:#x} cannot be read")))?;
            out.write_u64::<LittleEndian>(pfn)?;
            out.write_all(page)?;
        }
    }
    out.flush()?;
    drop(out);
    file.write_all_at(&number.to_le_bytes(), 0)
}

fn blobs<D: SaveDomain + DeviceModel>(domain: &D) -> io::Result<[Vec<u8>; BLOBS.len()]> {
    let (mut params, mut context, mut device_model) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..hvm_param::COUNT {
        params.write_u64::<LittleEndian>(domain.hvm_param(index).map_err(io::Error::other)?)?;
    }
    domain.hvm_context(&mut context).map_err(io::Error::other)?;
    let tsc = domain.tsc_info().map_err(io::Error::other)?.emit().to_vec();
    let policy = domain.cpu_policy().map_err(io::Error::other)?;
    domain.save_device_model(&mut device_model).map_err(io::Error::other)?;
    let keys = domain.emulator_xenstore().map_err(io::Error::other)?;
    let keys: String = keys.iter().map(|(key, value)| format!("{key}\0{value}\0")).collect();
    Ok([params, context, tsc, policy.cpuid, policy.msrs, device_model, keys.into_bytes()])
}

/// The file that has the state of this checkpoint.
pub(super) fn find(files: &[File], checkpoint: u64) -> io::Result<&File> {
    for file in files {
        let mut number = [0; 8];
        // A file that was never written is too short.
        if file.read_exact_at(&mut number, 0).is_ok() && u64::from_le_bytes(number) == checkpoint && checkpoint != 0 {
            return Ok(file);
        }
    }
    Err(io::Error::other(format!("the primary's state at checkpoint {checkpoint} was not kept")))
}

/// Compares what was expected with what was found, but for the ring pages that the expected state's parameters name.
pub(super) fn compare(expected: &File, found: &File) -> io::Result<Comparison> {
    let (mut expected, mut found) = (reader(expected)?, reader(found)?);
    let mut comparison = Comparison::default();
    let numbers = (expected.read_u64::<LittleEndian>()?, found.read_u64::<LittleEndian>()?);
    if numbers.0 != numbers.1 {
        comparison.difference = Some(format!("checkpoint {} instead of {}", numbers.1, numbers.0));
        return Ok(comparison);
    }
    for (index, name) in BLOBS.iter().enumerate() {
        let (expected, found) = (blob(&mut expected)?, blob(&mut found)?);
        if index == 0 {
            comparison.left_out = rings(&expected);
        }
        if expected != found {
            let at = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
            let lengths = (expected.len(), found.len());
            comparison.difference =
                Some(format!("{name}: differs from byte {at:#x} on ({} bytes, {} expected)", lengths.1, lengths.0));
            return Ok(comparison);
        }
    }
    comparison.difference = pages(&mut expected, &mut found, &comparison.left_out, &mut comparison.pages)?;
    Ok(comparison)
}

/// The pages that a restore clears, by the parameters that name them.
fn rings(params: &[u8]) -> Vec<Pfn> {
    let params = (0..).zip(params.chunks_exact(8).map(LittleEndian::read_u64));
    let mut rings: Vec<_> = params
        .filter(|&(index, value)| hvm_param::names_cleared_page(index) && value != 0)
        .map(|(_, pfn)| pfn)
        .collect();
    rings.sort_unstable();
    rings
}

fn pages(
    expected: &mut impl Read,
    found: &mut impl Read,
    left_out: &[Pfn],
    compared: &mut u64,
) -> io::Result<Option<String>> {
    let counts = (expected.read_u64::<LittleEndian>()?, found.read_u64::<LittleEndian>()?);
    if counts.0 != counts.1 {
        return Ok(Some(format!("{} pages instead of {}", counts.1, counts.0)));
    }
    let (mut a, mut b) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
    for _ in 0..counts.0 {
        let pfns = (expected.read_u64::<LittleEndian>()?, found.read_u64::<LittleEndian>()?);
        if pfns.0 != pfns.1 {
            return Ok(Some(format!("a page at pfn {:#x} instead of {:#x}", pfns.1, pfns.0)));
        }
        expected.read_exact(&mut a)?;
        found.read_exact(&mut b)?;
        if left_out.contains(&pfns.0) {
            continue;
        }
        *compared += 1;
        if let Some((at, (a, b))) = a.iter().zip(&b).enumerate().find(|(_, (a, b))| a != b) {
            return Ok(Some(format!("pfn {:#x}, byte {at:#x}: {b:#04x} instead of {a:#04x}", pfns.0)));
        }
    }
    Ok(None)
}

fn reader(mut file: &File) -> io::Result<BufReader<&File>> {
    file.seek(SeekFrom::Start(0))?;
    Ok(BufReader::with_capacity(BUFFER, file))
}

fn blob(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let length = source.read_u64::<LittleEndian>()?;
    if length > MAX_BLOB {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a blob of {length} bytes")));
    }
    let mut blob = Vec::new();
    source.take(length).read_to_end(&mut blob)?;
    if blob.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(blob)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::sim::{SimConfig, SimDomain};
    use crate::hypervisor::{Domain, HvmParam, PageBatchMut, RestoreDomain};

    fn guest() -> SimDomain {
        let mut domain = SimDomain::create(&SimConfig::small(7)).unwrap();
        domain.run(30).unwrap();
        domain.suspend().unwrap();
        domain
    }

    fn kept(domain: &SimDomain) -> File {
        let file = tempfile::tempfile().unwrap();
        keep(domain, 5, &file).unwrap();
        file
    }

    #[test]
    fn the_first_difference_is_named() {
        type Change = (&'static str, fn(&mut SimDomain));
        let changes: [Change; 5] = [
            ("", |_| {}),
            ("HVM parameters: differs from byte 0x48", |d| d.set_hvm_param(HvmParam { index: 9, value: 1 }).unwrap()),
            ("TSC: differs from byte 0x5", |d| d.set_tsc_info(Default::default()).unwrap()),
            ("device model's xenstore keys: differs", |d| d.set_emulator_xenstore(Vec::new()).unwrap()),
            ("pfn 0x14, byte 0x3e7: ", |d| {
                d.map_pages_mut(&[0x14]).unwrap().page_mut(0).unwrap()[999] ^= 0x40;
            }),
        ];
        let expected = kept(&guest());
        for (text, change) in changes {
            let mut domain = guest();
            change(&mut domain);
            let comparison = compare(&expected, &kept(&domain)).unwrap();
            assert!(comparison.difference.clone().unwrap_or_default().starts_with(text), "{text}: {comparison:?}");
            assert_eq!(comparison.difference.is_none(), text.is_empty());
            assert_eq!(comparison.left_out.len(), 4);
            if text.is_empty() {
                assert_eq!(comparison.pages, domain.info().unwrap().populated - 4);
            }
        }
    }

    #[test]
    fn exactly_the_ring_pages_are_left_out() {
        let expected = kept(&guest());
        let rings: Vec<Pfn> = [1, 5, 6, 17].map(|index| guest().hvm_param(index).unwrap()).to_vec();
        for pfn in rings {
            let mut domain = guest();
            domain.map_pages_mut(&[pfn]).unwrap().page_mut(0).unwrap()[0] ^= 1;
            let comparison = compare(&expected, &kept(&domain)).unwrap();
            assert!(comparison.difference.is_none() && comparison.left_out.contains(&pfn), "{comparison:?}");
        }
    }

    #[test]
    fn a_state_is_found_by_its_number_and_a_torn_one_is_not() {
        let files = [tempfile::tempfile().unwrap(), kept(&guest())];
        assert!(find(&files, 5).is_ok());
        assert!(find(&files, 4).is_err());
        files[1].write_all_at(&[0; 8], 0).unwrap();
        assert!(find(&files, 5).is_err());
        assert!(find(&files, 0).is_err());
    }
}
