//! The servers that are compared, and how each is started.

use std::path::Path;
use std::process::Command;

use bench_support::contract::{Contract, Target};
use bench_support::peers::Server;

/// A server to compare.
pub struct Peer {
    pub name: &'static str,
    /// What it is, in a few words.
    pub what: &'static str,
    /// Descriptors that it takes per connection from the limit of its process; none if connections do
    /// not count against it.
    descriptors: Option<usize>,
}

/// Ours comes first; the others are held against it.
pub const PEERS: [Peer; 8] = [
    Peer { name: "c1m", what: "c1m server", descriptors: None },
    Peer { name: "epoll", what: "epoll per core, edge-triggered, SO_REUSEPORT", descriptors: Some(1) },
    Peer { name: "article", what: "one thread, level-triggered epoll", descriptors: Some(1) },
    Peer { name: "tokio", what: "tokio multi-thread, task per connection", descriptors: Some(1) },
    Peer { name: "monoio", what: "monoio (io_uring), task per connection", descriptors: Some(1) },
    Peer { name: "glommio", what: "glommio (io_uring), task per connection", descriptors: Some(1) },
    Peer { name: "go", what: "Go net, goroutine per connection", descriptors: Some(1) },
    Peer { name: "nginx", what: "nginx stream proxy before epoll", descriptors: Some(2) },
];

/// Descriptors of a process that are no connections: listeners, rings, and some to spare.
const OTHER_DESCRIPTORS: usize = 300;

impl Server for Peer {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> &'static str {
        self.what
    }
}

impl Peer {
    /// Whether it is one static program, which runs in a guest without libraries.
    pub fn stands_alone(&self) -> bool {
        self.name != "nginx"
    }

    /// How many of `wanted` connections one process of it can hold; none if it is a tenth less.
    pub fn holds(&self, wanted: usize, open_files: usize) -> Option<usize> {
        let Some(each) = self.descriptors else { return Some(wanted) };
        let fits = wanted.min(open_files.saturating_sub(OTHER_DESCRIPTORS) / each);
        (fits * 10 >= wanted * 9).then_some(fits)
    }

    /// The arguments with which it serves `target` on `cores`.
    pub fn arguments(&self, target: Target, cores: &[usize], most: usize) -> Vec<String> {
        if self.name == "c1m" {
            let Target { address, first_port, ports } = target;
            let cores = list(cores);
            let words = format!(
                "server --core-list {cores} --bind {address} --port {first_port} --ports {ports} --max-connections {most}"
            );
            return words.split(' ').map(str::to_owned).collect();
        }
        Contract::new(target, cores).words().into()
    }

    /// The command that serves `target` on `cores` of this machine.
    pub fn command(&self, programs: &Path, target: Target, cores: &[usize], most: usize) -> Command {
        let mut command = on_cores(cores, &programs.join(self.program()));
        command.args(self.arguments(target, cores, most));
        command
    }
}

/// A program that may use only these cores, as all that it starts.
pub fn on_cores(cores: &[usize], program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &list(cores)]).arg(program);
    command
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}
