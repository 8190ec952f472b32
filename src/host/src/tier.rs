//! Which family of kernels a CPU can run.

use crate::cpu::Cpu;

/// A family of kernels, from the least demanding to the most.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Portable code for any x86-64.
    Scalar = 0,
    /// AVX2, FMA and F16C.
    Avx2 = 1,
    /// [`Tier::Avx2`] and AVX-512 F, BW, DQ, VL and VNNI.
    Avx512Vnni = 2,
}

impl Tier {
    /// The name in statistics and log lines: `scalar`, `avx2` or `avx512vnni`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512vnni",
        }
    }
}

/// The highest tier whose instructions this CPU has and the operating system has enabled; every
/// lower tier runs as well.
#[must_use]
pub fn best_tier(cpu: &Cpu) -> Tier {
    let f = &cpu.features;
    if !(f.avx2 && f.fma && f.f16c) {
        Tier::Scalar
    } else if f.avx512f && f.avx512bw && f.avx512dq && f.avx512vl && f.avx512vnni {
        Tier::Avx512Vnni
    } else {
        Tier::Avx2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Features, XCR0_AVX, tests::zen5};

    fn with(change: impl FnOnce(&mut Features)) -> Tier {
        let mut cpu = zen5();
        change(&mut cpu.features);
        best_tier(&cpu)
    }

    #[test]
    fn every_required_feature_counts() {
        assert_eq!(with(|_| ()), Tier::Avx512Vnni);
        assert_eq!(with(|f| f.avx512f = false), Tier::Avx2);
        assert_eq!(with(|f| f.avx512bw = false), Tier::Avx2);
        assert_eq!(with(|f| f.avx512dq = false), Tier::Avx2);
        assert_eq!(with(|f| f.avx512vl = false), Tier::Avx2);
        assert_eq!(with(|f| f.avx512vnni = false), Tier::Avx2);
        assert_eq!(with(|f| f.avx2 = false), Tier::Scalar);
        assert_eq!(with(|f| f.fma = false), Tier::Scalar);
        assert_eq!(with(|f| f.f16c = false), Tier::Scalar);
    }

    #[test]
    fn the_operating_system_has_a_say() {
        let mut cpu = zen5();
        cpu.features = cpu.claimed.enabled_by(XCR0_AVX);
        assert_eq!(best_tier(&cpu), Tier::Avx2);
        cpu.features = cpu.claimed.enabled_by(0);
        assert_eq!(best_tier(&cpu), Tier::Scalar);
    }
}
