//! The needs of tests beyond an ordinary user on any Linux. Each need is probed once. A test whose need is not met
//! is skipped, counted, and listed with the reason.
//!
//! With `C1M_NO_SKIPS=1` a skipped test is a failure, unless this kernel was built without the needed feature.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use c1m::error::{Error, HibernationReason, HostReason};
use c1m::internal::host::Host;
use c1m::internal::sys::Filter;
use libtest_mimic::{Arguments, Completion, Trial};
use socket2::{Domain, SockFilter, SockRef, Socket, Type};

use crate::firewall;
use crate::memory::Cgroup;
use crate::support::{NOBODY, in_own_network};
use crate::times::Times;

/// A test, as `#[test]` registers it.
pub struct Test {
    pub name: &'static str,
    pub needs: &'static [Need],
    pub run: fn(),
}

inventory::collect!(Test);

/// A need of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// A network namespace of its own.
    Network,
    /// A mount namespace of its own.
    Mounts,
    /// Packet filter rules in its network namespace.
    Rules,
    /// Connection tracking in its network namespace, with a table that a test may fill.
    Tracking,
    /// A memory cgroup of its own, with a limit.
    MemoryCgroup,
    /// The BPF filter behind which a server's idle connections wait.
    SocketFilter,
    /// Connections that sleep.
    Hibernation,
    /// Sockets that take a source port from a range of their own (IP_LOCAL_PORT_RANGE, Linux 6.3).
    SourcePortRange,
    /// The right to run programs as other users.
    Users,
    /// The program `sysctl` of procps, which loads all files of settings.
    SysctlLoader,
    /// A classic BPF filter on a socket of the test's own, which drops packets.
    ClassicFilter,
}

/// The reason why a need is not met.
#[derive(Clone, Debug)]
pub struct Lack {
    reason: String,
    /// Whether the machine lacks the feature for every user.
    kernel: bool,
}

impl Lack {
    fn new(what: &str, why: &io::Error) -> Lack {
        let kernel = matches!(why.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::ENOENT));
        Lack { reason: format!("{what} ({why})"), kernel }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Need {
    /// Whether the need is met on this machine and for this user. The result of the first probe is kept.
    fn met(self) -> Result<(), Lack> {
        static PROBED: Mutex<BTreeMap<Need, Result<(), Lack>>> = Mutex::new(BTreeMap::new());
        PROBED.lock().unwrap().entry(self).or_insert_with(|| self.probe()).clone()
    }

    fn probe(self) -> Result<(), Lack> {
        match self {
            Need::Network => unshared(libc::CLONE_NEWNET, "no network namespace of its own"),
            Need::Mounts => unshared(libc::CLONE_NEWNS, "no mount namespace of its own"),
            Need::Rules => {
                Need::Network.probe()?;
                let made = in_own_network(|| firewall::add_rule(|_| ()));
                made.map_err(|why| Lack::new("no packet filter rules", &why))
            }
            Need::Tracking => {
                Need::Rules.probe()?;
                in_own_network(tracking)
            }
            Need::MemoryCgroup => {
                let made = Cgroup::with_limit(40 << 20);
                // If the new group has no file for the limit, the controller may merely be switched off.
                let kernel = !Cgroup::can_limit_memory();
                made.map(drop).map_err(|why| Lack { kernel, ..Lack::new("no memory cgroup of its own", &why) })
            }
            Need::SourcePortRange => {
                let taken = Socket::new(Domain::IPV4, Type::STREAM, None)
                    .and_then(|socket| c1m::internal::sys::set_source_ports(&socket, 40_000));
                // An older kernel does not know the option.
                taken.map_err(|why| Lack { kernel: true, ..Lack::new("no range of source ports per socket", &why) })
            }
            Need::Users => on_a_thread("no right to run programs as other users", || {
                // SAFETY: no memory. Without the C library the user changes for this thread alone.
                unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) as libc::c_int }
            }),
            Need::SysctlLoader => {
                let found = std::process::Command::new("sysctl").arg("--version").output();
                // A machine without procps loads its settings with another program.
                let lacks = |why| Lack { kernel: true, ..Lack::new("no sysctl of procps", &why) };
                found.map(drop).map_err(lacks)
            }
            Need::ClassicFilter => {
                let pass_all = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX);
                let attached = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                    .and_then(|listener| SockRef::from(&listener).attach_filter(&[pass_all]));
                attached.map_err(|why| Lack::new("no filter on a socket of the test's own", &why))
            }
            Need::Hibernation => {
                let host = Host::here();
                let shared = host.check_hibernation().and_then(|()| host.share_catcher(1, 1, None));
                shared.map(drop).map_err(|error| Lack { kernel: is_of_the_kernel(&error), reason: error.to_string() })
            }
            Need::SocketFilter => Filter::probe().map_err(|why| Lack::new("no filter of sockets", &why)),
        }
    }
}

