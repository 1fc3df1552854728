//! `xen-replicate receive`: what it can be told.

use super::endpoint::{Endpoint, Reach, parse_fds};
use super::protection::{MOST_MIB, ProtectionArgs, ms};
use crate::remus::Config;
use clap::Args as ClapArgs;
use std::io;
use std::path::PathBuf;

/// Options of the command: the other half of `remus`. It takes `-e` and `-r` as `xl migrate-receive` does, so that it can stand
/// in its place.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Stay in the foreground; accepted for compatibility, for it always does
    #[arg(short = 'e', long)]
    pub foreground: bool,
    /// Receive checkpoints; accepted for compatibility, for it always does
    #[arg(short = 'r', long)]
    pub remus: bool,
    /// Wait for primaries there, one after the other: unix:PATH or tcp:ADDR:PORT [default: standard input and output]
    #[arg(long, value_name = "WHERE", conflicts_with = "fd")]
    pub listen: Option<String>,
    /// Use these descriptors, the first to read and the second to write
    #[arg(long, value_name = "R,W")]
    pub fd: Option<String>,
    /// The primary is a stock xl remus: send xl's banner, and read a bare stream
    #[arg(long)]
    pub bare: bool,
    /// Most MiB of a checkpoint that is kept until it is whole; a larger one is refused
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=MOST_MIB))]
    pub memory_budget: u64,
    /// Refuse every other domain; also names the control socket before the stream does
    #[arg(long, value_name = "NAME")]
    pub domain: Option<String>,
    /// Keep the migration-v2 stream as it was received
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// End when the primary leaves, instead of listening for the next
    #[arg(long)]
    pub once: bool,
    /// Milliseconds from one checkpoint to the next, for when this side has become the primary
    #[arg(long, value_name = "MS", default_value_t = ms(Config::default().interval),
        value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub interval: u64,
    /// What both sides can be told.
    #[command(flatten)]
    pub protection: ProtectionArgs,
}

/// Where the stream comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Standard input and output.
    Stdio,
    /// Two inherited descriptors.
    Fds(Endpoint),
    /// A Unix or TCP socket to listen at.
    Listen(Endpoint),
}

impl Args {
    /// Checks what the options need of each other, and gives the machine's settings.
    ///
    /// # Errors
    /// What is wrong, with the option's name.
    pub fn config(&self) -> Result<Config, String> {
        self.protection.config(self.interval, self.bare)
    }

    /// Where the stream comes from.
    ///
    /// # Errors
    /// What is wrong, with the option's name.
    pub fn source(&self) -> Result<Source, String> {
        match (&self.listen, &self.fd) {
            (Some(text), _) => Endpoint::parse_listen(text, self.protection.allow_private)
                .map(Source::Listen)
                .map_err(|error| format!("--listen: {error}")),
            (None, Some(text)) => parse_fds(text).map(Source::Fds).map_err(|error| format!("--fd: {error}")),
            (None, None) => Ok(Source::Stdio),
        }
    }

    /// The way to another host, for `ctl protect` once this side is the primary. What it does not say has the default.
    ///
    /// # Errors
    /// The host is of none of its forms.
    pub fn endpoint_of(&self, host: &str, ssh: Option<&str>, remote: Option<&str>) -> Result<Endpoint, String> {
        let default = Reach { private: self.protection.allow_private, ..Reach::default() };
        let reach = Reach { ssh: ssh.unwrap_or(default.ssh), remote: remote.unwrap_or(default.remote), ..default };
        Endpoint::parse(host, &reach)
    }

    /// Octets of a checkpoint that is kept until it is whole.
    pub const fn memory_budget(&self) -> u64 {
        self.memory_budget << 20
    }

    /// Whether a domain of this name is taken.
    pub fn takes(&self, domain: &str) -> bool {
        self.domain.as_deref().is_none_or(|only| only == domain)
    }

