//! Operations that are no products, against short references in `f64`, on every ISA.

use super::data::Rng;
use super::guard::{Guarded, Side};
use crate::isa::Isa;
use crate::ops::{Binary, Bounds, DeltaNet, Functions, Glu, Operation, SsmConv, TAPS, Unary, functions, transpose};

/// Half a unit in the last place of one.
pub const HALF_ULP: f64 = 1.0 / (1u64 << 24) as f64;

/// Where an exponential overflows, a quotient by it is zero instead of a number below this one.
pub const UNDERFLOW: f64 = 3e-37;

/// The functions of every ISA that this CPU has.
pub fn every() -> impl Iterator<Item = (Isa, &'static Functions)> {
    Isa::ALL.into_iter().filter_map(|isa| Some((isa, functions(isa)?)))
}

/// Lengths around the ends of vectors, and long ones.
pub const LENGTHS: [usize; 12] = [1, 2, 7, 8, 15, 16, 17, 31, 33, 48, 100, 257];

/// Numbers at the ends of the range, and such as are none.
pub const EXTREMES: [f32; 22] = [
    0.0,
    -0.0,
    1e-45,
    -1e-45,
    1e-39,
    f32::MIN_POSITIVE,
    1e-20,
    -1e-20,
    0.3,
    -0.3,
    1.0,
    -1.0,
    20.0,
    -20.0,
    80.0,
    -80.0,
    1e30,
    -1e30,
    f32::MAX,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

/// Numbers of all sizes.
fn numbers(n: usize, rng: &mut Rng) -> Vec<f32> {
    (0..n).map(|_| rng.unit() * (rng.below(16) as f32 - 8.0).exp2()).collect()
}

/// Runs a function of two rows and a result within guard pages: the result apart, or where the first or second row lies.
fn guarded2(a: &[f32], b: &[f32], run: impl Fn(*const f32, *const f32, *mut f32)) -> Vec<f32> {
    let mut results = vec![];
    for side in [Side::Start, Side::End] {
        for place in 0..3 {
            let (ga, gb, gto) =
                (Guarded::floats(a, side), Guarded::floats(b, side), Guarded::new(4 * a.len(), 4, side));
            let to = [&gto, &ga, &gb][place];
            run(ga.ptr().cast(), gb.ptr().cast(), to.ptr().cast());
            for (guarded, what) in [(&ga, "the first row"), (&gb, "the second row"), (&gto, "the result")] {
                guarded.check(what);
            }
            results.push(floats(to.bytes()));
        }
    }
    for other in &results[1..] {
        assert!(same(&results[0], other), "the result depends on where it lies");
    }
    results.swap_remove(0)
}

fn guarded1(a: &[f32], run: impl Fn(*const f32, *mut f32)) -> Vec<f32> {
    guarded2(a, a, |a, _, to| run(a, to))
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect()
}

/// Bit by bit; all that are no numbers are the same.
pub fn same(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
}

/// Whether `got` is `expected`, up to a relative and an absolute error.
pub fn is_near(got: f32, expected: f64, relative: f64, absolute: f64) -> bool {
    let rounded = expected as f32;
    if !rounded.is_finite() {
        return got.to_bits() == rounded.to_bits() || (got.is_nan() && rounded.is_nan());
    }
    (f64::from(got) - expected).abs() <= relative * expected.abs() + absolute + 1.5e-45
}

#[test]
fn names_are_those_of_ggml_and_each_finds_its_operation() {
    for (i, op) in Operation::ALL.into_iter().enumerate() {
        assert_eq!((op as usize, Operation::named(op.name())), (i, Some(op)));
    }
    assert!(Glu::ALL.iter().enumerate().all(|(i, &glu)| glu as usize == i));
    assert!(Unary::ALL.iter().enumerate().all(|(i, &unary)| unary as usize == i));
    assert_eq!((Operation::named("MUL_MAT"), Glu::named("REGLU"), Unary::named("ABS")), (None, None, None));
}

#[test]
fn functions_of_two_numbers_are_exact() {
    let mut rng = Rng(1);
    for (isa, functions) in every() {
        for (binary, expected) in [
            (Binary::Add, (|a, b| a + b) as fn(f32, f32) -> f32),
            (Binary::Sub, |a, b| a - b),
            (Binary::Mul, |a, b| a * b),
            (Binary::Div, |a, b| a / b),
        ] {
            let function = functions.binary(binary);
            let check = |a: &[f32], b: f32| {
                // SAFETY: as many floats as the row has.
                let got = guarded1(a, |a_at, to| unsafe { function(a_at, b, to, a.len()) });
                let exact: Vec<f32> = a.iter().map(|&a| expected(a, b)).collect();
                assert!(same(&got, &exact), "{isa:?} {binary:?} {a:?} {b}: {got:?}");
            };
            for n in LENGTHS {
                check(&numbers(n, &mut rng), rng.unit());
            }
            for b in EXTREMES {
                check(&EXTREMES, b);
            }
        }
    }
}

#[test]
fn the_exponential_is_near_the_true_one_over_its_whole_range() {
    for (isa, functions) in every() {
        let x: Vec<f32> = (-26_400..=26_400).map(|i| i as f32 / 240.0).chain(EXTREMES).collect();
        // SAFETY: as many floats as the row has.
        let got = guarded1(&x, |x_at, to| unsafe { (functions.exp)(x_at, to, x.len()) });
        for (&x, &got) in x.iter().zip(&got) {
            let expected = f64::from(x).exp();
            assert!(is_near(got, expected, 4.0 * HALF_ULP, 0.0), "{isa:?} exp({x}) = {got}, not {expected}");
        }
    }
}

/// The error function: its series; from 3 on, the continued fraction of what is left to one.
fn erf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 2.0 / std::f64::consts::PI.sqrt() * sum;
    }
    let fraction = (1..60).rev().fold(x.abs(), |f, n| x.abs() + f64::from(n) / 2.0 / f);
    (1.0 - (-x * x).exp() / std::f64::consts::PI.sqrt() / fraction).copysign(x)
}

