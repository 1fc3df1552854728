//! Registers whose bits have names.

use std::fmt;
use std::marker::PhantomData;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::hex::Hex;
use super::wire::Wire;

/// The bit names of one register, implemented by a marker type per register.
pub trait BitNames {
    /// Bit number and name, ascending.
    const NAMES: &'static [(u8, &'static str)];
}

/// A register shown as `{"value": "0x...", "set": [names]}`; a set bit without a name is `bitN`.
#[derive(PartialEq, Eq)]
pub struct Bits<T, N> {
    /// The register's value.
    pub value: T,
    names: PhantomData<N>,
}

impl<T: Copy, N> Clone for Bits<T, N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Copy, N> Copy for Bits<T, N> {}

impl<T, N> Bits<T, N> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Bits { value, names: PhantomData }
    }
}

impl<T: Copy + Into<u64>, N: BitNames> Bits<T, N> {
    /// Names of the bits that are set, ascending.
    pub fn names(&self) -> Vec<String> {
        bit_names(self.value.into(), N::NAMES)
    }

    /// Whether the named bit is set; false for a name the register does not have.
    pub fn has(&self, name: &str) -> bool {
        let value: u64 = self.value.into();
        N::NAMES.iter().any(|(bit, known)| *known == name && value >> bit & 1 == 1)
    }
}

impl<T: fmt::LowerHex + Copy + Into<u64>, N: BitNames> fmt::Debug for Bits<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} {:?}", self.value, self.names())
    }
}

impl<T: fmt::LowerHex + Copy + Into<u64>, N: BitNames> Serialize for Bits<T, N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut out = s.serialize_struct("Bits", 2)?;
        out.serialize_field("value", &Hex(self.value))?;
        out.serialize_field("set", &self.names())?;
        out.end()
    }
}

impl<T: Wire, N> Wire for Bits<T, N> {
    const SIZE: usize = T::SIZE;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, value) = T::parse(input)?;
        Some((rest, Bits::new(value)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        self.value.emit(out);
    }
}

/// Names of the bits set in `value`; one without a name in `names` is `bitN`.
pub fn bit_names(value: u64, names: &[(u8, &'static str)]) -> Vec<String> {
    (0u8..64)
        .filter(|bit| value >> bit & 1 == 1)
        .map(|bit| match names.iter().find(|(known, _)| *known == bit) {
            Some((_, name)) => (*name).to_owned(),
            None => format!("bit{bit}"),
        })
        .collect()
}

/// Declares a register's marker type with its bit names.
macro_rules! bit_names {
    ($($(#[$meta:meta])* $name:ident { $($bit:literal $label:literal),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {}

        impl $crate::decode::bits::BitNames for $name {
            const NAMES: &'static [(u8, &'static str)] = &[$(($bit, $label)),*];
        }
    )*};
}

pub(crate) use bit_names as register_bits;

register_bits! {
    /// Control register 0.
    Cr0 {
        0 "pe", 1 "mp", 2 "em", 3 "ts", 4 "et", 5 "ne", 16 "wp", 18 "am", 29 "nw", 30 "cd", 31 "pg",
    }
    /// Control register 4.
    Cr4 {
        0 "vme", 1 "pvi", 2 "tsd", 3 "de", 4 "pse", 5 "pae", 6 "mce", 7 "pge", 8 "pce",
        9 "osfxsr", 10 "osxmmexcpt", 11 "umip", 12 "la57", 13 "vmxe", 14 "smxe", 16 "fsgsbase",
        17 "pcide", 18 "osxsave", 20 "smep", 21 "smap", 22 "pke", 23 "cet", 24 "pks",
    }
    /// Flags register.
    Rflags {
        0 "cf", 1 "fixed", 2 "pf", 4 "af", 6 "zf", 7 "sf", 8 "tf", 9 "if", 10 "df", 11 "of",
        12 "iopl0", 13 "iopl1", 14 "nt", 16 "rf", 17 "vm", 18 "ac", 19 "vif", 20 "vip", 21 "id",
    }
    /// Extended feature enable MSR.
    Efer {
        0 "sce", 8 "lme", 10 "lma", 11 "nx", 12 "svme", 13 "lmsle", 14 "ffxse", 15 "tce", 21 "aibrse",
    }
    /// Extended control register 0 and XSTATE_BV: the state components of XSAVE.
    Xstate {
        0 "x87", 1 "sse", 2 "avx", 3 "bndregs", 4 "bndcsr", 5 "opmask", 6 "zmm_hi256",
        7 "hi16_zmm", 8 "pt", 9 "pkru", 10 "pasid", 11 "cet_u", 12 "cet_s", 13 "hdc", 14 "uintr",
        15 "lbr", 16 "hwp", 17 "tilecfg", 18 "tiledata", 62 "lwp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_and_unnamed_bits() {
        let cr0 = Bits::<u64, Cr0>::new(0x8000_0011 | 1 << 40);
        assert_eq!(cr0.names(), ["pe", "et", "pg", "bit40"]);
        assert!(cr0.has("pg") && !cr0.has("wp") && !cr0.has("nonsense"));
        assert_eq!(
            serde_json::to_value(cr0).unwrap(),
            serde_json::json!({"value": "0x10080000011", "set": ["pe", "et", "pg", "bit40"]})
        );
    }

    #[test]
    fn names_ascend_and_fit_the_register() {
        for names in [Cr0::NAMES, Cr4::NAMES, Rflags::NAMES, Efer::NAMES, Xstate::NAMES] {
            assert!(names.windows(2).all(|w| w[0].0 < w[1].0));
            assert!(names.iter().all(|(bit, _)| *bit < 64));
        }
    }
}
