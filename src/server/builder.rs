//! What a server shall be: defaults, what may be chosen, and what cannot be.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{IdlePolicy, Server, ServerEvent, ShardInfo};
use crate::addresses::{Address, Use};
use crate::connections::{LONGEST_IDLE, SHORTEST_IDLE};
use crate::constants::MAX_PENDING_BYTES;
use crate::error::{ConfigError, CounterProblem, Rated, Result};
use crate::host::Cores;
use crate::plan::{self, PortSharing, Ports, Reserve};
use crate::service::{CounterId, Service};
#[cfg(feature = "tls")]
use crate::tls::handshake::TlsConfig;
use crate::tls_version::TlsVersion;

/// Messages that a shard's mailbox holds unless told otherwise.
const MAILBOX_CAPACITY: usize = 1_024;

/// The kernel's shortest keepalive time, and its longest (`MAX_TCP_KEEPIDLE` in net/tcp.h).
const SHORTEST_KEEPALIVE: Duration = Duration::from_secs(1);
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(32_767);

/// What a server shall be. The setters of `ServerBuilder` say what each means.
#[derive(Debug, Clone)]
pub struct Options {
    /// See `ServerBuilder::cores`.
    pub cores: Cores,
    /// See `ServerBuilder::bind`.
    pub bind: Address,
    /// See `ServerBuilder::ports`.
    pub ports: Ports,
    /// See `ServerBuilder::port_sharing`.
    pub sharing: PortSharing,
    /// See `ServerBuilder::max_connections`.
    pub max_connections: u64,
    /// See `ServerBuilder::backlog`; `None` takes net.core.somaxconn.
    pub backlog: Option<u32>,
    /// See `ServerBuilder::max_pending`.
    pub max_pending: usize,
    /// See `ServerBuilder::idle_policy`.
    pub idle: IdlePolicy,
    /// See `ServerBuilder::memory_reserve`.
    pub memory_reserve: Reserve,
    /// See `ServerBuilder::drain_timeout`.
    pub drain_timeout: Duration,
    /// See `ServerBuilder::idle_timeout`.
    pub idle_timeout: Option<Duration>,
    /// See `ServerBuilder::hibernate`.
    pub hibernate: Option<Duration>,
    /// See `ServerBuilder::awake`; `None` plans it.
    pub awake: Option<u64>,
    /// See `ServerBuilder::accept_rate`.
    pub accept_rate: Option<f64>,
    /// See `ServerBuilder::keepalive`.
    pub keepalive: Option<Duration>,
    /// See `ServerBuilder::mailbox_capacity`.
    pub mailbox_capacity: usize,
    /// See `ServerBuilder::connection_ages`.
    pub connection_ages: bool,
    /// See `ServerBuilder::peer_addresses`.
    pub peer_addresses: bool,
    /// See `ServerBuilder::metrics`.
    pub metrics: Option<SocketAddr>,
    /// See `ServerBuilder::tls`.
    #[cfg(feature = "tls")]
    pub tls: Option<TlsConfig>,
    /// See `ServerBuilder::takeover`.
    pub takeover: Option<PathBuf>,
}

impl Default for Options {
    /// The server of the article: ports 8888 to 8987 on any IPv4 address, a million connections, every core.
    fn default() -> Options {
        Options {
            cores: Cores::All,
            bind: Ipv4Addr::UNSPECIFIED.into(),
            ports: Ports::ARTICLE,
            sharing: PortSharing::Subset,
            max_connections: 1_000_000,
            backlog: None,
            max_pending: MAX_PENDING_BYTES,
            idle: IdlePolicy::Auto,
            memory_reserve: Reserve::Auto,
            drain_timeout: Duration::from_secs(30),
            idle_timeout: None,
            hibernate: None,
            awake: None,
            accept_rate: None,
            keepalive: None,
            mailbox_capacity: MAILBOX_CAPACITY,
            connection_ages: false,
            peer_addresses: false,
            metrics: None,
            #[cfg(feature = "tls")]
            tls: None,
            takeover: None,
        }
    }
}

