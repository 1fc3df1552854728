//! What is open towards the hypervisor, which hypervisor that is, and how its calls fail.
#![allow(unsafe_code)]

use super::abi::{self, Op, Plain, domctl, hypercall, sysctl, xenver};
use super::buffer::Buffer;
use super::library::{Foreign, Handle};
use super::open::Open;
use super::quirks::{self, Quirks};
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::XenVersion;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Versions of the domctl interface that are tried: Xen 4.14's, and 16 more.
const DOMCTL_VERSIONS: Range<u32> = quirks::OLDEST_DOMCTL..quirks::OLDEST_DOMCTL + 17;
/// Versions of the sysctl interface that are tried: Xen 4.14's, and 16 more.
const SYSCTL_VERSIONS: Range<u32> = 0x13..0x13 + 17;
/// Whom a question about the host is about, in messages: the domain that the toolstack is in.
pub(super) const HOST: u32 = 0;
/// How often a call whose buffers the kernel may move is repeated when Xen could not reach them, as libxenctrl does.
const EFAULT_RETRIES: u32 = 2;

/// Access to this host's hypervisor: libxencall and libxenforeignmemory, open, and what Xen behind them is. Clones share it.
#[derive(Clone)]
pub(in crate::hypervisor::xen) struct Interface {
    open: Arc<Open>,
    version: XenVersion,
    /// The update of that release.
    update: u32,
    domctl: u32,
}

impl fmt::Debug for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Interface(Xen {}, domctl {:#x})", self.version, self.domctl)
    }
}

/// The version of an interface that a Xen takes, by asking: a request of another one gets EACCES, and does nothing. The one that its release
/// has is tried first.
fn by_trial(
    xen: XenVersion,
    expected: Option<u32>,
    versions: Range<u32>,
    mut ask: impl FnMut(u32) -> Result<()>,
) -> Result<u32> {
    let mut refused = None;
    for version in expected.into_iter().chain(versions.filter(|&version| Some(version) != expected)) {
        match ask(version) {
            Ok(()) => return Ok(version),
            Err(Error::Hypercall { source, .. }) if source.raw_os_error() == Some(libc::EACCES) => {
                refused = Some(source)
            }
            Err(error) => return Err(error),
        }
    }
    let source = refused.unwrap_or_else(|| io::ErrorKind::PermissionDenied.into());
    Err(Error::OtherInterface { xen, source })
}

