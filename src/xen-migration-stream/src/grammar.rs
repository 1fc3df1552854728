//! Which record may follow which, per layer and mode.
//!
//! The grammar sees the types of items in order ([`Event`]), not their bodies, and reports what stands where it may
//! not. It is used in both directions: `verify` and the receivers run it over what comes in, the writers over what
//! goes out.
//!
//! Sources: "Layout" of the libxc specification; "CHECKPOINT_STATE" of the libxl specification;
//! `tools/libs/light/libxl_stream_read.c` for what libxl's receiver takes in which phase.

use super::error::Problem;
use super::libxc::{DomainType, types as xc};
use super::libxl::{ControlId, types as xl};
pub use super::order::OrderError;
use super::{Layer, Mode, item};

/// What the grammar has to know of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// libxc's image header with its version.
    ImageHeader(u32),
    /// libxc's domain header; `None` for a type that does not exist.
    DomainHeader(Option<DomainType>),
    /// A record: its layer, its type, and the sync point of a CHECKPOINT_STATE that could be parsed.
    Record(Layer, u32, Option<ControlId>),
}

/// The grammar of one stream.
#[derive(Debug, Clone, Default)]
pub struct Grammar {
    mode: Option<Mode>,
    libxl: LibxlState,
    libxc: LibxcState,
    /// The last sync point of a back channel.
    back: Option<ControlId>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum LibxlState {
    /// Before LIBXC_CONTEXT.
    #[default]
    Start,
    /// In the first image, or behind its END.
    Image,
    /// Between CHECKPOINT and CHECKPOINT_END.
    Checkpoint,
    /// Behind CHECKPOINT_END, before the next record of libxc.
    Between,
}

#[derive(Debug, Clone, Default)]
struct LibxcState {
    version: Option<u32>,
    domain: Option<DomainType>,
    static_end: bool,
    pv_info: bool,
    p2m: bool,
    pages: bool,
    /// In this round: a record with the state of a vCPU.
    vcpu: bool,
    rounds: u64,
    remarked_order: bool,
    remarked_vcpu: bool,
}

impl Grammar {
    /// A grammar before the first item. With a mode it is held to that; without, CHECKPOINT and CHECKPOINT_STATE are
    /// what tells the mode.
    pub fn new(mode: Option<Mode>) -> Self {
        Grammar { mode, ..Grammar::default() }
    }

    /// Takes the next item and reports what is wrong with its place.
    pub fn check(&mut self, event: Event, report: &mut dyn FnMut(Problem)) {
        match event {
            Event::ImageHeader(version) => {
                self.libxc = LibxcState { version: Some(version), ..LibxcState::default() };
            }
            Event::DomainHeader(domain) => self.libxc.domain = domain,
            Event::Record(Layer::Libxl, type_id, control) => self.libxl_record(type_id, control, report),
            Event::Record(Layer::Libxc, type_id, _) => self.libxc_record(type_id, report),
            Event::Record(Layer::Back, type_id, control) => self.back_record(type_id, control, report),
            Event::Record(Layer::Xl, ..) => {}
        }
    }

    /// libxc has had its turn in another process: an image or a round, up to CHECKPOINT or END.
    ///
    /// # Errors
    /// [`OrderError::CheckpointInPlain`].
    pub fn libxc_elsewhere(&mut self, checkpoint: bool) -> Result<(), OrderError> {
        if checkpoint && self.mode == Some(Mode::Plain) {
            return Err(OrderError::CheckpointInPlain);
        }
        self.libxl = if checkpoint { LibxlState::Checkpoint } else { LibxlState::Image };
        Ok(())
    }

    fn libxl_record(&mut self, type_id: u32, control: Option<ControlId>, report: &mut dyn FnMut(Problem)) {
        let record = item::record_name(Layer::Libxl, type_id);
        let mut wrong = |error: OrderError| report(error.into());
        let state = self.libxl;
        match type_id {
            xl::LIBXC_CONTEXT => {
                if state != LibxlState::Start {
                    wrong(OrderError::Twice { record });
                }
                self.libxl = LibxlState::Image;
            }
            xl::END | xl::EMULATOR_XENSTORE_DATA | xl::EMULATOR_CONTEXT => match state {
                LibxlState::Start => wrong(OrderError::Missing { record, needs: "LIBXC_CONTEXT" }),
                LibxlState::Checkpoint if type_id == xl::END => wrong(OrderError::InsideCheckpoint { record }),
                _ => {}
            },
            xl::CHECKPOINT_END => {
                if state != LibxlState::Checkpoint {
                    wrong(OrderError::CheckpointEndOutside);
                } else {
                    self.libxl = LibxlState::Between;
                }
            }
            xl::CHECKPOINT_STATE => {
                if state != LibxlState::Between {
                    wrong(OrderError::Missing { record, needs: "CHECKPOINT_END" });
                } else {
                    self.libxl = LibxlState::Image;
                    self.mode.get_or_insert(Mode::Colo);
                }
                if let Some(got) = control.filter(|&id| id != ControlId::New) {
                    wrong(OrderError::Turn { got, expected: "NEW from the primary" });
                }
            }
            _ => {}
        }
    }

