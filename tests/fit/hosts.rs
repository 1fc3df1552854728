//! Hosts that lack something.

use crate::common::fixture;
use crate::edit::{good_hvm, input, with_entries};
use crate::{guest, guest_of, said};
use std::collections::BTreeMap;
use std::path::Path;
use xen_replicate::decode::cpuid::CpuidPolicy;
use xen_replicate::decode::hex::Hex;
use xen_replicate::host_info::{
    Bridges, CpuPolicies, FORMAT, HostInfo, Kinds, Memory, Part, PathInfo, Policy, Qemu, Toolstack, VERSION, Xen,
};
use xen_replicate::inspect::fit::{Fit, Guest, Target, judge};

/// A host that has all that a guest had, and what its configuration names.
pub fn host_for(guest: &Guest) -> HostInfo {
    let policy = Part::Known(Policy { cpuid: guest.cpuid.clone().unwrap(), msrs: guest.msrs.clone() });
    let text =
        |device: &serde_json::Value, key: &str| device.get(key).and_then(|value| value.as_str()).map(str::to_owned);
    let bridges: Vec<String> = guest.devices("nics").filter_map(|nic| text(nic, "bridge")).collect();
    let path =
        |path: &std::path::PathBuf| PathInfo { path: path.display().to_string(), kind: "block".into(), size: Some(1) };
    HostInfo {
        format: FORMAT.into(),
        version: VERSION,
        host: Part::Known("b".into()),
        xen: Part::Known(Xen { version: "4.17".into(), extra: Part::Known(".5".into()) }),
        toolstack: Part::Known(Toolstack { libxl: vec!["4.17".into()] }),
        cpu_policies: CpuPolicies {
            host: policy.clone(),
            pv_max: policy.clone(),
            pv_default: policy.clone(),
            hvm_max: policy.clone(),
            hvm_default: policy,
        },
        xsave: Kinds { pv: Part::missing("-"), hvm: Part::missing("-") },
        hvm_context: Part::Known(BTreeMap::new()),
        qemu: Part::Known(Qemu {
            path: "/usr/bin/qemu".into(),
            version: Part::Known("7.2".into()),
            machines: Part::Known(vec!["pc".into(), "xenfv".into()]),
        }),
        memory: Part::Known(Memory { total: 8 << 30, free: 4 << 30 }),
        bridges: Part::Known(Bridges { linux: bridges.clone(), interfaces: bridges }),
        paths: guest.disk_paths().iter().map(path).collect(),
    }
}

fn on(guest: &Guest, host: HostInfo) -> Fit {
    judge(guest, &Target::Host("b".into(), Box::new(host)))
}

/// A register of a leaf of the most that a HVM guest can have.
fn change(host: &mut HostInfo, leaf: u32, subleaf: u32, change: impl Fn(&mut [Hex<u32>; 4])) {
    let Part::Known(policy) = &mut host.cpu_policies.hvm_max else { panic!("a policy") };
    let mut leaves = policy.cpuid.leaves.clone();
    let found =
        leaves.iter_mut().find(|l| l.leaf.0 == leaf && (l.subleaf.0 == subleaf || l.subleaf.0 == u32::MAX)).unwrap();
    let mut registers = [found.eax, found.ebx, found.ecx, found.edx];
    change(&mut registers);
    [found.eax, found.ebx, found.ecx, found.edx] = registers;
    policy.cpuid = CpuidPolicy::of(leaves);
}

fn real() -> Guest {
    guest_of(&fixture("xen/4.17.7stock-hvm64-live.xz"))
}

#[test]
fn a_guest_fits_the_host_that_it_is_from() {
    for name in
        ["xen/4.17.7stock-hvm64-live.xz", "xen/4.17.7stock-pvh40-remus.xz", "xen/4.17.5shadow-pv48-twohost-live.xz"]
    {
        let guest = guest_of(&fixture(name));
        let fit = on(&guest, host_for(&guest));
        assert_eq!((fit.verdict, fit.findings.len()), ("fits", 0), "{name}: {fit:?}");
        assert_eq!(fit.release.as_deref(), Some("4.17.5"));
    }
}

