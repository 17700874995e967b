//! Occupants, rows and tokens against a simple model of what a kernel may do, in any order: all orders
//! for one slot, random ones for many slots of several rings.
//!
//! `PROPTEST_CASES=20000 cargo test --release --lib slot_map::model` tries more than ten million steps.

use std::collections::HashSet;

use super::*;
use crate::connections::lifecycle::{Action, CloseMode, SendDecision};
use events::{Answer, Event, Wish, all_events};

mod events;
mod world;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
enum Poll {
    #[default]
    None,
    Once,
    Lasting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
enum Data {
    #[default]
    None,
    Receive,
    Send,
    ParkedSend,
}

/// The model of an occupant: its operations in the kernel, and what must still happen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Occupant {
    opening: bool,
    stands: bool,
    /// It was live, or was dialed: the driver must be told of its end.
    owed_an_end: bool,
    notified: u8,
    poll: Poll,
    /// The poll's end is certain.
    poll_ends: bool,
    /// A removal of the poll is in the kernel.
    removing: bool,
    /// It is to be armed anew.
    rearming: bool,
    data: Data,
    /// What was received is with the driver.
    driven: bool,
    /// A parked send's end is certain.
    cancelled: bool,
    /// It was reset, or its peer has sent a FIN, and its descriptor is still open.
    hung: bool,
    /// It has ended, and what comes is dropped.
    lingers: bool,
    /// The shutdown of its own direction is in the kernel.
    shutting_down: bool,
    /// It has lingered for long enough, and is dismantled when the kernel has done the shutdown.
    lingered: bool,
    closing: bool,
    kept: bool,
    ending: bool,
    /// So that it lingers.
    ends_lingering: bool,
    reads_paused: bool,
    crowded: bool,
    waiting: bool,
    often: bool,
    filtered: bool,
    watched: bool,
    /// The filter announced something, and no receive that began later has ended.
    announced: bool,
    /// A receive is in the kernel that began later.
    asked: bool,
    /// A segment may have been missed; so many checks are left.
    looks: u8,
}

impl Occupant {
    fn new() -> Occupant {
        Occupant {
            opening: true,
            stands: false,
            owed_an_end: false,
            notified: 0,
            poll: Poll::None,
            poll_ends: false,
            removing: false,
            rearming: false,
            data: Data::None,
            driven: false,
            cancelled: false,
            hung: false,
            lingers: false,
            shutting_down: false,
            lingered: false,
            closing: false,
            kept: false,
            ending: false,
            ends_lingering: false,
            reads_paused: false,
            crowded: false,
            waiting: false,
            often: false,
            filtered: false,
            watched: false,
            announced: false,
            asked: false,
            looks: 0,
        }
    }

    /// Whether the kernel, or the shard, could do this now.
    fn may(&self, event: Event) -> bool {
        match event {
            Event::Opened | Event::Refused | Event::AcceptFailed | Event::DialFailed => self.opening,
            Event::Fired | Event::HungUp => self.poll != Poll::None,
            Event::PollEnds => self.poll == Poll::Lasting || self.poll != Poll::None && self.poll_ends,
            Event::RemovalWorks | Event::RemovalTooLate => self.removing,
            Event::Received(..) | Event::Empty | Event::PeerEnded => self.data == Data::Receive,
            Event::SendDone => matches!(self.data, Data::Send | Data::ParkedSend),
            Event::SendShort => self.data == Data::Send,
            Event::DataFailed => self.data != Data::None,
            Event::CancelTooLate => self.data == Data::ParkedSend && self.cancelled,
            Event::Closed => self.closing,
            // Acts of the driver may come at any time: it may have kept the name of a connection that is gone.
            Event::Wish(_) => true,
            Event::Rearm => self.is_heard(),
            Event::Reclaim => self.hung,
            Event::Lingered => self.lingers,
            Event::ShutDown => self.shutting_down,
            Event::Crowd => self.stands && !self.crowded,
            Event::Room => self.crowded,
            Event::Turn => self.waiting,
            Event::Often => self.opening && !self.often,
            Event::Filtered => self.opening && !self.filtered,
            Event::Told | Event::ToldOfReset | Event::Try => self.watched,
            Event::Look => self.looks > 0,
        }
    }

