#![no_main]

use xen_replicate_fuzz::{Steered, images};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| images::differences(&Steered::new(bytes)));
