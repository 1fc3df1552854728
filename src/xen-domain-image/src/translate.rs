//! What is at a virtual address: the walk over a vCPU's page tables, in the memory of the image.
//!
//! Of a PV guest the entries of page tables hold page frame numbers in a stream, not those of the machine, so the walk is the same.
//!
//! Source: Intel's Software Developer's Manual, volume 3, chapter 5 ("Paging").

use super::error::ImageError;
use super::image::Image;
use super::registers::{Paging, Registers};
use xen_migration_stream::libxc::PAGE_SIZE;

const PRESENT: u64 = 1 << 0;
/// In an entry that is not of the last level: it is a page itself.
const LARGE: u64 = 1 << 7;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// An address that leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Bits above the highest that is translated are not its copies.
    #[error("address {0:#x} is not canonical")]
    NotCanonical(u64),
    /// An entry is not present.
    #[error("address {address:#x} is not mapped: entry {entry:#x} of level {level}")]
    NotMapped {
        /// The address.
        address: u64,
        /// 1 is the last.
        level: u32,
        /// What stands there.
        entry: u64,
    },
    /// A page table, or the page itself, is not in the image.
    #[error("address {address:#x} leads to page frame {pfn:#x}, which the guest does not have")]
    NoPage {
        /// The address.
        address: u64,
        /// The page frame.
        pfn: u64,
    },
}

/// The guest-physical address of a virtual one.
///
/// # Errors
/// [`ImageError::Address`], or the system's.
pub fn translate(image: &Image, registers: &Registers, address: u64) -> Result<u64, ImageError> {
    let cr3 = registers.cr[3];
    // Per level, from the top: how far its index is shifted, and whether it may be a page itself.
    let (root, levels, index, entry): (u64, &[u32], u64, u64) = match registers.paging {
        Paging::None => return Ok(address),
        Paging::Legacy { .. } => (cr3 & 0xffff_f000, &[22, 12], 1024, 4),
        Paging::Pae if image.is_pv() => (cr3 & FRAME, &[30, 21, 12], 512, 8),
        Paging::Pae => (cr3 & 0xffff_ffe0, &[30, 21, 12], 512, 8),
        Paging::Long => (cr3 & FRAME, &[39, 30, 21, 12], 512, 8),
        Paging::Long57 => (cr3 & FRAME, &[48, 39, 30, 21, 12], 512, 8),
    };
    canonical(registers.paging, address)?;
    let mut table = root;
    for (depth, &shift) in levels.iter().enumerate() {
        let level = (levels.len() - depth) as u32;
        let place = table + (address >> shift) % index * entry;
        let value = word(image, address, place, entry as usize)?;
        if value & PRESENT == 0 {
            return Err(AddressError::NotMapped { address, level, entry: value }.into());
        }
        let may_be_large = match registers.paging {
            Paging::Legacy { large } => large && level == 2,
            _ => level == 2 || (level == 3 && levels.len() > 3),
        };
        if level > 1 && may_be_large && value & LARGE != 0 {
            return Ok(large(registers.paging, value, shift) | address & ((1 << shift) - 1));
        }
        table = if entry == 4 { value & 0xffff_f000 } else { value & FRAME };
    }
    Ok(table | address & (PAGE_SIZE as u64 - 1))
}

/// Where a large page begins.
const fn large(paging: Paging, entry: u64, shift: u32) -> u64 {
    match paging {
        // PSE-36: bits 13 to 20 are bits 32 to 39 of the address.
        Paging::Legacy { .. } => entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32,
        _ => entry & FRAME & !((1 << shift) - 1),
    }
}

fn canonical(paging: Paging, address: u64) -> Result<(), ImageError> {
    let fits = match paging {
        Paging::Long => (address as i64) << 16 >> 16 == address as i64,
        Paging::Long57 => (address as i64) << 7 >> 7 == address as i64,
        _ => address >> 32 == 0,
    };
    if fits { Ok(()) } else { Err(AddressError::NotCanonical(address).into()) }
}

/// An entry of a page table: 4 or 8 bytes, never over a page's end.
fn word(image: &Image, address: u64, place: u64, bytes: usize) -> Result<u64, ImageError> {
    let mut page = [0; PAGE_SIZE];
    let pfn = place >> 12;
    if !image.read_page(pfn, &mut page)? {
        return Err(AddressError::NoPage { address, pfn }.into());
    }
    let at = (place % PAGE_SIZE as u64) as usize;
    let mut value = [0; 8];
    value[..bytes].copy_from_slice(&page[at..at + bytes]);
    Ok(u64::from_le_bytes(value))
}

/// Reads memory at a virtual address into `out`, over page boundaries.
///
/// # Errors
/// As [`translate`]; what stands before the fault has been read.
pub fn read(image: &Image, registers: &Registers, address: u64, out: &mut [u8]) -> Result<(), ImageError> {
    let mut at = address;
    let mut page = [0; PAGE_SIZE];
    let mut rest = out;
    while !rest.is_empty() {
        let physical = translate(image, registers, at)?;
        let pfn = physical >> 12;
        if !image.read_page(pfn, &mut page)? {
            return Err(AddressError::NoPage { address: at, pfn }.into());
        }
        let from = (physical % PAGE_SIZE as u64) as usize;
        let bytes = rest.len().min(PAGE_SIZE - from);
        let (piece, behind) = rest.split_at_mut(bytes);
        piece.copy_from_slice(&page[from..from + bytes]);
        rest = behind;
        at = at.wrapping_add(bytes as u64);
    }
    Ok(())
}
