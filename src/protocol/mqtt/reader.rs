//! Reads the packets of a server as their bytes come, and keeps none of them: where it is in a packet fits into a
//! [`Place`]. It checks the form of a packet, and leaves to its caller what the packet means.
//!
//! A message on the connection's own topic is compared with the awaited one while it comes. In other messages a
//! publication is looked for. Of topics and of the texts in CONNACK it is only checked whether they are strings of MQTT;
//! the properties of all packets but CONNACK are passed over.

use super::packets::{Version, head, property, variable};
use super::place::{Place, State, Topic};
use crate::protocol::payload::Payload;
use crate::protocol::publication::{Altered, Publication, Search};
use crate::protocol::utf8::Utf8;

/// A packet that a server sends to a client that uses neither quality of service 2 nor UNSUBSCRIBE nor AUTH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Connack,
    Publish,
    Puback,
    Suback,
    Pingresp,
    Disconnect,
}

impl Kind {
    /// The kind of the packet that begins with this byte. `None` if no server may send it to such a client.
    fn of(first: u8, version: Version) -> Option<Kind> {
        match first {
            head::CONNACK => Some(Kind::Connack),
            // Quality of service 0, with and without the flag for retained messages; 1, the same with the flag for
            // repeated ones besides.
            0x30..=0x33 | 0x3a | 0x3b => Some(Kind::Publish),
            head::PUBACK => Some(Kind::Puback),
            head::SUBACK => Some(Kind::Suback),
            head::PINGRESP => Some(Kind::Pingresp),
            head::DISCONNECT if version == Version::V5 => Some(Kind::Disconnect),
            _ => None,
        }
    }
}

/// A message of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Whose topic it came on.
    pub topic: Topic,
    /// It is the awaited one, to the last byte.
    pub is_awaited: bool,
    /// It must be acknowledged by this identifier.
    pub identifier: Option<u16>,
    /// It may have come before, or be older than the subscription.
    pub may_be_old: bool,
    /// It may have come before.
    pub is_repeated: bool,
    /// The publication that is in it, if there is one.
    pub publication: Option<Result<Publication, Altered>>,
}

/// A code of CONNACK, with the version whose packet holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    pub version: Version,
    pub number: u8,
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A packet begins.
    Begin(Kind),
    /// CONNACK says whether the server has a session of this client, and why not if it refuses (0 if it does not). The code is
    /// one of MQTT 3.1.1 or of MQTT 5, as the packet is.
    Connack { session: bool, code: Code },
    /// CONNACK has a property that is a number; what is above 65,535 is given as 65,535.
    Property { property: u8, value: u16 },
    /// SUBACK or PUBACK says which packet it answers.
    Identifier(u16),
    /// SUBACK has the answer to one of the topic filters.
    Granted(u8),
    /// PUBACK or DISCONNECT says why.
    Code(Kind, u8),
    /// A message has ended.
    Message(Message),
    /// Another packet has ended.
    End(Kind),
}

/// The bytes are no packets of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// What a connection awaits, as far as bytes are compared with it.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    /// The version that is spoken.
    pub version: Version,
    /// The connection's own topic and the awaited message; `None` if no message is awaited.
    pub awaited: Option<(&'a [u8], Payload)>,
    /// How many answers a SUBACK must have.
    pub filters: usize,
}

