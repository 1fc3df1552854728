//! Which domain this process has, and how to drive it.
#![forbid(unsafe_code)]

use crate::failure::Failure;
use crate::release::Release;
use serde::Deserialize;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// The environment variable that names the configuration's file.
pub const VARIABLE: &str = "XEN_STANDIN";

/// The configuration: JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The domain's folder: `before.json` (a [`SimImage`](xen_replicate::hypervisor::sim::SimImage)) and `memory`, its pages.
    /// At exit `after.json` is written there; `memory` is the guest's memory itself.
    pub folder: PathBuf,
    /// Whether the domain is a PV one: `before.json` is a [`PvImage`](xen_replicate::hypervisor::sim::pv::PvImage) then, `memory`
    /// the machine's frames, and `m2p` its m2p.
    #[serde(default)]
    pub pv: bool,
    /// Where to listen for the driver's commands; a Unix socket that must not be there yet.
    #[serde(default)]
    pub control: Option<PathBuf>,
    /// A file to append a line to for each hypercall and mapping.
    #[serde(default)]
    pub log: Option<PathBuf>,
    /// Whether the memory of a HVM domain is mapped once and for all: frames that lie next to each other in its file are then mapped
    /// and unmapped at no cost. For measuring what a caller does besides.
    #[serde(default)]
    pub kept_mappings: bool,
    /// The release of Xen that this is.
    #[serde(default)]
    pub xen: Release,
    /// A call that is to fail.
    #[serde(default)]
    pub fail: Option<Failure>,
    /// Steps a second that the guest makes while it runs; without a value as fast as it can.
    #[serde(default)]
    pub steps_per_second: Option<NonZeroU32>,
}

impl Config {
    /// Reads the configuration. The error is for people.
    pub fn from_environment() -> Result<Self, String> {
        let path = std::env::var_os(VARIABLE).ok_or_else(|| format!("{VARIABLE} is not set"))?;
        let path = PathBuf::from(path);
        let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
    }
}
