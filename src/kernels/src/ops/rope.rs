//! Rotary positions (<https://arxiv.org/abs/2104.09864>), with YaRN (<https://arxiv.org/abs/2309.00071>).

use super::scalar::{ln, power};
use crate::isa::{LANES, Real};

/// The most pairs of a row that are rotated: their angles lie on the stack.
pub const PAIRS: usize = 256;

/// The largest magnitude of an angle: whole quarter turns are taken off it with an error below 1e-7.
pub const LARGEST_ANGLE: f32 = 1_048_576.0;

/// How angles are made of positions. The names are ggml's.
#[derive(Clone, Copy, Debug)]
pub struct Frequencies {
    /// Number of pairs.
    pub pairs: usize,
    /// Each angle is the one before times this.
    theta_scale: f32,
    freq_scale: f32,
    /// Divisors of the angles, one for each pair, or null.
    pub factors: *const f32,
    /// The part of extrapolated angles, from the first pair of the ramp on less and less.
    ext_factor: f32,
    ramp: [f32; 2],
    /// Factor of sines and cosines.
    pub magnitude: f32,
}

/// Parameters of a ROPE.
#[derive(Clone, Copy, Debug)]
pub struct RopeParameters {
    /// Elements of a row that are rotated.
    pub dims: usize,
    /// Tokens that the model was trained with.
    pub original: i32,
    /// `freq_base, freq_scale, ext_factor, attn_factor, beta_fast, beta_slow`
    pub floats: [f32; 6],
}

impl Frequencies {
    /// The frequencies that ggml computes of these parameters. `factors` has one for each pair, or is null.
    #[must_use]
    pub fn new(of: &RopeParameters, factors: *const f32) -> Self {
        let [base, freq_scale, ext_factor, attention, fast, slow] = of.floats;
        let (mut ramp, mut magnitude) = ([0.0; 2], attention);
        if ext_factor != 0.0 {
            let at = |rotations: f32| {
                let ratio = of.original as f32 / (rotations * 2.0 * std::f32::consts::PI);
                of.dims as f32 * ln(ratio) / (2.0 * ln(base))
            };
            // the whole numbers around it; there is no `floor` without libm
            let [low, high] = [at(fast), at(slow)];
            let down = |v: f32| if v < 0.0 { 0.0 } else { v as i32 as f32 };
            let up = |v: f32| if v > down(v) { down(v) + 1.0 } else { down(v) };
            ramp = [down(low), up(high).min(of.dims as f32 - 1.0)];
            magnitude *= 1.0 + 0.1 * ln(1.0 / freq_scale);
        }
        let theta_scale = power(base, -2.0 / of.dims as f32);
        Frequencies { pairs: of.dims / 2, theta_scale, freq_scale, factors, ext_factor, ramp, magnitude }
    }

    /// Writes the angles of a position, one for each pair.
    ///
    /// # Safety
    /// `to` has room for them, and there are as many factors.
    #[inline(always)]
    unsafe fn angles(&self, position: i32, to: *mut f32) {
        let mut theta = position as f32;
        for pair in 0..self.pairs {
            let extrapolated = if self.factors.is_null() { theta } else { theta / *self.factors.add(pair) };
            let mut angle = self.freq_scale * extrapolated;
            if self.ext_factor != 0.0 {
                let [low, high] = self.ramp;
                let y = (pair as f32 - low) / (high - low).max(0.001);
                let mix = (1.0 - y.clamp(0.0, 1.0)) * self.ext_factor;
                angle = angle * (1.0 - mix) + extrapolated * mix;
            }
            *to.add(pair) = angle;
            theta *= self.theta_scale;
        }
    }
}

/// Sines and cosines of the angles of one position.
#[derive(Clone, Copy, Debug)]
pub struct Rotations {
    /// One for each pair.
    pub sines: [f32; PAIRS],
    /// One for each pair.
    pub cosines: [f32; PAIRS],
}

/// Writes the sines and cosines of a position, times the magnitude. The magnitude of its angles is at most [`LARGEST_ANGLE`],
/// and there are at most [`PAIRS`].
///
/// # Safety
/// There are as many factors as pairs. `to` is writable; what it holds does not matter.
pub type RotationsFn = unsafe fn(frequencies: &Frequencies, position: i32, to: *mut Rotations);

/// A row to rotate. All addresses are aligned to 4 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Rope {
    /// The row, [`Self::n`] floats.
    pub x: *const f32,
    /// The result: [`Self::x`], or apart from it.
    pub to: *mut f32,
    /// Elements of the row. Those that are not rotated are copied.
    pub n: usize,
    /// The first one that is rotated.
    pub first: usize,
    /// Number of pairs.
    pub pairs: usize,
    /// Whether the two of a pair are neighbours; otherwise one lies as many elements behind the other as there are pairs.
    pub neighbours: bool,
}

/// Rotates one row.
///
/// # Safety
/// What [`Rope`] names is readable and writable, and nobody else writes it. There are as many rotations as pairs.
pub type RopeFn = unsafe fn(row: &Rope, by: *const Rotations);

/// `sin r = r + r z (s0 + z (s1 + z s2))`, with the square `z` of `r`, of a magnitude up to 0.83; the error is below a tenth of
/// half a unit in the last place of one. Fitted as the exponential is.
const SIN: [f32; 3] = [-0.166_666_51, 0.008_331_894, -0.000_194_797_89];

/// `cos r = 1 - z / 2 + z z (c0 + z (c1 + z c2))`
const COS: [f32; 3] = [0.041_666_638, -0.001_388_699_4, 0.000_024_396_368];

