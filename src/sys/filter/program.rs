//! The filter itself, in the instructions of BPF (RFC 9669).
//!
//! ```text
//!   if it has no payload, FIN or RST           pass
//!   place = owner - FIRST_OWNER
//!   if place is beyond the last                pass       (a listener, or a socket of somebody else)
//!   board = that of resets if it has a RST, that of FINs if it has a FIN and no payload, else that of segments
//!   if the place's bit is set                  pass       (it was announced and not taken yet)
//!   set it
//!   if its word's bit is not set               set it
//!   if the state is not CALLS                  make it CALLS, and if it was ASLEEP, ring the bell
//!   pass
//! ```
//!
//! What looks at a word's bit or the state before it sets them does so after an atomic operation, which is a full
//! barrier (BPF_FETCH): if the shard clears it later, the shard looks later still at what was set before. A place's
//! bit that is set already is of a call that the shard has not heard; what it makes of this segment is `lifecycle.rs`'
//! matter.

use std::os::fd::RawFd;

use super::{ASLEEP, BITMAPS, CALLS, FIRST_OWNER, Layout, Notification, STATE};

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    /// The destination in the lower half, the source in the upper one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Registers: 0 is what a helper returns, 1 to 5 are its arguments and lost with the call, 6 to 9 are kept.
type Register = u8;
const FRAME: Register = 10;

/// The offset in `struct __sk_buff`.
const LENGTH: i16 = 0;

/// Bytes 12 and 13 of a TCP header (RFC 9293, 3.1): its length in words, and its flags.
const LENGTH_AND_FLAGS: i32 = 12;
const FIN: i32 = 1;
const RST: i32 = 4;

/// Numbers of helpers (`enum bpf_func_id`) and what they are told.
const GET_SOCKET_UID: i32 = 47;
const RINGBUF_OUTPUT: i32 = 130;
const FORCE_WAKEUP: i32 = 2;

/// Flags of atomic operations.
const OR: i32 = 0x40;
const EXCHANGE: i32 = 0xe0;
const FETCH: i32 = 1;

/// What passes all of a segment.
const ALL: i32 = -1;

/// Instructions, of which some jump to an end that is not there yet.
#[derive(Default)]
struct Program {
    instructions: Vec<Instruction>,
    to_the_end: Vec<usize>,
}

impl Program {
    fn push(&mut self, code: u8, to: Register, from: Register, offset: i16, immediate: i32) -> &mut Program {
        self.instructions.push(Instruction { code, registers: from << 4 | to, offset, immediate });
        self
    }

    /// Two bytes of the segment, in host order, into register 0. The context must be in 6.
    fn load_segment(&mut self, at: i32) -> &mut Program {
        self.push(0x28, 0, 0, 0, at)
    }

    fn load_32(&mut self, to: Register, from: Register, offset: i16) -> &mut Program {
        self.push(0x61, to, from, offset, 0)
    }

    fn load_64(&mut self, to: Register, from: Register, offset: i16) -> &mut Program {
        self.push(0x79, to, from, offset, 0)
    }

    fn store_64(&mut self, to: Register, offset: i16, from: Register) -> &mut Program {
        self.push(0x7b, to, from, offset, 0)
    }

    /// What the address held before is in `register` after it.
    fn atomic(&mut self, operation: i32, at: Register, offset: i16, register: Register) -> &mut Program {
        self.push(0xdb, at, register, offset, operation | FETCH)
    }

    fn set(&mut self, to: Register, value: i32) -> &mut Program {
        self.push(0xb7, to, 0, 0, value)
    }

    fn copy(&mut self, to: Register, from: Register) -> &mut Program {
        self.push(0xbf, to, from, 0, 0)
    }

    fn add(&mut self, to: Register, value: i32) -> &mut Program {
        self.push(0x07, to, 0, 0, value)
    }

    /// In 32 bits; the upper half becomes 0.
    fn subtract_32(&mut self, from: Register, value: u32) -> &mut Program {
        self.push(0x14, from, 0, 0, value.cast_signed())
    }

    fn add_register(&mut self, to: Register, from: Register) -> &mut Program {
        self.push(0x0f, to, from, 0, 0)
    }

    fn and(&mut self, to: Register, value: i32) -> &mut Program {
        self.push(0x57, to, 0, 0, value)
    }

    fn and_register(&mut self, to: Register, from: Register) -> &mut Program {
        self.push(0x5f, to, from, 0, 0)
    }

