//! A checkpoint as an image of its own: what `xl save` would have written at that moment.
//!
//! Headers and records are the stream's own bytes. Records that a checkpoint repeats are there once, as the checkpoint had them; each page
//! is there once, in the order of page frames; pages that the guest does not have are left out. What marks the course of a stream with
//! checkpoints is gone, and END is where the specification has it.

use super::copy::{Batch, PIECE};
use super::error::ImageError;
use super::fit::Changed;
use super::image::{Image, Item, RecordKey, is_before_pages};
use super::pages::Page;
use std::collections::HashMap;
use std::io::Write;
use xen_migration_stream::libxc::{self, BATCH, PageEntry};
use xen_migration_stream::writer::RecordWriter;
use xen_migration_stream::{Layer, libxl};

/// What stands around the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// As `xl save` writes it: needs the preamble with the configuration.
    Xl,
    /// A libxl stream.
    Libxl,
    /// libxc's stream alone, without device models.
    Libxc,
}

impl Container {
    /// The one that the image's stream has.
    pub const fn of(image: &Image) -> Container {
        match image.start() {
            xen_migration_stream::Start::Xl => Container::Xl,
            xen_migration_stream::Start::Libxl => Container::Libxl,
            _ => Container::Libxc,
        }
    }
}

/// Writes the image.
///
/// # Errors
/// The system's; a container whose headers the stream does not have.
pub fn write(image: &Image, container: Container, out: impl Write) -> Result<(), ImageError> {
    write_with(image, container, &HashMap::new(), out)
}

/// The same, with other bodies for some records.
///
/// # Errors
/// As [`write()`].
pub fn write_with(
    image: &Image,
    container: Container,
    changes: &HashMap<RecordKey, Changed>,
    out: impl Write,
) -> Result<(), ImageError> {
    write_parts(image, container, changes, true, out)
}

/// The same without any page: for whoever judges the rest.
///
/// # Errors
/// As [`write()`].
pub fn write_state(
    image: &Image,
    container: Container,
    changes: &HashMap<RecordKey, Changed>,
    out: impl Write,
) -> Result<(), ImageError> {
    write_parts(image, container, changes, false, out)
}

fn write_parts(
    image: &Image,
    container: Container,
    changes: &HashMap<RecordKey, Changed>,
    with_pages: bool,
    out: impl Write,
) -> Result<(), ImageError> {
    let mut out = RecordWriter::new(out);
    let has = |key| image.items().iter().any(|item| item.key == key);
    match container {
        Container::Xl if !has(RecordKey::XlPreamble) => {
            return Err(ImageError::Missing("preamble of xl, with the configuration"));
        }
        Container::Xl | Container::Libxl if !has(RecordKey::LibxlHeader) => {
            return Err(ImageError::Missing("libxl header"));
        }
        _ => {}
    }
    let wanted = |item: &&Item| match item.key {
        RecordKey::XlPreamble => container == Container::Xl,
        RecordKey::LibxlHeader | RecordKey::Record { layer: Layer::Libxl, .. } => container != Container::Libxc,
        _ => true,
    };
    // Where an item belongs: in front, before libxc's first page, behind its last, or in libxl's part behind libxc.
    let part = |item: &Item| match item.key {
        RecordKey::XlPreamble | RecordKey::LibxlHeader => 0,
        RecordKey::Record { layer: Layer::Libxl, type_id: libxl::types::LIBXC_CONTEXT, .. } => 0,
        RecordKey::ImageHeader | RecordKey::DomainHeader => 1,
        RecordKey::Record { layer: Layer::Libxc, type_id, .. } => 1 + i32::from(!is_before_pages(type_id)),
        RecordKey::Record { .. } => 3,
    };
    for number in 0..4 {
        for item in image.items().iter().filter(wanted).filter(|item| part(item) == number) {
            match (item.key, changes.get(&item.key)) {
                (RecordKey::Record { type_id, .. }, Some(changed)) => out.record(type_id, &[&changed.body])?,
                _ => copy(image, item, &mut out)?,
            }
        }
        match number {
            1 if with_pages => pages(image, &mut out)?,
            2 => out.record(libxc::types::END, &[])?,
            3 if container != Container::Libxc => out.record(libxl::types::END, &[])?,
            _ => {}
        }
    }
    Ok(out.flush()?)
}

fn copy<W: Write>(image: &Image, item: &Item, out: &mut RecordWriter<W>) -> Result<(), ImageError> {
    let mut bytes = vec![0; item.size as usize];
    image.read(item.offset, &mut bytes)?;
    Ok(out.raw(&bytes)?)
}

fn pages<W: Write>(image: &Image, out: &mut RecordWriter<W>) -> Result<(), ImageError> {
    let mut there = image.pages().filter(|page| page.page_type != libxc::PageType::XTAB);
    let mut batch = Batch::new(image);
    let mut record: Vec<Page> = Vec::with_capacity(BATCH);
    loop {
        record.clear();
        record.extend(there.by_ref().take(BATCH));
        if record.is_empty() {
            return Ok(());
        }
        out.page_data_head(record.iter().map(|page| PageEntry { pfn: page.pfn, page_type: page.page_type }))?;
        for piece in record.chunks(PIECE) {
            for page in piece.iter().filter(|page| page.offset.is_some()) {
                batch.add(page)?;
            }
            out.raw(batch.take()?)?;
        }
    }
}