impl Reader<'_> {
    /// Reads on from `place` and `kept` to the next event, and takes the bytes that it used off `bytes`. `None`: all
    /// bytes are used.
    pub fn next(&self, place: &mut Place, kept: &mut Vec<u8>, bytes: &mut &[u8]) -> Result<Option<Event>, Malformed> {
        loop {
            let is_within = !matches!(place.state, State::Head | State::Length);
            if is_within && place.left == 0 {
                return Reader::end(place, kept).map(Some);
            }
            let Some((byte, later)) = bytes.split_first() else { return Ok(None) };
            let event = match place.state {
                State::Name
                | State::String
                | State::OtherTopic
                | State::OwnTopic
                | State::Properties
                | State::Payload
                | State::OthersProperties
                | State::OthersPayload
                | State::Rest => {
                    let before = place.state;
                    let taken = self.run(place, kept, bytes)?;
                    // Nothing happens only if the packet began while something else was awaited.
                    if taken == 0 && place.state == before {
                        return Err(Malformed);
                    }
                    *bytes = &bytes[taken..];
                    None
                }
                State::OthersLength => {
                    *bytes = later;
                    others_length(place, kept, *byte)?;
                    None
                }
                _ => {
                    *bytes = later;
                    self.byte(place, kept, *byte)?
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Takes one byte that means something by itself.
    fn byte(&self, place: &mut Place, kept: &mut Vec<u8>, byte: u8) -> Result<Option<Event>, Malformed> {
        match place.state {
            State::Head => {
                let kind = Kind::of(byte, self.version).ok_or(Malformed)?;
                (place.head, place.topic) = (byte, Topic::Unknown);
                place.enter(State::Length);
                return Ok(Some(Event::Begin(kind)));
            }
            State::Length => return self.length(place, byte).map(|()| None),
            _ => {}
        }
        // The length of the properties is compared with what is left before its byte is taken.
        if place.state == State::PropertiesLength {
            return self.properties_length(place, byte).map(|()| None);
        }
        place.took(1);
        Ok(match place.state {
            State::Flags if byte > 1 => return Err(Malformed),
            State::Flags => {
                place.at = byte.into();
                place.enter(State::ConnackCode);
                None
            }
            State::ConnackCode => Some(self.connack_code(place, byte)?),
            State::Identifier => self.identifier(place, byte)?,
            State::Property => {
                begin_property(place, kept, byte)?;
                None
            }
            State::Number => number(place, byte)?,
            State::StringLength => {
                string_length(place, byte)?;
                None
            }
            State::Codes => Some(Event::Granted(byte)),
            State::Code => {
                place.enter(State::Rest);
                Some(Event::Code(if place.head == head::PUBACK { Kind::Puback } else { Kind::Disconnect }, byte))
            }
            State::TopicLength => {
                self.topic_length(place, byte)?;
                None
            }
            _ => None,
        })
    }

    /// Takes bytes that are compared, checked or passed over, as many as are there. Returns their number, which may be 0.
    fn run(&self, place: &mut Place, kept: &mut Vec<u8>, bytes: &[u8]) -> Result<usize, Malformed> {
        let there = bytes.len().min(place.left as usize);
        let taken = match place.state {
            State::Name | State::String | State::OtherTopic => {
                let taken = there.min(place.at.into());
                place.at -= taken as u16;
                spell(place, &bytes[..taken])?;
                taken
            }
            State::OwnTopic => {
                let topic = self.awaited.map(|(topic, _)| topic).unwrap_or_default();
                let rest = topic.get(place.at.into()..).unwrap_or_default();
                let taken = rest.len().min(there);
                if rest[..taken] == bytes[..taken] {
                    place.at += taken as u16;
                    taken
                } else {
                    // What was like the own topic may end within a character.
                    let same = &topic[..place.at.into()];
                    (place.topic, place.at) = (Topic::Other, rest.len() as u16);
                    place.enter(State::OtherTopic);
                    spell(place, same)?;
                    0
                }
            }
            State::Properties => there.min((place.left as usize).saturating_sub(self.behind_properties(place))),
            State::Payload => {
                let is_right = self.awaited.is_some_and(|(_, payload)| {
                    let offset = payload.length.checked_sub(place.left as usize);
                    offset.is_some_and(|offset| payload.has(offset, &bytes[..there]))
                });
                if !is_right {
                    place.enter(State::Rest);
                }
                there
            }
            State::OthersProperties => {
                let behind = kept.first_chunk().map_or(0, |length| u32::from_be_bytes(*length));
                let taken = there.min(place.left.saturating_sub(behind) as usize);
                if place.left - taken as u32 == behind {
                    kept.clear();
                    place.enter(State::OthersPayload);
                }
                taken
            }
            State::OthersPayload => {
                // Nothing is kept before the payload's first byte.
                if kept.is_empty() {
                    Search::begin(kept);
                }
                Search::go_on(kept, &bytes[..there]);
                there
            }
            _ => there,
        };
        place.took(taken);
        self.leave(place);
        Ok(taken)
    }

    /// Goes on to the next state if the present one of several bytes is complete.
    fn leave(&self, place: &mut Place) {
        match place.state {
            State::Name if place.at == 0 => place.enter(State::StringLength),
            State::String if place.at == 0 => place.enter(State::Property),
            State::OtherTopic if place.at == 0 => self.after_topic(place),
            State::OwnTopic if self.awaited.is_some_and(|(topic, _)| topic.len() == usize::from(place.at)) => {
                place.topic = Topic::Own;
                self.after_topic(place);
            }
            State::Properties if place.left as usize == self.behind_properties(place) => match place.head {
                head::SUBACK => place.enter(State::Codes),
                _ => place.enter(State::Payload),
            },
            _ => {}
        }
    }

    /// A byte of the remaining length. When it is known, the first field of the packet comes.
    fn length(&self, place: &mut Place, byte: u8) -> Result<(), Malformed> {
        place.left |= u32::from(byte & 0x7f) << (7 * place.step);
        if byte & 0x80 != 0 {
            place.step += 1;
            return if place.step < 4 { Ok(()) } else { Err(Malformed) };
        }
        // MQTT 5 forbids a length that is written with more bytes than it needs.
        if byte == 0 && place.step > 0 && self.version == Version::V5 {
            return Err(Malformed);
        }
        let (left, is_v3) = (place.left, self.version == Version::V3);
        let (state, fits) = match Kind::of(place.head, self.version).ok_or(Malformed)? {
            Kind::Connack => (State::Flags, left >= 2),
            Kind::Publish => (State::TopicLength, left > 2),
            Kind::Puback => (State::Identifier, if is_v3 { left == 2 } else { left >= 2 }),
            Kind::Suback => (State::Identifier, left > 2),
            Kind::Pingresp => (State::Rest, left == 0),
            Kind::Disconnect => (State::Code, true),
        };
        place.enter(state);
        if fits { Ok(()) } else { Err(Malformed) }
    }

    /// The code of a CONNACK. A server that does not speak the client's version refuses it in its own: in MQTT 3.1.1
    /// nothing follows the code.
    fn connack_code(&self, place: &mut Place, number: u8) -> Result<Event, Malformed> {
        let version = if place.left == 0 { Version::V3 } else { Version::V5 };
        if number == 0 && version != self.version {
            return Err(Malformed);
        }
        place.enter(if version == Version::V5 { State::PropertiesLength } else { State::Rest });
        Ok(Event::Connack { session: place.at == 1, code: Code { version, number } })
    }

    /// The bytes of a packet that come after its properties, if it is the awaited one.
    fn behind_properties(&self, place: &Place) -> usize {
        match place.head {
            head::CONNACK => 0,
            head::SUBACK => self.filters,
            _ => self.awaited.map_or(0, |(_, payload)| payload.length),
        }
    }

    /// A byte of the length of the properties. As what comes behind them has a known length, only one length is
    /// right. A message with another one is not the awaited one.
    fn properties_length(&self, place: &mut Place, byte: u8) -> Result<(), Malformed> {
        let whole = place.left as usize + usize::from(place.step);
        let expected = whole.checked_sub(self.behind_properties(place)).and_then(properties_in);
        place.took(1);
        let is_message = place.head & head::KIND == head::PUBLISH;
        match expected {
            Some((expected, _)) if expected[usize::from(place.step)] != byte && is_message => place.enter(State::Rest),
            Some((expected, _)) if expected[usize::from(place.step)] != byte => return Err(Malformed),
            None if is_message => place.enter(State::Rest),
            None => return Err(Malformed),
            Some((_, many)) if usize::from(place.step) + 1 < many => place.step += 1,
            Some(_) if place.head == head::CONNACK => place.enter(State::Property),
            Some(_) => {
                place.enter(State::Properties);
                self.leave(place);
            }
        }
        Ok(())
    }

    /// A byte of a packet identifier.
    fn identifier(&self, place: &mut Place, byte: u8) -> Result<Option<Event>, Malformed> {
        if place.step == 0 {
            (place.at, place.step) = (u16::from(byte) << 8, 1);
            return Ok(None);
        }
        place.at |= u16::from(byte);
        if place.at == 0 {
            return Err(Malformed);
        }
        match place.head {
            head::PUBACK => place.enter(State::Code),
            head::SUBACK if self.version == Version::V5 => place.enter(State::PropertiesLength),
            head::SUBACK if place.left as usize != self.filters => return Err(Malformed),
            head::SUBACK => place.enter(State::Codes),
            _ => {
                self.enter_content(place);
                return Ok(None);
            }
        }
        Ok(Some(Event::Identifier(place.at)))
    }

    /// A byte of the length of a topic.
    fn topic_length(&self, place: &mut Place, byte: u8) -> Result<(), Malformed> {
        if place.step == 0 {
            (place.at, place.step) = (u16::from(byte) << 8, 1);
            return Ok(());
        }
        place.at |= u16::from(byte);
        // An empty topic stands for an alias, and the client allows none.
        if place.at == 0 || u32::from(place.at) > place.left {
            return Err(Malformed);
        }
        match self.awaited {
            Some((topic, _)) if topic.len() == usize::from(place.at) => {
                place.at = 0;
                place.enter(State::OwnTopic);
            }
            awaited => {
                place.topic = if awaited.is_some() { Topic::Other } else { Topic::Unknown };
                place.enter(State::OtherTopic);
            }
        }
        Ok(())
    }

    fn after_topic(&self, place: &mut Place) {
        place.at = 0;
        match place.head & head::AT_LEAST_ONCE {
            0 => self.enter_content(place),
            _ => place.enter(State::Identifier),
        }
    }

    /// What comes behind the topic and the identifier of a message: it is read if it may be the awaited one.
    fn enter_content(&self, place: &mut Place) {
        let length = self.awaited.map(|(_, payload)| payload.length);
        place.enter(match (place.topic, self.version) {
            (Topic::Own, Version::V5) => State::PropertiesLength,
            (Topic::Own, Version::V3) if length == Some(place.left as usize) => State::Payload,
            (Topic::Own, Version::V3) => State::Rest,
            (_, Version::V5) => State::OthersLength,
            (_, Version::V3) => State::OthersPayload,
        });
    }

    /// The packet has ended. Fails if fields are missing.
    fn end(place: &mut Place, kept: &mut Vec<u8>) -> Result<Event, Malformed> {
        let Place { head: first, topic, at, state, .. } = *place;
        let may_end = [State::Rest, State::Payload, State::OthersPayload, State::Codes, State::Code, State::Property];
        if !may_end.contains(&state) {
            return Err(Malformed);
        }
        let publication = if state == State::OthersPayload { Search::load(kept).end() } else { None };
        kept.clear();
        place.end();
        Ok(match (state, first) {
            (State::Property, _) | (_, head::CONNACK) => Event::End(Kind::Connack),
            (_, head::PUBACK) => Event::End(Kind::Puback),
            (_, head::SUBACK) => Event::End(Kind::Suback),
            (_, head::PINGRESP) => Event::End(Kind::Pingresp),
            (_, head::DISCONNECT) => Event::End(Kind::Disconnect),
            _ => Event::Message(Message {
                topic,
                is_awaited: state == State::Payload,
                identifier: (first & head::AT_LEAST_ONCE != 0).then_some(at),
                may_be_old: first & (head::REPEATED | head::RETAINED) != 0,
                is_repeated: first & head::REPEATED != 0,
                publication,
            }),
        })
    }
}

/// A byte of the length of the properties of a message on another topic. Behind them lies the payload.
fn others_length(place: &mut Place, kept: &mut Vec<u8>, byte: u8) -> Result<(), Malformed> {
    kept.push(byte);
    place.took(1);
    if byte & 0x80 != 0 {
        place.step += 1;
        return if place.step < 4 { Ok(()) } else { Err(Malformed) };
    }
    if byte == 0 && place.step > 0 {
        return Err(Malformed);
    }
    let properties = kept.iter().rev().fold(0, |length, byte| length << 7 | u32::from(byte & 0x7f));
    let payload = place.left.checked_sub(properties).ok_or(Malformed)?;
    kept.clear();
    if properties == 0 {
        place.enter(State::OthersPayload);
    } else {
        kept.extend_from_slice(&payload.to_be_bytes());
        place.enter(State::OthersProperties);
    }
    Ok(())
}

/// The length that properties have if they and their length have so many bytes together, as it is written. `None` if
/// there is no such length: it would have to be written with more bytes than it needs.
fn properties_in(whole: usize) -> Option<([u8; 4], usize)> {
    (1..=4).find_map(|many| Some(variable(whole.checked_sub(many)?)).filter(|(_, bytes)| *bytes == many))
}

/// The next bytes of a string: it is UTF-8 without the character 0, and a topic has no wildcards (MQTT 5.0, sections
/// 1.5.4 and 3.3.2.1). `place.at` of its bytes are still to come, and `place.step` is where a character was cut.
fn spell(place: &mut Place, bytes: &[u8]) -> Result<(), Malformed> {
    let forbidden: &[u8] = if place.state == State::OtherTopic { b"\0+#" } else { b"\0" };
    let mut text = Utf8::of_number(place.step.into());
    text.feed(bytes).map_err(|_| Malformed)?;
    place.step = text.number() as u8;
    let is_cut_off = place.at == 0 && !text.is_whole();
    if is_cut_off || bytes.iter().any(|byte| forbidden.contains(byte)) { Err(Malformed) } else { Ok(()) }
}

/// A property of a CONNACK begins: how it is read. Those of authentication may not come, as the client asks for none.
/// `kept` has those that have come: each may come once, but one of the server's own as often as it likes.
fn begin_property(place: &mut Place, kept: &mut Vec<u8>, identifier: u8) -> Result<(), Malformed> {
    use property::*;
    let (state, step) = match identifier {
        MAXIMUM_QOS | RETAIN_AVAILABLE | WILDCARDS_AVAILABLE | IDENTIFIERS_AVAILABLE | SHARED_AVAILABLE => {
            (State::Number, 1)
        }
        SERVER_KEEPALIVE | RECEIVE_MAXIMUM | TOPIC_ALIAS_MAXIMUM => (State::Number, 2),
        SESSION_EXPIRY | MAXIMUM_PACKET => (State::Number, 4),
        ASSIGNED_CLIENT | RESPONSE_INFORMATION | SERVER_REFERENCE | REASON => (State::StringLength, 0),
        // Its name, and then its value.
        USER => (State::StringLength, 2),
        _ => return Err(Malformed),
    };
    if identifier != USER {
        if kept.contains(&identifier) {
            return Err(Malformed);
        }
        kept.push(identifier);
    }
    (place.head, place.state, place.step, place.at) = (identifier, state, step, 0);
    Ok(())
}

/// A byte of a property that is a number.
fn number(place: &mut Place, byte: u8) -> Result<Option<Event>, Malformed> {
    place.at = place.at.saturating_mul(256).saturating_add(byte.into());
    place.step -= 1;
    if place.step > 0 {
        return Ok(None);
    }
    use property::*;
    let (property, value) = (place.head, place.at);
    let may_be = match property {
        // Whether the server has something, and a quality of service below 2.
        MAXIMUM_QOS | RETAIN_AVAILABLE | WILDCARDS_AVAILABLE | IDENTIFIERS_AVAILABLE | SHARED_AVAILABLE => value < 2,
        // No message at all, and no byte, is no maximum.
        RECEIVE_MAXIMUM | MAXIMUM_PACKET => value > 0,
        _ => true,
    };
    place.enter(State::Property);
    if may_be { Ok(Some(Event::Property { property, value })) } else { Err(Malformed) }
}

/// A byte of the length of a string in a property.
fn string_length(place: &mut Place, byte: u8) -> Result<(), Malformed> {
    if place.step.is_multiple_of(2) {
        (place.at, place.step) = (u16::from(byte) << 8, place.step + 1);
        return Ok(());
    }
    place.at |= u16::from(byte);
    if u32::from(place.at) > place.left {
        return Err(Malformed);
    }
    let is_name = place.step > 1;
    place.enter(match (place.at, is_name) {
        (0, false) => State::Property,
        (0, true) => State::StringLength,
        (_, false) => State::String,
        (_, true) => State::Name,
    });
    Ok(())
}
