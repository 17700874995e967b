//! What a client is to do, and whether this host and the workload allow it.

use std::time::Duration;

use super::course::{Audit, Course, Fanout, Storm};
use super::victims::VictimsCommand;
use crate::connections::CloseMode;
use crate::constants::DEFAULT_CONCURRENCY;
use crate::error::{ConfigError, Error, FanoutProblem, Lasting, Rated, Result, ShardsOf, Timeout};
use crate::host::{Cores, Host, Raised, SourcePorts, raise_limits};
use crate::memory_model::{End, Family};
use crate::plan::{self, ClientGoal, IdleBackend, Layers, Needs, Ports, Reserve, Routes};
use crate::protocol::{Protocol, publication};
#[cfg(feature = "tls")]
use crate::tls::handshake::{ClientTls, Connector};
use crate::tls_version::TlsVersion;

/// Connections that a client opens by default: as many as each of the article's clients.
pub const DEFAULT_CONNECTIONS: u64 = 340_000;

/// Number of the first connection at most. The tokens of `raw` have 48 bits for numbers, and a storm dials further
/// connections behind those asked for.
pub const HIGHEST_FIRST_NUMBER: u64 = 1 << 40;

/// Publications of a fan-out at most: each has some 100 bytes in every shard, and a row in the result.
const MOST_PUBLICATIONS: u32 = 100_000;

/// Bytes of a publication at most, so that with what a protocol puts around it there is room for it to wait.
const LONGEST_PUBLICATION: u64 = 60_000;

/// How long a connect and an answer may take by default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Connections to open, at what rate, what to say on them, and for how long. The default goes to 127.0.0.1, ports
/// 8888 to 8987, speaks `raw`, and holds for 10 seconds between two audits.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Workload {
    /// Where to, and from where.
    pub routes: Routes,
    /// The name of the server, if it was given by its name. The report shows it, and TLS asks for it (SNI). The addresses
    /// that connections go to are in `routes`.
    pub server_name: Option<String>,
    /// Connections to open, 1 to 4,294,967,295.
    pub connections: u64,
    /// Number of the first connection, at most 2^40. A connection's number decides its target, its port and what its
    /// protocol says, such as the key of a store. Give several clients of one server numbers that do not overlap.
    pub first_number: u64,
    /// Cores to use, one shard each.
    pub cores: Cores,
    /// Connects started per second, in all, more than 0; `None` is as fast as `concurrency` allows.
    pub rate: Option<f64>,
    /// Connects, and messages of an audit, in flight in all; at least 1.
    pub concurrency: u32,
    /// How long a connect may take, 1 ms to 366 days.
    pub connect_timeout: Duration,
    /// How long an answer may take, 1 ms to 366 days.
    pub reply_timeout: Duration,
    /// What to do with the connections.
    pub course: Course,
    /// How often each connection sends a message while held: every 1 ms to 366 days; `None` is never.
    pub interval: Option<Duration>,
    /// Each connection gives a sign of life every so often, 1 s to 366 days, whatever else happens: by the message that
    /// its protocol has for that, such as a Ping of WebSocket. The server's answer is awaited as that to any message.
    /// `None` gives none, or as many as the protocol has promised the server.
    pub keepalive: Option<Duration>,
    /// What is said, and which answer is a proof.
    pub protocol: Protocol,
    /// What the publishers of a fan-out say, and what their subscribers do not; every other course has none.
    pub publisher: Option<Protocol>,
    /// What proves a connection.
    pub audit: Audit,
    /// Connections that each audit asks, 1 or more, drawn at random, so that an audit of very many takes a bearable time;
    /// `None` asks every live one. Only with [`Audit::Answer`], and with the courses `Fixed` and `Steered`.
    pub audit_sample: Option<u64>,
    /// How to close in the end.
    pub close: CloseMode,
    /// Connections closed per second, in all, more than 0; `None` is as fast as it goes.
    pub close_rate: Option<f64>,
    /// The server's process, if it is on this host: its memory and processor time are reported.
    pub server_pid: Option<u32>,
    /// How to start the process of a killed storm's victims; no other course has one.
    pub victims: Option<VictimsCommand>,
    /// Puts connections to sleep that were silent for so long, 1 ms to 36 hours, so that they have no socket on this
    /// host until their next message, or one of the server's; `None` lets none sleep. See
    /// [`ServerBuilder::hibernate`](crate::ServerBuilder::hibernate), which says what it needs, costs and loses. A
    /// client also needs its source ports for itself: while it runs, let no other program dial the same targets.
    pub hibernate: Option<Duration>,
    /// Connections awake at once at most, 1 to 4,294,967,295, where others sleep, but one on each core at least; `None`
    /// plans it from the memory that is left.
    pub awake: Option<u64>,
    /// Speaks TLS, 1.3 or as low as [`ClientTls::lowest_version`] says; `None` speaks in the clear. Only with the feature
    /// `tls`.
    #[cfg(feature = "tls")]
    pub tls: Option<ClientTls>,
    /// Decides where the list of source ports begins; `None` is at random. Clients of one seed that have numbers apart
    /// from each other try different ports.
    pub(crate) source_port_seed: Option<u64>,
}

