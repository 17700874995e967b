//! The smallest service: answers every message with the number of bytes its connection has sent so far.
//!
//!     cargo run --release --example count -- 9000
//!     nc 127.0.0.1 9000

use c1m::{ConnId, Ctx, PortSharing, Ports, Reply, Server, Service};

struct Count;

impl Service for Count {
    type State = u64;
    type Message = ();

    fn received(&mut self, ctx: &mut Ctx<'_, u64>, conn: ConnId, data: &mut [u8]) -> Reply {
        let Some(seen) = ctx.state(conn) else { return Reply::Nothing };
        *seen += data.len() as u64;
        let line = format!("{seen}\n");
        ctx.send(conn, line.as_bytes());
        Reply::Nothing
    }
}

fn main() -> c1m::Result<()> {
    let port = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(9000);
    // Clients know one port, so every shard listens on it.
    let builder = Server::builder().ports(Ports::new(port, 1)?).port_sharing(PortSharing::All);
    let server = builder.max_connections(100_000).start(|_shard| Count)?;
    println!("ready on port {port}");
    // Serves until a shard fails; Ctrl-C ends the process.
    server.wait(|event| eprintln!("{event:?}"));
    server.stop();
    server.join().map(drop)
}
