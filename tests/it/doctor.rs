//! The doctor: one page with every wall, however much a host shows of itself, and verdicts that follow the
//! settings.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use c1m::internal::walls::{SLEEP, WALLS};
use serde_json::Value;
use tempfile::TempDir;

use crate::firewall::track;
use crate::support::*;

/// The doctor's page and exit code.
pub struct Page {
    code: i32,
    document: Value,
}

/// Runs the doctor with the words of `arguments`, and checks that its page has a row for every wall.
fn doctor(arguments: &str) -> Page {
    doctor_as(c1m(), arguments)
}

/// Runs the doctor by a prepared command.
pub fn doctor_as(command: Command, arguments: &str) -> Page {
    let finished = run_as(command, &format!("doctor {arguments} --json"));
    assert!(matches!(finished.code(), 0 | 1), "{}{}", finished.out, finished.err);
    let document = serde_json::from_str(&finished.out).unwrap_or_else(|e| panic!("{e}: {}", finished.out));
    let page = Page { code: finished.code(), document };
    let rows = page.document["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["wall"].as_str().unwrap()).collect();
    let sleep = arguments.contains("--hibernate").then_some(SLEEP.name);
    assert_eq!(names, WALLS.iter().map(|wall| wall.name).chain(sleep).collect::<Vec<_>>());
    for row in rows {
        has_names(row, &["wall", "verdict", "have", "need", "holds", "fixes"]);
        assert!(!row["have"].as_str().unwrap().is_empty(), "{row}");
        assert!(["ok", "tight", "blocks", "unknown"].contains(&row["verdict"].as_str().unwrap()), "{row}");
    }
    let blocked = rows.iter().any(|row| row["verdict"] == "blocks");
    assert_eq!((page.code == 1, page.document["fits"] == false), (blocked, blocked), "{}", page.document);
    page
}

impl Page {
    fn row(&self, wall: &str) -> &Value {
        let rows = self.document["rows"].as_array().unwrap();
        rows.iter().find(|row| row["wall"] == wall).unwrap_or_else(|| panic!("no row {wall}"))
    }

    /// A field of a wall's row: verdict, have or need.
    pub fn says(&self, wall: &str, field: &str) -> &str {
        self.row(wall)[field].as_str().unwrap()
    }

    /// The number of connections that a wall permits.
    pub fn holds(&self, wall: &str) -> u64 {
        number(self.row(wall), "holds")
    }

    /// The commands that move a wall, and whether this process may run them.
    pub fn fixes(&self, wall: &str) -> Vec<(&str, bool)> {
        let fixes = self.row(wall)["fixes"].as_array().unwrap();
        fixes.iter().map(|fix| (fix["command"].as_str().unwrap(), fix["may_apply"] == true)).collect()
    }

    /// The walls that could not be read.
    fn unread(&self) -> BTreeSet<&str> {
        let unread: BTreeSet<_> =
            self.document["unread"].as_array().unwrap().iter().map(|wall| wall.as_str().unwrap()).collect();
        let unknown = WALLS.iter().map(|wall| wall.name).filter(|wall| self.says(wall, "verdict") == "unknown");
        assert_eq!(unread, unknown.collect());
        unread
    }
}

/// Writes a sysctl of the calling thread's network, such as `net/core/somaxconn`.
pub fn set(sysctl: &str, value: &str) {
    let path = Path::new("/proc/sys").join(sysctl);
    fs::write(&path, value).unwrap_or_else(|e| panic!("{sysctl} = {value}: {e}"));
}

/// Applies a fix, which must be a sysctl.
fn apply(command: &str) {
    let (name, value) = command.strip_prefix("sysctl -w ").and_then(|rest| rest.split_once('=')).unwrap();
    set(&name.replace('.', "/"), value.trim_matches('"'));
}

// ---- the page and its exit code -----------------------------------------------------------------

#[test]
fn the_exit_code_says_whether_the_goal_fits() {
    let small = doctor("--connections 1000");
    assert_eq!((small.code, &small.document["fits"]), (0, &Value::Bool(true)), "{}", small.document);
    let holds = number(&small.document, "holds");
    assert!(holds >= 1_000, "{}", small.document);
    // No host has memory for that many connections.
    let all = doctor("--connections 4294967295");
    assert_eq!((all.code, all.says("memory", "verdict")), (1, "blocks"), "{}", all.document);
    assert!(all.says("memory", "have").contains(" left of "), "{}", all.document);
    for arguments in ["--connections 0", "--connections 4294967296", "--port 0", "--ports 0", "--cores 1025"] {
        run(&format!("doctor {arguments}")).fails_with(2, &[arguments]);
    }
    for arguments in ["--role middle", "--connections many", "--target-ip here", "--wall"] {
        let finished = run(&format!("doctor {arguments}"));
        assert_eq!((finished.code(), finished.out.as_str()), (2, ""), "{arguments}: {}", finished.err);
    }
}

#[test]
fn the_text_has_every_wall_and_ends_with_one_sentence() {
    for role in ["server", "client", "both"] {
        let finished = run(&format!("doctor --role {role} --connections 1000"));
        assert_eq!((finished.code(), finished.err.as_str()), (0, ""), "{}", finished.out);
        for wall in WALLS {
            let rows = finished.out.lines().filter(|line| line.starts_with(&format!("{:<16}", wall.name)));
            assert_eq!(rows.count(), 1, "{}: {}", wall.name, finished.out);
        }
        let last = finished.out.lines().last().unwrap();
        assert!(last.starts_with("this host can hold ") && last.contains("; the wall that decides: "), "{last}");
    }
}

/// A blocking wall is shown with the command that removes it.
#[test(Network)]
fn the_text_of_a_wall_that_blocks_says_what_to_type() {
    in_own_network(|| {
        set("net/ipv4/ip_local_port_range", "40000 40099");
        let finished = run("doctor --role client --connections 1000 --ports 2");
        assert_eq!(finished.code(), 1, "{}", finished.out);
        let mut lines = finished.out.lines().skip_while(|line| !line.starts_with("source ports    BLOCKS"));
        assert!(
            lines.next().is_some_and(|line| line.contains("100 (40000-40099) x 2 routes = 200")),
            "{}",
            finished.out
        );
        let fix = lines.find(|line| line.contains("fix   ")).unwrap();
        assert!(fix.contains("sysctl -w net.ipv4.ip_local_port_range=\""), "{fix}");
        assert!(fix.ends_with("(this process may)"), "{fix}");
        assert!(
            finished
                .out
                .contains("\nthis host can hold 200 connections as client; the wall that decides: source ports")
        );
    });
}

// ---- verdicts follow the settings ---------------------------------------------------------------

#[test(Network)]
fn source_ports_are_counted_for_each_route() {
    in_own_network(|| {
        set("net/ipv4/ip_local_port_range", "40000 40099");
        let client = |arguments: &str| doctor(&format!("--role client --port 9000 {arguments}"));
        for (arguments, room) in [
            ("--ports 1", 100),
            ("--ports 10", 1_000),
            ("--ports 10 --target-ip 10.0.0.1,10.0.0.2", 2_000),
            ("--ports 10 --source-ip 10.1.0.1,10.1.0.2,10.1.0.3,10.1.0.4", 4_000),
        ] {
            let more = client(&format!("{arguments} --connections {}", room + 1));
            assert_eq!((more.code, more.says("source ports", "verdict")), (1, "blocks"), "{arguments}");
            assert_eq!((more.holds("source ports"), number(&more.document, "holds")), (room, room), "{arguments}");
            assert_eq!(more.document["decides"], "source ports");
            let full = client(&format!("{arguments} --connections {room}"));
            assert_eq!((full.code, full.says("source ports", "verdict")), (0, "tight"), "{arguments}");
            let half = client(&format!("{arguments} --connections {}", room / 2));
            assert_eq!(half.says("source ports", "verdict"), "ok", "{arguments}");
        }
        set("net/ipv4/ip_local_reserved_ports", "40000-40009,50000");
        assert_eq!(client("--ports 10 --connections 1000").holds("source ports"), 900);
        let served = doctor("--role server --connections 1000000 --ports 1");
        assert_eq!(
            (served.says("source ports", "verdict"), &served.row("source ports")["holds"]),
            ("ok", &Value::Null)
        );
    });
}

#[test(Network)]
fn a_setting_that_is_too_small_is_tight_until_its_fix_is_applied() {
    const GOAL: &str = "--role server --connections 100000 --ports 10";
    in_own_network(|| {
        for (wall, sysctl, small) in [
            ("accept queue", "net/core/somaxconn", "16"),
            ("socket buffers", "net/ipv4/tcp_rmem", "4096 4096 6291456"),
            ("socket buffers", "net/ipv4/tcp_wmem", "4096 4096 4194304"),
            ("SYN queue", "net/ipv4/tcp_max_syn_backlog", "16"),
            ("served ports", "net/ipv4/ip_local_port_range", "1024 65535"),
        ] {
            // With SYN cookies the length of the SYN queue does not matter.
            set("net/ipv4/tcp_syncookies", if wall == "SYN queue" { "0" } else { "1" });
            set(sysctl, small);
            let page = doctor(GOAL);
            assert_eq!(page.says(wall, "verdict"), "tight", "{}", page.row(wall));
            let [(fix, may)] = page.fixes(wall)[..] else { panic!("not one fix: {}", page.row(wall)) };
            assert!(may, "{fix}");
            apply(fix);
            let page = doctor(GOAL);
            assert_eq!((page.says(wall, "verdict"), page.fixes(wall)), ("ok", vec![]), "{}", page.row(wall));
        }
    });
}

/// Connections that a limit holds to the last one are tight; they are not once the limit is raised as the fix says.
fn check_tight_until_raised(wall: &str, limit: u64, unit: &str, page: impl Fn(u64, u64) -> Page) {
    let holds = page(limit, 1).holds(wall);
    let tight = page(limit, holds);
    assert_eq!(tight.says(wall, "verdict"), "tight", "{}", tight.row(wall));
    let [(fix, _)] = tight.fixes(wall)[..] else { panic!("not one fix: {}", tight.row(wall)) };
    let raised = fix.strip_prefix(unit).and_then(|rest| rest.split(' ').next()?.parse().ok());
    let roomy = page(raised.unwrap_or_else(|| panic!("{fix}")), holds);
    assert_eq!((roomy.says(wall, "verdict"), roomy.fixes(wall)), ("ok", vec![]), "{fix}: {}", roomy.row(wall));
}

#[test]
fn descriptors_that_are_tight_are_roomy_after_the_fix() {
    check_tight_until_raised("descriptors", 120, "ulimit -Hn ", |limit, connections| {
        let goal = format!("--role client --cores 1 --connections {connections}");
        doctor_as(c1m_after(&format!("ulimit -n {limit}")), &goal)
    });
}

#[test(Users)]
fn locked_memory_that_is_tight_is_roomy_after_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    let page = |kib: u64, connections: u64| {
        let limits = [(libc::RLIMIT_MEMLOCK, kib << 10), (libc::RLIMIT_NOFILE, 200)];
        doctor_as(c1m_limited(&dir, &limits), &format!("--role client --cores 1 --connections {connections}"))
    };
    // Kernels before 6.14 charge nothing for rings.
    if !page(1_024, 1).says("locked memory", "have").contains("charges nothing") {
        check_tight_until_raised("locked memory", 1_024, "ulimit -Hl ", page);
    }
}

