//! The examples that people copy from, as built programs with clients on real sockets.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use tungstenite::{Error, HandshakeError, Message};

use crate::support::*;

/// An example that runs, on a port of its own.
struct Example {
    running: Running,
    port: u16,
}

impl Example {
    fn start(name: &str, further: &str) -> Example {
        let program = Path::new(PROGRAM).parent().unwrap().join("examples").join(name);
        assert!(
            program.exists(),
            "build it with `cargo build --examples`, as `cargo test` does: {}",
            program.display()
        );
        let port = free_ports(1);
        let mut command = Command::new(program);
        command.arg(port.to_string()).args(further.split_whitespace());
        let mut running = Running::with_input(command);
        running.until("the example is ready", |out| out.contains("ready on port"));
        Example { running, port }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn lines(&self) -> Lines {
        let stream = self.connect();
        Lines { reader: BufReader::new(stream.try_clone().unwrap()), stream }
    }
}

/// A connection of lines.
struct Lines {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Lines {
    fn say(&mut self, line: &str) {
        // In one segment: what comes in two is two messages.
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Skips lines up to one that is `wanted`.
    fn hear_at_last(&mut self, wanted: &str) {
        loop {
            let line = self.hear();
            if line == wanted {
                return;
            }
            assert!(!line.is_empty(), "the end, and no {wanted:?}");
        }
    }

    fn ends(&mut self) {
        // Closed while it still sent: the kernel answers that with a reset.
        last_words(&mut self.reader);
    }
}

#[test]
fn count_tells_each_connection_its_own_bytes() {
    let example = Example::start("count", "");
    let (mut one, mut other) = (example.lines(), example.lines());
    for sum in [6, 12, 18] {
        one.say("hello");
        assert_eq!(one.hear(), sum.to_string());
    }
    other.say("");
    assert_eq!(other.hear(), "1");
}

#[test]
fn tls_echo_answers_and_reads_its_certificate_again() {
    let authority = Authority::new();
    let sign = || authority.sign("own", &["localhost"]);
    let signed = sign();
    let mut example = Example::start("tls_echo", &format!("{} {}", signed.chain.display(), signed.key.display()));
    let mut old = authority.connected(example.port);
    echoes(&mut old);
    std::fs::write(&signed.chain, "nothing").unwrap();
    example.running.say("");
    eventually("it says why it cannot", || example.running.out().contains("stays"));
    sign();
    example.running.say("");
    example.running.until("the files are read again", |out| out.contains("new connections"));
    let mut new = authority.connected(example.port);
    echoes(&mut new);
    echoes(&mut old);
    let certificate = |stream: &Secure| stream.conn.peer_certificates().unwrap()[0].clone();
    assert_ne!(certificate(&old), certificate(&new));
    drop((old, new));
    example.running.end_input();
    assert_eq!(example.running.wait().code(), 0);
}

#[test]
fn push_reaches_every_subscriber_of_every_shard_and_no_other_connection() {
    let example = Example::start("push", "");
    // Spread by the kernel over all shards.
    let mut subscribers: Vec<Lines> = (0..20).map(|_| example.lines()).collect();
    for subscriber in &mut subscribers {
        subscriber.say("SUB");
        assert_eq!(subscriber.hear(), "OK");
    }
    let mut publisher = example.lines();
    for number in 0..50 {
        publisher.say(&format!("PUB news {number}"));
    }
    for subscriber in &mut subscribers {
        for number in 0..50 {
            assert_eq!(subscriber.hear(), format!("news {number}"));
        }
    }
    // Whoever has gone gets nothing, and its place's next connection neither.
    subscribers[0].say("BYE");
    subscribers[0].ends();
    publisher.say("what?");
    assert_eq!(publisher.hear(), "SUB, PUB text or BYE");
    publisher.say(&"x".repeat(300));
    publisher.ends();
    let mut late = example.lines();
    late.say("PUB last");
    late.say("hm");
    assert_eq!(late.hear(), "SUB, PUB text or BYE");
    for subscriber in &mut subscribers[1..] {
        assert_eq!(subscriber.hear(), "last");
    }
}

#[test]
fn chat_is_heard_in_its_room_on_every_shard_by_all_but_the_speaker() {
    let example = Example::start("chat", "");
    let enter = |name: &str, room: &str| {
        let mut guest = example.lines();
        guest.say("hello");
        guest.hear_at_last("* say /name NAME first");
        guest.say(&format!("/name {name}"));
        guest.hear_at_last(&format!("* welcome, {name}"));
        guest.say(&format!("/join {room}"));
        guest.hear_at_last(&format!("* you are in {room}"));
        guest
    };
    let mut cooks: Vec<Lines> = (0..12).map(|number| enter(&format!("cook{number}"), "kitchen")).collect();
    let mut guest = enter("guest", "hall");
    // The last has come when all have heard of it: then no client misses what is said.
    for cook in &mut cooks[..11] {
        cook.hear_at_last("* cook11 has come");
    }
    cooks[0].say("dinner is ready");
    for cook in &mut cooks[1..] {
        cook.hear_at_last("cook0: dinner is ready");
    }
    cooks[1].say("/name chef");
    cooks[0].hear_at_last("* cook1 is now chef");
    cooks[1].say("/quit");
    cooks[1].ends();
    cooks[0].hear_at_last("* chef has left");
    guest.say("/who");
    let line = guest.hear();
    assert!(line.contains(" guests on this shard: ") && line.contains("guest"), "{line}: the hall heard the kitchen");
    guest.say("/what");
    guest.hear_at_last("* /name NAME, /join ROOM, /who or /quit; anything else is said in the room");
}

/// A guest of the chat over WebSocket.
struct Guest(tungstenite::WebSocket<TcpStream>);

impl Guest {
    fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).unwrap();
    }

