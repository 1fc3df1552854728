//! This project on a real Xen 4.17, its save helper under the stock `xl` and its own engine: the lab of `tests/xen-lab`, driven and
//! judged.
//!
//! A job's own checks are in its verdict. What the guests wrote on their consoles is judged here: every checksum must be that of the
//! guest's memory at that count, as computed here from the count alone, and no count may be left out.
#![forbid(unsafe_code)]

#[path = "xen-lab/guest/work.rs"]
#[allow(dead_code)]
mod work;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use work::Shape;

/// One lab at a time; which releases of Xen have been built, each with which option.
static LAB: Mutex<Vec<(&'static str, &'static str)>> = Mutex::new(Vec::new());

/// What `build` makes no more than it is told to.
const USUAL: &str = "";
const SHADOW: &str = "--shadow";
const PACKAGE: &str = "--package";

struct Lab {
    scripts: PathBuf,
    home: PathBuf,
    /// Of Xen, of both hosts where there are two, as `run` and `run-two` are told.
    releases: &'static str,
    shadow: bool,
    _one: MutexGuard<'static, Vec<(&'static str, &'static str)>>,
}

/// One line of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    count: u64,
    sum: u64,
}

/// A lab of a release of Xen, or of two (`A,B`): the first host's, the second's.
fn lab(releases: &'static str) -> Lab {
    lab_with(releases, USUAL)
}

fn lab_with(releases: &'static str, option: &'static str) -> Lab {
    let mut built = LAB.lock().unwrap_or_else(PoisonError::into_inner);
    let project = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let scripts = project.join("tests/xen-lab");
    let home = std::env::var_os("XEN_LAB").map_or_else(
        || std::env::var_os("CARGO_TARGET_DIR").map_or(project.join("target"), PathBuf::from).join("xen-lab"),
        PathBuf::from,
    );
    for release in releases.split(',') {
        if !built.contains(&(release, option)) {
            let mut build = Command::new(scripts.join("build"));
            build.args(["--xen", release]).args(option.split_whitespace()).env("XEN_LAB", &home);
            let status = build.status().expect("the lab's build");
            assert!(status.success(), "the lab's images of {release}: {status}");
            built.push((release, option));
        }
    }
    Lab { scripts, home, releases, shadow: option == SHADOW, _one: built }
}

impl Lab {
    /// Runs one of the lab's scripts until it has a verdict, which must be good; gives the folder of what came out.
    fn run(&self, script: &str, name: &str, arguments: &[&str]) -> PathBuf {
        let folder = self.home.join("runs").join(format!("{name}-{}", self.releases));
        let status = Command::new(self.scripts.join(script))
            .env("XEN_LAB", &self.home)
            .args(["-x", self.releases])
            .args(self.shadow.then_some("-s"))
            .arg("-o")
            .arg(&folder)
            .args(arguments)
            .status()
            .unwrap_or_else(|error| panic!("{script}: {error}"));
        if !status.success() {
            // Where only the output is kept, as in CI, that is all there is to go by.
            logs(&folder);
        }
        assert_ne!(status.code(), Some(3), "the emulator did not get through: {}", folder.display());
        assert!(status.success(), "{script} {arguments:?}: {status}, see {}", folder.display());
        folder
    }

    fn helper(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let folder = self.run("run", name, &[&["helper"], arguments].concat());
        for (log, text) in [("results/timings", "save"), ("results/passes", "restore exits with 0")] {
            let found = fs::read_to_string(folder.join(log)).expect("a result");
            assert!(found.contains(text), "{log} has no {text}: {found}");
        }
        folder
    }
}

/// Prints what the jobs of a run said, of each host and attempt.
fn logs(folder: &Path) {
    let mut hosts = vec![folder.to_path_buf(), folder.join("a"), folder.join("b")];
    for attempt in 1..=3 {
        let before = folder.with_extension(attempt.to_string());
        hosts.extend([before.clone(), before.join("a"), before.join("b")]);
    }
    for path in hosts.iter().map(|host| host.join("dom0.log")) {
        if let Ok(bytes) = fs::read(&path) {
            println!("---- {}", path.display());
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<_> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(400)..] {
                println!("{line}");
            }
        }
    }
}

/// What the guest's console has of whole lines, and the shape of its memory where it is said there.
fn console(path: &Path) -> (Option<Shape>, Vec<Line>) {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut shape = None;
    let mut lines = Vec::new();
    for line in String::from_utf8_lossy(&bytes).lines() {
        let fields: HashMap<_, _> = line.split_whitespace().filter_map(|field| field.split_once('=')).collect();
        if let (true, Some(pages), Some(step)) =
            (line.starts_with("LAB shape"), fields.get("pages"), fields.get("step"))
        {
            shape = Some(Shape { pages: pages.parse().expect("pages"), step: step.parse().expect("pages of a step") });
        }
        // A guest that is destroyed leaves half a line.
        if let (true, Some(count), Some(sum), true) =
            (line.starts_with("LAB count"), fields.get("count"), fields.get("sum"), fields.contains_key("up"))
        {
            lines.push(Line {
                count: count.parse().expect("a count"),
                sum: u64::from_str_radix(sum, 16).expect("a checksum"),
            });
        }
    }
    (shape, lines)
}

