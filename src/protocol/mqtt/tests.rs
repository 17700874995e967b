//! The packets held against those of another codec, the life of connections cut anywhere, and each way to be wrong.

mod connack;
mod fanout;
mod filters;
mod oracle;

use mqtt_proto::{Pid, QoS, QosPid, TopicName, v5};
use proptest::prelude::*;

use super::super::tests::follow;
use super::*;
use crate::protocol::{Protocol, Publication};
use oracle::options;

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Connack { session: bool, code: u8 },
    Suback { identifier: u16, codes: Vec<u8> },
    Puback { identifier: u16, code: u8 },
    Publish { topic: String, identifier: Option<u16>, repeated: bool, retained: bool, payload: Vec<u8> },
    Pingresp,
    Disconnect(u8),
}

const ACCEPTED: Said = Said::Connack { session: false, code: 0 };

fn pid(identifier: u16) -> Pid {
    Pid::try_from(identifier).unwrap()
}

fn spoken(version: Version) -> mqtt_proto::Protocol {
    if version == Version::V3 { mqtt_proto::Protocol::V311 } else { mqtt_proto::Protocol::V500 }
}

impl Said {
    /// A message that comes for the first time.
    fn message(topic: &str, identifier: Option<u16>, payload: &[u8]) -> Said {
        let (topic, payload) = (topic.to_owned(), payload.to_owned());
        Said::Publish { topic, identifier, repeated: false, retained: false, payload }
    }

    /// Its bytes by the other codec. In MQTT 5 it has properties that hold `texts`.
    fn bytes(&self, version: Version, texts: &[String]) -> Vec<u8> {
        oracle::write(spoken(version), &self.packet(texts))
    }

    fn packet(&self, texts: &[String]) -> v5::Packet {
        let both = |text: &String| v5::UserProperty { name: text.as_str().into(), value: text.as_str().into() };
        let properties = || texts.iter().map(both).collect::<Vec<_>>();
        let reason = || texts.first().map(|text| text.as_str().into());
        match self.clone() {
            Said::Connack { session, code } => {
                let mut connack = v5::Connack::new(session, v5::ConnectReasonCode::from_u8(code).unwrap());
                connack.properties.user_properties = properties();
                connack.properties.reason_string = reason();
                connack.properties.assigned_client_id = reason();
                connack.properties.topic_alias_max = Some(texts.len() as u16);
                connack.properties.session_expiry_interval = Some(u32::MAX);
                connack.properties.retain_available = Some(true);
                v5::Packet::Connack(connack)
            }
            Said::Suback { identifier, codes } => {
                let codes = codes.into_iter().map(|code| v5::SubscribeReasonCode::from_u8(code).unwrap());
                let mut suback = v5::Suback::new(pid(identifier), codes.collect());
                suback.properties.user_properties = properties();
                v5::Packet::Suback(suback)
            }
            Said::Puback { identifier, code } => {
                let mut puback = v5::Puback::new(pid(identifier), v5::PubackReasonCode::from_u8(code).unwrap());
                puback.properties.reason_string = reason();
                v5::Packet::Puback(puback)
            }
            Said::Publish { topic, identifier, repeated, retained, payload } => {
                let quality = identifier.map_or(QosPid::Level0, |identifier| QosPid::Level1(pid(identifier)));
                let mut publish = v5::Publish::new(quality, TopicName::try_from(&*topic).unwrap(), payload.into());
                (publish.dup, publish.retain) = (repeated, retained);
                publish.properties.user_properties = properties();
                publish.properties.content_type = reason();
                v5::Packet::Publish(publish)
            }
            Said::Pingresp => v5::Packet::Pingresp,
            Said::Disconnect(code) => {
                let mut disconnect = v5::Disconnect::new(v5::DisconnectReasonCode::from_u8(code).unwrap());
                disconnect.properties.reason_string = reason();
                v5::Packet::Disconnect(disconnect)
            }
        }
    }
}

/// All packets that a client says.
fn packets_in(version: Version, mut bytes: &[u8]) -> Vec<v5::Packet> {
    let mut packets = Vec::new();
    while !bytes.is_empty() {
        let (packet, length) = oracle::read(spoken(version), bytes).unwrap();
        packets.push(packet);
        bytes = &bytes[length..];
    }
    packets
}

