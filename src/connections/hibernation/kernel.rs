//! Hibernation on Linux: the catcher, repair mode and raw sockets, on one shard.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use super::host::{Caught, HibernationHost};
use crate::hibernation::{Checkpoint, Negotiated, Progress, Tuple};
use crate::sys::repair::{self, Blank, Keepalive, Wish};
use crate::sys::round_trip::{self, Restored};
use crate::sys::{self, Catcher, CaughtAt, GracePeriods, Patience, RawSender, Steering};

/// Blank sockets that a shard keeps for its next wakes at most, and as many more that rest. Each takes a file descriptor
/// and 3.6 kB of the kernel.
const MOST_BLANKS: u64 = 512;

/// The share of a shard's spare descriptors, as a divisor, that blank sockets may take, and that resting ones may.
const SHARE_OF_BLANKS: u64 = 8;

/// After a failed attempt to tell a socket its round-trip time so many wakes do not try: 8 at first, twice as many after each further
/// failure, 1,024 at most. An attempt in vain costs as much as a wake, and what prevents it may pass or last.
const WAKES_UNTOLD: [u32; 2] = [8, 1_024];

/// Something that is done once a grace period has passed; without a number it was not asked for yet.
type AfterGrace<T> = VecDeque<(Option<u64>, T)>;

/// The kernel, for the hibernation of one shard.
pub struct KernelHost {
    catcher: Arc<Catcher>,
    /// Catches what comes without a listener, as long as a shard has sleeping connections.
    _steering: Arc<Steering>,
    shard: usize,
    caught: sys::Caught,
    /// Sends segments of our own to peers.
    answers: RawSender,
    /// Re-injects caught segments, and tells woken sockets their round-trip time.
    reinjector: RawSender,
    grace: Arc<GracePeriods>,
    /// What woken sockets are given.
    program: OwnedFd,
    keepalive: Option<Keepalive>,
    /// Sockets may have no program yet, or another process's.
    attaches: bool,
    /// Sockets that are kept blank at most, to serve other connections.
    most_blanks: usize,
    /// Blank sockets by the local end of their former connection, and those that a softirq may still have found for it.
    blanks: HashMap<SocketAddr, Vec<Blank>>,
    resting: AfterGrace<(SocketAddr, Blank)>,
    /// Connections that woke and are in the table for listeners yet, and when each woke last.
    woken: AfterGrace<(Tuple, u32, u64)>,
    latest: HashMap<u32, (Tuple, u64)>,
    wakes: u64,
    /// How many of the next wakes do not try to tell the round-trip time.
    untold: u32,
    /// How many did not try after the attempt before; 0 if that succeeded.
    untold_before: u32,
}

impl KernelHost {
    /// For a shard that accepts. `program` catches and is what the shard's listeners have; `keepalive` too.
    pub fn accepting(
        (catcher, steering): (Arc<Catcher>, Arc<Steering>),
        grace: Arc<GracePeriods>,
        shard: usize,
        program: OwnedFd,
        keepalive: Option<Keepalive>,
    ) -> io::Result<KernelHost> {
        Ok(KernelHost {
            caught: catcher.caught(shard)?,
            catcher,
            _steering: steering,
            shard,
            answers: RawSender::without_mark()?,
            reinjector: RawSender::new()?,
            grace,
            program,
            keepalive,
            attaches: false,
            most_blanks: MOST_BLANKS as usize,
            blanks: HashMap::new(),
            resting: VecDeque::new(),
            woken: VecDeque::new(),
            latest: HashMap::new(),
            wakes: 0,
            untold: 0,
            untold_before: 0,
        })
    }

    /// For a shard that dials.
    pub fn dialing(
        catcher: Arc<Catcher>,
        steering: Arc<Steering>,
        grace: Arc<GracePeriods>,
        shard: usize,
    ) -> io::Result<KernelHost> {
        let program = catcher.program().try_clone_to_owned()?;
        Ok(KernelHost {
            attaches: true,
            most_blanks: 0,
            ..KernelHost::accepting((catcher, steering), grace, shard, program, None)?
        })
    }

    /// Makes a new socket for each connection that wakes. With Linux 6.1, in the lab, connections in reused sockets were
    /// closed soon after they woke. Their slots were then closed with a shutdown, which is likely the cause; it was not tried
    /// again since they are closed without one.
    pub fn with_new_sockets(self) -> KernelHost {
        KernelHost { most_blanks: 0, ..self }
    }

    /// Keeps no more blank sockets than fit the descriptors that the shard has to spare.
    pub fn within_descriptors(self, spare: u64) -> KernelHost {
        let most = (spare / SHARE_OF_BLANKS).min(MOST_BLANKS) as usize;
        KernelHost { most_blanks: self.most_blanks.min(most), ..self }
    }

    /// A blank socket for a connection with this local end.
    fn blank(&mut self, local: SocketAddr) -> Option<Blank> {
        self.blanks.get_mut(&local).and_then(Vec::pop)
    }

    /// Keeps blank sockets that have rested, as many as may be.
    fn keep_rested(&mut self) {
        while let Some((local, blank)) = take_passed(&mut self.resting, &self.grace) {
            if self.blanks.values().map(Vec::len).sum::<usize>() < self.most_blanks {
                self.blanks.entry(local).or_default().push(blank);
            }
        }
    }

    /// Takes connections out of the table that woke a grace period ago and are awake since.
    fn remove_woken(&mut self) {
        while let Some((tuple, index, wake)) = take_passed(&mut self.woken, &self.grace) {
            match self.latest.get(&index) {
                // It slept and woke once more since then, so its grace period is a later one.
                Some((latest, number)) if *latest == tuple && *number != wake => continue,
                Some((latest, _)) if *latest == tuple => drop(self.latest.remove(&index)),
                // Another connection has the index now.
                _ => {}
            }
            self.catcher.remove_awake(&tuple, self.shard, index);
        }
    }
}

