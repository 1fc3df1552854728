//! `xen-replicate remus`: what it can be told.

use super::Exit;
use super::endpoint::{self, Reach, SSH_COMMAND};
use super::protection::{ProtectionArgs, SIMULATED, ms};
use crate::colo::Mode;
use crate::host::Protection;
use crate::host::claim::{self, Found, Started};
use crate::host::colo::Lockstep;
use crate::host::operator::Desk;
use crate::host::primary::Job;
use crate::hypervisor::Uuid;
use crate::hypervisor::sim::SimConfig;
use crate::remus::{Config, Generation};
use crate::replicate::primary::Ending;
use crate::transport::Address;
use clap::Args as ClapArgs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Options of the command. The one-letter options, their meanings and their conflicts are those of `xl remus`
/// (`tools/xl/xl_cmdtable.c` and `main_remus` in `tools/xl/xl_migrate.c`). Of one that is given again the last counts, as for xl.
#[derive(Debug, Clone, ClapArgs)]
#[command(args_override_self = true)]
pub struct Args {
    /// The domain to protect
    pub domain: String,
    /// The host that is to keep a copy: a name for SSHCOMMAND, unix:PATH, tcp:ADDR:PORT, fd:R,W or exec:COMMAND
    pub host: String,

    /// Milliseconds from one checkpoint to the next; 0 is the default, as for xl [default: 200]
    #[arg(short, long, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub interval: Option<u64>,
    /// No compression; accepted for compatibility, for a migration-v2 stream has none
    #[arg(short = 'u', long)]
    pub no_compression: bool,
    /// What reaches HOST, for sh; if empty, HOST itself is the command that is run
    #[arg(short = 's', long, value_name = "SSHCOMMAND", default_value = SSH_COMMAND)]
    pub ssh_command: String,
    /// Have the receiver stay in the foreground: -e is passed to it
    #[arg(short = 'e', long)]
    pub foreground_receiver: bool,
    /// The script that sets up network buffering; the simulated guest's card needs none
    #[arg(short = 'N', long, value_name = "SCRIPT")]
    pub netbuf_script: Option<String>,
    /// Allow -b, -n and -d, which can make a fail-over inconsistent
    #[arg(short = 'F', long = "unsafe")]
    pub allow_unsafe: bool,
    /// Write the checkpoints to nowhere, for measurements; needs -F
    #[arg(short, long)]
    pub blackhole: bool,
    /// Do not buffer the guest's output: after a fail-over, clients may know what the guest does not; needs -F
    #[arg(short = 'n', long)]
    pub no_network_buffer: bool,
    /// Do not replicate disks; needs -F
    #[arg(short = 'd', long)]
    pub no_disk_replication: bool,
    /// Lock-step (COLO): the guest runs on both hosts, and a checkpoint is taken when the two send different things
    #[arg(short, long, conflicts_with_all = ["blackhole", "no_network_buffer", "no_disk_replication"])]
    pub colo: bool,
    /// Milliseconds from one checkpoint of COLO's to the next at most; needs -c
    #[arg(long, value_name = "MS", default_value_t = ms(Lockstep::default().period), requires = "colo",
        value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub period: u64,
    /// Milliseconds that a packet of one guest waits for the other's before they count as different; needs -c
    #[arg(long, value_name = "MS", default_value_t = ms(Lockstep::default().patience), requires = "colo",
        value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub patience: u64,
    /// The copy stands still between COLO's checkpoints, and all output waits for the next; xl has no such mode; needs -c
    #[arg(long, requires = "colo")]
    pub periodic: bool,
    /// COLO's proxy in user space, which a simulated guest's card needs none of; passed on to the receiver; needs -c
    #[arg(short = 'p', long)]
    pub userspace_proxy: bool,

    /// What is run on HOST: for a stock receiver, "xl migrate-receive -r" together with --allow-bare [default: xen-replicate
    /// receive, with what both sides must agree on; with --allow-bare a host without it gets the stock command]
    #[arg(long, value_name = "CMD")]
    pub remote_command: Option<String>,
    /// Serve a receiver that knows no acknowledgements, as xl remus does, and at the price that has
    #[arg(long)]
    pub allow_bare: bool,
    /// End, as xl remus does, when protection ends, instead of waiting for `ctl protect`
    #[arg(long)]
    pub once: bool,
    /// Run the domain here although N, the newest generation, is another host's, or nobody knows whose; only where no other host runs it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..u64::MAX))]
    pub force_generation: Option<u64>,
    /// Seconds that the guest may take to acknowledge a request to suspend, and to follow it
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub suspend_timeout: u64,
    /// The simulated guest: a JSON object, or @FILE with one; what is left out has its default, the name is DOMAIN
    #[arg(long, value_name = "JSON|@FILE", help_heading = SIMULATED, hide = true)]
    pub sim: Option<String>,
    /// What both sides can be told.
    #[command(flatten)]
    pub protection: ProtectionArgs,
}

