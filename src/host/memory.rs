//! The memory that this host and the cgroups of this process have left for sockets.

use std::path::{Path, PathBuf};

use super::{Host, kilobytes};
use crate::constants::PAGE_BYTES;
use crate::memory_model::{By, Cache, Hierarchy, Kernel, Version, cache_names};
use crate::sys::kernel_version;

/// A limit of this many bytes or more is no limit: the kernel's "unlimited" is 2^63 rounded down to a page.
const UNLIMITED: u64 = 1 << 60;

/// The name of the host's own memory among limits.
pub const HOST_MEMORY: &str = "memory of this host";

/// The host's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All memory that the kernel manages (MemTotal).
    pub total: u64,
    /// Unused memory (MemFree).
    pub free: u64,
    /// The kernel's estimate of the memory that can be used without swapping (MemAvailable).
    pub available: u64,
    /// The memory that sockets can take before the kernel is short of it: see `Host::memory`.
    pub usable: u64,
    /// Memory of kernel objects (Slab).
    pub slab: u64,
}

/// A memory cgroup that has a limit and holds this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryCgroup {
    /// The file that sets the limit, such as `/sys/fs/cgroup/a.service/memory.max`.
    pub file: PathBuf,
    /// The version of cgroups, which decides what counts.
    pub hierarchy: Hierarchy,
    /// The limit in bytes.
    pub limit: u64,
    /// Bytes left below the limit. The group's page cache counts as left, as the kernel gives it up when it must.
    pub left: u64,
}

/// What one limit on memory has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLeft {
    /// The limit's name: "memory of this host", or the file that sets a cgroup's limit.
    pub name: String,
    /// What counts against the limit: that differs between the host and the versions of cgroups.
    pub by: By,
    /// The limit, or all of the host's memory, in bytes.
    pub total: u64,
    /// Bytes that are left now.
    pub left: u64,
}

impl Host {
    /// What each limit on memory has left: first the host's, where it can be read, then those of this process's
    /// cgroups.
    pub fn memory_left(&self) -> Vec<MemoryLeft> {
        let host = self.memory().map(|memory| MemoryLeft {
            name: HOST_MEMORY.to_owned(),
            by: By::Host,
            total: memory.total,
            left: memory.usable,
        });
        let groups = self.memory_cgroups().into_iter().map(|group| MemoryLeft {
            name: group.file.display().to_string(),
            by: By::Cgroup(group.hierarchy),
            total: group.limit,
            left: group.left,
        });
        host.into_iter().chain(groups).collect()
    }

    /// Bytes that the strictest of the limits on memory has left; no limit is known where none can be read.
    pub fn least_memory_left(&self) -> u64 {
        self.memory_left().iter().map(|limit| limit.left).min().unwrap_or(u64::MAX)
    }

    /// The memory of this host; `None` when /proc/meminfo cannot be read.
    ///
    /// `usable` is MemAvailable without its share of reclaimable slab: free pages beyond what the
    /// kernel keeps back in each zone (`calculate_totalreserve_pages`: the high watermark and the
    /// largest `lowmem_reserve`), and the file cache but for the part the kernel expects to need
    /// again (`si_mem_available` in mm/show_mem.c; half of it, or the low watermark). The slab
    /// share is left out because on a host full of connections it is the inodes and dentries of
    /// their sockets, which no reclaim can free: 1,057 of 4,170 bytes an end with kernel 6.18.
    pub fn memory(&self) -> Option<Memory> {
        let meminfo = self.read("proc/meminfo")?;
        let field = |name: &str| kilobytes(&meminfo, name);
        let free = field("MemFree:")?;
        let total = field("MemTotal:")?;
        let (low, reserve) = self.watermarks(total);
        let cache = field("Active(file):").unwrap_or(0).saturating_add(field("Inactive(file):").unwrap_or(0));
        let usable = free.saturating_sub(reserve).saturating_add(cache - (cache / 2).min(low));
        let available = field("MemAvailable:").unwrap_or(usable);
        Some(Memory { total, free, available, usable, slab: field("Slab:").unwrap_or(0) })
    }

