//! `domctl`: what a toolstack asks of one domain.
#![forbid(unsafe_code)]

use crate::abi::{self, Domctl, domctl, dominf, shadow};
use crate::caller::{Caller, Plain};
use crate::context;
use crate::errno::{Answer, Errno};
use crate::guest::{Guest, each};
use crate::host::Host;
use crate::release::Release;
use crate::vcpu;
use xen_replicate::decode::hvm_context::Entries;
use xen_replicate::hypervisor::{
    CleanMode, CpuPolicy, DirtyBitmap, Domain, DomainKind, LogDirty, PageType, RestoreDomain, SaveDomain,
    ShutdownReason, TscInfo,
};
use xen_replicate::stream::libxc::{CpuidPolicy, MsrPolicy};

/// Frames that may be asked for in one getpageframeinfo3.
const MOST_FRAMES: u64 = 1024;

/// Answers one domctl, whose structure is at `address`.
pub fn call(host: &mut Host, caller: Caller, address: u64) -> Answer {
    let header: Domctl = caller.read(address)?;
    if header.interface_version != host.release.domctl() {
        return Err(Errno(libc::EACCES));
    }
    let domid = u32::from(header.domain);
    if domid != 0 {
        host.may("domctl", header.cmd.into())?;
    }
    let release = host.release;
    let body = Body { caller, at: address.wrapping_add(domctl::BODY) };
    let answer = match header.cmd {
        domctl::SHADOW_OP => shadow_op(host, domid, body),
        // Whoever looks for the version of this interface asks for the domain that there always is.
        domctl::GET_DOMAIN_INFO if domid == 0 => body.put_info(release, abi::DomainInfo::default()),
        domctl::GET_DOMAIN_INFO => {
            host.domain(domid).and_then(domain_info).and_then(|info| body.put_info(release, info))
        }
        cmd => host.domain(domid).and_then(|guest| any(guest, release, cmd, body)),
    };
    host.note(format_args!("domctl {} of domain {domid}: {answer:?}", header.cmd));
    answer.map(|()| 0)
}

/// The command's own part of the structure.
#[derive(Clone, Copy)]
pub struct Body {
    /// Whose memory it is in.
    pub caller: Caller,
    /// Its address.
    pub at: u64,
}

impl Body {
    /// Reads the structure.
    pub fn get<T: Plain>(self) -> Result<T, Errno> {
        self.caller.read(self.at)
    }

    /// Answers with as much of a domain's description as a release has.
    pub fn put_info(self, release: Release, info: abi::DomainInfo) -> Result<(), Errno> {
        put_info(self.caller, self.at, release, info)
    }

    /// Answers with the structure.
    pub fn put<T: Plain>(self, value: T) -> Result<(), Errno> {
        self.caller.write(self.at, value)
    }
}

fn any(guest: &mut Guest, release: Release, cmd: u32, body: Body) -> Result<(), Errno> {
    match guest {
        Guest::Hvm(runner) if cmd == domctl::GET_ADDRESS_SIZE => runner.turn().map(drop)?,
        Guest::Hvm(runner) => return command(runner, release, cmd, body),
        Guest::Pv(runner) => {
            let mut domain = runner.turn()?;
            return vcpu::command(&mut domain, cmd, body).unwrap_or_else(|| command(&mut *domain, release, cmd, body));
        }
    }
    body.put(64u32)
}

