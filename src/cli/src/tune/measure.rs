//! Pairs of turns, ours and the program's own, and what they permit to say.

pub mod copies;
pub mod threads;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fmt, thread};

use anyhow::Result;
use serde::Serialize;
use serde_json::json;
use zen5turbo_calibration::{Choice, Regime, Width};
use zen5turbo_kernels::formats::WeightType;

use super::arm::Arm;
use super::cuts::CUTS;
use super::finding::Finding;
use super::products::Layout;
use super::progress::Progress;
use super::worker::Request;
use crate::interleave::order;
use crate::record::Jsonl;
use crate::statistics::{Better, CONFIDENCE, Comparison, Interval, Verdict, median};

/// Pairs of each comparison: with a confidence that is corrected for [`MOST`] comparisons, the interval of the
/// median leaves out the three outermost ratios on either side, so that a turn that was held up harms nothing.
const PAIRS: u32 = 26;

/// Comparisons of one measurement: 16 types in 6 regimes with both layouts, the width, the cuts, numbers of threads, and copies. All of
/// them together keep [`CONFIDENCE`] (Bonferroni): the chance that any of them decides something between equal things is 5 %.
const MOST: usize = 2 * WeightType::ALL.len() * Regime::ALL.len()
    + 1
    + CUTS.len()
    + threads::LADDER.len() * threads::TYPES.len()
    + copies::COUNTS;

/// Who is taken must be faster by more than this: switching costs something, too (activations are then
/// quantised in two ways).
const MARGIN: f64 = 0.02;

/// The shortest turn, milliseconds.
const TURN_MS: u64 = 5;

/// Between turns: until the threads of the other side no longer spin, see [`super::arm`].
const PAUSE: Duration = Duration::from_millis(2);

/// No further type, nor the measurement of copies, is begun after this time, so that all ends within two minutes.
pub const LAST_START: Duration = Duration::from_secs(100);

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
    /// The second side, from plain weights.
    stock: Vec<f64>,
    /// The second side, from repacked weights; empty where it has no kernel for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    repacked: Vec<f64>,
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
    /// Whether the second side has repacked weights beside the plain ones now.
    pub repacked: bool,
}

impl Sides {
    /// Makes threads and memory on both sides; on the first one in a file in the folder `file`, if that is named.
    pub fn begin(&mut self, threads: usize, bytes: usize, file: Option<&Path>) -> Result<()> {
        self.ours.ask(&Request::Begin { threads, bytes, file: file.map(Path::to_owned) })?;
        self.stock.ask(&Request::Begin { threads, bytes, file: None })?;
        let (ours, stock) = (self.ours.done()?, self.stock.done()?);
        ours.and(stock).map_err(|why| anyhow::anyhow!(why))
    }

    fn both(&mut self, request: &Request) -> Result<Result<(), String>> {
        self.ours.ask(request)?;
        self.stock.ask(request)?;
        let (ours, stock) = (self.ours.done()?, self.stock.done()?);
        Ok(ours.and(stock))
    }

    /// Weights of this type, on the second side in both layouts where ggml has both.
    fn fill(&mut self, weight: WeightType) -> Result<Result<(), String>> {
        let filled = self.both(&Request::Weights { name: weight.ggml_name().to_owned() })?;
        self.repacked = filled.is_ok() && self.stock.repack()?;
        Ok(filled)
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
        let sides = if self.repacked { 3 } else { 2 };
        for side in 0..sides {
            self.turn(side, weight, columns, 0)?;
        }
        let mut times = Times::default();
        for pair in 1..=PAIRS {
            for side in order(pair, sides) {
                thread::sleep(PAUSE);
                let ns = self.turn(side, weight, columns, TURN_MS)?;
                [&mut times.ours, &mut times.stock, &mut times.repacked][side].push(ns);
            }
        }
        Ok(times)
    }

