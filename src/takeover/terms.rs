//! What two servers must agree on: one says what it hands over, and the other whether it can take that.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::connections::WindowWord;
use crate::sys::{CatcherTerms, Mapping, SharedMemory};

/// The version of the format: of the messages, of entries, of the table and of the records in ring buffers. It grows
/// with each change to one of them.
pub const FORMAT: u32 = 8;

/// How a successor asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of its format.
    pub format: u32,
    /// The version of its program, for people.
    pub version: String,
}

/// As bytes of a message.
pub fn to_bytes(value: &impl Serialize) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::other)
}

/// What `to_bytes` has written. Fails with `InvalidData` for anything else.
pub fn of_bytes<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

impl Hello {
    /// That of this program.
    pub fn ours() -> Hello {
        Hello { format: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

/// What a server hands over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The format and the version of the server that hands over.
    #[serde(flatten)]
    pub hello: Hello,
    /// The address that it listens on.
    pub bind: String,
    /// Its shards.
    pub shards: Vec<ShardTerms>,
    /// The most connections that it may have.
    pub connections: u64,
    /// How many of them may be awake at once; `None` where none sleeps.
    pub awake: Option<u64>,
    /// The accept queue of each listener.
    pub backlog: usize,
    /// What catches the segments of sleeping connections.
    pub catcher: Option<CatcherTerms>,
    /// What its connections speak.
    #[serde(default)]
    pub speaks: Speaks,
    /// Its network namespace, such as `net:[4026531840]`; `None` where that is not known.
    #[serde(default)]
    pub network: Option<String>,
    /// The PID of the process that sends these terms. Another process may have listened at the path when the successor
    /// connected, so the successor compares this with the peer of its socket.
    #[serde(default)]
    pub process: u32,
}

/// What is spoken on the connections of a server.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Speaks {
    /// The protocol, as `--protocol` names it.
    pub protocol: String,
    /// The service, as `--service` names it, or that it is none of c1m's.
    pub service: String,
    /// Whether TLS lies below.
    pub tls: bool,
}

/// A shard that is handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardTerms {
    /// Its ports.
    pub ports: Vec<u16>,
}

/// Why a server cannot take over what another one has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// The formats differ.
    Format { ours: u32, theirs: u32, version: String },
    /// They listen on other addresses.
    Address { ours: String, theirs: String },
    /// They have different numbers of shards.
    Shards { ours: usize, theirs: usize },
    /// A shard listens on other ports.
    Ports { shard: usize, ours: (u16, u16), theirs: (u16, u16) },
    /// The other one may have more connections.
    Connections { ours: u64, theirs: u64 },
    /// This one has room for more sleeping connections than the other one's table.
    Table { ours: u64, theirs: u64 },
    /// The other one has sleeping connections, and here none may sleep.
    Sleepers,
    /// Connections sleep, and a connection of one network namespace cannot be woken in another one.
    Network { ours: String, theirs: String },
    /// They speak other protocols.
    Protocol { ours: String, theirs: String },
    /// They have other services.
    Service { ours: String, theirs: String },
    /// One of them speaks TLS, and `theirs` tells whether it is the other one.
    Tls { theirs: bool },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::Format { ours, theirs, version } => {
                write!(f, "c1m {version} hands over in format {theirs}, and this one takes format {ours}")
            }
            Misfit::Address { ours, theirs } => write!(f, "it listens on {theirs}, and this one shall on {ours}"),
            Misfit::Shards { ours, theirs } => write!(f, "it has {theirs} shards, and this one shall have {ours}"),
            Misfit::Ports { shard, ours, theirs } => write!(
                f,
                "its shard {shard} has ports {}-{}, and this one's shall have {}-{}",
                theirs.0, theirs.1, ours.0, ours.1
            ),
            Misfit::Connections { ours, theirs } => {
                write!(f, "it may have {theirs} connections, and this one shall have {ours} at most")
            }
            Misfit::Table { ours, theirs } => {
                write!(f, "its table is for {theirs} sleeping connections, and this one shall have up to {ours}")
            }
            Misfit::Sleepers => f.write_str("its connections sleep, and those of this one shall not"),
            Misfit::Network { ours, theirs } => {
                write!(f, "its connections are in the network namespace {theirs}, and could not be woken in {ours}")
            }
            Misfit::Protocol { ours, theirs } => {
                write!(f, "its connections speak {theirs}, and those of this one shall speak {ours}")
            }
            Misfit::Service { ours, theirs } => write!(f, "its service is {theirs}, and this one's shall be {ours}"),
            Misfit::Tls { theirs: true } => f.write_str("its connections speak TLS, and this one has no certificate"),
            Misfit::Tls { theirs: false } => {
                f.write_str("its connections do not speak TLS, and those of this one shall")
            }
        }
    }
}

