//! `memory_op`: giving a domain memory, and how much it has.
#![forbid(unsafe_code)]

use crate::abi::{MachphysMfnList, MemoryReservation, xenmem};
use crate::caller::Caller;
use crate::errno::{Answer, Errno};
use crate::guest::Guest;
use crate::host::Host;
use crate::machine;
use xen_replicate::hypervisor::sim::pv::PvSim;
use xen_replicate::hypervisor::{Error, PvDomain, RestoreDomain};

/// The largest extent that a toolstack asks for: 1 GiB.
const MOST_ORDER: u32 = 18;
/// Frames where there is no machine: 1 TiB will do for whoever sizes a table by it.
const FRAMES: i64 = 1 << 28;

/// Answers one memory operation, whose structure is at `address`.
pub fn call(host: &mut Host, caller: Caller, op: u64, address: u64) -> Answer {
    host.may("memory_op", op)?;
    let answer = match op {
        xenmem::MAXIMUM_RAM_PAGE => frames(host),
        xenmem::MACHPHYS_MFN_LIST | xenmem::MACHPHYS_COMPAT_MFN_LIST => m2p_extents(host, caller, op, address),
        xenmem::POPULATE_PHYSMAP => populate(host, caller, address),
        xenmem::CURRENT_RESERVATION | xenmem::MAXIMUM_RESERVATION | xenmem::MAXIMUM_GPFN => {
            size(host, caller, op, address)
        }
        // Memory is given out from the domain's own budget: there is nobody to take it away.
        xenmem::CLAIM_PAGES => {
            let claim: MemoryReservation = caller.read(address)?;
            host.domain(claim.domid.into()).map(|_| 0)
        }
        _ => Err(Errno(libc::ENOSYS)),
    };
    host.note(format_args!("memory_op {op}: {answer:?}"));
    answer
}

fn size(host: &mut Host, caller: Caller, op: u64, address: u64) -> Answer {
    let domid: u16 = caller.read(address)?;
    let guest = host.domain(domid.into())?;
    let info = guest.info()?;
    let pages = match op {
        xenmem::CURRENT_RESERVATION => info.populated,
        xenmem::MAXIMUM_RESERVATION => guest.budget()?,
        _ => info.nr_pfns.saturating_sub(1),
    };
    i64::try_from(pages).map_err(|_| Errno(libc::EOVERFLOW))
}

/// One more than the highest frame, as Xen's `max_page` is.
fn frames(host: &mut Host) -> Answer {
    match host.own() {
        Some((_, Guest::Pv(runner))) => i64::try_from(runner.turn()?.nr_mfns()?).map_err(|_| Errno(libc::EOVERFLOW)),
        _ => Ok(FRAMES),
    }
}

/// Where the m2p is that all see; or the one that 32-bit guests have mapped, of which there is one extent.
fn m2p_extents(host: &mut Host, caller: Caller, op: u64, address: u64) -> Answer {
    let mut list: MachphysMfnList = caller.read(address)?;
    let Some((_, Guest::Pv(runner))) = host.own() else { return Err(Errno(libc::ENOSYS)) };
    let domain = runner.turn()?;
    let extents: Vec<u64> = if op == xenmem::MACHPHYS_MFN_LIST {
        machine::m2p_extents(domain.image().m2p_bytes()).collect()
    } else {
        vec![domain.compat_m2p_frame()?]
    };
    let given = extents.get(..list.max_extents as usize).unwrap_or(&extents);
    caller.write_array(list.extent_start, given)?;
    list.nr_extents = given.len() as u32;
    caller.write(address, list)?;
    Ok(0)
}

/// Gives the number of extents that could be had, as Xen does. The frames of a translated guest are its gfns, so that the
/// caller's list stays as it is; a PV guest's are written over the pfns.
fn populate(host: &mut Host, caller: Caller, address: u64) -> Answer {
    let wanted: MemoryReservation = caller.read(address)?;
    if wanted.extent_order > MOST_ORDER {
        return Err(Errno(libc::EPERM));
    }
    let count = usize::try_from(wanted.nr_extents).map_err(|_| Errno(libc::EINVAL))?;
    let guest = host.domain(wanted.domid.into())?;
    let extents: Vec<u64> = caller.read_array(wanted.extent_start, count)?;
    let runner = match guest {
        Guest::Hvm(runner) => runner,
        Guest::Pv(_) if wanted.extent_order > 0 => return Err(Errno(libc::EPERM)),
        Guest::Pv(runner) => return give_frames(&mut *runner.turn()?, caller, wanted.extent_start, &extents),
    };
    let size = 1u64 << wanted.extent_order;
    for (done, &first) in (0..).zip(&extents) {
        let gfns: Vec<u64> = (first..first.saturating_add(size)).collect();
        match runner.populate(&gfns) {
            Ok(()) => {}
            Err(Error::OutOfMemory { .. } | Error::PfnOutOfRange { .. }) => return Ok(done),
            Err(error) => return Err(error.into()),
        }
    }
    i64::try_from(count).map_err(|_| Errno(libc::EINVAL))
}

fn give_frames(domain: &mut PvSim, caller: Caller, at: u64, pfns: &[u64]) -> Answer {
    for (done, &pfn) in (0u64..).zip(pfns) {
        let mut mfn = [0];
        match domain.populate_frames(&[pfn], &mut mfn) {
            Ok(()) => caller.write_array(at.wrapping_add(done * size_of::<u64>() as u64), &mfn)?,
            Err(Error::OutOfMemory { .. }) => return i64::try_from(done).map_err(|_| Errno(libc::EINVAL)),
            Err(error) => return Err(error.into()),
        }
    }
    i64::try_from(pfns.len()).map_err(|_| Errno(libc::EINVAL))
}
