//! A c1m client, and the result that it writes.

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::process::{Finished, Outlet, Running};
use super::program::c1m;
use super::schema::number;
use super::wait::eventually;

/// A running c1m client, which writes its result to a file.
pub struct Client {
    pub running: Running,
    dir: TempDir,
}

/// A client's ended process and its result.
pub struct ClientRun {
    pub finished: Finished,
    pub json: Value,
}

impl Client {
    /// Starts a client with the words of `arguments`. By default it connects to 127.0.0.1 and holds for 0 s.
    pub fn start(arguments: &str) -> Client {
        Client::start_as(c1m(), Outlet::File, arguments)
    }

    /// Starts a client by a prepared command, with the given standard output.
    pub fn start_as(command: Command, out: Outlet, arguments: &str) -> Client {
        let start = |command| Running::with_outlets(command, out, Outlet::File);
        Client::start_by(
            start,
            command,
            &[("--target", "--target-ip", "127.0.0.1"), ("--hold", "--hold", "0s")],
            arguments,
        )
    }

    /// Starts a client that audits and closes when the test says so.
    pub fn steered(arguments: &str) -> Client {
        let defaults = [("--target", "--target-ip", "127.0.0.1")];
        Client::start_by(Running::with_input, c1m(), &defaults, &format!("{arguments} --steer"))
    }

    /// Starts a client with defaults: each with the word whose absence calls for it, a flag and its value.
    fn start_by(
        start: impl FnOnce(Command) -> Running,
        mut command: Command,
        defaults: &[(&str, &str, &str)],
        arguments: &str,
    ) -> Client {
        let dir = tempfile::tempdir().unwrap();
        command.arg("client").args(arguments.split_whitespace()).arg("--json").arg(dir.path().join("json"));
        for (_, flag, value) in defaults.iter().filter(|(given, ..)| !arguments.contains(given)) {
            command.args([flag, value]);
        }
        Client { running: start(command), dir }
    }

    /// Waits for the client's end, and checks that the numbers of its result add up.
    pub fn finish(self) -> ClientRun {
        let finished = self.running.wait();
        let text = std::fs::read_to_string(self.dir.path().join("json")).unwrap();
        let json = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{e} in the result {text:?}\n{}{}", finished.out, finished.err));
        let run = ClientRun { finished, json };
        let sum = run.number("live") + run.number("failed") + run.number("not_tried");
        assert_eq!(run.number("requested"), sum, "{}", run.json);
        let causes = run.json["errors"].as_object().unwrap().values();
        assert_eq!(run.number("failed"), causes.map(|n| n.as_u64().unwrap()).sum::<u64>(), "{}", run.json);
        assert_eq!(run.finished.code() == 0, run.json["complete"] == true, "{}", run.json);
        run
    }
}

/// Runs a client to its end.
pub fn client(arguments: &str) -> ClientRun {
    Client::start(arguments).finish()
}

/// Runs a client that audits, sends what its options say until there was `enough` of it, audits once more, and closes. How
/// much is sent in a given time would depend on what else the machine does.
pub fn client_until(what: &str, mut enough: impl FnMut() -> bool, arguments: &str) -> ClientRun {
    let mut client = Client::steered(arguments);
    client.running.say("audit");
    eventually(what, || {
        assert!(!client.running.has_ended(), "it ended before {what}");
        enough()
    });
    client.running.say("audit");
    client.running.say("close");
    client.finish()
}

impl ClientRun {
    /// A number of the result.
    pub fn number(&self, name: &str) -> u64 {
        number(&self.json, name)
    }

    /// TLS handshakes: full ones and resumed ones.
    pub fn handshakes(&self) -> [u64; 2] {
        let count = |kind| number(&self.json["tls"][format!("{kind}_handshake_latency_us")], "count");
        ["full", "resumed"].map(count)
    }

    /// The number of connections that failed for a cause.
    pub fn cause(&self, name: &str) -> u64 {
        self.json["errors"][name].as_u64().unwrap_or(0)
    }

    /// Checks that the run succeeded with `connections` live connections.
    pub fn held(&self, connections: u64) {
        assert_eq!(self.finished.code(), 0, "{}{}", self.finished.out, self.finished.err);
        assert_eq!(self.number("live"), connections, "{}", self.json);
    }

    /// Checks that exactly `failed` connections failed, all for `cause`, and that the report's line on that cause
    /// contains `words`.
    pub fn failed(&self, cause: &str, failed: u64, words: &str) {
        assert_eq!(self.finished.code(), 1, "{}{}", self.finished.out, self.finished.err);
        assert_eq!(self.cause(cause), failed, "{}", self.json);
        assert_eq!(self.number("failed"), failed, "{}", self.json);
        let line = self.finished.out.lines().find(|line| line.contains(&format!("{cause}: ")));
        assert!(line.is_some_and(|line| line.contains(words)), "no {words:?} for {cause}: {}", self.finished.out);
    }
}
