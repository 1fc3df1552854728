//! `xen-replicate ctl`: asks a running side, tells it, and says what has come of it.

mod outcome;

use super::table::{Live, WIDTH, decisions, render};
use crate::control::status::Notice;
use crate::control::{self, Capability, Client, Reply, Request, Status};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use outcome::{Command, Judge, Outcome};
use std::io::{self, Error, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Milliseconds between two statuses while the outcome of a command is waited for.
const POLL: u64 = 20;

/// Options of the command.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The domain that is protected or received
    domain: String,
    #[command(subcommand)]
    action: Action,
    /// The control socket, where it is not at its usual place
    #[arg(long, value_name = "PATH", global = true)]
    control: Option<PathBuf>,
    /// Seconds that switch-over, protect, unprotect and fail-over may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400),
        global = true)]
    timeout: u64,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the state of protection, its figures and its last notices
    Status {
        /// Again every second, until it ends
        #[arg(long)]
        watch: bool,
        /// One JSON object a line, times in microseconds
        #[arg(long)]
        json: bool,
    },
    /// Say in one line whether the domain is protected and whether a failover would be possible: exit code 0 if so, 1 if not, 2 if
    /// nobody can be asked
    Check,
    /// Change the interval between checkpoints
    SetInterval {
        /// Milliseconds, 1 to 60000
        #[arg(value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
        ms: u64,
    },
    /// Hand the guest to the secondary, without loss
    SwitchOver,
    /// Take a secondary, while the guest runs
    Protect {
        /// Where it is, as in `xen-replicate remus`
        host: String,
        /// What reaches it, in place of what was given at the start
        #[arg(short = 's', long = "rsh", value_name = "RSH")]
        rsh: Option<String>,
        /// What is run there, in place of what was given at the start
        #[arg(long, value_name = "CMD")]
        remote_command: Option<String>,
    },
    /// Stop protecting and run on
    Unprotect {
        /// Without asking anybody, and even if this guest was ended: you vouch that no other copy of it is active or ever
        /// will be. Nothing checks that; if it is not so, two copies run and clients see both
        #[arg(long)]
        force: bool,
    },
    /// Go active in the primary's place
    FailOver {
        /// While the primary is heard: fail over all the same, the witness being asked and the fencing command run. Once it is
        /// lost, without witness and fencing: you vouch that the primary's guest is not running and never will be again.
        /// Nothing checks that; if it is not so, two copies run and clients see both
        #[arg(long)]
        force: bool,
        /// Of a side that was denied and keeps its replica: acquire the generation after N and start the guest from it. N is the
        /// newest generation, as `status` shows it; you vouch that no other host runs the domain and none will
        #[arg(long, value_name = "N", conflicts_with = "force", value_parser = clap::value_parser!(u64).range(1..u64::MAX))]
        force_generation: Option<u64>,
    },
    /// Free the replica of a side that was denied: another host runs the domain
    Drop,
    /// List what this side offers its peers, what is in use, and what sets it
    Capabilities,
    /// Switch a capability on or off; one that cannot be while running says what can be done instead
    SetCapability {
        /// Its name, or that of QEMU's micro-checkpointing
        name: String,
        /// on or off
        #[arg(value_enum)]
        to: Switch,
    },
}

/// What a capability can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Runs the command; false when it is refused or not done.
///
/// # Errors
/// No such socket, or no answer from it; those of writing.
pub fn run(args: &Args) -> io::Result<bool> {
    run_to(args, &mut io::stdout().lock())
}

fn run_to(args: &Args, out: &mut impl Write) -> io::Result<bool> {
    let path = match &args.control {
        Some(path) => path.clone(),
        None => control::default_path(&args.domain)?,
    };
    let site = Site { domain: &args.domain, path: &path, timeout: Duration::from_secs(args.timeout) };
    let wait = |request, command| site.command(&request, command);
    match &args.action {
        Action::Status { watch: false, json } => match site.ask(&Request::Status)?.and_then(|reply| reply.status) {
            Some(status) => show(&status, *json, out).map(|()| true),
            None => Ok(false),
        },
        Action::Status { watch: true, json } => site.watch(*json, out).map(|()| true),
        Action::Check => match site.ask(&Request::Status)?.and_then(|reply| reply.status) {
            Some(status) => {
                let (well, text) = check(&status);
                writeln!(out, "{}: {text}", args.domain).map(|()| well)
            }
            None => Ok(false),
        },
        Action::Capabilities => match site.ask(&Request::Capabilities)?.and_then(|reply| reply.capabilities) {
            Some(list) => write_capabilities(&list, out).map(|()| true),
            None => Ok(false),
        },
        Action::SetCapability { name, to } => {
            let request = Request::SetCapability { name: name.clone(), on: *to == Switch::On };
            // The one that takes time.
            if name == "mc" && *to == Switch::Off {
                return wait(request, Command::Unprotect);
            }
            Ok(site.ask(&request)?.is_some())
        }
        &Action::SetInterval { ms } => Ok(site.ask(&Request::SetInterval { ms })?.is_some()),
        Action::SwitchOver => wait(Request::SwitchOver, Command::SwitchOver),
        Action::Protect { host, rsh, remote_command } => {
            let request = Request::Protect { host: host.clone(), rsh: rsh.clone(), remote: remote_command.clone() };
            wait(request, Command::Protect)
        }
        &Action::Unprotect { force } => wait(Request::Unprotect { force }, Command::Unprotect),
        &Action::FailOver { force, force_generation: generation } => {
            wait(Request::FailOver { force, generation }, Command::FailOver)
        }
        Action::Drop => Ok(site.ask(&Request::Drop)?.is_some()),
    }
}

