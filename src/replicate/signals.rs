//! SIGTERM and SIGINT, as calls.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals as Taken};
use std::fmt;
use std::io;
use std::thread;

/// A signal that asks for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT: Ctrl-C.
    Interrupt,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Terminate => "SIGTERM",
            Signal::Interrupt => "SIGINT",
        })
    }
}

/// Signals are taken while this lives.
#[derive(Debug)]
pub struct Signals(Handle);

impl Signals {
    /// Calls `on` for each signal, on a thread of its own. With `ignore_hup` a SIGHUP, which a lost terminal or a lost ssh
    /// connection sends, is passed over.
    ///
    /// # Errors
    /// The system's.
    pub fn install(on: impl Fn(Signal) + Send + 'static, ignore_hup: bool) -> io::Result<Self> {
        let mut numbers = vec![SIGTERM, SIGINT];
        if ignore_hup {
            numbers.push(SIGHUP);
        }
        let mut taken = Taken::new(numbers)?;
        let handle = taken.handle();
        thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in taken.forever() {
                match signal {
                    SIGTERM => on(Signal::Terminate),
                    SIGINT => on(Signal::Interrupt),
                    _ => log::debug!("SIGHUP: the terminal or the connection is gone, going on"),
                }
            }
        })?;
        Ok(Signals(handle))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.0.close();
    }
}