fn made(settings: MqttSettings) -> Mqtt {
    Mqtt::new(&Settings { mqtt: settings, ..Settings::default() }).unwrap()
}

fn publication(number: usize) -> Publication {
    Publication { run: 1, number: number as u32, instant: 2, length: 100 }
}

fn subscribing(filters: &[&str], mqtt: MqttSettings) -> Mqtt {
    let subscribe = filters.iter().map(|filter| (*filter).to_owned()).collect();
    Mqtt::new(&Settings { mqtt, subscribe, ..Settings::default() }).unwrap()
}

fn settings(version: Version, qos: u8) -> MqttSettings {
    let version = if version == Version::V3 { "3.1.1" } else { "5" };
    MqttSettings { version: Some(version.to_owned()), qos: Some(qos), ..MqttSettings::default() }
}

fn exchange(purpose: Purpose) -> Exchange {
    Exchange { number: 7, round: if matches!(purpose, Purpose::Open(_)) { 0 } else { 3 }, purpose }
}

/// What the dialect says in an exchange, read by the other codec.
fn said(dialect: &Mqtt, purpose: Purpose) -> v5::Packet {
    let mut bytes = Vec::new();
    match purpose {
        Purpose::Open(step) => assert!(dialect.open(7, step, &mut bytes)),
        _ => dialect.ask(exchange(purpose), &mut bytes),
    }
    let mut packets = packets_in(dialect.version, &bytes);
    assert_eq!(packets.len(), 1);
    packets.remove(0)
}

/// The answers of a server to an exchange that publishes.
fn echo(dialect: &Mqtt, purpose: Purpose) -> Vec<Said> {
    let exchange = exchange(purpose);
    let mut payload = Vec::new();
    dialect.payload(exchange).write(&mut payload);
    let message = Said::message("c1m/7", dialect.at_least_once.then_some(9), &payload);
    let puback = Said::Puback { identifier: Mqtt::identifier(exchange), code: 0 };
    [vec![message], dialect.at_least_once.then_some(puback).into_iter().collect()].concat()
}

fn suback(dialect: &Mqtt) -> Said {
    let codes = vec![dialect.at_least_once.into(); dialect.filters.len()];
    Said::Suback { identifier: Mqtt::identifier(exchange(Purpose::Open(1))), codes }
}

/// The verdict on what a server says, whole, while an exchange awaits its answer.
fn heard(dialect: &Mqtt, asked: Option<Exchange>, stream: &[u8]) -> Verdict {
    let (mut position, mut scratch, mut from) = (Position::default(), Scratch::default(), 0);
    while from < stream.len() {
        let heard = dialect.hear(asked, &mut position, &stream[from..], &mut scratch);
        if !matches!(heard.verdict, Verdict::Part | Verdict::Aside | Verdict::Push(_)) {
            return heard.verdict;
        }
        from += heard.used;
    }
    Verdict::Part
}

fn text() -> impl Strategy<Value = String> {
    "[a-z0-9éß{}/]{0,12}".prop_map(|text| text.replace('{', "{{").replace('}', "}}"))
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V3), Just(Version::V5)]
}

/// What a template of literals makes: a brace that stands for itself is no beginning of `{n}`.
fn plain(text: &str) -> String {
    text.replace("{{", "\0").replace("{n}", "7").replace('\0', "{").replace("}}", "}")
}

