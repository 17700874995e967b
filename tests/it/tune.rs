//! Settings are applied and reverted, in a network namespace whose settings were lowered first, with folders of the
//! test's own mounted over those in /etc and /var/lib.

mod together;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use c1m::internal::host::Host;
use c1m::internal::tune as library;
use c1m::internal::walls::Setting;

use crate::support::*;

pub const STATE: &str = "/var/lib/c1m/tune.json";
pub const SYSCTL_FILE: &str = "/etc/sysctl.d/zz-c1m.conf";
pub const LIMITS_FILE: &str = "/etc/security/limits.d/zz-c1m.conf";

/// Folders to which `tune` may write.
const FOLDERS: [&str; 3] = ["/var/lib", "/etc/sysctl.d", "/etc/security/limits.d"];

/// The low values to which the settings are set first, so that `tune` raises them.
const LOW: [(&str, &str); 6] = [
    ("net.ipv4.ip_local_port_range", "40000\t40999"),
    ("net.core.somaxconn", "16"),
    ("net.ipv4.tcp_rmem", "1024\t1024\t2048"),
    ("net.ipv4.tcp_wmem", "1024\t1024\t2048"),
    ("net.ipv4.tcp_syncookies", "0"),
    ("net.ipv4.tcp_max_syn_backlog", "8"),
];

/// A goal that needs all of these settings higher, and no setting of the whole machine. From any other address of
/// loopback there would be source ports enough.
pub const GOAL: &str = "tune --role both --source-ip 127.0.0.1 --connections 60000 --ports 4 --port 40100 --cores 1";

/// Runs `body` in a new network and mount namespace with low settings.
pub fn on_a_low_host(body: impl FnOnce() + Send) {
    let in_own_folders = || {
        for folder in FOLDERS {
            mount("tmpfs", folder, "tmpfs", 0, "");
        }
        LOW.iter().for_each(|(name, value)| set(name, value));
        body();
    };
    in_own_network(|| in_own_mounts(in_own_folders));
}

/// Mounts a file over itself read-only, so that no process can write it.
fn make_read_only(file: &str) {
    mount(file, file, "", libc::MS_BIND, "");
    mount("none", file, "", libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY, "");
}

fn sysctl_file(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

pub fn set(name: &str, value: &str) {
    fs::write(sysctl_file(name), value).unwrap_or_else(|e| panic!("{name}: {e}"));
}

pub fn get(name: &str) -> String {
    fs::read_to_string(sysctl_file(name)).unwrap_or_else(|e| panic!("{name}: {e}")).trim().to_owned()
}

/// Everything that `tune` may change: all sysctls, and all files with their text and permissions.
#[derive(PartialEq, Eq)]
struct HostState {
    sysctls: BTreeMap<String, Vec<u8>>,
    files: BTreeMap<PathBuf, (u32, Vec<u8>)>,
}

/// Sysctls that change by themselves, by the beginning of their names: counters and random numbers.
const CHANGE_BY_THEMSELVES: [&str; 14] = [
    "fs.dentry-state",
    "fs.file-nr",
    "fs.inode-nr",
    "fs.inode-state",
    "fs.aio-nr",
    "fs.quota.",
    "kernel.perf_event_max_sample_rate",
    "kernel.random.",
    "kernel.ns_last_pid",
    "kernel.pty.nr",
    "kernel.tainted",
    "net.netfilter.nf_conntrack_count",
    "vm.stat",
    "fs.binfmt_misc.",
];

/// Every readable sysctl, by name.
fn sysctls() -> BTreeMap<String, Vec<u8>> {
    fn walk(folder: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, into);
                continue;
            }
            let name = path.strip_prefix("/proc/sys").unwrap().to_str().unwrap().replace('/', ".");
            // Some sysctls can only be written.
            if let Ok(value) = fs::read(&path)
                && !CHANGE_BY_THEMSELVES.iter().any(|prefix| name.starts_with(prefix))
            {
                into.insert(name, value);
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(Path::new("/proc/sys"), &mut all);
    all
}

/// Applies a file of sysctl.d, as sysctl(8) does at boot.
fn load(file: &str) {
    for line in fs::read_to_string(file).unwrap().lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{file}: {line}"));
        set(name.trim(), value.trim());
    }
}

