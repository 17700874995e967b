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
    let error = Mqtt::new(&settings(Role::Publisher, 1)).unwrap_err().to_string();
    assert!(error.contains("`publish`") && error.contains("at most once"), "{error}");
}
