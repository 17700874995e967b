//! What a shard of the broadcaster knows: its subscribers, and the publications of its own publishers that are under
//! way. It sends nothing to connections: it says what is to be sent.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::mailbox::{Mailbox, MailboxError};
use crate::protocol::push::Receipt;
use crate::service::Members;
use crate::stats::Counters;
use crate::token::ConnId;

/// Publications that are under way or wait, and their bytes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Load {
    publications: usize,
    bytes: usize,
}

impl Load {
    /// The most of one publisher: one that has more does not wait for its receipts. All that is posted counts as one.
    const MOST_OF_ONE: Load = Load { publications: 4_096, bytes: 16 << 20 };
    /// The most of a shard's publishers together.
    const MOST_OF_ALL: Load = Load { publications: 65_536, bytes: 64 << 20 };

    /// Whether one more publication is not too much. A single one never is.
    fn has_room(self, bytes: usize, most: Load) -> bool {
        self.publications == 0 || self.publications < most.publications && self.bytes + bytes <= most.bytes
    }

    fn add(&mut self, bytes: usize) {
        *self = Load { publications: self.publications + 1, bytes: self.bytes + bytes };
    }

    /// A publisher that went to another process and came back has none of what was under way before.
    fn sub(&mut self, bytes: usize) {
        let publications = self.publications.saturating_sub(1);
        *self = Load { publications, bytes: self.bytes.saturating_sub(bytes) };
    }
}

/// A connection that publishes.
#[derive(Debug, Default)]
struct Publisher {
    /// The number of its last publication.
    number: u64,
    load: Load,
    /// Its publications under way, the oldest first. Receipts go out in this order.
    under_way: VecDeque<u64>,
}

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
    /// This shard has nothing under way, and begins nothing until connections are in one process again; or it does.
    Quiet(usize, bool),
    /// Messages of your own that had to wait may go out now.
    Again,
}

/// Whose a publication is, and which: a shard counts its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Author {
    shard: usize,
    publication: u64,
}

/// A receipt, and the publisher whom to tell.
pub(super) type Tell = (ConnId, Receipt);

/// The shard as the board needs it, whatever is spoken on its connections.
pub(super) trait Shard {
    /// Which shard this is.
    fn view(&self) -> ShardView;

    /// Its counters.
    fn counters(&self) -> &Counters;

    /// Begins to send bytes to all members of a set. `false` if it has too much to do for that.
    fn spread(&mut self, bytes: Arc<[u8]>, to: &Members) -> bool;
}

/// A publication whose receipt is not out: not every shard has told what became of it, or an earlier one of the same
/// publisher waits for that.
#[derive(Debug)]
struct Pending {
    /// Its publisher, which may be gone; `None` if it was posted, or its publisher went away before a takeover.
    conn: Option<ConnId>,
    bytes: usize,
    shards_left: usize,
    receipt: Receipt,
}

/// A publication that waits while the connections of the server are in two processes.
type Held = (Option<ConnId>, Arc<[u8]>);

/// One shard's part of a broadcaster.
pub(super) struct Board {
    mailbox: Mailbox<PushMessage>,
    subscribers: Members,
    publishers: HashMap<ConnId, Publisher>,
    /// Publications of this shard under way, and how many there were.
    pending: HashMap<u64, Pending>,
    begun: u64,
    held: Vec<Held>,
    /// What is under way or waits: in all, and without a publisher.
    load: Load,
    posted: Load,
    /// What other shards must be told, and had no room for.
    late: VecDeque<(usize, PushMessage)>,
    /// `Told::Again` is in the shard's own mailbox: one is enough.
    looks_again: bool,
    /// The shards that are quiet.
    quiet: BTreeSet<usize>,
    /// All shards are: connections leave. What other shards publish, which are united before this one, waits.
    divided: bool,
    deferred: Vec<PushMessage>,
}

