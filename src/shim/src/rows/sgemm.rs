//! `llamafile_sgemm` of ggml before December 2024, which has no operation hook.
//!
//! That ggml offers every MUL_MAT with contiguous activations to this function, first with activations of type F32.
//! Every thread calls it, without a barrier between the calls. So each thread computes its part of the result, from
//! activations that it quantises for itself.
//!
//! Whether a product is computed here depends only on the arguments that all threads have in common. A single thread
//! cannot leave its part to ggml, because ggml's threads wait for each other. So a thread that gets no memory computes
//! its part slowly.

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::time::Instant;

use zen5turbo_kernels::dequantize::dequantizer;
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::{Isa, LANES};
use zen5turbo_kernels::kernel::{Kernel, Product};

use super::fast_path;
use super::memory::Memory;
use crate::config::Fault;
use crate::gate::guard;
use crate::ggml::abi::TYPE_F32;
use crate::ggml::rows::{SGEMM_WEIGHTS, Sgemm};
use crate::ggml::types::weight_number;
use crate::stats::{self, OpKind};
use crate::tuning::{self, Regime};

/// The type of activations and results.
const F32: c_int = TYPE_F32;

/// The fewest columns for which a thread packs all weights itself.
const FEWEST_COLUMNS: usize = 64;

/// A product that is computed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    weight: WeightType,
    /// Rows of the weights.
    m: usize,
    /// Columns.
    n: usize,
    /// Elements of a row.
    k: usize,
    /// Bytes from one row of the weights to the next.
    stride: usize,
    /// Floats from one column of the activations to the next.
    ldb: usize,
    /// Floats from one column of the result to the next.
    ldc: usize,
    ith: usize,
    nth: usize,
}

impl Selection {
    /// The product of these arguments; `None` when ggml computes it.
    pub fn of([m, n, k, lda, ldb, ldc]: [i64; 6], [ith, nth]: [c_int; 2], [a, b, c]: [c_int; 3]) -> Option<Self> {
        let weight = SGEMM_WEIGHTS.into_iter().find(|&w| weight_number(w) == a)?;
        let size = |v: i64| usize::try_from(v).ok().filter(|v| (1..1 << 32).contains(v));
        let (block, bytes) = weight.block();
        let (m, n, blocks) = (size(m)?, size(n)?, size(k)?);
        let selection = Selection {
            weight,
            m,
            n,
            k: blocks * block,
            stride: size(lda)? * bytes,
            ldb: size(ldb)?,
            ldc: size(ldc)?,
            ith: usize::try_from(ith).ok()?,
            nth: usize::try_from(nth).ok()?,
        };
        let fits =
            lda >= k && selection.ldb >= selection.k && selection.ldc >= selection.m && selection.ith < selection.nth;
        (b == F32 && c == F32 && fits).then_some(selection)
    }

    /// The number of groups into which the columns are cut. Each group has the same number of threads, which divide the
    /// rows.
    fn groups(self) -> usize {
        let most = (self.n / FEWEST_COLUMNS).max(1);
        (1..=self.nth.min(most)).rev().find(|g| self.nth.is_multiple_of(*g)).unwrap_or(1)
    }

    /// The columns and the panels (of sixteen rows) that this thread computes.
    fn share(self) -> (Range<usize>, Range<usize>) {
        let groups = self.groups();
        let team = self.nth / groups;
        let (group, rank) = (self.ith / team, self.ith % team);
        let panels = self.m.div_ceil(LANES);
        (group * self.n / groups..(group + 1) * self.n / groups, rank * panels / team..(rank + 1) * panels / team)
    }

    /// Computes this thread's share.
    ///
    /// # Safety
    /// `a`, `b` and `c` are those of the call of `llamafile_sgemm` of which this was made.
    pub unsafe fn run(self, a: *const u8, b: *const f32, c: *mut f32) {
        let started = (self.ith == 0).then(Instant::now);
        let (columns, panels) = self.share();
        let share = Share { selection: self, a, b, c, columns, panels };
        let kernel = tuning::kernel(self.weight, self.k, share.columns.len());
        if !share.panels.is_empty() && !share.columns.is_empty() {
            // SAFETY: the matrices belong to the call of which this was made, by the contract of this function.
            unsafe {
                if !kernel.is_some_and(|kernel| share.quickly(kernel)) {
                    share.slowly();
                }
            }
        }
        if let Some(started) = started {
            self.count(kernel, started);
        }
    }

