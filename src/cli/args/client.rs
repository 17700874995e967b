//! What leads a client to its connections, and what `c1m client` does with them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum};

use super::super::out::warn;
use super::protocol::ProtocolArguments;
use super::tls::ClientTlsArguments;
use super::{AddressBlock, FileArguments, PortArguments, address_block, addresses, duration, rate};
use crate::addresses::Address;
use crate::client::{Audit, Course, DEFAULT_CONNECTIONS, Workload};
use crate::command_error::{CommandError, Result};
use crate::connections::CloseMode;
use crate::constants::DEFAULT_CONCURRENCY;
use crate::host::{Cores, Host, Seen};
use crate::plan::{Ports, Routes, Target};
use crate::protocol::Protocol;

/// How many connections `client` and `storm` open, how fast, and how often they talk.
#[derive(Debug, Args)]
pub struct LoadArguments {
    /// Connections to open: one per (target, port) in turn.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CONNECTIONS)]
    pub connections: u64,
    /// Start N connections per second, evenly; latency then counts from the intended start.
    #[arg(long, value_name = "N/s", value_parser = rate)]
    pub rate: Option<f64>,
    /// Send a message on each connection every TIME, spread evenly: while `client` holds them, where
    /// the default is never, or from before a storm until after it, where it is 20,000 messages a
    /// second in all.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub interval: Option<Duration>,
}

/// What every client is told, whatever it does.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("server").required(true).args(["target_ip", "target"]))]
pub struct ConnectionArguments {
    /// Addresses of the server, separated by commas, each once; a link-local one with its interface, such as
    /// fe80::1%eth0.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub target_ip: Vec<Address>,
    #[command(flatten)]
    pub ports: PortArguments,
    /// The server by its name, with its ports, such as example.org:8888-8987, or a URL, such as
    /// ws://example.org:8888-8987/path. All addresses of the name are used, IPv4 and IPv6. The scheme of a URL (ws,
    /// wss, mqtt, mqtts, http, https or nats) chooses --protocol, and its path is --path.
    #[arg(long, value_name = "HOST:PORT[-PORT]|URL", conflicts_with_all = ["port", "ports"])]
    pub target: Option<Target>,
    /// The addresses of --target, which then is not resolved. `storm killed` passes them to the victims' process.
    #[arg(long, value_name = "IP", hide = true, requires = "target", value_delimiter = ',')]
    pub target_addresses: Vec<Address>,
    /// Use the first N cores this process may run on; all by default.
    #[arg(long, value_name = "N")]
    pub cores: Option<usize>,
    /// Addresses to connect from, separated by commas, single or as a block such as 10.0.0.0/28.
    #[arg(long, value_name = "IP", value_delimiter = ',', value_parser = address_block)]
    pub source_ip: Vec<AddressBlock>,
    /// Connects, and messages of an audit, in flight at once.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CONCURRENCY)]
    pub concurrency: u32,
    /// How long a connect may take, 1ms or more.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub connect_timeout: Duration,
    /// How long an answer may take, 1ms or more: of a long poll, longer than the server holds it.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub reply_timeout: Duration,
    /// Send a sign of life on each connection every TIME, 1s or more, spread evenly, whatever else happens: a Ping of
    /// WebSocket, a PINGREQ of MQTT, a PING of NATS, a request of HTTP, a message of the other protocols. Take less than the
    /// time after which the server, or a middlebox, closes silent connections. None is sent by default.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub keepalive_interval: Option<Duration>,
    #[command(flatten)]
    pub protocol: ProtocolArguments,
    #[command(flatten)]
    pub tls: ClientTlsArguments,
    /// Put connections to sleep that were silent for TIME, such as 30s: they have no socket on this host until their
    /// next message, or one of the server's. Not for `fanout`. Needs CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON and CAP_NET_RAW.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub hibernate: Option<Duration>,
    /// At most N connections have a socket at once; each core may always have one. By default as many as memory allows,
    /// and before Linux 6.8 file descriptors, at most 262,144.
    #[arg(long, value_name = "N", requires = "hibernate")]
    pub awake: Option<u64>,
    /// Close N connections per second, evenly; as fast as it goes by default.
    #[arg(long, value_name = "N/s", value_parser = rate)]
    pub close_rate: Option<f64>,
    /// The server's process, if it is on this host: its memory and processor time are reported.
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Take source ports as every client with this seed does, each from its --first-number on, so that no two of
    /// them try the same port. `storm killed` passes it to the victims' process.
    #[arg(long, value_name = "SEED", hide = true)]
    pub source_port_seed: Option<u64>,
    #[command(flatten)]
    pub files: FileArguments,
}

