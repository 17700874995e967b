//! A broker of the tests' own, built on the codec of others: sessions, subscriptions with wildcards, quality of service 0
//! and 1, wills, and whatever a test wants it to do wrong. It has a thread for each connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use c1m::internal::protocol::Publication;
use mqtt_proto::{Pid, Protocol, QoS, QosPid, TopicName, v5};
use rustls::ServerConfig;

use super::oracle;
use crate::support::*;

/// What the broker does besides what every broker does.
pub struct Rules {
    /// Bytes of each piece that it sends.
    pub piece: usize,
    /// What it answers to CONNECT.
    pub greets: v5::Connack,
    /// Refuses subscriptions for this reason.
    pub bars: Option<v5::SubscribeReasonCode>,
    /// Answers each message with the one that came before, of whatever connection.
    pub mixes_up: bool,
    /// Ends a connection for this reason at its second message.
    pub ends: Option<v5::DisconnectReasonCode>,
    /// Publishes to this topic at quality of service 1 before it sends a message on.
    pub pushes: Option<&'static str>,
    /// Sends each message of this topic again at quality of service 1, and says so.
    pub repeats: Option<&'static str>,
    /// Acknowledges nothing that this client publishes to this topic.
    pub ignores: Option<(&'static str, &'static str)>,
}

impl Default for Rules {
    fn default() -> Rules {
        let greets = v5::Connack::new(false, v5::ConnectReasonCode::Success);
        let (bars, ends, pushes, repeats, ignores) = Default::default();
        Rules { piece: usize::MAX, greets, bars, mixes_up: false, ends, pushes, repeats, ignores }
    }
}

/// What the broker has seen.
#[derive(Default)]
pub struct Seen {
    pub connects: Vec<v5::Connect>,
    /// Topic filters of each SUBSCRIBE.
    pub subscriptions: Vec<Vec<String>>,
    pub messages: u64,
    /// Of these, those of each topic.
    pub topics: BTreeMap<String, u64>,
    /// Messages that it delivered at quality of service 1, and how many were acknowledged.
    pub delivered: u64,
    pub acknowledged: u64,
    /// PINGREQs of each client.
    pub pings: BTreeMap<String, u64>,
    pub goodbyes: u64,
    /// Topics and messages of wills that were published.
    pub wills: Vec<(String, Vec<u8>)>,
}

/// A session, which outlives its connection if the client asked for that.
#[derive(Default)]
struct Session {
    filters: Vec<(String, QoS)>,
    connection: Option<(Protocol, Link)>,
}

struct Shared {
    rules: Rules,
    seen: Mutex<Seen>,
    sessions: Mutex<BTreeMap<String, Session>>,
    /// The topic and the payload of the message that came last.
    last: Mutex<Option<(String, Vec<u8>)>>,
}

pub struct Broker {
    peer: Peer,
    shared: Arc<Shared>,
}

impl Broker {
    pub fn start(rules: Rules) -> Broker {
        Broker::start_over(rules, None)
    }

    /// Speaks TLS if there is a configuration for it.
    pub fn start_over(rules: Rules, tls: Option<Arc<ServerConfig>>) -> Broker {
        let (seen, sessions, last) = (Mutex::default(), Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { rules, seen, sessions, last });
        let of_peer = shared.clone();
        let peer = Peer::with_threads(move |stream| {
            let (link, shared) = (Link::new(stream, tls.as_ref()), of_peer.clone());
            Connection { link, shared, version: None, client: String::new(), published: 0 }.serve();
        });
        Broker { peer, shared }
    }

    /// The arguments that lead a client to the broker, and have it speak MQTT.
    pub fn at(&self) -> String {
        format!("{} --protocol mqtt", self.peer.at())
    }

    /// The broker's port.
    pub fn port(&self) -> u16 {
        self.peer.port()
    }

    pub fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.shared.seen.lock().unwrap())
    }

    /// Forgets all sessions, as a broker does that lost its disk.
    pub fn forget_sessions(&self) {
        self.shared.sessions.lock().unwrap().clear();
    }
}

/// Whether a topic matches a filter.
fn matches(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some(level), Some(name)) if level == "+" || level == name => {}
            _ => return false,
        }
    }
}

struct Connection {
    link: Link,
    shared: Arc<Shared>,
    version: Option<Protocol>,
    client: String,
    published: u64,
}

impl Connection {
    fn serve(mut self) {
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        let mut will = None;
        loop {
            let read = self.link.read(&mut piece);
            if read == 0 {
                break;
            }
            bytes.extend_from_slice(&piece[..read]);
            // The level stands behind the name of the protocol.
            let level = bytes.windows(4).position(|name| name == b"MQTT").and_then(|at| bytes.get(at + 4));
            let spoken = level.map(|level| if *level == 5 { Protocol::V500 } else { Protocol::V311 });
            let Some(version) = self.version.or(spoken) else { continue };
            self.version = Some(version);
            while let Some((packet, length)) = oracle::read(version, &bytes) {
                bytes.drain(..length);
                if let v5::Packet::Connect(connect) = &packet {
                    will.clone_from(&connect.last_will);
                }
                if let v5::Packet::Disconnect(_) = &packet {
                    will = None;
                    self.shared.seen.lock().unwrap().goodbyes += 1;
                }
                if !self.answer(packet) {
                    self.link.close();
                    break;
                }
            }
        }
        if let Some(will) = will {
            let mut seen = self.shared.seen.lock().unwrap();
            seen.wills.push((will.topic_name.to_string(), will.payload.to_vec()));
        }
    }

