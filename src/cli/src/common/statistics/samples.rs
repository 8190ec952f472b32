//! Two sets of samples that have nothing to do with each other: how much larger one is than the other.

use super::{Interval, sorted};

/// Every value of `b` over every value of `a`, sorted. Their median is the Hodges-Lehmann estimate of how
/// many times `a` is what `b` is.
pub fn ratios(a: &[f64], b: &[f64]) -> Vec<f64> {
    let positive = |values: &[f64]| values.iter().copied().filter(|v| *v > 0.0).collect::<Vec<_>>();
    let a = positive(a);
    sorted(&positive(b).iter().flat_map(|b| a.iter().map(move |a| b / a)).collect::<Vec<_>>())
}

impl Interval {
    /// The interval of the ratio of two independent sets of samples, of which `ratios` are all pairs: the
    /// inversion of the exact rank-sum test (Moses), which needs nothing but samples of the same
    /// distribution up to a factor. `None` where so few samples cannot reach the confidence.
    pub fn of_samples(ratios: &[f64], sizes: (usize, usize), confidence: f64) -> Option<Interval> {
        let n = ratios.len();
        let outside =
            outside(sizes, (1.0 - confidence) / 2.0).filter(|k| *k > 0 && 2 * k <= n && n == sizes.0 * sizes.1)?;
        Some(Interval { low: ratios[outside - 1], high: ratios[n - outside], confidence, n: sizes.0.min(sizes.1) })
    }
}

/// The largest `k` with `P(U <= k - 1) <= tail` for the rank sum statistic of equal things, 0 for none.
fn outside((a, b): (usize, usize), tail: f64) -> Option<usize> {
    let counts = counts(a, b);
    let all: f64 = counts.iter().sum();
    let mut below = 0.0;
    Some(
        counts
            .iter()
            .take_while(|&&ways| {
                below += ways;
                below <= tail * all
            })
            .count(),
    )
}

/// In how many ways `a` and `b` samples can be ordered so that `U` is 0, 1, 2 ...: those of `a` larger than
/// one of `b`, counted (Mann and Whitney's recursion over the largest sample).
fn counts(a: usize, b: usize) -> Vec<f64> {
    let most = a * b;
    // For each number of samples of `b`, as the samples of `a` become more.
    let mut ways = vec![vec![0.0; most + 1]; b + 1];
    ways.iter_mut().for_each(|ways| ways[0] = 1.0);
    for _ in 0..a {
        for j in 1..=b {
            for u in (0..=most).rev() {
                // The largest is one of `a`, which is above all `j`, or one of `b`.
                let from_a = if u >= j { ways[j][u - j] } else { 0.0 };
                ways[j][u] = from_a + ways[j - 1][u];
            }
        }
    }
    ways.swap_remove(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_counted_as_in_the_tables() {
        // All of C(a + b, a) orders, symmetric.
        for (a, b, all) in [(1, 1, 2.0), (3, 2, 10.0), (5, 5, 252.0), (10, 10, 184_756.0)] {
            let counts = counts(a, b);
            assert_eq!(counts.iter().sum::<f64>(), all, "{a} {b}");
            assert!(counts.iter().eq(counts.iter().rev()));
        }
        assert_eq!(counts(2, 2), [1.0, 1.0, 2.0, 1.0, 1.0]);
        // The critical values of the two-sided test at 5 %: 2 for 5 and 5, 23 for 10 and 10.
        assert_eq!(outside((5, 5), 0.025), Some(3));
        assert_eq!(outside((10, 10), 0.025), Some(24));
    }

    #[test]
    fn an_interval_holds_the_ratio_and_needs_enough_samples() {
        let a: Vec<f64> = (0..10).map(|i| 100.0 + f64::from(i)).collect();
        let b: Vec<f64> = a.iter().map(|v| v * 1.2).collect();
        let ratios = ratios(&a, &b);
        assert_eq!(ratios.len(), 100);
        let interval = Interval::of_samples(&ratios, (10, 10), 0.95).unwrap();
        assert!(interval.contains(1.2) && !interval.contains(1.0), "{interval:?}");
        assert!(Interval::of_samples(&ratios, (10, 10), 0.9999).unwrap().half_width() > interval.half_width());
        let few = super::ratios(&a[..3], &b[..3]);
        assert_eq!(Interval::of_samples(&few, (3, 3), 0.95), None, "C(6, 3) = 20 orders reach 90 %");
        assert_eq!(Interval::of_samples(&[], (0, 0), 0.95), None);
    }

    #[test]
    fn equal_things_with_long_tails_show_a_difference_in_no_more_than_one_of_20_comparisons() {
        let mut random = fastrand::Rng::with_seed(7);
        // A time that is lengthened now and then, as on a shared machine.
        let mut samples = || -> Vec<f64> {
            (0..12)
                .map(|_| 100.0 + random.f64() + if random.u8(..4) == 0 { 40.0 * random.f64() } else { 0.0 })
                .collect()
        };
        let mut shows = |_: &usize| {
            let (a, b) = (samples(), samples());
            !Interval::of_samples(&ratios(&a, &b), (12, 12), 0.95).unwrap().contains(1.0)
        };
        let wrong = (0..1000).filter(&mut shows).count();
        // 50 are expected at most; 7 are a standard deviation.
        assert!((20..=70).contains(&wrong), "{wrong} of 1000");
    }

    #[test]
    fn what_is_not_positive_has_no_ratio() {
        assert_eq!(ratios(&[1.0, 0.0, -1.0], &[2.0, f64::NAN]), [2.0]);
    }
}
