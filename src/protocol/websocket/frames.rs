//! The frames that a server sends, as a client follows them: cut anywhere, and with nothing kept but what is incomplete.
//! Messages of any length pass through. A text that is passed over must be UTF-8.

use super::client::Awaits;
use super::{Header, LONGEST_CONTROL, LONGEST_HEADER, Opcode, Role, Violation};
use crate::failure::Cause;
use crate::protocol::publication::Search;
use crate::protocol::utf8::{NotUtf8, Utf8};
use crate::protocol::{Heard, Position, Scratch, Verdict, echo};

// What `Position::part` tells. `Position::bytes` are those of the payload that are still to come, and `Position::at` those
// of the message that were as expected.

/// A message has begun, and `Scratch::kept` begins with the search for a publication in it.
const OPEN: u16 = 1;
/// This frame is the last of its message.
const LAST: u16 = 2;
/// The message cannot be the one that is awaited.
const OTHER: u16 = 4;
/// The message is a text, and the bits from `TEXT_SHIFT` on tell how far it has come.
const TEXT: u16 = 8;
const TEXT_SHIFT: u32 = 4;

/// Bytes of a frame that is kept while it is incomplete.
const LONGEST_KEPT: usize = LONGEST_HEADER + LONGEST_CONTROL;

/// Judges a whole close, ping or pong, and its payload.
type Control = fn(Awaits, Opcode, &[u8], &mut Scratch) -> Verdict;

/// The bytes that came next, and what the connection awaits.
pub(super) struct Frames<'a> {
    pub awaits: Awaits,
    pub bytes: &'a [u8],
}

