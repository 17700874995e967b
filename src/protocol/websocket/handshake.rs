//! The opening handshake (RFC 6455, 4): an HTTP request for an upgrade, and the answer that proves that the server read
//! it.

use std::fmt;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, PAD, STANDARD as BASE64};

use crate::protocol::http::{RequestHead, ResponseHead};

/// Appended to the key before it is hashed (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The only version there is (RFC 6455, 11.6).
const VERSION: &[u8] = b"13";

/// Base64 whose last character may have bits of which none is used (RFC 4648, 3.5). The example of a key in RFC 6455, 4.1 has
/// some, and clients send it.
const LENIENT: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, PAD.with_decode_allow_trailing_bits(true));

/// `Sec-WebSocket-Key`: 16 bytes that the client chose, in Base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 24]);

/// `Sec-WebSocket-Accept`: what a server makes of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accept([u8; 28]);

/// Base64 of bytes whose encoding has exactly `N` bytes.
fn encode<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut text = [0; N];
    // The callers' lengths fit: 16 bytes make 24, and 20 make 28.
    let written = BASE64.encode_slice(bytes, &mut text);
    debug_assert_eq!(written, Ok(N));
    text
}

impl Key {
    /// The key of these bytes.
    pub fn new(nonce: [u8; 16]) -> Key {
        Key(encode(&nonce))
    }

    /// The key in a request: 24 characters of Base64 that stand for 16 bytes.
    fn read(value: &[u8]) -> Option<Key> {
        let text: [u8; 24] = value.try_into().ok()?;
        let mut nonce = [0; 18];
        (LENIENT.decode_slice(text, &mut nonce) == Ok(16)).then_some(Key(text))
    }

    /// What the server must make of it.
    pub fn accept(&self) -> Accept {
        let mut hash = sha1_smol::Sha1::from(self.0);
        hash.update(GUID);
        Accept(encode(&hash.digest().bytes()))
    }

    /// As it is sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Accept {
    /// As it is sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Why a handshake fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The request is none for WebSocket.
    NoUpgrade,
    /// The method is not GET, the version not HTTP/1.1, or `Connection` does not name the upgrade.
    Request,
    /// `Sec-WebSocket-Key` is missing or does not stand for 16 bytes.
    Key,
    /// Another version than 13 is asked for.
    Version,
    /// The server answers with this status and not 101.
    Status(u16),
    /// The answer does not name the upgrade.
    Answer,
    /// The answer does not follow from the key.
    Accept,
    /// The answer names an extension that was not asked for.
    Extension,
    /// The answer names a subprotocol that was not asked for.
    Subprotocol,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoUpgrade => f.write_str("no upgrade to WebSocket is asked for"),
            Refusal::Request => f.write_str("an upgrade is asked for by GET of HTTP/1.1, with Connection: Upgrade"),
            Refusal::Key => f.write_str("Sec-WebSocket-Key does not stand for 16 bytes"),
            Refusal::Version => f.write_str("only version 13 of WebSocket is spoken"),
            Refusal::Status(status) => write!(f, "the upgrade was answered with status {status}"),
            Refusal::Answer => f.write_str("the answer does not name the upgrade"),
            Refusal::Accept => f.write_str("Sec-WebSocket-Accept does not follow from the key"),
            Refusal::Extension => f.write_str("the answer has an extension that was not asked for"),
            Refusal::Subprotocol => f.write_str("the answer has a subprotocol that was not asked for"),
        }
    }
}

impl std::error::Error for Refusal {}

/// Checks a request for an upgrade, as a server does (RFC 6455, 4.2.1), and returns its key.
pub fn check_request(head: &RequestHead<'_>) -> Result<Key, Refusal> {
    if !head.fields.has("upgrade", "websocket") {
        return Err(Refusal::NoUpgrade);
    }
    if head.method != "GET" || head.minor < 1 || !head.fields.has("connection", "upgrade") {
        return Err(Refusal::Request);
    }
    if head.fields.single("sec-websocket-version") != Some(VERSION) {
        return Err(Refusal::Version);
    }
    head.fields.single("sec-websocket-key").and_then(Key::read).ok_or(Refusal::Key)
}

/// Checks the answer to a request with this key and these subprotocols, as a client does that asked for no extension
/// (RFC 6455, 4.1).
pub fn check_response(head: &ResponseHead<'_>, accept: Accept, subprotocols: &[&str]) -> Result<(), Refusal> {
    if head.status != 101 {
        return Err(Refusal::Status(head.status));
    }
    if !head.fields.has("upgrade", "websocket") || !head.fields.has("connection", "upgrade") {
        return Err(Refusal::Answer);
    }
    if head.fields.single("sec-websocket-accept") != Some(accept.as_bytes()) {
        return Err(Refusal::Accept);
    }
    if head.fields.list("sec-websocket-extensions").next().is_some() {
        return Err(Refusal::Extension);
    }
    let mut chosen = head.fields.all("sec-websocket-protocol");
    let asked = |chosen: &[u8]| subprotocols.iter().any(|asked| asked.as_bytes() == chosen);
    match (chosen.next(), chosen.next()) {
        (None, _) => Ok(()),
        (Some(chosen), None) if asked(chosen) => Ok(()),
        _ => Err(Refusal::Subprotocol),
    }
}

