//! The catcher: it keeps the segments of sleeping connections from the kernel, which has no sockets for them, and
//! gives them to the shards.
//!
//! A segment whose connection has no socket is looked up to the listener of its port, and `tcp_v4_rcv` runs the
//! listener's socket filter before anything else looks at the segment. The catcher's part of this filter looks its ends
//! up in a table. If it finds them, it copies the segment into a ring buffer, and has the kernel drop it; the kernel
//! then answers nothing. Other segments go on as ever.
//!
//! A connection is put to sleep, or woken, in a *transit*, in which it has both a socket and a place in the table. Only
//! while a transit is under way do the programs of established sockets look into the table: it has precedence over the
//! socket. So no segment reaches a socket that is about to go or is not yet complete.
//!
//! **Three times belong to a softirq that has looked a segment's socket up, and has not yet run its filter.** It may
//! stand still meanwhile, for as long as a grace period of RCU at most (`grace.rs`):
//!
//! - It may have passed the filter before `insert`, and bring its segment to the socket afterwards. Therefore a
//!   grace period lies between `insert` and the checkpoint.
//! - It may have found the listener before a woken connection had its socket, and run the filter afterwards. If the
//!   connection were not in the table then, the listener would answer with a RST. Therefore `wake` leaves it
//!   there, for listeners alone, and `remove` follows a grace period later.
//! - It may have found a socket that was blanked meanwhile (`repair.rs`), and serves another connection afterwards.
//!   Therefore a blank socket rests for a grace period.
//!
//! For connections that were dialed there is no listener. `steer` attaches a program to the network namespace that
//! finds sinks for them: listeners of the catcher's own, with its filter.
//!
//! The programs know a connection by its tag and its buckets (`table.rs`). So a few other connections pass for one in the
//! table: one in 190 million where as many sleep as the table is sized for. A segment of such a *stranger* is caught, and
//! the shard sends it on with a mark. Filters see the mark. The program that finds sinks cannot see it, and would lead the
//! segment to a sink again, so that program is told of strangers (`exempt`).

mod hash;
mod program;
mod ring;
mod table;

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use serde::{Deserialize, Serialize};

use super::attach_program;
use super::bpf::{self, Mapping, Program};
use crate::constants::PAGE_BYTES;
use crate::hibernation::Tuple;
use hash::{ENDS_BYTES, Words};
use program::{DROPPED_AT, LINE, Maps, PATIENT_AT, PROCESSES, RESETS_AT, SINK_V4, SINK_V6};
pub use ring::{Caught, CaughtAt, CaughtSegment, Patience};
use table::Table;

/// The mark (SO_MARK, socket(7)) of segments that this process makes: the programs let them pass. It must not be the
/// mark of a rule of this host's routing. These are the letters "c1mh".
pub const MARK: u32 = u32::from_be_bytes(*b"c1mh");

/// Strangers that are known at most. Each takes some 100 bytes of the kernel's memory. Where the table is full, a host with a
/// thousand new connections a second gets one in two days.
const MOST_STRANGERS: u32 = 1_024;

/// The names of its maps, and that of a shard's ring buffer.
const TABLE: &str = "table";
const RINGS: &str = "rings";
const WORDS: &str = "words";
fn ring_name(shard: usize) -> String {
    format!("ring-{shard}")
}

/// Bytes of the words that the programs share with this process.
fn bytes_of_words(table: &Table) -> usize {
    ((table.division.shards + 1) * LINE).next_multiple_of(PAGE_BYTES as usize)
}

/// Bytes of a record before the segment: value, length, protocol and time, 4 bytes each, and two addresses of 16.
const RECORD_HEADER: i32 = 48;

/// Why a connection cannot be inserted. It then stays awake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// Both of its buckets are full, or its index is too large.
    Full,
    /// One of its buckets holds a connection with the same tag: the programs could not tell them apart.
    Collides,
}

/// The memory with words that the programs share with this process.
struct Shared {
    words: Mapping,
    /// The word in which this process counts its transits.
    transits: usize,
}

impl Shared {
    fn transits(&self) -> &AtomicU64 {
        self.words.word(self.transits)
    }

    fn dropped(&self, shard: usize) -> &AtomicU64 {
        self.of_shard(shard, DROPPED_AT)
    }

    fn dropped_resets(&self, shard: usize) -> &AtomicU64 {
        self.of_shard(shard, RESETS_AT)
    }

    /// How caught segments wake the shard (`Patience`).
    fn patience(&self, shard: usize) -> &AtomicU64 {
        self.of_shard(shard, PATIENT_AT)
    }

    fn of_shard(&self, shard: usize, at: usize) -> &AtomicU64 {
        self.words.word(((shard + 1) * LINE + at) / size_of::<u64>())
    }
}

