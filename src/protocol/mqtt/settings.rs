//! What `mqtt` can be told, and which of it cannot be.

use super::packets::Version;
use super::{Mqtt, Session, Step};
use crate::protocol::{Role, SettingError, Settings, Template, payload};

/// What `mqtt` can be told. Texts are templates: `{n}` is the connection's number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MqttSettings {
    /// `3.1.1` or `5`, the default.
    pub version: Option<String>,
    /// The client identifier, `c1m{n}` by default. Empty: the server chooses one.
    pub client_id: Option<String>,
    /// `clean`, the default: each connection begins a session. `keep`: it goes on with the session that is there, or
    /// begins one. `resume`: it must find one, with its subscriptions.
    pub session: Option<String>,
    /// Seconds for which a session outlives its connection, 1 to 4,294,967,295; the last one means without end. By
    /// default they are 3,600, and none for `clean`. MQTT 3.1.1 does not know it.
    pub session_expiry: Option<u64>,
    /// Seconds for which a connection may be silent, 1 to 65,535. The server is told, and gives up a connection that is
    /// silent for one and a half times as long. By default it may be for any time.
    pub keepalive: Option<u64>,
    /// Where the server publishes the will of a connection that ends without a goodbye.
    pub will_topic: Option<String>,
    /// The will.
    pub will_message: Option<String>,
    /// How many topics `{topic}` makes of a filter in `Settings::subscribe`: it is 1 to this number.
    pub topics: Option<u32>,
    /// Quality of service of messages, subscriptions and wills: 0, the default, or 1.
    pub qos: Option<u8>,
}

impl MqttSettings {
    /// The names of all settings that `mqtt` takes.
    pub(super) const TAKEN: &'static [&'static str] = &[
        "mqtt-version",
        "client-id",
        "user",
        "password",
        "session",
        "session-expiry",
        "mqtt-keepalive",
        "will-topic",
        "will-message",
        "topic",
        "subscribe",
        "publish",
        "topics",
        "qos",
        "payload",
        "proof",
    ];

    /// The names of its settings, and which of them are given.
    pub(crate) fn given(&self) -> [(&'static str, bool); 9] {
        [
            ("mqtt-version", self.version.is_some()),
            ("client-id", self.client_id.is_some()),
            ("session", self.session.is_some()),
            ("session-expiry", self.session_expiry.is_some()),
            ("mqtt-keepalive", self.keepalive.is_some()),
            ("will-topic", self.will_topic.is_some()),
            ("will-message", self.will_message.is_some()),
            ("topics", self.topics.is_some()),
            ("qos", self.qos.is_some()),
        ]
    }
}

/// The client identifier that every server of MQTT 3.1.1 must take: 23 letters and digits at most (section 3.1.3.1).
const CLIENT: &str = "c1m{n}";

/// The connection's own topic.
const TOPIC: &str = "c1m/{n}";

/// Bytes of a packet: a limit of the server's is known up to here.
const LONGEST_PACKET: usize = u16::MAX as usize;

/// Seconds for which a session is kept where nothing else is asked for.
const EXPIRY: u32 = 3_600;

/// Reads the settings of `mqtt`.
pub(super) fn read(settings: &Settings) -> Result<Mqtt, SettingError> {
    let mqtt = &settings.mqtt;
    let version = match Settings::choice("mqtt-version", &mqtt.version, &["5", "3.1.1"])? {
        "3.1.1" => Version::V3,
        _ => Version::V5,
    };
    let session = match Settings::choice("session", &mqtt.session, &["clean", "keep", "resume"])? {
        "keep" => Session::Keep,
        "resume" => Session::Resume,
        _ => Session::Clean,
    };
    let pings = Settings::choice("proof", &settings.proof, &["publish", "ping"])? == "ping";
    let at_least_once = match mqtt.qos {
        None | Some(0) => false,
        Some(1) => true,
        Some(qos) => {
            return Err(SettingError::value(
                "qos",
                qos,
                "a message is sent at most once (0) or at least once (1)",
                "use 0 or 1",
            ));
        }
    };
    let own = settings.own_topic(pings, TOPIC, topic_name)?;
    let further = if settings.role == Role::Publisher { Vec::new() } else { further_filters(settings, version)? };
    let filters: Vec<Template> = own.iter().cloned().chain(further).collect();
    let subscribes = !filters.is_empty() && session != Session::Resume;
    let steps = [Some(Step::Connect), subscribes.then_some(Step::Subscribe), own.is_some().then_some(Step::Publish)];
    let (user, password) = login(settings, version)?;
    let made = Mqtt {
        version,
        client: client(mqtt, session)?,
        user,
        password,
        session,
        expiry: expiry(mqtt, version, session)?,
        keepalive: keepalive(mqtt)?,
        will: will(mqtt)?,
        own,
        filters,
        at_least_once,
        publishes_to: settings.publishes_to(topic_name)?,
        payload: settings.payload_within(payload::LENGTHS)?,
        steps: steps.into_iter().flatten().collect(),
    };
    match made.longest_packet(u64::MAX) {
        bytes if bytes > LONGEST_PACKET => {
            let means = "the packet that subscribes to all of them would have more than 65,535 bytes";
            Err(SettingError::value(
                "subscribe",
                format_args!("of {} topics", made.filters.len()),
                means,
                "name fewer, or shorter ones",
            ))
        }
        _ => Ok(made),
    }
}

