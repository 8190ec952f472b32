//! The cores to measure on, and which of them in which measurement.

use std::collections::BTreeSet;
use std::path::Path;

use zen5turbo_host::cpuset::{CpuSet, affinity};
use zen5turbo_host::topology::{Core, SYSFS, Topology};

/// Cores between which latencies are measured: 120 pairs.
const PAIRED: usize = 16;

/// One CPU of every core that this process may use, in the order in which threads are put on them: in turn
/// over nodes and last-level caches.
pub struct Places {
    cores: Vec<Core>,
}

/// How far apart two cores are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distance {
    SameL3,
    SameNode,
    OtherNode,
}

impl Distance {
    pub fn words(self) -> &'static str {
        match self {
            Distance::SameL3 => "same L3",
            Distance::SameNode => "other L3",
            Distance::OtherNode => "other node",
        }
    }
}

impl Places {
    /// Of the CPUs that this process may run on, or why they are not known.
    pub fn of_this_process() -> Result<Places, String> {
        let allowed = affinity().map_err(|error| format!("which CPUs may be used is not told: {error}"))?;
        let topology = Topology::read(Path::new(SYSFS)).ok_or(format!("{SYSFS} does not tell the CPUs"))?;
        let nodes: Vec<usize> = topology.nodes.iter().map(|node| node.id).collect();
        Places::new(topology.spread_cores(&allowed, &nodes))
    }

    fn new(cores: Vec<Core>) -> Result<Places, String> {
        if cores.is_empty() { Err("no core may be used".into()) } else { Ok(Places { cores }) }
    }

    /// How many cores.
    pub fn len(&self) -> usize {
        self.cores.len()
    }

    /// One CPU on each of the first `n` cores.
    pub fn first(&self, n: usize) -> Vec<CpuSet> {
        self.cores[..n].iter().map(place).collect()
    }

    /// 1, 2, 4 ... and all.
    pub fn counts(&self) -> Vec<usize> {
        let all = self.len();
        let mut counts: Vec<usize> = std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|&n| n < all).collect();
        counts.push(all);
        counts
    }

    /// One CPU on each core of every last-level cache, in the order of the CPUs.
    pub fn caches(&self) -> Vec<Vec<CpuSet>> {
        self.by_cache().into_iter().map(|cores| cores.into_iter().map(place).collect()).collect()
    }

    fn by_cache(&self) -> Vec<Vec<&Core>> {
        let first = |set: &CpuSet| set.iter().next();
        let domains: BTreeSet<Option<usize>> = self.cores.iter().map(|core| first(&core.domain)).collect();
        let of = |domain| self.cores.iter().filter(|core| first(&core.domain) == domain).collect();
        domains.into_iter().map(of).collect()
    }

    /// How many last-level caches these places lie at.
    pub fn caches_of(&self, places: &[CpuSet]) -> usize {
        self.by_cache().iter().filter(|cores| cores.iter().any(|core| places.contains(&place(core)))).count()
    }

    /// The pairs of cores to measure, and how many cores they are of: as many of every last-level cache.
    pub fn pairs(&self) -> (Vec<(CpuSet, CpuSet, Distance)>, usize) {
        let caches = self.by_cache();
        let each = (PAIRED / caches.len()).max(2);
        let some: Vec<&Core> = caches.iter().flat_map(|cores| cores.iter().take(each).copied()).take(PAIRED).collect();
        let mut pairs = Vec::new();
        for (i, a) in some.iter().enumerate() {
            for b in &some[i + 1..] {
                let distance = match () {
                    () if a.domain == b.domain => Distance::SameL3,
                    () if a.node == b.node => Distance::SameNode,
                    () => Distance::OtherNode,
                };
                pairs.push((place(a), place(b), distance));
            }
        }
        (pairs, some.len())
    }
}

/// The first CPU of a core.
fn place(core: &Core) -> CpuSet {
    core.cpus.iter().take(1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cores of two CPUs, `per_cache` at each cache, `caches` on each of two nodes.
    fn machine(caches: usize, per_cache: usize) -> Places {
        let of_node = caches * per_cache;
        let core = |i: usize| {
            let cache = i / per_cache * per_cache;
            let domain = (cache..cache + per_cache).collect();
            Core { cpus: [i, i + 2 * of_node].into_iter().collect(), domain, node: i / of_node }
        };
        Places::new((0..2 * of_node).map(core).collect()).unwrap()
    }

    #[test]
    fn places_are_one_cpu_per_core() {
        let places = machine(2, 3);
        assert_eq!((places.len(), places.counts()), (12, vec![1, 2, 4, 8, 12]));
        assert!(places.first(12).iter().all(|place| place.len() == 1));
        let caches = places.caches();
        assert_eq!(caches.iter().map(Vec::len).collect::<Vec<_>>(), [3; 4]);
        assert_eq!(places.caches_of(&places.first(4)), 2);
        assert!(Places::new(Vec::new()).is_err());
    }

    #[test]
    fn pairs_of_large_machines_are_capped_and_hold_every_distance() {
        let (pairs, cores) = machine(8, 8).pairs();
        assert_eq!((cores, pairs.len()), (16, 120));
        let (small, cores) = machine(1, 2).pairs();
        assert_eq!((cores, small.len()), (4, 6));
        let distances: BTreeSet<Distance> = machine(2, 3).pairs().0.into_iter().map(|(.., d)| d).collect();
        assert_eq!(distances.len(), 3);
        assert!(machine(1, 1).pairs().0.len() == 1);
    }
}
