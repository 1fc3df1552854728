//! The guest at one checkpoint.

use super::error::{ImageError, RecordError};
use super::index::{Extent, Index, index, measure};
pub use super::item::{Item, Options, RecordKey};
use super::pages::Page;
use super::registers::Registers;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use xen_migration_stream::decode::shared_info::Width;
use xen_migration_stream::libxc::{DomainHeader, DomainType, PAGE_SIZE, types};
use xen_migration_stream::{Layer, Mode, Start, libxl};

/// See the module.
#[derive(Debug)]
pub struct Image {
    file: File,
    base: u64,
    extent: Extent,
    checkpoint: u64,
    index: Index,
    domain: DomainHeader,
}

impl Image {
    /// Finds an image in a file that can seek. Two walks over headers and entries; page contents are not read.
    ///
    /// # Errors
    /// No whole image, no such checkpoint, PAGE_DATA that cannot be read, and with [`Options::strict`] what a receiver refuses.
    pub fn open(file: File, options: &Options) -> Result<Image, ImageError> {
        let extent = measure(&file, options)?;
        let checkpoint = options.checkpoint.unwrap_or(extent.images);
        if checkpoint == 0 || checkpoint > extent.images {
            return Err(ImageError::NoCheckpoint { asked: checkpoint, there: extent.images });
        }
        let index = index(&file, options, checkpoint, &extent)?;
        let domain = index.domain.ok_or(ImageError::Missing("domain header"))?;
        Ok(Image { file, base: options.base, extent, checkpoint, index, domain })
    }

    /// The layer that the stream starts with.
    pub const fn start(&self) -> Start {
        self.extent.start
    }

    /// What the stream is for.
    pub const fn mode(&self) -> Mode {
        self.extent.mode
    }

    /// How many images the stream holds.
    pub const fn images(&self) -> u64 {
        self.extent.images
    }

    /// Which of them this is, counted from 1.
    pub const fn checkpoint(&self) -> u64 {
        self.checkpoint
    }

    /// libxc's domain header: type of the domain, and version of the Xen that saved it.
    pub const fn domain(&self) -> &DomainHeader {
        &self.domain
    }

    /// Whether the domain is a PV one.
    pub fn is_pv(&self) -> bool {
        self.domain.domain_type() == Some(DomainType::Pv)
    }

    /// The width of a PV guest's words.
    pub fn width(&self) -> Width {
        if self.index.guest_width == Some(4) { Width::Bits32 } else { Width::Bits64 }
    }

    /// All headers and records but page contents and what only marks the stream's course, in stream order.
    pub fn items(&self) -> &[Item] {
        &self.index.items
    }

