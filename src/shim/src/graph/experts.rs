//! The shape of a MUL_MAT_ID (mixture of experts): every token picks some experts, whose weights its
//! column meets. Who picked whom is known only when the node runs, so the columns are grouped then,
//! by every thread for itself: that is cheaper than a barrier.

use std::ops::Range;

use zen5turbo_kernels::isa::LANES;
use zen5turbo_kernels::kernel::Product;

use super::dense::PIECES_PER_THREAD;
use super::policy::Take;
use crate::ggml::abi::Tensor;

/// Addresses and sizes of a MUL_MAT_ID. A *pick* is one (token, slot): one result column; picks are
/// numbered `token * used + slot`.
pub struct Experts {
    weights: *const u8,
    row_stride: usize,
    expert_stride: usize,
    /// Number of experts.
    experts: usize,
    src1: *const u8,
    nb1: [usize; 4],
    ne11: usize,
    dst: *mut u8,
    nbd: [usize; 4],
    ids: *const u8,
    ids_nb: [usize; 4],
    /// Experts that a token picks.
    used: usize,
    tokens: usize,
    pub rows: RowGroups,
}

/// How the rows of every expert are cut.
#[derive(Clone, Copy)]
pub struct RowGroups {
    /// The panels that are cut: all of an expert, or those of one node.
    first: usize,
    end: usize,
    panels_per_piece: usize,
    count: usize,
    /// Experts that were expected to be picked.
    likely_active: usize,
}

/// The picks of a node, ordered by expert.
pub struct Groups<'a> {
    /// Where the picks of each expert start; one more entry than experts.
    starts: &'a [u32],
    /// Experts that were picked at all.
    active: &'a [u32],
    /// Picks.
    picks: &'a [u32],
}

impl Experts {
    /// The columns of a MUL_MAT_ID.
    pub fn new(op: &Tensor, src0: &Tensor, src1: &Tensor, ids: &Tensor, take: &Take, threads: usize) -> Self {
        let panels = take.rows.div_ceil(LANES);
        let (experts, used, tokens) = (src0.ne[2] as usize, ids.ne[0] as usize, ids.ne[1] as usize);
        let likely_active = experts.min(used * tokens);
        Experts {
            weights: src0.data.cast(),
            row_stride: src0.nb[1],
            expert_stride: src0.nb[2],
            experts,
            src1: src1.data.cast(),
            nb1: src1.nb,
            ne11: src1.ne[1] as usize,
            dst: op.data.cast(),
            nbd: op.nb,
            ids: ids.data.cast(),
            ids_nb: ids.nb,
            used,
            tokens,
            rows: RowGroups::new(0..panels, likely_active, threads),
        }
    }

    /// Result columns.
    pub fn picks(&self) -> usize {
        self.used * self.tokens
    }

    /// Experts that can at most take part.
    pub fn most_active(&self) -> usize {
        self.experts.min(self.picks())
    }

    /// Bytes that [`Self::group`] needs.
    pub fn group_bytes(&self) -> usize {
        4 * (2 * self.experts + 2 + self.picks())
    }

    /// Orders the picks by expert, in `memory`. A pick of an expert that does not exist is left out.
    ///
    /// # Safety
    /// `memory` is this thread's own, aligned to 4 bytes, of [`Self::group_bytes`]; the ids are final.
    pub unsafe fn group<'a>(&self, memory: *mut u8) -> Groups<'a> {
        // SAFETY: by contract.
        let memory = unsafe { std::slice::from_raw_parts_mut(memory.cast::<u32>(), self.group_bytes() / 4) };
        let (starts, rest) = memory.split_at_mut(self.experts + 2);
        let (active, picks) = rest.split_at_mut(self.experts);
        starts.fill(0);
        // counts two places up, so that after the sums below `starts[e + 1]` is where `e` begins
        for pick in 0..self.picks() {
            // SAFETY: by contract.
            if let Some(e) = unsafe { self.expert(pick) } {
                starts[e + 2] += 1;
            }
        }
        let mut n_active = 0;
        for e in 0..self.experts {
            if starts[e + 2] > 0 {
                active[n_active] = e as u32;
                n_active += 1;
            }
            starts[e + 2] += starts[e + 1];
        }
        for pick in 0..self.picks() {
            // SAFETY: by contract.
            if let Some(e) = unsafe { self.expert(pick) } {
                picks[starts[e + 1] as usize] = pick as u32;
                starts[e + 1] += 1;
            }
        }
        Groups { starts: &starts[..=self.experts], active: &active[..n_active], picks }
    }

    unsafe fn expert(&self, pick: usize) -> Option<usize> {
        let at = pick % self.used * self.ids_nb[0] + pick / self.used * self.ids_nb[1];
        // SAFETY: inside the tensor of ids.
        let id = unsafe { self.ids.add(at).cast::<i32>().read_unaligned() };
        usize::try_from(id).ok().filter(|&e| e < self.experts)
    }

