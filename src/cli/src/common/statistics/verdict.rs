//! What a set of paired ratios permits to say.

use serde::{Deserialize, Serialize};

use super::{CONFIDENCE, Interval, median, samples};

/// Whether large or small values are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Higher,
    Lower,
}

/// What may be said of an arm against its reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The whole interval is on the good side of 1, and outside the noise.
    Better,
    /// The whole interval is on the bad side of 1, and outside the noise.
    Worse,
    /// The interval holds 1.
    NoDifference,
    /// The interval does not hold 1, but stock against itself shows as much.
    WithinNoise,
    /// Too few pairs to reach the confidence.
    TooFewPairs,
}

/// An arm against a reference, pair by pair.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub ratios: Vec<f64>,
    pub median: f64,
    pub interval: Option<Interval>,
    pub verdict: Verdict,
}

impl Comparison {
    /// Compares `arm` with `reference`; both are in the order of the pairs. `noise` is the interval of
    /// stock against itself in the same pairs; without it nothing is claimed. `None` when there is
    /// nothing to compare.
    pub fn of_pairs(
        arm: &[f64],
        reference: &[f64],
        noise: Option<&Interval>,
        better: Better,
        confidence: f64,
    ) -> Option<Comparison> {
        let ratios = ratios(arm, reference);
        let interval = Interval::of_median(&ratios, confidence);
        Self::new(ratios, interval, noise, better)
    }

    /// Compares two sets of samples of different times, which have no pairs. `noise` is the interval of stock against
    /// itself, without which nothing is claimed. `None` when there is nothing to compare.
    pub fn of_samples(
        arm: &[f64],
        reference: &[f64],
        noise: Option<&Interval>,
        better: Better,
        confidence: f64,
    ) -> Option<Comparison> {
        let ratios = samples::ratios(reference, arm);
        let interval = Interval::of_samples(&ratios, (reference.len(), arm.len()), confidence);
        Self::new(ratios, interval, noise, better)
    }

    fn new(ratios: Vec<f64>, interval: Option<Interval>, noise: Option<&Interval>, better: Better) -> Option<Self> {
        let median = median(&ratios)?;
        Some(Comparison { ratios, median, interval, verdict: judge(interval, noise, better) })
    }
}

/// How much the second half of samples differs from the first one: what a drift makes of equal things.
/// `None` for too few samples.
pub fn drift(samples: &[f64]) -> Option<Interval> {
    let (first, second) = samples.split_at(samples.len() / 2);
    let ratios = samples::ratios(first, second);
    Interval::of_samples(&ratios, (first.len(), second.len()), CONFIDENCE)
}

/// How far apart two sets of samples of equal things are: their ratio, mirrored at 1. `None` when there is
/// nothing to compare.
pub fn apart(a: &[f64], b: &[f64]) -> Option<Interval> {
    let ratio = median(&samples::ratios(a, b))?;
    let far = ratio.max(1.0 / ratio);
    Some(Interval { low: 1.0 / far, high: far, confidence: CONFIDENCE, n: a.len().min(b.len()) })
}

fn judge(interval: Option<Interval>, noise: Option<&Interval>, better: Better) -> Verdict {
    match (interval, noise) {
        (Some(i), _) if i.contains(1.0) => Verdict::NoDifference,
        (Some(i), Some(noise)) => {
            let (low, high) = noise.around_one();
            if i.low <= high && i.high >= low {
                Verdict::WithinNoise
            } else if (i.low > 1.0) == (better == Better::Higher) {
                Verdict::Better
            } else {
                Verdict::Worse
            }
        }
        _ => Verdict::TooFewPairs,
    }
}

/// `a / b` pair by pair, without the pairs in which either is not a positive number.
fn ratios(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).filter(|(a, b)| **a > 0.0 && **b > 0.0).map(|(a, b)| a / b).collect()
}

/// Which of several lists is the best by its median, an index.
///
/// The better of stock is chosen once, over all pairs, and not anew in each pair: the best of two
/// noisy values of the same thing is above its true value, so that comparing equal things would show
/// a loss (in all of 5 pairs with a chance of (2/3)^5 = 13 %, where 3 % is due).
pub fn better_of(lists: &[&[f64]], better: Better) -> Option<usize> {
    let medians = lists.iter().enumerate().filter_map(|(i, values)| Some((i, median(values)?)));
    let by_median = |a: &(usize, f64), b: &(usize, f64)| a.1.total_cmp(&b.1);
    let best = match better {
        Better::Higher => medians.max_by(by_median),
        Better::Lower => medians.min_by(by_median),
    };
    Some(best?.0)
}
