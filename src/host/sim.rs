//! The simulated backend: guests in process memory, their network over UDP.

use crate::hypervisor::sim::{Pace, Runner, SimConfig, SimDomain, SimOutput, SimWire};
use crate::hypervisor::{self, Error, NoBuffer, OutputBuffer};
use crate::replicate::secondary::Target;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::net::SocketAddr;
use std::num::NonZeroU32;

/// How simulated guests live on this host.
#[derive(Debug, Clone, Default)]
pub struct Backend {
    /// Steps of the guest's program in a second; as fast as the host lets it without a number.
    pub steps: Option<NonZeroU32>,
    /// Where the guest's card is plugged in.
    pub nic: Option<SocketAddr>,
    /// Where its packets go; without an address, to whoever sent one last.
    pub nic_peer: Option<SocketAddr>,
    /// `-n`: output is never held.
    pub unbuffered: bool,
}

/// A guest that lives on this host.
pub struct Guest {
    /// The domain.
    pub runner: Runner,
    /// Where its packets wait.
    pub output: Box<dyn OutputBuffer>,
    /// Its cable, plugged in while this lives.
    pub wire: SimWire,
}

impl Backend {
    /// How fast its guests run.
    pub(crate) fn pace(&self) -> Pace {
        self.steps.map_or(Pace::Free, Pace::StepsPerSecond)
    }

    /// Plugs a domain's cable in, and lets it run as far as its state allows.
    ///
    /// # Errors
    /// The address of the card is in use, a thread cannot be started.
    pub fn house(&self, domain: SimDomain) -> hypervisor::Result<Guest> {
        let (output, wire) = SimWire::start(domain.nic().clone(), self.nic, self.nic_peer)?;
        wire.set_inbound(true);
        let runner = Runner::start(domain, self.pace())?;
        self.housed(runner, output, wire)
    }

    /// The same with a guest that runs already, its cable not plugged in.
    ///
    /// # Errors
    /// As [`Backend::house`].
    pub fn plug(&self, runner: Runner) -> hypervisor::Result<Guest> {
        let (output, wire) = SimWire::start(runner.nic(), self.nic, self.nic_peer)?;
        wire.set_inbound(true);
        self.housed(runner, output, wire)
    }

    fn housed(&self, runner: Runner, output: SimOutput, wire: SimWire) -> hypervisor::Result<Guest> {
        let output: Box<dyn OutputBuffer> = if self.unbuffered { Box::new(NoBuffer) } else { Box::new(output) };
        Ok(Guest { runner, output, wire })
    }
}

/// The key of a simulated guest's own settings in the configuration that travels in xl's preamble. A real xl knows no such
/// key; a real host has no use for a simulated guest.
const KEY: &str = "xen_replicate_sim";

/// The configuration as xl would put it into the preamble.
#[must_use]
pub fn xl_config(config: &SimConfig) -> String {
    json!({
        "c_info": { "type": "hvm", "name": config.name, "uuid": config.uuid },
        "b_info": {
            "max_vcpus": config.vcpus,
            "max_memkb": config.memory * 4,
            "target_memkb": config.memory * 4,
            "type.hvm": {}
        },
        KEY: config,
    })
    .to_string()
}

#[derive(Debug, Serialize, Deserialize)]
struct Preamble {
    #[serde(rename = "xen_replicate_sim")]
    sim: SimConfig,
}

/// Makes empty simulated domains for images of one domain.
#[derive(Debug, Clone)]
pub struct SimTarget {
    /// The only domain that is taken.
    pub domain: String,
    /// Most pages that it may have here.
    pub memory_budget: Option<u64>,
}

impl Target for SimTarget {
    type Domain = SimDomain;

    fn create(&mut self, config: Option<&[u8]>) -> hypervisor::Result<SimDomain> {
        let unsupported = |what| Error::Unsupported { backend: "sim", what };
        let text = config.ok_or(unsupported("a stream without xl's preamble"))?;
        let preamble: Preamble =
            serde_json::from_slice(text).map_err(|_| unsupported("a domain that is no simulated one"))?;
        let mut config = preamble.sim;
        if config.name != self.domain {
            log::error!("the stream is of domain {:?}, this side takes {:?}", config.name, self.domain);
            return Err(unsupported("another domain than the one named here"));
        }
        if let Some(budget) = self.memory_budget {
            config.memory_budget = Some(config.budget().min(budget));
        }
        SimDomain::empty(&config)
    }
}
