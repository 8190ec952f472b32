//! Divides the rows of a weight matrix among NUMA nodes.

use std::ops::Range;

use zen5turbo_host::numa::MAX_NODES;
use zen5turbo_kernels::isa::LANES;

/// The threads of a graph on each NUMA node. Rows are divided in proportion to these numbers, in whole panels: the
/// first rows belong to the first NUMA node, the next ones to the second, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// For each NUMA node, the number of threads on all nodes before it.
    before: [u16; MAX_NODES + 1],
    /// The number of NUMA nodes.
    pub nodes: usize,
}

impl Shares {
    /// Shares for threads that run on these NUMA nodes, whose numbers are below `nodes`. `None` when there is no
    /// thread, when a thread runs on another NUMA node, and when there are too many threads to count.
    pub fn new(nodes: usize, of_threads: impl Iterator<Item = usize>) -> Option<Self> {
        let mut before = [0u16; MAX_NODES + 1];
        for node in of_threads {
            if node >= nodes.min(MAX_NODES) {
                return None;
            }
            before[node + 1] = before[node + 1].checked_add(1)?;
        }
        for i in 0..MAX_NODES {
            before[i + 1] = before[i + 1].checked_add(before[i])?;
        }
        (before[nodes] > 0).then_some(Self { before, nodes })
    }

    /// The number of threads on `node`.
    pub fn threads(&self, node: usize) -> usize {
        usize::from(self.before[node + 1] - self.before[node])
    }

    /// The panels of `node`, out of `panels`.
    pub fn panels(&self, panels: usize, node: usize) -> Range<usize> {
        let first = |n: usize| panels * usize::from(self.before[n]) / usize::from(self.before[self.nodes]);
        first(node)..first(node + 1)
    }

    /// The NUMA node whose threads compute a row, out of `rows`.
    pub fn node_of_row(&self, rows: usize, row: usize) -> usize {
        let (panels, panel) = (rows.div_ceil(LANES), row / LANES);
        (0..self.nodes).find(|&n| self.panels(panels, n).contains(&panel)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_belongs_to_exactly_one_node_that_has_threads() {
        for threads in [&[0][..], &[0, 1], &[1, 1], &[0, 1, 0], &[0, 2, 3, 0, 2, 2, 2], &[3; 9], &[0, 1, 2, 3]] {
            let shares = Shares::new(4, threads.iter().copied()).unwrap();
            for rows in [1usize, 15, 16, 17, 64, 192, 640, 1000, 4096, 151_936] {
                let panels = rows.div_ceil(LANES);
                let mut next = 0;
                for node in 0..4 {
                    let range = shares.panels(panels, node);
                    assert_eq!(range.start, next);
                    next = range.end;
                    let mine = threads.iter().filter(|&&n| n == node).count();
                    assert_eq!(shares.threads(node), mine);
                    // In proportion, to a panel.
                    let fair = panels * mine;
                    assert!(range.len() * threads.len() <= fair + threads.len(), "{threads:?} {rows} {node}");
                    assert!((range.len() + 1) * threads.len() >= fair, "{threads:?} {rows} {node}");
                    for row in (range.start * LANES..(range.end * LANES).min(rows)).step_by(7) {
                        assert_eq!(shares.node_of_row(rows, row), node);
                    }
                }
                assert_eq!(next, panels);
            }
        }
    }

    #[test]
    fn threads_on_other_nodes_cannot_be_counted() {
        assert_eq!(Shares::new(2, [0, 2].into_iter()), None);
        assert_eq!(Shares::new(2, [].into_iter()), None);
        assert_eq!(Shares::new(MAX_NODES, [MAX_NODES].into_iter()), None);
        assert!(Shares::new(MAX_NODES, 0..MAX_NODES).is_some());
    }
}
