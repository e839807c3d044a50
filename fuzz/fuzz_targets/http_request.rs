#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fumehood_fuzz::run("http_request", input));
