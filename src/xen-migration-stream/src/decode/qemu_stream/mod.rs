//! QEMU's migration stream as it is read from a connection: pushed in byte by byte, walked by its own marks.
//!
//! Source: QEMU's `migration/savevm.c` and `ram.c` (7.2); all numbers big-endian.
//!
//! | unit | bytes |
//! |---|---|
//! | header | u32 `QEVM`, u32 version 3 |
//! | configuration | 7, u32 length, machine type; subsections: 5, u8 length, name, u32 version, contents |
//! | section, START 1 and FULL 4 | type, u32 id, u8 length, name, u32 instance, u32 version, contents, footer |
//! | section, PART 2 and END 3 | type, u32 id, contents, footer |
//! | footer | 0x7e, u32 id; a machine type may turn all of them off |
//! | command | 8, u16 number, u16 length, data: 1 OPEN_RETURN_PATH, 2 PING, 8 ENABLE_COLO, 11 SWITCHOVER_START |
//! | end of file | 0 |
//! | description | 6, u32 length, JSON; behind an image's end of file |
//!
//! In a RAM section stand u64 words: an address, and in the bits below the page the flags that say what follows. Without
//! CONTINUE (0x20), the name of the page's block comes first (u8 length, name).
//!
//! | flags | follows |
//! |---|---|
//! | ZERO 0x02 | u8: what the page is filled with |
//! | MEM_SIZE 0x04 | blocks until the address, their sum, is used up: u8 length, name, u64 bytes (u64 address, with x-ignore-shared) |
//! | PAGE 0x08 | the page |
//! | EOS 0x10 | the section's end |
//! | XBZRLE 0x40 | u8 1, u16 length, the difference |
//! | HOOK 0x80 | nothing |
//! | COMPRESS_PAGE 0x100 | u32 length, the packed page |
//! | MULTIFD_FLUSH 0x200 | nothing: the pages on the multifd channels, up to one SYNC each, belong in front of it |
//!
//! * [`Walker`] takes these apart up to the first device's section. That one has no length: from there on the bytes are
//!   held, until somebody who knows the order of events says that the image is whole.
//! * [`Devices`] then finds the devices' extents: by the description at the end of an image ([`Devices::described`]), or in a
//!   blob of known length by inference ([`Devices::infer`]).
//!
//! Not followed, and said so where they come: sections in parts that are not RAM (block migration, dirty bitmaps), postcopy's
//! packages, RAM blocks of huge pages with postcopy's capability.
//!
//! # Contract
//! No input makes anything here panic. Held are at most a unit's header, 1,024 RAM blocks and [`MOST_DEVICE_STATE`] bytes of
//! device state; no length in the stream is allocated for.
#![forbid(unsafe_code)]

mod description;
mod error;
mod ram;
mod walker;

pub use description::{Devices, Extents, MOST_INFERRED, description_end};
pub use error::WalkError;
pub use ram::Ram;
pub use walker::{Head, MOST_DEVICE_STATE, Progress, Walker};

#[cfg(test)]
mod tests;