impl HostState {
    fn now() -> HostState {
        let sysctls = sysctls();
        assert!(sysctls.len() > 500, "/proc/sys shows too little");
        HostState { sysctls, files: files() }
    }

    fn assert_restored(&self, after: &str) {
        let now = HostState::now();
        // Sysctls that were not there before are those of a module of the kernel that another test needed.
        let changed: Vec<_> =
            self.sysctls.iter().filter(|(name, value)| now.sysctls.get(*name) != Some(value)).collect();
        assert!(changed.is_empty(), "{after}, these were before: {changed:?}");
        assert!(self.files == now.files, "{after}: {:?} became {:?}", self.files.keys(), now.files.keys());
    }
}

fn files() -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    fn walk(folder: &Path, into: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
            let text = if path.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
            into.insert(path.clone(), (mode, text));
            if path.is_dir() {
                walk(&path, into);
            }
        }
    }
    let mut all = BTreeMap::new();
    FOLDERS.iter().for_each(|folder| walk(Path::new(folder), &mut all));
    all
}

/// Runs `c1m tune` for the goal, and checks that it succeeds.
pub fn tune(options: &str) -> Finished {
    let finished = run(&format!("{GOAL} {options}"));
    assert_eq!((finished.code(), finished.err.as_str()), (0, ""), "{}", finished.out);
    finished
}

pub fn revert() -> Finished {
    let finished = run("tune --revert");
    assert_eq!((finished.code(), finished.err.as_str()), (0, ""), "{}", finished.out);
    finished
}

/// Checks that every setting was raised, and none lowered.
fn is_raised() {
    for (name, low) in LOW.iter().filter(|(name, _)| *name != "net.ipv4.tcp_syncookies") {
        let numbers = |text: &str| text.split_whitespace().map(|word| word.parse().unwrap()).collect::<Vec<u64>>();
        let (low, now) = (numbers(low), numbers(&get(name)));
        if name.ends_with("port_range") {
            assert!(now[0] < low[0] && now[1] > low[1], "{name}: {now:?}");
        } else {
            assert!(now.iter().zip(&low).all(|(now, low)| now > low), "{name}: {now:?}");
        }
    }
    assert_eq!(get("net.ipv4.ip_local_reserved_ports"), "40100-40103");
}

#[test(Network, Mounts)]
fn apply_and_revert_leave_every_sysctl_unchanged() {
    on_a_low_host(|| {
        let before = HostState::now();
        let shown = tune("");
        assert!(shown.out.contains("nothing was changed"), "{}", shown.out);
        before.assert_restored("without --apply");
        tune("--apply");
        is_raised();
        let kept = fs::read_to_string(STATE).unwrap();
        let again = tune("--apply");
        assert!(again.out.contains("no setting of this host stands in the way"), "{}", again.out);
        assert!(again.out.ends_with("nothing was changed\n"), "{}", again.out);
        assert_eq!(fs::read_to_string(STATE).unwrap(), kept);
        // A larger goal raises settings again, and the first values are still known.
        run(&format!("{} --apply", GOAL.replace("60000", "90000")));
        assert_ne!(fs::read_to_string(STATE).unwrap(), kept);
        let reverted = revert();
        assert!(reverted.out.contains("net.core.somaxconn = 16"), "{}", reverted.out);
        before.assert_restored("apply twice, revert");
        assert!(revert().out.contains("nothing to revert"));
    });
}

#[test(Network, Mounts)]
fn sysctl_loads_persisted_settings_and_a_revert_restores_all() {
    on_a_low_host(|| {
        // The file exists before, written by an administrator, with permissions of its own.
        fs::write(SYSCTL_FILE, "# mine\nnet.core.somaxconn = 16\n").unwrap();
        fs::set_permissions(SYSCTL_FILE, fs::Permissions::from_mode(0o640)).unwrap();
        let before = HostState::now();
        tune("--apply");
        let raised = LOW.map(|(name, _)| get(name));
        // Settings that an earlier --apply raised are persisted too.
        tune("--persist");
        assert_eq!(LOW.map(|(name, _)| get(name)), raised);
        let text = fs::read_to_string(SYSCTL_FILE).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "# Written by `c1m tune --persist`; `c1m tune --revert` removes it.");
        let mut named = BTreeMap::new();
        for lines in lines[1..].chunks(3) {
            let [empty, reason, line] = lines else { panic!("{text}") };
            assert!(empty.is_empty() && reason.starts_with("# ") && reason.len() > 20, "{text}");
            let (name, value) = line.split_once(" = ").unwrap();
            assert_eq!(get(name).replace('\t', " "), value);
            named.insert(name, value);
        }
        assert!(named.len() >= 6 && named.contains_key("net.ipv4.ip_local_reserved_ports"), "{text}");
        // At the next boot the host has its own values, then the file is loaded.
        LOW.iter().for_each(|(name, value)| set(name, value));
        set("net.ipv4.ip_local_reserved_ports", "\n");
        load(SYSCTL_FILE);
        assert_eq!(LOW.map(|(name, _)| get(name)), raised);
        is_raised();
        revert();
        before.assert_restored("persist, boot, revert");
    });
}

