//! Hosts made of files below a directory: without any file, with control groups of each kind, with nonsense in
//! files, and tuned.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use c1m::error::Errno;
use c1m::internal::doctor::examine;
use c1m::internal::failure::{Cause, Causes};
use c1m::internal::host::{Host, SourcePorts};
use c1m::internal::plan::{Goal, Layers, Ports, Role, Routes};
use c1m::internal::render::doctor::text;
use c1m::internal::walls::{self, EvidenceRecorder, Fix, Setting, Verdict, WALLS, Wall};
use proptest::prelude::*;
use tempfile::TempDir;

fn goal(role: Role, connections: u64, ports: u16) -> Goal {
    let routes =
        Routes { targets: vec![Ipv4Addr::LOCALHOST.into()], ports: Ports::new(8_888, ports).unwrap(), sources: vec![] };
    let (awake, cores) = (None, vec![0, 1]);
    Goal { role, connections, awake, keeps_descriptors: false, routes, cores, layers: Layers::default() }
}

const ROLES: [Role; 3] = [Role::Server, Role::Client, Role::Both];

/// A host with these files: each path with its text, or with `None` for a file that cannot be read.
fn host(files: &[(&str, Option<&str>)]) -> (TempDir, Host) {
    // The hundreds of small files go to memory rather than to a disk.
    let memory = Path::new("/dev/shm");
    let dir = if memory.exists() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match text {
            Some(text) => fs::write(path, text).unwrap(),
            // Reading a directory fails for root too.
            None => fs::create_dir(path).unwrap(),
        }
    }
    let host = Host::below(dir.path());
    (dir, host)
}

fn wall(name: &str) -> &'static Wall {
    WALLS.iter().find(|known| known.name == name).unwrap()
}

/// The verdict and the text of a wall.
fn judged(host: &Host, name: &str) -> (Verdict, String) {
    let finding = wall(name).judge(host, &goal(Role::Both, 1_000, 100));
    (finding.verdict, finding.have)
}

#[test]
fn a_host_without_files_gets_a_whole_page() {
    let (_dir, host) = host(&[]);
    for role in ROLES {
        let page = examine(&host, &goal(role, 1_000_000, 100));
        assert_eq!(page.rows().len(), WALLS.len());
        let text = text(&page);
        assert!(WALLS.iter().all(|wall| text.contains(&format!("\n{:<16}", wall.name))), "{text}");
        // Limits of this process and its kernel come from system calls, not from files. Some walls do not concern a
        // role.
        for row in page.rows().iter().filter(|row| row.verdict != Verdict::Unknown) {
            let asked = ["descriptors", "io_uring", "locked memory", "address space"].contains(&row.wall);
            assert!(asked || row.need == "nothing in this role", "{role:?} {row:?}");
        }
    }
}

const V1: &str = "35 32 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n36 32 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
const V2: &str = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

#[test]
fn control_groups_of_either_kind_limit_memory_and_cores() {
    for (groups, mounts, limits) in [
        (
            "4:memory:/a\n5:cpu:/a\n",
            V1,
            [
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1000000"),
                ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "900000"),
                ("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "50000"),
                ("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000"),
            ],
        ),
        (
            "0::/a\n",
            V2,
            [
                ("sys/fs/cgroup/a/memory.max", "1000000"),
                ("sys/fs/cgroup/a/memory.current", "900000"),
                ("sys/fs/cgroup/a/cpu.max", "50000 100000"),
                ("sys/fs/cgroup/cpu.max", "max 100000"),
            ],
        ),
    ] {
        let own = [("proc/self/cgroup", Some(groups)), ("proc/self/mountinfo", Some(mounts))];
        let (_dir, free) = host(&own);
        assert_eq!(judged(&free, "cgroup memory"), (Verdict::Ok, "no limit".to_owned()), "{groups}");
        let (verdict, have) = judged(&free, "cores");
        assert!(verdict == Verdict::Ok && have.ends_with("no quota"), "{have}");
        let limits = limits.map(|(path, text)| (path, Some(text)));
        let (_dir, bound) = host(&[&own[..], &limits].concat());
        let (verdict, have) = judged(&bound, "cgroup memory");
        assert!(verdict == Verdict::Blocks && have.contains("97.7 KiB left of 976.6 KiB"), "{have}");
        let (verdict, have) = judged(&bound, "cores");
        assert!(verdict == Verdict::Tight && have.ends_with("a quota of 0.5 cores"), "{have}");
    }
}

