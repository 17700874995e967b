//! Leads the four-machine lab: what was typed becomes a plan, the plan machines, and what they did a
//! report.
//!
//! ```text
//!  args ── profile      what was typed; boot parameters
//!  kernel  archive      a distribution's kernel; the initramfs of one guest
//!          libraries    the shared libraries of the programs in it
//!  accel ── guest       KVM or TCG; one QEMU process, its links and its serial ports
//!  lead ── machine      the run, step by step; what each guest told
//!  story  patience      what was proved so far; how long a step may take
//!  walls  report ── page   why a guest died; what it all came to, for people and as a page
//! ```
#![deny(unsafe_code)]
#![warn(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod accel;
mod archive;
mod args;
mod guest;
mod kernel;
mod lead;
mod libraries;
mod machine;
mod page;
mod patience;
mod profile;
mod report;
mod story;
mod walls;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};

use c1m::internal::command_error::{CommandError, Result};
use c1m::internal::format::count;
use c1m::internal::output::{self, Output};
use c1m::internal::plan::{MOST_AWAKE, Ports, Role as End};
use clap::Parser;

use archive::Role;
use args::{Arguments, Plan, Programs};
use guest::{Guest, Heard, Link, Spec};
use kernel::Kernel;
use report::{Report, Setting};
use story::Story;

/// Memory that the host needs beside the guests, in MiB.
const HOST_MEMORY_MIB: u64 = 1024;

/// How often the guests are started at most.
const BOOTS: u32 = 4;

/// How long a guest's processor stays on a core when others want it. They are more than the host has cores, and
/// each that is translated works on megabytes of translations and tables: with turns of 3 ms, as usual, much of a
/// turn is spent fetching those from memory, and a ramp takes 1.6 times as long.
const TURN: Duration = Duration::from_millis(100);

