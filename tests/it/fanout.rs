//! `c1m fanout`: what is proved of publications, against c1m's own server, and against servers that drop, double, change
//! and reorder them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use c1m::internal::protocol::push::{FRAME_HEADER, Frame, Kind, Receipt};
use serde_json::Value;
use tungstenite::{Message, WebSocket};

use crate::mqtt::broker::{Broker, Rules};
use crate::nats;
use crate::push::Framed;
use crate::support::*;

/// An ended fan-out and its result.
pub struct FanoutRun {
    pub finished: Finished,
    pub json: Value,
    page: String,
}

/// Runs a fan-out to its end, and checks that the numbers of its result add up.
fn fanout(at: &str, arguments: &str) -> FanoutRun {
    let run = fanout_until(at, arguments, |_| {});
    let sum = ["received", "lost", "missed"].map(|name| run.number(name)).iter().sum::<u64>();
    assert_eq!(run.number("expected"), sum, "{}", run.json["fanout"]);
    run
}

/// The same of a fan-out that may be stopped meanwhile.
pub fn fanout_until(at: &str, arguments: &str, meanwhile: impl FnOnce(&mut Running)) -> FanoutRun {
    let dir = tempfile::tempdir().unwrap();
    let [json, page] = ["json", "page.html"].map(|name| dir.path().join(name));
    let mut command = c1m();
    command.arg("fanout").args(at.split_whitespace()).args(arguments.split_whitespace());
    command.arg("--json").arg(&json).arg("--report").arg(&page);
    if !at.contains("--target") {
        command.args(["--target-ip", "127.0.0.1"]);
    }
    let mut running = Running::start(command);
    meanwhile(&mut running);
    let finished = running.wait();
    let text = std::fs::read_to_string(&json).unwrap_or_else(|e| panic!("{e}\n{}{}", finished.out, finished.err));
    let run = FanoutRun {
        json: serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}\n{}{}", finished.out, finished.err)),
        page: std::fs::read_to_string(&page).unwrap(),
        finished,
    };
    let tls = if arguments.contains("--tls") { &["tls"][..] } else { &[] };
    has_client_names_and(&run.json, &[&["fanout", "timeline", "about"], tls].concat());
    assert_eq!(run.finished.code() == 0, run.json["complete"] == true, "{}", run.json);
    let counted = number(&run.json["fanout"]["receipt_latency_us"], "count");
    assert_eq!(counted, run.number("received"), "{}", run.json["fanout"]);
    let late = number(&run.json["fanout"]["published_late_us"], "count");
    assert_eq!(late, run.number("published"), "{}", run.json["fanout"]);
    run
}

impl FanoutRun {
    fn number(&self, name: &str) -> u64 {
        number(&self.json["fanout"], name)
    }

    /// A number of each publication.
    fn of_each(&self, name: &str) -> Vec<u64> {
        self.json["fanout"]["publications"].as_array().unwrap().iter().map(|one| number(one, name)).collect()
    }

    /// Checks that each of so many publications was received exactly once by so many subscribers.
    fn is_exact(&self, publications: usize, subscribers: u64) {
        assert_eq!(self.finished.code(), 0, "{}{}", self.finished.out, self.finished.err);
        assert_eq!(self.json["fanout"]["exact"], true, "{}", self.json);
        assert_eq!(self.of_each("once"), vec![subscribers; publications], "{}", self.json);
        for name in ["missed", "lost", "twice", "extra", "late", "not_published", "foreign"] {
            assert_eq!(self.number(name), 0, "{name}: {}", self.json);
        }
        assert!(self.finished.out.contains("each was received exactly once"), "{}", self.finished.out);
    }

    /// Checks that the fan-out has failed with these counts, and that all others are 0.
    fn is_not_exact(&self, counts: &[(&str, u64)]) {
        assert_eq!(self.finished.code(), 1, "{}{}", self.finished.out, self.finished.err);
        for name in ["missed", "lost", "twice", "extra", "late", "not_published"] {
            let expected = counts.iter().find(|(count, _)| *count == name).map_or(0, |(_, number)| *number);
            assert_eq!(self.number(name), expected, "{name}: {}", self.json["fanout"]);
        }
    }
}

