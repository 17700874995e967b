//! The hashes of a connection's two ends: the same numbers in Rust and in BPF instructions.
//!
//! The bytes of the addresses and ports, as they are in the packets, are taken as 32-bit words in host order, and make
//! a sum of products with secret random keys, modulo 2^64 (multilinear hashing: Lemire and Kaser, "Strongly universal
//! string hashing is fast", 2014). For any two connections that an attacker may choose without knowing the keys, the
//! sums are equal with a probability of at most 2^-33. The sum is then mixed, so that its bits spread evenly over the
//! buckets.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::hibernation::{Tuple, octets};
use crate::sys::bpf::{Program, Register};

/// Words of a pair of IPv4 ends: two addresses, and the ports.
const WORDS_V4: usize = 3;
/// Words of a pair of IPv6 ends: two addresses of four words, and the ports.
const WORDS_V6: usize = 9;

/// The multipliers of the mixer: odd, with about as many ones as zeros. The multipliers of splitmix64 (Steele, Lea and
/// Flood, "Fast splittable pseudorandom number generators", 2014).
const MIX: [u64; 2] = [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];
/// How far the mixer shifts before each multiplication and after the last: half of the bits and less.
const SHIFTS: [u32; 3] = [30, 27, 31];

/// The words of a connection's ends, in host order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// The remote address, the local address, the ports.
    V4([u32; WORDS_V4]),
    /// The same for IPv6.
    V6([u32; WORDS_V6]),
}

/// Bytes of a pair of ends of either family.
pub const ENDS_BYTES: usize = 40;

impl Words {
    /// The words as they lie in the programs' stack: those of IPv4 leave the rest zero.
    pub fn bytes(&self) -> [u8; ENDS_BYTES] {
        let words = match self {
            Words::V4(words) => words.as_slice(),
            Words::V6(words) => words,
        };
        let mut bytes = [0; ENDS_BYTES];
        bytes.as_chunks_mut::<4>().0.iter_mut().zip(words).for_each(|(to, word)| *to = word.to_ne_bytes());
        bytes
    }

    /// The words of two ends. An IPv4-mapped address counts as IPv4, as it is in the packets.
    pub fn of(tuple: &Tuple) -> Words {
        let port = |end: SocketAddr| end.port().to_be_bytes();
        let ([r0, r1], [l0, l1]) = (port(tuple.remote), port(tuple.local));
        let ports = u32::from_ne_bytes([r0, r1, l0, l1]);
        match (tuple.remote.ip().to_canonical(), tuple.local.ip().to_canonical()) {
            (IpAddr::V4(remote), IpAddr::V4(local)) => {
                Words::V4([u32::from_ne_bytes(remote.octets()), u32::from_ne_bytes(local.octets()), ports])
            }
            (remote, local) => {
                let (remote, local) = (octets(remote), octets(local));
                let mut words = [0; WORDS_V6];
                let addresses = remote.as_chunks::<4>().0.iter().chain(local.as_chunks::<4>().0);
                words.iter_mut().zip(addresses).for_each(|(word, bytes)| *word = u32::from_ne_bytes(*bytes));
                words[WORDS_V6 - 1] = ports;
                Words::V6(words)
            }
        }
    }
}

/// The secret keys of one hash: what the sum begins with, and a factor for each word.
#[derive(Debug, Clone, Copy)]
struct Sum<const WORDS: usize> {
    start: u64,
    factors: [u64; WORDS],
}

/// A hash with secret keys, one set for each family of addresses.
#[derive(Debug, Clone, Copy)]
pub struct Hash {
    v4: Sum<WORDS_V4>,
    v6: Sum<WORDS_V6>,
}

impl<const WORDS: usize> Sum<WORDS> {
    fn random(next: &mut impl FnMut() -> io::Result<u64>) -> io::Result<Sum<WORDS>> {
        let mut sum = Sum { start: next()?, factors: [0; WORDS] };
        for factor in &mut sum.factors {
            *factor = next()?;
        }
        Ok(sum)
    }

    fn of(&self, words: &[u32; WORDS]) -> u64 {
        let products = self.factors.iter().zip(words).map(|(factor, word)| factor.wrapping_mul(u64::from(*word)));
        products.fold(self.start, u64::wrapping_add)
    }
}

impl Hash {
    /// A hash with keys from `next`.
    pub fn random(next: &mut impl FnMut() -> io::Result<u64>) -> io::Result<Hash> {
        Ok(Hash { v4: Sum::random(next)?, v6: Sum::random(next)? })
    }

    /// Its keys, in the order in which `random` takes them.
    pub fn keys(&self) -> Vec<u64> {
        let mut keys = vec![self.v4.start];
        keys.extend(self.v4.factors);
        keys.push(self.v6.start);
        keys.extend(self.v6.factors);
        keys
    }

    /// The hash of a connection's ends.
    pub fn of(&self, words: &Words) -> u64 {
        let mut hash = match words {
            Words::V4(words) => self.v4.of(words),
            Words::V6(words) => self.v6.of(words),
        };
        for (shift, factor) in SHIFTS.iter().zip(MIX) {
            hash = (hash ^ hash >> shift).wrapping_mul(factor);
        }
        hash ^ hash >> SHIFTS[2]
    }

    /// Adds instructions that sum up the words of IPv4 ends, which lie in memory from byte `offset` of `from` on.
    /// Registers 1 and 2 are used.
    pub fn sum_v4(&self, program: &mut Program, to: Register, from: Register, offset: i16) {
        sum(program, to, from, offset, self.v4.start, &self.v4.factors);
    }

    /// The same for IPv6 ends.
    pub fn sum_v6(&self, program: &mut Program, to: Register, from: Register, offset: i16) {
        sum(program, to, from, offset, self.v6.start, &self.v6.factors);
    }
}

fn sum(program: &mut Program, to: Register, from: Register, offset: i16, start: u64, factors: &[u64]) {
    program.set_64(to, start);
    for (at, factor) in (0..).step_by(4).zip(factors) {
        program.load_32(1, from, offset + at).set_64(2, *factor).multiply_register(1, 2).add_register(to, 1);
    }
}

/// Adds instructions that mix a sum into a hash. Register 1 is used.
pub fn mix(program: &mut Program, hash: Register) {
    for (shift, factor) in SHIFTS.iter().zip(MIX) {
        program.copy(1, hash).shift_right(1, *shift as i32).xor_register(hash, 1);
        program.set_64(1, factor).multiply_register(hash, 1);
    }
    program.copy(1, hash).shift_right(1, SHIFTS[2] as i32).xor_register(hash, 1);
}
