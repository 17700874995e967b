//! TLS 1.3 for a million connections: rustls does the handshake (`handshake`), and [`record`] does what follows in 80 bytes
//! a connection (`sessions`). `layer` has both for the connections of a shard, without their I/O.

pub mod carried;
pub mod handshake;
pub mod layer;
pub mod record;
pub mod sessions;
