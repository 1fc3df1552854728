//! A vCPU's state, part by part, and the guest's width.
#![allow(unsafe_code)]

use super::abi::{self, domctl};
use super::interface::Interface;
use crate::decode::pv_words::{CONTEXT_32, CONTEXT_64};
use crate::hypervisor::error::Result;

/// Bytes of a MSR (`struct xen_domctl_vcpu_msr`).
pub(in crate::hypervisor::xen) const MSR: usize = 16;

impl Interface {
    /// `XEN_DOMCTL_get_address_size`, in bits.
    pub(in crate::hypervisor::xen) fn address_size(&self, domid: u32) -> Result<u32> {
        let mut bits = 0u32;
        self.domctl(domctl::GET_ADDRESS_SIZE, domid, &mut bits)?;
        Ok(bits)
    }

    /// `XEN_DOMCTL_set_address_size`, in bits.
    pub(in crate::hypervisor::xen) fn set_address_size(&self, domid: u32, mut bits: u32) -> Result<()> {
        self.domctl(domctl::SET_ADDRESS_SIZE, domid, &mut bits)
    }

    /// Whether a vCPU is online (`XEN_DOMCTL_getvcpuinfo`).
    pub(in crate::hypervisor::xen) fn vcpu_is_online(&self, domid: u32, vcpu: u32) -> Result<bool> {
        let mut info = abi::VcpuInfo { vcpu, ..Default::default() };
        self.domctl(domctl::GET_VCPU_INFO, domid, &mut info)?;
        Ok(info.online != 0)
    }

    /// `XEN_DOMCTL_getvcpucontext`: as many bytes as a vCPU of 64 bits has, whatever this one's width is.
    pub(in crate::hypervisor::xen) fn vcpu_context(&self, domid: u32, vcpu: u32) -> Result<[u8; CONTEXT_64]> {
        const { assert!(CONTEXT_32 < CONTEXT_64) };
        let mut buffer = self.buffer(CONTEXT_64)?;
        let mut wanted = abi::VcpuContext { vcpu, pad: 0, ctxt: buffer.address() };
        // SAFETY: the buffer has room for the context of either width.
        unsafe { self.domctl_with_addresses(domctl::GET_VCPU_CONTEXT, domid, &mut wanted, &mut [&mut buffer]) }?;
        let mut context = [0; CONTEXT_64];
        buffer.get(&mut context);
        Ok(context)
    }

    /// `XEN_DOMCTL_setvcpucontext`: of the domain's width; what is missing of a longer one is zero.
    pub(in crate::hypervisor::xen) fn set_vcpu_context(&self, domid: u32, vcpu: u32, context: &[u8]) -> Result<()> {
        let mut buffer = self.buffer(CONTEXT_64.max(context.len()))?;
        buffer.put(context);
        let mut given = abi::VcpuContext { vcpu, pad: 0, ctxt: buffer.address() };
        // SAFETY: the buffer has at least as many bytes as the context of either width.
        unsafe { self.domctl_with_addresses(domctl::SET_VCPU_CONTEXT, domid, &mut given, &mut [&mut buffer]) }
    }

    /// `XEN_DOMCTL_get_ext_vcpucontext`: the whole body of the domctl, which begins with the vCPU's number and the size that is in use.
    pub(in crate::hypervisor::xen) fn extended_context(&self, domid: u32, vcpu: u32) -> Result<[u8; abi::DOMCTL_BODY]> {
        let mut body = [0; abi::DOMCTL_BODY];
        body[..size_of::<u32>()].copy_from_slice(&vcpu.to_ne_bytes());
        self.domctl(domctl::GET_EXT_VCPU_CONTEXT, domid, &mut body)?;
        Ok(body)
    }

