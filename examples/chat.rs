//! A chat with rooms: a guest in a room reads what the other guests of the room say, on whichever shards they are.
//!
//!     cargo run --release --example chat -- 9000
//!     nc 127.0.0.1 9000
//!     /name ada
//!     /join kitchen
//!     hello
//!
//! It shows state per connection, sets of connections (`Members`), a broadcast within a shard, and the mailbox that
//! carries what is said to the other shards. It does not use `ServerBuilder::takeover`: with that, `hand_over` must do
//! what `closed` does.

use std::collections::HashMap;
use std::sync::Arc;

use c1m::{
    Broadcast, CloseReason, ConnId, Ctx, Mailbox, Members, PortSharing, Ports, Reply, Result, Server, Service,
    ShardInfo,
};

/// Longest line, and longest name of a person or a room, in bytes. A longer line closes the connection.
const LINE: usize = 512;
const NAME: usize = 32;

const HELP: &[u8] = b"* /name NAME, /join ROOM, /who or /quit; anything else is said in the room\n";

/// What each connection keeps in its row.
#[derive(Default)]
struct Guest {
    /// The start of a line that is not whole yet.
    partial: Vec<u8>,
    name: Option<Box<str>>,
    room: Option<Arc<str>>,
}

/// What one shard tells the others.
#[derive(Clone)]
struct Said {
    room: Arc<str>,
    line: Arc<[u8]>,
}

/// One shard's part.
struct Chat {
    mailbox: Mailbox<Said>,
    /// The guests of this shard in each room. A room without any is not here.
    rooms: HashMap<Arc<str>, Members>,
}

impl Chat {
    fn new(shard: &ShardInfo<Said>) -> Chat {
        Chat { mailbox: shard.mailbox(), rooms: HashMap::new() }
    }

    /// Carries out one line. Returns false if the connection is to be closed.
    fn line(&mut self, ctx: &mut Ctx<'_, Guest>, conn: ConnId, line: &str) -> bool {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        let is_name = !rest.is_empty() && rest.len() <= NAME;
        match command {
            "/name" if is_name => {
                let before = ctx.state(conn).and_then(|guest| guest.name.replace(rest.into()));
                match before {
                    Some(before) => self.say(ctx, conn, &format!("* {before} is now {rest}\n")),
                    None => ctx.send(conn, format!("* welcome, {rest}\n").as_bytes()),
                }
            }
            "/join" if is_name => {
                let Some(name) = name_of(ctx, conn) else { return true };
                self.leave(ctx, conn);
                let room: Arc<str> = rest.into();
                self.rooms.entry(room.clone()).or_default().insert(conn);
                if let Some(guest) = ctx.state(conn) {
                    guest.room = Some(room.clone());
                }
                ctx.send(conn, format!("* you are in {room}\n").as_bytes());
                self.say(ctx, conn, &format!("* {name} has come\n"));
            }
            "/who" => {
                let here: Vec<_> = ctx.connections().filter_map(|(_, guest)| guest.name.as_deref()).collect();
                let line = format!("* {} guests on this shard: {}\n", here.len(), here.join(", "));
                ctx.send(conn, line.as_bytes());
            }
            "/quit" => return false,
            "" => {}
            _ if command.starts_with('/') => ctx.send(conn, HELP),
            _ => {
                if let Some(name) = name_of(ctx, conn) {
                    self.say(ctx, conn, &format!("{name}: {line}\n"));
                }
            }
        }
        true
    }

    /// Tells everyone else in the guest's room, on every shard.
    fn say(&mut self, ctx: &mut Ctx<'_, Guest>, conn: ConnId, line: &str) {
        let Some(room) = ctx.state(conn).and_then(|guest| guest.room.clone()) else { return };
        let said = Said { room, line: line.as_bytes().into() };
        let here = ctx.shard();
        for shard in (0..ctx.shards()).filter(|shard| *shard != here) {
            // A shard whose mailbox is full does not get it, and the speaker is told.
            if self.mailbox.try_send(shard, said.clone()).is_err() {
                ctx.send(conn, b"* not everyone has heard that\n");
            }
        }
        self.tell(ctx, &said, Some(conn));
    }

    /// Tells the guests of this shard in a room.
    fn tell(&mut self, ctx: &mut Ctx<'_, Guest>, said: &Said, except: Option<ConnId>) {
        let Some(members) = self.rooms.get(&said.room) else { return };
        let mut broadcast = Broadcast::to_members(said.line.clone(), members);
        if let Some(speaker) = except {
            broadcast = broadcast.except(speaker);
        }
        // It is given back when 4,096 others are under way, or 64 MiB of them. Then the guests of this shard do not get it.
        let _ = ctx.broadcast(broadcast);
    }

    fn leave(&mut self, ctx: &mut Ctx<'_, Guest>, conn: ConnId) {
        let Some(name) = ctx.state(conn).and_then(|guest| guest.name.clone()) else { return };
        self.say(ctx, conn, &format!("* {name} has left\n"));
        let Some(room) = ctx.state(conn).and_then(|guest| guest.room.take()) else { return };
        if let Some(members) = self.rooms.get_mut(&room) {
            members.remove(conn);
            if members.is_empty() {
                self.rooms.remove(&room);
            }
        }
    }
}

/// The guest's name; one without a name is asked for it.
fn name_of(ctx: &mut Ctx<'_, Guest>, conn: ConnId) -> Option<Box<str>> {
    let name = ctx.state(conn).and_then(|guest| guest.name.clone());
    if name.is_none() {
        ctx.send(conn, b"* say /name NAME first\n");
    }
    name
}

impl Service for Chat {
    type State = Guest;
    type Message = Said;

    fn opened(&mut self, ctx: &mut Ctx<'_, Guest>, conn: ConnId) {
        ctx.send(conn, HELP);
    }

    fn received(&mut self, ctx: &mut Ctx<'_, Guest>, conn: ConnId, data: &mut [u8]) -> Reply {
        let mut partial = ctx.state(conn).map(|guest| std::mem::take(&mut guest.partial)).unwrap_or_default();
        let mut rest = &*data;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            partial.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            let line = String::from_utf8_lossy(&partial).trim_end().to_owned();
            if partial.len() > LINE || !self.line(ctx, conn, &line) {
                return Reply::Close;
            }
            // An idle guest keeps no heap for its next line.
            partial = Vec::new();
        }
        partial.extend_from_slice(rest);
        if partial.len() > LINE {
            return Reply::Close;
        }
        if let Some(guest) = ctx.state(conn) {
            guest.partial = partial;
        }
        Reply::Nothing
    }

    fn message(&mut self, ctx: &mut Ctx<'_, Guest>, said: Said) {
        self.tell(ctx, &said, None);
    }

    fn closed(&mut self, ctx: &mut Ctx<'_, Guest>, conn: ConnId, _: CloseReason) {
        self.leave(ctx, conn);
    }
}

fn main() -> Result<()> {
    let port = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(9000);
    let builder = Server::builder().ports(Ports::new(port, 1)?).port_sharing(PortSharing::All);
    let server = builder.max_connections(100_000).start(|shard| Chat::new(&shard))?;
    println!("ready on port {port}, {} shards", server.mailbox().shards());
    // Serves until a shard fails; Ctrl-C ends the process.
    server.wait(|event| eprintln!("{event:?}"));
    server.stop();
    server.join().map(drop)
}
