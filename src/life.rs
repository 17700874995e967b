//! The life of a slot's tenant: what a completion or a wish makes of it, and what is to be done next.
//! It knows no ring and no socket: `net.rs` tells it what happened and does what it says, so that its
//! rules can be tried in every order that a kernel might think of.
//!
//! ```text
//!            claim            stand             dismantle           release
//!   FREE ───────────▶ OPENING ─────▶ LIVE ────────────▶ CLOSING ─────────▶ FREE
//!                        └───────────────────────────▶─┘        generation + 1
//! ```
//!
//! One that was reset is closing too, but is dismantled only when there is time for it. So is one whose peer sent a FIN
//! together with many others.
//!
//! A live connection has one data operation at a time, and a poll beside it:
//!
//! ```text
//!   parked ──fired──▶ receiving ──bytes──▶ driver ──reply──▶ sending ──▶ parked
//!     ▲                   │ nothing           │ nothing         │ short
//!     └───────────────────┴───────────────────┘                 ▼
//!                                                        parked send (slow reader)
//! ```
//!
//! A connection that a filter watches (`sys/filter.rs`) waits without a poll. The filter tells of a segment
//! before that can be received, and of two segments perhaps at once. So whoever is told of something and receives
//! nothing is polled, as it is still on its way. And whoever began to be watched, or was told of something and
//! received it, may have missed another segment at that moment, and is unsure for a while: it is looked at twice,
//! with a pause between that is longer than any segment takes, and then receives once more.
//!
//! A slot is released only when no operation of its tenant is left in the kernel, so a completion of
//! an earlier tenant cannot exist; should one come all the same, its generation gives it away.

/// How to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// An orderly end: FIN once everything on its way to the peer has been sent, and TIME_WAIT on
    /// the side that closes first.
    Fin,
    /// FIN at once; what has not been sent is dropped.
    Now,
    /// At once: RST, nothing left behind.
    Reset,
}

/// What is to be done next for a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Nothing: it waits, or something of it is in the kernel.
    Rest,
    /// Receive, as there may be bytes.
    Receive,
    /// Receive what the last receive left, after others had their turn.
    Wait,
    /// Wait in a poll, or behind the filter.
    Park,
    /// Wait anew: the poll before was removed for that.
    ParkAnew,
    /// Wait in a poll in any case: something is on its way that the filter has told of.
    Poll,
    /// Send what was kept for it.
    SendKept,
    /// Close it in order, as was wished while it was busy.
    End,
    /// Free its slot: nothing of it is left in the kernel.
    Release,
}

/// What becomes of bytes for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// They can go to the kernel.
    Now,
    /// They are kept until the data operation before is over.
    Later,
    /// They are dropped: nothing is sent any more.
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Phase {
    /// Nobody's.
    #[default]
    Free,
    /// An accept or a connect is in the kernel.
    Opening,
    /// A connection stands.
    Live,
    /// Its descriptor is being closed.
    Closing,
}

/// What is known beside the phase, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Flags(u16);

impl Flags {
    /// A poll is in the kernel.
    const POLLING: Flags = Flags(1);
    /// The poll is a lasting one.
    const LASTING: Flags = Flags(1 << 1);
    /// The poll is being removed, to be armed anew.
    const REARMING: Flags = Flags(1 << 2);
    /// A receive or a send is in the kernel, or what was received is with the driver.
    const BUSY: Flags = Flags(1 << 3);
    /// There may be bytes to receive.
    const READABLE: Flags = Flags(1 << 4);
    /// Bytes are kept in the shard, to be sent after the data operation in the kernel.
    const KEPT: Flags = Flags(1 << 5);
    /// To be closed once what is on its way to the peer has been sent; nothing is received any more.
    const ENDING: Flags = Flags(1 << 6);
    /// Nothing is received any more: a slow reader on purpose.
    const DEAF: Flags = Flags(1 << 7);
    /// A close is in the kernel.
    const FINISHING: Flags = Flags(1 << 8);
    /// It was reset, or its peer has sent a FIN, and it waits to be dismantled.
    const HUNG_UP: Flags = Flags(1 << 9);
    /// The last receive left some bytes in the socket: it has had its turn.
    const SERVED: Flags = Flags(1 << 10);
    /// It waits for its turn to receive.
    const WAITING: Flags = Flags(1 << 11);
    /// A filter watches it, and will tell what comes.
    const WATCHED: Flags = Flags(1 << 12);
    /// The filter told of something that has not been received yet.
    const TOLD: Flags = Flags(1 << 13);
    /// Something may have come as the filter began to watch or told of something else, and have been missed.
    const UNSURE: Flags = Flags(1 << 14);
    /// It was looked at since then.
    const LOOKED_AT: Flags = Flags(1 << 15);

