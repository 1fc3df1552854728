//! What lies in files of the system: device model, libxl, bridges, a guest's disks.

use super::{Bridges, Part, PathInfo, Qemu, Toolstack};
use crate::toolstack::command;
use rustix::fs::{Mode, OFlags, SeekFrom};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Where distributions put the QEMU that their libxl starts, the most particular first.
const QEMUS: [&str; 8] = [
    "usr/libexec/xen-qemu-system-i386",
    "usr/lib/xen/bin/qemu-system-i386",
    "usr/libexec/xen/bin/qemu-system-i386",
    "usr/lib64/xen/bin/qemu-system-i386",
    "usr/local/lib/xen/bin/qemu-system-i386",
    "usr/local/libexec/xen/bin/qemu-system-i386",
    "usr/libexec/qemu-system-i386",
    "usr/bin/qemu-system-i386",
];
/// Where libraries lie.
const LIBRARIES: [&str; 5] = ["usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib", "usr/local/lib", "usr/local/lib64"];
/// libxl; its release follows: each has a name of its own.
const LIBXL: &str = "libxenlight.so.";
/// How long a device model may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most that is read of what it says.
const MOST_SAID: u64 = 1 << 20;

/// Where to look.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The root of the file system.
    pub root: PathBuf,
    /// The device model; looked for where it is not given.
    pub qemu: Option<PathBuf>,
}

impl Default for Sources {
    fn default() -> Self {
        Sources { root: PathBuf::from("/"), qemu: None }
    }
}

impl Sources {
    /// The host's name.
    pub(super) fn host(&self) -> Part<String> {
        let path = self.root.join("proc/sys/kernel/hostname");
        read(&path).map(|name| name.trim().to_owned()).into()
    }

    /// The releases of libxl that are installed.
    pub(super) fn toolstack(&self) -> Part<Toolstack> {
        let mut folders: Vec<PathBuf> = LIBRARIES.iter().map(|folder| self.root.join(folder)).collect();
        // Debian has each release's in a folder of its own.
        for entry in fs::read_dir(self.root.join("usr/lib")).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("xen-") {
                folders.extend(["lib", "lib64", "lib/x86_64-linux-gnu"].map(|inner| entry.path().join(inner)));
            }
        }
        let mut found = BTreeSet::new();
        for entry in folders.iter().flat_map(fs::read_dir).flatten().flatten() {
            let name = entry.file_name();
            let release = name.to_str().and_then(|name| name.strip_prefix(LIBXL)).and_then(release);
            found.extend(release);
        }
        if found.is_empty() {
            return Part::missing(format!("no {LIBXL}* in {}", LIBRARIES.join(", ")));
        }
        Part::Known(Toolstack { libxl: found.into_iter().map(|(major, minor)| format!("{major}.{minor}")).collect() })
    }

    /// The device model.
    pub(super) fn qemu(&self) -> Part<Qemu> {
        let found = match &self.qemu {
            Some(path) => path.is_file().then(|| path.clone()),
            None => QEMUS.iter().map(|path| self.root.join(path)).find(|path| path.is_file()),
        };
        let Some(path) = found else {
            return Part::missing(match &self.qemu {
                Some(path) => format!("{}: not there", path.display()),
                None => format!("none of {}", QEMUS.map(|path| format!("/{path}")).join(", ")),
            });
        };
        let version = said_by(&path, &["-version"]).and_then(|said| {
            version(&said).ok_or_else(|| format!("{}: -version says {:?}", path.display(), first_line(&said)))
        });
        let machines = said_by(&path, &["-machine", "help"]).map(|said| machines(&said));
        Part::Known(Qemu { version: version.into(), machines: machines.into(), path })
    }

    /// Bridges, and all network interfaces.
    pub(super) fn bridges(&self) -> Part<Bridges> {
        let folder = self.root.join("sys/class/net");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => return Part::missing(format!("{}: {error}", folder.display())),
        };
        let mut found = Bridges::default();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().join("bridge").is_dir() {
                found.linux.push(name.clone());
            }
            // Beside links to interfaces there are files here.
            if entry.path().is_dir() {
                found.interfaces.push(name);
            }
        }
        found.linux.sort_unstable();
        found.interfaces.sort_unstable();
        Part::Known(found)
    }

    /// What is at a path.
    pub(super) fn path(&self, path: &Path) -> PathInfo {
        let at = path.strip_prefix("/").map_or_else(|_| path.to_owned(), |inner| self.root.join(inner));
        let (kind, size) = match fs::metadata(&at) {
            Ok(metadata) if metadata.is_file() => ("file", Some(metadata.len())),
            Ok(metadata) if metadata.file_type().is_block_device() => ("block", device_size(&at).ok()),
            Ok(_) => ("other", None),
            Err(_) => ("none", None),
        };
        PathInfo { path: path.to_string_lossy().into_owned(), kind: kind.to_owned(), size }
    }
}

