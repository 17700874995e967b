//! The harness that the tests share. Each file of the folder holds one part of it.

mod client;
mod namespaces;
mod peer;
mod ports;
mod process;
mod program;
mod schema;
mod seccomp;
mod server;
mod tls;
mod wait;

pub use client::{Client, ClientRun, client, client_until};
pub use namespaces::{in_own_mounts, in_own_network, in_own_processes, mount, unmount};
pub use peer::{
    Peer, connected, echo, echoes, established, last_words, read_until, reset, wait_for_established, write_unread,
};
pub use ports::{claim_ports, free_ports, is_free};
pub use process::{Finished, Outlet, Running, children, events, kill, run, run_as, runs};
pub use program::{
    NOBODY, PROGRAM, c1m, c1m_after, c1m_limited, c1m_unprivileged, c1m_without_sys_admin, unprivileged,
};
pub use schema::{
    document, has_client_names, has_client_names_and, has_merged_names, has_names, has_server_names,
    has_server_names_and, number,
};
pub use seccomp::refuse;
pub use server::{Server, at, server_arguments};
pub use tls::{Authority, Link, Secure, echo_securely, secure};
pub use wait::{PATIENCE, SetAtEnd, eventually, in_ever_longer_times};
