//! Which epochs of a guest's output are on which side of the newest plug.
#![forbid(unsafe_code)]

use crate::hypervisor::{Error, Result};

/// Which epochs are on which side of the newest plug.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Epochs {
    pub holding: bool,
    /// The newest of those before it, until they are released.
    pub before: Option<u64>,
    /// The newest behind it.
    pub open: u64,
    /// Nothing was sent since the plug of a hold.
    pub fresh: bool,
}

impl Epochs {
    /// Begins one; true where a plug has to go before it.
    pub fn begin(&mut self, epoch: u64) -> Result<bool> {
        if epoch < self.open {
            return Err(Error::EpochOrder { current: self.open, asked: epoch });
        }
        let fresh = std::mem::take(&mut self.fresh);
        let plug = epoch > self.open && self.before.is_none() && !fresh;
        if plug {
            self.before = Some(self.open);
        }
        self.open = epoch;
        Ok(plug)
    }

    /// Whether what is before the plug may leave.
    pub fn may_leave(&self, up_to: u64) -> bool {
        self.holding && self.before.is_some_and(|before| before <= up_to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_leaves_when_its_checkpoint_is_acknowledged() {
        let mut epochs = Epochs { holding: true, fresh: true, ..Epochs::default() };
        assert!(!epochs.begin(1).unwrap(), "there is a plug, and nothing behind it");
        assert!(!epochs.may_leave(1));
        assert!(epochs.begin(2).unwrap());
        assert!(!epochs.may_leave(0) && epochs.may_leave(1));
        assert!(!epochs.begin(2).unwrap(), "the same goes on");
        assert!(matches!(epochs.begin(1), Err(Error::EpochOrder { current: 2, asked: 1 })));
    }

    #[test]
    fn a_plug_is_not_put_in_before_the_last_is_released() {
        let mut epochs = Epochs { holding: true, open: 1, ..Epochs::default() };
        assert!(epochs.begin(2).unwrap());
        // 1 is refused: 3 joins 2, and neither leaves with 1.
        assert!(!epochs.begin(3).unwrap());
        assert!(epochs.may_leave(1));
        epochs.before = None;
        assert!(!epochs.may_leave(9), "nothing is before a plug");
        assert!(epochs.begin(4).unwrap());
        assert!(!epochs.may_leave(2), "it would take 3 along");
        assert!(epochs.may_leave(3));
    }
}
