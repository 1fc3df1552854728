//! The checks of the fuzz targets over every seed and every input that a fuzz run once tripped over.

mod common;
#[path = "colo_ends/script.rs"]
#[expect(dead_code, reason = "the bytes of its session are wanted, not the ends")]
mod script;
#[path = "../fuzz/src/lib.rs"]
mod targets;

use common::build;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use targets::{Steered, blobs, containers, images, moving, packed, streams, taps};
use xen_replicate::inspect::Input;
use xen_replicate::tap::recording::Reader;
use xen_replicate::tap::{Direction, Form};

/// A file under the package's root.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(folder: &str) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(path(folder)) else { return BTreeMap::new() };
    let read = |path: PathBuf| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap());
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).map(read).collect()
}

/// A Remus stream of libxl with two checkpoints and holes for pages.
fn remus() -> Vec<u8> {
    let head = [build::libxl_header(), build::record(1, &[]), build::libxc_headers(3, 2), build::hvm_static()].concat();
    let page = build::record(1, &build::pages(&[0xf << 60 | 1, 0xe << 60 | 2], 0));
    let round = [page, build::hvm_state(), build::record(14, &[]), build::libxl_checkpoint()].concat();
    [head, round.clone(), round].concat()
}

/// The same in lock-step.
fn colo() -> Vec<u8> {
    let head = [build::libxl_header(), build::record(1, &[]), build::libxc_headers(3, 2), build::hvm_static()].concat();
    let page = build::record(1, &build::pages(&[0xf << 60 | 1], 0));
    let round = [page, build::hvm_state(), build::record(14, &[]), build::libxl_checkpoint()].concat();
    [head, round.clone(), build::state(0), round].concat()
}

/// What the secondary answers, banner first.
fn back() -> Vec<u8> {
    let round = [build::state(1), build::record(15, &[7u64.to_le_bytes(), 9u64.to_le_bytes()].concat())].concat();
    let running = [build::state(2), build::state(3)].concat();
    [&b"xl migration receiver ready, send binary domain data.\n"[..], &running, &round, &running].concat()
}

/// A HVM stream of libxl in version 2 with every kind of thing that is worth a remark.
fn remarks() -> Vec<u8> {
    let head = [build::xl_preamble(b"{}\0"), build::libxl_header(), build::record(1, &[]), build::libxc_headers(2, 2)];
    let pages = build::record(1, &build::pages(&[0xf << 60 | 0x21 << 52 | 1, 0xd << 60 | 3], 0));
    let mut odd = build::record(0x8000_0042, b"skip me");
    *odd.last_mut().unwrap() = 1;
    let verify = [build::record(13, &[]), build::record(1, &build::pages(&[0xf << 60 | 1], 0))].concat();
    let state = [build::record(9, &build::small_context()), build::record(10, &build::hvm_params(&[(1, 2)]))].concat();
    let end = [build::record(11, b"toolstack"), build::record(0, &[]), build::record(0, &[])].concat();
    let trailer = b"domain is yours, you are cleared to unpause\0".to_vec();
    [head.concat(), pages, odd, verify, state, end, trailer].concat()
}

/// QEMU's container with a machine type and one section.
fn qevm() -> Vec<u8> {
    let mut out = b"QEVM\0\0\0\x03\x07\0\0\0\x02pc".to_vec();
    out.extend_from_slice(b"\x04\0\0\0\x02\x05timer\0\0\0\0\0\0\0\x02");
    out.extend_from_slice(&[0; 24]);
    out.extend_from_slice(b"\x7e\0\0\0\x02\0");
    out
}

