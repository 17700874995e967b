//! A client's driver on real rings, with peers that the test plays. The instants of the driver's turns are the test's: they
//! begin `AGO` before now, so that nothing has to be waited for until it is due.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};

use super::*;
use crate::client::course::{Course, Fanout, Scenario, Storm};
use crate::client::fanout::{Closed, Leading};
use crate::client::ports::{Choice, Ports, Way, random_seed};
use crate::client::{Routes, Workload};
use crate::clock::LONGEST_LOOK;
use crate::connections::{CloseMode, ConnectionsConfig};
use crate::error::Errno;
use crate::host::SourcePorts;
use crate::plan;
use crate::protocol::Publication;
use crate::reactor::Reactor;
use crate::results::{Published, Receipts, ShardSample};
use crate::sys::Doorbell;

/// How long before now the first turn is.
const AGO: Duration = Duration::from_secs(100);

/// A latency in microseconds that is not counted from `AGO`, however busy the machine.
const RECENT: u64 = 50_000_000;

const PATIENCE: Duration = Duration::from_secs(40);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// A shard of a client, and the server's ends of its connections.
struct Scene {
    reactor: Reactor<ClientDriver>,
    listener: TcpListener,
    peers: Vec<TcpStream>,
    start: Instant,
    commands: u32,
    phase: Phase,
    _doorbell: Doorbell,
}

impl Scene {
    /// No connection of a workload is dialed yet.
    fn new(workload: Workload) -> Scene {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let routes = Routes { ports: plan::Ports::new(port, 1).unwrap(), ..workload.routes.clone() };
        let source_ports = SourcePorts::DEFAULT.reserving(port.into()..=port.into());
        let numbers = 0..workload.connections;
        // No shard has more slots than connections, so those that come back wait for the slots of those that go.
        let connections = ConnectionsConfig::new(vec![workload.connections as u32], u64::MAX);
        let (notices, measured, intervals) = (mpsc::channel().0, mpsc::channel().0, mpsc::channel().0);
        let config = ShardConfig {
            index: 0,
            core: 0,
            shards: 1,
            numbers: numbers.clone(),
            concurrency: 100,
            ports: Arc::new(Ports::new(&source_ports, &routes, numbers, random_seed(), Way::here())),
            workload: Arc::new(Workload { routes, ..workload }),
            fanout: None,
            progress: Arc::default(),
            notices,
            measured,
            intervals,
        };
        let doorbell = Doorbell::new().unwrap();
        let connections = Connections::new(connections, &doorbell, Arc::default()).unwrap();
        let driver = config.begin(&connections).unwrap();
        Scene {
            reactor: Reactor::new(connections, driver),
            listener,
            peers: Vec::new(),
            start: Instant::now() - AGO,
            commands: 0,
            phase: Phase::Ready,
            _doorbell: doorbell,
        }
    }

    /// All connections of a workload are live, and audited once.
    fn open(workload: Workload) -> Scene {
        let mut scene = Scene::new(workload);
        for phase in [Phase::Ramp, Phase::Audit(1)] {
            scene.begin(phase);
            scene.until("all connections are live", |scene| {
                scene.turn(Duration::ZERO);
                scene.answer();
                scene.driver().done
            });
        }
        scene
    }

    fn driver(&mut self) -> &mut ClientDriver {
        &mut self.reactor.driver
    }

    /// The next turn begins this phase.
    fn begin(&mut self, phase: Phase) {
        (self.commands, self.phase) = (self.commands + 1, phase);
    }

    /// The driver's turn at a time since the start.
    fn turn(&mut self, at: Duration) -> Schedule {
        self.reactor.turn(self.start + at, self.phase.command(self.commands)).unwrap()
    }

    /// Passes until something is so.
    fn until(&mut self, what: &str, mut enough: impl FnMut(&mut Scene) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !enough(self) {
            let now = Instant::now();
            assert!(now < deadline, "{what}: {:?}", self.driver().config.progress.snapshot());
            self.reactor.connections.engine.look(now);
            self.reactor.pass(now, || {}).unwrap();
            while let Ok((peer, _)) = self.listener.accept() {
                peer.set_nonblocking(true).unwrap();
                self.peers.push(peer);
            }
        }
    }

