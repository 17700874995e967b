//! Records of TLS 1.3 and 1.2 that an authenticated peer sends, honest or not.

use super::Input;
use crate::tls::record::forge::Forge;
use crate::tls::record::{
    Alert, HEADER, KeyCache, Messages, Opened, Session, Side, Suite, Traffic, Unsealed, record_length,
};

// The types of content and messages, once more, so that a wrong number is seen.
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// A stream of records and what is sealed in between. Each record comes to what a model says, which keeps the stream of
/// messages as plain bytes. The first byte has the suite and the side.
pub fn records(bytes: &[u8]) {
    whole_and_cut_headers_agree(bytes);
    let mut input = Input(bytes);
    let first = input.byte();
    let side = if first & 1 == 0 { Side::Client } else { Side::Server };
    match first >> 1 & 3 {
        0 if first & 8 != 0 => talk::<48>(side, Suite::Tls12Aes256Gcm, &mut input),
        1 if first & 8 != 0 => talk::<48>(side, Suite::Tls12ChaCha20Poly1305, &mut input),
        _ if first & 8 != 0 => talk::<48>(side, Suite::Tls12Aes128Gcm, &mut input),
        0 => talk::<48>(side, Suite::Aes256Gcm, &mut input),
        1 => talk::<32>(side, Suite::ChaCha20Poly1305, &mut input),
        _ => talk::<32>(side, Suite::Aes128Gcm, &mut input),
    }
}

/// A longer piece of a record never takes back what a shorter one told.
fn whole_and_cut_headers_agree(bytes: &[u8]) {
    let whole = record_length(bytes);
    let cut = (0..bytes.len()).map(|length| record_length(&bytes[..length])).find(|cut| *cut != Ok(None));
    assert_eq!(cut.unwrap_or(whole), whole);
}

/// What a record shall come to.
#[derive(Debug, PartialEq)]
enum Meaning {
    Nothing,
    Data(Vec<u8>),
    Tickets(Vec<Vec<u8>>),
    KeyUpdate,
    Alert(Alert),
}

/// What the session should know of its peer.
struct Model {
    side: Side,
    is_tls12: bool,
    /// The bytes of a message that is not whole.
    message: Vec<u8>,
    /// Records in a row that brought nothing.
    futile: u32,
    is_over: bool,
    is_asked: bool,
    /// The last record had a KeyUpdate.
    has_updated: bool,
}

impl Model {
    fn record(&mut self, kind: u8, content: &[u8]) -> Result<Meaning, Alert> {
        self.has_updated = false;
        let meaning = if self.is_over { Ok(Meaning::Nothing) } else { self.judge(kind, content) };
        self.is_over |= matches!(meaning, Err(_) | Ok(Meaning::Alert(_)));
        meaning
    }

    fn judge(&mut self, kind: u8, content: &[u8]) -> Result<Meaning, Alert> {
        let asks = if self.side == Side::Server { CLIENT_HELLO } else { HELLO_REQUEST };
        match (kind, content) {
            (HANDSHAKE, [kind, ..]) if self.is_tls12 && *kind == asks => {
                self.is_asked = true;
                self.futile(Meaning::Nothing)
            }
            (HANDSHAKE, _) if self.is_tls12 => Err(Alert::UNEXPECTED_MESSAGE),
            // A warning that is none of the end.
            (ALERT, [1, description]) if self.is_tls12 && *description != 0 => self.futile(Meaning::Nothing),
            (0 | CHANGE_CIPHER_SPEC, _) | (ALERT | HANDSHAKE, []) => Err(Alert::UNEXPECTED_MESSAGE),
            (ALERT, [_, 90]) => self.futile(Meaning::Nothing),
            (ALERT, [_, description]) => Ok(Meaning::Alert(Alert(*description))),
            (ALERT, _) => Err(Alert::DECODE_ERROR),
            (HANDSHAKE, _) => self.messages(content),
            (DATA, _) if !self.message.is_empty() => Err(Alert::UNEXPECTED_MESSAGE),
            (DATA, []) => self.futile(Meaning::Nothing),
            (DATA, _) => {
                self.futile = 0;
                Ok(Meaning::Data(content.to_vec()))
            }
            _ => Err(Alert::UNEXPECTED_MESSAGE),
        }
    }

