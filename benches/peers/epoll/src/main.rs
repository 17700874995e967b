//! The strongest plain design: one pinned thread per core with its own edge-triggered epoll and its
//! own SO_REUSEPORT listeners, no heap per connection. It is the reference that the other benches use.

#[path = "../../../reference/server.rs"]
mod server;
#[allow(dead_code, reason = "the reference's client uses the rest")]
#[path = "../../../reference/sys.rs"]
mod sys;

fn main() {
    let told = contract::Contract::from_command_line();
    server::run(told.address, &told.cores, told.first_port, told.ports.into(), contract::ready);
}
