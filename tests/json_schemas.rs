//! What the commands print as JSON, against the schemas that are published in `docs/schema`.

mod commands_support;
mod common;

use commands_support::{Guarded, command, wait};
use common::{compressed_fixtures, fixture};
use jsonschema::Validator;
use serde_json::{Deserializer, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xen_replicate::control::Status;
use xen_replicate::host_info::HostInfo;
use xen_replicate::replicate::status::{Kept, LockStep};

const SCHEMAS: [&str; 13] = [
    "diff",
    "diff-hosts",
    "disk-status",
    "dump",
    "fit",
    "host-info",
    "info",
    "report",
    "session",
    "stats",
    "stats-session",
    "status",
    "verify",
];

fn schema(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema").join(format!("{name}.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Holds values against a schema, and counts them.
struct Held {
    name: &'static str,
    validator: Validator,
    values: u64,
}

impl Held {
    fn new(name: &'static str) -> Held {
        assert!(SCHEMAS.contains(&name));
        Held { name, validator: jsonschema::draft202012::new(&schema(name)).unwrap(), values: 0 }
    }

    fn value(&mut self, of: &str, value: &Value) {
        let errors: Vec<_> = self.validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{}: {of}: {errors:#?}\n{value:#}", self.name);
        self.values += 1;
    }

    /// All values that a command prints; how it ends is not asked.
    fn printed(&mut self, arguments: &[&str]) {
        let out = command(arguments).output().unwrap();
        let before = self.values;
        for value in Deserializer::from_slice(&out.stdout).into_iter::<Value>() {
            self.value(&arguments.join(" "), &value.unwrap());
        }
        assert!(self.values > before, "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

fn all_in(folder: &str, end: &str) -> Vec<String> {
    let mut paths: Vec<_> = fs::read_dir(fixture(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(end));
    paths.sort();
    assert!(paths.len() > 5, "{folder}");
    paths.into_iter().map(|path| path.to_str().unwrap().to_owned()).collect()
}

/// Streams from the save helper, one of each guest of a real host, and the faulty ones.
fn streams() -> Vec<String> {
    let names = compressed_fixtures().into_iter();
    let names =
        names.filter(|name| name.starts_with("helper/") || name.ends_with("-live") || name.ends_with("0-remus"));
    let path = |name: String| fixture(&format!("{name}.xz")).to_str().unwrap().to_owned();
    names.map(path).chain(all_in("inputs", ".bin")).collect()
}

#[test]
fn schemas_are_sound_and_know_no_other_key() {
    let listed: Vec<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema")).unwrap().collect();
    assert_eq!(listed.len(), SCHEMAS.len(), "a schema that no test holds anything against");
    for name in SCHEMAS {
        let schema = schema(name);
        assert!(jsonschema::meta::is_valid(&schema), "{name}");
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{name}");
        let held = jsonschema::draft202012::new(&schema).unwrap();
        assert!(!held.is_valid(&json!({"another": 1})) && !held.is_valid(&json!([])), "{name}");
    }
    let mut told = serde_json::to_value(Status::default()).unwrap();
    Held::new("status").value("the default", &told);
    told["another"] = json!(1);
    assert!(!Held::new("status").validator.is_valid(&told));
}

#[test]
fn streams_are_told_as_published() {
    let [mut dump, mut verify, mut info, mut stats, mut report] =
        ["dump", "verify", "info", "stats", "report"].map(Held::new);
    for file in streams() {
        // Text, zeros and images of other formats have no items.
        if command(&["dump", "--json", &file]).output().unwrap().stdout.first() == Some(&b'{') {
            dump.printed(&["dump", "--json", &file]);
        }
        verify.printed(&["verify", "--json", "--all", "--deep", &file]);
        info.printed(&["info", "--json", &file]);
        stats.printed(&["stats", "--json", &file]);
        report.printed(&["report", "--json", &file]);
    }
    assert!(dump.values > 3000 && verify.values > 30 && info.values > 30 && stats.values > 30);
    let log = tempfile::NamedTempFile::new().unwrap();
    fs::write(&log, format!("{}\nno status\n", serde_json::to_string(&Status::default()).unwrap())).unwrap();
    report.printed(&["report", "--json", log.path().to_str().unwrap()]);
    assert_eq!(report.values, stats.values + 1);
}

#[test]
fn differences_are_told_as_published() {
    let mut diff = Held::new("diff");
    let file = |name: &str| fixture(name).to_str().unwrap().to_owned();
    let remus = file("xen/4.17.7stock-pvh40-remus.xz");
    diff.printed(&["diff", "--json", "--checkpoints", "1", "12", &remus]);
    diff.printed(&["diff", "--json", "--checkpoints", "2", "2", &remus]);
    diff.printed(&["diff", "--json", &remus, &file("helper/hvm-plain-libxl.xz")]);
}

/// What this host is, and one of which all is known.
fn hosts(held: &mut Held) -> [Value; 2] {
    let printed = || {
        let out = command(&["host-info", "--path", "/dev/null"]).output().unwrap();
        serde_json::from_slice::<Value>(&out.stdout).unwrap()
    };
    let here = printed();
    held.value("this host", &here);
    let stream = fixture("xen/4.17.7stock-hvm64-live.xz");
    let dumped = command(&["dump", "--json", "--type", "X86_CPUID_POLICY", stream.to_str().unwrap()]).output().unwrap();
    let policy = serde_json::from_slice::<Value>(&dumped.stdout).unwrap();
    let mut known = here.clone();
    known["host"] = json!("b");
    known["xen"] = json!({"version": "4.17", "extra": ".7"});
    known["toolstack"] = json!({"libxl": ["4.17"]});
    for which in ["host", "pv_max", "pv_default", "hvm_max", "hvm_default"] {
        known["cpu_policies"][which] = json!({"cpuid": policy["body"], "msrs": []});
    }
    known["xsave"] = json!({"pv": {"xcr0": "0x7", "size": 832}, "hvm": {"xcr0": "0x7", "size": 832}});
    known["hvm_context"] = json!({"LAPIC": 24, "CPU": null});
    known["qemu"] = json!({"path": "/usr/bin/qemu", "version": "7.2.22", "machines": ["pc"]});
    known["memory"] = json!({"total": 1_u64 << 33, "free": 1_u64 << 32});
    known["bridges"] = json!({"linux": ["xenbr0"], "interfaces": ["eth0", "xenbr0"]});
    let known = HostInfo::parse(known.to_string().as_bytes()).unwrap();
    let known = serde_json::to_value(known).unwrap();
    held.value("a host of which all is known", &known);
    [here, known]
}

#[test]
fn hosts_and_what_fits_them_are_told_as_published() {
    let [mut info, mut fit, mut diff] = ["host-info", "fit", "diff-hosts"].map(Held::new);
    let folder = TempDir::new().unwrap();
    let hosts = hosts(&mut info);
    let files = [("a", &hosts[0]), ("b", &hosts[1])].map(|(name, host)| {
        let path = folder.path().join(name);
        fs::write(&path, host.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    });
    diff.printed(&["diff", "--json", &files[0], &files[1]]);
    diff.printed(&["diff", "--json", &files[0], &files[0]]);
    let streams = ["xen/4.17.7stock-hvm64-live.xz", "xen/4.20stock-hvm64-save.xz", "helper/pv-plain-libxc.xz"];
    for stream in streams.map(|name| fixture(name).to_str().unwrap().to_owned()) {
        for target in ["xen-4.14", "xen-4.17", "xen-4.18", "xen-4.22", &files[0], &files[1]] {
            fit.printed(&["verify", "--json", "--for", target, &stream]);
        }
    }
    assert_eq!((info.values, fit.values, diff.values), (2, 18, 2));
}

#[test]
fn recorded_sessions_are_told_as_published() {
    let [mut session, mut stats, mut verify] = ["session", "stats-session", "verify"].map(Held::new);
    for file in all_in("colo", ".rec.xz") {
        session.printed(&["dump", "--json", &file]);
        stats.printed(&["stats", "--json", &file]);
        verify.printed(&["verify", "--json", &file]);
    }
    let kinds = schema("session")["oneOf"].as_array().unwrap().len();
    assert!(kinds == 13 && session.values > 100, "{kinds} {}", session.values);
}

#[test]
fn a_side_tells_itself_as_published() {
    let mut held = Held::new("status");
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (witness, link, control) = (path("witness"), format!("unix:{}", path("link")), path("control"));
    fs::create_dir(&witness).unwrap();
    let arguments = ["receive", "--domain=web", "--witness", &witness, "--listen", &link, "--control", &control];
    let _receiver = Guarded(command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    wait(&PathBuf::from(&control), "a receiver", |_| true);
    held.printed(&["ctl", "web", "--control", &control, "status", "--json"]);
    let arguments = ["remus", "-i", "20", "--witness", &witness, "--control", &path("a"), "web", &link];
    let _primary = Guarded(command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    wait(&PathBuf::from(path("a")), "protection", |status| status.protected && status.acknowledged >= 3);
    held.printed(&["ctl", "web", "--control", &path("a"), "status", "--json"]);
    held.printed(&["ctl", "web", "--control", &control, "status", "--json"]);
    // What only some sides have.
    let status = Status {
        alarm: Some("out of reach".to_owned()),
        kept: Some(Kept::default()),
        lock_step: Some(LockStep::default()),
        ..Status::default()
    };
    held.value("a side with everything", &serde_json::to_value(status).unwrap());
    assert_eq!(held.values, 4);
}

#[test]
fn a_disks_daemon_tells_itself_as_published() {
    let mut held = Held::new("disk-status");
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let link = format!("unix:{}", path("link"));
    let disk = |side: &str, what: &[&str]| {
        let image = path(&format!("{side}.image"));
        fs::write(&image, vec![7; 1 << 16]).unwrap();
        let (socket, state) = (path(&format!("{side}.nbd")), path(&format!("{side}.state")));
        let own = ["--device", "/dev/nbd0", "--attach=", "--socket", &socket, "--state", &state, &image];
        let mut disk = command(&[&["disk"], what, &own[..]].concat());
        disk.env("XEN_REPLICATE_RUN", path(side)).stdout(Stdio::null()).stderr(Stdio::null());
        Guarded(disk.spawn().unwrap())
    };
    let status = |held: &mut Held, side: &str| {
        let end = Instant::now() + Duration::from_secs(300);
        loop {
            let mut asked = command(&["disk", "status", "--json", "/dev/nbd0"]);
            let out = asked.env("XEN_REPLICATE_RUN", path(side)).output().unwrap();
            if out.status.success() {
                return held.value(side, &serde_json::from_slice(&out.stdout).unwrap());
            }
            assert!(Instant::now() < end, "{side}: {}", String::from_utf8_lossy(&out.stderr));
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let _keeper = disk("b", &["keep", "--overwrite", "--listen", &link]);
    status(&mut held, "b");
    let _primary = disk("a", &["serve", "--to", &link]);
    status(&mut held, "a");
    assert_eq!(held.values, 2);
}
