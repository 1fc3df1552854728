//! A PV vCPU's state, in the four parts that a stream has, frames as mfns.
#![allow(unsafe_code)]

use super::{Buffer, XenDomain, hypercall};
use crate::decode::pv_words::{CONTEXT_32, CONTEXT_64};
use crate::hypervisor::PvDomain;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::pv::{VcpuRecord, Width};
use xenctrl_sys as sys;

/// Octets that a domctl has for its command's own part.
const BODY: usize = 128;
/// Octets of a MSR (`xen_domctl_vcpu_msr_t`).
const MSR: usize = size_of::<sys::xen_domctl_vcpu_msr_t>();

// The records' octets are those of the structures.
const _: () = assert!(size_of::<sys::vcpu_guest_context_x86_64_t>() == CONTEXT_64);
const _: () = assert!(size_of::<sys::vcpu_guest_context_x86_32_t>() == CONTEXT_32);
const _: () = assert!(MSR == 16 && size_of::<sys::xen_domctl__bindgen_ty_1>() >= BODY);

impl XenDomain {
    pub(super) fn online(&self, vcpu: u32) -> Result<bool> {
        let mut info = sys::xc_vcpuinfo_t::default();
        // SAFETY: the interface is open, and `info` is a place for the one structure that is written.
        let rc = unsafe { sys::xc_vcpu_getinfo(self.handles.xch(), self.domid, vcpu, &raw mut info) };
        hypercall("xc_vcpu_getinfo", self.domid, rc)?;
        Ok(info.online != 0)
    }

    pub(super) fn read_part(&self, vcpu: u32, part: VcpuRecord, blob: &mut Vec<u8>) -> Result<()> {
        blob.clear();
        match part {
            VcpuRecord::Basic => self.read_basic(vcpu, blob),
            VcpuRecord::Extended => self.read_extended(vcpu, blob),
            VcpuRecord::Xsave => self.read_xsave(vcpu, blob),
            VcpuRecord::Msrs => self.read_msrs(vcpu, blob),
        }
    }

    pub(super) fn write_part(&self, vcpu: u32, part: VcpuRecord, blob: &[u8]) -> Result<()> {
        match part {
            VcpuRecord::Basic => self.write_basic(vcpu, blob),
            VcpuRecord::Extended => self.write_extended(vcpu, blob),
            VcpuRecord::Xsave => self.write_xsave(vcpu, blob),
            VcpuRecord::Msrs => self.write_msrs(vcpu, blob),
        }
    }

    fn context_octets(&self) -> Result<usize> {
        Ok(match self.guest_width()? {
            Width::Bits64 => CONTEXT_64,
            Width::Bits32 => CONTEXT_32,
        })
    }

    fn read_basic(&self, vcpu: u32, blob: &mut Vec<u8>) -> Result<()> {
        let length = self.context_octets()?;
        let mut context = sys::vcpu_guest_context_any_t::default();
        // SAFETY: the interface is open, and `context` is a place for the one structure that is written.
        let rc = unsafe { sys::xc_vcpu_getcontext(self.handles.xch(), self.domid, vcpu, &raw mut context) };
        hypercall("xc_vcpu_getcontext", self.domid, rc)?;
        // SAFETY: the union is at least as long as either of its forms, was zero at first, and has no padding that was not.
        let octets = unsafe { std::slice::from_raw_parts((&raw const context).cast::<u8>(), length) };
        blob.extend_from_slice(octets);
        Ok(())
    }

    fn write_basic(&self, vcpu: u32, blob: &[u8]) -> Result<()> {
        let expected = self.context_octets()?;
        if blob.len() != expected {
            return Err(bad_length("X86_PV_VCPU_BASIC", blob));
        }
        let mut context = sys::vcpu_guest_context_any_t::default();
        // SAFETY: the union is at least as long as either of its forms, whose length was checked, and takes every octet.
        unsafe {
            std::ptr::copy_nonoverlapping(blob.as_ptr(), (&raw mut context).cast::<u8>(), blob.len());
        }
        // SAFETY: the interface is open, and `context` is a whole structure.
        let rc = unsafe { sys::xc_vcpu_setcontext(self.handles.xch(), self.domid, vcpu, &raw mut context) };
        hypercall("xc_vcpu_setcontext", self.domid, rc)?;
        Ok(())
    }

    fn read_extended(&self, vcpu: u32, blob: &mut Vec<u8>) -> Result<()> {
        let mut domctl = self.domctl(sys::XEN_DOMCTL_get_ext_vcpucontext);
        domctl.u.ext_vcpucontext.vcpu = vcpu;
        self.call_domctl("XEN_DOMCTL_get_ext_vcpucontext", &mut domctl)?;
        // SAFETY: this is the part of the union that Xen has answered in; it is made of integers.
        let size = unsafe { domctl.u.ext_vcpucontext.size } as usize;
        // SAFETY: the union has at least `BODY` octets (checked above), all of which were zero at first.
        let octets = unsafe { std::slice::from_raw_parts((&raw const domctl.u).cast::<u8>(), BODY) };
        blob.extend_from_slice(octets.get(..size).unwrap_or(octets));
        Ok(())
    }

