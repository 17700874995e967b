//! The arguments as clap types, and their conversion into options.

mod client;
mod fanout;
mod goal;
mod mqtt;
mod protocol;
mod service;
mod storm;
mod tls;

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::diagnostics::Words;
use crate::addresses::{Address, Endpoint};
use crate::command_error::{CommandError, Result};
use crate::constants::MAX_PENDING_BYTES;
use crate::error::{LONGEST_TIME, days};
use crate::host::Cores;
use crate::plan::{Layers, PortSharing, Ports};
use crate::server::{self, IdlePolicy, Reserve};
use crate::tls_version::TlsVersion;

pub use client::{ClientArguments, ConnectionArguments};
pub use fanout::FanoutArguments;
pub use goal::{DoctorArguments, Profile, TuneArguments, awake};
pub use service::{ServerProtocol, ServiceArguments, ServiceName};
pub use storm::StormArguments;
use tls::{ServerTlsArguments, VersionName};

/// A million TCP connections on two cores: the server that holds them, the client that opens,
/// proves and measures them.
///
/// Exit codes: 0 all requested connections held, or of `demo` all that fit on this host; 1 some did not, the report
/// says which; 2 bad usage; 3 the host refuses or lacks something; 70 a bug in c1m.
#[derive(Debug, Parser)]
#[command(version, about, long_about, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hold connections and serve them.
    Server(Box<ServerArguments>),
    /// Open, prove and measure connections.
    Client(Box<ClientArguments>),
    /// Disturb a server that holds connections, and measure how the connections that the storm spares fare.
    ///
    /// Opens the connections, audits them, sends messages before, during and after the storm, and audits the
    /// connections that are left. Exits with 0 only if every survivor and every connection dialed anew passed that
    /// audit, and none was lost or answered wrongly.
    Storm(Box<StormArguments>),
    /// Publish to many subscribers, and prove that each got every publication exactly once.
    ///
    /// Opens subscribers and publishers in one process, audits them, publishes, waits for the receipts, and audits
    /// again. Exits with 0 only if every connection held, and each publication was received exactly once by every
    /// subscriber.
    Fanout(Box<FanoutArguments>),
    /// Server and client on this machine: a million connections, a report.
    ///
    /// Opens as many of them as this host holds, and says before which limit left others out (`wall` in --json). Exits
    /// with 0 if all that it opened held.
    Demo(DemoArguments),
    /// Judge this host against a goal, wall by wall; changes nothing. Exits with 1 if a wall blocks the goal.
    Doctor(DoctorArguments),
    /// Show the settings that this host needs for a goal, apply them, and restore the old ones.
    Tune(TuneArguments),
    /// Read results that earlier runs wrote.
    #[command(subcommand)]
    Report(ReportCommand),
}

impl Command {
    /// How its errors name what they are about.
    pub fn words(&self) -> Words {
        let (fans_out, serves) = (matches!(self, Command::Fanout(_)), matches!(self, Command::Server(_)));
        let connection = match self {
            Command::Client(client) => Some(&client.connection),
            Command::Storm(storm) => Some(&storm.connection),
            Command::Fanout(fanout) => Some(&fanout.connection),
            _ => None,
        };
        Words { has_target: connection.is_some_and(|connection| connection.target.is_some()), fans_out, serves }
    }
}

#[derive(Debug, Subcommand)]
pub enum ReportCommand {
    /// Merge the results of several client machines: connections, failures, audits and counters are summed,
    /// latencies merged from their histograms, and the longest ramp counts. The exit code says whether they could
    /// be merged, not whether connections held.
    Merge(MergeArguments),
    /// Write one HTML file that shows a result. It needs no network, and can be printed.
    Html(HtmlArguments),
    /// Compare two results: ratios, with the range over their shards.
    Compare(CompareArguments),
}

#[derive(Debug, Args)]
pub struct PortArguments {
    /// First port.
    #[arg(long, default_value_t = 8888)]
    pub port: u16,
    /// Number of ports from --port on.
    #[arg(long, default_value_t = 100)]
    pub ports: u16,
}

impl PortArguments {
    pub fn ports(&self) -> Result<Ports> {
        Ok(Ports::new(self.port, self.ports)?)
    }
}

