//! What is said, the life of connections cut anywhere, and each way to be wrong.

use proptest::prelude::*;
use serde_json::Value;

use super::super::tests::follow;
use super::*;
use crate::protocol::{Protocol, Role};

fn made(settings: Settings) -> Nats {
    Nats::new(&settings).unwrap()
}

fn subscribing(subjects: &[&str]) -> Nats {
    made(Settings { subscribe: subjects.iter().map(|subject| (*subject).to_owned()).collect(), ..Settings::default() })
}

fn exchange(purpose: Purpose) -> Exchange {
    Exchange { number: 7, round: if matches!(purpose, Purpose::Open(_)) { 0 } else { 3 }, purpose }
}

fn said(dialect: &Nats, purpose: Purpose) -> String {
    let mut bytes = Vec::new();
    match purpose {
        Purpose::Open(step) => assert!(dialect.open(7, step, &mut bytes)),
        _ => dialect.ask(exchange(purpose), &mut bytes),
    }
    String::from_utf8(bytes).unwrap()
}

/// The message of a server to what an exchange publishes. It says where an answer should go, if `reply` is not empty.
fn echo(dialect: &Nats, purpose: Purpose, reply: &str) -> String {
    let said = said(dialect, purpose);
    let (head, payload) = said.split_once("\r\n").unwrap();
    let [_, subject, length] = head.split(' ').collect::<Vec<_>>()[..] else { panic!("{said}") };
    format!("MSG {subject} 1 {reply} {length}\r\n{payload}")
}

fn publication(length: usize) -> Publication {
    Publication { run: 1, number: 2, instant: 3, length: length as u32 }
}

/// A message on the first of the further subjects with a publication in it, and bytes behind that.
fn pushed(length: usize, behind: &str) -> String {
    let mut payload = Vec::new();
    publication(length).write(&mut payload);
    let payload = String::from_utf8(payload).unwrap() + behind;
    format!("MSG news.today 2 {}\r\n{payload}\r\n", payload.len())
}

/// The verdicts that are not `Part`, and what was replied; the stream is not cut.
fn heard(dialect: &Nats, asked: Option<Purpose>, stream: &str) -> (Vec<Verdict>, Vec<u8>) {
    follow(dialect, &[asked.map(exchange)], stream.as_bytes(), std::iter::empty())
}

fn verdict(dialect: &Nats, asked: Option<Purpose>, stream: &str) -> Option<Verdict> {
    heard(dialect, asked, stream).0.last().copied()
}

#[test]
fn a_connection_says_who_it_is_and_subscribes() {
    let settings = Settings {
        user: Some("{n}\"\\\\é".to_owned()),
        password: Some("se\\ncret{n}".to_owned()),
        topic: Some("things.{n}.in".to_owned()),
        subscribe: vec!["room.*".to_owned(), "all.>".to_owned()],
        ..Settings::default()
    };
    let dialect = made(settings.clone());
    assert_eq!(said(&dialect, Purpose::Open(0)), "", "the server speaks first");
    let connect = said(&dialect, Purpose::Open(1));
    let [connect, rest @ ..] = &connect.split("\r\n").collect::<Vec<_>>()[..] else { panic!("{connect}") };
    assert_eq!(rest, ["SUB things.7.in 1", "SUB room.* 2", "SUB all.> 3", "PING", ""]);
    let options: Value = serde_json::from_str(connect.strip_prefix("CONNECT ").unwrap()).unwrap();
    assert_eq!((&options["user"], &options["pass"]), (&"7\"\\é".into(), &"se\ncret7".into()));
    assert_eq!(
        (&options["verbose"], &options["headers"], &options["name"]),
        (&false.into(), &false.into(), &"c1m7".into())
    );
    let token = format!("{:016x}", exchange(Purpose::Open(2)).token());
    assert_eq!(said(&dialect, Purpose::Open(2)), format!("PUB things.7.in 16\r\n{token}\r\n"));
    assert!(!dialect.open(7, 3, &mut Vec::new()));
    let alone = made(Settings { user: None, ..settings });
    let connect = said(&alone, Purpose::Open(1));
    assert!(connect.contains("\"auth_token\":\"se\\ncret7\"") && !connect.contains("\"pass\""), "{connect}");
}

