//! The table of the connections that sleep: an array of BPF, which this process has mapped.
//!
//! ```text
//!   bucket = 8 cells                 one cache line
//!   cell   = tag, value              32 bits each; a tag of 0 is a free cell
//!   value  = awake, shard, index     1 bit, as many bits as shards need, and the rest
//! ```
//!
//! A connection may lie in either of two buckets. The first comes from the hash of its ends, and the two together from
//! its tag: their numbers add up to the same sum, modulo the number of buckets, for all connections of one tag. So two
//! connections that have the tag and a bucket in common have both buckets in common, and the second is refused. With
//! buckets of eight cells the first insertion fails at a load of 0.71 (measured with 10 million connections), so the
//! table is sized for 0.70.
//!
//! All shards insert and remove at the same time, and programs of the kernel look up meanwhile. A cell is therefore
//! changed as a whole, and only by the shard that its value names.

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::NoPlace;
use super::hash::{Hash, Words, mix};
use crate::constants::PAGE_BYTES;
use crate::hibernation::Tuple;
use crate::sys::bpf::{self, FRAME, Label, Mapping, Program, helper};

/// Cells of a bucket.
const CELLS: usize = 8;
/// Bytes of a bucket.
const BUCKET_BYTES: usize = CELLS * size_of::<u64>();

/// The load that the table is sized for, as cells for each of so many connections.
const CELLS_PER_TEN: u64 = 10;
const CONNECTIONS_PER_TEN: u64 = 7;

/// What a tag is multiplied with, so that its 31 bits spread over the buckets: 2^64 divided by the golden ratio (Knuth,
/// "The Art of Computer Programming", 6.4).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The flag of a value whose connection is awake again.
pub const AWAKE: u32 = 1 << 31;
/// Bits of a value without the flag.
const VALUE_BITS: u32 = 31;

/// How a value is divided into a shard and an index.
#[derive(Debug, Clone, Copy)]
pub struct Division {
    /// Bits of the index.
    pub index_bits: u32,
    /// Shards that a value can name: a power of two.
    pub shards: usize,
}

impl Division {
    /// For so many shards.
    pub fn of(shards: usize) -> Division {
        let shards = shards.max(1).next_power_of_two();
        Division { index_bits: VALUE_BITS - shards.ilog2(), shards }
    }

    /// The value of a connection; `None` if it does not fit.
    fn value(self, shard: usize, index: u32) -> Option<u32> {
        let fits = shard < self.shards && u64::from(index) < 1 << self.index_bits;
        fits.then(|| (u64::from(index) | (shard as u64) << self.index_bits) as u32)
    }

    /// The index in a value.
    pub fn index(self, value: u32) -> u32 {
        value & ((1u64 << self.index_bits) - 1) as u32
    }
}

/// The table.
pub struct Table {
    map: OwnedFd,
    cells: Mapping,
    buckets: u32,
    hash: Hash,
    pub division: Division,
}

/// Where a connection may lie: its tag, and the first cells of its two buckets.
#[derive(Debug, Clone, Copy)]
struct Places {
    tag: u32,
    buckets: [usize; 2],
}

impl Table {
    /// A table for so many connections, of so many shards.
    pub fn new(shards: usize, connections: u64) -> io::Result<Table> {
        let cells = connections.saturating_mul(CELLS_PER_TEN) / CONNECTIONS_PER_TEN;
        let buckets = cells.div_ceil(CELLS as u64).max(1);
        // Instructions multiply with a number of buckets below 2^31.
        let buckets = i32::try_from(buckets).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?.cast_unsigned();
        let map = bpf::create_map(bpf::ARRAY, 4, BUCKET_BYTES as u32, buckets, bpf::MMAPABLE)?;
        Table::of(map, buckets, Hash::random(&mut random)?, shards)
    }

