//! An output buffer that is never waited for longer than it is allowed.
#![forbid(unsafe_code)]

use super::error::{Error, Result};
use super::output::OutputBuffer;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread;
use std::time::Duration;

/// Calls another buffer on a thread of its own. Who drives a guest sends heartbeats, and has other things to do than to wait for a
/// network's tools that hang.
///
/// A call that is not answered in time is a failure, [`io::ErrorKind::TimedOut`]. It may be carried out yet, after that. Until it is, all
/// others fail at once and are **not** carried out, so that none is done late, after what was decided meanwhile; then they are made again,
/// by who tries again. What each failure leaves is what [`OutputBuffer`] says of it: what was held stays held.
///
/// The thread ends with this value, and where a call never returns, with the process.
#[derive(Debug)]
pub struct Bounded {
    calls: Sender<Call>,
    patience: Duration,
    /// What is not answered yet: its name, and what is dropped when it is.
    late: Option<(&'static str, Receiver<()>)>,
}

type Act = dyn FnOnce(&mut dyn OutputBuffer) + Send;

/// What the thread does next.
struct Call(Box<Act>);

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Call")
    }
}

impl Bounded {
    /// Takes a buffer over. `patience`: how long any call is waited for.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(mut buffer: Box<dyn OutputBuffer>, patience: Duration) -> io::Result<Self> {
        let (calls, next) = channel::<Call>();
        thread::Builder::new().name("output".into()).spawn(move || {
            for Call(call) in next {
                call(&mut *buffer);
            }
        })?;
        Ok(Bounded { calls, patience, late: None })
    }

    fn call<T: Send + 'static>(
        &mut self,
        name: &'static str,
        act: impl FnOnce(&mut dyn OutputBuffer) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if let Some((late, end)) = &self.late {
            match end.try_recv() {
                Err(TryRecvError::Disconnected) => self.late = None,
                _ => return Err(self.hangs(late)),
            }
        }
        let (answer, answered) = channel();
        let (end, ended) = channel::<()>();
        let call = Call(Box::new(move |buffer| {
            // Nobody waits any more where it took too long.
            let _ = answer.send(act(buffer));
            drop(end);
        }));
        if self.calls.send(call).is_err() {
            return Err(Error::Os { operation: name, source: io::ErrorKind::BrokenPipe.into() });
        }
        match answered.recv_timeout(self.patience) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                self.late = Some((name, ended));
                Err(self.hangs(name))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::Os { operation: name, source: io::ErrorKind::BrokenPipe.into() })
            }
        }
    }

    fn hangs(&self, late: &'static str) -> Error {
        let text = format!("the output buffer has not answered in {:?}, and is tried again when it has", self.patience);
        Error::Os { operation: late, source: io::Error::new(io::ErrorKind::TimedOut, text) }
    }
}

impl OutputBuffer for Bounded {
    fn hold(&mut self) -> Result<()> {
        self.call("holding output", |buffer| buffer.hold())
    }

    fn begin_epoch(&mut self, epoch: u64) -> Result<()> {
        self.call("marking an epoch of output", move |buffer| buffer.begin_epoch(epoch))
    }

    fn release(&mut self, up_to: u64) -> Result<u64> {
        self.call("releasing output", move |buffer| buffer.release(up_to))
    }

    fn free(&mut self) -> Result<()> {
        self.call("freeing output", |buffer| buffer.free())
    }

    fn discard(&mut self) -> Result<u64> {
        self.call("discarding output", |buffer| buffer.discard())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Writes down what it is asked for; a call ends when `gate` says so.
    struct Slow {
        calls: Arc<Mutex<Vec<String>>>,
        gate: Receiver<()>,
    }

    impl Slow {
        fn call(&self, call: String) {
            self.gate.recv().unwrap();
            self.calls.lock().unwrap().push(call);
        }
    }

    impl OutputBuffer for Slow {
        fn hold(&mut self) -> Result<()> {
            self.call("hold".into());
            Ok(())
        }

        fn begin_epoch(&mut self, epoch: u64) -> Result<()> {
            self.call(format!("epoch {epoch}"));
            Err(Error::EpochOrder { current: epoch, asked: epoch })
        }

        fn release(&mut self, up_to: u64) -> Result<u64> {
            self.call(format!("release {up_to}"));
            Ok(up_to)
        }

        fn free(&mut self) -> Result<()> {
            self.call("free".into());
            Ok(())
        }

        fn discard(&mut self) -> Result<u64> {
            self.call("discard".into());
            Ok(7)
        }
    }

    fn bounded(patience: Duration) -> (Bounded, Arc<Mutex<Vec<String>>>, Sender<()>) {
        let calls = Arc::default();
        let (open, gate) = channel();
        let slow = Slow { calls: Arc::clone(&calls), gate };
        (Bounded::start(Box::new(slow), patience).unwrap(), calls, open)
    }

    #[test]
    fn what_answers_is_passed_on_as_it_is() {
        let (mut buffer, calls, open) = bounded(Duration::from_secs(600));
        (0..5).for_each(|_| open.send(()).unwrap());
        buffer.hold().unwrap();
        assert!(matches!(buffer.begin_epoch(3), Err(Error::EpochOrder { current: 3, .. })));
        assert_eq!((buffer.release(2).unwrap(), buffer.discard().unwrap()), (2, 7));
        buffer.free().unwrap();
        assert_eq!(*calls.lock().unwrap(), ["hold", "epoch 3", "release 2", "discard", "free"]);
    }

    #[test]
    fn what_hangs_fails_and_nothing_is_done_late_but_that() {
        let (mut buffer, calls, open) = bounded(Duration::from_millis(50));
        let error = buffer.release(1).unwrap_err();
        assert!(error.to_string().starts_with("releasing output: ") && error.to_string().contains("50ms"), "{error}");
        // At once, and by the name of what hangs: with the patience of a test that would end were it waited for.
        buffer.patience = Duration::from_secs(600);
        for error in [buffer.begin_epoch(2).unwrap_err(), buffer.free().unwrap_err(), buffer.discard().unwrap_err()] {
            assert!(error.to_string().starts_with("releasing output: "), "{error}");
        }
        open.send(()).unwrap();
        // It is over when that is seen here, and not before.
        open.send(()).unwrap();
        while buffer.free().is_err() {
            thread::yield_now();
        }
        assert_eq!(*calls.lock().unwrap(), ["release 1", "free"]);
    }
}
