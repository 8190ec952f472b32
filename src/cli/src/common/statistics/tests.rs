//! Tests of the statistics, with simulated machines of known noise.

use super::*;

#[test]
fn median_of_odd_even_and_no_values() {
    assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    assert_eq!(median(&[7.0]), Some(7.0));
    assert_eq!(median(&[]), None);
    assert_eq!(range(&[3.0, 1.0, 2.0]), Some((1.0, 3.0)));
}

/// Ranks and coverages as in published tables of the sign-test interval for a median.
#[test]
fn the_exact_interval_has_the_binomial_ranks() {
    for (n, k, covers) in [(6, 1, 0.96875), (9, 2, 0.9609375), (12, 3, 0.9614), (20, 6, 0.9586)] {
        assert_eq!(rank(n, 0.95), Some(k), "n = {n}");
        assert!((coverage(n, k) - covers).abs() < 1e-4, "n = {n}: {}", coverage(n, k));
    }
    assert_eq!(rank(5, 0.95), None, "5 values cover their median with 93.75 % at most");
    assert_eq!(rank(MIN_PAIRS as usize, CONFIDENCE), Some(1));
}

#[test]
fn an_interval_holds_the_median_is_repeatable_and_never_narrower_than_the_exact_one() {
    let values: Vec<f64> = (0..12).map(|i| 1.0 + f64::from((i * 7) % 12) / 100.0).collect();
    let i = Interval::of_median(&values, 0.95).unwrap();
    assert_eq!(Some(i), Interval::of_median(&values, 0.95));
    let sorted = sorted(&values);
    assert!(i.low <= sorted[2] && i.high >= sorted[9], "{i:?}");
    assert!(i.contains(median(&values).unwrap()));
    let wider = Interval::of_median(&values, 0.99).unwrap();
    assert!(wider.low <= i.low && wider.high >= i.high, "{wider:?} {i:?}");
    assert_eq!(Interval::of_median(&values[..5], 0.95), None);
    assert_eq!(Interval::of_median(&[], 0.95), None);
}

#[test]
fn the_noise_band_reaches_as_far_below_one_as_above() {
    let band = |low, high| Interval { low, high, confidence: 0.95, n: 9 }.around_one();
    assert_eq!(band(0.5, 1.25), (0.5, 2.0));
    assert_eq!(band(1.1, 1.25), (0.8, 1.25));
    assert_eq!(band(1.0, 1.0), (1.0, 1.0));
}

#[test]
fn looks_are_few_fixed_and_corrected_for_their_number() {
    let looks = Looks::up_to(24);
    assert_eq!((1..=24).filter(|&n| looks.at(n)).collect::<Vec<_>>(), [8, 12, 18, 24]);
    assert!((looks.confidence() - 0.9875).abs() < 1e-12);
    assert!(looks.rule(0.01).contains("8, 12, 18, 24 pairs only"), "{}", looks.rule(0.01));
    assert!(looks.rule(0.01).contains("98.75 %"));
    assert_eq!(Looks::up_to(3), Looks::fixed(3));
    assert!((Looks::fixed(9).confidence() - CONFIDENCE).abs() < 1e-12);
    assert!(Looks::fixed(5).rule(0.01).contains("too few"));
    assert!(rank(8, Looks::up_to(60).confidence()).is_some(), "the first of 6 looks can end the run");
}

#[test]
fn a_large_effect_needs_no_narrow_interval() {
    let i = Interval { low: 1.30, high: 1.50, confidence: 0.95, n: 9 };
    assert!(precise_enough(1.40, &i, 0.01));
    let i = Interval { low: 0.95, high: 1.07, confidence: 0.95, n: 9 };
    assert!(!precise_enough(1.01, &i, 0.01));
    let i = Interval { low: 0.995, high: 1.005, confidence: 0.95, n: 9 };
    assert!(precise_enough(1.0, &i, 0.01));
}

#[test]
fn the_better_of_stock_is_chosen_by_its_median() {
    let (a, b) = ([100.0, 200.0, 100.0], [50.0, 250.0, 50.0]);
    assert_eq!(better_of(&[&a, &b], Better::Higher), Some(0));
    assert_eq!(better_of(&[&a, &b], Better::Lower), Some(1));
    assert_eq!(better_of(&[], Better::Lower), None);
}