impl Frames<'_> {
    /// Follows the frames up to the first verdict. `Scratch::expected` has what is awaited.
    pub fn hear(&self, position: &mut Position, scratch: &mut Scratch, control: Control) -> Heard {
        let mut used = 0;
        while used < self.bytes.len() {
            let rest = &self.bytes[used..];
            let verdict = if position.bytes > 0 {
                let here = rest.len().min(position.bytes as usize);
                used += here;
                self.payload(position, &rest[..here], scratch)
            } else {
                match self.begin(position, rest, scratch, control) {
                    Ok((taken, verdict)) => {
                        used += taken;
                        verdict
                    }
                    Err(Violation::TooLong) => Some(Verdict::Wrong(Cause::AnswerTooLong)),
                    Err(_) => Some(Verdict::Wrong(Cause::Malformed)),
                }
            };
            if let Some(verdict) = verdict {
                return Heard { used: used.max(1), verdict };
            }
        }
        Heard { used: self.bytes.len(), verdict: Verdict::Part }
    }

    /// A frame begins with these bytes, or has begun with those kept before them. Returns how many of them were taken, and
    /// a verdict if there is one: on a control frame, or on a message that ends with an empty frame.
    fn begin(
        &self,
        position: &mut Position,
        rest: &[u8],
        scratch: &mut Scratch,
        control: Control,
    ) -> Result<(usize, Option<Verdict>), Violation> {
        let base = if position.part & OPEN == 0 { 0 } else { Search::KEPT };
        let before = scratch.kept.len().saturating_sub(base);
        if before > 0 {
            scratch.kept.extend_from_slice(&rest[..rest.len().min(LONGEST_KEPT)]);
        }
        let frame = if before > 0 { &scratch.kept[base..] } else { rest };
        let header = Header::read(frame, Role::Server)?;
        let is_whole = |(header, length): &(Header, usize)| {
            !header.opcode.is_control() || frame.len() >= length + header.length as usize
        };
        let Some((header, length)) = header.filter(is_whole) else {
            if before == 0 {
                scratch.kept.extend_from_slice(rest);
            }
            return Ok((rest.len(), None));
        };
        if header.opcode.is_control() {
            let (mut payload, end) = ([0; LONGEST_CONTROL], length + header.length as usize);
            let payload = &mut payload[..end - length];
            payload.copy_from_slice(&frame[length..end]);
            scratch.kept.truncate(base);
            return Ok((end - before, Some(control(self.awaits, header.opcode, payload, scratch))));
        }
        scratch.kept.truncate(base);
        self.begin_data(position, header, scratch)?;
        let verdict = if header.length == 0 { self.frame_ended(position, scratch) } else { None };
        Ok((length - before, verdict))
    }

    /// The header of a text, of a binary message, or of a further fragment of one.
    fn begin_data(&self, position: &mut Position, header: Header, scratch: &mut Scratch) -> Result<(), Violation> {
        match (header.opcode, position.part & OPEN != 0) {
            (Opcode::Continuation, false) => return Err(Violation::NothingToContinue),
            (Opcode::Continuation, true) => {}
            (_, true) => return Err(Violation::Interrupted),
            (opcode, false) => {
                // Where nothing is expected of messages, none can be the answer.
                let other = if scratch.expected.is_empty() || self.awaits == Awaits::Pong { OTHER } else { 0 };
                let text = if opcode == Opcode::Text { TEXT } else { 0 };
                position.part = OPEN | other | text;
                Search::begin(&mut scratch.kept);
            }
        }
        position.bytes = u32::try_from(header.length).map_err(|_| Violation::TooLong)?;
        position.part |= if header.last { LAST } else { 0 };
        Ok(())
    }

    /// The next bytes of a frame's payload.
    fn payload(&self, position: &mut Position, piece: &[u8], scratch: &mut Scratch) -> Option<Verdict> {
        position.bytes -= piece.len() as u32;
        Search::go_on(&mut scratch.kept, piece);
        // What is expected is text.
        let mut unlike = piece;
        if position.part & OTHER == 0 {
            let rest = &scratch.expected[usize::from(position.at).min(scratch.expected.len())..];
            let same = rest.iter().zip(piece).take_while(|(expected, byte)| expected == byte).count();
            // What is expected has 65,535 bytes at most.
            position.at += same as u16;
            unlike = &piece[same..];
            if same < piece.len() || self.awaits == Awaits::Nothing {
                if let Some(wrong) = self.wrong(position.at) {
                    return Some(wrong);
                }
                position.part |= if same < piece.len() { OTHER } else { 0 };
            }
        }
        if spell(position, unlike).is_err() {
            return Some(Verdict::Wrong(Cause::Malformed));
        }
        if position.bytes == 0 { self.frame_ended(position, scratch) } else { None }
    }

    /// The verdict on a message that is not the awaited one, and of which the first `at` bytes were as expected: it is one
    /// of ours, of another connection or round, if it has our mark.
    fn wrong(&self, at: u16) -> Option<Verdict> {
        let cause = match self.awaits {
            // The answer to what was asked before the goodbye may still come.
            Awaits::Close => return None,
            Awaits::Echo => Cause::WrongAnswer,
            _ => Cause::Unasked,
        };
        (usize::from(at) >= echo::MARK.len()).then_some(Verdict::Wrong(cause))
    }

    /// The payload of a frame is complete. Returns a verdict if its message is.
    fn frame_ended(&self, position: &mut Position, scratch: &mut Scratch) -> Option<Verdict> {
        let Position { part, at, .. } = *position;
        if part & LAST == 0 {
            return None;
        }
        if !Utf8::of_number(part >> TEXT_SHIFT).is_whole() {
            return Some(Verdict::Wrong(Cause::Malformed));
        }
        let found = Search::load(&scratch.kept).end();
        *position = Position::default();
        scratch.kept.clear();
        if self.awaits == Awaits::Echo && part & OTHER == 0 {
            if usize::from(at) == scratch.expected.len() {
                return Some(Verdict::Proof);
            }
            if let Some(wrong) = self.wrong(at) {
                return Some(wrong);
            }
        }
        Some(found.map_or(Verdict::Aside, Verdict::of_publication))
    }
}

/// Takes the next bytes of a message. Fails if it is a text and they are not UTF-8.
fn spell(position: &mut Position, bytes: &[u8]) -> Result<(), NotUtf8> {
    if position.part & TEXT == 0 || bytes.is_empty() {
        return Ok(());
    }
    let mut text = Utf8::of_number(position.part >> TEXT_SHIFT);
    text.feed(bytes)?;
    position.part = position.part & (TEXT | (TEXT - 1)) | text.number() << TEXT_SHIFT;
    Ok(())
}
