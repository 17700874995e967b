//! The catcher's programs, in BPF instructions (RFC 9669).
//!
//! ```text
//!   if the socket neither listens nor is closed
//!     if no transit is under way            go on
//!   if the segment carries our mark         go on
//!   look the segment's ends up in the table
//!   if they are not there                   go on
//!   if the connection is awake again, and the socket neither listens nor is closed
//!                                           go on
//!   copy the segment into the ring buffer of the connection's shard; count it if there is no room, and RSTs apart
//!   drop it
//! ```
//!
//! Where a segment goes on, the program of a listener announces it (`filter/program.rs`), others pass it. A sink drops
//! it.

use std::os::fd::RawFd;

use super::hash::ENDS_BYTES;
use super::ring::CaughtAt;
use super::table::{AWAKE, Table, lookup};
use super::{MARK, RECORD_HEADER};
use crate::sys::bpf::{ADD, FRAME, Instruction, Label, Program, helper};

/// Offsets in `struct __sk_buff`.
const LENGTH: i16 = 0;
const MARKED: i16 = 8;
const PROTOCOL: i16 = 16;
const SOCKET: i16 = 168;

/// The offset of `state` in `struct bpf_sock`, and two states (`enum` in include/net/tcp_states.h).
const STATE: i16 = 72;
const TCP_CLOSE: i32 = 7;
const TCP_LISTEN: i32 = 10;

/// Offsets in `struct bpf_sk_lookup`.
const LOOKUP_FAMILY: i16 = 8;
const LOOKUP_PROTOCOL: i16 = 12;
const LOOKUP_REMOTE_V4: i16 = 16;
const LOOKUP_REMOTE_V6: i16 = 20;
const LOOKUP_REMOTE_PORT: i16 = 36;
const LOOKUP_LOCAL_V4: i16 = 40;
const LOOKUP_LOCAL_V6: i16 = 44;
const LOOKUP_LOCAL_PORT: i16 = 60;

/// The result of a lookup program that lets the lookup go on, with the assigned socket if there is one.
const SK_PASS: i32 = 1;

/// Protocols of Ethernet, in network order, as they are in `struct __sk_buff` (include/uapi/linux/if_ether.h).
pub const IPV4: u32 = 0x0800u16.to_be() as u32;
pub const IPV6: u32 = 0x86ddu16.to_be() as u32;

/// The offsets of the source and destination addresses in the headers of IPv4 and IPv6, and their bytes.
const ADDRESSES_V4: (i32, i32) = (12, 8);
const ADDRESSES_V6: (i32, i32) = (8, 32);
/// `BPF_HDR_START_NET`: an offset counts from the network header.
const FROM_NETWORK_HEADER: i32 = 1;

/// The program's stack: the ends of the connection, in the order of the hash's words. IPv4 ends leave the rest zero.
const ENDS: i16 = -(ENDS_BYTES as i16);
const PORTS_V4: i16 = ENDS + 8;
const PORTS_V6: i16 = ENDS + 32;
/// The key of a lookup, and the flags of a value that let its connection's segments go on.
const KEY: i16 = -44;
const EXEMPT: i16 = -48;
/// How the record of the segment wakes its shard.
const WAKE_UP: i16 = -52;

/// The shortest segment: a header without options.
const SHORTEST: i32 = 20;

/// Bytes of a record for each size of segments, the record's header included: a header alone, of 60 bytes at most, as of a
/// FIN; requests; one segment of an Ethernet network; and what GRO or a loopback device makes of many. The kernel adds 8
/// bytes, and each sum is a multiple of 8.
pub const RECORD_BYTES: [i32; 4] = [112, 248, 1_592, 65_536 + RECORD_HEADER];

/// Where a TCP header has its length and its flags (RFC 9293, 3.1), and the flag of a RST in these two bytes.
const FLAGS: i32 = 12;
const RST: i32 = u16::from_ne_bytes([0, 1 << 2]) as i32;

/// The flag of an acknowledgement, and the length of the longest header.
const ACK: i32 = 1 << 4;
const LONGEST_HEADER: i32 = 60;

