//! `c1m demo`: runs a server process, with this process as its client, over loopback.

pub(crate) mod certificate;
mod network;

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Ended;
use super::args::{self, DemoArguments};
use super::client::{Signals, lead};
use super::display::Display;
use super::files::Files;
use super::observer::Observer;
use super::out::{say, show};
use crate::client::{ClientTls, Course, Event, Trust, Workload};
use crate::clock::Told;
use crate::command_error::{CommandError, Result};
use crate::connections::CloseMode;
use crate::doctor;
use crate::error::{self, PeerError};
use crate::format;
use crate::host::{self, Cores, Host, start_thread};
use crate::plan::{Goal, Role, Routes, check_connections, check_hibernation};
use crate::render::text;
use crate::results::AuditResult;
use crate::results::document::ClientDocument;
use certificate::Certificate;

/// The most time that the server may take to start, to report a count, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The interval of the server's reports to this process.
const STATS_INTERVAL: &str = "200ms";

/// Runs the demo.
pub fn run(arguments: &DemoArguments) -> Result<Ended> {
    check_connections(arguments.connections)?;
    let host = Host::here();
    let awake = awake(arguments, &host)?;
    let mut files = Files::open(&arguments.files, &[], &[])?;
    let printed = files.are_printed();
    let quiet = printed || arguments.files.quiet;
    let network = network::choose(arguments, &host, awake, || fit(arguments, &host, awake))?;
    if let Some(line) = network.line().filter(|_| !quiet) {
        say(line);
    }
    let fit = fit(arguments, &host, awake)?;
    if let Some(wall) = fit.wall.as_ref().filter(|_| !printed) {
        say(format!(
            "this host holds {} of {} connections: {wall}",
            format::count(fit.connections),
            format::count(arguments.connections)
        ));
    }
    // From here on there are a process and files that a signal must not leave behind.
    let signals = Signals::watch()?;
    let certificate = arguments.tls.then(Certificate::new).transpose()?;
    let mut server = ServerProcess::start(arguments, fit.connections, awake, certificate.as_ref())?;
    let tls = certificate.map(|made| {
        let trust = Trust::Authorities(made.into_authority());
        ClientTls { trust, handshake_timeout: PATIENCE, ..ClientTls::default() }
    });
    let workload =
        Workload { server_pid: Some(server.child.id()), awake, tls, ..workload(arguments, &host, fit.connections)? };
    let mut watcher = DemoObserver { display: Display::new(quiet), server: server.seen.clone(), quiet };
    let summary = lead(workload, &mut files.logging(&mut watcher), Some(signals));
    let document = server.stop();
    // If the server failed, its error explains the client's errors.
    let (summary, document) = match (summary, document) {
        (Ok(summary), Ok(document)) => (summary, document),
        (_, Err(error)) | (Err(error), _) => return Err(error),
    };
    let result = ClientDocument::of(&summary)?;
    if !printed {
        say(text::client(&result)?.trim_end());
        let figure = |name: &str| document.get(name).and_then(Value::as_u64).unwrap_or(0);
        say(format!(
            "\nserver: most live at once {}, refused {}, resident at most {}",
            format::count(figure("peak_live")),
            format::count(figure("refused")),
            format::bytes(figure("resident_bytes"))
        ));
    }
    let server =
        serde_json::from_value(document.clone()).map_err(|e| CommandError::bug(format!("the server's result: {e}")))?;
    // If one file cannot be written, the others are written all the same.
    let mut whole = json!({ "server": document, "client": result, "wall": fit.wall });
    if let Some(own) = network.document() {
        whole["network"] = own;
    }
    let written = files.json.as_ref().map_or(Ok(()), |target| target.write_json(&whole));
    written.and(files.finish(&result, Some(&server)))?;
    Ok(if summary.complete() { Ended::Well } else { Ended::Short })
}

/// The number of connections that this host can hold at both ends, and the wall that permits no more.
struct Fit {
    connections: u64,
    wall: Option<String>,
}

