//! `libxenforeignmemory`: a domain's pages mapped into the caller.
//!
//! As the privcmd driver does, a mapping covers all pages asked for, and those that cannot be had stay without access. Frames that
//! lie next to each other in the guest's memory file are mapped in one go.
//!
//! privcmd enters pages into the page tables when it maps them. Those of a file in memory are entered as they are touched, in groups
//! of 16 by reads and one by one by writes. A mapping for writing, and one of few pages, is entered at once here too.

use crate::abi::xenmem;
use crate::call;
use crate::errno::{self, Errno, set};
use crate::grant::{self, GrantTable};
use crate::host::host;
use std::ffi::{c_int, c_uint, c_ulong, c_void};
use std::ptr::null_mut;
use xen_replicate::hypervisor::PAGE_SIZE;

/// Pages that Linux enters when one is read (`fault_around_bytes`).
const AROUND: usize = 16;

#[unsafe(no_mangle)]
extern "C" fn xenforeignmemory_open(_logger: *mut c_void, _flags: c_uint) -> *mut c_void {
    call::open()
}

#[unsafe(no_mangle)]
extern "C" fn xenforeignmemory_close(_fmem: *mut c_void) -> c_int {
    0
}

/// There is one domain to map: nothing to restrict.
#[unsafe(no_mangle)]
extern "C" fn xenforeignmemory_restrict(_fmem: *mut c_void, _domid: u16) -> c_int {
    refuse(Errno(libc::EOPNOTSUPP))
}

fn refuse(errno: Errno) -> c_int {
    set(errno);
    -1
}

/// # Safety
/// `frames` has `pages` frames; `errors` has room for as many numbers, or is null.
#[unsafe(no_mangle)]
unsafe extern "C" fn xenforeignmemory_map(
    fmem: *mut c_void,
    dom: u32,
    prot: c_int,
    pages: usize,
    frames: *const u64,
    errors: *mut c_int,
) -> *mut c_void {
    // SAFETY: by the contract of this function; the address is left to the kernel.
    unsafe { xenforeignmemory_map2(fmem, dom, null_mut(), prot, 0, pages, frames, errors) }
}

/// # Safety
/// As [`xenforeignmemory_map`]; and `address` with `MAP_FIXED` in `flags` names memory that the caller gives up.
#[unsafe(no_mangle)]
unsafe extern "C" fn xenforeignmemory_map2(
    _fmem: *mut c_void,
    dom: u32,
    address: *mut c_void,
    prot: c_int,
    flags: c_int,
    pages: usize,
    frames: *const u64,
    errors: *mut c_int,
) -> *mut c_void {
    // SAFETY: as many frames as the caller says, by the contract of this function.
    let frames = unsafe { std::slice::from_raw_parts(frames, pages) };
    let mut found = vec![0; pages];
    // SAFETY: the address and its flags are the caller's, by the contract of this function.
    let mapped = unsafe { map(dom, address, prot, flags, frames, &mut found) };
    if !errors.is_null() {
        // SAFETY: there is room for as many, by the contract of this function.
        unsafe { std::ptr::copy_nonoverlapping(found.as_ptr(), errors, pages) };
    }
    let failed = found.iter().copied().find(|&error| error != 0).filter(|_| errors.is_null());
    match (mapped, failed) {
        (Ok(mapped), None) => mapped,
        (Ok(mapped), Some(error)) => {
            // SAFETY: the whole of a mapping that nobody knows of yet.
            unsafe { libc::munmap(mapped, pages * PAGE_SIZE) };
            set(Errno(-error));
            null_mut()
        }
        (Err(errno), _) => {
            set(errno);
            null_mut()
        }
    }
}

