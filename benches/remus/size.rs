//! Cost against the size of the guest, the dirty pages fixed.

use crate::figures::{line, ms};
use crate::pause::{Load, Round, medians};
use std::error::Error;

pub fn all(measuring: bool) -> Result<(), Box<dyn Error>> {
    let sizes: &[u64] = if measuring { &[1, 4] } else { &[1] };
    let mut small = None;
    for &gib in sizes {
        let mut load = Load::new(gib, 1_000)?;
        let Round { pages, pause, .. } = medians(&mut load, if measuring { 101 } else { 1 })?;
        let first = *small.get_or_insert(pause);
        let ratio = ms(pause) / ms(first);
        let figures = format!("{:.3} ms at {pages} pages, {ratio:.2} of the smallest guest", ms(pause));
        line(&format!("pause, guest of {gib} GiB"), &figures, "follows the dirty pages", ratio <= 1.5);
    }
    Ok(())
}