/// The true function, and its relative and absolute error. The relative one of a sigmoid of `u` grows with the error of `u`,
/// half a unit for every rounding, times `u`. A sum of one and the error function has an absolute one.
fn unary(unary: Unary, x: f64) -> (f64, f64, f64) {
    let sigmoid = |u: f64| 1.0 / (1.0 + (-u).exp());
    let (value, u, roundings) = match unary {
        Unary::Silu => (x / (1.0 + (-x).exp()), 0.0, 0.0),
        Unary::Gelu if x < -16.0 => (-0.0, 0.0, 0.0),
        Unary::Gelu if x > 10.0 => (x, 0.0, 0.0),
        Unary::Gelu => {
            let x = eleven_bits(x);
            let u = 2.0 * (2.0 / std::f64::consts::PI).sqrt() * x * (1.0 + 0.044715 * x * x);
            (x / (1.0 + (-u).exp()), u, 6.0)
        }
        Unary::GeluQuick => (x / (1.0 + (-1.702 * x).exp()), 1.702 * x, 2.0),
        Unary::Sigmoid => (sigmoid(x), 0.0, 0.0),
        Unary::Tanh => (x.tanh(), 0.0, 0.0),
        Unary::GeluErf if x < -16.0 => (-0.0, 0.0, 0.0),
        Unary::GeluErf => (x / 2.0 * (1.0 + erf(x / 2.0f64.sqrt())), 0.0, 0.0),
    };
    let u = if u.is_finite() { u.abs().min(104.0) } else { 0.0 };
    let absolute = if unary == Unary::GeluErf && x.is_finite() { 4.0 * HALF_ULP * x.abs().min(16.0) } else { 0.0 };
    // The result is rounded to eleven bits as well. An argument between two neighbours may go to either.
    let between = (eleven_bits(x) - x).abs() >= 0.999 * 2.0f64.powi(x.abs().log2().floor() as i32 - 11);
    let half = match unary {
        Unary::Gelu if between => 2.0f64.powi(-11) + 2.0f64.powi(-10) * (1.0 + u),
        Unary::Gelu => 2.0f64.powi(-11),
        _ => 0.0,
    };
    (value, (8.0 + roundings * u) * HALF_ULP + half, absolute + UNDERFLOW)
}

/// Rounded as a half-precision number is, whatever the exponent.
fn eleven_bits(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let step = 2.0f64.powi(x.abs().log2().floor() as i32 - 10);
    (x / step).round() * step
}

