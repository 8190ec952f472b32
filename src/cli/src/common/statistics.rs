//! Medians, their intervals, and what may be claimed from them.
//!
//! Everything here is distribution-free: run times on a shared machine have long tails, and means
//! and standard deviations would be ruled by them.

mod looks;
mod samples;
mod verdict;

pub use looks::{Looks, precise_enough};
pub use verdict::{Better, Comparison, Verdict, apart, better_of, drift};

/// The confidence that a claim needs, over all looks at the data together.
pub const CONFIDENCE: f64 = 0.95;

/// The fewest pairs that a claim may rest on when they are looked at once: the range of 6 values
/// covers their median with 96.9 %, that of 5 with 93.75 %, which is less than [`CONFIDENCE`].
pub const MIN_PAIRS: u32 = 6;

/// Resamples of a bootstrap: the outer quantile of an interval corrected for 8 looks (0.3 %) still
/// has 30 of them beyond it.
const RESAMPLES: usize = 10_000;

/// Consecutive pairs that are drawn together: a pair and its mirror image, in which the order of the
/// runs is reversed, so that a drift cancels inside a block instead of counting as noise.
const BLOCK: usize = 2;

/// The seed of every bootstrap: the same values give the same interval.
const SEED: u64 = 0x5a65_6e35;

/// Median; the mean of the two middle values for an even count. `None` for no values.
pub fn median(values: &[f64]) -> Option<f64> {
    median_of_sorted(&sorted(values))
}

fn median_of_sorted(sorted: &[f64]) -> Option<f64> {
    let n = sorted.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(sorted[n / 2]),
        _ => Some((sorted[n / 2 - 1] + sorted[n / 2]) / 2.0),
    }
}

/// Smallest and largest value. `None` for no values.
pub fn range(values: &[f64]) -> Option<(f64, f64)> {
    let sorted = sorted(values);
    Some((*sorted.first()?, *sorted.last()?))
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// An interval for the median of paired ratios.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
    /// The probability that such an interval covers the true median, at least.
    pub confidence: f64,
    /// Number of ratios.
    pub n: usize,
}

impl Interval {
    /// The interval of the median of `ratios` (positive, in the order of their pairs): the percentiles
    /// of a circular block bootstrap, and never narrower than the order statistics `x[k] .. x[n+1-k]`
    /// that cover a median with `confidence` exactly. The bootstrap alone is too sure of itself for
    /// few values: the 95 % of 7 values cover 87.5 %. `None` where so few values cannot reach the
    /// confidence at all.
    pub fn of_median(ratios: &[f64], confidence: f64) -> Option<Interval> {
        let sorted = sorted(ratios);
        let n = sorted.len();
        let rank = rank(n, confidence)?;
        let (low, high) = bootstrap(ratios, confidence)?;
        Some(Interval { low: low.min(sorted[rank - 1]), high: high.max(sorted[n - rank]), confidence, n })
    }

    /// Whether the interval holds `x`, its bounds included.
    pub fn contains(&self, x: f64) -> bool {
        self.low <= x && x <= self.high
    }

    /// Half of the interval's width, as a part of the ratio: 0.01 is about +-1 %.
    pub fn half_width(&self) -> f64 {
        (self.high / self.low).sqrt() - 1.0
    }

    /// The interval mirrored at 1, so that both its bounds are as far from 1 as its farther one: what
    /// the same thing against itself may show, in either direction.
    pub fn around_one(&self) -> (f64, f64) {
        let far = self.high.max(1.0 / self.low).max(1.0);
        (1.0 / far, far)
    }
}

/// The largest rank whose order statistics, from both ends, cover the median with `confidence`.
fn rank(n: usize, confidence: f64) -> Option<usize> {
    (1..=n / 2).take_while(|&k| coverage(n, k) >= confidence).last()
}

/// `1 - 2 * P(Binomial(n, 1/2) <= k - 1)`.
fn coverage(n: usize, k: usize) -> f64 {
    let mut term = 0.5f64.powi(n as i32);
    let mut below = 0.0;
    for i in 0..k {
        below += term;
        term *= (n - i) as f64 / (i + 1) as f64;
    }
    1.0 - 2.0 * below
}

/// The percentiles that leave `(1 - confidence) / 2` at either end of the medians of resamples.
fn bootstrap(values: &[f64], confidence: f64) -> Option<(f64, f64)> {
    let n = values.len();
    if n == 0 {
        return None;
    }
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut resample = Vec::with_capacity(n + BLOCK);
    let mut medians = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        resample.clear();
        while resample.len() < n {
            let start = random.usize(..n);
            resample.extend((0..BLOCK).map(|i| values[(start + i) % n]));
        }
        resample.truncate(n);
        resample.sort_by(f64::total_cmp);
        medians.push(median_of_sorted(&resample)?);
    }
    medians.sort_by(f64::total_cmp);
    let outside = ((1.0 - confidence) / 2.0 * RESAMPLES as f64) as usize;
    Some((medians[outside], medians[RESAMPLES - 1 - outside]))
}

#[cfg(test)]
mod tests;
