//! Holds the structure of the source: the layers of rooms, the rooms in which a crate may be used, the rooms with
//! unsafe code, and the sizes of files and functions.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// The layer of each room. A room imports rooms of lower layers, and of its own layer only those that `BELOW` puts below
/// it.
const LAYERS: [(&str, u8); 42] = [
    ("constants", 0),
    ("error", 0),
    ("command_error", 0),
    ("token", 0),
    ("reply", 0),
    ("tls_version", 0),
    ("format", 0),
    ("clock", 0),
    ("hibernation", 0),
    ("ring", 1),
    ("sys", 1),
    ("tls", 1),
    ("chunks", 0),
    ("wiped", 0),
    ("latency", 1),
    ("pace", 1),
    ("plan", 1),
    ("stats", 1),
    ("failure", 1),
    ("addresses", 1),
    ("memory_model", 1),
    ("output", 1),
    ("connections", 2),
    ("listener", 2),
    ("host", 2),
    ("walls", 2),
    ("mailbox", 2),
    ("protocol", 2),
    ("reactor", 3),
    ("service", 3),
    ("takeover", 3),
    ("shard", 4),
    ("results", 5),
    ("metrics", 5),
    ("server", 6),
    ("client", 6),
    ("doctor", 6),
    ("tune", 6),
    ("render", 6),
    ("cli", 7),
    ("main", 8),
    ("lib", 8),
];

/// Pairs of rooms of one layer: the first may import the second, but not the other way round.
const BELOW: [(&str, &str); 11] = [
    ("command_error", "error"),
    ("error", "format"),
    ("token", "constants"),
    ("ring", "sys"),
    ("addresses", "sys"),
    ("plan", "addresses"),
    ("memory_model", "plan"),
    ("output", "sys"),
    ("connections", "listener"),
    ("walls", "host"),
    ("tls", "sys"),
];

/// Rooms, or parts of them, that do no I/O, and all that they may know: a protocol must not see a ring or a socket, though
/// its layer is above them.
const PURE: [(&str, &[&str]); 3] =
    [("protocol", &["constants", "failure"]), ("hibernation", &[]), ("tls/record", &["error", "wiped"])];

/// The rooms, or the files, in which each crate may be used. `ring` is the name of a room too, so the crate of that name is
/// named from the root of all crates.
const CRATES: [(&str, &[&str]); 29] = [
    ("crossbeam_queue", &["mailbox"]),
    ("io_uring", &["ring"]),
    ("::ring", &["tls/record/keys.rs"]),
    ("zeroize", &["tls", "wiped"]),
    (
        "rustls",
        &[
            "tls/handshake/client.rs",
            "tls/handshake/failure.rs",
            "tls/handshake/files.rs",
            "tls/handshake/resumption.rs",
            "tls/handshake/secrets.rs",
            "tls/handshake/server.rs",
            "tls/handshake/steps.rs",
        ],
    ),
    ("rustls_native_certs", &["tls/handshake/client.rs"]),
    ("rcgen", &["cli/demo/certificate.rs"]),
    ("libc", &["ring", "sys"]),
    ("glommio", &["shard/executor.rs"]),
    ("socket2", &["listener", "client"]),
    ("core_affinity", &["host"]),
    ("hdrhistogram", &["latency"]),
    ("base64", &["latency", "protocol", "cli/demo/certificate.rs"]),
    ("flate2", &["latency"]),
    ("clap", &["cli", "main"]),
    ("indicatif", &["cli"]),
    ("signal_hook", &["cli", "sys/signals.rs"]),
    ("serde_json", &["results", "render", "cli", "tune", "takeover/terms.rs", "protocol/nats/lines.rs"]),
    ("maud", &["render"]),
    ("prometheus_client", &["metrics"]),
    ("httparse", &["metrics", "protocol"]),
    ("httpdate", &["metrics", "service"]),
    ("sha1_smol", &["protocol"]),
    ("simdutf8", &["protocol"]),
    ("rustix", &["metrics", "sys"]),
    ("plotters", &["render"]),
    ("tempfile", &["output", "cli/demo/certificate.rs"]),
    ("getrandom", &["results"]),
    ("terminal_size", &["cli"]),
];