#[test]
fn functions_of_one_number_are_near_the_true_ones() {
    let mut rng = Rng(2);
    for (isa, functions) in every() {
        for kind in Unary::ALL {
            let function = functions.unary(kind);
            let steps: Vec<f32> = (-2400..2400).map(|i| i as f32 / 24.0).collect();
            let rows = LENGTHS.map(|n| numbers(n, &mut rng)).into_iter().chain([EXTREMES.to_vec(), steps]);
            for x in rows {
                // SAFETY: as many floats as the row has.
                let got = guarded1(&x, |x_at, to| unsafe { function(x_at, to, x.len()) });
                for (&x, &got) in x.iter().zip(&got) {
                    let (expected, relative, absolute) = unary(kind, f64::from(x));
                    let near = is_near(got, expected, relative, absolute);
                    assert!(near, "{isa:?} {kind:?}({x}) = {got}, not {expected}");
                }
            }
        }
    }
}

fn glu(kind: Glu, x: f64, y: f64, bounds: Bounds) -> (f64, f64, f64) {
    let (limit, alpha) = (f64::from(bounds.limit), f64::from(bounds.alpha));
    let clamped = |v: f64, low: f64| {
        if v > limit {
            limit
        } else if v < low {
            low
        } else {
            v
        }
    };
    let (gate, other) = (clamped(x, f64::NEG_INFINITY), clamped(y, -limit));
    let (value, relative, absolute) = match kind {
        Glu::Geglu => unary(Unary::Gelu, x),
        Glu::Swiglu => unary(Unary::Silu, x),
        Glu::GegluQuick => unary(Unary::GeluQuick, x),
        Glu::SwigluClamp => unary(Unary::Silu, gate),
        Glu::SwigluOai => {
            let u = alpha * gate;
            (gate / (1.0 + (-u).exp()), (8.0 + 2.0 * u.abs().min(104.0)) * HALF_ULP, UNDERFLOW)
        }
        Glu::GegluErf => unary(Unary::GeluErf, x),
    };
    let factor = match kind {
        Glu::SwigluClamp => other,
        Glu::SwigluOai => other + 1.0,
        _ => y,
    };
    (value * factor, relative + 4.0 * HALF_ULP, absolute)
}

#[test]
fn gated_linear_units_are_near_the_true_ones() {
    let mut rng = Rng(3);
    for (isa, functions) in every() {
        for kind in Glu::ALL {
            let function = functions.glu(kind);
            for bounds in [Bounds { alpha: 1.702, limit: 7.0 }, Bounds { alpha: 1.0, limit: 0.5 }] {
                let check = |x: &[f32], y: &[f32]| {
                    // SAFETY: as many floats as the rows have.
                    let got = guarded2(x, y, |x_at, y_at, to| unsafe { function(x_at, y_at, to, x.len(), bounds) });
                    for ((&x, &y), &got) in x.iter().zip(y).zip(&got) {
                        let (expected, relative, absolute) = glu(kind, f64::from(x), f64::from(y), bounds);
                        // `y + 1` loses what is small beside one
                        let absolute = (absolute
                            + f64::from(x).abs().min(100.0)
                                * HALF_ULP
                                * 4.0
                                * f64::from(u8::from(kind == Glu::SwigluOai)))
                            * f64::from(y).abs().clamp(1.0, 1e38);
                        let near = is_near(got, expected, relative, absolute);
                        // what is too large for `f32` before the last factor, or too small
                        let beyond = !(f64::from(x) * f64::from(y)).is_finite()
                            || f64::from(x).abs() * f64::from(y).abs() > 1e38;
                        assert!(near || beyond, "{isa:?} {kind:?}({x}, {y}) = {got}, not {expected}");
                    }
                };
                for n in LENGTHS {
                    check(&numbers(n, &mut rng), &numbers(n, &mut rng));
                }
                for y in EXTREMES {
                    check(&EXTREMES, &[y; EXTREMES.len()]);
                }
            }
        }
    }
}

