//! Device model, disks, network cards, memory, toolstack.
//!
//! Source: `libxl__device_disk_set_backend` in `tools/libs/light/libxl_device.c` (a path that cannot be looked at is an error),
//! `tools/hotplug/Linux/vif-bridge` (a bridge that is not there is fatal), `libxl__build_device_model_args_new` in `libxl_dm.c` (machine
//! types `xenfv` and `pc`), `vmstate_load_state` in QEMU's `migration/vmstate.c` (a section newer than the device's is refused).

use super::{Findings, Guest, Target};
use crate::decode::qevm::{QemuState, Section};
use crate::host_info::HostInfo;
use crate::stream::libxl::EmulatorId;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

pub(super) fn judge(guest: &Guest, target: &Target, found: &mut Findings) {
    match target {
        Target::Release(_) => {}
        Target::Guest(_, other) => sections(guest, other, found),
        Target::Host(_, host) => {
            device_model(guest, host, found);
            for disk in guest.devices("disks") {
                judge_disk(disk, host, found);
            }
            for nic in guest.devices("nics") {
                judge_nic(nic, host, found);
            }
            memory(guest, host, found);
            if let Some(why) = host.toolstack.why_missing() {
                found.remark("toolstack", format!("no libxl was found there: {why}"));
            }
            let passed = guest.devices("pcidevs").count();
            if passed > 0 {
                found.remark(
                    "xen",
                    format!("{passed} PCI devices are passed through: whether they are there is not known"),
                );
            }
        }
    }
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str().filter(|text| !text.is_empty())
}

/// What is wrong with a guest that has a device model on a host.
fn device_model(guest: &Guest, host: &HostInfo, found: &mut Findings) {
    let model = guest.build("device_model_version").and_then(Value::as_str);
    let needs = match model {
        Some(model) => guest.kind.as_deref() == Some("hvm") && model == "qemu_xen",
        None => guest.emulator.as_ref().is_some_and(|(id, _)| *id == EmulatorId::QemuUpstream),
    };
    if !needs {
        return;
    }
    let qemu = match (host.qemu.known(), host.qemu.why_missing()) {
        (Some(qemu), _) => qemu,
        (None, why) => {
            found.remark(
                "qemu",
                format!("the guest has a device model, and none was found there: {}", why.unwrap_or_default()),
            );
            return;
        }
    };
    let platform = guest.build("u.xen_platform_pci").or_else(|| guest.build("u")?.get("xen_platform_pci"));
    let off = platform.is_some_and(|value| value.as_str() == Some("False") || value.as_bool() == Some(false));
    let machine = if off { "pc" } else { "xenfv" };
    match (qemu.machines.known(), qemu.machines.why_missing()) {
        (Some(machines), _) if !machines.iter().any(|there| there == machine) => {
            found.refused(
                "qemu",
                format!("{} has no machine type {machine}, which libxl starts the guest with", qemu.path.display()),
            );
        }
        (None, Some(why)) => found.remark("qemu", format!("its machine types are not known: {why}")),
        _ => {}
    }
}

/// The path by which a toolstack opens a disk, where it is one of its own host.
pub(super) fn disk_path(disk: &Value) -> Option<&str> {
    let path = text(disk, "pdev_path")?;
    let elsewhere = text(disk, "backend_domname").is_some()
        || disk.get("backend_domid").and_then(Value::as_u64).is_some_and(|domid| domid != 0);
    let empty = text(disk, "format") == Some("empty");
    (path.starts_with('/') && !elsewhere && !empty && text(disk, "script").is_none()).then_some(path)
}

fn judge_disk(disk: &Value, host: &HostInfo, found: &mut Findings) {
    let name = text(disk, "vdev").unwrap_or("?");
    match (disk_path(disk), text(disk, "pdev_path")) {
        (Some(path), _) => match host.path(Path::new(path)) {
            None => {
                found.remark("disk", format!("{name}: whether {path} is there is not known (host-info --path {path})"))
            }
            Some(info) if info.kind == "none" => found.refused("disk", format!("{name}: {path} is not there")),
            Some(info) if info.kind == "other" => {
                found.refused("disk", format!("{name}: {path} is neither a file nor a block device"));
            }
            Some(_) => {}
        },
        (None, Some(path)) if text(disk, "format") != Some("empty") => {
            found.remark("disk", format!("{name}: {path}: not a path of the host's own, not looked at"));
        }
        _ => {}
    }
}

