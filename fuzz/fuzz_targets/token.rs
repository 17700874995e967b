//! `user_data` of a completion: a number is either refused, or the one that its token packs to.
#![no_main]

use c1m::token::{ConnId, Token};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: [u8; 8]| {
    let raw = u64::from_le_bytes(raw);
    let Some(token) = Token::unpack(raw) else { return };
    assert_eq!(token.pack(), raw);
    let conn = ConnId::new(7, token.slot, token.generation);
    assert_eq!((conn.ring(), conn.token(token.operation)), (7, token));
});