/// The seeds: small, whole streams of every kind behind control bytes, and blobs behind the decoder's number.
fn seeds() -> BTreeMap<String, Vec<u8>> {
    let mut seeds = BTreeMap::new();
    let splits = [0, 0, 0, 1, 7, 200, 8, 3];
    for (name, control, stream) in [
        ("hvm-libxc", [0; 8], build::hvm_libxc()),
        ("hvm-xl", splits, build::hvm_xl()),
        ("pv-libxc", splits, build::pv_libxc()),
        ("remus", splits, remus()),
        (
            "remus-libxc",
            [3, 2, 0, 8, 0, 0, 0, 0],
            [build::hvm_libxc()[..288].to_vec(), build::record(14, &[])].concat(),
        ),
        ("colo", [2, 3, 1, 16, 255, 2, 1, 1], colo()),
        ("back", [0, 4, 0, 1, 1, 1, 1, 1], back()),
        ("remarks", [0, 0, 4, 1, 0, 9, 0, 0], remarks()),
        ("small-limits", [1, 1, 2, 8, 8, 8, 8, 8], build::hvm_xl()),
    ] {
        seeds.insert(format!("stream/{name}"), [&control[..], &stream].concat());
    }
    let params = build::hvm_params(&[(0, 1), (5, 7), (13, 2)]);
    let cpuid: Vec<u8> = [0u32, u32::MAX, 0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69].map(u32::to_le_bytes).concat();
    for (name, pick, blob) in [
        ("xl-config", 0, b"{\"c_info\": {\"type\": \"pvh\", \"name\": \"t\"}, \"disks\": [{}]}\0".to_vec()),
        ("cpuid", 1, cpuid),
        ("msrs", 2, [0x10a_u64.to_le_bytes(), 3u64.to_le_bytes()].concat()),
        ("tsc", 3, build::tsc_info()),
        ("hvm-context", 4, build::small_context()),
        ("hvm-params", 5, params),
        ("vcpu-extended", 8, vec![1; 128]),
        ("vcpu-xsave", 9, vec![1; 600]),
        ("qevm", 11, qevm()),
        ("entry-cpu", 13 + 2, vec![0; 1032]),
        ("entry-pic", 13 + 3, vec![0; 8]),
        ("entry-rtc", 13 + 11, vec![0; 16]),
        ("entry-mtrr", 13 + 14, vec![0; 400]),
        ("entry-cpu-msr", 13 + 20, vec![0; 24]),
    ] {
        seeds.insert(format!("decode/{name}"), [&[pick][..], &blob].concat());
    }
    for (name, form, whole) in
        [("qemu", Form::Qemu, false), ("qemu-whole", Form::Qemu, true), ("frame-v8", Form::FrameV8, false)]
    {
        let file = script::recording(form, whole, 2);
        seeds.insert(format!("tap/{name}"), taps::pieces(form, &session_of(&file)));
        seeds.insert(format!("tap/{name}-file"), file);
    }
    seeds.insert("tap/multifd".into(), taps::pieces(Form::Qemu, &multifd()));
    let [begin, round, end] = script::waiting();
    let waits = [
        (0, Direction::Forward, begin),
        (0, Direction::Back, vec![0, 2, 0, 4, 0, 0, 0, 9]),
        (0, Direction::Forward, round.repeat(520)),
        (0, Direction::Back, vec![0, 7, 0, 0]),
        (0, Direction::Forward, end),
        (0, Direction::Back, vec![0, 1, 0, 4, 0, 0, 0, 0]),
    ];
    seeds.insert("tap/waits".into(), taps::pieces(Form::Qemu, &waits));
    for (name, bytes) in wrapped() {
        seeds.insert(format!("containers/{name}"), bytes);
    }
    for (name, bytes) in legacy() {
        seeds.insert(format!("moving/{name}"), bytes);
    }
    let libxl = [(0, Direction::Back, back()[..86].to_vec()), (0, Direction::Forward, colo())];
    seeds.insert("tap/libxl".into(), taps::pieces(Form::Libxl, &libxl));
    seeds
}

