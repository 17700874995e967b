//! What `Http` and `WebSocket` keep in the row of a connection: 4 bytes, and the state of the service within.

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// HTTP: a request is awaited, or a part of one has come.
    Http,
    /// WebSocket: messages go both ways.
    Open,
    /// WebSocket: this end has sent a close, and awaits that of the peer.
    Closing,
    /// Nothing more is said. The service was told of the end, if it was told of the beginning.
    Over,
}

/// What [`Http`](super::http::Http) and [`WebSocket`](super::websocket::WebSocket) keep in a connection's row. A
/// service meets it only in a [`Broadcast`](crate::Broadcast) of [`WebSocketCtx`](super::websocket::WebSocketCtx):
/// `state()` gives its own state.
#[derive(Debug, Default)]
pub struct Conversation<T> {
    /// The phase in the highest two bits, five marks below them, and then the key of what is incomplete, counted from 1.
    bits: u32,
    pub(super) state: T,
}

const PHASE_SHIFT: u32 = 30;
/// The deadline that is set belongs to the protocol and not to the service.
const TIMED: u32 = 1 << 29;
/// The answer to a request comes later.
const AWAITED: u32 = 1 << 28;
/// What is to be known of that request.
const HEAD_ONLY: u32 = 1 << 27;
const CLOSES: u32 = 1 << 26;
/// Requests wait until the peer has read the answers to those before.
const FULL: u32 = 1 << 25;
const KEY: u32 = FULL - 1;

/// What is to be known of a request when it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// The answer has no body, though it tells the length of one.
    pub head_only: bool,
    /// The connection ends with the answer.
    pub closes: bool,
}

impl<T> Conversation<T> {
    /// The state that the service keeps.
    pub fn state(&self) -> &T {
        &self.state
    }

    /// Whether it speaks WebSocket, and neither end has closed it.
    pub fn is_open(&self) -> bool {
        self.phase() == Phase::Open
    }

    pub(super) fn phase(&self) -> Phase {
        match self.bits >> PHASE_SHIFT {
            0 => Phase::Http,
            1 => Phase::Open,
            2 => Phase::Closing,
            _ => Phase::Over,
        }
    }

    /// Goes on with another phase. A request that was awaiting its answer does so no more, and none waits for its turn.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.bits = self.bits & (TIMED | KEY) | (phase as u32) << PHASE_SHIFT;
    }

    /// The key of what is incomplete.
    pub(super) fn key(&self) -> Option<u32> {
        (self.bits & KEY).checked_sub(1)
    }

    pub(super) fn set_key(&mut self, key: Option<u32>) {
        self.bits = self.bits & !KEY | key.map_or(0, |key| key + 1) & KEY;
    }

    /// The request whose answer comes later, if there is one.
    pub(super) fn awaited(&self) -> Option<Asked> {
        let asked = || Asked { head_only: self.bits & HEAD_ONLY != 0, closes: self.bits & CLOSES != 0 };
        (self.bits & AWAITED != 0).then(asked)
    }

    pub(super) fn set_awaited(&mut self, asked: Option<Asked>) {
        self.bits &= !(AWAITED | HEAD_ONLY | CLOSES);
        if let Some(Asked { head_only, closes }) = asked {
            self.bits |= AWAITED | if head_only { HEAD_ONLY } else { 0 } | if closes { CLOSES } else { 0 };
        }
    }

    /// Whether requests wait until the peer has read the answers to those before.
    pub(super) fn is_full(&self) -> bool {
        self.bits & FULL != 0
    }

    pub(super) fn set_full(&mut self, full: bool) {
        self.bits = if full { self.bits | FULL } else { self.bits & !FULL };
    }

    /// Whether bytes that come are kept until it is their turn.
    pub(super) fn holds(&self) -> bool {
        self.awaited().is_some() || self.is_full()
    }

    pub(super) fn is_timed(&self) -> bool {
        self.bits & TIMED != 0
    }

    pub(super) fn set_timed(&mut self, timed: bool) {
        self.bits = if timed { self.bits | TIMED } else { self.bits & !TIMED };
    }
}

/// The form of what is written of a conversation.
const FORM: u8 = 1;

/// A conversation on its way from process to process: its phase and `TIMED`, what is incomplete, and what the service
/// within has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Carried<'a> {
    phase: Phase,
    timed: bool,
    /// The request whose answer comes later.
    asked: Option<Asked>,
    full: bool,
    /// What is incomplete; empty if nothing is.
    kept: &'a [u8],
    pub inner: &'a [u8],
}

