//! Skipped tests: counted, listed with the reason, and a failure where skipping is forbidden.

use std::process::Output;

use crate::support::{NOBODY, unprivileged};

/// Runs the tests of `filter`, which need a right, as a user who has none.
fn filter_tests(no_skips: &str) -> (Output, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut tests = unprivileged(&std::env::current_exe().unwrap(), &dir, NOBODY);
    tests.env("C1M_NO_SKIPS", no_skips).env_remove("RUST_TEST_THREADS").arg("filter::").current_dir("/");
    let output = tests.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

/// How many tests there were.
fn tests_of(text: &str) -> usize {
    let line = text.lines().find_map(|line| line.strip_prefix("running ")).unwrap_or_else(|| panic!("{text}"));
    let all = line.split_whitespace().next().unwrap().parse().unwrap();
    assert!(all > 0, "{text}");
    all
}

#[test]
fn a_test_that_lacks_a_right_is_counted_and_listed_with_the_reason() {
    let (output, text) = filter_tests("0");
    assert!(output.status.success(), "{text}");
    let all = tests_of(&text);
    assert!(text.contains(&format!("test result: ok. 0 passed; 0 failed; {all} ignored; ")), "{text}");
    let heading = format!("skipped: {all} tests");
    let (_, list) = text.split_once(&heading).unwrap_or_else(|| panic!("no list: {text}"));
    let listed = list.lines().filter(|line| line.starts_with("skipped: filter::")).collect::<Vec<_>>();
    assert_eq!(listed.len(), all, "{text}");
    assert!(listed.iter().all(|line| line.contains("no filter of sockets (") && line.contains("os error")), "{text}");
}

#[test]
fn where_skipping_is_forbidden_it_is_a_failure() {
    let (output, text) = filter_tests("1");
    assert_eq!(output.status.code(), Some(101), "{text}");
    assert!(text.contains(&format!("0 passed; {} failed; 0 ignored; ", tests_of(&text))), "{text}");
    assert!(text.contains("skipped, and C1M_NO_SKIPS=1 forbids that: no filter of sockets ("), "{text}");
}
