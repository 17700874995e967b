//! A gateway with a binary protocol: login, heartbeats, messages from user to user, kicks, counters of its own.
//!
//!     cargo run --release --example gateway -- 9000 30 127.0.0.1:9187
//!                                             (port, heartbeat in seconds, where the metrics are)
//!
//! A frame is its length in two bytes (big endian, without these two), one byte that says what it is, and the rest:
//!
//! | from the client | means | the answer |
//! |---|---|---|
//! | 1 `user NUL secret` | log in; first of all, within 5 s, or within the heartbeat if that is shorter | 128, or 129 and the end |
//! | 2 | heartbeat | 130 |
//! | 3 `user NUL text` | text for a user | none; the user gets 131 `user NUL text`, with the sender's name |
//! | 4 `user` | kick a user; for `admin` alone | 128; the user gets 132, and the end |
//!
//! It shows deadlines without timers, logins that another thread checks, messages to a user wherever the user is, and
//! counters in the metrics. It does not use `ServerBuilder::takeover`: with that, `hand_over` must do what `closed`
//! does.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use c1m::{
    CloseMode, CloseReason, ConnId, CounterId, Ctx, Mailbox, PortSharing, Ports, Reply, Result, Server, Service,
    ShardInfo,
};

/// Bytes of a frame at most, without its length. A longer one closes the connection.
const FRAME: usize = 1_024;

/// Bytes that are kept of a connection at most while its login is checked. One that sends more is closed.
const UNREAD: usize = 4_096;

/// How long a connection may take to log in.
const LOGIN: Duration = Duration::from_secs(5);

/// Logins that wait for their check at most. Beyond it a login is refused.
const CHECKS: usize = 1_024;

/// What each connection keeps in its row.
#[derive(Default)]
struct Session {
    /// What has come and is not carried out: the start of a frame, or what follows a login that is being checked.
    unread: Vec<u8>,
    stage: Stage,
}

/// How far a connection is.
#[derive(Default)]
enum Stage {
    #[default]
    Stranger,
    /// Its login is being checked. No further frame is carried out meanwhile.
    Checking,
    /// A user of this name.
    User(Box<str>),
    /// It was refused or kicked, and is being closed. No further frame is carried out.
    Ended,
}

/// A login, and who asks for its check.
struct Check {
    shard: usize,
    conn: ConnId,
    user: Box<str>,
    secret: Vec<u8>,
}

/// What a shard is asked for, by the other shards and by the thread that checks logins.
#[derive(Clone)]
enum Request {
    /// The login of this connection is checked.
    Checked { conn: ConnId, user: Box<str>, is_right: bool },
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
    checks: SyncSender<Check>,
    heartbeat: Duration,
    counts: Counts,
    /// The users of this shard.
    users: HashMap<Box<str>, ConnId>,
}

impl Gateway {
    fn new(shard: &ShardInfo<Request>, checks: SyncSender<Check>, heartbeat: Duration, counts: Counts) -> Gateway {
        Gateway { mailbox: shard.mailbox(), checks, heartbeat, counts, users: HashMap::new() }
    }

    /// Carries out the frames that have come whole, up to a login, which has to be checked first. Returns false if the
    /// connection is to be closed.
    fn frames(&mut self, ctx: &mut Ctx<'_, Session>, conn: ConnId) -> bool {
        let unread = ctx.state(conn).map(|session| std::mem::take(&mut session.unread)).unwrap_or_default();
        let mut rest = &*unread;
        while is_heard(ctx, conn)
            && let Some((length, after)) = rest.split_first_chunk::<2>()
        {
            let length = usize::from(u16::from_be_bytes(*length));
            if length == 0 || length > FRAME {
                return false;
            }
            let Some((frame, after)) = after.split_at_checked(length) else { break };
            rest = after;
            if !self.frame(ctx, conn, frame[0], &frame[1..]) {
                return false;
            }
        }
        let Some(session) = ctx.state(conn) else { return true };
        session.unread = rest.to_vec();
        let (is_user, fits) = (matches!(session.stage, Stage::User(_)), session.unread.len() <= UNREAD);
        // Only a user who has logged in extends the deadline by sending.
        if is_user {
            ctx.set_deadline(conn, Some(self.heartbeat));
        }
        fits
    }

    /// Carries out one frame. Returns false if the connection is to be closed.
    fn frame(&mut self, ctx: &mut Ctx<'_, Session>, conn: ConnId, kind: u8, rest: &[u8]) -> bool {
        let user = match ctx.state(conn).map(|session| &session.stage) {
            Some(Stage::Stranger) if kind == 1 => {
                self.check(ctx, conn, rest);
                return true;
            }
            Some(Stage::User(user)) => user.clone(),
            _ => return false,
        };
        match kind {
            2 => send(ctx, conn, 130, b""),
            3 => {
                let Some((to, text)) = split(rest) else { return false };
                let frame = [user.as_bytes(), b"\0", text].concat();
                self.ask_all(ctx, Request::Deliver(to, frame));
            }
            4 if &*user == "admin" => {
                let Ok(user) = std::str::from_utf8(rest) else { return false };
                send(ctx, conn, 128, b"");
                self.ask_all(ctx, Request::Kick(user.into()));
            }
            _ => return false,
        }
        true
    }

    /// Has a login checked. `checked` is called with the answer.
    fn check(&mut self, ctx: &mut Ctx<'_, Session>, conn: ConnId, rest: &[u8]) {
        let Some((user, secret)) = split(rest) else { return self.refuse(ctx, conn) };
        let check = Check { shard: ctx.shard(), conn, user, secret: secret.to_vec() };
        // A shard must not wait: not even for a place in the queue.
        if self.checks.try_send(check).is_err() {
            return self.refuse(ctx, conn);
        }
        if let Some(session) = ctx.state(conn) {
            session.stage = Stage::Checking;
        }
    }