/// The files that a run writes.
#[derive(Debug, Args)]
pub struct FileArguments {
    /// Write the result to FILE; - is standard output, where `client`, `storm` and `fanout` then write events as JSON
    /// lines first.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write one HTML file that shows the run: connections, rates and latencies over time.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Write HdrHistogram's interval log: one interval per second, with a tag for each measure and shard.
    #[arg(long, value_name = "FILE.hlog")]
    pub hlog: Option<PathBuf>,
    /// Show no progress: only warnings and the result.
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct ServerArguments {
    /// Use the first N cores that this process may run on; all by default.
    #[arg(long, value_name = "N")]
    pub cores: Option<usize>,
    /// Use exactly these cores, such as 0,2-3.
    #[arg(long, value_name = "LIST", conflicts_with = "cores", value_parser = core_list)]
    pub core_list: Option<CoreList>,
    /// Address to listen on. `::` takes IPv4 and IPv6, for about 200 bytes more of kernel memory
    /// per connection. A link-local address needs its interface, such as fe80::1%eth0.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0")]
    pub bind: Address,
    #[command(flatten)]
    pub ports: PortArguments,
    /// Assignment of ports to shards: `subset` gives each port to one shard; `all` makes every shard listen on
    /// every port, for clients that use a single port.
    #[arg(long, value_enum, default_value_t = Sharing::Subset)]
    pub port_sharing: Sharing,
    /// The most connections held. A further connection waits 0.1 s for a place, and is then reset and counted as
    /// refused.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub max_connections: u64,
    /// Accept queue of each port; the kernel caps it at net.core.somaxconn, which is the default.
    #[arg(long, value_name = "N")]
    pub backlog: Option<u32>,
    #[command(flatten)]
    pub service: ServiceArguments,
    /// Bytes kept for a peer that does not read, 4096 at least. The connection is reset beyond them.
    #[arg(long, value_name = "BYTES", default_value_t = MAX_PENDING_BYTES)]
    pub max_pending: usize,
    /// How idle connections wait. With `filter` they wait behind a filter on their sockets, which takes no memory per
    /// connection, and needs CAP_BPF, CAP_PERFMON and CAP_CHOWN. With `poll` each waits in a poll of its ring, which
    /// takes 256 bytes of the kernel. `auto` uses the filter where it is allowed. Sockets behind the filter have owners
    /// from 1073741824 on (ss -e). If such a connection ends without a segment, the server notices up to 10 minutes
    /// later, with --keepalive up to its TIME later.
    #[arg(long, value_enum, default_value_t = IdlePolicyName::Auto)]
    pub park: IdlePolicyName,
    /// Memory to leave to the rest of the host, such as 64MiB or 2%. While the host or a cgroup has less left, new
    /// connections are reset at once and counted as refused; with half of it left, the server stops listening. 0
    /// disables the check; the default is 24 MiB and 1 %.
    #[arg(long, value_name = "BYTES|PERCENT", value_parser = reserve)]
    pub memory_reserve: Option<Reserve>,
    /// How long closing all connections takes at SIGTERM. They are closed evenly, so that no core is busy all the
    /// time here or at the peers; a few connections take less time.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub drain_timeout: Duration,
    /// Close connections whose peer was silent for TIME, 1s or more. A sweep finds them up to 12 s later, as no
    /// connection has a timer.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub idle_timeout: Option<Duration>,
    /// Put connections to sleep that were silent for TIME, such as 30s: they have no socket until their next segment,
    /// or until something is to be sent, and take some 52 bytes each. Needs CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON and
    /// CAP_NET_RAW. Take 50 ms or more: before that an acknowledgement may be outstanding, and no connection falls
    /// asleep.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub hibernate: Option<Duration>,
    /// At most N connections have a socket at once; each core may always have one. By default as many as memory allows,
    /// and before Linux 6.8 file descriptors, at most 262,144.
    #[arg(long, value_name = "N", requires = "hibernate")]
    pub awake: Option<u64>,
    /// Accept at most N connections per second; the others wait in the accept queue.
    #[arg(long, value_name = "N/s", value_parser = rate)]
    pub accept_rate: Option<f64>,
    /// Probe a peer that was silent for TIME, up to 3 times, TIME apart; a connection whose peer answers none of the
    /// probes is closed. In whole seconds. The kernel sends the probes, so they cost c1m nothing.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub keepalive: Option<Duration>,
    #[command(flatten)]
    pub tls: ServerTlsArguments,
    /// Take the place of the server that listens at the Unix socket PATH, without a connection closed, over TLS and in the
    /// middle of messages too; if none does, start afresh. Then listen there for a later server. Where NOTIFY_SOCKET is set,
    /// connections of raw bytes that sleep survive a kill: what is kept of them is left with the service manager.
    #[arg(long, value_name = "PATH")]
    pub takeover: Option<PathBuf>,
    /// Interval between lines of figures, 1ms or more.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub stats_interval: Duration,
    /// Write the result to FILE (- is standard output) and print events as JSON lines.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Serve the shards' counters to Prometheus at http://ADDR/metrics; port 0 takes a free port. Everyone who can
    /// reach the address can read them, so choose an address such as 127.0.0.1:9187 or an internal one.
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<Endpoint>,
    /// Stop when standard input ends, so that a parent process never leaves a server behind.
    #[arg(long)]
    pub until_stdin_closes: bool,
    /// Print a line per shard too.
    #[arg(short, long, conflicts_with_all = ["quiet", "json"])]
    pub verbose: bool,
    /// Print no lines of figures: only warnings and the result.
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sharing {
    Subset,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IdlePolicyName {
    Auto,
    Poll,
    Filter,
}

/// Cores by number, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreList(Vec<usize>);

/// The shortest time between two lines of figures. More of them than a thousand a second would be read by none, and cost the
/// shards' cores.
const SHORTEST_STATS_INTERVAL: Duration = Duration::from_millis(1);

impl ServerArguments {
    pub fn options(&self) -> Result<server::Options> {
        if self.stats_interval < SHORTEST_STATS_INTERVAL {
            let saw = format!("--stats-interval {}", humantime::format_duration(self.stats_interval));
            let days = days(LONGEST_TIME);
            let means =
                format!("a line counts {} ms at least, and {days} days at most", SHORTEST_STATS_INTERVAL.as_millis());
            return Err(CommandError::usage(saw, means, "try 1s"));
        }
        self.service.check()?;
        let ports = self.ports.ports()?;
        let options = server::Options {
            cores: match (&self.cores, &self.core_list) {
                (_, Some(CoreList(list))) => Cores::List(list.clone()),
                (Some(count), None) => Cores::Count(*count),
                (None, None) => Cores::All,
            },
            bind: self.bind,
            ports,
            sharing: match self.port_sharing {
                Sharing::Subset => PortSharing::Subset,
                Sharing::All => PortSharing::All,
            },
            max_connections: self.max_connections,
            backlog: self.backlog,
            max_pending: self.max_pending,
            idle: match self.park {
                IdlePolicyName::Auto => IdlePolicy::Auto,
                IdlePolicyName::Poll => IdlePolicy::Poll,
                IdlePolicyName::Filter => IdlePolicy::Filter,
            },
            memory_reserve: self.memory_reserve.unwrap_or_default(),
            drain_timeout: self.drain_timeout,
            idle_timeout: self.idle_timeout,
            hibernate: self.hibernate,
            awake: self.awake,
            accept_rate: self.accept_rate,
            keepalive: self.keepalive,
            metrics: self.metrics.map(|at| at.address.at(at.port)),
            tls: self.tls.config()?,
            takeover: self.takeover.clone(),
            ..server::Options::default()
        };
        options.check()?;
        Ok(options)
    }
}

#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Connections to open; as many as this host holds, if it holds fewer.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub connections: u64,
    /// Use the first N cores for the server and for the client; all by default.
    #[arg(long, value_name = "N")]
    pub cores: Option<usize>,
    #[command(flatten)]
    pub ports: PortArguments,
    /// What is spoken on the connections: `raw` bytes; `websocket`, texts with a token that must come back after an
    /// upgrade; `http`, requests on kept connections, of whose path the token must come back.
    #[arg(long, value_enum, default_value_t = ServerProtocol::Raw)]
    pub protocol: ServerProtocol,
    /// How long to hold the connections between the two audits.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub hold: Duration,
    /// The network of server and client: this `host`'s, or their `own`, a network namespace whose table of
    /// established connections has at least two buckets for each connection. `auto` uses their own network if the
    /// host's table has fewer buckets than there will be sockets, and a namespace is allowed.
    #[arg(long, value_enum, default_value_t = NetworkName::Auto)]
    pub network: NetworkName,
    /// Put connections to sleep at both ends that were silent for TIME, such as 1s; `auto` is 1 s. As `server` and
    /// `client` do with --hibernate.
    #[arg(long, value_name = "TIME|auto", value_parser = hibernate)]
    pub hibernate: Option<Duration>,
    /// At most N connections have a socket at once at each end; each core may always have one. By default as many as
    /// memory allows, and before Linux 6.8 file descriptors, at most 32,768.
    #[arg(long, value_name = "N", requires = "hibernate")]
    pub awake: Option<u64>,
    /// Speak TLS 1.3 at both ends, with a certificate that is made for the run.
    #[arg(long)]
    pub tls: bool,
    #[command(flatten)]
    pub files: FileArguments,
}

impl DemoArguments {
    /// What is spoken between its ends.
    pub fn layers(&self) -> Layers {
        self.protocol.layers(self.tls.then(TlsVersion::default))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NetworkName {
    Auto,
    Host,
    Own,
}

#[derive(Debug, Args)]
pub struct MergeArguments {
    /// Files that `client --json` or `demo --json` wrote, one per machine (- is standard input); or files that
    /// `--hlog` wrote, whose latencies alone are merged.
    #[arg(required = true, value_name = "FILE")]
    pub results: Vec<PathBuf>,
    /// Write the merged result to FILE (- is standard output).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write one HTML file that shows the merged result.
    #[arg(long, value_name = "FILE.html")]
    pub html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct HtmlArguments {
    /// A file that `client`, `storm`, `fanout`, `demo` or `report merge` wrote with `--json`.
    #[arg(value_name = "FILE")]
    pub result: PathBuf,
    /// File of the page (- is standard output).
    #[arg(short, long, value_name = "FILE.html")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct CompareArguments {
    /// The earlier result.
    #[arg(value_name = "BEFORE")]
    pub before: PathBuf,
    /// The later result.
    #[arg(value_name = "AFTER")]
    pub after: PathBuf,
    /// Write the comparison to FILE (- is standard output).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A time such as 10s, 500ms or 1m30s; a bare number is seconds.
fn duration(text: &str) -> std::result::Result<Duration, String> {
    let time = match text.parse::<u32>() {
        Ok(seconds) => Duration::from_secs(seconds.into()),
        Err(_) => humantime::parse_duration(text).map_err(|e| format!("{e}; try 10s or 500ms"))?,
    };
    if time > LONGEST_TIME { Err(format!("'{text}' is longer than a year; try 10s or 30days")) } else { Ok(time) }
}

/// The silence after which a demo's connections sleep with `auto`. A demo is silent from the moment that a connection is
/// proved to the next audit.
const HIBERNATE_AUTO: Duration = Duration::from_secs(1);

/// A time after which connections sleep, or `auto`.
fn hibernate(text: &str) -> std::result::Result<Duration, String> {
    if text == "auto" { Ok(HIBERNATE_AUTO) } else { duration(text) }
}

/// An amount of memory such as 64MiB, 2GiB, 2% or 1048576.
fn reserve(text: &str) -> std::result::Result<Reserve, String> {
    let wrong = || format!("'{text}' is no amount of memory; try 64MiB, 2% or 0");
    let number = |word: &str| word.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0).ok_or_else(wrong);
    if let Some(percent) = text.strip_suffix('%') {
        let percent = number(percent)?;
        let all = || format!("'{text}' leaves no memory to serve with; try 2%");
        return if percent < 100.0 { Ok(Reserve::Percent(percent)) } else { Err(all()) };
    }
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("K", 10), ("M", 20), ("G", 30), ("B", 0)];
    let (word, shift) = units
        .into_iter()
        .find_map(|(unit, shift)| text.strip_suffix(unit).map(|word| (word, shift)))
        .unwrap_or((text, 0));
    Ok(Reserve::Bytes((number(word)? * (1u64 << shift) as f64) as u64))
}

/// The lowest rate: one connection in about a quarter of an hour.
const SLOWEST: f64 = 0.001;

/// A rate such as 5000 or 5000/s.
fn rate(text: &str) -> std::result::Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    match number.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= SLOWEST => Ok(rate),
        _ => Err(format!("a rate is a number of {SLOWEST} or more, such as 5000/s")),
    }
}

/// Cores such as 0,2-3.
fn core_list(text: &str) -> std::result::Result<CoreList, String> {
    let number =
        |word: &str| word.trim().parse::<usize>().map_err(|_| format!("'{word}' is no core number; try 0,2-3"));
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high) = (number(low)?, number(high)?);
        if low > high || high - low > 4096 {
            return Err(format!("'{part}' is no range of cores; try 0,2-3"));
        }
        cores.extend(low..=high);
    }
    cores.sort_unstable();
    match cores.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => Err(format!("core {} is listed twice; name each core once", twice[0])),
        None => Ok(CoreList(cores)),
    }
}