    const fn or(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether any bit of `other` is set.
    fn any(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    fn set(&mut self, other: Flags) {
        self.0 |= other.0;
    }

    fn clear(&mut self, other: Flags) {
        self.0 &= !other.0;
    }
}

/// Where a slot is in its life. 4 bytes; the default is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Life {
    phase: Phase,
    flags: Flags,
}

impl Life {
    /// A new tenant's life.
    pub fn opening() -> Life {
        Life { phase: Phase::Opening, flags: Flags::default() }
    }

    /// Whether the slot is nobody's.
    pub fn is_free(self) -> bool {
        self.phase == Phase::Free
    }

    /// Whether a connection stands.
    pub fn is_live(self) -> bool {
        self.phase == Phase::Live
    }

    /// Whether a receive or a send is under way, or bytes are kept.
    pub fn is_sending(self) -> bool {
        self.flags.any(Flags::BUSY.or(Flags::KEPT))
    }

    /// The accept or connect succeeded.
    pub fn stand(&mut self) {
        debug_assert_eq!(self.phase, Phase::Opening, "a connection stands twice");
        self.phase = Phase::Live;
    }

    // ---- data ---------------------------------------------------------------------------------

    /// What becomes of bytes that are to be sent now.
    pub fn sending(self) -> Sending {
        match self.phase {
            Phase::Live if self.flags.any(Flags::ENDING) => Sending::Never,
            Phase::Live if self.flags.any(Flags::BUSY) => Sending::Later,
            Phase::Live => Sending::Now,
            _ => Sending::Never,
        }
    }

    /// What becomes of the reply to a receive, which keeps the connection busy. Bytes that were kept
    /// meanwhile go first.
    pub fn replying(self) -> Sending {
        match self.phase {
            Phase::Live if self.flags.any(Flags::KEPT) => Sending::Later,
            Phase::Live => Sending::Now,
            _ => Sending::Never,
        }
    }

    /// Whether bytes that came are for the driver: not once its end was wished, as a reply could
    /// not be sent whole.
    pub fn takes_bytes(self) -> bool {
        self.phase == Phase::Live && !self.flags.any(Flags::ENDING)
    }

    /// Bytes for it are kept.
    pub fn keep(&mut self) {
        self.flags.set(Flags::KEPT);
    }

    /// A send goes to the kernel.
    pub fn send(&mut self) {
        self.flags.set(Flags::BUSY);
    }

    /// A receive goes to the kernel, for all that is there by now.
    pub fn receive(&mut self) {
        self.flags.clear(Flags::READABLE);
        self.flags.set(Flags::BUSY);
    }

    /// The receive brought bytes: what the filter told of, unless it told again since that began.
    pub fn received(&mut self) {
        if !self.flags.any(Flags::READABLE) {
            self.flags.clear(Flags::TOLD);
        }
    }

    /// The receive brought nothing. What the filter told of before it began is still on its way.
    pub fn empty(&mut self) -> Next {
        if self.flags.any(Flags::TOLD) && !self.flags.any(Flags::READABLE) {
            self.unwatch();
        }
        self.unbusy()
    }

    /// The receive left some bytes in the socket.
    pub fn more(&mut self) {
        self.flags.set(Flags::READABLE.or(Flags::SERVED));
    }

    /// It waits for its turn to receive.
    pub fn wait(&mut self) {
        self.flags.set(Flags::WAITING);
    }

    /// It has waited, and may receive.
    pub fn resume(&mut self) -> Next {
        self.flags.clear(Flags::SERVED.or(Flags::WAITING));
        self.next()
    }

    /// Nothing is received any more.
    pub fn deafen(&mut self) {
        self.flags.set(Flags::DEAF);
    }

    /// The data operation is over.
    pub fn unbusy(&mut self) -> Next {
        self.flags.clear(Flags::BUSY);
        if self.phase == Phase::Live && self.flags.any(Flags::KEPT) {
            self.flags.clear(Flags::KEPT);
            return Next::SendKept;
        }
        self.next()
    }

    /// What a tenant does that is told nothing new.
    pub fn next(self) -> Next {
        let unfinished = Flags::POLLING.or(Flags::BUSY).or(Flags::FINISHING).or(Flags::HUNG_UP);
        match self.phase {
            Phase::Closing if !self.flags.any(unfinished) => Next::Release,
            Phase::Live if self.flags.any(Flags::BUSY) => Next::Rest,
            Phase::Live if self.flags.any(Flags::ENDING) => Next::End,
            Phase::Live if self.flags.any(Flags::DEAF.or(Flags::WAITING)) => Next::Rest,
            Phase::Live if self.flags.any(Flags::SERVED) => Next::Wait,
            Phase::Live if self.flags.any(Flags::READABLE) => Next::Receive,
            Phase::Live if self.flags.any(Flags::POLLING.or(Flags::WATCHED)) => Next::Rest,
            Phase::Live if self.flags.any(Flags::TOLD) => Next::Poll,
            Phase::Live => Next::Park,
            _ => Next::Rest,
        }
    }

    // ---- the poll -----------------------------------------------------------------------------

