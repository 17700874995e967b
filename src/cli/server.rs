//! `c1m server`: starts the server, prints a line per interval, stops on a signal, and prints the totals.

mod ready;

use std::collections::BTreeSet;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::args::{ServerArguments, ServerProtocol, ServiceName};
use super::hibernation::{DELAYED_ACKNOWLEDGEMENT, TOO_SOON, asleep_after};
use super::live::{Live, Recent};
use super::out::{Target, event, say, show, warn, warn_of_input};
use super::{Blocking, Ended, hide_memory, on_signal, on_signal_or_hangup, warn_of_little_memory};
use crate::command_error::{CommandError, Result};
use crate::format;
use crate::host::{HOST_MEMORY, Host, start_thread};
use crate::memory_model::End;
use crate::output;
use crate::plan::{IdleBackend, Reserve};
use crate::render::text;
use crate::results::document::ServerDocument;
use crate::results::{
    HibernationDocument, ServerShard, ServerSummary, ServerTlsDocument, SpokenDocument, TakeoverDocument,
};
use crate::server::{IdleChoice, Server, ServerBuilder, ServerEvent, ShardInfo, Shortage};
use crate::service::http::{Http, HttpService};
use crate::service::push::Push;
use crate::service::websocket::{WebSocket, WebSocketService};
use crate::service::{Echo, Service, Sink};
use crate::stats::{Snapshot, Spoken};
use crate::sys;
use crate::tls_version::TlsVersion;
use crate::walls::{self, EvidenceRecorder, Explained};

/// Why the reporter wakes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// A signal came, or the parent has gone: the server is to stop.
    Stop,
    /// The certificates are to be read again: SIGHUP came.
    Reload,
    /// The server tells something.
    Server(ServerEvent),
}

/// Runs the server until a signal.
pub fn run(arguments: &ServerArguments) -> Result<Ended> {
    let options = arguments.options()?;
    let outputs = [("--json", arguments.json.as_deref()), ("--takeover", arguments.takeover.as_deref())];
    output::differ(&outputs)?;
    output::keep_inputs(&arguments.tls.inputs(), &outputs)?;
    let json = arguments.json.as_deref().map(Target::open).transpose()?;
    let (sender, news) = mpsc::channel();
    let tell = |news: News| {
        let sender = sender.clone();
        move || {
            let _ = sender.send(news);
        }
    };
    if options.has_tls() {
        hide_memory()?;
        on_signal_or_hangup(tell(News::Reload), tell(News::Stop))?;
    } else {
        on_signal(tell(News::Stop))?;
    }
    warn_of_little_memory(End::Server, &options.cores);
    if arguments.until_stdin_closes {
        stop_with_stdin(sender.clone())?;
    }
    let builder = ServerBuilder::from(options).on_event(move |event| {
        // It fails when the reporter has gone, and then no event is wanted.
        let _ = sender.send(News::Server(event));
    });
    let run = Run { arguments, builder, news, json };
    let limits = arguments.service.push_limits();
    match (arguments.service.protocol, arguments.service.service) {
        (ServerProtocol::Raw, ServiceName::Echo) => run.serve(|_| Echo),
        (ServerProtocol::Raw, ServiceName::Sink) => run.serve(|_| Sink),
        (ServerProtocol::Raw, ServiceName::Push) => run.serve(move |shard| Push::with(shard.mailbox(), limits)),
        (ServerProtocol::WebSocket, ServiceName::Echo) => run.websocket(|_| Echo),
        (ServerProtocol::WebSocket, ServiceName::Sink) => run.websocket(|_| Sink),
        (ServerProtocol::WebSocket, ServiceName::Push) => run.websocket(|shard| Push::new(shard.mailbox())),
        (ServerProtocol::Http, ServiceName::Echo) => run.http(Echo),
        // `Arguments` refuses `push`.
        (ServerProtocol::Http, ServiceName::Sink | ServiceName::Push) => run.http(Sink),
    }
}

/// A server that is to run, and what waits for its end.
struct Run<'a> {
    arguments: &'a ServerArguments,
    builder: ServerBuilder,
    news: mpsc::Receiver<News>,
    json: Option<Target>,
}

