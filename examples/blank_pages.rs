//! Reads a stream and writes it again with every page's contents zero: how the fixtures under `fixtures/xen` were made
//! small. All other bytes stay as they are.
//!
//! ```console
//! $ cargo run --example blank_pages -- STREAM > BLANKED
//! ```

use std::io::{self, BufWriter, Write};
use std::path::Path;
use xen_replicate::inspect::progress::Progress;
use xen_replicate::inspect::{Flow, Input, walk};
use xen_replicate::stream::check::Parsed;
use xen_replicate::stream::framer::{Options, What};
use xen_replicate::stream::libxc;
use xen_replicate::stream::writer::RecordWriter;

fn main() -> io::Result<()> {
    let path = std::env::args_os().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    let mut writer = RecordWriter::new(BufWriter::new(io::stdout().lock()));
    let mut result = Ok(());
    let input = Input::open(Path::new(&path))?;
    let walked = walk(input, Options::default(), &mut Progress::none(), &mut |item| {
        let pages = match &item.what {
            What::Record(frame) => match Parsed::new(item.layer, frame) {
                Ok(Parsed::Libxc(libxc::Record::PageData(pages))) => Some(pages),
                _ => None,
            },
            _ => None,
        };
        result = match pages {
            Some(pages) => {
                let blank = vec![0; pages.contents().map_or(0, <[u8]>::len)];
                writer.page_data(pages.entries(), [&blank[..]])
            }
            None => writer.item(item),
        };
        if result.is_ok() { Flow::Next } else { Flow::Stop }
    });
    result?;
    if let Err(error) = walked.end {
        eprintln!("{error}");
    }
    writer.into_inner().flush()
}
