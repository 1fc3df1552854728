//! What Xen's libraries have to say, into this program's log instead of onto stderr.
#![allow(unsafe_code)]

use log::Level;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io;

/// Messages are cut to this many bytes. The libraries' own are far shorter.
const LONGEST: usize = 1024;

/// The target that these messages have in the log.
const TARGET: &str = "xen";

/// `struct xentoollog_logger`
#[repr(C)]
pub(super) struct Logger {
    vmessage:
        Option<unsafe extern "C" fn(*mut Logger, c_uint, c_int, *const c_char, *const c_char, arguments: *mut c_void)>,
    progress: Option<
        unsafe extern "C" fn(*mut Logger, *const c_char, *const c_char, percent: c_int, done: usize, total: usize),
    >,
    destroy: Option<unsafe extern "C" fn(*mut Logger)>,
}

static LOGGER: Logger = Logger { vmessage: Some(message), progress: None, destroy: None };

/// A logger for the libraries to use, valid for ever.
pub(super) const fn logger() -> *mut Logger {
    // The libraries only read it; behind a `*mut` because that is what C's prototypes say.
    (&raw const LOGGER).cast_mut()
}

/// `xentoollog_level`: NONE, DEBUG, VERBOSE, DETAIL, PROGRESS, INFO, NOTICE, WARN, ERROR, CRITICAL, from 0 on.
const fn level(level: c_uint) -> Level {
    match level {
        8 | 9 => Level::Error,
        7 => Level::Warn,
        5 | 6 => Level::Info,
        2..=4 => Level::Debug,
        _ => Level::Trace,
    }
}

unsafe extern "C" {
    /// The C library's. A `va_list` as an argument is a pointer.
    fn vsnprintf(text: *mut c_char, size: usize, format: *const c_char, arguments: *mut c_void) -> c_int;
}

/// Takes one message (`vmessage` of xentoollog.h).
///
/// # Safety
/// `context` must be null or a C string, `format` a C string, and `arguments` a `va_list` that fits it. That is xentoollog.h's contract,
/// and the libraries are the only callers.
unsafe extern "C" fn message(
    _: *mut Logger,
    xen_level: c_uint,
    errno: c_int,
    context: *const c_char,
    format: *const c_char,
    arguments: *mut c_void,
) {
    let level = level(xen_level);
    if !log::log_enabled!(target: TARGET, level) {
        return;
    }
    let mut text = [0u8; LONGEST];
    // SAFETY: `text` has the size given, and the caller answers for format and arguments.
    unsafe { vsnprintf(text.as_mut_ptr().cast(), LONGEST, format, arguments) };
    let text = CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy();
    // SAFETY: where it is not null it is a C string, says the caller.
    let context = if context.is_null() { c"" } else { unsafe { CStr::from_ptr(context) } }.to_string_lossy();
    let text = text.trim_end();
    if errno > 0 {
        log::log!(target: TARGET, level, "{context}: {text}: {}", io::Error::from_raw_os_error(errno));
    } else {
        log::log!(target: TARGET, level, "{context}: {text}");
    }
}
