//! `mqtt`: a client of an MQTT server, version 3.1.1 or 5. Each connection has a session and a topic of its own; what it
//! publishes there must come back to it.
//!
//! Packets are our own: 8 bytes are kept of a packet of which some bytes have come, and decoders from the registries
//! want the whole packet in memory. Tests hold them against one of those.

mod packets;
mod place;
mod reader;
mod settings;
#[cfg(test)]
mod tests;

use super::payload::Payload;
use super::{
    Dialect, Exchange, Heard, Position, Publication, Purpose, Scratch, SettingError, Settings, Strength, Template,
    Verdict,
};
use crate::failure::{Cause, MqttPacket, MqttReason};
use packets::{Connect, Version, property};
use place::{Place, Seen, Topic};
use reader::{Code, Event, Kind, Malformed, Message, Reader};

pub use settings::MqttSettings;

/// What becomes of the session that the server keeps under the client's identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    /// Each connection begins a new one.
    Clean,
    /// A connection goes on with the one that is there, or begins one.
    Keep,
    /// A connection must find the one of an earlier connection, with its subscriptions.
    Resume,
}

/// An exchange, by the answer that it awaits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// CONNECT awaits CONNACK.
    Connect,
    /// SUBSCRIBE awaits SUBACK.
    Subscribe,
    /// A PUBLISH to the own topic awaits itself, and at quality of service 1 its PUBACK.
    Publish,
    /// A PUBLISH to the publishers' topic awaits its PUBACK. Others get it.
    Publication,
    /// PINGREQ awaits PINGRESP.
    Ping,
}

/// A client of an MQTT server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mqtt {
    version: Version,
    client: Template,
    user: Option<Template>,
    password: Option<Template>,
    session: Session,
    /// Seconds for which a session outlives its connection.
    expiry: u32,
    /// Seconds of silence that the server allows; 0 is any.
    keepalive: u16,
    /// Topic and message.
    will: Option<(Template, Template)>,
    /// What audits and messages are: a PUBLISH to this topic, or a PINGREQ if there is none.
    own: Option<Template>,
    /// Topic filters that each connection subscribes to, the own topic first.
    filters: Vec<Template>,
    /// Quality of service 1, and not 0.
    at_least_once: bool,
    /// Where a publisher publishes.
    publishes_to: Option<Template>,
    /// Bytes that a message of traffic holds; those of opening and of audits hold a token alone.
    payload: usize,
    /// How a connection is opened.
    steps: Vec<Step>,
}

/// Codes from here on say no (MQTT 5.0, section 2.4).
const REFUSED: u8 = 0x80;

/// The codes of MQTT 5 that mean what a CONNACK of MQTT 3.1.1 says by 1 to 5.
const REFUSED_BY_V3: [u8; 5] = [0x84, 0x85, 0x88, 0x86, 0x87];

impl Mqtt {
    /// What an exchange sends, and thereby what it awaits.
    fn step(&self, exchange: Exchange) -> Step {
        match (exchange.purpose, &self.own) {
            (Purpose::Open(step), _) => self.steps.get(usize::from(step)).copied().unwrap_or(Step::Ping),
            (Purpose::Audit | Purpose::Message, Some(_)) => Step::Publish,
            (Purpose::Publish, _) => Step::Publication,
            _ => Step::Ping,
        }
    }

    /// The identifier of the packet that an exchange sends. It is never 0, and no two are in flight.
    pub(crate) fn identifier(exchange: Exchange) -> u16 {
        (exchange.token() % u64::from(u16::MAX)) as u16 + 1
    }

    fn payload(&self, exchange: Exchange) -> Payload {
        Payload::of(exchange, self.payload)
    }

    /// Appends the packet of a step to `into`.
    fn say(&self, step: Step, exchange: Exchange, into: &mut Vec<u8>) {
        match step {
            Step::Connect => self.connect(exchange, into),
            Step::Subscribe => self.subscribe(exchange, into),
            Step::Publish => self.publish_token(exchange, into),
            // What it says follows from more than the exchange: see `Dialect::publish`.
            Step::Publication => {}
            Step::Ping => packets::pingreq(into),
        }
    }

    fn connect(&self, exchange: Exchange, into: &mut Vec<u8>) {
        let written = |template| move |into: &mut Vec<u8>| Template::write(template, exchange, into);
        let connect = Connect {
            version: self.version,
            clean: self.session == Session::Clean,
            expiry: self.expiry,
            keepalive: self.keepalive,
            client: written(&self.client),
            will: self.will.as_ref().map(|(topic, message)| (written(topic), written(message))),
            at_least_once: self.at_least_once,
            user: self.user.as_ref().map(written),
            password: self.password.as_ref().map(written),
        };
        connect.write(into);
    }

    fn subscribe(&self, exchange: Exchange, into: &mut Vec<u8>) {
        let filters = self.filters.iter().map(|filter| move |into: &mut Vec<u8>| filter.write(exchange, into));
        packets::subscribe(self.version, Mqtt::identifier(exchange), filters, self.at_least_once, into);
    }

