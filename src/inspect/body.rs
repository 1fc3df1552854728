//! What an item holds: a telling line, and the whole of it decoded.

use crate::decode::cpuid::CpuidPolicy;
use crate::decode::hvm_context::HvmContext;
use crate::decode::hvm_params::HvmParam;
use crate::decode::msr::decode_msrs;
use crate::decode::shared_info::{SharedInfo, Width};
use crate::decode::tsc::tsc_mode_name;
use crate::decode::wire::Blob;
use crate::decode::xl_config::XlConfig;
use crate::decode::{DecodeError, pv_vcpu, qevm};
use crate::stream::check::Parsed;
use crate::stream::framer::{Item, What};
use crate::stream::libxc::{self, DomainHeader, PageData, PageType, VcpuBlob, VcpuRecord};
use crate::stream::libxl::{self, EmulatorContext};
use crate::stream::xl::Preamble;
use serde::Serialize;
use serde_json::{Value, json};

/// What records before an item tell about how to decode it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context {
    guest_width: Option<u8>,
}

impl Context {
    /// Takes note of an item.
    pub fn learn(&mut self, item: &Item<'_>, parsed: Option<&Parsed<'_>>) {
        match (&item.what, parsed) {
            (What::ImageHeader(_), _) => self.guest_width = None,
            (_, Some(Parsed::Libxc(libxc::Record::X86PvInfo(info)))) => self.guest_width = Some(info.guest_width),
            _ => {}
        }
    }

    fn width(self) -> Width {
        self.guest_width.and_then(Width::from_octets).unwrap_or(Width::Bits64)
    }
}

/// The item in a few words.
pub fn summary(item: &Item<'_>, parsed: Option<&Parsed<'_>>) -> String {
    match (&item.what, parsed) {
        (What::XlPreamble(preamble), _) => preamble_summary(preamble),
        (What::LibxlHeader(header), _) => {
            format!("version {}{}", libxl::VERSION, if header.is_converted() { ", converted from legacy" } else { "" })
        }
        (What::ImageHeader(header), _) => format!("version {}, little-endian", header.version),
        (What::DomainHeader(header), _) => domain_summary(header),
        (What::Handshake(message, status), _) => {
            let status = status.map_or(String::new(), |status| format!(", status {status}"));
            format!("{:?}{status}", message.text())
        }
        (What::Record(_), Some(Parsed::Libxl(record))) => libxl_summary(record),
        (What::Record(_), Some(Parsed::Libxc(record))) => libxc_summary(record),
        (What::Record(_), None) => String::new(),
    }
}

fn preamble_summary(preamble: &Preamble<'_>) -> String {
    let Ok(config) = preamble.config() else { return String::new() };
    let mut text = format!("configuration of {} octets", config.len());
    if let Ok(config) = XlConfig::decode(config) {
        for part in [config.kind, config.name].into_iter().flatten() {
            text += ", ";
            text += &printable(&part);
        }
    }
    text
}

fn domain_summary(header: &DomainHeader) -> String {
    let kind = header.domain_type().map_or_else(|| format!("type {:#x}", header.type_id), |kind| kind.name().into());
    match header.xen_major {
        0 => format!("{kind}, converted from legacy by version {} of the converter", header.xen_minor),
        major => format!("{kind}, Xen {major}.{}", header.xen_minor),
    }
}

fn libxl_summary(record: &libxl::Record<'_>) -> String {
    let emulator = |header: &libxl::EmulatorHeader| format!("{} {}", header.id.name(), header.index);
    match record {
        libxl::Record::LibxcContext => "libxc's stream follows".into(),
        libxl::Record::EmulatorXenstoreData(data) => {
            format!("{}, {} keys", emulator(&data.header), data.pairs().count())
        }
        libxl::Record::EmulatorContext(context) => {
            format!("{}, state of {} octets", emulator(&context.header), context.context.len())
        }
        libxl::Record::CheckpointState(state) => state.control_id.name().into(),
        libxl::Record::Optional { .. } => "unknown, may be skipped".into(),
        libxl::Record::End | libxl::Record::CheckpointEnd => String::new(),
    }
}