/// What another process must know to use the maps of a catcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatcherTerms {
    /// Shards that it has.
    pub shards: usize,
    /// Bytes of the ring buffer of each.
    pub ring_bytes: u32,
    /// Buckets of its table.
    pub buckets: u32,
    /// The secret keys of the table's hash.
    pub keys: Vec<u64>,
    /// How many processes used it before this one.
    pub processes: usize,
}

impl CatcherTerms {
    /// Connections that its table is sized for.
    pub fn connections(&self) -> u64 {
        Table::connections(self.buckets)
    }
}

/// A catcher for all shards of this process.
pub struct Catcher {
    table: Table,
    /// The ring buffer of each shard, and whether its consumer's end was given out.
    rings: Vec<(OwnedFd, AtomicBool)>,
    ring_bytes: u32,
    /// The ring buffers for the programs, by the number of the shard.
    ring_map: OwnedFd,
    words: OwnedFd,
    /// Strangers, by the bytes of their ends, and whether there are any.
    strangers: OwnedFd,
    has_strangers: AtomicBool,
    shared: Arc<Shared>,
    program: OwnedFd,
    /// How many processes used it before this one.
    processes: usize,
}

impl fmt::Debug for Catcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catcher").field("shards", &self.rings.len()).field("bytes", &self.bytes()).finish()
    }
}

impl Catcher {
    /// A catcher for `connections` sleeping connections of `shards` shards. Each shard has a ring buffer of at least
    /// `ring_bytes` bytes, which becomes a power of two from 256 KiB to 1 GiB. The table takes 11.4 bytes for each
    /// connection, all of which the kernel allocates at once.
    ///
    /// Fails with EPERM without CAP_BPF, with EACCES without CAP_PERFMON, with ENOMEM, and with E2BIG where the table
    /// would need 2^31 buckets or more.
    pub fn new(shards: usize, connections: u64, ring_bytes: u32) -> io::Result<Catcher> {
        let ring_bytes = ring::ring_bytes(ring_bytes);
        let table = Table::new(shards, connections)?;
        let rings = (0..shards.max(1))
            .map(|_| bpf::create_map(bpf::RING_BUFFER, 0, 0, ring_bytes, 0))
            .collect::<io::Result<Vec<_>>>()?;
        let ring_map = bpf::create_array_of_maps(table.division.shards as u32, &rings[0])?;
        for (shard, ring) in rings.iter().enumerate() {
            bpf::put(&ring_map, shard as u32, ring)?;
        }
        let words = bpf::create_map(bpf::ARRAY, 4, bytes_of_words(&table) as u32, 1, bpf::MMAPABLE)?;
        Catcher::of(table, rings, ring_bytes, ring_map, words, 0)
    }

