//! `report`: the page's data against what other commands say, what it makes of hostile texts, its bounds; and the page in a browser.

#[path = "report/browser.rs"]
mod browser;
mod common;

use browser::Browser;
use common::build::{hvm_state, hvm_static, libxc_headers, libxl_checkpoint, libxl_header, record, xl_preamble};
use common::fixture;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use xen_replicate::control::Status;
use xen_replicate::control::status::{Figures, Loudness, Notice, Summary};

const PROGRAM: &str = env!("CARGO_BIN_EXE_xen-replicate");

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments);
    command
}

const REMUS: &str = "xen/4.20stock-pvh32small-remus.xz";

fn data(file: &Path) -> Value {
    let output = command(&["report", "--json"]).arg(file).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The page of a file.
fn page(folder: &TempDir, file: &Path) -> PathBuf {
    let page = folder.path().join("page.html");
    let output = command(&["report"]).arg(file).arg("-o").arg(&page).arg("--overwrite").output().unwrap();
    assert!(output.status.code().is_some_and(|code| code < 2), "{output:?}");
    page
}

const MARKUP: &str = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>&lt;";

/// A stream of whose texts each is markup.
fn hostile() -> Vec<u8> {
    let config = json!({"c_info": {"name": MARKUP, "type": "hvm"}, "disks": [{"vdev": MARKUP, "pdev_path": "<b>"}]});
    let keys = [&[2, 0, 0, 0, 0, 0, 0, 0][..], MARKUP.as_bytes(), b"\0", MARKUP.as_bytes(), b"\0"].concat();
    let page = record(1, &[&1u64.to_le_bytes()[..], &5u64.to_le_bytes(), &[7; 4096]].concat());
    [
        xl_preamble(format!("{config}\0").as_bytes()),
        libxl_header(),
        record(1, &[]),
        libxc_headers(3, 2),
        hvm_static(),
        page,
        hvm_state(),
        record(0, &[]),
        record(2, &keys),
        record(0, &[]),
    ]
    .concat()
}

/// A Remus stream: each round has a few pages, and what the CPU does changes.
fn long(rounds: u64) -> impl Iterator<Item = Vec<u8>> {
    let head = [libxl_header(), record(1, &[]), libxc_headers(3, 2), hvm_static()].concat();
    let page = |pfn: u64, fill: u64| {
        let contents: Vec<u8> = fill.to_le_bytes().repeat(512);
        record(1, &[&1u64.to_le_bytes()[..], &pfn.to_le_bytes(), &contents].concat())
    };
    let rounds = (0..rounds).map(move |round| {
        let pages = if round == 0 { 512 } else { 4 };
        let written = (0..pages).flat_map(|at| page(if round == 0 { at } else { at * 7 + round % 400 }, round / 2));
        let written: Vec<u8> = written.collect();
        [written, hvm_state(), record(14, &[]), libxl_checkpoint()].concat()
    });
    [head].into_iter().chain(rounds)
}

/// A log of a day's first hours, one status a second.
fn log(statuses: u64) -> String {
    let status = |second: u64| {
        let ms = |value| Summary { p50: value, p99: value * 3, max: value * 9 };
        let notices = if second % 100 < 10 && second >= 100 {
            let level = if (second / 100).is_multiple_of(2) { Loudness::Critical } else { Loudness::Info };
            vec![Notice { age_ms: second % 100 * 1000, level, text: format!("word {} {MARKUP}", second / 100) }]
        } else {
            Vec::new()
        };
        let statistics = Figures {
            checkpoints: second * 20,
            pages: second * 9000,
            bytes: second << 24,
            pause: ms(900 + second % 700),
            transmission: ms(7000),
            acknowledgement: ms(400),
            output_delay: ms(40_000 + second % 9000),
            ..Figures::default()
        };
        let (domain, phase) = (MARKUP.to_owned(), "protected".to_owned());
        Status { domain, phase, protected: true, elapsed_ms: second * 1000, notices, statistics, ..Status::default() }
    };
    (1..=statuses).map(|second| serde_json::to_string(&status(second)).unwrap() + "\n").collect()
}

#[test]
fn the_data_is_what_other_commands_say() {
    let file = fixture(REMUS);
    let report = data(&file);
    let of = |arguments: &[&str]| -> Value {
        serde_json::from_slice(&command(arguments).arg(&file).output().unwrap().stdout).unwrap()
    };
    let (info, stats, verify) = (of(&["info", "--json"]), of(&["stats", "--json"]), of(&["verify", "--json", "--all"]));
    assert_eq!((&report["kind"], &report["info"]), (&json!("stream"), &info));
    assert_eq!(report["total"], stats["total"]);
    assert_eq!(report["distinct_pages"], stats["distinct_pages"]);
    assert_eq!(report["findings"].as_array().unwrap().len(), verify["findings"].as_array().unwrap().len());
    // Each pass of each round, and each page in the map.
    let groups = report["timeline"]["groups"].as_array().unwrap();
    let mut passes = 0;
    for round in stats["rounds"].as_array().unwrap() {
        let iterations = round["iterations"].as_array().map_or(1, Vec::len);
        let mine = &groups[passes..passes + iterations];
        assert!(mine.iter().all(|group| group["round"] == round["round"] && group["steps"] == 1));
        let pages: u64 = mine.iter().map(|group| group["pages"].as_u64().unwrap()).sum();
        assert_eq!(round["pages"], pages);
        passes += iterations;
    }
    assert_eq!((passes, passes > 13), (groups.len(), true));
    let cells = report["map"]["rows"].as_array().unwrap().iter().flat_map(|row| row["cells"].as_array().unwrap());
    assert_eq!(cells.map(|cell| cell[1].as_u64().unwrap()).sum::<u64>(), stats["total"]["pages"].as_u64().unwrap());
    // The table has every item, as dump does.
    let lines = report["records"]["lines"].as_array().unwrap();
    let dumped = command(&["dump", "--json"]).arg(&file).output().unwrap();
    let dumped: Vec<Value> =
        String::from_utf8(dumped.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &report["records"]["left_out"]), (dumped.len(), &json!(0)));
    for (line, item) in lines.iter().zip(&dumped) {
        assert!(["index", "offset", "layer", "round", "type", "length"].iter().all(|key| line[key] == item[key]));
    }
    // What the last checkpoint left, and what it changed.
    let state = report["state"]["records"].as_array().unwrap();
    let context = state.iter().find(|record| record["record"] == "HVM_CONTEXT").unwrap();
    let last = dumped.iter().rfind(|item| item["type"] == "HVM_CONTEXT").unwrap();
    assert_eq!((&context["round"], &context["value"]), (&last["round"], &last["body"]));
    let changes = report["state"]["changes"].as_array().unwrap();
    assert!(
        changes.iter().any(|change| {
            let fields = change["fields"].as_array().unwrap();
            fields
                .iter()
                .any(|field| field["record"] == "HVM_CONTEXT" && field["field"].as_str().unwrap().contains("tsc"))
        }),
        "{changes:?}"
    );
}