/// Connections awake at once at most at each end, unless more are asked for. A demo's connections speak in audits alone,
/// and the two sockets of one take 8 kB: more of them awake would only take memory.
const AWAKE: u64 = 32_768;

/// How many connections may be awake at once at each end, where others sleep; `None` where none sleeps.
fn awake(arguments: &DemoArguments, host: &Host) -> Result<Option<u64>> {
    check_hibernation(arguments.hibernate, arguments.awake)?;
    if arguments.hibernate.is_none() {
        return Ok(None);
    }
    host.check_hibernation()?;
    if arguments.awake.is_some() {
        return Ok(arguments.awake);
    }
    Ok(Some(args::awake(host, &goal(arguments, host, None)?).min(AWAKE)))
}

/// What this host shall do. Its source ports depend on the network in which this process is.
fn goal(arguments: &DemoArguments, host: &Host, awake: Option<u64>) -> Result<Goal> {
    Ok(Goal {
        role: Role::Both,
        connections: arguments.connections,
        awake,
        keeps_descriptors: host.keeps_descriptors(),
        routes: workload(arguments, host, arguments.connections)?.routes,
        cores: host.choose_cores(&arguments.cores.map_or(Cores::All, Cores::Count))?,
        layers: arguments.layers(),
    })
}

fn fit(arguments: &DemoArguments, host: &Host, awake: Option<u64>) -> Result<Fit> {
    let goal = goal(arguments, host, awake)?;
    let page = doctor::examine(host, &goal);
    let wall = page.decisive().map(|row| format!("{}: {}", row.wall, row.have));
    match page.holds() {
        0 => {
            let cure = page.decisive().and_then(|row| row.fixes.first()).map(|fix| fix.command.clone());
            let cure = cure.unwrap_or_else(|| "run c1m doctor".to_owned());
            Err(CommandError::host(wall.unwrap_or_default(), "not one connection fits", cure))
        }
        most if most < arguments.connections => Ok(Fit { connections: most, wall }),
        _ => Ok(Fit { connections: arguments.connections, wall: None }),
    }
}

fn workload(arguments: &DemoArguments, host: &Host, connections: u64) -> Result<Workload> {
    let mut routes = Routes::new(&[Ipv4Addr::LOCALHOST.into()], arguments.ports.ports()?, &[])?;
    routes.sources = host.loopback_sources(&routes, connections);
    Ok(Workload {
        routes,
        connections,
        cores: arguments.cores.map_or(Cores::All, Cores::Count),
        connect_timeout: PATIENCE,
        reply_timeout: PATIENCE,
        course: Course::Fixed(arguments.hold),
        // Closing by FIN would leave every source port in TIME_WAIT, and the next demo would lack them for a
        // minute.
        close: CloseMode::Abort,
        hibernate: arguments.hibernate,
        protocol: arguments.protocol.echoed()?,
        ..Workload::default()
    })
}

/// The server's events so far.
#[derive(Debug, Default)]
struct Seen {
    ready: bool,
    /// The last count of live connections, and its time of arrival.
    live: Option<(Instant, u64)>,
    /// The server's final document.
    document: Option<Value>,
    /// Whether the server's output has ended.
    ended: bool,
}

/// Reads the server's events to their end.
fn follow(told: &Told<Seen>, output: impl std::io::Read) {
    for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        told.change(|seen| match event.get("event").and_then(Value::as_str) {
            Some("ready") => seen.ready = true,
            Some("stats") => seen.live = event.get("live").and_then(Value::as_u64).map(|live| (Instant::now(), live)),
            Some(_) => {}
            None => seen.document = Some(event),
        });
    }
    told.change(|seen| seen.ended = true);
}

/// The server, another process of this program. It ends when its standard input ends, so it never outlives this
/// process.
struct ServerProcess {
    child: Child,
    stdin: Option<ChildStdin>,
    seen: Arc<Told<Seen>>,
}

