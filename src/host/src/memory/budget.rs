//! How much memory may be taken without hurting anybody, and whether it is getting short.

use std::path::{Path, PathBuf};

use crate::cgroup::{self, Version};
use crate::proc::field_kib;

/// Where the files of the kernel are: `/` but in tests.
#[derive(Clone, Debug)]
pub struct Budget {
    root: PathBuf,
    /// Folders of this process's memory cgroups, innermost first, with the names of their files.
    groups: Vec<(PathBuf, &'static Names)>,
}

/// Names of the files of a memory cgroup.
#[derive(Debug)]
struct Names {
    /// Whoever goes beyond the last one is killed; beyond `memory.high` nobody is, but is slowed down until
    /// nothing is done any more.
    limits: &'static [&'static str],
    used: &'static str,
}

const V2: Names = Names { limits: &["memory.high", "memory.max"], used: "memory.current" };
const V1: Names = Names { limits: &["memory.limit_in_bytes"], used: "memory.usage_in_bytes" };

/// How short memory is now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Share of the last ten seconds, in percent, in which some task waited for memory.
    pub some: f32,
}

/// In which some waiting for memory is no news.
const NORMAL_PRESSURE: f32 = 10.0;

impl Pressure {
    /// Whether memory should be given back.
    #[must_use]
    pub fn is_high(self) -> bool {
        self.some > NORMAL_PRESSURE
    }
}

impl Budget {
    /// The limits of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self::below(Path::new("/"))
    }

    /// The limits as the files below `root` tell them.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        let groups = cgroup::around_this_process(root, "memory").into_iter().map(|(folder, version)| {
            let names = match version {
                Version::One => &V1,
                Version::Two => &V2,
            };
            (folder, names)
        });
        Self { root: root.to_owned(), groups: groups.collect() }
    }

    /// Bytes that can be taken before memory is short: what the kernel thinks is available, and no
    /// more than the smallest cgroup limit leaves, less a reserve of a sixteenth of the whole (at
    /// least 128 MiB, at most 4 GiB). 0 when nothing can be read.
    #[must_use]
    pub fn spare(&self) -> u64 {
        let text = std::fs::read_to_string(self.root.join("proc/meminfo")).unwrap_or_default();
        let (Some(available), Some(total)) = (field_kib(&text, "MemAvailable"), field_kib(&text, "MemTotal")) else {
            return 0;
        };
        let mut spare = available.saturating_sub(reserve(total));
        if let Some(left) = self.left_to_commit(&text) {
            spare = spare.min(left);
        }
        for (group, names) in &self.groups {
            if let Some(left) = left_in_group(group, names) {
                spare = spare.min(left);
            }
        }
        spare
    }

    /// What the kernel promises yet, where it promises no more than it has
    /// (`vm.overcommit_memory=2`). There a private mapping that moves counts twice meanwhile.
    fn left_to_commit(&self, meminfo: &str) -> Option<u64> {
        let policy = std::fs::read_to_string(self.root.join("proc/sys/vm/overcommit_memory")).ok()?;
        if policy.trim() != "2" {
            return None;
        }
        Some(field_kib(meminfo, "CommitLimit")?.saturating_sub(field_kib(meminfo, "Committed_AS")?))
    }

    /// The smallest limit of any group around this process, bytes; `None` without one.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        self.groups.iter().filter_map(|(group, names)| limit_of(group, names)).min()
    }

    /// The pressure on memory, of the innermost cgroup that tells it, else of the machine; none when
    /// the kernel does not count it.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        let groups = self.groups.iter().map(|(group, _)| group.join("memory.pressure"));
        let files = groups.chain([self.root.join("proc/pressure/memory")]);
        files
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .find_map(|text| some_avg10(&text))
            .map_or(Pressure::default(), |some| Pressure { some })
    }
}

fn reserve(total: u64) -> u64 {
    (total / 16).clamp(128 << 20, 4 << 30)
}

fn number(group: &Path, name: &str) -> Option<u64> {
    std::fs::read_to_string(group.join(name)).ok()?.trim().parse().ok()
}

/// A group's own limit, the smallest; version 1 says "none" by a huge number.
fn limit_of(group: &Path, names: &Names) -> Option<u64> {
    names.limits.iter().filter_map(|name| number(group, name)).min().filter(|&limit| limit < 1 << 60)
}

/// What a group's limit leaves; `None` without a limit. Its page cache can be reclaimed, so it does
/// not count as used.
fn left_in_group(group: &Path, names: &Names) -> Option<u64> {
    let limit = limit_of(group, names)?;
    let used = number(group, names.used)?;
    let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let cache: u64 = ["inactive_file ", "active_file "]
        .iter()
        .filter_map(|key| stat.lines().find_map(|line| line.strip_prefix(key))?.trim().parse::<u64>().ok())
        .fold(0, u64::saturating_add);
    Some(limit.saturating_add(cache.min(used)).saturating_sub(used).saturating_sub(reserve(limit).min(limit / 4)))
}

