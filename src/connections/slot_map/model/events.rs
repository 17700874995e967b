//! What may happen to an occupant of a slot.

use crate::connections::lifecycle::CloseMode;

/// An event that may happen to an occupant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    // Acts of the kernel.
    Opened,
    Refused,
    AcceptFailed,
    DialFailed,
    /// The poll fires; a lasting one stays.
    Fired,
    /// The poll fires and tells of a reset; a lasting one stays.
    HungUp,
    /// The poll ends: it was removed, or the connection was reset, or the kernel gave up a lasting one.
    PollEnds,
    RemovalWorks,
    RemovalTooLate,
    /// A receive brings bytes, and there may be more. The driver first acts on the connection and then replies.
    Received(bool, Wish, Answer),
    Empty,
    /// A receive finds the peer's FIN, and there is no time to close.
    PeerEnded,
    SendDone,
    SendShort,
    DataFailed,
    CancelTooLate,
    Closed,
    // Acts of the shard.
    Wish(Wish),
    Rearm,
    /// The shard has time to dismantle a connection that was reset.
    Reclaim,
    /// It has lingered for long enough.
    Lingered,
    /// The kernel has done the shutdown of one that lingers, or has lingered.
    ShutDown,
    /// From now on no buffer is free for a receive, or one is free again.
    Crowd,
    Room,
    /// It waited for its turn to receive.
    Turn,
    /// From now on it is parked often.
    Often,
    /// A filter is to watch it.
    Filtered,
    // Acts of the filter, and of the sweeps over the connections that it watches.
    Told,
    ToldOfReset,
    Look,
    Try,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    Send,
    SendLarge,
    PauseReads,
    ResumeReads,
    Close(CloseMode),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Nothing,
    Back,
    Close,
}

const WISHES: [Wish; 9] = [
    Wish::Nothing,
    Wish::Send,
    Wish::SendLarge,
    Wish::PauseReads,
    Wish::ResumeReads,
    Wish::Close(CloseMode::Graceful),
    Wish::Close(CloseMode::Lingering),
    Wish::Close(CloseMode::Immediate),
    Wish::Close(CloseMode::Abort),
];

/// Every event there is.
pub(super) fn all_events() -> Vec<Event> {
    use Event::*;
    let kernel = [Opened, Refused, AcceptFailed, DialFailed, Fired, HungUp, PollEnds, RemovalWorks, RemovalTooLate];
    let more = [Empty, PeerEnded, SendDone, SendShort, DataFailed, CancelTooLate, Closed, ShutDown];
    let shard = [Rearm, Reclaim, Lingered, Crowd, Room, Turn, Often];
    let filter = [Filtered, Told, ToldOfReset, Look, Try];
    let received = WISHES.into_iter().flat_map(|wish| {
        let answers = [Answer::Nothing, Answer::Back, Answer::Close].into_iter();
        answers.flat_map(move |answer| [false, true].map(|more| Received(more, wish, answer)))
    });
    kernel.into_iter().chain(more).chain(shard).chain(filter).chain(WISHES.map(Wish)).chain(received).collect()
}
