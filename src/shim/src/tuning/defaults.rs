//! The built-in choices, per weight type, kernel tier and regime.
//!
//! Everything is taken over unless it was measured to lose: a losing entry is `Stock` and has the
//! ratio (our time / the original's), the machine and the date beside it.

use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;

use super::Regime;
use zen5turbo_calibration::Choice::{self, Ours, Stock};

/// The choices of one type on one tier, in the order of [`Regime::ALL`].
type PerRegime = [Choice; Regime::ALL.len()];

/// No entry loses.
const WINS: PerRegime = [Ours; Regime::ALL.len()];

/// Not measured yet: left to the original until it is.
const UNMEASURED: PerRegime = [Stock; Regime::ALL.len()];

/// The choices of one weight type.
pub struct Row {
    /// Its name in ggml.
    pub weight: &'static str,
    /// With AVX2.
    avx2: PerRegime,
    /// With AVX-512 VNNI in 256-bit registers.
    vnni256: PerRegime,
    /// With AVX-512 VNNI in 512-bit registers.
    avx512: PerRegime,
    /// With portable code, where the user asked for it. Otherwise that tier runs only on a CPU
    /// without AVX2, and there it declines everything: ggml's SSE code is faster.
    scalar: PerRegime,
}

const fn row(weight: &'static str, avx2: PerRegime, vnni256: PerRegime, avx512: PerRegime, scalar: PerRegime) -> Row {
    Row { weight, avx2, vnni256, avx512, scalar }
}

/// The table.
#[rustfmt::skip] // one line per type
pub static TABLE: &[Row] = &[
    //             AVX2        VNNI 256    AVX-512     scalar, forced
    row("q4_0",    WINS,       WINS,       WINS,       WINS),
    row("q4_1",    WINS,       WINS,       WINS,       WINS),
    row("q5_0",    WINS,       WINS,       WINS,       WINS),
    row("q5_1",    WINS,       WINS,       WINS,       WINS),
    row("q8_0",    WINS,       WINS,       WINS,       WINS),
    row("q2_K",    WINS,       WINS,       WINS,       WINS),
    row("q3_K",    WINS,       WINS,       WINS,       WINS),
    row("q4_K",    WINS,       WINS,       WINS,       WINS),
    row("q5_K",    WINS,       WINS,       WINS,       WINS),
    row("q6_K",    WINS,       WINS,       WINS,       WINS),
    row("iq4_nl",  WINS,       WINS,       WINS,       WINS),
    row("iq4_xs",  WINS,       WINS,       WINS,       WINS),
    row("mxfp4",   WINS,       WINS,       WINS,       WINS),
    row("f16",     WINS,       UNMEASURED, WINS,       UNMEASURED),
    row("bf16",    WINS,       UNMEASURED, WINS,       UNMEASURED),
    row("f32",     UNMEASURED, UNMEASURED, UNMEASURED, UNMEASURED),
];

/// The built-in choice; `forced`: the user asked for the portable kernels. A type without a row was
/// not measured.
pub fn choice(isa: Isa, weight: WeightType, regime: Regime, forced: bool) -> Choice {
    let Some(row) = TABLE.iter().find(|row| row.weight == weight.ggml_name()) else { return Stock };
    let choices = match isa {
        Isa::Scalar if !forced => return Stock,
        Isa::Scalar => row.scalar,
        Isa::Avx2 => row.avx2,
        Isa::Vnni256 => row.vnni256,
        Isa::Avx512 => row.avx512,
    };
    choices[regime as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_type_has_one_row() {
        for weight in WeightType::ALL {
            let rows = TABLE.iter().filter(|row| row.weight == weight.ggml_name()).count();
            assert_eq!(rows, 1, "{weight:?} needs one row in tuning::defaults::TABLE");
        }
    }

    #[test]
    fn portable_kernels_are_used_only_when_asked_for() {
        for regime in Regime::ALL {
            for weight in WeightType::ALL {
                assert_eq!(choice(Isa::Scalar, weight, regime, false), Stock, "{weight:?}");
            }
            assert_eq!(choice(Isa::Scalar, WeightType::Q4_0, regime, true), Ours);
        }
    }

    #[test]
    fn being_forced_concerns_the_portable_tier_alone() {
        for isa in [Isa::Avx2, Isa::Vnni256, Isa::Avx512] {
            for weight in WeightType::ALL {
                for regime in Regime::ALL {
                    assert_eq!(choice(isa, weight, regime, false), choice(isa, weight, regime, true));
                }
            }
        }
    }
}
