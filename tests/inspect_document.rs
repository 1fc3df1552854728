//! `docs/inspect.md` says what the commands print: each is run, in the page's order and in one folder, and its output held against the page's.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A command of the page and the lines that it prints there.
#[derive(Debug, Default, PartialEq)]
struct Shown {
    command: String,
    lines: Vec<String>,
}

/// All commands of a page's console blocks, in order.
fn shown(page: &str) -> Vec<Shown> {
    let mut all: Vec<Shown> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match (inside, line) {
            (false, "```console") => inside = true,
            (true, "```") => inside = false,
            (true, line) => match line.strip_prefix("$ ") {
                Some(command) => all.push(Shown { command: command.to_owned(), lines: Vec::new() }),
                None => all.last_mut().expect("a command in front of its output").lines.push(line.to_owned()),
            },
            _ => {}
        }
    }
    assert!(!inside, "a block without an end");
    all
}

/// Whether lines are those of the page, where `...` stands for any number of them.
fn matches(shown: &[String], printed: &[&str]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first == "..." => (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..])),
        Some((first, rest)) => printed.split_first().is_some_and(|(line, more)| line == first && matches(rest, more)),
    }
}

#[test]
fn what_is_left_out_is_any_number_of_lines() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    for (shown, printed, same) in [
        ("a\nb", &["a", "b"][..], true),
        ("a", &["a", "b"], false),
        ("a\nb", &["a"], false),
        ("a\n...", &["a"], true),
        ("a\n...\nd", &["a", "b", "c", "d"], true),
        ("a\n...\nd", &["a", "b", "c"], false),
        ("...\nc", &["a", "b", "c"], true),
        ("", &[], true),
        ("", &["a"], false),
    ] {
        assert_eq!(matches(&lines(shown), printed), same, "{shown:?} {printed:?}");
    }
}

#[test]
fn the_page_shows_what_the_commands_print() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/inspect.md")).unwrap();
    let all = shown(&page);
    let numbered =
        |line: &&str| line.strip_prefix("## ").is_some_and(|title| title.starts_with(|c: char| c.is_ascii_digit()));
    let questions = page.lines().filter(numbered).count();
    assert!(questions >= 12 && all.len() >= 25, "{questions} questions, {} commands", all.len());
    let folder = TempDir::new().unwrap();
    let here = folder.path().join("here");
    let programs = folder.path().join("programs");
    fs::create_dir(&here).unwrap();
    fs::create_dir(&programs).unwrap();
    symlink(root.join("fixtures"), here.join("fixtures")).unwrap();
    symlink(env!("CARGO_BIN_EXE_xen-replicate"), programs.join("xen-replicate")).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut wrong = Vec::new();
    for Shown { command, lines } in &all {
        let output = Command::new("sh")
            .args(["-c", &format!("{{ {command}\n}} 2>&1")])
            .current_dir(&here)
            .env("PATH", &path)
            .env("LC_ALL", "C")
            .env_remove("RUST_LOG")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let printed: Vec<&str> = text.lines().collect();
        if !matches(lines, &printed) {
            wrong.push(format!("$ {command}\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "docs/inspect.md is wrong; these print\n{}", wrong.join("\n"));
}
