//! `info`, and `dump` of what is asked for, on streams that this project did not write.

mod common;

use assert_cmd::Command;
use common::{fixture, golden};
use serde_json::Value;
use std::path::Path;
use std::process::Output;
use xen_replicate::stream::What;
use xen_replicate::stream::libxc::Record;
use xen_replicate::stream::reader::SliceReader;

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
    assert_eq!(info["bytes"], stats["bytes"]);
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
    assert_eq!(all.len(), 344);
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
    ];
    for (arguments, wanted) in cases {
        let expected: Vec<_> = all.iter().filter(|item| wanted(item)).cloned().collect();
        assert!(!expected.is_empty() && expected.len() < all.len(), "{arguments:?}: {} items", expected.len());
        assert_eq!(items(arguments), expected, "{arguments:?}");
    }
    // All at once: a page that is known to be in round 5.
    let sent = all.iter().find(|item| item["round"] == 5 && item["type"] == "PAGE_DATA").unwrap();
    let pfn = number(&sent["body"]["entries"][0], "pfn");
    let found = items(&["--pfn", &pfn.to_string(), "--round", "5", "--type", "PAGE_DATA", "--layer", "libxc"]);
    assert!(found.contains(sent) && found.iter().all(|item| item["round"] == 5 && has_pfn(item, pfn)), "{found:?}");
    assert_eq!(items(&["--pfn", "0xffffffffff"]), [Value::Null; 0]);
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

/// What `dump` shows on a terminal of its own, with these variables.
fn on_terminal(arguments: &str, variables: &[(&str, &str)]) -> String {
    let program = env!("CARGO_BIN_EXE_xen-replicate");
    let line = format!("{program} dump {arguments} {}", fixture("inputs/E5-tsc-mode-7.bin").display());
    let mut script = Command::new("script");
    for name in ["NO_COLOR", "PAGER", "LESS", "TERM"] {
        script.env_remove(name);
    }
    script.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").envs(variables.iter().copied());
    let output = script.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "the stream is not valid: {output:?}");
    text(&output)
}

#[test]
fn a_terminal_has_colours_and_a_pager_as_the_usual_variables_say() {
    let plain = String::from_utf8(run(&["dump"], "inputs/E5-tsc-mode-7.bin").stdout).unwrap();
    assert!(!plain.contains('\x1b') && plain.contains("X86_TSC_INFO"), "{plain}");
    let uncoloured = |text: &str| {
        let codes = ["0", "1", "2", "31", "33", "36"].map(|code| format!("\x1b[{code}m"));
        codes.iter().fold(text.replace('\r', ""), |text, code| text.replace(code, ""))
    };
    let coloured = on_terminal("", &[("PAGER", "cat")]);
    assert!(coloured.contains("\x1b[31m     ! error: ") && coloured.contains("\x1b[36mX86_TSC_INFO "), "{coloured:?}");
    assert!(uncoloured(&coloured).starts_with(&plain), "{coloured:?}");
    for (arguments, variables) in [
        ("", &[("PAGER", ""), ("NO_COLOR", "1")][..]),
        ("", &[("PAGER", "cat"), ("TERM", "dumb")]),
        ("--color never --no-pager", &[]),
    ] {
        let shown = on_terminal(arguments, variables);
        assert!(!shown.contains('\x1b') && shown.replace('\r', "").starts_with(&plain), "{arguments}: {shown:?}");
    }
    let paged = on_terminal("--color never", &[("PAGER", "sed s/^/paged:/")]);
    let expected: String = plain.lines().map(|line| format!("paged:{line}\n")).collect();
    assert!(paged.replace('\r', "").starts_with(&expected), "{paged}");
    assert!(!on_terminal("--no-pager", &[("PAGER", "sed s/^/paged:/")]).contains("paged:"));
    // An operator who has seen enough, and a pager that is not there: what is said at the end is said.
    let enough = on_terminal("--color never", &[("PAGER", "head -n 2")]);
    assert!(
        enough.replace('\r', "").starts_with(plain.split_inclusive('\n').take(2).collect::<String>().as_str()),
        "{enough}"
    );
    on_terminal("", &[("PAGER", "/no/such/pager")]);
    // Into a file there are colours only when they are asked for, and no pager.
    let asked = run(&["dump", "--color", "always"], "inputs/E5-tsc-mode-7.bin");
    assert_eq!(uncoloured(&text(&asked)), plain);
    assert!(text(&asked).contains("\x1b[36m"));
}

