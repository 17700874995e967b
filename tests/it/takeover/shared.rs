//! Servers whose shards share each port: a segment of a sleeping connection may come to the listener of another shard, and
//! connections wait in the accept queues of all of them.

use super::*;

#[test(Network, Hibernation)]
fn servers_whose_shards_share_ports_take_each_others_place() {
    in_own_network(|| in_turn(Ipv4Addr::LOCALHOST.into(), "--port-sharing all --hibernate 300ms"));
}

#[test(Network, Hibernation)]
fn sleepers_of_shards_that_share_ports_survive_a_kill() {
    in_own_network(|| survive_a_kill(Ipv4Addr::LOCALHOST.into(), "--port-sharing all --hibernate 200ms"));
}
