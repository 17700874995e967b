//! What the options ask for and cannot be.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::Errno;
use super::fanout::FanoutProblem;
use super::schedule::{Lasting, Rated};
use super::timeout::{Timeout, days};
use super::tls_file::{TlsFile, TlsProblem};

/// Options that ask for something that cannot be: what was asked for, and what can be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A run of ports that begins at port 0, or has no port. A run begins at 1 or above, and has a port at least.
    NoPort {
        /// The first port.
        first: u16,
        /// How many.
        count: u16,
    },
    /// A run of ports that ends beyond 65535.
    PortsBeyondLast {
        /// The first port.
        first: u16,
        /// How many.
        count: u16,
        /// How many there can be from that port on.
        most: u16,
    },
    /// The kernel does not tell which cores this process may run on (sched_getaffinity(2)).
    NoCores,
    /// More cores than this process may use, or none.
    CoreCount {
        /// How many were asked for.
        asked: usize,
        /// Those that this process may use: at least 1 and at most as many can be asked for.
        allowed: Vec<usize>,
    },
    /// A core that this process may not use.
    Core {
        /// Its number.
        asked: usize,
        /// Those that this process may use.
        allowed: Vec<usize>,
    },
    /// An empty list of cores.
    EmptyCoreList {
        /// Those that this process may use.
        allowed: Vec<usize>,
    },
    /// An address that cannot be used as it is meant to be.
    Address {
        /// What it is for.
        used: AddressUse,
        /// The address.
        address: String,
        /// What is wrong with it.
        problem: AddressProblem,
    },
    /// Sources and targets of different address families: an IPv4 address cannot connect to an IPv6 one.
    AddressFamilies,
    /// An address to listen on that no interface of this host has.
    NotThisHost {
        /// What the kernel was asked to do: `bind` or `listen on`.
        operation: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        errno: Errno,
    },
    /// An address at which metrics cannot be shown.
    Metrics {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        errno: Errno,
    },
    /// No connections, or more than can be counted.
    Connections {
        /// How many were asked for: 0, or more than `most`.
        asked: u64,
        /// How many there can be.
        most: u64,
    },
    /// A limit on connections of 0, or beyond what can be counted.
    MaxConnections {
        /// The limit that was asked for: 0, or more than `most`.
        asked: u64,
        /// The highest limit.
        most: u64,
    },
    /// A time of silence after which connections are closed that is too short to tell silence from speech, or too long to
    /// remember.
    IdleTimeout {
        /// The time that was asked for.
        asked: Duration,
        /// The shortest time.
        shortest: Duration,
        /// The longest time.
        longest: Duration,
    },
    /// A keepalive time that the kernel does not take.
    Keepalive {
        /// The time that was asked for.
        asked: Duration,
        /// The shortest time.
        shortest: Duration,
        /// The longest time.
        longest: Duration,
    },
    /// Keepalives of a client that are rarer than its protocol has promised the server.
    RareKeepalive {
        /// The time between two of them that was asked for.
        asked: Duration,
        /// The silence that the server was told to allow.
        allowed: Duration,
    },
    /// A time of silence after which connections are put to sleep that is too short to be worth it, or too long to
    /// remember.
    Hibernate {
        /// The time that was asked for.
        asked: Duration,
        /// The shortest time.
        shortest: Duration,
        /// The longest time.
        longest: Duration,
    },
    /// No connection may be awake, so none could be served, or more than can be counted. At least 1 may.
    Awake {
        /// The number that was asked for.
        asked: u64,
        /// The highest number.
        most: u64,
    },
    /// A number of connections that may be awake at once, where none sleeps.
    AwakeWithoutSleep {
        /// The number that was asked for.
        asked: u64,
    },
    /// A rate at which nothing would ever be done.
    Rate {
        /// What is to be done at that rate.
        what: Rated,
        /// The number of connections a second, as it is written.
        asked: String,
    },
    /// A mailbox that holds no message.
    MailboxCapacity,
    /// Metrics on a port that the server serves itself.
    MetricsPort {
        /// The address for the metrics.
        address: SocketAddr,
        /// The first port that the server serves.
        first: u16,
        /// The last port that the server serves.
        last: u16,
    },
    /// A counter of a service's own that cannot have its name.
    Counter {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: CounterProblem,
    },
    /// A number of the first connection that is too high.
    FirstNumber {
        /// The number that was asked for.
        asked: u64,
        /// The highest number.
        most: u64,
    },
    /// A protocol that awaits answers while a connection is opened, and audits that await none.
    HandshakeWithoutAnswers {
        /// The protocol.
        protocol: &'static str,
    },
    /// No connect may be in flight, so none could be made. At least 1 may.
    Concurrency,
    /// A steered client without an audit to ask for.
    SteeredWithoutAudit,
    /// An audit that asks a sample of no connections, or asks nothing, or belongs to a storm or a fan-out, whose audits
    /// must ask every connection.
    AuditSample {
        /// Connections to be asked.
        asked: u64,
    },
    /// A storm without echoes, by which its survivors prove themselves.
    StormWithoutEcho,
    /// A storm that leaves no survivor to measure: at most all connections but one can be its victims.
    NoSurvivor {
        /// The victims that were asked for.
        victims: u64,
        /// Connections in all.
        connections: u64,
    },
    /// A storm of connections that it closes, silences or makes slow, and none of them. There is at least 1.
    NoVictim {
        /// Connections in all.
        connections: u64,
    },
    /// A certificate, a key, or another setting of TLS that cannot be used.
    Tls {
        /// What it is.
        what: TlsFile,
        /// Its file, or the setting itself.
        name: String,
        /// What is wrong with it.
        problem: TlsProblem,
    },
    /// No TLS handshake may be under way, so no connection could be opened. At least 1 may.
    Handshakes,
    /// A time in which nothing could succeed, or that no clock reaches.
    Timeout {
        /// What may take so long at most.
        what: Timeout,
        /// The time that was asked for.
        asked: Duration,
        /// The shortest time.
        shortest: Duration,
        /// The longest time.
        longest: Duration,
    },
    /// A time in which nothing could be done, or that no clock reaches.
    Lasting {
        /// What lasts so long.
        what: Lasting,
        /// The time that was asked for.
        asked: Duration,
        /// The shortest time.
        shortest: Duration,
        /// The longest time.
        longest: Duration,
    },
    /// A fan-out that cannot be.
    Fanout(FanoutProblem),
    /// A document that cannot be used.
    Document {
        /// Where it comes from.
        name: String,
        /// What is wrong with it.
        problem: DocumentProblem,
    },
}

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressUse {
    /// To connect to it.
    Target,
    /// To connect from it.
    Source,
    /// To listen on it.
    Listener,
    /// To show metrics on it.
    Metrics,
}