    /// The vCPU is the one of the record, whatever the blob says.
    fn write_extended(&self, vcpu: u32, blob: &[u8]) -> Result<()> {
        if blob.len() > BODY || blob.len() < size_of::<u64>() {
            return Err(bad_length("X86_PV_VCPU_EXTENDED", blob));
        }
        let mut domctl = self.domctl(sys::XEN_DOMCTL_set_ext_vcpucontext);
        // SAFETY: the union has at least `BODY` octets (checked above), takes every octet, and has room for `blob`.
        unsafe { std::ptr::copy_nonoverlapping(blob.as_ptr(), (&raw mut domctl.u).cast::<u8>(), blob.len()) };
        domctl.u.ext_vcpucontext.vcpu = vcpu;
        self.call_domctl("XEN_DOMCTL_set_ext_vcpucontext", &mut domctl)
    }

    /// Asked twice: for the size, and for the state.
    fn read_xsave(&self, vcpu: u32, blob: &mut Vec<u8>) -> Result<()> {
        let call = "XEN_DOMCTL_getvcpuextstate";
        let mut domctl = self.domctl(sys::XEN_DOMCTL_getvcpuextstate);
        domctl.u.vcpuextstate.vcpu = vcpu;
        self.call_domctl(call, &mut domctl)?;
        // SAFETY: this is the part of the union that Xen has answered in; it is made of integers.
        let (mask, size) = unsafe { (domctl.u.vcpuextstate.xfeature_mask, domctl.u.vcpuextstate.size) };
        if mask == 0 || size == 0 {
            return Ok(());
        }
        let mut buffer = Buffer::new(&self.handles, usize::try_from(size).unwrap_or(usize::MAX))?;
        domctl.u.vcpuextstate.buffer.p = buffer.pointer();
        self.call_domctl(call, &mut domctl)?;
        // SAFETY: as above.
        let size = unsafe { domctl.u.vcpuextstate.size };
        buffer.copy_to(usize::try_from(size).unwrap_or(usize::MAX), blob);
        Ok(())
    }

    fn write_xsave(&self, vcpu: u32, blob: &[u8]) -> Result<()> {
        let mut buffer = Buffer::with(&self.handles, blob)?;
        let mut domctl = self.domctl(sys::XEN_DOMCTL_setvcpuextstate);
        domctl.u.vcpuextstate.vcpu = vcpu;
        domctl.u.vcpuextstate.size = blob.len() as u64;
        domctl.u.vcpuextstate.buffer.p = buffer.pointer();
        self.call_domctl("XEN_DOMCTL_setvcpuextstate", &mut domctl)
    }

    /// Asked twice: for how many there may be, and for those in use.
    fn read_msrs(&self, vcpu: u32, blob: &mut Vec<u8>) -> Result<()> {
        let call = "XEN_DOMCTL_get_vcpu_msrs";
        let mut domctl = self.domctl(sys::XEN_DOMCTL_get_vcpu_msrs);
        domctl.u.vcpu_msrs.vcpu = vcpu;
        self.call_domctl(call, &mut domctl)?;
        // SAFETY: this is the part of the union that Xen has answered in; it is made of integers.
        let count = unsafe { domctl.u.vcpu_msrs.msr_count } as usize;
        if count == 0 {
            return Ok(());
        }
        let mut buffer = Buffer::new(&self.handles, count.saturating_mul(MSR))?;
        domctl.u.vcpu_msrs.msrs.p = buffer.pointer().cast();
        self.call_domctl(call, &mut domctl)?;
        // SAFETY: as above.
        let count = unsafe { domctl.u.vcpu_msrs.msr_count } as usize;
        buffer.copy_to(count.saturating_mul(MSR), blob);
        Ok(())
    }

    fn write_msrs(&self, vcpu: u32, blob: &[u8]) -> Result<()> {
        let count = u32::try_from(blob.len() / MSR).ok().filter(|_| blob.len().is_multiple_of(MSR));
        let count = count.ok_or(bad_length("X86_PV_VCPU_MSRS", blob))?;
        let mut buffer = Buffer::with(&self.handles, blob)?;
        let mut domctl = self.domctl(sys::XEN_DOMCTL_set_vcpu_msrs);
        domctl.u.vcpu_msrs.vcpu = vcpu;
        domctl.u.vcpu_msrs.msr_count = count;
        domctl.u.vcpu_msrs.msrs.p = buffer.pointer().cast();
        self.call_domctl("XEN_DOMCTL_set_vcpu_msrs", &mut domctl)
    }
}

fn bad_length(field: &'static str, blob: &[u8]) -> Error {
    Error::Config { field, value: blob.len() as u64, reason: "octets, which no such part of a vCPU's state has" }
}
