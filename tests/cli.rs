//! The program as an engineer types it: exit codes, JSON, compressed input, pipes.

mod common;

use assert_cmd::Command;
use common::build::{hvm_libxc, hvm_remus, hvm_xl};
use common::{fixture, read};
use serde_json::Value;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use tempfile::TempDir;

fn program() -> Command {
    let mut command = Command::cargo_bin("xen-replicate").unwrap();
    command.env_remove("RUST_LOG");
    command
}

fn run(args: &[&str], stdin: &[u8]) -> Output {
    program().args(args).write_stdin(stdin).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn on_file(args: &[&str], path: &Path) -> Output {
    program().args(args).arg(path).output().unwrap()
}

#[test]
fn verify_exit_codes() {
    let mut bad = hvm_xl();
    bad[36] = 7;
    let folder = TempDir::new().unwrap();
    for (name, stream, code) in [("good", hvm_xl(), 0), ("bad", bad, 1), ("empty", Vec::new(), 1)] {
        let path = file(&folder, name, &stream);
        for output in [on_file(&["verify"], &path), run(&["verify", "-"], &stream)] {
            assert_eq!(output.status.code(), Some(code), "{name}: {}", text(&output.stdout));
            let verdict = if code == 0 { "valid: " } else { "NOT valid: " };
            assert!(text(&output.stdout).lines().last().unwrap().starts_with(verdict), "{name}");
        }
    }
    for args in
        [&["verify"][..], &["verify", "--nonsense", "-"], &["verify", "--mode", "sideways", "-"], &["frobnicate"]]
    {
        assert_eq!(run(args, b"").status.code(), Some(2), "{args:?}");
    }
    for command in ["verify", "dump", "stats"] {
        let output = on_file(&[command], Path::new("/nonexistent/stream"));
        assert_eq!(output.status.code(), Some(2), "{command}");
        assert!(text(&output.stderr).contains("/nonexistent/stream: No such file"), "{}", text(&output.stderr));
        let output = on_file(&[command], folder.path());
        assert_eq!(output.status.code(), Some(2), "{command} of a folder");
        assert!(text(&output.stderr).contains("is a directory"), "{}", text(&output.stderr));
    }
}

#[test]
fn verify_json() {
    let (stream, ends) = hvm_remus(3);
    let output = run(&["verify", "--json", "-"], &stream[..ends[1] + 3]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["valid"], true);
    assert_eq!(report["mode"], "remus");
    assert_eq!(report["checkpoints"], 2);
    assert_eq!(report["records"], 20);
    let finding = &report["findings"][0];
    assert_eq!(finding["severity"], "remark");
    assert_eq!(finding["layer"], "libxc");
    assert_eq!(finding["record"], 23);
    assert_eq!(finding["offset"], ends[1]);
    assert_eq!(finding["message"], "the stream stops after checkpoint 2; 3 bytes of a torn one follow");
}

#[test]
fn verify_options() {
    let mut padded = hvm_libxc();
    padded[30] = 1; // reserved in the domain header
    for (args, stream, code) in [
        (&["verify", "-"][..], &padded, 1),
        (&["verify", "--lenient", "-"], &padded, 0),
        (&["verify", "--complete", "-"], &hvm_remus(1).0, 1),
        (&["verify", "--mode", "remus", "-"], &hvm_remus(1).0, 0),
        (&["verify", "--mode", "plain", "-"], &hvm_remus(1).0, 1),
        (&["verify", "--start", "libxl", "-"], &hvm_remus(1).0, 0),
        (&["verify", "--start", "xl", "-"], &hvm_remus(1).0, 1),
    ] {
        assert_eq!(run(args, stream).status.code(), Some(code), "{args:?}");
    }
    let mut twice = padded.clone();
    twice[20] = 1;
    let count = |args: &[&str]| text(&run(args, &twice).stdout).lines().filter(|l| l.starts_with("error")).count();
    assert_eq!((count(&["verify", "-"]), count(&["verify", "--all", "-"])), (1, 2));
}

#[test]
fn findings_do_not_fill_the_memory() {
    // A remark in every 8 bytes, then one error.
    let optional = common::build::record(0x8000_0099, &[]);
    let headers = [common::build::libxc_headers(3, 2), common::build::hvm_static()].concat();
    let stream = [headers, optional.repeat(20_000), common::build::record(0x99, &[])].concat();
    for all in [&[][..], &["--all"]] {
        let report: Value =
            serde_json::from_slice(&run(&[&["verify", "--json", "-"], all].concat(), &stream).stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        assert_eq!(findings.len(), 10_001, "{all:?}");
        assert_eq!(findings[10_000]["severity"], "error", "the error that decides is always there");
        assert_eq!(report["valid"], false);
        assert!(report["left_out"].as_u64().unwrap() >= 10_000, "{}", report["left_out"]);
    }
    assert!(text(&run(&["verify", "-"], &stream).stdout).contains(" more findings are left out\n"));
}

#[test]
fn what_a_stream_was_taken_for_is_said_when_it_is_not_that() {
    let output = run(&["verify", "--mode", "remus", "-"], &hvm_xl());
    assert_eq!(output.status.code(), Some(0));
    let end = hvm_xl().len();
    let expected =
        format!("remark: xl record 16 at offset {end} ({end:#x}): no checkpoint in a stream that is taken for remus");
    assert!(text(&output.stdout).contains(&expected));
    let output = run(&["verify", "--json", "-"], b"rubbish, and more of it");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["mode"], &report["start"]), (&"unknown".into(), &Value::Null));
}

