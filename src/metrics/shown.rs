//! The counters of a server's shards under the names that Prometheus knows them by.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::http::Format;
use crate::host::Host;
use crate::shard::ShardHandle;
use crate::stats::{OwnMetrics, ROUND_BOUNDS, Snapshot};
use crate::sys;

/// What one line of the counters is called.
struct Shown {
    /// Its name, without the `_total` that the encoder gives a counter.
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    /// The values of a further label, if there are several, and where each is read.
    series: &'static [(Option<Label>, Read)],
}

type Label = (&'static str, &'static str);
type Read = fn(&Snapshot) -> u64;

/// Everything that is shown of a shard's counters.
const SHOWN: [Shown; 14] = [
    Shown {
        name: "c1m_connections",
        help: "Connections that stand.",
        kind: MetricType::Gauge,
        series: &[(None, |shard| shard.live)],
    },
    Shown {
        name: "c1m_connections_opened",
        help: "Connections accepted.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.opened)],
    },
    Shown {
        name: "c1m_connections_closed",
        help: "Connections that stood and are closed, for whatever reason.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.closed)],
    },
    Shown {
        name: "c1m_connections_refused",
        help: "Connections reset at once, because the server was full or the host's memory short.",
        kind: MetricType::Counter,
        series: &[
            (Some(("reason", "full")), |shard| shard.refused_when_full),
            (Some(("reason", "memory")), |shard| shard.refused_for_memory),
        ],
    },
    Shown {
        name: "c1m_connections_dropped",
        help: "Connections closed by the server: peers that said nothing, or did not read.",
        kind: MetricType::Counter,
        series: &[
            (Some(("reason", "silent")), |shard| shard.silent),
            (Some(("reason", "slow_reader")), |shard| shard.slow_readers),
        ],
    },
    Shown {
        name: "c1m_receives",
        help: "Receives that brought bytes.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.messages)],
    },
    Shown {
        name: "c1m_received_bytes",
        help: "Bytes received.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.bytes_in)],
    },
    Shown {
        name: "c1m_sent_bytes",
        help: "Bytes handed to the kernel for sending.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.bytes_out)],
    },
    Shown {
        name: "c1m_parked_sends",
        help: "Sends that waited in the kernel for a slow reader.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.parked)],
    },
    Shown {
        name: "c1m_accept_errors",
        help: "Accepts that the kernel refused for want of memory or files.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.accept_errors)],
    },
    Shown {
        name: "c1m_completions",
        help: "Completions out of the ordinary: of a former tenant, or kept back behind a full queue.",
        kind: MetricType::Counter,
        series: &[
            (Some(("kind", "stale")), |shard| shard.stale),
            (Some(("kind", "overflow")), |shard| shard.overflows),
        ],
    },
    Shown {
        name: "c1m_ring_enters",
        help: "System calls that entered a ring.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.enters)],
    },
    Shown {
        name: "c1m_sleeps",
        help: "Times a shard found nothing to do and slept.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.sleeps)],
    },
    Shown {
        name: "c1m_calls",
        help: "Calls of the filter, where connections wait behind one and not in polls.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.calls)],
    },
];

/// The shards of a server, to be written whenever somebody asks.
#[derive(Debug)]
struct Shards {
    shards: Vec<ShardHandle>,
    own: OwnMetrics,
}

/// The metrics of a server.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// What these shards have counted, and what their process takes.
    pub fn new(shards: Vec<ShardHandle>, own: OwnMetrics) -> Metrics {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Shards { shards, own }));
        Metrics(registry)
    }

    /// The metrics as they are now.
    pub fn render(&self, format: Format) -> Result<String, fmt::Error> {
        let mut into = String::new();
        match format {
            Format::Prometheus => prometheus_text::encode(&mut into, &self.0)?,
            Format::OpenMetrics => text::encode(&mut into, &self.0)?,
        }
        Ok(into)
    }
}

impl Collector for Shards {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let counted: Vec<Snapshot> = self.shards.iter().map(|shard| shard.counters().snapshot()).collect();
        for shown in &SHOWN {
            let mut family = encoder.encode_descriptor(shown.name, shown.help, None, shown.kind)?;
            for (shard, counted) in counted.iter().enumerate() {
                for (further, read) in shown.series {
                    value(&mut family, shown.kind, &labels(shard, *further), read(counted))?;
                }
            }
        }
        self.own(&mut encoder)?;
        self.rounds(&mut encoder)?;
        process(&mut encoder)
    }
}

impl Shards {
    /// What the service counts by itself.
    fn own(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let counted: Vec<Vec<u64>> = self.own.shards.iter().map(|shard| shard.read()).collect();
        for (index, (name, help)) in self.own.named.iter().enumerate() {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (shard, counted) in counted.iter().enumerate() {
                let is = counted.get(index).copied().unwrap_or(0);
                value(&mut family, MetricType::Counter, &labels(shard, None), is)?;
            }
        }
        Ok(())
    }

    /// How long a shard's connections wait for it while it works.
    fn rounds(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Time from one look of a working shard at its rings to the next.";
        let mut family = encoder.encode_descriptor("c1m_round_seconds", help, None, MetricType::Histogram)?;
        for (shard, remote) in self.shards.iter().enumerate() {
            let (counts, seconds) = remote.rounds().read();
            let bounds = ROUND_BOUNDS.iter().map(|bound| bound.as_secs_f64()).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            let all = counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
            let labels = labels(shard, None);
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(seconds, all, &buckets, None)?;
        }
        Ok(())
    }
}

/// What every process shows, under the names that Prometheus' client libraries agreed on. What cannot be read
/// is left out: a counter that fell to 0 would say that the process began anew.
fn process(encoder: &mut DescriptorEncoder) -> fmt::Result {
    let (host, pid) = (Host::here(), std::process::id());
    let (user, system) = host.cpu_seconds(pid);
    let (resident, _) = host.resident(pid);
    if resident > 0 {
        let help = "Total user and system CPU time spent in seconds.";
        let mut seconds = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        seconds.encode_counter::<NoLabelSet, f64, u64>(&(user + system), None)?;
        let help = "Resident memory size in bytes.";
        let mut bytes = encoder.encode_descriptor("process_resident_memory_bytes", help, None, MetricType::Gauge)?;
        bytes.encode_gauge(&resident)?;
    }
    let help = "The program and the kernel it runs on; always 1.";
    let mut info = encoder.encode_descriptor("c1m", help, None, MetricType::Info)?;
    info.encode_info(&[("version", env!("CARGO_PKG_VERSION")), ("kernel", sys::kernel_release().as_str())])
}

fn labels(shard: usize, further: Option<Label>) -> Vec<(&'static str, String)> {
    let further = further.map(|(name, value)| (name, value.to_owned()));
    std::iter::once(("shard", shard.to_string())).chain(further).collect()
}

fn value(family: &mut MetricEncoder, kind: MetricType, labels: &impl EncodeLabelSet, is: u64) -> fmt::Result {
    let mut metric = family.encode_family(labels)?;
    match kind {
        MetricType::Counter => metric.encode_counter::<NoLabelSet, u64, u64>(&is, None),
        _ => metric.encode_gauge(&is),
    }
}
