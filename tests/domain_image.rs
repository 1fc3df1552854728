//! Images out of real streams, at several of their checkpoints, held against a plain replay of the same stream: every page, every record,
//! in every form that can be written.
//!
//! With `XEN_REPLICATE_STREAMS` (see `real_streams.rs`) also those whose pages have contents.

mod common;

use assert_cmd::Command;
use common::{compressed_fixtures, fixture, read};
use rustix::fs::{SeekFrom, seek};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xen_domain_image::plain::{self, Container};
use xen_domain_image::{Image, Options, PAGE_SIZE, RecordKey, elf, memory};
use xen_replicate::inspect::Input;
use xen_replicate::inspect::progress::Progress;
use xen_replicate::inspect::verify::{self, verify};
use xen_replicate::stream::check::Parsed;
use xen_replicate::stream::framer;
use xen_replicate::stream::framer::What;
use xen_replicate::stream::libxc::{self, PageType};
use xen_replicate::stream::reader::SliceReader;
use xen_replicate::stream::{Layer, Mode, libxl};

fn streams() -> Vec<PathBuf> {
    // Of the streams of 4.14 and 4.20 one of each form: a replay holds a whole guest.
    let again = |name: &str| name.contains("pvh32small") && name != "xen/4.14stock-pvh32small-remus";
    let names = compressed_fixtures().into_iter().filter(|name| !name.ends_with("-back") && !again(name));
    let mut paths: Vec<_> = names.map(|name| fixture(&format!("{name}.xz"))).collect();
    if let Some(folder) = std::env::var_os("XEN_REPLICATE_STREAMS") {
        let more = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        // Back channels hold no image.
        let forward =
            |path: &PathBuf| !path.to_string_lossy().contains("back") && !path.to_string_lossy().contains("reply");
        paths.extend(
            more.filter(|path| path.extension().is_some_and(|end| end == "xz" || end == "zst")).filter(forward),
        );
    }
    paths
}

/// What a guest is, by replaying its stream up to the end of a checkpoint.
#[derive(Default, PartialEq)]
struct Guest {
    pages: BTreeMap<u64, (PageType, Vec<u8>)>,
    /// The newest body of each record that is state, by layer, type and whose.
    records: HashMap<(Layer, u32, u64), Vec<u8>>,
}

/// Replays a stream to the end of an image; gives how many images there are where that is `u64::MAX`.
fn replay(stream: &[u8], image: u64) -> (Guest, u64) {
    let mut guest = Guest::default();
    let mut reader = SliceReader::new(stream, framer::Options::default());
    let mut ended = false;
    while reader.framer().checkpoints() < image {
        let item = match reader.next_item() {
            Ok(Some(item)) => item,
            Ok(None) => {
                ended = true;
                break;
            }
            Err(_) => break,
        };
        let What::Record(frame) = item.what else {
            continue;
        };
        match Parsed::new(item.layer, &frame).ok() {
            Some(Parsed::Libxc(libxc::Record::PageData(data))) => {
                for (entry, contents) in data.pages() {
                    guest.pages.insert(entry.pfn, (entry.page_type, contents.unwrap_or_default().to_vec()));
                }
            }
            Some(Parsed::Libxc(libxc::Record::End | libxc::Record::Checkpoint | libxc::Record::Verify)) => {}
            Some(Parsed::Libxl(
                libxl::Record::End | libxl::Record::CheckpointEnd | libxl::Record::CheckpointState(_),
            )) => {}
            _ => {
                let word =
                    |at: usize| frame.body.get(at..at + 4).map_or(0, |w| u32::from_le_bytes(w.try_into().unwrap()));
                let id = match (item.layer, frame.header.type_id) {
                    (Layer::Libxc, 4 | 5 | 6 | 0xc) => u64::from(word(0)),
                    (Layer::Libxl, 2 | 3) => u64::from(word(4)) << 32 | u64::from(word(0)),
                    _ => 0,
                };
                guest.records.insert((item.layer, frame.header.type_id, id), frame.body.to_vec());
            }
        }
    }
    let images = reader.framer().checkpoints() + u64::from(ended);
    (guest, images)
}

