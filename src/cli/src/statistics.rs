//! Medians, their intervals, and what may be claimed from them.
//!
//! Everything here is distribution-free: run times on a shared machine have long tails, and means
//! and standard deviations would be ruled by them.

/// The confidence a claim needs, and the interval aims at.
pub const CONFIDENCE: f64 = 0.95;

/// The fewest pairs a claim may rest on: the range of 5 values covers their median with 93.75 %,
/// the nearest that so few values come to [`CONFIDENCE`]; 4 reach only 87.5 %.
pub const MIN_PAIRS: usize = 5;

/// Median; the mean of the two middle values for an even count. `None` for no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
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

/// An interval for the median, bounded by two of the values themselves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
    /// The probability that such an interval covers the true median.
    pub coverage: f64,
    /// Rank of the low bound counted from the smallest value, 1-based; the high bound has the same
    /// rank from the largest. 1 means min..max.
    pub rank: usize,
    /// Number of values.
    pub n: usize,
}

impl Interval {
    /// Order-statistic interval: `x[k] .. x[n+1-k]` covers the median with probability
    /// `1 - 2 * P(Binomial(n, 1/2) < k)`. Takes the largest `k` that keeps [`CONFIDENCE`], and
    /// min..max where even that falls short (n <= 5). `None` for fewer than two values.
    pub fn of_median(values: &[f64]) -> Option<Interval> {
        let sorted = sorted(values);
        let n = sorted.len();
        if n < 2 {
            return None;
        }
        let mut best = (1, coverage(n, 1));
        for k in 2..=n / 2 {
            let c = coverage(n, k);
            if c < CONFIDENCE {
                break;
            }
            best = (k, c);
        }
        let (rank, coverage) = best;
        Some(Interval { low: sorted[rank - 1], high: sorted[n - rank], coverage, rank, n })
    }

    /// Whether the interval holds `x`, its bounds included.
    pub fn contains(&self, x: f64) -> bool {
        self.low <= x && x <= self.high
    }

    /// How the interval was made, for the reader of a table.
    pub fn method(&self) -> String {
        let percent = self.coverage * 100.0;
        if self.rank == 1 {
            format!("min..max of {} pairs, covers the median with {percent:.1} %", self.n)
        } else {
            format!(
                "order statistics {} and {} of {} pairs (binomial), covers the median with {percent:.1} %",
                self.rank,
                self.n + 1 - self.rank,
                self.n
            )
        }
    }
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

/// Whether large or small values are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

/// What a set of paired ratios permits to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The whole interval is on the good side of 1.
    Better,
    /// The whole interval is on the bad side of 1.
    Worse,
    /// The interval holds 1.
    NoDifference,
    /// Fewer than [`MIN_PAIRS`] pairs.
    TooFewPairs,
}

/// `shim / better of stock`, pair by pair.
///
/// The better of stock is chosen once, by its median over all pairs, and not anew in each pair: the
/// best of two noisy values of the same thing is above its true value, so that comparing equal
/// things would show a loss (in all of 5 pairs with a chance of (2/3)^5 = 13 %, where 3 % is due).
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Which of stock's variants is the better, an index.
    pub best: usize,
    pub ratios: Vec<f64>,
    pub median: f64,
    pub interval: Option<Interval>,
    pub verdict: Verdict,
}

impl Comparison {
    /// Compares `shim` with each of `stock`'s variants; all lists are in the order of the pairs.
    /// `None` when there is nothing to compare.
    pub fn of_pairs(shim: &[f64], stock: &[Vec<f64>], better: Better) -> Option<Comparison> {
        let medians = stock.iter().enumerate().filter_map(|(i, values)| Some((i, median(values)?)));
        let by_median = |a: &(usize, f64), b: &(usize, f64)| a.1.total_cmp(&b.1);
        let (best, _) = match better {
            Better::Higher => medians.max_by(by_median)?,
            Better::Lower => medians.min_by(by_median)?,
        };
        let ratios: Vec<f64> = shim
            .iter()
            .zip(&stock[best])
            .filter(|(_, stock)| **stock > 0.0)
            .map(|(shim, stock)| shim / stock)
            .collect();
        let median = median(&ratios)?;
        let interval = Interval::of_median(&ratios);
        let verdict = match interval {
            _ if ratios.len() < MIN_PAIRS => Verdict::TooFewPairs,
            None => Verdict::TooFewPairs,
            Some(i) if i.contains(1.0) => Verdict::NoDifference,
            Some(i) if (i.low > 1.0) == (better == Better::Higher) => Verdict::Better,
            Some(_) => Verdict::Worse,
        };
        Some(Comparison { best, ratios, median, interval, verdict })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_and_no_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
        assert_eq!(range(&[3.0, 1.0, 2.0]), Some((1.0, 3.0)));
    }

