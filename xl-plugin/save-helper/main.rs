//! What libxl starts in place of its own `libxl-save-helper`: this project's libxc behind libxl's pipe, on this host's Xen.
//!
//! See `xl-plugin/README.md`, and `save_helper` of the library for what it does.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use xen_replicate::hypervisor::xen::{Host, PFN_LIMIT, Use};
use xen_replicate::save_helper::{Command, Opened, child_main, usage};

/// Set to 1 where a domain is restored on a Xen that is newer than all that this version knows. xl passes it on.
const TRUST: &str = "XEN_REPLICATE_TRUST_XEN";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(text) = usage::answer(&arguments) {
        print!("{text}");
        return ExitCode::SUCCESS;
    }
    child_main(std::env::args_os().skip(1), |command| {
        let host = Host::open()?;
        host.admit(match command {
            Command::Save(_) => Use::Reading,
            Command::Restore(_) => Use::Writing { trusted: std::env::var_os(TRUST).is_some_and(|value| value == "1") },
        })?;
        // Of an empty domain Xen does not say how far its memory may reach.
        Ok(Opened { xen: host.version(), domain: host.domain(command.domid())?, nr_pfns: Some(PFN_LIMIT) })
    })
}
