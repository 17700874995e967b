//! The idle timeout, and the limit on the rate of accepts.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::support::*;

#[test]
fn a_silent_connection_is_closed_and_a_talking_one_is_kept() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let server = Server::start(1, "--idle-timeout 2s --json -");
    let mut silent = connected(server.port);
    let mut talking = connected(server.port);
    // When the server closes the silent connection, the kernel makes its socket readable.
    echoes(&mut silent);
    silent.set_nonblocking(true).unwrap();
    let begun = Instant::now();
    let mut rounds = 0;
    let mut ended = || match silent.read(&mut [0]) {
        Ok(0) => true,
        Ok(_) => panic!("the server spoke first"),
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    };
    eventually("the silent connection is closed", || {
        echoes(&mut talking);
        rounds += 1;
        ended()
    });
    assert!(begun.elapsed() >= TIMEOUT, "closed after {:?}", begun.elapsed());
    echoes(&mut talking);
    drop(talking);
    let finished = server.stop();
    let totals = finished.last_document();
    assert_eq!((number(&totals, "silent"), number(&totals, "accepted")), (1, 2), "{rounds} rounds: {totals}");
}

#[test]
fn connections_that_are_silent_together_are_all_closed() {
    let mut server = Server::start(4, "--idle-timeout 1s --stats-interval 100ms --json -");
    let mut client = Client::start(&format!("{} --connections 3000 --audit state --hold 1m", server.at()));
    server.running.until("all 3,000 are closed as silent", |out| out.contains(r#""silent":3000"#));
    client.running.until("the client knows", |out| out.contains(" 3,000 failed"));
    client.running.signal(libc::SIGTERM);
    let run = client.finish();
    assert_eq!(run.json["live"], 0, "{}", run.json);
    assert_eq!(run.cause("closed_by_server"), 3_000, "{}", run.json);
    assert_eq!(number(&server.stop().last_document(), "silent"), 3_000);
}

#[test]
fn the_rate_of_accepts_stays_below_its_limit() {
    const RATE: f64 = 400.0;
    let server = Server::start(4, &format!("--accept-rate {RATE} --stats-interval 50ms --json -"));
    client(&format!("{} --connections 1000 --hold 0s", server.at())).held(1_000);
    let all = |out: &str| out.lines().any(|line| line.contains(r#""opened":1000,"#));
    eventually("the server says that all came", || all(&server.running.out()));
    let out = server.stop().out;
    let stats = events(&out, "stats");
    // The rate counts from before the first line. A tenth of a second's worth may be saved up, and each shard has
    // one accept waiting in the kernel.
    assert!(!stats.is_empty(), "{out}");
    for event in stats {
        let (seconds, opened) = (event["seconds"].as_f64().unwrap(), number(&event, "opened") as f64);
        assert!(opened <= RATE * (seconds + 1.0) + RATE / 10.0 + 2.0, "{opened} after {seconds} s");
    }
}
