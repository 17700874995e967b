//! Between a connect and the first message: the connect is measured, and with TLS comes the handshake.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::{ClientConnections, ClientDriver};
use crate::client::self_connect::is_connected_to_itself;
use crate::client::window::{Awaited, Probe};
use crate::error::{Result, TlsFailure};
use crate::failure::Cause;
use crate::sys;
use crate::token::ConnId;

/// A connect slower than this is looked at with TCP_INFO. The kernel's first SYN retransmission comes after 1 s
/// (`TCP_TIMEOUT_INIT`), its smallest RTO is 200 ms (`TCP_RTO_MIN`).
const SLOW_CONNECT: Duration = Duration::from_millis(200);

impl ClientDriver {
    /// A dial has succeeded: takes its probe, and measures the connect. Returns the probe, which may await the end of a
    /// handshake from now on, and where the dial went; `None` if the connection is given up.
    pub(super) fn stands(
        &mut self,
        connections: &mut ClientConnections,
        conn: ConnId,
    ) -> Result<Option<(Probe, SocketAddr)>> {
        let now = Instant::now();
        let Some(probe) = self.take_probe(connections, conn) else { return Ok(None) };
        let Some(number) = connections.state(conn).map(|state| self.number(state.index)) else {
            return Ok(None);
        };
        let Awaited::Connect { socket, .. } = probe.awaited else { return Ok(None) };
        let routes = &self.config.workload.routes;
        let (_, to) = routes.of(number);
        if is_connected_to_itself(&socket, to, routes.ports) {
            return self.give_up(connections, conn, Cause::ConnectedToItself).map(|()| None);
        }
        let service = now.duration_since(probe.started);
        let latency = now.duration_since(probe.due.intended);
        let again = service >= SLOW_CONNECT && sys::tcp_info(&socket).is_some_and(|info| info.retransmissions > 0);
        self.measures.connected(latency, service, again);
        Ok(Some((Probe { awaited: Awaited::Handshake { socket }, started: now, ..probe }, to)))
    }

    /// Begins the TLS handshake of a connection that stands.
    #[cfg(feature = "tls")]
    pub(super) fn begin_handshake(&mut self, connections: &mut ClientConnections, conn: ConnId) -> Result<()> {
        let Some((probe, to)) = self.stands(connections, conn)? else { return Ok(()) };
        if let Some(state) = connections.state(conn) {
            state.set_key(self.window.add(probe));
        }
        connections.begin_handshake(conn, to.ip())
    }

    /// The TLS handshake of a connection is over, if it has one.
    #[cfg(feature = "tls")]
    pub(super) fn measure_handshake(&mut self, connections: &mut ClientConnections, conn: ConnId) {
        let Some(resumed) = connections.agreed(conn).map(|agreed| agreed.resumed) else { return };
        if let Some(began) = self.probe_of(connections, conn).map(|probe| probe.started) {
            self.measures.secured(began.elapsed(), resumed);
        }
    }

    /// Why a TLS handshake was not over in time.
    pub(super) fn late_handshake(&mut self, connections: &mut ClientConnections, conn: ConnId) -> Cause {
        match self.probe_of(connections, conn).map(|probe| &probe.awaited) {
            Some(Awaited::Handshake { socket }) if is_ghost(socket) => Cause::Ghost,
            _ => Cause::Tls(TlsFailure::HandshakeTimeout),
        }
    }
}

/// Whether a server that does not answer never accepted the connection: it acknowledges nothing, and has never sent
/// anything. A server that took our bytes and is silent has acknowledged them. One that has sent something had accepted the
/// connection, and has vanished since.
pub(super) fn is_ghost(socket: &Socket) -> bool {
    sys::tcp_info(socket).is_some_and(|info| info.unacknowledged > 0 && info.received_bytes == 0)
}
