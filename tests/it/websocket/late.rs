//! Messages that take their time, and those that are never whole.

use std::time::Instant;

use super::*;
use crate::support::write_unread;

/// What comes within this time is in time, on a machine that is busy with other things too.
const IN_TIME: Duration = Duration::from_secs(5);

#[test]
fn peers_that_are_slow_or_say_nothing_are_ended() {
    let mut limits = WebSocketLimits::default();
    (limits.message_time, limits.close_time) = (IN_TIME, IN_TIME);
    limits.http.request_time = IN_TIME;
    let here = Here::start(limits);
    // Nothing is asked for at all; a request that is never complete.
    let [mut silent, mut slow] = [(); 2].map(|()| Bare::connect(here.port));
    slow.say(&REQUEST[..50]);
    // A message that is never complete.
    let (mut never, _) = here.open();
    never.say(&text("never")[..8]);
    // A message that is complete takes its deadline with it.
    let (mut patient, _) = here.open();
    patient.say(&text("in two pieces")[..8]);
    patient.say(&text("in two pieces")[8..]);
    assert_eq!(patient.hear(), (Opcode::Text, b"in two pieces".to_vec()));
    // A close that is never answered.
    let (mut closed, _) = here.open();
    closed.say(&text("close"));
    assert_eq!(closed.hear(), (Opcode::Close, 1012u16.to_be_bytes().to_vec()));
    silent.ends();
    assert!(slow.head().starts_with("HTTP/1.1 408 "));
    never.closed(1008);
    closed.ends();
    let told = [here.next(), here.next()];
    assert!(told.contains(&Told::Failed(Fault::Late)) && told.contains(&Told::Local(false)), "{told:?}");
    // A deadline of the service's own.
    let (mut bare, _) = here.open();
    bare.say(&text("deadline"));
    let (opcode, payload) = bare.hear();
    assert_eq!((opcode, &payload[..2]), (Opcode::Close, &1008u16.to_be_bytes()[..]));
    bare.say(&frame(Opcode::Close, true, &1008u16.to_be_bytes()));
    assert_eq!(here.next(), Told::Local(true));
    patient.say(&text("still here"));
    assert_eq!(patient.hear(), (Opcode::Text, b"still here".to_vec()));
    let counters = &here.server.as_ref().unwrap().counters()[0];
    assert_eq!((counters.requests_late, counters.messages_late, counters.closes_unanswered), (1, 1, 1));
}

/// A message of which a part has come has its time from when the service has no deadline any more.
#[test]
fn a_message_is_late_behind_a_deadline_that_was_taken_back() {
    let mut limits = WebSocketLimits::default();
    limits.message_time = IN_TIME;
    let here = Here::start(limits);
    let (mut bare, conn) = here.open();
    bare.say(&[text("in an hour"), frame(Opcode::Text, false, b"never"), frame(Opcode::Ping, true, b"?")].concat());
    assert_eq!(bare.hear(), (Opcode::Pong, b"?".to_vec()));
    here.server.as_ref().unwrap().mailbox().send(0, (conn, "whenever")).unwrap();
    assert_eq!(here.next(), Told::Failed(Fault::Late));
    bare.closed(1008);
}

/// The second half of one frame, and the first half of the next.
fn seam(frame: &[u8]) -> Vec<u8> {
    let half = frame.len() / 2;
    [&frame[half..], &frame[..half]].concat()
}

/// A peer whose every receive ends within a message may stream as long as it likes, as each message is whole in time. A
/// peer that sends nothing of its message but pings, which also are cut, is late.
#[test]
fn each_message_of_a_stream_has_its_own_time() {
    let mut limits = WebSocketLimits::default();
    limits.message_time = IN_TIME;
    let here = Here::start(limits);
    let [(mut stream, _), (mut late, _)] = [(); 2].map(|()| here.open());
    let (message, ping) = (text("a message of a stream"), frame(Opcode::Ping, true, b"there?"));
    stream.say(&message[..message.len() / 2]);
    late.say(&[frame(Opcode::Text, false, b"never"), ping[..ping.len() / 2].to_vec()].concat());
    let mut echo = || {
        stream.say(&seam(&message));
        assert_eq!(stream.hear(), (Opcode::Text, b"a message of a stream".to_vec()));
    };
    let began = Instant::now();
    // The time of the stream's first message ends no later.
    let told = loop {
        echo();
        late.say(&seam(&ping));
        match here.told.recv_timeout(Duration::from_millis(20)) {
            Ok(told) => break told,
            Err(_) => assert!(began.elapsed() < PATIENCE, "a message is late by then"),
        }
    };
    assert_eq!(told, Told::Failed(Fault::Late));
    echo();
    let last = std::iter::repeat_with(|| late.hear()).find(|(opcode, _)| *opcode != Opcode::Pong).unwrap();
    assert_eq!((last.0, &last.1[..2]), (Opcode::Close, &1008u16.to_be_bytes()[..]));
}

/// What came together with the message at which a service aborts its connection is not handed on, nor is what is wrong with
/// it found.
#[test]
fn nothing_is_heard_behind_an_abort() {
    let here = Here::start(WebSocketLimits::default());
    let wrong = frame(Opcode::Continuation, true, b"");
    let (mut bare, _) = here.open();
    bare.say(&[text("abort"), frame(Opcode::Pong, true, b"never told"), wrong].concat());
    assert_eq!(here.next(), Told::Lost(CloseReason::Local));
    // Within the answer to a request: the next one, which would open a connection, is not taken.
    let mut bare = Bare::connect(here.port);
    bare.say(&[b"GET /abort HTTP/1.1\r\nHost: a\r\n\r\n", REQUEST].concat());
    bare.ends();
    let (_bare, _) = here.open();
    let counters = &here.server.as_ref().unwrap().counters()[0];
    assert_eq!((counters.requests, counters.upgrades, counters.protocol_errors), (3, 2, 0));
}

/// A peer sends messages and reads no answers, so nothing more is received from it. The rest of the message of which a part was
/// received is not late.
#[test]
fn a_message_is_not_late_while_answers_wait_for_its_peer() {
    let mut limits = WebSocketLimits::default();
    limits.message_time = IN_TIME;
    let here = Here::start(limits);
    let server = here.server.as_ref().unwrap();
    let [(mut slow, _), (mut late, _)] = [(); 2].map(|()| here.open());
    let message = || frame(Opcode::Binary, true, &[7; 50_000]);
    let (messages, rest) = write_unread(&mut slow.0, message, || server.counters().remove(0));
    // Its time ends after that of the other one.
    late.say(&text("never")[..8]);
    assert_eq!(here.next(), Told::Failed(Fault::Late));
    late.closed(1008);
    let mut writer = slow.0.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(&rest).unwrap());
        for _ in 0..messages {
            assert_eq!(slow.hear(), (Opcode::Binary, vec![7; 50_000]));
        }
    });
    assert_eq!(server.counters()[0].messages_late, 1);
}
