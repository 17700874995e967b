//! The evidence of a run: what its host counted before, during and after it, and which walls that points to.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::WALLS;
use crate::addresses::Address;
use crate::error::{Diagnostic, Errno};
use crate::failure::{Cause, Causes};
use crate::format::count;
use crate::host::{Host, Loopback, NetCounters, Sockets, moved};
use crate::plan::Routes;

/// What a host shows of its limits at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gauges {
    /// Entries of connection tracking, and how many it can have.
    pub conntrack: Option<(u64, u64)>,
    /// TCP's sockets.
    pub sockets: Option<Sockets>,
    /// Pages that TCP may queue (the third number of `net.ipv4.tcp_mem`).
    pub tcp_pages_allowed: Option<u64>,
    /// `net.ipv4.tcp_max_orphans`.
    pub orphans_allowed: Option<u64>,
    /// `net.ipv4.tcp_syncookies`; 0 is off.
    pub syn_cookies: Option<u64>,
    /// Source ports for each route.
    pub source_ports: Option<u64>,
}

impl Gauges {
    fn read(host: &Host) -> Gauges {
        Gauges {
            conntrack: host.conntrack_fill(),
            sockets: host.sockets(),
            tcp_pages_allowed: host.sysctl_numbers("net.ipv4.tcp_mem").and_then(|numbers| numbers.get(2).copied()),
            orphans_allowed: host.sysctl("net.ipv4.tcp_max_orphans"),
            syn_cookies: host.sysctl("net.ipv4.tcp_syncookies"),
            source_ports: host.source_ports().map(|ports| ports.count()),
        }
    }

    /// The higher value of each gauge.
    fn highest(self, other: Gauges) -> Gauges {
        let sockets = |a: Sockets, b: Sockets| Sockets {
            in_use: a.in_use.max(b.in_use),
            orphans: a.orphans.max(b.orphans),
            time_wait: a.time_wait.max(b.time_wait),
            pages: a.pages.max(b.pages),
        };
        Gauges {
            conntrack: self.conntrack.max(other.conntrack),
            sockets: match (self.sockets, other.sockets) {
                (Some(a), Some(b)) => Some(sockets(a, b)),
                (a, b) => a.or(b),
            },
            tcp_pages_allowed: other.tcp_pages_allowed.or(self.tcp_pages_allowed),
            orphans_allowed: other.orphans_allowed.or(self.orphans_allowed),
            syn_cookies: other.syn_cookies.or(self.syn_cookies),
            source_ports: other.source_ports.or(self.source_ports),
        }
    }
}

/// Sockets in TIME_WAIT, at the moment when there were most of them while connections were dialed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// All sockets in TIME_WAIT.
    pub all: u64,
    /// Those that may have been there before the run began.
    pub earlier: u64,
}

impl Waiting {
    /// What `all` sockets are, where `before` were there when the run began, and `later` is the time since then.
    fn seen(all: u64, before: u64, later: Duration) -> Waiting {
        Waiting { all, earlier: if later < TIME_WAIT { before.min(all) } else { 0 } }
    }
}

/// Records the evidence of a run: how far counters move from its beginning, and gauges at their highest.
#[derive(Debug, Clone)]
pub struct EvidenceRecorder {
    host: Host,
    before: NetCounters,
    peak: Gauges,
    began: Instant,
    waiting_before: u64,
    waiting: Waiting,
    /// No connection is dialed any more. A socket that enters TIME_WAIT from now on took no source port from the run.
    dialed: bool,
    looked: Instant,
    /// An address of this host itself to which the run connects.
    over_loopback: Option<Address>,
    /// Source ports that the run may use for each of its routes, if it dials and they are known.
    usable_ports: Option<u64>,
    /// What the kernel had dropped at the run's own listeners before.
    dropped_before: u64,
}

/// How often the gauges are read at most, and how often where no connection comes or goes: a look takes some 80 reads, more
/// time than all else that an idle server does.
const LOOK: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(10);

/// How long a socket is in TIME_WAIT (`TCP_TIMEWAIT_LEN` of include/net/tcp.h).
const TIME_WAIT: Duration = Duration::from_secs(60);

impl EvidenceRecorder {
    /// Begins to record.
    pub fn begin(host: &Host) -> EvidenceRecorder {
        let (before, peak) = (host.net_counters(), Gauges::read(host));
        let waiting_before = peak.sockets.unwrap_or_default().time_wait;
        let (began, waiting) = (Instant::now(), Waiting::seen(waiting_before, waiting_before, Duration::ZERO));
        EvidenceRecorder {
            host: host.clone(),
            before,
            peak,
            began,
            waiting_before,
            waiting,
            dialed: false,
            looked: began,
            over_loopback: None,
            usable_ports: None,
            dropped_before: 0,
        }
    }

    /// Begins to record a run that dials.
    pub fn begin_to(host: &Host, routes: &Routes) -> EvidenceRecorder {
        EvidenceRecorder {
            over_loopback: routes.targets.iter().copied().find(|target| host.goes_over_loopback(*target)),
            usable_ports: host.source_ports_to(routes).map(|ports| ports.count()),
            ..EvidenceRecorder::begin(host)
        }
    }

