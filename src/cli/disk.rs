//! `xen-replicate disk`: the daemons of replicated disks, and the operator's way to them.

use super::endpoint;
use crate::disk::control::{Client, Request, Role, Status, file_name, folder};
use crate::disk::daemon::{Begin, Daemon, Options};
use crate::disk::{Device, Error};
use crate::replicate::signals::Signals;
use crate::transport::Address;
use clap::{Args as ClapArgs, Subcommand};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Where the daemons keep their state.
const STATE: &str = "/var/lib/xen-replicate/disks";
/// What has the kernel's device appear.
const NBD_CLIENT: &str = r#"nbd-client -unix "$XEN_REPLICATE_SOCKET" "$XEN_REPLICATE_DEVICE""#;

/// The command.
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Serve a guest's disk, and send what is written to a keeper on another host
    Serve {
        /// The keeper: unix:PATH, tcp:ADDR:PORT or exec:COMMAND; `disk to` sets another one
        #[arg(long, value_name = "WHERE")]
        to: Option<String>,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Keep a copy of another host's disk, and serve it after a failover
    Keep {
        /// Where the primary connects to: unix:PATH or tcp:ADDR:PORT
        #[arg(long, value_name = "WHERE")]
        listen: String,
        /// Let the copy take the place of what the image has now
        #[arg(long)]
        overwrite: bool,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Say how a disk is on this host
    Status {
        /// The guest's device
        device: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Set the keeper of a disk that is served here
    To {
        /// The guest's device
        device: String,
        /// unix:PATH, tcp:ADDR:PORT or exec:COMMAND
        address: String,
    },
    /// Put a copy into service at its newest committed checkpoint: for when the host of its guest is lost, and `receive` too
    Promote {
        /// The guest's device
        device: String,
    },
}

#[derive(Debug, Clone, ClapArgs)]
struct DaemonArgs {
    /// A raw file or a block device with the disk's content, of the same size on both hosts
    image: PathBuf,
    /// The guest's device, the same on both hosts: /dev/nbdN, or nbd:unix:PATH for QEMU
    #[arg(long, value_name = "DEVICE")]
    device: String,
    /// Where NBD is served [default: the path in nbd:unix:PATH, else beside the control sockets]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Where the state, and a keeper's epochs, are kept [default: a folder of the device's name in /var/lib/xen-replicate/disks]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// What has the guest's device appear once the disk is served, for sh; empty for nothing [default: nbd-client for /dev/nbdN]
    #[arg(long, value_name = "CMD")]
    attach: Option<String>,
    /// Most MiB of writes that wait for the keeper; the guest's next write waits then
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    buffer: u64,
    /// Most MiB of writes between a commit and the next that a keeper keeps apart
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    journal: u64,
    /// Seconds that a keeper may take to answer, or to take bytes, before it counts as gone
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=50))]
    patience: u64,
    /// Whatever the image was before, a copy or in service, give that up
    #[arg(long)]
    anew: bool,
    /// Let TCP leave this machine, to private addresses, unencrypted
    #[arg(long, hide = true)]
    allow_private: bool,
}

fn usage(text: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.to_string())
}

impl DaemonArgs {
    fn options(&self) -> io::Result<Options> {
        let device = device(&self.device)?;
        let own = device.socket().map(PathBuf::from);
        let socket = match self.socket.clone().or(own) {
            Some(socket) => socket,
            None => folder().map_err(io::Error::other)?.join(format!("{}.nbd", file_name(device.name()))),
        };
        let folder = self.state.clone().unwrap_or_else(|| PathBuf::from(STATE).join(file_name(device.name())));
        let attach =
            self.attach.clone().unwrap_or_else(|| if device.is_kernels() { NBD_CLIENT.into() } else { String::new() });
        Ok(Options {
            image: std::path::absolute(&self.image)?,
            device,
            socket,
            folder,
            attach,
            buffer: usize::try_from(self.buffer << 20).map_err(usage)?,
            journal: self.journal << 20,
            patience: Duration::from_secs(self.patience),
            anew: self.anew,
            overwrite: false,
        })
    }
}

pub(super) fn device(text: &str) -> io::Result<Device> {
    Device::of(text).ok_or_else(|| usage(format_args!("{text:?} is neither /dev/nbdN nor nbd:unix:PATH")))
}

