//! This project's libxl half with a helper as its libxc, Debian's and ours, and this project in one process at the other end.

use crate::control::Control;
use crate::helper::{program, rings};
use crate::home::{Home, Program, assert_restored, fifo, guest};
use crate::plain::configs;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use xen_replicate::hypervisor::sim::{SimConfig, SimDomain};
use xen_replicate::hypervisor::{DeviceModel, Domain, DomainInfo, EmulatorHeader, Error, Result};
use xen_replicate::inspect::progress::Progress;
use xen_replicate::inspect::{Input, verify};
use xen_replicate::libxl::{Restorer, Saver, Started, Turn, restore, save};
use xen_replicate::save_helper::Flags;
use xen_replicate::save_helper::driver::{self, DriverError, Libxc};
use xen_replicate::save_helper::restore::Ended;
use xen_replicate::stream::framer::{self, What, record_name};
use xen_replicate::stream::handover::LibxlReader;
use xen_replicate::stream::reader::SliceReader;
use xen_replicate::stream::{Mode, Start};

/// Who is libxc at one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// A helper, driven by our libxl.
    Helper(Program),
    /// This project, libxl and libxc in one process.
    Whole,
}

use Program::{Debians, Ours};
use Side::{Helper, Whole};

/// Every pairing in which a helper has a part.
const PAIRS: [(Side, Side); 8] = [
    (Helper(Debians), Whole),
    (Whole, Helper(Debians)),
    (Helper(Ours), Whole),
    (Whole, Helper(Ours)),
    (Helper(Debians), Helper(Debians)),
    (Helper(Debians), Helper(Ours)),
    (Helper(Ours), Helper(Debians)),
    (Helper(Ours), Helper(Ours)),
];

const CONFIG: &str = r#"{"domain_type":"hvm"}"#;

/// The domain of a helper's process as libxl has it: the guest by the control socket, the device model on this side.
struct Remote {
    path: PathBuf,
    header: EmulatorHeader,
    blob: Vec<u8>,
    keys: Vec<(String, String)>,
    /// How often it was suspended.
    suspended: u64,
    /// The suspend that it is left standing at, so that there is something to hold the copy against.
    last: u64,
}

impl Remote {
    fn of(home: &Home, like: &SimDomain) -> Remote {
        let (mut blob, mut still) = (Vec::new(), guest(like.config(), 3));
        still.suspend().unwrap();
        still.save_device_model(&mut blob).unwrap();
        let keys = still.emulator_xenstore().unwrap();
        Remote { path: home.path("control"), header: like.emulator(), blob, keys, suspended: 0, last: u64::MAX }
    }

    /// With a device model that has nothing yet.
    fn empty(home: &Home, config: &SimConfig) -> Remote {
        let like = SimDomain::empty(config).unwrap();
        let header = like.emulator();
        Remote { path: home.path("control"), header, blob: Vec::new(), keys: Vec::new(), suspended: 0, last: u64::MAX }
    }

    fn tell(&self, command: &str) {
        Control::connect(&self.path).tell(command);
    }

    fn run_on(&self) {
        Control::connect(&self.path).wait_for_steps(20);
    }
}

impl Domain for Remote {
    fn info(&self) -> Result<DomainInfo> {
        Err(Error::Unsupported { backend: "test", what: "info" })
    }

    fn suspend(&mut self) -> Result<()> {
        self.suspended += 1;
        self.tell("suspend");
        Ok(())
    }

    fn resume(&mut self) -> Result<()> {
        if self.suspended < self.last {
            self.tell("resume");
        }
        Ok(())
    }

    fn pause(&mut self) -> Result<()> {
        Err(Error::Unsupported { backend: "test", what: "pause" })
    }

    fn unpause(&mut self) -> Result<()> {
        Err(Error::Unsupported { backend: "test", what: "unpause" })
    }
}

