//! What the messages of a shard have in them, as bytes. Numbers are little-endian; a text of bytes has its length before
//! it. A decoder takes bytes from outside: it fails for all that no encoder makes, and never panics.

use crate::connections::{Closes, HandedState, Surrendered, UnsentOf};
use crate::token::ConnId;
use crate::wiped::Wiped;

/// What the driver and the service know of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// How long ago it was opened, in tenths of a second, if that is kept.
    pub age: Option<u32>,
    /// In how many milliseconds its deadline passes, if it has one.
    pub deadline: Option<u64>,
    /// What the service wants its successor to know.
    pub service: Vec<u8>,
}

impl Known {
    /// Whether there is nothing to know.
    pub fn is_empty(&self) -> bool {
        self.age.is_none() && self.deadline.is_none() && self.service.is_empty()
    }
}

/// What is known of a sleeping connection beside its entry.
#[derive(Debug, PartialEq, Eq)]
pub struct Sleeper {
    /// Its name.
    pub name: ConnId,
    /// Its sequence numbers when it was given away (`Entries::said`).
    pub said: u64,
    /// What driver and service know.
    pub known: Known,
    /// Its TLS session.
    pub tls: Option<Wiped>,
}

/// Some sleeping connections of which something is known, one after the other.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct KnownSleepers(Writer);

/// The sleeping connections of a shard change hands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sleepers {
    /// The window of time at which they were given away (`connections/idle.rs`).
    pub window: u16,
    /// Connections of the shard that are awake, and come later.
    pub awake: u64,
    /// What the engine knows.
    pub surrendered: Surrendered,
}

/// Some connections that are awake, in the order of the sockets that come with them.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Batch {
    /// Entries of connections that have ended since the batch before.
    pub ended: Vec<u32>,
    /// The connections.
    pub connections: Vec<(HandedState, Known)>,
    /// Connections that come later.
    pub to_come: u64,
}

/// Bits of a connection's flags.
const NAMED: u8 = 1;
const READS_PAUSED: u8 = 1 << 1;
const CLOSES: u8 = 1 << 2;
const CLOSES_BY_DEADLINE: u8 = 1 << 3;
const TELLS_WHEN_SENT: u8 = 1 << 4;
const SECURED: u8 = 1 << 5;
const LINGERS: u8 = 1 << 6;
/// Bits of the flags of what is known.
const AGED: u8 = 1;
const HAS_DEADLINE: u8 = 1 << 1;

/// The bit of `flag` if something `is`.
fn flag(is: bool, flag: u8) -> u8 {
    if is { flag } else { 0 }
}

/// The flags of how a connection is closed once all is sent, if it is.
fn flags_of(closes: Option<Closes>) -> u8 {
    closes.map_or(0, |Closes { lingers, because_late }| {
        CLOSES | flag(lingers, LINGERS) | flag(because_late, CLOSES_BY_DEADLINE)
    })
}

/// What `flags_of` has made flags of; `None` for any other flags.
fn closes(flags: u8) -> Option<Option<Closes>> {
    let closes = Closes { lingers: flags & LINGERS != 0, because_late: flags & CLOSES_BY_DEADLINE != 0 };
    let closes = (flags & CLOSES != 0).then_some(closes);
    (flags == flags_of(closes)).then_some(closes)
}

#[derive(Debug, PartialEq, Eq, Default)]
struct Writer(Wiped);

impl Writer {
    fn number<const N: usize>(&mut self, bytes: [u8; N]) {
        self.0.extend(&bytes);
    }

    fn count(&mut self, count: usize) {
        self.number((count as u64).to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend(bytes);
    }

    /// The name of a connection, and its sequence numbers (`Entries::said`).
    fn said_at(&mut self, (name, said): (ConnId, u64)) {
        self.number(name.to_number().to_le_bytes());
        self.number(said.to_le_bytes());
    }

    fn known(&mut self, known: &Known) {
        self.number([flag(known.age.is_some(), AGED) | flag(known.deadline.is_some(), HAS_DEADLINE)]);
        if let Some(age) = known.age {
            self.number(age.to_le_bytes());
        }
        if let Some(deadline) = known.deadline {
            self.number(deadline.to_le_bytes());
        }
        self.bytes(&known.service);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*number)
    }