/// How a client is led. On a busy host, translated guests may stand still for seconds. It closes by
/// RST, because each FIN is a packet in the server's memory until the server closes too, which a full
/// one has no room for: 430,000 within a minute, and the kernel killed it. It closes no faster than the
/// server's machine takes it: of 680,000 closed in 38 s, 57,579 RSTs were lost, presumably for want of
/// memory (TCPAbortFailed), as each that waits keeps its socket.
const CLIENT: &str = "--steer --json - --connect-timeout 60s --reply-timeout 60s --close rst --close-rate 4000";

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // There is nowhere left to complain to if standard error is gone too.
            let _ = writeln!(std::io::stderr(), "c1m-lab: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs the lab; tells whether everything held.
fn run(arguments: &Arguments) -> Result<bool> {
    let plan = arguments.plan()?;
    check_memory(&plan)?;
    let kernel = Kernel::find(arguments.kernel.as_deref())?;
    let busybox = busybox()?;
    let tools = archive::Tools { busybox: &busybox, modules: &kernel.modules };
    // Until the guests listen to it a signal ends the lab at once.
    let signals = Arc::new(Mutex::new(mpsc::channel().0));
    watch_signals(signals.clone())?;
    c1m::internal::cli::survive_harmless_signals()?;

    // A wrong path is told before a long run, and not after.
    let drawn = arguments.report.as_deref().map(Output::open).transpose()?;
    let inputs: Vec<&Path> =
        [&arguments.kernel, &arguments.server_program].into_iter().flatten().map(|path| &**path).collect();
    output::keep_inputs(&inputs, &[("--report", arguments.report.as_deref())])?;
    let stamp = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let folder = folder(&arguments.out, &stamp)?;
    let (accelerator, processor) = accel::choose(arguments.accel, &kernel, &tools, &folder)?;
    let profile = arguments.profile;
    let awake = plan.hibernate.map(|_| MOST_AWAKE);
    let setting = Setting {
        started: stamp,
        programs: plan.programs.name(),
        accelerator,
        kernel: kernel.release.clone(),
        profile,
        server_command_line: profile.command_line(End::Server, plan.connections(), awake, &arguments.append),
        client_command_line: profile.command_line(End::Client, plan.share, awake, ""),
        server: plan.server,
        client: plan.client,
        host_cores: std::thread::available_parallelism().map_or(1, usize::from),
    };
    lead::say(&format!(
        "{}: {} connections, {} clients, {accelerator}, kernel {}",
        setting.programs,
        count(plan.connections()),
        plan.clients,
        setting.kernel
    ));
    lead::say(&format!("boot line: {}", setting.server_command_line));
    lead::say(&format!("logs: {}", folder.display()));

    // All guests are children of this thread, and inherit it.
    if let Err(error) = c1m::internal::sys::use_batch_scheduling(TURN) {
        lead::say(&format!("guests take turns as short as usual, which costs time: {error}"));
    }
    let boot = |heard: &mpsc::Sender<Heard>| {
        let mut guests = Vec::new();
        for (number, (role, links)) in roles(&plan, &arguments.programs).into_iter().enumerate() {
            let spec = spec(&setting, &plan, &kernel, &processor, &folder, number, links);
            archive::write(&spec.file("cpio"), &role, &tools)?;
            guests.push(Guest::boot(spec, number, heard.clone())?);
        }
        Ok(guests)
    };
    let Led { lab, story, ended, started } = lead_all(&plan, &signals, boot)?;
    let report = Report::of(setting, &plan, &lab, story, ended, started.elapsed().as_secs_f64());
    drop(lab);
    let report = report?;
    let text = report::text(&report);
    lead::say(&text);
    let page = page::page(&report)?;
    keep(&folder, &report, &text, page.as_deref())?;
    match (drawn, page) {
        (Some(output), Some(page)) => output.write(page.as_bytes())?,
        (Some(_), None) => lead::say("there is no page: no client told what it came to"),
        (None, _) => {}
    }
    Ok(report.held)
}

/// Refuses a run that would drive the host itself out of memory.
fn check_memory(plan: &Plan) -> Result<()> {
    let need = plan.memory_mib().saturating_add(HOST_MEMORY_MIB);
    // Every limit counts: this may be a container.
    let left = c1m::internal::host::Host::here().memory_left();
    let have = left.iter().map(|limit| limit.left >> 20).min().unwrap_or(u64::MAX);
    if have < need {
        return Err(CommandError::host(
            format!("{have} MiB of memory left"),
            format!("the machines take up to {need} MiB"),
            "free some, or try --quick, --server-memory, --client-memory",
        ));
    }
    Ok(())
}

fn busybox() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("busybox")).find(|file| file.is_file());
    found.ok_or_else(|| CommandError::host("no busybox", "the guests have no other programs", "run tuning/lab/setup"))
}

fn watch_signals(heard: Arc<Mutex<mpsc::Sender<Heard>>>) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new(c1m::internal::sys::ending_signals())
        .map_err(|e| CommandError::bug(format!("watching signals: {e}")))?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if heard.lock().unwrap_or_else(PoisonError::into_inner).send(Heard::Signal).is_err() {
                std::process::exit(128 + signal);
            }
        }
    });
    Ok(())
}

/// A run that has ended.
struct Led {
    lab: lead::Lab,
    story: Story,
    ended: std::result::Result<(), lead::Failure>,
    started: Instant,
}

/// Boots the guests and leads them through a run. Where the clock of one runs at another speed, all are started again. What the
/// guests before say as they end is not heard any more.
fn lead_all(
    plan: &Plan,
    signals: &Mutex<mpsc::Sender<Heard>>,
    boot: impl Fn(&mpsc::Sender<Heard>) -> Result<Vec<Guest>>,
) -> Result<Led> {
    let mut boots = 1;
    loop {
        let (sender, heard) = mpsc::channel();
        *signals.lock().unwrap_or_else(PoisonError::into_inner) = sender.clone();
        let started = Instant::now();
        let mut lab = lead::Lab::new(plan.clone(), boot(&sender)?, heard, started);
        let mut story = Story::default();
        let ended = lab.run(&mut story);
        match &ended {
            Err(lead::Failure { guest: Some(place), wall: wall @ walls::Wall::Clock(_) }) if boots < BOOTS => {
                lead::say(&format!("{}: {wall}; all are started again", lab.name(*place)));
            }
            _ => return Ok(Led { lab, story, ended, started }),
        }
        boots += 1;
    }
}

