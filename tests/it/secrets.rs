//! The memory of the program while it holds secrets.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tempfile::tempdir;

use crate::support::*;

const ROOT: u32 = 0;

/// Who may read the memory of a process beside root.
fn owner_of_memory(process: &Running) -> u32 {
    std::fs::metadata(format!("/proc/{}/mem", process.pid())).unwrap().uid()
}

/// Puts a file where every user can read it.
fn shown(file: &Path, dir: &Path) -> String {
    let copy = dir.join(file.file_name().unwrap());
    std::fs::copy(file, &copy).unwrap();
    copy.display().to_string()
}

/// An ordinary user's other processes can read the memory of a program that speaks no TLS, and of no other.
#[test(Users)]
fn memory_with_secrets_is_roots() {
    let authority = Authority::new();
    let signed = authority.sign("own", &["localhost"]);
    let dir = tempdir().unwrap();
    let [chain, key, ca] =
        [&*signed.chain, &*signed.key, Path::new(&authority.file())].map(|file| shown(file, dir.path()));
    let of_server = format!("--tls-cert {chain} --tls-key {key}");
    let of_client = format!("--tls --sni localhost --ca {ca}");
    for (of_server, of_client, owner) in [(&*of_server, &*of_client, ROOT), ("", "", NOBODY)] {
        let arguments = format!("{of_server} --max-connections 100 --stats-interval 20ms --json -");
        let server = Server::start_as(c1m_unprivileged(&dir), 1, &arguments);
        assert_eq!(owner_of_memory(&server.running), owner, "the server with {of_server:?}");
        let mut command = c1m_unprivileged(&dir);
        let at = server.at();
        let words = format!("client --target-ip 127.0.0.1 {at} --connections 2 --hold 1h {of_client}");
        command.args(words.split_whitespace());
        let mut client = Running::start(command);
        eventually("it has connections", || {
            assert!(!client.has_ended(), "{}", client.err());
            server.running.last_event("stats").is_some_and(|stats| stats["live"] == 2)
        });
        assert_eq!(owner_of_memory(&client), owner, "the client with {of_client:?}");
        client.signal(libc::SIGTERM);
        client.wait();
        server.stop();
    }
}
