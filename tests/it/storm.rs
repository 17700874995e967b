//! Storms through real servers: the connections that they close, open and leave, and servers, clients and ends that
//! a storm meets at any moment.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

use c1m::internal::sys::Resource;
use serde_json::Value;
use socket2::{SockFilter, SockRef};

use crate::support::*;

/// A running storm, and the folder of its result.
pub struct Storm {
    pub running: Running,
    dir: tempfile::TempDir,
}

/// A storm's ended process and its result.
pub struct StormRun {
    pub finished: Finished,
    pub json: Value,
}

impl Storm {
    /// Starts a storm with the words of `arguments`. By default its times before and after are short.
    pub fn start(at: &str, arguments: &str) -> Storm {
        let dir = tempfile::tempdir().unwrap();
        let mut command = c1m();
        command.arg("storm").args(arguments.split_whitespace()).args(at.split_whitespace());
        command.args(["--target-ip", "127.0.0.1", "--json"]).arg(dir.path().join("json"));
        for (flag, value) in [("--calm", "300ms"), ("--after", "1s"), ("--interval", "1s")] {
            if !arguments.contains(flag) {
                command.args([flag, value]);
            }
        }
        Storm { running: Running::start(command), dir }
    }

    /// Waits until the storm has begun.
    pub fn wait_until_begun(&mut self) {
        self.running.until("the storm", |out| out.lines().any(|line| line.starts_with("storm ")));
    }

    /// Waits for the storm's end, and checks that the numbers of its result and of each line add up.
    pub fn finish(self) -> StormRun {
        let finished = self.running.wait();
        let text = std::fs::read_to_string(self.dir.path().join("json")).unwrap_or_default();
        let json: Value =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}\n{}{}", finished.out, finished.err));
        let run = StormRun { finished, json };
        let parts = [run.number("live"), run.number("failed"), run.of_storm("closed"), run.number("not_tried")];
        assert_eq!(run.number("requested") + run.of_storm("redialed"), parts.iter().sum::<u64>(), "{}", run.json);
        let causes = run.json["errors"].as_object().unwrap().values();
        assert_eq!(run.number("failed"), causes.map(|n| n.as_u64().unwrap()).sum::<u64>(), "{}", run.json);
        assert_eq!(run.finished.code() == 0, run.json["complete"] == true, "{}", run.json);
        run.finished.out.lines().filter(|line| line.contains(" to go ")).for_each(adds_up);
        let sleeps = run.json.get("hibernation").map(|_| "hibernation");
        let names: Vec<_> = ["storm", "timeline", "about"].into_iter().chain(sleeps).collect();
        has_client_names_and(&run.json, &names);
        run
    }
}

/// Checks a line such as `storm 0.1s 30 = 20 live + 0 failed + 10 closed by the storm + 0 to go`.
fn adds_up(line: &str) {
    let number = |word: Option<&str>| word.unwrap().replace(',', "").parse::<u64>().unwrap();
    let (all, parts) = line.split_once(" = ").unwrap();
    let sum: u64 = parts.split(" + ").map(|part| number(part.split_whitespace().next())).sum();
    assert_eq!(number(all.split_whitespace().last()), sum, "{line}");
}

impl StormRun {
    pub fn number(&self, name: &str) -> u64 {
        number(&self.json, name)
    }

    pub fn of_storm(&self, name: &str) -> u64 {
        number(&self.json["storm"], name)
    }

    /// Checks that the storm succeeded, that its two audits counted these live connections, and that the survivors
    /// sent messages before and after it.
    pub fn held(&self, audits: [u64; 2]) {
        self.kept(audits);
        for stage in ["before", "after"] {
            assert!(self.messages(stage) > 0, "{stage}: {}", self.json);
        }
    }

    /// Messages that were answered in a stage.
    pub fn messages(&self, stage: &str) -> u64 {
        number(&self.json["storm"][stage]["echo_latency_us"], "count")
    }

