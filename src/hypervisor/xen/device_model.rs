//! The emulator beside a domain: libxl's business, so whoever has opened the domain brings it along.
#![forbid(unsafe_code)]

use super::XenDomain;
use crate::hypervisor::error::Result;
use crate::hypervisor::{DeviceModel, EmulatorHeader};
use crate::stream::libxl::EmulatorId;

/// Where a domain has no emulator, its state is empty, nothing has to be tracked, and whoever brings some does not say whose.
impl DeviceModel for XenDomain {
    fn emulator(&self) -> EmulatorHeader {
        let none = EmulatorHeader { id: EmulatorId::Unknown, index: 0 };
        self.device_model.as_ref().map_or(none, |model| model.emulator())
    }

    fn save_device_model(&self, blob: &mut Vec<u8>) -> Result<()> {
        blob.clear();
        self.device_model.as_ref().map_or(Ok(()), |model| model.save_device_model(blob))
    }

    fn load_device_model(&mut self, blob: &[u8]) -> Result<()> {
        self.device_model.as_mut().map_or(Ok(()), |model| model.load_device_model(blob))
    }

    fn emulator_xenstore(&self) -> Result<Vec<(String, String)>> {
        self.device_model.as_ref().map_or(Ok(Vec::new()), |model| model.emulator_xenstore())
    }

    fn set_emulator_xenstore(&mut self, pairs: Vec<(String, String)>) -> Result<()> {
        self.device_model.as_mut().map_or(Ok(()), |model| model.set_emulator_xenstore(pairs))
    }

    fn set_device_model_log_dirty(&mut self, enable: bool) -> Result<()> {
        self.device_model.as_mut().map_or(Ok(()), |model| model.set_device_model_log_dirty(enable))
    }
}
