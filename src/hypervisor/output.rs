//! The guest's network output, held back until the state behind it is safe.
#![forbid(unsafe_code)]

use super::error::Result;

/// Holds the guest's outbound packets back and lets them go, an epoch at a time.
///
/// Packets leave in the order in which the guest sent them, or not at all. On their way they are no part of the guest's state: what
/// is held when the host dies is lost, as on any network. A buffer starts free, so that plugging it in cuts no guest off.
///
/// | call | in Linux's `sch_plug` |
/// |---|---|
/// | [`hold`](OutputBuffer::hold), [`begin_epoch`](OutputBuffer::begin_epoch) | `TCQ_PLUG_BUFFER`: a plug after what is queued |
/// | [`release`](OutputBuffer::release) | `TCQ_PLUG_RELEASE_ONE`, once for each plug up to the epoch's |
/// | [`free`](OutputBuffer::free) | `TCQ_PLUG_RELEASE_INDEFINITE` |
/// | [`discard`](OutputBuffer::discard) | a new qdisc in place of the old one, plugged |
///
/// No call waits for the network, and each is bounded in time, by some seconds where the host does not answer
/// ([`Bounded`](super::Bounded) bounds what is waited for): what is let out may still be on its way when the call returns, unless
/// [`discard`](OutputBuffer::discard) overtakes it. Each call answers with [`Error::Os`](super::Error::Os) when the host's network
/// refuses; what that leaves is said with the call.
pub trait OutputBuffer: Send {
    /// Lets out what was sent so far and holds from now on. The guest must be suspended: what it sends must fall on one side.
    /// Nothing changes where output is held already.
    ///
    /// On failure output leaves as before. Nothing is protected then, and no epoch may begin.
    fn hold(&mut self) -> Result<()>;

    /// Packets from now on belong to `epoch`. The guest must be suspended, so that an epoch is what it sent between one resume and
    /// the next suspend. While output is held, epochs must not go down; the same again goes on with it. Without effect while output
    /// is free.
    ///
    /// On failure packets would still count for the epoch before and leave too early: the guest may be resumed only after
    /// [`free`](OutputBuffer::free), unprotected.
    fn begin_epoch(&mut self, epoch: u64) -> Result<()>;

    /// Lets out the packets of all epochs up to and including this one, at any time. Returns how many they were; 0 while output is
    /// free.
    ///
    /// On failure some or all of them stay held, those that the guest sent last; it may be tried again.
    fn release(&mut self, up_to: u64) -> Result<u64>;

    /// Lets out everything, and from now on packets leave as they are sent. At any time.
    ///
    /// On failure output stays held where it failed, and has left elsewhere: it may be tried again, as often as is needed. A card that
    /// the guest no longer has is no failure.
    fn free(&mut self) -> Result<()>;

    /// Drops what is held, and what was let out and has not left yet. Of what the guest sent before, nothing leaves once this has
    /// returned. What comes is held, in the epoch that was begun last. At any time; it may wait for one packet on its way out.
    /// Returns how many packets were dropped.
    ///
    /// On failure the guest may not be let run, and packets that were let out before may still leave. None that is held does.
    fn discard(&mut self) -> Result<u64>;
}

/// No buffer at all (`-n` of `xl remus`): packets leave as the guest sends them, and after a failover nobody answers for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NoBuffer;

impl OutputBuffer for NoBuffer {
    fn hold(&mut self) -> Result<()> {
        Ok(())
    }

    fn begin_epoch(&mut self, _epoch: u64) -> Result<()> {
        Ok(())
    }

    fn release(&mut self, _up_to: u64) -> Result<u64> {
        Ok(0)
    }

    fn free(&mut self) -> Result<()> {
        Ok(())
    }

    fn discard(&mut self) -> Result<u64> {
        Ok(0)
    }
}