#[test]
fn no_text_of_a_file_becomes_markup() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("<img src=x onerror=hacked=1>.save");
    fs::write(&file, hostile()).unwrap();
    let log_file = folder.path().join("<script>.log");
    fs::write(&log_file, log(300)).unwrap();
    for (file, words) in [(&file, "window.hacked=1"), (&log_file, "word 2")] {
        let page = fs::read_to_string(page(&folder, file)).unwrap();
        assert!(page.contains(words));
        assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (2, 2));
        assert!(!page.contains("<img") && !page.contains("<b>") && !page.contains("{{"));
    }
}

#[test]
fn a_report_replaces_nothing_unasked_and_says_how_the_file_is() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("page.html");
    let run = |file: &str, more: &[&str]| {
        let output = command(&["report"]).arg(fixture(file)).arg("-o").arg(&out).args(more).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run("inputs/E5-tsc-mode-7.bin", &[]).0, Some(1), "not valid, and told all the same");
    let first = fs::read(&out).unwrap();
    assert!(String::from_utf8_lossy(&first).contains("X86_TSC_INFO: mode is 7"));
    let (code, said) = run("inputs/B3a-param-unknown-77.bin", &[]);
    assert!(code == Some(2) && said.contains("--overwrite"), "{said}");
    assert_eq!(fs::read(&out).unwrap(), first);
    assert_eq!(run("inputs/A4-elf-dump-core.bin", &["--overwrite"]).0, Some(1), "no stream at all");
    assert!(String::from_utf8_lossy(&fs::read(&out).unwrap()).contains("ELF"));
    let (code, said) = run("colo/qemu72-between.rec.xz", &["--overwrite"]);
    assert!(code == Some(2) && said.contains("a session of COLO"), "{said}");
    let mut broken = command(&["report", "--json", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    drop(broken.stdin.take());
    assert_eq!(broken.wait().unwrap().code(), Some(1), "an empty file is no stream");
}

/// The program in an address space of 256 MiB, reading from a pipe that is never whole in memory.
fn within_256_mib(arguments: &str, stream: impl Iterator<Item = Vec<u8>>) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -v 262144; exec \"$0\" {arguments}"), PROGRAM]);
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let reader = std::thread::spawn(move || child.wait_with_output().unwrap());
    for part in stream {
        // Where it ends early, its status says so.
        if std::io::Write::write_all(&mut stdin, &part).is_err() {
            break;
        }
    }
    drop(stdin);
    reader.join().unwrap()
}

