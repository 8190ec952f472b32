//! Pairs of turns, ours and the program's own, and what they permit to say.

pub mod threads;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use std::{fmt, thread};

use anyhow::Result;
use serde::Serialize;
use serde_json::json;
use zen5turbo_calibration::{Choice, Measured, Regime, Width};
use zen5turbo_kernels::formats::WeightType;

use super::arm::Arm;
use super::progress::Progress;
use super::worker::Request;
use crate::ab::order;
use crate::record::Jsonl;
use crate::statistics::{Better, CONFIDENCE, Comparison, Interval, Verdict, median};

/// Pairs of each comparison: with a confidence that is corrected for [`MOST`] comparisons, the interval of the
/// median leaves out the three outermost ratios on either side, so that a turn that was held up harms nothing.
const PAIRS: u32 = 24;

/// Comparisons of one measurement: 16 types in 6 regimes, the width, the cuts, and numbers of threads. All of them together keep
/// [`CONFIDENCE`] (Bonferroni): the chance that any of them decides something between equal things is 5 %.
const MOST: usize =
    WeightType::ALL.len() * Regime::ALL.len() + 1 + super::CUTS.len() + threads::LADDER.len() * threads::TYPES.len();

/// Who is taken must be faster by more than this: switching costs something, too (activations are then
/// quantised in two ways).
const MARGIN: f64 = 0.02;

/// The shortest turn, milliseconds.
const TURN_MS: u64 = 5;

/// Between turns: until the threads of the other side no longer spin, see [`super::arm`].
const PAUSE: Duration = Duration::from_millis(2);

/// No further type is begun after this time, so that all ends within two minutes.
const LAST_START: Duration = Duration::from_secs(100);

/// What the width is decided by.
const WIDTH_TYPES: [WeightType; 4] = [WeightType::Q4K, WeightType::Q8_0, WeightType::Q6K, WeightType::F16];
const WIDTH_REGIMES: [Regime; 3] = [Regime::One, Regime::Four, Regime::Many];

/// How much there is to do for the width.
pub const WIDTH_CELLS: usize = WIDTH_TYPES.len() * WIDTH_REGIMES.len();

/// What a cut is decided by: types with few and with many bits, columns that share packed weights.
const BLOCKING_TYPES: [WeightType; 2] = [WeightType::Q4K, WeightType::Q8_0];
const BLOCKING_REGIMES: [Regime; 2] = [Regime::Sixteen, Regime::Many];

/// How much there is to do for one cut.
pub const BLOCKING_CELLS: usize = BLOCKING_TYPES.len() * BLOCKING_REGIMES.len();

/// The columns that stand for a regime: its most, where there is a most.
pub const fn columns(regime: Regime) -> usize {
    match regime {
        Regime::One => 1,
        Regime::Two => 2,
        Regime::Four => 4,
        Regime::Eight => 8,
        Regime::Sixteen => 16,
        Regime::Many => 128,
    }
}

/// The times of one type and regime, nanoseconds of a product, by pair.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Times {
    ours: Vec<f64>,
    stock: Vec<f64>,
}

/// What may be said of one type and regime.
#[derive(Clone, Debug)]
pub struct Finding {
    pub weight: WeightType,
    pub regime: Regime,
    /// Medians, nanoseconds of a product.
    pub ours: f64,
    pub stock: f64,
    /// Who is clearly faster.
    pub choice: Option<Choice>,
}

impl Finding {
    /// How many times as fast ours is.
    pub fn speed(&self) -> f64 {
        self.stock / self.ours
    }

    /// The line of the file, if anything was decided.
    pub fn measured(&self) -> Option<Measured> {
        let ns = |time: f64| (time.round() as u64).max(1);
        let Finding { weight, regime, ours, stock, .. } = *self;
        Some(Measured { weight, regime, choice: self.choice?, ours: ns(ours), stock: ns(stock) })
    }
}

/// Why a type was not measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// A side cannot do it.
    Cannot(String),
    /// There was no time left.
    Late,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Skipped::Cannot(why) => f.write_str(why),
            Skipped::Late => write!(f, "no time was left after {} s", LAST_START.as_secs()),
        }
    }
}

/// The two sides, our kernels first.
pub struct Sides {
    pub ours: Arm,
    pub stock: Arm,
    /// Where every time goes, if asked for.
    pub record: Option<Jsonl>,
}