fn command<D: SaveDomain + RestoreDomain>(
    runner: &mut D,
    release: Release,
    cmd: u32,
    body: Body,
) -> Result<(), Errno> {
    match cmd {
        domctl::PAUSE => Ok(runner.pause()?),
        domctl::UNPAUSE => Ok(runner.unpause()?),
        domctl::RESUME => Ok(runner.resume()?),
        // The budget of a simulated domain is set when it is made.
        domctl::MAX_MEM => Ok(()),
        domctl::GET_HVM_CONTEXT => get_hvm_context(runner, release, body),
        domctl::SET_HVM_CONTEXT => {
            let context: abi::HvmContext = body.get()?;
            let blob = body.caller.read_array::<u8>(context.buffer, context.size as usize)?;
            Ok(runner.set_hvm_context(&context::loaded(release, &blob)?)?)
        }
        domctl::GET_HVM_CONTEXT_PARTIAL => get_hvm_context_partial(runner, release, body),
        domctl::GET_TSC_INFO => {
            let tsc = runner.tsc_info()?;
            body.put(abi::TscInfo {
                tsc_mode: tsc.mode,
                gtsc_khz: tsc.khz,
                incarnation: tsc.incarnation,
                pad: 0,
                elapsed_nsec: tsc.nsec,
            })
        }
        domctl::SET_TSC_INFO => {
            let tsc: abi::TscInfo = body.get()?;
            Ok(runner.set_tsc_info(TscInfo {
                mode: tsc.tsc_mode,
                khz: tsc.gtsc_khz,
                nsec: tsc.elapsed_nsec,
                incarnation: tsc.incarnation,
                reserved: 0,
            })?)
        }
        domctl::GET_PAGE_FRAME_INFO_3 => page_types(runner, body),
        // Every mapping of a page is of the same memory: there is no cache to flush.
        domctl::CACHE_FLUSH => Ok(()),
        domctl::GET_CPU_POLICY => get_cpu_policy(runner, body),
        domctl::SET_CPU_POLICY => {
            let policy: abi::CpuPolicy = body.get()?;
            let cpuid = body.caller.read_array(policy.leaves, policy.nr_leaves as usize * CpuidPolicy::LEAF)?;
            let msrs = body.caller.read_array(policy.msrs, policy.nr_msrs as usize * MsrPolicy::ENTRY)?;
            Ok(runner.set_cpu_policy(&CpuPolicy { cpuid, msrs })?)
        }
        _ => Err(Errno(libc::ENOSYS)),
    }
}

/// Writes as much of a domain's description as a release has.
pub fn put_info(caller: Caller, at: u64, release: Release, info: abi::DomainInfo) -> Result<(), Errno> {
    caller.write_part(at, info, release.domain_info_bytes())
}

/// What getdomaininfo tells, also of one domain of a list.
pub fn domain_info(guest: &mut Guest) -> Result<abi::DomainInfo, Errno> {
    let info = guest.info()?;
    let mut flags = if info.kind == DomainKind::Hvm { dominf::HAP | dominf::HVM } else { 0 };
    if info.paused {
        flags |= dominf::PAUSED;
    }
    flags |= match info.shutdown {
        Some(reason) => dominf::SHUTDOWN | number(reason) << dominf::SHUTDOWN_SHIFT,
        None if info.paused => 0,
        None => dominf::RUNNING,
    };
    Ok(abi::DomainInfo {
        domain: u16::try_from(info.domid).map_err(|_| Errno(libc::ESRCH))?,
        flags,
        tot_pages: info.populated,
        max_pages: guest.budget()?,
        shared_info_frame: guest.shared_info_frame()?,
        nr_online_vcpus: info.nr_vcpus,
        max_vcpu_id: info.nr_vcpus.saturating_sub(1),
        handle: info.uuid.0,
        gpaddr_bits: 48,
        ..abi::DomainInfo::default()
    })
}

/// `SHUTDOWN_*` of `sched.h`.
fn number(reason: ShutdownReason) -> u32 {
    match reason {
        ShutdownReason::Poweroff => 0,
        ShutdownReason::Reboot => 1,
        ShutdownReason::Suspend => 2,
        ShutdownReason::Crash => 3,
        ShutdownReason::Watchdog => 4,
        ShutdownReason::SoftReset => 5,
    }
}

fn shadow_op(host: &mut Host, domid: u32, body: Body) -> Result<(), Errno> {
    let mut on = host.log_dirty;
    each!(host.domain(domid)?, domain => log_dirty(domain, &mut on, body))?;
    host.log_dirty = on;
    Ok(())
}

