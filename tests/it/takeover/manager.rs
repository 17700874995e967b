//! A service manager, as systemd is one: it keeps the descriptors that a service leaves with it, and gives them to the
//! next process.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use c1m::internal::sys::receive_rights;
use tempfile::TempDir;

use super::{House, audit, counts, handed_over, ready};
use crate::support::*;

/// A service manager that keeps descriptors.
pub struct Manager {
    dir: TempDir,
    socket: UnixDatagram,
    /// What it keeps, by name: the newest first, as systemd has it (`service_add_fd_store` in src/core/service.c).
    kept: Vec<(String, OwnedFd)>,
}

impl Manager {
    pub fn new() -> Manager {
        let dir = TempDir::new().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        Manager { dir, socket, kept: Vec::new() }
    }

    /// The names of what it keeps.
    pub fn names(&self) -> Vec<&str> {
        self.kept.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Starts a server as a service, and takes what it says until it is ready.
    pub fn start(&mut self, house: &House, arguments: &str) -> Server {
        let command = self.service();
        self.serve(command, house, arguments)
    }

    /// Starts a server as the reload of a service does, without what is kept.
    pub fn reload(&mut self, house: &House, arguments: &str) -> Server {
        let command = self.reloaded();
        self.serve(command, house, arguments)
    }

    fn serve(&mut self, mut command: Command, house: &House, arguments: &str) -> Server {
        command.args(server_arguments(house.port, house.ports, arguments).split_whitespace());
        let mut running = Running::start(command);
        let mut main = None;
        eventually("the manager knows the process", || {
            main = self.hear(Duration::from_millis(10)).flatten();
            main.is_some()
        });
        assert_eq!(main, Some(running.pid()));
        running.until_ready();
        Server::of(running, house.port, house.ports)
    }

    /// Stops a server, and takes what it says meanwhile.
    fn stop(&mut self, server: Server) {
        let mut running = server.running;
        running.signal(libc::SIGTERM);
        eventually("it ends", || self.hear(Duration::from_millis(10)).is_none() && running.has_ended());
        while self.hear(Duration::from_millis(1)).is_some() {}
        assert_eq!(running.wait().code(), 0);
    }

    /// Takes the next that a service says, if it says anything within a time: the process that it names, if it does.
    fn hear(&mut self, within: Duration) -> Option<Option<u32>> {
        let (mut text, mut came) = ([0; 1_000], Vec::new());
        self.socket.set_read_timeout(Some(within)).unwrap();
        let length = match receive_rights(&self.socket, &mut text, &mut came) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("{error}"),
        };
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        let named = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
        if text.contains("FDSTORE=1") {
            let descriptor = came.remove(0);
            if !self.kept.iter().any(|(_, kept)| are_same(kept, &descriptor)) {
                self.kept.insert(0, (named("FDNAME=").unwrap(), descriptor));
            }
        } else if text.contains("FDSTOREREMOVE=1") {
            let name = named("FDNAME=").unwrap();
            self.kept.retain(|(kept, _)| *kept != name);
        } else {
            let main = named("MAINPID=").unwrap_or_else(|| panic!("{text}"));
            assert!(text.contains("READY=1"), "{text}");
            return Some(main.parse().ok());
        }
        Some(None)
    }