    /// Does what the shard does on this event. Returns whether the slot is free again.
    fn happen(&mut self, lifecycle: &mut SlotState, event: Event) -> bool {
        match event {
            Event::Opened => {
                (self.opening, self.stands, self.owed_an_end) = (false, true, true);
                lifecycle.establish();
                self.follow(lifecycle, Action::Park)
            }
            Event::Refused => {
                self.opening = false;
                self.tear_down(lifecycle)
            }
            Event::AcceptFailed => {
                self.opening = false;
                self.follow(lifecycle, Action::Release)
            }
            Event::DialFailed => {
                (self.opening, self.owed_an_end, self.notified) = (false, true, 1);
                self.tear_down(lifecycle)
            }
            Event::Fired => self.poll_fired(lifecycle, self.poll == Poll::Lasting),
            Event::PollEnds => self.poll_fired(lifecycle, false),
            Event::HungUp => self.hung_up(lifecycle, self.poll == Poll::Lasting),
            Event::Reclaim => self.tear_down(lifecycle),
            Event::Lingered => self.stop_lingering(lifecycle),
            Event::ShutDown => self.shut_down(lifecycle),
            Event::RemovalWorks => {
                self.removing = false;
                self.poll_ends |= self.poll != Poll::None;
                false
            }
            Event::RemovalTooLate => {
                self.removing = false;
                // It is firing. A single-shot poll ends with that.
                self.poll_ends |= self.poll == Poll::Once;
                self.cancel_again(*lifecycle)
            }
            Event::CancelTooLate => self.cancel_again(*lifecycle),
            Event::Received(more, wish, answer) => self.received(lifecycle, more, wish, answer),
            Event::Empty => self.received_nothing(lifecycle),
            Event::PeerEnded => self.peer_ended(lifecycle),
            Event::SendShort if self.stands => {
                self.data = Data::ParkedSend;
                false
            }
            Event::SendDone | Event::SendShort => self.data_over(lifecycle, false),
            Event::DataFailed => self.data_over(lifecycle, true),
            Event::Closed => {
                self.closing = false;
                let next = lifecycle.closed();
                self.follow(lifecycle, next)
            }
            Event::Wish(wish) => self.wish(lifecycle, wish),
            Event::Rearm => self.rearm(lifecycle),
            Event::Crowd | Event::Room => {
                self.crowded = event == Event::Crowd;
                false
            }
            Event::Turn => {
                self.waiting = false;
                let next = lifecycle.resume();
                self.follow(lifecycle, next)
            }
            Event::Often | Event::Filtered => {
                self.often |= event == Event::Often;
                self.filtered |= event == Event::Filtered;
                false
            }
            Event::Told | Event::ToldOfReset | Event::Look | Event::Try => self.behind_the_filter(lifecycle, event),
        }
    }

    /// An event of an occupant that a filter watches.
    fn behind_the_filter(&mut self, lifecycle: &mut SlotState, event: Event) -> bool {
        match event {
            Event::Told => {
                (self.announced, self.asked) = (true, false);
                self.await_filter(lifecycle, SlotState::notified)
            }
            Event::ToldOfReset => {
                self.leave_filter();
                let next = lifecycle.notified_of_reset();
                self.follow(lifecycle, next);
                assert_ne!(self.poll, Poll::None, "nobody asks whether it was reset");
                false
            }
            Event::Look => {
                self.looks -= 1;
                let next = lifecycle.recheck();
                let freed = self.follow(lifecycle, next);
                let asks = self.busy() || self.waiting || self.reads_paused;
                assert!(self.looks > 0 || asks, "what was missed is not asked for");
                freed
            }
            _ => {
                let next = lifecycle.receive_speculatively();
                self.follow(lifecycle, next)
            }
        }
    }

    fn await_filter(&mut self, lifecycle: &mut SlotState, what: impl FnOnce(&mut SlotState) -> Action) -> bool {
        (self.watched, self.looks) = (true, 2);
        let next = what(lifecycle);
        self.follow(lifecycle, next)
    }

    fn leave_filter(&mut self) {
        (self.watched, self.looks) = (false, 0);
    }

