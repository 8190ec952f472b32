//! Attention against its definition, in `f64`, with every buffer guarded.

use super::data::{Rng, block, random_columns, random_matrix, rounding_blocks};
use super::guard::{Guarded, Side};
use super::harness::row_bytes;
use super::reference::{dot, flushed, kept, weights};
use super::scale;
use crate::attention::{Attention, KeyHeads, Query, Rows, Scale, Shared, seen};
use crate::formats::{Values, WeightType};
use crate::isa::{DataPath, Isa};
use half::f16;

fn guarded_mask(mask: &[f16], side: Side) -> Guarded {
    Guarded::of(&mask.iter().flat_map(|h| h.to_le_bytes()).collect::<Vec<_>>(), side)
}

/// Queries that share keys and values.
#[derive(Clone, Debug)]
pub struct Case {
    pub isa: Isa,
    pub key: (WeightType, usize),
    pub value: (WeightType, usize),
    pub keys: Vec<u8>,
    pub values: Vec<u8>,
    /// Bytes between rows of keys and of values.
    pub gap: usize,
    pub queries: Vec<Vec<f32>>,
    /// Of each query what is added to its scores, and times what.
    pub masks: Vec<Option<(Vec<f16>, f32)>>,
    pub sink: Option<f32>,
    pub scale: f32,
    pub cap: f32,
    /// Where the keys are cut into parts; begins with 0 and ends with their number.
    pub cuts: Vec<usize>,
    /// Whether results are those of [`Attention::in_one_order`]. The parts are then added to the same sums.
    pub one_order: bool,
}

/// What a result should be, and how far off rounding can make it.
struct Expected {
    value: f64,
    bound: f64,
    /// The most that a score can be off.
    off: f64,
}

impl Case {
    fn n_keys(&self) -> usize {
        *self.cuts.last().unwrap()
    }

    fn strides(&self) -> (usize, usize) {
        (row_bytes(self.key.0, self.key.1) + self.gap, row_bytes(self.value.0, self.value.1) + self.gap)
    }

    pub fn attention(&self) -> Option<Attention> {
        let new = if self.one_order { Attention::in_one_order } else { Attention::new };
        new((DataPath::Full, self.isa), self.key, self.value, self.queries.len())
    }