/// A module that is merely loaded drops nothing. One rule that looks at a connection's state makes the module track
/// all connections.
#[test(Network, Tracking)]
fn connection_tracking_counts_when_a_rule_makes_it_active() {
    in_own_network(|| {
        let idle = doctor("--connections 1000");
        let have = idle.says("conntrack", "have");
        assert!(have == "loaded, tracks nothing here" || have == "not loaded", "{have}");
        assert_eq!(idle.says("conntrack", "verdict"), "ok");
        track();
        let active = doctor("--connections 1000");
        assert!(active.says("conntrack", "have").starts_with("active, "), "{}", active.row("conntrack"));
        let goal = active.holds("conntrack") + 1;
        let blocked = doctor(&format!("--connections {}", goal + 1_000));
        assert_eq!(blocked.says("conntrack", "verdict"), "blocks", "{}", blocked.row("conntrack"));
        let fixes = blocked.fixes("conntrack");
        assert!(fixes.iter().any(|(fix, _)| fix.starts_with("sysctl -w net.netfilter.nf_conntrack_max=")), "{fixes:?}");
    });
}

// ---- limits of this process's privilege ---------------------------------------------------------

#[test(Network)]
fn without_privilege_readable_walls_are_read_and_no_fix_may_be_applied() {
    in_own_network(|| {
        set("net/core/somaxconn", "16");
        let dir = tempfile::tempdir().unwrap();
        let [root, user] = [c1m(), c1m_unprivileged(&dir)].map(|command| doctor_as(command, "--connections 1000000"));
        let may = |page: &Page| page.fixes("accept queue").iter().map(|(_, may)| *may).collect::<Vec<_>>();
        assert_eq!((may(&root), may(&user)), (vec![true], vec![false]));
        assert_eq!(user.unread(), root.unread());
        // These walls differ with privilege, or from one moment to the next.
        let moving =
            ["open files", "locked memory", "threads", "memory", "cgroup memory", "packet backlog", "TCP memory"];
        for wall in WALLS.iter().map(|wall| wall.name).filter(|wall| !moving.contains(wall)) {
            let texts = |page: &Page| ["verdict", "have", "need"].map(|field| page.says(wall, field).to_owned());
            assert_eq!(texts(&user), texts(&root));
        }
        // Only root may read the packing of the kernel's caches.
        assert!(root.says("memory", "need").contains("this kernel's slab caches"), "{}", root.row("memory"));
        assert!(user.says("memory", "need").contains("sizes measured with kernel"), "{}", user.row("memory"));
        assert!(root.says("open files", "have").contains("CAP_SYS_ADMIN"), "{}", root.row("open files"));
        assert!(!user.says("open files", "have").contains("CAP_SYS_ADMIN"), "{}", user.row("open files"));
    });
}

