//! What the guest sends: enough to tell, from outside, whether a survivor goes on from a state that its packets were promised by.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | the bytes `XRPK` |
//! | 4 | 1 | kind: 0 beacon, 1 echo |
//! | 5 | 1 | connection: 0, but 1 for echoes of a guest with steady answers |
//! | 6 | 2 | zero |
//! | 8 | 8 | sequence number in its connection, from 0 (little-endian, as all that follow) |
//! | 16 | 8 | steps that the guest had run; in connection 1 echoes that it had sent |
//! | 24 | 8 | checksum of the working set then; in connection 1 a sum over all that was answered |
//! | 32 | - | echo: the packet answered; beacon: zero bytes up to the configured size |

use nom::IResult;
use nom::bytes::complete::{tag, take};
use nom::number::complete::{le_u64, u8 as byte};

/// Bytes before the payload.
pub const HEADER_SIZE: usize = 32;

const MAGIC: &[u8; 4] = b"XRPK";

/// Why the guest sent a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PacketKind {
    /// Of its own accord.
    Beacon,
    /// In answer to an inbound packet.
    Echo,
}

/// A packet of the workload's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadPacket {
    /// Why it was sent.
    pub kind: PacketKind,
    /// Its connection.
    pub connection: u8,
    /// Its number; a guest sends each number once in a connection.
    pub sequence: u64,
    /// Steps that the guest had run, or how many packets of the connection it had sent.
    pub step: u64,
    /// The working set's checksum then, or that of the connection.
    pub sum: u64,
    /// The packet answered, or filling.
    pub payload: Vec<u8>,
}

impl WorkloadPacket {
    /// Reads a packet; `None` for anything that the workload does not send.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (payload, (kind, connection, [sequence, step, sum])) = header(bytes).ok()?;
        let kind = match kind {
            0 => PacketKind::Beacon,
            1 => PacketKind::Echo,
            _ => return None,
        };
        Some(WorkloadPacket { kind, connection, sequence, step, sum, payload: payload.to_vec() })
    }

    /// The packet's bytes, filled up with zeros to `size`.
    pub fn emit(&self, size: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_SIZE + self.payload.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[u8::from(self.kind == PacketKind::Echo), self.connection, 0, 0]);
        for field in [self.sequence, self.step, self.sum] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&self.payload);
        // Configurations allow 9,000 bytes; a size out of a damaged control page must not become an allocation.
        bytes.resize(bytes.len().max(size.min(9000) as usize), 0);
        bytes
    }
}

fn header(input: &[u8]) -> IResult<&[u8], (u8, u8, [u64; 3])> {
    let (input, _) = tag(MAGIC.as_slice())(input)?;
    let (input, kind) = byte(input)?;
    let (input, connection) = byte(input)?;
    let (input, _) = take(2usize)(input)?;
    let (input, sequence) = le_u64(input)?;
    let (input, step) = le_u64(input)?;
    let (input, sum) = le_u64(input)?;
    Ok((input, (kind, connection, [sequence, step, sum])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_round_trip() {
        let packet = WorkloadPacket {
            kind: PacketKind::Echo,
            connection: 1,
            sequence: 1,
            step: 2,
            sum: u64::MAX,
            payload: b"ping".to_vec(),
        };
        let bytes = packet.emit(0);
        assert_eq!(bytes.len(), 36);
        assert_eq!(WorkloadPacket::parse(&bytes), Some(packet));
    }

    #[test]
    fn other_bytes_are_no_packets() {
        let beacon =
            WorkloadPacket { kind: PacketKind::Beacon, connection: 0, sequence: 0, step: 0, sum: 0, payload: vec![] };
        let mut bytes = beacon.emit(64);
        assert_eq!(bytes.len(), 64);
        for length in 0..HEADER_SIZE {
            assert_eq!(WorkloadPacket::parse(&bytes[..length]), None);
        }
        bytes[4] = 2;
        assert_eq!(WorkloadPacket::parse(&bytes), None);
    }
}
