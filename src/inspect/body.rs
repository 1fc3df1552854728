//! What an item holds, decoded.

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
use crate::stream::libxc::{self, DirtyPfnList, P2mFrames, PageData, VcpuBlob, VcpuRecord};
use crate::stream::libxl::{self, EmulatorContext};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
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
        self.guest_width.and_then(Width::from_bytes).unwrap_or(Width::Bits64)
    }
}

/// Longest blob that is decoded field by field, in bytes; real ones have a few KiB. Decoded values take many times the
/// memory of the blob.
const MAX_BLOB: usize = 16 << 20;
/// Most entries of an array that text shows; JSON has all of them.
const MAX_SHOWN: usize = 4096;

/// A decoded body. Arrays as long as a record can be are views, and go to JSON entry by entry.
#[derive(Debug, Clone)]
pub enum Body<'a> {
    /// Anything but a long array; null for records without a body and for bodies that cannot be parsed.
    Value(Value),
    /// PAGE_DATA: the pfn array as runs of consecutive pfns of one type, in stream order. Only contents are left out.
    Pages(PageData<'a>),
    /// X86_PV_P2M_FRAMES.
    P2mFrames(P2mFrames<'a>),
    /// CHECKPOINT_DIRTY_PFN_LIST.
    DirtyPfns(DirtyPfnList<'a>),
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = match self {
            Body::Value(value) => return value.serialize(serializer),
            _ => serializer.serialize_map(None)?,
        };
        match self {
            Body::Value(_) => {}
            Body::Pages(data) => {
                map.serialize_entry("count", &data.count())?;
                map.serialize_entry("entries", &Sequence(|| runs(data)))?;
            }
            Body::P2mFrames(frames) => {
                map.serialize_entry("p2m_start_pfn", &frames.start)?;
                map.serialize_entry("p2m_end_pfn", &frames.end)?;
                map.serialize_entry("p2m_pfns", &Sequence(|| frames.pfns()))?;
            }
            Body::DirtyPfns(list) => map.serialize_entry("pfns", &Sequence(|| list.pfns()))?,
        }
        map.end()
    }
}

impl Body<'_> {
    /// The body as a value for text, long arrays cut.
    pub fn shown(&self) -> Value {
        match self {
            Body::Value(value) => value.clone(),
            Body::Pages(data) => {
                let mut value = json!({"count": data.count()});
                show(&mut value, "entries", runs(data));
                value
            }
            Body::P2mFrames(frames) => {
                let mut value = json!({"p2m_start_pfn": frames.start, "p2m_end_pfn": frames.end});
                show(&mut value, "p2m_pfns", frames.pfns());
                value
            }
            Body::DirtyPfns(list) => {
                let mut value = json!({});
                show(&mut value, "pfns", list.pfns());
                value
            }
        }
    }
}

fn show<T: Serialize>(into: &mut Value, key: &str, mut entries: impl Iterator<Item = T>) {
    let shown: Vec<_> = entries.by_ref().take(MAX_SHOWN).map(|entry| to_value(&entry)).collect();
    into[key] = shown.into();
    let more = entries.count();
    if more > 0 {
        into["not_shown"] = more.into();
    }
}

/// Serialises what an iterator gives, one by one.
struct Sequence<F>(F);

impl<F, I> Serialize for Sequence<F>
where
    F: Fn() -> I,
    I: Iterator<Item: Serialize>,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

/// Consecutive pfns of one type.
#[derive(Serialize)]
struct Run {
    pfn: u64,
    count: u64,
    #[serde(rename = "type")]
    page_type: &'static str,
}

fn runs<'a>(data: &PageData<'a>) -> impl Iterator<Item = Run> + use<'a> {
    let mut entries = data.entries().peekable();
    std::iter::from_fn(move || {
        let first = entries.next()?;
        let mut count = 1;
        while entries.next_if(|next| next.page_type == first.page_type && next.pfn == first.pfn + count).is_some() {
            count += 1;
        }
        Some(Run { pfn: first.pfn, count, page_type: first.page_type.name() })
    })
}

/// Decodes an item in full.
pub fn decoded<'a>(item: &Item<'a>, parsed: Option<&Parsed<'a>>, context: &Context) -> Body<'a> {
    use libxc::Record;
    match parsed {
        Some(Parsed::Libxc(Record::PageData(data))) => Body::Pages(*data),
        Some(Parsed::Libxc(Record::X86PvP2mFrames(frames))) => Body::P2mFrames(*frames),
        Some(Parsed::Libxc(Record::CheckpointDirtyPfnList(list))) => Body::DirtyPfns(*list),
        _ => match &item.what {
            What::Record(frame) if frame.body.len() > MAX_BLOB => Body::Value(bytes_body(frame.body)),
            _ => Body::Value(value(item, parsed, context)),
        },
    }
}

fn value(item: &Item<'_>, parsed: Option<&Parsed<'_>>, context: &Context) -> Value {
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
        // A record that cannot be parsed, or an item of a newer library, which has no form here.
        _ => Value::Null,
    }
}

fn libxl_body(record: &libxl::Record<'_>) -> Value {
    match record {
        libxl::Record::EmulatorXenstoreData(data) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let pairs: Vec<_> =
                data.pairs().map(|(key, value)| json!({"key": text(key), "value": text(value)})).collect();
            json!({"emulator": data.header.id.name(), "index": data.header.index, "pairs": pairs})
        }
        libxl::Record::EmulatorContext(context) => emulator_body(context),
        libxl::Record::CheckpointState(state) => {
            json!({"control_id": state.control_id.wire(), "control": state.control_id.name()})
        }
        libxl::Record::Optional { body, .. } => bytes_body(body),
        // Without a body.
        _ => Value::Null,
    }
}

fn emulator_body(context: &EmulatorContext<'_>) -> Value {
    let state = match qevm::QemuState::decode(context.context) {
        Ok(state) => to_value(&state),
        // Another emulator's, or another version of QEMU's container than any that is known.
        Err(error) => {
            let mut bytes = bytes_body(context.context);
            bytes["error"] = error.to_string().into();
            bytes
        }
    };
    json!({"emulator": context.header.id.name(), "index": context.header.index, "context": state})
}

fn libxc_body(record: &libxc::Record<'_>, context: &Context) -> Value {
    use libxc::Record;
    match record {
        Record::X86PvInfo(info) => json!({"guest_width": info.guest_width, "pt_levels": info.pt_levels}),
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
        Record::X86CpuidPolicy(policy) => blob(CpuidPolicy::decode(policy.leaves)),
        Record::X86MsrPolicy(policy) => json!({"msrs": blob(decode_msrs(policy.entries))}),
        Record::Toolstack(body) | Record::Optional { body, .. } => bytes_body(body),
        // Arrays are bodies of their own kind, see `decoded`.
        Record::PageData(_) | Record::X86PvP2mFrames(_) | Record::CheckpointDirtyPfnList(_) => Value::Null,
        // Without a body.
        _ => Value::Null,
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

fn blob<T: Serialize>(decoded: Result<T, DecodeError>) -> Value {
    match decoded {
        Ok(value) => to_value(&value),
        Err(error) => json!({"error": error.to_string()}),
    }
}

fn to_value<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_else(|error| json!({"error": error.to_string()}))
}

/// Bytes that nobody can decode: their number and the first few.
fn bytes_body(bytes: &[u8]) -> Value {
    let first: String = bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect();
    json!({"bytes": bytes.len(), "first": first})
}
