//! Streams in what other tools put around them: packed by the tools themselves, and in containers made by hand after libvirt's
//! and xenopsd's sources.

mod common;

use assert_cmd::Command as Program;
use common::build::hvm_xl;
use common::{fixture, read};
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use xen_replicate::stream::reader::SliceReader;
use xen_replicate::stream::{Layer, What};

/// Each tool as it is called to pack standard input, at both ends of what it offers.
const TOOLS: &[(&str, &[&str])] = &[
    ("gzip", &["-1", "-c"]),
    ("gzip", &["-9", "-c"]),
    ("xz", &["-0", "-c"]),
    ("xz", &["-9e", "-c"]),
    ("xz", &["--block-size=65536", "-T2", "-c"]),
    ("zstd", &["-1", "-c"]),
    ("zstd", &["-19", "-c"]),
    ("zstd", &["--ultra", "-22", "--long=27", "-c"]),
    ("bzip2", &["-1", "-c"]),
    ("bzip2", &["-9", "-c"]),
    ("lz4", &["-1", "-c"]),
    ("lz4", &["-12", "-BD", "-c"]),
    ("lz4", &["-B4", "-BX", "--content-size", "-c"]),
];

fn packed(tool: &str, arguments: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut command = Command::new(tool);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{tool}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{tool}");
    output.stdout
}

fn program(arguments: &[&str]) -> Program {
    let mut program = Program::cargo_bin("xen-replicate").unwrap();
    program.env_remove("RUST_LOG").args(arguments);
    program
}

fn on_file(arguments: &[&str], bytes: &[u8]) -> Output {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, bytes).unwrap();
    program(arguments).arg(&path).output().unwrap()
}

/// What a command prints of these bytes as a file, which must be what it prints of them as a pipe.
fn printed(arguments: &[&str], bytes: &[u8]) -> (Option<i32>, String) {
    let file = on_file(arguments, bytes);
    let piped = program(arguments).arg("-").write_stdin(bytes).output().unwrap();
    let text = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!((file.status.code(), text(&file)), (piped.status.code(), text(&piped)), "a file and a pipe");
    (file.status.code(), text(&file))
}

#[test]
fn what_real_tools_pack_is_read_as_it_is() {
    let stream = read(&fixture("helper/hvm-remus-libxl.xz"));
    let plain = printed(&["dump"], &stream);
    assert!(plain.1.lines().count() > 40);
    for (tool, arguments) in TOOLS {
        let packed = packed(tool, arguments, &stream);
        assert!(packed.len() < stream.len(), "{tool} {arguments:?}");
        assert_eq!(printed(&["dump"], &packed), plain, "{tool} {arguments:?}");
    }
}

#[test]
fn members_and_frames_one_behind_the_other_are_one_stream() {
    let stream = hvm_xl();
    let plain = printed(&["dump"], &stream);
    for (tool, arguments) in TOOLS {
        let (first, rest) = stream.split_at(1000);
        let both = [packed(tool, arguments, first), packed(tool, arguments, rest)].concat();
        assert_eq!(printed(&["dump"], &both), plain, "{tool} {arguments:?}");
    }
}

#[test]
fn a_packed_file_that_is_cut_or_damaged_is_never_valid() {
    let stream = hvm_xl();
    for (tool, arguments) in TOOLS {
        let packed = packed(tool, arguments, &stream);
        for cut in [packed.len() / 4, packed.len() / 2, packed.len() * 3 / 4] {
            let output = on_file(&["verify"], &packed[..cut]);
            assert!(matches!(output.status.code(), Some(1 | 2)), "{tool} {arguments:?} cut at {cut}: {output:?}");
        }
    }
}

/// The good stream of a real host, behind its preamble: libxl's, and libxc's part of it alone.
fn parts() -> (Vec<u8>, Vec<u8>) {
    let stream = read(&fixture("inputs/B4a-icelake-max-subleaf-2.bin"));
    let mut reader = SliceReader::new(&stream, Default::default());
    let (mut libxl, mut libxc) = (Vec::new(), Vec::new());
    while let Some(item) = reader.next_item().unwrap() {
        let raw = &stream[item.offset as usize..(item.offset + item.size) as usize];
        match (item.layer, &item.what) {
            (Layer::Xl, _) | (_, What::Handshake(..)) => continue,
            (Layer::Libxc, _) => libxc.extend_from_slice(raw),
            _ => {}
        }
        libxl.extend_from_slice(raw);
    }
    (libxl, libxc)
}

