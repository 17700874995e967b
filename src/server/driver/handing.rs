//! A shard hands its connections over to a later server: those that sleep all at once, and then those that are awake, a
//! few at a time. The others are served meanwhile.

use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use super::ServerDriver;
use super::arriving::SleepersHere;
use crate::connections::{Connections, Cursor, ReadinessToLeave, SleepersFrom};
use crate::error::{Errno, Error, Result};
use crate::reactor::Schedule;
use crate::server::takeover::{Answer, HandoverMessage, Link};
use crate::service::Service;
use crate::takeover::Kind;
use crate::takeover::format::{Batch, Known, KnownSleepers, Sleeper, Sleepers};
use crate::token::ConnId;
use crate::wiped::Wiped;

/// Connections that leave in one message. Each pauses from the moment when it is chosen until the successor receives.
/// None is chosen while a message is under way.
const BATCH: usize = 64;

/// Rows, or entries of sleeping connections, that one step looks at.
const ROWS_PER_STEP: usize = 16_384;

/// Sleeping connections whose state one step writes down at most. Those that talk wait for it.
const SLEEPERS_PER_STEP: usize = 2_048;

/// The time from one look at what the kernel has to end, or the other process to do, to the next.
const LOOK: Duration = Duration::from_millis(1);

/// The same while connections wait for it that are not received from.
const SHORT_LOOK: Duration = Duration::from_micros(100);

/// How long the service may take until `Service::may_divide` is `true`.
const DIVISION_TIME: Duration = Duration::from_secs(2);

/// How long handshakes that are under way have until they are over, from the beginning of the handing over. Then their
/// connections are closed, as those of handshakes that take too long, and so are the connections that linger.
const HANDSHAKE_TIME: Duration = Duration::from_secs(2);

/// How long no descriptor may be left for a connection that is to leave. Then it is lost, so that the others go on.
const SHORTAGE_TIME: Duration = Duration::from_secs(5);

/// How far a shard has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The accepts in flight, and the work that the service has begun, come to an end.
    Accepting,
    /// The sleeping connections are given away, some in each step.
    Giving,
    /// All sleeping connections were sent; the successor takes them over.
    Sleepers,
    /// Connections that woke lately leave the catcher's table, a grace period after their wake.
    Settling,
    /// Connections that are awake leave.
    Awake,
    /// All connections of this shard have left. Other shards may still be handing over.
    Left,
    /// The successor is gone or has given up. The shard awaits the answer that says how it goes on.
    Stranded,
}

/// A shard that hands over.
pub(super) struct Handing<S> {
    link: Link,
    stage: Stage,
    began: Instant,
    /// The service is ready.
    is_divided: bool,
    /// When the next step is due, if nothing else happens.
    next: Instant,
    /// Where the search goes on for connections that may leave.
    place: Cursor,
    /// Connections whose operations end.
    leaving: Vec<ConnId>,
    /// A message is under way.
    sent: bool,
    /// The connections in it, and what it says of them.
    away: Vec<ConnId>,
    batch: Batch,
    /// Since when no descriptor is left.
    short_since: Option<Instant>,
    /// The messages `KnownSleepers` that were sent; they are read back if the successor fails.
    given: Vec<Arc<Wiped>>,
    /// The message `Sleepers`, once it was sent.
    sleepers: Option<Arc<Wiped>>,
    /// What the service knows beside its connections, once they have left.
    rest: Option<Vec<u8>>,
    _state: PhantomData<S>,
}

/// What comes next.
enum Next {
    /// It goes on handing over.
    GoOn(Schedule),
    /// All is handed over: the shard ends.
    Finish,
    /// The successor is gone: the shard serves on.
    ServeOn,
}

impl<S: Service> Handing<S> {
    pub fn new(link: Link, now: Instant) -> Handing<S> {
        Handing {
            link,
            stage: Stage::Accepting,
            began: now,
            is_divided: false,
            next: now,
            place: Cursor::START,
            leaving: Vec::new(),
            sent: false,
            away: Vec::new(),
            batch: Batch::default(),
            short_since: None,
            given: Vec::new(),
            sleepers: None,
            rest: None,
            _state: PhantomData,
        }
    }

    fn send(&mut self, kind: Kind, body: Arc<Wiped>, sockets: Vec<OwnedFd>) {
        self.sent = true;
        // Where the other end is gone the next answer says so.
        let _ = self.link.to.send(HandoverMessage { kind, body, sockets });
    }
}

impl<S: Service> ServerDriver<S> {
    /// The next step of handing over. `None` once the shard serves on.
    pub(super) fn hand_over(
        &mut self,
        connections: &mut Connections<S::State>,
        now: Instant,
    ) -> Result<Option<Schedule>> {
        let Some(mut handing) = self.handing.take() else { return Ok(None) };
        let next = match self.answered(&mut handing, connections)? {
            Some(next) => next,
            None => Next::GoOn(self.go_on(&mut handing, connections, now)?),
        };
        match next {
            Next::GoOn(schedule) => {
                self.handing = Some(handing);
                Ok(Some(schedule))
            }
            Next::Finish => {
                self.ended.because_handed_over();
                Ok(Some(Schedule::Finished))
            }
            Next::ServeOn => Ok(None),
        }
    }

