//! Messages that take their time, and those that are never whole.

use std::time::Instant;

use super::*;
use crate::support::write_unread;

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
    let (messages, rest) = write_unread(&mut slow.0, message, || server.counters()[0].bytes_in);
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