/// Appends the fields that make a request one for an upgrade to `into`, and offers these subprotocols.
pub fn write_request_fields(key: &Key, subprotocols: &[String], into: &mut Vec<u8>) {
    into.extend_from_slice(b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n");
    into.extend_from_slice(b"Sec-WebSocket-Key: ");
    into.extend_from_slice(key.as_bytes());
    into.extend_from_slice(b"\r\n");
    if !subprotocols.is_empty() {
        into.extend_from_slice(b"Sec-WebSocket-Protocol: ");
        into.extend_from_slice(subprotocols.join(", ").as_bytes());
        into.extend_from_slice(b"\r\n");
    }
}

/// Appends the answer that agrees to an upgrade to `into`.
pub fn write_accept(accept: Accept, subprotocol: Option<&str>, into: &mut Vec<u8>) {
    into.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
    into.extend_from_slice(b"Sec-WebSocket-Accept: ");
    into.extend_from_slice(accept.as_bytes());
    into.extend_from_slice(b"\r\n");
    if let Some(subprotocol) = subprotocol {
        let parts = [b"Sec-WebSocket-Protocol: ", subprotocol.as_bytes(), b"\r\n"];
        parts.iter().for_each(|part| into.extend_from_slice(part));
    }
    into.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Result<Key, Refusal> {
        check_request(&RequestHead::read(text.as_bytes()).unwrap().unwrap().0)
    }

    fn answered(text: &str, key: Key, subprotocols: &[&str]) -> Result<(), Refusal> {
        check_response(&ResponseHead::read(text.as_bytes()).unwrap().unwrap().0, key.accept(), subprotocols)
    }

    /// RFC 6455, 1.3.
    #[test]
    fn the_standard_s_own_example() {
        let key = Key::read(b"dGhlIHNhbXBsZSBub25jZQ==").unwrap();
        assert_eq!(key, Key::new(*b"the sample nonce"));
        assert_eq!(key.accept().as_bytes(), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        // RFC 6455, 4.1: the last character has bits that stand for nothing.
        assert!(Key::read(b"AQIDBAUGBwgJCgsMDQ4PEC==").is_some());
    }

    #[test]
    fn a_request_and_its_answer_are_taken_as_they_are_written() {
        let (key, mut fields, mut answer) = (Key::new([7; 16]), Vec::new(), Vec::new());
        write_request_fields(&key, &["c", "d"].map(str::to_owned), &mut fields);
        let request = format!("GET /b HTTP/1.1\r\nHost: a:1\r\n{}\r\n", String::from_utf8(fields).unwrap());
        assert_eq!(asked(&request), Ok(key));
        write_accept(key.accept(), Some("d"), &mut answer);
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(answered(&answer, key, &["c", "d"]), Ok(()));
        assert_eq!(answered(&answer, key, &["c"]), Err(Refusal::Subprotocol));
        assert_eq!(answered(&answer, Key::new([8; 16]), &["c", "d"]), Err(Refusal::Accept));
        let with = |from: &str, to: &str| answered(&answer.replace(from, to), key, &["d"]);
        assert_eq!(with("101 ", "503 "), Err(Refusal::Status(503)));
        assert_eq!(with("Upgrade: websocket", "Upgrade: h2c"), Err(Refusal::Answer));
        assert_eq!(with("Upgrade: ", "Sec-WebSocket-Extensions: a\r\nUpgrade: "), Err(Refusal::Extension));
        let asks = |from: &str, to: &str| asked(&request.replace(from, to));
        assert_eq!(asks("Upgrade: websocket", "Upgrade: WebSocket, h2c"), Ok(key));
        assert_eq!(asks("Upgrade: websocket\r\n", ""), Err(Refusal::NoUpgrade));
        assert_eq!(asks("Connection: Upgrade", "Connection: close"), Err(Refusal::Request));
        assert_eq!(asks("GET", "POST"), Err(Refusal::Request));
        assert_eq!(asks("Version: 13", "Version: 8"), Err(Refusal::Version));
        assert_eq!(asks("==", ""), Err(Refusal::Key));
        assert_eq!(asks("Key: BwcH", "Key: !!!!"), Err(Refusal::Key));
    }
}