    fn publish_token(&self, exchange: Exchange, into: &mut Vec<u8>) {
        let identifier = self.at_least_once.then(|| Mqtt::identifier(exchange));
        let topic = |into: &mut Vec<u8>| self.own.iter().for_each(|topic| topic.write(exchange, into));
        let payload = self.payload(exchange);
        packets::publish(self.version, identifier, topic, |into| payload.write(into), into);
    }

    /// Bytes of the longest packet that this connection sends once it is opened.
    fn longest_packet(&self, number: u64) -> usize {
        let (mut subscribe, mut publish) = (Vec::new(), Vec::new());
        let exchange = Exchange { number, round: 0, purpose: Purpose::Message };
        if self.steps.contains(&Step::Subscribe) {
            self.subscribe(exchange, &mut subscribe);
        }
        if self.own.is_some() {
            self.publish_token(exchange, &mut publish);
        }
        subscribe.len().max(publish.len())
    }

    /// Judges an event. `None`: it is right, and no verdict is due yet.
    fn judge(&self, exchange: Option<Exchange>, event: Event, seen: &mut Seen, reply: &mut Vec<u8>) -> Option<Verdict> {
        let step = exchange.map(|exchange| self.step(exchange));
        let refused = |packet, code| Some(Verdict::Ended(Cause::Mqtt(MqttReason { packet, code })));
        let wrong = |cause| Some(Verdict::Wrong(cause));
        match event {
            Event::Begin(kind) if self.may_come(kind, step) => None,
            Event::Begin(_) if step.is_none() => wrong(Cause::Unasked),
            Event::Begin(_) => wrong(Cause::Malformed),
            Event::Connack { session, code } => self.greeted(session, code),
            Event::Property { property, value } => {
                self.limited(exchange.map_or(0, |exchange| exchange.number), property, value)
            }
            Event::Identifier(identifier) if exchange.map(Mqtt::identifier) == Some(identifier) => None,
            Event::Identifier(_) => wrong(Cause::WrongAnswer),
            Event::Granted(code) if code >= REFUSED => refused(MqttPacket::Suback, code),
            Event::Granted(code) if code > self.at_least_once.into() => wrong(Cause::Malformed),
            Event::Code(Kind::Puback, 0) | Event::Granted(_) => None,
            Event::Code(Kind::Puback, code) => refused(MqttPacket::Puback, code),
            Event::Code(_, code) => refused(MqttPacket::Disconnect, code),
            Event::End(Kind::Disconnect) => refused(MqttPacket::Disconnect, 0),
            Event::End(Kind::Puback) => {
                seen.acknowledged = true;
                (seen.delivered || step == Some(Step::Publication)).then_some(Verdict::Proof)
            }
            Event::End(Kind::Pingresp) => (step == Some(Step::Ping)).then_some(Verdict::Proof),
            Event::End(_) => Some(Verdict::Proof),
            Event::Message(message) => self.delivered(message, seen, reply),
        }
    }

    /// Whether the server may send a packet of this kind while a step awaits its answer. Messages, an answer to a
    /// keepalive and a goodbye may come at any time, but not before the server has answered to CONNECT.
    fn may_come(&self, kind: Kind, step: Option<Step>) -> bool {
        match (kind, step) {
            (Kind::Connack, Some(Step::Connect)) => true,
            (Kind::Connack, _) | (_, Some(Step::Connect)) => false,
            (Kind::Suback, step) => step == Some(Step::Subscribe),
            (Kind::Puback, step) => matches!(step, Some(Step::Publish | Step::Publication)) && self.at_least_once,
            (Kind::Publish | Kind::Pingresp | Kind::Disconnect, _) => true,
        }
    }

    /// The verdict on what CONNACK says, unless it is right.
    fn greeted(&self, session: bool, code: Code) -> Option<Verdict> {
        let refused = |code| Some(Verdict::Ended(Cause::Mqtt(MqttReason { packet: MqttPacket::Connack, code })));
        let malformed = Some(Verdict::Wrong(Cause::Malformed));
        match (code.version, code.number) {
            (_, 0) => match self.session {
                Session::Clean if session => malformed,
                Session::Resume if !session => Some(Verdict::Ended(Cause::NoSession)),
                _ => None,
            },
            // Some servers write codes of MQTT 5 without the properties that follow them there.
            (_, code @ REFUSED..) => refused(code),
            (Version::V3, code) => REFUSED_BY_V3.get(usize::from(code) - 1).map_or(malformed, |code| refused(*code)),
            (Version::V5, _) => malformed,
        }
    }

    /// The verdict on a limit that the server sets, unless the client keeps it. It cannot be remembered, so what the
    /// client was told to do must keep it.
    fn limited(&self, number: u64, limit: u8, value: u16) -> Option<Verdict> {
        // A client that promises nothing is silent for any time. What a server has no bound for it calls 65,535 s.
        let silence = if self.keepalive == 0 { u16::MAX } else { self.keepalive };
        let cause = match limit {
            property::SERVER_KEEPALIVE if value > 0 && value < silence => Cause::ShorterKeepalive,
            property::MAXIMUM_QOS if value < self.at_least_once.into() => Cause::LowerQos,
            property::MAXIMUM_PACKET if usize::from(value) < self.longest_packet(number) => Cause::ShorterPackets,
            _ => return None,
        };
        Some(Verdict::Ended(cause))
    }