/// Whether sleep fails because the kernel lacks something, and not this user.
fn is_of_the_kernel(error: &Error) -> bool {
    let reason = if let Error::Host(error) = error { Some(error.reason()) } else { None };
    matches!(reason, Some(HostReason::Hibernation(HibernationReason::Kernel { .. })))
}

/// Whether a thread may have a namespace of its own.
fn unshared(namespace: libc::c_int, otherwise: &str) -> Result<(), Lack> {
    // SAFETY: no memory.
    on_a_thread(otherwise, || unsafe { libc::unshare(namespace) })
}

/// Whether a system call succeeds that changes the thread which makes it.
fn on_a_thread(otherwise: &str, call: impl FnOnce() -> libc::c_int + Send) -> Result<(), Lack> {
    let probe = || if call() == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    let made = std::thread::scope(|scope| scope.spawn(probe).join().unwrap());
    made.map_err(|why| Lack::new(otherwise, &why))
}

/// Whether connections are tracked where a rule asks for it, and a test may fill the table. The table's size is one
/// number for the whole host, and an entry takes up to 320 bytes.
fn tracking() -> Result<(), Lack> {
    firewall::try_to_track().map_err(|why| Lack::new("no connection tracking", &why))?;
    let (_, most) = firewall::tracked();
    let left = Host::here().memory().map_or(0, |memory| memory.usable);
    if most * 320 <= left / 4 {
        return Ok(());
    }
    let reason = format!("nf_conntrack_max is {most}: to fill the table would take a quarter of the memory and more");
    Err(Lack { reason, kernel: false })
}

/// Runs the tests that the command line selects, as the standard harness does. Lists the skipped tests, and the slowest
/// ones.
pub fn run_all() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // The rings of all processes of an ordinary user count against one limit on locked memory, by default 8 MiB. Such
    // a user's tests run one after the other.
    arguments.test_threads.get_or_insert(if may_lock_memory() { AT_ONCE.max(cores) } else { 1 });
    let strict = std::env::var_os("C1M_NO_SKIPS").is_some_and(|value| value == "1");
    let skipped = Arc::new(Mutex::new(BTreeMap::new()));
    let mut tests: Vec<&Test> = inventory::iter::<Test>.into_iter().collect();
    tests.sort_by_key(|test| test.name);
    let times = Arc::new(Times::default());
    let trials = tests.into_iter().map(|test| trial(test, strict, skipped.clone(), times.clone())).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    times.print();
    let skipped = skipped.lock().unwrap();
    if !skipped.is_empty() {
        println!("skipped: {} tests, for want of what they need", skipped.len());
        skipped.iter().for_each(|(name, lack)| println!("skipped: {name}: {lack}"));
        println!();
    }
    conclusion.exit_code()
}

/// Tests that run at once, if not as many as there are cores. They spend most of their time on waiting, such as for the
/// times of the programs: with two at once two cores were busy for a quarter of it.
const AT_ONCE: usize = 8;

/// Whether this process has CAP_IPC_LOCK, which exempts its locked memory from limits.
fn may_lock_memory() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() >> CAP_IPC_LOCK & 1 == 1
}

/// The skipped tests, each with the reason.
type Skipped = Arc<Mutex<BTreeMap<&'static str, Lack>>>;

fn trial(test: &'static Test, strict: bool, skipped: Skipped, times: Arc<Times>) -> Trial {
    let name = test.name.strip_prefix(concat!(env!("CARGO_CRATE_NAME"), "::")).unwrap_or(test.name);
    Trial::ignorable_test(name, move || {
        if let Some(lack) = test.needs.iter().find_map(|need| need.met().err()) {
            if strict && !lack.kernel {
                return Err(format!("skipped, and C1M_NO_SKIPS=1 forbids that: {lack}").into());
            }
            skipped.lock().unwrap().insert(name, lack.clone());
            return Ok(Completion::ignored_with(lack));
        }
        // Each test runs on a thread of its own. The thread has the test's name, for panics, and the test's
        // processes end with it.
        let begun = Instant::now();
        let ended = std::thread::Builder::new().name(name.to_owned()).spawn(test.run).unwrap().join();
        times.add(name, begun.elapsed());
        ended.map_or_else(|panic| std::panic::resume_unwind(panic), |()| Ok(Completion::Completed))
    })
}