    /// The peers send back what has come.
    fn answer(&mut self) {
        let mut bytes = [0; 1_024];
        for peer in &mut self.peers {
            while let Ok(length @ 1..) = peer.read(&mut bytes) {
                peer.write_all(&bytes[..length]).unwrap();
            }
        }
    }

    /// The peers answer until nothing is in flight.
    fn answer_all(&mut self) {
        self.until("all is answered", |scene| {
            scene.answer();
            scene.driver().window.is_idle()
        });
    }

    /// How many messages were measured in all, and how many of them were sent.
    fn messages(&mut self) -> (u64, u64) {
        let measures = &self.driver().measures;
        (measures.echo.all().unwrap().count(), measures.echo_service.count())
    }
}

/// One connection, with a message due every half a second.
fn talker() -> Workload {
    Workload { connections: 1, interval: Some(SECOND / 2), ..Workload::default() }
}

fn storm(scenario: Scenario, victims: u64) -> Course {
    Course::Storm(Storm { scenario, victims, calm: 2 * SECOND, after: 2 * SECOND })
}

/// What was due before the answer came is measured, from the instant at which it was due, and nothing else: not what was
/// never due as the hold was over, nor what was sent after the answer.
#[test]
fn each_message_that_was_due_is_measured_once() {
    let mut scene = Scene::open(talker());
    scene.begin(Phase::Hold);
    scene.turn(Duration::ZERO);
    scene.answer_all();
    assert_eq!(scene.messages(), (1, 1));
    // The shard had no turn for a while. It sends the message that was due at 0.5 s late, and leaves the next ones out.
    scene.turn(10 * SECOND);
    assert_eq!(scene.driver().sent, 21);
    scene.begin(Phase::Settle);
    scene.turn(60 * SECOND);
    scene.answer_all();
    assert_eq!(scene.messages(), (21, 2));
    let latency = scene.driver().measures.echo.all().unwrap();
    let least = AGO - 11 * SECOND;
    assert!(latency.min() > least.as_micros() as u64, "{} us", latency.min());
}

/// A message that waits for the answer to a keepalive has others left out, as one that awaits its own answer does.
#[test]
fn messages_left_out_while_a_keepalive_is_in_flight_are_measured() {
    let mut scene = Scene::open(Workload { keepalive: Some(SECOND), ..talker() });
    scene.begin(Phase::Hold);
    for at in [2, 3, 4] {
        scene.turn(at * SECOND / 2);
    }
    assert_eq!(scene.driver().sent, 3);
    scene.begin(Phase::Settle);
    scene.turn(2 * SECOND);
    scene.answer_all();
    assert_eq!(scene.messages(), (3, 1));
    assert_eq!(scene.driver().config.progress.kept_alive.get(), 1);
}

/// A run may close its connections slowly, and a broker gives up those that are silent for too long.
#[test]
fn connections_that_wait_to_be_closed_are_kept_alive() {
    let workload = Workload { connections: 3, keepalive: Some(SECOND), close_rate: Some(0.01), ..Workload::default() };
    let mut scene = Scene::open(workload);
    scene.begin(Phase::Close);
    for quarter in 0..8 {
        scene.turn(quarter * SECOND / 4);
    }
    scene.answer_all();
    let progress = scene.driver().config.progress.snapshot();
    assert!(progress.kept_alive >= 2 && progress.closed <= 1, "{progress:?}");
}

