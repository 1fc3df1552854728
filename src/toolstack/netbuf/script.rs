//! The stock script for a network buffer (`-N`), by its contract.
#![forbid(unsafe_code)]

use super::super::command;
use super::cards::Card;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long the script may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Runs it for a card: `setup`, or `teardown` with the name of its IFB.
///
/// # Errors
/// It cannot be run, does not succeed, or hangs.
pub(super) fn run(
    script: &Path,
    order: &str,
    card: &Card,
    path: &str,
    ifb: Option<&str>,
    patience: Duration,
) -> io::Result<()> {
    let mut command = Command::new(script);
    command.arg(order).env("vifname", &card.device).env("XENBUS_PATH", path);
    if let Some(ifb) = ifb {
        command.env("REMUS_IFB", ifb);
    }
    let status = command::run(&mut command, patience)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", script.display())))?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{} {order}: {status}", script.display()))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const LONG: Duration = Duration::from_secs(60);

    fn card() -> Card {
        Card { devid: 0, device: "vif7.0".into(), emulated: false }
    }

    #[test]
    fn the_contract_is_the_stock_ones() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        let out = folder.path().join("out");
        let text = format!("#!/bin/sh\necho $1 $vifname $XENBUS_PATH $REMUS_IFB >>{}\ntest $1 != bad\n", out.display());
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        run(&script, "setup", &card(), "/libxl/7/remus/netbuf/0", None, LONG).unwrap();
        run(&script, "teardown", &card(), "/libxl/7/remus/netbuf/0", Some("ifb3"), LONG).unwrap();
        assert!(run(&script, "bad", &card(), "/p", None, LONG).unwrap_err().to_string().contains("exit status: 1"));
        let said = fs::read_to_string(&out).unwrap();
        let expected = "setup vif7.0 /libxl/7/remus/netbuf/0\nteardown vif7.0 /libxl/7/remus/netbuf/0 ifb3\n";
        assert!(said.starts_with(expected), "{said}");
        assert!(run(Path::new("/none/script"), "setup", &card(), "/p", None, LONG).is_err());
    }

    #[test]
    fn one_that_hangs_is_an_error_and_not_a_wait() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        fs::write(&script, "#!/bin/sh\nsleep 1000\n").unwrap();
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let error = run(&script, "setup", &card(), "/p", None, Duration::from_millis(200)).unwrap_err();
        assert!(error.to_string().contains("not ended"), "{error}");
    }
}