    fn futile(&mut self, meaning: Meaning) -> Result<Meaning, Alert> {
        self.futile += 1;
        if self.futile > 32 { Err(Alert::UNEXPECTED_MESSAGE) } else { Ok(meaning) }
    }

    fn messages(&mut self, content: &[u8]) -> Result<Meaning, Alert> {
        self.message.extend(content);
        let mut tickets = Vec::new();
        while let Some(kind) = self.message.first().copied() {
            if kind != KEY_UPDATE && (kind, self.side) != (TICKET, Side::Client) {
                return Err(Alert::UNEXPECTED_MESSAGE);
            }
            let Some(length) = self.message.get(1..4) else { break };
            let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            match (kind, length) {
                (KEY_UPDATE, 1) | (TICKET, ..=0xffff) => {}
                (KEY_UPDATE, _) => return Err(Alert::DECODE_ERROR),
                _ => return Err(Alert::INTERNAL_ERROR),
            }
            let Some(body) = self.message.get(4..4 + length).map(<[u8]>::to_vec) else { break };
            self.message.drain(..4 + length);
            if kind == TICKET {
                tickets.push(body);
            } else if !self.message.is_empty() {
                return Err(Alert::UNEXPECTED_MESSAGE);
            } else if body[0] > 1 {
                return Err(Alert::ILLEGAL_PARAMETER);
            } else {
                self.has_updated = true;
                self.is_asked |= body[0] == 1;
            }
        }
        if !tickets.is_empty() {
            self.futile = 0;
            return Ok(Meaning::Tickets(tickets));
        }
        self.futile(if self.has_updated { Meaning::KeyUpdate } else { Meaning::Nothing })
    }
}

/// Both ends of what our side sees.
struct Ends<const SECRET: usize> {
    ours: Session<SECRET>,
    keys: KeyCache,
    messages: Messages,
    /// Seals what we open.
    forge: Forge<SECRET>,
    /// Opens what we seal.
    reader: Session<SECRET>,
    model: Model,
}

fn talk<const SECRET: usize>(side: Side, suite: Suite, input: &mut Input<'_>) {
    let (down, up) = ([0x51; SECRET], [0x52; SECRET]);
    let half = |secret: &[u8]| Traffic::<SECRET>::new(secret, 0).unwrap();
    let other = if side == Side::Client { Side::Server } else { Side::Client };
    let mut ends = Ends {
        ours: Session::new(side, suite, half(&down), half(&up)).unwrap(),
        keys: KeyCache::new(4),
        messages: Messages::new(),
        forge: Forge::new(suite, &down, 0),
        reader: Session::new(other, suite, half(&up), half(&[0x53; SECRET])).unwrap(),
        model: Model {
            side,
            is_tls12: suite.is_tls12(),
            message: Vec::new(),
            futile: 0,
            is_over: false,
            is_asked: false,
            has_updated: false,
        },
    };
    while !input.0.is_empty() {
        let step = input.byte();
        let length = usize::from(input.byte()).min(input.0.len());
        let (content, later) = input.0.split_at(length);
        input.0 = later;
        match step & 7 {
            0 | 1 => ends.arrives(DATA, content, usize::from(step >> 3) * 40),
            2 | 3 => ends.arrives(HANDSHAKE, content, usize::from(step >> 3)),
            4 => ends.arrives(ALERT, content, 0),
            5 => ends.arrives(step >> 3, content, 1),
            6 => ends.arrives_changed(content, step >> 3),
            _ => ends.seals(content),
        }
    }
    let Ends { ours, mut keys, mut messages, reader, .. } = ends;
    ours.forget(&mut keys, &mut messages);
    reader.forget(&mut keys, &mut messages);
    assert!(keys.is_empty() && messages.bytes() == 0);
}