    /// Checks that the storm succeeded, and that its two audits counted these live connections.
    pub fn kept(&self, audits: [u64; 2]) {
        assert_eq!(self.finished.code(), 0, "{}{}", self.finished.out, self.finished.err);
        let found = self.json["audits"].as_array().unwrap().iter();
        let found: Vec<[u64; 3]> =
            found.map(|audit| ["live", "lost", "wrong"].map(|name| number(audit, name))).collect();
        assert_eq!(found, audits.map(|live| [live, 0, 0]), "{}", self.json);
        assert_eq!([self.of_storm("lost"), self.of_storm("wrong"), self.number("failed")], [0, 0, 0], "{}", self.json);
    }
}

pub fn storm(server: &Server, arguments: &str) -> StormRun {
    Storm::start(&server.at(), arguments).finish()
}

#[test]
fn survivors_of_a_mass_disconnect_go_on() {
    let server = Server::start(4, "--json -");
    let pid = server.running.pid();
    for (how, accepted) in [("", 3_000), ("--fin --share 500 --close-rate 2000", 6_000)] {
        let run = storm(&server, &format!("disconnect --connections 3000 --server-pid {pid} {how}"));
        let left = if how.is_empty() { 1_980 } else { 2_500 };
        run.held([3_000, left]);
        assert_eq!([run.of_storm("closed"), run.of_storm("survivors")], [3_000 - left, left], "{}", run.json);
        assert_eq!([run.of_storm("closed_by_server"), run.of_storm("redialed")], [0, 0], "{}", run.json);
        assert!(run.json["storm"]["server_cpu_us_per_closed"].is_f64(), "{}", run.json);
        assert!(run.finished.out.contains("per closed connection"), "{}", run.finished.out);
        assert_eq!(run.number("live"), left);
        eventually("the server is empty", || last_stats(&server).is_some_and(|stats| stats == [0, accepted]));
    }
    let totals = server.stop().last_document();
    assert_eq!(["accepted", "closed"].map(|name| number(&totals, name)), [6_000, 6_000], "{totals}");
}

/// Live and opened connections in the last event of a server.
pub fn last_stats(server: &Server) -> Option<[u64; 2]> {
    let stats = server.running.last_event("stats")?;
    Some(["live", "opened"].map(|name| number(&stats, name)))
}

#[test]
fn every_reconnected_connection_is_live_at_the_end() {
    let server = Server::start(4, "--json -");
    let run = storm(&server, "reconnect --connections 3000 --share 40%");
    run.held([3_000, 3_000]);
    let storm = ["closed", "redialed", "stood_anew"].map(|name| run.of_storm(name));
    assert_eq!(storm, [1_200, 1_200, 1_200], "{}", run.json);
    assert_eq!(number(&server.stop().last_document(), "accepted"), 4_200);
}

/// More connections come and go than the server has slots for, beside those held.
#[test]
fn churn_leaves_no_slot_behind() {
    let server = Server::start(4, "--json - --stats-interval 50ms --max-connections 3000");
    let mut churn = Storm::start(&server.at(), "churn --connections 2000 --concurrency 50 --for 10m");
    churn.wait_until_begun();
    eventually("every slot had many occupants", || last_stats(&server).is_some_and(|[_, opened]| opened > 8_000));
    churn.running.signal(libc::SIGINT);
    let run = churn.finish();
    assert_eq!([run.number("failed"), run.of_storm("lost"), run.of_storm("wrong")], [0; 3], "{}", run.json);
    assert!(run.number("live") >= 2_000 && run.of_storm("closed") >= 6_000 - 100, "{}", run.json);
    eventually("the server is empty", || last_stats(&server).is_some_and(|[live, _]| live == 0));
    let totals = server.stop().last_document();
    let counts = ["refused", "live"].map(|name| number(&totals, name));
    assert!(counts == [0, 0] && totals["accepted"] == totals["closed"], "{totals}");
}

