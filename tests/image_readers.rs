//! What is extracted from images, read by programs that this project did not write: gdb, the layers of volatility3, and the crate
//! `vmi-driver-xen-core-dump`. Every page that the guest has, at its address, and every register of every vCPU.
//!
//! The streams are those of real hosts; their pages, which are blank in the fixtures, get contents of their own here. That an image is its
//! stream's is held against a replay in `domain_image.rs`.
//!
//! They need gdb, python3 with venv, PyPI and crates.io, so they run when asked for: `cargo test --test image_readers -- --ignored`.

mod common;

use common::{fixture, read};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use xen_domain_image::{Image, Options, PAGE_SIZE, elf, memory};
use xen_replicate::decode::hvm_context::HvmContext;
use xen_replicate::decode::pv_vcpu::Basic;
use xen_replicate::decode::shared_info::Width;
use xen_replicate::stream::Layer;
use xen_replicate::stream::framer::What;
use xen_replicate::stream::libxc::{self, types};
use xen_replicate::stream::reader::SliceReader;

/// Streams, and the checkpoint that is looked at.
const STREAMS: [(&str, Option<u64>); 5] = [
    ("xen/4.17.7stock-hvm64-live", None),
    ("xen/4.17.7stock-pvh40-remus", Some(7)),
    ("xen/4.17.5shadow-pv48-remus", Some(20)),
    ("xen/4.20stock-hvm64-save", None),
    ("helper/pv-plain-libxc", None),
];

/// The stream with contents in every page that say which page it is and when it was sent.
fn with_contents(mut stream: Vec<u8>) -> Vec<u8> {
    let mut places = Vec::new();
    let mut reader = SliceReader::new(&stream, Default::default());
    let mut record = 0;
    // What ends a torn stream is no matter here.
    while let Ok(Some(item)) = reader.next_item() {
        let What::Record(frame) = item.what else { continue };
        record += 1;
        if item.layer != Layer::Libxc {
            continue;
        }
        let Ok(libxc::Record::PageData(data)) = libxc::Record::parse(&frame) else { continue };
        for (entry, contents) in data.pages() {
            if let Some(contents) = contents {
                places.push((contents.as_ptr() as usize - stream.as_ptr() as usize, entry.pfn, record));
            }
        }
    }
    assert!(places.len() > 1000);
    for (at, pfn, record) in places {
        let mut word = (pfn << 24 | record).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for place in stream[at..at + PAGE_SIZE].as_chunks_mut::<8>().0 {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            *place = word.to_le_bytes();
        }
    }
    stream
}

fn open(name: &str, checkpoint: Option<u64>) -> Image {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&with_contents(read(&fixture(&format!("{name}.xz"))))).unwrap();
    file.rewind().unwrap();
    Image::open(file, &Options { checkpoint, ..Options::default() }).unwrap()
}

/// Every page that the guest has.
fn pages(image: &Image) -> BTreeMap<u64, Vec<u8>> {
    let mut page = [0; PAGE_SIZE];
    image
        .populated()
        .map(|found| {
            assert!(image.read_page(found.pfn, &mut page).unwrap());
            (found.pfn, page.to_vec())
        })
        .collect()
}

/// A fixture's image in a form, in a file.
fn extracted(folder: &TempDir, image: &Image, form: &str) -> PathBuf {
    let path = folder.path().join(form);
    let file = File::create(&path).unwrap();
    match form {
        "lime" => memory::write_lime(image, file).unwrap(),
        "raw" => memory::write_raw(image, &file).unwrap(),
        _ => elf::write(image, file).unwrap(),
    }
    path
}

/// What tests have brought from elsewhere and keep.
fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("image_readers")
}