impl Sides {
    /// Makes threads and memory on both sides.
    pub fn begin(&mut self, threads: usize, bytes: usize) -> Result<()> {
        let request = Request::Begin { threads, bytes };
        self.both(&request)?.map_err(|why| anyhow::anyhow!(why))
    }

    fn both(&mut self, request: &Request) -> Result<Result<(), String>> {
        self.ours.ask(request)?;
        self.stock.ask(request)?;
        let (ours, stock) = (self.ours.done()?, self.stock.done()?);
        Ok(ours.and(stock))
    }

    fn fill(&mut self, weight: WeightType) -> Result<Result<(), String>> {
        self.both(&Request::Weights { name: weight.ggml_name().to_owned() })
    }

    /// All pairs of one type and regime.
    fn pairs(&mut self, weight: WeightType, regime: Regime) -> Result<Times> {
        let columns = columns(regime);
        let times = self.turns(weight, columns)?;
        self.keep(&json!({ "type": weight.ggml_name(), "columns": columns, "ns": times }))?;
        Ok(times)
    }

    /// Records what was measured, if asked for.
    fn keep(&mut self, line: &serde_json::Value) -> Result<()> {
        self.record.as_mut().map_or(Ok(()), |record| record.add(line))
    }

    /// All pairs of one type and number of columns. Every turn is preceded by a pause.
    fn turns(&mut self, weight: WeightType, columns: usize) -> Result<Times> {
        // Memory is touched, and the caches hold what they will.
        self.ours.turn(weight, columns, 0)?;
        self.stock.turn(weight, columns, 0)?;
        let mut times = Times::default();
        for pair in 1..=PAIRS {
            for side in order(pair, 2) {
                thread::sleep(PAUSE);
                let (arm, list) = match side {
                    0 => (&mut self.ours, &mut times.ours),
                    _ => (&mut self.stock, &mut times.stock),
                };
                list.push(arm.turn(weight, columns, TURN_MS)?);
            }
        }
        Ok(times)
    }

    /// Measures every type in every regime; what could not be, and why.
    pub fn measure(
        &mut self,
        types: &[WeightType],
        start: Instant,
        progress: &Progress,
    ) -> Result<(Vec<Finding>, BTreeMap<&'static str, Skipped>)> {
        let (mut findings, mut skipped) = (Vec::new(), BTreeMap::new());
        for &weight in types {
            let name = weight.ggml_name();
            let filled = if start.elapsed() < LAST_START { Some(self.fill(weight)?) } else { None };
            let why = match filled {
                Some(Ok(())) => None,
                Some(Err(why)) => Some(Skipped::Cannot(why)),
                None => Some(Skipped::Late),
            };
            if let Some(why) = why {
                skipped.insert(name, why);
                progress.skip(Regime::ALL.len());
                continue;
            }
            let before = findings.len();
            for regime in Regime::ALL {
                progress.at(name, regime.name());
                findings.extend(finding(weight, regime, &self.pairs(weight, regime)?));
                progress.done();
            }
            progress.type_done(name, &findings[before..]);
        }
        Ok((findings, skipped))
    }

    /// Which width is the faster one, where ours is the narrow side and stock the wide one.
    pub fn width(&mut self, progress: &Progress) -> Result<Option<Width>> {
        let choice = self.over_all("512 or 256 bits", &WIDTH_TYPES, &WIDTH_REGIMES, progress)?;
        Ok(choice.map(|choice| match choice {
            Choice::Ours => Width::Narrow,
            Choice::Stock => Width::Wide,
        }))
    }

    /// Whether our side, which cuts products in another way than the second one, is clearly faster.
    pub fn is_faster(&mut self, progress: &Progress) -> Result<bool> {
        let choice = self.over_all("panels and prefetch", &BLOCKING_TYPES, &BLOCKING_REGIMES, progress)?;
        Ok(choice == Some(Choice::Ours))
    }

    /// Who is clearly faster in the geometric mean over types and regimes.
    fn over_all(
        &mut self,
        what: &'static str,
        types: &[WeightType],
        regimes: &[Regime],
        progress: &Progress,
    ) -> Result<Option<Choice>> {
        let mut all = Vec::new();
        for &weight in types {
            if self.fill(weight)?.is_err() {
                progress.skip(regimes.len());
                continue;
            }
            for &regime in regimes {
                progress.at(what, weight.ggml_name());
                all.push(self.pairs(weight, regime)?);
                progress.done();
            }
        }
        let product = |of: fn(&Times) -> &[f64]| {
            let mean = |pair: usize| all.iter().map(|times| of(times)[pair].ln()).sum::<f64>() / all.len() as f64;
            (0..PAIRS as usize).map(|pair| mean(pair).exp()).collect::<Vec<f64>>()
        };
        if all.is_empty() {
            return Ok(None);
        }
        let whole = Times { ours: product(|t| &t.ours), stock: product(|t| &t.stock) };
        Ok(decide(&whole).and_then(|(_, choice)| choice))
    }
}

