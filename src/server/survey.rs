//! What a server finds out before it starts anything: its host, the limits, an earlier server, and the plan that follows.

#[cfg(feature = "metrics")]
use std::net::TcpListener;

use super::takeover::{self, Inheritance};
#[cfg(feature = "tls")]
use super::tls::Secured;
use super::{Options, hibernation};
use crate::constants::THREADS_PER_SHARD;
use crate::error::Result;
use crate::host::{Host, Raised, check_threads, raise_limits};
use crate::listener;
#[cfg(feature = "metrics")]
use crate::metrics::Exporter;
use crate::plan::{self, ServerGoal, ShardPlan};
use crate::ring;
use crate::stats::Spoken;
use crate::takeover::Speaks;

/// The ground on which a server starts.
pub(super) struct Survey {
    pub host: Host,
    pub raised: Raised,
    /// What an earlier server hands over or has left.
    pub inheritance: Option<Inheritance>,
    #[cfg(feature = "metrics")]
    pub metrics: Option<Exporter>,
    /// How many connections may be awake at once; `None` where none sleeps.
    pub awake: Option<u64>,
    pub plans: Vec<ShardPlan>,
    #[cfg(feature = "tls")]
    pub tls: Option<Secured>,
    pub backlog: i32,
}

impl Survey {
    /// Raises the limits, and refuses what this host or an earlier server does not allow. The connections speak as `speaks`
    /// and `spoken` say.
    pub fn new(options: &Options, speaks: &Speaks, spoken: Spoken) -> Result<Survey> {
        let host = Host::here();
        let cores = host.choose_cores(&options.cores)?;
        takeover::check(options, &host)?;
        // Before descriptors come from an earlier process, which the plan counts.
        let raised = raise_limits()?;
        let inheritance = options.takeover.as_deref().map(Inheritance::find).transpose()?.flatten();
        #[cfg(feature = "metrics")]
        let (metrics, inheritance) = {
            let mut inheritance = inheritance;
            let listener = inheritance.as_mut().and_then(|inheritance| inheritance.take(takeover::METRICS));
            let listener = listener.map(TcpListener::from);
            let listen = |address| Exporter::listen(address, options.ports, listener);
            (options.metrics.map(listen).transpose()?, inheritance)
        };
        let awake = hibernation::awake(options, spoken, &host)?;
        // The server that runs takes memory too, and all of its connections that are awake are to have a slot here.
        let theirs = inheritance.as_ref().and_then(|inheritance| inheritance.terms.awake);
        let awake = awake.map(|awake| if options.awake.is_none() { awake.max(theirs.unwrap_or(0)) } else { awake });
        ring::probe()?;
        let mut goal = ServerGoal {
            cores,
            ports: options.ports,
            sharing: options.sharing,
            connections: options.max_connections,
            awake,
            keeps_descriptors: host.keeps_descriptors(),
            nofile: raised.files.1.soft,
            open: raised.open,
        };
        if options.awake.is_none() {
            goal.awake = awake.map(|planned| goal.awake_within(planned));
        }
        let awake = goal.awake;
        let plans = plan::server(&goal, host.lockable(raised.memory.1.soft))?;
        host.check_locked_memory(raised.memory.1.soft, goal.connections, |n| plan::server_needs(&goal, n))?;
        // The memory monitor takes one thread more.
        check_threads(1 + THREADS_PER_SHARD * plans.len() as u64)?;
        #[cfg(feature = "tls")]
        let tls = options.tls.as_ref().map(|tls| Secured::new(tls, &host, plans.len())).transpose()?;
        let backlog = backlog(options.backlog, &host);
        match (&inheritance, &options.takeover) {
            (Some(inheritance), Some(path)) => {
                inheritance.check(path, &takeover::terms(options, &plans, awake, backlog, speaks))?;
            }
            _ => listener::check_free(options.bind, options.ports)?,
        }
        Ok(Survey {
            host,
            raised,
            inheritance,
            #[cfg(feature = "metrics")]
            metrics,
            awake,
            plans,
            #[cfg(feature = "tls")]
            tls,
            backlog,
        })
    }
}

/// The accept queue of each listener, as the kernel caps it.
fn backlog(wanted: Option<u32>, host: &Host) -> i32 {
    let cap = host.somaxconn();
    wanted.map_or(cap, |wanted| i32::try_from(wanted).unwrap_or(i32::MAX).min(cap))
}
