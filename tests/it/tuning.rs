//! The files in tuning/ are generated from the table of walls, and must agree with it. `C1M_BLESS=1 cargo test
//! tuning::` rewrites files that do not agree; text that people wrote in them stays.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use c1m::error::{Errno, ShardsOf};
use c1m::internal::failure::{Cause, Causes};
use c1m::internal::format::{bytes, count};
use c1m::internal::host::{Host, NetCounters, Sockets};
use c1m::internal::memory_model::{By, End, Family, Hierarchy, Kernel};
use c1m::internal::plan::{Goal, IdleBackend, Layers, Ports, Role, Routes, largest};
use c1m::internal::tune::sysctl_conf;
use c1m::internal::walls::{self, Evidence, Gauges, Limits, Setting, WALLS, Waiting, Wall, boot};

/// Connections of the server in the article, and of each of its clients.
const SERVER: u64 = 1_020_000;
const CLIENT: u64 = 340_000;

fn tuning(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning").join(file)
}

fn goal(role: Role, connections: u64) -> Goal {
    let targets = vec![Ipv4Addr::new(10, 0, 0, 1).into()];
    let routes = Routes { targets, ports: Ports::new(8888, 100).unwrap(), sources: Vec::new() };
    let (awake, cores) = (None, vec![0, 1]);
    Goal { role, connections, awake, keeps_descriptors: false, routes, cores, layers: Layers::default() }
}

/// Checks that a file agrees with the table, or rewrites it with C1M_BLESS=1.
fn agrees(file: &str, rendered: &str) {
    let path = tuning(file);
    let found = fs::read_to_string(&path).unwrap_or_default();
    if found == rendered {
        return;
    }
    if std::env::var_os("C1M_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, rendered).unwrap();
        return;
    }
    let differs = rendered.lines().zip(found.lines()).find(|(wanted, found)| wanted != found);
    panic!(
        "tuning/{file} does not agree with the code's table ({differs:?}): C1M_BLESS=1 cargo test --test it tuning:: writes it anew"
    );
}

/// The settings of both roles on a Debian 12 guest with 4 GiB (tests/hosts/README.md).
fn reference_settings() -> (Vec<Setting>, Vec<Setting>) {
    let host = Host::below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/debian12-4g"));
    let of = |role, connections| walls::settings(&host, &goal(role, connections));
    (of(Role::Server, SERVER), of(Role::Client, CLIENT))
}

const SYSCTL_HEADER: &str = "\
# For hosts that hold a million connections with c1m: a server with 1,020,000, and each of its
# clients with 340,000. To load it:
#
#   sudo cp zz-c1m.conf /etc/sysctl.d/ && sudo sysctl --system
#
# The values were computed for one host as it comes: Debian 12 (kernel 6.1), 4 GiB, 2 cores, a
# firewall that tracks connections. `c1m tune` computes them for yours, `c1m tune --persist` writes
# this file, and `--revert` takes everything back. A line must not lower a more generous value: look
# at `sysctl NAME` first, and delete the line if that is more. What is not here needs no setting on
# such a host; WALLS.md has all walls.
";

#[test]
fn the_sysctl_file_is_what_the_reference_host_needs() {
    let (server, client) = reference_settings();
    let reason = |setting: &Setting| {
        let clients = client.iter().find(|other| other.name == setting.name);
        let clients = clients.map_or("A client needs no change.".to_owned(), |other| {
            format!("A client needs {}.", other.then.replace('\t', " "))
        });
        format!(
            "{}.\n# The kernel's own value there is {}. {clients}",
            capital(&setting.reason),
            setting.now.replace('\t', " ")
        )
    };
    let lines: Vec<(String, &Setting)> = server.iter().map(|setting| (reason(setting), setting)).collect();
    let settings = lines.iter().map(|(reason, setting)| (setting.name, setting.then.as_str(), reason.as_str()));
    agrees("sysctl.d/zz-c1m.conf", &format!("{SYSCTL_HEADER}{}", sysctl_conf(settings)));
    for setting in &client {
        let more = server.iter().find(|other| other.name == setting.name);
        let number = |text: &str| text.parse::<u64>().unwrap();
        assert!(
            more.is_some_and(|more| number(&more.then) >= number(&setting.then)),
            "a client needs more: {setting:?}"
        );
    }
    let names: Vec<&str> = server.iter().map(|setting| setting.name).collect();
    assert!(names.contains(&"net.netfilter.nf_conntrack_max"), "{names:?}");
}