fn finding(weight: WeightType, regime: Regime, times: &Times) -> Option<Finding> {
    let (_, choice) = decide(times)?;
    let (ours, stock) = (median(&times.ours)?, median(&times.stock)?);
    Some(Finding { weight, regime, ours, stock, choice })
}

/// What the second side shows against itself.
fn noise(times: &Times) -> Option<Option<Interval>> {
    // Every second pair mirrors the one before it: two turns of the second side follow each other.
    let (one, other): (Vec<f64>, Vec<f64>) = times.stock.chunks_exact(2).map(|two| (two[0], two[1])).unzip();
    Some(Comparison::of_pairs(&other, &one, None, Better::Lower, CONFIDENCE)?.interval)
}

/// Who is clearly the faster one: outside of what the second side shows against itself, and by more than
/// [`MARGIN`].
fn decide(times: &Times) -> Option<(Comparison, Option<Choice>)> {
    let confidence = 1.0 - (1.0 - CONFIDENCE) / MOST as f64;
    let noise = noise(times)?;
    let comparison = Comparison::of_pairs(&times.ours, &times.stock, noise.as_ref(), Better::Lower, confidence)?;
    let choice = comparison.interval.and_then(|interval| match comparison.verdict {
        Verdict::Better if interval.high < 1.0 - MARGIN => Some(Choice::Ours),
        Verdict::Worse if interval.low > 1.0 + MARGIN => Some(Choice::Stock),
        _ => None,
    });
    Some((comparison, choice))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs of times with these factors, each off by up to 1 %.
    fn times(ours: f64, spread: f64) -> Times {
        let mut random = fastrand::Rng::with_seed(7);
        let mut list = |factor: f64| (0..PAIRS).map(|_| 1e6 * factor * (1.0 + spread * (random.f64() - 0.5))).collect();
        Times { ours: list(ours), stock: list(1.0) }
    }

    fn choice(ours: f64, spread: f64) -> Option<Choice> {
        decide(&times(ours, spread)).unwrap().1
    }

    #[test]
    fn only_what_is_clearly_faster_is_chosen() {
        assert_eq!(choice(0.6, 0.02), Some(Choice::Ours));
        assert_eq!(choice(1.4, 0.02), Some(Choice::Stock));
        for (ours, spread) in [(1.0, 0.0), (1.0, 0.02), (0.99, 0.0), (1.01, 0.0), (0.9, 0.5), (1.1, 0.5)] {
            assert_eq!(choice(ours, spread), None, "{ours} {spread}");
        }
    }

    #[test]
    fn three_turns_that_were_held_up_change_nothing_and_four_leave_it_open() {
        let mut one = times(0.6, 0.02);
        for pair in [2, 9, 16] {
            one.ours[pair] = 2e6;
        }
        assert_eq!(decide(&one).unwrap().1, Some(Choice::Ours));
        one.ours[20] = 2e6;
        assert_eq!(decide(&one).unwrap().1, None);
    }

    #[test]
    fn the_pairs_are_enough_for_all_comparisons_together() {
        let (comparison, _) = decide(&times(1.0, 0.02)).unwrap();
        let interval = comparison.interval.expect("so many pairs reach the confidence");
        assert!(1.0 - interval.confidence <= 0.05 / MOST as f64 + 1e-12);
    }

    #[test]
    fn every_regime_is_measured_in_itself() {
        for regime in Regime::ALL {
            assert_eq!(Regime::of(columns(regime)), regime);
        }
    }

    #[test]
    fn a_finding_becomes_a_line_when_it_decides() {
        let found = finding(WeightType::Q4K, Regime::Two, &times(0.5, 0.0)).unwrap();
        assert!((found.speed() - 2.0).abs() < 1e-9);
        let line = found.measured().unwrap();
        assert_eq!((line.choice, line.ours, line.stock), (Choice::Ours, 500_000, 1_000_000));
        assert_eq!(finding(WeightType::Q4K, Regime::Two, &times(1.0, 0.02)).unwrap().measured(), None);
    }
}