    /// Skips texts up to one that is `wanted`.
    fn hear_at_last(&mut self, wanted: &str) {
        while self.0.read().unwrap() != Message::text(wanted) {}
    }
}

#[test]
fn websocket_chat_is_heard_in_its_room_on_every_shard_by_all_but_the_speaker() {
    let example = Example::start("websocket_chat", "");
    let at = |path: &str| format!("ws://127.0.0.1:{}{path}", example.port);
    let enter = |name: &str, room: &str| {
        let at = at(&format!("/{room}?name={name}"));
        let mut guest = Guest(tungstenite::client(at, example.connect()).unwrap().0);
        guest.hear_at_last(&format!("* welcome, {name}"));
        guest
    };
    let mut guest = enter("guest", "hall");
    let mut cooks: Vec<Guest> = (0..12).map(|number| enter(&format!("cook{number}"), "kitchen")).collect();
    for cook in &mut cooks[..11] {
        cook.hear_at_last("* cook11 has come");
    }
    cooks[0].say("dinner is ready");
    for cook in &mut cooks[1..] {
        cook.hear_at_last("cook0: dinner is ready");
    }
    // One leaves in order, and one just goes.
    cooks.pop().unwrap().0.close(None).unwrap();
    drop(cooks.pop());
    for cook in &mut cooks {
        let mut gone = BTreeSet::from(["* cook10 has left", "* cook11 has left"]);
        while !gone.is_empty() {
            let Message::Text(text) = cook.0.read().unwrap() else { panic!("a chat says texts") };
            gone.remove(text.as_str());
        }
    }
    // The hall has heard nothing of it.
    let mut late = enter("late", "hall");
    assert_eq!(guest.0.read().unwrap(), Message::text("* late has come"));
    guest.0.send(Message::binary(vec![1, 2, 3])).unwrap();
    let Message::Close(Some(close)) = guest.0.read().unwrap() else { panic!("bytes are not for a chat") };
    assert_eq!(u16::from(close.code), 1003);
    // Reading on answers the close.
    assert!(matches!(guest.0.read(), Err(Error::ConnectionClosed)));
    late.hear_at_last("* guest has left");
    match tungstenite::client(at("/nowhere"), example.connect()) {
        Err(HandshakeError::Failure(Error::Http(refused))) => assert_eq!(refused.status(), 404),
        _ => panic!("a guest without a name was let in"),
    }
}

#[test]
fn farewell_tells_every_peer_before_it_closes() {
    let mut example = Example::start("farewell", "");
    let mut peers: Vec<Lines> = (0..40).map(|_| example.lines()).collect();
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.say(&format!("hello {number}"));
        assert_eq!(peer.hear(), format!("hello {number}"));
    }
    example.running.end_input();
    for peer in &mut peers {
        assert_eq!(peer.hear(), "the server goes down");
        peer.ends();
    }
    let finished = example.running.wait();
    assert_eq!(finished.code(), 0, "{}", finished.err);
    assert!(finished.out.contains("closed 40 connections in order"), "{}", finished.out);
}

/// A client of the gateway.
struct Client(TcpStream);

impl Client {
    fn send(&mut self, kind: u8, rest: &[u8]) {
        self.0.write_all(&frame(kind, rest)).unwrap();
    }

    fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut length = [0; 2];
        self.0.read_exact(&mut length).unwrap();
        let mut frame = vec![0; usize::from(u16::from_be_bytes(length))];
        self.0.read_exact(&mut frame).unwrap();
        (frame[0], frame.split_off(1))
    }

    fn is(&mut self, kind: u8, rest: &[u8]) {
        assert_eq!(self.receive(), (kind, rest.to_vec()));
    }

    fn ends(&mut self) {
        // A reset is an end too: what it sent last may not have been read.
        assert_eq!(last_words(&mut self.0), b"");
    }
}

