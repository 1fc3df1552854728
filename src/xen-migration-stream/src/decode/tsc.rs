//! X86_TSC_INFO: how the domain's TSC is virtualised.
//!
//! Source: "X86_TSC_INFO" in `docs/specs/libxc-migration-stream.pandoc`; mode numbers as
//! `XEN_CPUID_TSC_MODE_*` in `xen/include/public/arch-x86/cpuid.h`.

use super::hex::Reserved;
use super::wire::layout;

/// Name of a TSC mode; `None` for a number that never was one. Mode 3, paravirtual RDTSCP, is
/// historic: Xen dropped it in 4.14.
pub fn tsc_mode_name(mode: u32) -> Option<&'static str> {
    match mode {
        0 => Some("default"),
        1 => Some("always_emulate"),
        2 => Some("never_emulate"),
        3 => Some("pvrdtscp"),
        _ => None,
    }
}

layout! {
    /// The body of X86_TSC_INFO.
    pub struct TscInfo = "X86_TSC_INFO" {
        /// See [`tsc_mode_name`].
        mode: TscMode,
        /// Frequency in kHz.
        khz: u32,
        /// Elapsed time in nanoseconds.
        nsec: u64,
        /// Times that the TSC parameters were set, counted by mode 3.
        incarnation: u32,
        reserved: Reserved<4>,
    }
}

/// The number of a TSC mode; in JSON its name, or the number where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TscMode(pub u32);

impl serde::Serialize for TscMode {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match tsc_mode_name(self.0) {
            Some(name) => s.serialize_str(name),
            None => s.serialize_u32(self.0),
        }
    }
}

impl super::wire::Wire for TscMode {
    const SIZE: usize = 4;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, mode) = u32::parse(input)?;
        Some((rest, TscMode(mode)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        self.0.emit(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::wire::Blob;

    #[test]
    fn body_decodes_and_round_trips() {
        let mut blob = vec![1, 0, 0, 0];
        blob.extend_from_slice(&2_500_000u32.to_le_bytes());
        blob.extend_from_slice(&77u64.to_le_bytes());
        blob.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]);
        let (info, extra) = TscInfo::decode(&blob).unwrap();
        assert_eq!(extra, 0);
        assert_eq!(
            serde_json::to_value(&info).unwrap(),
            serde_json::json!({"mode": "always_emulate", "khz": 2500000, "nsec": 77, "incarnation": 3})
        );
        assert_eq!(info.encode(), blob);
        (0..24).for_each(|len| assert!(TscInfo::decode(&blob[..len]).is_err()));
    }

    #[test]
    fn an_unknown_mode_stays_a_number() {
        assert_eq!(serde_json::to_value(TscMode(9)).unwrap(), 9);
        assert_eq!(tsc_mode_name(3), Some("pvrdtscp"));
    }
}
