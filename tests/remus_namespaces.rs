//! Two hosts in network namespaces of their own, a real link between them that is taken down, brought up again, and
//! throttled. Needs root, `ip` and `tc`: run with `cargo test --test remus_namespaces -- --ignored`.

mod commands_support;

use commands_support::{Guarded, PROGRAM, wait};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use xen_replicate::control::status::{Guest, Role};

fn ip(arguments: &str) {
    let ran = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(ran.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// Two namespaces, joined.
struct Hosts {
    name: String,
    folder: TempDir,
}

impl Hosts {
    fn new(number: u32) -> Hosts {
        let name = format!("xr{}-{number}", std::process::id());
        let hosts = Hosts { name, folder: TempDir::new().unwrap() };
        let name = &hosts.name;
        ip(&format!("netns add {name}a"));
        ip(&format!("netns add {name}b"));
        ip(&format!("link add veth netns {name}a type veth peer name veth netns {name}b"));
        for (side, address) in [("a", 1), ("b", 2)] {
            ip(&format!("-n {name}{side} addr add 10.99.0.{address}/24 dev veth"));
            ip(&format!("-n {name}{side} link set veth up"));
        }
        std::fs::create_dir(hosts.folder.path().join("witness")).unwrap();
        hosts
    }

    fn text(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn run(&self, side: &str, arguments: &[&str]) -> Guarded {
        let (witness, control) = (self.text("witness"), self.text(side));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}{side}", self.name), PROGRAM]).args(arguments);
        command.args([
            "--allow-private",
            "--witness",
            &witness,
            "--control",
            &control,
            "--heartbeat=50",
            "--timeout=500",
        ]);
        Guarded(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn pair(&self) -> (Guarded, Guarded) {
        let secondary = self.run("b", &["receive", "--domain=web", "--listen=tcp:10.99.0.2:7000"]);
        wait(&self.folder.path().join("b"), "the secondary", |status| status.phase == "waiting");
        let primary = self.run("a", &["remus", "-i", "20", "web", "tcp:10.99.0.2:7000"]);
        wait(&self.folder.path().join("a"), "protection", |status| status.acknowledged >= 5);
        (primary, secondary)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for side in ["a", "b"] {
            let _ = Command::new("ip").args(["netns", "del", &format!("{}{side}", self.name)]).status();
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_link_that_is_down_leaves_one_active_and_healing_changes_nothing() {
    let hosts = Hosts::new(1);
    let (_primary, _secondary) = hosts.pair();
    let (a, b) = (hosts.folder.path().join("a"), hosts.folder.path().join("b"));
    ip(&format!("-n {}b link set veth down", hosts.name));
    let primary = wait(&a, "a decision", |status| ["alone", "fenced"].contains(&status.phase.as_str()));
    let secondary = wait(&b, "a decision", |status| ["alone", "waiting"].contains(&status.phase.as_str()));
    ip(&format!("-n {}b link set veth up", hosts.name));
    let active = [&primary, &secondary].iter().filter(|s| s.role == Role::Primary && s.guest == Guest::Running).count();
    assert_eq!(active, 1, "{primary:#?} {secondary:#?}");
    // The loser stays what it is, whatever is still on its way.
    let (again, other) = (wait(&a, "an answer", |_| true), wait(&b, "an answer", |_| true));
    assert_eq!((again.phase, other.phase), (primary.phase.clone(), secondary.phase));
    println!("link down: the primary is {}", primary.phase);
}

#[test]
#[ignore = "needs root"]
fn a_short_cut_is_a_delay() {
    let hosts = Hosts::new(2);
    let (_primary, _secondary) = hosts.pair();
    let a = hosts.folder.path().join("a");
    let before = wait(&a, "an answer", |_| true);
    ip(&format!("-n {}a link set veth down", hosts.name));
    ip(&format!("-n {}a link set veth up", hosts.name));
    let after = wait(&a, "ten more", |status| status.acknowledged >= before.acknowledged + 10);
    assert_eq!((after.phase.as_str(), after.generation), ("protected", before.generation));
}

#[test]
#[ignore = "needs root"]
fn a_slow_link_stretches_the_interval_and_protects() {
    let hosts = Hosts::new(3);
    let (_primary, _secondary) = hosts.pair();
    let a = hosts.folder.path().join("a");
    let before = wait(&a, "an answer", |_| true);
    let shaped = Command::new("ip")
        .args(["netns", "exec", &format!("{}a", hosts.name)])
        .args("tc qdisc add dev veth root tbf rate 20mbit burst 64kbit latency 200ms".split(' '))
        .status();
    assert!(shaped.unwrap().success());
    let after = wait(&a, "a stretched interval", |status| {
        status.acknowledged >= before.acknowledged + 5 && status.statistics.interval_stretched > 0
    });
    assert_eq!((after.phase.as_str(), after.protected, after.generation), ("protected", true, before.generation));
    println!("20 Mbit/s: transmission {:?} us", after.statistics.transmission);
}
