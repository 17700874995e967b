//! Connections whose messages are not received for a while.

use super::*;

/// A message of which a part has come may take as long as reads are paused, and a close ends the pause.
#[test]
fn a_paused_connection_may_finish_its_message_and_its_close() {
    let mut limits = WebSocketLimits::default();
    limits.message_time = Duration::from_secs(5);
    let here = Here::start(limits);
    let mailbox = here.server.as_ref().unwrap().mailbox();
    let [(mut paused, first), (mut late, _)] = [(); 2].map(|()| here.open());
    let part = frame(Opcode::Text, false, b"one ");
    paused.say(&part);
    for _ in 0..20 {
        // The part has been received by then.
        late.say(&text("around"));
        assert_eq!([(); 2].map(|()| late.hear().1), [b"before".to_vec(), b"around".to_vec()]);
    }
    mailbox.send(0, (first, "pause")).unwrap();
    late.say(&part);
    assert_eq!(here.next(), Told::Failed(Fault::Late));
    late.closed(1008);
    mailbox.send(0, (first, "resume")).unwrap();
    paused.say(&frame(Opcode::Continuation, true, b"message"));
    assert_eq!(paused.hear(), (Opcode::Text, b"one message".to_vec()));
    mailbox.send(0, (first, "pause")).unwrap();
    mailbox.send(0, (first, "close")).unwrap();
    assert_eq!(paused.hear().0, Opcode::Close);
    paused.say(&frame(Opcode::Close, true, &1000u16.to_be_bytes()));
    paused.ends();
    assert_eq!(here.next(), Told::Local(true));
}