fn libvirt(version: u32, xml: &[u8], stream: &[u8]) -> Vec<u8> {
    let mut out = b"libvirt-xml\n \0 \r".to_vec();
    out.extend([version.to_le_bytes(), (xml.len() as u32).to_le_bytes()].concat());
    out.resize(64, 0);
    [&out[..], xml, stream].concat()
}

const XML: &[u8] = b"<domain type='xen'><name>work</name></domain>\0";

#[test]
fn libvirts_save_image() {
    let (libxl, _) = parts();
    let image = libvirt(2, XML, &libxl);
    let (code, said) = printed(&["verify"], &image);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("libvirt save image, the stream at offset {}", 64 + XML.len())), "{said}");
    assert!(said.contains("valid: plain libxl stream"), "{said}");
    assert_eq!(printed(&["dump"], &image), printed(&["dump"], &libxl));
    // People pack them.
    let (code, said) = printed(&["verify", "--json"], &packed("gzip", &["-c"], &image));
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &report["container"]["kind"], &report["container"]["version"]),
        (Some(0), &"libvirt".into(), &2.into())
    );
    assert_eq!(report["container"]["offset"], 64 + XML.len());
    let (code, said) = printed(&["stats", "--json"], &image);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["total"]["pages"], 3);
}

#[test]
fn libvirts_save_image_damaged_in_every_way() {
    let (libxl, _) = parts();
    for (image, words) in [
        (libvirt(3, XML, &libxl), "version is 3, at most 2 exists"),
        (libvirt(u32::MAX, XML, &libxl), "version is 4294967295"),
        (libvirt(0, XML, &libxl), "version is 0"),
        (libvirt(1, XML, &libxl), "a legacy stream follows"),
        (libvirt(2, b"", &libxl), "xmlLen is 0"),
        (libvirt(2, XML, b""), "the stream ends where its first 8 bytes must follow"),
    ] {
        let (code, said) = printed(&["verify"], &image);
        assert!(code == Some(1) && said.contains(words), "{words}: {said}");
    }
    let mut huge = libvirt(2, XML, &libxl);
    huge[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    let (code, said) = printed(&["verify"], &huge);
    assert!(code == Some(1) && said.contains("over the limit"), "{said}");
    let image = libvirt(2, XML, &libxl);
    for cut in 16..64 + XML.len() {
        let (code, said) = printed(&["verify"], &image[..cut]);
        assert!(code == Some(1) && said.contains("libvirt save image: it ends inside"), "cut at {cut}: {said}");
    }
}

fn part(type_id: u64, bytes: &[u8]) -> Vec<u8> {
    [&type_id.to_le_bytes()[..], &(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

const SIGNATURE: &[u8] = b"XenSavedDomv2-\n";
const XENOPS: &[u8] = b"((time 20261128T05:00:00Z)(word_size 64)(vm_str())(xs_subtree()))";

/// A suspend image as xenopsd writes it of a HVM guest: its own record, libxc, QEMU, the footer.
fn xapi(libxc: &[u8]) -> Vec<u8> {
    let qemu = part(0x0f00, b"QEVM state of some bytes");
    [SIGNATURE, &part(0x000f, XENOPS), &part(0x00f0, b""), libxc, &qemu, &part(0xffff, b"")].concat()
}

#[test]
fn xapis_suspend_image() {
    let (_, libxc) = parts();
    let image = xapi(&libxc);
    let start = 15 + 16 + XENOPS.len() + 16;
    let (code, said) = printed(&["verify"], &image);
    assert_eq!(code, Some(0), "{said}");
    let qemu = start + libxc.len() + 16;
    let words = format!(
        "XAPI suspend image, the stream at offset {start}, xenops at 31 ({} bytes), qemu (traditional) at {qemu} (24 bytes)",
        XENOPS.len()
    );
    assert!(said.contains(&words) && said.contains("valid: plain libxc stream"), "{words}\n{said}");
    assert_eq!(printed(&["dump"], &image), printed(&["dump"], &libxc));
    let (code, said) = printed(&["verify", "--json"], &packed("zstd", &["-c"], &image));
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, report["container"]["parts"].as_array().unwrap().len()), (Some(0), 2));
    // Of a PV guest there is no QEMU; of one with UEFI and a TPM there is more.
    let parts = [part(0x0f11, &[7; 3000]), part(0x0f13, &[8; 100]), part(0x0f01, b"q"), part(0xffff, b"")].concat();
    let image = [SIGNATURE, &part(0x000f, XENOPS), &part(0x00f0, b""), &libxc, &parts].concat();
    let (code, said) = printed(&["verify"], &image);
    assert!(code == Some(0) && said.contains("varstored at") && said.contains("swtpm at"), "{said}");
}

#[test]
fn xapis_suspend_image_damaged_in_every_way() {
    let (_, libxc) = parts();
    let image = xapi(&libxc);
    let head = SIGNATURE.len() + 16 + XENOPS.len() + 16;
    // Everything in front of the stream and behind it.
    for cut in (16..head).chain(head + libxc.len() + 8..image.len()) {
        let (code, said) = printed(&["verify"], &image[..cut]);
        assert!(code == Some(1) && said.contains("XAPI suspend image: it ends inside"), "cut at {cut}: {said}");
    }
    for (parts, words) in [
        (part(0x00f2, b""), "a legacy stream, of Xen 4.5 or earlier"),
        (part(0x0f10, b""), "vGPU"),
        (part(0xffff, b""), "an end before any"),
        (part(0x1234, b""), "part type 0x1234 does not exist"),
        (part(u64::MAX, b""), "part type 0xffffffffffffffff"),
    ] {
        let before = [SIGNATURE, &parts, &libxc].concat();
        let behind = [SIGNATURE, &part(0x00f0, b""), &libxc, &parts].concat();
        let (code, said) = printed(&["verify"], &before);
        assert!(code == Some(1) && said.contains(words), "{words}: {said}");
        if !words.contains("an end") {
            let (code, said) = printed(&["verify"], &behind);
            assert!(code == Some(1) && said.contains(words), "{words}: {said}");
        }
    }
    // Of a part that cannot be read behind the memory, convert says so where the part has no place.
    let vgpu = [SIGNATURE, &part(0x00f0, b""), &libxc, &part(0x0f10, b"state")].concat();
    let out = tempfile::tempdir().unwrap();
    let plain = out.path().join("plain");
    for (container, code) in [("libxc", 0), ("xapi", 2)] {
        let written = on_file(&["convert", "--container", container, "-o", plain.to_str().unwrap()], &vgpu);
        let said = String::from_utf8(written.stderr).unwrap();
        assert_eq!(written.status.code(), Some(code), "{container}: {said}");
        assert!(said.contains("vGPU"), "{container}: {said}");
    }
    let mut huge = [SIGNATURE, &part(0x000f, b"")].concat();
    huge[23..31].copy_from_slice(&u64::MAX.to_le_bytes());
    let (code, said) = printed(&["verify"], &huge);
    assert!(code == Some(1) && said.contains("over the limit"), "{said}");
}

/// The program in an address space of 256 MiB, whatever it is given.
fn in_256_mib(path: &Path) -> Output {
    let program = env!("CARGO_BIN_EXE_xen-replicate");
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -v 262144; exec \"$0\" verify \"$1\"", program]).arg(path);
    shell.output().unwrap()
}

