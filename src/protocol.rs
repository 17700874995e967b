//! Protocols without I/O: what a client says on its connections, and which bytes of the server are a proof.
//!
//! A protocol is one file in this directory that implements [`Dialect`], and one line in the registry at the end of
//! this file. It knows no ring, no socket and no clock. A driver hands it bytes and does what it answers.
//!
//! docs/guide/protocols.md explains how to write one, step by step, with a dialect of two steps that is tested in
//! `tests/session.rs`.
//!
//! # Rules that every dialect keeps
//!
//! - **No memory per connection.** Each message, and each answer to it, follows from the [`Exchange`] alone: the
//!   number of the connection, the round and the purpose. While an answer or an unasked frame is incomplete, a
//!   [`Position`] of 8 bytes says how far it has come, and [`Scratch::kept`] may hold some of its bytes. The driver
//!   keeps both in a table beside the connections, of those connections alone. A value that the server chose can
//!   therefore be repeated within the frame that it came in, but not later.
//! - **Bytes are cut anywhere.** The network decides how many bytes one call of [`Dialect::hear`] gets. The verdict
//!   on a stream of bytes is the same however it is cut, and [`Heard::used`] tells where the next message begins, so
//!   one segment may hold several answers.
//! - **A handshake may take several steps**, as many as [`Dialect::steps`] says. Each step is an exchange: bytes to send,
//!   which may be none, and an answer to await. The next step follows the answer.
//! - **Unasked bytes are judged here.** `hear` without an exchange gets the bytes that came while nothing was asked.
//!   A dialect passes over them ([`Verdict::Aside`]), tells that they are a message of a subscription
//!   ([`Verdict::Push`]), answers them (bytes in [`Scratch::reply`], as a WebSocket Pong to a Ping) or refuses them.
//! - **The position belongs to the stream of bytes.** It is the default when the connection opens, and `hear` leaves it
//!   as the next byte needs it, whatever the verdict was. The default means that nothing is incomplete. So a frame that
//!   began unasked may end while an exchange is in flight.
//!
//! TLS is a layer between the driver and the dialect. It opens records in the receive buffer and hands their content on.
//! A dialect need not know where a record ends, because its bytes may be cut anywhere.

mod echo;
pub mod http;
mod mqtt;
mod nats;
mod payload;
pub mod publication;
pub mod push;
mod raw;
mod search;
mod send_expect;
mod settings;
mod template;
#[cfg(test)]
mod tests;
mod utf8;
pub mod websocket;

use crate::constants::BUFFER_BYTES;
use crate::failure::Cause;

use publication::Altered;

pub use http::{Authority, Http};
pub use mqtt::{Mqtt, MqttSettings};
pub use nats::Nats;
pub use publication::Publication;
pub use push::Push;
pub use raw::{LONGEST_PAYLOAD, Raw};
pub use send_expect::{Pattern, SendExpect};
pub use settings::{HIDDEN, RequestError, SettingError, Settings, is_secret_field};
pub use template::{Template, TemplateError};
pub use websocket::WebSocket;

/// What an exchange is for. A dialect says another message for each, if it likes, and knows by it which answer to expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A step of opening the connection, from 0 on ([`Dialect::steps`]). The connection is live when the last one is
    /// answered.
    Open(u8),
    /// An audit: the answer proves that the connection is live.
    Audit,
    /// Traffic while the connections are held (`--interval`).
    Message,
    /// A sign of life, so that neither the server nor a middlebox closes the connection for silence.
    Keepalive,
    /// The orderly end, of a dialect whose goodbye is answered ([`Dialect::awaits_goodbye`]).
    Goodbye,
    /// A publication, of a dialect whose publications are acknowledged ([`Dialect::is_acknowledged`]).
    Publish,
}

/// A message on one connection and its answer: all that the bytes of both follow from. A connection has one exchange
/// in flight at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// The connection's number, which it keeps as long as it is open (`Workload::first_number` and on).
    pub number: u64,
    /// Tells exchanges of the same connection and purpose apart; 0 while it is opened.
    pub round: u32,
    /// What it is for.
    pub purpose: Purpose,
}

/// How far an incomplete answer or frame has come. What the fields count is up to the dialect. It is the default when the
/// connection opens, and afterwards what the last call of `hear` for that connection left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The part of the answer, or the state of a parser.
    pub part: u16,
    /// Bytes of that part.
    pub at: u16,
    /// Bytes of the answer in all.
    pub bytes: u32,
}

const _: () = assert!(size_of::<Position>() == 8, "many answers of a crowd may be incomplete at the same time");

