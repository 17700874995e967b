//! clap types, and the plan they mean.

use std::path::PathBuf;
use std::time::Duration;

use c1m::internal::command_error::{CommandError, Result};
use clap::{Parser, ValueEnum};

use crate::archive;
use crate::profile::Profile;

/// A million connections between machines: boots one server and three clients of the article's
/// sizes in QEMU, ramps, audits, kills one client, closes, and reports.
///
/// Needs no root, and leaves nothing behind but its logs and its report.
///
/// Exit codes: 0 everything held; 1 not everything did, the report says what; 2 bad usage; 3 this
/// host lacks something; 70 a bug in the lab.
#[derive(Debug, Parser)]
#[command(name = "tuning/lab/run", version, about, long_about, max_term_width = 100)]
pub struct Arguments {
    /// Connections in all, an equal share from each client; 1,020,000 by default, or 30,000 with
    /// --quick.
    #[arg(long, value_name = "N")]
    pub connections: Option<u64>,
    /// Small machines and 30,000 connections, for a look or for CI.
    #[arg(long)]
    pub quick: bool,
    /// Boot parameters: `extreme`, those of tuning/cmdline.md, which leave memory for 1,020,000
    /// connections in 4 GiB; `standard`, the kernel's own, which do not.
    #[arg(long, value_enum, default_value_t = Profile::Extreme)]
    pub profile: Profile,
    /// More boot parameters for the server, to measure them.
    #[arg(long, value_name = "PARAMETERS", default_value = "", allow_hyphen_values = true)]
    pub append: String,
    /// Memory of the server in MiB; 4096 by default, or 768 with --quick.
    #[arg(long, value_name = "MIB")]
    pub server_memory: Option<u64>,
    /// Cores of the server.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub server_cores: u32,
    /// Memory of each client in MiB; 2048 by default, or 512 with --quick.
    #[arg(long, value_name = "MIB")]
    pub client_memory: Option<u64>,
    /// Client machines, each with a core and a link to the server of its own.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub clients: u8,
    /// Keep every client to the end, instead of killing the last one during an audit of the others.
    #[arg(long)]
    pub no_kill: bool,
    /// How the guests' processors run: `auto` tries KVM with a time-out, and takes TCG if that
    /// does not really work.
    #[arg(long, value_enum, default_value_t = Acceleration::Auto)]
    pub accel: Acceleration,
    /// A folder with an unpacked kernel package (boot/, lib/modules/); the newest that
    /// tuning/lab/setup unpacked by default.
    #[arg(long, value_name = "DIR")]
    pub kernel: Option<PathBuf>,
    /// How long the whole run may take. Without it a run lasts as long as it gets on: a step fails when less
    /// than a hundredth of it is done in 90 s.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub deadline: Option<Duration>,
    /// Where the folder of this run goes: serial logs, report.txt, report.json, report.html.
    #[arg(long, value_name = "DIR", default_value = "target/lab")]
    pub out: PathBuf,
    /// Write the page of the run to this file too.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Run the plain epoll server and client of the benches (benches/support) in the place of c1m,
    /// to compare.
    #[arg(long)]
    pub reference: bool,
    /// Run another echo server in the place of c1m's: a program, started as FILE ADDRESS FIRST_PORT
    /// PORTS CORES, which says `ready` as soon as it listens (see benches/peers). Its sockets are counted.
    #[arg(long, value_name = "FILE", conflicts_with = "reference")]
    pub server_program: Option<PathBuf>,
    /// Put connections to sleep at both ends that were silent for TIME, such as 1s, so that they have no sockets
    /// meanwhile; with c1m's own programs.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with_all = ["reference", "server_program"])]
    pub hibernate: Option<Duration>,
    /// More options for `c1m server`, such as '--memory-reserve 0'.
    #[arg(long, value_name = "OPTIONS", default_value = "", allow_hyphen_values = true, conflicts_with_all = ["reference", "server_program"])]
    pub server_options: String,
    /// More options for `c1m client`, such as '--rate 1000/s'.
    #[arg(long, value_name = "OPTIONS", default_value = "", allow_hyphen_values = true, conflicts_with = "reference")]
    pub client_options: String,
    /// The folder of the programs for the guests; tuning/lab/run builds and passes it.
    #[arg(long, value_name = "DIR", hide = true)]
    pub programs: PathBuf,
}