    fn u16(&mut self) -> Option<u16> {
        self.number().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.number().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.number().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u64()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// So many of what `one` reads. Memory is taken for what is there, whatever the number says.
    fn many<T>(&mut self, mut one: impl FnMut(&mut Reader<'a>) -> Option<T>) -> Option<Vec<T>> {
        let mut all = Vec::new();
        for _ in 0..self.u64()? {
            all.push(one(self)?);
        }
        Some(all)
    }

    fn name(&mut self) -> Option<ConnId> {
        self.u64().map(ConnId::of_number)
    }

    fn said_at(&mut self) -> Option<(ConnId, u64)> {
        Some((self.name()?, self.u64()?))
    }

    fn known(&mut self) -> Option<Known> {
        let [flags] = self.number()?;
        if flags & !(AGED | HAS_DEADLINE) != 0 {
            return None;
        }
        let age = if flags & AGED != 0 { Some(self.u32()?) } else { None };
        let deadline = if flags & HAS_DEADLINE != 0 { Some(self.u64()?) } else { None };
        Some(Known { age, deadline, service: self.bytes()?.to_vec() })
    }

    /// What was read, if it was all.
    fn end<T>(self, read: T) -> Option<T> {
        self.0.is_empty().then_some(read)
    }
}

impl KnownSleepers {
    /// Adds one.
    pub fn push(&mut self, sleeper: &Sleeper) {
        let Sleeper { name, said, known, tls } = sleeper;
        let writer = &mut self.0;
        writer.said_at((*name, *said));
        writer.number([flag(tls.is_some(), SECURED)]);
        if let Some(tls) = tls {
            writer.bytes(tls);
        }
        writer.known(known);
    }

    /// Their bytes.
    pub fn encode(self) -> Wiped {
        self.0.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }

    /// Reads what `encode` has written; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Vec<Sleeper>> {
        let (mut reader, mut all) = (Reader(bytes), Vec::new());
        while !reader.0.is_empty() {
            let (name, said) = reader.said_at()?;
            let tls = match reader.number()? {
                [0] => None,
                [SECURED] => Some(Wiped::from(reader.bytes()?)),
                _ => return None,
            };
            all.push(Sleeper { name, said, known: reader.known()?, tls });
        }
        Some(all)
    }
}

impl Sleepers {
    /// As bytes.
    pub fn encode(&self) -> Wiped {
        let mut writer = Writer::default();
        writer.number(self.window.to_le_bytes());
        writer.number(self.awake.to_le_bytes());
        writer.count(self.surrendered.closings.len());
        for (at, numbers) in &self.surrendered.closings {
            writer.said_at(*at);
            numbers.iter().for_each(|number| writer.number(number.to_le_bytes()));
        }
        writer.count(self.surrendered.unsent.len());
        for UnsentOf { at, bytes, flown, closes } in &self.surrendered.unsent {
            writer.said_at(*at);
            writer.bytes(bytes);
            writer.number(flown.to_le_bytes());
            writer.number([flags_of(*closes)]);
        }
        writer.0
    }

    /// Reads what `encode` has written; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Sleepers> {
        let mut reader = Reader(bytes);
        let (window, awake) = (reader.u16()?, reader.u64()?);
        let closings = reader.many(|reader| Some((reader.said_at()?, [reader.u32()?, reader.u32()?])))?;
        let unsent = reader.many(|reader| {
            let (at, bytes) = (reader.said_at()?, reader.bytes()?.to_vec());
            let (flown, [flags]) = (reader.u32()?, reader.number()?);
            (flown as usize <= bytes.len()).then_some(UnsentOf { at, bytes, flown, closes: closes(flags)? })
        })?;
        reader.end(Sleepers { window, awake, surrendered: Surrendered { closings, unsent } })
    }
}

