//! The kernel's modules and device files, for the guest's parts that need them.

use std::ffi::{c_char, c_int, c_long, c_ulong, c_void};
use std::fs::File;
use std::io::Result;
use std::os::fd::AsRawFd;

unsafe extern "C" {
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn syscall(number: c_long, fd: c_int, parameters: *const c_char, flags: c_int) -> c_long;
}

/// `finit_module` of x86-64.
const FINIT_MODULE: c_long = 313;

/// Has the kernel show its devices in `/dev`.
pub fn devices() {
    // SAFETY: all are strings that end; the last is not looked at.
    unsafe { mount(c"devtmpfs".as_ptr(), c"/dev".as_ptr(), c"devtmpfs".as_ptr(), 0, std::ptr::null()) };
}

/// Loads a module of the initrd; one that is there already is none the worse for it.
pub fn load(path: &str) -> Result<()> {
    let module = File::open(path)?;
    // SAFETY: the descriptor is open and the parameters are an empty string.
    unsafe { syscall(FINIT_MODULE, module.as_raw_fd(), c"".as_ptr(), 0) };
    Ok(())
}