/// A shard that has done its part of a stage goes on with the messages of that stage. After the last stage it has none, and
/// sleeps while other shards await answers.
#[test]
fn a_shard_that_has_done_its_part_of_a_storm_does_not_spin() {
    let course = storm(Scenario::Disconnect, 1);
    let mut scene = Scene::open(Workload { connections: 2, interval: Some(SECOND), course, ..Workload::default() });
    scene.begin(Phase::Calm);
    for at in [0, 1] {
        scene.turn(at * SECOND);
    }
    scene.answer_all();
    let storm = scene.driver().storm.as_ref().unwrap().measured();
    assert_eq!(storm.echo[0].count(), 2, "one was left out");
    let next = Schedule::At(scene.start + 3 * SECOND);
    assert_eq!([2, 2].map(|at| scene.turn(at * SECOND)), [Schedule::Now, next]);
    scene.begin(Phase::After);
    scene.turn(10 * SECOND);
    scene.answer_all();
    assert_eq!([12, 12].map(|at| scene.turn(at * SECOND)), [Schedule::Now, Schedule::OnEvent]);
}

/// By its pace each connection should have come back at once, long before its victim was closed.
#[test]
fn the_pace_at_which_victims_are_closed_is_no_latency_of_a_reconnect() {
    let (course, rate) = (storm(Scenario::Reconnect, 2), Some(1e12));
    let mut scene = Scene::open(Workload { connections: 3, course, rate, ..Workload::default() });
    scene.begin(Phase::Storm);
    let progress = scene.driver().config.progress.clone();
    let are_back = || progress.redialed.get() == 2 && progress.live.get() == 3;
    scene.until("all are back", |scene| {
        if !are_back() {
            scene.turn(SECOND);
            scene.answer();
        }
        are_back()
    });
    let latency = scene.driver().measures.connect.cut().unwrap().unwrap();
    assert!(latency.count() == 2 && latency.max() < RECENT, "{} us", latency.max());
}

/// A connection may be given up whose end the driver was not told yet.
#[test]
fn a_connection_fails_once() {
    let mut scene = Scene::open(Workload { connections: 2, ..Workload::default() });
    let Reactor { connections, driver, .. } = &mut scene.reactor;
    let (conn, _) = connections.next_live(Cursor::START).unwrap();
    connections.close(conn, CloseMode::Abort, CloseReason::SlowReader).unwrap();
    driver.give_up(connections, conn, Cause::Unanswered).unwrap();
    scene.turn(SECOND);
    let ProgressSnapshot { live, failed, lost, .. } = scene.driver().config.progress.snapshot();
    assert_eq!((live, failed, lost), (1, 1, 1));
    assert_eq!(scene.driver().causes, Causes::from([(Cause::Unanswered, 1)]));
    assert_eq!(scene.driver().failures_in_a_row, 0, "it was live");
}

/// The other connections were never live. The curve of the live ones would fall below none.
#[test]
fn only_what_was_live_counts_as_closed() {
    let mut scene = Scene::new(Workload { connections: 5, ..Workload::default() });
    scene.begin(Phase::Ramp);
    scene.until("two of five are live", |scene| {
        scene.turn(Duration::ZERO);
        let silent = scene.peers.split_off(scene.peers.len().min(2));
        scene.answer();
        scene.peers.extend(silent);
        scene.peers.len() == 5 && scene.driver().config.progress.live.get() == 2
    });
    scene.begin(Phase::Close);
    scene.until("all are closed", |scene| {
        scene.turn(SECOND);
        scene.driver().done && scene.reactor.connections.in_use() == 0
    });
    let progress = scene.driver().config.progress.snapshot();
    assert_eq!((progress.live, progress.closed, progress.failed), (2, 2, 0));
    assert_eq!(ShardSample::of(&progress).live, 0);
}

/// Takes all ports that a connection's route has for others, and returns some of them.
fn exhaust(ports: &Ports, number: u64) -> Vec<u16> {
    let later = Instant::now() + HOUR;
    let next = || match ports.another(number, later) {
        Choice::Port(port) => Some(port),
        Choice::Soon | Choice::Exhausted => None,
    };
    let mut taken: Vec<u16> = std::iter::from_fn(next).collect();
    taken.iter().for_each(|port| ports.rest(number, *port, later));
    taken.truncate(20);
    taken
}

