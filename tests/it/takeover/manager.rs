//! A service manager, as systemd is one: it keeps the descriptors that a service leaves with it, and gives them to the
//! next process.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::Command;

use c1m::internal::sys::receive_rights;
use tempfile::TempDir;

use super::House;
use crate::support::*;

/// A service manager that keeps descriptors.
pub struct Manager {
    dir: TempDir,
    socket: UnixDatagram,
    pub kept: BTreeMap<String, OwnedFd>,
}

impl Manager {
    pub fn new() -> Manager {
        let dir = TempDir::new().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager { dir, socket, kept: BTreeMap::new() }
    }

    /// Starts a server as a service, and takes what it says until it is ready.
    pub fn start(&mut self, house: &House, arguments: &str) -> Server {
        let mut command = self.service();
        command.args(server_arguments(house.port, house.ports, arguments).split_whitespace());
        let mut running = Running::start(command);
        assert_eq!(self.until_ready(), running.pid());
        running.until_ready();
        Server::of(running, house.port, house.ports)
    }

    /// Takes what a service says, until it is ready. Returns the process that it names.
    fn until_ready(&mut self) -> u32 {
        loop {
            let (mut text, mut came) = ([0; 1_000], Vec::new());
            let length = receive_rights(&self.socket, &mut text, &mut came).unwrap();
            let text = String::from_utf8_lossy(&text[..length]).into_owned();
            let named = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
            if text.contains("FDSTORE=1") {
                self.kept.insert(named("FDNAME=").unwrap(), came.remove(0));
            } else if let Some(pid) = named("MAINPID=") {
                assert!(text.contains("READY=1"), "{text}");
                return pid.parse().unwrap();
            }
        }
    }

    /// A command that starts a service with what is kept.
    pub fn service(&self) -> Command {
        let mut command = c1m_after("LISTEN_PID=$$ && export LISTEN_PID");
        command.env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        if self.kept.is_empty() {
            return command;
        }
        command.env("LISTEN_FDS", self.kept.len().to_string());
        command.env("LISTEN_FDNAMES", self.kept.keys().cloned().collect::<Vec<_>>().join(":"));
        // Above all numbers that they are to have.
        let copy = |descriptor: &OwnedFd| {
            // SAFETY: no memory.
            let copy = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 500) };
            assert!(copy >= 500, "{}", std::io::Error::last_os_error());
            copy
        };
        let copies: Vec<_> = self.kept.values().map(copy).collect();
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
