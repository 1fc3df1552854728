//! What the hypervisor says of itself and its host.

use super::{CpuPolicies, Memory, Part, Policy, Xen};
use crate::hypervisor::xen::{Host, HostPolicy};

/// The hypervisor's answers.
pub(super) struct Answers {
    pub version: Part<Xen>,
    pub policies: CpuPolicies,
    pub memory: Part<Memory>,
}

/// Asks. Where there is no hypervisor, each answer says so.
pub(super) fn ask() -> Answers {
    let opened = Host::open().map_err(|error| error.to_string());
    let host = || opened.as_ref().map_err(String::clone);
    let policy = |which| -> Part<Policy> {
        let policy = host().and_then(|host| host.cpu_policy(which).map_err(|error| error.to_string()));
        policy.and_then(|policy| Policy::decode(&policy).map_err(|error| error.to_string())).into()
    };
    let version = host().map(|host| {
        let (major, minor) = host.version();
        Xen { version: format!("{major}.{minor}"), extra: host.extra_version().into() }
    });
    let memory = host().and_then(|host| host.memory().map_err(|error| error.to_string()));
    Answers {
        version: version.into(),
        policies: CpuPolicies {
            host: policy(HostPolicy::Host),
            pv_max: policy(HostPolicy::PvMax),
            pv_default: policy(HostPolicy::PvDefault),
            hvm_max: policy(HostPolicy::HvmMax),
            hvm_default: policy(HostPolicy::HvmDefault),
        },
        memory: memory.map(|(total, free)| Memory { total, free }).into(),
    }
}
