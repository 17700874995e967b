//! The counters of a server's shards under their names in Prometheus.

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
use crate::stats::{DurationCounts, OwnMetrics, ROUND_BOUNDS, Snapshot, Spoken};
use crate::sys;

/// A family of metrics.
struct Family {
    /// The name, without the `_total` that the encoder appends to a counter.
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    /// A further label for each series, if the family has several, and the function that reads the series.
    series: &'static [(Option<Label>, Read)],
}

type Label = (&'static str, &'static str);
type Read = fn(&Snapshot) -> u64;

/// The metrics of a shard's counters, in every server.
const FAMILIES: [Family; 15] = [
    Family {
        name: "c1m_connections",
        help: "Connections that are open now.",
        kind: MetricType::Gauge,
        series: &[(None, |shard| shard.live)],
    },
    Family {
        name: "c1m_connections_opened",
        help: "Connections accepted.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.opened)],
    },
    Family {
        name: "c1m_connections_closed",
        help: "Connections that were open and are closed, for whatever reason.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.closed)],
    },
    Family {
        name: "c1m_connections_refused",
        help: "Connections reset before a service heard of them, because the server was full or the host's memory short.",
        kind: MetricType::Counter,
        series: &[
            (Some(("reason", "full")), |shard| shard.refused_when_full),
            (Some(("reason", "memory")), |shard| shard.refused_for_memory),
        ],
    },
    Family {
        name: "c1m_connections_dropped",
        help: "Connections closed by the server: peers that were silent, or did not read.",
        kind: MetricType::Counter,
        series: &[
            (Some(("reason", "silent")), |shard| shard.silent),
            (Some(("reason", "slow_reader")), |shard| shard.slow_readers),
        ],
    },
    Family {
        name: "c1m_connections_lingering",
        help: "Connections that are closed and wait for the end of a peer that may still send, each in a slot, 10 s at most.",
        kind: MetricType::Gauge,
        series: &[(None, |shard| shard.lingering)],
    },
    Family {
        name: "c1m_receives",
        help: "Receives whose bytes were for the service; with TLS, records of data.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.messages)],
    },
    Family {
        name: "c1m_received_bytes",
        help: "Bytes received, without those that came after a close and were dropped.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.bytes_in)],
    },
    Family {
        name: "c1m_sent_bytes",
        help: "Bytes handed to the kernel for sending.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.bytes_out)],
    },
    Family {
        name: "c1m_parked_sends",
        help: "Sends that waited in the kernel for a slow reader.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.parked)],
    },
    Family {
        name: "c1m_accept_errors",
        help: "Accepts that the kernel refused for lack of memory or file descriptors.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.accept_errors)],
    },
    Family {
        name: "c1m_completions",
        help: "Unusual completions: of a slot's former occupant, or kept back behind a full queue.",
        kind: MetricType::Counter,
        series: &[
            (Some(("kind", "stale")), |shard| shard.stale),
            (Some(("kind", "overflow")), |shard| shard.overflows),
        ],
    },
    Family {
        name: "c1m_ring_enters",
        help: "System calls that entered a ring.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.enters)],
    },
    Family {
        name: "c1m_sleeps",
        help: "Times a shard had nothing to do and slept.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.sleeps)],
    },
    Family {
        name: "c1m_calls",
        help: "Notifications by the socket filter, where connections wait behind it and not in polls.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.notifications)],
    },
];

/// The metrics of a server that another one may take the place of.
const TAKEOVER_FAMILIES: [Family; 1] = [Family {
    name: "c1m_takeover_connections",
    help: "Connections that went from one server to the next: taken over at the start, handed over at the end, or lost with a process that was killed.",
    kind: MetricType::Counter,
    series: &[
        (Some(("how", "taken_over")), |shard| shard.taken_over),
        (Some(("how", "handed_over")), |shard| shard.handed_over),
        (Some(("how", "lost")), |shard| shard.lost_in_takeover),
    ],
}];