/// Since Linux 6.12 /proc/cgroups leaves out the memory controller where the kernel has no code for its v1. A container's
/// limit counts what connections take all the same.
#[test]
fn a_limit_counts_connections_where_no_table_names_its_controller() {
    let (_dir, host) = host(&[
        ("proc/cgroups", Some("#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t90\t1\n")),
        ("proc/sys/kernel/osrelease", Some("6.18.1\n")),
        ("proc/self/cgroup", Some("0::/\n")),
        ("proc/self/mountinfo", Some(V2)),
        ("sys/fs/cgroup/memory.max", Some("1073741824\n")),
        ("sys/fs/cgroup/memory.current", Some("20000000\n")),
    ]);
    let finding = wall("cgroup memory").judge(&host, &goal(Role::Both, 1_000_000, 100));
    let (_, each) = finding.need.split_once(": ").unwrap();
    let each: u64 = each.split(' ').next().unwrap().parse().unwrap();
    assert!(each > 1_000, "{}", finding.need);
    assert_eq!(finding.verdict, Verdict::Blocks, "{finding:?}");
}

/// The processor time of a cgroup that is used up is why latencies are long, and nothing else tells of it.
#[test]
fn pauses_for_a_processor_quota_are_a_wall_that_a_run_met() {
    for (groups, mounts, file, before, after) in [
        (
            "5:cpu:/a\n",
            V1,
            "sys/fs/cgroup/cpu/a/cpu.stat",
            "nr_periods 9\nnr_throttled 5\nthrottled_time 900000000\n",
            "nr_periods 90\nnr_throttled 30\nthrottled_time 3400000000\n",
        ),
        (
            "0::/a\n",
            V2,
            "sys/fs/cgroup/a/cpu.stat",
            "usage_usec 9\nnr_periods 9\nnr_throttled 5\nthrottled_usec 900000\n",
            "usage_usec 9\nnr_periods 90\nnr_throttled 30\nthrottled_usec 3400000\n",
        ),
    ] {
        let own = [("proc/self/cgroup", Some(groups)), ("proc/self/mountinfo", Some(mounts)), (file, Some(before))];
        let (dir, host) = host(&own);
        let mut watch = EvidenceRecorder::begin(&host);
        assert!(walls::explain(&watch.evidence(Causes::new())).is_empty(), "what was before the run");
        fs::write(dir.path().join(file), after).unwrap();
        let met = walls::explain(&watch.evidence(Causes::new()));
        let [wall] = &met[..] else { panic!("{met:?}") };
        assert_eq!(wall.wall, "cores");
        assert!(wall.saw.contains("25 times") && wall.saw.contains("2.5 s in all"), "{wall}");
    }
}

/// A wider range has no use where every port of it is reserved, nor have more addresses to connect from.
#[test]
fn ports_that_are_all_reserved_are_not_to_be_had_from_a_wider_range() {
    for (range, reserved, widens) in [
        ("32768\t60999\n", "1024-65535\n", false),
        ("1024\t65535\n", "1024-65535\n", false),
        ("32768\t60999\n", "32768-60999\n", true),
    ] {
        let (_dir, host) = host(&[
            ("proc/sys/net/ipv4/ip_local_port_range", Some(range)),
            ("proc/sys/net/ipv4/ip_local_reserved_ports", Some(reserved)),
        ]);
        let finding = wall("source ports").judge(&host, &goal(Role::Client, 200, 2));
        assert_eq!((finding.verdict, finding.holds), (Verdict::Blocks, Some(0)));
        let fixes: Vec<String> = finding.fixes.iter().map(|fix| fix.command()).collect();
        let has = |words: &str| fixes.iter().any(|fix| fix.contains(words));
        assert_eq!(has("ip_local_port_range="), widens, "{fixes:?}");
        assert_eq!(has("take ports out of net.ipv4.ip_local_reserved_ports"), !widens, "{fixes:?}");
        assert!(!has("--source-ip"), "{fixes:?}");
    }
}

