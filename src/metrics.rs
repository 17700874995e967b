//! What a server shows to Prometheus: the counters of its shards, read from a thread of its own
//! whenever somebody asks. The shards do nothing for it but count.

use std::io::Cursor;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TEXT_FORMAT, TextEncoder};
use tiny_http::{Header, Method, Response};

use crate::error::{Errno, Error, Result};
use crate::host::Host;
use crate::shard::Remote;
use crate::stats::{ROUND_BOUNDS, Snapshot};
use crate::sys;

/// Where the metrics are; anything else is not found.
const PATH: &str = "/metrics";

/// What one line of the counters is called.
struct Shown {
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
        kind: MetricType::GAUGE,
        series: &[(None, |shard| shard.live)],
    },
    Shown {
        name: "c1m_connections_opened_total",
        help: "Connections accepted.",
        kind: MetricType::COUNTER,
        series: &[(None, |shard| shard.opened)],
    },
    Shown {
        name: "c1m_connections_closed_total",
        help: "Connections that stood and are closed, for whatever reason.",
        kind: MetricType::COUNTER,
        series: &[(None, |shard| shard.closed)],
    },
    Shown {
        name: "c1m_connections_refused_total",
        help: "Connections reset at once, because the server was full or the host's memory short.",
        kind: MetricType::COUNTER,
        series: &[
            (Some(("reason", "full")), |shard| shard.refused.saturating_sub(shard.refused_for_memory)),
            (Some(("reason", "memory")), |shard| shard.refused_for_memory),
        ],
    },
    Shown {
        name: "c1m_connections_dropped_total",
        help: "Connections closed by the server: peers that said nothing, or did not read.",
        kind: MetricType::COUNTER,
        series: &[
            (Some(("reason", "silent")), |shard| shard.silent),
            (Some(("reason", "slow_reader")), |shard| shard.slow_readers),
        ],
    },
    Shown {
        name: "c1m_receives_total",
        help: "Receives that brought bytes.",
        kind: MetricType::COUNTER,
        series: &[(None, |shard| shard.messages)],
    },
    Shown {
        name: "c1m_received_bytes_total",
        help: "Bytes received.",
        kind: MetricType::COUNTER,
        series: &[(None, |shard| shard.bytes_in)],
    },
    Shown {
        name: "c1m_sent_bytes_total",
        help: "Bytes handed to the kernel for sending.",
        kind: MetricType::COUNTER,
        series: &[(None, |shard| shard.bytes_out)],
    },
    Shown {
        name: "c1m_parked_sends_total",
        help: "Sends that waited in the kernel for a slow reader.",
        kind: MetricType::COUNTER,
        series: &[(None, |shard| shard.parked)],
    },
    Shown {
        name: "c1m_accept_errors_total",
        help: "Accepts that the kernel refused for want of memory or files.",
        kind: MetricType::COUNTER,
        series: &[(None, |shard| shard.accept_errors)],
    },
    Shown {
        name: "c1m_completions_total",
        help: "Completions out of the ordinary: of a former tenant, or kept back behind a full queue.",
        kind: MetricType::COUNTER,
        series: &[
            (Some(("kind", "stale")), |shard| shard.stale),
            (Some(("kind", "overflow")), |shard| shard.overflows),
        ],
    },
    Shown {
        name: "c1m_ring_enters_total",
        help: "System calls that entered a ring.",
        kind: MetricType::COUNTER,
        series: &[(None, |shard| shard.enters)],
    },
    Shown {
        name: "c1m_sleeps_total",
        help: "Times a shard found nothing to do and slept.",
        kind: MetricType::COUNTER,
        series: &[(None, |shard| shard.sleeps)],
    },
    Shown {
        name: "c1m_calls_total",
        help: "Calls of the filter, where connections wait behind one and not in polls.",
        kind: MetricType::COUNTER,
        series: &[(None, |shard| shard.calls)],
    },
];

/// The endpoint of the metrics, until it is dropped.
pub struct Exporter {
    http: Arc<tiny_http::Server>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Listens on `address`, a free port if it names port 0. Whoever asks waits until `serve`.
    pub fn listen(address: SocketAddr) -> Result<Exporter> {
        let refused = |saw: &dyn std::fmt::Display| {
            Error::usage(
                format!("listen for --metrics on {address}: {saw}"),
                "nobody could read the metrics",
                "choose a free port on an address of this host, such as 127.0.0.1:9187",
            )
        };
        let listener = TcpListener::bind(address).map_err(|e| refused(&Errno::of(&e)))?;
        let address = listener.local_addr().map_err(|e| refused(&Errno::of(&e)))?;
        let http = tiny_http::Server::from_listener(listener, None).map_err(|e| refused(&e))?;
        Ok(Exporter { http: Arc::new(http), address, thread: None })
    }

