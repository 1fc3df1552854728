//! Who may run a domain, with real processes on hosts that are told apart by their identity: what a start of `remus` decides, whatever
//! came before it.

mod commands_support;

use commands_support::{Guarded, command, wait};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use xen_replicate::control::Status;

/// Hosts that share a witness.
struct Hosts {
    folder: TempDir,
}

impl Hosts {
    fn new() -> Self {
        let hosts = Hosts { folder: TempDir::new().unwrap() };
        fs::create_dir(hosts.path("w")).unwrap();
        hosts
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A command on a host.
    fn on(&self, host: &str, arguments: &[&str]) -> Command {
        let identity = self.path(&format!("identity.{host}"));
        fs::write(&identity, host).unwrap();
        let mut command = command(arguments);
        command.env("XEN_REPLICATE_HOST_ID", identity).env("RUST_LOG", "info");
        command
    }

    /// A `remus` that ends by itself: what it ends with, and what it says.
    fn started(&self, host: &str, more: &[&str]) -> (Option<i32>, String) {
        let (witness, nowhere) = (self.text("w"), format!("unix:{}", self.text("nolink")));
        let usual = ["remus", "--once", "--no-control", "--witness", &witness];
        let Output { status, stderr, .. } =
            self.on(host, &[&usual[..], more, &["web", &nowhere]].concat()).output().unwrap();
        (status.code(), String::from_utf8_lossy(&stderr).into_owned())
    }

    /// A receiver that listens, and where.
    fn receiver(&self, host: &str) -> (Guarded, String) {
        self.receiver_of(host, &[])
    }

    fn receiver_of(&self, host: &str, more: &[&str]) -> (Guarded, String) {
        let (witness, link, control) = (self.text("w"), format!("unix:{}", self.text("link")), self.text(host));
        let usual = ["receive", "--domain=web", "--witness", &witness, "--listen", &link, "--control", &control];
        let usual = [&usual[..], &["--retry=20"], more].concat();
        let mut receiver = Guarded(self.on(host, &usual).spawn().unwrap());
        let mut errors = BufReader::new(receiver.0.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(errors.any(|line| line.contains("rule witness")), "it does not listen");
        // A pipe that is full would stop the process.
        let mut log = fs::File::create(self.path(&format!("{host}.log"))).unwrap();
        std::thread::spawn(move || errors.for_each(|line| writeln!(log, "{line}").unwrap()));
        (receiver, link)
    }

    fn primary(&self, host: &str, link: &str, more: &[&str]) -> Guarded {
        let (witness, control) = (self.text("w"), self.text(host));
        let usual = ["remus", "--witness", &witness, "--retry=20", "--control", &control];
        let often: &[&str] = if more.contains(&"--colo") { &[] } else { &["-i", "10"] };
        let arguments = [&usual[..], often, more, &["web", link]].concat();
        Guarded(self.on(host, &arguments).stderr(Stdio::null()).spawn().unwrap())
    }

    fn wait(&self, host: &str, what: &str, there: impl Fn(&Status) -> bool) -> Status {
        wait(&self.path(host), what, there)
    }

    /// Host a protected by host b.
    fn protected(&self) -> (Guarded, Guarded, String) {
        self.protected_by(&[], &[])
    }

    fn protected_by(&self, remus: &[&str], receive: &[&str]) -> (Guarded, Guarded, String) {
        let (receiver, link) = self.receiver_of("b", receive);
        let primary = self.primary("a", &link, remus);
        self.wait("a", "protection", |status| status.acknowledged >= 3);
        (primary, receiver, link)
    }

    /// Waits until a line of a receiver's log has this text.
    #[track_caller]
    fn wait_for_log(&self, host: &str, text: &str) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
        let log = || fs::read_to_string(self.path(&format!("{host}.log"))).unwrap_or_default();
        while !log().contains(text) {
            assert!(std::time::Instant::now() < end, "no {text:?} in {}", log());
            std::thread::yield_now();
        }
    }

    /// The numbers that the witness has given.
    fn given(&self) -> Vec<u64> {
        let names = fs::read_dir(self.path("w")).unwrap().map(|entry| entry.unwrap().file_name());
        let mut given: Vec<u64> = names.filter_map(|name| name.to_str()?.strip_prefix("web.")?.parse().ok()).collect();
        given.sort_unstable();
        given
    }
}

fn kill(mut process: Guarded) {
    process.0.kill().unwrap();
    process.0.wait().unwrap();
}

#[track_caller]
fn says(ended: (Option<i32>, String), code: i32, parts: &[&str]) -> String {
    let (ended, text) = ended;
    assert!(ended == Some(code) && parts.iter().all(|part| text.contains(part)), "{ended:?}: {text}");
    text
}

#[test]
fn a_host_that_comes_back_after_the_failover_starts_no_second_copy() {
    let hosts = Hosts::new();
    let (primary, _receiver, _) = hosts.protected();
    kill(primary);
    hosts.wait("b", "the survivor", |status| status.phase == "alone");
    assert_eq!(hosts.given(), [1, 2]);
    let text = says(
        hosts.started("a", &[]),
        3,
        &["SUPERSEDED: generation 2 was acquired on host", "the guest was not started", "Nothing is released"],
    );
    // The two commands, as they can be pasted.
    let witness = hosts.text("w");
    for line in [
        format!(": xen-replicate receive --domain web --backend sim --witness {witness} --listen unix:/run/web.link\n"),
        format!(": xen-replicate remus --force-generation 2 --once --no-control --witness {witness} web unix:"),
    ] {
        assert!(text.contains(&line), "{line}: {text}");
    }
    assert_eq!(hosts.given(), [1, 2], "nothing was acquired");
    let survivor = hosts.wait("b", "the survivor", |status| status.phase == "alone");
    assert_eq!(survivor.generation, 2);
}

#[test]
fn a_stray_start_on_another_host_takes_nothing_from_a_healthy_protection() {
    let hosts = Hosts::new();
    let (primary, _receiver, _) = hosts.protected();
    for host in ["b", "c"] {
        says(hosts.started(host, &[]), 3, &["SUPERSEDED: generation 1"]);
    }
    // On its own host it is told from a restart.
    let pid = primary.0.id();
    let parts = ["SUPERSEDED: generation 1", &format!("by process {pid} of this host"), "ctl web protect HOST"];
    says(hosts.started("a", &[]), 3, &parts);
    says(hosts.started("a", &["--force-generation", "1"]), 3, &parts);
    assert_eq!(hosts.given(), [1]);
    kill(primary);
    let survivor = hosts.wait("b", "the survivor", |status| status.phase == "alone");
    assert_eq!((survivor.generation, hosts.given()), (2, vec![1, 2]));
}

#[test]
fn a_primary_that_is_started_again_acquires_before_it_goes_on() {
    let hosts = Hosts::new();
    let (primary, receiver, link) = hosts.protected();
    // Both are gone, so nobody has taken over.
    kill(receiver);
    hosts.wait("a", "the end of protection", |status| status.phase == "alone");
    kill(primary);
    assert_eq!(hosts.given(), [1, 2]);
    let text = says(
        hosts.started("a", &[]),
        1,
        &["generation 2 was acquired for this domain on this host", "generation 3 is acquired for its start"],
    );
    assert!(text.contains("no connection to a secondary"), "{text}");
    assert_eq!(hosts.given(), [1, 2, 3]);
    // Again, and with somebody there.
    let (_receiver, again) = hosts.receiver("b");
    assert_eq!(again, link);
    let _primary = hosts.primary("a", &again, &[]);
    let status = hosts.wait("a", "protection", |status| status.protected);
    assert_eq!((status.generation, hosts.given()), (5, vec![1, 2, 3, 4, 5]));
}

#[test]
fn of_a_restart_and_a_failover_one_acquires_the_next_generation() {
    let hosts = Hosts::new();
    let (primary, receiver, _) = hosts.protected();
    let stopped = rustix::process::Pid::from_child(&receiver.0);
    rustix::process::kill_process(stopped, rustix::process::Signal::STOP).unwrap();
    kill(primary);
    // The receiver cannot ask before it goes on.
    let (code, text) = hosts.started("a", &[]);
    assert!(code == Some(1) && text.contains("generation 2 is acquired for its start"), "{code:?}: {text}");
    rustix::process::kill_process(stopped, rustix::process::Signal::CONT).unwrap();
    hosts.wait("b", "the denial", |status| status.phase != "passive" && status.phase != "claiming");
    assert_eq!(hosts.given(), [1, 2], "it was denied");
}

#[test]
fn where_nobody_has_protected_it_nothing_is_acquired_before_a_secondary_answers() {
    let hosts = Hosts::new();
    says(hosts.started("a", &[]), 1, &["nobody has protected it", "no connection to a secondary"]);
    assert_eq!(hosts.given(), Vec::<u64>::new());
}

#[test]
fn what_cannot_be_known_ends_with_a_code_of_its_own() {
    let hosts = Hosts::new();
    let (witness, away) = (hosts.path("w"), hosts.path("away"));
    fs::rename(&witness, &away).unwrap();
    let parts = ["CANNOT BE KNOWN", "Nothing is released", "the guest was not started"];
    let also = |more| [&parts[..], more].concat();
    says(hosts.started("a", &[]), 4, &also(&["No such file", "make the witness reachable"]));
    // No number helps against that.
    says(hosts.started("a", &["--force-generation=1"]), 4, &also(&["No such file"]));
    fs::rename(&away, &witness).unwrap();
    says(hosts.started("a", &["--force-generation=1"]), 4, &also(&["no generation that --force-generation"]));
    fs::write(witness.join("web.00000000000000000006"), "torn").unwrap();
    says(hosts.started("a", &[]), 4, &also(&["the record of generation 6 cannot be read", "--force-generation 6"]));
    // An earlier version's, of a host with this one's name and of another.
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let old = |number: u64, host: &str| {
        let line =
            format!("{{\"domain\":\"web\",\"generation\":{number},\"holder\":\"{host}/1/ff\",\"taken\":1764290403}}\n");
        fs::write(witness.join(format!("web.{number:020}")), line).unwrap();
    };
    old(7, &name);
    says(hosts.started("a", &[]), 4, &also(&["generation 7 was acquired on host", "earlier version"]));
    old(8, "far-away");
    let taken = "generation 8 was acquired on host far-away on 2025-11-28 00:40:03 UTC";
    says(hosts.started("a", &[]), 3, &[taken, "to leave it to host far-away"]);
    assert_eq!(hosts.given(), [6, 7, 8], "nothing was acquired");
}

#[test]
fn another_domain_of_the_name_is_not_the_holder() {
    let hosts = Hosts::new();
    let (primary, receiver, _) = hosts.protected();
    kill(receiver);
    hosts.wait("a", "the end of protection", |status| status.phase == "alone");
    kill(primary);
    let sim = r#"{"uuid":"00000000-0000-0000-0000-000000000009"}"#;
    says(hosts.started("a", &["--sim", sim]), 4, &["not by the domain that is here now", "--force-generation 2"]);
    assert_eq!(hosts.given(), [1, 2]);
}

#[test]
fn the_operator_overrides_by_the_newest_number_and_both_sides_keep_to_it() {
    let hosts = Hosts::new();
    let (primary, receiver, _) = hosts.protected();
    kill(primary);
    hosts.wait("b", "the survivor", |status| status.phase == "alone");
    says(hosts.started("a", &["--force-generation", "1"]), 3, &["--force-generation 1 is not the newest's number, 2"]);
    kill(receiver);
    let parts = ["forced: generation 2 was acquired on host", "generation 3 is acquired for its start"];
    says(hosts.started("a", &["--force-generation", "2"]), 1, &parts);
    assert_eq!(hosts.given(), [1, 2, 3]);
    // From here on host b's is the stale one.
    says(hosts.started("b", &[]), 3, &["SUPERSEDED: generation 3"]);
    let (code, text) = {
        let Output { status, stderr, .. } =
            hosts.on("a", &["remus", "--no-control", "--force-generation=1", "web", "unix:/x"]).output().unwrap();
        (status.code(), String::from_utf8_lossy(&stderr).into_owned())
    };
    says((code, text), 2, &["--force-generation needs --witness"]);
}

#[test]
fn a_survivor_that_is_started_again_is_the_holder() {
    let hosts = Hosts::new();
    let (primary, receiver, _) = hosts.protected();
    kill(primary);
    hosts.wait("b", "the survivor", |status| status.phase == "alone");
    kill(receiver);
    // The UUID has come with the session's record.
    says(hosts.started("b", &[]), 1, &["generation 2 was acquired for this domain on this host"]);
    says(hosts.started("a", &[]), 3, &["SUPERSEDED: generation 3"]);
}

#[test]
fn a_lock_step_primary_starts_by_the_same_decision() {
    let hosts = Hosts::new();
    let (primary, _receiver, _) = hosts.protected();
    kill(primary);
    hosts.wait("b", "the survivor", |status| status.phase == "alone");
    says(hosts.started("a", &["--colo"]), 3, &["SUPERSEDED: generation 2", "the guest was not started"]);
    fs::rename(hosts.path("w"), hosts.path("away")).unwrap();
    says(hosts.started("a", &["--colo"]), 4, &["CANNOT BE KNOWN"]);
}

impl Hosts {
    /// `ctl check` of a side: its exit code and its line.
    fn checked(&self, host: &str) -> (Option<i32>, String) {
        let ended = self.on(host, &["ctl", "web", "--control", &self.text(host), "check"]).output().unwrap();
        (ended.status.code(), String::from_utf8_lossy(&ended.stdout).into_owned())
    }