/// First, middle and last of a fixture's images; of a larger stream the middle one, in which all forms are looked at.
fn some_of(path: &Path, images: u64) -> Vec<u64> {
    let middle = images.div_ceil(2);
    let mut some = if path.starts_with(fixture("")) { vec![1, middle, images] } else { vec![middle] };
    some.dedup();
    some
}

fn unpacked(stream: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(stream).unwrap();
    file
}

fn open(stream: &[u8], checkpoint: u64) -> Image {
    Image::open(unpacked(stream), &Options { checkpoint: Some(checkpoint), ..Options::default() }).unwrap()
}

#[test]
fn images_of_real_streams_are_the_guest_in_every_form() {
    let (mut images, mut containers, mut vcpus) = (0, 0, 0);
    for path in streams() {
        let stream = read(&path);
        let (_, last) = replay(&stream, u64::MAX);
        assert!(last > 0, "{}", path.display());
        let file = unpacked(&stream);
        for number in some_of(&path, last) {
            let options = Options { checkpoint: Some(number), ..Options::default() };
            let image = Image::open(file.try_clone().unwrap(), &options).unwrap();
            assert_eq!((image.images(), image.checkpoint()), (last, number), "{}", path.display());
            let guest = replay(&stream, number).0;
            images += 1;
            the_newest_of_every_page_and_record(&path, &image, &guest);
            if number != last.div_ceil(2) {
                continue;
            }
            containers += a_plain_image_is_valid_and_the_same_guest(&path, &stream, &image, &guest);
            raw_memory_and_lime_have_every_page_in_its_place(&path, &image, &guest);
            vcpus += a_core_is_what_binutils_and_the_format_say(&path, &image, &guest);
        }
    }
    assert!(images > 25 && containers > 20 && vcpus > 10, "{images} images, {containers} containers, {vcpus} vCPUs");
}

