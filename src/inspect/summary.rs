//! An item in a few words.

use crate::decode::cpuid::CpuidPolicy;
use crate::decode::hvm_context::Entries;
use crate::decode::hvm_entry::entry_name;
use crate::decode::tsc::tsc_mode_name;
use crate::decode::xl_config::XlConfig;
use crate::stream::check::Parsed;
use crate::stream::framer::{Item, What};
use crate::stream::libxc::{self, DomainHeader, PageData, PageType};
use crate::stream::libxl;
use crate::stream::xl::Preamble;

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
        _ => String::new(),
    }
}

fn preamble_summary(preamble: &Preamble<'_>) -> String {
    let Ok(config) = preamble.config() else { return String::new() };
    let mut text = format!("configuration of {} bytes", config.len());
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
            format!("{}, state of {} bytes", emulator(&context.header), context.context.len())
        }
        libxl::Record::CheckpointState(state) => state.control_id.name().into(),
        libxl::Record::Optional { .. } => "unknown, may be skipped".into(),
        _ => String::new(),
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
        Record::X86PvVcpu(blob) => format!("vCPU {}, {} bytes", blob.vcpu_id, blob.context.len()),
        Record::X86TscInfo(tsc) => {
            let mode = tsc_mode_name(tsc.mode).map_or_else(|| tsc.mode.to_string(), str::to_owned);
            format!("mode {mode}, {} kHz, {} ns, incarnation {}", tsc.khz, tsc.nsec, tsc.incarnation)
        }
        Record::HvmContext(context) => hvm_context_summary(context),
        Record::HvmParams(params) => format!("{} parameters", params.params().len()),
        Record::CheckpointDirtyPfnList(list) => format!("{} pfns", list.pfns().len()),
        Record::X86CpuidPolicy(policy) => {
            // The vendor is in the first leaf.
            let first = policy.leaves.get(..libxc::CpuidPolicy::LEAF).map(CpuidPolicy::decode);
            let vendor = first.and_then(|policy| policy.ok()?.vendor);
            let vendor = vendor.map_or(String::new(), |vendor| format!(", {}", printable(&vendor)));
            format!("{} leaves{vendor}", policy.count())
        }
        Record::X86MsrPolicy(policy) => format!("{} MSRs", policy.count()),
        Record::Optional { .. } => "unknown, may be skipped".into(),
        Record::Verify => "pages from here on are to be compared".into(),
        _ => String::new(),
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
    let (mut entries, mut cpus) = (0, 0);
    for entry in Entries::new(context).flatten() {
        entries += 1;
        cpus += u32::from(entry_name(entry.typecode) == Some("CPU"));
    }
    format!("{entries} entries, {cpus} vCPUs")
}

pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
