//! `hvm_op`: the parameters of a HVM domain.
#![forbid(unsafe_code)]

use crate::abi;
use crate::caller::Caller;
use crate::errno::{Answer, Errno};
use crate::guest::each;
use crate::host::Host;
use xen_replicate::hypervisor::{HvmParam, RestoreDomain, SaveDomain};

/// `HVMOP_set_param`
const SET_PARAM: u64 = 0;
/// `HVMOP_get_param`
const GET_PARAM: u64 = 1;

/// Answers one operation, whose structure is at `address`.
pub fn call(host: &mut Host, caller: Caller, op: u64, address: u64) -> Answer {
    if !matches!(op, SET_PARAM | GET_PARAM) {
        host.note(format_args!("hvm_op {op}: not known"));
        return Err(Errno(libc::ENOSYS));
    }
    host.may("hvm_op", op)?;
    let mut param: abi::HvmParam = caller.read(address)?;
    let (index, value) = (u64::from(param.index), param.value);
    let guest = host.domain(param.domid.into())?;
    let answer = if op == SET_PARAM {
        each!(guest, domain => domain.set_hvm_param(HvmParam { index, value }).map_err(Errno::from))
    } else {
        each!(guest, domain => domain.hvm_param(index).map_err(Errno::from)).and_then(|value| {
            param.value = value;
            caller.write(address, param)
        })
    };
    host.note(format_args!("hvm_op {op}, parameter {index} = {:#x}: {answer:?}", param.value));
    answer.map(|()| 0)
}
