//! What libxl starts in place of its own `libxl-save-helper`: this project's libxc behind libxl's pipe, on this host's Xen.
//!
//! See `xl-plugin/README.md`, and `save_helper` of the library for what it does.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;
use xen_replicate::hypervisor::Domain;
use xen_replicate::hypervisor::xen::{Host, PFN_LIMIT, Use};
use xen_replicate::libxc::precopy::Limits;
use xen_replicate::save_helper::limits::{self, ENVIRONMENT, FOLDER};
use xen_replicate::save_helper::{Command, Failure, Flags, Opened, child_main, usage};
use xen_replicate::toolstack::store::Store;

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
        let domain = host.domain(command.domid())?;
        let live = match command {
            Command::Save(save) if save.flags.contains(Flags::LIVE) => live(&domain)?,
            _ => Limits::default(),
        };
        // Of an empty domain Xen does not say how far its memory may reach.
        Ok(Opened { xen: host.version(), domain, nr_pfns: Some(PFN_LIMIT), live })
    })
}

/// The limits that this host has for a live save of a domain.
fn live(domain: &impl Domain) -> Result<Limits, Failure> {
    let info = domain.info()?;
    // Without xenstore there are no names.
    let name = Store::open().and_then(|store| store.get(&format!("/local/domain/{}/name", info.domid)));
    let name = name.ok().flatten().unwrap_or_default();
    let told = std::env::var_os(ENVIRONMENT).map(|words| words.to_string_lossy().into_owned());
    Ok(limits::limits(Path::new(FOLDER), &[&name, &info.uuid.to_string()], told.as_deref())?)
}
