//! The portable tier: arrays, no intrinsics. Slow, and the same arithmetic as the others.

use super::{Dot, LANES, Lanes, Quads, Real};
use half::f16;

/// The portable ISA; always available.
#[derive(Clone, Copy, Debug)]
pub struct Scalar(());

impl Scalar {
    /// Every CPU can run it.
    pub fn new() -> Option<Self> {
        Some(Scalar(()))
    }
}

type I = [u32; LANES];
type F = [f32; LANES];

#[inline(always)]
fn map2(a: I, b: I, f: impl Fn(u32, u32) -> u32) -> I {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// SAFETY: no target features are needed; pointers are used only for the bytes the trait names.
unsafe impl Lanes for Scalar {
    type I = I;
    type F = F;
    const ACC16: bool = false;
    const REGISTERS: usize = 1;

    unsafe fn load(p: *const u8) -> I {
        p.cast::<I>().read_unaligned()
    }
    unsafe fn store(p: *mut u8, v: I) {
        p.cast::<I>().write_unaligned(v)
    }
    unsafe fn loadf(p: *const u8) -> F {
        p.cast::<F>().read_unaligned()
    }
    unsafe fn storef(p: *mut u8, v: F) {
        p.cast::<F>().write_unaligned(v)
    }
    unsafe fn loadf_n(p: *const f32, n: usize) -> F {
        std::array::from_fn(|i| if i < n { p.add(i).read_unaligned() } else { 0.0 })
    }
    unsafe fn storef_n(p: *mut f32, v: F, n: usize) {
        for (i, x) in v.iter().enumerate().take(n) {
            p.add(i).write_unaligned(*x);
        }
    }
    unsafe fn bcast(p: *const u8) -> I {
        [p.cast::<u32>().read_unaligned(); LANES]
    }
    unsafe fn bcastf(p: *const u8) -> F {
        [p.cast::<f32>().read_unaligned(); LANES]
    }
    unsafe fn splat(x: i32) -> I {
        [x as u32; LANES]
    }
    unsafe fn splatf(x: f32) -> F {
        [x; LANES]
    }
    unsafe fn and(a: I, b: I) -> I {
        map2(a, b, |x, y| x & y)
    }
    unsafe fn or(a: I, b: I) -> I {
        map2(a, b, |x, y| x | y)
    }
    unsafe fn xor(a: I, b: I) -> I {
        map2(a, b, |x, y| x ^ y)
    }
    unsafe fn add(a: I, b: I) -> I {
        map2(a, b, u32::wrapping_add)
    }
    unsafe fn sub(a: I, b: I) -> I {
        map2(a, b, u32::wrapping_sub)
    }
    unsafe fn shl(a: I, n: u32) -> I {
        a.map(|x| x << n)
    }
    unsafe fn shr(a: I, n: u32) -> I {
        a.map(|x| x >> n)
    }
    unsafe fn sar(a: I, n: u32) -> I {
        a.map(|x| ((x as i32) >> n) as u32)
    }
    unsafe fn lut16(table: &[i8; 16], idx: I) -> I {
        idx.map(|x| u32::from_le_bytes(x.to_le_bytes().map(|b| table[(b & 15) as usize] as u8)))
    }
    unsafe fn spread_bits<const G: usize>(x: I) -> I {
        x.map(|x| (0..4).fold(0, |o, j| o | (x >> (4 * G + j) & 1) << (8 * j + 4)))
    }
    unsafe fn gather(table: *const u32, index: I) -> I {
        index.map(|i| table.add(i as usize).read())
    }
    unsafe fn add_bytes(a: I, b: I) -> I {
        map2(a, b, |x, y| {
            let (x, y) = (x.to_le_bytes(), y.to_le_bytes());
            u32::from_le_bytes(std::array::from_fn(|i| x[i].wrapping_add(y[i])))
        })
    }
    unsafe fn thirds(a: I) -> I {
        a.map(|x| u32::from_le_bytes(x.to_le_bytes().map(|b| ((3 * u16::from(b)) >> 8) as u8)))
    }
    unsafe fn cvt(a: I) -> F {
        a.map(|x| x as i32 as f32)
    }
    unsafe fn half_lo(a: I) -> F {
        a.map(|x| f16::from_bits(x as u16).to_f32())
    }
    unsafe fn mulf(a: F, b: F) -> F {
        std::array::from_fn(|i| a[i] * b[i])
    }
    unsafe fn last(a: F, n: usize) -> F {
        std::array::from_fn(|i| if i + n >= LANES { a[i] } else { 0.0 })
    }
    unsafe fn sum(a: F) -> f32 {
        a.iter().sum()
    }
    unsafe fn widen_halves(p: *const u8) -> F {
        std::array::from_fn(|i| p.add(2 * i).cast::<f16>().read_unaligned().to_f32())
    }
    unsafe fn widen_bf16(p: *const u8) -> F {
        std::array::from_fn(|i| f32::from_bits(u32::from(p.add(2 * i).cast::<u16>().read_unaligned()) << 16))
    }
    unsafe fn fma(a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    unsafe fn fnma(a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| (-a[i]).mul_add(b[i], c[i]))
    }
    unsafe fn load_words4(rows: &Quads, at: usize) -> [I; 4] {
        std::array::from_fn(|i| Self::load_words1(rows, at + 4 * i))
    }
    unsafe fn load_words1(rows: &Quads, at: usize) -> I {
        std::array::from_fn(|r| rows.row(r / 4, r % 4, at).cast::<u32>().read_unaligned())
    }
    unsafe fn load_halves(rows: &Quads, at: usize) -> I {
        std::array::from_fn(|r| u32::from(rows.row(r / 4, r % 4, at).cast::<u16>().read_unaligned()))
    }
}

// SAFETY: no target features are needed, and no pointer is used.
unsafe impl Real for Scalar {
    unsafe fn maxf(a: F, b: F) -> F {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    unsafe fn largest(a: F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    unsafe fn addf(a: F, b: F) -> F {
        std::array::from_fn(|i| a[i] + b[i])
    }
    unsafe fn divf(a: F, b: F) -> F {
        std::array::from_fn(|i| a[i] / b[i])
    }
    unsafe fn roundf(a: F) -> F {
        a.map(f32::round_ties_even)
    }
    unsafe fn scale2(a: F, n: F) -> F {
        std::array::from_fn(|i| {
            if n[i].is_nan() {
                return n[i];
            }
            // the exponent's bits, all zero below the normal numbers: the number zero
            a[i] * f32::from_bits(((n[i] as i32).max(-127) + 127) as u32 * (1 << 23))
        })
    }
    unsafe fn scale2_wide(a: F, n: F) -> F {
        // in two steps, of which the first is exact; a NaN becomes 0 and stays in `a`
        let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
        std::array::from_fn(|i| {
            let n = n[i] as i32;
            a[i] * power(n >> 1) * power(n - (n >> 1))
        })
    }
    unsafe fn minf(a: F, b: F) -> F {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    unsafe fn subf(a: F, b: F) -> F {
        std::array::from_fn(|i| a[i] - b[i])
    }
    unsafe fn pick(x: F, a: F, b: F) -> F {
        std::array::from_fn(|i| if x[i] > 0.0 { a[i] } else { b[i] })
    }
}

// SAFETY: no target features are needed, and no pointer is used.
unsafe impl Dot for Scalar {
    unsafe fn dot4(acc: I, w: I, a: I) -> I {
        std::array::from_fn(|i| {
            let (w, a) = (w[i].to_le_bytes(), a[i].to_le_bytes());
            (0..4).fold(acc[i], |s, j| s.wrapping_add((i32::from(w[j]) * i32::from(a[j] as i8)) as u32))
        })
    }
    unsafe fn dot2(acc: I, w: I, a: I) -> I {
        std::array::from_fn(|i| {
            let (lo, hi) =
                (w[i] as i16 as i32 * a[i] as i16 as i32, (w[i] >> 16) as i16 as i32 * (a[i] >> 16) as i16 as i32);
            acc[i].wrapping_add(lo as u32).wrapping_add(hi as u32)
        })
    }
}
