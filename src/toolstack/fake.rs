//! The toolstack's other ends, for tests: a xenstored and a QEMU, on real sockets, and a hypervisor, of which each request can be made
//! to fail.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, missing_docs)]

use super::life::{CALLBACK_IRQ, Hypervisor};
use super::store::Server;
use crate::hypervisor::{DomainInfo, DomainKind, Error, Result, ShutdownReason, Uuid};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How long anybody waits for a fake that says nothing: long enough for one that does say something, on a busy machine.
pub const SHORT: Duration = Duration::from_secs(1);

/// How a request fails, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is refused.
    Refused,
    /// There is no answer, and the connection stays.
    Stall,
    /// The answer makes no sense.
    Nonsense,
    /// The connection ends.
    Cut,
}

pub const FAULTS: [Fault; 4] = [Fault::Refused, Fault::Stall, Fault::Nonsense, Fault::Cut];

/// Requests counted over all edges, and which of them fails.
#[derive(Debug, Default)]
pub struct Plan {
    pub calls: Vec<String>,
    pub at: Option<(usize, Fault)>,
    /// From that one on, all of them on this edge.
    pub lasting: bool,
}

impl Plan {
    pub fn shared() -> Arc<Mutex<Self>> {
        Arc::default()
    }

    /// Counts a call. Gives how it fails.
    pub fn call(&mut self, name: String) -> Option<Fault> {
        let number = self.calls.len();
        let edge = |name: &str| name.split(' ').next().unwrap_or_default().to_owned();
        let chosen = self.at.and_then(|(at, fault)| {
            let same = || self.calls.get(at).is_some_and(|first| edge(first) == edge(&name));
            (number == at || (self.lasting && number > at && same())).then_some(fault)
        });
        self.calls.push(name);
        chosen
    }
}

pub type Shared = Arc<Mutex<Plan>>;

/// A xenstore that is a map. `on_write` sees each write.
pub struct Xenstored {
    pub keys: Arc<Mutex<BTreeMap<String, String>>>,
    pub server: Server,
    pub resumed: Arc<Mutex<u32>>,
    /// Connections that have a watch.
    watchers: Arc<Mutex<Vec<UnixStream>>>,
}

type OnWrite = Arc<dyn Fn(&str, &str) + Send + Sync>;

impl Xenstored {
    pub fn start(folder: &Path, plan: &Shared, on_write: impl Fn(&str, &str) + Send + Sync + 'static) -> Self {
        let socket = folder.join("xenstored");
        let listener = UnixListener::bind(&socket).unwrap();
        let store = Xenstored {
            keys: Arc::default(),
            resumed: Arc::default(),
            watchers: Arc::default(),
            server: Server { socket, patience: SHORT },
        };
        let (keys, resumed, plan) = (Arc::clone(&store.keys), Arc::clone(&store.resumed), Arc::clone(plan));
        let on_write: OnWrite = Arc::new(on_write);
        let watchers = Arc::clone(&store.watchers);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (keys, resumed, plan) = (Arc::clone(&keys), Arc::clone(&resumed), Arc::clone(&plan));
                let (on_write, watchers) = (Arc::clone(&on_write), Arc::clone(&watchers));
                thread::spawn(move || serve(stream, &keys, &resumed, &plan, &on_write, &watchers));
            }
        });
        store
    }

    pub fn set(&self, path: &str, value: &str) {
        self.keys.lock().unwrap().insert(path.into(), value.into());
    }

    /// Tells everybody who watches that something has changed.
    pub fn fire(&self) {
        for stream in &mut *self.watchers.lock().unwrap() {
            let event = [[15, 0, 0, 5].map(u32::to_ne_bytes).as_flattened(), b"/a\0t\0"].concat();
            // Some have ended.
            let _ = stream.write_all(&event);
        }
    }
}

fn serve(
    mut stream: UnixStream,
    keys: &Mutex<BTreeMap<String, String>>,
    resumed: &Mutex<u32>,
    plan: &Mutex<Plan>,
    on_write: &OnWrite,
    watchers: &Mutex<Vec<UnixStream>>,
) -> Option<()> {
    loop {
        let mut header = [[0; 4]; 4];
        stream.read_exact(header.as_flattened_mut()).ok()?;
        let [kind, request, _, length] = header.map(u32::from_ne_bytes);
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body).ok()?;
        let body = String::from_utf8(body).unwrap();
        let parts: Vec<&str> = body.split('\0').collect();
        let path = parts[0];
        let fault = plan.lock().unwrap().call(format!("xenstore {kind} {path}"));
        let (kind, answer) = match fault {
            Some(Fault::Refused) => (16, b"EIO\0".to_vec()),
            Some(Fault::Stall) => continue,
            Some(Fault::Nonsense) => (99, b"what?".to_vec()),
            Some(Fault::Cut) => return None,
            None => {
                let mut keys = keys.lock().unwrap();
                let below = format!("{path}/");
                match kind {
                    1 => {
                        let inside = keys.keys().filter_map(|key| key.strip_prefix(&below));
                        let mut names: Vec<&str> = inside.filter_map(|rest| rest.split('/').next()).collect();
                        names.dedup();
                        match names.is_empty() && !keys.contains_key(path) {
                            true => (16, b"ENOENT\0".to_vec()),
                            false => (1, names.iter().flat_map(|name| [name.as_bytes(), &[0]].concat()).collect()),
                        }
                    }
                    2 => keys.get(path).map_or((16, b"ENOENT\0".to_vec()), |value| (2, value.clone().into_bytes())),
                    4 => {
                        watchers.lock().unwrap().push(stream.try_clone().ok()?);
                        (4, b"OK\0".to_vec())
                    }
                    6 => (6, b"1\0".to_vec()),
                    11 => {
                        keys.insert(path.into(), parts[1].into());
                        drop(keys);
                        on_write(path, parts[1]);
                        (11, b"OK\0".to_vec())
                    }
                    13 => {
                        keys.retain(|key, _| key != path && !key.starts_with(&below));
                        (13, b"OK\0".to_vec())
                    }
                    18 => {
                        *resumed.lock().unwrap() += 1;
                        (18, b"OK\0".to_vec())
                    }
                    kind => (kind, b"OK\0".to_vec()),
                }
            }
        };
        for word in [kind, request, 0, answer.len() as u32] {
            stream.write_all(&word.to_ne_bytes()).ok()?;
        }
        stream.write_all(&answer).ok()?;
    }
}

