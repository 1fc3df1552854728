//! Images of Xen before 4.6, made up in each form that there was: what becomes of them against Xen's own `convert-legacy-stream`, and what is
//! said of those that are broken.
//!
//! ```text
//! cargo test --test legacy -- --ignored
//! ```
//! is what needs a package of Debian's (`tests/standin/fetch` unpacks it; nothing is installed) and python3.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use xen_replicate::legacy::{Converted, LegacyError, Problem, convert};

/// Words of the toolstack that wrote an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Words {
    Narrow,
    Wide,
}

impl Words {
    fn ulongs(self, values: &[u64]) -> Vec<u8> {
        let bytes = if self == Words::Narrow { 4 } else { 8 };
        values.iter().flat_map(|value| value.to_le_bytes().into_iter().take(bytes)).collect()
    }
}

fn word(value: u32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

fn page(fill: u8) -> Vec<u8> {
    (0..4096u32).map(|at| fill ^ at as u8).collect()
}

fn chunk(number: i32, body: &[u8]) -> Vec<u8> {
    [&number.to_le_bytes()[..], body].concat()
}

fn param(number: i32, value: u64) -> Vec<u8> {
    chunk(number, &[&[0; 4][..], &value.to_le_bytes()].concat())
}

/// A batch: words with their types, and a page for each that has contents.
fn batch(words: Words, entries: &[u64]) -> Vec<u8> {
    let with = entries.iter().filter(|entry| **entry & 0xf000_0000 < 0xd000_0000);
    let pages: Vec<u8> = with.flat_map(|entry| page(*entry as u8)).collect();
    chunk(entries.len() as i32, &[words.ulongs(entries), pages].concat())
}

fn tsc() -> Vec<u8> {
    chunk(-7, &[&word(1)[..], &7u64.to_le_bytes(), &word(2_400_000), &word(3)].concat())
}

/// vCPUs 0 and 65.
fn vcpus() -> Vec<u8> {
    chunk(-2, &[&word(65)[..], &1u64.to_le_bytes(), &2u64.to_le_bytes()].concat())
}

/// libxl's part: what QEMU has mapped.
fn toolstack(words: Words) -> Vec<u8> {
    let mut data = [word(1), word(2)].concat();
    for (offset, name) in [(0xf000_0000u64, "vga.vram"), (0xf100_0000, "xen.rom")] {
        data.extend([offset, offset + 0x1000, 0x80_0000].into_iter().flat_map(u64::to_le_bytes));
        data.extend(word(name.len() as u32 + 1));
        data.extend(name.bytes().chain([0]));
        if words == Words::Wide {
            data.extend([0xaa; 4]);
        }
    }
    chunk(-18, &[word(data.len() as u32), data].concat())
}

/// A PV guest's image of libxc.
fn pv(words: Words, wide_guest: bool, extended: bool, xsave: bool) -> Vec<u8> {
    let p2m_size = 1500;
    let basic: u32 = if wide_guest { 5168 } else { 2800 };
    let mut out = words.ulongs(&[p2m_size, u64::MAX]);
    let mut info = [&b"vcpu"[..], &word(basic), &vec![5; basic as usize]].concat();
    if extended {
        info.extend([&b"extv"[..], &word(0)].concat());
    }
    if xsave {
        info.extend([&b"xcnt"[..], &word(4), &word(16 + 640)].concat());
    }
    out.extend([word(info.len() as u32), info].concat());
    let frames = (p2m_size - 1) / if wide_guest { 512 } else { 1024 } + 1;
    out.extend(words.ulongs(&(10..10 + frames).collect::<Vec<_>>()));
    out.extend([chunk(-1, &[]), vcpus()].concat());
    out.extend(batch(words, &[3, 0x1000_0004, 0x9000_0005, 0xf000_0000, 0xe000_0006, 0xd000_0007, 0xf000_0008]));
    out.extend(tsc());
    out.extend(batch(words, &(100..1124).collect::<Vec<_>>()));
    out.extend([chunk(-9, &[]), chunk(0, &[]), word(3), words.ulongs(&[1, 2, 3])].concat());
    for vcpu in 0..2u8 {
        out.extend(vec![0x40 + vcpu; basic as usize]);
        if extended {
            out.extend([0x50 + vcpu; 128]);
        }
        if xsave {
            out.extend([7u64, 640].into_iter().flat_map(u64::to_le_bytes));
            out.extend([0x60 + vcpu; 640]);
        }
    }
    out.extend(page(0x33));
    out
}

/// A HVM guest's image of libxc, with the device model's state.
fn hvm(words: Words, signature: &[u8]) -> Vec<u8> {
    let mut out = words.ulongs(&[0x10_0000]);
    out.extend(vcpus());
    out.extend(batch(words, &[0, 1, 2, 0xf000_0000, 0xf000_0000, 9]));
    for number in [-3, -4, -8, -10, -11, -14, -15, -16, -17, -19, -20] {
        out.extend(param(number, 0x1_0000_0000 + u64::from(number.unsigned_abs())));
    }
    out.extend([tsc(), toolstack(words), chunk(0, &[])].concat());
    out.extend([0xfeff0u64, 0xfeff1, 0xfeff2].into_iter().flat_map(u64::to_le_bytes));
    out.extend([word(77), vec![9; 77], signature.to_vec(), word(5), b"state".to_vec()].concat());
    out
}

const NEWER: &[u8; 21] = b"DeviceModelRecord0002";
const OLDER: &[u8; 21] = b"QemuDeviceModelRecord";

fn xl(kind: &str, image: Vec<u8>) -> Vec<u8> {
    let config = format!("{{\"c_info\":{{\"type\":\"{kind}\",\"name\":\"old\"}}}}\0");
    let data = [&word(config.len() as u32)[..], config.as_bytes()].concat();
    let mut out = b"Xen saved domain, xl format\n \0 \r".to_vec();
    out.extend([0x0102_0304, 1, 0, data.len() as u32].into_iter().flat_map(u32::to_le_bytes));
    [out, data, image].concat()
}

fn xend(image: &str, body: Vec<u8>) -> Vec<u8> {
    let config = format!("(domain (domid 1) (name old) (memory 5) (image\n ({image} (kernel /x))))");
    [&b"LinuxGuestRecord"[..], &(config.len() as u32).to_be_bytes(), config.as_bytes(), &body].concat()
}

fn converted(image: &[u8]) -> Result<(Vec<u8>, Converted), LegacyError> {
    let mut out = Vec::new();
    convert(image, &mut out).map(|converted| (out, converted))
}

/// A form of image.
struct Form {
    name: String,
    image: Vec<u8>,
    /// How Xen's program is told of it, and what it takes of it: all behind xl's preamble or xend's configuration. (Its own way through a
    /// preamble, `-x`, ends in an error under python3: there a text is held against bytes.)
    told: Vec<&'static str>,
    theirs: Vec<u8>,
    /// Bytes of a device model's state that there is no place for.
    left_out: Option<u64>,
}

fn forms() -> Vec<Form> {
    let mut all = Vec::new();
    let mut add = |name: String, image: &[u8], theirs: &[u8], told: Vec<&'static str>, left_out| {
        all.push(Form { name, image: image.to_vec(), told, theirs: theirs.to_vec(), left_out });
    };
    for (words, width) in [(Words::Narrow, "32"), (Words::Wide, "64")] {
        for parts @ (wide, extended, xsave) in
            [(true, true, true), (true, false, false), (false, true, false), (false, true, true)]
        {
            let (image, name) = (pv(words, wide, extended, xsave), format!("pv {width} {parts:?}"));
            let whole = xl("pv", image.clone());
            add(format!("xl {name}"), &whole, &image, vec!["-w", width, "-g", "pv", "-f", "libxl"], None);
            let whole = xend("linux", image.clone());
            add(format!("xend {name}"), &whole, &image, vec!["-w", width, "-g", "pv", "-f", "libxc"], None);
        }
        let image = hvm(words, NEWER);
        let told = vec!["-w", width, "-g", "hvm", "-f", "libxl"];
        add(format!("xl hvm {width}"), &xl("hvm", image.clone()), &image, told, None);
        // The older one goes on to the end, with what is a length in the newer.
        for (signature, left_out) in [(NEWER, 5), (OLDER, 9)] {
            let image = hvm(words, signature);
            let told = vec!["-w", width, "-g", "hvm", "-f", "libxc", "--skip-qemu"];
            add(format!("xend hvm {width}"), &xend("hvm", image.clone()), &image, told, Some(left_out));
        }
    }
    all
}

