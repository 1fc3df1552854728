//! What Xen's libraries have to say, into this program's log instead of onto stderr.
#![allow(unsafe_code)]

use log::Level;
use std::ffi::{CStr, c_char, c_int};
use std::io;
use xenctrl_sys as sys;

/// Messages are cut to this many octets. libxenctrl's own are far shorter.
const LONGEST: usize = 1024;

/// The target that these messages have in the log.
const TARGET: &str = "xen";

struct Logger(sys::xentoollog_logger);

// SAFETY: it is never changed, and its one function may be called by several threads at a time.
unsafe impl Sync for Logger {}

static LOGGER: Logger = Logger(sys::xentoollog_logger { vmessage: Some(message), progress: None, destroy: None });

/// A logger for the libraries to use, valid for ever.
pub(super) fn logger() -> *mut sys::xentoollog_logger {
    // The libraries only read it; behind a `*mut` because that is what C's prototypes say.
    (&raw const LOGGER.0).cast_mut()
}

const fn level(level: sys::xentoollog_level) -> Level {
    use sys::xentoollog_level as L;
    match level {
        L::XTL_CRITICAL | L::XTL_ERROR => Level::Error,
        L::XTL_WARN => Level::Warn,
        L::XTL_NOTICE | L::XTL_INFO => Level::Info,
        L::XTL_PROGRESS | L::XTL_DETAIL | L::XTL_VERBOSE => Level::Debug,
        L::XTL_DEBUG | L::XTL_NONE | L::XTL_NUM_LEVELS => Level::Trace,
    }
}

/// Takes one message (`vmessage` of xentoollog.h).
///
/// # Safety
/// `xen_level` must be one of the enumeration's, `context` null or a C string, `format` a C string, and `arguments` a `va_list`
/// that fits it. That is xentoollog.h's contract, and the libraries are the only callers.
unsafe extern "C" fn message(
    _: *mut sys::xentoollog_logger,
    xen_level: sys::xentoollog_level,
    errno: c_int,
    context: *const c_char,
    format: *const c_char,
    arguments: *mut sys::__va_list_tag,
) {
    let level = level(xen_level);
    if !log::log_enabled!(target: TARGET, level) {
        return;
    }
    let mut text = [0u8; LONGEST];
    // SAFETY: `text` has the size given, and the caller answers for format and arguments. On x86-64 a `va_list` argument is the
    // pointer that is passed on here.
    unsafe { sys::vsnprintf(text.as_mut_ptr().cast(), LONGEST as u64, format, arguments) };
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
