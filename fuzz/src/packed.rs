//! Any bytes as a file, packed or not.

use std::io::{self, Read, Seek, Write};
use xen_replicate::inspect::Input;

/// Most bytes taken of an input: what a few bytes unpack to has no end.
const MOST: u64 = 1 << 20;

/// Opens the bytes as a file and reads what comes of them: an error or bytes, the same from a file and from a pipe.
pub fn read(bytes: &[u8]) {
    let Ok(mut file) = tempfile::tempfile() else { return };
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    let from_file = unpacked(Input::from_file(file));
    if bytes.len() > 1 << 15 {
        return;
    }
    // It fits the pipe, so that nobody has to read meanwhile.
    let (read, mut write) = io::pipe().unwrap();
    write.write_all(bytes).unwrap();
    drop(write);
    let from_pipe = unpacked(Input::from_file(std::os::fd::OwnedFd::from(read).into()));
    assert_eq!(from_file.is_ok(), from_pipe.is_ok(), "{from_file:?} from a file, {from_pipe:?} from a pipe");
    assert_eq!(from_file.ok(), from_pipe.ok());
}

/// The bytes that an input gives, up to a bound.
pub fn unpacked(input: io::Result<Input>) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    match input? {
        Input::Mapped(map) => out.extend_from_slice(&map),
        Input::Pipe(pipe) => drop(pipe.take(MOST).read_to_end(&mut out)?),
        Input::Compressed(source) => drop(source.take(MOST).read_to_end(&mut out)?),
    }
    Ok(out)
}