/// The first and the last port of a shard; zeros where it has none.
fn ends(ports: &[u16]) -> (u16, u16) {
    (ports.first().copied().unwrap_or(0), ports.last().copied().unwrap_or(0))
}

impl Terms {
    /// Checks that a server with these terms can take over what one with `theirs` has.
    pub fn check(&self, theirs: &Terms) -> Result<(), Misfit> {
        let (ours, hello) = (self, &theirs.hello);
        if ours.hello.format != hello.format {
            let version = hello.version.clone();
            return Err(Misfit::Format { ours: ours.hello.format, theirs: hello.format, version });
        }
        if ours.bind != theirs.bind {
            return Err(Misfit::Address { ours: ours.bind.clone(), theirs: theirs.bind.clone() });
        }
        if ours.shards.len() != theirs.shards.len() {
            return Err(Misfit::Shards { ours: ours.shards.len(), theirs: theirs.shards.len() });
        }
        let mut pairs = ours.shards.iter().zip(&theirs.shards).enumerate();
        if let Some((shard, (ours, theirs))) = pairs.find(|(_, (ours, theirs))| ours != theirs) {
            return Err(Misfit::Ports { shard, ours: ends(&ours.ports), theirs: ends(&theirs.ports) });
        }
        ours.speaks.check(&theirs.speaks)?;
        if ours.connections < theirs.connections {
            return Err(Misfit::Connections { ours: ours.connections, theirs: theirs.connections });
        }
        if ours.awake.is_some()
            && let (Some(ours), Some(theirs)) = (&ours.network, &theirs.network)
            && ours != theirs
        {
            return Err(Misfit::Network { ours: ours.clone(), theirs: theirs.clone() });
        }
        match &theirs.catcher {
            Some(_) if ours.awake.is_none() => Err(Misfit::Sleepers),
            Some(catcher) if catcher.connections() + LEEWAY < ours.connections => {
                Err(Misfit::Table { ours: ours.connections, theirs: catcher.connections() })
            }
            _ => Ok(()),
        }
    }
}

impl Speaks {
    fn check(&self, theirs: &Speaks) -> Result<(), Misfit> {
        let pair = |ours: &String, theirs: &String| (ours.clone(), theirs.clone());
        if self.protocol != theirs.protocol {
            let (ours, theirs) = pair(&self.protocol, &theirs.protocol);
            return Err(Misfit::Protocol { ours, theirs });
        }
        if self.service != theirs.service {
            let (ours, theirs) = pair(&self.service, &theirs.service);
            return Err(Misfit::Service { ours, theirs });
        }
        if self.tls == theirs.tls { Ok(()) } else { Err(Misfit::Tls { theirs: theirs.tls }) }
    }
}

/// A table is sized in whole buckets of a few connections each.
const LEEWAY: u64 = 8;

/// Terms as bytes of a message. They fit a file of states.
#[derive(Debug, Clone)]
pub struct TermsText(Vec<u8>);

impl TermsText {
    /// Fails for terms that are too long.
    pub fn of(terms: &Terms) -> io::Result<TermsText> {
        let text = to_bytes(terms)?;
        let fits = text.len() <= MOST_TERMS - 8;
        fits.then_some(TermsText(text)).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "terms too long"))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A file in memory that outlives its process: one word for each shard with the present window of time (`WindowWord`),
/// and the terms.
pub struct StateFile {
    memory: SharedMemory,
    mapping: Arc<Mapping>,
}

/// Bytes of the words, and where the terms begin: their length, and then they themselves.
const TERMS_AT: usize = 64 << 10;
/// The most bytes that terms may have: 65,535 ports of five digits each, twice.
const MOST_TERMS: usize = 1 << 20;

impl StateFile {
    /// For so many shards.
    pub fn new(shards: usize) -> io::Result<StateFile> {
        if WindowWord::bytes(shards) > TERMS_AT {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many shards for one file of states"));
        }
        let mut memory = SharedMemory::new("c1m-state")?;
        memory.grow(TERMS_AT + MOST_TERMS)?;
        StateFile::of(memory)
    }

    /// That of an earlier process.
    pub fn adopt(file: OwnedFd) -> io::Result<StateFile> {
        StateFile::of(SharedMemory::adopt(file)?)
    }