fn judge_nic(nic: &Value, host: &HostInfo, found: &mut Findings) {
    let name = text(nic, "mac").unwrap_or("a network card");
    let bridges = match (host.bridges.known(), host.bridges.why_missing()) {
        (Some(bridges), _) => bridges,
        (None, why) => {
            found.remark("network", format!("{name}: bridges are not known: {}", why.unwrap_or_default()));
            return;
        }
    };
    let script = text(nic, "script").map(|script| script.rsplit('/').next().unwrap_or(script)).unwrap_or("vif-bridge");
    if script != "vif-bridge" {
        found.remark("network", format!("{name}: the script {script} must be there; what it needs is not known"));
        return;
    }
    let there = |wanted: &str| bridges.interfaces.iter().any(|name| name == wanted);
    match text(nic, "bridge") {
        Some(bridge) => {
            // vif-bridge takes ethN for xenbrN where that is a bridge.
            let old = bridge.strip_prefix("xenbr").map(|number| format!("eth{number}"));
            let old = old.is_some_and(|old| bridges.linux.contains(&old));
            if !there(bridge) && !old {
                found.refused("network", format!("{name}: the bridge {bridge} is not there"));
            } else if !bridges.linux.iter().any(|name| name == bridge) && !old {
                found.remark("network", format!("{name}: {bridge} is there, and is no Linux bridge"));
            }
        }
        None if bridges.linux.is_empty() => {
            found.refused("network", format!("{name}: there is no bridge, and the configuration names none"));
        }
        None => {}
    }
}

fn memory(guest: &Guest, host: &HostInfo, found: &mut Findings) {
    let kib = |field| guest.build(field).and_then(Value::as_u64);
    let (Some(max), Some(memory)) = (kib("max_memkb"), host.memory.known()) else {
        if let Some(why) = host.memory.why_missing().filter(|_| host.xen.known().is_some()) {
            found.remark("memory", format!("not known: {why}"));
        }
        return;
    };
    let needed = (max + kib("shadow_memkb").unwrap_or(0)).saturating_mul(1 << 10);
    let mib = |bytes: u64| bytes >> 20;
    if needed > memory.total {
        let text = format!("the guest may have {} MiB, the host has {} MiB in all", mib(needed), mib(memory.total));
        found.refused("memory", text);
    } else if needed > memory.free {
        let text = format!(
            "the guest may have {} MiB, {} MiB are free: domain 0 must give some",
            mib(needed),
            mib(memory.free)
        );
        found.remark("memory", text);
    }
}

/// The sections of a device model's state by name and instance.
fn by_name(guest: &Guest) -> Option<BTreeMap<(String, u32), Section>> {
    let (_, state) = guest.emulator.as_ref().filter(|(id, _)| *id == EmulatorId::QemuUpstream)?;
    let state = QemuState::decode(state).ok()?;
    let named = state.sections.into_iter().filter_map(|section| {
        let key = (section.name.clone()?, section.instance.unwrap_or(0));
        Some((key, section))
    });
    Some(named.collect())
}

/// A device model's state against what the other host's wrote.
fn sections(guest: &Guest, other: &Guest, found: &mut Findings) {
    let (Some(ours), Some(theirs)) = (by_name(guest), by_name(other)) else { return };
    for ((name, instance), section) in &ours {
        let Some(there) = theirs.get(&(name.clone(), *instance)) else {
            found.remark("qemu", format!("section {name}:{instance}: the other guest has no such device"));
            continue;
        };
        match (section.version, there.version) {
            (Some(ours), Some(theirs)) if ours > theirs => {
                found.refused(
                    "qemu",
                    format!("section {name}:{instance} is of version {ours}, QEMU there has {theirs}"),
                );
            }
            _ if section.size != there.size => {
                let text = format!(
                    "section {name}:{instance} has {} bytes, the other guest's {}: another QEMU, machine type or device",
                    section.size, there.size
                );
                found.remark("qemu", text);
            }
            _ => {}
        }
    }
}
