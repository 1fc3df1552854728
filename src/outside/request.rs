//! What the client asks: three numbers that come back in the guest's echo.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | number, from 0 (little-endian, as all that follow) |
//! | 8 | 8 | nonce of the client |
//! | 16 | 8 | when it was sent, in nanoseconds since the client began |

use nom::combinator::all_consuming;
use nom::number::complete::le_u64;
use nom::{IResult, Parser};

/// Bytes of a request.
pub const REQUEST_SIZE: usize = 24;

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Its number. A request that is sent again keeps it.
    pub number: u64,
    /// Whose request it is: a number that other clients and other runs do not have.
    pub nonce: u64,
    /// When it was sent, in nanoseconds since the client began.
    pub sent_at: u64,
}

impl Request {
    /// Reads a request; `None` for anything that no client sends.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let request: IResult<&[u8], _> = all_consuming((le_u64, le_u64, le_u64)).parse(bytes);
        let (_, (number, nonce, sent_at)) = request.ok()?;
        Some(Request { number, nonce, sent_at })
    }

    /// The request's bytes.
    pub fn emit(&self) -> [u8; REQUEST_SIZE] {
        let mut bytes = [0; REQUEST_SIZE];
        for (place, field) in bytes.chunks_exact_mut(8).zip([self.number, self.nonce, self.sent_at]) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_round_trip_and_other_lengths_are_none() {
        let request = Request { number: 1, nonce: 2 << 40, sent_at: u64::MAX };
        let bytes = request.emit();
        assert_eq!(Request::parse(&bytes), Some(request));
        assert_eq!(Request::parse(&bytes[1..]), None);
        assert_eq!(Request::parse(&[bytes.as_slice(), &[0]].concat()), None);
    }
}
