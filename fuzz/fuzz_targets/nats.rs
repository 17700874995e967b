#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| c1m::internal::fuzz::nats(bytes));
