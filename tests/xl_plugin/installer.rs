//! `xl-plugin/install.sh` into folders of our own.

use super::{project, script};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// Everything below a folder: mode, and what is in it; of a program of this size, how long it is.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let bytes = match meta.len() {
                _ if !meta.is_file() => Vec::new(),
                length @ 0x10_0000.. => length.to_le_bytes().to_vec(),
                _ => fs::read(&path).unwrap(),
            };
            found.insert(path.strip_prefix(folder).unwrap().to_owned(), (meta.permissions().mode(), bytes));
            if meta.is_dir() {
                open.push(path);
            }
        }
    }
    found
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

struct Host {
    root: TempDir,
    built: TempDir,
}

impl Host {
    /// The programs are this test's own one, and a helper that is none.
    fn new() -> Self {
        let host = Host { root: tempfile::tempdir().unwrap(), built: tempfile::tempdir().unwrap() };
        fs::copy(env!("CARGO_BIN_EXE_xen-replicate"), host.built.path().join("xen-replicate")).unwrap();
        fs::write(host.built.path().join("xen-replicate-save-helper"), "a program").unwrap();
        script(&host.path("usr/sbin/xl"), "#!/bin/sh\necho stock \"$@\"\n");
        fs::create_dir_all(host.path("usr/local/share/man")).unwrap();
        fs::create_dir_all(host.path("usr/local/lib/other")).unwrap();
        fs::write(host.path("usr/local/lib/other/file"), "of somebody else").unwrap();
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(project("xl-plugin/install.sh"));
        command.args(words).env("BINARIES", self.built.path());
        for name in ["DESTDIR", "PREFIX", "STOCK_XL", "SYSCONFDIR"] {
            command.env_remove(name);
        }
        command
    }

    /// As a packager: what is installed is not where it will be.
    fn staged(&self, words: &[&str]) -> Output {
        self.command(words).env("DESTDIR", self.root.path()).output().unwrap()
    }

    /// As an operator, for whom this folder is the host.
    fn real(&self, words: &[&str]) -> Output {
        self.command(words)
            .env("PREFIX", self.path("usr/local"))
            .env("STOCK_XL", self.path("usr/sbin/xl"))
            .env("SYSCONFDIR", self.path("etc"))
            .output()
            .unwrap()
    }
}

#[track_caller]
fn good(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

#[track_caller]
fn refused(output: &Output, part: &str) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains(part), "{output:?}");
}

#[test]
fn it_comes_and_goes_without_a_trace() {
    let host = Host::new();
    let before = tree(host.root.path());
    let installed = host.staged(&[]);
    good(&installed);
    let place = "usr/local/lib/xen-replicate/xen-replicate-save-helper";
    assert_eq!(text(&installed.stdout), format!("LIBXL_SAVE_HELPER=/{place}\n"));
    let after = tree(host.root.path());
    let files = [
        (place, 0o755),
        ("etc/xen-replicate", 0o755),
        ("usr/local/bin/xen-replicate", 0o755),
        ("usr/local/sbin/xl", 0o755),
        ("usr/local/lib/xen-replicate/installed", 0o644),
        ("usr/local/lib/systemd/system/xen-replicate-receive@.service", 0o644),
        ("usr/local/share/bash-completion/completions/xen-replicate", 0o644),
        ("usr/local/share/man/man1/xen-replicate.1", 0o644),
        ("usr/local/share/man/man1/xen-replicate-ctl-set-interval.1", 0o644),
        ("usr/local/share/man/man8/xen-replicate-save-helper.8", 0o644),
    ];
    for (file, mode) in files {
        let found = after.get(Path::new(file)).unwrap_or_else(|| panic!("{file}"));
        assert_eq!(found.0 & 0o7777, mode, "{file}");
    }
    // All of it is known to be there, and nothing else.
    let list = text(&after[Path::new("usr/local/lib/xen-replicate/installed")].1).to_owned();
    for path in after.keys().filter(|path| !before.contains_key(*path)) {
        let kind = if host.root.path().join(path).is_dir() { 'd' } else { 'f' };
        assert!(list.lines().any(|line| line == format!("{kind} /{}", path.display())), "{path:?}: {list}");
    }
    assert_eq!(list.lines().count(), after.len() - before.len());
    // Paths in what was installed are those without DESTDIR.
    let wrapper = text(&after[Path::new("usr/local/sbin/xl")].1).to_owned();
    for line in ["\nstock=/usr/sbin/xl\n", "\nours=/usr/local/bin/xen-replicate\n", "\noptions=/etc/xen-replicate\n"] {
        assert!(wrapper.contains(line), "{wrapper}");
    }
    let unit = text(&after[Path::new("usr/local/lib/systemd/system/xen-replicate-receive@.service")].1).to_owned();
    assert!(unit.contains("\nExecStart=/usr/local/bin/xen-replicate receive"), "{unit}");
    assert!(!unit.contains("/usr/bin/"), "{unit}");

    good(&host.staged(&[]));
    assert_eq!(tree(host.root.path()), after, "a second installation changes nothing");
    for _ in 0..2 {
        good(&host.staged(&["--uninstall"]));
        assert_eq!(tree(host.root.path()), before);
    }
}