/// Why a counter cannot have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CounterProblem {
    /// It is not what Prometheus takes: ASCII letters, digits and `_`, no digit first.
    NoName,
    /// It begins with `c1m_` or `process_`.
    Reserved,
    /// It ends with `_total`, which the metrics add.
    Total,
    /// Another counter has it.
    Taken,
}

/// Why an address cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressProblem {
    /// It is many hosts at once.
    Multicast,
    /// It is many hosts at once.
    Broadcast,
    /// It is link-local, and its interface is not named.
    NoInterface,
    /// It is `0.0.0.0` or `::`.
    Unspecified,
    /// It is given twice.
    Twice,
}

/// Why a document cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DocumentProblem {
    /// It is not the result of a run: why.
    NoResult(String),
    /// It holds the results of so many runs, one after the other.
    Several(usize),
    /// Another version of c1m wrote it, and this one cannot read it: why.
    OtherVersion {
        /// The version that wrote it.
        version: String,
        /// What this one does not know.
        why: String,
    },
    /// It is no interval log: why.
    NoLog(String),
    /// A histogram in it cannot be read: why.
    Histogram(String),
    /// It is the result of a storm, and cannot be merged with others.
    Storm,
    /// It is the result of a fan-out, and cannot be merged with others.
    Fanout,
    /// It holds the same run as this other one. The same name for both is one document that holds a run twice.
    SameRun(String),
}

