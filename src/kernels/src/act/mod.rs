//! Quantisation of activations, with the numerics of ggml's `quantize_row_q8_0`, `q8_1` and `q8_K`,
//! into the interleaved tiles of [`crate::formats`].

mod avx2;
mod avx512;
pub mod blocks;
mod floats;
mod floats512;
pub(crate) mod repacked;
mod rows;

pub use avx2::quantize_avx2;
pub use avx512::quantize_avx512;
pub use rows::quantize_rows;

use crate::formats::{ActFormat, Aux, Rounding, Values};
use half::f16;

/// Quantises `nc` columns of `k` floats into one tile.
///
/// # Safety
/// `cols` points to `nc` pointers, each readable for `k` floats (any alignment); `k` is a multiple of
/// `format.block` for quantised formats; `out` is writable for `format.bytes(k, nc)` bytes. The CPU has the ISA's features.
pub type QuantizeFn = unsafe fn(format: ActFormat, cols: *const *const f32, k: usize, nc: usize, out: *mut u8);

/// Blocks whose largest magnitude is smaller count as zero: `127 / amax` would overflow, and the
/// codes with it (ggml gives such a block the scale zero and codes without meaning).
const SMALLEST: f32 = 127.0 / f32::MAX;
const _: () = assert!((127.0 / SMALLEST).is_finite());

/// Where the parts of one column of one record go.
#[derive(Clone, Copy)]
struct Slot {
    codes: *mut u8,
    aux: *mut u8,
    d: *mut u8,
    /// Bytes between neighbouring words of the same column.
    step: usize,
}

impl Slot {
    #[inline(always)]
    unsafe fn new(format: ActFormat, rec: *mut u8, c: usize, nc: usize) -> Self {
        let aux = rec.add(format.block * nc);
        let d = aux.add(4 * nc * format.aux_words());
        Slot { codes: rec.add(4 * c), aux: aux.add(4 * c), d: d.add(4 * c), step: 4 * nc }
    }

    /// Four codes of group `g`.
    #[inline(always)]
    unsafe fn put_codes(self, g: usize, v: u32) {
        self.codes.add(g * self.step).cast::<u32>().write_unaligned(v);
    }

    #[inline(always)]
    unsafe fn put_d(self, d: f32) {
        self.d.cast::<f32>().write_unaligned(d);
    }

    /// `aux` word `i`.
    #[inline(always)]
    unsafe fn put_aux(self, i: usize, v: u32) {
        self.aux.add(i * self.step).cast::<u32>().write_unaligned(v);
    }

    /// The word for a sub-block with the half sums `h` (`k % 4` in {0, 1}, in {2, 3}).
    #[inline(always)]
    unsafe fn put_sums(self, aux: Aux, i: usize, h: [i32; 2], d: f32) {
        match aux {
            Aux::None => {}
            Aux::Seed(off) => self.put_aux(i, (-off * (h[0] + h[1])) as u32),
            Aux::SeedPair(off) => self.put_aux(i, pair(-off * h[0], -off * h[1])),
            // only for blocks of 32: super-blocks write their sums two by two
            Aux::Sums => self.put_aux(i, (d * (h[0] + h[1]) as f32).to_bits()),
        }
    }
}

#[inline(always)]
fn pair(lo: i32, hi: i32) -> u32 {
    u32::from(lo as u16) | u32::from(hi as u16) << 16
}

/// Writes the sums of a super-block from its half sums per 16 elements.
#[inline(always)]
unsafe fn put_super_sums(s: Slot, format: ActFormat, h: &[[i32; 2]; 16]) {
    let per = format.sub / 16;
    let sub = |i: usize| h[per * i..per * (i + 1)].iter().fold([0, 0], |sum, h| [sum[0] + h[0], sum[1] + h[1]]);
    if format.aux == Aux::Sums {
        for i in 0..format.aux_words() {
            let (a, b) = (sub(2 * i), sub(2 * i + 1));
            s.put_aux(i, pair(a[0] + a[1], b[0] + b[1]));
        }
    } else {
        for i in 0..format.aux_words() {
            s.put_sums(format.aux, i, sub(i), 0.0);
        }
    }
}