/// Maps the frames, and puts 0 or a negative error number into `errors` for each.
///
/// # Safety
/// With `MAP_FIXED` in `flags` the memory at `address` is the caller's to give up.
unsafe fn map(
    dom: u32,
    address: *mut c_void,
    prot: c_int,
    flags: c_int,
    frames: &[u64],
    errors: &mut [c_int],
) -> Result<*mut c_void, Errno> {
    let mut host = host()?;
    host.may("map", 0)?;
    let machine = host.frames(dom)?;
    let writable = prot & libc::PROT_WRITE != 0;
    let pages: Vec<Option<usize>> = frames.iter().map(|&frame| machine.page(frame, writable).ok()).collect();
    let (file, bytes) = machine.file();
    drop(machine);
    if let (Some(kept), true) = (&host.kept, address.is_null())
        && let Some(place) = kept.place(&pages, writable)
    {
        return Ok(place);
    }
    let length = frames.len().checked_mul(PAGE_SIZE).filter(|&length| length > 0).ok_or(Errno(libc::EINVAL))?;
    let reserve = flags & libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: an address of the kernel's choice, or one that the caller gives up.
    let start = unsafe { libc::mmap(address, length, libc::PROT_NONE, reserve, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(errno::last());
    }
    let (mut index, mut runs) = (0, 0);
    while let Some(&page) = pages.get(index) {
        let Some(first) = page.filter(|&first| (first + 1) * PAGE_SIZE <= bytes) else {
            if let Some(error) = errors.get_mut(index) {
                *error = -libc::EINVAL;
            }
            index += 1;
            continue;
        };
        let run = pages.iter().skip(index).zip(first..).take_while(|&(&page, next)| page == Some(next)).count();
        let at = start.wrapping_byte_add(index * PAGE_SIZE);
        let at_once = if run < AROUND { libc::MAP_POPULATE } else { 0 };
        let (fixed, offset) = (libc::MAP_SHARED | libc::MAP_FIXED | at_once, (first * PAGE_SIZE) as libc::off_t);
        // SAFETY: the run lies within the range reserved above, which nobody else knows of yet.
        if unsafe { libc::mmap(at, run * PAGE_SIZE, prot, fixed, file, offset) } == libc::MAP_FAILED {
            let error = errno::last();
            // SAFETY: the range reserved above, whole.
            unsafe { libc::munmap(start, length) };
            return Err(error);
        }
        if run >= AROUND && prot & libc::PROT_WRITE != 0 {
            touch(at.cast(), run);
        }
        index += run;
        runs += 1;
    }
    host.note(format_args!("map of {} frames of domain {dom} in {runs} runs", frames.len()));
    Ok(start)
}

/// Reads of each group of pages that are entered together one byte, so that writing them finds them entered.
fn touch(start: *const u8, pages: usize) {
    let group = AROUND * PAGE_SIZE;
    let lead = start.addr().next_multiple_of(group) - start.addr();
    let firsts = std::iter::once(0).chain((lead..pages * PAGE_SIZE).step_by(group));
    for offset in firsts {
        // SAFETY: within a readable mapping that the caller has just made. What is read does not matter.
        unsafe { start.wrapping_add(offset).read_volatile() };
    }
}

/// # Safety
/// Nobody uses the mapping any more.
#[unsafe(no_mangle)]
unsafe extern "C" fn xenforeignmemory_unmap(_fmem: *mut c_void, address: *mut c_void, pages: usize) -> c_int {
    if host().is_ok_and(|host| host.kept.as_ref().is_some_and(|kept| kept.has(address))) {
        return 0;
    }
    // SAFETY: a mapping of the caller's that nobody uses, by the contract of this function.
    unsafe { libc::munmap(address, pages.saturating_mul(PAGE_SIZE)) }
}

/// The grant table's first frame is the only resource there is.
///
/// # Safety
/// `address` points to where the mapping's address goes.
#[unsafe(no_mangle)]
unsafe extern "C" fn xenforeignmemory_map_resource(
    _fmem: *mut c_void,
    domid: u16,
    kind: c_uint,
    id: c_uint,
    frame: c_ulong,
    frames: c_ulong,
    address: *mut *mut c_void,
    _prot: c_int,
    _flags: c_int,
) -> *mut c_void {
    let table = if (kind, id, frame, frames) == (xenmem::RESOURCE_GRANT_TABLE, grant::SHARED, 0, 1) {
        GrantTable::map(domid.into())
    } else {
        Err(Errno(libc::EINVAL))
    };
    match table {
        Ok(table) => {
            // SAFETY: there is room for an address, by the contract of this function.
            unsafe { *address = table.entries().cast() };
            Box::into_raw(Box::new(table)).cast()
        }
        Err(errno) => {
            set(errno);
            null_mut()
        }
    }
}

/// # Safety
/// `resource` is what [`xenforeignmemory_map_resource`] gave, once; nobody uses the mapping any more.
#[unsafe(no_mangle)]
unsafe extern "C" fn xenforeignmemory_unmap_resource(_fmem: *mut c_void, resource: *mut c_void) -> c_int {
    if resource.is_null() {
        return 0;
    }
    // SAFETY: a box that was turned into this pointer and comes back once, by the contract of this function.
    let table = unsafe { Box::from_raw(resource.cast::<GrantTable>()) };
    match table.unmap() {
        Ok(()) => 0,
        Err(errno) => refuse(errno),
    }
}

/// # Safety
/// `size` points to where the size goes.
#[unsafe(no_mangle)]
unsafe extern "C" fn xenforeignmemory_resource_size(
    _fmem: *mut c_void,
    _domid: u16,
    kind: c_uint,
    id: c_uint,
    size: *mut usize,
) -> c_int {
    if (kind, id) != (xenmem::RESOURCE_GRANT_TABLE, grant::SHARED) {
        return refuse(Errno(libc::EINVAL));
    }
    // SAFETY: there is room for a size, by the contract of this function.
    unsafe { *size = PAGE_SIZE };
    0
}