    /// Waits until both sides are alarmed, or not, and checks that their operators are told.
    fn alarmed(&self, told: Option<&str>) {
        for host in ["a", "b"] {
            self.wait(host, "the alarm", |status| match (&status.alarm, told) {
                (Some(alarm), Some(told)) => alarm.contains(told),
                (alarm, told) => alarm.is_some() == told.is_some(),
            });
            match told {
                Some(told) => says(self.checked(host), 1, &["web: protected", "ALARM: WITNESS", told]),
                None => says(self.checked(host), 0, &["web: protected"]),
            };
        }
    }
}

#[test]
fn both_sides_look_at_the_witness_while_they_are_protected() {
    let hosts = Hosts::new();
    let (_primary, _receiver, _) = hosts.protected();
    let (witness, away) = (hosts.path("w"), hosts.path("away"));
    hosts.alarmed(None);
    fs::rename(&witness, &away).unwrap();
    hosts.alarmed(Some("No such file"));
    // Another in its place.
    fs::create_dir(&witness).unwrap();
    hosts.alarmed(Some("it knows of generation 0, and knew of generation 1"));
    fs::remove_dir(&witness).unwrap();
    fs::rename(&away, &witness).unwrap();
    hosts.alarmed(None);
    // By the operator's word, on a third host.
    says(hosts.started("c", &["--force-generation=1"]), 1, &["generation 2 is acquired for its start"]);
    hosts.alarmed(Some("generation 2 was acquired by somebody else, this side has generation 1"));
    let status = hosts.wait("a", "its notice", |status| status.alarm.is_some());
    assert!(status.notices.iter().any(|notice| notice.text.contains("WITNESS")), "{status:#?}");
    assert_eq!(hosts.checked("c").0, Some(2), "nobody can be asked there");
}

#[test]
fn a_secondary_that_cannot_read_its_witness_refuses_to_start() {
    let hosts = Hosts::new();
    let nowhere = hosts.text("none");
    let arguments = ["receive", "--domain=web", "--no-control", "--witness", &nowhere];
    let ended = hosts.on("b", &arguments).output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    says((ended.status.code(), text), 2, &[&nowhere, "could never take over"]);
}

/// Both protocols: what each side is started with besides.
const PROTOCOLS: [(&[&str], &[&str]); 2] = [(&[], &[]), (&["--colo", "--periodic", "--period=20"], &["--colo"])];

impl Hosts {
    /// Host b's receiver was denied: a third host has acquired the next generation by its operator's word, and the primary is dead.
    fn denied_by(&self, remus: &[&str], receive: &[&str]) -> (Guarded, String, Status) {
        let (primary, receiver, link) = self.protected_by(remus, receive);
        says(self.started("c", &["--force-generation=1"]), 1, &["generation 2 is acquired for its start"]);
        kill(primary);
        let status = self.wait("b", "the denial", |status| status.phase == "denied");
        assert_eq!(self.given(), [1, 2]);
        (receiver, link, status)
    }