    /// The results, query after query; every buffer ends or begins beside a page that cannot be touched.
    pub fn run(&self, attention: &Attention, side: Side) -> Vec<f32> {
        let n = self.queries.len();
        let (keys, values) = (Guarded::of(&self.keys, side), Guarded::of(&self.values, side));
        let queries: Vec<_> = self.queries.iter().map(|q| Guarded::floats(q, side)).collect();
        let masks: Vec<_> =
            self.masks.iter().map(|m| m.as_ref().map(|(m, slope)| (guarded_mask(m, side), *slope))).collect();
        let (key_stride, value_stride) = self.strides();
        let scale = if self.cap == 0.0 { self.scale } else { self.scale / self.cap };
        let shared = Shared {
            keys: (keys.ptr(), key_stride),
            values: (values.ptr(), value_stride),
            scale: Scale { scale, cap: self.cap },
        };
        let query = |i: usize| Query {
            elements: queries[i].ptr().cast(),
            mask: masks[i].as_ref().map_or(std::ptr::null(), |m| m.0.ptr()),
            slope: masks[i].as_ref().map_or(1.0, |m| m.1),
        };
        let (len, parts) = (attention.sums_len(), if self.one_order { 1 } else { self.cuts.len() - 1 });
        let scratch = Guarded::new(attention.scratch_bytes(), 64, side);
        let sums = Guarded::new(4 * len * n * parts, 4, side);
        let results: Vec<_> = (0..n).map(|_| Guarded::new(4 * self.value.1, 4, side)).collect();
        // SAFETY: the buffers are as large as documented, and no larger.
        unsafe {
            for from in (0..n).step_by(attention.most_queries()) {
                let count = attention.most_queries().min(n - from);
                for (part, cut) in self.cuts.windows(2).enumerate() {
                    let own = part.min(parts - 1);
                    let sums = sums.ptr().cast::<f32>().add((own * n + from) * len);
                    if own == part {
                        attention.clear(count, sums);
                    }
                    attention.add(&shared, cut[0]..cut[1], count, |i| query(from + i), sums, scratch.ptr());
                }
            }
            for (i, result) in results.iter().enumerate() {
                let sums = sums.ptr().cast::<f32>().add(i * len);
                attention.finish(sums, parts, n * len, self.sink, result.ptr().cast());
            }
        }
        scratch.check("the scratch");
        sums.check("the sums");
        let mut all = vec![];
        for result in &results {
            result.check("the result");
            all.extend(result.bytes().chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())));
        }
        all
    }

    /// By the definition.
    fn expected(&self, attention: &Attention) -> Vec<Expected> {
        let (key_stride, value_stride) = self.strides();
        let row = |t: WeightType, n: usize, bytes: &[u8], at: usize| weights(t, &bytes[at..][..row_bytes(t, n)]);
        let keys: Vec<_> =
            (0..self.n_keys()).map(|i| row(self.key.0, self.key.1, &self.keys, i * key_stride)).collect();
        let values: Vec<Vec<f64>> = (0..self.n_keys())
            .map(|i| row(self.value.0, self.value.1, &self.values, i * value_stride))
            .map(|row| row.iter().map(|e| e.scaled + e.min).collect())
            .collect();
        let act = attention.act();
        let flush = |x: f64| if act.values == Values::Bf16Pairs { flushed(x) } else { x };
        let blocks = rounding_blocks(self.key.0, self.key.1);
        let mut all = vec![];
        for (query, mask) in self.queries.iter().zip(&self.masks) {
            let query: Vec<f64> = kept(act, query).into_iter().map(flush).collect();
            let mut off = 0f64; // the most that a score can be off
            let scores: Vec<f64> = keys
                .iter()
                .enumerate()
                .map(|(i, key)| {
                    let key: Vec<_> =
                        key.iter().map(|&e| super::reference::Element { scaled: flush(e.scaled), ..e }).collect();
                    let product = dot(&key, &query);
                    let mut s = product.value * f64::from(self.scale);
                    let mut bound = product.bound(blocks) * f64::from(self.scale).abs();
                    if self.cap != 0.0 {
                        s = f64::from(self.cap) * (s / f64::from(self.cap)).tanh();
                        bound += f64::from(self.cap) * 1e-6;
                    }
                    let added = mask.as_ref().map_or(0.0, |(m, slope)| m[i].to_f64() * f64::from(*slope));
                    if added.is_finite() {
                        off = off.max(bound + ((s + added).abs() + added.abs() + s.abs()) * 2e-7);
                    }
                    s + added
                })
                .collect();
            let max = scores.iter().copied().chain(self.sink.map(f64::from)).fold(f64::NEG_INFINITY, f64::max);
            let parts: Vec<f64> =
                scores.iter().map(|s| if max == f64::NEG_INFINITY { 0.0 } else { (s - max).exp() }).collect();
            let sum: f64 = parts.iter().sum::<f64>() + self.sink.map_or(0.0, |s| (f64::from(s) - max).exp());
            for e in 0..self.value.1 {
                let mean = |f: &dyn Fn(f64) -> f64| {
                    let total: f64 =
                        parts.iter().zip(&values).filter(|(p, _)| **p > 0.0).map(|(p, v)| p * f(v[e])).sum();
                    if sum == 0.0 { 0.0 } else { total / sum }
                };
                // each weight is off by as much as its score, and so is their sum; additions round, one for every
                // key, and weights below the normal numbers are left out
                let most = values.iter().map(|v| v[e].abs()).fold(0.0, f64::max);
                let bound = mean(&f64::abs) * (2.1 * off + 1e-6 + 1.2e-7 * self.n_keys() as f64)
                    + most * 1e-37 * self.n_keys() as f64;
                all.push(Expected { value: mean(&|v| v), bound: bound + 1e-37, off });
            }
        }
        all
    }

    /// Whether the CPU can compute it; panics where it does so wrongly.
    pub fn check(&self, side: Side) -> bool {
        self.check_where_off(f64::INFINITY, side)
    }

    /// The same; results whose scores can be off by more than `most` are not compared.
    pub fn check_where_off(&self, most: f64, side: Side) -> bool {
        let Some(attention) = self.attention() else { return false };
        let got = self.run(&attention, side);
        if most > 0.0 {
            self.compare(&attention, &got, most);
        }
        true
    }

    /// Panics where results are not those of the definition.
    fn compare(&self, attention: &Attention, got: &[f32], most: f64) {
        for (i, (got, expected)) in got.iter().zip(self.expected(attention)).enumerate() {
            if expected.off.is_nan() || expected.off > most {
                continue;
            }
            let off = (f64::from(*got) - expected.value).abs();
            assert!(
                off <= expected.bound,
                "{} with {:?}, {} queries, cuts {:?}: query {}, element {}: {got}, not {}, off by {off:e} where {:e} is due",
                attention.kernel.name(),
                self.value,
                self.queries.len(),
                self.cuts,
                i / self.value.1,
                i % self.value.1,
                expected.value,
                expected.bound
            );
        }
    }
}