#[test]
fn stats_of_a_stream_that_must_be_refused() {
    // Checkpoints of nothing at all.
    let rounds = common::build::record(14, &[]).repeat(5);
    let output = run(&["stats", "--json", "-"], &[common::build::libxc_headers(3, 2), rounds].concat());
    assert_eq!(output.status.code(), Some(1));
    let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(stats["checkpoints"], 5);
    assert!(stats["refused"].as_str().unwrap().contains("CHECKPOINT before STATIC_DATA_END"));
    assert!(text(&output.stderr).contains("CHECKPOINT before STATIC_DATA_END"));
}

#[test]
fn dump_json_has_everything() {
    let output = on_file(&["dump", "--json"], &fixture("helper/hvm-remus-libxl.xz"));
    // Its registers are made up.
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let lines: Vec<Value> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 32);
    let mut offset = 0;
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["index"], index);
        assert!(line["offset"].as_u64().unwrap() >= offset);
        offset = line["offset"].as_u64().unwrap();
        for key in ["layer", "type", "type_id", "length", "round", "body"] {
            assert!(line.get(key).is_some(), "{key} in {line}");
        }
    }
    let find =
        |name: &str, round: u64| lines.iter().find(|line| line["type"] == name && line["round"] == round).unwrap();
    assert_eq!(find("LIBXL_HEADER", 0)["type_id"], Value::Null);
    assert_eq!(find("LIBXC_DOMAIN_HEADER", 0)["body"]["domain_type"], "HVM");
    assert_eq!(find("PAGE_DATA", 0)["body"]["count"], 256);
    assert_eq!(find("PAGE_DATA", 0)["body"]["entries"][0]["type"], "NOTAB");
    assert_eq!(find("X86_TSC_INFO", 1)["body"]["khz"], 2_400_000);
    assert_eq!(find("CHECKPOINT_END", 2)["layer"], "libxl");
    assert_eq!(find("CHECKPOINT_END", 2)["type_id"], 4);
    let context = &find("HVM_CONTEXT", 0)["body"];
    assert_eq!(context["entries"][0]["name"], "HEADER");
    let runs = find("PAGE_DATA", 1)["body"]["entries"].as_array().unwrap();
    let pages: u64 = runs.iter().map(|run| run["count"].as_u64().unwrap()).sum();
    assert_eq!(pages, find("PAGE_DATA", 1)["body"]["count"].as_u64().unwrap());
}