/// The rate bounds the number of connections, however slow the machine. Without a rate as many are dialed in a
/// fraction of the time.
#[test]
fn churn_keeps_its_rate() {
    const RATE: f64 = 500.0;
    let server = Server::start(4, "--json - --stats-interval 50ms");
    let mut churn = Storm::start(&server.at(), "churn --connections 100 --rate 500 --for 10m");
    churn.wait_until_begun();
    eventually("many were dialed anew", || last_stats(&server).is_some_and(|[_, opened]| opened > 2_100));
    churn.running.signal(libc::SIGINT);
    let run = churn.finish();
    assert_eq!([run.number("failed"), run.of_storm("lost"), run.of_storm("wrong")], [0; 3], "{}", run.json);
    let (seconds, redialed) = (run.json["storm"]["during"]["seconds"].as_f64().unwrap(), run.of_storm("redialed"));
    // The storm goes on for a moment after its duration was measured.
    assert!(redialed >= 2_000, "{}", run.json);
    assert!(redialed as f64 <= RATE * (seconds + 0.5) + 2.0, "{redialed} in {seconds} s: {}", run.json);
}

/// The victims ask for 128 MiB. The server keeps at most `--max-pending` for each, and serves the others.
#[test]
fn slow_readers_take_a_bounded_memory() {
    const VICTIMS: u64 = 500;
    let server = Server::start(4, "--json - --max-connections 3000");
    let idle = resident(server.running.pid());
    let run = storm(&server, &format!("slow-readers --connections 1500 --share {VICTIMS} --payload 1024 --for 4s"));
    run.held([1_500, 1_000]);
    assert_eq!(run.of_storm("closed"), VICTIMS, "{}", run.json);
    assert!(number(&run.json["storm"]["during"]["echo_latency_us"], "count") > 0, "{}", run.json);
    let totals = server.stop().last_document();
    // The victims sent more than all other connections, which sent a hello, two tokens and some messages each.
    assert!(number(&totals, "bytes") > VICTIMS * 16 * 1024, "{totals}");
    let most = idle + VICTIMS * 64 * 1024 + (16 << 20);
    assert!(number(&totals, "resident_bytes") < most, "{most} after {idle}: {totals}");
}

/// The memory of a process in bytes (VmRSS).
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_silent_peer_stays_unless_the_server_closes_it() {
    let server = Server::start(4, "");
    let run = storm(&server, "silent --connections 1000 --share 10% --for 1s");
    run.held([1_000, 900]);
    assert_eq!([run.of_storm("closed"), run.of_storm("closed_by_server")], [100, 0], "{}", run.json);

    // This server closes every peer that was silent since the token of the first audit, once the survivors have
    // sent several messages. By then the storm has begun, and it lasts until all victims are closed.
    let peers_seen: Arc<Mutex<Vec<(TcpStream, usize)>>> = Arc::default();
    let peers = peers_seen.clone();
    let peer = Peer::with_threads(move |stream| {
        let nth = {
            let mut peers = peers.lock().unwrap();
            peers.push((stream.try_clone().unwrap(), 0));
            peers.len() - 1
        };
        echo(stream, || peers.lock().unwrap()[nth].1 += 1);
    });
    let mut silent = Storm::start(&peer.at(), "silent --connections 60 --share 20 --for 10s");
    silent.wait_until_begun();
    eventually("the survivors have sent messages", || {
        peers_seen.lock().unwrap().iter().filter(|(_, n)| *n > 2).count() == 40
    });
    for (stream, _) in peers_seen.lock().unwrap().iter().filter(|(_, messages)| *messages <= 2) {
        stream.shutdown(Shutdown::Both).unwrap();
    }
    let run = silent.finish();
    run.held([60, 40]);
    assert_eq!([run.of_storm("closed"), run.of_storm("closed_by_server")], [20, 20], "{}", run.json);
    assert!(run.finished.out.contains("closed by the storm 20, 20 of them by the server"), "{}", run.finished.out);
}

/// A server on the ports of one that was killed. The kernel takes that one's rings apart in the background, and has the ports
/// until then: on a busy machine perhaps for longer than a start waits.
fn started_again(port: u16) -> Running {
    let mut serving = None;
    eventually("a server starts on the same ports", || {
        let mut command = c1m();
        command.args(server_arguments(port, 4, "").split_whitespace());
        let mut again = Running::start(command);
        let mut ended = false;
        eventually("it serves, or has ended", || {
            ended = again.has_ended();
            ended || again.out().lines().any(|line| line == "ready")
        });
        if ended {
            again.wait().fails_with(3, &["Address already in use"]);
        } else {
            serving = Some(again);
        }
        serving.is_some()
    });
    serving.unwrap()
}

