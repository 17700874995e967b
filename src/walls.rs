//! One table of all walls. A wall is a limit of the host that stops connections. The table has for each wall what the
//! host has, what a goal needs, the setting that raises the limit, and the evidence that a run met it. The doctor judges
//! hosts by the table, tune changes its settings, failures are explained from it, and the files in `tuning/` are written
//! from it.
//!
//! The texts are for people who use the program, and name its flags. Results carry them as data; no error of the library
//! does.

pub mod boot;
mod evidence;
mod files;
mod machine;
mod memory;
mod ports;
mod sleep;
mod tcp;

use serde::{Deserialize, Serialize};

use crate::error::Diagnostic;
use crate::host::Host;
use crate::plan::{Goal, SLOTS_PER_RING};
use crate::sys::Resource;

pub use evidence::{Evidence, EvidenceRecorder, Explained, Gauges, Waiting, explain};
pub use machine::{CORES, out_of_reach};
pub use sleep::SLEEP;

/// One connection in this many is expected to open, to close or to have data queued at the same moment. A storm of all
/// connections at once would need queues for all of them.
pub const AT_ONCE: u64 = 8;

/// A host limit that stops connections.
pub struct Wall {
    /// The wall's name in every text.
    pub name: &'static str,
    /// What a program that meets the wall sees, and what its user sees.
    pub symptom: &'static str,
    /// Where to read that the wall was met.
    pub evidence: &'static str,
    /// What raises the limit, in general; a finding has the exact command.
    pub cure: &'static str,
    judge: fn(&Host, &Goal) -> Finding,
    blame: fn(&Evidence) -> Option<Diagnostic>,
}

/// All walls, in the order in which a reader of the article meets them.
pub const WALLS: [Wall; 23] = [
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
    memory::ADDRESS_SPACE,
];

impl Wall {
    /// Judges whether the host fits the goal. Reads, and writes nothing.
    pub fn judge(&self, host: &Host, goal: &Goal) -> Finding {
        (self.judge)(host, goal)
    }

    /// What the evidence shows of this wall, and what to do; `None` if it does not show that the wall was met.
    pub fn blame(&self, evidence: &Evidence) -> Option<Diagnostic> {
        (self.blame)(evidence)
    }
}

/// Whether a goal fits at one wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The goal fits.
    Ok,
    /// The goal fits, with little room or at a cost that the finding names.
    Tight,
    /// The goal does not fit.
    Blocks,
    /// Unknown: this process may not read the limit.
    Unknown,
}

/// What a host has and a goal needs at one wall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What the host has.
    pub have: String,
    /// What the goal needs.
    pub need: String,
    /// Whether the goal fits.
    pub verdict: Verdict,
    /// Connections that fit; `None` where the wall slows or endangers connections and does not count them.
    pub holds: Option<u64>,
    /// What would raise the limit.
    pub fixes: Vec<Fix>,
}

/// What raises a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// A sysctl to set.
    Sysctl(Setting),
    /// Something else than a sysctl.
    Command {
        /// What to type, or to arrange.
        command: String,
        /// Whether this process could do it itself.
        may: bool,
    },
}

/// Hard limits of a process to raise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// File descriptors.
    pub files: Option<u64>,
    /// Locked memory in bytes.
    pub memory: Option<u64>,
}

impl Limits {
    /// Each with its name in a limits.d file, and in the unit of that file: descriptors, and KiB of memory.
    pub fn items(&self) -> [(&'static str, Option<u64>); 2] {
        [("nofile", self.files), ("memlock", self.memory.map(|bytes| bytes.div_ceil(1024)))]
    }

    /// The higher one of each.
    pub fn higher(self, other: Limits) -> Limits {
        Limits { files: self.files.max(other.files), memory: self.memory.max(other.memory) }
    }

    /// The lines of a limits.d file; PAM reads it at login, systemd units do not.
    pub fn lines(&self) -> String {
        let set = self.items().into_iter().filter_map(|(item, value)| Some((item, value?)));
        set.map(|(item, value)| format!("* - {item} {value}\nroot - {item} {value}\n")).collect()
    }
}

/// A sysctl, what it is and what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its name, such as `net.core.somaxconn`.
    pub name: &'static str,
    /// Its value.
    pub now: String,
    /// The value that fits the goal; never a lower one than the sysctl has.
    pub then: String,
    /// Why.
    pub reason: String,
}

impl Finding {
    /// The finding of a wall that is not in the way and does not count connections.
    fn fine(have: impl Into<String>, need: impl Into<String>) -> Finding {
        Finding { have: have.into(), need: need.into(), verdict: Verdict::Ok, holds: None, fixes: Vec::new() }
    }

    /// The finding of a wall that allows `holds` connections, where the goal wants `wanted`.
    fn counted(have: impl Into<String>, need: impl Into<String>, holds: u64, wanted: u64) -> Finding {
        let verdict = match wanted {
            wanted if wanted > holds => Verdict::Blocks,
            wanted if with_room(wanted) > holds => Verdict::Tight,
            _ => Verdict::Ok,
        };
        Finding { verdict, holds: Some(holds), ..Finding::fine(have, need) }
    }

    /// The finding of a wall that this process cannot read.
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

    /// Adds a setting where it is needed, if there is one to add.
    fn set_if(self, is_needed: bool, setting: Option<Setting>) -> Finding {
        self.set(setting.filter(|_| is_needed))
    }

    /// Adds a command, unless the goal fits without more ado.
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

    /// A setting that raises each number of a sysctl to at least the one given; `None` if none is lower, or if the
    /// sysctl cannot be read.
    fn raise(host: &Host, name: &'static str, least: &[u64], reason: impl Into<String>) -> Option<Setting> {
        let now = host.sysctl_numbers(name)?;
        let mut then = now.clone();
        then.iter_mut().zip(least).for_each(|(value, least)| *value = (*value).max(*least));
        let text = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join("\t");
        (then != now).then(|| Setting { name, now: text(&now), then: text(&then), reason: reason.into() })
    }
}

/// Connections that a wall must allow so that it is not tight for a goal of `wanted`: a tenth of them is to spare. More than
/// `u32::MAX` there can never be.
fn with_room(wanted: u64) -> u64 {
    wanted.saturating_add(wanted.div_ceil(9)).min(u32::MAX.into())
}

/// All settings that the goal needs raised, each once.
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

/// The names of the walls that this process cannot judge, as it may not read what they are.
pub fn unread(host: &Host, goal: &Goal) -> Vec<&'static str> {
    let unread = WALLS.iter().filter(|wall| wall.judge(host, goal).verdict == Verdict::Unknown);
    unread.map(|wall| wall.name).collect()
}

/// The hard limits that the goal needs higher, for a file in /etc; `None` where they suffice or cannot be read.
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

/// The hard limits with which a goal takes the least memory. Below them a ring has fewer slots, and there are more
/// rings.
pub fn limits_wanted(goal: &Goal) -> Limits {
    let slots = u64::from(SLOTS_PER_RING);
    let files = slots + goal.needs(goal.connections, slots).descriptors();
    let memory = goal.locked_bytes(goal.connections, files);
    Limits { files: Some(files.next_power_of_two()), memory: Some(memory) }
}

/// The finding of a wall that is only at the other end of the connections.
fn not_here() -> Finding {
    Finding::fine("-", "nothing in this role")
}

/// The `blame` of a wall that leaves no evidence.
fn never(_: &Evidence) -> Option<Diagnostic> {
    None
}