impl Board {
    pub fn new(mailbox: Mailbox<PushMessage>) -> Board {
        Board {
            mailbox,
            subscribers: Members::new(),
            publishers: HashMap::new(),
            pending: HashMap::new(),
            begun: 0,
            held: Vec::new(),
            load: Load::default(),
            posted: Load::default(),
            late: VecDeque::new(),
            looks_again: false,
            quiet: BTreeSet::new(),
            divided: false,
            deferred: Vec::new(),
        }
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
        self.remove_publisher(conn);
    }

    /// Removes a publisher. Of its publications, those that are complete have waited for its earlier ones alone.
    fn remove_publisher(&mut self, conn: ConnId) -> Option<Publisher> {
        let publisher = self.publishers.remove(&conn)?;
        for publication in &publisher.under_way {
            if self.pending.get(publication).is_some_and(|pending| pending.shards_left == 0) {
                self.finish(*publication);
            }
        }
        Some(publisher)
    }

    /// Hands a publication to all shards, at once or when connections are in one process again: one of a publisher of this
    /// shard, or one that was posted. `false` if too many are under way.
    pub fn publish(&mut self, shard: &impl Shard, conn: Option<ConnId>, bytes: Arc<[u8]>) -> bool {
        let view = shard.view();
        shard.counters().publications.add(1);
        let own = self.load_of(conn).copied().unwrap_or_default();
        if !own.has_room(bytes.len(), Load::MOST_OF_ONE) || !self.load.has_room(bytes.len(), Load::MOST_OF_ALL) {
            return false;
        }
        if view.is_divided {
            self.hold(conn, bytes);
        } else {
            self.count(conn, bytes.len());
            self.begin(shard, conn, bytes);
        }
        true
    }

    /// The load of a publisher, or without one that of all that is posted; `None` for a publisher that is gone.
    fn load_of(&mut self, conn: Option<ConnId>) -> Option<&mut Load> {
        match conn {
            Some(conn) => self.publishers.get_mut(&conn).map(|publisher| &mut publisher.load),
            None => Some(&mut self.posted),
        }
    }

    /// A publication is under way or waits from now on.
    fn count(&mut self, conn: Option<ConnId>, bytes: usize) {
        self.load.add(bytes);
        if let Some(load) = self.load_of(conn) {
            load.add(bytes);
        }
    }

    /// A publication that counted does so no more.
    fn uncount(&mut self, conn: Option<ConnId>, bytes: usize) {
        self.load.sub(bytes);
        if let Some(load) = self.load_of(conn) {
            load.sub(bytes);
        }
    }

    fn hold(&mut self, conn: Option<ConnId>, bytes: Arc<[u8]>) {
        self.count(conn, bytes.len());
        self.held.push((conn, bytes));
    }

    /// Begins a publication that counts already.
    fn begin(&mut self, shard: &impl Shard, conn: Option<ConnId>, bytes: Arc<[u8]>) {
        let view = shard.view();
        self.begun += 1;
        let author = Author { shard: view.shard, publication: self.begun };
        let publisher = conn.and_then(|conn| self.publishers.get_mut(&conn));
        let number = publisher.map_or(0, |publisher| {
            publisher.number += 1;
            publisher.under_way.push_back(author.publication);
            publisher.number
        });
        let receipt = Receipt { number, subscribers: 0, missed: 0 };
        self.pending.insert(self.begun, Pending { conn, bytes: bytes.len(), shards_left: view.shards, receipt });
        for to in 0..view.shards {
            let publication = PushMessage(Told::Publication(bytes.clone(), author));
            if self.mailbox.try_send(to, publication).is_err() {
                shard.counters().pushes_missed.add(1);
                // Not told at once: the receipt would come within the call that publishes.
                self.late.push_back((view.shard, PushMessage(Told::Sent(author, None))));
            }
        }
        self.try_again(view.shard);
    }

    /// Does what a message of the shard's own mailbox asks for. Returns the receipts that are due, each with its publisher.
    pub fn hear(&mut self, shard: &mut impl Shard, message: PushMessage) -> Vec<Tell> {
        let due = match message.0 {
            Told::Publication(..) if self.divided => {
                self.deferred.push(message);
                Vec::new()
            }
            Told::Publication(bytes, author) => self.send(shard, bytes, author),
            Told::Sent(author, subscribers) => self.told(author, subscribers),
            Told::Quiet(shard, quiet) => {
                self.note_quiet(shard, quiet);
                Vec::new()
            }
            Told::Again => {
                self.looks_again = false;
                Vec::new()
            }
        };
        self.try_again(shard.view().shard);
        due
    }

