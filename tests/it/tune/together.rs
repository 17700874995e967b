//! Several runs of `tune`, one after the other and at once.

use std::process::ExitStatus;

use super::*;

/// A limit that an earlier --persist wrote stays, although a later one does not ask for it: it may be in force by then.
#[test(Network, Mounts)]
fn limits_of_an_earlier_persist_stay() {
    on_a_low_host(|| {
        let before = HostState::now();
        let persist = |preparation: &str, connections: &str| -> Vec<String> {
            let goal = format!("{} --persist", GOAL.replace("60000", connections));
            let finished = run_as(c1m_after(preparation), &goal);
            assert_eq!(finished.code(), 0, "{}", finished.err);
            fs::read_to_string(LIMITS_FILE).unwrap().lines().map(str::to_owned).collect()
        };
        let first = persist("ulimit -l 64", "60000");
        assert_eq!(first.iter().filter(|line| line.contains("memlock")).count(), 2, "{first:?}");
        let second = persist("ulimit -n 2000", "60000");
        assert!(first.iter().all(|line| second.contains(line)), "{first:?} {second:?}");
        assert_eq!(second.iter().filter(|line| line.contains("nofile")).count(), 2, "{second:?}");
        // A smaller goal lowers none.
        assert_eq!(persist("ulimit -l 64 && ulimit -n 2000", "20000"), second);
        revert();
        before.assert_restored("persisted three times, revert");
    });
}

/// Whether a process waits for the lock of another one.
fn waits_for_a_lock(pid: u32) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    call.split(' ').next() == Some(&libc::SYS_flock.to_string())
}

/// Has a process go on that was stopped, to its end.
fn goes_on(mut process: Child) -> ExitStatus {
    // SAFETY: the child is ours, stopped, and traced by this thread.
    assert_eq!(unsafe { libc::ptrace(libc::PTRACE_DETACH, process.id() as libc::pid_t, 0, 0) }, 0);
    process.wait().unwrap()
}

/// Wherever one run is when another one begins: what was there before both is restored.
#[test(Network, Mounts)]
fn two_runs_at_once_can_be_reverted() {
    on_a_low_host(|| {
        let before = HostState::now();
        let small = format!("{} --apply", GOAL.replace("60000", "20000"));
        let stops = (1..).take_while(|nth| {
            let Some(first) = stopped_at(*nth, &small) else {
                revert();
                return false;
            };
            let mut command = c1m();
            with_few_descriptors(&mut command);
            command.args(GOAL.split_whitespace()).arg("--persist");
            let mut second = Running::start(command);
            let pid = second.pid();
            eventually("the second run waits or has ended", || second.has_ended() || waits_for_a_lock(pid));
            let (first, second) = (goes_on(first), second.wait());
            // One of them finds that the other has changed what it was to raise, unless it was done before.
            let codes = [first.code(), Some(second.code())];
            assert!(
                codes.contains(&Some(0)) && codes.iter().all(|code| [Some(0), Some(3)].contains(code)),
                "{codes:?}"
            );
            assert!(*nth > 1 || codes == [Some(3), Some(0)], "{codes:?}: the first one had not begun");
            revert();
            before.assert_restored(&format!("one stopped before write {nth}, the other run meanwhile, reverted"));
            true
        });
        let stops = stops.count();
        assert!(stops > 15, "{stops}");
    });
}
