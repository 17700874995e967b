//! One message for many connections of a shard: a shared buffer, and a cursor over the connections that sends a bounded
//! number a pass. Nothing is queued or copied for a recipient whose socket has room.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::members::{Bitmap, Members};
use crate::connections::{Connections, Cursor, Platform};
use crate::error::Result;
use crate::token::ConnId;

/// Recipients of broadcasts in one pass of a shard. They take some 200 us, which a message on another connection may
/// have to wait.
const RECIPIENTS_PER_PASS: usize = 128;

/// Slots that are searched for recipients in one pass.
const SLOTS_PER_PASS: usize = 4_096;

/// Broadcasts under way on one shard at most, and their bytes.
const MOST_BROADCASTS: usize = 4_096;
const MOST_BYTES: usize = 64 << 20;

/// A message for many connections of one shard; `Ctx::broadcast` sends it.
///
/// The bytes are stored once, in an `Arc<[u8]>`, and the kernel takes them from there for each recipient. With TLS each
/// recipient gets a sealed copy. A shard sends to a bounded number of recipients and then serves its other connections,
/// so a large broadcast delays their messages by a fraction of a millisecond at a time.
///
/// **Order.** Broadcasts of one shard are sent one after the other, so each recipient gets them in the order of the
/// calls of `Ctx::broadcast`. Bytes of `Ctx::send` and replies go at once, and may overtake a broadcast.
///
/// **Connections that open or close meanwhile.** A connection that opens after the call does not get the broadcast. One
/// that closes before its turn is passed over.
///
/// **Slow readers.** A recipient whose socket has no room keeps its bytes by the same rule as for `Ctx::send`: they
/// count against `ServerBuilder::max_pending`, and beyond it the recipient is closed as a slow reader.
///
/// **Sleeping connections** are woken for it. While no slot is free (`ServerBuilder::awake`), the broadcast stands
/// still at the first recipient that sleeps and needs one, as its bytes are not a short message, and so do those behind
/// it. A recipient whose peer is dead keeps the slot into which it was woken until the kernel gives it up, after some
/// 15 minutes (net.ipv4.tcp_retries2, tcp(7)). `ServerBuilder::keepalive` finds such peers while they sleep.
pub struct Broadcast<S> {
    bytes: Arc<[u8]>,
    to: Recipients<S>,
    except: Option<ConnId>,
    /// Connections of which this is not true are left out.
    only: Option<fn(&S) -> bool>,
}

/// Decides whether a connection is a recipient.
type Choice<S> = Box<dyn Fn(ConnId, &S) -> bool>;

enum Recipients<S> {
    All,
    Chosen(Choice<S>),
    Members(Members),
}

impl<S> fmt::Debug for Broadcast<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = match &self.to {
            Recipients::All => "all".to_owned(),
            Recipients::Chosen(_) => "those that a function chooses".to_owned(),
            Recipients::Members(members) => format!("{} members", members.len()),
        };
        f.debug_struct("Broadcast").field("bytes", &self.bytes.len()).field("to", &to).finish()
    }
}

impl<S> Broadcast<S> {
    /// To every connection of the shard.
    pub fn to_all(bytes: impl Into<Arc<[u8]>>) -> Broadcast<S> {
        Broadcast { bytes: bytes.into(), to: Recipients::All, except: None, only: None }
    }

    /// To the connections that `chosen` picks. It is called when a connection's turn comes, with the connection's state
    /// at that time.
    pub fn to_chosen(bytes: impl Into<Arc<[u8]>>, chosen: impl Fn(ConnId, &S) -> bool + 'static) -> Broadcast<S> {
        Broadcast { bytes: bytes.into(), to: Recipients::Chosen(Box::new(chosen)), except: None, only: None }
    }

    /// To the members of a set as it is now. Other connections cost nothing, however many the shard has.
    pub fn to_members(bytes: impl Into<Arc<[u8]>>, members: &Members) -> Broadcast<S> {
        Broadcast { bytes: bytes.into(), to: Recipients::Members(members.clone()), except: None, only: None }
    }

    /// Leaves out connections of which this is not true when their turn comes.
    pub(super) fn only(mut self, only: fn(&S) -> bool) -> Broadcast<S> {
        self.only = Some(only);
        self
    }

    /// Leaves one connection out, such as the author of the message.
    pub fn except(mut self, conn: ConnId) -> Broadcast<S> {
        self.except = Some(conn);
        self
    }
}

/// A broadcast under way.
struct Running<S> {
    broadcast: Broadcast<S>,
    /// The place that is searched next.
    next: Cursor,
    /// Connections that opened after this broadcast began and before the next one did: they get neither this one nor an
    /// earlier one.
    newcomers: Bitmap,
}