    fn received_nothing(&mut self, lifecycle: &mut SlotState) -> bool {
        (self.data, self.asked) = (Data::None, false);
        let next = lifecycle.received_nothing();
        if self.watched && !lifecycle.awaits_filter() {
            self.leave_filter();
        }
        self.follow(lifecycle, next)
    }

    /// A FIN that came with many others: it is dismantled later, as after a reset.
    fn peer_ended(&mut self, lifecycle: &mut SlotState) -> bool {
        (self.data, self.asked) = (Data::None, false);
        if self.lingers {
            self.stop_lingering(lifecycle);
        } else if self.stands {
            self.hang(lifecycle, true);
        }
        let next = lifecycle.operation_ended();
        self.follow(lifecycle, next)
    }

    fn poll_left(&mut self, armed: bool) {
        if !armed {
            (self.poll, self.poll_ends, self.rearming) = (Poll::None, false, false);
        }
    }

    fn poll_fired(&mut self, lifecycle: &mut SlotState, armed: bool) -> bool {
        self.poll_left(armed);
        let next = lifecycle.poll_fired(armed);
        self.follow(lifecycle, next)
    }

    fn hung_up(&mut self, lifecycle: &mut SlotState, armed: bool) -> bool {
        if !self.stands {
            return self.poll_fired(lifecycle, armed);
        }
        self.poll_left(armed);
        self.hang(lifecycle, armed)
    }

    fn rearm(&mut self, lifecycle: &mut SlotState) -> bool {
        if lifecycle.rearm() {
            assert_ne!(self.poll, Poll::None, "no poll to arm anew");
            (self.removing, self.rearming) = (true, true);
        }
        false
    }

    fn received(&mut self, lifecycle: &mut SlotState, more: bool, wish: Wish, answer: Answer) -> bool {
        (self.data, self.driven) = (Data::None, true);
        self.announced &= !std::mem::take(&mut self.asked);
        lifecycle.received();
        if more {
            lifecycle.left_bytes();
        }
        if !self.stands {
            return self.data_over(lifecycle, false);
        }
        assert!(!self.wish(lifecycle, wish), "released while its bytes are with the driver");
        match (answer, lifecycle.replying()) {
            (Answer::Back, SendDecision::Now) => {
                assert!(!self.kept, "a reply before what came before it");
                self.driven = false;
                self.send(lifecycle, Data::Send);
                return false;
            }
            (Answer::Back, SendDecision::Later) => self.kept = true,
            (Answer::Close, _) => {
                self.close(lifecycle, CloseMode::Graceful);
            }
            _ => assert!(!self.stands || answer == Answer::Nothing, "a reply was dropped"),
        }
        self.data_over(lifecycle, false)
    }

    fn data_over(&mut self, lifecycle: &mut SlotState, broken: bool) -> bool {
        (self.data, self.cancelled) = (Data::None, false);
        if broken && self.lingers {
            self.stop_lingering(lifecycle);
        } else if broken {
            self.close(lifecycle, CloseMode::Immediate);
        }
        self.driven = false;
        let next = lifecycle.operation_ended();
        self.follow(lifecycle, next)
    }

    fn wish(&mut self, lifecycle: &mut SlotState, wish: Wish) -> bool {
        match wish {
            Wish::Nothing => {}
            Wish::Send | Wish::SendLarge => match lifecycle.sending() {
                SendDecision::Never => assert!(!self.stands || self.ending, "bytes of one that stands were dropped"),
                SendDecision::Later => {
                    assert!(!self.ending, "bytes behind the end");
                    lifecycle.keep();
                    self.kept = true;
                }
                SendDecision::Now => {
                    self.send(lifecycle, if wish == Wish::Send { Data::Send } else { Data::ParkedSend })
                }
            },
            Wish::PauseReads => {
                lifecycle.pause_reads();
                self.reads_paused = !self.lingers;
            }
            Wish::ResumeReads => {
                let next = lifecycle.resume_reads();
                self.reads_paused = false;
                return self.follow(lifecycle, next);
            }
            Wish::Close(mode) => return self.close(lifecycle, mode),
        }
        false
    }

    fn send(&mut self, lifecycle: &mut SlotState, data: Data) {
        assert!(self.stands && self.data == Data::None, "a second data operation");
        lifecycle.send();
        self.data = data;
    }