fn device_size(path: &Path) -> io::Result<u64> {
    let device = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    Ok(rustix::fs::seek(&device, SeekFrom::End(0))?)
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// `4.17` out of `4.17` or `4.17.0`.
fn release(name: &str) -> Option<(u32, u32)> {
    let mut numbers = name.split('.').map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// What a program says on its standard output.
fn said_by(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let named = |error: io::Error| format!("{} {}: {error}", program.display(), arguments.join(" "));
    let mut file = tempfile::tempfile().map_err(named)?;
    let mut command = Command::new(program);
    let output = file.try_clone().map_err(named)?;
    let status = command::run(command.args(arguments).stdout(output).stderr(Stdio::null()), PATIENCE).map_err(named)?;
    if !status.success() {
        return Err(named(io::Error::other(status.to_string())));
    }
    file.rewind().map_err(named)?;
    let mut said = Vec::new();
    file.take(MOST_SAID).read_to_end(&mut said).map_err(named)?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// `7.2.22` out of `QEMU emulator version 7.2.22 (Debian ...)`.
fn version(said: &str) -> Option<String> {
    let (_, behind) = first_line(said).split_once("version ")?;
    let version = behind.split_whitespace().next()?;
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
}

/// The first word of each line behind the first.
fn machines(said: &str) -> Vec<String> {
    said.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn sources(root: &Path) -> Sources {
        Sources { root: root.to_owned(), qemu: None }
    }

    fn script(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_bare_system_says_why_for_each() {
        let root = tempfile::tempdir().unwrap();
        let sources = sources(root.path());
        assert!(sources.host().why_missing().unwrap().contains("proc/sys/kernel/hostname"));
        assert!(sources.toolstack().why_missing().unwrap().contains("libxenlight.so."));
        assert!(sources.qemu().why_missing().unwrap().contains("/usr/bin/qemu-system-i386"));
        assert!(sources.bridges().why_missing().unwrap().contains("sys/class/net"));
        assert_eq!(sources.path(Path::new("/dev/vg/disk")).kind, "none");
        let named = Sources { qemu: Some("/none/qemu".into()), ..sources };
        assert_eq!(named.qemu().why_missing(), Some("/none/qemu: not there"));
    }

    #[test]
    fn what_is_there_is_found() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for folder in ["sys/class/net/br0/bridge", "sys/class/net/eth0", "usr/lib/xen-4.17/lib", "usr/lib64"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("sys/class/net/bonding_masters"), "").unwrap();
        fs::write(at("usr/lib/xen-4.17/lib/libxenlight.so.4.17"), "").unwrap();
        fs::write(at("usr/lib/xen-4.17/lib/libxenlight.so.4.17.0"), "").unwrap();
        fs::write(at("usr/lib64/libxenlight.so.4.9"), "").unwrap();
        fs::write(at("usr/lib64/libxenlight.so"), "").unwrap();
        fs::write(at("disk.img"), [0; 3000]).unwrap();
        script(
            &at("usr/lib/xen/bin/qemu-system-i386"),
            "#!/bin/sh\ncase $1 in\n-version) echo 'QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg)';;\n\
             -machine) printf 'Supported machines are:\\npc   Standard PC\\nxenfv  Xen (alias of xenfv-4.2)\\n';;\nesac\n",
        );
        let sources = sources(root.path());
        let toolstack = sources.toolstack();
        assert_eq!(toolstack.known().unwrap().libxl, ["4.9", "4.17"]);
        let bridges = sources.bridges();
        assert_eq!(bridges.known().unwrap().linux, ["br0"]);
        assert_eq!(bridges.known().unwrap().interfaces, ["br0", "eth0"]);
        let qemu = sources.qemu();
        let qemu = qemu.known().unwrap();
        assert_eq!(qemu.version, Part::Known("7.2.22".into()));
        assert_eq!(qemu.machines, Part::Known(vec!["pc".into(), "xenfv".into()]));
        let disk = sources.path(Path::new("/disk.img"));
        assert_eq!((&*disk.kind, disk.size), ("file", Some(3000)));
        assert_eq!(sources.path(Path::new("/sys")).kind, "other");
    }

    #[test]
    fn a_device_model_that_says_nothing_is_told_of() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("usr/bin/qemu-system-i386");
        script(&path, "#!/bin/sh\n[ $1 = -version ] && echo nothing || exit 3\n");
        let qemu = sources(root.path()).qemu();
        let qemu = qemu.known().unwrap();
        assert!(qemu.version.why_missing().unwrap().contains("\"nothing\""), "{qemu:?}");
        assert!(qemu.machines.why_missing().unwrap().contains("exit status: 3"), "{qemu:?}");
    }
}
