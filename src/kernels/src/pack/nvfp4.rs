//! NVFP4: 64 elements, of which sixteen share a scale: two records.
//!
//! ```text
//! d 4 x u8: UE4M3, halved | qs 32 B: code of E2M1, values doubled       value = d[s] * table[code]
//! element 16*s + l:     qs[8*s + l] low nibble
//! element 16*s + 8 + l: qs[8*s + l] high nibble
//! UE4M3 (the top bit does not count): exponent 4 bits, bias 7 | mantissa 3 bits; 0x7f is zero
//! ```

use super::{MXFP4_VALUES_U, Quantised, Rows, Sink, Weight, byte, unrolled};
use crate::formats::WeightType;
use crate::isa::Lanes;

/// 4-bit floats with 8-bit floats as scales.
pub struct Nvfp4;
impl Weight for Nvfp4 {
    const TYPE: WeightType = WeightType::Nvfp4;
}

/// Half of the scale that a UE4M3 byte stands for (the codes are doubled), `ggml_ue4m3_to_fp32` of ggml-impl.h.
#[inline(always)]
pub const fn ue4m3_half(x: u8) -> f32 {
    let (exponent, mantissa) = (x >> 3 & 15, (x & 7) as f32);
    match (x, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa / 1024.0,
        _ => f32::from_bits((exponent as u32 + 119) << 23) * (1.0 + mantissa / 8.0),
    }
}

/// The same for a byte in each lane. As a half that has the same exponent and mantissa it is smaller by 2^7; so none of
/// the steps meets a denormal `f32`.
#[inline(always)]
unsafe fn scale<S: Lanes>(x: S::I) -> S::F {
    // all bits of a lane, unless its byte is 0x7f
    let some = S::sar(S::sub(S::splat(0), S::xor(x, S::splat(0x7f))), 31);
    let bits = S::and(S::shl(x, 7), S::and(some, S::splat(0x3f80)));
    S::mulf(S::half_lo(bits), S::splatf(128.0))
}

impl Quantised for Nvfp4 {
    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        let d = rows.words1::<S>(0);
        let first = 2 * rows.record() as u32;
        sink.d_of(0, scale::<S>(byte::<S>(d, first)));
        sink.d_of(1, scale::<S>(byte::<S>(d, first + 1)));
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, _step: usize, sink: &mut K) {
        let m = S::splat(0x0f0f_0f0f);
        sink.part();
        let qs = rows.words4::<S>(4 + 16 * rows.record());
        unrolled!(s in [0, 1] {
            sink.open(s);
            unrolled!(w in [0, 1] {
                let q = qs[2 * s + w];
                sink.codes(s, w, S::lut16(&MXFP4_VALUES_U, S::and(q, m)));
                sink.codes(s, 2 + w, S::lut16(&MXFP4_VALUES_U, S::and(S::shr(q, 4), m)));
            });
            sink.close(s);
        });
    }
}