#[test]
fn a_claim_needs_an_interval_without_one_and_outside_the_noise() {
    let quiet = Interval { low: 0.999, high: 1.001, confidence: 0.95, n: 6 };
    let loud = Interval { low: 0.9, high: 1.05, confidence: 0.95, n: 6 };
    let verdict = |arm: &[f64], noise: Option<&Interval>, better| {
        Comparison::of_pairs(arm, &vec![100.0; arm.len()], noise, better, 0.95).unwrap().verdict
    };
    let faster = [104.0, 105.0, 106.0, 105.0, 104.0, 106.0];
    assert_eq!(verdict(&faster, Some(&quiet), Better::Higher), Verdict::Better);
    assert_eq!(verdict(&faster, Some(&quiet), Better::Lower), Verdict::Worse);
    assert_eq!(verdict(&faster, Some(&loud), Better::Higher), Verdict::WithinNoise);
    assert_eq!(verdict(&faster, None, Better::Higher), Verdict::TooFewPairs, "no A/A check, no claim");
    assert_eq!(verdict(&faster[..5], Some(&quiet), Better::Higher), Verdict::TooFewPairs);
    let slower = [94.0, 95.0, 96.0, 95.0, 94.0, 96.0];
    assert_eq!(verdict(&slower, Some(&quiet), Better::Higher), Verdict::Worse);
    assert_eq!(
        verdict(&[110.0, 120.0, 130.0, 140.0, 110.0, 99.0], Some(&quiet), Better::Higher),
        Verdict::NoDifference
    );
    assert!(Comparison::of_pairs(&[], &[], Some(&quiet), Better::Higher, 0.95).is_none());
    let broken = Comparison::of_pairs(&[1.0, 2.0], &[0.0, 1.0], None, Better::Higher, 0.95).unwrap();
    assert_eq!(broken.ratios, [2.0], "a pair without a usable value is left out");
}

/// A machine as they are: slow drift, noise that lasts over some runs, and now and then a run that
/// somebody else's load has slowed down.
struct Machine {
    random: fastrand::Rng,
    drift: f64,
    lasting: f64,
}

impl Machine {
    fn new(seed: u64) -> Self {
        Machine { random: fastrand::Rng::with_seed(seed), drift: 0.0, lasting: 0.0 }
    }

    /// Sum of uniform numbers: near enough to a normal one of standard deviation 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.random.f64()).sum::<f64>() - 6.0
    }

    /// The speed that the next run of something of speed `true_speed` shows.
    fn run(&mut self, true_speed: f64) -> f64 {
        self.drift += 0.004 * self.normal();
        self.lasting = 0.8 * self.lasting + 0.006 * self.normal();
        let own = 0.008 * self.normal();
        let load = if self.random.f64() < 0.05 { 0.15 * self.random.f64() } else { 0.0 };
        true_speed * (self.drift + self.lasting + own - load).exp()
    }
}

/// The verdict, and the pairs it took, of a measurement of stock, an arm of `speed`, and stock again.
fn simulated(seed: u64, speed: f64) -> (Verdict, u32) {
    let mut machine = Machine::new(seed);
    let speeds = [100.0, 100.0 * speed, 100.0];
    let looks = Looks::up_to(24);
    let mut values = [vec![], vec![], vec![]];
    for pair in 1..=looks.max() {
        for arm in crate::interleave::order(pair, speeds.len()) {
            values[arm].push(machine.run(speeds[arm]));
        }
        if !looks.at(pair) {
            continue;
        }
        let confidence = looks.confidence();
        let noise = Comparison::of_pairs(&values[2], &values[0], None, Better::Higher, confidence).unwrap();
        let c =
            Comparison::of_pairs(&values[1], &values[0], noise.interval.as_ref(), Better::Higher, confidence).unwrap();
        let enough = c.interval.is_some_and(|i| precise_enough(c.median, &i, 0.01));
        if enough || pair == looks.max() {
            return (c.verdict, pair);
        }
    }
    unreachable!("the last look ends it")
}

fn is_claim(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Better | Verdict::Worse)
}

#[test]
fn a_thing_against_itself_on_a_noisy_machine_shows_no_difference_in_19_of_20_measurements() {
    let claims = (0..200).filter(|&seed| is_claim(simulated(seed, 1.0).0)).count();
    assert!(claims <= 10, "{claims} of 200");
}

#[test]
fn a_slowdown_of_5_percent_is_found_in_19_of_20_measurements() {
    let found = (0..100).filter(|&seed| simulated(seed, 0.95).0 == Verdict::Worse).count();
    assert!(found >= 95, "{found} of 100");
}

#[test]
fn a_quiet_machine_ends_at_the_first_look_and_a_noisy_one_goes_on() {
    let pairs: Vec<u32> = (0..20).map(|seed| simulated(seed, 1.5).1).collect();
    assert!(pairs.iter().all(|&n| n == 8), "a gain of 50 % needs no more: {pairs:?}");
    assert!((0..20).any(|seed| simulated(seed, 1.0).1 > 8));
}
