//! The library's errors as the line that the program prints: what was seen, what it means, what to do next, in the
//! words of the command line. The only place that knows which flag an option of the library comes from.

use crate::command_error::{Blame, CommandError};
use crate::error::{
    AddressProblem, AddressUse, ConfigError, DocumentProblem, Error, FanoutProblem, HibernationReason, HostReason,
    Lasting, ListenReason, NotPem, PeerError, REPORT, Rated, ShardsOf, TakeoverReason, ThreadReason, Timeout, TlsFile,
    TlsProblem, last_port,
};
use crate::error::{RAISE_DESCRIPTORS, RAISE_LOCKED_MEMORY};

/// How a command line names what an error is about, where commands have different options for it, or one command has two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Words {
    /// The addresses and ports to connect to were given by `--target`, and not by `--target-ip`, `--port` and `--ports`.
    pub has_target: bool,
    /// The connections are subscribers and publishers.
    pub fans_out: bool,
    /// The certificates are a server's.
    pub serves: bool,
}

impl Words {
    /// The option that gives the addresses to connect to.
    fn targets(self) -> &'static str {
        if self.has_target { "--target" } else { "--target-ip" }
    }

    /// The options that give so many connections.
    fn connections(self, number: u64) -> String {
        if self.fans_out {
            format!("--subscribers and --publishers, {number} in all")
        } else {
            format!("--connections {number}")
        }
    }

    /// The option that gives a certificate, a key or a name for TLS.
    fn tls(self, what: TlsFile) -> &'static str {
        match (what, self.serves) {
            (TlsFile::Certificates, true) => "--tls-cert",
            (TlsFile::Certificates, false) => "--cert",
            (TlsFile::Key, true) => "--tls-key",
            (TlsFile::Key, false) => "--key",
            (TlsFile::Authorities, _) => "--ca",
            (TlsFile::ServerName, _) => "--sni",
            (TlsFile::Alpn, _) => "--alpn",
        }
    }

    fn address(self, used: AddressUse) -> &'static str {
        match used {
            AddressUse::Target => self.targets(),
            AddressUse::Source => "--source-ip",
            AddressUse::Listener => "--bind",
            AddressUse::Metrics => "--metrics",
        }
    }
}

impl CommandError {
    /// The same error with the names that these options give things. Until then it has the names of most command lines.
    pub fn in_words(self, words: Words) -> CommandError {
        match self.library {
            Some(error) if words != Words::default() => told(*error, words),
            _ => self,
        }
    }
}

impl<E: Into<Error>> From<E> for CommandError {
    fn from(error: E) -> CommandError {
        told(error.into(), Words::default())
    }
}

/// The line of an error of the library.
fn told(error: Error, words: Words) -> CommandError {
    let line = match &error {
        Error::Config(error) => CommandError::usage(typed(error, words), error.means(), corrected(error, words)),
        Error::Host(error) => {
            let mut told = error.parts();
            if let HostReason::SourcePorts { connections, .. } = error.reason() {
                told.saw = words.connections(*connections);
            }
            if let Some(cure) = cure(error.reason(), words) {
                told.cure = cure;
            }
            CommandError { blame: Blame::Host, told, library: None }
        }
        Error::Peer(PeerError::Counts { round, proved, counted }) => CommandError::new(
            Blame::Peer,
            format!("audit {round}: the client proved {proved} connections, the server counts {counted}"),
            "one of them is wrong",
            REPORT,
        ),
        Error::Bug(saw) => CommandError::bug(saw),
    };
    CommandError { library: Some(Box::new(error)), ..line }
}

