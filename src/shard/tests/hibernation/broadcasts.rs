//! Broadcasts to connections that sleep while no slot is free.

use super::*;
use crate::service::{Broadcast, ShardContext};
use crate::stats::OwnCounters;

/// When the broadcast begins, and when a slot becomes free.
const CALL: Duration = Duration::from_millis(600);
const FREE: Duration = Duration::from_millis(1_600);

/// Has its first connection stay awake until `FREE`, and begins a broadcast at `CALL`.
struct Caller {
    turns: Turns,
    context: ShardContext<u32>,
    called: bool,
    first: Option<ConnId>,
    /// When it had turns.
    times: Rc<RefCell<Vec<Duration>>>,
}

impl Driver<Machine> for Caller {
    type State = u32;

    fn opened(&mut self, connections: &mut Simulated, conn: ConnId) -> Result<()> {
        if self.first.is_none() {
            self.first = Some(conn);
            assert!(connections.pause_reads(conn)?);
        }
        self.context.opened(conn);
        Ok(())
    }

    fn received(&mut self, _: &mut Simulated, _: ConnId, _: &mut [u8]) -> Result<Reply> {
        Ok(Reply::Nothing)
    }

    fn ended(&mut self, _: &mut Simulated, conn: ConnId, _: CloseReason) -> Result<()> {
        self.context.closed(conn);
        Ok(())
    }

    fn turn(&mut self, connections: &mut Simulated, now: Instant, _command: u32) -> Result<Schedule> {
        let time = self.turns.time();
        self.times.borrow_mut().push(time);
        assert!(self.times.borrow().len() < 10_000, "a turn follows the other, and no time passes");
        if time >= CALL && !std::mem::replace(&mut self.called, true) {
            assert_eq!(connections.counters().snapshot().asleep, 1, "the other one sleeps");
            self.context.broadcast(Broadcast::to_all(*b"news")).unwrap();
        }
        if time >= FREE
            && let Some(first) = self.first
        {
            connections.close(first, CloseMode::Abort, CloseReason::Local)?;
        }
        self.context.broadcast_some(connections)?;
        if self.context.has_more() {
            return Ok(Schedule::Now);
        }
        let schedule = self.turns.turn(connections, now)?;
        let Schedule::At(end) = schedule else { return Ok(schedule) };
        let next = [CALL, FREE].into_iter().find(|at| *at > time).map(|at| self.turns.machine.instant(at));
        let due = self.context.due(connections, now);
        Ok(Schedule::At([next, due].into_iter().flatten().fold(end, Instant::min)))
    }
}

/// It reaches those that are awake, and then waits for the slot without work. The sleeper has it soon after that is free. Where
/// short messages need no slot it has it at once.
#[test]
fn a_broadcast_that_waits_for_a_slot_does_not_keep_the_shard_busy() {
    with_seeds(4, |seed| {
        let mut night = Night::new(seed, 1, 2, Catcher::default());
        let waits = seed % 2 == 0;
        night.config.hibernation.as_mut().expect("they sleep").socketless = !waits;
        let [awake, asleep] = [Duration::ZERO, MILLI].map(|at| night.come(1, at, Duration::ZERO).start);
        let Night { machine, config, .. } = night;
        let seen = Rc::<RefCell<Seen>>::default();
        let times = Rc::<RefCell<Vec<Duration>>>::default();
        let turns = Turns { machine: machine.clone(), end: FREE + SECOND, closing: None, seen };
        let context = ShardContext::new(0, 1, false, Arc::new(OwnCounters::new(0)));
        run_shard(&machine, config, Caller { turns, context, called: false, first: None, times: times.clone() });
        let heard = |peer: usize| machine.kernel(|kernel| (kernel.sockets[peer].heard.clone(), kernel.heard(peer)[0]));
        let (news, at) = heard(awake);
        assert!(news == b"news" && at < CALL + 10 * MILLI, "{at:?}");
        let (news, at) = heard(asleep);
        let due = if waits { FREE..FREE + 100 * MILLI } else { CALL..CALL + 10 * MILLI };
        assert!(news == b"news" && due.contains(&at), "{at:?}");
        let waited = times.borrow().iter().filter(|at| (CALL + 10 * MILLI..FREE).contains(*at)).count();
        // A look every 10 ms, and what else wakes a shard in a second.
        assert!(waited < 300, "{waited} turns");
    });
}
