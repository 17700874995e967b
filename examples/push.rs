//! A push service: connections subscribe, and a publisher's lines reach every subscriber of every shard.
//!
//!     cargo run --release --example push -- 9000
//!     nc 127.0.0.1 9000        # type SUB
//!     nc 127.0.0.1 9000        # type PUB good morning
//!
//! It shows how news go out: the shard of the publisher sends a message to every shard, and each shard broadcasts it to
//! its own subscribers, from one buffer that all shards share. An idle server sleeps. It does not use
//! `ServerBuilder::takeover`: with that, `hand_over` must do what `closed` does.

use std::sync::Arc;

use c1m::{
    Broadcast, CloseReason, ConnId, CounterId, Ctx, Mailbox, Members, PortSharing, Ports, Reply, Result, Server,
    Service, ShardInfo,
};

/// Longest line in bytes; a connection that sends a longer one is closed.
const LINE: usize = 200;

/// What each connection keeps in its row: the start of a line that is not whole yet. While a connection is idle it is
/// empty: 24 bytes and no heap.
#[derive(Default)]
struct Reader {
    partial: Vec<u8>,
}

/// One shard's part.
struct Push {
    mailbox: Mailbox<Arc<[u8]>>,
    subscribers: Members,
    /// News that a shard with too much to do did not get.
    lost: CounterId,
}

impl Push {
    fn new(shard: &ShardInfo<Arc<[u8]>>, lost: CounterId) -> Push {
        Push { mailbox: shard.mailbox(), subscribers: Members::new(), lost }
    }

    /// Carries out one line. Returns false if the connection is to be closed.
    fn line(&mut self, ctx: &mut Ctx<'_, Reader>, conn: ConnId, line: &[u8]) -> bool {
        match line.split_first_chunk::<3>() {
            Some((b"SUB", _)) => {
                self.subscribers.insert(conn);
                ctx.send(conn, b"OK\n");
            }
            Some((b"PUB", text)) => {
                let news: Arc<[u8]> = [text.trim_ascii(), b"\n"].concat().into();
                for shard in 0..ctx.shards() {
                    if self.mailbox.try_send(shard, news.clone()).is_err() {
                        ctx.count(self.lost, 1);
                    }
                }
            }
            Some((b"BYE", _)) => return false,
            _ => ctx.send(conn, b"SUB, PUB text or BYE\n"),
        }
        true
    }
}

impl Service for Push {
    type State = Reader;
    type Message = Arc<[u8]>;

    fn received(&mut self, ctx: &mut Ctx<'_, Reader>, conn: ConnId, data: &mut [u8]) -> Reply {
        let mut partial = ctx.state(conn).map(|reader| std::mem::take(&mut reader.partial)).unwrap_or_default();
        let mut rest = &*data;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            partial.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            if partial.len() > LINE || !self.line(ctx, conn, partial.trim_ascii()) {
                return Reply::Close;
            }
            // An idle connection keeps no heap for its next line.
            partial = Vec::new();
        }
        partial.extend_from_slice(rest);
        if partial.len() > LINE {
            return Reply::Close;
        }
        if let Some(reader) = ctx.state(conn) {
            reader.partial = partial;
        }
        Reply::Nothing
    }

    fn message(&mut self, ctx: &mut Ctx<'_, Reader>, news: Arc<[u8]>) {
        if ctx.broadcast(Broadcast::to_members(news, &self.subscribers)).is_err() {
            ctx.count(self.lost, 1);
        }
    }

    fn closed(&mut self, _: &mut Ctx<'_, Reader>, conn: ConnId, _: CloseReason) {
        self.subscribers.remove(conn);
    }
}

fn main() -> Result<()> {
    let port = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(9000);
    // Clients of a push service know one port, so every shard listens on it.
    let mut builder = Server::builder().ports(Ports::new(port, 1)?).port_sharing(PortSharing::All);
    let lost = builder.counter("push_lost_news", "News that a shard with too much to do did not get.")?;
    let server = builder.max_connections(100_000).start(move |shard| Push::new(&shard, lost))?;
    println!("ready on port {port}, {} shards", server.mailbox().shards());
    // Serves until a shard fails; Ctrl-C ends the process.
    server.wait(|event| eprintln!("{event:?}"));
    server.stop();
    server.join().map(drop)
}
