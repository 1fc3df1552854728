//! One item against all rules: framing leftovers, body, reserved fields, order.
//!
//! `verify` collects every report; a receiver stops at the first of [`Severity::Error`].

use super::error::{BodyError, Problem, Severity, StreamError};
use super::framer::{Item, What, record_name};
use super::grammar::{Event, Grammar};
use super::libxc::DomainType;
use super::record::{Frame, RecordHeader};
use super::{Layer, Mode, libxc, libxl};

/// Bytes of `vcpu_guest_context_x86_64_t`.
const VCPU_CONTEXT_64: u64 = 5168;
/// Bytes of `vcpu_guest_context_x86_32_t`.
const VCPU_CONTEXT_32: u64 = 2800;

/// A record with its body parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Parsed<'a> {
    /// A record of libxl.
    Libxl(libxl::Record<'a>),
    /// A record of libxc.
    Libxc(libxc::Record<'a>),
}

impl<'a> Parsed<'a> {
    /// Parses the body of a record of `layer`. In a back channel CHECKPOINT_STATE is libxl's, all else libxc's.
    ///
    /// # Errors
    /// A mandatory type that is not known, or a body that does not fit its type.
    pub fn new(layer: Layer, frame: &Frame<'a>) -> Result<Self, BodyError> {
        match (layer, frame.header.type_id) {
            (Layer::Xl | Layer::Libxl, _) | (Layer::Back, libxl::types::CHECKPOINT_STATE) => {
                libxl::Record::parse(frame).map(Parsed::Libxl)
            }
            (Layer::Libxc | Layer::Back, _) => libxc::Record::parse(frame).map(Parsed::Libxc),
        }
    }
}

/// The rules, with the state that order needs.
#[derive(Debug, Clone)]
pub struct Checker {
    grammar: Grammar,
    domain: Option<DomainType>,
    /// Bytes of a PV guest's word, from X86_PV_INFO.
    guest_width: Option<u8>,
    #[cfg(feature = "decode")]
    contents: crate::contents::Contents,
}

impl Checker {
    /// A checker before the first item; see [`Grammar::new`] for the mode.
    pub fn new(mode: Option<Mode>) -> Self {
        Checker {
            grammar: Grammar::new(mode),
            domain: None,
            guest_width: None,
            #[cfg(feature = "decode")]
            contents: crate::contents::Contents::default(),
        }
    }

    /// See [`Grammar::libxc_elsewhere`].
    pub(super) fn libxc_elsewhere(&mut self, checkpoint: bool) -> Result<(), super::grammar::OrderError> {
        self.grammar.libxc_elsewhere(checkpoint)
    }

    /// Checks the next item. Gives the parsed record, when the item is one and its body can be parsed.
    pub fn item<'a>(&mut self, item: &Item<'a>, report: &mut dyn FnMut(StreamError)) -> Option<Parsed<'a>> {
        self.checked(item, true, report)
    }

    /// The same; without `remarks` the contents are looked at only for what is refused for certain.
    fn checked<'a>(
        &mut self,
        item: &Item<'a>,
        remarks: bool,
        report: &mut dyn FnMut(StreamError),
    ) -> Option<Parsed<'a>> {
        let mut report = |problem: Problem| report(item.error(problem));
        let parsed = self.parsed(item, &mut report);
        #[cfg(feature = "decode")]
        self.contents.item(item, parsed.as_ref(), remarks, &mut report);
        #[cfg(not(feature = "decode"))]
        let _ = remarks;
        parsed
    }

    fn parsed<'a>(&mut self, item: &Item<'a>, report: &mut dyn FnMut(Problem)) -> Option<Parsed<'a>> {
        let mut report = report;
        match &item.what {
            What::XlPreamble(preamble) => {
                if let Err(error) = preamble.config() {
                    report(error.into());
                }
            }
            What::LibxlHeader(header) => {
                header.strict(&mut report);
                if header.is_converted() {
                    report(Problem::Converted);
                }
            }
            What::ImageHeader(header) => {
                header.strict(&mut report);
                self.grammar.check(Event::ImageHeader(header.version), &mut report);
            }
            What::DomainHeader(header) => {
                if let Err(error) = header.check() {
                    report(error.into());
                }
                header.strict(&mut report);
                self.domain = header.domain_type();
                self.grammar.check(Event::DomainHeader(header.domain_type()), &mut report);
            }
            What::Handshake(message, _) => report(Problem::Handshake(*message)),
            What::Record(frame) => return self.record(item, frame, report),
        }
        None
    }

    fn record<'a>(
        &mut self,
        item: &Item<'a>,
        frame: &Frame<'a>,
        report: &mut dyn FnMut(Problem),
    ) -> Option<Parsed<'a>> {
        let type_id = frame.header.type_id;
        let parsed = Parsed::new(item.layer, frame);
        let control = match parsed {
            Ok(Parsed::Libxl(libxl::Record::CheckpointState(state))) => Some(state.control_id),
            _ => None,
        };
        self.grammar.check(Event::Record(item.layer, type_id, control), report);
        match &parsed {
            Ok(Parsed::Libxl(record)) => record.strict(report),
            Ok(Parsed::Libxc(record)) => {
                record.strict(report);
                self.against_domain(record, report);
            }
            Err(error) => report(error.clone().into()),
        }
        if let Some(&value) = frame.padding.iter().find(|&&byte| byte != 0) {
            report(Problem::Padding { record: record_name(item.layer, type_id), value });
        }
        parsed.ok()
    }

    /// What only the headers and the records before can tell.
    fn against_domain(&mut self, record: &libxc::Record<'_>, report: &mut dyn FnMut(Problem)) {
        match (record, self.guest_width) {
            (libxc::Record::X86PvInfo(info), _) => self.guest_width = Some(info.guest_width),
            (libxc::Record::X86PvP2mFrames(frames), Some(width)) => {
                let (got, expected) = (frames.pfns().len() as u64, frames.frames_for_width(width));
                if got != expected {
                    report(BodyError::P2mWidth { got, expected, width }.into());
                }
            }
            (libxc::Record::X86PvVcpu(blob), Some(width)) if blob.part == libxc::VcpuRecord::Basic => {
                let expected = 8 + if width == 4 { VCPU_CONTEXT_32 } else { VCPU_CONTEXT_64 };
                let got = 8 + blob.context.len() as u64;
                if got != expected {
                    report(BodyError::Size { record: blob.part.name(), expected, got }.into());
                }
            }
            (libxc::Record::PageData(pages), _) if self.domain == Some(DomainType::Hvm) && pages.has_tables() => {
                if let Some(entry) = pages.entries().find(|entry| entry.page_type.table_level().is_some()) {
                    report(Problem::TableInHvm { page_type: entry.page_type.name(), pfn: entry.pfn });
                }
            }
            _ => {}
        }
    }

    /// What an error means that has ended the stream within a record of libxc with this header: where the record may not stand at all,
    /// it was wrong before that.
    pub fn judge_end(&self, error: StreamError, torn: Option<RecordHeader>) -> StreamError {
        let Some(header) = torn.filter(|_| error.is_truncation()) else { return error };
        let mut refused = None;
        self.grammar.clone().check(Event::Record(Layer::Libxc, header.type_id, None), &mut |problem| {
            if problem.severity() == Severity::Error {
                refused.get_or_insert(problem);
            }
        });
        match refused {
            Some(problem) => StreamError { problem, ..error },
            None => error,
        }
    }

    /// Checks the next item as a receiver does.
    ///
    /// # Errors
    /// The first report of [`Severity::Error`] that is not for the hypervisor to judge ([`Problem::is_hypervisors`]).
    pub fn receive<'a>(&mut self, item: &Item<'a>) -> Result<Option<Parsed<'a>>, StreamError> {
        let mut refused = None;
        let parsed = self.checked(item, false, &mut |error| {
            if error.problem.severity() == Severity::Error && !error.problem.is_hypervisors() {
                refused.get_or_insert(error);
            }
        });
        refused.map_or(Ok(parsed), Err)
    }
}