proptest! {
    #[test]
    fn another_codec_reads_what_a_connection_says_first(
        version in version(),
        client in text(),
        user in prop::option::of(text()),
        password in prop::option::of(text()),
        will in prop::option::of((text(), text())),
        session in prop::sample::select(vec!["clean", "keep", "resume"]),
        expiry in prop::option::of(1u32..),
        keepalive in prop::option::of(1u16..),
        qos in 0u8..2,
    ) {
        let (is_v3, clean) = (version == Version::V3, session == "clean");
        let password = password.filter(|_| user.is_some() || !is_v3);
        let expiry = expiry.filter(|_| !is_v3);
        let (client, will) = (format!("{client}{{n}}"), will.map(|(topic, message)| (format!("w{topic}"), message)));
        let mqtt = MqttSettings {
            client_id: Some(client.clone()),
            session: Some(session.to_owned()),
            session_expiry: expiry.map(u64::from),
            keepalive: keepalive.map(u64::from),
            will_topic: will.as_ref().map(|(topic, _)| topic.clone()),
            will_message: will.as_ref().map(|(_, message)| message.clone()),
            ..settings(version, qos)
        };
        let settings = Settings { user: user.clone(), password: password.clone(), mqtt, ..Settings::default() };
        let dialect = Mqtt::new(&settings).unwrap();
        let quality = QoS::from_u8(qos).unwrap();
        let mut expected = v5::Connect::new(plain(&client).as_str().into(), keepalive.unwrap_or(0));
        expected.protocol = spoken(version);
        expected.clean_start = clean;
        let kept = expiry.or((!clean).then_some(3_600)).filter(|_| !is_v3);
        expected.properties.session_expiry_interval = kept;
        expected.username = user.map(|user| plain(&user).as_str().into());
        expected.password = password.map(|password| plain(&password).into_bytes().into());
        expected.last_will = will.map(|(topic, message)| {
            let topic = plain(&topic).as_str().try_into().unwrap();
            v5::LastWill::new(quality, topic, plain(&message).into_bytes().into())
        });
        prop_assert_eq!(said(&dialect, Purpose::Open(0)), v5::Packet::Connect(expected));
    }

    #[test]
    fn another_codec_reads_subscriptions_and_messages(
        version in version(),
        qos in 0u8..2,
        topics in 1u32..200,
        payload in 16usize..20_000,
    ) {
        let mqtt = MqttSettings {
            topics: Some(topics),
            ..settings(version, qos)
        };
        let subscribe = vec!["news/{topic}/{n}".to_owned(), "all/#".to_owned()];
        let dialect = Mqtt::new(&Settings { mqtt, subscribe, payload: Some(payload), ..Settings::default() }).unwrap();
        let quality = QoS::from_u8(qos).unwrap();
        let news = (1..=topics).map(|topic| format!("news/{topic}/7"));
        let filters = ["c1m/7".to_owned()].into_iter().chain(news).chain(["all/#".to_owned()]);
        let filters = filters.map(|filter| (filter.as_str().try_into().unwrap(), options(quality)));
        let own_pid = |exchange| pid(Mqtt::identifier(exchange));
        let subscribe = v5::Subscribe::new(own_pid(exchange(Purpose::Open(1))), filters.collect());
        prop_assert_eq!(said(&dialect, Purpose::Open(1)), v5::Packet::Subscribe(subscribe));
        for purpose in [Purpose::Open(2), Purpose::Audit, Purpose::Message] {
            let v5::Packet::Publish(publish) = said(&dialect, purpose) else { panic!("no PUBLISH") };
            let length = if purpose == Purpose::Message { payload } else { 16 };
            prop_assert_eq!((&*publish.topic_name, publish.payload.len()), ("c1m/7", length));
            let identifier = (qos == 1).then(|| own_pid(exchange(purpose)));
            prop_assert_eq!(publish.qos_pid.pid(), identifier);
            let token = format!("{:016x}", exchange(purpose).token());
            prop_assert!(publish.payload.starts_with(token.as_bytes()));
        }
    }

    /// The whole life of a connection, written by the other codec with texts of any length in its properties, and
    /// with other messages between the answers.
    #[test]
    fn what_another_codec_writes_is_understood_however_it_is_cut(
        version in version(),
        qos in 0u8..2,
        texts in prop::collection::vec("[a-zé]{0,150}", 0..3),
        payload in 16usize..300,
        others in prop::collection::vec((0u8..5, prop::option::of(1u16..), 0usize..300), 0..8),
        acknowledged_first: bool,
        cuts in prop::collection::vec(1usize..40, 0..200),
    ) {
        let (mqtt, subscribe) = (settings(version, qos), vec!["#".to_owned()]);
        let dialect = Mqtt::new(&Settings { mqtt, subscribe, payload: Some(payload), ..Settings::default() }).unwrap();
        let purposes = [Purpose::Open(0), Purpose::Open(1), Purpose::Open(2), Purpose::Audit, Purpose::Message];
        let asked: Vec<_> = purposes.into_iter().map(|purpose| Some(exchange(purpose))).chain([None]).collect();
        let mut stream = ACCEPTED.bytes(version, &texts);
        let mut identifiers = Vec::new();
        for (nth, purpose) in purposes.into_iter().enumerate().skip(1) {
            for (_, identifier, length) in others.iter().filter(|(when, ..)| usize::from(*when) == nth) {
                let topic = if length % 2 == 0 { "c1m/8" } else { "a/very/different/topic" };
                let mut payload = Vec::new();
                // Those of an odd length are publications.
                if length % 2 == 1 {
                    publication(*length).write(&mut payload);
                }
                payload.resize(payload.len() + length, b'x');
                stream.extend(Said::message(topic, *identifier, &payload).bytes(version, &texts));
                stream.extend(Said::Pingresp.bytes(version, &texts));
                identifiers.extend(identifier);
            }
            let mut answers = if nth == 1 { vec![suback(&dialect)] } else { echo(&dialect, purpose) };
            if acknowledged_first {
                answers.reverse();
            }
            identifiers.extend((nth > 1 && qos == 1).then_some(9));
            answers.iter().for_each(|answer| stream.extend(answer.bytes(version, &texts)));
        }
        stream.extend(Said::message("late", Some(77), b"").bytes(version, &texts));
        let (verdicts, replied) = follow(&dialect, &asked, &stream, cuts.into_iter());
        let proofs = verdicts.iter().filter(|verdict| **verdict == Verdict::Proof).count();
        prop_assert_eq!(proofs, 5, "{:?}", verdicts);
        prop_assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Proof | Verdict::Aside | Verdict::Push(_))));
        let pushed = verdicts.iter().filter_map(|verdict| match verdict {
            Verdict::Push(publication) => Some(*publication),
            _ => None,
        });
        let published = (1..5).flat_map(|nth| others.iter().filter(move |(when, ..)| *when == nth));
        let published = published.map(|(.., length)| *length).filter(|length| length % 2 == 1).map(publication);
        prop_assert_eq!(pushed.collect::<Vec<_>>(), published.collect::<Vec<_>>());
        let pubacks = packets_in(version, &replied).into_iter().map(|packet| match packet {
            v5::Packet::Puback(puback) => puback.pid.value(),
            other => panic!("{other:?} is no PUBACK"),
        });
        prop_assert_eq!(pubacks.collect::<Vec<_>>(), [identifiers, vec![77]].concat());
    }

    /// The verdict on a message does not depend on the length of what is around it: lengths take 1 to 3 bytes.
    #[test]
    fn lengths_of_any_size_are_read(payload in 16usize..40_000, text in 0usize..40_000, version in version()) {
        let mqtt = settings(version, 0);
        let dialect = Mqtt::new(&Settings { mqtt, payload: Some(payload), ..Settings::default() }).unwrap();
        let texts = ["x".repeat(text)];
        let message = echo(&dialect, Purpose::Message)[0].bytes(version, &texts);
        let asked = Some(exchange(Purpose::Message));
        prop_assert_eq!(heard(&dialect, asked, &message), Verdict::Proof);
        // Of another payload's length it is another message.
        let shorter = Said::message("c1m/7", None, &vec![b'x'; payload - 1]).bytes(version, &texts);
        prop_assert_eq!(heard(&dialect, asked, &shorter), Verdict::Wrong(Cause::WrongAnswer));
    }
}