    /// Nanoseconds of a product on our side (0), or on the second one from plain (1) or repacked weights (2).
    fn turn(&mut self, side: usize, weight: WeightType, columns: usize, ms: u64) -> Result<f64> {
        match side {
            0 => self.ours.turn(weight, Layout::Plain, columns, ms),
            1 => self.stock.turn(weight, Layout::Plain, columns, ms),
            _ => self.stock.turn(weight, Layout::Repacked, columns, ms),
        }
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

    /// Whether our side, which cuts products in another way than the second one, is clearly faster; with `one_column`
    /// where only that can differ.
    pub fn is_faster(&mut self, one_column: bool, progress: &Progress) -> Result<bool> {
        let (what, regimes) = if one_column {
            ("fetching ahead", &[Regime::One][..])
        } else {
            ("panels and prefetch", &BLOCKING_REGIMES[..])
        };
        let choice = self.over_all(what, &BLOCKING_TYPES, regimes, progress)?;
        progress.skip(BLOCKING_CELLS - BLOCKING_TYPES.len() * regimes.len());
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
        let (_, choice) = mean(&all).and_then(|times| decide(&times)).unzip();
        Ok(choice.flatten())
    }
}

/// The geometric mean of times, pair by pair, without those from repacked weights; `None` of nothing.
fn mean(all: &[Times]) -> Option<Times> {
    let of = |times: fn(&Times) -> &[f64]| {
        let mean = |pair: usize| all.iter().map(|one| times(one)[pair].ln()).sum::<f64>() / all.len() as f64;
        (0..PAIRS as usize).map(|pair| mean(pair).exp()).collect::<Vec<f64>>()
    };
    (!all.is_empty()).then(|| Times { ours: of(|t| &t.ours), stock: of(|t| &t.stock), repacked: Vec::new() })
}

/// The confidence of each comparison.
fn confidence() -> f64 {
    1.0 - (1.0 - CONFIDENCE) / MOST as f64
}

fn finding(weight: WeightType, regime: Regime, times: &Times) -> Option<Finding> {
    let (_, over_plain) = decide(times)?;
    let noise = noise(times)?;
    let over_repacked = clearly_faster(&times.ours, &times.repacked, noise.as_ref()).and_then(|(_, choice)| choice);
    let (ours, plain) = (median(&times.ours)?, median(&times.stock)?);
    Some(Finding { weight, regime, ours, plain, repacked: median(&times.repacked), over_plain, over_repacked })
}

/// What the second side shows against itself.
fn noise(times: &Times) -> Option<Option<Interval>> {
    // Every second pair mirrors the one before it: two turns of the second side follow each other.
    let (one, other): (Vec<f64>, Vec<f64>) = times.stock.chunks_exact(2).map(|two| (two[0], two[1])).unzip();
    Some(Comparison::of_pairs(&other, &one, None, Better::Lower, CONFIDENCE)?.interval)
}

/// Who is clearly the faster one.
fn decide(times: &Times) -> Option<(Comparison, Option<Choice>)> {
    clearly_faster(&times.ours, &times.stock, noise(times)?.as_ref())
}

/// Who is clearly the faster one: outside of the noise, which is what the second side shows against itself, and by more
/// than [`MARGIN`].
fn clearly_faster(ours: &[f64], stock: &[f64], noise: Option<&Interval>) -> Option<(Comparison, Option<Choice>)> {
    let comparison = Comparison::of_pairs(ours, stock, noise, Better::Lower, confidence())?;
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
        Times { ours: list(ours), stock: list(1.0), repacked: Vec::new() }
    }

    /// With repacked weights as well.
    fn against(ours: f64, repacked: f64) -> Finding {
        let times = Times { repacked: times(repacked, 0.02).ours, ..times(ours, 0.02) };
        finding(WeightType::Q4K, Regime::Two, &times).unwrap()
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
        assert_eq!((line.choice, line.ours, line.plain, line.repacked), (Choice::Ours, 500_000, 1_000_000, None));
        assert_eq!(finding(WeightType::Q4K, Regime::Two, &times(1.0, 0.02)).unwrap().measured(), None);
    }

    /// The choice is between kernels for plain weights; the better of ggml's layouts is what ours is measured by.
    #[test]
    fn faster_repacked_kernels_send_nothing_to_the_plain_ones() {
        use Choice::{Ours, Stock};
        for (ours, repacked, choice, speed, ours_wins, repacked_wins) in [
            (0.5, 0.7, Some(Ours), 1.4, true, false),
            (0.7, 0.5, Some(Ours), 0.71, false, true),
            (1.0, 0.5, Some(Ours), 0.5, false, true),
            (1.4, 0.5, Some(Stock), 0.36, false, true),
            (1.4, 1.2, Some(Stock), 0.71, false, false),
            (1.0, 1.5, None, 1.0, false, false),
            (0.7, 0.7, Some(Ours), 1.0, false, false),
        ] {
            let found = against(ours, repacked);
            let label = format!("{ours} {repacked}");
            assert_eq!(found.choice(), choice, "{label}");
            assert!((found.speed() - speed).abs() < 0.03, "{label}: {}", found.speed());
            assert_eq!((found.ours_wins(), found.repacked_wins()), (ours_wins, repacked_wins), "{label}");
        }
        let line = against(0.5, 0.7).measured().unwrap();
        assert!(line.repacked.is_some_and(|ns| ns.abs_diff(700_000) < 20_000), "{line:?}");
    }
}
