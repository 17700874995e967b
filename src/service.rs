//! What a server does with its connections: the trait that a gateway's author implements, and what its calls are given.
//! `http` and `websocket` make a service of bytes of one of requests, or of messages.

mod broadcast;
mod builtin;
mod conversation;
mod ctx;
mod deadlines;
pub mod http;
mod members;
pub mod push;
mod shared_calls;
mod slab;
mod slot_table;
pub mod websocket;

use std::time::Duration;

pub use broadcast::Broadcast;
pub use builtin::{Echo, Sink};
pub use conversation::Conversation;
pub(crate) use ctx::ShardContext;
pub use ctx::{CounterId, Ctx};
pub use members::Members;

pub use crate::reply::Reply;

use crate::connections::{CloseMode, CloseReason};
use crate::stats::Spoken;
use crate::token::ConnId;

/// What a service of c1m has written of a connection that goes to another process, read and written again by each that
/// can read it.
#[cfg(all(any(test, fuzzing), feature = "cli"))]
pub(crate) fn rewritten(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    if let Some(carried) = conversation::Carried::read(bytes) {
        let mut written = Vec::new();
        carried.write(&mut written);
        all.push(written);
    }
    if let Some((handover, rest)) = push::Handover::read(bytes) {
        let mut written = Vec::new();
        handover.write(&mut written);
        written.extend_from_slice(rest);
        all.push(written);
    }
    all
}

