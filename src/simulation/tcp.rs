//! TCP between a simulated peer and the shard, for machines whose connections may sleep: numbered bytes in both
//! directions, segments that take a while, are lost, come twice and overtake each other, and what is sent again. So a
//! byte that the shard acknowledges and loses, or sends twice, shows at the peer.
//!
//! A segment is looked up and filtered at one instant, and is in the socket a moment later: so does a softirq of another
//! processor. Windows are never full, and nothing waits for an acknowledgement.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::kernel::{Ending, Kernel};
use crate::hibernation::segment::{self, ACK, FIN, RST};
use crate::hibernation::{Negotiated, Scales, Tuple};

/// Bytes of payload in a segment.
pub const MSS: usize = 1_400;

/// The window that each end announces, before it is shifted.
const WINDOW: u16 = 500;

/// The pauses before what is not acknowledged is sent again.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The time of a segment on its way, at least.
const WAY: Duration = Duration::from_micros(20);

/// The way from the filter into the socket takes at most so long.
pub const SOFTIRQ: Duration = Duration::from_micros(40);

/// The shard's port.
const PORT: u16 = 443;

/// A segment.
#[derive(Debug, Clone)]
pub struct Segment {
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: u8,
    pub payload: Vec<u8>,
}

impl Segment {
    /// Its bytes, from a peer to the shard.
    pub fn bytes(&self, tuple: &Tuple) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(20 + self.payload.len());
        bytes.extend(tuple.remote.port().to_be_bytes());
        bytes.extend(tuple.local.port().to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgement.to_be_bytes());
        bytes.extend([5 << 4, self.flags]);
        bytes.extend(WINDOW.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&self.payload);
        let whole = bytes.len();
        segment::restore(tuple, &mut bytes, whole);
        bytes
    }

    /// Reads what the shard sends raw, in either direction. Its checksum must be right.
    pub fn read(tuple: &Tuple, bytes: &[u8]) -> Segment {
        assert!(segment::checksum_is_right(tuple, bytes, bytes.len()), "a wrong checksum");
        let read = segment::Segment::parse(bytes, bytes.len()).expect("a whole segment");
        Segment {
            sequence: read.sequence,
            acknowledgement: read.acknowledgement,
            flags: read.flags & (ACK | FIN | RST),
            payload: bytes[read.payload()].to_vec(),
        }
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct End {
    /// The first number that is not acknowledged, and the bytes from there on.
    pub unacknowledged: u32,
    pub out: Vec<u8>,
    /// A FIN follows them.
    pub fin: bool,
    /// A FIN was sent, and is acknowledged.
    fin_acknowledged: bool,
    /// The number that is expected next.
    pub next: u32,
    /// A FIN was received.
    pub ended: bool,
    /// Numbers the timer that is set.
    timer: u64,
    pause: Duration,
}

/// What a segment brought to an end.
#[derive(Debug, Default)]
struct Heard {
    bytes: Vec<u8>,
    fin: bool,
    reset: bool,
    /// It calls for an acknowledgement.
    acknowledge: bool,
    /// It acknowledged something.
    progress: bool,
}

impl End {
    pub fn new(sent: u32, received: u32) -> End {
        End {
            unacknowledged: sent,
            out: Vec::new(),
            fin: false,
            fin_acknowledged: false,
            next: received,
            ended: false,
            timer: 0,
            pause: FIRST_PAUSE,
        }
    }

    /// Numbers in flight.
    pub fn in_flight(&self) -> u32 {
        self.out.len() as u32 + u32::from(self.fin)
    }

    /// The number that is sent next.
    pub fn sent(&self) -> u32 {
        self.unacknowledged.wrapping_add(self.in_flight())
    }

    fn acknowledgement(&self) -> Segment {
        Segment { sequence: self.sent(), acknowledgement: self.next, flags: ACK, payload: Vec::new() }
    }

    /// The segments of what is in flight from a place on, some of them at most.
    fn segments(&self, from: usize) -> Vec<Segment> {
        let mut segments: Vec<Segment> = self.out[from..]
            .chunks(MSS)
            .enumerate()
            .map(|(nth, bytes)| Segment {
                sequence: self.unacknowledged.wrapping_add((from + nth * MSS) as u32),
                payload: bytes.to_vec(),
                ..self.acknowledgement()
            })
            .collect();
        if self.fin {
            // Behind the last bytes, or alone.
            let alone = Segment { sequence: self.sent().wrapping_sub(1), ..self.acknowledgement() };
            if segments.is_empty() {
                segments.push(alone);
            }
            segments.iter_mut().last().expect("one at least").flags |= FIN;
        }
        segments.truncate(10);
        segments
    }

    /// A segment came.
    fn heard(&mut self, segment: Segment) -> Heard {
        let mut heard = Heard::default();
        if segment.flags & RST != 0 {
            let gap = segment.sequence.wrapping_sub(self.next);
            heard.reset = gap == 0;
            // Behind a gap it may be forged, so its sender is asked (RFC 5961, 3.2, `tcp_validate_incoming`).
            heard.acknowledge = (1..u32::from(WINDOW)).contains(&gap);
            return heard;
        }
        let acknowledged = segment.acknowledgement.wrapping_sub(self.unacknowledged);
        if (1..=self.in_flight()).contains(&acknowledged) {
            if acknowledged > self.out.len() as u32 {
                (self.fin, self.fin_acknowledged) = (false, true);
            }
            self.out.drain(..self.out.len().min(acknowledged as usize));
            self.unacknowledged = segment.acknowledgement;
            self.pause = FIRST_PAUSE;
            heard.progress = true;
        }
        let fin = segment.flags & FIN != 0;
        let known = self.next.wrapping_sub(segment.sequence).cast_signed();
        heard.acknowledge = !segment.payload.is_empty() || fin || known > 0;
        if (0..=segment.payload.len() as i32).contains(&known) && !self.ended {
            heard.bytes = segment.payload[known as usize..].to_vec();
            heard.fin = fin;
            self.ended = fin;
            self.next = self.next.wrapping_add(heard.bytes.len() as u32 + u32::from(fin));
        }
        heard
    }
}

/// The shard's socket of a connection.
#[derive(Debug)]
pub struct ServerSocket {
    /// Another one after each sleep.
    pub id: u64,
    pub end: End,
    /// The shard has closed it.
    pub orphan: bool,
}

/// A connection: the peer's end, and the shard's while it has a socket.
#[derive(Debug)]
pub struct Link {
    pub tuple: Tuple,
    pub negotiated: Negotiated,
    pub peer: End,
    /// The peer knows the connection no more: it was reset, or both have ended it.
    pub over: bool,
    /// The network brings nothing to the peer or from it any more.
    pub cut: bool,
    /// Added to the time on the way of what the peer sends.
    pub delay: Duration,
    /// When the last segment is in the socket: a softirq keeps their order.
    softirq: Option<Instant>,
    pub socket: Option<ServerSocket>,
}

impl Link {
    /// The peer has sent neither a FIN nor a RST.
    fn peer_may_send(&self) -> bool {
        !self.over && !self.peer.fin && !self.peer.fin_acknowledged
    }
}

/// How the network behaves. One in so many segments has that fate; 0 is none.
#[derive(Debug, Default, Clone, Copy)]
pub struct Network {
    pub lost: usize,
    pub twice: usize,
    /// Added to the time on the way, by chance.
    pub jitter: Duration,
    /// Peers never end a connection that the shard has ended.
    pub never_closes: bool,
}

/// The ends of a peer's connection.
pub fn tuple_of(peer: usize) -> Tuple {
    let number = peer as u32;
    if number % 3 == 2 {
        let ip = |end: u16| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, (number >> 16) as u16, number as u16, end);
        return Tuple { remote: SocketAddr::from((ip(2), 40_000)), local: SocketAddr::from((ip(1), PORT)) };
    }
    let remote = Ipv4Addr::from(10 << 24 | number);
    Tuple { remote: SocketAddr::from((remote, 40_000)), local: SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), PORT)) }
}

