#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kvasm_tests::fuzz::fetch(bytes));
