//! Properties that must hold for input from outside: one function for each kind of input.
//!
//! `fuzz/` searches for bytes that break a property, guided by coverage. The tests at the end try the seeds in
//! `fuzz/seeds`, unchanged and corrupted, with any toolchain. This module is built for these two purposes alone.

use std::cell::RefCell;
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::slice;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{CommandFactory, FromArgMatches};

use crate::cli::args::{Arguments, Command};
use crate::cli::steer::{LONGEST_LINE, Word};
use crate::command_error::{self, Blame};
use crate::connections::{LONGEST_IDLE, SHORTEST_IDLE};
use crate::constants::BUFFER_BYTES;
use crate::failure::{Cause, Causes};
use crate::host::Host;
use crate::latency::{Latency, PERCENTILES};
use crate::metrics::http;
use crate::plan::{Goal, Layers, Ports, Reserve, Role, Routes};
use crate::protocol::{Exchange, Pattern, Position, Protocol, Purpose, Scratch, Settings, Template, Verdict};
use crate::render::{hgrm, html, json, text};
use crate::results::document::{ClientDocument, MachineDocument, read_client};
use crate::results::merge::merge;
use crate::token::{ConnId, Token};
use crate::tune::state::State;
use crate::walls::{EvidenceRecorder, WALLS, explain};

mod completions;
mod dialects;
mod handed;
mod handshakes;
mod mqtt;
mod pem;
mod records;
mod segments;
mod spoken;
#[cfg(test)]
mod tests;

pub use completions::completions;
pub use dialects::{nats, pushes, responses, server_frames, target};
pub use handed::handed;
pub use handshakes::handshakes;
pub use mqtt::mqtt;
pub use pem::pem;
pub use records::records;
pub use segments::segments;
pub use spoken::{chunks, frames, publication, requests, upgrade};

/// An input that is read as numbers; zeros follow its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn next<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let (now, later) = self.0.split_at(N.min(self.0.len()));
        bytes[..now.len()].copy_from_slice(now);
        self.0 = later;
        bytes
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.next())
    }

    fn short(&mut self) -> usize {
        u16::from_le_bytes(self.next()).into()
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.next())
    }
}

fn is_one_line(error: &impl std::error::Error) {
    let line = error.to_string();
    assert!(!line.contains('\n'), "an error is one line: {line}");
}

/// `user_data` of a completion: each number is refused, or equals the number that its token packs to.
pub fn token(bytes: &[u8]) {
    let raw = u64::from_le_bytes(Input(bytes).next());
    let Some(token) = Token::unpack(raw) else { return };
    assert_eq!(token.pack(), raw);
    let conn = ConnId::new(7, token.slot, token.generation);
    assert_eq!((conn.ring(), conn.token(token.operation)), (7, token));
}

/// Bytes of an echo at most in `echo`. Longer ones repeat the same pattern.
const LONGEST_ECHO: usize = 4096;

/// An echo that arrives in pieces is whole at its end and not before. A corrupted echo is wrong in the piece with
/// the changed byte.
pub fn echo(bytes: &[u8]) {
    let mut input = Input(bytes);
    let purpose = [Purpose::Open(0), Purpose::Audit, Purpose::Message][usize::from(input.byte()) % 3];
    let (number, round, payload) = (input.word().into(), input.word(), input.short() % LONGEST_ECHO);
    let (each, at, change) = (input.short().max(1), input.short(), input.byte());
    let hello = String::from_utf8_lossy(input.0).into_owned();
    let settings = Settings { hello: Some(hello), payload: Some(payload), ..Settings::default() };
    let Ok(raw) = Protocol::new("raw", &settings) else { return };
    let exchange = Exchange { number, round, purpose };
    let mut message = Vec::new();
    raw.ask(exchange, &mut message);
    if message.is_empty() {
        return assert_eq!((purpose, raw.steps()), (Purpose::Open(0), 0));
    }
    // The message is made anew for each piece: not too many of them.
    let each = each.max(message.len() / 32);
    let (mut position, mut scratch) = (Position::default(), Scratch::default());
    let mut judge = |asked: Option<Exchange>, position: &mut Position, piece: &[u8]| {
        let heard = raw.hear(asked, position, piece, &mut scratch);
        assert_eq!(heard.used, piece.len());
        heard.verdict
    };
    let mut got = 0;
    for piece in message.chunks(each) {
        got += piece.len();
        let whole = if got == message.len() { Verdict::Proof } else { Verdict::Part };
        assert_eq!(judge(Some(exchange), &mut position, piece), whole);
    }
    assert_eq!(position, Position::default());
    assert_eq!(judge(None, &mut position, b"x"), Verdict::Wrong(Cause::WrongEcho));
    let mut answer = message.clone();
    let Some(spoiled) = at.checked_rem(answer.len()).filter(|_| change != 0) else { return };
    answer[spoiled] ^= change;
    let is_wrong = |piece: &[u8]| matches!(judge(Some(exchange), &mut position, piece), Verdict::Wrong(_));
    let wrong = answer.chunks(each).position(is_wrong);
    assert_eq!(wrong, Some(spoiled / each));
}

