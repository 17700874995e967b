//! Topic filters and topics held against what another codec takes (MQTT 5.0, sections 4.7 and 4.8.2).

use mqtt_proto::{TopicFilter, TopicName};
use proptest::prelude::*;

use super::*;

fn subscribes(version: &str, filter: &str) -> Result<Mqtt, SettingError> {
    let mqtt = MqttSettings { version: Some(version.to_owned()), ..MqttSettings::default() };
    Mqtt::new(&Settings { mqtt, subscribe: vec![filter.to_owned()], ..Settings::default() })
}

/// Whether the other codec takes a filter. Version 0.4.0 takes more behind a + in the last level.
fn is_filter(written: &str) -> bool {
    let last = written.rsplit('/').next().unwrap_or_default();
    TopicFilter::try_from(written).is_ok() && (last == "+" || !last.contains('+'))
}

proptest! {
    #[test]
    fn a_filter_is_taken_if_it_is_one(
        words in prop::collection::vec(prop::sample::select(vec!["$share", "a", "é", "+", "#", "/", "/", r"\x00"]), 0..8),
    ) {
        let typed = words.concat();
        let written = typed.replace(r"\x00", "\0");
        prop_assert_eq!(subscribes("5", &typed).is_ok(), is_filter(&written), "{}", typed);
        // Without shared subscriptions, the first level is one like others.
        let unshared = written.strip_prefix("$share/").map_or(written.clone(), |rest| format!("x/{rest}"));
        prop_assert_eq!(subscribes("3.1.1", &typed).is_ok(), is_filter(&unshared), "{}", typed);
    }

    #[test]
    fn a_topic_is_taken_if_it_is_one(
        words in prop::collection::vec(prop::sample::select(vec!["$share", "a", "+", "#", "/", r"\x00"]), 0..8),
    ) {
        let typed = format!("{}{{n}}", words.concat());
        let written = TopicName::try_from(typed.replace(r"\x00", "\0").as_str());
        // A message to a shared subscription would reach no subscriber.
        let is_one = written.is_ok_and(|topic| !topic.is_shared());
        let settings = Settings { topic: Some(typed.clone()), ..Settings::default() };
        prop_assert_eq!(Mqtt::new(&settings).is_ok(), is_one, "{}", typed);
    }
}

#[test]
fn a_shared_subscription_says_what_it_lacks() {
    for filter in ["$share//x", "$share/g", "$share/g/", "$share/", "$share/+/x", "$share/#"] {
        let error = subscribes("5", filter).unwrap_err().to_string();
        assert!(error.contains(filter) && error.contains("$share/NAME/FILTER"), "{error}");
    }
    for (filter, taken) in [("$share/g/x", true), ("$share/g/#", true), ("$share/g//", true), ("$share/g+/x", false)] {
        assert_eq!(subscribes("5", filter).is_ok(), taken, "{filter}");
    }
}
