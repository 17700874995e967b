//! Skipped tests are counted and listed with the reason, and are failures where skipping is forbidden.

use std::process::Output;

use crate::support::{NOBODY, unprivileged};

/// Runs the tests of `filter`, which all need a privilege, as a user without any. Also returns their number.
fn filter_tests(no_skips: &str) -> (Output, String, usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut tests = unprivileged(&std::env::current_exe().unwrap(), &dir, NOBODY);
    tests.env("C1M_NO_SKIPS", no_skips).env_remove("RUST_TEST_THREADS").arg("filter::").current_dir("/");
    let output = tests.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.split_once("running ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    let number = number.filter(|number| *number > 0).unwrap_or_else(|| panic!("no tests: {text}"));
    (output, text, number)
}

#[test]
fn a_test_that_lacks_a_right_is_counted_and_listed_with_the_reason() {
    let (output, text, number) = filter_tests("0");
    assert!(output.status.success(), "{text}");
    assert!(text.contains(&format!("test result: ok. 0 passed; 0 failed; {number} ignored; ")), "{text}");
    let (_, list) = text.split_once(&format!("skipped: {number} tests")).unwrap_or_else(|| panic!("no list: {text}"));
    let listed = list.lines().filter(|line| line.starts_with("skipped: filter::")).collect::<Vec<_>>();
    assert_eq!(listed.len(), number, "{text}");
    assert!(listed.iter().all(|line| line.contains("no filter of sockets (") && line.contains("os error")), "{text}");
}

#[test]
fn a_skip_is_a_failure_where_skipping_is_forbidden() {
    let (output, text, number) = filter_tests("1");
    assert_eq!(output.status.code(), Some(101), "{text}");
    assert!(text.contains(&format!("0 passed; {number} failed; 0 ignored; ")), "{text}");
    assert!(text.contains("skipped, and C1M_NO_SKIPS=1 forbids that: no filter of sockets ("), "{text}");
}