/// A server dies while its peers come and go. All connections are accounted for, the client ends, and both can
/// start afresh at once.
#[test]
fn a_server_killed_in_a_storm_is_started_again_at_once() {
    const SLOW: [&str; 2] = ["disconnect --close-rate 100", "reconnect --rate 3000 --close-rate 100"];
    for scenario in SLOW {
        let server = Server::start(4, "");
        let mut running = Storm::start(&server.at(), &format!("{scenario} --connections 2000"));
        running.wait_until_begun();
        let (at, port) = (server.at(), server.port);
        drop(server);
        let again = started_again(port);
        let run = running.finish();
        assert_eq!(run.finished.code(), 1, "{}{}", run.finished.out, run.finished.err);
        assert!(run.of_storm("lost") > 0 && run.of_storm("wrong") == 0, "{}", run.json);
        Storm::start(&at, "disconnect --connections 500").finish().held([500, 330]);
        again.signal(libc::SIGTERM);
        assert_eq!(again.wait().code(), 0);
    }
}

#[test]
fn a_client_killed_in_a_storm_leaves_nothing_behind() {
    let server = Server::start(4, "--json - --stats-interval 50ms --max-connections 2600");
    let mut killed = Storm::start(&server.at(), "churn --connections 2000 --for 1m");
    killed.wait_until_begun();
    drop(killed);
    eventually("the server is empty", || last_stats(&server).is_some_and(|[live, _]| live == 0));
    storm(&server, "reconnect --connections 2500").held([2_500, 2_500]);
}

#[test]
fn a_signal_ends_a_storm_in_order() {
    let server = Server::start(4, "--json - --stats-interval 50ms");
    let mut stopped = Storm::start(&server.at(), "slow-readers --connections 1000 --for 1m");
    stopped.wait_until_begun();
    stopped.running.signal(libc::SIGINT);
    let run = stopped.finish();
    assert_eq!((run.finished.code(), run.json["stopped"].as_bool()), (1, Some(true)), "{}", run.json);
    assert_eq!([run.number("live"), run.number("failed")], [1_000, 0], "{}", run.json);
    eventually("the server is empty", || last_stats(&server).is_some_and(|[live, _]| live == 0));
}

/// Where nothing was measured there is no figure, and nothing is said of it.
#[test]
fn a_storm_that_did_not_come_has_no_figures() {
    let server = Server::start(1, "");
    let mut stopped = Storm::start(&server.at(), "disconnect --connections 10 --calm 1h");
    stopped.running.until("the calm", |out| out.lines().any(|line| line.starts_with("calm ")));
    stopped.running.signal(libc::SIGINT);
    let run = stopped.finish();
    assert_eq!((run.messages("during"), &run.json["storm"]["absorbed_seconds"]), (0, &Value::Null), "{}", run.json);
    let row = run.finished.out.lines().find(|line| line.starts_with("during ")).unwrap();
    assert!(row.ends_with("-         -         -         -"), "{row:?}");
    assert!(run.finished.out.contains("absorbed: not known"), "{}", run.finished.out);
    let dir = tempfile::tempdir().unwrap();
    let [json, page] = ["storm.json", "page.html"].map(|name| dir.path().join(name).display().to_string());
    std::fs::write(&json, run.json.to_string()).unwrap();
    assert_eq!(crate::support::run(&format!("report html {json} --output {page}")).code(), 0);
    let page = std::fs::read_to_string(&page).unwrap();
    assert!(page.contains("<dt>absorbed</dt><dd>not known</dd>"), "{page}");
}

