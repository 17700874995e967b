//! What one client shard does in a fan-out: its publishers publish at the run's pace, and its subscribers' receipts are
//! counted.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::shard_config::FanoutPart;
use super::{ClientConnections, ClientDriver, PROBES_PER_PASS, sooner};
use crate::client::Phase;
use crate::client::course::Fanout;
use crate::client::fanout::{Board, Closed, Ledger, Said};
use crate::client::window::{Awaited, Due, Probe};
use crate::clock::{Clock, Mark};
use crate::error::Result;
use crate::failure::Cause;
use crate::pace::Pace;
use crate::protocol::{Publication, Purpose};
use crate::reactor::Schedule;
use crate::results::{Published, ShardFanout};
use crate::token::ConnId;

/// How soon a publication is tried again whose publisher is still sending, or for which there is no room.
const AGAIN: Duration = Duration::from_millis(1);

/// Publications at most that wait for their publishers while others go on. Fewer than a pass looks at.
const MOST_ASIDE: usize = 64;

/// A shard's part of a fan-out.
pub struct Fanning {
    config: Fanout,
    shard: usize,
    board: Arc<Board>,
    closed: mpsc::Sender<Closed>,
    /// Numbers within the shard from here on are publishers.
    subscribers: u32,
    /// Subscribers that are live.
    live: u32,
    /// This shard's publishers among all, and the connection of each that is live.
    own: Range<u64>,
    publishers: Vec<Option<ConnId>>,
    ledger: Ledger,
    /// Publications from here on were not looked at yet, and those before of which nothing was known.
    heard_of: u32,
    unknown: Vec<u32>,
    /// When they were last looked at, on the shard's clock.
    looked: Mark,
    /// The next publication that may be one of this shard's publishers.
    next: u32,
    /// Those before it whose publishers could not take them yet, in their order: another publisher need not wait for them.
    aside: VecDeque<u32>,
    pace: Pace,
    /// The connections are being closed, and nothing counts any more.
    is_over: bool,
    foreign: u64,
    to_publishers: u64,
}

impl Fanning {
    /// The part of a shard.
    pub fn new(config: Fanout, part: &FanoutPart, shard: usize) -> Fanning {
        let subscribers = (part.subscribers.end - part.subscribers.start) as u32;
        let own = part.publishers();
        // A distance of more than all publications is as good as any.
        let distance = u32::try_from(config.publishers).unwrap_or(u32::MAX);
        Fanning {
            config,
            shard,
            board: part.board.clone(),
            closed: part.closed.clone(),
            subscribers,
            live: 0,
            publishers: vec![None; (own.end - own.start) as usize],
            own,
            ledger: Ledger::new(subscribers, distance, config.wait),
            heard_of: 0,
            unknown: Vec::new(),
            looked: Mark::default(),
            next: 0,
            aside: VecDeque::new(),
            pace: Pace::UNPACED,
            is_over: false,
            foreign: 0,
            to_publishers: 0,
        }
    }

    /// Whether a connection of this number publishes.
    pub fn is_publisher(&self, index: u32) -> bool {
        index >= self.subscribers
    }

    /// What the shard saw.
    pub fn measured(&self) -> ShardFanout {
        let Fanning { foreign, to_publishers, .. } = *self;
        ShardFanout { receipts: self.ledger.receipts(), foreign, to_publishers }
    }

    /// A phase begins.
    pub fn begin(&mut self, phase: Phase, clock: &Clock, now: Instant) {
        self.learn(clock);
        match phase {
            Phase::Publish => {
                let origin = clock.start(self.board.origin(now));
                self.pace = Pace::new(origin, Some(1.0 / self.config.period.as_secs_f64()));
            }
            Phase::Close => {
                self.ledger.abandon();
                self.hand_over();
                self.is_over = true;
            }
            _ => {}
        }
    }

    /// Where the connection of a publisher is kept; `None` for a subscriber.
    fn publisher(&mut self, index: u32) -> Option<&mut Option<ConnId>> {
        self.publishers.get_mut(index.checked_sub(self.subscribers)? as usize)
    }