#[test]
fn ten_thousand_rounds_take_no_more_than_256_mib() {
    for arguments in ["report --json -", "info --json -", "verify --deep --json -", "stats --json -"] {
        let output = within_256_mib(arguments, long(10_000));
        assert_eq!(output.status.code(), Some(0), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        let checkpoints =
            if arguments.starts_with("report") { &told["info"]["checkpoints"] } else { &told["checkpoints"] };
        assert_eq!(*checkpoints, 10_000, "{arguments}");
        if arguments.starts_with("report") {
            assert_eq!(told["timeline"]["steps"], 10_000);
            assert!(told["timeline"]["groups"].as_array().unwrap().len() <= 2048);
            assert!(output.stdout.len() < 16 << 20, "{} bytes", output.stdout.len());
        }
    }
}

#[test]
fn a_stream_of_nothing_but_trouble_takes_no_more_than_256_mib() {
    // Records that nobody knows, each of another type, of another vCPU, and pages all over the place.
    let head = [libxc_headers(3, 2), hvm_static()].concat();
    let parts = (0..60_000_u64).map(|at| {
        let page = [&1u64.to_le_bytes()[..], &(at * 0x1_0000_0001 % (1 << 40)).to_le_bytes(), &[1; 4096]].concat();
        [record(0x8000_0000 | at as u32, &[9; 64]), record(1, &page)].concat()
    });
    let output = within_256_mib("report --json -", std::iter::once(head).chain(parts));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(told["total"]["pages"], 60_000);
    assert!(told["untracked"].as_u64().unwrap() > 0, "the bound of what is kept track of was reached");
    assert!(output.stdout.len() < 32 << 20, "{} bytes", output.stdout.len());
}

/// A record of a few bytes an entry is many bytes when it is decoded: MSRs with every bit set, entries of a HVM context.
#[test]
fn records_that_decode_to_very_much_take_no_more_than_256_mib() {
    let msrs: Vec<u8> = [0x10au32.to_le_bytes(), [0; 4]].concat().into_iter().chain([0xff; 8]).collect();
    let parts = (0..40_u32).map(|vcpu| {
        let body = [&vcpu.to_le_bytes()[..], &[0; 4], &msrs.repeat((127 << 10) / msrs.len())].concat();
        record(0xc, &body)
    });
    let head = [libxc_headers(3, 1), record(2, &[8, 4, 0, 0, 0, 0, 0, 0])].concat();
    let output = within_256_mib("report --json -", std::iter::once(head).chain(parts));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let records = told["state"]["records"].as_array().unwrap();
    assert!(records.len() >= 40, "{}", records.len());
    assert!(records.iter().any(|record| !record["value"].is_null()), "one of them is shown");
    assert!(output.stdout.len() < 32 << 20, "{} bytes", output.stdout.len());
}

/// How many rows a table shows.
fn rows(browser: &mut Browser, table: &str) -> u64 {
    browser.run(&format!("document.querySelectorAll('#{table} tbody tr').length")).as_u64().unwrap()
}

fn click(browser: &mut Browser, id: &str) {
    browser.run(&format!("document.getElementById('{id}').click()"));
}

fn text(browser: &mut Browser, id: &str) -> String {
    browser.run(&format!("document.getElementById('{id}').textContent")).as_str().unwrap().to_owned()
}

/// Nothing was fetched, nothing went wrong.
fn is_quiet(browser: &Browser) {
    assert!(
        browser.asked.iter().all(|url| url.starts_with("file://") && url.ends_with("page.html")),
        "{:?}",
        browser.asked
    );
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

fn browser() -> Option<Browser> {
    let browser = Browser::start();
    if browser.is_none() {
        eprintln!("skipped: there is no chromium here (apt-get install chromium)");
    }
    browser
}

#[test]
#[ignore = "needs Debian's chromium; .ci/run installs and runs it"]
fn a_page_of_a_real_stream_opens_filters_and_zooms() {
    let Some(mut browser) = browser() else { return };
    let folder = TempDir::new().unwrap();
    browser.open(&page(&folder, &fixture(REMUS)));
    is_quiet(&browser);
    assert_eq!(text(&mut browser, "verdict"), "✓ valid");
    let sections = browser.run("[...document.querySelectorAll('main > section')].map((it) => it.id).join(' ')");
    assert_eq!(sections, "summary findings rounds map-section changes state records");

    // Filters.
    assert_eq!(rows(&mut browser, "records-table"), 100);
    browser.run("document.body.focus()");
    browser.press("/");
    assert_eq!(browser.run("document.activeElement.id"), "records-search");
    browser.enter("hvm_context");
    assert!(text(&mut browser, "records-table-count").ends_with("of 13"), "one in each round");
    assert_eq!(rows(&mut browser, "records-table"), 13);
    browser.run("(() => { const it = document.getElementById('records-round'); it.value = '3-5'; it.dispatchEvent(new Event('input')); })()");
    assert_eq!(rows(&mut browser, "records-table"), 3);
    browser.enter(" nowhere");
    assert_eq!(
        (rows(&mut browser, "records-table"), text(&mut browser, "records-table-count")),
        (0, "no record that is listed here is like that: dump has all".into())
    );

    // Zooms, by keys and by buttons; the charts and the map show the same part of time.
    let columns = browser.run("document.querySelectorAll('#chart-pages rect').length").as_u64().unwrap();
    assert!(columns > 13, "{columns}");
    browser.run("document.getElementById('chart-pages').focus()");
    browser.press("End");
    assert!(text(&mut browser, "chart-pages-readout").starts_with("round 12:"), "the last one");
    browser.press("+");
    let nearer = browser.run("document.querySelectorAll('#chart-pages rect').length").as_u64().unwrap();
    assert!(nearer < columns, "{nearer} of {columns}");
    assert!(text(&mut browser, "rounds-range").starts_with("shown: "));
    browser.press("0");
    assert!(text(&mut browser, "rounds-range").starts_with("all: "));
    let at = "document.getElementById('map').dataset.rows";
    let all = browser.run(at);
    browser.run("document.getElementById('map').focus()");
    browser.press("+");
    let near = browser.run(at);
    browser.press("ArrowDown");
    let moved = browser.run(at);
    assert!(all != near && near != moved, "{all} {near} {moved}");
    click(&mut browser, "map-all");
    assert_eq!(browser.run(at), all);
    // Something is drawn, in another colour than where nothing is.
    let colours = "(() => { const it = document.getElementById('map'); const all = it.getContext('2d').getImageData(0, 0, it.width, it.height).data; \
                   const seen = new Set(); for (let at = 0; at < all.length; at += 4) seen.add(all.slice(at, at + 4).join()); return seen.size; })()";
    assert!(browser.run(colours).as_u64().unwrap() > 4);
    browser.run("document.getElementById('map-find').focus()");
    browser.enter("0x10");
    browser.press("Enter");
    assert!(text(&mut browser, "map-readout").starts_with("Shown: pfns 0x0 "), "{}", text(&mut browser, "map-readout"));

    // Differences, state.
    assert!(rows(&mut browser, "changes-table") > 3);
    let first = text(&mut browser, "changes-table");
    click(&mut browser, "changes-next");
    assert_ne!(text(&mut browser, "changes-table"), first);
    browser.run("document.getElementById('changes-search').focus()");
    browser.enter("no such field");
    assert_eq!(rows(&mut browser, "changes-table"), 0);
    let open = "(() => { const it = [...document.querySelectorAll('#state > details')].find((it) => it.textContent.startsWith('HVM_CONTEXT')); it.open = true; return true; })()";
    assert_eq!(browser.run(open), true);
    // A level is made when it is opened, of which the page hears a little later.
    let made = browser.wait_for(
        "new Promise((done) => { let tries = 0; const look = () => { const made = document.querySelectorAll('#state .tree').length; \
         tries += 1; if (made || tries > 5000) done(made); else setTimeout(look, 2); }; look(); })",
    );
    assert!(made.as_u64().unwrap() > 0);

    // Light and dark, by the system's wish and by the button.
    let colour = "getComputedStyle(document.body).backgroundColor";
    browser.prefer("light");
    let light = browser.run(colour);
    browser.prefer("dark");
    let dark = browser.run(colour);
    assert_ne!(light, dark);
    click(&mut browser, "theme");
    assert_eq!(browser.run(colour), light, "light although the system is dark");
    click(&mut browser, "theme");
    assert_eq!(browser.run(colour), dark);
    is_quiet(&browser);
}

#[test]
#[ignore = "needs Debian's chromium; .ci/run installs and runs it"]
fn a_page_can_be_used_by_keyboard_alone() {
    let Some(mut browser) = browser() else { return };
    let folder = TempDir::new().unwrap();
    browser.open(&page(&folder, &fixture(REMUS)));
    let reachable = "[...document.querySelectorAll('a, button, input, select, summary, canvas, svg, [tabindex]')]\
                     .filter((it) => !it.disabled && it.id !== 'main' && it.getClientRects().length && it.tabIndex < 0).length";
    assert_eq!(browser.run(reachable), 0);
    browser.press("Tab");
    assert_eq!(browser.run("document.activeElement.className"), "skip");
    let mut seen = Vec::new();
    for _ in 0..40 {
        browser.press("Tab");
        let id = browser.run("document.activeElement.id");
        seen.push(id.as_str().unwrap_or_default().to_owned());
    }
    for id in ["theme", "rounds-in", "chart-pages", "map", "map-find"] {
        assert!(seen.iter().any(|seen| seen == id), "{id}: {seen:?}");
    }
    let named = "[...document.querySelectorAll('button, input, select, canvas, svg')]\
                 .filter((it) => !(it.getAttribute('aria-label') || it.textContent.trim())).length";
    assert_eq!(browser.run(named), 0, "controls without a name");
}

#[test]
#[ignore = "needs Debian's chromium; .ci/run installs and runs it"]
fn hostile_texts_stay_texts_in_a_browser() {
    let Some(mut browser) = browser() else { return };
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("<img src=x onerror=hacked=1>.save");
    fs::write(&file, hostile()).unwrap();
    let log_file = folder.path().join("<script>.log");
    fs::write(&log_file, log(300)).unwrap();
    for file in [&file, &log_file] {
        browser.open(&page(&folder, file));
        browser.run("document.querySelectorAll('details').forEach((it) => { it.open = true; })");
        browser.wait_for("new Promise((done) => setTimeout(() => done(1), 0))");
        let there = "[typeof window.hacked, document.querySelectorAll('img, b:not(.tile b), script:not(#data)').length, document.body.innerText.includes('onerror=window.hacked=1')].join()";
        assert_eq!(browser.run(there), "undefined,1,true", "{}", file.display());
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(text(&mut browser, "title"), name);
        is_quiet(&browser);
    }
}

#[test]
#[ignore = "needs Debian's chromium; .ci/run installs and runs it"]
fn ten_thousand_rounds_and_a_long_log_stay_usable() {
    let Some(mut browser) = browser() else { return };
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("long");
    let mut out = File::create(&file).unwrap();
    long(10_000).for_each(|part| std::io::Write::write_all(&mut out, &part).unwrap());
    let made = page(&folder, &file);
    eprintln!("10,000 rounds: a page of {} bytes", fs::metadata(&made).unwrap().len());
    browser.open(&made);
    is_quiet(&browser);
    // The document stays small, whatever there is to show.
    let elements = browser.run("document.querySelectorAll('*').length").as_u64().unwrap();
    assert!(elements < 6000, "{elements} elements");
    let took = "(() => { const begun = performance.now(); const it = document.getElementById('records-search'); it.value = 'tsc'; \
                it.dispatchEvent(new Event('input')); for (let at = 0; at < 6; at += 1) document.getElementById('rounds-in').click(); return performance.now() - begun; })()";
    let took = browser.run(took);
    eprintln!("10,000 rounds: {elements} elements; a search and six zooms: {took} ms");
    assert!(text(&mut browser, "records-table-count").contains(" of "));
    assert!(text(&mut browser, "rounds-range").starts_with("shown: rounds "));
    assert!(text(&mut browser, "records").contains("not listed"));

    let log_file = folder.path().join("long.log");
    fs::write(&log_file, log(10_000)).unwrap();
    browser.open(&page(&folder, &log_file));
    is_quiet(&browser);
    assert_eq!(text(&mut browser, "verdict"), "✓ protected");
    assert_eq!(browser.run("document.querySelectorAll('svg.chart').length"), 5);
    let critical = "(() => { const it = document.getElementById('events-level'); it.value = 'critical'; it.dispatchEvent(new Event('input')); })()";
    let all = text(&mut browser, "events-table-count");
    browser.run(critical);
    let few = text(&mut browser, "events-table-count");
    assert!(all != few && few.contains(" of "), "{all}; {few}");
}