impl Args {
    /// Checks what the options need of each other, and gives the machine's settings.
    ///
    /// # Errors
    /// What is wrong, with the option's name.
    pub fn config(&self) -> Result<Config, String> {
        for (given, option) in [
            (self.blackhole, "-b (--blackhole)"),
            (self.no_network_buffer, "-n (--no-network-buffer)"),
            (self.no_disk_replication, "-d (--no-disk-replication)"),
        ] {
            if given && !self.allow_unsafe {
                return Err(format!("{option} needs -F (--unsafe)"));
            }
        }
        if self.userspace_proxy && !self.colo {
            return Err("-p (--userspace-proxy) needs -c (--colo)".into());
        }
        // As to xl, an interval of 0 is none.
        if self.colo && self.interval.is_some_and(|interval| interval > 0) {
            return Err("-c (--colo) cannot be used with -i (--interval): see --period".into());
        }
        if self.protection.fence.is_some() {
            return Err("--fence is the secondary's, which runs it before it goes active: give it to receive".into());
        }
        if self.force_generation.is_some() && self.protection.witness.is_none() {
            return Err("--force-generation needs --witness, whose newest generation it overrides".into());
        }
        // A write to nowhere is acknowledged by nobody.
        let config = self.protection.config(self.interval(), self.allow_bare || self.blackhole)?;
        Ok(Config { unheld: self.no_network_buffer, ..config })
    }

    /// Milliseconds from one checkpoint to the next.
    pub fn interval(&self) -> u64 {
        self.interval.filter(|&interval| interval > 0).unwrap_or(ms(Config::default().interval))
    }

    /// What COLO is to do, if it is asked for.
    pub fn lockstep(&self) -> Option<Lockstep> {
        let mode = if self.periodic { Mode::Periodic } else { Mode::LockStep };
        let (period, patience) = (Duration::from_millis(self.period), Duration::from_millis(self.patience));
        self.colo.then_some(Lockstep { mode, period, patience })
    }

    /// What is run on HOST unless the operator says otherwise.
    fn ours(&self) -> Result<String, String> {
        let mut more = String::new();
        if self.colo {
            more.push_str(" --colo");
            if let Some(script) = &self.netbuf_script {
                more.push_str(&format!(" --coloft-script {}", endpoint::quoted(script)));
            }
            if self.userspace_proxy {
                more.push_str(" --userspace-colo-proxy");
            }
        }
        if self.no_disk_replication {
            more.push_str(" --any-disks");
        }
        self.protection.remote_command_with(&self.domain, &more, self.allow_bare && !self.colo)
    }

    /// The way to HOST, or to nowhere with -b.
    ///
    /// # Errors
    /// HOST is of none of its forms.
    pub fn endpoint(&self) -> Result<Address, String> {
        if self.blackhole { Ok(Address::Null) } else { self.endpoint_of(&self.host, None, None) }
    }

    /// The way to another host, for `ctl protect`: what it does not say is as it was here.
    ///
    /// # Errors
    /// The host is of none of its forms.
    pub fn endpoint_of(&self, host: &str, ssh: Option<&str>, remote: Option<&str>) -> Result<Address, String> {
        let ours = self.ours()?;
        endpoint::host(
            host,
            &Reach {
                ssh: ssh.unwrap_or(&self.ssh_command),
                remote: remote.or(self.remote_command.as_deref()).unwrap_or(&ours),
                foreground: self.foreground_receiver,
                private: self.protection.allow_private,
            },
        )
    }

    /// Decides whether the domain may run here, by the witness and what was found. Says why, where it may not.
    ///
    /// # Errors
    /// As [`claim::start`].
    pub(super) fn claim(&self, protection: &mut Protection, found: Found, desk: &Desk) -> io::Result<Start> {
        protection.holder.uuid = Some(found.uuid.clone());
        match claim::start(protection, &found, desk)? {
            Started::Runs(generation) => Ok(Ok(generation)),
            Started::Superseded(text) => {
                eprintln!("xen-replicate: {text}");
                Ok(Err(Exit::Superseded))
            }
            Started::Unknown(text) => {
                eprintln!("xen-replicate: {text}");
                Ok(Err(Exit::Unknown))
            }
        }
    }

