//! Containers with and without footers, whole, torn, ambiguous, and at random.

use super::*;
use proptest::prelude::*;

fn start() -> Vec<u8> {
    b"QEVM\0\0\0\x03".to_vec()
}

fn header(out: &mut Vec<u8>, kind: u8, id: u32, name: &str, instance: u32, version: u32) {
    out.push(kind);
    out.extend_from_slice(&id.to_be_bytes());
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&instance.to_be_bytes());
    out.extend_from_slice(&version.to_be_bytes());
}

fn footer(out: &mut Vec<u8>, id: u32) {
    out.push(0x7e);
    out.extend_from_slice(&id.to_be_bytes());
}

/// Three sections as under Xen; the second holds a subsection.
fn plain() -> Vec<u8> {
    let mut out = start();
    header(&mut out, 4, 0, "timer", 0, 2);
    out.extend_from_slice(&[7; 24]);
    header(&mut out, 4, 3, "fdc", 0, 2);
    out.extend_from_slice(b"\x01\x02\x05\x11fdrive/media_rate\0\0\0\x01\x03");
    header(&mut out, 4, 33, "0000:00:02.0/platform", 1, 4);
    out.extend_from_slice(&[0; 277]);
    out.push(0);
    out
}

fn footed() -> Vec<u8> {
    let mut out = start();
    out.extend_from_slice(b"\x07\0\0\0\x05xenfv");
    header(&mut out, 1, 2, "ram", 0, 4);
    out.extend_from_slice(&[1; 5]);
    footer(&mut out, 2);
    for kind in [2u8, 3] {
        out.push(kind);
        out.extend_from_slice(&2u32.to_be_bytes());
        out.extend_from_slice(&[9; 6]);
        footer(&mut out, 2);
    }
    header(&mut out, 4, 5, "apic", 1, 3);
    // An imitation of a header without a footer before it.
    header(&mut out, 4, 6, "fake", 0, 1);
    out.extend_from_slice(&[3; 4]);
    footer(&mut out, 5);
    out.push(0);
    out
}

fn shape(state: &QemuState) -> Vec<(&'static str, u32, &str, usize, usize)> {
    state.sections.iter().map(|s| (s.kind, s.id, s.name.as_deref().unwrap_or("?"), s.offset, s.size)).collect()
}

#[test]
fn sections_without_footers() {
    let blob = plain();
    let state = QemuState::decode(&blob).unwrap();
    assert_eq!(
        shape(&state),
        [("full", 0, "timer", 8, 24), ("full", 3, "fdc", 51, 26), ("full", 33, "0000:00:02.0/platform", 94, 277)]
    );
    assert!(state.complete && !state.footers);
    assert_eq!((state.machine, state.stopped), (None, None));
    assert_eq!(state.sections[1].subsections, ["fdrive/media_rate"]);
    assert_eq!((state.sections[2].instance, state.sections[2].version), (Some(1), Some(4)));
    assert_eq!(blob.len(), 94 + 35 + 277 + 1);
}

#[test]
fn sections_with_footers_pass_over_imitations() {
    let state = QemuState::decode(&footed()).unwrap();
    assert_eq!(state.machine.as_deref(), Some("xenfv"));
    assert_eq!(
        shape(&state),
        [("start", 2, "ram", 18, 5), ("part", 2, "ram", 45, 6), ("end", 2, "ram", 61, 6), ("full", 5, "apic", 77, 22)]
    );
    assert!(state.complete && state.footers);
    assert_eq!(state.sections[1].instance, None);
}

#[test]
fn two_chains_with_footers_are_no_answer() {
    let mut blob = start();
    header(&mut blob, 4, 5, "apic", 0, 3);
    footer(&mut blob, 5);
    header(&mut blob, 4, 5, "apic", 1, 3);
    footer(&mut blob, 5);
    blob.push(0);
    let state = QemuState::decode(&blob).unwrap();
    assert!(!state.complete && state.sections.is_empty());
    assert_eq!(state.stopped, Some(Stopped { offset: 8, reason: "more than one way to read on" }));
}

