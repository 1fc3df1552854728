//! One screen about a file: what it is, whose guest, of which Xen, how large, and whether it is valid.

use super::container::Container;
use super::fit::{self, Guest as FitGuest, Releases};
use super::foreign::Foreign;
use super::input::Input;
use super::progress::Progress;
use super::summary::printable;
use super::verify::{self, Finding, verify_with};
use crate::decode::cpuid::CpuidPolicy;
use crate::decode::hvm_context::Entries;
use crate::decode::qevm::QemuState;
use crate::decode::xl_config::XlConfig;
use crate::stream::What;
use crate::stream::check::Parsed;
use crate::stream::framer::Item;
use crate::stream::libxc::{self, DomainType, PAGE_SIZE, VcpuRecord};
use crate::stream::libxl::{self, EmulatorId};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{self, Write};

/// Type code of a vCPU's registers in a HVM context.
const HVM_CPU: u16 = 2;
/// Most devices that are listed of one sort.
const MAX_DEVICES: usize = 64;
/// The longest state of a device model that is looked into.
const MAX_STATE: usize = 16 << 20;

/// What is known of a file.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Info {
    /// `xl`, `libxl`, `libxc` or `back`: the outermost layer; `None` for no stream.
    pub start: Option<&'static str>,
    /// `plain`, `remus`, `colo` or `back`; `unknown` for no stream.
    pub mode: &'static str,
    /// What the stream is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// What stands where the stream could not be followed, if that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<Foreign>,
    /// Bytes of the stream.
    pub bytes: u64,
    /// Records in it.
    pub records: u64,
    /// Whole checkpoints.
    pub checkpoints: u64,
    /// Whose guest, from xl's configuration.
    pub guest: Guest,
    /// Who saved it.
    pub saved: Saved,
    /// Its vCPUs.
    pub vcpus: Vcpus,
    /// Its memory.
    pub memory: Memory,
    /// Its device model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emulator: Option<Emulator>,
    /// What else it has, from xl's configuration.
    pub devices: Devices,
    /// Whether a receiver can take it, as `verify` says.
    pub valid: bool,
    /// Findings that are errors.
    pub errors: u64,
    /// Findings that are not.
    pub remarks: u64,
    /// The first error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<Finding>,
    /// The releases of Xen that take the guest, whatever their hosts have; `None` for a stream that is not valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fits: Option<Releases>,
}

/// Whose guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Guest {
    /// Its name.
    pub name: Option<String>,
    /// Its UUID.
    pub uuid: Option<String>,
    /// `pv`, `hvm` or `pvh`, as configured.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// `PV` or `HVM`, as the domain header says.
    pub domain: Option<&'static str>,
    /// Bits of a PV guest's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<u32>,
}

/// Who saved it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Saved {
    /// Version of Xen, as `4.17`.
    pub xen: Option<String>,
    /// Version of libxc's stream, 2 or 3.
    pub stream_version: Option<u32>,
    /// The CPU that the guest saw, as its policy names it.
    pub cpu: Option<String>,
}

/// vCPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Vcpus {
    /// How many the configuration has.
    pub max: Option<u64>,
    /// How many have registers in the last whole round.
    pub with_state: u64,
}

/// Memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// KiB that the configuration allows.
    pub max_kib: Option<u64>,
    /// KiB that the configuration starts with.
    pub target_kib: Option<u64>,
    /// Pages with contents, each as often as it was sent.
    pub pages: u64,
    /// The highest pfn that has memory.
    pub highest_pfn: Option<u64>,
}

/// A device model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Emulator {
    /// `qemu-upstream` or `qemu-traditional`.
    pub name: &'static str,
    /// Bytes of its last state.
    pub bytes: u64,
    /// Sections in it, one a device; `None` where they cannot be told.
    pub sections: Option<usize>,
}

/// Devices by what the configuration says of each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Devices {
    /// Disks: virtual device, and where its contents are.
    pub disks: Vec<String>,
    /// Network interfaces: MAC and bridge.
    pub nics: Vec<String>,
    /// Further devices: `vfbs`, `pcidevs` and so on, with their number.
    pub others: Vec<String>,
}

/// Reads a file for its facts, and verifies it.
///
/// # Errors
/// The input cannot be read.
pub fn info(input: Input, options: &verify::Options, progress: &mut Progress) -> io::Result<Info> {
    info_with(input, options, false, progress, &mut |_, _| {}).map(|(info, ..)| info)
}