/// What was typed.
fn typed(error: &ConfigError, words: Words) -> String {
    match error {
        ConfigError::NoPort { first: 0, .. } => "--port 0".to_owned(),
        ConfigError::NoPort { .. } => "--ports 0".to_owned(),
        ConfigError::PortsBeyondLast { first, count, .. } => {
            format!("--port {first} --ports {count} ends at {}", last_port(*first, *count))
        }
        ConfigError::CoreCount { asked, .. } => format!("--cores {asked}"),
        ConfigError::Core { asked, .. } => format!("--core-list with core {asked}"),
        ConfigError::EmptyCoreList { .. } => "an empty --core-list".to_owned(),
        ConfigError::Address { used, address, problem: AddressProblem::Twice } => {
            format!("{} {address} is given twice", words.address(*used))
        }
        ConfigError::Address { used, address, .. } => format!("{} {address}", words.address(*used)),
        ConfigError::AddressFamilies => format!("--source-ip and {} of different address families", words.targets()),
        ConfigError::Metrics { address, errno } => format!("listen for --metrics on {address}: {errno}"),
        ConfigError::Connections { asked, .. } => words.connections(*asked),
        ConfigError::MaxConnections { asked, .. } => format!("--max-connections {asked}"),
        ConfigError::IdleTimeout { asked, .. } => format!("--idle-timeout {}", humantime::format_duration(*asked)),
        ConfigError::Keepalive { asked, .. } => format!("--keepalive {}", humantime::format_duration(*asked)),
        ConfigError::Lasting { what: Lasting::Interval, asked, .. } => {
            format!("--interval {}", humantime::format_duration(*asked))
        }
        ConfigError::Lasting { what: Lasting::KeepaliveInterval, asked, .. }
        | ConfigError::RareKeepalive { asked, .. } => {
            format!("--keepalive-interval {}", humantime::format_duration(*asked))
        }
        ConfigError::Hibernate { asked, .. } => format!("--hibernate {}", humantime::format_duration(*asked)),
        ConfigError::Awake { asked, .. } | ConfigError::AwakeWithoutSleep { asked } => format!("--awake {asked}"),
        ConfigError::FirstNumber { asked, .. } => format!("--first-number {asked}"),
        ConfigError::HandshakeWithoutAnswers { protocol } => {
            format!("--audit state or off, and --protocol {protocol} as it is set")
        }
        ConfigError::Rate { what: Rated::Accepts, asked } => format!("--accept-rate {asked}"),
        ConfigError::MetricsPort { address, .. } => format!("--metrics {address}"),
        ConfigError::Concurrency => "--concurrency 0".to_owned(),
        ConfigError::SteeredWithoutAudit => "--steer with --audit off".to_owned(),
        ConfigError::AuditSample { asked } => format!("--audit-sample {asked}"),
        ConfigError::Handshakes => "--handshakes 0".to_owned(),
        ConfigError::Timeout { what, asked, .. } => {
            format!("{} {}", limits(*what), humantime::format_duration(*asked))
        }
        // The name may be that of --target, and the host's authorities have none.
        ConfigError::Tls { what: TlsFile::ServerName, .. } if words.has_target => error.saw(),
        ConfigError::Tls { name, .. } if name.is_empty() => error.saw(),
        ConfigError::Tls { what, .. } => format!("{}: {}", words.tls(*what), error.saw()),
        ConfigError::Fanout(problem) => typed_fanout(*problem).unwrap_or_else(|| error.saw()),
        other => other.saw(),
    }
}

/// The option that says how long something may take.
fn limits(what: Timeout) -> &'static str {
    match what {
        Timeout::Connect => "--connect-timeout",
        Timeout::Reply => "--reply-timeout",
        Timeout::Handshake => "--handshake-timeout",
        Timeout::Receipt => "--wait",
    }
}

/// The options of a fan-out that an error is about, with their values.
fn typed_fanout(problem: FanoutProblem) -> Option<String> {
    Some(match problem {
        FanoutProblem::Publishers { asked, connections } => {
            format!("--publishers {asked} --subscribers {}", connections.saturating_sub(asked))
        }
        FanoutProblem::Publications { asked, .. } => format!("--rate and --for, which make {asked} publications"),
        FanoutProblem::Payload { asked, .. } => format!("--payload {asked}"),
        FanoutProblem::Sleep => "--hibernate".to_owned(),
        FanoutProblem::NoAnswers | FanoutProblem::Protocol { .. } => return None,
    })
}

