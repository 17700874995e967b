//! The victims of a storm that kills their process. The process is another client, steered by lines on its standard
//! input; its events tell how far it is. The leader treats it as one more shard, after its own.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::Phase;
use super::run::{Notice, Part};
use crate::clock::Told;
use crate::error::{Error, HostError, HostReason, Result};
use crate::host::{self, Host, start_thread};
use crate::latency::Latency;
use crate::results::document::ClientDocument;
use crate::results::events::ClientEvent;
use crate::results::{AuditResult, ShardStorm, ShardSummary, TlsDocument};
use crate::stats::ProgressSnapshot;
use crate::sys;

/// How long the process may take to report.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How to start the process that holds the victims: a steered client that tells events on its standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VictimsCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// What the events of the process told so far.
#[derive(Debug, Default)]
struct Seen {
    progress: ProgressSnapshot,
    /// Connections that were live after the ramp.
    stood: u64,
    /// Its result: a report that was asked for, or the one at its end.
    document: Option<Box<ClientDocument>>,
    /// The output of the process has ended.
    ended: bool,
}

/// Reads the events of the process to their end. `done` is called for each phase that ended.
fn follow(shared: &Told<Seen>, output: impl Read, done: impl Fn(Phase)) {
    for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
        match ClientEvent::read(&line) {
            ClientEvent::Progress(told) => {
                let ramp_ended = told.ended && told.phase == Phase::Ramp.kind();
                shared.change(|seen| {
                    let ProgressSnapshot { audited, lost, wrong, .. } = seen.progress;
                    seen.stood = if ramp_ended { told.live } else { seen.stood };
                    seen.progress = ProgressSnapshot {
                        tried: told.live + told.failed,
                        live: told.live,
                        failed: told.failed,
                        stood: seen.stood.max(told.live),
                        echoes: told.echoes,
                        closed: told.closed,
                        audited: audited.max(told.audited),
                        lost,
                        wrong,
                        ..ProgressSnapshot::default()
                    };
                });
                if ramp_ended {
                    done(Phase::Ramp);
                }
            }
            ClientEvent::Audit(AuditResult { round, live, lost, wrong, .. }) => {
                shared.change(|seen| {
                    (seen.progress.audited, seen.progress.lost, seen.progress.wrong) = (live, lost, wrong);
                });
                done(Phase::Audit(round));
            }
            ClientEvent::Report(document) => shared.change(|seen| seen.document = Some(document)),
            ClientEvent::Result(document) => {
                shared.change(|seen| seen.document = Some(document));
                done(Phase::Close);
            }
            ClientEvent::Other => {}
        }
    }
    shared.change(|seen| seen.ended = true);
}

/// The process of the victims. It is killed when this is dropped, and by the kernel when this process ends.
pub(super) struct Victims {
    child: Child,
    input: Option<ChildStdin>,
    shared: Arc<Told<Seen>>,
    /// Connections that the process is to open.
    requested: u64,
    killed: bool,
}

impl Victims {
    /// Starts the process; its ramp begins at once. What it has done is told to `notices`.
    pub(super) fn start(command: &VictimsCommand, requested: u64, notices: mpsc::Sender<Notice>) -> Result<Victims> {
        let not_started =
            |e: std::io::Error| host::not_started(format!("the victims' process {}", command.program.display()), &e);
        let mut process = Command::new(&command.program);
        // A process group of its own: Ctrl-C reaches this process alone, which then ends the other in order.
        process.args(&command.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = sys::dying_with_parent(&mut process).spawn().map_err(not_started)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let shared = Arc::<Told<Seen>>::default();
        let follower = shared.clone();
        // If the thread cannot be started, dropping this ends the process.
        let victims = Victims { child, input, shared, requested, killed: false };
        if let Some(output) = output {
            start_thread("c1m-victims", move || {
                // The leader is gone if the run has failed elsewhere.
                follow(&follower, output, |phase| _ = notices.send(Notice::Done(Part::Victims, phase, Instant::now())));
                let _ = notices.send(Notice::Ended(Part::Victims));
            })?;
        }
        Ok(victims)
    }

    /// The id of the process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Begins the part of the process in a phase. Returns whether it has one; it then tells when that has ended.
    pub(super) fn begin(&mut self, phase: Phase) -> bool {
        self.shared.change(|seen| {
            (seen.progress.audited, seen.progress.lost, seen.progress.wrong) = (0, 0, 0);
        });
        if self.killed || self.shared.lock().ended {
            return false;
        }
        match phase {
            Phase::Ramp => true,
            Phase::Audit(_) => self.say("audit"),
            Phase::Storm => {
                self.kill();
                false
            }
            // The process may still be in its ramp, in which it obeys no lines.
            Phase::Close => sys::interrupt(self.pid()),
            _ => false,
        }
    }

    /// Writes a line to the process. Returns whether that was possible; the end of a process is told elsewhere.
    fn say(&mut self, word: &str) -> bool {
        self.input.as_mut().is_some_and(|input| writeln!(input, "{word}").and_then(|()| input.flush()).is_ok())
    }

    /// Has the process report what it measured so far, and waits for that up to `patience`.
    pub(super) fn report(&mut self, patience: Duration) -> Result<()> {
        if self.killed || self.shared.lock().ended {
            return self.ended(Phase::Report);
        }
        self.say("report");
        let seen = self.shared.wait(patience, |seen| seen.document.is_some() || seen.ended);
        let (told, ended) = (seen.document.is_some(), seen.ended);
        drop(seen);
        match (told, ended) {
            (true, _) => Ok(()),
            (false, true) => Err(self.died(Phase::Report)),
            (false, false) => {
                let stopped = Host::here().is_stopped(self.pid());
                Err(self.error(HostReason::VictimsSilent { stopped, seconds: patience.as_secs() }))
            }
        }
    }

    /// Kills the process: the kernel closes every connection that it had.
    fn kill(&mut self) {
        self.killed = true;
        self.shared.change(|seen| {
            let SeenCounts { live, failed } = SeenCounts::of(seen);
            seen.progress.failed = failed;
            (seen.progress.live, seen.progress.dropped) = (0, live);
        });
        // This fails only if the process has ended already.
        let _ = self.child.kill();
    }

    /// The process has ended. That is an error unless we killed it, or told it to close, or it has reported.
    pub(super) fn ended(&mut self, phase: Phase) -> Result<()> {
        let told = self.killed || phase == Phase::Close || self.shared.lock().document.is_some();
        if told { Ok(()) } else { Err(self.died(phase)) }
    }

    fn died(&mut self, phase: Phase) -> Error {
        // The output ends a moment before the process does.
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status: ExitStatus| status.to_string());
        self.error(HostReason::VictimsGone { status, phase: phase.name().to_owned() })
    }

