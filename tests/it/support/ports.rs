//! Ports that only one test uses.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// The first of `count` neighbouring ports that have no listener, and that no other test of this process gets. They lie
/// below the ephemeral range, so no client's socket can use them.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const LOWEST: u16 = 10_000;
    const HIGHEST: u16 = 32_000;
    // Test processes that run at the same time begin at different ports.
    let offset = (std::process::id() % 200) as u16 * 100;
    loop {
        let next = NEXT.fetch_add(count, Ordering::Relaxed);
        let first = LOWEST + (offset + next) % (HIGHEST - LOWEST - count);
        if (first..first + count).all(|port| TcpListener::bind(("0.0.0.0", port)).is_ok()) {
            return first;
        }
    }
}
