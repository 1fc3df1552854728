//! Any bytes as a stream that images are made of: each checkpoint as an image of its own, in every form, and what is different between two.

use super::Steered;
use std::fs::File;
use std::io::{Seek, Write};
use xen_domain_image::plain::{self, Container};
use xen_domain_image::{Image, Options, PAGE_SIZE, elf, memory, translate};
use xen_replicate::inspect::diff;
use xen_replicate::stream::Mode;

/// Most images of a stream that are looked at.
const IMAGES: u64 = 3;
/// The end of memory up to which it is written raw: a hole of any size is a file of that size.
const RAW: u64 = 1 << 20;

fn file(bytes: &[u8]) -> Option<File> {
    let mut file = tempfile::tempfile().ok()?;
    file.write_all(bytes).ok()?;
    file.rewind().ok()?;
    Some(file)
}

fn open(bytes: &[u8], options: &Options) -> Option<Image> {
    Image::open(file(bytes)?, options).ok()
}

/// Bytes written, bounded in number by what was read: so many pages without contents are zeros at most.
fn written(write: impl FnOnce(&mut Vec<u8>) -> Result<(), xen_domain_image::ImageError>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    write(&mut out).ok()?;
    Some(out)
}

/// The images of a stream, the first few.
fn images(steered: &Steered<'_>) -> Vec<Image> {
    let options = Options { start: steered.start(), mode: steered.mode(), ..Options::default() };
    let Some(first) = open(steered.stream, &Options { checkpoint: Some(1), ..options }) else { return Vec::new() };
    let last = first.images();
    let mut all = vec![first];
    for checkpoint in 2..=last.min(IMAGES) {
        // Pages that cannot be read are found when an image is opened, not when images are counted.
        let Some(image) = open(steered.stream, &Options { checkpoint: Some(checkpoint), ..options }) else { break };
        all.push(image);
    }
    all
}

/// What is converted can be opened, is the same guest, and is itself when it is converted again; one that no receiver refuses is refused by none
/// afterwards. What is extracted has a page for each that the guest has.
pub fn convert(steered: &Steered<'_>) {
    for image in images(steered) {
        let strict = Options {
            start: steered.start(),
            mode: steered.mode(),
            checkpoint: Some(image.checkpoint()),
            strict: true,
            ..Options::default()
        };
        let accepted = open(steered.stream, &strict).is_some();
        for container in [Container::Xl, Container::Libxl, Container::Libxc] {
            let Some(out) = written(|out| plain::write(&image, container, out)) else { continue };
            let options = Options { mode: Some(Mode::Plain), strict: accepted, ..Options::default() };
            let again = match Image::open(file(&out).expect("a temporary file"), &options) {
                Ok(again) => again,
                Err(error) if accepted => panic!("what was converted to {container:?} is refused: {error}"),
                Err(_) => continue,
            };
            assert_eq!((again.images(), again.checkpoint()), (1, 1));
            let there = image.populated().map(|page| (page.pfn, page.page_type));
            assert!(again.populated().map(|page| (page.pfn, page.page_type)).eq(there), "other pages");
            let twice = written(|out| plain::write(&again, container, out));
            assert!(twice.as_ref() == Some(&out), "another image than before");
        }
        extract(&image);
    }
}

fn extract(image: &Image) {
    let pages = image.populated().count();
    if let Some(lime) = written(|out| memory::write_lime(image, out)) {
        assert_eq!(lime.len(), pages * PAGE_SIZE + 32 * memory::rows(image).len());
    }
    if let Some(core) = written(|out| elf::write(image, out)) {
        assert!(core.starts_with(b"\x7fELF") && core.len() > pages * PAGE_SIZE);
    }
    let end = image.populated().last().map_or(0, |page| page.pfn + 1);
    if end * PAGE_SIZE as u64 <= RAW {
        let raw = tempfile::tempfile().expect("a temporary file");
        memory::write_raw(image, &raw).expect("what fits is written");
        assert_eq!(raw.metadata().expect("its length").len(), end * PAGE_SIZE as u64);
    }
    let _ = (image.config(), image.emulators());
    for vcpu in image.registers().unwrap_or_default() {
        for address in [0, vcpu.rip, vcpu.general[6], u64::MAX] {
            let _ = translate::read(image, &vcpu, address, &mut [0; 32]);
        }
    }
}

/// An image is the same as itself; what is different between two is so the other way round, too, with as many pages.
pub fn differences(steered: &Steered<'_>) {
    let images = images(steered);
    let (Some(first), Some(last)) = (images.first(), images.last()) else { return };
    let compare = |a: &Image, b: &Image| diff::diff(a, b).ok();
    let Some(itself) = compare(first, first) else { return };
    assert!(itself.same && itself.records.is_empty() && itself.pages.list.is_empty());
    assert_eq!(itself.pages.same as usize, first.populated().count());
    let (Some(there), Some(back)) = (compare(first, last), compare(last, first)) else { return };
    assert_eq!((there.same, there.records.len()), (back.same, back.records.len()));
    let counts = |pages: &diff::PagesDiff| (pages.same, pages.contents, pages.types);
    assert_eq!(counts(&there.pages), counts(&back.pages));
    assert_eq!(there.pages.only_first, back.pages.only_second);
    let mut text = Vec::new();
    there.write_text(true, &mut text).expect("memory");
    let text = String::from_utf8(text).expect("text");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    serde_json::to_string(&there).expect("JSON");
}
