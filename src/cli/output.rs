//! Where a command's result goes: to standard output, or to a file that is there whole or not at all.

use clap::Args;
use serde::Serialize;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Prints a result: one JSON object, or as text.
pub fn print<T: Serialize>(
    result: &T,
    json: bool,
    text: impl FnOnce(&T, &mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    if json {
        serde_json::to_writer_pretty(&mut out, result)?;
        writeln!(out)?;
    } else {
        text(result, &mut out)?;
    }
    out.flush()
}

/// Where to write to.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Where to write it; standard output otherwise
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Replace OUT when it is there
    #[arg(long, requires = "output")]
    overwrite: bool,
}

impl OutputArgs {
    /// Has a file written, where one is named. It takes its name when it is whole, so it may replace what it was made of; where writing fails
    /// nothing has changed. Devices and pipes are written to as they are.
    pub fn to_file<E: From<io::Error>>(
        &self,
        path: &Path,
        write: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<(), E> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        match path.metadata() {
            Ok(_) if !self.overwrite => {
                let text = format!("{}: it is there (--overwrite replaces it)", path.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, text).into());
            }
            Ok(metadata) if !metadata.is_file() => {
                return write(&OpenOptions::new().write(true).open(path).map_err(named)?);
            }
            _ => {}
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The umask takes from that what it does.
        let file: NamedTempFile = tempfile::Builder::new()
            .prefix(".xen-replicate-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)
            .map_err(named)?;
        write(file.as_file())?;
        let kept = if self.overwrite { file.persist(path) } else { file.persist_noclobber(path) };
        kept.map_err(|error| named(error.error))?;
        Ok(())
    }
}
