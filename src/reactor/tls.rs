//! What comes on a connection with TLS: steps of its handshake, and records, which are opened where they were received.

use std::ops::Range;

use super::{Driver, Reactor};
use crate::connections::{Begins, CloseMode, CloseReason, Platform, Step};
use crate::error::{Alert, Error, Result, TlsFailure};
use crate::reply::Reply;
use crate::ring::Buffer;
use crate::tls::handshake::TlsAgreed;
use crate::tls::layer::{Joined, Shaken};
use crate::tls::record::{Opened, Unsealed};
use crate::tls_version::TlsVersion;
use crate::token::ConnId;

/// A connection: its slot, and its name.
#[derive(Clone, Copy)]
struct At {
    conn: ConnId,
    name: ConnId,
}

impl<D: Driver<P>, P: Platform> Reactor<D, P> {
    /// A connection stands. Returns whether it has a handshake before it is opened.
    pub(super) fn begin_handshake(&mut self, name: ConnId) -> Result<bool> {
        match self.connections.engine.await_handshake(name) {
            None => Ok(false),
            Some(Begins::Peer) => Ok(true),
            Some(Begins::Here) => self.driver.connected(&mut self.connections, name).map(|()| true),
        }
    }

    /// Bytes came on a connection with TLS.
    pub(super) fn received_tls(&mut self, conn: ConnId, mut buffer: Buffer, len: usize, more: bool) -> Result<()> {
        let engine = &mut self.connections.engine;
        if !engine.received(conn, len, more) {
            engine.put_buffer(buffer);
            return engine.operation_ended(conn);
        }
        let at = At { conn, name: engine.name_of(conn) };
        if !engine.is_opened(at.name) {
            // The receive is not over before.
            engine.put_step(Step { conn, buffer, len });
            return Ok(());
        }
        let reply = self.take_in(at, &mut buffer.bytes()[..len])?;
        let engine = &mut self.connections.engine;
        if reply.is_empty() {
            engine.put_buffer(buffer);
            engine.operation_ended(conn)
        } else {
            engine.reply_to_receive(conn, buffer, reply)
        }
    }

    /// Takes in what was received. Returns the part of the bytes that is to be sent back.
    fn take_in(&mut self, at: At, bytes: &mut [u8]) -> Result<Range<usize>> {
        let Some(tls) = &mut self.connections.engine.tls else { return Ok(0..0) };
        let start = match tls.layer.join(at.name, bytes) {
            Ok(Joined::None) => 0,
            Ok(Joined::Part) => return Ok(0..0),
            Ok(Joined::Whole(mut record, used)) => {
                self.open_apart(at, &mut record)?;
                used
            }
            Err(Alert::INTERNAL_ERROR) => return self.refuse(at).map(|()| 0..0),
            Err(alert) => return self.fail(at, alert).map(|()| 0..0),
        };
        let reply = self.open_all(at, &mut bytes[start..])?;
        Ok(reply.start + start..reply.end + start)
    }

    // ---- the handshake -------------------------------------------------------------------------

    /// Takes steps of handshakes, as many as the pass has time for. The answers to the messages that came in this pass have
    /// been sent.
    pub(super) fn take_steps(&mut self) -> Result<()> {
        let mut began = None;
        while let Some(Step { conn, mut buffer, len }) = self.connections.engine.next_step(&mut began) {
            let engine = &mut self.connections.engine;
            let at = At { conn, name: engine.name_of(conn) };
            // It may have been closed meanwhile.
            if engine.accepts_bytes(conn) {
                self.shake(at, &buffer.bytes()[..len])?;
            }
            let engine = &mut self.connections.engine;
            engine.put_buffer(buffer);
            engine.operation_ended(conn)?;
            self.tell_ended()?;
        }
        Ok(())
    }