impl Run<'_> {
    /// Runs it with this service until it ends.
    fn serve<S: Service>(self, service: impl Fn(ShardInfo<S::Message>) -> S + Send + Sync + 'static) -> Result<Ended> {
        let Run { arguments, builder, news, json } = self;
        let server = builder.start(service)?;
        let (verbose, quiet) = (arguments.verbose, arguments.quiet);
        let mut reporter = Reporter { events: json.is_some(), verbose, quiet, spoken: S::SPOKEN, ..Reporter::new() };
        reporter.ready(&server, arguments);
        sys::release_start_memory();
        let summary = reporter.serve(server, &news, arguments.stats_interval)?;
        let document = ServerDocument::of(&summary);
        match json {
            None => say(text::server(&summary).trim_end()),
            Some(target) => {
                if !target.is_stdout() {
                    event(&json!({ "event": "stopped" }));
                }
                target.write_last(&document)?;
            }
        }
        Ok(Ended::Well)
    }

    /// Runs it with this service of messages.
    fn websocket<S: WebSocketService>(
        self,
        service: impl Fn(ShardInfo<S::Message>) -> S + Send + Sync + 'static,
    ) -> Result<Ended> {
        let limits = self.arguments.service.websocket_limits();
        self.serve(move |shard| WebSocket::with(service(shard), limits))
    }

    /// Runs it with this service of requests.
    fn http<S: HttpService<Message = ()> + Copy + Send + Sync>(self, service: S) -> Result<Ended> {
        let limits = self.arguments.service.http_limits();
        self.serve(move |_| Http::with(service, limits))
    }
}

/// How many connections came, were refused, and went.
fn came_and_went(shards: &[Snapshot]) -> u64 {
    shards.iter().map(|shard| shard.opened + shard.refused + shard.closed).sum()
}

/// What a server says whose host does not tell how much memory is left.
const NO_RESERVE: &str = "what memory is left cannot be read in /proc: none is kept in reserve, and new connections are admitted until the kernel kills a process; mount /proc, or give --memory-reserve 0";

fn stop_with_stdin(news: mpsc::Sender<News>) -> Result<()> {
    let wait = move || {
        // The end of the input, or an error on it, means that the parent process has gone.
        if let Err(error) = std::io::copy(&mut Blocking(std::io::stdin()), &mut std::io::sink()) {
            warn_of_input(
                &error,
                "the server stops, as if it had ended; give it a pipe, or leave out --until-stdin-closes",
            );
        }
        let _ = news.send(News::Stop);
    };
    start_thread("c1m-stdin", wait)?;
    Ok(())
}

/// Prints what a server does, as lines for people or as JSON events.
struct Reporter {
    events: bool,
    verbose: bool,
    quiet: bool,
    /// The lines that are rewritten in place, on a terminal.
    live: Option<Live>,
    /// Whether connections may sleep.
    sleeps: bool,
    /// What is said on the connections.
    spoken: Spoken,
    /// Whether the server speaks TLS.
    has_tls: bool,
    /// What the live view shows of each shard's durations.
    recent: Vec<Recent>,
    started: Instant,
    last: (Instant, Vec<Snapshot>),
    /// Whether the last line on memory reported a shortage, and the number of refusals in it.
    memory_said: (bool, u64),
    memory_said_at: Option<Instant>,
    evidence: EvidenceRecorder,
    /// Walls that were already reported.
    walls_said: BTreeSet<String>,
}

impl Reporter {
    fn new() -> Reporter {
        let now = Instant::now();
        Reporter {
            events: false,
            verbose: false,
            quiet: false,
            sleeps: false,
            spoken: Spoken::default(),
            has_tls: false,
            live: None,
            recent: Vec::new(),
            started: now,
            last: (now, Vec::new()),
            memory_said: (false, 0),
            memory_said_at: None,
            evidence: EvidenceRecorder::begin(&Host::here()),
            walls_said: BTreeSet::new(),
        }
    }