impl<'a> Carried<'a> {
    /// What goes of a row, and of what was incomplete in it.
    pub fn of<T>(row: &Conversation<T>, kept: &'a [u8]) -> Carried<'a> {
        let (phase, timed, asked, full) = (row.phase(), row.is_timed(), row.awaited(), row.is_full());
        Carried { phase, timed, asked, full, kept, inner: &[] }
    }

    /// As bytes, behind which the service within writes its own.
    pub fn write(&self, into: &mut Vec<u8>) {
        let asked = self.asked.map_or(0, |asked| 1 | u8::from(asked.head_only) << 1 | u8::from(asked.closes) << 2);
        let marks = asked | u8::from(self.full) << 3;
        into.extend([FORM, (self.phase as u8) << 1 | u8::from(self.timed) | marks << 3]);
        into.extend((self.kept.len() as u32).to_le_bytes());
        into.extend_from_slice(self.kept);
        into.extend_from_slice(self.inner);
    }

    /// Reads what `write` has written; `None` for anything else.
    pub fn read(bytes: &'a [u8]) -> Option<Carried<'a>> {
        let (&[FORM, bits], rest) = bytes.split_first_chunk()? else { return None };
        let (length, rest) = rest.split_first_chunk()?;
        let (kept, inner) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let phase = [Phase::Http, Phase::Open, Phase::Closing, Phase::Over][usize::from(bits >> 1 & 3)];
        let (asked, full) = match bits >> 3 {
            0 => (None, false),
            marks @ (1 | 3 | 5 | 7) => (Some(Asked { head_only: marks & 2 != 0, closes: marks & 4 != 0 }), false),
            8 => (None, true),
            _ => return None,
        };
        Some(Carried { phase, timed: bits & 1 != 0, asked, full, kept, inner })
    }

    /// Writes it into a row. `keep` keeps what is incomplete, and returns its key. `false` if it cannot.
    pub fn bring<T>(&self, row: &mut Conversation<T>, keep: impl FnOnce(&[u8]) -> Option<u32>) -> bool {
        row.enter(self.phase);
        row.set_timed(self.timed);
        row.set_awaited(self.asked);
        row.set_full(self.full);
        row.set_key(None);
        if self.kept.is_empty() {
            return true;
        }
        let key = keep(self.kept);
        row.set_key(key);
        if key.is_none() {
            // The service is not told of its end, as it was not told that the connection has come.
            row.enter(Phase::Over);
        }
        key.is_some()
    }

    /// Whether the service within knows the connection, where that is told of WebSocket alone.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Closing)
    }

    /// Whether what is incomplete is a request.
    pub fn speaks_http(&self) -> bool {
        self.phase == Phase::Http
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_takes_four_bytes() {
        assert_eq!((size_of::<Conversation<()>>(), size_of::<Conversation<u32>>()), (4, 8));
        assert_eq!(Conversation::<()>::default().phase(), Phase::Http);
    }

    proptest! {
        #[test]
        fn what_goes_is_read_as_it_was_written(
            phase in prop::sample::select(vec![Phase::Http, Phase::Open, Phase::Closing, Phase::Over]), timed: bool,
            kept in prop::collection::vec(any::<u8>(), 0..9), inner in prop::collection::vec(any::<u8>(), 0..9),
            asked in prop::option::of((any::<bool>(), any::<bool>())), full: bool,
        ) {
            let asked = asked.map(|(head_only, closes)| Asked { head_only, closes });
            // A request that waits for its answer is the only one that is read.
            let full = full && asked.is_none();
            let carried = Carried { phase, timed, asked, full, kept: &kept, inner: &inner };
            let mut bytes = Vec::new();
            carried.write(&mut bytes);
            prop_assert_eq!(Carried::read(&bytes), Some(carried));
            let mut row = Conversation::<()>::default();
            let is_kept = carried.bring(&mut row, |bytes| (bytes == kept).then_some(8));
            prop_assert!(is_kept);
            prop_assert_eq!((row.awaited(), row.is_full()), (asked, full));
            prop_assert_eq!((row.phase(), row.is_timed(), row.key()), (phase, timed, (!kept.is_empty()).then_some(8)));
            prop_assert_eq!(Carried::of(&row, &kept), Carried { inner: &[], ..carried });
            prop_assert_eq!(carried.bring(&mut row, |_| None), kept.is_empty());
        }

        #[test]
        fn each_part_is_changed_alone(
            keys in prop::collection::vec(prop::option::of(0..KEY - 1), 1..9), timed: bool, full: bool,
            asked in prop::option::of((any::<bool>(), any::<bool>())),
        ) {
            let asked = asked.map(|(head_only, closes)| Asked { head_only, closes });
            let mut conversation = Conversation::<()>::default();
            let phases = [Phase::Open, Phase::Closing, Phase::Over, Phase::Http];
            for (key, phase) in keys.into_iter().zip(phases.into_iter().cycle()) {
                conversation.enter(phase);
                conversation.set_timed(timed);
                conversation.set_awaited(asked);
                conversation.set_full(full);
                conversation.set_key(key);
                prop_assert_eq!((conversation.awaited(), conversation.is_full()), (asked, full));
                prop_assert_eq!((conversation.phase(), conversation.is_timed(), conversation.key()), (phase, timed, key));
                prop_assert_eq!(conversation.is_open(), phase == Phase::Open);
            }
        }
    }
}
