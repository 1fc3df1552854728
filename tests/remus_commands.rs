//! `remus`, `receive` and `ctl` as an operator types them: what is refused, what fails, and a peer without framing.

mod commands_support;

use commands_support::{Guarded, PROGRAM, command, wait};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use tempfile::TempDir;
use xen_replicate::control::status::Framing;

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command(arguments).output().unwrap();
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Place { folder: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A command for the other side, that dies with it and leaves its pid behind.
    fn remote(&self, options: &str) -> String {
        format!(
            "echo $$ > {}; exec {PROGRAM} receive --backend=sim --domain web --control {} {options}",
            self.text("pid"),
            self.text("b")
        )
    }

    fn end_remote(&self) {
        let pid = std::fs::read_to_string(self.path("pid")).unwrap().trim().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

#[test]
fn wrong_usage_is_named_and_exits_with_2() {
    for (arguments, told) in [
        (&["remus", "-b", "web", "x"][..], "-b (--blackhole) needs -F"),
        (&["remus", "--periodic", "web", "x"], "--colo"),
        (&["remus", "-c", "-i", "5", "web", "x"], "cannot be used with"),
        (&["remus", "web"], "HOST"),
        (&["remus", "--no-control", "web", "tcp:10.0.0.1:1"], "10.0.0.1:1 is not a loopback address"),
        (&["remus", "--no-control", "--sim", "{\"memory\":1}", "web", "unix:/x"], "too little for a guest"),
        (&["remus", "--no-control", "--timeout=100", "web", "unix:/x"], "three heartbeats"),
        (&["remus", "--no-control", "--failpoint=nowhere", "web", "unix:/x"], "no failpoint"),
        (&["receive"], "--domain"),
        (&["receive", "--no-control", "--domain=web", "--rule=witness"], "needs --witness"),
        (&["receive", "--no-control", "--domain=web", "--fd=90,91"], "descriptor 90"),
        (&["ctl", "web", "--control=/no/such/socket", "status"], "/no/such/socket"),
    ] {
        let (code, errors) = run(arguments);
        assert!(code == Some(2) && errors.contains(told), "{arguments:?}: {code:?} {errors}");
    }
}

#[test]
fn nobody_there_leaves_the_guest_unprotected_and_says_so() {
    for (host, told) in [
        ("unix:/no/such/socket", "unix:/no/such/socket: No such file"),
        ("exec:true", "ended before it said anything"),
        ("exec:echo Password:", "neither xen-replicate nor xl: it says \"Password:\""),
        (
            "exec:echo Welcome to Debian 12; sleep 1; echo more",
            "it says \"Welcome to Debian 12\". Where that is the text of a login",
        ),
        (&format!("exec:{PROGRAM} receive --backend=sim --bare --no-control --domain web"), "--allow-bare takes it"),
    ] {
        let (code, errors) = run(&["remus", "--once", "--no-control", "web", host]);
        assert!(code == Some(1) && errors.contains(told), "{host}: {code:?} {errors}");
    }
}

#[test]
fn a_receiver_says_who_it_will_not_take() {
    let place = Place::new();
    let refused = |input: &[u8], arguments: &[&str]| {
        std::fs::write(place.path("input"), input).unwrap();
        let stdin = std::fs::File::open(place.path("input")).unwrap();
        let ran =
            command(&[&["receive", "--no-control", "--domain=web"], arguments].concat()).stdin(stdin).output().unwrap();
        (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    let (code, errors) = refused(b"GET / HTTP/1.1\r\n\r\n", &[]);
    assert!(code == Some(2) && errors.contains("no xen-replicate"), "{errors}");
    let (code, errors) = refused(b"Xen saved domain, xl format\n \0 \r", &[]);
    assert!(code == Some(2) && errors.contains("--bare takes its stream"), "{errors}");
    let (code, errors) = refused(b"", &[]);
    assert_eq!(code, Some(1), "{errors}");
    let (code, errors) = refused(b"Xen saved domain, xl format\n \0 \r", &["--bare"]);
    assert!(code == Some(2) && errors.contains("before the first checkpoint was whole"), "{errors}");
}

#[test]
fn a_receiver_without_descriptors_lets_a_primary_wait() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let place = Place::new();
    let listen = format!("unix:{}", place.text("s"));
    let arguments = ["receive", "--domain=web", "--listen", &listen, "--control", &place.text("b")];
    let mut receiver = Guarded(command(&arguments).spawn().unwrap());
    let mut errors = BufReader::new(receiver.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(errors.any(|line| line.contains("rule manual")), "it does not listen");
    let pid = Pid::from_child(&receiver.0);
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let limit = |soft| prlimit(Some(pid), Resource::Nofile, Rlimit { current: soft, maximum }).unwrap();
    // Standard input, output and error are all that stays below it.
    let before = limit(Some(3));
    let control = place.text("a");
    let _primary = Guarded(command(&["remus", "-i", "10", "--control", &control, "web", &listen]).spawn().unwrap());
    let told = errors.find(|line| line.contains("a connection waits")).unwrap();
    assert!(told.contains("Too many open files"), "{told}");
    limit(before.current);
    wait(&place.path("a"), "protection", |status| status.acknowledged >= 1);
}

#[test]
fn another_domain_is_refused_at_the_greeting_on_both_sides() {
    let place = Place::new();
    let other = place.remote("").replace("--domain web", "--domain other");
    let (code, errors) = run(&["remus", "--once", "--no-control", "-i", "10", "web", &format!("exec:{other}")]);
    // Each side says so in its own log, which is one here, when they greet: nothing of the guest was sent.
    for part in ["the receiver there takes another domain than this one", "the primary protects another domain"] {
        assert!(code == Some(1) && errors.contains(part), "{code:?} {errors}");
    }
    assert!(!errors.contains("a checkpoint"), "{errors}");
}

#[test]
fn a_bare_peer_is_served_and_takes_over_as_xl_does() {
    let place = Place::new();
    bare_peer_takes_over(&place, &place.remote("--bare"), &place.path("b"));
}

#[test]
fn a_bare_receiver_learns_which_domain_comes() {
    let place = Place::new();
    // Its control socket has the domain's name only if it knows that.
    let run = place.text("run");
    let remote = place.remote("--bare").replace("--domain web --control", "-r --record");
    let remote = format!("XEN_REPLICATE_RUN={run} && export XEN_REPLICATE_RUN && {remote}");
    assert!(!remote.contains("web"), "{remote}");
    bare_peer_takes_over(&place, &remote, &place.path("run/web.sock"));
    let kept = std::fs::read(place.path("b")).unwrap();
    assert!(kept.starts_with(b"Xen saved domain, xl format\n"), "the preamble is part of the record");
    let refused = |input: &[u8], told: &str| {
        std::fs::write(place.path("input"), input).unwrap();
        let stdin = std::fs::File::open(place.path("input")).unwrap();
        let ran = command(&["receive", "--bare", "-r", "--no-control"]).stdin(stdin).output().unwrap();
        let errors = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.code() == Some(2) && errors.contains(told), "{errors}");
        // The sender is told to begin before anything is known of it, and nothing else.
        assert_eq!(ran.stdout, b"xl migration receiver ready, send binary domain data.\n");
    };
    refused(b"", "failed to fill");
    refused(&[b'x'; 64], "xl magic");
    refused(&kept[..100], "end of file");
    let mut long = kept[..48].to_vec();
    long[44..48].copy_from_slice(&u32::MAX.to_le_bytes());
    refused(&long, "over the limit of 16777216");
    let mut nameless = kept[..44].to_vec();
    nameless.extend(b"\x07\0\0\0\x03\0\0\0{}\0");
    refused(&nameless, "no name: give it by --domain");
}

/// `b` is the receiver's control socket.
fn bare_peer_takes_over(place: &Place, remote: &str, b: &Path) {
    let (control, host) = (place.text("a"), format!("exec:{remote}"));
    let arguments = ["remus", "--allow-bare", "-i", "10", "--control", &control, "web", &host];
    let mut primary = Guarded(command(&arguments).stderr(Stdio::null()).spawn().unwrap());
    let before = wait(&place.path("a"), "protection", |status| status.acknowledged >= 5);
    assert_eq!((before.framing, before.protected), (Some(Framing::Bare), true));
    primary.0.kill().unwrap();
    primary.0.wait().unwrap();
    let after = wait(b, "the survivor", |status| status.phase == "alone");
    assert_eq!((after.generation, after.peer), (0, None));
    place.end_remote();
}

#[test]
fn a_fence_that_fails_keeps_a_bare_secondary_passive() {
    let place = Place::new();
    let mark = place.text("mark");
    // Fails until the mark is there.
    let fence = format!("--bare --retry 10 --fence 'test -e {mark} || {{ touch {mark}.asked; false; }}'");
    let (control, host) = (place.text("a"), format!("exec:{}", place.remote(&fence)));
    let arguments = ["remus", "--allow-bare", "-i", "10", "--control", &control, "web", &host];
    let mut primary = Guarded(command(&arguments).stderr(Stdio::null()).spawn().unwrap());
    wait(&place.path("a"), "protection", |status| status.acknowledged >= 3);
    primary.0.kill().unwrap();
    let asked = PathBuf::from(format!("{mark}.asked"));
    let waiting = wait(&place.path("b"), "the fencing command", |_| asked.exists());
    assert_eq!(waiting.phase, "waiting");
    std::fs::write(&mark, "").unwrap();
    wait(&place.path("b"), "the survivor", |status| status.phase == "alone");
    place.end_remote();
}

#[test]
fn capabilities_are_set_by_the_names_of_micro_checkpointing() {
    let place = Place::new();
    std::fs::create_dir(place.path("w")).unwrap();
    let witness = place.text("w");
    let (control, host) = (place.text("a"), format!("exec:{}", place.remote(&format!("--witness {witness}"))));
    let arguments = ["remus", "--witness", &witness, "-i", "10", "--control", &control, "web", &host];
    let _primary = Guarded(command(&arguments).stderr(Stdio::null()).spawn().unwrap());
    wait(&place.path("a"), "protection", |status| status.protected);
    let set = |name, to| run(&["ctl", "web", "--control", &control, "set-capability", name, to]);
    for (name, to) in [("mc", "on"), ("mc-net-disable", "off"), ("mc-rdma-copy", "on"), ("rdma-keepalive", "on")] {
        assert_eq!(set(name, to), (Some(0), String::new()), "{name} {to}");
    }
    for (name, to, told) in [
        ("mc-net-disable", "on", "cannot be switched on while running"),
        ("mc-rdma-copy", "off", "--staging-limit"),
        ("rdma-keepalive", "off", "--timeout"),
        ("mc-zero", "on", "no capability"),
    ] {
        let (code, errors) = set(name, to);
        assert!(code == Some(1) && errors.contains(told), "{name} {to}: {code:?} {errors}");
    }
    assert_eq!(set("mc", "off"), (Some(0), String::new()));
    wait(&place.path("a"), "the end of protection", |status| status.phase == "alone" && !status.protected);
    let (code, errors) = set("mc", "on");
    assert!(code == Some(1) && errors.contains("protect HOST"), "{code:?} {errors}");
}

#[test]
fn nowhere_is_no_protection() {
    let place = Place::new();
    let control = place.text("a");
    let mut primary =
        Guarded(command(&["remus", "-Fb", "-i", "10", "--control", &control, "web", "x"]).spawn().unwrap());
    let status = wait(&place.path("a"), "checkpoints", |status| status.acknowledged >= 5);
    assert!(!status.protected && status.peer.as_deref() == Some("null:"), "{status:#?}");
    let (code, errors) = run(&["ctl", "web", "--control", &control, "switch-over"]);
    assert!(code == Some(1) && errors.contains("without acknowledging"), "{code:?} {errors}");
    let id = rustix::process::Pid::from_child(&primary.0);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert_eq!(primary.0.wait().unwrap().code(), Some(1));
    assert!(!place.path("a").exists(), "its socket is gone");
}

/// Where a secondary of its own can be reached, as a unit or a second terminal has it.
fn listening(place: &Place, witness: &str) -> (Guarded, String) {
    let listen = format!("unix:{}", place.text("l"));
    let arguments =
        ["receive", "--domain=web", "--witness", witness, "--listen", &listen, "--control", &place.text("b")];
    let mut receiver = Guarded(command(&arguments).spawn().unwrap());
    let errors = BufReader::new(receiver.0.stderr.take().unwrap());
    let (listens, heard) = std::sync::mpsc::channel();
    // Read to the end: a pipe that is full would stop the process.
    std::thread::spawn(move || {
        for line in errors.lines().map_while(Result::ok) {
            let _ = listens.send(line);
        }
    });
    assert!(heard.iter().any(|line| line.contains("rule witness")), "it does not listen");
    (receiver, listen)
}

#[test]
fn a_stray_start_takes_nothing_from_a_protected_domain() {
    let place = Place::new();
    std::fs::create_dir(place.path("w")).unwrap();
    let witness = place.text("w");
    let (_receiver, listen) = listening(&place, &witness);
    let arguments = ["remus", "--witness", &witness, "-i", "10", "--control", &place.text("a"), "web", &listen];
    let mut primary = Guarded(command(&arguments).stderr(Stdio::null()).spawn().unwrap());
    let before = wait(&place.path("a"), "protection", |status| status.acknowledged >= 3);
    assert_eq!(before.generation, 1);
    let nowhere = format!("unix:{}", place.text("nolink"));
    let (code, errors) = run(&["remus", "--once", "--no-control", "--witness", &witness, "web", &nowhere]);
    assert!(code == Some(3) && errors.contains("which is in charge of the domain"), "{code:?} {errors}");
    let names = std::fs::read_dir(&witness).unwrap().map(|entry| entry.unwrap().file_name());
    let given = names.filter(|name| name.to_string_lossy().starts_with("web.")).count();
    assert_eq!(given, 1, "the pair's generation is the only one that was acquired");
    primary.0.kill().unwrap();
    primary.0.wait().unwrap();
    let survivor = wait(&place.path("b"), "the survivor", |status| status.phase == "alone");
    assert_eq!(survivor.generation, 2);
}

#[test]
fn a_primary_that_is_heard_is_failed_over_by_force_only() {
    let place = Place::new();
    std::fs::create_dir(place.path("w")).unwrap();
    let witness = place.text("w");
    let (_receiver, listen) = listening(&place, &witness);
    let arguments = ["remus", "--witness", &witness, "-i", "10", "--control", &place.text("a"), "web", &listen];
    let _primary = Guarded(command(&arguments).stderr(Stdio::null()).spawn().unwrap());
    wait(&place.path("b"), "a checkpoint", |status| status.acknowledged >= 3);
    let b = place.text("b");
    let (code, errors) = run(&["ctl", "web", "--control", &b, "fail-over"]);
    assert!(code == Some(1) && errors.contains("the primary is alive") && errors.contains("--force"), "{errors}");
    wait(&place.path("a"), "protection that goes on", |status| status.protected);
    let (code, errors) = run(&["ctl", "web", "--control", &b, "fail-over", "--force"]);
    assert_eq!(code, Some(0), "{errors}");
    // The witness was asked all the same, so the primary knows.
    let fenced = wait(&place.path("a"), "the fence", |status| status.phase == "fenced");
    assert_eq!(fenced.generation, 2);
}

/// What was typed, and what it ended with.
fn typed(arguments: &[&str], code: i32, parts: &[&str]) {
    let (ended, errors) = run(arguments);
    assert!(ended == Some(code) && parts.iter().all(|part| errors.contains(part)), "{arguments:?}: {ended:?} {errors}");
}

#[test]
fn listening_never_takes_the_place_of_a_file() {
    let place = Place::new();
    let (file, folder) = (place.text("file"), place.text("folder"));
    std::fs::write(&file, "precious").unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(place.path("image"), vec![0; 1 << 16]).unwrap();
    let image = place.text("image");
    for (path, what) in [(&file, "an ordinary file"), (&folder, "a directory")] {
        let at = format!("unix:{path}");
        // Of its own each, for `disk serve` puts the image into service before it listens.
        let [kept, served] = ["kept", "served"].map(|state| format!("{path}.{state}"));
        let usual = |state| ["--attach=", "--device", "/dev/nbd0", "--state", state];
        let parts = [path.as_str(), what, "use another path, or remove it first"];
        typed(&["receive", "--no-control", "--domain=web", "--listen", &at], 2, &parts);
        typed(&["tap", "--listen", &at, "--forward", "unix:/no/such/socket"], 2, &parts);
        typed(&[&["disk", "keep", "--listen", &at], &usual(&kept)[..], &[&image]].concat(), 2, &parts);
        typed(&[&["disk", "serve", "--socket", path], &usual(&served)[..], &[&image]].concat(), 2, &parts);
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    assert!(Path::new(&folder).is_dir());
}

#[test]
fn a_plain_migration_starts_no_guest() {
    use xen_replicate::host::sim::xl_config;
    use xen_replicate::hypervisor::sim::{SimConfig, SimDomain};
    use xen_replicate::libxl::{Saver, save};
    let config = SimConfig { name: "web".into(), ..SimConfig::small(3) };
    let mut domain = SimDomain::create(&config).unwrap();
    let options = save::Options { config: Some(xl_config(&config)), ..save::Options::default() };
    let stream = Saver::new(&mut domain, options).unwrap().plain(&mut domain, Vec::new(), true).unwrap();
    for named in [&["--domain=web"][..], &[]] {
        starts_no_guest(&stream, named);
    }
}

/// The stream of a plain migration, the connection left open behind it.
#[track_caller]
fn starts_no_guest(stream: &[u8], named: &[&str]) {
    let arguments = [&["receive", "--bare", "--no-control"], named].concat();
    let mut receiver = Guarded(command(&arguments).stdin(Stdio::piped()).spawn().unwrap());
    // It stays open, as the sender's that waits for the word that its guest runs there.
    let mut connection = receiver.0.stdin.take().unwrap();
    std::io::Write::write_all(&mut connection, stream).unwrap();
    let errors = std::io::read_to_string(receiver.0.stderr.take().unwrap()).unwrap();
    assert_eq!(receiver.0.wait().unwrap().code(), Some(2), "{errors}");
    for part in ["has no checkpoint", "nothing was lost: the sender keeps its guest", "xl migrate-receive"] {
        assert!(errors.contains(part), "{errors}");
    }
    assert!(!errors.contains("the guest runs here"), "{errors}");
    // The banner, and no word of a guest that runs.
    let mut said = String::new();
    std::io::Read::read_to_string(&mut receiver.0.stdout.take().unwrap(), &mut said).unwrap();
    assert_eq!(said, "xl migration receiver ready, send binary domain data.\n");
}

/// As it was found: a capture of an earlier version's stream, its pages' contents made zero.
#[test]
fn a_plain_migration_that_once_started_a_guest_starts_none() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/sim");
    let file = std::fs::File::open(folder.join("plain-migrate.xz")).unwrap();
    let mut stream = Vec::new();
    std::io::Read::read_to_end(&mut lzma_rust2::XzReader::new(file, true), &mut stream).unwrap();
    starts_no_guest(&stream, &["--domain=demo"]);
}

#[test]
fn a_fence_that_could_never_succeed_is_refused_at_the_start() {
    let receive = |fence: &str, part: &str| {
        typed(&["receive", "--no-control", "--domain=web", "--fence", fence], 2, &["--fence", part]);
    };
    receive("", "the command is empty");
    receive("if true", "sh does not understand");
    receive("/no/such/fence b", "\"/no/such/fence\" is no command here");
    typed(&["remus", "--no-control", "--fence", "true", "web", "unix:/x"], 2, &["--fence", "give it to receive"]);
}

#[test]
fn a_stock_sender_cannot_be_listened_for() {
    let place = Place::new();
    let at = format!("unix:{}", place.text("link"));
    typed(&["receive", "--no-control", "--domain=web", "--bare", "--listen", &at], 2, &["--bare", "--listen", "--fd"]);
    assert!(!place.path("link").exists());
}

#[test]
fn a_command_that_stays_silent_does_not_outlive_the_primary() {
    let place = Place::new();
    let pid = place.text("pid");
    let host = format!("exec:sh -c 'echo $$ > {pid}; exec sleep 1000' & wait");
    typed(
        &["remus", "--once", "--no-control", "--answer-timeout=2000", "--timeout=2000", "web", &host],
        1,
        &["nobody answered"],
    );
    let pid: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "it still runs: {stat}");
}

#[test]
fn without_xen_a_guest_is_protected_or_received_only_when_simulated_is_said() {
    if Path::new("/dev/xen/privcmd").exists() {
        return println!("not run: this host has a Xen");
    }
    let place = Place::new();
    let witness = place.text("witness");
    std::fs::create_dir(&witness).unwrap();
    for arguments in [
        &["remus", "--no-control", "--witness", &witness, "web", "unix:/nowhere"][..],
        &["remus", "-Fb", "--no-control", "web", "x"],
        &["remus", "--once", "--allow-bare", "--no-control", "web", "b"],
        &["receive", "--no-control", "--domain=web", "--witness", &witness],
        &["receive", "--bare", "--no-control", "-r"],
        &["receive", "--backend=xen", "--no-control", "--domain=web"],
    ] {
        let plain = std::process::Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap();
        let errors = String::from_utf8_lossy(&plain.stderr);
        assert!(plain.status.code() == Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains("this host has no Xen") && errors.contains("--backend sim"), "{errors}");
        assert!(plain.stdout.is_empty(), "nothing was said to a sender");
    }
    assert_eq!(std::fs::read_dir(&witness).unwrap().count(), 0, "the witness was touched");
    for (option, value) in [("--nic", "127.0.0.1:0"), ("--sim", "{}")] {
        let arguments = ["remus", "--backend=xen", "--no-control", option, value, "web", "unix:/x"];
        typed(&arguments, 2, &[option, "is for --backend sim"]);
    }
    // And a simulated one says so.
    let control = place.text("a");
    let _primary = Guarded(command(&["remus", "-Fb", "-i", "10", "--control", &control, "web", "x"]).spawn().unwrap());
    let status = wait(&place.path("a"), "a status", |status| status.acknowledged >= 1);
    assert!(status.simulated);
    let shown = command(&["ctl", "web", "--control", &control, "status"]).output().unwrap();
    assert!(String::from_utf8_lossy(&shown.stdout).starts_with("web: SIMULATED guest, primary"), "{shown:?}");
}

/// A HELLO of another version, whatever that has behind its number.
fn hello_of_version(version: u16) -> Vec<u8> {
    use xen_replicate::remus::wire::{HEADER_LEN, MAGIC};
    let payload = [&version.to_le_bytes()[..], &[0x5a; 60]].concat();
    let mut header = vec![1, 0, 0, 0];
    header.extend((payload.len() as u32).to_le_bytes());
    header.extend(1u64.to_le_bytes());
    header.extend(0u32.to_le_bytes());
    let check = xxhash_rust::xxh3::xxh3_64(&[&header[..], &payload].concat()) as u32;
    header.extend(check.to_le_bytes());
    assert_eq!(header.len(), HEADER_LEN);
    [&MAGIC[..], &header, &payload].concat()
}

#[test]
fn a_peer_of_another_version_is_told_at_once_on_both_sides() {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use xen_replicate::remus::wire::{Body, Control, Direction, FrameBuffer, MAGIC};
    // Nothing ends by being late.
    const HOUR: &str = "--answer-timeout=3600000";
    let place = Place::new();
    let at = format!("unix:{}", place.text("link"));
    let arguments = ["receive", "--once", "--no-control", "--domain=web", HOUR, "--listen", &at];
    let receiver = command(&arguments).spawn().unwrap();
    let mut primary = loop {
        match UnixStream::connect(place.path("link")) {
            Ok(stream) => break stream,
            Err(_) => std::thread::yield_now(),
        }
    };
    primary.write_all(&hello_of_version(9)).unwrap();
    let mut said = Vec::new();
    primary.read_to_end(&mut said).unwrap();
    let mut frames = FrameBuffer::new(Direction::Backward);
    assert!(said.starts_with(&MAGIC));
    frames.push(&said);
    let first = frames.next().unwrap().expect("a frame");
    assert!(matches!(first.body, Body::Control(Control::Hello(_))), "which version this is: {first:?}");
    let ended = receiver.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr);
    let told = "the peer speaks version 9, this is version 2: install the same version";
    assert!(ended.status.code() == Some(1) && errors.contains(told), "{errors}");

    let listener = UnixListener::bind(place.path("fake")).unwrap();
    let host = format!("unix:{}", place.text("fake"));
    let primary = command(&["remus", "--once", "--no-control", HOUR, "web", &host]).spawn().unwrap();
    let (mut secondary, _) = listener.accept().unwrap();
    secondary.write_all(&hello_of_version(9)).unwrap();
    let ended = primary.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && errors.contains(told), "{errors}");
}

