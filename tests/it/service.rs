//! What a service of one's own is told and may ask for, through the library and real sockets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use c1m::error::Errno;
use c1m::{
    Broadcast, CloseMode, CloseReason, ConnId, Cores, CounterId, Ctx, IdlePolicy, Mailbox, MailboxError, Members,
    PortSharing, Ports, Reply, Server, ServerBuilder, Service,
};
use socket2::SockRef;

use crate::support::{PATIENCE, eventually, free_ports, reset};

mod gone;
mod pauses;

/// What the service was told.
#[derive(Debug, PartialEq)]
enum Told {
    Opened(ConnId, Option<SocketAddr>),
    Sent(ConnId, usize),
    Expired(ConnId, Instant),
    Closed(ConnId, CloseReason),
    Paused(bool),
    Asked(Result<SocketAddr, std::io::ErrorKind>, Result<SocketAddr, std::io::ErrorKind>),
    Ages(Option<Duration>, Option<Duration>),
}

/// More bytes than the sockets of both ends hold: the sender's 4 MiB as a rule (net.ipv4.tcp_wmem), and what the
/// receiver's has before anything is read.
const FLOOD: usize = 12 << 20;

/// Does what its peers say, and tells what it was told.
struct Teller {
    told: Sender<Told>,
    rounds: CounterId,
    members: Members,
}

impl Teller {
    fn tell(&self, told: Told) {
        // The test has ended by then, perhaps.
        let _ = self.told.send(told);
    }
}

