//! `mqtt` in a fan-out: what subscribers and publishers say.

use super::*;
use crate::protocol::Role;

/// A publisher publishes to the topic that it was told, and subscribes to its own alone.
#[test]
fn a_publisher_publishes_to_the_common_topic() {
    let settings = |role, qos| Settings {
        mqtt: settings(Version::V5, qos),
        subscribe: vec!["all".to_owned()],
        publish: Some("all".to_owned()),
        role,
        ..Settings::default()
    };
    let [subscriber, publisher] =
        [Role::Subscriber, Role::Publisher].map(|role| Mqtt::new(&settings(role, 0)).unwrap());
    let mut packet = Vec::new();
    assert!(!subscriber.publish(7, &publication(1), &mut packet) && packet.is_empty());
    assert!(publisher.publish(7, &publication(1), &mut packet));
    let [v5::Packet::Publish(publish)] = &packets_in(Version::V5, &packet)[..] else { panic!("no PUBLISH") };
    assert_eq!((publish.topic_name.to_string(), publish.payload.len()), ("all".to_owned(), 100));
    let filters = |dialect| match said(dialect, Purpose::Open(1)) {
        v5::Packet::Subscribe(subscribe) => subscribe.topics.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!([filters(&subscriber), filters(&publisher)], [2, 1]);
    assert!(!publisher.is_acknowledged());
}

/// At quality of service 1 a publication is an exchange: its PUBACK ends it, and no other packet does. What comes on the
/// publisher's own topic meanwhile is passed over.
#[test]
fn a_publication_at_quality_1_awaits_its_acknowledgement() {
    for version in [Version::V3, Version::V5] {
        let settings = Settings {
            mqtt: settings(version, 1),
            publish: Some("all".to_owned()),
            role: Role::Publisher,
            ..Settings::default()
        };
        let publisher = Mqtt::new(&settings).unwrap();
        assert!(publisher.is_acknowledged());
        let publishing = |number| Exchange { number: 7, round: number, purpose: Purpose::Publish };
        let mut bytes = Vec::new();
        publisher.publish(7, &publication(1), &mut bytes);
        let [v5::Packet::Publish(publish)] = &packets_in(version, &bytes)[..] else { panic!("no PUBLISH") };
        let identifier = publish.qos_pid.pid().unwrap().value();
        assert_eq!(identifier, Mqtt::identifier(publishing(1)));
        let puback = Said::Puback { identifier, code: 0 }.bytes(version, &[]);
        let others = [Said::Pingresp, Said::message("c1m/7", Some(4), b"old")];
        let stream = [others.map(|said| said.bytes(version, &[])).concat(), puback.clone()].concat();
        assert_eq!(heard(&publisher, Some(publishing(1)), &stream), Verdict::Proof);
        assert_eq!(heard(&publisher, Some(publishing(2)), &puback), Verdict::Wrong(Cause::WrongAnswer));
        assert_eq!(heard(&publisher, None, &puback), Verdict::Wrong(Cause::Unasked));
        if version == Version::V5 {
            let refused = Said::Puback { identifier, code: 0x97 }.bytes(version, &[]);
            let cause = Cause::Mqtt(MqttReason { packet: MqttPacket::Puback, code: 0x97 });
            assert_eq!(heard(&publisher, Some(publishing(1)), &refused), Verdict::Ended(cause));
        }
    }
}

/// A publication that the server sends again says so, and is acknowledged again.
#[test]
fn a_publication_that_comes_again_says_so() {
    let dialect = subscribing(&["all"], settings(Version::V5, 1));
    let mut payload = Vec::new();
    publication(1).write(&mut payload);
    for (repeated, verdict) in [(false, Verdict::Push(publication(1))), (true, Verdict::PushAgain(publication(1)))] {
        let (topic, payload, identifier) = ("all".to_owned(), payload.clone(), Some(4));
        let said = Said::Publish { topic, identifier, repeated, retained: false, payload };
        let (verdicts, replied) = follow(&dialect, &[None], &said.bytes(Version::V5, &[]), [3].into_iter());
        assert_eq!(verdicts, [verdict]);
        assert!(matches!(&packets_in(Version::V5, &replied)[..], [v5::Packet::Puback(_)]));
    }
}
