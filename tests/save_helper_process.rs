//! The save helper as a process of its own, started as libxl starts it: descriptors, signals, exit codes.
//!
//! This program is both: with a helper's arguments it is a save helper for a simulated guest, without it runs the
//! tests. Hence no harness of libtest's, which would write to stdout; names of tests to run may be given as usual.

#[path = "helper_ends/guest.rs"]
mod guest;

use guest::Guest;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::env;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{self, ExitCode, Stdio};
use std::time::{Duration, Instant};
use xen_replicate::hypervisor::Domain;
use xen_replicate::hypervisor::sim::{Digest, SimConfig};
use xen_replicate::save_helper::arguments::{Restore, Save};
use xen_replicate::save_helper::message::Level;
use xen_replicate::save_helper::parent::answer;
use xen_replicate::save_helper::*;

/// What guest the helper has, as JSON in the environment.
const GUEST: &str = "XEN_REPLICATE_TEST_GUEST";
/// Where it writes the guest's digest at its end.
const DIGEST: &str = "XEN_REPLICATE_TEST_DIGEST";

#[derive(Debug, Serialize, Deserialize)]
struct Start {
    config: SimConfig,
    steps: u64,
    suspended: bool,
}

type Test = (&'static str, fn());

const TESTS: [Test; 6] = [
    ("an_image_goes_from_one_helper_to_another", an_image_goes_from_one_helper_to_another),
    ("sigterm_frees_a_save_from_a_write_that_nobody_reads", sigterm_frees_a_save_from_a_write_that_nobody_reads),
    ("sigterm_ends_a_restore_at_once", sigterm_ends_a_restore_at_once),
    ("a_command_line_of_no_use", a_command_line_of_no_use),
    ("a_descriptor_that_was_not_inherited", a_descriptor_that_was_not_inherited),
    ("a_helper_out_of_time_is_ended", a_helper_out_of_time_is_ended),
];

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    if env::var_os(GUEST).is_some() {
        return helper(arguments);
    }
    let filters: Vec<_> = arguments.iter().filter_map(|a| a.to_str()).filter(|a| !a.starts_with('-')).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    for (name, test) in TESTS {
        if filters.is_empty() || filters.iter().any(|filter| name.contains(filter)) {
            test();
            println!("test {name} ... ok");
        }
    }
    ExitCode::SUCCESS
}

fn helper(arguments: Vec<std::ffi::OsString>) -> ExitCode {
    let start: Start = serde_json::from_str(&env::var(GUEST).unwrap()).unwrap();
    let mut seen = None;
    let exit = child_main(arguments, |command| {
        let guest = match command {
            Command::Save(_) => Guest::running(&start.config, start.steps).goes_on(3),
            Command::Restore(_) => Guest::empty(&start.config),
        };
        if start.suspended {
            guest.lock().suspend()?;
        }
        seen = Some(guest.clone());
        Ok(Opened { domain: guest, xen: (4, 17), nr_pfns: None, live: Default::default() })
    });
    if let (Some(guest), Some(path)) = (seen, env::var_os(DIGEST)) {
        let tracked = guest.is_tracked();
        let found = (guest.lock().digest_but_cleared().unwrap(), tracked);
        fs::write(path, serde_json::to_vec(&found).unwrap()).unwrap();
    }
    exit
}

fn small() -> SimConfig {
    SimConfig { emulator_xenstore: false, ..SimConfig::small(5) }
}

/// What the next helpers are to have. One test at a time runs here.
fn environment(start: &Start, digest: Option<&Path>) {
    // SAFETY: this process has one thread.
    unsafe {
        env::set_var(GUEST, serde_json::to_string(start).unwrap());
        env::remove_var(DIGEST);
        digest.into_iter().for_each(|path| env::set_var(DIGEST, path));
    }
}

fn started(command: &Command, stream: &File) -> Helper {
    Helper::start(&env::current_exe().unwrap(), command, stream.as_fd(), None).unwrap()
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(60))
}

fn save(flags: Flags) -> Command {
    let callbacks = Callbacks::from_bits_retain(136);
    let fds = Fds { stream: 3, back: None };
    Command::Save(Save { fds, domid: 1, flags, callbacks, stream: StreamType::Plain })
}

fn restore() -> Command {
    let callbacks = Callbacks::from_bits_retain(768);
    let (fds, rings) = (Fds { stream: 3, back: None }, Default::default());
    Command::Restore(Restore { fds, domid: 2, rings, callbacks, stream: StreamType::Plain })
}

type Seen<'a> = Box<dyn FnMut(&str) + 'a>;

/// libxl; `seen` sees each line and each progress as it comes.
struct Libxl<'a> {
    lines: Vec<String>,
    results: Vec<(u64, u64)>,
    seen: Seen<'a>,
}

impl<'a> Libxl<'a> {
    fn new(seen: impl FnMut(&str) + 'a) -> Self {
        Libxl { lines: Vec::new(), results: Vec::new(), seen: Box::new(seen) }
    }
}

impl Answers for Libxl<'_> {
    fn log(&mut self, level: Level, errno: u32, context: &CStr, text: &CStr) {
        let line = format!("{} {level:?} {} {}", context.to_str().unwrap(), errno as i32, text.to_str().unwrap());
        (self.seen)(&line);
        self.lines.push(line);
    }

    fn progress(&mut self, _: &CStr, doing: &CStr, _: u64, _: u64) {
        (self.seen)(doing.to_str().unwrap());
    }

    fn suspend(&mut self) -> i32 {
        1
    }

    fn restore_results(&mut self, store_gfn: u64, console_gfn: u64) {
        self.results.push((store_gfn, console_gfn));
    }
}