/// What a dialect makes of the bytes that it has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They are right so far, and the answer is not complete. All bytes must be used.
    Part,
    /// The answer is complete and right. The exchange ends; the driver asks for the next step of opening, if it was one.
    Proof,
    /// They belong to no answer and are no fault. An exchange in flight goes on.
    Aside,
    /// They end a message of a subscription: this publication. An exchange in flight goes on.
    Push(Publication),
    /// The same, and the server says that it may have sent it on this connection's behalf before (DUP of MQTT).
    PushAgain(Publication),
    /// The server ends the connection in order, for this cause, as with a Close of WebSocket. The connection has failed
    /// unless the server may do that; it is closed by FIN. With a reply, which is the last word then, the server's FIN is
    /// awaited before. Whatever follows is not heard.
    Ended(Cause),
    /// They are not what the server should have sent, for this cause. The connection has failed and is reset.
    Wrong(Cause),
}

impl Verdict {
    /// The verdict on a message with a publication in it.
    fn of_publication(found: Result<Publication, Altered>) -> Verdict {
        found.map_or(Verdict::Wrong(Cause::AlteredPublication), Verdict::Push)
    }

    /// The first verdict on the parts of an answer. `next` takes bytes of the next part off those that are left, and judges
    /// the part once it is whole. `Part` if all bytes are taken before that.
    fn first_of(rest: &mut &[u8], mut next: impl FnMut(&mut &[u8]) -> Result<Option<Verdict>, Cause>) -> Verdict {
        loop {
            match next(rest) {
                Err(cause) => return Verdict::Wrong(cause),
                Ok(Some(verdict)) => return verdict,
                Ok(None) if rest.is_empty() => return Verdict::Part,
                Ok(None) => {}
            }
        }
    }
}

/// A verdict, and how many bytes it is about; the rest is to be heard again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Bytes from the beginning that are dealt with: at least one, and all of them if the verdict is `Part`.
    pub used: usize,
    /// What they are.
    pub verdict: Verdict,
}

/// Memory that a driver lends to a dialect for one call, so that hearing allocates nothing. Each shard has one, for all
/// of its connections: what an earlier call left in it means nothing, but for `kept`.
#[derive(Debug, Default)]
pub struct Scratch {
    /// For the bytes that are expected. A dialect clears it before use.
    expected: Vec<u8>,
    /// For the table with which a literal is searched.
    borders: Vec<u16>,
    /// Bytes to send, after whatever verdict but `Wrong`. The driver empties it.
    pub reply: Vec<u8>,
    /// The server goes on with the session of an earlier connection. The driver counts that, and takes it back.
    pub has_session: bool,
    /// Bytes of this connection's incomplete frame that will be needed with its end, such as the payload of a Ping; at
    /// most [`MOST_KEPT`]. The driver brings them back with the next bytes of the connection. A dialect empties it
    /// when the frame is whole.
    pub kept: Vec<u8>,
}

/// Bytes of an incomplete frame or head that a dialect may keep.
pub const MOST_KEPT: usize = http::LONGEST_HEAD;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// To be there, and to talk with the server.
    #[default]
    Peer,
    /// To get what publishers publish.
    Subscriber,
    /// To publish.
    Publisher,
}

/// What an answer of a protocol proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// The answer holds a token of its connection and round: the service behind the server has read the message and
    /// written the answer, on the right connection.
    EndToEnd,
    /// The answer holds such a token, but a gateway in front of the service may write it (as a Pong of WebSocket).
    Gateway,
    /// An answer came. It would look the same on another connection or in another round.
    Liveness,
}

impl Strength {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Strength::EndToEnd => "end-to-end",
            Strength::Gateway => "gateway",
            Strength::Liveness => "liveness",
        }
    }

    /// What answers of the service prove: each holds its token, or all are the same.
    fn of_service(has_token: bool) -> Strength {
        if has_token { Strength::EndToEnd } else { Strength::Liveness }
    }
}