fn libxc_summary(record: &libxc::Record<'_>) -> String {
    use libxc::Record;
    match record {
        Record::PageData(data) => page_data_summary(data),
        Record::X86PvInfo(info) => format!("{}-bit guest, {} levels", u16::from(info.guest_width) * 8, info.pt_levels),
        Record::X86PvP2mFrames(frames) => {
            format!("pfns {:#x} to {:#x}, {} frames", frames.start, frames.end, frames.pfns().len())
        }
        Record::X86PvVcpu(blob) => format!("vCPU {}, {} octets", blob.vcpu_id, blob.context.len()),
        Record::X86TscInfo(tsc) => {
            let mode = tsc_mode_name(tsc.mode).map_or_else(|| tsc.mode.to_string(), str::to_owned);
            format!("mode {mode}, {} kHz, {} ns, incarnation {}", tsc.khz, tsc.nsec, tsc.incarnation)
        }
        Record::HvmContext(context) => hvm_context_summary(context),
        Record::HvmParams(params) => format!("{} parameters", params.params().len()),
        Record::CheckpointDirtyPfnList(list) => format!("{} pfns", list.pfns().len()),
        Record::X86CpuidPolicy(policy) => {
            let vendor = CpuidPolicy::decode(policy.leaves).ok().and_then(|policy| policy.vendor);
            let vendor = vendor.map_or(String::new(), |vendor| format!(", {}", printable(&vendor)));
            format!("{} leaves{vendor}", policy.count())
        }
        Record::X86MsrPolicy(policy) => format!("{} MSRs", policy.count()),
        Record::Optional { .. } => "unknown, may be skipped".into(),
        Record::Verify => "pages from here on are to be compared".into(),
        Record::End | Record::SharedInfo(_) | Record::Toolstack(_) | Record::Checkpoint | Record::StaticDataEnd => {
            String::new()
        }
    }
}

fn page_data_summary(data: &PageData<'_>) -> String {
    let (mut low, mut high) = (u64::MAX, 0);
    let mut counts = [0u32; 16];
    for entry in data.entries() {
        low = low.min(entry.pfn);
        high = high.max(entry.pfn);
        counts[usize::from(entry.page_type.wire() & 0xf)] += 1;
    }
    let types: Vec<_> = (0..16u8)
        .filter_map(PageType::from_wire)
        .filter(|page_type| counts[usize::from(page_type.wire())] > 0)
        .map(|page_type| format!("{} {}", counts[usize::from(page_type.wire())], page_type.name()))
        .collect();
    format!("{} pfns {low:#x} to {high:#x}: {}", data.count(), types.join(", "))
}

fn hvm_context_summary(context: &[u8]) -> String {
    let context = HvmContext::inspect(context);
    let cpus = context.entries.iter().filter(|entry| entry.name == Some("CPU")).count();
    format!("{} entries, {cpus} vCPUs", context.entries.len())
}

/// The item in full, as JSON; null for records without a body and for bodies that cannot be parsed.
pub fn decoded(item: &Item<'_>, parsed: Option<&Parsed<'_>>, context: &Context) -> Value {
    match (&item.what, parsed) {
        (What::XlPreamble(preamble), _) => json!({
            "mandatory_flags": preamble.header.mandatory_flags,
            "optional_flags": preamble.header.optional_flags,
            "optional_data_len": preamble.header.optional_data_len,
            "config": preamble.config().map_or(Value::Null, |config| blob(XlConfig::decode(config))),
        }),
        (What::LibxlHeader(header), _) => {
            json!({"version": libxl::VERSION, "options": header.options, "converted": header.is_converted()})
        }
        (What::ImageHeader(header), _) => json!({"version": header.version, "options": header.options}),
        (What::DomainHeader(header), _) => json!({
            "domain_type": header.domain_type().map(|kind| kind.name()),
            "domain_type_id": header.type_id,
            "page_shift": header.page_shift,
            "xen_major": header.xen_major,
            "xen_minor": header.xen_minor,
        }),
        (What::Handshake(message, status), _) => json!({"text": message.text(), "status": status}),
        (What::Record(_), Some(Parsed::Libxl(record))) => libxl_body(record),
        (What::Record(_), Some(Parsed::Libxc(record))) => libxc_body(record, context),
        (What::Record(_), None) => Value::Null,
    }
}

fn libxl_body(record: &libxl::Record<'_>) -> Value {
    match record {
        libxl::Record::EmulatorXenstoreData(data) => {
            let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
            let pairs: Vec<_> =
                data.pairs().map(|(key, value)| json!({"key": text(key), "value": text(value)})).collect();
            json!({"emulator": data.header.id.name(), "index": data.header.index, "pairs": pairs})
        }
        libxl::Record::EmulatorContext(context) => emulator_body(context),
        libxl::Record::CheckpointState(state) => {
            json!({"control_id": state.control_id.wire(), "control": state.control_id.name()})
        }
        libxl::Record::Optional { body, .. } => octets_body(body),
        libxl::Record::End | libxl::Record::LibxcContext | libxl::Record::CheckpointEnd => Value::Null,
    }
}

