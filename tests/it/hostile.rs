//! Hosts that refuse: threads, locked memory, io_uring, another user namespace, a loopback device that is down, a
//! /proc that hides processes. Each refusal is reported with a sentence that names it, and the doctor predicts it.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::doctor::doctor_as;
use crate::network;
use crate::support::*;

// ---- threads ------------------------------------------------------------------------------------

/// With any number of threads the run holds, or ends with a sentence that names the limit.
#[test(Users)]
fn too_few_threads_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (mut refused, mut held, mut fits) = (0, 0, 0);
    let server = Server::start(2, "");
    for most in [1, 2, 3, 4, 5, 6, 8, 12, 30] {
        let command = || c1m_limited(&dir, &[(libc::RLIMIT_NPROC, most)]);
        let port = free_ports(2);
        for arguments in [
            format!("server --until-stdin-closes {}", at(port, 2)),
            format!("client --target-ip 127.0.0.1 {} --connections 4 --hold 0s", server.at()),
            format!("client --target-ip 127.0.0.1 {} --connections 4 --steer", server.at()),
            format!("storm disconnect --target-ip 127.0.0.1 {} --connections 4 --calm 0s --after 0s", server.at()),
            format!("demo {} --connections 4 --hold 0s", at(port, 2)),
        ] {
            let finished = run_as(command(), &arguments);
            if finished.code() == 3 {
                assert!(finished.err.contains("RLIMIT_NPROC"), "{most}, {arguments}: {}", finished.err);
                refused += 1;
            } else {
                assert_eq!(finished.code(), 0, "{most}, {arguments}: {}{}", finished.out, finished.err);
                held += 1;
            }
        }
        let page = doctor_as(command(), &format!("{} --connections 4", at(port, 2)));
        if page.says("threads", "verdict") == "ok" {
            fits += 1;
            assert_eq!(run_as(command(), &format!("demo {} --connections 4 --hold 0s", at(port, 2))).code(), 0);
        }
    }
    assert!(
        refused >= 15 && held >= 5 && fits > 0,
        "{refused} refused, {held} held, and the doctor said {fits} times that it fits"
    );
}

/// However low the limit on address space is, a run holds, or it ends with one line that names the limit.
#[test]
fn too_little_address_space_is_named() {
    let server = Server::start(2, "");
    let (mut refused, mut held) = (0, 0);
    // The least that loads the program: how much that is depends on how it was built.
    let loads = |megabytes: &u32| {
        let version = c1m_after(&format!("ulimit -v {megabytes}000")).arg("--version").output().unwrap();
        version.status.success()
    };
    let least = (10..100).find(loads).unwrap();
    for megabytes in [0, 2, 5, 10, 15, 25, 50, 100, 300, 1_000].map(|more| least + more) {
        let port = free_ports(2);
        for arguments in [
            format!("server --until-stdin-closes --max-connections 1000 --cores 1 {}", at(port, 2)),
            format!("client --target-ip 127.0.0.1 {} --connections 20 --hold 0s --cores 1", server.at()),
            format!(
                "storm churn --target-ip 127.0.0.1 {} --connections 20 --calm 0s --after 0s --for 50ms --cores 1",
                server.at()
            ),
        ] {
            let finished = run_as(c1m_after(&format!("ulimit -v {megabytes}000")), &arguments);
            if finished.code() == 3 {
                finished.fails_with(3, &["ulimit -v"]);
                refused += 1;
            } else {
                assert_eq!(finished.code(), 0, "{megabytes}, {arguments}: {}{}", finished.out, finished.err);
                held += 1;
            }
        }
    }
    assert!(refused >= 3 && held >= 6, "{refused} refused, {held} held");
    // The doctor warns of a limit below which it is not known whether a run holds.
    for (limit, verdict) in
        [("-v 300000", "tight"), ("-v 8000000", "ok"), ("-v unlimited", "ok"), ("-d 20000", "tight")]
    {
        let page = doctor_as(c1m_after(&format!("ulimit {limit}")), "--connections 1000 --cores 1");
        assert_eq!(page.says("address space", "verdict"), verdict, "{}", page.says("address space", "have"));
        assert_eq!(page.fixes("address space").len(), usize::from(verdict == "tight"));
    }
}

