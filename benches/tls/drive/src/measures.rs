//! What is measured of one server: its memory, its handshakes, and its messages, in one run.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bench_support::compare::{Others, ServerProcess, ourselves, thousands};
use bench_support::contract::{Contract, Target, TlsFiles};
use bench_support::memory::{Memory, bare_end};
use bench_support::samples::{Figures, Run, Table};
use bench_support::sys;

use crate::crowd::Crowd;
use crate::peers::{BACKEND, Peer, Speaks};

/// Where every server listens: below the ephemeral ports, so that no client's socket can sit on them.
const SERVER: Target = Target { address: Ipv4Addr::LOCALHOST, first_port: 23_000, ports: 100 };

/// Where the echo behind a proxy listens.
const ECHO: Target = Target { address: Ipv4Addr::LOCALHOST, first_port: BACKEND.0, ports: BACKEND.1 as usize };

/// What makes this program the echo behind a proxy: the first word of its command line, before those of a peer.
pub const ECHO_ROLE: &str = "echo";

/// The server's core; the other one is the client's, and that of the echo behind a proxy.
const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;

/// Bytes of a message, and the keys of its columns: processor time and rate.
const MESSAGES: [(usize, [&str; 3]); 2] =
    [(64, ["short", "short_cpu", "short_seen"]), (16 * 1024, ["long", "long_cpu", "long_seen"])];

/// How much to run.
pub struct Effort {
    connections: usize,
    /// Those of them that talk.
    active: usize,
    lasting: Duration,
}

impl Effort {
    /// What was asked for: a look at whether everything works if `quick`.
    pub fn of(quick: bool) -> Effort {
        match quick {
            true => Effort { connections: 300, active: 50, lasting: Duration::from_millis(300) },
            // A process may have 20,000 descriptors here, and a proxy needs two for each.
            false => Effort { connections: 9_000, active: 500, lasting: Duration::from_secs(3) },
        }
    }
}

/// Everything that a run needs.
pub struct Bench {
    programs: PathBuf,
    files: TlsFiles,
    effort: Effort,
    /// Bytes of the kernel for a connection of a client.
    bare: Option<f64>,
}

impl Bench {
    /// Makes the servers' certificate: a key of P-256, and a signature by itself.
    pub fn new(programs: PathBuf, folder: &Path, effort: Effort) -> Bench {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate can be made");
        let absolute = |name: &str| std::path::absolute(folder.join(name)).expect("this folder has a path");
        let files = TlsFiles { certificate: absolute("certificate.pem"), key: absolute("key.pem") };
        let keep = |path: &Path, text: String| {
            std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        };
        keep(&files.certificate, made.cert.pem());
        keep(&files.key, made.signing_key.serialize_pem());
        let bare = bare_end(SERVER, effort.connections);
        Bench { programs, files, effort, bare }
    }

    /// The tables, without any run.
    pub fn tables(&self) -> [Table; 4] {
        let Effort { connections, active, .. } = self.effort;
        let (all, talking) = (thousands(connections as f64), thousands(active as f64));
        let messages = |title: String, [rate, cpu, seen]: [&'static str; 3]| {
            let columns =
                [(rate, "messages/s a core", 0), (cpu, "server µs CPU each", 2), (seen, "messages/s seen", 0)];
            Table::new(format!("{talking} of {all} connections talk, {title}"), connections, &columns)
        };
        let memory = [("user", "user bytes", 0), ("kernel", "kernel bytes", 0), ("fixed", "user MiB without any", 1)];
        let handshakes = [("handshakes", "handshakes/s a core", 0), ("handshake_cpu", "server µs CPU each", 1)];
        let [(_, short), (_, long)] = MESSAGES;
        [
            Table::new(format!("{all} idle connections over TLS 1.3, one core"), connections, &memory),
            Table::new(format!("{all} connects, each with a full handshake and a greeting"), connections, &handshakes),
            messages("64 bytes".to_owned(), short),
            messages("16 KiB".to_owned(), long),
        ]
    }

    /// Runs one server, with a new process.
    pub fn run(&self, peer: &Peer) -> Run {
        let others = Others::now();
        let backend = (peer.speaks == Speaks::Proxy).then(|| {
            let mut command = ourselves([ECHO_ROLE]);
            command.args(Contract::new(ECHO, &[CLIENT_CORE]).words());
            ServerProcess::start(command, ECHO)
        });
        let server = ServerProcess::start(peer.command(&self.programs, SERVER, SERVER_CORE, &self.files), SERVER);
        // The servers keep their cores; this thread is the client.
        sys::pin(CLIENT_CORE).expect("the core exists and this process may use it");
        let outcome = self.measure(peer, &server).map_err(|error| error.to_string());
        let served = server.cpu_time() + backend.as_ref().map_or(Duration::ZERO, ServerProcess::cpu_time);
        Run {
            peer: peer.name,
            connections: self.effort.connections,
            others: Some(others.share_beside(served)),
            outcome,
        }
    }

    fn measure(&self, peer: &Peer, server: &ServerProcess) -> io::Result<Figures> {
        let count = self.effort.connections;
        let (before, clock) = (Memory::now(server), server.cpu_time_at_rest());
        let mut crowd = Crowd::open(SERVER, count, peer.speaks)?;
        let each = (server.cpu_time_at_rest().saturating_sub(clock)).as_secs_f64() / count as f64;
        crowd.rest()?;
        let mut figures = before.growth(server, count, self.bare);
        figures.extend([
            ("fixed", before.user / f64::from(1 << 20)),
            ("handshakes", 1.0 / each),
            ("handshake_cpu", each * 1e6),
        ]);
        if peer.speaks != Speaks::Http {
            for (size, [rate, cpu, seen]) in MESSAGES {
                let echoes = crowd.echo(self.effort.active, size, self.effort.lasting, || server.cpu_time())?;
                figures.insert(rate, 1.0 / echoes.clock_each);
                figures.insert(cpu, echoes.clock_each * 1e6);
                figures.insert(seen, echoes.per_second);
            }
        }
        crowd.reset();
        Ok(figures)
    }
}