#[test]
fn no_container_takes_more_than_256_mib() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("image");
    // 300 MiB of zeros in a part, and a long stream of them, packed.
    let (_, libxc) = parts();
    let zeros = vec![0; 300 << 20];
    let image = [SIGNATURE, &part(0x00f0, b""), &libxc, &part(0x0f01, &zeros), &part(0xffff, b"")].concat();
    for (tool, arguments) in [
        ("gzip", &["-1", "-c"][..]),
        ("xz", &["-9", "-c"]),
        ("zstd", &["-1", "-c"]),
        ("zstd", &["-3", "--long=27", "-c"]),
        ("lz4", &["-1", "-c"]),
    ] {
        std::fs::write(&path, packed(tool, arguments, &image)).unwrap();
        let output = in_256_mib(&path);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.code() == Some(0), "{tool} {arguments:?}: {output:?}");
        assert!(said.contains("(314572800 bytes)"), "{said}");
    }
}

/// What is made of an image does not depend on what is around its stream, packed or not.
#[test]
fn an_image_in_a_container_is_converted_as_the_stream_is() {
    let (libxl, libxc) = parts();
    for (container, stream) in [(libvirt(2, XML, &libxl), &libxl), (xapi(&libxc), &libxc)] {
        for command in [&["convert"][..], &["extract", "--lime"], &["extract", "--page", "0"]] {
            let expected = on_file(command, stream);
            for bytes in [&container, &packed("gzip", &["-c"], &container)] {
                let made = on_file(command, bytes);
                assert_eq!(
                    (made.status.code(), made.stdout == expected.stdout),
                    (expected.status.code(), true),
                    "{command:?}"
                );
            }
        }
        assert_eq!(on_file(&["convert"], &container).status.code(), Some(0));
    }
}

