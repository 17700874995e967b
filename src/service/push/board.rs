//! What a shard of the broadcaster knows: who subscribed here, and which publications of its own publishers are under
//! way. It sends nothing to connections: it says what is to be sent.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::mailbox::{Mailbox, MailboxError};
use crate::protocol::push::Receipt;
use crate::service::Members;
use crate::stats::Counters;
use crate::token::ConnId;

/// Publications of a shard's publishers under way at most, and their bytes together. A publisher that has no room for one
/// more does not wait for its receipts.
const MOST_UNDER_WAY: usize = 4_096;
const MOST_BYTES: usize = 64 << 20;

/// What the shards of a [`Push`](super::Push) tell each other.
#[derive(Debug)]
pub struct PushMessage(Told);

#[derive(Debug)]
enum Told {
    /// These bytes are for all subscribers.
    Publication(Arc<[u8]>, Author),
    /// A publication of yours is on its way to so many subscribers of one shard. `None` if that shard had too much to
    /// do.
    Sent(Author, Option<u64>),
    /// Messages of your own that had to wait may go out now.
    Again,
}

/// Whose a publication is, and which.
#[derive(Debug, Clone, Copy)]
pub(super) struct Author {
    shard: usize,
    conn: ConnId,
    /// Counted from 1 on its connection.
    number: u64,
}

/// What is to be done for a message.
pub(super) enum Task {
    /// Broadcast this to the subscribers, and tell `sent`.
    Send(Arc<[u8]>, Author),
    /// Tell a publisher.
    Tell(ConnId, Receipt),
}

/// A publication of which not every shard has told what became of it.
#[derive(Debug)]
struct Pending {
    bytes: usize,
    shards_left: usize,
    receipt: Receipt,
}

/// One shard's part of a broadcaster.
pub(super) struct Board {
    mailbox: Mailbox<PushMessage>,
    subscribers: Members,
    /// The publishers of this shard, each with the number of its last publication.
    publishers: HashMap<ConnId, u64>,
    /// Their publications under way.
    pending: HashMap<(ConnId, u64), Pending>,
    pending_bytes: usize,
    /// What other shards must be told, and had no room for.
    late: VecDeque<(usize, PushMessage)>,
}

impl Board {
    pub fn new(mailbox: Mailbox<PushMessage>) -> Board {
        let (subscribers, publishers, pending, pending_bytes, late) = Default::default();
        Board { mailbox, subscribers, publishers, pending, pending_bytes, late }
    }

    pub fn subscribers(&self) -> &Members {
        &self.subscribers
    }

    pub fn subscribe(&mut self, conn: ConnId) {
        self.subscribers.insert(conn);
    }

    /// A connection publishes, and may have published nothing yet.
    pub fn register(&mut self, conn: ConnId) {
        self.publishers.entry(conn).or_default();
    }

    pub fn is_publisher(&self, conn: ConnId) -> bool {
        self.publishers.contains_key(&conn)
    }

    pub fn closed(&mut self, conn: ConnId) {
        self.subscribers.remove(conn);
        self.publishers.remove(&conn);
    }

    /// Hands a publication of a connection of this shard to all `shards`, this one included. `false` if too many are under
    /// way.
    pub fn publish(&mut self, here: usize, shards: usize, conn: ConnId, bytes: Arc<[u8]>) -> bool {
        if self.pending.len() >= MOST_UNDER_WAY || self.pending_bytes + bytes.len() > MOST_BYTES {
            return false;
        }
        self.pending_bytes += bytes.len();
        let number = self.publishers.entry(conn).or_default();
        *number += 1;
        let author = Author { shard: here, conn, number: *number };
        let receipt = Receipt { number: *number, subscribers: 0, missed: 0 };
        self.pending.insert((conn, *number), Pending { bytes: bytes.len(), shards_left: shards, receipt });
        for shard in 0..shards {
            let publication = PushMessage(Told::Publication(bytes.clone(), author));
            if self.mailbox.try_send(shard, publication).is_err() {
                // Not told at once: a receipt goes out in the order of the publications.
                self.late.push_back((here, PushMessage(Told::Sent(author, None))));
            }
        }
        self.try_again(here);
        true
    }

    /// What is to be done for a message of a shard's own mailbox.
    pub fn take(&mut self, here: usize, message: PushMessage) -> Option<Task> {
        let task = match message.0 {
            Told::Publication(bytes, author) => Some(Task::Send(bytes, author)),
            Told::Sent(author, subscribers) => self.told(author, subscribers),
            Told::Again => None,
        };
        self.try_again(here);
        task
    }

    /// A publication is on its way to the subscribers of this shard, unless it was `missed`. Whom to tell, if that is a
    /// publisher of this shard.
    pub fn sent(&mut self, author: Author, missed: bool, here: usize, counters: &Counters) -> Option<Task> {
        let subscribers = (!missed).then_some(self.subscribers.len() as u64);
        counters.pushes.add(subscribers.unwrap_or(0));
        counters.pushes_missed.add(u64::from(missed));
        if author.shard == here {
            return self.told(author, subscribers);
        }
        self.late.push_back((author.shard, PushMessage(Told::Sent(author, subscribers))));
        self.try_again(here);
        None
    }

    /// A shard has told what became of a publication: its receipt, if it was the last.
    fn told(&mut self, author: Author, subscribers: Option<u64>) -> Option<Task> {
        let Author { conn, number, .. } = author;
        let pending = self.pending.get_mut(&(conn, number))?;
        pending.receipt.subscribers += subscribers.unwrap_or(0);
        pending.receipt.missed += u64::from(subscribers.is_none());
        pending.shards_left -= 1;
        if pending.shards_left > 0 {
            return None;
        }
        let Pending { bytes, receipt, .. } = self.pending.remove(&(conn, number))?;
        self.pending_bytes -= bytes;
        Some(Task::Tell(conn, receipt))
    }

    /// Tells other shards what they had no room for. If one still has none, this shard looks again in a later pass.
    fn try_again(&mut self, here: usize) {
        while let Some((shard, message)) = self.late.pop_front() {
            match self.mailbox.try_send(shard, message) {
                Ok(()) => {}
                // A shard that has ended needs to know nothing.
                Err(MailboxError::Full(message)) => {
                    self.late.push_front((shard, message));
                    // A full mailbox of its own has messages that lead here too.
                    let _ = self.mailbox.try_send(here, PushMessage(Told::Again));
                    return;
                }
                Err(_) => {}
            }
        }
    }
}