    /// Sends a publication to the subscribers of this shard. Returns the receipts that are due, if its publisher is of this
    /// shard.
    fn send(&mut self, shard: &mut impl Shard, bytes: Arc<[u8]>, author: Author) -> Vec<Tell> {
        let subscribers = shard.spread(bytes, &self.subscribers).then_some(self.subscribers.len() as u64);
        let counters = shard.counters();
        counters.pushes.add(subscribers.unwrap_or(0));
        counters.pushes_missed.add(u64::from(subscribers.is_none()));
        if author.shard == shard.view().shard {
            return self.told(author, subscribers);
        }
        self.late.push_back((author.shard, PushMessage(Told::Sent(author, subscribers))));
        Vec::new()
    }

    /// A shard has told what became of a publication. If it was the last, the receipt is due, unless an earlier one of the same
    /// publisher is not; with it come the later ones that have waited for it.
    fn told(&mut self, author: Author, subscribers: Option<u64>) -> Vec<Tell> {
        let Some(pending) = self.pending.get_mut(&author.publication) else { return Vec::new() };
        pending.receipt.subscribers += subscribers.unwrap_or(0);
        pending.receipt.missed += u64::from(subscribers.is_none());
        pending.shards_left -= 1;
        if pending.shards_left > 0 {
            return Vec::new();
        }
        let publisher = pending.conn.and_then(|conn| self.publishers.get_mut(&conn));
        let ordered = publisher.filter(|its| its.under_way.binary_search(&author.publication).is_ok());
        let Some(publisher) = ordered else {
            // It waits for no other: it was posted, or its publisher is gone, or has come back from another process.
            return self.finish(author.publication).into_iter().collect();
        };
        let is_complete = |publication: &&u64| self.pending.get(publication).is_some_and(|it| it.shards_left == 0);
        let complete = publisher.under_way.iter().take_while(is_complete).count();
        let due: Vec<u64> = publisher.under_way.drain(..complete).collect();
        due.into_iter().filter_map(|publication| self.finish(publication)).collect()
    }

