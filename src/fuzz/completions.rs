//! The completions of a ring, in any order and with any results.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::Input;
use crate::constants::BUFFER_BYTES;
use crate::ring::in_flight::InFlightOps;
use crate::ring::{Buffer, Buffers, Completion, Outcome};
use crate::token::{Operation, Token};

/// Completions as a kernel may report them, in any order and with any result. Each operation gives its own memory back
/// once, with no more bytes in use than were requested. A completion of an operation that was never requested is refused.
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
    sends: VecDeque<Sending>,
    parked: Vec<(Token, Arc<[u8]>)>,
}

/// A send in the kernel.
struct Sending {
    token: Token,
    range: Range<usize>,
    /// Its bytes, if they are in no buffer.
    shared: Option<Arc<[u8]>>,
    submitted: bool,
}

/// A buffer that is marked with the operation that has it.
fn marked(mut buffer: Buffer, token: Token) -> Buffer {
    buffer.bytes()[..8].copy_from_slice(&token.pack().to_le_bytes());
    buffer
}

impl Kernel {
    fn ask(&mut self, token: Token, bytes: usize) {
        let bytes = bytes % (BUFFER_BYTES + 1);
        match token.operation {
            Operation::Receive => {
                self.in_flight.receive(token, marked(self.buffers.take(), token));
                self.receives.push(token);
            }
            Operation::Send if bytes % 2 == 1 => {
                let shared: Arc<[u8]> = vec![0; bytes].into();
                self.in_flight.send_shared(token, shared.clone());
                self.sends.push_back(Sending { token, range: 0..bytes, shared: Some(shared), submitted: false });
            }
            Operation::Send => {
                let range = bytes / 2..bytes;
                self.in_flight.send(token, marked(self.buffers.take(), token), range.clone());
                self.sends.push_back(Sending { token, range, shared: None, submitted: false });
            }
            _ => {
                let all: Arc<[u8]> = vec![0; bytes].into();
                self.in_flight.park(token, all.clone(), 0..bytes);
                self.parked.push((token, all));
            }
        }
    }

    /// The operation gives its buffer back.
    fn comes_back(&mut self, mut buffer: Buffer, token: Token) {
        assert_eq!(buffer.bytes()[..8], token.pack().to_le_bytes(), "the buffer of another operation");
        self.buffers.put(buffer);
    }

    fn submit(&mut self) {
        self.in_flight.submitted();
        self.sends.iter_mut().for_each(|send| send.submitted = true);
    }

    fn finish_sends(&mut self) {
        let mut finished = Vec::new();
        self.in_flight.finish_sends(&mut self.buffers, &mut finished);
        for token in finished {
            let first = self.sends.pop_front().filter(|send| send.submitted);
            let Some(first) = first else { panic!("{token:?} was not submitted") };
            assert_eq!(token, first.token);
            assert!(first.shared.is_none_or(|bytes| Arc::strong_count(&bytes) == 1), "its memory is kept");
        }
    }

    /// Completes one of the operations in the kernel.
    fn complete(&mut self, which: usize, result: i32, flags: u32) {
        let tokens = self.tokens();
        let Some(token) = which.checked_rem(tokens.len()).map(|at| tokens[at]) else { return };
        let decoded = self.in_flight.decode(token.pack(), result, flags);
        let outcome = decoded.map(|Completion { token: told, outcome }| {
            assert_eq!(told, token);
            outcome
        });
        if let Some(at) = self.receives.iter().position(|receive| *receive == token) {
            self.receives.remove(at);
            match outcome {
                Ok(Outcome::Received { buffer, len, .. }) => {
                    assert!((1..=BUFFER_BYTES).contains(&len) && i64::from(result) == len as i64);
                    self.comes_back(buffer, token);
                }
                Ok(Outcome::End(buffer)) if result == 0 => self.comes_back(buffer, token),
                Ok(Outcome::Empty(buffer) | Outcome::ReceiveFailed(buffer, _)) if result < 0 => {
                    self.comes_back(buffer, token);
                }
                other => assert!(other.is_err() && i64::from(result) > BUFFER_BYTES as i64, "{result}: {other:?}"),
            }
        } else if let Some(at) = self.sends.iter().position(|send| send.token == token) {
            let send = self.sends.remove(at).unwrap();
            self.sent(&send, result, outcome.unwrap());
        } else {
            let at = self.parked.iter().position(|parked| parked.0 == token).unwrap();
            let all = self.parked.remove(at).1;
            let sent = if result == -libc::ECANCELED { Ok(0) } else { usize::try_from(result) };
            match outcome.unwrap() {
                Outcome::ParkedSent => assert_eq!(usize::try_from(result), Ok(all.len())),
                Outcome::ParkedSendCut(bytes, left) => {
                    assert!(Arc::ptr_eq(&bytes, &all), "the bytes of another send");
                    assert_eq!((sent, left.end), (Ok(left.start), all.len()));
                }
                other => {
                    let failed = matches!(other, Outcome::ParkedSendFailed(_));
                    assert!(failed && sent.ok().is_none_or(|sent| sent > all.len()), "{result}: {other:?}");
                }
            }
            assert_eq!(Arc::strong_count(&all), 1, "its memory is kept");
        }
    }

    /// A send has a completion: the kernel took only a part of it, or nothing.
    fn sent(&mut self, send: &Sending, result: i32, outcome: Outcome) {
        let asked = &send.range;
        let is_rest = |left: &Range<usize>| left.end == asked.end && asked.start <= left.start;
        match (outcome, &send.shared) {
            (Outcome::SentShort(buffer, left), None) => {
                assert!(is_rest(&left));
                self.comes_back(buffer, send.token);
            }
            (Outcome::SendFailed(buffer, _), None) if result < 0 => self.comes_back(buffer, send.token),
            (Outcome::SharedSentShort(bytes, left), Some(shared)) => {
                assert!(is_rest(&left) && Arc::ptr_eq(&bytes, shared), "the bytes of another send");
            }
            (Outcome::SharedSendFailed(_), Some(_)) if result < 0 => {}
            (other, _) => panic!("{result}: {other:?}"),
        }
        assert!(send.shared.as_ref().is_none_or(|bytes| Arc::strong_count(bytes) == 1), "its memory is kept");
    }

    /// All operations in the kernel.
    fn tokens(&self) -> Vec<Token> {
        let sends = self.sends.iter().map(|send| send.token);
        self.receives.iter().copied().chain(sends).chain(self.parked.iter().map(|parked| parked.0)).collect()
    }

    /// Claims that an operation ended which may never have been requested.
    fn claim(&mut self, user_data: u64, result: i32, flags: u32) {
        let token = Token::unpack(user_data);
        if token.is_some_and(|token| self.tokens().contains(&token)) {
            return;
        }
        let known = token.is_some_and(|token| !matches!(token.operation, Operation::Receive | Operation::Send));
        assert_eq!(self.in_flight.decode(user_data, result, flags).is_ok(), known, "{token:?}");
    }

    fn check(&self) {
        let sends = self.sends.iter().filter(|send| send.shared.is_none());
        assert_eq!(self.in_flight.buffers(), self.receives.len() + sends.count());
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
