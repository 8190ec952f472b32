//! Memory: huge pages, limits.

use zen5turbo_host::memory::Budget;
use zen5turbo_host::proc::field_kib;

use super::check::Check;
use crate::knobs::Settings;
use crate::root::{Root, field};
use crate::text;

/// Everything on memory, of this machine and of the process that asks.
pub fn checks(root: &Root, settings: &Settings) -> Vec<Check> {
    let asked = settings.value("ZEN5TURBO_HUGEPAGES");
    let mut checks = vec![thp(root, &asked), defrag(root, &asked)];
    checks.extend(pools(root).iter().map(|pool| pool_check(root, pool, &asked)));
    checks.extend([available(root), group(root), locked(root), mappings(root), overcommit(root)]);
    checks
}

/// The word in brackets of `always [madvise] never`.
pub fn chosen(text: &str) -> &str {
    text.split('[').nth(1).and_then(|rest| rest.split(']').next()).unwrap_or(text)
}

const THP: &str = "sys/kernel/mm/transparent_hugepage";

fn thp(root: &Root, asked: &str) -> Check {
    const ID: &str = "memory.thp";
    if asked == "off" {
        return Check::ok(ID, "not used: ZEN5TURBO_HUGEPAGES=off");
    }
    let todo = format!("echo madvise | sudo tee /{THP}/enabled");
    match root.read(&format!("{THP}/enabled")).as_deref().map(chosen) {
        Some(word @ ("always" | "madvise")) => Check::ok(ID, format!("{word}: memory that asks gets huge pages")),
        Some(word) => Check::limited(ID, word, "madvise or always: huge pages read up to a third faster", todo),
        None => Check::limited(
            ID,
            "this kernel has no transparent huge pages",
            "madvise or always",
            "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE, or reserve pages and set ZEN5TURBO_HUGEPAGES=2m",
        ),
    }
}

fn defrag(root: &Root, asked: &str) -> Check {
    const ID: &str = "memory.thp_defrag";
    let Some(text) = root.read(&format!("{THP}/defrag")) else { return Check::ok(ID, "not told") };
    match chosen(&text) {
        word @ ("never" | "defer") if asked != "off" => Check::limited(
            ID,
            format!("{word}: only huge pages that are free at that moment are given"),
            "madvise, defer+madvise or always: the kernel makes room for memory that asks",
            format!("echo madvise | sudo tee /{THP}/defrag"),
        ),
        word => Check::ok(ID, word),
    }
}

/// The reserved pages of a size on a node.
pub struct Pool {
    /// Below `/`, where the files of the size are.
    pub folder: String,
    /// The node's name, or `all` where the kernel has no nodes.
    pub node: String,
    /// KiB of a page.
    pub kib: u64,
    /// Pages reserved, and how many of them are free.
    pub all: u64,
    pub free: u64,
}

impl Pool {
    /// `node0:2MiB`.
    pub fn name(&self) -> String {
        format!("{}:{}", self.node, text::bytes(self.kib << 10).replace(".0 ", ""))
    }
}

/// The reserved pages of every node and size.
pub fn pools(root: &Root) -> Vec<Pool> {
    const NODES: &str = "sys/devices/system/node";
    let mut folders: Vec<(String, String)> = root
        .list(NODES)
        .into_iter()
        .filter(|name| name.strip_prefix("node").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())))
        .map(|node| (format!("{NODES}/{node}/hugepages"), node))
        .collect();
    if folders.is_empty() {
        folders.push(("sys/kernel/mm/hugepages".into(), "all".into()));
    }
    let mut pools = Vec::new();
    for (folder, node) in folders {
        for size in root.list(&folder) {
            let kib = size.strip_prefix("hugepages-").and_then(|s| s.strip_suffix("kB")?.parse().ok());
            let Some(kib) = kib else { continue };
            let folder = format!("{folder}/{size}");
            let count = |file: &str| root.number(&format!("{folder}/{file}")).unwrap_or(0);
            let (all, free) = (count("nr_hugepages"), count("free_hugepages"));
            pools.push(Pool { folder, node: node.clone(), kib, all, free });
        }
    }
    pools
}

