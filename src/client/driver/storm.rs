//! What one client shard does in a storm: its victims are closed, stop reading or fall silent, others are dialed, and
//! the survivors' messages go on meanwhile. Each of these does a bounded part of its work in each pass of the shard.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::conn_state::Standing;
use super::{ClientConnections, ClientDriver, DIALS_PER_PASS, sooner};
use crate::client::course::{Phase, Scenario, Storm};
use crate::clock::{Clock, Start};
use crate::connections::Cursor;
use crate::constants::BUFFER_BYTES;
use crate::error::Result;
use crate::latency::Latency;
use crate::pace::Pace;
use crate::plan::share;
use crate::protocol::{Exchange, Purpose};
use crate::reactor::{Closing, Schedule};
use crate::results::{ShardStorm, Stage};
use crate::token::ConnId;

/// A storm is absorbed when for this long no answer was slower than the slowest one before it: what is slow later is
/// not the storm's doing.
const STORM_QUIET: Duration = Duration::from_secs(1);

/// Times a slow reader sends as many messages as fit into `BUFFER_BYTES`. An echo server answers 256 KiB, which is
/// more than a server keeps and the sockets of both ends hold together.
const SLOW_READER_ASKS: usize = 64;

/// Slow readers of a shard that send in turn. The next ones send when these have. Were all stuck in the same moment,
/// the kernel's probes of their windows would go on coming all at once.
const SLOW_READERS_AT_ONCE: usize = 128;

/// Slow readers closed in a second by default. With what waits in its sockets, each takes the kernel as long as some
/// ten messages, and their end is not what the storm is about.
const SLOW_READERS_CLOSED_PER_SECOND: f64 = 5_000.0;

/// Slow readers that send in one pass, so that the others' messages are not late.
const ASKS_PER_PASS: usize = 4;

/// A shard's part of a storm.
pub struct Storming {
    config: Storm,
    /// Numbers within the shard from here on are victims.
    survivors: u32,
    /// Numbers from here on are dialed in the storm.
    own: u32,
    /// When the storm began and ended.
    began: Option<Start>,
    ended: Option<Instant>,
    /// Latencies of answers by stage.
    echo: [Latency; 3],
    /// The slowest answer of the calm.
    slowest: Duration,
    absorbed: Duration,
    /// Closes the victims.
    closing: Option<Closing>,
    /// When the next connection is dialed, or the next slow reader asks.
    pace: Pace,
    redialed: u32,
    /// Victims of a reconnect storm that have not come back yet, with the instant from which on each may, and those that
    /// have, in the order in which they were dialed anew.
    gone: VecDeque<(u32, Instant)>,
    back: Vec<u32>,
    stood_anew: u64,
    failed_anew: u64,
    asking: Asking,
    closed_by_server: u64,
    lost: u64,
    wrong: u64,
}

/// How far the slow readers have come. One group of them at a time sends, its members in turn.
#[derive(Default)]
struct Asking {
    group: Vec<ConnId>,
    /// Whether all members of the group were found.
    complete: bool,
    /// Messages of the group so far, and of all slow readers.
    asked: usize,
    total: u64,
    /// The place in the tables of the last connection that was put into a group.
    place: Cursor,
}

impl Asking {
    /// The member of the group that sends next; `None` when all have sent as often as they should.
    fn next(&self) -> Option<ConnId> {
        let left = self.asked < self.group.len() * SLOW_READER_ASKS;
        left.then(|| self.group[self.asked % self.group.len()])
    }
}

impl Storming {
    /// The part of shard `index` of `shards`, which opens `own` connections.
    pub fn new(config: Storm, own: u64, shards: u64, index: u64) -> Result<Storming> {
        // Victims that are to be killed are in another process.
        let part = share(if config.scenario.is_killed() { 0 } else { config.victims }, shards, index);
        let victims = (part.end - part.start).min(own);
        Ok(Storming {
            config,
            survivors: (own - victims) as u32,
            own: own as u32,
            began: None,
            ended: None,
            echo: [Latency::new()?, Latency::new()?, Latency::new()?],
            slowest: Duration::ZERO,
            absorbed: Duration::ZERO,
            closing: None,
            pace: Pace::UNPACED,
            redialed: 0,
            gone: VecDeque::new(),
            back: Vec::new(),
            stood_anew: 0,
            failed_anew: 0,
            asking: Asking { place: Cursor::END, ..Asking::default() },
            closed_by_server: 0,
            lost: 0,
            wrong: 0,
        })
    }