impl DeviceModel for Remote {
    fn emulator(&self) -> EmulatorHeader {
        self.header
    }

    fn save_device_model(&self, blob: &mut Vec<u8>) -> Result<()> {
        blob.clone_from(&self.blob);
        Ok(())
    }

    fn load_device_model(&mut self, blob: &[u8]) -> Result<()> {
        self.blob = blob.to_vec();
        Ok(())
    }

    fn emulator_xenstore(&self) -> Result<Vec<(String, String)>> {
        Ok(self.keys.clone())
    }

    fn set_emulator_xenstore(&mut self, pairs: Vec<(String, String)>) -> Result<()> {
        self.keys = pairs;
        Ok(())
    }

    fn set_device_model_log_dirty(&mut self, enable: bool) -> Result<()> {
        self.tell(if enable { "device-log on" } else { "device-log off" });
        Ok(())
    }
}

fn libxc(home: &Home) -> Libxc {
    Libxc { program: program(home), domid: 1, deadline: Some(Instant::now() + Duration::from_secs(120)) }
}

/// What a device model is made of.
type Devices = (Vec<u8>, Vec<(String, String)>);

/// Saves a plain live image; gives the domain, and its device model as the stream should have it.
fn save_plain(side: Side, config: &SimConfig, path: &Path) -> (SimDomain, Devices) {
    let sink = File::create(path).unwrap();
    match side {
        Whole => {
            let mut domain = guest(config, 50);
            let options = save::Options { config: Some(CONFIG.into()), ..save::Options::default() };
            Saver::new(&mut domain, options).unwrap().plain(&mut domain, sink, true).unwrap();
            let devices = devices(&domain);
            (domain, devices)
        }
        Helper(of) => {
            let original = guest(config, 50);
            let home = Home::of(&original).with(of);
            let mut remote = Remote::of(&home, &original);
            let options = driver::save::Options { config: Some(CONFIG.into()), flags: Flags::LIVE };
            driver::save::plain(libxc(&home), &mut remote, sink, &options).unwrap();
            assert_eq!(remote.suspended, 1);
            (home.after(), (remote.blob, remote.keys))
        }
    }
}

fn devices(domain: &SimDomain) -> Devices {
    let mut blob = Vec::new();
    domain.save_device_model(&mut blob).unwrap();
    (blob, domain.emulator_xenstore().unwrap())
}

fn restore_options(mode: Mode) -> restore::Options {
    let stream = framer::Options { start: Some(Start::Xl), mode: Some(mode), ..framer::Options::default() };
    let libxc = xen_replicate::libxc::restore::Options { rings: rings(), ..Default::default() };
    restore::Options { stream, libxc }
}

fn open(path: &Path, mode: Mode) -> LibxlReader<File> {
    let (reader, config) = Restorer::open(File::open(path).unwrap(), restore_options(mode)).unwrap();
    assert_eq!(config.as_deref(), Some(CONFIG.as_bytes()));
    reader
}

fn restore_plain(side: Side, config: &SimConfig, path: &Path) -> (SimDomain, Devices) {
    match side {
        Whole => {
            let mut domain = SimDomain::empty(config).unwrap();
            let source = File::open(path).unwrap();
            let started = Restorer::start(source, &domain, restore_options(Mode::Plain)).unwrap();
            let Started { mut restorer, reader, .. } = started;
            assert!(matches!(restorer.first_image(reader, &mut domain).unwrap(), Turn::Ended(_)));
            restorer.complete(&mut domain).unwrap();
            let devices = devices(&domain);
            (domain, devices)
        }
        Helper(of) => {
            let home = Home::empty(config).with(of);
            let mut remote = Remote::empty(&home, config);
            let reader = open(path, Mode::Plain);
            let (restored, mut rest) = driver::restore::plain(libxc(&home), &mut remote, reader, rings()).unwrap();
            // Behind END, exactly.
            assert_eq!(std::io::Seek::stream_position(&mut rest).unwrap(), fs::metadata(path).unwrap().len());
            let domain = home.after();
            let grants = domain.grants();
            assert_eq!((restored.ended, restored.missing), (Ended::Complete, 0));
            assert_eq!((restored.store_gfn, restored.console_gfn), (grants.xenstore_gfn, grants.console_gfn));
            (domain, (remote.blob, remote.keys))
        }
    }
}

