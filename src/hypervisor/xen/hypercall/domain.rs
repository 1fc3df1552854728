//! A domain as a whole: who it is, its life, its clock, its HVM parameters and context, its CPU policy.
#![allow(unsafe_code)]

use super::abi::{self, domctl, hvmop, hypercall, schedop};
use super::buffer::Buffer;
use super::interface::Interface;
use crate::hypervisor::error::{Error, Result};
use std::io;

/// The first guess at how many leaves and MSRs a CPU policy has; Xen says where that is too little.
const POLICY_GUESS: (u32, u32) = (256, 64);
/// The most entries of either kind that are asked for.
const POLICY_MOST: u32 = 1 << 16;

/// What Xen does not take of a CPU policy: leaf, subleaf, MSR, each `u32::MAX` where it is none of them.
pub(in crate::hypervisor::xen) struct PolicyRefused {
    pub(in crate::hypervisor::xen) leaf: u32,
    pub(in crate::hypervisor::xen) subleaf: u32,
    pub(in crate::hypervisor::xen) msr: u32,
    pub(in crate::hypervisor::xen) source: io::Error,
}

impl Interface {
    /// Who a domain is. One that is going away counts as gone.
    pub(in crate::hypervisor::xen) fn info(&self, domid: u32) -> Result<abi::DomainInfo> {
        let mut info = abi::DomainInfo::default();
        match self.domctl(domctl::GET_DOMAIN_INFO, domid, &mut info) {
            // Up to 4.17 the next one is told about where there is no such domain.
            Ok(()) if u32::from(info.domain) == domid && info.flags & abi::dominf::DYING == 0 => Ok(info),
            Ok(()) => Err(Error::NoSuchDomain { domid }),
            Err(Error::Hypercall { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {
                Err(Error::NoSuchDomain { domid })
            }
            Err(error) => Err(error),
        }
    }

    /// `XEN_DOMCTL_pausedomain`
    pub(in crate::hypervisor::xen) fn pause(&self, domid: u32) -> Result<()> {
        self.domctl(domctl::PAUSE, domid, &mut [0u64; 0])
    }

    /// `XEN_DOMCTL_unpausedomain`
    pub(in crate::hypervisor::xen) fn unpause(&self, domid: u32) -> Result<()> {
        self.domctl(domctl::UNPAUSE, domid, &mut [0u64; 0])
    }

    /// `XEN_DOMCTL_resumedomain`: the vCPUs of a domain that has shut itself down run on.
    pub(in crate::hypervisor::xen) fn resume(&self, domid: u32) -> Result<()> {
        self.domctl(domctl::RESUME, domid, &mut [0u64; 0])
    }

    /// `XEN_DOMCTL_subscribe`: an event to a port of the domain's when it shuts itself down.
    pub(in crate::hypervisor::xen) fn subscribe(&self, domid: u32, port: u32) -> Result<()> {
        self.domctl(domctl::SUBSCRIBE, domid, &mut { port })
    }

    /// `SCHEDOP_remote_shutdown`
    pub(in crate::hypervisor::xen) fn shut_down(&self, domid: u32, reason: u32) -> Result<()> {
        let op = schedop::REMOTE_SHUTDOWN;
        let mut argument =
            self.buffer_with(&[abi::RemoteShutdown { domain_id: self.domain(op, domid)?, pad: 0, reason }])?;
        // SAFETY: the structure of this operation, in which no address is.
        unsafe { self.call2(hypercall::SCHED_OP, op, domid, &mut argument) }?;
        Ok(())
    }

    /// `XEN_DOMCTL_gettscinfo`
    pub(in crate::hypervisor::xen) fn tsc_info(&self, domid: u32) -> Result<abi::TscInfo> {
        let mut tsc = abi::TscInfo::default();
        self.domctl(domctl::GET_TSC_INFO, domid, &mut tsc)?;
        Ok(tsc)
    }

    /// `XEN_DOMCTL_settscinfo`
    pub(in crate::hypervisor::xen) fn set_tsc_info(&self, domid: u32, mut tsc: abi::TscInfo) -> Result<()> {
        self.domctl(domctl::SET_TSC_INFO, domid, &mut tsc)
    }

    /// `HVMOP_get_param`
    pub(in crate::hypervisor::xen) fn hvm_param(&self, domid: u32, index: u32) -> Result<u64> {
        Ok(self.hvm_param_op(hvmop::GET_PARAM, domid, index, 0)?.value)
    }

    /// `HVMOP_set_param`
    pub(in crate::hypervisor::xen) fn set_hvm_param(&self, domid: u32, index: u32, value: u64) -> Result<()> {
        self.hvm_param_op(hvmop::SET_PARAM, domid, index, value)?;
        Ok(())
    }

    fn hvm_param_op(&self, op: abi::Op, domid: u32, index: u32, value: u64) -> Result<abi::HvmParam> {
        let mut param = abi::HvmParam { domid: self.domain(op, domid)?, pad: 0, index, value };
        let mut argument = self.buffer_with(&[param])?;
        // SAFETY: the structure of both operations, in which no address is.
        unsafe { self.call2(hypercall::HVM_OP, op, domid, &mut argument) }?;
        argument.get(std::slice::from_mut(&mut param));
        Ok(param)
    }

    /// Bytes that the HVM context needs (`XEN_DOMCTL_gethvmcontext` without a buffer).
    pub(in crate::hypervisor::xen) fn hvm_context_size(&self, domid: u32) -> Result<usize> {
        let mut context = abi::HvmContext::default();
        self.domctl(domctl::GET_HVM_CONTEXT, domid, &mut context)?;
        Ok(context.size as usize)
    }

    /// `XEN_DOMCTL_gethvmcontext`, with so much room: the context replaces what `blob` had.
    pub(in crate::hypervisor::xen) fn hvm_context(&self, domid: u32, room: usize, blob: &mut Vec<u8>) -> Result<()> {
        let mut buffer = self.buffer(room)?;
        let size = u32::try_from(room).unwrap_or(u32::MAX);
        let mut context = abi::HvmContext { size, pad: 0, buffer: buffer.address() };
        // SAFETY: the buffer has at least the room that is said.
        unsafe { self.domctl_with_addresses(domctl::GET_HVM_CONTEXT, domid, &mut context, &mut [&mut buffer]) }?;
        blob.clear();
        blob.extend_from_slice(buffer.bytes().get(..context.size as usize).unwrap_or_default());
        Ok(())
    }

    /// `XEN_DOMCTL_sethvmcontext`
    pub(in crate::hypervisor::xen) fn set_hvm_context(&self, domid: u32, blob: &[u8]) -> Result<()> {
        let op = domctl::SET_HVM_CONTEXT;
        let too_long = |_| self.failure(op, domid, io::ErrorKind::FileTooLarge.into());
        let size = u32::try_from(blob.len()).map_err(too_long)?;
        let mut buffer = self.buffer_with(blob)?;
        let mut context = abi::HvmContext { size, pad: 0, buffer: buffer.address() };
        // SAFETY: the buffer has as many bytes as is said.
        unsafe { self.domctl_with_addresses(op, domid, &mut context, &mut [&mut buffer]) }
    }

    /// `XEN_DOMCTL_get_cpu_policy`: its leaves and its MSRs.
    pub(in crate::hypervisor::xen) fn cpu_policy(
        &self,
        domid: u32,
    ) -> Result<(Vec<abi::CpuidLeaf>, Vec<abi::MsrEntry>)> {
        let (mut nr_leaves, mut nr_msrs) = POLICY_GUESS;
        loop {
            let mut leaves = self.buffer(nr_leaves as usize * size_of::<abi::CpuidLeaf>())?;
            let mut msrs = self.buffer(nr_msrs as usize * size_of::<abi::MsrEntry>())?;
            let mut policy = abi::CpuPolicy {
                nr_leaves,
                nr_msrs,
                leaves: leaves.address(),
                msrs: msrs.address(),
                ..Default::default()
            };
            let buffers = &mut [&mut leaves, &mut msrs];
            // SAFETY: the two buffers have room for as many entries as is said.
            let done = unsafe { self.domctl_with_addresses(domctl::GET_CPU_POLICY, domid, &mut policy, buffers) };
            match done {
                Ok(()) => {
                    let mut found = vec![abi::CpuidLeaf::default(); policy.nr_leaves.min(nr_leaves) as usize];
                    leaves.get(&mut found);
                    let mut entries = vec![abi::MsrEntry::default(); policy.nr_msrs.min(nr_msrs) as usize];
                    msrs.get(&mut entries);
                    return Ok((found, entries));
                }
                Err(Error::Hypercall { source, .. })
                    if source.raw_os_error() == Some(libc::ENOBUFS) && nr_leaves < POLICY_MOST =>
                {
                    (nr_leaves, nr_msrs) = (nr_leaves * 2, nr_msrs * 2);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// `XEN_DOMCTL_set_cpu_policy`, of so many leaves and MSRs, byte by byte as in Xen's structures: a stranger says how many there are,
    /// so that they are copied no more than once. Each part that is empty stays as it is.
    pub(in crate::hypervisor::xen) fn set_cpu_policy(
        &self,
        domid: u32,
        (nr_leaves, nr_msrs): (u32, u32),
        leaves: &[u8],
        msrs: &[u8],
    ) -> Result<Result<(), PolicyRefused>> {
        let buffer = |count: u32, entry: usize, entries: &[u8]| {
            let mut buffer = self.buffer(count as usize * entry)?;
            buffer.put(entries);
            Ok::<_, Error>(buffer)
        };
        let mut leaves = buffer(nr_leaves, size_of::<abi::CpuidLeaf>(), leaves)?;
        let mut msrs = buffer(nr_msrs, size_of::<abi::MsrEntry>(), msrs)?;
        // A part without entries has no address either.
        let address = |count, buffer: &mut Buffer| if count == 0 { 0 } else { buffer.address() };
        let mut policy = abi::CpuPolicy {
            nr_leaves,
            nr_msrs,
            leaves: address(nr_leaves, &mut leaves),
            msrs: address(nr_msrs, &mut msrs),
            err_leaf: u32::MAX,
            err_subleaf: u32::MAX,
            err_msr: u32::MAX,
            pad: 0,
        };
        let buffers = &mut [&mut leaves, &mut msrs];
        // SAFETY: the two buffers have as many entries as is said.
        match unsafe { self.domctl_with_addresses(domctl::SET_CPU_POLICY, domid, &mut policy, buffers) } {
            Ok(()) => Ok(Ok(())),
            // Where Xen names nothing that it does not like, it is not the policy's fault.
            Err(Error::Hypercall { source, .. })
                if [policy.err_leaf, policy.err_subleaf, policy.err_msr] != [u32::MAX; 3] =>
            {
                Ok(Err(PolicyRefused {
                    leaf: policy.err_leaf,
                    subleaf: policy.err_subleaf,
                    msr: policy.err_msr,
                    source,
                }))
            }
            Err(error) => Err(error),
        }
    }
}