    fn shake(&mut self, at: At, bytes: &[u8]) -> Result<()> {
        let engine = &mut self.connections.engine;
        let Some(tls) = &mut engine.tls else { return Ok(()) };
        let mut outgoing = std::mem::take(&mut tls.sealed);
        let begins = !tls.layer.is_shaking(at.name);
        let outcome = tls.layer.shake(at.name, bytes, &mut outgoing);
        if begins && tls.layer.is_shaking(at.name) {
            engine.handshake_began(at.name);
        }
        let sent = if outgoing.is_empty() { Ok(()) } else { engine.send(at.conn, &outgoing) };
        if let Some(tls) = &mut engine.tls {
            tls.put_sealed(outgoing);
        }
        sent?;
        match outcome {
            Ok(None) => Ok(()),
            // The alert is on its way.
            Err(failure) => engine.close(at.conn, CloseMode::Lingering, CloseReason::Tls(failure)),
            Ok(Some(Shaken { agreed, mut rest })) => {
                let counters = self.connections.counters();
                let kind = if agreed.resumed { &counters.handshakes_resumed } else { &counters.handshakes_full };
                kind.add(1);
                counters.handshakes_tls12.add((agreed.version == TlsVersion::Tls12).into());
                self.tell_agreed(Some((at.name, agreed)));
                self.driver.opened(&mut self.connections, at.name)?;
                self.tell_agreed(None);
                self.connections.engine.told_of(at.conn);
                self.open_apart(at, &mut rest)
            }
        }
    }

    /// What a handshake has agreed on can be asked for while the driver is told of the connection, and not later: nothing
    /// of it is kept.
    fn tell_agreed(&mut self, agreed: Option<(ConnId, TlsAgreed)>) {
        if let Some(tls) = &mut self.connections.engine.tls {
            tls.agreed = agreed;
        }
    }

    // ---- records -------------------------------------------------------------------------------

    /// Opens records that are not in a buffer of the shard.
    fn open_apart(&mut self, at: At, bytes: &mut [u8]) -> Result<()> {
        let reply = self.open_all(at, bytes)?;
        self.send_part(at, &bytes[reply])
    }

    fn send_part(&mut self, at: At, sealed: &[u8]) -> Result<()> {
        if sealed.is_empty() { Ok(()) } else { self.connections.engine.send(at.conn, sealed) }
    }

    /// Opens the records in some bytes, and hands their data to the driver. Returns the part of the bytes that is the
    /// sealed reply to the last record. The replies to the others are on their way: what the driver sends for the next
    /// record comes after them.
    fn open_all(&mut self, at: At, bytes: &mut [u8]) -> Result<Range<usize>> {
        let (mut start, mut reply) = (0, 0..0);
        while start < bytes.len() && self.connections.engine.accepts_bytes(at.conn) {
            let Some(tls) = &mut self.connections.engine.tls else { break };
            let length = match tls.layer.sessions.record_length(at.name, &bytes[start..]) {
                Ok(Some(length)) if length <= bytes.len() - start => length,
                Ok(_) if self.connections.engine.keep_incomplete(at.name, &bytes[start..]).is_ok() => break,
                without_room_or_faulty => {
                    // The reply was sealed before the alert, and so goes before it.
                    self.send_part(at, &bytes[std::mem::take(&mut reply)])?;
                    match without_room_or_faulty {
                        Ok(_) => self.refuse(at)?,
                        Err(alert) => self.fail(at, alert)?,
                    }
                    break;
                }
            };
            self.send_part(at, &bytes[reply])?;
            let part = self.open(at, &mut bytes[start..start + length])?;
            reply = part.start + start..part.end + start;
            start += length;
        }
        Ok(reply)
    }

    /// No more of incomplete records may be kept: closes the connection.
    fn refuse(&mut self, at: At) -> Result<()> {
        let counters = self.connections.counters();
        counters.records_refused.add(1);
        counters.alerts_sent.add(1);
        self.end(at, Alert::INTERNAL_ERROR, CloseMode::Lingering, CloseReason::Tls(TlsFailure::NoRoom))
    }