impl Default for Workload {
    fn default() -> Workload {
        Workload {
            routes: Routes {
                targets: vec![std::net::Ipv4Addr::LOCALHOST.into()],
                ports: Ports::ARTICLE,
                sources: Vec::new(),
            },
            server_name: None,
            connections: DEFAULT_CONNECTIONS,
            first_number: 0,
            cores: Cores::All,
            rate: None,
            concurrency: DEFAULT_CONCURRENCY,
            connect_timeout: TIMEOUT,
            reply_timeout: TIMEOUT,
            course: Course::Fixed(Duration::from_secs(10)),
            interval: None,
            keepalive: None,
            protocol: Protocol::default(),
            publisher: None,
            audit: Audit::Answer,
            audit_sample: None,
            close: CloseMode::Immediate,
            close_rate: None,
            server_pid: None,
            victims: None,
            hibernate: None,
            awake: None,
            #[cfg(feature = "tls")]
            tls: None,
            source_port_seed: None,
        }
    }
}

/// What was found and decided before the first connect.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Cores, one shard each.
    pub cores: Vec<usize>,
    /// Limits found and raised.
    pub raised: Raised,
    /// Connects in flight in all, as far as the descriptor limit allows.
    pub concurrency: u32,
    /// Source ports of each (source, target, port).
    pub source_ports: SourcePorts,
    /// Connections awake at once at most in this process, where others sleep; `None` where none sleeps.
    pub awake: Option<u64>,
    /// See `ClientGoal::keeps_descriptors`.
    pub(super) keeps_descriptors: bool,
    /// Begins TLS handshakes, with what was read from files; `None` in the clear.
    #[cfg(feature = "tls")]
    pub(super) connector: Option<Connector>,
}

impl Planned {
    /// What the shards of this process shall be.
    pub(super) fn goal(&self, workload: &Workload) -> ClientGoal {
        ClientGoal {
            shards: self.cores.len() as u64,
            concurrency: workload.concurrency,
            nofile: self.raised.files.1.soft,
            awake: self.awake,
            keeps_descriptors: self.keeps_descriptors,
        }
    }
}

impl Workload {
    /// How often each connection gives a sign of life. The sweep visits it once in each lap, so two visits are two laps
    /// apart at most: laps of half the time that the server allows keep what the protocol has promised.
    pub(super) fn keepalive_interval(&self) -> Option<Duration> {
        let promised = self.protocol.allowed_silence().map(|seconds| Duration::from_secs(seconds.into()) / 2);
        self.keepalive.or(promised)
    }

    /// Connections that another process opens, to be killed in the storm.
    pub(super) fn elsewhere(&self) -> u64 {
        self.course.storm().filter(|storm| storm.scenario.is_killed()).map_or(0, |storm| storm.victims)
    }