/// The same, with what was found and how much more; shows every item, with `contents` the pages' contents too.
pub(super) fn info_with(
    input: Input,
    options: &verify::Options,
    contents: bool,
    progress: &mut Progress,
    observe: &mut dyn FnMut(&Item<'_>, Option<&Parsed<'_>>),
) -> io::Result<(Info, Vec<Finding>, u64)> {
    let mut info = Info::default();
    let mut round = BTreeSet::new();
    let options = verify::Options { all: true, ..*options };
    let mut guest = FitGuest::default();
    let report = verify_with(input, &options, contents, progress, &mut |item, parsed| {
        info.learn(item, parsed, &mut round);
        guest.learn(item, parsed);
        observe(item, parsed);
    })?;
    info.start = report.start;
    info.mode = report.mode;
    info.bytes = report.bytes;
    info.records = report.records;
    info.checkpoints = report.checkpoints;
    info.valid = report.valid;
    info.fits = (report.valid && guest.is_whole()).then(|| fit::releases(&guest));
    info.errors = report.findings.iter().filter(|finding| finding.is_error()).count() as u64;
    info.remarks = report.findings.len() as u64 - info.errors + report.left_out;
    info.first_error = report.findings.iter().find(|finding| finding.is_error()).cloned();
    info.container = report.container;
    info.foreign = report.foreign;
    Ok((info, report.findings, report.left_out))
}

impl Info {
    /// `round` are the vCPUs of the round under way.
    fn learn(&mut self, item: &Item<'_>, parsed: Option<&Parsed<'_>>, round: &mut BTreeSet<u32>) {
        match (&item.what, parsed) {
            (What::XlPreamble(preamble), _) => {
                if let Ok(Ok(config)) = preamble.config().map(XlConfig::decode) {
                    self.config(&config);
                }
            }
            (What::ImageHeader(header), _) => self.saved.stream_version = Some(header.version),
            (What::DomainHeader(header), _) => {
                self.guest.domain = header.domain_type().map(DomainType::name);
                // Major 0 is the converter of legacy streams.
                self.saved.xen = (header.xen_major > 0).then(|| format!("{}.{}", header.xen_major, header.xen_minor));
            }
            (_, Some(Parsed::Libxc(record))) => self.libxc(record, round),
            (_, Some(Parsed::Libxl(libxl::Record::EmulatorContext(context)))) => {
                let state = context.context;
                let upstream = context.header.id == EmulatorId::QemuUpstream && state.len() <= MAX_STATE;
                let sections = upstream.then(|| QemuState::decode(state).ok()).flatten();
                self.emulator = Some(Emulator {
                    name: context.header.id.name(),
                    bytes: state.len() as u64,
                    sections: sections.map(|state| state.sections.len()),
                });
            }
            _ => {}
        }
    }

    fn libxc(&mut self, record: &libxc::Record<'_>, round: &mut BTreeSet<u32>) {
        use libxc::Record;
        match record {
            Record::X86PvInfo(info) => self.guest.bits = Some(u32::from(info.guest_width) * 8),
            Record::X86CpuidPolicy(policy) => {
                let policy = CpuidPolicy::decode(policy.leaves).ok();
                self.saved.cpu = policy.and_then(|policy| policy.brand.or(policy.vendor));
            }
            Record::PageData(pages) => {
                for entry in pages.entries() {
                    self.memory.pages += u64::from(entry.page_type.has_contents());
                    if entry.page_type.is_populated() {
                        self.memory.highest_pfn = self.memory.highest_pfn.max(Some(entry.pfn));
                    }
                }
            }
            Record::HvmContext(blob) => {
                let entries = Entries::new(blob).filter_map(Result::ok).filter(|entry| entry.typecode == HVM_CPU);
                round.extend(entries.map(|entry| u32::from(entry.instance)));
            }
            Record::X86PvVcpu(part) if part.part == VcpuRecord::Basic && !part.context.is_empty() => {
                round.insert(part.vcpu_id);
            }
            Record::End | Record::Checkpoint => self.vcpus.with_state = std::mem::take(round).len() as u64,
            _ => {}
        }
    }

