//! From answers to figures: percentiles, rates, and what went wrong.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::client::{Answer, End};
use crate::statistics::Better;

/// A quantity of a scenario. Its name has its unit.
pub type Name = &'static str;

/// Quantities that are compared between arms, which direction is good, and how they are called.
const COMPARED: [(Name, Better, &str); 9] = [
    ("first_token_ms_p50", Better::Lower, "first token, ms, median"),
    ("first_token_ms_p90", Better::Lower, "first token, ms, 90 %"),
    ("first_token_ms_p99", Better::Lower, "first token, ms, 99 %"),
    ("between_tokens_ms_p50", Better::Lower, "between tokens, ms, median"),
    ("between_tokens_ms_p90", Better::Lower, "between tokens, ms, 90 %"),
    ("between_tokens_ms_p99", Better::Lower, "between tokens, ms, 99 %"),
    ("tokens_per_s", Better::Higher, "tokens/s"),
    ("tokens_with_prompts_per_s", Better::Higher, "tokens/s with those of prompts"),
    (HIGHEST_RATE, Better::Higher, "highest rate, requests/s"),
];

/// The highest rate at which the bounds hold.
pub const HIGHEST_RATE: Name = "highest_rate_requests_per_s";

/// 1 where both bounds hold at the rate that was given, else 0.
pub const WITHIN_BOUNDS: Name = "within_bounds";

/// Which direction of a quantity is good; `None` for those that are not compared.
pub fn better(name: &str) -> Option<Better> {
    COMPARED.iter().find(|(known, ..)| *known == name).map(|(_, better, _)| *better)
}

/// A quantity for readers.
pub fn title(name: &str) -> &str {
    match name {
        "requests_per_s" => "requests/s",
        "rate_requests_per_s" => "rate, requests/s",
        WITHIN_BOUNDS => "within the bounds (1: yes, 0: no)",
        _ => COMPARED.iter().find(|(known, ..)| *known == name).map_or(name, |(.., title)| title),
    }
}

/// Values by name, in the order in which they are shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures(Vec<(Name, f64)>);

impl Figures {
    /// Adds a value; what is no number is left out.
    pub fn add(&mut self, name: Name, value: f64) {
        if value.is_finite() {
            self.0.push((name, value));
        }
    }

    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = Name> + '_ {
        self.0.iter().map(|(name, _)| *name)
    }

    /// An object of the values.
    pub fn json(&self) -> Value {
        Value::Object(self.0.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect::<Map<_, _>>())
    }

    /// Time to the first token and between tokens, as percentiles: for those of which there are any.
    pub fn add_latencies(&mut self, answers: &[Answer]) {
        let first: Vec<f64> = answers.iter().filter_map(|answer| answer.first_ms).collect();
        let between: Vec<f64> = answers.iter().flat_map(|answer| answer.gaps_ms.iter().copied()).collect();
        for (values, names) in [(first, 0..3), (between, 3..6)] {
            let sorted = sorted(values);
            for (share, at) in [0.5, 0.9, 0.99].into_iter().zip(names) {
                if let Some(value) = percentile(&sorted, share) {
                    self.add(COMPARED[at].0, value);
                }
            }
        }
    }

    /// Tokens of all answers, by the time in which they were made, prompts included; and with the tokens of prompts that
    /// were not found in the cache.
    pub fn add_throughput(&mut self, counts: &Counts, wall_s: f64) {
        let computed = counts.prompt_tokens.saturating_sub(counts.prompt_tokens_cached);
        self.add("tokens_per_s", counts.tokens as f64 / wall_s);
        self.add("tokens_with_prompts_per_s", (counts.tokens + computed) as f64 / wall_s);
        self.add("requests_per_s", counts.answered as f64 / wall_s);
    }
}

/// Values in their order.
pub fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The smallest value that at least this share of all values does not exceed (the nearest rank): of fewer than 100 values
/// the 99th percentile is the largest. `None` for no values.
pub fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    sorted.get(rank(sorted.len(), share).checked_sub(1)?).copied()
}

/// How many of `n` values may exceed the 99th percentile.
pub fn above_p99(n: usize) -> usize {
    n - rank(n, 0.99)
}

fn rank(n: usize, share: f64) -> usize {
    // A product such as 0.99 * 100 is a hair above or below its whole number.
    ((share * n as f64 - 1e-9).ceil() as usize).clamp(usize::from(n > 0), n)
}

/// What came of some requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub requests: u64,
    /// Answered to the end.
    pub answered: u64,
    /// The client hung up, as it was told to.
    pub cancelled: u64,
    /// Ended here, as a rate was too high.
    pub stopped: u64,
    pub errors: u64,
    /// Asked for and not received, in answers that came to their end.
    pub lost_tokens: u64,
    pub tokens: u64,
    pub prompt_tokens: u64,
    /// Of these, found in the server's cache.
    pub prompt_tokens_cached: u64,
}

