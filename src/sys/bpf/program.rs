//! An assembler for BPF programs (RFC 9669).

use std::os::fd::RawFd;

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
pub type Register = u8;

/// The end of the program's stack, which has 512 bytes below it.
pub const FRAME: Register = 10;

/// Numbers of helpers (`enum bpf_func_id`, described in bpf-helpers(7)).
pub mod helper {
    pub const MAP_LOOKUP_ELEM: i32 = 1;
    pub const KTIME_GET_NS: i32 = 5;
    pub const SKB_LOAD_BYTES: i32 = 26;
    pub const GET_SOCKET_UID: i32 = 47;
    pub const SKB_LOAD_BYTES_RELATIVE: i32 = 68;
    pub const SK_RELEASE: i32 = 86;
    pub const SK_ASSIGN: i32 = 124;
    pub const RINGBUF_OUTPUT: i32 = 130;
    pub const RINGBUF_RESERVE: i32 = 131;
    pub const RINGBUF_SUBMIT: i32 = 132;
    pub const RINGBUF_DISCARD: i32 = 133;
}

/// Atomic operations.
pub const ADD: i32 = 0;
pub const OR: i32 = 0x40;
pub const EXCHANGE: i32 = 0xe0;

/// An atomic operation leaves the previous value in its register.
const FETCH: i32 = 1;

/// The result of a socket filter that passes the whole segment.
pub const ALL: i32 = -1;

/// A place in a program to which instructions jump before its position is known.
#[derive(Default)]
pub struct Label {
    jumps: Vec<usize>,
}

/// A program under construction.
#[derive(Default)]
pub struct Program {
    instructions: Vec<Instruction>,
    /// Where the whole segment passes.
    end: Label,
}

impl Program {
    fn push(&mut self, code: u8, to: Register, from: Register, offset: i16, immediate: i32) -> &mut Program {
        self.instructions.push(Instruction { code, registers: from << 4 | to, offset, immediate });
        self
    }

    /// Loads two bytes of the segment, in host order, into register 0. The context must be in register 6. If the
    /// segment is shorter, the program ends with the result 0.
    pub fn load_segment(&mut self, at: i32) -> &mut Program {
        self.push(0x28, 0, 0, 0, at)
    }

    pub fn load_16(&mut self, to: Register, from: Register, offset: i16) -> &mut Program {
        self.push(0x69, to, from, offset, 0)
    }

    pub fn load_32(&mut self, to: Register, from: Register, offset: i16) -> &mut Program {
        self.push(0x61, to, from, offset, 0)
    }

    pub fn load_64(&mut self, to: Register, from: Register, offset: i16) -> &mut Program {
        self.push(0x79, to, from, offset, 0)
    }

    pub fn store_16(&mut self, to: Register, offset: i16, from: Register) -> &mut Program {
        self.push(0x6b, to, from, offset, 0)
    }

    pub fn store_32(&mut self, to: Register, offset: i16, from: Register) -> &mut Program {
        self.push(0x63, to, from, offset, 0)
    }

    pub fn store_64(&mut self, to: Register, offset: i16, from: Register) -> &mut Program {
        self.push(0x7b, to, from, offset, 0)
    }

    /// Leaves the previous value at the address in `register`.
    pub fn atomic(&mut self, operation: i32, at: Register, offset: i16, register: Register) -> &mut Program {
        self.push(0xdb, at, register, offset, operation | FETCH)
    }

    pub fn set(&mut self, to: Register, value: i32) -> &mut Program {
        self.push(0xb7, to, 0, 0, value)
    }

    pub fn set_64(&mut self, to: Register, value: u64) -> &mut Program {
        self.push(0x18, to, 0, 0, value as i32).push(0, 0, 0, 0, (value >> 32) as i32)
    }

    pub fn copy(&mut self, to: Register, from: Register) -> &mut Program {
        self.push(0xbf, to, from, 0, 0)
    }

    pub fn add(&mut self, to: Register, value: i32) -> &mut Program {
        self.push(0x07, to, 0, 0, value)
    }

    /// Subtracts in 32 bits; the upper half becomes 0.
    pub fn subtract_32(&mut self, from: Register, value: u32) -> &mut Program {
        self.push(0x14, from, 0, 0, value.cast_signed())
    }

    pub fn add_register(&mut self, to: Register, from: Register) -> &mut Program {
        self.push(0x0f, to, from, 0, 0)
    }

    pub fn subtract_register(&mut self, from: Register, subtracted: Register) -> &mut Program {
        self.push(0x1f, from, subtracted, 0, 0)
    }

    pub fn multiply(&mut self, to: Register, value: i32) -> &mut Program {
        self.push(0x27, to, 0, 0, value)
    }

    pub fn multiply_register(&mut self, to: Register, from: Register) -> &mut Program {
        self.push(0x2f, to, from, 0, 0)
    }

    pub fn and(&mut self, to: Register, value: i32) -> &mut Program {
        self.push(0x57, to, 0, 0, value)
    }