    /// The domain as it is found here.
    pub(super) fn found(&self, uuid: &Uuid, output_left: bool, stays: String, give_up: String) -> Found {
        let force = self.force_generation.map(Generation);
        Found { uuid: uuid.to_string(), output_left, force, stays, give_up, again: again(std::env::args().skip(1)) }
    }

    /// What is to be done with the guest that has this configuration, by the newest generation that it holds.
    ///
    /// # Errors
    /// Options of no use.
    pub(super) fn job(
        &self,
        protection: Protection,
        generation: Generation,
        config: String,
        libxc: crate::libxc::save::Options,
    ) -> io::Result<Job> {
        let usage = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let resolving = self.clone();
        Ok(Job {
            generation,
            to: Some(self.endpoint().map_err(usage)?),
            resolve: Box::new(move |host, ssh, remote| resolving.endpoint_of(host, ssh, remote)),
            pacing: self.protection.pacing().map_err(usage)?,
            staging_limit: self.protection.staging_limit(),
            config,
            libxc,
            disks: Vec::new(),
            once: self.once,
            failpoints: self.protection.failpoints().map_err(usage)?,
            protection,
        })
    }

    /// The command that has this host keep a replica of the domain.
    pub(super) fn become_secondary(&self) -> String {
        let domain = endpoint::quoted(&self.domain);
        let witness = self.protection.witness.as_ref().map(|folder| endpoint::quoted(&folder.to_string_lossy()));
        let witness = witness.map(|folder| format!(" --witness {folder}")).unwrap_or_default();
        let sim = if self.protection.is_xens() { "" } else { " --backend sim" };
        format!("xen-replicate receive --domain {domain}{sim}{witness} --listen unix:/run/{domain}.link")
    }

    /// The simulated guest.
    ///
    /// # Errors
    /// The file cannot be read, or the values make no sense.
    pub fn sim_config(&self) -> Result<SimConfig, String> {
        let named = |error: &dyn std::fmt::Display| format!("--sim: {error}");
        let mut config: SimConfig = match &self.sim {
            None => SimConfig::default(),
            Some(text) => match text.strip_prefix('@') {
                None => serde_json::from_str(text).map_err(|error| named(&error))?,
                Some(file) => {
                    let named = |error: &dyn std::fmt::Display| format!("--sim: {file}: {error}");
                    let text = std::fs::read_to_string(Path::new(file)).map_err(|error| named(&error))?;
                    serde_json::from_str(&text).map_err(|error| named(&error))?
                }
            },
        };
        config.name.clone_from(&self.domain);
        config.check().map_err(|error| named(&error))?;
        Ok(config)
    }
}

/// The generation that a start may go on with, or what the command ends with.
type Start = Result<Generation, Exit>;

/// A command line as it can be pasted, with `--force-generation` behind its name: the halves before and after the number.
fn again(typed: impl Iterator<Item = String>) -> (String, String) {
    let (mut before, mut after) = ("xen-replicate".to_owned(), String::new());
    let mut typed = typed.enumerate();
    while let Some((index, word)) = typed.next() {
        if word == "--force-generation" {
            typed.next();
        } else if index == 0 {
            before = format!("{before} {} --force-generation ", endpoint::quoted(&word));
        } else if !word.starts_with("--force-generation=") {
            after = format!("{after} {}", endpoint::quoted(&word));
        }
    }
    (before, after)
}

