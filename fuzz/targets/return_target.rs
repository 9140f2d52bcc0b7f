//! See `wxgate::fuzzing::return_target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wxgate::fuzzing::return_target(data));