/// The next of what waits for a grace period, if that has passed.
fn take_passed<T>(waiting: &mut AfterGrace<T>, grace: &GracePeriods) -> Option<T> {
    let passed = waiting.front()?.0.is_some_and(|number| grace.passed(number));
    passed.then(|| waiting.pop_front()).flatten().map(|(_, item)| item)
}

/// Gives the number of a grace period to what has none yet, which came last.
fn number<T>(waiting: &mut AfterGrace<T>, grace: &GracePeriods) {
    let numbered = waiting.partition_point(|(number, _)| number.is_some());
    if numbered < waiting.len() {
        let next = grace.request();
        waiting.range_mut(numbered..).for_each(|(number, _)| *number = Some(next));
    }
}

impl HibernationHost for KernelHost {
    fn identify(&mut self, socket: &OwnedFd) -> io::Result<Option<(Tuple, Negotiated)>> {
        repair::identify(socket)
    }

    fn prepare(&mut self, socket: &OwnedFd) -> io::Result<()> {
        if self.attaches { sys::attach_program(socket, self.program.as_fd()) } else { Ok(()) }
    }

    fn expect_other_programs(&mut self) {
        self.attaches = true;
    }

    fn insert(&mut self, tuple: &Tuple, index: u32) -> bool {
        self.catcher.insert(tuple, self.shard, index).is_ok()
    }

    fn remove(&mut self, tuple: &Tuple, index: u32) {
        self.latest.remove(&index);
        self.catcher.remove(tuple, self.shard, index);
    }

    fn woke(&mut self, tuple: &Tuple, index: u32) {
        self.catcher.wake(tuple, self.shard, index);
        self.wakes += 1;
        self.latest.insert(index, (*tuple, self.wakes));
        self.woken.push_back((None, (*tuple, index, self.wakes)));
    }

    fn is_settled(&self) -> bool {
        self.woken.is_empty()
    }

    fn retain(&mut self, stays: &dyn Fn(u32) -> bool) {
        self.catcher.retain(self.shard, stays);
    }

    fn turn(&mut self) {
        number(&mut self.resting, &self.grace);
        number(&mut self.woken, &self.grace);
        self.keep_rested();
        self.remove_woken();
    }

    fn begin_transit(&mut self) {
        self.catcher.begin_transit();
    }

    fn end_transit(&mut self) {
        self.catcher.end_transit();
    }

    fn request_grace(&mut self) -> u64 {
        self.grace.request()
    }

    fn grace_passed(&mut self, number: u64) -> bool {
        self.grace.passed(number)
    }

    fn checkpoint(&mut self, socket: &OwnedFd) -> io::Result<Option<Progress>> {
        repair::checkpoint(socket)
    }

    fn retire(&mut self, socket: OwnedFd, tuple: &Tuple) -> io::Result<()> {
        let blank = repair::blank(socket, tuple)?;
        if self.resting.len() < self.most_blanks {
            self.resting.push_back((None, (tuple.local, blank)));
        }
        Ok(())
    }

    fn restore(&mut self, checkpoint: &Checkpoint, seen: u32) -> io::Result<OwnedFd> {
        let blank = self.blank(checkpoint.tuple.local);
        let wish = Wish { program: self.program.as_fd(), no_delay: true, keepalive: self.keepalive };
        if let Some(rest) = self.untold.checked_sub(1) {
            self.untold = rest;
            return repair::restore(checkpoint, &wish, blank);
        }
        let Restored { socket, told } = round_trip::restore(checkpoint, &wish, blank, &self.reinjector, seen)?;
        if let Some(told) = told {
            let [least, most] = WAKES_UNTOLD;
            self.untold = if told { 0 } else { (2 * self.untold_before).clamp(least, most) };
            self.untold_before = self.untold;
        }
        Ok(socket)
    }

    fn catch_up(&mut self) {
        self.caught.catch_up();
    }

    fn has_caught(&mut self) -> bool {
        self.caught.any()
    }

    fn next_caught(&mut self, bytes: &mut Vec<u8>) -> Option<Caught> {
        let caught = self.caught.next_segment()?;
        bytes.clear();
        bytes.extend_from_slice(caught.bytes);
        let caught = Caught { index: caught.index, tuple: caught.tuple, at: caught.at, whole_len: caught.whole_len };
        self.caught.release();
        Some(caught)
    }

    fn since(&self, at: CaughtAt) -> Duration {
        at.elapsed()
    }

    fn dropped(&self) -> u64 {
        self.caught.dropped()
    }

    fn dropped_resets(&self) -> u64 {
        self.caught.dropped_resets()
    }

    fn set_patience(&mut self, patience: Patience) {
        self.caught.set_patience(patience);
    }

    fn wake_fd(&self) -> RawFd {
        self.caught.fd()
    }

    fn send(&mut self, tuple: &Tuple, segment: &[u8]) -> io::Result<()> {
        self.answers.answer(tuple.local.ip(), tuple.remote.ip(), segment)
    }

    fn exempt(&mut self, tuple: &Tuple) -> io::Result<()> {
        self.catcher.exempt(tuple)
    }

    fn reinject(&mut self, tuple: &Tuple, segment: &mut [u8], whole_len: usize) -> io::Result<()> {
        self.reinjector.reinject(tuple, segment, whole_len)
    }

    fn timestamp_clock(&self) -> u32 {
        repair::timestamp_clock()
    }
}