/// A case of random numbers whose scores are small; without masks.
pub fn random(
    isa: Isa,
    key: (WeightType, usize),
    value: (WeightType, usize),
    [queries, keys, gap]: [usize; 3],
    rng: &mut Rng,
) -> Case {
    let strides = (row_bytes(key.0, key.1) + gap, row_bytes(value.0, value.1) + gap);
    Case {
        isa,
        key,
        value,
        keys: random_matrix(key.0, keys, key.1, strides.0, rng),
        values: random_matrix(value.0, keys, value.1, strides.1, rng),
        gap,
        queries: random_columns(queries, key.1, rng),
        masks: vec![None; queries],
        sink: None,
        scale: 0.02,
        cap: 0.0,
        cuts: vec![0, keys],
        one_order: false,
    }
}

pub fn tiers() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

/// Whether tests can afford so many products: the definition is slow, the portable tier and an emulator more so.
fn affordable(isa: Isa, products: usize) -> bool {
    products < scale() * if isa == Isa::Scalar { 50_000 } else { 270_000 }
}

#[test]
fn every_type_of_keys_and_values_agrees_with_the_definition() {
    let rng = &mut Rng(31);
    for isa in tiers() {
        let mut checked = 0;
        for t in WeightType::ALL {
            let len = if t.block().0 == 1 { 48 } else { block(t) * if block(t) == 32 { 2 } else { 1 } };
            for queries in [1, 4, 17] {
                let floats = (WeightType::F16, 32);
                let case = random(isa, (t, len), floats, [queries, 70, 6], rng);
                assert!(case.check(Side::End), "{t:?} on {isa:?} as keys");
                checked += 1;
                let case = random(isa, floats, (t, len), [queries, 70, 6], rng);
                let possible = case.check(Side::End);
                assert!(possible || isa == Isa::Scalar, "{t:?} on {isa:?} as values");
            }
        }
        assert_eq!(checked, 3 * WeightType::ALL.len());
    }
}

#[test]
fn every_shape_agrees_with_the_definition() {
    let rng = &mut Rng(32);
    for isa in tiers() {
        for (key_len, value_len) in
            [(1, 1), (40, 40), (64, 64), (72, 80), (128, 128), (192, 128), (256, 31), (576, 512)]
        {
            for (queries, keys) in
                [(1, 1), (2, 15), (3, 129), (5, 64), (6, 300), (12, 33), (16, 65), (31, 200), (64, 100), (70, 66)]
            {
                if !affordable(isa, queries * keys * key_len) {
                    continue;
                }
                let side = if queries % 2 == 0 { Side::Start } else { Side::End };
                let values = if keys % 2 == 0 { WeightType::F32 } else { WeightType::F16 };
                let case = random(isa, (WeightType::F16, key_len), (values, value_len), [queries, keys, 2], rng);
                assert!(case.check(side));
            }
        }
    }
}

