//! The simulated device model: registers, a disk's write counter, the network card's counters, and the blob that they travel in.
//!
//! The blob is its own format, opaque to the stream. All numbers are little-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic, the bytes `XRDM` |
//! | 4 | 4 | version, 1 |
//! | 8 | 6 | MAC address, 2 zero bytes after it |
//! | 16 | 32 | card: packets sent, bytes sent, packets fetched, bytes fetched (u64 each) |
//! | 48 | 24 | disk: writes, last sector, running checksum of what was written (u64 each) |
//! | 72 | 64 | eight device registers (u64 each) |
//! | 136 | 8 | checksum of bytes 0 to 135 |

use byteorder::{LittleEndian, WriteBytesExt};
use nom::multi::fill;
use nom::number::complete::{le_u32, le_u64};
use nom::{IResult, Parser, bytes::complete::take};

use super::nic::NicCounters;
use super::workload::hash::mix;
use crate::hypervisor::error::{DeviceModelProblem, Error, Result};
use crate::stream::libxl::{EmulatorHeader, EmulatorId};

/// The bytes `XRDM`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"XRDM");
/// The only version there is.
pub const VERSION: u32 = 1;
/// Bytes of a state blob.
pub const BLOB_SIZE: usize = 144;

/// Whose records carry the blob: neither of the two QEMUs'.
pub(super) const EMULATOR: EmulatorHeader = EmulatorHeader { id: EmulatorId::Unknown, index: 0 };

const CHECKED: usize = BLOB_SIZE - 8;

/// The simulated disk, as far as a guest notices it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disk {
    /// Writes completed.
    pub writes: u64,
    /// The sector written last.
    pub last_sector: u64,
    /// A checksum over all that was written, in order.
    pub checksum: u64,
}

/// The device model's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceModelState {
    /// The card's address.
    pub mac: [u8; 6],
    /// The card's counters.
    pub nic: NicCounters,
    /// The disk.
    pub disk: Disk,
    /// Registers of further devices.
    pub registers: [u64; 8],
}

impl DeviceModelState {
    /// The state at power-on. The MAC address is in the range that is Xen's (00:16:3e).
    pub(super) fn power_on(seed: u64) -> Self {
        let [a, b, c, ..] = mix(seed).to_le_bytes();
        DeviceModelState { mac: [0x00, 0x16, 0x3e, a & 0x7f, b, c], ..DeviceModelState::default() }
    }

    /// One write of the guest's to its disk.
    pub(super) fn write_disk(&mut self, sector: u64, value: u64) {
        self.disk.writes = self.disk.writes.wrapping_add(1);
        self.disk.last_sector = sector;
        self.disk.checksum = mix(self.disk.checksum ^ mix(sector) ^ value);
    }

    /// Puts the state into `blob`, replacing what it had.
    pub(super) fn emit(&self, blob: &mut Vec<u8>) -> Result<()> {
        blob.clear();
        self.write(blob).map_err(|source| Error::Os { operation: "writing a device model state", source })
    }

    fn write(&self, blob: &mut Vec<u8>) -> std::io::Result<()> {
        blob.write_u32::<LittleEndian>(MAGIC)?;
        blob.write_u32::<LittleEndian>(VERSION)?;
        blob.extend_from_slice(&self.mac);
        blob.extend_from_slice(&[0; 2]);
        let NicCounters { tx_packets, tx_bytes, rx_packets, rx_bytes } = self.nic;
        let Disk { writes, last_sector, checksum } = self.disk;
        for value in [tx_packets, tx_bytes, rx_packets, rx_bytes, writes, last_sector, checksum] {
            blob.write_u64::<LittleEndian>(value)?;
        }
        for register in self.registers {
            blob.write_u64::<LittleEndian>(register)?;
        }
        blob.write_u64::<LittleEndian>(blob_checksum(blob))
    }