/// Follows one guest over its consoles, in the order of its life. It may be set back, to a checkpoint or the state at a failover, but never
/// leave out a count.
fn follow(consoles: &[PathBuf]) -> Vec<Line> {
    let mut shape = None;
    let mut before: Option<u64> = None;
    let mut all = Vec::new();
    let mut known = HashMap::new();
    for path in consoles {
        let (said, lines) = console(path);
        shape = shape.or(said);
        let shape = shape.unwrap_or_else(|| panic!("{}: not the guest's first console", path.display()));
        assert!(lines.len() >= 3, "{}: {} lines", path.display(), lines.len());
        for line in lines {
            let next = before.map_or(1, |before| before + 1);
            assert!(line.count <= next, "{}: {} behind {before:?}", path.display(), line.count);
            let expected = *known.entry(line.count).or_insert_with(|| work::expected(shape, line.count));
            assert_eq!(line.sum, expected, "{}: memory at count {}", path.display(), line.count);
            before = Some(line.count);
            all.push(line);
        }
    }
    all
}

fn consoles(folder: &Path, names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(|name| folder.join(format!("consoles/guest-{name}.log"))).collect()
}

/// Our helper must have been at work, not the stock one.
fn ours_spoke(folder: &Path, log: &str) {
    let text = fs::read(folder.join("results").join(log)).unwrap_or_else(|error| panic!("{log}: {error}"));
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("xen-replicate-save-helper: debug: starting"), "{log} does not name our helper");
}

fn every_step(lab: &Lab, guest: &str) {
    let folder = lab.helper(guest, &[&format!("type={guest}"), "sender=ours", "receiver=ours"]);
    for log in ["save.log", "restore.log", "checkpoint.log", "checkpoint-restore.log", "migrate.log", "remus.log"] {
        ours_spoke(&folder, log);
    }
    for log in ["migrate-receiver.log", "remus-receiver.log"] {
        ours_spoke(&folder, log);
    }
    follow(&consoles(&folder, &["guest", "migrated", "failed-over"]));
}

/// One of the two that CI runs: PVH, ours on both sides, without live migration.
fn quick_pvh(releases: &'static str) {
    let lab = lab(releases);
    let folder = lab.helper("quick-pvh", &["type=pvh", "sender=ours", "receiver=ours", "steps=save remus"]);
    for log in ["save.log", "restore.log", "remus.log", "remus-receiver.log"] {
        ours_spoke(&folder, log);
    }
    follow(&consoles(&folder, &["guest", "failed-over"]));
}

fn full_pvh(releases: &'static str) {
    every_step(&lab(releases), "pvh");
}

fn full_hvm(releases: &'static str) {
    every_step(&lab(releases), "hvm");
}

/// On a hypervisor that can track a PV guest's writes, which Debian's cannot.
fn full_pv(releases: &'static str) {
    every_step(&lab_with(releases, SHADOW), "pv");
}

/// PV where its writes cannot be tracked: saved and restored, ours and stock in turns.
fn full_pv_saved(releases: &'static str) {
    let lab = lab(releases);
    for (sender, receiver) in [("ours", "ours"), ("ours", "stock"), ("stock", "ours")] {
        let (name, sender, receiver) =
            (format!("pv-saved-{sender}-{receiver}"), format!("sender={sender}"), format!("receiver={receiver}"));
        let folder = lab.helper(&name, &["type=pv", &sender, &receiver, "steps=save"]);
        follow(&consoles(&folder, &["guest"]));
    }
}

/// Both helpers in turns on one guest, and the ratio of their times.
fn full_compare(releases: &'static str) {
    let folder = lab(releases).run("run", "compare", &["compare", "type=pvh"]);
    let compared = fs::read_to_string(folder.join("results/comparison")).expect("a comparison");
    for what in ["save", "restore", "migrate", "suspended"] {
        assert!(compared.lines().any(|line| line.starts_with(what)), "no {what}: {compared}");
    }
    print!("{compared}");
}

/// One helper reads what the other has written.
fn mixed(lab: &Lab, guest: &str) {
    for (sender, receiver) in [("ours", "stock"), ("stock", "ours"), ("stock", "stock")] {
        let name = format!("{guest}-{sender}-{receiver}");
        let arguments = [format!("type={guest}"), format!("sender={sender}"), format!("receiver={receiver}")];
        let folder = lab.helper(&name, &arguments.each_ref().map(String::as_str));
        if sender == "ours" {
            ours_spoke(&folder, "remus.log");
        }
        if receiver == "ours" {
            ours_spoke(&folder, "remus-receiver.log");
        }
        follow(&consoles(&folder, &["guest", "migrated", "failed-over"]));
    }
}

