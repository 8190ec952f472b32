//! How many threads a graph of one column needs: reading weights stops getting faster before the last thread of many.

use anyhow::Result;
use serde_json::json;
use zen5turbo_kernels::formats::WeightType;

use super::{Progress, Request, Sides, Times, decide, noise};
use zen5turbo_calibration::Choice;

/// Numbers of threads that are tried against all threads.
pub const LADDER: [usize; 16] = [1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384];

/// Types with few and with many bits; each must get by with the number.
pub const TYPES: [WeightType; 2] = [WeightType::Q4K, WeightType::Q8_0];

/// A number of threads is enough where its time is within this of the shortest.
const ENOUGH: f64 = 0.05;

/// Where a number of threads takes longer than all by more than this, fewer are not tried.
const HOPELESS: f64 = 0.5;

/// The numbers to try where `all` threads are the most.
pub fn ladder(all: usize) -> impl DoubleEndedIterator<Item = usize> {
    LADDER.into_iter().filter(move |&threads| threads < all)
}

/// How much there is to do.
pub fn cells(all: usize) -> usize {
    ladder(all).count() * TYPES.len()
}

/// A number of threads, and what its times are of those of all threads.
#[derive(Clone, Copy, Debug)]
struct Rung {
    threads: usize,
    /// The median of the ratios and the interval around it.
    median: f64,
    low: f64,
    high: f64,
    /// It is clearly faster than all threads.
    faster: bool,
}

impl Rung {
    /// `None` where the times permit to say nothing: also where all threads against themselves differ by more than is asked
    /// for, as beside other programs, which hold many threads up more than few.
    fn of(threads: usize, times: &Times) -> Option<Self> {
        let (_, noise) = noise(times)??.around_one();
        if noise > 1.0 + ENOUGH {
            return None;
        }
        let (comparison, choice) = decide(times)?;
        let interval = comparison.interval?;
        let faster = choice == Some(Choice::Ours);
        Some(Self { threads, median: comparison.median, low: interval.low, high: interval.high, faster })
    }
}

/// The smallest number of threads that is clearly as good as the best one; `None`: all of them are needed, or the times
/// are too uncertain.
fn fewest(rungs: &[Rung]) -> Option<usize> {
    let best = rungs.iter().filter(|rung| rung.faster).map(|rung| rung.median).fold(1.0, f64::min);
    rungs.iter().filter(|rung| rung.high <= best * (1.0 + ENOUGH)).map(|rung| rung.threads).min()
}

impl Sides {
    /// How many threads suffice for every one of [`TYPES`], where both sides have our kernels and `all` threads. `None` where
    /// none of the fewer ones is clearly enough.
    pub fn threads_of_one_column(&mut self, all: usize, progress: &Progress) -> Result<Option<usize>> {
        let mut enough = Vec::new();
        for weight in TYPES {
            if ladder(all).next().is_none() || self.fill(weight)?.is_err() {
                progress.skip(ladder(all).count());
                continue;
            }
            let mut rungs = Vec::new();
            let mut left = ladder(all).count();
            for threads in ladder(all).rev() {
                progress.at("threads of one column", &format!("{}, {threads} of {all}", weight.ggml_name()));
                self.ours.ask(&Request::Threads { threads })?;
                self.ours.done()?.map_err(|why| anyhow::anyhow!(why))?;
                let times = self.turns(weight, 1)?;
                let name = weight.ggml_name();
                self.keep(&json!({ "type": name, "columns": 1, "threads": threads, "of": all, "ns": times }))?;
                progress.done();
                left -= 1;
                let rung = Rung::of(threads, &times);
                rungs.extend(rung);
                if rung.is_some_and(|rung| rung.low > 1.0 + HOPELESS) {
                    break;
                }
            }
            progress.skip(left);
            enough.push(fewest(&rungs));
        }
        Ok(needed_by_all(&enough))
    }
}

/// What suffices for each of several types suffices for all of them.
fn needed_by_all(enough: &[Option<usize>]) -> Option<usize> {
    enough.iter().copied().collect::<Option<Vec<_>>>()?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use super::super::PAIRS;
    use super::*;

    const ALL: usize = 16;

    /// What is found with times of `time(threads)`, each off by up to half of `spread`.
    fn found(time: impl Fn(usize) -> f64, spread: f64) -> Option<usize> {
        let mut random = fastrand::Rng::with_seed(11);
        let mut list = |threads: usize| -> Vec<f64> {
            (0..PAIRS).map(|_| 1e6 * time(threads) * (1.0 + spread * (random.f64() - 0.5))).collect()
        };
        let rungs = ladder(ALL).filter_map(|threads| {
            Rung::of(threads, &Times { ours: list(threads), stock: list(ALL), repacked: Vec::new() })
        });
        fewest(&rungs.collect::<Vec<_>>())
    }

    fn until(threads: usize) -> impl Fn(usize) -> f64 {
        move |n| 1.0 / n.min(threads) as f64
    }

    #[test]
    fn the_number_from_which_on_more_gain_nothing_is_found() {
        assert_eq!(found(until(4), 0.02), Some(4));
        assert_eq!(found(until(1), 0.02), Some(1));
        assert_eq!(found(until(12), 0.02), Some(12));
        let still_gaining_a_little = |n: usize| 1.0 / n.min(6) as f64 * (1.0 - 0.002 * n as f64);
        assert_eq!(found(still_gaining_a_little, 0.02), Some(6));
    }

    #[test]
    fn the_best_number_counts_where_all_threads_are_not_the_fastest() {
        let four_are_best = |n: usize| if n <= 4 { 1.0 / n as f64 } else { 0.25 + 0.02 * (n - 4) as f64 };
        assert_eq!(found(four_are_best, 0.02), Some(4));
    }

    #[test]
    fn what_gains_to_the_end_needs_all_threads() {
        assert_eq!(found(until(ALL), 0.02), None);
        assert_eq!(found(|n| if n == ALL { 0.94 } else { 1.0 }, 0.01), None, "6 % are more than enough");
    }

    #[test]
    fn noise_finds_nothing() {
        assert_eq!(found(|_| 1.0, 0.6), None);
        assert_eq!(found(until(4), 0.6), None);
    }

    #[test]
    fn all_threads_that_were_held_up_by_others_prove_nothing() {
        let ours = vec![1e6; PAIRS as usize];
        let stock: Vec<f64> = (0..PAIRS).map(|pair| if pair % 3 == 0 { 9e6 } else { 3e6 }).collect();
        assert!(Rung::of(1, &Times { ours: ours.clone(), stock, ..Times::default() }).is_none());
        assert!(Rung::of(1, &Times { stock: ours.clone(), ours, ..Times::default() }).is_some());
    }

    #[test]
    fn every_type_must_get_by_with_the_number() {
        assert_eq!(needed_by_all(&[Some(4), Some(8)]), Some(8));
        assert_eq!(needed_by_all(&[Some(4), None]), None);
        assert_eq!(needed_by_all(&[]), None);
    }

    #[test]
    fn the_ladder_ends_below_all_threads() {
        assert_eq!(ladder(1).count(), 0);
        assert_eq!(ladder(2).collect::<Vec<_>>(), [1]);
        assert_eq!(ladder(24).collect::<Vec<_>>(), [1, 2, 4, 6, 8, 12, 16]);
        assert_eq!(cells(8), 8);
    }
}