/// The metrics of sleeping connections, in a server that lets them sleep.
const SLEEP_FAMILIES: [Family; 7] = [
    Family {
        name: "c1m_connections_asleep",
        help: "Connections of c1m_connections that are asleep now, without a socket.",
        kind: MetricType::Gauge,
        series: &[(None, |shard| shard.asleep)],
    },
    Family {
        name: "c1m_connections_hibernated",
        help: "Times a connection was put to sleep.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.hibernated)],
    },
    Family {
        name: "c1m_connections_woken",
        help: "Times a sleeping connection was woken: by a segment of its peer, or by something to send.",
        kind: MetricType::Counter,
        series: &[
            (Some(("cause", "peer")), |shard| shard.woken_by_peer),
            (Some(("cause", "send")), |shard| shard.woken_by_send),
        ],
    },
    Family {
        name: "c1m_connections_woken_without_socket",
        help: "Of these, wakes for one short message, after which the connection fell asleep at once.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.woken_without_socket)],
    },
    Family {
        name: "c1m_connections_stayed_awake",
        help: "Idle connections that could not be put to sleep: something was in flight, or the table had no place.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.stayed_awake)],
    },
    Family {
        name: "c1m_sleeper_segments",
        help: "Segments caught for sleeping connections, and segments that answered some of them without a wake.",
        kind: MetricType::Counter,
        series: &[
            (Some(("kind", "caught")), |shard| shard.segments_caught),
            (Some(("kind", "answer")), |shard| shard.segments_answered),
        ],
    },
    Family {
        name: "c1m_sleeper_segments_refused",
        help: "Caught segments that woke no connection: malformed, outside of the window, or dropped for lack of room.",
        kind: MetricType::Counter,
        series: &[
            (Some(("reason", "malformed")), |shard| shard.segments_malformed),
            (Some(("reason", "outside")), |shard| shard.segments_outside),
            (Some(("reason", "dropped")), |shard| shard.segments_dropped),
        ],
    },
];

/// The metrics of HTTP requests.
const HTTP_FAMILIES: [Family; 2] = [
    Family {
        name: "c1m_http_requests",
        help: "HTTP requests answered, those for an upgrade included.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.requests)],
    },
    Family {
        name: "c1m_http_requests_refused",
        help: "HTTP requests refused: not readable, too long, not complete in time, or without room while incomplete.",
        kind: MetricType::Counter,
        series: &[
            (Some(("reason", "malformed")), |shard| shard.requests_malformed),
            (Some(("reason", "too_long")), |shard| shard.requests_too_long),
            (Some(("reason", "late")), |shard| shard.requests_late),
            (Some(("reason", "no_room")), |shard| shard.requests_without_room),
        ],
    },
];

/// The metrics of WebSocket.
const WEBSOCKET_FAMILIES: [Family; 4] = [
    Family {
        name: "c1m_websocket_upgrades",
        help: "Connections upgraded to WebSocket.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.upgrades)],
    },
    Family {
        name: "c1m_websocket_messages",
        help: "WebSocket messages that came whole.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.messages_whole)],
    },
    Family {
        name: "c1m_websocket_failed",
        help: "WebSocket connections closed for a fault of the peer: it broke the protocol, sent a text that is not UTF-8 \
               or a message that is too long or late, or there was no room for messages that are incomplete.",
        kind: MetricType::Counter,
        series: &[
            (Some(("cause", "protocol")), |shard| shard.protocol_errors),
            (Some(("cause", "not_utf8")), |shard| shard.texts_invalid),
            (Some(("cause", "too_long")), |shard| shard.messages_too_long),
            (Some(("cause", "late")), |shard| shard.messages_late),
            (Some(("cause", "no_room")), |shard| shard.messages_without_room),
        ],
    },
    Family {
        name: "c1m_websocket_closes_unanswered",
        help: "WebSocket connections whose peer did not answer a close in time.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.closes_unanswered)],
    },
];