/// Runs the command.
pub(super) fn run(args: &Args) -> io::Result<bool> {
    match &args.command {
        Command::Serve { to, daemon } => {
            let to = to.as_ref().map(|to| Address::parse(to, daemon.allow_private)).transpose().map_err(usage)?;
            stay(daemon.options()?, Begin::Serve(to))
        }
        Command::Keep { listen, overwrite, daemon } => {
            let at = endpoint::listen(listen, daemon.allow_private).map_err(usage)?;
            stay(Options { overwrite: *overwrite, ..daemon.options()? }, Begin::Keep(at))
        }
        Command::Status { device, json } => {
            let status = call(device)?.status().map_err(io::Error::other)?;
            let mut out = io::stdout().lock();
            if *json {
                serde_json::to_writer(&mut out, &status)?;
                writeln!(out)?;
            } else {
                out.write_all(table(&status).as_bytes())?;
            }
            Ok(true)
        }
        Command::To { device, address } => tell(device, &Request::To { address: address.clone() }),
        Command::Promote { device } => tell(device, &Request::Promote { mark: None }),
    }
}

/// Is a daemon until it is told to end.
fn stay(options: Options, begin: Begin) -> io::Result<bool> {
    let (told, end) = channel();
    let _signals = Signals::install(
        move |signal| {
            log::warn!("{signal}: ending");
            let _ = told.send(());
        },
        true,
    )?;
    let (daemon, _asked) = Daemon::start(options, begin).map_err(io::Error::other)?;
    // The sender is the signals' own.
    let _ = end.recv();
    daemon.sync().map_err(io::Error::other)?;
    Ok(true)
}

fn call(text: &str) -> io::Result<Client> {
    let device = device(text)?;
    let called = Client::call(device.name()).map_err(io::Error::other)?;
    called.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{device}: no daemon on this host")))
}

fn tell(device: &str, request: &Request) -> io::Result<bool> {
    match call(device)?.ask(request) {
        Ok(_) => Ok(true),
        Err(Error::Told(text)) => {
            eprintln!("xen-replicate: {text}");
            Ok(false)
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

fn table(status: &Status) -> String {
    let role = match status.role {
        Role::Primary => "in service",
        Role::Keeper => "a copy",
    };
    let mark = |mark: Option<crate::disk::Mark>| mark.map_or("none".into(), |mark| mark.to_string());
    let connected = if status.connected { "connected" } else { "NOT CONNECTED" };
    let peer = status.peer.as_deref().map(|peer| format!(", keeper {peer}")).unwrap_or_default();
    let mut text = format!(
        "{}: {role}, {}, {} %\nimage        {}, {} bytes\nother side   {connected}{peer}\ncheckpoint   newest {}, committed {}\n\
         waiting      {} bytes\n",
        status.device,
        status.phase,
        status.percent,
        status.image,
        status.size,
        mark(status.newest),
        mark(status.committed),
        status.waiting,
    );
    if let Some(trouble) = &status.trouble {
        text.push_str(&format!("trouble      {}\n", trouble.replace(|c: char| c.is_control(), "?")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn options(arguments: &[&str]) -> io::Result<Options> {
        let line = ["disk", "serve", "/image"].iter().chain(arguments);
        match Line::try_parse_from(line).map_err(usage)?.args.command {
            Command::Serve { daemon, .. } => daemon.options(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_options_are_sound_and_the_defaults_follow_the_device() {
        Line::command().debug_assert();
        let kernels = options(&["--device=/dev/nbd3"]).unwrap();
        assert!(kernels.socket.ends_with("disks/dev%2fnbd3.nbd") && kernels.attach.starts_with("nbd-client"));
        assert_eq!(kernels.folder, PathBuf::from(STATE).join("dev%2fnbd3"));
        assert_eq!((kernels.buffer, kernels.journal, kernels.patience), (64 << 20, 1 << 30, Duration::from_secs(10)));
        let qemus = options(&["--device=nbd:unix:/run/web.nbd"]).unwrap();
        assert_eq!((qemus.socket, qemus.attach), (PathBuf::from("/run/web.nbd"), String::new()));
        let told = options(&["--device=/dev/nbd0", "--attach=", "--socket=/s", "--state=/d"]).unwrap();
        assert_eq!((told.socket, told.folder, told.attach), ("/s".into(), "/d".into(), String::new()));
    }

    #[test]
    fn other_devices_and_empty_bounds_are_refused() {
        for device in
            ["/dev/sda", "/dev/nbd", "/dev/nbd0p1", "nbd:unix:web", "nbd:tcp:1", "nbd:unix:/a:exportname=x", ""]
        {
            assert!(options(&["--device", device]).unwrap_err().to_string().contains("/dev/nbdN"), "{device}");
        }
        for bound in ["--buffer=0", "--journal=0", "--patience=0", "--patience=51"] {
            assert!(options(&["--device=/dev/nbd0", bound]).is_err(), "{bound}");
        }
    }
}
