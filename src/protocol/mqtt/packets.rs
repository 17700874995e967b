//! The packets that a client sends, as bytes (MQTT 3.1.1 and 5.0, sections 2 and 3).

/// A version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V3,
    /// MQTT 5.
    V5,
}

/// The first byte of each packet, of clients and of servers: the kind, and the flags that it must have.
pub mod head {
    pub const CONNECT: u8 = 0x10;
    pub const CONNACK: u8 = 0x20;
    pub const PUBLISH: u8 = 0x30;
    pub const PUBACK: u8 = 0x40;
    pub const SUBSCRIBE: u8 = 0x82;
    pub const SUBACK: u8 = 0x90;
    pub const PINGREQ: u8 = 0xc0;
    pub const PINGRESP: u8 = 0xd0;
    pub const DISCONNECT: u8 = 0xe0;

    /// The bits of a PUBLISH that tell its kind. The others are the following flags.
    pub const KIND: u8 = 0xf0;
    /// Its quality of service is 1, and not 0.
    pub const AT_LEAST_ONCE: u8 = 0x02;
    /// It may have come before.
    pub const REPEATED: u8 = 0x08;
    /// It may be older than the subscription.
    pub const RETAINED: u8 = 0x01;
}

/// Identifiers of properties (MQTT 5.0, section 2.2.2.2).
pub mod property {
    pub const SESSION_EXPIRY: u8 = 0x11;
    pub const ASSIGNED_CLIENT: u8 = 0x12;
    pub const SERVER_KEEPALIVE: u8 = 0x13;
    pub const RESPONSE_INFORMATION: u8 = 0x1a;
    pub const SERVER_REFERENCE: u8 = 0x1c;
    pub const REASON: u8 = 0x1f;
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub const MAXIMUM_QOS: u8 = 0x24;
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    pub const USER: u8 = 0x26;
    pub const MAXIMUM_PACKET: u8 = 0x27;
    pub const WILDCARDS_AVAILABLE: u8 = 0x28;
    pub const IDENTIFIERS_AVAILABLE: u8 = 0x29;
    pub const SHARED_AVAILABLE: u8 = 0x2a;
}

/// Bits of the connect flags.
const USER: u8 = 0x80;
const PASSWORD: u8 = 0x40;
const WILL_AT_LEAST_ONCE: u8 = 0x08;
const WILL: u8 = 0x04;
const CLEAN: u8 = 0x02;

/// What a CONNECT says. `T` is a text or binary data that is written when the packet is.
#[derive(Debug, Clone, Copy)]
pub struct Connect<T> {
    /// The version that is spoken.
    pub version: Version,
    /// A session that the server has is forgotten.
    pub clean: bool,
    /// Seconds for which the session outlives the connection; MQTT 5 alone says it.
    pub expiry: u32,
    /// Seconds of silence that the server allows, 0 for any.
    pub keepalive: u16,
    /// Names the session. Empty: the server chooses a name.
    pub client: T,
    /// The topic and the message that the server publishes if the connection ends without DISCONNECT.
    pub will: Option<(T, T)>,
    /// The quality of service of the will is 1, and not 0.
    pub at_least_once: bool,
    /// The user's name.
    pub user: Option<T>,
    /// The user's password.
    pub password: Option<T>,
}

