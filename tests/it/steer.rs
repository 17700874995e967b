//! Clients that are steered: by lines on standard input, or by a caller of the library.

use std::io::Write;
use std::time::Duration;

use c1m::client::{Course, Event, Phase, Run, Steering, Workload};
use c1m::internal::connections::CloseMode;
use c1m::internal::host::Cores;
use c1m::internal::plan::{Ports, Routes};
use serde_json::Value;

use crate::storm::last_stats;
use crate::support::*;

/// A steered client that prints its events.
fn steered(server: &Server, arguments: &str) -> Running {
    let mut command = c1m();
    command.args("client --target-ip 127.0.0.1 --steer --json -".split_whitespace());
    command.args(server.at().split_whitespace()).args(arguments.split_whitespace());
    Running::with_input(command)
}

/// The lines so far that are complete JSON: events, and the document.
fn lines(out: &str) -> Vec<Value> {
    out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Waits until the client is in its hold phase.
fn holds(client: &mut Running) {
    client.until("it holds", |out| events(out, "progress").iter().any(|event| event["phase"] == "hold"));
}

/// Waits for an audit, and returns its live, lost and wrong connections.
fn audited(client: &mut Running, round: usize) -> [u64; 3] {
    client.until("an audit", |out| events(out, "audit").len() >= round);
    let event = &events(&client.out(), "audit")[round - 1];
    assert_eq!(number(event, "round"), round as u64, "{event}");
    ["live", "lost", "wrong"].map(|name| number(event, name))
}

/// A server that broadcasts: what comes unasked on each connection is counted, in the document and in words.
#[test]
fn messages_of_subscriptions_are_reported() {
    const CONNECTIONS: u64 = 60;
    let mut server = Server::start(1, "--protocol websocket --service push --port-sharing all --json -");
    let mut client = steered(&server, &format!("--protocol websocket --connections {CONNECTIONS}"));
    holds(&mut client);
    let mut poster = connected(server.port);
    let (of_run, nth, instant, bytes) = (1, 42, 0, 64);
    let text = format!("c1m pushes this {of_run:016x}{nth:08x}{instant:016x}{bytes:08x}");
    let head = format!("POST /publish HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}", text.len());
    write!(poster, "{head}\r\n\r\n{text}").unwrap();
    server.running.until("each connection was sent to", |out| out.contains(&format!("\"pushes\":{CONNECTIONS}")));
    // On each connection the answer to the audit follows the publication.
    client.say("audit");
    assert_eq!(audited(&mut client, 1), [CONNECTIONS, 0, 0]);
    client.say("close");
    let document = client.wait().last_document();
    assert_eq!(number(&document, "pushes"), CONNECTIONS, "{document}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, document.to_string()).unwrap();
    let merged = run(&format!("report merge {}", file.path().display()));
    assert!(merged.out.contains("; 60 messages of subscriptions came"), "{}{}", merged.out, merged.err);
    server.stop();
}

#[test]
fn a_client_follows_the_words_on_its_input() {
    let server = Server::start(2, "--json -");
    let mut client = steered(&server, "--connections 200");
    holds(&mut client);
    for round in 1..=3 {
        client.say("audit");
        assert_eq!(audited(&mut client, round), [200, 0, 0]);
    }
    client.say("  close ");
    let finished = client.wait();
    assert_eq!((finished.code(), finished.errors().as_str()), (0, ""), "{}", finished.out);

    let document = finished.last_document();
    has_client_names(&document);
    assert_eq!(document["complete"], true, "{document}");
    assert_eq!(document["audits"].as_array().unwrap().len(), 3, "{document}");
    let lines = lines(&finished.out);
    let planned = &events(&finished.out, "planned")[0];
    assert_eq!((&lines[0], number(planned, "connections")), (planned, 200), "{planned}");
    let progress = events(&finished.out, "progress");
    let ends: Vec<&str> =
        progress.iter().filter(|event| event["ended"] == true).map(|event| event["phase"].as_str().unwrap()).collect();
    assert_eq!((ends.first(), ends.last()), (Some(&"ramp"), Some(&"close")), "{ends:?}");
    assert_eq!(ends.iter().filter(|phase| **phase == "audit").count(), 3, "{ends:?}");
    for event in &progress {
        let sum = ["live", "failed", "to_go"].map(|name| number(event, name)).iter().sum::<u64>();
        assert_eq!(sum, 200, "{event}");
    }
    // Every line but the document is an event.
    assert_eq!(lines.iter().filter(|line| line.get("event").is_none()).count(), 1, "{}", finished.out);
    assert_eq!(lines.len(), finished.out.lines().count(), "{}", finished.out);
    assert_eq!(number(&server.stop().last_document(), "messages"), 200 * 4, "a hello and three audits each");
}

/// A report keeps the measurements if the machine is gone before its client ends.
#[test]
fn a_report_during_a_run_equals_the_final_result() {
    let server = Server::start(2, "");
    let mut client = steered(&server, "--connections 200");
    // Nothing happens between the last two: each is answered all the same.
    for word in ["report", "audit", "report", "report", "close"] {
        client.say(word);
    }
    let finished = client.wait();
    assert_eq!((finished.code(), finished.errors().as_str()), (0, ""), "{}", finished.out);
    let reports = events(&finished.out, "report");
    let reports: Vec<&Value> = reports.iter().map(|event| &event["result"]).collect();
    let last = finished.last_document();
    assert_eq!(reports.len(), 3, "{}", finished.out);
    for report in &reports {
        has_client_names(report);
        assert_eq!((number(report, "live"), report["complete"].clone()), (200, Value::Bool(true)), "{report}");
        assert_eq!(report["connect_latency_us"], last["connect_latency_us"]);
    }
    assert_eq!([0, 1, 2].map(|at| reports[at]["audits"].as_array().unwrap().len()), [0, 1, 1]);
    assert_eq!(reports[1]["echo_latency_us"], last["echo_latency_us"]);
}

#[test]
fn the_end_of_the_input_closes() {
    let server = Server::start(2, "");
    // Both lines are written before the ramp has begun or ended.
    let mut client = steered(&server, "--connections 200 --rate 1000");
    client.say("audit");
    client.say("audit");
    client.end_input();
    let finished = client.wait();
    assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
    let document = finished.last_document();
    let rounds: Vec<u64> = document["audits"].as_array().unwrap().iter().map(|audit| number(audit, "round")).collect();
    assert_eq!((rounds, number(&document, "live")), (vec![1, 2], 200), "{document}");

    let arguments = format!("client --target-ip 127.0.0.1 {} --connections 50 --steer", server.at());
    let finished = run(&arguments);
    assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
    assert!(finished.out.contains("50 requested = 50 live + 0 failed + 0 not tried"), "{}", finished.out);
}

#[test]
fn an_unknown_word_gets_a_warning() {
    let server = Server::start(2, "");
    let mut client = steered(&server, "--connections 20");
    client.say("audits");
    client.say(&"x".repeat(1_000_000));
    client.say("\x1b[2J");
    client.say("audit");
    client.say("close");
    let finished = client.wait();
    assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
    assert_eq!(finished.last_document()["audits"].as_array().unwrap().len(), 1);
    let answers: Vec<&str> = finished.err.lines().collect();
    assert_eq!(answers.len(), 3, "{answers:#?}");
    let shown = [r#""audits" is no word"#, r#"xxx…" is no word"#, r"\u{1b}"];
    assert!(answers.iter().zip(shown).all(|(answer, shown)| answer.contains(shown)), "{answers:#?}");
    assert!(answers.iter().all(|answer| answer.contains("the words are audit, report and close")), "{answers:#?}");
}

/// Messages follow so closely that some are always in flight. Their echoes must not be taken for a token's echo,
/// and must not be forgotten.
#[test]
fn audits_come_between_messages() {
    const ROUNDS: usize = 5;
    let server = Server::start(2, "");
    let mut client = steered(&server, "--connections 100 --interval 5ms");
    for round in 1..=ROUNDS {
        let echoes = |out: &str| lines(out).last().and_then(|event| event["echoes"].as_u64()).unwrap_or(0);
        let before = echoes(&client.out());
        client.until("messages are echoed", |out| echoes(out) > before + 100);
        client.say("audit");
        assert_eq!(audited(&mut client, round), [100, 0, 0]);
    }
    client.say("close");
    let finished = client.wait();
    let document = finished.last_document();
    assert_eq!((finished.code(), document["echo_source"].as_str()), (0, Some("messages")), "{document}");
}

#[test]
fn connections_that_die_while_held_are_lost() {
    let server = Server::start(2, "");
    let mut client = steered(&server, "--connections 60");
    holds(&mut client);
    client.say("audit");
    assert_eq!(audited(&mut client, 1), [60, 0, 0]);
    server.running.signal(libc::SIGKILL);
    client.until("the loss is seen", |out| {
        events(out, "progress").iter().any(|event| event["phase"] == "hold" && event["failed"] == 60)
    });
    client.say("audit");
    assert_eq!(audited(&mut client, 2), [0, 0, 0]);
    client.say("close");
    let finished = client.wait();
    let document = finished.last_document();
    assert_eq!((finished.code(), number(&document, "live")), (1, 0), "{document}");
    assert_eq!(document["errors"]["closed_by_server"], 60, "{document}");
}

/// A message in flight when the word arrives is waited for. Without its echo the connection is not proved.
#[test]
fn a_message_that_is_never_answered_is_no_success() {
    let server = Server::start(2, "");
    let mut client = steered(&server, "--connections 20 --interval 100ms --reply-timeout 4s");
    holds(&mut client);
    server.running.pause();
    // After a second without an echo all connections have an unanswered message.
    client.until("the echoes cease", |out| {
        let held = events(out, "progress").into_iter().filter(|event| event["phase"] == "hold");
        let echoes: Vec<u64> = held.map(|event| number(&event, "echoes")).collect();
        echoes.windows(2).any(|pair| pair[0] == pair[1])
    });
    client.say("close");
    let finished = client.wait();
    server.running.signal(libc::SIGCONT);
    let document = finished.last_document();
    assert_eq!((finished.code(), number(&document, "live")), (1, 0), "{document}");
    assert_eq!(document["errors"]["unanswered"], 20, "{document}");
}

#[test]
fn a_signal_stops_a_steered_client_early() {
    let server = Server::start(2, "");
    let mut client = steered(&server, "--connections 50");
    holds(&mut client);
    client.signal(libc::SIGTERM);
    let finished = client.wait();
    let document = finished.last_document();
    assert_eq!((finished.code(), document["stopped"].as_bool()), (1, Some(true)), "{document}");
    assert_eq!(number(&document, "live"), 50, "{document}");
}

#[test]
fn a_client_without_a_connection_waits_for_no_word() {
    let mut command = c1m();
    let nowhere = at(free_ports(1), 1);
    command.args(format!("client --target-ip 127.0.0.1 --steer --connections 5 {nowhere}").split_whitespace());
    let finished = Running::with_input(command).wait();
    assert_eq!(finished.code(), 1, "{}{}", finished.out, finished.err);
    assert!(finished.out.contains("ECONNREFUSED"), "{}", finished.out);
}

/// What an owner asks for.
type Word = fn(&Steering);

/// What the owner of a run saw.
#[derive(Default)]
struct Seen {
    phases: Vec<Phase>,
    rounds: Vec<u64>,
}

/// A client of the library on a course.
fn workload(server: &Server, course: Course) -> Workload {
    let mut workload = Workload::default();
    let targets = vec!["127.0.0.1".parse().unwrap()];
    workload.routes = Routes { targets, ports: Ports::new(server.port, 2).unwrap(), sources: Vec::new() };
    (workload.connections, workload.concurrency, workload.cores) = (30, 16, Cores::Count(1));
    (workload.course, workload.close) = (course, CloseMode::Abort);
    (workload.connect_timeout, workload.reply_timeout) = (PATIENCE, PATIENCE);
    workload
}

/// Runs a client of the library on a course, with an owner who says one of these words at the beginning of each hold.
fn owned(server: &Server, course: Course, words: &[Word]) -> Seen {
    let run = Run::start(workload(server, course)).unwrap();
    let steering = run.steering();
    let (mut words, mut seen) = (words.iter(), Seen::default());
    for event in run.events() {
        match event {
            Event::Began(phase) => {
                seen.phases.push(phase);
                if phase == Phase::Hold {
                    words.next().into_iter().for_each(|say| say(&steering));
                }
            }
            Event::Audited(result) => seen.rounds.push(result.live),
            _ => {}
        }
    }
    let summary = run.join().unwrap();
    assert!(summary.complete() && summary.audits.len() == seen.rounds.len(), "{:?}", summary.audits);
    assert_eq!((summary.protocol, summary.proof), ("raw", "end-to-end"));
    seen
}

#[test]
fn the_owner_of_a_client_steers_it() {
    use Phase::{Close, Hold, Ramp};
    let server = Server::start(2, "");
    let seen = owned(&server, Course::Steered, &[Steering::audit, Steering::audit, Steering::close]);
    assert_eq!(seen.rounds, [30, 30]);
    assert_eq!(seen.phases, [Ramp, Hold, Phase::Audit(1), Hold, Phase::Audit(2), Hold, Close]);
}

#[test]
fn a_fixed_course_is_kept_whatever_its_owner_says() {
    use Phase::{Close, Hold, Ramp};
    let server = Server::start(2, "");
    let seen = owned(&server, Course::Fixed(Duration::from_millis(100)), &[Steering::close]);
    assert_eq!(seen.phases, [Ramp, Phase::Audit(1), Hold, Phase::Audit(2), Close]);
}

/// The run goes on when its owner takes the next event, and not before: what an audit proved is still open.
#[test]
fn a_run_waits_for_its_owner() {
    let server = Server::start(2, "--json - --stats-interval 50ms");
    let run = Run::start(workload(&server, Course::Fixed(Duration::ZERO))).unwrap();
    let mut events = run.events();
    let second = events.find(|event| matches!(event, Event::Audited(result) if result.round == 2));
    let Some(Event::Audited(result)) = second else { panic!("{second:?}") };
    assert_eq!((result.live, result.lost, result.wrong), (30, 0, 0));
    // Time passes: the connections of a second client come and go.
    client(&format!("{} --connections 5", server.at())).held(5);
    eventually("the server has only the first 30", || last_stats(&server) == Some([30, 35]));
    drop(events);
    assert_eq!(run.join().unwrap().live(), 30);
}

/// An owner without interest in events, and one that goes away.
#[test]
fn events_need_not_be_taken() {
    let server = Server::start(2, "--json -");
    let run = Run::start(workload(&server, Course::Fixed(Duration::ZERO))).unwrap();
    assert!(run.join().unwrap().complete());
    let run = Run::start(workload(&server, Course::Steered)).unwrap();
    let holds = run.events().any(|event| matches!(event, Event::Began(Phase::Hold)));
    assert!(holds);
    drop(run);
    assert_eq!(number(&server.stop().last_document(), "accepted"), 60);
}

#[test]
fn a_workload_that_cannot_be_is_refused_before_it_runs() {
    let server = Server::start(2, "");
    let mut nothing = workload(&server, Course::Steered);
    nothing.connections = 0;
    assert!(matches!(Run::start(nothing), Err(c1m::error::Error::Config(_))));
}