    /// All page frames that the stream names, in their order.
    pub fn pages(&self) -> impl Iterator<Item = Page> + '_ {
        self.index.pages.iter()
    }

    /// The page frames that the guest has memory for.
    pub fn populated(&self) -> impl Iterator<Item = Page> + '_ {
        self.pages().filter(|page| page.page_type.is_populated())
    }

    /// What the image has of a page frame.
    pub fn page(&self, pfn: u64) -> Option<Page> {
        self.index.pages.get(pfn)
    }

    /// Reads a page; false where the guest has no such page. One that is to be allocated only is zero.
    ///
    /// # Errors
    /// The system's.
    pub fn read_page(&self, pfn: u64, page: &mut [u8; PAGE_SIZE]) -> Result<bool, ImageError> {
        match self.page(pfn) {
            Some(Page { offset: Some(offset), .. }) => self.read(offset, page).map(|()| true),
            Some(Page { page_type, .. }) if page_type.is_populated() => {
                page.fill(0);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Reads bytes of the stream.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), ImageError> {
        Ok(self.file.read_exact_at(out, self.base + offset)?)
    }

    /// Whether both images are in one file, and in one stream of it.
    ///
    /// # Errors
    /// The system's.
    pub fn is_of_the_file_of(&self, other: &Image) -> Result<bool, ImageError> {
        let (one, theirs) = (self.file.metadata()?, other.file.metadata()?);
        Ok((one.dev(), one.ino(), self.base) == (theirs.dev(), theirs.ino(), other.base))
    }

    /// All records of a type, in stream order.
    pub fn records(&self, layer: Layer, type_id: u32) -> impl Iterator<Item = &Item> {
        let wanted = (layer, type_id);
        self.items().iter().filter(
            move |item| matches!(item.key, RecordKey::Record { layer, type_id, .. } if (layer, type_id) == wanted),
        )
    }

    /// The body of an item, whose length is bounded by [`xen_migration_stream::Limits`].
    ///
    /// # Errors
    /// The system's.
    pub fn body(&self, item: &Item) -> Result<Vec<u8>, ImageError> {
        let mut body = vec![0; item.length as usize];
        self.read(item.body, &mut body)?;
        Ok(body)
    }

    /// The domain's configuration out of the preamble of xl, without the NUL behind it: JSON. None for a stream without a
    /// preamble.
    ///
    /// # Errors
    /// The system's; a preamble that does not hold one.
    pub fn config(&self) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(item) = self.items().iter().find(|item| item.key == RecordKey::XlPreamble) else { return Ok(None) };
        let bytes = self.body(item)?;
        let header =
            xen_migration_stream::xl::Header::parse(&bytes).map_err(|_| ImageError::Missing("preamble of xl"))?;
        let header = header.ok_or(ImageError::Missing("preamble of xl"))?;
        let optional_data = bytes.get(xen_migration_stream::xl::HEADER_LEN..).unwrap_or_default();
        let preamble = xen_migration_stream::xl::Preamble { header, optional_data };
        let wrong =
            |error| ImageError::Record { record: "xl preamble", offset: item.offset, error: RecordError::Body(error) };
        let config = preamble.config().map_err(wrong)?;
        Ok(Some(config.strip_suffix(b"\0").unwrap_or(config).to_vec()))
    }

    /// The state of the domain's device model: its id and index, and what it wrote.
    ///
    /// # Errors
    /// The system's.
    pub fn emulators(&self) -> Result<Vec<(u64, Vec<u8>)>, ImageError> {
        let records = self.records(Layer::Libxl, libxl::types::EMULATOR_CONTEXT);
        records
            .map(|item| {
                let RecordKey::Record { id, .. } = item.key else {
                    return Err(ImageError::Missing("EMULATOR_CONTEXT"));
                };
                let mut body = self.body(item)?;
                // Behind the sub-header.
                body.drain(..8.min(body.len()));
                Ok((id, body))
            })
            .collect()
    }

    /// The SHARED_INFO page of a PV guest.
    ///
    /// # Errors
    /// The system's.
    pub fn shared_info(&self) -> Result<Option<Vec<u8>>, ImageError> {
        self.records(Layer::Libxc, types::SHARED_INFO).next().map(|item| self.body(item)).transpose()
    }

    /// The registers of each vCPU that has state in the image, in the order of their numbers.
    ///
    /// # Errors
    /// The system's; a record that cannot be decoded.
    pub fn registers(&self) -> Result<Vec<Registers>, ImageError> {
        let mut all = Vec::new();
        for item in self.records(Layer::Libxc, types::X86_PV_VCPU_BASIC) {
            let body = self.body(item)?;
            all.push(
                Registers::of_pv(&body, self.width()).map_err(|error| self.wrong("X86_PV_VCPU_BASIC", item, error))?,
            );
        }
        for item in self.records(Layer::Libxc, types::HVM_CONTEXT) {
            let body = self.body(item)?;
            all.extend(Registers::of_hvm(&body).map_err(|error| self.wrong("HVM_CONTEXT", item, error))?);
        }
        all.sort_by_key(|registers| registers.vcpu);
        Ok(all)
    }

    const fn wrong(
        &self,
        record: &'static str,
        item: &Item,
        error: xen_migration_stream::decode::DecodeError,
    ) -> ImageError {
        ImageError::Record { record, offset: item.offset, error: RecordError::Decode(error) }
    }
}

// The types of records that the specification has before the first page.
pub(super) const fn is_before_pages(type_id: u32) -> bool {
    matches!(
        type_id,
        types::X86_CPUID_POLICY
            | types::X86_MSR_POLICY
            | types::STATIC_DATA_END
            | types::X86_PV_INFO
            | types::X86_PV_P2M_FRAMES
    )
}
