//! The shape of a MUL_MAT_ID (mixture of experts). Every token picks some experts, and its column is multiplied by
//! their weights. The picks are known only when the node runs, so the columns are grouped by expert then. Every thread
//! does this for itself, which is cheaper than a barrier.

use std::ops::Range;

use zen5turbo_kernels::isa::LANES;
use zen5turbo_kernels::kernel::{Blocking, Kernel, Product};

use super::by_columns::ByColumns;
use super::expert_pieces::Cut;
use super::groups::{Groups, Ids, Pick};
use super::policy::Selection;
use crate::ggml::abi::Tensor;

/// Addresses and sizes of a MUL_MAT_ID. A *pick* is a pair of token and slot, and has one result column.
pub struct Experts {
    weights: *const u8,
    row_stride: usize,
    expert_stride: usize,
    rows: usize,
    k: usize,
    src1: *const u8,
    nb1: [usize; 4],
    ne11: usize,
    dst: *mut u8,
    nbd: [usize; 4],
    pub ids: Ids,
    pub kernels: &'static ByColumns,
    /// Bytes from one quantised column to the next.
    column_bytes: usize,
    /// The cut into pieces if threads are not bound to NUMA nodes.
    pub cut: Cut,
}

impl Experts {
    /// The addresses and sizes of a MUL_MAT_ID.
    pub fn new(op: &Tensor, src0: &Tensor, src1: &Tensor, ids: &Tensor, selection: &Selection, threads: usize) -> Self {
        let kernels = ByColumns::of(selection.kernel.weight);
        Experts {
            weights: src0.data.cast(),
            row_stride: src0.nb[1],
            expert_stride: src0.nb[2],
            rows: selection.rows,
            k: selection.k,
            src1: src1.data.cast(),
            nb1: src1.nb,
            ne11: src1.ne[1] as usize,
            dst: op.data.cast(),
            nbd: op.nb,
            ids: Ids {
                data: ids.data.cast_const().cast(),
                nb: ids.nb,
                used: ids.ne[0] as usize,
                tokens: ids.ne[1] as usize,
                experts: src0.ne[2] as usize,
            },
            kernels,
            column_bytes: kernels.column_bytes(selection.k),
            cut: Cut::new(0..selection.rows.div_ceil(LANES), LANES * src0.nb[1], threads),
        }
    }

    /// Lets the product read the copy of its weights, which lies `distance` bytes from the program's own.
    pub fn read_copy(&mut self, distance: usize) {
        self.weights = self.weights.wrapping_add(distance);
    }

    /// The cut of these panels of every expert.
    pub fn cut_of(&self, panels: Range<usize>, threads: usize) -> Cut {
        Cut::new(panels, LANES * self.row_stride, threads)
    }

    /// The number of experts that can be picked at most.
    pub fn most_active(&self) -> usize {
        self.ids.experts.min(self.ids.picks())
    }

    /// Whether all picks have the same activations, because there is one token. Every thread then quantises this one
    /// column for itself, without a barrier. (768 x 2048 q4_K, 8 experts, two threads, AMD EPYC, Zen 4, 2026-11-30: 252
    /// us with a column for each pick, 245 us with one column.)
    fn one_column(&self) -> bool {
        self.ids.tokens == 1 && self.ne11 == 1
    }

    /// The number of columns that are quantised.
    pub fn columns(&self) -> usize {
        if self.one_column() { 1 } else { self.ids.picks() }
    }

    /// Bytes of the quantised activations.
    pub fn act_bytes(&self) -> usize {
        self.columns() * self.column_bytes
    }

    /// The address of the first activation of a pick.
    fn source(&self, Pick { slot, token }: Pick) -> *const f32 {
        self.src1.wrapping_add(slot as usize % self.ne11 * self.nb1[1] + token as usize * self.nb1[2]).cast()
    }

    /// The address of the first result of a pick.
    #[inline]
    fn result(&self, Pick { slot, token }: Pick) -> *mut f32 {
        self.dst.wrapping_add(slot as usize * self.nbd[1] + token as usize * self.nbd[2]).cast()
    }

    /// Quantises every `step`-th tile from `first` on. The columns lie in the order of the groups, each group in the
    /// format of its kernel.
    ///
    /// # Safety
    /// `to` is writable for [`Self::act_bytes`], and `policy` has checked the tensors.
    pub unsafe fn quantize(&self, groups: &Groups<'_>, first: usize, step: usize, to: *mut u8) {
        let mut until = first;
        let mut quantize = |kernel: &Kernel, picks: &[Pick], to: *mut u8| {
            let tiles = kernel.tiles(self.k, picks.len());
            for t in 0..tiles.count {
                if until == 0 {
                    // SAFETY: `to` has room for all columns, and `policy` has checked the tensors, by the contract of
                    // this function.
                    unsafe { kernel.quantize_tile(self.k, tiles, t, to, |c| self.source(picks[c])) };
                    until = step;
                }
                until -= 1;
            }
        };
        if self.one_column() {
            quantize(self.kernels.kernel(1), &[Pick { slot: 0, token: 0 }], to);
            return;
        }
        for &e in groups.active() {
            let (from, picks) = groups.of(e as usize);
            quantize(self.kernels.kernel(picks.len()), picks, to.wrapping_add(from * self.column_bytes));
        }
    }