#[test]
#[ignore = "long"]
fn each_form_is_what_xens_own_program_makes_of_it() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("xen-utils");
    let fetch = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin/fetch");
    let status = Command::new(fetch).arg("bookworm").arg(&folder).arg("xen-utils-4.17").stdout(Stdio::null()).status();
    assert!(status.unwrap().success());
    let xen = folder.join("usr/lib/xen-4.17");
    let work = tempfile::tempdir().unwrap();
    let (image, made) = (work.path().join("image"), work.path().join("made"));
    let forms = forms();
    assert_eq!(forms.len(), 2 * (4 * 2 + 3));
    for form in &forms {
        fs::write(&image, &form.theirs).unwrap();
        let mut program = Command::new("python3");
        program.arg(xen.join("bin/convert-legacy-stream")).env("PYTHONPATH", xen.join("lib/python"));
        program.arg("-i").arg(&image).arg("-o").arg(&made).args(&form.told);
        let output = program.output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", form.name);
        let (mut ours, theirs) = (converted(&form.image).unwrap().0, fs::read(&made).unwrap());
        if form.name.starts_with("xl") {
            // The preamble is the image's own, and says that v2 follows.
            let mut preamble = form.image[..form.image.len() - form.theirs.len()].to_vec();
            preamble[36] |= 2;
            assert!(ours.starts_with(&preamble), "{}", form.name);
            ours.drain(..preamble.len());
        }
        let first = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        assert_eq!((first, ours.len()), (None, theirs.len()), "{}", form.name);
    }
}