fn pool_check(root: &Root, pool: &Pool, asked: &str) -> Check {
    let Pool { kib, all, free, .. } = *pool;
    let id = format!("memory.hugetlb:{}", pool.name());
    let found = format!("{all} reserved, {free} free");
    let wanted = (asked == "2m" && kib == 2 << 10) || (asked == "1g" && kib == 1 << 20);
    if wanted && hugetlb_limit(root, kib) == Some(0) {
        let found = format!("{found}; the control group may use none");
        let todo = "raise hugetlb.*.max of the control group, or ZEN5TURBO_HUGEPAGES=auto";
        Check::limited(&id, found, format!("pages for ZEN5TURBO_HUGEPAGES={asked}"), todo)
    } else if wanted && free == 0 {
        let todo = format!("echo N | sudo tee /{}/nr_hugepages, or ZEN5TURBO_HUGEPAGES=auto", pool.folder);
        Check::limited(&id, found, format!("free pages, for ZEN5TURBO_HUGEPAGES={asked}"), todo)
    } else if wanted || all == 0 {
        Check::ok(&id, if wanted { found } else { format!("{found} (none needed)") })
    } else {
        Check::ok(&id, format!("{found} (used with ZEN5TURBO_HUGEPAGES=2m or 1g)"))
    }
}

/// What the control group of this process (version 2) may use of pages of this size, in bytes.
fn hugetlb_limit(root: &Root, kib: u64) -> Option<u64> {
    let groups = root.read("proc/self/cgroup")?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let size = if kib >= 1 << 20 { format!("{}GB", kib >> 20) } else { format!("{}MB", kib >> 10) };
    root.number(&format!("sys/fs/cgroup{group}/hugetlb.{size}.max"))
}

/// Below this there is hardly room for a second copy of a model's hot weights.
const LITTLE: u64 = 1 << 30;

fn available(root: &Root) -> Check {
    const ID: &str = "memory.available";
    let text = root.read("proc/meminfo").unwrap_or_default();
    let (Some(total), Some(available)) = (field_kib(&text, "MemTotal"), field_kib(&text, "MemAvailable")) else {
        return Check::limited(
            ID,
            "not told by /proc/meminfo",
            "MemTotal and MemAvailable",
            "mount -t proc proc /proc",
        );
    };
    // Told, since `/proc/meminfo` is.
    let spare = Budget::below(&root.path("")).spare().unwrap_or(0);
    let found = format!(
        "{} of {}; {} may hold copies of weights (what the limits leave, less a reserve)",
        text::bytes(available),
        text::bytes(total),
        text::bytes(spare)
    );
    if spare >= LITTLE {
        Check::ok(ID, found)
    } else {
        Check::limited(ID, found, "room for the model's weights", "end other programs, or raise the memory limit")
    }
}

fn group(root: &Root) -> Check {
    const ID: &str = "memory.cgroup";
    match Budget::below(&root.path("")).limit() {
        None => Check::ok(ID, "no limit"),
        Some(limit) => {
            let total = field_kib(&root.read("proc/meminfo").unwrap_or_default(), "MemTotal").unwrap_or(u64::MAX);
            let found = format!("limit of {}", text::bytes(limit));
            if limit >= total {
                return Check::ok(ID, found);
            }
            let todo = "raise it if the model and its copies do not fit (docker run -m, MemoryMax=)";
            Check::limited(ID, found, format!("no limit below the machine's {}", text::bytes(total)), todo)
        }
    }
}

/// `CAP_IPC_LOCK`, linux/capability.h.
const CAP_IPC_LOCK: u32 = 14;