    /// Acts upon what came back.
    fn answered(&mut self, handing: &mut Handing<S>, connections: &mut Connections<S::State>) -> Result<Option<Next>> {
        loop {
            let answer = match handing.link.from.try_recv() {
                Ok(answer) => answer,
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => Answer::ServeOn { ended: false },
            };
            match answer {
                Answer::Taken => {
                    handing.sent = false;
                    handing.next = handing.began;
                    handing.batch = Batch::default();
                    // The sockets in it have closed here.
                    handing.short_since = None;
                    for conn in handing.away.drain(..) {
                        connections.left(conn)?;
                    }
                }
                // Before that the successor has no time for connections that talk.
                Answer::Serving => handing.stage = Stage::Settling,
                Answer::Gone => self.take_back(handing, connections)?,
                Answer::Finish => return Ok(Some(Next::Finish)),
                // Where it has the sleeping connections it has the names for new ones too, until it ends.
                Answer::Lingers if connections.gave_sleepers() => self.take_back(handing, connections)?,
                Answer::Lingers | Answer::ServeOn { .. } => {
                    let ended = answer == Answer::ServeOn { ended: true };
                    self.take_back(handing, connections)?;
                    self.serve_on(handing, connections, ended)?;
                    return Ok(Some(Next::ServeOn));
                }
            }
        }
    }

    /// Does what can be done now.
    fn go_on(
        &mut self,
        handing: &mut Handing<S>,
        connections: &mut Connections<S::State>,
        now: Instant,
    ) -> Result<Schedule> {
        if handing.stage == Stage::Stranded {
            // What comes next is an answer, which rings the doorbell.
            return self.serve(connections, now);
        }
        // Before the service sends more: what it sent in its last turn has gone, and no connection that leaves is busy with
        // that.
        if now >= handing.next {
            self.step(handing, connections, now)?;
            handing.next = now + if handing.leaving.is_empty() { LOOK } else { SHORT_LOOK };
        }
        let served = self.serve(connections, now)?;
        Ok(if served == Schedule::Now { Schedule::Now } else { Schedule::At(handing.next) })
    }

    fn step(&mut self, handing: &mut Handing<S>, connections: &mut Connections<S::State>, now: Instant) -> Result<()> {
        match handing.stage {
            Stage::Accepting => {
                connections.rouse_shaking()?;
                handing.is_divided = handing.is_divided || self.call(connections, Service::may_divide)?;
                let late = now > handing.began + DIVISION_TIME;
                let ready = (handing.is_divided || late) && !self.context.is_broadcasting();
                // A broadcast may wait for slots for minutes: newcomers are accepted until it has ended.
                self.context.refuse_broadcasts(ready || late);
                if ready && connections.stop_accepting()? && connections.may_surrender() {
                    self.context.refuse_broadcasts(false);
                    connections.begin_to_give();
                    handing.stage = Stage::Giving;
                }
            }
            Stage::Giving if !handing.sent => self.give_some(handing, connections)?,
            Stage::Settling if connections.sleepers_are_settled() => handing.stage = Stage::Awake,
            Stage::Awake if !handing.sent => self.send_some(handing, connections, now)?,
            _ => {}
        }
        Ok(())
    }

    /// Gives some sleeping connections away: tells what is known of them. At last all change hands at one moment.
    fn give_some(&mut self, handing: &mut Handing<S>, connections: &mut Connections<S::State>) -> Result<()> {
        let (mut known, mut rows) = (KnownSleepers::default(), ROWS_PER_STEP);
        let mut left = SLEEPERS_PER_STEP;
        while left > 0
            && let Some(name) = connections.next_to_give(&mut rows)
        {
            // They know none whose handshake is not over.
            let what = if connections.is_opened(&name) { self.known(connections, name)? } else { Known::default() };
            let (said, tls) = connections.give(name);
            if !what.is_empty() || tls.is_some() {
                known.push(&Sleeper { name, said, known: what, tls });
                left -= 1;
            }
        }
        if !known.is_empty() {
            let body = Arc::new(known.encode());
            handing.given.push(body.clone());
            handing.send(Kind::KnownSleepers, body, Vec::new());
        } else if rows > 0 && connections.may_surrender() {
            let (window, surrendered) = (connections.window(), connections.surrender_sleepers());
            let body = Arc::new(Sleepers { window, awake: connections.awake(), surrendered }.encode());
            handing.stage = Stage::Sleepers;
            handing.sleepers = Some(body.clone());
            handing.send(Kind::Sleepers, body, Vec::new());
        }
        Ok(())
    }

    /// What driver and service know of a connection that goes.
    fn known(&mut self, connections: &mut Connections<S::State>, name: ConnId) -> Result<Known> {
        let (age, deadline) = self.context.known(connections, name);
        let mut service = Vec::new();
        self.call(connections, |own, ctx| own.hand_over(ctx, name, &mut service))?;
        self.context.closed(name);
        Ok(Known { age, deadline, service })
    }