    fn count(self, kernel: Option<&'static Kernel>, started: Instant) {
        let ty = weight_number(self.weight) as u8;
        stats::set_type_name(ty, self.weight.ggml_name());
        if let Some(kernel) = kernel {
            stats::set_kernel(OpKind::MulMat, ty, Regime::of(self.n).name(), kernel.isa.name());
        }
        let (bytes, macs) = (self.m * self.weight.row_bytes(self.k), self.m * self.n * self.k);
        stats::taken(OpKind::MulMat, ty, started.elapsed().as_nanos() as u64, bytes as u64, macs as u64);
    }
}

/// A thread's part of a product.
struct Share {
    selection: Selection,
    a: *const u8,
    b: *const f32,
    c: *mut f32,
    columns: Range<usize>,
    panels: Range<usize>,
}

impl Share {
    fn source(&self, column: usize) -> *const f32 {
        self.b.wrapping_add((self.columns.start + column) * self.selection.ldb)
    }

    fn result(&self, column: usize) -> *mut f32 {
        self.c.wrapping_add((self.columns.start + column) * self.selection.ldc)
    }

    /// Computes the share with a kernel. Returns false when no memory is left.
    unsafe fn quickly(&self, kernel: &Kernel) -> bool {
        let (k, blocking) = (self.selection.k, tuning::blocking());
        let tiles = kernel.tiles(k, self.columns.len());
        let act_bytes = kernel.act.bytes(k, tiles.columns).next_multiple_of(64);
        let Some(memory) = Memory::take(act_bytes + kernel.scratch_bytes(k, &blocking) + 64) else { return false };
        let act = memory.start();
        let product = Product { weights: self.a, stride: self.selection.stride, rows: self.selection.m, k, act, tiles };
        // SAFETY: ggml passed these matrices. Only this thread uses the memory, which is as large as the kernel needs.
        unsafe {
            for t in 0..tiles.count {
                kernel.quantize_tile(k, tiles, t, act, |c| self.source(c));
            }
            let panels = self.panels.clone();
            kernel.multiply(&product, panels, 0..tiles.count, &blocking, act.add(act_bytes), |c| self.result(c));
        }
        true
    }

    /// Computes the share block by block, without scratch memory. The activations are not quantised.
    unsafe fn slowly(&self) {
        let (block, bytes) = self.selection.weight.block();
        let Some(floats) = dequantizer(Isa::Avx2, self.selection.weight) else { return };
        let mut w = [0f32; 256];
        for row in self.panels.start * LANES..(self.panels.end * LANES).min(self.selection.m) {
            for column in 0..self.columns.len() {
                let mut sum = 0.0;
                for i in 0..self.selection.k / block {
                    // SAFETY: row, column and block lie inside the matrices, and no block has more than 256 elements.
                    unsafe {
                        floats(self.a.add(row * self.selection.stride + i * bytes), w.as_mut_ptr(), block);
                        let x = self.source(column).add(i * block);
                        sum += (0..block).map(|e| w[e] * *x.add(e)).sum::<f32>();
                    }
                }
                // SAFETY: this row and column of the result belong to this thread's share.
                unsafe { self.result(column).add(row).write(sum) };
            }
        }
    }
}

/// The function that replaces `llamafile_sgemm`.
///
/// # Safety
/// Called by ggml with its own arguments, see [`Sgemm`].
#[allow(clippy::too_many_arguments)] // the original's
pub unsafe extern "C-unwind" fn sgemm<const I: usize>(
    m: i64,
    n: i64,
    k: i64,
    a: *const u8,
    lda: i64,
    b: *const u8,
    ldb: i64,
    c: *mut f32,
    ldc: i64,
    ith: c_int,
    nth: c_int,
    a_type: c_int,
    b_type: c_int,
    c_type: c_int,
) -> bool {
    let sizes = [m, n, k, lda, ldb, ldc];
    if let Some(selection) = Selection::of(sizes, [ith, nth], [a_type, b_type, c_type]) {
        if ith == 0 {
            fast_path::count(I);
        }
        // The other threads compute their parts in any case, so this one cannot leave its part to ggml.
        guard::committed(|| {
            if ith == 0 {
                guard::fault(Fault::Sgemm);
            }
            // SAFETY: `selection` was made of the arguments of this call, to which the matrices belong.
            unsafe { selection.run(a, b.cast(), c) };
        });
        return true;
    }
    // SAFETY: the original is called with its own arguments. This function was reached through `target`, which has
    // stored it.
    unsafe { fast_path::original::<Sgemm>(I)(m, n, k, a, lda, b, ldb, c, ldc, ith, nth, a_type, b_type, c_type) }
}

/// The value of [`fast_path::kernel`] for this function. Nothing is called through it.
pub const NO_KERNEL: *const c_void = std::ptr::dangling();

