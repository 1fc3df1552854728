//! `libxendevicemodel`: `libxenctrl` opens it, and nothing of saving and restoring needs it.
//!
//! Its operations fail as on a host without the `dm_op` hypercall.

use crate::call;
use crate::errno::{Errno, set};
use crate::host::host;
use std::ffi::{c_int, c_uint, c_void};

#[unsafe(no_mangle)]
extern "C" fn xendevicemodel_open(_logger: *mut c_void, _flags: c_uint) -> *mut c_void {
    call::open()
}

#[unsafe(no_mangle)]
extern "C" fn xendevicemodel_close(_dmod: *mut c_void) -> c_int {
    0
}

fn refuse(name: &str) -> c_int {
    if let Ok(mut host) = host() {
        host.note(format_args!("{name}: not known"));
    }
    set(Errno(libc::ENOSYS));
    -1
}

/// Operations that fail whatever their arguments are; these stay in the registers where the caller has put them.
macro_rules! refused {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> c_int {
            refuse(stringify!($name))
        }
    )*};
}

refused! {
    xendevicemodel_create_ioreq_server
    xendevicemodel_destroy_ioreq_server
    xendevicemodel_get_ioreq_server_info
    xendevicemodel_inject_event
    xendevicemodel_inject_msi
    xendevicemodel_map_io_range_to_ioreq_server
    xendevicemodel_map_mem_type_to_ioreq_server
    xendevicemodel_map_pcidev_to_ioreq_server
    xendevicemodel_modified_memory
    xendevicemodel_modified_memory_bulk
    xendevicemodel_nr_vcpus
    xendevicemodel_pin_memory_cacheattr
    xendevicemodel_relocate_memory
    xendevicemodel_restrict
    xendevicemodel_set_ioreq_server_state
    xendevicemodel_set_irq_level
    xendevicemodel_set_isa_irq_level
    xendevicemodel_set_mem_type
    xendevicemodel_set_pci_intx_level
    xendevicemodel_set_pci_link_route
    xendevicemodel_shutdown
    xendevicemodel_track_dirty_vram
    xendevicemodel_unmap_io_range_from_ioreq_server
    xendevicemodel_unmap_pcidev_from_ioreq_server
}