    /// The low watermarks of all zones, and what the kernel keeps back in them, in bytes; zeros where the zones are not
    /// those of the `total` memory. lxcfs shows a container's memory in /proc/meminfo, and leaves the machine's
    /// /proc/zoneinfo as it is: what a large machine keeps back may be more than all that the container has.
    fn watermarks(&self, total: u64) -> (u64, u64) {
        match self.read("proc/zoneinfo").map(|text| Zones::read(&text)) {
            Some(zones) if zones.managed > total.saturating_add(total / 2) => (0, 0),
            Some(zones) => (zones.low, zones.reserve),
            // The low and high watermarks are 5/4 and 6/4 of the minimum.
            None => {
                let min = self.sysctl("vm.min_free_kbytes").unwrap_or(0).saturating_mul(1024);
                ((min / 4).saturating_mul(5), (min / 2).saturating_mul(3))
            }
        }
    }

    /// Every memory limit of the cgroups that this process is in, from its own group up to the
    /// topmost that can be seen, v1 and v2; empty where there is none.
    pub fn memory_cgroups(&self) -> Vec<MemoryCgroup> {
        let folders = self.cgroup_folders("memory").into_iter();
        folders.filter_map(|(hierarchy, folder)| self.memory_cgroup(&folder, hierarchy)).collect()
    }

    /// How often the cgroups of this process met their memory limits (memory.failcnt of v1, `max` of v2's
    /// memory.events.local). The topmost group that can be seen is included. The file memory.events would count the hits
    /// of all groups below a group as its own, those of neighbours too.
    pub(super) fn memory_cgroup_hits(&self) -> u64 {
        let hits = |(hierarchy, folder): (Hierarchy, PathBuf)| match hierarchy {
            Hierarchy::V1 => self.read_at(&folder.join("memory.failcnt"))?.trim().parse::<u64>().ok(),
            Hierarchy::V2 => {
                let events = self.read_at(&folder.join("memory.events.local"))?;
                events.lines().find_map(|line| line.strip_prefix("max "))?.trim().parse::<u64>().ok()
            }
        };
        self.cgroup_folders("memory").into_iter().filter_map(hits).fold(0, u64::saturating_add)
    }

    fn memory_cgroup(&self, folder: &Path, hierarchy: Hierarchy) -> Option<MemoryCgroup> {
        let (limits, used): (&[&'static str], _) = match hierarchy {
            Hierarchy::V1 => (&["memory.limit_in_bytes"], "memory.usage_in_bytes"),
            // Beyond memory.high every allocation sleeps, which is as bad for a server as to be refused.
            Hierarchy::V2 => (&["memory.max", "memory.high"], "memory.current"),
        };
        let number = |name: &str| self.read_at(&folder.join(name))?.trim().parse::<u64>().ok();
        let limit = |name: &'static str| Some((number(name).filter(|limit| *limit < UNLIMITED)?, name));
        let (limit, name) = limits.iter().copied().filter_map(limit).min()?;
        let stat = self.read_at(&folder.join("memory.stat")).unwrap_or_default();
        let field = |name: &str| {
            let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok();
            stat.lines().find_map(value)
        };
        // v1 counts a group's children under other names: those that begin with `total_`.
        let cache = |name: &str| field(&format!("total_{name}")).or(field(name)).unwrap_or(0);
        let cache = cache("inactive_file").saturating_add(cache("active_file"));
        let left = limit.saturating_sub(number(used)?.saturating_sub(cache));
        Some(MemoryCgroup { file: folder.join(name), hierarchy, limit, left })
    }

    /// What decides how much memory a connection takes with this host's kernel. Only root may read how slab caches are
    /// packed; for others the caches stay unknown.
    pub fn memory_kernel(&self) -> Kernel {
        let slabinfo = self.read("proc/slabinfo").unwrap_or_default();
        // Merged caches appear in slabinfo under the name of the first; sysfs has them all.
        let listed = self.exists("sys/kernel/slab/TCP");
        let packing = |name: &'static str| {
            let found = self.sysfs_cache(name).or_else(|| slabinfo.lines().find_map(|line| slab_row(line, name)));
            let absent = listed && !self.exists(&format!("sys/kernel/slab/{name}"));
            (found.is_some() || absent).then(|| (name.to_owned(), found))
        };
        let off = self.read("proc/cmdline").is_some_and(|line| line.contains("nokmem"));
        Kernel {
            version: self.kernel_version(),
            caches: cache_names().filter_map(packing).collect(),
            accounting: !off && self.has_memory_groups(),
            apparmor: self.read("sys/module/apparmor/parameters/enabled").is_some_and(|text| text.starts_with('Y')),
        }
    }