/// Flags of bpf_ringbuf_submit (include/uapi/linux/bpf.h): the kernel never wakes the reader, or always. Without a flag it
/// does if the reader has read all before.
const NO_WAKEUP: i32 = 1;
pub const FORCE_WAKEUP: i32 = 2;

/// Bytes of a cache line, in which this process shares words with the programs. The first line says how many transits are
/// under way. It has a word for each of eight processes that use the catcher one after the other: the transits of one that was
/// killed end with its sockets, and its word is not looked at any more. Behind it each shard has a line of its own.
pub const LINE: usize = 64;

/// Words of a shard's line, by their place in bytes: how many segments were dropped, how many RSTs were among them, and how
/// caught segments wake the shard. That is the flag of their records, with `PATIENT` added where bare acknowledgements do not
/// wake it.
pub const DROPPED_AT: usize = 0;
pub const RESETS_AT: usize = size_of::<u64>();
pub const PATIENT_AT: usize = 2 * size_of::<u64>();
pub const PATIENT: i32 = 1 << 8;
pub const PROCESSES: usize = LINE / size_of::<u64>();

/// The maps that the programs use.
pub struct Maps<'a> {
    pub table: &'a Table,
    pub rings: RawFd,
    pub words: RawFd,
    /// The connections that must not be led to a sink.
    pub strangers: RawFd,
    /// The byte at which this process counts its transits.
    pub transits: usize,
}

