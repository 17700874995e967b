//! The dependencies of the library, for users who build on it without the program.

use std::collections::BTreeSet;
use std::process::Command;

/// Crates that only the program needs, or only the metrics of a server.
const PROGRAM: [&str; 10] = [
    "clap",
    "humantime",
    "indicatif",
    "maud",
    "plotters",
    "prometheus-client",
    "rcgen",
    "signal-hook",
    "tempfile",
    "terminal_size",
];

/// Crates that only TLS needs.
const TLS: [&str; 3] = ["ring", "rustls", "rustls-native-certs"];

/// Crates of `PROGRAM` that glommio depends on too.
const ALSO_OF_GLOMMIO: [&str; 1] = ["signal-hook"];

/// The crates in a build of the library, as cargo resolves them, down to a depth of the tree.
fn crates(features: &[&str], depth: &str) -> BTreeSet<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["tree", "--offline", "--package", "c1m"]);
    cargo.args(["--edges", "normal", "--prefix", "none", "--format", "{lib} {p}", "--depth", depth]).args(features);
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect()
}

#[test]
fn the_library_alone_needs_no_crate_of_the_program() {
    let direct = crates(&["--no-default-features"], "1");
    assert!(direct.contains("glommio") && direct.contains("io-uring"), "{direct:?}");
    let all = crates(&["--no-default-features"], "99");
    for name in PROGRAM {
        assert!(!direct.contains(name), "{name} among {direct:?}");
        assert!(!all.contains(name) || ALSO_OF_GLOMMIO.contains(&name), "{name} among {all:?}");
    }
    for name in TLS {
        assert!(!all.contains(name), "{name} among {all:?}");
    }
}

#[test]
fn tls_needs_its_crates_and_no_program() {
    let direct = crates(&["--no-default-features", "--features", "tls"], "1");
    assert!(TLS.iter().all(|name| direct.contains(*name)), "{direct:?}");
    assert!(PROGRAM.iter().all(|name| !direct.contains(*name)), "{direct:?}");
}

#[test]
fn metrics_need_no_command_line() {
    let direct = crates(&["--no-default-features", "--features", "metrics"], "1");
    for name in PROGRAM {
        assert_eq!(direct.contains(name), name == "prometheus-client", "{name}");
    }
}

#[test]
fn the_program_needs_all_of_its_crates() {
    let direct = crates(&[], "1");
    for name in PROGRAM.iter().chain(&TLS) {
        assert!(direct.contains(*name), "{name} is not among {direct:?}");
    }
}
