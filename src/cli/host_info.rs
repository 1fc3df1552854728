//! `xen-replicate host-info`.

use crate::host_info::{HostInfo, Sources};
use clap::Args as ClapArgs;
use std::io::{self, Write};
use std::path::PathBuf;

/// Options of the command.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
One JSON object on standard output, for `verify --for FILE` and `diff`. What cannot be known has its reason in its place: \
that is no error. Exit codes: 0 done, 2 wrong usage, or nobody reads the output.")]
pub struct Args {
    /// Say what is at this path as well: a disk of the guest that is to come. Can be given several times
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The device model that guests get here; looked for otherwise
    #[arg(long, value_name = "PROGRAM")]
    qemu: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args) -> io::Result<bool> {
    let sources = Sources { qemu: args.qemu.clone(), ..Sources::default() };
    let info = HostInfo::gather(&sources, &args.paths);
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &info)?;
    writeln!(out)?;
    Ok(true)
}
