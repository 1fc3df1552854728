//! `memory_op`: giving a domain memory, and how much it has.
#![forbid(unsafe_code)]

use crate::abi::{MemoryReservation, xenmem};
use crate::caller::Caller;
use crate::errno::{Answer, Errno};
use crate::host::Host;
use xen_replicate::hypervisor::{Domain, Error, RestoreDomain};

/// The largest extent that a toolstack asks for: 1 GiB.
const MOST_ORDER: u32 = 18;
/// The highest frame of the machine: there is no machine, and 1 TiB will do for whoever sizes a table by it.
const HIGHEST_FRAME: i64 = (1 << 28) - 1;

/// Answers one memory operation, whose structure is at `address`.
pub fn call(host: &mut Host, caller: Caller, op: u64, address: u64) -> Answer {
    let answer = match op {
        xenmem::MAXIMUM_RAM_PAGE => Ok(HIGHEST_FRAME),
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
    let runner = host.domain(domid.into())?;
    let info = runner.info()?;
    let pages = match op {
        xenmem::CURRENT_RESERVATION => info.populated,
        xenmem::MAXIMUM_RESERVATION => runner.turn()?.memory().budget(),
        _ => info.nr_pfns.saturating_sub(1),
    };
    i64::try_from(pages).map_err(|_| Errno(libc::EOVERFLOW))
}

/// Gives the number of extents that could be had, as Xen does; the frames of a translated guest are its gfns, so that the
/// caller's list stays as it is.
fn populate(host: &mut Host, caller: Caller, address: u64) -> Answer {
    let wanted: MemoryReservation = caller.read(address)?;
    if wanted.extent_order > MOST_ORDER {
        return Err(Errno(libc::EPERM));
    }
    let count = usize::try_from(wanted.nr_extents).map_err(|_| Errno(libc::EINVAL))?;
    let runner = host.domain(wanted.domid.into())?;
    let extents: Vec<u64> = caller.read_array(wanted.extent_start, count)?;
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