    /// `XEN_DOMCTL_set_ext_vcpucontext`, of this vCPU, whatever the body says.
    pub(in crate::hypervisor::xen) fn set_extended_context(
        &self,
        domid: u32,
        vcpu: u32,
        mut body: [u8; abi::DOMCTL_BODY],
    ) -> Result<()> {
        body[..size_of::<u32>()].copy_from_slice(&vcpu.to_ne_bytes());
        self.domctl(domctl::SET_EXT_VCPU_CONTEXT, domid, &mut body)
    }

    /// `XEN_DOMCTL_getvcpuextstate`, asked twice: for the size, and for the state, which is added to `blob`.
    pub(in crate::hypervisor::xen) fn xsave(&self, domid: u32, vcpu: u32, blob: &mut Vec<u8>) -> Result<()> {
        let op = domctl::GET_VCPU_EXT_STATE;
        let mut wanted = abi::VcpuExtState { vcpu, ..Default::default() };
        self.domctl(op, domid, &mut wanted)?;
        if wanted.xfeature_mask == 0 || wanted.size == 0 {
            return Ok(());
        }
        let mut buffer = self.buffer(usize::try_from(wanted.size).unwrap_or(usize::MAX))?;
        wanted.buffer = buffer.address();
        // SAFETY: the buffer has the room that is said.
        unsafe { self.domctl_with_addresses(op, domid, &mut wanted, &mut [&mut buffer]) }?;
        let size = usize::try_from(wanted.size).unwrap_or(usize::MAX).min(buffer.len());
        blob.extend_from_slice(buffer.bytes().get(..size).unwrap_or_default());
        Ok(())
    }

    /// `XEN_DOMCTL_setvcpuextstate`
    pub(in crate::hypervisor::xen) fn set_xsave(&self, domid: u32, vcpu: u32, blob: &[u8]) -> Result<()> {
        let mut buffer = self.buffer_with(blob)?;
        let size = blob.len() as u64;
        let mut given = abi::VcpuExtState { vcpu, size, buffer: buffer.address(), ..Default::default() };
        // SAFETY: the buffer has as many bytes as is said.
        unsafe { self.domctl_with_addresses(domctl::SET_VCPU_EXT_STATE, domid, &mut given, &mut [&mut buffer]) }
    }

    /// `XEN_DOMCTL_get_vcpu_msrs`, asked twice: for how many there may be, and for those in use, which are added to `blob`.
    pub(in crate::hypervisor::xen) fn msrs(&self, domid: u32, vcpu: u32, blob: &mut Vec<u8>) -> Result<()> {
        let op = domctl::GET_VCPU_MSRS;
        let mut wanted = abi::VcpuMsrs { vcpu, ..Default::default() };
        self.domctl(op, domid, &mut wanted)?;
        if wanted.msr_count == 0 {
            return Ok(());
        }
        let mut buffer = self.buffer((wanted.msr_count as usize).saturating_mul(MSR))?;
        wanted.msrs = buffer.address();
        // SAFETY: the buffer has room for as many as is said.
        unsafe { self.domctl_with_addresses(op, domid, &mut wanted, &mut [&mut buffer]) }?;
        let size = (wanted.msr_count as usize).saturating_mul(MSR).min(buffer.len());
        blob.extend_from_slice(buffer.bytes().get(..size).unwrap_or_default());
        Ok(())
    }

    /// `XEN_DOMCTL_set_vcpu_msrs`: `msr_count` of them.
    pub(in crate::hypervisor::xen) fn set_msrs(
        &self,
        domid: u32,
        vcpu: u32,
        msr_count: u32,
        blob: &[u8],
    ) -> Result<()> {
        let mut buffer = self.buffer((msr_count as usize).saturating_mul(MSR))?;
        buffer.put(blob);
        let mut given = abi::VcpuMsrs { vcpu, msr_count, msrs: buffer.address() };
        // SAFETY: the buffer has as many as is said.
        unsafe { self.domctl_with_addresses(domctl::SET_VCPU_MSRS, domid, &mut given, &mut [&mut buffer]) }
    }
}