/// One protocol as a client speaks it: pure functions over its settings. See the module for the rules.
pub trait Dialect: Sized {
    /// Its name on the command line and in reports.
    const NAME: &'static str;
    /// The settings that it takes.
    const SETTINGS: &'static [&'static str];
    /// What it says, as the end of a sentence that begins with its name.
    const SAYS: &'static str;

    /// The dialect with these settings, which are all its own. Fails if one cannot be.
    fn new(settings: &Settings) -> Result<Self, SettingError>;

    /// What the answer of an audit proves.
    fn strength(&self) -> Strength;

    /// Bytes of the longest message of an audit or of traffic. If that is more than a segment, the client's sockets send
    /// without waiting for acknowledgements (TCP_NODELAY).
    fn longest_message(&self) -> usize;

    /// How many steps it takes to open a connection. Without any it is live as soon as it is established.
    fn steps(&self) -> u8;

    /// Appends what an exchange sends to `into`: a step of opening, the message of an audit, one of traffic, or one that
    /// keeps the connection alive. A step may send nothing and only await something.
    fn ask(&self, exchange: Exchange, into: &mut Vec<u8>);

    /// Appends what a step of opening sends to `into`. `false` if there is no such step: the connection is live.
    fn open(&self, number: u64, step: u8, into: &mut Vec<u8>) -> bool {
        let is_step = step < self.steps();
        if is_step {
            self.ask(Exchange::opening(number, step), into);
        }
        is_step
    }

    /// Judges the bytes that came next, at least one, on a connection with this exchange in flight; without an exchange
    /// the bytes are unasked. `position` and `Scratch::kept` are what the last call for the same connection left. The
    /// driver calls again with the bytes that were not used.
    fn hear(&self, exchange: Option<Exchange>, position: &mut Position, bytes: &[u8], scratch: &mut Scratch) -> Heard;

    /// Appends what a publisher says to publish this to `into`; `number` is that of its connection. `false` if it says
    /// nothing, because the protocol or these settings publish nothing.
    fn publish(&self, _number: u64, _publication: &Publication, _into: &mut Vec<u8>) -> bool {
        false
    }

    /// Whether the server acknowledges publications. Then each is an exchange with [`Purpose::Publish`], whose round is the
    /// publication's number, and a publisher has one in flight at a time.
    fn is_acknowledged(&self) -> bool {
        false
    }

    /// Appends what is said before the client closes the connection to `into`. Whether there is a goodbye must not
    /// depend on the number: the driver asks for that of number 0 ahead of time.
    fn goodbye(&self, _number: u64, _into: &mut Vec<u8>) {}

    /// Whether the goodbye is answered. Then it is an exchange with [`Purpose::Goodbye`]; after its proof the server closes
    /// the connection, or the client when that is late. Answers to what was asked before are still to come, and no fault.
    fn awaits_goodbye(&self) -> bool {
        false
    }

    /// Whether the server answers the goodbye by closing the connection, and by nothing else.
    fn is_closed_by_server(&self) -> bool {
        false
    }

    /// Whether the server must be heard, because the connection is none of this protocol otherwise. Then audits ask for
    /// answers, and nothing else.
    fn must_hear(&self) -> bool {
        false
    }

    /// Seconds for which a connection may be silent by what the server was told; `None` is for any time. The driver gives
    /// signs of life more often than that.
    fn allowed_silence(&self) -> Option<u32> {
        None
    }

    /// Why a connection failed that was live, and whose server closed it without a word of the protocol.
    fn cut_off(&self) -> Cause {
        Cause::ClosedByServer
    }
}

/// A number that looks random and differs for each input (the finalizer of SplitMix64, Steele, Lea and Flood 2014).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number as 16 hexadecimal digits.
fn digits(number: u64) -> [u8; 16] {
    std::array::from_fn(|nth| {
        let digit = (number >> (60 - 4 * nth)) as u8 & 0xf;
        digit + if digit < 10 { b'0' } else { b'a' - 10 }
    })
}

/// Fills `into` up to `end` bytes with hexadecimal digits that follow from a token, and cuts off what it has beyond.
fn fill(token: u64, end: usize, into: &mut Vec<u8>) {
    let mut word = token;
    while into.len() < end {
        word = mix(word);
        into.extend_from_slice(&digits(word));
    }
    into.truncate(end);
}

impl Exchange {
    /// A step of opening a connection.
    pub fn opening(number: u64, step: u8) -> Exchange {
        Exchange { number, round: 0, purpose: Purpose::Open(step) }
    }

    /// The token of this exchange. It differs from that of every other connection in the same round, and from that
    /// of every other round of the same connection; two tokens of other connections and other rounds are the same
    /// with a chance of 2^-64.
    pub fn token(self) -> u64 {
        let purpose = match self.purpose {
            Purpose::Open(_) => 0,
            Purpose::Audit => 1,
            Purpose::Message => 2_u64,
            Purpose::Keepalive => 3,
            Purpose::Goodbye => 4,
            Purpose::Publish => 5,
        };
        mix(self.number ^ mix(purpose << 32 | u64::from(self.round)))
    }
}

