//! The weight matrices that planned graphs read, by address, and the NUMA node whose threads compute each row.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError, TryLockError};

use super::shares::Shares;

/// Entries at most. A model has a few hundred. A program that makes new matrices all the time must not fill the memory.
const MOST: usize = 1 << 16;

/// Matrices of the same shape at equal distances: one matrix, or the matrices of all experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrices {
    /// The address of the first matrix.
    pub start: usize,
    /// Rows of each matrix.
    pub rows: usize,
    /// Bytes from one row to the next.
    pub row_bytes: usize,
    /// The number of matrices.
    pub count: usize,
    /// Bytes from one matrix to the next.
    pub stride: usize,
}

impl Matrices {
    fn end(&self) -> usize {
        self.start + (self.count - 1) * self.stride + self.rows * self.row_bytes
    }

    /// The row at an address inside these matrices.
    fn row(&self, address: usize) -> usize {
        let offset = address - self.start;
        let inside = if self.count > 1 { offset % self.stride } else { offset };
        (inside / self.row_bytes).min(self.rows - 1)
    }

    fn are_sane(&self) -> bool {
        self.rows > 0 && self.row_bytes > 0 && self.count > 0 && (self.count == 1 || self.stride > 0)
    }
}

/// The known matrices, by the address of the first byte. No two of them overlap.
pub struct Seen(Mutex<BTreeMap<usize, (Matrices, Shares)>>);

impl Seen {
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Adds matrices and their shares, and removes older entries at the same addresses. Never waits: if another thread
    /// holds the lock, nothing is added, and the next graph calls this again.
    pub fn add(&self, matrices: Matrices, shares: &Shares) {
        let mut seen = match self.0.try_lock() {
            Ok(seen) => seen,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let start = matrices.start;
        if !matrices.are_sane() || seen.get(&start).is_some_and(|old| *old == (matrices, *shares)) {
            return;
        }
        while let Some((&old, _)) = seen.range(..matrices.end()).next_back().filter(|(_, (m, _))| m.end() > start) {
            seen.remove(&old);
        }
        if seen.len() < MOST {
            seen.insert(start, (matrices, *shares));
        }
    }

    /// The NUMA node, numbered as in [`Shares`], whose threads compute the row at `address`. `None` when no known
    /// matrix lies there.
    pub fn node_at(&self, address: usize) -> Option<usize> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, (matrices, shares)) = seen.range(..=address).next_back()?;
        (address < matrices.end()).then(|| shares.node_of_row(matrices.rows, matrices.row(address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_nodes(threads: &[usize]) -> Shares {
        Shares::new(2, threads.iter().copied()).unwrap()
    }

    fn one(start: usize, rows: usize, row_bytes: usize) -> Matrices {
        Matrices { start, rows, row_bytes, count: 1, stride: 0 }
    }

    #[test]
    fn rows_lie_on_the_node_that_computes_them() {
        let seen = Seen::new();
        seen.add(one(1000, 64, 100), &two_nodes(&[0, 1, 0, 0]));
        assert_eq!(seen.node_at(999), None);
        assert_eq!(seen.node_at(1000), Some(0));
        assert_eq!(seen.node_at(1000 + 48 * 100 - 1), Some(0));
        assert_eq!(seen.node_at(1000 + 48 * 100), Some(1));
        assert_eq!(seen.node_at(1000 + 6399), Some(1));
        assert_eq!(seen.node_at(1000 + 6400), None);
    }

    #[test]
    fn every_expert_is_divided() {
        let seen = Seen::new();
        let experts = Matrices { count: 3, stride: 4000, ..one(0, 32, 100) };
        seen.add(experts, &two_nodes(&[0, 1]));
        for e in 0..3 {
            assert_eq!(seen.node_at(e * 4000), Some(0));
            assert_eq!(seen.node_at(e * 4000 + 1600), Some(1));
        }
        assert_eq!(seen.node_at(3200), Some(1), "between two experts: with what comes before");
        assert_eq!(seen.node_at(2 * 4000 + 3200), None);
    }

    #[test]
    fn what_is_seen_last_counts() {
        let seen = Seen::new();
        let shares = two_nodes(&[0, 1]);
        seen.add(one(0, 16, 100), &shares);
        seen.add(one(1600, 16, 100), &shares);
        seen.add(one(3200, 16, 100), &shares);
        seen.add(one(1000, 32, 50), &two_nodes(&[0]));
        let starts: Vec<_> = seen.0.lock().unwrap().keys().copied().collect();
        assert_eq!(starts, [1000, 3200]);
        seen.add(one(1000, 32, 50), &shares);
        assert_eq!(seen.node_at(1800), Some(1));
    }

    #[test]
    fn matrices_of_nothing_are_not_kept() {
        let seen = Seen::new();
        for bad in
            [one(0, 0, 1), one(0, 1, 0), Matrices { count: 0, ..one(0, 1, 1) }, Matrices { count: 2, ..one(0, 1, 1) }]
        {
            seen.add(bad, &two_nodes(&[0]));
        }
        assert_eq!(seen.node_at(0), None);
    }
}
