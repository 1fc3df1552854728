//! Each hypercall that our helper makes, failing once with each of five errors: what is said, and that the guest runs on.

use crate::helper::{Helper, Outcome, PLAIN};
use crate::home::{Home, Program, assert_restored, guest};
use crate::message::Message;
use crate::plain::we_save;
use crate::pv_home;
use std::collections::BTreeSet;
use std::fs;
use xen_replicate::hypervisor::Domain;
use xen_replicate::hypervisor::sim::SimConfig;

/// What Xen and its driver fail with: EPERM, EAGAIN, ENOMEM, EACCES, EFAULT.
const ERRNOS: [i32; 5] = [1, 11, 12, 13, 14];

/// The operations by their numbers, as our messages name them.
fn name(call: &str, op: u64) -> &'static str {
    match (call, op) {
        ("domctl", 5) => "XEN_DOMCTL_getdomaininfo",
        ("domctl", 10) => "XEN_DOMCTL_shadow_op",
        ("domctl", 12) => "XEN_DOMCTL_setvcpucontext",
        ("domctl", 13) => "XEN_DOMCTL_getvcpucontext",
        ("domctl", 14) => "XEN_DOMCTL_getvcpuinfo",
        ("domctl", 33) => "XEN_DOMCTL_gethvmcontext",
        ("domctl", 34) => "XEN_DOMCTL_sethvmcontext",
        ("domctl", 35) => "XEN_DOMCTL_set_address_size",
        ("domctl", 36) => "XEN_DOMCTL_get_address_size",
        ("domctl", 42) => "XEN_DOMCTL_set_ext_vcpucontext",
        ("domctl", 43) => "XEN_DOMCTL_get_ext_vcpucontext",
        ("domctl", 59) => "XEN_DOMCTL_gettscinfo",
        ("domctl", 60) => "XEN_DOMCTL_settscinfo",
        ("domctl", 61) => "XEN_DOMCTL_getpageframeinfo3",
        ("domctl", 62) => "XEN_DOMCTL_setvcpuextstate",
        ("domctl", 63) => "XEN_DOMCTL_getvcpuextstate",
        ("domctl", 72) => "XEN_DOMCTL_get_vcpu_msrs",
        ("domctl", 73) => "XEN_DOMCTL_set_vcpu_msrs",
        ("domctl", 82) => "XEN_DOMCTL_get_cpu_policy",
        ("domctl", 83) => "XEN_DOMCTL_set_cpu_policy",
        ("memory_op", 2) => "XENMEM_maximum_ram_page",
        ("memory_op", 5) => "XENMEM_machphys_mfn_list",
        ("memory_op", 6) => "XENMEM_populate_physmap",
        ("memory_op", 14) => "XENMEM_maximum_gpfn",
        ("memory_op", 25) => "XENMEM_machphys_compat_mfn_list",
        ("hvm_op", 0) => "HVMOP_set_param",
        ("hvm_op", 1) => "HVMOP_get_param",
        ("mmuext_op", 0) => "MMUEXT_PIN_L1_TABLE",
        ("map", 0) => "map",
        other => panic!("{other:?} has no name here"),
    }
}

/// The operations in a log of the stand-in's.
fn operations(home: &Home) -> BTreeSet<(String, u64)> {
    let log = fs::read_to_string(home.path("log")).unwrap();
    let operation = |line: &str| {
        let mut words = line.split([' ', ',', ':']);
        let call = words.next()?;
        match call {
            // Of domain 0 is only who looks for the version.
            "domctl" if line.contains("of domain 0") => None,
            "domctl" | "memory_op" | "hvm_op" => Some((call.to_owned(), words.next()?.parse().ok()?)),
            "mmuext_op" | "map" => Some((call.to_owned(), 0)),
            _ => None,
        }
    };
    log.lines().filter_map(operation).collect()
}

/// What is wrong with what was said of a failure, if anything is.
fn said(outcome: &Outcome, call: &str, op: u64, errno: i32) -> Result<(), String> {
    let error = std::io::Error::from_raw_os_error(errno).to_string();
    let line = outcome.messages.iter().find_map(|message| match message {
        Message::Log { text } if text.contains(" failed: ") => Some(text),
        _ => None,
    });
    let line = line.ok_or_else(|| format!("no line: {outcome:?}"))?;
    // A mapping is one of libxenforeignmemory's calls, and of many of Xen's.
    let what = if call == "map" { "mapping" } else { name(call, op) };
    for part in [what, "domain 1", "Xen 4.17", &error] {
        if !line.contains(part) {
            return Err(format!("{part:?} is not in {line:?}"));
        }
    }
    match outcome.messages.last() {
        Some(Message::Complete { retval: -1, errno: told }) if *told == errno => Ok(()),
        last => Err(format!("{last:?} instead of errno {errno}")),
    }
}