/// A new folder for the logs of this run.
fn folder(out: &Path, stamp: &str) -> Result<PathBuf> {
    let folder = out.join(stamp.replace(':', "-"));
    let failed = |e: std::io::Error| {
        CommandError::host(format!("make {}: {e}", folder.display()), "logs have no place", "choose another --out")
    };
    std::fs::create_dir_all(&folder).map_err(failed)?;
    folder.canonicalize().map_err(failed)
}

/// What each guest is: the server first, with a card for each client.
fn roles(plan: &Plan, folder: &Path) -> Vec<(Role, Vec<Link>)> {
    let mut all = Vec::new();
    let mut server_links = Vec::new();
    let (ours, reference) = (folder.join("c1m"), folder.join("c1m-reference"));
    // All are tuned by c1m, so that nothing but the programs differs.
    let (serving, dialing) = match &plan.programs {
        Programs::Ours { .. } => (vec![ours.clone()], vec![ours]),
        Programs::Reference => (vec![reference.clone(), ours.clone()], vec![reference, ours]),
        Programs::Theirs { server, .. } => (vec![server.clone(), ours.clone()], vec![ours]),
    };
    let sleep = plan.hibernate();
    for client in 1..=plan.clients {
        let socket = format!("link-{client}");
        server_links.push(Link { socket: socket.clone(), listens: true });
        let (server, share) = (format!("10.0.{client}.1"), plan.share);
        let role = Role {
            name: "client",
            addresses: vec![format!("10.0.{client}.2/24")],
            programs: dialing.clone(),
            counts: true,
            command: match &plan.programs {
                Programs::Reference => format!("c1m-reference client {server} {share}"),
                Programs::Ours { client, .. } | Programs::Theirs { client, .. } => {
                    format!("c1m client --target-ip {server} --connections {share} {CLIENT}{sleep} {client}")
                }
            },
            tune: format!("c1m tune --apply --role client --target-ip {server} --connections {share}{sleep}"),
            server,
        };
        all.push((role, vec![Link { socket, listens: false }]));
    }
    let connections = plan.connections();
    let role = Role {
        name: "server",
        addresses: (1..=plan.clients).map(|client| format!("10.0.{client}.1/24")).collect(),
        server: String::new(),
        programs: serving,
        counts: plan.programs.count(),
        command: match &plan.programs {
            Programs::Reference => "c1m-reference server 0.0.0.0".to_owned(),
            Programs::Ours { server, .. } => {
                format!("c1m server --max-connections {connections} --json -{sleep} {server}")
            }
            Programs::Theirs { .. } => {
                let (ports, cores) = (Ports::ARTICLE, (0..plan.server.cores).map(|core| core.to_string()));
                let cores = cores.collect::<Vec<_>>().join(",");
                format!("{} 0.0.0.0 {} {} {cores}", plan.programs.name(), ports.first(), ports.count())
            }
        },
        // What the doctor says of the tuned machine is held against what it then does.
        tune: format!(
            "c1m tune --apply --role server --connections {connections}{sleep} &&\n\
             {{ c1m doctor --role server --connections {connections}{sleep} --json >/run/doctor || true; }}\n"
        ),
    };
    all.insert(0, (role, server_links));
    all
}

fn spec(
    setting: &Setting,
    plan: &Plan,
    kernel: &Kernel,
    processor: &[String],
    folder: &Path,
    number: usize,
    links: Vec<Link>,
) -> Spec {
    let server = number == lead::SERVER;
    Spec {
        name: if server { "server".to_owned() } else { format!("client-{number}") },
        size: if server { plan.server } else { plan.client },
        kernel: kernel.image.clone(),
        command_line: if server { &setting.server_command_line } else { &setting.client_command_line }.clone(),
        processor: processor.to_vec(),
        links,
        folder: folder.to_owned(),
    }
}

