//! What a client of MQTT is told.

use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::protocol::MqttSettings;

/// Texts are templates, as those of --send: {n} is the connection's number.
#[derive(Debug, Args)]
pub struct MqttArguments {
    /// mqtt: the version, 5 by default.
    #[arg(long, value_name = "VERSION", value_parser = PossibleValuesParser::new(["3.1.1", "5"]))]
    mqtt_version: Option<String>,
    /// mqtt: the client identifier; by default `c1m` and the connection's number. Empty: the server chooses one.
    #[arg(long, value_name = "TEMPLATE")]
    client_id: Option<String>,
    /// mqtt: `clean`, the default, begins a session with each connection; `keep` goes on with the one that is there, or
    /// begins one; `resume` must find one with its subscriptions, and fails the connection otherwise.
    #[arg(long, value_name = "WHAT", value_parser = PossibleValuesParser::new(["clean", "keep", "resume"]))]
    session: Option<String>,
    /// mqtt 5: how long a session outlives its connection; 1h by default with --session keep and resume.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    session_expiry: Option<u64>,
    /// mqtt: how long the server may let a connection be silent. A PINGREQ goes out every half of it, unless
    /// --keepalive-interval says otherwise. By default the server waits for ever.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    mqtt_keepalive: Option<u64>,
    /// mqtt: where the server publishes the will of a connection that ends without a goodbye.
    #[arg(long, value_name = "TEMPLATE")]
    will_topic: Option<String>,
    /// mqtt: the will.
    #[arg(long, value_name = "TEMPLATE")]
    will_message: Option<String>,
    /// mqtt: makes N topics of each --subscribe with {topic} in it, which stands for 1 to N.
    #[arg(long, value_name = "N")]
    topics: Option<u32>,
    /// mqtt: quality of service of messages, subscriptions and wills, 0 or 1; 0 by default.
    #[arg(long, value_name = "QOS")]
    qos: Option<u8>,
}

/// A time of whole seconds.
fn seconds(text: &str) -> Result<u64, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let time = humantime::parse_duration(text).map_err(|e| format!("{e}; try 60s or 1h"))?;
    let whole = || format!("'{text}' has a part of a second; try 60s or 1h");
    if time.subsec_nanos() == 0 { Ok(time.as_secs()) } else { Err(whole()) }
}

impl MqttArguments {
    /// The same for the library.
    pub fn settings(&self) -> MqttSettings {
        let mut settings = MqttSettings::default();
        settings.version.clone_from(&self.mqtt_version);
        settings.client_id.clone_from(&self.client_id);
        settings.session.clone_from(&self.session);
        settings.session_expiry = self.session_expiry;
        settings.keepalive = self.mqtt_keepalive;
        settings.will_topic.clone_from(&self.will_topic);
        settings.will_message.clone_from(&self.will_message);
        settings.topics = self.topics;
        settings.qos = self.qos;
        settings
    }

    /// The words that say the same.
    pub fn words(&self) -> Vec<String> {
        let texts = [
            ("mqtt-version", &self.mqtt_version),
            ("client-id", &self.client_id),
            ("session", &self.session),
            ("will-topic", &self.will_topic),
            ("will-message", &self.will_message),
        ];
        let numbers = [
            ("session-expiry", self.session_expiry),
            ("mqtt-keepalive", self.mqtt_keepalive),
            ("topics", self.topics.map(u64::from)),
            ("qos", self.qos.map(u64::from)),
        ];
        let texts = texts.into_iter().filter_map(|(name, text)| Some(format!("--{name}={}", text.as_ref()?)));
        let numbers = numbers.into_iter().filter_map(|(name, number)| Some(format!("--{name}={}", number?)));
        texts.chain(numbers).collect()
    }
}
