#![no_main]

use xen_replicate_fuzz::{Steered, streams};

libfuzzer_sys::fuzz_target!(|octets: &[u8]| streams::dump(&Steered::new(octets)));
