#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| xen_replicate_fuzz::containers::read(bytes));