impl ConfigError {
    /// What was asked for.
    pub(crate) fn saw(&self) -> String {
        match self {
            ConfigError::NoPort { first, count } => format!("{count} ports from {first} on"),
            ConfigError::PortsBeyondLast { first, count, .. } => {
                format!("{count} ports from {first} on end at {}", last_port(*first, *count))
            }
            ConfigError::NoCores => "no core".to_owned(),
            ConfigError::CoreCount { asked, .. } => format!("{asked} cores"),
            ConfigError::Core { asked, .. } => format!("core {asked}"),
            ConfigError::EmptyCoreList { .. } => "an empty list of cores".to_owned(),
            ConfigError::Address { used, address, problem: AddressProblem::Twice } => {
                format!("{used} {address} is given twice")
            }
            ConfigError::Address { used, address, .. } => format!("{used} {address}"),
            ConfigError::AddressFamilies => "sources and targets of different address families".to_owned(),
            ConfigError::NotThisHost { operation, address, errno } => format!("{operation} {address}: {errno}"),
            ConfigError::Metrics { address, errno } => format!("listen for metrics on {address}: {errno}"),
            ConfigError::Connections { asked, .. } => format!("{asked} connections"),
            ConfigError::MaxConnections { asked, .. } => format!("a limit of {asked} connections"),
            ConfigError::IdleTimeout { asked, .. } => format!("an idle timeout of {asked:?}"),
            ConfigError::Keepalive { asked, .. } => format!("keepalive after {asked:?}"),
            ConfigError::RareKeepalive { asked, .. } => {
                format!("a keepalive every {asked:?}")
            }
            ConfigError::Hibernate { asked, .. } => format!("sleep after {asked:?}"),
            ConfigError::Awake { asked, .. } | ConfigError::AwakeWithoutSleep { asked } => {
                format!("{asked} connections awake at once")
            }
            ConfigError::FirstNumber { asked, .. } => format!("first number {asked}"),
            ConfigError::HandshakeWithoutAnswers { protocol } => {
                format!("audits without answers, and the protocol {protocol} with a handshake")
            }
            ConfigError::Rate { what, asked } => format!("{asked} connections {what} per second"),
            ConfigError::MailboxCapacity => "a mailbox of 0 messages".to_owned(),
            ConfigError::MetricsPort { address, .. } => format!("metrics on {address}"),
            ConfigError::Counter { name, .. } => format!("counter {name:?}"),
            ConfigError::Concurrency => "a concurrency of 0".to_owned(),
            ConfigError::SteeredWithoutAudit => "a steered client without audits".to_owned(),
            ConfigError::AuditSample { asked } => format!("an audit that asks {asked} connections drawn at random"),
            ConfigError::StormWithoutEcho => "a storm without echoes".to_owned(),
            ConfigError::NoSurvivor { victims, connections } => {
                format!("{victims} victims of {connections} connections")
            }
            ConfigError::NoVictim { connections } => format!("no victim of {connections} connections"),
            ConfigError::Handshakes => "0 TLS handshakes at once".to_owned(),
            ConfigError::Timeout { what, asked, .. } => format!("at most {asked:?} for {what}"),
            ConfigError::Lasting { what, asked, .. } => format!("{asked:?} for {what}"),
            ConfigError::Tls { what, name, problem } => problem.saw(*what, name),
            ConfigError::Fanout(problem) => problem.saw(),
            ConfigError::Document { name, problem } => problem.saw(name),
        }
    }

    /// Why that cannot be, and what can.
    pub(crate) fn means(&self) -> String {
        match self {
            ConfigError::NoPort { .. } => "a port run starts at 1 or above and has at least one port".to_owned(),
            ConfigError::PortsBeyondLast { .. } => format!("the last TCP port is {}", u16::MAX),
            ConfigError::NoCores => {
                "the kernel does not tell which cores this process may run on (sched_getaffinity): a seccomp filter forbids that".to_owned()
            }
            ConfigError::CoreCount { allowed, .. }
            | ConfigError::Core { allowed, .. }
            | ConfigError::EmptyCoreList { allowed } => cores(allowed),
            ConfigError::Address { problem, .. } => problem.means().to_owned(),
            ConfigError::AddressFamilies => "an IPv4 address cannot connect to an IPv6 one".to_owned(),
            ConfigError::NotThisHost { .. } => "no interface of this host has that address".to_owned(),
            ConfigError::Metrics { .. } => "the metrics could not be read there".to_owned(),
            ConfigError::Connections { most, .. } => format!("a run opens between 1 and {most} connections"),
            ConfigError::MaxConnections { most, .. } => format!("a server holds between 1 and {most} connections"),
            ConfigError::IdleTimeout { shortest, longest, .. } => format!(
                "a connection is closed after {} s of silence or more, and {} hours or less, which a row remembers",
                shortest.as_secs(),
                longest.as_secs() / 3600
            ),
            ConfigError::Keepalive { shortest, longest, .. } => {
                format!("the kernel takes {} to {} whole seconds (tcp(7))", shortest.as_secs(), longest.as_secs())
            }
            ConfigError::RareKeepalive { allowed, .. } => {
                format!("the server is told that a connection is silent for {} s at most", allowed.as_secs())
            }
            ConfigError::Hibernate { shortest, longest, .. } => format!(
                "a connection sleeps after {} ms of silence or more, and {} hours or less",
                shortest.as_millis(),
                longest.as_secs() / 3600
            ),
            ConfigError::Awake { most, .. } => format!("between 1 and {most} connections are awake at once"),
            ConfigError::AwakeWithoutSleep { .. } => "without a time after which they sleep all are awake".to_owned(),
            ConfigError::FirstNumber { most, .. } => format!("it is {most} at most"),
            ConfigError::HandshakeWithoutAnswers { .. } => {
                "a new connection has to await an answer before it says all that it should".to_owned()
            }
            ConfigError::Rate { what, .. } => format!("nothing would ever be {what}"),
            ConfigError::MailboxCapacity => "nothing could be sent through it".to_owned(),
            ConfigError::MetricsPort { address, first, last } => {
                format!("port {} is one of those that the server serves itself, {first} to {last}", address.port())
            }
            ConfigError::Counter { problem, .. } => problem.means().to_owned(),
            ConfigError::Concurrency => "nothing could be in flight".to_owned(),
            ConfigError::SteeredWithoutAudit => "there would be no audit to ask for".to_owned(),
            ConfigError::AuditSample { asked: 0 } => "it would prove nothing".to_owned(),
            ConfigError::AuditSample { .. } => {
                "there is nothing to draw: these audits ask no connection, or have to ask every one".to_owned()
            }
            ConfigError::StormWithoutEcho => "its survivors prove themselves by them".to_owned(),
            ConfigError::NoSurvivor { .. } => "there would be no survivor to measure".to_owned(),
            ConfigError::NoVictim { .. } => "the storm would strike none".to_owned(),
            ConfigError::Handshakes => "no connection could be opened".to_owned(),
            ConfigError::Timeout { what, shortest, longest, .. } => {
                let days = days(*longest);
                format!("{what} may take {} ms at least, and {days} days at most", shortest.as_millis())
            }
            ConfigError::Lasting { what, shortest, longest, .. } => what.means(*shortest, *longest),
            ConfigError::Tls { what, problem, .. } => problem.means(*what),
            ConfigError::Fanout(problem) => problem.means(),
            ConfigError::Document { problem, .. } => problem.means(),
        }
    }
}