    /// Whether there are memory cgroups beside the root: from the first one on the kernel counts (`memcg_online_kmem`).
    fn has_memory_groups(&self) -> bool {
        let controllers = self.read("proc/cgroups").unwrap_or_default();
        match controllers.lines().find(|line| line.split_whitespace().next() == Some("memory")) {
            Some(row) => memory_groups_exist(row),
            // A kernel without the controller's code for v1 has no such line (`proc_cgroupstats_show`, Linux 6.12).
            None => self.has_memory_groups_of_v2(),
        }
    }

    /// Whether hierarchy v2 has memory groups beside the root, as far as this process sees its own group and those above:
    /// one of them is such a group, which the root is not, or hands the controller down to the groups below.
    fn has_memory_groups_of_v2(&self) -> bool {
        let is_v2 = |(hierarchy, _): &(Hierarchy, PathBuf)| *hierarchy == Hierarchy::V2;
        self.cgroup_folders("memory").into_iter().filter(is_v2).any(|(_, folder)| {
            let handed_down = self.read_at(&folder.join("cgroup.subtree_control")).unwrap_or_default();
            self.read_at(&folder.join("memory.current")).is_some()
                || handed_down.split_whitespace().any(|controller| controller == "memory")
        })
    }

    fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    fn sysfs_cache(&self, name: &str) -> Option<Cache> {
        let number = |file: &str| {
            let text = self.read(&format!("sys/kernel/slab/{name}/{file}"))?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        };
        let (size, per_slab, order) = (number("slab_size")?, number("objs_per_slab")?, number("order")?);
        (per_slab > 0 && order < 32).then_some(Cache { size, per_slab, pages: 1 << order })
    }

    /// Major and minor version of the kernel; (0, 0) when it cannot be read.
    pub fn kernel_version(&self) -> Version {
        kernel_version(&self.read("proc/sys/kernel/osrelease").unwrap_or_default())
    }
}

/// What /proc/zoneinfo tells, summed over zones, in bytes.
struct Zones {
    /// Memory that the kernel manages.
    managed: u64,
    /// The low watermarks.
    low: u64,
    /// What the kernel keeps back.
    reserve: u64,
}

impl Zones {
    fn read(text: &str) -> Zones {
        let mut zones = Zones { managed: 0, low: 0, reserve: 0 };
        let add = |sum: &mut u64, pages: u64| *sum = sum.saturating_add(pages.saturating_mul(PAGE_BYTES));
        let (mut low, mut high, mut managed) = (0u64, 0u64, 0u64);
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let name = words.next();
            let mut value = || words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            match name {
                Some("low") => low = value(),
                Some("high") => high = value(),
                Some("managed") => managed = value(),
                // The last line of a zone that counts here.
                Some("protection:") => {
                    let digits = line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u64>().ok());
                    let reserve = digits.max().unwrap_or(0).saturating_add(high);
                    // A zone without pages has watermarks that hold nothing back.
                    add(&mut zones.low, low.min(managed));
                    add(&mut zones.reserve, reserve.min(managed));
                    add(&mut zones.managed, managed);
                }
                _ => {}
            }
        }
        zones
    }
}

/// Whether the line of the memory controller in /proc/cgroups says that it is on and has groups beside the root.
fn memory_groups_exist(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    matches!(words[..], [_, _, groups, "1"] if groups.parse::<u64>().is_ok_and(|groups| groups > 1))
}