impl Options {
    /// Whether the server speaks TLS.
    pub fn has_tls(&self) -> bool {
        self.tls_version().is_some()
    }

    /// The lowest version of TLS that the server speaks; `None` without TLS.
    pub(crate) fn tls_version(&self) -> Option<TlsVersion> {
        #[cfg(feature = "tls")]
        return self.tls.as_ref().map(TlsConfig::lowest);
        #[cfg(not(feature = "tls"))]
        None
    }

    /// Refuses what cannot be.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(asked) = self.idle_timeout.filter(|time| *time < SHORTEST_IDLE || *time > LONGEST_IDLE) {
            let (shortest, longest) = (SHORTEST_IDLE, LONGEST_IDLE);
            return Err(ConfigError::IdleTimeout { asked, shortest, longest }.into());
        }
        let (shortest, longest) = (SHORTEST_KEEPALIVE, LONGEST_KEEPALIVE);
        let is_whole = |time: Duration| time.subsec_nanos() == 0;
        if let Some(asked) = self.keepalive.filter(|time| *time < shortest || *time > longest || !is_whole(*time)) {
            return Err(ConfigError::Keepalive { asked, shortest, longest }.into());
        }
        if self.max_connections == 0 || self.max_connections > u64::from(u32::MAX) {
            return Err(ConfigError::MaxConnections { asked: self.max_connections, most: u32::MAX.into() }.into());
        }
        plan::check_hibernation(self.hibernate, self.awake)?;
        #[cfg(feature = "tls")]
        self.tls.as_ref().map_or(Ok(()), TlsConfig::check)?;
        Rated::Accepts.check(self.accept_rate)?;
        if self.mailbox_capacity == 0 {
            return Err(ConfigError::MailboxCapacity.into());
        }
        self.bind.check(Use::Listener)?;
        let Some(address) = self.metrics else { return Ok(()) };
        let at = Address::of(address);
        at.check(Use::Metrics)?;
        if self.ports.contains(address.port()) && self.bind.covers(at) {
            let (first, last) = (self.ports.first(), self.ports.last());
            return Err(ConfigError::MetricsPort { address, first, last }.into());
        }
        Ok(())
    }
}

/// Hears what a server tells.
pub(super) type EventSink = Arc<dyn Fn(ServerEvent) + Send + Sync>;

/// Describes a server, and starts it. Made by `Server::builder`; every setting has a default.
///
/// ```no_run
/// # fn main() -> c1m::Result<()> {
/// use c1m::{Cores, Echo, Ports, Server};
///
/// let server = Server::builder()
///     .ports(Ports::new(8888, 100)?)
///     .cores(Cores::Count(2))
///     .max_connections(1_000_000)
///     .start(|_shard| Echo)?;
/// // Serves until a shard fails.
/// server.wait(drop);
/// server.stop();
/// server.join()?;
/// # Ok(())
/// # }
/// ```
pub struct ServerBuilder {
    pub(super) options: Options,
    pub(super) counters: Vec<(String, String)>,
    pub(super) on_event: Option<EventSink>,
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder").field("options", &self.options).field("counters", &self.counters).finish()
    }
}

impl From<Options> for ServerBuilder {
    fn from(options: Options) -> ServerBuilder {
        ServerBuilder { options, counters: Vec::new(), on_event: None }
    }
}

impl ServerBuilder {
    /// The address to listen on; every IPv4 address of the host (0.0.0.0) by default. `::` takes IPv4 and IPv6, at
    /// about 200 bytes more of kernel memory for each connection.
    pub fn bind(mut self, address: impl Into<Address>) -> ServerBuilder {
        self.options.bind = address.into();
        self
    }

    /// The ports to listen on; 8888 to 8987 by default. One port allows each client address 64,000 connections at most,
    /// and as a rule 28,000 (net.ipv4.ip_local_port_range of the client).
    pub fn ports(mut self, ports: Ports) -> ServerBuilder {
        self.options.ports = ports;
        self
    }

