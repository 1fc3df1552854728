//! Little-endian C structures as Rust ones: one field list gives the struct, the parser, the
//! emitter and the JSON form, so that a layout can be read beside the C header.

use std::ops::{Deref, DerefMut};

use arrayvec::ArrayVec;
use serde::{Serialize, Serializer};

use super::error::DecodeError;

/// A value with a fixed size on the wire, in the byte order of x86.
pub trait Wire: Sized {
    /// Bytes on the wire.
    const SIZE: usize;

    /// Takes the value from the front of `input`, and gives what follows it; `None` only where `input` is shorter than
    /// [`Self::SIZE`].
    fn parse(input: &[u8]) -> Option<(&[u8], Self)>;

    /// Appends the value, exactly [`Self::SIZE`] bytes.
    fn emit(&self, out: &mut Vec<u8>);

    /// Whether JSON leaves the value out: padding that is zero.
    fn hidden(&self) -> bool {
        false
    }
}

/// A whole blob: a structure that is alone in its record or HVM context entry.
pub trait Blob: Sized {
    /// Name for error messages.
    const NAME: &'static str;

    /// Decodes `blob`; the number is how many bytes follow the longest known layout (a newer
    /// Xen's additions), 0 as a rule.
    ///
    /// # Errors
    /// Where `blob` is shorter than the shortest real layout, or between two of them.
    fn decode(blob: &[u8]) -> Result<(Self, usize), DecodeError>;

    /// Emits the value in the layout it was decoded from, without the bytes that were extra.
    fn encode(&self) -> Vec<u8>;
}

/// Decodes a structure that has one layout.
pub(crate) fn decode_fixed<T: Wire>(what: &'static str, blob: &[u8]) -> Result<(T, usize), DecodeError> {
    let (rest, value) = parse_at(what, blob, 0)?;
    Ok((value, rest.len()))
}

/// Parses one value that starts at `offset` of its blob; `input` is what follows there.
pub(crate) fn parse_at<'a, T: Wire>(
    what: &'static str,
    input: &'a [u8],
    offset: usize,
) -> Result<(&'a [u8], T), DecodeError> {
    T::parse(input).ok_or(DecodeError::TooShort { what, offset, needed: T::SIZE, got: input.len() })
}

/// Decodes an array that fills `blob` from `offset` to its end.
pub(crate) fn parse_array<T: Wire>(what: &'static str, blob: &[u8], offset: usize) -> Result<Vec<T>, DecodeError> {
    let area = blob.get(offset..).unwrap_or_default();
    if area.len() % T::SIZE != 0 {
        return Err(DecodeError::NotMultiple { what, offset, length: area.len(), unit: T::SIZE });
    }
    area.chunks_exact(T::SIZE)
        .enumerate()
        .map(|(i, chunk)| Ok(parse_at(what, chunk, offset + i * T::SIZE)?.1))
        .collect()
}

/// For `skip_serializing_if` on the fields that only newer layouts have.
pub(crate) fn hidden_or_absent<T: Wire>(field: &Option<T>) -> bool {
    field.as_ref().is_none_or(Wire::hidden)
}

macro_rules! wire_number {
    ($($t:ty)*) => {$(
        impl Wire for $t {
            const SIZE: usize = size_of::<$t>();

            fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
                input.split_first_chunk().map(|(value, rest)| (rest, <$t>::from_le_bytes(*value)))
            }

            fn emit(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

wire_number! { u8 i8 u16 u32 u64 i64 }

/// A C array of `N` elements; in JSON a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table<T, const N: usize>(pub Box<[T; N]>);

impl<T: Copy, const N: usize> Table<T, N> {
    /// A table with the same value everywhere.
    pub fn filled(value: T) -> Self {
        Table(Box::new([value; N]))
    }
}

impl<T, const N: usize> Deref for Table<T, N> {
    type Target = [T; N];

    fn deref(&self) -> &[T; N] {
        &self.0
    }
}

impl<T, const N: usize> DerefMut for Table<T, N> {
    fn deref_mut(&mut self) -> &mut [T; N] {
        &mut self.0
    }
}

impl<T: Serialize, const N: usize> Serialize for Table<T, N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.0.iter())
    }
}

impl<T: Wire, const N: usize> Wire for Table<T, N> {
    const SIZE: usize = T::SIZE * N;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let mut rest = input;
        let mut items = ArrayVec::<T, N>::new();
        for _ in 0..N {
            let (next, item) = T::parse(rest)?;
            items.push(item);
            rest = next;
        }
        items.into_inner().ok().map(|array| (rest, Table(Box::new(array))))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        self.0.iter().for_each(|item| item.emit(out));
    }
}