    fn libxc_record(&mut self, type_id: u32, report: &mut dyn FnMut(Problem)) {
        let record = item::record_name(Layer::Libxc, type_id);
        let known = super::libxc::type_name(type_id).is_some();
        let mut wrong = |error: OrderError| report(error.into());
        if self.libxl == LibxlState::Between {
            if self.mode == Some(Mode::Colo) {
                wrong(OrderError::NewMissing { record });
            }
            self.libxl = LibxlState::Image;
        }
        let state = &mut self.libxc;
        let version = state.version.unwrap_or(3);
        let pv_only = matches!(
            type_id,
            xc::X86_PV_INFO
                | xc::X86_PV_P2M_FRAMES
                | xc::X86_PV_VCPU_BASIC
                | xc::X86_PV_VCPU_EXTENDED
                | xc::X86_PV_VCPU_XSAVE
                | xc::X86_PV_VCPU_MSRS
                | xc::SHARED_INFO
        );
        let hvm_only = matches!(type_id, xc::HVM_CONTEXT | xc::HVM_PARAMS);
        match state.domain {
            Some(domain @ DomainType::Hvm) if pv_only => wrong(OrderError::DomainKind { record, domain }),
            Some(domain @ DomainType::Pv) if hvm_only => wrong(OrderError::DomainKind { record, domain }),
            _ => {}
        }
        match type_id {
            xc::STATIC_DATA_END => {
                if version < 3 {
                    wrong(OrderError::NotInVersion2 { record });
                } else if state.static_end {
                    wrong(OrderError::Twice { record });
                }
                state.static_end = true;
            }
            xc::X86_PV_INFO | xc::X86_CPUID_POLICY | xc::X86_MSR_POLICY => {
                if version < 3 && type_id != xc::X86_PV_INFO {
                    wrong(OrderError::NotInVersion2 { record });
                } else if state.static_end {
                    wrong(OrderError::AfterStaticDataEnd { record });
                }
                if type_id == xc::X86_PV_INFO && std::mem::replace(&mut state.pv_info, true) {
                    wrong(OrderError::Twice { record });
                }
            }
            xc::X86_PV_P2M_FRAMES | xc::PAGE_DATA if version < 3 => state.static_end = true,
            _ if known && version >= 3 && !state.static_end => {
                wrong(OrderError::BeforeStaticDataEnd { record });
                // Once is enough: what follows is judged as if the record had been there.
                state.static_end = true;
            }
            _ => {}
        }
        let pv = state.domain == Some(DomainType::Pv);
        match type_id {
            xc::X86_PV_P2M_FRAMES => {
                if pv && !state.pv_info {
                    wrong(OrderError::Missing { record, needs: "X86_PV_INFO" });
                    state.pv_info = true;
                }
                state.p2m = true;
            }
            xc::PAGE_DATA => {
                if pv && !state.p2m {
                    wrong(OrderError::Missing { record, needs: "X86_PV_P2M_FRAMES" });
                    state.p2m = true;
                }
                if pv && state.vcpu {
                    wrong(OrderError::Behind { record, after: "the vCPU records" });
                }
                state.pages = true;
            }
            xc::SHARED_INFO if pv && !state.pv_info => {
                wrong(OrderError::Missing { record, needs: "X86_PV_INFO" });
            }
            xc::X86_PV_VCPU_BASIC | xc::X86_PV_VCPU_EXTENDED | xc::X86_PV_VCPU_XSAVE | xc::X86_PV_VCPU_MSRS => {
                if pv && !state.pages {
                    wrong(OrderError::Missing { record, needs: "PAGE_DATA" });
                    state.pages = true;
                }
                state.vcpu |= type_id == xc::X86_PV_VCPU_BASIC;
            }
            xc::HVM_CONTEXT => state.vcpu = true,
            xc::HVM_PARAMS if state.vcpu && !std::mem::replace(&mut state.remarked_order, true) => {
                report(Problem::UsualOrder { record: "HVM_CONTEXT", expected: "HVM_PARAMS" });
            }
            xc::CHECKPOINT_DIRTY_PFN_LIST => wrong(OrderError::BackOnly { record }),
            xc::VERIFY if state.rounds > 0 => wrong(OrderError::Behind { record, after: "CHECKPOINT" }),
            xc::CHECKPOINT => {
                if self.mode == Some(Mode::Plain) {
                    wrong(OrderError::CheckpointInPlain);
                } else if self.libxl != LibxlState::Start {
                    self.libxl = LibxlState::Checkpoint;
                }
                state.end_of_round(report);
                state.rounds += 1;
            }
            xc::END => state.end_of_round(report),
            _ => {}
        }
    }

