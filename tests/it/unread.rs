//! Readers that stop reading. They hold up neither a run nor its end, and lose no result.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use crate::support::*;

/// A reader that stops reading, as a pager does, holds up nothing: the server ends in order, and writes its result.
#[test]
fn a_reader_that_stops_reading_does_not_keep_a_server_from_ending() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("json");
    let port = free_ports(2);
    let mut command = c1m();
    command.args(server_arguments(port, 2, "--stats-interval 1ms --json").split_whitespace()).arg(&json);
    let mut server = Running::with_outlets(command, Outlet::Stuck, Outlet::File);
    let mut held = connected(port);
    echoes(&mut held);
    eventually("lines are left out", || server.err().contains("its reader has stopped reading"));
    echoes(&mut held);
    assert!(!server.has_ended());
    server.signal(libc::SIGTERM);
    let finished = server.wait();
    assert_eq!(finished.code(), 0, "{}", finished.err);
    assert_eq!(number(&document(json), "accepted"), 1);
}

/// The log waits for its reader, and the run does not: it ends, and so are its other results written.
#[test]
fn an_interval_log_that_nobody_reads_does_not_hold_up_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let [pipe, json] = ["log", "json"].map(|name| dir.path().join(name));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let open = |options: &mut OpenOptions| options.custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
    let reader = open(File::options().read(true));
    let mut filler = open(File::options().write(true));
    let mut filled = 0;
    let full = loop {
        match filler.write(&[b'#'; 4_096]) {
            Ok(written) => filled += written,
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    let server = Server::start(2, "");
    let mut command = c1m();
    let words = format!("client --target-ip 127.0.0.1 {} --connections 50 --hold 3s --interval 50ms", server.at());
    command.args(words.split_whitespace()).arg("--hlog").arg(&pipe).arg("--json").arg(&json);
    let mut client = Running::start(command);
    eventually("the result is written", || json.exists());
    assert!(!client.has_ended());
    drop(filler);
    let mut log = Vec::new();
    let mut patient = File::open(&pipe).unwrap();
    drop(reader);
    patient.read_to_end(&mut log).unwrap();
    assert_eq!(client.wait().code(), 0);
    let log = String::from_utf8(log.split_off(filled)).unwrap();
    assert!(log.starts_with("#[Histogram log") && log.ends_with("#[End]\n"), "{log}");
    let lines = log.lines().filter(|line| line.starts_with("Tag=echo-")).count();
    assert!(lines >= 4, "{log}");
}
