//! `--for TARGET`: what a guest is held against.

use crate::host_info::{HostInfo, Sources};
use crate::inspect::Input;
use crate::inspect::fit::{Guest, Target};
use crate::inspect::progress::Progress;
use crate::inspect::verify::Options;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The longest host-info that is read.
const MOST_INFO: u64 = 16 << 20;

/// Help of the option.
pub const HELP: &str = "Say whether TARGET takes the guest: a release (xen-4.17, xen-4.20.1), another guest's stream, a file made by host-info, local, ssh:HOST";

/// Finds out what a target is; of a host, also what is at the paths of the guest's disks.
///
/// # Errors
/// It cannot be read, or asked.
pub fn resolve(text: &str, disks: &[PathBuf]) -> io::Result<Target> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{text}: {error}"));
    if text == "local" {
        return Ok(Target::Host("this host".to_owned(), Box::new(HostInfo::gather(&Sources::default(), disks))));
    }
    if let Some(host) = text.strip_prefix("ssh:") {
        let info = ask(host, disks).map_err(named)?;
        return Ok(Target::Host(host.to_owned(), Box::new(info)));
    }
    if text.starts_with("xen-") && !Path::new(text).exists() {
        return text.parse().map(Target::Release).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error));
    }
    let path = Path::new(text);
    if let Some(info) = host_info(path)? {
        return Ok(Target::Host(text.to_owned(), Box::new(info)));
    }
    let input = Input::open(path).map_err(named)?;
    let mut progress = Progress::new(input.len());
    let guest = Guest::read(input, &Options::default(), &mut progress).map_err(named)?;
    if !guest.is_whole() {
        let text = "neither a host-info file nor a stream with a whole guest in it";
        return Err(named(io::Error::new(io::ErrorKind::InvalidData, text)));
    }
    Ok(Target::Guest(text.to_owned(), Box::new(guest)))
}

/// A host-info file; `None` for a file of another sort.
///
/// # Errors
/// It cannot be read, or is newer.
pub fn host_info(path: &Path) -> io::Result<Option<HostInfo>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(named)?;
    // What is no regular file is read once: by whoever reads streams.
    if !file.metadata().map_err(named)?.is_file() {
        return Ok(None);
    }
    let mut head = Vec::new();
    (&file).take(256).read_to_end(&mut head).map_err(named)?;
    if !HostInfo::is_one(&head) {
        return Ok(None);
    }
    file.take(MOST_INFO).read_to_end(&mut head).map_err(named)?;
    let parsed = HostInfo::parse(&head).map_err(|error| named(io::Error::new(io::ErrorKind::InvalidData, error)));
    parsed.map(Some)
}

/// Has `xen-replicate host-info` run on another host.
fn ask(host: &str, disks: &[PathBuf]) -> io::Result<HostInfo> {
    let mut remote = "xen-replicate host-info".to_owned();
    for disk in disks {
        remote += &format!(" --path {}", quoted(&disk.to_string_lossy()));
    }
    let mut child =
        Command::new("ssh").args(["--", host, &remote]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut said = Vec::new();
    let read = child.stdout.take().map_or(Ok(0), |out| out.take(MOST_INFO).read_to_end(&mut said));
    let status = child.wait()?;
    read?;
    if !status.success() {
        return Err(io::Error::other(format!("ssh ... {remote}: {status}")));
    }
    HostInfo::parse(&said).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_gets_a_path_as_it_is() {
        assert_eq!(quoted("/a b/$(c)'d"), r"'/a b/$(c)'\''d'");
    }

    #[test]
    fn what_is_no_target_is_named() {
        for (text, said) in [("xen-4.13", "4.14 to 4.22"), ("/none/file", "/none/file")] {
            let error = resolve(text, &[]).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"format\": \"xen-replicate host-info\", \"version\": 99}").unwrap();
        let error = resolve(file.path().to_str().unwrap(), &[]).unwrap_err().to_string();
        assert!(error.contains("version 99"), "{error}");
        std::fs::write(file.path(), "neither").unwrap();
        let error = resolve(file.path().to_str().unwrap(), &[]).unwrap_err().to_string();
        assert!(error.contains("neither a host-info file nor a stream"), "{error}");
    }
}
