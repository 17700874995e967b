//! The network of a demo: the host's, or a network namespace of its own.

use std::io;

use serde_json::{Value, json};

use super::Fit;
use crate::cli::args::{DemoArguments, NetworkName};
use crate::command_error::{CommandError, Result};
use crate::error::Errno;
use crate::format::count;
use crate::host::Host;
use crate::sys::OwnNetwork;

/// The network in which the demo runs.
pub enum Network {
    /// The host's network, because the user chose it or its table suffices.
    Host,
    /// The host's network, because a namespace is not allowed.
    Refused(Errno),
    /// A network namespace, with the numbers of buckets of its table and of the host's table.
    Own(u64, u64),
}

impl Network {
    /// The line to print before the run.
    pub fn line(&self) -> Option<String> {
        match self {
            Network::Host => None,
            Network::Refused(errno) => Some(format!(
                "on this host's network: one of the demo's own is not allowed ({errno}), and connects will slow down as its table of established connections fills"
            )),
            Network::Own(own, host) => Some(format!(
                "in a network namespace of its own: {} buckets for established connections, the host has {}; source ports 1024-65535 (--network host runs on the host's)",
                count(*own),
                count(*host)
            )),
        }
    }

    /// The network's part of the result, if the demo had a network of its own.
    pub fn document(&self) -> Option<Value> {
        match self {
            Network::Own(own, host) => Some(json!({ "own": true, "buckets": own, "host_buckets": host })),
            _ => None,
        }
    }
}

/// Chooses the network, and enters it. `fit` says how many connections the host's network would hold, of which `awake`
/// at most have sockets at once, if others sleep. Call it while the process has one thread.
pub fn choose(
    arguments: &DemoArguments,
    host: &Host,
    awake: Option<u64>,
    fit: impl FnOnce() -> Result<Fit>,
) -> Result<Network> {
    let buckets = host.established_buckets();
    // Of so many connections those that have sockets at once.
    let with_sockets = |connections: u64| awake.map_or(connections, |awake| awake.min(connections));
    let connections = match arguments.network {
        NetworkName::Host => return Ok(Network::Host),
        NetworkName::Own => with_sockets(arguments.connections),
        NetworkName::Auto => {
            let connections = with_sockets(fit()?.connections);
            // With at most one socket per bucket, the host's table is as fast as any.
            if buckets.is_none_or(|buckets| 2 * connections <= buckets) {
                return Ok(Network::Host);
            }
            connections
        }
    };
    let ports = arguments.ports.ports()?;
    let wanted = (2 * connections).next_power_of_two().min(OwnNetwork::MOST_BUCKETS);
    // In a user namespace no connection may sleep.
    let may_drop_privilege = arguments.hibernate.is_none();
    let own = OwnNetwork { buckets: wanted, reserved: (ports.first(), ports.last()), may_drop_privilege };
    let refused = |error: io::Error| refused(Errno::of(&error), may_drop_privilege);
    let buckets = buckets.unwrap_or(0);
    match own.try_out() {
        Ok(()) => {
            own.enter().map_err(refused)?;
            // If the kernel has no memory for another table, the namespace uses the host's.
            let has = host.established_buckets().unwrap_or(0);
            Ok(Network::Own(has, buckets))
        }
        Err(error) if arguments.network == NetworkName::Own => Err(refused(error)),
        Err(error) => Ok(Network::Refused(Errno::of(&error))),
    }
}

fn refused(errno: Errno, may_drop_privilege: bool) -> CommandError {
    let (means, cure) = if may_drop_privilege {
        (
            "this kernel, or the container around this process, does not allow one or no table of its own in it (6.1)",
            "run as root, allow user namespaces, or use --network host",
        )
    } else {
        (
            "one in which connections may sleep needs CAP_SYS_ADMIN, and a kernel that gives it a table of its own (6.1)",
            "run as root, or use --network host",
        )
    };
    CommandError::host(format!("a network namespace: {errno}"), means, cure)
}
