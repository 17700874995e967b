//! What a peer may send before a TLS handshake is over.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;

use super::Input;
use crate::cli::demo::certificate;
use crate::error::TlsFailure;
use crate::tls::handshake::{Acceptor, ClientTls, Connector, Pem, TlsConfig, Trust};
use crate::tls::layer::{Endpoint, Layer, LayerConfig, Shaken};
use crate::tls::record::{HEADER, LARGEST_RECORD, Opened};
use crate::tls_version::TlsVersion;
use crate::token::ConnId;

/// Flights of the peer at most in one handshake. An honest one has two.
const FLIGHTS: usize = 8;

/// Bytes that an end sends in a handshake at most: the client's two flights, or the server's with one certificate.
const LONGEST_ANSWER: usize = 16 * 1024;

/// Both ends of a handshake: ours, and one that is honest, whose bytes are changed on their way to ours.
struct Ends {
    ours: Layer,
    honest: Layer,
    name: ConnId,
}

/// A handshake with bytes of the input put into it, left out of it, repeated and changed, and cut anywhere. Our end
/// comes to the same secrets as the honest end, or fails and says so by an alert. The first byte tells which end
/// is ours, and whether the honest one speaks TLS 1.2 alone.
pub fn handshakes(bytes: &[u8]) {
    let mut input = Input(bytes);
    let first = input.byte();
    let (is_server, is_old) = (first & 1 == 0, first & 2 != 0);
    let [new, old] = endpoints();
    let (ours, honest) = match (is_server, is_old) {
        (true, false) => (new.0, new.1),
        (true, true) => (new.0, old.1),
        (false, false) => (new.1, new.0),
        (false, true) => (new.1, old.0),
    };
    let layer = |endpoint| Layer::new(LayerConfig::new(endpoint, 1));
    let mut ends = Ends { ours: layer(ours), honest: layer(honest), name: ConnId::new(0, 3, 1) };
    let mut hello = Vec::new();
    let begins = if is_server { &mut ends.honest } else { &mut ends.ours };
    begins.begin(ends.name, IpAddr::V4(Ipv4Addr::LOCALHOST), &mut hello).unwrap();
    if is_server {
        ends.talk(hello, &mut input);
    } else {
        let mut flight = Vec::new();
        ends.honest.shake(ends.name, &hello, &mut flight).unwrap();
        ends.talk(flight, &mut input);
    }
    ends.ours.forget(ends.name);
    assert_eq!(ends.ours.handshakes(), 0);
    assert!(!ends.ours.sessions.has(ends.name));
}

/// A server and a client that trusts it, which speak both versions; and the same that speak TLS 1.2 alone. The certificate
/// is the same in all runs of a process.
fn endpoints() -> [(Endpoint, Endpoint); 2] {
    static ENDS: OnceLock<[(Acceptor, Connector); 2]> = OnceLock::new();
    let ends = ENDS.get_or_init(|| {
        let (certificate, key) = certificate::make().unwrap();
        let trust = Trust::Authorities(Pem::Memory(certificate.clone().into_bytes()));
        let settings = ClientTls { trust, lowest_version: TlsVersion::Tls12, ..ClientTls::default() };
        let server = TlsConfig::pem(certificate.into_bytes(), key.into_bytes()).lowest_version(TlsVersion::Tls12);
        let both = (Acceptor::new(&server).unwrap(), Connector::new(&settings).unwrap());
        let old = (Acceptor::new(&server.only_tls12()).unwrap(), Connector::only_tls12(settings).unwrap());
        [both, old]
    });
    let endpoints = |(acceptor, connector): &(Acceptor, Connector)| {
        (Endpoint::Server(acceptor.clone()), Endpoint::Client(connector.for_shard()))
    };
    [endpoints(&ends[0]), endpoints(&ends[1])]
}

