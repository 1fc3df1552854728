//! What can be known of a fencing command before it is needed.

use std::process::{Command, Stdio};

/// Checks a command without running it: the shell must be there and understand it, and its first word must be something that the
/// shell would find now.
///
/// # Errors
/// What is wrong with it, for the operator.
pub(super) fn check(command: &str) -> Result<(), String> {
    if command.trim().is_empty() {
        return Err("the command is empty (an unset variable?): `sh` would run nothing, and report that the other host is off. \
                    Leave the option out where there is no command"
            .into());
    }
    // Read, and not run.
    let read = sh(&["-n", "-c", command])?;
    if let Some(complaint) = read {
        return Err(format!("sh does not understand {command:?}: {complaint}"));
    }
    let word = command.split_whitespace().next().unwrap_or_default();
    // What the shell would expand or assign first is known when it runs.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/+".contains(c);
    if word.chars().all(plain) && sh(&["-c", "command -v -- \"$1\" >&2", "sh", word]).is_ok_and(|found| found.is_some())
    {
        return Err(format!(
            "{word:?} is no command here: {command:?} could never succeed. Install it, or give its whole path"
        ));
    }
    Ok(())
}

/// Runs `sh`, which is to end at once. What it complained of, where it did not succeed.
fn sh(arguments: &[&str]) -> Result<Option<String>, String> {
    let ran = Command::new("sh").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).output();
    let ran = ran.map_err(|error| format!("sh cannot be run: {error}"))?;
    let complaint = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    Ok((!ran.status.success()).then_some(complaint))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn what_could_never_succeed_is_refused() {
        for (command, part) in [
            ("", "empty"),
            (" \t\n", "empty"),
            ("if true", "does not understand"),
            ("echo 'x", "does not understand"),
            ("no-such-program-here b", "no command"),
            ("/no/such/fence --host b", "/no/such/fence"),
        ] {
            let error = check(command).unwrap_err();
            assert!(error.contains(part), "{command:?}: {error}");
        }
    }

    #[test]
    fn what_may_succeed_is_taken_and_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark").display().to_string();
        for command in [
            &*format!("touch {mark}"),
            "test -e /x || { false; }",
            "if true; then false; fi",
            "$FENCE b",
            "HOST=b fence-b",
            "(exit 1)",
            "false",
        ] {
            assert_eq!(check(command), Ok(()), "{command:?}");
        }
        assert!(!folder.path().join("mark").exists(), "it was run");
    }
}