impl Maps<'_> {
    /// Adds instructions that catch a segment, or go on with the context in register 6, where it must be.
    pub fn catch(&self, program: &mut Program) {
        let (mut consult, mut miss) = (Label::default(), Label::default());
        program.load_64(2, 6, SOCKET).jump_if(2, 0, &mut miss).load_32(3, 2, STATE).set(4, 0);
        program.jump_if(3, TCP_LISTEN, &mut consult).jump_if(3, TCP_CLOSE, &mut consult);
        program.map_value(1, self.words, self.transits as i32).load_64(1, 1, 0).jump_if(1, 0, &mut miss);
        program.set(4, AWAKE.cast_signed()).here(consult).store_32(FRAME, EXEMPT, 4);
        self.catch_listed(program, miss);
    }

    /// The program of a socket without notifications: it catches or passes.
    pub fn catching(&self) -> Vec<Instruction> {
        let mut program = Program::default();
        program.copy(6, 1);
        self.catch(&mut program);
        program.pass()
    }

    /// The program of a sink: it catches or drops.
    pub fn sinking(&self) -> Vec<Instruction> {
        let mut program = Program::default();
        program.copy(6, 1).set(4, 0).store_32(FRAME, EXEMPT, 4);
        self.catch_listed(&mut program, Label::default());
        program.ending_with(0)
    }

    /// Catches a segment whose connection is in the table and has none of the flags at `EXEMPT`. Goes on at its end
    /// otherwise, where `miss` is put.
    fn catch_listed(&self, program: &mut Program, mut miss: Label) {
        let (mut v6, mut hashed) = (Label::default(), Label::default());
        program.load_32(1, 6, MARKED).jump_if(1, MARK.cast_signed(), &mut miss);
        clear_ends(program);
        program.load_32(1, 6, PROTOCOL).jump_if(1, IPV6.cast_signed(), &mut v6);
        program.jump_unless(1, IPV4.cast_signed(), &mut miss);
        load_ends(program, ADDRESSES_V4, PORTS_V4, &mut miss);
        self.table.sum_v4(program, ENDS);
        program.jump_to(&mut hashed).here(v6);
        load_ends(program, ADDRESSES_V6, PORTS_V6, &mut miss);
        self.table.sum_v6(program, ENDS);
        program.here(hashed);
        self.table.find(program, KEY, &mut miss);
        program.shift_right(1, 32).load_32(2, FRAME, EXEMPT).and_register(2, 1).jump_unless(2, 0, &mut miss);
        self.record(program);
        program.here(miss);
    }

    /// Copies the segment into the ring buffer of the shard in the value in register 1, and drops it.
    fn record(&self, program: &mut Program) {
        let (mut full, mut end) = (Label::default(), Label::default());
        program.and(1, (AWAKE - 1).cast_signed()).copy(8, 1);
        program.shift_right(1, self.table.division.index_bits.cast_signed()).copy(7, 1);
        program.load_32(9, 6, LENGTH).jump_if_below(9, SHORTEST, &mut end);
        self.choose_wake_up(program);
        program.copy(1, 7);
        lookup(program, self.rings, KEY, &mut end);
        let [header, small, middle, large] = RECORD_BYTES;
        for bytes in [header, small, middle] {
            let mut larger = Label::default();
            program.jump_if_above(9, bytes - RECORD_HEADER, &mut larger);
            fill(program, bytes, &mut full, &mut end);
            program.here(larger);
        }
        let mut fits = Label::default();
        program.jump_if_below(9, large - RECORD_HEADER, &mut fits).set(9, large - RECORD_HEADER).here(fits);
        fill(program, large, &mut full, &mut end);
        load_flags(program.here(full));
        self.find_words(program);
        program.set(2, 1).atomic(ADD, 1, DROPPED_AT as i16, 2);
        program.load_16(3, FRAME, KEY).and(3, RST).jump_if(3, 0, &mut end);
        program.set(2, 1).atomic(ADD, 1, RESETS_AT as i16, 2).here(end).exit(0);
    }

    /// Decides how the record of the segment wakes the shard in register 7.
    fn choose_wake_up(&self, program: &mut Program) {
        let mut chosen = Label::default();
        self.find_words(program);
        program.load_64(2, 1, PATIENT_AT as i16).copy(3, 2).and(3, FORCE_WAKEUP).store_32(FRAME, WAKE_UP, 3);
        program.jump_if(2, 0, &mut chosen).jump_if_above(9, LONGEST_HEADER, &mut chosen);
        load_flags(program);
        // The length of the header in the upper four bits, in units of 4 bytes, is that of the segment.
        program.load_16(2, FRAME, KEY).network_order_16(2).copy(3, 9).shift_left(3, 10).add(3, ACK);
        program.xor_register(2, 3).jump_unless(2, 0, &mut chosen);
        program.set(3, NO_WAKEUP).store_32(FRAME, WAKE_UP, 3).here(chosen);
    }

    /// Puts the address of the words of the shard in register 7 into register 1.
    fn find_words(&self, program: &mut Program) {
        program.copy(2, 7).multiply(2, LINE as i32).map_value(1, self.words, LINE as i32).add_register(1, 2);
    }

    /// The program that finds the sockets of segments: for a connection in the table it is the sink of its family, unless
    /// it is a stranger. `sinks` is a map of sockets: for IPv4, and for IPv6.
    pub fn steering(&self, sinks: RawFd) -> Vec<Instruction> {
        let (mut v6, mut hashed, mut miss) = (Label::default(), Label::default(), Label::default());
        let mut program = Program::default();
        program.copy(6, 1).load_32(1, 6, LOOKUP_PROTOCOL).jump_unless(1, libc::IPPROTO_TCP, &mut miss);
        clear_ends(&mut program);
        program.load_32(1, 6, LOOKUP_FAMILY).jump_if(1, libc::AF_INET6, &mut v6);
        copy_words(&mut program, LOOKUP_REMOTE_V4, ENDS, 1);
        copy_words(&mut program, LOOKUP_LOCAL_V4, ENDS + 4, 1);
        copy_ports(&mut program, PORTS_V4);
        self.table.sum_v4(&mut program, ENDS);
        program.jump_to(&mut hashed).here(v6);
        copy_words(&mut program, LOOKUP_REMOTE_V6, ENDS, 4);
        copy_words(&mut program, LOOKUP_LOCAL_V6, ENDS + 16, 4);
        copy_ports(&mut program, PORTS_V6);
        self.table.sum_v6(&mut program, ENDS);
        program.here(hashed);
        self.table.find(&mut program, KEY, &mut miss);
        program.map(1, self.strangers).copy(2, FRAME).add(2, ENDS.into()).call(helper::MAP_LOOKUP_ELEM);
        program.jump_unless(0, 0, &mut miss);
        let mut sink = Label::default();
        program.load_32(2, 6, LOOKUP_FAMILY).set(1, SINK_V6).jump_if(2, libc::AF_INET6, &mut sink);
        program.set(1, SINK_V4).here(sink);
        lookup(&mut program, sinks, KEY, &mut miss);
        program.copy(7, 0).copy(1, 6).copy(2, 7).set(3, 0).call(helper::SK_ASSIGN);
        program.copy(1, 7).call(helper::SK_RELEASE).here(miss);
        program.ending_with(SK_PASS)
    }
}

