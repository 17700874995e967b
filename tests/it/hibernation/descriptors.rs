//! Before Linux 6.8 a file descriptor is kept of each connection that is awake. No more are awake than there are descriptors
//! for.

use super::*;

/// Runs `body` where /proc tells of a kernel before 6.8, on which c1m keeps descriptors.
fn on_an_old_kernel<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    let release = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(release.path(), "6.1.0\n").unwrap();
    in_own_mounts(|| {
        mount(release.path().to_str().unwrap(), "/proc/sys/kernel/osrelease", "", libc::MS_BIND, "");
        body()
    })
}

#[test(Network, Mounts, Hibernation)]
fn no_more_are_awake_than_there_are_descriptors() {
    let finished = in_own_network(|| {
        on_an_old_kernel(|| {
            let words = format!("demo --connections 3000 --cores 1 --hibernate 100ms {}", at(free_ports(4), 4));
            run_as(c1m_after("ulimit -n 1000"), &format!("{words} --hold 1s --json -"))
        })
    });
    assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
    assert!(!finished.err.contains("accepting pauses"), "{}", finished.err);
    let document: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!(["live", "failed"].map(|name| number(&document["client"], name)), [3_000, 0], "{document}");
    assert_eq!(number(&document["server"], "peak_live"), 3_000, "{document}");
}

/// Nobody is refused what fits: without `--awake` fewer are awake, and with it the line names the limit.
#[test(Mounts, Hibernation)]
fn more_awake_than_descriptors_are_refused() {
    let (planned, asked, server) = on_an_old_kernel(|| {
        let descriptors = |more: &str| {
            let words = format!("doctor --role server --connections 1000000 --hibernate auto {more} --json");
            let finished = run_as(c1m_after("ulimit -n 20000"), &words);
            let page: Value = serde_json::from_str(&finished.out).unwrap();
            page["rows"].as_array().unwrap().iter().find(|row| row["wall"] == "descriptors").unwrap().clone()
        };
        let server = server_arguments(free_ports(1), 1, "--hibernate 1s --awake 100000");
        (descriptors(""), descriptors("--awake 262144"), run_as(c1m_after("ulimit -n 2000"), &server))
    });
    assert_eq!(planned["verdict"], "ok", "{planned}");
    assert_eq!(asked["verdict"], "blocks", "{asked}");
    assert!((15_000..20_000).contains(&number(&asked, "holds")), "{asked}");
    server.fails_with(3, &["file descriptor limit 2000", "connections awake", "lower --awake"]);
}