/// Whether the guest is gone from here, as the exit code has it.
pub(super) const fn is_gone(how: Ending) -> bool {
    match how {
        Ending::SwitchedOver | Ending::Fenced => true,
        Ending::Stopped | Ending::Unprotected | Ending::Abandoned => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remus::Rule;
    use crate::remus::pacing::Target;
    use clap::{CommandFactory, Parser};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// The arguments before `web host-b`; what clap refuses and what [`Args::config`] refuses alike.
    fn parse(args: &[&str]) -> Result<Args, String> {
        let line = ["remus"].iter().chain(args).chain(&["web", "host-b"]);
        let args = Line::try_parse_from(line).map_err(|error| error.to_string())?.args;
        args.config().map(|_| args)
    }

    #[track_caller]
    fn refused(args: &[&str], parts: &[&str]) {
        let error = parse(args).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{args:?}: {error}");
    }

    #[test]
    fn the_options_are_sound_and_the_defaults_xls() {
        Line::command().debug_assert();
        let args = parse(&[]).unwrap();
        assert_eq!((args.domain.as_str(), args.host.as_str()), ("web", "host-b"));
        assert_eq!(args.config(), Ok(Config::default()));
        let expected = "exec ssh host-b 'xen-replicate receive --domain web --rule manual'";
        assert_eq!(args.endpoint(), Ok(Address::Command(expected.into())));
        assert_eq!(args.sim_config(), Ok(SimConfig { name: "web".into(), ..SimConfig::default() }));
        assert_eq!(args.protection.pacing(), Ok(None));
        assert_eq!(args.protection.backend().steps.map(|steps| steps.get()), Some(2000));
        assert_eq!(args.protection.staging_limit(), 1 << 30);
        assert_eq!(args.protection.fence_timeout(), Duration::from_secs(30));
        assert_eq!(args.lockstep(), None);
        let without_host = Line::try_parse_from(["remus", "web"]).unwrap_err();
        assert!(without_host.to_string().contains("HOST"));
    }

    #[test]
    fn every_letter_of_xl_and_its_long_name() {
        let letters = parse(&["-i", "50", "-ue", "-s", "ssh -v", "-N", "script", "-Fbnd"]).unwrap();
        let long = parse(&[
            "--interval=50",
            "--no-compression",
            "--foreground-receiver",
            "--ssh-command=ssh -v",
            "--netbuf-script=script",
            "--unsafe",
            "--blackhole",
            "--no-network-buffer",
            "--no-disk-replication",
        ])
        .unwrap();
        assert_eq!(format!("{letters:?}"), format!("{long:?}"));
        assert!(letters.no_compression && letters.foreground_receiver && letters.allow_unsafe);
        assert!(letters.blackhole && letters.no_network_buffer && letters.no_disk_replication);
        assert_eq!(letters.netbuf_script.as_deref(), Some("script"));
        assert_eq!(letters.endpoint(), Ok(Address::Null));
        let config = letters.config().unwrap();
        assert_eq!((config.interval, config.bare), (Duration::from_millis(50), true));
        let colo = parse(&["-cpu"]).unwrap();
        assert_eq!(format!("{colo:?}"), format!("{:?}", parse(&["-u", "--colo", "--userspace-proxy"]).unwrap()));
        assert_eq!(colo.lockstep(), Some(Lockstep::default()));
    }

    #[test]
    fn zero_is_xls_default_interval() {
        assert_eq!(parse(&["-i0"]).unwrap().config().unwrap().interval, Duration::from_millis(200));
        refused(&["-i", "60001"], &["--interval"]);
        refused(&["-i", "x"], &["--interval"]);
    }

    #[test]
    fn an_empty_ssh_command_runs_the_host_itself() {
        let args = parse(&["-s", "", "-e"]).unwrap();
        assert_eq!(args.endpoint(), Ok(Address::Command("host-b".into())));
        let args = parse(&["-e", "--remote-command", "xl migrate-receive -r", "--allow-bare"]).unwrap();
        assert!(args.config().unwrap().bare);
        let expected = "exec ssh host-b xl migrate-receive -r -e";
        assert_eq!(args.endpoint(), Ok(Address::Command(expected.into())));
        let expected = "exec rsh c other -e";
        let other = args.endpoint_of("c", Some("rsh"), Some("other"));
        assert_eq!(other, Ok(Address::Command(expected.into())));
    }

    #[test]
    fn a_host_without_this_program_gets_the_stock_command_where_that_is_allowed() {
        let args = parse(&["--allow-bare", "-e"]).unwrap();
        let Ok(Address::Command(command)) = args.endpoint() else { panic!("no command") };
        // What the remote shell is given when ssh is a program that prints it.
        let run = |program: &str| {
            let folder = tempfile::tempdir().unwrap();
            let ssh = "shift; exec sh -c \"$*\"";
            let said = "#!/bin/sh\necho ${0##*/} \"$@\"\n";
            for (name, text) in [("ssh", &*format!("#!/bin/sh\n{ssh}\n")), (program, said)] {
                let path = folder.path().join(name);
                std::fs::write(&path, text).unwrap();
                std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            }
            let sh = std::process::Command::new("/bin/sh")
                .args(["-c", &format!("PATH={}:/bin:/usr/bin; {command}", folder.path().display())])
                .output()
                .unwrap();
            String::from_utf8(sh.stdout).unwrap()
        };
        assert_eq!(run("xl"), "xl migrate-receive -r -e\n");
        assert_eq!(run("xen-replicate"), "xen-replicate receive --domain web --rule manual -e\n");
        let colo = parse(&["--allow-bare", "-c"]).unwrap().endpoint();
        assert!(matches!(colo, Ok(Address::Command(command)) if !command.contains("migrate-receive")));
    }

    #[test]
    fn of_an_option_that_is_given_again_the_last_counts() {
        let args = parse(&["-i", "50", "-F", "-n", "--once", "-i60", "-Fn", "--once"]).unwrap();
        assert_eq!(args.interval(), 60);
        assert!(args.once && args.allow_unsafe && args.no_network_buffer);
    }

    #[test]
    fn conflicts_and_needs_are_xls() {
        for letter in ["-b", "-n", "-d"] {
            refused(&[letter], &[letter, "-F"]);
            parse(&["-F", letter]).unwrap();
            refused(&["-c", "-F", letter], &["--colo", "cannot be used with"]);
        }
        refused(&["-c", "-i", "200"], &["--colo", "--interval"]);
        // To xl no interval is none.
        parse(&["-c", "-i", "0"]).unwrap();
        for alone in [&["--periodic"][..], &["--period=900"], &["--patience=9"]] {
            refused(alone, &["--colo"]);
        }
        refused(&["-c", "--period=9"], &["--period"]);
        refused(&["-p"], &["-p", "-c"]);
        parse(&["-c"]).unwrap();
    }

    #[test]
    fn rule_and_witness_go_together() {
        let rule = |args: &[&str]| parse(args).unwrap().config().unwrap().rule;
        assert_eq!(rule(&["--witness", "/w"]), Rule::Witness);
        assert_eq!(rule(&["--witness", "/w", "--rule", "witness"]), Rule::Witness);
        assert_eq!(rule(&["--rule", "manual"]), Rule::Manual);
        assert_eq!(rule(&["--rule", "primary-wins"]), Rule::PrimaryWins);
        refused(&["--rule", "primary-wins", "--fence", "true"], &["--fence", "receive"]);
        refused(&["--rule", "witness"], &["--rule witness", "--witness"]);
        refused(&["--rule", "manual", "--witness", "/w"], &["--witness", "--rule manual"]);
        refused(&["--rule", "primary-wins", "--witness", "/w"], &["--witness", "--rule primary-wins"]);
        refused(&["--rule", "dice"], &["--rule"]);
    }

    #[test]
    fn the_other_half_is_told_what_both_must_agree_on() {
        let args = parse(&["--witness", "w", "--heartbeat=1500", "--timeout=5000", "--retry=500"]).unwrap();
        let Ok(Address::Command(command)) = args.endpoint() else { panic!("no command") };
        let here = std::env::current_dir().unwrap().join("w");
        assert!(command.contains(&format!("--witness {}", here.display())), "{command}");
        assert!(command.contains(" --heartbeat 1500 --timeout 5000'"), "{command}");
        let Ok(Address::Command(command)) = parse(&["-Fd"]).unwrap().endpoint() else { panic!("no command") };
        assert!(command.ends_with(" --any-disks'"), "{command}");
    }

    #[test]
    fn a_receiver_of_colo_is_told_so() {
        let command = |args: &[&str]| {
            let Ok(Address::Command(command)) = parse(args).unwrap().endpoint() else { panic!("no command") };
            command
        };
        assert_eq!(command(&["-c"]), "exec ssh host-b 'xen-replicate receive --domain web --rule manual --colo'");
        let all = command(&["-cp", "-N", "proxy", "-e"]);
        assert!(all.ends_with("--colo --coloft-script proxy --userspace-colo-proxy' -e"), "{all}");
        let args = parse(&["-c", "--periodic", "--period=900", "--patience=50"]).unwrap();
        let (period, patience) = (Duration::from_millis(900), Duration::from_millis(50));
        assert_eq!(args.lockstep(), Some(Lockstep { mode: Mode::Periodic, period, patience }));
    }

    #[test]
    fn times_are_checked_by_their_options_names() {
        let args = ["--heartbeat=20", "--timeout=61", "--answer-timeout=61", "--retry=1", "--refusals=0"];
        let config = parse(&args).unwrap().config().unwrap();
        let ms = Duration::from_millis;
        assert_eq!((config.heartbeat, config.timeout, config.answer), (ms(20), ms(61), ms(61)));
        assert_eq!((config.retry, config.refusals), (ms(1), 0));
        refused(&["--heartbeat=0"], &["--heartbeat"]);
        refused(&["--heartbeat=400"], &["--timeout", "400ms"]);
        refused(&["--timeout=0"], &["--timeout"]);
        refused(&["--answer-timeout=999"], &["--answer-timeout"]);
        refused(&["--retry=0"], &["--retry"]);
        refused(&["--fence-timeout=0"], &["--fence-timeout"]);
        refused(&["--staging-limit=0"], &["--staging-limit"]);
    }

    #[test]
    fn the_adaptive_interval_has_a_target_and_bounds() {
        let pacing = |args: &[&str]| parse(args).unwrap().protection.pacing().unwrap().unwrap();
        let by_share = pacing(&["--adaptive", "paused=2.5%"]);
        let ms = Duration::from_millis;
        assert_eq!((by_share.target, by_share.shortest, by_share.longest), (Target::PausedShare(25), ms(5), ms(5000)));
        let by_delay = pacing(&["--adaptive=delay=20", "--shortest=2", "--longest=2"]);
        assert_eq!((by_delay.target, by_delay.longest), (Target::OutputDelay(ms(20)), ms(2)));
        for bad in ["paused=0", "paused=100", "paused=x", "paused=NaN", "delay=0", "delay=60001", "delay=", "fast", ""]
        {
            refused(&["--adaptive", bad], &["--adaptive"]);
        }
        refused(&["--shortest=1"], &["--shortest", "--adaptive"]);
        refused(&["--longest=1"], &["--longest", "--adaptive"]);
        refused(&["--adaptive=delay=9", "--shortest=0"], &["--shortest"]);
        refused(&["--adaptive=delay=9", "--longest=60001"], &["--longest"]);
        refused(&["--adaptive=delay=9", "--shortest=9", "--longest=8"], &["--shortest", "--longest"]);
    }

    #[test]
    fn the_simulated_guest_comes_as_text_or_in_a_file() {
        let sim = |text: &str| parse(&["--sim", text]).unwrap().sim_config();
        let config = sim(r#"{"memory": 512, "name": "other", "working_set": 64}"#).unwrap();
        assert_eq!((config.memory, config.name.as_str()), (512, "web"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"seed": 9}"#).unwrap();
        assert_eq!(sim(&format!("@{}", file.path().display())).unwrap().seed, 9);
        for (bad, part) in
            [("{", "EOF"), (r#"{"memroy": 1}"#, "memroy"), (r#"{"vcpus": 0}"#, "vcpus"), ("@/none", "/none")]
        {
            let error = sim(bad).unwrap_err();
            assert!(error.starts_with("--sim: ") && error.contains(part), "{error}");
        }
        assert_eq!(parse(&["--sim-steps=0"]).unwrap().protection.backend().steps, None);
    }

    #[test]
    fn the_rest_is_taken_as_it_is() {
        let args = ["--nic=127.0.0.1:0", "--nic-peer=127.0.0.1:9", "--once", "--watch", "--backend=sim"];
        let args =
            parse(&[&args[..], &["--failpoint=sent@3=kill", "--failpoint", "x", "--control=/c"]].concat()).unwrap();
        assert!(args.once && args.protection.watch);
        assert_eq!(args.protection.nic_peer.unwrap().port(), 9);
        assert_eq!(args.protection.failpoint, ["sent@3=kill", "x"]);
        assert_eq!(args.protection.control_path("a/b").unwrap().unwrap(), Path::new("/c"));
        assert_eq!(parse(&["--no-control"]).unwrap().protection.control_path("web").unwrap(), None);
        assert!(parse(&[]).unwrap().protection.control_path("a/b").is_err());
        refused(&["--no-control", "--control=/c"], &["--no-control", "--control"]);
        refused(&["--nic-peer=127.0.0.1:9"], &["--nic-peer", "--nic"]);
        refused(&["--backend=kvm"], &["--backend"]);
        assert!(parse(&["--backend=xen"]).is_ok());
        let tcp = |args: &[&str]| {
            let line = ["remus"].iter().chain(args).chain(&["web", "tcp:10.0.0.1:1"]);
            Line::try_parse_from(line).unwrap().args.endpoint()
        };
        assert!(tcp(&[]).is_err());
        assert!(tcp(&["--allow-private"]).is_ok());
    }
}