    /// What the shard saw.
    pub fn measured(&self) -> ShardStorm {
        ShardStorm {
            echo: self.echo.clone(),
            absorbed: self.absorbed,
            closed_by_server: self.closed_by_server,
            stood_anew: self.stood_anew,
            lost: self.lost,
            wrong: self.wrong,
        }
    }

    /// How many connections send messages.
    pub fn talkers(&self) -> u64 {
        self.survivors.into()
    }

    /// Whether a connection of this number is neither a victim nor dialed in the storm.
    pub fn spares(&self, index: u32) -> bool {
        index < self.survivors
    }

    /// Messages of slow readers per second, such that the last ones are sent when the storm ends.
    fn asks(&self, time: Duration) -> f64 {
        self.victims().len() as f64 * SLOW_READER_ASKS as f64 / time.as_secs_f64()
    }

    /// The numbers of the connections that the storm hits.
    fn victims(&self) -> Range<u32> {
        self.survivors..self.own
    }

    fn is_victim(&self, index: u32) -> bool {
        self.victims().contains(&index)
    }

    /// Whether a connection will stop reading. It gets a small receive buffer from the start.
    pub fn reads_slowly(&self, index: u32) -> bool {
        matches!(self.config.scenario, Scenario::SlowReaders(_)) && self.is_victim(index)
    }

    /// Whether nothing is said on a connection but what the storm says: a victim that is to be silent, or that will not
    /// read the answer.
    pub fn keeps_silent(&self, index: u32) -> bool {
        matches!(self.config.scenario, Scenario::Silent(_) | Scenario::SlowReaders(_)) && self.is_victim(index)
    }

    /// Whether a connection of this number is dialed in the storm.
    pub fn is_anew(&self, index: u32) -> bool {
        index >= self.own
    }

    /// The number of the connection in whose place this one was dialed; its own if there was none.
    pub fn in_place_of(&self, index: u32) -> u32 {
        let anew = index.checked_sub(self.own).and_then(|anew| self.back.get(anew as usize));
        anew.copied().unwrap_or(index)
    }

    /// A connection is over, which may come back.
    pub fn ended(&mut self, index: u32, phase: Phase, now: Instant) {
        let comes_back = phase == Phase::Storm && self.config.scenario == Scenario::Reconnect;
        if comes_back && self.is_victim(index) {
            self.gone.push_back((index, now));
        }
    }

    /// Takes the next number for a connection that is dialed in the storm. Returns it with the instant at which the connection
    /// should start: `due`, or `None` if that is whenever it does. One that comes back starts no earlier than its victim is gone: the
    /// pace at which this client closes is no latency of the server.
    fn take_number(&mut self, due: Option<Instant>) -> (u32, Option<Instant>) {
        let index = self.own + self.redialed;
        self.redialed += 1;
        let Some((victim, since)) = self.gone.pop_front() else { return (index, due) };
        self.back.push(victim);
        (index, due.map(|due| due.max(since)))
    }

    /// The connection that took the last number was not dialed. It may start from `now` on.
    fn give_number_back(&mut self, now: Instant) {
        self.redialed -= 1;
        if let Some(victim) = self.back.pop() {
            self.gone.push_front((victim, now));
        }
    }

    /// A phase begins.
    pub fn begin(&mut self, phase: Phase, (start, now): (Start, Instant), rate: Option<f64>) {
        match phase {
            Phase::Storm => {
                let rate = match self.config.scenario {
                    Scenario::SlowReaders(time) => Some(self.asks(time)),
                    _ => rate,
                };
                (self.began, self.pace) = (Some(start), Pace::new(start, rate));
            }
            Phase::After => self.ended = Some(now),
            _ => {}
        }
    }

    /// The answer came that a survivor's message awaited, which should have started at `intended`. A message belongs to the
    /// storm if any of its time did.
    pub fn heard(&mut self, clock: &Clock, intended: Instant, now: Instant) {
        let late = now.duration_since(intended);
        let stage = match (self.began, self.ended) {
            (None, _) => Stage::Before,
            (_, Some(ended)) if intended >= ended => Stage::After,
            _ => Stage::During,
        };
        self.echo[stage as usize].record(late);
        match self.began.map(|start| clock.begun(start)) {
            None => self.slowest = self.slowest.max(late),
            Some(began) if late > self.slowest => {
                let last = (began + self.absorbed).max(self.ended.unwrap_or(now));
                if now.duration_since(last) < STORM_QUIET {
                    self.absorbed = now.duration_since(began);
                }
            }
            Some(_) => {}
        }
    }

    /// A connection was proved. Returns whether the storm now closes it, as churn does.
    pub fn proved(&mut self, index: u32, phase: Phase) -> bool {
        if !self.is_anew(index) {
            return false;
        }
        self.stood_anew += 1;
        phase == Phase::Storm && matches!(self.config.scenario, Scenario::Churn(_))
    }