/// What to type instead.
fn corrected(error: &ConfigError, words: Words) -> String {
    let cure = match error {
        ConfigError::NoPort { first: 0, .. } => "try --port 8888",
        ConfigError::NoPort { .. } => "try --ports 100",
        ConfigError::PortsBeyondLast { most, .. } => return format!("use --ports {most} at most, or a lower --port"),
        ConfigError::NoCores => "allow that call, or boot with nr_cpus=1024",
        ConfigError::CoreCount { .. } | ConfigError::Core { .. } | ConfigError::EmptyCoreList { .. } => {
            "ask for those, or widen the cpuset"
        }
        ConfigError::Address { address, problem, .. } => return corrected_address(address, *problem),
        ConfigError::AddressFamilies => "give both as IPv4 or both as IPv6",
        ConfigError::NotThisHost { .. } => "choose a --bind that `ip addr` shows",
        ConfigError::Metrics { .. } => "choose a free port on an address of this host, such as 127.0.0.1:9187",
        ConfigError::Connections { .. } if words.fans_out => "try --subscribers 340000",
        ConfigError::Connections { .. } => "try --connections 340000",
        ConfigError::MaxConnections { .. } => "try 1000000",
        ConfigError::IdleTimeout { .. } => "try 10m",
        ConfigError::Keepalive { .. } => "try 60s",
        ConfigError::Lasting { what: Lasting::KeepaliveInterval, .. } => {
            "try --keepalive-interval 30s, or --interval for messages"
        }
        ConfigError::Lasting { .. } => "try 1s",
        ConfigError::RareKeepalive { .. } => "leave it out, or give half of --mqtt-keepalive",
        ConfigError::Hibernate { .. } => "try --hibernate 30s",
        ConfigError::Awake { .. } => "leave it out, or try --awake 100000",
        ConfigError::AwakeWithoutSleep { .. } => "give --hibernate TIME too",
        ConfigError::FirstNumber { .. } => "try --first-number 1000000",
        ConfigError::HandshakeWithoutAnswers { .. } => "use --audit echo, or leave out --greeting if there is one",
        ConfigError::Rate { .. } => "try 1000",
        ConfigError::MailboxCapacity => "give it room for 1 or more",
        ConfigError::MetricsPort { first, last, .. } => {
            return format!("give the metrics a port below {first} or above {last}");
        }
        ConfigError::Counter { .. } => "give it a name such as gateway_logins",
        ConfigError::Concurrency => "try --concurrency 512",
        ConfigError::SteeredWithoutAudit => "try --audit state",
        ConfigError::AuditSample { asked: 0 } => "try --audit-sample 1000000",
        ConfigError::AuditSample { .. } => "use it with --audit echo",
        ConfigError::StormWithoutEcho => "try --audit echo",
        ConfigError::NoSurvivor { connections, .. } | ConfigError::NoVictim { connections } if *connections < 2 => {
            "open more --connections"
        }
        ConfigError::NoSurvivor { .. } | ConfigError::NoVictim { .. } => "try --share 34%",
        ConfigError::Handshakes => "try --handshakes 1000, or leave it out",
        ConfigError::Timeout { .. } => "try 10s",
        ConfigError::Tls { what, problem, .. } => corrected_tls(*what, problem),
        ConfigError::Fanout(problem) => match problem {
            FanoutProblem::NoAnswers => "leave out --audit",
            FanoutProblem::Publishers { .. } => "try --publishers 1 and --subscribers 1000",
            FanoutProblem::Publications { .. } => "try --rate 1 and --for 10s, or a lower --rate",
            FanoutProblem::Payload { .. } => "leave out --payload, or give a number between them",
            FanoutProblem::Protocol { .. } => "speak raw, websocket, mqtt or nats",
            FanoutProblem::Sleep => "leave out --hibernate",
        },
        ConfigError::Document { problem, .. } => match problem {
            DocumentProblem::NoResult(_) | DocumentProblem::Histogram(_) => {
                "give what `c1m client --json` or `c1m demo --json` wrote"
            }
            DocumentProblem::Several(_) => "give each run's result in a file of its own",
            DocumentProblem::OtherVersion { version, .. } if is_later(version) => {
                "read it with the version that wrote it, or a later one"
            }
            DocumentProblem::OtherVersion { .. } => "read it with the version that wrote it",
            DocumentProblem::NoLog(_) => "give what `c1m client --hlog` wrote",
            DocumentProblem::Storm | DocumentProblem::Fanout => "give results of c1m client",
            DocumentProblem::SameRun(_) => "give each machine's result once",
        },
    };
    cure.to_owned()
}