/// A thread that starts may lack memory for its stack, for that of signals, or for its own data.
#[test]
fn too_little_memory_for_data_is_named() {
    let nowhere = at(free_ports(1), 1);
    for kilobytes in [6_000, 9_000, 12_000, 13_500, 14_000, 16_000] {
        let limited = c1m_after(&format!("ulimit -d {kilobytes}"));
        let finished = run_as(limited, &format!("client --target-ip 127.0.0.1 {nowhere} --connections 5 --hold 0s"));
        if finished.code() == 3 {
            finished.fails_with(3, &["ulimit -d"]);
        } else {
            assert_eq!(finished.code(), 1, "{kilobytes}: {}{}", finished.out, finished.err);
        }
    }
    run_as(c1m_after("ulimit -d 6000"), "server --until-stdin-closes").fails_with(3, &["ulimit -d"]);
}

/// The environment variable with which this executable leaves so many files open in the program that it runs.
pub const LEAKS: &str = "C1M_TEST_LEAKS";

/// Runs the program under test with so many files open beside the standard streams, of 1,000 that may be.
pub fn leak_and_run(number: usize) -> std::process::ExitCode {
    let both = libc::rlimit { rlim_cur: 1_000, rlim_max: 1_000 };
    // SAFETY: setrlimit reads a struct that outlives the call, and dup takes no memory.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const both), 0);
        (0..number).for_each(|_| assert!(libc::dup(0) >= 0));
    }
    panic!("{}", Command::new(PROGRAM).args(std::env::args_os().skip(1)).exec());
}

/// What starts a process may leave files open in it. They count towards the limit: a run holds, or says before it begins
/// that it would not.
#[test]
fn descriptors_that_were_inherited_are_counted() {
    let server = Server::start(1, "");
    let (mut refused, mut held) = (0, 0);
    for open in [0, 500, 850, 900, 920, 940, 950, 960, 970, 980, 985] {
        let leaking = || {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.env(LEAKS, open.to_string());
            command
        };
        let mut holds = |arguments: &str| {
            let finished = run_as(leaking(), arguments);
            if finished.code() == 3 {
                finished.fails_with(3, &["file descriptor limit 1000", "are open already"]);
                refused += 1;
                return false;
            }
            assert_eq!(finished.code(), 0, "{open}, {arguments}: {}{}", finished.out, finished.err);
            held += 1;
            true
        };
        holds(&server_arguments(free_ports(1), 1, "--max-connections 10 --until-stdin-closes"));
        let client = holds(&format!("client --target-ip 127.0.0.1 {} --connections 20 --hold 0s", server.at()));
        let page = doctor_as(leaking(), "--role client --target-ip 127.0.0.1 --connections 20 --ports 1");
        let verdict = page.says("descriptors", "verdict");
        assert_eq!(verdict == "blocks", !client, "{open}: {}", page.says("descriptors", "have"));
    }
    assert!(refused >= 4 && held >= 6, "{refused} refused, {held} held");
    server.stop();
}

/// The main thread has the stack that the limit allows when it is needed.
#[test]
fn a_small_stack_is_raised_or_named() {
    for arguments in ["server --port 0", "client --target-ip 127.0.0.1 --port 0", "report merge /nonexistent"] {
        // The environment lies on the stack too, and some kilobytes at random beside it.
        for kibibytes in [16, 64] {
            let mut small = c1m_after(&format!("ulimit -s {kibibytes}"));
            small.env_clear();
            let words = format!("stack limit {} bytes", kibibytes << 10);
            run_as(small, arguments).fails_with(3, &[&words, "ulimit -Hs"]);
        }
        assert_eq!(run_as(c1m_after("ulimit -Ss 64"), arguments).code(), 2, "{arguments}");
        run_as(c1m_after("export RUST_MIN_STACK=1"), arguments)
            .fails_with(2, &["RUST_MIN_STACK=1", "stack", "unset it"]);
    }
}

/// The storm that kills starts a second process. The threads of both count towards the limit.
#[test(Users)]
fn too_few_threads_for_two_processes_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(2, "");
    let (mut refused, mut held) = (0, 0);
    for most in 1..=24 {
        let command = c1m_limited(&dir, &[(libc::RLIMIT_NPROC, most)]);
        let arguments = format!(
            "storm killed --target-ip 127.0.0.1 {} --connections 20 --cores 1 --calm 50ms --after 50ms --for 50ms",
            server.at()
        );
        let finished = run_as(command, &arguments);
        if finished.code() == 3 {
            finished.fails_with(3, &["RLIMIT_NPROC"]);
            refused += 1;
        } else {
            assert_eq!(finished.code(), 0, "{most}: {}{}", finished.out, finished.err);
            held += 1;
        }
    }
    assert!(refused >= 6 && held >= 6, "{refused} refused, {held} held");
}