/// Has each operation of a good run fail once with each error. `run` gives the outcome, and checks what is left; operations that our
/// helper does without are told apart by their success.
fn each(operations: BTreeSet<(String, u64)>, mut run: impl FnMut(serde_json::Value) -> Outcome) -> (usize, usize) {
    let (mut refused, mut overcome, mut wrong) = (0, 0, Vec::new());
    for (call, op) in &operations {
        for errno in ERRNOS {
            let outcome = run(serde_json::json!({ "call": call, "op": op, "errno": errno }));
            match outcome.retval {
                0 => overcome += 1,
                _ => {
                    refused += 1;
                    if let Err(problem) = said(&outcome, call, *op, errno) {
                        wrong.push(format!("{call} {op}, errno {errno}: {problem}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), refused + overcome);
    (refused, overcome)
}

#[test]
#[ignore = "long"]
fn a_save_whose_hypercall_fails_says_so_and_the_guest_runs_on() {
    let config = SimConfig::small(5);
    let save = |home: &Home| Helper::save(home, &home.path("stream"), None, 1, PLAIN).run(|_, _| None);
    let good = Home::of(&guest(&config, 50)).with(Program::Ours);
    assert_eq!(save(&good).retval, 0);
    let operations = operations(&good);
    let (refused, overcome) = each(operations.clone(), |fail| {
        let home = Home::of(&guest(&config, 50)).with(Program::Ours).failing(fail);
        let outcome = save(&home);
        // libxl resumes a guest that it has suspended; whatever failed, it is as good as it was.
        let mut guest = home.after();
        if guest.info().unwrap().is_suspended() {
            guest.resume().unwrap();
        }
        guest.run(20).unwrap();
        guest.self_check().unwrap();
        outcome
    });
    println!("saving, HVM: {} operations, {refused} failures told, {overcome} overcome", operations.len());
    assert!(operations.len() >= 8 && refused > 4 * overcome, "{operations:?}");
}

#[test]
#[ignore = "long"]
fn a_restore_whose_hypercall_fails_says_so() {
    let config = SimConfig::small(5);
    let mut original = guest(&config, 50);
    original.suspend().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let stream = folder.path().join("stream");
    fs::write(&stream, we_save(&mut original)).unwrap();
    let restore = |home: &Home| Helper::restore(home, &stream, None, PLAIN).run(|_, _| None);
    let good = Home::empty(&config).with(Program::Ours);
    assert_eq!(restore(&good).retval, 0);
    let operations = operations(&good);
    let (refused, overcome) = each(operations.clone(), |fail| {
        let home = Home::empty(&config).with(Program::Ours).failing(fail);
        let outcome = restore(&home);
        let copy = home.after();
        assert!(copy.info().unwrap().paused, "it runs");
        if outcome.retval == 0 {
            assert_restored(&original, &copy);
        }
        outcome
    });
    println!("restoring, HVM: {} operations, {refused} failures told, {overcome} overcome", operations.len());
    assert!(operations.len() >= 8 && refused > 2 * overcome, "{operations:?}");
}

#[test]
#[ignore = "long"]
fn a_pv_domain_whose_hypercall_fails_is_told_of() {
    let [config, ..] = pv_home::configs();
    let save = |home: &Home| Helper::save(home, &home.path("stream"), None, 1, PLAIN).run(|_, _| None);
    let good = pv_home::home_of(&pv_home::guest(&config), Program::Ours);
    assert_eq!(save(&good).retval, 0);
    let stream = good.path("stream");
    let saving = operations(&good);
    let (refused, overcome) =
        each(saving.clone(), |fail| save(&pv_home::home_of(&pv_home::guest(&config), Program::Ours).failing(fail)));
    println!("saving, PV: {} operations, {refused} failures told, {overcome} overcome", saving.len());
    let restore = |home: &Home| Helper::restore(home, &stream, None, PLAIN).run(|_, _| None);
    let copy = pv_home::empty_home(&config, Program::Ours);
    assert_eq!(restore(&copy).retval, 0);
    let restoring = operations(&copy);
    let (refused, overcome) =
        each(restoring.clone(), |fail| restore(&pv_home::empty_home(&config, Program::Ours).failing(fail)));
    println!("restoring, PV: {} operations, {refused} failures told, {overcome} overcome", restoring.len());
    assert!(saving.len() >= 12 && restoring.len() >= 10, "{saving:?} {restoring:?}");
}

/// The errno that a helper completes with, and what it says of why.
fn why(outcome: &Outcome) -> (i32, String) {
    let errno = outcome.messages.iter().find_map(|message| match message {
        Message::Complete { retval: -1, errno } => Some(*errno),
        _ => None,
    });
    let line = outcome.messages.iter().find_map(|message| match message {
        Message::Log { text } if text.contains(" failed: ") => Some(text.clone()),
        _ => None,
    });
    (errno.unwrap_or_else(|| panic!("{outcome:?}")), line.unwrap_or_default())
}

#[test]
#[ignore = "long"]
fn whoever_may_not_make_hypercalls_is_told_so() {
    let config = SimConfig::small(5);
    for errno in ERRNOS {
        let fail = serde_json::json!({ "call": "open", "errno": errno });
        let home = Home::of(&guest(&config, 50)).with(Program::Ours).failing(fail);
        let (told, line) = why(&Helper::save(&home, &home.path("stream"), None, 1, PLAIN).run(|_, _| None));
        assert_eq!(told, errno, "{line}");
        assert!(line.contains(&std::io::Error::from_raw_os_error(errno).to_string()), "{line}");
        let mut guest = home.after();
        guest.run(20).unwrap();
        guest.self_check().unwrap();
    }
}

#[test]
#[ignore = "long"]
fn a_library_that_lacks_a_function_is_named_with_it() {
    let home = Home::of(&guest(&SimConfig::small(5), 50)).with(Program::Ours);
    let folder = home.path("old");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("old.c"), "int xencall_open(void) { return 0; }").unwrap();
    let mut compiler = std::process::Command::new("cc");
    compiler.args(["-shared", "-o", "libxencall.so.1", "old.c"]).current_dir(&folder);
    assert!(compiler.status().unwrap().success());
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_xen-replicate-save-helper"));
    program.env("LD_LIBRARY_PATH", &folder);
    let (errno, line) = why(&Helper::save_by(program, &home, &home.path("stream")).run(|_, _| None));
    assert_eq!(errno, rustix::io::Errno::LIBBAD.raw_os_error(), "{line}");
    assert!(line.contains("libxencall.so.1") && line.contains("xencall_close") && line.contains("4.14"), "{line}");
}
