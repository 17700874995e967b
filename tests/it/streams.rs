//! Standard streams that another process has made non-blocking, and those that cannot be read.

use std::io::{PipeReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Stdio};

use crate::support::*;

/// Makes reads and writes of a stream fail where they would have to wait, for all processes that have it.
fn make_non_blocking(stream: &impl AsRawFd) {
    // SAFETY: no memory.
    assert_eq!(unsafe { libc::fcntl(stream.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }, 0);
}

/// A pipe of one page to write to, which is non-blocking.
fn narrow() -> (PipeReader, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    // SAFETY: no memory.
    assert_eq!(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) }, 4096);
    make_non_blocking(&writer);
    (reader, writer.into())
}

/// All that a process writes into a pipe, read only once something is there or the process has ended; and its exit code.
fn read_late(mut child: Child, mut reader: PipeReader) -> (String, Option<i32>) {
    eventually("something is in the pipe", || {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the kernel writes an int to memory that outlives the call.
        assert_eq!(unsafe { libc::ioctl(reader.as_raw_fd(), libc::FIONREAD, &raw mut bytes) }, 0);
        bytes > 0 || child.try_wait().unwrap().is_some()
    });
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    (text, child.wait().unwrap().code())
}

/// Neither a document nor a page of help loses its rest where it does not fit into the pipe at once.
#[test]
fn what_is_printed_is_whole_on_a_stream_that_does_not_block() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(1, "");
    let file = dir.path().join("r.json");
    let run = client(&format!("{} --connections 50", server.at()));
    std::fs::write(&file, run.json.to_string()).unwrap();
    let to_server = format!("--target-ip 127.0.0.1 {} --connections 5 --hold 0s", server.at());
    for (arguments, end) in [
        (format!("report html {} -o -", file.display()), "</html>"),
        (format!("report merge {} --json -", file.display()), "}"),
        (format!("client {to_server} --json -"), "}"),
        (format!("client {to_server} --report -"), "</html>"),
        ("client --help".to_owned(), "Print help"),
    ] {
        let (reader, writer) = narrow();
        let mut command = c1m();
        command.args(arguments.split_whitespace()).stdin(Stdio::null()).stderr(Stdio::null()).stdout(writer);
        let child = command.spawn().unwrap();
        // The pipe ends with its last writer.
        drop(command);
        let (text, ended) = read_late(child, reader);
        assert!(text.len() > 4_096 && text.trim_end().ends_with(end), "{arguments}: {} bytes", text.len());
        assert_eq!(ended, Some(0), "{arguments}");
    }
    server.stop();
}

/// An input in which nothing is yet has not ended.
#[test]
fn an_input_that_does_not_block_is_waited_for() {
    let start = |arguments: &str| {
        let (reader, writer) = std::io::pipe().unwrap();
        make_non_blocking(&reader);
        let mut command = c1m();
        command.args(arguments.split_whitespace());
        (Running::with_stdin(command, reader.into()), writer)
    };
    let port = free_ports(1);
    let (mut running, parent) = start(&server_arguments(port, 1, "--until-stdin-closes --json -"));
    running.until("it is ready", |out| out.contains(r#""event":"ready""#));
    let server = Server::of(running, port, 1);
    let (mut steered, mut words) =
        start(&format!("client --target-ip 127.0.0.1 {} --connections 5 --steer", server.at()));
    for audits in 1..=2 {
        words.write_all(b"audit\n").unwrap();
        steered.until("it has audited", |out| out.contains(&format!("audit {audits}: 5 live, 0 lost, 0 wrong")));
    }
    drop(words);
    let finished = steered.wait();
    assert_eq!((finished.code(), finished.err.as_str()), (0, ""), "{}", finished.out);
    drop(parent);
    let finished = server.running.wait();
    assert_eq!((finished.code(), finished.err.as_str()), (0, ""), "{}", finished.out);
    assert_eq!(number(&finished.last_document(), "accepted"), 5);
}

/// A folder can be opened, and not read.
#[test]
fn an_input_that_cannot_be_read_is_named() {
    let server = Server::start(1, "");
    let folder = || std::fs::File::open("/").unwrap().into();
    for (arguments, words) in [
        (format!("client --target-ip 127.0.0.1 {} --connections 5 --steer", server.at()), "the client closes"),
        (server_arguments(free_ports(1), 1, "--until-stdin-closes"), "the server stops"),
    ] {
        let mut command = c1m();
        command.args(arguments.split_whitespace());
        let finished = Running::with_stdin(command, folder()).wait();
        assert_eq!(finished.code(), 0, "{}", finished.err);
        assert!(finished.err.starts_with("c1m: standard input: Is a directory (EISDIR): "), "{}", finished.err);
        assert!(finished.err.contains(words), "{}", finished.err);
    }
    server.stop();
}

/// Where a process was started in a folder that is removed, a file can be begun in memory and not get its name.
#[test]
fn an_output_in_a_folder_that_is_removed_is_refused_before_the_run() {
    let memory = Path::new("/dev/shm");
    let dir = if memory.exists() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    for arguments in ["doctor --connections 10 --json r.json", "client --target-ip 127.0.0.1 --json r.json"] {
        let mut command = c1m_after("mkdir gone && cd gone && rmdir ../gone");
        command.current_dir(dir.path());
        let finished = run_as(command, arguments);
        finished.fails_with(2, &["open r.json", "ENOENT", "choose another file"]);
        assert_eq!(finished.out, "", "{arguments}");
    }
}