    fn of(memory: SharedMemory) -> io::Result<StateFile> {
        let mapping = Arc::new(memory.map(0, TERMS_AT + MOST_TERMS)?);
        Ok(StateFile { memory, mapping })
    }

    /// The word of a shard.
    pub fn window(&self, shard: usize) -> WindowWord {
        WindowWord::of(self.mapping.clone(), shard)
    }

    /// Writes terms down, as bytes. A reader finds the old ones, none, or these.
    pub fn write(&self, terms: &TermsText) {
        let TermsText(text) = terms;
        let words = &self.mapping.words()[TERMS_AT / 8..];
        words[0].store(0, Ordering::SeqCst);
        for (word, bytes) in words[1..].iter().zip(text.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
        }
        words[0].store(text.len() as u64, Ordering::SeqCst);
    }

    /// Reads the terms. Fails with `InvalidData` where there are none.
    pub fn read(&self) -> io::Result<Terms> {
        let words = &self.mapping.words()[TERMS_AT / 8..];
        let length = usize::try_from(words[0].load(Ordering::SeqCst)).unwrap_or(usize::MAX);
        if length > MOST_TERMS - 8 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "terms of no length that there can be"));
        }
        let mut text: Vec<u8> = words[1..]
            .iter()
            .take(length.div_ceil(8))
            .flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes())
            .collect();
        text.truncate(length);
        of_bytes(&text)
    }
}

impl AsFd for StateFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        let keys = vec![u64::MAX; 14];
        Terms {
            hello: Hello::ours(),
            bind: "0.0.0.0".to_owned(),
            shards: vec![ShardTerms { ports: vec![80, 81] }, ShardTerms { ports: vec![82] }],
            connections: 1_000,
            awake: Some(100),
            backlog: 128,
            catcher: Some(CatcherTerms { shards: 2, ring_bytes: 1 << 18, buckets: 179, keys, processes: 0 }),
            speaks: Speaks { protocol: "raw".to_owned(), service: "echo".to_owned(), tls: false },
            network: Some("net:[1]".to_owned()),
            process: 1,
        }
    }

    #[test]
    fn terms_that_fit_fit_and_others_say_why_not() {
        let ours = terms();
        assert_eq!(ours.check(&terms()), Ok(()));
        let said = |change: fn(&mut Terms)| {
            let mut theirs = terms();
            change(&mut theirs);
            ours.check(&theirs).unwrap_err().to_string()
        };
        let formats = format!("in format {}, and this one takes format {FORMAT}", FORMAT + 1);
        assert!(said(|theirs| theirs.hello.format += 1).contains(&formats));
        let protocol = said(|theirs| theirs.speaks.protocol = "http".to_owned());
        assert_eq!(protocol, "its connections speak http, and those of this one shall speak raw");
        let service = said(|theirs| theirs.speaks.service = "push".to_owned());
        assert_eq!(service, "its service is push, and this one's shall be echo");
        assert!(said(|theirs| theirs.speaks.tls = true).contains("speak TLS, and this one has no certificate"));
        assert!(said(|theirs| theirs.bind = "::".to_owned()).contains("listens on ::"));
        assert!(said(|theirs| drop(theirs.shards.pop())).contains("has 1 shards"));
        assert!(said(|theirs| theirs.shards[1].ports = vec![90, 91]).contains("shard 1 has ports 90-91"));
        assert!(said(|theirs| theirs.connections += 1).contains("may have 1001 connections"));
        assert!(said(|theirs| theirs.catcher.as_mut().unwrap().buckets = 9).contains("table is for 50"));
        assert!(
            said(|theirs| theirs.network = Some("net:[2]".to_owned())).contains("namespace net:[2], and could not")
        );
        assert_eq!(ours.check(&Terms { network: None, ..terms() }), Ok(()), "it is not known");
        let awake = Terms { awake: None, ..terms() };
        assert_eq!(awake.check(&terms()), Err(Misfit::Sleepers));
        assert_eq!(ours.check(&Terms { catcher: None, awake: None, ..terms() }), Ok(()), "it begins to sleep");
    }

    #[test]
    fn a_state_file_keeps_terms_for_the_next_process() {
        let file = StateFile::new(2).unwrap();
        assert!(file.read().is_err(), "there are none yet");
        file.write(&TermsText::of(&terms()).unwrap());
        let other = StateFile::adopt(file.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(other.read().unwrap(), terms());
        let short = SharedMemory::new("short").unwrap();
        assert!(StateFile::adopt(short.as_fd().try_clone_to_owned().unwrap()).is_err());
    }
}
