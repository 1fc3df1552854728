//! What a save helper says on its standard output, as libxl hears it.

use std::io::{ErrorKind, Read};

/// A message of the helper's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Log { text: String },
    Progress { doing: String, done: u64, total: u64 },
    Suspend,
    Postcopy,
    Checkpoint,
    WaitCheckpoint,
    SwitchQemuLogdirty { enable: bool },
    StaticDataDone { missing: u32 },
    RestoreResults { store_gfn: u64, console_gfn: u64 },
    Complete { retval: i32, errno: i32 },
}

impl Message {
    /// Reads the next message; `None` when the helper has closed its end.
    pub fn read(from: &mut impl Read) -> Option<Message> {
        let mut length = [0; 2];
        match from.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
            Err(error) => panic!("{error}"),
        }
        let mut body = vec![0; u16::from_ne_bytes(length).into()];
        from.read_exact(&mut body).unwrap();
        let mut fields = Fields(&body);
        let message = match fields.u16() {
            1 => {
                let (_level, _errno, _context) = (fields.u32(), fields.u32(), fields.string());
                Message::Log { text: fields.string() }
            }
            2 => {
                let _context = fields.string();
                Message::Progress { doing: fields.string(), done: fields.u64(), total: fields.u64() }
            }
            3 => Message::Suspend,
            4 => Message::Postcopy,
            5 => Message::Checkpoint,
            6 => Message::WaitCheckpoint,
            7 => {
                let _domid = fields.u32();
                Message::SwitchQemuLogdirty { enable: fields.u32() != 0 }
            }
            8 => Message::StaticDataDone { missing: fields.u32() },
            9 => Message::RestoreResults { store_gfn: fields.u64(), console_gfn: fields.u64() },
            10 => Message::Complete { retval: fields.u32() as i32, errno: fields.u32() as i32 },
            number => panic!("message {number} of {} octets", body.len()),
        };
        assert!(fields.0.is_empty(), "{message:?}: {} octets left", fields.0.len());
        Some(message)
    }

    /// Whether the helper waits for an answer.
    pub fn is_question(&self) -> bool {
        !matches!(self, Message::Log { .. } | Message::Progress { .. } | Message::RestoreResults { .. })
    }
}

/// The body, taken from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.take(2).try_into().unwrap())
    }

    fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.take(8).try_into().unwrap())
    }

    fn string(&mut self) -> String {
        let length = self.u32() as usize;
        let octets = self.take(length);
        String::from_utf8_lossy(octets.strip_suffix(b"\0").unwrap()).into_owned()
    }
}