/// The addresses and ports that connections go to.
pub struct Reached {
    targets: Vec<Address>,
    ports: Ports,
}

impl Reached {
    /// All of them.
    pub fn all(&self) -> (&[Address], Ports) {
        (&self.targets, self.ports)
    }
}

impl ConnectionArguments {
    /// A client on this course.
    pub fn workload(&self, load: &LoadArguments, course: Course, audit: Audit, close: CloseMode) -> Result<Workload> {
        let protocol = |seen: &Reached| self.protocol.protocol(self.target.as_ref(), seen.all());
        self.workload_with(load, course, audit, close, protocol)
    }

    /// The same, where `protocol` says what is spoken with the addresses that were found.
    pub fn workload_with(
        &self,
        load: &LoadArguments,
        course: Course,
        audit: Audit,
        close: CloseMode,
        protocol: impl FnOnce(&Reached) -> Result<Protocol>,
    ) -> Result<Workload> {
        let sources = addresses(&self.source_ip);
        let reached = self.targets(&sources)?;
        let protocol = protocol(&reached)?;
        if let Some(pid) = self.server_pid {
            check_process(&Host::here(), pid)?;
        }
        Ok(Workload {
            routes: Routes::new(&reached.targets, reached.ports, &sources)?,
            server_name: self.target.as_ref().and_then(Target::name).map(str::to_owned),
            connections: load.connections,
            cores: self.cores.map_or(Cores::All, Cores::Count),
            rate: load.rate,
            concurrency: self.concurrency,
            connect_timeout: self.connect_timeout,
            reply_timeout: self.reply_timeout,
            course,
            interval: load.interval,
            keepalive: self.keepalive_interval,
            protocol,
            publisher: None,
            first_number: self.protocol.first_number,
            audit,
            audit_sample: None,
            close,
            close_rate: self.close_rate,
            server_pid: self.server_pid,
            victims: None,
            hibernate: self.hibernate,
            awake: self.awake,
            tls: self.tls.config(self.target.as_ref())?,
            source_port_seed: self.source_port_seed,
        })
    }

    /// The addresses and ports to connect to.
    fn targets(&self, sources: &[Address]) -> Result<Reached> {
        let Some(target) = &self.target else {
            return Ok(Reached { targets: self.target_ip.clone(), ports: self.ports.ports()? });
        };
        if !self.target_addresses.is_empty() {
            return Ok(Reached { targets: self.target_addresses.clone(), ports: target.ports });
        }
        let resolved = Host::here().resolve(target, sources)?;
        if !resolved.left_out.is_empty() {
            warn(format!(
                "{} has {} too, which this host cannot reach from here: connections go to {}",
                target.host,
                listed(&resolved.left_out),
                listed(&resolved.addresses)
            ));
        }
        Ok(Reached { targets: resolved.addresses, ports: target.ports })
    }

    /// The words that go to the same targets, whose addresses are these.
    fn target_words(&self, targets: &[Address]) -> Vec<String> {
        match &self.target {
            Some(target) => vec![format!("--target={target}"), format!("--target-addresses={}", listed(targets))],
            None => vec![
                format!("--target-ip={}", listed(targets)),
                format!("--port={}", self.ports.port),
                format!("--ports={}", self.ports.ports),
            ],
        }
    }

