//! The memory of operations that are in the kernel, and what their completions say.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::cqueue;

use super::{Accepts, Buffer, Buffers, Completion, Outcome};
use crate::error::{Errno, Error, Result};
use crate::sys::RawAddress;
use crate::token::{Operation, Token};

/// Receives, and sends, whose places in a ring's queue are kept. A burst makes up to eight times as many, and comes to one
/// ring after the other. To grow for it again takes less than a microsecond; to keep its places would take up to 2 MiB of
/// the 52 rings of a million connections.
const KEPT_PLACES: usize = 64;

/// An operation that the kernel finishes within its own enter, and the memory that it works on.
#[derive(Debug)]
struct InFlight<M> {
    token: Token,
    memory: M,
}

/// Where the bytes of a send lie.
#[derive(Debug)]
enum SendBytes {
    /// In a buffer of the shard, which goes back to the others when the send is over.
    Buffer(Buffer),
    /// In memory that other sends may read too. The clone kept here keeps it alive until the kernel is done.
    Shared(Arc<[u8]>),
}

/// The memory of operations in the kernel; each piece is given back once.
#[derive(Debug, Default)]
pub(crate) struct InFlightOps {
    receiving: VecDeque<InFlight<Buffer>>,
    /// Each with the part of the bytes that is sent.
    sending: VecDeque<InFlight<(SendBytes, Range<usize>)>>,
    submitted_sends: usize,
    /// Sends among them whose bytes are in no buffer of the shard.
    shared_sends: usize,
    /// Sends that wait in the kernel, and which part of their bytes it is still to take.
    parked: HashMap<u64, (Arc<[u8]>, Range<usize>)>,
    /// Where the kernel writes the peers' addresses, for accepts that ask for them.
    accepting: HashMap<u64, Box<RawAddress>>,
    /// What accepts bring.
    pub accepts: Accepts,
}

impl InFlightOps {
    /// Holds nothing.
    pub fn new(accepts: Accepts) -> InFlightOps {
        let mut ops = InFlightOps::default();
        ops.accepts = accepts;
        ops
    }

    /// Keeps the buffer of a receive, until its completion.
    pub fn receive(&mut self, token: Token, buffer: Buffer) {
        self.receiving.push_back(InFlight { token, memory: buffer });
    }

    /// Keeps the buffer of a send, until its completion or `finish_sends`.
    pub fn send(&mut self, token: Token, buffer: Buffer, range: Range<usize>) {
        self.sending.push_back(InFlight { token, memory: (SendBytes::Buffer(buffer), range) });
    }

    /// Keeps shared bytes alive for a send, until its completion or `finish_sends`.
    pub fn send_shared(&mut self, token: Token, bytes: Arc<[u8]>) {
        let range = 0..bytes.len();
        self.shared_sends += 1;
        self.sending.push_back(InFlight { token, memory: (SendBytes::Shared(bytes), range) });
    }

    /// Keeps a place for the peer's address of an accept, until `accepted_from` or the accept fails. Returns where it
    /// lies; it does not move meanwhile.
    pub fn accept(&mut self, token: Token) -> &mut RawAddress {
        self.accepting.entry(token.pack()).or_insert_with(|| Box::new(RawAddress::to_be_written()))
    }

    /// The peer's address of an accept that has succeeded.
    pub fn accepted_from(&mut self, token: Token) -> Option<Box<RawAddress>> {
        self.accepting.remove(&token.pack())
    }

    /// Keeps the bytes of a parked send, until its completion. The kernel is to take those in `range`.
    pub fn park(&mut self, token: Token, bytes: Arc<[u8]>, range: Range<usize>) {
        let former = self.parked.insert(token.pack(), (bytes, range));
        debug_assert!(former.is_none(), "two parked sends of one connection");
    }

    /// Every send so far is with the kernel.
    pub fn submitted(&mut self) {
        self.submitted_sends = self.sending.len();
    }

    /// Buffers of the shard that receives and sends hold.
    pub fn buffers(&self) -> usize {
        self.receiving.len() + self.sending.len() - self.shared_sends
    }

    /// Whether the kernel has taken sends that `finish_sends` has not told of yet.
    pub fn has_submitted_sends(&self) -> bool {
        self.submitted_sends > 0
    }