fn capital(text: &str) -> String {
    text[..1].to_uppercase() + &text[1..]
}

const LIMITS_HEADER: &str = "\
# For /etc/security/limits.d/, read by PAM at the next login. A systemd unit does not read it
# (systemd/c1m-server.service has its own), nor does a container (--ulimit).
#
# c1m needs no descriptor for a connection. With these it runs with the fewest rings; with the usual
# 1,024 it needs many, each some 50 KiB. `memlock` is in KiB, and newer kernels count an ordinary
# user's rings: all its processes together. It suffices for up to 64 cores. Delete a line if
# `ulimit -Hn` or `ulimit -Hl` is more.
";

/// The goal of a million on each number of cores for which the files are to suffice. Each core has an executor, whose memory
/// is locked; how many rings it has depends on its part of the connections.
fn on_cores(role: Role) -> impl Iterator<Item = Goal> {
    (1..=64).map(move |cores| Goal { cores: (0..cores).collect(), ..goal(role, SERVER) })
}

/// The limits that suffice on all of them.
fn limits(role: Role) -> Limits {
    on_cores(role).map(|goal| walls::limits_wanted(&goal)).fold(Limits::default(), Limits::higher)
}

#[test]
fn the_limits_file_and_the_unit_suffice_for_a_million() {
    // Both ends on one host need the most.
    agrees("limits.d/c1m.conf", &format!("{LIMITS_HEADER}{}", limits(Role::Both).lines()));
    let server = limits(Role::Server);
    let unit = fs::read_to_string(tuning("systemd/c1m-server.service")).unwrap_or_default();
    let computed = |name: &str| match name {
        "LimitNOFILE" => server.files,
        "LimitMEMLOCK" => server.memory,
        _ => None,
    };
    let line = |line: &str| {
        let name = line.split('=').next().unwrap_or_default();
        computed(name).map_or(format!("{line}\n"), |value| format!("{name}={value}\n"))
    };
    let unit: String = unit.lines().map(line).collect();
    agrees("systemd/c1m-server.service", &unit);
    let limit = |name: &str| -> u64 {
        let value = unit.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
        value.parse().unwrap()
    };
    let (nofile, memlock) = (limit("LimitNOFILE="), limit("LimitMEMLOCK="));
    for goal in on_cores(Role::Server) {
        let cores = goal.cores.len();
        assert!(
            goal.needs(SERVER, nofile).fit(nofile) && goal.locked_bytes(SERVER, nofile) <= memlock,
            "{cores} cores"
        );
    }
}

/// The beginning of the part of a wall's section that people wrote.
const WRITTEN: &str = "**c1m**: ";

#[test]
fn the_walls_file_has_every_wall_in_order_as_the_table_has_it() {
    let found = fs::read_to_string(tuning("WALLS.md")).unwrap_or_default();
    let (intro, rest) = found.split_once("\n| you see |").unwrap_or((&found, ""));
    let mut text = format!("{intro}\n| you see | wall |\n|---|---|\n");
    for (number, wall) in WALLS.iter().enumerate() {
        let anchor = format!("{}-{}", number + 1, wall.name.to_lowercase().replace(' ', "-"));
        text += &format!("| {} | [{}](#{anchor}) |\n", wall.symptom.replace('|', "\\|"), wall.name);
    }
    for (number, wall) in WALLS.iter().enumerate() {
        text += &section(number + 1, wall, rest);
    }
    agrees("WALLS.md", &text);
    for wall in &WALLS {
        let written = written(wall, rest);
        assert!(
            written.len() > WRITTEN.len() + 20 && written.contains("```"),
            "WALLS.md shows nothing real of {}",
            wall.name
        );
    }
}

fn section(number: usize, wall: &Wall, old: &str) -> String {
    let Wall { name, symptom, evidence, cure, .. } = wall;
    let generated = format!("**Symptom**: {symptom}.\n\n**Evidence**: {evidence}.\n\n**Cure**: {cure}.\n");
    format!("\n## {number}. {name}\n\n{generated}\n{}\n", written(wall, old).trim_end())
}

