//! `push`, the client's dialect of the frames over plain bytes. A subscriber subscribes, a publisher publishes, and an
//! echo proves a connection of either.

use super::{FRAME_HEADER, Frame, Kind};
use crate::failure::Cause;
use crate::protocol::publication::Search;
use crate::protocol::{
    Dialect, Exchange, Heard, Position, Publication, Purpose, Role, Scratch, SettingError, Settings, Strength, Verdict,
    echo,
};

// What `Position::part` tells while the payload of a frame comes; 0 is its header, whose bytes so far are in
// `Scratch::kept`. `Position::bytes` are those of the payload that are still to come.

/// A publication, whose search is in `Scratch::kept`.
const PUBLICATION: u16 = 1;
/// The awaited echo, of which `Position::at` bytes have come.
const ECHO: u16 = 2;
/// A receipt, which is passed over.
const RECEIPT: u16 = 3;

/// A server of the push service, over plain bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    role: Role,
    /// Bytes of a message of traffic.
    payload: usize,
}

impl Push {
    fn awaits_echo(&self, exchange: Exchange) -> bool {
        self.role == Role::Publisher || !matches!(exchange.purpose, Purpose::Open(_))
    }

    /// A frame begins. `Scratch::expected` has the awaited echo, if there is one.
    fn begin(&self, frame: Frame, exchange: Option<Exchange>, scratch: &mut Scratch) -> Result<u16, Cause> {
        let subscribes = exchange.is_some_and(|exchange| !self.awaits_echo(exchange));
        match frame.kind {
            Kind::Publish => {
                Search::begin(&mut scratch.kept);
                Ok(PUBLICATION)
            }
            Kind::Receipt if self.role == Role::Publisher => Ok(RECEIPT),
            Kind::Echo if scratch.expected.is_empty() => Err(Cause::Unasked),
            Kind::Echo if scratch.expected.len() == frame.length => Ok(ECHO),
            Kind::Echo => Err(Cause::WrongAnswer),
            Kind::Subscribe if subscribes && frame.length == 0 => Ok(ECHO),
            Kind::Subscribe if subscribes => Err(Cause::Malformed),
            Kind::Receipt | Kind::Subscribe => Err(Cause::Unasked),
        }
    }

    /// The next bytes of a frame's payload.
    fn payload(position: &mut Position, piece: &[u8], scratch: &mut Scratch) -> Result<(), Cause> {
        position.bytes -= piece.len() as u32;
        match position.part {
            PUBLICATION => {
                Search::go_on(&mut scratch.kept, piece);
            }
            ECHO => {
                let at = usize::from(position.at);
                if scratch.expected.get(at..at + piece.len()) != Some(piece) {
                    return Err(Cause::WrongAnswer);
                }
                // An echo has 65,535 bytes at most.
                position.at += piece.len() as u16;
            }
            _ => {}
        }
        Ok(())
    }

    /// A frame has ended.
    fn end(position: &mut Position, scratch: &mut Scratch) -> Verdict {
        let verdict = match position.part {
            PUBLICATION => Search::load(&scratch.kept).end().map_or(Verdict::Aside, Verdict::of_publication),
            ECHO => Verdict::Proof,
            _ => Verdict::Aside,
        };
        scratch.kept.clear();
        *position = Position::default();
        verdict
    }

    /// Takes bytes of the next part of a frame off `rest`. A verdict, if the frame has ended or is wrong.
    fn next(
        &self,
        exchange: Option<Exchange>,
        position: &mut Position,
        rest: &mut &[u8],
        scratch: &mut Scratch,
    ) -> Result<Option<Verdict>, Cause> {
        if position.part == 0 {
            let missing = FRAME_HEADER.saturating_sub(scratch.kept.len());
            let (header, later) = rest.split_at(missing.min(rest.len()));
            scratch.kept.extend_from_slice(header);
            *rest = later;
            let Some(frame) = Frame::read(&scratch.kept).map_err(|_| Cause::Malformed)? else { return Ok(None) };
            scratch.kept.clear();
            position.part = self.begin(frame, exchange, scratch)?;
            // The length that was read has 32 bits.
            position.bytes = frame.length as u32;
        } else {
            let (piece, later) = rest.split_at(rest.len().min(position.bytes as usize));
            *rest = later;
            Push::payload(position, piece, scratch)?;
        }
        Ok((position.bytes == 0).then(|| Push::end(position, scratch)))
    }
}

impl Dialect for Push {
    const NAME: &'static str = "push";
    const SETTINGS: &'static [&'static str] = &["payload"];
    const SAYS: &'static str = "subscribes or publishes by frames over plain bytes";

    fn new(settings: &Settings) -> Result<Push, SettingError> {
        Ok(Push { role: settings.role, payload: settings.payload_within(echo::LENGTHS)? })
    }

    fn strength(&self) -> Strength {
        Strength::EndToEnd
    }

    fn longest_message(&self) -> usize {
        FRAME_HEADER + self.payload
    }

    fn steps(&self) -> u8 {
        1
    }

    /// The one step of opening subscribes. A publisher asks for an echo instead: that proves what it is connected to.
    fn ask(&self, exchange: Exchange, into: &mut Vec<u8>) {
        if !self.awaits_echo(exchange) {
            return Frame::append(Kind::Subscribe, &[], into);
        }
        let mut payload = Vec::new();
        echo::write(exchange, self.payload, &mut payload);
        Frame::append(Kind::Echo, &payload, into);
    }

    fn hear(&self, exchange: Option<Exchange>, position: &mut Position, bytes: &[u8], scratch: &mut Scratch) -> Heard {
        scratch.expected.clear();
        if let Some(exchange) = exchange.filter(|exchange| self.awaits_echo(*exchange)) {
            echo::write(exchange, self.payload, &mut scratch.expected);
        }
        let mut rest = bytes;
        let verdict = Verdict::first_of(&mut rest, |rest| self.next(exchange, position, rest, scratch));
        Heard { used: bytes.len() - rest.len(), verdict }
    }

    fn publish(&self, _number: u64, publication: &Publication, into: &mut Vec<u8>) -> bool {
        let publishes = self.role == Role::Publisher;
        if publishes {
            let mut payload = Vec::new();
            publication.write(&mut payload);
            Frame::append(Kind::Publish, &payload, into);
        }
        publishes
    }

    /// A connection without the answer to its first frame is none of this service.
    fn must_hear(&self) -> bool {
        true
    }
}