/// The peer that has these ends.
pub fn peer_of(tuple: &Tuple) -> usize {
    match tuple.remote {
        SocketAddr::V4(end) => (u32::from(*end.ip()) & 0xff_ffff) as usize,
        SocketAddr::V6(end) => {
            let segments = end.ip().segments();
            usize::from(segments[5]) << 16 | usize::from(segments[6])
        }
    }
}

impl Kernel {
    /// The link of a peer.
    pub fn link(&mut self, peer: usize) -> Option<&mut Link> {
        self.catcher.as_mut()?.links.get_mut(&peer)
    }

    /// A peer has connected: both ends stand.
    pub(super) fn link_up(&mut self, peer: usize) {
        let (one, other) = (self.chance.next() as u32, self.chance.next() as u32);
        let scales = self.chance.one_in(2).then_some(Scales { send: 7, receive: 7 });
        let timestamp_offset = self.chance.one_in(2).then_some(one);
        let negotiated = Negotiated { mss: MSS as u16, scales, sack: self.chance.one_in(2), timestamp_offset };
        let Some(catcher) = &mut self.catcher else { return };
        let socket = ServerSocket { id: catcher.next_id(), end: End::new(other, one), orphan: false };
        let peer_end = End::new(one, other);
        let link = Link {
            cut: false,
            delay: Duration::ZERO,
            tuple: tuple_of(peer),
            negotiated,
            peer: peer_end,
            over: false,
            softirq: None,
            socket: Some(socket),
        };
        catcher.links.insert(peer, link);
    }

