//! What a client shard waits for: one probe for each connect or message in flight. Their number bounds the memory. A
//! sweep finds the late ones, so no connection has a timer.

use std::time::{Duration, Instant};

use socket2::Socket;

use crate::clock::Mark;
use crate::protocol::Purpose;
use crate::token::ConnId;

/// What a probe waits for.
#[derive(Debug)]
pub enum Awaited {
    /// A connect. The plain socket stays open to ask TCP about it. The first attempt to dial the connection, perhaps from
    /// another source port, started at `attempted`, on the shard's own clock.
    Connect { socket: Socket, given_up: bool, attempted: Mark },
    /// The end of a TLS handshake. The engine gives up a late one.
    Handshake { socket: Socket },
    /// An answer. While the connection is opened the plain socket is still there.
    Answer { purpose: Purpose, socket: Option<Socket> },
    /// The server's FIN, after both ends have said goodbye. What comes before it is not heard.
    End,
}

/// When something should have started, and the messages of its connection that were due before its answer came. Those are
/// left out, and wait for the same answer.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    /// When it should have started.
    pub intended: Instant,
    /// How many messages were left out, and when the last of them was due.
    left_out: u32,
    last: Instant,
}

impl Due {
    /// Something that should start at an instant, with nothing left out.
    pub fn at(intended: Instant) -> Due {
        Due { intended, left_out: 0, last: intended }
    }

    /// Leaves a message out, which is due later than all before it.
    pub fn leave_out(&mut self, intended: Instant) {
        (self.left_out, self.last) = (self.left_out + 1, intended);
    }

    /// When it should have started, and when each message that was left out should have: the messages of a connection are
    /// due at even distances.
    pub fn instants(self) -> impl Iterator<Item = Instant> {
        let distance = self.last.saturating_duration_since(self.intended) / self.left_out.max(1);
        (0..=self.left_out).map(move |nth| self.intended + distance * nth)
    }
}

/// One thing in flight.
#[derive(Debug)]
pub struct Probe {
    /// The connection.
    pub conn: ConnId,
    /// What is awaited.
    pub awaited: Awaited,
    /// When it should have started; with a `next` message, when that should have.
    pub due: Due,
    /// When it started.
    pub started: Instant,
    /// The same on the shard's own clock, by which it becomes late.
    pub since: Mark,
    /// The round of the message.
    pub round: u32,
    /// What is asked once this is answered, and its round: an audit or a message that found a keepalive in flight.
    pub next: Option<(Purpose, u32)>,
}

/// What a probe is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The phase waits for it.
    Work,
    /// A keepalive, for which nothing waits.
    Keepalive,
    /// A goodbye, and the end after it.
    Goodbye,
}

impl Probe {
    /// What its answer is for; `None` for a connect, and for an end.
    pub fn purpose(&self) -> Option<Purpose> {
        match self.awaited {
            Awaited::Connect { .. } | Awaited::Handshake { .. } | Awaited::End => None,
            Awaited::Answer { purpose, .. } => Some(purpose),
        }
    }

    fn kind(&self) -> Kind {
        match self.awaited {
            Awaited::Answer { purpose: Purpose::Keepalive, .. } if self.next.is_none() => Kind::Keepalive,
            Awaited::Answer { purpose: Purpose::Goodbye, .. } | Awaited::End => Kind::Goodbye,
            _ => Kind::Work,
        }
    }
}

/// How long a connect and answers may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A connect.
    pub connect: Duration,
    /// An answer.
    pub reply: Duration,
    /// The answer to a goodbye, and the end after it.
    pub goodbye: Duration,
}

/// The probes of one shard, each with a key that is never 0.
#[derive(Debug, Default)]
pub struct Window {
    places: Vec<Option<Probe>>,
    free: Vec<u32>,
    /// How many there are of each kind.
    used: [usize; 3],
}

impl Window {
    /// Adds a probe.
    pub fn add(&mut self, probe: Probe) -> u32 {
        self.used[probe.kind() as usize] += 1;
        match self.free.pop() {
            Some(key) => {
                self.places[key as usize - 1] = Some(probe);
                key
            }
            None => {
                self.places.push(Some(probe));
                self.places.len() as u32
            }
        }
    }

    /// The probe of a key; `None` for key 0 and for a probe that was removed.
    pub fn get(&self, key: u32) -> Option<&Probe> {
        self.places.get((key as usize).checked_sub(1)?)?.as_ref()
    }

    /// Changes the probe of a key. Tells whether there is one.
    pub fn change(&mut self, key: u32, change: impl FnOnce(&mut Probe)) -> bool {
        let place = (key as usize).checked_sub(1).and_then(|at| self.places.get_mut(at));
        let Some(probe) = place.and_then(Option::as_mut) else { return false };
        self.used[probe.kind() as usize] -= 1;
        change(probe);
        self.used[probe.kind() as usize] += 1;
        true
    }

    /// Takes a probe out.
    pub fn remove(&mut self, key: u32) -> Option<Probe> {
        let probe = self.places.get_mut((key as usize).checked_sub(1)?)?.take()?;
        self.free.push(key);
        self.used[probe.kind() as usize] -= 1;
        Some(probe)
    }

    /// How many connects and answers a phase waits for.
    pub fn len(&self) -> usize {
        self.used[Kind::Work as usize]
    }

    /// How many keepalives are in flight that nothing waits for.
    pub fn keepalives(&self) -> usize {
        self.used[Kind::Keepalive as usize]
    }

    /// How many goodbyes are in flight.
    pub fn goodbyes(&self) -> usize {
        self.used[Kind::Goodbye as usize]
    }

    /// Whether nothing of any kind is in flight.
    pub fn is_idle(&self) -> bool {
        self.used == [0; 3]
    }

    /// The connections whose connect or answer is awaited for longer than its limit. A connect that was given up is not
    /// named again, and a handshake is not named at all.
    pub fn late(&self, now: Mark, limits: Limits) -> Vec<ConnId> {
        let late = self.places.iter().flatten().filter(|probe| {
            let limit = match &probe.awaited {
                Awaited::Connect { given_up: true, .. } | Awaited::Handshake { .. } => return false,
                Awaited::Connect { .. } => limits.connect,
                Awaited::Answer { purpose: Purpose::Goodbye, .. } | Awaited::End => limits.goodbye,
                Awaited::Answer { .. } => limits.reply,
            };
            now.since(probe.since) >= limit
        });
        late.map(|probe| probe.conn).collect()
    }

    /// The connections that are being dialed.
    pub fn dialing(&self) -> Vec<ConnId> {
        let probes = self.places.iter().flatten();
        probes
            .filter(|probe| matches!(probe.awaited, Awaited::Connect { given_up: false, .. }))
            .map(|p| p.conn)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Each message has an instant of its own, and all of them those at which they were due.
        #[test]
        fn messages_that_were_left_out_are_due_at_even_distances(distance in 1..10_000_000_u32, left_out in 0..1_000_u32) {
            let (first, distance) = (Instant::now(), Duration::from_micros(distance.into()));
            let mut due = Due::at(first);
            (1..=left_out).for_each(|nth| due.leave_out(first + distance * nth));
            let instants: Vec<Instant> = due.instants().collect();
            prop_assert_eq!(instants, (0..=left_out).map(|nth| first + distance * nth).collect::<Vec<_>>());
        }
    }
}