type Order = Box<dyn FnOnce(&mut Teller, &mut Ctx<'_, u32>) + Send>;

impl Service for Teller {
    type State = u32;
    type Message = Order;

    fn opened(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId) {
        let peer = ctx.peer_addr(conn).ok();
        self.tell(Told::Opened(conn, peer));
    }

    fn received(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId, data: &mut [u8]) -> Reply {
        ctx.count(self.rounds, 1);
        match &*data {
            b"flood" => {
                let flood: Arc<[u8]> = vec![7; FLOOD].into();
                ctx.send_shared(conn, &flood);
                Reply::Nothing
            }
            b"deadline" => {
                ctx.set_deadline(conn, Some(Duration::from_secs(1)));
                Reply::Back(0..data.len())
            }
            b"never mind" => {
                ctx.set_deadline(conn, None);
                Reply::Back(0..data.len())
            }
            b"who" => {
                let asked = [ctx.peer_addr(conn), ctx.local_addr(conn)].map(|asked| asked.map_err(|e| e.kind()));
                let [peer, local] = asked;
                self.tell(Told::Asked(peer, local));
                Reply::Back(0..data.len())
            }
            b"ages" => {
                self.tell(Told::Ages(ctx.age(conn), ctx.idle(conn)));
                Reply::Back(0..data.len())
            }
            b"member" => {
                *ctx.state(conn).unwrap() = 7;
                self.members.insert(conn);
                Reply::Back(0..data.len())
            }
            b"pause" => {
                self.tell(Told::Paused(ctx.pause_reads(conn)));
                Reply::Back(0..data.len())
            }
            b"close" => Reply::Close,
            b"abort" => {
                ctx.close(conn, CloseMode::Abort);
                Reply::Nothing
            }
            _ => Reply::Back(0..data.len()),
        }
    }

    fn sent(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId) {
        self.tell(Told::Sent(conn, ctx.pending(conn)));
    }

    fn expired(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId) {
        self.tell(Told::Expired(conn, Instant::now()));
        ctx.close(conn, CloseMode::Graceful);
    }

    fn closed(&mut self, _: &mut Ctx<'_, u32>, conn: ConnId, reason: CloseReason) {
        self.members.remove(conn);
        self.tell(Told::Closed(conn, reason));
    }

    fn message(&mut self, ctx: &mut Ctx<'_, u32>, order: Order) {
        order(self, ctx);
    }
}

/// A server in this process.
struct Here {
    server: Option<Server<Order>>,
    told: Receiver<Told>,
    rounds: CounterId,
    port: u16,
}

impl Here {
    fn start(cores: usize, set: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Here {
        let port = free_ports(1);
        let (sender, told) = channel();
        let builder = Server::builder().bind(Ipv4Addr::LOCALHOST).ports(Ports::new(port, 1).unwrap());
        let builder = builder.cores(Cores::Count(cores)).port_sharing(PortSharing::All).max_connections(5_000);
        let mut builder = set(builder);
        let rounds = builder.counter("rounds", "Messages.").unwrap();
        let make = move |_| Teller { told: sender.clone(), rounds, members: Members::new() };
        Here { server: Some(builder.start(make).unwrap()), told, rounds, port }
    }

    fn server(&self) -> &Server<Order> {
        self.server.as_ref().unwrap()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn next(&self) -> Told {
        self.told.recv_timeout(PATIENCE).unwrap()
    }

    fn opened(&self) -> (ConnId, Option<SocketAddr>) {
        match self.next() {
            Told::Opened(conn, peer) => (conn, peer),
            other => panic!("{other:?}"),
        }
    }

    fn all_opened(&self, count: usize) {
        (0..count).for_each(|_| {
            self.opened();
        });
    }

    /// Has a shard carry out something.
    fn order(&self, shard: usize, order: impl FnOnce(&mut Teller, &mut Ctx<'_, u32>) + Send + 'static) {
        self.server().mailbox().send(shard, Box::new(order)).unwrap();
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
            let ended = server.join();
            // A second panic would end the process, and the tests after this one.
            assert!(std::thread::panicking() || ended.is_ok(), "{ended:?}");
        }
    }
}

fn ask(stream: &mut TcpStream, word: &[u8]) {
    stream.write_all(word).unwrap();
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, word);
}

#[test]
fn closed_is_told_why() {
    let here = Here::start(1, |builder| builder);
    let reason = |end: &dyn Fn(TcpStream)| {
        let mut stream = here.connect();
        let (conn, _) = here.opened();
        ask(&mut stream, b"hello");
        end(stream);
        match here.next() {
            Told::Closed(closed, reason) if closed == conn => reason,
            other => panic!("{other:?}"),
        }
    };
    let say = |word: &'static [u8]| {
        move |mut stream: TcpStream| {
            stream.write_all(word).unwrap();
            let _ = stream.read(&mut [0]);
        }
    };
    assert_eq!(reason(&|stream| drop(stream)), CloseReason::PeerClosed);
    assert_eq!(reason(&|stream| reset(stream)), CloseReason::PeerReset);
    assert_eq!(reason(&say(b"close")), CloseReason::Local);
    assert_eq!(reason(&say(b"abort")), CloseReason::Local);
    let kept = here.connect();
    let (conn, _) = here.opened();
    here.server().stop();
    assert_eq!(here.next(), Told::Closed(conn, CloseReason::Stopping));
    drop(kept);
}

#[test]
fn a_slow_reader_and_a_silent_one_are_told_apart() {
    let here = Here::start(1, |builder| builder.idle_timeout(Duration::from_secs(1)).max_pending(4 << 20));
    let silent = here.connect();
    let (conn, _) = here.opened();
    assert_eq!(here.next(), Told::Closed(conn, CloseReason::IdleTimeout));
    drop(silent);
    let slow = here.connect();
    SockRef::from(&slow).set_recv_buffer_size(4_096).unwrap();
    let (conn, _) = here.opened();
    here.order(0, move |_, ctx| (0..20).for_each(|_| ctx.send(conn, &[7; 1 << 20])));
    assert_eq!(here.next(), Told::Closed(conn, CloseReason::SlowReader));
}

#[test]
fn sent_is_told_when_what_waited_has_gone_and_never_for_what_went_at_once() {
    let here = Here::start(1, |builder| builder.max_pending(2 * FLOOD));
    let mut slow = here.connect();
    let (conn, _) = here.opened();
    // These go at once.
    for _ in 0..50 {
        ask(&mut slow, b"hello");
    }
    // The flood and what is kept behind it wait until they are read.
    slow.write_all(b"flood").unwrap();
    eventually("a send waits", || here.server().counters()[0].parked > 0);
    here.order(0, move |_, ctx| {
        ctx.send(conn, b"behind it");
        assert!(ctx.pending(conn) > 9);
    });
    let mut bytes = vec![0; FLOOD + 9];
    slow.read_exact(&mut bytes).unwrap();
    assert!(bytes.ends_with(b"behind it") && bytes[..FLOOD].iter().all(|byte| *byte == 7));
    assert_eq!(here.next(), Told::Sent(conn, 0));
    // And once only.
    ask(&mut slow, b"hello");
    drop(slow);
    assert_eq!(here.next(), Told::Closed(conn, CloseReason::PeerClosed));
}

#[test]
fn a_deadline_passes_once_and_not_early_unless_it_is_taken_away() {
    let here = Here::start(1, |builder| builder);
    let (mut one, mut other, mut kept) = (here.connect(), here.connect(), here.connect());
    let [first, second, third] = [(); 3].map(|()| here.opened().0);
    let begun = Instant::now();
    ask(&mut one, b"deadline");
    ask(&mut other, b"deadline");
    ask(&mut kept, b"deadline");
    ask(&mut kept, b"never mind");
    let mut expired = Vec::new();
    let mut closed = Vec::new();
    for _ in 0..4 {
        match here.next() {
            Told::Expired(conn, at) => {
                assert!(at - begun >= Duration::from_secs(1), "after {:?}", at - begun);
                expired.push(conn);
            }
            Told::Closed(conn, CloseReason::Deadline) => closed.push(conn),
            told => panic!("{told:?}"),
        }
    }
    let mut both = vec![first, second];
    both.sort();
    expired.sort();
    closed.sort();
    assert_eq!((&expired, &closed), (&both, &both));
    ask(&mut kept, b"hello");
    drop(kept);
    assert_eq!(here.next(), Told::Closed(third, CloseReason::PeerClosed));
}

fn addresses(policy: IdlePolicy) {
    for bring in [false, true] {
        let here = Here::start(1, |builder| builder.idle_policy(policy).peer_addresses(bring));
        // Others talk meanwhile, so that completions come while the kernel is asked.
        let mut others: Vec<TcpStream> = (0..50).map(|_| here.connect()).collect();
        here.all_opened(50);
        for _ in 0..20 {
            others.iter_mut().for_each(|stream| stream.write_all(b"hello").unwrap());
            let mut stream = here.connect();
            let (own, server) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            let (_, at_opened) = here.opened();
            ask(&mut stream, b"who");
            match here.next() {
                // Before Linux 6.8 nothing but `opened` has it.
                Told::Asked(Err(std::io::ErrorKind::Unsupported), _) => assert_eq!(at_opened, bring.then_some(own)),
                told => {
                    assert_eq!((at_opened, told), (Some(own), Told::Asked(Ok(own), Ok(server))));
                }
            }
            for other in &mut others {
                other.read_exact(&mut [0; 5]).unwrap();
            }
            drop(stream);
            assert!(matches!(here.next(), Told::Closed(_, CloseReason::PeerClosed)));
        }
    }
}

#[test]
fn the_kernel_tells_addresses_of_connections_that_wait_in_polls() {
    addresses(IdlePolicy::Poll);
}

#[test(SocketFilter)]
fn the_kernel_tells_addresses_of_connections_that_wait_behind_a_filter() {
    addresses(IdlePolicy::Filter);
}

#[test]
fn ages_are_kept_where_they_are_asked_for() {
    for keep in [false, true] {
        let here = Here::start(1, |builder| builder.connection_ages(keep));
        let begun = Instant::now();
        let mut stream = here.connect();
        here.opened();
        ask(&mut stream, b"ages");
        let Told::Ages(age, idle) = here.next() else { panic!("no ages") };
        assert_eq!((age.is_some(), idle), (keep, Some(Duration::ZERO)));
        assert!(age.is_none_or(|age| age <= begun.elapsed() + Duration::from_millis(100)), "{age:?}");
    }
}

#[test]
fn counters_of_ones_own_are_counted_by_shard() {
    let here = Here::start(2, |builder| builder);
    let mut streams: Vec<TcpStream> = (0..10).map(|_| here.connect()).collect();
    streams.iter_mut().for_each(|stream| ask(stream, b"hello"));
    let counters = here.server().counters();
    assert_eq!(counters.len(), 2);
    for shard in &counters {
        assert_eq!(shard.own(here.rounds), shard.messages);
    }
    assert_eq!(counters.iter().map(|shard| shard.own(here.rounds)).sum::<u64>(), 10);
}

/// Reads these lines, one behind the other.
fn hears(stream: &mut TcpStream, lines: &[&str]) {
    let wanted = lines.concat();
    let mut heard = vec![0; wanted.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), wanted);
}

