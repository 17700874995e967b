//! What a publisher may have under way at most. One shard says nothing for as long as the test wants, so that no publication
//! of the other one comes to its end.

use std::sync::{Arc, Mutex, PoisonError};

use c1m::http::{Request, Response};
use c1m::push::PushMessage;
use c1m::websocket::{Answer, Ending, WebSocketCtx, WebSocketService};
use c1m::{CloseReason, ConnId, Ctx, Reply, Service, ShardInfo};
use tungstenite::protocol::frame::coding::CloseCode;

use super::*;
use crate::support::eventually;

/// Publications of one publisher that may be under way, and of all publishers of a shard.
const MOST_OF_ONE: usize = 4_096;
const MOST_OF_ALL: usize = 65_536;

/// The broadcaster, on a shard that does nothing of what others tell it while the test holds the lock.
struct Stalled {
    push: Push,
    lock: Option<Arc<Mutex<()>>>,
}

impl Stalled {
    fn wait(&self) {
        if let Some(lock) = &self.lock {
            drop(lock.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Service for Stalled {
    type State = u32;
    type Message = PushMessage;

    fn received(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId, data: &mut [u8]) -> Reply {
        Service::received(&mut self.push, ctx, conn, data)
    }

    fn message(&mut self, ctx: &mut Ctx<'_, u32>, message: PushMessage) {
        self.wait();
        Service::message(&mut self.push, ctx, message);
    }

    fn closed(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId, reason: CloseReason) {
        Service::closed(&mut self.push, ctx, conn, reason);
    }
}

impl WebSocketService for Stalled {
    type State = ();
    type Message = PushMessage;

    fn opened(&mut self, ctx: &mut WebSocketCtx<'_, ()>, conn: ConnId, request: &Request<'_>) {
        WebSocketService::opened(&mut self.push, ctx, conn, request);
    }

    fn text(&mut self, ctx: &mut WebSocketCtx<'_, ()>, conn: ConnId, text: &str) -> Answer {
        self.push.text(ctx, conn, text)
    }

    fn binary(&mut self, ctx: &mut WebSocketCtx<'_, ()>, conn: ConnId, bytes: &mut [u8]) -> Answer {
        self.push.binary(ctx, conn, bytes)
    }

    fn request<'r>(&mut self, ctx: &mut WebSocketCtx<'_, ()>, conn: ConnId, request: &'r Request<'r>) -> Response<'r> {
        self.push.request(ctx, conn, request)
    }

    fn message(&mut self, ctx: &mut WebSocketCtx<'_, ()>, message: PushMessage) {
        self.wait();
        WebSocketService::message(&mut self.push, ctx, message);
    }

    fn closed(&mut self, ctx: &mut WebSocketCtx<'_, ()>, conn: ConnId, ending: Ending<'_>) {
        WebSocketService::closed(&mut self.push, ctx, conn, ending);
    }
}

/// A server of two shards, whose second one is stalled. Returns also the first one's port.
fn two_shards<S: Service<Message = PushMessage>>(
    lock: &Arc<Mutex<()>>,
    service: impl Fn(Stalled) -> S + Send + Sync + 'static,
) -> (c1m::Server<PushMessage>, u16) {
    let (port, lock) = (free_ports(2), lock.clone());
    let builder = c1m::Server::builder().bind(Ipv4Addr::LOCALHOST).ports(Ports::new(port, 2).unwrap());
    let builder = builder.cores(Cores::Count(2)).max_connections(100).mailbox_capacity(2 * MOST_OF_ALL);
    let stalled = move |shard: ShardInfo<PushMessage>| {
        let lock = (shard.index() == 1).then(|| lock.clone());
        service(Stalled { push: Push::new(shard.mailbox()), lock })
    };
    (builder.start(stalled).unwrap(), port)
}

/// Publishes so many times, and waits until the server has read all of that.
fn publish(publisher: &mut WebSocket<TcpStream>, times: usize) {
    (0..times).for_each(|_| publisher.write(Message::text("")).unwrap());
    publisher.send(Message::Ping("read?".into())).unwrap();
    assert_eq!(publisher.read().unwrap(), Message::Pong("read?".into()));
}

/// The first line of the answer to a publication that is posted.
fn post(port: u16) -> String {
    let mut stream = connected(port);
    let post = b"POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nConnection: close\r\n\r\nposted";
    stream.write_all(post).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn publications_over_websocket_are_bounded_and_refused_with_a_code() {
    let lock = Arc::<Mutex<()>>::default();
    let stalls = lock.lock().unwrap();
    let (server, port) = two_shards(&lock, c1m::websocket::WebSocket::new);
    let mut publishers: Vec<_> = (0..MOST_OF_ALL / MOST_OF_ONE).map(|_| websocket(port, PUBLISH_PATH)).collect();
    let (flood, others) = publishers.split_first_mut().unwrap();
    publish(flood, MOST_OF_ONE);
    flood.send(Message::text("")).unwrap();
    let Message::Close(Some(close)) = flood.read().unwrap() else { panic!("no Close") };
    assert_eq!(close.code, CloseCode::Again);
    // What it published is under way all the same.
    others.iter_mut().for_each(|publisher| publish(publisher, MOST_OF_ONE));
    assert!(post(port).starts_with("HTTP/1.1 503 "));
    drop(stalls);
    for number in 1..=100 {
        let Message::Text(text) = others[0].read().unwrap() else { panic!("a receipt is a text") };
        assert_eq!(Receipt::read(text.as_bytes()), Some(Receipt { number, subscribers: 0, missed: 0 }));
    }
    eventually("there is room again", || post(port) == "HTTP/1.1 202 Accepted");
    server.stop();
    server.join().unwrap();
}

#[test]
fn a_publisher_over_plain_bytes_that_waits_for_no_receipt_is_bounded() {
    let lock = Arc::<Mutex<()>>::default();
    let stalls = lock.lock().unwrap();
    let (server, port) = two_shards(&lock, |stalled| stalled);
    let [mut flood, mut other] = [(); 2].map(|()| Framed(connected(port)));
    let publications = frame(Kind::Publish, b"").repeat(MOST_OF_ONE);
    flood.0.write_all(&publications).unwrap();
    flood.say(Kind::Echo, b"read?");
    assert_eq!(flood.hear(), (Kind::Echo, b"read?".to_vec()));
    flood.say(Kind::Publish, b"");
    assert_eq!(last_words(&mut flood.0), b"");
    assert_eq!(server.counters()[0].frames_refused, 1);
    // Others are served.
    other.say(Kind::Publish, b"");
    drop(stalls);
    let (kind, text) = other.hear();
    let receipt = Receipt { number: 1, subscribers: 0, missed: 0 };
    assert_eq!((kind, Receipt::read(&text)), (Kind::Receipt, Some(receipt)));
    server.stop();
    server.join().unwrap();
}
