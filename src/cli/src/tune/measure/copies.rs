//! What a copy of weights on huge pages gains over the page cache of their file: whether the shim is to make copies.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use zen5turbo_calibration::COPIES_PAY;
use zen5turbo_kernels::formats::WeightType;

use super::{Progress, Request, Sides, Times, confidence};
use crate::statistics::{Better, Comparison};

/// The types of most weights; the gain is their geometric mean.
pub const TYPES: [WeightType; 3] = [WeightType::Q4K, WeightType::Q8_0, WeightType::Q6K];

/// A copy pays from this gain on.
pub const PAYS: f64 = COPIES_PAY as f64 / 100.0;

/// The numbers of threads: one waits for memory the longest, all of them are what programs use.
fn counts(all: usize) -> impl Iterator<Item = usize> {
    [1, all].into_iter().take(if all == 1 { 1 } else { 2 })
}

/// How many numbers of threads there are at most.
pub const COUNTS: usize = 2;

/// How much there is to do.
pub fn cells(all: usize) -> usize {
    counts(all).count() * TYPES.len()
}

/// Times on small pages of a file, as multiples of those on huge pages.
#[derive(Clone, Copy, Debug)]
pub struct Gain {
    pub threads: usize,
    /// The median of the ratios and the interval around it.
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Gain {
    /// Of times of which the first side read a file, and the second one huge pages.
    fn of(threads: usize, times: &Times) -> Option<Self> {
        let comparison = Comparison::of_pairs(&times.ours, &times.stock, None, Better::Lower, confidence())?;
        let interval = comparison.interval?;
        Some(Self { threads, median: comparison.median, low: interval.low, high: interval.high })
    }
}

/// What copies of weights on huge pages gain over a file.
pub struct Copied {
    pub gains: Vec<Gain>,
    /// Where the file lay.
    pub folder: PathBuf,
}

/// What is written: the smallest gain, in hundredths and rounded down, where it is clear on which side of [`PAYS`] it
/// lies. A copy pays where it does with every number of threads.
pub fn written(gains: &[Gain]) -> Option<u32> {
    let clear = gains.iter().all(|gain| gain.low >= PAYS) || gains.iter().any(|gain| gain.high < PAYS);
    let least = gains.iter().map(|gain| gain.median).min_by(f64::total_cmp).filter(|_| clear)?;
    // A hair more than the product, which may be a hair less than the decimals that were meant.
    Some(((least * 100.0 + 1e-6) as u32).clamp(1, 9999))
}

impl Sides {
    /// The gain with each number of threads, where both sides have our kernels, the first one with its weights in a file.
    /// The inner error is why there is none.
    pub fn gains_of_copies(&mut self, all: usize, progress: &Progress) -> Result<Result<Vec<Gain>, String>> {
        let mut by_count = vec![Vec::new(); counts(all).count()];
        for (done, weight) in TYPES.into_iter().enumerate() {
            let name = weight.ggml_name();
            if let Err(why) = self.fill(weight)? {
                progress.skip(cells(all) - done * counts(all).count());
                return Ok(Err(why));
            }
            for (threads, list) in counts(all).zip(&mut by_count) {
                progress.at("copies on huge pages", &format!("{name}, {threads} of {all} threads"));
                self.both(&Request::Threads { threads })?.map_err(|why| anyhow::anyhow!(why))?;
                let times = self.turns(weight, 1)?;
                self.keep(&json!({ "type": name, "columns": 1, "copies": true, "threads": threads, "ns": times }))?;
                list.push(times);
                progress.done();
            }
        }
        let gains = counts(all).zip(&by_count).map(|(threads, list)| Gain::of(threads, &super::mean(list)?));
        Ok(gains.collect::<Option<Vec<_>>>().ok_or_else(|| "too few times were measured".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::PAIRS;
    use super::*;

    fn gain(low: f64, median: f64, high: f64) -> Gain {
        Gain { threads: 1, median, low, high }
    }

    #[test]
    fn one_thread_is_not_measured_twice() {
        assert_eq!(counts(1).collect::<Vec<_>>(), [1]);
        assert_eq!(counts(16).collect::<Vec<_>>(), [1, 16]);
        assert_eq!((cells(1), cells(16)), (3, 6));
        assert!(counts(usize::MAX).count() <= COUNTS);
    }

    #[test]
    fn the_gain_is_the_median_of_the_ratios_with_its_interval() {
        let times = |factor: f64| (0..PAIRS).map(|pair| 1e6 * factor * f64::from(100 + pair % 3)).collect::<Vec<_>>();
        let gain = Gain::of(4, &Times { ours: times(1.2), stock: times(1.0), ..Times::default() }).unwrap();
        assert_eq!(gain.threads, 4);
        for value in [gain.low, gain.median, gain.high] {
            assert!((value - 1.2).abs() < 1e-9, "{gain:?}");
        }
    }

    #[test]
    fn the_smallest_gain_is_written_where_it_is_clear() {
        let cases = [
            (vec![gain(1.30, 1.34, 1.40)], Some(134)),
            (vec![gain(1.30, 1.34, 1.40), gain(1.05, 1.06, 1.09)], Some(106)),
            (vec![gain(1.30, 1.34, 1.40), gain(0.98, 1.00, 1.02)], Some(100)),
            (vec![gain(1.00, 1.0299, 1.0499)], Some(102)),
            (vec![gain(0.95, 0.97, 0.99)], Some(97)),
            // Which side it lies on is not clear.
            (vec![gain(1.04, 1.08, 1.10)], None),
            (vec![gain(1.00, 1.02, 1.05)], None),
            (vec![gain(1.30, 1.34, 1.40), gain(0.9, 1.06, 1.2)], None),
            // That it does not pay with one of them is enough, whatever the others are.
            (vec![gain(0.8, 1.2, 1.6), gain(0.98, 1.00, 1.02)], Some(100)),
            (Vec::new(), None),
        ];
        for (gains, hundredths) in cases {
            assert_eq!(written(&gains), hundredths, "{gains:?}");
        }
    }

    #[test]
    fn what_is_written_pays_in_the_shim_only_where_it_does_here() {
        for step in 0..2000 {
            let median = 0.95 + f64::from(step) * 1e-4;
            let Some(hundredths) = written(&[gain(median, median, median)]) else { panic!("{median} is clear") };
            assert_eq!(hundredths >= COPIES_PAY, median >= PAYS, "{median}");
        }
    }
}
