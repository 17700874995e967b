//! The wall of rights without which no connection sleeps.

use super::{Finding, Wall};
use crate::error::Error;
use crate::host::Host;
use crate::plan::Goal;
use crate::sys;

/// The wall of a process that may not put connections to sleep. It is judged only for goals that need sleep, and stands in
/// no table: other programs do not meet it.
pub const SLEEP: Wall = Wall {
    name: "sleep",
    symptom: "c1m does not start with --hibernate, and names a capability or the kernel",
    evidence: "CapEff in /proc/self/status; the user namespace in /proc/self/ns/user; the kernel's version",
    cure: "AmbientCapabilities=CAP_NET_ADMIN CAP_BPF CAP_PERFMON CAP_NET_RAW in a systemd unit, or root",
    judge: sleep,
    blame: super::never,
};

fn sleep(host: &Host, goal: &Goal) -> Finding {
    let ends = if goal.role.ends() == 2 { "at both ends" } else { "here" };
    let need = format!("Linux 6.1, CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON and CAP_NET_RAW {ends}");
    let have = format!("kernel {}", sys::kernel_release());
    match host.check_hibernation() {
        Ok(()) => Finding::fine(format!("{have}, all capabilities"), need),
        Err(Error::Host(refused)) => {
            let why = refused.parts();
            Finding::fine(format!("{have}; {}", why.means), need).blocking_if(true).advise(false, why.cure)
        }
        Err(other) => Finding::fine(format!("{have}; {other}"), need).blocking_if(true),
    }
}
