//! What the library brings along for those who build on it without the program.

use std::collections::BTreeSet;
use std::process::Command;

/// Crates that only the program needs, or only a server's metrics.
const PROGRAM: [&str; 11] = [
    "clap",
    "httparse",
    "humantime",
    "indicatif",
    "maud",
    "plotters",
    "prometheus-client",
    "rustix",
    "signal-hook",
    "tempfile",
    "terminal_size",
];

/// Of these, what glommio depends on itself.
const GLOMMIOS: [&str; 1] = ["signal-hook"];

/// The crates that a build of the library takes, as cargo resolves them: those down to this depth.
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
fn the_library_alone_brings_nothing_of_the_program() {
    let direct = crates(&["--no-default-features"], "1");
    assert!(direct.contains("glommio") && direct.contains("io-uring"), "{direct:?}");
    let all = crates(&["--no-default-features"], "99");
    for name in PROGRAM {
        assert!(!direct.contains(name), "{name} among {direct:?}");
        assert!(!all.contains(name) || GLOMMIOS.contains(&name), "{name} among {all:?}");
    }
}

#[test]
fn metrics_bring_their_parser_and_no_command_line() {
    let direct = crates(&["--no-default-features", "--features", "metrics"], "1");
    for name in PROGRAM {
        assert_eq!(direct.contains(name), ["httparse", "prometheus-client", "rustix"].contains(&name), "{name}");
    }
}

#[test]
fn the_program_has_them_all() {
    let direct = crates(&[], "1");
    for name in PROGRAM {
        assert!(direct.contains(name), "{name} is not among {direct:?}");
    }
}
