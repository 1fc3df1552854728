//! What is measured.

use super::Pair;
use super::process::{Cost, PROGRAM, cost};
use super::streams::remus;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use tempfile::{NamedTempFile, TempDir};

/// Checkpoints of the recorded stream.
const CHECKPOINTS: u64 = 20;

type Subject = fn(u64, usize) -> io::Result<()>;

/// All of them by name.
pub const ALL: [(&str, Subject); 4] =
    [("verify", verify), ("convert", convert), ("extract", extract), ("diff", compare)];

fn program(arguments: &[&str], file: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).arg(file);
    command
}

/// `verify`, and `verify --deep`, which reads every page, against reading the file.
fn verify(mib: u64, rounds: usize) -> io::Result<()> {
    let stream = remus(mib, CHECKPOINTS)?;
    let read = || cost(Command::new("cat").arg(stream.path()), &[0]);
    // Its state is made up: that it is not valid is what is found.
    let ours = |arguments: &[&str]| cost(&mut program(arguments, stream.path()), &[0, 1]);
    Pair::measure(rounds, read, || ours(&["verify"])).print("verify : cat FILE", "1");
    Pair::measure(rounds, read, || ours(&["verify", "--deep"])).print("verify --deep : cat FILE", "");
    Ok(())
}

/// Makes a file of a stream, in turns with `cp` of that very file.
fn against_cp(stream: &NamedTempFile, rounds: usize, arguments: &[&str], asked: &str) -> io::Result<()> {
    let folder = TempDir::new()?;
    let (made, copy) = (folder.path().join("made"), folder.path().join("copy"));
    let make = |path: &Path| cost(program(arguments, stream.path()).arg("-o").arg(path), &[0]);
    make(&made);
    let again = folder.path().join("again");
    // What is removed again is removed when the time is taken.
    let removed = |path: &Path, cost: Cost| {
        let _ = fs::remove_file(path);
        cost
    };
    let pair = Pair::measure(
        rounds,
        || removed(&copy, cost(Command::new("cp").arg(&made).arg(&copy), &[0])),
        || removed(&again, make(&again)),
    );
    pair.print(&format!("{} : cp", arguments.join(" ")), asked);
    Ok(())
}

/// A checkpoint as an image of its own.
fn convert(mib: u64, rounds: usize) -> io::Result<()> {
    let stream = remus(mib, CHECKPOINTS)?;
    for checkpoint in [1, CHECKPOINTS] {
        against_cp(&stream, rounds, &["convert", "--force", "--checkpoint", &checkpoint.to_string()], "0.8")?;
    }
    Ok(())
}

/// The memory in each form.
fn extract(mib: u64, rounds: usize) -> io::Result<()> {
    let stream = remus(mib, CHECKPOINTS)?;
    for form in ["--elf-core", "--raw", "--lime"] {
        against_cp(&stream, rounds, &["extract", form], "0.8")?;
    }
    Ok(())
}

/// Two images with the same pages, so that every byte of both is looked at.
fn compare(mib: u64, rounds: usize) -> io::Result<()> {
    let stream = remus(mib, 0)?;
    let other = NamedTempFile::with_prefix("xen-replicate-bench-")?;
    io::copy(&mut stream.reopen()?, &mut other.as_file())?;
    let both = |command: &mut Command| cost(command.arg(stream.path()).arg(other.path()), &[0]);
    let pair = Pair::measure(rounds, || both(&mut Command::new("cmp")), || both(Command::new(PROGRAM).arg("diff")));
    pair.print("diff A B : cmp A B", "0.5");
    Ok(())
}
