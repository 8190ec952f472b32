//! How much memory may be taken without hurting anybody, how much of a file can be in memory, and whether memory is
//! getting short.
//!
//! Two questions that differ by much. Memory for copies ([`Budget::spare`]) is taken from everybody, so a reserve is left.
//! Whether a file fits ([`Budget::most_of_files`], [`Budget::room_for_files`]) is what the kernel would have to evict for all
//! of it to be resident; there a reserve would only call too large what fits. `None` is "not known", which is neither
//! "nothing" nor "no limit".

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

/// Names of the files of a memory cgroup, and of lines of its `memory.stat`.
#[derive(Debug)]
struct Names {
    /// Whoever goes beyond the last one is killed; beyond `memory.high` nobody is, but is slowed down until
    /// nothing is done any more.
    limits: &'static [&'static str],
    used: &'static str,
    /// Lines with pages of files, of the group and those below it. The kernel evicts them when it needs memory.
    files: &'static [&'static str],
    /// Lines with other memory that it can take back at once.
    reclaimable: &'static [&'static str],
    /// Lines with memory that it can only swap.
    swappable: &'static [&'static str],
    /// The limit of the swap space that the group may use.
    swap: &'static str,
}

const V2: Names = Names {
    limits: &["memory.high", "memory.max"],
    used: "memory.current",
    files: &["inactive_file", "active_file"],
    reclaimable: &["slab_reclaimable"],
    swappable: &["inactive_anon", "active_anon"],
    swap: "memory.swap.max",
};

/// Lines without `total_` are those of the group alone, while its limit and use include the groups below it.
const V1: Names = Names {
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    files: &["total_inactive_file", "total_active_file"],
    reclaimable: &[],
    swappable: &["total_inactive_anon", "total_active_anon"],
    swap: "memory.swappiness",
};

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

    /// Bytes that can be taken for copies before memory is short: what the kernel thinks is available, and no
    /// more than the smallest cgroup limit leaves, less a reserve of a sixteenth of the whole (at
    /// least 128 MiB, at most 4 GiB). `None` when `/proc/meminfo` does not tell: then nothing should be taken.
    #[must_use]
    pub fn spare(&self) -> Option<u64> {
        let text = self.meminfo()?;
        let (available, total) = (field_kib(&text, "MemAvailable")?, field_kib(&text, "MemTotal")?);
        let groups = self.groups.iter().filter_map(|(group, names)| {
            let group = Group::read(group, names)?;
            Some(group.left(group.files.min(group.used)).saturating_sub(reserve(group.limit).min(group.limit / 4)))
        });
        let machine = [available.saturating_sub(reserve(total))].into_iter().chain(self.left_to_commit(&text));
        groups.chain(machine).min()
    }

    /// Bytes of files that can be resident beside what is in use now, page cache that is there already included: with
    /// the memory of programs as it is. `None` when neither the machine nor a group tells.
    #[must_use]
    pub fn room_for_files(&self) -> Option<u64> {
        let groups = self.groups.iter().filter_map(|(group, names)| {
            let group = Group::read(group, names)?;
            Some(group.left(group.files.saturating_add(group.reclaimable).min(group.used)))
        });
        let machine = self.meminfo().and_then(|text| field_kib(&text, "MemAvailable"));
        groups.chain(machine).min()
    }

    /// The most bytes of files that can be resident, if all else that the kernel can evict or swap goes. A file that is
    /// larger is read again and again, whatever happens. `None` when neither the machine nor a group tells.
    #[must_use]
    pub fn most_of_files(&self) -> Option<u64> {
        let text = self.meminfo();
        // Swap space that is not known may be there.
        let swap = text.as_deref().map_or(u64::MAX, |text| field_kib(text, "SwapFree").unwrap_or(0));
        let groups = self.groups.iter().filter_map(|(group, names)| {
            let group = Group::read(group, names)?;
            let swapped = group.swappable.min(swap).min(group.swap);
            let evicted = group.files.saturating_add(group.reclaimable).saturating_add(swapped);
            Some(group.left(evicted.min(group.used)))
        });
        let machine = text.as_deref().and_then(|text| {
            let sum = |keys: &[&str]| keys.iter().map(|key| field_kib(text, key)).sum::<Option<u64>>();
            let files = sum(&["MemFree", "Active(file)", "Inactive(file)", "SReclaimable"])?;
            let anonymous = sum(&["Active(anon)", "Inactive(anon)"])?;
            Some(files.saturating_add(anonymous.min(swap)))
        });
        groups.chain(machine).min()
    }

    fn meminfo(&self) -> Option<String> {
        std::fs::read_to_string(self.root.join("proc/meminfo")).ok()
    }

    /// What the kernel promises yet, where it promises no more than it has
    /// (`vm.overcommit_memory=2`).
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

/// What a group tells, bytes.
struct Group {
    limit: u64,
    used: u64,
    files: u64,
    reclaimable: u64,
    swappable: u64,
    /// Swap space that it may use beside that in use, at most.
    swap: u64,
}