    fn back_record(&mut self, type_id: u32, control: Option<ControlId>, report: &mut dyn FnMut(Problem)) {
        let record = item::record_name(Layer::Back, type_id);
        match type_id {
            xl::CHECKPOINT_STATE => {
                let Some(got) = control else { return };
                let (expected, name) = match self.back {
                    None | Some(ControlId::SvmSuspended) => (ControlId::SvmReady, "SVM_READY"),
                    Some(ControlId::SvmReady) => (ControlId::SvmResumed, "SVM_RESUMED"),
                    Some(_) => (ControlId::SvmSuspended, "SVM_SUSPENDED"),
                };
                if got != expected {
                    report(OrderError::Turn { got, expected: name }.into());
                }
                if got != ControlId::New {
                    self.back = Some(got);
                }
            }
            // A back channel of libxc alone has no sync points at all.
            xc::CHECKPOINT_DIRTY_PFN_LIST if matches!(self.back, None | Some(ControlId::SvmSuspended)) => {}
            xc::CHECKPOINT_DIRTY_PFN_LIST => {
                report(OrderError::Missing { record, needs: "SVM_SUSPENDED" }.into());
            }
            _ if super::libxc::type_name(type_id).is_some() => report(OrderError::ForwardOnly { record }.into()),
            _ => {}
        }
    }
}

impl LibxcState {
    fn end_of_round(&mut self, report: &mut dyn FnMut(Problem)) {
        if !self.vcpu && !std::mem::replace(&mut self.remarked_vcpu, true) {
            let missing = match self.domain {
                Some(DomainType::Pv) => "X86_PV_VCPU_BASIC",
                _ => "HVM_CONTEXT",
            };
            report(Problem::NoVcpuState { missing });
        }
        self.vcpu = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(mode: Option<Mode>, events: &[Event]) -> Vec<String> {
        let mut grammar = Grammar::new(mode);
        let mut out = Vec::new();
        for &event in events {
            grammar.check(event, &mut |problem| out.push(problem.to_string()));
        }
        out
    }

    fn c(type_id: u32) -> Event {
        Event::Record(Layer::Libxc, type_id, None)
    }

    fn l(type_id: u32) -> Event {
        Event::Record(Layer::Libxl, type_id, None)
    }

    const V2: Event = Event::ImageHeader(2);
    const V3: Event = Event::ImageHeader(3);
    const PV: Event = Event::DomainHeader(Some(DomainType::Pv));
    const HVM: Event = Event::DomainHeader(Some(DomainType::Hvm));

    #[test]
    fn real_sequences_pass() {
        let hvm = [V3, HVM, c(0x11), c(0x12), c(0x10), c(1), c(1), c(8), c(10), c(9), c(0)];
        assert_eq!(problems(None, &hvm), [""; 0]);
        let pv = [V3, PV, c(2), c(0x11), c(0x12), c(0x10), c(3), c(1), c(8), c(7), c(4), c(5), c(6), c(12), c(0)];
        assert_eq!(problems(None, &pv), [""; 0]);
        let pv2 = [V2, PV, c(2), c(3), c(1), c(8), c(7), c(4), c(5), c(6), c(0)];
        assert_eq!(problems(None, &pv2), [""; 0]);
        let remus =
            [l(1), V3, HVM, c(0x10), c(1), c(10), c(9), c(14), l(2), l(3), l(4), c(1), c(10), c(9), c(14), l(4)];
        assert_eq!(problems(None, &remus), [""; 0]);
    }

    #[test]
    fn the_reverse_of_params_and_context_is_a_remark_once() {
        let round = [c(1), c(9), c(10), c(14)];
        let got = problems(None, &[&[V3, HVM, c(0x10)][..], &round, &round].concat());
        assert_eq!(got.len(), 1);
        assert!(got[0].starts_with("HVM_CONTEXT stands before HVM_PARAMS"), "{got:?}");
    }

    #[test]
    fn static_data() {
        let hvm = |events: &[Event]| problems(None, &[&[V3, HVM][..], events].concat());
        assert_eq!(hvm(&[c(1), c(1), c(9), c(0)]), ["PAGE_DATA before STATIC_DATA_END"]);
        assert_eq!(hvm(&[c(0x10), c(0x10)]), ["STATIC_DATA_END twice"]);
        assert_eq!(hvm(&[c(0x10), c(0x11)]), ["X86_CPUID_POLICY behind the static data"]);
        assert_eq!(hvm(&[c(0)])[0], "END before STATIC_DATA_END");
        assert_eq!(problems(None, &[V2, HVM, c(0x10)]), ["STATIC_DATA_END in a stream of version 2"]);
        assert_eq!(problems(None, &[V2, HVM, c(0x12)]), ["X86_MSR_POLICY in a stream of version 2"]);
    }

    #[test]
    fn kinds_do_not_mix() {
        assert_eq!(problems(None, &[V3, HVM, c(0x10), c(1), c(4)]), ["X86_PV_VCPU_BASIC in a stream of a HVM domain"]);
        let pv = [V3, PV, c(2), c(0x10), c(3), c(1), c(9)];
        assert_eq!(problems(None, &pv), ["HVM_CONTEXT in a stream of a PV domain"]);
    }

    #[test]
    fn pv_dependencies() {
        let pv = |events: &[Event]| problems(None, &[&[V3, PV][..], events].concat());
        assert_eq!(pv(&[c(0x10), c(3)]), ["X86_PV_P2M_FRAMES without X86_PV_INFO before it"]);
        assert_eq!(pv(&[c(2), c(0x10), c(1)]), ["PAGE_DATA without X86_PV_P2M_FRAMES before it"]);
        assert_eq!(pv(&[c(2), c(0x10), c(3), c(4)]), ["X86_PV_VCPU_BASIC without PAGE_DATA before it"]);
        assert_eq!(pv(&[c(2), c(0x10), c(3), c(1), c(4), c(1)]), ["PAGE_DATA behind the vCPU records"]);
        assert_eq!(pv(&[c(2), c(2)]), ["X86_PV_INFO twice"]);
    }

    #[test]
    fn checkpoints() {
        let head = [l(1), V3, HVM, c(0x10), c(1), c(10), c(9)];
        let with = |mode, events: &[Event]| problems(mode, &[&head, events].concat());
        assert_eq!(with(Some(Mode::Plain), &[c(14)]), ["CHECKPOINT in a plain stream"]);
        assert_eq!(with(None, &[c(0), l(4)]), ["CHECKPOINT_END outside a checkpoint"]);
        assert_eq!(with(None, &[c(14), l(1)]), ["LIBXC_CONTEXT twice"]);
        assert_eq!(with(None, &[c(14), l(0)]), ["END inside a checkpoint"]);
        assert_eq!(with(None, &[c(15)]), ["CHECKPOINT_DIRTY_PFN_LIST belongs into the back channel"]);
        assert_eq!(problems(None, &[l(3)]), ["EMULATOR_CONTEXT without LIBXC_CONTEXT before it"]);
    }

    #[test]
    fn sync_points_take_turns() {
        let head = [l(1), V3, HVM, c(0x10), c(1), c(10), c(9), c(14), l(4)];
        let state = |layer, id| Event::Record(layer, 5, Some(id));
        let forward = |events: &[Event]| problems(None, &[&head, events].concat());
        let round = [c(1), c(10), c(9), c(14), l(4)];
        let new = state(Layer::Libxl, ControlId::New);
        assert_eq!(forward(&[&[new][..], &round, &[new, c(1)]].concat()), [""; 0]);
        assert_eq!(
            forward(&[&[new][..], &round, &[c(1)]].concat()),
            ["PAGE_DATA behind CHECKPOINT_END: a COLO stream goes on with CHECKPOINT_STATE NEW"]
        );
        assert_eq!(
            forward(&[state(Layer::Libxl, ControlId::SvmReady)]),
            ["CHECKPOINT_STATE SVM_READY out of turn: NEW from the primary expected"]
        );
        assert_eq!(forward(&[new, new]), ["CHECKPOINT_STATE without CHECKPOINT_END before it"]);

        let back = |ids: &[ControlId]| {
            let events: Vec<_> = ids.iter().map(|&id| state(Layer::Back, id)).collect();
            problems(Some(Mode::Back), &events)
        };
        use ControlId::{New, SvmReady, SvmResumed, SvmSuspended};
        assert_eq!(back(&[SvmReady, SvmResumed, SvmSuspended, SvmReady]), [""; 0]);
        assert_eq!(back(&[SvmResumed]), ["CHECKPOINT_STATE SVM_RESUMED out of turn: SVM_READY expected"]);
        assert_eq!(back(&[SvmReady, New]), ["CHECKPOINT_STATE NEW out of turn: SVM_RESUMED expected"]);
        let list = Event::Record(Layer::Back, 15, None);
        assert_eq!(problems(None, &[list, list]), [""; 0]);
        assert_eq!(
            problems(None, &[state(Layer::Back, SvmReady), list]),
            ["CHECKPOINT_DIRTY_PFN_LIST without SVM_SUSPENDED before it"]
        );
        assert_eq!(problems(None, &[Event::Record(Layer::Back, 1, None)]), ["PAGE_DATA in a back channel"]);
    }
}