    fn close(&mut self, lifecycle: &mut SlotState, mode: CloseMode) -> bool {
        let stood = self.stands;
        if !lifecycle.close(mode) {
            if stood {
                (self.ending, self.ends_lingering) = (true, mode == CloseMode::Lingering);
            }
            return false;
        }
        let in_order = matches!(mode, CloseMode::Graceful | CloseMode::Lingering);
        assert!(!in_order || !self.busy() && !self.kept, "an end before what is on its way");
        assert!(stood, "closed what does not stand");
        if mode == CloseMode::Lingering {
            return self.linger(lifecycle);
        }
        if mode == CloseMode::Abort {
            self.poll_ends |= self.poll == Poll::Once;
            return self.hang(lifecycle, true);
        }
        self.notified += 1;
        self.tear_down(lifecycle)
    }

    fn linger(&mut self, lifecycle: &mut SlotState) -> bool {
        (self.stands, self.ending, self.reads_paused, self.lingers) = (false, false, false, true);
        self.shutting_down = true;
        self.notified += 1;
        let next = lifecycle.linger();
        self.follow(lifecycle, next)
    }

    fn shut_down(&mut self, lifecycle: &mut SlotState) -> bool {
        self.shutting_down = false;
        let lingered = std::mem::take(&mut self.lingered);
        assert_eq!(lifecycle.shut_down(), lingered);
        lingered && self.tear_down(lifecycle)
    }

    fn stop_lingering(&mut self, lifecycle: &mut SlotState) -> bool {
        if lifecycle.stop_lingering() {
            return self.tear_down(lifecycle);
        }
        self.leave_filter();
        (self.lingers, self.lingered, self.announced) = (false, true, false);
        false
    }

    fn hang(&mut self, lifecycle: &mut SlotState, armed: bool) -> bool {
        lifecycle.await_reaping(armed);
        self.leave_filter();
        (self.stands, self.kept, self.hung, self.announced) = (false, false, true, false);
        self.notified += 1;
        false
    }

    fn tear_down(&mut self, lifecycle: &mut SlotState) -> bool {
        self.leave_filter();
        (self.stands, self.kept, self.hung, self.announced) = (false, false, false, false);
        self.lingers = false;
        if lifecycle.tear_down() {
            self.removing = true;
        }
        self.cancelled = self.data == Data::ParkedSend;
        assert!(!self.closing, "closed twice");
        assert!(!self.shutting_down, "the shutdown may find the next connection");
        self.closing = true;
        false
    }

    fn cancel_again(&mut self, lifecycle: SlotState) -> bool {
        self.poll_ends |= lifecycle.poll_must_go() && self.poll != Poll::None;
        false
    }

    fn follow(&mut self, lifecycle: &mut SlotState, next: Action) -> bool {
        match next {
            Action::Rest => {}
            Action::Receive if self.crowded => self.wait(lifecycle),
            Action::Wait => self.wait(lifecycle),
            Action::Receive => {
                assert!(!self.waiting, "a receive before its turn");
                assert!(
                    self.is_heard() && self.data == Data::None && !self.reads_paused,
                    "a receive that should not be"
                );
                lifecycle.receive();
                (self.data, self.asked) = (Data::Receive, self.announced);
            }
            Action::Park | Action::ParkAnew if self.filtered => {
                assert!(self.is_heard() && !self.watched, "watched twice");
                return self.await_filter(lifecycle, SlotState::await_filter);
            }
            Action::Park | Action::ParkAnew | Action::Poll => {
                assert!(self.is_heard() && self.poll == Poll::None, "a second poll");
                let lasting = next == Action::Park && self.often;
                lifecycle.park(lasting);
                self.poll = if lasting { Poll::Lasting } else { Poll::Once };
                (self.announced, self.asked) = (false, false);
            }
            Action::SendKept => {
                assert!(std::mem::take(&mut self.kept), "nothing was kept");
                self.send(lifecycle, Data::Send);
            }
            Action::End if self.ends_lingering => return self.close(lifecycle, CloseMode::Lingering),
            Action::End => return self.close(lifecycle, CloseMode::Graceful),
            Action::Release => return true,
        }
        false
    }

