//! Two walks over the stream: which checkpoints there are, and what stands where at one of them.

use super::error::ImageError;
use super::item::{Item, Options, RecordKey};
use super::pages::PageMap;
use super::seek::Seeking;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use xen_migration_stream::check::Checker;
use xen_migration_stream::framer::{self, What};
use xen_migration_stream::libxc::{self, PAGE_SIZE};
use xen_migration_stream::reader::{PullReader, ReadError};
use xen_migration_stream::record::{Frame, HEADER_LEN};
use xen_migration_stream::{Layer, Mode, Severity, Start, libxl};

/// What the first walk finds.
#[derive(Debug)]
pub struct Extent {
    pub start: Start,
    pub mode: Mode,
    /// Whole images: checkpoints, and one more where the stream ends with END.
    pub images: u64,
}

/// What stands where.
#[derive(Debug, Default)]
pub struct Index {
    pub pages: PageMap,
    /// All else of the image, the newest of each kind, in the order in which they first stood there.
    pub items: Vec<Item>,
    /// Where each of them is in the list.
    places: HashMap<RecordKey, usize>,
    pub guest_width: Option<u8>,
    pub domain: Option<libxc::DomainHeader>,
}

fn reader<'a>(file: &'a File, options: &Options) -> Result<PullReader<Seeking<'a>>, ImageError> {
    let framing =
        framer::Options { start: options.start, mode: options.mode, skip_contents: true, ..framer::Options::default() };
    Ok(PullReader::new(Seeking::new(file, options.base)?, framing).with_discard(Seeking::pass))
}

/// The first walk. Looks at headers and lengths alone.
pub fn measure(file: &File, options: &Options) -> Result<Extent, ImageError> {
    let mut reader = reader(file, options)?;
    let end = loop {
        match reader.next_item() {
            Ok(Some(_)) => {}
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let framer = reader.framer();
    let (whole, mode) = (framer.checkpoints(), framer.mode());
    if mode == Mode::Back {
        return Err(ImageError::BackChannel);
    }
    let ended = match end {
        Ok(()) => true,
        Err(ReadError::Stream(error)) => {
            let error = framer.judge_end(error);
            match error.problem.severity() {
                Severity::Tolerated => true,
                // What stands before the fault is none the worse for it.
                _ if whole > 0 => false,
                _ => return Err(ImageError::Torn(error)),
            }
        }
        Err(error) => return Err(error.into()),
    };
    let start = framer.start().unwrap_or(Start::Libxc);
    Ok(Extent { start, mode, images: whole + u64::from(ended) })
}

/// The second walk, up to the end of an image, counted from 1.
pub fn index(file: &File, options: &Options, image: u64, extent: &Extent) -> Result<Index, ImageError> {
    let mut reader = reader(file, options)?;
    let mut checker = Checker::new(options.mode);
    let mut index = Index::default();
    while reader.framer().checkpoints() < image {
        let item = match reader.next_item() {
            Ok(Some(item)) => item,
            Ok(None) => break,
            // Bytes behind END: the first walk has seen that the image is whole.
            Err(ReadError::Stream(error))
                if image == extent.images && error.problem.severity() == Severity::Tolerated =>
            {
                break;
            }
            Err(error) => return Err(error.into()),
        };
        if options.strict {
            // All that any receiver refuses, the hypervisor too.
            let mut refused = None;
            checker.item(&item, &mut |error| {
                if error.problem.severity() == Severity::Error {
                    refused.get_or_insert(error);
                }
            });
            refused.map_or(Ok(()), Err)?;
        }
        index.item(&item)?;
    }
    Ok(index)
}

impl Index {
    fn item(&mut self, item: &framer::Item<'_>) -> Result<(), ImageError> {
        let What::Record(frame) = item.what else {
            self.header(item);
            return Ok(());
        };
        if item.layer == Layer::Libxc {
            match (frame.header.type_id, libxc::Record::parse(&frame)) {
                (_, Ok(libxc::Record::PageData(data))) => {
                    self.pages(item.offset, &data);
                    return Ok(());
                }
                (libxc::types::PAGE_DATA, Err(error)) => return Err(item.error(error).into()),
                (_, Ok(libxc::Record::X86PvInfo(info))) => self.guest_width = Some(info.guest_width),
                _ => {}
            }
        }
        self.record(item, &frame);
        Ok(())
    }

    fn record(&mut self, item: &framer::Item<'_>, frame: &Frame<'_>) {
        let type_id = frame.header.type_id;
        let id = match (item.layer, type_id) {
            (Layer::Libxc, libxc::types::END | libxc::types::CHECKPOINT | libxc::types::VERIFY) => return,
            (Layer::Libxl, libxl::types::END | libxl::types::CHECKPOINT_END | libxl::types::CHECKPOINT_STATE) => return,
            (Layer::Libxc, 0x04..=0x06 | libxc::types::X86_PV_VCPU_MSRS) => word(frame.body, 0),
            (Layer::Libxl, libxl::types::EMULATOR_XENSTORE_DATA | libxl::types::EMULATOR_CONTEXT) => {
                word(frame.body, 0) | word(frame.body, 4) << 32
            }
            _ => 0,
        };
        let body = item.offset + HEADER_LEN as u64;
        let key = RecordKey::Record { layer: item.layer, type_id, id };
        self.keep(Item { key, offset: item.offset, size: item.size, body, length: frame.header.length.into() });
    }

    fn header(&mut self, item: &framer::Item<'_>) {
        let key = match item.what {
            What::XlPreamble(_) => RecordKey::XlPreamble,
            What::LibxlHeader(_) => RecordKey::LibxlHeader,
            What::ImageHeader(_) => RecordKey::ImageHeader,
            What::DomainHeader(header) => {
                self.domain = Some(header);
                RecordKey::DomainHeader
            }
            _ => return,
        };
        self.keep(Item { key, offset: item.offset, size: item.size, body: item.offset, length: item.size });
    }

    /// The newest takes the place of the one before.
    fn keep(&mut self, item: Item) {
        match self.places.entry(item.key) {
            Entry::Occupied(place) => self.items[*place.get()] = item,
            Entry::Vacant(place) => {
                place.insert(self.items.len());
                self.items.push(item);
            }
        }
    }

    fn pages(&mut self, offset: u64, data: &libxc::PageData<'_>) {
        let mut contents = offset + (HEADER_LEN + 8 + 8 * data.count()) as u64;
        for entry in data.entries() {
            let has_contents = entry.page_type.has_contents();
            self.pages.set(entry.pfn, entry.page_type, has_contents.then_some(contents));
            if has_contents {
                contents += PAGE_SIZE as u64;
            }
        }
    }
}

/// A little-endian word of 32 bits; 0 behind the end.
fn word(body: &[u8], at: usize) -> u64 {
    let bytes = body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_le_bytes).into()
}
