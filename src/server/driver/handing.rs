//! A shard hands its connections over to a later server: those that sleep all at once, and then those that are awake, a
//! few at a time. The others are served meanwhile.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use super::ServerDriver;
use crate::connections::{Connections, Cursor, HandedState, ReadinessToLeave};
use crate::error::Result;
use crate::reactor::Schedule;
use crate::server::takeover::{Answer, Link, Parcel};
use crate::service::Service;
use crate::takeover::Kind;
use crate::takeover::format::{Batch, Known, Sleepers};
use crate::token::ConnId;

/// Connections that leave in one parcel. Each pauses while its parcel is under way, about a millisecond for so many.
const BATCH: usize = 64;

/// Rows that one turn looks at for connections that may leave.
const ROWS_PER_TURN: usize = 16_384;

/// The time from one look at what the kernel has to end to the next.
const LOOK: Duration = Duration::from_millis(1);

/// How far a shard has come.
enum Stage {
    /// Its accepts in flight end.
    Accepting,
    /// The successor takes the sleeping connections.
    Sleepers,
    /// What is left of former sleeps settles.
    Settling,
    /// Connections that are awake leave.
    Awake,
    /// All have left. The other shards may not be so far.
    Left,
    /// The successor is gone.
    Stranded,
}

/// A shard that hands over.
pub(super) struct Handing<S> {
    link: Link,
    stage: Stage,
    /// When the next step is due, if nothing else happens.
    next: Instant,
    /// Where the search goes on for connections that may leave.
    place: Cursor,
    /// Connections whose operations end.
    leaving: Vec<ConnId>,
    /// A parcel is under way.
    sent: bool,
    /// The connections in it.
    away: Vec<(ConnId, HandedState, Known)>,
    /// What was known of sleeping connections, by name.
    known: HashMap<ConnId, Known>,
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
            next: now,
            place: Cursor::START,
            leaving: Vec::new(),
            sent: false,
            away: Vec::new(),
            known: HashMap::new(),
            _state: PhantomData,
        }
    }

    fn send(&mut self, kind: Kind, body: Vec<u8>, sockets: Vec<OwnedFd>) {
        self.sent = true;
        // Where the other end is gone the next answer says so.
        let _ = self.link.to.send(Parcel { kind, body, sockets });
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
                    for (conn, ..) in handing.away.drain(..) {
                        connections.left(conn)?;
                    }
                    if matches!(handing.stage, Stage::Sleepers) {
                        handing.stage = Stage::Settling;
                    }
                }
                Answer::Gone => self.take_back(handing, connections)?,
                Answer::Finish => return Ok(Some(Next::Finish)),
                Answer::ServeOn { ended } => {
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
        let busy = self.serve(connections, now)? == Schedule::Now;
        if now >= handing.next {
            handing.next = now + LOOK;
            self.step(handing, connections)?;
        }
        Ok(if busy { Schedule::Now } else { Schedule::At(handing.next) })
    }

    fn step(&mut self, handing: &mut Handing<S>, connections: &mut Connections<S::State>) -> Result<()> {
        match handing.stage {
            Stage::Accepting => {
                let quiet = connections.stop_accepting()?;
                if quiet && !self.context.is_broadcasting() && connections.may_surrender() {
                    self.surrender(handing, connections)?;
                    handing.stage = Stage::Sleepers;
                }
            }
            Stage::Settling if connections.sleepers_are_settled() => handing.stage = Stage::Awake,
            Stage::Awake => self.send_some(handing, connections)?,
            Stage::Sleepers | Stage::Settling | Stage::Left | Stage::Stranded => {}
        }
        Ok(())
    }

    /// Gives all sleeping connections away.
    fn surrender(&mut self, handing: &mut Handing<S>, connections: &mut Connections<S::State>) -> Result<()> {
        for name in connections.sleeping() {
            let known = self.known(connections, name)?;
            if !known.is_empty() {
                handing.known.insert(name, known);
            }
        }
        let surrendered = connections.surrender_sleepers();
        let known = handing.known.iter().map(|(name, known)| (*name, known.clone())).collect();
        let sleepers = Sleepers { window: connections.window(), surrendered, known };
        handing.send(Kind::Sleepers, sleepers.encode(), Vec::new());
        Ok(())
    }

    /// What driver and service know of a connection that goes.
    fn known(&mut self, connections: &mut Connections<S::State>, name: ConnId) -> Result<Known> {
        let (age, deadline) = self.context.known(connections, name);
        let mut service = Vec::new();
        self.call(connections, |own, ctx| own.hand_over(ctx, name, &mut service))?;
        Ok(Known { age, deadline, service })
    }

    /// Sends those that are ready, and has some more get ready.
    fn send_some(&mut self, handing: &mut Handing<S>, connections: &mut Connections<S::State>) -> Result<()> {
        if !handing.sent {
            let (batch, sockets) = self.pack_ready(handing, connections)?;
            if batch != Batch::default() {
                handing.send(Kind::Batch, batch.encode(), sockets);
            }
        }
        self.choose(handing, connections)
    }

    /// Packs those of the leaving connections that are ready.
    fn pack_ready(
        &mut self,
        handing: &mut Handing<S>,
        connections: &mut Connections<S::State>,
    ) -> Result<(Batch, Vec<OwnedFd>)> {
        let (mut batch, mut sockets) = (Batch::default(), Vec::new());
        for conn in std::mem::take(&mut handing.leaving) {
            match connections.readiness_to_leave(conn)? {
                ReadinessToLeave::Gone => continue,
                ReadinessToLeave::Ready => {}
                ReadinessToLeave::NotYet => {
                    handing.leaving.push(conn);
                    continue;
                }
            }
            let Ok(handed) = connections.pack(conn)? else {
                // No descriptor is left: later.
                handing.leaving.push(conn);
                continue;
            };
            let name = connections.name_at_slot(conn);
            let known = self.known(connections, name)?;
            self.context.closed(name);
            batch.connections.push((handed.state.clone(), known.clone()));
            sockets.push(handed.socket);
            handing.away.push((conn, handed.state, known));
        }
        batch.ended = connections.take_ended_away();
        Ok((batch, sockets))
    }

    /// Has some more connections get ready. When there is none left, all is done.
    fn choose(&mut self, handing: &mut Handing<S>, connections: &mut Connections<S::State>) -> Result<()> {
        let mut rows = ROWS_PER_TURN;
        while handing.leaving.len() < BATCH
            && let Some(conn) = connections.next_to_leave(&mut handing.place, &mut rows)
        {
            connections.prepare_to_leave(conn)?;
            handing.leaving.push(conn);
        }
        if handing.leaving.is_empty() && !handing.sent && !connections.has_any_slot() {
            handing.send(Kind::Done, Vec::new(), Vec::new());
            handing.stage = Stage::Left;
        }
        Ok(())
    }

    /// The successor is gone: what it did not get goes on here.
    fn take_back(&mut self, handing: &mut Handing<S>, connections: &mut Connections<S::State>) -> Result<()> {
        handing.stage = Stage::Stranded;
        for (conn, state, known) in handing.away.drain(..) {
            let name = connections.name_at_slot(conn);
            connections.returned(conn, state)?;
            self.arrived(connections, name, &known)?;
        }
        for conn in handing.leaving.drain(..) {
            connections.stays(conn)?;
        }
        Ok(())
    }

    /// Serves on after the successor is gone; takes the sleeping connections back if it has `ended`.
    fn serve_on(
        &mut self,
        handing: &mut Handing<S>,
        connections: &mut Connections<S::State>,
        ended: bool,
    ) -> Result<()> {
        if ended {
            connections.take_over_sleepers(None)?;
            for name in connections.sleeping() {
                let known = handing.known.remove(&name).unwrap_or_default();
                self.arrived(connections, name, &known)?;
            }
        }
        connections.accept_again(self.accepts, |socket| self.program.attach(socket))
    }
}