/// A frame of the gateway.
fn frame(kind: u8, rest: &[u8]) -> Vec<u8> {
    let length = (1 + rest.len()) as u16;
    [&length.to_be_bytes()[..], &[kind], rest].concat()
}

/// The sum of one of the gateway's counters over its shards.
fn counted(address: SocketAddr, name: &str) -> u64 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let of_shards = text.lines().filter(|line| line.starts_with(&format!("{name}_total{{shard=")));
    of_shards.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
}

#[test]
fn gateway_knows_its_users_wherever_they_are_and_counts() {
    let example = Example::start("gateway", "600 127.0.0.1:0");
    let out = example.running.out();
    let address = out.split("metrics: http://").nth(1).unwrap().trim().strip_suffix("/metrics").unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let login = |user: &str| {
        let mut client = Client(example.connect());
        client.send(1, format!("{user}\0{user}'s secret").as_bytes());
        client.is(128, b"");
        client
    };
    let mut users: Vec<Client> = (0..8).map(|number| login(&format!("user{number}"))).collect();
    // From each to each, over shards.
    for number in 0..8 {
        users[7 - number].send(3, format!("user{number}\0hello {number}").as_bytes());
        users[number].is(131, format!("user{}\0hello {number}", 7 - number).as_bytes());
    }
    // Two frames at once, and one cut anywhere.
    users[0].0.write_all(&[0, 1, 2, 0, 1, 2, 0]).unwrap();
    users[0].is(130, b"");
    users[0].is(130, b"");
    users[0].0.write_all(&[1, 2]).unwrap();
    users[0].is(130, b"");
    // What comes right behind a login waits until that is checked: a heartbeat and the start of another one.
    let mut hasty = Client(example.connect());
    let login_and_more = [frame(1, b"hasty\0hasty's secret"), frame(2, b""), vec![0]].concat();
    hasty.0.write_all(&login_and_more).unwrap();
    hasty.is(128, b"");
    hasty.is(130, b"");
    hasty.0.write_all(&[1, 2]).unwrap();
    hasty.is(130, b"");
    // An admin who kicks himself is told both, and nothing behind that is carried out.
    let mut leaving = Client(example.connect());
    let login_and_more = [frame(1, b"admin\0admin's secret"), frame(4, b"admin"), frame(2, b"")].concat();
    leaving.0.write_all(&login_and_more).unwrap();
    leaving.is(128, b"");
    leaving.is(128, b"");
    leaving.is(132, b"");
    leaving.ends();
    // A wrong secret, a frame of no length, a word before the login: each ends its connection.
    for (bytes, answer) in [(&b"\0\x09\x01user1\0no"[..], Some(129)), (b"\0\0", None), (b"\0\x01\x02", None)] {
        let mut stranger = Client(example.connect());
        stranger.0.write_all(bytes).unwrap();
        if let Some(answer) = answer {
            stranger.is(answer, b"");
        }
        stranger.ends();
    }
    // The same user again: the connection before is told, and ends.
    let mut again = login("user1");
    users[1].is(132, b"");
    users[1].ends();
    users[0].send(3, b"user1\0still you?");
    again.is(131, b"user0\0still you?");
    // A kick is the admin's.
    let mut admin = login("admin");
    admin.send(4, b"user2");
    admin.is(128, b"");
    users[2].is(132, b"");
    users[2].ends();
    users[3].send(4, b"user4");
    users[3].ends();
    eventually("all is counted", || counted(address, "gateway_kicks") == 3);
    assert_eq!((counted(address, "gateway_logins"), counted(address, "gateway_refused_logins")), (12, 1));
    assert_eq!(counted(address, "gateway_missed_heartbeats"), 0);
    drop(example);
}

#[test]
fn gateway_ends_connections_without_login_or_heartbeat() {
    let example = Example::start("gateway", "3 127.0.0.1:0");
    let out = example.running.out();
    let address = out.split("metrics: http://").nth(1).unwrap().trim().strip_suffix("/metrics").unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let mut stranger = Client(example.connect());
    let mut silent = Client(example.connect());
    silent.send(1, b"silent\0silent's secret");
    silent.is(128, b"");
    let mut alive = Client(example.connect());
    alive.send(1, b"alive\0alive's secret");
    alive.is(128, b"");
    // As long as it takes the others to be ended.
    let mut rounds = 0;
    eventually("the two that said nothing are ended", || {
        alive.send(2, b"");
        alive.is(130, b"");
        rounds += 1;
        counted(address, "gateway_missed_heartbeats") == 2
    });
    stranger.ends();
    silent.ends();
    alive.send(2, b"");
    alive.is(130, b"");
    assert!(rounds > 1);
}
