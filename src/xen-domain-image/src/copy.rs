//! Page contents out of the stream, a batch at a time.

use super::error::ImageError;
use super::image::Image;
use super::pages::Page;
use xen_migration_stream::libxc::{BATCH, PAGE_SIZE};

/// Bytes of a batch's contents.
const ROOM: usize = BATCH * PAGE_SIZE;

/// Reads the contents of many pages, those that stand behind one another in one piece.
#[derive(Debug)]
pub struct Batch<'a> {
    image: &'a Image,
    room: Vec<u8>,
    used: usize,
    /// Where the contents begin that are still to be read, and how many bytes: they belong at the end of `room`.
    run: (u64, usize),
}

impl<'a> Batch<'a> {
    pub fn new(image: &'a Image) -> Self {
        Batch { image, room: vec![0; ROOM], used: 0, run: (0, 0) }
    }

    /// Takes a page's contents, zero for a page without; to be called for [`BATCH`] pages at most before [`Batch::take`].
    pub fn add(&mut self, page: &Page) -> Result<(), ImageError> {
        match page.offset {
            Some(offset) if self.run.1 > 0 && offset == self.run.0 + self.run.1 as u64 => self.run.1 += PAGE_SIZE,
            Some(offset) => {
                self.fetch()?;
                self.run = (offset, PAGE_SIZE);
            }
            None => {
                self.fetch()?;
                if let Some(place) = self.room.get_mut(self.used..self.used + PAGE_SIZE) {
                    place.fill(0);
                }
                self.used += PAGE_SIZE;
            }
        }
        Ok(())
    }

    fn fetch(&mut self) -> Result<(), ImageError> {
        let (offset, bytes) = std::mem::take(&mut self.run);
        if let Some(place) = self.room.get_mut(self.used..self.used + bytes) {
            self.image.read(offset, place)?;
        }
        self.used += bytes;
        Ok(())
    }

    /// The contents of all pages taken, in their order; the next batch begins.
    pub fn take(&mut self) -> Result<&[u8], ImageError> {
        self.fetch()?;
        let used = std::mem::take(&mut self.used);
        Ok(self.room.get(..used).unwrap_or_default())
    }
}

/// Takes pages and the contents of all of them.
type Visit<'a> = dyn FnMut(&[Page], &[u8]) -> Result<(), ImageError> + 'a;

/// What a page without contents has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Without {
    /// None.
    Nothing,
    /// A page of zeros.
    Zeros,
}

/// Visits all pages, with their contents in one piece, in batches.
pub fn in_batches(
    image: &Image,
    pages: impl Iterator<Item = Page>,
    without: Without,
    visit: &mut Visit<'_>,
) -> Result<(), ImageError> {
    let mut batch = Batch::new(image);
    let mut taken: Vec<Page> = Vec::with_capacity(BATCH);
    for page in pages {
        if page.offset.is_some() || without == Without::Zeros {
            batch.add(&page)?;
        }
        taken.push(page);
        if taken.len() == BATCH {
            visit(&taken, batch.take()?)?;
            taken.clear();
        }
    }
    if taken.is_empty() { Ok(()) } else { visit(&taken, batch.take()?) }
}
