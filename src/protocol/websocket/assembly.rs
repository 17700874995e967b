//! Messages out of frames that are cut anywhere. A frame that lies whole in a buffer stays there; of any other, and of a
//! message in several frames, what has come is kept in an `Assembly`.

use std::ops::Range;

use super::{Header, LONGEST_CONTROL, LONGEST_HEADER, Opcode, Role, Violation, mask};
use crate::protocol::utf8::Utf8;

/// What is taken from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The peer's role.
    pub from: Role,
    /// Bytes of a message at most.
    pub longest: usize,
}

/// Something whole has come: a text, a binary message, a close, a ping or a pong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Its payload lies in this part of the buffer, unmasked. Whether a text is UTF-8 is not checked.
    Here(Opcode, Range<usize>),
    /// Its payload was put together: [`Assembly::payload`] has it.
    Assembled(Opcode),
}

/// What has come of a frame or a message that is not whole. By default nothing.
#[derive(Debug, Default)]
pub struct Assembly {
    /// The beginning of a header.
    header: [u8; LONGEST_HEADER],
    header_len: u8,
    /// The frame of which a part has come, and how many bytes of its payload.
    frame: Option<(Header, u64)>,
    /// The message that is put together: text or binary.
    message: Option<Opcode>,
    /// Whether it is UTF-8 so far, if it is a text.
    text: Utf8,
    /// Its payload.
    payload: Vec<u8>,
    /// The payload of a control frame, which may come between two fragments.
    control: Vec<u8>,
}

impl Assembly {
    /// Whether nothing is kept that is needed later.
    pub fn is_idle(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    /// Bytes of memory that it holds beside itself.
    pub fn bytes(&self) -> usize {
        self.payload.capacity() + self.control.capacity()
    }

    /// The payload of what was assembled last, until `next` is called again.
    pub fn payload(&mut self, opcode: Opcode) -> &mut [u8] {
        if opcode.is_control() { &mut self.control } else { &mut self.payload }
    }

    /// Takes what comes next in `bytes`, from `at` on, which moves behind it. `None` if all bytes are used and nothing
    /// more is whole. Payloads are unmasked in place. Not to be called again behind a violation.
    pub fn next(&mut self, rules: Rules, bytes: &mut [u8], at: &mut usize) -> Result<Option<Event>, Violation> {
        loop {
            if let Some((header, come)) = self.frame {
                let left = usize::try_from(header.length - come).unwrap_or(usize::MAX);
                let part = *at..bytes.len().min(at.saturating_add(left));
                *at = part.end;
                if !self.append(header, come, &mut bytes[part])? {
                    return Ok(None);
                }
                if let Some(opcode) = self.ended(header)? {
                    return Ok(Some(Event::Assembled(opcode)));
                }
                continue;
            }
            let Some(header) = self.header(rules.from, bytes, at)? else { return Ok(None) };
            let begins = self.admit(header, rules.longest)?;
            if header.length <= (bytes.len() - *at) as u64 && (header.opcode.is_control() || begins && header.last) {
                let payload = *at..*at + header.length as usize;
                *at = payload.end;
                unmask(header, 0, &mut bytes[payload.clone()]);
                return Ok(Some(Event::Here(header.opcode, payload)));
            }
            if begins {
                self.message = Some(header.opcode);
            }
            self.frame = Some((header, 0));
        }
    }

    /// Reads a header that may have begun in an earlier buffer.
    fn header(&mut self, from: Role, bytes: &[u8], at: &mut usize) -> Result<Option<Header>, Violation> {
        let rest = &bytes[*at..];
        let had = usize::from(self.header_len);
        // A header that begins here is read here.
        let read = if had == 0 {
            Header::read(rest, from)?
        } else {
            let more = rest.len().min(LONGEST_HEADER - had);
            self.header[had..had + more].copy_from_slice(&rest[..more]);
            Header::read(&self.header[..had + more], from)?
        };
        if let Some((header, length)) = read {
            self.header_len = 0;
            *at += length - had;
            return Ok(Some(header));
        }
        if had == 0 {
            self.header[..rest.len()].copy_from_slice(rest);
        }
        // Incomplete, so all that is left was a part of it.
        self.header_len = (had + rest.len()) as u8;
        *at = bytes.len();
        Ok(None)
    }

    /// Whether a frame may come now, and is not too long. Tells whether it begins a message.
    fn admit(&mut self, header: Header, longest: usize) -> Result<bool, Violation> {
        let begins = match (header.opcode, self.message) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => {
                self.control.clear();
                return Ok(false);
            }
            (Opcode::Continuation, None) => return Err(Violation::NothingToContinue),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Violation::Interrupted),
            (Opcode::Continuation, Some(_)) => false,
            (Opcode::Text | Opcode::Binary, None) => {
                self.payload.clear();
                self.text = Utf8::default();
                true
            }
        };
        let room = longest.saturating_sub(self.payload.len()) as u64;
        if header.length > room { Err(Violation::TooLong) } else { Ok(begins) }
    }

    /// Appends bytes that come `come` bytes into the payload of a frame. Tells whether it is whole now.
    fn append(&mut self, header: Header, come: u64, part: &mut [u8]) -> Result<bool, Violation> {
        unmask(header, come, part);
        if header.opcode.is_control() {
            self.control.extend_from_slice(part);
        } else {
            if self.message == Some(Opcode::Text) {
                self.text.feed(part).map_err(|_| Violation::NotUtf8)?;
            }
            self.payload.extend_from_slice(part);
        }
        let come = come + part.len() as u64;
        let whole = come == header.length;
        self.frame = (!whole).then_some((header, come));
        Ok(whole)
    }

    /// A frame is whole: what is whole with it.
    fn ended(&mut self, header: Header) -> Result<Option<Opcode>, Violation> {
        if header.opcode.is_control() {
            return Ok(Some(header.opcode));
        }
        if !header.last {
            return Ok(None);
        }
        let message = self.message.take();
        if message == Some(Opcode::Text) && !self.text.is_whole() { Err(Violation::NotUtf8) } else { Ok(message) }
    }
}