/// Runs a command with this on its standard input, to its success; gives what it printed.
fn run(command: &mut Command, input: &str) -> String {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    // One that does not read its input has closed it.
    let _ = writer.join().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Rows of addresses with their bytes, as `layer.py` writes them, page by page.
fn pages_of_rows(mut rows: &[u8]) -> BTreeMap<u64, Vec<u8>> {
    let mut pages = BTreeMap::new();
    while !rows.is_empty() {
        let word = |at: usize| u64::from_le_bytes(rows[at..at + 8].try_into().unwrap());
        let (address, length) = (word(0), word(8) as usize);
        let page_size = PAGE_SIZE as u64;
        assert_eq!((address % page_size, length as u64 % page_size), (0, 0));
        for (number, page) in rows[16..16 + length].chunks(PAGE_SIZE).enumerate() {
            assert!(pages.insert(address / page_size + number as u64, page.to_vec()).is_none());
        }
        rows = &rows[16 + length..];
    }
    pages
}

fn same(found: &BTreeMap<u64, Vec<u8>>, expected: &BTreeMap<u64, Vec<u8>>, what: &str) {
    assert!(found.keys().eq(expected.keys()), "{what}: other pages: {} and {}", found.len(), expected.len());
    for (pfn, contents) in expected {
        assert!(found[pfn] == *contents, "{what}: page {pfn:#x}");
    }
}

#[test]
#[ignore = "brings volatility3 from PyPI"]
fn volatility_reads_every_page_of_every_form() {
    let setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/image_readers/setup");
    run(Command::new(setup).arg(kept()), "");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/image_readers/layer.py");
    let mut read = 0;
    for (name, checkpoint) in STREAMS {
        let folder = TempDir::new().unwrap();
        let image = open(name, checkpoint);
        let expected = pages(&image);
        let rows = expected.keys().fold(String::new(), |mut rows, pfn| {
            writeln!(rows, "{} {PAGE_SIZE}", pfn * PAGE_SIZE as u64).unwrap();
            rows
        });
        for (layer, form) in [("lime", "lime"), ("raw", "raw"), ("elf", "core"), ("xen", "core")] {
            if layer == "xen" && image.is_pv() {
                // Its own table of types has single numbers where `.xen_p2m` has pairs, so it reads no core of a PV guest.
                continue;
            }
            let file = extracted(&folder, &image, form);
            let out = folder.path().join("out");
            let mut command = Command::new(kept().join("volatility/bin/python"));
            run(command.arg(&script).arg(layer).arg(&file).arg(&out), &rows);
            let mut expected = expected.clone();
            if layer == "xen" {
                // It takes page frame 0 for one that does not exist.
                expected.remove(&0);
            }
            same(&pages_of_rows(&fs::read(&out).unwrap()), &expected, &format!("{name} by {layer}"));
            read += expected.len();
        }
    }
    println!("{read} pages read by volatility3");
}

/// The registers of each vCPU by gdb's names, as the stream's own records have them, decoded apart from what writes cores.
fn registers(image: &Image) -> BTreeMap<u64, BTreeMap<&'static str, u64>> {
    let mut all = BTreeMap::new();
    for item in image.records(Layer::Libxc, types::HVM_CONTEXT) {
        let context = serde_json::to_value(HvmContext::inspect(&image.body(item).unwrap())).unwrap();
        for entry in context["entries"].as_array().unwrap().iter().filter(|entry| entry["name"] == "CPU") {
            all.insert(entry["instance"].as_u64().unwrap(), by_gdbs_names(&entry["body"]));
        }
    }
    for item in image.records(Layer::Libxc, types::X86_PV_VCPU_BASIC) {
        let body = image.body(item).unwrap();
        let (head, context) = body.split_at(8);
        let context = serde_json::to_value(Basic::decode(context, Width::Bits64).unwrap()).unwrap();
        all.insert(u32::from_le_bytes(head[..4].try_into().unwrap()).into(), by_gdbs_names(&context["user_regs"]));
    }
    all
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// Fields that both kinds of records have by the same name.
fn by_gdbs_names(words: &Value) -> BTreeMap<&'static str, u64> {
    const SAME: [(&str, &str); 18] = [
        ("rax", "rax"),
        ("rbx", "rbx"),
        ("rcx", "rcx"),
        ("rdx", "rdx"),
        ("rsi", "rsi"),
        ("rdi", "rdi"),
        ("rbp", "rbp"),
        ("rsp", "rsp"),
        ("r8", "r8"),
        ("r9", "r9"),
        ("r10", "r10"),
        ("r11", "r11"),
        ("r12", "r12"),
        ("r13", "r13"),
        ("r14", "r14"),
        ("r15", "r15"),
        ("rip", "rip"),
        ("rflags", "eflags"),
    ];
    SAME.into_iter()
        .map(|(field, gdbs)| {
            let number = match &words[field] {
                // With the names of its bits.
                Value::Object(value) => value["value"].as_str().and_then(hex),
                text => text.as_str().and_then(hex),
            };
            (gdbs, number.unwrap_or_else(|| panic!("{field} in {words}")))
        })
        .collect()
}