    fn wait(&mut self, lifecycle: &mut SlotState) {
        assert!(!self.waiting, "waits twice");
        lifecycle.wait();
        self.waiting = true;
    }

    /// Whether what comes is received.
    fn is_heard(&self) -> bool {
        self.stands || self.lingers
    }

    fn busy(&self) -> bool {
        self.driven || self.data != Data::None
    }

    /// The invariants between events, of an occupant that was not released.
    fn check(&self, lifecycle: SlotState) {
        assert_eq!((lifecycle.is_live(), lifecycle.is_free()), (self.stands, false));
        let busy = self.busy();
        assert_eq!(lifecycle.has_data_under_way(), busy || self.kept);
        if !self.is_heard() {
            return;
        }
        assert_eq!(lifecycle.is_lingering(), self.lingers);
        assert!(!self.rearming || self.removing || self.poll_ends, "its poll is never armed anew");
        assert!(busy || !self.kept, "bytes are kept, and no operation's end will send them");
        assert!(busy || !self.ending, "nothing keeps it from ending");
        assert_eq!((lifecycle.awaits_filter(), lifecycle.may_have_missed()), (self.watched, self.looks > 0));
        let asks = busy || self.reads_paused || self.waiting || self.poll != Poll::None;
        assert!(asks || self.watched, "forgotten: nothing will wake it");
        assert!(asks || !self.announced, "what the filter told of is forgotten");
    }

    /// The invariants when it was released.
    fn check_released(&self) {
        let in_kernel = self.opening
            || self.hung
            || self.lingers
            || self.shutting_down
            || self.closing
            || self.poll != Poll::None
            || self.data != Data::None;
        assert!(!in_kernel, "released with an operation in the kernel");
        assert!(!self.kept, "released with bytes");
        assert_eq!(self.notified, u8::from(self.owed_an_end), "its end was told so often");
    }

    /// Events that the kernel will bring sooner or later.
    fn certain(&self, too_late: bool) -> Option<Event> {
        let removal = if too_late { Event::RemovalTooLate } else { Event::RemovalWorks };
        let data = match self.data {
            Data::Receive => Event::Empty,
            Data::ParkedSend if self.cancelled => Event::DataFailed,
            _ => Event::SendDone,
        };
        let parked = self.data == Data::ParkedSend && !self.cancelled;
        let ends = self.poll_ends.then_some(Event::PollEnds);
        [
            Some(removal),
            ends,
            (!parked).then_some(data),
            Some(Event::Reclaim),
            Some(Event::Lingered),
            Some(Event::ShutDown),
            Some(Event::Closed),
        ]
        .into_iter()
        .flatten()
        .find(|event| self.may(*event))
    }
}

/// Explores every state that one occupant can reach, by all events in all orders.
#[test]
#[cfg_attr(miri, ignore = "takes it more than ten minutes, and random orders reach the same code")]
fn no_order_of_events_breaks_a_life() {
    let events = all_events();
    let start = (SlotState::opening(), Occupant::new());
    let (mut seen, mut open) = (HashSet::from([start]), vec![start]);
    while let Some((lifecycle, occupant)) = open.pop() {
        for event in events.iter().filter(|event| occupant.may(**event)) {
            let (mut lifecycle, mut occupant) = (lifecycle, occupant);
            if occupant.happen(&mut lifecycle, *event) {
                occupant.check_released();
                continue;
            }
            occupant.check(lifecycle);
            if seen.insert((lifecycle, occupant)) {
                open.push((lifecycle, occupant));
            }
        }
    }
    assert!(seen.len() > 1_000, "{} states are too few to be all", seen.len());
    for (lifecycle, occupant) in seen.iter().filter(|(_, occupant)| !occupant.opening && !occupant.stands) {
        for too_late in [false, true] {
            assert!(is_released(*lifecycle, *occupant, too_late), "never released: {lifecycle:?} {occupant:?}");
        }
    }
}

/// Whether the events that must happen lead to a free slot.
fn is_released(mut lifecycle: SlotState, mut occupant: Occupant, too_late: bool) -> bool {
    while let Some(event) = occupant.certain(too_late) {
        if occupant.happen(&mut lifecycle, event) {
            return true;
        }
    }
    false
}