#[test]
fn a_broadcast_reaches_its_recipients_in_order_and_no_others() {
    const PEERS: usize = 600;
    let here = Here::start(1, |builder| builder);
    let mut streams: Vec<TcpStream> = (0..PEERS).map(|_| here.connect()).collect();
    let conns: Vec<ConnId> = (0..PEERS).map(|_| here.opened().0).collect();
    for stream in &mut streams[..100] {
        ask(stream, b"member");
    }
    let author = conns[50];
    here.order(0, move |teller, ctx| {
        ctx.broadcast(Broadcast::to_all(*b"one ")).unwrap();
        ctx.broadcast(Broadcast::to_members(*b"two ", &teller.members).except(author)).unwrap();
        ctx.broadcast(Broadcast::to_chosen(*b"three ", |_, state| *state == 7)).unwrap();
        assert_eq!(ctx.broadcasts(), 3);
        ctx.broadcast(Broadcast::to_all(*b"four ")).unwrap();
    });
    for (number, stream) in streams.iter_mut().enumerate() {
        match number {
            50 => hears(stream, &["one ", "three ", "four "]),
            ..100 => hears(stream, &["one ", "two ", "three ", "four "]),
            _ => hears(stream, &["one ", "four "]),
        }
    }
    // And nothing but that.
    streams.iter_mut().for_each(|stream| ask(stream, b"hello"));
}

