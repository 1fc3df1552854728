//! The script that installs the helper.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn script(directory: &Path, arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("xl-plugin/install.sh");
    let mut command = Command::new(script);
    command.args(arguments).env("DESTDIR", directory).env("BINARY", directory.join("built"));
    command.env_remove("PREFIX").output().unwrap()
}

#[test]
fn it_comes_and_goes_and_says_what_to_set() {
    let directory = tempfile::tempdir().unwrap();
    let missing = script(directory.path(), &[]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8(missing.stderr).unwrap().contains("built is not there"));
    fs::write(directory.path().join("built"), "a program").unwrap();
    let installed = script(directory.path(), &[]);
    assert!(installed.status.success(), "{installed:?}");
    let place = "/usr/local/lib/xen-replicate/xen-replicate-save-helper";
    assert_eq!(String::from_utf8(installed.stdout).unwrap(), format!("LIBXL_SAVE_HELPER={place}\n"));
    let target = directory.path().join(&place[1..]);
    assert_eq!(fs::read_to_string(&target).unwrap(), "a program");
    assert_eq!(target.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
    for _ in 0..2 {
        assert!(script(directory.path(), &["--uninstall"]).status.success());
        assert!(!target.parent().unwrap().exists());
    }
    for wrong in [&["uninstall"][..], &["--uninstall", "x"]] {
        assert_eq!(script(directory.path(), wrong).status.code(), Some(2));
    }
}