/// The places of the sinks in their map.
pub const SINK_V4: i32 = 0;
pub const SINK_V6: i32 = 1;

/// Loads the two bytes of a segment's header that have its length and its flags to `KEY`.
fn load_flags(program: &mut Program) {
    program.copy(1, 6).set(2, FLAGS).copy(3, FRAME).add(3, KEY.into()).set(4, 2).call(helper::SKB_LOAD_BYTES);
}

/// Loads the addresses and the ports of a segment onto the stack.
fn load_ends(program: &mut Program, (at, bytes): (i32, i32), ports: i16, miss: &mut Label) {
    program.copy(1, 6).set(2, at).copy(3, FRAME).add(3, ENDS.into()).set(4, bytes).set(5, FROM_NETWORK_HEADER);
    program.call(helper::SKB_LOAD_BYTES_RELATIVE).jump_unless(0, 0, miss);
    program.copy(1, 6).set(2, 0).copy(3, FRAME).add(3, ports.into()).set(4, 4);
    program.call(helper::SKB_LOAD_BYTES).jump_unless(0, 0, miss);
}

/// Fills the ends on the stack with zeros.
fn clear_ends(program: &mut Program) {
    program.set(2, 0);
    for at in (ENDS..0).step_by(size_of::<u64>()) {
        program.store_64(FRAME, at, 2);
    }
}

/// Copies words of a lookup's context onto the stack.
fn copy_words(program: &mut Program, from: i16, to: i16, words: i16) {
    for at in (0..words).map(|word| word * 4) {
        program.load_32(1, 6, from + at).store_32(FRAME, to + at, 1);
    }
}

/// Copies the ports of a lookup's context onto the stack, as they are in a TCP header. The context has the remote port
/// in network order, and the local port in host order.
fn copy_ports(program: &mut Program, to: i16) {
    program.load_16(1, 6, LOOKUP_REMOTE_PORT).store_16(FRAME, to, 1);
    program.load_32(1, 6, LOOKUP_LOCAL_PORT).network_order_16(1).store_16(FRAME, to + 2, 1);
}

/// Fills a record of `bytes` bytes in the ring buffer in register 0: with the value in register 8, the context in
/// register 6, and the first bytes of the segment, as many as register 9 says.
fn fill(program: &mut Program, bytes: i32, full: &mut Label, end: &mut Label) {
    let mut failed = Label::default();
    program.copy(1, 0).set(2, bytes).set(3, 0).call(helper::RINGBUF_RESERVE).jump_if(0, 0, full);
    program.copy(7, 0).store_32(7, 0, 8).load_32(1, 6, LENGTH).store_32(7, 4, 1);
    program.load_32(1, 6, PROTOCOL).store_32(7, 8, 1);
    program.call(helper::KTIME_GET_NS).shift_right(0, CaughtAt::SHIFT).store_32(7, 12, 0);
    for at in (0..PORTS_V6 - ENDS).step_by(size_of::<u64>()) {
        program.load_64(1, FRAME, ENDS + at).store_64(7, 16 + at, 1);
    }
    program.copy(1, 6).set(2, 0).copy(3, 7).add(3, RECORD_HEADER).copy(4, 9).call(helper::SKB_LOAD_BYTES);
    program.copy(1, 7).load_32(2, FRAME, WAKE_UP).jump_unless(0, 0, &mut failed);
    program.call(helper::RINGBUF_SUBMIT).jump_to(end);
    program.here(failed).call(helper::RINGBUF_DISCARD).jump_to(end);
}
