//! A suspend event channel, as guests of other kernels than Linux have it: a port that domain 0 may bind to, whose number is in xenstore.
//! An event has this guest's own kernel suspend it, by the key that domain 0 would else write to.

use crate::driver;
use std::ffi::{c_int, c_uint, c_ulong, c_void};
use std::fs::File;
use std::io::{Error, Read, Result, Write};
use std::os::fd::AsRawFd;

unsafe extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int;
}

/// `IOCTL_EVTCHN_BIND_UNBOUND_PORT` of Linux's `xen/evtchn.h`.
const BIND_UNBOUND_PORT: c_ulong = 0x0004_4502;
/// `XS_WRITE` of Xen's `io/xs_wire.h`.
const WRITE: u32 = 11;

/// Opens the channel, and serves it from a thread.
pub fn offer() -> Result<()> {
    driver::devices();
    driver::load("/xen-evtchn.ko")?;
    let open = |path| File::options().read(true).write(true).open(path);
    let (mut events, mut store) = (open("/dev/xen/evtchn")?, open("/dev/xen/xenbus")?);
    let mut domain: c_uint = 0;
    // SAFETY: the descriptor is open, and the request takes the number of a domain.
    let port = unsafe { ioctl(events.as_raw_fd(), BIND_UNBOUND_PORT, (&raw mut domain).cast()) };
    if port < 0 {
        return Err(Error::last_os_error());
    }
    write(&mut store, "device/suspend/event-channel", &port.to_string())?;
    std::thread::spawn(move || -> Result<()> {
        let mut port = [0; 4];
        loop {
            events.read_exact(&mut port)?;
            // The next is heard only when this one has been taken.
            events.write_all(&port)?;
            write(&mut store, "control/shutdown", "suspend")?;
        }
    });
    Ok(())
}

fn write(store: &mut File, path: &str, value: &str) -> Result<()> {
    let payload = [path.as_bytes(), b"\0", value.as_bytes()].concat();
    let header = [WRITE, 1, 0, payload.len() as u32].map(u32::to_ne_bytes);
    store.write_all(&[header.as_flattened(), &payload].concat())?;
    let mut answer = [[0; 4]; 4];
    store.read_exact(answer.as_flattened_mut())?;
    store.read_exact(&mut vec![0; u32::from_ne_bytes(answer[3]) as usize])
}