#[test]
fn a_ping_proves_a_sign_of_life() {
    let dialect = made(Settings { proof: Some("ping".to_owned()), ..Settings::default() });
    assert_eq!(dialect.strength(), Strength::Liveness);
    assert!(said(&dialect, Purpose::Open(1)).ends_with("}\r\nPING\r\n"));
    assert!(!dialect.open(7, 2, &mut Vec::new()));
    for purpose in [Purpose::Audit, Purpose::Message, Purpose::Keepalive] {
        assert_eq!(said(&dialect, purpose), "PING\r\n");
        assert_eq!(verdict(&dialect, Some(purpose), "PONG\r\n"), Some(Verdict::Proof));
    }
}

proptest! {
    /// The whole life of a connection, with other lines and messages between the answers.
    #[test]
    fn a_server_is_understood_however_it_is_cut(
        payload in 16usize..300,
        reply in "[A-Z._]{0,9}",
        info in 0usize..6_000,
        others in prop::collection::vec((0usize..4, 1usize..5, 64usize..300), 0..8),
        cuts in prop::collection::vec(1usize..40, 0..400),
    ) {
        let settings = Settings { payload: Some(payload), subscribe: vec!["news.>".to_owned()], ..Settings::default() };
        let (dialect, info) = (made(settings), "\"a\":1,\r".repeat(info / 7));
        let purposes = [1, 2].map(Purpose::Open).into_iter().chain([Purpose::Audit, Purpose::Message]);
        let mut stream = format!("INFO {{{info}}}\r\n");
        let (mut asked, mut expected, mut pongs) = (vec![Some(exchange(Purpose::Open(0)))], vec![Verdict::Proof], 0);
        for (nth, purpose) in purposes.enumerate() {
            asked.push(Some(exchange(purpose)));
            for (_, kind, length) in others.iter().filter(|(when, ..)| *when == nth) {
                stream += &match kind {
                    1 => "ping\r\n".to_owned(),
                    2 => pushed(*length, "and more"),
                    3 => format!("msg\tnews.x  2\t{length}\r\n{}\r\n", "\r\n".repeat(*length)[..*length].to_owned()),
                    _ => format!("INFO {{{info}}}\r\n+ok\r\n"),
                };
                pongs += usize::from(*kind == 1);
                expected.push(if *kind == 2 { Verdict::Push(publication(*length)) } else { Verdict::Aside });
                expected.extend((*kind == 4).then_some(Verdict::Aside));
            }
            stream += &if nth == 0 { "PONG\r\n".to_owned() } else { echo(&dialect, purpose, &reply) };
            expected.push(Verdict::Proof);
        }
        stream += "PING\r\n-ERR 'Slow Consumer'\r\nwhat follows is not heard";
        asked.push(None);
        expected.extend([Verdict::Aside, Verdict::Ended(Cause::Nats(NatsError::SlowConsumer))]);
        let (verdicts, replied) = follow(&dialect, &asked, stream.as_bytes(), cuts.into_iter());
        prop_assert_eq!(verdicts, expected);
        prop_assert_eq!(replied, lines::PONG.repeat(pongs + 1));
    }

    /// Lines that are like those of a server, cut anywhere: the verdicts are the same.
    #[test]
    fn faults_are_found_however_they_are_cut(
        parts in prop::collection::vec(prop::sample::select(vec![
            "MSG", "PING", "INFO", "-ERR", "PO", "+OK", " ", "c1m.7", "1", "2", "16", "\r\n", "\n", "\r", "x", "\t", "00000000000000000000",
        ]), 0..30),
        asked in prop::option::of(prop::sample::select(vec![Purpose::Open(0), Purpose::Open(1), Purpose::Audit])),
        cuts in prop::collection::vec(1usize..9, 0..60),
    ) {
        let (dialect, stream) = (subscribing(&["news.>"]), parts.concat());
        let cut = follow(&dialect, &[asked.map(exchange)], stream.as_bytes(), cuts.into_iter());
        prop_assert_eq!(cut, heard(&dialect, asked, &stream));
    }
}