/// Who is asked, and how long.
struct Site<'a> {
    domain: &'a str,
    path: &'a Path,
    timeout: Duration,
}

impl Site<'_> {
    /// Connects to the side that has the domain: a socket that was named by its path may be another's.
    fn connect(&self) -> io::Result<Client> {
        let mut client = Client::connect(self.path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                let (domain, path) = (self.domain, self.path.display());
                Error::new(error.kind(), format!("no xen-replicate is running for domain {domain} (socket {path})"))
            }
            _ => self.named(error),
        })?;
        let reply = client.request(&Request::Status).map_err(|error| self.named(error))?;
        let Some(status) = reply.status else {
            return Err(self.named(Error::other(reply.error.unwrap_or_else(|| "a reply without a status".into()))));
        };
        if !status.domain.is_empty() && status.domain != self.domain {
            let text = format!("belongs to domain {}, not to {}", status.domain, self.domain);
            return Err(self.named(Error::new(ErrorKind::InvalidInput, text)));
        }
        Ok(client)
    }

    fn named(&self, error: Error) -> Error {
        Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }

    /// The answer; none when it is a refusal, which has been told then.
    fn ask(&self, request: &Request) -> io::Result<Option<Reply>> {
        let reply = self.connect()?.request(request).map_err(|error| self.named(error))?;
        if !reply.ok {
            self.say(&format!("refused: {}", reply.error.as_deref().unwrap_or("without a reason")));
        }
        Ok(reply.ok.then_some(reply))
    }

    fn watch(&self, json: bool, out: &mut impl Write) -> io::Result<()> {
        let watch = self.connect()?.watch(None).map_err(|error| self.named(error))?;
        let terminal = io::IsTerminal::is_terminal(&io::stdout());
        let mut live = Live::new(out, terminal);
        for status in watch {
            let status = status.map_err(|error| self.named(error))?;
            if json { show(&status, true, live.out())? } else { live.show(&status)? }
        }
        self.say("it has ended");
        Ok(())
    }

    /// Gives a command and waits for what comes of it.
    fn command(&self, request: &Request, command: Command) -> io::Result<bool> {
        let give_up = Instant::now() + self.timeout;
        // Opened first: should the other end go as soon as it is done, its last status comes here all the same.
        let mut watch = self.connect()?.watch(Some(POLL)).map_err(|error| self.named(error))?;
        let mut last = match watch.next() {
            Some(before) => before.map_err(|error| self.named(error))?,
            None => {
                return Err(self.named(Error::new(ErrorKind::UnexpectedEof, "the server has closed the connection")));
            }
        };
        let given = Instant::now();
        if self.ask(request)?.is_none() {
            return Ok(false);
        }
        let mut judge = Judge::new(command, &last);
        let ended = loop {
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break format!("not done within {} s", self.timeout.as_secs());
            }
            watch.set_timeout(left)?;
            match watch.next() {
                None => break "the other end has gone before it was done".into(),
                Some(Err(error)) if error.kind() == ErrorKind::TimedOut => continue,
                Some(Err(error)) => return Err(self.named(error)),
                Some(Ok(status)) => last = status,
            }
            match judge.judge(&last) {
                Outcome::Open => {}
                Outcome::Done => return Ok(true),
                Outcome::Failed => break "not done".into(),
            }
        };
        self.say(&format!("{ended}; it is in phase {}", last.phase));
        for text in said_since(&last, given.elapsed()) {
            self.say(&format!("it says: {text}"));
        }
        Ok(false)
    }

    fn say(&self, text: &str) {
        let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        eprintln!("xen-replicate: domain {}: {clean}", self.domain);
    }
}

/// What a side has said since then, oldest first: why a command came to nothing, as far as it knows. Its last word where it has said
/// nothing.
fn said_since(status: &Status, since: Duration) -> Vec<&str> {
    let recent = |notice: &&Notice| Duration::from_millis(notice.age_ms) <= since;
    let said: Vec<_> = status.notices.iter().filter(recent).map(|notice| notice.text.as_str()).collect();
    if said.is_empty() { status.notices.last().map(|notice| notice.text.as_str()).into_iter().collect() } else { said }
}

/// Whether all is well with a side, and what is to be said of it in one line.
fn check(status: &Status) -> (bool, String) {
    let protected = if status.protected { "protected" } else { "UNPROTECTED" };
    let (phase, generation) = (&status.phase, status.generation);
    match &status.alarm {
        Some(alarm) => (false, format!("{protected}, {phase}, generation {generation}; ALARM: {alarm}")),
        None => (status.protected, format!("{protected}, {phase}, generation {generation}")),
    }
}

fn show(status: &Status, json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        writeln!(out, "{}", serde_json::to_string(status)?)
    } else {
        out.write_all(render(status, WIDTH).as_bytes())?;
        out.write_all(decisions(status).as_bytes())
    }
}

fn write_capabilities(list: &[Capability], out: &mut impl Write) -> io::Result<()> {
    let head = ["NAME", "IN QEMU'S MC", "OFFERED", "IN USE", "SET BY"];
    let [name, mc, offered, in_use, option] = head;
    writeln!(out, "{name:<16}{mc:<16}{offered:<9}{in_use:<8}{option:<34}MEANING")?;
    for capability in list {
        let word = |yes| if yes { "yes" } else { "no" };
        let (offered, in_use) = (word(capability.offered), word(capability.in_use));
        let Capability { name, option, meaning, .. } = capability;
        let mc = capability.mc_name.as_deref().unwrap_or("-");
        writeln!(out, "{name:<16}{mc:<16}{offered:<9}{in_use:<8}{option:<34}{meaning}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
