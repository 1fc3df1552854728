#![no_main]

use xen_replicate_fuzz::{Steered, streams};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| streams::slice(&Steered::new(bytes)));
