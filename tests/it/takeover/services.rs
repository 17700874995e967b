//! Services of the library whose servers take each other's place, in one process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use c1m::{
    Broadcast, ConnId, Cores, Ctx, Mailbox, Ports, Reply, Server as Library, ServerEvent, Service, ShardCounters,
};
use tempfile::TempDir;

use crate::support::*;

/// Says a number, or remembers one, for each connection; and counts aloud to all at each message.
#[derive(Default)]
struct Numbers {
    counted: u32,
}

impl Service for Numbers {
    type State = u32;
    type Message = ();

    fn received(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId, data: &mut [u8]) -> Reply {
        let text = String::from_utf8_lossy(data).into_owned();
        if let Some(number) = text.strip_prefix("remember ") {
            *ctx.state(conn).unwrap() = number.parse().unwrap();
        }
        if text == "a deadline" {
            // Long enough for a takeover on a busy machine.
            ctx.set_deadline(conn, Some(Duration::from_secs(15)));
        }
        let number = *ctx.state(conn).unwrap();
        ctx.send(conn, format!("{number}\n").as_bytes());
        Reply::Nothing
    }

    fn message(&mut self, ctx: &mut Ctx<'_, u32>, (): ()) {
        let all: Vec<ConnId> = ctx.connections().map(|(conn, _)| conn).collect();
        all.into_iter().for_each(|conn| ctx.send(conn, format!("count {}\n", self.counted).as_bytes()));
        self.counted += 1;
    }

    fn hand_over(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId, state: &mut Vec<u8>) {
        let number = *ctx.state(conn).unwrap();
        state.extend(number.to_le_bytes());
        // It is gone already.
        ctx.send(conn, b"never sent");
    }

    fn taken_over(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId, state: &[u8]) {
        *ctx.state(conn).unwrap() = u32::from_le_bytes(state.try_into().unwrap());
        assert!(ctx.age(conn).unwrap() >= Duration::from_millis(100));
    }
}

/// Reads lines up to one that is no count, which it returns; and checks that counts come one after the other.
fn next_line(reader: &mut BufReader<TcpStream>, counted: &mut u32) -> String {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end().strip_prefix("count ") {
            Some(count) => {
                assert_eq!(count.parse::<u32>().unwrap(), *counted, "a push is lost, or came twice");
                *counted += 1;
            }
            None => return line.trim_end().to_owned(),
        }
    }
}

