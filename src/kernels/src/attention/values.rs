//! Sums of values times their weights.

use super::SCORES;
use super::heads::fetch_line;
use crate::formats::LINE;
use crate::isa::{LANES, Lanes};
use crate::pack::FloatWeight;

/// Weights and values of a tile of keys, and the sums they go to.
#[derive(Clone, Copy)]
pub struct Weighted {
    /// The weights of the first query; [`SCORES`] floats on, those of the next one.
    pub weights: *const f32,
    /// The value of the first key.
    pub values: *const u8,
    /// Bytes from key to key.
    pub values_stride: usize,
    /// Number of keys.
    pub keys: usize,
    /// The sums of the first query.
    pub sums: *mut f32,
    /// Floats from query to query.
    pub sums_stride: usize,
    /// The factor of each query's sums, applied first.
    pub factors: *const f32,
    /// The first value to prefetch into the level-2 cache: the part of it that the function reads of a value.
    pub fetch: *const u8,
    /// Bytes from one to the next.
    pub fetch_stride: usize,
    /// Number of values to prefetch.
    pub fetch_rows: usize,
}

/// Adds some vectors of sixteen elements of every value, for a fixed number of queries.
///
/// # Safety
/// Everything that [`Weighted`] names is readable, the sums writable.
pub type WeightedFn = unsafe fn(w: &Weighted);

/// How values of a type are read.
pub trait Values<S: Lanes> {
    /// Bytes of sixteen elements.
    const BYTES: usize;

    /// `16 * NV` elements, which begin at `p`: whole blocks.
    ///
    /// # Safety
    /// They are readable; see also [`Lanes`].
    unsafe fn read<const NV: usize>(p: *const u8) -> [S::F; NV];
}

/// Values of a float type.
pub struct Floats<W>(W);

impl<S: Lanes, W: FloatWeight> Values<S> for Floats<W> {
    const BYTES: usize = W::TYPE.row_bytes(LANES);

    #[inline(always)]
    unsafe fn read<const NV: usize>(p: *const u8) -> [S::F; NV] {
        let mut vectors = [S::splatf(0.0); NV];
        for (v, vector) in vectors.iter_mut().enumerate() {
            *vector = W::widen::<S>(p.add(v * W::TYPE.row_bytes(LANES)));
        }
        vectors
    }
}

/// [`WeightedFn`] of `NQ` queries and `16 * NV` elements.
///
/// # Safety
/// That of [`WeightedFn`], and see [`Lanes`].
#[inline(always)]
pub unsafe fn add<S: Lanes, V: Values<S>, const NQ: usize, const NV: usize>(w: &Weighted) {
    let mut acc = [[S::splatf(0.0); NV]; NQ];
    for (q, acc) in acc.iter_mut().enumerate() {
        let factor = S::bcastf(w.factors.add(q).cast());
        for (v, acc) in acc.iter_mut().enumerate() {
            *acc = S::mulf(S::loadf(w.sums.add(q * w.sums_stride + v * LANES).cast()), factor);
        }
    }
    let (mut value, mut fetch) = (w.values, w.fetch);
    for key in 0..w.keys {
        if key < w.fetch_rows {
            for line in (0..NV * V::BYTES).step_by(LINE) {
                fetch_line(fetch.wrapping_add(line));
            }
            fetch = fetch.wrapping_add(w.fetch_stride);
        }
        let vectors = V::read::<NV>(value);
        for (q, acc) in acc.iter_mut().enumerate() {
            let weight = S::bcastf(w.weights.add(q * SCORES + key).cast());
            for (acc, vector) in acc.iter_mut().zip(vectors) {
                *acc = S::fma(weight, vector, *acc);
            }
        }
        value = value.wrapping_add(w.values_stride);
    }
    for (q, acc) in acc.into_iter().enumerate() {
        for (v, acc) in acc.into_iter().enumerate() {
            S::storef(w.sums.add(q * w.sums_stride + v * LANES).cast(), acc);
        }
    }
}
