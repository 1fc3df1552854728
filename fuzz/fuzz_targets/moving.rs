#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| xen_replicate_fuzz::moving::take(octets));