/// The part of a wall's section that people wrote.
fn written<'a>(wall: &Wall, old: &'a str) -> &'a str {
    let section = old
        .split("\n## ")
        .find(|section| section.lines().next().is_some_and(|head| head.ends_with(&format!(". {}", wall.name))));
    section.and_then(|section| section.find(WRITTEN).map(|at| &section[at..])).unwrap_or(WRITTEN)
}

/// A document's text with one space between words: a screen in it may break its lines elsewhere than the program does.
fn words_of(path: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The numbers on screens of documents are those that are computed today.
#[test]
fn screens_have_the_numbers_of_the_arithmetic() {
    const NOFILE: u64 = 20_000;
    let walls = words_of("tuning/WALLS.md");
    let goal = |role, connections, ports| {
        let mut goal = goal(role, connections);
        goal.routes.ports = Ports::new(8888, ports).unwrap();
        goal
    };
    // Descriptors.
    let client = goal(Role::Client, 1_000_000, 2);
    let possible = largest(client.connections, |connections| client.needs(connections, 100).fit(100));
    let needs = client.needs(client.connections, 100);
    let said = needs.refusal(client.connections, possible, (100, 0), ShardsOf::Client).to_string();
    assert!(walls.contains(&said), "{said}");
    let both = goal(Role::Both, 3_000_000, 100);
    let needs = both.needs(both.connections, NOFILE);
    let said = format!("need {} for {} rings of direct descriptors", needs.descriptors(), needs.all_rings());
    assert!(words_of("docs/guide/host.md").contains(&said), "{said}");
    // Locked memory; a tenth must be to spare.
    let both = goal(Role::Both, 1_000_000, 100);
    let said = format!("need {}: ", bytes(both.locked_bytes(both.connections, NOFILE)));
    assert!(walls.contains(&said), "{said}");
    let roomy = both.connections + both.connections.div_ceil(9);
    let said = format!("ulimit -Hl {} ", both.locked_bytes(roomy, NOFILE) / 1024);
    assert!(walls.contains(&said), "{said}");
}

/// What a cgroup's limit counts of a connection is what is computed today: a unit's `MemoryMax=` is chosen by that.
#[test]
fn documents_have_what_a_cgroup_counts_of_a_connection() {
    let counted = |version, end, hierarchy| {
        let kernel = Kernel { version, accounting: true, ..Kernel::default() };
        count(kernel.per_end(end, Family::V4, IdleBackend::Poll).counted(By::Cgroup(hierarchy)) as u64)
    };
    let server = |version, hierarchy| counted(version, End::Server, hierarchy);
    let (v1, v2) = (server((6, 18), Hierarchy::V1), Hierarchy::V2);
    let (before, since) = (server((6, 12), v2), server((6, 13), v2));
    let said = format!(
        "cgroup v1 counts {v1} bytes with kernel 6.18; v2 counts {before} before Linux 6.13, and {since} since."
    );
    let client = counted((6, 18), End::Client, Hierarchy::V1);
    let said = format!("Of a server's connection {said} Of a client's connection both count {client}.");
    assert_eq!((since, counted((6, 1), End::Client, v2)), (server((6, 18), v2), client.clone()));
    for document in ["tuning/WALLS.md", "docs/guide/memory.md"] {
        assert!(words_of(document).contains(&said), "{document}: {said}");
    }
}

/// What a run says of a wall on a screen of WALLS.md is what it says today of the same evidence.
#[test]
fn screens_say_what_a_run_says() {
    let walls = words_of("tuning/WALLS.md");
    let moved = |name: &str, by: u64| NetCounters::from([(name.to_owned(), by)]);
    let failed = |cause, number: u64| Causes::from([(cause, number)]);
    let peak = |sockets: Sockets| Gauges { sockets: Some(sockets), source_ports: Some(100), ..Gauges::default() };
    for evidence in [
        Evidence {
            peak: peak(Sockets { in_use: 41, ..Sockets::default() }),
            waiting: Waiting { all: 60, earlier: 60 },
            causes: failed(Cause::Errno(Errno::EADDRNOTAVAIL), 40),
            ..Evidence::default()
        },
        Evidence {
            moved: moved("conntrack_drop", 5),
            peak: Gauges { conntrack: Some((262_144, 262_144)), ..Gauges::default() },
            causes: failed(Cause::ConnectTimeout, 5),
            ..Evidence::default()
        },
        Evidence {
            moved: moved("TCPMemoryPressures", 2),
            peak: peak(Sockets { pages: 256, ..Sockets::default() }),
            ..Evidence::default()
        },
        Evidence { moved: moved("ListenOverflows", 85), ..Evidence::default() },
        Evidence {
            moved: moved("softnet_dropped", 6_287),
            causes: failed(Cause::ConnectTimeout, 532),
            ..Evidence::default()
        },
    ] {
        let met = walls::explain(&evidence);
        let [wall] = &met[..] else { panic!("{met:?}") };
        assert!(walls.contains(&wall.to_string()), "{wall}");
    }
}

#[test]
fn the_kernel_command_line_is_the_one_that_tune_prints() {
    let text = fs::read_to_string(tuning("cmdline.md")).unwrap();
    let parameters = boot::parameters(&goal(Role::Server, SERVER));
    let line: Vec<&str> = parameters.iter().map(|parameter| parameter.text.as_str()).collect();
    assert!(text.lines().any(|found| found == line.join(" ")), "tuning/cmdline.md has no line {}", line.join(" "));
    for parameter in &parameters {
        let Some(bytes) = parameter.bytes else { continue };
        let row = text.lines().find(|row| row.starts_with('|') && row.contains(&parameter.text));
        assert!(
            row.is_some_and(|row| row.contains(&format!("| {bytes} |"))),
            "{}: {bytes} bytes is not what cmdline.md measured: {row:?}",
            parameter.text
        );
    }
}

/// System calls in the sets that the unit names (`systemd-analyze syscall-filter`, systemd 252), on x86-64. Of the first one
/// those that c1m makes.
const SETS: [(&str, &str); 3] = [
    ("@system-service", "capget fchown membarrier prlimit64 sched_setaffinity setrlimit"),
    (
        "@privileged",
        "_sysctl acct adjtimex bpf capset chown chroot clock_adjtime clock_settime delete_module fanotify_init \
         fanotify_mark fchown fchownat finit_module init_module ioperm iopl kexec_file_load kexec_load lchown \
         nfsservctl open_by_handle_at pivot_root quotactl quotactl_fd reboot setdomainname setfsuid setgroups \
         sethostname setresuid setreuid settimeofday setuid swapoff swapon vhangup",
    ),
    (
        "@resources",
        "ioprio_set mbind migrate_pages move_pages nice sched_setaffinity sched_setattr sched_setparam \
         sched_setscheduler set_mempolicy set_mempolicy_home_node setpriority setrlimit",
    ),
];

/// Whether the lines `SystemCallFilter=` of a unit and its drop-ins allow a call: each line adds to what may be called, or
/// with a tilde takes from it (systemd.exec(5)).
fn is_allowed(call: &str, files: &[&str]) -> bool {
    let in_set = |set: &str| {
        let mut calls = SETS.iter().filter(|(name, _)| *name == set).flat_map(|(_, calls)| calls.split(' '));
        calls.any(|known| known == call)
    };
    let names = |word: &str| word == call || in_set(word);
    let lines = files.iter().flat_map(|file| file.lines()).filter_map(|line| line.strip_prefix("SystemCallFilter="));
    lines.fold(false, |allowed, line| match line.strip_prefix('~') {
        Some(taken) => allowed && !taken.split_whitespace().any(names),
        None => allowed || line.split_whitespace().any(names),
    })
}

#[test]
fn a_unit_with_the_drop_in_for_sleep_may_call_what_sleep_and_filters_need() {
    let read = |file| fs::read_to_string(tuning(file)).unwrap();
    let (unit, drop_in) = (read("systemd/c1m-server.service"), read("systemd/hibernate.conf"));
    for call in ["bpf", "fchown"] {
        assert!(!is_allowed(call, &[&unit]), "the unit alone has no right that needs {call}");
    }
    for call in ["capget", "prlimit64", "sched_setaffinity", "setrlimit", "io_uring_setup", "io_uring_enter"] {
        assert!(is_allowed(call, &[&unit]), "{call}");
    }
    for call in ["bpf", "fchown", "membarrier"] {
        assert!(is_allowed(call, &[&unit, &drop_in]), "{call}");
    }
    // The guide shows the core of the drop-in.
    let guide = words_of("docs/guide/hibernation.md");
    for line in drop_in.lines().filter(|line| line.starts_with("SystemCallFilter=") || line.contains("Capabilit")) {
        assert!(line.starts_with('#') || guide.contains(line), "{line}");
    }
}