#[test]
fn a_storm_dials_on_while_a_connection_waits_for_a_port() {
    let mut workload = Workload { connections: 4, course: storm(Scenario::Reconnect, 3), ..Workload::default() };
    workload.routes.targets = [1, 2].map(|host| Ipv4Addr::new(127, 0, 0, host).into()).to_vec();
    (workload.close_rate, workload.connect_timeout) = (Some(1.0), HOUR);
    let mut scene = Scene::open(workload);
    let (ports, progress) = (scene.driver().config.ports.clone(), scene.driver().config.progress.clone());
    let start = scene.start;
    let free = |route: u64, spares: &[Vec<u16>; 2]| {
        spares[route as usize].iter().for_each(|port| ports.give_back(route, *port, start));
    };
    scene.begin(Phase::Storm);
    scene.turn(Duration::ZERO);
    assert_eq!(progress.dropped.get(), 1);
    let spares = [0, 1].map(|route| exhaust(&ports, route));
    scene.turn(Duration::ZERO);
    assert_eq!((scene.driver().again.len(), progress.redialed.get()), (1, 1), "it waits for a port");
    let waiting = scene.driver().number(4) % 2;
    // One at least of the other two has the other route. Their own ports are taken too.
    scene.turn(3 * SECOND);
    assert_eq!(progress.dropped.get(), 3);
    for route in [0, 1] {
        exhaust(&ports, route);
    }
    free(1 - waiting, &spares);
    scene.until("another one is dialed", |scene| {
        scene.turn(3 * SECOND);
        scene.peers.len() > 4
    });
    assert!(!scene.driver().again.is_empty());
    free(waiting, &spares);
    scene.until("all are back", |scene| {
        scene.turn(3 * SECOND);
        scene.answer();
        scene.driver().done
    });
    assert_eq!((progress.live.get(), progress.failed.get()), (4, 0));
}

/// Even when no port is free and the process was suspended meanwhile: a suspension is no time, and all other time counts.
#[test]
fn a_connection_waits_for_a_port_as_long_as_for_a_connect() {
    let course = storm(Scenario::Reconnect, 1);
    let workload = Workload { connections: 2, course, connect_timeout: SECOND, ..Workload::default() };
    let mut scene = Scene::open(workload);
    let progress = scene.driver().config.progress.clone();
    scene.begin(Phase::Storm);
    scene.turn(Duration::ZERO);
    exhaust(&scene.driver().config.ports.clone(), 1);
    scene.turn(Duration::ZERO);
    assert_eq!((scene.driver().again.len(), progress.redialed.get()), (1, 1), "it waits for a port");
    let resumed = Instant::now() + HOUR;
    scene.reactor.connections.engine.look(resumed);
    assert!(scene.reactor.connections.clock().suspended().times > 0);
    scene.turn(Duration::ZERO);
    assert_eq!((scene.driver().again.len(), progress.failed.get()), (1, 0), "it still waits");
    let looks = SECOND.div_duration_f64(LONGEST_LOOK) as u32;
    (1..=looks).for_each(|look| scene.reactor.connections.engine.look(resumed + LONGEST_LOOK * look));
    scene.turn(Duration::ZERO);
    assert_eq!((scene.driver().again.len(), progress.failed.get()), (0, 1));
    assert_eq!(scene.driver().causes, Causes::from([(Cause::Errno(Errno::EADDRNOTAVAIL), 1)]));
    assert!(scene.driver().done, "the storm is over");
}

/// What one of two shards sees of a fan-out. It has two subscribers, and the other shard publishes.
struct Subscribed {
    fanning: Fanning,
    clock: Clock,
    leading: Leading,
    handed_over: mpsc::Receiver<Closed>,
    /// When the first publication is due.
    origin: Instant,
}

/// How long a receipt may take.
const WAIT: Duration = Duration::from_millis(10);

