//! The completions of a ring, in any order and with any results.

use std::collections::VecDeque;
use std::ops::Range;

use super::Input;
use crate::constants::BUFFER_BYTES;
use crate::ring::in_flight::InFlightOps;
use crate::ring::{Buffers, Outcome};
use crate::token::{Operation, Token};

/// Completions as a kernel may report them, in any order and with any result. Each buffer comes back once, with no
/// more bytes in use than were requested. A completion of an operation that was never requested is refused.
pub fn completions(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut kernel = Kernel::default();
    for generation in 0.. {
        let step = input.byte();
        let operation = [Operation::Receive, Operation::Send, Operation::ParkedSend][usize::from(step) % 3];
        let token = Token { slot: u32::from(step), generation, operation };
        match step >> 5 {
            0 | 1 => kernel.ask(token, input.short()),
            2 => kernel.submit(),
            3 => kernel.finish_sends(),
            4..=6 => kernel.complete(input.short(), input.word().cast_signed(), input.word()),
            _ => kernel.claim(u64::from_le_bytes(input.next()), input.word().cast_signed(), input.word()),
        }
        kernel.check();
        if input.0.is_empty() {
            return kernel.end();
        }
    }
}

/// The operations that the kernel really has, beside those that `InFlightOps` believes it has.
#[derive(Default)]
struct Kernel {
    in_flight: InFlightOps,
    buffers: Buffers,
    receives: Vec<Token>,
    /// Each send, the range of its buffer, and whether it was submitted.
    sends: VecDeque<(Token, Range<usize>, bool)>,
    parked: Vec<(Token, usize)>,
}

impl Kernel {
    fn ask(&mut self, token: Token, bytes: usize) {
        let bytes = bytes % (BUFFER_BYTES + 1);
        match token.operation {
            Operation::Receive => {
                self.in_flight.receive(token, self.buffers.take());
                self.receives.push(token);
            }
            Operation::Send => {
                let range = bytes / 2..bytes;
                self.in_flight.send(token, self.buffers.take(), range.clone());
                self.sends.push_back((token, range, false));
            }
            _ => {
                self.in_flight.park(token, vec![0; bytes].into(), 0..bytes);
                self.parked.push((token, bytes));
            }
        }
    }

    fn submit(&mut self) {
        self.in_flight.submitted();
        self.sends.iter_mut().for_each(|send| send.2 = true);
    }

    fn finish_sends(&mut self) {
        let mut finished = Vec::new();
        self.in_flight.finish_sends(&mut self.buffers, &mut finished);
        for token in finished {
            let Some((first, _, true)) = self.sends.pop_front() else { panic!("{token:?} was not submitted") };
            assert_eq!(token, first);
        }
    }

    /// Completes one of the operations in the kernel.
    fn complete(&mut self, which: usize, result: i32, flags: u32) {
        let tokens = self.receives.iter().chain(self.sends.iter().map(|send| &send.0));
        let mut tokens = tokens.chain(self.parked.iter().map(|parked| &parked.0));
        let many = self.receives.len() + self.sends.len() + self.parked.len();
        let Some(token) = which.checked_rem(many).and_then(|at| tokens.nth(at)).copied() else { return };
        let decoded = self.in_flight.decode(token.pack(), result, flags);
        if let Some(at) = self.receives.iter().position(|receive| *receive == token) {
            self.receives.remove(at);
            match decoded.map(|completion| completion.outcome) {
                Ok(Outcome::Received { mut buffer, len, .. }) => assert!((1..=buffer.bytes().len()).contains(&len)),
                Ok(Outcome::End(_)) => assert_eq!(result, 0),
                Ok(Outcome::Empty(_) | Outcome::ReceiveFailed(..)) => assert!(result < 0),
                other => assert!(other.is_err() && i64::from(result) > BUFFER_BYTES as i64, "{result}: {other:?}"),
            }
        } else if let Some(at) = self.sends.iter().position(|send| send.0 == token) {
            let asked = self.sends.remove(at).unwrap().1;
            match decoded.unwrap().outcome {
                Outcome::SentShort(_, left) => assert!(left.end == asked.end && asked.start <= left.start),
                other => assert!(matches!(other, Outcome::SendFailed(..)) && result < 0, "{result}: {other:?}"),
            }
        } else {
            let at = self.parked.iter().position(|parked| parked.0 == token).unwrap();
            let asked = self.parked.remove(at).1;
            let sent = if result == -libc::ECANCELED { Ok(0) } else { usize::try_from(result) };
            match decoded.unwrap().outcome {
                Outcome::ParkedSent => assert_eq!(usize::try_from(result), Ok(asked)),
                Outcome::ParkedSendCut(_, left) => assert_eq!((sent, left.end), (Ok(left.start), asked)),
                other => {
                    let failed = matches!(other, Outcome::ParkedSendFailed(_));
                    assert!(failed && sent.ok().is_none_or(|sent| sent > asked), "{result}: {other:?}");
                }
            }
        }
    }

    /// Claims that an operation ended which may never have been requested.
    fn claim(&mut self, user_data: u64, result: i32, flags: u32) {
        let token = Token::unpack(user_data);
        if self.receives.iter().chain(self.sends.iter().map(|send| &send.0)).any(|asked| Some(*asked) == token) {
            return;
        }
        if self.parked.iter().any(|parked| Some(parked.0) == token) {
            return;
        }
        let known = token.is_some_and(|token| !matches!(token.operation, Operation::Receive | Operation::Send));
        assert_eq!(self.in_flight.decode(user_data, result, flags).is_ok(), known, "{token:?}");
    }

    fn check(&self) {
        assert_eq!(self.in_flight.buffers(), self.receives.len() + self.sends.len());
        assert!(self.parked.iter().all(|parked| self.in_flight.has_parked(parked.0)));
    }

    /// Completes all operations that are left; all buffers come back.
    fn end(mut self) {
        self.submit();
        self.finish_sends();
        assert!(self.sends.is_empty());
        while self.receives.len() + self.parked.len() > 0 {
            self.complete(0, -libc::ECANCELED, 0);
        }
        assert_eq!(self.in_flight.buffers(), 0);
    }
}
