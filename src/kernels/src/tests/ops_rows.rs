//! Soft max, order, scan and rotary positions, against short references in `f64`, on every ISA.

use half::f16;

use super::data::Rng;
use super::guard::{Guarded, Side};
use super::ops::{EXTREMES, HALF_ULP, LENGTHS, UNDERFLOW, every, floats, is_near, same};
use crate::ops::{Frequencies, LARGEST_ANGLE, ORDERED, Rope, RopeParameters, Rotations, RowMask, SoftMax, SsmScan};

#[test]
fn a_soft_max_is_near_the_true_one_and_its_sink_has_a_part_of_the_sum() {
    let mut rng = Rng(8);
    for (isa, functions) in every() {
        for n in LENGTHS.into_iter().chain([1023, 1024, 1025, 5000]) {
            for (kind, sink, size) in [(0, f32::NEG_INFINITY, 1.0), (1, 0.5, 8.0), (2, -3.0, 100.0), (2, 900.0, 1e4)] {
                let x: Vec<f32> = (0..n).map(|_| rng.unit() * size).collect();
                // every fourth key is hidden, but the first is seen
                let mask: Vec<f32> =
                    (0..n).map(|i| if i % 4 == 3 { f32::NEG_INFINITY } else { (i % 9) as f32 * -0.25 }).collect();
                let halves: Vec<u8> = mask.iter().flat_map(|&m| f16::from_f32(m).to_ne_bytes()).collect();
                let scale = 0.125f32;
                let score = |i: usize| {
                    let added = if kind == 0 { 0.0 } else { mask[i] };
                    f64::from(x[i]) * f64::from(scale) + f64::from(added)
                };
                let most = (0..n).map(score).fold(f64::from(sink), f64::max);
                let sum: f64 = (0..n).map(|i| (score(i) - most).exp()).sum::<f64>() + (f64::from(sink) - most).exp();
                let mut results = vec![];
                for side in [Side::Start, Side::End] {
                    let (gmask, ghalves) = (Guarded::floats(&mask, side), Guarded::of(&halves, side));
                    let mask = match kind {
                        0 => RowMask::None,
                        1 => RowMask::Floats(gmask.ptr().cast()),
                        _ => RowMask::Halves(ghalves.ptr().cast()),
                    };
                    for in_place in [false, true] {
                        let (gx, gto) = (Guarded::floats(&x, side), Guarded::new(4 * n, 4, side));
                        let to = if in_place { &gx } else { &gto };
                        let row = SoftMax { x: gx.ptr().cast(), mask, to: to.ptr().cast(), n, scale, sink };
                        // SAFETY: rows and mask have `n` elements.
                        unsafe { (functions.soft_max)(&row) };
                        to.check("the result");
                        results.push(floats(to.bytes()));
                    }
                }
                assert!(results.iter().all(|other| same(&results[0], other)), "the result depends on where it lies");
                for (i, &got) in results[0].iter().enumerate() {
                    // a score is rounded twice, which its exponential shows as an error of the size of the score
                    let rounded = (score(i).abs().min(1e30) + most.abs()) * 3.0 * HALF_ULP;
                    let (expected, relative) = ((score(i) - most).exp() / sum, 20.0 * HALF_ULP + 2.0 * rounded);
                    assert!(
                        is_near(got, expected, relative, UNDERFLOW),
                        "{isa:?} {n} {kind} {i}: {got}, not {expected}"
                    );
                }
            }
        }
        let row = [f32::NEG_INFINITY; 20];
        let mut to = [0f32; 20];
        let row = SoftMax {
            x: row.as_ptr(),
            mask: RowMask::None,
            to: to.as_mut_ptr(),
            n: 20,
            scale: 1.0,
            sink: f32::NEG_INFINITY,
        };
        // SAFETY: both have twenty elements.
        unsafe { (functions.soft_max)(&row) };
        assert!(to.iter().all(|v| v.is_nan()), "{isa:?}: no key is seen, which is no number in ggml either: {to:?}");
    }
}

#[test]
fn an_order_is_that_of_a_stable_sort_whatever_the_numbers_are() {
    let mut rng = Rng(9);
    for (isa, functions) in every() {
        for n in LENGTHS.into_iter().chain([128, 256, 500, ORDERED]) {
            for kind in 0..3 {
                let number = |rng: &mut Rng| match kind {
                    0 => rng.unit(),
                    1 => rng.below(5) as f32,
                    _ => EXTREMES[rng.below(EXTREMES.len())],
                };
                let x: Vec<f32> = (0..n).map(|_| number(&mut rng)).collect();
                for (largest_first, side) in [(false, Side::Start), (true, Side::End)] {
                    let (gx, to) = (Guarded::floats(&x, side), Guarded::new(4 * n, 4, side));
                    // SAFETY: both have `n` elements, and `n` is at most `ORDERED`.
                    unsafe { (functions.order)(gx.ptr().cast(), to.ptr().cast(), n, largest_first) };
                    to.check("the order");
                    let got: Vec<usize> = to
                        .bytes()
                        .chunks_exact(4)
                        .map(|b| u32::from_ne_bytes(b.try_into().unwrap()) as usize)
                        .collect();
                    let mut expected: Vec<usize> = (0..n).collect();
                    let compare = |&a: &usize, &b: &usize| x[a].total_cmp(&x[b]);
                    expected.sort_by(|a, b| if largest_first { compare(b, a) } else { compare(a, b) });
                    assert_eq!(got, expected, "{isa:?} {n} {kind} {largest_first}");
                }
            }
        }
    }
}