/// Rooms that speak to people at the command line, and may name its flags. Errors of the library come from the others.
/// The walls are a table for people too, whose texts are data in results.
const NAMES_FLAGS: [&str; 6] = ["cli", "render", "tune", "walls", "fuzz", "lib"];

/// The root module of a crate, among the names of its modules.
const ROOT: &str = "the root";

/// Rooms that may hold unsafe code.
const UNSAFE: [&str; 2] = ["ring", "sys"];

/// Files of tests only, and what is in folders of these names. They may import any room.
const TESTS: [&str; 4] = ["tests", "model", "fuzz", "simulation"];

/// The most lines of a file, and of a function.
const LONGEST_FILE: usize = 600;
const LONGEST_FUNCTION: usize = 70;

/// Collects every Rust file below a folder.
fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push(path);
        }
    }
}

/// Every source file of the program, with its room (`client/driver.rs` is in `client`).
fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    rust_files(&root, &mut paths);
    let is_test = |part: &OsStr| Path::new(part).file_stem().is_some_and(|stem| TESTS.iter().any(|name| stem == *name));
    paths.retain(|path| !path.strip_prefix(&root).unwrap().iter().any(is_test));
    let room = |path: &Path| {
        let first = path.strip_prefix(&root).unwrap().components().next().unwrap();
        Path::new(first.as_os_str()).file_stem().unwrap().to_str().unwrap().to_owned()
    };
    paths.into_iter().map(|path| (room(&path), path.clone(), fs::read_to_string(&path).unwrap())).collect()
}

/// The lines of a file that are neither comments nor tests: the item behind a mark of tests is left out, up to its `;` or
/// to the closing brace of its own indent.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    // The indent of the item that is left out, and whether its brace has opened.
    let mut test: Option<(usize, bool)> = None;
    text.lines().enumerate().filter(move |(_, line)| {
        let words = line.trim_start();
        let indent = line.len() - words.len();
        if test.is_none() && ["#[cfg(test)]", "#[cfg(all(test,"].iter().any(|mark| words.starts_with(mark)) {
            test = Some((indent, false));
            return false;
        }
        let Some((own, opened)) = test else { return !words.starts_with("//") };
        if indent == own {
            let ends = if opened { ["}", "};"].contains(&words) } else { words.ends_with([';', ',', '}']) };
            test = (!ends).then_some((own, opened || words.ends_with('{')));
        }
        false
    })
}

#[test]
fn only_the_items_of_tests_are_left_out() {
    let text = r#"
use super::one;
#[cfg(test)]
use super::seldom;
// use super::comment;
#[cfg(test)]
pub mod told;
#[cfg(all(test, feature = "cli"))]
#[allow(
    dead_code,
)]
impl Row {
    fn seldom() {}
}
impl Row {
    #[cfg(test)]
    fn seldom(
        self,
    ) -> bool {
        true
    }
    fn two() {}
}
struct Row {
    #[cfg(test)]
    seldom: u8,
    three: u8,
}
#[cfg(test)]
mod tests {
    const SELDOM: &str = "
}, {
";
}
use super::four;
"#;
    let kept: Vec<_> = code(text).map(|(_, line)| line.trim()).filter(|line| !line.is_empty()).collect();
    let expected =
        ["use super::one;", "impl Row {", "fn two() {}", "}", "struct Row {", "three: u8,", "}", "use super::four;"];
    assert_eq!(kept, expected);
    let numbers: Vec<_> = code(text).filter(|(_, line)| line.contains("four")).map(|(number, _)| number).collect();
    assert_eq!(numbers, [text.lines().count() - 1]);
}