    /// Whether a send of that token is not over, as far as is known. The last ones are looked at first.
    pub fn has_send(&self, token: Token) -> bool {
        self.sending.iter().rev().any(|send| send.token == token)
    }

    /// Bytes of a parked send in the kernel, as they were when it began to wait.
    pub fn parked_bytes(&self, token: Token) -> usize {
        if self.parked.is_empty() { 0 } else { self.parked.get(&token.pack()).map_or(0, |(_, range)| range.len()) }
    }

    /// Whether a parked send of that token is in the kernel.
    pub fn has_parked(&self, token: Token) -> bool {
        !self.parked.is_empty() && self.parked.contains_key(&token.pack())
    }

    /// Gives back the memory of all sends that were submitted, and of the places that a burst has left.
    pub fn finish_sends(&mut self, buffers: &mut Buffers, into: &mut Vec<Token>) {
        for sent in self.sending.drain(..self.submitted_sends) {
            match sent.memory.0 {
                SendBytes::Buffer(buffer) => buffers.put(buffer),
                SendBytes::Shared(_) => self.shared_sends -= 1,
            }
            into.push(sent.token);
        }
        self.submitted_sends = 0;
        leave_kept(&mut self.receiving);
        leave_kept(&mut self.sending);
    }

    /// What a completion says. A bug if it is none of what was asked.
    pub fn decode(&mut self, user_data: u64, result: i32, flags: u32) -> Result<Completion> {
        let token =
            Token::unpack(user_data).ok_or_else(|| Error::bug(format!("completion with user data {user_data:#x}")))?;
        let errno = Errno(result.saturating_neg());
        let outcome = match token.operation {
            Operation::Accept if result < 0 => {
                self.accepting.remove(&user_data);
                accept_failed(errno)
            }
            Operation::Accept => Outcome::Accepted((self.accepts == Accepts::Plain).then(|| {
                // SAFETY: every accept of this ring asked for a plain descriptor; the kernel made it for this one
                // alone.
                unsafe { OwnedFd::from_raw_fd(result) }
            })),
            Operation::Install if result < 0 => Outcome::InstallFailed(errno),
            Operation::Connect if result < 0 => Outcome::ConnectFailed(errno),
            Operation::Connect => Outcome::Connected,
            Operation::Poll => {
                let seen = |event: libc::c_short| result > 0 && result & i32::from(event) != 0;
                Outcome::Ready { armed: cqueue::more(flags), over: seen(libc::POLLHUP), fin: seen(libc::POLLRDHUP) }
            }
            Operation::Receive => self.received(token, result, flags)?,
            Operation::Send => self.sent(token, result)?,
            Operation::ParkedSend => {
                let (bytes, range) = self.parked.remove(&user_data).unwrap_or_else(|| ([].into(), 0..0));
                match usize::try_from(result) {
                    Ok(sent) if sent == range.len() => Outcome::ParkedSent,
                    Ok(sent) if sent < range.len() => Outcome::ParkedSendCut(bytes, range.start + sent..range.end),
                    // More than it was given.
                    Ok(_) => Outcome::ParkedSendFailed(Errno(libc::EPIPE)),
                    Err(_) if errno.0 == libc::ECANCELED => Outcome::ParkedSendCut(bytes, range),
                    Err(_) => Outcome::ParkedSendFailed(errno),
                }
            }
            Operation::Cancel if errno.0 == libc::EALREADY => Outcome::CancelTooLate,
            Operation::Close => Outcome::Closed,
            Operation::FilterWake => Outcome::FilterWoke { armed: cqueue::more(flags) },
            Operation::CatcherWake => Outcome::CatcherWoke,
            Operation::DoorbellWake => Outcome::DoorbellRang,
            Operation::Install
            | Operation::InstallAccepted
            | Operation::Cancel
            | Operation::Reset
            | Operation::CopyDescriptor => Outcome::Settled,
            Operation::Shutdown => Outcome::ShutDown { failed: result < 0 && errno.0 != libc::ENOTCONN },
        };
        Ok(Completion { token, outcome })
    }

    fn received(&mut self, token: Token, result: i32, flags: u32) -> Result<Outcome> {
        let buffer = take(&mut self.receiving, token)?;
        let room = buffer.0.len();
        Ok(match usize::try_from(result) {
            Ok(0) => Outcome::End(buffer),
            Ok(len) if len < room => Outcome::Received { more: cqueue::sock_nonempty(flags), buffer, len },
            Ok(len) if len == room => Outcome::Received { more: true, buffer, len },
            Ok(len) => return Err(Error::bug(format!("{len} bytes received into {room}"))),
            Err(_) if is_nothing_yet(result) => Outcome::Empty(buffer),
            Err(_) => Outcome::ReceiveFailed(buffer, Errno(result.saturating_neg())),
        })
    }