fn full_mixed_helpers(releases: &'static str) {
    let lab = lab(releases);
    for guest in ["pvh", "hvm"] {
        mixed(&lab, guest);
    }
}

fn full_mixed_helpers_pv(releases: &'static str) {
    mixed(&lab_with(releases, SHADOW), "pv");
}

/// A guest is moved to a second host, another outlives the first host there.
fn full_two_hosts(releases: &'static str) {
    let lab = lab(releases);
    let folder = lab.run("run-two", "two", &["type=pvh", "sender=ours", "receiver=ours"]);
    let (a, b) = (folder.join("a"), folder.join("b"));
    for log in ["migrate.log", "remus.log"] {
        ours_spoke(&a, log);
    }
    for log in ["migrate-receiver.log", "remus-receiver.log"] {
        ours_spoke(&b, log);
    }
    follow(&[consoles(&a, &["moved"]), consoles(&b, &["moved--incoming"])].concat());
    outlives(&a, &b);
}

/// The guest `protected` of the first host goes on at the second.
fn outlives(a: &Path, b: &Path) {
    // The first host's copy of its console ends before the host does: the second host's may begin behind it.
    let first = follow(&consoles(a, &["protected"]));
    let (_, second) = console(&b.join("consoles/guest-protected--incoming.log"));
    let shape = console(&a.join("consoles/guest-protected.log")).0.expect("the shape of the memory");
    assert!(second.len() >= 3 && second[0].count > 1, "{} lines from {:?}", second.len(), second.first());
    assert!(second[0].count + 50 > first[first.len() - 1].count, "the second host is far behind: {:?}", second[0]);
    for pair in second.windows(2) {
        assert_eq!(pair[1].count, pair[0].count + 1, "the second host's copy leaves something out");
    }
    for line in second {
        assert_eq!(line.sum, work::expected(shape, line.count), "memory at count {}", line.count);
    }
}

/// This project's own engine on one host: failover with the output held, protection again, switch-over; and what must end well for the
/// guest.
fn full_engine(releases: &'static str) {
    let lab = lab(releases);
    let steps = "steps=ours again dropped refused nomemory dies";
    let folder = lab.run("run", "engine", &["-t", "2400", "engine", "type=pvh", "net=1", steps]);
    follow(&consoles(&folder, &["guest", "failed-over", "switched-over"]));
}

/// The same next to the stock tools.
fn full_engine_and_stock_tools(releases: &'static str) {
    let lab = lab(releases);
    let arguments = ["-t", "1800", "engine", "type=pvh", "steps=nowhere stock bare"];
    let folder = lab.run("run", "engine-stock", &arguments);
    follow(&consoles(&folder, &["guest", "failed-over-stock", "bare"]));
}

/// The same with a device model beside the guest.
fn full_engine_hvm(releases: &'static str) {
    let lab = lab(releases);
    let folder = lab.run("run", "engine-hvm", &["-t", "2400", "engine", "type=hvm", "steps=nowhere ours"]);
    follow(&consoles(&folder, &["guest", "failed-over"]));
}

fn full_engine_pv(releases: &'static str) {
    let lab = lab_with(releases, SHADOW);
    let arguments = ["-t", "2400", "engine", "type=pv", "net=1", "steps=nowhere ours"];
    let folder = lab.run("run", "engine-pv", &arguments);
    follow(&consoles(&folder, &["guest", "failed-over"]));
}

/// The buffer of the network is a script's (`-N`).
fn full_engine_with_a_script(releases: &'static str) {
    let folder = lab(releases).run("run", "engine-script", &["engine", "type=pvh", "net=script", "steps=ours dies"]);
    follow(&consoles(&folder, &["guest", "failed-over"]));
}

/// The guest offers a suspend event channel.
fn full_suspend_channel(releases: &'static str) {
    let folder = lab(releases).run("run", "channel", &["channel", "type=pvh"]);
    follow(&consoles(&folder, &["guest"]));
}

/// The Debian package, in a dom0 that has never seen it. Needs cargo-deb.
fn full_package(releases: &'static str) {
    lab_with(releases, PACKAGE).run("run", "package", &["-t", "2400", "package"]);
}

/// The other one that CI runs: the engine between two hosts, of which the first dies.
fn quick_engine_two_hosts(releases: &'static str) {
    let lab = lab(releases);
    let folder = lab.run("run-two", "engine-two", &["-j", "engine-two", "type=pvh"]);
    outlives(&folder.join("a"), &folder.join("b"));
}

