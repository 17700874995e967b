//! The filter program, in BPF instructions (RFC 9669).
//!
//! ```text
//!   with a catcher: catch the segment if its connection sleeps (catcher/program.rs)
//!   if the segment has no payload, FIN or RST   pass
//!   place = owner - FIRST_OWNER
//!   if place is beyond the last                 pass       (a listener, or another program's socket)
//!   bitmap = resets if it has a RST, FINs if it has a FIN and no payload, else segments
//!   if the place's bit is set                   pass       (announced before and not taken yet)
//!   set the place's bit
//!   if its word's bit in the summary is not set, set it
//!   if the state is not ANNOUNCED, make it ANNOUNCED, and if it was ASLEEP, write to the wake-up ring buffer
//!   pass
//! ```
//!
//! The program reads a word's bit, or the state, only after an atomic operation of its own, which is a full barrier
//! (BPF_FETCH). If the shard clears the bit or the state later, the shard therefore sees everything that was set
//! before. If a place's bit is already set, the shard has not taken the earlier notification yet; `lifecycle.rs`
//! handles the case that one notification stands for several segments.

use std::os::fd::RawFd;

use super::{ANNOUNCED, ASLEEP, BITMAPS, FIRST_OWNER, Layout, Notification, STATE};

use crate::sys::bpf::{EXCHANGE, FRAME, Instruction, OR, Program, Register, helper};
use crate::sys::catcher::Catcher;

/// The offset of `len` in `struct __sk_buff`.
const LENGTH: i16 = 0;

/// Bytes 12 and 13 of a TCP header (RFC 9293, 3.1): its length in words, and its flags.
const LENGTH_AND_FLAGS: i32 = 12;
const FIN: i32 = 1;
const RST: i32 = 4;

/// A flag of `bpf_ringbuf_output`.
const FORCE_WAKEUP: i32 = 2;

/// What the filter does with bitmaps.
trait Bitmaps {
    /// Locates a bit among those that begin at word `first` of a bitmap: register 8 gets the address of the bit's
    /// word, register 9 its mask.
    fn locate(&mut self, bit: Register, bitmap: Register, map: RawFd, first: usize) -> &mut Program;

    /// Makes register 1 nonzero if the located bit is set, and 0 otherwise.
    fn look(&mut self) -> &mut Program;

    fn set_bit(&mut self) -> &mut Program;
}

impl Bitmaps for Program {
    fn locate(&mut self, bit: Register, bitmap: Register, map: RawFd, first: usize) -> &mut Program {
        self.copy(1, bit).shift_right(1, 6).shift_left(1, 3);
        self.map_value(8, map, byte(first)).add_register(8, bitmap).add_register(8, 1);
        self.copy(1, bit).and(1, 63).set(9, 1).shift_left_by(9, 1)
    }

    fn look(&mut self) -> &mut Program {
        self.load_64(1, 8, 0).and_register(1, 9)
    }

    fn set_bit(&mut self) -> &mut Program {
        self.copy(1, 9).atomic(OR, 8, 0, 1)
    }
}

const fn byte(word: usize) -> i32 {
    (word * size_of::<u64>()) as i32
}

/// The filter program for `layout`. Register 6 holds the context, then the place, then the place's word. Register 7
/// holds the segment's flags, then the offset of the bitmap. `wake_up` is the ring buffer that wakes the shard. A catcher's
/// part comes first; it leaves the context in register 6 if the segment goes on.
pub fn filter(map: RawFd, wake_up: RawFd, layout: Layout, catcher: Option<&Catcher>) -> Vec<Instruction> {
    let mut program = Program::default();
    program.copy(6, 1);
    if let Some(catcher) = catcher {
        catcher.catch(&mut program);
    }
    program.load_segment(LENGTH_AND_FLAGS).copy(7, 0);
    // The segment begins with its TCP header. If it is longer than the header it has payload, and its FIN
    // is found when the payload is received.
    program.copy(8, 0).shift_right(8, 12).shift_left(8, 2).load_32(9, 6, LENGTH).subtract_register(9, 8);
    program.when(9, false, |program| {
        program.and(7, !FIN);
    });
    program.when(9, true, |program| {
        program.copy(1, 7).and(1, FIN | RST).pass_if(1, 0);
    });
    program.copy(1, 6).call(helper::GET_SOCKET_UID);
    program.copy(6, 0).subtract_32(6, FIRST_OWNER).pass_if_above(6, layout.places as i32 - 1);
    program.copy(1, 7).and(1, RST).and(7, FIN | RST).when(7, false, |program| {
        program.set(7, byte(Notification::Fin as usize * layout.bitmap()));
    });
    program.when(1, false, |program| {
        program.set(7, byte(Notification::Reset as usize * layout.bitmap()));
    });
    program.locate(6, 7, map, BITMAPS + layout.summary).look().pass_unless(1, 0).set_bit();
    program.shift_right(6, 6).locate(6, 7, map, BITMAPS).look().when(1, true, |program| {
        program.set_bit();
    });
    program.map_value(8, map, byte(STATE)).load_64(1, 8, 0).pass_if(1, ANNOUNCED as i32);
    program.set(1, ANNOUNCED as i32).atomic(EXCHANGE, 8, 0, 1).pass_unless(1, ASLEEP as i32);
    program.set(1, 0).store_64(FRAME, -8, 1).map(1, wake_up).copy(2, FRAME).add(2, -8);
    program.set(3, 8).set(4, FORCE_WAKEUP).call(helper::RINGBUF_OUTPUT);
    program.pass()
}
