//! The guest's disks, whose writes reach another host.
#![forbid(unsafe_code)]

use super::error::Result;

/// A disk whose writes reach another host, an epoch at a time: those of an epoch count there when its checkpoint does.
///
/// ```text
///   prepare                      before a protection, the guest runs
///   begin                        a session's stream begins, the guest runs
///   suspended .. wait            each checkpoint, the guest stands still: its memory is copied meanwhile
///   leave                        the stream is over
/// ```
pub trait Replicated: Send {
    /// Has the other side become fit for a protection, however long that takes, or until `give_up`. The guest runs meanwhile. Nothing
    /// that the other side has of other sessions is void yet: it may be what it goes on from.
    ///
    /// # Errors
    /// It does not.
    fn prepare(&mut self, give_up: &dyn Fn() -> bool) -> Result<()> {
        let _ = give_up;
        Ok(())
    }

    /// A stream of this session begins. What the other side has of other sessions is void. The guest runs meanwhile.
    ///
    /// # Errors
    /// The other side is not fit for it.
    fn begin(&mut self, session: u64) -> Result<()> {
        let _ = session;
        Ok(())
    }

    /// The guest has suspended: what it has written until now belongs to this checkpoint.
    ///
    /// # Errors
    /// The checkpoint cannot be taken.
    fn suspended(&mut self, session: u64, checkpoint: u64) -> Result<()>;

    /// Waits until the other side has those writes. The guest stands still meanwhile.
    ///
    /// # Errors
    /// It does not get them: the checkpoint cannot be taken.
    fn wait(&mut self) -> Result<()>;

    /// There is no stream any more. What the other side has stays as it is.
    fn leave(&mut self) {}
}