    /// A command that starts a service with what is kept.
    pub fn service(&self) -> Command {
        let mut command = self.reloaded();
        if self.kept.is_empty() {
            return command;
        }
        command.env("LISTEN_FDS", self.kept.len().to_string());
        command.env("LISTEN_FDNAMES", self.names().join(":"));
        // Above all numbers that they are to have.
        let copy = |(_, descriptor): &(String, OwnedFd)| {
            // SAFETY: no memory.
            let copy = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 500) };
            assert!(copy >= 500, "{}", std::io::Error::last_os_error());
            copy
        };
        let copies: Vec<_> = self.kept.iter().map(copy).collect();
        // SAFETY: dup2 is async-signal-safe, and the numbers were moved into the closure.
        unsafe {
            command.pre_exec(move || {
                for (at, copy) in (3..).zip(&copies) {
                    if libc::dup2(*copy, at) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        command
    }

    /// A command that starts a service without what is kept.
    fn reloaded(&self) -> Command {
        let mut command = c1m_after("LISTEN_PID=$$ && export LISTEN_PID");
        command.env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        command
    }
}

/// Whether two descriptors are of one open file (kcmp(2)).
fn are_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    const KCMP_FILE: libc::c_int = 0;
    let process = std::process::id();
    // SAFETY: no memory.
    let order =
        unsafe { libc::syscall(libc::SYS_kcmp, process, process, KCMP_FILE, one.as_raw_fd(), other.as_raw_fd()) };
    assert!(order >= 0, "{}", std::io::Error::last_os_error());
    order == 0
}

/// A manager that has gone, or that reads nothing, is told of. Neither start nor end waits for it with each descriptor.
#[test(Network)]
fn a_manager_that_takes_nothing_is_named() {
    in_own_network(|| {
        let dir = TempDir::new().unwrap();
        let [gone, silent] = ["gone", "silent"].map(|name| dir.path().join(name));
        // The kernel keeps some ten messages for it (net.unix.max_dgram_qlen).
        let _silent = UnixDatagram::bind(&silent).unwrap();
        for (socket, errno) in [(gone, "ENOENT"), (silent, "EAGAIN")] {
            let house = House { ports: 100, ..House::new(Ipv4Addr::LOCALHOST.into(), "") };
            let mut command = c1m();
            command.env("NOTIFY_SOCKET", socket);
            let server = Server::start_as_at(command, house.port, house.ports, &house.arguments(""));
            let said = || server.running.err();
            eventually("it is said", || said().contains("NOTIFY_SOCKET: ") && said().contains(errno));
            server.stop();
        }
    });
}

/// A manager that learns of the end of a service's process ends the service, unless it was told of another process before. So
/// a server lives until it was, however slowly it reads.
#[test(Network)]
fn a_server_lives_until_the_manager_knows_its_successor() {
    in_own_network(|| {
        // More messages than the kernel keeps for a manager.
        let house = House { ports: 30, ..House::new(Ipv4Addr::LOCALHOST.into(), "") };
        let mut manager = Manager::new();
        let arguments = house.arguments("--stats-interval 20ms");
        let mut server = manager.start(&house, &arguments);
        let mut crowd = house.crowd(20);
        eventually("it has all", || counts(&server.running).0 == 20);
        let mut command = manager.reloaded();
        command.args(server_arguments(house.port, house.ports, &arguments).split_whitespace());
        let mut successor = Running::start(command);
        eventually("all are handed over", || counts(&server.running).0 == 0);
        let mut main = None;
        eventually("the manager knows the successor", || {
            std::thread::sleep(Duration::from_millis(20));
            let has_ended = server.running.has_ended();
            if has_ended {
                // What it has said by now comes before the end of the server.
                successor.pause();
            }
            while let Some(said) = manager.hear(Duration::from_millis(1)) {
                main = main.or(said);
                if !has_ended {
                    break;
                }
            }
            assert!(main.is_some() || !has_ended, "the server has ended before");
            main.is_some()
        });
        successor.signal(libc::SIGCONT);
        assert_eq!(main, Some(successor.pid()));
        successor.until_ready();
        assert_eq!(handed_over(server), 20);
        audit(&mut crowd, "still there");
        manager.stop(Server::of(successor, house.port, house.ports));
    });
}

/// Whatever servers take each other's place, the manager keeps what the last one has, and nothing else.
#[test(Network, Hibernation)]
fn a_manager_keeps_what_the_last_server_has() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let mut manager = Manager::new();
        let scraped = manager.start(&house, &house.arguments("--metrics 127.0.0.1:9187"));
        assert!(manager.names().contains(&"c1m-metrics"), "{:?}", manager.names());
        let arguments = house.arguments("--hibernate 200ms --stats-interval 20ms");
        let mut server = manager.reload(&house, &arguments);
        assert_eq!(handed_over(scraped), 0);
        // Two listeners, three maps and the terms; and of each shard its ring buffer, entries and addresses.
        assert_eq!(manager.names().len(), 2 + 3 + 1 + 2 * 3, "{:?}", manager.names());
        let mut silent = house.crowd(50);
        eventually("all sleep", || counts(&server.running) == (50, 50));
        server.running.signal(libc::SIGKILL);
        server.running.wait();
        server = manager.start(&house, &arguments);
        assert_eq!(number(&ready(&server.running), "taken_over"), 50);
        audit(&mut silent, "good morning");
        let next = manager.reload(&house, &arguments);
        assert_eq!(handed_over(server), 50);
        assert_eq!(manager.names().len(), 12, "{:?}", manager.names());
        manager.stop(next);
        assert!(manager.names().is_empty(), "{:?}", manager.names());
    });
}

/// A manager that has room for a part keeps nothing that can be used. That is said with its cure.
#[test(Network, Hibernation)]
fn what_was_left_in_part_is_refused() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "--hibernate 200ms");
        let mut manager = Manager::new();
        let arguments = house.arguments("");
        let server = manager.start(&house, &arguments);
        server.running.signal(libc::SIGKILL);
        server.running.wait();
        manager.kept.remove(0);
        let refused = run_as(manager.service(), &server_arguments(house.port, house.ports, &arguments));
        refused.fails_with(
            3,
            &["11 of 12 descriptors are there", "raise FileDescriptorStoreMax=", "clean --what=fdstore"],
        );
        assert!(!refused.err.contains("serves on"), "{}", refused.err);
    });
}