/// Writes the report; removes the sockets, and the archives, which are large and can be made again.
fn keep(folder: &Path, report: &Report, text: &str, page: Option<&str>) -> Result<()> {
    let failed = |e: std::io::Error| incomplete(folder, &e);
    let json = serde_json::to_string_pretty(report).map_err(|e| CommandError::bug(format!("JSON: {e}")))?;
    let write = |name: &str, text: &str| Output::open(&folder.join(name))?.write(text.as_bytes());
    write("report.txt", text)?;
    write("report.json", &json)?;
    page.map_or(Ok(()), |page| write("report.html", page))?;
    for entry in std::fs::read_dir(folder).map_err(failed)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".cpio") || name.starts_with("link-") {
            std::fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

fn incomplete(path: &Path, error: &std::io::Error) -> CommandError {
    CommandError::host(format!("write to {}: {error}", path.display()), "the report is incomplete", "free disk space")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &str) -> Result<Plan> {
        let words = format!("run --programs /built {words}");
        Arguments::try_parse_from(words.split(' ')).map_err(|error| CommandError::bug(error.to_string()))?.plan()
    }

    fn commands(words: &str) -> Vec<(String, bool)> {
        let roles = roles(&plan(words).unwrap(), Path::new("/built"));
        roles.into_iter().map(|(role, _)| (role.command, role.counts)).collect()
    }

    /// Whoever serves, c1m tunes the machine; who counts nothing has its sockets counted.
    #[test]
    fn guests_run_what_was_asked_for() {
        let client = "c1m client --target-ip 10.0.1.1 --connections 50 --steer";
        let ours = commands("--connections 100 --clients 2 --server-options=--memory-reserve=0");
        assert_eq!(ours[0], ("c1m server --max-connections 100 --json - --memory-reserve=0".to_owned(), true));
        assert!(ours[1].0.starts_with(client) && ours.len() == 3, "{ours:?}");

        // Who sleeps does so at both ends, and the host is judged and tuned for that.
        let asleep = roles(&plan("--connections 100 --clients 2 --hibernate 1s").unwrap(), Path::new("/built"));
        assert_eq!(asleep.len(), 3);
        for (role, _) in asleep {
            assert!(role.command.contains(" --hibernate 1s ") && role.tune.contains(" --hibernate 1s"), "{role:?}");
        }

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("peer-x");
        std::fs::write(&file, "").unwrap();
        let words = format!("--connections 100 --clients 2 --server-program {}", file.display());
        let theirs = commands(&words);
        assert_eq!(theirs[0], ("peer-x 0.0.0.0 8888 100 0,1".to_owned(), false));
        assert!(theirs[1].0.starts_with(client), "{theirs:?}");
        let roles = roles(&plan(&words).unwrap(), Path::new("/built"));
        assert_eq!(roles[0].0.programs, [file, PathBuf::from("/built/c1m")]);

        for refused in ["/nowhere/peer", "/bin/busybox"] {
            assert!(plan(&format!("--server-program {refused}")).is_err_and(|error| error.exit_code() == 2));
        }
        assert!(plan(&format!("{words} --reference")).is_err());
    }

    /// What a thread starts after it, as QEMU is started, is a batch job with the nice value of before.
    #[test]
    fn guests_inherit_long_turns() {
        let stat = || {
            let said = std::process::Command::new("cat").arg("/proc/self/stat").output().unwrap().stdout;
            let said = String::from_utf8(said).unwrap();
            // Behind the name in brackets, from the third field on: the 19th is the nice value, the 41st the policy.
            let fields: Vec<String> = said.rsplit(')').next().unwrap().split_whitespace().map(str::to_owned).collect();
            (fields[19 - 3].clone(), fields[41 - 3].clone())
        };
        let (before, after) = std::thread::spawn(move || {
            let before = stat();
            c1m::internal::sys::use_batch_scheduling(TURN).unwrap();
            (before, stat())
        })
        .join()
        .unwrap();
        assert_eq!(after, (before.0, "3".to_owned()), "nice value, and SCHED_BATCH");
    }
}