impl Batch {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.connections.is_empty()
    }

    /// As bytes.
    pub fn encode(&self) -> Wiped {
        let mut writer = Writer::default();
        writer.number(self.to_come.to_le_bytes());
        writer.count(self.ended.len());
        self.ended.iter().for_each(|index| writer.number(index.to_le_bytes()));
        writer.count(self.connections.len());
        for (state, known) in &self.connections {
            writer.number([flag(state.name.is_some(), NAMED)
                | flag(state.reads_paused, READS_PAUSED)
                | flags_of(state.closes)
                | flag(state.tells_when_sent, TELLS_WHEN_SENT)
                | flag(state.tls.is_some(), SECURED)]);
            if let Some(name) = state.name {
                writer.number(name.to_number().to_le_bytes());
            }
            writer.number(state.silence.to_le_bytes());
            writer.number(state.quiet_since.to_le_bytes());
            writer.bytes(&state.unsent);
            if let Some(tls) = &state.tls {
                writer.bytes(tls);
            }
            writer.known(known);
        }
        writer.0
    }

    /// Reads what `encode` has written; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Batch> {
        let mut reader = Reader(bytes);
        let to_come = reader.u64()?;
        let ended = reader.many(Reader::u32)?;
        let connections = reader.many(|reader| {
            let [flags] = reader.number()?;
            let closes = closes(flags & !(NAMED | READS_PAUSED | TELLS_WHEN_SENT | SECURED))?;
            let name = if flags & NAMED != 0 { Some(reader.name()?) } else { None };
            let state = HandedState {
                name,
                silence: reader.u16()?,
                quiet_since: reader.u64()?,
                reads_paused: flags & READS_PAUSED != 0,
                closes,
                tells_when_sent: flags & TELLS_WHEN_SENT != 0,
                unsent: reader.bytes()?.to_vec(),
                tls: if flags & SECURED != 0 { Some(Wiped::from(reader.bytes()?)) } else { None },
            };
            Some((state, reader.known()?))
        })?;
        reader.end(Batch { ended, connections, to_come })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known() -> impl Strategy<Value = Known> {
        (any::<Option<u32>>(), any::<Option<u64>>(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(age, deadline, service)| Known { age, deadline, service })
    }

    fn name() -> impl Strategy<Value = ConnId> {
        any::<u64>().prop_map(ConnId::of_number)
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..50)
    }

    fn tls() -> impl Strategy<Value = Option<Wiped>> {
        prop::option::of(bytes().prop_map(|bytes| Wiped::from(&bytes[..])))
    }

    fn sleeper() -> impl Strategy<Value = Sleeper> {
        (name(), any::<u64>(), known(), tls()).prop_map(|(name, said, known, tls)| Sleeper { name, said, known, tls })
    }

    fn written(sleepers: &[Sleeper]) -> Wiped {
        let mut known = KnownSleepers::default();
        sleepers.iter().for_each(|sleeper| known.push(sleeper));
        known.encode()
    }

    fn closes() -> impl Strategy<Value = Option<Closes>> {
        let closes = any::<(bool, bool)>().prop_map(|(lingers, because_late)| Closes { lingers, because_late });
        prop::option::of(closes)
    }

    fn state() -> impl Strategy<Value = HandedState> {
        (prop::option::of(name()), any::<(u16, bool, bool, u64)>(), closes(), bytes(), tls()).prop_map(
            |(name, (silence, reads_paused, tells_when_sent, quiet_since), closes, unsent, tls)| HandedState {
                name,
                silence,
                reads_paused,
                closes,
                tells_when_sent,
                unsent,
                tls,
                quiet_since,
            },
        )
    }

    fn sleepers() -> impl Strategy<Value = Sleepers> {
        let said_at = || (name(), any::<u64>());
        let closings = prop::collection::vec((said_at(), any::<[u32; 2]>()), 0..5);
        let unsent =
            (said_at(), bytes(), any::<prop::sample::Index>(), closes()).prop_map(|(at, bytes, flown, closes)| {
                let flown = flown.index(bytes.len() + 1) as u32;
                UnsentOf { at, bytes, flown, closes }
            });
        let unsent = prop::collection::vec(unsent, 0..5);
        (any::<(u16, u64)>(), closings, unsent).prop_map(|((window, awake), closings, unsent)| Sleepers {
            window,
            awake,
            surrendered: Surrendered { closings, unsent },
        })
    }

    fn batch() -> impl Strategy<Value = Batch> {
        let connections = prop::collection::vec((state(), known()), 0..5);
        (prop::collection::vec(any::<u32>(), 0..5), connections, any::<u64>())
            .prop_map(|(ended, connections, to_come)| Batch { ended, connections, to_come })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            sleepers in sleepers(), batch in batch(), known in prop::collection::vec(sleeper(), 0..5)
        ) {
            prop_assert_eq!(KnownSleepers::decode(&written(&known)), Some(known));
            prop_assert_eq!(Sleepers::decode(&sleepers.encode()), Some(sleepers));
            prop_assert_eq!(Batch::decode(&batch.encode()), Some(batch));
        }

        /// No part of a message is a message, nor is one with more behind it.
        #[test]
        fn a_message_is_read_whole_or_not_at_all(sleepers in sleepers(), batch in batch(), cut in any::<prop::sample::Index>()) {
            for whole in [sleepers.encode(), batch.encode()] {
                let part = &whole[..cut.index(whole.len())];
                prop_assert!(Sleepers::decode(part).is_none_or(|read| read.encode()[..] == *part));
                prop_assert!(Batch::decode(part).is_none_or(|read| read.encode()[..] == *part));
                prop_assert!(KnownSleepers::decode(part).is_none_or(|read| written(&read)[..] == *part));
            }
            let more = [&sleepers.encode()[..], &[0]].concat();
            prop_assert_eq!(Sleepers::decode(&more), None);
        }
    }

    #[test]
    fn no_more_bytes_have_flown_than_there_are() {
        let sleepers = |flown| {
            let unsent = UnsentOf { at: (ConnId::of_number(1), 2), bytes: vec![7; 3], flown, closes: None };
            Sleepers {
                surrendered: Surrendered { unsent: vec![unsent], ..Surrendered::default() },
                ..Sleepers::default()
            }
        };
        assert_eq!(Sleepers::decode(&sleepers(3).encode()), Some(sleepers(3)));
        assert_eq!(Sleepers::decode(&sleepers(4).encode()), None);
    }

    #[test]
    fn a_number_of_connections_that_are_not_there_takes_no_memory() {
        let many = [[0u8; 8], [0; 8], u64::MAX.to_le_bytes()].concat();
        assert_eq!(Batch::decode(&many), None);
    }
}