/// Causal masks, random ones, and those of keys that nobody sees; with slopes; with sinks; capped; cut into parts.
#[test]
fn masks_sinks_caps_and_parts_agree_with_the_definition() {
    let rng = &mut Rng(33);
    let unseen = f16::NEG_INFINITY;
    for isa in tiers() {
        for keys in [1, 63, 200] {
            for queries in [1, 7, 33] {
                if !affordable(isa, queries * keys * 16) {
                    continue;
                }
                for kind in 0..6 {
                    let mut case = random(isa, (WeightType::F16, 16), (WeightType::F16, 64), [queries, keys, 0], rng);
                    for (q, mask) in case.masks.iter_mut().enumerate() {
                        let causal = keys * (q / 2 + 1) / queries.max(2);
                        let mut one = |key: usize| match kind {
                            0 => {
                                if key < causal {
                                    f16::ZERO
                                } else {
                                    unseen
                                }
                            }
                            1 => {
                                if rng.below(3) == 0 {
                                    f16::from_f32(rng.unit() * 4.0)
                                } else {
                                    unseen
                                }
                            }
                            2 => f16::from_f32(-((keys - key) as f32)),
                            3 => {
                                if (keys / 3..keys / 2).contains(&key) {
                                    f16::ONE
                                } else {
                                    unseen
                                }
                            }
                            4 => unseen,
                            _ => {
                                if q % 2 == 0 {
                                    unseen
                                } else {
                                    f16::from_f32(rng.unit())
                                }
                            }
                        };
                        let slope = if kind == 2 { 1.0 / (q + 1) as f32 } else { 1.0 };
                        *mask = Some(((0..keys).map(&mut one).collect(), slope));
                    }
                    case.sink = (kind % 2 == 0).then(|| rng.unit() * 3.0);
                    case.cap = if kind % 3 == 1 { 5.0 } else { 0.0 };
                    if keys > 3 && kind > 1 {
                        case.cuts = vec![0, keys / 4, keys / 2 + 1, keys];
                    }
                    case.one_order = (kind + queries + keys).is_multiple_of(2);
                    assert!(case.check(if kind % 2 == 0 { Side::Start } else { Side::End }));
                }
            }
        }
    }
}

/// Scores far apart: one key takes everything, wherever it comes. Large values stay finite.
#[test]
fn scores_of_any_size_agree_with_the_definition() {
    let rng = &mut Rng(34);
    for isa in tiers() {
        for queries in [1, 20] {
            for (scale, size) in [(30.0, 1.0), (1e4, 1.0), (0.0, 1.0), (-3.0, 1.0), (0.05, 6e4)] {
                let mut case = random(isa, (WeightType::F32, 32), (WeightType::F32, 48), [queries, 150, 0], rng);
                case.scale = scale;
                for v in case.values.chunks_exact_mut(4) {
                    let scaled = f32::from_le_bytes(v.try_into().unwrap()) * size;
                    v.copy_from_slice(&scaled.to_le_bytes());
                }
                // scores that differ from one another by more than their rounding
                case.queries.iter_mut().flatten().for_each(|x| *x = (*x * 8.0).round() / 8.0);
                case.keys.chunks_exact_mut(4).for_each(|k| {
                    let rounded = (f32::from_le_bytes(k.try_into().unwrap()) * 8.0).round() / 8.0;
                    k.copy_from_slice(&rounded.to_le_bytes());
                });
                assert!(case.check(Side::End));
                let attention = case.attention().unwrap();
                assert!(case.run(&attention, Side::Start).iter().all(|v| v.is_finite()));
            }
        }
    }
}

