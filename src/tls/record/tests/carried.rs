//! Sessions that go to another process.

use super::*;
use crate::wiped::Wiped;

impl<const SECRET: usize> End<SECRET> {
    /// The same end in another process, which has its own memory.
    pub(super) fn moved(mut self) -> Self {
        let mut bytes = Wiped::default();
        self.session.carry(&mut self.keys, &mut self.messages, &mut bytes);
        assert!(self.keys.is_empty() && self.messages.bytes() == 0, "something is left");
        for cut in 0..2 * (SECRET + 8) {
            assert!(Session::<SECRET>::of_carried(&bytes[..cut], &mut Messages::new()).is_none(), "{cut} bytes");
        }
        let mut messages = Messages::new();
        let session = Session::of_carried(&bytes, &mut messages).unwrap();
        Self { session, keys: KeyCache::new(4), messages }
    }
}

fn goes_on<const SECRET: usize>(suite: Suite) {
    let (mut client, mut server) = client_and_server::<SECRET>(suite);
    for round in 0..4u8 {
        let up = client.seal(&[round; 9]);
        assert_eq!(server.open(&up).unwrap().1, [round; 9]);
        // A KeyUpdate is due at the server when it goes, as the client has asked for one.
        let update = client.session.seal_key_update(&mut client.keys, true).unwrap();
        assert_eq!(server.open(&update).unwrap().0, Opened::KeyUpdate);
        server = server.moved();
        assert!(server.session.key_update_due());
        let answer = server.session.seal_key_update(&mut server.keys, false).unwrap();
        assert_eq!(client.open(&answer).unwrap().0, Opened::KeyUpdate);
        let down = server.seal(&[round; 5]);
        assert_eq!(client.open(&down).unwrap().1, [round; 5]);
    }
    assert_eq!((server.session.suite(), server.session.side()), (suite, Side::Server));
}

/// It opens and seals the next record with the next number, whatever was due.
#[test]
fn a_carried_session_goes_on_once() {
    each_suite!(goes_on);
}

fn within_a_message<const SECRET: usize>(suite: Suite) {
    let (mut server, mut forge) = end_and_forge::<SECRET>(Side::Server, suite);
    let message = messages::key_update(true);
    for (at, byte) in message.into_iter().enumerate() {
        let opened = server.open(&forge.record(HANDSHAKE, &[byte], 0)).unwrap().0;
        let last = at + 1 == message.len();
        assert_eq!(opened, if last { Opened::KeyUpdate } else { Opened::Nothing });
        server = server.moved();
    }
    forge.update();
    assert_eq!(server.open(&forge.record(APPLICATION_DATA, b"later", 0)).unwrap().1, b"later");
}

/// The beginning of a message goes along.
#[test]
fn a_message_is_joined_in_another_process() {
    each_suite!(within_a_message);
}

/// What was over stays so: nothing is sealed behind an alert.
#[test]
fn a_closed_session_stays_closed() {
    let (mut server, _) = end_and_forge::<32>(Side::Server, Suite::Aes128Gcm);
    server.session.seal_alert(&mut server.keys, Alert::CLOSE_NOTIFY).unwrap();
    let mut server = server.moved();
    assert_eq!(server.session.seal(&mut server.keys, &mut room_around(b"more")), Err(Unsealed::Closed));
}

#[test]
fn other_bytes_are_no_session() {
    let (server, _) = end_and_forge::<32>(Side::Server, Suite::ChaCha20Poly1305);
    let (mut keys, mut messages, mut bytes) = (KeyCache::new(4), Messages::new(), Wiped::default());
    server.session.carry(&mut keys, &mut messages, &mut bytes);
    let refused = |bytes: &[u8]| Session::<32>::of_carried(bytes, &mut Messages::new()).is_none();
    assert!(!refused(&bytes));
    assert!(refused(&[&bytes[..], &[1]].concat()), "with something behind it");
    // The word of the direction that seals: a suite of other secrets, one that there is not, and marks that mean nothing.
    for mark in [SUITE, 2 * SUITE, 6 * SUITE, 1 << 62] {
        let mut other = bytes.to_vec();
        let word = u64::from_le_bytes(other[40..48].try_into().unwrap());
        other[40..48].copy_from_slice(&(word & !SUITE_MASK | mark).to_le_bytes());
        assert_eq!(refused(&other), mark != 2 * SUITE, "{mark:x}");
    }
    // Vacant.
    assert!(refused(&[0; 80]));
}