    /// A connection failed before it was proved.
    pub fn never_stood(&mut self, index: u32) {
        self.failed_anew += u64::from(self.is_anew(index));
    }

    /// A proved connection failed.
    pub fn lost(&mut self, wrong: bool) {
        *(if wrong { &mut self.wrong } else { &mut self.lost }) += 1;
    }

    /// Whether the server may have closed a proved connection of this number: then that is counted,
    /// and no failure.
    pub fn server_may_close(&mut self, index: u32, phase: Phase) -> bool {
        let may = self.config.scenario.server_may_close()
            && self.is_victim(index)
            && matches!(phase, Phase::Calm | Phase::Storm);
        self.closed_by_server += u64::from(may);
        may
    }

    /// Connections dialed in the storm that have neither been proved live nor failed yet.
    fn in_flight(&self) -> u64 {
        u64::from(self.redialed) - self.stood_anew - self.failed_anew
    }

    /// Looks for the next group of slow readers once the last group has sent all its messages. If none is to send in
    /// this pass, returns when to look again.
    fn find_group(&mut self, connections: &mut ClientConnections) -> Option<Schedule> {
        if self.asking.next().is_none() {
            self.asking.asked = 0;
            self.asking.group.clear();
            self.asking.complete = false;
        }
        for _ in 0..SLOW_READERS_AT_ONCE {
            if self.asking.complete {
                break;
            }
            let found = connections.last_live(self.asking.place);
            if let Some((conn, place)) = found {
                self.asking.place = place;
                if connections.state(conn).is_some_and(|state| self.is_victim(state.index)) {
                    self.asking.group.push(conn);
                }
            }
            self.asking.complete = found.is_none() || self.asking.group.len() == SLOW_READERS_AT_ONCE;
        }
        match self.asking.complete {
            false => Some(Schedule::Now),
            true => self.asking.group.is_empty().then_some(Schedule::OnEvent),
        }
    }

    /// Whether some victims are being closed that will come back.
    fn awaits_ends(&self) -> bool {
        let closed = self.closing.as_ref().map_or(0, Closing::closed);
        self.config.scenario == Scenario::Reconnect && u64::from(self.redialed) < closed
    }

    /// How many connections may have been dialed by now.
    fn goal(&self, clock: &Clock, now: Instant) -> u32 {
        match (self.config.scenario, self.began.map(|start| clock.begun(start))) {
            (Scenario::Reconnect, _) => self.redialed + self.gone.len() as u32,
            (Scenario::Churn(time), Some(began)) if now < began + time => u32::MAX - self.own,
            _ => self.redialed,
        }
    }
}

impl ClientDriver {
    /// One of the three stages of a storm's course, messages included.
    pub(super) fn stage(&mut self, connections: &mut ClientConnections, now: Instant) -> Result<Schedule> {
        let Some(config) = self.storm.as_ref().map(|storm| storm.config) else { return Ok(Schedule::Finished) };
        let since = connections.clock().begun(self.since);
        let (calm, after) = (since + config.calm, since + config.after);
        if self.phase == Phase::After && now >= after {
            return Ok(self.settle());
        }
        let talk = self.hold(connections, now)?;
        let work = match self.phase {
            // Other shards may not have done their part yet.
            _ if self.done => Schedule::OnEvent,
            Phase::Calm if now >= calm => Schedule::Finished,
            Phase::Calm => Schedule::At(calm),
            Phase::After => Schedule::At(after),
            _ => self.rage(connections, now, config.scenario)?,
        };
        Ok(if work == Schedule::Finished { work } else { sooner(talk, work) })
    }

    fn rage(&mut self, connections: &mut ClientConnections, now: Instant, scenario: Scenario) -> Result<Schedule> {
        let since = connections.clock().begun(self.since);
        match scenario {
            Scenario::Disconnect => self.close_victims(connections, now),
            Scenario::Reconnect => {
                let closing = self.close_victims(connections, now)?;
                Ok(sooner(closing, self.redial(connections, now)?))
            }
            Scenario::Churn(_) => self.redial(connections, now),
            Scenario::SlowReaders(time) | Scenario::Silent(time) if now >= since + time => {
                self.close_victims(connections, now)
            }
            Scenario::SlowReaders(time) => Ok(sooner(Schedule::At(since + time), self.demand(connections, now)?)),
            Scenario::Killed(time) if now >= since + time => Ok(Schedule::Finished),
            Scenario::Silent(time) | Scenario::Killed(time) => Ok(Schedule::At(since + time)),
        }
    }

