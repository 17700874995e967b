//! What connections take of memory: that of a server's processes, and that of the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use socket2::SockRef;

use crate::compare::ServerProcess;
use crate::contract::Target;
use crate::samples::Figures;

/// Caches of file systems, which other programs move and no connection does.
const FILES: [&str; 5] = ["ext4", "jbd2", "buffer_head", "radix_tree", "xfs"];

/// The memory of a server, and of the kernel's objects, at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Bytes of user memory of the server.
    pub user: f64,
    kernel: Option<f64>,
}

impl Memory {
    /// That of now.
    pub fn now(server: &ServerProcess) -> Memory {
        Memory { user: user_bytes(server), kernel: kernel_bytes() }
    }

    /// The growth since then for each of `count` connections, in bytes: `user`, and `kernel` without the `bare` end of each
    /// client. `kernel` is missing for those who may not read it.
    pub fn growth(&self, server: &ServerProcess, count: usize, bare: Option<f64>) -> Figures {
        let now = Memory::now(server);
        let mut figures = Figures::from([("user", (now.user - self.user) / count as f64)]);
        if let (Some(before), Some(after), Some(bare)) = (self.kernel, now.kernel, bare) {
            figures.insert("kernel", (after - before) / count as f64 - bare);
        }
        figures
    }
}

/// Bytes of user memory of all processes of a server: what is theirs alone, and their part of what
/// they share.
fn user_bytes(server: &ServerProcess) -> f64 {
    let proportional = |process: PathBuf| {
        let text = fs::read_to_string(process.join("smaps_rollup")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:").map(str::to_owned));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    server.processes().into_iter().map(proportional).sum::<f64>() * 1024.0
}

/// Bytes of the kernel's objects in use, by cache.
pub type Slab = BTreeMap<String, i64>;

/// Reads /proc/slabinfo (version 2.1: name, active objects, objects, bytes of an object, …); none for those who may not.
pub fn slab() -> Option<Slab> {
    let text = fs::read_to_string("/proc/slabinfo").ok()?;
    let cache = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, active) = (words.next()?.to_owned(), words.next()?.parse::<i64>().ok()?);
        let each = words.nth(1)?.parse::<i64>().ok()?;
        Some((name, active * each))
    };
    let mut slab = Slab::new();
    for (name, bytes) in text.lines().skip(2).filter_map(cache) {
        // Several caches may have one name.
        *slab.entry(name).or_default() += bytes;
    }
    Some(slab)
}

/// Bytes of the kernel's objects in use, those of files left out; none for those who may not read them.
fn kernel_bytes() -> Option<f64> {
    let is_of_files = |name: &str| FILES.iter().any(|files| name.starts_with(files));
    let bytes = slab()?.into_iter().filter(|(name, _)| !is_of_files(name)).map(|(_, bytes)| bytes);
    Some(bytes.sum::<i64>() as f64)
}

/// Opens connections to the listeners in turn, and returns both ends of each.
pub fn bare_pairs(listeners: &[TcpListener], count: usize) -> Vec<TcpStream> {
    let pair = |listener: &TcpListener| {
        let near = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        [near, listener.accept().expect("a connection waits").0]
    };
    listeners.iter().cycle().take(count).flat_map(pair).collect()
}

/// Bytes of the kernel's objects for one end of a connection that no process watches: half of what both
/// ends take in this process.
pub fn bare_end(target: Target, count: usize) -> Option<f64> {
    let listeners: Vec<TcpListener> = (target.first_port..)
        .take(target.ports)
        .map(|port| TcpListener::bind((target.address, port)).expect("the port is free"))
        .collect();
    let before = kernel_bytes()?;
    let ends = bare_pairs(&listeners, count);
    let grown = kernel_bytes()? - before;
    for end in &ends {
        SockRef::from(end).set_linger(Some(Duration::ZERO)).expect("SO_LINGER can be set on a TCP socket");
    }
    Some(grown / (2 * count) as f64)
}
