//! A plain descriptor of a slot's socket, for what can be asked of plain descriptors alone, such as getpeername(2).

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::types::Fixed;
use io_uring::{cqueue, opcode};

use super::{Ring, RingOps};
use crate::error::{Error, Result};
use crate::token::{Operation, Token};

/// Enters until the kernel has completed an operation that it executes while it takes the submission. The first does
/// it, unless a signal interrupts that or completions wait behind a full queue.
const ENTERS: usize = 64;

impl Ring {
    /// See `RingOps::copy_descriptor`.
    pub(super) fn copy_at_once(&mut self, token: Token) -> Result<io::Result<OwnedFd>> {
        let ours = token.with(Operation::CopyDescriptor).pack();
        self.push(&[opcode::FixedFdInstall::new(Fixed(token.slot), 0).build().user_data(ours)])?;
        for _ in 0..ENTERS {
            self.enter()?;
            if let Some(result) = self.reap_until(ours)? {
                return Ok(match result {
                    // SAFETY: the kernel made this descriptor for this operation alone.
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