/// The last of `count` ports from `first` on, which may be none that TCP has.
pub(crate) fn last_port(first: u16, count: u16) -> u32 {
    (u32::from(first) + u32::from(count)).saturating_sub(1)
}

fn cores(allowed: &[usize]) -> String {
    let list = allowed.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    format!("this process may use {} core(s): {list} (cpuset, taskset)", allowed.len())
}

impl fmt::Display for AddressUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AddressUse::Target => "target",
            AddressUse::Source => "source",
            AddressUse::Listener => "listener",
            AddressUse::Metrics => "metrics",
        })
    }
}

impl CounterProblem {
    fn means(self) -> &'static str {
        match self {
            CounterProblem::NoName => "a counter's name is ASCII letters, digits and _, and begins with no digit",
            CounterProblem::Reserved => "names that begin with c1m_ and process_ are the server's own",
            CounterProblem::Total => "the metrics add _total by themselves",
            CounterProblem::Taken => "a counter of that name was added before",
        }
    }
}

impl AddressProblem {
    fn means(self) -> &'static str {
        match self {
            AddressProblem::Multicast => "a multicast address is many hosts at once, and TCP connects two",
            AddressProblem::Broadcast => "a broadcast address is many hosts at once, and TCP connects two",
            AddressProblem::NoInterface => "a link-local address is one on each interface",
            AddressProblem::Unspecified => "it is no address of a host",
            AddressProblem::Twice => {
                "each address has its source ports once, however often and in whatever form it is named"
            }
        }
    }
}

impl DocumentProblem {
    pub(crate) fn saw(&self, name: &str) -> String {
        match self {
            DocumentProblem::NoResult(_) | DocumentProblem::NoLog(_) | DocumentProblem::Histogram(_) => name.to_owned(),
            DocumentProblem::Several(number) => format!("{name} holds the results of {number} runs"),
            DocumentProblem::OtherVersion { version, .. } => format!("{name} was written by c1m {version}"),
            DocumentProblem::Storm => format!("{name} is the result of a storm"),
            DocumentProblem::Fanout => format!("{name} is the result of a fan-out"),
            DocumentProblem::SameRun(other) if other == name => format!("{name}: a run is given twice"),
            DocumentProblem::SameRun(other) => format!("{other} and {name}: the same run is given twice"),
        }
    }

    fn means(&self) -> String {
        match self {
            DocumentProblem::NoResult(why) | DocumentProblem::NoLog(why) | DocumentProblem::Histogram(why) => {
                why.clone()
            }
            DocumentProblem::Several(_) => "one of them alone would be read".to_owned(),
            DocumentProblem::OtherVersion { why, .. } => {
                format!("this is c1m {}, which does not understand it: {why}", env!("CARGO_PKG_VERSION"))
            }
            DocumentProblem::Storm => "its stages are not those of another machine".to_owned(),
            DocumentProblem::Fanout => "its publishers and subscribers were in one process".to_owned(),
            DocumentProblem::SameRun(_) => "its connections would count twice".to_owned(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.saw(), self.means())
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConfigError::NotThisHost { errno, .. } | ConfigError::Metrics { errno, .. } => Some(errno),
            _ => None,
        }
    }
}
