//! Sleeping connections whose route depends on their own address, or is away for a while.

use std::net::Shutdown;

use super::*;

/// The table of routes for what comes from the server's address.
const TABLE: u8 = 100;

/// Runs `peer` in a network namespace, of which a cable leads from its interface `near` to `far` in the calling thread's.
/// There `routes` sets up the network, and `serve` has a server at `ip` with one connection, which sleeps. `peer` has the
/// server's port, and is told when its connection sleeps.
fn at_both_ends(
    ip: IpAddr,
    routes: impl FnOnce(),
    serve: impl FnOnce(&Library<Vec<u8>>, &Receiver<()>),
    peer: impl FnOnce(u16, Receiver<()>) + Send,
) {
    let host = File::open("/proc/thread-self/ns/net").unwrap();
    let ((linked, link), (started, start)) = (channel(), channel());
    let ((sleeps, asleep), (tell, told)) = (channel(), channel());
    std::thread::scope(|scope| {
        let peers = scope.spawn(move || {
            in_own_network(move || {
                network::cable(c"near", c"far", Some(&host));
                linked.send(()).unwrap();
                if let Ok(port) = start.recv() {
                    peer(port, asleep);
                }
            });
        });
        link.recv().unwrap();
        network::up(c"far");
        routes();
        let port = free_ports(1);
        let builder = Library::builder().bind(ip).ports(Ports::new(port, 1).unwrap()).cores(Cores::Count(1));
        let builder = builder.max_connections(100).hibernate(Duration::from_millis(100));
        let server = builder.start(move |_| Pusher(tell.clone())).unwrap();
        started.send(port).unwrap();
        eventually("it sleeps", || server.counters()[0].asleep == 1);
        sleeps.send(()).unwrap();
        serve(&server, &told);
        peers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        server.stop();
        server.join().map(drop).unwrap();
    });
}

/// Two addresses of the same family: the server's, and its peer's.
fn pairs() -> [(IpAddr, IpAddr, u8); 2] {
    [("10.77.0.1", "10.88.0.2", 32), ("fd77::1", "fd88::2", 128)]
        .map(|(here, there, bits)| (here.parse().unwrap(), there.parse().unwrap(), bits))
}

/// A new connection to the server, which has answered.
fn connected(to: IpAddr, port: u16) -> TcpStream {
    let mut stream = TcpStream::connect((to, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    exchanges(&mut stream, b"hello");
    stream
}

/// A host with several ways out may choose one by the address from which it sends. What is sent for a sleeper goes the way
/// that its socket's segments went. The other way leads nowhere.
#[test(Network, Hibernation)]
fn answers_of_sleepers_go_the_way_of_their_address() {
    for (here, there, bits) in pairs() {
        in_own_network(|| {
            let routes = || {
                network::address(c"far", here, bits);
                network::cable(c"void", c"end", None);
                [c"void", c"end"].into_iter().for_each(network::up);
                network::route(c"void", there, bits);
                network::route_by(TABLE, c"far", there, bits);
                network::rule(here, TABLE);
            };
            let answered = |server: &Library<Vec<u8>>, _: &Receiver<()>| {
                eventually("the sleeper has ended", || server.counters()[0].live == 0);
                assert_eq!(server.counters()[0].server.woken_by_peer, 0);
            };
            at_both_ends(here, routes, answered, |port, asleep| {
                network::address(c"near", there, bits);
                network::up(c"near");
                network::route(c"near", here, bits);
                let mut stream = connected(here, port);
                asleep.recv_timeout(PATIENCE).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the server ends too");
            });
        });
    }
}

/// While the server's address or its route to a peer is away, what is sent to a sleeper waits.
#[test(Network, Hibernation)]
fn what_is_sent_while_a_route_is_away_arrives_later() {
    for (here, there, bits) in pairs() {
        in_own_network(|| {
            let routes = || {
                network::address(c"far", here, bits);
                network::route(c"far", there, bits);
            };
            let tells = |server: &Library<Vec<u8>>, told: &Receiver<()>| {
                network::remove_address(c"far", here, bits);
                server.mailbox().send(0, b"later".to_vec()).map_err(drop).unwrap();
                told.recv_timeout(PATIENCE).unwrap();
                assert_eq!((server.counters()[0].live, server.counters()[0].asleep), (1, 1), "it did not wait");
                network::address(c"far", here, bits);
                if here.is_ipv4() {
                    // Routes of IPv4 go with the last address of their interface.
                    network::route(c"far", there, bits);
                }
            };
            at_both_ends(here, routes, tells, |port, _asleep| {
                network::address(c"near", there, bits);
                network::up(c"near");
                network::route(c"near", here, bits);
                let mut stream = connected(here, port);
                let mut heard = [0; 5];
                stream.read_exact(&mut heard).unwrap();
                assert_eq!(heard, *b"later");
                exchanges(&mut stream, b"and now");
            });
        });
    }
}