fn written(write: impl FnOnce(&File)) -> Vec<u8> {
    let mut file = tempfile::tempfile().unwrap();
    write(&file);
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn the_newest_of_every_page_and_record(path: &Path, image: &Image, guest: &Guest) {
    let mut page = [0; PAGE_SIZE];
    assert_eq!(image.pages().count(), guest.pages.len(), "{}", path.display());
    for (found, (&pfn, (page_type, contents))) in image.pages().zip(&guest.pages) {
        assert_eq!((found.pfn, found.page_type), (pfn, *page_type), "{}", path.display());
        assert_eq!(image.read_page(pfn, &mut page).unwrap(), page_type.is_populated());
        assert!(contents.is_empty() || page[..] == contents[..], "{}: page {pfn:#x}", path.display());
    }
    for item in image.items() {
        if let RecordKey::Record { layer, type_id, id } = item.key {
            assert!(guest.records[&(layer, type_id, id)] == image.body(item).unwrap(), "{}: {item:?}", path.display());
        }
    }
    let records = image.items().iter().filter(|item| matches!(item.key, RecordKey::Record { .. })).count();
    assert_eq!(records, guest.records.len(), "{}", path.display());
}

fn a_plain_image_is_valid_and_the_same_guest(path: &Path, stream: &[u8], image: &Image, guest: &Guest) -> usize {
    let mut containers = 0;
    for container in [Container::Xl, Container::Libxl, Container::Libxc] {
        if (container as u8) < (Container::of(image) as u8) {
            let mut none = Vec::new();
            let error = plain::write(image, container, &mut none).unwrap_err().to_string();
            assert!(error.starts_with("the image has no ") && none.is_empty(), "{error}");
            continue;
        }
        containers += 1;
        let mut out = Vec::new();
        plain::write(image, container, &mut out).unwrap();
        let options = verify::Options { all: true, mode: Some(Mode::Plain), ..verify::Options::default() };
        let judged = |bytes: &[u8], options: &verify::Options| {
            let mut file = unpacked(bytes);
            file.rewind().unwrap();
            verify(Input::from_file(file).unwrap(), options, &mut Progress::none()).unwrap()
        };
        // One with a register that no Xen takes is no better for having been converted, nor worse.
        let strict = Image::open(
            unpacked(stream),
            &Options { checkpoint: Some(image.checkpoint()), strict: true, ..Options::default() },
        );
        let report = judged(&out, &options);
        assert_eq!(report.valid, strict.is_ok(), "{}, {container:?}: {:?}", path.display(), report.findings);
        let (again, images) = replay(&out, u64::MAX);
        assert_eq!(images, 1);
        let there = guest.pages.iter().filter(|(_, (page_type, _))| *page_type != PageType::XTAB);
        assert!(again.pages.iter().eq(there), "{}: other pages", path.display());
        let mut records = guest.records.clone();
        if container == Container::Libxc {
            records.retain(|key, _| key.0 == Layer::Libxc);
        }
        assert!(again.records == records, "{}: other records", path.display());
        if container != Container::of(image) {
            continue;
        }
        // An image of the image is that image.
        let mut twice = Vec::new();
        plain::write(&open(&out, 1), container, &mut twice).unwrap();
        assert!(twice == out, "{}", path.display());
    }
    containers
}

fn raw_memory_and_lime_have_every_page_in_its_place(path: &Path, image: &Image, guest: &Guest) {
    // Read where there is something: the memory of a PC with a little of it ends at 4 GiB all the same.
    let raw = tempfile::tempfile().unwrap();
    memory::write_raw(image, &raw).unwrap();
    let populated: Vec<_> = guest.pages.iter().filter(|(_, (page_type, _))| page_type.is_populated()).collect();
    let end = populated.last().map_or(0, |(pfn, _)| (**pfn + 1) * PAGE_SIZE as u64);
    assert_eq!(raw.metadata().unwrap().len(), end, "{}", path.display());
    let nonzero = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte != 0).count();
    let (mut wanted, mut page) = (0, [0; PAGE_SIZE]);
    for (pfn, (_, contents)) in &populated {
        raw.read_exact_at(&mut page, **pfn * PAGE_SIZE as u64).unwrap();
        assert!(contents.is_empty() || page[..] == contents[..], "{}: page {pfn:#x}", path.display());
        wanted += nonzero(&page);
    }
    let (mut at, mut found, mut piece) = (0, 0, vec![0; 1 << 20]);
    while let Ok(data) = seek(&raw, SeekFrom::Data(at)) {
        let hole = seek(&raw, SeekFrom::Hole(data)).unwrap();
        for start in (data..hole).step_by(piece.len()) {
            let piece = &mut piece[..(hole - start).min(1 << 20) as usize];
            raw.read_exact_at(piece, start).unwrap();
            found += nonzero(piece);
        }
        at = hole;
    }
    assert_eq!(found, wanted, "nothing but the guest's pages");

    let lime = written(|file| memory::write_lime(image, file).unwrap());
    let mut rest = &lime[..];
    let mut pages = populated.iter();
    while let Some((header, behind)) = rest.split_at_checked(32) {
        assert_eq!(header[..8], *b"EMiL\x01\0\0\0", "{}", path.display());
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        let (first, last, reserved) = (word(8), word(16), word(24));
        assert_eq!((first % 4096, (last + 1) % 4096, reserved), (0, 0, 0));
        let (range, behind) = behind.split_at((last + 1 - first) as usize);
        for (number, page) in range.chunks(PAGE_SIZE).enumerate() {
            let (pfn, (_, contents)) = pages.next().unwrap();
            assert_eq!(**pfn, first / 4096 + number as u64);
            assert!(contents.is_empty() || page == &contents[..]);
        }
        rest = behind;
    }
    assert!(rest.is_empty() && pages.next().is_none(), "{}", path.display());
}