/// Types that llama.cpp offers for its cache.
pub const CACHE_TYPES: [WeightType; 9] = [
    WeightType::F32,
    WeightType::F16,
    WeightType::Bf16,
    WeightType::Q8_0,
    WeightType::Q4_0,
    WeightType::Q4_1,
    WeightType::Q5_0,
    WeightType::Q5_1,
    WeightType::Iq4Nl,
];

/// Heads beside each other, with and without gaps, each as by itself.
#[test]
fn all_heads_of_a_cache_agree_with_the_definition() {
    let rng = &mut Rng(35);
    for isa in tiers() {
        for t in CACHE_TYPES {
            for (n, keys, heads, len, gap) in [
                (1, 200, 3, 64, 0),
                (1, 33, 2, 160, 0),
                (4, 70, 2, 128, 16),
                (8, 40, 3, 32, 0),
                (12, 20, 1, 96, 2),
                (17, 90, 2, 96, 4),
            ] {
                if affordable(isa, n * keys * heads * len) {
                    check_heads(isa, t, [n, keys, heads, len, gap], rng);
                }
            }
        }
    }
}

fn check_heads(isa: Isa, t: WeightType, [n, keys, heads, len, gap]: [usize; 5], rng: &mut Rng) {
    let side = if n % 2 == 0 { Side::Start } else { Side::End };
    let (row, stride) = (row_bytes(t, len), row_bytes(t, len * heads) + gap);
    let cases: Vec<Case> = (0..heads)
        .map(|_| {
            let mut case = random(isa, (t, len), (t, len), [n, keys, 0], rng);
            for (q, mask) in case.masks.iter_mut().enumerate() {
                // windows, and queries that see nothing
                let (from, to) = (rng.below(keys), if q % 5 == 3 { 0 } else { keys - rng.below(keys / 2) });
                let of = |key| if (from..to).contains(&key) { f16::ZERO } else { f16::NEG_INFINITY };
                *mask = (q % 3 != 2).then(|| ((0..keys).map(of).collect(), 1.0));
            }
            case
        })
        .collect();
    let Some(attention) = cases[0].attention() else {
        assert!(isa == Isa::Scalar, "{t:?} on {isa:?}");
        return;
    };
    let beside = |of: &dyn Fn(&Case) -> Vec<u8>| {
        let mut all = vec![0; (keys - 1) * stride + heads * row];
        for (head, case) in cases.iter().enumerate() {
            for (key, bytes) in of(case).chunks_exact(row).enumerate() {
                all[key * stride + head * row..][..row].copy_from_slice(bytes);
            }
        }
        Guarded::of(&all, side)
    };
    let (all_keys, all_values) = (beside(&|case| case.keys.clone()), beside(&|case| case.values.clone()));
    let guarded = |f: &dyn Fn(&Case, usize) -> Guarded| -> Vec<Vec<Guarded>> {
        cases.iter().map(|case| (0..n).map(|q| f(case, q)).collect()).collect()
    };
    let queries = guarded(&|case, q| Guarded::floats(&case.queries[q], side));
    let masks = guarded(&|case, q| guarded_mask(case.masks[q].as_ref().map_or(&[], |m| &m.0), side));
    let query = |head: usize, q: usize| Query {
        elements: queries[head][q].ptr().cast(),
        mask: if cases[head].masks[q].is_some() { masks[head][q].ptr() } else { std::ptr::null() },
        slope: 1.0,
    };
    let rows = |start: &Guarded| Rows { start: start.ptr(), stride, head: row };
    let scale = Scale { scale: cases[0].scale, cap: 0.0 };
    let all = KeyHeads { count: heads, keys: rows(&all_keys), values: rows(&all_values), scale };
    let scratch = Guarded::new(attention.heads_scratch_bytes(heads, n).next_multiple_of(64), 64, side);
    let sums = Guarded::new(4 * attention.sums_len() * n * heads, 4, side);
    let result = Guarded::new(4 * len, 4, side);
    // SAFETY: the buffers are as large as documented, and no larger but for alignment.
    unsafe {
        attention.clear(n * heads, sums.ptr().cast());
        attention.add_heads(&all, 0..keys, n, query, sums.ptr().cast(), scratch.ptr());
        for (head, case) in cases.iter().enumerate() {
            let mut got = vec![];
            for q in 0..n {
                let sums = sums.ptr().cast::<f32>().add((head * n + q) * attention.sums_len());
                attention.finish(sums, 1, 0, None, result.ptr().cast());
                got.extend(result.bytes().chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())));
            }
            case.compare(&attention, &got, f64::INFINITY);
        }
    }
    scratch.check("the scratch");
    sums.check("the sums");
}

