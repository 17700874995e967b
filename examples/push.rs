//! A push service: connections subscribe, publishers' lines reach every subscriber of every shard.
//!
//!     cargo run --release --example push -- 9000
//!     nc 127.0.0.1 9000        # type SUB
//!     nc 127.0.0.1 9000        # type PUB good morning
//!
//! What a service of one's own needs: state per connection that lives in the row (here a flag and
//! a place in the list of subscribers), lines that the network cuts anywhere, pushes to
//! connections that sent nothing, and word between shards, which share no connection.

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use c1m::error::Result;
use c1m::internal::host::Host;
use c1m::internal::plan::{PortSharing, Ports};
use c1m::internal::server::{Options, Server};
use c1m::internal::service::{Outbox, Reply, Service};
use c1m::internal::token::ConnId;

/// Longest line; a connection that sends a longer one is closed.
const LINE: usize = 200;

/// How often a shard looks for lines that other shards published.
const EVERY: Duration = Duration::from_millis(10);

/// What each connection keeps in its row: the start of a line that is not whole yet, which is
/// empty (24 bytes, no heap) while it is idle, and whether it wants pushes.
#[derive(Default)]
struct Reader {
    partial: Vec<u8>,
    subscribed: bool,
}

/// One shard's part.
struct Push {
    subscribers: HashSet<ConnId>,
    /// Lines published anywhere.
    published: Receiver<Arc<[u8]>>,
    /// The way to every shard, ours included.
    shards: Vec<Sender<Arc<[u8]>>>,
}

impl Push {
    /// Carries out one line. Returns false if the connection is to be closed.
    fn line(&mut self, conn: ConnId, reader: &mut Reader, line: &[u8], out: &mut Outbox) -> bool {
        match line.split_first_chunk::<3>() {
            Some((b"SUB", _)) => {
                reader.subscribed = true;
                self.subscribers.insert(conn);
                out.send(conn, b"OK\n");
            }
            Some((b"PUB", text)) => {
                let text: Arc<[u8]> = [text.trim_ascii(), b"\n"].concat().into();
                for shard in &self.shards {
                    // A shard that has ended has no subscribers either.
                    let _ = shard.send(text.clone());
                }
            }
            Some((b"BYE", _)) => return false,
            _ => out.send(conn, b"SUB, PUB text or BYE\n"),
        }
        true
    }
}

impl Service for Push {
    type State = Reader;

    fn received(&mut self, conn: ConnId, reader: &mut Reader, data: &mut [u8], out: &mut Outbox) -> Reply {
        let mut rest = &*data;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let mut line = std::mem::take(&mut reader.partial);
            line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            if !self.line(conn, reader, line.trim_ascii(), out) {
                return Reply::Close;
            }
        }
        reader.partial.extend_from_slice(rest);
        if reader.partial.len() > LINE { Reply::Close } else { Reply::Nothing }
    }

    fn closed(&mut self, conn: ConnId, reader: &mut Reader, _: &mut Outbox) {
        if reader.subscribed {
            self.subscribers.remove(&conn);
        }
    }

    fn tick(&mut self, out: &mut Outbox) {
        for text in self.published.try_iter() {
            out.push(self.subscribers.iter().copied(), &text);
        }
    }

    fn interval(&self) -> Option<Duration> {
        Some(EVERY)
    }
}

fn main() -> Result<()> {
    let port = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(9000);
    // Clients of a push service know one port: every shard listens on it.
    let options = Options { ports: Ports::new(port, 1)?, sharing: PortSharing::All, ..Options::default() };
    let shards = Host::here().choose_cores(&options.cores)?.len();
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..shards).map(|_| channel()).unzip();
    let receivers = Arc::new(Mutex::new(receivers.into_iter().map(Some).collect::<Vec<_>>()));
    let service = move |shard: usize| {
        let mut receivers = receivers.lock().unwrap_or_else(PoisonError::into_inner);
        let published = receivers[shard].take().unwrap_or_else(|| channel().1);
        Push { subscribers: HashSet::new(), published, shards: senders.clone() }
    };
    let (notices, ended) = channel();
    let server = Server::start(&options, service, &notices)?;
    println!("ready on port {port}, {shards} shards");
    // Serves until a shard dies; Ctrl-C ends the process.
    let _ = ended.recv();
    server.stop();
    server.join().map(drop)
}
