//! Typed messages from any thread, and from any shard, to any shard.
//!
//! Each shard has one bounded queue. A message that finds it idle rings the shard's doorbell; those that follow before
//! the shard has looked ring nothing, so a burst costs one wake-up. A shard without messages does nothing for its
//! queue: it sleeps as deeply as one that has none.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use crate::sys::Doorbell;

/// How long a sender that waits for room sleeps at most before it looks again. A shard never waits for the lock of
/// those senders, so a wake-up may be missed when one of them is just taking it.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

thread_local! {
    /// Whether this thread runs a shard.
    static ON_SHARD: Cell<bool> = const { Cell::new(false) };
}

/// Why a message was not delivered; the message comes back.
#[derive(PartialEq, Eq)]
#[non_exhaustive]
pub enum MailboxError<M> {
    /// The queue of that shard is full.
    Full(M),
    /// The shard is stopping or has ended.
    Closed(M),
    /// The server has no shard of that number.
    NoShard(M),
    /// `send` was called on a shard's own thread. It would stop that shard, and wait for ever if it is the receiver.
    OnShard(M),
}

impl<M> MailboxError<M> {
    /// The message.
    pub fn into_message(self) -> M {
        match self {
            MailboxError::Full(message)
            | MailboxError::Closed(message)
            | MailboxError::NoShard(message)
            | MailboxError::OnShard(message) => message,
        }
    }

    fn text(&self) -> &'static str {
        match self {
            MailboxError::Full(_) => "the shard's mailbox is full",
            MailboxError::Closed(_) => "the shard is stopping or has ended",
            MailboxError::NoShard(_) => "the server has no shard of that number",
            MailboxError::OnShard(_) => "a shard must not wait for room in a mailbox: use try_send or force_send",
        }
    }
}

impl<M> fmt::Debug for MailboxError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl<M> fmt::Display for MailboxError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl<M> std::error::Error for MailboxError<M> {}

/// The queue of one shard, shared by its senders and the shard.
struct Queue<M> {
    messages: ArrayQueue<M>,
    /// Whether the shard was told of messages and has not looked since.
    announced: AtomicBool,
    closed: AtomicBool,
    doorbell: Doorbell,
    /// Senders that wait for room.
    waiting: AtomicUsize,
    lock: Mutex<()>,
    room: Condvar,
}

impl<M> Queue<M> {
    fn announce(&self) {
        if !self.announced.swap(true, Ordering::AcqRel) {
            self.doorbell.ring();
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn try_send(&self, message: M) -> Result<(), MailboxError<M>> {
        if self.is_closed() {
            return Err(MailboxError::Closed(message));
        }
        self.messages.push(message).map_err(MailboxError::Full)?;
        self.announce();
        Ok(())
    }

    /// Wakes the senders that wait, without ever waiting for them.
    fn tell_of_room(&self) {
        // Between taking a message and this look a sender may have begun to wait.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            // With the lock free, no sender is between its look and its sleep. One that holds it looks again by
            // itself after `LOOK_AGAIN`.
            drop(self.lock.try_lock());
            self.room.notify_all();
        }
    }
}

/// The way to every shard of a server. Clones are cheap, and lead to the same queues.
///
/// What happens when a queue is full is the sender's choice: get the message back (`try_send`), wait (`send`), or drop
/// the oldest message (`force_send`). A queue holds as many messages as `ServerBuilder::mailbox_capacity` says, 1,024
/// by default. Messages of one sender to one shard arrive in order; a shard takes 128 in a pass. What a service sends
/// to its own shard arrives in a later pass. Messages that are still queued when the shard stops are dropped, also when
/// the shard has handed over: success does not mean that the service got the message.
///
/// A `ConnId` names a connection of one shard. A message about a connection must go to the shard that gave the name.
///
/// A service must not wait, so a thread of its own asks what takes time, such as a database, and answers:
///
/// ```
/// use c1m::{ConnId, Mailbox};
///
/// /// Answers `conn`, a connection of the shard with the number `shard`.
/// fn answer(mailbox: &Mailbox<(ConnId, String)>, shard: usize, conn: ConnId, key: &str) {
///     let value = key.to_uppercase(); // What takes time.
///     // Waits while the shard's queue is full. An error means that the shard stops or has ended.
///     let _ = mailbox.send(shard, (conn, value));
/// }
/// ```
///
/// `docs/guide/services.md` has the rest of it.
pub struct Mailbox<M> {
    shards: Arc<[Arc<Queue<M>>]>,
}

impl<M> Clone for Mailbox<M> {
    fn clone(&self) -> Mailbox<M> {
        Mailbox { shards: self.shards.clone() }
    }
}

impl<M> fmt::Debug for Mailbox<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queued: Vec<usize> = self.shards.iter().map(|queue| queue.messages.len()).collect();
        f.debug_struct("Mailbox").field("queued", &queued).finish()
    }
}

