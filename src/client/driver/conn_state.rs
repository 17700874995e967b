//! What a client knows of each of its connections.

use crate::memory_model::CLIENT_SLEEPER_STATE_BYTES;

/// What a client knows of a connection, in its row. A sleeping connection keeps all ten bytes.
#[derive(Debug, Default, Clone, Copy)]
#[repr(C, packed(2))]
pub struct ConnState {
    /// The connection's number within the shard.
    pub index: u32,
    /// The key of the probe in flight in the lower 29 bits, and the flags in the upper three. A probe takes more than 64
    /// bytes, so a window of 32 GiB has no longer keys.
    key_and_flags: u32,
    /// The source port.
    pub port: u16,
}

/// A row of a client takes 24 bytes, 12 of them its own.
const _: () = assert!(size_of::<ConnState>() == CLIENT_SLEEPER_STATE_BYTES, "memory is reckoned with another size");

const PROVED: u32 = 1 << 31;
const ASLEEP: u32 = 1 << 30;
const OVER: u32 = 1 << 29;
const FLAGS: u32 = PROVED | ASLEEP | OVER;

/// What a connection counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is being opened.
    Opening,
    /// It was proved live.
    Live,
    /// Its end is counted. The driver may be told of that end later, and for another reason.
    Over,
}

impl ConnState {
    /// A connection that is being dialed.
    pub fn dialed(index: u32, key: u32, port: u16) -> ConnState {
        let mut state = ConnState { index, key_and_flags: 0, port };
        state.set_key(key);
        state
    }

    /// The key of the connection's probe in the window; 0 when nothing is in flight.
    pub fn key(&self) -> u32 {
        self.key_and_flags & !FLAGS
    }

    /// Another probe is in flight, or none if the key is 0.
    pub fn set_key(&mut self, key: u32) {
        debug_assert_eq!(key & FLAGS, 0, "a window has so many probes");
        self.key_and_flags = self.key_and_flags & FLAGS | key & !FLAGS;
    }

    /// The connection was proved live, and its end is not counted yet.
    pub fn is_proved(&self) -> bool {
        self.key_and_flags & PROVED != 0
    }

    /// The connection is proved live.
    pub fn prove(&mut self) {
        self.set(PROVED, true);
    }

    /// The connection's end is counted. Returns what the connection counted as before.
    pub fn count_end(&mut self) -> Standing {
        match (self.set(OVER, true), self.set(PROVED, false)) {
            (true, _) => Standing::Over,
            (false, true) => Standing::Live,
            (false, false) => Standing::Opening,
        }
    }

    /// Sets whether the connection counts as asleep, and returns whether it did before.
    pub fn set_asleep(&mut self, asleep: bool) -> bool {
        self.set(ASLEEP, asleep)
    }

    fn set(&mut self, flag: u32, to: bool) -> bool {
        let before = self.key_and_flags & flag != 0;
        self.key_and_flags = self.key_and_flags & !flag | if to { flag } else { 0 };
        before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_and_flags_keep_apart(
            (index, key, port) in (any::<u32>(), 0..1_u32 << 29, any::<u16>()),
            steps in prop::collection::vec((0..4, any::<bool>(), 0..1_u32 << 29), 0..20),
        ) {
            let mut state = ConnState::dialed(index, key, port);
            let (mut key, mut standing, mut asleep) = (key, Standing::Opening, false);
            for (step, flag, next) in steps {
                match step {
                    0 if standing == Standing::Opening => {
                        state.prove();
                        standing = Standing::Live;
                    }
                    1 => prop_assert_eq!(state.set_asleep(flag), std::mem::replace(&mut asleep, flag)),
                    2 => prop_assert_eq!(state.count_end(), std::mem::replace(&mut standing, Standing::Over)),
                    _ => {
                        state.set_key(next);
                        key = next;
                    }
                }
                prop_assert_eq!((state.key(), state.is_proved()), (key, standing == Standing::Live));
                prop_assert_eq!(({ state.index }, { state.port }), (index, port));
            }
        }
    }
}