/// A QEMU, which runs or is stopped.
pub struct Qemu {
    pub running: Arc<Mutex<bool>>,
}

impl Qemu {
    pub fn start(folder: &Path, domid: u32, plan: &Shared) -> Self {
        let listener = UnixListener::bind(folder.join(format!("qmp-libxl-{domid}"))).unwrap();
        let running = Arc::new(Mutex::new(true));
        let (state, plan) = (Arc::clone(&running), Arc::clone(plan));
        thread::spawn(move || {
            // One client at a time, as QEMU has it.
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = converse(stream, &state, &plan);
            }
        });
        Qemu { running }
    }
}

fn converse(stream: UnixStream, running: &Mutex<bool>, plan: &Mutex<Plan>) -> Option<()> {
    let mut output = stream.try_clone().ok()?;
    let mut input = BufReader::new(stream);
    let mut request = json!({"execute": "connect"});
    loop {
        let name = request.get("execute").and_then(Value::as_str)?.to_owned();
        let fault = plan.lock().unwrap().call(format!("qmp {name}"));
        let answer = match fault {
            Some(Fault::Refused) => r#"{"error": {"desc": "no"}}"#.to_owned(),
            Some(Fault::Stall) => String::new(),
            Some(Fault::Nonsense) => "}{".into(),
            Some(Fault::Cut) => return None,
            None => {
                match &name[..] {
                    "stop" => *running.lock().unwrap() = false,
                    "cont" => *running.lock().unwrap() = true,
                    "xen-save-devices-state" => {
                        let path = request.pointer("/arguments/filename").and_then(Value::as_str)?;
                        fs::write(path, "QEVM state").ok()?;
                    }
                    _ => {}
                }
                if name == "connect" { r#"{"QMP": {}}"#.into() } else { r#"{"return": {}}"#.into() }
            }
        };
        if !answer.is_empty() {
            writeln!(output, "{answer}").ok()?;
        }
        let mut line = String::new();
        if input.read_line(&mut line).ok()? == 0 {
            return None;
        }
        request = serde_json::from_str(&line).ok()?;
    }
}

/// A domain of a hypervisor whose calls can fail.
pub struct FakeDomain {
    pub plan: Shared,
    pub suspended: Arc<Mutex<bool>>,
}

impl FakeDomain {
    fn call(&self, name: &'static str) -> Result<()> {
        match self.plan.lock().unwrap().call(format!("hypervisor {name}")) {
            None => Ok(()),
            Some(_) => {
                Err(Error::Hypercall { call: name, domid: DOMID, xen: None, source: std::io::ErrorKind::Other.into() })
            }
        }
    }
}

impl Hypervisor for FakeDomain {
    fn info(&self) -> Result<DomainInfo> {
        self.call("getdomaininfo")?;
        Ok(DomainInfo {
            domid: DOMID,
            name: "web".into(),
            uuid: uuid(),
            kind: DomainKind::Hvm,
            nr_vcpus: 1,
            nr_pfns: 1,
            populated: 1,
            max_pages: 1,
            paused: false,
            shutdown: self.suspended.lock().unwrap().then_some(ShutdownReason::Suspend),
        })
    }

    fn hvm_param(&self, index: u64) -> Result<u64> {
        self.call("hvm_param")?;
        Ok(u64::from(index == CALLBACK_IRQ))
    }

    fn suspend_from_outside(&mut self) -> Result<()> {
        self.call("shutdown")?;
        *self.suspended.lock().unwrap() = true;
        Ok(())
    }

    fn resume(&mut self) -> Result<()> {
        self.call("resume")?;
        let mut suspended = self.suspended.lock().unwrap();
        if !*suspended {
            return Err(Error::WrongState { domid: DOMID, operation: "resume", state: "not suspended" });
        }
        *suspended = false;
        Ok(())
    }
}

/// The only domain that there is.
pub const DOMID: u32 = 7;

pub fn uuid() -> Uuid {
    Uuid([7; 16])
}
