//! The control groups of this process: their folders, and the processor time that they allow.

use std::path::{Path, PathBuf};

use super::{Host, Reading};
use crate::memory_model::Hierarchy;

impl Host {
    /// The folders of this process's groups of one controller, and of all groups above them, as far as they can be
    /// seen; empty where there is none.
    pub(super) fn cgroup_folders(&self, controller: &str) -> Vec<(Hierarchy, PathBuf)> {
        let groups = self.read("proc/self/cgroup").unwrap_or_default();
        let mounts = self.read("proc/self/mountinfo").unwrap_or_default();
        let of = |hierarchy| {
            let path = groups.lines().find_map(|line| group_path(line, hierarchy, controller));
            let mount = mounts.lines().find_map(|line| Mount::parse(line, hierarchy, controller));
            let folders = path.zip(mount).map(|(path, mount)| mount.folders(path)).unwrap_or_default();
            folders.into_iter().map(move |folder| (hierarchy, folder))
        };
        of(Hierarchy::V1).chain(of(Hierarchy::V2)).collect()
    }

    /// Whether all limits of one controller on this process can be seen. They can if the process is in no group of that
    /// controller, or if the controller's hierarchy is mounted here.
    pub fn shows_cgroups(&self, controller: &str) -> bool {
        let groups = match self.reading("proc/self/cgroup") {
            Reading::Text(groups) => groups,
            // A kernel without cgroups has no such file; a container without /proc has none at all.
            Reading::Absent => return matches!(self.reading("proc/self/status"), Reading::Text(_)),
            Reading::Refused(_) => return false,
        };
        let mounts = self.read("proc/self/mountinfo").unwrap_or_default();
        let in_group = |hierarchy| groups.lines().any(|line| group_path(line, hierarchy, controller).is_some());
        let mounted = |hierarchy| mounts.lines().any(|line| Mount::parse(line, hierarchy, controller).is_some());
        match (in_group(Hierarchy::V1), in_group(Hierarchy::V2)) {
            // A controller is in one hierarchy at a time.
            (true, _) => mounted(Hierarchy::V1),
            (false, true) => mounted(Hierarchy::V2),
            (false, false) => true,
        }
    }

    pub(super) fn read_at(&self, path: &Path) -> Option<String> {
        self.read(path.strip_prefix("/").unwrap_or(path).to_str()?)
    }

    /// The processor time that the cgroups of this process allow, in cores; `None` without a quota (v1
    /// cpu.cfs_quota_us, v2 cpu.max).
    pub fn cpu_quota(&self) -> Option<f64> {
        let quota = |(hierarchy, folder): (Hierarchy, PathBuf)| {
            let number = |text: &str| text.trim().parse::<f64>().ok().filter(|value| *value > 0.0);
            match hierarchy {
                Hierarchy::V1 => {
                    let of = |name: &str| number(&self.read_at(&folder.join(name))?);
                    Some(of("cpu.cfs_quota_us")? / of("cpu.cfs_period_us")?)
                }
                Hierarchy::V2 => {
                    let text = self.read_at(&folder.join("cpu.max"))?;
                    let (quota, period) = text.split_once(' ')?;
                    Some(number(quota)? / number(period)?)
                }
            }
        };
        self.cgroup_folders("cpu").into_iter().filter_map(quota).min_by(f64::total_cmp)
    }

    /// How often a cgroup of this process had used up its processor time, and for how many milliseconds its cores then stood
    /// still, summed over the groups and cores (`nr_throttled` of cpu.stat); `None` where no group counts that.
    pub(super) fn cpu_pauses(&self) -> Option<(u64, u64)> {
        let pauses = |(hierarchy, folder): (Hierarchy, PathBuf)| {
            let stat = self.read_at(&folder.join("cpu.stat"))?;
            let field = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
            let milliseconds = match hierarchy {
                Hierarchy::V1 => field("throttled_time ")? / 1_000_000,
                Hierarchy::V2 => field("throttled_usec ")? / 1_000,
            };
            Some((field("nr_throttled ")?, milliseconds))
        };
        let sum = |all: (u64, u64), one: (u64, u64)| (all.0.saturating_add(one.0), all.1.saturating_add(one.1));
        self.cgroup_folders("cpu").into_iter().filter_map(pauses).reduce(sum)
    }
}