impl Group {
    /// `None` without a limit.
    fn read(group: &Path, names: &Names) -> Option<Self> {
        let limit = limit_of(group, names)?;
        let used = number(group, names.used)?;
        let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let value =
            |key: &str| stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?.trim().parse().ok();
        // Numbers that cannot be are none.
        let sum = |keys: &[&str]| keys.iter().filter_map(|key| value(key)).try_fold(0, u64::checked_add).unwrap_or(0);
        Some(Self {
            limit,
            used,
            files: sum(names.files),
            reclaimable: sum(names.reclaimable),
            swappable: sum(names.swappable),
            // "max", no such file: as much as there is. Swappiness of 0: none.
            swap: match number(group, names.swap) {
                Some(0) => 0,
                Some(most) if names.swap == V2.swap => most,
                _ => u64::MAX,
            },
        })
    }

    /// What the limit leaves when so much of what is used goes.
    fn left(&self, goes: u64) -> u64 {
        self.limit.saturating_sub(self.used.saturating_sub(goes))
    }
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
        assert_eq!(Budget::below(&tree.0).spare(), Some(14 * GIB));
        assert_eq!(Budget::below(&tree.0).room_for_files(), Some(16 * GIB));
    }

    #[test]
    fn what_nobody_tells_is_not_known() {
        let nowhere = Budget::below(Path::new("/nowhere"));
        assert_eq!((nowhere.spare(), nowhere.room_for_files(), nowhere.most_of_files()), (None, None, None));
        // A group that has a limit, and no /proc/meminfo (ProcSubset=pid of systemd).
        let tree = Tree::new(
            "no meminfo",
            &[
                ("proc/self/cgroup", "0::/a\n"),
                ("sys/fs/cgroup/a/memory.max", "4294967296\n"),
                ("sys/fs/cgroup/a/memory.current", "1073741824\n"),
            ],
        );
        let budget = Budget::below(&tree.0);
        assert_eq!((budget.spare(), budget.room_for_files()), (None, Some(3 * GIB)));
    }

    #[test]
    fn a_file_fits_when_what_cannot_be_evicted_leaves_room_for_it() {
        let meminfo = |swap: u64| {
            format!(
                "MemTotal: 33554432 kB\nMemFree: 1048576 kB\nMemAvailable: 8388608 kB\nActive(anon): 16777216 kB\n\
                 Inactive(anon): 4194304 kB\nActive(file): 4194304 kB\nInactive(file): 4194304 kB\nSwapFree: {swap} kB\n\
                 SReclaimable: 1048576 kB\n"
            )
        };
        let most = |swap, files: &[(&str, &str)]| {
            let meminfo = meminfo(swap);
            let files: Vec<_> = [("proc/meminfo", meminfo.as_str())].into_iter().chain(files.iter().copied()).collect();
            let tree = Tree::new("evicted", &files);
            let budget = Budget::below(&tree.0);
            (budget.room_for_files().unwrap() >> 20, budget.most_of_files().unwrap() >> 20)
        };
        assert_eq!(most(0, &[]), (8 << 10, 10 << 10));
        assert_eq!(most(2 << 20, &[]), (8 << 10, 12 << 10));
        // A limit of 350 MiB, of which 40 are anonymous and 200 a model's pages: 310 are left for files.
        let group = |swap| {
            [
                ("proc/self/cgroup", "0::/a\n"),
                ("sys/fs/cgroup/a/memory.max", "367001600\n"),
                ("sys/fs/cgroup/a/memory.swap.max", swap),
                ("sys/fs/cgroup/a/memory.current", "262144000\n"),
                (
                    "sys/fs/cgroup/a/memory.stat",
                    "inactive_anon 41943040\ninactive_file 209715200\nslab_reclaimable 10485760\n",
                ),
            ]
        };
        assert_eq!(most(0, &group("max\n")), (310, 310));
        assert_eq!(most(2 << 20, &group("max\n")), (310, 350));
        assert_eq!(most(2 << 20, &group("0\n")), (310, 310));
        // Version 1: what the groups below hold counts as well.
        let first = [
            ("proc/self/cgroup", "4:memory:/a\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "367001600\n"),
            ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "262144000\n"),
            (
                "sys/fs/cgroup/memory/a/memory.stat",
                "inactive_file 0\ntotal_inactive_file 209715200\ntotal_active_anon 1048576\n",
            ),
            ("sys/fs/cgroup/memory/a/memory.swappiness", "60\n"),
        ];
        assert_eq!(most(0, &first), (300, 300));
        assert_eq!(most(2 << 20, &first), (300, 301));
    }

    #[test]
    fn where_the_kernel_promises_only_what_it_has_the_rest_of_that_counts() {
        let meminfo = format!("{MEMINFO}CommitLimit: 8388608 kB\nCommitted_AS: 7340032 kB\n");
        let files = |policy| [("proc/meminfo", meminfo.as_str()), ("proc/sys/vm/overcommit_memory", policy)];
        assert_eq!(Budget::below(&Tree::new("strict", &files("2\n")).0).spare(), Some(GIB));
        assert_eq!(Budget::below(&Tree::new("lenient", &files("0\n")).0).spare(), Some(14 * GIB));
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
        assert_eq!(Budget::below(&tree.0).spare(), Some(3 * GIB - GIB / 4));
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
        assert_eq!(Budget::below(&tree.0).spare(), Some(GIB - GIB / 8));
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
        assert_eq!(Budget::below(&tree.0).spare(), Some(0));
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
        assert_eq!(Budget::below(&tree.0).spare(), Some(0));
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
