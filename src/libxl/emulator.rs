//! The device model's part of a checkpoint.

use crate::hypervisor::{self, DeviceModel};
use crate::libxc::{RestoreError, SaveError};
use crate::stream::handover::LibxlWriter;
use crate::stream::libxl::{EmulatorContext, EmulatorHeader, EmulatorId, Record, XenstoreData, emit_xenstore_data};
use std::io::{self, Write};

/// What the records EMULATOR_XENSTORE_DATA and EMULATOR_CONTEXT carry.
#[derive(Debug, Clone, Default)]
pub(crate) struct EmulatorState {
    /// The record's body with its sub-header; empty when there are no entries.
    xenstore: Vec<u8>,
    /// The device model's state; empty when there is no device model.
    context: Vec<u8>,
    header: Option<EmulatorHeader>,
    /// Which records of a stream's checkpoint were taken.
    taken: Taken,
    /// Where in the stream the last of them was.
    pub offset: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    xenstore: bool,
    context: bool,
}

impl EmulatorState {
    pub fn clear(&mut self) {
        self.xenstore.clear();
        self.context.clear();
        self.taken = Taken::default();
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        (self.xenstore.len() + self.context.len()) as u64
    }

    /// Takes the state of a suspended domain's device model.
    pub fn take(&mut self, domain: &impl DeviceModel) -> Result<(), SaveError> {
        self.clear();
        let header = domain.emulator();
        self.header = Some(header);
        let pairs = domain.emulator_xenstore()?;
        if !pairs.is_empty() {
            self.xenstore.extend_from_slice(&header.emit());
            let pairs = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            emit_xenstore_data(pairs, &mut self.xenstore).map_err(SaveError::Xenstore)?;
        }
        Ok(domain.save_device_model(&mut self.context)?)
    }

    /// Writes the records, in the order in which libxl does.
    pub fn write<W: Write>(&self, out: &mut LibxlWriter<W>) -> Result<(), SaveError> {
        if !self.xenstore.is_empty() {
            let data = XenstoreData::parse(&self.xenstore)
                .map_err(|error| SaveError::Xenstore(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
            out.record(&Record::EmulatorXenstoreData(data))?;
        }
        if let (Some(header), false) = (self.header, self.context.is_empty()) {
            out.record(&Record::EmulatorContext(EmulatorContext { header, context: &self.context }))?;
        }
        Ok(())
    }

    /// Takes a record's xenstore entries; false when the checkpoint had such a record already. A domain here has one
    /// device model.
    pub fn set_xenstore(&mut self, data: &XenstoreData<'_>) -> bool {
        self.xenstore.clear();
        self.xenstore.extend_from_slice(&data.header.emit());
        for text in data.pairs().flat_map(|(key, value)| [key, value]) {
            self.xenstore.extend_from_slice(text);
            self.xenstore.push(0);
        }
        !std::mem::replace(&mut self.taken.xenstore, true)
    }

    /// Takes a record's device-model state; false when the checkpoint had such a record already.
    pub fn set_context(&mut self, context: &EmulatorContext<'_>) -> bool {
        self.context.clear();
        self.context.extend_from_slice(context.context);
        !std::mem::replace(&mut self.taken.context, true)
    }

    /// Loads what there is into the domain's device model; on error the device model is as it was.
    pub fn load(&self, domain: &mut impl DeviceModel) -> hypervisor::Result<()> {
        if !self.context.is_empty() {
            domain.load_device_model(&self.context)?;
        }
        if let (true, Ok(data)) = (self.taken.xenstore, XenstoreData::parse(&self.xenstore)) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            domain.set_emulator_xenstore(data.pairs().map(|(key, value)| (text(key), text(value))).collect())?;
        }
        Ok(())
    }
}

/// Whether a record is for the device model that the domain has. One that does not say whose it is passes.
pub(super) fn check_emulator(
    record: &'static str,
    offset: u64,
    found: EmulatorHeader,
    domain: &impl DeviceModel,
) -> Result<(), RestoreError> {
    let expected = domain.emulator().id;
    if found.id == expected || found.id == EmulatorId::Unknown || expected == EmulatorId::Unknown {
        return Ok(());
    }
    Err(RestoreError::Emulator { record, offset, found: found.id.name(), expected: expected.name() })
}