    /// Which shard listens on which port. By default each port belongs to one shard. For clients that know a single
    /// port take `PortSharing::All`: the kernel then spreads the connections of each port over all shards.
    pub fn port_sharing(mut self, sharing: PortSharing) -> ServerBuilder {
        self.options.sharing = sharing;
        self
    }

    /// The cores to use, with one shard each; all that this process may use by default.
    pub fn cores(mut self, cores: Cores) -> ServerBuilder {
        self.options.cores = cores;
        self
    }

    /// Connections held at most, over all shards: 1 to 4,294,967,295, otherwise starting fails with
    /// [`ConfigError::MaxConnections`]; a million by default. Each shard has a limit of its own too,
    /// [`ShardInfo::capacity`]: the even share of its ports plus four standard deviations. So clients that use only
    /// some of the ports can be refused before the server is full; `PortSharing::All` avoids that.
    ///
    /// A connection beyond a limit waits up to 0.1 s for a place, up to 2.1 s while the shard has unhandled events, and
    /// not at all if too many wait. Then it is reset and counted as refused.
    ///
    /// The rings are made at the start, with address space for one row per connection (where connections sleep: per
    /// connection that may be awake). A row has 12 bytes and the service's `State`, and takes memory once it was used.
    pub fn max_connections(mut self, connections: u64) -> ServerBuilder {
        self.options.max_connections = connections;
        self
    }

    /// The accept queue of each listener, in connections. A port has one listener, or one for each shard that listens
    /// on it (`port_sharing`). By default it is net.core.somaxconn, to which the kernel also cuts a larger number
    /// (listen(2)).
    pub fn backlog(mut self, connections: u32) -> ServerBuilder {
        self.options.backlog = Some(connections);
        self
    }

    /// Bytes that a shard keeps at most for a connection behind a send that is under way; 65,536 by default, and raised
    /// to 4,096 if less. That send may have as many bytes again, so a connection takes up to twice this value. A
    /// connection that would need more is reset and counted as a slow reader. So is one that is sent more than this
    /// value in one send. With TLS the bytes count as sealed, with room for what TLS adds. `Http`, `WebSocket` and
    /// `Push` raise it to what the longest message takes that their limits allow, as it is sent.
    pub fn max_pending(mut self, bytes: usize) -> ServerBuilder {
        self.options.max_pending = bytes;
        self
    }

    /// How idle connections wait in the kernel: behind a BPF filter where the process may load one, which takes no
    /// memory for a connection, and otherwise in polls of 256 bytes of the kernel each.
    pub fn idle_policy(mut self, policy: IdlePolicy) -> ServerBuilder {
        self.options.idle = policy;
        self
    }

    /// Memory to leave to the rest of the host; 24 MiB and 1 % by default, a quarter at most; `Reserve::Bytes(0)` turns
    /// this off. While less is left, new connections are reset and counted as refused, until a quarter more than the
    /// reserve is left. With less than half of it left the server does not listen, until three quarters of it are left.
    pub fn memory_reserve(mut self, reserve: Reserve) -> ServerBuilder {
        self.options.memory_reserve = reserve;
        self
    }

    /// How long closing every connection takes when the server stops, at an even pace; 30 s by default. A shard closes
    /// 10,000 a second at least, so few are closed sooner. The time sets the pace and is no bound. With
    /// `Duration::ZERO` connections are closed as fast as possible.
    pub fn drain_timeout(mut self, time: Duration) -> ServerBuilder {
        self.options.drain_timeout = time;
        self
    }

    /// Closes a connection from which nothing was received for this time, by `CloseMode::Immediate` (bytes that wait
    /// for the peer are dropped) and with `CloseReason::IdleTimeout`. 1 s to 131,072 s (36.4 hours), otherwise starting
    /// fails with [`ConfigError::IdleTimeout`]. None by default. A sweep closes it up to 12 s late (a sleeping one: up
    /// to 8 s and an eighth of the time, where the eighth counts 4 s at least), and later where many are silent at
    /// once. No connection has a timer. While its reads are paused a connection does not count as silent.
    pub fn idle_timeout(mut self, time: Duration) -> ServerBuilder {
        self.options.idle_timeout = Some(time);
        self
    }

