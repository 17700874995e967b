//! A gateway with a binary protocol: login, heartbeats, messages from user to user, kicks, counters of its own.
//!
//!     cargo run --release --example gateway -- 9000 30 127.0.0.1:9187
//!                                             (port, heartbeat in seconds, where the metrics are)
//!
//! A frame is its length in two bytes (big endian, without these two), one byte that says what it is, and the rest:
//!
//! | from the client | means | the answer |
//! |---|---|---|
//! | 1 `user NUL secret` | log in; first of all, within 5 s | 128, or 129 and the end |
//! | 2 | heartbeat | 130 |
//! | 3 `user NUL text` | text for a user | none; the user gets 131 `user NUL text`, with the sender's name |
//! | 4 `user` | kick a user; for `admin` alone | 128; the user gets 132, and the end |
//!
//! It shows deadlines without timers, messages to a user wherever the user is, and counters in the metrics.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use c1m::{
    CloseMode, CloseReason, ConnId, CounterId, Ctx, Mailbox, PortSharing, Ports, Reply, Result, Server, ServerEvent,
    Service, ShardInfo,
};

/// Bytes of a frame at most, without its length. A longer one closes the connection.
const FRAME: usize = 1_024;

/// How long a connection may take to log in.
const LOGIN: Duration = Duration::from_secs(5);

/// What each connection keeps in its row.
#[derive(Default)]
struct Session {
    /// The start of a frame that is not whole yet.
    partial: Vec<u8>,
    /// The name of the user; `None` before the login.
    user: Option<Box<str>>,
}

/// What one shard asks of the others.
#[derive(Clone)]
enum Request {
    /// Deliver this frame to a user, if the user is yours.
    Deliver(Box<str>, Vec<u8>),
    /// Kick a user, if the user is yours: by an admin, or as the user has come again elsewhere.
    Kick(Box<str>),
}

/// What the gateway counts beside what every server does.
#[derive(Clone, Copy)]
struct Counts {
    logins: CounterId,
    refused: CounterId,
    missed: CounterId,
    kicks: CounterId,
    lost: CounterId,
}

/// One shard's part.
struct Gateway {
    mailbox: Mailbox<Request>,
    heartbeat: Duration,
    counts: Counts,
    /// The users of this shard.
    users: HashMap<Box<str>, ConnId>,
}

impl Gateway {
    fn new(shard: &ShardInfo<Request>, heartbeat: Duration, counts: Counts) -> Gateway {
        Gateway { mailbox: shard.mailbox(), heartbeat, counts, users: HashMap::new() }
    }

    /// Carries out one frame. Returns false if the connection is to be closed.
    fn frame(&mut self, ctx: &mut Ctx<'_, Session>, conn: ConnId, kind: u8, rest: &[u8]) -> bool {
        let Some(session) = ctx.state(conn) else { return false };
        match (kind, session.user.clone()) {
            (1, None) => return self.login(ctx, conn, rest),
            (2, Some(_)) => send(ctx, conn, 130, b""),
            (3, Some(sender)) => {
                let Some((user, text)) = split(rest) else { return false };
                let frame = [sender.as_bytes(), b"\0", text].concat();
                self.ask_all(ctx, Request::Deliver(user, frame));
            }
            (4, Some(user)) if &*user == "admin" => {
                let Ok(user) = std::str::from_utf8(rest) else { return false };
                self.ask_all(ctx, Request::Kick(user.into()));
                send(ctx, conn, 128, b"");
            }
            _ => return false,
        }
        true
    }

    fn login(&mut self, ctx: &mut Ctx<'_, Session>, conn: ConnId, rest: &[u8]) -> bool {
        let known = split(rest).filter(|(user, secret)| secret_of(user).as_bytes() == *secret);
        let Some((user, _)) = known else {
            ctx.count(self.counts.refused, 1);
            send(ctx, conn, 129, b"");
            return false;
        };
        // A user is here once: the connection before gives way, on whatever shard it is.
        self.ask_all(ctx, Request::Kick(user.clone()));
        ctx.count(self.counts.logins, 1);
        if let Some(session) = ctx.state(conn) {
            session.user = Some(user.clone());
        }
        self.users.insert(user, conn);
        send(ctx, conn, 128, b"");
        true
    }

    /// Asks every shard; what is for this one is done at once, so that it comes before what follows.
    fn ask_all(&mut self, ctx: &mut Ctx<'_, Session>, request: Request) {
        let here = ctx.shard();
        for shard in (0..ctx.shards()).filter(|shard| *shard != here) {
            if self.mailbox.try_send(shard, request.clone()).is_err() {
                ctx.count(self.counts.lost, 1);
            }
        }
        self.carry_out(ctx, request);
    }

