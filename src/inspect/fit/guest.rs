//! The part of a stream that matters to another host: its static records, and the state of its last round.

use crate::decode::cpuid::CpuidPolicy;
use crate::decode::msr::{MsrEntry, decode_msrs};
use crate::decode::xl_config::XlConfig;
use crate::inspect::input::Input;
use crate::inspect::progress::Progress;
use crate::inspect::verify::{self, Finding, verify_with};
use crate::stream::What;
use crate::stream::check::Parsed;
use crate::stream::framer::Item;
use crate::stream::libxc::{self, DomainType, HvmParam, VcpuBlob, VcpuRecord};
use crate::stream::libxl::{self, EmulatorId};
use serde_json::Value;
use std::io;
use std::path::PathBuf;

/// The most of a round's state that is kept: real guests have some hundred KiB.
const MOST_STATE: usize = 64 << 20;

/// A guest in a stream.
#[derive(Debug, Clone, Default)]
pub struct Guest {
    /// Type of the domain.
    pub domain: Option<DomainType>,
    /// The Xen that saved it: major and minor; major 0 is the converter of legacy streams.
    pub xen: Option<(u32, u32)>,
    /// xl's configuration.
    pub config: Option<Value>,
    /// `pv`, `hvm` or `pvh` of the configuration.
    pub kind: Option<String>,
    /// X86_CPUID_POLICY.
    pub cpuid: Option<CpuidPolicy>,
    /// X86_MSR_POLICY.
    pub msrs: Vec<MsrEntry>,
    /// HVM_CONTEXT of the last whole round.
    pub hvm_context: Vec<u8>,
    /// HVM_PARAMS of the last whole round.
    pub hvm_params: Vec<HvmParam>,
    /// The parts of a PV guest's vCPUs of the last whole round.
    pub vcpus: Vec<(VcpuRecord, u32, Vec<u8>)>,
    /// The device model's last state, and whose it is.
    pub emulator: Option<(EmulatorId, Vec<u8>)>,
    /// What `verify` has found.
    pub findings: Vec<Finding>,
    /// Whether there is a whole round.
    whole: bool,
    next: Round,
}

/// A round under way.
#[derive(Debug, Clone, Default)]
struct Round {
    hvm_context: Vec<u8>,
    hvm_params: Vec<HvmParam>,
    vcpus: Vec<(VcpuRecord, u32, Vec<u8>)>,
    bytes: usize,
}

/// Reads a stream for its guest, and verifies it.
///
/// # Errors
/// The input cannot be read.
pub fn read(input: Input, options: &verify::Options, progress: &mut Progress) -> io::Result<Guest> {
    let mut guest = Guest::default();
    let report = verify_with(input, options, false, progress, &mut |item, parsed| guest.learn(item, parsed))?;
    guest.findings = report.findings;
    Ok(guest)
}

impl Guest {
    /// Reads a stream for its guest, and verifies it.
    ///
    /// # Errors
    /// The input cannot be read.
    pub fn read(input: Input, options: &verify::Options, progress: &mut Progress) -> io::Result<Guest> {
        read(input, options, progress)
    }

    /// Whether the stream has a guest that could be restored.
    pub const fn is_whole(&self) -> bool {
        self.whole && self.domain.is_some()
    }

    /// Takes note of an item.
    pub fn learn(&mut self, item: &Item<'_>, parsed: Option<&Parsed<'_>>) {
        match (&item.what, parsed) {
            (What::XlPreamble(preamble), _) => {
                if let Ok(Ok(config)) = preamble.config().map(XlConfig::decode) {
                    (self.config, self.kind) = (config.config, config.kind);
                }
            }
            (What::DomainHeader(header), _) => {
                self.domain = header.domain_type();
                self.xen = Some((header.xen_major, header.xen_minor));
            }
            (_, Some(Parsed::Libxl(libxl::Record::EmulatorContext(context))))
                if context.context.len() <= MOST_STATE =>
            {
                self.emulator = Some((context.header.id, context.context.to_vec()));
            }
            (_, Some(Parsed::Libxc(record))) => self.libxc(record),
            _ => {}
        }
    }

    fn libxc(&mut self, record: &libxc::Record<'_>) {
        use libxc::Record;
        match record {
            Record::X86CpuidPolicy(policy) => self.cpuid = CpuidPolicy::decode(policy.leaves).ok(),
            Record::X86MsrPolicy(policy) => self.msrs = decode_msrs(policy.entries).unwrap_or_default(),
            Record::HvmContext(blob) if blob.len() <= MOST_STATE => self.next.hvm_context = blob.to_vec(),
            Record::HvmParams(params) => self.next.hvm_params = params.params().collect(),
            Record::X86PvVcpu(part) if self.next.bytes + part.context.len() <= MOST_STATE => {
                self.next.bytes += part.context.len();
                self.next.vcpus.push((part.part, part.vcpu_id, part.context.to_vec()));
            }
            Record::End | Record::Checkpoint => {
                let round = std::mem::take(&mut self.next);
                (self.hvm_context, self.hvm_params, self.vcpus) = (round.hvm_context, round.hvm_params, round.vcpus);
                self.whole = true;
            }
            _ => {}
        }
    }

    /// The parts of a PV guest's vCPUs.
    pub fn vcpu_parts(&self) -> impl Iterator<Item = VcpuBlob<'_>> {
        self.vcpus.iter().map(|(part, vcpu, context)| VcpuBlob::new(*part, *vcpu, context))
    }

    /// Devices of one sort in the configuration, as `disks`.
    pub fn devices(&self, sort: &str) -> impl Iterator<Item = &Value> {
        self.config.as_ref().and_then(|config| config.get(sort)?.as_array()).into_iter().flatten()
    }

    /// A field of the configuration's `b_info`.
    pub fn build(&self, field: &str) -> Option<&Value> {
        self.config.as_ref()?.get("b_info")?.get(field)
    }

    /// Where the contents of the disks are, of those that a toolstack opens by a path.
    pub fn disk_paths(&self) -> Vec<PathBuf> {
        self.devices("disks").filter_map(super::devices::disk_path).map(PathBuf::from).collect()
    }
}