    fn config(&mut self, config: &XlConfig) {
        self.guest.name.clone_from(&config.name);
        self.guest.uuid.clone_from(&config.uuid);
        self.guest.kind.clone_from(&config.kind);
        self.vcpus.max = config.max_vcpus;
        (self.memory.max_kib, self.memory.target_kib) = (config.max_memkb, config.target_memkb);
        let list = |key: &str| config.config.as_ref().and_then(|config| config.get(key)).and_then(Value::as_array);
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let described = |key: &str, parts: [&str; 2]| {
            let devices = list(key).into_iter().flatten().take(MAX_DEVICES);
            let parts = devices.map(|device| parts.iter().filter_map(|part| text(device, part)).collect::<Vec<_>>());
            parts.map(|parts| if parts.is_empty() { "?".to_owned() } else { parts.join(" ") }).collect()
        };
        self.devices.disks = described("disks", ["vdev", "pdev_path"]);
        self.devices.nics = described("nics", ["mac", "bridge"]);
        let others = config.config.as_ref().and_then(Value::as_object).into_iter().flatten();
        let others = others.filter(|(key, _)| !matches!(key.as_str(), "disks" | "nics"));
        self.devices.others = others
            .filter_map(|(key, value)| Some(format!("{} {key}", value.as_array().filter(|it| !it.is_empty())?.len())))
            .take(MAX_DEVICES)
            .collect();
    }

    /// Writes the screen.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut line = |key: &str, value: String| writeln!(out, "{key:<12} {}", printable(&value));
        let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "not known".to_owned());
        if let Some(container) = &self.container {
            line("in", container.to_string())?;
        }
        match self.start {
            Some(start) => {
                let bytes = self.bytes;
                let mib = bytes as f64 / f64::from(1 << 20);
                line(
                    "stream",
                    format!("{start}, {}, {bytes} bytes ({mib:.1} MiB), {} records", self.mode, self.records),
                )?;
            }
            None => line("stream", "none that is known".to_owned())?,
        }
        if let Some(foreign) = &self.foreign {
            line("found", foreign.to_string())?;
        }
        if self.start.is_some() {
            self.write_guest(&mut line, &known)?;
        }
        let verdict = match &self.first_error {
            Some(error) => format!("NO, {} errors, {} remarks; {error}", self.errors, self.remarks),
            None => format!("yes, {} remarks", self.remarks),
        };
        line("valid", verdict)?;
        self.fits.as_ref().map_or(Ok(()), |fits| line("fits", fits.to_string()))
    }

    fn write_guest(
        &self,
        line: &mut dyn FnMut(&str, String) -> io::Result<()>,
        known: &dyn Fn(&Option<String>) -> String,
    ) -> io::Result<()> {
        let Guest { name, uuid, kind, domain, bits } = &self.guest;
        line("guest", format!("{}, UUID {}", known(name), known(uuid)))?;
        let bits = bits.map_or(String::new(), |bits| format!(", {bits} bits"));
        let kind = kind.as_ref().map_or(String::new(), |kind| format!(", configured as {kind}"));
        line("type", format!("{}{bits}{kind}", domain.unwrap_or("not known")))?;
        let version = self.saved.stream_version.map_or(String::new(), |version| format!(", stream version {version}"));
        line("saved by", format!("Xen {}{version}", known(&self.saved.xen)))?;
        line("CPU", known(&self.saved.cpu))?;
        let of = self.vcpus.max.map_or(String::new(), |max| format!(" of {max}"));
        line("vCPUs", format!("{}{of} with state", self.vcpus.with_state))?;
        let Memory { max_kib, pages, highest_pfn, .. } = &self.memory;
        let max = max_kib.map_or(String::new(), |kib| format!("{} MiB at most, ", kib >> 10));
        let sent = (pages * PAGE_SIZE as u64) as f64 / f64::from(1 << 20);
        let highest = highest_pfn.map_or(String::new(), |pfn| format!(", highest pfn {pfn:#x}"));
        line("memory", format!("{max}{pages} pages sent ({sent:.1} MiB){highest}"))?;
        if let Some(Emulator { name, bytes, sections }) = &self.emulator {
            let sections = sections.map_or(String::new(), |sections| format!(", {sections} sections"));
            line("device model", format!("{name}, state of {bytes} bytes{sections}"))?;
        }
        for (key, devices) in [("disks", &self.devices.disks), ("nics", &self.devices.nics)] {
            if !devices.is_empty() {
                line(key, devices.join(", "))?;
            }
        }
        if !self.devices.others.is_empty() {
            line("devices", self.devices.others.join(", "))?;
        }
        line("checkpoints", self.checkpoints.to_string())
    }
}