    /// How many connections each process of the run opens when the run opens this many in all.
    fn processes(&self, connections: u64) -> impl Iterator<Item = u64> {
        let part = u128::from(connections) * u128::from(self.elsewhere()) / u128::from(self.connections.max(1));
        let theirs = u64::try_from(part).unwrap_or(u64::MAX);
        [Some(connections.saturating_sub(theirs)), (self.elsewhere() > 0).then_some(theirs)].into_iter().flatten()
    }

    /// Connections that the shards of this process open.
    pub(super) fn own_connections(&self) -> u64 {
        self.connections.saturating_sub(self.elsewhere())
    }

    /// Where the connections go, in words.
    pub fn target(&self) -> String {
        let addresses: Vec<String> = self.routes.targets.iter().map(ToString::to_string).collect();
        let addresses = addresses.join(",");
        let host = self.server_name.as_ref().map_or(addresses.clone(), |name| format!("{name} ({addresses})"));
        format!("{host} ports {}-{}", self.routes.ports.first(), self.routes.ports.last())
    }

    /// The name of what proves a connection: how much the protocol's answers prove, or what is looked at instead.
    pub fn proof(&self) -> &'static str {
        match self.audit {
            Audit::Answer => self.protocol.strength().name(),
            Audit::State => "state",
            Audit::Off => "none",
        }
    }

    /// What the client will need of this host. Fails if the workload cannot be, or the host cannot give it.
    pub(crate) fn plan(&self, host: &Host) -> Result<Planned> {
        self.check()?;
        let cores = host.choose_cores(&self.cores)?;
        let raised = raise_limits()?;
        let source_ports = host.source_ports_to(&self.routes).unwrap_or(SourcePorts::DEFAULT);
        // If all of the host's source ports are served, each connect fails for want of one, and the run tells why.
        if source_ports.count() > 0 || host.ephemeral_ports() == 0 {
            self.routes.fit(self.connections, source_ports.count())?;
        }
        let nofile = raised.files.1.soft;
        let shards = cores.len() as u64;
        // The limit on descriptors holds for each process, that on locked memory for all processes of the user.
        let room = raised.descriptors();
        let (awake, keeps_descriptors) = (self.awake(host)?, host.keeps_descriptors());
        let mut goal = ClientGoal { shards, concurrency: self.concurrency, nofile, awake, keeps_descriptors };
        if self.awake.is_none() {
            let needs = |awake| ClientGoal { awake: Some(awake), ..goal }.needs(self.own_connections());
            goal.awake = awake.map(|planned| plan::awake_within(planned, keeps_descriptors, room, needs));
        }
        let needs = |connections: u64| goal.needs(connections);
        let fit = |connections: u64| self.processes(connections).all(|n| needs(n).fit(room));
        let together = |connections: u64| Needs::together(self.processes(connections).map(needs));
        if let Some(refused) = self.processes(self.connections).find(|n| !needs(*n).fit(room)) {
            let lockable = host.lockable(raised.memory.1.soft);
            let possible = plan::largest(self.connections, |n| fit(n) && together(n).locked_bytes() <= lockable);
            return Err(needs(refused).refusal(refused, possible, (nofile, raised.open), ShardsOf::Client));
        }
        host.check_locked_memory(raised.memory.1.soft, self.connections, together)?;
        let spare = room - needs(self.own_connections()).descriptors() + shards;
        let concurrency = u64::from(self.concurrency).min(spare) as u32;
        Ok(Planned {
            cores,
            raised,
            concurrency,
            source_ports,
            awake: goal.awake,
            keeps_descriptors,
            #[cfg(feature = "tls")]
            connector: self.tls.as_ref().map(Connector::new).transpose()?,
        })
    }

    /// How many connections may be awake at once; `None` where none sleeps. Fails where none may sleep here.
    fn awake(&self, host: &Host) -> Result<Option<u64>> {
        if self.hibernate.is_none() {
            return Ok(None);
        }
        host.check_hibernation()?;
        let family = Family::of(&self.routes.targets);
        let ends = [(End::Client, IdleBackend::Poll)];
        let layers = Layers { tls: self.tls_version(), ..Layers::default() };
        let planned = || host.awake(self.connections, &ends, family, layers, Reserve::Auto);
        Ok(Some(self.awake.unwrap_or_else(planned)))
    }

    /// Whether the connections speak TLS.
    pub(super) fn has_tls(&self) -> bool {
        self.tls_version().is_some()
    }

    /// The lowest version of TLS that they speak; `None` without TLS.
    fn tls_version(&self) -> Option<TlsVersion> {
        #[cfg(feature = "tls")]
        return self.tls.as_ref().map(|tls| tls.lowest_version);
        #[cfg(not(feature = "tls"))]
        None
    }

    fn check(&self) -> Result<()> {
        plan::check_connections(self.connections)?;
        if self.first_number > HIGHEST_FIRST_NUMBER {
            return Err(ConfigError::FirstNumber { asked: self.first_number, most: HIGHEST_FIRST_NUMBER }.into());
        }
        if self.concurrency == 0 {
            return Err(ConfigError::Concurrency.into());
        }
        if self.course == Course::Steered && self.audit == Audit::Off {
            return Err(ConfigError::SteeredWithoutAudit.into());
        }
        self.check_sample()?;
        let allowed = self.protocol.allowed_silence().map(|seconds| Duration::from_secs(seconds.into()));
        if let (Some(asked), Some(allowed)) = (self.keepalive, allowed)
            && asked > allowed
        {
            return Err(ConfigError::RareKeepalive { asked, allowed }.into());
        }
        // A second step follows an answer.
        let must_hear = self.protocol.must_hear() || self.protocol.steps() > 1;
        if self.audit != Audit::Answer && must_hear {
            return Err(ConfigError::HandshakeWithoutAnswers { protocol: self.protocol.name() }.into());
        }
        #[cfg(feature = "tls")]
        self.tls.as_ref().map_or(Ok(()), |tls| Timeout::Handshake.check(tls.handshake_timeout))?;
        Timeout::Connect.check(self.connect_timeout)?;
        Timeout::Reply.check(self.reply_timeout)?;
        self.check_schedules()?;
        plan::check_hibernation(self.hibernate, self.awake)?;
        self.check_storm()?;
        self.check_fanout()?;
        self.routes.check()
    }

    /// Refuses a sample where nothing is asked, or where every connection must be.
    fn check_sample(&self) -> Result<()> {
        let Some(asked) = self.audit_sample else { return Ok(()) };
        let is_asked = self.audit == Audit::Answer && matches!(self.course, Course::Fixed(_) | Course::Steered);
        if asked == 0 || !is_asked {
            return Err(ConfigError::AuditSample { asked }.into());
        }
        Ok(())
    }

    /// Refuses rates at which nothing happens, and times that no clock reaches.
    fn check_schedules(&self) -> Result<()> {
        Rated::Connects.check(self.rate)?;
        Rated::Closes.check(self.close_rate)?;
        self.interval.map_or(Ok(()), |interval| Lasting::Interval.check(interval))?;
        self.keepalive.map_or(Ok(()), |interval| Lasting::KeepaliveInterval.check(interval))?;
        match self.course {
            Course::Fixed(hold) => Lasting::Hold.check(hold),
            Course::Steered => Ok(()),
            Course::Storm(Storm { scenario, calm, after, .. }) => {
                Lasting::Calm.check(calm)?;
                Lasting::After.check(after)?;
                scenario.lasts().map_or(Ok(()), |time| Lasting::Storm.check(time))
            }
            Course::Fanout(fanout) => Lasting::Publications.check(fanout.period),
        }
    }

    fn check_fanout(&self) -> Result<()> {
        let Some(fanout) = self.course.fanout() else { return Ok(()) };
        let Fanout { publishers, publications, payload, wait, .. } = *fanout;
        Timeout::Receipt.check(wait)?;
        let (least, most) = (publication::LENGTH as u64, LONGEST_PUBLICATION);
        let problem = if self.audit != Audit::Answer {
            FanoutProblem::NoAnswers
        } else if publishers == 0 || publishers >= self.connections {
            FanoutProblem::Publishers { asked: publishers, connections: self.connections }
        } else if publications == 0 || publications > MOST_PUBLICATIONS {
            FanoutProblem::Publications { asked: publications.into(), most: MOST_PUBLICATIONS.into() }
        } else if !(least..=most).contains(&payload.into()) {
            FanoutProblem::Payload { asked: payload.into(), least, most }
        } else if !self.publisher.as_ref().is_some_and(Protocol::publishes) {
            FanoutProblem::Protocol { protocol: self.protocol.name() }
        } else if self.hibernate.is_some() {
            FanoutProblem::Sleep
        } else {
            return Ok(());
        };
        Err(ConfigError::Fanout(problem).into())
    }

    fn check_storm(&self) -> Result<()> {
        let Some(storm) = self.course.storm() else { return Ok(()) };
        if self.audit != Audit::Answer {
            return Err(ConfigError::StormWithoutEcho.into());
        }
        if storm.victims >= self.connections {
            let (victims, connections) = (storm.victims, self.connections);
            return Err(ConfigError::NoSurvivor { victims, connections }.into());
        }
        if storm.scenario.has_victims() && storm.victims == 0 {
            return Err(ConfigError::NoVictim { connections: self.connections }.into());
        }
        if storm.scenario.is_killed() != self.victims.is_some() {
            return Err(Error::bug("a storm that kills a process and no command for that, or the other way round"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::course::Scenario;
    use super::*;
    use crate::protocol::Settings;

    #[test]
    fn rates_and_times_without_sense_are_refused() {
        let storm = |scenario, calm, after| Workload {
            course: Course::Storm(Storm { scenario, victims: 1, calm, after }),
            ..Workload::default()
        };
        let (second, ever) = (Duration::from_secs(1), Duration::MAX);
        let churns = |time| storm(Scenario::Churn(time), second, second);
        let publishes = |period| {
            let (publishers, publications, wait, payload) = (1, 1, second, 64);
            let course = Course::Fanout(Fanout { publishers, publications, period, wait, payload });
            Workload { course, ..Workload::default() }
        };
        let with = |change: fn(&mut Workload)| {
            let mut workload = Workload::default();
            change(&mut workload);
            workload
        };
        for (at, allowed) in [churns(second), publishes(second), Workload::default()].into_iter().enumerate() {
            assert_eq!(allowed.check_schedules(), Ok(()), "{at}");
        }
        let refused = [
            churns(ever),
            storm(Scenario::Disconnect, ever, second),
            storm(Scenario::Disconnect, second, ever),
            publishes(Duration::ZERO),
            publishes(ever),
            with(|workload| workload.course = Course::Fixed(Duration::MAX)),
            with(|workload| workload.interval = Some(Duration::ZERO)),
            with(|workload| workload.interval = Some(Duration::MAX)),
            with(|workload| workload.keepalive = Some(Duration::from_millis(999))),
            with(|workload| workload.keepalive = Some(Duration::MAX)),
            with(|workload| workload.rate = Some(0.0)),
            with(|workload| workload.rate = Some(f64::NAN)),
            with(|workload| workload.close_rate = Some(-1.0)),
            with(|workload| workload.close_rate = Some(f64::INFINITY)),
        ];
        for (at, workload) in refused.into_iter().enumerate() {
            let error = workload.check_schedules().unwrap_err();
            let is_expected =
                |error: &ConfigError| matches!(error, ConfigError::Lasting { .. } | ConfigError::Rate { .. });
            assert!(matches!(&error, Error::Config(config) if is_expected(config)), "{at}: {error}");
        }
    }

    #[test]
    fn a_greeting_needs_audits_by_answers() {
        let text = |text: &str| Some(text.to_owned());
        let settings = Settings { send: text("a"), expect: text("b"), greeting: text("220*"), ..Settings::default() };
        let greeted = Protocol::new("send-expect", &settings).unwrap();
        for (audit, allowed) in [(Audit::Answer, true), (Audit::State, false), (Audit::Off, false)] {
            let workload = Workload { protocol: greeted.clone(), audit, ..Workload::default() };
            assert_eq!(workload.check().is_ok(), allowed, "{audit:?}");
            assert!(Workload { audit, ..Workload::default() }.check().is_ok(), "{audit:?}");
        }
    }
}