    /// Something happens after a while.
    pub(super) fn after(&mut self, pause: Duration, act: impl FnOnce(&mut Kernel) + 'static) {
        self.at(self.elapsed() + pause, act);
    }

    // ---- the network -----------------------------------------------------------------------------

    /// A segment goes on its way.
    fn transmit(&mut self, peer: usize, to_shard: bool, segment: Segment) {
        let Some(network) = self.catcher.as_ref().map(|catcher| catcher.network) else { return };
        let delay = self.link(peer).filter(|_| to_shard).map_or(Duration::ZERO, |link| link.delay);
        let copies = 1 + usize::from(network.twice > 0 && self.chance.one_in(network.twice));
        for _ in 0..copies {
            let is_cut = self.link(peer).is_some_and(|link| link.cut);
            if is_cut || network.lost > 0 && self.chance.one_in(network.lost) {
                continue;
            }
            let (way, segment) = (WAY + delay + self.chance.time(network.jitter), segment.clone());
            self.after(way, move |kernel| {
                if to_shard { kernel.arrive(peer, segment, false) } else { kernel.arrive_at_peer(peer, segment) }
            });
        }
    }

    /// The shard sends a segment without a socket.
    pub(super) fn send_raw(&mut self, tuple: &Tuple, bytes: &[u8]) {
        self.transmit(peer_of(tuple), false, Segment::read(tuple, bytes));
    }

    // ---- the shard's end -------------------------------------------------------------------------

    /// A segment arrives at the shard's machine: it is looked up and filtered. One that is `marked` passes the filter.
    pub(super) fn arrive(&mut self, peer: usize, segment: Segment, marked: bool) {
        let late = if self.chance.one_in(2) { self.chance.time(SOFTIRQ) } else { Duration::ZERO };
        let now = self.now();
        let Some(catcher) = &mut self.catcher else { return };
        let Some(link) = catcher.links.get(&peer) else { return };
        let (tuple, id, before) = (link.tuple, link.socket.as_ref().map(|socket| socket.id), link.softirq);
        if !marked && let Some(index) = catcher.looked_up(peer, id.is_some(), &mut self.chance) {
            return self.catch(index, tuple, segment);
        }
        match id {
            Some(id) => {
                let at = before.map_or(now, |before| before.max(now)).max(now + late);
                if let Some(link) = self.link(peer) {
                    link.softirq = Some(at);
                }
                self.after(at - now, move |kernel| kernel.hear(peer, id, segment));
            }
            None if segment.flags & RST == 0 => {
                // The listener knows no such connection.
                let reset = Segment { sequence: segment.acknowledgement, flags: RST, payload: Vec::new(), ..segment };
                self.transmit(peer, false, reset);
            }
            None => {}
        }
    }

    /// A segment is in the socket that it was looked up for, if that still exists.
    fn hear(&mut self, peer: usize, id: u64, segment: Segment) {
        let Some(link) = self.link(peer) else { return };
        let Some(socket) = link.socket.as_mut().filter(|socket| socket.id == id) else { return };
        let heard = socket.end.heard(segment);
        let (orphan, rest) = (socket.orphan, socket.end.in_flight());
        let over = orphan && socket.end.ended && rest == 0;
        let (answer, reset) = (socket.end.acknowledgement(), heard.reset);
        if reset || over || orphan && !heard.bytes.is_empty() {
            link.socket = None;
        }
        if reset {
            if !orphan {
                self.is_reset(peer);
            }
            return;
        }
        if orphan && !heard.bytes.is_empty() {
            return self.transmit(peer, false, Segment { flags: RST, ..answer });
        }
        if heard.acknowledge {
            self.transmit(peer, false, answer);
        }
        if heard.progress {
            self.set_shard_timer(peer, id);
        }
        if !orphan {
            let news = heard.fin || !heard.bytes.is_empty();
            self.sockets[peer].inbox.extend(heard.bytes);
            self.sockets[peer].fin |= heard.fin;
            if news {
                self.readable(peer);
            }
        }
    }

