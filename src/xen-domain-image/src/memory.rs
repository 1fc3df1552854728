//! The guest's memory as such: raw, with holes, and LiME.
//!
//! Sources of LiME: `include/lime.h` and the format's description in the README of 504ensicsLabs/LiME: for each range of physical addresses
//! a header of 32 bytes, little-endian, and the range.

use super::copy::in_batches;
use super::error::ImageError;
use super::image::Image;
use super::pages::Page;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use xen_migration_stream::libxc::PAGE_SIZE;

/// "EMiL", as a little-endian word.
const LIME_MAGIC: u32 = 0x4c69_4d45;
const LIME_VERSION: u32 = 1;

/// Writes each page at its guest-physical address. What the guest does not have, and pages that are all zero, are holes; the file ends behind
/// the last page that the guest has.
///
/// # Errors
/// The system's; a file that takes no holes where it is written to.
pub fn write_raw(image: &Image, out: &File) -> Result<(), ImageError> {
    let mut end = 0;
    in_batches(image, image.populated(), &mut |pages, contents| {
        let mut runs = Runs::default();
        for (page, contents) in pages.iter().zip(contents.chunks_exact(PAGE_SIZE)) {
            end = end.max((page.pfn + 1) * PAGE_SIZE as u64);
            if contents.iter().all(|&byte| byte == 0) {
                runs.end();
            } else {
                runs.add(page.pfn);
            }
        }
        let place = |pfn: u64| pages.partition_point(|page| page.pfn < pfn) * PAGE_SIZE;
        for (first, count) in runs.all() {
            let from = place(first);
            let piece = contents.get(from..from + count as usize * PAGE_SIZE).unwrap_or_default();
            out.write_all_at(piece, first * PAGE_SIZE as u64)?;
        }
        Ok(())
    })?;
    Ok(out.set_len(end)?)
}

/// Rows of page frames.
#[derive(Debug, Default)]
struct Runs {
    done: Vec<(u64, u64)>,
    open: Option<(u64, u64)>,
}

impl Runs {
    fn add(&mut self, pfn: u64) {
        match &mut self.open {
            Some((first, count)) if *first + *count == pfn => *count += 1,
            _ => {
                self.end();
                self.open = Some((pfn, 1));
            }
        }
    }

    fn end(&mut self) {
        self.done.extend(self.open.take());
    }

    fn all(mut self) -> Vec<(u64, u64)> {
        self.end();
        self.done
    }
}

/// Rows of page frames that the guest has memory for: the first, and how many.
pub fn rows(image: &Image) -> Vec<(u64, u64)> {
    let mut runs = Runs::default();
    for page in image.populated() {
        runs.add(page.pfn);
    }
    runs.all()
}

/// Writes LiME's format: every page that the guest has, row by row.
///
/// # Errors
/// The system's.
pub fn write_lime(image: &Image, mut out: impl Write) -> Result<(), ImageError> {
    let rows = rows(image);
    let mut ends = rows.iter().map(|&(first, count)| (first, first + count));
    let mut next = ends.next();
    in_batches(image, image.populated(), &mut |pages: &[Page], contents: &[u8]| {
        // Up to the next row's beginning in one piece.
        let mut written = 0;
        for (at, page) in pages.iter().enumerate() {
            if let Some((first, end)) = next
                && first == page.pfn
            {
                out.write_all(contents.get(written * PAGE_SIZE..at * PAGE_SIZE).unwrap_or_default())?;
                written = at;
                out.write_all(&lime_header(first, end))?;
                next = ends.next();
            }
        }
        Ok(out.write_all(contents.get(written * PAGE_SIZE..).unwrap_or_default())?)
    })?;
    Ok(out.flush()?)
}

fn lime_header(first: u64, end: u64) -> [u8; 32] {
    let mut header = [0; 32];
    header[0..4].copy_from_slice(&LIME_MAGIC.to_le_bytes());
    header[4..8].copy_from_slice(&LIME_VERSION.to_le_bytes());
    header[8..16].copy_from_slice(&(first * PAGE_SIZE as u64).to_le_bytes());
    // The last address of the range, not the one behind it.
    header[16..24].copy_from_slice(&(end * PAGE_SIZE as u64 - 1).to_le_bytes());
    header
}