#[test]
fn a_room_imports_only_lower_layers() {
    let layers: BTreeMap<_, _> = LAYERS.into_iter().collect();
    let may_know = |room: &str, other: &str| room == other || BELOW.contains(&(room, other));
    let mut wrong = Vec::new();
    for (room, path, text) in sources() {
        let layer = layers.get(room.as_str()).unwrap_or_else(|| panic!("{} is in no layer", path.display()));
        for (number, line) in code(&text) {
            for (at, _) in line.match_indices("crate::") {
                let name: String = line[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if let Some(other) = layers.get(name.as_str())
                    && other >= layer
                    && !may_know(&room, &name)
                {
                    wrong.push(format!("{}:{}: {room} ({layer}) imports {name} ({other})", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Between layers there can be no circle, so only the pairs of one layer could make one.
#[test]
fn no_rooms_import_each_other_in_a_circle() {
    let layers: BTreeMap<_, _> = LAYERS.into_iter().collect();
    for (above, below) in BELOW {
        assert_eq!(layers[above], layers[below], "{above} and {below} are in two layers, and need no pair");
    }
    let mut imports = BTreeMap::<String, BTreeSet<String>>::new();
    for (above, below) in BELOW {
        imports.entry(above.to_owned()).or_default().insert(below.to_owned());
    }
    let found = imports.keys().find_map(|room| circle(&imports, &mut Vec::new(), room));
    assert_eq!(found.map(|way| way.join(" imports ")), None);
}

#[test]
fn rooms_without_io_know_only_their_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for (room, path, text) in sources() {
        let module = path.strip_prefix(&root).unwrap().with_extension("");
        let Some((_, may)) = PURE.iter().find(|(pure, _)| module.starts_with(pure)) else { continue };
        for (number, line) in code(&text) {
            for (at, _) in line.match_indices("crate::") {
                let name: String = line[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if name != room && !may.contains(&name.as_str()) {
                    wrong.push(format!("{}:{}: {room} knows {name}", path.display(), number + 1));
                }
            }
            for io in ["std::net", "std::fs", "std::time", "std::thread"] {
                if line.contains(io) {
                    wrong.push(format!("{}:{}: {room} uses {io}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether a line names something of a crate. A path within another crate may end with the same word.
fn names(line: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(&format!("{name}::")).any(|(at, _)| !line[..at].ends_with(is_word))
}

#[test]
fn each_crate_stays_in_its_rooms() {
    assert!(names("use ::ring::aead;", "::ring") && !names("use crate::ring::Ring; String::new()", "::ring"));
    let mut wrong = Vec::new();
    for (room, path, text) in sources() {
        for (number, line) in code(&text) {
            for (name, rooms) in CRATES {
                let home = rooms.iter().any(|place| *place == room || place.contains('/') && path.ends_with(place));
                if names(line, name) && !home {
                    wrong.push(format!("{}:{}: {name} in {room}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stays_behind_its_fence_and_says_why_it_is_sound() {
    for (room, path, text) in sources() {
        for (number, line) in code(&text).filter(|(_, line)| line.contains("unsafe {") || line.contains("unsafe fn")) {
            let place = format!("{}:{}: {}", path.display(), number + 1, line.trim());
            assert!(UNSAFE.contains(&room.as_str()), "{place}");
            let before = text.lines().take(number).collect::<Vec<_>>();
            let reasoned = before.iter().rev().take(4).any(|line| line.contains("SAFETY:"));
            assert!(reasoned, "no SAFETY comment: {place}");
        }
    }
}

/// The long flags of all commands, but for those that every program has.
fn flags(command: &clap::Command, into: &mut BTreeSet<String>) {
    let longs = command.get_arguments().filter_map(|argument| argument.get_long());
    into.extend(longs.filter(|long| !["help", "version"].contains(long)).map(|long| format!("--{long}")));
    command.get_subcommands().for_each(|command| flags(command, into));
}

/// A library has no command line, so none of its texts names a flag: `cli/diagnostics.rs` does.
#[test]
fn texts_of_the_library_name_no_flag() {
    let mut known = BTreeSet::new();
    flags(&c1m::internal::cli::command(), &mut known);
    assert!(known.contains("--target-ip") && known.contains("--backlog"), "{known:?}");
    let mut wrong = Vec::new();
    for (room, path, text) in sources().into_iter().filter(|(room, ..)| !NAMES_FLAGS.contains(&room.as_str())) {
        for (number, line) in code(&text).filter(|(_, line)| line.contains('"')) {
            let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
            if let Some(flag) = words.into_iter().find(|word| known.contains(*word)) {
                wrong.push(format!("{}:{}: {flag} in {room}", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Each of them may be read after a run of `client`, `storm` or `fanout`.
#[test]
fn sentences_on_failures_name_options_that_all_clients_have() {
    // What a server has, and what stands behind the name of its command.
    const ELSEWHERE: [&str; 3] = ["--audit", "--backlog", "--service"];
    let program = c1m::internal::cli::command();
    let of = |name: &str| {
        let mut own = BTreeSet::new();
        flags(program.find_subcommand(name).unwrap(), &mut own);
        own
    };
    let clients = [of("client"), of("storm"), of("fanout")];
    let render = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/render");
    let mut files = vec![render.join("failures.rs")];
    rust_files(&render.join("failures"), &mut files);
    assert!(files.len() > 2, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        for flag in words.filter(|word| word.starts_with("--") && word.len() > 3 && !word.starts_with("---")) {
            let is_known = ELSEWHERE.contains(&flag) || clients.iter().all(|own| own.contains(flag));
            assert!(is_known, "{}: not every client has {flag}", file.display());
        }
    }
}

/// The modules that each module of a crate imports. A module is a file at the top of the crate's sources, or a
/// folder of that name. What the root declares it imports; what is imported from the root itself is the root's.
fn imports(sources: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut paths = Vec::new();
    rust_files(sources, &mut paths);
    let module = |path: &Path| {
        let first = path.strip_prefix(sources).unwrap().components().next().unwrap();
        let name = Path::new(first.as_os_str()).file_stem().unwrap().to_str().unwrap();
        if ["main", "lib"].contains(&name) { ROOT.to_owned() } else { name.to_owned() }
    };
    let modules: BTreeSet<String> = paths.iter().map(|path| module(path)).collect();
    let mut imports = BTreeMap::<String, BTreeSet<String>>::new();
    for path in &paths {
        let (from, text) = (module(path), fs::read_to_string(path).unwrap());
        let own = imports.entry(from.clone()).or_default();
        for (_, line) in code(&text) {
            for (at, _) in line.match_indices("crate::") {
                let name: String = line[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                own.insert(if modules.contains(&name) { name } else { ROOT.to_owned() });
            }
            let declared = line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod ");
            if let Some(name) = declared.filter(|_| from == ROOT) {
                own.insert(name.trim_end_matches(';').to_owned());
            }
        }
        own.remove(&from);
    }
    imports
}

/// A way from `at` back to a module on the way to it, if there is one.
fn circle(imports: &BTreeMap<String, BTreeSet<String>>, way: &mut Vec<String>, at: &str) -> Option<Vec<String>> {
    if let Some(start) = way.iter().position(|module| module == at) {
        return Some(way[start..].iter().cloned().chain([at.to_owned()]).collect());
    }
    way.push(at.to_owned());
    let found = imports.get(at).into_iter().flatten().find_map(|next| circle(imports, way, next));
    way.pop();
    found
}

/// The crates beside c1m, whose modules have no layers: they import each other one way.
#[test]
fn no_module_of_the_other_crates_imports_itself_in_a_circle() {
    for sources in ["tuning/lab/src", "benches/support/src", "benches/peers/drive/src", "benches/tls/drive/src"] {
        let imports = imports(&Path::new(env!("CARGO_MANIFEST_DIR")).join(sources));
        assert!(imports.len() > 2, "{sources}: {imports:?}");
        let found = imports.keys().find_map(|module| circle(&imports, &mut Vec::new(), module));
        assert_eq!(found.map(|way| way.join(" imports ")), None, "{sources}");
    }
}

#[test]
fn rooms_and_functions_stay_small() {
    let mut wrong = Vec::new();
    let mut paths = Vec::new();
    for folder in ["src", "tests/it", "tuning/lab/src", "benches/support/src"] {
        rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut paths);
    }
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > LONGEST_FILE {
            wrong.push(format!("{}: {} lines", path.display(), lines.len()));
        }
        for (start, line) in lines.iter().enumerate() {
            let is_function = line.trim_start().split(' ').any(|word| word == "fn");
            if !is_function || line.trim_start().starts_with("//") {
                continue;
            }
            // The last line of its signature. Without a brace there it has no body, or one on the same line.
            let head = lines[start..].iter().find(|line| line.trim_end().ends_with(['{', '}', ';']));
            if !head.is_some_and(|head| head.trim_end().ends_with('{')) {
                continue;
            }
            let close = format!("{}}}", " ".repeat(line.len() - line.trim_start().len()));
            let length = lines[start..].iter().position(|line| *line == close).unwrap_or(0);
            if length > LONGEST_FUNCTION {
                wrong.push(format!("{}:{}: a function of {length} lines", path.display(), start + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