    /// A command to a side: what it ends with, and all that it says.
    fn ctl(&self, host: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let socket = self.text(host);
        let ended = self.on(host, &[&["ctl", "web", "--control", &socket], arguments].concat()).output().unwrap();
        let text = [ended.stdout, ended.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (ended.status.code(), text)
    }
}

#[test]
fn a_denied_secondary_keeps_its_replica_and_the_operator_starts_it_by_the_newest_number() {
    for (remus, receive) in PROTOCOLS {
        let hosts = Hosts::new();
        let (_receiver, _, status) = hosts.denied_by(remus, receive);
        let kept = status.kept.clone().expect("a replica");
        assert!(kept.checkpoint >= 3 && kept.memory > 0, "{kept:?}");
        assert_eq!((kept.newest, status.generation, status.protected), (2, 2, false));
        let socket = hosts.text("b");
        let (drop, force) = (
            format!("xen-replicate ctl web --control {socket} drop"),
            format!("xen-replicate ctl web --control {socket} fail-over --force-generation 2"),
        );
        assert_eq!((&kept.drop, &kept.fail_over), (&drop, &force));
        let said = |part: &str| status.notices.iter().any(|notice| notice.text.contains(part));
        assert!(
            said("DENIED: generation 2 was acquired by somebody else") && said(&drop) && said(&force),
            "{status:#?}"
        );
        says(hosts.ctl("b", &["status"]), 0, &["KEPT", "drop", "fail-over --force-generation 2"]);
        says(hosts.checked("b"), 1, &["UNPROTECTED, denied, generation 2"]);
        // Only the newest number does it.
        for (more, part) in [
            (&["fail-over"][..], "fail-over --force-generation 2"),
            (&["fail-over", "--force"], "fail-over --force-generation 2"),
            (&["fail-over", "--force-generation=1"], "--force-generation 1 is not the newest's number, 2"),
            (&["fail-over", "--force-generation=3"], "--force-generation 3 is not the newest's number, 2"),
            (&["switch-over"], "denied"),
        ] {
            says(hosts.ctl("b", more), 1, &["refused", part]);
        }
        assert_eq!(hosts.given(), [1, 2], "nothing was acquired");
        assert_eq!(hosts.ctl("b", &["fail-over", "--force-generation=2"]).0, Some(0));
        let survivor = hosts.wait("b", "the survivor", |status| status.phase == "alone");
        assert_eq!((survivor.generation, survivor.kept, hosts.given()), (3, None, vec![1, 2, 3]));
        says(hosts.started("c", &[]), 3, &["SUPERSEDED: generation 3"]);
    }
}

#[test]
fn a_denied_replica_is_freed_by_the_operators_word_alone() {
    for (remus, receive) in PROTOCOLS {
        let hosts = Hosts::new();
        let (receiver, link, _) = hosts.denied_by(remus, receive);
        // The witness goes away and comes back: that decides nothing.
        fs::rename(hosts.path("w"), hosts.path("away")).unwrap();
        hosts.wait("b", "the alarm", |status| status.alarm.is_some());
        says(hosts.ctl("b", &["fail-over", "--force-generation=2"]), 1, &["cannot be asked"]);
        fs::rename(hosts.path("away"), hosts.path("w")).unwrap();
        hosts.wait("b", "the alarm's end", |status| status.alarm.is_none() && status.phase == "denied");
        says(hosts.ctl("b", &["drop"]), 0, &[]);
        let status = hosts.wait("b", "the next primary", |status| status.phase == "waiting");
        assert_eq!((status.kept, hosts.given()), (None, vec![1, 2]));
        says(hosts.ctl("b", &["drop"]), 1, &["refused"]);
        // And it serves again.
        let _primary = hosts.primary("c", &link, remus);
        hosts.wait("c", "protection", |status| status.protected);
        let pid = rustix::process::Pid::from_child(&receiver.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

/// The replica is gone with its process, whether it listens or not: that is what an operator asks for by a signal.
#[test]
fn a_signal_frees_a_denied_replica_and_decides_nothing_else() {
    for (remus, receive) in PROTOCOLS {
        let hosts = Hosts::new();
        let (mut receiver, _, _) = hosts.denied_by(remus, receive);
        let pid = rustix::process::Pid::from_child(&receiver.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(receiver.0.wait().unwrap().code(), Some(0));
        hosts.wait_for_log("b", "told to end: the replica is freed");
        // Nothing was acquired by that, and nobody answers for a replica any more.
        assert_eq!(hosts.given(), [1, 2]);
        assert_ne!(hosts.ctl("b", &["fail-over", "--force-generation=2"]).0, Some(0));
        assert_eq!(hosts.given(), [1, 2]);
    }
}

#[test]
fn the_newest_holder_is_protected_again_and_its_image_replaces_the_denied_replica() {
    for (remus, receive) in PROTOCOLS {
        let hosts = Hosts::new();
        let (_receiver, link, _) = hosts.denied_by(remus, receive);
        // Who does not hold the newest takes nothing from it: its start is superseded, and it does not even connect.
        let ended = hosts
            .on(
                "a",
                &[&["remus", "--once", "--no-control", "--witness", &hosts.text("w")], remus, &["web", &link]].concat(),
            )
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(3));
        // A connection that brings nothing leaves it as it is.
        drop(std::os::unix::net::UnixStream::connect(hosts.path("link")).unwrap());
        hosts.wait("b", "the replica", |status| status.phase == "denied" && status.kept.is_some());
        let _primary = hosts.primary("c", &link, remus);
        let primary = hosts.wait("c", "protection", |status| status.protected && status.acknowledged >= 3);
        assert_eq!((primary.generation, hosts.given()), (4, vec![1, 2, 3, 4]));
        let status = hosts.wait("b", "protection", |status| status.protected);
        assert_eq!((status.kept, status.generation), (None, 4));
        kill(_primary);
        let survivor = hosts.wait("b", "the survivor", |status| status.phase == "alone");
        assert_eq!(survivor.generation, 5);
    }
}

/// Waits until a process has ended; nobody may have waited for it yet.
fn wait_until_gone(pid: i32) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
    loop {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Err(_) => return,
            Ok(stat) if stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')) => return,
            Ok(_) => {}
        }
        assert!(std::time::Instant::now() < end, "process {pid} stays");
        std::thread::yield_now();
    }
}

#[test]
fn a_receiver_of_one_connection_stays_with_its_denied_replica_until_it_is_decided() {
    for end in ["drop", "signal", "replaced"] {
        let hosts = Hosts::new();
        let (witness, control) = (hosts.text("w"), hosts.text("b"));
        fs::write(hosts.path("identity.b"), "b").unwrap();
        let pid_file = hosts.text("pid");
        let receive = format!(
            "exec:echo $$ >>{pid_file}; XEN_REPLICATE_HOST_ID={} exec {} receive --backend=sim --domain=web --witness {witness} --retry=20 --control {control}",
            hosts.text("identity.b"),
            commands_support::PROGRAM,
        );
        let primary = hosts.primary("a", &receive, &[]);
        hosts.wait("a", "protection", |status| status.acknowledged >= 3);
        says(hosts.started("c", &["--force-generation=1"]), 1, &["generation 2 is acquired for its start"]);
        kill(primary);
        hosts.wait("b", "the denial", |status| status.phase == "denied");
        let pid: i32 = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        if end == "drop" {
            says(hosts.ctl("b", &["drop"]), 0, &[]);
        } else if end == "replaced" {
            // Its primary starts another receiver beside it, which takes its place once it has an image.
            let primary = hosts.primary("c", &receive, &[]);
            hosts.wait("b", "the other receiver", |status| status.protected && status.kept.is_none());
            kill(primary);
            let survivor = hosts.wait("b", "the survivor", |status| status.phase == "alone");
            assert_eq!((survivor.generation, hosts.given()), (5, vec![1, 2, 3, 4, 5]));
            wait_until_gone(pid);
            let pids = fs::read_to_string(&pid_file).unwrap();
            let second = rustix::process::Pid::from_raw(pids.lines().last().unwrap().parse().unwrap()).unwrap();
            rustix::process::kill_process(second, rustix::process::Signal::KILL).unwrap();
            continue;
        } else {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        }
        wait_until_gone(pid);
        assert_eq!(hosts.given(), [1, 2]);
    }
}