    /// Where the control socket is to be, as far as that is known: from --control, from --domain, or from the domain's name
    /// in the stream once that has come. None: nowhere, or not known.
    ///
    /// # Errors
    /// As for [`crate::control::default_path`].
    pub fn control_path(&self, streamed: Option<&str>) -> io::Result<Option<PathBuf>> {
        match self.domain.as_deref().or(streamed) {
            Some(domain) => self.protection.control_path(domain),
            None if self.protection.no_control => Ok(None),
            None => Ok(self.protection.control.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remus::Rule;
    use clap::{CommandFactory, Parser};
    use std::path::Path;
    use std::time::Duration;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(args: &[&str]) -> Result<Args, String> {
        let line = ["receive"].iter().chain(args);
        let args = Line::try_parse_from(line).map_err(|error| error.to_string())?.args;
        args.config()?;
        args.source().map(|_| args)
    }

    #[track_caller]
    fn refused(args: &[&str], parts: &[&str]) {
        let error = parse(args).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{args:?}: {error}");
    }

    #[test]
    fn the_options_are_sound_and_the_defaults_known() {
        Line::command().debug_assert();
        let args = parse(&[]).unwrap();
        assert_eq!(args.config(), Ok(Config::default()));
        assert_eq!(args.source(), Ok(Source::Stdio));
        assert_eq!(args.memory_budget(), 1 << 30);
        assert!(args.takes("web") && !args.bare && !args.once && args.record.is_none());
    }

    #[test]
    fn it_takes_what_xl_passes() {
        let args = parse(&["-r", "-e"]).unwrap();
        assert!(args.remus && args.foreground);
        let long = parse(&["--remus", "--foreground"]).unwrap();
        assert_eq!(format!("{args:?}"), format!("{long:?}"));
    }

    #[test]
    fn the_source_is_one_of_three() {
        let source = |args: &[&str]| parse(args).unwrap().source().unwrap();
        assert_eq!(source(&["--listen=unix:/x"]), Source::Listen(Endpoint::Unix("/x".into())));
        assert_eq!(source(&["--fd=3,3"]), Source::Fds(Endpoint::Fds { read: 3, write: 3 }));
        assert!(matches!(source(&["--listen=tcp:127.0.0.1:0"]), Source::Listen(Endpoint::Tcp(_))));
        assert!(matches!(source(&["--listen=tcp:10.0.0.1:0", "--allow-private"]), Source::Listen(Endpoint::Tcp(_))));
        refused(&["--listen=tcp:10.0.0.1:0"], &["--listen", "10.0.0.1"]);
        refused(&["--listen=host"], &["--listen"]);
        refused(&["--fd=3"], &["--fd"]);
        refused(&["--fd=3,4", "--listen=unix:/x"], &["--fd", "--listen"]);
        refused(&["host"], &["unexpected"]);
    }

    #[test]
    fn the_settings_are_those_of_both_sides_and_its_own() {
        let all = ["--bare", "--interval=20", "--witness=/w", "--fence=true", "--timeout=2000", "--memory-budget=3"];
        let args = parse(&all).unwrap();
        let config = args.config().unwrap();
        assert_eq!((config.rule, config.fence, config.bare), (Rule::Witness, true, true));
        assert_eq!((config.interval, config.timeout), (Duration::from_millis(20), Duration::from_secs(2)));
        assert_eq!(args.memory_budget(), 3 << 20);
        refused(&["--interval=0"], &["--interval"]);
        refused(&["--memory-budget=0"], &["--memory-budget"]);
        refused(&["--rule=witness"], &["--rule witness"]);
        refused(&["--longest=5"], &["--adaptive"]);
        refused(&["-i", "5"], &["-i"]);
    }

    #[test]
    fn the_domain_names_the_socket_and_refuses_others() {
        let args = parse(&["--domain=web", "--once", "--record=/r"]).unwrap();
        assert!(args.takes("web") && !args.takes("db") && args.once);
        assert!(args.control_path(Some("db")).unwrap().unwrap().ends_with("web.sock"));
        let args = parse(&[]).unwrap();
        assert_eq!(args.control_path(None).unwrap(), None);
        assert!(args.control_path(Some("db")).unwrap().unwrap().ends_with("db.sock"));
        let args = parse(&["--control=/c"]).unwrap();
        for streamed in [None, Some("db")] {
            assert_eq!(args.control_path(streamed).unwrap().as_deref(), Some(Path::new("/c")));
        }
        assert_eq!(parse(&["--no-control", "--domain=web"]).unwrap().control_path(None).unwrap(), None);
        let way = args.endpoint_of("b", None, Some("other")).unwrap();
        assert_eq!(way, Endpoint::Command("exec ssh b other".into()));
    }
}
