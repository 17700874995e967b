//! One table of every wall: a host limit that stops connections. For each: what the host has, what
//! a goal needs, the knob that moves it, and the evidence that a run met it. The doctor judges
//! hosts by it, tune turns its knobs, failures are explained from it, and the files in `tuning/`
//! are written from it.

pub mod boot;
mod evidence;
mod files;
mod machine;
mod memory;
mod ports;
mod tcp;

use serde::Serialize;

use crate::error::Diagnostic;
use crate::host::Host;
use crate::plan::{Goal, SLOTS_PER_RING};
use crate::sys::Resource;

pub use evidence::{Evidence, EvidenceRecorder, Explained, Gauges, explain};

/// The part of all connections that is expected to open, or close, or have data queued, at the
/// same moment: one in so many. A storm of all at once needs queues for all.
pub const AT_ONCE: u64 = 8;

/// A host limit that stops connections.
pub struct Wall {
    /// What it is called, everywhere.
    pub name: &'static str,
    /// What a program and its user see who meet it.
    pub symptom: &'static str,
    /// Where it can be read that it was met.
    pub evidence: &'static str,
    /// What moves it, in general; a finding has the exact command.
    pub cure: &'static str,
    judge: fn(&Host, &Goal) -> Finding,
    blame: fn(&Evidence) -> Option<Diagnostic>,
}

/// Every wall, in the order in which the article's reader meets them.
pub const WALLS: [Wall; 22] = [
    files::DESCRIPTORS,
    files::OPEN_FILES,
    files::IO_URING,
    files::LOCKED_MEMORY,
    machine::THREADS,
    machine::LOOPBACK,
    ports::SOURCE_PORTS,
    ports::SERVED_PORTS,
    ports::TIME_WAIT,
    tcp::CONNTRACK,
    tcp::TCP_MEMORY,
    tcp::SOCKET_BUFFERS,
    tcp::ORPHANS,
    memory::MEMORY,
    memory::CGROUP_MEMORY,
    tcp::ACCEPT_QUEUE,
    tcp::SYN_QUEUE,
    machine::PACKET_BACKLOG,
    tcp::LOOKUP,
    machine::CORES,
    machine::NIC_QUEUES,
    machine::NEIGHBOURS,
];

impl Wall {
    /// Holds the host against the goal. Reads, and writes nothing.
    pub fn judge(&self, host: &Host, goal: &Goal) -> Finding {
        (self.judge)(host, goal)
    }

    /// What of the evidence shows that this wall was met, and what to do; `None` if nothing does.
    pub fn blame(&self, evidence: &Evidence) -> Option<Diagnostic> {
        (self.blame)(evidence)
    }
}

/// How a wall stands to a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The goal fits.
    Ok,
    /// It fits, with little room or at a cost that the finding names.
    Tight,
    /// It does not fit.
    Blocks,
    /// This process may not read what decides.
    Unknown,
}

/// What a host has and a goal needs at one wall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What the host has.
    pub have: String,
    /// What the goal needs.
    pub need: String,
    /// How they compare.
    pub verdict: Verdict,
    /// Connections that fit; `None` where the wall slows or endangers rather than counts.
    pub holds: Option<u64>,
    /// What would move it.
    pub fixes: Vec<Fix>,
}

/// What moves a wall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// A sysctl to set.
    Sysctl(Setting),
    /// Anything else.
    Command {
        /// What to type, or to arrange.
        command: String,
        /// Whether this process could do it itself.
        may: bool,
    },
}

/// Hard limits of a process to raise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// File descriptors.
    pub files: Option<u64>,
    /// Locked memory in bytes.
    pub memory: Option<u64>,
}

impl Limits {
    /// The lines of a limits.d file; PAM reads it at login, systemd units do not.
    pub fn lines(&self) -> String {
        let mut lines = String::new();
        for (item, value) in [("nofile", self.files), ("memlock", self.memory.map(|bytes| bytes.div_ceil(1024)))] {
            for who in ["*", "root"].iter().filter(|_| value.is_some()) {
                lines += &format!("{who} - {item} {}\n", value.unwrap_or_default());
            }
        }
        lines
    }
}

/// A sysctl, what it is and what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its name, such as `net.core.somaxconn`.
    pub name: &'static str,
    /// Its value.
    pub now: String,
    /// The value that fits the goal; never a less generous one.
    pub then: String,
    /// Why.
    pub reason: String,
}

impl Finding {
    /// A wall that does not stand in the way and sets no number.
    fn fine(have: impl Into<String>, need: impl Into<String>) -> Finding {
        Finding { have: have.into(), need: need.into(), verdict: Verdict::Ok, holds: None, fixes: Vec::new() }
    }

