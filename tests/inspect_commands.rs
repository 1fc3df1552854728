//! `info`, and `dump` of what is asked for, on streams that this project did not write.

mod common;

use assert_cmd::Command;
use common::{fixture, golden};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn run(arguments: &[&str], file: &str) -> Output {
    let mut program = Command::cargo_bin("xen-replicate").unwrap();
    program.env_remove("RUST_LOG").args(arguments).arg(fixture(file)).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn info_of_real_streams_is_golden_and_fits_a_screen() {
    let mut all = String::new();
    for (file, code) in [
        ("xen/4.17.7stock-hvm64-live.xz", 0),
        ("xen/4.17.7stock-pvh40-remus.xz", 0),
        ("xen/4.17.5shadow-pv48-remus.xz", 0),
        ("xen/4.17.5shadow-pv48-twohost-live.xz", 0),
        ("xen/4.17.7stock-hvm64-live.reply", 0),
        ("helper/hvm-colo-libxc-forward.xz", 1),
        ("inputs/A1-libvirt-managedsave.bin", 1),
        ("inputs/A2b-xapi-legacy-suspend-image.bin", 1),
        ("inputs/A7-ssh-motd-in-front.bin", 1),
        ("inputs/C1-pv-pfn-above-p2m-end.bin", 1),
        ("inputs/C3c-qemu-empty.bin", 0),
    ] {
        let output = run(&["info"], file);
        assert_eq!(output.status.code(), Some(code), "{file}: {output:?}");
        let said = text(&output);
        assert!(said.lines().count() <= 24, "{file}: more than a screen");
        all += &format!("== {file}\n{said}");
    }
    golden(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/info.txt"), &all);
}

#[test]
fn info_as_json_says_what_the_stream_has() {
    let info: Value = serde_json::from_str(&text(&run(&["info", "--json"], "xen/4.17.7stock-hvm64-live.xz"))).unwrap();
    assert_eq!(info["guest"]["name"], "hvm");
    assert_eq!(info["guest"]["type"], "hvm");
    assert_eq!(info["guest"]["domain"], "HVM");
    assert_eq!(info["saved"]["xen"], "4.17");
    assert_eq!((&info["vcpus"]["max"], &info["vcpus"]["with_state"]), (&1.into(), &1.into()));
    assert_eq!(info["memory"]["max_kib"], 65536);
    assert_eq!(info["emulator"]["name"], "qemu-upstream");
    assert_eq!((&info["valid"], &info["errors"]), (&true.into(), &0.into()));
    // The same figures as of the commands that count them.
    let stats: Value =
        serde_json::from_str(&text(&run(&["stats", "--json"], "xen/4.17.7stock-hvm64-live.xz"))).unwrap();
    assert_eq!(info["memory"]["pages"], stats["total"]["pages"]);
    assert_eq!(info["octets"], stats["octets"]);
    let remus: Value =
        serde_json::from_str(&text(&run(&["info", "--json"], "xen/4.17.5shadow-pv48-remus.xz"))).unwrap();
    assert_eq!((&remus["mode"], &remus["checkpoints"]), (&"remus".into(), &40.into()));
    assert_eq!((&remus["guest"]["bits"], &remus["vcpus"]["with_state"]), (&64.into(), &1.into()));
}

#[test]
fn info_of_what_cannot_be_read_is_trouble() {
    assert_eq!(run(&["info"], "no-such-file").status.code(), Some(2));
    let recording = run(&["info"], "colo/qemu72-between.rec.xz");
    assert_eq!(recording.status.code(), Some(2), "{recording:?}");
    assert!(String::from_utf8_lossy(&recording.stderr).contains("a session of COLO"), "{recording:?}");
}

const REMUS: &str = "xen/4.17.5shadow-pv48-remus.xz";

/// Items that a dump shows as JSON.
fn items(arguments: &[&str]) -> Vec<Value> {
    let output = run(&[&["dump", "--json"], arguments].concat(), REMUS);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    text(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_filter_shows_exactly_what_it_asks_for() {
    let all = items(&[]);
    assert_eq!(all.len(), 345);
    let number = |item: &Value, key: &str| item[key].as_u64().unwrap();
    let has_pfn = |item: &Value, pfn: u64| {
        item["body"]["entries"].as_array().into_iter().flatten().any(|run| {
            let (first, count) = (number(run, "pfn"), number(run, "count"));
            (first..first + count).contains(&pfn)
        }) || item["type"] == "X86_PV_P2M_FRAMES"
    };
    type Wanted<'a> = &'a dyn Fn(&Value) -> bool;
    let cases: &[(&[&str], Wanted<'_>)] = &[
        (&["--type", "PAGE_DATA"], &|item| item["type"] == "PAGE_DATA"),
        (&["--type", "shared_info", "--type", "checkpoint_end"], &|item| {
            item["type"] == "SHARED_INFO" || item["type"] == "CHECKPOINT_END"
        }),
        (&["--type", "0x7"], &|item| item["type_id"] == 7),
        (&["--type", "XL_PREAMBLE"], &|item| item["type"] == "XL_PREAMBLE"),
        (&["--layer", "libxl"], &|item| item["layer"] == "libxl"),
        (&["--layer", "xl", "--layer", "libxl"], &|item| item["layer"] != "libxc"),
        (&["--round", "3"], &|item| item["round"] == 3),
        (&["--round", "38-"], &|item| number(item, "round") >= 38),
        (&["--round", "1-2", "--layer", "libxc"], &|item| {
            (1..=2).contains(&number(item, "round")) && item["layer"] == "libxc"
        }),
        (&["--from", "0x3000000"], &|item| number(item, "offset") >= 0x300_0000),
        (&["--to", "4096"], &|item| number(item, "offset") <= 4096),
        (&["--pfn", "0x20"], &|item| has_pfn(item, 0x20)),
        (&["--pfn", "0x20", "--round", "5-9"], &|item| has_pfn(item, 0x20) && (5..=9).contains(&number(item, "round"))),
    ];
    for (arguments, wanted) in cases {
        let expected: Vec<_> = all.iter().filter(|item| wanted(item)).cloned().collect();
        assert!(!expected.is_empty() && expected.len() < all.len(), "{arguments:?}: {} items", expected.len());
        assert_eq!(items(arguments), expected, "{arguments:?}");
    }
}

#[test]
fn a_filter_hides_nothing_of_the_verdict_and_bad_ones_are_wrong_usage() {
    let output = run(&["dump", "--type", "END"], "inputs/E5-tsc-mode-7.bin");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    for arguments in
        [&["--type", "PAGES"][..], &["--round", "3-2"], &["--from", "x"], &["--pfn", "-"], &["--layer", "xenops"]]
    {
        assert_eq!(run(&[&["dump"], arguments].concat(), REMUS).status.code(), Some(2), "{arguments:?}");
    }
}