#[test]
fn imitations_without_footers_are_noticed() {
    let mut blob = start();
    header(&mut blob, 4, 0, "timer", 0, 2);
    header(&mut blob, 4, 1, "cpu", 0, 2);
    let cpu = blob.len();
    header(&mut blob, 4, 2, "apic", 0, 2);
    header(&mut blob, 4, 2, "fake", 0, 2);
    blob.push(0);
    let state = QemuState::decode(&blob).unwrap();
    assert_eq!(shape(&state), [("full", 0, "timer", 8, 0)]);
    assert_eq!(state.stopped, Some(Stopped { offset: cpu - 17, reason: "more than one way to read on" }));
    assert!(!state.complete);
}

#[test]
fn an_imitation_of_the_first_section_disputes_the_later_one() {
    let mut blob = start();
    for (id, name) in [(0, "timer"), (1, "cpu"), (2, "apic"), (3, "timer")] {
        header(&mut blob, 4, id, name, 0, 1);
    }
    blob.push(0);
    let state = QemuState::decode(&blob).unwrap();
    assert_eq!(shape(&state).iter().map(|s| s.2).collect::<Vec<_>>(), ["timer", "cpu"]);
    assert_eq!(state.stopped.map(|s| s.offset), Some(8 + 19 + 17));
}

#[test]
fn description_behind_the_end() {
    let json = br#"{"page_size": 4096, "devices": [{"name": "timer"}, {"name": "cpu"}]}"#;
    for (text, devices) in
        [(&json[..], Some(vec!["timer".to_owned(), "cpu".to_owned()])), (b"{\"devices\": 3}", None), (b"{oops", None)]
    {
        let mut blob = footed();
        let bare = blob.len();
        blob.push(6);
        blob.extend_from_slice(&(text.len() as u32).to_be_bytes());
        blob.extend_from_slice(text);
        let state = QemuState::decode(&blob).unwrap();
        assert_eq!(state.description, Some(VmDescription { length: text.len(), devices }));
        assert!(state.complete);
        assert_eq!(state.sections, QemuState::decode(&blob[..bare]).unwrap().sections);
    }
}

#[test]
fn configuration_and_commands() {
    let mut blob = start();
    blob.extend_from_slice(b"\x07\0\0\0\x02pc");
    blob.extend_from_slice(b"\x05\x1aconfiguration/capabilities\0\0\0\x01\0\0\0\x02\x03abc\x01x");
    blob.extend_from_slice(b"\x05\x12configuration/uuid\0\0\0\x01ABCDEFGHIJKLMNOP");
    blob.extend_from_slice(b"\x05\x1econfiguration/target-page-bits\0\0\0\x01\0\0\0\x0c");
    let commands = blob.len();
    blob.extend_from_slice(b"\x08\0\x01\0\x00\x08\0\x02\0\x04\0\0\0\x01");
    blob.push(0);
    let state = QemuState::decode(&blob).unwrap();
    assert_eq!(state.machine.as_deref(), Some("pc"));
    let values: Vec<_> = state.configuration.iter().map(|item| item.value.clone()).collect();
    assert_eq!(
        values,
        [
            ConfigurationValue::Capabilities(vec!["abc".into(), "x".into()]),
            ConfigurationValue::Uuid("4142434445464748494a4b4c4d4e4f50".into()),
            ConfigurationValue::TargetPageBits(12),
        ]
    );
    assert_eq!(state.commands.iter().map(|c| (c.command, c.data.0.len())).collect::<Vec<_>>(), [(1, 0), (2, 4)]);
    assert!(state.complete && state.sections.is_empty());
    for len in 8..commands {
        let prefix = QemuState::decode(&blob[..len]);
        assert!(prefix.is_err() || !prefix.unwrap().complete, "{len}");
    }
}