#[test]
fn what_a_server_must_not_say_is_found_out() {
    use Verdict::Wrong;
    let (dialect, audit) = (subscribing(&["news.>"]), Some(Purpose::Audit));
    let right = echo(&dialect, Purpose::Audit, "");
    let of_other = right.replace(&format!("{:016x}", exchange(Purpose::Audit).token()), "0123456789abcdef");
    let cases: [(Option<Purpose>, &str, Cause); 19] = [
        (audit, &of_other, Cause::WrongAnswer),
        (audit, "MSG c1m.7 1 17\r\n", Cause::WrongAnswer),
        (audit, "MSG c1m.7 3 16\r\n", Cause::WrongAnswer),
        (audit, "MSG c1m.7 0 16\r\n", Cause::WrongAnswer),
        (audit, "PONG\r\n", Cause::WrongAnswer),
        (None, &right, Cause::Unasked),
        (None, "PONG\r\n", Cause::Unasked),
        (Some(Purpose::Open(1)), &right, Cause::WrongAnswer),
        (Some(Purpose::Open(0)), "PING\r\n", Cause::Malformed),
        (Some(Purpose::Open(0)), "HTTP/1.1", Cause::Malformed),
        (Some(Purpose::Open(0)), "INFO {}\n", Cause::Malformed),
        (audit, &right.replace("\r\n", "\n"), Cause::Malformed),
        (audit, &(right.trim_end().to_owned() + "x"), Cause::Malformed),
        (audit, "MSG c1m.7 1 +16\r\n", Cause::Malformed),
        (audit, "MSG c1m.7 1\r\n", Cause::Malformed),
        (audit, "MSG c1m.7 1 a.b 16 16\r\n", Cause::Malformed),
        (audit, "HMSG c1m.7 1 12 28\r\n", Cause::Malformed),
        (audit, "PING now\r\n", Cause::Malformed),
        (audit, "MSG news.x 2 67108865\r\n", Cause::AnswerTooLong),
    ];
    for (asked, stream, cause) in cases {
        assert_eq!(verdict(&dialect, asked, stream), Some(Wrong(cause)), "{asked:?} {stream:?}");
    }
    assert_eq!(verdict(&dialect, audit, &right), Some(Verdict::Proof));
    let altered = pushed(100, "").replace("ABC", "AbC");
    assert_eq!(verdict(&dialect, None, &altered), Some(Wrong(Cause::AlteredPublication)));
}

/// Nothing is kept of what is too long, and an INFO of any length takes 8 bytes.
#[test]
fn lengths_are_bounded() {
    let (dialect, open) = (made(Settings::default()), Some(Purpose::Open(0)));
    let too_long = Some(Verdict::Wrong(Cause::AnswerTooLong));
    let line = |length: usize| format!("-ERR '{}'\r\n", "x".repeat(length - 7));
    assert_eq!(verdict(&dialect, open, &line(4_096)), Some(Verdict::Ended(Cause::Nats(NatsError::Other))));
    assert_eq!(verdict(&dialect, open, &line(4_097)), too_long);
    assert_eq!(verdict(&dialect, open, &"MSG".repeat(5_000)), too_long);
    let info = |length: usize| format!("INFO {}\r\n", "x".repeat(length - 7));
    assert_eq!(verdict(&dialect, open, &info(64 << 10)), Some(Verdict::Proof));
    assert_eq!(verdict(&dialect, open, &info((64 << 10) + 1)), too_long);
    let (mut position, mut scratch) = (Position::default(), Scratch::default());
    let begun = &info(60_000).into_bytes()[..50_000];
    assert_eq!(dialect.hear(open.map(exchange), &mut position, begun, &mut scratch).verdict, Verdict::Part);
    assert!(scratch.kept.is_empty());
}

