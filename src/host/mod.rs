//! One host: what the commands `remus` and `receive` do, from options to an exit code.
//!
//! | file | what |
//! |---|---|
//! | `bare.rs` | the same for a stock `xl remus` at the other end |
//! | `beside.rs` | a receiver beside a process that keeps a denied replica of the same domain |
//! | `claim.rs` | the start of a primary: may the domain run here? |
//! | `colo.rs` | the primary's for COLO: a guest that runs on both hosts |
//! | `lookout.rs` | the next connection, while one has not said who it is |
//! | `primary.rs` | a domain of this host, protected |
//! | `secondary.rs` | a copy of another host's domain, and its life after a failover |
//! | `home.rs` | a backend's part in `receive`, and what a session takes and leaves |
//! | `kept.rs` | copies of a domain whose disks have keepers here |
//! | `custody.rs` | a replica whose side was denied, until it is decided what becomes of it |
//! | `digests.rs` | what a guest was at each checkpoint, for tests |
//! | `operator.rs` | the control socket and signals, whoever is in charge of the domain |
//! | `sim.rs` | the backend: simulated guests, their cables |
//! | `sim_home.rs` | its part in `receive`, by checkpoints and in lock-step |
//! | `xen/` | the backend: domains of this host's Xen |

pub mod bare;
pub mod beside;
pub mod claim;
pub mod colo;
pub mod custody;
pub mod digests;
pub mod home;
pub mod kept;
pub mod lookout;
pub mod operator;
pub mod primary;
pub mod secondary;
pub mod sim;
pub mod sim_home;
pub mod xen;

use crate::remus::{Config, Generation, Rule};
use crate::replicate::fence::Fence;
use crate::witness::{DirectoryWitness, Holder, Witness, WitnessError};
use std::path::PathBuf;

/// Who may be active alone, and who makes sure of it, as the operator says.
#[derive(Debug, Clone)]
pub struct Protection {
    /// The domain's name.
    pub domain: String,
    /// The machine's settings.
    pub config: Config,
    /// The directory of generations, with [`Rule::Witness`].
    pub witness: Option<PathBuf>,
    /// The fencing command.
    pub fence: Option<Fence>,
    /// This process, as the witness knows it.
    pub holder: Holder,
}

impl Protection {
    /// The witness, opened anew: each of this process's roles has its own way to the same one.
    ///
    /// # Errors
    /// Its directory or the domain's name is of no use.
    pub fn witness(&self) -> Result<Option<Box<dyn Witness>>, WitnessError> {
        match (&self.witness, self.config.rule) {
            (Some(directory), Rule::Witness) => {
                let witness = DirectoryWitness::open(directory, &self.domain, self.holder.clone())?;
                Ok(Some(Box::new(witness)))
            }
            _ => Ok(None),
        }
    }

    /// The newest generation given, which a primary starts from.
    ///
    /// # Errors
    /// As [`Protection::witness`], or the witness is out of reach.
    pub fn newest(&self) -> Result<Generation, WitnessError> {
        self.witness()?.map_or(Ok(Generation::default()), |mut witness| witness.newest())
    }

    /// Makes sure of the witness before a replica is kept that only it can let go active.
    ///
    /// # Errors
    /// As [`Protection::newest`].
    pub fn check(&self) -> Result<(), WitnessError> {
        self.witness()?.map_or(Ok(()), |mut witness| witness.newest().map(drop))
    }

    /// What the rule in use means, for the operator.
    pub const fn rule_in_words(&self) -> &'static str {
        match (self.config.rule, self.fence.is_some()) {
            (Rule::Witness, _) => {
                "rule witness: whoever takes the next generation from the witness is active; the other side stands still"
            }
            (Rule::Manual, _) => {
                "rule manual: the primary goes on alone when the secondary is lost; the secondary goes active on \
                 `ctl fail-over` only. Nobody but the operator makes sure that one copy runs"
            }
            (Rule::PrimaryWins, true) => {
                "rule primary-wins: the primary goes on alone when the secondary is lost; the secondary goes active when \
                 its fencing command has succeeded"
            }
            (Rule::PrimaryWins, false) => {
                "rule primary-wins: the primary goes on alone when the secondary is lost; without a fencing command the \
                 secondary goes active on `ctl fail-over` only"
            }
        }
    }
}
