//! The helper's end of the pipe to libxl: tells it what happens and asks it for what only libxl can do.
//!
//! The helper speaks first; libxl answers a message that needs a reply with one native int. Lines for the log and
//! progress go through an [`Outbox`], which any thread may have.
#![forbid(unsafe_code)]

use super::abort::{Abort, CalledOff};
use super::arguments::Callbacks;
use super::callback_error::CallbackError;
use super::message::{Level, MISSING_CPUID, MISSING_MSR, Message, NO_ERRNO};
use crate::libxc::restore::Missing;
use std::ffi::{CStr, CString};
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Who speaks, of what concerns the memory stream: so that `xl` prints it as it prints the stock helper's lines.
pub const CONTEXT: &CStr = c"xc";
/// Who speaks, of what concerns the helper itself.
pub const PROGRAM: &CStr = c"xen-replicate-save-helper";

/// Bytes of a text that are sent; the rest is cut off.
const MAX_TEXT: usize = 8 << 10;

/// Writes messages to libxl, whole and one at a time.
#[derive(Debug)]
pub struct Outbox<W>(Arc<Mutex<Out<W>>>);

#[derive(Debug)]
struct Out<W> {
    pipe: W,
    buffer: Vec<u8>,
}

impl<W> Clone for Outbox<W> {
    fn clone(&self) -> Self {
        Outbox(Arc::clone(&self.0))
    }
}

impl<W: Write> Outbox<W> {
    /// Over libxl's pipe.
    pub fn new(pipe: W) -> Self {
        Outbox(Arc::new(Mutex::new(Out { pipe, buffer: Vec::new() })))
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The pipe's; [`io::ErrorKind::InvalidInput`] for one whose strings are too long.
    pub fn send(&self, message: &Message<'_>) -> io::Result<()> {
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Out { pipe, buffer } = &mut *out;
        message.emit(buffer).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        pipe.write_all(buffer)?;
        pipe.flush()
    }

    /// Sends a line for the log.
    ///
    /// # Errors
    /// As [`Outbox::send`].
    pub fn log(&self, level: Level, errno: u32, context: &CStr, text: &str) -> io::Result<()> {
        self.send(&Message::Log { level, errno, context, text: &c_string(text) })
    }

    /// Says how far the work is.
    ///
    /// # Errors
    /// As [`Outbox::send`].
    pub fn progress(&self, doing: &str, done: u64, total: u64) -> io::Result<()> {
        self.send(&Message::Progress { context: CONTEXT, doing: &c_string(doing), done, total })
    }
}

/// A text as C takes it: without line ends and NULs, and not longer than a message has room for.
fn c_string(text: &str) -> CString {
    let text = text.trim_end();
    let end = (0..=text.len().min(MAX_TEXT)).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let bytes: Vec<u8> = text.bytes().take(end).map(|byte| if byte.is_ascii_control() { b' ' } else { byte }).collect();
    // There is no NUL left that it could be refused for.
    CString::new(bytes).unwrap_or_default()
}

/// libxl, as the helper sees it.
#[derive(Debug)]
pub struct Libxl<R, W> {
    replies: R,
    outbox: Outbox<W>,
    provided: Callbacks,
    abort: Option<Arc<Abort>>,
    waiting: bool,
}

impl<R: Read, W: Write> Libxl<R, W> {
    /// Over the pipe's two directions. `replies` must end its waiting when `abort` is requested
    /// ([`super::abort::Waiting`]).
    pub const fn new(replies: R, outbox: Outbox<W>, provided: Callbacks, abort: Option<Arc<Abort>>) -> Self {
        Libxl { replies, outbox, provided, abort, waiting: false }
    }

    /// Lines for the log, progress.
    pub const fn outbox(&self) -> &Outbox<W> {
        &self.outbox
    }

    /// Whether a reply is still to come: a wait for it was called off.
    pub const fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// Whether the work was called off.
    pub fn is_called_off(&self) -> bool {
        self.abort.as_ref().is_some_and(|abort| abort.is_requested())
    }

    /// Waits; not longer than until the work is called off.
    pub fn wait(&self, time: Duration) {
        match &self.abort {
            Some(abort) => abort.wait(time),
            None => std::thread::sleep(time),
        }
    }

    /// Lets a work that was called off put things in order: libxl can be asked again.
    pub fn settle(&self) {
        if let Some(abort) = &self.abort {
            abort.settle();
        }
    }

    /// Says how far the work is. That libxl is gone shows when it is asked next.
    pub fn progress(&self, doing: &str, done: u64, total: u64) {
        let _ = self.outbox.progress(doing, done, total);
    }

    /// Says that something has happened.
    pub fn event(&self, what: &str) {
        self.progress(what, 0, 0);
    }

    /// Has the guest suspended; 0 for failure.
    ///
    /// # Errors
    /// libxl could not be asked.
    pub fn suspend(&mut self) -> Result<i32, CallbackError> {
        self.ask_optional(Callbacks::SUSPEND, &Message::Suspend)
    }

