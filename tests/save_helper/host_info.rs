//! `host-info` on what claims to be Xen 4.14, 4.17 and 4.20: through the libraries that it opens there.

use crate::helper::standin;
use crate::home::{Home, guest};
use std::process::Command;
use xen_replicate::host_info::{HostInfo, Policy};
use xen_replicate::hypervisor::SaveDomain;
use xen_replicate::hypervisor::sim::SimConfig;

fn ask(home: &Home) -> HostInfo {
    let output = Command::new(standin().join("run"))
        .args([env!("CARGO_BIN_EXE_xen-replicate"), "host-info"])
        .env("XEN_STANDIN", home.configuration())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    HostInfo::parse(&output.stdout).unwrap()
}

#[test]
#[ignore = "long"]
fn a_host_of_each_release_tells_what_it_is() {
    for (release, whole, lapic) in [("4.14", "4.14.6", 24), ("4.17", "4.17.7", 24), ("4.20", "4.20.4", 32)] {
        let domain = guest(&SimConfig::small(5), 50);
        let policy = Policy::decode(&domain.cpu_policy().unwrap()).unwrap();
        let info = ask(&Home::of(&domain).on(release));
        assert_eq!(info.xen.known().unwrap().release().unwrap().to_string(), whole);
        let policies = &info.cpu_policies;
        for found in [&policies.host, &policies.pv_max, &policies.pv_default, &policies.hvm_max, &policies.hvm_default]
        {
            assert_eq!(found.known(), Some(&policy), "{release}");
        }
        let xsave = info.xsave.hvm.known().unwrap();
        assert_eq!((&*xsave.xcr0, xsave.size), ("0x7", 0x340));
        assert_eq!(info.hvm_context.known().unwrap()["LAPIC"], Some(lapic));
        let memory = info.memory.known().unwrap();
        assert_eq!((memory.total, memory.free), (4 << 30, 3 << 30), "{release}");
    }
}

/// A Xen that was built without PV guests has no policies for them; the rest is told all the same.
#[test]
#[ignore = "long"]
fn what_a_host_refuses_to_tell_has_its_reason_in_its_place() {
    // The version is found by one call for each of the policies, sizes and contents are two more: of the second policy.
    let fail = serde_json::json!({"call": "sysctl", "op": 29, "after": 4, "errno": 95});
    let info = ask(&Home::of(&guest(&SimConfig::small(5), 50)).failing(fail));
    let why = info.cpu_policies.pv_max.why_missing().unwrap();
    assert!(why.contains("XEN_SYSCTL_get_cpu_policy") && why.contains("not supported"), "{why}");
    assert_eq!(info.xsave.pv.why_missing(), Some(why));
    assert!(info.cpu_policies.host.known().is_some() && info.cpu_policies.hvm_max.known().is_some());
}