/// What is typed for `send-expect`, and any bytes as an answer: a template is refused in a line or makes no more than
/// it says, and an answer has the same verdict however it is cut.
pub fn pattern(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (number, round, each) = (input.word().into(), input.word(), input.short().max(1));
    let exchange = Exchange { number, round, purpose: Purpose::Audit };
    let end = input.0.iter().position(|byte| *byte == 0).unwrap_or(input.0.len());
    let typed = String::from_utf8_lossy(&input.0[..end]);
    if let Ok(template) = Template::parse(&typed) {
        let mut message = Vec::new();
        template.write(exchange, &mut message);
        assert!(message.len() <= template.longest() && template.longest() <= BUFFER_BYTES);
    }
    let pattern = match Pattern::parse(&typed) {
        Ok(pattern) => pattern,
        Err(error) => return assert!(!error.to_string().contains('\n') && error.at <= typed.chars().count()),
    };
    // In the answer 1 stands for the token, which none would find.
    let mut token = Vec::new();
    Template::parse("{token}").unwrap().write(exchange, &mut token);
    let answer: Vec<u8> = input.0[end..]
        .iter()
        .flat_map(|byte| if *byte == 1 { &token[..] } else { slice::from_ref(byte) })
        .copied()
        .collect();
    // A star at the end takes what came with the proof.
    let is_open = typed.ends_with('*');
    let verdict = |each: usize| {
        let (mut position, mut scratch, mut from) = (Position::default(), Scratch::default(), 0);
        for piece in answer.chunks(each) {
            let heard = pattern.hear(exchange, &mut position, piece, &mut scratch);
            assert!((1..=piece.len()).contains(&heard.used));
            match heard.verdict {
                Verdict::Part => from += piece.len(),
                Verdict::Proof => return (heard.verdict, if is_open { 0 } else { from + heard.used }),
                other => return (other, 0),
            }
        }
        (Verdict::Part, from)
    };
    assert_eq!(verdict(each), verdict(answer.len().max(1)));
    assert_eq!(verdict(1), verdict(each));
}

/// Lines that steer a client: each is read as it was written, up to the line that closes.
pub fn words(bytes: &[u8]) {
    let mut input = bytes;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let word = Word::read(&mut input).unwrap();
        let kept = &line[..line.len().min(LONGEST_LINE as usize)];
        let is_cut = kept.len() == LONGEST_LINE as usize && kept.last() != Some(&b'\n');
        let other = String::from_utf8_lossy(kept.trim_ascii()).into_owned();
        let expected = match &*other {
            other if is_cut => Word::Other(format!("{other}…")),
            "audit" => Word::Audit,
            "report" => Word::Report,
            "close" => Word::Close,
            _ => Word::Other(other),
        };
        assert_eq!(word, expected);
        if word == Word::Close {
            return;
        }
    }
    assert_eq!(Word::read(&mut input).unwrap(), Word::Close);
}