/// Mounts a file that only root may read over each of `files`, in the calling thread's mount namespace.
fn hide(dir: &TempDir, files: &[&str]) {
    use std::os::unix::fs::PermissionsExt;
    let secret = dir.path().join("secret");
    fs::write(&secret, "1\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    for file in files.iter().filter(|file| Path::new(file).exists()) {
        mount(secret.to_str().unwrap(), file, "", libc::MS_BIND, "");
    }
}

#[test(Network, Mounts)]
fn a_wall_that_may_not_be_read_is_unknown_and_never_ok() {
    const FILES: [&str; 13] = [
        "/proc/meminfo",
        "/proc/sys/fs/file-nr",
        "/proc/sys/net/core/netdev_max_backlog",
        "/proc/sys/net/core/somaxconn",
        "/proc/sys/net/ipv4/ip_local_port_range",
        "/proc/sys/net/ipv4/neigh/default/gc_thresh3",
        "/proc/sys/net/ipv4/tcp_ehash_entries",
        "/proc/sys/net/ipv4/tcp_max_orphans",
        "/proc/sys/net/ipv4/tcp_max_syn_backlog",
        "/proc/sys/net/ipv4/tcp_mem",
        "/proc/sys/net/ipv4/tcp_rmem",
        "/proc/sys/net/ipv4/tcp_syncookies",
        "/proc/sys/net/netfilter/nf_conntrack_count",
    ];
    let ends = [
        "open files",
        "conntrack",
        "TCP memory",
        "socket buffers",
        "memory",
        "packet backlog",
        "lookup",
        "neighbours",
        "NIC queues",
    ];
    let server = ["served ports", "orphans", "accept queue", "SYN queue"];
    let client = ["source ports", "TIME_WAIT"];
    in_own_host(|| {
        let dir = tempfile::tempdir().unwrap();
        c1m_unprivileged(&dir);
        hide(&dir, &FILES);
        mount("none", "/sys/class/net", "tmpfs", 0, "mode=700");
        for (role, own) in [("server", &server[..]), ("client", &client[..])] {
            let user = c1m_unprivileged(&dir);
            let page = doctor_as(user, &format!("--role {role} --connections 1000"));
            assert_eq!(page.unread(), ends.iter().chain(own).copied().collect(), "{role}: {}", page.document);
            assert_eq!(page.code, 0, "an unknown wall blocks nothing: {}", page.document);
        }
    });
}

