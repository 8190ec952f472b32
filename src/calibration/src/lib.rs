//! What was measured to be faster, our kernels or the program's own, and for which CPU and ggml.
//!
//! `zen5turbo tune` measures and writes the file, the shim reads it (`ZEN5TURBO_TUNE`). Its format is
//! in `format.rs`; what a calibration must fit, and which of several fits best, in `fit.rs`.

mod fit;
mod format;

use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;

pub use fit::{Differs, Machine, Misfit, fits_build};
pub use format::{BadLine, MAX_BYTES, parse, read};

/// Where the file lies below the user's cache folder, unless it is named.
pub const PLACE: &str = "zen5turbo/tune.txt";

/// The least gain, in hundredths, from which on copies of weights pay ([`Calibration::copies`]): they cost memory and, until
/// they are made, time.
pub const COPIES_PAY: u32 = 105;

/// How many columns a product has. Each regime has a way of computing of its own, in ggml or here: one
/// column by rows, few by rows or panels, many by panels and, in ggml, by other kernels still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Regime {
    /// One: generating a token.
    One = 0,
    /// Two: speculative decoding with one draft token, two slots.
    Two = 1,
    /// 3 and 4.
    Four = 2,
    /// 5 to 8.
    Eight = 3,
    /// 9 to 16.
    Sixteen = 4,
    /// More: reading a prompt.
    Many = 5,
}

impl Regime {
    /// Every regime, in the order of its number.
    pub const ALL: [Self; 6] = [Self::One, Self::Two, Self::Four, Self::Eight, Self::Sixteen, Self::Many];

    /// The regime of a product with `columns` columns.
    #[must_use]
    pub const fn of(columns: usize) -> Self {
        match columns {
            0 | 1 => Self::One,
            2 => Self::Two,
            3 | 4 => Self::Four,
            5..=8 => Self::Eight,
            9..=16 => Self::Sixteen,
            _ => Self::Many,
        }
    }

    /// The name in files and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Two => "2",
            Self::Four => "3-4",
            Self::Eight => "5-8",
            Self::Sixteen => "9-16",
            Self::Many => "many",
        }
    }
}

/// Who computes a product of plain weights.
///
/// The rival is the better of ggml's two layouts, but what is written is a choice between the two that a program can
/// have: weights lie plain for the whole process, or ggml repacks all that it can (`ZEN5TURBO_REPACK=keep`). So
/// repacked kernels that win in one regime and lose in others must not send a product to ggml's plain kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The kernels of this library: clearly faster than ggml's plain ones, or slower than the repacked ones and
    /// not clearly slower than the plain ones.
    Ours,
    /// The original: its plain kernel is clearly faster.
    Stock,
}

impl Choice {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ours, Self::Stock];

    /// The word in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Stock => "stock",
        }
    }
}

/// The wider or the narrower registers of AVX-512.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 512 bits.
    Wide,
    /// 256 bits.
    Narrow,
}

impl Width {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Wide, Self::Narrow];

    /// The word in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wide => "512",
            Self::Narrow => "256",
        }
    }
}

/// One measurement that has decided something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The weights.
    pub weight: WeightType,
    /// The number of columns.
    pub regime: Regime,
    /// Who computes from plain weights.
    pub choice: Choice,
    /// Our time in nanoseconds, at least 1.
    pub ours: u64,
    /// The time of ggml's kernel for plain weights, at least 1.
    pub plain: u64,
    /// The time of ggml's kernel for repacked weights, at least 1; `None` where it has none, or was not measured.
    pub repacked: Option<u64>,
}

impl Measured {
    /// The better time of the original's two.
    #[must_use]
    pub fn rival(&self) -> u64 {
        self.repacked.map_or(self.plain, |repacked| repacked.min(self.plain))
    }
}

/// How products are cut and prefetched, in bytes; `None`: the built-in way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// A packed panel that many columns share, see
    /// [`Blocking::panel_bytes`](zen5turbo_kernels::kernel::Blocking::panel_bytes).
    pub panel: Option<usize>,
    /// Weights that are prefetched before they are packed, see
    /// [`Blocking::prefetch_bytes`](zen5turbo_kernels::kernel::Blocking::prefetch_bytes).
    pub prefetch: Option<usize>,
    /// How far ahead one column without panels prefetches; only on CPUs with a full data path, see
    /// [`GemvPrefetch::rows`](zen5turbo_kernels::prefetch::GemvPrefetch::rows).
    pub ahead: Option<usize>,
}

/// What was measured on one CPU with one build of ggml, for one tier of our kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calibration {
    /// The CPU's brand string, runs of blanks made one; `-` when it has none.
    pub cpu: String,
    /// The build of ggml, as `zen5turbo_ggml::build::identity` tells it, or the first words of that.
    pub ggml: String,
    /// The tier of our kernels.
    pub isa: Isa,
    /// The width that was measured to be the faster one on this CPU.
    pub width: Option<Width>,
    /// Where another cut than the built-in one was measured to be faster.
    pub cut: Cut,
    /// Threads of graphs of one column, where more of them were measured to gain nothing: memory gives no more.
    pub threads: Option<usize>,
    /// The time of a graph of one column that reads its weights from a mapped file, over that of the same graph with
    /// the weights copied onto huge pages, in hundredths, rounded down: 105 where the copy makes it 5 % faster.
    pub copies: Option<u32>,
    /// When and with what it was made, for the reader.
    pub made: Option<String>,
    /// At most one for each type and regime.
    pub measured: Vec<Measured>,
}

/// The contents of a file: at least one calibration, no two of them for the same machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TuneFile {
    /// The latest one last.
    pub calibrations: Vec<Calibration>,
}

impl TuneFile {
    /// Most calibrations that are kept.
    const MOST: usize = 32;

    /// Adds `new`, in the place of one for the same CPU, ggml and tier. The oldest ones go when there are
    /// too many. A width stays known on a CPU until another one is measured.
    pub fn put(&mut self, new: Calibration) {
        self.calibrations.retain(|old| !old.is_for_the_same(&new));
        self.calibrations.push(new);
        let excess = self.calibrations.len().saturating_sub(Self::MOST);
        self.calibrations.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regimes_meet_without_a_gap() {
        let names: Vec<_> = [0, 1, 2, 3, 4, 5, 8, 9, 16, 17, usize::MAX].map(|n| Regime::of(n).name()).into();
        assert_eq!(names, ["1", "1", "2", "3-4", "3-4", "5-8", "5-8", "9-16", "9-16", "many", "many"]);
        for (i, regime) in Regime::ALL.into_iter().enumerate() {
            assert_eq!(regime as usize, i);
        }
    }

    #[test]
    fn the_newest_calibration_takes_the_place_of_its_kind_and_the_oldest_leave() {
        let of = |ggml: String, made: &str| Calibration {
            cpu: "A".into(),
            ggml,
            isa: Isa::Avx2,
            width: None,
            cut: Cut::default(),
            threads: None,
            copies: None,
            made: Some(made.into()),
            measured: Vec::new(),
        };
        let mut file = TuneFile { calibrations: vec![of("1".into(), "first"), of("2".into(), "second")] };
        file.put(of("1".into(), "third"));
        let made = |file: &TuneFile| file.calibrations.iter().map(|c| c.made.clone().unwrap()).collect::<Vec<_>>();
        assert_eq!(made(&file), ["second", "third"]);
        for i in 0..TuneFile::MOST {
            file.put(of(format!("{}", 10 + i), "more"));
        }
        assert_eq!(file.calibrations.len(), TuneFile::MOST);
        assert!(made(&file).iter().all(|made| made == "more"));
    }
}