impl<const SECRET: usize> Ends<SECRET> {
    fn arrives(&mut self, kind: u8, content: &[u8], padding: usize) {
        let mut record = self.forge.record(kind, content, padding);
        // Content of type 0 is padding, and its last byte that is not 0 is the type.
        let last = content.iter().rposition(|byte| *byte != 0).filter(|_| kind == 0 && !self.model.is_tls12);
        let (kind, content) = last.map_or((kind, content), |last| (content[last], &content[..last]));
        let meant = self.model.record(kind, content);
        match self.ours.record_length(&record) {
            Ok(length) => assert_eq!(length, Some(record.len())),
            Err(alert) => assert!(self.model.is_tls12 && !(ALERT..=DATA).contains(&kind), "{alert}"),
        }
        let opened = self.ours.open(&mut self.keys, &mut self.messages, &mut record);
        let meaning = opened.map(|opened| match opened {
            Opened::Nothing => Meaning::Nothing,
            Opened::Data(place) => Meaning::Data(record[place].to_vec()),
            Opened::Tickets(place) => {
                Meaning::Tickets(self.messages.tickets(&record[place]).map(<[u8]>::to_vec).collect())
            }
            Opened::KeyUpdate => Meaning::KeyUpdate,
            Opened::Alert(alert) => Meaning::Alert(alert),
        });
        assert_eq!(meaning, meant);
        if self.model.has_updated {
            self.forge.update();
        }
        if !self.model.is_over {
            assert_eq!(self.ours.key_update_due(), self.model.is_asked && !self.model.is_tls12);
            assert_eq!(self.ours.refusal_due(), self.model.is_asked && self.model.is_tls12);
            assert_eq!(self.messages.bytes() > 0, !self.model.message.is_empty());
        }
    }

    /// A record with one byte changed, in its version or behind its header.
    fn arrives_changed(&mut self, content: &[u8], at: u8) {
        let mut record = self.forge.record(DATA, content, 0);
        let places: Vec<usize> = (1..3).chain(HEADER..record.len()).collect();
        record[places[usize::from(at) % places.len()]] ^= 1;
        let opened = self.ours.open(&mut self.keys, &mut self.messages, &mut record);
        let meant = if self.model.is_over { Ok(Opened::Nothing) } else { Err(Alert::BAD_RECORD_MAC) };
        assert_eq!(opened, meant);
        self.model.is_over = true;
    }

    fn seals(&mut self, content: &[u8]) {
        let (before, behind) = self.ours.suite().around();
        let mut record = [&vec![0; before][..], content, &vec![0; behind]].concat();
        if self.ours.refusal_due() {
            let mut refusal = self.ours.seal_refusal(&mut self.keys).unwrap();
            let opened = self.reader.open(&mut self.keys, &mut self.messages, &mut refusal);
            assert!(matches!(opened, Ok(Opened::Nothing) | Err(Alert::UNEXPECTED_MESSAGE)));
            self.model.is_asked = false;
        }
        if self.ours.key_update_due() {
            assert_eq!(self.ours.seal(&mut self.keys, &mut record), Err(Unsealed::KeyUpdateDue));
            let mut update = self.ours.seal_key_update(&mut self.keys, true).unwrap();
            let opened = self.reader.open(&mut self.keys, &mut self.messages, &mut update);
            // An answer does not ask.
            assert!(!self.reader.key_update_due());
            assert!(matches!(opened, Ok(Opened::KeyUpdate | Opened::Nothing) | Err(Alert::UNEXPECTED_MESSAGE)));
            self.model.is_asked = false;
        }
        if !self.ours.is_writable() {
            return assert_eq!(self.ours.seal(&mut self.keys, &mut record), Err(Unsealed::Closed));
        }
        self.ours.seal(&mut self.keys, &mut record).unwrap();
        match self.reader.open(&mut self.keys, &mut self.messages, &mut record) {
            Ok(Opened::Data(place)) => assert_eq!(&record[place], content),
            // Too many empty records in a row, and what comes after them.
            opened => assert!(matches!(opened, Ok(Opened::Nothing) | Err(Alert::UNEXPECTED_MESSAGE))),
        }
    }
}
