//! Tests of the library that need more than an ordinary user has. The standard harness cannot skip a test once it runs, and
//! hides the output of a test that passes. So a skipped test says so past the harness, with its reason and its number.

use std::fmt::Debug;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Whether a test may go on, as this user could do what it needs, which was tried. Otherwise the test is skipped, which
/// is said and counted; with C1M_NO_SKIPS=1 it fails.
pub(crate) fn may<T, E: Debug>(what: &str, tried: Result<T, E>) -> bool {
    static SKIPPED: AtomicUsize = AtomicUsize::new(0);
    let Err(error) = tried else { return true };
    let strict = std::env::var_os("C1M_NO_SKIPS").is_some_and(|value| value == "1");
    assert!(!strict, "skipped, and C1M_NO_SKIPS=1 forbids that: {what}: {error:?}");
    let skipped = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let thread = std::thread::current();
    let line = format!("skipped, {skipped} so far: {}: {what}: {error:?}\n", thread.name().unwrap_or("a test"));
    // The harness catches `eprint!`, and not this.
    let _ = std::io::stderr().write_all(line.as_bytes());
    false
}

mod tests {
    use super::may;

    /// Runs a test of this binary alone that lacks something, and returns whether it passed and what it said.
    fn lacking(no_skips: &str) -> (bool, String) {
        let mut this = std::process::Command::new(std::env::current_exe().unwrap());
        this.args(["--exact", &name()]).env("C1M_NO_SKIPS", no_skips);
        let output = this.env("C1M_TEST_LACKS", "1").output().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.success(), said)
    }

    /// The name of the test that lacks something: its path within the crate.
    fn name() -> String {
        let path = concat!(module_path!(), "::lacks_something");
        path.split_once("::").map_or(path, |(_, within)| within).to_owned()
    }

    #[test]
    fn lacks_something() {
        if std::env::var_os("C1M_TEST_LACKS").is_some() {
            assert!(!may("no wings", Err::<(), _>("grounded")));
        }
    }

    #[test]
    fn a_skip_is_said_and_fails_where_it_is_forbidden() {
        let (passed, said) = lacking("0");
        assert!(passed && said.contains(&format!("skipped, 1 so far: {}: no wings", name())), "{said}");
        let (passed, said) = lacking("1");
        assert!(!passed && said.contains("C1M_NO_SKIPS=1 forbids that: no wings"), "{said}");
    }
}
