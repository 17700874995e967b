//! An error names the options that were given, also where commands share what finds it.

use c1m::internal::cli::command;

use crate::support::*;

/// Options of other programs that c1m's texts name.
const FOREIGN: [&str; 7] = ["--cpus", "--help", "--memory", "--pids-limit", "--security-opt", "--ulimit", "--what"];

/// Checks that an error names no option that its command does not have. What another command has stands behind its name
/// in backticks.
pub fn names_own_options(arguments: &[&str], error: &str) {
    let mut own = command();
    for word in arguments {
        match own.find_subcommand(word) {
            Some(found) => own = found.clone(),
            None => break,
        }
    }
    let is_own =
        |word: &str| own.get_arguments().filter_map(|argument| argument.get_long()).any(|long| long == &word[2..]);
    let typed = |word: &str| arguments.iter().any(|argument| argument.starts_with(word));
    let plain = error.split('`').step_by(2);
    let words = plain.flat_map(|text| text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')));
    for word in words.filter(|word| word.len() > 3 && word.starts_with("--") && !word.starts_with("---")) {
        assert!(FOREIGN.contains(&word) || is_own(word) || typed(word), "{word} of {arguments:?}: {error}");
    }
}

/// Checks that each command line is refused with words that have the first text in them and not the second.
fn refused(cases: &[(String, &str, &str)]) {
    for (arguments, given, others) in cases {
        let finished = run(arguments);
        assert!([2, 3].contains(&finished.code()), "{arguments}: {}", finished.err);
        finished.fails_with(finished.code(), &[given]);
        assert!(!finished.err.contains(others), "{arguments}: {}", finished.err);
        assert_eq!(finished.out, "", "{arguments}: nothing has begun");
    }
}

/// There are two ways to say where to connect.
#[test]
fn errors_name_the_target_as_it_was_given() {
    let port = free_ports(1);
    let server = format!("127.0.0.1:{port}");
    refused(&[
        ("client --target 224.0.0.1:80".to_owned(), "--target 224.0.0.1:", "--target-ip"),
        ("client --target-ip 224.0.0.1".to_owned(), "--target-ip 224.0.0.1:", "--target "),
        ("storm churn --target [fe80::1]:80".to_owned(), "--target fe80::1:", "--target-ip"),
        (format!("client --target {server} --source-ip ::1"), "--source-ip and --target of", "--target-ip"),
        (format!("client --target {server} --connections 100000"), "more ports in --target,", "--target-ip"),
        (format!("client --target {server} --connections 100000"), "--connections 100000: ", "--ports"),
        (
            format!("client --target ws://{server} --method GET"),
            "--method with a --target of protocol websocket: ",
            "--protocol",
        ),
        (
            format!("client --target http://{server}/a%20b --subprotocol x"),
            "choose a --target of protocol websocket",
            "--protocol",
        ),
        (format!("client --target mqtt://{server}/a"), "the path of --target with a --target of", "--path"),
        (format!("client --target ws://{server}/\u{fc}"), "the path of --target \"/\u{fc}\": ", "--path"),
        (
            format!("client --target {server} --audit off --protocol send-expect --greeting a --send b --expect c"),
            "--audit state or off, and",
            "--target",
        ),
    ]);
}

/// There are two ways to say how many, and options that only a fan-out has, or a server, or a client.
#[test]
fn errors_name_options_of_their_own_command() {
    let port = free_ports(1);
    let server = format!("127.0.0.1:{port}");
    let text = format!("{}/tests/it/main.rs", env!("CARGO_MANIFEST_DIR"));
    refused(&[
        ("client --target-ip 127.0.0.1 --connections 0".to_owned(), "--connections 0: ", "--subscribers"),
        ("storm churn --target-ip 127.0.0.1 --connections 0".to_owned(), "--connections 0: ", "--subscribers"),
        ("fanout --target-ip 127.0.0.1 --subscribers 0".to_owned(), "--subscribers 0: ", "--connections"),
        ("fanout --target-ip 127.0.0.1 --subscribers 5000000000".to_owned(), "--subscribers 340000", "--connections"),
        (
            format!("fanout --target-ip 127.0.0.1 --port {port} --ports 1 --subscribers 99999"),
            "--subscribers and --publishers, 100000 in all: ",
            "--connections",
        ),
        ("fanout --target-ip 127.0.0.1 --subscribers 5 --publishers 0".to_owned(), "--publishers 0 ", "connections"),
        ("fanout --target-ip 127.0.0.1 --subscribers 5 --rate 1e7".to_owned(), "--rate and --for, ", "--connect-rate"),
        ("fanout --target-ip 127.0.0.1 --subscribers 5 --payload 3".to_owned(), "--payload 3: ", "publications of"),
        ("fanout --target-ip 127.0.0.1 --subscribers 5 --hibernate 9s".to_owned(), "--hibernate: ", "--awake"),
        ("fanout --target-ip 127.0.0.1 --subscribers 5 --hello x".to_owned(), "--hello with ", "choose"),
        ("fanout --target-ip 127.0.0.1 --subscribers 5 --protocol http".to_owned(), "over http", "--connections"),
        (format!("server --tls-cert {text} --tls-key {text}"), "--tls-cert: certificates in ", "--cert:"),
        (
            format!("client --target {server} --tls --insecure --connections 5 --cert {text} --key {text}"),
            "--cert: ",
            "--tls-cert",
        ),
        (format!("client --target {server} --tls --connections 5 --ca {text}"), "--ca: ", "--tls-cert"),
        (
            "client --target-ip 127.0.0.1 --tls --insecure --connections 5 --sni=-x-".to_owned(),
            "--sni: server name ",
            "--target ",
        ),
        (
            "client --target-ip 127.0.0.1 --tls --insecure --connections 5 --handshake-timeout 0s".to_owned(),
            "timeout 0s: ",
            "--target",
        ),
    ]);
}