/// What a service knows goes along, of those that sleep and of those that are awake; what it sends meanwhile arrives
/// whole and in order, or not at all once the connection has gone.
fn services_hand_over(ip: IpAddr, sleeps: bool) {
    let dir = TempDir::new().unwrap();
    let start = || {
        let builder = Library::builder().bind(ip).ports(Ports::new(9_000, 1).unwrap()).cores(Cores::Count(1));
        let builder = builder.max_connections(1_000).connection_ages(true).takeover(dir.path().join("takeover"));
        let builder = if sleeps { builder.hibernate(Duration::from_millis(100)) } else { builder };
        builder.start(|_| Numbers::default()).unwrap()
    };
    let first = start();
    let mut peers: Vec<_> =
        (0..100u32).map(|_| (BufReader::new(TcpStream::connect((ip, 9_000)).unwrap()), 0)).collect();
    let ask = |(reader, counted): &mut (BufReader<TcpStream>, u32), text: &str| {
        reader.get_mut().write_all(text.as_bytes()).unwrap();
        next_line(reader, counted)
    };
    for (number, peer) in peers.iter_mut().enumerate() {
        assert_eq!(ask(peer, &format!("remember {number}")), number.to_string());
    }
    assert_eq!(ask(&mut peers[99], "a deadline"), "99");
    if sleeps {
        let asleep = || first.counters().iter().map(|shard| shard.asleep).sum::<u64>();
        eventually("all sleep", || asleep() == 100);
        (0..50).for_each(|number| drop(ask(&mut peers[number], "wake")));
    }
    std::thread::sleep(Duration::from_millis(150));
    let (pushing, over) = (first.mailbox(), AtomicBool::new(false));
    let second = std::thread::scope(|scope| {
        let _ends = SetAtEnd(&over);
        let pusher = scope.spawn(|| {
            // As fast as the mailbox takes them, and to no receiver once it is closed.
            while !over.load(Ordering::Relaxed) {
                let _ = pushing.send(0, ());
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let second = start();
        over.store(true, Ordering::Relaxed);
        pusher.join().unwrap();
        second
    });
    eventually("the first server has handed over", || {
        first.events().try_iter().any(|event| event == ServerEvent::HandedOver)
    });
    let handed: u64 = first.join().unwrap().iter().map(|shard| shard.handed_over).sum();
    let taken: u64 = second.counters().iter().map(|shard| shard.taken_over).sum();
    assert_eq!((handed, taken), (100, 100));
    for (number, peer) in peers.iter_mut().enumerate().take(99) {
        assert_eq!(ask(peer, "and who am I?"), number.to_string());
    }
    // The deadline goes along too.
    let (reader, counted) = &mut peers[99];
    assert_eq!(next_line(reader, counted), "");
    second.stop();
    second.join().unwrap();
}

#[test(Network)]
fn services_hand_over_what_they_know() {
    in_own_network(|| services_hand_over(Ipv4Addr::LOCALHOST.into(), false));
}

#[test(Network, Hibernation)]
fn services_hand_over_what_they_know_of_sleepers() {
    in_own_network(|| services_hand_over(Ipv4Addr::LOCALHOST.into(), true));
}

/// Sends something to all connections in each of its turns, once it has a mailbox of its own: to each of them, or by
/// broadcasts, of which one is always under way.
struct Restless {
    mailbox: Arc<OnceLock<Mailbox<()>>>,
    broadcasts: bool,
}

impl Service for Restless {
    type State = ();
    type Message = ();

    fn received(&mut self, _: &mut Ctx<'_, ()>, _: ConnId, data: &mut [u8]) -> Reply {
        Reply::Back(0..data.len())
    }

    fn message(&mut self, ctx: &mut Ctx<'_, ()>, (): ()) {
        if self.broadcasts {
            while ctx.broadcasts() < 3 && ctx.broadcast(Broadcast::to_all(*b".")).is_ok() {}
        } else {
            let all: Vec<ConnId> = ctx.connections().map(|(conn, ())| conn).collect();
            all.into_iter().for_each(|conn| ctx.send(conn, b"."));
        }
        if let Some(mailbox) = self.mailbox.get() {
            mailbox.try_send(0, ()).unwrap();
        }
    }

    fn hand_over(&mut self, _: &mut Ctx<'_, ()>, _: ConnId, _: &mut Vec<u8>) {}

    fn taken_over(&mut self, _: &mut Ctx<'_, ()>, _: ConnId, _: &[u8]) {}
}

/// Connections on which something is sent without a pause leave all the same.
fn a_restless_service_hands_over(sleeps: bool, broadcasts: bool) {
    // One pass sends to 128 recipients, so a broadcast takes several.
    const PEERS: u64 = 300;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("takeover");
    let start = move |mailbox: Arc<OnceLock<Mailbox<()>>>| {
        let ports = Ports::new(9_000, 1).unwrap();
        let builder = Library::builder().bind(Ipv4Addr::LOCALHOST).ports(ports).cores(Cores::Count(1));
        let builder = builder.max_connections(1_000).takeover(path.clone());
        let builder = if sleeps { builder.hibernate(Duration::from_millis(100)) } else { builder };
        builder.start(move |_| Restless { mailbox: mailbox.clone(), broadcasts }).unwrap()
    };
    let restless = Arc::new(OnceLock::new());
    let first = start(restless.clone());
    let peers: Vec<_> = (0..PEERS).map(|_| connected(9_000)).collect();
    let come = |counters: &ShardCounters| counters.live == PEERS && counters.asleep == if sleeps { PEERS } else { 0 };
    eventually("all are there", || come(&first.counters()[0]));
    restless.set(first.mailbox()).unwrap();
    first.mailbox().send(0, ()).unwrap();
    let starting = std::thread::spawn(move || start(Arc::default()));
    peers.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    eventually("the first server hands over", || {
        // The peers read all that comes meanwhile.
        peers.iter().for_each(|mut stream| while stream.read(&mut [0; 4_096]).is_ok_and(|bytes| bytes > 0) {});
        starting.is_finished()
    });
    let second = starting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let handed: u64 = first.join().unwrap().iter().map(|shard| shard.handed_over).sum();
    assert_eq!((handed, second.counters()[0].live), (PEERS, PEERS));
    second.stop();
    second.join().unwrap();
}

#[test(Network)]
fn a_service_that_sends_all_the_time_hands_over() {
    in_own_network(|| a_restless_service_hands_over(false, false));
}

#[test(Network, Hibernation)]
fn a_service_that_sends_to_sleepers_all_the_time_hands_over() {
    in_own_network(|| a_restless_service_hands_over(true, false));
}

/// Where one broadcast is always under way, no new one is taken for a moment.
#[test(Network)]
fn a_service_that_broadcasts_all_the_time_hands_over() {
    in_own_network(|| a_restless_service_hands_over(false, true));
}