/// The locked memory of both processes counts towards the limit. One line says that it is too low, before the
/// second process starts.
#[test(Users)]
fn locked_memory_of_two_processes_is_counted_together() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(2, "");
    let (mut refused, mut held) = (0, 0);
    for kib in (512..2_048).step_by(128) {
        let limits = [(libc::RLIMIT_NOFILE, 400), (libc::RLIMIT_MEMLOCK, kib << 10)];
        let command = c1m_limited(&dir, &limits);
        let arguments = format!(
            "storm killed --target-ip 127.0.0.1 {} --connections 2000 --share 50% --cores 1 --calm 50ms --after 50ms --for 50ms",
            server.at()
        );
        let finished = run_as(command, &arguments);
        if finished.code() == 3 {
            finished.fails_with(3, &["memlock limit", "needed"]);
            refused += 1;
        } else {
            assert_eq!(finished.code(), 0, "{kib} KiB: {}{}", finished.out, finished.err);
            held += 1;
        }
    }
    assert!(refused >= 1 && held >= 4, "{refused} refused, {held} held");
}

// ---- locked memory ------------------------------------------------------------------------------

/// A demo gets the locked memory that the doctor says it needs, or one page less. With the former it holds all
/// connections, with the latter fewer; it never breaks.
#[test(Users)]
fn locked_memory_is_what_the_doctor_says() {
    let dir = tempfile::tempdir().unwrap();
    let goal = |connections: u64| format!("{} --connections {connections} --cores 1", at(free_ports(4), 4));
    let least: u64 = 512 << 10;
    for (nofile, connections) in [(400, 4_000), (1_000, 12_000)] {
        let command =
            |memlock: u64| c1m_limited(&dir, &[(libc::RLIMIT_NOFILE, nofile), (libc::RLIMIT_MEMLOCK, memlock)]);
        let fewer = doctor_as(command(least), &goal(connections)).holds("locked memory");
        // The fix leaves room for a tenth more, and so is just what all of them take.
        let page = doctor_as(command(least), &goal(connections / 10 * 9));
        assert_eq!(page.says("locked memory", "verdict"), "blocks", "{}", page.says("locked memory", "need"));
        let fix = page.fixes("locked memory")[0].0.to_owned();
        let kibibytes: u64 = fix.split_whitespace().nth(2).unwrap().parse().unwrap_or_else(|e| panic!("{e}: {fix}"));
        let demo = |memlock: u64| {
            let finished = run_as(command(memlock), &format!("demo {} --hold 0s", goal(connections)));
            assert_eq!(finished.code(), 0, "{memlock}: {}{}", finished.out, finished.err);
            let line = finished.out.lines().find(|line| line.contains(" requested = ")).unwrap().to_owned();
            let live = line.split(" = ").nth(1).unwrap().split(' ').next().unwrap().replace(',', "");
            live.parse::<u64>().unwrap()
        };
        assert_eq!(demo(kibibytes << 10), connections);
        let page_less = demo((kibibytes << 10) - 4_096);
        assert!(page_less < connections, "{page_less}");
        if fewer > 0 {
            assert_eq!(demo(least), fewer);
        }
    }
}

