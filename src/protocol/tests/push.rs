//! `push` against streams of frames that are cut anywhere.

use super::*;
use crate::protocol::push::{Frame, Kind, Receipt};

fn dialect(role: Role) -> Push {
    Push::new(&Settings { role, payload: Some(100), ..Settings::default() }).unwrap()
}

fn exchange(purpose: Purpose) -> Exchange {
    Exchange { number: 7, round: 3, purpose }
}

fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Frame::append(kind, payload, &mut bytes);
    bytes
}

fn publication(number: u32, length: u32) -> Publication {
    Publication { run: 1, number, instant: 9, length }
}

fn payload(publication: Publication) -> Vec<u8> {
    let mut payload = Vec::new();
    publication.write(&mut payload);
    payload
}

fn asked(dialect: &Push, exchange: Exchange) -> Vec<u8> {
    let mut bytes = Vec::new();
    match exchange.purpose {
        Purpose::Open(step) => assert!(dialect.open(exchange.number, step, &mut bytes)),
        _ => dialect.ask(exchange, &mut bytes),
    }
    bytes
}

proptest! {
    /// The server answers each message with its bytes, and pushes before and behind the answers.
    #[test]
    fn frames_of_the_service_may_be_cut_anywhere(
        role in prop::sample::select(vec![Role::Peer, Role::Subscriber, Role::Publisher]),
        lengths in prop::collection::vec(64u32..3_000, 4),
        other in prop::collection::vec(any::<u8>(), 0..100),
        cuts in prop_oneof![prop::collection::vec(1usize..7, 0..400), Just(vec![1; 20_000])],
    ) {
        let dialect = dialect(role);
        let purposes = [Purpose::Open(0), Purpose::Audit, Purpose::Message, Purpose::Keepalive];
        let (mut stream, mut verdicts) = (Vec::new(), Vec::new());
        for (number, (purpose, length)) in purposes.into_iter().zip(&lengths).enumerate() {
            let publication = publication(number as u32, *length);
            stream.extend(frame(Kind::Publish, &payload(publication)));
            stream.extend(frame(Kind::Publish, &other));
            stream.extend(asked(&dialect, Exchange { round: 0, ..exchange(purpose) }));
            verdicts.extend([Verdict::Push(publication), Verdict::Aside, Verdict::Proof]);
        }
        if role == Role::Publisher {
            let receipt = Receipt { number: 1, subscribers: 2, missed: 3 }.to_string();
            stream.extend(frame(Kind::Receipt, receipt.as_bytes()));
            verdicts.push(Verdict::Aside);
        }
        let exchanges: Vec<_> = purposes.map(|purpose| Some(Exchange { round: 0, ..exchange(purpose) })).into();
        let (heard, replied) = follow(&dialect, &exchanges, &stream, cuts.into_iter());
        prop_assert_eq!(heard, verdicts);
        prop_assert!(replied.is_empty());
    }
}

#[test]
fn what_the_service_must_not_say() {
    let (subscriber, publisher) = (dialect(Role::Subscriber), dialect(Role::Publisher));
    let [open, audit] = [Purpose::Open(0), Purpose::Audit].map(|purpose| Some(exchange(purpose)));
    let own = asked(&subscriber, exchange(Purpose::Audit));
    let other = asked(&subscriber, Exchange { number: 8, ..exchange(Purpose::Audit) });
    let mut changed = payload(publication(1, 80));
    changed[79] = b'~';
    let wrong = [
        (&subscriber, None, own.clone(), Cause::Unasked),
        (&subscriber, open, own, Cause::Unasked),
        (&subscriber, audit, other, Cause::WrongAnswer),
        (&subscriber, audit, frame(Kind::Echo, b"short"), Cause::WrongAnswer),
        (&subscriber, open, frame(Kind::Echo, b""), Cause::Unasked),
        (&subscriber, None, frame(Kind::Echo, b""), Cause::Unasked),
        (&subscriber, audit, frame(Kind::Subscribe, b""), Cause::Unasked),
        (&subscriber, open, frame(Kind::Subscribe, b"x"), Cause::Malformed),
        (&publisher, open, frame(Kind::Subscribe, b""), Cause::Unasked),
        (&subscriber, None, frame(Kind::Receipt, b"taken 1 1 0"), Cause::Unasked),
        (&subscriber, None, vec![0, 0, 0, 1, b'?'], Cause::Malformed),
        (&subscriber, None, vec![0, 0, 0, 0, b'S'], Cause::Malformed),
        (&subscriber, None, frame(Kind::Publish, &changed), Cause::AlteredPublication),
        (&subscriber, None, frame(Kind::Publish, &payload(publication(1, 80))[..70]), Cause::AlteredPublication),
    ];
    for (dialect, exchange, bytes, cause) in wrong {
        let (verdicts, _) = follow(dialect, &[exchange], &bytes, std::iter::repeat(1));
        assert_eq!(verdicts, [Verdict::Wrong(cause)], "{exchange:?} {bytes:?}");
    }
}

/// A message that is to be an echo has the bytes that were asked for, and a publication its own.
#[test]
fn what_is_said() {
    let (subscriber, publisher) = (dialect(Role::Subscriber), dialect(Role::Publisher));
    assert_eq!(asked(&subscriber, exchange(Purpose::Message)).len(), subscriber.longest_message());
    assert_eq!(asked(&subscriber, exchange(Purpose::Open(0))), frame(Kind::Subscribe, b""));
    assert!(!subscriber.open(7, 1, &mut Vec::new()) && !publisher.open(7, 1, &mut Vec::new()));
    let (one, mut bytes) = (publication(5, 200), Vec::new());
    assert!(!subscriber.publish(7, &one, &mut bytes) && bytes.is_empty());
    assert!(publisher.publish(7, &one, &mut bytes));
    assert_eq!(bytes, frame(Kind::Publish, &payload(one)));
}