    fn ready<M: Send + 'static>(&mut self, server: &Server<M>, arguments: &ServerArguments) {
        let (options, metrics) = (server.options(), server.metrics_url());
        if let Some(unreachable) = walls::out_of_reach(&Host::here(), options.bind) {
            warn(unreachable.to_string());
        }
        if options.memory_reserve != Reserve::Bytes(0) && Host::here().memory_left().is_empty() {
            warn(NO_RESERVE);
        }
        self.last = (Instant::now(), server.snapshots());
        self.evidence.listens(server.dropped_at_listeners());
        self.sleeps = server.awake().is_some();
        self.has_tls = options.has_tls();
        let (files, memory) = (server.raised().files, server.raised().memory);
        if self.events {
            return event(&ready::event(server, arguments));
        }
        show(format!(
            "c1m server: {} ports {}-{} on {}, up to {} connections, accept queue {} per port",
            options.ports.count(),
            options.ports.first(),
            options.ports.last(),
            options.bind,
            format::count(options.max_connections),
            format::count(server.backlog() as u64),
        ));
        if options.backlog.is_some_and(|wanted| i64::from(wanted) > i64::from(server.backlog())) {
            warn(format!("--backlog is capped at {} by net.core.somaxconn; raise it with sysctl", server.backlog()));
        }
        let raised =
            |before: u64, now: u64| if now > before { format!("{now}, raised from {before}") } else { now.to_string() };
        show(format!(
            "kernel {}; file descriptors {}; locked memory {} bytes",
            sys::kernel_release(),
            raised(files.0.soft, files.1.soft),
            raised(memory.0.soft, memory.1.soft),
        ));
        self.say_how(server);
        if let Some(metrics) = metrics {
            show(format!("metrics: {metrics}"));
        }
        show("ready");
        if !self.quiet {
            self.live = Live::open(None, server.plans().count());
            self.recent = server.handles().into_iter().map(Recent::of).collect();
        }
    }

    /// Says how the connections wait, sleep and are spread, and whether they speak TLS.
    fn say_how<M: Send + 'static>(&self, server: &Server<M>) {
        let options = server.options();
        show(match server.idle_choice() {
            IdleChoice { park: IdleBackend::Filter, .. } => {
                "idle connections wait behind a filter, for no memory".to_owned()
            }
            IdleChoice { refusal: None, .. } => "idle connections wait in polls, 256 bytes each".to_owned(),
            IdleChoice { refusal: Some(errno), .. } => {
                format!("idle connections wait in polls, 256 bytes each: no filter may be had here ({errno})")
            }
        });
        let most = server.handshakes().zip(server.incomplete_records());
        if let (Some(lowest), Some((handshakes, incomplete))) = (options.tls_version(), most) {
            let versions = match lowest {
                TlsVersion::Tls13 => "TLS 1.3, 80 bytes a connection",
                TlsVersion::Tls12 => "TLS 1.3, 80 bytes a connection, and TLS 1.2, 112 bytes",
            };
            let (handshakes, incomplete) = (format::count(handshakes.into()), format::bytes(incomplete));
            show(format!(
                "{versions}; up to {handshakes} handshakes at once, and {incomplete} of incomplete records; SIGHUP reads \
                 the certificates again"
            ));
        }
        if let (Some(silence), Some(awake)) = (options.hibernate, server.awake()) {
            show(asleep_after(silence, awake));
            if silence < DELAYED_ACKNOWLEDGEMENT {
                warn(TOO_SOON);
            }
        }
        for (shard, plan) in server.plans().enumerate() {
            let span = match (plan.ports.first(), plan.ports.last()) {
                (Some(first), Some(last)) if first != last => format!("ports {first}-{last}"),
                (Some(only), _) => format!("port {only}"),
                _ => "no port".to_owned(),
            };
            show(format!(
                "shard {shard}: core {}, {span}, {} rings, {} slots",
                plan.core,
                plan.rings.len(),
                format::count(plan.slots())
            ));
        }
        if let Some(line) = taken_over(server) {
            show(line);
        }
    }

    /// Prints a line that is no figure.
    fn tell(&self, line: &str) {
        match &self.live {
            Some(live) => live.warn(line),
            None if self.events => event(&json!({ "event": "takeover", "text": line })),
            None => show(line),
        }
    }

    /// Prints a warning, on a terminal above the lines that are rewritten.
    fn warn(&self, line: &str) {
        match &self.live {
            Some(live) => live.warn(line),
            None => warn(line),
        }
    }

    /// Reports until a signal arrives or a shard dies, then stops the server.
    fn serve<M: Send + 'static>(
        &mut self,
        server: Server<M>,
        news: &mpsc::Receiver<News>,
        interval: Duration,
    ) -> Result<ServerSummary> {
        let is_well = self.report(&server, news, interval)?;
        self.live = None;
        let summary = self.sum_up(server)?;
        if is_well { Ok(summary) } else { Err(CommandError::bug("a shard ended without being told to")) }
    }

    /// Reports until a signal arrives or a shard dies. `false` if a shard died.
    fn report<M: Send + 'static>(
        &mut self,
        server: &Server<M>,
        news: &mpsc::Receiver<News>,
        interval: Duration,
    ) -> Result<bool> {
        let mut next = Instant::now() + interval;
        loop {
            match news.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(News::Stop | News::Server(ServerEvent::HandedOver)) => return Ok(true),
                Ok(News::Reload) => self.reload(server),
                Ok(News::Server(ServerEvent::HandingOver)) => self.tell("a later server takes over"),
                Ok(News::Server(ServerEvent::SuccessorSilent { process })) => self.warn(&format!(
                    "the later server, process {process}, does not answer; this one waits, and accepts nothing: let it go on (kill -CONT {process}), or end it (kill -9 {process})"
                )),
                Ok(News::Server(ServerEvent::SuccessorLingers { process })) => {
                    self.warn(&lingering(process, self.sleeps))
                }
                Ok(News::Server(ServerEvent::SuccessorGone)) => {
                    self.warn("the later server is gone before it had everything; this one serves on");
                }
                Ok(News::Server(ServerEvent::StoreFailed(errno))) => self.warn(&format!(
                    "NOTIFY_SOCKET: {errno}: the service manager takes nothing: no connection outlives this process; unset it where there is none"
                )),
                Ok(News::Server(ServerEvent::MemoryShort | ServerEvent::MemorySuffices)) => self.memory(server),
                Ok(News::Server(ServerEvent::ShardEnded(shard))) => {
                    self.warn(&format!("shard {shard} died; stopping the others"));
                    return Ok(false);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = server.snapshots();
                    let is_quiet = came_and_went(&now) == came_and_went(&self.last.1);
                    self.interval(&now);
                    self.walls(is_quiet, || server.dropped_at_listeners());
                    self.memory(server);
                    // After a pause of the process one line covers the whole pause, and the next line does not
                    // follow at once.
                    next = (next + interval).max(Instant::now() + interval / 2);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(CommandError::bug("the server's events ended")),
            }
        }
    }

    /// Stops the server, and sums up what it did.
    fn sum_up<M: Send + 'static>(&mut self, server: Server<M>) -> Result<ServerSummary> {
        let host = Host::here();
        let pid = std::process::id();
        let at_stop: Snapshot = server.snapshots().into_iter().sum();
        // After the live ones, so that it is not less than they are.
        let peak_live = server.peak_live();
        let shortage = server.last_shortage();
        let mut walls = walls::explain(&self.evidence.evidence_of_listeners(server.dropped_at_listeners()));
        walls.extend(shortage.as_ref().map(explained));
        let plans: Vec<_> = server.plans().cloned().collect();
        let takes_over = server.options().takeover.is_some();
        server.stop();
        let handles = server.handles();
        let finals = server.join()?;
        let counted: Snapshot = finals.iter().map(|shard| shard.server).sum();
        let hibernation = self.sleeps.then(|| {
            let slept = HibernationDocument::of(&Snapshot { asleep: at_stop.asleep, ..counted });
            slept.with_wakes(handles.iter().map(|handle| handle.wakes().read()))
        });
        Ok(ServerSummary {
            shards: plans
                .into_iter()
                .zip(finals)
                .map(|(plan, counters)| ServerShard { plan, counters: counters.server })
                .collect(),
            spoken: SpokenDocument::of(self.spoken, &counted),
            live_at_stop: at_stop.live,
            peak_live,
            memory_wall: shortage.as_ref().map(wall),
            walls,
            hibernation: hibernation.transpose()?,
            tls: self.has_tls.then(|| ServerTlsDocument::of(&counted)),
            takeover: takes_over.then(|| TakeoverDocument::of(&counted)),
            resident_bytes: host.resident(pid).1,
            cpu_time: host.cpu_time(pid).unwrap_or_default(),
        })
    }

    /// Reads the certificates again, and says whether they are used.
    fn reload<M: Send + 'static>(&self, server: &Server<M>) {
        match server.reload_certificates() {
            Ok(()) if self.events => event(&json!({ "event": "reloaded" })),
            Ok(()) => show("certificates read again: new connections get them"),
            Err(error) => {
                self.warn(&format!("the certificates from before stay: {}", CommandError::from(error)));
            }
        }
    }

    /// Reports the beginning and the end of a memory shortage, and during it the number of refused connections. It
    /// prints one line per second at most.
    fn memory<M: Send + 'static>(&mut self, server: &Server<M>) {
        let total: Snapshot = server.snapshots().into_iter().sum();
        let shortage = server.shortage();
        let (was_short, refused) = self.memory_said;
        let news = shortage.is_some() != was_short || total.refused_for_memory > refused;
        let now = Instant::now();
        if !news || self.memory_said_at.is_some_and(|then| now.duration_since(then) < Duration::from_secs(1)) {
            return;
        }
        (self.memory_said_at, self.memory_said) = (Some(now), (shortage.is_some(), total.refused_for_memory));
        let (held, refused) = (format::count(total.live), format::count(total.refused_for_memory));
        match shortage {
            Some(shortage) => self.warn(&format!(
                "{}: new connections are refused, {refused} so far, and {held} held; free memory, or lower --memory-reserve",
                wall(&shortage)
            )),
            None => self.warn(&format!("memory suffices again: new connections are admitted, {held} held")),
        }
    }

    /// Reports a wall when the evidence first shows it. It looks at the evidence once a second at most, and more seldom
    /// where no connection came or went.
    fn walls(&mut self, is_quiet: bool, dropped: impl FnOnce() -> Option<u64>) {
        if !self.evidence.is_due(is_quiet) {
            return;
        }
        let met = walls::explain(&self.evidence.evidence_of_listeners(dropped()));
        // A quota is shared with whatever else runs in the cgroup, and is used up again and again: the result tells of it.
        for met in met.into_iter().filter(|met| met.wall != walls::CORES.name) {
            if self.walls_said.insert(met.wall.clone()) {
                self.warn(&met.to_string());
            }
        }
    }

    fn interval(&mut self, now: &[Snapshot]) {
        let at = Instant::now();
        let seconds = at.duration_since(self.last.0).as_secs_f64().max(f64::MIN_POSITIVE);
        let before: Snapshot = self.last.1.iter().copied().sum();
        let total: Snapshot = now.iter().copied().sum();
        if self.events && !self.quiet {
            let mut stats = json!({
                "event": "stats", "seconds": self.started.elapsed().as_secs_f64(), "live": total.live, "opened": total.opened,
                "closed": total.closed, "silent": total.silent, "refused": total.refused,
                "refused_for_memory": total.refused_for_memory, "messages": total.messages, "bytes": total.bytes_in,
            });
            if self.sleeps {
                stats["hibernation"] = json!(HibernationDocument::of(&total));
            }
            if let (Value::Object(stats), Value::Object(said)) =
                (&mut stats, json!(SpokenDocument::of(self.spoken, &total)))
            {
                stats.extend(said);
            }
            if self.has_tls {
                stats["tls"] = json!(ServerTlsDocument::of(&total));
            }
            event(&stats);
        } else if let Some(live) = &mut self.live {
            live.head(
                0,
                format!("{:>5}s  {}", self.started.elapsed().as_secs(), line(&before, &total, seconds, self.sleeps)),
            );
            for (shard, ((before, now), recent)) in self.last.1.iter().zip(now).zip(&mut self.recent).enumerate() {
                let done = (now.opened + now.closed + now.messages)
                    .saturating_sub(before.opened + before.closed + before.messages);
                let text = format!("       {}  {}", line(before, now, seconds, self.sleeps), recent.p99(self.sleeps));
                live.shard(shard, &text, (done as f64 / seconds) as u64);
            }
        } else if !self.quiet {
            show(format!("{:>5}s  {}", self.started.elapsed().as_secs(), line(&before, &total, seconds, self.sleeps)));
            if self.verbose {
                for (shard, (before, now)) in self.last.1.iter().zip(now).enumerate() {
                    show(format!("  shard {shard}  {}", line(before, now, seconds, self.sleeps)));
                }
            }
        }
        // One line per interval at most, however many connections were refused.
        let full = total.refused_when_full.saturating_sub(before.refused_when_full);
        if full > 0 {
            self.warn(&format!(
                "full: {full} connections refused, {} in all; raise --max-connections, or use --port-sharing all if only some ports are used",
                total.refused_when_full
            ));
        }
        if total.accept_errors > before.accept_errors {
            self.warn("the kernel has no memory or files for new connections; accepting pauses, the others are kept");
        }
        self.last = (at, now.to_vec());
    }
}