    /// Lets the guest run again; 1 for success.
    ///
    /// # Errors
    /// libxl could not be asked.
    pub fn postcopy(&mut self) -> Result<i32, CallbackError> {
        self.ask_optional(Callbacks::POSTCOPY, &Message::Postcopy)
    }

    /// Hands libxl the stream for its part of a checkpoint; 1 to go on, on the receiving side 2 to fail over.
    ///
    /// # Errors
    /// libxl could not be asked.
    pub fn checkpoint(&mut self) -> Result<i32, CallbackError> {
        self.ask_optional(Callbacks::CHECKPOINT, &Message::Checkpoint)
    }

    /// Waits until the next checkpoint is due; 1 for success.
    ///
    /// # Errors
    /// libxl could not be asked.
    pub fn wait_checkpoint(&mut self) -> Result<i32, CallbackError> {
        self.ask_optional(Callbacks::WAIT_CHECKPOINT, &Message::WaitCheckpoint)
    }

    /// Has the device model track its writes, or not; 0 for success, also where libxl has nothing to do with it.
    ///
    /// # Errors
    /// libxl could not be asked.
    pub fn switch_qemu_logdirty(&mut self, domid: u32, enable: bool) -> Result<i32, CallbackError> {
        if !self.provided.contains(Callbacks::SWITCH_QEMU_LOGDIRTY) {
            return Ok(0);
        }
        self.ask(&Message::SwitchQemuLogdirty { domid, enable: enable.into() })
    }

    /// Says that the static data is complete; 0 for success, also where libxl does not want to know.
    ///
    /// # Errors
    /// libxl could not be asked.
    pub fn static_data_done(&mut self, missing: Missing) -> Result<i32, CallbackError> {
        if !self.provided.contains(Callbacks::STATIC_DATA_DONE) {
            return Ok(0);
        }
        let cpuid = if missing.cpuid { MISSING_CPUID } else { 0 };
        let msr = if missing.msrs { MISSING_MSR } else { 0 };
        self.ask(&Message::StaticDataDone { missing: cpuid | msr })
    }

    /// Says where the rings are, if libxl wants to know.
    ///
    /// # Errors
    /// libxl could not be told.
    pub fn restore_results(&mut self, store_gfn: u64, console_gfn: u64) -> Result<(), CallbackError> {
        if !self.provided.contains(Callbacks::RESTORE_RESULTS) {
            return Ok(());
        }
        self.outbox.send(&Message::RestoreResults { store_gfn, console_gfn }).map_err(CallbackError::Gone)
    }

    /// Says that all is done, and waits until libxl knows. Nothing calls this off.
    ///
    /// # Errors
    /// libxl could not be told.
    pub fn complete(&mut self, retval: i32, errno: i32) -> Result<(), CallbackError> {
        self.settle();
        let level_errno = if retval == 0 { 0 } else { errno as u32 };
        let _ = self.outbox.log(Level::Debug, level_errno, PROGRAM, &format!("complete r={retval}"));
        self.ask(&Message::Complete { retval, errno }).map(|_| ())
    }

    fn ask_optional(&mut self, callback: Callbacks, message: &Message<'_>) -> Result<i32, CallbackError> {
        if !self.provided.contains(callback) {
            return Err(CallbackError::NotProvided(message.name()));
        }
        self.ask(message)
    }

    fn ask(&mut self, message: &Message<'_>) -> Result<i32, CallbackError> {
        if self.abort.as_ref().is_some_and(|abort| abort.is_pending()) {
            return Err(CallbackError::CalledOff);
        }
        self.outbox.send(message).map_err(CallbackError::Gone)?;
        self.waiting = true;
        let mut reply = [0; size_of::<i32>()];
        self.replies.read_exact(&mut reply).map_err(|error| match CalledOff::is(&error) {
            true => CallbackError::CalledOff,
            false => CallbackError::Gone(error),
        })?;
        self.waiting = false;
        Ok(i32::from_ne_bytes(reply))
    }
}

/// This program's log records as lines for libxl's log.
#[derive(Debug)]
pub struct PipeLog<W>(pub Outbox<W>);

impl<W: Write + Send> log::Log for PipeLog<W> {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // The levels that libxc uses for what is of such interest.
        let level = match record.level() {
            log::Level::Error => Level::Error,
            log::Level::Warn => Level::Warn,
            log::Level::Info => Level::Info,
            log::Level::Debug => Level::Detail,
            log::Level::Trace => Level::Debug,
        };
        // Nowhere else to say it.
        let _ = self.0.log(level, NO_ERRNO, CONTEXT, &record.args().to_string());
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::save_helper::message::read_body;
    use log::Log;

    type Sent = Vec<(String, Vec<u8>)>;

    fn sent(outbox: &Outbox<Vec<u8>>) -> Sent {
        let bytes = std::mem::take(&mut outbox.0.lock().unwrap().pipe);
        let (mut source, mut body, mut all) = (&bytes[..], Vec::new(), Vec::new());
        while read_body(&mut source, &mut body).unwrap() {
            all.push((Message::parse(&body).unwrap().name().to_string(), body.clone()));
        }
        all
    }