/// What a server does with its connections. Each shard has one value of its own, on its own thread: nothing in it is
/// locked or shared, and no call of one shard runs while another of the same shard does.
///
/// Every call runs on the thread that carries all connections of its shard, so none may block. A call that panics must
/// end the process: [how to build for that](crate#panics). What a call asks for (bytes, closes, broadcasts) goes
/// through its `Ctx`, to connections of the same shard. Messages to other shards go through a
/// [`Mailbox`](crate::mailbox::Mailbox).
///
/// The order of calls for one connection: `opened` or `taken_over` once; then `received`, `sent`, `expired`, `slept`
/// and `woke` in any order and number; `stopping` if the server stops; then `closed` or `hand_over` once. If a
/// successor is killed, `taken_over` may follow `hand_over`.
pub trait Service: 'static {
    /// Kept in each connection's row, beside the shard's own 12 bytes. Reached by `Ctx::state`; `Default` makes it anew
    /// for each connection, and it is dropped after `closed`. It stays on the shard's thread, so it needs no `Send`.
    type State: Default + 'static;

    /// What the server's mailbox carries from thread to thread, hence `Send`; `()` where there is no need for one.
    type Message: Send + 'static;

    /// What its connections speak, for the metrics.
    #[doc(hidden)]
    const SPOKEN: Spoken = Spoken { http: false, websocket: false, push: false };

    /// Its name, if it is one that c1m has built in: a successor of another name takes nothing over.
    #[doc(hidden)]
    const NAME: &'static str = "a service of its own";

    /// Bytes of the longest message that its limits allow, as it is sent: `ServerBuilder::max_pending` is raised to them.
    #[doc(hidden)]
    fn longest_send(&self) -> usize {
        0
    }

    /// A connection was accepted. With TLS its handshake is over, and [`Ctx::tls`] tells here what it has agreed on.
    fn opened(&mut self, _ctx: &mut Ctx<'_, Self::State>, _conn: ConnId) {}

    /// Bytes came: 1 to 4,096 at a time, or with TLS 1 to 16,384, which are those of one record; cut wherever the
    /// network, or the peer's TLS, cut them. No further receive of this connection begins until the reply is sent, so a
    /// peer that does not read is not read from either. With TLS one receive may bring several records; this call is
    /// made for each of them, one after the other, before the replies have left. [`Ctx::pause_reads`] stops receiving
    /// for longer.
    fn received(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId, data: &mut [u8]) -> Reply;

    /// The kernel has taken all bytes of the connection. It is called only if some had to wait because the peer did not
    /// read or no slot was free for a sleeping connection, or after [`Ctx::pending`] returned more than 0.
    fn sent(&mut self, _ctx: &mut Ctx<'_, Self::State>, _conn: ConnId) {}

    /// A silent connection was put to sleep (`ServerBuilder::hibernate`): it has no socket until it wakes. The service
    /// need not do anything: a send wakes it. Only `Ctx::pause_reads` may fail now, because no slot is free.
    fn slept(&mut self, _ctx: &mut Ctx<'_, Self::State>, _conn: ConnId) {}

    /// A sleeping connection was woken: its peer sent something, which `received` brings next, or something is sent to
    /// it. After one short message it sleeps again at once.
    fn woke(&mut self, _ctx: &mut Ctx<'_, Self::State>, _conn: ConnId) {}

    /// The deadline that `Ctx::set_deadline` set has passed, and is no longer set. The default closes the connection:
    /// gracefully, or with a reset if it has bytes waiting, as those of a peer that does not read might wait for ever.
    fn expired(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId) {
        let mode = ctx.late_close_mode(conn, CloseMode::Graceful);
        ctx.close(conn, mode);
    }

    /// The server stops, and is about to close this connection (`CloseMode::Immediate`, with `CloseReason::Stopping`).
    /// What is sent here goes out before the FIN, if the socket has room for it. Sending to a sleeping connection would
    /// wake it. The default says nothing.
    fn stopping(&mut self, _ctx: &mut Ctx<'_, Self::State>, _conn: ConnId) {}

    /// The connection is about to go to another process, a successor of this server (`ServerBuilder::takeover`). What is
    /// written to `state` is given to `taken_over` there. After this call the connection is gone here: `closed` is not
    /// called, so take it out of your sets and maps, and what is sent to it is dropped. Should the successor be killed
    /// before it has the connection, `taken_over` is called here instead.
    ///
    /// A sleeping connection is handed over too, without a wake. This call is made for up to 2,048 sleeping connections
    /// in a row (up to 16,384 if nothing is written for them), and the shard serves nothing else meanwhile: keep it
    /// short.
    fn hand_over(&mut self, _ctx: &mut Ctx<'_, Self::State>, _conn: ConnId, _state: &mut Vec<u8>) {}

    /// The connection came from another process, in the place of `opened`: its peer noticed nothing. `state` is what
    /// `hand_over` wrote there; it is empty if that process was killed, or wrote nothing. Where connections sleep, the
    /// connection keeps its `ConnId`; otherwise it gets a new one. An earlier version of the program, or another
    /// service of your own, may have written `state`: begin what you write with a version byte.
    fn taken_over(&mut self, _ctx: &mut Ctx<'_, Self::State>, _conn: ConnId, _state: &[u8]) {}

    /// A successor of this server has come (`ServerBuilder::takeover`), and connections are about to go to it: from now
    /// on `Ctx::is_divided`. It is called about every millisecond until it returns `true`. After two seconds the
    /// takeover no longer waits for it, but calls may go on while a broadcast is under way. A service that sends to
    /// connections of all shards begins nothing of that kind any more here, and is ready once what it has begun has
    /// reached the last shard. No connection is then reached twice, or not at all, because of the takeover.
    fn may_divide(&mut self, _ctx: &mut Ctx<'_, Self::State>) -> bool {
        true
    }

    /// All connections of this shard have gone to the successor, and this value with its thread is about to end. What is
    /// written to `state` is given to `taken_over_shard` of the shard of the same number there.
    fn hand_over_shard(&mut self, _ctx: &mut Ctx<'_, Self::State>, _state: &mut Vec<u8>) {}

    /// All connections of this shard have come from the server before. `state` is what `hand_over_shard` wrote there. Not
    /// called if that server was killed. Should a successor be killed before it has everything, it is called in the server
    /// that wrote it.
    fn taken_over_shard(&mut self, _ctx: &mut Ctx<'_, Self::State>, _state: &[u8]) {}

    /// The connections are no longer divided between two processes: all shards of this successor have taken everything over,
    /// or this server's own successor is gone and it serves on.
    fn united(&mut self, _ctx: &mut Ctx<'_, Self::State>) {}

    /// The connection is gone, and why. Its state can be read for the last time; its `ConnId` is not used again.
    fn closed(&mut self, _ctx: &mut Ctx<'_, Self::State>, _conn: ConnId, _reason: CloseReason) {}

    /// A message came through the mailbox. One that the service sent to its own shard arrives in a later pass of the
    /// shard, and never within the call that sends it. While the server stops no message arrives.
    fn message(&mut self, _ctx: &mut Ctx<'_, Self::State>, _message: Self::Message) {}

    /// Called about every `interval()`, until the server stops.
    fn tick(&mut self, _ctx: &mut Ctx<'_, Self::State>) {}

    /// How often `tick` is wanted, 1 ms at least. `None`, the default, lets an idle shard sleep. Asked when the shard
    /// begins and anew after each `tick`, so a service that once said `None` is not ticked again.
    fn interval(&self) -> Option<Duration> {
        None
    }
}