/// Images of Xen before 4.6: HVM guests with next to nothing in them.
fn legacy() -> [(&'static str, Vec<u8>); 2] {
    let image = |wide: bool| {
        let ulong = |value: u64| value.to_le_bytes()[..if wide { 8 } else { 4 }].to_vec();
        let chunk = |number: i32, body: &[u8]| [&number.to_le_bytes()[..], body].concat();
        let tsc = chunk(-7, &[1; 20]);
        let pages = chunk(2, &[ulong(0xf000_0000), ulong(0xe000_0001)].concat());
        let magic: Vec<u8> = [1u64, 2, 3].into_iter().flat_map(u64::to_le_bytes).collect();
        let tail =
            [&magic[..], &4u32.to_le_bytes(), b"blob", b"DeviceModelRecord0002", &2u32.to_le_bytes(), b"qq"].concat();
        [ulong(9), chunk(-8, &[2; 12]), pages, tsc, chunk(0, &[]), tail].concat()
    };
    let config = b"{\"c_info\":{\"type\":\"hvm\"}}\0";
    let length = (config.len() as u32).to_le_bytes();
    let words = [0x0102_0304, 1, 0, config.len() as u32 + 4].map(u32::to_le_bytes).concat();
    let xl = [&b"Xen saved domain, xl format\n \0 \r"[..], &words, &length, config, &image(true)].concat();
    [("xl", xl), ("xend", [b"LinuxGuestRecord\0\0\0\x0d(image (hvm))", &image(false)[..]].concat())]
}

/// Streams in containers, behind text, before zeros, and what is none.
fn wrapped() -> [(&'static str, Vec<u8>); 6] {
    let page = build::record(1, &build::pages(&[0xf << 60 | 1], 0));
    let libxc =
        [build::libxc_headers(3, 2), build::hvm_static(), page, build::hvm_state(), build::record(0, &[])].concat();
    let libxl = [build::libxl_header(), build::record(1, &[]), libxc.clone(), build::record(0, &[])].concat();
    let libvirt = [&b"libvirt-xml\n \0 \r\x02\0\0\0\x0c\0\0\0"[..], &[0; 40], b"<domain/>\0\0\0", &libxl].concat();
    let part = |id: u64, bytes: &[u8]| [&id.to_le_bytes()[..], &(bytes.len() as u64).to_le_bytes(), bytes].concat();
    let xapi = [b"XenSavedDomv2-\n", &part(0xf, b"((word_size 64))")[..], &part(0xf0, b""), &libxc].concat();
    let xapi = [xapi, part(0xf00, b"QEVM"), part(0xffff, b"")].concat();
    let middle = libxl.len() / 2;
    [
        ("libvirt", libvirt),
        ("xapi", xapi),
        ("motd", [&b"Welcome to host b!\r\n"[..], &libxl].concat()),
        ("stderr", [&libxl[..16], b"xc: info: Saving domain 7\n", &libxl[16..]].concat()),
        ("crash", [&libxl[..middle], &vec![0; 4096][..]].concat()),
        ("xend", b"LinuxGuestRecord\0\0\0\x28((domain (domid 1)))".to_vec()),
    ]
}

/// Two channels with a SYNC each, and a main connection with a return path and one flush mark.
fn multifd() -> Vec<(u16, Direction, Vec<u8>)> {
    let channel = |id: u8| {
        let magic = [0x1122_3344_u32.to_be_bytes(), 1_u32.to_be_bytes()].concat();
        let hello = [magic.as_slice(), &[0; 16], &[id], &[0; 39]].concat();
        let mut packet = [magic, vec![0; 1336]].concat();
        packet[11] = 1;
        packet[31] = id;
        [hello, packet].concat()
    };
    let image = script::recording(Form::Qemu, false, 1);
    let image = &session_of(&image)[0].2;
    // In place of ENABLE_COLO: OPEN_RETURN_PATH and PING 1.
    let head = [&image[..8], &[8, 0, 1, 0, 0, 8, 0, 2, 0, 4, 0, 0, 0, 1]].concat();
    let mut main = [head, image[13..].to_vec()].concat();
    // In front of the end of the first RAM section.
    let end = main.windows(8).position(|word| word == [0, 0, 0, 0, 0, 0, 0, 0x10]).unwrap();
    main.splice(end..end, [0, 0, 0, 0, 0, 0, 2, 0]);
    let answers = vec![0, 2, 0, 4, 0, 0, 0, 1, 0, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0];
    vec![
        (1, Direction::Forward, channel(0)),
        (0, Direction::Forward, main),
        (2, Direction::Forward, channel(1)),
        (0, Direction::Back, answers),
        (0, Direction::Forward, vec![0, 0, 0, 1]),
    ]
}

/// What a recording has of both directions.
fn session_of(file: &[u8]) -> Vec<(u16, Direction, Vec<u8>)> {
    let mut reader = Reader::new(file).unwrap();
    let mut out = Vec::new();
    while let Some((entry, bytes)) = reader.next_entry().unwrap() {
        out.push((entry.connection, entry.direction, bytes.to_vec()));
    }
    out
}

/// The seeds on disk are what this file makes; with `UPDATE_GOLDEN` in the environment they are written anew.
#[test]
fn seeds_are_as_generated() {
    let expected = seeds();
    let mut total = 0;
    for (name, bytes) in &expected {
        let file = path("fuzz/seeds").join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, bytes).unwrap();
        }
        assert!(std::fs::read(&file).unwrap() == *bytes, "{} (UPDATE_GOLDEN=1 writes it anew)", file.display());
        total += bytes.len();
    }
    assert_eq!(
        ["stream", "decode", "tap", "containers", "moving"]
            .map(|folder| files(&format!("fuzz/seeds/{folder}")).len())
            .iter()
            .sum::<usize>(),
        expected.len()
    );
    assert!(total < 100 << 10, "{total} bytes of seeds");
}

