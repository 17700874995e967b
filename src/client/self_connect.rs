//! Connections between two client sockets, or of one to itself. They need no server and prove none.

use std::io;
use std::net::SocketAddr;

use socket2::{SockAddr, Socket};

use crate::addresses::Address;
use crate::plan::Ports;
use crate::sys;

/// Whether both ends of a connection that was just dialed to `to` are sockets of clients: this one twice, or this one
/// and another that dials one of the same `ports`. TCP connects such two (a simultaneous open, RFC 9293, 3.5) if the
/// source port of each is the target port of the other and no socket listens there. So only a connection whose source
/// port is among the target ports needs a closer look.
pub fn is_connected_to_itself(socket: &Socket, to: SocketAddr, ports: Ports) -> bool {
    let address = |end: io::Result<SockAddr>| end.ok().and_then(|address| address.as_socket());
    let Some(local) = address(socket.local_addr()).filter(|local| ports.contains(local.port())) else { return false };
    // `to` may be another name for this host, such as 0.0.0.0. An end that was reset meanwhile has no peer.
    let peer = address(socket.peer_addr()).unwrap_or(to);
    if (peer.ip(), peer.port()) == (local.ip(), local.port()) {
        return true;
    }
    // A listener answers a SYN with one segment. A dialing socket that meets another one gets its SYN and an answer.
    // The socket that dialed last may get the answer alone; it is reset with the other.
    let simultaneous = || sys::tcp_info(socket).is_some_and(|info| info.received_empty > 1);
    ports.contains(peer.port()) && simultaneous() && Address::of(peer).is_here()
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Type};
    use std::net::{IpAddr, TcpListener};

    fn connected(from: SocketAddr, to: SocketAddr) -> Socket {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect(&to.into()).unwrap();
        socket
    }

    fn is_itself(socket: &Socket, to: SocketAddr) -> bool {
        is_connected_to_itself(socket, to, Ports::new(to.port(), 1).unwrap())
    }

    /// A listener at `ip`, and the port it has.
    fn listening(ip: &str) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// TCP connects a socket that was bound to the port that it dials, though no socket listens there.
    #[test]
    fn a_socket_that_is_connected_to_itself_is_told_from_others() {
        for ip in ["127.0.0.1", "127.0.0.7", "::1"] {
            let (_listener, to) = listening(ip);
            let any = SocketAddr::new(to.ip(), 0);
            assert!(!is_itself(&connected(any, to), to), "{to}");
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            socket.bind(&any.into()).unwrap();
            let own = socket.local_addr().unwrap().as_socket().unwrap();
            socket.connect(&own.into()).unwrap();
            assert!(is_itself(&socket, own), "{own}");
        }
    }

    #[test]
    fn the_same_port_at_another_address_is_another_end() {
        let (_listener, to) = listening("127.0.0.8");
        let from = SocketAddr::new("127.0.0.9".parse().unwrap(), to.port());
        assert!(!is_itself(&connected(from, to), to));
    }

    /// One dials a listener whose queue is full, which drops the SYN and refuses nothing; then a socket at the
    /// listener's own port dials the first. An ordinary user's socket may lack the right to a filter that drops.
    #[test]
    fn two_sockets_that_are_connected_to_each_other_are_told_from_others() {
        let shared = |address: &str| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&address.parse::<SocketAddr>().unwrap().into()).unwrap();
            let address = socket.local_addr().unwrap().as_socket().unwrap();
            (socket, address)
        };
        let (first, a) = shared("127.0.0.11:0");
        let (full, b) = shared("127.0.0.12:0");
        full.listen(0).unwrap();
        let _queued = connected("127.0.0.12:0".parse().unwrap(), b);
        // Of a listener, this is the length of its queue.
        while sys::tcp_info(&full).unwrap().unacknowledged == 0 {
            std::thread::yield_now();
        }
        first.set_nonblocking(true).unwrap();
        assert_eq!(first.connect(&b.into()).unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
        let (second, _) = shared(&b.to_string());
        second.connect(&a.into()).unwrap();
        let (low, high) = (a.port().min(b.port()), a.port().max(b.port()));
        let ports = Ports::new(low, high - low + 1).unwrap();
        assert!(is_connected_to_itself(&first, b, ports));
    }

    /// A source port may lie between the target ports where a server listens on some of them only.
    #[test]
    fn a_listener_is_told_from_a_socket_that_dials() {
        let (listener, to) = listening("127.0.0.13");
        let socket = connected(SocketAddr::new(to.ip(), 0), to);
        let own = socket.local_addr().unwrap().as_socket().unwrap().port();
        let (first, last) = (to.port().min(own), to.port().max(own));
        assert!(!is_connected_to_itself(&socket, to, Ports::new(first, last - first + 1).unwrap()));
        drop(listener);
    }
}
