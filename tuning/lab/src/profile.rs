//! Boot parameters: those the lab itself needs, and those of a profile.

use c1m::internal::plan::{Goal, Layers, Ports, Role, Routes};
use c1m::internal::walls::boot;
use clap::ValueEnum;

/// The console for the log; a panic ends the machine, and with it QEMU. On a busy host, a guest that
/// waits 40 ms for its timer finds none and panics, so it shall not check. And it shall believe its TSC,
/// which is the host's: with two processors it otherwise takes its time from a device, at a system call
/// for each look. The rest is speed alone: nothing in such a machine needs a defence against the rest.
const LAB: &str = "console=ttyS0 panic=-1 no_timer_check tsc=reliable mitigations=off init_on_alloc=0 \
    hardened_usercopy=off randomize_kstack_offset=off kfence.sample_interval=0";

/// Which boot parameters a machine gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// The kernel's own.
    Standard,
    /// Those of `c1m tune --profile extreme`, explained in tuning/cmdline.md.
    Extreme,
}

impl Profile {
    /// The boot command line of an end of so many connections, of which `awake` at most have sockets at once if others
    /// sleep, with `more` behind it.
    pub fn command_line(self, role: Role, connections: u64, awake: Option<u64>, more: &str) -> String {
        let own = match self {
            Profile::Standard => String::new(),
            Profile::Extreme => extreme(role, connections, awake),
        };
        let parts = [LAB, &own, more.trim()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// What `c1m tune --profile extreme` prints for this goal.
fn extreme(role: Role, connections: u64, awake: Option<u64>) -> String {
    let routes = Routes { targets: Vec::new(), ports: Ports::ARTICLE, sources: Vec::new() };
    let (cores, layers) = (vec![0], Layers::default());
    // It does not matter for boot parameters whether descriptors are kept.
    let parameters =
        boot::parameters(&Goal { role, connections, awake, keeps_descriptors: false, routes, cores, layers });
    parameters.into_iter().map(|parameter| parameter.text).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../cmdline.md");

    /// What the document tells people to copy is what the lab boots with.
    #[test]
    fn the_document_holds_the_parameters() {
        let block = DOCUMENT.split("```").nth(1).and_then(|block| block.lines().nth(1)).unwrap();
        assert_eq!(block, extreme(Role::Server, 1_020_000, None));
    }

    #[test]
    fn a_line_is_ours_the_profiles_and_more() {
        let line = Profile::Extreme.command_line(Role::Server, 1_020_000, None, " nokaslr ");
        assert!(line.starts_with(LAB) && line.contains(" slub_min_order=") && line.ends_with(" nokaslr"), "{line}");
        assert_eq!(Profile::Standard.command_line(Role::Server, 1, None, ""), LAB);
    }
}