fn log_dirty<D: Domain + LogDirty>(runner: &mut D, on: &mut bool, body: Body) -> Result<(), Errno> {
    let mut op: abi::ShadowOp = body.get()?;
    match op.op {
        shadow::OFF => {
            runner.disable_log_dirty()?;
            *on = false;
            Ok(())
        }
        // Xen wants it off first where somebody else has switched it on.
        shadow::ENABLE_LOG_DIRTY if *on => Err(Errno(libc::EINVAL)),
        shadow::ENABLE_LOG_DIRTY => {
            runner.enable_log_dirty()?;
            *on = true;
            Ok(())
        }
        shadow::CLEAN | shadow::PEEK => {
            let nr_pfns = runner.info()?.nr_pfns;
            let mut bitmap = DirtyBitmap::new(nr_pfns);
            let stats = if op.op == shadow::PEEK {
                runner.peek_log_dirty(&mut bitmap)?
            } else {
                let last = op.mode & shadow::FINAL != 0;
                runner.clean_log_dirty(&mut bitmap, if last { CleanMode::Final } else { CleanMode::Ongoing })?
            };
            op.pages = op.pages.min(nr_pfns);
            op.fault_count = u32::try_from(stats.fault_count).unwrap_or(u32::MAX);
            op.dirty_count = u32::try_from(stats.dirty_count).unwrap_or(u32::MAX);
            if op.dirty_bitmap != 0 {
                let bytes: Vec<u8> = bitmap.words().iter().flat_map(|word| word.to_le_bytes()).collect();
                let length = usize::try_from(op.pages.div_ceil(8)).unwrap_or(usize::MAX).min(bytes.len());
                body.caller.write_array(op.dirty_bitmap, bytes.get(..length).unwrap_or_default())?;
            }
            body.put(op)
        }
        _ => Err(Errno(libc::EINVAL)),
    }
}

fn page_types(runner: &impl SaveDomain, body: Body) -> Result<(), Errno> {
    let info: abi::PageFrameInfo3 = body.get()?;
    if info.num > MOST_FRAMES {
        return Err(Errno(libc::E2BIG));
    }
    let frames: Vec<u64> = body.caller.read_array(info.array, info.num as usize)?;
    let mut types = vec![PageType::XTAB; frames.len()];
    runner.page_types(&frames, &mut types)?;
    let types: Vec<u64> = types.iter().map(|kind| u64::from(kind.wire()) << abi::PAGE_TYPE_SHIFT).collect();
    body.caller.write_array(info.array, &types)
}

fn get_hvm_context(runner: &impl SaveDomain, release: Release, body: Body) -> Result<(), Errno> {
    let mut context: abi::HvmContext = body.get()?;
    let mut blob = Vec::new();
    runner.hvm_context(&mut blob)?;
    let blob = context::saved(release, &blob);
    let length = u32::try_from(blob.len()).map_err(|_| Errno(libc::ENOSPC))?;
    if context.buffer != 0 {
        if context.size < length {
            return Err(Errno(libc::ENOSPC));
        }
        body.caller.write_array(context.buffer, &blob)?;
    }
    context.size = length;
    body.put(context)
}

fn get_hvm_context_partial(runner: &impl SaveDomain, release: Release, body: Body) -> Result<(), Errno> {
    let mut partial: abi::HvmContextPartial = body.get()?;
    let mut blob = Vec::new();
    runner.hvm_context(&mut blob)?;
    let blob = context::saved(release, &blob);
    let wanted = |typecode: u16, instance: u16| {
        (u32::from(typecode), u32::from(instance)) == (partial.typecode, partial.instance)
    };
    let found = Entries::new(&blob).flatten().find(|entry| wanted(entry.typecode, entry.instance));
    let data = found.ok_or(Errno(libc::ENOENT))?.data;
    if partial.buffer != 0 {
        if partial.bufsz < data.len() as u64 {
            return Err(Errno(libc::ENOSPC));
        }
        body.caller.write_array(partial.buffer, data)?;
    }
    partial.bufsz = data.len() as u64;
    body.put(partial)
}

fn get_cpu_policy(runner: &impl SaveDomain, body: Body) -> Result<(), Errno> {
    let mut wanted: abi::CpuPolicy = body.get()?;
    let policy = runner.cpu_policy()?;
    let (nr_leaves, nr_msrs) = (policy.cpuid.len() / CpuidPolicy::LEAF, policy.msrs.len() / MsrPolicy::ENTRY);
    if (wanted.nr_leaves as usize) < nr_leaves || (wanted.nr_msrs as usize) < nr_msrs {
        return Err(Errno(libc::ENOBUFS));
    }
    body.caller.write_array(wanted.leaves, &policy.cpuid)?;
    body.caller.write_array(wanted.msrs, &policy.msrs)?;
    (wanted.nr_leaves, wanted.nr_msrs) = (nr_leaves as u32, nr_msrs as u32);
    body.put(wanted)
}