/// With less than a tenth of the source ports to spare the wall is tight. A wider range mends that, or more addresses where
/// there is no wider one.
#[test]
fn source_ports_that_are_tight_are_roomy_after_the_fix() {
    for (range, connections, fix) in [
        ("40000\t40099\n", 91, "sysctl -w net.ipv4.ip_local_port_range="),
        ("40000\t40099\n", 95, "sysctl -w net.ipv4.ip_local_port_range="),
        ("1024\t65535\n", 60_000, "connect from 2 addresses (--source-ip)"),
        ("1024\t65535\n", 64_511, "connect from 2 addresses (--source-ip)"),
        ("40000\t40099\n", 60_000, "connect from 2 addresses (--source-ip)"),
    ] {
        let (_dir, host) = host(&[("proc/sys/net/ipv4/ip_local_port_range", Some(range))]);
        let mut goal = goal(Role::Client, connections, 1);
        let before = wall("source ports").judge(&host, &goal);
        assert!(matches!(before.verdict, Verdict::Tight | Verdict::Blocks), "{range}: {before:?}");
        let advice = before.fixes.last().map(|fix| fix.command()).unwrap_or_default();
        assert!(advice.starts_with(fix), "{range}: {before:?}");
        if !advice.starts_with("sysctl") {
            goal.routes.sources = ["127.0.0.1", "127.0.0.2"].map(|address| address.parse().unwrap()).to_vec();
        }
        for setting in walls::settings(&host, &goal) {
            host.write_sysctl(setting.name, &setting.then).unwrap();
        }
        let after = wall("source ports").judge(&host, &goal);
        assert_eq!((after.verdict, after.fixes), (Verdict::Ok, vec![]), "{range}");
    }
}

/// Served ports are reserved only where that leaves source ports to the other programs of the host.
#[test]
fn not_all_source_ports_are_reserved() {
    for (range, first, count, reserves) in [
        ("32768\t60999\n", 8_888, 100, false),
        ("32768\t60999\n", 40_000, 100, true),
        ("32768\t60999\n", 32_768, 28_232, false),
        ("32768\t60999\n", 32_768, 27_208, true),
        ("32768\t60999\n", 32_768, 27_209, false),
        ("40000\t40009\n", 40_000, 5, true),
        ("40000\t40009\n", 40_000, 6, false),
        ("1024\t65535\n", 1, 65_535, false),
    ] {
        let (_dir, host) = host(&[
            ("proc/sys/net/ipv4/ip_local_port_range", Some(range)),
            ("proc/sys/net/ipv4/ip_local_reserved_ports", Some("\n")),
        ]);
        let mut goal = goal(Role::Server, 200, 2);
        goal.routes.ports = Ports::new(first, count).unwrap();
        let settings = walls::settings(&host, &goal);
        let reserved = settings.iter().any(|setting| setting.name == "net.ipv4.ip_local_reserved_ports");
        assert_eq!(reserved, reserves, "{range} {first} {count}");
        let finding = wall("served ports").judge(&host, &goal);
        let advised = finding.fixes.iter().any(|fix| fix.command().contains("serve fewer --ports"));
        assert_eq!(advised, finding.verdict == Verdict::Tight && !reserves, "{range} {first} {count}");
    }
}

#[test]
fn hidden_control_groups_are_unknown_and_missing_ones_are_no_limit() {
    for (files, verdict) in [
        (&[("proc/self/cgroup", Some("0::/a\n"))][..], Verdict::Unknown),
        (&[("proc/self/cgroup", None), ("proc/self/status", Some(""))], Verdict::Unknown),
        (&[("proc/self/status", Some(""))], Verdict::Ok),
    ] {
        let (_dir, host) = host(files);
        assert_eq!(["cgroup memory", "cores"].map(|wall| judged(&host, wall).0), [verdict; 2], "{files:?}");
    }
}

