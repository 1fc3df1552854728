//! What of a PV domain stays mapped.

use super::m2p::M2p;
use super::region::Region;
use crate::hypervisor::pv::Width;

/// It, for as long as the domain's handle lives.
#[derive(Debug, Default)]
pub(in crate::hypervisor::xen) struct PvMaps {
    pub(super) m2p: Option<M2p>,
    pub(super) p2m: Option<(Region, Width)>,
}
