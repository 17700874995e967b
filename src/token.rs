//! `user_data` of ring operations: slot, generation and operation packed in one u64. Also `ConnId`, the name of a
//! connection within its shard.

use crate::constants::{RINGS_PER_SHARD, SLOT_BITS};

/// The operation that a completion belongs to. The kernel hands the numbers back in `user_data`. No operation has
/// number 0, so a zeroed completion is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Operation {
    /// A single-shot accept into the slot.
    Accept = 1,
    /// The installation of a plain socket as the slot's direct descriptor.
    Install = 2,
    /// A connect of the slot's socket.
    Connect = 3,
    /// The poll in which an idle connection waits for data.
    Poll = 4,
    /// A receive that completes within the io_uring_enter that submits it.
    Receive = 5,
    /// A send that completes within the io_uring_enter that submits it.
    Send = 6,
    /// A send that waits in the kernel for a slow reader.
    ParkedSend = 7,
    /// The removal of a poll, or the cancellation of another operation.
    Cancel = 8,
    /// A reset of a connection (connect to AF_UNSPEC).
    Reset = 9,
    /// Closing the slot's descriptor.
    Close = 10,
    /// The poll on the filter's wake-up descriptor. It belongs to no connection.
    FilterWake = 11,
    /// The installation of an accepted plain socket as the slot's direct descriptor.
    InstallAccepted = 12,
    /// Making a plain descriptor of the slot's socket, to ask it for its addresses.
    CopyDescriptor = 13,
    /// The poll on the ring buffer of segments that were caught for sleeping connections. It belongs to no connection.
    CatcherWake = 14,
    /// The poll on the shard's doorbell. It belongs to no connection.
    DoorbellWake = 15,
    /// The end of what is sent: a FIN, behind which can still be received.
    Shutdown = 16,
}

impl Operation {
    const ALL: [Operation; 16] = [
        Operation::Accept,
        Operation::Install,
        Operation::Connect,
        Operation::Poll,
        Operation::Receive,
        Operation::Send,
        Operation::ParkedSend,
        Operation::Cancel,
        Operation::Reset,
        Operation::Close,
        Operation::FilterWake,
        Operation::InstallAccepted,
        Operation::CopyDescriptor,
        Operation::CatcherWake,
        Operation::DoorbellWake,
        Operation::Shutdown,
    ];
}

/// An operation on one occupant of a slot, within one ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Place in the ring's descriptor table, below 2^20.
    pub slot: u32,
    /// Number of the slot's occupant. It wraps after 2^32 occupants.
    pub generation: u32,
    /// The requested operation.
    pub operation: Operation,
}

const GENERATION_SHIFT: u32 = SLOT_BITS;
/// Behind the generation of 32 bits a token has its operation, and a `ConnId` its ring.
const OPERATION_SHIFT: u32 = SLOT_BITS + u32::BITS;
const RING_SHIFT: u32 = OPERATION_SHIFT;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

impl Token {
    /// The token as `user_data`: bits 0–19 slot, 20–51 generation, 52–59 operation, rest zero.
    pub fn pack(self) -> u64 {
        debug_assert!(u64::from(self.slot) <= SLOT_MASK);
        u64::from(self.slot)
            | u64::from(self.generation) << GENERATION_SHIFT
            | (self.operation as u64) << OPERATION_SHIFT
    }

    /// The token that `pack` made, or `None` for a number that `pack` cannot make.
    pub fn unpack(raw: u64) -> Option<Token> {
        let index = (raw >> OPERATION_SHIFT).checked_sub(1)?;
        let operation = *Operation::ALL.get(usize::try_from(index).ok()?)?;
        Some(Token { slot: (raw & SLOT_MASK) as u32, generation: (raw >> GENERATION_SHIFT) as u32, operation })
    }

    /// The same occupant with another operation.
    pub fn with(self, operation: Operation) -> Token {
        Token { operation, ..self }
    }
}

/// The name of a connection within its shard, from the opening to the end of the connection, asleep or awake. It holds
/// no shard number: on another shard it names no connection or a wrong one. It never names a later connection of its
/// shard, except after 2^32 connections in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(u64);

impl ConnId {
    /// The name of occupant number `generation` of `slot` in the shard's ring number `ring`.
    #[doc(hidden)]
    pub fn new(ring: usize, slot: u32, generation: u32) -> ConnId {
        debug_assert!(ring < RINGS_PER_SHARD);
        ConnId((ring as u64) << RING_SHIFT | u64::from(generation) << GENERATION_SHIFT | u64::from(slot))
    }

    /// As one number, for another process.
    pub(crate) fn to_number(self) -> u64 {
        self.0
    }

    /// What `to_number` has made a number of.
    pub(crate) fn of_number(number: u64) -> ConnId {
        ConnId(number)
    }

    /// The number of the shard's ring that holds the connection.
    #[doc(hidden)]
    pub fn ring(self) -> usize {
        (self.0 >> RING_SHIFT) as usize
    }

    /// Its place in that ring's descriptor table, below 2^20.
    #[doc(hidden)]
    pub fn slot(self) -> u32 {
        (self.0 & SLOT_MASK) as u32
    }

    /// The number of this occupant of the slot.
    #[doc(hidden)]
    pub fn generation(self) -> u32 {
        (self.0 >> GENERATION_SHIFT) as u32
    }

    /// The token of `operation` on this connection.
    #[doc(hidden)]
    pub fn token(self, operation: Operation) -> Token {
        Token { slot: self.slot(), generation: self.generation(), operation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_token_survives_packing(slot in 0u32..1 << SLOT_BITS, generation: u32, op in 0..Operation::ALL.len()) {
            let token = Token { slot, generation, operation: Operation::ALL[op] };
            prop_assert_eq!(Token::unpack(token.pack()), Some(token));
        }

        #[test]
        fn no_two_tokens_share_a_number(a: u64, b: u64) {
            if let (Some(x), Some(y)) = (Token::unpack(a), Token::unpack(b)) {
                prop_assert_eq!(x == y, x.pack() == y.pack());
            }
        }

        #[test]
        fn a_connection_id_keeps_its_parts(ring in 0usize..RINGS_PER_SHARD, slot in 0u32..1 << SLOT_BITS, generation: u32) {
            let conn = ConnId::new(ring, slot, generation);
            prop_assert_eq!((conn.ring(), conn.slot(), conn.generation()), (ring, slot, generation));
        }
    }

    #[test]
    fn operations_are_numbered_in_order() {
        for (index, operation) in Operation::ALL.iter().enumerate() {
            assert_eq!(*operation as usize, index + 1);
        }
    }

    #[test]
    fn a_number_that_pack_never_makes_is_refused() {
        assert_eq!(Token::unpack(0), None);
        assert_eq!(Token::unpack(u64::MAX), None);
    }
}