fn full_engine_two_hosts_pv(releases: &'static str) {
    let lab = lab_with(releases, SHADOW);
    let folder = lab.run("run-two", "engine-two-pv", &["-j", "engine-two", "type=pv"]);
    outlives(&folder.join("a"), &folder.join("b"));
}

fn full_engine_two_hosts_hvm(releases: &'static str) {
    let folder = lab(releases).run("run-two", "engine-two-hvm", &["-j", "engine-two", "type=hvm"]);
    outlives(&folder.join("a"), &folder.join("b"));
}

/// The guest has a disk of this project's kind, behind the kernel's NBD client, and knows at each step what must be on it.
fn full_engine_with_a_disk(releases: &'static str) {
    let lab = lab(releases);
    let folder = lab.run("run-two", "engine-two-disk", &["-j", "engine-two", "type=pvh", "disk=1"]);
    outlives(&folder.join("a"), &folder.join("b"));
}

/// The second of them dies: the guest is where it was.
fn full_engine_second_host_dies(releases: &'static str) {
    let lab = lab(releases);
    let folder = lab.run("run-two", "engine-two-secondary", &["-j", "engine-two", "type=pvh", "fault=secondary"]);
    follow(&consoles(&folder.join("a"), &["protected"]));
}

/// The link between them is cut: just one goes on.
fn full_engine_link_cut(releases: &'static str) {
    let lab = lab(releases);
    let folder = lab.run("run-two", "engine-two-link", &["-j", "engine-two", "type=pvh", "fault=link"]);
    let (a, b) = (folder.join("a"), folder.join("b"));
    let second = fs::read_to_string(folder.join("witness/outcome-b")).expect("what became of the second host's copy");
    match second.trim() {
        "active" => outlives(&a, &b),
        "ended" => drop(follow(&consoles(&a, &["protected"]))),
        other => panic!("{other}"),
    }
}

/// A guest that gives memory back, takes it again and writes between two checkpoints, by the engine and by `xl remus`.
fn full_balloon(releases: &'static str) {
    let lab = lab(releases);
    for by in ["engine", "helper"] {
        lab.run("run", &format!("balloon-{by}"), &["balloon", &format!("by={by}")]);
    }
}

/// And what is lost where it is not looked for: the gap is there.
fn full_balloon_unseen(releases: &'static str) {
    lab(releases).run("run", "balloon-unseen", &["balloon", "by=engine", "trust=1", "lost=1"]);
}

/// The tests of a release of Xen, each booting emulated hosts for minutes.
macro_rules! on {
    ($module:ident, $releases:literal: $($test:ident)*) => {
        mod $module {
            $(
                #[test]
                #[ignore = "boots emulated Xen hosts, for minutes"]
                fn $test() {
                    super::$test($releases);
                }
            )*
        }
    };
}

on! { xen_4_17, "4.17":
    quick_pvh full_pvh full_hvm full_pv full_pv_saved full_compare full_mixed_helpers full_mixed_helpers_pv full_two_hosts
    full_engine full_engine_and_stock_tools full_engine_hvm full_engine_pv full_engine_with_a_script
    full_suspend_channel full_package quick_engine_two_hosts full_engine_two_hosts_pv
    full_engine_two_hosts_hvm full_engine_with_a_disk full_engine_second_host_dies full_engine_link_cut
    full_balloon full_balloon_unseen
}

// Without what needs shadow paging: PV that is saved while it runs.
on! { xen_4_14, "4.14":
    quick_pvh full_pvh full_hvm full_pv_saved full_mixed_helpers full_two_hosts full_engine full_engine_and_stock_tools
    full_engine_hvm full_engine_with_a_script full_suspend_channel quick_engine_two_hosts
    full_engine_two_hosts_hvm full_engine_with_a_disk full_engine_second_host_dies full_engine_link_cut
    full_balloon full_balloon_unseen
}

on! { xen_4_20, "4.20":
    quick_pvh full_pvh full_hvm full_pv_saved full_mixed_helpers full_two_hosts full_engine full_engine_and_stock_tools
    full_engine_hvm full_engine_with_a_script full_suspend_channel quick_engine_two_hosts
    full_engine_two_hosts_hvm full_engine_with_a_disk full_engine_second_host_dies full_engine_link_cut full_balloon
}

#[test]
fn the_guests_memory_is_a_function_of_its_count() {
    for shape in [Shape { pages: 7, step: 3 }, Shape { pages: 5, step: 5 }, Shape { pages: 8, step: 1 }] {
        let mut writers = vec![0; shape.pages];
        for count in 1..40 {
            for nth in 0..shape.step {
                writers[shape.written(count, nth)] = count;
            }
            for (page, writer) in writers.iter().enumerate() {
                assert_eq!(shape.writer(count, page), *writer, "page {page} of {shape:?} at {count}");
            }
        }
    }
}