/// A template whose text goes into the string of a packet.
fn string(setting: &'static str, text: &str) -> Result<Template, SettingError> {
    let made = Template::of_setting(setting, text)?;
    let written = made.sample();
    if std::str::from_utf8(&written).is_err() || written.contains(&0) {
        let means = "a string of MQTT is UTF-8 without the character 0";
        return Err(SettingError::value(setting, format_args!("{text:?}"), means, "leave those bytes out"));
    }
    Ok(made)
}

fn client(mqtt: &MqttSettings, session: Session) -> Result<Template, SettingError> {
    let text = mqtt.client_id.as_deref().unwrap_or(CLIENT);
    let wrong = |means, cure| Err(SettingError::value("client-id", format_args!("{text:?}"), means, cure));
    let made = string("client-id", text)?;
    match (text.is_empty(), session) {
        (true, Session::Clean) => Ok(made),
        (true, _) => wrong("without an identifier no session is found again", "put {n} into it"),
        (false, _) if made.has_number() => Ok(made),
        (false, _) => wrong("a server ends a connection when another one has the same identifier", "put {n} into it"),
    }
}

fn login(settings: &Settings, version: Version) -> Result<(Option<Template>, Option<Template>), SettingError> {
    if settings.password.is_some() && settings.user.is_none() && version == Version::V3 {
        let means = "MQTT 3.1.1 has no password without a user";
        return Err(SettingError::Needs { setting: "password", other: "user", means });
    }
    let user = settings.user.as_deref().map(|text| string("user", text)).transpose()?;
    Ok((user, Template::of_optional("password", settings.password.as_deref())?))
}

fn expiry(mqtt: &MqttSettings, version: Version, session: Session) -> Result<u32, SettingError> {
    match (mqtt.session_expiry, session) {
        (Some(_), _) if version == Version::V3 => {
            let means = "MQTT 3.1.1 does not say how long a session is kept";
            Err(SettingError::Excludes { setting: "session-expiry", other: "mqtt-version", chosen: "3.1.1", means })
        }
        (Some(seconds), _) => whole("session-expiry", seconds, "a session is kept for 1 to 4,294,967,295 seconds"),
        (None, Session::Clean) => Ok(0),
        (None, _) => Ok(EXPIRY),
    }
}

fn keepalive(mqtt: &MqttSettings) -> Result<u16, SettingError> {
    let whole = |seconds| whole("mqtt-keepalive", seconds, "a server is told 1 to 65,535 seconds (18 hours)");
    mqtt.keepalive.map_or(Ok(0), whole)
}

/// A number of seconds that the packet has room for, and that is not 0.
fn whole<T: TryFrom<u64>>(setting: &'static str, seconds: u64, means: &'static str) -> Result<T, SettingError> {
    let fits = T::try_from(seconds).ok().filter(|_| seconds > 0);
    fits.ok_or_else(|| SettingError::value(setting, format_args!("{seconds}s"), means, "give a time between them"))
}