    fn error(&self, reason: HostReason) -> Error {
        HostError::new("victims' process", self.pid().to_string(), None, reason).into()
    }

    /// How far the process is, as one shard.
    pub(super) fn progress(&self) -> ProgressSnapshot {
        let seen = self.shared.lock();
        if self.killed {
            return seen.progress;
        }
        let SeenCounts { live, failed } = SeenCounts::of(&seen);
        ProgressSnapshot { live, failed, ..seen.progress }
    }

    /// What the process measured, as one shard; its core is the first one of those that the process used.
    pub(super) fn summary(&self) -> Result<Option<ShardSummary>> {
        let mut progress = self.progress();
        let seen = self.shared.lock();
        let Some(document) = &seen.document else { return Ok(None) };
        progress.passed_over = document.source_ports_passed_over;
        let measured = &document.latencies;
        // The victims say nothing but what audits ask. An answer that was wrong in the ramp is of a connection that never
        // stood.
        let wrong = document.audits.iter().map(|audit| audit.wrong).sum();
        let core = document.shards.first().map_or(0, |shard| shard.core);
        Ok(Some(ShardSummary {
            core,
            requested: self.requested,
            progress,
            connect: measured.connect.latency()?,
            connect_service: measured.connect_service.latency()?,
            retransmitted: measured.retransmitted.latency()?,
            echo: Latency::new()?,
            echo_service: Latency::new()?,
            audit: Latency::new()?,
            handshakes: document.tls.as_ref().map(TlsDocument::latencies).transpose()?,
            causes: document.errors.clone(),
            storm: Some(ShardStorm {
                echo: [Latency::new()?, Latency::new()?, Latency::new()?],
                absorbed: Duration::ZERO,
                closed_by_server: 0,
                stood_anew: 0,
                lost: seen.stood.saturating_sub(document.live + wrong),
                wrong,
            }),
            fanout: None,
        }))
    }
}

impl Drop for Victims {
    fn drop(&mut self) {
        self.input = None;
        // Both fail only if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connections that are live and that failed: as the report says, or as told last if there is none yet.
struct SeenCounts {
    live: u64,
    failed: u64,
}

impl SeenCounts {
    fn of(seen: &Seen) -> SeenCounts {
        match &seen.document {
            Some(document) => SeenCounts { live: document.live, failed: document.failed },
            None => SeenCounts { live: seen.progress.live, failed: seen.progress.failed },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process of this shell script in place of the victims' client.
    fn running(script: &str) -> Victims {
        let arguments = vec!["-c".into(), script.into()];
        let command = VictimsCommand { program: "/bin/sh".into(), arguments };
        Victims::start(&command, 1, mpsc::channel().0).unwrap()
    }

    #[test]
    fn a_process_that_is_stopped_is_said_to_be_stopped() {
        let mut victims = running("kill -STOP $$; read line");
        while !Host::here().is_stopped(victims.pid()) {
            std::thread::yield_now();
        }
        let text = victims.report(Duration::ZERO).unwrap_err().to_string();
        assert!(text.contains("is stopped (SIGSTOP") && text.contains("kill -CONT"), "{text}");
        assert!(text.contains(&victims.pid().to_string()) && !text.contains("ended"), "{text}");
    }

    #[test]
    fn a_process_that_runs_without_an_answer_is_not_said_to_be_gone() {
        let text = running("read line; read line").report(Duration::ZERO).unwrap_err().to_string();
        assert!(text.contains("it runs, and gave no report within 0 s") && !text.contains("stopped"), "{text}");
    }

    /// The leader hears of the end of an audit when everything is known that the audit found.
    #[test]
    fn an_audit_has_ended_when_it_was_told_what_was_lost() {
        let progress = r#"{"event":"progress","phase":"audit 2","round":2,"ended":true,"live":90,"failed":10,"audited":90,"echoes":0,"closed":0}"#;
        let audit = r#"{"event":"audit","round":2,"live":90,"lost":8,"wrong":2}"#;
        let (shared, ended) = (Told::<Seen>::default(), std::cell::RefCell::new(Vec::new()));
        follow(&shared, format!("{progress}\n{audit}\n").as_bytes(), |phase| {
            let ProgressSnapshot { audited, lost, wrong, .. } = shared.lock().progress;
            ended.borrow_mut().push((phase, audited, lost, wrong));
        });
        assert_eq!(*ended.borrow(), [(Phase::Audit(2), 90, 8, 2)]);
    }

    #[test]
    fn a_process_that_ended_is_named_with_its_status() {
        let text = running("exit 3").report(Duration::MAX).unwrap_err().to_string();
        assert!(text.contains("ended (exit status: 3) in the report phase"), "{text}");
    }
}
