//! The names that those who build on c1m see: the library's interface.

use std::fs;

/// The public names at the crate's root.
const NAMES: [&str; 34] = [
    "Address",
    "Broadcast",
    "CloseMode",
    "CloseReason",
    "ConfigError",
    "ConnId",
    "Conversation",
    "Cores",
    "CounterId",
    "Ctx",
    "Echo",
    "Error",
    "HostError",
    "IdlePolicy",
    "Mailbox",
    "MailboxError",
    "Members",
    "PortSharing",
    "Ports",
    "Reply",
    "Reserve",
    "Result",
    "Server",
    "ServerBuilder",
    "ServerEvent",
    "Service",
    "ShardCounters",
    "ShardInfo",
    "Sink",
    "Snapshot",
    "TlsAgreed",
    "TlsConfig",
    "TlsVersion",
    "client",
];

/// Modules beside these: the parts of errors, and services of more than bytes.
const MODULES: [&str; 4] = ["error", "http", "push", "websocket"];

/// What the root makes public and documents: the names of its `pub use` and `pub mod`, and any other public item as it
/// stands.
fn public_names(root: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut lines = root.lines();
    let mut hidden = false;
    while let Some(line) = lines.next() {
        if line.starts_with("pub ") && !std::mem::take(&mut hidden) {
            let mut item = line.to_owned();
            while !item.contains(';') && !item.ends_with(['{', '}']) {
                item += lines.next().unwrap();
            }
            names.extend(names_of(&item));
        } else if line == "#[doc(hidden)]" {
            hidden = true;
        }
    }
    names.sort();
    names
}

fn names_of(item: &str) -> Vec<String> {
    let item = item.trim_end_matches([';', '{', ' ']);
    if let Some(module) = item.strip_prefix("pub mod ") {
        return vec![module.to_owned()];
    }
    let Some(path) = item.strip_prefix("pub use ") else { return vec![item.to_owned()] };
    let list = path.split_once('{').map_or_else(|| path.rsplit("::").next().unwrap(), |(_, list)| list);
    let names = list.split([',', '}']).map(str::trim).filter(|name| !name.is_empty());
    names.map(|name| name.rsplit(" as ").next().unwrap().to_owned()).collect()
}

#[test]
fn the_root_has_these_names_and_no_others() {
    let root = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs")).unwrap();
    let mut expected: Vec<&str> = NAMES.into_iter().chain(MODULES).collect();
    expected.sort_unstable();
    assert_eq!(public_names(&root), expected);
}

#[test]
fn a_public_item_is_found_however_it_is_written() {
    let root = "mod a;\npub use a::b::{C, D as E,\n    F};\n    pub mod inner;\npub mod g;\n#[doc(hidden)]\n#[path = \".\"]\npub mod h {\n}\npub fn i() {}\npub use a::J;\n";
    assert_eq!(public_names(root), ["C", "E", "F", "J", "g", "pub fn i() {}"]);
}