impl Subscribed {
    /// The shard has not heard that the phase of publications has begun. Its clock has run for a second.
    fn new() -> Subscribed {
        let config = Fanout { publishers: 1, publications: 3, period: SECOND, wait: WAIT, payload: 64 };
        let workload = Workload { connections: 5, course: Course::Fanout(config), ..Workload::default() };
        let leading = Leading::begin(config, workload.connections, 2, 7).unwrap();
        let (closed, handed_over) = mpsc::channel();
        let [mut fanning, mut other] = [0, 1].map(|shard| {
            let mut part = FanoutPart::new(&workload, (shard, 2), &leading);
            part.closed = closed.clone();
            Fanning::new(config, &part, shard as usize)
        });
        let now = Instant::now();
        let mut clock = Clock::begin(now - SECOND);
        other.begin(Phase::Publish, &clock, now - SECOND);
        clock.sleep(Some(now));
        clock.look(now);
        (0..2).for_each(|index| fanning.proved(index, ConnId::new(0, index, 0)));
        let origin = leading.board.origin_if_known().unwrap();
        Subscribed { fanning, clock, leading, handed_over, origin }
    }

    /// The other shard has said a publication so long ago.
    fn said(&self, number: u32, ago: Duration) {
        let said = self.clock.due(self.clock.now()) - ago - self.origin;
        self.leading.board.say(number, Published { intended: Duration::ZERO, said });
    }

    /// A subscriber gets a publication. Returns for what cause it is given up, if it is.
    fn received(&mut self, number: u32, index: u32, instant: u64) -> Option<Cause> {
        let publication = Publication { run: 7, number, instant, length: 64 };
        self.fanning.received(&self.clock, index, publication, false).unwrap()
    }

    /// The shard's count of each publication.
    fn counts(&self, count: fn(&Receipts) -> u64) -> Vec<u64> {
        self.fanning.measured().receipts.iter().map(count).collect()
    }
}

/// A shard may be told late that the phase has begun, after another shard's first publication.
#[test]
fn a_publication_that_comes_before_its_phase_is_received() {
    let mut shard = Subscribed::new();
    shard.said(0, Duration::ZERO);
    assert_eq!(shard.received(0, 0, 0), None);
    assert_eq!(shard.counts(|receipts| receipts.received), [1]);
    assert_eq!(shard.received(0, 0, 1), Some(Cause::AlteredPublication));
}

/// A shard may hear of a publication long after it was said, together with its receipts.
#[test]
fn the_time_of_a_publication_begins_when_it_is_said() {
    let mut shard = Subscribed::new();
    shard.said(0, WAIT);
    shard.said(1, WAIT / 2);
    (0..2).for_each(|number| assert_eq!(shard.received(number, 0, 0), None));
    assert_eq!(shard.counts(|receipts| receipts.received), [0, 1]);
    assert_eq!(shard.counts(|receipts| receipts.late), [1, 0]);
    assert_eq!(shard.counts(|receipts| receipts.missed), [2, 0]);
    // It has just looked at the board, so what is said to be earlier was a suspension.
    shard.said(2, SECOND / 2);
    assert_eq!(shard.received(2, 0, 0), None);
    assert_eq!(shard.counts(|receipts| receipts.received), [0, 1, 1]);
}

/// The other shards may publish until they have heard of the stop too. What is counted was handed over.
#[test]
fn what_comes_after_a_stop_counts_nothing() {
    let mut shard = Subscribed::new();
    shard.said(0, Duration::ZERO);
    assert_eq!(shard.received(0, 0, 0), None);
    shard.said(1, Duration::ZERO);
    shard.fanning.begin(Phase::Close, &shard.clock, Instant::now());
    shard.said(2, Duration::ZERO);
    for number in 0..3 {
        (0..2).for_each(|index| assert_eq!(shard.received(number, index, 0), None));
    }
    assert_eq!(shard.counts(|receipts| receipts.expected), [2, 2], "the last one came after the stop");
    assert_eq!(shard.counts(|receipts| receipts.received), [1, 0]);
    assert_eq!(shard.counts(|receipts| receipts.missed + receipts.late + receipts.extra), [0, 0]);
    let measured = shard.handed_over.try_iter().filter_map(|closed| closed.latency);
    assert_eq!(measured.map(|latency| latency.count()).sum::<u64>(), 1);
}