/// Options with a value that is more than a word: what comes before them, and their name.
const OPTIONS: [(&[&str], &str); 26] = [
    (&["server"], "--memory-reserve"),
    (&["server"], "--accept-rate"),
    (&["server"], "--idle-timeout"),
    (&["server"], "--keepalive"),
    (&["server"], "--hibernate"),
    (&["server", "--hibernate=1s"], "--awake"),
    (&["server"], "--core-list"),
    (&["server"], "--max-connections"),
    (&["server"], "--stats-interval"),
    (&["client", "--target-ip=::1"], "--source-ip"),
    (&["client", "--target-ip=::1"], "--rate"),
    (&["client", "--target-ip=::1"], "--interval"),
    (&["client", "--target-ip=::1"], "--hello"),
    (&["client", "--target-ip=::1"], "--hibernate"),
    (&["client"], "--target-ip"),
    (&["client", "--target-ip=::1", "--port=0"], "--ports"),
    (&["storm", "disconnect", "--target-ip=::1"], "--share"),
    (&["storm", "churn", "--target-ip=::1"], "--for"),
    (&["storm", "reconnect", "--target-ip=::1"], "--connections"),
    (&["doctor"], "--connections"),
    (&["tune"], "--source-ip"),
    (&["client", "--target-ip=::1", "--protocol=send-expect", "--expect=a"], "--send"),
    (&["client", "--target-ip=::1", "--protocol=send-expect", "--send={token}"], "--expect"),
    (&["client", "--target-ip=::1", "--protocol=send-expect", "--send=a", "--expect=b"], "--greeting"),
    (&["fanout", "--target-ip=::1", "--subscribers=9"], "--rate"),
    (&["fanout", "--target-ip=::1", "--subscribers=9", "--protocol=websocket"], "--publish"),
];

/// The most bytes of a value. A block of addresses takes seven bytes and makes a megabyte of addresses.
const LONGEST_VALUE: usize = 64;

/// The value of an option: it is refused with exit code 2, or gives valid options.
pub fn typed(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (before, option) = OPTIONS[usize::from(input.byte()) % OPTIONS.len()];
    let value = String::from_utf8_lossy(&input.0[..input.0.len().min(LONGEST_VALUE)]);
    let words = ["c1m"].iter().chain(before).map(|word| (*word).to_owned());
    let meant = match parsed(words.chain([format!("{option}={value}")])) {
        Ok(arguments) => check_options(&arguments.command),
        Err(refused) => return assert_eq!(refused.exit_code(), 2, "{}", refused.render()),
    };
    if let Err(error) = meant {
        assert_eq!(error.blame, Blame::Usage, "{error}");
        is_one_line(&error);
    }
}

/// As `Arguments::try_parse_from`, which builds the whole command each time.
fn parsed(words: impl Iterator<Item = String>) -> clap::error::Result<Arguments> {
    thread_local! {
        static COMMAND: RefCell<clap::Command> = RefCell::new(Arguments::command());
    }
    COMMAND.with_borrow_mut(|command| {
        let matches = command.try_get_matches_from_mut(words)?;
        Arguments::from_arg_matches(&matches).map_err(|error| error.format(command))
    })
}

fn check_options(command: &Command) -> command_error::Result<()> {
    let is_rate = |rate: Option<f64>| rate.is_none_or(|rate| rate.is_finite() && rate > 0.0);
    let client = |workload: crate::client::Workload| {
        assert!(is_rate(workload.rate) && workload.interval.is_none_or(|every| !every.is_zero()));
        let routes = workload.routes;
        assert!(routes.tuples() > 0);
        assert!(routes.targets.iter().any(|target| target.ip() == routes.of(u64::MAX).1.ip()));
    };
    match command {
        Command::Server(arguments) => {
            let options = arguments.options()?;
            assert!(is_rate(options.accept_rate) && (1..=u32::MAX.into()).contains(&options.max_connections));
            assert!(options.idle_timeout.is_none_or(|time| (SHORTEST_IDLE..=LONGEST_IDLE).contains(&time)));
            let whole = 1 << 40;
            assert!(matches!(options.memory_reserve, Reserve::Bytes(_)) || options.memory_reserve.of(whole) < whole);
        }
        Command::Client(arguments) => client(arguments.workload()?),
        Command::Storm(arguments) => client(arguments.workload()?),
        Command::Fanout(arguments) => client(arguments.workload()?),
        Command::Doctor(arguments) => drop(arguments.goal.goal(&Host::here())?),
        Command::Tune(arguments) => drop(arguments.goal.goal(&Host::here())?),
        Command::Demo(_) | Command::Report(_) => {}
    }
    Ok(())
}