    pub fn and_register(&mut self, to: Register, from: Register) -> &mut Program {
        self.push(0x5f, to, from, 0, 0)
    }

    /// In 32 bits; the upper half becomes 0.
    pub fn or_32(&mut self, to: Register, value: u32) -> &mut Program {
        self.push(0x44, to, 0, 0, value.cast_signed())
    }

    pub fn xor_register(&mut self, to: Register, from: Register) -> &mut Program {
        self.push(0xaf, to, from, 0, 0)
    }

    pub fn shift_left(&mut self, to: Register, bits: i32) -> &mut Program {
        self.push(0x67, to, 0, 0, bits)
    }

    pub fn shift_left_by(&mut self, to: Register, from: Register) -> &mut Program {
        self.push(0x6f, to, from, 0, 0)
    }

    pub fn shift_right(&mut self, to: Register, bits: i32) -> &mut Program {
        self.push(0x77, to, 0, 0, bits)
    }

    /// Takes the lower 16 bits from host order to that of the network.
    pub fn network_order_16(&mut self, register: Register) -> &mut Program {
        self.push(0xdc, register, 0, 0, 16)
    }

    /// Loads the address of a map, for helpers.
    pub fn map(&mut self, to: Register, map: RawFd) -> &mut Program {
        self.push(0x18, to, 1, 0, map).push(0, 0, 0, 0, 0)
    }

    /// Loads the address of byte `at` in the only value of an array.
    pub fn map_value(&mut self, to: Register, map: RawFd, at: i32) -> &mut Program {
        self.push(0x18, to, 2, 0, map).push(0, 0, 0, 0, at)
    }

    pub fn call(&mut self, helper: i32) -> &mut Program {
        self.push(0x85, 0, 0, 0, helper)
    }

    /// Ends the program with a result.
    pub fn exit(&mut self, result: i32) -> &mut Program {
        self.set(0, result).push(0x95, 0, 0, 0, 0)
    }

    /// Adds `block`, which runs only if the register is 0 (`zero`), or only if it is not.
    pub fn when(&mut self, register: Register, zero: bool, block: impl FnOnce(&mut Program)) -> &mut Program {
        let at = self.instructions.len();
        self.push(if zero { 0x55 } else { 0x15 }, register, 0, 0, 0);
        block(self);
        self.instructions[at].offset = (self.instructions.len() - at - 1) as i16;
        self
    }

    fn jump(&mut self, code: u8, register: Register, from: Register, value: i32, label: &mut Label) -> &mut Program {
        label.jumps.push(self.instructions.len());
        self.push(code, register, from, 0, value)
    }

    pub fn jump_to(&mut self, label: &mut Label) -> &mut Program {
        self.jump(0x05, 0, 0, 0, label)
    }

    pub fn jump_if(&mut self, register: Register, value: i32, label: &mut Label) -> &mut Program {
        self.jump(0x15, register, 0, value, label)
    }

    pub fn jump_unless(&mut self, register: Register, value: i32, label: &mut Label) -> &mut Program {
        self.jump(0x55, register, 0, value, label)
    }

    /// Compares as unsigned numbers.
    pub fn jump_if_above(&mut self, register: Register, value: i32, label: &mut Label) -> &mut Program {
        self.jump(0x25, register, 0, value, label)
    }

    /// Compares as unsigned numbers.
    pub fn jump_if_below(&mut self, register: Register, value: i32, label: &mut Label) -> &mut Program {
        self.jump(0xa5, register, 0, value, label)
    }

    /// Compares the lower 32 bits of two registers.
    pub fn jump_if_same_32(&mut self, register: Register, other: Register, label: &mut Label) -> &mut Program {
        self.jump(0x1e, register, other, 0, label)
    }

    /// Puts a label here, before the next instruction.
    pub fn here(&mut self, label: Label) -> &mut Program {
        let here = self.instructions.len();
        for at in label.jumps {
            self.instructions[at].offset = (here - at - 1) as i16;
        }
        self
    }

    pub fn pass_if(&mut self, register: Register, value: i32) -> &mut Program {
        self.end.jumps.push(self.instructions.len());
        self.push(0x15, register, 0, 0, value)
    }

    pub fn pass_unless(&mut self, register: Register, value: i32) -> &mut Program {
        self.end.jumps.push(self.instructions.len());
        self.push(0x55, register, 0, 0, value)
    }

    /// Compares as unsigned numbers.
    pub fn pass_if_above(&mut self, register: Register, value: i32) -> &mut Program {
        self.end.jumps.push(self.instructions.len());
        self.push(0x25, register, 0, 0, value)
    }

    /// Ends the program, with the whole segment passing.
    pub fn pass(self) -> Vec<Instruction> {
        self.ending_with(ALL)
    }

    /// Ends the program with a result, also for the jumps to its end.
    pub fn ending_with(mut self, result: i32) -> Vec<Instruction> {
        let end = std::mem::take(&mut self.end);
        self.here(end).exit(result);
        self.instructions
    }
}
