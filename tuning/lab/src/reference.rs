//! The reference of the benches as a server and a client for the lab: plain epoll, led by the words
//! that a steered c1m client obeys, and telling what it does in the same events.
//!
//!     c1m-reference server ADDRESS
//!     c1m-reference client ADDRESS CONNECTIONS

use std::io::{BufRead, Write};
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bench_support::contract::{Contract, Target};
use bench_support::reference::client::Led;
use bench_support::reference::server;

/// The ports that c1m serves too.
const FIRST_PORT: u16 = 8888;
const PORTS: usize = 100;

/// In flight at once, as in c1m's client.
const CONCURRENCY: usize = 512;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let understood = match words[..] {
        ["server", address] => address.parse().map(serve).is_ok(),
        ["client", address, count] => match (address.parse(), count.parse()) {
            (Ok(address), Ok(count)) => {
                follow(address, count);
                true
            }
            _ => false,
        },
        _ => false,
    };
    if understood { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

fn serve(address: Ipv4Addr) {
    let cores: Vec<usize> = (0..std::thread::available_parallelism().map_or(1, usize::from)).collect();
    server::run(&Contract::new(target(address), &cores), || say(r#"{"event":"ready"}"#));
}

/// Where the server listens.
fn target(address: Ipv4Addr) -> Target {
    Target { address, first_port: FIRST_PORT, ports: PORTS }
}

/// Opens, then does what standard input says until it says `close` or ends.
fn follow(address: Ipv4Addr, count: usize) {
    let mut told = Told::new("ramp", count);
    let mut client = Led::open(0, target(address), count, CONCURRENCY, |live| told.so_far(live, live, 0));
    told.hold();
    let mut rounds = 0;
    for word in std::io::stdin().lock().lines().map_while(Result::ok) {
        match word.trim() {
            "audit" => {
                rounds += 1;
                let mut told = Told::new("audit", count);
                client.audit(CONCURRENCY, |proved| told.so_far(proved, count, proved));
                say(&format!(r#"{{"event":"audit","round":{rounds},"live":{count},"lost":0,"wrong":0}}"#));
                told.hold();
            }
            "close" => break,
            _ => {}
        }
    }
    client.close();
}

/// Tells once a second how far a phase is.
struct Told {
    phase: &'static str,
    count: usize,
    next: Instant,
}

impl Told {
    fn new(phase: &'static str, count: usize) -> Told {
        Told { phase, count, next: Instant::now() }
    }

    fn so_far(&mut self, done: usize, live: usize, audited: usize) {
        if done < self.count && Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + Duration::from_secs(1);
        let phase = self.phase;
        say(&format!(r#"{{"event":"progress","phase":"{phase}","live":{live},"failed":0,"audited":{audited}}}"#));
    }

    fn hold(&mut self) {
        self.phase = "hold";
        self.so_far(self.count, self.count, 0);
    }
}

fn say(line: &str) {
    // Nobody is left to tell when the reader has gone; the next word, the end of the input, ends us.
    let _ = writeln!(std::io::stdout(), "{line}");
}
