//! The goal for a host that `doctor` and `tune` take.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{AddressBlock, PortArguments, ServerProtocol, VersionName, address_block, addresses, hibernate};
use crate::addresses::Address;
use crate::command_error::Result;
use crate::host::{Cores, Host};
use crate::memory_model::{End, Family};
use crate::plan::{Goal, IdleBackend, Reserve, Role, Routes, check_connections, check_hibernation};
use crate::sys::Resource;

#[derive(Debug, Args)]
pub struct GoalArguments {
    /// Which end of the connections this host is; `both` is a demo over loopback. By default
    /// `client` if --target-ip is given, else `both`.
    #[arg(long, value_enum)]
    pub role: Option<RoleName>,
    /// Connections in all.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub connections: u64,
    #[command(flatten)]
    pub ports: PortArguments,
    /// Addresses of the server, separated by commas: each gives a client all its source ports anew.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub target_ip: Vec<Address>,
    /// Addresses to connect from, separated by commas, single or as a block such as 10.0.0.0/28.
    #[arg(long, value_name = "IP", value_delimiter = ',', value_parser = address_block)]
    pub source_ip: Vec<AddressBlock>,
    /// Use the first N cores this process may run on; all by default.
    #[arg(long, value_name = "N")]
    pub cores: Option<usize>,
    /// What the server speaks, as its --protocol.
    #[arg(long, value_enum, default_value_t = ServerProtocol::Raw)]
    pub protocol: ServerProtocol,
    /// They speak TLS: 80 bytes more of a connection.
    #[arg(long)]
    pub tls: bool,
    /// The lowest version of TLS, as --tls-min of `server` and `client`. With 1.2 each connection may take 112 bytes.
    #[arg(long, value_enum, default_value_t = VersionName::Tls13, requires = "tls")]
    pub tls_min: VersionName,
    /// Connections sleep that were silent for TIME, as with --hibernate of `server`, `client` and `demo`. The time
    /// itself does not matter here.
    #[arg(long, value_name = "TIME|auto", value_parser = hibernate)]
    pub hibernate: Option<Duration>,
    /// At most N connections have a socket at once at each end. By default as many as memory allows, and before Linux
    /// 6.8 file descriptors, at most 262,144; `demo` lets at most 32,768.
    #[arg(long, value_name = "N", requires = "hibernate")]
    pub awake: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    Server,
    Client,
    Both,
}

impl GoalArguments {
    pub fn goal(&self, host: &Host) -> Result<Goal> {
        check_connections(self.connections)?;
        let targets = match self.target_ip.as_slice() {
            [] => vec![Ipv4Addr::LOCALHOST.into()],
            given => given.to_vec(),
        };
        let role = match self.role {
            Some(RoleName::Server) => Role::Server,
            Some(RoleName::Client) => Role::Client,
            Some(RoleName::Both) => Role::Both,
            None if self.target_ip.is_empty() => Role::Both,
            None => Role::Client,
        };
        check_hibernation(self.hibernate, self.awake)?;
        let mut routes = Routes::new(&targets, self.ports.ports()?, &addresses(&self.source_ip))?;
        if role == Role::Both && self.target_ip.is_empty() && routes.sources.is_empty() {
            // As a demo does.
            routes.sources = host.loopback_sources(&routes, self.connections);
        }
        let layers = self.protocol.layers(self.tls.then(|| self.tls_min.into()));
        let mut goal = Goal {
            role,
            connections: self.connections,
            awake: self.awake,
            keeps_descriptors: host.keeps_descriptors(),
            routes,
            cores: host.choose_cores(&self.cores.map_or(Cores::All, Cores::Count))?,
            layers,
        };
        if self.hibernate.is_some() && self.awake.is_none() {
            goal.awake = Some(awake(host, &goal));
        }
        Ok(goal)
    }
}

/// How many connections of a goal may be awake at once, where others sleep: at each end that is on this host.
pub fn awake(host: &Host, goal: &Goal) -> u64 {
    let (server, client) = ((End::Server, IdleBackend::Poll), (End::Client, IdleBackend::Poll));
    let ends: Vec<_> =
        [goal.role.serves().then_some(server), goal.role.dials().then_some(client)].into_iter().flatten().collect();
    let family = Family::of(&goal.routes.targets);
    let planned = host.awake(goal.connections, &ends, family, goal.layers, Reserve::Auto);
    let nofile = Resource::Files.read().map_or(u64::MAX, |limit| limit.hard);
    goal.awake_within(planned, nofile, host.descriptors_open(nofile))
}

#[derive(Debug, Args)]
pub struct DoctorArguments {
    #[command(flatten)]
    pub goal: GoalArguments,
    /// Write the page as JSON to FILE; without FILE, or as -, to standard output.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,
}

/// The arguments of `tune` that say which settings are wanted.
const ASKS: [&str; 13] = [
    "profile",
    "role",
    "connections",
    "port",
    "ports",
    "target_ip",
    "source_ip",
    "cores",
    "protocol",
    "tls",
    "tls_min",
    "hibernate",
    "awake",
];

#[derive(Debug, Args)]
pub struct TuneArguments {
    #[command(flatten)]
    pub goal: GoalArguments,
    /// `extreme` also prints the kernel command line with which a small server holds most.
    #[arg(long, value_enum, default_value_t = Profile::Standard)]
    pub profile: Profile,
    /// Set them now, all or none. What was there is kept in /var/lib/c1m/tune.json.
    #[arg(long)]
    pub apply: bool,
    /// Set them now, and write them to /etc/sysctl.d/zz-c1m.conf and, where a limit is too low,
    /// /etc/security/limits.d/zz-c1m.conf, for the next boot. A warning names every other file that would
    /// then lower one of them.
    #[arg(long)]
    pub persist: bool,
    /// Restore exactly what was there before the first --apply or --persist, files included.
    #[arg(long, conflicts_with_all = ["apply", "persist", "for_article"], conflicts_with_all = ASKS)]
    pub revert: bool,
    /// Print the settings of the article's kind, with what is wrong with each, and change nothing.
    #[arg(long, conflicts_with_all = ["apply", "persist"], conflicts_with_all = ASKS)]
    pub for_article: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    Standard,
    Extreme,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_part_of_a_goal_is_left_out() {
        let goal = GoalArguments::augment_args(clap::Command::new("goal"));
        let parts: BTreeSet<_> = goal.get_arguments().map(|argument| argument.get_id().as_str()).collect();
        assert_eq!(ASKS.into_iter().filter(|name| *name != "profile").collect::<BTreeSet<_>>(), parts);
    }
}