#[test]
fn every_subscriber_of_every_shard_gets_each_publication_once() {
    for protocol in ["raw", "websocket"] {
        let server = Server::start(4, &format!("--protocol {protocol} --service push"));
        let words = format!("--protocol {protocol} --subscribers 1000 --publishers 3 --rate 50 --for 500ms");
        let run = fanout(&server.at(), &words);
        run.is_exact(25, 1_000);
        assert_eq!(run.of_each("expected"), [1_000; 25]);
        assert_eq!([run.number("subscribers"), run.number("publishers"), run.number("payload_bytes")], [1_000, 3, 64]);
        assert_eq!(run.number("to_publishers"), 0, "{}", run.json);
        assert!(run.of_each("last_us").iter().all(|last| *last > 0), "{}", run.json);
        assert!(run.json["fanout"]["publications"][24]["intended_seconds"].as_f64() >= Some(0.48), "{}", run.json);
        for shown in
            ["25 publications to 1,000 subscribers", ">Receipt latency</h2>", "25,000 once", "published late by"]
        {
            assert!(run.page.contains(shown), "{shown} is not in the page");
        }
    }
}

/// Each subscriber has a session of its own, and its records are sealed for it alone.
#[test]
fn publications_go_out_over_tls() {
    let authority = Authority::new();
    let certificate = authority.sign("server", &["localhost"]);
    for protocol in ["raw", "websocket"] {
        let server = Server::start(2, &format!("--protocol {protocol} --service push {}", certificate.server()));
        let tls = format!("--tls --ca {} --sni localhost", authority.file());
        let words = format!("--protocol {protocol} --subscribers 200 --rate 20 --for 300ms --payload 5000 {tls}");
        let run = fanout(&server.at(), &words);
        run.is_exact(6, 200);
    }
}

/// A payload of several segments, that comes in pieces. A busy machine publishes all of them at once, which is no reason for
/// the server to give up its subscribers.
#[test]
fn long_publications_are_proved_to_the_last_byte() {
    for protocol in ["raw", "websocket"] {
        let server = Server::start(2, &format!("--protocol {protocol} --service push --max-pending 1048576"));
        let words = format!("--protocol {protocol} --subscribers 50 --rate 20 --for 300ms --payload 60000");
        fanout(&server.at(), &words).is_exact(6, 50);
    }
}

/// A subscriber that does not read, and for which the server keeps bytes, holds up no other. However slowly the other
/// subscribers read, the server keeps all of their publications.
#[test]
fn a_slow_subscriber_of_another_client_changes_nothing() {
    let server = Server::start(1, "--service push --max-pending 8388608");
    let (mut slow, mut publisher) = (Framed(connected(server.port)), Framed(connected(server.port)));
    slow.say(Kind::Subscribe, b"");
    assert_eq!(slow.hear(), (Kind::Subscribe, Vec::new()));
    // More than the kernel keeps for a reader: tcp_wmem has 4 MiB at most, and tcp_rmem begins with 128 KiB.
    for number in 1..=100 {
        publisher.say(Kind::Publish, &[b'x'; 60_000]);
        let (_, text) = publisher.hear();
        assert_eq!(Receipt::read(&text), Some(Receipt { number, subscribers: 1, missed: 0 }));
    }
    let run = fanout(&server.at(), "--subscribers 100 --rate 20 --for 500ms --payload 30000");
    run.is_exact(10, 100);
    drop(slow);
}