    /// Multiplies panels of expert `e` by its picks.
    ///
    /// # Safety
    /// The conditions of [`Kernel::multiply`]. [`Self::quantize`] has filled `act` with these groups.
    pub unsafe fn multiply(
        &self,
        groups: &Groups<'_>,
        (e, panels): (usize, Range<usize>),
        act: *const u8,
        blocking: &Blocking,
        scratch: *mut u8,
    ) {
        let (from, picks) = groups.of(e);
        let multiply = |picks: &[Pick], act: *const u8| {
            let kernel = self.kernels.kernel(picks.len());
            let (weights, tiles) = (self.expert(e), kernel.tiles(self.k, picks.len()));
            let p = Product { weights, stride: self.row_stride, rows: self.rows, k: self.k, act, tiles };
            // SAFETY: the caller meets the conditions of `multiply`, and `act` holds these columns, by the contract of
            // this function.
            unsafe {
                kernel.multiply(&p, panels.clone(), 0..tiles.count, blocking, scratch, |c| self.result(picks[c]));
            }
        };
        if self.one_column() {
            // There is more than one pick if the token picked the same expert again.
            picks.chunks(1).for_each(|pick| multiply(pick, act));
        } else {
            multiply(picks, act.wrapping_add(from * self.column_bytes));
        }
    }

    /// The address of the weights of an expert.
    fn expert(&self, e: usize) -> *const u8 {
        self.weights.wrapping_add(e * self.expert_stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zen5turbo_kernels::formats::WeightType;

    const USED: usize = 3;
    const ROWS: usize = 20;
    const K: usize = 64;

    /// Results of one token that picked `ids`, of two experts in q8_0, from `columns`: one, or one for each pick.
    fn results(ids: [i32; USED], columns: &[f32]) -> Vec<f32> {
        let kernels = ByColumns::of(WeightType::Q8_0);
        let row = WeightType::Q8_0.row_bytes(K);
        // Scales of 2^-7, all of a block's codes small.
        let block = |b: usize| [0, 0x20].into_iter().chain((0..32).map(move |i| (b * 31 + i * 7) as u8 % 50));
        let weights: Vec<u8> = (0..2 * ROWS * K / 32).flat_map(block).collect();
        let mut dst = vec![0_f32; USED * ROWS];
        let x = Experts {
            weights: weights.as_ptr(),
            row_stride: row,
            expert_stride: ROWS * row,
            rows: ROWS,
            k: K,
            src1: columns.as_ptr().cast(),
            nb1: [4, 4 * K, 4 * columns.len(), 0],
            ne11: columns.len() / K,
            dst: dst.as_mut_ptr().cast(),
            nbd: [4, 4 * ROWS, 4 * ROWS * USED, 0],
            ids: Ids { data: ids.as_ptr().cast(), nb: [4, 4 * USED, 0, 0], used: USED, tokens: 1, experts: 2 },
            kernels,
            column_bytes: kernels.column_bytes(K),
            cut: Cut::new(0..ROWS.div_ceil(LANES), LANES * row, 1),
        };
        #[repr(align(64))]
        #[derive(Clone, Copy)]
        struct Line(#[expect(dead_code, reason = "only its room is used")] [u8; 64]);
        let room = |bytes: usize| vec![Line([0; 64]); bytes.div_ceil(64)];
        let blocking = Blocking::MEASURED;
        let [mut memory, mut act, mut scratch] =
            [x.ids.group_bytes(), x.act_bytes(), kernels.scratch_bytes(K, &blocking)].map(room);
        // SAFETY: every buffer has the size asked for, and weights, columns and results those of the shape.
        unsafe {
            let groups = x.ids.group(memory.as_mut_ptr().cast(), false);
            x.quantize(&groups, 0, 1, act.as_mut_ptr().cast());
            let mut cursor = x.cut.cursor(&groups);
            for piece in (0..).map_while(|i| cursor.piece(i)) {
                x.multiply(&groups, piece, act.as_ptr().cast(), &blocking, scratch.as_mut_ptr().cast());
            }
        }
        dst
    }

    #[test]
    fn one_column_for_all_picks_gives_what_one_for_each_does_even_of_an_expert_picked_twice() {
        let column: Vec<f32> = (0..K).map(|i| (i % 11) as f32 - 4.0).collect();
        let each: Vec<f32> = (0..USED).flat_map(|_| column.clone()).collect();
        for ids in [[0, 1, 0], [1, 1, 1], [1, 0, 9]] {
            let (one, each) = (results(ids, &column), results(ids, &each));
            assert!(one[..2 * ROWS].iter().all(|x| *x != 0.0), "{ids:?}");
            for (a, b) in one.iter().zip(&each) {
                assert!((a - b).abs() <= 1e-5 * b.abs(), "{ids:?}: {a} {b}");
            }
        }
    }
}