/// The metrics of a broadcaster.
const PUSH_FAMILIES: [Family; 4] = [
    Family {
        name: "c1m_publications",
        help: "Publications that came from publishers.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.publications)],
    },
    Family {
        name: "c1m_pushes",
        help: "Publications begun to be sent, once for each subscriber.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.pushes)],
    },
    Family {
        name: "c1m_publications_missed",
        help: "Publications that a shard with too much to do did not send to its subscribers.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.pushes_missed)],
    },
    Family {
        name: "c1m_push_connections_refused",
        help: "Connections of a broadcaster over plain bytes closed: what came is no frame, is too long or was not whole in time, or there was no room for it.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.frames_refused)],
    },
];

/// The metrics of TLS, in a server that speaks it.
const TLS_FAMILIES: [Family; 8] = [
    Family {
        name: "c1m_tls_handshakes_under_way",
        help: "TLS handshakes that are under way now.",
        kind: MetricType::Gauge,
        series: &[(None, |shard| shard.handshakes_under_way)],
    },
    Family {
        name: "c1m_tls_handshakes",
        help: "TLS handshakes that were completed: with a certificate, or by resuming a session.",
        kind: MetricType::Counter,
        series: &[
            (Some(("kind", "full")), |shard| shard.handshakes_full),
            (Some(("kind", "resumed")), |shard| shard.handshakes_resumed),
        ],
    },
    Family {
        name: "c1m_tls12_handshakes",
        help: "TLS handshakes of either kind that agreed on TLS 1.2, where the server speaks it.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.handshakes_tls12)],
    },
    Family {
        name: "c1m_tls_handshakes_failed",
        help: "TLS handshakes that failed: given up by an alert of the peer, refused by the server, not over in time, or abandoned without a word.",
        kind: MetricType::Counter,
        series: &[
            (Some(("cause", "alerted")), |shard| shard.handshakes_alerted),
            (Some(("cause", "refused")), |shard| shard.handshakes_refused),
            (Some(("cause", "timed_out")), |shard| shard.handshakes_timed_out),
            (Some(("cause", "abandoned")), |shard| shard.handshakes_abandoned),
        ],
    },
    Family {
        name: "c1m_tls_records",
        help: "TLS records opened and sealed, without those of handshakes.",
        kind: MetricType::Counter,
        series: &[
            (Some(("kind", "opened")), |shard| shard.records_opened),
            (Some(("kind", "sealed")), |shard| shard.records_sealed),
        ],
    },
    Family {
        name: "c1m_tls_records_refused",
        help: "Connections closed because of an incomplete TLS record: no more of such may be kept, or it was not whole in time.",
        kind: MetricType::Counter,
        series: &[
            (Some(("cause", "no_room")), |shard| shard.records_refused),
            (Some(("cause", "timed_out")), |shard| shard.records_timed_out),
        ],
    },
    Family {
        name: "c1m_tls_alerts",
        help: "TLS alerts that ended an established connection.",
        kind: MetricType::Counter,
        series: &[
            (Some(("direction", "sent")), |shard| shard.alerts_sent),
            (Some(("direction", "received")), |shard| shard.alerts_received),
        ],
    },
    Family {
        name: "c1m_tls_key_updates",
        help: "TLS KeyUpdates sent.",
        kind: MetricType::Counter,
        series: &[(None, |shard| shard.key_updates)],
    },
];

/// What a server does beyond what every server does: the metrics of that are shown too.
#[derive(Debug, Clone, Copy, Default)]
pub struct Also {
    /// Its connections may sleep.
    pub sleep: bool,
    /// Another server may take its place.
    pub takeover: bool,
    /// It speaks TLS.
    pub tls: bool,
    /// What it speaks on its connections.
    pub spoken: Spoken,
}