/// What a host lacks, what part that is of, whether it is refused, and what is said.
#[test]
fn what_a_host_lacks_is_named() {
    let guest = real();
    type Case<'a> = (&'a str, &'a dyn Fn(&mut HostInfo), &'a str, &'a str, &'a str);
    let cases: &[Case<'_>] = &[
        ("leaves", &|host| change(host, 0, 0, |r| r[0] = Hex(r[0].0 - 1)), "refused", "cpuid", "leaf 0x0 EAX is"),
        (
            "extended leaves",
            &|host| change(host, 0x8000_0000, 0, |r| r[0] = Hex(r[0].0 - 1)),
            "refused",
            "cpuid",
            "leaf 0x80000000 EAX is",
        ),
        (
            "a feature",
            &|host| change(host, 1, 0, |r| r[2] = Hex(r[2].0 & !(1 << 19))),
            "remark",
            "cpuid",
            "leaf 1.ecx: bit 19 (sse4_1): the host cannot give it",
        ),
        ("smep, which the guest has on", &|host| change(host, 7, 0, |r| r[1] = Hex(0)), "refused", "vcpu", "CR4"),
        ("nx", &|host| change(host, 0x8000_0001, 0, |r| r[3] = Hex(r[3].0 & !(1 << 20))), "refused", "vcpu", "EFER"),
        (
            "CPUID faulting",
            &|host| {
                let Part::Known(policy) = &mut host.cpu_policies.hvm_max else { panic!("a policy") };
                policy.msrs.iter_mut().for_each(|entry| entry.value = Hex(0));
            },
            "",
            "msr",
            "INTEL_PLATFORM_INFO",
        ),
        ("a bridge", &|host| host.bridges = Part::Known(Bridges::default()), "", "network", "the bridge"),
        (
            "a machine type",
            &|host| {
                let Part::Known(qemu) = &mut host.qemu else { panic!("a device model") };
                qemu.machines = Part::Known(vec!["microvm".into()]);
            },
            "refused",
            "qemu",
            "no machine type xenfv",
        ),
        ("a device model", &|host| host.qemu = Part::missing("none of /x"), "remark", "qemu", "none of /x"),
        (
            "memory",
            &|host| host.memory = Part::Known(Memory { total: 16 << 20, free: 0 }),
            "refused",
            "memory",
            "16 MiB in all",
        ),
        (
            "free memory",
            &|host| host.memory = Part::Known(Memory { total: 8 << 30, free: 1 << 20 }),
            "remark",
            "memory",
            "1 MiB are free",
        ),
        ("Xen", &|host| host.xen = Part::missing("no /dev/xen"), "refused", "xen", "no /dev/xen"),
        (
            "a known Xen",
            &|host| host.xen = Part::Known(Xen { version: "4.30".into(), extra: Part::missing("") }),
            "remark",
            "xen",
            "Xen 4.30 is newer",
        ),
        ("policies", &|host| host.cpu_policies.hvm_max = Part::missing("EOPNOTSUPP"), "remark", "cpuid", "EOPNOTSUPP"),
        ("libxl", &|host| host.toolstack = Part::missing("no libxenlight"), "remark", "toolstack", "no libxenlight"),
    ];
    let mut skipped = 0;
    for (name, lacks, severity, part, text) in cases {
        let mut host = host_for(&guest);
        lacks(&mut host);
        let fit = on(&guest, host);
        let found: Vec<_> =
            fit.findings.iter().filter(|found| found.part == *part && found.message.contains(text)).collect();
        if severity.is_empty() && found.is_empty() {
            // This guest has none of it.
            skipped += 1;
            continue;
        }
        assert!(!found.is_empty(), "{name}: {fit:?}");
        assert!(severity.is_empty() || found[0].severity == *severity, "{name}: {fit:?}");
        assert_eq!(fit.fits(), said(&fit, "refused").is_empty(), "{name}");
    }
    assert!(skipped < 3);
}

