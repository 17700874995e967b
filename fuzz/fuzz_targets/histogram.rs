//! A histogram's text, taken as it is, and as bytes in a sound wrapping: whatever is taken for a
//! histogram is written and read back the same.
#![no_main]

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use c1m::latency::{Latency, PERCENTILES};
use libfuzzer_sys::fuzz_target;

/// What HdrHistogram's compressed form begins with.
const COOKIE: [u8; 4] = 0x1c84_9314_u32.to_be_bytes();

fn wrapped(plain: &[u8]) -> String {
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(plain).unwrap();
    let packed = packed.finish().unwrap();
    BASE64.encode([&COOKIE[..], &(packed.len() as u32).to_be_bytes(), &packed].concat())
}

fn figures(latency: &Latency) -> (u64, u64, u64, [u64; PERCENTILES.len()]) {
    let percentiles = PERCENTILES.map(|(percent, _)| latency.percentile(percent));
    (latency.count(), latency.min(), latency.max(), percentiles)
}

fn read(text: &str) {
    let Ok(latency) = Latency::decode(text) else { return };
    let again = Latency::decode(&latency.encode().unwrap()).unwrap();
    assert_eq!(figures(&again), figures(&latency));
    assert_eq!(again.buckets(&[10, 1_000]), latency.buckets(&[10, 1_000]));
}

fuzz_target!(|bytes: &[u8]| {
    read(&String::from_utf8_lossy(bytes));
    read(&wrapped(bytes));
    // With an honest header, the counts are what is read.
    let mut plain = Vec::new();
    let own = Latency::new().unwrap().encode().unwrap();
    let packed = BASE64.decode(own).unwrap();
    flate2::write::ZlibDecoder::new(&mut plain).write_all(&packed[8..]).unwrap();
    plain.truncate(40);
    plain[4..8].copy_from_slice(&(bytes.len() as u32).to_be_bytes());
    plain.extend_from_slice(bytes);
    read(&wrapped(&plain));
});
