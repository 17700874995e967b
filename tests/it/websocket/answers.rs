//! Answers to messages that come together, and what of them is pending.

use super::*;
use crate::support::{eventually, in_own_network};

/// The longest message comes back, also with others behind it in the same receive.
#[test]
fn the_longest_message_comes_back_whatever_comes_with_it() {
    let long: Vec<u8> = (0..65_536).map(|at| at as u8).collect();
    let says = |port: u16| {
        let mut bare = Bare::open(port);
        for _ in 0..10 {
            let messages = [frame(Opcode::Binary, true, &long), frame(Opcode::Binary, true, &[7; 2_000])];
            bare.say(&messages.concat());
            assert_eq!(bare.hear(), (Opcode::Binary, long.clone()));
            assert_eq!(bare.hear(), (Opcode::Binary, vec![7; 2_000]));
        }
    };
    let server = Server::start(1, "--protocol websocket");
    says(server.port);
    server.stop();
    // In a program of one's own too, which has left all limits as they are.
    let port = free_ports(1);
    let builder = c1m::Server::builder().bind(Ipv4Addr::LOCALHOST).ports(Ports::new(port, 1).unwrap());
    let builder = builder.cores(Cores::Count(1)).max_connections(100);
    let server = builder.start(|_| WebSocket::new(c1m::Echo)).unwrap();
    says(port);
    server.stop();
    server.join().unwrap();
}

/// Answers `back` with itself, a number with a message of so many bytes, and anything else with as many messages as may be
/// pending; tells how many these are, and when all was sent.
struct Filling(Sender<usize>);

/// Bytes that may be pending.
const MOST: usize = 32 * 1024;

impl WebSocketService for Filling {
    type State = ();
    type Message = ();

    fn text(&mut self, ctx: &mut WebSocketCtx<'_, ()>, conn: ConnId, text: &str) -> Answer {
        if text == "back" {
            return Answer::Back;
        }
        if let Ok(bytes) = text.parse() {
            ctx.send_binary(conn, &vec![7; bytes]);
            assert!(ctx.pending(conn) > bytes);
            self.0.send(1).unwrap();
            return Answer::Nothing;
        }
        let before = ctx.pending(conn);
        let mut sent = 0;
        while ctx.pending(conn) < MOST && sent < 100 {
            ctx.send_binary(conn, &[7; 1_000]);
            sent += 1;
        }
        assert_eq!(ctx.pending(conn), before + sent * 1_004);
        self.0.send(sent).unwrap();
        Answer::Nothing
    }

    fn binary(&mut self, _: &mut WebSocketCtx<'_, ()>, _: ConnId, _: &mut [u8]) -> Answer {
        Answer::Nothing
    }

    fn sent(&mut self, ctx: &mut WebSocketCtx<'_, ()>, conn: ConnId) {
        assert_eq!(ctx.pending(conn), 0);
        self.0.send(0).unwrap();
    }
}

/// What was sent in answer to the same bytes counts before it is on its way, and `sent` follows.
#[test]
fn what_is_sent_while_messages_are_handed_on_is_pending() {
    let port = free_ports(1);
    let (sender, told) = channel();
    let builder = c1m::Server::builder().bind(Ipv4Addr::LOCALHOST).ports(Ports::new(port, 1).unwrap());
    let builder = builder.cores(Cores::Count(1)).max_connections(100);
    let server = builder.start(move |_| WebSocket::new(Filling(sender.clone()))).unwrap();
    let mut bare = Bare::open(port);
    // The second time an answer lies before it in the receive buffer.
    for before in [0, 1] {
        bare.say(&[text("back").repeat(before), text("fill")].concat());
        let sent = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(sent, MOST.div_ceil(1_004));
        (0..before).for_each(|_| assert_eq!(bare.hear(), (Opcode::Text, b"back".to_vec())));
        (0..sent).for_each(|_| assert_eq!(bare.hear(), (Opcode::Binary, vec![7; 1_000])));
        assert_eq!(told.recv_timeout(PATIENCE), Ok(0), "all was sent");
    }
    server.stop();
    server.join().unwrap();
}

/// So it is where the messages are those of sleeping connections, whose answers need no socket, or one that is made for them.
#[test(Network, Hibernation)]
fn what_is_sent_to_a_sleeper_is_pending() {
    in_own_network(|| {
        let port = free_ports(1);
        let (sender, told) = channel();
        let builder = c1m::Server::builder().bind(Ipv4Addr::LOCALHOST).ports(Ports::new(port, 1).unwrap());
        let builder = builder.cores(Cores::Count(1)).max_connections(100).hibernate(Duration::from_millis(100));
        let server = builder.start(move |_| WebSocket::new(Filling(sender.clone()))).unwrap();
        let asks: Vec<_> = [100, 16 * 1024].map(|bytes| (bytes, Bare::open(port))).into();
        eventually("both sleep", || server.counters()[0].asleep == 2);
        for (bytes, mut bare) in asks {
            bare.say(&text(&bytes.to_string()));
            assert_eq!(told.recv_timeout(PATIENCE), Ok(1));
            assert_eq!(bare.hear(), (Opcode::Binary, vec![7; bytes]));
            assert_eq!(told.recv_timeout(PATIENCE), Ok(0), "all was sent: {bytes}");
        }
        server.stop();
        server.join().unwrap();
    });
}