/// The path in a line of /proc/self/cgroup, if the line is of that hierarchy and controller.
fn group_path<'a>(line: &'a str, hierarchy: Hierarchy, controller: &str) -> Option<&'a str> {
    let mut fields = line.splitn(3, ':');
    let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let ours = match hierarchy {
        Hierarchy::V1 => controllers.split(',').any(|name| name == controller),
        Hierarchy::V2 => number == "0" && controllers.is_empty(),
    };
    ours.then_some(path)
}

/// The folder where a hierarchy is mounted, and the group at the mount's top.
struct Mount<'a> {
    top: &'a str,
    point: &'a str,
}

impl<'a> Mount<'a> {
    /// Reads a line of /proc/self/mountinfo; `None` if the line is of another hierarchy or controller.
    fn parse(line: &'a str, hierarchy: Hierarchy, controller: &str) -> Option<Mount<'a>> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (top, point) = (fields.next()?, fields.next()?);
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1).unwrap_or_default());
        let ours = match hierarchy {
            Hierarchy::V1 => name == "cgroup" && options.split(',').any(|option| option == controller),
            Hierarchy::V2 => name == "cgroup2",
        };
        ours.then_some(Mount { top, point })
    }

    /// The folders of a group and of all groups above it, as far as the mount shows them. In a container the path may
    /// lead above the mount's top; then only the top can be seen.
    fn folders(&self, path: &str) -> Vec<PathBuf> {
        let below = match Path::new(path).strip_prefix(self.top) {
            Ok(below) if !path.contains("..") => below,
            _ => Path::new(""),
        };
        let mut folders: Vec<PathBuf> = below.ancestors().map(|part| Path::new(self.point).join(part)).collect();
        folders.dedup();
        folders
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::host;

    #[test]
    fn groups_that_are_mounted_elsewhere_are_not_shown() {
        const V1: &str = "35 32 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        const V2: &str = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for (groups, mounts, shown) in [
            ("3:cpu:/a\n0::/b\n", V1, true),
            ("3:cpu:/a\n0::/b\n", V2, false),
            ("3:memory:/a\n0::/b\n", V2, true),
            ("0::/b\n", V2, true),
            ("0::/b\n", "", false),
            ("", "", true),
        ] {
            let (_dir, host) = host(&[("proc/self/cgroup", groups), ("proc/self/mountinfo", mounts)]);
            assert_eq!(host.shows_cgroups("cpu"), shown, "{groups} {mounts}");
        }
        assert!(host(&[("proc/self/status", "")]).1.shows_cgroups("cpu"), "a kernel without cgroups");
        assert!(!host(&[]).1.shows_cgroups("cpu"), "no /proc");
    }

    #[test]
    fn the_smallest_quota_counts() {
        let (_dir, host) = host(&[
            ("proc/self/cgroup", "3:cpu,cpuacct:/a\n0::/b\n"),
            (
                "proc/self/mountinfo",
                "35 32 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            ),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "300000\n"),
            ("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/unified/b/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/unified/cpu.max", "max 100000\n"),
        ]);
        assert_eq!(host.cpu_quota(), Some(1.5));
    }

    #[test]
    fn pauses_of_all_groups_count() {
        let (_dir, host) = host(&[
            ("proc/self/cgroup", "3:cpu,cpuacct:/a\n0::/b\n"),
            (
                "proc/self/mountinfo",
                "35 32 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            ),
            ("sys/fs/cgroup/cpu/cpu.stat", "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n"),
            ("sys/fs/cgroup/cpu/a/cpu.stat", "nr_periods 40\nnr_throttled 30\nthrottled_time 2500000000\n"),
            ("sys/fs/cgroup/unified/cpu.stat", "usage_usec 77\nuser_usec 7\n"),
            ("sys/fs/cgroup/unified/b/cpu.stat", "usage_usec 77\nnr_periods 4\nnr_throttled 3\nthrottled_usec 4000\n"),
        ]);
        assert_eq!(host.cpu_pauses(), Some((33, 2_504)));
        let counters = host.net_counters();
        assert_eq!((counters["cgroup_cpu_pauses"], counters["cgroup_cpu_paused_ms"]), (33, 2_504));
    }
}