fn will(mqtt: &MqttSettings) -> Result<Option<(Template, Template)>, SettingError> {
    let means = "a will is a message to a topic";
    match (&mqtt.will_topic, Template::of_optional("will-message", mqtt.will_message.as_deref())?) {
        (None, None) => Ok(None),
        (Some(topic), Some(message)) => Ok(Some((topic_name("will-topic", topic)?, message))),
        (Some(_), None) => Err(SettingError::Needs { setting: "will-topic", other: "will-message", means }),
        (None, Some(_)) => Err(SettingError::Needs { setting: "will-message", other: "will-topic", means }),
    }
}

/// A topic that is published to.
fn topic_name(setting: &'static str, text: &str) -> Result<Template, SettingError> {
    let made = string(setting, text)?;
    let wrong = |means, cure| Err(SettingError::value(setting, format_args!("{text:?}"), means, cure));
    match made.sample() {
        written if written.is_empty() => wrong("a topic has a name", "give it one"),
        written if written.iter().any(|byte| matches!(byte, b'+' | b'#')) => {
            wrong("nothing can be published to a wildcard", "leave + and # out")
        }
        written if written.starts_with(SHARED) && written.get(SHARED.len()) == Some(&b'/') => {
            wrong("nothing can be published to a shared subscription", "name the topic behind $share/NAME/")
        }
        _ => Ok(made),
    }
}

/// The topic filters beside the own topic.
fn further_filters(settings: &Settings, version: Version) -> Result<Vec<Template>, SettingError> {
    let Settings { mqtt, subscribe, .. } = settings;
    if let Some(topics) = mqtt.topics {
        let means = "a connection subscribes to so many topics by one filter with {topic}";
        let is_used = subscribe.iter().any(|text| with_topic(text, 1) != *text);
        if topics == 0 {
            return Err(SettingError::value("topics", topics, means, "give 1 or more"));
        }
        if !is_used {
            return Err(SettingError::Needs { setting: "topics", other: "subscribe", means });
        }
    }
    let mut filters = Vec::new();
    for text in subscribe {
        // What does not fit into a packet is not made, either: the shortest filter takes four bytes.
        for topic in 1..=mqtt.topics.unwrap_or(1).min(LONGEST_PACKET as u32) {
            let one = with_topic(text, topic);
            filters.push(filter(&one, version)?);
            if one == *text {
                break;
            }
        }
    }
    Ok(filters)
}

/// A text in which `{topic}` is replaced. `{{` and `}}` stay what they are.
fn with_topic(text: &str, topic: u32) -> String {
    const PLACEHOLDER: &str = "{topic}";
    let (mut made, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        made.push_str(before);
        if let Some(behind) = from.strip_prefix(PLACEHOLDER) {
            made.push_str(&topic.to_string());
            rest = behind;
        } else {
            let brace = if from.starts_with("{{") { 2 } else { 1 };
            made.push_str(&from[..brace]);
            rest = &from[brace..];
        }
    }
    made + rest
}

/// The first level of a shared subscription, of which each message goes to one subscriber (MQTT 5.0, section 4.8.2).
const SHARED: &[u8] = b"$share";

fn filter(text: &str, version: Version) -> Result<Template, SettingError> {
    let made = string("subscribe", text)?;
    made.is_subscribed_once("subscribe", text)?;
    let written = made.sample();
    let levels: Vec<&[u8]> = written.split(|byte| *byte == b'/').collect();
    let is_whole = levels.iter().enumerate().all(|(nth, level)| match *level {
        b"#" => nth + 1 == levels.len(),
        b"+" => true,
        level => !level.iter().any(|byte| matches!(byte, b'+' | b'#')),
    });
    if written.is_empty() || !is_whole {
        let means = "+ stands for a whole level, and # for all levels at the end of a filter";
        return Err(SettingError::value("subscribe", format_args!("{text:?}"), means, "try 'news/+' or 'news/#'"));
    }
    // MQTT 3.1.1 knows no shared subscriptions, and such a filter is one like others.
    let is_shared_well = match levels[..] {
        [SHARED, _, ..] if version == Version::V3 => true,
        [SHARED, b"" | b"+" | b"#", ..] | [SHARED, _] | [SHARED, _, b""] => false,
        _ => true,
    };
    if !is_shared_well {
        let means = "a shared subscription is $share/NAME/FILTER, with neither + nor # in its name";
        return Err(SettingError::value("subscribe", format_args!("{text:?}"), means, "try '$share/group/news/#'"));
    }
    Ok(made)
}
