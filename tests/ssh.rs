//! `remus` over OpenSSH, its client and its server, to a "host b" that is this machine: the receiver is started as `xl remus` starts its
//! own, by the command that is typed without an option; the server is started by the client (`sshd -i`), so nothing listens.
//!
//! `cargo test --test ssh -- --ignored`, as root: sshd wants to be started by it. Needs Debian's openssh-client, openssh-server and
//! netcat-openbsd.

mod commands_support;

use commands_support::{Guarded, PROGRAM, command, status, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xen_replicate::control::Status;
use xen_replicate::control::status::Guest;

/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(300);
/// Asking all the time would be the processes' main occupation.
const PAUSE: Duration = Duration::from_millis(5);

/// A host that ssh finds under the name `hostb`, with this program in its path.
struct HostB {
    folder: TempDir,
}

impl HostB {
    fn new() -> Self {
        let host = HostB { folder: TempDir::new().unwrap() };
        for folder in ["bin", "run", "witness"] {
            fs::create_dir(host.path(folder)).unwrap();
        }
        // sshd does not start without it; Debian makes it at boot.
        let made = fs::DirBuilder::new().mode(0o755).create("/run/sshd");
        assert!(made.is_ok() || fs::exists("/run/sshd").unwrap(), "{made:?}");
        for key in ["host_key", "user_key"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(host.path(key))
                .stdin(Stdio::null())
                .status()
                .expect("ssh-keygen must be there: apt-get install openssh-client openssh-server");
            assert!(made.success());
        }
        host.knows("host_key.pub");
        // Who the receiver is can be seen by its number.
        let program = format!("#!/bin/sh\necho $$ >{}\nexec {PROGRAM} \"$@\"\n", host.text("receiver"));
        fs::write(host.path("bin/xen-replicate"), program).unwrap();
        fs::set_permissions(host.path("bin/xen-replicate"), fs::Permissions::from_mode(0o755)).unwrap();
        let server = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n\
             SetEnv PATH={}:/usr/bin:/bin XEN_REPLICATE_RUN={}\n",
            host.text("host_key"),
            host.text("user_key.pub"),
            host.text("bin"),
            host.text("run"),
        );
        fs::write(host.path("sshd_config"), server).unwrap();
        let client = format!(
            "Host hostb\nProxyCommand /usr/sbin/sshd -i -f {} -E {}\nUser root\nIdentityFile {}\nIdentitiesOnly yes\n\
             UserKnownHostsFile {}\nGlobalKnownHostsFile none\nStrictHostKeyChecking yes\nBatchMode yes\n",
            host.text("sshd_config"),
            host.text("sshd.log"),
            host.text("user_key"),
            host.text("known_hosts"),
        );
        fs::write(host.path("ssh_config"), client).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Whose key the client takes for that of this host.
    fn knows(&self, key: &str) {
        let key = fs::read_to_string(self.path(key)).unwrap();
        fs::write(self.path("known_hosts"), format!("hostb {key}")).unwrap();
    }

    fn ssh(&self) -> String {
        format!("ssh -F {}", self.text("ssh_config"))
    }

    fn witness(&self) -> String {
        self.text("witness")
    }

    /// The primary's and the receiver's control sockets.
    fn sockets(&self) -> [PathBuf; 2] {
        [self.path("primary"), self.path("run/web.sock")]
    }

    /// A primary that is protected.
    fn protect(&self) -> Guarded {
        let (ssh, witness, control) = (self.ssh(), self.witness(), self.text("primary"));
        let arguments = ["remus", "-i", "20", "--witness", &witness, "--control", &control, "-s", &ssh, "web", "hostb"];
        let log = fs::File::create(self.path("remus.log")).unwrap();
        let primary = Guarded(command(&arguments).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let [a, _] = self.sockets();
        wait(&a, "protection over ssh", |status| status.protected && status.acknowledged >= 5);
        primary
    }

    fn receiver(&self) -> Option<Pid> {
        Pid::from_raw(fs::read_to_string(self.path("receiver")).ok()?.trim().parse().ok()?)
    }
}

impl Drop for HostB {
    /// A survivor runs on for good.
    fn drop(&mut self) {
        if let Some(receiver) = self.receiver()
            && fs::read_link(format!("/proc/{}/exe", receiver.as_raw_nonzero())).is_ok_and(|of| of.ends_with(PROGRAM))
        {
            let _ = kill_process(receiver, Signal::KILL);
        }
    }
}

/// The ssh that a primary has started.
fn ssh_of(primary: &Guarded) -> Pid {
    let parent = format!("\nPPid:\t{}\n", primary.0.id());
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let found = processes.filter_map(|name| name.parse().ok()).find(|pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.starts_with("Name:\tssh\n") && status.contains(&parent)
    });
    Pid::from_raw(found.expect("no ssh")).unwrap()
}

#[test]
#[ignore = "needs root and OpenSSH"]
fn the_receiver_outlives_the_host_and_the_connection() {
    let host = HostB::new();
    let mut primary = host.protect();
    let ssh = ssh_of(&primary);
    primary.0.kill().unwrap();
    // It may have seen that already.
    let _ = kill_process(ssh, Signal::KILL);
    let [_, b] = host.sockets();
    let survivor = wait(&b, "the survivor", |status| status.phase == "alone");
    assert_eq!((survivor.generation, survivor.protected), (2, false));
}

#[test]
#[ignore = "needs root and OpenSSH"]
fn a_lost_connection_leaves_one_copy() {
    let host = HostB::new();
    let primary = host.protect();
    kill_process(ssh_of(&primary), Signal::KILL).unwrap();
    // The one that the witness gave the generation runs on. The other one was denied: a primary pauses its guest, a receiver keeps its replica.
    let begun = Instant::now();
    let sides = || host.sockets().map(|socket| status(&socket)).into_iter().flatten().collect::<Vec<_>>();
    loop {
        let there = sides();
        let alone: Vec<_> = there.iter().filter(|side| side.phase == "alone").collect();
        assert!(alone.len() < 2, "both run: {there:#?}");
        if alone.len() == 1 && there.iter().all(|side| ["alone", "fenced", "denied"].contains(&side.phase.as_str())) {
            assert_eq!(alone[0].generation, 2);
            let guest = |side: &Status| side.guest == Guest::Running;
            assert_eq!(there.iter().filter(|side| guest(side)).count(), 1, "{there:#?}");
            break;
        }
        assert!(begun.elapsed() < LONG, "{there:#?}");
        std::thread::sleep(PAUSE);
    }
}

#[test]
#[ignore = "needs root and OpenSSH"]
fn a_guest_is_switched_over_and_comes_back() {
    let host = HostB::new();
    let mut primary = host.protect();
    let [a, b] = host.sockets();
    let switched = command(&["ctl", "web", "--control", a.to_str().unwrap(), "switch-over"]).output().unwrap();
    assert!(switched.status.success(), "{}", String::from_utf8_lossy(&switched.stderr));
    assert_eq!(primary.0.wait().unwrap().code(), Some(0));
    wait(&b, "the survivor", |status| status.phase == "alone");
    // The other way: its own ssh, to a receiver that waits behind another one.
    let listen = format!("unix:{}", host.text("link"));
    let witness = host.witness();
    let arguments =
        ["receive", "--domain=web", "--witness", &witness, "--control", a.to_str().unwrap(), "--listen", &listen];
    let mut receiver = command(&arguments);
    let _receiver = Guarded(receiver.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    wait(&a, "a receiver", |_| true);
    let back = format!("exec:{} hostb 'exec nc -U {}'", host.ssh(), host.text("link"));
    let asked = command(&["ctl", "web", "--control", b.to_str().unwrap(), "protect", &back]).output().unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    wait(&b, "protection the other way", |status| status.protected && status.acknowledged >= 3);
}

#[test]
#[ignore = "needs root and OpenSSH"]
fn what_ssh_refuses_is_told_in_its_words() {
    let host = HostB::new();
    let (ssh, witness) = (host.ssh(), host.witness());
    let try_it = |more: &[&str]| {
        let usual = ["remus", "--once", "--no-control", "--witness", &witness, "-s", &ssh];
        let ran = command(&[&usual[..], more, &["web", "hostb"]].concat()).output().unwrap();
        (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    host.knows("user_key.pub");
    let (code, errors) = try_it(&[]);
    assert!(code == Some(1) && errors.contains("Host key verification failed."), "{code:?} {errors}");
    assert!(errors.contains("ended before it said anything"), "{errors}");
    host.knows("host_key.pub");
    let (code, errors) = try_it(&["--remote-command", "xen-replicate-is-not-here receive"]);
    assert!(code == Some(1) && errors.contains("xen-replicate-is-not-here"), "{code:?} {errors}");
    fs::copy(host.path("host_key.pub"), host.path("user_key.pub")).unwrap();
    let (code, errors) = try_it(&[]);
    assert!(code == Some(1) && errors.contains("Permission denied"), "{code:?} {errors}");
}

/// As `docs/disks.md` has it: the primary's host has the keeper's socket forwarded.
#[test]
#[ignore = "needs root and OpenSSH"]
fn a_disk_follows_through_a_forwarded_socket() {
    let host = HostB::new();
    let images = ["a.image", "b.image"].map(|name| host.path(name));
    let content: Vec<u8> = (0..1_u32 << 18).flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    fs::write(&images[0], &content).unwrap();
    fs::write(&images[1], vec![0x33; content.len()]).unwrap();
    let disk = |side: &str, arguments: &[&str]| {
        let mut disk = command(&[&["disk"], arguments].concat());
        disk.env("XEN_REPLICATE_RUN", host.path(side)).stdout(Stdio::null()).stderr(Stdio::null());
        disk
    };
    let daemon = |side: &str, what: &[&str], image: &PathBuf| {
        let (socket, state) = (host.text(&format!("{side}.nbd")), host.text(&format!("{side}.state")));
        let own = ["--device", "/dev/nbd0", "--attach=", "--socket", &socket, "--state", &state];
        Guarded(disk(side, &[what, &own[..], &[image.to_str().unwrap()]].concat()).spawn().unwrap())
    };
    let appears = |path: PathBuf| {
        let begun = Instant::now();
        while !path.exists() {
            assert!(begun.elapsed() < LONG, "{} does not appear", path.display());
            std::thread::sleep(PAUSE);
        }
    };
    let [near, far] = ["near.link", "far.link"].map(|name| host.text(name));
    let _keeper = daemon("b", &["keep", "--overwrite", "--listen", &format!("unix:{far}")], &images[1]);
    appears(host.path("far.link"));
    let forwarded = format!("{near}:{far}");
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", &host.text("ssh_config"), "-N", "-L", &forwarded, "hostb"]);
    let mut ssh = Guarded(ssh.stdin(Stdio::null()).spawn().unwrap());
    appears(host.path("near.link"));
    let _primary = daemon("a", &["serve", "--to", &format!("unix:{near}")], &images[0]);
    let says = |text: &str| {
        let begun = Instant::now();
        loop {
            let told = disk("a", &["status", "/dev/nbd0"]).stdout(Stdio::piped()).output().unwrap();
            let told = String::from_utf8(told.stdout).unwrap();
            if told.contains(text) {
                break;
            }
            assert!(begun.elapsed() < LONG, "no {text:?}: {told}");
            std::thread::sleep(PAUSE);
        }
    };
    says("following, 100 %");
    assert!(fs::read(&images[1]).unwrap() == content, "the copy is another");
    // Its end is seen at once: nothing hangs on a connection that is gone.
    ssh.0.kill().unwrap();
    says("alone");
}