/// The broadcasts of a shard, the oldest first. Only the oldest is being sent.
pub(super) struct Broadcasts<S> {
    running: VecDeque<Running<S>>,
    /// Bytes of all of them.
    bytes: usize,
    /// Whether any broadcast has newcomers.
    newcomers: bool,
    /// The next recipient sleeps, and no slot is free for it, which it needs.
    stalled: bool,
}

impl<S> Default for Broadcasts<S> {
    fn default() -> Broadcasts<S> {
        Broadcasts { running: VecDeque::new(), bytes: 0, newcomers: false, stalled: false }
    }
}

impl<S: Default> Broadcasts<S> {
    /// Begins a broadcast, or gives it back if too many are under way. A single one is never too much.
    pub fn begin(&mut self, broadcast: Broadcast<S>) -> std::result::Result<(), Broadcast<S>> {
        let bytes = self.bytes + broadcast.bytes.len();
        if !self.running.is_empty() && (self.running.len() >= MOST_BROADCASTS || bytes > MOST_BYTES) {
            return Err(broadcast);
        }
        if !broadcast.bytes.is_empty() {
            self.bytes = bytes;
            self.running.push_back(Running { broadcast, next: Cursor::START, newcomers: Bitmap::default() });
        }
        Ok(())
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether the oldest waits for a slot: the next recipient sleeps, and none is free for it.
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// A connection opened.
    pub fn opened(&mut self, conn: ConnId) {
        if let Some(last) = self.running.back_mut() {
            last.newcomers.insert(Cursor::before(conn));
            self.newcomers = true;
        }
    }

    /// Sends to some recipients.
    pub fn send_some<P: Platform>(&mut self, connections: &mut Connections<S, P>) -> Result<()> {
        self.stalled = false;
        let (mut sends, mut slots) = (RECIPIENTS_PER_PASS, SLOTS_PER_PASS);
        while sends > 0 && slots > 0 {
            let Some(first) = self.running.front_mut() else { break };
            match first.next_recipient(connections, &mut slots) {
                Some(conn) if self.is_newcomer(conn) => {}
                Some(conn) => {
                    // It is still the first.
                    let Some(first) = self.running.front_mut() else { break };
                    let bytes = first.broadcast.bytes.len();
                    if connections.is_asleep(conn) && !connections.can_wake() && !connections.fits_asleep(conn, bytes) {
                        first.next = Cursor::before(conn);
                        self.stalled = true;
                        break;
                    }
                    sends -= 1;
                    connections.send_shared(conn, &first.broadcast.bytes)?;
                }
                // It has used its share of this pass, and is not complete.
                None if slots == 0 => break,
                None => {
                    let done = self.running.pop_front();
                    self.bytes -= done.map_or(0, |done| done.broadcast.bytes.len());
                    self.newcomers &= !self.running.is_empty();
                }
            }
        }
        Ok(())
    }

    fn is_newcomer(&self, conn: ConnId) -> bool {
        self.newcomers && self.running.iter().any(|running| running.newcomers.contains(Cursor::before(conn)))
    }
}

impl<S: Default> Running<S> {
    /// The next recipient. `None` if there is none, or if the pass has searched as many slots as it may.
    fn next_recipient<P: Platform>(&mut self, connections: &Connections<S, P>, slots: &mut usize) -> Option<ConnId> {
        loop {
            let conn = match &self.broadcast.to {
                Recipients::Members(members) => {
                    if *slots == 0 {
                        return None;
                    }
                    let place = members.next(self.next)?;
                    *slots -= 1;
                    self.next = place.after();
                    connections.live_at(place)
                }
                Recipients::All | Recipients::Chosen(_) => Some(connections.next_live_within(&mut self.next, slots)?),
            };
            let state = |conn| connections.peek(conn);
            let chosen = |conn| match &self.broadcast.to {
                Recipients::Chosen(choice) => state(conn).is_some_and(|state| choice(conn, state)),
                _ => true,
            };
            let only = |conn| self.broadcast.only.is_none_or(|only| state(conn).is_some_and(only));
            let recipient = conn.filter(|conn| Some(*conn) != self.broadcast.except && only(*conn) && chosen(*conn));
            if recipient.is_some() {
                return recipient;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasts_are_bounded_by_their_number_and_their_bytes_but_a_single_one_is_not() {
        let under_way = |bytes: usize| {
            let (mut broadcasts, bytes) = (Broadcasts::<()>::default(), Arc::<[u8]>::from(vec![7; bytes]));
            while broadcasts.begin(Broadcast::to_all(bytes.clone())).is_ok() {}
            broadcasts.len()
        };
        assert_eq!(under_way(1), MOST_BROADCASTS);
        assert_eq!(under_way(MOST_BYTES / 8), 8);
        assert_eq!(under_way(MOST_BYTES / 8 + 1), 7);
        assert_eq!(under_way(MOST_BYTES + 1), 1);
    }
}
