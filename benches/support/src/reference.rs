//! The reference that the benches hold c1m against: an echo server and a client on plain
//! edge-triggered epoll, written the way a careful engineer without io_uring would write them.

pub mod client;
pub mod server;