/// Portable version; the others are tested against it.
///
/// # Safety
/// See [`QuantizeFn`].
pub unsafe fn quantize_scalar(format: ActFormat, cols: *const *const f32, k: usize, nc: usize, out: *mut u8) {
    if format.values != Values::Q8 {
        return floats_scalar(format, cols, k, nc, out);
    }
    for c in 0..nc {
        let x = *cols.add(c);
        for b in 0..k / format.block {
            let s = Slot::new(format, out.add(b * format.record() * nc), c, nc);
            let mut block = [0f32; 256];
            let block = &mut block[..format.block];
            for (i, v) in block.iter_mut().enumerate() {
                *v = x.add(b * format.block + i).read_unaligned();
            }
            let mut q = [0i8; 256];
            let d = if format.block == 32 { codes_q8_0(block, &mut q) } else { codes_q8_k(block, &mut q) };
            s.put_d(d);
            let mut h = [[0i32; 2]; 16];
            for g in 0..format.block / 4 {
                let v = [q[4 * g], q[4 * g + 1], q[4 * g + 2], q[4 * g + 3]];
                s.put_codes(g, u32::from_le_bytes(v.map(|x| x as u8)));
                h[g / 4][0] += i32::from(v[0]) + i32::from(v[1]);
                h[g / 4][1] += i32::from(v[2]) + i32::from(v[3]);
            }
            if format.block == 32 && format.sub == 16 {
                s.put_sums(format.aux, 0, h[0], d);
                s.put_sums(format.aux, 1, h[1], d);
            } else if format.block == 32 {
                s.put_sums(format.aux, 0, [h[0][0] + h[1][0], h[0][1] + h[1][1]], d);
            } else {
                put_super_sums(s, format, &h);
            }
        }
    }
}

/// `quantize_row_q8_0` of ggml's x86 code: `d = amax / 127`, kept as half precision.
fn codes_q8_0(x: &[f32], q: &mut [i8; 256]) -> f32 {
    let amax = x.iter().fold(0f32, |m, v| if v.abs() > m { v.abs() } else { m });
    let id = if amax >= SMALLEST { 127.0 / amax } else { 0.0 };
    for (q, x) in q.iter_mut().zip(x) {
        *q = round(x * id);
    }
    f16::from_f32(amax / 127.0).to_f32()
}

/// `quantize_row_q8_K_ref` of ggml: the value of largest magnitude becomes -127.
fn codes_q8_k(x: &[f32], q: &mut [i8; 256]) -> f32 {
    let (mut amax, mut max) = (0f32, 0f32);
    for &v in x {
        if v.abs() > amax {
            (amax, max) = (v.abs(), v);
        }
    }
    if amax < SMALLEST {
        q.fill(0);
        return 0.0;
    }
    let iscale = -127.0 / max;
    for (q, x) in q.iter_mut().zip(x) {
        *q = round(x * iscale);
    }
    1.0 / iscale
}

fn round(x: f32) -> i8 {
    x.round_ties_even() as i8 // saturates, as the packing instructions do
}

impl ActFormat {
    /// The rounding of the values, and whether they are kept as pairs.
    fn rounding(self) -> (Rounding, bool) {
        match self.values {
            Values::F32(rounding) => (rounding, false),
            Values::Bf16Pairs | Values::Q8 | Values::Rows(_) => (Rounding::Bf16, true),
        }
    }
}

/// `ggml_compute_fp32_to_bf16`, widened again: to nearest even; NaNs become quiet.
fn to_bf16(x: f32) -> f32 {
    let u = x.to_bits();
    let u = if x.is_nan() { u | 0x0040_0000 } else { u.wrapping_add(0x7fff + (u >> 16 & 1)) };
    f32::from_bits(u & 0xffff_0000)
}

unsafe fn floats_scalar(format: ActFormat, cols: *const *const f32, k: usize, nc: usize, out: *mut u8) {
    let (rounding, pairs) = format.rounding();
    for c in 0..nc {
        for i in 0..k.next_multiple_of(format.block) {
            let x = if i < k { (*cols.add(c)).add(i).read_unaligned() } else { 0.0 };
            let x = match rounding {
                Rounding::None => x,
                Rounding::F16 => f16::from_f32(x).to_f32(),
                Rounding::Bf16 => to_bf16(x),
            };
            if pairs {
                let at = out.add((i / 2 * nc + c) * 4 + i % 2 * 2);
                at.cast::<u16>().write_unaligned((x.to_bits() >> 16) as u16);
            } else {
                out.add((i * nc + c) * 4).cast::<f32>().write_unaligned(x);
            }
        }
    }
}
