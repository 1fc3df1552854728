//! Any bytes as a file that may be a container, or no stream at all: the same from a file, a pipe and a reader.

use std::io::{self, Cursor, Seek, Write};
use xen_replicate::inspect::foreign::Foreign;
use xen_replicate::inspect::progress::Progress;
use xen_replicate::inspect::{self, Input, Report};

fn report(input: Input) -> Option<Report> {
    let options = inspect::verify::Options { all: true, ..inspect::verify::Options::default() };
    inspect::verify(input, &options, &mut Progress::none()).ok()
}

/// What is told of zeros depends on whether what went before can still be seen; all else does not.
fn same(one: &Report, other: &Report) {
    let plain = |report: &Report| Report { foreign: None, ..report.clone() };
    assert_eq!(serde_json::to_value(plain(one)).unwrap(), serde_json::to_value(plain(other)).unwrap());
    match (&one.foreign, &other.foreign) {
        (Some(Foreign::Zeros { to_end: one, .. }), Some(Foreign::Zeros { to_end: other, .. })) => {
            assert_eq!(one, other)
        }
        (one, other) => assert_eq!(one, other),
    }
}

/// Verifies the bytes in every way in, and asks for what is said of them.
pub fn read(bytes: &[u8]) {
    let Some(reader) = report(Input::Compressed(Box::new(Cursor::new(bytes.to_vec())))) else { return };
    serde_json::to_string(&reader).unwrap();
    if let Some(foreign) = &reader.foreign {
        let text = foreign.to_string();
        assert!(!text.chars().any(char::is_control), "{text:?}");
        if let Foreign::Text { offset, bytes: text, goes_on, .. } = foreign {
            assert!(goes_on.is_none_or(|at| at == offset + text && at <= bytes.len() as u64));
        }
    }
    if let Some(container) = &reader.container {
        assert!(container.offset <= bytes.len() as u64);
        assert!(container.parts.iter().all(|part| part.offset + part.bytes <= bytes.len() as u64));
    }
    let Ok(mut file) = tempfile::tempfile() else { return };
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    // Packed bytes are another stream here.
    if let Ok(input @ (Input::Mapped(_) | Input::Pipe(_))) = Input::from_file(file) {
        same(&reader, &report(input).unwrap());
    }
    if bytes.len() > 1 << 15 {
        return;
    }
    let (read, mut write) = io::pipe().unwrap();
    write.write_all(bytes).unwrap();
    drop(write);
    if let Ok(input @ Input::Pipe(_)) = Input::from_file(std::os::fd::OwnedFd::from(read).into()) {
        same(&reader, &report(input).unwrap());
    }
    let info = inspect::info(
        Input::Compressed(Box::new(Cursor::new(bytes.to_vec()))),
        &inspect::verify::Options::default(),
        &mut Progress::none(),
    );
    let info = info.unwrap();
    assert_eq!((info.valid, info.bytes, info.records), (reader.valid, reader.bytes, reader.records));
    let mut text = Vec::new();
    info.write_text(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}