    /// Opens a record. Returns the part of it that is the sealed reply.
    fn open(&mut self, at: At, record: &mut [u8]) -> Result<Range<usize>> {
        let Some(tls) = &mut self.connections.engine.tls else { return Ok(0..0) };
        let opened = tls.layer.sessions.open(at.name, record);
        self.connections.counters().records_opened.add(1);
        match opened {
            Ok(Opened::Data(content)) => return self.hear(at, record, content),
            Ok(Opened::Nothing | Opened::KeyUpdate) => self.connections.engine.send_answer(at.name)?,
            Ok(Opened::Tickets(place)) => {
                if let Some(tls) = &mut self.connections.engine.tls {
                    tls.layer.take_tickets(at.name, &record[place]);
                }
                self.connections.engine.send_answer(at.name)?;
            }
            Ok(Opened::Alert(Alert::CLOSE_NOTIFY)) => {
                self.end(at, Alert::CLOSE_NOTIFY, CloseMode::Graceful, CloseReason::PeerClosed)?;
            }
            Ok(Opened::Alert(alert)) => {
                self.connections.counters().alerts_received.add(1);
                let reason = CloseReason::Tls(TlsFailure::PeerAlert(alert));
                self.connections.engine.close(at.conn, CloseMode::Immediate, reason)?;
            }
            Err(alert) => self.fail(at, alert)?,
        }
        Ok(0..0)
    }

    /// Hands data to the driver. Returns the part of the record that is the sealed reply.
    fn hear(&mut self, at: At, record: &mut [u8], content: Range<usize>) -> Result<Range<usize>> {
        self.connections.counters().messages.add(1);
        if let Some(tls) = &mut self.connections.engine.tls {
            tls.layer.await_no_tickets(at.name);
            tls.current = Some((at.name, None));
        }
        let reply = self.ask(at.name, &mut record[content.clone()])?;
        let current = self.connections.engine.tls.as_mut().and_then(|tls| tls.current.take());
        let closes = current.and_then(|(_, closes)| closes);
        let (range, closes) = match reply {
            Reply::Nothing => (0..0, closes),
            Reply::Close => (0..0, closes.or(Some((CloseMode::Graceful, CloseReason::Local)))),
            Reply::Back(range) => (range, closes),
        };
        let reply = if range.is_empty() { 0..0 } else { self.seal_reply(at, record, &content, range)? };
        match closes {
            None => Ok(reply),
            Some((mode, reason)) => {
                self.send_part(at, &record[reply])?;
                self.end(at, Alert::CLOSE_NOTIFY, mode, reason)?;
                Ok(0..0)
            }
        }
    }

    /// Seals a part of a record's content where it lies: the record had as many bytes around its content, or more.
    fn seal_reply(
        &mut self,
        at: At,
        record: &mut [u8],
        content: &Range<usize>,
        range: Range<usize>,
    ) -> Result<Range<usize>> {
        self.connections.engine.send_answer(at.name)?;
        let Some(tls) = &mut self.connections.engine.tls else { return Ok(0..0) };
        let (before, behind) = tls.layer.sessions.around(at.name);
        let place = content.start + range.start - before..content.start + range.end + behind;
        match tls.layer.sessions.seal_in_place(at.name, &mut record[place.clone()]) {
            Ok(()) => {
                self.connections.counters().records_sealed.add(1);
                Ok(place)
            }
            Err(Unsealed::Closed) => Ok(0..0),
            Err(Unsealed::UsedUp) => self.connections.engine.end_used_up(at.name).map(|()| 0..0),
            Err(unsealed) => Err(Error::bug(format!("a reply over TLS: {unsealed}"))),
        }
    }

    // ---- the end -------------------------------------------------------------------------------

    /// What the peer sent cannot be: tells it so, and closes the connection.
    fn fail(&mut self, at: At, alert: Alert) -> Result<()> {
        self.connections.counters().alerts_sent.add(1);
        self.end(at, alert, CloseMode::Lingering, CloseReason::Tls(TlsFailure::OwnAlert(alert)))
    }

    /// Sends an alert, and closes the connection once all is sent.
    fn end(&mut self, at: At, alert: Alert, mode: CloseMode, reason: CloseReason) -> Result<()> {
        let engine = &mut self.connections.engine;
        engine.send_alert(at.name, alert)?;
        engine.close(at.conn, mode, reason)
    }
}