/// A folder, and what a command that writes to a file of it has left there: exit code, words, the file's bytes.
fn made(folder: &TempDir, arguments: &[&str], stream: &[u8]) -> (Option<i32>, String, Vec<u8>) {
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    std::fs::write(&from, stream).unwrap();
    let output = program(arguments).arg(&from).args(["--overwrite", "-o"]).arg(&to).output().unwrap();
    let bytes = std::fs::read(&to).unwrap_or_default();
    let _ = std::fs::remove_file(&to);
    (output.status.code(), String::from_utf8(output.stderr).unwrap(), bytes)
}

/// The names of all parts of an image and their contents, by the program's own reader.
fn listed(image: &[u8]) -> Vec<(String, Vec<u8>)> {
    let (code, said) = printed(&["verify", "--json"], image);
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(code, Some(0), "{said}");
    let parts = report["container"]["parts"].as_array().cloned().unwrap_or_default();
    let range = |part: &Value, key: &str| part[key].as_u64().unwrap() as usize;
    parts
        .iter()
        .map(|part| {
            let from = range(part, "offset");
            (part["name"].as_str().unwrap().to_owned(), image[from..from + range(part, "bytes")].to_vec())
        })
        .collect()
}

#[test]
fn an_image_of_xl_becomes_one_of_libvirt_and_comes_back() {
    let folder = TempDir::new().unwrap();
    let xml = folder.path().join("xml");
    let xml_option = xml.to_str().unwrap();
    std::fs::write(&xml, &XML[..XML.len() - 1]).unwrap();
    let stream = read(&fixture("inputs/B4a-icelake-max-subleaf-2.bin"));
    let (code, said, libxl) = made(&folder, &["convert", "--container", "libxl"], &stream);
    assert_eq!((code, &said[..]), (Some(0), ""));
    // Byte for byte what the format's description gives.
    let to_libvirt = ["convert", "--container", "libvirt", "--xml", xml_option];
    let (code, said, image) = made(&folder, &to_libvirt, &stream);
    assert_eq!((code, &said[..]), (Some(0), ""));
    assert!(image == libvirt(2, XML, &libxl));
    assert_eq!(printed(&["verify"], &image).0, Some(0));
    // Its own XML is taken where no other is given, and it is what it was.
    let (code, said, again) = made(&folder, &["convert", "--container", "libvirt"], &image);
    assert!(code == Some(0) && again == image, "{said}");
    let (code, said, back) = made(&folder, &["convert", "--container", "libxl"], &image);
    assert!(code == Some(0) && back == libxl, "{said}");
    // A release can be asked for at the same time, and packing is no matter.
    let (code, said, again) =
        made(&folder, &["convert", "--container", "libvirt", "--for", "xen-4.20"], &packed("zstd", &["-c"], &image));
    assert!(code == Some(0) && again == image, "{said}");
}

