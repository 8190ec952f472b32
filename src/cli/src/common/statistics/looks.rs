//! Interim looks at the data are scheduled in advance.
//!
//! A test after every pair, which stops at the first interval that does not hold 1, finds a difference
//! between equal things sooner or later. So the looks are scheduled in advance, and each look uses a
//! confidence that is corrected for their number (Bonferroni): the chance that any of `k` looks at
//! equal things shows a difference is at most `1 - CONFIDENCE`.

use super::{CONFIDENCE, Interval, MIN_PAIRS};

/// Pairs at the first look: the fewest whose range reaches the confidence corrected for up to 6 looks.
const FIRST: u32 = 8;

/// An effect needs no interval narrower than this part of it: 1.40 may end as 1.40 +- 0.10.
const PART_OF_EFFECT: f64 = 0.25;

/// The pair counts at which the results may be looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Looks(Vec<u32>);

impl Looks {
    /// Exactly `pairs` pairs, looked at once.
    pub fn fixed(pairs: u32) -> Self {
        Looks(vec![pairs])
    }

    /// From 8 pairs on, half as many more each time, `max` at most.
    pub fn up_to(max: u32) -> Self {
        let mut at = Vec::new();
        let mut next = FIRST;
        while next < max {
            at.push(next);
            next += next / 2;
        }
        at.push(max);
        Looks(at)
    }

    /// Whether the results may be looked at after `pairs` pairs.
    pub fn at(&self, pairs: u32) -> bool {
        self.0.contains(&pairs)
    }

    /// The largest number of pairs.
    pub fn max(&self) -> u32 {
        self.0.last().copied().unwrap_or(0)
    }

    /// The confidence of the interval of one look.
    pub fn confidence(&self) -> f64 {
        1.0 - (1.0 - CONFIDENCE) / self.0.len().max(1) as f64
    }

    /// The rule in words; `precision` is the half-width aimed at.
    pub fn rule(&self, precision: f64) -> String {
        let percent = 100.0 * CONFIDENCE;
        if let [pairs] = self.0[..] {
            let few = if pairs < MIN_PAIRS {
                format!(" (too few for any claim, which needs {MIN_PAIRS})")
            } else {
                String::new()
            };
            return format!("{pairs} pairs, looked at once, confidence {percent:.0} %{few}");
        }
        let at: Vec<String> = self.0.iter().map(u32::to_string).collect();
        format!(
            "looked at after {} pairs only, each time with confidence {:.2} %, so that all looks together keep {percent:.0} %; \
             ended at the first look where every interval was within +-{:.1} % (or a quarter of the effect), else at the last",
            at.join(", "),
            100.0 * self.confidence(),
            100.0 * precision,
        )
    }
}

/// Whether an interval is as narrow as asked for: `precision` (0.01: +-1 %), or a quarter of how far
/// `median` is from 1.
pub fn precise_enough(median: f64, interval: &Interval, precision: f64) -> bool {
    let effect = median.max(1.0 / median) - 1.0;
    interval.half_width() <= precision.max(PART_OF_EFFECT * effect)
}
