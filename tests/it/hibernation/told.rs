//! What a service is told of a connection that sleeps.

use c1m::{CloseReason, TlsConfig};

use super::*;

/// What a service was told of its only connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Opened,
    Received,
    Slept,
    Woke,
    Stopping,
    Closed,
}

/// Sends back what comes, and tells what it is told. A message has it send so many bytes.
struct Recorder {
    told: Sender<Told>,
    conn: Option<ConnId>,
}

impl Recorder {
    /// Notes a call. The state of the connection is its own in each of them.
    fn note(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId, told: Told) {
        let state = ctx.state(conn).expect("it has a state");
        assert_eq!(std::mem::replace(state, 7), if told == Told::Opened { 0 } else { 7 }, "{told:?}");
        self.told.send(told).unwrap();
    }
}

impl Service for Recorder {
    type State = u32;
    type Message = usize;

    fn opened(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId) {
        self.conn = Some(conn);
        self.note(ctx, conn, Told::Opened);
    }

    fn received(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId, data: &mut [u8]) -> Reply {
        self.note(ctx, conn, Told::Received);
        Reply::Back(0..data.len())
    }

    fn slept(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId) {
        self.note(ctx, conn, Told::Slept);
    }

    fn woke(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId) {
        self.note(ctx, conn, Told::Woke);
    }

    fn stopping(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId) {
        self.note(ctx, conn, Told::Stopping);
    }

    fn closed(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId, _: CloseReason) {
        self.note(ctx, conn, Told::Closed);
    }

    fn message(&mut self, ctx: &mut Ctx<'_, u32>, count: usize) {
        ctx.send(self.conn.unwrap(), &bytes(count, 1));
    }
}

/// It sleeps and wakes in turns, and receives nothing asleep. What wakes it is told before what comes with it.
#[test(Network, Hibernation)]
fn a_service_is_told_of_each_sleep_and_each_wake() {
    in_own_network(|| {
        let port = free_ports(1);
        let builder = Library::builder().bind(Ipv4Addr::LOCALHOST).ports(Ports::new(port, 1).unwrap());
        let builder = builder.cores(Cores::Count(1)).max_connections(100).hibernate(Duration::from_millis(400));
        let (sender, all) = channel();
        let server = builder.start(move |_| Recorder { told: sender.clone(), conn: None }).unwrap();
        let next = || all.recv_timeout(PATIENCE).unwrap();
        let mut stream = connected(port);
        exchanges(&mut stream, b"hello");
        assert_eq!([(); 3].map(|()| next()), [Told::Opened, Told::Received, Told::Slept]);
        exchanges(&mut stream, b"good morning");
        assert_eq!([(); 3].map(|()| next()), [Told::Woke, Told::Received, Told::Slept]);
        // More than a segment holds.
        let pushed = bytes(20_000, 1);
        server.mailbox().send(0, pushed.len()).unwrap();
        let mut heard = vec![0; pushed.len()];
        stream.read_exact(&mut heard).unwrap();
        assert!(heard == pushed, "other bytes");
        assert_eq!([next(), next()], [Told::Woke, Told::Slept]);
        exchanges(&mut stream, b"and again");
        assert_eq!([(); 3].map(|()| next()), [Told::Woke, Told::Received, Told::Slept]);
        server.stop();
        server.join().map(drop).unwrap();
        assert_eq!(all.try_iter().collect::<Vec<_>>()[..], [Told::Stopping, Told::Closed]);
    });
}

/// Before its TLS handshake is over a service knows nothing of a connection: neither that it sleeps and wakes, nor that
/// the server stops.
#[test(Network, Hibernation)]
fn a_service_is_told_nothing_of_a_connection_before_its_handshake_is_over() {
    let authority = Authority::new();
    let signed = authority.sign("server", &["localhost"]);
    in_own_network(|| {
        let port = free_ports(1);
        let builder = Library::builder().bind(Ipv4Addr::LOCALHOST).ports(Ports::new(port, 1).unwrap());
        let builder = builder.cores(Cores::Count(1)).max_connections(100).hibernate(Duration::from_millis(100));
        let builder = builder.tls(TlsConfig::files(&signed.chain, &signed.key));
        let (sender, all) = channel();
        let server = builder.start(move |_| Recorder { told: sender.clone(), conn: None }).unwrap();
        let mut stream = connected(port);
        eventually("it sleeps", || server.counters()[0].asleep == 1);
        stream.write_all(&[22, 3, 1]).unwrap();
        eventually("it wakes", || server.counters()[0].woken_by_peer == 1);
        server.stop();
        server.join().map(drop).unwrap();
        assert_eq!(all.try_iter().collect::<Vec<_>>(), []);
    });
}
