//! A record of either layer as a value.

use super::error::BodyError;
use super::record::Frame;
use super::{Layer, libxc, libxl};

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
