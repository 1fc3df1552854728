//! `xen-replicate resume`: a domain that was left suspended, or with its output held, goes on.

use clap::Args as ClapArgs;
use std::io;

/// The command.
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct Args {
    /// The domain's name or number on this host
    domain: String,
    /// Let out what a `remus` that was killed has held of its output, too
    #[arg(long)]
    free_output: bool,
}

/// Runs the command. True when the domain runs.
pub(super) fn run(args: &Args) -> io::Result<bool> {
    use crate::hypervisor::RunState;
    let (identity, was) = crate::host::xen::resume(&args.domain).map_err(io::Error::other)?;
    let (name, domid) = (&identity.name, identity.domid);
    if args.free_output {
        let held = crate::host::xen::free_output(&args.domain).map_err(io::Error::other)?;
        println!("{name}: {}", if held { "its output leaves again" } else { "no output is held" });
    }
    match was {
        RunState::Suspended => println!("{name}: domain {domid} was suspended and runs again"),
        RunState::Running => println!("{name}: domain {domid} runs already"),
        RunState::Paused => println!("{name}: domain {domid} is paused, not suspended: `xl unpause {domid}`"),
        RunState::ShutDown => println!("{name}: domain {domid} is shut down: `xl destroy {domid}`, then `xl create`"),
    }
    Ok(matches!(was, RunState::Suspended | RunState::Running))
}
