//! `xl-plugin/xl` between a stock xl and an xen-replicate that say what they are given.

use super::{project, script};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Says who it is and what it is given, each word with a NUL behind it, then its standard input; an exit code of its own.
const TELLS: &str = r#"printf '%s\0' "$RUST_LOG" "$@"; cat; exit "#;

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        place.program("stock", &format!("printf 'stock\\0'; {TELLS} 42"));
        place.program("ours", &format!("printf 'ours\\0'; {TELLS} 43"));
        let at = |name: &str| place.path().join(name).display().to_string();
        let mut text = String::new();
        for line in fs::read_to_string(project("xl-plugin/xl")).unwrap().lines() {
            match line.split_once('=') {
                Some((name @ ("stock" | "ours" | "options"), _)) => text.push_str(&format!("{name}='{}'", at(name))),
                _ => text.push_str(line),
            }
            text.push('\n');
        }
        script(&place.path().join("xl"), &text);
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn program(&self, name: &str, text: &str) {
        script(&self.path().join(name), &format!("#!/bin/sh\n{text}\n"));
    }

    fn options(&self, of: &str, text: &str) {
        fs::create_dir_all(self.path().join("options")).unwrap();
        fs::write(self.path().join("options").join(format!("{of}.options")), text).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.path().join("xl"));
        command.args(words).env_remove("XEN_REPLICATE_XL").env_remove("RUST_LOG").current_dir(self.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        fed(&mut self.command(words), b"")
    }

    /// Who runs, with what log level and words.
    #[track_caller]
    fn told(&self, words: &[&str]) -> (String, String, Vec<String>) {
        let output = self.run(words);
        let said = String::from_utf8(output.stdout).unwrap();
        let mut said: Vec<String> = said.split_terminator('\0').map(str::to_owned).collect();
        assert!(said.len() >= 2, "{words:?}: {said:?} {}", String::from_utf8_lossy(&output.stderr));
        let rest = said.split_off(2);
        let code = if said[0] == "stock" { 42 } else { 43 };
        assert_eq!(output.status.code(), Some(code), "{words:?}");
        assert_eq!(output.stderr, b"", "{words:?}");
        (said[0].clone(), said[1].clone(), rest)
    }

    #[track_caller]
    fn stock(&self, words: &[&str]) {
        let (who, _, given) = self.told(words);
        assert_eq!((who.as_str(), given), ("stock", words.iter().map(|&word| word.to_owned()).collect()));
    }

    #[track_caller]
    fn ours(&self, words: &[&str], front: &[&str], given: &[&str]) {
        let (who, _, found) = self.told(words);
        assert_eq!((who.as_str(), found), ("ours", [front, given].concat().iter().map(|&w| w.to_owned()).collect()));
    }

    #[track_caller]
    fn remus(&self, words: &[&str], given: &[&str]) {
        self.ours(words, &["remus", "--once", "--allow-bare"], given);
    }

    #[track_caller]
    fn receive(&self, words: &[&str], given: &[&str]) {
        self.ours(words, &["receive", "--bare"], given);
    }
}