#[test]
fn each_form_becomes_a_stream_that_can_be_followed() {
    use xen_replicate::stream::reader::SliceReader;
    for form in forms() {
        let (out, converted) = converted(&form.image).unwrap_or_else(|error| panic!("{}: {error}", form.name));
        assert_eq!(converted.from, form.name.split(' ').next().unwrap());
        assert_eq!(converted.left_out, form.left_out, "{}", form.name);
        let mut reader = SliceReader::new(&out, Default::default());
        let mut items = 0;
        while reader.next_item().unwrap_or_else(|error| panic!("{}: {error}", form.name)).is_some() {
            items += 1;
        }
        assert!(items > 8, "{}: {items}", form.name);
    }
}

#[test]
fn an_image_that_is_cut_anywhere_says_so() {
    for image in [xl("pv", pv(Words::Wide, true, true, true)), xl("hvm", hvm(Words::Wide, NEWER))] {
        assert!(converted(&image).is_ok());
        for length in (0..image.len()).step_by(997).chain(0..200).chain([image.len() - 1]) {
            match converted(&image[..length]).unwrap_err() {
                LegacyError::Image { problem: Problem::Truncated { .. } | Problem::Start, offset } => {
                    assert!(offset <= length as u64);
                }
                error => panic!("{length}: {error}"),
            }
        }
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let pv = |from: &[u8], to: &[u8]| {
        let image = xl("pv", pv(Words::Wide, true, true, true));
        let at = image.windows(from.len()).position(|at| at == from).unwrap();
        [&image[..at], to, &image[at + from.len()..]].concat()
    };
    let vcpu = |bytes: u32| [&b"vcpu"[..], &word(bytes)].concat();
    // Behind the p2m's frames, so that it is not found in them.
    let verify = [chunk(-1, &[]), chunk(-2, &word(65))].concat();
    let instead = |other: Vec<u8>| pv(&verify, &[other, chunk(-2, &word(65))].concat());
    let cases = [
        (b"no image at all, but 32 bytes..".to_vec(), "neither an image of xl nor one of xend"),
        (xl("dead", vec![]), "does not say whether the guest is PV or HVM"),
        (pv(b"extv", b"exty"), "block \"exty\": not known"),
        (pv(&vcpu(5168), &vcpu(5160)), "a vCPU of 5160 bytes"),
        (pv(&[0xff; 8], &[0xfe; 8]), "in place of the mark of extended info"),
        (instead(chunk(-12, &[])), "chunk -12 (compressed pages): not converted"),
        (instead(chunk(-77, &[])), "chunk -77: not known"),
        (instead(chunk(1025, &[])), "a batch of 1025 pages"),
        (instead(batch(Words::Wide, &[8, 9, 8])), "page frame 0x8 twice"),
        (instead(param(-8, 1)), "HVM parameters of a PV guest"),
        (pv(&chunk(-2, &word(65)), &chunk(-2, &word(5000))), "highest vCPU 5000"),
        (xl("hvm", hvm(Words::Wide, b"SomethingElse--------")), "the device model's record starts with"),
    ];
    for (image, text) in cases {
        let said = converted(&image).unwrap_err().to_string();
        assert!(said.contains(text) && said.starts_with("legacy image, at offset "), "{text:?}: {said}");
    }
    // A v2 image has nothing to be converted.
    let mut v2 = xl("pv", vec![]);
    v2[36] = 3;
    assert!(converted(&v2).unwrap_err().to_string().contains("there is nothing to convert"));
}

/// Nothing is allocated for what a length merely claims.
#[test]
fn hostile_lengths_are_refused() {
    let mut config = xl("pv", vec![]);
    config[44..48].copy_from_slice(&word(u32::MAX));
    assert!(converted(&config).unwrap_err().to_string().contains("configuration of 4294967295 bytes"));
    let toolstack = [Words::Wide.ulongs(&[5]), chunk(-18, &word(u32::MAX))].concat();
    assert!(converted(&xl("hvm", toolstack)).unwrap_err().to_string().contains("toolstack data of 4294967295 bytes"));
    let unmapped = [&Words::Wide.ulongs(&[0])[..], &[0; 64]].concat();
    assert!(converted(&xl("hvm", unmapped)).unwrap_err().to_string().contains("a p2m of 0x0 page frames"));
}

#[test]
fn the_command_writes_all_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    let run = |image: &[u8]| {
        fs::write(&old, image).unwrap();
        let mut program = assert_cmd::Command::cargo_bin("xen-replicate").unwrap();
        program.args(["convert", "--from", "legacy", "-o"]).args([&new, &old]).output().unwrap()
    };
    let image = xl("hvm", hvm(Words::Wide, NEWER));
    let cut = run(&image[..image.len() - 1]);
    assert_eq!(cut.status.code(), Some(2), "{cut:?}");
    assert!(String::from_utf8_lossy(&cut.stderr).contains("the image is cut") && !new.exists(), "{cut:?}");
    let whole = run(&image);
    assert_eq!(whole.status.code(), Some(0), "{whole:?}");
    assert!(fs::read(&new).unwrap() == converted(&image).unwrap().0);
    fs::remove_file(&new).unwrap();
    let told = run(&xend("hvm", hvm(Words::Wide, NEWER)));
    assert!(
        String::from_utf8_lossy(&told.stderr).contains("left out: 5 bytes of the device model's state"),
        "{told:?}"
    );
}