    /// The shard sends bytes on a socket, as many as its buffer takes. `None` where no TCP is simulated.
    pub(super) fn tcp_deliver(&mut self, peer: usize, bytes: &[u8]) -> Option<usize> {
        self.catcher.as_ref()?;
        let room = &mut self.sockets[peer].window;
        let taken = bytes.len().min(*room);
        if *room != usize::MAX {
            *room -= taken;
        }
        if let Some(socket) = self.link(peer).and_then(|link| link.socket.as_mut()) {
            socket.end.out.extend_from_slice(&bytes[..taken]);
            let from = socket.end.out.len() - taken;
            let id = socket.id;
            let segments = socket.end.segments(from);
            segments.into_iter().for_each(|segment| self.transmit(peer, false, segment));
            if from == 0 {
                self.set_shard_timer(peer, id);
            }
        }
        Some(taken)
    }

    /// The shard closes its descriptor.
    pub(super) fn tcp_close(&mut self, peer: usize) {
        let unread = !self.sockets[peer].inbox.is_empty();
        let Some(link) = self.link(peer) else { return };
        let Some(socket) = &mut link.socket else { return };
        if unread {
            return self.tcp_abort(peer);
        }
        socket.orphan = true;
        if socket.end.ended && socket.end.fin_acknowledged {
            link.socket = None;
        } else {
            self.tcp_shutdown(peer);
        }
    }

    /// The shard sends a FIN, unless it has.
    pub(super) fn tcp_shutdown(&mut self, peer: usize) {
        let Some(socket) = self.link(peer).and_then(|link| link.socket.as_mut()) else { return };
        if socket.end.fin || socket.end.fin_acknowledged {
            return;
        }
        socket.end.fin = true;
        let (id, all) = (socket.id, socket.end.out.len());
        let fin = socket.end.segments(all);
        fin.into_iter().for_each(|segment| self.transmit(peer, false, segment));
        self.set_shard_timer(peer, id);
    }

    /// The shard resets a connection.
    pub(super) fn tcp_abort(&mut self, peer: usize) {
        let Some(socket) = self.link(peer).and_then(|link| link.socket.take()) else { return };
        self.transmit(peer, false, Segment { flags: RST | ACK, ..socket.end.acknowledgement() });
    }

    fn set_shard_timer(&mut self, peer: usize, id: u64) {
        let Some(socket) = self.link(peer).and_then(|link| link.socket.as_mut()) else { return };
        if socket.id != id || socket.end.in_flight() == 0 {
            return;
        }
        socket.end.timer += 1;
        let (timer, pause) = (socket.end.timer, socket.end.pause);
        self.after(pause, move |kernel| {
            let Some(socket) = kernel.link(peer).and_then(|link| link.socket.as_mut()) else { return };
            if socket.id == id && socket.end.timer == timer && socket.end.in_flight() > 0 {
                socket.end.pause = (2 * pause).min(LONGEST_PAUSE);
                let segments = socket.end.segments(0);
                segments.into_iter().for_each(|segment| kernel.transmit(peer, false, segment));
                kernel.set_shard_timer(peer, id);
            }
        });
    }

    // ---- the peer's end --------------------------------------------------------------------------

    /// A peer sends bytes.
    pub(super) fn peer_says(&mut self, peer: usize, bytes: &[u8]) {
        let Some(link) = self.link(peer).filter(|link| link.peer_may_send() && !link.peer.ended) else { return };
        let from = link.peer.out.len();
        link.peer.out.extend_from_slice(bytes);
        let segments = link.peer.segments(from);
        self.sockets[peer].said += bytes.len();
        segments.into_iter().for_each(|segment| self.transmit(peer, true, segment));
        // Where something is in flight a timer is set.
        if from == 0 {
            self.set_peer_timer(peer);
        }
    }

