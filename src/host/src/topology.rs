//! NUMA nodes, cores and last-level caches, from sysfs.
//!
//! The files are those of Linux, `Documentation/ABI/stable/sysfs-devices-node`,
//! `Documentation/ABI/testing/sysfs-devices-system-cpu`. Their folder is a parameter, so that the tests
//! need no special machine.

use std::path::{Path, PathBuf};

use crate::cpuset::CpuSet;
use crate::numa::NodeMask;
use crate::proc::read_text;

/// Where sysfs keeps `node/` and `cpu/`.
pub const SYSFS: &str = "/sys/devices/system";

/// A NUMA node that is online.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// The kernel's number.
    pub id: usize,
    /// Its CPUs that are online; none on a node of memory only.
    pub cpus: CpuSet,
    /// Whether it has memory.
    pub has_memory: bool,
}

/// A physical core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Core {
    /// Its CPUs (SMT siblings) that were allowed.
    pub cpus: CpuSet,
    /// The allowed CPUs that share its last-level cache: on AMD one CCX, on recent parts a whole CCD.
    /// All of its node where sysfs tells no L3, and never beyond its node.
    pub domain: CpuSet,
    /// The kernel's number of its node.
    pub node: usize,
}

/// The nodes of a machine. Cores are read on demand: that takes a file or two for each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    sysfs: PathBuf,
    /// The nodes that are online, ascending; one node of all CPUs where the kernel has no NUMA.
    pub nodes: Vec<Node>,
}

impl Topology {
    /// Reads the nodes below `sysfs`, which is [`SYSFS`] but for tests. `None` when not even the CPUs
    /// are told there.
    #[must_use]
    pub fn read(sysfs: &Path) -> Option<Self> {
        let list = |file: &str| read_text(sysfs.join(file)).ok();
        let online = CpuSet::parse(&list("cpu/online")?)?;
        let numbers = list("node/online").and_then(|text| CpuSet::parse(&text)).unwrap_or_default();
        let with_memory = list("node/has_memory").and_then(|text| CpuSet::parse(&text)).unwrap_or(numbers);
        let mut nodes = Vec::new();
        for id in numbers.iter() {
            let cpus = CpuSet::parse(&list(&format!("node/node{id}/cpulist"))?)?.and(&online);
            nodes.push(Node { id, cpus, has_memory: with_memory.contains(id) });
        }
        if nodes.is_empty() {
            nodes.push(Node { id: 0, cpus: online, has_memory: true });
        }
        Some(Self { sysfs: sysfs.to_owned(), nodes })
    }

    /// The nodes with memory, out of those `allowed`, that have CPUs out of `cpus` as well: where
    /// something is computed and its data can lie.
    pub fn working_nodes(&self, cpus: &CpuSet, allowed: NodeMask) -> Vec<usize> {
        let works = |n: &&Node| n.has_memory && allowed.contains(n.id) && !n.cpus.and(cpus).is_empty();
        self.nodes.iter().filter(works).map(|n| n.id).collect()
    }

    /// The cores that have CPUs out of `allowed`, on those nodes, in the order in which threads are to be
    /// put on them: in turn over the nodes, on a node in turn over its last-level caches. So any number
    /// of threads, beginning with the first, is spread over the machine, and thread `i` has the same
    /// place whatever the number of threads is.
    ///
    /// A CPU whose siblings are not told counts as a core of its own.
    #[must_use]
    pub fn spread_cores(&self, allowed: &CpuSet, nodes: &[usize]) -> Vec<Core> {
        let on_node = |node: &Node| in_turn(self.cores_by_cache(node, allowed));
        in_turn(self.nodes.iter().filter(|n| nodes.contains(&n.id)).map(on_node).collect())
    }

    /// The cores of a node, one list for each last-level cache.
    fn cores_by_cache(&self, node: &Node, allowed: &CpuSet) -> Vec<Vec<Core>> {
        let mine = node.cpus.and(allowed);
        let shared = |cpu: usize, file: &str| {
            let text = read_text(self.sysfs.join(format!("cpu/cpu{cpu}/{file}"))).ok()?;
            CpuSet::parse(&text).filter(|set| set.contains(cpu)).map(|set| set.and(&mine))
        };
        let mut caches: Vec<(CpuSet, Vec<Core>)> = Vec::new();
        for cpu in mine.iter() {
            if caches.iter().flat_map(|(_, cores)| cores).any(|core| core.cpus.contains(cpu)) {
                continue;
            }
            let cpus = shared(cpu, "topology/thread_siblings_list").unwrap_or_else(|| std::iter::once(cpu).collect());
            let at = caches.iter().position(|(domain, _)| domain.contains(cpu)).unwrap_or_else(|| {
                caches.push((shared(cpu, "cache/index3/shared_cpu_list").unwrap_or(mine), Vec::new()));
                caches.len() - 1
            });
            let (domain, cores) = &mut caches[at];
            cores.push(Core { cpus, domain: *domain, node: node.id });
        }
        caches.into_iter().map(|(_, cores)| cores).collect()
    }
}

/// The first of each list, then the second of each, and so on until all are used up.
fn in_turn<T: Copy>(lists: Vec<Vec<T>>) -> Vec<T> {
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|i| lists.iter().filter_map(move |list| list.get(i)).copied().collect::<Vec<_>>()).collect()
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
