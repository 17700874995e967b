//! The filter program, in BPF instructions (RFC 9669).
//!
//! ```text
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

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    /// The destination register in the lower four bits, the source in the upper four.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register. Register 0 holds a helper's result; 1 to 5 hold its arguments and do not survive the call; 6 to
/// 9 do.
type Register = u8;
const FRAME: Register = 10;

/// The offset of `len` in `struct __sk_buff`.
const LENGTH: i16 = 0;

/// Bytes 12 and 13 of a TCP header (RFC 9293, 3.1): its length in words, and its flags.
const LENGTH_AND_FLAGS: i32 = 12;
const FIN: i32 = 1;
const RST: i32 = 4;

/// Numbers of helpers (`enum bpf_func_id`), and a flag of `bpf_ringbuf_output`.
const GET_SOCKET_UID: i32 = 47;
const RINGBUF_OUTPUT: i32 = 130;
const FORCE_WAKEUP: i32 = 2;

/// Flags of atomic operations.
const OR: i32 = 0x40;
const EXCHANGE: i32 = 0xe0;
const FETCH: i32 = 1;

/// The result that passes the whole segment.
const ALL: i32 = -1;

/// A program under construction. Some of its instructions jump to the end, whose position is not known yet.
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

    /// Loads two bytes of the segment, in host order, into register 0. The context must be in register 6.
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

    /// Leaves the previous value at the address in `register`.
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

    /// Subtracts in 32 bits; the upper half becomes 0.
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

    /// Loads the address of a map, for helpers.
    fn map(&mut self, to: Register, map: RawFd) -> &mut Program {
        self.push(0x18, to, 1, 0, map).push(0, 0, 0, 0, 0)
    }

    /// Loads the address of byte `at` in the only value of an array.
    fn map_value(&mut self, to: Register, map: RawFd, at: i32) -> &mut Program {
        self.push(0x18, to, 2, 0, map).push(0, 0, 0, 0, at)
    }

    fn call(&mut self, helper: i32) -> &mut Program {
        self.push(0x85, 0, 0, 0, helper)
    }

    fn subtract_register(&mut self, from: Register, subtracted: Register) -> &mut Program {
        self.push(0x1f, from, subtracted, 0, 0)
    }

    /// Adds `block`, which runs only if the register is 0 (`zero`), or only if it is not.
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

    /// Compares as unsigned numbers.
    fn pass_if_above(&mut self, register: Register, value: i32) -> &mut Program {
        self.to_the_end.push(self.instructions.len());
        self.push(0x25, register, 0, 0, value)
    }

    /// Ends the program, with the whole segment passing.
    fn pass(mut self) -> Vec<Instruction> {
        let end = self.instructions.len();
        for at in self.to_the_end.drain(..) {
            self.instructions[at].offset = (end - at - 1) as i16;
        }
        self.set(0, ALL).push(0x95, 0, 0, 0, 0);
        self.instructions
    }

    /// Locates a bit among those that begin at word `first` of a bitmap: register 8 gets the address of the bit's
    /// word, register 9 its mask.
    fn locate(&mut self, bit: Register, bitmap: Register, map: RawFd, first: usize) -> &mut Program {
        self.copy(1, bit).shift_right(1, 6).shift_left(1, 3);
        self.map_value(8, map, byte(first)).add_register(8, bitmap).add_register(8, 1);
        self.copy(1, bit).and(1, 63).set(9, 1).shift_left_by(9, 1)
    }

    /// Makes register 1 nonzero if the located bit is set, and 0 otherwise.
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
/// holds the segment's flags, then the offset of the bitmap. `wake_up` is the ring buffer that wakes the shard.
pub fn filter(map: RawFd, wake_up: RawFd, layout: Layout) -> Vec<Instruction> {
    let mut program = Program::default();
    program.copy(6, 1).load_segment(LENGTH_AND_FLAGS).copy(7, 0);
    // The segment begins with its TCP header. If it is longer than the header it has payload, and its FIN
    // is found when the payload is received.
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
    program.map_value(8, map, byte(STATE)).load_64(1, 8, 0).pass_if(1, ANNOUNCED as i32);
    program.set(1, ANNOUNCED as i32).atomic(EXCHANGE, 8, 0, 1).pass_unless(1, ASLEEP as i32);
    program.set(1, 0).store_64(FRAME, -8, 1).map(1, wake_up).copy(2, FRAME).add(2, -8);
    program.set(3, 8).set(4, FORCE_WAKEUP).call(RINGBUF_OUTPUT);
    program.pass()
}
