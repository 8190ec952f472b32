//! From paired runs to what they support, by the rules of `zen5turbo ab`.

use std::collections::BTreeMap;

use super::contents::{Arm, At, Said, Speed, Spread};
use crate::statistics::{Better, Comparison, Verdict, better_of, median, range};

/// Runs of all arms of one test: names in the order in which they came, and values by pair.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    arms: Vec<(String, BTreeMap<u32, f64>)>,
}

/// What one test is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Test {
    pub model: String,
    pub kind: String,
    pub test: String,
    pub threads: u32,
    pub unit: String,
    pub build: String,
}

impl Runs {
    /// Adds a value of an arm in a pair.
    pub fn add(&mut self, arm: &str, pair: u32, value: f64) {
        let index = self.arms.iter().position(|(name, _)| name == arm).unwrap_or_else(|| {
            self.arms.push((arm.to_owned(), BTreeMap::new()));
            self.arms.len() - 1
        });
        self.arms[index].1.insert(pair, value);
    }

    /// Every arm against the better of stock, in the pairs that have both of stock and this arm. `None` without stock, or
    /// without another arm.
    pub fn compare(&self, at: At, test: Test, confidence: f64) -> Option<Speed> {
        let is_stock = |name: &str| name == "stock" || name.starts_with("stock repack");
        let stock: Vec<usize> = (0..self.arms.len()).filter(|&i| is_stock(&self.arms[i].0)).collect();
        let again = self.arms.iter().position(|(name, _)| name == "stock again");
        let better = if test.unit == "tokens/s" { Better::Higher } else { Better::Lower };
        let all: Vec<Vec<f64>> = stock.iter().map(|&i| self.arms[i].1.values().copied().collect()).collect();
        let reference = stock[better_of(&all.iter().map(Vec::as_slice).collect::<Vec<_>>(), better)?];
        // Stock's default, which `ab` runs again, is the last of the two.
        let noise = again.and_then(|again| {
            let (a, b) = self.in_pairs(again, *stock.last()?);
            Comparison::of_pairs(&a, &b, None, better, confidence)?.interval
        });
        let mut arms = Vec::new();
        for (i, (name, _)) in self.arms.iter().enumerate().filter(|(i, _)| !stock.contains(i) && Some(*i) != again) {
            let (mine, stocks) = self.in_pairs(i, reference);
            let Some(c) = Comparison::of_pairs(&mine, &stocks, noise.as_ref(), better, confidence) else { continue };
            let said = match c.verdict {
                Verdict::Better => Said::Better,
                Verdict::Worse => Said::Worse,
                Verdict::NoDifference | Verdict::WithinNoise => Said::NoDifference,
                Verdict::TooFewPairs if c.interval.is_some() => Said::NoCheck,
                Verdict::TooFewPairs => Said::TooFew,
            };
            arms.push(Arm {
                name: name.clone(),
                values: Spread::of(&mine)?,
                pairs: c.ratios.len(),
                ratio: c.median,
                interval: c.interval.map(|i| (i.low, i.high)),
                said,
                bytes_per_token: None,
            });
        }
        if arms.is_empty() {
            return None;
        }
        let Test { model, kind, test, threads, unit, build } = test;
        let values: Vec<f64> = self.arms[reference].1.values().copied().collect();
        let stock = (self.arms[reference].0.clone(), Spread::of(&values)?);
        let noise = noise.map(|noise| noise.around_one());
        Some(Speed { at, model, kind, test, threads, unit, build, stock, noise, arms })
    }

    /// Values of two arms in the pairs that both have.
    fn in_pairs(&self, a: usize, b: usize) -> (Vec<f64>, Vec<f64>) {
        let (a, b) = (&self.arms[a].1, &self.arms[b].1);
        a.iter().filter_map(|(pair, value)| Some((*value, *b.get(pair)?))).unzip()
    }
}

impl Spread {
    /// Of some values; `None` for none.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let (low, high) = range(values)?;
        Some(Spread { low, median: median(values)?, high })
    }

    /// Of one value.
    pub fn one(value: f64) -> Spread {
        Spread { low: value, median: value, high: value }
    }
}
