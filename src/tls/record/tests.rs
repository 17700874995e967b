//! What the record layer must do: the vectors of RFC 8448, the alert for each fault, nonces that never repeat, and
//! records that rustls opens and has sealed.

mod beside_rustls;
mod carried;
mod faults;
mod nonces;
mod tls12;
mod vectors;

use super::forge::Forge;
use super::*;

/// Calls a generic test with each suite.
macro_rules! each_suite {
    ($test:ident) => {
        $test::<32>(Suite::Aes128Gcm);
        $test::<48>(Suite::Aes256Gcm);
        $test::<32>(Suite::ChaCha20Poly1305);
    };
}
use each_suite;

/// One end of a connection, with a shard's memory of its own.
struct End<const SECRET: usize> {
    session: Session<SECRET>,
    keys: KeyCache,
    messages: Messages,
}

impl<const SECRET: usize> End<SECRET> {
    fn new(side: Side, suite: Suite, read: (&[u8], u64), write: (&[u8], u64)) -> Self {
        let read = Traffic::new(read.0, read.1).unwrap();
        let write = Traffic::new(write.0, write.1).unwrap();
        let session = Session::new(side, suite, read, write).unwrap();
        Self { session, keys: KeyCache::new(4), messages: Messages::new() }
    }

    /// What a record was, and its content if that is data.
    fn open(&mut self, record: &[u8]) -> Result<(Opened, Vec<u8>), Alert> {
        let mut record = record.to_vec();
        let opened = self.session.open(&mut self.keys, &mut self.messages, &mut record)?;
        let content = if let Opened::Data(place) = &opened { record[place.clone()].to_vec() } else { Vec::new() };
        Ok((opened, content))
    }

    /// The tickets in a record.
    fn tickets(&mut self, record: &[u8]) -> Vec<Vec<u8>> {
        let mut record = record.to_vec();
        match self.session.open(&mut self.keys, &mut self.messages, &mut record).unwrap() {
            Opened::Tickets(place) => self.messages.tickets(&record[place]).map(<[u8]>::to_vec).collect(),
            other => panic!("no tickets: {other:?}"),
        }
    }

    fn seal(&mut self, content: &[u8]) -> Vec<u8> {
        let mut record = room_around(content);
        self.session.seal(&mut self.keys, &mut record).unwrap();
        record
    }
}

/// A buffer with content, and room for what a record has around it.
fn room_around(content: &[u8]) -> Vec<u8> {
    [&[0; HEADER][..], content, &[0; TRAILER]].concat()
}

/// A secret for tests, another one for each seed.
fn secret<const SECRET: usize>(seed: u8) -> [u8; SECRET] {
    std::array::from_fn(|at| seed.wrapping_mul(0x9d) ^ (at as u8).wrapping_mul(0x35))
}

/// Our end at a side, and what seals records for it.
fn end_and_forge<const SECRET: usize>(side: Side, suite: Suite) -> (End<SECRET>, Forge<SECRET>) {
    let (read, write) = (secret::<SECRET>(1), secret::<SECRET>(2));
    (End::new(side, suite, (&read, 0), (&write, 0)), Forge::new(suite, &read, 0))
}

/// Two ends of our own.
fn client_and_server<const SECRET: usize>(suite: Suite) -> (End<SECRET>, End<SECRET>) {
    let (up, down) = (secret::<SECRET>(3), secret::<SECRET>(4));
    let client = End::new(Side::Client, suite, (&down, 0), (&up, 0));
    (client, End::new(Side::Server, suite, (&up, 0), (&down, 0)))
}

/// The whole records in a stream of bytes.
fn records(stream: &[u8]) -> Vec<Vec<u8>> {
    let (mut records, mut rest) = (Vec::new(), stream);
    while let Some(length) = record_length(rest).unwrap() {
        let (record, later) = rest.split_at(length);
        records.push(record.to_vec());
        rest = later;
    }
    assert!(rest.is_empty(), "the stream ends within a header");
    records
}
