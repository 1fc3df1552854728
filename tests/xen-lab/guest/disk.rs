//! The guest's disk: at each step a block gets that step's number, and is on the disk before the step is told; then another block must have
//! what it got last. A copy of the guest that goes on beside the disk of another moment finds a block that is too old or too new.

use crate::driver;
use std::fs::File;
use std::io::Result;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

/// `O_DIRECT` and `O_DSYNC` of x86-64: nothing of it stays in the guest's memory.
const DIRECT: i32 = 0o40000;
const DSYNC: i32 = 0o10000;
/// Bytes of a block.
const BLOCK: usize = 4096;
/// Blocks that are written in turn.
const BLOCKS: u64 = 32;

/// One block, where `O_DIRECT` wants it.
#[repr(C, align(4096))]
struct Block([u8; BLOCK]);

/// The disk, and what was found on it.
pub struct Disk {
    device: File,
    block: Box<Block>,
    /// Blocks that were found to be as they should.
    pub right: u64,
    /// The first that was not, in words.
    pub wrong: Option<String>,
}

impl Disk {
    /// Waits for the first disk that Xen's front end has.
    pub fn open() -> Result<Disk> {
        driver::devices();
        driver::load("/xen-blkfront.ko")?;
        let device = loop {
            match File::options().read(true).write(true).custom_flags(DIRECT | DSYNC).open("/dev/xvda") {
                Ok(device) => break device,
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        let mut disk = Disk { device, block: Box::new(Block([0; BLOCK])), right: 0, wrong: None };
        for place in 0..BLOCKS {
            disk.write(place, 0)?;
        }
        Ok(disk)
    }

    /// The step of that count.
    pub fn step(&mut self, count: u64) -> Result<()> {
        self.write(count % BLOCKS, count)?;
        // 5 and the number of blocks have no divisor in common: each has its turn.
        let place = count * 5 % BLOCKS;
        self.device.read_exact_at(&mut self.block.0, place * BLOCK as u64)?;
        let written = count.saturating_sub((count + BLOCKS - place) % BLOCKS);
        let expected = if written % BLOCKS == place { written } else { 0 };
        match self.block.0.chunks(8).find(|word| **word != expected.to_le_bytes()) {
            None => self.right += 1,
            Some(word) => {
                let found = u64::from_le_bytes(word.try_into().unwrap_or_default());
                self.wrong.get_or_insert(format!("block {place} has {found}, not {expected}, at {count}"));
            }
        }
        Ok(())
    }

    fn write(&mut self, place: u64, number: u64) -> Result<()> {
        for word in self.block.0.chunks_mut(8) {
            word.copy_from_slice(&number.to_le_bytes());
        }
        self.device.write_all_at(&self.block.0, place * BLOCK as u64)
    }
}