    /// A peer sends a FIN.
    pub(super) fn peer_ends(&mut self, peer: usize) {
        let Some(link) = self.link(peer).filter(|link| link.peer_may_send()) else { return };
        link.peer.fin = true;
        let all = link.peer.out.len();
        let fin = link.peer.segments(all);
        fin.into_iter().for_each(|segment| self.transmit(peer, true, segment));
        self.set_peer_timer(peer);
    }

    /// A peer resets its connection.
    pub(super) fn peer_resets(&mut self, peer: usize) {
        let Some(link) = self.link(peer).filter(|link| !link.over) else { return };
        link.over = true;
        let reset = Segment { flags: RST | ACK, ..link.peer.acknowledgement() };
        self.transmit(peer, true, reset);
    }

    /// A peer asks whether the connection still exists: a byte's number that was acknowledged, without the byte.
    pub fn probe(&mut self, peer: usize) {
        let Some(link) = self.link(peer).filter(|link| !link.over && link.peer.in_flight() == 0) else { return };
        let acknowledgement = link.peer.acknowledgement();
        let probe = Segment { sequence: acknowledgement.sequence.wrapping_sub(1), ..acknowledgement };
        self.transmit(peer, true, probe);
    }

    /// From now on the network brings nothing to a peer or from it.
    pub fn cut(&mut self, peer: usize) {
        if let Some(link) = self.link(peer) {
            link.cut = true;
        }
    }

    /// From now on what a peer sends is so much longer on its way.
    pub fn delay(&mut self, peer: usize, delay: Duration) {
        if let Some(link) = self.link(peer) {
            link.delay = delay;
        }
    }

    /// A segment that no peer sent.
    pub fn forge(&mut self, peer: usize) {
        let flags = [ACK, RST, ACK | FIN, ACK | RST][self.chance.below(4)];
        let (sequence, acknowledgement) = (self.chance.next() as u32, self.chance.next() as u32);
        let payload = vec![0xff; self.chance.below(3)];
        self.transmit(peer, true, Segment { sequence, acknowledgement, flags, payload });
    }

    fn set_peer_timer(&mut self, peer: usize) {
        let Some(link) = self.link(peer).filter(|link| !link.over && link.peer.in_flight() > 0) else { return };
        link.peer.timer += 1;
        let (timer, pause) = (link.peer.timer, link.peer.pause);
        self.after(pause, move |kernel| {
            let Some(link) = kernel.link(peer) else { return };
            if !link.over && link.peer.timer == timer && link.peer.in_flight() > 0 {
                link.peer.pause = (2 * pause).min(LONGEST_PAUSE);
                let segments = link.peer.segments(0);
                segments.into_iter().for_each(|segment| kernel.transmit(peer, true, segment));
                kernel.set_peer_timer(peer);
            }
        });
    }

    /// A segment arrives at a peer.
    fn arrive_at_peer(&mut self, peer: usize, segment: Segment) {
        let now = self.now();
        let Some(link) = self.link(peer) else { return };
        if link.over {
            if segment.flags & RST == 0 {
                let reset = Segment { sequence: segment.acknowledgement, flags: RST, payload: Vec::new(), ..segment };
                self.transmit(peer, true, reset);
            }
            return;
        }
        // Something behind a gap has come to the shard: what is missing is sent again at once.
        let gap = segment.payload.is_empty() && segment.acknowledgement == link.peer.unacknowledged;
        let again = gap && segment.flags == ACK && !link.peer.out.is_empty();
        let heard = link.peer.heard(segment);
        let answer = link.peer.acknowledgement();
        let first = link.peer.segments(0).into_iter().next().filter(|_| again);
        link.over = heard.reset || link.peer.ended && link.peer.fin_acknowledged;
        self.note_heard(peer, &heard.bytes);
        let socket = &mut self.sockets[peer];
        if heard.reset || heard.fin {
            socket.ended.get_or_insert((if heard.reset { Ending::Reset } else { Ending::Fin }, now));
        }
        if heard.acknowledge && !heard.reset {
            self.transmit(peer, true, answer);
        }
        first.into_iter().for_each(|segment| self.transmit(peer, true, segment));
        if heard.progress {
            self.set_peer_timer(peer);
        }
        if heard.fin && !self.catcher.as_ref().is_some_and(|catcher| catcher.network.never_closes) {
            let pause = self.chance.time(Duration::from_millis(20));
            self.after(pause, move |kernel| kernel.peer_ends(peer));
        }
    }
}