/// Everything that there is, through every target: a finding of one may be news to another. The targets' own checks
/// panic where the ways in disagree.
#[test]
fn every_target_takes_every_seed_and_finding() {
    let mut inputs = files("fixtures/fuzz");
    for folder in ["stream", "decode", "packed", "tap", "containers", "moving"] {
        let seeds = files(&format!("fuzz/seeds/{folder}"));
        assert!(!seeds.is_empty(), "fuzz/seeds/{folder} is empty");
        inputs.extend(seeds.into_iter().map(|(name, bytes)| (format!("{folder}/{name}"), bytes)));
    }
    for (name, bytes) in &inputs {
        println!("{name}");
        let steered = Steered::new(bytes);
        streams::slice(&steered);
        streams::push_split(&steered);
        streams::pull_exact(&steered);
        streams::verify(&steered);
        streams::dump(&steered);
        streams::round_trip(&steered);
        blobs::decode(bytes);
        packed::read(bytes);
        containers::read(bytes);
        moving::take(bytes);
        images::convert(&steered);
        images::differences(&steered);
        taps::read(bytes);
    }
}

/// The packed seeds are one stream in every packing.
#[test]
fn packed_seeds_unpack_to_the_same() {
    let plain = packed::unpacked(Input::open(&path("fuzz/seeds/packed/plain"))).unwrap();
    assert_eq!(plain, back());
    for name in ["gzip", "xz", "zstd", "bzip2", "lz4"] {
        let input = Input::open(&path("fuzz/seeds/packed").join(name));
        assert!(matches!(input, Ok(Input::Compressed(_))), "{name}");
        assert_eq!(packed::unpacked(input).unwrap(), plain, "{name}");
    }
}

/// The seeds are real streams: those that should be are read to their ends, and come out of the emitter as they were.
#[test]
fn seeds_reach_the_end() {
    let seeds = seeds();
    for (name, without_remark) in
        [("hvm-libxc", true), ("hvm-xl", true), ("pv-libxc", true), ("back", false), ("remarks", false)]
    {
        let steered = Steered::new(&seeds[&format!("stream/{name}")]);
        assert_eq!(streams::is_round_trip(&steered), without_remark, "{name}");
        let (items, error) = common::by_slice(steered.stream, steered.framing(false));
        assert_eq!(error, None, "{name}");
        assert!(items.len() >= 6, "{name}: {items:?}");
    }
}
