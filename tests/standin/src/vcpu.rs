//! `domctl`: what only PV domains are asked: their vCPUs, part by part, and their width.
#![forbid(unsafe_code)]

use crate::abi::{self, domctl};
use crate::domctl::Body;
use crate::errno::Errno;
use xen_replicate::decode::pv_words::{CONTEXT_32, CONTEXT_64};
use xen_replicate::decode::shared_info::Width;
use xen_replicate::hypervisor::pv::{PvDomain, VcpuRecord};
use xen_replicate::hypervisor::sim::pv::PvSim;

/// Bytes of an extended context at most, and of its two first fields.
const EXTENDED: std::ops::RangeInclusive<u32> = 32..=128;
/// Bytes of the least xsave state: the two masks before it.
const XSAVE: u64 = 16;
/// Bytes of a MSR.
const MSR: usize = 16;

/// Answers the command; `None` where it is none of these.
pub fn command(domain: &mut PvSim, cmd: u32, body: Body) -> Option<Result<(), Errno>> {
    Some(match cmd {
        domctl::GET_ADDRESS_SIZE => width(domain).and_then(|width| body.put(width.bytes() as u32 * 8)),
        domctl::SET_ADDRESS_SIZE => set_width(domain, body),
        domctl::GET_VCPU_INFO => info(domain, body),
        domctl::GET_VCPU_CONTEXT => get_context(domain, body),
        domctl::SET_VCPU_CONTEXT => set_context(domain, body),
        domctl::GET_EXT_VCPU_CONTEXT => get_extended(domain, body),
        domctl::SET_EXT_VCPU_CONTEXT => set_extended(domain, body),
        domctl::GET_VCPU_EXT_STATE => get_xsave(domain, body),
        domctl::SET_VCPU_EXT_STATE => set_xsave(domain, body),
        domctl::GET_VCPU_MSRS => get_msrs(domain, body),
        domctl::SET_VCPU_MSRS => set_msrs(domain, body),
        _ => return None,
    })
}

fn width(domain: &PvSim) -> Result<Width, Errno> {
    Ok(domain.guest_width()?)
}

fn set_width(domain: &mut PvSim, body: Body) -> Result<(), Errno> {
    let bits: u32 = body.get()?;
    let width = u8::try_from(bits / 8).ok().and_then(Width::from_bytes).ok_or(Errno(libc::EINVAL))?;
    // Nothing to do, or else the domain must be empty: `EACCES` then, as Xen has it.
    if width == domain.guest_width()? {
        return Ok(());
    }
    domain.set_guest_width(width).map_err(|_| Errno(libc::EACCES))
}

fn info(domain: &PvSim, body: Body) -> Result<(), Errno> {
    let mut info: abi::VcpuInfo = body.get()?;
    let online = domain.vcpu_is_online(info.vcpu).map_err(|_| Errno(libc::ESRCH))?;
    info.online = online.into();
    info.blocked = online.into();
    (info.running, info.cpu_time, info.cpu) = (0, 0, 0);
    body.put(info)
}

/// A part of a vCPU's state; empty where there is none.
fn part(domain: &PvSim, vcpu: u32, part: VcpuRecord) -> Result<Vec<u8>, Errno> {
    let mut blob = Vec::new();
    domain.vcpu_part(vcpu, part, &mut blob).map_err(|_| Errno(libc::ESRCH))?;
    Ok(blob)
}

const fn context_bytes(width: Width) -> usize {
    match width {
        Width::Bits64 => CONTEXT_64,
        Width::Bits32 => CONTEXT_32,
    }
}

fn get_context(domain: &PvSim, body: Body) -> Result<(), Errno> {
    let wanted: abi::VcpuContext = body.get()?;
    let blob = part(domain, wanted.vcpu, VcpuRecord::Basic)?;
    if blob.is_empty() {
        return Err(Errno(libc::ENODATA));
    }
    body.caller.write_array(wanted.context, &blob)
}

fn set_context(domain: &mut PvSim, body: Body) -> Result<(), Errno> {
    let given: abi::VcpuContext = body.get()?;
    let blob = body.caller.read_array::<u8>(given.context, context_bytes(width(domain)?))?;
    Ok(domain.set_vcpu_part(given.vcpu, VcpuRecord::Basic, &blob)?)
}

fn get_extended(domain: &PvSim, body: Body) -> Result<(), Errno> {
    let mut wanted: abi::ExtVcpuContext = body.get()?;
    let blob = part(domain, wanted.vcpu, VcpuRecord::Extended)?;
    wanted.size = blob.len() as u32;
    body.put(wanted)?;
    body.caller.write_array(body.at, &blob)
}

fn set_extended(domain: &mut PvSim, body: Body) -> Result<(), Errno> {
    let given: abi::ExtVcpuContext = body.get()?;
    if !EXTENDED.contains(&given.size) {
        return Err(Errno(libc::EINVAL));
    }
    let blob = body.caller.read_array::<u8>(body.at, given.size as usize)?;
    Ok(domain.set_vcpu_part(given.vcpu, VcpuRecord::Extended, &blob)?)
}

/// Without a buffer only the size is asked for.
fn get_xsave(domain: &PvSim, body: Body) -> Result<(), Errno> {
    let mut wanted: abi::VcpuExtState = body.get()?;
    let blob = part(domain, wanted.vcpu, VcpuRecord::Xsave)?;
    if wanted.buffer != 0 {
        if wanted.size < blob.len() as u64 {
            return Err(Errno(libc::EINVAL));
        }
        body.caller.write_array(wanted.buffer, &blob)?;
    }
    wanted.size = blob.len() as u64;
    // x87 and SSE, where there is any state.
    wanted.xfeature_mask = if blob.is_empty() { 0 } else { 3 };
    body.put(wanted)
}

fn set_xsave(domain: &mut PvSim, body: Body) -> Result<(), Errno> {
    let given: abi::VcpuExtState = body.get()?;
    if given.size < XSAVE {
        return Err(Errno(libc::EINVAL));
    }
    let size = usize::try_from(given.size).map_err(|_| Errno(libc::EINVAL))?;
    let blob = body.caller.read_array::<u8>(given.buffer, size)?;
    Ok(domain.set_vcpu_part(given.vcpu, VcpuRecord::Xsave, &blob)?)
}

/// Without a buffer the most that there can be is told.
fn get_msrs(domain: &PvSim, body: Body) -> Result<(), Errno> {
    let mut wanted: abi::VcpuMsrs = body.get()?;
    let blob = part(domain, wanted.vcpu, VcpuRecord::Msrs)?;
    let count = (blob.len() / MSR) as u32;
    let too_many = wanted.msrs != 0 && wanted.msr_count < count;
    if wanted.msrs != 0 && !too_many {
        body.caller.write_array(wanted.msrs, &blob)?;
    }
    wanted.msr_count = count;
    body.put(wanted)?;
    if too_many { Err(Errno(libc::ENOBUFS)) } else { Ok(()) }
}

fn set_msrs(domain: &mut PvSim, body: Body) -> Result<(), Errno> {
    let given: abi::VcpuMsrs = body.get()?;
    let blob = body.caller.read_array::<u8>(given.msrs, given.msr_count as usize * MSR)?;
    Ok(domain.set_vcpu_part(given.vcpu, VcpuRecord::Msrs, &blob)?)
}
