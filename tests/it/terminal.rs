//! The display on a terminal, tested on a real one.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::support::*;

/// Both ends of a terminal: the near end, from which a person reads, and the far end, to which a program writes.
/// Both are made with close-on-exec, so that no process which another test starts meanwhile keeps the terminal
/// open.
fn terminal(rows: u16, columns: u16) -> (File, OwnedFd) {
    let done = |result: i32| assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: no memory; the descriptor is checked, and no other code has it.
    let near = unsafe {
        let near = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(near >= 0, "{}", std::io::Error::last_os_error());
        File::from_raw_fd(near)
    };
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let mut name = [0; 64];
    // SAFETY: the name and the size outlive their calls.
    let name = unsafe {
        done(libc::grantpt(near.as_raw_fd()));
        done(libc::unlockpt(near.as_raw_fd()));
        done(libc::ptsname_r(near.as_raw_fd(), name.as_mut_ptr(), name.len()));
        done(libc::ioctl(near.as_raw_fd(), libc::TIOCSWINSZ, &raw const size));
        CStr::from_ptr(name.as_ptr())
    };
    let mut options = File::options();
    let far = options.read(true).write(true).custom_flags(libc::O_NOCTTY).open(name.to_str().unwrap()).unwrap();
    (near, far.into())
}

/// The keys that stop a terminal and have it go on (XOFF and XON).
const CTRL_S: u8 = 0x13;
const CTRL_Q: u8 = 0x11;