    /// Reads a state blob.
    pub(super) fn parse(blob: &[u8]) -> Result<Self> {
        let fail = |offset, problem| Error::DeviceModel { offset, problem };
        let length = fail(0, DeviceModelProblem::Length { expected: BLOB_SIZE, found: blob.len() });
        let Ok((rest, (magic, version))) = magic_and_version(blob) else {
            return Err(length);
        };
        if magic != MAGIC {
            return Err(fail(0, DeviceModelProblem::Magic { found: magic }));
        }
        if version != VERSION {
            return Err(fail(4, DeviceModelProblem::Version { found: version }));
        }
        let Ok((rest, (state, found))) = fields(rest) else {
            return Err(length);
        };
        if !rest.is_empty() {
            return Err(length);
        }
        let expected = blob.get(..CHECKED).map_or(0, blob_checksum);
        if found != expected {
            return Err(fail(CHECKED, DeviceModelProblem::Checksum { expected, found }));
        }
        Ok(state)
    }
}

fn magic_and_version(input: &[u8]) -> IResult<&[u8], (u32, u32)> {
    (le_u32, le_u32).parse(input)
}

fn fields(input: &[u8]) -> IResult<&[u8], (DeviceModelState, u64)> {
    let (input, mac) = take(6usize)(input)?;
    let (input, _) = take(2usize)(input)?;
    let mut nic = [0; 4];
    let (input, ()) = fill(le_u64, &mut nic).parse(input)?;
    let mut disk = [0; 3];
    let (input, ()) = fill(le_u64, &mut disk).parse(input)?;
    let mut registers = [0; 8];
    let (input, ()) = fill(le_u64, &mut registers).parse(input)?;
    let (input, checksum) = le_u64(input)?;
    let [tx_packets, tx_bytes, rx_packets, rx_bytes] = nic;
    let [writes, last_sector, disk_checksum] = disk;
    let state = DeviceModelState {
        mac: mac.try_into().unwrap_or_default(),
        nic: NicCounters { tx_packets, tx_bytes, rx_packets, rx_bytes },
        disk: Disk { writes, last_sector, checksum: disk_checksum },
        registers,
    };
    Ok((input, (state, checksum)))
}

fn blob_checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(u64::from(MAGIC), |sum, &byte| mix(sum ^ u64::from(byte)))
}

/// The keys that a device model keeps in xenstore about memory that it has moved: that of its video card.
pub(super) fn physmap_keys() -> Vec<(String, String)> {
    let key = |name: &str| format!("physmap/f0000000/{name}");
    vec![(key("start_addr"), "f0000000".into()), (key("size"), "800000".into()), (key("name"), "vga.vram".into())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> DeviceModelState {
        let mut state = DeviceModelState::power_on(7);
        state.nic = NicCounters { tx_packets: 1, tx_bytes: 2, rx_packets: 3, rx_bytes: 4 };
        state.write_disk(5, 6);
        state.registers = [1, 2, 3, 4, 5, 6, 7, u64::MAX];
        state
    }

    fn blob() -> Vec<u8> {
        let mut blob = vec![0xff; 9];
        state().emit(&mut blob).unwrap();
        blob
    }

    fn problem(blob: &[u8]) -> (usize, DeviceModelProblem) {
        match DeviceModelState::parse(blob) {
            Err(Error::DeviceModel { offset, problem }) => (offset, problem),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_state_round_trips() {
        assert_eq!(blob().len(), BLOB_SIZE);
        assert_eq!(DeviceModelState::parse(&blob()).unwrap(), state());
    }

    #[test]
    fn every_truncation_and_every_surplus_is_refused() {
        let mut blob = blob();
        for length in 0..BLOB_SIZE {
            assert_eq!(
                problem(&blob[..length]),
                (0, DeviceModelProblem::Length { expected: BLOB_SIZE, found: length })
            );
        }
        blob.push(0);
        assert!(matches!(problem(&blob), (0, DeviceModelProblem::Length { found: 145, .. })));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = blob();
        for bit in 0..BLOB_SIZE * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let (offset, problem) = problem(&bad);
            match bit / 8 {
                0..4 => assert!(matches!(problem, DeviceModelProblem::Magic { .. })),
                4..8 => assert!(matches!(problem, DeviceModelProblem::Version { .. })),
                _ => assert!(matches!(problem, DeviceModelProblem::Checksum { .. }) && offset == CHECKED),
            }
        }
    }
}