#[test]
fn another_vendor_is_refused_by_the_releases_that_look() {
    let guest = real();
    for (version, verdict) in [("4.21", "fits_with_remarks"), ("4.22", "does_not_fit")] {
        let mut host = host_for(&guest);
        host.xen = Part::Known(Xen { version: version.into(), extra: Part::Known(".1".into()) });
        change(&mut host, 0, 0, |r| r[1] = Hex(0x756e_6547));
        assert_eq!(on(&guest, host).verdict, verdict, "{version}");
    }
    let mut subleaf = host_for(&crate::guest(&input("B4a-icelake-max-subleaf-2")));
    change(&mut subleaf, 7, 0, |r| r[0] = Hex(0));
    for (version, refused) in [("4.14", false), ("4.15", true)] {
        subleaf.xen = Part::Known(Xen { version: version.into(), extra: Part::Known(".7".into()) });
        let fit = on(&crate::guest(&input("B4a-icelake-max-subleaf-2")), subleaf.clone());
        assert_eq!(
            said(&fit, "refused").iter().any(|text| text.starts_with("leaf 0x7:0 EAX is 0x2")),
            refused,
            "{fit:?}"
        );
    }
}

/// A guest that used AVX-512 and PKU, which its own policy has not: refused anywhere. On a host without AVX it is that, too.
#[test]
fn xcr0_beyond_what_the_host_has_is_refused() {
    let guest = guest(&input("B2c-xsave-xcr0-beyond-policy"));
    let mut host = host_for(&guest);
    let xcr0 = |host: &HostInfo| {
        let fit = on(&guest, host.clone());
        let text = said(&fit, "refused").into_iter().find(|text| text.contains("XCR0 is 0x2e7")).map(str::to_owned);
        text.unwrap_or_else(|| panic!("{fit:?}"))
    };
    assert!(xcr0(&host).contains("bit 9 (pkru)") && !xcr0(&host).contains("bit 2 "), "{}", xcr0(&host));
    change(&mut host, 1, 0, |r| r[2] = Hex(r[2].0 & !(1 << 28)));
    assert!(xcr0(&host).contains("bit 2 ") && xcr0(&host).contains("bit 9 (pkru)"), "{}", xcr0(&host));
}

#[test]
fn disks_and_networks_by_what_the_configuration_says() {
    let config = |text: &str| {
        let mut guest = real();
        guest.config = Some(serde_json::from_str(text).unwrap());
        guest
    };
    let disks = config(
        r#"{"disks": [
            {"vdev": "xvda", "pdev_path": "/dev/vg/a", "format": "raw"}, {"vdev": "xvdb", "pdev_path": "/dev/vg/b", "format": "raw"},
            {"vdev": "xvdc", "pdev_path": "/dev/vg/c", "format": "raw"}, {"vdev": "xvdd", "pdev_path": "/dev/vg/d", "format": "raw"},
            {"vdev": "hdc", "pdev_path": "", "format": "empty"}, {"vdev": "xvde", "pdev_path": "nbd:b:10809", "format": "raw"},
            {"vdev": "xvdf", "pdev_path": "/dev/drbd1", "script": "block-drbd"}, {"vdev": "xvdg", "pdev_path": "/x", "backend_domid": 3}]}"#,
    );
    let mut host = host_for(&disks);
    host.paths[1].kind = "none".into();
    host.paths[2].kind = "other".into();
    host.paths.remove(3);
    let fit = on(&disks, host);
    let of_disks: Vec<_> =
        fit.findings.iter().filter(|found| found.part == "disk").map(|f| (f.severity, &*f.message)).collect();
    assert_eq!(
        of_disks,
        [
            ("refused", "xvdb: /dev/vg/b is not there"),
            ("refused", "xvdc: /dev/vg/c is neither a file nor a block device"),
            ("remark", "xvdd: whether /dev/vg/d is there is not known (host-info --path /dev/vg/d)"),
            ("remark", "xvde: nbd:b:10809: not a path of the host's own, not looked at"),
            ("remark", "xvdf: /dev/drbd1: not a path of the host's own, not looked at"),
            ("remark", "xvdg: /x: not a path of the host's own, not looked at"),
        ]
    );
    let nics = config(
        r#"{"nics": [{"mac": "m0", "bridge": "xenbr0"}, {"mac": "m1", "bridge": "br1"}, {"mac": "m2", "bridge": "xenbr7"},
            {"mac": "m3", "bridge": "br0", "script": "/etc/xen/scripts/vif-openvswitch"}, {"mac": "m4"}, {"mac": "m5", "bridge": "ovs"}]}"#,
    );
    let mut host = host_for(&nics);
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
    host.bridges = Part::Known(Bridges { linux: names(&["eth0"]), interfaces: names(&["eth0", "lo", "ovs"]) });
    let fit = on(&nics, host.clone());
    let network: Vec<_> =
        fit.findings.iter().filter(|found| found.part == "network").map(|f| (f.severity, &*f.message)).collect();
    assert_eq!(
        network,
        [
            ("refused", "m1: the bridge br1 is not there"),
            ("refused", "m2: the bridge xenbr7 is not there"),
            ("remark", "m3: the script vif-openvswitch must be there; what it needs is not known"),
            ("remark", "m5: ovs is there, and is no Linux bridge"),
        ]
    );
    host.bridges = Part::Known(Bridges::default());
    assert!(said(&on(&nics, host), "refused").contains(&"m4: there is no bridge, and the configuration names none"));
}