/// Whether a version of c1m is later than this one.
fn is_later(version: &str) -> bool {
    let numbers = |version: &str| -> Vec<u64> {
        version.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok()).collect()
    };
    numbers(version) > numbers(env!("CARGO_PKG_VERSION"))
}

fn corrected_tls(what: TlsFile, problem: &TlsProblem) -> &'static str {
    match (what, problem) {
        (TlsFile::ServerName, _) => "give a name such as gateway.example with --sni",
        (TlsFile::Alpn, _) => "try --alpn http/1.1",
        (_, TlsProblem::Unreadable(_)) => "check the path and its permissions",
        (_, TlsProblem::NotPem(NotPem::Utf16)) => "write it anew in ASCII (iconv -f UTF-16 -t ASCII)",
        (_, TlsProblem::NotPem(NotPem::WithinLine)) => "have each BEGIN and END begin a line",
        (TlsFile::Key, TlsProblem::NotPem(NotPem::Binary)) => {
            "convert it (openssl pkey -inform DER -in KEY, or openssl pkcs12 -nodes -in FILE)"
        }
        (_, TlsProblem::NotPem(NotPem::Binary)) => {
            "convert it (openssl x509 -inform DER -in FILE, or openssl pkcs12 -nodes -in FILE)"
        }
        (_, TlsProblem::Encrypted) => "decrypt it for the server alone (openssl pkey -in KEY -out OTHER, mode 0600)",
        (_, TlsProblem::OldVersion) => {
            "make it anew with extensions: openssl x509 -req -extfile FILE, where FILE says subjectAltName=DNS:NAME"
        }
        (_, TlsProblem::UnknownKey) => {
            "give a key of RSA with 2048 to 4096 bits, of ECDSA with P-256 or P-384, or of Ed25519"
        }
        (_, TlsProblem::OtherKey) => "give the key with which the certificate was made",
        (_, TlsProblem::NoPair) => "give --tls-cert FILE and --tls-key FILE",
        (TlsFile::Authorities, _) => "give a file of certificates in PEM with --ca, or trust anyone with --insecure",
        (TlsFile::Key, _) => "give a private key in PEM (PKCS #8, PKCS #1 or SEC 1), without a password",
        (TlsFile::Certificates, _) => "give the certificates in PEM, the server's own first",
    }
}

fn corrected_address(address: &str, problem: AddressProblem) -> String {
    let cure = match problem {
        AddressProblem::Multicast | AddressProblem::Broadcast => "give the address of one host",
        AddressProblem::NoInterface => return format!("name the interface: {address}%eth0, or its number"),
        AddressProblem::Unspecified => "leave it out to let the kernel choose",
        AddressProblem::Twice => "name it once",
    };
    cure.to_owned()
}

