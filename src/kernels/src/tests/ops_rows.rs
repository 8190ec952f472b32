//! Soft max, order and scan, against short references in `f64`, on every ISA.

use half::f16;

use super::data::Rng;
use super::guard::{Guarded, Side};
use super::ops::{EXTREMES, HALF_ULP, LENGTHS, UNDERFLOW, every, floats, is_near, same};
use crate::ops::{ORDERED, RowMask, SoftMax, SsmScan};

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
                    assert!(is_near(got, expected, relative, UNDERFLOW), "{isa:?} {n} {kind} {i}: {got}, not {expected}");
                }
            }
        }
        let row = [f32::NEG_INFINITY; 20];
        let mut to = [0f32; 20];
        let row =
            SoftMax { x: row.as_ptr(), mask: RowMask::None, to: to.as_mut_ptr(), n: 20, scale: 1.0, sink: f32::NEG_INFINITY };
        // SAFETY: both have twenty elements.
        unsafe { (functions.soft_max)(&row) };
        assert!(to.iter().all(|v| v.is_nan()), "{isa:?}: no key is seen, which is no number in ggml either: {to:?}");
    }
}

#[test]
fn an_order_is_that_of_a_stable_sort_whatever_the_numbers_are() {
    let mut rng = Rng(9);
    for (isa, functions) in every() {
        for n in LENGTHS.into_iter().chain([128, 256, 1000, ORDERED]) {
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
                    let got: Vec<usize> =
                        to.bytes().chunks_exact(4).map(|b| u32::from_ne_bytes(b.try_into().unwrap()) as usize).collect();
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
                    row.iter_mut().enumerate().for_each(|(i, s)| *s = *s * (step * f64::from(a)).exp() + of(&b, i) * input);
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
                        assert!(is_near(got, expected, 1e-5, 2e-5), "{isa:?} {len} {tokens} {i}: {got}, not {expected}");
                    }
                    for ((&got, &expected), &size) in floats(to.bytes()).iter().zip(&out).zip(&sizes) {
                        assert!(is_near(got, expected, 0.0, size * 1e-5), "{isa:?} {len} {tokens}: {got}, not {expected}");
                    }
                }
            }
        }
    }
}