    /// A wall that lets `holds` connections through, of which the goal wants `wanted`. With less
    /// than a tenth to spare it is tight.
    fn counted(have: impl Into<String>, need: impl Into<String>, holds: u64, wanted: u64) -> Finding {
        let verdict = match wanted {
            wanted if wanted > holds => Verdict::Blocks,
            wanted if wanted > holds - holds / 10 => Verdict::Tight,
            _ => Verdict::Ok,
        };
        Finding { verdict, holds: Some(holds), ..Finding::fine(have, need) }
    }

    /// A wall that cannot be read from here.
    fn unknown(what: &str, need: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Unknown, ..Finding::fine(format!("not readable: {what}"), need) }
    }

    fn tight_if(mut self, tight: bool) -> Finding {
        if tight && self.verdict == Verdict::Ok {
            self.verdict = Verdict::Tight;
        }
        self
    }

    fn blocking_if(mut self, blocks: bool) -> Finding {
        if blocks && self.verdict != Verdict::Unknown {
            (self.verdict, self.holds) = (Verdict::Blocks, Some(0));
        }
        self
    }

    /// Adds a setting, if there is one to add.
    fn set(mut self, setting: Option<Setting>) -> Finding {
        self.fixes.extend(setting.map(Fix::Sysctl));
        self
    }

    /// Adds something else to do where the goal does not simply fit.
    fn advise(mut self, may: bool, command: impl Into<String>) -> Finding {
        if matches!(self.verdict, Verdict::Tight | Verdict::Blocks) {
            self.fixes.push(Fix::Command { command: command.into(), may });
        }
        self
    }
}

impl Fix {
    /// What to type.
    pub fn command(&self) -> String {
        match self {
            Fix::Sysctl(setting) => setting.command(),
            Fix::Command { command, .. } => command.clone(),
        }
    }

    /// Whether this process could do it itself.
    pub fn may(&self, host: &Host) -> bool {
        match self {
            Fix::Sysctl(setting) => host.may_write_sysctl(setting.name),
            Fix::Command { may, .. } => *may,
        }
    }
}

impl Setting {
    /// What to type to set it.
    pub fn command(&self) -> String {
        let quote = if self.then.contains([' ', '\t']) { "\"" } else { "" };
        format!("sysctl -w {}={quote}{}{quote}", self.name, self.then.replace('\t', " "))
    }

    /// Raises each number of a sysctl to at least the one given; `None` if none is lower, or the
    /// sysctl cannot be read.
    fn raise(host: &Host, name: &'static str, least: &[u64], reason: impl Into<String>) -> Option<Setting> {
        let now = host.sysctl_numbers(name)?;
        let mut then = now.clone();
        then.iter_mut().zip(least).for_each(|(value, least)| *value = (*value).max(*least));
        let text = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join("\t");
        (then != now).then(|| Setting { name, now: text(&now), then: text(&then), reason: reason.into() })
    }
}

/// All settings that would move a wall on the way to the goal, each once.
pub fn settings(host: &Host, goal: &Goal) -> Vec<Setting> {
    let mut all: Vec<Setting> = Vec::new();
    for fix in WALLS.iter().flat_map(|wall| wall.judge(host, goal).fixes) {
        if let Fix::Sysctl(setting) = fix
            && all.iter().all(|known| known.name != setting.name)
        {
            all.push(setting);
        }
    }
    all
}

/// The hard limits of a process that the goal wants higher, for a file in /etc; `None` where they
/// suffice or cannot be read.
pub fn limits(goal: &Goal) -> Option<Limits> {
    let wanted = limits_wanted(goal);
    let higher = |resource: Resource, wanted: Option<u64>| {
        let limit = resource.read().ok()?;
        wanted.filter(|wanted| limit.hard < *wanted)
    };
    let limits =
        Limits { files: higher(Resource::Files, wanted.files), memory: higher(Resource::LockedMemory, wanted.memory) };
    (limits != Limits::default()).then_some(limits)
}

/// The hard limits with which a goal takes the least memory: fewer slots a ring make more rings.
pub fn limits_wanted(goal: &Goal) -> Limits {
    let slots = u64::from(SLOTS_PER_RING);
    let files = slots + goal.needs(goal.connections, slots).descriptors();
    let memory = goal.locked_bytes(goal.connections, files);
    Limits { files: Some(files.next_power_of_two()), memory: Some(memory) }
}

/// A judge for walls that stand at one end only: this host is the other.
fn not_here() -> Finding {
    Finding::fine("-", "nothing in this role")
}

/// A wall that leaves no trace of its own.
fn never(_: &Evidence) -> Option<Diagnostic> {
    None
}