/// The shards of a server, whose counters are written whenever a client asks.
#[derive(Debug)]
struct Shards {
    shards: Vec<ShardHandle>,
    own: OwnMetrics,
    also: Also,
}

/// The metrics of a server.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// Metrics of these shards' counters, of those of their service, and of this process; and of what the server does `also`.
    pub fn new(shards: Vec<ShardHandle>, own: OwnMetrics, also: Also) -> Metrics {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Shards { shards, own, also }));
        Metrics(registry)
    }

    /// The metrics at this moment, as text.
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
        let Also { sleep, takeover, tls, spoken } = self.also;
        let further: [(bool, &[Family]); 6] = [
            (sleep, &SLEEP_FAMILIES),
            (takeover, &TAKEOVER_FAMILIES),
            (tls, &TLS_FAMILIES),
            (spoken.http, &HTTP_FAMILIES),
            (spoken.websocket, &WEBSOCKET_FAMILIES),
            (spoken.push, &PUSH_FAMILIES),
        ];
        let further = further.into_iter().filter(|(shown, _)| *shown).flat_map(|(_, families)| families);
        for metric in FAMILIES.iter().chain(further) {
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?;
            for (shard, counted) in counted.iter().enumerate() {
                for (further, read) in metric.series {
                    value(&mut family, metric.kind, &labels(shard, *further), read(counted))?;
                }
            }
        }
        self.own(&mut encoder)?;
        self.durations(&mut encoder)?;
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

    /// The durations of the shards' rounds, which a ready connection may have to wait; and how long sleeping connections
    /// took to wake, where they may sleep.
    fn durations(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Duration of a working shard's rounds, each from one look at its rings to the next.";
        let mut family = encoder.encode_descriptor("c1m_round_seconds", help, None, MetricType::Histogram)?;
        for (shard, handle) in self.shards.iter().enumerate() {
            histogram(&mut family, shard, &handle.rounds().read())?;
        }
        if !self.also.sleep {
            return Ok(());
        }
        let help = "Time from the segment that woke a sleeping connection until its payload went to the service, or the segment to the new socket.";
        let mut family = encoder.encode_descriptor("c1m_wake_seconds", help, None, MetricType::Histogram)?;
        self.shards
            .iter()
            .enumerate()
            .try_for_each(|(shard, handle)| histogram(&mut family, shard, &handle.wakes().read()))
    }
}

/// A shard's histogram, in the buckets of `ROUND_BOUNDS`.
fn histogram<const N: usize>(family: &mut MetricEncoder, shard: usize, counts: &DurationCounts<N>) -> fmt::Result {
    let bounds = ROUND_BOUNDS.iter().map(|bound| bound.as_secs_f64()).chain([f64::INFINITY]);
    let mut buckets: Vec<(f64, u64)> = bounds.map(|bound| (bound, 0)).collect();
    for (bound, count) in counts.buckets() {
        let within = |bound| ROUND_BOUNDS.partition_point(|coarse| *coarse < bound);
        if let Some((_, counted)) = buckets.get_mut(bound.map_or(ROUND_BOUNDS.len(), within)) {
            *counted = counted.saturating_add(count);
        }
    }
    let labels = labels(shard, None);
    family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(counts.seconds, counts.all(), &buckets, None)
}

/// Metrics of the process, under the names that Prometheus' client libraries agreed on. A value that cannot be read
/// is left out: a counter that fell to 0 would mean that the process was restarted.
fn process(encoder: &mut DescriptorEncoder) -> fmt::Result {
    let (host, pid) = (Host::here(), std::process::id());
    if let Some(spent) = host.cpu_time(pid) {
        let help = "Total user and system CPU time spent in seconds.";
        let mut seconds = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        seconds.encode_counter::<NoLabelSet, f64, u64>(&spent.total(), None)?;
    }
    let (resident, _) = host.resident(pid);
    if resident > 0 {
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