impl<T: Fn(&mut Vec<u8>)> Connect<T> {
    /// Appends it to `into`.
    pub fn write(&self, into: &mut Vec<u8>) {
        let is_v5 = self.version == Version::V5;
        let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        let flags = bit(self.user.is_some(), USER)
            | bit(self.password.is_some(), PASSWORD)
            | bit(self.will.is_some(), WILL)
            | bit(self.will.is_some() && self.at_least_once, WILL_AT_LEAST_ONCE)
            | bit(self.clean, CLEAN);
        packet(head::CONNECT, into, |into| {
            text(into, |into| into.extend_from_slice(b"MQTT"));
            into.extend_from_slice(&[if is_v5 { 5 } else { 4 }, flags]);
            into.extend_from_slice(&self.keepalive.to_be_bytes());
            if is_v5 && self.expiry > 0 {
                into.extend_from_slice(&[5, property::SESSION_EXPIRY]);
                into.extend_from_slice(&self.expiry.to_be_bytes());
            } else {
                no_properties(self.version, into);
            }
            text(into, &self.client);
            if let Some((topic, message)) = &self.will {
                no_properties(self.version, into);
                text(into, topic);
                text(into, message);
            }
            self.user.iter().chain(&self.password).for_each(|secret| text(into, secret));
        });
    }
}

/// Appends a SUBSCRIBE to `into`: to each of these topic filters at one quality of service.
pub fn subscribe(
    version: Version,
    identifier: u16,
    filters: impl Iterator<Item: FnOnce(&mut Vec<u8>)>,
    at_least_once: bool,
    into: &mut Vec<u8>,
) {
    packet(head::SUBSCRIBE, into, |into| {
        into.extend_from_slice(&identifier.to_be_bytes());
        no_properties(version, into);
        for filter in filters {
            text(into, filter);
            into.push(at_least_once.into());
        }
    });
}

/// Appends a PUBLISH to `into`. With an identifier its quality of service is 1, else 0.
pub fn publish(
    version: Version,
    identifier: Option<u16>,
    topic: impl FnOnce(&mut Vec<u8>),
    payload: impl FnOnce(&mut Vec<u8>),
    into: &mut Vec<u8>,
) {
    let quality = if identifier.is_some() { head::AT_LEAST_ONCE } else { 0 };
    packet(head::PUBLISH | quality, into, |into| {
        text(into, topic);
        identifier.iter().for_each(|identifier| into.extend_from_slice(&identifier.to_be_bytes()));
        no_properties(version, into);
        payload(into);
    });
}

/// Appends the acknowledgement of a message to `into`. It is the same in both versions.
pub fn puback(identifier: u16, into: &mut Vec<u8>) {
    packet(head::PUBACK, into, |into| into.extend_from_slice(&identifier.to_be_bytes()));
}

/// Appends a PINGREQ to `into`.
pub fn pingreq(into: &mut Vec<u8>) {
    into.extend_from_slice(&[head::PINGREQ, 0]);
}

/// Appends a DISCONNECT to `into`: the connection ends in order, and no will is published.
pub fn disconnect(into: &mut Vec<u8>) {
    into.extend_from_slice(&[head::DISCONNECT, 0]);
}

/// Appends a string or binary data to `into`, its length in front. Templates make no more than 4,096 bytes.
fn text(into: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = into.len();
    into.extend_from_slice(&[0; 2]);
    write(into);
    let length = (into.len() - start - 2) as u16;
    into[start..start + 2].copy_from_slice(&length.to_be_bytes());
}

/// Appends the length of no properties to `into`. MQTT 3.1.1 has none.
fn no_properties(version: Version, into: &mut Vec<u8>) {
    if version == Version::V5 {
        into.push(0);
    }
}

/// Appends a packet to `into`: its first byte, the length of its body, and the body.
fn packet(head: u8, into: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = into.len();
    body(into);
    let (length, bytes) = variable(into.len() - start);
    // The length is known only now, and stands in front.
    into.push(head);
    into.extend_from_slice(&length[..bytes]);
    into[start..].rotate_right(1 + bytes);
}

/// A length as a variable byte integer: seven bits in each byte, the lowest first. Its bytes, and how many there are.
/// Four bytes hold what is below 2^28 (268,435,456), which no caller exceeds.
pub fn variable(mut length: usize) -> ([u8; 4], usize) {
    let mut bytes = [0; 4];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            return (bytes, index + 1);
        }
        *byte |= 0x80;
    }
    (bytes, 4)
}
