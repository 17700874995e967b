//! An echo server that ends in order: it tells every peer, waits until all have been told, and then closes them.
//!
//!     cargo run --release --example farewell -- 9000
//!     nc 127.0.0.1 9000
//!
//! The end of its standard input (Ctrl-D) ends it. A signal would do the same: docs/guide/services.md shows how.

use std::convert::Infallible;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;
use std::{io, thread};

use c1m::{
    Broadcast, CloseMode, ConnId, Ctx, Mailbox, PortSharing, Ports, Reply, Result, Server, ServerEvent, Service,
    ShardInfo,
};

const GOODBYE: &[u8] = b"the server goes down\n";

/// How long peers may take to be told. After that the server stops in any case.
const FAREWELL: Duration = Duration::from_secs(5);

/// What is sent to a shard.
enum Order {
    /// Tell every peer that the server goes down. Drop the sender when all have been told: its receiver hears of that.
    GoDown(Sender<Infallible>),
    /// Look whether all have been told.
    Look,
}

/// One shard's part.
struct Farewell {
    mailbox: Mailbox<Order>,
    /// While peers are being told.
    telling: Option<Sender<Infallible>>,
    going_down: bool,
}

impl Farewell {
    fn new(shard: &ShardInfo<Order>) -> Farewell {
        Farewell { mailbox: shard.mailbox(), telling: None, going_down: false }
    }
}

impl Service for Farewell {
    type State = ();
    type Message = Order;

    fn opened(&mut self, ctx: &mut Ctx<'_, ()>, conn: ConnId) {
        // The port is open until `Server::stop`, and the broadcast reaches no connection that opens after it began.
        if self.going_down {
            ctx.send(conn, GOODBYE);
            // A peer that speaks first still sends. After a graceful close a RST may overtake the goodbye.
            ctx.close(conn, CloseMode::Lingering);
        }
    }

    fn received(&mut self, _: &mut Ctx<'_, ()>, _: ConnId, data: &mut [u8]) -> Reply {
        Reply::Back(0..data.len())
    }

    fn message(&mut self, ctx: &mut Ctx<'_, ()>, order: Order) {
        if let Order::GoDown(done) = order {
            (self.telling, self.going_down) = (Some(done), true);
            // Refused only while 4,096 others are under way, or 64 MiB of them.
            let _ = ctx.broadcast(Broadcast::to_all(GOODBYE));
        }
        if ctx.broadcasts() == 0 {
            self.telling = None;
        } else {
            // A message to the own shard arrives in a later pass. By then more peers have been told.
            let _ = self.mailbox.try_send(ctx.shard(), Order::Look);
        }
    }
}

/// What the main thread waits for.
enum Wake {
    EndOfInput,
    Server(ServerEvent),
}

fn main() -> Result<()> {
    let port = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(9000);
    let (sender, wakes) = mpsc::channel();
    let from_server = sender.clone();
    let builder = Server::builder().ports(Ports::new(port, 1)?).port_sharing(PortSharing::All);
    let builder = builder.max_connections(100_000).drain_timeout(Duration::from_secs(10));
    let builder = builder.on_event(move |event| drop(from_server.send(Wake::Server(event))));
    let server = builder.start(|shard| Farewell::new(&shard))?;
    println!("ready on port {port}");
    thread::spawn(move || {
        // An error on the input is its end too.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = sender.send(Wake::EndOfInput);
    });
    for wake in wakes.iter() {
        match wake {
            // A shard ends before `stop` only if it fails. `join` tells why.
            Wake::EndOfInput | Wake::Server(ServerEvent::ShardEnded(_)) => break,
            Wake::Server(other) => eprintln!("{other:?}"),
        }
    }

    let (done, all_told) = mpsc::channel();
    for shard in 0..server.mailbox().shards() {
        // Fails for a shard that has ended: it has no peers left.
        let _ = server.mailbox().send(shard, Order::GoDown(done.clone()));
    }
    drop(done);
    // Ends when every shard has dropped its sender.
    let _ = all_told.recv_timeout(FAREWELL);
    server.stop();
    let shards = server.join()?;
    println!("closed {} connections in order", shards.iter().map(|shard| shard.closed).sum::<u64>());
    Ok(())
}