#[test]
fn an_image_of_xl_becomes_one_of_xapi_with_its_device_model() {
    let folder = TempDir::new().unwrap();
    let stream = read(&fixture("inputs/B4a-icelake-max-subleaf-2.bin"));
    let (_, _, libxc) = made(&folder, &["convert", "--container", "libxc"], &stream);
    let (_, _, qemu) = made(&folder, &["extract", "--qemu"], &stream);
    assert!(qemu.starts_with(b"QEVM"));
    let record = folder.path().join("record");
    std::fs::write(&record, XENOPS).unwrap();
    let (code, said, image) =
        made(&folder, &["convert", "--container", "xapi", "--xenops", record.to_str().unwrap()], &stream);
    assert_eq!((code, &said[..]), (Some(0), ""));
    let by_hand =
        [SIGNATURE, &part(0x000f, XENOPS), &part(0x00f0, b""), &libxc, &part(0x0f00, &qemu), &part(0xffff, b"")];
    assert!(image == by_hand.concat());
    assert_eq!(listed(&image), [("xenops".to_owned(), XENOPS.to_vec()), ("qemu (traditional)".to_owned(), qemu)]);
    // Without a record the least that xenopsd asks for.
    let (code, said, least) = made(&folder, &["convert", "--container", "xapi"], &stream);
    assert_eq!((code, &said[..]), (Some(0), ""));
    let (_, record) = listed(&least).remove(0);
    let record = String::from_utf8(record).unwrap();
    let time = record.strip_prefix("((time ").and_then(|rest| rest.strip_suffix(")(word_size 64))")).unwrap();
    assert!(time.len() == 18 && time.ends_with('Z') && time.as_bytes()[8] == b'T', "{record}");
    // What else XAPI keeps stays, in its place; elsewhere it is said to be left out.
    let parts = [part(0x0f11, &[7; 3000]), part(0x0f13, &[8; 100]), part(0x0f00, b"q"), part(0xffff, b"")].concat();
    let image = [SIGNATURE, &part(0x000f, XENOPS), &part(0x00f0, b""), &libxc, &parts].concat();
    let (code, said, again) = made(&folder, &["convert", "--container", "xapi"], &image);
    assert!(code == Some(0) && said.is_empty() && again == image, "{said}");
    let (code, said, bare) = made(&folder, &["convert"], &image);
    assert!(code == Some(0) && bare == libxc);
    for left in
        ["left out: varstored (3000 bytes)", "left out: swtpm (100 bytes)", "left out: qemu (traditional) (1 bytes)"]
    {
        assert!(said.contains(left), "{left}: {said}");
    }
}

#[test]
fn what_cannot_be_invented_is_asked_for() {
    let folder = TempDir::new().unwrap();
    let stream = read(&fixture("inputs/B4a-icelake-max-subleaf-2.bin"));
    let (_, _, libxc) = made(&folder, &["convert", "--container", "libxc"], &stream);
    let path = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (xml, configuration) = (path("xml", XML), path("cfg", b"name = 'work'\nmemory = 64\n"));
    let long = path("long", &[&XML[..XML.len() - 1], &vec![b' '; 16 << 20], b"<domain/>"].concat());
    let missing = folder.path().join("missing");
    let missing = missing.to_str().unwrap();
    for (arguments, stream, words) in [
        (&["libvirt"][..], &stream, "libvirt keeps the domain's XML with it, and FILE has none"),
        (&["libvirt", "--xml", &configuration], &stream, "the domain's XML is without a <domain> element"),
        (&["libvirt", "--xml", &long], &stream, "long: more than 16777216 bytes"),
        (&["libvirt", "--xml", missing], &stream, "missing: No such file"),
        (&["libvirt", "--xml", &xml], &libxc, "the image has no libxl header"),
        (&["xapi", "--xml", &xml], &stream, "--xml is for --container libvirt"),
        (&["xapi", "--xenops", &configuration], &stream, "xenopsd's record is without a (time ...)"),
        (&["libvirt", "--xenops", &configuration], &stream, "--xenops is for --container xapi"),
        (&["libxl", "--xml", &xml], &stream, "--xml is for --container libvirt"),
    ] {
        let (code, said, bytes) = made(&folder, &[&["convert", "--container"], arguments].concat(), stream);
        assert!(code == Some(2) && said.contains(words) && bytes.is_empty(), "{arguments:?}: {code:?} {said}");
    }
    // A device model with more state than xenopsd takes.
    let large = with_device_model_of((1 << 20) + 1);
    let (code, said, _) = made(&folder, &["convert", "--force", "--container", "xapi"], &large);
    assert!(code == Some(2) && said.contains("1048577 bytes, xenopsd takes 1048576 at most"), "{said}");
}

/// The stream of a real host with so many bytes of a device model.
fn with_device_model_of(bytes: usize) -> Vec<u8> {
    let stream = read(&fixture("inputs/B4a-icelake-max-subleaf-2.bin"));
    let mut reader = SliceReader::new(&stream, Default::default());
    let mut out = Vec::new();
    while let Some(item) = reader.next_item().unwrap() {
        let raw = &stream[item.offset as usize..(item.offset + item.size) as usize];
        match &item.what {
            What::Record(frame) if item.layer == Layer::Libxl && frame.header.type_id == 3 => {
                let body = [&frame.body[..8], &vec![0; bytes]].concat();
                out.extend([3u32.to_le_bytes(), (body.len() as u32).to_le_bytes()].concat());
                out.extend(&body);
                out.resize(out.len() + body.len().wrapping_neg() % 8, 0);
            }
            _ => out.extend_from_slice(raw),
        }
    }
    out
}