    #[test]
    fn few_values_give_min_to_max_with_its_true_coverage() {
        let i = Interval::of_median(&[1.5, 1.1, 1.3, 1.2, 1.4]).unwrap();
        assert_eq!((i.low, i.high, i.rank), (1.1, 1.5, 1));
        assert!((i.coverage - 0.9375).abs() < 1e-12);
        assert!(i.method().starts_with("min..max of 5 pairs"));
        assert_eq!(Interval::of_median(&[1.0]), None);
        assert!((Interval::of_median(&[1.0, 2.0]).unwrap().coverage - 0.5).abs() < 1e-12);
    }

    /// Ranks and coverages as in published tables of the sign-test interval for a median.
    #[test]
    fn many_values_give_the_binomial_ranks() {
        for (n, rank, coverage) in [(6, 1, 0.96875), (9, 2, 0.9609375), (12, 3, 0.9614), (20, 6, 0.9586)] {
            let values: Vec<f64> = (1..=n).map(f64::from).collect();
            let i = Interval::of_median(&values).unwrap();
            assert_eq!(i.rank, rank, "n = {n}");
            assert_eq!((i.low, i.high), (rank as f64, f64::from(n) + 1.0 - rank as f64));
            assert!((i.coverage - coverage).abs() < 1e-4, "n = {n}: {}", i.coverage);
        }
    }

    #[test]
    fn the_better_of_stock_is_chosen_by_median_and_divided_by_pair_by_pair() {
        let shim = [150.0, 300.0, 150.0];
        let stock = [vec![100.0, 200.0, 100.0], vec![50.0, 250.0, 50.0]];
        let c = Comparison::of_pairs(&shim, &stock, Better::Higher).unwrap();
        assert_eq!((c.best, c.ratios), (0, vec![1.5, 1.5, 1.5]));
        let c = Comparison::of_pairs(&shim, &stock, Better::Lower).unwrap();
        assert_eq!((c.best, c.ratios), (1, vec![3.0, 1.2, 3.0]));
    }

    /// Equal variants whose noise is only in which of the three happens to be ahead.
    #[test]
    fn equal_things_do_not_look_slower_for_having_two_rivals() {
        let shim = [99.0, 101.0, 100.0, 99.0, 101.0];
        let stock = [vec![101.0, 99.0, 100.0, 100.0, 102.0], vec![100.0, 102.0, 101.0, 98.0, 100.0]];
        let c = Comparison::of_pairs(&shim, &stock, Better::Higher).unwrap();
        assert_eq!(c.verdict, Verdict::NoDifference);
    }

    #[test]
    fn no_gain_is_claimed_when_the_interval_holds_one_or_pairs_are_few() {
        let verdict = |shim: &[f64], better| {
            let n = shim.len();
            Comparison::of_pairs(shim, &[vec![50.0; n], vec![100.0; n]], better).unwrap().verdict
        };
        assert_eq!(verdict(&[110.0, 120.0, 130.0, 140.0, 99.0], Better::Higher), Verdict::NoDifference);
        assert_eq!(verdict(&[110.0, 120.0, 130.0, 140.0, 100.0], Better::Higher), Verdict::NoDifference);
        assert_eq!(verdict(&[110.0, 120.0, 130.0, 140.0, 101.0], Better::Higher), Verdict::Better);
        assert_eq!(verdict(&[90.0, 92.0, 93.0, 94.0, 99.0], Better::Higher), Verdict::Worse);
        assert_eq!(verdict(&[150.0, 150.0, 150.0, 150.0], Better::Higher), Verdict::TooFewPairs);
        // Stock's least is 50: less than that is better, more is worse.
        assert_eq!(verdict(&[40.0, 41.0, 42.0, 43.0, 44.0], Better::Lower), Verdict::Better);
        assert_eq!(verdict(&[60.0; 5], Better::Lower), Verdict::Worse);
        assert!(Comparison::of_pairs(&[1.0], &[], Better::Higher).is_none());
        assert!(Comparison::of_pairs(&[], &[vec![]], Better::Higher).is_none());
    }
}
