//! Sums of values, each with its weight.

use crate::isa::{LANES, Lanes};
use crate::pack::FloatWeight;

/// Weights and values of a tile of keys, and the sums they go to.
#[derive(Clone, Copy)]
pub struct Weighted {
    /// The weights of the first query; a multiple of sixteen floats on, those of the next one.
    pub weights: *const f32,
    /// Floats from query to query.
    pub weights_stride: usize,
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
    /// What each query's sums are multiplied by first.
    pub factors: *const f32,
}

/// Adds, for a number of queries that the function is made for, some vectors of sixteen elements of every value.
///
/// # Safety
/// Everything that [`Weighted`] names is readable, the sums writable.
pub type WeightedFn = unsafe fn(w: &Weighted);

/// [`WeightedFn`] of `NQ` queries and `16 * NV` elements.
///
/// # Safety
/// That of [`WeightedFn`], and see [`Lanes`].
#[inline(always)]
pub unsafe fn add<S: Lanes, W: FloatWeight, const NQ: usize, const NV: usize>(w: &Weighted) {
    let element = W::TYPE.row_bytes(1);
    let mut acc = [[S::splatf(0.0); NV]; NQ];
    for (q, acc) in acc.iter_mut().enumerate() {
        let factor = S::bcastf(w.factors.add(q).cast());
        for (v, acc) in acc.iter_mut().enumerate() {
            *acc = S::mulf(S::loadf(w.sums.add(q * w.sums_stride + v * LANES).cast()), factor);
        }
    }
    let mut value = w.values;
    for key in 0..w.keys {
        let mut vectors = [S::splatf(0.0); NV];
        for (v, vector) in vectors.iter_mut().enumerate() {
            *vector = W::widen::<S>(value.add(v * LANES * element));
        }
        for (q, acc) in acc.iter_mut().enumerate() {
            let weight = S::bcastf(w.weights.add(q * w.weights_stride + key).cast());
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
