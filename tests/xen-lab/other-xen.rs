//! A library for LD_PRELOAD, that makes this host's Xen one of another version: what a program asks of it by the control interfaces is
//! marked as being of a version that this Xen does not know, and Xen refuses it.
//!
//! Source: `struct privcmd_hypercall` of Linux's `xen/privcmd.h`; numbers of hypercalls in Xen's `public/xen.h`; `struct xen_sysctl` and
//! `struct xen_domctl`, which begin with a command and the interface's version, in `public/sysctl.h` and `public/domctl.h`.

use std::ffi::{c_int, c_long, c_ulong};

/// `IOCTL_PRIVCMD_HYPERCALL`.
const HYPERCALL: c_ulong = 0x30_5000;
/// `__HYPERVISOR_sysctl` and `__HYPERVISOR_domctl`.
const CONTROL: [u64; 2] = [35, 36];
/// `SYS_ioctl` of x86-64.
const SYS_IOCTL: c_long = 16;

#[repr(C)]
pub struct Hypercall {
    op: u64,
    arguments: [u64; 5],
}

unsafe extern "C" {
    fn syscall(number: c_long, fd: c_int, request: c_ulong, argument: *mut Hypercall) -> c_long;
}

/// In the place of libc's.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut Hypercall) -> c_int {
    if request == HYPERCALL {
        // SAFETY: this request's argument is such a structure, and the first argument of these hypercalls points to theirs.
        unsafe {
            if CONTROL.contains(&(*argument).op) {
                let version = ((*argument).arguments[0] as *mut u32).add(1);
                version.write(version.read() ^ 0x80);
            }
        }
    }
    // SAFETY: as the caller has it.
    unsafe { syscall(SYS_IOCTL, fd, request, argument) as c_int }
}