/// While broadcasts run, members go and strangers take their places: no stranger gets what was for a member.
#[test]
fn a_newcomer_in_a_members_place_gets_nothing_of_what_was_sent_before() {
    const PEERS: usize = 400;
    let here = Here::start(1, |builder| builder);
    let mut members: Vec<TcpStream> = (0..PEERS).map(|_| here.connect()).collect();
    here.all_opened(PEERS);
    members.iter_mut().for_each(|stream| ask(stream, b"member"));
    for round in 0..20 {
        let going = members.split_off(PEERS / 2);
        here.order(0, move |teller, ctx| {
            for _ in 0..20 {
                ctx.broadcast(Broadcast::to_members(*b"secret", &teller.members)).unwrap();
            }
        });
        drop(going);
        let mut newcomers: Vec<TcpStream> = (0..PEERS / 2).map(|_| here.connect()).collect();
        newcomers.iter_mut().for_each(|stream| ask(stream, b"hello"));
        members.iter_mut().for_each(|stream| hears(stream, &["secret"; 20]));
        newcomers.iter_mut().for_each(|stream| ask(stream, b"member"));
        members.append(&mut newcomers);
        let mut tolds = 0;
        while tolds < PEERS {
            match here.next() {
                Told::Opened(..) | Told::Closed(_, CloseReason::PeerClosed | CloseReason::PeerReset) => tolds += 1,
                told => panic!("{round}: {told:?}"),
            }
        }
    }
}

