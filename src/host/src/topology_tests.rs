//! Trees of sysfs files of machines that are not here.

use std::fs;

use tempfile::TempDir;

use super::*;

/// A tree of files like that of sysfs.
struct Tree(TempDir);

impl Tree {
    fn new(online: &str) -> Self {
        let tree = Self(TempDir::new().unwrap());
        tree.file("cpu/online", online);
        tree
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    /// Nodes 0, 1, ... with these CPUs; all have memory.
    fn nodes(self, cpus: &[&str]) -> Self {
        for (id, list) in cpus.iter().enumerate() {
            self.file(&format!("node/node{id}/cpulist"), list);
        }
        let all = if cpus.len() == 1 { "0".to_owned() } else { format!("0-{}", cpus.len() - 1) };
        self.file("node/online", &all);
        self.file("node/has_memory", &all);
        self
    }

    /// Core `i` has the CPUs `i` and, with SMT, `i + cores`; every `per_l3` cores share a cache.
    fn cores(self, cores: usize, smt: bool, per_l3: usize) -> Self {
        for cpu in 0..if smt { 2 * cores } else { cores } {
            let core = cpu % cores;
            let siblings = if smt { format!("{core},{}", core + cores) } else { core.to_string() };
            self.file(&format!("cpu/cpu{cpu}/topology/thread_siblings_list"), &siblings);
            let first = core / per_l3 * per_l3;
            let last = first + per_l3 - 1;
            let shared = if smt {
                format!("{first}-{last},{}-{}", first + cores, last + cores)
            } else {
                format!("{first}-{last}")
            };
            self.file(&format!("cpu/cpu{cpu}/cache/index3/shared_cpu_list"), &shared);
        }
        self
    }

    fn read(&self) -> Topology {
        Topology::read(self.0.path()).unwrap()
    }
}

fn set(list: &str) -> CpuSet {
    CpuSet::parse(list).unwrap()
}

fn mask(list: &str) -> NodeMask {
    NodeMask::parse(list).unwrap()
}

/// The first CPU of each core, in order.
fn first_cpus(cores: &[Core]) -> Vec<usize> {
    cores.iter().map(|core| core.cpus.iter().next().unwrap()).collect()
}

#[test]
fn one_node_without_smt() {
    let tree = Tree::new("0-3").nodes(&["0-3"]).cores(4, false, 4);
    let topology = tree.read();
    assert_eq!(topology.nodes, [Node { id: 0, cpus: set("0-3"), has_memory: true }]);
    let cores = topology.spread_cores(&set("0-3"), &[0]);
    assert_eq!(first_cpus(&cores), [0, 1, 2, 3]);
    assert!(cores.iter().all(|core| core.node == 0 && core.cpus.len() == 1 && core.domain == set("0-3")));
}

#[test]
fn two_nodes_take_turns() {
    let tree = Tree::new("0-7").nodes(&["0-3", "4-7"]).cores(8, false, 4);
    let topology = tree.read();
    let cores = topology.spread_cores(&set("0-7"), &[0, 1]);
    assert_eq!(first_cpus(&cores), [0, 4, 1, 5, 2, 6, 3, 7]);
    assert_eq!(cores.iter().map(|core| core.node).collect::<Vec<_>>(), [0, 1, 0, 1, 0, 1, 0, 1]);
    assert_eq!(topology.working_nodes(&set("0-7"), mask("0-1")), [0, 1]);
    assert_eq!(topology.working_nodes(&set("0-3"), mask("0-1")), [0]);
    assert_eq!(topology.working_nodes(&set("0-7"), mask("1")), [1]);
}

/// One socket with 8 CCDs of 8 cores: CPUs 0-63 are the first threads, 64-127 their siblings.
#[test]
fn eight_ccds_with_smt() {
    let tree = Tree::new("0-127").nodes(&["0-127"]).cores(64, true, 8);
    let cores = tree.read().spread_cores(&set("0-127"), &[0]);
    assert_eq!(cores.len(), 64);
    assert_eq!(first_cpus(&cores)[..9], [0, 8, 16, 24, 32, 40, 48, 56, 1]);
    assert_eq!((cores[1].cpus, cores[1].domain), (set("8,72"), set("8-15,72-79")));
}

/// The firmware option "L3 as NUMA": every CCD is a node.
#[test]
fn every_l3_a_node() {
    let lists = ["0-7,32-39", "8-15,40-47", "16-23,48-55", "24-31,56-63"];
    let topology = Tree::new("0-63").nodes(&lists).cores(32, true, 8).read();
    let cores = topology.spread_cores(&set("0-63"), &[0, 1, 2, 3]);
    assert_eq!(first_cpus(&cores)[..6], [0, 8, 16, 24, 1, 9]);
    assert!(cores.iter().all(|core| core.domain == set(lists[core.node])));
    assert_eq!(topology.working_nodes(&set("0-63"), mask("0-3")), [0, 1, 2, 3]);
}

/// A cache that reaches over two nodes (sub-NUMA clusters): a domain stays within its node.
#[test]
fn a_cache_of_two_nodes() {
    let cores = Tree::new("0-7").nodes(&["0-3", "4-7"]).cores(8, false, 8).read().spread_cores(&set("0-7"), &[0, 1]);
    assert_eq!(cores[0].domain, set("0-3"));
    assert_eq!(cores[1].domain, set("4-7"));
}

#[test]
fn cpus_that_are_offline_or_not_allowed_are_not_used() {
    let tree = Tree::new("0-2,4-15").nodes(&["0-3,8-11", "4-7,12-15"]).cores(8, true, 2);
    let topology = tree.read();
    assert_eq!(topology.nodes[0].cpus, set("0-2,8-11"));
    let cores = topology.spread_cores(&set("1-6,10"), &[0, 1]);
    assert_eq!(cores.iter().map(|core| core.cpus.to_string()).collect::<Vec<_>>(), ["1", "4", "2,10", "6", "5"]);
    assert_eq!((cores[2].domain, cores[4].domain), (set("2,10"), set("4-5")));
    assert!(topology.spread_cores(&CpuSet::EMPTY, &[0, 1]).is_empty());
}

#[test]
fn nodes_without_memory_or_without_cpus() {
    let tree = Tree::new("0-3").nodes(&["0-1", "2-3", ""]).cores(4, false, 4);
    tree.file("node/has_memory", "0,2");
    let topology = tree.read();
    let memory: Vec<_> = topology.nodes.iter().map(|n| (n.id, n.cpus.len(), n.has_memory)).collect();
    assert_eq!(memory, [(0, 2, true), (1, 2, false), (2, 0, true)]);
    assert_eq!(topology.working_nodes(&set("0-3"), mask("0-2")), [0]);
    assert_eq!(first_cpus(&topology.spread_cores(&set("0-3"), &[0])), [0, 1]);
}

/// A gap in the numbers of the nodes, as on machines whose second socket is off.
#[test]
fn nodes_need_not_be_numbered_without_gaps() {
    let tree = Tree::new("0-3");
    for (id, list) in [(0, "0-1"), (2, "2-3")] {
        tree.file(&format!("node/node{id}/cpulist"), list);
    }
    tree.file("node/online", "0,2");
    let topology = tree.read();
    assert_eq!(topology.nodes.iter().map(|n| (n.id, n.has_memory)).collect::<Vec<_>>(), [(0, true), (2, true)]);
    assert_eq!(topology.working_nodes(&set("0-3"), mask("0-7")), [0, 2]);
}

#[test]
fn without_the_folders_of_nodes_and_caches() {
    let tree = Tree::new("0-3");
    let topology = tree.read();
    assert_eq!(topology.nodes, [Node { id: 0, cpus: set("0-3"), has_memory: true }]);
    let cores = topology.spread_cores(&set("0-3"), &[0]);
    assert_eq!(first_cpus(&cores), [0, 1, 2, 3]);
    assert!(cores.iter().all(|core| core.domain == set("0-3")));
}

#[test]
fn without_sysfs_there_is_no_topology() {
    assert_eq!(Topology::read(Path::new("/nowhere")), None);
    assert_eq!(Topology::read(Tree::new("nonsense").0.path()), None);
    let tree = Tree::new("0-3").nodes(&["0-1", "2-3"]);
    fs::remove_file(tree.0.path().join("node/node1/cpulist")).unwrap();
    assert_eq!(Topology::read(tree.0.path()), None, "half of it is not believed");
}

#[test]
fn this_machine_has_cores() {
    let topology = Topology::read(Path::new(SYSFS)).unwrap();
    let allowed = crate::cpuset::affinity().unwrap();
    let nodes: Vec<_> = topology.nodes.iter().map(|n| n.id).collect();
    let cores = topology.spread_cores(&allowed, &nodes);
    let cpus: usize = cores.iter().map(|core| core.cpus.len()).sum();
    assert_eq!(cpus, allowed.len(), "{cores:?}");
}
