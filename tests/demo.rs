//! `xen-replicate demo` from end to end, as a newcomer runs it.

use assert_cmd::Command;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_xen-replicate");

fn command(temp: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env("TMPDIR", temp).arg("demo").args(["--memory", "2", "--interval", "5"]);
    command
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

/// Processes whose arguments say that they are children of `parent`'s demonstration.
fn children(parent: u32) -> usize {
    let mark = format!("\"parent\":{parent},");
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let arguments = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    arguments.filter(|arguments| String::from_utf8_lossy(arguments).contains(&mark)).count()
}

#[test]
fn the_guest_survives_whenever_the_primary_is_killed() {
    let temp = TempDir::new().unwrap();
    for (seed, seconds) in ["0", "0.003", "0.0171", "0.08", "0.2"].into_iter().enumerate() {
        let seed = seed.to_string();
        let ran = command(temp.path()).args(["--json", "--seconds", seconds, "--seed", &seed]).output().unwrap();
        let text = String::from_utf8_lossy(&ran.stdout);
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{seconds} s: {text}{errors}");
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["survived"], true, "{report}");
        assert_eq!(report["difference"], Value::Null);
        assert_eq!(report["failover"]["checkpoint"], report["received"]);
        let client = &report["client"];
        for fault in ["lost", "contradicted", "interleaved", "duplicates"] {
            assert_eq!(client[fault], 0, "{fault}: {report}");
        }
        assert!(client["acknowledged"].as_u64().unwrap() > 0 && report["heard"] == true, "{report}");
        assert_eq!(report["pages_left_out"].as_array().unwrap().len(), 4);
        assert!(report["pages_compared"].as_u64().unwrap() >= 512, "{report}");
        assert!(report["steps_after"].as_u64().unwrap() > 0, "{report}");
        let (sent, received) = (&report["sent"]["checkpoints"], report["received"].as_u64().unwrap());
        // The primary may die between the acknowledgement and telling of it.
        assert!((received.saturating_sub(1)..=received).contains(&sent.as_u64().unwrap()), "{report}");
    }
    assert!(is_empty(temp.path()));
}

#[test]
fn the_recorded_stream_is_valid() {
    let temp = TempDir::new().unwrap();
    let record = TempDir::new().unwrap();
    let file = record.path().join("stream");
    let ran = command(temp.path()).args(["--seconds", "0.1", "--record"]).arg(&file).output().unwrap();
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{text}{}", String::from_utf8_lossy(&ran.stderr));
    for line in [
        "A guest of 2 MiB with 2 vCPUs",
        "  checkpoint     1",
        "The primary is killed (SIGKILL)",
        "equal byte for byte: ",
        ": lost 0, contradicted 0, out of two copies 0",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.lines().last().unwrap().starts_with("The guest survived, at checkpoint "), "{text}");
    let verified = Command::new(PROGRAM).args(["verify", "--json"]).arg(&file).output().unwrap();
    assert!(verified.status.success());
    let report: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((&report["valid"], &report["mode"]), (&true.into(), &"remus".into()), "{report}");
    let survived = format!("at checkpoint {}.", report["checkpoints"]);
    assert!(text.contains(&survived), "{survived} {text}");
    let remarks = report["findings"].as_array().unwrap();
    assert!(remarks.iter().any(|f| f["message"].as_str().unwrap().starts_with("the stream stops after checkpoint")));
}

#[test]
fn quiet_is_one_line() {
    let temp = TempDir::new().unwrap();
    let ran = command(temp.path()).args(["--quiet", "--seconds", "0.02"]).output().unwrap();
    assert!(ran.status.success());
    assert_eq!(String::from_utf8_lossy(&ran.stdout).lines().count(), 1);
}

#[test]
fn a_closed_pipe_leaves_the_verdict_to_the_exit_code() {
    let temp = TempDir::new().unwrap();
    for format in ["--json", "--quiet", "--memory=2"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = std::process::Command::new(PROGRAM)
            .env("TMPDIR", temp.path())
            .args(["demo", "--interval", "5", "--seconds", "0.02", format])
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert_eq!((ran.status.code(), &*errors), (Some(0), ""), "{format}");
    }
}

#[test]
fn senseless_options_are_usage_errors() {
    for arguments in [["--interval", "0"], ["--seconds", "-1"], ["--memory", "0"], ["--vcpus", "200"]] {
        Command::new(PROGRAM).arg("demo").args(arguments).assert().code(2);
    }
    let ran = Command::new(PROGRAM).args(["demo", "--record", "/nowhere/at/all"]).assert().code(2);
    assert!(String::from_utf8_lossy(&ran.get_output().stderr).contains("/nowhere/at/all"));
}

/// Starts a demonstration that would go on for long, and waits until it is under way.
fn under_way(temp: &Path) -> (std::process::Child, BufReader<std::process::ChildStdout>) {
    let mut demo = std::process::Command::new(PROGRAM)
        .env("TMPDIR", temp)
        .args(["demo", "--memory", "2", "--interval", "5", "--seconds", "600"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(demo.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("checkpoint     1") {
        line.clear();
        if out.read_line(&mut line).unwrap() == 0 {
            let mut errors = String::new();
            demo.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            panic!("it has ended: {errors}");
        }
    }
    assert_eq!(children(demo.id()), 2);
    (demo, out)
}

#[test]
fn nothing_is_left_when_the_demonstration_itself_is_killed() {
    let temp = TempDir::new().unwrap();
    let (mut demo, _out) = under_way(temp.path());
    let id = demo.id();
    let mut errors = demo.stderr.take().unwrap();
    demo.kill().unwrap();
    demo.wait().unwrap();
    // The children have the same standard error: it ends when the last of them is gone.
    errors.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(children(id), 0);
    assert!(is_empty(temp.path()));
}

#[test]
fn a_host_that_dies_by_itself_is_trouble_and_nothing_is_left() {
    let temp = TempDir::new().unwrap();
    for (which, told) in
        [("demo-primary", "the primary has ended before it was to be killed"), ("demo-secondary", "xen-replicate: ")]
    {
        let (mut demo, _out) = under_way(temp.path());
        let mark = format!("\"parent\":{},", demo.id());
        let mut killed = 0;
        for process in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments).into_owned();
            if arguments.contains(which) && arguments.contains(&mark) {
                let id: i32 = process.file_name().to_str().unwrap().parse().unwrap();
                let id = rustix::process::Pid::from_raw(id).unwrap();
                rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
                killed += 1;
            }
        }
        assert_eq!(killed, 1);
        let id = demo.id();
        let mut errors = String::new();
        demo.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert_eq!(demo.wait().unwrap().code(), Some(2), "{errors}");
        assert!(errors.contains(told), "{errors}");
        assert_eq!(children(id), 0);
        assert!(is_empty(temp.path()));
    }
}

#[test]
fn a_full_disk_costs_the_record_and_not_the_guest() {
    let temp = TempDir::new().unwrap();
    let ran = command(temp.path()).args(["--quiet", "--seconds", "0.05", "--record", "/dev/full"]).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(text.starts_with("The guest survived"), "{text}{errors}");
    assert_eq!(ran.status.code(), Some(2), "{errors}");
    assert!(errors.contains("/dev/full: the record is not whole"), "{errors}");
}
