//! What may be said of one type and regime, as numbers and in a word.

use zen5turbo_calibration::{Choice, Measured, Regime};
use zen5turbo_kernels::formats::WeightType;

/// What may be said of one type and regime.
#[derive(Clone, Debug)]
pub struct Finding {
    pub weight: WeightType,
    pub regime: Regime,
    /// Medians, nanoseconds of a product.
    pub ours: f64,
    pub plain: f64,
    pub repacked: Option<f64>,
    /// Who is clearly faster, ours or ggml's kernel for plain weights.
    pub over_plain: Option<Choice>,
    /// Who is clearly faster, ours or ggml's kernel for repacked weights.
    pub over_repacked: Option<Choice>,
}

impl Finding {
    /// How many times as fast ours is as the better one of ggml's kernels.
    pub fn speed(&self) -> f64 {
        self.repacked.map_or(self.plain, |repacked| repacked.min(self.plain)) / self.ours
    }

    /// Who is to compute from plain weights. Repacked kernels that are faster are no reason to leave a product to ggml's
    /// plain ones: those it would get, not the repacked ones.
    pub fn choice(&self) -> Option<Choice> {
        match (self.over_plain, self.over_repacked) {
            (None, Some(Choice::Stock)) => Some(Choice::Ours),
            (over_plain, _) => over_plain,
        }
    }

    /// Whether ggml's repacked kernel is the fastest of the three.
    pub fn repacked_wins(&self) -> bool {
        self.over_repacked == Some(Choice::Stock) && self.repacked.is_some_and(|repacked| repacked < self.plain)
    }

    /// Whether ours is clearly faster than all that ggml has.
    pub fn ours_wins(&self) -> bool {
        self.over_plain == Some(Choice::Ours) && (self.repacked.is_none() || self.over_repacked == Some(Choice::Ours))
    }

    /// The line of the file, if anything was decided.
    pub fn measured(&self) -> Option<Measured> {
        let ns = |time: f64| (time.round() as u64).max(1);
        Some(Measured {
            weight: self.weight,
            regime: self.regime,
            choice: self.choice()?,
            ours: ns(self.ours),
            plain: ns(self.plain),
            repacked: self.repacked.map(ns),
        })
    }
}

/// Ours as a multiple of the better of ggml's kernels, with who is faster where it is not ours; in brackets where
/// neither is clearly.
pub fn speed(speed: f64, faster: Option<Faster>) -> String {
    match faster {
        Some(Faster::Ours) => format!("{speed:.2}"),
        Some(Faster::Plain) => format!("{speed:.2} stock"),
        Some(Faster::Repacked) => format!("{speed:.2} repacked"),
        None => format!("({speed:.2})"),
    }
}

/// Who is clearly faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faster {
    Ours,
    /// ggml's kernel for plain weights, to which the product is left.
    Plain,
    /// ggml's kernel for repacked weights.
    Repacked,
}

/// One finding.
pub fn cell(finding: &Finding) -> String {
    let faster = if finding.over_plain == Some(Choice::Stock) {
        Some(Faster::Plain)
    } else if finding.repacked_wins() {
        Some(Faster::Repacked)
    } else {
        finding.ours_wins().then_some(Faster::Ours)
    };
    speed(finding.speed(), faster)
}
