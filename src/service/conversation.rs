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

/// A connection of [`Http`](super::http::Http) or [`WebSocket`](super::websocket::WebSocket): the state that its
/// service keeps.
#[derive(Debug, Default)]
pub struct Conversation<T> {
    /// The phase in the highest two bits, `TIMED` below them, and then the place of what is incomplete, counted from 1.
    bits: u32,
    pub(super) state: T,
}

const PHASE_SHIFT: u32 = 30;
/// The deadline that is set belongs to the protocol and not to the service.
const TIMED: u32 = 1 << 29;
const PLACE: u32 = TIMED - 1;

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

    pub(super) fn enter(&mut self, phase: Phase) {
        self.bits = self.bits & (TIMED | PLACE) | (phase as u32) << PHASE_SHIFT;
    }

    /// Where what is incomplete is kept.
    pub(super) fn place(&self) -> Option<u32> {
        (self.bits & PLACE).checked_sub(1)
    }

    pub(super) fn set_place(&mut self, place: Option<u32>) {
        self.bits = self.bits & !PLACE | place.map_or(0, |place| place + 1) & PLACE;
    }

    pub(super) fn is_timed(&self) -> bool {
        self.bits & TIMED != 0
    }

    pub(super) fn set_timed(&mut self, timed: bool) {
        self.bits = if timed { self.bits | TIMED } else { self.bits & !TIMED };
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
        fn each_part_is_changed_alone(places in prop::collection::vec(prop::option::of(0..PLACE - 1), 1..9), timed: bool) {
            let mut conversation = Conversation::<()>::default();
            let phases = [Phase::Open, Phase::Closing, Phase::Over, Phase::Http];
            for (place, phase) in places.into_iter().zip(phases.into_iter().cycle()) {
                conversation.enter(phase);
                conversation.set_timed(timed);
                conversation.set_place(place);
                prop_assert_eq!((conversation.phase(), conversation.is_timed(), conversation.place()), (phase, timed, place));
                prop_assert_eq!(conversation.is_open(), phase == Phase::Open);
            }
        }
    }
}