/// Where nothing is seen the result is zero, and nothing is read but masks.
#[test]
fn keys_and_values_that_nobody_sees_are_not_read() {
    for isa in tiers() {
        let attention = Attention::new((DataPath::Full, isa), (WeightType::F16, 64), (WeightType::F16, 64), 3).unwrap();
        let mask = [f16::NEG_INFINITY; 500];
        let (query, mut result) = ([1f32; 64], [1f32; 64]);
        let mut sums = vec![0f32; 3 * attention.sums_len()];
        let scratch = Guarded::new(attention.scratch_bytes(), 64, Side::End);
        let nothing = Shared {
            keys: (std::ptr::null(), 0),
            values: (std::ptr::null(), 0),
            scale: Scale { scale: 1.0, cap: 0.0 },
        };
        let one = |_| Query { elements: query.as_ptr(), mask: mask.as_ptr().cast(), slope: 1.0 };
        // SAFETY: the buffers are large enough; keys and values are not read, which this is about.
        unsafe {
            attention.clear(3, sums.as_mut_ptr());
            attention.add(&nothing, 0..500, 3, one, sums.as_mut_ptr(), scratch.ptr());
            attention.finish(sums.as_ptr(), 1, 0, None, result.as_mut_ptr());
        }
        assert_eq!(result, [0.0; 64]);
    }
}

#[test]
fn what_is_seen_reaches_from_the_first_such_key_to_the_last_one() {
    let mut rng = Rng(11);
    for _ in 0..2000 {
        let (keys, queries) = (1 + rng.below(70), 1 + rng.below(3));
        // windows, sometimes empty ones, with holes
        let masks: Vec<Vec<f16>> = (0..queries)
            .map(|_| {
                let (a, b, holes) = (rng.below(keys + 1), rng.below(keys + 1), rng.below(4));
                let sees = |key: usize, hole: usize| (a..b).contains(&key) && hole >= holes;
                let of = |key| if sees(key, rng.below(6)) { f16::ZERO } else { f16::NEG_INFINITY };
                (0..keys).map(of).collect()
            })
            .collect();
        let guarded: Vec<Guarded> = masks.iter().map(|m| guarded_mask(m, Side::End)).collect();
        let from = rng.below(keys);
        // SAFETY: masks of `keys` halves.
        let got = unsafe { seen(from..keys, guarded.iter().map(|m| m.ptr().cast_const())) };
        let any = |key: &usize| masks.iter().any(|m| m[*key] != f16::NEG_INFINITY);
        let first = (from..keys).find(any);
        assert_eq!(got, first.map(|first| first..(from..keys).rfind(any).unwrap() + 1), "{from}.. of {masks:?}");
    }
}

#[test]
fn impossible_lengths_and_types_are_refused() {
    let new = |key, value| Attention::new((DataPath::Full, Isa::Scalar), key, value, 1).is_some();
    let halves = (WeightType::F16, 64);
    assert!(new(halves, halves));
    assert!(!new((WeightType::Q8_0, 40), halves), "no multiple of a block");
    assert!(!new(halves, (WeightType::Q8_0, 64)), "no dequantiser on the scalar tier");
    assert!(!new((WeightType::F16, 0), halves) && !new(halves, (WeightType::F16, 0)));
    assert!(Attention::new((DataPath::Full, Isa::Scalar), halves, halves, 0).is_none());
}