// ---- refusals -------------------------------------------------------------------------------------

fn reason(packet: MqttPacket, code: u8) -> Verdict {
    Verdict::Ended(Cause::Mqtt(MqttReason { packet, code }))
}

#[test]
fn a_refusal_is_given_by_its_reason() {
    let (v3, v5) = (made(settings(Version::V3, 1)), made(settings(Version::V5, 1)));
    let connect = Some(exchange(Purpose::Open(0)));
    for code in 0x84..=0x88 {
        let bytes = Said::Connack { session: false, code }.bytes(Version::V3, &[]);
        assert_eq!(heard(&v3, connect, &bytes), reason(MqttPacket::Connack, code));
    }
    let texts = ["too many of you".to_owned()];
    for code in [0x80, 0x86, 0x89, 0x9f] {
        let bytes = Said::Connack { session: false, code }.bytes(Version::V5, &texts);
        assert_eq!(heard(&v5, connect, &bytes), reason(MqttPacket::Connack, code));
    }
    let subscribe = Some(exchange(Purpose::Open(1)));
    let identifier = Mqtt::identifier(exchange(Purpose::Open(1)));
    for (dialect, code) in [(&v3, 0x80), (&v5, 0x87)] {
        let bytes = Said::Suback { identifier, codes: vec![code] }.bytes(dialect.version, &texts);
        assert_eq!(heard(dialect, subscribe, &bytes), reason(MqttPacket::Suback, code));
    }
    let audit = exchange(Purpose::Audit);
    for code in [0x10, 0x97] {
        let bytes = Said::Puback { identifier: Mqtt::identifier(audit), code }.bytes(Version::V5, &texts);
        assert_eq!(heard(&v5, Some(audit), &bytes), reason(MqttPacket::Puback, code));
    }
    for code in [0x00, 0x8b, 0x8e] {
        let bytes = Said::Disconnect(code).bytes(Version::V5, &texts);
        for asked in [None, subscribe, Some(audit)] {
            assert_eq!(heard(&v5, asked, &bytes), reason(MqttPacket::Disconnect, code));
        }
    }
}

