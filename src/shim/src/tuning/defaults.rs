//! The built-in choices for each weight type, kernel tier and regime, from measurements of `zen5turbo tune`.
//!
//! An entry is the result of a comparison with ggml's kernels for plain weights. [`decision`] makes a choice from it.

use zen5turbo_calibration::Regime;
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::width::DataPath;

use super::decision::{Circumstances, Decision};

/// The result of a comparison with ggml's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// The kernel of this library is clearly faster, and computes.
    Faster,
    /// There is no clear difference. Products of quantised weights are computed here, because they share their
    /// quantised activations with other products. Products of float weights have nothing to share, and are left to
    /// ggml.
    Even,
    /// ggml's kernel is clearly faster, and computes.
    Slower,
    /// Untested. The kernel of this library computes only if the user names kernels (`ZEN5TURBO_KERNELS`). Otherwise
    /// ggml computes, and the statistics say `unmeasured`.
    Unmeasured,
}

/// The entries of one type on one tier, in the order of [`Regime::ALL`]: 1, 2, 3-4, 5-8, 9-16 columns, many.
type PerRegime = [Entry; Regime::ALL.len()];

use Entry::{Even as E, Faster as F, Slower as S};

/// Faster for every number of columns.
const WINS: PerRegime = [F; Regime::ALL.len()];

/// Faster, but no clear difference for one column.
const EVEN_1: PerRegime = [E, F, F, F, F, F];

/// Faster, but slower for one column.
const LOST_1: PerRegime = [S, F, F, F, F, F];

/// No entry was measured.
const UNMEASURED: PerRegime = [Entry::Unmeasured; Regime::ALL.len()];

/// Of IQ2 and IQ3 without 512-bit registers, where no grid fits in registers: iq2_xxs, iq3_xxs, iq3_s with AVX2 0.81, 0.50,
/// 0.51 with one column, (1.48), 0.99, 0.93 with two, 1.32, 1.61, 1.67 with four, about even with more (Zen 4, 2026-11-30,
/// one run of each tier beside other work). iq2_xs and iq2_s are not measured there and have the same entries.
const GRID: PerRegime = [S, E, F, E, E, E];

/// The results for one weight type. On Zen 4 with two threads: float types in two runs on each tier; quantised types in
/// two runs with 256 bits (but Q3_K, IQ4_XS, Q4_1, Q5_0, Q5_1 with AVX2 in one run) and in one run with 512 bits. With
/// one column, kernels of 256 bits are slower there: Q6_K has 0.64 to 0.70 of ggml's speed (AVX2 once 0.88), Q8_0 0.73
/// to 0.82 (AVX2 once 1.56, disturbed), Q2_K 0.79 to 0.84, Q4_K 0.81 to 0.88.
struct Row {
    /// Its name in ggml.
    weight: &'static str,
    /// With AVX2. It was measured on two machines that have AVX-512 but did not use it. They do not agree on one
    /// column, nor on floats: generation is 1.14 to 1.85 times as fast as with ggml's kernels on Emerald Rapids
    /// (2026-11-21), and 0.64 to 0.88 times as fast on Zen 4 (a ggml built for Haswell, 2026-11-30). This counts as no
    /// clear difference.
    avx2: PerRegime,
    /// With AVX-512 VNNI in 256-bit registers: Zen 4, a ggml built for it, 2026-11-30.
    vnni256: PerRegime,
    /// With AVX-512 VNNI in 512-bit registers, on a CPU that splits 512-bit operations: Zen 4, a ggml built for it,
    /// 2026-11-30. Floats were measured again with prefetching, in one run, from 1 to many columns: f16 0.85, (1.17),
    /// 1.18, 1.25, 1.18, (1.15); bf16 (0.98), (1.11), 1.18, 1.22, 1.31, 1.41; f32 (1.00), (1.21), 1.18, (1.17), 1.25,
    /// 1.38. Figures in brackets are not clear.
    split: PerRegime,
    /// With AVX-512 VNNI in 512-bit registers, on a CPU that does not split 512-bit operations: Zen 5, 2026-11-29. With
    /// two threads, 82 of 96 are faster and none is slower (`bench/records/2026-11-29-zen5-tune.txt`). With one thread,
    /// F16 with one column has 0.74 of ggml's speed (`2026-11-29-zen5-llama-bench.csv`). IQ2 and IQ3 are not measured
    /// there. They have the entries of `split`, where they are 1.26 to 4.55 times as fast (Zen 4, 2026-11-30,
    /// `2026-11-30-amd-epyc-iq.md`).
    full: PerRegime,
}

const fn row(weight: &'static str, avx2: PerRegime, vnni256: PerRegime, split: PerRegime, full: PerRegime) -> Row {
    Row { weight, avx2, vnni256, split, full }
}