#[test]
fn dump_shows_findings_where_they_are_and_says_so_by_its_exit_code() {
    let stream = hvm_libxc();
    let mut bad = stream.clone();
    bad[28] = 16; // page_shift
    let output = run(&["dump", "-"], &bad);
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<_> = text(&output.stdout).lines().collect();
    assert!(lines[2].contains("LIBXC_DOMAIN_HEADER"), "{}", lines[2]);
    assert!(lines[3].ends_with("error: domain header: page_shift is 16, not 12"), "{}", lines[3]);
    assert!(lines.last().unwrap().contains("END"), "the dump goes on");

    let output = run(&["dump", "-"], &stream[..100]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("offset 96 (0x60): the stream ends inside a record header"));

    let output = run(&["dump", "-"], &hvm_remus(1).0);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("the stream stops after checkpoint 1"), "{}", text(&output.stderr));
}

#[test]
fn verbose_dump_decodes_bodies() {
    let output = on_file(&["dump", "-v"], &fixture("helper/hvm-plain-libxl.xz"));
    let out = text(&output.stdout);
    for expected in ["vendor: GenuineIntel", "name: CPU", "cr3: ", "name STORE_PFN", "mode_name: default"] {
        assert!(out.contains(expected), "{expected} is missing");
    }
}

#[test]
fn stats_count_pages() {
    let output = on_file(&["stats", "--json"], &fixture("helper/hvm-remus-libxl.xz"));
    let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(stats["mode"], "remus");
    assert_eq!(stats["checkpoints"], 3);
    assert_eq!(stats["total"]["pages"], 260 + 62 + 54);
    assert_eq!(stats["distinct_pages"], 256);
    assert_eq!(stats["types"]["NOTAB"], 260 + 62 + 54);
    assert_eq!(stats["rounds"][1]["pages"], 62);
    assert_eq!(stats["rounds"][1]["again"], 62);

    // Page 0 twice: once the same, once another; one zero page.
    let page = |fill: u8| common::build::record(1, &[&common::build::pages(&[0], 0)[..], &[fill; 4096]].concat());
    let headers = [common::build::libxc_headers(3, 2), common::build::hvm_static()].concat();
    let end = common::build::record(0, &[]);
    let stream = [headers, page(7), page(7), page(8), page(0), end].concat();
    let output = run(&["stats", "--json", "-"], &stream);
    let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
    let total = &stats["total"];
    assert_eq!((&total["pages"], &total["zero"]), (&4.into(), &1.into()));
    assert_eq!((&total["again"], &total["changed"]), (&3.into(), &2.into()));
    assert_eq!((&stats["distinct_pages"], &stats["sent_more_than_once"]), (&1.into(), &1.into()));
    // Each record begins where the one before ended: four passes, and the first page of three is worth a trial.
    let passes = stats["rounds"][0]["iterations"].as_array().unwrap();
    assert_eq!(passes.iter().map(|pass| pass["unchanged"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 0, 0]);
    assert_eq!((passes.len(), &total["sampled"]), (4, &3.into()));
    assert!(stats["compressible_share"].as_f64().unwrap() > 0.99, "pages of one octet");
    let text_output = run(&["stats", "-"], &stream);
    assert!(text(&text_output.stdout).contains("3 pages, 2 differ from the version before (66.7 %)"));
    assert_eq!(run(&["stats", "-"], &stream[..70]).status.code(), Some(1));
}

#[test]
fn stats_tell_the_iterations_of_a_live_save_apart() {
    let stats = |file: &str| -> Value {
        serde_json::from_slice(&on_file(&["stats", "--json"], &fixture(file)).stdout).unwrap()
    };
    let figures = |round: &Value, key: &str| -> Vec<u64> {
        round["iterations"].as_array().unwrap().iter().map(|pass| pass[key].as_u64().unwrap()).collect()
    };
    // A real host's: all of memory, what was written meanwhile, and again, and what was left when the guest stood still.
    let live = stats("xen/4.17.7stock-hvm64-live.xz");
    assert_eq!(figures(&live["rounds"][0], "pages"), [16379, 291, 39, 427]);
    assert_eq!(figures(&live["rounds"][0], "again"), [0, 291, 39, 427]);
    assert_eq!(figures(&live["rounds"][0], "bytes").iter().sum::<u64>(), 78_580_479);
    assert_eq!(live["compressible_share"], Value::Null, "its pages are blanked");
    // A save of a domain that stands still has one pass, and so has each further checkpoint.
    assert_eq!(stats("xen/4.20stock-hvm64-save.xz")["rounds"][0]["iterations"], Value::Null);
    let remus = stats("xen/4.20stock-pvh32small-remus.xz");
    assert_eq!(figures(&remus["rounds"][0], "pages"), [8142, 148, 86, 35, 305]);
    let rounds = remus["rounds"].as_array().unwrap();
    assert!(rounds.len() == 13 && rounds.iter().skip(1).all(|round| round["iterations"].is_null()));
    // One whose contents are there.
    let helper = stats("helper/hvm-live-libxc.xz");
    let round = &helper["rounds"][0];
    assert_eq!(figures(round, "changed"), [0, 80, 46]);
    assert_eq!(figures(round, "unchanged"), [0, 41, 0]);
    assert_eq!(figures(round, "sampled"), [8, 8, 3]);
    assert!(helper["compressible_share"].as_f64().is_some_and(|share| share > 0.9 && share < 1.0));
}

#[test]
fn compressed_streams_are_read_as_they_are() {
    let stream = hvm_xl();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&stream).unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(&stream[..], ruzstd::encoding::CompressionLevel::Fastest);
    // Two frames in a row, as `cat a.zst b.zst` gives them.
    let (left, right) = stream.split_at(100);
    let frames =
        [left, right].map(|part| ruzstd::encoding::compress_to_vec(part, ruzstd::encoding::CompressionLevel::Fastest));
    let folder = TempDir::new().unwrap();
    for (name, packed) in [("gzip", gzip.finish().unwrap()), ("zstd", zstd), ("zstd frames", frames.concat())] {
        let path = file(&folder, name, &packed);
        assert_eq!(on_file(&["verify"], &path).status.code(), Some(0), "{name} file");
        assert_eq!(run(&["verify", "-"], &packed).status.code(), Some(0), "{name} pipe");
        let output = run(&["verify", "-"], &packed[..packed.len() / 2]);
        assert_ne!(output.status.code(), Some(0), "{name} cut");
    }
    let packed = std::fs::read(fixture("xen/4.17.7stock-hvm64-live.xz")).unwrap();
    assert_eq!(run(&["verify", "-"], &packed).status.code(), Some(0), "xz pipe");
    let output = run(&["verify", "-"], &packed[..packed.len() / 2]);
    assert_eq!(output.status.code(), Some(2), "a cut xz file cannot be read");
    assert!(text(&output.stderr).starts_with("xen-replicate: -: unpacking xz: "), "{}", text(&output.stderr));
}

#[test]
fn a_file_on_standard_input_is_read_from_its_position() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "stream", &[b"skip me!", &hvm_libxc()[..]].concat());
    let mut input = std::fs::File::open(path).unwrap();
    input.read_exact(&mut [0; 8]).unwrap();
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_xen-replicate"))
        .args(["verify", "-"])
        .stdin(input)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_xen-replicate"))
        .args(["dump", "-v"])
        .arg(fixture("xen/4.17.5shadow-pv48-remus.xz"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn the_golden_dump_is_what_the_program_prints() {
    let output = on_file(&["dump"], &fixture("helper/hvm-colo-libxc-back.xz"));
    let golden = std::fs::read_to_string(fixture("helper/hvm-colo-libxc-back.dump")).unwrap();
    assert_eq!(text(&output.stdout), golden);
    assert_eq!(read(&fixture("helper/hvm-colo-libxc-back.xz")).len(), 24);
}
