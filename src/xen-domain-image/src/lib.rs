//! A domain out of a migration-v2 stream: its memory and its state at one of the stream's checkpoints.
//!
//! A stream with checkpoints holds its guest many times over: a page is where it was sent last. [`Image::open`] walks the stream
//! without its page contents and keeps, for each page frame, where in the file its contents stand; from then on the guest of that
//! checkpoint can be read in any order, and written as something else:
//!
//! * [`plain`]: an image that `xl restore` takes;
//! * [`fit`]: what of it must be otherwise for another release of Xen;
//! * [`elf`]: an ELF core with Xen's sections and with program headers, for debuggers;
//! * [`memory`]: raw memory with holes, LiME;
//! * [`translate`]: what is at a virtual address;
//! * [`compare`]: what is different between two images.
//!
//! # Memory
//! 8 bytes for each page frame of the guest and a few for each record, whatever the number of checkpoints: 2 MiB for a guest of
//! 1 GiB. Contents are never held but for one batch of 4 MiB.
//!
//! ```
//! # use xen_migration_stream::{Mode, handover::LibxlWriter, libxc::{DomainHeader, DomainType, PageEntry, PageType, Record}};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mut file = tempfile::tempfile()?;
//! # let libxl = LibxlWriter::start(&mut file, Mode::Plain, Some("{}"))?;
//! # let mut libxc = libxl.libxc_context(3, DomainHeader::new(DomainType::Hvm, 4, 17))?;
//! # libxc.record(&Record::StaticDataEnd)?;
//! # libxc.page_data([7, 8].map(|pfn| PageEntry { pfn, page_type: PageType::NOTAB }).into_iter(), [&[1u8; 4096][..], &[2; 4096]])?;
//! # libxc.end()?.end()?;
//! use xen_domain_image::{Image, Options, PAGE_SIZE};
//!
//! let image = Image::open(file, &Options::default())?;
//! let mut page = [0; PAGE_SIZE];
//! assert!(image.read_page(8, &mut page)?);
//! assert_eq!(page[0], 2);
//! assert!(!image.read_page(9, &mut page)?, "the guest has no such page");
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod compare;
mod copy;
pub mod elf;
mod error;
pub mod fit;
mod image;
mod index;
mod item;
pub mod memory;
mod pages;
pub mod plain;
mod registers;
mod seek;
pub mod translate;

pub use error::ImageError;
pub use image::{Image, Item, Options, RecordKey};
pub use pages::Page;
pub use registers::Registers;
pub use xen_migration_stream::libxc::PAGE_SIZE;