    /// A connection was proved.
    pub fn proved(&mut self, index: u32, conn: ConnId) {
        match self.publisher(index) {
            None => self.live += 1,
            Some(publisher) => *publisher = Some(conn),
        }
    }

    /// A proved connection failed.
    pub fn lost(&mut self, clock: &Clock, index: u32) {
        if let Some(publisher) = self.publisher(index) {
            *publisher = None;
            return;
        }
        // What was published before is lost to it, and not what comes later.
        self.learn(clock);
        self.live -= 1;
        self.ledger.lost(index);
        self.hand_over();
    }

    /// Looks which publications were published. The time of one begins when it was said, but no earlier than the last look,
    /// which did not find it: from an earlier instant on, a suspension of the process would count.
    fn learn(&mut self, clock: &Clock) {
        let looked = std::mem::replace(&mut self.looked, clock.now());
        let heard_of = self.board.heard_of();
        if heard_of == self.heard_of && self.unknown.is_empty() {
            return;
        }
        self.unknown.extend(self.heard_of..heard_of);
        self.heard_of = heard_of;
        let Fanning { board, ledger, live, .. } = self;
        let origin = board.origin_if_known();
        self.unknown.retain(|number| match board.said(*number) {
            Said::NotYet => true,
            Said::Never => {
                ledger.never_published(*number);
                false
            }
            Said::At(Published { said, .. }) => {
                let since = origin.map_or(clock.now(), |origin| clock.mark(origin + said));
                ledger.published(*number, *live, since.max(looked));
                false
            }
        });
        self.hand_over();
    }

    /// A publication came to a subscriber. A cause, if it is none that this run has published.
    pub(super) fn received(
        &mut self,
        clock: &Clock,
        index: u32,
        publication: Publication,
        is_repeated: bool,
    ) -> Result<Option<Cause>> {
        if self.is_over {
            return Ok(None);
        }
        if publication.run != self.board.run() {
            self.foreign += 1;
            return Ok(None);
        }
        let Publication { number, instant, length, .. } = publication;
        let intended = Duration::from_nanos(instant);
        let is_ours = matches!(self.board.said(number), Said::At(published) if published.intended == intended);
        // Other shards may have begun to publish before this one has heard of it.
        let origin = self.board.origin_if_known().filter(|_| is_ours && length == self.config.payload);
        let Some(origin) = origin else {
            return Ok(Some(Cause::AlteredPublication));
        };
        if self.is_publisher(index) {
            self.to_publishers += 1;
            return Ok(None);
        }
        if !self.ledger.knows(number) {
            self.learn(clock);
        }
        let after = Instant::now().saturating_duration_since(origin + intended);
        self.ledger.received(clock.now(), (number, index), after, is_repeated)?;
        self.hand_over();
        Ok(None)
    }

    /// Hands over what is known of publications that are closed, and makes room for others.
    fn hand_over(&mut self) {
        if self.ledger.has_closed() {
            for (number, latency) in self.ledger.take_closed() {
                // The leader is gone if the run has failed elsewhere.
                let _ = self.closed.send(Closed { number, latency });
            }
            self.board.closed(self.shard, self.ledger.first_open());
        }
    }

    /// The next publication of this shard's publishers that is not put aside. `None` if there is no more.
    fn next(&mut self) -> Option<u32> {
        while self.next < self.board.publications() && !self.own.contains(&self.publisher_of(self.next)) {
            self.next += 1;
        }
        (self.next < self.board.publications()).then_some(self.next)
    }

    /// Which publisher of all publishes this.
    fn publisher_of(&self, number: u32) -> u64 {
        u64::from(number) % self.config.publishers
    }

    /// The connection of the publisher of one of this shard's publications, if that is live.
    fn connection_for(&self, number: u32) -> Option<ConnId> {
        let place = self.publisher_of(number).checked_sub(self.own.start)?;
        self.publishers.get(place as usize).copied().flatten()
    }
}

