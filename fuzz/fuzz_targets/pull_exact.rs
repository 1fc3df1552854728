#![no_main]

use xen_replicate_fuzz::{Steered, streams};

libfuzzer_sys::fuzz_target!(|octets: &[u8]| streams::pull_exact(&Steered::new(octets)));
