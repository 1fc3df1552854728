//! A panic anywhere is the end of the process.
//!
//! A thread that died while the others go on is the one failure that neither the protocols nor their tests know: a peer would hear signs
//! of life from a process that does nothing else any more. A process that ends is what they are proven for: a primary's guest goes on at
//! the secondary, a secondary's primary goes on alone. Builds with `panic = "abort"` do the same by themselves; this holds in every build.

use std::panic::{self, PanicHookInfo};
use std::process;
use std::thread;
use std::time::Duration;

/// How long the message may take: nobody may be reading standard error.
const MESSAGE: Duration = Duration::from_secs(1);

/// From here on a panic in any thread reports itself on standard error and ends the process by SIGABRT.
pub fn abort_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| end(info, &report)));
}

fn end(info: &PanicHookInfo<'_>, report: &dyn Fn(&PanicHookInfo<'_>)) {
    let deadline = thread::Builder::new().name("abort".into()).spawn(|| {
        thread::sleep(MESSAGE);
        process::abort()
    });
    if deadline.is_ok() {
        // First, for the report may take longer than the deadline where it resolves a backtrace.
        eprintln!(
            "xen-replicate: an internal error: this process ends, the peer decides as after a kill; please report the lines that follow"
        );
        report(info);
    }
    process::abort()
}
