//! Domain type, device model and xenstore entries against xl's configuration.

use super::ContentProblem;
use crate::decode::qevm::{self, QemuState};
use crate::decode::xl_config::XlConfig;
use crate::libxc::DomainType;
use crate::libxl::{EmulatorContext, EmulatorId, XenstoreData};
use serde_json::Value;

/// Longest key, of a path that xenstore takes (`XENSTORE_ABS_PATH_MAX`), and longest message (`XENSTORE_PAYLOAD_MAX`).
const MAX_PATH: usize = 3072;
const MAX_PAYLOAD: usize = 4096;
/// The longest state of a device model that is looked into; real ones have some KiB.
const MAX_STATE: usize = 16 << 20;

/// What the configuration says of a domain.
#[derive(Debug, Clone, Default)]
pub(super) struct Config {
    kind: Option<String>,
    model: Option<String>,
    pub(super) max_vcpus: Option<u32>,
}

impl Config {
    /// Reads it out of the configuration's text.
    pub(super) fn new(config: &XlConfig) -> Self {
        let info = config.config.as_ref().and_then(|config| config.get("b_info"));
        let model = info.and_then(|info| info.get("device_model_version")).and_then(Value::as_str);
        Config {
            kind: config.kind.clone(),
            model: model.map(str::to_owned),
            max_vcpus: config.max_vcpus.and_then(|count| u32::try_from(count).ok()),
        }
    }

    /// The domain header against the type.
    pub(super) fn domain(&self, domain: DomainType, report: &mut dyn FnMut(ContentProblem)) {
        let fits = match self.kind.as_deref() {
            Some("pv") => domain == DomainType::Pv,
            Some("hvm" | "pvh") => domain == DomainType::Hvm,
            _ => true,
        };
        if let Some(config) = self.kind.clone().filter(|_| !fits) {
            report(ContentProblem::TypeMismatch { config, header: domain.name() });
        }
    }

    /// The end of libxl's part of an image or a round: `seen` is whether there was a device model's state.
    pub(super) fn end(&self, seen: bool, report: &mut dyn FnMut(ContentProblem)) {
        // xl writes the device model's version of a HVM guest always, and `none` where there is none.
        let Some(model) = self.model.clone().filter(|model| model != "none") else { return };
        if self.kind.as_deref() == Some("hvm") && !seen {
            report(ContentProblem::EmulatorMissing { model });
        }
    }

    fn emulator(&self, record: &'static str, id: EmulatorId, report: &mut dyn FnMut(ContentProblem)) {
        let other = matches!(
            (self.model.as_deref(), id),
            (Some("qemu_xen"), EmulatorId::QemuTraditional) | (Some("qemu_xen_traditional"), EmulatorId::QemuUpstream)
        );
        if let Some(model) = self.model.clone().filter(|_| other) {
            report(ContentProblem::EmulatorOther { record, found: id.name(), model });
        }
    }

    /// EMULATOR_CONTEXT.
    pub(super) fn context(&self, context: &EmulatorContext<'_>, report: &mut dyn FnMut(ContentProblem)) {
        self.emulator("EMULATOR_CONTEXT", context.header.id, report);
        if let Some(config) = self.kind.clone().filter(|kind| kind != "hvm") {
            report(ContentProblem::EmulatorUnused { config });
        }
        if let Some(why) = bad_state(context) {
            report(ContentProblem::EmulatorState { why });
        }
    }

    /// EMULATOR_XENSTORE_DATA.
    pub(super) fn xenstore(&self, data: &XenstoreData<'_>, report: &mut dyn FnMut(ContentProblem)) {
        self.emulator("EMULATOR_XENSTORE_DATA", data.header.id, report);
        for (key, value) in data.pairs() {
            let why = if key.len() > MAX_PATH {
                "longer than a path of xenstore may be: it refuses it"
            } else if key.len() + value.len() + 2 > MAX_PAYLOAD {
                "its value does not fit a message of xenstore, which refuses it"
            } else if key.ends_with(b"/") || key.windows(2).any(|pair| pair == b"//") {
                "an empty part of a path, which xenstore refuses"
            } else {
                continue;
            };
            let shown = key.get(..80).unwrap_or(key);
            report(ContentProblem::XenstoreEntry { key: String::from_utf8_lossy(shown).into_owned(), why });
        }
    }
}

/// Why a device model cannot start with its state.
fn bad_state(context: &EmulatorContext<'_>) -> Option<String> {
    let state = context.context;
    if state.is_empty() {
        return Some("no state at all".to_owned());
    }
    if context.header.id != EmulatorId::QemuUpstream || state.len() > MAX_STATE {
        return None;
    }
    match QemuState::decode(state) {
        Err(error) => Some(error.to_string()),
        Ok(decoded) => {
            let ambiguous = decoded.stopped.is_some_and(|stopped| stopped.reason == qevm::AMBIGUOUS);
            if decoded.sections.is_empty() && !ambiguous {
                return Some(format!("no device's state in {} bytes", state.len()));
            }
            let stopped = decoded.stopped?;
            // More than one way to read it is the reader's trouble, not QEMU's.
            matches!(stopped.reason, qevm::CUT_MARK | qevm::CUT_SECTION)
                .then(|| format!("the state of {} bytes is cut: {}", state.len(), stopped.reason))
        }
    }
}