    /// Judges a message. It is acknowledged at once, whatever it is: its identifier is known only now.
    fn delivered(&self, message: Message, seen: &mut Seen, reply: &mut Vec<u8>) -> Option<Verdict> {
        if let Some(identifier) = message.identifier {
            packets::puback(identifier, reply);
        }
        if message.is_awaited {
            seen.delivered = true;
            let is_whole = seen.acknowledged || !self.at_least_once;
            return Some(if is_whole { Verdict::Proof } else { Verdict::Aside });
        }
        if message.topic != Topic::Unknown && !message.may_be_old && !self.gets_others() {
            return Some(Verdict::Wrong(Cause::WrongAnswer));
        }
        Some(match message.publication.map(Verdict::of_publication) {
            Some(Verdict::Push(publication)) if message.is_repeated => Verdict::PushAgain(publication),
            verdict => verdict.unwrap_or(Verdict::Aside),
        })
    }

    /// Whether messages may come that the connection did not publish in its present exchange: it has further
    /// subscriptions, or a session that holds what earlier connections left.
    fn gets_others(&self) -> bool {
        self.filters.len() > 1 || self.session != Session::Clean
    }
}

impl Dialect for Mqtt {
    const NAME: &'static str = "mqtt";
    const SETTINGS: &'static [&'static str] = MqttSettings::TAKEN;
    const SAYS: &'static str = "publishes to a topic of each connection's own, or pings";

    fn new(settings: &Settings) -> Result<Mqtt, SettingError> {
        settings::read(settings)
    }

    /// The server must have routed the token to the connection. A PINGRESP says no more than that it is there.
    fn strength(&self) -> Strength {
        Strength::of_service(self.own.is_some())
    }

    fn longest_message(&self) -> usize {
        self.longest_packet(u64::MAX)
    }

    fn steps(&self) -> u8 {
        self.steps.len() as u8
    }

    fn ask(&self, exchange: Exchange, into: &mut Vec<u8>) {
        self.say(self.step(exchange), exchange, into);
    }

    fn hear(&self, exchange: Option<Exchange>, position: &mut Position, bytes: &[u8], scratch: &mut Scratch) -> Heard {
        // Behind DISCONNECT nothing may be sent, and the server closes the connection.
        if exchange.is_some_and(|exchange| exchange.purpose == Purpose::Goodbye) {
            return Heard { used: bytes.len(), verdict: Verdict::Aside };
        }
        let Scratch { expected, reply, kept, has_session, .. } = scratch;
        expected.clear();
        let published = exchange.filter(|exchange| self.step(*exchange) == Step::Publish);
        if let (Some(exchange), Some(own)) = (published, &self.own) {
            own.write(exchange, expected);
        }
        let awaited = published.map(|exchange| (&expected[..], self.payload(exchange)));
        let reader = Reader { version: self.version, awaited, filters: self.filters.len() };
        let (mut place, mut rest) = (Place::from(*position), bytes);
        let verdict = loop {
            match reader.next(&mut place, kept, &mut rest) {
                Err(Malformed) => break Verdict::Wrong(Cause::Malformed),
                Ok(None) => break Verdict::Part,
                Ok(Some(event)) => {
                    *has_session |= matches!(event, Event::Connack { session: true, code: Code { number: 0, .. } });
                    if let Some(verdict) = self.judge(exchange, event, &mut place.seen, reply) {
                        break verdict;
                    }
                }
            }
        };
        if verdict == Verdict::Proof {
            place.seen = Seen::default();
        }
        *position = place.into();
        // A fault may lie in bytes that were not taken.
        Heard { used: (bytes.len() - rest.len()).max(1), verdict }
    }

    fn publish(&self, number: u64, publication: &Publication, into: &mut Vec<u8>) -> bool {
        let Some(topic) = &self.publishes_to else { return false };
        // Rounds and tokens are in no topic.
        let exchange = Exchange { number, round: publication.number, purpose: Purpose::Publish };
        let identifier = self.at_least_once.then(|| Mqtt::identifier(exchange));
        let topic = |into: &mut Vec<u8>| topic.write(exchange, into);
        packets::publish(self.version, identifier, topic, |into| publication.write(into), into);
        true
    }

    fn is_acknowledged(&self) -> bool {
        self.at_least_once
    }

    /// The connection ends in order: no will is published. The server answers by closing it, and by nothing else.
    fn goodbye(&self, _number: u64, into: &mut Vec<u8>) {
        packets::disconnect(into);
    }

    /// A client that closed at once could reset the connection, by bytes that it has not read, before the server has read
    /// the DISCONNECT: the will would be published.
    fn awaits_goodbye(&self) -> bool {
        true
    }

    fn is_closed_by_server(&self) -> bool {
        true
    }

    /// A connection without CONNACK is none of MQTT.
    fn must_hear(&self) -> bool {
        true
    }

    fn allowed_silence(&self) -> Option<u32> {
        Some(self.keepalive.into()).filter(|seconds| *seconds > 0)
    }
}
