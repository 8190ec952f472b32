//! Teacher-forced log-probabilities of a text, and how far two servers are apart in them.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use crate::client::{Client, token};

/// Log-probabilities that are asked for at each position; the text's own token is nearly always among them.
const TOP: usize = 200;

/// What a server makes of the text at some positions: the most probable next tokens.
pub struct Scores(Vec<HashMap<u32, f64>>);

/// How far two servers are apart: differences of the log-probability (natural logarithm) of the token that the
/// text has there, without their signs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Distance {
    /// Over the positions.
    pub mean: f64,
    /// Standard error of the mean.
    pub error: f64,
    /// The largest.
    pub max: f64,
    /// Positions that both have a log-probability for.
    pub positions: usize,
}

/// Lengths of the beginnings of the text after which the next token is scored, and whether the beginning before
/// may be re-used: one token at a time as in generation, small batches, and whole prompts.
fn positions(most: usize) -> impl Iterator<Item = (usize, bool)> {
    let single = (33..65).map(|n| (n, true));
    let batches = (1..16).map(|n| (64 + 12 * n, true));
    let whole = (1..3).map(|n| (150 * n, false));
    single.chain(batches).chain(whole).filter(move |&(n, _)| n < most)
}

impl Scores {
    /// Of a text, with at most as many tokens as a slot's context; nothing else may run on the server.
    pub fn ask(client: &Client, text: &[u32], context: usize) -> Result<Self> {
        let mut scores = Vec::new();
        for (length, reuse) in positions(text.len().min(context)) {
            let request = json!({
                "prompt": &text[..length], "n_predict": 1, "n_probs": TOP, "temperature": 0.0, "ignore_eos": false,
                "cache_prompt": reuse, "id_slot": 0, "return_tokens": true,
            });
            let answer = client.complete(&request)?;
            scores.push(top(&answer["completion_probabilities"][0]["top_logprobs"])?);
        }
        Ok(Self(scores))
    }

    /// How far `other` is from this, at the same positions of the same text.
    pub fn distance(&self, other: &Self, text: &[u32]) -> Distance {
        let pairs = self.0.iter().zip(&other.0).zip(positions(usize::MAX));
        let differences: Vec<f64> =
            pairs.filter_map(|((a, b), (n, _))| Some((a.get(&text[n])? - b.get(&text[n])?).abs())).collect();
        Distance::of(&differences)
    }

    /// Positions at which any of the log-probabilities differs, be it in its last bit.
    pub fn differing(&self, other: &Self) -> usize {
        self.0.iter().zip(&other.0).filter(|(a, b)| a != b).count()
    }
}

fn top(list: &Value) -> Result<HashMap<u32, f64>> {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    ensure!(list.len() == TOP, "{} log-probabilities, expected {TOP}", list.len());
    list.iter().map(|entry| Ok((token(&entry["id"])?, entry["logprob"].as_f64().unwrap_or(f64::NAN)))).collect()
}

impl Distance {
    fn of(differences: &[f64]) -> Self {
        let n = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / n.max(1.0);
        let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        let max = differences.iter().copied().fold(0.0, f64::max);
        Self { mean, error: (variance / n.max(1.0)).sqrt(), max, positions: differences.len() }
    }

    /// An error unless this distance from stock is within `own`, that of stock's own paths: the mean, but for
    /// three standard errors of the difference; the largest, but for a factor of three, since it is one position.
    pub fn check(&self, own: &Self) -> Result<()> {
        let mean = own.mean + 3.0 * own.error.hypot(self.error);
        // NaN must fail.
        ensure!(
            self.mean <= mean && self.max <= 3.0 * own.max && self.positions + 5 >= own.positions,
            "log-probabilities are {:.5} from stock's in the mean, {:.4} at most, at {} positions; expected at most \
             {mean:.5} and {:.4} (stock's own paths: {:.5} +- {:.5}, {:.4} at most, {} positions)",
            self.mean,
            self.max,
            self.positions,
            3.0 * own.max,
            own.mean,
            own.error,
            own.max,
            own.positions
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_is_compared_with_that_of_stock() {
        let own = Distance::of(&[0.01, 0.03, 0.02, 0.02].repeat(10));
        assert!((own.mean - 0.02).abs() < 1e-12 && own.max == 0.03 && own.positions == 40);
        assert!(Distance::of(&[0.021; 40]).check(&own).is_ok());
        for wrong in [[0.05; 40].to_vec(), [f64::NAN; 40].to_vec(), [0.02; 4].to_vec()] {
            assert!(Distance::of(&wrong).check(&own).is_err());
        }
    }

    #[test]
    fn positions_ask_for_tokens_that_the_text_has() {
        assert!(positions(512).all(|(n, _)| n < 512));
        assert_eq!(positions(512).count(), 49);
    }
}