impl Ends {
    /// Gives the honest end's flights to ours, each changed as the input says, and our answers to the honest end.
    fn talk(&mut self, mut flight: Vec<u8>, input: &mut Input<'_>) {
        for _ in 0..FLIGHTS {
            spoil(&mut flight, input);
            let piece = usize::from(input.byte()) * 16 + 1;
            let mut answer = Vec::new();
            for piece in flight.chunks(piece) {
                match self.ours.shake(self.name, piece, &mut answer) {
                    Ok(None) => assert_eq!(self.ours.handshakes(), 1),
                    Ok(Some(shaken)) => return self.established(&answer, &shaken),
                    Err(failure) => return self.failed(failure, &answer),
                }
            }
            flight = Vec::new();
            is_in_records(&answer);
            match self.honest.sessions.has(self.name) {
                // Ours hangs on, and would be closed when its time is over.
                true => return,
                false if self.honest.shake(self.name, &answer, &mut flight).is_err() => return,
                false => {}
            }
        }
    }

    /// Our end has failed: the last that it sent is an alert, which may be encrypted. An alert of the peer is not answered.
    fn failed(&self, failure: TlsFailure, answer: &[u8]) {
        assert_eq!(TlsFailure::named(&failure.name()), Some(failure));
        let last = is_in_records(answer);
        let told = matches!(last, Some(21 | 23)) || matches!(failure, TlsFailure::PeerAlert(_));
        assert!(told, "{failure:?} and a record of type {last:?}");
        assert_eq!(self.ours.handshakes(), 0);
        assert!(!self.ours.sessions.has(self.name));
    }

    /// Our end is established: it has seen that the honest end heard and said the same. So that one is established too, has the
    /// same secrets, and both understand each other.
    fn established(&mut self, answer: &[u8], shaken: &Shaken) {
        assert!(shaken.rest.len() <= 2 * LARGEST_RECORD + 16);
        let mut came = answer.to_vec();
        if !self.honest.sessions.has(self.name) {
            let shaken = self.honest.shake(self.name, answer, &mut Vec::new()).unwrap();
            came = shaken.expect("ours is established, and waits for nothing").rest;
        }
        assert_eq!(self.ours.sessions.seal(self.name, b"hello", &mut came).map(|sealed| sealed.records), Ok(1));
        // A server's tickets come before.
        let mut start = 0;
        loop {
            let length = self.honest.sessions.record_length(self.name, &came[start..]).unwrap().unwrap();
            let record = &mut came[start..start + length];
            match self.honest.sessions.open(self.name, record) {
                Ok(Opened::Data(place)) => return assert_eq!(&record[place], b"hello"),
                Ok(Opened::Tickets(_)) => start += length,
                opened => panic!("the honest end opens {opened:?}"),
            }
        }
    }
}

/// Changes a flight.
fn spoil(flight: &mut Vec<u8>, input: &mut Input<'_>) {
    for _ in 0..input.byte() % 4 {
        let step = input.byte();
        let at = input.short() % (flight.len() + 1);
        let length = usize::from(step >> 3).min(input.0.len());
        let (content, later) = input.0.split_at(length);
        match step & 7 {
            0 | 1 => flight.get_mut(at).into_iter().for_each(|byte| *byte ^= step | 1),
            2 => flight.truncate(at),
            3 => flight.extend_from_within(at..),
            4 => drop(flight.drain(..at)),
            5 => *flight = content.to_vec(),
            6 => drop(flight.splice(at..at, content.iter().copied())),
            // A record of the input's, with a type of content that there is.
            _ => {
                let header = [20 + step % 5, 3, 3, 0, length as u8];
                drop(flight.splice(at..at, header.iter().chain(content).copied()));
            }
        }
        input.0 = later;
    }
}

/// Checks that an answer is in whole records, and not without end. Returns the type of the last one.
fn is_in_records(mut answer: &[u8]) -> Option<u8> {
    assert!(answer.len() <= LONGEST_ANSWER);
    let mut last = None;
    while !answer.is_empty() {
        let length = usize::from(u16::from_be_bytes([answer[3], answer[4]]));
        last = Some(answer[0]);
        answer = &answer[HEADER + length..];
    }
    last
}
