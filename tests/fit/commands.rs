//! The commands: `verify --for`, `convert --for`, `diff` of hosts, `host-info`.

use crate::common::fixture;
use crate::edit::{good_hvm, with_entries};
use crate::guest_of;
use crate::hosts::host_for;
use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use xen_replicate::host_info::{HostInfo, Part};

fn run(arguments: &[&str]) -> Output {
    Command::cargo_bin("xen-replicate").unwrap().env_remove("RUST_LOG").args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The HVM guest with LAPIC entries as newer releases write them; the last 8 bytes begin with this.
fn newer(pending_esr: u8) -> Vec<u8> {
    with_entries(&good_hvm(), |all| {
        for (.., data) in all.iter_mut().filter(|(typecode, ..)| *typecode == 5) {
            data.resize(32, 0);
            data[24] = pending_esr;
        }
    })
}

#[test]
fn verify_for_a_release_has_the_exit_codes_that_help_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("newer.save");
    fs::write(&path, newer(0)).unwrap();
    let path = path.to_str().unwrap();
    let refused = run(&["verify", "--for", "xen-4.17", path]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let text = out(&refused);
    assert!(text.contains("refused: hvm_context: HVM_CONTEXT: LAPIC:0 has 32 bytes, 24 before"), "{text}");
    assert!(
        text.contains("(convert --for cuts it)")
            && text.contains("not looked at")
            && text.contains("does NOT fit xen-4.17: "),
        "{text}"
    );
    let fits = run(&["verify", "--for", "xen-4.21", path]);
    assert_eq!(fits.status.code(), Some(0), "{fits:?}");
    assert!(out(&fits).lines().last().unwrap().starts_with("fits xen-4.21"), "{fits:?}");
    let json: Value = serde_json::from_str(&out(&run(&["verify", "--json", "--for", "xen-4.20", path]))).unwrap();
    assert_eq!(
        (&json["verdict"], &json["target"], &json["release"]),
        (&"fits_with_remarks".into(), &"xen-4.20".into(), &"4.20".into())
    );
    assert_eq!(json["findings"][0]["on_update"], true, "{json}");
    for target in ["xen-4.13", "/none/of/these", "ssh:"] {
        assert_eq!(run(&["verify", "--for", target, path]).status.code(), Some(2), "{target}");
    }
    let help = out(&run(&["verify", "--help"]));
    assert!(help.contains("Exit codes: 0 valid, with --for: it fits") && help.contains("ssh:HOST"), "{help}");
}

#[test]
fn verify_for_hosts_by_file_here_and_over_ssh() {
    let folder = tempfile::tempdir().unwrap();
    let real = fixture("xen/4.17.7stock-hvm64-live.xz");
    let real = real.to_str().unwrap();
    let mut host = host_for(&guest_of(Path::new(real)));
    let file = folder.path().join("b.json");
    fs::write(&file, serde_json::to_vec_pretty(&host).unwrap()).unwrap();
    let file = file.to_str().unwrap();
    let fits = run(&["verify", "--for", file, real]);
    assert_eq!((fits.status.code(), out(&fits)), (Some(0), format!("fits {file}\n")), "{fits:?}");
    // Another guest's stream.
    assert_eq!(run(&["verify", "--for", real, real]).status.code(), Some(0));

    // An ssh that runs what it is told here: a program of that name that prints what another host is.
    host.xen = Part::missing("no privcmd");
    fs::write(folder.path().join("other.json"), serde_json::to_vec(&host).unwrap()).unwrap();
    let script = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let at = folder.path().display();
    script(
        "ssh",
        &format!(
            "#!/bin/sh\n[ \"$1\" = -- ] && [ \"$2\" = hostb ] || exit 255\necho \"$3\" > '{at}/asked'\nPATH='{at}':$PATH exec sh -c \"$3\"\n"
        ),
    );
    script("xen-replicate", &format!("#!/bin/sh\n[ \"$1\" = host-info ] && cat '{at}/other.json'\n"));
    let by_ssh = |target: &str| {
        let path = format!("{at}:{}", std::env::var("PATH").unwrap());
        let mut program = Command::cargo_bin("xen-replicate").unwrap();
        program.env("PATH", path).args(["verify", "--for", target, real]).output().unwrap()
    };
    let refused = by_ssh("ssh:hostb");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        out(&refused).contains("refused: xen: the host has no hypervisor that could be asked: no privcmd"),
        "{refused:?}"
    );
    assert!(fs::read_to_string(folder.path().join("asked")).unwrap().starts_with("xen-replicate host-info"));
    let nobody = by_ssh("ssh:hostc");
    assert_eq!(nobody.status.code(), Some(2));
    assert!(err(&nobody).contains("ssh:hostc") && err(&nobody).contains("exit status: 255"), "{nobody:?}");
}