/// The table. Portable code has no column, because it is untested against ggml's SSE code.
#[rustfmt::skip] // one line per type
static TABLE: &[Row] = &[
    //             AVX2                VNNI 256            split               full
    row("q4_0",    EVEN_1,             EVEN_1,             WINS,               WINS),
    row("q4_1",    EVEN_1,             WINS,               WINS,               WINS),
    row("q5_0",    EVEN_1,             EVEN_1,             WINS,               WINS),
    row("q5_1",    EVEN_1,             EVEN_1,             WINS,               WINS),
    row("q8_0",    EVEN_1,             LOST_1,             EVEN_1,             EVEN_1),
    row("q2_K",    EVEN_1,             LOST_1,             WINS,               WINS),
    row("q3_K",    EVEN_1,             EVEN_1,             WINS,               WINS),
    row("q4_K",    EVEN_1,             LOST_1,             WINS,               WINS),
    row("q5_K",    EVEN_1,             LOST_1,             WINS,               WINS),
    row("q6_K",    EVEN_1,             LOST_1,             WINS,               EVEN_1),
    row("iq4_nl",  EVEN_1,             WINS,               WINS,               WINS),
    row("iq4_xs",  EVEN_1,             EVEN_1,             WINS,               WINS),
    row("mxfp4",   EVEN_1,             EVEN_1,             WINS,               WINS),
    row("iq2_xxs", GRID,               GRID,               WINS,               WINS),
    row("iq2_xs",  GRID,               GRID,               WINS,               WINS),
    row("iq2_s",   GRID,               GRID,               WINS,               WINS),
    row("iq3_xxs", GRID,               GRID,               WINS,               WINS),
    row("iq3_s",   GRID,               GRID,               WINS,               WINS),
    // Measured in 512 bits on the split path only (`2026-11-30-amd-epyc-low-bit`). The other columns are taken over from it:
    // from two columns on ours is 1.6 to 82 times as fast there. With fewer bits one column counts as no clear difference.
    row("iq1_s",   EVEN_1,             EVEN_1,             EVEN_1,             EVEN_1),
    row("iq1_m",   EVEN_1,             EVEN_1,             EVEN_1,             EVEN_1),
    row("tq1_0",   EVEN_1,             EVEN_1,             LOST_1,             EVEN_1),
    row("tq2_0",   EVEN_1,             EVEN_1,             WINS,               WINS),
    row("nvfp4",   EVEN_1,             EVEN_1,             WINS,               WINS),
    row("q1_0",    EVEN_1,             EVEN_1,             WINS,               WINS),
    row("q2_0",    WINS,               WINS,               WINS,               WINS),
    row("f16",     [E, E, E, E, E, E], [S, E, S, S, S, E], [S, E, F, F, F, F], [S, E, F, F, E, F]),
    row("bf16",    [E, E, E, E, E, F], [S, E, S, S, S, E], [E, E, F, F, F, F], [E, E, E, E, E, F]),
    row("f32",     [E, E, S, S, E, F], [E, E, S, S, S, F], [E, E, F, E, F, F], [E, E, E, E, F, F]),
];

/// The built-in choice. A type without a row is unmeasured.
pub fn decision(isa: Isa, weight: WeightType, regime: Regime, here: Circumstances) -> Decision {
    let entries = TABLE.iter().find(|row| row.weight == weight.ggml_name()).map(|row| match (isa, here.path) {
        (Isa::Scalar, _) => UNMEASURED,
        (Isa::Avx2, _) => row.avx2,
        (Isa::Vnni256, _) => row.vnni256,
        (Isa::Avx512, DataPath::Split) => row.split,
        (Isa::Avx512, DataPath::Full) => row.full,
    });
    match entries.unwrap_or(UNMEASURED)[regime as usize] {
        Entry::Faster => Decision::Ours,
        Entry::Even if weight.block().0 > 1 => Decision::Ours,
        Entry::Even => Decision::Even,
        Entry::Slower => Decision::Stock,
        Entry::Unmeasured if here.asked => Decision::Ours,
        Entry::Unmeasured => Decision::Unmeasured,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: [DataPath; 2] = [DataPath::Split, DataPath::Full];

    fn of(isa: Isa, weight: WeightType, path: DataPath, asked: bool) -> [Decision; Regime::ALL.len()] {
        Regime::ALL.map(|regime| decision(isa, weight, regime, Circumstances { path, asked }))
    }

    #[test]
    fn every_weight_type_has_one_row_in_which_all_tiers_with_vectors_are_measured() {
        for weight in WeightType::ALL {
            let rows: Vec<_> = TABLE.iter().filter(|row| row.weight == weight.ggml_name()).collect();
            let [row] = rows[..] else { panic!("{weight:?} needs one row in tuning::defaults::TABLE") };
            let all = [row.avx2, row.vnni256, row.split, row.full].concat();
            assert!(!all.contains(&Entry::Unmeasured), "{weight:?}");
        }
    }

    /// An unmeasured choice depends on the user's setting, and has its own reason.
    #[test]
    fn what_is_unmeasured_is_taken_only_when_it_is_asked_for() {
        for path in PATHS {
            for weight in WeightType::ALL {
                assert_eq!(of(Isa::Scalar, weight, path, false), [Decision::Unmeasured; 6], "{weight:?}");
                assert_eq!(of(Isa::Scalar, weight, path, true), [Decision::Ours; 6], "{weight:?}");
            }
        }
    }

    #[test]
    fn naming_kernels_changes_nothing_that_was_measured() {
        for isa in [Isa::Avx2, Isa::Vnni256, Isa::Avx512] {
            for (weight, path) in WeightType::ALL.into_iter().flat_map(|weight| PATHS.map(|path| (weight, path))) {
                assert_eq!(of(isa, weight, path, false), of(isa, weight, path, true), "{weight:?}");
            }
        }
    }

    #[test]
    fn without_a_clear_difference_quantised_weights_are_taken_and_floats_are_left() {
        for (weight, expected) in [(WeightType::Q8_0, Decision::Ours), (WeightType::F32, Decision::Even)] {
            assert_eq!(of(Isa::Avx512, weight, DataPath::Full, true)[0], expected);
        }
    }

    #[test]
    fn the_data_path_decides_only_in_wide_registers() {
        let [split, full] = PATHS.map(|path| of(Isa::Avx512, WeightType::Bf16, path, false));
        assert_eq!((split[2], full[2]), (Decision::Ours, Decision::Even));
        for isa in [Isa::Avx2, Isa::Vnni256] {
            for weight in WeightType::ALL {
                assert_eq!(of(isa, weight, DataPath::Split, false), of(isa, weight, DataPath::Full, false));
            }
        }
    }
}