#[test(Network, Mounts)]
fn limits_are_persisted_where_they_are_too_low() {
    on_a_low_host(|| {
        let before = HostState::now();
        let mut command = c1m();
        with_few_descriptors(&mut command);
        let finished = run_as(command, &format!("{GOAL} --persist"));
        assert_eq!(finished.code(), 0, "{}", finished.err);
        let text = fs::read_to_string(LIMITS_FILE).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("nofile")).collect();
        let value: u64 = lines[0].strip_prefix("* - nofile ").unwrap().parse().unwrap();
        assert!(value > 2_000, "{text}");
        assert_eq!(lines, [format!("* - nofile {value}"), format!("root - nofile {value}")]);
        revert();
        before.assert_restored("limits persisted, revert");
    });
}

pub fn with_few_descriptors(command: &mut Command) {
    let few = libc::rlimit { rlim_cur: 2_000, rlim_max: 2_000 };
    // SAFETY: setrlimit is async-signal-safe and reads the struct it is given.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &few) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

#[test(Network, Mounts)]
fn after_a_boot_revert_restores_the_values_before_the_first_apply() {
    on_a_low_host(|| {
        let before = HostState::now();
        tune("--persist");
        // After a boot the kernel has its own values, neither the old nor the new ones.
        for (name, value) in [("net.core.somaxconn", "4096"), ("net.ipv4.tcp_rmem", "4096\t131072\t6291456")] {
            set(name, value);
        }
        revert();
        before.assert_restored("persist, boot without the file, revert");
    });
}

#[test(Network, Mounts)]
fn a_generous_setting_is_left_alone() {
    on_a_low_host(|| {
        for (name, value) in [
            ("net.core.somaxconn", "65535"),
            ("net.ipv4.ip_local_port_range", "1024\t65535"),
            ("net.ipv4.tcp_rmem", "8192\t8192\t99999999"),
        ] {
            set(name, value);
        }
        tune("--apply");
        assert_eq!(get("net.core.somaxconn"), "65535");
        assert_eq!(get("net.ipv4.ip_local_port_range"), "1024\t65535");
        // Each of the three numbers is raised only if it is too low.
        assert_eq!(get("net.ipv4.tcp_rmem"), "8192\t131072\t99999999");
    });
}

#[test(Network, Mounts)]
fn a_setting_that_cannot_be_written_leaves_all_settings_unchanged() {
    on_a_low_host(|| {
        let before = HostState::now();
        for name in ["net.core.somaxconn", "net.ipv4.tcp_wmem"] {
            let file = sysctl_file(name).display().to_string();
            make_read_only(&file);
            for how in ["--apply", "--persist"] {
                run(&format!("{GOAL} {how}")).fails_with(3, &[name, "nothing was changed"]);
                before.assert_restored(&format!("{name} is read-only, {how}"));
            }
            unmount(&file);
        }
    });
}

#[test(Network, Mounts)]
fn a_folder_that_cannot_be_written_leaves_all_settings_unchanged() {
    on_a_low_host(|| {
        for folder in FOLDERS {
            let before = HostState::now();
            mount("none", folder, "", libc::MS_REMOUNT | libc::MS_RDONLY, "");
            let mut command = c1m();
            with_few_descriptors(&mut command);
            run_as(command, &format!("{GOAL} --persist")).fails_with(3, &[folder, "EROFS"]);
            mount("none", folder, "", libc::MS_REMOUNT, "");
            before.assert_restored(&format!("{folder} is read-only"));
        }
    });
}

#[test(Network, Mounts)]
fn a_value_that_the_kernel_refuses_undoes_those_before_it() {
    on_a_low_host(|| {
        let host = Host::here();
        let setting =
            |name, then: &str| Setting { name, now: get(name), then: then.to_owned(), reason: "a test".to_owned() };
        let good = [setting("net.core.somaxconn", "5000"), setting("net.ipv4.tcp_max_syn_backlog", "5000")];
        let bad = setting("net.ipv4.ip_local_port_range", "50000 40000");
        let before = HostState::now();
        let both = [&good[..], &[bad]].concat();
        let error = library::apply(&host, &both, None).unwrap_err().to_string();
        assert!(error.contains("ip_local_port_range") && error.contains("everything was set back"), "{error}");
        before.assert_restored("refused at first");
        // Settings that were applied before stay, and are still reverted to the first values.
        assert!(library::apply(&host, &good[..1], None).unwrap());
        let between = HostState::now();
        library::apply(&host, &both[1..], None).unwrap_err();
        between.assert_restored("refused after something was applied");
        library::revert(&host).unwrap().unwrap();
        before.assert_restored("reverted");
    });
}

#[test(Network, Mounts)]
fn a_revert_that_cannot_restore_all_keeps_the_state_and_is_finished_later() {
    on_a_low_host(|| {
        let before = HostState::now();
        tune("--persist");
        let file = sysctl_file("net.ipv4.tcp_wmem").display().to_string();
        make_read_only(&file);
        run("tune --revert").fails_with(3, &["net.ipv4.tcp_wmem"]);
        assert_eq!(get("net.core.somaxconn"), "16", "the others are restored");
        assert!(!Path::new(SYSCTL_FILE).exists());
        unmount(&file);
        revert();
        before.assert_restored("the second revert");
    });
}

#[test(Network, Mounts)]
fn a_state_that_is_not_ours_is_not_touched() {
    on_a_low_host(|| {
        fs::create_dir_all("/var/lib/c1m").unwrap();
        for (text, word) in [
            ("", "EOF"),
            ("{\"settings\": [", "EOF"),
            ("[1, 2]", "invalid"),
            ("{\"settings\": [], \"files\": []}", "missing field"),
            ("{\"version\": 3, \"steps\": []}", "version 3"),
        ] {
            fs::write(STATE, text).unwrap();
            let before = HostState::now();
            for how in ["--revert".to_owned(), format!("{} --apply", GOAL.strip_prefix("tune ").unwrap())] {
                run(&format!("tune {how}")).fails_with(3, &["/var/lib/c1m/tune.json", word]);
                before.assert_restored(&format!("{text} as state, {how}"));
            }
        }
    });
}

#[test(Network, Mounts)]
fn settings_of_another_network_namespace_are_not_mixed_up() {
    on_a_low_host(|| {
        tune("--apply");
        // SAFETY: no memory.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        let before = HostState::now();
        run("tune --revert").fails_with(3, &["another network namespace", "net:["]);
        before.assert_restored("revert elsewhere");
        // After a boot the name of a namespace has no meaning.
        let id = tempfile::NamedTempFile::new().unwrap();
        fs::write(id.path(), "00000000-0000-0000-0000-000000000000\n").unwrap();
        mount(id.path().to_str().unwrap(), "/proc/sys/kernel/random/boot_id", "", libc::MS_BIND, "");
        revert();
        assert_eq!(get("net.core.somaxconn"), "16");
    });
}

#[test(Network, Mounts)]
fn without_privilege_the_first_setting_is_named() {
    on_a_low_host(|| {
        let before = HostState::now();
        let first = tune("").out.lines().next().unwrap().to_owned();
        let dir = tempfile::tempdir().unwrap();
        run_as(c1m_unprivileged(&dir), &format!("{GOAL} --apply")).fails_with(3, &[&first, "as root"]);
        before.assert_restored("without privilege");
    });
}

/// Runs the program, and kills it before its `nth` system call that may change something outside of the process.
/// Returns whether the program made that many. Otherwise it must succeed.
fn killed_at(nth: usize, arguments: &str) -> bool {
    let Some(mut child) = stopped_at(nth, arguments) else { return false };
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

/// The same, but the program is stopped there, and traced by this thread. `None` if it made fewer such calls.
#[expect(clippy::zombie_processes, reason = "next_stop reaps it")]
fn stopped_at(nth: usize, arguments: &str) -> Option<Child> {
    let mut command = c1m();
    command.args(arguments.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    with_few_descriptors(&mut command);
    // SAFETY: ptrace is a system call, and takes no memory here.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let child = command.spawn().unwrap();
    let pid = child.id() as libc::pid_t;
    let mut seen = 0;
    let mut stop = next_stop(pid);
    // SAFETY: the child is ours, stopped after exec, and traced by this thread.
    unsafe {
        libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL);
    }
    while let Some(status) = stop {
        if libc::WIFEXITED(status) {
            assert_eq!(libc::WEXITSTATUS(status), 0, "{arguments}");
            return None;
        }
        seen += usize::from(is_about_to_change_something(pid));
        if seen == nth {
            return Some(child);
        }
        // SAFETY: the child is ours, stopped, and traced by this thread.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, pid, 0, 0) }, 0);
        stop = next_stop(pid);
    }
    unreachable!("a process stops or ends");
}

fn next_stop(pid: libc::pid_t) -> Option<libc::c_int> {
    let mut status = 0;
    // SAFETY: the child is ours, and status outlives the call.
    (unsafe { libc::waitpid(pid, &mut status, 0) } == pid).then_some(status)
}

/// Whether a traced process is about to make a system call that writes, makes, moves or removes a file.
fn is_about_to_change_something(pid: libc::pid_t) -> bool {
    const CHANGES: [libc::c_long; 8] = [
        libc::SYS_write,
        libc::SYS_fsync,
        libc::SYS_rename,
        libc::SYS_unlink,
        libc::SYS_mkdir,
        libc::SYS_rmdir,
        libc::SYS_fchmod,
        libc::SYS_ftruncate,
    ];
    // SAFETY: the child is ours, stopped, and traced by this thread. The kernel fills at most the given size, and
    // says which part of the union it has filled.
    let (call, flags) = unsafe {
        let mut info = std::mem::zeroed::<libc::ptrace_syscall_info>();
        libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size_of_val(&info), &raw mut info);
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return false;
        }
        (info.u.entry.nr as libc::c_long, info.u.entry.args[2] as libc::c_int)
    };
    let opens_to_write = call == libc::SYS_openat && flags & (libc::O_ACCMODE | libc::O_CREAT) != libc::O_RDONLY;
    opens_to_write || CHANGES.contains(&call)
}