#[test]
fn an_idle_client_keeps_no_primary_from_connecting() {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    // Nothing ends by being late.
    const HOUR: &str = "--answer-timeout=3600000";
    for (colo, said) in [(false, &b""[..]), (false, b"\x89XRemus\n"), (true, b"")] {
        let place = Place::new();
        let (at, a, b) = (format!("unix:{}", place.text("link")), place.text("a"), place.text("b"));
        let mut receive = vec!["receive", "--domain=web", HOUR, "--timeout=500", "--control", &b, "--listen", &at];
        let mut remus = vec!["remus", HOUR, "--timeout=500", "--control", &a, "web", &at];
        if colo {
            receive.push("--colo");
            remus.push("--colo");
        }
        let _receiver = Guarded(command(&receive).stderr(Stdio::null()).spawn().unwrap());
        let mut idle = loop {
            match UnixStream::connect(place.path("link")) {
                Ok(stream) => break stream,
                Err(_) => std::thread::yield_now(),
            }
        };
        idle.write_all(said).unwrap();
        wait(&place.path("b"), "the idle client", |status| status.phase == "greeting");
        let _primary = Guarded(command(&remus).stderr(Stdio::null()).spawn().unwrap());
        wait(&place.path("a"), "protection", |status| status.protected);
    }
}

#[test]
fn a_memory_budget_that_is_too_small_is_named_and_not_borne_for_ever() {
    let place = Place::new();
    let (at, b) = (format!("unix:{}", place.text("link")), place.text("b"));
    let receive = ["receive", "--domain=web", "--memory-budget=1", "--control", &b, "--listen", &at];
    let _receiver = Guarded(command(&receive).stderr(Stdio::null()).spawn().unwrap());
    wait(&place.path("b"), "the receiver", |_| place.path("link").exists());
    // Dirties 4 MiB in 20 ms.
    let sim = r#"{"memory":2048,"layout":"compact","vcpus":1,"image_pages":64,"working_set":1024,"hot_pages":16,
        "hot_permille":0,"writes_per_step":100}"#;
    let usual = ["remus", "--once", "--no-control", "-i", "20", "--sim", sim];
    let (code, errors) = run(&[&usual[..], &["--refusals-of-100=3", "web", &at]].concat());
    assert!(code == Some(1), "{errors}");
    for part in [
        "refused a checkpoint (budget): its --memory-budget is too small",
        "giving up protection: the secondary's --memory-budget",
    ] {
        assert!(errors.contains(part), "{errors}");
    }
}
