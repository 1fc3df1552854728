//! Questions about the host as a whole.
#![allow(unsafe_code)]

use super::abi::{self, hypercall, sysctl, xenver};
use super::interface::{HOST, Interface};
use crate::hypervisor::error::{Error, Result};

/// A CPU policy as Xen gives it.
pub(in crate::hypervisor::xen) type Policy = (Vec<abi::CpuidLeaf>, Vec<abi::MsrEntry>);

impl Interface {
    /// `XENVER_extraversion`: what stands behind the two numbers of the version, as `.7` or `.4-pre`.
    pub(in crate::hypervisor::xen) fn extra_version(&self) -> Result<String> {
        let mut text = self.buffer(abi::EXTRA_LENGTH)?;
        // SAFETY: the structure is an array of 16 bytes.
        unsafe { self.call2(hypercall::XEN_VERSION, xenver::EXTRA_VERSION, HOST, &mut text) }?;
        let bytes = text.bytes().get(..abi::EXTRA_LENGTH).unwrap_or_default();
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// `XEN_SYSCTL_get_cpu_policy`: one of the host's policies, by its number in [`abi::cpu_policy`]. `EOPNOTSUPP` where this Xen was built
    /// without guests of that kind.
    pub(in crate::hypervisor::xen) fn host_policy(&self, index: u32) -> Result<Policy> {
        let version = self.find_sysctl()?;
        let op = sysctl::GET_CPU_POLICY;
        let mut sizes = abi::SysctlCpuPolicy { index, ..Default::default() };
        // SAFETY: both addresses are 0: without buffers only the sizes are told.
        unsafe { self.sysctl_with_addresses(op, version, &mut sizes, &mut []) }?;
        let mut leaves = self.buffer(sizes.nr_leaves as usize * size_of::<abi::CpuidLeaf>())?;
        let mut msrs = self.buffer(sizes.nr_msrs as usize * size_of::<abi::MsrEntry>())?;
        let mut policy = abi::SysctlCpuPolicy { index, leaves: leaves.address(), msrs: msrs.address(), ..sizes };
        // SAFETY: the two buffers have room for as many entries as is said.
        unsafe { self.sysctl_with_addresses(op, version, &mut policy, &mut [&mut leaves, &mut msrs]) }?;
        let mut found = vec![abi::CpuidLeaf::default(); policy.nr_leaves.min(sizes.nr_leaves) as usize];
        leaves.get(&mut found);
        let mut entries = vec![abi::MsrEntry::default(); policy.nr_msrs.min(sizes.nr_msrs) as usize];
        msrs.get(&mut entries);
        Ok((found, entries))
    }

    /// `XEN_SYSCTL_physinfo`: pages of the host, all and free.
    pub(in crate::hypervisor::xen) fn host_pages(&self) -> Result<(u64, u64)> {
        let version = self.find_sysctl()?;
        let mut words = [0u64; abi::SYSCTL_BODY / size_of::<u64>()];
        // SAFETY: there is no address in this structure.
        unsafe { self.sysctl_with_addresses(sysctl::PHYSINFO, version, &mut words, &mut []) }?;
        let at = abi::total_pages_word(version);
        match words.get(at..at + 2) {
            Some(&[total, free]) => Ok((total, free)),
            _ => Err(Error::Unsupported { backend: "xen", what: "a physinfo of another form" }),
        }
    }
}
