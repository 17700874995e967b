//! The life of a slot's connection: which state an event leads to, and what is to be done next. This module knows no
//! ring and no socket. `engine.rs` tells it what happened and does what it says, so that its rules can be tested with
//! events in every order.
//!
//! ```text
//!            claim          establish           dismantle           release
//!   FREE ───────────▶ OPENING ─────▶ LIVE ────────────▶ CLOSING ─────────▶ FREE
//!                        └───────────────────────────▶─┘        generation + 1
//! ```
//!
//! A connection that was reset is closing too, but is dismantled only when there is time for that. The same holds for
//! a connection whose peer sent a FIN together with many others.
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
//! A connection that a filter watches (`sys/filter.rs`) waits without a poll. The filter announces a segment before it
//! can be received, and may announce two segments at once. Two rules follow:
//!
//! - When something was announced and a receive brings nothing, the segment is still on its way: the connection waits
//!   in a poll.
//! - When the filter began to watch a connection, or an announced segment was received, another segment may have been
//!   missed at that moment. For a while the connection may have missed something. It is looked at twice, with a pause
//!   between the looks that is longer than any segment takes, and then receives once more.
//!
//! A connection that is closed while its peer may still send *lingers*: its own direction is shut, and what comes is
//! received as before and dropped, until the peer ends too or it takes too long (`lingering.rs`). Without that, bytes
//! of the peer that are unread at the close or come after it would make the kernel send a RST. The RST may overtake the
//! bytes that were sent last.
//!
//! A slot is released only when no operation of its connection is left in the kernel, so a completion of an earlier
//! connection cannot come. Should one come all the same, its generation shows it.

/// How to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseMode {
    /// In order: a FIN once everything on its way to the peer has been sent. The side that closes first is left with
    /// TIME_WAIT.
    Graceful,
    /// As `Graceful`, for a peer that may still send, such as one whose request is refused before all of it has come:
    /// after the FIN, what comes is dropped until the peer ends too: for 10 s and 64 MiB at most, and for less while
    /// new or waking connections need the slot (RFC 9112, section 9.6). With `Graceful` such a peer gets a RST from the
    /// kernel. The RST may overtake the last bytes that the peer was sent.
    Lingering,
    /// A FIN at once. What has not been sent is dropped.
    Immediate,
    /// A RST at once. What has not been sent is dropped, and no TIME_WAIT is left.
    Abort,
}

/// What is to be done next for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Nothing: it waits, or has an operation in the kernel.
    Rest,
    /// Receive, as there may be bytes.
    Receive,
    /// Receive what the last receive left, after other connections had their turn.
    Wait,
    /// Park it: in a poll, or behind the filter.
    Park,
    /// Park it anew: its poll was removed for that.
    ParkAnew,
    /// Park it in a poll in any case: the filter has announced something that is on its way.
    Poll,
    /// Send what was kept for it.
    SendKept,
    /// Close it in order, as the driver wanted while it was busy.
    End,
    /// Free its slot: it has no operation in the kernel.
    Release,
}

/// What is done with bytes for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendDecision {
    /// They can go to the kernel.
    Now,
    /// They are kept until the data operation before is over.
    Later,
    /// They are dropped: nothing is sent any more.
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Phase {
    /// The slot has no connection.
    #[default]
    Free,
    /// An accept or a connect is in the kernel.
    Opening,
    /// A connection is established and admitted.
    Live,
    /// Its socket is on its way to another process, which has not said yet that it has it.
    Away,
    /// It has ended for its driver, and the shutdown of its own direction is in the kernel. What comes is dropped.
    ShuttingDown,
    /// The kernel has done the shutdown. What comes is dropped.
    Lingering,
    /// It has lingered for long enough. The kernel has not done the shutdown yet and will look for the socket in this slot, so
    /// the slot is not freed.
    Lingered,
    /// Its descriptor is being closed.
    Closing,
}

/// What is known beside the phase, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Flags(u16);