impl Counts {
    /// Of these answers.
    pub fn of(answers: &[Answer]) -> Counts {
        let mut counts = Counts::default();
        for answer in answers {
            counts.add(&Counts {
                requests: 1,
                answered: u64::from(answer.end == End::Whole),
                cancelled: u64::from(answer.end == End::Cancelled),
                stopped: u64::from(answer.end == End::Stopped),
                errors: u64::from(matches!(answer.end, End::Failed(_))),
                lost_tokens: answer.lost,
                tokens: answer.tokens,
                prompt_tokens: answer.prompt_tokens,
                prompt_tokens_cached: answer.prompt_tokens_cached,
            });
        }
        counts
    }

    /// Adds those of more requests.
    pub fn add(&mut self, more: &Counts) {
        self.requests += more.requests;
        self.answered += more.answered;
        self.cancelled += more.cancelled;
        self.stopped += more.stopped;
        self.errors += more.errors;
        self.lost_tokens += more.lost_tokens;
        self.tokens += more.tokens;
        self.prompt_tokens += more.prompt_tokens;
        self.prompt_tokens_cached += more.prompt_tokens_cached;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let of = |share| percentile(&hundred, share).unwrap();
        assert_eq!((of(0.5), of(0.9), of(0.99), of(1.0), of(0.0)), (50.0, 90.0, 99.0, 100.0, 1.0));
        assert_eq!(percentile(&hundred[..99], 0.99), Some(99.0), "the largest of 99");
        assert_eq!(percentile(&hundred[..3], 0.5), Some(2.0));
        assert_eq!(percentile(&hundred[..2], 0.5), Some(1.0));
        assert_eq!(percentile(&[7.0], 0.99), Some(7.0));
        assert_eq!(percentile(&[], 0.5), None);
        assert_eq!(sorted(vec![3.0, 1.0, 2.0]), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn one_of_a_hundred_may_exceed_the_99th_percentile() {
        assert_eq!([0, 1, 24, 99, 100, 199, 200, 1000].map(above_p99), [0, 0, 0, 0, 1, 1, 2, 10]);
        for n in 1..500 {
            let values: Vec<f64> = (0..n).map(|i| i as f64).collect();
            let p99 = percentile(&values, 0.99).unwrap();
            assert_eq!(values.iter().filter(|value| **value > p99).count(), above_p99(n), "{n}");
        }
    }

    fn answer(first: f64, gaps: &[f64], end: End) -> Answer {
        let tokens = gaps.len() as u64 + 1;
        let (lost, prompt_tokens, prompt_tokens_cached) = (u64::from(end == End::Whole), 10, 4);
        Answer { first_ms: Some(first), gaps_ms: gaps.to_vec(), tokens, prompt_tokens, prompt_tokens_cached, lost, end }
    }

    #[test]
    fn answers_become_figures_and_counts() {
        let answers = [
            answer(30.0, &[1.0, 3.0], End::Whole),
            answer(10.0, &[2.0], End::Cancelled),
            Answer { end: End::Failed("refused".to_owned()), ..Answer::stopped() },
        ];
        let mut figures = Figures::default();
        figures.add_latencies(&answers);
        assert_eq!(figures.get("first_token_ms_p50"), Some(10.0));
        assert_eq!(figures.get("first_token_ms_p99"), Some(30.0));
        assert_eq!(figures.get("between_tokens_ms_p50"), Some(2.0));
        let counts = Counts::of(&answers);
        assert_eq!((counts.requests, counts.answered, counts.cancelled, counts.errors), (3, 1, 1, 1));
        assert_eq!((counts.tokens, counts.lost_tokens), (5, 1));
        figures.add_throughput(&counts, 2.0);
        assert_eq!(figures.get("tokens_per_s"), Some(2.5));
        assert_eq!(figures.get("tokens_with_prompts_per_s"), Some((5.0 + 12.0) / 2.0));
        assert_eq!(figures.json()["tokens_per_s"], 2.5);
        let mut none = Figures::default();
        none.add_latencies(&[]);
        none.add_throughput(&Counts::default(), 0.0);
        assert_eq!(none, Figures::default(), "no answers, no figures");
    }

    #[test]
    fn every_compared_quantity_has_its_unit_in_its_name() {
        for (name, ..) in COMPARED {
            assert!(name.contains("_ms") || name.contains("_per_s"), "{name}");
            assert!(better(name).is_some() && title(name) != name);
        }
        assert!(better("requests").is_none());
    }
}