/// The result of one process is no part of a greater one. The interval log has the receipts of each publication.
#[test]
fn results_can_be_shown_and_not_merged() {
    let server = Server::start(1, "--service push");
    let dir = tempfile::tempdir().unwrap();
    let [json, later, page, log] = ["fanout.json", "later.json", "page.html", "fanout.hlog"]
        .map(|name| dir.path().join(name).display().to_string());
    let at = format!("{} --target-ip 127.0.0.1 --hlog {log}", server.at());
    for file in [&json, &later] {
        assert_eq!(run(&format!("fanout {at} --subscribers 10 --rate 20 --for 100ms --json {file}")).code(), 0);
    }
    let lines = std::fs::read_to_string(&log).unwrap();
    for tag in ["Tag=receipt-0,", "Tag=receipt-1,"] {
        assert_eq!(lines.lines().filter(|line| line.starts_with(tag)).count(), 1, "{tag} {lines}");
    }
    let read = run(&format!("report merge {log}"));
    assert!(read.out.contains("receipt latency (publications)") && read.out.contains("20"), "{}", read.out);
    assert_eq!(run(&format!("report html {json} --output {page}")).code(), 0);
    assert!(std::fs::read_to_string(page).unwrap().contains(">Receipt latency</h2>"));
    let compared = run(&format!("report compare {json} {later}"));
    assert!(compared.out.contains("receipt p99") && compared.out.contains("last subscriber"), "{}", compared.out);
    assert!(compared.out.contains("of the last subscriber are over the publications\n"), "{}", compared.out);
    run(&format!("report merge {json}")).fails_with(2, &["is the result of a fan-out"]);
    let mut client: serde_json::Value = document(&later);
    client.as_object_mut().unwrap().remove("fanout");
    std::fs::write(&later, client.to_string()).unwrap();
    let compared = run(&format!("report compare {json} {later}"));
    assert!(compared.out.contains("before is the result of a fan-out, after that of a client: "), "{}", compared.out);
}

#[test]
fn fan_outs_that_make_no_sense_are_refused() {
    let at = "fanout --target-ip 127.0.0.1";
    let wrong = [
        ("--subscribers 0", "--publishers 1 --subscribers 0"),
        ("--subscribers 9 --publishers 0", "--publishers 0 --subscribers 9"),
        ("--subscribers 9 --rate 1000000", "10000000 publications"),
        ("--subscribers 9 --payload 63", "--payload 63: a publication has"),
        ("--subscribers 9 --payload 60001", "--payload 60001: a publication has"),
        ("--subscribers 9 --protocol http", "http publishes nothing"),
        ("--subscribers 9 --protocol websocket --publish hello", "put {payload} into it"),
        ("--subscribers 9 --protocol nats --publish news.{n}", "leave {n} out"),
        ("--subscribers 9 --protocol mqtt --publish news/{n}", "no subscriber would get"),
        ("--subscribers 9 --publish {payload}", "--publish with the protocol push"),
        ("--subscribers 9 --wait 0s", "--wait 0s: a receipt may take 1 ms at least"),
    ];
    for (words, error) in wrong {
        run(&format!("{at} {words}")).fails_with(2, &[error]);
    }
}

// ---- servers that do not what they should ------------------------------------------------------------

/// Subscribers of a broadcaster.
type Subscribers = Mutex<Vec<TcpStream>>;

/// Reads one frame.
fn frame(stream: &mut TcpStream) -> Option<(Kind, Vec<u8>)> {
    let mut bytes = vec![0; FRAME_HEADER];
    stream.read_exact(&mut bytes).ok()?;
    let Frame { kind, length } = Frame::read(&bytes).unwrap().unwrap();
    bytes.resize(FRAME_HEADER + length, 0);
    stream.read_exact(&mut bytes[FRAME_HEADER..]).ok()?;
    Some((kind, bytes))
}

/// A broadcaster over plain bytes that sends to each subscriber what `fault` makes of a publication. Both are counted from 0.
fn broadcaster(
    fault: impl Fn(usize, usize, &[u8]) -> Vec<Vec<u8>> + Send + Sync + 'static,
) -> (Peer, Arc<Subscribers>) {
    broadcaster_of(fault, |_, _| {})
}

