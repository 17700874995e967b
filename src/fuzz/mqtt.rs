//! What a server of MQTT may send.

use super::Input;
use crate::protocol::{
    Dialect, Exchange, MOST_KEPT, Mqtt, MqttSettings, Position, Purpose, Scratch, Settings, Verdict,
};

/// Bytes of an input that stand for what none would find: the awaited message as the client has sent it, and the
/// identifier of its packet.
const MESSAGE: u8 = 0xf7;
const IDENTIFIER: u8 = 0xf6;

/// Bytes of a piece at most, where a stream is cut. Each piece costs as much as hearing a hundred bytes.
const LONGEST_PIECE: u8 = 32;

/// Packets of a server of MQTT: the verdicts on them, and the replies to them, are the same however they are cut. A reply
/// consists of PUBACKs, each of four bytes.
pub fn mqtt(bytes: &[u8]) {
    let mut input = Input(bytes);
    let choices = input.byte();
    let is = |bit: u8| choices >> bit & 1 == 1;
    let chosen = |bit: u8, word: &str| is(bit).then(|| word.to_owned());
    let settings = MqttSettings {
        version: chosen(0, "3.1.1"),
        qos: is(1).then_some(1),
        session: chosen(2, "keep").or(chosen(3, "resume")),
        keepalive: is(6).then_some(60),
        ..MqttSettings::default()
    };
    let subscribe = chosen(5, "further/#").into_iter().collect();
    let settings = Settings { mqtt: settings, subscribe, proof: chosen(4, "ping"), ..Settings::default() };
    let dialect = Mqtt::new(&settings).unwrap();
    let purpose = match input.byte() % 7 {
        step @ 0..=2 => Purpose::Open(step),
        3 => Purpose::Audit,
        4 => Purpose::Message,
        5 => Purpose::Publish,
        _ => Purpose::Keepalive,
    };
    let round = input.byte().into();
    let exchange = Exchange { number: input.byte().into(), round, purpose };
    let each = 1 + usize::from(input.byte() % LONGEST_PIECE);
    let mut message = Vec::new();
    dialect.ask(exchange, &mut message);
    let identifier = Mqtt::identifier(exchange).to_be_bytes();
    let meant = |byte: &u8| match *byte {
        MESSAGE => message.clone(),
        IDENTIFIER => identifier.to_vec(),
        byte => vec![byte],
    };
    let stream: Vec<u8> = input.0.iter().flat_map(meant).collect();
    let whole = judged(&dialect, exchange, &stream, stream.len().max(1));
    assert!(whole.1.chunks(4).all(|puback| puback.len() == 4 && puback.starts_with(&[0x40, 2])), "{:?}", whole.1);
    assert_eq!(judged(&dialect, exchange, &stream, each), whole);
}

/// The verdicts on a stream that comes in pieces, each with the bytes used so far, and what was replied.
fn judged(dialect: &Mqtt, exchange: Exchange, stream: &[u8], each: usize) -> (Vec<(Verdict, usize)>, Vec<u8>) {
    let (mut position, mut scratch) = (Position::default(), Scratch::default());
    let (mut verdicts, mut replied, mut asked, mut from) = (Vec::new(), Vec::new(), Some(exchange), 0);
    for piece in stream.chunks(each) {
        let end = from + piece.len();
        while from < end {
            let heard = dialect.hear(asked, &mut position, &stream[from..end], &mut scratch);
            assert!((1..=end - from).contains(&heard.used) && scratch.kept.len() <= MOST_KEPT);
            from += heard.used;
            match heard.verdict {
                Verdict::Part => assert_eq!(from, end),
                // `used` of a fault says nothing about its place.
                Verdict::Wrong(_) => {
                    verdicts.push((heard.verdict, 0));
                    return (verdicts, replied);
                }
                verdict => verdicts.push((verdict, from)),
            }
            replied.append(&mut scratch.reply);
            match heard.verdict {
                Verdict::Ended(_) => return (verdicts, replied),
                Verdict::Proof => asked = None,
                _ => {}
            }
        }
    }
    (verdicts, replied)
}
