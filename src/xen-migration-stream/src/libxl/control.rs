//! The sync points of COLO, which CHECKPOINT_STATE carries.

/// The sync points of COLO as libxl writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ControlId {
    /// Primary to secondary: out of sync, start a checkpoint.
    New,
    /// Secondary to primary: the secondary is suspended.
    SvmSuspended,
    /// Secondary to primary: the secondary has loaded the checkpoint.
    SvmReady,
    /// Secondary to primary: the secondary runs.
    SvmResumed,
}

impl ControlId {
    /// The id with this number.
    pub const fn from_wire(value: u32) -> Option<Self> {
        Some(match value {
            0 => ControlId::New,
            1 => ControlId::SvmSuspended,
            2 => ControlId::SvmReady,
            3 => ControlId::SvmResumed,
            _ => return None,
        })
    }

    /// The number on the wire.
    pub const fn wire(self) -> u32 {
        match self {
            ControlId::New => 0,
            ControlId::SvmSuspended => 1,
            ControlId::SvmReady => 2,
            ControlId::SvmResumed => 3,
        }
    }

    /// The specification's name.
    pub const fn name(self) -> &'static str {
        match self {
            ControlId::New => "NEW",
            ControlId::SvmSuspended => "SVM_SUSPENDED",
            ControlId::SvmReady => "SVM_READY",
            ControlId::SvmResumed => "SVM_RESUMED",
        }
    }
}
