//! Faults and their alerts, bounds, and the ends of a connection.

use proptest::prelude::*;

use super::*;

const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const KEY_UPDATE_THAT_ASKS: [u8; 5] = [24, 0, 0, 1, 1];

/// A NewSessionTicket message with a body of this length, which is not looked into.
fn ticket(length: usize) -> Vec<u8> {
    let [_, high, middle, low] = (length as u32).to_be_bytes();
    [&[4, high, middle, low][..], &(0..length).map(|at| at as u8).collect::<Vec<_>>()].concat()
}

/// What a fault is, the records, of which the last has it, and the alert.
type Fault<const SECRET: usize> = (&'static str, fn(&mut Forge<SECRET>) -> Vec<Vec<u8>>, Alert);

pub(super) fn faults<const SECRET: usize>() -> Vec<Fault<SECRET>> {
    vec![
        ("a plain alert", |_| vec![vec![21, 3, 3, 0, 2, 1, 0]], Alert::UNEXPECTED_MESSAGE),
        ("a ChangeCipherSpec", |_| vec![vec![20, 3, 3, 0, 1, 1]], Alert::UNEXPECTED_MESSAGE),
        ("a plain handshake record", |_| vec![vec![22, 3, 3, 0, 4, 1, 0, 0, 0]], Alert::UNEXPECTED_MESSAGE),
        ("a record longer than 2^14 + 256", |forge| vec![forge.encrypt(&[1; 16_641 - 16])], Alert::RECORD_OVERFLOW),
        ("a record of 2^14 + 256 bytes", |forge| vec![forge.encrypt(&[1; 16_640 - 16])], Alert::RECORD_OVERFLOW),
        ("a record too short for a tag", |_| vec![record_of(15)], Alert::BAD_RECORD_MAC),
        ("an empty record", |_| vec![record_of(0)], Alert::BAD_RECORD_MAC),
        ("a changed byte", |forge| vec![changed(forge.record(23, b"abc", 0), 6)], Alert::BAD_RECORD_MAC),
        ("a changed tag", |forge| vec![changed(forge.record(23, b"abc", 0), 24)], Alert::BAD_RECORD_MAC),
        ("a changed version", |forge| vec![changed(forge.record(23, b"abc", 0), 1)], Alert::BAD_RECORD_MAC),
        ("a record twice", |forge| vec![forge.record(23, b"abc", 0); 2], Alert::BAD_RECORD_MAC),
        ("no type", |forge| vec![forge.encrypt(&[0; 7])], Alert::UNEXPECTED_MESSAGE),
        ("nothing but a tag", |forge| vec![forge.encrypt(&[])], Alert::UNEXPECTED_MESSAGE),
        ("an encrypted ChangeCipherSpec", |forge| vec![forge.record(20, &[1], 0)], Alert::UNEXPECTED_MESSAGE),
        ("a type that is not known", |forge| vec![forge.record(24, b"abc", 0)], Alert::UNEXPECTED_MESSAGE),
        ("an empty alert", |forge| vec![forge.record(21, &[], 3)], Alert::UNEXPECTED_MESSAGE),
        ("half an alert", |forge| vec![forge.record(21, &[2], 0)], Alert::DECODE_ERROR),
        ("two alerts", |forge| vec![forge.record(21, &[1, 90, 1, 0], 0)], Alert::DECODE_ERROR),
        ("an empty handshake record", |forge| vec![forge.record(22, &[], 1)], Alert::UNEXPECTED_MESSAGE),
        ("a ClientHello", |forge| vec![forge.record(22, &[1, 0, 0, 0], 0)], Alert::UNEXPECTED_MESSAGE),
        ("a HelloRequest", |forge| vec![forge.record(22, &[0], 0)], Alert::UNEXPECTED_MESSAGE),
        ("a request for a certificate", |forge| vec![forge.record(22, &[13, 0, 0], 0)], Alert::UNEXPECTED_MESSAGE),
        ("a KeyUpdate that asks for 2", |forge| vec![forge.record(22, &[24, 0, 0, 1, 2], 0)], Alert::ILLEGAL_PARAMETER),
        ("an empty KeyUpdate", |forge| vec![forge.record(22, &[24, 0, 0, 0], 0)], Alert::DECODE_ERROR),
        ("a long KeyUpdate", |forge| vec![forge.record(22, &[24, 0, 0, 2, 0, 0], 0)], Alert::DECODE_ERROR),
        (
            "a message behind a KeyUpdate",
            |forge| vec![forge.record(22, &[KEY_UPDATE, KEY_UPDATE].concat(), 0)],
            Alert::UNEXPECTED_MESSAGE,
        ),
        (
            "a message behind the end of a KeyUpdate",
            |forge| vec![forge.record(22, &KEY_UPDATE[..3], 0), forge.record(22, &[1, 0, 24], 0)],
            Alert::UNEXPECTED_MESSAGE,
        ),
        (
            "data within a message",
            |forge| vec![forge.record(22, &KEY_UPDATE[..3], 0), forge.record(23, b"abc", 0)],
            Alert::UNEXPECTED_MESSAGE,
        ),
        (
            "a record with the key before a KeyUpdate",
            |forge| vec![forge.record(22, &KEY_UPDATE, 0), forge.record(23, b"abc", 0)],
            Alert::BAD_RECORD_MAC,
        ),
    ]
}

/// A record whose header tells this length. What follows is zeros.
fn record_of(length: usize) -> Vec<u8> {
    [&[23, 3, 3][..], &(length as u16).to_be_bytes(), &vec![0; length]].concat()
}

fn changed(mut record: Vec<u8>, at: usize) -> Vec<u8> {
    record[at] ^= 0x20;
    record
}

fn each_fault_has_its_alert<const SECRET: usize>(suite: Suite) {
    for side in [Side::Client, Side::Server] {
        for (fault, records, alert) in faults::<SECRET>() {
            let (mut end, mut forge) = end_and_forge::<SECRET>(side, suite);
            let mut records = records(&mut forge);
            let last = records.pop().unwrap();
            records.iter().for_each(|record| drop(end.open(record).unwrap()));
            assert_eq!(end.open(&last), Err(alert), "{fault}, {suite:?}, {side:?}");
            // What comes later is passed over. The alert can be sent, and nothing after it.
            assert_eq!(end.open(&forge.record(23, b"more", 0)).unwrap().0, Opened::Nothing, "{fault}");
            assert!(end.session.seal_alert(&mut end.keys, alert).is_ok() && !end.session.is_writable());
            assert_eq!(end.session.seal(&mut end.keys, &mut room_around(b"abc")), Err(Unsealed::Closed));
            end.session.forget(&mut end.keys, &mut end.messages);
            assert_eq!(end.messages.bytes(), 0, "{fault}");
        }
    }
}

#[test]
fn faults_have_their_alerts() {
    each_suite!(each_fault_has_its_alert);
}

/// A server takes no ticket. A client takes it, unless it is too long.
#[test]
fn tickets_are_for_clients() {
    let (mut server, mut forge) = end_and_forge::<32>(Side::Server, Suite::Aes128Gcm);
    assert_eq!(server.open(&forge.record(22, &ticket(9), 0)), Err(Alert::UNEXPECTED_MESSAGE));
    let (mut client, mut forge) = end_and_forge::<32>(Side::Client, Suite::Aes128Gcm);
    assert_eq!(client.tickets(&forge.record(22, &ticket(9), 0)), [(0..9).collect::<Vec<u8>>()]);
    assert_eq!(client.open(&forge.record(22, &ticket(65_536)[..5], 0)), Err(Alert::INTERNAL_ERROR));
}

fn full_records_pass<const SECRET: usize>(suite: Suite) {
    let (mut end, mut forge) = end_and_forge::<SECRET>(Side::Server, suite);
    let content = vec![7; LARGEST_CONTENT];
    assert_eq!(end.open(&forge.record(23, &content, 0)).unwrap(), (Opened::Data(5..16_389), content.clone()));
    // The longest padding: type and padding fill what the content leaves.
    assert_eq!(end.open(&forge.record(23, b"a", LARGEST_CONTENT - 1)).unwrap(), (Opened::Data(5..6), b"a".to_vec()));
    assert_eq!(end.open(&forge.record(23, b"", LARGEST_CONTENT)).unwrap().0, Opened::Nothing);
    assert_eq!(end.open(&forge.record(23, &content, 1)), Err(Alert::RECORD_OVERFLOW));
}

#[test]
fn records_are_as_long_as_the_protocol_allows() {
    each_suite!(full_records_pass);
}

#[test]
fn what_does_not_fit_a_record_is_not_sealed() {
    let (mut client, mut server) = client_and_server::<48>(Suite::Aes256Gcm);
    for length in [0, HEADER + TRAILER - 1, LARGEST_RECORD + 1] {
        assert_eq!(client.session.seal(&mut client.keys, &mut vec![0; length]), Err(Unsealed::Size));
    }
    // No sequence number was used.
    let longest = client.seal(&vec![9; LARGEST_CONTENT]);
    assert_eq!(longest.len(), LARGEST_RECORD);
    assert_eq!(server.open(&longest).unwrap().1, vec![9; LARGEST_CONTENT]);
    assert_eq!(server.open(&client.seal(b"")).unwrap().0, Opened::Nothing);
}

#[test]
fn a_header_tells_the_length_as_early_as_it_can() {
    assert_eq!(record_length(&[]), Ok(None));
    assert_eq!(record_length(&[23, 3, 3, 0]), Ok(None));
    assert_eq!(record_length(&[23, 9, 9, 0x40, 0x11, 0]), Ok(Some(LARGEST_RECORD)));
    assert_eq!(record_length(&[23, 3, 3, 0x40, 0x12]), Err(Alert::RECORD_OVERFLOW));
    assert_eq!(record_length(b"GET / HTTP/1.1"), Err(Alert::UNEXPECTED_MESSAGE));
    assert_eq!(record_length(&[21]), Err(Alert::UNEXPECTED_MESSAGE));
}

#[test]
fn records_that_bring_nothing_are_bounded_in_a_row() {
    let (mut end, mut forge) = end_and_forge::<32>(Side::Server, Suite::ChaCha20Poly1305);
    let futile = |end: &mut End<32>, forge: &mut Forge<32>, number: usize| match number % 4 {
        0 => end.open(&forge.record(23, b"", number)),
        1 => end.open(&forge.record(21, &[1, 90], 0)),
        2 => end.open(&forge.record(22, &KEY_UPDATE[..2], 0)),
        _ => {
            let opened = end.open(&forge.record(22, &KEY_UPDATE[2..], 0));
            forge.update();
            opened
        }
    };
    for _ in 0..3 {
        (0..32).for_each(|number| drop(futile(&mut end, &mut forge, number).unwrap()));
        assert_eq!(end.open(&forge.record(23, b"data", 0)).unwrap().1, b"data");
    }
    (0..32).for_each(|number| drop(futile(&mut end, &mut forge, number).unwrap()));
    assert_eq!(futile(&mut end, &mut forge, 0), Err(Alert::UNEXPECTED_MESSAGE));
}

/// A server that renews its tickets all day is no fault.
#[test]
fn tickets_do_not_count_as_nothing() {
    let (mut client, mut forge) = end_and_forge::<32>(Side::Client, Suite::Aes128Gcm);
    for _ in 0..100 {
        client.open(&forge.record(22, &ticket(40)[..20], 0)).unwrap();
        assert_eq!(client.tickets(&forge.record(22, &ticket(40)[20..], 0)).len(), 1);
    }
}

#[test]
fn after_close_notify_the_peer_may_still_be_sent_to() {
    let (mut client, mut server) = client_and_server::<32>(Suite::ChaCha20Poly1305);
    let close = client.session.seal_alert(&mut client.keys, Alert::CLOSE_NOTIFY).unwrap();
    assert_eq!(server.open(&close).unwrap().0, Opened::Alert(Alert::CLOSE_NOTIFY));
    assert_eq!(server.open(&close).unwrap().0, Opened::Nothing);
    assert_eq!(client.open(&server.seal(b"the rest")).unwrap().1, b"the rest");
    let again = client.session.seal_alert(&mut client.keys, Alert::CLOSE_NOTIFY);
    assert_eq!(again, Err(Unsealed::Closed));
}

#[test]
fn after_a_fatal_alert_nothing_is_sent() {
    // The level is ignored, and a number without a name is as fatal.
    for alert in [[2, 40], [1, 46], [1, 250]] {
        let (mut end, mut forge) = end_and_forge::<32>(Side::Client, Suite::Aes128Gcm);
        assert_eq!(end.open(&forge.record(21, &alert, 0)).unwrap().0, Opened::Alert(Alert(alert[1])));
        assert!(!end.session.is_writable() && !end.session.key_update_due());
        assert_eq!(end.session.seal(&mut end.keys, &mut room_around(b"abc")), Err(Unsealed::Closed));
        assert_eq!(end.session.seal_key_update(&mut end.keys, false), Err(Unsealed::Closed));
        assert_eq!(end.session.seal_alert(&mut end.keys, Alert::CLOSE_NOTIFY), Err(Unsealed::Closed));
    }
    assert_eq!((Alert(40).to_string(), Alert(250).to_string()), ("handshake_failure".into(), "alert 250".into()));
}

fn one_key_update_answers_all<const SECRET: usize>(suite: Suite) {
    let (mut client, mut server) = client_and_server::<SECRET>(suite);
    for _ in 0..5 {
        let ask = client.session.seal_key_update(&mut client.keys, true).unwrap();
        assert_eq!(server.open(&ask).unwrap().0, Opened::KeyUpdate);
        assert!(server.session.key_update_due());
    }
    assert_eq!(server.session.seal(&mut server.keys, &mut room_around(b"abc")), Err(Unsealed::KeyUpdateDue));
    // An answer that asked would be answered for ever.
    let answer = server.session.seal_key_update(&mut server.keys, true).unwrap();
    assert!(!server.session.key_update_due());
    assert_eq!(client.open(&answer).unwrap().0, Opened::KeyUpdate);
    assert!(!client.session.key_update_due());
    assert_eq!(client.open(&server.seal(b"abc")).unwrap().1, b"abc");
    assert_eq!(server.open(&client.seal(b"def")).unwrap().1, b"def");
    // An alert is not held up by a KeyUpdate that is due.
    let ask = client.session.seal_key_update(&mut client.keys, true).unwrap();
    server.open(&ask).unwrap();
    let close = server.session.seal_alert(&mut server.keys, Alert::CLOSE_NOTIFY).unwrap();
    assert_eq!(client.open(&close).unwrap().0, Opened::Alert(Alert::CLOSE_NOTIFY));
}

#[test]
fn requests_for_a_key_update_are_answered_once() {
    each_suite!(one_key_update_answers_all);
}

fn a_key_is_changed_in_time<const SECRET: usize>(suite: Suite) {
    let (up, down) = (secret::<SECRET>(3), secret::<SECRET>(4));
    let start = RECORDS_PER_KEY - 3;
    let mut client = End::<SECRET>::new(Side::Client, suite, (&down, 0), (&up, start));
    let mut server = End::<SECRET>::new(Side::Server, suite, (&up, start), (&down, 0));
    for number in [0, 1, 2] {
        assert_eq!(server.open(&client.seal(&[number])).unwrap().1, [number]);
    }
    assert!(client.session.key_update_due());
    assert_eq!(client.session.seal(&mut client.keys, &mut room_around(b"abc")), Err(Unsealed::KeyUpdateDue));
    let update = client.session.seal_key_update(&mut client.keys, false).unwrap();
    assert_eq!(server.open(&update).unwrap().0, Opened::KeyUpdate);
    assert!(!client.session.key_update_due() && !server.session.key_update_due());
    assert_eq!(server.open(&client.seal(b"abc")).unwrap().1, b"abc");
}

#[test]
fn a_key_seals_a_bounded_number_of_records() {
    each_suite!(a_key_is_changed_in_time);
}

#[test]
fn sequence_numbers_end_before_they_repeat() {
    let (read, write) = (secret::<32>(1), secret::<32>(2));
    assert!(Traffic::<32>::new(&read, SEQUENCE + 1).is_none() && Traffic::<32>::new(&read[1..], 0).is_none());
    let mut end = End::<32>::new(Side::Server, Suite::Aes128Gcm, (&read, SEQUENCE - 1), (&write, SEQUENCE));
    let mut forge = Forge::<32>::new(Suite::Aes128Gcm, &read, SEQUENCE - 1);
    assert_eq!(end.open(&forge.record(23, b"last", 0)).unwrap().1, b"last");
    assert_eq!(end.open(&forge.record(23, b"one more", 0)), Err(Alert::INTERNAL_ERROR));
    assert_eq!(end.session.seal_alert(&mut end.keys, Alert::INTERNAL_ERROR), Err(Unsealed::Aead));
    let (read, write) = (Traffic::<32>::new(&read, 0).unwrap(), Traffic::new(&write, 0).unwrap());
    assert!(Session::new(Side::Client, Suite::Aes256Gcm, read, write).is_none());
}

#[test]
fn beginnings_of_messages_are_bounded_for_all_connections() {
    let (mut messages, mut keys) = (Messages::new(), KeyCache::new(4));
    let mut open = Vec::new();
    let refused = (0_u32..).find_map(|number| {
        let read: [u8; 32] = std::array::from_fn(|at| number.to_le_bytes()[at % 4]);
        let halves = (Traffic::new(&read, 0).unwrap(), Traffic::new(&[0; 32], 0).unwrap());
        let mut session = Session::<32>::new(Side::Server, Suite::Aes128Gcm, halves.0, halves.1).unwrap();
        let mut record = Forge::<32>::new(Suite::Aes128Gcm, &read, 0).record(22, &KEY_UPDATE_THAT_ASKS[..1], 0);
        let opened = session.open(&mut keys, &mut messages, &mut record);
        open.push(session);
        opened.err()
    });
    assert_eq!(refused, Some(Alert::INTERNAL_ERROR));
    assert!(open.len() > 4_000 && messages.bytes() <= 1 << 20, "{} connections", open.len());
    // Connections that were there before go on.
    let mut forge = Forge::<32>::new(Suite::Aes128Gcm, &[0; 32], 1);
    let mut rest = forge.record(22, &KEY_UPDATE_THAT_ASKS[1..], 0);
    assert_eq!(open[0].open(&mut keys, &mut messages, &mut rest), Ok(Opened::KeyUpdate));
    assert!(open[0].key_update_due());
    open.iter().for_each(|session| session.forget(&mut keys, &mut messages));
    assert_eq!(messages.bytes(), 0);
}

#[test]
fn nothing_that_is_printed_has_a_secret() {
    let (end, _) = end_and_forge::<32>(Side::Client, Suite::Aes128Gcm);
    let shown = format!("{:?}", end.session);
    assert_eq!(shown, "Session { side: Client, suite: Aes128Gcm, read: 0, write: 0, .. }");
}

proptest! {
    #[test]
    fn messages_come_out_whole_however_they_are_cut(
        lengths in prop::collection::vec(1..400_usize, 0..6),
        update in any::<Option<bool>>(),
        cuts in prop::collection::vec(1..300_usize, 32),
        padding in 0..20_usize,
    ) {
        let (mut client, mut forge) = end_and_forge::<32>(Side::Client, Suite::ChaCha20Poly1305);
        let tickets: Vec<_> = lengths.into_iter().map(ticket).collect();
        let mut stream = tickets.concat();
        stream.extend(update.iter().flat_map(|ask| messages::key_update(*ask)));
        let (mut rest, mut got, mut updated) = (&stream[..], Vec::new(), false);
        for cut in cuts.into_iter().chain([stream.len()]) {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            rest = later;
            if now.is_empty() {
                break;
            }
            let mut record = forge.record(22, now, padding);
            match client.session.open(&mut client.keys, &mut client.messages, &mut record).unwrap() {
                Opened::Tickets(place) => got.extend(client.messages.tickets(&record[place]).map(<[u8]>::to_vec)),
                Opened::KeyUpdate => updated = true,
                Opened::Nothing => prop_assert!(client.messages.bytes() > 0),
                other => prop_assert!(false, "{other:?}"),
            }
        }
        prop_assert_eq!(got, tickets.iter().map(|ticket| ticket[4..].to_vec()).collect::<Vec<_>>());
        prop_assert!(!updated || update.is_some());
        prop_assert_eq!(client.session.key_update_due(), update == Some(true));
        prop_assert_eq!(client.messages.bytes(), 0);
        if update.is_some() {
            forge.update();
        }
        prop_assert_eq!(client.open(&forge.record(23, b"data", 0)).unwrap().1, b"data");
    }
}