fn locked(root: &Root) -> Check {
    const ID: &str = "memory.memlock";
    let limits = root.read("proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let soft = line.and_then(|line| line.split_whitespace().next()).unwrap_or("not told");
    let status = root.read("proc/self/status").unwrap_or_default();
    let Ok(bytes) = soft.parse::<u64>() else { return Check::ok(ID, soft) };
    let found = text::bytes(bytes);
    if super::calls::capability(&status, CAP_IPC_LOCK) {
        return Check::ok(ID, format!("{found}, which CAP_IPC_LOCK overrides"));
    }
    let expected = "unlimited, for --mlock: weights that are locked stay locked on huge pages only within it";
    Check::limited(ID, found, expected, "ulimit -l unlimited (docker run --ulimit memlock=-1), if you use --mlock")
}

fn mappings(root: &Root) -> Check {
    const ID: &str = "memory.max_map_count";
    /// The kernel's own default.
    const DEFAULT: u64 = 65530;
    match root.number("proc/sys/vm/max_map_count") {
        None => Check::ok(ID, "not told"),
        Some(n) if n >= DEFAULT => Check::ok(ID, n.to_string()),
        Some(n) => {
            let expected = format!("{DEFAULT} or more: copies of weights are mappings");
            Check::limited(ID, n.to_string(), expected, format!("sudo sysctl vm.max_map_count={DEFAULT}"))
        }
    }
}

fn overcommit(root: &Root) -> Check {
    const ID: &str = "memory.overcommit";
    match root.number("proc/sys/vm/overcommit_memory") {
        Some(2) => {
            let text = root.read("proc/meminfo").unwrap_or_default();
            let limit = field(&text, "CommitLimit").unwrap_or_else(|| "unknown".into());
            let expected = "0 or 1: with 2 every copied page counts against CommitLimit";
            Check::limited(ID, format!("2 (CommitLimit {limit})"), expected, "sudo sysctl vm.overcommit_memory=0")
        }
        other => Check::ok(ID, other.map_or("not told".into(), |n| n.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Status;
    use crate::root::tests::tree;

    fn find<'a>(checks: &'a [Check], id: &str) -> &'a Check {
        checks.iter().find(|check| check.id == id).unwrap_or_else(|| panic!("{id} in {checks:?}"))
    }

    fn with_hugepages(value: &str) -> Settings {
        Settings::of([("ZEN5TURBO_HUGEPAGES".to_owned(), value.to_owned())])
    }

    const GOOD: [(&str, &str); 12] = [
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
        ("sys/kernel/mm/transparent_hugepage/defrag", "always defer [madvise] never\n"),
        ("sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "8\n"),
        ("sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages", "3\n"),
        ("sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages", "0\n"),
        ("sys/devices/system/node/node1/hugepages/hugepages-1048576kB/free_hugepages", "0\n"),
        ("proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\nCommitLimit: 9 kB\n"),
        ("proc/self/cgroup", "0::/\n"),
        ("proc/self/limits", "Max locked memory         unlimited            unlimited            bytes\n"),
        ("proc/self/status", "CapEff:\t0000000000000000\n"),
        ("proc/sys/vm/max_map_count", "65530\n"),
        ("proc/sys/vm/overcommit_memory", "0\n"),
    ];

    #[test]
    fn a_machine_in_order_is_ok_line_by_line() {
        let (_folder, root) = tree(&GOOD);
        let checks = checks(&root, &Settings::default());
        for check in &checks {
            assert_eq!(check.status, Status::Ok, "{check:?}");
        }
        assert!(find(&checks, "memory.hugetlb:node0:2MiB").found.starts_with("8 reserved, 3 free"));
        assert!(find(&checks, "memory.hugetlb:node1:1GiB").found.contains("none needed"));
        assert!(find(&checks, "memory.available").found.contains("14.0 GiB may hold"));
    }

    #[test]
    fn what_is_missing_is_limited_with_its_remedy() {
        let mut files = GOOD.to_vec();
        files.extend([
            ("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n"),
            ("sys/kernel/mm/transparent_hugepage/defrag", "always defer madvise [never]\n"),
            ("proc/self/limits", "Max locked memory         8388608              8388608              bytes\n"),
            ("proc/sys/vm/max_map_count", "1000\n"),
            ("proc/sys/vm/overcommit_memory", "2\n"),
            ("sys/fs/cgroup/memory.max", "536870912\n"),
            ("sys/fs/cgroup/memory.current", "1\n"),
        ]);
        let (_folder, root) = tree(&files);
        let checks = checks(&root, &with_hugepages("1g"));
        let limited: Vec<&str> = checks.iter().filter(|c| c.status == Status::Limited).map(|c| c.id.as_str()).collect();
        let expected = [
            "memory.thp",
            "memory.thp_defrag",
            "memory.hugetlb:node1:1GiB",
            "memory.available",
            "memory.cgroup",
            "memory.memlock",
            "memory.max_map_count",
            "memory.overcommit",
        ];
        assert_eq!(limited, expected);
        assert!(checks.iter().all(|c| c.status == Status::Ok || c.remedy.is_some()));
        assert!(find(&checks, "memory.cgroup").found.contains("512.0 MiB"));
    }

    #[test]
    fn a_control_group_without_huge_pages_is_told_where_they_are_asked_for() {
        let mut files = GOOD.to_vec();
        files.push(("sys/fs/cgroup/hugetlb.2MB.max", "0\n"));
        let (_folder, root) = tree(&files);
        let found = checks(&root, &with_hugepages("2m"));
        let pool = find(&found, "memory.hugetlb:node0:2MiB");
        assert!(pool.status == Status::Limited && pool.found.contains("may use none"), "{pool:?}");
        assert_eq!(find(&checks(&root, &Settings::default()), "memory.hugetlb:node0:2MiB").status, Status::Ok);
    }

    #[test]
    fn what_is_switched_off_needs_nothing() {
        let mut files = GOOD.to_vec();
        files.push(("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n"));
        let (_folder, root) = tree(&files);
        assert!(checks(&root, &with_hugepages("off")).iter().all(|check| check.status == Status::Ok));
    }

    #[test]
    fn a_machine_that_tells_nothing_does_not_fail() {
        let (_folder, root) = tree(&[]);
        assert!(checks(&root, &Settings::default()).iter().all(|check| check.status != Status::No));
    }
}