    /// Refuses a login, and ends its connection.
    fn refuse(&mut self, ctx: &mut Ctx<'_, Session>, conn: ConnId) {
        ctx.count(self.counts.refused, 1);
        end(ctx, conn, 129);
    }

    /// A login was checked. Returns false if the connection is to be closed.
    fn checked(&mut self, ctx: &mut Ctx<'_, Session>, conn: ConnId, user: Box<str>, is_right: bool) -> bool {
        // The connection may have ended meanwhile.
        if !ctx.is_open(conn) {
            return true;
        }
        if !is_right {
            self.refuse(ctx, conn);
            return true;
        }
        if let Some(session) = ctx.state(conn) {
            session.stage = Stage::User(user.clone());
        }
        // A user is here once: the connection before gives way, on whatever shard it is.
        self.ask_all(ctx, Request::Kick(user.clone()));
        ctx.count(self.counts.logins, 1);
        self.users.insert(user, conn);
        send(ctx, conn, 128, b"");
        self.frames(ctx, conn)
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
            Request::Checked { conn, user, is_right } => {
                if !self.checked(ctx, conn, user, is_right) {
                    ctx.close(conn, CloseMode::Graceful);
                }
            }
            Request::Deliver(user, frame) => {
                if let Some(conn) = self.users.get(&user) {
                    send(ctx, *conn, 131, &frame);
                }
            }
            Request::Kick(user) => {
                if let Some(conn) = self.users.remove(&user) {
                    ctx.count(self.counts.kicks, 1);
                    end(ctx, conn, 132);
                }
            }
        }
    }
}

/// Whether further frames of a connection are carried out.
fn is_heard(ctx: &mut Ctx<'_, Session>, conn: ConnId) -> bool {
    ctx.state(conn).is_some_and(|session| matches!(session.stage, Stage::Stranger | Stage::User(_)))
}

/// Tells a peer by a last frame that its connection ends, and closes it.
fn end(ctx: &mut Ctx<'_, Session>, conn: ConnId, kind: u8) {
    if let Some(session) = ctx.state(conn) {
        session.stage = Stage::Ended;
    }
    send(ctx, conn, kind, b"");
    // The peer may still send. After a graceful close the kernel would answer that with a RST, which may overtake the
    // frame. A peer that does not read is reset when its deadline passes: see the default of `expired`.
    ctx.close(conn, CloseMode::Lingering);
}

impl Service for Gateway {
    type State = Session;
    type Message = Request;

    fn opened(&mut self, ctx: &mut Ctx<'_, Session>, conn: ConnId) {
        ctx.set_deadline(conn, Some(LOGIN.min(self.heartbeat)));
    }

    fn received(&mut self, ctx: &mut Ctx<'_, Session>, conn: ConnId, data: &mut [u8]) -> Reply {
        if let Some(session) = ctx.state(conn) {
            session.unread.extend_from_slice(data);
        }
        if self.frames(ctx, conn) { Reply::Nothing } else { Reply::Close }
    }

    fn message(&mut self, ctx: &mut Ctx<'_, Session>, request: Request) {
        self.carry_out(ctx, request);
    }

    fn closed(&mut self, ctx: &mut Ctx<'_, Session>, conn: ConnId, reason: CloseReason) {
        let stage = ctx.state(conn).map(|session| std::mem::take(&mut session.stage)).unwrap_or_default();
        // The deadline of a connection that was refused or kicked may pass while its last frame waits for the peer.
        if reason == CloseReason::Deadline && !matches!(stage, Stage::Ended) {
            ctx.count(self.counts.missed, 1);
        }
        let Stage::User(user) = stage else { return };
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

/// Checks logins on a thread of its own, which may wait: for a database, say. Ends when the last shard has ended.
fn check_logins(checks: Receiver<Check>, mailbox: Mailbox<Request>) {
    for Check { shard, conn, user, secret } in checks {
        let is_right = secret_of(&user).as_bytes() == secret;
        // Waits for room in the shard's mailbox. It fails only if the shard has ended.
        let _ = mailbox.send(shard, Request::Checked { conn, user, is_right });
    }
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
        refused: builder.counter(
            "gateway_refused_logins",
            "Logins that were refused: a wrong secret, no NUL, or too many checks waiting.",
        )?,
        missed: builder
            .counter("gateway_missed_heartbeats", "Connections closed for want of a heartbeat or a login.")?,
        kicks: builder.counter("gateway_kicks", "Connections closed by an admin or for a newer one of the user.")?,
        lost: builder.counter("gateway_lost_requests", "Requests that found the mailbox of another shard full.")?,
    };
    builder = builder.max_connections(100_000);
    if let Some(address) = metrics {
        builder = builder.metrics(address);
    }
    let (checks, to_check) = mpsc::sync_channel(CHECKS);
    let server = builder.start(move |shard| Gateway::new(&shard, checks.clone(), heartbeat, counts))?;
    // Logins that come before it begins wait in the channel.
    let mailbox = server.mailbox();
    thread::spawn(move || check_logins(to_check, mailbox));
    println!("ready on port {port}, metrics: {}", server.metrics_url().as_deref().unwrap_or("none"));
    // Serves until a shard fails; Ctrl-C ends the process.
    server.wait(|event| eprintln!("{event:?}"));
    server.stop();
    server.join().map(drop)
}
