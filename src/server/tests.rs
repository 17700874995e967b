//! How a server begins and ends, in this process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use super::*;
use crate::connections::AdmissionState;
use crate::host::{Cores, REFUSED};
use crate::plan::Ports;
use crate::service::Echo;

/// A server of one shard, and its address.
fn builder() -> (ServerBuilder, SocketAddr) {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = free.local_addr().unwrap();
    let ports = Ports::new(address.port(), 1).unwrap();
    (Server::builder().bind(Ipv4Addr::LOCALHOST).ports(ports).cores(Cores::Count(1)).max_connections(10), address)
}

/// A server that cannot have a thread does not start: none of its shards goes on without an owner.
#[test]
fn a_start_that_fails_leaves_nothing_running() {
    let (builder, address) = builder();
    REFUSED.set("c1m-memory");
    let error = builder.start(|_| Echo).map(drop).unwrap_err().to_string();
    assert!(error.contains("c1m-memory"), "{error}");
    // It binds without SO_REUSEPORT.
    listener::check_free(Ipv4Addr::LOCALHOST.into(), Ports::new(address.port(), 1).unwrap()).unwrap();
}

/// Memory that suffices again while a server stops opens no listener: nobody would accept what comes.
#[test]
fn a_server_that_stops_does_not_listen_again() {
    let (builder, address) = builder();
    let server = builder.memory_reserve(Reserve::Bytes(0)).start(|_| Echo).unwrap();
    TcpStream::connect(address).unwrap();
    server.control.set(AdmissionState::NotListening);
    TcpStream::connect(address).unwrap_err();
    let control = server.control.clone();
    server.stop();
    control.set(AdmissionState::Open);
    TcpStream::connect(address).unwrap_err();
    server.join().unwrap();
}
