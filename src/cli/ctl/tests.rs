//! Against a server whose statuses follow a script.

use super::*;
use crate::control::Server;
use crate::control::status::Role;
use crate::remus::wire::Capabilities;
use clap::Parser;
use std::collections::VecDeque;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

struct Scripted {
    server: Option<Server>,
    path: PathBuf,
    requests: Arc<Mutex<Vec<Request>>>,
    _folder: TempDir,
}

fn parse(args: &[&str]) -> Result<Args, String> {
    let line = ["ctl", "web"].iter().chain(args);
    Line::try_parse_from(line).map(|line| line.args).map_err(|error| error.to_string())
}

impl Scripted {
    /// The first phase is told until a command comes, then one after the other, the last again and again.
    fn new(phases: &[&str]) -> Self {
        Self::telling(phases, None)
    }

    /// The same, and says when the last but one is told.
    fn telling(phases: &[&str], last: Option<Sender<()>>) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("s");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let script = Mutex::new((phases.iter().map(|p| p.to_string()).collect::<VecDeque<_>>(), false, last));
        let asked = requests.clone();
        let handler = move |request: Request| {
            let (phases, begun, last) = &mut *script.lock().unwrap();
            let reply = match &request {
                Request::Status => {
                    let phase = if *begun && phases.len() > 1 { phases.pop_front() } else { None };
                    let phase = phase.unwrap_or_else(|| phases[0].clone());
                    if phases.len() == 1 && *begun {
                        last.take().map(|last| last.send(()));
                    }
                    let protected = phase == "protected";
                    let role = if phase == "passive" { Role::Secondary } else { Role::Primary };
                    Reply::status(Status { domain: "web".into(), phase, protected, role, ..Status::default() })
                }
                Request::Capabilities => Reply::capabilities(Capabilities::OFFERED, Capabilities::OFFERED),
                Request::Unprotect { .. } => Reply::error("not now"),
                _ => Reply::done(),
            };
            *begun |= request != Request::Status;
            asked.lock().unwrap().push(request);
            reply
        };
        let server = Server::bind(&path, Arc::new(handler)).unwrap();
        Scripted { server: Some(server), path, requests, _folder: folder }
    }

    fn run(&self, args: &[&str]) -> (io::Result<bool>, String) {
        let args = [args, &["--control", self.path.to_str().unwrap()]].concat();
        let mut out = Vec::new();
        let result = run_to(&parse(&args).unwrap(), &mut out);
        (result, String::from_utf8(out).unwrap())
    }

    fn commands(&self) -> Vec<Request> {
        self.requests.lock().unwrap().drain(..).filter(|r| *r != Request::Status).collect()
    }
}