    /// Chooses some connections, and sends those that are ready. When there is none left, all is done.
    fn send_some(
        &mut self,
        handing: &mut Handing<S>,
        connections: &mut Connections<S::State>,
        now: Instant,
    ) -> Result<()> {
        let mut rows = ROWS_PER_STEP;
        while handing.leaving.len() < BATCH
            && let Some(conn) = connections.next_to_leave(&mut handing.place, &mut rows)
        {
            connections.prepare_to_leave(conn)?;
            handing.leaving.push(conn);
        }
        let sockets = self.pack_ready(handing, connections, now)?;
        if !handing.batch.is_empty() {
            handing.send(Kind::Batch, Arc::new(handing.batch.encode()), sockets);
        } else if !connections.has_any_slot() {
            let mut rest = Vec::new();
            self.call(connections, |own, ctx| own.hand_over_shard(ctx, &mut rest))?;
            handing.send(Kind::Done, Arc::new(Wiped::from(&rest[..])), Vec::new());
            handing.rest = Some(rest);
            handing.stage = Stage::Left;
        } else if handing.leaving.is_empty() && now > handing.began + HANDSHAKE_TIME {
            connections.end_handshakes()?;
            connections.stop_lingering()?;
        }
        Ok(())
    }

    /// Packs those of the leaving connections that are ready. Returns their sockets.
    fn pack_ready(
        &mut self,
        handing: &mut Handing<S>,
        connections: &mut Connections<S::State>,
        now: Instant,
    ) -> Result<Vec<OwnedFd>> {
        let mut sockets = Vec::new();
        for conn in std::mem::take(&mut handing.leaving) {
            match connections.readiness_to_leave(conn)? {
                // One whose handshake has begun is chosen again when that is over.
                ReadinessToLeave::Gone | ReadinessToLeave::Shaking => continue,
                ReadinessToLeave::Ready => {}
                ReadinessToLeave::NotYet => {
                    handing.leaving.push(conn);
                    continue;
                }
            }
            let name = connections.name_at_slot(conn);
            let is_opened = connections.is_opened(&name);
            let handed = match connections.pack(conn)? {
                Ok(handed) => handed,
                Err(error) => {
                    let is_short = Errno::of(&error).is_shortage();
                    if !is_short || now > *handing.short_since.get_or_insert(now) + SHORTAGE_TIME {
                        connections.lose(conn)?;
                    }
                    // The next look tries it again, or finds that it has ended.
                    handing.leaving.push(conn);
                    continue;
                }
            };
            handing.short_since = None;
            let known = if is_opened { self.known(connections, name)? } else { Known::default() };
            handing.batch.connections.push((handed.state, known));
            sockets.push(handed.socket);
            handing.away.push(conn);
        }
        handing.batch.ended = connections.take_ended_away();
        handing.batch.to_come = connections.awake().saturating_sub(handing.away.len() as u64);
        Ok(sockets)
    }

    /// The successor is gone: what it did not get goes on here.
    fn take_back(&mut self, handing: &mut Handing<S>, connections: &mut Connections<S::State>) -> Result<()> {
        handing.stage = Stage::Stranded;
        self.context.refuse_broadcasts(false);
        let Batch { connections: packed, .. } = std::mem::take(&mut handing.batch);
        for (conn, (state, known)) in handing.away.drain(..).zip(packed) {
            let name = connections.name_at_slot(conn);
            connections.returned(conn, state)?;
            if connections.is_opened(&name) {
                self.arrived(connections, name, &known)?;
            }
        }
        for conn in handing.leaving.drain(..) {
            connections.stays(conn)?;
        }
        Ok(())
    }

    /// Serves on after the successor is gone. Takes the sleeping connections back that it did not have, or all if it has
    /// `ended`.
    fn serve_on(
        &mut self,
        handing: &mut Handing<S>,
        connections: &mut Connections<S::State>,
        ended: bool,
    ) -> Result<()> {
        let unread = || Error::bug("sleepers that cannot be read");
        let mut known = SleepersHere::default();
        for given in handing.given.drain(..) {
            let sleepers = KnownSleepers::decode(&given).ok_or_else(unread)?;
            known.add(connections, sleepers);
        }
        if !connections.gave_sleepers() {
            let names = connections.stop_giving();
            self.greet_sleepers(connections, known, names)?;
        } else if ended && let Some(body) = handing.sleepers.take() {
            let Sleepers { surrendered, .. } = Sleepers::decode(&body).ok_or_else(unread)?;
            self.inherit(connections, known, SleepersFrom::Successor(surrendered))?;
        }
        if let Some(rest) = handing.rest.take() {
            self.call(connections, |own, ctx| own.taken_over_shard(ctx, &rest))?;
        }
        connections.accept_again(self.accepts, |socket| self.listeners.equip(socket))?;
        self.unite(connections)
    }
}
