//! Copies of a domain whose disks have keepers on this host ([`crate::disk`]).
#![forbid(unsafe_code)]

use crate::disk::engine::Keepers;
use crate::disk::{Device, Mark};
use crate::hypervisor::Error;
use crate::libxl::restore::Options;
use crate::remus::Session;
use crate::replicate::secondary::{Arrived, Copies, Replica, Unsound};
use std::io::Read;

/// Makes copies, for a domain with these disks.
#[derive(Debug, Clone)]
pub struct WithDisks<C> {
    /// What makes them of the domain alone.
    pub copies: C,
    /// Its disks.
    pub disks: Vec<Device>,
}

/// A copy, and the keepers of its disks.
#[derive(Debug)]
pub struct Kept<P> {
    copy: P,
    keepers: Keepers,
    /// The checkpoint that the disks are at.
    at: Option<Mark>,
}

impl<C: Copies> Copies for WithDisks<C> {
    type Domain = C::Domain;
    type Copy<R: Read> = Kept<C::Copy<R>>;

    fn image<R: Read>(&mut self, stream: R, options: Options) -> Result<Self::Copy<R>, Unsound> {
        let found = Keepers::find(self.disks.clone());
        let keepers = found.map_err(|error| Unsound::Domain(Error::Toolstack(error.to_string())))?;
        Ok(Kept { copy: self.copies.image(stream, options)?, keepers, at: None })
    }
}

impl<P: Replica> Replica for Kept<P> {
    type Domain = P::Domain;

    fn receive(&mut self) -> Result<Arrived, Unsound> {
        self.copy.receive()
    }

    fn commit(&mut self, session: Session, checkpoint: u64) -> Result<(), String> {
        let mark = Mark { session: session.0, checkpoint };
        self.keepers.commit(mark).map_err(|error| error.to_string())?;
        self.at = Some(mark);
        self.copy.commit(session, checkpoint)
    }

    fn apply(&mut self) -> Result<(), String> {
        self.copy.apply()
    }

    fn activate(self) -> Result<P::Domain, String> {
        if !self.keepers.is_empty() {
            // Before anything of the domain runs.
            let mark = self.at.ok_or("no checkpoint of its disks was committed")?;
            self.keepers.promote(mark).map_err(|error| format!("its disks: {error}"))?;
        }
        self.copy.activate()
    }

    fn memory(&self) -> u64 {
        self.copy.memory()
    }
}