/// Declares a C structure: `pub struct Name = "C NAME" { field: Type, ... }`.
///
/// Each field type is [`Wire`], padding is written out as [`Reserved`](super::hex::Reserved)
/// fields. A structure that grew over time has the newer fields in a trailing `later { ... }` part;
/// they are `None` where the blob has the shorter layout, and a blob that stops inside that part is
/// an error.
macro_rules! layout {
    ($(#[$meta:meta])* pub struct $name:ident = $label:literal {
        $($(#[$fmeta:meta])* $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        // Fields whose name is that of the register or of the C field need no more words.
        #[allow(missing_docs)]
        pub struct $name {
            $($(#[$fmeta])*
            #[serde(skip_serializing_if = "crate::decode::wire::Wire::hidden")]
            pub $field: $type,)*
        }

        impl $crate::decode::wire::Wire for $name {
            const SIZE: usize = 0 $(+ <$type as $crate::decode::wire::Wire>::SIZE)*;

            fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
                $(let (input, $field) = <$type as $crate::decode::wire::Wire>::parse(input)?;)*
                Some((input, $name { $($field),* }))
            }

            fn emit(&self, out: &mut Vec<u8>) {
                $($crate::decode::wire::Wire::emit(&self.$field, out);)*
            }
        }

        impl $crate::decode::wire::Blob for $name {
            const NAME: &'static str = $label;

            fn decode(blob: &[u8]) -> Result<(Self, usize), $crate::decode::error::DecodeError> {
                $crate::decode::wire::decode_fixed($label, blob)
            }

            fn encode(&self) -> Vec<u8> {
                let mut out = Vec::with_capacity(<Self as $crate::decode::wire::Wire>::SIZE);
                $crate::decode::wire::Wire::emit(self, &mut out);
                out
            }
        }
    };
    ($(#[$meta:meta])* pub struct $name:ident = $label:literal {
        $($(#[$fmeta:meta])* $field:ident: $type:ty,)*
    } later {
        $($(#[$lmeta:meta])* $later:ident: $ltype:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        // Fields whose name is that of the register or of the C field need no more words.
        #[allow(missing_docs)]
        pub struct $name {
            $($(#[$fmeta])*
            #[serde(skip_serializing_if = "crate::decode::wire::Wire::hidden")]
            pub $field: $type,)*
            $($(#[$lmeta])*
            #[serde(skip_serializing_if = "crate::decode::wire::hidden_or_absent")]
            pub $later: Option<$ltype>,)*
        }

        impl $name {
            /// Bytes of the shorter layout.
            pub const SHORT: usize = 0 $(+ <$type as $crate::decode::wire::Wire>::SIZE)*;
            /// Bytes of the longer layout.
            pub const LONG: usize = Self::SHORT $(+ <$ltype as $crate::decode::wire::Wire>::SIZE)*;
        }

        impl $crate::decode::wire::Blob for $name {
            const NAME: &'static str = $label;

            fn decode(blob: &[u8]) -> Result<(Self, usize), $crate::decode::error::DecodeError> {
                let needed = if blob.len() <= Self::SHORT { Self::SHORT } else { Self::LONG };
                let short = || $crate::decode::error::DecodeError::TooShort {
                    what: $label,
                    offset: 0,
                    needed,
                    got: blob.len(),
                };
                let parse = || -> Option<(&[u8], Self)> {
                    let input = blob;
                    $(let (input, $field) = <$type as $crate::decode::wire::Wire>::parse(input)?;)*
                    if input.is_empty() {
                        return Some((input, $name { $($field,)* $($later: None,)* }));
                    }
                    $(let (input, $later) = <$ltype as $crate::decode::wire::Wire>::parse(input)?;)*
                    Some((input, $name { $($field,)* $($later: Some($later),)* }))
                };
                let (rest, value) = parse().ok_or_else(short)?;
                Ok((value, rest.len()))
            }

            fn encode(&self) -> Vec<u8> {
                let mut out = Vec::with_capacity(Self::LONG);
                $($crate::decode::wire::Wire::emit(&self.$field, &mut out);)*
                // The later part is there whole or not at all: absent fields are zero on the wire
                // once any of its fields is there.
                if $(self.$later.is_some())||* {
                    $(match &self.$later {
                        Some(field) => $crate::decode::wire::Wire::emit(field, &mut out),
                        None => out.resize(
                            out.len() + <$ltype as $crate::decode::wire::Wire>::SIZE, 0),
                    })*
                }
                out
            }
        }
    };
}

pub(crate) use layout;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::hex::{Hex16, Reserved};

    layout! {
        /// A structure that grew.
        pub struct Grown = "GROWN" {
            small: i8,
            pad: Reserved<1>,
            word: Hex16,
            list: Table<u16, 2>,
        } later {
            wide: i64,
            more: u32,
        }
    }

    #[test]
    fn fields_are_little_endian_and_in_order() {
        let blob = [0xff, 0, 0x34, 0x12, 1, 0, 2, 0];
        let (grown, extra) = Grown::decode(&blob).unwrap();
        assert_eq!((grown.small, grown.word.0, grown.list.0.as_slice(), extra), (-1, 0x1234, &[1, 2][..], 0));
        assert_eq!(grown.encode(), blob);
        assert_eq!(serde_json::to_string(&grown).unwrap(), r#"{"small":-1,"word":"0x1234","list":[1,2]}"#);
    }

    #[test]
    fn the_later_part_is_there_whole_or_not_at_all() {
        let mut blob = vec![0u8; 8];
        blob.extend_from_slice(&(-2i64).to_le_bytes());
        blob.extend_from_slice(&[5, 0, 0, 0]);
        for len in 0..=blob.len() {
            let decoded = Grown::decode(&blob[..len]);
            match len {
                8 => assert_eq!(decoded.unwrap().0.wide, None),
                20 => assert_eq!(decoded.unwrap().0.wide, Some(-2)),
                _ => assert_eq!(
                    decoded,
                    Err(DecodeError::TooShort {
                        what: "GROWN",
                        offset: 0,
                        needed: if len < 8 { 8 } else { 20 },
                        got: len
                    })
                ),
            }
        }
        let (mut grown, _) = Grown::decode(&blob).unwrap();
        assert_eq!(grown.encode(), blob);
        grown.more = None;
        assert_eq!(grown.encode()[16..], [0, 0, 0, 0]);
    }

    #[test]
    fn arrays_are_whole_elements() {
        assert_eq!(parse_array::<u16>("list", &[9, 1, 0, 2, 0], 1), Ok(vec![1, 2]));
        assert_eq!(parse_array::<u16>("list", &[], 4), Ok(vec![]));
        assert_eq!(
            parse_array::<u16>("list", &[9, 1, 0, 2], 1),
            Err(DecodeError::NotMultiple { what: "list", offset: 1, length: 3, unit: 2 })
        );
    }
}