    /// A poll goes to the kernel, and finds all that is there.
    pub fn park(&mut self, lasting: bool) {
        self.flags.clear(Flags::TOLD);
        self.flags.set(if lasting { Flags::POLLING.or(Flags::LASTING) } else { Flags::POLLING });
    }

    /// The poll fired, or was removed; `armed` if it still waits.
    pub fn fired(&mut self, armed: bool) -> Next {
        let anew = !armed && self.flags.any(Flags::REARMING);
        self.poll_left(armed);
        if self.phase != Phase::Live {
            return self.next();
        }
        if anew {
            // The next poll tells whether there is something to receive.
            return Next::ParkAnew;
        }
        self.flags.set(Flags::READABLE);
        self.next()
    }

    fn poll_left(&mut self, armed: bool) {
        if !armed {
            self.flags.clear(Flags::POLLING.or(Flags::LASTING).or(Flags::REARMING));
        }
    }

    /// Whether its poll is to be removed, to be armed anew. `false` where there is none, or that is
    /// under way.
    pub fn rearm(&mut self) -> bool {
        let parked = self.phase == Phase::Live && self.flags.any(Flags::POLLING) && !self.flags.any(Flags::REARMING);
        if parked {
            self.flags.set(Flags::REARMING);
        }
        parked
    }

    /// Whether a poll that could not be removed must be removed still. One that fired just then may
    /// have been its tenant's last, but a lasting one stays.
    pub fn must_lose_poll(self) -> bool {
        let unwanted = self.phase == Phase::Closing || self.flags.any(Flags::REARMING);
        unwanted && self.flags.any(Flags::POLLING)
    }

    // ---- the filter ---------------------------------------------------------------------------

    /// The filter watches from now on. What is there already has to be received.
    pub fn watch(&mut self) -> Next {
        self.flags.set(Flags::WATCHED.or(Flags::UNSURE).or(Flags::READABLE));
        self.flags.clear(Flags::LOOKED_AT);
        self.next()
    }

    /// Whether a filter watches it.
    pub fn is_watched(self) -> bool {
        self.phase == Phase::Live && self.flags.any(Flags::WATCHED)
    }

    /// The filter tells that something comes, and will tell of what comes after it.
    pub fn told(&mut self) -> Next {
        self.flags.set(Flags::TOLD);
        self.watch()
    }

    /// The filter tells of a RST. Whether TCP takes it tells a poll.
    pub fn told_of_reset(&mut self) -> Next {
        self.unwatch();
        Next::Poll
    }

    fn unwatch(&mut self) {
        self.flags.clear(Flags::WATCHED.or(Flags::UNSURE).or(Flags::LOOKED_AT));
    }

    /// Whether something may have been missed of it.
    pub fn is_unsure(self) -> bool {
        self.is_watched() && self.flags.any(Flags::UNSURE)
    }

    /// Whether the next look at one that is unsure is the second.
    pub fn was_looked_at(self) -> bool {
        self.flags.any(Flags::LOOKED_AT)
    }

    /// One that is unsure is looked at, a while after the look before.
    pub fn look(&mut self) -> Next {
        if !self.flags.any(Flags::LOOKED_AT) {
            self.flags.set(Flags::LOOKED_AT);
            return Next::Rest;
        }
        self.flags.clear(Flags::UNSURE.or(Flags::LOOKED_AT));
        self.try_it()
    }

    /// Has a watched one receive although nothing was told: something was missed, or it died without a segment.
    pub fn try_it(&mut self) -> Next {
        self.flags.set(Flags::READABLE);
        self.next()
    }

    // ---- the end ------------------------------------------------------------------------------

    /// Whether it is closed at once, if it stands at all. In order that is not possible while
    /// something is on its way; it is then remembered.
    pub fn close(&mut self, how: How) -> bool {
        let later = how == How::Fin && self.is_sending();
        if self.phase == Phase::Live && later {
            self.flags.set(Flags::ENDING);
        }
        self.phase == Phase::Live && !later
    }

    /// One that stands is reset, by us or as its poll told by its peer, or its peer has sent a FIN; `armed` if its poll
    /// still waits. It is over for everyone, and keeps its slot until it has been dismantled.
    pub fn hang_up(&mut self, armed: bool) {
        debug_assert_eq!(self.phase, Phase::Live, "what does not stand hangs up");
        self.poll_left(armed);
        self.phase = Phase::Closing;
        self.unwatch();
        self.flags.clear(Flags::KEPT.or(Flags::TOLD));
        self.flags.set(Flags::HUNG_UP);
    }

    /// Its descriptor is being closed. Returns whether its poll must be removed for that.
    pub fn dismantle(&mut self) -> bool {
        self.phase = Phase::Closing;
        self.unwatch();
        self.flags.set(Flags::FINISHING);
        self.flags.clear(Flags::KEPT.or(Flags::TOLD).or(Flags::HUNG_UP));
        self.flags.any(Flags::POLLING)
    }

    /// Its descriptor is closed.
    pub fn closed(&mut self) -> Next {
        self.flags.clear(Flags::FINISHING);
        self.next()
    }
}