/// Every file that matters for a wall, with a text as a kernel writes it.
const FILES: [(&str, &str); 28] = [
    ("proc/sys/fs/file-nr", "12000\t0\t1600000\n"),
    ("proc/sys/fs/file-max", "1600000\n"),
    ("proc/sys/fs/nr_open", "1048576\n"),
    ("proc/sys/kernel/io_uring_disabled", "0\n"),
    ("proc/sys/kernel/osrelease", "6.18.1\n"),
    ("proc/sys/net/core/netdev_max_backlog", "1000\n"),
    ("proc/sys/net/core/somaxconn", "128\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("proc/sys/net/ipv4/ip_local_reserved_ports", "80,40000-40099\n"),
    ("proc/sys/net/ipv4/neigh/default/gc_thresh3", "1024\n"),
    ("proc/sys/net/ipv4/tcp_ehash_entries", "-262144\n"),
    ("proc/sys/net/ipv4/tcp_max_orphans", "8192\n"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "512\n"),
    ("proc/sys/net/ipv4/tcp_mem", "1000\t2000\t3000\n"),
    ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"),
    ("proc/sys/net/ipv4/tcp_syncookies", "0\n"),
    ("proc/sys/net/ipv4/tcp_tw_reuse", "2\n"),
    ("proc/sys/net/ipv4/tcp_wmem", "1024\t1024\t1024\n"),
    ("proc/sys/net/netfilter/nf_conntrack_buckets", "1024\n"),
    ("proc/sys/net/netfilter/nf_conntrack_count", "77\n"),
    ("proc/sys/net/netfilter/nf_conntrack_max", "4096\n"),
    ("proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established", "600\n"),
    ("proc/net/netstat", "TcpExt: ListenOverflows ListenDrops\nTcpExt: 17 18\n"),
    ("proc/net/softnet_stat", "0000 0000000a 0\n0000 00000001 0\n"),
    ("proc/net/sockstat", "sockets: used 9\nTCP: inuse 5 orphan 1 tw 7 alloc 6 mem 3\n"),
    ("proc/net/stat/nf_conntrack", "entries  drop early_drop\n00000001 0000000a 0\n00000001 00000001 2\n"),
    ("proc/meminfo", "MemTotal: 24000000 kB\nMemFree: 20000000 kB\nMemAvailable: 21000000 kB\n"),
    ("proc/self/status", "CapEff:\t000001ffffffffff\n"),
];

/// A text in which `numbers` replace the numbers in turn.
fn with_numbers(text: &str, numbers: &[String]) -> String {
    let mut numbers = numbers.iter().cycle();
    let mut out = String::new();
    let mut in_number = false;
    for c in text.chars() {
        let digit = c.is_ascii_digit();
        match (digit, in_number) {
            (true, false) => out += numbers.next().unwrap(),
            (true, true) => {}
            (false, _) => out.push(c),
        }
        in_number = digit;
    }
    out
}

/// Content of a file: none, arbitrary text, or arbitrary numbers in the places of numbers.
fn content() -> impl Strategy<Value = Content> {
    let number = prop_oneof![any::<u64>(), Just(u64::MAX), Just(i64::MAX as u64), 0u64..70_000]
        .prop_map(|number| number.to_string());
    prop_oneof![
        1 => Just(Content::Absent),
        1 => Just(Content::Unreadable),
        1 => "\\PC*".prop_map(Content::Text),
        1 => "[-0-9 \t\n:,/a-f]{0,60}".prop_map(Content::Text),
        4 => prop::collection::vec(number, 1..4).prop_map(Content::Numbers),
    ]
}

#[derive(Debug, Clone)]
enum Content {
    Absent,
    Unreadable,
    Text(String),
    Numbers(Vec<String>),
}

fn host_of(contents: &[Content]) -> (TempDir, Host) {
    let texts: Vec<(&str, Option<String>)> = FILES
        .iter()
        .zip(contents)
        .filter_map(|((path, usual), content)| match content {
            Content::Absent => None,
            Content::Unreadable => Some((*path, None)),
            Content::Text(text) => Some((*path, Some(text.clone()))),
            Content::Numbers(numbers) => Some((*path, Some(with_numbers(usual, numbers)))),
        })
        .collect();
    host(&texts.iter().map(|(path, text)| (*path, text.as_deref())).collect::<Vec<_>>())
}

proptest! {
    // Each page sets up and probes a ring, and the kernel takes some 30 ms to remove one.
    #![proptest_config(ProptestConfig { cases: 50, max_shrink_iters: 300, ..ProptestConfig::default() })]

    /// No content of the files makes the doctor or an explanation panic, or omits a row.
    #[test]
    fn nonsense_in_files_still_gives_a_whole_page(
        contents in prop::collection::vec(content(), FILES.len()),
        role in prop::sample::select(&ROLES[..]),
        connections in prop_oneof![1u64..2_000_000, Just(u64::from(u32::MAX))],
    ) {
        let (_dir, host) = host_of(&contents);
        let mut watch = EvidenceRecorder::begin(&host);
        let page = examine(&host, &goal(role, connections, 100));
        prop_assert_eq!(page.rows().len(), WALLS.len());
        prop_assert!(text(&page).ends_with('\n'));
        let failures = [Cause::ConnectTimeout, Cause::Errno(Errno::EADDRNOTAVAIL), Cause::Errno(Errno::ENOMEM)];
        let evidence = watch.evidence(Causes::from(failures.map(|cause| (cause, 3))));
        prop_assert!(!walls::explain(&evidence).is_empty());
    }

    /// After all settings are applied no further setting is asked for, and no number has become smaller. Whatever is not ok
    /// has a fix, and is ok where settings are the fix.
    #[test]
    fn settings_suffice_and_never_lower_a_number(
        numbers in prop::collection::vec(prop::collection::vec(1u64..200_000, 3), FILES.len()),
        range in (1_024u64..65_000, 1u64..5_000),
        reserved in prop::collection::vec((1_024u64..65_000, 0u64..3_000), 0..4),
        role in prop::sample::select(&ROLES[..]),
        connections in 1u64..3_000_000,
        ports in 1u16..2_000,
    ) {
        let texts = FILES.iter().zip(&numbers).map(|((path, usual), numbers)| {
            let mut numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
            numbers.sort_by_key(String::len);
            let keep = path.starts_with("proc/meminfo") || path.ends_with("status");
            (*path, if keep { usual.to_string() } else { with_numbers(usual, &numbers) })
        });
        let mut files: BTreeMap<&str, String> = texts.collect();
        let last = (range.0 + range.1).min(65_535);
        files.insert("proc/sys/net/ipv4/ip_local_port_range", format!("{}\t{last}\n", range.0));
        // The kernel writes ranges in order and without overlap.
        let reserved = reserved.iter().fold(SourcePorts::DEFAULT, |all, (a, n)| all.reserving(*a..=(a + n).min(65_535)));
        files.insert("proc/sys/net/ipv4/ip_local_reserved_ports", reserved.reserved_text() + "\n");
        let (dir, host) = host(&files.iter().map(|(path, text)| (*path, Some(text.as_str()))).collect::<Vec<_>>());
        let goal = goal(role, connections, ports);
        // The wall of io_uring sets up a ring, and reads no file but one.
        let judged = || WALLS.iter().filter(|wall| wall.name != "io_uring").map(|wall| (wall.name, wall.judge(&host, &goal)));
        let before: Vec<_> = judged().collect();
        for (name, finding) in &before {
            let is_fine = matches!(finding.verdict, Verdict::Ok | Verdict::Unknown);
            prop_assert!(is_fine || !finding.fixes.is_empty(), "{name}: {finding:?}");
        }
        let settings = walls::settings(&host, &goal);
        for setting in &settings {
            prop_assert!(is_more(setting), "{setting:?}");
            prop_assert_eq!(host.sysctl_text(setting.name), Some(setting.now.clone()));
            prop_assert!(exists(dir.path(), setting.name), "{}", setting.name);
        }
        for setting in &settings {
            host.write_sysctl(setting.name, &setting.then).unwrap();
        }
        prop_assert_eq!(walls::settings(&host, &goal), vec![], "after {:?}", settings);
        for ((name, before), (_, after)) in before.iter().zip(judged()) {
            let by_settings = !before.fixes.is_empty() && before.fixes.iter().all(|fix| matches!(fix, Fix::Sysctl(_)));
            prop_assert!(!by_settings || after.verdict == Verdict::Ok, "{name}: {before:?}, then {after:?}");
        }
    }
}

fn exists(root: &Path, sysctl: &str) -> bool {
    root.join("proc/sys").join(sysctl.replace('.', "/")).exists()
}

/// Whether a setting's new value is at least as generous as the old one, number for number.
fn is_more(setting: &Setting) -> bool {
    let numbers = |text: &str| -> Vec<u64> { text.split_whitespace().map(|word| word.parse().unwrap()).collect() };
    match setting.name {
        // A wider range of ports contains the old one; more reserved ports are a longer list.
        "net.ipv4.ip_local_port_range" => {
            let (now, then) = (numbers(&setting.now), numbers(&setting.then));
            then[0] <= now[0] && then[1] >= now[1] && then != now
        }
        "net.ipv4.ip_local_reserved_ports" => {
            let (now, then) = (ports_of(&setting.now), ports_of(&setting.then));
            then.is_superset(&now) && then != now
        }
        // 2 reuses ports on loopback only, 1 on all interfaces.
        "net.ipv4.tcp_tw_reuse" => setting.now != "1" && setting.then == "1",
        _ => {
            let (now, then) = (numbers(&setting.now), numbers(&setting.then));
            now.len() == then.len() && now.iter().zip(&then).all(|(now, then)| now <= then) && now != then
        }
    }
}

/// The ports of a list such as `80,8888-8987`.
fn ports_of(list: &str) -> BTreeSet<u64> {
    let ranges = list.split(',').filter(|range| !range.is_empty());
    let ports = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse::<u64>().unwrap()..=last.parse().unwrap()
    };
    ranges.flat_map(ports).collect()
}