    /// First of the activations of a pick.
    pub fn source(&self, pick: u32) -> *const f32 {
        let (slot, token) = (pick as usize % self.used, pick as usize / self.used);
        self.src1.wrapping_add(slot % self.ne11 * self.nb1[1] + token * self.nb1[2]).cast()
    }

    /// First of the results of a pick.
    pub fn result(&self, pick: u32) -> *mut f32 {
        let (slot, token) = (pick as usize % self.used, pick as usize / self.used);
        self.dst.wrapping_add(slot * self.nbd[1] + token * self.nbd[2]).cast()
    }

    /// The product of expert `e` with its picks, whose quantised columns begin at `act`.
    pub fn product(&self, e: usize, columns: usize, take: &Take, act: *const u8) -> Product {
        Product {
            weights: self.weights.wrapping_add(e * self.expert_stride),
            stride: self.row_stride,
            rows: take.rows,
            k: take.k,
            act,
            tiles: take.kernel.tiles(columns),
        }
    }
}

impl RowGroups {
    /// Cuts these panels of every expert for `threads` threads.
    fn new(panels: Range<usize>, likely_active: usize, threads: usize) -> Self {
        let panels_per_piece =
            (panels.len() * likely_active / (threads * PIECES_PER_THREAD)).clamp(1, panels.len().max(1));
        let count = panels.len().div_ceil(panels_per_piece);
        RowGroups { first: panels.start, end: panels.end, panels_per_piece, count, likely_active }
    }

    /// Cuts a part of these panels for `threads` threads.
    pub fn part(&self, panels: Range<usize>, threads: usize) -> Self {
        Self::new(panels, self.likely_active, threads)
    }

    /// Pieces of work: row groups of the active experts.
    pub fn pieces(&self, groups: &Groups<'_>) -> usize {
        groups.active.len() * self.count
    }

    /// Expert and panels of piece `i`.
    pub fn piece(&self, groups: &Groups<'_>, i: usize) -> (usize, Range<usize>) {
        let from = self.first + i % self.count * self.panels_per_piece;
        (groups.active[i / self.count] as usize, from..(from + self.panels_per_piece).min(self.end))
    }
}

impl Groups<'_> {
    /// Experts that were picked.
    pub fn active(&self) -> &[u32] {
        self.active
    }

    /// Number of the first pick of expert `e` in the order, and its picks.
    pub fn of(&self, e: usize) -> (usize, &[u32]) {
        let (from, to) = (self.starts[e] as usize, self.starts[e + 1] as usize);
        (from, &self.picks[from..to])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_are_grouped_by_expert_and_bad_ids_left_out() {
        let ids: [i32; 8] = [2, 0, 2, 1, 7, -1, 0, 2];
        let x = Experts {
            weights: std::ptr::null(),
            row_stride: 0,
            expert_stride: 0,
            experts: 4,
            src1: std::ptr::null(),
            nb1: [0; 4],
            ne11: 1,
            dst: std::ptr::null_mut(),
            nbd: [0; 4],
            ids: ids.as_ptr().cast(),
            ids_nb: [4, 8, 0, 0],
            used: 2,
            tokens: 4,
            rows: RowGroups { first: 0, end: 3, panels_per_piece: 2, count: 2, likely_active: 4 },
        };
        let mut memory = vec![u32::MAX; x.group_bytes() / 4];
        // SAFETY: the memory has the size asked for.
        let g = unsafe { x.group(memory.as_mut_ptr().cast()) };
        assert_eq!(g.active(), [0, 1, 2]);
        assert_eq!(g.of(0), (0, &[1, 6][..]));
        assert_eq!(g.of(1), (2, &[3][..]));
        assert_eq!(g.of(2), (3, &[0, 2, 7][..]));
        assert_eq!(g.of(3), (6, &[][..]));
        assert_eq!(x.rows.pieces(&g), 6);
        assert_eq!(x.rows.piece(&g, 5), (2, 2..3));
    }

    #[test]
    fn pieces_of_all_nodes_cover_every_expert_once() {
        let groups = Groups { starts: &[0, 1, 1, 2], active: &[0, 2], picks: &[0, 1] };
        for panels in [1, 2, 7, 48] {
            let all = RowGroups::new(0..panels, 2, 3);
            for cut in [0, 1, panels / 2, panels] {
                let mut once = vec![0; 3 * panels];
                for (range, threads) in [(0..cut, 1), (cut..panels, 2)] {
                    let part = all.part(range, threads);
                    for i in 0..part.pieces(&groups) {
                        let (e, mine) = part.piece(&groups, i);
                        mine.for_each(|panel| once[e * panels + panel] += 1);
                    }
                }
                let wanted: Vec<_> = [1, 0, 1].into_iter().flat_map(|n| vec![n; panels]).collect();
                assert_eq!(once, wanted);
            }
        }
    }
}
