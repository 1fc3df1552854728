//! `libxencall`: hypercalls, and buffers for their arguments.

use crate::abi::{Multicall, hypercall};
use crate::caller::Caller;
use crate::errno::{Answer, Errno, set};
use crate::host::{self, Host, host};
use crate::{domctl, hvm, memory, mmu, sysctl, version};
use std::collections::HashMap;
use std::ffi::{c_int, c_long, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};
use xen_replicate::hypervisor::PAGE_SIZE;

/// What the handles of the three libraries point to. There is nothing behind them: the one host is the process's.
static HANDLE: u8 = 0;

/// Opens any of the three libraries.
pub fn open() -> *mut c_void {
    // The driver of a test may not let anybody in.
    let opened = if host::open() { host().and_then(|mut host| host.may("open", 0)) } else { Err(Errno(libc::ENODEV)) };
    match opened {
        Ok(()) => (&raw const HANDLE).cast_mut().cast(),
        Err(errno) => {
            set(errno);
            null_mut()
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn xencall_open(_logger: *mut c_void, _flags: c_uint) -> *mut c_void {
    open()
}

#[unsafe(no_mangle)]
extern "C" fn xencall_close(_xcall: *mut c_void) -> c_int {
    0
}

/// There is no descriptor behind the library.
#[unsafe(no_mangle)]
extern "C" fn xencall_fd(_xcall: *mut c_void) -> c_int {
    -1
}

/// # Safety
/// As [`Caller::new`].
unsafe fn hypercall(op: c_uint, args: [u64; 5]) -> c_long {
    // SAFETY: by the contract of this function.
    let caller = unsafe { Caller::new() };
    match host().and_then(|mut host| dispatch(&mut host, caller, op, args)) {
        Ok(value) => value,
        Err(errno) => {
            set(errno);
            -1
        }
    }
}

fn dispatch(host: &mut Host, caller: Caller, op: u32, args: [u64; 5]) -> Answer {
    let [first, second, _, fourth, _] = args;
    match op {
        hypercall::DOMCTL => domctl::call(host, caller, first),
        hypercall::SYSCTL => sysctl::call(host, caller, first),
        hypercall::MEMORY_OP => memory::call(host, caller, first, second),
        hypercall::MMUEXT_OP => mmu::call(host, caller, first, second, fourth),
        hypercall::HVM_OP => hvm::call(host, caller, first, second),
        hypercall::XEN_VERSION => version::call(host, caller, first, second),
        hypercall::MULTICALL => multicall(host, caller, first, second),
        _ => {
            host.note(format_args!("hypercall {op} {args:x?}: not known"));
            Err(Errno(libc::ENOSYS))
        }
    }
}

/// Several hypercalls in turn; each has its result in its own entry.
fn multicall(host: &mut Host, caller: Caller, list: u64, count: u64) -> Answer {
    for index in 0..count {
        let at = list.wrapping_add(index.wrapping_mul(size_of::<Multicall>() as u64));
        let mut entry: Multicall = caller.read(at)?;
        let [a, b, c, d, e, _] = entry.args;
        let op = u32::try_from(entry.op).ok().filter(|&op| op != hypercall::MULTICALL);
        let answer = op.ok_or(Errno(libc::ENOSYS)).and_then(|op| dispatch(host, caller, op, [a, b, c, d, e]));
        entry.result = match answer {
            Ok(value) => value,
            Err(Errno(number)) => -i64::from(number),
        } as u64;
        caller.write(at, entry)?;
    }
    Ok(0)
}

/// A hypercall function with so many arguments.
macro_rules! xencall {
    ($($name:ident: $result:ty = [$($arg:ident),*] $($zero:literal)*;)*) => {$(
        /// # Safety
        /// The arguments are as Xen's interface has them.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(_xcall: *mut c_void, op: c_uint $(, $arg: u64)*) -> $result {
            // SAFETY: the caller keeps Xen's interface.
            unsafe { hypercall(op, [$($arg,)* $($zero),*]) as $result }
        }
    )*};
}

xencall! {
    xencall0: c_int = [] 0 0 0 0 0;
    xencall1: c_int = [a] 0 0 0 0;
    xencall2: c_int = [a, b] 0 0 0;
    xencall2L: c_long = [a, b] 0 0 0;
    xencall3: c_int = [a, b, c] 0 0;
    xencall4: c_int = [a, b, c, d] 0;
    xencall5: c_int = [a, b, c, d, e];
}

/// Bytes of the buffers that are out, by address.
static BUFFERS: Mutex<Option<HashMap<usize, usize>>> = Mutex::new(None);

/// Small buffers that came back, by address, with their bytes: most calls need one or two of the same few sizes again.
static SPARE: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// The most spare buffers, and the most bytes of each.
const MOST_SPARE: (usize, usize) = (4, 4 * PAGE_SIZE);

/// A spare buffer of so many bytes.
fn spare(bytes: usize) -> Option<usize> {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    let index = spare.iter().position(|&(_, size)| size == bytes)?;
    Some(spare.swap_remove(index).0)
}

fn allocate(bytes: usize) -> *mut c_void {
    let bytes = bytes.max(1).next_multiple_of(PAGE_SIZE);
    let mut buffers = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
    let buffers = buffers.get_or_insert_default();
    if let Some(address) = spare(bytes) {
        buffers.insert(address, bytes);
        let address: *mut c_void = std::ptr::with_exposed_provenance_mut(address);
        // SAFETY: a mapping of this size that this function made and `free` took back: nobody uses it.
        unsafe { std::ptr::write_bytes(address.cast::<u8>(), 0, bytes) };
        return address;
    }
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
    let address = unsafe { libc::mmap(null_mut(), bytes, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return null_mut();
    }
    buffers.insert(address.expose_provenance(), bytes);
    address
}

/// # Safety
/// Nobody uses the buffer any more.
unsafe fn free(address: *mut c_void) {
    let mut buffers = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bytes) = buffers.get_or_insert_default().remove(&address.addr()) {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MOST_SPARE.0 && bytes <= MOST_SPARE.1 {
            spare.push((address.addr(), bytes));
            return;
        }
        // SAFETY: this is a whole mapping of `allocate`'s, and nobody uses it, by the contract of this function.
        unsafe { libc::munmap(address, bytes) };
    }
}

#[unsafe(no_mangle)]
extern "C" fn xencall_alloc_buffer(_xcall: *mut c_void, size: usize) -> *mut c_void {
    allocate(size)
}

#[unsafe(no_mangle)]
extern "C" fn xencall_alloc_buffer_pages(_xcall: *mut c_void, pages: usize) -> *mut c_void {
    allocate(pages.saturating_mul(PAGE_SIZE))
}

/// # Safety
/// Nobody uses the buffer any more.
#[unsafe(no_mangle)]
unsafe extern "C" fn xencall_free_buffer(_xcall: *mut c_void, buffer: *mut c_void) {
    // SAFETY: by the contract of this function.
    unsafe { free(buffer) }
}

/// # Safety
/// Nobody uses the buffer any more.
#[unsafe(no_mangle)]
unsafe extern "C" fn xencall_free_buffer_pages(_xcall: *mut c_void, buffer: *mut c_void, _pages: usize) {
    // SAFETY: by the contract of this function.
    unsafe { free(buffer) }
}

/// Nothing here moves or swaps a buffer away from under a hypercall.
#[unsafe(no_mangle)]
extern "C" fn xencall_buffers_never_fault(_xcall: *mut c_void) -> c_int {
    1
}