impl<M> Mailbox<M> {
    /// How many shards it leads to; they are numbered from 0.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Sends a message, unless the shard's queue is full. Fails with `MailboxError::Full`, `Closed` or `NoShard`, and
    /// gives the message back.
    pub fn try_send(&self, shard: usize, message: M) -> Result<(), MailboxError<M>> {
        match self.shards.get(shard) {
            Some(queue) => queue.try_send(message),
            None => Err(MailboxError::NoShard(message)),
        }
    }

    /// Sends a message, and waits for room as long as the shard's queue is full. For threads outside the server. Fails
    /// with `MailboxError::OnShard` on a shard's thread, with `NoShard`, or with `Closed`, also if the shard stops
    /// meanwhile.
    pub fn send(&self, shard: usize, message: M) -> Result<(), MailboxError<M>> {
        if ON_SHARD.get() {
            return Err(MailboxError::OnShard(message));
        }
        let Some(queue) = self.shards.get(shard) else { return Err(MailboxError::NoShard(message)) };
        let mut message = match queue.try_send(message) {
            Err(MailboxError::Full(message)) => message,
            done => return done,
        };
        queue.waiting.fetch_add(1, Ordering::SeqCst);
        let done = loop {
            let lock = queue.lock.lock().unwrap_or_else(PoisonError::into_inner);
            match queue.try_send(message) {
                Err(MailboxError::Full(back)) => message = back,
                done => break done,
            }
            drop(queue.room.wait_timeout(lock, LOOK_AGAIN));
        };
        queue.waiting.fetch_sub(1, Ordering::SeqCst);
        done
    }

    /// Sends a message in any case: where the shard's queue is full, the oldest message in it is taken out, and comes
    /// back as `Some`. For news that replace older news. Fails with `MailboxError::Closed` or `NoShard`.
    pub fn force_send(&self, shard: usize, message: M) -> Result<Option<M>, MailboxError<M>> {
        match self.shards.get(shard) {
            None => Err(MailboxError::NoShard(message)),
            Some(queue) if queue.is_closed() => Err(MailboxError::Closed(message)),
            Some(queue) => {
                let oldest = queue.messages.force_push(message);
                queue.announce();
                Ok(oldest)
            }
        }
    }
}

/// The queues of shards that ring these doorbells: the way in, and each shard's end.
pub(crate) fn mailbox<M>(doorbells: &[Doorbell], capacity: usize) -> (Mailbox<M>, Vec<Inbox<M>>) {
    let queue = |doorbell: &Doorbell| {
        Arc::new(Queue {
            messages: ArrayQueue::new(capacity.max(1)),
            announced: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            doorbell: doorbell.clone(),
            waiting: AtomicUsize::new(0),
            lock: Mutex::new(()),
            room: Condvar::new(),
        })
    };
    let shards: Arc<[_]> = doorbells.iter().map(queue).collect();
    let inboxes = shards.iter().map(|queue| Inbox { queue: queue.clone(), more: false }).collect();
    (Mailbox { shards }, inboxes)
}

/// A shard's end of its queue. Dropping it closes the queue.
pub(crate) struct Inbox<M> {
    queue: Arc<Queue<M>>,
    /// Whether messages were left when the shard last looked.
    more: bool,
}

impl<M> Inbox<M> {
    /// To be called on the shard's thread, before it takes messages.
    pub fn settle_here(&self) {
        ON_SHARD.set(true);
    }