#[test]
fn a_host_without_xen_says_so_and_no_more_than_it_knows() {
    if xen_replicate::hypervisor::xen::is_xen_host() {
        return;
    }
    let output = run(&["host-info", "--path", "/dev/null", "--path", "/etc/passwd", "--qemu", "/none/qemu"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let info = HostInfo::parse(out(&output).as_bytes()).unwrap();
    assert!(info.xen.why_missing().is_some_and(|why| why.contains("/dev/xen/privcmd")));
    for policy in [&info.cpu_policies.host, &info.cpu_policies.hvm_max, &info.cpu_policies.pv_default] {
        assert_eq!(policy.why_missing(), info.xen.why_missing());
    }
    assert_eq!(info.hvm_context.why_missing(), info.xen.why_missing());
    assert_eq!(info.qemu.why_missing(), Some("/none/qemu: not there"));
    assert_eq!(info.paths.iter().map(|path| &*path.kind).collect::<Vec<_>>(), ["other", "file"]);
    let here = run(&["verify", "--for", "local", fixture("xen/4.17.7stock-pvh40-remus.xz").to_str().unwrap()]);
    assert_eq!(here.status.code(), Some(1), "{here:?}");
    assert!(out(&here).contains("refused: xen: ") && out(&here).contains("does NOT fit this host"), "{here:?}");
}

#[test]
fn hosts_are_compared_by_field_and_by_the_names_of_features() {
    let folder = tempfile::tempdir().unwrap();
    let guest = guest_of(&fixture("xen/4.17.7stock-hvm64-live.xz"));
    let (one, mut other) = (host_for(&guest), host_for(&guest));
    other.host = Part::Known("c".into());
    let Part::Known(policy) = &mut other.cpu_policies.hvm_max else { panic!("a policy") };
    let mut leaves = policy.cpuid.leaves.clone();
    let leaf = leaves.iter_mut().find(|leaf| leaf.leaf.0 == 1).unwrap();
    leaf.ecx.0 &= !(1 << 19);
    policy.cpuid = xen_replicate::decode::cpuid::CpuidPolicy::of(leaves);
    let (a, b) = (folder.path().join("a.json"), folder.path().join("b.json"));
    fs::write(&a, serde_json::to_vec_pretty(&one).unwrap()).unwrap();
    fs::write(&b, serde_json::to_vec_pretty(&other).unwrap()).unwrap();
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    let same = run(&["diff", a, a]);
    assert_eq!((same.status.code(), out(&same)), (Some(0), "the same\n".to_owned()));
    let different = run(&["diff", a, b]);
    assert_eq!(different.status.code(), Some(1));
    let text = out(&different);
    assert!(
        text.contains("host: b -> c\n")
            && text.contains("cpu_policies.hvm_max.cpuid.features.1.ecx[sse4_1]: sse4_1 -> -\n"),
        "{text}"
    );
    let json: Value = serde_json::from_str(&out(&run(&["diff", "--json", a, b]))).unwrap();
    assert_eq!(json["same"], false);
    let mixed = run(&["diff", a, fixture("xen/4.17.7stock-pvh40-remus.xz").to_str().unwrap()]);
    assert_eq!(mixed.status.code(), Some(2), "{mixed:?}");
    assert!(err(&mixed).contains("verify --for"), "{mixed:?}");
}

#[test]
fn convert_for_changes_what_says_nothing_and_refuses_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("newer"), newer(0)).unwrap();
    fs::write(at("pending"), newer(0x40)).unwrap();
    fs::write(at("older"), good_hvm()).unwrap();
    let converted = run(&["convert", "--for", "xen-4.17", "-o", &at("out"), &at("newer")]);
    assert_eq!(converted.status.code(), Some(0), "{converted:?}");
    assert!(
        err(&converted).contains("changed: HVM_CONTEXT: LAPIC:0: 32 bytes to 24: pending_esr is 0"),
        "{converted:?}"
    );
    assert_eq!(run(&["verify", "--for", "xen-4.17", &at("out")]).status.code(), Some(0));
    // Nothing else is other: it is what comes of the same guest with short entries.
    assert_eq!(run(&["convert", "-o", &at("plain"), &at("older")]).status.code(), Some(0));
    assert!(fs::read(at("out")).unwrap() == fs::read(at("plain")).unwrap(), "more was changed");
    // A release that has the longer form gets it as it is.
    let same = run(&["convert", "--for", "xen-4.21", "-o", &at("same"), &at("newer")]);
    assert_eq!(same.status.code(), Some(0), "{same:?}");
    assert_eq!(run(&["convert", "-o", &at("as-it-is"), &at("newer")]).status.code(), Some(0));
    assert!(fs::read(at("same")).unwrap() == fs::read(at("as-it-is")).unwrap());

    // An error that the APIC has not told of yet would be lost.
    let refused = run(&["convert", "--for", "xen-4.17", "-o", &at("none"), &at("pending")]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        err(&refused).contains("LAPIC:0 has 32 bytes") && err(&refused).contains("not written: 1 reasons"),
        "{refused:?}"
    );
    assert!(!Path::new(&at("none")).exists());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 7, "nothing else is left");
    let nothing = run(&["convert", "--for", "xen-4.17", &at("pending")]);
    assert!(nothing.status.code() == Some(1) && nothing.stdout.is_empty());
    assert_eq!(run(&["convert", "--for", "xen-5.0", &at("newer")]).status.code(), Some(2));
}