fn fed(command: &mut Command, stdin: &[u8]) -> Output {
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn remus_is_ours_but_colo() {
    let place = Place::new();
    let plain = ["web", "b"];
    place.remus(&["remus", "web", "b"], &plain);
    place.remus(&["remus"], &[]);
    place.remus(&["remus", "-Fbnd", "-i", "5", "web", "b"], &["-Fbnd", "-i", "5", "web", "b"]);
    for short in ["rem", "remu"] {
        place.remus(&[short, "web", "b"], &plain);
    }
    for front in [&["-v"][..], &["-vvv", "-t"], &["-ftTv"], &["-f", "--"], &["--"]] {
        place.remus(&[front, &["remus", "web", "b"]].concat(), &plain);
    }
    // None of these is the option -c.
    for words in [
        &["-s", "-c", "web", "b"][..],
        &["-s-c", "web", "b"],
        &["-N", "cp", "web", "b"],
        &["-ei", "-c", "web", "b"],
        &["web", "b", "--", "-c"],
        &["web", "c"],
        &["-", "c"],
        &["--colo", "web", "b"],
        &["-s"],
        &["--witness", "/c", "web", "b"],
    ] {
        place.remus(&[&["remus"], words].concat(), words);
    }
    for words in [
        &["-c", "web", "b"][..],
        &["-Fc", "web", "b"],
        &["web", "b", "-c"],
        &["-ucp"],
        &["-s", "ssh", "-c", "web", "b"],
    ] {
        place.stock(&[&["remus"], words].concat());
        place.stock(&[&["-v", "remus"], words].concat());
    }
}

#[test]
fn receiving_checkpoints_is_ours_and_other_migration_is_not() {
    let place = Place::new();
    place.receive(&["migrate-receive", "-r"], &["-r"]);
    place.receive(&["migrate-receive", "-r", "-e"], &["-r", "-e"]);
    place.receive(&["migrate-receive", "-Fer"], &["-Fer"]);
    place.receive(&["-vvv", "migrate-receive", "-e", "-r"], &["-e", "-r"]);
    place.receive(&["migrate-r", "-r"], &["-r"]);
    for words in [
        &["migrate-receive"][..],
        &["migrate-receive", "-e", "-d"],
        &["migrate-receive", "--", "-r"],
        &["migrate-receive", "--colo", "--coloft-script", "/etc/x", "-e"],
        &["migrate-receive", "-r", "--colo"],
        &["migrate", "web", "b"],
        &["migrate-receiver", "-r"],
    ] {
        place.stock(words);
    }
}

#[test]
fn everything_else_is_the_stock_ones_as_it_is() {
    let place = Place::new();
    for words in [
        &[][..],
        &["-v"],
        &["--"],
        &["list"],
        &["help", "remus"],
        &["re", "web", "b"],
        &["rename", "web", "remus"],
        &["remusx", "web", "b"],
        &["", "remus"],
        &["--", "-v", "remus"],
        // It refuses a dry run of these, and options that nobody knows.
        &["-N", "remus", "web", "b"],
        &["-vN", "migrate-receive", "-r"],
        &["-x", "remus", "web", "b"],
        &["--verbose", "remus"],
        &[
            "create",
            "a b",
            "it's",
            "\"",
            "$(touch x)",
            "`touch x`",
            "*",
            "",
            "\\",
            "\\n",
            "a\nb\n",
            " ",
            "ü",
            "-e",
            "!",
            "(",
        ],
    ] {
        place.stock(words);
    }
    assert!(!place.path().join("x").exists());
}

#[test]
fn words_of_ours_are_as_odd() {
    let place = Place::new();
    let odd = ["-s", "", "a b", "it's $(touch x) `touch x`\n", "*", "\\0", "ü"];
    place.remus(&[&["remus"], &odd[..]].concat(), &odd);
    place.options("remus", "# what both sides must agree on\n--witness\n/a b/it's $(touch x)\n\n*\n\\\n --fence");
    let front = ["--witness", "/a b/it's $(touch x)", "*", "\\", " --fence"];
    place.remus(&[&["remus"], &odd[..]].concat(), &[&front, &odd[..]].concat());
    place.remus(&["remus"], &front);
    // Of the one, not of the other.
    place.receive(&["migrate-receive", "-r"], &["-r"]);
    place.options("receive", "--fence\nfence b\n");
    place.receive(&["migrate-receive", "-r"], &["--fence", "fence b", "-r"]);
    place.options("receive", "");
    place.receive(&["migrate-receive", "-r"], &["-r"]);
    assert!(!place.path().join("x").exists());
}

#[test]
fn verbosity_is_handed_on() {
    let place = Place::new();
    let level = |words: &[&str]| place.told(words).1;
    assert_eq!(level(&["remus", "web", "b"]), "");
    assert_eq!(level(&["-v", "remus", "web", "b"]), "debug");
    assert_eq!(level(&["-ft", "-Tv", "migrate-receive", "-r"]), "debug");
    assert_eq!(level(&["-v", "list"]), "");
    let said = fed(place.command(&["-v", "remus"]).env("RUST_LOG", "trace"), b"").stdout;
    assert!(said.starts_with(b"ours\0trace\0"));
}

#[test]
fn the_stock_one_can_be_had() {
    let place = Place::new();
    for words in [&["remus", "web", "b"][..], &["migrate-receive", "-r"], &["list"]] {
        let output = fed(place.command(words).env("XEN_REPLICATE_XL", "stock"), b"");
        assert_eq!((output.status.code(), &output.stdout[..6]), (Some(42), &b"stock\0"[..]), "{words:?}");
    }
    let output = fed(place.command(&["remus"]).env("XEN_REPLICATE_XL", "ours"), b"");
    assert_eq!(output.status.code(), Some(43));
}

#[test]
fn input_and_output_are_those_of_who_runs() {
    let place = Place::new();
    let stream: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    for (words, begin) in [
        (&["migrate-receive"][..], &b"stock\0\0migrate-receive\0"[..]),
        (&["migrate-receive", "-r"], b"ours\0\0receive\0--bare\0-r\0"),
    ] {
        // Both at once, for a pipe does not hold all of it.
        let mut child = place.command(words).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feeder = std::thread::spawn({
            let stream = stream.clone();
            move || stdin.write_all(&stream).unwrap()
        });
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        assert_eq!(output.stdout.strip_prefix(begin), Some(&stream[..]), "{words:?}");
    }
}

#[test]
fn it_is_the_one_that_runs_not_its_parent() {
    let place = Place::new();
    for name in ["stock", "ours"] {
        place.program(name, "echo $$; exec cat");
    }
    for words in [&["list"][..], &["remus", "web", "b"]] {
        let mut child = place.command(words).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), child.id().to_string(), "{words:?}");
        // A signal is its own, too.
        let killed = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap();
        assert!(killed.success());
        assert_eq!(child.wait().unwrap().signal(), Some(15), "{words:?}");
    }
}

#[test]
fn what_is_missing_is_said() {
    let place = Place::new();
    fs::remove_file(place.path().join("ours")).unwrap();
    let output = place.run(&["remus", "web", "b"]);
    assert_eq!(output.status.code(), Some(42));
    assert!(output.stdout.starts_with(b"stock\0"));
    assert!(String::from_utf8(output.stderr).unwrap().contains("ours is not there: the stock xl does it"));
    fs::remove_file(place.path().join("stock")).unwrap();
    let output = place.run(&["list"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(127), 0));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the stock xl is not there") && said.contains("xen-replicate stands in front"), "{said}");
}
