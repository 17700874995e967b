//! What the server does with bytes: bytes in, bytes out. Knows no socket, no ring, no shard.

use std::ops::Range;

use crate::token::ConnId;

/// What to do with the bytes just received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Send nothing back.
    Nothing,
    /// Send this part of the received bytes back, straight from the receive buffer. The service
    /// may have changed them in place.
    Back(Range<usize>),
    /// Close the connection, after what is on its way to it.
    Close,
}

/// What a service wants done beside replying: bytes for any connection of its shard, and closes.
/// The shard carries them out in order, before it replies and before it receives more, unless they
/// are so many (`constants::PUSHES_PER_PASS`) that they take several passes.
#[derive(Debug, Default)]
pub struct Outbox {
    pub(crate) items: std::collections::VecDeque<Item>,
}

/// One wish of a service.
#[derive(Debug)]
pub(crate) enum Item {
    Send(ConnId, std::rc::Rc<[u8]>),
    Close(ConnId),
}

impl Outbox {
    /// Sends `bytes` to a connection of this shard, after what is on its way to it already. Bytes
    /// for a connection that is gone are dropped; one whose unsent bytes would exceed the server's
    /// limit is closed and counted as a slow reader.
    pub fn send(&mut self, to: ConnId, bytes: &[u8]) {
        self.items.push_back(Item::Send(to, bytes.into()));
    }

    /// Sends the same bytes to many connections; they are stored once.
    pub fn push(&mut self, to: impl IntoIterator<Item = ConnId>, bytes: &[u8]) {
        let bytes: std::rc::Rc<[u8]> = bytes.into();
        self.items.extend(to.into_iter().map(|to| Item::Send(to, bytes.clone())));
    }

    /// Closes a connection of this shard, after what is on its way to it.
    pub fn close(&mut self, conn: ConnId) {
        self.items.push_back(Item::Close(conn));
    }
}

/// What a server does with its connections. One value per shard; nothing in it is shared.
pub trait Service: 'static {
    /// Kept in the connection's row, beside the shard's own 12 bytes.
    type State: Default + 'static;

    /// A connection was accepted.
    fn opened(&mut self, _conn: ConnId, _state: &mut Self::State, _out: &mut Outbox) {}

    /// Bytes came, at most `constants::BUFFER_BYTES` at a time and wherever the network cut them.
    /// No more are received on this connection until the reply is sent.
    fn received(&mut self, conn: ConnId, state: &mut Self::State, data: &mut [u8], out: &mut Outbox) -> Reply;

    /// The connection is gone; its name will not be used again.
    fn closed(&mut self, _conn: ConnId, _state: &mut Self::State, _out: &mut Outbox) {}

    /// Called about every `interval()`, for pushes.
    fn tick(&mut self, _out: &mut Outbox) {}

    /// How often `tick` is wanted; `None`, the default, lets an idle shard sleep.
    fn interval(&self) -> Option<std::time::Duration> {
        None
    }
}

/// Sends back what came.
#[derive(Debug, Default, Clone, Copy)]
pub struct Echo;

impl Service for Echo {
    type State = ();

    fn received(&mut self, _: ConnId, _: &mut (), data: &mut [u8], _: &mut Outbox) -> Reply {
        Reply::Back(0..data.len())
    }
}

/// Discards what came, as the article's server does; the shard counts it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sink;

impl Service for Sink {
    type State = ();

    fn received(&mut self, _: ConnId, _: &mut (), _: &mut [u8], _: &mut Outbox) -> Reply {
        Reply::Nothing
    }
}
