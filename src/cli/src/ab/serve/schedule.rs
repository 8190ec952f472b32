//! When requests arrive: a Poisson process, which is what many clients make that know nothing of each other.

use std::time::Duration;

/// The arrivals of `n` requests at `rate` a second, from the start on. The gaps are exponential. The same seed gives the
/// same arrivals in another measure of time at every rate, so that rates differ in nothing else.
pub fn arrivals(seed: u64, n: usize, rate: f64) -> Vec<Duration> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut at = 0.0;
    let mut next = || {
        // In 0..1, without 1: the logarithm is finite.
        at -= (1.0 - random.f64()).ln();
        Duration::from_secs_f64(at / rate)
    };
    (0..n).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_have_the_rate_and_the_spread_of_a_poisson_process() {
        let at = arrivals(1, 20_000, 50.0);
        assert!(at.is_sorted());
        let gaps: Vec<f64> = at.windows(2).map(|two| (two[1] - two[0]).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        assert!((mean * 50.0 - 1.0).abs() < 0.03, "{mean}");
        // A standard deviation as large as the mean, and 1 - 1/e of the gaps below it.
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((deviation / mean - 1.0).abs() < 0.03, "{deviation}");
        let below = gaps.iter().filter(|gap| **gap < mean).count() as f64 / gaps.len() as f64;
        assert!((below - 0.632).abs() < 0.02, "{below}");
        // Arrivals in a second are independent: their number has a variance as large as its mean.
        let mut counts = vec![0.0; 390];
        at.iter().filter_map(|at| Some(at.as_secs() as usize).filter(|s| *s < 390)).for_each(|s| counts[s] += 1.0);
        let mean = counts.iter().sum::<f64>() / 390.0;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 390.0;
        assert!((0.8..1.2).contains(&(variance / mean)), "{variance} {mean}");
    }

    #[test]
    fn a_seed_gives_the_same_arrivals_and_another_rate_only_stretches_them() {
        assert_eq!(arrivals(7, 9, 2.0), arrivals(7, 9, 2.0));
        assert_ne!(arrivals(7, 9, 2.0), arrivals(8, 9, 2.0));
        let (slow, fast) = (arrivals(7, 9, 1.0), arrivals(7, 12, 4.0));
        for (slow, fast) in slow.iter().zip(&fast) {
            assert!((slow.as_secs_f64() / fast.as_secs_f64() - 4.0).abs() < 1e-3);
        }
    }
}
