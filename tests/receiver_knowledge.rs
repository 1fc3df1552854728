//! What `verify` says of each input of `fixtures/inputs`, and of every other fault of the same kind: a receiver's knowledge, before
//! the guest is suspended.

mod common;
#[path = "receiver_knowledge/edit.rs"]
mod edit;
#[path = "receiver_knowledge/foreign.rs"]
mod foreign;
#[path = "receiver_knowledge/hvm.rs"]
mod hvm;
#[path = "receiver_knowledge/pv.rs"]
mod pv;

use assert_cmd::Command;
use common::fixture;

/// Each input, whether it is valid, and what must be said of it.
const INPUTS: &[(&str, bool, &[&str])] = &[
    // The stream is `helper/hvm-plain-libxl`, of whose made-up registers it says the same as of that.
    ("A1-libvirt-managedsave", false, &["libvirt save image, the stream at offset 192", "CR0", "16472 bytes"]),
    ("A2b-xapi-legacy-suspend-image", false, &["a legacy suspend image of XAPI, of Xen 4.5 or earlier", "xenopsd"]),
    ("A3-xl-legacy-4.4", false, &["an image of xl of Xen 4.5 or earlier", "convert --from legacy"]),
    ("A3d-xend-LinuxGuestRecord", false, &["an image of xend, of Xen 4.4 or earlier", "convert --from legacy"]),
    ("A4-elf-dump-core", false, &["an ELF file, as xl dump-core writes", "crash"]),
    (
        "A7-ssh-motd-in-front",
        false,
        &["37 bytes of text at offset 0: \"Welcome to host b!\\r\\nLast login: Tue\\r\\n\"", "goes on at offset 37"],
    ),
    (
        "A7c-stderr-text-inside",
        false,
        &["96 bytes of text at offset 1267: \"Saving to /dev/stdout new xl format", "goes on at offset 1363"],
    ),
    (
        "B2c-xsave-xcr0-beyond-policy",
        true,
        &["remark", "vCPU 0: XCR0 is 0x2e7", "bit 9 (pkru) not in X86_CPUID_POLICY (0xd:0.eax)"],
    ),
    ("B2d-unknown-typecode-21", true, &["remark", "entry type 21 (instance 0)", "Xen up to 4.22 does not know it"]),
    ("B2f-cpu-entry-too-long", true, &["remark", "CPU:0 has 1096 bytes", "at most 1032"]),
    ("B2i-no-cpu-entry", true, &["remark", "no CPU entry of vCPU 0", "the guest never runs"]),
    ("B2m-bad-header-magic", false, &["error", "HEADER.magic", "expected 0x54381286"]),
    ("B3a-param-unknown-77", true, &["remark", "HVM_PARAMS: index 77"]),
    ("B3c-param-without-store-console", true, &["remark", "no STORE_PFN", "no CONSOLE_PFN", "cut off from xenstore"]),
    ("B4a-icelake-max-subleaf-2", true, &[]),
    ("C1-pv-pfn-above-p2m-end", false, &["error", "outside the domain's maximum"]),
    ("C3b-qemu-truncated", true, &["remark", "the state of 4000 bytes is cut", "the device model will not start"]),
    ("C3c-qemu-empty", true, &["remark", "no state at all", "the device model will not start"]),
    ("C3h-hvm-without-device-model", true, &["remark", "no EMULATOR_CONTEXT", "the device model will not start"]),
    ("C3j-qemu4-xenfv-smbus-in-piix4_pm", true, &[]),
    ("C5g-config-pv-type-in-hvm-stream", true, &["remark", "type \"pv\", the domain header HVM"]),
    ("E2-pv-p2m-high-start", false, &["error", "X86_PV_P2M_FRAMES: starts at pfn 0xfffffe00"]),
    (
        "E3-spec-ctrl-psfd-not-in-policy",
        true,
        &[
            "remark",
            "vCPU 0: MSR SPEC_CTRL is",
            "bit 2 (ssbd) not in X86_CPUID_POLICY",
            "bit 7 (psfd) not in X86_CPUID_POLICY",
        ],
    ),
    ("E4c-pv-no-shared-info", false, &["error", "no SHARED_INFO"]),
    ("E5-tsc-mode-7", false, &["error", "mode is 7", "EINVAL"]),
];

#[test]
fn every_input_comes_out_as_its_table_says() {
    let mut wrong = Vec::new();
    for (name, valid, words) in INPUTS {
        let path = fixture(&format!("inputs/{name}.bin"));
        let output = Command::cargo_bin("xen-replicate").unwrap().args(["verify", "--all"]).arg(path).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let code = if *valid { 0 } else { 1 };
        let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
        if output.status.code() != Some(code) || !missing.is_empty() {
            wrong.push(format!("{name}: exit {:?}, without {missing:?}:\n{said}", output.status.code()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let there = std::fs::read_dir(fixture("inputs")).unwrap().map(|entry| entry.unwrap().path());
    let there = there.filter(|path| path.extension().is_some_and(|end| end == "bin")).count();
    assert_eq!(there, INPUTS.len(), "inputs without a row");
}
