//! The servers that are compared, and how each is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use bench_support::contract::{Contract, Target, TlsFiles};
use bench_support::peers::Server;

/// What a server does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// It sends every byte back.
    Echo,
    /// The same, by a plain server behind it, which is no part of its figures.
    Proxy,
    /// It answers requests of HTTP, and echoes nothing.
    Http,
}

/// A server to compare.
pub struct Peer {
    pub name: &'static str,
    /// What it is, in a few words.
    pub what: &'static str,
    pub speaks: Speaks,
}

/// Ours comes first; the others are held against it.
pub const PEERS: [Peer; 7] = [
    Peer { name: "c1m", what: "c1m server", speaks: Speaks::Echo },
    Peer { name: "nginx", what: "nginx stream, before a plain echo", speaks: Speaks::Proxy },
    Peer { name: "nginx-http", what: "nginx http, answers by itself", speaks: Speaks::Http },
    Peer { name: "haproxy", what: "haproxy tcp, before a plain echo", speaks: Speaks::Proxy },
    Peer { name: "tls-tokio", what: "tokio-rustls, task per connection", speaks: Speaks::Echo },
    Peer { name: "tls-go", what: "Go crypto/tls, goroutine per connection", speaks: Speaks::Echo },
    Peer { name: "node", what: "Node tls", speaks: Speaks::Echo },
];

/// Where the echo behind a proxy listens, and how many ports it has.
pub const BACKEND: (u16, u16) = (22_980, 10);

impl Server for Peer {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> &'static str {
        self.what
    }
}

impl Peer {
    /// The command that serves `target` on one core.
    pub fn command(&self, programs: &Path, target: Target, core: usize, files: &TlsFiles) -> Command {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &core.to_string()]).arg(programs.join(self.program()));
        if self.name == "c1m" {
            let Target { address, first_port, ports } = target;
            let words = format!(
                "server --quiet --core-list {core} --bind {address} --port {first_port} --ports {ports} --max-connections 20000"
            );
            command.args(words.split(' ')).arg("--tls-cert").arg(&files.certificate).arg("--tls-key").arg(&files.key);
        } else {
            command.args(Contract::new(target, &[core]).words());
        }
        let paths: [&PathBuf; 2] = [&files.certificate, &files.key];
        command.envs(TlsFiles::VARIABLES.into_iter().zip(paths)).env("BACKEND_PORT", BACKEND.0.to_string());
        command
    }
}