/// What to do where the host refuses, if a flag helps.
fn cure(reason: &HostReason, words: Words) -> Option<String> {
    Some(match reason {
        HostReason::Listen(ListenReason::PortTaken { port }) => format!(
            "stop it (ss -ltnp sport = :{port}; ss -tan sport = :{port}), choose another --port, or keep the range off it: sysctl net.ipv4.ip_local_reserved_ports"
        ),
        HostReason::Listen(ListenReason::PrivilegedPort) => "choose a --port of 1024 or more".to_owned(),
        HostReason::Listen(ListenReason::NoDescriptor) => {
            "raise the limit (ulimit -n) or serve fewer --ports".to_owned()
        }
        HostReason::Hibernation(reason @ (HibernationReason::Capabilities(_) | HibernationReason::Forbidden)) => {
            format!("{}, or leave out --hibernate", reason.cure())
        }
        HostReason::Hibernation(HibernationReason::Other) => "leave out --hibernate".to_owned(),
        HostReason::Takeover(TakeoverReason::Kernel { .. }) => {
            "run it on Linux 6.8 or newer, with --hibernate, or leave out --takeover".to_owned()
        }
        HostReason::Filter(reason) => format!("{}, or choose --park poll", reason.cure()),
        HostReason::DescriptorLimit { possible: 0, whose, .. } => match whose {
            ShardsOf::Server => format!("{RAISE_DESCRIPTORS} or serve fewer --ports"),
            ShardsOf::Client => format!("{RAISE_DESCRIPTORS} or use fewer --cores"),
        },
        HostReason::DescriptorLimit { kept: 1.., .. } => format!("{RAISE_DESCRIPTORS} or lower --awake"),
        HostReason::LockedMemoryLimit { possible: 0, .. } => format!("{RAISE_LOCKED_MEMORY} or use fewer --cores"),
        HostReason::SourcePorts { sources_needed: Some(sources), .. } => {
            let more = if words.has_target { "more ports in --target" } else { "more --ports or --target-ip" };
            format!("give {sources} addresses with --source-ip, {more}, or widen net.ipv4.ip_local_port_range")
        }
        HostReason::Thread(ThreadReason::Limit { raise, .. }) => {
            format!("{}, end some of them, or use fewer --cores", raise.cure())
        }
        HostReason::Thread(ThreadReason::StackMemory { name, .. }) => {
            format!("raise it ({name} unlimited), or use fewer --cores")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::time::Duration;

    use super::*;
    use crate::error::{Errno, FilterReason, HostError, RaiseThreads, RingReason};

    /// Errors whose library's text and whose program's text differ by a flag, and the flag.
    fn flagged() -> Vec<(Error, &'static str)> {
        let allowed = vec![0, 1];
        let host = |reason: HostReason| Error::from(HostError::new("try", "it", Errno::EMFILE, reason));
        let address = |used| {
            let problem = AddressProblem::Multicast;
            Error::from(ConfigError::Address { used, address: "224.0.0.1".to_owned(), problem })
        };
        vec![
            (ConfigError::NoPort { first: 0, count: 1 }.into(), "--port 0"),
            (ConfigError::PortsBeyondLast { first: 65_500, count: 100, most: 36 }.into(), "--ports 36"),
            (ConfigError::CoreCount { asked: 3, allowed: allowed.clone() }.into(), "--cores 3"),
            (ConfigError::Core { asked: 3, allowed: allowed.clone() }.into(), "--core-list"),
            (ConfigError::EmptyCoreList { allowed }.into(), "--core-list"),
            (address(AddressUse::Target), "--target-ip"),
            (address(AddressUse::Source), "--source-ip"),
            (address(AddressUse::Listener), "--bind"),
            (address(AddressUse::Metrics), "--metrics"),
            (ConfigError::AddressFamilies.into(), "--target-ip"),
            (ConfigError::Connections { asked: 0, most: 9 }.into(), "--connections 0"),
            (ConfigError::MaxConnections { asked: 0, most: 9 }.into(), "--max-connections 0"),
            (ConfigError::FirstNumber { asked: 10, most: 9 }.into(), "--first-number 10"),
            (ConfigError::Concurrency.into(), "--concurrency 0"),
            (ConfigError::SteeredWithoutAudit.into(), "--steer"),
            (ConfigError::AuditSample { asked: 0 }.into(), "--audit-sample 0"),
            (ConfigError::StormWithoutEcho.into(), "--audit echo"),
            (ConfigError::NoVictim { connections: 9 }.into(), "--share"),
            (ConfigError::NoVictim { connections: 1 }.into(), "--connections"),
            (ConfigError::Fanout(FanoutProblem::Publications { asked: 0, most: 9 }).into(), "--rate"),
            (host(ListenReason::PortTaken { port: 80 }.into()), "--port"),
            (host(ListenReason::PrivilegedPort.into()), "--port"),
            (host(ListenReason::NoDescriptor.into()), "--ports"),
            (host(FilterReason::Privilege.into()), "--park poll"),
            (
                ConfigError::Hibernate { asked: Duration::ZERO, shortest: Duration::ZERO, longest: Duration::ZERO }
                    .into(),
                "--hibernate 0s",
            ),
            (ConfigError::Awake { asked: 0, most: 9 }.into(), "--awake 0"),
            (ConfigError::AwakeWithoutSleep { asked: 7 }.into(), "--hibernate"),
            (host(HibernationReason::Capabilities(Default::default()).into()), "--hibernate"),
            (host(HibernationReason::Other.into()), "--hibernate"),
            (host(TakeoverReason::Kernel { release: "6.1.0".to_owned() }.into()), "--takeover"),
            (
                host(
                    ThreadReason::Limit {
                        name: "pids.max".to_owned(),
                        most: 2_000,
                        now: 2_000,
                        raise: RaiseThreads::User,
                    }
                    .into(),
                ),
                "--cores",
            ),
            (host(ThreadReason::StackMemory { name: "ulimit -v", most: 9 }.into()), "--cores"),
        ]
    }

    #[test]
    fn the_program_names_flags_and_the_library_none() {
        for (error, flag) in flagged() {
            let library = error.to_string();
            assert!(!library.contains("--") && !library.contains('\n'), "{library}");
            let line = CommandError::from(error).to_string();
            assert!(line.contains(flag) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn an_error_of_the_host_has_what_was_tried_why_and_the_kernels_number() {
        let error = Error::from(HostError::new("register", "a table", Errno::EMFILE, RingReason::Table));
        assert_eq!(error.source().and_then(|source| source.downcast_ref::<Errno>()), Some(&Errno::EMFILE));
        let Error::Host(host) = &error else { panic!("{error:?}") };
        assert_eq!((host.operation(), host.subject(), host.errno()), ("register", "a table", Some(Errno::EMFILE)));
        assert_eq!(*host.reason(), HostReason::Ring(RingReason::Table));
        let line = CommandError::from(error.clone());
        assert_eq!((line.to_string(), line.exit_code()), (error.to_string(), 3));
    }

    #[test]
    fn only_what_a_later_version_wrote_is_for_a_later_version() {
        let line = |version: &str| {
            let problem = DocumentProblem::OtherVersion { version: version.to_owned(), why: "why".to_owned() };
            CommandError::from(Error::from(ConfigError::Document { name: "a".to_owned(), problem })).to_string()
        };
        for (version, is_later) in [("99.0.0", true), ("0.10.0-rc1", true), ("0.0.9", false), ("", false)] {
            let line = line(version);
            assert!(line.contains("read it with the version that wrote it"), "{line}");
            assert_eq!(line.contains("or a later one"), is_later, "{line}");
        }
    }

    #[test]
    fn exit_codes_tell_whose_fault_it_is() {
        let code = |error: Error| CommandError::from(error).exit_code();
        assert_eq!(code(PeerError::Counts { round: 1, proved: 2, counted: 3 }.into()), 1);
        assert_eq!(code(ConfigError::Concurrency.into()), 2);
        assert_eq!(code(Error::bug("a slot that is two")), 70);
    }
}
