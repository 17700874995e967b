//! The lines of NATS: what a client says, as bytes, and what a server says in a line that is there as a whole (docs.nats.io,
//! "Client Protocol").

use serde::Serialize;

/// Bytes of a line at most, without its end: the longest that a server takes (`max_control_line` of nats-server).
pub const LONGEST_LINE: usize = 4_096;

/// The end of a line, and of a message's payload.
pub const END: &[u8; 2] = b"\r\n";

/// The answer to a PING of the server.
pub const PONG: &[u8] = b"PONG\r\n";

/// What CONNECT says. Neither `+OK` nor headers are wanted, nor later INFO lines (protocol 1).
#[derive(Debug, Serialize)]
pub struct Connect<'a> {
    verbose: bool,
    pedantic: bool,
    protocol: u8,
    headers: bool,
    echo: bool,
    lang: &'static str,
    version: &'static str,
    /// Names the connection in the server's lists.
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token: Option<&'a str>,
}

impl<'a> Connect<'a> {
    /// That of a connection with this name, user and password. Without a user the password is a token.
    pub fn new(name: &'a str, user: Option<&'a str>, password: Option<&'a str>) -> Connect<'a> {
        let (pass, auth_token) = if user.is_some() { (password, None) } else { (None, password) };
        Connect {
            verbose: false,
            pedantic: false,
            protocol: 0,
            headers: false,
            // A connection gets what it publishes itself.
            echo: true,
            lang: "rust",
            version: env!("CARGO_PKG_VERSION"),
            name,
            user,
            pass,
            auth_token,
        }
    }

    /// Appends it to `into`.
    pub fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(b"CONNECT ");
        // Texts, numbers and writing to memory cannot fail.
        let _ = serde_json::to_writer(&mut *into, self);
        into.extend_from_slice(END);
    }
}

/// Appends a SUB to `into`. Messages on the subject come with this number.
pub fn subscribe(subject: impl FnOnce(&mut Vec<u8>), subscription: usize, into: &mut Vec<u8>) {
    into.extend_from_slice(b"SUB ");
    subject(into);
    into.extend_from_slice(format!(" {subscription}\r\n").as_bytes());
}

/// Appends a PUB to `into`, whose payload has `length` bytes.
pub fn publish(
    subject: impl FnOnce(&mut Vec<u8>),
    length: usize,
    payload: impl FnOnce(&mut Vec<u8>),
    into: &mut Vec<u8>,
) {
    into.extend_from_slice(b"PUB ");
    subject(into);
    into.extend_from_slice(format!(" {length}\r\n").as_bytes());
    payload(into);
    into.extend_from_slice(END);
}

/// Appends a PING to `into`.
pub fn ping(into: &mut Vec<u8>) {
    into.extend_from_slice(b"PING\r\n");
}

/// The words with which a server's lines begin, in letters of either case. HMSG is not among them: only a client that wants
/// headers gets it.
const VERBS: [&[u8]; 6] = [b"INFO", b"MSG", b"PING", b"PONG", b"+OK", b"-ERR"];

/// Whether a server's line may begin with these bytes.
pub fn may_begin(bytes: &[u8]) -> bool {
    VERBS.iter().any(|verb| {
        let both = verb.len().min(bytes.len());
        verb[..both].eq_ignore_ascii_case(&bytes[..both])
    })
}

/// Whether a line that begins with these bytes is an INFO, as far as they tell.
pub fn is_info(bytes: &[u8]) -> bool {
    bytes.split_first_chunk().is_some_and(|(verb, rest): (&[u8; 4], _)| {
        verb.eq_ignore_ascii_case(b"INFO") && rest.first().is_some_and(|byte| is_blank(*byte))
    })
}

/// What a server says in one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// A message on a subscription. Its payload of so many bytes follows, and an end.
    Message {
        subscription: usize,
        length: u32,
    },
    Ping,
    Pong,
    Ok,
    /// What is wrong, in quotes.
    Error(&'a [u8]),
}

impl Line<'_> {
    /// Reads a line with its end. `None` if a server says no such thing. INFO is none of these: it may be longer than
    /// what is kept.
    pub fn read(line: &[u8]) -> Option<Line<'_>> {
        let line = line.strip_suffix(END)?;
        let mut fields = line.split(|byte| is_blank(*byte)).filter(|field| !field.is_empty());
        let verb = fields.next()?;
        if verb.eq_ignore_ascii_case(b"-ERR") {
            return Some(Line::Error(&line[verb.len()..]));
        }
        let [subject, subscription, third, fourth, more] = std::array::from_fn(|_| fields.next());
        if verb.eq_ignore_ascii_case(b"MSG") {
            // The subject that an answer should go to may stand before the length.
            let length = fourth.or(third)?;
            let is_whole = subject.is_some() && more.is_none();
            let subscription = number(subscription?)? as usize;
            return is_whole.then_some(Line::Message { subscription, length: number(length)? });
        }
        let alone = [("PING", Line::Ping), ("PONG", Line::Pong), ("+OK", Line::Ok)];
        let found = alone.into_iter().find(|(known, _)| verb.eq_ignore_ascii_case(known.as_bytes()));
        found.filter(|_| subject.is_none()).map(|(_, line)| line)
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A number of decimal digits alone.
fn number(digits: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}