    /// The catcher of another process, which uses it no more, or for other shards than this process does. `map` gives the
    /// maps that `maps` of that catcher names. Programs are this process's own.
    ///
    /// Fails with EINVAL where the maps are not what the terms say.
    pub fn adopt(terms: &CatcherTerms, mut map: impl FnMut(&str) -> Option<OwnedFd>) -> io::Result<Catcher> {
        let mut take = |name: &str| map(name).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL));
        if terms.shards == 0 || ring::ring_bytes(terms.ring_bytes) != terms.ring_bytes {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let table = Table::adopt(take(TABLE)?, terms.buckets, &terms.keys, terms.shards)?;
        let rings = (0..terms.shards).map(|shard| take(&ring_name(shard))).collect::<io::Result<Vec<_>>>()?;
        let (ring_map, words) = (take(RINGS)?, take(WORDS)?);
        Catcher::of(table, rings, terms.ring_bytes, ring_map, words, terms.processes + 1)
    }

    fn of(
        table: Table,
        rings: Vec<OwnedFd>,
        ring_bytes: u32,
        ring_map: OwnedFd,
        words: OwnedFd,
        processes: usize,
    ) -> io::Result<Catcher> {
        let transits = processes % PROCESSES;
        let mapping = Mapping::new(&words, 0, bytes_of_words(&table), libc::PROT_READ | libc::PROT_WRITE)?;
        let shared = Arc::new(Shared { words: mapping, transits });
        shared.transits().store(0, Ordering::SeqCst);
        let strangers = bpf::create_map(bpf::HASH, ENDS_BYTES as u32, 4, MOST_STRANGERS, bpf::ALLOCATES_LATE)?;
        let rings = rings.into_iter().map(|ring| (ring, AtomicBool::new(false))).collect();
        let maps = maps_of(&table, [&ring_map, &words, &strangers], transits);
        let program = bpf::load(bpf::SOCKET_FILTER, &maps.catching())?;
        let has_strangers = AtomicBool::new(false);
        Ok(Catcher { table, rings, ring_bytes, ring_map, words, strangers, has_strangers, shared, program, processes })
    }

    /// What another process must know to use its maps.
    pub fn terms(&self) -> CatcherTerms {
        let (buckets, keys) = self.table.terms();
        let (shards, ring_bytes) = (self.rings.len(), self.ring_bytes);
        CatcherTerms { shards, ring_bytes, buckets, keys, processes: self.processes }
    }

    /// The names of the maps of a catcher for so many shards.
    pub fn map_names(shards: usize) -> impl Iterator<Item = String> {
        [TABLE, RINGS, WORDS].map(str::to_owned).into_iter().chain((0..shards).map(ring_name))
    }

    /// Its maps, by name.
    pub fn maps(&self) -> Vec<(String, BorrowedFd<'_>)> {
        let maps = [self.table.map(), &self.ring_map, &self.words];
        let maps = maps.into_iter().chain(self.rings.iter().map(|(ring, _)| ring));
        Catcher::map_names(self.rings.len()).zip(maps.map(AsFd::as_fd)).collect()
    }

    /// Removes the connections of a shard whose index is not to stay. To be called while that shard inserts and removes
    /// none.
    pub fn retain(&self, shard: usize, stays: impl Fn(u32) -> bool) {
        self.table.retain(shard, stays);
    }

    /// Bytes of memory of the table.
    pub fn bytes(&self) -> usize {
        self.table.bytes()
    }

    /// Has the segments of a connection caught, for `shard` with `index`. A transit must be under way if the
    /// connection has a socket.
    pub fn insert(&self, tuple: &Tuple, shard: usize, index: u32) -> Result<(), NoPlace> {
        if self.has_strangers.load(Ordering::SeqCst) {
            // This connection is no stranger from now on. The removal fails where it was none.
            let _ = bpf::remove_key(&self.strangers, &Words::of(tuple).bytes());
        }
        if shard < self.rings.len() { self.table.insert(tuple, shard, index) } else { Err(NoPlace::Full) }
    }

    /// A segment with these ends was caught for a connection that has others. If the programs still take these ends for those
    /// of a connection in the table, such segments are not led to a sink from now on, until a connection with these ends is
    /// inserted. Fails with E2BIG where there are
    /// `MOST_STRANGERS`, and with ENOMEM: segments with these ends are then lost.
    pub fn exempt(&self, tuple: &Tuple) -> io::Result<()> {
        if !self.table.finds(tuple) {
            return Ok(());
        }
        self.has_strangers.store(true, Ordering::SeqCst);
        bpf::add_key(&self.strangers, &Words::of(tuple).bytes())
    }

    /// Records that an inserted connection is awake: segments that reach its socket are no longer caught, and those
    /// that reach a listener still are. `remove` follows a grace period later, or another `insert` with the same
    /// index.
    pub fn wake(&self, tuple: &Tuple, shard: usize, index: u32) {
        self.table.wake(tuple, shard, index);
    }

    /// Ends what `insert` began. Nothing happens if the connection was not inserted with this index.
    pub fn remove(&self, tuple: &Tuple, shard: usize, index: u32) {
        self.table.remove(tuple, shard, index);
    }

    /// Removes a connection that is awake. One that was inserted again since it woke stays.
    pub fn remove_awake(&self, tuple: &Tuple, shard: usize, index: u32) {
        self.table.remove_awake(tuple, shard, index);
    }

    /// A transit begins: from now on the segments of established connections are looked up too.
    pub fn begin_transit(&self) {
        self.shared.transits().fetch_add(1, Ordering::SeqCst);
    }

    /// A transit ends.
    pub fn end_transit(&self) {
        let before = self.shared.transits().fetch_sub(1, Ordering::SeqCst);
        debug_assert!(before > 0, "a transit ends that did not begin");
    }

    /// Attaches the program without notifications to a socket: one whose connection waits in a poll, or that was
    /// dialed. Sockets that it accepts later inherit the program.
    pub fn attach(&self, socket: &impl AsRawFd) -> io::Result<()> {
        attach_program(socket, self.program())
    }

    /// The program without notifications.
    pub fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// Adds this catcher's part to the program of a listener.
    pub(super) fn catch(&self, program: &mut Program) {
        self.for_programs().catch(program);
    }

    /// The consumer's end of a shard's ring buffer. There is one: fails with EBUSY the second time, and with EINVAL for
    /// a shard that this catcher does not have.
    pub fn caught(&self, shard: usize) -> io::Result<Caught> {
        let error = |errno| Err(io::Error::from_raw_os_error(errno));
        let Some((ring, taken)) = self.rings.get(shard) else { return error(libc::EINVAL) };
        if taken.swap(true, Ordering::SeqCst) {
            return error(libc::EBUSY);
        }
        Caught::new(ring, self.ring_bytes, self.shared.clone(), shard, self.table.division)
    }

    /// Has segments of inserted connections caught that have no listener, as those of dialed connections, in the
    /// network namespace of this thread. The sinks listen at ports of the loopback addresses, whether this network has
    /// those or not, that are not `wanted` for other listeners.
    ///
    /// Fails with EPERM without CAP_NET_ADMIN, and with EINVAL before Linux 5.9.
    pub fn steer(&self, wanted: &dyn Fn(u16) -> bool) -> io::Result<Steering> {
        let maps = self.for_programs();
        let sinking = bpf::load(bpf::SOCKET_FILTER, &maps.sinking())?;
        let map = bpf::create_map(bpf::SOCKET_MAP, 4, 4, 2, 0)?;
        let sink = |ip: IpAddr, at: i32| -> io::Result<TcpListener> {
            let sink = listen_elsewhere(ip, wanted)?;
            attach_program(&sink, sinking.as_fd())?;
            bpf::put(&map, at.cast_unsigned(), &sink)?;
            Ok(sink)
        };
        let v4 = sink(Ipv4Addr::LOCALHOST.into(), SINK_V4)?;
        let v6 = match sink(Ipv6Addr::LOCALHOST.into(), SINK_V6) {
            // A kernel without IPv6 has no connections over it.
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            sink => Some(sink?),
        };
        let steering = bpf::load(bpf::SOCKET_LOOKUP, &maps.steering(map.as_raw_fd()))?;
        let link = bpf::attach_to_namespace(&steering, &File::open("/proc/thread-self/ns/net")?)?;
        Ok(Steering { _link: link, _sinks: (v4, v6) })
    }

    fn for_programs(&self) -> Maps<'_> {
        maps_of(&self.table, [&self.ring_map, &self.words, &self.strangers], self.shared.transits)
    }
}