impl Interface {
    /// Opens the libraries and finds out which Xen this is. The first thing that is asked with privilege is a domctl.
    ///
    /// # Errors
    /// [`Error::NoHypervisor`] where there is no Xen, in a guest, and without privilege; [`Error::NoLibrary`], [`Error::OldLibrary`];
    /// [`Error::OtherInterface`] for a Xen whose domctls are of no version that is known here.
    pub(in crate::hypervisor::xen) fn open() -> Result<Self> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return Err(Error::Unsupported { backend: "xen", what: "anything but x86-64 Linux" });
        }
        let mut interface =
            Interface { open: Arc::new(Open::new()?), version: XenVersion::default(), update: 0, domctl: 0 };
        interface.version = interface.ask_version()?;
        interface.domctl = interface.find_domctl(0)?;
        interface.update = quirks::update_of(&interface.extra_version()?);
        Ok(interface)
    }

    /// Which Xen this is.
    pub(in crate::hypervisor::xen) const fn version(&self) -> XenVersion {
        self.version
    }

    /// The version of its domctls.
    pub(in crate::hypervisor::xen) const fn domctl_version(&self) -> u32 {
        self.domctl
    }

    /// What differs in this Xen from others.
    pub(in crate::hypervisor::xen) fn quirks(&self) -> Quirks {
        Quirks::of(self.version, self.update, self.domctl)
    }

    fn ask_version(&self) -> Result<XenVersion> {
        // SAFETY: the handle is open, and this question has no argument.
        let version = unsafe {
            (self.open.calls.call2)(self.open.call, hypercall::XEN_VERSION, xenver::VERSION.number.into(), 0)
        };
        match u32::try_from(version) {
            Ok(version) => Ok(XenVersion { major: version >> 16, minor: version & 0xffff }),
            // The device is there and the hypercall is not: a guest, or no privilege.
            Err(_) => Err(Error::NoHypervisor { source: io::Error::last_os_error() }),
        }
    }

    /// The version of domctls that this Xen takes. What is asked is who a domain is; that there is none is an answer too.
    fn find_domctl(&mut self, domid: u32) -> Result<u32> {
        by_trial(self.version, quirks::domctl_of(self.version), DOMCTL_VERSIONS, |version| {
            self.domctl = version;
            match self.domctl(domctl::GET_DOMAIN_INFO, domid, &mut abi::DomainInfo::default()) {
                Err(Error::Hypercall { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                answer => answer,
            }
        })
    }

    /// Judges what a call returned whose failure is a negative number and an errno. To be called before anything else can change errno.
    pub(super) fn judge(&self, op: Op, domid: u32, returned: i64) -> Result<u64> {
        let source = || io::Error::last_os_error();
        u64::try_from(returned).map_err(|_| self.failure(op, domid, source()))
    }

    /// The error of a call.
    pub(super) const fn failure(&self, op: Op, domid: u32, source: io::Error) -> Error {
        Error::Hypercall { call: op.name, domid, xen: Some(self.version), source }
    }

    /// Has Xen answer a domctl whose own part has no address in it.
    pub(super) fn domctl<T: Plain>(&self, op: Op, domid: u32, body: &mut T) -> Result<()> {
        // SAFETY: by what this function is for. A number that Xen takes for an address is not memory of ours: the callers, all in this
        // folder, give structures with addresses to the other one.
        unsafe { self.domctl_with_addresses(op, domid, body, &mut []) }
    }

    /// Has Xen answer a domctl. The buffers that the structure leads to are borrowed for the call.
    ///
    /// # Safety
    /// Each address in `body` is 0, or that of one of `buffers`, which has room for what the rest of the structure says that there is.
    pub(super) unsafe fn domctl_with_addresses<T: Plain>(
        &self,
        op: Op,
        domid: u32,
        body: &mut T,
        buffers: &mut [&mut Buffer],
    ) -> Result<()> {
        const { assert!(size_of::<T>() <= abi::DOMCTL_BODY) };
        let _borrowed = buffers;
        let domain = self.domain(op, domid)?;
        let head = abi::Domctl { cmd: op.number, interface_version: self.domctl, domain, ..Default::default() };
        let mut argument = self.buffer_with(&[head])?;
        argument.put_at(std::mem::offset_of!(abi::Domctl, u), std::slice::from_ref(body));
        let mut tries = 0;
        loop {
            let address = argument.address();
            // SAFETY: the handle is open, the address is that of a whole structure in hypercall memory, and what that leads to is as the
            // caller says.
            let returned = unsafe { (self.open.calls.call1)(self.open.call, hypercall::DOMCTL, address) };
            match self.judge(op, domid, returned.into()) {
                Ok(_) => break,
                Err(Error::Hypercall { source, .. })
                    if op == domctl::GET_PAGE_FRAME_INFO
                        && source.raw_os_error() == Some(libc::EFAULT)
                        && tries < EFAULT_RETRIES
                        && !self.never_faults() =>
                {
                    tries += 1;
                }
                Err(error) => {
                    // Some commands say in their structure what it is that they refuse.
                    argument.get_at(std::mem::offset_of!(abi::Domctl, u), std::slice::from_mut(body));
                    return Err(error);
                }
            }
        }
        argument.get_at(std::mem::offset_of!(abi::Domctl, u), std::slice::from_mut(body));
        Ok(())
    }

    /// The version of sysctls that this Xen takes. What is asked is how large a policy can be.
    pub(super) fn find_sysctl(&self) -> Result<u32> {
        by_trial(self.version, quirks::sysctl_of(self.version), SYSCTL_VERSIONS, |version| {
            let mut sizes = abi::SysctlCpuPolicy { index: abi::cpu_policy::HOST, ..Default::default() };
            // SAFETY: both addresses are 0: without buffers only the sizes are told.
            unsafe { self.sysctl_with_addresses(sysctl::GET_CPU_POLICY, version, &mut sizes, &mut []) }
        })
    }

    /// Has Xen answer a sysctl of a version. The buffers that the structure leads to are borrowed for the call.
    ///
    /// # Safety
    /// As [`Interface::domctl_with_addresses`].
    pub(super) unsafe fn sysctl_with_addresses<T: Plain>(
        &self,
        op: Op,
        version: u32,
        body: &mut T,
        buffers: &mut [&mut Buffer],
    ) -> Result<()> {
        const { assert!(size_of::<T>() <= abi::SYSCTL_BODY) };
        let _borrowed = buffers;
        let head = abi::Sysctl { cmd: op.number, interface_version: version, ..Default::default() };
        let mut argument = self.buffer_with(&[head])?;
        argument.put_at(std::mem::offset_of!(abi::Sysctl, u), std::slice::from_ref(body));
        let address = argument.address();
        // SAFETY: the handle is open, the address is that of a whole structure in hypercall memory, and what that leads to is as the
        // caller says.
        let returned = unsafe { (self.open.calls.call1)(self.open.call, hypercall::SYSCTL, address) };
        self.judge(op, HOST, returned.into())?;
        argument.get_at(std::mem::offset_of!(abi::Sysctl, u), std::slice::from_mut(body));
        Ok(())
    }

    /// A hypercall of a number and a structure, with an answer of as many bits as this host's library has room for.
    ///
    /// # Safety
    /// `argument` has the structure of the operation, in which each address is 0 or that of a hypercall buffer that is borrowed mutably
    /// and has room for what the rest of the structure says that there is.
    pub(super) unsafe fn call2(&self, number: u32, op: Op, domid: u32, argument: &mut Buffer) -> Result<u64> {
        let address = argument.address();
        // SAFETY: the handle is open; for the rest the caller answers.
        let returned = unsafe {
            match self.open.calls.call2_long {
                Some(call) => call(self.open.call, number, op.number.into(), address),
                None => (self.open.calls.call2)(self.open.call, number, op.number.into(), address).into(),
            }
        };
        self.judge(op, domid, returned)
    }

    /// `mmuext_op`.
    ///
    /// # Safety
    /// `list` has `count` operations, in which no address is.
    pub(super) unsafe fn mmuext(&self, op: Op, domid: u32, list: &mut Buffer, count: u64) -> Result<()> {
        let address = list.address();
        // SAFETY: the handle is open; for the rest the caller answers. Nobody is told how many were done.
        let returned =
            unsafe { (self.open.calls.call4)(self.open.call, hypercall::MMUEXT_OP, address, count, 0, domid.into()) };
        self.judge(op, domid, returned.into())?;
        Ok(())
    }

    /// A domain's number as Xen's structures have it.
    pub(super) fn domain(&self, op: Op, domid: u32) -> Result<u16> {
        let none = |_| self.failure(op, domid, io::Error::from_raw_os_error(libc::ESRCH));
        u16::try_from(domid).map_err(none)
    }

    /// libxenforeignmemory, with its handle, which is open.
    pub(super) fn foreign(&self) -> (&'static Foreign, Handle) {
        (self.open.foreign, self.open.memory)
    }

    fn never_faults(&self) -> bool {
        // SAFETY: the handle is open.
        unsafe { (self.open.calls.never_fault)(self.open.call) != 0 }
    }

    /// Memory for hypercalls: room for so many bytes at least, zeroed.
    pub(in crate::hypervisor::xen) fn buffer(&self, bytes: usize) -> Result<Buffer> {
        Buffer::new(&self.open, bytes)
    }

    /// The same, with these values in it.
    pub(super) fn buffer_with<T: Plain>(&self, values: &[T]) -> Result<Buffer> {
        Buffer::with(&self.open, values)
    }
}