#[test]
fn a_broadcast_larger_than_a_sockets_room_waits_for_slow_readers() {
    let here = Here::start(1, |builder| builder.max_pending(2 * FLOOD));
    let slow: Vec<TcpStream> = (0..4).map(|_| here.connect()).collect();
    here.all_opened(4);
    here.order(0, |_, ctx| {
        ctx.broadcast(Broadcast::to_all(vec![1; FLOOD])).unwrap();
        ctx.broadcast(Broadcast::to_all(vec![2; 1 << 20])).unwrap();
    });
    eventually("all wait", || here.server().counters()[0].parked >= 4);
    for mut stream in slow {
        let mut bytes = vec![0; FLOOD + (1 << 20)];
        stream.read_exact(&mut bytes).unwrap();
        assert!(bytes[..FLOOD].iter().all(|byte| *byte == 1) && bytes[FLOOD..].iter().all(|byte| *byte == 2));
    }
    assert_eq!(here.server().counters()[0].slow_readers, 0);
}

#[test]
fn every_shard_is_reached_from_any_thread_and_shard() {
    let here = Here::start(2, |builder| builder.mailbox_capacity(4));
    let (sender, received) = channel();
    let mailbox = here.server().mailbox();
    // From outside, to each; and from each to the other, by whom it came on.
    for shard in 0..2 {
        let (sender, onwards) = (sender.clone(), mailbox.clone());
        here.order(shard, move |_, ctx| {
            let from = ctx.shard();
            let on = Box::new(move |_: &mut Teller, ctx: &mut Ctx<'_, u32>| sender.send((from, ctx.shard())).unwrap());
            let on = onwards.send(1 - from, on).unwrap_err();
            let MailboxError::OnShard(on) = on else { panic!("{on:?}") };
            onwards.try_send(1 - from, on).unwrap();
        });
    }
    let mut ways = [received.recv_timeout(PATIENCE).unwrap(), received.recv_timeout(PATIENCE).unwrap()];
    ways.sort_unstable();
    assert_eq!(ways, [(0, 1), (1, 0)]);
    // Many threads that wait for room: everything arrives.
    let (counted, count) = channel();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for number in 0..500 {
                    let counted = counted.clone();
                    mailbox.send(number % 2, Box::new(move |_, _| counted.send(1).unwrap())).unwrap();
                }
            });
        }
    });
    for _ in 0..2_000 {
        count.recv_timeout(PATIENCE).unwrap();
    }
    assert_closed_after_stop(here, &mailbox);
}

fn assert_closed_after_stop(mut here: Here, mailbox: &Mailbox<Order>) {
    let server = here.server.take().unwrap();
    server.stop();
    server.join().unwrap();
    assert!(matches!(mailbox.send(0, Box::new(|_, _| ())), Err(MailboxError::Closed(_))));
    assert!(matches!(mailbox.try_send(2, Box::new(|_, _| ())), Err(MailboxError::NoShard(_))));
}

#[test]
fn a_server_with_a_mailbox_and_deadlines_far_away_sleeps() {
    let here = Here::start(1, |builder| builder);
    let mut stream = here.connect();
    let (conn, _) = here.opened();
    here.order(0, move |_, ctx| ctx.set_deadline(conn, Some(Duration::from_secs(3_600))));
    ask(&mut stream, b"hello");
    // Each sleep ends by something that happens, or for the look at those behind a filter, once a second at most.
    let sleeps = || here.server().counters()[0].sleeps;
    let (begun, before) = (Instant::now(), sleeps());
    eventually("a while has passed", || begun.elapsed() > Duration::from_secs(2));
    let (after, seconds) = (sleeps(), begun.elapsed().as_secs_f64());
    assert!((after - before) as f64 <= 20.0 * seconds, "{} sleeps in {seconds} s", after - before);
}