/// The same, with something done after a publication, which has this number in its run, to the publisher's connection.
fn broadcaster_of(
    fault: impl Fn(usize, usize, &[u8]) -> Vec<Vec<u8>> + Send + Sync + 'static,
    after: impl Fn(u32, &TcpStream) + Send + Sync + 'static,
) -> (Peer, Arc<Subscribers>) {
    let (subscribers, published) = (Arc::<Subscribers>::default(), Mutex::new(0));
    let shared = subscribers.clone();
    let peer = Peer::with_threads(move |mut stream| {
        while let Some((kind, bytes)) = frame(&mut stream) {
            match kind {
                Kind::Subscribe => {
                    shared.lock().unwrap().push(stream.try_clone().unwrap());
                    stream.write_all(&bytes).unwrap();
                }
                Kind::Publish => {
                    let mut published = published.lock().unwrap();
                    for (subscriber, stream) in shared.lock().unwrap().iter_mut().enumerate() {
                        // In one piece: the client may be done as soon as each has got one copy. One that is lost gets nothing.
                        let _ = stream.write_all(&fault(*published, subscriber, &bytes).concat());
                    }
                    after(number_in_run(&bytes), &stream);
                    *published += 1;
                }
                _ => _ = stream.write_all(&bytes),
            }
        }
    });
    (peer, subscribers)
}

/// The number of a publication within its run, which stands behind a mark and the run, each of 16 bytes.
fn number_in_run(frame: &[u8]) -> u32 {
    let digits = &frame[FRAME_HEADER + 2 * 16..][..8];
    u32::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
}

fn once(bytes: &[u8]) -> Vec<Vec<u8>> {
    vec![bytes.to_vec()]
}

/// Ten publications.
const TWENTY: &str = "--subscribers 20 --rate 50 --for 200ms";

/// Long enough for receipts on a busy machine, and how long a run lasts in which one is missed.
const WAIT: &str = "--wait 5s";

#[test]
fn a_server_that_does_what_it_should_is_exact() {
    let (peer, _) = broadcaster(|_, _, bytes| once(bytes));
    fanout(&peer.at(), TWENTY).is_exact(10, 20);
}