/// What a server has taken over at its start; `None` if nothing.
fn taken_over<M: Send + 'static>(server: &Server<M>) -> Option<String> {
    let lost = |lost: u64| if lost > 0 { format!(", {} lost", format::count(lost)) } else { String::new() };
    let paused = server.pauses().filter(|pauses| pauses.count() > 0).map_or_else(String::new, |pauses| {
        let longest = Duration::from_micros(pauses.max()).as_secs_f64() * 1e3;
        format!(", those that were awake paused for {longest:.1} ms at most")
    });
    match server.taken_over() {
        (0, 0) => None,
        (taken, gone) => Some(format!("taken over: {} connections{}{paused}", format::count(taken), lost(gone))),
    }
}

/// What to do about a later server that has given up and has not ended.
fn lingering(process: u32, sleeps: bool) -> String {
    let this_one =
        if sleeps { "accepts nothing until it ends, as it has the sleeping connections" } else { "serves on" };
    format!(
        "the later server, process {process}, has given up and has not ended; this one {this_one}: kill -9 {process}"
    )
}

/// A shortage of memory, as text.
fn wall(shortage: &Shortage) -> String {
    let (have, reserve) = (format::bytes(shortage.have), format::bytes(shortage.reserve));
    format!("{}: {have} left, {reserve} reserved", shortage.wall)
}

/// A shortage of memory as a wall that the server met.
fn explained(shortage: &Shortage) -> Explained {
    Explained {
        wall: if shortage.wall == HOST_MEMORY { "memory" } else { "cgroup memory" }.to_owned(),
        saw: wall(shortage),
        means: "new connections were refused so that those that are open can stay".to_owned(),
        cure: "free memory, raise the limit, or lower --memory-reserve".to_owned(),
    }
}

/// A line of figures; with those asleep where connections may sleep.
fn line(before: &Snapshot, now: &Snapshot, seconds: f64, sleeps: bool) -> String {
    let asleep = if sleeps { format!("  asleep {:>9}", format::count(now.asleep)) } else { String::new() };
    let rate = |before: u64, now: u64| format::count((now.saturating_sub(before) as f64 / seconds) as u64);
    format!(
        "live {:>9}{asleep}  opened {:>9}  closed {:>9}  {:>7} accepts/s  {:>7} messages/s  {:>9}/s",
        format::count(now.live),
        format::count(now.opened),
        format::count(now.closed),
        rate(before.opened, now.opened),
        rate(before.messages, now.messages),
        format::bytes((now.bytes_in.saturating_sub(before.bytes_in) as f64 / seconds) as u64),
    )
}