    /// The words of a steered client that tells events: it goes the same ways and speaks the same protocol, on
    /// `connections` others from `first_number` on, with the source ports of that `seed`.
    pub fn steered_words(
        &self,
        targets: &[Address],
        (first_number, connections): (u64, u64),
        seed: u64,
        concurrency: u32,
        rate: Option<f64>,
        close: CloseName,
    ) -> Vec<String> {
        let time = |time: Duration| humantime::format_duration(time).to_string();
        let close = if close == CloseName::Fin { "fin" } else { "rst" };
        let mut words = vec!["client".to_owned(), "--steer".to_owned()];
        words.extend([
            "--json=-".to_owned(),
            format!("--connections={connections}"),
            format!("--source-port-seed={seed}"),
            format!("--concurrency={concurrency}"),
            format!("--connect-timeout={}", time(self.connect_timeout)),
            format!("--reply-timeout={}", time(self.reply_timeout)),
            format!("--close={close}"),
        ]);
        words.extend(self.target_words(targets));
        words.extend(self.protocol.words(first_number));
        words.extend(self.tls.words());
        let sources = addresses(&self.source_ip);
        // One argument has 128 KiB at most.
        words.extend(sources.chunks(1_000).map(|some| format!("--source-ip={}", listed(some))));
        words.extend(self.cores.map(|cores| format!("--cores={cores}")));
        words.extend(self.keepalive_interval.map(|interval| format!("--keepalive-interval={}", time(interval))));
        words.extend(self.hibernate.map(|silence| format!("--hibernate={}", time(silence))));
        words.extend(self.awake.map(|awake| format!("--awake={awake}")));
        words.extend(rate.map(|rate| format!("--rate={rate}")));
        words.extend(self.close_rate.map(|rate| format!("--close-rate={rate}")));
        words
    }
}

fn listed(addresses: &[Address]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Checks that a process can be looked at.
fn check_process(host: &Host, pid: u32) -> Result<()> {
    let saw = format!("--server-pid {pid}");
    match host.process(pid) {
        Seen::Shown => Ok(()),
        Seen::Hidden => Err(CommandError::usage(
            saw,
            "it runs, but this user cannot see it, as /proc is mounted with hidepid",
            "run the client as the server's user or as root, or leave it out",
        )),
        Seen::NoProc => Err(CommandError::usage(
            saw,
            "it runs, but there is no /proc here to look at it",
            "mount /proc (mount -t proc proc /proc), or leave it out",
        )),
        Seen::Gone => Err(CommandError::usage(
            saw,
            "there is no such process on this host",
            "give that of the server, or leave it out",
        )),
    }
}

#[derive(Debug, Args)]
pub struct ClientArguments {
    #[command(flatten)]
    pub load: LoadArguments,
    #[command(flatten)]
    pub connection: ConnectionArguments,
    /// How long to hold the connections between the two audits.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub hold: Duration,
    /// Hold, and obey lines on standard input: `audit` audits, `report` tells what was measured so
    /// far, `close` or the end of the input closes. Lines that come during the ramp are obeyed after it.
    #[arg(long, conflicts_with = "hold")]
    pub steer: bool,
    /// What proves a connection live: `echo`, it gets the answer that --protocol expects, with `raw` exactly
    /// what it sent; `state`, neither FIN nor RST came (for servers that answer nothing); `off`, nothing.
    #[arg(long, value_enum, default_value_t = AuditName::Echo)]
    pub audit: AuditName,
    /// Ask only N connections in each audit, 1 or more, drawn at random; every one has the same chance. Only with --audit
    /// echo.
    #[arg(long, value_name = "N")]
    pub audit_sample: Option<u64>,
    /// How to close: `fin` in order, which leaves each source port in TIME_WAIT for a minute, with
    /// 256 bytes of kernel memory, up to net.ipv4.tcp_max_tw_buckets of them; `rst` at once, which
    /// leaves nothing.
    #[arg(long, value_enum, default_value_t = CloseName::Fin)]
    pub close: CloseName,
    /// Write the connect latencies as a percentile file for HdrHistogram's plotter.
    #[arg(long, value_name = "FILE.hgrm")]
    pub histogram: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuditName {
    Echo,
    State,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CloseName {
    Fin,
    Rst,
}

impl ClientArguments {
    pub fn workload(&self) -> Result<Workload> {
        let course = if self.steer { Course::Steered } else { Course::Fixed(self.hold) };
        let audit = match self.audit {
            AuditName::Echo => Audit::Answer,
            AuditName::State => Audit::State,
            AuditName::Off => Audit::Off,
        };
        let close = match self.close {
            CloseName::Fin => CloseMode::Immediate,
            CloseName::Rst => CloseMode::Abort,
        };
        let workload = self.connection.workload(&self.load, course, audit, close)?;
        Ok(Workload { audit_sample: self.audit_sample, ..workload })
    }
}