#[test(Network, Mounts)]
fn a_persist_killed_before_any_of_its_writes_can_be_reverted() {
    on_a_low_host(|| {
        let before = HostState::now();
        let goal = format!("{GOAL} --persist");
        let kills = (1..).take_while(|nth| {
            let killed = killed_at(*nth, &goal);
            revert();
            before.assert_restored(&format!("killed at write {nth}, reverted"));
            killed
        });
        // A state file, seven settings and two files are opened, written, synchronised and renamed.
        let kills = kills.count();
        assert!(kills > 30, "{kills}");
    });
}

#[test(Network, Mounts)]
fn a_revert_killed_before_any_of_its_writes_can_be_repeated() {
    on_a_low_host(|| {
        fs::write(SYSCTL_FILE, "# mine\n").unwrap();
        let before = HostState::now();
        let kills = (1..).take_while(|nth| {
            tune("--persist");
            let killed = killed_at(*nth, "tune --revert");
            revert();
            before.assert_restored(&format!("revert killed at write {nth}, repeated"));
            killed
        });
        let kills = kills.count();
        assert!(kills > 15, "{kills}");
    });
}

#[test(Network, Mounts)]
fn a_second_apply_that_is_killed_is_reverted_to_the_first_values() {
    on_a_low_host(|| {
        let before = HostState::now();
        let more = format!("{} --persist", GOAL.replace("60000", "90000"));
        let kills = (1..).take_while(|nth| {
            tune("--apply");
            let killed = killed_at(*nth, &more);
            revert();
            before.assert_restored(&format!("second apply killed at write {nth}, reverted"));
            killed
        });
        let kills = kills.count();
        assert!(kills > 15, "{kills}");
    });
}
