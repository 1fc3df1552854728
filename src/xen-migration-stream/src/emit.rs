//! Parsed items back onto a writer: parse and emit give the same bytes for every stream that keeps to the
//! specification. Reserved fields and padding come out as zero.

use super::check::Parsed;
use super::error::BodyError;
use super::framer::{Item, What};
use super::libxc::{self, types as xc};
use super::libxl::{self, types as xl};
use super::writer::RecordWriter;
use super::xl::{BYTEORDER, MAGIC, Preamble};
use std::io::{self, Write};

impl<W: Write> RecordWriter<W> {
    /// Writes a record of libxc.
    ///
    /// # Errors
    /// The sink's; PAGE_DATA whose contents were left out when it was read.
    pub fn libxc(&mut self, record: &libxc::Record<'_>) -> io::Result<()> {
        use libxc::Record;
        match record {
            Record::End => self.record(xc::END, &[]),
            Record::PageData(pages) => self.page_data(pages.entries(), pages.contents()),
            Record::X86PvInfo(info) => self.record(xc::X86_PV_INFO, &[&info.emit()]),
            Record::X86PvP2mFrames(frames) => self.record(
                xc::X86_PV_P2M_FRAMES,
                &[&frames.start.to_le_bytes(), &frames.end.to_le_bytes(), frames.bytes()],
            ),
            Record::X86PvVcpu(blob) => {
                self.record(blob.part.type_id(), &[&blob.vcpu_id.to_le_bytes(), &[0; 4], blob.context])
            }
            Record::SharedInfo(page) => self.record(xc::SHARED_INFO, &[page]),
            Record::X86TscInfo(tsc) => self.record(xc::X86_TSC_INFO, &[&tsc.emit()]),
            Record::HvmContext(context) => self.record(xc::HVM_CONTEXT, &[context]),
            Record::HvmParams(params) => {
                let count = params.params().len() as u32;
                self.record(xc::HVM_PARAMS, &[&count.to_le_bytes(), &[0; 4], params.bytes()])
            }
            Record::Toolstack(blob) => self.record(xc::TOOLSTACK, &[blob]),
            Record::Verify => self.record(xc::VERIFY, &[]),
            Record::Checkpoint => self.record(xc::CHECKPOINT, &[]),
            Record::CheckpointDirtyPfnList(list) => self.record(xc::CHECKPOINT_DIRTY_PFN_LIST, &[list.bytes()]),
            Record::StaticDataEnd => self.record(xc::STATIC_DATA_END, &[]),
            Record::X86CpuidPolicy(policy) => self.record(xc::X86_CPUID_POLICY, &[policy.leaves]),
            Record::X86MsrPolicy(policy) => self.record(xc::X86_MSR_POLICY, &[policy.entries]),
            Record::Optional { type_id, body } => self.record(*type_id, &[body]),
        }
    }

    /// Writes a record of libxl.
    ///
    /// # Errors
    /// The sink's.
    pub fn libxl(&mut self, record: &libxl::Record<'_>) -> io::Result<()> {
        use libxl::Record;
        match record {
            Record::End => self.record(xl::END, &[]),
            Record::LibxcContext => self.record(xl::LIBXC_CONTEXT, &[]),
            Record::EmulatorXenstoreData(data) => {
                self.record(xl::EMULATOR_XENSTORE_DATA, &[&data.header.emit(), data.bytes()])
            }
            Record::EmulatorContext(context) => {
                self.record(xl::EMULATOR_CONTEXT, &[&context.header.emit(), context.context])
            }
            Record::CheckpointEnd => self.record(xl::CHECKPOINT_END, &[]),
            // As libxl writes it: without the field that the specification draws behind the id.
            Record::CheckpointState(state) => {
                self.record(xl::CHECKPOINT_STATE, &[&state.control_id.wire().to_le_bytes()])
            }
            Record::Optional { type_id, body } => self.record(*type_id, &[body]),
        }
    }

    /// Writes the preamble of xl.
    ///
    /// # Errors
    /// The sink's.
    pub fn preamble(&mut self, preamble: &Preamble<'_>) -> io::Result<()> {
        self.raw(MAGIC)?;
        let header = &preamble.header;
        for word in [BYTEORDER, header.mandatory_flags, header.optional_flags, header.optional_data_len] {
            self.raw(&word.to_le_bytes())?;
        }
        self.raw(preamble.optional_data)
    }

    /// Writes an item of a stream again, from its parsed form.
    ///
    /// # Errors
    /// The sink's, or [`io::ErrorKind::InvalidData`] with the [`BodyError`] when the record cannot be parsed.
    pub fn item(&mut self, item: &Item<'_>) -> io::Result<()> {
        match &item.what {
            What::XlPreamble(preamble) => self.preamble(preamble),
            What::LibxlHeader(header) => self.raw(&header.emit()),
            What::ImageHeader(header) => self.raw(&header.emit()),
            What::DomainHeader(header) => self.raw(&header.emit()),
            What::Handshake(message, status) => {
                self.raw(message.bytes())?;
                status.map_or(Ok(()), |status| self.raw(&[status]))
            }
            What::Record(frame) => {
                let invalid = |error: BodyError| io::Error::new(io::ErrorKind::InvalidData, error);
                match Parsed::new(item.layer, frame).map_err(invalid)? {
                    Parsed::Libxl(record) => self.libxl(&record),
                    Parsed::Libxc(record) => self.libxc(&record),
                }
            }
        }
    }
}