/// A process that needs more locked memory than it may have says so before it starts, with a number of connections
/// that fits.
#[test(Users)]
fn too_little_locked_memory_is_explained_with_a_number_that_fits() {
    let dir = tempfile::tempdir().unwrap();
    let command = || c1m_limited(&dir, &[(libc::RLIMIT_NOFILE, 1_000), (libc::RLIMIT_MEMLOCK, 1 << 20)]);
    let server = Server::start(10, "");
    let port = free_ports(4);
    let number = |finished: &Finished| {
        let rest = finished.err.split("at most ").nth(1).unwrap_or_else(|| panic!("{}", finished.err));
        rest.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let client = |n| format!("client --target-ip 127.0.0.1 {} --connections {n} --cores 1 --hold 0s", server.at());
    let finished = run_as(command(), &client(200_000));
    finished.fails_with(3, &["memlock limit 1048576 bytes", "rings of 36864 bytes", "1 executors of 221184"]);
    assert_eq!(run_as(command(), &client(number(&finished))).code(), 0);
    let serving = |n| format!("server --until-stdin-closes {} --max-connections {n} --cores 1", at(port, 4));
    let finished = run_as(command(), &serving(200_000));
    finished.fails_with(3, &["memlock limit 1048576 bytes", "rings of 36864 bytes"]);
    assert_eq!(run_as(command(), &serving(number(&finished))).code(), 0);
}

// ---- user namespaces ----------------------------------------------------------------------------

/// Root of another user namespace is charged as the user that it is outside, and may not raise a limit.
#[test(Users)]
fn root_of_another_user_namespace_is_an_ordinary_user() {
    let mut root = Command::new("unshare");
    root.args(["-Ur", PROGRAM]);
    let goal = "--connections 100000";
    let page = doctor_as(root, goal);
    let dir = tempfile::tempdir().unwrap();
    let ordinary = doctor_as(c1m_unprivileged(&dir), goal);
    for wall in ["locked memory", "open files"] {
        assert_eq!(page.says(wall, "need"), ordinary.says(wall, "need"));
        assert!(!page.says(wall, "have").contains("CAP_"), "{}", page.says(wall, "have"));
    }
    let mut few = Command::new("prlimit");
    few.args(["--nofile=1000:1000", "--memlock=1048576:1048576", "unshare", "-Ur", PROGRAM]);
    let page = doctor_as(few, goal);
    assert_eq!(page.says("locked memory", "verdict"), "blocks", "{}", page.says("locked memory", "have"));
    for wall in ["locked memory", "descriptors"] {
        assert!(page.fixes(wall).iter().all(|(_, may)| !may), "{wall}: {:?}", page.fixes(wall));
    }
}

// ---- io_uring behind a filter -------------------------------------------------------------------

/// The program behind a seccomp filter that returns `answer` from every io_uring system call, as a container's
/// profile does.
fn filtered(answer: libc::c_int) -> Command {
    let mut command = c1m();
    refuse(&mut command, libc::SYS_io_uring_setup..=libc::SYS_io_uring_register, None, answer);
    command
}

#[test]
fn a_filter_that_hides_io_uring_is_named_whatever_it_answers() {
    for (answer, name) in [(libc::ENOSYS, "ENOSYS"), (libc::EPERM, "EPERM"), (libc::EACCES, "EACCES")] {
        let port = free_ports(1);
        for command in ["server", "client --target-ip 127.0.0.1", "storm disconnect --target-ip 127.0.0.1"] {
            let arguments =
                format!("{command} --{}connections 10 {}", if command == "server" { "max-" } else { "" }, at(port, 1));
            run_as(filtered(answer), &arguments).fails_with(3, &[name, "seccomp filter", "io_uring_setup"]);
        }
        run_as(filtered(answer), &format!("demo --connections 10 {}", at(port, 1)))
            .fails_with(3, &["io_uring", name, "seccomp"]);
        let page = doctor_as(filtered(answer), "--connections 10");
        assert_eq!(page.says("io_uring", "verdict"), "blocks");
        let have = page.says("io_uring", "have");
        assert!(have.contains("seccomp on") && have.contains("seccomp filter") && !have.contains("newer"), "{have}");
    }
}

/// A filter may forbid any other call. Then no limit is met, and c1m is not wrong.
#[test]
fn a_call_that_a_filter_forbids_is_not_blamed_on_a_limit() {
    let port = free_ports(1);
    let calls = [
        libc::SYS_eventfd2,
        libc::SYS_socketpair,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_prlimit64,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_setaffinity,
    ];
    for (call, (answer, name)) in
        calls.into_iter().flat_map(|call| [(call, (libc::EPERM, "EPERM")), (call, (libc::ENOSYS, "ENOSYS"))])
    {
        for arguments in ["server --max-connections 10", "client --target-ip 127.0.0.1 --connections 10"] {
            let mut command = c1m();
            refuse(&mut command, call..=call, None, answer);
            let finished = run_as(command, &format!("{arguments} {}", at(port, 1)));
            let words = if call == libc::SYS_sched_getaffinity { "sched_getaffinity" } else { name };
            finished.fails_with(finished.code(), &["seccomp", words]);
            assert!([2, 3].contains(&finished.code()) && !finished.err.contains("ulimit"), "{}", finished.err);
        }
    }
}

/// The same of calls that every process may make otherwise: c1m is not wrong where one of them fails.
#[test]
fn a_common_call_that_a_filter_forbids_is_no_bug() {
    for (answer, name) in [(libc::EPERM, "EPERM"), (libc::ENOSYS, "ENOSYS")] {
        let without = |call| {
            let mut command = c1m();
            refuse(&mut command, call..=call, None, answer);
            command
        };
        let server = Server::start_as(without(libc::SYS_shutdown), 1, "");
        server.running.signal(libc::SIGTERM);
        server.running.wait().fails_with(3, &["stop listening", name, "seccomp"]);
        let metrics = format!("server {} --metrics 127.0.0.1:0", at(free_ports(1), 1));
        run_as(without(libc::SYS_listen), &metrics).fails_with(3, &["listen for metrics", name, "seccomp"]);
        let secret = "client --target-ip 127.0.0.1 --connections 1 --tls --insecure";
        run_as(without(libc::SYS_prctl), secret).fails_with(3, &["hide the memory", name, "seccomp"]);
    }
}

/// A filter may forbid what gives a file its name, or what waits for its disk. The result is in its place all the same.
#[test]
fn a_result_is_written_whatever_call_a_filter_forbids() {
    let dir = tempfile::tempdir().unwrap();
    let names = [
        libc::SYS_linkat..=libc::SYS_linkat,
        libc::SYS_rename..=libc::SYS_rename,
        libc::SYS_renameat..=libc::SYS_linkat,
    ];
    let calls: [&[_]; 4] = [&names[..1], &names[1..], &names, &[libc::SYS_fsync..=libc::SYS_fdatasync]];
    for (case, calls) in calls.iter().enumerate() {
        for answer in [libc::EPERM, libc::ENOSYS] {
            let path = dir.path().join(format!("{case}-{answer}"));
            for round in ["new", "replaced"] {
                let mut command = c1m();
                calls.iter().for_each(|call| refuse(&mut command, call.clone(), None, answer));
                let finished = run_as(command, &format!("doctor --connections 10 --json {}", path.display()));
                assert!(finished.code() < 2, "{round} {path:?}: {}", finished.err);
                let written = std::fs::read_to_string(&path).unwrap();
                assert!(serde_json::from_str::<serde_json::Value>(&written).is_ok(), "{round} {path:?}: {written}");
                std::fs::write(&path, "earlier").unwrap();
            }
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2 * calls.len());
}

// ---- loopback, and a /proc that hides -----------------------------------------------------------

#[test(Network)]
fn a_loopback_device_that_is_down_is_a_wall_of_its_own() {
    in_own_network(|| {
        network::down(c"lo");
        let page = doctor_as(c1m(), "--connections 10");
        assert_eq!(page.says("loopback", "verdict"), "blocks");
        assert_eq!(page.fixes("loopback"), [("ip link set lo up", true)]);
        run("demo --connections 10").fails_with(3, &["loopback", "ip link set lo up"]);
        let run = client("--connections 10 --connect-timeout 1s");
        assert_eq!(run.number("failed"), 10, "{}", run.json);
        assert_eq!(run.json["walls"][0]["wall"], "loopback", "{}", run.json);
        // A server that listens there says so when it starts, and serves once the device is up.
        for output in ["", "--json -"] {
            let server = Server::start(1, &format!("--bind 127.0.0.1 {output}"));
            eventually("the server says that nobody reaches it", || {
                let said = server.running.err();
                said.contains(
                    "the loopback device of this network namespace is down: no client can connect; ip link set lo up",
                )
            });
        }
        // The wall does not concern a client that connects elsewhere.
        let page = doctor_as(c1m(), "--connections 10 --target-ip 10.0.0.1");
        assert_eq!(page.says("loopback", "verdict"), "ok");
        network::up(c"lo");
        assert_eq!(doctor_as(c1m(), "--connections 10").says("loopback", "verdict"), "ok");
    });
}

/// The connections stood when the device went down.
#[test(Network)]
fn a_loopback_device_that_goes_down_during_a_run_is_named() {
    in_own_network(|| {
        let server = Server::start(1, "");
        let arguments = "--connections 10 --hold 1h --interval 200ms --reply-timeout 1s";
        let mut client = Client::start(&format!("{} {arguments}", server.at()));
        client.running.until("it holds", |out| out.contains("\nhold "));
        network::down(c"lo");
        client.running.until("they fail", |out| out.contains("= 0 live + 10 failed"));
        client.running.signal(libc::SIGTERM);
        let run = client.finish();
        let walls: Vec<_> = run.json["walls"].as_array().unwrap().iter().map(|wall| &wall["wall"]).collect();
        assert!(run.number("failed") == 10 && walls == ["loopback"], "{}", run.json);
        network::up(c"lo");
    });
}

/// The device is up, but its address was removed, or the address family is disabled.
#[test(Network)]
fn a_loopback_device_without_the_address_is_not_said_to_be_down() {
    in_own_network(|| {
        network::remove_address(c"lo", std::net::Ipv4Addr::LOCALHOST, 8);
        crate::doctor::set("net/ipv6/conf/lo/disable_ipv6", "1");
        for (target, fix) in [("127.0.0.1", "ip addr add 127.0.0.1/8 dev lo"), ("::1", "disable_ipv6=0")] {
            let page = doctor_as(c1m(), &format!("--connections 10 --target-ip {target}"));
            assert_eq!(page.says("loopback", "verdict"), "blocks");
            assert!(page.says("loopback", "have").starts_with("up, without"), "{}", page.says("loopback", "have"));
            assert!(page.fixes("loopback")[0].0.contains(fix), "{:?}", page.fixes("loopback"));
            let run = client(&format!("--connections 10 --connect-timeout 1s --target-ip {target}"));
            assert_eq!(run.number("failed"), 10, "{}", run.json);
            let walls: Vec<_> = run.json["walls"].as_array().unwrap().iter().map(|wall| &wall["wall"]).collect();
            assert_eq!(walls, ["loopback"], "{}", run.json);
            assert!(run.finished.out.contains(fix) && !run.finished.out.contains("is down"), "{}", run.finished.out);
        }
        run("demo --network host --connections 10").fails_with(3, &["loopback", "ip addr add 127.0.0.1/8 dev lo"]);
    });
}

#[test(Mounts)]
fn a_process_that_is_hidden_is_not_said_to_be_gone() {
    in_own_mounts(|| {
        mount("proc", "/proc", "proc", 0, "hidepid=2");
        let dir = tempfile::tempdir().unwrap();
        let arguments = |pid: u32| format!("client --target-ip 127.0.0.1 --connections 1 --server-pid {pid}");
        let own = std::process::id();
        run_as(c1m_unprivileged(&dir), &arguments(own)).fails_with(2, &["hidepid", "it runs"]);
        run_as(c1m_unprivileged(&dir), &arguments(4_194_305)).fails_with(2, &["no such process"]);
    });
}

/// A chroot and a small container may have no /sys, which tells where cores lie.
#[test(Network, Mounts)]
fn a_host_without_sys_is_served_and_dialed() {
    in_own_network(|| {
        in_own_mounts(|| {
            mount("none", "/sys", "tmpfs", 0, "");
            let server = Server::start(2, "");
            client(&format!("{} --connections 20", server.at())).held(20);
            server.stop();
        });
    });
}

/// What needs /proc says so, and the rest goes on.
#[test(Network, Mounts)]
fn a_host_without_proc_is_named_where_it_is_needed() {
    in_own_network(|| {
        in_own_mounts(|| {
            mount("none", "/proc", "tmpfs", 0, "");
            let server = Server::start(2, "");
            client(&format!("{} --connections 4", server.at())).held(4);
            let more = format!("--target-ip 127.0.0.1 {} --connections 4", server.at());
            let own = std::process::id();
            run(&format!("client {more} --server-pid {own}")).fails_with(2, &["it runs", "there is no /proc"]);
            for second in [format!("storm killed {more}"), format!("demo {} --connections 4", at(free_ports(2), 2))] {
                run(&second).fails_with(3, &["/proc/self/exe", "mount /proc"]);
            }
            let server = server.stop();
            assert!(server.err.contains("none is kept in reserve"), "{}", server.err);
            assert!(server.out.contains("resident memory and cpu not readable"), "{}", server.out);
        });
    });
}