    /// Puts a connection to sleep after about this time of silence, 1 ms to 129,600 s (36 hours), otherwise starting
    /// fails with [`ConfigError::Hibernate`]; none by default. The shard looks four times within it, and at most once
    /// in a millisecond, so the silence is three to five quarters of it, and 3 ms at least. While slots are short, it
    /// is 0.75 s or less, down to some 20 ms.
    ///
    /// A sleeping connection has no socket: the kernel gives it up without a segment, and c1m keeps some 52 bytes of it
    /// (84 with IPv6 addresses) in the place of 3.6 to 4.2 kB, beside the service's state. Its peer notices nothing.
    /// Its next segment, or something that the service sends, makes an equal socket again; the service is called as
    /// ever, and needs no change. Keep it at 50 ms or more: before that the kernel may still owe an acknowledgement
    /// (`TCP_DELACK_MIN` in net/tcp.h, 40 ms), and the connection stays awake.
    ///
    /// It needs Linux 6.1, and CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON and CAP_NET_RAW in the host's user namespace. Where
    /// this process lacks them the server does not start: it fails with
    /// [`HostReason::Hibernation`](crate::error::HostReason::Hibernation).
    ///
    /// What it costs: 8 to 18 microseconds of processor time to put a connection to sleep, 11 to 20 to wake it (kernel
    /// 6.18), and so much more latency for the first message after a sleep. A sleep loses the congestion window, so
    /// that the connection begins anew with 10 segments (RFC 6928); the exact round-trip time, of which a value within
    /// a factor of two is kept (4 to 256 ms); and ECN. If c1m cannot give the new socket a round-trip time, the kernel
    /// resends a lost segment only after 1 s or 3 s; docs/guide/hibernation.md lists these cases. A connection with
    /// data in flight, or that its service has more to send on, stays awake. Do not use `hibernate` where a kernel or a
    /// wrapper gives the listeners TCP-MD5, TCP-AO or MPTCP: c1m does not look for them.
    pub fn hibernate(mut self, after: Duration) -> ServerBuilder {
        self.options.hibernate = Some(after);
        self
    }

    /// Connections awake at once at most, over all shards: 1 to 4,294,967,295, and at least one on each shard. Each has
    /// a slot in a ring and a socket. By default it is planned from the memory that is left at the start: 1,024 to
    /// 262,144, and no more than `max_connections`; in a takeover no fewer than the earlier server had; before Linux
    /// 6.8 no more than the file descriptors suffice for. Starting fails with [`ConfigError::Awake`] for a number out
    /// of range, and with [`ConfigError::AwakeWithoutSleep`] without `hibernate`.
    pub fn awake(mut self, connections: u64) -> ServerBuilder {
        self.options.awake = Some(connections);
        self
    }

    /// Connections accepted per second at most: a finite number above 0, otherwise starting fails with
    /// [`ConfigError::Rate`]. Each shard may accept an equal part of it. Others wait in the accept queues. Unlimited by
    /// default.
    pub fn accept_rate(mut self, per_second: f64) -> ServerBuilder {
        self.options.accept_rate = Some(per_second);
        self
    }

    /// Turns on TCP keepalives: after this time of silence the kernel probes the peer, up to three times, this time
    /// apart. A connection whose peer answers none of the probes is closed after four times this time. In whole
    /// seconds, 1 to 32,767. Off by default.
    pub fn keepalive(mut self, time: Duration) -> ServerBuilder {
        self.options.keepalive = Some(time);
        self
    }

    /// Messages that the mailbox of each shard holds, 1 or more; 1,024 by default. Its memory is taken at the start.
    pub fn mailbox_capacity(mut self, messages: usize) -> ServerBuilder {
        self.options.mailbox_capacity = messages;
        self
    }