/// `some avg10=0.12 avg60=...`
fn some_avg10(text: &str) -> Option<f32> {
    text.lines().find_map(|line| line.strip_prefix("some avg10="))?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("zen5turbo-budget-{}-{name}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            Tree(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const GIB: u64 = 1 << 30;
    const MEMINFO: &str = "MemTotal:  33554432 kB\nMemFree: 1 kB\nMemAvailable:  16777216 kB\n";

    #[test]
    fn without_a_group_it_is_what_the_kernel_says_less_a_reserve() {
        let tree = Tree::new("plain", &[("proc/meminfo", MEMINFO)]);
        assert_eq!(Budget::below(&tree.0).spare(), 14 * GIB);
        assert_eq!(Budget::below(Path::new("/nowhere")).spare(), 0);
    }

    #[test]
    fn where_the_kernel_promises_only_what_it_has_the_rest_of_that_counts() {
        let meminfo = format!("{MEMINFO}CommitLimit: 8388608 kB\nCommitted_AS: 7340032 kB\n");
        let files = |policy| [("proc/meminfo", meminfo.as_str()), ("proc/sys/vm/overcommit_memory", policy)];
        assert_eq!(Budget::below(&Tree::new("strict", &files("2\n")).0).spare(), GIB);
        assert_eq!(Budget::below(&Tree::new("lenient", &files("0\n")).0).spare(), 14 * GIB);
    }

    #[test]
    fn the_smallest_limit_around_the_process_counts_and_its_page_cache_does_not() {
        let tree = Tree::new(
            "v2",
            &[
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/b/memory.max", "max\n"),
                ("sys/fs/cgroup/a/b/memory.current", "5\n"),
                ("sys/fs/cgroup/a/memory.max", "4294967296\n"),
                ("sys/fs/cgroup/a/memory.current", "3221225472\n"),
                ("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 1073741824\nactive_file 1073741824\n"),
            ],
        );
        // 4 GiB less 3 used, of which 2 are page cache, less a reserve of 256 MiB.
        assert_eq!(Budget::below(&tree.0).spare(), 3 * GIB - GIB / 4);
        assert_eq!(Budget::below(&tree.0).limit(), Some(4 * GIB));
    }

    #[test]
    fn a_limit_that_slows_down_counts_as_one_that_kills() {
        let files = |high| {
            [
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", "0::/a\n"),
                ("sys/fs/cgroup/a/memory.max", "4294967296\n"),
                ("sys/fs/cgroup/a/memory.high", high),
                ("sys/fs/cgroup/a/memory.current", "1073741824\n"),
            ]
        };
        let tree = Tree::new("high", &files("2147483648\n"));
        // 2 GiB less one used, less a reserve of 128 MiB.
        assert_eq!(Budget::below(&tree.0).spare(), GIB - GIB / 8);
        assert_eq!(Budget::below(&tree.0).limit(), Some(2 * GIB));
        assert_eq!(Budget::below(&Tree::new("no high", &files("max\n")).0).limit(), Some(4 * GIB));
    }

    #[test]
    fn the_first_version_of_cgroups_is_understood() {
        let tree = Tree::new(
            "v1",
            &[
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", "9:cpuset:/x\n4:memory:/docker/1\n0::/\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n"),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1073741824\n"),
            ],
        );
        assert_eq!(Budget::below(&tree.0).spare(), 0);
    }

    #[test]
    fn numbers_that_cannot_be_are_no_memory() {
        let most = u64::MAX.to_string();
        let stat = format!("inactive_file {most}\nactive_file {most}\n");
        let tree = Tree::new(
            "absurd",
            &[
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/memory.max", "1152921504606846975\n"),
                ("sys/fs/cgroup/memory.current", &most),
                ("sys/fs/cgroup/memory.stat", &stat),
            ],
        );
        assert_eq!(Budget::below(&tree.0).spare(), 0);
    }

    #[test]
    fn pressure_is_that_of_the_group_where_it_is_told() {
        let machine = ("proc/pressure/memory", "some avg10=50.25 avg60=0.00 avg300=0.00 total=1\nfull avg10=1\n");
        let tree = Tree::new("psi", &[machine]);
        assert!(Budget::below(&tree.0).pressure().is_high());
        let own = ("sys/fs/cgroup/memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n");
        let tree = Tree::new("psi2", &[machine, own, ("proc/self/cgroup", "0::/\n")]);
        assert_eq!(Budget::below(&tree.0).pressure(), Pressure { some: 0.0 });
        assert!(!Budget::below(Path::new("/nowhere")).pressure().is_high());
    }
}