/// The cookie at the start of HdrHistogram's compressed form.
const COOKIE: [u8; 4] = 0x1c84_9314_u32.to_be_bytes();

/// A histogram's text, given directly and as bytes in a valid wrapping. A text that is accepted is written and read
/// back the same.
pub fn histogram(bytes: &[u8]) {
    let read = |text: &str| {
        let Ok(latency) = Latency::decode(text) else { return };
        let again = Latency::decode(&latency.encode().unwrap()).unwrap();
        assert_eq!(figures(&again), figures(&latency));
        assert_eq!(again.buckets(&[10, 1_000]), latency.buckets(&[10, 1_000]));
    };
    read(&String::from_utf8_lossy(bytes));
    read(&wrapped(bytes));
    // A valid header comes before the bytes, so that they are read as counts.
    let mut plain = Vec::new();
    let packed = BASE64.decode(Latency::new().unwrap().encode().unwrap()).unwrap();
    flate2::write::ZlibDecoder::new(&mut plain).write_all(&packed[8..]).unwrap();
    plain.truncate(40);
    plain[4..8].copy_from_slice(&(bytes.len() as u32).to_be_bytes());
    plain.extend_from_slice(bytes);
    read(&wrapped(&plain));
}

fn wrapped(plain: &[u8]) -> String {
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(plain).unwrap();
    let packed = packed.finish().unwrap();
    BASE64.encode([&COOKIE[..], &(packed.len() as u32).to_be_bytes(), &packed].concat())
}

fn figures(latency: &Latency) -> (u64, u64, u64, [u64; PERCENTILES.len()]) {
    let percentiles = PERCENTILES.map(|(percent, _)| latency.percentile(percent));
    (latency.count(), latency.min(), latency.max(), percentiles)
}

/// A file given to `c1m report merge`. A file that is accepted as a result is written and read back the same,
/// merged with itself it counts everything twice, and it can be shown as text and as a page.
pub fn results(bytes: &[u8]) {
    let document = match read_client(bytes, "a file") {
        Ok(document) => document,
        Err(error) => return is_one_line(&error),
    };
    let written = json::text(&document).unwrap();
    assert_eq!(read_client(written.as_bytes(), "a file").unwrap(), document);
    let shows = |client: &ClientDocument| {
        assert!(text::client(client).unwrap().contains("requested"));
        assert!(html::page(&html::Run { client, server: None, notes: &[] }).unwrap().contains("requested"));
    };
    shows(&document);
    hgrm::write(&document.latencies.connect.latency().unwrap(), &mut Vec::new()).unwrap();
    let named = |machine: &str| MachineDocument { machine: machine.to_owned(), result: document.clone() };
    // Results of storms and fan-outs are not merged.
    let Ok(twice) = merge(vec![named("a"), named("b")]) else {
        return assert!(document.storm.is_some() || document.fanout.is_some());
    };
    assert_eq!(twice.live, document.live.saturating_mul(2));
    assert_eq!(twice.latencies.connect.max, document.latencies.connect.max);
    shows(&twice);
}

/// The state of an earlier run that `tune --revert` reads. It is refused with an error of one line, or written and
/// read back the same.
pub fn kept(bytes: &[u8]) {
    below_a_root(|root, host| {
        fs::create_dir_all(root.join("var/lib/c1m")).unwrap();
        fs::write(root.join("var/lib/c1m/tune.json"), bytes).unwrap();
        match State::read(host) {
            Ok(state) => {
                state.as_ref().unwrap().write(host).unwrap();
                assert_eq!(State::read(host).unwrap(), state);
            }
            Err(error) => is_one_line(&error),
        }
    });
}