#[test]
fn norms_are_near_the_true_ones() {
    let mut rng = Rng(4);
    for (isa, functions) in every() {
        for n in LENGTHS.into_iter().chain([64, 128, 2048, 5120, 8191]) {
            for size in [1e-30f32, 1e-6, 1.0, 1e6, 1e15] {
                let x: Vec<f32> = numbers(n, &mut rng).iter().map(|x| x * size).collect();
                let weights = numbers(n, &mut rng);
                let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                for (with_weights, epsilon) in [(false, 1e-6f32), (true, 1e-5), (false, 0.0)] {
                    let mean = squares / n as f64 + f64::from(epsilon);
                    let length = squares.sqrt().max(f64::from(epsilon));
                    for (function, scale) in
                        [(functions.rms_norm, 1.0 / mean.sqrt()), (functions.l2_norm, 1.0 / length)]
                    {
                        if squares < 1e-30 && epsilon == 0.0 {
                            continue; // the squares are denormals
                        }
                        let got = guarded2(&x, &weights, |x_at, w, to| {
                            // the result may not lie where the weights lie
                            if to.cast_const() == w {
                                let x_at = x_at.cast_mut();
                                // SAFETY: as many floats as the row has.
                                unsafe {
                                    let w: Vec<f32> = std::slice::from_raw_parts(w, n).to_vec();
                                    let w = if with_weights { w.as_ptr() } else { std::ptr::null() };
                                    function(x_at, w, to, n, epsilon);
                                }
                                return;
                            }
                            let w = if with_weights { w } else { std::ptr::null() };
                            // SAFETY: as many floats as the row has.
                            unsafe { function(x_at, w, to, n, epsilon) };
                        });
                        for ((&x, &w), &got) in x.iter().zip(&weights).zip(&got) {
                            let w = if with_weights { f64::from(w) } else { 1.0 };
                            let expected = f64::from(x) * scale * w;
                            assert!(
                                is_near(got, expected, 14.0 * HALF_ULP, 0.0),
                                "{isa:?} {n} {size}: {got}, not {expected}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_convolution_is_the_sum_of_products_of_each_window() {
    let mut rng = Rng(5);
    for (isa, functions) in every() {
        for channels in [1, 5, 16, 17, 40] {
            for tokens in [1, 2, 15, 16, 17, 50] {
                let width = tokens + TAPS - 1;
                let (x, w) = (numbers(channels * width, &mut rng), numbers(channels * TAPS, &mut rng));
                for side in [Side::Start, Side::End] {
                    let (gx, gw) = (Guarded::floats(&x, side), Guarded::floats(&w, side));
                    let to = Guarded::new(4 * channels * tokens, 4, side);
                    let conv = SsmConv {
                        input: (gx.ptr().cast_const().cast(), width),
                        weights: gw.ptr().cast_const().cast(),
                        output: (to.ptr().cast(), channels),
                        tokens,
                    };
                    let cut = channels / 2;
                    for part in [0..cut, cut..channels] {
                        // SAFETY: all of them have the sizes that the structure tells.
                        unsafe { (functions.ssm_conv)(&conv, part) };
                    }
                    to.check("the result");
                    let got = floats(to.bytes());
                    for c in 0..channels {
                        for t in 0..tokens {
                            let products =
                                (0..TAPS).map(|i| f64::from(x[c * width + t + i]) * f64::from(w[c * TAPS + i]));
                            let (sum, size) = products.fold((0.0, 0.0), |(s, z), p| (s + p, z + p.abs()));
                            let got = got[t * channels + c];
                            assert!(
                                is_near(got, sum, 0.0, size * 4.0 * HALF_ULP),
                                "{isa:?} {channels} {tokens}: {got} {sum}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// A delta network as its definition says it; results, and the state after every token.
fn delta_net(
    len: usize,
    tokens: usize,
    [q, k, v, gate, beta, state]: [&[f32]; 6],
    scale: f64,
) -> (Vec<f64>, Vec<Vec<f64>>) {
    let mut rows: Vec<f64> = state.iter().map(|&x| f64::from(x)).collect();
    let (mut out, mut states) = (vec![], vec![]);
    for t in 0..tokens {
        let of = |x: &[f32], i: usize| f64::from(x[t * len + i]);
        for (j, row) in rows.chunks_exact_mut(len).enumerate() {
            row.iter_mut().for_each(|s| *s *= f64::from(gate[t]).exp());
            let known: f64 = row.iter().enumerate().map(|(i, s)| s * of(k, i)).sum();
            let delta = (of(v, j) - known) * f64::from(beta[t]);
            row.iter_mut().enumerate().for_each(|(i, s)| *s += of(k, i) * delta);
            out.push(row.iter().enumerate().map(|(i, s)| s * of(q, i)).sum::<f64>() * scale);
        }
        states.push(rows.clone());
    }
    (out, states)
}

#[test]
fn a_delta_network_is_what_its_definition_says() {
    let mut rng = Rng(6);
    for (isa, functions) in every() {
        for (len, tokens, snapshots) in [(64, 1, 1), (128, 1, 1), (64, 5, 3), (128, 3, 4), (64, 300, 2), (128, 17, 1)] {
            let mut row = |n: usize, size: f32| (0..n).map(|_| rng.unit() * size).collect::<Vec<f32>>();
            // keys of length one, as a model has them
            let small = 1.7 / (len as f32).sqrt();
            let [q, k, v] = [small, small, 1.0].map(|size| row(len * tokens, size));
            let gate: Vec<f32> = row(tokens, 1.0).iter().map(|g| -g.abs()).collect();
            let beta: Vec<f32> = row(tokens, 1.0).iter().map(|b| b.abs()).collect();
            let state = row(len * len, 0.5);
            let scale = 1.0 / (len as f32).sqrt();
            let (expected, states) = delta_net(len, tokens, [&q, &k, &v, &gate, &beta, &state], f64::from(scale));
            for side in [Side::Start, Side::End] {
                let inputs = [&q, &k, &v, &gate, &beta, &state].map(|x| Guarded::floats(x, side));
                let at = |i: usize| inputs[i].ptr().cast_const().cast::<f32>();
                let out = Guarded::new(4 * len * tokens, 4, side);
                let after = Guarded::new(4 * len * len * snapshots, 4, side);
                let net = DeltaNet {
                    query: (at(0), len),
                    key: (at(1), len),
                    value: (at(2), len),
                    gate: (at(3), 1),
                    beta: (at(4), 1),
                    out: (out.ptr().cast(), len),
                    before: at(5),
                    after: after.ptr().cast(),
                    snapshots: (len * len, snapshots),
                    tokens,
                    len,
                    scale,
                };
                for rows in [0..7, 7..len] {
                    // SAFETY: all of them have the sizes that the structure tells.
                    unsafe { (functions.delta_net)(&net, rows) };
                }
                out.check("the results");
                after.check("the states");
                let distance = |got: &[f32], expected: &[f64]| {
                    let error: f64 = got.iter().zip(expected).map(|(&g, e)| (f64::from(g) - e).powi(2)).sum();
                    error / expected.iter().map(|e| e * e).sum::<f64>()
                };
                assert!(distance(&floats(out.bytes()), &expected) < 1e-12, "{isa:?} {len} {tokens}");
                let after = floats(after.bytes());
                for (slot, got) in after.chunks_exact(len * len).enumerate().take(tokens) {
                    assert!(distance(got, &states[tokens - 1 - slot]) < 1e-12, "{isa:?} {len} {tokens} state {slot}");
                }
            }
        }
    }
}

#[test]
fn a_transposed_matrix_is_copied_and_nothing_else() {
    for (rows, n, from_step, to_stride) in
        [(1, 1, 1, 1), (5, 3, 7, 4), (16, 16, 16, 16), (33, 20, 40, 31), (2, 100, 2, 103)]
    {
        let from: Vec<f32> = (0..(n - 1) * from_step + rows).map(|i| i as f32).collect();
        for side in [Side::Start, Side::End] {
            let (from, to) = (Guarded::floats(&from, side), Guarded::new(4 * ((rows - 1) * to_stride + n), 4, side));
            // SAFETY: both have the sizes that the steps tell, and are aligned to floats.
            unsafe { transpose(from.ptr().cast(), from_step, to.ptr().cast(), to_stride, rows, n) };
            to.check("the copy");
            let got = floats(to.bytes());
            for row in 0..rows {
                for i in 0..n {
                    assert_eq!(got[row * to_stride + i], (i * from_step + row) as f32);
                }
            }
        }
    }
}