#[cfg(test)]
impl Catcher {
    /// The tag of a connection. In a table with one bucket the programs know a connection by it alone.
    pub fn tag(&self, tuple: &Tuple) -> u32 {
        self.table.tag(tuple)
    }
}

/// The maps as programs have them. `transits` is the word in which this process counts its transits.
fn maps_of<'a>(table: &'a Table, maps: [&OwnedFd; 3], transits: usize) -> Maps<'a> {
    let [rings, words, strangers] = maps.map(AsRawFd::as_raw_fd);
    Maps { table, rings, words, strangers, transits: transits * size_of::<u64>() }
}

/// Listens at an address, also where this network has it not: a host may have connections of a family without having its
/// loopback address, and what is led to a listener need not be sent to its address.
fn listen_anyhow(ip: IpAddr, port: u16) -> io::Result<TcpListener> {
    /// Nobody connects to it.
    const BACKLOG: i32 = 1;
    let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    match ip {
        IpAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        IpAddr::V6(_) => sockopt::set_ipv6_freebind(&socket, true)?,
    }
    bind(&socket, &SocketAddr::new(ip, port))?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Listens at the port that the kernel chooses, or at the highest one that is free, if that one is `wanted`.
fn listen_elsewhere(ip: IpAddr, wanted: &dyn Fn(u16) -> bool) -> io::Result<TcpListener> {
    let chosen = listen_anyhow(ip, 0)?;
    if !wanted(chosen.local_addr()?.port()) {
        return Ok(chosen);
    }
    let is_in_use = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    let others = (1..=u16::MAX).rev().filter(|port| !wanted(*port)).map(|port| listen_anyhow(ip, port));
    let mut free = others.skip_while(|bound| bound.as_ref().is_err_and(is_in_use));
    free.next().unwrap_or_else(|| Err(io::ErrorKind::AddrInUse.into()))
}

/// Segments of sleeping connections without a listener are caught, as long as this lives.
#[derive(Debug)]
pub struct Steering {
    /// The link between program and namespace.
    _link: OwnedFd,
    /// For IPv4, and for IPv6 if this host has it.
    _sinks: (TcpListener, Option<TcpListener>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_leave_the_wanted_ports_to_others() {
        // The kernel chooses none so high (net.ipv4.ip_local_port_range).
        let wanted = |port: u16| port < 64_000;
        let sinks = [(); 2].map(|()| listen_elsewhere(Ipv4Addr::LOCALHOST.into(), &wanted).unwrap());
        let ports = sinks.map(|sink| sink.local_addr().unwrap().port());
        assert!(ports[0] != ports[1] && ports.iter().all(|port| !wanted(*port)), "{ports:?}");
        let none = listen_elsewhere(Ipv4Addr::LOCALHOST.into(), &|_| true);
        assert_eq!(none.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
