//! The real hypervisor's backend where there is no hypervisor.

use std::error::Error as _;
use std::io::ErrorKind;
use std::path::Path;
use xen_replicate::hypervisor::xen::{Host, XenDomain};
use xen_replicate::hypervisor::{Error, RestoreDomain, SaveDomain};

/// Where Linux offers hypercalls to a control domain.
const PRIVCMD: [&str; 2] = ["/dev/xen/privcmd", "/proc/xen/privcmd"];

#[test]
fn without_xen_opening_fails_and_says_what_is_missing() {
    let there = PRIVCMD.iter().any(|path| Path::new(path).exists());
    let error = match Host::open() {
        Ok(_) => return assert!(there, "a hypervisor without a way to it"),
        Err(error) => error,
    };
    let Error::NoHypervisor { source } = &error else { panic!("{error:?}") };
    assert_eq!(source.kind() == ErrorKind::NotFound, !there, "{source}");
    assert!(error.to_string().contains("/dev/xen/privcmd"), "{error}");
    assert!(error.source().is_some());
}

#[test]
fn a_handle_can_do_what_a_primary_and_a_secondary_need() {
    fn primary<D: SaveDomain + Send + 'static>() {}
    fn secondary<D: RestoreDomain + SaveDomain + Send + 'static>() {}
    primary::<XenDomain>();
    secondary::<XenDomain>();
}
