//! The strongest plain design: one pinned thread per core with its own edge-triggered epoll and its
//! own SO_REUSEPORT listeners, no heap per connection. It is the reference that the other benches use.

use bench_support::contract::{self, Contract};
use bench_support::reference::server;

fn main() {
    server::run(&Contract::from_command_line(), contract::ready);
}