    /// Answers, on a thread of its own, with what these shards have counted.
    pub fn serve(&mut self, shards: Vec<Remote>) -> Result<()> {
        let http = self.http.clone();
        let thread = thread::Builder::new().name("c1m-metrics".to_owned()).spawn(move || {
            for request in http.incoming_requests() {
                let response = answer(request.method(), request.url(), &shards);
                // Whoever asked has gone.
                let _ = request.respond(response);
            }
        });
        self.thread = Some(thread.map_err(|e| Error::bug(format!("start the metrics' thread: {}", Errno::of(&e))))?);
        Ok(())
    }

    /// Where the metrics are.
    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.http.unblock();
        if let Some(thread) = self.thread.take() {
            // It only reads counters; should it have panicked, the process is gone.
            let _ = thread.join();
        }
    }
}

fn answer(method: &Method, url: &str, shards: &[Remote]) -> Response<Cursor<Vec<u8>>> {
    let path = url.split('?').next().unwrap_or_default();
    let plain = |code: u16, text: &str| Response::from_string(text).with_status_code(code);
    if path != PATH {
        return plain(404, "the metrics are at /metrics\n");
    }
    if !matches!(method, Method::Get | Method::Head) {
        return plain(405, "the metrics can only be read\n");
    }
    let mut text = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&families(shards), &mut text) {
        return plain(500, &format!("{error}\n"));
    }
    let response = Response::from_data(text);
    match Header::from_bytes("Content-Type", TEXT_FORMAT) {
        Ok(header) => response.with_header(header),
        Err(()) => response,
    }
}

fn families(shards: &[Remote]) -> Vec<MetricFamily> {
    let counted: Vec<Snapshot> = shards.iter().map(|shard| shard.counters().snapshot()).collect();
    let mut families: Vec<MetricFamily> = SHOWN.iter().map(|shown| shown.family(&counted)).collect();
    families.push(rounds(shards));
    families.extend(process());
    families
}

impl Shown {
    fn family(&self, shards: &[Snapshot]) -> MetricFamily {
        let mut metrics = Vec::new();
        for (shard, counted) in shards.iter().enumerate() {
            for (further, read) in self.series {
                let number = shard.to_string();
                let labels = std::iter::once(("shard", number.as_str())).chain(*further);
                metrics.push(value(self.kind, labels, read(counted) as f64));
            }
        }
        family(self.name, self.help, self.kind, metrics)
    }
}

/// How long a shard's connections wait for it while it works.
fn rounds(shards: &[Remote]) -> MetricFamily {
    let of_shard = |(shard, remote): (usize, &Remote)| {
        let (counts, seconds) = remote.rounds().read();
        let mut histogram = Histogram::default();
        let mut so_far = 0;
        // The encoder adds the last bucket, which has no bound.
        let buckets = ROUND_BOUNDS.iter().zip(counts).map(|(bound, count)| {
            so_far += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound.as_secs_f64());
            bucket.set_cumulative_count(so_far);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(seconds);
        let mut metric = Metric::from_label(labels([("shard", shard.to_string().as_str())]));
        metric.set_histogram(histogram);
        metric
    };
    let help = "Time from one look of a working shard at its rings to the next.";
    family("c1m_round_seconds", help, MetricType::HISTOGRAM, shards.iter().enumerate().map(of_shard).collect())
}

/// What every process shows, under the names that Prometheus' client libraries agreed on.
fn process() -> [MetricFamily; 3] {
    let (host, pid) = (Host::here(), std::process::id());
    let (user, system) = host.cpu_seconds(pid);
    let (resident, _) = host.resident(pid);
    let one = |name, help, kind, labels: &[Label], is| {
        family(name, help, kind, vec![value(kind, labels.iter().copied(), is)])
    };
    [
        one(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            MetricType::COUNTER,
            &[],
            user + system,
        ),
        one("process_resident_memory_bytes", "Resident memory size in bytes.", MetricType::GAUGE, &[], resident as f64),
        family(
            "c1m_info",
            "The program and the kernel it runs on; always 1.",
            MetricType::GAUGE,
            vec![value(
                MetricType::GAUGE,
                [("version", env!("CARGO_PKG_VERSION")), ("kernel", sys::kernel_release().as_str())],
                1.0,
            )],
        ),
    ]
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn value<'a>(kind: MetricType, named: impl IntoIterator<Item = (&'a str, &'a str)>, is: f64) -> Metric {
    let mut metric = Metric::from_label(labels(named));
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(is);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(is);
        metric.set_gauge(gauge);
    }
    metric
}

fn labels<'a>(named: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<LabelPair> {
    let pair = |(name, value): (&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    named.into_iter().map(pair).collect()
}