    /// Whether it is time for a look at the gauges: a second after the last one, or ten while no connection comes or goes.
    pub fn is_due(&self, is_quiet: bool) -> bool {
        self.looked.elapsed() >= if is_quiet { SELDOM } else { LOOK }
    }

    /// Looks at the gauges if it is time for it.
    pub fn look(&mut self, is_quiet: bool) {
        if self.is_due(is_quiet) {
            self.look_now();
        }
    }

    fn look_now(&mut self) {
        self.looked = Instant::now();
        let gauges = Gauges::read(&self.host);
        let all = gauges.sockets.unwrap_or_default().time_wait;
        if !self.dialed && all > self.waiting.all {
            self.waiting = Waiting::seen(all, self.waiting_before, self.looked.duration_since(self.began));
        }
        self.peak = self.peak.highest(gauges);
    }

    /// The last connection was dialed: looks a last time at the sockets that take source ports.
    pub fn dialed(&mut self) {
        self.look_now();
        self.dialed = true;
    }

    /// The run listens, and the kernel has dropped so much at its listeners before: they may come from an earlier process.
    pub fn listens(&mut self, dropped: Option<u64>) {
        self.dropped_before = dropped.unwrap_or(0);
    }

    /// The evidence up to now of a run that listens. The kernel has dropped so much at its listeners, if that is known.
    pub fn evidence_of_listeners(&mut self, dropped: Option<u64>) -> Evidence {
        let dropped = dropped.map(|dropped| dropped.saturating_sub(self.dropped_before));
        Evidence { dropped, ..self.evidence(Causes::new()) }
    }

    /// The evidence up to now.
    pub fn evidence(&mut self, causes: Causes) -> Evidence {
        self.look_now();
        let loopback = self.over_loopback.and_then(|to| Some((to, self.host.loopback_to(to)?)));
        let moved = moved(&self.before, &self.host.net_counters());
        let (peak, waiting, usable_ports) = (self.peak, self.waiting, self.usable_ports);
        Evidence { moved, peak, waiting, causes, loopback, usable_ports, dropped: None }
    }
}

/// What is known of a run and its host.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// How far the host's counters moved.
    pub moved: NetCounters,
    /// The gauges at their highest.
    pub peak: Gauges,
    /// Sockets in TIME_WAIT while connections were dialed.
    pub waiting: Waiting,
    /// Why connections failed; a server has none.
    pub causes: Causes,
    /// An address of this host that the run connects to, and whether loopback reaches it; `None` if the run connects
    /// to none of this host's addresses, or if that is unknown.
    pub loopback: Option<(Address, Loopback)>,
    /// Source ports that the run may use for each of its routes; `None` if it does not dial, or if that is unknown.
    pub usable_ports: Option<u64>,
    /// How much the kernel dropped at the run's own listeners; `None` if it has none, or if that is unknown.
    pub dropped: Option<u64>,
}

/// A wall that a run met, from evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The wall's name in the table, or `none of this host`.
    pub wall: String,
    /// What was seen.
    pub saw: String,
    /// What it means.
    pub means: String,
    /// What to do.
    pub cure: String,
}

impl Evidence {
    /// How far a counter moved.
    pub fn moved(&self, name: &str) -> u64 {
        self.moved.get(name).copied().unwrap_or(0)
    }

    /// How much of a number that the kernel dropped at the listeners of the whole network namespace may have been dropped
    /// at those of the run.
    pub fn at_own_listeners(&self, dropped: u64) -> u64 {
        self.dropped.map_or(dropped, |own| own.min(dropped))
    }

    /// How many connections failed of a cause, if any did.
    pub fn failures(&self, cause: Cause) -> Option<u64> {
        self.causes.get(&cause).copied().filter(|number| *number > 0)
    }

    /// Connects that got no answer.
    pub fn timeouts(&self) -> u64 {
        let of = |cause| self.failures(cause).unwrap_or(0);
        of(Cause::ConnectTimeout) + of(Cause::Errno(Errno::ETIMEDOUT))
    }

    /// Whether any connection failed.
    pub fn any_failure(&self) -> bool {
        self.causes.values().any(|number| *number > 0)
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}; {}", self.wall, self.saw, self.means, self.cure)
    }
}

/// The walls that a run met. Connects that no host answered are explained as such where no wall of this host is to
/// blame.
pub fn explain(evidence: &Evidence) -> Vec<Explained> {
    let met = |name: &str, why: Diagnostic| Explained {
        wall: name.to_owned(),
        saw: why.saw,
        means: why.means,
        cure: why.cure,
    };
    let mut walls: Vec<Explained> =
        WALLS.iter().filter_map(|wall| wall.blame(evidence).map(|why| met(wall.name, why))).collect();
    if walls.is_empty() && evidence.timeouts() > 0 {
        walls.push(met(
            "none of this host",
            Diagnostic {
                saw: format!("{} connects got no answer", count(evidence.timeouts())),
                means: "nothing that this host counts dropped them: the server's host, or a firewall, is silent"
                    .to_owned(),
                cure: "run c1m doctor on the server's host, and look for rules that drop (nft list ruleset) on both"
                    .to_owned(),
            },
        ));
    }
    walls
}