#[test]
fn a_publication_that_is_dropped_for_one_is_missed_by_one() {
    let (peer, _) = broadcaster(|number, to, bytes| if (number, to) == (3, 7) { Vec::new() } else { once(bytes) });
    let run = fanout(&peer.at(), &format!("{TWENTY} {WAIT}"));
    run.is_not_exact(&[("missed", 1)]);
    assert_eq!(run.of_each("missed"), [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(run.of_each("once")[3], 19);
    assert_eq!(number(&run.json, "live"), 21, "a subscriber that misses one lives on");
}

#[test]
fn a_publication_that_comes_twice_is_found_out() {
    // The last one too, whose second copy comes when all have got it.
    let twice = [(3, 7), (9, 19), (9, 0)];
    let (peer, _) =
        broadcaster(
            move |number, to, bytes| {
                if twice.contains(&(number, to)) { [once(bytes), once(bytes)].concat() } else { once(bytes) }
            },
        );
    let run = fanout(&peer.at(), TWENTY);
    run.is_not_exact(&[("twice", 3), ("extra", 3)]);
    assert_eq!([run.of_each("twice")[3], run.of_each("twice")[9], run.number("once")], [1, 2, 197]);
}

/// A publication that comes instead of another is one too many, and the other is missed.
#[test]
fn a_publication_in_place_of_another_is_found_out() {
    let before = Mutex::new((Vec::new(), Vec::new()));
    let (peer, _) = broadcaster(move |number, to, bytes| {
        let mut before = before.lock().unwrap();
        // The first subscriber is the first to get each.
        if to == 0 {
            *before = (std::mem::take(&mut before.1), bytes.to_vec());
        }
        if (number, to) == (4, 2) { vec![before.0.clone()] } else { once(bytes) }
    });
    let run = fanout(&peer.at(), &format!("{TWENTY} {WAIT}"));
    run.is_not_exact(&[("missed", 1), ("twice", 1), ("extra", 1)]);
    assert_eq!([run.of_each("twice")[3], run.of_each("missed")[4]], [1, 1]);
}

#[test]
fn publications_in_another_order_are_told() {
    let held = Mutex::new(None);
    let (peer, _) = broadcaster(move |number, to, bytes| match (number, to) {
        (4, 2) => {
            *held.lock().unwrap() = Some(bytes.to_vec());
            Vec::new()
        }
        (5, 2) => vec![bytes.to_vec(), held.lock().unwrap().take().unwrap()],
        _ => once(bytes),
    });
    let run = fanout(&peer.at(), TWENTY);
    run.is_exact(10, 20);
    assert_eq!(run.number("out_of_order"), 1, "{}", run.json);
    assert!(run.finished.out.contains("1 came after the next publication"), "{}", run.finished.out);
}

#[test]
fn a_publication_that_was_changed_fails_its_subscriber() {
    let (peer, _) = broadcaster(|number, to, bytes| {
        let mut bytes = bytes.to_vec();
        if (number, to) == (2, 5) {
            *bytes.last_mut().unwrap() ^= 1;
        }
        vec![bytes]
    });
    let run = fanout(&peer.at(), &format!("{TWENTY} --payload 100"));
    assert_eq!(run.json["errors"]["altered_publication"], 1, "{}", run.json);
    // What was published later was not expected of it. Where the machine is slow, some were already under way.
    let lost = run.of_each("lost");
    let under_way = lost[3..].iter().take_while(|lost| **lost == 1).count();
    let expected: Vec<u64> = (0..10).map(|number| u64::from((2..3 + under_way).contains(&number))).collect();
    assert_eq!(lost, expected, "{}", run.json);
    run.is_not_exact(&[("lost", 1 + under_way as u64)]);
}

/// The connection of a subscriber ends while a publication is under way: it is lost, and has missed nothing.
#[test]
fn a_lost_subscriber_has_missed_nothing() {
    let cut = Arc::new(AtomicBool::new(false));
    let now = cut.clone();
    let (peer, subscribers) = broadcaster(move |number, to, bytes| {
        if (number, to) == (4, 6) {
            now.store(true, Ordering::Release);
        }
        if number >= 4 && to == 6 { Vec::new() } else { once(bytes) }
    });
    let cutter = thread::spawn(move || {
        eventually("the publication", || cut.load(Ordering::Acquire));
        // The broadcaster writes while it holds the list.
        subscribers.lock().unwrap()[6].shutdown(std::net::Shutdown::Both).unwrap();
    });
    let run = fanout(&peer.at(), TWENTY);
    cutter.join().unwrap();
    assert_eq!([run.number("missed"), run.number("twice"), run.finished.code() as u64], [0, 0, 1], "{}", run.json);
    assert_eq!(run.json["fanout"]["exact"], true, "each that lives on got all: {}", run.json);
    assert_eq!(run.of_each("lost")[4], 1, "{}", run.json);
    assert_eq!([number(&run.json, "live"), number(&run.json, "failed")], [20, 1], "{}", run.json);
}

/// What its publisher was to publish never was, and no subscriber waits for it.
#[test]
fn what_a_lost_publisher_did_not_publish_is_told() {
    let (peer, _) = broadcaster_of(
        |_, _, bytes| once(bytes),
        |number, stream| {
            // The first of two publishers is closed after its second publication.
            if number == 2 {
                stream.shutdown(std::net::Shutdown::Both).unwrap();
            }
        },
    );
    let words = format!("--subscribers 20 --publishers 2 --rate 4 --for 2500ms {WAIT}");
    let run = fanout(&peer.at(), &words);
    assert_eq!((run.finished.code(), run.number("twice")), (1, 0), "{}", run.json);
    let published: Vec<bool> =
        (0..10).map(|number| !run.json["fanout"]["publications"][number]["intended_seconds"].is_null()).collect();
    assert!(published.iter().skip(1).step_by(2).all(|published| *published), "{}", run.json);
    assert!(published[0] && published[2] && !published[8], "{}", run.json);
    assert_eq!(run.number("published") + run.number("not_published"), 10);
    // The client may have published once more before it saw the end.
    assert_eq!(run.number("once") + run.number("missed"), 20 * run.number("published"));
    assert!(run.finished.out.contains("never"), "{}", run.finished.out);
}

/// A run that is stopped tells what it has seen, and its result can be read back.
#[test]
fn a_fan_out_can_be_stopped() {
    let (peer, _) = broadcaster(|_, to, bytes| if to == 3 { Vec::new() } else { once(bytes) });
    let run = fanout_until(&peer.at(), "--subscribers 20 --rate 20 --for 60s --wait 1h", |running| {
        running.until("receipts", |out| {
            out.lines().any(|line| line.starts_with("publish") && !line.contains(" 0 receipts"))
        });
        running.signal(libc::SIGINT);
    });
    assert_eq!((run.finished.code(), &run.json["stopped"]), (1, &true.into()), "{}", run.json);
    assert!(run.number("received") > 0 && run.number("missed") == 0 && run.number("not_published") > 0, "{}", run.json);
    let awaited = run.number("expected") - run.number("received") - run.number("lost");
    assert!(
        run.finished.out.contains(&format!(" + {awaited} awaited when the run was stopped;")),
        "{}",
        run.finished.out
    );
    let dir = tempfile::tempdir().unwrap();
    let [json, page] = ["fanout.json", "page.html"].map(|name| dir.path().join(name).display().to_string());
    std::fs::write(&json, run.json.to_string()).unwrap();
    assert_eq!(crate::support::run(&format!("report html {json} --output {page}")).code(), 0);
}

// ---- other servers -----------------------------------------------------------------------------------

/// A server by tungstenite that sends each text but subscriptions to all that subscribed. It knows no path.
#[test]
fn any_websocket_server_that_broadcasts_can_be_asked() {
    let subscribers = Subscribers::default();
    let peer = Peer::with_threads(move |stream| {
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        while let Ok(message) = socket.read() {
            let Message::Text(text) = message else { continue };
            let said: Value = serde_json::from_str(&text).unwrap();
            if said["op"] == "join" {
                subscribers.lock().unwrap().push(socket.get_ref().try_clone().unwrap());
                continue;
            }
            let wrapped = format!(r#"{{"from":"publisher","data":{}}}"#, said["data"]);
            for stream in subscribers.lock().unwrap().iter() {
                let role = tungstenite::protocol::Role::Server;
                WebSocket::from_raw_socket(stream, role, None).send(Message::text(wrapped.clone())).unwrap();
            }
        }
    });
    let templates = r#"--subscribe {{"op":"join"}} --publish {{"op":"say","data":"{payload}"}}"#;
    let run = fanout(&peer.at(), &format!("--protocol websocket {TWENTY} --payload 200 {templates}"));
    run.is_exact(10, 20);
}

/// Publishers subscribe to their own topic alone.
#[test]
fn a_common_topic_of_mqtt_fans_out() {
    for version in ["3.1.1", "5"] {
        let broker = Broker::start(Rules::default());
        let words = format!("--mqtt-version {version} --publishers 2 {TWENTY}");
        fanout(&broker.at(), &words).is_exact(10, 20);
    }
}

#[test]
fn a_common_subject_of_nats_fans_out() {
    let broker = nats::broker::Broker::start(Default::default());
    fanout(&broker.at(), &format!("--publishers 2 {TWENTY} --payload 300")).is_exact(10, 20);
    let subjects = "--publish news.today --subscribe news.*";
    fanout(&broker.at(), &format!("--publishers 2 {TWENTY} {subjects}")).is_exact(10, 20);
}

/// At quality of service 1 the broker acknowledges each publication, and each subscriber its receipt. What the broker sends
/// again is counted as what it is, also behind the last publication.
#[test]
fn copies_that_mqtt_allows_are_told_apart() {
    for (version, repeats) in [("3.1.1", None), ("5", None), ("5", Some("c1m/fanout"))] {
        let broker = Broker::start(Rules { repeats, ..Rules::default() });
        let words = format!("--mqtt-version {version} --qos 1 --publishers 2 {TWENTY}");
        let run = fanout(&broker.at(), &words);
        if repeats.is_none() {
            run.is_exact(10, 20);
        } else {
            run.is_not_exact(&[("twice", 200), ("extra", 200)]);
            assert!(run.finished.out.contains("200 of those beyond the first were sent again"), "{}", run.finished.out);
        }
        assert_eq!(run.number("repeated"), if repeats.is_some() { 200 } else { 0 }, "{}", run.json);
        broker.seen(|seen| assert_eq!(seen.acknowledged, seen.delivered, "each copy is acknowledged"));
    }
}