#[test]
fn what_is_no_container_is_refused() {
    assert_eq!(
        QemuState::decode(b"QEVN\0\0\0\x03\0").unwrap_err().to_string(),
        "QEVM magic at offset 0: value 0x5145564e, expected 0x5145564d"
    );
    assert_eq!(
        QemuState::decode(b"QEVM\0\0\0\x02\0").unwrap_err().to_string(),
        "QEVM version at offset 4: value 0x2, expected 3"
    );
    (0..8).for_each(|len| assert!(QemuState::decode(&plain()[..len]).is_err()));
    assert_eq!(
        QemuState::decode(b"QEVM\0\0\0\x03\x07\xff\xff\xff\xffpc").unwrap_err(),
        DecodeError::TooShort { what: "QEVM machine type", offset: 13, needed: 0xffff_ffff, got: 2 }
    );
}

#[test]
fn a_torn_container_keeps_what_is_certain() {
    for blob in [plain(), footed()] {
        let whole = QemuState::decode(&blob).unwrap();
        for len in 23..blob.len() {
            let state = QemuState::decode(&blob[..len]).unwrap();
            if !state.complete {
                assert!(state.stopped.is_some(), "{len}");
                assert!(whole.sections.starts_with(&state.sections), "{len}");
            }
        }
    }
    let torn = QemuState::decode(&footed()[..82]).unwrap();
    assert_eq!(torn.sections.len(), 2);
    assert_eq!(torn.stopped, Some(Stopped { offset: 61, reason: "no end-of-file mark" }));
}

#[test]
fn many_imitations_cost_linear_time() {
    // 200 000 headers of one id, each behind a footer of that id: quadratic work would not end.
    let mut blob = start();
    for n in 0..200_000u32 {
        header(&mut blob, 4, 1, "aa", n, 0);
        footer(&mut blob, 1);
    }
    blob.push(0);
    let state = QemuState::decode(&blob).unwrap();
    assert_eq!(state.stopped.map(|s| s.reason), Some("more than one way to read on"));
    blob.pop();
    blob.push(1);
    assert!(!QemuState::decode(&blob).unwrap().complete);
}

/// Bytes that cannot imitate a header or a footer.
fn inert() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0x80u8..=0xff, 0..40)
}

proptest! {
    #[test]
    fn written_sections_are_found(
        sections in proptest::collection::vec(("[a-z][a-z0-9:./_-]{0,20}", 0u32..3, inert()), 0..12),
        with_footers: bool,
    ) {
        let mut blob = start();
        let mut expected = Vec::new();
        for (n, (name, instance, data)) in sections.iter().enumerate() {
            let name = format!("{name}{n}");
            expected.push((n as u32, name.clone(), *instance, blob.len(), data.len()));
            header(&mut blob, 4, n as u32, &name, *instance, 1);
            blob.extend_from_slice(data);
            if with_footers {
                footer(&mut blob, n as u32);
            }
        }
        blob.push(0);
        let state = QemuState::decode(&blob).unwrap();
        prop_assert!(state.complete);
        let got: Vec<_> = state.sections.iter().map(|s| (s.id, s.name.clone().unwrap(), s.instance.unwrap(), s.offset, s.size)).collect();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn any_bytes_are_safe(tail in proptest::collection::vec(prop_oneof![0u8..9, Just(0x7e), Just(b'a'), any::<u8>()], 0..300)) {
        let mut blob = start();
        blob.extend_from_slice(&tail);
        if let Ok(state) = QemuState::decode(&blob) {
            prop_assert_eq!(state.complete, state.stopped.is_none());
            for pair in state.sections.windows(2) {
                prop_assert!(pair[0].offset + pair[0].size < pair[1].offset);
            }
            prop_assert!(serde_json::to_string(&state).is_ok());
        }
        let _ = QemuState::decode(&tail);
    }
}
