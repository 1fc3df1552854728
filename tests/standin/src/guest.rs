//! The domain of this process, whichever kind it is.
#![forbid(unsafe_code)]

use crate::errno::Errno;
use crate::pv::PvRunner;
use xen_replicate::hypervisor::sim::Runner;
use xen_replicate::hypervisor::{CpuPolicy, Domain, DomainInfo, PvDomain, SaveDomain};

/// A guest with the thread that it runs on.
pub enum Guest {
    /// A translated one.
    Hvm(Runner),
    /// One that sees machine frames.
    Pv(PvRunner),
}

/// Does the same with either kind: an expression in which `$domain` stands for what implements the hypervisor's traits.
macro_rules! each {
    ($guest:expr, $domain:ident => $what:expr) => {
        match $guest {
            $crate::guest::Guest::Hvm($domain) => $what,
            $crate::guest::Guest::Pv(runner) => {
                let mut turn = runner.turn()?;
                let $domain = &mut *turn;
                $what
            }
        }
    };
}
pub(crate) use each;

impl Guest {
    /// What the hypervisor tells about it.
    pub fn info(&mut self) -> Result<DomainInfo, Errno> {
        each!(self, domain => Ok(domain.info()?))
    }

    /// Its CPU policy.
    pub fn cpu_policy(&mut self) -> Result<CpuPolicy, Errno> {
        each!(self, domain => Ok(domain.cpu_policy()?))
    }

    /// The pages that it may have.
    pub fn budget(&mut self) -> Result<u64, Errno> {
        match self {
            Guest::Hvm(runner) => Ok(runner.turn()?.memory().budget()),
            Guest::Pv(runner) => Ok(runner.turn()?.config().budget),
        }
    }

    /// The frame of its shared info page; a translated guest's has no number that means anything to others.
    pub fn shared_info_frame(&mut self) -> Result<u64, Errno> {
        match self {
            Guest::Hvm(_) => Ok(u64::MAX),
            Guest::Pv(runner) => Ok(runner.turn()?.shared_info_frame()?),
        }
    }
}
