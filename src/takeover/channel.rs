//! Messages with descriptors between two processes, over a Unix socket.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::sys::{MOST_RIGHTS, receive_rights, send_rights};
use crate::wiped::Wiped;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A successor asks.
    Hello = 1,
    /// The server that runs hands nothing over, for the reason in the body.
    Refused = 2,
    /// What is handed over.
    Terms = 3,
    /// Some descriptors, with their names in the body.
    Descriptors = 4,
    /// The successor is ready to take over.
    Begin = 5,
    /// The sleeping connections of a shard.
    Sleepers = 6,
    /// Some connections of a shard that are awake, with their sockets.
    Batch = 7,
    /// A shard has no connection left.
    Done = 8,
    /// The message before has arrived, and what is in it is the successor's.
    Taken = 9,
    /// What is known of some sleeping connections of a shard. Then `Sleepers` follows.
    KnownSleepers = 10,
    /// The successor serves the sleeping connections of the shard, and has time for those that are awake.
    Serving = 11,
    /// The successor has everything, and the service manager knows that it is the service now.
    Succeeded = 12,
}

impl Kind {
    fn of(number: u32) -> Option<Kind> {
        use Kind::{
            Batch, Begin, Descriptors, Done, Hello, KnownSleepers, Refused, Serving, Sleepers, Succeeded, Taken, Terms,
        };
        let all = [
            Hello,
            Refused,
            Terms,
            Descriptors,
            Begin,
            Sleepers,
            Batch,
            Done,
            Taken,
            KnownSleepers,
            Serving,
            Succeeded,
        ];
        all.into_iter().find(|kind| *kind as u32 == number)
    }
}

/// A message that was received.
#[derive(Debug)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Its bytes, which may hold secrets.
    pub body: Wiped,
    /// The descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// Bytes before the body of a message: its kind, and the length of the body.
const HEADER: usize = 8;

/// One end of a connection between two processes.
#[derive(Debug)]
pub struct Channel(UnixStream);

impl Channel {
    /// Over a connected socket.
    pub fn over(socket: UnixStream) -> Channel {
        Channel(socket)
    }

    /// Both ends of a new one.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        UnixStream::pair().map(|(one, other)| (Channel(one), Channel(other)))
    }

    /// The socket.
    pub fn socket(&self) -> &UnixStream {
        &self.0
    }

    /// Fails a call that waits longer than this; `None` lets it wait.
    pub fn limit(&self, time: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(time)?;
        self.0.set_write_timeout(time)
    }

    /// Sends a message, with `MOST_RIGHTS` descriptors at most.
    pub fn send(&self, kind: Kind, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let length = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&(kind as u32).to_le_bytes());
        header[4..].copy_from_slice(&length.to_le_bytes());
        let sent = send_rights(&self.0, &header, descriptors)?;
        (&self.0).write_all(&header[sent..])?;
        (&self.0).write_all(body)
    }

    /// Receives the next message; `None` at the end. Fails with `InvalidData` for what is none.
    pub fn receive(&self) -> io::Result<Option<Message>> {
        let (mut header, mut descriptors) = ([0; HEADER], Vec::new());
        let mut have = 0;
        while have < HEADER {
            match receive_rights(&self.0, &mut header[have..], &mut descriptors)? {
                0 if have == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => have += more,
            }
        }
        let number = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let kind = Kind::of(number(0)).filter(|_| descriptors.len() <= MOST_RIGHTS);
        let kind = kind.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a message of a takeover"))?;
        let body = Wiped::read(&mut &self.0, u64::from(number(4)))?;
        Ok(Some(Message { kind, body, descriptors }))
    }

    /// Receives the next message, which must be of a kind. Fails with `InvalidData` for another one, and with
    /// `UnexpectedEof` at the end.
    pub fn expect(&self, kind: Kind) -> io::Result<Message> {
        let message = self.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if message.kind == kind {
            Ok(message)
        } else {
            let text = format!("a message {:?} in the place of {kind:?}", message.kind);
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn messages_arrive_whole_with_their_descriptors() {
        let (ours, theirs) = Channel::pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        let body = vec![7; 300_000];
        let sent = body.clone();
        let sender = std::thread::spawn(move || {
            ours.send(Kind::Batch, &sent, &[file.as_fd(); 100]).unwrap();
            ours.send(Kind::Done, &[], &[]).unwrap();
        });
        let first = theirs.receive().unwrap().unwrap();
        assert_eq!((first.kind, first.descriptors.len(), first.body[..] == body), (Kind::Batch, 100, true));
        let second = theirs.receive().unwrap().unwrap();
        assert_eq!((second.kind, second.descriptors.len(), second.body.len()), (Kind::Done, 0, 0));
        sender.join().unwrap();
        assert!(theirs.receive().unwrap().is_none());
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let short: &[u8] = &[8, 0, 0, 0, 9, 0, 0, 0, 1, 2];
        for bytes in [&[0; 8][..], &[99, 0, 0, 0, 0, 0, 0, 0], &[8, 0, 0], short] {
            let (ours, theirs) = Channel::pair().unwrap();
            (&ours.0).write_all(bytes).unwrap();
            drop(ours);
            assert!(theirs.receive().is_err(), "{bytes:?}");
        }
        let (ours, theirs) = Channel::pair().unwrap();
        ours.send(Kind::Taken, &[], &[]).unwrap();
        assert_eq!(theirs.expect(Kind::Begin).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
