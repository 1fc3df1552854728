//! The memory of two images, page by page.

use super::copy::{Batch, PIECE};
use super::error::ImageError;
use super::image::Image;
use super::pages::Page;
use xen_migration_stream::libxc::{PAGE_SIZE, PageType};

/// What is different about a page frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// The first image's guest has memory there, the second's has not.
    OnlyFirst,
    /// The other way round.
    OnlySecond,
    /// Both have memory there, of these types.
    Type(PageType, PageType),
    /// The types are the same, the contents are not.
    Contents,
}

/// Takes a page frame and what is different about it.
pub type Visit<'a> = dyn FnMut(u64, Difference) -> Result<(), ImageError> + 'a;

/// Visits what is different, in the order of page frames; gives how many pages are the same. Pages of one file that stand at the same place
/// are not read.
///
/// # Errors
/// The system's.
pub fn pages(first: &Image, second: &Image, visit: &mut Visit<'_>) -> Result<u64, ImageError> {
    let one_file = first.is_of_the_file_of(second)?;
    let (mut of_first, mut of_second) = (first.populated().peekable(), second.populated().peekable());
    let mut pending = Pending::new(first, second);
    let mut same = 0;
    loop {
        let (pfn, both) = match (of_first.peek().copied(), of_second.peek().copied()) {
            (None, None) => break,
            (Some(a), Some(b)) if a.pfn == b.pfn => (a.pfn, Some((a, b))),
            (Some(a), Some(b)) => (a.pfn.min(b.pfn), None),
            (Some(page), None) | (None, Some(page)) => (page.pfn, None),
        };
        let a = of_first.next_if(|page| page.pfn == pfn);
        of_second.next_if(|page| page.pfn == pfn);
        match both {
            Some((a, b)) if a.page_type == b.page_type && one_file && a.offset == b.offset => same += 1,
            Some((a, b)) if a.page_type == b.page_type => {
                if pending.pages.len() == PIECE {
                    same += pending.compare(visit)?;
                }
                pending.add(&a, &b)?;
            }
            Some((a, b)) => {
                same += pending.compare(visit)?;
                visit(pfn, Difference::Type(a.page_type, b.page_type))?;
            }
            None => {
                same += pending.compare(visit)?;
                visit(pfn, if a.is_some() { Difference::OnlyFirst } else { Difference::OnlySecond })?;
            }
        }
    }
    Ok(same + pending.compare(visit)?)
}

/// Pages whose contents are still to be compared.
struct Pending<'a> {
    pages: Vec<u64>,
    first: Batch<'a>,
    second: Batch<'a>,
}

impl<'a> Pending<'a> {
    fn new(first: &'a Image, second: &'a Image) -> Self {
        Pending { pages: Vec::with_capacity(PIECE), first: Batch::new(first), second: Batch::new(second) }
    }

    fn add(&mut self, a: &Page, b: &Page) -> Result<(), ImageError> {
        self.pages.push(a.pfn);
        self.first.add(a)?;
        self.second.add(b)
    }

    fn compare(&mut self, visit: &mut Visit<'_>) -> Result<u64, ImageError> {
        if self.pages.is_empty() {
            return Ok(0);
        }
        let (first, second) = (self.first.take()?, self.second.take()?);
        let mut same = 0;
        for ((&pfn, a), b) in self.pages.iter().zip(first.chunks_exact(PAGE_SIZE)).zip(second.chunks_exact(PAGE_SIZE)) {
            if a == b {
                same += 1;
            } else {
                visit(pfn, Difference::Contents)?;
            }
        }
        self.pages.clear();
        Ok(same)
    }
}
