//! `xen_version`: which hypervisor this claims to be.
#![forbid(unsafe_code)]

use crate::caller::Caller;
use crate::errno::{Answer, Errno};
use crate::host::Host;
use xen_replicate::hypervisor::PAGE_SIZE;

/// `XENVER_*`
const VERSION: u64 = 0;
const EXTRA_VERSION: u64 = 1;
const CAPABILITIES: u64 = 3;
const PAGE: u64 = 7;

/// Answers one question; `address` is that of the buffer, for those that have one.
pub fn call(host: &mut Host, caller: Caller, op: u64, address: u64) -> Answer {
    let answer = match op {
        VERSION => Ok(host.release.version()),
        EXTRA_VERSION => text::<16>(caller, address, host.release.extra_version()),
        CAPABILITIES => text::<1024>(caller, address, "xen-3.0-x86_64 xen-3.0-x86_32p hvm-3.0-x86_64 "),
        PAGE => Ok(PAGE_SIZE as i64),
        _ => Err(Errno(libc::ENOSYS)),
    };
    host.note(format_args!("xen_version {op}: {answer:?}"));
    answer
}

/// Fills a buffer of `SIZE` with a text and zeros.
fn text<const SIZE: usize>(caller: Caller, address: u64, text: &str) -> Answer {
    let mut bytes = [0u8; SIZE];
    for (byte, &given) in bytes.iter_mut().zip(text.as_bytes()) {
        *byte = given;
    }
    caller.write_array(address, &bytes)?;
    Ok(0)
}
