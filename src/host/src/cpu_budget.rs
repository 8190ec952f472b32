//! How many threads of this process can run at the same time.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::cgroup::{self, Version};
use crate::cpuset::{self, CpuSet};
use crate::proc::read_text;
use crate::{seccomp, thread};

/// CPUs that this process can keep busy, and what limits them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuBudget {
    /// At least 1.
    pub cpus: usize,
    /// The smallest limit.
    pub limit: Limit,
}

/// What limits the CPUs of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Nothing but the machine.
    Online,
    /// The CPUs that its threads may run on: an affinity mask or a cpuset.
    Affinity(CpuSet),
    /// The CPU time that a control group has in each period, microseconds.
    Quota {
        /// CPU time of all threads of the group in a period.
        quota: u64,
        /// Length of a period.
        period: u64,
        /// The group's folder.
        group: String,
    },
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Online => write!(f, "CPUs online"),
            Self::Affinity(cpus) => write!(f, "CPUs allowed: {cpus}"),
            Self::Quota { quota, period, group } => write!(f, "CPU quota {quota}/{period} us of {group}"),
        }
    }
}

impl CpuBudget {
    /// The budget now. Some twenty small files and a system call for each thread: to be asked about once a second.
    #[must_use]
    pub fn of_this_process() -> Self {
        let root = Path::new("/");
        let allowed = if seccomp::is_filtered() {
            // To list the threads needs a call that a filter may kill.
            cpuset::affinity().ok().map(|now| without_other_threads(root, thread::allowed_cpus(), now))
        } else {
            cpuset::affinity_of_all_threads()
        };
        Self::from(online(root), allowed, smallest_quota(root))
    }

    /// The budget of a process that this one starts, by the files below `root`: `/`, or a made tree.
    #[must_use]
    pub fn of_children(root: &Path) -> Self {
        let status = read_text(root.join("proc/self/status")).unwrap_or_default();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        Self::from(online(root), allowed.and_then(|list| CpuSet::parse(list.trim())), smallest_quota(root))
    }

    /// The smallest of the CPUs online, those allowed, and the quota rounded down. With a thread more than the quota has
    /// CPUs, every period ends with all threads stopped in the middle of an operation. 0 and `None` are "not known".
    fn from(online: usize, allowed: Option<CpuSet>, quota: Option<(usize, Limit)>) -> Self {
        let mut budget = Self { cpus: if online == 0 { usize::MAX } else { online }, limit: Limit::Online };
        if let Some(cpus) = allowed.filter(|set| !set.is_empty() && set.len() < budget.cpus) {
            budget = Self { cpus: cpus.len(), limit: Limit::Affinity(cpus) };
        }
        if let Some((cpus, limit)) = quota.filter(|(cpus, _)| *cpus < budget.cpus) {
            budget = Self { cpus, limit };
        }
        if budget.cpus == usize::MAX {
            budget.cpus = std::thread::available_parallelism().map_or(1, usize::from);
        }
        budget
    }
}

/// What all threads may use, where only the affinity of the calling one is known `now`, and that of the process at the `start`: the
/// program may have pinned this thread, and its control group may have been given other CPUs.
fn without_other_threads(root: &Path, start: Option<CpuSet>, now: CpuSet) -> CpuSet {
    let Some(start) = start.filter(|start| *start != now) else { return now };
    let read = |(folder, version): &(PathBuf, Version)| {
        let file = if *version == Version::Two { "cpuset.cpus.effective" } else { "cpuset.effective_cpus" };
        CpuSet::parse(&read_text(folder.join(file)).ok()?).filter(|set| !set.is_empty())
    };
    let group = cgroup::around_this_process(root, "cpuset").iter().find_map(read);
    group.map_or(start, |group| start.and(&group)).or(&now)
}

/// CPUs online; 0 where that is not told.
fn online(root: &Path) -> usize {
    let list = read_text(root.join("sys/devices/system/cpu/online"));
    list.ok().and_then(|list| CpuSet::parse(&list)).map_or(0, |set| set.len())
}

/// The smallest quota of all groups around this process: whole CPUs, at least 1, and where it stands.
fn smallest_quota(root: &Path) -> Option<(usize, Limit)> {
    let groups = cgroup::around_this_process(root, "cpu");
    let quotas = groups.iter().filter_map(|(folder, version)| Some((folder, quota_of(folder, *version)?)));
    let (folder, (quota, period)) = quotas.min_by(|(_, a), (_, b)| {
        let ratio = |(quota, period): &(u64, u64)| *quota as f64 / *period as f64;
        ratio(a).total_cmp(&ratio(b))
    })?;
    let cpus = usize::try_from(quota / period).unwrap_or(usize::MAX).max(1);
    Some((cpus, Limit::Quota { quota, period, group: folder.display().to_string() }))
}