impl Flags {
    /// A poll is in the kernel.
    const POLLING: Flags = Flags(1);
    /// The poll is a lasting (multishot) one.
    const LASTING: Flags = Flags(1 << 1);
    /// The poll is being removed, to be armed anew.
    const REARMING: Flags = Flags(1 << 2);
    /// A receive or a send is in the kernel, or what was received is with the driver.
    const BUSY: Flags = Flags(1 << 3);
    /// There may be bytes to receive.
    const READABLE: Flags = Flags(1 << 4);
    /// Bytes are kept in the shard, to be sent after the data operation in the kernel.
    const KEPT: Flags = Flags(1 << 5);
    /// It is closed once what is on its way to the peer has been sent. Nothing is received any more.
    const CLOSE_WHEN_SENT: Flags = Flags(1 << 6);
    /// Nothing is received any more, as the driver wants.
    const READS_PAUSED: Flags = Flags(1 << 7);
    /// A close is in the kernel.
    const CLOSE_IN_FLIGHT: Flags = Flags(1 << 8);
    /// It was reset, or its peer has sent a FIN, and it waits to be dismantled.
    const AWAITS_REAPING: Flags = Flags(1 << 9);
    /// The last receive left some bytes in the socket. The connection has had its turn.
    const SERVED: Flags = Flags(1 << 10);
    /// It waits for its turn to receive.
    const WAITING: Flags = Flags(1 << 11);
    /// A filter watches it, and will announce what comes.
    const FILTERED: Flags = Flags(1 << 12);
    /// The filter announced something that has not been received yet.
    const NOTIFIED: Flags = Flags(1 << 13);
    /// Something may have come at the moment in which the filter began to watch, or announced something else, and was
    /// missed.
    const MAY_HAVE_MISSED: Flags = Flags(1 << 14);
    /// It was looked at once since then.
    const RECHECKED: Flags = Flags(1 << 15);

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

/// The state of a slot: 4 bytes. By default it is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SlotState {
    phase: Phase,
    flags: Flags,
}

impl SlotState {
    /// The state of a slot whose connection begins to open.
    pub fn opening() -> SlotState {
        SlotState { phase: Phase::Opening, flags: Flags::default() }
    }

    /// Whether the slot has no connection.
    pub fn is_free(self) -> bool {
        self.phase == Phase::Free
    }

    /// Whether it is live.
    pub fn is_live(self) -> bool {
        self.phase == Phase::Live
    }

    /// Whether a data operation is under way (a receive, a send, or the driver's handling of what was received), or
    /// bytes are kept.
    pub fn has_data_under_way(self) -> bool {
        self.flags.any(Flags::BUSY.or(Flags::KEPT))
    }

    /// Whether it has ended, and what comes is dropped.
    pub fn is_lingering(self) -> bool {
        matches!(self.phase, Phase::ShuttingDown | Phase::Lingering)
    }

    /// Whether what comes is received.
    fn receives(self) -> bool {
        self.is_live() || self.is_lingering()
    }

    /// Whether nothing is under way for a connection: it may be put to sleep.
    pub fn may_sleep(self) -> bool {
        let under_way = [
            Flags::BUSY,
            Flags::READABLE,
            Flags::KEPT,
            Flags::CLOSE_WHEN_SENT,
            Flags::SERVED,
            Flags::WAITING,
            Flags::NOTIFIED,
            Flags::READS_PAUSED,
            Flags::REARMING,
        ];
        self.phase == Phase::Live && !under_way.iter().any(|flag| self.flags.any(*flag))
    }

    /// The accept or connect succeeded.
    pub fn establish(&mut self) {
        debug_assert_eq!(self.phase, Phase::Opening, "a connection stands twice");
        self.phase = Phase::Live;
    }

    // ---- data ---------------------------------------------------------------------------------

    /// What becomes of bytes that are to be sent now.
    pub fn sending(self) -> SendDecision {
        if self.flags.any(Flags::CLOSE_WHEN_SENT) { SendDecision::Never } else { self.sending_kept() }
    }

    /// The same of bytes that were kept before: a close in order waits for them.
    pub fn sending_kept(self) -> SendDecision {
        match self.phase {
            Phase::Live if self.flags.any(Flags::BUSY) => SendDecision::Later,
            Phase::Live => SendDecision::Now,
            _ => SendDecision::Never,
        }
    }

