//! The fixed texts that `xl migrate` and `xl migrate-receive` exchange around a stream.
//!
//! Source: `migrate_*` in Xen's `tools/xl/xl_migrate.c` and `xl_misc.c`. The banner has no NUL, the others end with one;
//! the report is followed by one byte of status.

/// One fixed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Message {
    /// Receiver to sender, before anything else.
    Banner,
    /// Receiver to sender, after a plain migration.
    Ready,
    /// Sender to receiver, the answer to [`Message::Ready`]; receiver to sender when the unpause failed.
    PermissionToGo,
    /// Receiver to sender: a byte with the result of the unpause follows.
    Report,
}

impl Message {
    /// All messages.
    pub const ALL: [Message; 4] = [Message::Banner, Message::Ready, Message::PermissionToGo, Message::Report];

    /// The bytes on the wire, without the status byte of [`Message::Report`].
    pub const fn bytes(self) -> &'static [u8] {
        match self {
            Message::Banner => b"xl migration receiver ready, send binary domain data.\n",
            Message::Ready => b"domain received, ready to unpause\0",
            Message::PermissionToGo => b"domain is yours, you are cleared to unpause\0",
            Message::Report => b"my copy unpause results are as follows\0",
        }
    }

    /// Bytes that belong to the message, the status included.
    pub const fn wire_len(self) -> usize {
        self.bytes().len() + matches!(self, Message::Report) as usize
    }

    /// The text without its end mark.
    pub fn text(self) -> &'static str {
        let bytes = self.bytes();
        // The texts above are ASCII with one end mark.
        std::str::from_utf8(&bytes[..bytes.len() - 1]).unwrap_or_default()
    }

    /// The message that `input` starts with, or `Err(bytes to have)` while one may still come of it.
    ///
    /// `Ok(None)` means that no message starts here, whatever follows.
    pub fn recognise(input: &[u8], among: &[Message]) -> Result<Option<Message>, usize> {
        for &message in among {
            let bytes = message.bytes();
            let common = bytes.len().min(input.len());
            if bytes[..common] == input[..common] {
                return if input.len() < message.wire_len() { Err(message.wire_len()) } else { Ok(Some(message)) };
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_waits_and_every_change_is_refused() {
        for message in Message::ALL {
            let mut whole = message.bytes().to_vec();
            if message == Message::Report {
                whole.push(1);
            }
            for len in 1..whole.len() {
                assert!(Message::recognise(&whole[..len], &[message]).is_err(), "{message:?} {len}");
            }
            assert_eq!(Message::recognise(&whole, &Message::ALL), Ok(Some(message)));
            whole[3] ^= 1;
            assert_eq!(Message::recognise(&whole, &Message::ALL), Ok(None));
        }
    }

    #[test]
    fn the_trailer_has_44_bytes() {
        assert_eq!(Message::PermissionToGo.wire_len(), 44);
        assert_eq!(Message::PermissionToGo.text(), "domain is yours, you are cleared to unpause");
    }
}
