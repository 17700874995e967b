//! Whom a slot's connection is with. A direct descriptor has no getpeername(2): the address comes with the accept that
//! asks for it, or from a plain descriptor that the kernel makes of the direct one.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use io_uring::types::Fixed;
use io_uring::{cqueue, opcode};

use super::Ring;
use crate::error::{Error, Result};
use crate::token::{Operation, Token};

/// Enters until the kernel has completed an operation that it executes while it takes the submission. The first does
/// it, unless a signal interrupts that or completions wait behind a full queue.
const ENTERS: usize = 64;

impl Ring {
    /// Queues an accept as `accept` does, and has the kernel write the peer's address: `accepted_from` tells it.
    pub fn accept_from(&mut self, listener: RawFd, token: Token) -> Result<()> {
        let address = self.in_flight.accept(token.with(Operation::Accept)).as_mut_ptrs();
        self.accept_into(listener, token, address)
    }

    /// The address that came with an accept that has succeeded.
    pub fn accepted_from(&mut self, token: Token) -> Option<SocketAddr> {
        self.in_flight.accepted_from(token.with(Operation::Accept))?.socket_addr()
    }

    /// Makes a plain descriptor of the slot's socket, at once (`IORING_OP_FIXED_FD_INSTALL`, kernel 6.8). The kernel
    /// takes whatever else was queued in the same call; what completes meanwhile is kept for `reap`.
    ///
    /// The outer error is the ring's end. The inner one is the kernel's: `Unsupported` before 6.8, EMFILE where no
    /// descriptor is left, EBADF for an empty slot.
    pub fn copy_descriptor(&mut self, token: Token) -> Result<io::Result<OwnedFd>> {
        let ours = token.with(Operation::CopyDescriptor).pack();
        self.push(&[opcode::FixedFdInstall::new(Fixed(token.slot), 0).build().user_data(ours)])?;
        for _ in 0..ENTERS {
            self.enter()?;
            if let Some(result) = self.reap_until(ours)? {
                return Ok(match result {
                    // SAFETY: the kernel made this descriptor for this operation, and tells nobody else.
                    0.. => Ok(unsafe { OwnedFd::from_raw_fd(result) }),
                    _ if result == -libc::EINVAL => Err(unsupported()),
                    _ => Err(io::Error::from_raw_os_error(result.saturating_neg())),
                });
            }
        }
        Err(Error::bug(format!("no completion of {token:?} within {ENTERS} enters")))
    }

    /// Moves completions to those that came early, up to that of `ours`, whose result it returns.
    fn reap_until(&mut self, ours: u64) -> Result<Option<i32>> {
        let mut found = None;
        let mut raw = [const { MaybeUninit::<cqueue::Entry>::uninit() }; 64];
        while found.is_none() {
            let filled = self.uring.completion().fill(&mut raw);
            if filled.is_empty() {
                break;
            }
            for entry in filled.iter() {
                if entry.user_data() == ours {
                    found = Some(entry.result());
                } else {
                    let completion = self.in_flight.decode(entry.user_data(), entry.result(), entry.flags())?;
                    self.early.push(completion);
                }
            }
        }
        Ok(found)
    }
}

/// The kernel does not know the operation.
fn unsupported() -> io::Error {
    io::Error::new(
        ErrorKind::Unsupported,
        "this kernel cannot tell the addresses of a connection (IORING_OP_FIXED_FD_INSTALL, Linux 6.8): build the \
         server with `peer_addresses(true)`, and ask in `opened`",
    )
}