#[test]
fn a_scan_is_what_its_definition_says() {
    let mut rng = Rng(10);
    for (isa, functions) in every() {
        for (len, rows, tokens) in [(64, 5, 1), (64, 4, 33), (128, 7, 1), (128, 6, 70), (256, 3, 2), (256, 2, 40)] {
            let a = -0.3f32;
            let dt: Vec<f32> = (0..tokens).map(|t| if t == 1 { 25.0 } else { rng.unit() * 4.0 - 2.0 }).collect();
            let [x, b, c, state] = [rows * tokens, len * tokens, len * tokens, rows * len]
                .map(|n| (0..n).map(|_| rng.unit()).collect::<Vec<f32>>());
            // the definition, with the size of the sums
            let mut expected: Vec<f64> = state.iter().map(|&s| f64::from(s)).collect();
            let (mut out, mut sizes) = (vec![], vec![]);
            for t in 0..tokens {
                let step = if dt[t] > 20.0 { f64::from(dt[t]) } else { f64::from(dt[t]).exp().ln_1p() };
                for (r, row) in expected.chunks_exact_mut(len).enumerate() {
                    let input = f64::from(x[t * rows + r]) * step;
                    let of = |v: &[f32], i: usize| f64::from(v[t * len + i]);
                    row.iter_mut()
                        .enumerate()
                        .for_each(|(i, s)| *s = *s * (step * f64::from(a)).exp() + of(&b, i) * input);
                    let products = row.iter().enumerate().map(|(i, s)| s * of(&c, i));
                    let (sum, size) = products.fold((0.0, 0.0), |(s, z), p| (s + p, z + p.abs()));
                    out.push(sum);
                    sizes.push(size);
                }
            }
            for side in [Side::Start, Side::End] {
                for in_place in [false, true] {
                    let [gx, gdt, gb, gc, before] = [&x, &dt, &b, &c, &state].map(|v| Guarded::floats(v, side));
                    let after = Guarded::new(4 * state.len(), 4, side);
                    let after = if in_place { &before } else { &after };
                    let to = Guarded::new(4 * rows * tokens, 4, side);
                    let at = |g: &Guarded| g.ptr().cast_const().cast::<f32>();
                    let scan = SsmScan {
                        x: (at(&gx), rows),
                        dt: (at(&gdt), 1),
                        a,
                        b: (at(&gb), len),
                        c: (at(&gc), len),
                        out: (to.ptr().cast(), rows),
                        before: at(&before),
                        after: after.ptr().cast(),
                        tokens,
                        len,
                    };
                    for part in [0..rows / 2, rows / 2..rows] {
                        // SAFETY: all of them have the sizes that the structure tells.
                        unsafe { (functions.ssm_scan)(&scan, part) };
                    }
                    to.check("the results");
                    after.check("the state");
                    // each token rounds a state a few times; decays make old errors smaller
                    for (i, (&got, &expected)) in floats(after.bytes()).iter().zip(&expected).enumerate() {
                        assert!(
                            is_near(got, expected, 1e-5, 2e-5),
                            "{isa:?} {len} {tokens} {i}: {got}, not {expected}"
                        );
                    }
                    for ((&got, &expected), &size) in floats(to.bytes()).iter().zip(&out).zip(&sizes) {
                        assert!(
                            is_near(got, expected, 0.0, size * 1e-5),
                            "{isa:?} {len} {tokens}: {got}, not {expected}"
                        );
                    }
                }
            }
        }
    }
}