#[test]
fn it_is_used_where_it_was_put() {
    let host = Host::new();
    let before = tree(host.root.path());
    good(&host.real(&[]));
    let xl = |words: &[&str]| {
        Command::new(host.path("usr/local/sbin/xl")).args(words).env_remove("XEN_REPLICATE_XL").output().unwrap()
    };
    assert_eq!(text(&xl(&["list", "a b"]).stdout), "stock list a b\n");
    let help = xl(&["remus", "--help"]);
    good(&help);
    assert!(text(&help.stdout).contains("--witness <DIR>"), "{help:?}");
    let help = xl(&["migrate-receive", "-r", "-e", "-F", "-d", "-p", "--help"]);
    assert!(text(&help.stdout).contains("--memory-budget <MIB>"), "{help:?}");
    // An upgrade of the stock one is nobody else's business.
    script(&host.path("usr/sbin/xl"), "#!/bin/sh\necho newer \"$@\"\n");
    assert_eq!(text(&xl(&["list"]).stdout), "newer list\n");
    good(&host.real(&["--uninstall"]));
    let mut after = tree(host.root.path());
    after.insert("usr/sbin/xl".into(), before[Path::new("usr/sbin/xl")].clone());
    assert_eq!(after, before);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let host = Host::new();
    let before = tree(host.root.path());
    for wrong in [&["uninstall"][..], &["--uninstall", "x"]] {
        assert_eq!(host.staged(wrong).status.code(), Some(2));
    }
    refused(&host.command(&[]).env("BINARIES", "/nowhere").output().unwrap(), "/nowhere/xen-replicate is not there");
    let stock_at =
        |path: &str| host.command(&[]).env("PREFIX", host.path("usr/local")).env("STOCK_XL", path).output().unwrap();
    refused(&stock_at("/nowhere/xl"), "/nowhere/xl is not there: the stock xl is needed");
    refused(&stock_at("/a b/xl"), "letters, digits");
    let over = host.command(&[]).env("PREFIX", host.path("usr")).env("STOCK_XL", host.path("usr/sbin/xl")).output();
    refused(&over.unwrap(), "is the stock xl itself");
    let ours = host.built.path().join("xl");
    fs::copy(project("xl-plugin/xl"), &ours).unwrap();
    refused(&stock_at(ours.to_str().unwrap()), "is xen-replicate's already");
    assert_eq!(tree(host.root.path()), before);
    script(&host.path("usr/local/sbin/xl"), "of somebody else");
    let before = tree(host.root.path());
    refused(&host.staged(&[]), "usr/local/sbin/xl is there already and is not ours");
    good(&host.staged(&["--uninstall"]));
    assert_eq!(tree(host.root.path()), before);
}

#[test]
fn an_installation_that_broke_off_is_taken_away_all_the_same() {
    let host = Host::new();
    // Behind the programs and before the wrapper.
    fs::write(host.path("usr/local/share/man/man1"), "no folder").unwrap();
    let before = tree(host.root.path());
    let broken = host.staged(&[]);
    assert!(!broken.status.success());
    assert!(host.path("usr/local/bin/xen-replicate").exists() && !host.path("usr/local/sbin/xl").exists());
    good(&host.staged(&["--uninstall"]));
    assert_eq!(tree(host.root.path()), before);
    // Or it is done again.
    assert!(!host.staged(&[]).status.success());
    fs::remove_file(host.path("usr/local/share/man/man1")).unwrap();
    good(&host.staged(&[]));
    good(&host.staged(&["--uninstall"]));
    let mut before = before;
    before.remove(Path::new("usr/local/share/man/man1"));
    assert_eq!(tree(host.root.path()), before);
}

#[test]
fn what_an_older_one_had_goes_with_the_next() {
    let host = Host::new();
    let before = tree(host.root.path());
    good(&host.staged(&[]));
    let after = tree(host.root.path());
    let old = "usr/local/share/man/man1/xen-replicate-gone.1";
    fs::write(host.path(old), "a page").unwrap();
    let list = host.path("usr/local/lib/xen-replicate/installed");
    fs::write(&list, format!("f /{old}\n{}", fs::read_to_string(&list).unwrap())).unwrap();
    good(&host.staged(&[]));
    assert_eq!(tree(host.root.path()), after);
    // Options are the operator's, and so is what he has put in our folders.
    let own = "usr/local/lib/xen-replicate/own";
    fs::write(host.path(own), "").unwrap();
    good(&host.staged(&["--uninstall"]));
    assert!(host.path(own).exists());
    fs::remove_dir_all(host.path("usr/local/lib/xen-replicate")).unwrap();
    assert_eq!(tree(host.root.path()), before);
}

#[test]
fn receivers_that_were_enabled_are_so_no_more() {
    let host = Host::new();
    good(&host.staged(&[]));
    let wants = host.path("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants).unwrap();
    for name in ["xen-replicate-receive@web.service", "other.service"] {
        std::os::unix::fs::symlink("/nowhere", wants.join(name)).unwrap();
    }
    good(&host.staged(&["--uninstall"]));
    let left: Vec<_> = fs::read_dir(&wants).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["other.service"]);
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        eprintln!("not run: there is no systemd-analyze");
        return;
    }
    let host = Host::new();
    good(&host.real(&[]));
    let unit = host.path("usr/local/lib/systemd/system/xen-replicate-receive@.service");
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{output:?}");
    // It can find something.
    let broken = fs::read_to_string(&unit).unwrap().replace("Restart=always", "Restrat=always");
    fs::write(&unit, broken).unwrap();
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap();
    assert!(text(&output.stderr).contains("Restrat"), "{output:?}");
}
