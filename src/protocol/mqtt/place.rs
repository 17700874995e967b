//! Where in a server's packets a connection is: what is known of a packet of which some bytes have come. It fits into the
//! 8 bytes of a [`Position`]. Of messages on other topics than the connection's own, and of CONNACK, some bytes are kept
//! beside it, in `Scratch::kept`.

use crate::protocol::Position;

/// What the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// The first byte of a packet.
    #[default]
    Head,
    /// A byte of the remaining length; `step` of them have come.
    Length,
    /// CONNACK: the acknowledge flags.
    Flags,
    /// CONNACK: the reason code. The flags are in `at`.
    ConnackCode,
    /// SUBACK, PUBACK, PUBLISH: a byte of the packet identifier; `step` of them have come, into `at`.
    Identifier,
    /// CONNACK, SUBACK, PUBLISH: a byte of the length of the properties; `step` of them have come.
    PropertiesLength,
    /// SUBACK, PUBLISH: a byte of the properties, which are passed over.
    Properties,
    /// CONNACK: the identifier of a property, or the end. Those that have come are in `kept`.
    Property,
    /// CONNACK: a byte of a number; `step` of them are to come, and `at` is the number so far.
    Number,
    /// CONNACK: a byte of a string's length. `step` counts: 0 and 1 are the two bytes of the only or last string of
    /// the property, 2 and 3 those of the first of two.
    StringLength,
    /// CONNACK: a byte of the first of two strings; `at` of them are to come. `step` is where a character was cut (`Utf8`).
    Name,
    /// The same of the only or last string of the property.
    String,
    /// SUBACK: a reason code.
    Codes,
    /// PUBACK, DISCONNECT: the reason code, or the end.
    Code,
    /// PUBLISH: a byte of the topic's length; `step` of them have come, into `at`.
    TopicLength,
    /// PUBLISH: a byte of the topic, which has been the connection's own so far; `at` of them have come.
    OwnTopic,
    /// PUBLISH: a byte of the rest of a topic that is compared no more; `at` of them are to come. `step` as of a string.
    OtherTopic,
    /// PUBLISH on the own topic: a byte of the payload, which has been the awaited one so far.
    Payload,
    /// PUBLISH on another topic: a byte of the length of the properties; `step` of them have come, into `kept`.
    OthersLength,
    /// PUBLISH on another topic: a byte of the properties. The length of the payload behind them is in `kept`.
    OthersProperties,
    /// PUBLISH on another topic: a byte of the payload. The search for a publication in it is in `kept`.
    OthersPayload,
    /// The rest of a packet, which is passed over.
    Rest,
}

/// All of them, in the order of their numbers.
const STATES: [State; 22] = [
    State::Head,
    State::Length,
    State::Flags,
    State::ConnackCode,
    State::Identifier,
    State::PropertiesLength,
    State::Properties,
    State::Property,
    State::Number,
    State::StringLength,
    State::Name,
    State::String,
    State::Codes,
    State::Code,
    State::TopicLength,
    State::OwnTopic,
    State::OtherTopic,
    State::Payload,
    State::OthersLength,
    State::OthersProperties,
    State::OthersPayload,
    State::Rest,
];

/// Whose topic that of a PUBLISH is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Topic {
    /// Nothing was awaited when it came, so it was compared with none.
    #[default]
    Unknown,
    /// The connection's own.
    Own,
    /// Another.
    Other,
}

/// All of them, in the order of their numbers.
const TOPICS: [Topic; 3] = [Topic::Unknown, Topic::Own, Topic::Other];

/// What has come of the answer to a message: both parts are awaited at quality of service 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// The server's PUBACK.
    pub acknowledged: bool,
    /// The message itself, on the connection's own topic.
    pub delivered: bool,
}

/// Where a connection is. The default is between two packets, with nothing of an answer seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Parts of an answer. They outlive the packet.
    pub seen: Seen,
    /// What the next byte is.
    pub state: State,
    /// Whose topic it is.
    pub topic: Topic,
    /// The packet's first byte; within the properties of a CONNACK, the property's identifier.
    pub head: u8,
    /// See the states.
    pub at: u16,
    /// See the states; below 8.
    pub step: u8,
    /// Bytes of the packet that are to come, below 2^28; while its length is read, that length so far.
    pub left: u32,
}

/// Bits of the fields, from the lowest on. Together they are 64.
const LEFT: u32 = 28;
const STEP: u32 = 3;
const AT: u32 = 16;
const HEAD: u32 = 8;
const TOPIC: u32 = 2;
const STATE: u32 = 5;
const SEEN: u32 = 2;

const _: () = assert!(LEFT + STEP + AT + HEAD + TOPIC + STATE + SEEN == 64);

impl From<Position> for Place {
    fn from(position: Position) -> Place {
        let mut bits = u64::from(position.part) << 48 | u64::from(position.at) << 32 | u64::from(position.bytes);
        let mut take = |width: u32| {
            let value = bits & ((1 << width) - 1);
            bits >>= width;
            value
        };
        let (left, step, at, head) = (take(LEFT) as u32, take(STEP) as u8, take(AT) as u16, take(HEAD) as u8);
        let (topic, state, seen) = (take(TOPIC) as usize, take(STATE) as usize, take(SEEN));
        Place {
            seen: Seen { acknowledged: seen & 1 != 0, delivered: seen & 2 != 0 },
            // Numbers without a state are in no position that this file has made.
            state: STATES.get(state).copied().unwrap_or_default(),
            topic: TOPICS.get(topic).copied().unwrap_or_default(),
            head,
            at,
            step,
            left,
        }
    }
}

impl From<Place> for Position {
    fn from(place: Place) -> Position {
        let mut bits = 0;
        let mut put = |width: u32, value: u64| bits = bits << width | value & ((1 << width) - 1);
        put(SEEN, u64::from(place.seen.acknowledged) | u64::from(place.seen.delivered) << 1);
        put(STATE, place.state as u64);
        put(TOPIC, place.topic as u64);
        put(HEAD, place.head.into());
        put(AT, place.at.into());
        put(STEP, place.step.into());
        put(LEFT, place.left.into());
        Position { part: (bits >> 48) as u16, at: (bits >> 32) as u16, bytes: bits as u32 }
    }
}

impl Place {
    /// The packet has ended. What was seen of an answer stays.
    pub fn end(&mut self) {
        *self = Place { seen: self.seen, ..Place::default() };
    }

    /// So many bytes of the packet have come. It never has fewer.
    pub fn took(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes as u32);
    }

    /// Goes on with another state, from its beginning.
    pub fn enter(&mut self, state: State) {
        (self.state, self.step) = (state, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_place_survives_its_position(
            flags in prop::array::uniform2(any::<bool>()),
            state in 0..STATES.len(),
            topic in 0..TOPICS.len(),
            head: u8,
            at: u16,
            step in 0u8..1 << STEP,
            left in 0u32..1 << LEFT,
        ) {
            let [acknowledged, delivered] = flags;
            let seen = Seen { acknowledged, delivered };
            let place = Place { seen, state: STATES[state], topic: TOPICS[topic], head, at, step, left };
            prop_assert_eq!(Place::from(Position::from(place)), place);
        }
    }

    #[test]
    fn the_default_place_is_the_default_position() {
        assert_eq!(Position::from(Place::default()), Position::default());
        assert!(STATES.iter().enumerate().all(|(number, state)| *state as usize == number));
        assert!(TOPICS.iter().enumerate().all(|(number, topic)| *topic as usize == number));
    }
}