// ---- from process to process -------------------------------------------------------------------

/// The message that is put together, as it is written, where there is none.
const NONE: u8 = 0;
/// A part of a frame has come.
const WITHIN: u8 = 1;

impl Assembly {
    /// Appends all that is kept to `into`, for another process that goes on with it.
    pub fn write(&self, into: &mut Vec<u8>) {
        into.push(self.header_len);
        into.extend_from_slice(&self.header[..usize::from(self.header_len)]);
        into.push(if self.frame.is_some() { WITHIN } else { 0 });
        if let Some((header, come)) = self.frame {
            into.extend([header.opcode as u8, u8::from(header.last), u8::from(header.mask.is_some())]);
            into.extend(header.mask.unwrap_or_default());
            into.extend(header.length.to_le_bytes());
            into.extend(come.to_le_bytes());
        }
        into.extend([self.message.map_or(NONE, |opcode| opcode as u8), self.text.number() as u8]);
        into.extend((self.payload.len() as u32).to_le_bytes());
        into.extend_from_slice(&self.payload);
        into.extend_from_slice(&self.control);
    }

    /// Reads what `write` has written of a client's messages; `None` for anything that no stream of frames leaves.
    pub fn read(mut bytes: &[u8]) -> Option<Assembly> {
        let mut assembly = Assembly::default();
        let [header_len] = *chunk(&mut bytes)?;
        let (header, rest) = bytes.split_at_checked(header_len.into())?;
        assembly.header.get_mut(..header.len())?.copy_from_slice(header);
        (assembly.header_len, bytes) = (header_len, rest);
        let [marks] = *chunk(&mut bytes)?;
        if marks == WITHIN {
            assembly.frame = Some(frame(&mut bytes)?);
        }
        let [message, text] = *chunk(&mut bytes)?;
        assembly.message = if message == NONE { None } else { Some(Opcode::of(message)?) };
        assembly.text = Utf8::of_number(text.into());
        let length = u32::from_le_bytes(*chunk(&mut bytes)?) as usize;
        let (payload, control) = bytes.split_at_checked(length)?;
        (assembly.payload, assembly.control) = (payload.to_vec(), control.to_vec());
        let is_header = matches!(Header::read(header, Role::Client), Ok(None));
        let is_message = matches!(assembly.message, None | Some(Opcode::Text | Opcode::Binary));
        let tells = assembly.message.is_some();
        let within = assembly.frame.is_none_or(|(header, _)| header.opcode.is_control() || tells);
        let is_ours = is_header && is_message && within && marks <= WITHIN && text < 8;
        (is_ours && (header.is_empty() || assembly.frame.is_none())).then_some(assembly)
    }
}