/// How the guests' processors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Acceleration {
    /// KVM where it works.
    Auto,
    /// The host's processor.
    Kvm,
    /// Translation in software.
    Tcg,
}

/// What a run shall be, in numbers.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Connections of each client.
    pub share: u64,
    /// Client machines.
    pub clients: u8,
    /// Size of the server.
    pub server: Size,
    /// Size of each client.
    pub client: Size,
    /// Whether the last client is killed.
    pub kill: bool,
    /// What serves and dials.
    pub programs: Programs,
    /// After which silence connections sleep, if they do.
    pub hibernate: Option<Duration>,
    /// How long all of it may take, if that was limited.
    pub deadline: Option<Duration>,
}

/// The size of a machine.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Size {
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Cores.
    pub cores: u32,
}

impl Plan {
    /// Connections in all.
    pub fn connections(&self) -> u64 {
        self.share * u64::from(self.clients)
    }

    /// The option that lets connections sleep, behind a space; empty where none sleeps.
    pub fn hibernate(&self) -> String {
        self.hibernate.map_or(String::new(), |silence| format!(" --hibernate {}", humantime::format_duration(silence)))
    }

    /// Memory of all machines in MiB.
    pub fn memory_mib(&self) -> u64 {
        self.client.memory_mib.saturating_mul(u64::from(self.clients)).saturating_add(self.server.memory_mib)
    }
}

/// What the guests run.
#[derive(Debug, Clone)]
pub enum Programs {
    /// c1m at both ends, each with more options.
    Ours {
        /// Those of its server.
        server: String,
        /// Those of its clients.
        client: String,
    },
    /// The reference of the benches at both ends.
    Reference,
    /// A server of somebody's, and c1m's client with more options.
    Theirs {
        /// The server's file.
        server: PathBuf,
        /// Options of the clients.
        client: String,
    },
}

impl Programs {
    /// What a person calls them.
    pub fn name(&self) -> String {
        match self {
            Programs::Ours { .. } => "c1m".to_owned(),
            Programs::Reference => "reference".to_owned(),
            Programs::Theirs { server, .. } => archive::name(server),
        }
    }

    /// Whether the server counts its connections and tells of them.
    pub fn count(&self) -> bool {
        matches!(self, Programs::Ours { .. })
    }

    /// Whether c1m's clients dial, which can report on the way.
    pub fn dials_with_c1m(&self) -> bool {
        !matches!(self, Programs::Reference)
    }
}

impl Arguments {
    fn programs(&self) -> Result<Programs> {
        let (server, client) = (self.server_options.clone(), self.client_options.clone());
        match &self.server_program {
            _ if self.reference => Ok(Programs::Reference),
            None => Ok(Programs::Ours { server, client }),
            Some(file) if !file.is_file() => Err(CommandError::usage(
                format!("--server-program {}", file.display()),
                "there is no such file",
                "build it first (benches/peers/run does)",
            )),
            Some(file) => {
                let theirs = Programs::Theirs { server: file.clone(), client };
                let name = theirs.name();
                let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                if !name.chars().all(plain) || ["c1m", "busybox"].contains(&name.as_str()) {
                    let saw = format!("--server-program {}", file.display());
                    let means =
                        "a guest's shell is told its name: letters, digits, '-', '_' and '.', and not c1m or busybox";
                    return Err(CommandError::usage(saw, means, "give it another name"));
                }
                Ok(theirs)
            }
        }
    }

    /// What was typed, as numbers.
    pub fn plan(&self) -> Result<Plan> {
        let clients = u64::from(self.clients);
        let connections = self.connections.unwrap_or(if self.quick { 30_000 } else { 1_020_000 });
        if connections == 0 || !connections.is_multiple_of(clients) {
            let below = (connections / clients).max(1) * clients;
            return Err(CommandError::usage(
                format!("--connections {connections}"),
                format!("{clients} clients open equal shares"),
                format!("try --connections {below}"),
            ));
        }
        let memory = |typed: Option<u64>, quick: u64, full: u64| typed.unwrap_or(if self.quick { quick } else { full });
        Ok(Plan {
            share: connections / clients,
            clients: self.clients,
            server: Size { memory_mib: memory(self.server_memory, 768, 4096), cores: self.server_cores },
            client: Size { memory_mib: memory(self.client_memory, 512, 2048), cores: 1 },
            kill: !self.no_kill && self.clients > 1,
            programs: self.programs()?,
            hibernate: self.hibernate,
            deadline: self.deadline,
        })
    }
}