/// A resumed session has its subscriptions: the connection's first message proves it.
#[test]
fn a_resumed_session_is_not_subscribed_again() {
    let dialect = made(MqttSettings { session: Some("resume".to_owned()), ..MqttSettings::default() });
    assert!(matches!(said(&dialect, Purpose::Open(1)), v5::Packet::Publish(_)));
    assert!(!dialect.open(7, 2, &mut Vec::new()));
}

/// Two topics may have a part of a character in common.
#[test]
fn a_topic_differs_within_a_character() {
    let mqtt = MqttSettings { session: Some("keep".to_owned()), ..settings(Version::V3, 0) };
    let dialect = Mqtt::new(&Settings { topic: Some("é{n}".to_owned()), mqtt, ..Settings::default() }).unwrap();
    let audit = Some(exchange(Purpose::Audit));
    let other = Said::message("è7", None, b"x").bytes(Version::V3, &[]);
    assert_eq!(heard(&dialect, audit, &other), Verdict::Part);
    let cut = Said::message("é7", None, b"x").bytes(Version::V3, &[]);
    let cut: Vec<u8> = cut.iter().map(|byte| if *byte == 0xa9 { b'x' } else { *byte }).collect();
    assert_eq!(heard(&dialect, audit, &cut), Verdict::Wrong(Cause::Malformed));
}

/// A server that mixes up its connections is found out. Where other messages may come, they are passed over.
#[test]
fn a_message_of_another_connection_is_wrong() {
    let strict = made(settings(Version::V5, 0));
    let audit = Some(exchange(Purpose::Audit));
    let wrong = Verdict::Wrong(Cause::WrongAnswer);
    let stale = {
        let mut payload = Vec::new();
        strict.payload(Exchange { round: 2, ..exchange(Purpose::Audit) }).write(&mut payload);
        payload
    };
    for topic in ["c1m/7", "c1m/8", "c1m/70"] {
        let bytes = Said::message(topic, None, &stale).bytes(Version::V5, &[]);
        assert_eq!(heard(&strict, audit, &bytes), wrong, "{topic}");
        let lax = ["keep", "resume"]
            .map(|session| made(MqttSettings { session: Some(session.to_owned()), ..MqttSettings::default() }));
        let further = subscribing(&["c1m/#"], MqttSettings::default());
        for dialect in lax.iter().chain([&further]) {
            assert_eq!(heard(dialect, audit, &bytes), Verdict::Part, "{topic}");
        }
    }
    for (repeated, retained) in [(true, false), (false, true)] {
        let (topic, payload, identifier) = ("c1m/7".to_owned(), stale.clone(), Some(4));
        let old = Said::Publish { topic, identifier, repeated, retained, payload };
        assert_eq!(heard(&strict, audit, &old.bytes(Version::V5, &[])), Verdict::Part);
    }
    // While nothing is asked no topic is known.
    let unasked = Said::message("c1m/8", None, &stale).bytes(Version::V5, &[]);
    assert_eq!(heard(&strict, None, &unasked), Verdict::Part);
}

