//! Where the two ends of a demo meet: the host's network, or one of their own.

use serde_json::{Value, json};

use super::Fit;
use crate::cli::args::{DemoArguments, NetworkName};
use crate::command_error::{CommandError, Result};
use crate::error::Errno;
use crate::format::count;
use crate::host::Host;
use crate::sys::OwnNetwork;

/// Where the demo runs.
pub enum Network {
    /// On the host's network, as was asked for or as its table suffices.
    Host,
    /// There too, as no namespace is to be had.
    Refused(Errno),
    /// In a network namespace: buckets of its table, and of the host's.
    Own(u64, u64),
}

impl Network {
    /// What to tell about it before the run.
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

    /// The same in the result, of a demo that had a network of its own.
    pub fn document(&self) -> Option<Value> {
        match self {
            Network::Own(own, host) => Some(json!({ "own": true, "buckets": own, "host_buckets": host })),
            _ => None,
        }
    }
}

/// Chooses where to run, and goes there. `fit` tells how many connections the host's network would hold. No thread
/// but this one may have been started.
pub fn choose(arguments: &DemoArguments, host: &Host, fit: impl FnOnce() -> Result<Fit>) -> Result<Network> {
    let buckets = host.established_buckets();
    let connections = match arguments.network {
        NetworkName::Host => return Ok(Network::Host),
        NetworkName::Own => arguments.connections,
        NetworkName::Auto => {
            let connections = fit()?.connections;
            // Up to one socket a bucket, the host's table is as fast as any.
            if buckets.is_none_or(|buckets| 2 * connections <= buckets) {
                return Ok(Network::Host);
            }
            connections
        }
    };
    let ports = arguments.ports.ports()?;
    let wanted = (2 * connections).next_power_of_two().min(OwnNetwork::MOST_BUCKETS);
    let own = OwnNetwork { buckets: wanted, reserved: (ports.first(), ports.last()) };
    let buckets = buckets.unwrap_or(0);
    match own.try_out() {
        Ok(()) => {
            own.enter().map_err(|error| refused(Errno::of(&error)))?;
            // The kernel lends the host's table where it finds no memory for another.
            let has = host.established_buckets().unwrap_or(0);
            Ok(Network::Own(has, buckets))
        }
        Err(error) if arguments.network == NetworkName::Own => Err(refused(Errno::of(&error))),
        Err(error) => Ok(Network::Refused(Errno::of(&error))),
    }
}

fn refused(errno: Errno) -> CommandError {
    CommandError::host(
        format!("a network namespace: {errno}"),
        "this kernel, or the container around this process, does not allow one or no table of its own in it (6.1)",
        "run as root, allow user namespaces, or use --network host",
    )
}