#[test]
fn the_arguments_are_as_documented() {
    for good in [
        &["status"][..],
        &["status", "--watch"],
        &["status", "--json", "--control", "/x"],
        &["--control=/x", "--timeout=1", "status"],
        &["set-interval", "1"],
        &["switch-over"],
        &["protect", "b"],
        &["protect", "b", "-s", "", "--remote-command", "x"],
        &["protect", "b", "--rsh", "rsh"],
        &["unprotect", "--force"],
        &["fail-over", "--force", "--timeout", "86400"],
        &["capabilities"],
        &["set-capability", "mc", "off"],
    ] {
        assert!(parse(good).is_ok(), "{good:?}: {:?}", parse(good));
    }
    for bad in [
        &[][..],
        &["reboot"],
        &["set-interval"],
        &["set-interval", "0"],
        &["set-capability", "mc"],
        &["set-capability", "mc", "maybe"],
        &["set-interval", "60001"],
        &["protect"],
        &["switch-over", "--force"],
        &["status", "--timeout=0"],
    ] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_status_comes_as_table_or_json() {
    let site = Scripted::new(&["protected"]);
    let (result, table) = site.run(&["status"]);
    assert!(result.unwrap());
    assert!(table.starts_with("web: primary, protected, protected;"), "{table}");
    let (result, json) = site.run(&["status", "--json"]);
    assert!(result.unwrap());
    let status: Status = serde_json::from_str(&json).unwrap();
    assert_eq!((status.domain.as_str(), json.lines().count()), ("web", 1));
}

#[test]
fn watching_ends_with_the_server() {
    for (format, tables) in [
        (&["status", "--watch"][..], "web: primary, protected"),
        (&["status", "--watch", "--json"], "{\"domain\":\"web\""),
    ] {
        let (tell, told) = channel();
        let mut site = Scripted::telling(&["alone", "alone", "protected"], Some(tell));
        let server = site.server.take().unwrap();
        // The script begins: one status to see whose socket it is, one to begin with, and the last.
        Client::connect(&site.path).unwrap().request(&Request::SwitchOver).unwrap();
        let ending = std::thread::spawn(move || {
            told.recv().unwrap();
            drop(server);
        });
        let (result, text) = site.run(format);
        ending.join().unwrap();
        assert!(result.unwrap());
        assert!(text.lines().any(|line| line.starts_with(tables)), "{text}");
    }
}

#[test]
fn commands_arrive_as_typed() {
    let site = Scripted::new(&["protected"]);
    assert!(site.run(&["set-interval", "50"]).0.unwrap());
    assert_eq!(site.commands(), [Request::SetInterval { ms: 50 }]);
    let (result, list) = site.run(&["capabilities"]);
    assert!(result.unwrap());
    assert_eq!(list.lines().count(), 8);
    assert!(list.contains("mc-net-disable  mc-net-disable  no       no      remus -n -F"), "{list}");
    assert!(list.contains("local-copy      mc-rdma-copy    yes      yes     "), "{list}");
    assert!(site.run(&["set-capability", "mc-rdma-copy", "on"]).0.unwrap());
    assert_eq!(site.commands()[1..], [Request::SetCapability { name: "mc-rdma-copy".into(), on: true }]);
    let site = Scripted::new(&["alone", "alone", "connecting", "protected"]);
    assert!(site.run(&["protect", "b", "-s", "", "--remote-command=x"]).0.unwrap());
    let protect = Request::Protect { host: "b".into(), rsh: Some("".into()), remote: Some("x".into()) };
    assert_eq!(site.commands(), [protect]);
}

#[test]
fn outcomes_are_waited_for() {
    let outcome = |phases: &[&str], args: &[&str]| Scripted::new(phases).run(args).0.unwrap();
    assert!(outcome(&["protected", "protected", "delegated", "switched-over"], &["switch-over"]));
    assert!(!outcome(&["protected", "delegated", "alone"], &["switch-over"]));
    assert!(!outcome(&["alone", "connecting", "alone"], &["protect", "b"]));
    assert!(outcome(&["passive", "passive", "active"], &["fail-over", "--force"]));
    assert!(outcome(&["protected", "leaving", "alone"], &["set-capability", "mc", "off"]));
    // Refused, and therefore not waited for.
    assert!(!outcome(&["protected", "alone"], &["unprotect"]));
    // Nothing changes within the time-out.
    assert!(!outcome(&["protected"], &["switch-over", "--timeout=1"]));
}

#[test]
fn the_last_status_of_a_server_that_ends_counts() {
    for (end, done) in [("switched-over", true), ("delegated", false)] {
        let (tell, told) = channel();
        let mut site = Scripted::telling(&["protected", "delegated", end], Some(tell));
        let server = site.server.take().unwrap();
        let ending = std::thread::spawn(move || {
            told.recv().unwrap();
            drop(server);
        });
        assert_eq!(site.run(&["switch-over"]).0.unwrap(), done);
        ending.join().unwrap();
    }
}

#[test]
fn another_domains_socket_is_left_alone() {
    let site = Scripted::new(&["protected"]);
    let socket = site.path.to_str().unwrap();
    for action in ["switch-over", "status"] {
        let line = Line::try_parse_from(["ctl", "db", action, "--control", socket]).unwrap();
        let error = run_to(&line.args, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("belongs to domain web, not to db"), "{error}");
    }
    assert_eq!(site.commands(), []);
}

#[test]
fn nobody_there_is_said_so() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("none");
    let socket = path.to_str().unwrap();
    for args in [&["status"][..], &["switch-over"], &["status", "--watch"], &["set-interval", "5"]] {
        let args = parse(&[args, &["--control", socket]].concat()).unwrap();
        let error = run_to(&args, &mut Vec::new()).unwrap_err().to_string();
        assert_eq!(error, format!("no xen-replicate is running for domain web (socket {socket})"));
    }
}
