//! What of a buffer is the kernel's.
#![forbid(unsafe_code)]

use super::super::netlink::{Netlink, Plug, Root};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// What of a buffer is the kernel's.
pub trait Network: Send {
    /// The number of a device; `None` where there is no such device.
    ///
    /// # Errors
    /// The system's.
    fn index(&mut self, device: &str) -> io::Result<Option<u32>>;

    /// Makes an IFB of this name, up.
    ///
    /// # Errors
    /// The kernel's.
    fn add_ifb(&mut self, name: &str) -> io::Result<()>;

    /// Removes a device.
    ///
    /// # Errors
    /// The kernel's.
    fn remove_link(&mut self, index: u32) -> io::Result<()>;

    /// Sets a device up or down.
    ///
    /// # Errors
    /// The kernel's.
    fn set_link(&mut self, index: u32, up: bool) -> io::Result<()>;

    /// Puts a plug qdisc at a device's root.
    ///
    /// # Errors
    /// The kernel's.
    fn add_plug(&mut self, index: u32, limit: u32) -> io::Result<()>;

    /// Orders the plug qdisc of this handle.
    ///
    /// # Errors
    /// The kernel's.
    fn plug(&mut self, index: u32, handle: u32, order: Plug) -> io::Result<()>;

    /// The qdisc at a device's root.
    ///
    /// # Errors
    /// The kernel's.
    fn root(&mut self, index: u32) -> io::Result<Root>;

    /// Removes the qdisc at a device's root.
    ///
    /// # Errors
    /// The kernel's.
    fn remove_root(&mut self, index: u32) -> io::Result<()>;

    /// Has what comes in at a device go out at another one.
    ///
    /// # Errors
    /// The kernel's. Nothing is left of it then.
    fn redirect(&mut self, index: u32, to: u32) -> io::Result<()>;

    /// Ends that.
    ///
    /// # Errors
    /// The kernel's.
    fn remove_redirect(&mut self, index: u32) -> io::Result<()>;
}

impl Network for Netlink {
    fn index(&mut self, device: &str) -> io::Result<Option<u32>> {
        match fs::read_to_string(Path::new("/sys/class/net").join(device).join("ifindex")) {
            Ok(text) => text.trim().parse().map(Some).map_err(|_| ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn add_ifb(&mut self, name: &str) -> io::Result<()> {
        Netlink::add_ifb(self, name)
    }

    fn remove_link(&mut self, index: u32) -> io::Result<()> {
        Netlink::remove_link(self, index)
    }

    fn set_link(&mut self, index: u32, up: bool) -> io::Result<()> {
        Netlink::set_up(self, index, up)
    }

    fn add_plug(&mut self, index: u32, limit: u32) -> io::Result<()> {
        Netlink::add_plug(self, index, limit)
    }

    fn plug(&mut self, index: u32, handle: u32, order: Plug) -> io::Result<()> {
        Netlink::plug(self, index, handle, order)
    }

    fn root(&mut self, index: u32) -> io::Result<Root> {
        Netlink::root(self, index)
    }

    fn remove_root(&mut self, index: u32) -> io::Result<()> {
        Netlink::remove_root(self, index)
    }

    fn redirect(&mut self, index: u32, to: u32) -> io::Result<()> {
        Netlink::redirect(self, index, to)
    }

    fn remove_redirect(&mut self, index: u32) -> io::Result<()> {
        Netlink::remove_redirect(self, index)
    }
}

/// What is not there need not be removed.
pub(super) fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed.as_ref().err().and_then(io::Error::raw_os_error) {
        Some(libc::ENODEV | libc::ENOENT | libc::EINVAL) => Ok(()),
        _ => removed,
    }
}
