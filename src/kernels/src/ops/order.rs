//! The order of the numbers of a row, for routers: the place of a number is the count of those before it.
//!
//! The comparisons are as many as the square of the length, and need no branch: 128 numbers take 1024 comparisons of sixteen.

use crate::isa::LANES;
use core::mem::MaybeUninit;

/// The longest row: the keys of a row lie on the stack. Longer rows need fewer steps when they are sorted.
pub const ORDERED: usize = 1024;

/// Writes the numbers of the `n` elements of `x` to `to`, the smallest element first, or the largest one. Of equal ones the
/// first comes first. `n` is at most [`ORDERED`]; `to` is not `x`.
///
/// # Safety
/// Both are valid for `n` elements, and nobody else writes `to`.
pub type OrderFn = unsafe fn(x: *const f32, to: *mut i32, n: usize, largest_first: bool);

/// See [`OrderFn`]. The compiler makes vectors of the loops over [`LANES`].
#[allow(clippy::needless_range_loop)] // each index is that of several arrays
#[inline(always)]
pub(super) unsafe fn order(x: *const f32, to: *mut i32, n: usize, largest_first: bool) {
    let mut memory = MaybeUninit::<[[i32; LANES]; ORDERED / LANES]>::uninit();
    let keys = memory.as_mut_ptr().cast::<i32>();
    let flip = if largest_first { -1 } else { 0 };
    let mut i = 0;
    while i < n {
        // floats as integers of the same order, whatever they are
        let bits = (*x.add(i)).to_bits() as i32;
        *keys.add(i) = bits ^ ((bits >> 31) & i32::MAX) ^ flip;
        i += 1;
    }
    while !i.is_multiple_of(LANES) {
        *keys.add(i) = i32::MAX; // behind all others
        i += 1;
    }
    let blocks = i / LANES;
    let keys: *const [i32; LANES] = keys.cast_const().cast();
    let mut block = 0;
    while block < blocks {
        let own = *keys.add(block);
        let mut before = [0i32; LANES];
        for other in 0..block {
            let other = &*keys.add(other);
            for j in 0..LANES {
                for l in 0..LANES {
                    before[l] += i32::from(other[j] <= own[l]);
                }
            }
        }
        for j in 0..LANES {
            for l in 0..LANES {
                before[l] += i32::from(own[j] < own[l]) + i32::from((own[j] == own[l]) & (j < l));
            }
        }
        for other in block + 1..blocks {
            let other = &*keys.add(other);
            for j in 0..LANES {
                for l in 0..LANES {
                    before[l] += i32::from(other[j] < own[l]);
                }
            }
        }
        // each place occurs once, and the first `n` belong to numbers of the row
        for l in 0..LANES.min(n - block * LANES) {
            *to.add(before[l] as usize) = (block * LANES + l) as i32;
        }
        block += 1;
    }
}