    /// What becomes of the reply to a receive, which keeps the connection busy. Bytes that were kept
    /// meanwhile go first.
    pub fn replying(self) -> SendDecision {
        match self.phase {
            Phase::Live if self.flags.any(Flags::KEPT) => SendDecision::Later,
            Phase::Live => SendDecision::Now,
            _ => SendDecision::Never,
        }
    }

    /// Whether bytes that came are for the driver: not once the driver has closed it, as a reply could not be sent
    /// whole.
    pub fn accepts_bytes(self) -> bool {
        self.phase == Phase::Live && !self.flags.any(Flags::CLOSE_WHEN_SENT)
    }

    /// Bytes for it are kept.
    pub fn keep(&mut self) {
        self.flags.set(Flags::KEPT);
    }

    /// Whether bytes for it are kept.
    pub fn keeps_bytes(self) -> bool {
        self.flags.any(Flags::KEPT)
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

    /// The receive brought bytes: those that the filter had announced, unless it announced more since the receive
    /// began.
    pub fn received(&mut self) {
        if !self.flags.any(Flags::READABLE) {
            self.flags.clear(Flags::NOTIFIED);
        }
    }

    /// The receive brought nothing. What the filter had announced before it began is still on its way.
    pub fn received_nothing(&mut self) -> Action {
        if self.flags.any(Flags::NOTIFIED) && !self.flags.any(Flags::READABLE) {
            self.leave_filter();
        }
        self.operation_ended()
    }

    /// The receive left some bytes in the socket.
    pub fn left_bytes(&mut self) {
        self.flags.set(Flags::READABLE.or(Flags::SERVED));
    }

    /// It waits for its turn to receive.
    pub fn wait(&mut self) {
        self.flags.set(Flags::WAITING);
    }

    /// It has waited, and may receive.
    pub fn resume(&mut self) -> Action {
        self.flags.clear(Flags::SERVED.or(Flags::WAITING));
        self.next()
    }

    /// Nothing is received any more, while it is live.
    pub fn pause_reads(&mut self) {
        if !self.is_lingering() {
            self.flags.set(Flags::READS_PAUSED);
        }
    }

    /// Bytes are received again, after `pause_reads`. Some may have come meanwhile.
    pub fn resume_reads(&mut self) -> Action {
        if !self.has_paused_reads() {
            return Action::Rest;
        }
        self.flags.clear(Flags::READS_PAUSED);
        if self.is_live() {
            self.flags.set(Flags::READABLE);
        }
        self.next()
    }

    /// The data operation is over.
    pub fn operation_ended(&mut self) -> Action {
        self.flags.clear(Flags::BUSY);
        if self.phase == Phase::Live && self.flags.any(Flags::KEPT) {
            self.flags.clear(Flags::KEPT);
            return Action::SendKept;
        }
        self.next()
    }

    /// The action that the present state alone implies.
    pub fn next(self) -> Action {
        let unfinished = Flags::POLLING.or(Flags::BUSY).or(Flags::CLOSE_IN_FLIGHT).or(Flags::AWAITS_REAPING);
        match self.phase {
            Phase::Closing if !self.flags.any(unfinished) => Action::Release,
            _ if !self.receives() || self.flags.any(Flags::BUSY) => Action::Rest,
            _ if self.flags.any(Flags::CLOSE_WHEN_SENT) => Action::End,
            _ if self.flags.any(Flags::READS_PAUSED.or(Flags::WAITING)) => Action::Rest,
            _ if self.flags.any(Flags::SERVED) => Action::Wait,
            _ if self.flags.any(Flags::READABLE) => Action::Receive,
            _ if self.flags.any(Flags::POLLING.or(Flags::FILTERED)) => Action::Rest,
            _ if self.flags.any(Flags::NOTIFIED) => Action::Poll,
            _ => Action::Park,
        }
    }

    // ---- the poll -----------------------------------------------------------------------------

    /// A poll goes to the kernel, and finds all that is there.
    pub fn park(&mut self, lasting: bool) {
        self.flags.clear(Flags::NOTIFIED);
        self.flags.set(if lasting { Flags::POLLING.or(Flags::LASTING) } else { Flags::POLLING });
    }

    /// The poll fired, or was removed; `armed` if it still waits.
    pub fn poll_fired(&mut self, armed: bool) -> Action {
        let anew = !armed && self.flags.any(Flags::REARMING) && !self.flags.any(Flags::READS_PAUSED);
        self.poll_left(armed);
        if !self.receives() {
            return self.next();
        }
        if anew {
            // The next poll tells whether there is something to receive.
            return Action::ParkAnew;
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
        let parked = self.receives() && self.flags.any(Flags::POLLING) && !self.flags.any(Flags::REARMING);
        if parked {
            self.flags.set(Flags::REARMING);
        }
        parked
    }

    /// Whether a poll that could not be removed must still be removed. If it fired just then it may have been the
    /// last, but a lasting poll stays.
    pub fn poll_must_go(self) -> bool {
        let unwanted = self.phase == Phase::Closing || self.flags.any(Flags::REARMING);
        unwanted && self.flags.any(Flags::POLLING)
    }

    // ---- the filter ---------------------------------------------------------------------------

    /// The filter watches from now on. What is there already has to be received.
    pub fn await_filter(&mut self) -> Action {
        self.flags.set(Flags::FILTERED.or(Flags::MAY_HAVE_MISSED).or(Flags::READABLE));
        self.flags.clear(Flags::RECHECKED);
        self.next()
    }

    /// Whether a filter watches it.
    pub fn awaits_filter(self) -> bool {
        self.receives() && self.flags.any(Flags::FILTERED)
    }

    /// The filter announces a segment, and will announce what comes after it.
    pub fn notified(&mut self) -> Action {
        self.flags.set(Flags::NOTIFIED);
        self.await_filter()
    }

    /// The filter announces a RST. A poll will tell whether TCP takes it.
    pub fn notified_of_reset(&mut self) -> Action {
        self.leave_filter();
        Action::Poll
    }

    fn leave_filter(&mut self) {
        self.flags.clear(Flags::FILTERED.or(Flags::MAY_HAVE_MISSED).or(Flags::RECHECKED));
    }

    /// Whether it may have missed something.
    pub fn may_have_missed(self) -> bool {
        self.awaits_filter() && self.flags.any(Flags::MAY_HAVE_MISSED)
    }

    /// Whether the next look at it is the second one.
    pub fn was_rechecked(self) -> bool {
        self.flags.any(Flags::RECHECKED)
    }

    /// A connection that may have missed something is looked at, a pause after the look before.
    pub fn recheck(&mut self) -> Action {
        if !self.flags.any(Flags::RECHECKED) {
            self.flags.set(Flags::RECHECKED);
            return Action::Rest;
        }
        self.flags.clear(Flags::MAY_HAVE_MISSED.or(Flags::RECHECKED));
        self.receive_speculatively()
    }

    /// Has it receive although nothing was announced: something may have been missed, or the kernel may have given it
    /// up without a segment.
    pub fn receive_speculatively(&mut self) -> Action {
        self.flags.set(Flags::READABLE);
        self.next()
    }

    // ---- to another process ---------------------------------------------------------------------

    /// Whether an accept or a connect is in the kernel.
    pub fn is_opening(self) -> bool {
        self.phase == Phase::Opening
    }

    /// Whether it has something to receive, and waits for its turn.
    pub fn is_waiting(self) -> bool {
        self.flags.any(Flags::WAITING)
    }

    /// Whether a poll is in the kernel.
    pub fn is_polling(self) -> bool {
        self.flags.any(Flags::POLLING)
    }

    /// Whether a receive or a send is in the kernel, or what was received is with the driver.
    pub fn is_busy(self) -> bool {
        self.flags.any(Flags::BUSY)
    }

    /// Whether nothing is received any more, as the driver wants.
    pub fn has_paused_reads(self) -> bool {
        self.flags.any(Flags::READS_PAUSED)
    }

    /// Whether it is closed once what is on its way has been sent.
    pub fn closes_when_sent(self) -> bool {
        self.flags.any(Flags::CLOSE_WHEN_SENT)
    }

    /// Its socket goes to another process. Nothing is received, sent or closed here any more.
    pub fn go_away(&mut self) {
        self.phase = Phase::Away;
    }

    /// Its socket did not go. What it has to send is sent again, and what may have come is received, unless the driver
    /// wants nothing more.
    pub fn come_back(&mut self, reads_paused: bool) -> Action {
        self.phase = Phase::Live;
        self.flags.clear(Flags::BUSY.or(Flags::KEPT).or(Flags::READS_PAUSED).or(Flags::SERVED));
        self.flags.set(Flags::READABLE);
        if reads_paused {
            self.pause_reads();
        }
        self.next()
    }

    /// Another process has its socket: the descriptor here is being closed.
    pub fn leave(&mut self) {
        self.phase = Phase::Closing;
        self.leave_filter();
        self.flags.clear(Flags::BUSY.or(Flags::KEPT).or(Flags::NOTIFIED));
        self.flags.set(Flags::CLOSE_IN_FLIGHT);
    }

    // ---- the end ------------------------------------------------------------------------------

    /// Whether it is to be closed at once, if it is live at all. While a data operation is under way or bytes are kept,
    /// a close in order must wait, and is remembered.
    pub fn close(&mut self, mode: CloseMode) -> bool {
        let later = matches!(mode, CloseMode::Graceful | CloseMode::Lingering) && self.has_data_under_way();
        if self.phase == Phase::Live && later {
            self.flags.set(Flags::CLOSE_WHEN_SENT);
        }
        self.phase == Phase::Live && !later
    }

    /// A live connection has ended, with nothing on its way to the peer, and the kernel was asked for the shutdown. The connection
    /// keeps its slot, and what comes is dropped.
    pub fn linger(&mut self) -> Action {
        debug_assert!(self.is_live() && !self.has_data_under_way(), "what is sent comes before the end");
        self.phase = Phase::ShuttingDown;
        self.flags.clear(Flags::CLOSE_WHEN_SENT.or(Flags::READS_PAUSED));
        self.next()
    }

    /// The kernel has done the shutdown. Returns whether its slot is to be freed now, as it has lingered for long enough.
    pub fn shut_down(&mut self) -> bool {
        if self.phase == Phase::ShuttingDown {
            self.phase = Phase::Lingering;
        }
        self.phase == Phase::Lingered
    }

    /// It has lingered for long enough. Returns whether its slot may be freed now; if not, `shut_down` will say so.
    pub fn stop_lingering(&mut self) -> bool {
        let may_be_freed = self.phase == Phase::Lingering;
        if !may_be_freed {
            self.phase = Phase::Lingered;
            self.leave_filter();
        }
        may_be_freed
    }

    /// A live connection has ended: it was reset, or its peer has sent a FIN. `armed` if its poll still waits. It keeps
    /// its slot until it has been dismantled.
    pub fn await_reaping(&mut self, armed: bool) {
        debug_assert_eq!(self.phase, Phase::Live, "what does not stand is over");
        self.poll_left(armed);
        self.phase = Phase::Closing;
        self.leave_filter();
        self.flags.clear(Flags::KEPT.or(Flags::NOTIFIED));
        self.flags.set(Flags::AWAITS_REAPING);
    }

    /// Its descriptor is being closed. Returns whether its poll must be removed for that.
    pub fn tear_down(&mut self) -> bool {
        self.phase = Phase::Closing;
        self.leave_filter();
        self.flags.set(Flags::CLOSE_IN_FLIGHT);
        self.flags.clear(Flags::KEPT.or(Flags::NOTIFIED).or(Flags::AWAITS_REAPING));
        self.flags.any(Flags::POLLING)
    }

    /// Its socket was disconnected, and its descriptor is being closed. Returns whether its poll must be removed for that:
    /// the disconnect ends one that is not lasting.
    pub fn tear_down_disconnected(&mut self) -> bool {
        self.tear_down() && self.flags.any(Flags::LASTING)
    }

    /// Its descriptor is closed.
    pub fn closed(&mut self) -> Action {
        self.flags.clear(Flags::CLOSE_IN_FLIGHT);
        self.next()
    }
}
