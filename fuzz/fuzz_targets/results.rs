//! A file given to `c1m report merge`: what is taken for a result is written and read back the same,
//! and merged with itself it has everything twice.
#![no_main]

use c1m::report::json::{MachineDocument, read_client, write};
use c1m::report::merge::merge;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let document = match read_client(bytes, "a file") {
        Ok(document) => document,
        Err(error) => return assert!(!error.to_string().contains('\n'), "an error is one line"),
    };
    let mut text = Vec::new();
    write(&document, &mut text).unwrap();
    assert_eq!(read_client(&text, "a file").unwrap(), document);
    let named = |machine: &str| MachineDocument { machine: machine.to_owned(), result: document.clone() };
    // Results of storms are not merged.
    let Ok(twice) = merge(vec![named("a"), named("b")]) else { return assert!(document.storm.is_some()) };
    assert_eq!(twice.live, document.live.saturating_mul(2));
    assert_eq!(twice.latencies.connect.max, document.latencies.connect.max);
});