fn digest(path: &Path) -> (Digest, bool) {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn an_image_goes_from_one_helper_to_another() {
    let directory = tempfile::tempdir().unwrap();
    let [saved, restored] = ["saved", "restored"].map(|name| directory.path().join(name));
    for flags in [Flags::empty(), Flags::LIVE | Flags::DEBUG] {
        let mut stream = tempfile::tempfile().unwrap();
        environment(&Start { config: small(), steps: 30, suspended: true }, Some(&saved));
        let mut libxl = Libxl::new(|_| {});
        let good = Completion { retval: 0, errno: 0 };
        let (completion, status) = started(&save(flags), &stream).answer(&mut libxl, soon()).unwrap();
        assert_eq!((completion, status.code()), (good, Some(0)));
        assert_eq!(libxl.lines[0], "xen-replicate-save-helper Debug 0 starting save");
        assert_eq!(libxl.lines[1], "xc Info -1 Saving domain 1, type x86 HVM");

        stream.rewind().unwrap();
        environment(&Start { config: small(), steps: 0, suspended: false }, Some(&restored));
        let mut libxl = Libxl::new(|_| {});
        let (completion, status) = started(&restore(), &stream).answer(&mut libxl, soon()).unwrap();
        assert_eq!((completion, status.code()), (good, Some(0)));
        let equal = libxl.lines.iter().any(|line| line.starts_with("xc Info -1 VERIFY: ") && line.ends_with("equal"));
        assert_eq!(equal, flags.contains(Flags::DEBUG), "{:?}", libxl.lines);
        assert!(libxl.lines.iter().any(|line| line == "xc Info -1 Found x86 HVM domain from Xen 4.17"));
        assert!(matches!(libxl.results[..], [(store, console)] if store != 0 && console != 0));

        let ((saved, tracked), (restored, _)) = (digest(&saved), digest(&restored));
        assert!(!tracked);
        // The device model is libxl's business.
        assert_eq!((restored.memory, restored.vcpus), (saved.memory, saved.vcpus));
    }
}

fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().chars().next().unwrap()
}

fn sigterm_frees_a_save_from_a_write_that_nobody_reads() {
    let directory = tempfile::tempdir().unwrap();
    let after = directory.path().join("after");
    let (_nobody_reads, stream) = std::io::pipe().unwrap();
    let stream = File::from(std::os::fd::OwnedFd::from(stream));
    environment(&Start { config: small(), steps: 30, suspended: false }, Some(&after));
    let mut helper = started(&save(Flags::LIVE), &stream);
    let pid = helper.id();
    let mut told = false;
    let mut libxl = Libxl::new(|line| {
        if line == "Frames iteration 0" && !std::mem::replace(&mut told, true) {
            // It does not wait for a reply, so what it sleeps in can only be the write.
            let limit = soon().unwrap();
            while state(pid) != 'S' {
                assert!(Instant::now() < limit, "the helper does not come to rest");
                std::thread::yield_now();
            }
            kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::TERM).unwrap();
        }
    });
    let (completion, status) = helper.answer(&mut libxl, soon()).unwrap();
    assert_eq!(completion, Completion { retval: -1, errno: 4 });
    assert_eq!(status.code(), Some(0));
    assert!(libxl.lines.iter().any(|line| line == "xc Error -1 Save of domain 1 failed: called off by SIGTERM"));
    drop(libxl);
    assert!(told);
    let (_, tracked) = digest(&after);
    assert!(!tracked);
}

fn sigterm_ends_a_restore_at_once() {
    let (stream, _nobody_writes) = std::io::pipe().unwrap();
    let stream = File::from(std::os::fd::OwnedFd::from(stream));
    environment(&Start { config: small(), steps: 0, suspended: false }, None);
    let mut helper = started(&restore(), &stream);
    let pid = Pid::from_raw(helper.id() as i32).unwrap();
    let mut libxl = Libxl::new(|line| {
        if line.ends_with("Restoring domain") {
            kill_process(pid, Signal::TERM).unwrap();
        }
    });
    let error = helper.answer(&mut libxl, soon()).unwrap_err();
    assert!(matches!(error, ParentError::Ended), "{error}");
    assert_eq!(helper.wait().unwrap().signal(), Some(15));
}

fn by_hand(arguments: &[&str]) -> process::Child {
    let mut command = process::Command::new(env::current_exe().unwrap());
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn a_command_line_of_no_use() {
    environment(&Start { config: small(), steps: 0, suspended: false }, None);
    for arguments in [&["--save-domain", "3"][..], &[], &["--help"]] {
        let output = by_hand(arguments).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(255), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("LIBXL_SAVE_HELPER"), "{arguments:?}");
    }
}

fn a_descriptor_that_was_not_inherited() {
    environment(&Start { config: small(), steps: 0, suspended: false }, None);
    let arguments = save(Flags::empty()).with_fds(Fds { stream: 987, back: None }).emit();
    let mut child = by_hand(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let mut libxl = Libxl::new(|_| {});
    let (mut messages, mut replies) = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
    let completion = answer(&mut messages, &mut replies, &mut libxl).unwrap();
    assert_eq!(completion, Completion { retval: -1, errno: 9 });
    let mut rest = Vec::new();
    messages.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn a_helper_out_of_time_is_ended() {
    let (stream, _nobody_writes) = std::io::pipe().unwrap();
    let stream = File::from(std::os::fd::OwnedFd::from(stream));
    environment(&Start { config: small(), steps: 0, suspended: false }, None);
    let mut helper = started(&restore(), &stream);
    let pid = helper.id();
    let error = helper.answer(&mut Libxl::new(|_| {}), Some(Instant::now())).unwrap_err();
    assert!(matches!(error, ParentError::TimedOut), "{error}");
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    drop(helper);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}