/// The sections of a core by `readelf`: name, offset, bytes.
fn sections(core: &Path) -> HashMap<String, (usize, usize)> {
    let mut readelf = Command::new("readelf");
    readelf.env("LC_ALL", "C").args(["-W", "-S"]).arg(core);
    let output = readelf.assert().success().get_output().clone();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut found = HashMap::new();
    for line in text.lines().filter_map(|line| line.trim_start().strip_prefix('[')) {
        let words: Vec<_> = line.split_once(']').unwrap().1.split_whitespace().collect();
        // NAME TYPE ADDRESS OFFSET SIZE ...
        if let [name, _, _, offset, size, ..] = words[..]
            && name.starts_with('.')
        {
            let hex = |digits| usize::from_str_radix(digits, 16).unwrap();
            found.insert(name.to_owned(), (hex(offset), hex(size)));
        }
    }
    found
}

fn a_core_is_what_binutils_and_the_format_say(path: &Path, image: &Image, guest: &Guest) -> usize {
    let registers = image.registers().unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    if registers.is_empty() {
        assert!(elf::write(image, file.as_file()).unwrap_err().to_string().contains("vCPU"), "{}", path.display());
        return 0;
    }
    elf::write(image, file.as_file()).unwrap();
    let mut core = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut core).unwrap();
    let sections = sections(file.path());
    let section = |name: &str| {
        let &(offset, size) = sections.get(name).unwrap_or_else(|| panic!("{}: no {name}", path.display()));
        &core[offset..offset + size]
    };
    let words = |bytes: &[u8]| -> Vec<u64> {
        bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
    };
    // The header note: 20 bytes of the empty one's header and name, then 12 + 4.
    let notes = section(".note.Xen");
    let magic = if image.is_pv() { 0xf00f_ebed } else { 0xf00f_ebee };
    let populated: Vec<_> = guest.pages.iter().filter(|(_, (page_type, _))| page_type.is_populated()).collect();
    assert_eq!(words(&notes[32..64]), [magic, registers.len() as u64, populated.len() as u64, 4096]);
    let contexts = section(".xen_prstatus");
    assert_eq!(contexts.len(), registers.iter().map(|vcpu| vcpu.context.len()).sum::<usize>());
    let frames: Vec<u64> = if image.is_pv() {
        words(section(".xen_p2m"))
            .chunks(2)
            .map(|pair| {
                assert_eq!(pair[0], pair[1]);
                pair[0]
            })
            .collect()
    } else {
        words(section(".xen_pfn"))
    };
    assert!(frames.iter().eq(populated.iter().map(|(pfn, _)| *pfn)), "{}", path.display());
    let pages = section(".xen_pages");
    assert_eq!(pages.len(), frames.len() * PAGE_SIZE);
    for (page, (pfn, (_, contents))) in pages.chunks(PAGE_SIZE).zip(&populated) {
        assert!(contents.is_empty() || page == &contents[..], "{}: page {pfn:#x}", path.display());
    }
    // Each segment of memory lies over the pages that it names.
    let output =
        Command::new("readelf").env("LC_ALL", "C").args(["-W", "-l", "-n"]).arg(file.path()).assert().success();
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert!(output.get_output().stderr.is_empty());
    assert_eq!(text.matches("NT_PRSTATUS").count(), registers.len(), "{text}");
    let hex = |digits: &str| usize::from_str_radix(digits.trim_start_matches("0x"), 16).unwrap();
    let mut covered = 0;
    for line in text.lines().map(str::trim_start).filter(|line| line.starts_with("LOAD")) {
        let words: Vec<_> = line.split_whitespace().collect();
        let (offset, address, bytes) = (hex(words[1]), hex(words[3]), hex(words[4]));
        let first = frames.iter().position(|&pfn| pfn as usize == address / PAGE_SIZE).unwrap();
        assert_eq!(offset, sections[".xen_pages"].0 + first * PAGE_SIZE);
        covered += bytes / PAGE_SIZE;
    }
    assert_eq!(covered, frames.len(), "{}", path.display());
    registers.len()
}

