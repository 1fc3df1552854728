//! `mmuext_op`: page tables of a PV domain pinned by its toolstack.
#![forbid(unsafe_code)]

use crate::abi::{self, mmuext};
use crate::caller::Caller;
use crate::errno::{Answer, Errno};
use crate::guest::Guest;
use crate::host::Host;
use xen_replicate::hypervisor::PvDomain;

/// Answers `count` operations at `list`, for the domain `domid`; the first that fails ends it.
pub fn call(host: &mut Host, caller: Caller, list: u64, count: u64, domid: u64) -> Answer {
    let domid = u32::try_from(domid).map_err(|_| Errno(libc::ESRCH))?;
    host.may("mmuext_op", 0)?;
    let answer = (0..count).try_for_each(|index| {
        let at = list.wrapping_add(index.wrapping_mul(size_of::<abi::MmuextOp>() as u64));
        pin(host.domain(domid)?, caller.read(at)?)
    });
    host.note(format_args!("mmuext_op of {count} for domain {domid}: {answer:?}"));
    answer.map(|()| 0)
}

/// Pins a table; the guest's frames are looked through as Xen does.
fn pin(guest: &mut Guest, op: abi::MmuextOp) -> Result<(), Errno> {
    let Guest::Pv(runner) = guest else { return Err(Errno(libc::EINVAL)) };
    let level = match op.cmd {
        cmd @ mmuext::PIN_L1_TABLE..=mmuext::PIN_L4_TABLE => (cmd - mmuext::PIN_L1_TABLE + 1) as u8,
        _ => return Err(Errno(libc::ENOSYS)),
    };
    let mut domain = runner.turn()?;
    // A 32-bit guest has no fourth level.
    if level > domain.guest_width()?.levels() {
        return Err(Errno(libc::EINVAL));
    }
    Ok(domain.pin_tables(&[(level, op.arg1)])?)
}
