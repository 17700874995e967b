//! A chat over WebSocket: what one guest says, all others in the room read, on whichever shards they are.
//!
//!     cargo run --release --example websocket_chat -- 9000
//!
//! Then in the console of a browser, or in two:
//!
//!     let chat = new WebSocket("ws://127.0.0.1:9000/kitchen?name=ada");
//!     chat.onmessage = message => console.log(message.data);
//!     chat.send("hello");
//!
//! The path is the room. It shows the choice at the upgrade, state per connection, a broadcast of one frame, and the
//! mailbox that carries it to the other shards. `curl 127.0.0.1:9000/healthz` asks whether it is alive. It does not use
//! `ServerBuilder::takeover`: with that, `hand_over` must do what `closed` does.

use std::collections::HashMap;
use std::sync::Arc;

use c1m::http::{Request, Response};
use c1m::websocket::{Answer, CloseCode, Ending, Frame, Upgrade, WebSocket, WebSocketCtx, WebSocketService};
use c1m::{Broadcast, ConnId, Mailbox, Members, PortSharing, Ports, Result, Server, ShardInfo};

/// Longest name of a guest or a room, in bytes.
const NAME: usize = 32;

/// What each connection keeps in its row.
#[derive(Default)]
struct Guest {
    name: Box<str>,
    room: Option<Arc<str>>,
}

/// What one shard tells the others.
#[derive(Clone)]
struct Said {
    room: Arc<str>,
    frame: Frame,
}

/// One shard's part.
struct Chat {
    mailbox: Mailbox<Said>,
    /// The guests of this shard in each room. A room without any is not here.
    rooms: HashMap<Arc<str>, Members>,
}

/// The room and the name in a request: `/ROOM?name=NAME`.
fn asked<'r>(request: &Request<'r>) -> Option<(&'r str, &'r str)> {
    let (room, query) = request.target().strip_prefix('/')?.split_once('?')?;
    let name = query.strip_prefix("name=")?;
    let fits = |word: &str| !word.is_empty() && word.len() <= NAME && word.bytes().all(|b| b.is_ascii_alphanumeric());
    (fits(room) && fits(name)).then_some((room, name))
}

impl Chat {
    fn new(shard: &ShardInfo<Said>) -> Chat {
        Chat { mailbox: shard.mailbox(), rooms: HashMap::new() }
    }

    /// Tells everyone else in the guest's room, on every shard.
    fn say(&mut self, ctx: &mut WebSocketCtx<'_, Guest>, conn: ConnId, text: &str) {
        let Some(room) = ctx.state(conn).and_then(|guest| guest.room.clone()) else { return };
        let said = Said { room, frame: Frame::text(text) };
        let here = ctx.shard();
        for shard in (0..ctx.shards()).filter(|shard| *shard != here) {
            // A shard whose mailbox is full does not get it, and the speaker is told.
            if self.mailbox.try_send(shard, said.clone()).is_err() {
                ctx.send_text(conn, "* not everyone has heard that");
            }
        }
        self.tell(ctx, &said, Some(conn));
    }

    /// Tells the guests of this shard in a room.
    fn tell(&mut self, ctx: &mut WebSocketCtx<'_, Guest>, said: &Said, except: Option<ConnId>) {
        let Some(members) = self.rooms.get(&said.room) else { return };
        let mut broadcast = Broadcast::to_members(said.frame.clone(), members);
        if let Some(speaker) = except {
            broadcast = broadcast.except(speaker);
        }
        // It is given back when 4,096 others are under way, or 64 MiB of them. Then the guests of this shard do not get it.
        let _ = ctx.broadcast(broadcast);
    }
}

impl WebSocketService for Chat {
    type State = Guest;
    type Message = Said;

    fn upgrade(&mut self, _: &mut WebSocketCtx<'_, Guest>, _: ConnId, request: &Request<'_>) -> Upgrade {
        match asked(request) {
            Some(_) => Upgrade::accept(),
            None => Upgrade::Refuse(Response::text(404, "try /ROOM?name=NAME\n")),
        }
    }

    fn opened(&mut self, ctx: &mut WebSocketCtx<'_, Guest>, conn: ConnId, request: &Request<'_>) {
        // `upgrade` has accepted it.
        let Some((room, name)) = asked(request) else { return };
        let room: Arc<str> = room.into();
        self.rooms.entry(room.clone()).or_default().insert(conn);
        if let Some(guest) = ctx.state(conn) {
            *guest = Guest { name: name.into(), room: Some(room) };
        }
        ctx.send_text(conn, &format!("* welcome, {name}"));
        self.say(ctx, conn, &format!("* {name} has come"));
    }

    fn text(&mut self, ctx: &mut WebSocketCtx<'_, Guest>, conn: ConnId, text: &str) -> Answer {
        let Some(name) = ctx.state(conn).map(|guest| guest.name.clone()) else { return Answer::Nothing };
        self.say(ctx, conn, &format!("{name}: {text}"));
        Answer::Nothing
    }

    fn binary(&mut self, _: &mut WebSocketCtx<'_, Guest>, _: ConnId, _: &mut [u8]) -> Answer {
        Answer::Close(CloseCode::UNSUPPORTED)
    }

    fn message(&mut self, ctx: &mut WebSocketCtx<'_, Guest>, said: Said) {
        self.tell(ctx, &said, None);
    }

    fn closed(&mut self, ctx: &mut WebSocketCtx<'_, Guest>, conn: ConnId, _: Ending<'_>) {
        let Some(name) = ctx.state(conn).map(|guest| guest.name.clone()) else { return };
        self.say(ctx, conn, &format!("* {name} has left"));
        let Some(room) = ctx.state(conn).and_then(|guest| guest.room.take()) else { return };
        if let Some(members) = self.rooms.get_mut(&room) {
            members.remove(conn);
            if members.is_empty() {
                self.rooms.remove(&room);
            }
        }
    }
}

fn main() -> Result<()> {
    let port = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(9000);
    let builder = Server::builder().ports(Ports::new(port, 1)?).port_sharing(PortSharing::All);
    let server = builder.max_connections(100_000).start(|shard| WebSocket::new(Chat::new(&shard)))?;
    println!("ready on port {port}, {} shards", server.mailbox().shards());
    // Serves until a shard fails; Ctrl-C ends the process.
    server.wait(|event| eprintln!("{event:?}"));
    server.stop();
    server.join().map(drop)
}
