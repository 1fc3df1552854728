//! An image made to fit another release of Xen, as far as that can be done without lying to the guest.
//!
//! One thing can: a LAPIC entry of 32 bytes whose last 8 are zero (`pending_esr`) says the same in 24.

use super::error::ImageError;
use super::image::{Image, Item, RecordKey};
use std::collections::HashMap;
use xen_migration_stream::Layer;
use xen_migration_stream::decode::hvm_context::{Entries, HvmContextBuilder};
use xen_migration_stream::decode::hvm_entry::{END, entry_name};
use xen_migration_stream::fit::release::{LAPIC_ESR, LAPIC_LENGTHS, Release};
use xen_migration_stream::fit::state::LAPIC;
use xen_migration_stream::libxc::types;

/// A record with another body, and what is other about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The body.
    pub body: Vec<u8>,
    /// What was done, for people.
    pub what: Vec<String>,
}

/// The records that a release needs to be otherwise, by their keys. Where its update decides and is not known, the oldest one is made
/// happy: newer ones take the shorter form as well.
///
/// # Errors
/// The system's.
pub fn changes(image: &Image, release: Release) -> Result<HashMap<RecordKey, Changed>, ImageError> {
    let mut all = HashMap::new();
    if LAPIC_ESR.is_in(release) == Some(true) {
        return Ok(all);
    }
    let records: Vec<Item> = image.records(Layer::Libxc, types::HVM_CONTEXT).copied().collect();
    for item in records {
        if let Some(changed) = hvm_context(&image.body(&item)?) {
            all.insert(item.key, changed);
        }
    }
    Ok(all)
}

/// A HVM context with LAPIC entries of 24 bytes, where they were longer and say nothing there. `None` where nothing is to be changed, or
/// the chain is not in order.
fn hvm_context(blob: &[u8]) -> Option<Changed> {
    let entries: Vec<_> = Entries::new(blob).collect::<Result<_, _>>().ok()?;
    let (mut builder, mut what) = (HvmContextBuilder::new(), Vec::new());
    for entry in entries.iter().filter(|entry| entry.typecode != END) {
        let (kept, cut) = entry.data.split_at(entry.data.len().min(LAPIC_LENGTHS.0));
        let cuts = entry.typecode == LAPIC && !cut.is_empty() && cut.iter().all(|byte| *byte == 0);
        builder.push(entry.typecode, entry.instance, if cuts { kept } else { entry.data }).ok()?;
        if cuts {
            let name = entry_name(entry.typecode).unwrap_or("?");
            let length = entry.data.len();
            what.push(format!(
                "HVM_CONTEXT: {name}:{}: {length} bytes to {}: pending_esr is 0",
                entry.instance,
                kept.len()
            ));
        }
    }
    (!what.is_empty()).then(|| Changed { body: builder.finish(), what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(lapics: &[&[u8]]) -> Vec<u8> {
        let mut builder = HvmContextBuilder::new();
        builder.push(1, 0, &[7; 24]).unwrap();
        for (vcpu, lapic) in lapics.iter().enumerate() {
            builder.push(LAPIC, vcpu as u16, lapic).unwrap();
        }
        builder.push(6, 0, &[9; 1024]).unwrap();
        builder.finish()
    }

    #[test]
    fn a_long_lapic_is_cut_where_it_says_nothing_more() {
        let mut long = [5u8; 32];
        long[24..].fill(0);
        let changed = hvm_context(&context(&[&long, &long])).unwrap();
        assert_eq!(changed.body, context(&[&[5; 24], &[5; 24]]));
        assert_eq!(changed.what.len(), 2);
        assert!(changed.what[1].contains("LAPIC:1: 32 bytes to 24"), "{:?}", changed.what);
        // One that has an error pending is left, for it would be lost; the other is cut all the same.
        let changed = hvm_context(&context(&[&[5; 32], &long])).unwrap();
        assert_eq!(changed.body, context(&[&[5; 32], &[5; 24]]));
        assert_eq!(hvm_context(&context(&[&[5; 24]])), None);
        assert_eq!(hvm_context(&context(&[&long])[..60]), None);
    }
}