/// A publisher publishes to the subject that it was told, and subscribes to its own alone.
#[test]
fn a_publisher_publishes_to_the_common_subject() {
    let settings = |role| Settings {
        subscribe: vec!["all".to_owned()],
        publish: Some("all".to_owned()),
        role,
        ..Settings::default()
    };
    let [subscriber, publisher] = [Role::Subscriber, Role::Publisher].map(|role| made(settings(role)));
    let mut line = Vec::new();
    assert!(!subscriber.publish(7, &publication(100), &mut line) && line.is_empty());
    assert!(publisher.publish(7, &publication(100), &mut line));
    let expected = pushed(100, "").replace("MSG news.today 2", "PUB all");
    assert_eq!(String::from_utf8(line).unwrap(), expected);
    let subscriptions = |dialect| said(dialect, Purpose::Open(1)).matches("\r\nSUB ").count();
    assert_eq!([subscriptions(&subscriber), subscriptions(&publisher)], [2, 1]);
    assert!(!publisher.is_acknowledged());
}

#[test]
fn what_cannot_be_is_refused() {
    type Change = fn(&mut Settings);
    let cases: [(Change, &[&str]); 15] = [
        (|s| s.proof = Some("echo".into()), &["`proof`", "publish or ping"]),
        (|s| s.topic = Some("me".into()), &["`topic` \"me\"", "all others", "put {n}"]),
        (|s| s.topic = Some("t.{n}.>".into()), &["`topic`", "wildcard"]),
        (|s| s.topic = Some("t.*.{n}".into()), &["`topic`", "wildcard"]),
        (|s| s.topic = Some("t..{n}".into()), &["`topic`", "none of them is empty"]),
        (|s| s.topic = Some("t {n}".into()), &["`topic`", "blank"]),
        (|s| s.topic = Some("{n}.{round}".into()), &["`topic`", "subscribes once"]),
        (|s| s.topic = Some("{n}".to_owned() + &"a".repeat(4_000)), &["`topic`", "4,096 bytes"]),
        (|s| s.subscribe = vec!["a.>.b".into()], &["`subscribe`", "at the end"]),
        (|s| s.subscribe = vec!["{m}".into()], &["`subscribe`, character 1", "no placeholder"]),
        (|s| s.subscribe = vec!["a.{token}".into()], &["`subscribe`", "subscribes once"]),
        (|s| s.user = Some(r"\xff".into()), &["`user`", "UTF-8"]),
        (|s| s.user = Some(r"\x01".repeat(700)), &["`user`", "4,096 bytes", "shorten"]),
        (|s| (s.proof, s.topic) = (Some("ping".into()), Some("{n}".into())), &["`topic` with `proof` ping"]),
        (|s| s.payload = Some(15), &["`payload` 15", "between 16 and 60000"]),
    ];
    for (change, named) in cases {
        let mut settings = Settings::default();
        change(&mut settings);
        let error = Protocol::new("nats", &settings).unwrap_err().to_string();
        assert!(named.iter().all(|words| error.contains(words)), "{error}: {named:?}");
        assert!(!error.contains('\n'));
    }
    // Words with wildcards within them are words like others.
    assert!(Protocol::new("nats", &Settings { topic: Some("a*b.c>.{n}".into()), ..Settings::default() }).is_ok());
    let secret = Settings { password: Some(r"hidden\xff".into()), ..Settings::default() };
    let error = Protocol::new("nats", &secret).unwrap_err().to_string();
    assert!(error.contains("`password`") && !error.contains("hidden"), "{error}");
    let foreign = Settings { topic: Some("a".into()), ..Settings::default() };
    let error = Protocol::new("raw", &foreign).unwrap_err().to_string();
    assert!(error.contains("`topic` with `protocol` raw") && error.contains("mqtt or nats"), "{error}");
}
