//! What is libxl's to do and has no other interface than its tool: ending a domain, and giving it another name.
#![forbid(unsafe_code)]

use super::command;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long xl may take: to end a large domain takes some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Destroys a domain with all that libxl has beside it.
///
/// # Errors
/// xl cannot be run, did not succeed, or hangs.
pub fn destroy(domid: u32) -> io::Result<()> {
    run(Path::new("xl"), &["destroy", &domid.to_string()], PATIENCE)
}

/// Gives a domain another name.
///
/// # Errors
/// xl cannot be run, or did not succeed: the name is another domain's. It hangs.
pub fn rename(domid: u32, name: &str) -> io::Result<()> {
    run(Path::new("xl"), &["rename", &domid.to_string(), name], PATIENCE)
}

fn run(xl: &Path, arguments: &[&str], patience: Duration) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("xl {}: {error}", arguments.join(" ")));
    let status = command::run(Command::new(xl).args(arguments), patience).map_err(named)?;
    if status.success() { Ok(()) } else { Err(named(io::Error::other(status.to_string()))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_tool_that_refuses_hangs_or_is_not_there_is_named_with_what_it_was_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let xl = folder.path().join("xl");
        fs::write(&xl, "#!/bin/sh\ncase $2 in 1) exit 0;; 2) exit 5;; *) exec sleep 1000;; esac\n").unwrap();
        fs::set_permissions(&xl, fs::Permissions::from_mode(0o755)).unwrap();
        let destroy = |domid| run(&xl, &["destroy", domid], Duration::from_millis(500));
        destroy("1").unwrap();
        assert_eq!(destroy("2").unwrap_err().to_string(), "xl destroy 2: exit status: 5");
        assert_eq!(destroy("3").unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(run(Path::new("/none/xl"), &["destroy", "1"], PATIENCE).unwrap_err().to_string().contains("destroy 1"));
    }
}