fn emulator_body(context: &EmulatorContext<'_>) -> Value {
    let state = match qevm::QemuState::decode(context.context) {
        Ok(state) => to_value(&state),
        // Another emulator's, or another version of QEMU's container than any that is known.
        Err(error) => {
            let mut octets = octets_body(context.context);
            octets["error"] = error.to_string().into();
            octets
        }
    };
    json!({"emulator": context.header.id.name(), "index": context.header.index, "context": state})
}

fn libxc_body(record: &libxc::Record<'_>, context: &Context) -> Value {
    use libxc::Record;
    match record {
        Record::PageData(data) => json!({"count": data.count(), "entries": entry_runs(data)}),
        Record::X86PvInfo(info) => json!({"guest_width": info.guest_width, "pt_levels": info.pt_levels}),
        Record::X86PvP2mFrames(frames) => json!({
            "p2m_start_pfn": frames.start,
            "p2m_end_pfn": frames.end,
            "p2m_pfns": frames.pfns().collect::<Vec<_>>(),
        }),
        Record::X86PvVcpu(vcpu) => {
            json!({"vcpu_id": vcpu.vcpu_id, "context": vcpu_body(vcpu, context.width())})
        }
        Record::SharedInfo(page) => blob(SharedInfo::decode(page, context.width())),
        Record::X86TscInfo(tsc) => json!({
            "mode": tsc.mode,
            "mode_name": tsc_mode_name(tsc.mode),
            "khz": tsc.khz,
            "nsec": tsc.nsec,
            "incarnation": tsc.incarnation,
        }),
        Record::HvmContext(context) => to_value(&HvmContext::inspect(context)),
        Record::HvmParams(params) => {
            let list: Vec<_> = params.params().map(|param| HvmParam::new(param.index, param.value)).collect();
            json!({"count": list.len(), "params": to_value(&list)})
        }
        Record::CheckpointDirtyPfnList(list) => json!({"pfns": list.pfns().collect::<Vec<_>>()}),
        Record::X86CpuidPolicy(policy) => blob(CpuidPolicy::decode(policy.leaves)),
        Record::X86MsrPolicy(policy) => json!({"msrs": blob(decode_msrs(policy.entries))}),
        Record::Toolstack(body) | Record::Optional { body, .. } => octets_body(body),
        Record::End | Record::Verify | Record::Checkpoint | Record::StaticDataEnd => Value::Null,
    }
}

fn vcpu_body(vcpu: &VcpuBlob<'_>, width: Width) -> Value {
    if vcpu.context.is_empty() {
        return Value::Null;
    }
    match vcpu.part {
        VcpuRecord::Basic => blob(pv_vcpu::Basic::decode(vcpu.context, width)),
        VcpuRecord::Extended => blob(pv_vcpu::Extended::decode(vcpu.context).map(|(extended, _)| extended)),
        VcpuRecord::Xsave => blob(pv_vcpu::Xsave::decode(vcpu.context)),
        VcpuRecord::Msrs => blob(decode_msrs(vcpu.context)),
    }
}

/// A pfn array as runs of consecutive pfns of one type, in stream order: nothing is left out.
fn entry_runs(data: &PageData<'_>) -> Vec<Value> {
    #[derive(Serialize)]
    struct Run {
        pfn: u64,
        count: u64,
        #[serde(rename = "type")]
        page_type: &'static str,
    }
    let mut runs: Vec<Run> = Vec::new();
    for entry in data.entries() {
        let page_type = entry.page_type.name();
        match runs.last_mut() {
            Some(run) if run.page_type == page_type && run.pfn + run.count == entry.pfn => run.count += 1,
            _ => runs.push(Run { pfn: entry.pfn, count: 1, page_type }),
        }
    }
    runs.iter().map(to_value).collect()
}

fn blob<T: Serialize>(decoded: Result<T, DecodeError>) -> Value {
    match decoded {
        Ok(value) => to_value(&value),
        Err(error) => json!({"error": error.to_string()}),
    }
}

fn to_value<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_else(|error| json!({"error": error.to_string()}))
}

/// Octets that nobody can decode: their number and the first few.
fn octets_body(octets: &[u8]) -> Value {
    let first: String = octets.iter().take(32).map(|octet| format!("{octet:02x}")).collect();
    json!({"octets": octets.len(), "first": first})
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