#[test]
#[ignore = "needs gdb"]
fn gdb_reads_every_page_and_every_register() {
    let (mut vcpus, mut read) = (0, 0);
    for (name, checkpoint) in STREAMS {
        let folder = TempDir::new().unwrap();
        let image = open(name, checkpoint);
        let expected = pages(&image);
        let core = extracted(&folder, &image, "core");
        let mut script = "set architecture i386:x86-64\nset pagination off\n".to_owned();
        let rows = memory::rows(&image);
        for (number, (first, count)) in rows.iter().enumerate() {
            let (from, to) = (first * PAGE_SIZE as u64, (first + count) * PAGE_SIZE as u64);
            let file = folder.path().join(format!("row{number}"));
            writeln!(script, "dump binary memory {} {from:#x} {to:#x}", file.display()).unwrap();
        }
        script.push_str("thread apply all info registers\n");
        let commands = folder.path().join("commands");
        fs::write(&commands, script).unwrap();
        let mut gdb = Command::new("gdb");
        let text = run(gdb.args(["-nx", "-batch", "-x"]).arg(&commands).arg("-c").arg(&core), "");
        let mut found = BTreeMap::new();
        for (number, (first, _)) in rows.iter().enumerate() {
            let bytes = fs::read(folder.path().join(format!("row{number}"))).unwrap();
            found.extend(bytes.chunks(PAGE_SIZE).enumerate().map(|(at, page)| (first + at as u64, page.to_vec())));
        }
        same(&found, &expected, &format!("{name} by gdb"));
        read += expected.len();
        let told = told_by_gdb(&text);
        for (vcpu, wanted) in registers(&image) {
            // Notes have the vCPU's number and one: no process has number 0.
            let told = &told[&(vcpu + 1)];
            for (register, value) in wanted {
                assert_eq!(told[register], value, "{name}: {register} of vCPU {vcpu}\n{text}");
            }
            vcpus += 1;
        }
    }
    println!("{read} pages and {vcpus} vCPUs read by gdb");
    assert!(vcpus >= STREAMS.len());
}

/// Registers by process number: those behind each `Thread 1 (LWP 1):`.
fn told_by_gdb(text: &str) -> BTreeMap<u64, BTreeMap<&str, u64>> {
    let mut told: BTreeMap<u64, BTreeMap<&str, u64>> = BTreeMap::new();
    let mut process = None;
    for line in text.lines() {
        if let Some((_, rest)) = line.strip_prefix("Thread ").and_then(|line| line.split_once("(LWP ")) {
            process = rest.split(')').next().and_then(|number| number.parse().ok());
        }
        let mut words = line.split_whitespace();
        if let (Some(process), Some(name), Some(value)) = (process, words.next(), words.next())
            && let Some(number) = hex(value)
        {
            told.entry(process).or_default().entry(name).or_insert(number);
        }
    }
    told
}

#[test]
#[ignore = "builds a crate from crates.io"]
fn the_crate_for_xens_core_dumps_reads_every_page() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/core-reader/Cargo.toml");
    let mut build = Command::new(env!("CARGO"));
    // Xen's structures as the crate has them, without Xen's libraries.
    build.env("XEN_SYS_USE_BINDINGS", "1").args(["build", "--quiet", "--locked", "--manifest-path"]).arg(package);
    run(build.arg("--target-dir").arg(kept().join("core-reader")), "");
    let (mut vcpus, mut read) = (0, 0);
    for (name, checkpoint) in STREAMS {
        let folder = TempDir::new().unwrap();
        let image = open(name, checkpoint);
        if image.is_pv() {
            continue;
        }
        // It takes page frame 0 for one that does not exist.
        let expected: BTreeMap<_, _> = pages(&image).into_iter().filter(|(pfn, _)| *pfn != 0).collect();
        let core = extracted(&folder, &image, "core");
        let out = folder.path().join("out");
        let pfns = expected.keys().fold(String::new(), |mut pfns, pfn| {
            writeln!(pfns, "{pfn}").unwrap();
            pfns
        });
        let all = image.registers().unwrap();
        let mut reader = Command::new(kept().join("core-reader/debug/core-reader"));
        let text = run(reader.arg(&core).arg(&out).arg(all.len().to_string()), &pfns);
        let contents = fs::read(&out).unwrap();
        let found = expected.keys().copied().zip(contents.chunks(PAGE_SIZE).map(<[u8]>::to_vec)).collect();
        same(&found, &expected, &format!("{name} by the crate"));
        assert_eq!(contents.len(), expected.len() * PAGE_SIZE);
        let told: Vec<Vec<u64>> = text
            .lines()
            .map(|line| line.split(' ').map(|word| u64::from_str_radix(word, 16).unwrap()).collect())
            .collect();
        let wanted: Vec<_> = all.iter().map(|vcpu| [0, 2, 3, 4].map(|number| vcpu.cr[number]).to_vec()).collect();
        assert_eq!(told, wanted, "{name}");
        vcpus += told.len();
        read += expected.len();
    }
    println!("{read} pages and {vcpus} vCPUs read by vmi-driver-xen-core-dump");
    assert!(vcpus >= 3);
}