/// Quota and period of a group, microseconds; `None` where it has no quota.
///
/// Version 2 has `cpu.max` with `200000 100000` or `max 100000`; version 1 two files, with -1 for no quota.
fn quota_of(folder: &Path, version: Version) -> Option<(u64, u64)> {
    let read = |name: &str| read_text(folder.join(name)).ok();
    let (quota, period) = match version {
        Version::Two => {
            let text = read("cpu.max")?;
            let mut words = text.split_whitespace().map(|word| word.parse().ok());
            (words.next()??, words.next()??)
        }
        Version::One => {
            let number = |name| read(name)?.trim().parse().ok();
            (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
        }
    };
    (quota > 0 && period > 0).then_some((quota, period))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    fn quota(files: &[(&str, &str)]) -> Option<(usize, u64, u64)> {
        match smallest_quota(tree(files).path())? {
            (cpus, Limit::Quota { quota, period, .. }) => Some((cpus, quota, period)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_smallest_quota_around_the_process_counts_in_whole_cpus() {
        let own = ("proc/self/cgroup", "0::/a/b\n");
        let outer = |text| ("sys/fs/cgroup/a/cpu.max", text);
        let inner = |text| ("sys/fs/cgroup/a/b/cpu.max", text);
        assert_eq!(quota(&[own, inner("max 100000\n"), outer("max 100000\n")]), None);
        assert_eq!(quota(&[own, inner("max 100000\n"), outer("765000 100000\n")]), Some((7, 765_000, 100_000)));
        assert_eq!(quota(&[own, inner("150000 100000\n"), outer("400000 100000\n")]), Some((1, 150_000, 100_000)));
        assert_eq!(quota(&[own, inner("25000 50000\n")]), Some((1, 25_000, 50_000)), "at least one");
        for odd in ["", "max", "-1 100000", "100000 0", "x y", "1", "99999999999999999999999 1"] {
            assert_eq!(quota(&[own, inner(odd)]), None, "{odd}");
        }
    }

    #[test]
    fn the_first_version_of_cgroups_is_understood() {
        let own = ("proc/self/cgroup", "4:cpu,cpuacct:/docker/1\n0::/\n");
        let period = ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
        let file = |text| ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", text);
        assert_eq!(quota(&[own, period, file("200000\n")]), Some((2, 200_000, 100_000)));
        assert_eq!(quota(&[own, period, file("-1\n")]), None);
    }

    #[test]
    fn the_smallest_limit_counts_and_says_what_it_is() {
        let cpus = |list| CpuSet::parse(list);
        let quota = |n| Some((n, Limit::Quota { quota: 100_000 * n as u64, period: 100_000, group: "/a".into() }));
        let budget = |online, allowed, quota| {
            let CpuBudget { cpus, limit } = CpuBudget::from(online, allowed, quota);
            (cpus, limit.to_string())
        };
        assert_eq!(budget(8, cpus("0-7"), None), (8, "CPUs online".into()));
        assert_eq!(budget(8, cpus("2,5"), quota(4)), (2, "CPUs allowed: 2,5".into()));
        assert_eq!(budget(8, cpus("0-7"), quota(4)), (4, "CPU quota 400000/100000 us of /a".into()));
        assert_eq!(budget(0, cpus("1"), quota(4)).0, 1);
        assert_eq!(budget(8, None, None).0, 8);
        assert!(budget(0, None, None).0 >= 1);
    }

    #[test]
    fn a_made_tree_has_a_budget() {
        let of = |allowed, quota| {
            let online = ("sys/devices/system/cpu/online", "0-15\n");
            let status = format!("Name:\tx\nCpus_allowed_list:\t{allowed}\n");
            let own = ("proc/self/cgroup", "0::/a\n");
            let dir = tree(&[online, ("proc/self/status", &status), own, ("sys/fs/cgroup/a/cpu.max", quota)]);
            let CpuBudget { cpus, limit } = CpuBudget::of_children(dir.path());
            (cpus, limit.to_string())
        };
        assert_eq!(of("0-15", "max 100000"), (16, "CPUs online".into()));
        assert_eq!(of("0-3", "max 100000"), (4, "CPUs allowed: 0-3".into()));
        assert_eq!(of("0-3", "250000 100000").0, 2);
        assert!(CpuBudget::of_children(Path::new("/")).cpus >= 1);
    }

    #[test]
    fn a_pinned_thread_is_told_from_a_group_with_other_cpus() {
        let cpus = |list| CpuSet::parse(list).unwrap();
        let of = |start, now, group: Option<&str>| {
            let own = ("proc/self/cgroup", "0::/a/b\n");
            let dir = match group {
                Some(text) => tree(&[own, ("sys/fs/cgroup/a/cpuset.cpus.effective", text)]),
                None => tree(&[own]),
            };
            without_other_threads(dir.path(), Some(cpus(start)), cpus(now)).to_string()
        };
        assert_eq!(of("0-3", "0-3", Some("0-7\n")), "0-3", "nothing has changed");
        assert_eq!(of("0-3", "2", Some("0-7\n")), "0-3", "pinned by the program");
        assert_eq!(of("0-3", "2", None), "0-3");
        assert_eq!(of("0-3", "0-1", Some("0-1\n")), "0-1", "the group has lost two");
        assert_eq!(of("0-1", "0-3", Some("0-3\n")), "0-3", "and has got them back");
        assert_eq!(without_other_threads(Path::new("/nowhere"), None, cpus("5")).to_string(), "5");
        let own = ("proc/self/cgroup", "4:cpuset:/docker/1\n");
        let dir = tree(&[own, ("sys/fs/cgroup/cpuset/cpuset.effective_cpus", "0-1\n")]);
        assert_eq!(without_other_threads(dir.path(), Some(cpus("0-3")), cpus("0")).to_string(), "0-1");
    }

    #[test]
    fn this_process_has_a_budget() {
        let budget = CpuBudget::of_this_process();
        assert!((1..=cpuset::MAX_CPUS).contains(&budget.cpus), "{budget:?}");
    }
}
