use super::*;

fn section(kind: u8, id: u32) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(id.to_be_bytes());
    out
}

fn named(name: &str) -> Vec<u8> {
    let mut out = vec![name.len() as u8];
    out.extend(name.as_bytes());
    out
}

fn word(address: u64, flags: u64) -> [u8; 8] {
    (address | flags).to_be_bytes()
}

fn footer(id: u32) -> Vec<u8> {
    section(0x7e, id)
}

/// Header, configuration, a command, and RAM of two blocks in three sections.
fn image() -> Vec<u8> {
    let mut out = b"QEVM\0\0\0\x03".to_vec();
    out.extend([7, 0, 0, 0, 2, b'p', b'c']);
    out.push(5);
    out.extend(named("configuration/capabilities"));
    out.extend([0, 0, 0, 1, 0, 0, 0, 1]);
    out.extend(named("x-ignore-shared"));
    out.extend([8, 0, 8, 0, 0]);
    out.extend([8, 0, 2, 0, 4, 0, 0, 0, 9]);
    out.extend(section(1, 2));
    out.extend(named("ram"));
    out.extend([0, 0, 0, 0, 0, 0, 0, 4]);
    out.extend(word(0x7000, 4));
    for (name, length) in [("pc.ram", 0x6000_u64), ("rom", 0x1000)] {
        out.extend(named(name));
        out.extend(length.to_be_bytes());
        out.extend([0; 8]);
    }
    out.extend(word(0, 0x10));
    out.extend(footer(2));
    out.extend(section(2, 2));
    out.extend(word(0, 8));
    out.extend(named("pc.ram"));
    // Contents that look like marks.
    out.extend([0x10; 4096]);
    out.extend(word(0x1000, 0x20 | 2));
    out.push(0);
    out.extend(word(0x2000, 0x20 | 0x40));
    out.extend([1, 0, 3, 9, 9, 9]);
    out.extend(word(0x3000, 0x20 | 0x100));
    out.extend([0, 0, 0, 2, 7, 7]);
    out.extend(word(0, 0x80));
    out.extend(word(0, 0x10));
    out.extend(footer(2));
    out.extend(section(3, 2));
    out.extend(word(0, 2));
    out.extend(named("rom"));
    out.push(0);
    out.extend(word(0, 0x10));
    out.extend(footer(2));
    out
}

fn walk(bytes: &[u8], step: usize) -> Result<Walker, WalkError> {
    let mut walker = Walker::new(0);
    for part in bytes.chunks(step) {
        walker.push(part)?;
    }
    Ok(walker)
}

#[test]
fn pages_are_walked_however_the_bytes_come() {
    let mut bytes = image();
    let ram = bytes.len() as u64;
    bytes.extend([4, 0, 0, 0, 1, 1, b't', 0, 0]);
    for step in [1, 2, 3, 7, 4096, bytes.len()] {
        let walker = walk(&bytes, step).unwrap();
        assert_eq!(walker.ram(), Ram { full: 1, zero: 2, xbzrle: 1, compressed: 1, sections: 3, flushes: 0 }, "{step}");
        assert!(walker.head().colo);
        assert_eq!((walker.progress(), walker.footers()), (Progress::Walking, Some(true)));
        // The header of the first device is not whole yet.
        let mut walker = walker;
        walker.push(&[0, 0, 0, 0, 0, 1, 0xaa]).unwrap();
        assert_eq!(walker.progress(), Progress::Devices);
        assert_eq!(walker.devices().1, ram);
        assert_eq!(walker.devices().0.last(), Some(&0xaa));
    }
}

#[test]
fn a_checkpoints_ram_ends_with_its_mark() {
    let mut walker = walk(&image(), 5).unwrap();
    walker.live(50_000);
    let mut bytes = section(3, 2);
    bytes.extend(word(0x5000, 0x20 | 2));
    bytes.push(0);
    bytes.extend(word(0, 0x10));
    bytes.extend(footer(2));
    bytes.extend([0, 0xff]);
    // "The same block": the last one of the image, which has one page.
    let error = walker.clone().push(&bytes).unwrap_err();
    assert_eq!(error, WalkError::Page { offset: 50_005, address: 0x5000, block: "rom".into(), length: 0x1000 });
    bytes.splice(5..13, word(0, 0x20 | 2));
    assert_eq!(walker.push(&bytes).unwrap(), bytes.len() - 1);
    assert_eq!((walker.progress(), walker.ram().pages()), (Progress::Done, 1));
}

#[test]
fn wrong_bytes_are_told_with_offset_and_value() {
    let whole = image();
    let wrong = |at: usize, bytes: &[u8]| {
        let mut image = whole.clone();
        image.splice(at..at + bytes.len(), bytes.iter().copied());
        walk(&image, image.len()).unwrap_err()
    };
    assert_eq!(wrong(0, b"X"), WalkError::Magic { offset: 0, value: 0x5845_564d });
    assert_eq!(wrong(7, &[2]), WalkError::Version { offset: 4, value: 2 });
    assert_eq!(wrong(8, &[9]), WalkError::Unit { offset: 8, value: 9 });
    assert!(matches!(wrong(9, &[1]), WalkError::Configuration { value: 0x0100_0002, .. }));
    let find = |what: &[u8]| whole.windows(what.len()).position(|window| window == what).unwrap();
    let start = find(b"\x03ram");
    assert!(matches!(wrong(start + 1, b"dam"), WalkError::Parts { name, .. } if name == "dam"));
    assert!(matches!(wrong(start + 11, &[5]), WalkError::RamVersion { value: 5, .. }));
    let list = start + 12;
    assert_eq!(
        wrong(list + 6, &[0x50]),
        WalkError::BlockLength { offset: list as u64 + 8, length: 0x6000, left: 0x5000 }
    );
    let part = find(&[2, 0, 0, 0, 2, 0]);
    assert_eq!(wrong(part + 4, &[3]), WalkError::SectionId { offset: part as u64, id: 3 });
    assert_eq!(wrong(part + 12, &[0xa]), WalkError::Flags { offset: part as u64 + 5, flags: 0xa });
    assert!(matches!(wrong(part + 11, &[0x60]), WalkError::Page { address: 0x6000, length: 0x6000, .. }));
    assert!(matches!(wrong(part + 14, b"x"), WalkError::Page { block, length: 0, .. } if block == "xc.ram"));
    let packed = find(&[0, 0, 0, 2, 7, 7]);
    assert!(matches!(wrong(packed, &[0x80]), WalkError::Packed { value: 0x8000_0002, most: 4110, .. }));
    let last = whole.len() - 5;
    assert_eq!(wrong(last + 4, &[9]), WalkError::Footer { offset: last as u64, id: 2, value: 9 });
    assert_eq!(wrong(last, &[4]), WalkError::Footer { offset: last as u64, id: 2, value: 4 });
}

#[test]
fn no_byte_changed_makes_it_panic() {
    let image = image();
    for at in 0..image.len() {
        // The page's contents are not looked at.
        for byte in [0, 1, 4, 0x7f, 0xff] {
            let mut changed = image.clone();
            changed[at] = byte;
            let _ = walk(&changed, 1000);
        }
    }
}