    fn libxl(replies: &[i32], provided: Callbacks) -> Libxl<io::Cursor<Vec<u8>>, Vec<u8>> {
        let replies = replies.iter().flat_map(|reply| reply.to_ne_bytes()).collect();
        Libxl::new(io::Cursor::new(replies), Outbox::new(Vec::new()), provided, None)
    }

    #[test]
    fn each_callback_gets_its_reply() {
        let mut libxl = libxl(&[1, 2, 3, 4, 5, -6, 7], Callbacks::all());
        assert_eq!(libxl.suspend().unwrap(), 1);
        assert_eq!(libxl.postcopy().unwrap(), 2);
        assert_eq!(libxl.checkpoint().unwrap(), 3);
        assert_eq!(libxl.wait_checkpoint().unwrap(), 4);
        assert_eq!(libxl.switch_qemu_logdirty(9, true).unwrap(), 5);
        assert_eq!(libxl.static_data_done(Missing { cpuid: false, msrs: true }).unwrap(), -6);
        libxl.restore_results(1, 2).unwrap();
        libxl.complete(-1, 5).unwrap();
        assert!(matches!(libxl.suspend(), Err(CallbackError::Gone(_))));
        assert!(libxl.is_waiting());
        let messages: Vec<_> = sent(libxl.outbox()).into_iter().collect();
        let names: Vec<_> = messages.iter().map(|(name, _)| &name[..]).collect();
        assert_eq!(
            names,
            [
                "suspend",
                "postcopy",
                "checkpoint",
                "wait_checkpoint",
                "switch_qemu_logdirty",
                "static_data_done",
                "restore_results",
                "log",
                "complete",
                "suspend"
            ]
        );
        assert_eq!(Message::parse(&messages[4].1), Ok(Message::SwitchQemuLogdirty { domid: 9, enable: 1 }));
        assert_eq!(Message::parse(&messages[5].1), Ok(Message::StaticDataDone { missing: MISSING_MSR }));
        assert_eq!(Message::parse(&messages[6].1), Ok(Message::RestoreResults { store_gfn: 1, console_gfn: 2 }));
        assert_eq!(Message::parse(&messages[8].1), Ok(Message::Complete { retval: -1, errno: 5 }));
    }

    #[test]
    fn what_libxl_does_not_answer_is_not_asked() {
        let mut libxl = libxl(&[1; 9], Callbacks::empty());
        assert!(matches!(libxl.suspend(), Err(CallbackError::NotProvided("suspend"))));
        assert!(matches!(libxl.postcopy(), Err(CallbackError::NotProvided("postcopy"))));
        assert!(matches!(libxl.checkpoint(), Err(CallbackError::NotProvided("checkpoint"))));
        assert!(matches!(libxl.wait_checkpoint(), Err(CallbackError::NotProvided("wait_checkpoint"))));
        assert_eq!(libxl.switch_qemu_logdirty(1, true).unwrap(), 0);
        assert_eq!(libxl.static_data_done(Missing::default()).unwrap(), 0);
        libxl.restore_results(1, 2).unwrap();
        assert!(sent(libxl.outbox()).is_empty());
    }

    #[test]
    fn records_become_lines_that_fit() {
        let outbox = Outbox::new(Vec::new());
        let log = PipeLog(outbox.clone());
        let long = "\u{e9}".repeat(MAX_TEXT);
        for (level, text) in [
            (log::Level::Error, "a\0b\nc\n"),
            (log::Level::Warn, "w"),
            (log::Level::Info, "i"),
            (log::Level::Debug, "d"),
            (log::Level::Trace, &long),
        ] {
            log.log(&log::Record::builder().level(level).args(format_args!("{text}")).build());
        }
        let bodies = sent(&outbox);
        let lines: Vec<_> = bodies
            .iter()
            .map(|(_, body)| match Message::parse(body).unwrap() {
                Message::Log { level, errno, context, text } => {
                    assert_eq!((errno, context), (NO_ERRNO, CONTEXT));
                    (level, text.to_str().unwrap().to_string())
                }
                other => panic!("{other:?}"),
            })
            .collect();
        let text = |n: usize| &lines[n].1[..];
        assert_eq!(
            lines.iter().map(|(level, _)| *level).collect::<Vec<_>>(),
            [Level::Error, Level::Warn, Level::Info, Level::Detail, Level::Debug]
        );
        assert_eq!((text(0), text(1), text(2), text(3)), ("a b c", "w", "i", "d"));
        assert_eq!(text(4).len(), MAX_TEXT);
    }

    #[test]
    fn progress_and_events() {
        let libxl = libxl(&[], Callbacks::empty());
        libxl.progress("Frames", 1024, 4096);
        libxl.event("End of stream");
        let bodies = sent(libxl.outbox());
        let progress = |doing, done, total| Message::Progress { context: CONTEXT, doing, done, total };
        assert_eq!(Message::parse(&bodies[0].1), Ok(progress(c"Frames", 1024, 4096)));
        assert_eq!(Message::parse(&bodies[1].1), Ok(progress(c"End of stream", 0, 0)));
    }
}