/// What `verify --deep` says of bytes.
fn deep(stream: &[u8]) -> (Option<i32>, Value) {
    let mut program = Command::cargo_bin("xen-replicate").unwrap();
    let output = program.args(["verify", "--deep", "--all", "--json", "-"]).write_stdin(stream).output().unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

/// A HVM stream with one record a page: pfn and filling.
fn filled(pages: &[(u64, u8)]) -> Vec<u8> {
    use common::build::{hvm_state, hvm_static, libxc_headers, record};
    let page =
        |(pfn, fill): &(u64, u8)| record(1, &[&1u64.to_le_bytes()[..], &pfn.to_le_bytes(), &[*fill; 4096]].concat());
    let pages: Vec<u8> = pages.iter().flat_map(page).collect();
    [libxc_headers(3, 2), hvm_static(), pages, hvm_state(), record(0, &[])].concat()
}

#[test]
fn deep_tells_equal_memory_from_other_memory() {
    let digest = |pages: &[(u64, u8)]| {
        let (code, report) = deep(&filled(pages));
        assert_eq!(code, Some(0), "{report}");
        (report["deep"]["memory"][0]["pfns"].clone(), report["deep"]["memory"][0]["digest"].clone())
    };
    let one = digest(&[(0, 1), (1, 2), (2, 3)]);
    assert_eq!(one.0, 3);
    // In another order, and after other contents.
    assert_eq!(digest(&[(2, 3), (0, 1), (1, 2)]), one);
    assert_eq!(digest(&[(1, 9), (0, 1), (1, 2), (2, 7), (2, 3)]), one);
    // Contents that differ, that are elsewhere, that changed places, or that are missing.
    for other in
        [&[(0, 1), (1, 2), (2, 4)][..], &[(0, 1), (1, 2), (3, 3)], &[(0, 2), (1, 1), (2, 3)], &[(0, 1), (1, 2)]]
    {
        assert_ne!(digest(other).1, one.1, "{other:?}");
    }
    let (_, report) = deep(&filled(&[(0, 0), (1, 2), (2, 0), (3, 0)]));
    assert_eq!((&report["deep"]["pages"], &report["deep"]["zero"]), (&4.into(), &3.into()));
}

#[test]
fn deep_digests_each_checkpoint() {
    let report: Value =
        serde_json::from_str(&text(&run(&["verify", "--deep", "--json"], "helper/hvm-remus-libxl.xz"))).unwrap();
    // Made-up registers end it at the first image, without --all.
    assert_eq!(report["valid"], false);
    let report: Value =
        serde_json::from_str(&text(&run(&["verify", "--deep", "--all", "--json"], "helper/hvm-remus-libxl.xz")))
            .unwrap();
    let memory = report["deep"]["memory"].as_array().unwrap();
    assert_eq!((memory.len(), &report["deep"]["pages"]), (3, &(260 + 62 + 54).into()));
    let mut digests: Vec<_> = memory.iter().map(|memory| memory["digest"].as_str().unwrap()).collect();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 3, "the guest has written between checkpoints");
    // Real hosts' streams whose pages were set to zero.
    let real: Value =
        serde_json::from_str(&text(&run(&["verify", "--deep", "--json"], "xen/4.17.5shadow-pv48-remus.xz"))).unwrap();
    assert_eq!((&real["valid"], &real["deep"]["pages"]), (&true.into(), &real["deep"]["zero"]));
    assert_eq!(real["deep"]["memory"].as_array().unwrap().len(), 40);
    assert!(real["deep"]["tables"].as_u64().unwrap() > 0);
}

#[test]
fn deep_finds_every_page_table_that_leaves_the_p2m() {
    let good = common::read(&fixture("helper/pv-plain-libxc.xz"));
    let (_, report) = deep(&good);
    let tables = report["deep"]["tables"].as_u64().unwrap();
    let findings = |report: &Value| {
        let list = report["findings"].as_array().unwrap();
        list.iter().filter(|it| it["message"].as_str().unwrap().contains("the page table at pfn")).count()
    };
    assert!(tables > 0);
    assert_eq!(findings(&report), 0, "{report}");
    // The first and the last entry of each table, one after the other.
    let mut reader = SliceReader::new(&good, Default::default());
    let mut places = Vec::new();
    while let Some(item) = reader.next_item().unwrap() {
        let What::Record(frame) = &item.what else { continue };
        let Ok(Record::PageData(pages)) = Record::parse(frame) else { continue };
        let mut at = item.offset as usize + 8 + 8 + 8 * pages.count();
        for entry in pages.entries() {
            if entry.page_type.table_level().is_some() {
                places.push(at);
            }
            at += if entry.page_type.has_contents() { 4096 } else { 0 };
        }
    }
    assert_eq!(places.len() as u64, tables);
    for place in places {
        for at in [place, place + 4096 - 8] {
            let mut bad = good.clone();
            // The highest pfn of 40 bits, present.
            bad[at..at + 8].copy_from_slice(&(((1u64 << 40) - 1) << 12 | 1).to_le_bytes());
            let (code, report) = deep(&bad);
            assert_eq!((code, findings(&report)), (Some(1), 1), "{at}: {report}");
        }
    }
}