const FILES: [&str; 24] = [
    "proc/meminfo",
    "proc/zoneinfo",
    "proc/slabinfo",
    "proc/cgroups",
    "proc/self/cgroup",
    "proc/self/mountinfo",
    "proc/self/status",
    "proc/net/netstat",
    "proc/net/softnet_stat",
    "proc/net/sockstat",
    "proc/net/stat/nf_conntrack",
    "proc/sys/fs/file-nr",
    "proc/sys/fs/file-max",
    "proc/sys/vm/min_free_kbytes",
    "proc/sys/kernel/osrelease",
    "proc/sys/net/ipv4/ip_local_port_range",
    "proc/sys/net/ipv4/ip_local_reserved_ports",
    "proc/sys/net/ipv4/tcp_mem",
    "proc/sys/net/ipv4/tcp_max_orphans",
    "proc/sys/net/core/somaxconn",
    "sys/fs/cgroup/memory.max",
    "sys/fs/cgroup/memory.current",
    "sys/fs/cgroup/memory.stat",
    "sys/fs/cgroup/memory.events.local",
];

/// Any content of /proc and the cgroups' files: the doctor judges it wall by wall. Zero bytes separate the input
/// into the contents of `FILES` in turn.
pub fn host(bytes: &[u8]) {
    below_a_root(|root, host| {
        let mut parts = bytes.split(|byte| *byte == 0);
        for file in FILES {
            let path = root.join(file);
            let Some(text) = parts.next() else {
                let _ = fs::remove_file(path);
                continue;
            };
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        judge(host);
    });
}

fn judge(host: &Host) {
    let here = Ipv4Addr::LOCALHOST.into();
    let routes = Routes { targets: vec![here], ports: Ports::ARTICLE, sources: Vec::new() };
    let (cores, layers) = (vec![0, 1], Layers::default());
    let goal =
        Goal { role: Role::Both, connections: 1_000_000, awake: None, keeps_descriptors: false, routes, cores, layers };
    // The wall of io_uring asks the kernel and reads no file.
    for wall in WALLS.iter().filter(|wall| wall.name != "io_uring") {
        let finding = wall.judge(host, &goal);
        assert!(!finding.have.contains('\n'), "{}: a finding is one line", wall.name);
    }
    let causes = Causes::from([(Cause::ConnectTimeout, 1)]);
    let met = explain(&EvidenceRecorder::begin(host).evidence(causes));
    assert!(!met.is_empty() && met.iter().all(|wall| !wall.to_string().contains('\n')));
    let _ = (host.memory(), host.net_counters(), host.resident(1), host.cpu_time(1), host.cpu_quota());
    if let Some(ports) = host.source_ports() {
        assert!(ports.covers(&(0..=65_535)) == ports.count());
    }
}

/// Calls `act` with a root folder of this thread's own, and the host whose files lie there.
fn below_a_root(act: impl FnOnce(&Path, &Host)) {
    thread_local! {
        static ROOT: RefCell<tempfile::TempDir> = RefCell::new(tempfile::tempdir().unwrap());
    }
    ROOT.with_borrow(|root| act(root.path(), &Host::below(root.path())));
}

/// A request to the metrics' listener. It is answered or needs more bytes, the same however it is cut into pieces.
/// A head that is not answered yet stays short.
pub fn request(bytes: &[u8]) {
    let whole = http::read(bytes);
    assert!(whole.is_some() || bytes.len() < crate::protocol::http::LONGEST_HEAD);
    let cut = (0..bytes.len()).find_map(|length| http::read(&bytes[..length])).or(whole);
    assert_eq!(cut.map(|(_, reply)| reply), whole.map(|(_, reply)| reply));
    let Some((length, reply)) = whole else { return };
    assert!((1..=bytes.len()).contains(&length));
    let response = String::from_utf8(reply.response("metrics", SystemTime::UNIX_EPOCH)).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 ") && (reply.closes || head.contains("Content-Length: ")));
    assert_eq!(reply.head_only, body.is_empty());
}
