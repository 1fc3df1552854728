//! A guest's disk, over NBD.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

pub struct Guest {
    stream: UnixStream,
    size: u64,
}

impl Guest {
    pub fn open(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting[..16], *b"NBDMAGICIHAVEOPT");
        // Fixed newstyle without zeroes; the default export.
        stream.write_all(&[&3u32.to_be_bytes()[..], b"IHAVEOPT", &1u32.to_be_bytes(), &[0; 4]].concat()).unwrap();
        let mut export = [0; 10];
        stream.read_exact(&mut export).unwrap();
        Guest { stream, size: u64::from_be_bytes(export[..8].try_into().unwrap()) }
    }

    fn ask(&mut self, command: u16, offset: u64, length: usize, payload: &[u8]) -> io::Result<()> {
        assert!(offset + length as u64 <= self.size);
        let head = [
            &0x2560_9513u32.to_be_bytes()[..],
            &[0, 0],
            &command.to_be_bytes(),
            &offset.to_be_bytes(),
            &offset.to_be_bytes(),
            &(length as u32).to_be_bytes(),
        ];
        self.stream.write_all(&[&head.concat(), payload].concat())?;
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply)?;
        assert_eq!((&reply[..4], &reply[8..]), (&0x6744_6698u32.to_be_bytes()[..], &offset.to_be_bytes()[..]));
        match u32::from_be_bytes(reply[4..8].try_into().unwrap()) {
            0 => Ok(()),
            number => Err(io::Error::other(format!("error {number}"))),
        }
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.ask(1, offset, bytes.len(), bytes)
    }

    pub fn zero(&mut self, offset: u64, length: usize) -> io::Result<()> {
        self.ask(6, offset, length, &[])
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.ask(3, 0, 0, &[])
    }

    pub fn read(&mut self, offset: u64, length: usize) -> Vec<u8> {
        self.ask(0, offset, length, &[]).unwrap();
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }
}
