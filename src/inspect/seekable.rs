//! A stream in a file that can seek: for whoever reads it in another order than that of its octets.

use super::input::Input;
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::AsFd;
use std::path::Path;

/// Opens `path` (`-`: standard input). What is packed, or comes through a pipe, is unpacked into a file without a name in the folder for
/// temporary files (`TMPDIR`), which takes as much room as the stream has octets.
///
/// # Errors
/// The system's.
pub fn open(path: &Path) -> io::Result<File> {
    let file =
        if path.as_os_str() == "-" { File::from(io::stdin().as_fd().try_clone_to_owned()?) } else { File::open(path)? };
    let input = Input::from_file(file.try_clone()?)?;
    if let Input::Mapped(_) = input {
        return Ok(file);
    }
    let mut unpacked = tempfile::tempfile()?;
    io::copy(&mut input.into_reader(), &mut unpacked)?;
    unpacked.rewind()?;
    Ok(unpacked)
}
