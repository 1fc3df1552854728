//! Xen's stable libraries, opened when they are first needed. Their SONAMEs have been the same since Xen 4.14 at least; what is open stays
//! open until the process ends.
#![allow(unsafe_code)]

use super::messages::Logger;
use crate::hypervisor::error::{Error, Result};
use libloading::Library;
use std::ffi::{c_int, c_long, c_uint, c_ulong, c_void};
use std::io;
use std::path::Path;
use std::sync::OnceLock;

/// Where Linux offers hypercalls to a control domain.
const PRIVCMD: [&str; 2] = ["/dev/xen/privcmd", "/proc/xen/privcmd"];

/// A handle of one of the libraries'.
pub(super) type Handle = *mut c_void;

/// `xencall_open`, `xenforeignmemory_open`, `xenevtchn_open`: a logger, and flags.
pub(super) type Open = unsafe extern "C" fn(*mut Logger, c_uint) -> Handle;
/// Closes a handle.
pub(super) type Close = unsafe extern "C" fn(Handle) -> c_int;

/// Opens a library and looks up its functions.
macro_rules! library {
    ($(#[$doc:meta])* $name:ident = $soname:literal {
        $($(#[$field_doc:meta])* $field:ident: $type:ty = $symbol:literal,)*
    } optional {
        $($(#[$optional_doc:meta])* $optional:ident: $optional_type:ty = $optional_symbol:literal,)*
    }) => {
        $(#[$doc])*
        pub(super) struct $name {
            $($(#[$field_doc])* pub(super) $field: $type,)*
            $($(#[$optional_doc])* pub(super) $optional: Option<$optional_type>,)*
        }

        impl $name {
            /// The library, opened by the first that asks for it.
            ///
            /// # Errors
            /// There is none, or it lacks a function.
            pub(super) fn get() -> Result<&'static Self> {
                static FOUND: OnceLock<$name> = OnceLock::new();
                if let Some(found) = FOUND.get() {
                    return Ok(found);
                }
                let found = $name::open($soname)?;
                Ok(FOUND.get_or_init(|| found))
            }

            fn open(path: &str) -> Result<Self> {
                let library = open($soname, path)?;
                // SAFETY: the prototypes are those of the library's header, which a SONAME stands for: functions are added to it and
                // never changed. The library is not closed as long as the process lives, so that what points into it stays valid.
                unsafe {
                    Ok($name {
                        $($field: *library
                            .get::<$type>(concat!($symbol, "\0").as_bytes())
                            .map_err(|_| Error::OldLibrary { library: $soname, symbol: $symbol })?,)*
                        $($optional: library
                            .get::<$optional_type>(concat!($optional_symbol, "\0").as_bytes())
                            .ok()
                            .map(|symbol| *symbol),)*
                    })
                }
            }
        }
    };
}

library! {
    /// `xencall.h`
    Calls = "libxencall.so.1" {
        open_handle: Open = "xencall_open",
        close: Close = "xencall_close",
        call1: unsafe extern "C" fn(Handle, c_uint, u64) -> c_int = "xencall1",
        call2: unsafe extern "C" fn(Handle, c_uint, u64, u64) -> c_int = "xencall2",
        call4: unsafe extern "C" fn(Handle, c_uint, u64, u64, u64, u64) -> c_int = "xencall4",
        alloc: unsafe extern "C" fn(Handle, usize) -> *mut c_void = "xencall_alloc_buffer_pages",
        free: unsafe extern "C" fn(Handle, *mut c_void, usize) = "xencall_free_buffer_pages",
        never_fault: unsafe extern "C" fn(Handle) -> c_int = "xencall_buffers_never_fault",
    } optional {
        /// Since Xen 4.16: answers of more than 32 bits.
        call2_long: unsafe extern "C" fn(Handle, c_uint, u64, u64) -> c_long = "xencall2L",
    }
}

library! {
    /// `xenforeignmemory.h`
    Foreign = "libxenforeignmemory.so.1" {
        open_handle: Open = "xenforeignmemory_open",
        close: Close = "xenforeignmemory_close",
        map: unsafe extern "C" fn(Handle, u32, c_int, usize, *const u64, *mut c_int) -> *mut c_void = "xenforeignmemory_map",
        unmap: unsafe extern "C" fn(Handle, *mut c_void, usize) -> c_int = "xenforeignmemory_unmap",
        map_resource: unsafe extern "C" fn(
            Handle,
            u16,
            c_uint,
            c_uint,
            c_ulong,
            c_ulong,
            *mut *mut c_void,
            c_int,
            c_int,
        ) -> *mut c_void = "xenforeignmemory_map_resource",
        unmap_resource: unsafe extern "C" fn(Handle, *mut c_void) -> c_int = "xenforeignmemory_unmap_resource",
    } optional {}
}

library! {
    /// `xenevtchn.h`
    Events = "libxenevtchn.so.1" {
        open_handle: Open = "xenevtchn_open",
        close: Close = "xenevtchn_close",
        fd: unsafe extern "C" fn(Handle) -> c_int = "xenevtchn_fd",
        bind_interdomain: unsafe extern "C" fn(Handle, u32, u32) -> c_int = "xenevtchn_bind_interdomain",
        notify: unsafe extern "C" fn(Handle, u32) -> c_int = "xenevtchn_notify",
        pending: unsafe extern "C" fn(Handle) -> c_int = "xenevtchn_pending",
        unmask: unsafe extern "C" fn(Handle, u32) -> c_int = "xenevtchn_unmask",
    } optional {}
}

/// Whether this is a control domain of a Xen host, by the devices that the kernel has for one.
pub fn is_xen_host() -> bool {
    PRIVCMD.iter().any(|path| Path::new(path).exists())
}

/// Opens a library, for good. Where there is none and no Xen either, the latter is what is reported.
fn open(soname: &'static str, path: &str) -> Result<std::mem::ManuallyDrop<Library>> {
    // SAFETY: Xen's libraries have no initialisers that do anything but set up their own data.
    match unsafe { Library::new(path) } {
        Ok(library) => Ok(std::mem::ManuallyDrop::new(library)),
        Err(_) if !is_xen_host() && path == soname && !Path::new(path).exists() => {
            Err(Error::NoHypervisor { source: io::ErrorKind::NotFound.into() })
        }
        Err(error) => {
            let mut text = error.to_string();
            // The cause has the loader's own words, which name the file.
            if let Some(cause) = std::error::Error::source(&error) {
                text = format!("{text}: {cause}");
            }
            Err(Error::NoLibrary { library: soname, problem: text })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_library_that_is_too_old_is_named_with_what_it_lacks() {
        // The C library has none of these.
        let Err(error) = Calls::open("libc.so.6") else { panic!("libc has no xencall_open") };
        assert!(matches!(error, Error::OldLibrary { symbol: "xencall_open", .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("libxencall.so.1") && text.contains("xencall_open") && text.contains("4.14"), "{text}");
    }

    #[test]
    fn a_library_of_another_architecture_is_told_of() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        // The header of a shared object for AArch64, and nothing behind it that anybody would read.
        let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\xb7\0\x01\0\0\0".to_vec();
        header.resize(4096, 0);
        file.write_all(&header).unwrap();
        let Err(error) = Foreign::open(file.path().to_str().unwrap()) else { panic!("it was opened") };
        let Error::NoLibrary { library: "libxenforeignmemory.so.1", problem } = &error else { panic!("{error:?}") };
        assert!(problem.contains(file.path().to_str().unwrap()), "{problem}");
        assert!(error.to_string().contains("libxenforeignmemory1"), "{error}");
    }

    #[test]
    fn a_library_that_is_not_there_is_told_of() {
        let Err(error) = Events::open("/nowhere/libxenevtchn.so.1") else { panic!("it was opened") };
        assert!(matches!(error, Error::NoLibrary { library: "libxenevtchn.so.1", .. }), "{error:?}");
        assert!(error.to_string().contains("/nowhere/libxenevtchn.so.1"), "{error}");
    }
}