#[test]
fn another_guests_stream_stands_for_its_host() {
    let (real, old) = (real(), crate::guest(&input("C3j-qemu4-xenfv-smbus-in-piix4_pm")));
    let against = |guest: &Guest, other: &Guest| judge(guest, &Target::Guest("other".into(), Box::new(other.clone())));
    assert_eq!(against(&real, &real).verdict, "fits");
    let fit = against(&old, &real);
    assert!(
        said(&fit, "remark").iter().any(|text| text.contains("section piix4_pm"))
            || said(&fit, "remark").iter().any(|text| text.contains("piix4_pm")),
        "{fit:?}"
    );
    let icelake = crate::guest(&input("B4a-icelake-max-subleaf-2"));
    let fit = against(&icelake, &real);
    assert!(
        fit.findings
            .iter()
            .any(|found| found.part == "cpuid" && found.message.contains("the other guest was not given it")),
        "{fit:?}"
    );

    // A section that is newer than the other host's QEMU has it is refused there.
    let (id, mut state) = real.emulator.clone().unwrap();
    let name = b"mc146818rtc";
    let at = state.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 4;
    let version = u32::from_be_bytes(state[at..at + 4].try_into().unwrap());
    state[at..at + 4].copy_from_slice(&(version + 1).to_be_bytes());
    let mut newer = real.clone();
    newer.emulator = Some((id, state));
    let fit = against(&newer, &real);
    assert!(
        said(&fit, "refused")
            .iter()
            .any(|text| text.contains(&format!("is of version {}, QEMU there has {version}", version + 1))),
        "{fit:?}"
    );
    assert!(against(&real, &newer).fits());

    // 32 bytes of LAPIC on a host whose own guests have 24: its Xen is an update that refuses them.
    let long = |stream: &[u8], length: usize| {
        let stream = with_entries(stream, |all| {
            all.iter_mut().filter(|(typecode, ..)| *typecode == 5).for_each(|(.., data)| data.resize(length, 0));
        });
        let mut guest = crate::guest(&stream);
        guest.xen = Some((4, 18));
        guest
    };
    let (short, long) = (long(&good_hvm(), 24), long(&good_hvm(), 32));
    assert!(!against(&long, &short).fits());
    assert!(against(&long, &long).fits() && against(&short, &long).fits());
}

#[test]
fn a_host_is_written_and_read_as_it_is() {
    let guest = real();
    let mut host = host_for(&guest);
    host.qemu = Part::missing("none");
    host.hvm_context = Part::Known([("LAPIC".to_owned(), None), ("CPU".to_owned(), Some(1032))].into());
    let text = serde_json::to_vec_pretty(&host).unwrap();
    assert!(HostInfo::is_one(&text));
    assert_eq!(HostInfo::parse(&text).unwrap(), host);
    assert_eq!(host.path(Path::new("/none")), None);
}
