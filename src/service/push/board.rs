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
    /// Where this is.
    fn place(&self) -> Place;

    /// Its counters.
    fn counters(&self) -> &Counters;

    /// Begins to send bytes to all members of a set. `false` if it has too much to do for that.
    fn spread(&mut self, bytes: Arc<[u8]>, to: &Members) -> bool;
}

/// A publication of which not every shard has told what became of it.
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
        self.publishers.remove(&conn);
    }

    /// Hands a publication to all shards, at once or when connections are in one process again: one of a publisher of this
    /// shard, or one that was posted. `false` if too many are under way.
    pub fn publish(&mut self, shard: &impl Shard, conn: Option<ConnId>, bytes: Arc<[u8]>) -> bool {
        let at = shard.place();
        shard.counters().publications.add(1);
        let own = self.load_of(conn).copied().unwrap_or_default();
        if !own.has_room(bytes.len(), Load::MOST_OF_ONE) || !self.load.has_room(bytes.len(), Load::MOST_OF_ALL) {
            return false;
        }
        if at.is_divided {
            self.hold(conn, bytes);
        } else {
            self.count(conn, bytes.len());
            self.begin(at, conn, bytes);
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
    fn begin(&mut self, at: Place, conn: Option<ConnId>, bytes: Arc<[u8]>) {
        self.begun += 1;
        let author = Author { shard: at.shard, publication: self.begun };
        let publisher = conn.and_then(|conn| self.publishers.get_mut(&conn));
        let number = publisher.map_or(0, |publisher| {
            publisher.number += 1;
            publisher.number
        });
        let receipt = Receipt { number, subscribers: 0, missed: 0 };
        self.pending.insert(self.begun, Pending { conn, bytes: bytes.len(), shards_left: at.shards, receipt });
        for shard in 0..at.shards {
            let publication = PushMessage(Told::Publication(bytes.clone(), author));
            if self.mailbox.try_send(shard, publication).is_err() {
                // Not told at once: a receipt goes out in the order of the publications.
                self.late.push_back((at.shard, PushMessage(Told::Sent(author, None))));
            }
        }
        self.try_again(at.shard);
    }

    /// Does what a message of the shard's own mailbox asks for. Returns the receipt that is due, and its publisher.
    pub fn hear(&mut self, shard: &mut impl Shard, message: PushMessage) -> Option<Tell> {
        let tell = match message.0 {
            Told::Publication(..) if self.divided => {
                self.deferred.push(message);
                None
            }
            Told::Publication(bytes, author) => self.send(shard, bytes, author),
            Told::Sent(author, subscribers) => self.told(author, subscribers),
            Told::Quiet(shard, quiet) => {
                self.note_quiet(shard, quiet);
                None
            }
            Told::Again => None,
        };
        self.try_again(shard.place().shard);
        tell
    }

    /// Sends a publication to the subscribers of this shard. Returns whom to tell, if that is a publisher of this shard.
    fn send(&mut self, shard: &mut impl Shard, bytes: Arc<[u8]>, author: Author) -> Option<Tell> {
        let subscribers = shard.spread(bytes, &self.subscribers).then_some(self.subscribers.len() as u64);
        let counters = shard.counters();
        counters.pushes.add(subscribers.unwrap_or(0));
        counters.pushes_missed.add(u64::from(subscribers.is_none()));
        if author.shard == shard.place().shard {
            return self.told(author, subscribers);
        }
        self.late.push_back((author.shard, PushMessage(Told::Sent(author, subscribers))));
        None
    }

    /// A shard has told what became of a publication: its receipt, if it was the last.
    fn told(&mut self, author: Author, subscribers: Option<u64>) -> Option<Tell> {
        let pending = self.pending.get_mut(&author.publication)?;
        pending.receipt.subscribers += subscribers.unwrap_or(0);
        pending.receipt.missed += u64::from(subscribers.is_none());
        pending.shards_left -= 1;
        if pending.shards_left > 0 {
            return None;
        }
        let Pending { conn, bytes, receipt, .. } = self.pending.remove(&author.publication)?;
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
                    let _ = self.mailbox.try_send(here, PushMessage(Told::Again));
                    return;
                }
                Err(_) => {}
            }
        }
    }

    // ---- takeovers -----------------------------------------------------------------------------

    /// Whether connections may leave: no shard has anything under way, so each publication has reached all subscribers.
    pub fn may_divide(&mut self, at: Place) -> bool {
        if self.pending.is_empty() && self.late.is_empty() && !self.quiet.contains(&at.shard) {
            self.tell_all(at, true);
        }
        self.divided = self.quiet.len() == at.shards;
        self.divided
    }

    /// Connections are in one process again: what had to wait is published. Returns what came from other shards.
    pub fn united(&mut self, at: Place) -> Vec<PushMessage> {
        if self.quiet.contains(&at.shard) {
            self.tell_all(at, false);
        }
        self.divided = false;
        for (conn, bytes) in std::mem::take(&mut self.held) {
            self.begin(at, conn, bytes);
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
    fn tell_all(&mut self, at: Place, quiet: bool) {
        self.note_quiet(at.shard, quiet);
        let others = (0..at.shards).filter(|shard| *shard != at.shard);
        self.late.extend(others.map(|shard| (shard, PushMessage(Told::Quiet(at.shard, quiet)))));
        self.try_again(at.shard);
    }

    /// A connection goes to another process: what it is here, and its publications that wait.
    pub fn depart(&mut self, conn: ConnId) -> Role {
        let subscribes = self.subscribers.remove(conn);
        let its = |(publisher, _): &mut Held| *publisher == Some(conn);
        let held: Vec<_> = self.held.extract_if(.., its).map(|(_, bytes)| bytes).collect();
        held.iter().for_each(|bytes| self.uncount(Some(conn), bytes.len()));
        let published = self.publishers.remove(&conn).map(|publisher| publisher.number);
        Role { subscribes, published, held }
    }

    /// A connection comes from another process, or comes back.
    pub fn arrive(&mut self, conn: ConnId, role: Role) {
        if role.subscribes {
            self.subscribe(conn);
        }
        if let Some(number) = role.published {
            self.publishers.insert(conn, Publisher { number, load: Load::default() });
        }
        role.held.into_iter().for_each(|bytes| self.hold(Some(conn), bytes));
    }

    /// All connections have left: the publications that wait and whose publishers are gone.
    pub fn depart_last(&mut self) -> Role {
        let mut role = Role::default();
        for (conn, bytes) in std::mem::take(&mut self.held) {
            self.uncount(conn, bytes.len());
            role.held.push(bytes);
        }
        role
    }

    /// The same in the other process.
    pub fn arrive_last(&mut self, role: Role) {
        role.held.into_iter().for_each(|bytes| self.hold(None, bytes));
    }
}

/// Where a call of the service is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub shard: usize,
    pub shards: usize,
    /// The connections of the server are in two processes.
    pub is_divided: bool,
}