    /// A publication is under way no more. Returns its receipt, and its publisher.
    fn finish(&mut self, publication: u64) -> Option<Tell> {
        let Pending { conn, bytes, receipt, .. } = self.pending.remove(&publication)?;
        self.uncount(conn, bytes);
        conn.map(|conn| (conn, receipt))
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
                    self.looks_again =
                        self.looks_again || self.mailbox.try_send(here, PushMessage(Told::Again)).is_ok();
                    return;
                }
                Err(_) => {}
            }
        }
    }

    // ---- takeovers -----------------------------------------------------------------------------

    /// Whether connections may leave: no shard has anything under way, so each publication has reached all subscribers.
    pub fn may_divide(&mut self, view: ShardView) -> bool {
        if self.pending.is_empty() && self.late.is_empty() && !self.quiet.contains(&view.shard) {
            self.tell_all(view, true);
        }
        self.divided = self.quiet.len() == view.shards;
        self.divided
    }

    /// Connections are in one process again: what had to wait is published. Returns what came from other shards.
    pub fn united(&mut self, shard: &impl Shard) -> Vec<PushMessage> {
        let view = shard.view();
        if self.quiet.contains(&view.shard) {
            self.tell_all(view, false);
        }
        self.divided = false;
        for (conn, bytes) in std::mem::take(&mut self.held) {
            self.begin(shard, conn, bytes);
        }
        std::mem::take(&mut self.deferred)
    }

    /// A shard has become quiet, or is so no more.
    fn note_quiet(&mut self, shard: usize, quiet: bool) {
        if quiet {
            self.quiet.insert(shard)
        } else {
            self.quiet.remove(&shard)
        };
    }

    /// Tells the other shards, and this one, whether it is quiet.
    fn tell_all(&mut self, view: ShardView, quiet: bool) {
        self.note_quiet(view.shard, quiet);
        let others = (0..view.shards).filter(|shard| *shard != view.shard);
        self.late.extend(others.map(|shard| (shard, PushMessage(Told::Quiet(view.shard, quiet)))));
        self.try_again(view.shard);
    }

    /// A connection goes to another process: what it is here, and its publications that wait.
    pub fn depart(&mut self, conn: ConnId) -> Handover {
        let subscribes = self.subscribers.remove(conn);
        let its = |(publisher, _): &mut Held| *publisher == Some(conn);
        let held: Vec<_> = self.held.extract_if(.., its).map(|(_, bytes)| bytes).collect();
        held.iter().for_each(|bytes| self.uncount(Some(conn), bytes.len()));
        let published = self.remove_publisher(conn).map(|publisher| publisher.number);
        Handover { subscribes, published, held }
    }

    /// A connection comes from another process, or comes back.
    pub fn arrive(&mut self, conn: ConnId, handover: Handover) {
        if handover.subscribes {
            self.subscribe(conn);
        }
        if let Some(number) = handover.published {
            self.publishers.insert(conn, Publisher { number, ..Publisher::default() });
        }
        handover.held.into_iter().for_each(|bytes| self.hold(Some(conn), bytes));
    }

    /// All connections have left: the publications that wait and whose publishers are gone.
    pub fn depart_last(&mut self) -> Handover {
        let mut handover = Handover::default();
        for (conn, bytes) in std::mem::take(&mut self.held) {
            self.uncount(conn, bytes.len());
            handover.held.push(bytes);
        }
        handover
    }

    /// The same in the other process.
    pub fn arrive_last(&mut self, handover: Handover) {
        handover.held.into_iter().for_each(|bytes| self.hold(None, bytes));
    }
}

/// Which shard a call of the service is for, and of how many.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShardView {
    pub shard: usize,
    pub shards: usize,
    /// The connections of the server are in two processes.
    pub is_divided: bool,
}

/// What goes from process to process with a connection, or with the last of a shard's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::service) struct Handover {
    /// The connection is a subscriber's.
    pub subscribes: bool,
    /// The number of its last publication, if it publishes.
    pub published: Option<u64>,
    /// Publications that wait.
    pub held: Vec<Arc<[u8]>>,
}

/// The form of what is written.
const FORM: u8 = 1;
const SUBSCRIBES: u8 = 1;
const PUBLISHES: u8 = 1 << 1;

impl Handover {
    /// As bytes.
    pub fn write(&self, into: &mut Vec<u8>) {
        let subscribes = if self.subscribes { SUBSCRIBES } else { 0 };
        into.extend([FORM, subscribes | if self.published.is_some() { PUBLISHES } else { 0 }]);
        into.extend(self.published.into_iter().flat_map(u64::to_le_bytes));
        into.extend((self.held.len() as u32).to_le_bytes());
        for bytes in &self.held {
            into.extend((bytes.len() as u32).to_le_bytes());
            into.extend_from_slice(bytes);
        }
    }

    /// Reads what `write` has written at the beginning of bytes, and returns what follows; `None` for anything else.
    pub fn read(bytes: &[u8]) -> Option<(Handover, &[u8])> {
        let (&[FORM, flags], mut rest) = bytes.split_first_chunk()? else { return None };
        let published = if flags & PUBLISHES != 0 {
            let (number, behind) = rest.split_first_chunk()?;
            rest = behind;
            Some(u64::from_le_bytes(*number))
        } else {
            None
        };
        let mut held = Vec::new();
        for _ in 0..number(&mut rest)? {
            let length = number(&mut rest)? as usize;
            let (publication, behind) = rest.split_at_checked(length)?;
            held.push(publication.into());
            rest = behind;
        }
        let known = flags & !(SUBSCRIBES | PUBLISHES) == 0;
        known.then_some((Handover { subscribes: flags & SUBSCRIBES != 0, published, held }, rest))
    }
}

/// The number at the beginning of bytes, which move behind it.
fn number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number))
}

#[cfg(test)]
mod tests;