#[test]
fn gdb_reads_the_registers_of_every_vcpu() {
    if std::process::Command::new("gdb").arg("--version").output().is_err() {
        eprintln!("no gdb here");
        return;
    }
    let stream = read(&fixture("xen/4.17.7stock-hvm64-live.xz"));
    let image = open(&stream, 1);
    let core = tempfile::NamedTempFile::new().unwrap();
    elf::write(&image, core.as_file()).unwrap();
    let output = Command::new("gdb")
        .args([
            "-nx",
            "-batch",
            "-ex",
            "set architecture i386:x86-64",
            "-ex",
            "info threads",
            "-ex",
            "thread apply all info registers rip rsp",
        ])
        .arg("-c")
        .arg(core.path())
        .assert()
        .success();
    let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    for vcpu in image.registers().unwrap() {
        assert!(text.contains(&format!("{:#x}", vcpu.rip)), "{:#x} in {text}", vcpu.rip);
    }
}

#[test]
fn the_commands_write_files_and_refuse_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let stream = fixture("xen/4.17.7stock-pvh40-remus.xz");
    let stream = stream.to_str().unwrap();
    let run = |words: &[&str]| {
        let output = Command::cargo_bin("xen-replicate").unwrap().args(words).output().unwrap();
        (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
    };
    let image = path("image");
    assert_eq!(run(&["convert", stream, "--checkpoint", "3", "-o", &image]).0, Some(0));
    assert_eq!(run(&["verify", &image]).0, Some(0));
    assert_eq!(run(&["convert", &image]).1, fs::read(&image).unwrap(), "what is plain is as it was");
    // By a pipe, packed: the same.
    let packed = fs::read(stream).unwrap();
    let piped = Command::cargo_bin("xen-replicate")
        .unwrap()
        .args(["convert", "-", "--checkpoint", "3"])
        .write_stdin(packed)
        .output();
    assert!(piped.unwrap().stdout == fs::read(&image).unwrap());
    let refusals: &[(&[&str], i32, &str)] = &[
        (&["convert", stream, "--checkpoint", "0"], 2, "there is no checkpoint 0: the stream has 12, counted from 1"),
        (&["convert", stream, "--checkpoint", "13"], 2, "there is no checkpoint 13"),
        (&["convert", stream, "-o", &image], 2, "--overwrite replaces it"),
        (&["extract", stream, "--page", "0xfffffffff"], 2, "the guest has no page frame 0xfffffffff"),
        (&["extract", stream, "--qemu"], 2, "the image has no state of a device model"),
        (&["extract", stream, "--virtual", "0x800000000000"], 2, "is not canonical"),
        (&["extract", stream, "--virtual", "0", "--vcpu", "7"], 2, "there is no vCPU 7"),
        (&["extract", "/dev/null", "--elf-core"], 2, "holds no whole image"),
        (&["extract", "/", "--elf-core"], 2, "directory"),
    ];
    for (words, code, said) in refusals {
        let (ended, out, error) = run(words);
        assert!(ended == Some(*code) && error.contains(said) && out.is_empty(), "{words:?}: {ended:?} {error}");
    }
    assert!(run(&["extract", stream, "--page", "0x100", "-o", &path("page")]).0 == Some(0));
    assert_eq!(fs::read(path("page")).unwrap().len(), PAGE_SIZE);
    let (code, config, _) = run(&["extract", stream, "--config"]);
    assert_eq!(code, Some(0));
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&config).unwrap()["c_info"]["type"], "pvh");
    // What it is made of may be what it replaces; where it cannot be made all is as it was.
    let before = fs::read(&image).unwrap();
    assert_eq!(run(&["convert", &image, "-o", &image, "--overwrite"]).0, Some(0));
    assert!(fs::read(&image).unwrap() == before && run(&["verify", &image]).0 == Some(0));
    let bare = fixture("helper/hvm-plain-libxc.xz");
    let (code, _, error) =
        run(&["convert", "--force", "--container", "xl", bare.to_str().unwrap(), "-o", &image, "--overwrite"]);
    assert!(code == Some(2) && error.contains("no preamble of xl"), "{code:?} {error}");
    assert!(fs::read(&image).unwrap() == before);
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.collect::<std::collections::BTreeSet<_>>(), ["image".to_owned(), "page".to_owned()].into());
    // A file that was not made is not left behind half.
    assert!(
        run(&["extract", stream, "--qemu", "-o", &path("none")]).0 == Some(2) && !Path::new(&path("none")).exists()
    );
}