#[test]
fn a_ping_is_a_sign_of_life() {
    for version in [Version::V3, Version::V5] {
        let (mqtt, proof) = (settings(version, 0), Some("ping".to_owned()));
        let dialect = Mqtt::new(&Settings { mqtt, proof, ..Settings::default() }).unwrap();
        assert_eq!(dialect.strength(), Strength::Liveness);
        assert!(!dialect.open(7, 1, &mut Vec::new()), "CONNACK is its first proof");
        assert_eq!(said(&dialect, Purpose::Audit), v5::Packet::Pingreq);
        let pong = Said::Pingresp.bytes(version, &[]);
        assert_eq!(heard(&dialect, Some(exchange(Purpose::Audit)), &pong), Verdict::Proof);
        let publishing = made(settings(version, 1));
        assert_eq!(said(&publishing, Purpose::Keepalive), v5::Packet::Pingreq);
        assert_eq!(heard(&publishing, Some(exchange(Purpose::Keepalive)), &pong), Verdict::Proof);
        assert_eq!(heard(&dialect, None, &pong), Verdict::Part);
        assert_eq!(heard(&dialect, Some(exchange(Purpose::Open(0))), &pong), Verdict::Wrong(Cause::Malformed));
    }
    let strength = made(MqttSettings::default()).strength();
    assert_eq!(strength, Strength::EndToEnd);
}

#[test]
fn what_no_server_may_say_is_malformed() {
    let (v3, v5) = (made(settings(Version::V3, 1)), made(settings(Version::V5, 1)));
    let purposes = [Purpose::Open(0), Purpose::Open(1), Purpose::Audit];
    let [connect, subscribe, audit] = purposes.map(|purpose| Some(exchange(purpose)));
    let identifier = Mqtt::identifier(exchange(Purpose::Open(1))).to_be_bytes();
    let [high, low] = identifier;
    let malformed: [(&Mqtt, Option<Exchange>, &[u8]); 15] = [
        (&v5, connect, &[0xd0, 0]),
        (&v3, subscribe, &[0x90, 4, high, low, 1, 1]),
        (&v3, subscribe, &[0x90, 2, high, low]),
        (&v3, subscribe, &[0x90, 3, high, low, 2]),
        (&v5, subscribe, &[0x90, 5, high, low, 0, 0, 0]),
        (&v5, subscribe, &[0x90, 5, high, low, 2, 0, 0]),
        (&v3, subscribe, &[0x90, 3, 0, 0, 1]),
        (&v3, audit, &[0xe0, 0]),
        (&v3, audit, &[0x34, 2, 0, 0]),
        (&v3, audit, &[0x30, 2, 0, 0]),
        (&v5, audit, &[0x30, 4, 0, 2, b'a', 0]),
        (&v3, audit, &[0x30, 3, 0, 1, b'#']),
        (&v3, None, &[0x30, 4, 0, 2, 0xc3, 0x28]),
        (&v3, None, &[0x30, 3, 0, 1, 0xc3]),
        (&v5, audit, &[0xd0, 1, 0]),
    ];
    for (dialect, asked, bytes) in malformed {
        let bytes = [bytes, &[0; 3]].concat();
        assert_eq!(heard(dialect, asked, &bytes), Verdict::Wrong(Cause::Malformed), "{bytes:x?}");
    }
    // Another packet is answered than was sent.
    let other = Mqtt::identifier(exchange(Purpose::Audit)) ^ 1;
    let bytes = Said::Puback { identifier: other.max(1), code: 0 }.bytes(Version::V5, &[]);
    assert_eq!(heard(&v5, audit, &bytes), Verdict::Wrong(Cause::WrongAnswer));
    for said in [ACCEPTED, suback(&v5), Said::Puback { identifier: 5, code: 0 }] {
        assert_eq!(heard(&v5, None, &said.bytes(Version::V5, &[])), Verdict::Wrong(Cause::Unasked));
        assert_eq!(heard(&v5, connect, &suback(&v5).bytes(Version::V5, &[])), Verdict::Wrong(Cause::Malformed));
    }
}

// ---- settings -----------------------------------------------------------------------------------

