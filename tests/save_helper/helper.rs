//! A save helper as libxl starts it, and libxl's side of its pipe.

use crate::control::Control;
use crate::home::{CONSOLE_EVTCHN, Home, Program, STORE_EVTCHN};
use crate::message::Message;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Kinds of streams, by their numbers on the command line.
pub const PLAIN: u32 = 0;
pub const REMUS: u32 = 1;
pub const COLO: u32 = 2;

/// The domains that serve the rings.
pub const STORE_DOMID: u32 = 0;
pub const CONSOLE_DOMID: u32 = 3;

/// The folder that `tests/standin/setup` makes.
fn standin() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin/setup");
        let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "tests/standin/setup: {}", output.status);
        String::from_utf8(output.stdout).unwrap().trim_end().into()
    })
}

/// What became of a helper.
#[derive(Debug)]
pub struct Outcome {
    pub retval: i32,
    pub messages: Vec<Message>,
}

impl Outcome {
    pub fn logged(&self, words: &str) -> bool {
        self.messages.iter().any(|message| matches!(message, Message::Log { text } if text.contains(words)))
    }

    /// How often the helper said something that answers to a description.
    pub fn count(&self, of: impl Fn(&Message) -> bool) -> usize {
        self.messages.iter().filter(|message| of(message)).count()
    }

    /// The gfns of the xenstore and console rings that a restore told last.
    pub fn results(&self) -> Option<(u64, u64)> {
        self.messages.iter().rev().find_map(|message| match message {
            Message::RestoreResults { store_gfn, console_gfn } => Some((*store_gfn, *console_gfn)),
            _ => None,
        })
    }
}

/// A helper that runs.
pub struct Helper {
    child: Child,
    control_path: PathBuf,
}

/// Opens a file for the stream (descriptor 3) and one for the back channel (4), and becomes the helper.
const SAVE: &str = r#"exec 3>>"$1" 4<"$2"; shift 2; exec "$@""#;
const RESTORE: &str = r#"exec 3<"$1" 4>"$2"; shift 2; exec "$@""#;

impl Helper {
    /// Starts Debian's helper to save the domain of a home onto a stream, a file (added to) or a FIFO. `flags`: 1 live, 2 verify.
    pub fn save(home: &Home, stream: &Path, back: Option<&Path>, flags: u32, kind: u32) -> Helper {
        // What libxl passes: suspend and switch_qemu_logdirty; postcopy and checkpoint; wait_checkpoint.
        let callbacks = 136 + [0, 48, 112][kind as usize];
        let fd = if back.is_some() { "4" } else { "-1" };
        let args = ["--save-domain", "3", fd, "1"].map(str::to_owned);
        let numbers = [flags, callbacks, kind].map(|number| number.to_string());
        Helper::start(home, SAVE, stream, back, args.into_iter().chain(numbers))
    }

    /// Starts it to restore the domain of a home.
    pub fn restore(home: &Home, stream: &Path, back: Option<&Path>, kind: u32) -> Helper {
        // static_data_done and restore_results; checkpoint; suspend, postcopy and wait_checkpoint.
        let callbacks = 768 + [0, 32, 120][kind as usize];
        let fd = if back.is_some() { "4" } else { "-1" };
        let args = ["--restore-domain", "3", fd, "1"].map(str::to_owned);
        let rings = [STORE_EVTCHN as u32, STORE_DOMID, CONSOLE_EVTCHN as u32, CONSOLE_DOMID];
        let numbers = rings.into_iter().chain([callbacks, kind]).map(|number| number.to_string());
        Helper::start(home, RESTORE, stream, back, args.into_iter().chain(numbers))
    }

    fn start(
        home: &Home,
        script: &str,
        stream: &Path,
        back: Option<&Path>,
        args: impl Iterator<Item = String>,
    ) -> Helper {
        let folder = standin();
        // A helper that hangs must not hang the tests.
        let mut command = Command::new("timeout");
        command.args(["--foreground", "120", "sh", "-c", script, "sh"]);
        command.arg(stream).arg(back.unwrap_or(Path::new("/dev/null"))).arg(folder.join("run"));
        let program = match home.program {
            Program::Debians => folder.join("debian/usr/lib/xen-4.17/bin/libxl-save-helper"),
            #[cfg(feature = "xen")]
            Program::Ours => env!("CARGO_BIN_EXE_xen-replicate-save-helper").into(),
        };
        command.arg(program).args(args);
        command.env("XEN_STANDIN", home.configuration());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Helper { child, control_path: home.path("control") }
    }

    /// Answers the helper until it has completed. What `answer` does not answer (`None`) is answered as libxl does when all is
    /// well: the guest is suspended and resumed, the device model reports to the dirty log.
    pub fn run(mut self, mut answer: impl FnMut(&Message, &mut Control) -> Option<i32>) -> Outcome {
        let mut from = BufReader::new(self.child.stdout.take().unwrap());
        let mut to = self.child.stdin.take().unwrap();
        let (mut control, mut messages, mut retval) = (None, Vec::new(), None);
        while let Some(message) = Message::read(&mut from) {
            if message.is_question() {
                let control = control.get_or_insert_with(|| Control::connect(&self.control_path));
                let reply = answer(&message, control).unwrap_or_else(|| usual(&message, control));
                to.write_all(&reply.to_ne_bytes()).unwrap();
            }
            if let Message::Complete { retval: value, .. } = message {
                retval = Some(value);
            }
            messages.push(message);
        }
        let status = self.child.wait().unwrap();
        let outcome = Outcome { retval: retval.unwrap_or(i32::MIN), messages };
        assert!(status.success() && retval.is_some(), "{status}: {outcome:?}");
        outcome
    }

    /// The same where nothing but the usual is asked, and all goes well.
    pub fn run_well(self) -> Outcome {
        let outcome = self.run(|_, _| None);
        assert_eq!(outcome.retval, 0, "{outcome:?}");
        outcome
    }
}

fn usual(message: &Message, control: &mut Control) -> i32 {
    match message {
        Message::Suspend => {
            control.tell("suspend");
            1
        }
        Message::Postcopy => {
            control.tell("resume");
            1
        }
        Message::SwitchQemuLogdirty { enable } => {
            control.tell(if *enable { "device-log on" } else { "device-log off" });
            0
        }
        Message::StaticDataDone { missing } => {
            assert_eq!(*missing, 0);
            0
        }
        Message::Complete { .. } => 0,
        _ => panic!("{message:?} was not expected"),
    }
}
