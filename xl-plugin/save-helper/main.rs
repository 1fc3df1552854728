//! `xen-replicate-save-helper`: what libxl starts in place of its own save helper when `LIBXL_SAVE_HELPER` names it.

use std::process::ExitCode;
use xen_replicate::hypervisor::xen::{Host, PFN_LIMIT};
use xen_replicate::save_helper::{Opened, child_main};

fn main() -> ExitCode {
    child_main(std::env::args_os().skip(1), |command| {
        let host = Host::open()?;
        Ok(Opened { xen: host.version()?, domain: host.domain(command.domid())?, nr_pfns: Some(PFN_LIMIT) })
    })
}