#[test]
fn storms_that_make_no_sense_are_refused() {
    let at = "--target-ip 127.0.0.1";
    run(&format!("storm disconnect {at} --for 3s")).fails_with(2, &["--for with disconnect"]);
    run(&format!("storm disconnect {at} --connections 10 --share 10")).fails_with(2, &["no survivor"]);
    run(&format!("storm silent {at} --server-pid 4194305")).fails_with(2, &["no such process"]);
    for arguments in ["storm", "storm hail", "storm silent --share 100%"] {
        assert_eq!(run(&format!("{arguments} {at}")).code(), 2, "{arguments}");
    }
}

#[test]
fn a_storms_result_is_not_merged() {
    let server = Server::start(2, "");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("storm.json");
    let (at, name) = (server.at(), file.display());
    let short = "--connections 50 --calm 100ms --after 100ms --interval 50ms";
    assert_eq!(run(&format!("storm disconnect {at} --target-ip 127.0.0.1 {short} --json {name}")).code(), 0);
    run(&format!("report merge {name}")).fails_with(2, &["is the result of a storm"]);
}

/// A drain closes 10,000 connections per second at least, a few at a time. A connection that is not closed yet is
/// served.
#[test]
fn a_drain_serves_connections_that_it_has_not_closed_yet() {
    const PEERS: usize = 6_000;
    Resource::Files.raise().unwrap();
    let server = Server::start(1, "--cores 1 --json -");
    let mut streams: Vec<TcpStream> = (0..PEERS).map(|_| connected(server.port)).collect();
    streams.iter_mut().for_each(echoes);
    server.running.signal(libc::SIGTERM);
    let mut served = 0;
    eventually("all are closed", || {
        let left = streams.iter_mut().filter(|stream| !has_ended(stream));
        let mut left: Vec<&mut TcpStream> = left.collect();
        if left.len() < PEERS {
            served += left.iter_mut().take(10).map(|stream| usize::from(is_served(stream))).sum::<usize>();
        }
        left.is_empty()
    });
    assert!(served > 0, "none was served between the first close and the last");
    let finished = server.running.wait();
    let totals = finished.last_document();
    let counts = ["live", "live_at_stop", "closed"].map(|name| number(&totals, name));
    assert_eq!((finished.code(), counts), (0, [0, PEERS as u64, PEERS as u64]), "{totals}");
}

/// Whether a message is echoed. The server may close the connection at any moment.
fn is_served(stream: &mut TcpStream) -> bool {
    let mut back = [0; 2];
    stream.write_all(b"hi").and_then(|()| stream.read_exact(&mut back)).is_ok() && &back == b"hi"
}

fn has_ended(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let seen = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    match seen {
        Ok(bytes) => bytes == 0,
        Err(e) => e.kind() != ErrorKind::WouldBlock,
    }
}

/// A close with a rate cannot be faster than the rate.
#[test]
fn a_client_closes_at_its_rate() {
    let server = Server::start(2, "");
    let run = client(&format!("{} --connections 400 --cores 1 --close-rate 400", server.at()));
    run.held(400);
    // The first close is due at once, the last after 399 / 400 s.
    assert!(run.json["close_seconds"].as_f64().unwrap() >= 0.99, "{}", run.json);
    let ended: Vec<&str> = run.finished.out.lines().filter(|line| line.starts_with("close ")).collect();
    assert!(ended.len() > 1 && ended.last().unwrap().ends_with("400 closed"), "{ended:?}");
}

/// One peer drops every packet, as if it had lost its power. The server probes it and closes it, and keeps the
/// silent peer that answers.
#[test(ClassicFilter)]
fn keepalive_finds_a_peer_that_vanished() {
    let server = Server::start(1, "--keepalive 1s --json - --stats-interval 50ms");
    let (mut here, mut gone) = (connected(server.port), connected(server.port));
    echoes(&mut here);
    echoes(&mut gone);
    eventually("both are live", || last_stats(&server).is_some_and(|stats| stats == [2, 2]));
    let drop_all = [SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0)];
    SockRef::from(&gone).attach_filter(&drop_all).unwrap();
    eventually("one is closed", || last_stats(&server).is_some_and(|stats| stats == [1, 2]));
    echoes(&mut here);
}