/// See [`RotationsFn`].
#[inline(always)]
pub(super) unsafe fn rotations<S: Real>(frequencies: &Frequencies, position: i32, to: *mut Rotations) {
    let sines = (&raw mut (*to).sines).cast::<f32>();
    let cosines = (&raw mut (*to).cosines).cast::<f32>();
    // the last vector may not be whole
    S::storef(sines.add((frequencies.pairs - 1) / LANES * LANES).cast(), S::splatf(0.0));
    frequencies.angles(position, sines);
    let factor = S::splatf(frequencies.magnitude);
    let mut i = 0;
    while i < frequencies.pairs {
        let (sin, cos) = sin_cos::<S>(S::loadf(sines.add(i).cast()));
        S::storef(sines.add(i).cast(), S::mulf(sin, factor));
        S::storef(cosines.add(i).cast(), S::mulf(cos, factor));
        i += LANES;
    }
}

/// Sine and cosine, with an absolute error below four halves of a unit in the last place of one, up to [`LARGEST_ANGLE`].
#[inline(always)]
unsafe fn sin_cos<S: Real>(x: S::F) -> (S::F, S::F) {
    let (zero, half, one) = (S::splatf(0.0), S::splatf(0.5), S::splatf(1.0));
    let turns = S::roundf(S::mulf(x, S::splatf(std::f32::consts::FRAC_2_PI)));
    // a quarter turn in two parts
    let r = S::fnma(turns, S::splatf(std::f32::consts::FRAC_PI_2), x);
    let r = S::fnma(turns, S::splatf(-4.371_139e-8), r);
    let z = S::mulf(r, r);
    let mut sin = S::splatf(SIN[2]);
    sin = S::fma(sin, z, S::splatf(SIN[1]));
    sin = S::fma(sin, z, S::splatf(SIN[0]));
    sin = S::fma(S::mulf(sin, z), r, r);
    let mut cos = S::splatf(COS[2]);
    cos = S::fma(cos, z, S::splatf(COS[1]));
    cos = S::fma(cos, z, S::splatf(COS[0]));
    cos = S::fma(S::mulf(cos, z), z, S::fnma(z, half, one));
    // the quarter turns beyond whole ones, from -2 to 2
    let quarters = S::fnma(S::roundf(S::mulf(turns, S::splatf(0.25))), S::splatf(4.0), turns);
    let is_odd = S::subf(half, magnitude::<S>(S::subf(magnitude::<S>(quarters), one)));
    let (a, b) = (S::pick(is_odd, cos, sin), S::pick(is_odd, sin, cos));
    let a_stays = S::subf(one, magnitude::<S>(S::subf(quarters, half)));
    let b_stays = S::subf(one, magnitude::<S>(S::addf(quarters, half)));
    (S::pick(a_stays, a, S::subf(zero, a)), S::pick(b_stays, b, S::subf(zero, b)))
}

#[inline(always)]
unsafe fn magnitude<S: Real>(x: S::F) -> S::F {
    S::maxf(S::subf(S::splatf(0.0), x), x)
}

/// See [`RopeFn`].
#[inline(always)]
pub(super) unsafe fn rope<S: Real>(row: &Rope, by: *const Rotations) {
    let (pairs, end) = (row.pairs, row.first + 2 * row.pairs);
    if row.x != row.to.cast_const() {
        copy::<S>(row.x, row.to, row.first);
        copy::<S>(row.x.add(end), row.to.add(end), row.n - end);
    }
    let (x, to) = (row.x.add(row.first), row.to.add(row.first));
    let (sines, cosines) = ((&raw const (*by).sines).cast::<f32>(), (&raw const (*by).cosines).cast::<f32>());
    let mut i = 0;
    if !row.neighbours {
        while i + LANES <= pairs {
            let (a, b) = (S::loadf(x.add(i).cast()), S::loadf(x.add(pairs + i).cast()));
            let (sin, cos) = (S::loadf(sines.add(i).cast()), S::loadf(cosines.add(i).cast()));
            S::storef(to.add(i).cast(), S::fnma(b, sin, S::mulf(a, cos)));
            S::storef(to.add(pairs + i).cast(), S::fma(a, sin, S::mulf(b, cos)));
            i += LANES;
        }
        while i < pairs {
            let (a, b, sin, cos) = (*x.add(i), *x.add(pairs + i), *sines.add(i), *cosines.add(i));
            *to.add(i) = a * cos - b * sin;
            *to.add(pairs + i) = a * sin + b * cos;
            i += 1;
        }
        return;
    }
    // The compiler makes vectors of whole arrays, which are read before they are written.
    while i + LANES <= pairs {
        let pairs_at = x.add(2 * i).cast::<[[f32; 2]; LANES]>().read();
        let (sin, cos) = (sines.add(i).cast::<[f32; LANES]>().read(), cosines.add(i).cast::<[f32; LANES]>().read());
        let mut out = [[0f32; 2]; LANES];
        for l in 0..LANES {
            let [a, b] = pairs_at[l];
            out[l] = [a * cos[l] - b * sin[l], a * sin[l] + b * cos[l]];
        }
        to.add(2 * i).cast::<[[f32; 2]; LANES]>().write(out);
        i += LANES;
    }
    while i < pairs {
        let (a, b, sin, cos) = (*x.add(2 * i), *x.add(2 * i + 1), *sines.add(i), *cosines.add(i));
        *to.add(2 * i) = a * cos - b * sin;
        *to.add(2 * i + 1) = a * sin + b * cos;
        i += 1;
    }
}

/// Copies a few floats without a call.
#[inline(always)]
unsafe fn copy<S: Real>(from: *const f32, to: *mut f32, n: usize) {
    let mut i = 0;
    while i + LANES <= n {
        S::storef(to.add(i).cast(), S::loadf(from.add(i).cast()));
        i += LANES;
    }
    if i < n {
        S::storef_n(to.add(i), S::loadf_n(from.add(i), n - i), n - i);
    }
}