#[cfg(test)]
mod tests {
    use super::*;
    use zen5turbo_skip::{Need, skip};

    const Q4K: c_int = weight_number(WeightType::Q4K);

    fn selection(m: i64, n: i64, ith: c_int, nth: c_int) -> Selection {
        Selection::of([m, n, 3, 4, 768, m], [ith, nth], [Q4K, F32, F32]).expect("a product that is taken")
    }

    #[test]
    fn the_shares_of_all_threads_cover_a_product_once() {
        for (m, n) in [(1, 1), (16, 1), (17, 2), (4096, 1), (300, 64), (100, 127), (64, 512), (48, 4096)] {
            for nth in [1, 2, 3, 4, 6, 7, 8, 16, 96] {
                let panels = (m as usize).div_ceil(LANES);
                let mut once = vec![0; panels * n as usize];
                for ith in 0..nth {
                    let (columns, mine) = selection(m, n, ith, nth).share();
                    for c in columns {
                        mine.clone().for_each(|panel| once[c * panels + panel] += 1);
                    }
                }
                assert!(once.iter().all(|&n| n == 1), "{m} {n} {nth}");
            }
        }
    }

    #[test]
    fn columns_are_cut_into_groups_of_64_or_more_that_divide_the_threads() {
        let groups = |n, nth| selection(64, n, 0, nth).groups();
        assert_eq!([groups(1, 8), groups(127, 8), groups(128, 8), groups(512, 8), groups(512, 6)], [1, 1, 2, 8, 6]);
        assert_eq!([groups(512, 7), groups(256, 7), groups(8192, 96)], [7, 1, 96]);
    }

    #[test]
    fn without_memory_the_result_is_the_same_but_for_rounding() {
        if !Isa::Avx2.available() {
            return skip(Need::Avx2, "this CPU has no AVX2, without which no product is taken");
        }
        const M: usize = 19;
        // codes 8 more than their values, scale 1
        let mut a = [[0u8; 18]; M];
        for (r, block) in a.iter_mut().enumerate() {
            block[1] = 0x3c;
            block[2..].iter_mut().enumerate().for_each(|(i, q)| *q = (r * 7 + i * 13) as u8);
        }
        let b: [f32; 64] = std::array::from_fn(|i| i as f32 / 8.0 - 3.0);
        let sizes = [M as i64, 2, 1, 1, 32, M as i64];
        let q4_0 = weight_number(WeightType::Q4_0);
        let mut c = [0f32; 2 * M];
        for ith in 0..2 {
            let selection = Selection::of(sizes, [ith, 2], [q4_0, F32, F32]).expect("a product that is taken");
            let (columns, panels) = selection.share();
            let share = Share { selection, a: a.as_ptr().cast(), b: b.as_ptr(), c: c.as_mut_ptr(), columns, panels };
            // SAFETY: the matrices have these sizes.
            unsafe { share.slowly() };
        }
        for (at, c) in c.into_iter().enumerate() {
            let (q, x) = (&a[at % M][2..], &b[at / M * 32..]);
            let code = |e: usize| if e < 16 { q[e] & 15 } else { q[e - 16] >> 4 };
            let expected: f32 = (0..32).map(|e| (f32::from(code(e)) - 8.0) * x[e]).sum();
            assert!((c - expected).abs() < 1e-3, "{at}: {c}, not {expected}");
        }
    }

    #[test]
    fn what_is_not_known_is_left_to_ggml() {
        let of = |sizes, threads, types| Selection::of(sizes, threads, types);
        let good = [64, 2, 3, 3, 768, 64];
        assert!(of(good, [1, 2], [Q4K, F32, F32]).is_some());
        for types in [[F32, F32, F32], [1, F32, F32], [39, F32, F32], [Q4K, 15, F32], [Q4K, F32, 1], [-1, F32, F32]] {
            assert_eq!(of(good, [0, 1], types), None, "{types:?}");
        }
        for i in 0..6 {
            for bad in [0, -1, i64::MIN, 1 << 40] {
                let mut sizes = good;
                sizes[i] = bad;
                assert_eq!(of(sizes, [0, 1], [Q4K, F32, F32]), None, "{sizes:?}");
            }
        }
        for sizes in [[64, 2, 3, 2, 768, 64], [64, 2, 3, 3, 767, 64], [64, 2, 3, 3, 768, 63]] {
            assert_eq!(of(sizes, [0, 1], [Q4K, F32, F32]), None, "{sizes:?}");
        }
        for threads in [[1, 1], [-1, 1], [0, 0], [0, -1]] {
            assert_eq!(of(good, threads, [Q4K, F32, F32]), None, "{threads:?}");
        }
    }
}
