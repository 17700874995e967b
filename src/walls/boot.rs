//! The kernel command line of a small machine that does nothing but hold connections.

use crate::plan::Goal;

/// A parameter of the kernel's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// As it is typed.
    pub text: String,
    /// Bytes it saves of each connection's end, measured with kernel 6.1; `None` where it saves
    /// nothing that depends on the connections.
    pub bytes: Option<u64>,
    /// What it does.
    pub reason: &'static str,
}

/// The parameters for a goal.
pub fn parameters(goal: &Goal) -> Vec<Parameter> {
    let of = |text: &str, bytes, reason| Parameter { text: text.to_owned(), bytes, reason };
    let sockets = goal.sockets(goal.connections) * goal.role.ends();
    vec![
        of("slub_min_order=3", Some(24), "larger slabs waste less behind their last object"),
        of(
            "transparent_hugepage=never",
            None,
            "the kernel keeps 60 MiB more free for huge pages that no connection uses",
        ),
        of("cgroup_disable=memory", Some(55), "no accounting of each object to a cgroup, where there are any"),
        of("lsm=capability", Some(72), "no security modules, and no blobs of theirs on sockets, inodes and files"),
        of("swiotlb=noforce", None, "no 64 MiB bounce buffer for devices that cannot reach all memory"),
        of(
            &format!("thash_entries={}", sockets.next_power_of_two()),
            None,
            "a chain for each connection, at 8 bytes; a small machine makes few",
        ),
        of("dhash_entries=4096", None, "4 MiB of a 4 GiB machine: names of files, of which it looks up few"),
        of("ihash_entries=4096", None, "2 MiB likewise: sockets stand in neither table"),
    ]
}
