//! See `wxgate::fuzzing::wechat`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wxgate::fuzzing::wechat(data));