/// A row of /proc/slabinfo (version 2.1), if it is of that cache.
fn slab_row(line: &str, name: &str) -> Option<Cache> {
    let mut words = line.split_whitespace();
    if words.next()? != name {
        return None;
    }
    let mut number = |skip: usize| words.nth(skip)?.parse::<u64>().ok();
    let (size, per_slab, pages) = (number(2)?, number(0)?, number(0)?);
    (per_slab > 0).then_some(Cache { size, per_slab, pages })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        super::super::tests::host(files)
    }

    const ZONES: &str = "Node 0, zone DMA\n  pages free 3840\n        min 19\n        low 23\n        high 27\n        managed 3840\n        protection: (0, 3019, 13259)\nNode 0, zone Normal\n        min 100\n        low 125\n        high 150\n        managed 100000\n        protection: (0, 0, 0)\nNode 0, zone Movable\n        min 32\n        low 32\n        high 32\n        managed 0\n        protection: (0, 0, 0)\n";

    #[test]
    fn usable_memory_leaves_out_watermarks_and_socket_slab() {
        let meminfo = "MemTotal: 400000 kB\nMemFree: 300000 kB\nMemAvailable: 390000 kB\nActive(file): 6000 kB\nInactive(file): 4000 kB\nSReclaimable: 90000 kB\n";
        let (_dir, host) = host(&[("proc/meminfo", meminfo), ("proc/zoneinfo", ZONES)]);
        let memory = host.memory().unwrap();
        // Reserved are all pages of the DMA zone and 150 of Normal, and of the file cache the low watermark.
        let expected = (300_000 << 10) - (3840 + 150) * PAGE_BYTES + (10_000 << 10) - (23 + 125) * PAGE_BYTES;
        assert_eq!((memory.usable, memory.available), (expected, 390_000 << 10));
    }

    /// lxcfs replaces /proc/meminfo by the container's, and no other file: here a machine of 256 GiB keeps 1.2 GiB back.
    #[test]
    fn a_container_of_a_large_machine_keeps_none_of_its_watermarks() {
        let zones = "Node 0, zone Normal\n        min 150000\n        low 225000\n        high 300000\n        managed 66000000\n        protection: (0, 0, 0)\n";
        let usable = |total: &str| {
            let meminfo = format!("MemTotal: {total} kB\nMemFree: 1000000 kB\nActive(file): 20000 kB\n");
            let (_dir, host) = host(&[("proc/meminfo", &meminfo), ("proc/zoneinfo", zones)]);
            host.memory().unwrap().usable
        };
        assert_eq!(usable("1048576"), 1_020_000 << 10);
        assert_eq!(usable("264000000"), 10_000 << 10, "the machine itself is short of memory");
    }

    /// A v2 group's memory.events has the hits of all groups below it too.
    #[test]
    fn a_hit_counts_once_and_only_if_it_is_of_our_own_groups() {
        let (_dir, host) = host(&[
            ("proc/self/cgroup", "0::/a/b\n"),
            ("proc/self/mountinfo", "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/a/memory.events", "low 0\nhigh 0\nmax 1007\noom 900\n"),
            ("sys/fs/cgroup/a/memory.events.local", "low 0\nhigh 0\nmax 2\noom 0\n"),
            ("sys/fs/cgroup/a/b/memory.events", "low 0\nhigh 0\nmax 5\noom 3\n"),
            ("sys/fs/cgroup/a/b/memory.events.local", "low 0\nhigh 0\nmax 5\noom 3\n"),
            ("sys/fs/cgroup/a/neighbour/memory.events.local", "low 0\nhigh 0\nmax 1000\noom 897\n"),
        ]);
        assert_eq!(host.net_counters()["cgroup_memory_hits"], 7);
    }

    /// Whether the kernel counts what a group's processes take, by what the host shows of groups.
    #[test]
    fn memory_is_counted_from_the_first_group_on() {
        const MOUNT: (&str, &str) = ("proc/self/mountinfo", "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        const NEW: (&str, &str) = ("proc/cgroups", "#subsys_name hierarchy num_cgroups enabled\ncpu\t0\t90\t1\n");
        let row = |row| [MOUNT, ("proc/self/cgroup", "0::/a\n"), ("proc/cgroups", row), ("sys/none", "")];
        let new = |group, file, text| [MOUNT, NEW, ("proc/self/cgroup", group), (file, text)];
        for (files, counts) in [
            (row("memory\t0\t3\t1\n"), true),
            (row("memory\t0\t1\t1\n"), false),
            (row("memory\t0\t3\t0\n"), false),
            (new("0::/a\n", "sys/fs/cgroup/a/memory.current", "70000\n"), true),
            (new("0::/\n", "sys/fs/cgroup/cgroup.subtree_control", "cpuset cpu memory pids\n"), true),
            (new("0::/\n", "sys/fs/cgroup/cgroup.subtree_control", "cpu pids\n"), false),
            (new("0::/a\n", "sys/fs/cgroup/a/pids.current", "7\n"), false),
        ] {
            let (_dir, host) = host(&files);
            assert_eq!(host.memory_kernel().accounting, counts, "{files:?}");
        }
    }

    #[test]
    fn a_host_without_memory_files_has_no_walls() {
        let (_dir, host) = host(&[]);
        assert_eq!(host.memory(), None);
        assert!(host.memory_cgroups().is_empty());
        assert_eq!(host.memory_kernel().version, (0, 0));
    }

    #[test]
    fn limits_of_both_hierarchies_count_along_the_whole_path() {
        let (_dir, host) = host(&[
            ("proc/self/cgroup", "4:memory:/a/b\n1:cpu:/x\n0::/c\n"),
            (
                "proc/self/mountinfo",
                "35 32 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1000000\n"),
            ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "400000\n"),
            ("sys/fs/cgroup/memory/a/memory.stat", "inactive_file 1\ntotal_inactive_file 100000\n"),
            ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/unified/c/memory.max", "max\n"),
            ("sys/fs/cgroup/unified/c/memory.high", "5000\n"),
            ("sys/fs/cgroup/unified/c/memory.current", "6000\n"),
        ]);
        let found = host.memory_cgroups();
        let seen: Vec<_> = found.iter().map(|group| (group.file.to_str().unwrap(), group.limit, group.left)).collect();
        assert_eq!(
            seen,
            [
                ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", 1_000_000, 700_000),
                ("/sys/fs/cgroup/unified/c/memory.high", 5_000, 0)
            ]
        );
    }

    #[test]
    fn a_container_sees_its_limit_at_the_top_of_the_mount() {
        for (group, top) in [("/docker/123", "/docker/123"), ("/docker/123", "/"), ("/../other", "/"), ("/", "/")] {
            let (_dir, host) = host(&[
                ("proc/self/cgroup", &format!("0::{group}\n")),
                ("proc/self/mountinfo", &format!("1 0 0:1 {top} /sys/fs/cgroup ro - cgroup2 cgroup rw\n")),
                ("sys/fs/cgroup/memory.max", "70000\n"),
                ("sys/fs/cgroup/memory.current", "20000\n"),
            ]);
            let found = host.memory_cgroups();
            assert_eq!(found.iter().map(|group| group.left).collect::<Vec<_>>(), [50_000], "{group} below {top}");
        }
    }

    #[test]
    fn caches_are_known_by_sysfs_or_slabinfo_or_not_at_all() {
        let (_dir, host) = host(&[
            ("proc/sys/kernel/osrelease", "6.1.0-56-cloud-amd64\n"),
            ("proc/cgroups", "#subsys_name hierarchy num_cgroups enabled\nmemory\t0\t3\t1\n"),
            ("proc/slabinfo", "slabinfo - version: 2.1\nfilp 10 20 256 16 1 : tunables 0 0 0 : slabdata 1 1 0\n"),
            ("sys/kernel/slab/TCP/slab_size", "2304\n"),
            ("sys/kernel/slab/TCP/objs_per_slab", "14\n"),
            ("sys/kernel/slab/TCP/order", "3\n"),
            ("sys/kernel/slab/dentry/order", "unreadable"),
        ]);
        let kernel = host.memory_kernel();
        assert_eq!((kernel.version, kernel.accounting, kernel.apparmor), ((6, 1), true, false));
        assert_eq!(kernel.caches["TCP"], Some(Cache { size: 2304, per_slab: 14, pages: 8 }));
        assert_eq!(kernel.caches["filp"], Some(Cache { size: 256, per_slab: 16, pages: 1 }));
        assert_eq!(kernel.caches["lsm_file_cache"], None);
        assert!(!kernel.caches.contains_key("dentry"), "it exists, and nobody may read it");
    }
}
