//! A stream in a file that can seek: for whoever reads it in another order than that of its bytes.

use super::container::{self, Container};
use super::input::Input;
use super::progress::Progress;
use super::walk::{Flow, walk};
use crate::stream::Start;
use crate::stream::framer::Options;
use crate::stream::reader::ReadError;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;

/// See the module.
#[derive(Debug)]
pub struct Seekable {
    /// The file.
    pub file: File,
    /// Where in it the stream begins.
    pub base: u64,
    /// The stream's outermost layer, where what is around it says so.
    pub start: Option<Start>,
    /// What is around the stream, as far as it stands in front of it.
    pub container: Option<Container>,
}

impl Seekable {
    /// Opens `path` (`-`: standard input). What is packed, or comes through a pipe, is unpacked into a file without a name in the folder for
    /// temporary files (`TMPDIR`), which takes as much room as the stream has bytes.
    ///
    /// # Errors
    /// The system's; a container that cannot be read.
    pub fn open(path: &Path) -> io::Result<Seekable> {
        let file = if path.as_os_str() == "-" {
            File::from(io::stdin().as_fd().try_clone_to_owned()?)
        } else {
            File::open(path)?
        };
        match Input::from_file(file.try_clone()?)? {
            Input::Mapped(_) => Seekable::of(file),
            input => {
                let mut unpacked = tempfile::tempfile()?;
                io::copy(&mut input.into_reader(), &mut unpacked)?;
                Seekable::of(unpacked)
            }
        }
    }

    /// What is around the stream, with what stands behind it, too: a walk over the stream's headers.
    ///
    /// # Errors
    /// The system's; a stream or a container that does not end as it should.
    pub fn whole_container(&self) -> io::Result<Option<Container>> {
        if self.container.is_none() {
            return Ok(None);
        }
        let mut file = self.file.try_clone()?;
        file.rewind()?;
        let walked = walk(Input::from_file(file)?, Options::default(), &mut Progress::none(), &mut |_| Flow::Next);
        walked.end.map_err(of_reader)?;
        Ok(walked.container)
    }

    fn of(mut file: File) -> io::Result<Seekable> {
        file.rewind()?;
        let mut head = Vec::new();
        (&file).take(container::HEAD as u64).read_to_end(&mut head)?;
        let Some(kind) = container::Kind::of(&head) else {
            return Ok(Seekable { file, base: 0, start: None, container: None });
        };
        file.rewind()?;
        let entered = Container::enter(kind, &mut BufReader::new(&file)).map_err(of_reader)?;
        Ok(Seekable { base: entered.offset, start: entered.start, file, container: Some(entered) })
    }
}

fn of_reader(error: ReadError) -> io::Error {
    match error {
        ReadError::Io { error, .. } => error,
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}