/// What a connection is to a broadcaster, on its way from process to process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::service) struct Role {
    pub subscribes: bool,
    /// The number of its last publication, if it publishes.
    pub published: Option<u64>,
    /// Publications that wait.
    pub held: Vec<Arc<[u8]>>,
}

/// The form of what is written of a role.
const FORM: u8 = 1;
const SUBSCRIBES: u8 = 1;
const PUBLISHES: u8 = 1 << 1;

impl Role {
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
    pub fn read(bytes: &[u8]) -> Option<(Role, &[u8])> {
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
        known.then_some((Role { subscribes: flags & SUBSCRIBES != 0, published, held }, rest))
    }
}

/// The number at the beginning of bytes, which move behind it.
fn number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::{Inbox, mailbox};
    use crate::sys::Doorbell;
    use proptest::prelude::*;

    /// The only shard of a server, which sends nothing.
    struct Alone {
        counters: Counters,
        is_divided: bool,
    }

    impl Shard for Alone {
        fn place(&self) -> Place {
            Place { shard: 0, shards: 1, is_divided: self.is_divided }
        }

        fn counters(&self) -> &Counters {
            &self.counters
        }

        fn spread(&mut self, _: Arc<[u8]>, _: &Members) -> bool {
            true
        }
    }

    fn alone() -> (Board, Alone, Inbox<PushMessage>) {
        let (mailbox, mut inboxes) = mailbox(&[Doorbell::new().unwrap()], 8_192);
        (Board::new(mailbox), Alone { counters: Counters::default(), is_divided: false }, inboxes.remove(0))
    }

    fn conn(slot: u32) -> ConnId {
        ConnId::new(0, slot, 1)
    }

    /// Hears all that is in the mailbox. Returns the numbers of the receipts, and for whom they are.
    fn hear_all(board: &mut Board, shard: &mut Alone, inbox: &mut Inbox<PushMessage>) -> Vec<(ConnId, u64)> {
        let told = std::iter::from_fn(|| inbox.take()).filter_map(|message| board.hear(shard, message));
        told.map(|(conn, receipt)| (conn, receipt.number)).collect()
    }

    #[test]
    fn only_those_who_register_are_publishers() {
        let (mut board, mut shard, mut inbox) = alone();
        // Posted, and of a publisher that is gone before connections are in one process again.
        assert!(board.publish(&shard, None, Arc::from(*b"posted")));
        board.register(conn(1));
        shard.is_divided = true;
        assert!(board.publish(&shard, Some(conn(1)), Arc::from(*b"held")));
        board.closed(conn(1));
        shard.is_divided = false;
        assert!(board.united(shard.place()).is_empty());
        assert_eq!(hear_all(&mut board, &mut shard, &mut inbox), [(conn(1), 0)]);
        assert!(board.publishers.is_empty() && board.pending.is_empty());
        assert_eq!((board.load, board.posted), (Load::default(), Load::default()));
    }

    #[test]
    fn a_publisher_with_too_much_under_way_is_refused_and_the_others_are_not() {
        let (mut board, mut shard, mut inbox) = alone();
        let (flood, honest) = (conn(1), conn(2));
        [flood, honest].into_iter().for_each(|conn| board.register(conn));
        let most = Load::MOST_OF_ONE.publications;
        assert!((0..most).all(|_| board.publish(&shard, Some(flood), Arc::from(*b""))));
        assert!(!board.publish(&shard, Some(flood), Arc::from(*b"")));
        assert!(board.publish(&shard, Some(honest), Arc::from(*b"")) && board.publish(&shard, None, Arc::from(*b"")));
        let receipts = hear_all(&mut board, &mut shard, &mut inbox);
        assert_eq!(receipts.iter().filter(|(conn, _)| *conn == flood).count(), most);
        assert_eq!(receipts.last(), Some(&(honest, 1)));
        // So are its bytes, of which all together have a bound too. A single publication is never too much.
        let half: Arc<[u8]> = vec![0; Load::MOST_OF_ONE.bytes / 2 + 1].into();
        let many = (3..100).map(conn).find(|conn| {
            board.register(*conn);
            assert!(board.publish(&shard, Some(flood), half.clone()) == (*conn == self::conn(3)));
            !board.publish(&shard, Some(*conn), half.clone())
        });
        assert_eq!(many, Some(conn(3 + 6)));
        hear_all(&mut board, &mut shard, &mut inbox);
        assert!(board.publish(&shard, Some(flood), vec![0; Load::MOST_OF_ALL.bytes + 1].into()));
    }

    #[test]
    fn what_waits_counts_for_its_publisher_wherever_it_goes() {
        let (mut board, mut shard, _inbox) = alone();
        shard.is_divided = true;
        board.register(conn(1));
        assert!(board.publish(&shard, Some(conn(1)), Arc::from(*b"four")));
        assert!(board.publish(&shard, None, Arc::from(*b"posted")));
        let (role, rest) = (board.depart(conn(1)), board.depart_last());
        assert_eq!((board.load, board.posted), (Load::default(), Load::default()));
        board.arrive(conn(1), role);
        board.arrive_last(rest);
        assert_eq!(board.load, Load { publications: 2, bytes: 10 });
        assert_eq!(board.load_of(Some(conn(1))), Some(&mut Load { publications: 1, bytes: 4 }));
        assert_eq!(board.posted, Load { publications: 1, bytes: 6 });
    }

    proptest! {
        #[test]
        fn a_role_is_read_as_it_was_written_or_not_at_all(
            subscribes: bool, published: Option<u64>, cut: prop::sample::Index,
            held in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..4)
        ) {
            let role = Role { subscribes, published, held: held.into_iter().map(Into::into).collect() };
            let mut bytes = Vec::new();
            role.write(&mut bytes);
            let cut = &bytes[..cut.index(bytes.len())];
            prop_assert_eq!(Role::read(cut), None);
            bytes.push(7);
            prop_assert_eq!(Role::read(&bytes), Some((role, &[7][..])));
        }
    }
}