    /// Keeps when each connection was opened, for `Ctx::age`: 4 bytes a slot. Off by default.
    pub fn connection_ages(mut self, keep: bool) -> ServerBuilder {
        self.options.connection_ages = keep;
        self
    }

    /// Has the shard know the peer's address within `Service::opened`, for `Ctx::peer_addr`, on every kernel. Behind a
    /// BPF filter (`IdlePolicy`) each accept makes one more system call for it. The address is not kept after that
    /// call, and is unknown if the peer has gone already. Off by default.
    pub fn peer_addresses(mut self, bring: bool) -> ServerBuilder {
        self.options.peer_addresses = bring;
        self
    }

    /// Lets a later server take this one's place, and this one that of an earlier server, without a connection closed.
    /// `path` names a Unix socket. If a server answers there, everything is taken over from it, which then ends
    /// ([`ServerEvent::HandedOver`]): listeners, sleeping connections, and those that are awake, a few at a time, each of
    /// which pauses for some milliseconds. If none answers, this server starts afresh. Then it listens there itself, with
    /// a file that only this user may open; only processes of this user or of root are answered.
    ///
    /// Both must have the same address, the same ports and number of shards, the same protocol, and both TLS or
    /// neither. The later server's `max_connections` must not be lower; if the earlier server's connections sleep, it
    /// must be the same, and the later one must have `hibernate` too. Otherwise `start` of the later one fails with
    /// [`HostReason::Takeover`](crate::error::HostReason::Takeover), which says what differs. Two services of your own
    /// are not told apart: `taken_over` must recognise what an earlier version wrote.
    ///
    /// What a service knows of a connection goes through [`Service::hand_over`] and [`Service::taken_over`], and what
    /// it knows beside them through [`Service::hand_over_shard`] and [`Service::taken_over_shard`]. TLS sessions, and
    /// what `c1m::websocket`, `c1m::http` and `c1m::push` have heard so far, go along by themselves. What is queued in
    /// the mailbox is not handed over.
    ///
    /// Where the environment has `NOTIFY_SOCKET`, listeners and what is kept of sleeping connections are left with the
    /// service manager (`FileDescriptorStoreMax=` in systemd.service(5)). If this process is killed, the next one that
    /// the manager starts goes on with the sleeping connections of a service of plain bytes without TLS. It resets
    /// every sleeping connection with TLS, of `Http`, of `WebSocket` or of `Push`, and every one whose peer had not
    /// acknowledged all that the service sent. Connections that were awake are gone. Where connections sleep, all of
    /// these are counted (`Snapshot::lost_in_takeover`).
    ///
    /// Needs Linux 6.8; where connections sleep (`hibernate`), 6.1. Off by default.
    pub fn takeover(mut self, path: impl Into<PathBuf>) -> ServerBuilder {
        self.options.takeover = Some(path.into());
        self
    }

