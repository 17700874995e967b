//! A NATS server of the tests' own: subjects with wildcards, messages without headers, and whatever a test wants it to do
//! wrong. It has a thread for each connection, and reads lines by the standard library.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, MutexGuard};

use c1m::internal::protocol::Publication;
use rustls::ServerConfig;
use serde_json::Value;

use crate::support::*;

/// What the server does besides what every server does.
pub struct Rules {
    /// Bytes of each piece that it sends.
    pub piece: usize,
    /// Says this error after the INFO.
    pub refuses: Option<&'static str>,
    /// Says this error at the second message of a connection.
    pub ends: Option<&'static str>,
    /// Sends the payload that came before, of whatever connection, in place of the one that came.
    pub mixes_up: bool,
    /// Publishes there, and pings the client, before it sends a message of the client's on.
    pub pushes: Option<&'static str>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { piece: usize::MAX, refuses: None, ends: None, mixes_up: false, pushes: None }
    }
}

/// What the server has seen.
#[derive(Default)]
pub struct Seen {
    /// What each CONNECT says.
    pub connects: Vec<Value>,
    /// Subjects that were subscribed to.
    pub subjects: Vec<String>,
    pub messages: u64,
    /// Messages of the subject that it pushes to.
    pub pushed: u64,
    /// PINGs of each client, by its name.
    pub pings: BTreeMap<String, u64>,
    /// Answers to its own PINGs.
    pub pongs: u64,
}

#[derive(Default)]
struct State {
    seen: Seen,
    /// The connections by their numbers, each with the subjects of its subscriptions and what they are named.
    clients: BTreeMap<usize, (Link, Vec<(String, String)>)>,
    /// The payload of the message that came last.
    last: Vec<u8>,
}

struct Shared {
    rules: Rules,
    /// It is locked while something is written to a connection, so that no two threads write to one at once.
    state: Mutex<State>,
}

pub struct Broker {
    peer: Peer,
    shared: Arc<Shared>,
}

impl Broker {
    pub fn start(rules: Rules) -> Broker {
        Broker::start_over(rules, None)
    }

    /// Speaks TLS from the first byte if there is a configuration for it.
    pub fn start_over(rules: Rules, tls: Option<Arc<ServerConfig>>) -> Broker {
        let shared = Arc::new(Shared { rules, state: Mutex::default() });
        let of_peer = shared.clone();
        let peer = Peer::with_threads(move |stream| {
            let link = Link::new(stream, tls.as_ref());
            let mut state = of_peer.state.lock().unwrap();
            let number = state.clients.last_key_value().map_or(0, |(number, _)| number + 1);
            state.clients.insert(number, (link.clone(), Vec::new()));
            drop(state);
            Connection { shared: &of_peer, number, link: link.clone(), name: String::new(), published: 0 }.serve();
            of_peer.state.lock().unwrap().clients.remove(&number);
            link.close();
        });
        Broker { peer, shared }
    }

    /// The arguments that lead a client to the server, and have it speak NATS.
    pub fn at(&self) -> String {
        format!("{} --protocol nats", self.peer.at())
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        self.peer.port()
    }

    pub fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.shared.state.lock().unwrap().seen)
    }
}

/// Whether a subject matches that of a subscription.
fn matches(subscribed: &str, subject: &str) -> bool {
    let (mut subscribed, mut subject) = (subscribed.split('.'), subject.split('.'));
    loop {
        match (subscribed.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(word), Some(name)) if word == "*" || word == name => {}
            _ => return false,
        }
    }
}

/// Reads what comes on a connection.
struct Reading(Link);

impl Read for Reading {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        Ok(self.0.read(bytes))
    }
}

struct Connection<'a> {
    shared: &'a Shared,
    number: usize,
    link: Link,
    name: String,
    published: u64,
}

impl Connection<'_> {
    fn serve(mut self) {
        let info = format!(r#"INFO {{"server_id":"test","max_payload":1048576,"note":"{}"}} "#, "x".repeat(5_000));
        self.say(&info);
        if let Some(error) = self.shared.rules.refuses {
            self.say(&format!("-ERR '{error}'"));
        }
        let mut reader = BufReader::new(Reading(self.link.clone()));
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
            let words: Vec<&str> = line.trim_end().splitn(2, ' ').collect();
            match words[..] {
                ["CONNECT", options] => {
                    let options: Value = serde_json::from_str(options).unwrap();
                    self.name = options["name"].as_str().unwrap().to_owned();
                    self.state().seen.connects.push(options);
                }
                ["SUB", subscription] => {
                    let (subject, name) = subscription.split_once(' ').unwrap();
                    let mut state = self.state();
                    state.seen.subjects.push(subject.to_owned());
                    let (_, subscriptions) = state.clients.get_mut(&self.number).unwrap();
                    subscriptions.push((subject.to_owned(), name.to_owned()));
                }
                ["PING"] => {
                    *self.state().seen.pings.entry(self.name.clone()).or_default() += 1;
                    self.say("PONG");
                }
                ["PONG"] => self.state().seen.pongs += 1,
                ["PUB", told] => {
                    let (subject, length) = told.split_once(' ').unwrap();
                    let mut payload = vec![0; length.parse::<usize>().unwrap() + 2];
                    // A client that is gone is found by the next line.
                    if reader.read_exact(&mut payload).is_ok() {
                        self.publish(subject, &payload);
                    }
                }
                _ => panic!("{line:?}"),
            }
            line.clear();
        }
        // What is no line, such as TLS, is passed over: a close with unread bytes would reset what the client is to read.
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    fn say(&self, line: &str) {
        let _state = self.state();
        self.write(&self.link, format!("{line}\r\n").as_bytes());
    }

    /// The state is locked meanwhile.
    fn write(&self, link: &Link, bytes: &[u8]) {
        link.write(bytes, self.shared.rules.piece);
    }

    /// Sends a message on. Its payload comes with its end.
    fn publish(&mut self, subject: &str, payload: &[u8]) {
        let rules = &self.shared.rules;
        self.published += 1;
        if let Some(error) = rules.ends.filter(|_| self.published == 2) {
            return self.say(&format!("-ERR '{error}'"));
        }
        if rules.pushes.is_some() {
            self.say("ping");
        }
        let mut state = self.state();
        state.seen.messages += 1;
        let before = std::mem::replace(&mut state.last, payload.to_vec());
        let sent = if rules.mixes_up && before.len() == payload.len() { &before } else { payload };
        if let Some(pushed) = rules.pushes {
            let mut payload = Vec::new();
            Publication { run: 0, number: 7, instant: 0, length: 64 }.write(&mut payload);
            payload.extend_from_slice(b"\r\n");
            state.seen.pushed += self.deliver(&state, pushed, "_INBOX.x ", &payload);
        }
        self.deliver(&state, subject, "", sent);
    }

    /// Sends a message to all that have subscribed to its subject. Returns their number.
    fn deliver(&self, state: &State, subject: &str, reply: &str, payload: &[u8]) -> u64 {
        let mut delivered = 0;
        for (link, subscriptions) in state.clients.values() {
            for (_, name) in subscriptions.iter().filter(|(subscribed, _)| matches(subscribed, subject)) {
                let head = format!("MSG {subject} {name} {reply}{}\r\n", payload.len() - 2);
                self.write(link, &[head.as_bytes(), payload].concat());
                delivered += 1;
            }
        }
        delivered
    }
}