/// What the stream is made of, runs of the same record as one.
fn records(path: &Path, mode: Mode) -> Vec<&'static str> {
    let stream = fs::read(path).unwrap();
    let options = framer::Options { start: Some(Start::Xl), mode: Some(mode), ..framer::Options::default() };
    let mut reader = SliceReader::new(&stream, options);
    let mut names = Vec::new();
    while let Ok(Some(item)) = reader.next_item() {
        names.push(match item.what {
            What::XlPreamble(_) => "xl",
            What::LibxlHeader(_) => "libxl",
            What::ImageHeader(_) => "image",
            What::DomainHeader(_) => "domain",
            What::Record(frame) => record_name(item.layer, frame.header.type_id),
            What::Handshake(..) => "handshake",
            _ => "unknown",
        });
    }
    names.dedup();
    names
}

/// Holds a whole stream against the specification.
fn check(path: &Path, mode: Mode, checkpoints: u64) {
    let options = verify::Options { start: Some(Start::Xl), mode: Some(mode), all: true, ..Default::default() };
    let report = verify(Input::open(path).unwrap(), &options, &mut Progress::none()).unwrap();
    assert!(report.valid && report.checkpoints == checkpoints, "{report:?}");
    const HEAD: [&str; 8] =
        ["xl", "libxl", "LIBXC_CONTEXT", "image", "domain", "X86_CPUID_POLICY", "X86_MSR_POLICY", "STATIC_DATA_END"];
    const STATE: [&str; 4] = ["PAGE_DATA", "X86_TSC_INFO", "HVM_CONTEXT", "HVM_PARAMS"];
    const DEVICES: [&str; 2] = ["EMULATOR_XENSTORE_DATA", "EMULATOR_CONTEXT"];
    let mut expected = HEAD.to_vec();
    let (ends, part) = match mode {
        Mode::Plain => (["END", "END"], 1),
        _ => (["CHECKPOINT", "CHECKPOINT_END"], checkpoints),
    };
    for _ in 0..part {
        expected.extend(STATE);
        expected.push(ends[0]);
        expected.extend(DEVICES);
        expected.push(ends[1]);
    }
    assert_eq!(records(path, mode), expected);
}

#[test]
#[ignore = "long"]
fn plain_images_go_through_a_helper_either_way() {
    for config in configs() {
        for (saving, restoring) in PAIRS {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("stream");
            let (original, saved) = save_plain(saving, &config, &path);
            check(&path, Mode::Plain, 0);
            let (copy, loaded) = restore_plain(restoring, &config, &path);
            assert_restored(&original, &copy);
            assert_eq!(saved, loaded, "{saving:?}, {restoring:?}");
            assert!(!loaded.0.is_empty() && !loaded.1.is_empty());
        }
    }
}

