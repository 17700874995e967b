//! The shape of a dialect, tried with a protocol of frames: a handshake of two steps, a token in a header and a
//! body, and a server that pings of its own accord.

mod http;
mod push;
mod session;
mod websocket;

use super::*;
use proptest::prelude::*;

/// A frame is a kind, a length, and as many bytes.
struct Framed;

const TEXT: u8 = b't';
const PING: u8 = b'p';
const PONG: u8 = b'o';

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, body.len() as u8], body].concat()
}

impl Framed {
    fn answer(exchange: Exchange) -> Vec<u8> {
        match exchange.purpose {
            Purpose::Open(0) => b"welcome\n".to_vec(),
            _ => frame(TEXT, &exchange.token().to_be_bytes()),
        }
    }
}

impl Dialect for Framed {
    const NAME: &'static str = "framed";
    const SETTINGS: &'static [&'static str] = &[];
    const SAYS: &'static str = "sends frames";

    fn new(_settings: &Settings) -> Result<Framed, SettingError> {
        Ok(Framed)
    }

    fn strength(&self) -> Strength {
        Strength::Gateway
    }

    fn longest_message(&self) -> usize {
        10
    }

    fn steps(&self) -> u8 {
        2
    }

    fn ask(&self, exchange: Exchange, into: &mut Vec<u8>) {
        into.extend(match exchange.purpose {
            Purpose::Open(0) => b"upgrade\n".to_vec(),
            _ => frame(TEXT, &exchange.token().to_be_bytes()),
        });
    }

    /// `part` is the kind of the frame, `bytes` its length, and `at` how many bytes of it have come.
    fn hear(&self, exchange: Option<Exchange>, position: &mut Position, bytes: &[u8], scratch: &mut Scratch) -> Heard {
        if let Some(exchange @ Exchange { purpose: Purpose::Open(0), .. }) = exchange {
            let rest = &Framed::answer(exchange)[usize::from(position.at)..];
            let used = rest.len().min(bytes.len());
            position.at += used as u16;
            let verdict = match (rest[..used] == bytes[..used], used == rest.len()) {
                (false, _) => Verdict::Wrong(Cause::WrongAnswer),
                (true, false) => Verdict::Part,
                (true, true) => {
                    *position = Position::default();
                    Verdict::Proof
                }
            };
            return Heard { used, verdict };
        }
        for (index, byte) in bytes.iter().enumerate() {
            match position.at {
                0 => position.part = u16::from(*byte),
                1 => position.bytes = u32::from(*byte),
                _ => {
                    let expected = exchange.map(Framed::answer).unwrap_or_default();
                    let is_text = position.part == u16::from(TEXT);
                    if is_text && expected.get(usize::from(position.at)) != Some(byte) {
                        return Heard { used: index + 1, verdict: Verdict::Wrong(Cause::WrongAnswer) };
                    }
                }
            }
            position.at += 1;
            if position.at >= 2 && u32::from(position.at) == position.bytes + 2 {
                let verdict = if position.part == u16::from(PING) { Verdict::Aside } else { Verdict::Proof };
                if verdict == Verdict::Aside {
                    scratch.reply.extend(frame(PONG, b""));
                }
                *position = Position::default();
                return Heard { used: index + 1, verdict };
            }
        }
        Heard { used: bytes.len(), verdict: Verdict::Part }
    }
}

/// Follows a stream of bytes that comes in pieces, as a driver does. Returns the verdicts other than `Part`, and
/// what was replied.
pub(super) fn follow<D: Dialect>(
    dialect: &D,
    asked: &[Option<Exchange>],
    stream: &[u8],
    mut cuts: impl Iterator<Item = usize>,
) -> (Vec<Verdict>, Vec<u8>) {
    let (mut verdicts, mut replied) = (Vec::new(), Vec::new());
    let (mut position, mut scratch) = (Position::default(), Scratch::default());
    let mut asked = asked.iter().copied();
    let mut exchange = asked.next().flatten();
    let mut from = 0;
    while from < stream.len() {
        let end = from + cuts.next().unwrap_or(usize::MAX).clamp(1, stream.len() - from);
        while from < end {
            let Heard { used, verdict } = dialect.hear(exchange, &mut position, &stream[from..end], &mut scratch);
            assert!((1..=end - from).contains(&used));
            from += used;
            replied.append(&mut scratch.reply);
            assert!(scratch.kept.len() <= MOST_KEPT);
            if verdict != Verdict::Part {
                verdicts.push(verdict);
            }
            match verdict {
                Verdict::Proof => exchange = asked.next().flatten(),
                Verdict::Wrong(_) | Verdict::Ended(_) => return (verdicts, replied),
                _ => {}
            }
        }
    }
    (verdicts, replied)
}

proptest! {
    /// Steps, answers and unasked pings, in one stream cut anywhere.
    #[test]
    fn frames_may_be_cut_anywhere(number: u64, cuts in prop::collection::vec(1usize..7, 0..60)) {
        let exchange = |purpose| Some(Exchange { number, round: 5, purpose });
        let asked = [exchange(Purpose::Open(0)), exchange(Purpose::Open(1)), exchange(Purpose::Audit), None];
        let answers: Vec<Vec<u8>> = asked.iter().flatten().map(|exchange| Framed::answer(*exchange)).collect();
        let ping = frame(PING, b"are you there");
        let stream = [&answers[0], &answers[1], &ping, &answers[2], &ping, &ping].map(|part| part.clone()).concat();
        use Verdict::{Aside, Proof};
        let (verdicts, replied) = follow(&Framed, &asked, &stream, cuts.into_iter());
        prop_assert_eq!(verdicts, [Proof, Proof, Aside, Proof, Aside, Aside]);
        prop_assert_eq!(replied, frame(PONG, b"").repeat(3));
    }
}

#[test]
fn every_protocol_is_known_by_its_name() {
    let settings = Settings { send: Some("a".to_owned()), expect: Some("b".to_owned()), ..Settings::default() };
    for name in Protocol::NAMES {
        let settings = if *name == "send-expect" { settings.clone() } else { Settings::default() };
        assert_eq!(Protocol::new(name, &settings).unwrap().name(), *name);
    }
    assert_eq!(Protocol::default(), Protocol::new("raw", &Settings::default()).unwrap());
    let error = Protocol::new("gopher", &settings).unwrap_err().to_string();
    assert!(error.contains("choose one of raw, send-expect"), "{error}");
}

#[test]
fn a_setting_of_another_protocol_is_refused() {
    let settings = Settings { send: Some("a".to_owned()), ..Settings::default() };
    let error = Protocol::new("raw", &settings).unwrap_err().to_string();
    assert!(error.contains("`send` with `protocol` raw") && error.contains("`protocol` send-expect"), "{error}");
    let settings =
        Settings { send: Some("a".to_owned()), expect: Some("b".to_owned()), payload: Some(5), ..Settings::default() };
    let error = Protocol::new("send-expect", &settings).unwrap_err().to_string();
    assert!(error.contains("`payload` with `protocol` send-expect") && error.contains("`protocol` raw"), "{error}");
}