/// Makes the enum of all dialects: calls of it cost a jump, and the compiler sees through them.
macro_rules! registry {
    ($($variant:ident,)*) => {
        /// A protocol that was chosen, with its settings. The default is `raw`.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Protocol {$(
            #[doc = concat!("See [`", stringify!($variant), "`].")]
            $variant($variant),
        )*}

        impl Protocol {
            /// The names of all protocols.
            pub const NAMES: &'static [&'static str] = &[$($variant::NAME,)*];

            /// The names of the protocols that take a setting.
            pub(crate) fn taking(setting: &str) -> Vec<&'static str> {
                let all = [$(($variant::NAME, $variant::SETTINGS),)*];
                all.into_iter().filter(|(_, takes)| takes.contains(&setting)).map(|(name, _)| name).collect()
            }

            /// The protocol of this name with these settings. Fails if there is none of this name, if it does not
            /// take one of the settings, or if one of them cannot be.
            pub fn new(name: &str, settings: &Settings) -> Result<Protocol, SettingError> {
                $(if name == $variant::NAME {
                    settings.suit::<$variant>()?;
                    return $variant::new(settings).map(Protocol::$variant);
                })*
                Err(SettingError::Unknown(name.to_owned()))
            }

            /// Its name.
            pub fn name(&self) -> &'static str {
                match self { $(Protocol::$variant(_) => $variant::NAME,)* }
            }

            /// See [`Dialect::strength`].
            pub fn strength(&self) -> Strength {
                match self { $(Protocol::$variant(dialect) => dialect.strength(),)* }
            }

            /// See [`Dialect::longest_message`].
            pub fn longest_message(&self) -> usize {
                match self { $(Protocol::$variant(dialect) => dialect.longest_message(),)* }
            }

            /// See [`Dialect::steps`].
            pub fn steps(&self) -> u8 {
                match self { $(Protocol::$variant(dialect) => dialect.steps(),)* }
            }

            /// See [`Dialect::open`].
            pub fn open(&self, number: u64, step: u8, into: &mut Vec<u8>) -> bool {
                match self { $(Protocol::$variant(dialect) => dialect.open(number, step, into),)* }
            }

            /// See [`Dialect::ask`].
            pub fn ask(&self, exchange: Exchange, into: &mut Vec<u8>) {
                match self { $(Protocol::$variant(dialect) => dialect.ask(exchange, into),)* }
            }

            /// See [`Dialect::hear`].
            #[inline]
            pub fn hear(
                &self,
                exchange: Option<Exchange>,
                position: &mut Position,
                bytes: &[u8],
                scratch: &mut Scratch,
            ) -> Heard {
                match self { $(Protocol::$variant(dialect) => dialect.hear(exchange, position, bytes, scratch),)* }
            }

            /// See [`Dialect::publish`].
            pub fn publish(&self, number: u64, publication: &Publication, into: &mut Vec<u8>) -> bool {
                match self { $(Protocol::$variant(dialect) => dialect.publish(number, publication, into),)* }
            }

            /// See [`Dialect::is_acknowledged`].
            pub fn is_acknowledged(&self) -> bool {
                match self { $(Protocol::$variant(dialect) => dialect.is_acknowledged(),)* }
            }

            /// See [`Dialect::goodbye`].
            pub fn goodbye(&self, number: u64, into: &mut Vec<u8>) {
                match self { $(Protocol::$variant(dialect) => dialect.goodbye(number, into),)* }
            }

            /// See [`Dialect::awaits_goodbye`].
            pub fn awaits_goodbye(&self) -> bool {
                match self { $(Protocol::$variant(dialect) => dialect.awaits_goodbye(),)* }
            }

            /// See [`Dialect::is_closed_by_server`].
            pub fn is_closed_by_server(&self) -> bool {
                match self { $(Protocol::$variant(dialect) => dialect.is_closed_by_server(),)* }
            }

            /// See [`Dialect::must_hear`].
            pub fn must_hear(&self) -> bool {
                match self { $(Protocol::$variant(dialect) => dialect.must_hear(),)* }
            }

            /// See [`Dialect::allowed_silence`].
            pub fn allowed_silence(&self) -> Option<u32> {
                match self { $(Protocol::$variant(dialect) => dialect.allowed_silence(),)* }
            }

            /// See [`Dialect::cut_off`].
            pub fn cut_off(&self) -> Cause {
                match self { $(Protocol::$variant(dialect) => dialect.cut_off(),)* }
            }
        }
    };
}

impl Protocol {
    /// Whether it publishes, as a publisher's with these settings does.
    pub fn publishes(&self) -> bool {
        let least = Publication { run: 0, number: 0, instant: 0, length: publication::LENGTH as u32 };
        self.publish(0, &least, &mut Vec::new())
    }

    /// Bytes that are sent at once at most: a message, or a step of opening a connection.
    pub fn longest_send(&self) -> usize {
        let mut bytes = Vec::new();
        let mut step = |step| {
            bytes.clear();
            self.ask(Exchange { number: u64::MAX, round: 0, purpose: Purpose::Open(step) }, &mut bytes);
            bytes.len()
        };
        (0..self.steps()).map(&mut step).fold(self.longest_message(), usize::max)
    }
}

impl Default for Protocol {
    fn default() -> Protocol {
        Protocol::Raw(Raw::default())
    }
}

/// Bytes of a message that is typed on the command line at most: one receive buffer of our own server.
const LONGEST_TYPED: usize = BUFFER_BYTES;

// Every protocol there is, a line each.
registry! {
    Raw,
    SendExpect,
    WebSocket,
    Http,
    Mqtt,
    Nats,
    Push,
}