    fn shift_left(&mut self, to: Register, bits: i32) -> &mut Program {
        self.push(0x67, to, 0, 0, bits)
    }

    fn shift_left_by(&mut self, to: Register, from: Register) -> &mut Program {
        self.push(0x6f, to, from, 0, 0)
    }

    fn shift_right(&mut self, to: Register, bits: i32) -> &mut Program {
        self.push(0x77, to, 0, 0, bits)
    }

    /// The address of a map, for helpers.
    fn map(&mut self, to: Register, map: RawFd) -> &mut Program {
        self.push(0x18, to, 1, 0, map).push(0, 0, 0, 0, 0)
    }

    /// The address of a byte in the only value of an array.
    fn map_value(&mut self, to: Register, map: RawFd, at: i32) -> &mut Program {
        self.push(0x18, to, 2, 0, map).push(0, 0, 0, 0, at)
    }

    fn call(&mut self, helper: i32) -> &mut Program {
        self.push(0x85, 0, 0, 0, helper)
    }

    fn subtract_register(&mut self, from: Register, subtracted: Register) -> &mut Program {
        self.push(0x1f, from, subtracted, 0, 0)
    }

    /// What follows of `block`, if the register is 0, or is not.
    fn when(&mut self, register: Register, zero: bool, block: impl FnOnce(&mut Program)) -> &mut Program {
        let at = self.instructions.len();
        self.push(if zero { 0x55 } else { 0x15 }, register, 0, 0, 0);
        block(self);
        self.instructions[at].offset = (self.instructions.len() - at - 1) as i16;
        self
    }

    fn pass_if(&mut self, register: Register, value: i32) -> &mut Program {
        self.to_the_end.push(self.instructions.len());
        self.push(0x15, register, 0, 0, value)
    }

    fn pass_unless(&mut self, register: Register, value: i32) -> &mut Program {
        self.to_the_end.push(self.instructions.len());
        self.push(0x55, register, 0, 0, value)
    }

    /// Unsigned.
    fn pass_if_above(&mut self, register: Register, value: i32) -> &mut Program {
        self.to_the_end.push(self.instructions.len());
        self.push(0x25, register, 0, 0, value)
    }

    /// The end: lets the segment pass.
    fn pass(mut self) -> Vec<Instruction> {
        let end = self.instructions.len();
        for at in self.to_the_end.drain(..) {
            self.instructions[at].offset = (end - at - 1) as i16;
        }
        self.set(0, ALL).push(0x95, 0, 0, 0, 0);
        self.instructions
    }

    /// Where a bit is among those that begin at a word of the board: its word in register 8, its value in 9.
    fn locate(&mut self, bit: Register, bitmap: Register, map: RawFd, first: usize) -> &mut Program {
        self.copy(1, bit).shift_right(1, 6).shift_left(1, 3);
        self.map_value(8, map, byte(first)).add_register(8, bitmap).add_register(8, 1);
        self.copy(1, bit).and(1, 63).set(9, 1).shift_left_by(9, 1)
    }

    /// Whether the bit is set, in register 1.
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

/// The filter for places of this layout. In register 6 is the context, then the place and then its word; in 7 are
/// the flags of the segment, then where its board is.
pub fn filter(map: RawFd, bell: RawFd, layout: Layout) -> Vec<Instruction> {
    let mut program = Program::default();
    program.copy(6, 1).load_segment(LENGTH_AND_FLAGS).copy(7, 0);
    // The segment begins with its header: longer than that, it has payload, whose FIN is heard with it.
    program.copy(8, 0).shift_right(8, 12).shift_left(8, 2).load_32(9, 6, LENGTH).subtract_register(9, 8);
    program.when(9, false, |program| {
        program.and(7, !FIN);
    });
    program.when(9, true, |program| {
        program.copy(1, 7).and(1, FIN | RST).pass_if(1, 0);
    });
    program.copy(1, 6).call(GET_SOCKET_UID);
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
    program.map_value(8, map, byte(STATE)).load_64(1, 8, 0).pass_if(1, CALLS as i32);
    program.set(1, CALLS as i32).atomic(EXCHANGE, 8, 0, 1).pass_unless(1, ASLEEP as i32);
    program.set(1, 0).store_64(FRAME, -8, 1).map(1, bell).copy(2, FRAME).add(2, -8);
    program.set(3, 8).set(4, FORCE_WAKEUP).call(RINGBUF_OUTPUT);
    program.pass()
}