    fn sent(&mut self, token: Token, result: i32) -> Result<Outcome> {
        let before = self.sending.len();
        let (bytes, range) = take(&mut self.sending, token)?;
        self.submitted_sends = self.submitted_sends.saturating_sub(before - self.sending.len());
        let rest = match usize::try_from(result) {
            Ok(sent) => Ok(range.start + sent.min(range.len())..range.end),
            Err(_) if is_nothing_yet(result) => Ok(range),
            Err(_) => Err(Errno(result.saturating_neg())),
        };
        self.shared_sends -= usize::from(matches!(bytes, SendBytes::Shared(_)));
        Ok(match (bytes, rest) {
            (SendBytes::Buffer(buffer), Ok(rest)) => Outcome::SentShort(buffer, rest),
            (SendBytes::Buffer(buffer), Err(errno)) => Outcome::SendFailed(buffer, errno),
            (SendBytes::Shared(bytes), Ok(rest)) => Outcome::SharedSentShort(bytes, rest),
            (SendBytes::Shared(_), Err(errno)) => Outcome::SharedSendFailed(errno),
        })
    }
}

impl Drop for InFlightOps {
    fn drop(&mut self) {
        // Parked sends and accepts outlive the ring for a moment while the kernel tears it down: their memory
        // must not be freed under it.
        for (_, (bytes, _)) in self.parked.drain() {
            std::mem::forget(bytes);
        }
        for (_, address) in self.accepting.drain() {
            std::mem::forget(address);
        }
    }
}

/// Gives back the places of an empty queue that are more than are kept.
fn leave_kept<M>(in_flight: &mut VecDeque<InFlight<M>>) {
    if in_flight.is_empty() && in_flight.capacity() > KEPT_PLACES {
        in_flight.shrink_to(KEPT_PLACES);
    }
}

fn is_nothing_yet(result: i32) -> bool {
    result == -libc::EAGAIN || result == -libc::EINTR
}

/// Takes the memory of the operation of `token` out of those in flight. The kernel completes them in order, so
/// it is nearly always the first.
fn take<M>(in_flight: &mut VecDeque<InFlight<M>>, token: Token) -> Result<M> {
    let at = in_flight.iter().position(|one| one.token == token);
    at.and_then(|at| in_flight.remove(at))
        .map(|one| one.memory)
        .ok_or_else(|| Error::bug(format!("completion of {token:?}, which is not in flight")))
}

/// The errors of accept, each by what to do next. Those that the new connection brought along
/// (accept(2), "Error handling") are no reason to wait; anything else would come again at once: no memory,
/// no files, or something we do not know.
fn accept_failed(errno: Errno) -> Outcome {
    let pause = !matches!(
        errno.0,
        libc::EINTR
            | libc::EAGAIN
            | libc::ECONNABORTED
            | libc::EPROTO
            | libc::EPERM
            | libc::ETIMEDOUT
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH
    );
    Outcome::AcceptFailed { errno, pause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_leaves_few_places() {
        let (mut in_flight, mut buffers) = (InFlightOps::default(), Buffers::default());
        let token = |slot: usize, operation| Token { slot: slot as u32, generation: 0, operation };
        for burst in [4 * KEPT_PLACES, 1] {
            for slot in 0..burst {
                in_flight.receive(token(slot, Operation::Receive), buffers.take());
                in_flight.send(token(slot, Operation::Send), buffers.take(), 0..1);
            }
            in_flight.submitted();
            for slot in 0..burst {
                in_flight.decode(token(slot, Operation::Receive).pack(), 0, 0).unwrap();
            }
            in_flight.finish_sends(&mut buffers, &mut Vec::new());
            // What is kept serves the next ones.
            let kept = KEPT_PLACES..2 * KEPT_PLACES;
            assert!(kept.contains(&in_flight.receiving.capacity()), "{}", in_flight.receiving.capacity());
            assert!(kept.contains(&in_flight.sending.capacity()), "{}", in_flight.sending.capacity());
        }
    }
}