#[test]
fn what_is_different_between_checkpoints_is_what_two_replays_say() {
    let mut different = 0;
    for name in ["helper/hvm-remus-libxc", "helper/pv-remus-libxc", "xen/4.17.7stock-pvh40-remus"] {
        let path = fixture(&format!("{name}.xz"));
        let stream = read(&path);
        let (_, last) = replay(&stream, u64::MAX);
        for (a, b) in [(1, last), (last, 1), (2, 2)] {
            let (first, second) = (replay(&stream, a).0, replay(&stream, b).0);
            let numbers = [a.to_string(), b.to_string()];
            let mut command = Command::cargo_bin("xen-replicate").unwrap();
            command.args(["diff", "--json", "--checkpoints", &numbers[0], &numbers[1]]).arg(&path);
            let output = command.output().unwrap();
            let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let mut expected = BTreeMap::new();
            let mut same = 0;
            let populated = |guest: &Guest, pfn| guest.pages.get(&pfn).is_some_and(|(kind, _)| kind.is_populated());
            for pfn in first.pages.keys().chain(second.pages.keys()).copied() {
                let what = match (populated(&first, pfn), populated(&second, pfn)) {
                    (true, false) => "only_first",
                    (false, true) => "only_second",
                    (false, false) => continue,
                    (true, true) if first.pages[&pfn].0 != second.pages[&pfn].0 => "type",
                    (true, true) if first.pages[&pfn].1 != second.pages[&pfn].1 => "contents",
                    (true, true) => "same",
                };
                expected.insert(pfn, what);
            }
            expected.retain(|_, what| {
                same += u64::from(*what == "same");
                *what != "same"
            });
            let mut listed = BTreeMap::new();
            for run in found["pages"]["list"].as_array().unwrap() {
                let (pfn, count) = (run["pfn"].as_u64().unwrap(), run["count"].as_u64().unwrap());
                listed.extend((pfn..pfn + count).map(|pfn| (pfn, run["what"].as_str().unwrap())));
            }
            assert_eq!(listed, expected, "{name}, {a} and {b}");
            assert_eq!(found["pages"]["same"], same, "{name}");
            let records = found["records"].as_array().unwrap();
            let changed = first.records.iter().filter(|(key, body)| second.records.get(key) != Some(body)).count();
            assert_eq!(records.len(), changed, "{name}: {records:#?}");
            let equal = listed.is_empty() && changed == 0;
            assert_eq!(
                (output.status.code(), found["same"].as_bool()),
                (Some(i32::from(!equal)), Some(equal)),
                "{name}"
            );
            different += listed.len();
        }
    }
    assert!(different > 100, "{different}");
    // A register by its name.
    let path = fixture("xen/4.17.7stock-pvh40-remus.xz");
    let output = Command::cargo_bin("xen-replicate")
        .unwrap()
        .args(["diff", "--checkpoints", "1", "12"])
        .arg(&path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("libxc HVM_CONTEXT\n") && text.contains("[CPU 0]") && text.contains(".tsc: 0x"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("pages: "), "{text}");
}