/// Saves so many checkpoints; gives the domain as it is at the last.
fn protect(side: Side, config: &SimConfig, path: &Path, checkpoints: u64) -> SimDomain {
    let sink = File::create(path).unwrap();
    match side {
        Whole => {
            let mut domain = guest(config, 50);
            let options = save::Options { config: Some(CONFIG.into()), ..save::Options::default() };
            let mut saver = Saver::new(&mut domain, options).unwrap();
            let mut out = saver.begin(&mut domain, sink).unwrap();
            for number in 1..=checkpoints {
                domain.run(20).unwrap();
                domain.suspend().unwrap();
                saver.collect(&mut domain).unwrap();
                saver.stage(&domain).unwrap();
                if number < checkpoints {
                    domain.resume().unwrap();
                }
                out = saver.send(out).unwrap().next_round();
            }
            saver.stop(&mut domain).unwrap();
            domain
        }
        Helper(of) => {
            let original = guest(config, 50);
            let home = Home::of(&original).with(of);
            let mut remote = Remote { last: checkpoints, ..Remote::of(&home, &original) };
            let options = driver::save::Options { config: Some(CONFIG.into()), flags: Flags::LIVE };
            let more = |remote: &mut Remote, number| {
                if number < checkpoints {
                    remote.run_on();
                }
                number < checkpoints
            };
            let (written, _) = driver::save::remus(libxc(&home), &mut remote, sink, &options, more).unwrap();
            assert_eq!((written, remote.suspended), (checkpoints, checkpoints));
            home.after()
        }
    }
}

/// Goes over to the last checkpoint of a stream, and tells which it was.
fn take_over(side: Side, config: &SimConfig, path: &Path) -> (SimDomain, u64) {
    match side {
        Whole => {
            let mut domain = SimDomain::empty(config).unwrap();
            let source = File::open(path).unwrap();
            let started = Restorer::start(source, &domain, restore_options(Mode::Remus)).unwrap();
            let Started { mut restorer, reader, .. } = started;
            let turn = restorer.first_image(reader, &mut domain).unwrap();
            let Turn::Checkpoint(mut reader) = turn else { panic!("an END") };
            let mut checkpoints = 1;
            while let Ok(Turn::Checkpoint(next)) = restorer.receive(reader, &domain) {
                restorer.apply(&mut domain).unwrap();
                checkpoints += 1;
                reader = next;
            }
            restorer.complete(&mut domain).unwrap();
            (domain, checkpoints)
        }
        Helper(of) => {
            let (home, ended) = try_take_over(of, config, path);
            let Ended::FailOver { checkpoint } = ended.unwrap().ended else { panic!("an END") };
            (home.after(), checkpoint)
        }
    }
}

type Taken = std::result::Result<driver::restore::Restored, DriverError>;

fn try_take_over(of: Program, config: &SimConfig, path: &Path) -> (Home, Taken) {
    let home = Home::empty(config).with(of);
    let mut remote = Remote::empty(&home, config);
    let ended = driver::restore::remus(libxc(&home), &mut remote, open(path, Mode::Remus), rings());
    assert_eq!(remote.blob.is_empty(), ended.is_err(), "the device model is loaded when all is well, and only then");
    (home, ended)
}

#[test]
#[ignore = "long"]
fn three_checkpoints_and_a_failover_go_through_a_helper_either_way() {
    for config in configs() {
        for (saving, restoring) in PAIRS {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("stream");
            let original = protect(saving, &config, &path, 3);
            check(&path, Mode::Remus, 3);
            let (copy, checkpoint) = take_over(restoring, &config, &path);
            assert_eq!(checkpoint, 3, "{saving:?}, {restoring:?}");
            assert_restored(&original, &copy);
        }
    }
}

#[test]
#[ignore = "long"]
fn checkpoints_go_through_a_pipe_as_they_are_made() {
    let config = SimConfig::small(5);
    for (saving, restoring) in [(Debians, Ours), (Ours, Debians)] {
        let folder = tempfile::tempdir().unwrap();
        let pipe = fifo(folder.path(), "stream");
        thread::scope(|scope| {
            // Either end reads and writes with the same descriptors in turn: a byte too far would be missing there.
            let protecting = scope.spawn(|| protect(Helper(saving), &config, &pipe, 3));
            let (copy, checkpoint) = take_over(Helper(restoring), &config, &pipe);
            assert_eq!(checkpoint, 3);
            assert_restored(&protecting.join().unwrap(), &copy);
        });
    }
}

