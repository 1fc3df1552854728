//! `remus -c`, `receive --colo` and `demo --colo` as an operator types them, and either process killed in whatever it is doing.

mod commands_support;

use commands_support::{Guarded, command, status, wait};
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use xen_replicate::control::Status;
use xen_replicate::control::status::{Guest, Output, Role};
use xen_replicate::outside::{ClientConfig, ClientThread};

/// A guest that two hosts run alike but for a random number now and then.
const GUEST: &str = r#"{"memory":512,"working_set":64,"vcpus":1,"steady_answers":true,"noise_every":40}"#;

struct Hosts {
    folder: TempDir,
    primary: Guarded,
    secondary: Guarded,
    client: ClientThread,
    /// The card on the secondary.
    survivor: SocketAddr,
}

impl Hosts {
    fn start(primary: &[&str], secondary: &[&str]) -> Hosts {
        let folder = TempDir::new().unwrap();
        let text = |name: &str| folder.path().join(name).display().to_string();
        std::fs::create_dir(text("witness")).unwrap();
        let cards = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let cards = cards.map(|socket| socket.local_addr().unwrap());
        let client = ClientThread::start(ClientConfig {
            bind: "127.0.0.1:0".parse().unwrap(),
            to: cards.to_vec(),
            rate: 200,
            outstanding: 64,
            retry: Duration::from_millis(250),
        })
        .unwrap();
        let (peer, link) = (client.address().to_string(), format!("unix:{}", text("link")));
        let common = ["--timeout=10000", "--nic-peer", &peer, "--witness", &text("witness")].map(str::to_owned);
        let side = |name: &str, card: SocketAddr, more: &[&str], last: &[&str]| {
            let (control, digests, nic) = (text(name), text(&format!("{name}.digests")), card.to_string());
            let mut line = command(last.first().map(std::slice::from_ref).unwrap());
            line.args(&common).args(["--control", &control, "--keep-digests", &digests, "--nic", &nic]);
            line.args(more).args(&last[1..]).stderr(Stdio::null()).stdout(Stdio::null());
            Guarded(line.spawn().unwrap())
        };
        let receive = ["receive", "--colo", "--domain=web", "--listen", &link];
        let secondary = side("b", cards[1], secondary, &receive);
        wait(&folder.path().join("b"), "the receiver", |_| folder.path().join("link").exists());
        let primary = side("a", cards[0], primary, &["remus", "-c", "--sim", GUEST, "web", &link]);
        Hosts { folder, primary, secondary, client, survivor: cards[1] }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits for checkpoints that the secondary has loaded.
    fn checkpoints(&self, number: u64) -> Status {
        wait(&self.path("a"), "checkpoints", |status| status.acknowledged >= number)
    }

    fn heard(&self, packets: u64) {
        let before = std::cell::Cell::new(None);
        assert!(self.client.wait_until(Duration::from_secs(120), |progress| {
            let before = before.get().unwrap_or_else(|| {
                before.set(Some(progress.acknowledged));
                progress.acknowledged
            });
            progress.acknowledged >= before + packets
        }));
    }

    /// The states that both sides had at checkpoints that both were at are the same; gives how many.
    fn assert_equal_states(&self) -> usize {
        let (sent, loaded) = (kept(&self.path("a.digests")), kept(&self.path("b.digests")));
        let both = loaded.iter().filter(|(number, sums)| sent.get(number).is_some_and(|sent| sent == *sums)).count();
        assert_eq!(both, loaded.len(), "{sent:#?} {loaded:#?}");
        both
    }

    /// The secondary's guest goes on, and contradicts nothing that left the primary.
    fn survives(self) {
        let status = wait(&self.path("b"), "the survivor", |status| status.phase == "alone");
        assert_eq!((status.role, status.guest, status.output), (Role::Primary, Guest::Running, Output::Free));
        assert!(self.client.wait_until(Duration::from_secs(120), |progress| progress.host == Some(self.survivor)));
        self.heard(20);
        let pid = rustix::process::Pid::from_child(&self.secondary.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let Hosts { client, mut secondary, folder, .. } = self;
        // It has looked at its guest: sound.
        assert_eq!(secondary.0.wait().unwrap().code(), Some(0));
        let seen = client.stop().unwrap();
        assert_eq!((seen.lost, seen.contradicted, seen.interleaved), (0, 0, 0), "{seen:#?}");
        drop(folder);
    }
}

/// The sums kept at each checkpoint, but for those taken by a survivor that went on from it.
fn kept(path: &Path) -> BTreeMap<u64, String> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("checkpoint ")?.split_once(' '));
    lines.map(|(number, sums)| (number.parse().unwrap(), sums.to_owned())).collect()
}