/// Addresses as typed: one, or a block of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressBlock(Vec<Address>);

/// The addresses of all blocks.
fn addresses(blocks: &[AddressBlock]) -> Vec<Address> {
    blocks.iter().flat_map(|block| block.0.iter().copied()).collect()
}

/// The most addresses of a block.
const LARGEST_BLOCK: u128 = 65_536;

/// One address, or all usable addresses of a block. An IPv4 block of more than two addresses has its first and last
/// address reserved for the network.
fn address_block(text: &str) -> std::result::Result<AddressBlock, String> {
    let wrong = || format!("'{text}' is no IP address or block; try 10.0.0.1 or 10.0.0.0/28");
    let Some((address, length)) = text.split_once('/') else {
        return Address::from_str(text).map(|address| AddressBlock(vec![address]));
    };
    let mapped = address.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() && ip.to_canonical().is_ipv4());
    let address = Address::from_str(address)?;
    let bits: u32 = if address.ip().is_ipv4() { 32 } else { 128 };
    // The prefix length of a mapped IPv4 block counts the 96 bits before the IPv4 address.
    let before = if mapped { 96 } else { 0 };
    let length: u32 = length.parse::<u32>().ok().ok_or_else(wrong)?;
    let length = length.checked_sub(before).filter(|length| *length <= bits).ok_or_else(wrong)?;
    let size = 1u128.checked_shl(bits - length).filter(|size| *size <= LARGEST_BLOCK).ok_or_else(|| {
        format!("'{text}' has more than {LARGEST_BLOCK} addresses; try a smaller block, such as 10.0.0.0/16")
    })?;
    let number = match address.ip() {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let first = number - number % size;
    let edge = u128::from(address.ip().is_ipv4() && size > 2);
    let nth = |n: u128| match address.ip() {
        IpAddr::V4(_) => address.with_ip(IpAddr::from((n as u32).to_be_bytes())),
        IpAddr::V6(_) => address.with_ip(IpAddr::from(n.to_be_bytes())),
    };
    Ok(AddressBlock((first + edge..=first + (size - 1 - edge)).map(nth).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    /// clap prints a line break for `{n}`, which is one of our placeholders.
    #[test]
    fn help_is_printed_as_it_is_written() {
        use clap::CommandFactory;
        fn check(command: &clap::Command) {
            let helps =
                |arg: &clap::Arg| [arg.get_help(), arg.get_long_help()].map(|help| help.map(ToString::to_string));
            let texts = command.get_arguments().flat_map(helps).flatten();
            texts.for_each(|text| assert!(!text.contains("{n}"), "{}: {text}", command.get_name()));
            command.get_subcommands().for_each(check);
        }
        check(&Arguments::command());
    }

    #[test]
    fn valid_values_are_parsed() {
        assert_eq!(core_list("0,2-3").unwrap().0, [0, 2, 3]);
        assert_eq!(rate("5000/s").unwrap(), 5_000.0);
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(reserve("64MiB").unwrap(), Reserve::Bytes(64 << 20));
        assert_eq!(reserve("1.5G").unwrap(), Reserve::Bytes(3 << 29));
        assert_eq!(reserve("2%").unwrap(), Reserve::Percent(2.0));
        assert!(reserve("100%").is_err() && reserve("-1").is_err() && reserve("lots").is_err());
        assert_eq!(duration("3").unwrap(), Duration::from_secs(3));
        assert_eq!(hibernate("auto").unwrap(), Duration::from_secs(1));
        assert_eq!(hibernate("250ms").unwrap(), Duration::from_millis(250));
        let block = address_block("10.0.0.0/29").unwrap().0;
        assert_eq!(
            (block.len(), block[0].to_string(), block[5].to_string()),
            (6, "10.0.0.1".into(), "10.0.0.6".into())
        );
        assert_eq!(address_block("fd00::/126").unwrap().0.len(), 4);
        assert_eq!(address_block("ffff:ffff:ffff:ffff:ffff:ffff:ffff:0/112").unwrap().0.len(), 65_536);
        assert_eq!(address_block("10.0.0.7").unwrap().0.len(), 1);
        assert_eq!(address_block("::ffff:10.0.0.0/125").unwrap(), address_block("10.0.0.0/29").unwrap());
    }

    #[test]
    fn invalid_values_are_refused() {
        for text in ["", "a", "3-1", "1,1", "0-9999999"] {
            assert!(core_list(text).is_err(), "{text}");
        }
        for text in ["0", "-1", "x", "inf", "nan", "1e-300"] {
            assert!(rate(text).is_err(), "{text}");
        }
        for text in ["99999999d", "x", "-1s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["10.0.0.0/33", "10.0.0.0/8", "fd00::/64", "x/8", "10.0.0/8", "host"] {
            assert!(address_block(text).is_err(), "{text}");
        }
    }
}
