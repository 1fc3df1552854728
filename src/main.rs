//! The `xen-replicate` program.

use std::process::ExitCode;

/// Changes of state are worth a line; of everything else what is wrong.
const FILTER: &str = "warn,xen_replicate::host=info,xen_replicate::replicate=info,xen_replicate::disk=info";

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(FILTER)).init();
    xen_replicate::cli::run()
}