    fn carry_out(&mut self, ctx: &mut Ctx<'_, Session>, request: Request) {
        match request {
            Request::Deliver(user, frame) => {
                if let Some(conn) = self.users.get(&user) {
                    send(ctx, *conn, 131, &frame);
                }
            }
            Request::Kick(user) => {
                if let Some(conn) = self.users.remove(&user) {
                    ctx.count(self.counts.kicks, 1);
                    // A peer that does not read would keep a graceful close waiting for ever.
                    let mode = if ctx.pending(conn) > 0 { CloseMode::Abort } else { CloseMode::Graceful };
                    send(ctx, conn, 132, b"");
                    ctx.close(conn, mode);
                }
            }
        }
    }
}

impl Service for Gateway {
    type State = Session;
    type Message = Request;

    fn opened(&mut self, ctx: &mut Ctx<'_, Session>, conn: ConnId) {
        ctx.set_deadline(conn, Some(LOGIN.min(self.heartbeat)));
    }

    fn received(&mut self, ctx: &mut Ctx<'_, Session>, conn: ConnId, data: &mut [u8]) -> Reply {
        let mut bytes = ctx.state(conn).map(|session| std::mem::take(&mut session.partial)).unwrap_or_default();
        bytes.extend_from_slice(data);
        let mut rest = &*bytes;
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            if length == 0 || length > FRAME {
                return Reply::Close;
            }
            let Some((frame, after)) = after.split_at_checked(length) else { break };
            rest = after;
            if !self.frame(ctx, conn, frame[0], &frame[1..]) {
                return Reply::Close;
            }
        }
        if let Some(session) = ctx.state(conn) {
            session.partial = rest.to_vec();
            // Only a user who has logged in extends the deadline by sending.
            if session.user.is_some() {
                ctx.set_deadline(conn, Some(self.heartbeat));
            }
        }
        Reply::Nothing
    }

    fn message(&mut self, ctx: &mut Ctx<'_, Session>, request: Request) {
        self.carry_out(ctx, request);
    }

    fn closed(&mut self, ctx: &mut Ctx<'_, Session>, conn: ConnId, reason: CloseReason) {
        if reason == CloseReason::Deadline {
            ctx.count(self.counts.missed, 1);
        }
        let Some(user) = ctx.state(conn).and_then(|session| session.user.take()) else { return };
        // The user may have come again meanwhile.
        if self.users.get(&user) == Some(&conn) {
            self.users.remove(&user);
        }
    }
}

fn send(ctx: &mut Ctx<'_, Session>, conn: ConnId, kind: u8, rest: &[u8]) {
    let length = (1 + rest.len()) as u16;
    ctx.send(conn, &[&length.to_be_bytes()[..], &[kind], rest].concat());
}

/// A user's name, and what follows the NUL behind it.
fn split(rest: &[u8]) -> Option<(Box<str>, &[u8])> {
    let end = rest.iter().position(|byte| *byte == 0)?;
    Some((std::str::from_utf8(&rest[..end]).ok()?.into(), &rest[end + 1..]))
}

/// A gateway would ask its own accounts.
fn secret_of(user: &str) -> String {
    format!("{user}'s secret")
}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let port = words.next().and_then(|word| word.parse().ok()).unwrap_or(9000);
    let heartbeat = Duration::from_secs(words.next().and_then(|word| word.parse().ok()).unwrap_or(30));
    let metrics: Option<SocketAddr> = words.next().and_then(|word| word.parse().ok());
    let mut builder = Server::builder().ports(Ports::new(port, 1)?).port_sharing(PortSharing::All);
    let counts = Counts {
        logins: builder.counter("gateway_logins", "Users who logged in.")?,
        refused: builder.counter("gateway_refused_logins", "Logins with a wrong secret.")?,
        missed: builder
            .counter("gateway_missed_heartbeats", "Connections closed for want of a heartbeat or a login.")?,
        kicks: builder.counter("gateway_kicks", "Connections closed by an admin or for a newer one of the user.")?,
        lost: builder.counter("gateway_lost_requests", "Requests that found the mailbox of another shard full.")?,
    };
    builder = builder.max_connections(100_000);
    if let Some(address) = metrics {
        builder = builder.metrics(address);
    }
    let server = builder.start(move |shard| Gateway::new(&shard, heartbeat, counts))?;
    println!("ready on port {port}, metrics: {}", server.metrics_url().as_deref().unwrap_or("none"));
    // Serves until a shard fails; Ctrl-C ends the process.
    for event in server.events().iter() {
        match event {
            ServerEvent::ShardEnded(_) => break,
            other => eprintln!("{other:?}"),
        }
    }
    server.stop();
    server.join().map(drop)
}
