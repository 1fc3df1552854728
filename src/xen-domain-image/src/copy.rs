//! Page contents out of the stream, a batch at a time.

use super::error::ImageError;
use super::image::Image;
use super::pages::Page;
use xen_migration_stream::libxc::PAGE_SIZE;

/// Pages that are read at once: as much as stays in a processor's cache between being read and being written.
pub const PIECE: usize = 64;
/// Bytes of their contents.
const ROOM: usize = PIECE * PAGE_SIZE;

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

    /// Takes a page's contents, zero for a page without; to be called for [`PIECE`] pages at most before [`Batch::take`].
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

/// Visits all pages, with their contents in one piece, zeros for a page without, in batches.
pub fn in_batches(image: &Image, pages: impl Iterator<Item = Page>, visit: &mut Visit<'_>) -> Result<(), ImageError> {
    let mut batch = Batch::new(image);
    let mut taken: Vec<Page> = Vec::with_capacity(PIECE);
    for page in pages {
        batch.add(&page)?;
        taken.push(page);
        if taken.len() == PIECE {
            visit(&taken, batch.take()?)?;
            taken.clear();
        }
    }
    if taken.is_empty() { Ok(()) } else { visit(&taken, batch.take()?) }
}