impl ServerProcess {
    fn start(
        arguments: &DemoArguments,
        connections: u64,
        awake: Option<u64>,
        certificate: Option<&Certificate>,
    ) -> Result<ServerProcess> {
        let not_started = |e: std::io::Error| host::not_started("the server process", &e);
        let mut command = Command::new(super::this_program()?);
        command.args([
            "server",
            "--until-stdin-closes",
            "--json",
            "-",
            "--bind",
            "127.0.0.1",
            "--stats-interval",
            STATS_INTERVAL,
        ]);
        command.args(["--port", &arguments.ports.port.to_string(), "--ports", &arguments.ports.ports.to_string()]);
        command.args(["--max-connections", &connections.to_string()]);
        command.args(["--protocol", arguments.protocol.name()]);
        if let Some(cores) = arguments.cores {
            command.args(["--cores", &cores.to_string()]);
        }
        if let (Some(silence), Some(awake)) = (arguments.hibernate, awake) {
            let silence = humantime::format_duration(silence).to_string();
            command.args(["--hibernate", &silence, "--awake", &awake.to_string()]);
        }
        if let Some(made) = certificate {
            command.arg("--tls-cert").arg(made.certificates()).arg("--tls-key").arg(made.key());
            command.args(["--handshake-timeout", &humantime::format_duration(PATIENCE).to_string()]);
        }
        // The server has a process group of its own, so Ctrl-C reaches only this process, which then ends the
        // server in order.
        command.process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(not_started)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let seen = Arc::<Told<Seen>>::default();
        let follower = seen.clone();
        if let Some(stdout) = stdout {
            start_thread("c1m-server-output", move || follow(&follower, stdout))
                .inspect_err(|_| drop(child.kill().and_then(|()| child.wait())))?;
        }
        let mut server = ServerProcess { child, stdin, seen };
        if !server.seen.wait(PATIENCE, |seen| seen.ready || seen.ended).ready {
            return Err(server.died("it did not start"));
        }
        Ok(server)
    }

    /// Closes the server's input, and waits for its document.
    fn stop(&mut self) -> Result<Value> {
        self.stdin = None;
        let document = self.seen.wait(PATIENCE, |seen| seen.document.is_some() || seen.ended).document.take();
        document.ok_or_else(|| self.died("it ended without a result"))
    }

    fn died(&mut self, how: &str) -> CommandError {
        self.stdin = None;
        let ended = self.seen.wait(PATIENCE, |seen| seen.ended).ended;
        let status = match if ended { self.child.wait().map(Some) } else { self.child.try_wait() } {
            Ok(Some(status)) => status.to_string(),
            _ => "still running".to_owned(),
        };
        CommandError::host(format!("server process: {how} ({status})"), "the demo needs it", "read its message above")
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.stdin = None;
        // The server drains by itself, but a server that hangs must not outlive this process.
        if !self.seen.wait(PATIENCE, |seen| seen.ended).ended {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Shows the client's progress, and compares its counts with the server's at every audit.
struct DemoObserver {
    display: Display,
    server: Arc<Told<Seen>>,
    quiet: bool,
}

impl Observer for DemoObserver {
    fn take(&mut self, event: &Event, workload: &Workload) -> error::Result<()> {
        self.display.take(event, workload)?;
        match event {
            Event::Audited(result) => self.compare(result),
            _ => Ok(()),
        }
    }
}

impl DemoObserver {
    /// Waits until the server counts as many live connections as the client has proved.
    fn compare(&self, result: &AuditResult) -> error::Result<()> {
        let now = Instant::now();
        let seen = self
            .server
            .wait(PATIENCE, |seen| seen.live.is_some_and(|(at, live)| at > now && live == result.live) || seen.ended);
        let server = seen.live.map_or(0, |(_, live)| live);
        if server != result.live {
            return Err(PeerError::Counts { round: result.round, proved: result.live, counted: server }.into());
        }
        if !self.quiet {
            show(format!("the server counts {} live too", format::count(server)));
        }
        Ok(())
    }
}