/// The bytes at the beginning of some, which move behind them.
fn chunk<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (chunk, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(chunk)
}

/// A frame of which a part has come.
fn frame(bytes: &mut &[u8]) -> Option<(Header, u64)> {
    let [opcode, last, masked] = *chunk(bytes)?;
    let mask = *chunk(bytes)?;
    let length = u64::from_le_bytes(*chunk(bytes)?);
    let come = u64::from_le_bytes(*chunk(bytes)?);
    let opcode = Opcode::of(opcode)?;
    let is_whole = !opcode.is_control() || last == 1 && length <= LONGEST_CONTROL as u64;
    let is_ours = last <= 1 && masked == 1 && come <= length && is_whole;
    is_ours.then_some((Header { opcode, last: last == 1, mask: Some(mask), length }, come))
}

fn unmask(header: Header, come: u64, part: &mut [u8]) {
    if let Some(key) = header.mask {
        mask(key, come, part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::websocket::text;
    use proptest::prelude::*;
    use proptest::sample::Index;

    const RULES: Rules = Rules { from: Role::Client, longest: 5_000 };

    /// What a stream said, the violation that ended it, and whether nothing was left behind.
    type Heard = (Vec<(Opcode, Vec<u8>)>, Option<Violation>, bool);

    /// What a stream says that comes in pieces.
    fn events(stream: &[u8], cuts: &[usize]) -> Heard {
        let (mut assembly, mut events) = (Assembly::default(), Vec::new());
        for piece in cuts.windows(2) {
            // What is kept goes through another process between any two pieces.
            let mut carried = Vec::new();
            assembly.write(&mut carried);
            assembly = Assembly::read(&carried).unwrap();
            let mut bytes = stream[piece[0]..piece[1]].to_vec();
            let mut at = 0;
            loop {
                let (opcode, payload) = match assembly.next(RULES, &mut bytes, &mut at) {
                    Ok(None) => break,
                    Ok(Some(Event::Here(opcode, range))) => (opcode, bytes[range].to_vec()),
                    Ok(Some(Event::Assembled(opcode))) => (opcode, assembly.payload(opcode).to_vec()),
                    Err(violation) => return (events, Some(violation), false),
                };
                if opcode == Opcode::Text && text(&payload).is_err() {
                    return (events, Some(Violation::NotUtf8), false);
                }
                events.push((opcode, payload));
            }
            assert_eq!(at, bytes.len(), "what is left would be lost");
        }
        (events, None, assembly.is_idle())
    }

    fn append(into: &mut Vec<u8>, opcode: Opcode, last: bool, key: [u8; 4], payload: &[u8]) {
        Header { opcode, last, mask: Some(key), length: payload.len() as u64 }.append(into);
        let from = into.len();
        into.extend_from_slice(payload);
        mask(key, 0, &mut into[from..]);
    }

    /// A message or a control frame, how it is cut into fragments, and whether pings come between them.
    type Said = (Opcode, Vec<u8>, Vec<Index>, bool);

    fn said() -> impl Strategy<Value = Vec<Said>> {
        let text = "\\PC{0,80}".prop_map(String::into_bytes);
        let bytes = || prop::collection::vec(any::<u8>(), 0..300);
        let message = prop_oneof![
            text.prop_map(|text| (Opcode::Text, text)),
            bytes().prop_map(|bytes| (Opcode::Binary, bytes)),
            bytes().prop_map(|bytes| (Opcode::Ping, bytes[..bytes.len().min(125)].to_vec())),
        ];
        let cuts = prop::collection::vec(any::<Index>(), 0..4);
        let one = (message, cuts, any::<bool>()).prop_map(|((opcode, payload), cuts, pings)| match opcode {
            Opcode::Ping => (opcode, payload, Vec::new(), false),
            _ => (opcode, payload, cuts, pings),
        });
        prop::collection::vec(one, 0..6)
    }

    /// The bytes of what is said, and the events that they are.
    fn stream(said: &[Said], key: [u8; 4]) -> (Vec<u8>, Vec<(Opcode, Vec<u8>)>) {
        let (mut bytes, mut events) = (Vec::new(), Vec::new());
        for (opcode, payload, cuts, pings) in said {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
            cuts.extend([0, payload.len()]);
            cuts.sort_unstable();
            let fragments = cuts.len() - 1;
            for (number, range) in cuts.windows(2).enumerate() {
                let kind = if number == 0 { *opcode } else { Opcode::Continuation };
                append(&mut bytes, kind, number + 1 == fragments, key, &payload[range[0]..range[1]]);
                if *pings && number + 1 < fragments {
                    append(&mut bytes, Opcode::Ping, true, key, b"between");
                    events.push((Opcode::Ping, b"between".to_vec()));
                }
            }
            events.push((*opcode, payload.clone()));
        }
        (bytes, events)
    }

    fn sorted(cuts: &[Index], length: usize) -> Vec<usize> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(length + 1)).collect();
        cuts.extend([0, length]);
        cuts.sort_unstable();
        cuts
    }

    proptest! {
        /// Frames cut anywhere give what was said, and leave nothing behind.
        #[test]
        fn what_is_said_is_heard_however_it_is_cut(
            said in said(), key: [u8; 4], cuts in prop::collection::vec(any::<Index>(), 0..8)
        ) {
            let (bytes, expected) = stream(&said, key);
            prop_assert_eq!(events(&bytes, &sorted(&cuts, bytes.len())), (expected.clone(), None, true));
            let each: Vec<usize> = (0..=bytes.len()).collect();
            prop_assert_eq!(events(&bytes, &each), (expected, None, true));
        }

        /// Any bytes have the same events and end with the same violation however they are cut.
        #[test]
        fn the_verdict_does_not_depend_on_the_cuts(
            said in said(), key: [u8; 4], spoiled in prop::collection::vec(any::<(Index, u8)>(), 0..3),
            cuts in prop::collection::vec(any::<Index>(), 0..8)
        ) {
            let (mut bytes, _) = stream(&said, key);
            for (at, byte) in spoiled.iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let whole = events(&bytes, &[0, bytes.len()]);
            let cut = events(&bytes, &sorted(&cuts, bytes.len()));
            prop_assert_eq!(whole, cut);
        }
    }

    #[test]
    fn what_must_not_come_now_or_is_too_long() {
        let violation = |frames: &[(Opcode, bool, &[u8])]| {
            let mut bytes = Vec::new();
            frames.iter().for_each(|(opcode, last, payload)| append(&mut bytes, *opcode, *last, [1, 2, 3, 4], payload));
            events(&bytes, &[0, bytes.len()]).1
        };
        let (long, half) = (vec![b'a'; 5_001], vec![b'a'; 2_501]);
        assert_eq!(violation(&[(Opcode::Continuation, true, b"")]), Some(Violation::NothingToContinue));
        assert_eq!(violation(&[(Opcode::Text, false, b"a"), (Opcode::Text, true, b"b")]), Some(Violation::Interrupted));
        assert_eq!(violation(&[(Opcode::Binary, true, &long)]), Some(Violation::TooLong));
        assert_eq!(violation(&[(Opcode::Binary, true, &long[1..])]), None);
        let halves = [(Opcode::Text, false, &half[..]), (Opcode::Continuation, true, &half)];
        assert_eq!(violation(&halves), Some(Violation::TooLong));
        // Cut within a character that never goes on.
        assert_eq!(
            violation(&[(Opcode::Text, false, b"\xe2\x82"), (Opcode::Continuation, true, b"")]),
            Some(Violation::NotUtf8)
        );
    }
}