/// Angles as ggml computes them, and their true sines and cosines. `yarn` mixes half of each angle.
#[test]
fn rotations_are_those_of_the_angles_of_a_position() {
    for (isa, functions) in every() {
        for dims in [2, 6, 32, 64, 80, 128, 256, 512] {
            for position in [0, 1, -7, 511, 131_071, LARGEST_ANGLE as i32] {
                for (base, factor) in [(1e4f32, None), (1e6, None), (5e5, Some(8.0f32))] {
                    let of = RopeParameters { dims, original: 4096, floats: [base, 1.0, 0.0, 1.25, 32.0, 1.0] };
                    let factors: Vec<f32> =
                        (0..dims / 2).map(|i| if i % 2 == 0 { 1.0 } else { factor.unwrap_or(1.0) }).collect();
                    let divisors = factor.map_or(std::ptr::null(), |_| factors.as_ptr());
                    let frequencies = Frequencies::new(&of, divisors);
                    let mut got = Rotations { sines: [9.0; 256], cosines: [9.0; 256] };
                    // SAFETY: there are as many factors as pairs.
                    unsafe { (functions.rotations)(&frequencies, position, &mut got) };
                    let (mut theta, step) = (position as f32, base.powf(-2.0 / dims as f32));
                    for (i, factor) in factors.iter().enumerate() {
                        let angle = f64::from(theta / factor);
                        let near = |got: f32, expected: f64| (f64::from(got) - 1.25 * expected).abs() <= 6.0 * HALF_ULP;
                        let fits = near(got.sines[i], angle.sin()) && near(got.cosines[i], angle.cos());
                        assert!(fits, "{isa:?} {dims} {position} {i}: {} {} of {angle}", got.sines[i], got.cosines[i]);
                        theta *= step;
                    }
                }
            }
        }
    }
}

/// Pairs from 8 rotations on are extrapolated, up to 1 rotation interpolated, with a ramp between.
#[test]
fn yarn_turns_fast_pairs_as_trained_and_slow_ones_less() {
    let (dims, position, scale) = (64, 100, 0.25f32);
    let of = RopeParameters { dims, original: 4096, floats: [1e4, scale, 1.0, 1.0, 32.0, 1.0] };
    let frequencies = Frequencies::new(&of, std::ptr::null());
    let magnitude = 1.0 + 0.1 * f64::from(1.0 / scale).ln();
    for (isa, functions) in every() {
        let mut got = Rotations { sines: [0.0; 256], cosines: [0.0; 256] };
        // SAFETY: no factors.
        unsafe { (functions.rotations)(&frequencies, position, &mut got) };
        let at = |rotations: f64| 64.0 * (4096.0 / (rotations * std::f64::consts::TAU)).ln() / (2.0 * 1e4f64.ln());
        let (low, high) = (at(32.0).floor(), at(1.0).ceil());
        for i in 0..dims / 2 {
            let angle = f64::from(position) * 1e4f64.powf(-2.0 * i as f64 / 64.0);
            let mix = 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            let angle = angle * f64::from(scale) * (1.0 - mix) + angle * mix;
            let near = |got: f32, expected: f64| (f64::from(got) - magnitude * expected).abs() <= 1e-4;
            assert!(near(got.sines[i], angle.sin()) && near(got.cosines[i], angle.cos()), "{isa:?} {i}");
        }
    }
}

#[test]
fn a_row_is_turned_in_pairs_and_the_rest_is_copied() {
    let mut rng = Rng(11);
    for (isa, functions) in every() {
        for pairs in [1, 3, 15, 16, 17, 40, 64] {
            let mut by = Rotations { sines: [0.0; 256], cosines: [0.0; 256] };
            for i in 0..pairs {
                (by.sines[i], by.cosines[i]) = (rng.unit(), rng.unit());
            }
            for (first, rest) in [(0, 0), (6, 0), (0, 5), (2, 8)] {
                let n = first + 2 * pairs + rest;
                let x: Vec<f32> = (0..n).map(|_| rng.unit()).collect();
                for (neighbours, side, in_place) in [
                    (false, Side::Start, false),
                    (true, Side::End, false),
                    (false, Side::End, true),
                    (true, Side::Start, true),
                ] {
                    let (gx, gto) = (Guarded::floats(&x, side), Guarded::new(4 * n, 4, side));
                    let to = if in_place { &gx } else { &gto };
                    let row = Rope { x: gx.ptr().cast(), to: to.ptr().cast(), n, first, pairs, neighbours };
                    // SAFETY: the row has `n` elements, and there are as many rotations as pairs.
                    unsafe { (functions.rope)(&row, &by) };
                    to.check("the result");
                    let mut expected: Vec<f64> = x.iter().map(|&x| x.into()).collect();
                    for i in 0..pairs {
                        let [a, b] = if neighbours { [2 * i, 2 * i + 1] } else { [i, pairs + i] }.map(|i| first + i);
                        let (u, v) = (f64::from(x[a]), f64::from(x[b]));
                        let (sin, cos) = (f64::from(by.sines[i]), f64::from(by.cosines[i]));
                        (expected[a], expected[b]) = (u * cos - v * sin, u * sin + v * cos);
                    }
                    for (&got, &expected) in floats(to.bytes()).iter().zip(&expected) {
                        assert!(
                            is_near(got, expected, 0.0, 4.0 * HALF_ULP),
                            "{isa:?} {pairs} {neighbours}: {got} {expected}"
                        );
                    }
                }
            }
        }
    }
}