#[test]
fn settings_that_cannot_be_are_refused() {
    type Change = fn(&mut Settings);
    let cases: [(Change, &[&str]); 24] = [
        (|s| s.mqtt.version = Some("4".into()), &["`mqtt-version` \"4\"", "none of the words", "5 or 3.1.1"]),
        (|s| s.mqtt.session = Some("new".into()), &["`session`", "clean or keep or resume"]),
        (|s| s.proof = Some("echo".into()), &["`proof`", "publish or ping"]),
        (|s| s.mqtt.qos = Some(2), &["`qos` 2", "use 0 or 1"]),
        (|s| s.mqtt.client_id = Some("me".into()), &["`client-id` \"me\"", "same identifier", "put {n}"]),
        (
            |s| (s.mqtt.client_id, s.mqtt.session) = (Some("".into()), Some("keep".into())),
            &["`client-id`", "found again"],
        ),
        (|s| s.mqtt.client_id = Some(r"a\x00{n}".into()), &["`client-id`", "UTF-8"]),
        (|s| s.user = Some(r"\xff".into()), &["`user`", "UTF-8"]),
        (|s| s.user = Some("{m}".into()), &["`user`, character 1", "no placeholder"]),
        (|s| (s.mqtt.version, s.password) = (Some("3.1.1".into()), Some("x".into())), &["`password` without `user`"]),
        (|s| s.mqtt.will_topic = Some("w".into()), &["`will-topic` without `will-message`"]),
        (|s| s.mqtt.will_message = Some("w".into()), &["`will-message` without `will-topic`"]),
        (|s| s.topic = Some("t".into()), &["`topic` \"t\"", "all others", "put {n}"]),
        (|s| s.topic = Some("t/{n}/#".into()), &["`topic`", "wildcard"]),
        (|s| s.topic = Some("t/{n}/{round}".into()), &["`topic`", "subscribes once"]),
        (|s| s.topic = Some(String::new()), &["`topic` \"\"", "a topic has a name"]),
        (|s| s.subscribe = vec!["a#".into()], &["`subscribe` \"a#\"", "whole level"]),
        (|s| s.subscribe = vec!["#/a".into()], &["`subscribe`", "at the end"]),
        (|s| s.mqtt.topics = Some(5), &["`topics` without `subscribe`", "{topic}"]),
        (
            |s| (s.mqtt.topics, s.subscribe) = (Some(9_999), vec!["n/{topic}".into()]),
            &["`subscribe` of 10000", "65,535"],
        ),
        (|s| (s.proof, s.topic) = (Some("ping".into()), Some("{n}".into())), &["`topic` with `proof` ping"]),
        (|s| s.mqtt.keepalive = Some(65_536), &["`mqtt-keepalive` 65536s", "65,535 seconds"]),
        (
            |s| (s.mqtt.version, s.mqtt.session_expiry) = (Some("3.1.1".into()), Some(1)),
            &["`session-expiry` with `mqtt-version` 3.1.1"],
        ),
        (|s| s.payload = Some(15), &["`payload` 15", "between 16 and 60000"]),
    ];
    for (change, named) in cases {
        let mut settings = Settings::default();
        change(&mut settings);
        let error = Protocol::new("mqtt", &settings).unwrap_err().to_string();
        assert!(named.iter().all(|words| error.contains(words)), "{error}: {named:?}");
        assert!(!error.contains('\n'));
    }
    let foreign = Settings { mqtt: settings(Version::V5, 0), ..Settings::default() };
    let error = Protocol::new("raw", &foreign).unwrap_err().to_string();
    assert!(error.contains("`mqtt-version` with `protocol` raw"), "{error}");
}

/// A brace that is doubled is a brace, also before the word.
#[test]
fn topics_are_counted() {
    let settings = MqttSettings { topics: Some(2), ..MqttSettings::default() };
    let dialect = subscribing(&["a/{topic}/{n}", "{{topic}}"], settings);
    let v5::Packet::Subscribe(subscribe) = said(&dialect, Purpose::Open(1)) else { panic!("no SUBSCRIBE") };
    let filters: Vec<String> = subscribe.topics.iter().map(|(filter, _)| filter.to_string()).collect();
    assert_eq!(filters, ["c1m/7", "a/1/7", "a/2/7", "{topic}"]);
}

#[test]
fn a_goodbye_ends_the_connection_in_order() {
    let dialect = made(MqttSettings::default());
    let mut bytes = Vec::new();
    dialect.goodbye(7, &mut bytes);
    let said = packets_in(Version::V5, &bytes);
    assert_eq!(said, [v5::Packet::Disconnect(v5::Disconnect::new_normal())]);
    // Nothing is answered any more, not even a message.
    let (mut position, mut scratch) = (Position::default(), Scratch::default());
    let bytes = Said::message("c1m/7", Some(4), b"late").bytes(Version::V5, &[]);
    let heard = dialect.hear(Some(exchange(Purpose::Goodbye)), &mut position, &bytes, &mut scratch);
    assert_eq!((heard.verdict, scratch.reply.len()), (Verdict::Aside, 0));
}