/// Both modes, for either side's death.
const MODES: [&[&str]; 2] = [&[], &["--periodic", "--period=50"]];

#[test]
fn a_primary_killed_between_checkpoints_leaves_a_guest_that_runs_on() {
    for mode in MODES {
        let mut hosts = Hosts::start(mode, &[]);
        hosts.checkpoints(3);
        hosts.heard(10);
        hosts.primary.0.kill().unwrap();
        hosts.primary.0.wait().unwrap();
        assert!(hosts.assert_equal_states() >= 3);
        hosts.survives();
    }
}

#[test]
fn a_primary_killed_in_the_middle_of_a_checkpoint_leaves_a_guest_that_runs_on() {
    let steps = ["suspended@5", "transmit-begun@5", "transmit-middle@5", "sealed@5", "acknowledged@5", "released@5"];
    for (mode, step) in MODES.into_iter().flat_map(|mode| steps.map(|step| (mode, step))) {
        let failpoint = ["--failpoint", step];
        let mut hosts = Hosts::start(&[mode, &failpoint].concat(), &[]);
        hosts.primary.0.wait().unwrap();
        assert!(hosts.assert_equal_states() >= 3, "{step}");
        hosts.survives();
    }
}

#[test]
fn a_secondary_killed_leaves_a_primary_that_runs_on_with_its_output_free() {
    let steps = ["", "received@4", "arriving@4", "applying@5", "applied@5"];
    for (mode, step) in MODES.into_iter().flat_map(|mode| steps.map(|step| (mode, step))) {
        let failpoint = ["--failpoint", step];
        let mut hosts = Hosts::start(mode, if step.is_empty() { &[] } else { &failpoint });
        if step.is_empty() {
            hosts.checkpoints(3);
            hosts.secondary.0.kill().unwrap();
        }
        hosts.secondary.0.wait().unwrap();
        let status = wait(&hosts.path("a"), "the primary alone", |status| {
            status.phase == "alone" && status.guest == Guest::Running
        });
        assert_eq!(status.output, Output::Free, "{step}: {status:#?}");
        assert!(hosts.assert_equal_states() >= 3, "{step}");
        hosts.heard(20);
        let pid = rustix::process::Pid::from_child(&hosts.primary.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        // Not gone from here, and sound.
        assert_eq!(hosts.primary.0.wait().unwrap().code(), Some(1));
        let seen = hosts.client.stop().unwrap();
        assert_eq!((seen.lost, seen.contradicted, seen.interleaved), (0, 0, 0), "{seen:#?}");
    }
}

#[test]
fn figures_tell_of_equal_and_different_outputs() {
    let hosts = Hosts::start(&[], &[]);
    let status = wait(&hosts.path("a"), "agreement and difference", |status| {
        status.lock_step.is_some_and(|told| told.agreed > 20 && told.by_difference > 2 && told.waited > 0)
    });
    assert_eq!((status.phase.as_str(), status.protected, status.interval_ms), ("protected", true, 5000));
    let told = status_of(&hosts.path("b"));
    assert_eq!((told.role, told.phase.as_str(), told.protected), (Role::Secondary, "passive", true));
}

fn status_of(socket: &Path) -> Status {
    status(socket).expect("a status")
}

#[test]
fn the_demonstrations_guest_survives_and_contradicts_nothing() {
    for (seed, seconds) in ["0.3", "0.77", "1.2"].into_iter().enumerate() {
        let arguments = ["demo", "--colo", "--memory=2", "--noise=150", "--json", "--seconds", seconds];
        let ran = command(&arguments).args(["--seed", &seed.to_string()]).output().unwrap();
        let (text, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{text}{errors}");
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&report["survived"], &report["difference"]), (&true.into(), &serde_json::Value::Null), "{report}");
        for fault in ["lost", "contradicted", "interleaved"] {
            assert_eq!(report["client"][fault], 0, "{fault}: {report}");
        }
        assert!(report["lock_step"]["agreed"].as_u64().unwrap() > 0, "{report}");
        assert!(report["lock_step"]["by_difference"].as_u64().unwrap() > 0, "{report}");
        assert!(report["heard"] == true && report["steps_after"].as_u64().unwrap() > 0, "{report}");
    }
}