/// Where libxl's part of a checkpoint begins, counted from 1, and where it ends.
fn part_of(stream: &[u8], checkpoint: u64) -> (usize, usize) {
    let options = framer::Options { start: Some(Start::Xl), mode: Some(Mode::Remus), ..framer::Options::default() };
    let mut reader = SliceReader::new(stream, options);
    let (mut begin, mut end) = (0, 0);
    while let Ok(Some(item)) = reader.next_item() {
        let What::Record(frame) = item.what else { continue };
        if item.round + 1 == checkpoint {
            match record_name(item.layer, frame.header.type_id) {
                "CHECKPOINT" => begin = (item.offset + item.size) as usize,
                "CHECKPOINT_END" => end = (item.offset + item.size) as usize,
                _ => {}
            }
        }
    }
    assert!(begin > 0 && end > begin);
    (begin, end)
}

#[test]
#[ignore = "long"]
fn the_end_in_libxls_part_is_a_failover_and_garbage_is_none() {
    let config = SimConfig::small(5);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    let original = protect(Whole, &config, &path, 2);
    let whole = fs::read(&path).unwrap();
    let third = protect(Helper(Debians), &config, &path, 3);
    assert!(third.steps().unwrap() > 0);
    let longer = fs::read(&path).unwrap();
    let bad = folder.path().join("bad");
    for of in [Debians, Ours] {
        // The end of the stream within libxl's part of checkpoint 3: the primary's death, and 2 is whole.
        let (begin, end) = part_of(&longer, 3);
        for cut in [begin, begin + 5, end - 8, end - 1] {
            fs::write(&bad, &longer[..cut]).unwrap();
            let (_, ended) = try_take_over(of, &config, &bad);
            assert_eq!(ended.unwrap().ended, Ended::FailOver { checkpoint: 2 }, "{of:?}, cut at {cut}");
        }
        // In that of the first there is nothing to go over to.
        let (begin, _) = part_of(&whole, 1);
        fs::write(&bad, &whole[..begin + 5]).unwrap();
        let (_, ended) = try_take_over(of, &config, &bad);
        assert!(matches!(ended, Err(DriverError::Restore(_))), "{ended:?}");
        // A record that does not exist, where CHECKPOINT_END should be; and libxl's END inside a checkpoint.
        for type_id in [0x7f, 0] {
            let (_, end) = part_of(&whole, 2);
            let mut bytes = whole.clone();
            bytes[end - 8] = type_id;
            fs::write(&bad, &bytes).unwrap();
            let (_, ended) = try_take_over(of, &config, &bad);
            assert!(matches!(ended, Err(DriverError::Restore(_))), "{of:?}: {ended:?}");
        }
        // The whole of it is checkpoint 2.
        fs::write(&bad, &whole).unwrap();
        let (home, ended) = try_take_over(of, &config, &bad);
        assert_eq!(ended.unwrap().ended, Ended::FailOver { checkpoint: 2 });
        assert_restored(&original, &home.after());
    }
}

#[test]
#[ignore = "long"]
fn a_helper_that_fails_is_an_error_with_its_own_words() {
    let config = SimConfig::small(5);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    save_plain(Whole, &config, &path);
    let mut bytes = fs::read(&path).unwrap();
    // libxc's marker, behind LIBXC_CONTEXT.
    let marker = bytes.windows(8).position(|window| window == [0xff; 8]).unwrap();
    bytes[marker] = 0;
    fs::write(&path, &bytes).unwrap();
    for of in [Debians, Ours] {
        let home = Home::empty(&config).with(of);
        let mut remote = Remote::empty(&home, &config);
        let reader = open(&path, Mode::Plain);
        let ended = driver::restore::plain(libxc(&home), &mut remote, reader, rings());
        let Err(DriverError::Failed { completion, said }) = ended else { panic!("{ended:?}") };
        assert_eq!(completion.retval, -1);
        assert!(said.to_lowercase().contains("mark"), "{said}");
    }
}