    /// Serves the counters of the shards and of the service to Prometheus, at `http://ADDRESS/metrics`. Port 0 takes a
    /// free port that the server does not serve, and `Server::metrics_url` returns it. Every client that reaches the
    /// address can read the counters. Only with the feature `metrics`.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self, address: SocketAddr) -> ServerBuilder {
        self.options.metrics = Some(address);
        self
    }

    /// Speaks TLS on every port, 1.3 or as low as [`TlsConfig::lowest_version`] says; without TLS by default. The
    /// service sees bytes as ever, up to 16,384 at once as one record may hold, and is told of a connection
    /// (`Service::opened`) when its handshake is over. An established connection takes 80 bytes more, or 112 with
    /// TLS_AES_256_GCM_SHA384 (chosen last) and with TLS 1.2, and nothing of the kernel. Only with the feature `tls`.
    ///
    /// Starting fails with [`ConfigError::Tls`] if a certificate or a key cannot be used.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: TlsConfig) -> ServerBuilder {
        self.options.tls = Some(tls);
        self
    }

    /// Hands the server's events to a function, instead of to `Server::events`. It is called on threads of the server,
    /// shards among them, and on the caller's thread within `start`. It must not block.
    pub fn on_event(mut self, hear: impl Fn(ServerEvent) + Send + Sync + 'static) -> ServerBuilder {
        self.on_event = Some(Arc::new(hear));
        self
    }

    /// Adds a counter of the service's own: `Ctx::count` counts with it, and `Server::counters` and the metrics show
    /// it, the metrics as `name_total` with a label for the shard.
    ///
    /// `name` is what Prometheus allows for a metric (ASCII letters, digits and `_`, no digit first), and begins with
    /// neither `c1m_` nor `process_`, which are the server's, and does not end with `_total`. A name that breaks these
    /// rules or was used before is an error.
    pub fn counter(&mut self, name: &str, help: &str) -> Result<CounterId> {
        let taken = || self.counters.iter().any(|(taken, _)| taken == name).then_some(CounterProblem::Taken);
        if let Some(problem) = cannot_be_a_name(name).or_else(taken) {
            return Err(ConfigError::Counter { name: name.to_owned(), problem }.into());
        }
        self.counters.push((name.to_owned(), help.to_owned()));
        Ok(CounterId(self.counters.len() - 1))
    }

    /// Starts the server. On return every port of every shard accepts. `service` makes the service of each shard, on
    /// the shard's own thread.
    ///
    /// Fails with a `ConfigError` if an option is out of its range, contradicts another one or names an address that
    /// cannot be used; with a `HostError` if the host refuses: a port is taken, or there are too few file descriptors,
    /// too little locked memory, or no io_uring; and with `Error::Bug` if c1m is wrong. Then nothing runs.
    pub fn start<S: Service>(
        self,
        service: impl Fn(ShardInfo<S::Message>) -> S + Send + Sync + 'static,
    ) -> Result<Server<S::Message>> {
        self.options.check()?;
        Server::start(self, service)
    }
}

/// Why a counter cannot have this name.
fn cannot_be_a_name(name: &str) -> Option<CounterProblem> {
    let mut bytes = name.bytes();
    let begins = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if !begins || !bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Some(CounterProblem::NoName);
    }
    if name.starts_with("c1m_") || name.starts_with("process_") || name == "c1m" {
        return Some(CounterProblem::Reserved);
    }
    name.ends_with("_total").then_some(CounterProblem::Total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_counter_has_a_name_that_prometheus_takes_and_only_once() {
        let mut builder = Server::builder();
        let refused = ["", "2nd", "two words", "grüße", "a:b", "c1m", "c1m_logins", "process_logins", "logins_total"];
        for name in refused {
            assert!(builder.counter(name, "Logins.").is_err(), "{name}");
        }
        assert_eq!(builder.counter("logins", "Logins.").unwrap(), CounterId(0));
        assert_eq!(builder.counter("_kicks2", "Kicks.").unwrap(), CounterId(1));
        assert!(builder.counter("logins", "Again.").is_err());
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_starts() {
        let builders = [
            Server::builder().max_connections(0),
            Server::builder().idle_timeout(Duration::ZERO),
            Server::builder().idle_timeout(Duration::from_secs(1 << 20)),
            Server::builder().keepalive(Duration::from_millis(999)),
            Server::builder().hibernate(Duration::from_micros(999)),
            Server::builder().hibernate(Duration::from_secs(1 << 20)),
            Server::builder().hibernate(Duration::from_secs(1)).awake(0),
            Server::builder().awake(1_000),
            Server::builder().accept_rate(f64::NAN),
            Server::builder().mailbox_capacity(0),
            Server::builder().metrics(([127, 0, 0, 1], 8888).into()),
            Server::builder().metrics(([224, 0, 0, 1], 9187).into()),
        ];
        for builder in builders {
            let error = builder.options.check().unwrap_err();
            assert!(matches!(error, Error::Config(_)) && !error.to_string().contains("--"), "{error}");
        }
        Options::default().check().unwrap();
        Server::builder().hibernate(Duration::from_millis(1)).awake(1).options.check().unwrap();
    }
}