impl ClientDriver {
    /// Publishes what is due, and waits for the receipts.
    pub(super) fn publish(&mut self, connections: &mut ClientConnections, now: Instant) -> Result<Schedule> {
        let turn = self.publish_due(connections, now)?;
        let Some(fanout) = &mut self.fanout else { return Ok(Schedule::Finished) };
        fanout.learn(connections.clock());
        fanout.ledger.close_late(connections.clock().now());
        fanout.hand_over();
        let is_done = fanout.ledger.first_open() >= fanout.board.publications();
        // Acknowledgements may still be awaited.
        Ok(if is_done { self.settle() } else { turn })
    }

    /// Whether a publisher cannot publish yet: it is still sending, or something else is in flight where publications are
    /// exchanges.
    fn is_busy(&self, connections: &mut ClientConnections, publisher: ConnId) -> bool {
        let Some(state) = connections.state(publisher).copied() else { return false };
        let awaits = self.config.protocol(state.index).is_acknowledged() && self.window.get(state.key()).is_some();
        awaits || connections.has_data_under_way(publisher)
    }

    fn publish_due(&mut self, connections: &mut ClientConnections, now: Instant) -> Result<Schedule> {
        // How many of those put aside were looked at in this pass, and wait on.
        let mut waiting = 0;
        for _ in 0..PROBES_PER_PASS {
            let Some(fanout) = &mut self.fanout else { return Ok(Schedule::OnEvent) };
            let again = if fanout.aside.is_empty() { Schedule::OnEvent } else { Schedule::At(now + AGAIN) };
            let aside = fanout.aside.get(waiting).copied();
            let Some(number) = aside.or_else(|| fanout.next()) else { return Ok(again) };
            let due = fanout.pace.intended(number.into(), connections.clock()).unwrap_or(now);
            if due > now {
                return Ok(sooner(again, Schedule::At(due)));
            }
            let publisher = fanout.connection_for(number);
            let is_late = now.saturating_duration_since(due) >= fanout.config.wait;
            let has_room = fanout.board.has_room(number);
            let is_busy = publisher.is_some_and(|conn| self.is_busy(connections, conn));
            let waits = (is_busy || !has_room) && !is_late;
            if waits && (!has_room || waiting == MOST_ASIDE) {
                return Ok(Schedule::At(now + AGAIN));
            }
            let Some(fanout) = &mut self.fanout else { return Ok(Schedule::OnEvent) };
            match aside {
                Some(_) => drop(fanout.aside.remove(waiting)),
                None => fanout.next = number + 1,
            }
            if waits {
                fanout.aside.insert(waiting, number);
                waiting += 1;
                continue;
            }
            self.publish_now(connections, number, due, publisher.filter(|_| !is_busy && has_room))?;
        }
        Ok(Schedule::Now)
    }

    /// Publishes a publication, or gives it up if there is no publisher.
    fn publish_now(
        &mut self,
        connections: &mut ClientConnections,
        number: u32,
        due: Instant,
        publisher: Option<ConnId>,
    ) -> Result<()> {
        let since = connections.clock().now();
        let Some(fanout) = &mut self.fanout else { return Ok(()) };
        let publisher = publisher.and_then(|conn| Some((conn, connections.state(conn)?.index)));
        let (Some((conn, index)), Some(origin)) = (publisher, fanout.board.origin_if_known()) else {
            fanout.board.never(number);
            return Ok(());
        };
        let intended = due.saturating_duration_since(origin);
        let nanoseconds = u64::try_from(intended.as_nanos()).unwrap_or(u64::MAX);
        let publication =
            Publication { run: fanout.board.run(), number, instant: nanoseconds, length: fanout.config.payload };
        let protocol = self.config.protocol(index);
        self.scratch.clear();
        protocol.publish(self.config.number(index), &publication, &mut self.scratch);
        let started = Instant::now();
        // Before it is sent: a subscriber of another shard may have it at once.
        fanout.board.say(number, Published { intended, said: started.saturating_duration_since(origin) });
        self.config.progress.published.add(1);
        if protocol.is_acknowledged() {
            let awaited = Awaited::Answer { purpose: Purpose::Publish, socket: None };
            let probe = Probe { conn, awaited, due: Due::at(due), started, since, round: number, next: None };
            if let Some(state) = connections.state(conn) {
                state.set_key(self.window.add(probe));
            }
        }
        connections.send(conn, &self.scratch)
    }
}