/// Runs `body` in a network and a mount namespace of its own.
fn in_own_host(body: impl FnOnce() + Send) {
    in_own_network(|| in_own_mounts(body));
}

// ---- hosts that show little ---------------------------------------------------------------------

/// Checks that a container in which an empty folder lies over `place` gets a whole page, with at least `walls`
/// unread walls.
fn check_whole_page_without(place: &str, walls: usize) {
    in_own_host(|| {
        mount("none", place, "tmpfs", 0, "");
        let page = doctor("--connections 1000");
        assert_eq!(page.code, 0, "{place}: {}", page.document);
        assert!(page.unread().len() >= walls, "{place}: {}", page.document);
        assert!(page.holds("descriptors") >= 1_000, "limits are no files: {}", page.document);
    });
}

#[test(Network, Mounts)]
fn a_container_without_sysctls_gets_a_whole_page() {
    check_whole_page_without("/proc/sys", 11);
}

#[test(Network, Mounts, Tracking)]
fn a_container_without_sysctls_of_connection_tracking_gets_a_whole_page() {
    check_whole_page_without("/proc/sys/net/netfilter", 0);
}

#[test(Network, Mounts)]
fn a_container_without_proc_gets_a_whole_page() {
    check_whole_page_without("/proc", 13);
}

#[test(Network, Mounts, Hibernation)]
fn root_is_not_told_that_it_lacks_rights_where_there_is_no_proc() {
    in_own_host(|| {
        mount("none", "/proc", "tmpfs", 0, "");
        let page = doctor("--connections 1000 --hibernate 30s");
        assert_eq!(page.says(SLEEP.name, "verdict"), "ok", "{}", page.row(SLEEP.name));
    });
}