    /// A table of another process, with what that process tells of it.
    pub fn adopt(map: OwnedFd, buckets: u32, keys: &[u64], shards: usize) -> io::Result<Table> {
        let mut keys = keys.iter().copied();
        let hash = Hash::random(&mut || keys.next().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL)))?;
        if keys.next().is_some() || buckets == 0 || buckets > i32::MAX.cast_unsigned() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Table::of(map, buckets, hash, shards)
    }

    fn of(map: OwnedFd, buckets: u32, hash: Hash, shards: usize) -> io::Result<Table> {
        let bytes = (buckets as usize * BUCKET_BYTES).next_multiple_of(PAGE_BYTES as usize);
        let cells = Mapping::new(&map, 0, bytes, libc::PROT_READ | libc::PROT_WRITE)?;
        Ok(Table { map, cells, buckets, hash, division: Division::of(shards) })
    }

    /// What another process must know of it: the number of its buckets, and the keys of its hash.
    pub fn terms(&self) -> (u32, Vec<u64>) {
        (self.buckets, self.hash.keys())
    }

    /// The map itself.
    pub fn map(&self) -> &OwnedFd {
        &self.map
    }

    /// How many connections a table with so many buckets is sized for.
    pub fn connections(buckets: u32) -> u64 {
        u64::from(buckets) * CELLS as u64 * CONNECTIONS_PER_TEN / CELLS_PER_TEN
    }

    /// Removes the connections of a shard that are not to stay. To be called while no connection of the shard is
    /// inserted or removed.
    pub fn retain(&self, shard: usize, stays: impl Fn(u32) -> bool) {
        for cell in self.cells.words().iter().take(self.buckets as usize * CELLS) {
            let now = cell.load(Ordering::SeqCst);
            let value = (now >> 32) as u32 & !AWAKE;
            let of_shard = now != 0 && (value >> self.division.index_bits) as usize == shard;
            if of_shard && !stays(self.division.index(value)) {
                cell.store(0, Ordering::SeqCst);
            }
        }
    }

    /// Bytes of memory that the table takes, whether it is full or empty.
    pub fn bytes(&self) -> usize {
        self.cells.bytes()
    }

    fn places(&self, tuple: &Tuple) -> Places {
        let hash = self.hash.of(&Words::of(tuple));
        let tag = hash as u32 | 1;
        let buckets = u64::from(self.buckets);
        let scaled = |number: u64| ((number >> 32) * buckets) >> 32;
        let (first, sum) = (scaled(hash), scaled(u64::from(tag).wrapping_mul(SPREAD)));
        let second = (sum + buckets - first) % buckets;
        Places { tag, buckets: [first, second].map(|bucket| bucket as usize * CELLS) }
    }

    fn bucket(&self, first: usize) -> impl Iterator<Item = &AtomicU64> {
        (first..first + CELLS).map(|at| self.cells.word(at))
    }

    /// Cells with a tag, in both buckets.
    fn tagged(&self, places: Places) -> impl Iterator<Item = &AtomicU64> {
        let [first, second] = places.buckets;
        let other = (first != second).then(|| self.bucket(second));
        let both = self.bucket(first).chain(other.into_iter().flatten());
        both.filter(move |cell| cell.load(Ordering::SeqCst) as u32 == places.tag)
    }

    /// Whether the programs find a connection's ends: it is in the table, or they take it for one that is.
    pub fn finds(&self, tuple: &Tuple) -> bool {
        self.tagged(self.places(tuple)).next().is_some()
    }

    /// Inserts a connection.
    pub fn insert(&self, tuple: &Tuple, shard: usize, index: u32) -> Result<(), NoPlace> {
        let value = self.division.value(shard, index).ok_or(NoPlace::Full)?;
        let places = self.places(tuple);
        let cell = u64::from(value) << 32 | u64::from(places.tag);
        // An earlier sleep's cell of the same connection may still be there.
        let old = u64::from(AWAKE) << 32 | cell;
        if let Some(at) = self.tagged(places).next() {
            let again = at.compare_exchange(old, cell, Ordering::SeqCst, Ordering::SeqCst);
            return again.map(drop).map_err(|_| NoPlace::Collides);
        }
        let free = |first: usize| self.bucket(first).filter(|cell| cell.load(Ordering::SeqCst) == 0).count();
        let mut order = places.buckets;
        if free(order[1]) > free(order[0]) {
            order.reverse();
        }
        let mut cells = order.into_iter().flat_map(|first| self.bucket(first));
        let take = |at: &&AtomicU64| at.compare_exchange(0, cell, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        let taken = cells.find(take).ok_or(NoPlace::Full)?;
        // Another shard may have inserted the same tag since the first look. Each of the two has written its cell
        // before this look, so at least one of them sees the other and withdraws.
        if self.tagged(places).any(|at| !std::ptr::eq(at, taken)) {
            taken.store(0, Ordering::SeqCst);
            return Err(NoPlace::Collides);
        }
        Ok(())
    }

    /// Marks a connection as awake again.
    pub fn wake(&self, tuple: &Tuple, shard: usize, index: u32) {
        self.change(tuple, shard, index, |cell| cell | u64::from(AWAKE) << 32);
    }

    /// Removes a connection, asleep or awake.
    pub fn remove(&self, tuple: &Tuple, shard: usize, index: u32) {
        self.change(tuple, shard, index, |_| 0);
    }

    /// Removes a connection if it is awake.
    pub fn remove_awake(&self, tuple: &Tuple, shard: usize, index: u32) {
        let awake = u64::from(AWAKE) << 32;
        self.change(tuple, shard, index, |cell| if cell & awake == 0 { cell } else { 0 });
    }

    fn change(&self, tuple: &Tuple, shard: usize, index: u32, to: impl Fn(u64) -> u64) {
        let Some(value) = self.division.value(shard, index) else { return };
        let ours = |cell: u64| (cell >> 32) as u32 & !AWAKE == value;
        for cell in self.tagged(self.places(tuple)) {
            let now = cell.load(Ordering::SeqCst);
            if ours(now) {
                // Only while it is as it was seen: in a takeover both processes have the shard.
                let _ = cell.compare_exchange(now, to(now), Ordering::SeqCst, Ordering::SeqCst);
            }
        }
    }

    /// Adds instructions that sum up the ends of a connection over IPv4, whose words lie in the program's stack from
    /// `offset` on, into register 7.
    pub fn sum_v4(&self, program: &mut Program, offset: i16) {
        self.hash.sum_v4(program, 7, FRAME, offset);
    }

    /// The same for IPv6.
    pub fn sum_v6(&self, program: &mut Program, offset: i16) {
        self.hash.sum_v6(program, 7, FRAME, offset);
    }

    /// Adds instructions that look up the connection whose sum is in register 7. They go on with the cell in register
    /// 1, or jump to `miss`. Registers 7 and 9, and four bytes of the stack at `key`, are used.
    pub fn find(&self, program: &mut Program, key: i16, miss: &mut Label) {
        let mut found = Label::default();
        let buckets = self.buckets.cast_signed();
        mix(program, 7);
        program.copy(9, 7).or_32(9, 1).shift_right(7, 32).multiply(7, buckets).shift_right(7, 32);
        program.copy(1, 7);
        self.scan(program, key, &mut found, miss);
        let mut within = Label::default();
        program.copy(1, 9).set_64(2, SPREAD).multiply_register(1, 2).shift_right(1, 32);
        program.multiply(1, buckets).shift_right(1, 32).add(1, buckets).subtract_register(1, 7);
        program.jump_if_below(1, buckets, &mut within).add(1, -buckets).here(within);
        self.scan(program, key, &mut found, miss);
        program.jump_to(miss).here(found);
    }

    /// Adds instructions that look for the tag in register 9 in the bucket whose number is in register 1.
    fn scan(&self, program: &mut Program, key: i16, found: &mut Label, miss: &mut Label) {
        lookup(program, self.map.as_raw_fd(), key, miss);
        for at in 0..CELLS {
            program.load_64(1, 0, (at * size_of::<u64>()) as i16).jump_if_same_32(1, 9, found);
        }
    }
}

/// Adds instructions that look up register 1 in a map. The address of the value is in register 0 then. Jumps to `miss`
/// if there is none.
pub fn lookup(program: &mut Program, map: RawFd, key: i16, miss: &mut Label) {
    program.store_32(FRAME, key, 1).map(1, map).copy(2, FRAME).add(2, key.into());
    program.call(helper::MAP_LOOKUP_ELEM).jump_if(0, 0, miss);
}

/// A random number that no one else can know.
fn random() -> io::Result<u64> {
    let mut number = 0u64;
    // SAFETY: the kernel writes at most 8 bytes to `number`, which outlives the call.
    let done = unsafe { libc::getrandom((&raw mut number).cast(), size_of::<u64>(), 0) };
    if done == size_of::<u64>() as isize { Ok(number) } else { Err(io::Error::last_os_error()) }
}
