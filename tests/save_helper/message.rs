//! What a save helper says, kept for the tests to look at. How it is said is `save_helper::message`'s matter, which holds its
//! parser against the bytes of each kind; libxl's own parser is Debian's.

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
