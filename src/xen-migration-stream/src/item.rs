//! One item of a stream, and what it is called.

use super::error::{Problem, StreamError};
use super::handshake::Message;
use super::libxc::{self, DomainHeader, ImageHeader};
use super::record::Frame;
use super::{Layer, libxl, xl};

/// One item of a stream and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    /// Number in the stream, headers included, from 0.
    pub index: u64,
    /// Offset of its first byte from the start of the stream.
    pub offset: u64,
    /// Bytes it takes in the stream.
    pub size: u64,
    /// Who wrote it.
    pub layer: Layer,
    /// Number of whole checkpoints before it; 0 throughout a plain stream.
    pub round: u64,
    /// The item itself.
    pub what: What<'a>,
}

impl Item<'_> {
    /// A problem with this item, with its place.
    pub fn error(&self, problem: impl Into<Problem>) -> StreamError {
        StreamError { layer: self.layer, index: Some(self.index), offset: self.offset, problem: problem.into() }
    }
}

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum What<'a> {
    /// The preamble of xl.
    XlPreamble(xl::Preamble<'a>),
    /// libxl's header.
    LibxlHeader(libxl::Header),
    /// libxc's image header.
    ImageHeader(ImageHeader),
    /// libxc's domain header.
    DomainHeader(DomainHeader),
    /// A record of the item's layer. In a back channel the type tells libxl's from libxc's.
    Record(Frame<'a>),
    /// A fixed message of `xl migrate`, with the byte of status behind [`Message::Report`].
    Handshake(Message, Option<u8>),
}

/// The specification's name of a record, for messages.
pub const fn record_name(layer: Layer, type_id: u32) -> &'static str {
    let name = match (layer, type_id) {
        (Layer::Xl, _) => None,
        (Layer::Libxl, _) | (Layer::Back, libxl::types::CHECKPOINT_STATE) => libxl::type_name(type_id),
        (Layer::Libxc | Layer::Back, _) => libxc::type_name(type_id),
    };
    match name {
        Some(name) => name,
        None => "a record of unknown type",
    }
}