    fn say(&self, packet: &v5::Packet) {
        say(&self.shared.rules, self.version.unwrap(), &self.link, packet);
    }

    /// `false` if the connection is to be closed.
    fn answer(&mut self, packet: v5::Packet) -> bool {
        let shared = self.shared.clone();
        let rules = &shared.rules;
        let mut seen = shared.seen.lock().unwrap();
        match packet {
            v5::Packet::Connect(connect) => {
                self.client = connect.client_id.to_string();
                let (mut greeting, clean) = (rules.greets.clone(), connect.clean_start);
                seen.connects.push(connect);
                drop(seen);
                let mut sessions = shared.sessions.lock().unwrap();
                if clean {
                    sessions.remove(&self.client);
                }
                greeting.session_present = sessions.contains_key(&self.client);
                let is_let_in = greeting.reason_code == v5::ConnectReasonCode::Success;
                let connection = Some((self.version.unwrap(), self.link.clone()));
                sessions.entry(self.client.clone()).or_default().connection = connection;
                self.say(&v5::Packet::Connack(greeting));
                return is_let_in;
            }
            v5::Packet::Subscribe(subscribe) => {
                let filters: Vec<_> =
                    subscribe.topics.iter().map(|(filter, options)| (filter.to_string(), options.max_qos)).collect();
                seen.subscriptions.push(filters.iter().map(|(filter, _)| filter.clone()).collect());
                // `publish` locks the sessions first.
                drop(seen);
                let grant = |qos: &QoS| v5::SubscribeReasonCode::from_u8(*qos as u8).unwrap();
                let grants = filters.iter().map(|(_, qos)| rules.bars.unwrap_or(grant(qos))).collect();
                if let Some(session) = shared.sessions.lock().unwrap().get_mut(&self.client) {
                    session.filters = filters;
                }
                self.say(&v5::Packet::Suback(v5::Suback::new(subscribe.pid, grants)));
            }
            v5::Packet::Publish(publish) => {
                seen.messages += 1;
                *seen.topics.entry(publish.topic_name.to_string()).or_default() += 1;
                drop(seen);
                return self.publish(publish);
            }
            v5::Packet::Puback(_) => seen.acknowledged += 1,
            v5::Packet::Pingreq => {
                *seen.pings.entry(self.client.clone()).or_default() += 1;
                self.say(&v5::Packet::Pingresp);
            }
            _ => return false,
        }
        true
    }

    fn publish(&mut self, publish: v5::Publish) -> bool {
        let shared = self.shared.clone();
        let rules = &shared.rules;
        let ignored = rules.ignores.is_some_and(|ignores| ignores == (&*self.client, &*publish.topic_name));
        if let Some(pid) = publish.qos_pid.pid().filter(|_| !ignored) {
            self.say(&v5::Packet::Puback(v5::Puback::new_success(pid)));
        }
        self.published += 1;
        if let Some(reason) = rules.ends.filter(|_| self.published == 2) {
            self.say(&v5::Packet::Disconnect(v5::Disconnect::new(reason)));
            return false;
        }
        let (mut topic, mut payload) = (publish.topic_name.to_string(), publish.payload.to_vec());
        let before = shared.last.lock().unwrap().replace((topic.clone(), payload.clone()));
        if rules.mixes_up {
            (topic, payload) = before.unwrap_or((topic, payload));
        }
        let sessions = shared.sessions.lock().unwrap();
        for (client, session) in sessions.iter() {
            let Some((version, link)) = &session.connection else { continue };
            let deliver = |topic: &str, payload: &[u8], qos: QoS| {
                let mut seen = shared.seen.lock().unwrap();
                seen.delivered += u64::from(qos == QoS::Level1);
                // No two are in flight at once in one session.
                let pid = Pid::try_from((seen.delivered % 60_000) as u16 + 1).unwrap();
                let quality = if qos == QoS::Level1 { QosPid::Level1(pid) } else { QosPid::Level0 };
                let name = TopicName::try_from(topic).unwrap();
                let mut publish = v5::Publish::new(quality, name, payload.to_vec().into());
                let is_repeated = qos == QoS::Level1 && rules.repeats == Some(topic);
                seen.delivered += u64::from(is_repeated);
                drop(seen);
                say(rules, *version, link, &v5::Packet::Publish(publish.clone()));
                if is_repeated {
                    publish.dup = true;
                    say(rules, *version, link, &v5::Packet::Publish(publish));
                }
            };
            if let Some(topic) = rules.pushes.filter(|_| *client == self.client) {
                let mut payload = Vec::new();
                Publication { run: 0, number: 7, instant: 0, length: 64 }.write(&mut payload);
                deliver(topic, &payload, QoS::Level1);
            }
            let filters = &session.filters;
            let most = filters.iter().find(|(filter, _)| matches(filter, &publish.topic_name)).map(|(_, qos)| *qos);
            if let Some(most) = most {
                let published = if publish.qos_pid.pid().is_some() { QoS::Level1 } else { QoS::Level0 };
                deliver(&topic, &payload, published.min(most));
            }
        }
        true
    }
}

fn say(rules: &Rules, version: Protocol, link: &Link, packet: &v5::Packet) {
    link.write(&oracle::write(version, packet), rules.piece);
}