    fn close_victims(&mut self, connections: &mut ClientConnections, now: Instant) -> Result<Schedule> {
        let slow = self.storm.as_ref().is_some_and(|storm| matches!(storm.config.scenario, Scenario::SlowReaders(_)));
        let pace = self.close_pace(connections.clock().start(now), slow.then_some(SLOW_READERS_CLOSED_PER_SECOND));
        let Some(storm) = &mut self.storm else { return Ok(Schedule::Finished) };
        let victims = storm.victims();
        let most = victims.len() as u64;
        let closing = storm.closing.get_or_insert_with(|| Closing::new(self.config.workload.close, pace));
        closing.turn_of(connections, now, most, |state| victims.contains(&{ state.index }))
    }

    /// Dials new connections, as many at a time as the ramp did.
    fn redial(&mut self, connections: &mut ClientConnections, now: Instant) -> Result<Schedule> {
        let Some(dialed) = self.dial_waiting(connections, DIALS_PER_PASS)? else { return Ok(Schedule::OnEvent) };
        for _ in dialed..DIALS_PER_PASS {
            let hopeless = self.hopeless();
            let Some(storm) = &mut self.storm else { return Ok(Schedule::Finished) };
            if storm.redialed >= storm.goal(connections.clock(), now) || hopeless {
                let is_done = storm.in_flight() == 0 && (hopeless || !storm.awaits_ends());
                return Ok(if is_done { Schedule::Finished } else { Schedule::OnEvent });
            }
            if storm.in_flight() >= self.config.concurrency as u64 {
                return Ok(Schedule::OnEvent);
            }
            let due = storm.pace.intended(storm.redialed.into(), connections.clock());
            if let Some(at) = due.filter(|due| *due > now) {
                return Ok(Schedule::At(at));
            }
            let (index, intended) = storm.take_number(due);
            self.config.progress.redialed.add(1);
            if !self.dial(connections, index, intended)? {
                // There is no slot yet, so the connection was not dialed.
                self.storm.iter_mut().for_each(|storm| storm.give_number_back(Instant::now()));
                self.config.progress.redialed.sub(1);
                return Ok(Schedule::OnEvent);
            }
        }
        Ok(Schedule::Now)
    }

    /// Lets the victims send messages whose answers they will not read, evenly paced: a flood would show what this
    /// machine copies in a second. A victim that cannot send any more leaves out its turn, and so does one that sleeps and
    /// finds no slot.
    fn demand(&mut self, connections: &mut ClientConnections, now: Instant) -> Result<Schedule> {
        let Some(storm) = &mut self.storm else { return Ok(Schedule::Finished) };
        // Several together: otherwise each message would wake the shard.
        let due = storm.pace.intended(storm.asking.total + ASKS_PER_PASS as u64, connections.clock());
        if let Some(due) = due.filter(|due| *due > now) {
            return Ok(Schedule::At(due));
        }
        if let Some(turn) = storm.find_group(connections) {
            return Ok(turn);
        }
        for _ in 0..ASKS_PER_PASS {
            let Some(conn) = storm.asking.next() else { break };
            storm.asking.asked += 1;
            storm.asking.total += 1;
            if !connections.pause_reads(conn)? {
                continue;
            }
            let Some(state) = connections.state(conn).map(|state| *state) else { continue };
            if connections.has_data_under_way(conn) {
                continue;
            }
            let number = self.config.number(state.index);
            self.scratch.clear();
            self.config
                .workload
                .protocol
                .ask(Exchange { number, round: 0, purpose: Purpose::Message }, &mut self.scratch);
            let message = self.scratch.len();
            while message > 0 && self.scratch.len() + message <= BUFFER_BYTES {
                self.scratch.extend_from_within(..message);
            }
            connections.send(conn, &self.scratch)?;
        }
        Ok(Schedule::Now)
    }

    /// A proved connection was closed by the storm, or by the server in a storm that allows this.
    pub(super) fn dropped(&mut self, connections: &mut ClientConnections, conn: ConnId) {
        self.leave_off(connections, conn);
        if connections.state(conn).is_some_and(|state| state.count_end() == Standing::Live) {
            self.config.progress.live.sub(1);
            self.config.progress.dropped.add(1);
        }
    }

    /// Whether the server, which closes a connection, may do so: it is a victim of a storm that allows it.
    pub(super) fn is_shed(&mut self, connections: &mut ClientConnections, conn: ConnId) -> bool {
        let proved = connections.state(conn).filter(|state| state.is_proved()).map(|state| state.index);
        let (Some(index), Some(storm)) = (proved, &mut self.storm) else { return false };
        storm.server_may_close(index, self.phase)
    }
}