/// A process on a terminal of its own.
struct OnTerminal {
    child: Child,
    near: File,
    /// The bytes on the terminal so far.
    seen: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

/// A test that fails leaves no process behind.
impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl OnTerminal {
    fn start(command: Command) -> OnTerminal {
        OnTerminal::sized(command, 40, 150)
    }

    fn sized(command: Command, rows: u16, columns: u16) -> OnTerminal {
        OnTerminal::with_errors(command, rows, columns, None)
    }

    /// With standard error on the terminal too, or in a file.
    fn with_errors(mut command: Command, rows: u16, columns: u16, errors: Option<File>) -> OnTerminal {
        let (near, far) = terminal(rows, columns);
        if !command.get_envs().any(|(name, _)| name == "TERM") {
            command.env("TERM", "xterm-256color");
        }
        command.stdin(Stdio::null());
        command.stdout(far.try_clone().unwrap()).stderr(errors.map_or(far, Into::into));
        let child = command.spawn().unwrap();
        // The command holds copies of the far end. Without them, reading the near end fails when the process is
        // gone.
        drop(command);
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let (shared, keyboard) = (seen.clone(), near.try_clone().unwrap());
        let read = move || {
            let (mut near, mut piece) = (near, [0; 4096]);
            // Reading the near end fails when no process has the far end open.
            while let Ok(len @ 1..) = near.read(&mut piece) {
                shared.lock().unwrap().extend_from_slice(&piece[..len]);
            }
        };
        OnTerminal { child, near: keyboard, seen, reader: Some(thread::spawn(read)) }
    }

    fn types(&mut self, key: u8) {
        self.near.write_all(&[key]).unwrap();
    }

    /// Stops the terminal, until Ctrl-Q is typed.
    fn stop(&mut self) {
        self.types(CTRL_S);
        eventually("the terminal takes nothing", || {
            // SAFETY: no memory; the descriptor is checked, and no other code has it.
            let far = unsafe {
                let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
                let far = libc::ioctl(self.near.as_raw_fd(), libc::TIOCGPTPEER, flags);
                assert!(far >= 0, "{}", std::io::Error::last_os_error());
                OwnedFd::from_raw_fd(far)
            };
            let mut poll = libc::pollfd { fd: far.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
            // SAFETY: one entry, which outlives the call.
            unsafe { libc::poll(&raw mut poll, 1, 0) == 0 }
        });
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child that was not waited for.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Waits until `text` is on the terminal.
    fn until(&self, text: &str) {
        eventually(text, || String::from_utf8_lossy(&self.seen.lock().unwrap()).contains(text));
    }

    /// Waits for the end of the process, which must succeed. Returns the text on the terminal.
    fn end(self) -> String {
        self.ends_with(0)
    }

    /// Waits for the end of the process with this code.
    fn ends_with(mut self, code: i32) -> String {
        let mut ended = None;
        eventually("it ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        assert_eq!(ended.unwrap().code(), Some(code));
        self.reader.take().unwrap().join().unwrap();
        String::from_utf8(std::mem::take(&mut *self.seen.lock().unwrap())).unwrap()
    }
}

fn demo(arguments: &str, environment: &[(&str, &str)]) -> String {
    let mut command = c1m();
    command
        .args(format!("demo --connections 2000 --hold 3s --port {} {arguments}", free_ports(100)).split_whitespace());
    command.env_remove("NO_COLOR").envs(environment.iter().copied());
    OnTerminal::start(command).end()
}

/// Whether a text has a line of a shard that is rewritten in place.
fn shows_shards(seen: &str) -> bool {
    seen.contains("p99 ") && seen.contains("/s  p99") && seen.contains('▁')
}

#[test(Network, Hibernation)]
fn a_client_shows_how_long_its_connections_take_to_wake() {
    in_own_network(|| {
        let mut command = c1m();
        let words = "demo --connections 100 --hibernate 100ms --hold 0s --network host";
        command.args(format!("{words} --port {} --ports 10", free_ports(10)).split_whitespace());
        let seen = OnTerminal::start(command).end();
        assert!(seen.contains(" asleep)") && seen.contains("wakes p99"), "{seen}");
    });
}

#[test]
fn a_demo_shows_a_line_for_each_shard_and_keeps_the_report() {
    let seen = demo("", &[]);
    assert!(shows_shards(&seen), "{seen}");
    assert!(seen.contains("\x1b[36mshard 0\x1b[0m") && seen.contains("\x1b[36mshard 1\x1b[0m"), "{seen:?}");
    assert!(seen.contains("2,000 requested = 2,000 live + 0 failed + 0 not tried"), "{seen}");
}

#[test]
fn without_colours_nothing_is_coloured() {
    let seen = demo("", &[("NO_COLOR", "1")]);
    assert!(shows_shards(&seen), "{seen}");
    assert!(!seen.contains("\x1b[3") && seen.contains("shard 1 "), "{seen:?}");
}

/// On a terminal that cannot rewrite lines in place they are printed, as into a pipe.
#[test]
fn a_terminal_that_cannot_show_lines_in_place_gets_lines() {
    let shown = |term: Option<&str>, rows, columns| {
        let mut command = c1m();
        let arguments = format!("demo --connections 200 --hold 1s --port {} --ports 2", free_ports(2));
        command.args(arguments.split_whitespace());
        match term {
            Some(term) => command.env("TERM", term),
            None => command.env_remove("TERM").env("NO_COLOR", "1"),
        };
        OnTerminal::sized(command, rows, columns).end()
    };
    for (term, rows, columns) in [
        (Some("dumb"), 40, 150),
        (Some(""), 40, 150),
        (None, 40, 150),
        (Some("xterm"), 0, 0),
        (Some("xterm"), 40, 10),
        (Some("xterm"), 1, 150),
    ] {
        let seen = shown(term, rows, columns);
        // At least the first and the last line of the phase.
        let held = seen.lines().filter(|line| line.starts_with("hold ")).count();
        assert!(held >= 2 && !seen.contains('\x1b'), "{term:?} {rows} {columns}: {seen:?}");
    }
}

#[test]
fn quiet_shows_the_result_alone() {
    let seen = demo("--quiet", &[]);
    assert!(!shows_shards(&seen) && !seen.contains('\x1b') && !seen.contains("ramp  "), "{seen:?}");
    assert!(!seen.contains("the server counts"), "{seen}");
    assert!(seen.contains("2,000 requested = 2,000 live + 0 failed + 0 not tried"), "{seen}");
}

#[test]
fn a_server_shows_its_shards_in_lines_that_change_in_place() {
    let port = free_ports(4);
    let mut command = c1m();
    command.args(server_arguments(port, 4, "--cores 2 --stats-interval 100ms").split_whitespace());
    let server = OnTerminal::start(command);
    server.until("ready");
    client(&format!("{} --connections 200 --connect-timeout 20s --hold 1s", at(port, 4))).held(200);
    server.signal(libc::SIGTERM);
    let seen = server.end();
    assert!(seen.contains("rounds p99") && seen.contains("shard 1"), "{seen}");
    assert!(seen.contains("accepted 200, closed 200"), "{seen}");
}

#[test]
fn a_quiet_server_prints_its_result() {
    let server = Server::start(2, "--quiet --stats-interval 50ms");
    client(&format!("{} --connections 20 --hold 1s", server.at())).held(20);
    let finished = server.stop();
    assert!(!finished.out.contains("accepts/s") && finished.out.contains("accepted 20, closed 20"), "{}", finished.out);
}

/// Ctrl-S stops a terminal, and nothing else: warnings go where they are read, and the server stops when it is told to. Only
/// its result waits.
#[test]
fn a_stopped_terminal_holds_up_no_server() {
    let dir = tempfile::tempdir().unwrap();
    let errors = dir.path().join("errors");
    let port = free_ports(1);
    let mut command = c1m();
    command.args(server_arguments(port, 1, "--max-connections 1 --stats-interval 50ms").split_whitespace());
    let mut server = OnTerminal::with_errors(command, 40, 150, Some(File::create(&errors).unwrap()));
    server.until("rounds p99");
    let mut held = connected(port);
    echoes(&mut held);
    server.stop();
    for refused in 1..=3 {
        let mut one_more = connected(port);
        assert!(std::io::copy(&mut one_more, &mut std::io::sink()).is_err());
        eventually("it warns of the refusal", || {
            std::fs::read_to_string(&errors).unwrap().contains(&format!("refused, {refused} in all"))
        });
    }
    echoes(&mut held);
    server.signal(libc::SIGTERM);
    eventually("it has stopped", || TcpStream::connect(("127.0.0.1", port)).is_err());
    server.types(CTRL_Q);
    let seen = server.end();
    assert!(seen.contains("\nmost live at once 1,"), "{seen}");
}

#[test]
fn a_stopped_terminal_holds_up_no_client() {
    let server = Server::start(2, "--stats-interval 50ms --json -");
    let mut command = c1m();
    let words = format!("client --target-ip 127.0.0.1 {} --connections 50 --hold 1h", server.at());
    command.args(words.split_whitespace());
    let mut client = OnTerminal::start(command);
    client.until("hold ");
    client.stop();
    client.signal(libc::SIGINT);
    eventually("it closes its connections", || {
        let stats = server.running.last_event("stats").unwrap_or_default();
        (&stats["live"], &stats["closed"]) == (&0.into(), &50.into())
    });
    client.types(CTRL_Q);
    let seen = client.ends_with(1);
    assert!(seen.contains("50 requested = 50 live"), "{seen}");
}

/// The session loses its terminal, as when a window is closed: SIGHUP arrives, and printing fails from then on.
#[test]
fn a_terminal_that_goes_away_leaves_a_whole_result() {
    for term in ["xterm-256color", "dumb"] {
        let dir = tempfile::tempdir().unwrap();
        let (mut near, far) = terminal(40, 150);
        let mut command = c1m();
        let arguments = format!("demo --connections 200 --hold 1h --port {} --ports 2", free_ports(2));
        command.args(arguments.split_whitespace()).arg("--json").arg(dir.path().join("json")).env("TERM", term);
        command.stdin(Stdio::null()).stdout(far.try_clone().unwrap()).stderr(far);
        let lead_session = || {
            // SAFETY: no memory; both calls may be made between fork and exec.
            let led = unsafe { libc::setsid() != -1 && libc::ioctl(1, libc::TIOCSCTTY, 0) == 0 };
            led.then_some(()).ok_or_else(std::io::Error::last_os_error)
        };
        // SAFETY: the function makes two system calls and allocates nothing.
        let mut child =
            unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, lead_session) }.spawn().unwrap();
        drop(command);
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("hold ") {
            let mut piece = [0; 4096];
            let len = near.read(&mut piece).unwrap();
            seen.extend_from_slice(&piece[..len]);
        }
        drop(near);
        let mut code = None;
        eventually("it ends", || {
            code = child.try_wait().unwrap();
            code.is_some()
        });
        assert_eq!(code.unwrap().code(), Some(1), "{term}");
        let result: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.path().join("json")).unwrap()).unwrap();
        assert_eq!(result["client"]["stopped"], true);
        assert_eq!(number(&result["client"], "live"), 200);
    }
}