    /// Begins to take at most `most` messages. `None` if none came since the last look.
    pub fn open(&mut self, most: usize) -> Option<usize> {
        let news = self.more || self.queue.announced.load(Ordering::Relaxed);
        if !news {
            return None;
        }
        // A sender that comes from now on announces anew, so nothing is missed between the last message and the sleep.
        self.queue.announced.swap(false, Ordering::AcqRel);
        let queued = self.queue.messages.len();
        self.more = queued > most;
        Some(queued.min(most))
    }

    /// The next message.
    pub fn take(&mut self) -> Option<M> {
        self.queue.messages.pop()
    }

    /// Messages were taken: tells the senders that wait.
    pub fn taken(&self) {
        self.queue.tell_of_room();
    }

    /// Whether messages are left that were announced already.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// Takes nothing more. Senders get their messages back from now on, and what is queued is dropped.
    pub fn close(&self) {
        self.queue.closed.store(true, Ordering::Release);
        while self.queue.messages.pop().is_some() {}
        self.queue.tell_of_room();
    }
}

impl<M> Drop for Inbox<M> {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn one(capacity: usize) -> (Mailbox<u32>, Inbox<u32>, Doorbell) {
        let doorbell = Doorbell::new().unwrap();
        let (mailbox, mut inboxes) = mailbox(std::slice::from_ref(&doorbell), capacity);
        (mailbox, inboxes.pop().unwrap(), doorbell)
    }

    fn take_all(inbox: &mut Inbox<u32>, most: usize) -> Vec<u32> {
        let count = inbox.open(most).unwrap_or(0);
        let taken = (0..count).filter_map(|_| inbox.take()).collect();
        inbox.taken();
        taken
    }

    #[test]
    fn many_messages_ring_the_doorbell_once() {
        let (mailbox, mut inbox, doorbell) = one(8);
        for number in 0..5 {
            mailbox.try_send(0, number).unwrap();
        }
        assert!(doorbell.rings_within(Duration::ZERO));
        mailbox.try_send(0, 5).unwrap();
        assert!(!doorbell.rings_within(Duration::ZERO), "the shard was told already");
        assert_eq!(take_all(&mut inbox, 4), [0, 1, 2, 3]);
        assert!(inbox.has_more());
        assert_eq!(take_all(&mut inbox, 4), [4, 5]);
        assert!(!inbox.has_more() && inbox.open(4).is_none());
        mailbox.try_send(0, 6).unwrap();
        assert!(doorbell.rings_within(Duration::ZERO), "a message after the look rings again");
    }

    #[test]
    fn a_full_mailbox_is_the_senders_choice() {
        let (mailbox, mut inbox, _doorbell) = one(2);
        mailbox.try_send(0, 1).unwrap();
        mailbox.try_send(0, 2).unwrap();
        assert_eq!(mailbox.try_send(0, 3), Err(MailboxError::Full(3)));
        assert_eq!(mailbox.force_send(0, 3), Ok(Some(1)));
        assert_eq!(mailbox.try_send(1, 4), Err(MailboxError::NoShard(4)));
        let waiting = mailbox.clone();
        let sender = thread::spawn(move || (4..100).try_for_each(|number| waiting.send(0, number)));
        let mut taken = Vec::new();
        while taken.len() < 98 {
            taken.extend(take_all(&mut inbox, 3));
        }
        assert_eq!(taken, (2..100).collect::<Vec<_>>());
        assert_eq!(sender.join().unwrap(), Ok(()));
    }

    #[test]
    fn a_sender_that_waits_gets_its_message_back_when_the_shard_stops() {
        let (mailbox, inbox, _doorbell) = one(1);
        mailbox.try_send(0, 1).unwrap();
        let waiting = mailbox.clone();
        let sender = thread::spawn(move || waiting.send(0, 2));
        while inbox.queue.waiting.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        drop(inbox);
        assert_eq!(sender.join().unwrap(), Err(MailboxError::Closed(2)));
        assert_eq!(mailbox.force_send(0, 3), Err(MailboxError::Closed(3)));
    }

    #[test]
    fn a_shard_does_not_wait_for_room() {
        let (mailbox, inbox, _doorbell) = one(1);
        let refused = thread::spawn(move || {
            inbox.settle_here();
            mailbox.send(0, 7)
        });
        assert_eq!(refused.join().unwrap(), Err(MailboxError::OnShard(7)));
    }
}
